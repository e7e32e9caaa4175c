//! Birth: how a node without a memory finds its cluster, or founds one.
//!
//! Promises: only the first seed of its own list founds, and only when no other
//! seed of the list knows a cluster; a cluster is told of only when its founder
//! will remember it. Every other node asks until someone answers.
//!
//! How the start orders of the seeds a, b, c (in that order, in every list) end:
//!
//! - a before the others: they refuse connections; after `patience_ms` of that,
//!   a founds. The others find it when they start.
//! - a after the others: both say "no cluster"; a founds at once and tells its
//!   seeds, who ask at once.
//! - a dies while founding: nobody heard of the cluster before it was durable. a
//!   remembers it, or founds another that is the only one.
//! - a was wiped: b or c answers with the cluster, and a joins it. That they may
//!   be restarting at the same time is why a refusal is not believed at once.
//! - a restarts with its memory: it never comes here.
//!
//! Lists that disagree about who is first: of two nodes that would found, the
//! one with the lesser id does and the other waits, if they hear one another.

use std::collections::{BTreeMap, VecDeque};

use super::{Gossip, Identity, MAX_MEMBERS, MAX_SEEDS, Membership, NotReady};
use crate::protocol::effect::Address;
use crate::protocol::id::{ClusterId, NodeId};
use crate::protocol::layout::Layout;
use crate::protocol::message::Message;

/// How many questions to each seed are remembered: an answer that comes later
/// than this many further questions is nobody's.
const QUESTIONS_REMEMBERED: usize = 4;
/// A seed that left this many questions unanswered counts as not answering when
/// readiness is explained.
const QUESTIONS_UNTIL_SILENT: u32 = 3;

/// What is known about the own cluster's beginning.
#[derive(Debug)]
pub(super) struct Birth {
    seeds: Vec<Seed>,
    /// The head of the configured list, for people.
    first: Option<Address>,
    is_first: bool,
    started_ms: Option<u64>,
    next_question_ms: u64,
    /// Before this, a node with a lesser id may found in this node's place.
    yield_until_ms: u64,
    /// Which seed was asked under which round.
    questions: VecDeque<(u64, usize)>,
    /// The revision that has to be durable before anyone hears of the cluster.
    founding: Option<u64>,
    /// Who asked before there was a cluster: they are told when there is one.
    waiting: BTreeMap<NodeId, Address>,
    /// When to ask for that again; 0: not asked yet.
    insist_after_ms: u64,
    /// Whether a seed was alive and waiting when this node founded.
    has_company: bool,
    company_until_ms: u64,
    patience_ms: u64,
}

#[derive(Debug)]
struct Seed {
    address: Address,
    asked: u32,
    outcome: Outcome,
}

/// What came of asking a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Unknown,
    Unreachable,
    NoCluster,
    /// The address leads back to this node.
    Myself,
}

impl Birth {
    pub(super) fn new(identity: &Identity) -> Self {
        let mut seeds: Vec<Seed> = Vec::new();
        for address in &identity.seeds {
            let known = seeds.iter().any(|seed| seed.address == *address);
            if *address != identity.address && !known && seeds.len() < MAX_SEEDS {
                seeds.push(Seed {
                    address: address.clone(),
                    asked: 0,
                    outcome: Outcome::Unknown,
                });
            }
        }
        let first = identity.seeds.first().cloned();
        Birth {
            seeds,
            is_first: first
                .as_ref()
                .is_none_or(|first| *first == identity.address),
            first,
            started_ms: None,
            next_question_ms: 0,
            yield_until_ms: 0,
            questions: VecDeque::new(),
            founding: None,
            waiting: BTreeMap::new(),
            insist_after_ms: 0,
            has_company: false,
            company_until_ms: 0,
            patience_ms: 0,
        }
    }

    /// The seeds' addresses, the own one left out.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        let others = self
            .seeds
            .iter()
            .filter(|seed| seed.outcome != Outcome::Myself);
        others.map(|seed| &seed.address)
    }

    /// Whether this node founds a cluster if nobody has one.
    pub(super) fn may_found(&self) -> bool {
        self.is_first
    }

    /// Whether the cluster may be spoken of.
    pub(super) fn is_durable(&self) -> bool {
        self.founding.is_none()
    }

    /// Returns whether this was what a founder waited for.
    pub(super) fn on_durable(&mut self, revision: u64, now_ms: u64) -> bool {
        let done = self.founding.is_some_and(|founding| revision >= founding);
        if done {
            self.founding = None;
            self.company_until_ms = now_ms + self.patience_ms;
        }
        done
    }

    /// Whether seeds that were waiting when this node founded are about to join.
    pub(super) fn expects_others(&self, now_ms: u64) -> bool {
        self.has_company && now_ms < self.company_until_ms
    }

    /// Asks again without waiting: someone nearby knows more than before.
    pub(super) fn ask_soon(&mut self) {
        self.next_question_ms = 0;
    }

    /// The question of this round reached nobody. Returns whether it was one.
    pub(super) fn on_unreachable(&mut self, round: u64) -> bool {
        self.settle(round, Outcome::Unreachable)
    }

    /// The question of this round came back to its sender.
    pub(super) fn on_myself(&mut self, round: u64) {
        if self.settle(round, Outcome::Myself) {
            let myself = |seed: &Seed| {
                seed.outcome == Outcome::Myself && Some(&seed.address) == self.first.as_ref()
            };
            self.is_first |= self.seeds.iter().any(myself);
        }
    }

    /// The seed asked in this round knows no cluster.
    pub(super) fn on_no_cluster(&mut self, round: u64) {
        self.settle(round, Outcome::NoCluster);
    }

    /// Someone looks for a cluster and this node has none to offer yet.
    pub(super) fn on_asked(&mut self, from: NodeId, address: &Address) {
        if self.waiting.len() < MAX_MEMBERS || self.waiting.contains_key(&from) {
            self.waiting.insert(from, address.clone());
        }
    }

    /// Those who asked in vain; they are named once.
    pub(super) fn waiting(&mut self) -> BTreeMap<NodeId, Address> {
        std::mem::take(&mut self.waiting)
    }

    /// A node with a lesser id would found as well: let it.
    pub(super) fn yield_to(&mut self, now_ms: u64, patience_ms: u64) {
        self.yield_until_ms = now_ms + patience_ms;
    }

    fn settle(&mut self, round: u64, outcome: Outcome) -> bool {
        let Some(&(_, seed)) = self.questions.iter().find(|(asked, _)| *asked == round) else {
            return false;
        };
        let seed = &mut self.seeds[seed];
        seed.asked = 0;
        if seed.outcome != Outcome::Myself {
            seed.outcome = outcome;
        }
        true
    }

    /// Whether every other seed has been given its chance.
    fn is_time_to_found(&self, now_ms: u64) -> bool {
        let waited_ms = now_ms.saturating_sub(self.started_ms.unwrap_or(now_ms));
        let settled = self.seeds.iter().all(|seed| match seed.outcome {
            Outcome::NoCluster | Outcome::Myself => true,
            Outcome::Unreachable => waited_ms >= self.patience_ms,
            Outcome::Unknown => waited_ms >= 2 * self.patience_ms,
        });
        self.is_first && settled && now_ms >= self.yield_until_ms
    }

    /// Why a node that still seeks is not ready.
    pub(super) fn not_ready(&self) -> NotReady {
        let outcome = |outcome| self.seeds.iter().any(|seed| seed.outcome == outcome);
        let mute = |seed: &Seed| match seed.outcome {
            Outcome::Unreachable | Outcome::Myself => true,
            Outcome::Unknown => seed.asked >= QUESTIONS_UNTIL_SILENT,
            Outcome::NoCluster => false,
        };
        if let Some(first) = self.first.clone().filter(|_| outcome(Outcome::NoCluster)) {
            return NotReady::NoClusterYet { first };
        }
        if self.is_first || !self.seeds.iter().all(mute) {
            return NotReady::Seeking;
        }
        let seeds: Vec<String> = self.addresses().map(ToString::to_string).collect();
        NotReady::NoSeedAnswers {
            seeds: seeds.join(", "),
        }
    }
}

impl Membership {
    /// One step of looking for a cluster.
    pub(super) fn seek(&mut self, now_ms: u64, now_us: u64, dice: &mut dyn FnMut() -> u64) {
        self.birth.patience_ms = self.pace.patience_ms;
        self.birth.started_ms.get_or_insert(now_ms);
        if now_ms >= self.birth.next_question_ms {
            self.birth.next_question_ms = now_ms + self.pace.seek_interval_ms;
            for index in 0..self.birth.seeds.len() {
                if self.birth.seeds[index].outcome != Outcome::Myself {
                    self.ask_seed(index, now_us);
                }
            }
        }
        if self.birth.is_time_to_found(now_ms) {
            self.found(ClusterId(dice()));
        }
    }

    fn ask_seed(&mut self, index: usize, now_us: u64) {
        let summary = self.summary(now_us);
        let birth = &mut self.birth;
        birth.questions.push_back((summary.round, index));
        if birth.questions.len() > QUESTIONS_REMEMBERED * birth.seeds.len() {
            birth.questions.pop_front();
        }
        let seed = &mut birth.seeds[index];
        seed.asked = seed.asked.saturating_add(1);
        self.out.push(Gossip::Contact {
            address: seed.address.clone(),
            message: Message::GossipSummary(Box::new(summary)),
        });
    }

    /// Founds a cluster, of which nobody hears before it is durable.
    fn found(&mut self, cluster: ClusterId) {
        self.cluster = Some(cluster);
        let founder = self.candidate_of(self.me());
        let Identity {
            partitions,
            replicas,
            ..
        } = self.identity;
        self.birth.has_company = self
            .birth
            .seeds
            .iter()
            .any(|seed| seed.outcome == Outcome::NoCluster);
        self.gossip.caught_up();
        self.take_layout(Layout::founding(partitions, replicas, founder));
        self.take_as_synced();
        self.settle_layouts();
        self.birth.founding = Some(self.revision);
        self.birth.insist_after_ms = 0;
    }

    /// Asks for durability again while there is none: the store may have failed.
    pub(super) fn insist(&mut self, now_ms: u64) {
        if self.birth.insist_after_ms == 0 {
            self.birth.insist_after_ms = now_ms + self.pace.patience_ms;
        } else if now_ms >= self.birth.insist_after_ms {
            self.birth.insist_after_ms = now_ms + self.pace.patience_ms;
            self.asked_revision = 0;
        }
    }

    /// Whether the peer, which has no cluster either, should found instead.
    pub(super) fn meet_founder(&mut self, peer: NodeId, may_found: bool, now_ms: u64) {
        if may_found && peer < self.identity.node {
            self.birth.yield_to(now_ms, self.pace.patience_ms);
        }
    }
}
