//! A whole node as one pure machine: what it does with every request, message
//! and tick, and nothing of how.
//!
//! [`Machine::step`] takes one [`Input`] and returns [`Effect`]s. Promises: the
//! same inputs and the same dice give the same effects; every client request is
//! answered exactly once; what a client was told is stored is stored durably on
//! as many nodes as it asked for; whatever a write did not reach is named by a
//! hint. It holds no item's data between requests: rows live in the store.
//!
//! The parts: `client.rs` carries a client's request from its first step to its
//! last, `write.rs` brings a write to its replicas, `fold.rs` runs reconcilers for
//! it, `serve.rs` does what peers ask, and `upkeep.rs` minds gossip, hints, modules
//! and the clock (`timers.rs`). `publish.rs` makes what operators change outlive the
//! node that took it. Replicas stay alike by `exchange.rs` (the asking side; `deriving.rs`
//! makes its trees), `serving.rs` (the answering one), `filling.rs` (a node gets what it should
//! hold), `strays.rs` (and gives away what it should not), and `reaping.rs` forgets
//! what was deleted long ago. Rows that peers bring come in by `intake.rs`, and how much
//! of a node's time all of that may have beside clients is for `background.rs` to say.
//! `views.rs` shows what the machine knows. `explain.rs` tells how an answer came about,
//! `survey.rs` looks through a table.

mod background;
mod client;
mod counters;
mod deriving;
mod exchange;
mod explain;
mod filling;
mod fold;
mod intake;
mod outcomes;
mod publish;
mod reaping;
mod serve;
mod serving;
mod strays;
mod survey;
mod timers;
mod upkeep;
mod views;
mod write;

pub use background::DEFAULT_BACKGROUND_PERCENT;
pub use client::MAX_REQUEST_BYTES;
pub use counters::Counters;
pub use exchange::{MAX_SESSIONS, Upkeep};
pub use filling::Transfer;
pub use fold::{folded_type, guest_siblings};
pub use publish::{KEEP_IDLE_MS, PublishRefused};
pub use upkeep::{MEMBERSHIP_RECORD, RecordError};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use self::exchange::{Exchanges, SessionId};
use self::intake::Bringer;
use self::publish::Publishing;
use self::timers::Timers;
use super::catalog::{Digest, Table};
use super::effect::{Effect, GuestRequest, Input, JobId, RequestId, StoreError, StoreRequest};
use super::get::Get;
use super::hint::{Delivered, Deliveries};
use super::id::{ItemKey, NodeId, Partition, TableId};
use super::membership::{Identity, Membership, Pace, Persisted};
use super::message::{ItemRequest, Message, MessageId, Response};
use super::pending::Pending;
use super::put::Put;
use super::replica::{Minting, Row, Written};
use super::ring::Ring;
use super::sabotage::{Variant, broken};
use super::siblings::SiblingSet;
use super::time::Now;
use crate::protocol::dot::{Dot, Epoch};
use crate::protocol::effect::View;

/// How many requests a node has in hand at most; more are refused at once. At
/// some kilobytes each, and a value, this bounds memory rather than throughput.
pub const MAX_REQUESTS: usize = 8_192;
/// How many requests wait for one item's turn at most (folds and operations on
/// one item take place one after the other).
pub const MAX_WAITING_PER_ITEM: usize = 1_024;
/// How often a fold or an operation is tried again because its item changed
/// meanwhile, before the write is stored unfolded, or the operation beside what
/// came. Changes come from other coordinators only.
pub const MAX_FOLD_ATTEMPTS: u32 = 8;
/// When an operation gives up altogether: each attempt that fails is one of
/// another's that went through, and the client's patience usually ends first.
pub const MAX_OPERATION_ATTEMPTS: u32 = 256;
/// How long a replica of a read may take before another is asked. Dynamo's
/// p99.9 was ten times its mean; ours is a few milliseconds.
pub const READ_HEDGE_MS: u64 = 50;
/// How long a replica of a write may take before a fallback stands in: longer,
/// since it waits for a disk.
pub const WRITE_HEDGE_MS: u64 = 200;
/// How long work goes on for a write whose client was told that time is over.
pub const GRACE_MS: u64 = 10_000;

/// How many forwarded requests are remembered, so that one that the network
/// repeats is carried out once. Repetitions come within milliseconds, and these
/// are at least a second's worth.
pub const MAX_FORWARDS_REMEMBERED: usize = 65_536;

/// How long a node that refused a forwarded request as not ready is passed over:
/// one that is stopping is gone by then, one that is starting is ready.
pub const PASS_OVER_MS: u64 = 1_000;

/// Random numbers, by argument.
pub type Dice = Box<dyn FnMut() -> u64 + Send>;

/// The tables that exist, by name.
pub type Tables = BTreeMap<Arc<str>, Arc<Table>>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct SlotId(u64);

impl From<SlotId> for u64 {
    fn from(slot: SlotId) -> u64 {
        slot.0
    }
}

/// Who is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    Client(RequestId),
    Peer { node: NodeId, id: MessageId },
}

impl Origin {
    fn is_client(self) -> bool {
        matches!(self, Origin::Client(_))
    }
}

/// What a request waits for, besides replicas.
#[derive(Debug)]
enum Stage {
    /// Replicas only, or nothing.
    Open,
    /// Another node carries it out.
    Forwarded,
    /// Other requests on the item come first.
    Queued,
    /// The guest folds or renders what was read.
    FoldingRead { set: SiblingSet },
    /// The store mints and writes.
    Storing,
    /// The guest folds what the write would leave.
    FoldingWrite {
        base: Row,
        planned: Row,
        written: Written,
        minting: Minting,
    },
    /// The store swaps in the folded row.
    Swapping { written: Written, row: Row },
    /// The store reads the row that an operation is for.
    LoadingRow { read: SiblingSet },
    /// The guest applies the operation.
    Applying {
        base: Row,
        planned: Row,
        event: (Dot, u64),
    },
    /// The store swaps in the row that the operation made.
    SwappingOperation { row: Row, view: View },
}

/// One request in hand.
struct Slot {
    origin: Origin,
    item: ItemRequest,
    table: Arc<Table>,
    deadline_ms: u64,
    timer_ms: u64,
    stage: Stage,
    answered: bool,
    /// What a successful write will tell its client.
    result: Option<Response>,
    /// The delta or set that replicates the write.
    delta: Option<SiblingSet>,
    get: Option<Get>,
    put: Option<Put>,
    /// Primaries named by a hint in the coordinator's own transaction.
    hints_here: Vec<NodeId>,
    /// Messages whose answers it waits for, the oldest first: as many as there are
    /// replicas, and a few.
    awaited: Vec<MessageId>,
    /// Nodes that a forward was tried with.
    forwarded_to: Vec<NodeId>,
    attempts: u32,
    begun_ms: u64,
    /// Whether it is this item's turn-holder, see `Machine::busy`.
    holds_item: bool,
    /// Folding failed or makes no sense: store the siblings as they are.
    unfolded: bool,
    /// Why this node cannot coordinate the item itself.
    unfit: Option<StoreError>,
    /// Whether a store or guest effect is under way.
    working: bool,
    /// What it counts for in `Machine::request_bytes`.
    bytes: usize,
    /// Where an explained read notes what happens.
    notebook: Option<Box<explain::Notebook>>,
}

/// An answer that is awaited.
#[derive(Clone, Debug)]
struct Awaited {
    node: NodeId,
    of: AwaitedOf,
}

#[derive(Clone, Debug)]
enum AwaitedOf {
    Read(SlotId),
    Write(SlotId),
    Forward(SlotId),
    Hint(Delivered),
    /// Read repair: nobody waits, but a failure tells of the peer.
    Nothing,
    Roots,
    Session(SessionId),
    /// The step of the sweep that it belongs to.
    Sweep(u64),
    /// The ballot that it belongs to.
    Reaping(u64),
    Survey(u64),
}

/// A store or guest effect under way.
#[derive(Clone, Debug)]
enum Job {
    SlotRead(SlotId),
    SlotStore(SlotId),
    SlotGuest(SlotId),
    /// A hint that a slot notes after the fact.
    SlotHint(NodeId),
    PeerRead {
        from: NodeId,
        id: MessageId,
        partition: Partition,
    },
    PeerWrite {
        from: NodeId,
        id: MessageId,
        partition: Partition,
        hint_for: Option<NodeId>,
    },
    RepairHere,
    Derive(Partition),
    ForgetDamaged,
    /// Leaves or rows that a session wants.
    Session(SessionId),
    /// A row that a peer brought.
    Mend(Bringer),
    /// Something that a peer's question needs.
    Serve(u64),
    /// The step of the sweep that it belongs to.
    Sweep(u64),
    HintBatch(NodeId),
    HintDrop,
    HintCount,
    Persist {
        revision: u64,
    },
}

/// A node's protocol, whole.
pub struct Machine {
    me: NodeId,
    dice: Dice,
    now: Now,
    /// The store's incarnation and this life's number, part of every mint.
    incarnation: u64,
    membership: Membership,
    /// The newest layout's ring: where items should lie.
    ring: Option<Arc<Ring>>,
    /// The ring that reads go by: where items are known to lie.
    reading_ring: Option<Arc<Ring>>,
    /// The rings that writes must reach, the newest first: at most `MAX_LAYOUTS`.
    writing_rings: Vec<Arc<Ring>>,
    tables: Arc<Tables>,
    tables_by_id: BTreeMap<TableId, Arc<Table>>,
    slots: Pending<SlotId, Box<Slot>>,
    /// Bytes of values and operations in the slots.
    request_bytes: usize,
    timers: Timers,
    awaited: Pending<MessageId, Awaited>,
    jobs: Pending<JobId, Job>,
    /// Items that a fold or an operation is being made of, and who waits.
    busy: BTreeMap<ItemKey, VecDeque<SlotId>>,
    hints: Deliveries,
    hints_looked_ms: u64,
    /// Whether some wait only until work without a client may go on.
    hints_due: bool,
    exchanges: Exchanges,
    /// How many requests to forget hints are unanswered.
    hint_drops: usize,
    /// Whether the store has said how many hints it holds.
    hints_counted: bool,
    /// The modules that this node holds, and when each lacking one was asked for.
    modules_held: BTreeSet<Digest>,
    modules_asked_ms: BTreeMap<Digest, u64>,
    /// Those of them that have come and are being kept.
    modules_coming: BTreeSet<Digest>,
    publishing: Publishing,
    /// Messages that had nowhere to go, to be failed when the step is done.
    unsendable: VecDeque<MessageId>,
    /// Forwarded requests that were taken, and the order in which they came.
    forwards: BTreeSet<(NodeId, MessageId)>,
    forwards_in_order: VecDeque<(NodeId, MessageId)>,
    /// Requests that got their turn at an item.
    resumable: VecDeque<SlotId>,
    next_id: u64,
    /// Nodes that forwards pass over, and until when.
    passed_over: BTreeMap<NodeId, u64>,
    /// Whether the node is about to stop: forwarded requests are refused, so
    /// that another node is asked.
    draining: bool,
    counters: Counters,
    out: Vec<Effect>,
}

impl Machine {
    /// A node as it starts: with what it remembers, or newly born.
    ///
    /// `incarnation` is the store's. The effects are to be carried out like
    /// those of a step.
    pub fn new(
        identity: Identity,
        pace: Pace,
        persisted: Option<Persisted>,
        incarnation: u64,
        now: Now,
        mut dice: Dice,
    ) -> (Self, Vec<Effect>) {
        let membership = Membership::new(identity, pace, persisted, dice());
        let me = membership.me().node;
        // A late answer to the last life's messages must not pass for one of
        // this life's, so the numbers begin at a random place.
        let next_id = dice() >> 1;
        // A disk that was put back from a copy looks like one that was merely
        // restarted: what the node minted after the copy was made is known to
        // its peers only, and they may be out of reach. So each life mints under
        // epochs of its own.
        let incarnation = if broken(Variant::LifeGoesOn) {
            incarnation
        } else {
            incarnation ^ dice()
        };
        let mut machine = Machine {
            me,
            dice,
            now,
            incarnation,
            membership,
            ring: None,
            reading_ring: None,
            writing_rings: Vec::new(),
            tables: Arc::default(),
            tables_by_id: BTreeMap::new(),
            slots: Pending::new(),
            request_bytes: 0,
            timers: Timers::default(),
            awaited: Pending::new(),
            jobs: Pending::new(),
            busy: BTreeMap::new(),
            hints: Deliveries::default(),
            hints_looked_ms: 0,
            hints_due: false,
            exchanges: Exchanges::new(now.monotonic_ms),
            hint_drops: 0,
            hints_counted: false,
            modules_held: BTreeSet::new(),
            modules_asked_ms: BTreeMap::new(),
            modules_coming: BTreeSet::new(),
            publishing: Publishing::default(),
            unsendable: VecDeque::new(),
            forwards: BTreeSet::new(),
            forwards_in_order: VecDeque::new(),
            resumable: VecDeque::new(),
            next_id,
            passed_over: BTreeMap::new(),
            draining: false,
            counters: Counters::default(),
            out: Vec::new(),
        };
        machine.on_layout_changed();
        machine.on_catalog_changed();
        machine.store(Job::HintCount, StoreRequest::CountHints);
        machine.persist(machine.membership.revision());
        machine.tick();
        let effects = std::mem::take(&mut machine.out);
        (machine, effects)
    }

    /// One input, at this time.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.take_in(now, input);
        std::mem::take(&mut self.out)
    }

    /// Inputs that came at the same time, in their order. The effects of all of them
    /// are appended to `effects`, in the order of their causes.
    pub fn step_all(
        &mut self,
        now: Now,
        inputs: impl IntoIterator<Item = Input>,
        effects: &mut Vec<Effect>,
    ) {
        std::mem::swap(&mut self.out, effects);
        for input in inputs {
            self.take_in(now, input);
        }
        std::mem::swap(&mut self.out, effects);
    }

    fn take_in(&mut self, now: Now, input: Input) {
        debug_assert!(
            now.monotonic_ms >= self.now.monotonic_ms,
            "monotonic time went back"
        );
        self.now = now;
        match input {
            Input::Client { request, item } => {
                self.exchanges.background.on_request();
                self.on_client(Origin::Client(request), item);
            }
            Input::Peer { from, message } => self.on_message(from, message),
            Input::Undelivered {
                to,
                message,
                overloaded,
            } => {
                self.on_undelivered(to, message, overloaded);
            }
            Input::Disconnected { peer } => self.on_disconnected(peer),
            Input::Stored { job, reply } => self.on_stored(job, reply),
            Input::Guest { job, reply, cost } => self.on_guest(job, reply, cost),
            Input::ModulesHeld { digests } => {
                self.modules_coming
                    .retain(|digest| !digests.contains(digest));
                self.modules_held.extend(digests);
                self.on_modules_held();
                self.fetch_modules();
            }
            Input::Tick => self.tick(),
            Input::Publish {
                request,
                change,
                timeout_ms,
            } => self.on_publish(request, change, timeout_ms),
            Input::ModuleNotKept { digest } => {
                self.modules_coming.remove(&digest);
            }
            Input::Survey { request, ask } => self.on_survey(request, ask),
        }
        self.run_queues();
        self.counters.requests_in_hand = self.slots.len() as u64;
    }

    /// What became possible, or impossible, during the step.
    fn run_queues(&mut self) {
        loop {
            if let Some(id) = self.unsendable.pop_front() {
                self.on_lost(id, true);
            } else if let Some(slot) = self.resumable.pop_front() {
                self.resume(slot);
            } else {
                return;
            }
        }
    }

    /// Refuses what other nodes forward from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// How many requests, clients', forwarded and operators', have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.publishing.len() + self.slots.values().filter(|slot| !slot.answered).count()
    }

    // Small tools of all parts.

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn fresh_minting(&mut self) -> Minting {
        Minting {
            node: self.me,
            incarnation: self.incarnation,
            now_us: self.now.wall_us,
            fresh_epoch: Epoch((self.dice)()),
        }
    }

    /// Sends a message whose answer is awaited.
    fn ask(
        &mut self,
        node: NodeId,
        of: AwaitedOf,
        message: impl FnOnce(MessageId) -> Message,
    ) -> MessageId {
        debug_assert_ne!(node, self.me, "a node does not write to itself");
        let id = MessageId(self.next_id());
        self.awaited.insert(id, Awaited { node, of });
        if !self.send(node, message(id)) {
            self.unsendable.push_back(id);
        }
        id
    }

    /// Sends a message. False when nobody knows where the node listens.
    fn send(&mut self, to: NodeId, message: Message) -> bool {
        match self.membership.address(to).cloned() {
            Some(address) => {
                self.out.push(Effect::Send {
                    to,
                    address,
                    message,
                });
                true
            }
            None => false,
        }
    }

    fn store(&mut self, job: Job, request: StoreRequest) {
        let id = JobId(self.next_id());
        self.jobs.insert(id, job);
        self.out.push(Effect::Store { job: id, request });
    }

    fn run_guest(&mut self, slot: SlotId, request: GuestRequest) {
        let id = JobId(self.next_id());
        self.jobs.insert(id, Job::SlotGuest(slot));
        self.out.push(Effect::Guest { job: id, request });
    }
}
