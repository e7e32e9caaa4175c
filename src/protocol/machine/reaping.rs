//! Reaping: forgetting tombstones that nothing can contradict any more.
//!
//! A tombstone says that a value was deleted to whoever still holds that value.
//! It may go when nobody does: it is older than `reap_after`, every owner holds
//! exactly it, and every member says that it holds no hint and no stray of the
//! partition and has nothing under way that is older than the last look. Never by
//! time alone: with one member away, nothing is reaped.
//!
//! The first owner of a partition looks three times, `reap_after` apart, and each
//! time all must agree; members that slept in between do not agree. Why three: a
//! copy of the deleted value could be under way to a fallback at the first look,
//! be read there before the second, and be under way to an owner as a repair; what
//! was under way at the second has arrived by the third, since no request lives
//! for `reap_after`. (Riak reaps after a fixed three seconds, and has its
//! "doomstone"; Cassandra after `gc_grace`, and asks its operators to repair in
//! time.)
//!
//! Promises: a value that a client deleted does not come back through reaping. An
//! owner that missed the order to reap gives the tombstone back to the others in
//! the next exchange, and it is reaped another time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::effect::Leaf;
use super::super::exchange::{ANSWER_TIMEOUT_MS, Answer, Ask};
use super::super::id::{ItemKey, NodeId, Partition};
use super::super::membership::Status;
use super::super::message::{Message, Refusal};
use super::super::sabotage::{Variant, broken};
use super::super::siblings::StateHash;
use super::super::trees::{Class, NO_CLASS};
use super::background::Chore;
use super::exchange::owners;
use super::serving::Asker;
use super::{AwaitedOf, Machine};

/// How often all must agree.
pub const LOOKS: u32 = 3;
/// How many tombstones are voted on at once.
pub const BALLOT_ITEMS: usize = 128;
/// How many tombstones this node has looked at and waits to look at again. What
/// does not fit waits for the next round over the rows.
pub const MAX_LOOKS: usize = 65_536;
/// How many ballots wait.
const MAX_BALLOTS: usize = 1_024;

/// What was seen of a tombstone so far.
#[derive(Clone, Copy, Debug)]
struct Look {
    hash: StateHash,
    agreed: u32,
    first_ms: u64,
    last_ms: u64,
}

/// A vote under way, or the order to reap that follows it.
#[derive(Debug)]
struct Ballot {
    /// Answers to other ballots mean nothing.
    number: u64,
    partition: Partition,
    class: Class,
    items: Vec<(ItemKey, StateHash)>,
    /// Who has not answered.
    awaited: BTreeSet<NodeId>,
    owners: Vec<NodeId>,
    /// Items on which all owners agree so far, by their place.
    agreed: BTreeSet<u32>,
    /// Whether all have agreed often enough, and this is the order.
    order: bool,
    due_ms: u64,
}

/// Tombstones of one partition that are to be voted on.
type Ripe = (Partition, Class, Vec<(ItemKey, StateHash)>);

/// A node's reaping.
#[derive(Default)]
pub(super) struct Reaping {
    looks: BTreeMap<(Partition, ItemKey), Look>,
    waiting: VecDeque<Ripe>,
    ballot: Option<Ballot>,
}

impl Machine {
    /// The rows of a partition are being looked at: tombstones that are old enough
    /// are put to the vote.
    pub(super) fn note_tombstones(&mut self, partition: Partition, leaves: &[Leaf]) {
        let [ring] = &self.writing_rings[..] else {
            return;
        };
        let (now_ms, now_us) = (self.now.monotonic_ms, self.now.wall_us);
        let reap_after_ms = self.exchanges.upkeep.reap_after_ms;
        let mut ripe: BTreeMap<(Class, bool), Vec<(ItemKey, StateHash)>> = BTreeMap::new();
        for leaf in leaves {
            let place = (partition, leaf.key.clone());
            let (Some(hash), Some(deleted_us)) = (leaf.hash, leaf.deleted_us) else {
                self.exchanges.reaping.looks.remove(&place);
                continue;
            };
            let class = self.exchanges.class_of(&leaf.key);
            let age_us = now_us.saturating_sub(deleted_us);
            let first = owners(ring, partition, class).first() == Some(&self.me);
            if class == NO_CLASS || !first || age_us < reap_after_ms.saturating_mul(1000) {
                continue;
            }
            let looks = &mut self.exchanges.reaping.looks;
            let fresh = looks.get(&place).is_none_or(|look| look.hash != hash);
            if fresh {
                if looks.len() >= MAX_LOOKS {
                    continue;
                }
                let look = Look {
                    hash,
                    agreed: 0,
                    first_ms: now_ms,
                    last_ms: now_ms,
                };
                looks.insert(place, look);
            } else if looks
                .get(&place)
                .is_some_and(|look| look.agreed > 0 && now_ms < look.last_ms + reap_after_ms)
            {
                continue;
            }
            let again = looks
                .get(&(partition, leaf.key.clone()))
                .is_some_and(|l| l.agreed > 0);
            ripe.entry((class, again))
                .or_default()
                .push((leaf.key.clone(), hash));
        }
        let waiting = &mut self.exchanges.reaping.waiting;
        for ((class, _), items) in ripe {
            for items in items.chunks(BALLOT_ITEMS) {
                if waiting.len() < MAX_BALLOTS {
                    waiting.push_back((partition, class, items.to_vec()));
                }
            }
        }
    }

    pub(super) fn tick_reaping(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let reaping = &mut self.exchanges.reaping;
        if reaping
            .ballot
            .as_ref()
            .is_some_and(|ballot| now_ms >= ballot.due_ms)
        {
            self.give_up_ballot();
        }
        while self.exchanges.reaping.ballot.is_none()
            && !self.exchanges.reaping.waiting.is_empty()
            && self.exchanges.background.may_begin(Chore::Reaping, now_ms)
        {
            let Some((partition, class, items)) = self.exchanges.reaping.waiting.pop_front() else {
                return;
            };
            self.put_to_vote(partition, class, items);
        }
    }

    fn put_to_vote(
        &mut self,
        partition: Partition,
        class: Class,
        items: Vec<(ItemKey, StateHash)>,
    ) {
        let [ring] = &self.writing_rings[..] else {
            return;
        };
        let layout = ring.layout().version();
        let owners = owners(ring, partition, class).to_vec();
        let members: BTreeSet<NodeId> = self
            .membership
            .members()
            .filter(|member| member.status != Status::Removed)
            .map(|member| member.node)
            .collect();
        let now_ms = self.now.monotonic_ms;
        let all_up = members.iter().all(|&node| self.is_up(node));
        if owners.first() != Some(&self.me) || !(all_up || broken(Variant::ReapedByTime)) {
            return;
        }
        let looks = &self.exchanges.reaping.looks;
        let first_ms = items
            .iter()
            .filter_map(|(key, _)| looks.get(&(partition, key.clone())))
            .filter(|look| look.agreed > 0)
            .map(|look| look.first_ms)
            .min();
        let aged_ms = first_ms.map_or(0, |first_ms| now_ms - first_ms);
        let number = self.next_id();
        self.exchanges.reaping.ballot = Some(Ballot {
            number,
            partition,
            class,
            agreed: (0..items.len() as u32).collect(),
            items: items.clone(),
            awaited: members.clone(),
            owners,
            order: false,
            due_ms: now_ms + ANSWER_TIMEOUT_MS,
        });
        if broken(Variant::ReapedByTime) {
            let looks = &mut self.exchanges.reaping.looks;
            for (key, _) in &items {
                if let Some(look) = looks.get_mut(&(partition, key.clone())) {
                    look.agreed = LOOKS;
                }
            }
            return self.close_ballot();
        }
        let vote = Ask::Vote {
            partition,
            class,
            layout,
            aged_ms,
            items,
        };
        self.ask_voters(number, members, vote);
    }

    fn ask_voters(&mut self, ballot: u64, voters: BTreeSet<NodeId>, ask: Ask) {
        for node in voters {
            if node == self.me {
                self.serve(Asker::Me { ballot }, ask.clone());
            } else {
                let ask = ask.clone();
                self.ask(node, AwaitedOf::Reaping(ballot), |id| Message::Exchange {
                    id,
                    ask,
                });
            }
        }
    }

    /// Whether this node may agree at all that something is reaped; and if so,
    /// whether it is one of the owners.
    pub(super) fn could_vote(
        &self,
        partition: Partition,
        class: Class,
        layout: u64,
        aged_ms: u64,
    ) -> Option<bool> {
        let [ring] = &self.writing_rings[..] else {
            return None;
        };
        // A table that is not known here may have rows here all the same.
        if !self.exchanges.classes_in_use().contains(&class) {
            return None;
        }
        let now_ms = self.now.monotonic_ms;
        let awake_ms = now_ms.saturating_sub(self.exchanges.awake_since_ms);
        let (_, items) = self.exchanges.trees.root(partition, class)?;
        let is_owner = owners(ring, partition, class).contains(&self.me);
        // Whoever asks for the first time asks whether all hold the same now.
        let old_ms = now_ms.saturating_sub(self.exchanges.upkeep.reap_after_ms);
        let lingers = aged_ms > 0
            && (self.exchanges.has_session_since(partition, old_ms)
                || self.exchanges.intake.has_since(partition, old_ms)
                || self
                    .slots
                    .values()
                    .any(|slot| slot.item.partition == partition && slot.begun_ms <= old_ms));
        let agrees = ring.layout().version() == layout
            && awake_ms >= aged_ms
            && self.is_filled(partition)
            && (is_owner || items == 0)
            && !self.exchanges.sweep.is_at(partition)
            && !lingers;
        agrees.then_some(is_owner)
    }

    pub(super) fn on_reaping_answer(
        &mut self,
        number: u64,
        from: NodeId,
        answer: Result<Answer, Refusal>,
    ) {
        let open = &mut self.exchanges.reaping.ballot;
        let Some(ballot) = open.as_mut().filter(|ballot| ballot.number == number) else {
            return;
        };
        match (ballot.order, answer) {
            (false, Ok(Answer::Vote { clean: true, same })) => {
                if !ballot.awaited.remove(&from) {
                    return;
                }
                if ballot.owners.contains(&from) {
                    ballot
                        .agreed
                        .retain(|place| same.binary_search(place).is_ok());
                }
                if ballot.awaited.is_empty() {
                    self.close_ballot();
                }
            }
            (true, Ok(Answer::Reaped)) => {
                if ballot.awaited.remove(&from) && ballot.awaited.is_empty() {
                    self.exchanges.reaping.ballot = None;
                }
            }
            _ => self.give_up_ballot(),
        }
    }

    /// A question or an answer was lost.
    pub(super) fn lose_ballot(&mut self, number: u64) {
        let open = self.exchanges.reaping.ballot.as_ref();
        if open.is_some_and(|ballot| ballot.number == number) {
            self.give_up_ballot();
        }
    }

    /// Someone does not agree, or did not answer: looking begins anew.
    fn give_up_ballot(&mut self) {
        let Some(ballot) = self.exchanges.reaping.ballot.take() else {
            return;
        };
        for (key, _) in ballot.items {
            self.exchanges
                .reaping
                .looks
                .remove(&(ballot.partition, key));
        }
    }

    /// All have answered, and all that they hold is nothing to object with.
    fn close_ballot(&mut self) {
        let Some(ballot) = self.exchanges.reaping.ballot.take() else {
            return;
        };
        let now_ms = self.now.monotonic_ms;
        let Ballot {
            partition,
            class,
            items,
            owners,
            agreed,
            ..
        } = ballot;
        let looks = &mut self.exchanges.reaping.looks;
        let mut settled = Vec::new();
        for ((key, hash), place) in items.into_iter().zip(0u32..) {
            let at = (partition, key.clone());
            let Some(look) = looks.get_mut(&at).filter(|look| look.hash == hash) else {
                continue;
            };
            if !agreed.contains(&place) {
                looks.remove(&at);
                continue;
            }
            if look.agreed == 0 {
                look.first_ms = now_ms;
            }
            look.agreed += 1;
            look.last_ms = now_ms;
            if look.agreed >= LOOKS {
                looks.remove(&at);
                settled.push((key, hash));
            }
        }
        if settled.is_empty() {
            return;
        }
        let number = self.next_id();
        self.exchanges.reaping.ballot = Some(Ballot {
            number,
            partition,
            class,
            items: settled.clone(),
            awaited: owners.iter().copied().collect(),
            owners: owners.clone(),
            agreed: BTreeSet::new(),
            order: true,
            due_ms: now_ms + ANSWER_TIMEOUT_MS,
        });
        let order = Ask::Reap {
            partition,
            items: settled,
        };
        self.ask_voters(number, owners.into_iter().collect(), order);
    }
}
