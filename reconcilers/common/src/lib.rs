//! What the built-in guests share.
//!
//! Promises: merge logic written against these types is plain Rust. It sees no
//! WIT, needs no wasm target to be tested, and has nothing to be random or
//! timely with: dice are seeded by an argument, and there is no clock.
//!
//! - [`Sibling`], [`Outcome`], [`Event`], [`View`]: the contract's records;
//! - [`dice`]: numbers that depend on a seed alone, for samples;
//! - [`varint`]: the codec of the data types' states;
//! - [`json`]: JSON values, equal ones as equal text, and their order;
//! - [`operation`]: operations that are a JSON object of one key;
//! - [`causal`]: what lives and what has been seen, for types that remove;
//! - [`laws`]: what every fold must keep, as a check that tests call;
//! - [`replica`]: a data type at one replica, for tests;
//! - [`glue`]: two macros that tie merge logic to the WIT.

pub mod causal;
pub mod dice;
pub mod glue;
pub mod json;
#[cfg(not(target_arch = "wasm32"))]
pub mod laws;
pub mod operation;
#[cfg(not(target_arch = "wasm32"))]
pub mod replica;
pub mod varint;

/// For [`glue`]'s macros, so that a guest depends on this crate alone.
#[cfg(target_arch = "wasm32")]
pub use wit_bindgen;

/// The largest integer that every JSON reader keeps exactly (2^53 − 1, RFC 7493).
pub const MAX_EXACT_JSON_INTEGER: u64 = (1 << 53) - 1;

/// The name of one write: unique in the cluster, ordered by actor, then counter,
/// the same on every node. The actor's bytes mean nothing here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    pub actor: Vec<u8>,
    pub counter: u64,
}

/// One of several concurrent versions of an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sibling {
    /// The stored bytes; `None` when this version deletes the item.
    pub value: Option<Vec<u8>>,
    /// Microseconds since the Unix epoch, by the clock of the node that took
    /// the write.
    pub written_at: u64,
    pub dot: Dot,
}

/// What siblings become. The contract's third outcome, `unresolved`, is for
/// modules that may decline; the built-ins always decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Merged(Vec<u8>),
    Deleted,
}

impl Outcome {
    /// The bytes, unless the item is deleted.
    pub fn into_value(self) -> Option<Vec<u8>> {
        match self {
            Outcome::Merged(value) => Some(value),
            Outcome::Deleted => None,
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

/// Folds the values that are there with `join`, after reading each with `read`.
///
/// The rule of all the built-ins but `lww`: a tombstone contributes nothing,
/// and only tombstones leave the item deleted. Whichever of several unreadable
/// values is met first, the error is the same one, so that not even a refusal
/// depends on the order.
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
