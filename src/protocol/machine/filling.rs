//! Filling: a node gets the data that it should hold and does not, before it says
//! that it has it.
//!
//! Three cases, one way: a new layout gives it partitions, its disk was wiped or
//! restored from an old copy, or rows were found damaged. For each partition and
//! class concerned it wants a complete session with every live owner, begun after
//! the need was known. Promises: a layout counts as synced only when that is
//! done; an owner that is down is waited for only where no other one lives; until
//! its disk is filled again a node does not count its own copy towards a read.

use std::collections::{BTreeMap, BTreeSet};

use super::super::id::{NodeId, Partition};
use super::super::sabotage::{Variant, broken};
use super::super::trees::Class;
use super::Machine;
use super::exchange::{Difference, owners};

/// How long a peer is left alone about a partition that could not be filled from
/// it.
const RETRY_MS: u64 = 500;

/// One partition and class to be filled from one peer.
#[derive(Clone, Copy, Debug)]
struct Task {
    /// Whether the peer was asked, and its answer or the session is awaited.
    asked: bool,
    not_before_ms: u64,
    /// Whether a layout waits for it; else rows are damaged.
    layout: bool,
    /// A session that began before this does not count.
    since_ms: u64,
}

/// How far the filling from one peer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    pub from: NodeId,
    /// Partitions and classes that are filled, and of how many.
    pub done: u64,
    pub total: u64,
}

/// What is still to be filled.
#[derive(Default)]
pub(super) struct Filling {
    /// The layout version that it is for, if any.
    version: Option<u64>,
    tasks: BTreeMap<Difference, Task>,
    /// By peer, how many tasks the layout began with.
    totals: BTreeMap<NodeId, u64>,
    /// Partitions with damaged rows that every other owner has been asked about.
    refilled: BTreeSet<Partition>,
}

impl Filling {
    /// Whether a session with this peer is part of it.
    pub fn wants(&self, difference: Difference) -> bool {
        self.tasks.contains_key(&difference)
    }

    /// The peer agrees about this partition, by a comparison begun at this time.
    /// Whether it was the last one to be asked about damaged rows.
    pub fn on_done(&mut self, difference: Difference, begun_ms: u64) -> bool {
        let Some(task) = self.tasks.get_mut(&difference) else {
            return false;
        };
        if begun_ms < task.since_ms {
            task.asked = false;
            return false;
        }
        let layout = task.layout;
        self.tasks.remove(&difference);
        let partition = difference.partition;
        let open =
            |(other, task): (&Difference, &Task)| other.partition == partition && !task.layout;
        !layout && !self.tasks.iter().any(open) && self.refilled.insert(partition)
    }

    /// Whether every other owner has been asked about the damaged rows of this
    /// partition; forgets it.
    pub fn take_refilled(&mut self, partition: Partition) -> bool {
        self.refilled.remove(&partition)
    }

    /// It could not be brought about now.
    pub fn on_failed(&mut self, difference: Difference, now_ms: u64) {
        if let Some(task) = self.tasks.get_mut(&difference) {
            task.asked = false;
            task.not_before_ms = now_ms + RETRY_MS;
        }
    }

    /// The peer did not say.
    pub fn on_unknown(&mut self, peer: NodeId, trees: &[(Partition, Class)], now_ms: u64) {
        for &(partition, class) in trees {
            let difference = Difference {
                peer,
                partition,
                class,
            };
            self.on_failed(difference, now_ms);
        }
    }

    fn lacks(&self, partition: Partition) -> bool {
        self.tasks
            .iter()
            .any(|(difference, task)| task.layout && difference.partition == partition)
    }

    fn layout_waits(&self) -> bool {
        self.tasks.values().any(|task| task.layout)
    }

    fn transfers(&self) -> Vec<Transfer> {
        let open = |peer: NodeId| {
            let tasks = self.tasks.iter();
            tasks
                .filter(|(difference, task)| task.layout && difference.peer == peer)
                .count() as u64
        };
        self.totals
            .iter()
            .map(|(&from, &total)| Transfer {
                from,
                done: total.saturating_sub(open(from)),
                total,
            })
            .collect()
    }
}

impl Machine {
    /// What is being filled from whom, for the layout.
    pub fn transfers(&self) -> Vec<Transfer> {
        self.exchanges.filling.transfers()
    }

    /// Whether the own copy of this partition counts for reads: not while this
    /// node's disk is being filled again.
    pub(super) fn is_filled(&self, partition: Partition) -> bool {
        if self.membership.is_filled() || broken(Variant::UnfilledCounts) {
            return true;
        }
        let is_owner = self.reading_ring.as_ref().is_some_and(|ring| {
            self.exchanges
                .classes_in_use()
                .iter()
                .any(|&class| owners(ring, partition, class).contains(&self.me))
        });
        let begun = self.exchanges.filling.version.is_some();
        !is_owner || (begun && !self.exchanges.filling.lacks(partition))
    }

    /// Rows of this partition are damaged: every live owner is compared with.
    pub(super) fn refill(&mut self, partition: Partition) {
        let Some(ring) = self.ring.clone() else {
            return;
        };
        let now_ms = self.now.monotonic_ms;
        for class in self.exchanges.classes_in_use() {
            let owners = owners(&ring, partition, class);
            if !owners.contains(&self.me) {
                continue;
            }
            for &peer in owners.iter().filter(|node| **node != self.me) {
                let difference = Difference {
                    peer,
                    partition,
                    class,
                };
                let task = Task {
                    asked: false,
                    not_before_ms: 0,
                    layout: false,
                    since_ms: now_ms,
                };
                self.exchanges
                    .filling
                    .tasks
                    .entry(difference)
                    .or_insert(task);
            }
        }
    }

    pub(super) fn tick_filling(&mut self) {
        if let Some(version) = self.membership.sync_wanted()
            && self.exchanges.filling.version != Some(version)
        {
            self.begin_filling(version);
        }
        if self.exchanges.filling.tasks.is_empty() && self.exchanges.filling.version.is_none() {
            return;
        }
        self.drop_dead_sources();
        self.ask_sources();
        if let Some(version) = self.exchanges.filling.version
            && !self.exchanges.filling.layout_waits()
        {
            self.exchanges.filling.version = None;
            self.exchanges.filling.totals.clear();
            let layout = self.ring.as_ref().map(|ring| ring.layout().clone());
            if let Some(layout) = layout.filter(|layout| layout.version() == version) {
                let gossip = self.membership.on_synced(version, layout.digest());
                self.on_gossip(gossip);
            }
        }
    }

    /// Finds out what a layout wants filled, from whom.
    fn begin_filling(&mut self, version: u64) {
        let (Some(newest), Some(reading)) = (self.ring.clone(), self.reading_ring.clone()) else {
            return;
        };
        if newest.layout().version() != version {
            return;
        }
        let synced = self.membership.me().layout_synced;
        let held = self
            .writing_rings
            .iter()
            .find(|ring| ring.layout().version() == synced)
            .cloned();
        let now_ms = self.now.monotonic_ms;
        let me = self.me;
        let filling = &mut self.exchanges.filling;
        filling.version = Some(version);
        filling.totals.clear();
        filling.tasks.retain(|_, task| !task.layout);
        let classes = self.exchanges.classes_in_use();
        for partition in (0..newest.layout().partitions()).map(Partition) {
            for &class in &classes {
                let held = held.as_deref();
                let has = held.is_some_and(|held| owners(held, partition, class).contains(&me));
                let has = has || broken(Variant::FilledByWord);
                if has || !owners(&newest, partition, class).contains(&me) {
                    continue;
                }
                for &peer in owners(&reading, partition, class) {
                    if peer == me {
                        continue;
                    }
                    let difference = Difference {
                        peer,
                        partition,
                        class,
                    };
                    let task = Task {
                        asked: false,
                        not_before_ms: 0,
                        layout: true,
                        since_ms: now_ms,
                    };
                    self.exchanges.filling.tasks.insert(difference, task);
                    *self.exchanges.filling.totals.entry(peer).or_default() += 1;
                }
            }
        }
    }

    /// A source that is down is not waited for where another one lives, this node
    /// itself among them: whatever was acknowledged by W lies on more than one. One
    /// that was removed is not waited for at all.
    fn drop_dead_sources(&mut self) {
        let Some(reading) = self.reading_ring.clone() else {
            return;
        };
        let dead: Vec<Difference> = self
            .exchanges
            .filling
            .tasks
            .iter()
            .filter(|(difference, task)| {
                let removed = self.membership.is_removed(difference.peer);
                removed || task.layout && !self.is_up(difference.peer)
            })
            .map(|(difference, _)| *difference)
            .collect();
        for difference in dead {
            let sources = owners(&reading, difference.partition, difference.class);
            let filled = self.membership.is_filled();
            let another = sources
                .iter()
                .any(|&node| self.is_up(node) && (node != self.me || filled));
            if another || self.membership.is_removed(difference.peer) {
                self.exchanges.filling.tasks.remove(&difference);
            }
        }
    }

    /// Asks every live source about what is to be had from it.
    fn ask_sources(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let mut due: BTreeMap<NodeId, Vec<(Partition, Class)>> = BTreeMap::new();
        for (difference, task) in &self.exchanges.filling.tasks {
            let known = self.exchanges.trees.is_known(difference.partition);
            if !task.asked && now_ms >= task.not_before_ms && known && self.is_up(difference.peer) {
                due.entry(difference.peer)
                    .or_default()
                    .push((difference.partition, difference.class));
            }
        }
        for (peer, trees) in due {
            for &(partition, class) in &trees {
                let difference = Difference {
                    peer,
                    partition,
                    class,
                };
                if let Some(task) = self.exchanges.filling.tasks.get_mut(&difference) {
                    task.asked = true;
                }
            }
            self.ask_roots(peer, trees);
        }
    }
}
