//! Sibling sets: the state of an item on one replica.
//!
//! A sibling set is a causal context and, by dot, the versions that nothing in
//! the context supersedes. Promises: [`SiblingSet::sync`] is commutative,
//! associative and idempotent, keeps every version that the other side has not
//! superseded and drops every version that it has (*Dotted Version Vectors*,
//! 2010; the delta form is from *Delta State Replicated Data Types*, Almeida,
//! Shoker, Baquero, 2016). The host never looks into values: combining siblings
//! is the work of a reconciler.
//!
//! Not promised: that truncation never lets a superseded version resurface. It
//! may, when an actor that was forgotten long ago still has a live version on a
//! replica that was away; it never loses a live one.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::context::Context;
use super::dot::{Actor, Dot};
use super::sabotage::{Variant, broken};
use super::sorted::SortedMap;

/// One version of an item.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// The stored bytes; none when this version deletes the item (a tombstone).
    pub value: Option<Bytes>,
    /// The media type that the client gave; empty for a tombstone.
    pub content_type: Arc<str>,
    /// Microseconds since the Unix epoch by the minting node's clock, never
    /// earlier than anything the write had seen.
    pub written_at_us: u64,
    /// For a version that a fold made: the greatest dot of its newest inputs,
    /// which it carries when it is folded again, so that regrouping changes
    /// nothing.
    pub stands_for: Option<Dot>,
}

impl Version {
    /// Whether this version deletes the item.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
}

/// The first sixteen bytes of a SHA-256 over an item's context and dots.
///
/// Dots name writes, so equal hashes mean equal values too, and a replica can
/// answer "same as this" without reading a value twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateHash(pub [u8; 16]);

impl StateHash {
    /// The hash of the state of an item that nobody ever wrote: every read of what
    /// is not there, and every hash that a peer asks for, is held against it.
    pub const OF_NOTHING: StateHash = StateHash([
        0x96, 0xa2, 0x96, 0xd2, 0x24, 0xf2, 0x85, 0xc6, 0x7b, 0xee, 0x93, 0xc3, 0x0f, 0x8a, 0x30,
        0x91,
    ]);
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// States up to this size, which nearly all are, are hashed without room on the heap.
const SMALL_STATE_BYTES: usize = 512;

/// The dots of a set's versions, as a sequence.
struct Dots<'a>(&'a SortedMap<Dot, Version>);

impl Serialize for Dots<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.keys())
    }
}

/// An item's state: the versions that live, and everything that was seen.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SiblingSet {
    context: Context,
    siblings: SortedMap<Dot, Version>,
}

impl SiblingSet {
    /// The state of an item that nobody ever wrote.
    pub fn new() -> Self {
        Self::default()
    }

    /// The delta that replicates one write: that version and what its client had
    /// seen, and nothing else of the state.
    pub fn delta(client: &Context, dot: Dot, version: Version) -> Self {
        let mut set = SiblingSet {
            context: client.clone(),
            siblings: SortedMap::new(),
        };
        set.context.add(dot, version.written_at_us);
        set.siblings.insert(dot, version);
        set
    }

    /// Whether nothing was ever seen of the item.
    pub fn is_empty(&self) -> bool {
        self.context.is_empty()
    }

    /// What the replica has seen.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The versions that live, in the order of their dots.
    pub fn siblings(&self) -> impl ExactSizeIterator<Item = (Dot, &Version)> {
        self.siblings.iter().map(|(dot, version)| (*dot, version))
    }

    /// What was seen, and the versions that live, in the order of their dots.
    pub fn into_parts(self) -> (Context, impl ExactSizeIterator<Item = Version>) {
        (self.context, self.siblings.into_values())
    }

    /// How many versions live, tombstones included.
    pub fn len(&self) -> usize {
        self.siblings.len()
    }

    /// Whether a client would see no value: no version lives, or tombstones only.
    pub fn is_absent(&self) -> bool {
        self.siblings.values().all(Version::is_tombstone)
    }

    /// About how many bytes it is encoded, and no fewer: see [`Context::room_bytes`].
    pub fn room_bytes(&self) -> usize {
        let siblings = self.siblings.values();
        siblings.fold(self.context.room_bytes() + 10, |room, version| {
            let value = version.value.as_ref().map_or(0, Bytes::len);
            room + 84 + value + version.content_type.len()
        })
    }

    /// The newest `written_at` of anything seen.
    pub fn newest_us(&self) -> u64 {
        let living = self
            .siblings
            .values()
            .map(|version| version.written_at_us)
            .max();
        self.context.newest_us().max(living.unwrap_or(0))
    }

    /// The identity of this state.
    pub fn hash(&self) -> StateHash {
        let hashed = (&self.context, Dots(&self.siblings));
        let mut small = [0; SMALL_STATE_BYTES];
        let hash = match postcard::to_slice(&hashed, &mut small) {
            Ok(bytes) => Sha256::digest(bytes),
            Err(_) => {
                let bytes = postcard::to_stdvec(&hashed)
                    .expect("contexts and dots always encode into memory");
                Sha256::digest(&bytes)
            }
        };
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        StateHash(first)
    }

    /// A client's write: what the client had seen goes, the new version comes.
    ///
    /// `dot` is fresh, see `replica.rs`.
    pub fn put(&mut self, client: &Context, dot: Dot, version: Version) {
        debug_assert!(!self.context.covers(dot), "a dot is minted once");
        self.siblings.retain(|dot, _| !client.covers(*dot));
        self.context.join(client);
        self.context.add(dot, version.written_at_us);
        self.siblings.insert(dot, version);
    }

    /// Puts one version in the place of all, under a dot of its own: the
    /// outcome of a fold that is stored.
    pub fn supersede_all(&mut self, dot: Dot, version: Version) {
        debug_assert!(!self.context.covers(dot), "a dot is minted once");
        self.siblings.clear();
        self.context.add(dot, version.written_at_us);
        self.siblings.insert(dot, version);
    }

    /// Joins with another replica's state or with a delta.
    ///
    /// A version lives if both sides hold it, or if one holds it and the other
    /// has not seen it. Returns whether anything changed here.
    pub fn sync(&mut self, other: &SiblingSet) -> bool {
        let count_before = self.siblings.len();
        self.siblings.retain(|dot, _| {
            other.siblings.contains_key(dot)
                || !other.context.covers(*dot)
                || broken(Variant::SyncKeepsDominated)
        });
        let mut changed = self.siblings.len() != count_before;
        for (dot, version) in other.siblings.iter() {
            if !self.siblings.contains_key(dot) && !self.context.covers(*dot) {
                self.siblings.insert(*dot, version.clone());
                changed = true;
            }
        }
        self.context.join(&other.context) || changed
    }

    /// Forgets the oldest actors of a long context; see [`Context::truncate`].
    pub fn truncate(&mut self, max_actors: usize) {
        let siblings = &self.siblings;
        let lives = |actor: Actor| {
            let first = Dot { actor, counter: 0 };
            siblings
                .first_from(&first)
                .is_some_and(|(dot, _)| dot.actor == actor)
        };
        self.context.truncate(max_actors, lives);
    }

    /// Whether the set is one that this module could have made; asked of bytes
    /// that came from outside.
    pub fn is_well_formed(&self) -> bool {
        self.context.is_well_formed() && self.siblings.keys().all(|dot| self.context.covers(*dot))
    }
}

impl fmt::Debug for SiblingSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} [", self.context)?;
        for (index, (dot, version)) in self.siblings.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match &version.value {
                Some(value) => write!(f, "{comma}{dot:?}={}", value.escape_ascii())?,
                None => write!(f, "{comma}{dot:?}=tombstone")?,
            }
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_nothing_is_what_hashing_gives() {
        assert_eq!(SiblingSet::new().hash(), StateHash::OF_NOTHING);
    }
}
