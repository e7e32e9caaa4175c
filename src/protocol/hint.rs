//! When held writes go back to whom they are for (Dynamo, section 4.6).
//!
//! Promises: a hint is forgotten only after its target acknowledged the item's
//! state durably; one batch a target is under way at a time, so a node that
//! comes back is not drowned; a target that fails is left alone for a while,
//! longer each time.

use std::collections::{BTreeMap, BTreeSet};

use super::effect::{Hint, HintId};
use super::id::{ItemKey, NodeId, Partition};
use super::siblings::StateHash;

/// How many hints go to a target at once: with 1 MiB values that is at most
/// 64 MiB on the wire, with ordinary ones a few dozen kilobytes.
pub const HINT_BATCH: usize = 64;
/// How often targets that are up are looked at for hints.
pub const HINT_INTERVAL_MS: u64 = 1_000;
/// How long a batch may take before it counts as failed.
pub const HINT_TIMEOUT_MS: u64 = 10_000;
/// The longest pause after a target failed again and again.
pub const HINT_BACKOFF_MAX_MS: u64 = 30_000;

/// A delivered hint, ready to be forgotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    pub id: HintId,
    pub partition: Partition,
    pub key: ItemKey,
    /// The state that the target has now; none when there was nothing to send.
    pub hash: Option<StateHash>,
}

#[derive(Default)]
struct Target {
    /// Held for it, as far as is known; the store decides.
    held: u64,
    not_before_ms: u64,
    failures: u32,
    /// When its latest batch began.
    begun_ms: u64,
    batch: Option<Batch>,
}

struct Batch {
    awaited: BTreeSet<HintId>,
    delivered: Vec<Delivered>,
    due_ms: u64,
    failed: bool,
    /// Asking the store, nothing sent yet.
    loading: bool,
}

/// The hints of a node, by target.
#[derive(Default)]
pub struct Deliveries {
    targets: BTreeMap<NodeId, Target>,
}

impl Deliveries {
    /// What the store held when the node started.
    pub fn on_counts(&mut self, counts: &[(NodeId, u64)]) {
        for (node, count) in counts {
            self.targets.entry(*node).or_default().held = *count;
        }
    }

    /// Hints were noted for these nodes.
    pub fn on_added(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.targets.entry(*node).or_default().held += 1;
        }
    }

    /// How many hints are held for the node, about: a hint that was noted again
    /// counts twice until it is delivered.
    pub fn held(&self, node: NodeId) -> u64 {
        self.targets.get(&node).map_or(0, |target| target.held)
    }

    /// How many hints are held in all, about.
    pub fn total(&self) -> u64 {
        self.targets.values().map(|target| target.held).sum()
    }

    /// The target was heard of again: no need to wait any longer.
    pub fn on_up(&mut self, node: NodeId) {
        if let Some(target) = self.targets.get_mut(&node) {
            target.not_before_ms = 0;
            target.failures = 0;
        }
    }

    /// The targets whose hints should be loaded now, at most so many.
    pub fn due(&mut self, now_ms: u64, most: usize, is_up: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let mut due: Vec<(u64, NodeId)> = self
            .targets
            .iter()
            .filter(|(node, target)| {
                target.held > 0
                    && target.batch.is_none()
                    && now_ms >= target.not_before_ms
                    && is_up(**node)
            })
            .map(|(node, target)| (target.begun_ms, *node))
            .collect();
        // Whose turn was longest ago comes first, or one target could keep the others
        // from theirs.
        due.sort_unstable();
        due.truncate(most);
        for (_, node) in &due {
            if let Some(target) = self.targets.get_mut(node) {
                target.begun_ms = now_ms;
                target.batch = Some(Batch {
                    awaited: BTreeSet::new(),
                    delivered: Vec::new(),
                    due_ms: now_ms + HINT_TIMEOUT_MS,
                    failed: false,
                    loading: true,
                });
            }
        }
        due.into_iter().map(|(_, node)| node).collect()
    }

    /// The store gave a batch. Returns what can be forgotten without sending:
    /// hints whose item is gone.
    pub fn on_loaded(&mut self, node: NodeId, hints: &[Hint]) -> Vec<Delivered> {
        let Some(target) = self.targets.get_mut(&node) else {
            return Vec::new();
        };
        if hints.is_empty() {
            target.held = 0;
            target.batch = None;
            return Vec::new();
        }
        let Some(batch) = &mut target.batch else {
            return Vec::new();
        };
        batch.loading = false;
        let mut gone = Vec::new();
        for hint in hints {
            if hint.row.is_some() {
                batch.awaited.insert(hint.id);
            } else {
                gone.push(Delivered {
                    id: hint.id,
                    partition: hint.partition,
                    key: hint.key.clone(),
                    hash: None,
                });
            }
        }
        // Even an empty batch ends by way of `take_done`.
        gone
    }

    /// The target has the state that a hint was about.
    pub fn on_delivered(&mut self, node: NodeId, delivered: Delivered) {
        if let Some(batch) = self
            .targets
            .get_mut(&node)
            .and_then(|target| target.batch.as_mut())
            && batch.awaited.remove(&delivered.id)
        {
            batch.delivered.push(delivered);
        }
    }

    /// A hint did not arrive, or the store could not give the batch.
    pub fn on_failed(&mut self, node: NodeId, hint: Option<HintId>) {
        if let Some(batch) = self
            .targets
            .get_mut(&node)
            .and_then(|target| target.batch.as_mut())
        {
            batch.failed = true;
            match hint {
                Some(id) => {
                    batch.awaited.remove(&id);
                }
                None => {
                    batch.loading = false;
                    batch.awaited.clear();
                }
            }
        }
    }

    /// Batches that are over, with when they began: their delivered hints are to be
    /// forgotten now.
    pub fn take_done(&mut self, now_ms: u64) -> Vec<(u64, Vec<Delivered>)> {
        let mut done = Vec::new();
        for target in self.targets.values_mut() {
            let over = target.batch.as_ref().is_some_and(|batch| {
                now_ms >= batch.due_ms || (!batch.loading && batch.awaited.is_empty())
            });
            if !over {
                continue;
            }
            let Some(batch) = target.batch.take() else {
                continue;
            };
            if batch.failed || !batch.awaited.is_empty() || batch.loading {
                let pause_ms = HINT_INTERVAL_MS << target.failures.min(5);
                target.not_before_ms = now_ms + pause_ms.min(HINT_BACKOFF_MAX_MS);
                target.failures += 1;
            } else {
                target.failures = 0;
            }
            target.held = target
                .held
                .saturating_sub(batch.delivered.len() as u64)
                .max(1);
            if !batch.delivered.is_empty() {
                done.push((target.begun_ms, batch.delivered));
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_take_turns_where_not_all_may_begin() {
        let nodes = ["x", "y", "z"].map(NodeId::of);
        let mut deliveries = Deliveries::default();
        deliveries.on_counts(&nodes.map(|node| (node, 1_000)));
        let mut turns = Vec::new();
        for now_ms in 1..=6 {
            let due = deliveries.due(now_ms, 1, |_| true);
            assert_eq!(due.len(), 1);
            turns.extend(&due);
            // It is through before the next one may begin.
            let hint = Hint {
                id: HintId {
                    file: 0,
                    sequence: now_ms as i64,
                },
                partition: Partition(0),
                key: ItemKey::new(super::super::id::TableId(1), b"k", None),
                row: None,
            };
            deliveries.on_loaded(due[0], &[hint]);
            deliveries.take_done(now_ms);
        }
        let mut all = nodes.to_vec();
        all.sort_unstable();
        turns[..3].sort_unstable();
        turns[3..].sort_unstable();
        assert_eq!((&turns[..3], &turns[3..]), (&all[..], &all[..]));
    }
}
