//! One replica of one item: what each change makes of its row.
//!
//! Every store runs [`apply`] inside the transaction that writes the row, so a
//! dot is minted and stored at once and no two writes mint from one state.
//! Promises: a dot never names two writes, whatever was forgotten; time never
//! runs backwards along an item; a change that cannot be made leaves the row as
//! it was.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::dot::{Actor, Dot, Epoch};
use super::id::NodeId;
use super::sabotage::{Variant, broken};
use super::siblings::{SiblingSet, StateHash, Version};

/// What a node stores for an item: the replicated state, and the node's own
/// memory of its minting, which never travels.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    pub minted: Option<Minted>,
    pub set: SiblingSet,
}

/// The last dot that this node minted for an item. Kept beside the context, not
/// in it, because truncation may forget the node's own entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Minted {
    epoch: [u8; 8],
    counter: u64,
    /// The store's incarnation when it was minted.
    incarnation: u64,
}

/// What a node brings to a mint: its name, its store's incarnation, the time and
/// a throw of the dice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Minting {
    pub node: NodeId,
    pub incarnation: u64,
    /// The wall clock, in microseconds since the Unix epoch.
    pub now_us: u64,
    /// Taken when the row's own epoch cannot be gone on with.
    pub fresh_epoch: Epoch,
}

/// How many siblings and actors a table lets an item have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiblingLimits {
    /// A write that leaves more siblings than this is folded before it is
    /// stored; none where the table has no reconciler to fold with.
    pub fold_above: Option<usize>,
    /// A write that would leave more siblings than this is refused.
    pub max_siblings: usize,
    /// How many actors a context keeps.
    pub max_actors: usize,
}

/// A client's write, before it has a dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// What the client had seen: it supersedes this and nothing else.
    pub client: Context,
    /// None deletes.
    pub value: Option<Bytes>,
    pub content_type: Arc<str>,
}

/// A change to one row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// A client's write, coordinated here.
    Write {
        draft: Draft,
        minting: Minting,
        limits: SiblingLimits,
    },
    /// A delta or a whole set from a peer.
    Sync { set: SiblingSet, max_actors: usize },
    /// A peer's whole set, which stores take in the place of a row that they
    /// cannot read. (A delta must not: it would pass for the whole state.) The
    /// node's memory of its minting is lost with the row, so its next mint takes
    /// a fresh epoch.
    Mend { set: SiblingSet, max_actors: usize },
    /// Stores `row` if the state is still the one that it was made from.
    Replace { expected: StateHash, row: Row },
    /// Stores what `made` brings beside whatever peers brought since it was made,
    /// as long as nothing was minted here meanwhile: `minted` is what the row
    /// that it was made from had minted.
    Join {
        minted: Option<Minted>,
        made: Row,
        max_actors: usize,
    },
}

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The write is stored; the delta is what its peers need.
    Written(Written),
    /// Not stored: the siblings want folding first. Plan on this row, then
    /// `Replace`.
    WantsFold(Row),
    /// Not stored: the item would have this many siblings.
    TooManySiblings(usize),
    /// The peer's state is in; false when it brought nothing new.
    Synced { changed: bool },
    /// Replaced, or joined.
    Replaced,
    /// Not stored: the item has changed since; here is what it is now.
    Conflict(Row),
}

/// A write that was stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    pub dot: Dot,
    pub delta: SiblingSet,
}

/// Mints the next dot of an item and its time.
///
/// A fresh epoch is taken when the row was never minted on, when the store's
/// incarnation changed since, and when someone shows a counter of ours that we
/// do not remember (Riak's kv679: a dot issued twice makes one of two writes
/// vanish).
fn mint(row: &mut Row, client: &Context, minting: &Minting) -> (Dot, u64) {
    let remembered = row.minted.filter(|minted| {
        let actor = Actor {
            node: minting.node,
            epoch: Epoch(u64::from_be_bytes(minted.epoch)),
        };
        let shown = row.set.context().highest(actor).max(client.highest(actor));
        broken(Variant::EpochReused)
            || (minted.incarnation == minting.incarnation && shown <= minted.counter)
    });
    let (epoch, counter) = match remembered {
        Some(minted) => (Epoch(u64::from_be_bytes(minted.epoch)), minted.counter + 1),
        None if broken(Variant::EpochReused) => (Epoch(1), 1),
        None => (minting.fresh_epoch, 1),
    };
    let dot = Dot {
        actor: Actor {
            node: minting.node,
            epoch,
        },
        counter,
    };
    row.minted = Some(Minted {
        epoch: epoch.0.to_be_bytes(),
        counter,
        incarnation: minting.incarnation,
    });
    if broken(Variant::WallClockRules) {
        return (dot, minting.now_us);
    }
    let newest_us = row.set.newest_us().max(client.newest_us());
    (dot, minting.now_us.max(newest_us.saturating_add(1)))
}

/// What the row becomes by a client's write, with no regard to limits.
///
/// Returns the row, the dot, and the delta that replicates the write.
pub fn plan_write(mut row: Row, draft: &Draft, minting: &Minting) -> (Row, Written) {
    let (dot, written_at_us) = mint(&mut row, &draft.client, minting);
    let version = Version {
        value: draft.value.clone(),
        content_type: draft.content_type.clone(),
        written_at_us,
        stands_for: None,
    };
    let delta = if broken(Variant::DeltaCarriesRow) {
        let mut seen = row.set.context().clone();
        seen.join(&draft.client);
        SiblingSet::delta(&seen, dot, version.clone())
    } else {
        SiblingSet::delta(&draft.client, dot, version.clone())
    };
    row.set.put(&draft.client, dot, version);
    (row, Written { dot, delta })
}

/// What the row becomes when all its siblings are folded into `value`.
///
/// The outcome stands for its inputs under a fresh dot of its own: it carries
/// their newest time, and the greatest dot of those with that time. (The greatest
/// dot of all, with another's time, would name a version that never was, and
/// last-write-wins could not be regrouped.)
pub fn plan_fold(
    mut row: Row,
    value: Option<Bytes>,
    content_type: Arc<str>,
    minting: &Minting,
    max_actors: usize,
) -> (Row, Dot) {
    let newest = row
        .set
        .siblings()
        .map(|(dot, version)| (version.written_at_us, version.stands_for.unwrap_or(dot)))
        .max();
    let (dot, _) = mint(&mut row, &Context::new(), minting);
    let version = Version {
        value,
        content_type,
        written_at_us: newest.map_or(minting.now_us, |(written_at_us, _)| written_at_us),
        stands_for: newest.map(|(_, dot)| dot),
    };
    row.set.supersede_all(dot, version);
    row.set.truncate(max_actors);
    (row, dot)
}

/// Mints the dot and time of an operation on this row.
///
/// Returns the row that remembers having minted them, for [`plan_operation`].
pub fn plan_event(mut row: Row, minting: &Minting) -> (Row, Dot, u64) {
    let (dot, written_at_us) = mint(&mut row, &Context::new(), minting);
    (row, dot, written_at_us)
}

/// What the row becomes when an operation has turned its siblings into one
/// state. Unlike a fold this is a write of its own, with its own time and dot.
pub fn plan_operation(
    mut row: Row,
    event: (Dot, u64),
    state: Bytes,
    content_type: Arc<str>,
    max_actors: usize,
) -> Row {
    let (dot, written_at_us) = event;
    let version = Version {
        value: Some(state),
        content_type,
        written_at_us,
        stands_for: None,
    };
    row.set.supersede_all(dot, version);
    row.set.truncate(max_actors);
    row
}

/// Makes a change: returns the row to store, or none when nothing changes, and
/// what to tell the one who asked.
pub fn apply(row: Option<Row>, mutation: Mutation) -> (Option<Row>, Outcome) {
    let row = row.unwrap_or_default();
    match mutation {
        Mutation::Write {
            draft,
            minting,
            limits,
        } => {
            let before = row.clone();
            let (mut after, written) = plan_write(row, &draft, &minting);
            let siblings = after.set.len();
            if siblings > 1 && limits.fold_above.is_some_and(|most| siblings > most) {
                return (None, Outcome::WantsFold(before));
            }
            // A write that leaves no more siblings than it found is always
            // taken: it is how a client mends an item that has too many.
            if siblings > limits.max_siblings && siblings > before.set.len() {
                return (None, Outcome::TooManySiblings(siblings));
            }
            if !broken(Variant::TruncatedOnOnePath) {
                after.set.truncate(limits.max_actors);
            }
            (Some(after), Outcome::Written(written))
        }
        Mutation::Sync { set, max_actors } | Mutation::Mend { set, max_actors } => {
            let mut after = row.clone();
            after.set.sync(&set);
            after.set.truncate(max_actors);
            let changed = after != row;
            (changed.then_some(after), Outcome::Synced { changed })
        }
        Mutation::Replace {
            expected,
            row: after,
        } => {
            if row.set.hash() == expected || broken(Variant::SwapWithoutCompare) {
                (Some(after), Outcome::Replaced)
            } else {
                (None, Outcome::Conflict(row))
            }
        }
        Mutation::Join {
            minted,
            made,
            max_actors,
        } => {
            // Another mint here, or a peer that remembers one that this node
            // forgot, may have taken the dot that was planned.
            let taken = |(dot, _)| row.set.context().covers(dot);
            if row.minted != minted || made.set.siblings().any(taken) {
                return (None, Outcome::Conflict(row));
            }
            let mut after = row;
            after.set.sync(&made.set);
            after.set.truncate(max_actors);
            after.minted = made.minted;
            (Some(after), Outcome::Replaced)
        }
    }
}
