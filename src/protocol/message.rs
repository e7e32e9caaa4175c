//! What clients ask, what nodes say to one another, and why something is
//! refused.
//!
//! Promises: messages are one-way and self-contained; an answer names the
//! message that it answers, and nothing else pairs them, so loss, repetition
//! and reordering are ordinary. Variants are only ever added at the end of an
//! enum, because their place is their number on the wire.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Digest};
use super::context::Context;
use super::dot::Dot;
use super::effect::{Address, GuestCost, StoreError};
use super::exchange;
use super::id::{ClusterId, ItemKey, NodeId, Partition, TableId};
use super::membership::{News, Summary};
use super::siblings::{SiblingSet, StateHash};

/// A number that pairs a message with its answer; fresh for its sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct MessageId(pub u64);

impl From<MessageId> for u64 {
    fn from(message: MessageId) -> u64 {
        message.0
    }
}

/// What a client asks of one item.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ItemRequest {
    pub table: TableId,
    pub partition: Partition,
    pub key: ItemKey,
    pub ask: Ask,
    /// How many replicas must answer a read, 1..=n.
    pub r: u32,
    /// How many replicas must store a write, 1..=n.
    pub w: u32,
    /// Whether only primaries count.
    pub strict: bool,
    /// How long the client is willing to wait.
    pub timeout_ms: u64,
}

/// The things that can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Reads. `raw` gives the siblings whatever the reconciler.
    Get { raw: bool },
    /// Writes a value. `representation` answers with what a read would give.
    Put {
        client: Context,
        value: Bytes,
        content_type: Arc<str>,
        representation: bool,
    },
    /// Deletes what the context covers; without one, what a quorum read sees.
    Delete { client: Option<Context> },
    /// Applies an operation to a data type.
    Operate { operation: Bytes },
    /// Reads, and tells how the answer came about.
    Explain,
}

impl Ask {
    /// How many bytes it brings that a node holds until it is done.
    pub fn size_bytes(&self) -> usize {
        match self {
            Ask::Put { value, .. } => value.len(),
            Ask::Operate { operation } => operation.len(),
            Ask::Get { .. } | Ask::Delete { .. } | Ask::Explain => 0,
        }
    }

    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Ask::Get { .. } | Ask::Explain)
    }
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    Value(ValueResponse),
    /// More than one sibling, and no module that folded them; or asked for raw.
    Siblings {
        set: SiblingSet,
        /// Why the module did not fold them, where the table names one.
        reason: Option<String>,
        /// Whether the client asked for the siblings as they are.
        raw: bool,
    },
    /// Nothing is there; with a context when it was deleted.
    Absent {
        context: Option<Context>,
    },
    /// The write is stored on enough replicas. The context covers what the
    /// client had seen and this write.
    Written {
        context: Context,
    },
    Refused(Refusal),
    /// What a read would have been told, and how that came about.
    Explained(Box<Explanation>),
}

/// How the answer to a read came about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// What a plain read would have been told.
    pub told: Response,
    /// What the replicas' states were joined to: what went into the answer.
    /// Empty when nothing is there, or when too few replicas answered.
    pub set: SiblingSet,
    /// The replicas that were asked, in that order.
    pub witnesses: Vec<Witness>,
    /// The table's reconciler and its digest, as the coordinator knows them.
    pub module: Option<(Arc<str>, Digest)>,
    /// What the module did; none when it was not called.
    pub fold: Option<FoldReport>,
}

/// A replica that was asked for its state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Witness {
    pub node: NodeId,
    /// Whether it is one of the item's first N nodes.
    pub primary: bool,
    pub saw: Saw,
}

/// What a replica had to say before the read was answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Saw {
    /// Nothing yet: enough others had answered, or time was over.
    Silent,
    /// It could not be reached, or could not read its store.
    Failed,
    /// It never heard of the item.
    Nothing,
    /// It holds this state, with these versions.
    State { hash: StateHash, siblings: Vec<Dot> },
}

/// What a module did for a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoldReport {
    pub outcome: FoldOutcome,
    pub cost: GuestCost,
}

/// How a module's work ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FoldOutcome {
    /// It gave a value, or rendered one.
    Done,
    /// It says that the item is deleted.
    Deleted,
    /// It cannot decide.
    Unresolved,
    /// It trapped, met a limit, or gave an error.
    Failed,
    /// It has not arrived on this node.
    Missing,
    /// Too many folds waited.
    Overloaded,
    /// It was not run, because it has failed before.
    Quarantined,
}

/// One value, as it was read or folded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ValueResponse {
    pub value: Bytes,
    pub content_type: Arc<str>,
    /// Covers everything that was read.
    pub context: Context,
    /// How many siblings went into the value.
    pub siblings: u32,
    /// The state that was read, for the entity tag.
    pub hash: StateHash,
    /// The module that made the value of the siblings.
    pub folded_by: Option<(Arc<str>, Digest)>,
}

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    #[error("no table has this name; PUT /v1/tables/{{table}} makes one")]
    NoSuchTable,
    #[error(
        "{got} of the {needed} replicas needed answered in time{}",
        if *.may_be_stored { "; the write may still be stored, so read before writing it again" } else { "" }
    )]
    QuorumUnmet {
        needed: u32,
        got: u32,
        may_be_stored: bool,
    },
    #[error("this node has more work than it can queue; try again after a moment")]
    Overloaded,
    #[error("this node is not ready: {0}")]
    NotReady(String),
    #[error(
        "the item would have {siblings} siblings, more than the table's max_siblings; \
         GET it and PUT the merged value with the context that came with it"
    )]
    TooManySiblings { siblings: u32 },
    #[error("the reconciler refuses the operation: {0}")]
    BadOperation(String),
    #[error("the reconciler could not fold the item, and nothing was written: {0}")]
    ReconcileFailed(String),
    #[error("{0}")]
    Storage(StoreError),
    #[error("the reconciler is quarantined on this node, and nothing was written: {0}")]
    Quarantined(String),
}

/// What nodes say to one another.
///
/// What is large and rare is boxed: messages are handed on a dozen times on their way,
/// and each time all of them would move as many bytes as the largest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Asks for the state of an item, or only for its hash.
    Read {
        id: MessageId,
        partition: Partition,
        key: ItemKey,
        hash_only: bool,
    },
    ReadAnswer {
        id: MessageId,
        answer: Result<ReadAnswer, Refusal>,
    },
    /// Gives a delta or a whole set to store durably.
    Write {
        id: MessageId,
        partition: Partition,
        key: ItemKey,
        set: SiblingSet,
        /// The primary in whose place the receiver stores this.
        hint_for: Option<NodeId>,
    },
    WriteAnswer {
        id: MessageId,
        answer: Result<(), Refusal>,
    },
    /// Hands a client's request to a node that may coordinate it.
    Forward {
        id: MessageId,
        item: Box<ItemRequest>,
    },
    ForwardAnswer {
        id: MessageId,
        response: Box<Response>,
    },
    /// Asks for nothing but an answer.
    Probe {
        id: MessageId,
    },
    ProbeAnswer {
        id: MessageId,
    },
    /// Gossip, first leg: what I know, in short. Also how a node with no
    /// cluster asks its seeds for one.
    GossipSummary(Box<Summary>),
    /// Gossip, second and third leg: what you lack.
    GossipNews(Box<News>),
    /// Asks for the bytes of a module.
    FetchModule {
        digest: Digest,
    },
    Module {
        digest: Digest,
        bytes: Option<Bytes>,
    },
    /// One step of bringing replicas in line; see `exchange.rs`.
    Exchange {
        id: MessageId,
        ask: exchange::Ask,
    },
    ExchangeAnswer {
        id: MessageId,
        answer: Result<exchange::Answer, Refusal>,
    },
    /// Asks for an answer once the receiver holds these modules durably; it fetches
    /// from the sender what it lacks. See `machine/publish.rs`.
    Offer {
        id: MessageId,
        digests: Vec<Digest>,
    },
    /// Gives a part of the catalog, to be answered once it is durable.
    Adopt {
        id: MessageId,
        catalog: Box<Catalog>,
    },
    /// What an `Offer` or an `Adopt` asked for is done.
    Accepted {
        id: MessageId,
    },
}

/// A replica's answer to a read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ReadAnswer {
    /// The whole state; empty when the replica never saw the item.
    State(SiblingSet),
    /// The hash of the state, and whether there is any.
    Hash { hash: StateHash, is_empty: bool },
}

/// Reports a view together with the address that a handshake named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Introduction {
    pub node: NodeId,
    pub name: Arc<str>,
    pub address: Address,
    pub cluster: Option<ClusterId>,
}
