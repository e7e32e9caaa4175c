//! The guard's book: how many instructions each scene took when they were last
//! accepted, and what to say of those that it takes now.
//!
//! Promises: a scene that grew by more than it may fails, and so does one that
//! shrank by much, is new or is gone, so that the book is always that of the code;
//! the book is written in one order, a scene a line, so that a change of it reads
//! well. Counts of another compiler or another machine are not comparable, and
//! nobody fails by them.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use serde::Deserialize;

/// By how many percent a scene may grow.
pub const GROWTH_PERCENT: f64 = 5.0;
/// A difference of no more instructions than this is the allocator's, which looks for room
/// longer or shorter as its lists happen to lie: small scenes differ by as much between
/// two builds of the same code.
pub const NOISE_INSTRUCTIONS: u64 = 250;
/// By how many percent a scene may shrink before that is to be accepted: a gain
/// that is not in the book could be lost again unnoticed.
pub const SHRINK_PERCENT: f64 = 10.0;

/// What the book says of a scene.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// For one time.
    pub instructions: u64,
    /// By how many percent it differs from run to run, and is let off therefore.
    #[serde(default)]
    pub spread_percent: f64,
}

/// What makes counts comparable.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circumstances {
    /// As `rustc --version` says.
    pub rustc: String,
    /// Architecture and system.
    pub machine: String,
    /// How it was built.
    pub build: String,
}

impl fmt::Display for Circumstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Circumstances {
            rustc,
            machine,
            build,
        } = self;
        write!(f, "{rustc}, {machine}, built by {build}")
    }
}

/// The book.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    pub counted_with: Circumstances,
    pub scenes: BTreeMap<String, Entry>,
}

/// What came of a scene.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Same,
    Grew,
    Shrank,
    New,
    Gone,
}

impl Verdict {
    /// Whether the book is still that of the code.
    pub fn passes(self) -> bool {
        self == Verdict::Same
    }
}

/// One scene, then and now.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    pub name: String,
    pub before: Option<u64>,
    pub now: Option<u64>,
    pub verdict: Verdict,
}

impl Line {
    /// By how many percent it grew.
    pub fn growth_percent(&self) -> Option<f64> {
        Some(growth_percent(self.before?, self.now?))
    }
}

/// To the thousandth, so that who is just at a bound is not past it by the error of
/// a division.
fn growth_percent(before: u64, now: u64) -> f64 {
    let exact = (now as f64 / before.max(1) as f64 - 1.0) * 100.0;
    (exact * 1000.0).round() / 1000.0
}

impl Book {
    /// Holds the counts against the book, the book's own order first.
    pub fn judge(&self, counts: &BTreeMap<String, Entry>) -> Vec<Line> {
        let known = self.scenes.iter().map(|(name, entry)| {
            let now = counts.get(name).map(|count| count.instructions);
            let verdict = match now {
                None => Verdict::Gone,
                Some(now) => {
                    let growth = growth_percent(entry.instructions, now);
                    let changed = now.abs_diff(entry.instructions);
                    if changed <= NOISE_INSTRUCTIONS {
                        Verdict::Same
                    } else if growth > GROWTH_PERCENT + entry.spread_percent {
                        Verdict::Grew
                    } else if growth < -(SHRINK_PERCENT + entry.spread_percent) {
                        Verdict::Shrank
                    } else {
                        Verdict::Same
                    }
                }
            };
            Line {
                name: name.clone(),
                before: Some(entry.instructions),
                now,
                verdict,
            }
        });
        let unknown = counts
            .iter()
            .filter(|(name, _)| !self.scenes.contains_key(*name))
            .map(|(name, count)| Line {
                name: name.clone(),
                before: None,
                now: Some(count.instructions),
                verdict: Verdict::New,
            });
        known.chain(unknown).collect()
    }

    /// The book as a file.
    pub fn text(&self) -> String {
        let Circumstances {
            rustc,
            machine,
            build,
        } = &self.counted_with;
        let mut text = format!(
            "# How many instructions one time of each scene takes (benches/scenes), all\n\
             # threads together. `scripts/count-instructions.sh` holds the code against this\n\
             # and says by how much it may differ; with `--accept` it writes this file anew.\n\
             \n\
             [counted_with]\nrustc = {rustc:?}\nmachine = {machine:?}\nbuild = {build:?}\n\
             \n[scenes]\n"
        );
        for (name, entry) in &self.scenes {
            let spread = match entry.spread_percent {
                0.0 => String::new(),
                spread => format!(", spread_percent = {spread:.1}"),
            };
            writeln!(
                text,
                "{name:?} = {{ instructions = {}{spread} }}",
                entry.instructions
            )
            .expect("text is memory");
        }
        text
    }
}
