//! A member of the cluster, as the list describes it and as its own configuration
//! does.
//!
//! Promises: two entries of one member are ordered by birth, removal, incarnation,
//! status and heartbeat, and the greater is the newer, so entries merge like a
//! maximum. A removal outranks whatever the removed disk does later: only a birth
//! after it, of an empty node, brings the name back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::protocol::effect::Address;
use crate::protocol::id::NodeId;

/// How many members a list holds, removed ones included: every summary names all
/// of them, and a thousand take some 40 kilobytes.
pub const MAX_MEMBERS: usize = 1024;
/// Where a member is in its life. The order is the order in which one status
/// replaces another within an incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Status {
    /// Waits for a layout that counts on it, and then for the data that this
    /// layout gives it. It takes writes as soon as it is named.
    Joining,
    /// Takes part.
    Up,
    /// Hands over what it holds, and serves until that is done.
    Leaving,
    /// Gone for good; the entry stays, so that old gossip does not revive it.
    Removed,
}

impl Status {
    /// As the HTTP API shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Joining => "joining",
            Status::Up => "up",
            Status::Leaving => "leaving",
            Status::Removed => "removed",
        }
    }
}

/// One entry of the member list. Only the member itself changes its entry, but
/// for `Removed`, which any node may write for an operator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub node: NodeId,
    pub name: Arc<str>,
    /// The incarnation in which the node joined with an empty disk: the same for
    /// as long as it has that disk.
    pub born: u64,
    /// Grows with each start of the node. Name, address, weight, zone and wire
    /// version never change within one.
    pub incarnation: u64,
    pub status: Status,
    pub address: Address,
    pub weight_milli: u32,
    pub zone: Arc<str>,
    pub wire_version: u32,
    /// Grows by one with each gossip round, and with each change of the entry.
    pub heartbeat: u64,
    /// The newest layout version that the member knows.
    pub layout_seen: u64,
    /// The newest layout version whose data the member has; 0: none.
    pub layout_synced: u64,
    /// Which layout of that version: there may have been two, see [`tag_of`].
    pub synced_tag: u32,
    /// The version of the layout that the member reads from.
    pub layout_read: u64,
}

/// What decides between two entries of one member: birth, removal, incarnation,
/// status and heartbeat.
pub(super) type Rank = (u64, bool, u64, Status, u64);

/// Tells apart two layouts of one version that were proposed at once. Thirty-two
/// bits are enough for that, and every summary carries them for every member.
pub fn tag_of(digest: u128) -> u32 {
    (digest >> 96) as u32
}

impl Member {
    /// What decides between two entries of one member.
    pub(super) fn rank(&self) -> Rank {
        self.pulse().rank()
    }

    /// The member says that it has the data of this very layout.
    pub(super) fn has_synced(&self, stamp: (u64, u128)) -> bool {
        self.layout_synced == stamp.0 && self.synced_tag == tag_of(stamp.1)
    }

    /// What layouts depend on, of all that an entry says.
    pub(super) fn standing(&self) -> (u64, u64, Status, [u64; 3], u32) {
        let layouts = [self.layout_seen, self.layout_synced, self.layout_read];
        let status = self.status;
        (
            self.born,
            self.incarnation,
            status,
            layouts,
            self.synced_tag,
        )
    }

    pub(super) fn pulse(&self) -> Pulse {
        Pulse {
            node: self.node,
            born: self.born,
            incarnation: self.incarnation,
            status: self.status,
            heartbeat: self.heartbeat,
            layout_seen: self.layout_seen,
            layout_synced: self.layout_synced,
            synced_tag: self.synced_tag,
            layout_read: self.layout_read,
        }
    }

    /// Takes over what a newer pulse of the same incarnation says.
    pub(super) fn follow(&mut self, pulse: &Pulse) {
        self.status = pulse.status;
        self.heartbeat = pulse.heartbeat;
        self.layout_seen = pulse.layout_seen;
        self.layout_synced = pulse.layout_synced;
        self.synced_tag = pulse.synced_tag;
        self.layout_read = pulse.layout_read;
    }
}

/// The part of an entry that changes within an incarnation. Whoever holds the
/// entry needs nothing else to bring it up to date, so heartbeats cost a few
/// bytes and no second message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pulse {
    pub node: NodeId,
    pub born: u64,
    pub incarnation: u64,
    pub status: Status,
    pub heartbeat: u64,
    pub layout_seen: u64,
    pub layout_synced: u64,
    pub synced_tag: u32,
    pub layout_read: u64,
}

impl Pulse {
    pub(super) fn rank(&self) -> Rank {
        (
            self.born,
            self.status == Status::Removed,
            self.incarnation,
            self.status,
            self.heartbeat,
        )
    }

    /// Names one start of one birth: entries that share it differ only in what a
    /// pulse carries.
    pub(super) fn life(&self) -> (u64, u64) {
        (self.born, self.incarnation)
    }
}

/// What a node's configuration says about it.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: Arc<str>,
    pub node: NodeId,
    /// Where others reach it.
    pub address: Address,
    /// Relative to the others, in thousandths. Zero holds no data.
    pub weight_milli: u32,
    pub zone: Arc<str>,
    /// The newest version of the peer wire that it speaks.
    pub wire_version: u32,
    /// Whom to ask for a cluster. The own address may be among them.
    pub seeds: Vec<Address>,
    /// What a cluster that this node founds has; a power of two.
    pub partitions: u32,
    pub replicas: u32,
}

/// How fast things go. Everything follows from the gossip interval, so that a
/// cluster told to hurry (a test, a demonstration) hurries in all of it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two rounds of a node.
    pub gossip_interval_ms: u64,
    /// Between two attempts to find a cluster at the seeds: 500 ms at most.
    pub seek_interval_ms: u64,
    /// How long the first seed of a list lets unreachable seeds be before it
    /// founds a cluster (1 s at most, twice that for seeds that neither answer
    /// nor refuse): machines that start together do not listen at the same
    /// moment, and a seed that was wiped must find the cluster that the others
    /// still remember.
    pub patience_ms: u64,
    /// Between two extra rounds when something changed.
    pub urgent_interval_ms: u64,
}

impl Pace {
    /// The pace that goes with this interval.
    pub fn new(gossip_interval_ms: u64) -> Self {
        let gossip_interval_ms = gossip_interval_ms.max(1);
        Pace {
            gossip_interval_ms,
            seek_interval_ms: (gossip_interval_ms / 2).clamp(20, 500),
            patience_ms: gossip_interval_ms.clamp(100, 1_000),
            urgent_interval_ms: (gossip_interval_ms / 20).clamp(5, 50),
        }
    }
}

impl Default for Pace {
    /// Once a second.
    fn default() -> Self {
        Pace::new(1_000)
    }
}
