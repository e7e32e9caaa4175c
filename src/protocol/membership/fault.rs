//! What is wrong, or not yet right, in words that say what to do about it.

use std::sync::Arc;

use crate::protocol::effect::Address;
use crate::protocol::id::ClusterId;

/// What only an operator can put right.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Fault {
    #[error(
        "{address} belongs to cluster {theirs}, this node to {ours}: one of them has a wrong seed \
         list, or its data directory comes from elsewhere"
    )]
    OtherCluster {
        address: Address,
        theirs: ClusterId,
        ours: ClusterId,
    },
    #[error(
        "the names {known} and {refused} give the same node id; {refused} is not a member until \
         its node has another name"
    )]
    NameTaken { known: Arc<str>, refused: Arc<str> },
    #[error("another node, at {address}, uses this node's name; give each node its own")]
    SameName { address: Address },
    #[error(
        "the cluster has {partitions} partitions and {replicas} replicas since its birth; what \
         this node's config says of them is ignored"
    )]
    RingDiffers { partitions: u32, replicas: u32 },
    #[error("{address} sent a layout for another ring; it was ignored")]
    ForeignLayout { address: Address },
    #[error("the member list is full; {name} was not added")]
    TooManyMembers { name: Arc<str> },
    #[error("the data directory belongs to another node; give each node its own")]
    ForeignMemory,
    #[error("{address} sent an impossible incarnation of this node; it was ignored")]
    Exhausted { address: Address },
    #[error(
        "this node was removed from the cluster; to let it join anew, stop it, empty its data \
         directory, start it"
    )]
    Removed,
}

/// Why a node does not serve yet, and what to do about it if it stays so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotReady {
    #[error("asking the seeds for a cluster")]
    Seeking,
    #[error("no seed answers: {seeds}; check that one of them runs, and the seed list")]
    NoSeedAnswers { seeds: String },
    #[error(
        "the seeds know no cluster yet; {first} founds one when it is the first seed of its own \
         list"
    )]
    NoClusterYet { first: Address },
    #[error("the cluster that this node founded is being stored")]
    Founding,
    #[error("the cluster is forming: members wait for the next layout")]
    Forming,
    #[error("joining: waiting for a layout that counts on this node, then for its data")]
    Joining,
    #[error("waiting for the first gossip round since this node was away")]
    CatchingUp,
    #[error("this node has left the cluster, and tells the others so")]
    TakingLeave,
    #[error("this node has left the cluster and may be stopped")]
    Left,
    #[error("{0}")]
    Fault(Fault),
}

/// Why this node does not begin to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeaveRefused {
    #[error(
        "this is the last node that is up in the cluster: nobody could take over its data; stop \
         it instead, or let another node join first"
    )]
    LastMember,
    #[error("this node is in no cluster")]
    NoCluster,
}

/// Why another node is not removed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RemoveRefused {
    #[error("no member has this name or id; GET /v1/cluster lists them")]
    Unknown,
    #[error(
        "{name} is up as seen from here, and only a dead node is removed: let it leave \
         (`kinfold cluster leave` at that node), or stop it and try again when it is seen down"
    )]
    IsUp { name: Arc<str> },
    #[error("this node is in no cluster")]
    NoCluster,
}
