//! Gossip: what is said, to whom, and how what is heard is merged.
//!
//! An exchange has up to three legs:
//!
//! ```text
//! a ── Summary: everyone's pulse, layout and catalog by their digests ──▶ b
//! a ◀─ News: what a lacks; what b wants ──────────────────────────────── b
//! a ── News: what b wanted (only if it wanted anything) ────────────────▶ b
//! ```
//!
//! Promises: merging is commutative, associative and idempotent, so loss,
//! repetition and reordering only cost time; when both know the same, two
//! messages of some forty bytes per member are all. Every round one random live
//! peer is drawn; a change goes to three at once, and on from each of them.
//! Nothing is taken from another cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Fault, Gossip, MAX_LAYOUTS, MAX_MEMBERS, Member, Membership, Pulse};
use crate::protocol::catalog::Catalog;
use crate::protocol::effect::Address;
use crate::protocol::id::{ClusterId, NodeId};
use crate::protocol::layout::Layout;
use crate::protocol::message::Message;

/// To how many peers a change goes at once: with three, all of a thousand nodes
/// have it after some seven hops.
const FANOUT: usize = 3;
/// Every how many rounds, on average, a seed that is no live member is contacted:
/// it may know a part of the cluster that this node lost sight of.
const ROUNDS_PER_SEED: u64 = 8;
/// After this many rounds without an answer a node that was away serves all the
/// same: everyone else seems to be gone, and writes are never refused.
const ROUNDS_ALONE: u32 = 3;
/// A node that did nothing for this many rounds, and for `AWAY_MS`, was away.
const ROUNDS_AWAY: u64 = 5;
/// See `ROUNDS_AWAY`; for clusters whose rounds are short.
const AWAY_MS: u64 = 1_000;
/// First leg: what I know, in short. Also how a node without a cluster asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Names this summary; the answer repeats it.
    pub round: u64,
    /// None: I look for one.
    pub cluster: Option<ClusterId>,
    /// Where the sender is reached.
    pub address: Address,
    /// The sender's wall clock.
    pub wall_us: u64,
    /// Whether the sender founds a cluster if nobody has one.
    pub may_found: bool,
    /// Everyone, in the order of their ids.
    pub members: Vec<Pulse>,
    /// Version and digest of the newest layout; (0, 0) without one.
    pub layout: (u64, u128),
    /// The catalog's digest.
    pub catalog: u64,
}

/// Second and third leg: what you lack.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct News {
    /// None: I have none either.
    pub cluster: Option<ClusterId>,
    /// Where the sender is reached.
    pub address: Address,
    /// The sender's wall clock.
    pub wall_us: u64,
    /// As in a summary.
    pub may_found: bool,
    /// The summary that this answers; none in the third leg.
    pub answers: Option<Answered>,
    /// Entries that the receiver does not have, or of an older incarnation.
    pub members: Vec<Member>,
    /// What is new in entries that it has.
    pub pulses: Vec<Pulse>,
    /// All that the sender has at hand, ascending, if the receiver lacks the newest;
    /// at most `MAX_LAYOUTS`.
    pub layouts: Vec<Layout>,
    pub catalog: Option<Catalog>,
    /// What the sender asks for in return.
    pub wants: Wants,
}

/// The summary that news answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answered {
    pub round: u64,
    /// Its `wall_us`, for the clocks' difference.
    pub wall_us: u64,
}

/// What one side asks of the other.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Wants {
    pub members: Vec<NodeId>,
    pub layouts: bool,
    pub catalog: bool,
}

impl Wants {
    fn is_empty(&self) -> bool {
        self.members.is_empty() && !self.layouts && !self.catalog
    }
}

/// When the next rounds are due, and whether this node knows the present.
#[derive(Debug)]
pub(super) struct Rounds {
    first: u64,
    next: u64,
    due_ms: u64,
    urgent_due_ms: u64,
    urgent: bool,
    greet_seeds: bool,
    caught_up: bool,
    alone: u32,
    ticked_ms: Option<u64>,
}

impl Rounds {
    /// Rounds are numbered from a random number on, so that an answer to an
    /// earlier life of this node is not taken for one to this.
    pub(super) fn new(start_dice: u64) -> Self {
        // Half of the range is left, so the numbers never run out.
        let first = start_dice >> 1;
        Rounds {
            first,
            next: first,
            due_ms: 0,
            urgent_due_ms: 0,
            urgent: true,
            greet_seeds: true,
            caught_up: false,
            alone: 0,
            ticked_ms: None,
        }
    }

    /// Something changed: do not wait for the next round.
    pub(super) fn hurry(&mut self) {
        self.urgent = true;
    }

    /// The next round goes to all seeds too.
    pub(super) fn greet_seeds(&mut self) {
        self.greet_seeds = true;
    }

    pub(super) fn caught_up(&mut self) {
        self.caught_up = true;
        self.alone = 0;
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// The number that the next round will have.
    pub(super) fn upcoming(&self) -> u64 {
        self.next
    }

    fn next_round(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn is_mine(&self, round: u64) -> bool {
        (self.first..self.next).contains(&round)
    }
}

impl Membership {
    /// Rounds that are due.
    pub(super) fn gossip(&mut self, now_ms: u64, now_us: u64, dice: &mut dyn FnMut() -> u64) {
        let regular = now_ms >= self.gossip.due_ms;
        let urgent = self.gossip.urgent && now_ms >= self.gossip.urgent_due_ms;
        if !regular && !urgent {
            return;
        }
        let caught_up = self.gossip.caught_up;
        let peers = self.draw_peers(if urgent || !caught_up { FANOUT } else { 1 }, dice);
        if regular {
            // An eighth of jitter: nodes that started together drift apart.
            let jitter_ms = dice() % (self.pace.gossip_interval_ms / 8).max(1);
            self.gossip.due_ms = now_ms + self.pace.gossip_interval_ms + jitter_ms;
            self.me_mut().heartbeat += 1;
            if self.history.awaits_disk() {
                // The store may have failed.
                self.asked_revision = 0;
            }
            if !caught_up {
                self.gossip.alone += 1;
                if self.gossip.alone > ROUNDS_ALONE {
                    self.gossip.caught_up();
                }
            }
        }
        self.gossip.urgent = false;
        self.gossip.urgent_due_ms = now_ms + self.pace.urgent_interval_ms;
        for (to, address) in &peers {
            let message = Message::GossipSummary(Box::new(self.summary(now_us)));
            self.out.push(Gossip::Send {
                to: *to,
                address: address.clone(),
                message,
            });
        }
        let greet_all = std::mem::take(&mut self.gossip.greet_seeds);
        let greet_one = regular && (peers.is_empty() || dice().is_multiple_of(ROUNDS_PER_SEED));
        if greet_all || greet_one {
            self.contact_seeds(greet_all, now_us, dice);
        }
    }

    /// Random live peers; if none is believed to live, random ones.
    fn draw_peers(&self, count: usize, dice: &mut dyn FnMut() -> u64) -> Vec<(NodeId, Address)> {
        let all = || {
            self.others()
                .map(|member| (member.node, member.address.clone()))
        };
        let mut peers: Vec<(NodeId, Address)> = all()
            .filter(|(node, _)| self.detector.is_up(*node))
            .collect();
        if peers.is_empty() {
            peers = all().collect();
        }
        let count = count.min(peers.len());
        for place in 0..count {
            let rest = (peers.len() - place) as u64;
            peers.swap(place, place + (dice() % rest) as usize);
        }
        peers.truncate(count);
        peers
    }

    /// Contacts all seeds that are no live members, or one of them.
    fn contact_seeds(&mut self, all: bool, now_us: u64, dice: &mut dyn FnMut() -> u64) {
        let is_live_member = |address: &Address| {
            self.others()
                .any(|m| m.address == *address && self.detector.is_up(m.node))
        };
        let mut seeds: Vec<Address> = self
            .birth
            .addresses()
            .filter(|address| !is_live_member(address))
            .cloned()
            .collect();
        if !all && !seeds.is_empty() {
            let index = (dice() % seeds.len() as u64) as usize;
            seeds = vec![seeds.swap_remove(index)];
        }
        for address in seeds {
            let message = Message::GossipSummary(Box::new(self.summary(now_us)));
            self.out.push(Gossip::Contact { address, message });
        }
        for (to, address) in self.birth.waiting() {
            let message = Message::GossipSummary(Box::new(self.summary(now_us)));
            self.out.push(Gossip::Send {
                to,
                address,
                message,
            });
        }
    }

    /// A node that was not running for a while does not know the present.
    pub(super) fn notice_pause(&mut self, now_ms: u64) {
        let Some(ticked_ms) = self.gossip.ticked_ms.replace(now_ms) else {
            let remembered: Vec<NodeId> = self.others().map(|member| member.node).collect();
            remembered
                .into_iter()
                .for_each(|node| self.detector.expect(node, now_ms));
            return;
        };
        let slept_ms = now_ms.saturating_sub(ticked_ms);
        if slept_ms > AWAY_MS.max(ROUNDS_AWAY * self.pace.gossip_interval_ms) {
            self.gossip.caught_up = false;
            self.gossip.alone = 0;
            self.gossip.hurry();
        }
    }

    fn newest_stamp(&self) -> (u64, u128) {
        self.history.newest().map_or((0, 0), |placed| placed.stamp)
    }

    /// What this node knows, in short, under a fresh round number.
    pub(super) fn summary(&mut self, now_us: u64) -> Summary {
        let round = self.gossip.next_round();
        Summary {
            round,
            cluster: self.cluster(),
            address: self.identity.address.clone(),
            wall_us: now_us,
            may_found: self.birth.may_found(),
            members: self.members.values().map(Member::pulse).collect(),
            layout: self.newest_stamp(),
            catalog: self.catalog_digest,
        }
    }

    pub(super) fn on_summary(&mut self, from: NodeId, summary: Summary, now_ms: u64, now_us: u64) {
        if from == self.identity.node {
            self.on_namesake(summary);
            return;
        }
        if !self.birth.is_durable() {
            // Neither "I have one" nor "I have none" would be true if this node
            // died now. Whoever asks will ask again.
            return;
        }
        match (self.cluster, summary.cluster) {
            (None, None) => {
                self.meet_founder(from, summary.may_found, now_ms);
                self.birth.on_asked(from, &summary.address);
                let news = self.news(Some(&summary), now_us);
                self.send_news(from, summary.address, news);
            }
            (None, Some(_)) => {
                // A cluster exists. Only seeds, and those who know this node from
                // before, are believed to be its own.
                self.birth.ask_soon();
                if summary
                    .members
                    .iter()
                    .any(|pulse| pulse.node == self.identity.node)
                {
                    let message = Message::GossipSummary(Box::new(self.summary(now_us)));
                    self.out.push(Gossip::Send {
                        to: from,
                        address: summary.address,
                        message,
                    });
                }
            }
            (Some(ours), Some(theirs)) if ours != theirs => {
                self.fault(Fault::OtherCluster {
                    address: summary.address.clone(),
                    theirs,
                    ours,
                });
                // So that the other side says so too.
                let news = self.news(Some(&summary), now_us);
                self.send_news(from, summary.address, news);
            }
            (Some(_), theirs) => {
                let mut news = self.news(Some(&summary), now_us);
                if theirs.is_some() {
                    news.wants.members = self.merge_pulses(&summary.members, now_ms);
                    self.on_heard(from, now_ms);
                } else {
                    // It will have another incarnation once it has joined.
                    news.wants.members = vec![from];
                }
                let seeks = theirs.is_none();
                self.add_missing(&mut news, &summary, seeks);
                self.send_news(from, summary.address, news);
            }
        }
    }

    pub(super) fn on_news(&mut self, from: NodeId, news: News, now_ms: u64, now_us: u64) {
        if from == self.identity.node || !self.birth.is_durable() {
            return;
        }
        let answered = news
            .answers
            .filter(|answered| self.gossip.is_mine(answered.round));
        match (self.cluster, news.cluster) {
            (None, None) => {
                self.meet_founder(from, news.may_found, now_ms);
                if let Some(answered) = answered {
                    self.birth.on_no_cluster(answered.round);
                }
                return;
            }
            (None, Some(cluster)) => {
                if answered.is_none() || !self.adopt(cluster, &news) {
                    return;
                }
            }
            (Some(ours), Some(theirs)) if ours != theirs => {
                self.fault(Fault::OtherCluster {
                    address: news.address,
                    theirs,
                    ours,
                });
                return;
            }
            // It had none when it wrote this; it will join.
            (Some(_), None) => return,
            (Some(_), Some(_)) => {}
        }
        for member in news.members {
            self.merge_member(member, now_ms);
        }
        // What they hold in entries that this node lacks by now comes with the
        // next round.
        let _wanted = self.merge_pulses(&news.pulses, now_ms);
        for layout in news.layouts.into_iter().take(MAX_LAYOUTS) {
            self.merge_layout(layout, &news.address);
        }
        let mut their_catalog = None;
        if let Some(catalog) = news.catalog {
            their_catalog = Some(catalog.digest());
            self.catalog.merge(&catalog);
            self.catalog_may_have_changed();
        }
        self.on_heard(from, now_ms);
        if let Some(answered) = answered {
            // Whoever answers a round has taken in what it said.
            self.farewell = self.farewell.filter(|&first| answered.round < first);
            self.gossip.caught_up();
            let clock = self.clocks.entry(from).or_default();
            clock.add(answered.wall_us, news.wall_us, now_us);
        }
        if !news.wants.is_empty() {
            let mut reply = self.news(None, now_us);
            let wanted = news.wants.members.iter().take(MAX_MEMBERS);
            reply.members = wanted
                .filter_map(|node| self.members.get(node).cloned())
                .collect();
            if news.wants.layouts {
                reply.layouts = self.layouts();
            }
            let send_catalog = news.wants.catalog && their_catalog != Some(self.catalog_digest);
            reply.catalog = send_catalog.then(|| self.catalog.clone());
            self.send_news(from, news.address, reply);
        }
    }

    /// Someone with this node's id speaks.
    fn on_namesake(&mut self, summary: Summary) {
        if self.gossip.is_mine(summary.round) {
            self.birth.on_myself(summary.round);
        } else if summary.address != self.identity.address {
            self.fault(Fault::SameName {
                address: summary.address,
            });
        }
    }

    /// News without news: who speaks, and what it answers.
    fn news(&self, answers: Option<&Summary>, now_us: u64) -> News {
        News {
            cluster: self.cluster(),
            address: self.identity.address.clone(),
            wall_us: now_us,
            may_found: self.birth.may_found(),
            answers: answers.map(|summary| Answered {
                round: summary.round,
                wall_us: summary.wall_us,
            }),
            members: Vec::new(),
            pulses: Vec::new(),
            layouts: Vec::new(),
            catalog: None,
            wants: Wants::default(),
        }
    }

    /// To where the peer says that it is: fresher than the list.
    fn send_news(&mut self, to: NodeId, address: Address, news: News) {
        self.out.push(Gossip::Send {
            to,
            address,
            message: Message::GossipNews(Box::new(news)),
        });
    }

    /// Fills in what the sender of the summary lacks, and what this node wants of
    /// it. One that seeks a cluster lacks everything but its catalog.
    fn add_missing(&self, news: &mut News, summary: &Summary, seeks: bool) {
        let theirs: BTreeMap<NodeId, &Pulse> = if seeks {
            BTreeMap::new()
        } else {
            summary
                .members
                .iter()
                .map(|pulse| (pulse.node, pulse))
                .collect()
        };
        for member in self.members.values() {
            match theirs.get(&member.node) {
                Some(pulse) if pulse.rank() >= member.rank() => {}
                Some(pulse) if pulse.life() == member.pulse().life() => {
                    news.pulses.push(member.pulse());
                }
                _ => news.members.push(member.clone()),
            }
        }
        news.wants.layouts = !seeks && self.newest_stamp() < summary.layout;
        if seeks || self.newest_stamp() > summary.layout {
            news.layouts = self.layouts();
        }
        if summary.catalog != self.catalog_digest {
            news.wants.catalog = true;
            news.catalog = Some(self.catalog.clone());
        }
    }
}
