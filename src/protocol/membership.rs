//! Membership: who belongs to the cluster, and what all of them must know.
//!
//! Promises: a cluster is born once, by the first seed of its own list, and
//! every other node joins it, in whatever order they start; two clusters never
//! mix; members, layout and catalog spread to everyone through gossip and end up
//! equal; a node that was in a cluster needs no seed to find it again; a node
//! that forgot its own past learns so from its peers. A crash is not a leave.
//!
//! Does not promise that everyone knows the same at once, nor that two halves of
//! a cluster that cannot hear one another agree on the next layout meanwhile:
//! the greater (version, digest) wins when they meet, and the version after it
//! holds what the other half wanted. Nor that a member which operators removed on
//! either side of such a split can be told from one that was dead. If the first seed is wiped and none of its
//! other seeds answers within `Pace::patience_ms`, it founds a second cluster,
//! and both say so when they meet: nobody can tell that from a first start.
//!
//! The parts: `birth` finds or founds a cluster, `gossip` exchanges what is
//! known (Dynamo, section 4.8.1; push-pull as in Demers et al., *Epidemic
//! algorithms*, PODC 1987), `merge` takes it in, `placement` proposes layouts,
//! `history` says which of them are read from and written to, `departure` lets
//! members go. Whom this node believes to be alive is the [`Detector`]'s business.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::detector::Detector;
use super::effect::Address;
use super::id::{ClusterId, NodeId};
use super::layout::Layout;
use super::message::Message;

mod birth;
mod clock;
mod departure;
mod fault;
mod gossip;
mod history;
mod member;
mod merge;
mod placement;
#[cfg(test)]
mod tests;

use birth::Birth;
use clock::ClockFilter;
pub use fault::{Fault, LeaveRefused, NotReady, RemoveRefused};
pub use gossip::{Answered, News, Summary, Wants};
use history::History;
pub use history::MAX_LAYOUTS;
pub use member::{Identity, MAX_MEMBERS, Member, Pace, Pulse, Status, tag_of};

/// How many of the configured seeds are asked: one answer is enough.
pub const MAX_SEEDS: usize = 32;
/// How many different faults are reported before this node falls silent about
/// further ones: they come from outside, and each costs memory.
pub const MAX_FAULTS: usize = 64;

/// What a node needs to remember to be itself after a restart.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Persisted {
    /// Whose memory this is: another node must not take it for its own.
    pub node: NodeId,
    pub incarnation: u64,
    pub cluster: Option<ClusterId>,
    /// Everyone, this node included.
    pub members: Vec<Member>,
    /// Those at hand, ascending by version.
    pub layouts: Vec<Layout>,
    pub catalog: Catalog,
}

impl Persisted {
    /// The node lost items that it once held: it is to be filled like one that was
    /// wiped, and until then its copies count for nothing.
    pub fn lost_items(&mut self) {
        let node = self.node;
        let mine = self.members.iter_mut().filter(|member| member.node == node);
        for member in mine {
            member.layout_synced = 0;
            member.synced_tag = 0;
        }
    }
}

/// What membership wants done.
#[derive(Debug)]
pub enum Gossip {
    Send {
        to: NodeId,
        address: Address,
        message: Message,
    },
    /// To whoever listens there. If it comes to nothing, `on_undelivered` wants
    /// the message back.
    Contact {
        address: Address,
        message: Message,
    },
    /// Store `persisted()` durably, then call `on_persisted` with this number.
    /// At most one per call.
    Persist {
        revision: u64,
    },
    /// The newest layout, the one that is read from, or those that are written to
    /// are others now.
    LayoutChanged,
    CatalogChanged,
    MembersChanged,
    /// Peers know deeds of this node that it does not remember: its store must
    /// take a fresh incarnation before it mints another dot.
    RenewIncarnation,
    /// For the log and the operator; each is reported once.
    Fault(Fault),
}

/// One node's part in membership.
#[derive(Debug)]
pub struct Membership {
    identity: Identity,
    pace: Pace,
    cluster: Option<ClusterId>,
    birth: Birth,
    /// Everyone, this node included.
    members: BTreeMap<NodeId, Member>,
    history: History,
    /// Whether this life began with nothing of a cluster on disk.
    came_empty: bool,
    /// From which round on this node's gossip says that it has left, until somebody
    /// answered such a round.
    farewell: Option<u64>,
    catalog: Catalog,
    catalog_digest: u64,
    detector: Detector,
    clocks: BTreeMap<NodeId, ClockFilter>,
    gossip: gossip::Rounds,
    placement: placement::Quiet,
    /// Counts the changes worth persisting; and what `Persist` was last asked for.
    revision: u64,
    asked_revision: u64,
    faults: BTreeSet<Fault>,
    /// What makes this node unfit to serve at all.
    fatal: Option<Fault>,
    /// How often someone else claimed to be this node in this life.
    impostures: u32,
    out: Vec<Gossip>,
}

impl Membership {
    /// A node that starts. `start_dice` is one throw. The shell stores
    /// `persisted()` before the first tick: a start that is forgotten would give
    /// its incarnation twice.
    pub fn new(
        identity: Identity,
        pace: Pace,
        persisted: Option<Persisted>,
        start_dice: u64,
    ) -> Self {
        let node = identity.node;
        let foreign = persisted.as_ref().is_some_and(|memory| memory.node != node);
        let memory = persisted.filter(|_| !foreign);
        let incarnation = memory.as_ref().map_or(1, |memory| memory.incarnation + 1);
        let (cluster, entries, layouts, catalog) = match memory {
            Some(memory) => (
                memory.cluster,
                memory.members,
                memory.layouts,
                memory.catalog,
            ),
            None => (None, Vec::new(), Vec::new(), Catalog::default()),
        };
        let mut members: BTreeMap<NodeId, Member> = entries
            .into_iter()
            .map(|member| (member.node, member))
            .collect();
        let before = members.remove(&node);
        let read = before.as_ref().map_or(0, |entry| entry.layout_read);
        let history = History::remembered(layouts, read);
        let me = Member {
            node,
            name: identity.name.clone(),
            born: before.as_ref().map_or(1, |entry| entry.born),
            incarnation,
            status: before
                .as_ref()
                .map_or(Status::Joining, |entry| entry.status),
            address: identity.address.clone(),
            weight_milli: identity.weight_milli,
            zone: identity.zone.clone(),
            wire_version: identity.wire_version,
            heartbeat: 0,
            layout_seen: history.newest().map_or(0, |placed| placed.stamp.0),
            layout_synced: before.as_ref().map_or(0, |entry| entry.layout_synced),
            synced_tag: before.map_or(0, |entry| entry.synced_tag),
            layout_read: read,
        };
        let removed = me.status == Status::Removed;
        members.insert(node, me);
        let catalog_digest = catalog.digest();
        let mut membership = Membership {
            birth: Birth::new(&identity),
            detector: Detector::new(pace.gossip_interval_ms),
            gossip: gossip::Rounds::new(start_dice),
            identity,
            pace,
            came_empty: cluster.is_none(),
            cluster,
            members,
            history,
            farewell: None,
            catalog,
            catalog_digest,
            clocks: BTreeMap::new(),
            placement: placement::Quiet::default(),
            revision: 1,
            asked_revision: 1,
            faults: BTreeSet::new(),
            fatal: None,
            impostures: 0,
            out: Vec::new(),
        };
        if foreign {
            membership.become_unfit(Fault::ForeignMemory);
        } else if removed {
            membership.become_unfit(Fault::Removed);
        }
        membership.settle_layouts();
        membership
    }

    /// Time passed. Call it every few dozen milliseconds; it paces itself.
    /// `now_ms` is monotonic, `now_us` the wall clock.
    pub fn tick(&mut self, now_ms: u64, now_us: u64, dice: &mut dyn FnMut() -> u64) -> Vec<Gossip> {
        if self.may_gossip() {
            self.detector.tick(now_ms);
            self.notice_pause(now_ms);
            if self.cluster.is_none() {
                self.seek(now_ms, now_us, dice);
            } else if self.birth.is_durable() {
                self.propose(now_ms);
                self.gossip(now_ms, now_us, dice);
            } else {
                self.insist(now_ms);
            }
            self.settle_layouts();
        }
        self.take()
    }

    /// A message from a peer arrived: gossip is dealt with, anything else only
    /// shows that the peer lives.
    pub fn on_message(
        &mut self,
        from: NodeId,
        message: Message,
        now_ms: u64,
        now_us: u64,
    ) -> Vec<Gossip> {
        if self.may_gossip() {
            match message {
                Message::GossipSummary(summary) => self.on_summary(from, *summary, now_ms, now_us),
                Message::GossipNews(news) => self.on_news(from, *news, now_ms, now_us),
                _ => self.on_heard(from, now_ms),
            }
            self.settle_layouts();
        }
        self.take()
    }

    /// A member was heard, whatever it said.
    pub fn on_heard(&mut self, from: NodeId, now_ms: u64) {
        if self.is_another(from) {
            self.detector.on_heard(from, now_ms);
        }
    }

    /// Whether this is another node that belongs to the cluster.
    fn is_another(&self, node: NodeId) -> bool {
        let belongs = |member: &Member| member.status != Status::Removed;
        node != self.identity.node && self.members.get(&node).is_some_and(belongs)
    }

    /// A message did not reach anyone. `to` means nothing for a message that was
    /// a contact. (Not for queues that are full: those are no one's failure.)
    pub fn on_undelivered(&mut self, to: NodeId, message: &Message, now_ms: u64) {
        let round = match message {
            Message::GossipSummary(summary) => Some(summary.round),
            _ => None,
        };
        if round.is_some_and(|round| self.birth.on_unreachable(round)) {
            return;
        }
        self.on_disconnected(to, now_ms);
    }

    /// A request to a peer went unanswered.
    pub fn on_timeout(&mut self, peer: NodeId, now_ms: u64) {
        if peer != self.identity.node && self.members.contains_key(&peer) {
            self.detector.on_timeout(peer, now_ms);
        }
    }

    /// The connection to a peer broke.
    pub fn on_disconnected(&mut self, peer: NodeId, now_ms: u64) {
        if self.is_another(peer) {
            self.detector.on_failure(peer, now_ms);
        }
    }

    /// What `Persist` asked for under this number is durable.
    pub fn on_persisted(&mut self, revision: u64, now_ms: u64) -> Vec<Gossip> {
        if self.birth.on_durable(revision, now_ms) {
            // Those who wait for this cluster are told at once, by the next tick.
            self.gossip.hurry();
            self.gossip.greet_seeds();
            self.out
                .extend([Gossip::MembersChanged, Gossip::LayoutChanged]);
        }
        self.announce_reading(revision);
        self.settle_layouts();
        self.take()
    }

    /// What a restart needs.
    pub fn persisted(&self) -> Persisted {
        Persisted {
            node: self.identity.node,
            incarnation: self.me().incarnation,
            cluster: self.cluster,
            members: self
                .members
                .values()
                .map(|m| self.as_remembered(m))
                .collect(),
            layouts: self.layouts(),
            catalog: self.catalog.clone(),
        }
    }

    /// An entry as the disk has it: what is read from is told only when it is there.
    fn as_remembered(&self, member: &Member) -> Member {
        let mut entry = member.clone();
        if entry.node == self.identity.node {
            entry.layout_read = self.history.read();
        }
        entry
    }

    /// The revision that `persisted()` describes, for `on_persisted`.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The cluster, once this node is in one that it will remember.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.filter(|_| self.birth.is_durable())
    }

    /// Which nodes should hold what, as of the newest decision; none until this node
    /// is in a cluster.
    pub fn layout(&self) -> Option<&Layout> {
        self.history.newest().map(|placed| &placed.layout)
    }

    /// All layouts at hand, ascending by version.
    fn layouts(&self) -> Vec<Layout> {
        let all = self.history.all();
        all.map(|placed| placed.layout.clone()).collect()
    }

    /// Tables and reconcilers.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Changes the catalog; what changed spreads at once.
    pub fn change_catalog<R>(
        &mut self,
        change: impl FnOnce(&mut Catalog) -> R,
    ) -> (R, Vec<Gossip>) {
        let result = change(&mut self.catalog);
        self.catalog_may_have_changed();
        (result, self.take())
    }

    /// Everyone, this node and removed ones included, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One member's entry.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// Where a member is to be reached.
    pub fn address(&self, node: NodeId) -> Option<&Address> {
        self.members.get(&node).map(|member| &member.address)
    }

    /// This node's own entry.
    pub fn me(&self) -> &Member {
        &self.members[&self.identity.node]
    }

    /// Whether requests should go to the node. This node is always up, and one that
    /// was removed never is.
    pub fn is_up(&self, node: NodeId) -> bool {
        node == self.identity.node || (!self.is_removed(node) && self.detector.is_up(node))
    }

    /// Whether the node was a member and is none any more.
    pub fn is_removed(&self, node: NodeId) -> bool {
        let member = self.members.get(&node);
        member.is_some_and(|member| member.status == Status::Removed)
    }

    /// One that was removed tells so for as long as it runs: others may not have
    /// heard of it before it was stopped.
    fn may_gossip(&self) -> bool {
        matches!(self.fatal, None | Some(Fault::Removed))
    }

    /// Whether this node may take part at all. One that is unfit must not even give
    /// back what it holds for others: it does not belong to them.
    pub fn is_fit(&self) -> bool {
        self.fatal.is_none()
    }

    /// Whom this node believes to be alive.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// For probes and failures of requests.
    pub fn detector_mut(&mut self) -> &mut Detector {
        &mut self.detector
    }

    /// How far the peer's wall clock is ahead of this node's, in microseconds;
    /// none before the first answer.
    pub fn clock_offset_us(&self, node: NodeId) -> Option<i64> {
        self.clocks.get(&node)?.offset_us()
    }

    /// Whether the node can serve, or why not yet.
    pub fn is_ready(&self, now_ms: u64) -> Result<(), NotReady> {
        if let Some(fault) = &self.fatal {
            return Err(NotReady::Fault(fault.clone()));
        }
        if self.cluster.is_none() {
            return Err(self.birth.not_ready());
        }
        if !self.birth.is_durable() {
            return Err(NotReady::Founding);
        }
        match self.me().status {
            Status::Removed if self.farewell.is_some() => return Err(NotReady::TakingLeave),
            Status::Removed => return Err(NotReady::Left),
            Status::Joining => return Err(NotReady::Joining),
            Status::Up | Status::Leaving => {}
        }
        // Data written now would lie on the founder alone.
        let alone = self
            .layout()
            .is_some_and(|layout| layout.nodes().len() == 1);
        let others_wait = self.others().any(|member| member.status == Status::Joining);
        if alone && (others_wait || self.birth.expects_others(now_ms)) {
            return Err(NotReady::Forming);
        }
        if !self.gossip.is_caught_up() && self.others().next().is_some() {
            return Err(NotReady::CatchingUp);
        }
        Ok(())
    }

    /// The other members that are not removed.
    fn others(&self) -> impl Iterator<Item = &Member> {
        self.members
            .values()
            .filter(|member| member.node != self.identity.node && member.status != Status::Removed)
    }

    fn me_mut(&mut self) -> &mut Member {
        self.members
            .get_mut(&self.identity.node)
            .expect("this node is in its own list from the start")
    }

    /// Notes a change that others must hear of soon and a restart must not lose.
    fn members_changed(&mut self) {
        self.revision += 1;
        self.placement.disturb();
        self.history.unsettle();
        self.gossip.hurry();
        self.out.push(Gossip::MembersChanged);
    }

    fn catalog_may_have_changed(&mut self) {
        let digest = self.catalog.digest();
        if digest != self.catalog_digest {
            self.catalog_digest = digest;
            self.revision += 1;
            self.gossip.hurry();
            self.out.push(Gossip::CatalogChanged);
        }
    }

    fn become_unfit(&mut self, fault: Fault) {
        self.fatal = Some(fault.clone());
        self.fault(fault);
    }

    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < MAX_FAULTS && self.faults.insert(fault.clone()) {
            self.out.push(Gossip::Fault(fault));
        }
    }

    /// What is to be done, each kind of change named once.
    fn take(&mut self) -> Vec<Gossip> {
        let mut seen = [false; 4];
        let mut out = std::mem::take(&mut self.out);
        out.retain(|gossip| {
            let kind = match gossip {
                Gossip::MembersChanged => 0,
                Gossip::LayoutChanged => 1,
                Gossip::CatalogChanged => 2,
                Gossip::RenewIncarnation => 3,
                _ => return true,
            };
            !std::mem::replace(&mut seen[kind], true)
        });
        if self.revision > self.asked_revision {
            self.asked_revision = self.revision;
            // Before anything is sent, for shells that work in order.
            out.insert(
                0,
                Gossip::Persist {
                    revision: self.revision,
                },
            );
        }
        out
    }
}
