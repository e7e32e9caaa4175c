//! What machines ask of their shell, and what the shell brings back.
//!
//! A machine is stepped with an [`Input`] and answers with [`Effect`]s. It never
//! waits: what a store or a guest has to say comes back as another input, under
//! the number that the effect carried. Promises of the shell: every store and
//! guest effect is answered exactly once; answers about one partition come in the
//! order in which the store did the work, so that whoever follows its changes
//! (the Merkle trees do) never takes an older state for a newer one; all others
//! come in any order; a message may be lost, delayed, repeated or reordered.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::catalog::{Applied, CatalogChange, Digest};
use super::dot::Dot;
use super::id::{ItemKey, NodeId, Partition, TableId};
use super::machine::PublishRefused;
use super::message::{ItemRequest, Message, Refusal, Response};
use super::replica::{Mutation, Outcome, Row};
use super::siblings::{SiblingSet, StateHash, Version};

/// A number that pairs a store or guest effect with its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);

impl From<JobId> for u64 {
    fn from(job: JobId) -> u64 {
        job.0
    }
}

/// A number that pairs a client's request with its response.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId(pub u64);

impl From<RequestId> for u64 {
    fn from(request: RequestId) -> u64 {
        request.0
    }
}

/// Where a node listens for peers and clients, `host:port`.
pub type Address = Arc<str>;

/// What happens to a machine.
#[derive(Debug)]
pub enum Input {
    /// A client asks something of this node.
    Client {
        request: RequestId,
        item: ItemRequest,
    },
    /// A message arrived from a peer whose handshake was accepted.
    Peer { from: NodeId, message: Message },
    /// These messages were never handed to the network: the peer could not be
    /// reached, or its queue was full. What they asked did not happen. `to` is
    /// [`NodeId::NOBODY`] for a contact.
    Undelivered {
        to: NodeId,
        message: Message,
        overloaded: bool,
    },
    /// The connection to the peer broke: what was sent on it may or may not
    /// have arrived.
    Disconnected { peer: NodeId },
    /// A store effect is done.
    Stored {
        job: JobId,
        reply: Result<StoreReply, StoreError>,
    },
    /// A guest effect is done.
    Guest {
        job: JobId,
        reply: GuestReply,
        cost: GuestCost,
    },
    /// These modules are held by this node now.
    ModulesHeld { digests: Vec<Digest> },
    /// Time passed; timers that are due fire.
    Tick,
    /// An operator wants the catalog changed, durably on a majority.
    Publish {
        request: RequestId,
        change: CatalogChange,
        timeout_ms: u64,
    },
    /// A module that had come could not be kept. It is fetched again.
    ModuleNotKept { digest: Digest },
    /// The shell wants a page of what a table stores in a partition.
    Survey { request: RequestId, ask: SurveyAsk },
}

/// What a machine wants done.
#[derive(Debug)]
pub enum Effect {
    /// Hand the message to the network. `address` is where the peer was last
    /// known to listen.
    Send {
        to: NodeId,
        address: Address,
        message: Message,
    },
    /// As `Send`, to someone known by address only (a seed).
    Contact { address: Address, message: Message },
    /// Read or change what this node stores.
    Store { job: JobId, request: StoreRequest },
    /// Run a guest.
    Guest { job: JobId, request: GuestRequest },
    /// Answer a client.
    Respond {
        request: RequestId,
        response: Response,
    },
    /// A peer asks for the bytes of a module: send them if they are here.
    ServeModule {
        to: NodeId,
        address: Address,
        digest: Digest,
    },
    /// The bytes of a module that this node lacked have come.
    KeepModule { digest: Digest, bytes: Bytes },
    /// Tables or reconcilers changed: shells that cache them look again.
    CatalogChanged,
    /// Members came, went or moved.
    MembersChanged,
    /// The node's memory is older than its deeds: the store takes this
    /// incarnation, durably.
    RenewIncarnation { incarnation: u64 },
    /// Something that an operator should see.
    Fault { text: String },
    /// Tell the operator what became of the change.
    Published {
        request: RequestId,
        outcome: Result<Applied, PublishRefused>,
    },
    /// No reconciler has this module any more: what is kept of it in memory may go.
    ForgetModule { digest: Digest },
    /// The page that the shell wanted, or why it cannot be had.
    Surveyed {
        request: RequestId,
        page: Result<SurveyPage, Refusal>,
    },
}

/// What of a table is wanted; see `machine/survey.rs`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SurveyAsk {
    pub table: TableId,
    pub partition: Partition,
    /// After this key; none to begin.
    pub after: Option<ItemKey>,
    /// Whether items without a conflict are wanted too.
    pub singles: bool,
}

/// A page of what one replica stores of a table in a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SurveyPage {
    /// The replica that was read.
    pub from: NodeId,
    /// How many of the table's items were gone through.
    pub scanned: u64,
    /// Those of them that were wanted, in the order of keys.
    pub rows: Vec<(ItemKey, SiblingSet)>,
    /// After which key to go on; none when that was all.
    pub next: Option<ItemKey>,
}

/// Which of several files a hint lies in, and its place there. A hint that is
/// written again gets a new id, so deleting one never deletes a later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HintId {
    pub file: u32,
    pub sequence: i64,
}

/// A hint as the store gives it back: which item is held for whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    pub id: HintId,
    pub partition: Partition,
    pub key: ItemKey,
    /// What the item is now; none when its row is gone, and with it the reason
    /// for the hint.
    pub row: Option<Row>,
}

/// What a machine asks of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreRequest {
    /// Reads one row.
    Read { partition: Partition, key: ItemKey },
    /// Changes one row by [`super::replica::apply`], and in the same
    /// transaction, if the change took (`Written`, `Synced`, `Replaced`), notes
    /// the hints: that the item is held for these nodes too.
    Update {
        partition: Partition,
        key: ItemKey,
        mutation: Mutation,
        hints: Vec<NodeId>,
    },
    /// Notes hints for an item that is stored already.
    AddHints {
        partition: Partition,
        key: ItemKey,
        hints: Vec<NodeId>,
    },
    /// Up to `limit` hints for the node, oldest first, with their rows.
    Hints { target: NodeId, limit: usize },
    /// Forgets delivered hints, all of one file ([`HintId::file`]): what one file
    /// does is done whole or not at all, and is answered in its turn. With a hash, which a node gives that is no
    /// primary of the item: only if the row's state still hashes to it (else the
    /// hint stays, and what the item is now is delivered again), and with the
    /// item's last hint the row goes too, since a fallback that has handed over
    /// everything holds nothing back.
    DropHints {
        hints: Vec<(HintId, Partition, ItemKey, Option<StateHash>)>,
    },
    /// How many hints are held for each node.
    CountHints,
    /// Writes a named record of the node itself (membership, catalog, layout).
    PutMeta { name: &'static str, bytes: Bytes },
    /// The leaves of a partition from the rows themselves: up to `limit` of them
    /// after this key, in the order of keys. Takes its turn among the changes:
    /// every change of the partition that was answered before is in it, none that
    /// is answered later. Every row is read whole, so that rot shows; large rows
    /// make for fewer leaves, at least one unless the end is reached.
    Derive {
        partition: Partition,
        after: Option<ItemKey>,
        limit: usize,
    },
    /// The leaves that lie in these buckets of the partition's trees, of which
    /// there are `width` (see `merkle.rs`), in the order of keys; damaged rows are
    /// left out. Up to `limit` of them; when there are more, asking again gives the
    /// same ones, so a limit is there to guard memory and is best never met. All
    /// keys of the partition are gone through for it: for 4,096 items some 3 ms of a
    /// processor, for 400,000 some 300 ms, three times that in a debug build
    /// (`benches/store.rs`).
    Leaves {
        partition: Partition,
        buckets: Vec<u32>,
        width: u32,
        limit: usize,
    },
    /// These rows, as far as they are there and sound, until `max_bytes` of values
    /// are exceeded.
    ReadMany {
        partition: Partition,
        keys: Vec<ItemKey>,
        max_bytes: usize,
    },
    /// The sound rows of a partition after this key, in the order of keys, until
    /// `limit` rows or `max_bytes` of values are reached.
    Scan {
        partition: Partition,
        after: Option<ItemKey>,
        limit: usize,
        max_bytes: usize,
    },
    /// Forgets rows whose state still hashes to this, and with `hints` whatever
    /// hints name those items, where the row went or was not there. (Strays that their owners hold; reaped tombstones.)
    Forget {
        partition: Partition,
        items: Vec<(ItemKey, StateHash)>,
        hints: bool,
    },
    /// Forgets these rows if they cannot be read, and whatever hints name them:
    /// every owner was asked, and what they had has been stored.
    ForgetDamaged {
        partition: Partition,
        keys: Vec<ItemKey>,
    },
    /// How many hints name an item of this partition. Takes its turn among the
    /// changes.
    CountHintsOf { partition: Partition },
    /// Reads no more of one row than the hash of its state: what a replica is asked
    /// whose value nobody needs. The row's checksum is verified all the same.
    ReadState { partition: Partition, key: ItemKey },
}

/// What the store answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreReply {
    /// The row, and the hash of its state: stores keep it with the row.
    Row(Option<(Row, StateHash)>),
    /// What became of the change, and how the row's leaf changed; none when it is
    /// as it was (the row itself may have changed: its memory of minting).
    Updated(Outcome, Option<LeafChange>),
    Hints(Vec<Hint>),
    HintCounts(Vec<(NodeId, u64)>),
    /// How many there are.
    Count(u64),
    /// Leaves, in the order of keys. `done` when no more follow.
    Leaves {
        leaves: Vec<Leaf>,
        done: bool,
    },
    /// Rows, in the order of keys or as they were asked for. `done` when no more
    /// follow.
    Rows {
        rows: Vec<(ItemKey, SiblingSet)>,
        done: bool,
    },
    /// What was asked is done, and these rows went by it.
    Dropped(Vec<LeafChange>),
    Done,
    /// The hash of a row's state; none when there is no row.
    State(Option<StateHash>),
}

/// A row as the Merkle trees see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    pub key: ItemKey,
    /// The hash of its state; none when the row is damaged.
    pub hash: Option<StateHash>,
    /// For an item of which only tombstones are left: when the newest of them was
    /// written, in microseconds since the Unix epoch.
    pub deleted_us: Option<u64>,
}

/// How a change altered a row's leaf. Changes of one item, added up in any order,
/// lead from its first hash to its last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeafChange {
    pub partition: Partition,
    pub key: ItemKey,
    /// None when there was no row, or none that could be read.
    pub before: Option<StateHash>,
    /// None when the row went.
    pub after: Option<StateHash>,
    /// Whether a damaged row was replaced: what was known of it before is void.
    pub mended: bool,
}

/// Why the store could not answer. Never to be taken for "absent".
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum StoreError {
    #[error("the store's queue is full; try again shortly")]
    Overloaded,
    #[error("the disk is full; reads go on, writes resume when there is room")]
    Full,
    #[error("a stored row fails its checksum: {0}")]
    Corrupt(String),
    #[error("the store failed: {0}")]
    Io(String),
}

/// One sibling as a reconciler sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestSibling {
    /// The dot that the version carries, or stands for.
    pub dot: Dot,
    pub version: Version,
}

/// What a machine asks of the table's module: to fold the siblings, then, for
/// data types, to apply an operation to the state and to render what is left.
/// Each call runs in a fresh instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestRequest {
    pub digest: Digest,
    /// The table's name.
    pub table: Arc<str>,
    pub key: ItemKey,
    /// Sorted by dot; none when there is no item yet. A single sibling is the
    /// state as it is, and the module's `fold` is not called: one version needs
    /// no merging.
    pub siblings: Vec<GuestSibling>,
    pub operation: Option<Operation>,
    /// Whether the client's view is wanted (data types).
    pub render: bool,
    /// The largest output allowed, in bytes.
    pub max_output_bytes: u64,
}

/// An operation on a data type, and the fresh dot that it happens under.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    pub body: Bytes,
    pub dot: Dot,
    pub written_at_us: u64,
}

/// What a module's work took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GuestCost {
    /// Fuel of all calls, about one unit for each instruction.
    pub fuel: u64,
    /// From the request to the answer, waiting for a thread included, in
    /// microseconds.
    pub time_us: u64,
}

/// What the module made of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GuestReply {
    /// The folded or changed value (none: deleted), and its view if asked for.
    Done {
        value: Option<Bytes>,
        view: Option<View>,
    },
    /// The module says that it cannot decide.
    Unresolved,
    /// The module refuses the operation; its own words.
    BadOperation(String),
    /// The module is not on this node yet.
    Missing,
    /// Trap, fuel, memory, oversized output or an error of the module's.
    Failed(String),
    /// Too many guests wait already.
    Overloaded,
    /// It was not run: it has failed too often on this node of late. The text says
    /// how it failed.
    Quarantined(String),
}

/// What a client sees of a data type's state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    pub body: Bytes,
    pub content_type: Arc<str>,
}
