//! What a module on trial makes of one item beside the present one, and the sums.
//!
//! Promises: every item that was tried is counted under exactly one verdict; what
//! is kept for showing is bounded ([`MAX_EXAMPLES`] of a kind, and the beginnings
//! of values) whatever a table holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::catalog::{Digest, Table};
use crate::protocol::dot::Dot;
use crate::protocol::effect::{GuestCost, GuestReply, GuestRequest, GuestSibling};
use crate::protocol::id::{ItemKey, NodeId};
use crate::protocol::machine::{folded_type, guest_siblings};
use crate::protocol::siblings::SiblingSet;
use crate::reconcile::rehearsal::Rehearsal;

/// How many examples of each kind are kept: what a person reads.
pub const MAX_EXAMPLES: usize = 10;
/// How much of a value is kept to be shown, in bytes.
pub const MAX_SHOWN_BYTES: usize = 4 << 10;
/// How many siblings of an example are kept.
pub const MAX_SHOWN_SIBLINGS: usize = 16;
/// How many reasons for failures are told apart; the rest are one.
pub const MAX_REASONS: usize = 32;

/// The beginning of some bytes, and how many there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    pub bytes: Bytes,
    pub size_bytes: u64,
}

impl Shown {
    fn of(bytes: &Bytes) -> Self {
        let shown = &bytes[..bytes.len().min(MAX_SHOWN_BYTES)];
        Shown {
            // Copied: a slice would keep the whole page in memory.
            bytes: Bytes::copy_from_slice(shown),
            size_bytes: bytes.len() as u64,
        }
    }
}

/// One sibling of an example.
#[derive(Clone, Debug)]
pub struct ShownSibling {
    pub dot: Dot,
    pub written_at_us: u64,
    pub content_type: Arc<str>,
    /// None for a tombstone.
    pub value: Option<Shown>,
}

/// What a client would get of an item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Value {
        value: Bytes,
        content_type: Arc<str>,
    },
    Deleted,
    /// The siblings: there is no module.
    Siblings,
    /// The siblings: the module declines.
    Unresolved,
    /// The siblings: the module failed, and why.
    Failed(String),
}

impl Seen {
    fn is_folded(&self) -> bool {
        matches!(self, Seen::Value { .. } | Seen::Deleted)
    }
}

/// As [`Seen`], cut to be shown.
#[derive(Clone, Debug)]
pub enum ShownResult {
    Value {
        value: Shown,
        content_type: Arc<str>,
    },
    Deleted,
    Siblings,
    Unresolved,
    Failed(String),
}

impl From<&Seen> for ShownResult {
    fn from(seen: &Seen) -> Self {
        match seen {
            Seen::Value {
                value,
                content_type,
            } => ShownResult::Value {
                value: Shown::of(value),
                content_type: content_type.clone(),
            },
            Seen::Deleted => ShownResult::Deleted,
            Seen::Siblings => ShownResult::Siblings,
            Seen::Unresolved => ShownResult::Unresolved,
            Seen::Failed(reason) => ShownResult::Failed(reason.clone()),
        }
    }
}

/// What came of one item.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// A client gets the same from both.
    Same,
    /// A client gets something else.
    Different,
    /// The candidate failed.
    Failed,
    /// The candidate declines.
    Unresolved,
    /// The candidate cannot take a single state that is stored.
    Unreadable,
}

impl Verdict {
    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Different => "different",
            Verdict::Failed => "failed",
            Verdict::Unresolved => "unresolved",
            Verdict::Unreadable => "unreadable",
        }
    }
}

/// An item that is worth showing.
#[derive(Clone, Debug)]
pub struct Example {
    pub verdict: Verdict,
    pub key: ItemKey,
    /// The replica that it was read from.
    pub replica: NodeId,
    /// How many siblings it has.
    pub siblings: u64,
    /// The first of them.
    pub shown: Vec<ShownSibling>,
    pub present: ShownResult,
    pub candidate: ShownResult,
}

/// How often a reason was given, and what it took at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failures {
    pub count: u64,
    pub fuel_max: u64,
}

/// What a module's work took, over all items.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    fuel: Vec<u64>,
    time_us: Vec<u64>,
}

/// The middle, the end and the very end of what was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Spread {
    fn of(mut figures: Vec<u64>) -> Self {
        figures.sort_unstable();
        let Some(last) = figures.len().checked_sub(1) else {
            return Spread::default();
        };
        let at = |percent: usize| figures[(last * percent).div_ceil(100)];
        Spread {
            p50: at(50),
            p99: at(99),
            max: figures[last],
        }
    }
}

impl Costs {
    fn add(&mut self, cost: GuestCost) {
        self.fuel.push(cost.fuel);
        self.time_us.push(cost.time_us);
    }

    /// How many calls were measured.
    pub fn count(&self) -> u64 {
        self.fuel.len() as u64
    }

    /// The fuel that they took.
    pub fn fuel(&self) -> Spread {
        Spread::of(self.fuel.clone())
    }

    /// The time that they took.
    pub fn time_us(&self) -> Spread {
        Spread::of(self.time_us.clone())
    }
}

/// The sums of a dry run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Items with several siblings; and with one state, of data types.
    pub sibling_sets: u64,
    pub states: u64,
    /// Of those, the ones that are tombstones only: nobody folds them.
    pub deleted: u64,
    pub same: u64,
    pub different: u64,
    /// Of the different ones, those that clients get as siblings now.
    pub newly_folded: u64,
    pub failed: u64,
    pub unresolved: u64,
    pub unreadable: u64,
    /// Why the candidate failed, or could not take a state.
    pub failures: BTreeMap<String, Failures>,
    /// How often the present module failed or declined.
    pub present_failed: u64,
    pub present: Costs,
    pub candidate: Costs,
    pub examples: Vec<Example>,
}

/// The two modules.
pub(super) struct Pair {
    pub rehearsal: Rehearsal,
    pub table: Arc<Table>,
    pub present: Option<Digest>,
    pub candidate: Digest,
    /// Whether the candidate keeps states, which it must be able to take back.
    pub candidate_keeps_states: bool,
}

/// What became of a module's work, as a client sees it.
fn seen(siblings: &[GuestSibling], reply: GuestReply) -> Seen {
    match reply {
        GuestReply::Done { value: None, .. } => Seen::Deleted,
        GuestReply::Done {
            view: Some(view), ..
        } => Seen::Value {
            value: view.body,
            content_type: view.content_type,
        },
        GuestReply::Done {
            value: Some(value), ..
        } => Seen::Value {
            content_type: folded_type(siblings, &value),
            value,
        },
        GuestReply::Unresolved => Seen::Unresolved,
        GuestReply::Failed(reason)
        | GuestReply::BadOperation(reason)
        | GuestReply::Quarantined(reason) => Seen::Failed(reason),
        GuestReply::Missing => Seen::Failed("the module is not here".to_owned()),
        GuestReply::Overloaded => Seen::Failed("too many instances run at once".to_owned()),
    }
}

impl Pair {
    fn request(&self, digest: Digest, key: &ItemKey, siblings: &[GuestSibling]) -> GuestRequest {
        GuestRequest {
            digest,
            table: self.table.name.clone(),
            key: key.clone(),
            siblings: siblings.to_vec(),
            operation: None,
            render: true,
            max_output_bytes: self.table.definition.max_value_bytes,
        }
    }

    /// Tries both modules on one item, and counts what came of it. Blocks.
    pub fn try_item(&self, key: &ItemKey, set: &SiblingSet, replica: NodeId, tally: &mut Tally) {
        let is_single = set.len() == 1;
        match is_single {
            true => tally.states += 1,
            false => tally.sibling_sets += 1,
        }
        if set.is_absent() {
            tally.deleted += 1;
            tally.same += 1;
            return;
        }
        let siblings = guest_siblings(set);
        let present = match self.present {
            Some(digest) => {
                let request = self.request(digest, key, &siblings);
                let (reply, cost) = self.rehearsal.run(&request);
                tally.present.add(cost);
                seen(&siblings, reply)
            }
            None if is_single => seen(
                &siblings,
                GuestReply::Done {
                    value: siblings[0].version.value.clone(),
                    view: None,
                },
            ),
            None => Seen::Siblings,
        };
        if matches!(present, Seen::Failed(_) | Seen::Unresolved) {
            tally.present_failed += 1;
        }
        let request = self.request(self.candidate, key, &siblings);
        let (reply, cost) = self.rehearsal.run(&request);
        tally.candidate.add(cost);
        let mut candidate = seen(&siblings, reply);
        let mut fuel = cost.fuel;
        if is_single && self.candidate_keeps_states && candidate.is_folded() {
            // What it renders it must also be able to fold, or the first conflict
            // is the end of it.
            let (reply, cost) = self.rehearsal.refold(&request);
            tally.candidate.add(cost);
            fuel = cost.fuel;
            match reply {
                GuestReply::Done { value: Some(_), .. } => {}
                GuestReply::Done { value: None, .. } => {
                    candidate = Seen::Failed("folds this state alone into a deletion".to_owned());
                }
                GuestReply::Unresolved => {
                    candidate = Seen::Failed("declines to fold this state alone".to_owned());
                }
                failed => candidate = seen(&siblings, failed),
            }
        }
        let verdict = tally.judge(is_single, &present, &candidate, fuel);
        let examples = tally.examples.iter();
        let told = examples.filter(|one| one.verdict == verdict).count();
        if verdict != Verdict::Same && told < MAX_EXAMPLES {
            tally.examples.push(Example {
                verdict,
                key: key.clone(),
                replica,
                siblings: set.len() as u64,
                shown: show(set),
                present: ShownResult::from(&present),
                candidate: ShownResult::from(&candidate),
            });
        }
    }
}

fn show(set: &SiblingSet) -> Vec<ShownSibling> {
    set.siblings()
        .take(MAX_SHOWN_SIBLINGS)
        .map(|(dot, version)| ShownSibling {
            dot,
            written_at_us: version.written_at_us,
            content_type: version.content_type.clone(),
            value: version.value.as_ref().map(Shown::of),
        })
        .collect()
}

impl Tally {
    /// Counts one item under its verdict.
    fn judge(&mut self, is_single: bool, present: &Seen, candidate: &Seen, fuel: u64) -> Verdict {
        match candidate {
            Seen::Failed(reason) => {
                self.count_failure(reason, fuel);
                if is_single {
                    self.unreadable += 1;
                    return Verdict::Unreadable;
                }
                self.failed += 1;
                Verdict::Failed
            }
            Seen::Unresolved | Seen::Siblings => {
                self.unresolved += 1;
                Verdict::Unresolved
            }
            folded if folded == present => {
                self.same += 1;
                Verdict::Same
            }
            _ => {
                self.different += 1;
                self.newly_folded += u64::from(!present.is_folded());
                Verdict::Different
            }
        }
    }

    fn count_failure(&mut self, reason: &str, fuel: u64) {
        let is_known = self.failures.contains_key(reason);
        let reason = if is_known || self.failures.len() < MAX_REASONS {
            reason
        } else {
            "other reasons"
        };
        let failures = self.failures.entry(reason.to_owned()).or_default();
        failures.count += 1;
        failures.fuel_max = failures.fuel_max.max(fuel);
    }

    /// How many items were tried.
    pub fn tried(&self) -> u64 {
        self.sibling_sets + self.states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &'static [u8]) -> Seen {
        Seen::Value {
            value: Bytes::from_static(bytes),
            content_type: "text/plain".into(),
        }
    }

    #[test]
    fn every_item_has_one_verdict() {
        let failed = || Seen::Failed("ran out of fuel (limit 5)".to_owned());
        let mut tally = Tally::default();
        for (is_single, present, candidate, verdict) in [
            (false, value(b"a"), value(b"a"), Verdict::Same),
            (false, Seen::Deleted, Seen::Deleted, Verdict::Same),
            (false, value(b"a"), value(b"b"), Verdict::Different),
            (false, value(b"a"), Seen::Deleted, Verdict::Different),
            (false, Seen::Siblings, value(b"a"), Verdict::Different),
            (false, failed(), value(b"a"), Verdict::Different),
            (false, failed(), failed(), Verdict::Failed),
            (false, value(b"a"), Seen::Unresolved, Verdict::Unresolved),
            (true, value(b"a"), failed(), Verdict::Unreadable),
            (true, value(b"a"), value(b"a"), Verdict::Same),
        ] {
            let told = tally.judge(is_single, &present, &candidate, 7);
            assert_eq!(told, verdict, "{present:?} {candidate:?}");
        }
        assert_eq!((tally.same, tally.different), (3, 4));
        assert_eq!(tally.newly_folded, 2);
        assert_eq!(
            (tally.failed, tally.unreadable, tally.unresolved),
            (1, 1, 1)
        );
        let failures = tally.failures["ran out of fuel (limit 5)"];
        assert_eq!((failures.count, failures.fuel_max), (2, 7));
    }

    #[test]
    fn reasons_are_bounded() {
        let mut tally = Tally::default();
        for number in 0..MAX_REASONS as u64 + 5 {
            tally.count_failure(&format!("reason {number}"), number);
        }
        assert_eq!(tally.failures.len(), MAX_REASONS + 1);
        assert_eq!(tally.failures["other reasons"].count, 5);
    }

    #[test]
    fn a_spread_is_of_what_was_measured() {
        assert_eq!(Spread::of(Vec::new()), Spread::default());
        let one = Spread::of(vec![7]);
        assert_eq!((one.p50, one.p99, one.max), (7, 7, 7));
        let many = Spread::of((1..=1000).rev().collect());
        assert_eq!((many.p50, many.p99, many.max), (501, 991, 1000));
    }
}
