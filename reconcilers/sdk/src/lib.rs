//! What a reconciler for kinfold is written with.
//!
//! A *reconciler* folds the siblings of an item, its concurrent versions, into
//! one. Implement one of these for a type, name the type in [`export!`] (or
//! [`export_data_type!`]), and test it with [`testing::check`] (or
//! [`testing::check_data_type`]):
//!
//! | implement | when |
//! | --- | --- |
//! | [`JsonMerge`] | values are JSON, and two of them merge into a third |
//! | [`JsonDataType`] | clients send operations, and the state is JSON |
//! | [`Reconciler`] | values are bytes, or the merge wants times and dots |
//! | [`DataType`] | as above, with a state of bytes ([`varint`] is a codec for it) |
//!
//! For a [`DataType`] whose removals hold, [`causal`] is the state, [`operation`]
//! reads what clients send, and [`json::text`] makes equal JSON values equal texts.
//!
//! ```
//! use kinfold_reconciler::{Dice, JsonMerge};
//! use serde::{Deserialize, Serialize};
//! use std::collections::BTreeSet;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Tags(BTreeSet<String>);
//!
//! impl JsonMerge for Tags {
//!     const SUMMARY: &str = "Tags: what anyone added";
//!     const EXPECTED: &str = r#"tags are a JSON list of texts, like ["red"]"#;
//!
//!     fn merge(self, other: Self) -> Self {
//!         Tags(self.0.union(&other.0).cloned().collect())
//!     }
//!
//!     fn sample(dice: &mut Dice) -> Self {
//!         let tags = (0..dice.below(4)).map(|_| dice.pick(&["red", "green", "blue"]));
//!         Tags(tags.map(str::to_owned).collect())
//!     }
//! }
//!
//! kinfold_reconciler::export!(Tags);
//! ```
//!
//! Promises: a merge is plain Rust. It sees no WIT, needs no unsafe code and no
//! wasm target to be tested, and has nothing to be random or timely with: dice
//! are seeded by an argument, and there is no clock. The same crate, compiled
//! for `wasm32-unknown-unknown`, is a module that imports nothing.
//!
//! Not promised: that a merge is lawful. [`testing`] searches for a case where
//! it is not, and so does every node before it takes the module.

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod bindings;
pub mod causal;
pub mod dice;
mod export;
pub mod json;
pub mod operation;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod varint;

use std::fmt;

pub use dice::Dice;
#[doc(hidden)]
pub use export::Package;
pub use json::{JsonDataType, JsonMerge};

/// The largest integer that every JSON reader keeps exactly (2^53 − 1, RFC 7493).
pub const MAX_EXACT_JSON_INTEGER: u64 = (1 << 53) - 1;

/// The name of one write: unique in the cluster, ordered by actor, then counter,
/// the same on every node. The actor's bytes mean nothing here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    pub actor: Vec<u8>,
    pub counter: u64,
}

impl Dot {
    /// The actor as text, for maps and JSON.
    pub fn actor_hex(&self) -> String {
        self.actor
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// A name for maps and JSON: the actor in hex, a colon, the counter.
impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.actor_hex(), self.counter)
    }
}

/// The item whose siblings are folded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    pub table: String,
    pub partition_key: Vec<u8>,
    pub sort_key: Option<Vec<u8>>,
}

/// One of several concurrent versions of an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sibling {
    /// The stored bytes; `None` when this version deletes the item.
    pub value: Option<Vec<u8>>,
    /// As the client that wrote it said.
    pub content_type: String,
    /// Microseconds since the Unix epoch, by the clock of the node that took
    /// the write. Clocks differ: use it for last-write-wins only.
    pub written_at: u64,
    pub dot: Dot,
}

/// What siblings become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The folded bytes. They may be folded again later, as a sibling that
    /// carries the newest `written_at` of its inputs and the dot that goes with
    /// it.
    Merged(Vec<u8>),
    /// The item is deleted.
    Deleted,
    /// This module cannot decide: the client gets the siblings.
    Unresolved,
}

impl Outcome {
    /// The bytes, if siblings became a value.
    pub fn into_value(self) -> Option<Vec<u8>> {
        match self {
            Outcome::Merged(value) => Some(value),
            Outcome::Deleted | Outcome::Unresolved => None,
        }
    }
}

/// Where an operation of a data type happens: a fresh dot, and the clock as in
/// [`Sibling::written_at`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub dot: Dot,
    pub written_at: u64,
}

/// What a client sees of a data type's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub body: Vec<u8>,
    pub content_type: &'static str,
}

/// Folds siblings: the contract of a table's module.
///
/// Replicas meet siblings in any order, in any groups and more than once, and
/// must end up with the same bytes. So a fold minds neither order nor repeats,
/// and takes its own results as siblings.
pub trait Reconciler {
    /// One line for people.
    const SUMMARY: &'static str;
    /// Whether siblings may be folded as soon as they meet, before a client has
    /// seen them. Only where folding never undoes a later write: true for
    /// last-write-wins, false where clients remove things by leaving them out.
    const EAGER: bool = false;

    /// One answer for the `siblings`: one or more, sorted by dot. An error costs
    /// the request that asked for the fold, and its client gets the siblings.
    fn fold(item: &Item, siblings: &[Sibling]) -> Result<Outcome, String>;

    /// Values for the law check, the same for the same seed. Good ones collide:
    /// few names, equal numbers, things removed. With none, the check makes up
    /// bytes and JSON, which a fold that expects more than that refuses.
    fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        let (_, _) = (seed, count);
        Vec::new()
    }
}

/// A table's module when clients send operations instead of values: a state
/// that replicas join, and that operations only ever move forward.
pub trait DataType {
    /// One line for people.
    const SUMMARY: &'static str;
    /// As [`Reconciler::EAGER`]; joins of states never undo anything.
    const EAGER: bool = true;

    /// As [`Reconciler::fold`], of states.
    fn fold(item: &Item, siblings: &[Sibling]) -> Result<Outcome, String>;

    /// The state after one operation; `state` is `None` when there is no item
    /// yet. An error refuses the operation and changes nothing.
    fn apply(
        item: &Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &Event,
    ) -> Result<Vec<u8>, String>;

    /// What a client sees of a state.
    fn render(state: &[u8]) -> Result<View, String>;

    /// Operations for the law check, the same for the same seed.
    fn operations(seed: u64, count: u32) -> Vec<Vec<u8>>;
}

/// Folds the values that are there with `join`, after reading each with `read`.
///
/// A tombstone contributes nothing, and only tombstones leave nothing (`None`:
/// the item is deleted). Whichever of several unreadable values is met first,
/// the error is the same one, so that not even a refusal depends on the order.
pub fn fold_values<'a, T>(
    siblings: &'a [Sibling],
    read: impl Fn(&'a [u8]) -> Result<T, String>,
    join: impl Fn(T, T) -> T,
) -> Result<Option<T>, String> {
    let mut folded: Option<T> = None;
    let mut refusal: Option<String> = None;
    for value in siblings
        .iter()
        .filter_map(|sibling| sibling.value.as_deref())
    {
        match read(value) {
            Ok(next) => {
                folded = Some(match folded {
                    Some(so_far) => join(so_far, next),
                    None => next,
                });
            }
            Err(error) => refusal = Some(refusal.map_or(error.clone(), |least| least.min(error))),
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok(folded),
    }
}
