//! The third shell over the protocol: a model checker that tries every order.
//!
//! One item on three primaries and a fallback. Each state is four real stores
//! ([`MemoryStore`]: `replica::apply`, sibling sets, contexts, hints), the real
//! write machines under way ([`Put`]), what the network holds, what clients hold,
//! and a reaping. Each action is one thing that may happen next. `stateright`
//! walks all states that actions within some [`Bounds`] lead to, and holds each of
//! them against the invariants; a violation comes with the shortest way to it.
//!
//! # What may happen
//!
//! - A client reads the state of any node, writes or deletes there with what it
//!   holds or blindly, while any set of peers seems down to the coordinator.
//! - A message arrives, in any order; arrives and its answer is lost; arrives and
//!   stays, to arrive again; is lost and its sender is told; or stays so long that
//!   its sender gives up, or hedges.
//! - A hint is delivered; its acknowledgement comes at any later time.
//! - A primary sends its whole state to another (exchange, read repair).
//! - A node restarts and forgets its writes under way, is wiped, or is restored
//!   from a copy that was taken at any earlier time.
//! - Siblings are folded in two steps, and anything may come between.
//! - A tombstone is reaped, step by step, see `reaping.rs`.
//!
//! # What is held against it, in every state
//!
//! - Invariant 5: no dot is minted twice.
//! - Invariant 1: what was acknowledged lives on some node, or was superseded by
//!   what lives (with w = 2 and at most one crash that loses a disk).
//! - Invariant 3: what an acknowledged or reaped write superseded lives nowhere,
//!   once all that the nodes hold is joined.
//! - Invariant 2: nodes that heard of the same writes hold equal sets, and joining
//!   is the same in every order; a primary that did not hear of a write, of which
//!   nothing is under way any more, is named by a hint beside that write (while no
//!   node crashed: what a crash loses is for exchange to find).
//! - A context, a node's or a client's, covers exactly the writes that its holder
//!   heard of.
//!
//! # To which depth
//!
//! `tests.rs` names the bounds of each run: one to three writes, at most four
//! messages in flight, one crash, one reap. Within them the walk is complete, with
//! no limit of depth (the longest shortest way to a state has 37 steps), and the
//! number of states is printed: some 100,000 in all. Longer runs are `#[ignore]`d. The same bounds must find each deliberately [`Broken`] variant.
//!
//! # Not covered
//!
//! More than one item, more nodes, more writes than the bounds say; truncation
//! (`max_actors`); operations of data types; reads of several replicas (a client
//! here reads one, which shows it staler states); gossip, layouts and membership;
//! Merkle trees (an exchange sends the state, however it was found to differ);
//! time. Two assumptions stand in for time, and `tests.rs` shows that reaping is
//! unsafe without either: no message outlives the wait before a reap, and no copy
//! of a store from before a reap is put back.
//!
//! [`MemoryStore`]: crate::store::memory::MemoryStore
//! [`Put`]: crate::protocol::put::Put

mod actions;
mod ghost;
mod node;
mod reaping;
mod state;
mod tests;
mod writes;

use stateright::Property;

use self::ghost::Known;
use self::node::{FALLBACK, NODES, Node, PRIMARIES};
use self::state::{Action, State};
use crate::protocol::context::Context;
use crate::protocol::siblings::SiblingSet;

/// How much may happen in a run. All runs have w = 2 of 3.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How many writes clients make.
    pub writes: u32,
    /// How many writes may be on their way from coordinators at once.
    pub puts: usize,
    /// How many clients hold a token, and go on with that of their own writes.
    pub sessions: usize,
    /// Whether they read, too, any node at any time.
    pub reads: bool,
    /// Whether there is one more client, who writes blindly.
    pub blind: bool,
    /// Which nodes coordinate.
    pub coordinators: &'static [usize],
    /// Which sets of peers may seem down to a coordinator.
    pub down: &'static [&'static [usize]],
    /// How many messages the network holds at most.
    pub in_flight: usize,
    /// How many messages arrive a second time.
    pub repeats: u32,
    /// How many messages are lost; that they may stay under way for ever goes
    /// without saying.
    pub losses: u32,
    /// Whether the answer to a write that arrived may be lost.
    pub lost_acks: bool,
    /// Whether coordinators give up.
    pub give_ups: bool,
    /// Whether coordinators hedge.
    pub hedges: bool,
    /// How many whole states are sent between primaries.
    pub exchanges: u32,
    /// How many nodes restart, lose their disk or get an old one.
    pub crashes: u32,
    /// What a crash may be.
    pub crash_kinds: &'static [Crash],
    /// How many tombstones are reaped.
    pub reaps: u32,
    /// In which orders members are asked whether they agree: answers that follow
    /// each other commute, so few orders tell as much as all.
    pub reap_orders: &'static [[usize; NODES]],
    /// Whether writes that would make siblings are folded first.
    pub folds: bool,
}

/// What may befall a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Crash {
    /// It comes back with its store.
    Restart,
    /// It comes back with an empty one.
    Wipe,
    /// It comes back with an old copy of its store.
    Restore,
}

/// A rule of the protocol that is left out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// None: the protocol as it is.
    Nothing,
    /// A node that holds nothing of an item mints under the epoch that it always
    /// has.
    ReusedEpoch,
    /// As above, but only a wiped node.
    WipedNodeGoesOn,
    /// A restored store keeps its incarnation.
    RestoredNodeGoesOn,
    /// The context of a delta covers everything up to its highest counter.
    VectorCoversCloud,
    /// The token of a write covers all siblings at the coordinator.
    TokenCoversUnseen,
    /// A delta supersedes whatever its receiver holds.
    SyncDropsUnseen,
    /// A hint is forgotten when it is sent.
    HintDroppedBeforeAck,
    /// An acknowledgement ends the hint for its sender, whatever was stored for
    /// that node since the hint was sent.
    HintDroppedByTarget,
    /// A coordinator that notes a hint afterwards does not store the write again,
    /// though it may have handed it over and forgotten it.
    HintWithoutWrite,
    /// A tombstone is dropped without asking anybody.
    ReapByTimeAlone,
    /// Only the states of the primaries are asked for.
    ReapIgnoresHints,
    /// Hints are not looked at again when all writes under way are over.
    ReapInOneRound,
    /// Messages from before the answers may still be under way.
    ReapAmongLateMessages,
    /// Whoever is told to drop a tombstone drops what it holds.
    ReapUncompared,
    /// A store may be put back to before a reap.
    RestorePastReap,
}

/// The protocol, whole or broken, within bounds.
#[derive(Clone, Debug)]
pub struct Model {
    pub bounds: Bounds,
    pub broken: Broken,
}

impl Model {
    fn is(&self, broken: Broken) -> bool {
        self.broken == broken
    }
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.bounds)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.take(last, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(MINTED_ONCE, |_, state: &State| !state.ghost.minted_twice),
            Property::always(NOTHING_LOST, |_, state: &State| {
                state.verdict().nothing_lost
            }),
            Property::always(NOTHING_BACK, |_, state: &State| {
                state.verdict().nothing_back
            }),
            Property::always(SAME_HEARD_SAME_HELD, |_, state: &State| {
                state.verdict().same_held
            }),
            Property::always(COVERS_WHAT_WAS_SEEN, |_, state: &State| {
                state.verdict().covers_what_was_seen
            }),
            Property::always(NOBODY_FORGOTTEN, |_, state: &State| {
                state.crashed || (0..state.ghost.writes.len()).all(|write| state.is_spread(write))
            }),
        ];
        let reaped = |_: &Model, state: &State| state.reaped_rows > 0;
        if self.bounds.reaps > 0 {
            properties.push(Property::sometimes(A_REAP, reaped));
        }
        properties
    }
}

pub const MINTED_ONCE: &str = "no dot is minted twice";
pub const NOTHING_LOST: &str = "what was acknowledged lives or was superseded";
pub const NOTHING_BACK: &str = "nothing superseded comes back";
pub const SAME_HEARD_SAME_HELD: &str = "who heard the same holds the same";
pub const COVERS_WHAT_WAS_SEEN: &str = "a context covers what was heard of and no more";
pub const NOBODY_FORGOTTEN: &str = "each primary has a write or is named by a hint beside it";
pub const A_REAP: &str = "some primary forgets a tombstone";

/// What the invariants say of a state: worked out once, for they share the joins.
#[derive(Clone, Debug)]
pub struct Verdict {
    nothing_lost: bool,
    nothing_back: bool,
    same_held: bool,
    covers_what_was_seen: bool,
}

impl State {
    fn verdict(&self) -> &Verdict {
        self.verdict.get_or_init(|| self.judge())
    }

    fn judge(&self) -> Verdict {
        let joined = self.joined(0..NODES);
        let writes = &self.ghost.writes;
        let places = 0..writes.len();
        let lives: Vec<bool> = writes
            .iter()
            .map(|write| joined.siblings().any(|(dot, _)| dot == write.dot))
            .collect();
        let lost = |place: usize| writes[place].acked && !self.ghost.is_safe(place, &lives);
        let came_back = |place: usize| lives[place] && self.ghost.is_over(place);
        let same = |one: &Node| {
            let mut others = self.nodes.iter();
            others.all(|other| one.known != other.known || one.held.hash == other.held.hash)
        };
        let exact = |known: Known, context: &Context| {
            places
                .clone()
                .all(|place| known.has(place) == context.covers(writes[place].dot))
        };
        Verdict {
            nothing_lost: !places.clone().any(lost),
            nothing_back: !places.clone().any(came_back),
            same_held: joined == self.joined((0..NODES).rev()) && self.nodes.iter().all(same),
            covers_what_was_seen: self
                .nodes
                .iter()
                .map(|node| (node.known, node.set().context()))
                .chain(self.sessions.iter().map(|held| (held.known, &held.token)))
                .all(|(known, context)| exact(known, context)),
        }
    }

    /// What these nodes hold together, joined in this order.
    fn joined(&self, nodes: impl Iterator<Item = usize>) -> SiblingSet {
        let mut joined = SiblingSet::new();
        let mut last = None;
        for node in nodes {
            let held = &self.nodes[node].held;
            // What was just joined brings nothing new.
            if last.replace(held.hash) != Some(held.hash) {
                joined.sync(&held.set);
            }
        }
        joined
    }

    /// Whether each primary has the write, or somebody cares that it will.
    fn is_spread(&self, write: usize) -> bool {
        let reaping = self.ghost.writes.iter().any(|write| write.reaped);
        let under_way = self.puts.iter().any(|put| put.carries.has(write));
        let cared_for = |primary: usize| {
            let beside =
                |node: &Node| node.known.has(write) && node.hints.contains(&node::id(primary));
            self.nodes[primary].known.has(write) || self.nodes.iter().any(beside)
        };
        let stray = self.nodes[FALLBACK].row.is_some() && self.nodes[FALLBACK].hints.is_empty();
        reaping || under_way || (!stray && (0..PRIMARIES).all(cared_for))
    }
}
