//! Making a finding small: a shorter run with fewer faults, then fewer and plainer
//! writes in the values that differ.
//!
//! Promises: what is left still shows it, by the module's own answers; at most
//! [`MAX_RUNS`] runs are played and [`MAX_CALLS`] evaluations made for it. Not
//! promised: that it is the smallest there is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::derivation::{Evaluation, Number};
use super::ledger::{Finding, Ledger};
use super::{Plan, Played, Subject, Trouble, play};
use crate::protocol::effect::{GuestReply, GuestSibling};

/// How many runs are played at most to find a smaller one.
const MAX_RUNS: u32 = 24;
/// How many times derivations are evaluated at most.
const MAX_CALLS: u32 = 4_000;

/// The derivation that a finding is about.
pub(super) fn subject_of(finding: &Finding) -> Number {
    match finding {
        Finding::Apart { one, .. } => *one,
        Finding::Failed { fold, .. } => *fold,
        Finding::Unshown { state, .. } => *state,
    }
}

/// Whether two runs failed in the same way.
fn is_alike(one: &Option<Trouble>, other: &Option<Trouble>) -> bool {
    use Finding::{Apart, Failed, Unshown};
    match (one, other) {
        (Some(Trouble::Module(one)), Some(Trouble::Module(other))) => match (one, other) {
            (
                Apart { reordered: one, .. },
                Apart {
                    reordered: other, ..
                },
            ) => one == other,
            (Failed { .. }, Failed { .. }) | (Unshown { .. }, Unshown { .. }) => true,
            _ => false,
        },
        (Some(Trouble::Cluster(_)), Some(Trouble::Cluster(_))) => true,
        _ => false,
    }
}

/// A shorter run with fewer kinds of faults that fails in the same way, and what
/// came of it; the one that was given when there is none.
pub fn shrink(subject: &Subject, plan: Plan, played: Played) -> (Plan, Played) {
    let mut left = MAX_RUNS;
    let (mut least, mut best) = (plan, played);
    let mut attempt = |least: &mut Plan, best: &mut Played, plan: Plan| {
        if left == 0 {
            return;
        }
        left -= 1;
        let again = play(subject, plan);
        if is_alike(&again.trouble, &best.trouble) {
            (*least, *best) = (plan, again);
        }
    };
    // Without a fault at all it is plainest.
    let calm = Plan {
        faults: super::FaultSet::NONE,
        ..least
    };
    attempt(&mut least, &mut best, calm);
    for kind in least.faults.kinds().collect::<Vec<_>>() {
        let fewer = Plan {
            faults: least.faults.without(kind),
            ..least
        };
        attempt(&mut least, &mut best, fewer);
    }
    let mut step_ms = least.lasts_ms / 2;
    while step_ms > 0 && step_ms >= plan.lasts_ms / 64 {
        let shorter = Plan {
            lasts_ms: least.lasts_ms - step_ms,
            ..least
        };
        attempt(&mut least, &mut best, shorter);
        step_ms = (step_ms / 2).min(least.lasts_ms / 2);
    }
    (least, best)
}

/// The writes that matter to a finding, and how each is best shown.
pub(super) struct Essence {
    pub without: BTreeSet<Number>,
    pub instead: BTreeMap<Number, Bytes>,
    /// The writes that are left, in the order in which they were made.
    pub writes: Vec<Number>,
    /// How many writes went into it before.
    pub of: usize,
}

/// What a derivation comes to, once writes are left out or changed.
pub(super) fn evaluate(
    ledger: &Ledger,
    number: Number,
    without: &BTreeSet<Number>,
    instead: &BTreeMap<Number, Bytes>,
) -> Result<Option<GuestSibling>, String> {
    Evaluation::new(
        &ledger.all,
        &*ledger.guest,
        &ledger.asking,
        without,
        instead,
    )
    .of(number)
}

/// Whether the finding still stands.
fn stands(
    ledger: &Ledger,
    finding: &Finding,
    without: &BTreeSet<Number>,
    instead: &BTreeMap<Number, Bytes>,
) -> bool {
    let value = |number| evaluate(ledger, number, without, instead);
    match finding {
        Finding::Apart { one, other, .. } => match (value(*one), value(*other)) {
            (Ok(Some(one)), Ok(Some(other))) => one.version.value != other.version.value,
            _ => false,
        },
        Finding::Failed { fold, .. } => value(*fold).is_err(),
        Finding::Unshown { state, .. } => match value(*state) {
            Ok(Some(state)) => {
                let item = &ledger.all[subject_of(finding)].item;
                let mut request = ledger.asking.fold(item, vec![state]);
                request.render = true;
                matches!(ledger.guest.answer(&request), GuestReply::Failed(_))
            }
            _ => false,
        },
    }
}

/// Leaves out the writes that do not matter, and puts plainer values in the place
/// of the others.
pub(super) fn essence(ledger: &Ledger, finding: &Finding, pool: &[Bytes]) -> Essence {
    let mut writes = ledger.all[subject_of(finding)].writes.clone();
    if let Finding::Apart { other, .. } = finding {
        writes.extend(&ledger.all[*other].writes);
    }
    let of = writes.len();
    let mut left = MAX_CALLS;
    let mut try_it = |without: &BTreeSet<Number>, instead: &BTreeMap<Number, Bytes>| {
        left = left.saturating_sub(1);
        left > 0 && stands(ledger, finding, without, instead)
    };
    let (mut without, mut instead) = (BTreeSet::new(), BTreeMap::new());
    let mut smaller = true;
    while smaller {
        smaller = false;
        for write in writes.clone() {
            without.insert(write);
            if try_it(&without, &instead) {
                writes.remove(&write);
                smaller = true;
            } else {
                without.remove(&write);
            }
        }
    }
    let mut plain: Vec<&Bytes> = pool.iter().collect();
    plain.sort_by_key(|value| (value.len(), *value));
    plain.dedup();
    for &write in &writes {
        for value in &plain {
            let before = instead.insert(write, (*value).clone());
            if try_it(&without, &instead) {
                break;
            }
            match before {
                Some(before) => instead.insert(write, before),
                None => instead.remove(&write),
            };
        }
    }
    Essence {
        without,
        instead,
        writes: writes.into_iter().collect(),
        of,
    }
}
