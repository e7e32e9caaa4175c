//! The guard that counts instructions says the right thing of every scene, and
//! reads what it writes. (That counts are counts is callgrind's promise.)

#[path = "../benches/guard/mod.rs"]
mod guard;

use std::collections::BTreeMap;

use guard::{Book, Circumstances, Entry, Verdict};

fn entry(instructions: u64, spread_percent: f64) -> Entry {
    Entry {
        instructions,
        spread_percent,
    }
}

fn book(scenes: &[(&str, Entry)]) -> Book {
    let named = |(name, entry): &(&str, Entry)| ((*name).to_owned(), *entry);
    Book {
        counted_with: Circumstances {
            rustc: "rustc 1.0 (\"quoted\")".to_owned(),
            machine: "abacus-linux".to_owned(),
            build: "by hand".to_owned(),
        },
        scenes: scenes.iter().map(named).collect(),
    }
}

fn verdicts(book: &Book, counts: &[(&str, u64)]) -> Vec<(String, Verdict)> {
    let counts: BTreeMap<String, Entry> = counts
        .iter()
        .map(|(name, count)| ((*name).to_owned(), entry(*count, 0.0)))
        .collect();
    let lines = book.judge(&counts);
    lines
        .into_iter()
        .map(|line| (line.name, line.verdict))
        .collect()
}

#[test]
fn a_little_more_or_less_passes_and_no_more_than_that() {
    let book = book(&[
        ("sync", entry(100_000, 0.0)),
        ("store", entry(100_000, 5.0)),
    ]);
    for (name, count, verdict) in [
        ("sync", 105_000, Verdict::Same),
        ("sync", 105_001, Verdict::Grew),
        ("sync", 90_000, Verdict::Same),
        ("sync", 89_999, Verdict::Shrank),
        ("store", 110_000, Verdict::Same),
        ("store", 110_001, Verdict::Grew),
        ("store", 85_000, Verdict::Same),
        ("store", 84_999, Verdict::Shrank),
    ] {
        let other = if name == "sync" { "store" } else { "sync" };
        let judged = verdicts(&book, &[(name, count), (other, 100_000)]);
        let expected = (name.to_owned(), verdict);
        assert!(judged.contains(&expected), "{name} {count}: {judged:?}");
        let same = (other.to_owned(), Verdict::Same);
        assert!(judged.contains(&same), "{other} is as it was: {judged:?}");
    }
}

#[test]
fn scenes_that_come_and_go_are_told_of() {
    let book = book(&[("a", entry(1, 0.0)), ("b", entry(2, 0.0))]);
    let expected = [
        ("a", Verdict::Same),
        ("b", Verdict::Gone),
        ("c", Verdict::New),
    ];
    let expected = expected.map(|(name, verdict)| (name.to_owned(), verdict));
    assert_eq!(verdicts(&book, &[("a", 1), ("c", 3)]), expected);
    assert!(
        expected
            .iter()
            .filter(|(_, verdict)| verdict.passes())
            .count()
            == 1
    );
}

#[test]
fn the_book_reads_what_it_writes() {
    let written = book(&[
        ("frame/decode Write, 900 bytes", entry(6_396, 0.0)),
        ("store/read of one row", entry(22_550, 5.0)),
    ]);
    let read: Book = toml::from_str(&written.text()).unwrap();
    assert_eq!(read, written);
    let judged = read.judge(&written.scenes);
    assert!(judged.iter().all(|line| line.growth_percent() == Some(0.0)));
}

#[test]
fn the_committed_book_is_one() {
    let text = include_str!("../benches/instructions.toml");
    let book: Book = toml::from_str(text).unwrap();
    assert!(!book.scenes.is_empty());
    assert_eq!(book.text(), text, "it is written by --accept, not by hand");
}

#[test]
fn a_few_instructions_of_a_small_scene_say_nothing() {
    let book = book(&[("sync", entry(1_000, 0.0))]);
    for (count, verdict) in [
        (1_000 + guard::NOISE_INSTRUCTIONS, Verdict::Same),
        (1_001 + guard::NOISE_INSTRUCTIONS, Verdict::Grew),
        (1_000 - guard::NOISE_INSTRUCTIONS, Verdict::Same),
        (999 - guard::NOISE_INSTRUCTIONS, Verdict::Shrank),
    ] {
        let judged = verdicts(&book, &[("sync", count)]);
        assert_eq!(judged, [("sync".to_owned(), verdict)], "{count}");
    }
}
