//! Every classic mistake, as a real module, against the check: which law it
//! breaks, that the seed replays it, that what is shown is small; and the page
//! that tells of them, `docs/mistakes.md`, which is written from these.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::tests::report_with;
use super::{Counterexample, Law, Verdict};

/// What finds each of them again. The first one writes the page.
const SEEDS: [u64; 5] = [1, 2, 3, 42, 1 << 40];
/// How many cases are enough.
const CASES: u64 = 400;
/// Fuel of a call: a loop without end is told from a long one soon enough.
const FUEL: u64 = 60_000_000;
/// What takes memory without end burns more before it has it all.
const HOG_FUEL: u64 = 2_000_000_000;

/// A guest of `reconcilers/bad/mistakes/examples`, and what it breaks.
struct Mistake {
    name: &'static str,
    /// Any of these: which one is met first is up to the seed.
    laws: &'static [Law],
    /// Words of the hint, or of the failure.
    says: &'static str,
    fuel: u64,
}

const fn mistake(name: &'static str, laws: &'static [Law], says: &'static str) -> Mistake {
    Mistake {
        name,
        laws,
        says,
        fuel: FUEL,
    }
}

const MISTAKES: [Mistake; 16] = {
    use Law::{Closed, Idempotent, OrderFree, Regroupable};
    [
        mistake(
            "concatenation",
            &[Idempotent, OrderFree],
            "one after the other",
        ),
        mistake("sum", &[Idempotent, Regroupable], "counted twice"),
        mistake("mean", &[Idempotent, Regroupable], "a mean"),
        mistake("first_wins", &[OrderFree], "comes first"),
        mistake("no_tie_break", &[OrderFree], "tie-break"),
        mistake("keeps_duplicates", &[Idempotent], "duplicates"),
        mistake(
            "float_total",
            &[OrderFree, Regroupable, Idempotent],
            "floats",
        ),
        mistake(
            "hash_order",
            &[OrderFree, Idempotent, Regroupable],
            "another order",
        ),
        mistake("truncation", &[Idempotent, Regroupable], ""),
        mistake("ignores_deletes", &[Regroupable, Idempotent], "deletions"),
        mistake("unreadable_output", &[Closed], "write what you read"),
        mistake("endless_loop", &[Closed], "ran out of fuel"),
        Mistake {
            fuel: HOG_FUEL,
            ..mistake("memory_hog", &[Closed], "ran out of memory")
        },
        mistake("endless_recursion", &[Closed], "stack"),
        mistake("giant_output", &[Closed], "bytes of output"),
        mistake("traps_on_third", &[Closed], "unreachable"),
    ]
};

fn below_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl Mistake {
    fn module(&self) -> Vec<u8> {
        let path = format!("reconcilers/prebuilt/test/mistakes/{}.wasm", self.name);
        fs::read(below_root(&path)).expect("scripts/build-reconcilers.sh builds it")
    }

    /// How its file opens: the mistake, and why it looks right.
    fn told(&self) -> (String, String) {
        let path = format!("reconcilers/bad/mistakes/examples/{}.rs", self.name);
        let source = fs::read_to_string(below_root(&path)).expect("its source");
        let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
        let text: Vec<&str> = lines.map(str::trim).collect();
        let mut paragraphs = text
            .split(|line| line.is_empty())
            .map(|lines| lines.join(" "));
        (
            paragraphs.next().unwrap_or_default(),
            paragraphs.next().unwrap_or_default(),
        )
    }

    fn found(&self, seed: u64, cases: u64) -> Box<Counterexample> {
        let report = report_with(&self.module(), seed, cases, self.fuel);
        match report.verdict {
            Verdict::Violated(found) => found,
            other => panic!("{}, seed {seed}: {other:?}", self.name),
        }
    }
}

#[test]
fn every_mistake_is_found_on_every_seed_and_shown_small() {
    for mistake in &MISTAKES {
        for seed in SEEDS {
            let found = mistake.found(seed, CASES);
            let told = format!("{}, seed {seed}: {found}", mistake.name);
            assert!(mistake.laws.contains(&found.law), "{told}");
            let text = found.to_string();
            assert!(text.contains(mistake.says), "{told}");
            assert!(found.siblings.len() <= 3, "{told}");
            let sizes = found.siblings.iter().filter_map(|one| one.value.as_ref());
            assert!(sizes.map(Vec::len).max() <= Some(48), "{told}");
            // The seed finds the same again, byte for byte.
            assert_eq!(mistake.found(seed, found.case + 1), found);
        }
    }
}

/// The page, from the sources and what the check says of the modules.
fn page() -> String {
    let mut page = String::from(
        "# Mistakes, and what the law check says of them

Each of these is a module that somebody could have written in good faith, under
[reconcilers/bad/mistakes](../reconcilers/bad/mistakes/examples). The check runs
over the compiled modules; what it says is written here by
`cargo test --lib -- --ignored write_the_page`, and a test fails when this page is
no longer what it says.

| mistake | law that breaks | what it looks like to the check |
| --- | --- | --- |
",
    );
    let mut details = String::new();
    for mistake in &MISTAKES {
        let found = mistake.found(SEEDS[0], CASES);
        let (title, why) = mistake.told();
        let name = mistake.name;
        let law = found.law.name();
        let looks = found.hint.unwrap_or("nothing that it knows by name");
        let anchor = name.replace('_', "-");
        writeln!(page, "| [{title}](#{anchor}) | {law} | {looks} |").expect("a string");
        let heading = name.replace('_', " ");
        let file = format!("reconcilers/prebuilt/test/mistakes/{name}.wasm");
        let text = found.tell(&format!("kinfold reconciler check {file}"));
        writeln!(
            details,
            "\n## {heading}\n\n{title} {why}\n([source](../reconcilers/bad/mistakes/examples/{name}.rs))\n\n```text\n{text}\n```"
        )
        .expect("a string");
    }
    page + &details
}

#[test]
fn the_page_is_what_the_check_says() {
    let written = fs::read_to_string(below_root("docs/mistakes.md")).expect("docs/mistakes.md");
    assert!(
        written == page(),
        "docs/mistakes.md is stale: cargo test --lib -- --ignored write_the_page"
    );
}

#[test]
#[ignore = "writes docs/mistakes.md"]
fn write_the_page() {
    fs::write(below_root("docs/mistakes.md"), page()).expect("written");
}
