//! The guard: how many instructions the parts of a put and of a get take, held
//! against what was last accepted.
//!
//! `scripts/count-instructions.sh` runs it. Instructions are the same on a busy
//! machine and on an idle one, so that a few percent more show, where seconds would
//! need ten. It runs itself under callgrind, which counts what all threads do
//! between two marks, once for each scene; the profiles stay behind
//! in `target/instructions` for `callgrind_annotate` to show where instructions go.
//!
//! Promises: fails when a scene takes more than the book allows
//! (`benches/instructions.toml`, `guard/mod.rs`), or much less, and says how to
//! accept that. Without valgrind, or with another compiler than the book's, nothing
//! can be compared: it says SKIPPED, and does not fail. Not counted: what the
//! kernel does, and how long instructions take (a miss of a cache is one).
//!
//! `--only TEXT` counts the scenes whose names hold TEXT and no others, for those
//! who work on a part; the book is then held against those alone.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};

use guard::{Book, Circumstances, Entry, GROWTH_PERCENT, Line, SHRINK_PERCENT, Verdict};

mod guard;
mod scenes;

/// How many times a scene is counted, at most: what the first of them does once
/// should not weigh.
const TIMES: usize = 256;
/// How many times it is done before, so that caches and buffers are as in a run.
const WARM_UP: usize = 16;
/// Before the text that the names of the scenes have which are counted.
const ONLY: &str = "--only";
/// Tells this program that callgrind watches it.
const WATCHED: &str = "--watched";
/// How the program was built, which `benches/optimised.toml` says.
const BUILD: Option<&str> = option_env!("KINFOLD_BENCH_BUILD");
/// What writes the book.
const ACCEPT: &str = "scripts/count-instructions.sh --accept";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let only = arguments.iter().position(|argument| argument == ONLY);
    let only = match only.map(|at| arguments.get(at + 1)) {
        Some(text) => text.with_context(|| format!("{ONLY} wants a text"))?,
        // Every name holds this.
        None => "",
    };
    if has(WATCHED) {
        perform(only);
        return Ok(ExitCode::SUCCESS);
    }
    // `cargo test` runs benches too, without this flag.
    if !has("--bench") {
        return Ok(ExitCode::SUCCESS);
    }
    let Some(valgrind) = version_of("valgrind") else {
        println!("SKIPPED: instructions were not counted, there is no valgrind here.");
        println!("On Debian and Ubuntu, `apt-get install valgrind` brings it.");
        return Ok(ExitCode::SUCCESS);
    };
    let circumstances = Circumstances {
        rustc: version_of("rustc").context("rustc does not say its version")?,
        machine: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        build: BUILD.unwrap_or("otherwise").to_owned(),
    };
    println!("{valgrind}, {}", circumstances.rustc);
    let counts = count(only)?;
    ensure!(!counts.is_empty(), "no scene's name holds {only:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.toml");
    if has("--accept") {
        ensure!(only.is_empty(), "the book is of all scenes: no {ONLY}");
        ensure!(
            BUILD.is_some(),
            "the book is written by {ACCEPT}, which builds as it should be counted"
        );
        let book = Book {
            counted_with: circumstances,
            scenes: counts,
        };
        std::fs::write(&path, book.text()).with_context(|| format!("{}", path.display()))?;
        println!("{} scenes are in {}", book.scenes.len(), path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: {ACCEPT} writes it", path.display()))?;
    let mut book: Book = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    book.scenes.retain(|name, _| name.contains(only));
    Ok(report(&book, &counts, &circumstances))
}

/// Says what came of each scene.
fn report(book: &Book, counts: &BTreeMap<String, Entry>, here: &Circumstances) -> ExitCode {
    let lines = book.judge(counts);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["scene", "before", "now", "change", ""]);
    for line in &lines {
        let number = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), grouped);
        let change = line.growth_percent();
        table.add_row([
            line.name.clone(),
            number(line.before),
            number(line.now),
            change.map_or_else(|| "–".to_owned(), |percent| format!("{percent:+.1} %")),
            match line.verdict {
                Verdict::Same => String::new(),
                Verdict::Grew => "GREW".to_owned(),
                Verdict::Shrank => "shrank".to_owned(),
                Verdict::New => "new".to_owned(),
                Verdict::Gone => "gone".to_owned(),
            },
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    if book.counted_with != *here {
        println!("SKIPPED: these counts say nothing about the code.");
        println!("    the book:  {}", book.counted_with);
        println!("    this run:  {here}");
        println!("With the compiler that is to stay, `{ACCEPT}` writes the book anew.");
        return ExitCode::SUCCESS;
    }
    let failed: Vec<&Line> = lines.iter().filter(|line| !line.verdict.passes()).collect();
    if failed.is_empty() {
        println!("{} scenes take what they took.", lines.len());
        return ExitCode::SUCCESS;
    }
    let number = |verdict| failed.iter().filter(|line| line.verdict == verdict).count();
    println!(
        "{} scenes grew by more than {GROWTH_PERCENT} %, {} shrank by more than \
         {SHRINK_PERCENT} %, {} are new, {} are gone.",
        number(Verdict::Grew),
        number(Verdict::Shrank),
        number(Verdict::New),
        number(Verdict::Gone),
    );
    println!(
        "Where a scene's instructions go: callgrind_annotate {}/SCENE",
        profiles().display()
    );
    println!("If this is meant to be so: {ACCEPT}, and say why in the commit.");
    ExitCode::FAILURE
}

/// 1234567 as people read it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The first line that a program says about itself; none when it is not there.
fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// Where the profiles lie.
fn profiles() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(target)
        .join("instructions")
}

/// Runs the scenes whose names hold this under callgrind.
fn count(only: &str) -> anyhow::Result<BTreeMap<String, Entry>> {
    let folder = profiles();
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    let profile = folder.join("profile");
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg("--dump-before=*the_count_begins*")
        .arg("--dump-before=*the_count_ends*")
        .arg(std::env::current_exe()?)
        .args([WATCHED, ONLY, only])
        .stderr(Stdio::inherit())
        .output()
        .context("valgrind could not be started")?;
    ensure!(output.status.success(), "valgrind: {}", output.status);
    let mut counts = BTreeMap::new();
    let performed = String::from_utf8(output.stdout).context("names of scenes are text")?;
    for (number, line) in (0..).zip(performed.lines()) {
        let [name, times, spread] = line.split('\t').collect::<Vec<_>>()[..] else {
            bail!("a scene was told of as {line:?}");
        };
        // What was made ready, and then what was done.
        let before = folder.join(format!("profile.{}", 2 * number + 1));
        let during = folder.join(format!("profile.{}", 2 * number + 2));
        let named = folder.join(name.replace([' ', '/'], "_").replace(',', ""));
        let total = keep(&during, &named)?;
        for read in [before, during] {
            std::fs::remove_file(&read).with_context(|| format!("{}", read.display()))?;
        }
        let entry = Entry {
            instructions: total / times.parse::<u64>()?,
            spread_percent: spread.parse()?,
        };
        let twice = counts.insert(name.to_owned(), entry);
        ensure!(twice.is_none(), "two scenes are called {name:?}");
    }
    Ok(counts)
}

/// Keeps a profile under another name; how many instructions it counts.
fn keep(profile: &Path, named: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(profile).with_context(|| {
        let profile = profile.display();
        format!("{profile}: callgrind did not see where a count begins or ends")
    })?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("summary:"))
        .with_context(|| format!("{} has no sum", profile.display()))?;
    let total = total.trim().parse()?;
    // Calls that began before are told of as none, with all that they cost: those
    // who read profiles would take that for the caller's own work.
    let mut lines = text.lines();
    let mut kept = String::with_capacity(text.len());
    while let Some(line) = lines.next() {
        if line.starts_with("calls=0 ") {
            lines.next();
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    std::fs::write(named, kept).with_context(|| format!("{}", named.display()))?;
    Ok(total)
}

/// Plays the scenes whose names hold this, and tells of each before the next.
fn perform(only: &str) {
    let wanted = scenes::counted().into_iter();
    for mut scene in wanted.filter(|scene| scene.name.contains(only)) {
        let mut unwatched = |work: &mut dyn FnMut()| work();
        scene.run(WARM_UP.min(scene.batch), &mut unwatched);
        let times = TIMES.min(scene.batch);
        scene.run(times, &mut |work| {
            the_count_begins();
            work();
            the_count_ends();
        });
        println!("{}\t{times}\t{}", scene.name, scene.spread_percent);
    }
}

/// Callgrind knows this function by its name.
#[inline(never)]
fn the_count_begins() {
    black_box("begins");
}

/// And this one.
#[inline(never)]
fn the_count_ends() {
    black_box("ends");
}
