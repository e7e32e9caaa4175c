//! What lives under each key, and what has been seen: the state of data types
//! whose removals hold, such as `or-set` and `lww-map`.
//!
//! Promises: one state has one encoding, and [`Causal::decode`] takes any bytes
//! at all, to refuse them with a text unless they are exactly what
//! [`Causal::encode`] makes of some state. [`Causal::join`] is commutative,
//! associative and idempotent on all of these, and its result is one of them.
//!
//! # No tombstones
//!
//! The optimised OR-set (Bieniusa et al., 2012). Every write of a key is named by
//! the dot of its operation. The state holds the writes that live, and which dots
//! it has seen, as the newest counter of each actor. One number is enough because
//! an actor's states grow one out of the other: it is one node's, for one item,
//! and the node stores an operation's result only in place of what it was made
//! from. So who has seen a dot has seen all that its actor did before. A write
//! that is seen and not held was removed or replaced, so nothing else need say
//! so. Of two states, the join keeps what both hold, and what one holds and the
//! other has not seen.
//!
//! A write replaces all writes of its key that it saw, and a removal only takes
//! them away. What lives under one key therefore did not see one another; it is
//! at most one write of each actor, because an actor sees all its own. So a
//! state has at most keys × actors writes, however many operations made it, and
//! a key that was removed leaves nothing.
//!
//! # Layout
//!
//! ```text
//! ┌─────────┬────────┬─ each actor, ascending ───┬────────┬─ each key, ascending ──┐
//! │ version │ actors │ length │ actor │ newest   │ keys   │ length │ UTF-8 │ writes │
//! │ 01      │ varint │ varint │ bytes │ varint   │ varint │ varint │ key   │        │
//! └─────────┴────────┴───────────────────────────┴────────┴────────────────────────┘
//! writes: │ count │, then for each actor that has one, ascending:
//!         │ place of the actor │ its newest counter less the write's │ content │
//! ```

use std::collections::BTreeMap;
use std::mem;

use crate::varint::{self, Fault, Reader};

const VERSION: u8 = 1;

/// What a write says besides its key.
pub trait Content<'a>: Ord + Copy {
    /// Appends what [`Content::decode`] reads.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads what [`Content::encode`] wrote, and nothing else.
    fn decode(reader: &mut Reader<'a>) -> Result<Self, Fault>;
}

/// A key that is there says all there is.
impl Content<'_> for () {
    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(_: &mut Reader) -> Result<Self, Fault> {
        Ok(())
    }
}

/// A state. Keys and actors are borrowed from the bytes that were decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Causal<'a, C> {
    /// The newest counter seen of each actor.
    seen: BTreeMap<&'a [u8], u64>,
    /// What lives, by key and actor. No key is without a write.
    keys: BTreeMap<&'a str, Writes<'a, C>>,
}

/// The writes of one key, actors ascending. Nearly always there is one: a list of
/// just that length, because a large set in small memory is mostly these.
pub type Writes<'a, C> = Vec<Write<'a, C>>;

/// What one actor wrote to a key and nobody replaced or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a, C> {
    pub actor: &'a [u8],
    pub counter: u64,
    pub content: C,
}

impl<C> Default for Causal<'_, C> {
    fn default() -> Self {
        Causal {
            seen: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }
}

impl<'a, C: Content<'a>> Causal<'a, C> {
    /// Takes note of an operation's dot. An error if it is not a fresh one: the
    /// rest of the cluster would take what happens under it for removed.
    pub fn see(&mut self, actor: &'a [u8], counter: u64) -> Result<(), String> {
        let newest = self.seen.entry(actor).or_default();
        if counter <= *newest {
            return Err(format!(
                "an operation needs a fresh dot: {counter} is not above {newest}, \
                 which its actor has used"
            ));
        }
        *newest = counter;
        Ok(())
    }

    /// Replaces all that is seen of `key`, under a dot that [`Causal::see`] took.
    pub fn write(&mut self, key: &'a str, content: C, actor: &'a [u8], counter: u64) {
        let mut writes = Vec::with_capacity(1);
        writes.push(Write {
            actor,
            counter,
            content,
        });
        self.keys.insert(key, writes);
    }

    /// Removes all that is seen of `key`.
    pub fn remove(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// What lives, keys ascending by their bytes.
    pub fn keys(&self) -> &BTreeMap<&'a str, Writes<'a, C>> {
        &self.keys
    }

    /// The least state that has seen what either has.
    pub fn join(mut self, mut other: Causal<'a, C>) -> Causal<'a, C> {
        let mut keys = BTreeMap::new();
        let mut keep = |key, writes: Writes<'a, C>| {
            if !writes.is_empty() {
                keys.insert(key, writes);
            }
        };
        let mut theirs = mem::take(&mut other.keys).into_iter().peekable();
        for (key, our_writes) in mem::take(&mut self.keys) {
            while let Some((key, writes)) = theirs.next_if(|(their, _)| *their < key) {
                keep(key, self.join_writes(Vec::new(), &other, writes));
            }
            let their_writes = theirs.next_if(|(their, _)| *their == key);
            let their_writes = their_writes.map(|(_, writes)| writes).unwrap_or_default();
            keep(key, self.join_writes(our_writes, &other, their_writes));
        }
        for (key, writes) in theirs {
            keep(key, self.join_writes(Vec::new(), &other, writes));
        }
        self.keys = keys;
        for (actor, counter) in other.seen {
            let newest = self.seen.entry(actor).or_default();
            *newest = counter.max(*newest);
        }
        self
    }

    /// What lives under a key that has `ours` here and `theirs` in `other`.
    fn join_writes(
        &self,
        ours: Writes<'a, C>,
        other: &Causal<'a, C>,
        theirs: Writes<'a, C>,
    ) -> Writes<'a, C> {
        let mut joined = Vec::with_capacity(ours.len().max(theirs.len()));
        let unseen_here = |their: &Write<'a, C>| their.counter > self.seen(their.actor);
        let mut theirs = theirs.into_iter().peekable();
        for our in ours {
            while let Some(their) = theirs.next_if(|their| their.actor < our.actor) {
                joined.extend(Some(their).filter(unseen_here));
            }
            let their = theirs.next_if(|their| their.actor == our.actor);
            match their {
                // No store makes two contents under one dot; the greater is kept,
                // so that these too are joined the same way everywhere.
                Some(their) if their.counter == our.counter => joined.push(Write {
                    content: our.content.max(their.content),
                    ..our
                }),
                // Of two dots of one actor at most one is unseen on the other
                // side: each side has seen its own.
                their => {
                    if our.counter > other.seen(our.actor) {
                        joined.push(our);
                    }
                    joined.extend(their.filter(unseen_here));
                }
            }
        }
        joined.extend(theirs.filter(unseen_here));
        joined
    }

    fn seen(&self, actor: &[u8]) -> u64 {
        self.seen.get(actor).copied().unwrap_or(0)
    }

    /// The bytes of the state.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        varint::put(&mut out, self.seen.len() as u64);
        let mut places = BTreeMap::new();
        for ((actor, counter), place) in self.seen.iter().zip(0..) {
            varint::put_bytes(&mut out, actor);
            varint::put(&mut out, *counter);
            places.insert(*actor, place);
        }
        varint::put(&mut out, self.keys.len() as u64);
        for (key, writes) in &self.keys {
            varint::put_bytes(&mut out, key.as_bytes());
            varint::put(&mut out, writes.len() as u64);
            for write in writes {
                varint::put(&mut out, places[write.actor]);
                varint::put(&mut out, self.seen(write.actor) - write.counter);
                write.content.encode(&mut out);
            }
        }
        out
    }

    /// Reads a state whose keys all are what `check` takes.
    pub fn decode(
        bytes: &'a [u8],
        check: impl Fn(&str) -> Result<(), Fault>,
    ) -> Result<Causal<'a, C>, Fault> {
        let mut reader = Reader::new(bytes);
        if reader.byte()? != VERSION {
            return Err("its first byte names no version that this module knows");
        }
        let mut state = Causal::default();
        let mut actors = Vec::new();
        for _ in 0..reader.number()? {
            let actor = reader.bytes()?;
            let newest = reader.number()?;
            if newest == 0 || !ascends(&state.seen, &actor) {
                return Err("actors are not in order");
            }
            state.seen.insert(actor, newest);
            actors.push((actor, newest));
        }
        for _ in 0..reader.number()? {
            let key = str::from_utf8(reader.bytes()?).map_err(|_| "a key is not UTF-8")?;
            check(key)?;
            let mut writes: Writes<C> = Vec::new();
            for _ in 0..reader.number()? {
                let place = reader.number()?;
                let (actor, newest) = *usize::try_from(place)
                    .ok()
                    .and_then(|place| actors.get(place))
                    .ok_or("a write names no actor")?;
                if writes.last().is_some_and(|last| last.actor >= actor) {
                    return Err("writes are not in order");
                }
                let counter = newest.checked_sub(reader.number()?).unwrap_or(0);
                if counter == 0 {
                    return Err("a dot is below its actor's first");
                }
                let content = C::decode(&mut reader)?;
                if writes.is_empty() {
                    // Room for one, not for the usual four.
                    writes.reserve_exact(1);
                }
                writes.push(Write {
                    actor,
                    counter,
                    content,
                });
            }
            if writes.is_empty() || !ascends(&state.keys, &key) {
                return Err("keys are not in order");
            }
            state.keys.insert(key, writes);
        }
        reader.end()?;
        Ok(state)
    }
}

/// Whether a key lies after all that are there.
fn ascends<K: Ord, V>(map: &BTreeMap<K, V>, key: &K) -> bool {
    map.last_key_value().is_none_or(|(last, _)| last < key)
}
