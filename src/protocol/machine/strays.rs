//! Strays: rows of partitions that this node does not own go to those who do.
//!
//! Joins, leaves, lost gossip and forgotten hints all heal through this one rule.
//! Promises: a stray is forgotten only after every owner holds its state durably,
//! and only if it is still that state; nothing is moved while a change of layout
//! is under way, nor before its owners are all up; one batch is under way at a
//! time, and after each the sweep rests in proportion to what it moved.

use std::collections::VecDeque;

use super::super::effect::{StoreError, StoreReply, StoreRequest};
use super::super::exchange::{ANSWER_TIMEOUT_MS, Answer, Ask, BYTES_PER_SECOND, bytes_of};
use super::super::id::{ItemKey, NodeId, Partition};
use super::super::message::{Message, Refusal};
use super::super::sabotage::{Variant, broken};
use super::super::siblings::StateHash;
use super::super::trees::{Class, NO_CLASS};
use super::background::{Chore, Took};
use super::exchange::owners;
use super::{AwaitedOf, Job, Machine};

/// How many items are offered to the owners at once.
pub const SWEEP_BATCH: usize = 128;
/// How long the sweep waits after it failed, or found nothing to do.
const PAUSE_MS: u64 = 1_000;

/// What the sweep waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Listing,
    Asking,
    Reading,
    Giving,
    Dropping,
}

#[derive(Debug)]
struct Work {
    partition: Partition,
    class: Class,
    /// Those that have not confirmed the batch yet, the next one first.
    owners: VecDeque<NodeId>,
    after: Option<ItemKey>,
    /// Whether no more items follow this batch.
    last: bool,
    items: Vec<(ItemKey, StateHash)>,
    /// What the first owner lacks.
    lacking: Vec<ItemKey>,
    stage: Stage,
    /// Names what is awaited: answers to earlier steps mean nothing.
    step: u64,
    due_ms: u64,
    bytes: u64,
}

/// The sweep of this node.
#[derive(Default)]
pub(super) struct Sweep {
    work: Option<Work>,
    not_before_ms: u64,
    /// Where the last one was, so that one that fails does not hold up the others.
    last: Option<(Partition, Class)>,
}

impl Sweep {
    /// Whether it is at this partition.
    pub fn is_at(&self, partition: Partition) -> bool {
        self.work
            .as_ref()
            .is_some_and(|work| work.partition == partition)
    }

    /// Whether it is at any.
    pub fn is_busy(&self) -> bool {
        self.work.is_some()
    }

    /// What the work waits for, if this is the step that it waits for.
    fn stage(&self, step: u64) -> Option<Stage> {
        let work = self.work.as_ref();
        work.filter(|work| work.step == step).map(|work| work.stage)
    }
}

impl Machine {
    /// How many items this node holds of partitions that it does not own, those
    /// that it keeps for a primary that is away among them.
    pub fn strays(&self) -> u64 {
        let present = self.exchanges.trees.present();
        present
            .filter(|(partition, class, _)| self.is_stray(*partition, *class))
            .map(|(_, _, items)| items)
            .sum()
    }

    /// Whether items of this partition and class have no business here.
    pub(super) fn is_stray(&self, partition: Partition, class: Class) -> bool {
        let owned =
            |ring: &std::sync::Arc<super::Ring>| owners(ring, partition, class).contains(&self.me);
        class != NO_CLASS && !self.writing_rings.iter().any(owned)
    }

    pub(super) fn tick_sweep(&mut self) {
        let now_ms = self.now.monotonic_ms;
        if self
            .exchanges
            .sweep
            .work
            .as_ref()
            .is_some_and(|work| now_ms >= work.due_ms)
        {
            return self.stop_sweep();
        }
        if self.exchanges.sweep.work.is_some() || now_ms < self.exchanges.sweep.not_before_ms {
            return;
        }
        self.exchanges.sweep.not_before_ms = now_ms + PAUSE_MS;
        // Hints go home by themselves, with less ado.
        let hints_wait = self
            .membership
            .members()
            .any(|member| self.hints.held(member.node) > 0 && self.is_up(member.node));
        let [ring] = &self.writing_rings[..] else {
            return;
        };
        if hints_wait {
            return;
        }
        let last = self.exchanges.sweep.last;
        let candidates: Vec<(Partition, Class)> = self
            .exchanges
            .trees
            .present()
            .map(|(partition, class, _)| (partition, class))
            .filter(|&(partition, class)| self.is_stray(partition, class))
            .filter(|&(partition, class)| {
                owners(ring, partition, class)
                    .iter()
                    .all(|&owner| self.is_up(owner))
            })
            .collect();
        if candidates.is_empty() {
            return;
        }
        let background = &mut self.exchanges.background;
        if !background.may_begin(Chore::Sweeping, now_ms) {
            self.exchanges.sweep.not_before_ms = now_ms;
            return;
        }
        let next = candidates
            .iter()
            .find(|place| Some(**place) > last)
            .or_else(|| candidates.first());
        let Some(&(partition, class)) = next else {
            return;
        };
        self.exchanges.sweep.last = Some((partition, class));
        self.exchanges.sweep.work = Some(Work {
            partition,
            class,
            owners: VecDeque::new(),
            after: None,
            last: false,
            items: Vec::new(),
            lacking: Vec::new(),
            stage: Stage::Listing,
            step: 0,
            due_ms: now_ms + ANSWER_TIMEOUT_MS,
            bytes: 0,
        });
        self.list_strays();
    }

    /// What is not done is found again.
    fn stop_sweep(&mut self) {
        self.exchanges.sweep.work = None;
        self.exchanges.sweep.not_before_ms = self.now.monotonic_ms + PAUSE_MS;
    }

    /// The work goes on with this step, which gets a number of its own.
    fn step_sweep(&mut self, stage: Stage) -> Option<(u64, &mut Work)> {
        let step = self.next_id();
        let due_ms = self.now.monotonic_ms + ANSWER_TIMEOUT_MS;
        if matches!(stage, Stage::Listing | Stage::Reading | Stage::Dropping) {
            // The other steps are the owners' work.
            let now_ms = self.now.monotonic_ms;
            self.exchanges.background.begin(Chore::Sweeping, now_ms);
        }
        let work = self.exchanges.sweep.work.as_mut()?;
        work.stage = stage;
        work.step = step;
        work.due_ms = due_ms;
        Some((step, work))
    }

    fn list_strays(&mut self) {
        let Some((step, work)) = self.step_sweep(Stage::Listing) else {
            return;
        };
        let request = StoreRequest::Derive {
            partition: work.partition,
            after: work.after.clone(),
            limit: SWEEP_BATCH,
        };
        self.store(Job::Sweep(step), request);
    }

    pub(super) fn on_sweep_store(&mut self, step: u64, reply: Result<StoreReply, StoreError>) {
        let Some(stage) = self.exchanges.sweep.stage(step) else {
            return;
        };
        let begun_ms = self
            .exchanges
            .sweep
            .work
            .as_ref()
            .map_or(0, |work| work.due_ms - ANSWER_TIMEOUT_MS);
        let took = Took {
            begun_ms,
            now_ms: self.now.monotonic_ms,
        };
        let (items, bytes) = match &reply {
            Ok(StoreReply::Leaves { leaves, .. }) => (leaves.len(), 0),
            Ok(StoreReply::Rows { rows, .. }) => (rows.len(), bytes_of(rows)),
            Ok(StoreReply::Dropped(dropped)) => (dropped.len(), 0),
            _ => (0, 0),
        };
        self.exchanges
            .background
            .on_done(Chore::Sweeping, items, bytes, took);
        match (stage, reply) {
            (Stage::Listing, Ok(StoreReply::Leaves { leaves, done })) => {
                let Some(mut work) = self.exchanges.sweep.work.take() else {
                    return;
                };
                work.after = leaves.last().map(|leaf| leaf.key.clone()).or(work.after);
                work.last = done;
                if leaves.iter().any(|leaf| leaf.hash.is_none()) {
                    // It cannot be handed over: whoever looks at all rows decides.
                    self.on_damage(work.partition);
                }
                work.items = leaves
                    .into_iter()
                    .filter(|leaf| self.exchanges.class_of(&leaf.key) == work.class)
                    .filter_map(|leaf| leaf.hash.map(|hash| (leaf.key, hash)))
                    .collect();
                let ring = self.writing_rings.first();
                let alone = self.writing_rings.len() == 1;
                let owners = ring.map(|ring| owners(ring, work.partition, work.class));
                work.owners = owners.into_iter().flatten().copied().collect();
                // The layout may have changed since, and with it whose they are.
                let stray = alone && !work.owners.is_empty() && !work.owners.contains(&self.me);
                let (empty, last) = (work.items.is_empty(), work.last);
                self.exchanges.sweep.work = stray.then_some(work);
                match (empty, last) {
                    (false, _) => self.ask_owner(),
                    (true, false) => self.list_strays(),
                    (true, true) => self.stop_sweep(),
                }
            }
            (Stage::Reading, Ok(StoreReply::Rows { rows, done })) => {
                let Some(work) = &mut self.exchanges.sweep.work else {
                    return;
                };
                match rows.last() {
                    Some((last, _)) if !done => {
                        let read = work.lacking.iter().position(|key| key == last);
                        work.lacking
                            .drain(..read.map_or(work.lacking.len(), |at| at + 1));
                    }
                    _ => work.lacking.clear(),
                }
                if rows.is_empty() {
                    return self.on_owner_has_all();
                }
                let Some(&owner) = work.owners.front() else {
                    return self.stop_sweep();
                };
                work.bytes += bytes_of(&rows);
                let partition = work.partition;
                self.counters.rows_given += rows.len() as u64;
                let Some((step, _)) = self.step_sweep(Stage::Giving) else {
                    return;
                };
                self.ask(owner, AwaitedOf::Sweep(step), |id| Message::Exchange {
                    id,
                    ask: Ask::Give { partition, rows },
                });
            }
            (Stage::Dropping, Ok(StoreReply::Dropped(dropped))) => {
                self.counters.strays_moved += dropped.len() as u64;
                let now_ms = self.now.monotonic_ms;
                let Some(work) = &mut self.exchanges.sweep.work else {
                    return;
                };
                let rest_ms = std::mem::take(&mut work.bytes) * 1000 / BYTES_PER_SECOND;
                if work.last {
                    self.stop_sweep();
                    self.exchanges.sweep.not_before_ms = now_ms + rest_ms;
                } else if rest_ms > 0
                    || !self.exchanges.background.may_begin(Chore::Sweeping, now_ms)
                {
                    // Begun again after the rest, it finds what is left.
                    self.exchanges.sweep.work = None;
                    self.exchanges.sweep.not_before_ms = now_ms + rest_ms;
                } else {
                    self.list_strays();
                }
            }
            (_, _) => self.stop_sweep(),
        }
    }

    fn ask_owner(&mut self) {
        let Some(work) = &self.exchanges.sweep.work else {
            return;
        };
        let partition = work.partition;
        let items = work.items.clone();
        let unasked = broken(Variant::StrayDroppedEarly);
        let owner = work.owners.front().copied().filter(|_| !unasked);
        let stage = owner.map_or(Stage::Dropping, |_| Stage::Asking);
        let Some((step, _)) = self.step_sweep(stage) else {
            return;
        };
        match owner {
            Some(owner) => {
                self.ask(owner, AwaitedOf::Sweep(step), |id| Message::Exchange {
                    id,
                    ask: Ask::Holds { partition, items },
                });
            }
            // Every owner holds every one of them.
            None => {
                let request = StoreRequest::Forget {
                    partition,
                    items,
                    hints: true,
                };
                self.store(Job::Sweep(step), request);
            }
        }
    }

    fn on_owner_has_all(&mut self) {
        if let Some(work) = &mut self.exchanges.sweep.work {
            work.owners.pop_front();
        }
        self.ask_owner();
    }

    fn give_lacking(&mut self) {
        let lacking = self
            .exchanges
            .sweep
            .work
            .as_ref()
            .map(|work| work.lacking.len());
        if lacking == Some(0) {
            return self.on_owner_has_all();
        }
        let max_bytes = self.exchanges.batch_bytes();
        let Some((step, work)) = self.step_sweep(Stage::Reading) else {
            return;
        };
        let request = StoreRequest::ReadMany {
            partition: work.partition,
            keys: work.lacking.clone(),
            max_bytes,
        };
        self.store(Job::Sweep(step), request);
    }

    pub(super) fn on_sweep_answer(&mut self, step: u64, answer: Result<Answer, Refusal>) {
        let stage = self.exchanges.sweep.stage(step);
        let (Some(stage), Some(work)) = (stage, &mut self.exchanges.sweep.work) else {
            return;
        };
        match (stage, answer) {
            (Stage::Asking, Ok(Answer::Lacking(places))) => {
                work.lacking = places
                    .into_iter()
                    .filter_map(|place| work.items.get(place as usize))
                    .map(|(key, _)| key.clone())
                    .collect();
                self.give_lacking();
            }
            (Stage::Giving, Ok(Answer::Given)) => self.give_lacking(),
            _ => self.stop_sweep(),
        }
    }

    pub(super) fn on_sweep_lost(&mut self, step: u64) {
        if self.exchanges.sweep.stage(step).is_some() {
            self.stop_sweep();
        }
    }
}
