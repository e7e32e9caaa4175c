//! A state of the model and the things that lead from one to another.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use super::ghost::{Ghost, Known};
use super::node::{NODES, Node, Packet};
use super::reaping::Reaping;
use super::{Bounds, Crash, Verdict};
use crate::protocol::context::Context;
use crate::protocol::dot::Dot;
use crate::protocol::effect::HintId;
use crate::protocol::id::NodeId;
use crate::protocol::put::Put;
use crate::protocol::replica::{Draft, Row, Written};
use crate::protocol::siblings::StateHash;

/// What a client holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Session {
    pub token: Context,
    pub known: Known,
}

/// A write that its coordinator brings to the other replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    pub at: usize,
    pub put: Put,
    pub delta: Arc<Packet>,
    /// The client's write.
    pub write: usize,
    /// The writes that are acknowledged with it: its fold too.
    pub acks: Known,
    /// Everything that the delta tells of.
    pub carries: Known,
    pub hedged: bool,
}

/// A write that waits for its fold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folding {
    pub at: usize,
    /// The row that is folded.
    pub base: Row,
    pub draft: Draft,
    pub covers: Known,
    pub session: Option<usize>,
    pub put: Put,
    pub hints_here: Vec<NodeId>,
    /// What is to be stored, the client's write, and the name of the fold.
    pub planned: Option<(Row, Written, Dot)>,
}

/// Why a state or delta is sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Because {
    Write(usize),
    Hint(HintId, StateHash),
    Exchange,
}

/// What the network holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    Store {
        from: usize,
        to: usize,
        set: Arc<Packet>,
        carries: Known,
        hint_for: Option<NodeId>,
        because: Because,
    },
    /// The target of a hint has stored it.
    HintAck {
        from: usize,
        to: usize,
        hint: HintId,
        delivered: StateHash,
    },
    /// All agreed: forget the item if it is still this state.
    Reap { to: usize, expected: StateHash },
}

/// Everything, at one moment.
#[derive(Clone, Debug)]
pub struct State {
    pub nodes: [Node; NODES],
    pub puts: Vec<Slot>,
    pub folds: Vec<Folding>,
    pub network: Vec<Message>,
    pub sessions: Vec<Session>,
    pub ghost: Ghost,
    pub reaping: Option<Reaping>,
    /// Whose store was copied, and the copy.
    pub backup: Option<(usize, Node)>,
    pub writes_left: u32,
    pub repeats_left: u32,
    pub losses_left: u32,
    pub exchanges_left: u32,
    pub crashes_left: u32,
    pub reaps_left: u32,
    pub crashed: bool,
    /// How many rows were dropped by reaping.
    pub reaped_rows: u32,
    /// What the invariants say of this state, when they were asked.
    pub verdict: OnceLock<Verdict>,
}

/// Something that happens next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Read {
        session: usize,
        at: usize,
    },
    /// With the session's token, or blindly.
    Write {
        session: Option<usize>,
        at: usize,
        delete: bool,
        down: &'static [usize],
    },
    /// The fold is made: it is stored, if the item is still what was folded.
    FinishFold(usize),
    /// The message arrives. `stays` leaves a second copy in the network.
    Deliver {
        message: usize,
        acked: bool,
        stays: bool,
    },
    /// The message is lost; where it is a write's, its coordinator knows.
    Lose(usize),
    Hedge(usize),
    GiveUp(usize),
    SendHint {
        from: usize,
        to: usize,
    },
    Exchange {
        from: usize,
        to: usize,
    },
    Crash(Crash, usize),
    Copy(usize),
    /// A primary proposes to reap; the members are asked in this order.
    BeginReap {
        at: usize,
        order: [usize; NODES],
    },
    /// The next member says yes.
    AskForReap,
    AgreeOnReap,
}

impl State {
    /// Nothing has happened yet.
    pub fn new(bounds: &Bounds) -> Self {
        State {
            nodes: std::array::from_fn(|_| Node::new()),
            puts: Vec::new(),
            folds: Vec::new(),
            network: Vec::new(),
            sessions: vec![Session::default(); bounds.sessions],
            ghost: Ghost::default(),
            reaping: None,
            backup: None,
            writes_left: bounds.writes,
            repeats_left: bounds.repeats,
            losses_left: bounds.losses,
            exchanges_left: bounds.exchanges,
            crashes_left: bounds.crashes,
            reaps_left: bounds.reaps,
            crashed: false,
            reaped_rows: 0,
            verdict: OnceLock::new(),
        }
    }
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        let all = |state: &State| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        self.nodes == other.nodes && self.network == other.network && all(self) == all(other)
    }
}

// What tells states apart, and no more: a delta is known by the write that it
// carries, and the order of messages in the network means nothing.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.nodes.hash(hasher);
        for slot in &self.puts {
            (slot.at, &slot.put, slot.write, slot.hedged).hash(hasher);
        }
        for fold in &self.folds {
            (fold.at, fold.session, fold.covers, &fold.put).hash(hasher);
            (fold.base.set.hash(), fold.draft.value.is_none()).hash(hasher);
        }
        let mut messages: Vec<_> = self.network.iter().map(Message::identity).collect();
        messages.sort_unstable();
        messages.hash(hasher);
        (&self.sessions, &self.ghost, &self.reaping, &self.backup).hash(hasher);
        let left = (self.writes_left, self.repeats_left, self.exchanges_left);
        (left, self.crashes_left, self.reaps_left, self.crashed).hash(hasher);
        (self.losses_left, self.reaped_rows).hash(hasher);
    }
}

/// Kind, ends, reason, and what was heard of by the sender.
type Identity = (
    u8,
    usize,
    usize,
    Option<Because>,
    Option<NodeId>,
    Known,
    StateHash,
);

impl Message {
    fn identity(&self) -> Identity {
        match self {
            Message::Store {
                from,
                to,
                set,
                carries,
                hint_for,
                because,
            } => {
                let because = Some(*because);
                (0, *from, *to, because, *hint_for, *carries, set.hash)
            }
            Message::HintAck {
                from,
                to,
                hint,
                delivered,
            } => {
                let because = Some(Because::Hint(*hint, *delivered));
                (1, *from, *to, because, None, Known::default(), *delivered)
            }
            Message::Reap { to, expected } => (2, 0, *to, None, None, Known::default(), *expected),
        }
    }
}
