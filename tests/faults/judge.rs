//! What clients were told, held against what is there in the end.
//!
//! After Jepsen's `set-full` and `counter` checkers. Promises:
//!
//! - **sets**: an element whose addition was acknowledged and that the final read
//!   lacks is *lost*; one that a read begun after the acknowledgement lacked and
//!   that is there later was *stale* for that long; one that was never
//!   acknowledged and never seen is *never read*, which nobody forbids; one that
//!   nobody added is a *phantom*;
//! - **counters** that only grow end between what was acknowledged and that plus
//!   what nobody knows about;
//! - **registers** that keep siblings: an acknowledged value is among the final
//!   siblings, or was seen by a write that is, in turn, there or was seen by one.
//!
//! Times are those of the client that asked: a read counts as begun when it was
//! sent, an addition as made when its answer was there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a client learned about a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Acknowledged,
    /// No answer, or one that leaves it open.
    Unknown,
    /// Nothing was sent.
    Failed,
}

/// An addition to a set.
#[derive(Clone, Debug)]
pub struct Addition {
    pub path: String,
    pub element: String,
    pub outcome: Outcome,
    pub ended_ms: u64,
}

/// A read of a set.
#[derive(Clone, Debug)]
pub struct SetRead {
    pub path: String,
    pub begun_ms: u64,
    pub found: BTreeSet<String>,
}

/// A write to a register: what it wrote, and the values that its context covered.
#[derive(Clone, Debug)]
pub struct Write {
    pub path: String,
    pub value: String,
    pub saw: BTreeSet<String>,
    pub outcome: Outcome,
}

/// One added to a counter.
#[derive(Clone, Debug)]
pub struct Count {
    pub path: String,
    pub outcome: Outcome,
}

/// Everything that clients did.
#[derive(Default, Debug)]
pub struct History {
    pub additions: Vec<Addition>,
    pub set_reads: Vec<SetRead>,
    pub writes: Vec<Write>,
    pub counts: Vec<Count>,
    /// Operations by kind: how many went well, and how many did not.
    pub tally: BTreeMap<&'static str, (u64, u64)>,
}

impl History {
    pub fn extend(&mut self, other: History) {
        self.additions.extend(other.additions);
        self.set_reads.extend(other.set_reads);
        self.writes.extend(other.writes);
        self.counts.extend(other.counts);
        for (kind, (good, bad)) in other.tally {
            let tally = self.tally.entry(kind).or_default();
            tally.0 += good;
            tally.1 += bad;
        }
    }

    fn paths_of<'h, T>(of: &'h [T], path: impl Fn(&'h T) -> &'h str) -> BTreeSet<&'h str> {
        of.iter().map(path).collect()
    }

    pub fn sets(&self) -> BTreeSet<&str> {
        Self::paths_of(&self.additions, |addition| &addition.path)
    }

    pub fn registers(&self) -> BTreeSet<&str> {
        Self::paths_of(&self.writes, |write| &write.path)
    }

    pub fn counters(&self) -> BTreeSet<&str> {
        Self::paths_of(&self.counts, |count| &count.path)
    }

    pub fn paths(&self) -> BTreeSet<&str> {
        let mut paths = self.sets();
        paths.extend(self.registers());
        paths.extend(self.counters());
        paths
    }

    /// How many operations there were, and the share of them that went well.
    pub fn availability(&self) -> (u64, f64) {
        let good: u64 = self.tally.values().map(|(good, _)| good).sum();
        let bad: u64 = self.tally.values().map(|(_, bad)| bad).sum();
        (good + bad, good as f64 / (good + bad).max(1) as f64)
    }
}

/// What is there in the end, by path.
#[derive(Default, Debug)]
pub struct Final {
    pub sets: BTreeMap<String, BTreeSet<String>>,
    pub registers: BTreeMap<String, BTreeSet<String>>,
    pub counters: BTreeMap<String, i64>,
}

/// The judgement.
#[derive(Default, Debug)]
pub struct Verdict {
    /// What must not be, in words. Empty when all is well.
    pub wrong: Vec<String>,
    pub acknowledged: usize,
    pub unknown: usize,
    pub lost: usize,
    pub stale: usize,
    pub never_read: usize,
    /// Unknown ones that are there.
    pub recovered: usize,
    /// For how long each stale element was not seen, sorted.
    pub visible_after_ms: Vec<u64>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let visible = &self.visible_after_ms;
        let at = |share: usize| {
            visible.get((visible.len() * share / 100).min(visible.len().saturating_sub(1)))
        };
        write!(
            f,
            "{} acknowledged, {} unknown ({} of them there), {} lost, {} stale, {} never read",
            self.acknowledged, self.unknown, self.recovered, self.lost, self.stale, self.never_read
        )?;
        if let (false, Some(half), Some(most)) = (visible.is_empty(), at(50), visible.last()) {
            write!(
                f,
                "; stale ones visible after {half} ms (p50), {most} ms at most"
            )?;
        }
        Ok(())
    }
}

/// Judges.
pub fn judge(history: &History, end: &Final) -> Verdict {
    let mut verdict = Verdict::default();
    judge_sets(history, end, &mut verdict);
    judge_registers(history, end, &mut verdict);
    judge_counters(history, end, &mut verdict);
    verdict.visible_after_ms.sort_unstable();
    verdict
}

fn judge_sets(history: &History, end: &Final, verdict: &mut Verdict) {
    let nothing = BTreeSet::new();
    for path in history.sets() {
        let there = end.sets.get(path).unwrap_or(&nothing);
        let reads: Vec<&SetRead> = history
            .set_reads
            .iter()
            .filter(|read| read.path == path)
            .collect();
        let mut added = BTreeSet::new();
        for addition in history.additions.iter().filter(|one| one.path == path) {
            let element = &addition.element;
            let is_there = there.contains(element);
            match addition.outcome {
                Outcome::Failed => continue,
                Outcome::Unknown => {
                    verdict.unknown += 1;
                    verdict.recovered += usize::from(is_there);
                    let seen = is_there || reads.iter().any(|read| read.found.contains(element));
                    verdict.never_read += usize::from(!seen);
                }
                Outcome::Acknowledged => {
                    verdict.acknowledged += 1;
                    if !is_there {
                        verdict.lost += 1;
                        verdict
                            .wrong
                            .push(format!("{path}: {element} was acknowledged and is lost"));
                    }
                    let missed = reads
                        .iter()
                        .filter(|read| {
                            read.begun_ms >= addition.ended_ms && !read.found.contains(element)
                        })
                        .map(|read| read.begun_ms - addition.ended_ms)
                        .max();
                    if let Some(after_ms) = missed {
                        verdict.stale += 1;
                        verdict.visible_after_ms.push(after_ms);
                    }
                }
            }
            added.insert(element.as_str());
        }
        let everything = reads.iter().flat_map(|read| &read.found).chain(there);
        let phantoms: BTreeSet<&str> = everything
            .map(String::as_str)
            .filter(|element| !added.contains(element))
            .collect();
        if !phantoms.is_empty() {
            verdict
                .wrong
                .push(format!("{path}: nobody added {phantoms:?}"));
        }
    }
}

fn judge_registers(history: &History, end: &Final, verdict: &mut Verdict) {
    let nothing = BTreeSet::new();
    for path in history.registers() {
        let there = end.registers.get(path).unwrap_or(&nothing);
        let writes: Vec<&Write> = history
            .writes
            .iter()
            .filter(|write| write.path == path)
            .collect();
        // From what is there back to everything that it stands for.
        let mut covered: BTreeSet<&str> = there.iter().map(String::as_str).collect();
        loop {
            let before = covered.len();
            for write in &writes {
                if write.outcome != Outcome::Failed && covered.contains(&*write.value) {
                    covered.extend(write.saw.iter().map(String::as_str));
                }
            }
            if covered.len() == before {
                break;
            }
        }
        for write in &writes {
            let kept = covered.contains(&*write.value);
            match write.outcome {
                Outcome::Acknowledged => {
                    verdict.acknowledged += 1;
                    if !kept {
                        verdict.lost += 1;
                        verdict.wrong.push(format!(
                            "{path}: {} was acknowledged, and is neither there nor superseded",
                            write.value
                        ));
                    }
                }
                Outcome::Unknown => {
                    verdict.unknown += 1;
                    verdict.recovered += usize::from(kept);
                    verdict.never_read += usize::from(!kept);
                }
                Outcome::Failed => {}
            }
        }
        let written = |value: &&String| {
            writes
                .iter()
                .any(|write| write.value == **value && write.outcome != Outcome::Failed)
        };
        let phantoms: Vec<&String> = there.iter().filter(|value| !written(value)).collect();
        if !phantoms.is_empty() {
            verdict
                .wrong
                .push(format!("{path}: nobody wrote {phantoms:?}"));
        }
    }
}

fn judge_counters(history: &History, end: &Final, verdict: &mut Verdict) {
    for path in history.counters() {
        let of = |outcome| {
            history
                .counts
                .iter()
                .filter(|count| count.path == path && count.outcome == outcome)
                .count() as i64
        };
        let (sure, open) = (of(Outcome::Acknowledged), of(Outcome::Unknown));
        verdict.acknowledged += sure as usize;
        verdict.unknown += open as usize;
        let counted = end.counters.get(path).copied().unwrap_or_default();
        verdict.lost += usize::try_from(sure - counted).unwrap_or_default();
        verdict.recovered += usize::try_from(counted - sure).unwrap_or_default();
        if !(sure..=sure + open).contains(&counted) {
            verdict.wrong.push(format!(
                "{path}: {counted} were counted of {sure} acknowledged and {open} unknown ones"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|text| (*text).to_owned()).collect()
    }

    fn addition(element: &str, outcome: Outcome, ended_ms: u64) -> Addition {
        Addition {
            path: "s".to_owned(),
            element: element.to_owned(),
            outcome,
            ended_ms,
        }
    }

    fn write(value: &str, saw: &[&str], outcome: Outcome) -> Write {
        Write {
            path: "r".to_owned(),
            value: value.to_owned(),
            saw: set(saw),
            outcome,
        }
    }

    #[test]
    fn sets_tell_lost_from_stale_from_unknown() {
        let read = |begun_ms, found: &[&str]| SetRead {
            path: "s".to_owned(),
            begun_ms,
            found: set(found),
        };
        let history = History {
            additions: vec![
                addition("kept", Outcome::Acknowledged, 10),
                addition("late", Outcome::Acknowledged, 20),
                addition("lost", Outcome::Acknowledged, 30),
                addition("maybe", Outcome::Unknown, 40),
                addition("gone", Outcome::Unknown, 50),
                addition("refused", Outcome::Failed, 60),
            ],
            set_reads: vec![
                read(15, &["kept"]),
                read(35, &["kept", "lost"]),
                read(45, &["kept", "late"]),
            ],
            ..History::default()
        };
        let end = Final {
            sets: [("s".to_owned(), set(&["kept", "late", "maybe"]))].into(),
            ..Final::default()
        };
        let verdict = judge(&history, &end);
        assert_eq!((verdict.acknowledged, verdict.unknown), (3, 2));
        assert_eq!(
            (verdict.lost, verdict.never_read, verdict.recovered),
            (1, 1, 1)
        );
        // `lost` was missed by the last read, `late` by the one before.
        assert_eq!(verdict.visible_after_ms, [15, 15]);
        assert_eq!(verdict.wrong.len(), 1, "{:?}", verdict.wrong);
        let end = Final {
            sets: [(
                "s".to_owned(),
                set(&["kept", "late", "lost", "refused", "x"]),
            )]
            .into(),
            ..Final::default()
        };
        let verdict = judge(&history, &end);
        assert!(
            verdict.wrong[0].contains(r#"{"refused", "x"}"#),
            "{:?}",
            verdict.wrong
        );
    }

    #[test]
    fn registers_follow_who_saw_what() {
        use Outcome::{Acknowledged, Failed, Unknown};
        let judged = |writes: &[Write], there: &[&str]| {
            let history = History {
                writes: writes.to_vec(),
                ..History::default()
            };
            let end = Final {
                registers: [("r".to_owned(), set(there))].into(),
                ..Final::default()
            };
            judge(&history, &end).wrong
        };
        let first = write("1", &[], Acknowledged);
        let second = write("2", &["1"], Unknown);
        let third = write("3", &["2"], Acknowledged);
        let all = [first.clone(), second.clone(), third];
        assert!(judged(&all, &["3"]).is_empty());
        assert!(judged(&all[..2], &["1"]).is_empty());
        assert!(judged(&all[..2], &["2"]).is_empty());
        assert_eq!(judged(&all, &["2"]).len(), 1, "the third is lost");
        assert_eq!(judged(&all[..2], &[]).len(), 1, "the first is lost");
        // What was never sent supersedes nothing, and cannot be there.
        let unsent = [first, write("4", &["1"], Failed)];
        assert_eq!(judged(&unsent, &["4"]).len(), 2);
    }

    #[test]
    fn counters_have_two_bounds() {
        let count = |outcome| Count {
            path: "c".to_owned(),
            outcome,
        };
        let history = History {
            counts: vec![
                count(Outcome::Acknowledged),
                count(Outcome::Acknowledged),
                count(Outcome::Unknown),
                count(Outcome::Failed),
            ],
            ..History::default()
        };
        for (counted, is_right) in [(1, false), (2, true), (3, true), (4, false)] {
            let end = Final {
                counters: [("c".to_owned(), counted)].into(),
                ..Final::default()
            };
            assert_eq!(
                judge(&history, &end).wrong.is_empty(),
                is_right,
                "{counted}"
            );
        }
    }
}
