//! The layouts at hand: which one is read from, which ones are written to, and
//! when an old one is over.
//!
//! A layout that is new has data that is still on its way, so for a while there
//! are several. Each node says of itself which version it has *seen*, is *synced*
//! to (it holds what that layout gives it), and *reads* from; the rest follows, as
//! in Garage's layout history. Promises, of all nodes together:
//!
//! - A node begins to read from a layout only when every counted member is synced
//!   to that very layout, or when another one reads from it already.
//! - A node never goes back to reading from an older layout, in one life or, as far
//!   as its disk remembers, over several.
//! - A node writes to a layout for as long as anybody who counts may read from an
//!   older one or from it, so whoever reads finds every write where it looks.
//!
//! Counted are the members that are up or leaving, and those joining that a layout
//! at hand names; also ids that a layout names and the member list does not know
//! yet. A dead member counts: until it is back or removed, nobody moves on.
//!
//! Only the newest layout at hand is ever moved to. That makes two proposals of one
//! version harmless: the loser may stay somewhere among older ones, where nobody
//! starts to read from it, and whoever was synced to it says so with another tag.
//!
//! Does not move data, and does not know who holds what; the machine tells it when
//! a transfer is done.

use super::member::tag_of;
use super::{Gossip, Member, Membership, Status};
use crate::protocol::id::NodeId;
use crate::protocol::layout::Layout;

/// How many layouts are at hand at most. At the bound no further one is proposed:
/// members that are down hold up the present change, and joins and leaves wait
/// until they are back or removed. A peer that brings more than fit has the oldest
/// dropped that this node does not read from.
pub const MAX_LAYOUTS: usize = 8;

/// A layout and what decides between two of them, which is costly to compute.
#[derive(Debug)]
pub(super) struct Placed {
    pub layout: Layout,
    pub stamp: (u64, u128),
}

impl Placed {
    fn new(layout: Layout) -> Self {
        let stamp = (layout.version(), layout.digest());
        Placed { layout, stamp }
    }
}

/// The layouts at hand, ascending by version, one of each.
#[derive(Debug, Default)]
pub(super) struct History {
    placed: Vec<Placed>,
    /// The version that is read from; 0 before there is any.
    reading: u64,
    /// The revision that has to be durable before others hear from what is read: a
    /// crash must not take back what they acted on.
    announce: Option<u64>,
    /// Whether members or layouts changed since it was last looked at what may be
    /// read and dropped.
    unsettled: bool,
}

impl History {
    /// What a disk remembers. `read` is the version that was read from.
    pub(super) fn remembered(layouts: Vec<Layout>, read: u64) -> Self {
        let mut history = History::default();
        for layout in layouts {
            history.insert(Placed::new(layout));
        }
        history.reading = read;
        history.unsettled = true;
        history
    }

    pub(super) fn newest(&self) -> Option<&Placed> {
        self.placed.last()
    }

    /// The version that is read from; 0 before there is any.
    pub(super) fn read(&self) -> u64 {
        self.reading
    }

    /// Whether something waits to be durable before it is told.
    pub(super) fn awaits_disk(&self) -> bool {
        self.announce.is_some()
    }

    pub(super) fn is_full(&self) -> bool {
        self.placed.len() >= MAX_LAYOUTS
    }

    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Placed> {
        self.placed.iter()
    }

    fn at(&self, version: u64) -> Option<&Placed> {
        self.placed.iter().find(|placed| placed.stamp.0 == version)
    }

    fn names(&self, node: NodeId) -> bool {
        self.placed
            .iter()
            .any(|placed| placed.layout.nodes().binary_search(&node).is_ok())
    }

    /// Something changed that may decide what is read or dropped.
    pub(super) fn unsettle(&mut self) {
        self.unsettled = true;
    }

    /// Takes in a layout. Of two of one version the greater digest stays. False if
    /// nothing changed.
    fn insert(&mut self, placed: Placed) -> bool {
        let version = placed.stamp.0;
        let place = self.placed.partition_point(|old| old.stamp.0 < version);
        match self.placed.get_mut(place) {
            Some(old) if old.stamp.0 == version => {
                if old.stamp >= placed.stamp {
                    return false;
                }
                *old = placed;
            }
            _ => self.placed.insert(place, placed),
        }
        self.unsettled = true;
        true
    }

    /// Keeps the bound.
    fn curb(&mut self) {
        while self.placed.len() > MAX_LAYOUTS {
            let reading = self.reading;
            let oldest = self.placed.iter().position(|old| old.stamp.0 != reading);
            self.placed.remove(oldest.unwrap_or(0));
        }
    }
}

impl Membership {
    /// The layout that reads go by; none until this node is in a cluster.
    pub fn reading(&self) -> Option<&Layout> {
        let reading = self.history.at(self.history.reading);
        // Before the first settling the oldest is the safest guess.
        let placed = reading.or_else(|| self.history.placed.first());
        placed.map(|placed| &placed.layout)
    }

    /// The layouts that a write must reach, the newest first: all that are at hand.
    pub fn writing(&self) -> impl Iterator<Item = &Layout> {
        self.history.all().rev().map(|placed| &placed.layout)
    }

    /// Whether this node holds what the layout that is read from gives it. One that
    /// was wiped or restored does not, and must not be asked: what it lacks would
    /// pass for absent.
    pub fn is_filled(&self) -> bool {
        self.me().layout_synced >= self.history.reading
    }

    /// The version that this node should become synced to: the newest one, once
    /// every counted member that is live from here has seen it. A transfer begun
    /// now brings everything that the layouts in [`Membership::writing`] give to
    /// this node; when it is done, `on_synced` wants to be told.
    pub fn sync_wanted(&self) -> Option<u64> {
        let newest = self.history.newest()?;
        let me = self.me();
        if me.has_synced(newest.stamp)
            || me.status == Status::Removed
            || self.fatal.is_some()
            || !self.birth.is_durable()
        {
            return None;
        }
        let version = newest.stamp.0;
        let waits_for = |member: &Member| {
            self.counts(member) && self.is_up(member.node) && member.layout_seen < version
        };
        (!self.members.values().any(waits_for)).then_some(version)
    }

    /// A transfer is over: this node holds what the layout of this version and
    /// digest gives it, and what the older ones at hand do. Ignored when that
    /// layout has lost against another of its version meanwhile.
    pub fn on_synced(&mut self, version: u64, digest: u128) -> Vec<Gossip> {
        let named = match self.history.at(version) {
            Some(placed) if placed.stamp == (version, digest) => {
                let nodes = placed.layout.nodes();
                nodes.binary_search(&self.identity.node).is_ok()
            }
            _ => return self.take(),
        };
        let me = self.me_mut();
        let known = me.layout_synced > version || me.has_synced((version, digest));
        if known || me.status == Status::Removed {
            return self.take();
        }
        me.layout_synced = version;
        me.synced_tag = tag_of(digest);
        me.heartbeat += 1;
        if named && me.status == Status::Joining {
            me.status = Status::Up;
            self.members_changed();
        }
        self.standing_changed();
        self.settle_layouts();
        self.take()
    }

    /// Takes in a layout, from a peer or this node's own proposal.
    pub(super) fn take_layout(&mut self, layout: Layout) {
        let placed = Placed::new(layout);
        let version = placed.stamp.0;
        let over = self.history.at(self.history.reading).is_some()
            && version < self.history.placed[0].stamp.0;
        if over || !self.history.insert(placed) {
            // What is older than all at hand was dropped: nobody reads from it.
            return;
        }
        self.history.curb();
        let newest = self.history.newest().map_or(0, |placed| placed.stamp.0);
        let (reading, me) = (self.history.reading, self.me());
        // A layout that lost took with it what this node said of it.
        let synced = self.history.at(me.layout_synced);
        let retracts = me.layout_synced == version
            && synced.is_some_and(|placed| !me.has_synced(placed.stamp));
        let fallback = self.history.at(reading).filter(|_| reading < version);
        let (synced, tag) = match (retracts, fallback) {
            (false, _) => (me.layout_synced, me.synced_tag),
            (true, Some(placed)) => (placed.stamp.0, tag_of(placed.stamp.1)),
            (true, None) => (0, 0),
        };
        let me = self.me_mut();
        me.layout_seen = newest;
        me.layout_synced = synced;
        me.synced_tag = tag;
        me.heartbeat += 1;
        self.out.push(Gossip::LayoutChanged);
        self.standing_changed();
    }

    /// This node holds all that the newest layout gives it, which is nothing, or
    /// everything there is (a founder).
    pub(super) fn take_as_synced(&mut self) {
        let newest = self.history.newest();
        let stamp = newest.map_or((0, 0), |placed| placed.stamp);
        let me = self.me_mut();
        me.layout_synced = stamp.0;
        me.synced_tag = tag_of(stamp.1);
        me.status = Status::Up;
        me.heartbeat += 1;
        self.members_changed();
        self.standing_changed();
    }

    /// What this node says of its layouts changed: others wait for it, and a restart
    /// must not take it back.
    fn standing_changed(&mut self) {
        self.history.unsettle();
        self.revision += 1;
        self.gossip.hurry();
    }

    /// Whether a change of layout has to wait for the member.
    pub(super) fn counts(&self, member: &Member) -> bool {
        match member.status {
            Status::Up | Status::Leaving => true,
            Status::Joining => self.history.names(member.node),
            Status::Removed => false,
        }
    }

    /// Ids that a layout names and the list does not: their entries are on the way.
    fn knows_all_named(&self) -> bool {
        let mut named = self.history.all().flat_map(|placed| placed.layout.nodes());
        named.all(|node| self.members.contains_key(node))
    }

    /// Looks at what may be read from and what is over by now.
    pub(super) fn settle_layouts(&mut self) {
        if !std::mem::take(&mut self.history.unsettled) {
            return;
        }
        let Some(newest) = self.history.newest().map(|placed| placed.stamp) else {
            return;
        };
        let oldest = self.history.placed[0].stamp.0;
        let counted = || self.members.values().filter(|member| self.counts(member));
        let all_synced = self.knows_all_named() && counted().all(|m| m.has_synced(newest));
        let so_far = self.history.at(self.history.reading);
        let mut reading = so_far.map_or(0, |placed| placed.stamp.0);
        if all_synced {
            reading = reading.max(newest.0);
        }
        // Where one reads, everyone has been synced, and is still written to.
        let serves = |member: &&Member| matches!(member.status, Status::Up | Status::Leaving);
        for member in self.members.values().filter(serves) {
            if self.history.at(member.layout_read).is_some() {
                reading = reading.max(member.layout_read);
            }
        }
        if self.history.at(reading).is_none() {
            // A newcomer, whom nobody told what they read from; or a disk that was
            // restored from long ago.
            reading = oldest;
        }
        let moved = reading != self.history.reading;
        self.history.reading = reading;
        let knows_all = self.knows_all_named();
        let counted = self.members.values().filter(|member| self.counts(member));
        let read_by_all = counted.map(|member| member.layout_read).min();
        let keep_from = read_by_all.filter(|_| knows_all).unwrap_or(0).min(reading);
        let before = self.history.placed.len();
        self.history
            .placed
            .retain(|placed| placed.stamp.0 >= keep_from);
        if moved || self.history.placed.len() < before {
            self.out.push(Gossip::LayoutChanged);
            self.standing_changed();
            if moved {
                self.history.announce = Some(self.revision);
            }
        }
    }

    /// What this node reads from is on disk: now the others may count on it.
    pub(super) fn announce_reading(&mut self, durable: u64) {
        if self
            .history
            .announce
            .is_some_and(|revision| durable >= revision)
        {
            self.history.announce = None;
            let reading = self.history.reading;
            let me = self.me_mut();
            me.layout_read = reading;
            me.heartbeat += 1;
            self.history.unsettle();
            self.gossip.hurry();
        }
    }
}
