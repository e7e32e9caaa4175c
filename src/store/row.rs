//! The stored form of a row.
//!
//! Promises: bytes that [`encode`] wrote decode to the row that it was given;
//! any other bytes, and a row that is read under another item's key, are
//! reported as damage and never panic. A version that was ever written stays
//! readable; a newer one is refused by name, not misread.
//!
//! Layout, version 1:
//!
//! ```text
//! byte   0          1            5                      21              end
//!        ┌──────────┬────────────┬──────────────────────┬───────────────┐
//!        │ version  │ CRC32C, LE │ state hash           │ postcard of   │
//!        │ 1 byte   │ 4 bytes    │ 16 bytes             │ `Row`         │
//!        └──────────┴────────────┴──────────────────────┴───────────────┘
//! ```
//!
//! The checksum runs over the item's encoded key, the version byte, and all
//! that follows the checksum. The state hash is [`SiblingSet::hash`], so that
//! a read that wants only the hash need not make it. There is no length: the
//! store knows it, and a row that was cut short fails its checksum.
//!
//! Not promised: that damage which keeps a CRC32C is noticed, one in four
//! thousand million; it guards against rot, not against forgers.
//!
//! [`SiblingSet::hash`]: crate::protocol::siblings::SiblingSet::hash

use serde::Deserialize;

use crate::protocol::context::Context;
use crate::protocol::dot::Dot;
use crate::protocol::effect::StoreError;
use crate::protocol::id::ItemKey;
use crate::protocol::replica::{Minted, Row};
use crate::protocol::siblings::{SiblingSet, StateHash};
use crate::protocol::sorted::SortedMap;

/// The version that this code writes, and the newest that it reads.
const VERSION: u8 = 1;
/// Where the checksum begins.
const CHECKSUM_AT: usize = 1;
/// Where the state hash begins.
const HASH_AT: usize = 5;

/// What is wrong with the bytes of a row.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// Fewer bytes than a header has.
    #[error("{0} bytes are too few for a row")]
    Short(usize),
    /// Written by a later release, or damage to the first byte.
    #[error("row format {0} is unknown to this release")]
    Version(u8),
    /// The bytes changed since they were written, or belong to another item.
    #[error("checksum {found:08x} should be {wanted:08x}")]
    Checksum { found: u32, wanted: u32 },
    /// The checksum holds, but what it covers is no row.
    #[error("the bytes are no row: {0}")]
    Body(#[from] postcard::Error),
    /// As above: bytes follow the row.
    #[error("{0} bytes follow the row")]
    Trailing(usize),
    /// The index knows the row, and the table has it not.
    #[error("its row is gone from the table")]
    Gone,
    /// As above: the sibling set is none that the protocol could have made.
    #[error("the sibling set is not well formed")]
    Malformed,
}

impl Damage {
    /// The store's error for damage found under this key.
    pub fn at(&self, key: &ItemKey) -> StoreError {
        StoreError::Corrupt(format!("{key:?}: {self}"))
    }
}

fn checksum(key: &ItemKey, version: u8, rest: &[u8]) -> u32 {
    let sum = crc32c::crc32c(key.as_bytes());
    let sum = crc32c::crc32c_append(sum, &[version]);
    crc32c::crc32c_append(sum, rest)
}

/// Writes the row of the item `key` into `buffer`, whose old content goes: a
/// writer keeps one buffer for all its rows. `state` is the hash of the row's set,
/// which the one who changed it has made for the Merkle trees already.
pub fn encode(key: &ItemKey, row: &Row, state: StateHash, buffer: &mut Vec<u8>) {
    debug_assert!(
        row.set.is_well_formed(),
        "a row is checked before it is kept"
    );
    debug_assert_eq!(row.set.hash(), state, "the header is what trees go by");
    buffer.clear();
    buffer.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    buffer.extend_from_slice(&state.0);
    let mut encoded =
        postcard::to_extend(row, std::mem::take(buffer)).expect("rows always encode into memory");
    let sum = checksum(key, VERSION, &encoded[HASH_AT..]);
    encoded[CHECKSUM_AT..HASH_AT].copy_from_slice(&sum.to_le_bytes());
    *buffer = encoded;
}

/// Checks version and checksum; returns the state hash and the body.
fn open<'a>(key: &ItemKey, bytes: &'a [u8]) -> Result<(StateHash, &'a [u8]), Damage> {
    let short = || Damage::Short(bytes.len());
    let (&version, rest) = bytes.split_first().ok_or_else(short)?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let (found, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (hash, body) = rest.split_first_chunk().ok_or_else(short)?;
    let found = u32::from_le_bytes(*found);
    let wanted = checksum(key, version, rest);
    if found != wanted {
        return Err(Damage::Checksum { found, wanted });
    }
    Ok((StateHash(*hash), body))
}

/// The body of a row; nothing may follow it.
fn body<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Damage> {
    match postcard::take_from_bytes(bytes)? {
        (body, []) => Ok(body),
        (_, rest) => Err(Damage::Trailing(rest.len())),
    }
}

/// Reads the row of the item `key`.
///
/// Allocates no more than a small multiple of `bytes`, whatever they say.
pub fn decode(key: &ItemKey, bytes: &[u8]) -> Result<Row, Damage> {
    decode_with_state(key, bytes).map(|(row, _)| row)
}

/// Reads of the row of the item `key` no more than the hash of its state. The
/// checksum is that of all of it.
pub fn state(key: &ItemKey, bytes: &[u8]) -> Result<StateHash, Damage> {
    open(key, bytes).map(|(state, _)| state)
}

/// Reads the row of the item `key`, and the hash of its state from its header.
pub fn decode_with_state(key: &ItemKey, bytes: &[u8]) -> Result<(Row, StateHash), Damage> {
    let (state, rest) = open(key, bytes)?;
    let row: Row = body(rest)?;
    if !row.set.is_well_formed() {
        return Err(Damage::Malformed);
    }
    Ok((row, state))
}

/// What the Merkle trees want to know of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skimmed {
    pub state: StateHash,
    /// See [`deleted_us`].
    pub deleted_us: Option<u64>,
}

/// When the newest tombstone was written, of an item of which only tombstones are
/// left; in microseconds since the Unix epoch.
pub fn deleted_us(set: &SiblingSet) -> Option<u64> {
    newest_tombstone(
        set.siblings()
            .map(|(_, version)| (version.is_tombstone(), version.written_at_us)),
    )
}

fn newest_tombstone(versions: impl Iterator<Item = (bool, u64)>) -> Option<u64> {
    let mut newest_us = None;
    for (is_tombstone, written_at_us) in versions {
        if !is_tombstone {
            return None;
        }
        newest_us = newest_us.max(Some(written_at_us));
    }
    newest_us
}

/// [`Row`] as it is encoded, its values left where they lie.
#[derive(Deserialize)]
struct RowInPlace<'a> {
    _minted: Option<Minted>,
    #[serde(borrow)]
    set: SetInPlace<'a>,
}

#[derive(Deserialize)]
struct SetInPlace<'a> {
    context: Context,
    #[serde(borrow)]
    siblings: SortedMap<Dot, VersionInPlace<'a>>,
}

#[derive(Deserialize)]
struct VersionInPlace<'a> {
    #[serde(borrow)]
    value: Option<&'a [u8]>,
    _content_type: &'a str,
    written_at_us: u64,
    _stands_for: Option<Dot>,
}

/// Reads of the row of the item `key` what the Merkle trees want to know, and
/// refuses what [`decode`] refuses, without copying a value.
pub fn skim(key: &ItemKey, bytes: &[u8]) -> Result<Skimmed, Damage> {
    let (state, rest) = open(key, bytes)?;
    let SetInPlace { context, siblings } = body::<RowInPlace<'_>>(rest)?.set;
    if !context.is_well_formed() || !siblings.keys().all(|dot| context.covers(*dot)) {
        return Err(Damage::Malformed);
    }
    let versions = siblings.values();
    Ok(Skimmed {
        state,
        deleted_us: newest_tombstone(
            versions.map(|version| (version.value.is_none(), version.written_at_us)),
        ),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::dot::{Actor, Epoch};
    use crate::protocol::id::{NodeId, TableId};
    use crate::protocol::siblings::Version;
    use crate::store::suite::rows;

    fn key(name: &[u8]) -> ItemKey {
        ItemKey::new(TableId(7), name, None)
    }

    fn encoded(key: &ItemKey, row: &Row) -> Vec<u8> {
        let mut buffer = b"left over".to_vec();
        encode(key, row, row.set.hash(), &mut buffer);
        buffer
    }

    /// Puts a checksum that holds before any bytes, so that tests reach what
    /// lies behind it.
    fn sealed(key: &ItemKey, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&checksum(key, VERSION, rest).to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }

    proptest! {
        #[test]
        fn rows_round_trip(row in rows()) {
            let bytes = encoded(&key(b"a"), &row);
            let skimmed = Skimmed { state: row.set.hash(), deleted_us: deleted_us(&row.set) };
            prop_assert_eq!(skim(&key(b"a"), &bytes), Ok(skimmed));
            prop_assert_eq!(decode_with_state(&key(b"a"), &bytes), Ok((row, skimmed.state)));
        }

        #[test]
        fn any_flipped_bit_is_noticed(row in rows(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut bytes = encoded(&key(b"a"), &row);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert!(decode(&key(b"a"), &bytes).is_err());
            prop_assert!(skim(&key(b"a"), &bytes).is_err());
        }

        #[test]
        fn a_row_cut_short_is_noticed(row in rows(), at in any::<prop::sample::Index>()) {
            let bytes = encoded(&key(b"a"), &row);
            prop_assert!(decode(&key(b"a"), &bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(decode(&key(b"a"), &bytes).is_err());
            let sealed = sealed(&key(b"a"), &bytes);
            let decoded = decode_with_state(&key(b"a"), &sealed);
            prop_assert!(decoded.iter().all(|(row, _)| row.set.is_well_formed()));
            let decoded = decoded.map(|(row, state)| Skimmed { state, deleted_us: deleted_us(&row.set) });
            prop_assert_eq!(skim(&key(b"a"), &sealed), decoded);
        }
    }

    #[test]
    fn a_row_of_tombstones_says_when_the_newest_was_written() {
        let written = |times: &[(Option<&'static [u8]>, u64)]| {
            let mut set = SiblingSet::new();
            for ((value, written_at_us), counter) in times.iter().zip(1..) {
                let actor = Actor {
                    node: NodeId(9),
                    epoch: Epoch(1),
                };
                let version = Version {
                    value: value.map(Bytes::from_static),
                    content_type: "".into(),
                    written_at_us: *written_at_us,
                    stands_for: None,
                };
                set.put(&Context::new(), Dot { actor, counter }, version);
            }
            let row = Row { minted: None, set };
            skim(&key(b"a"), &encoded(&key(b"a"), &row))
                .expect("reads")
                .deleted_us
        };
        assert_eq!(written(&[]), None);
        assert_eq!(written(&[(None, 5)]), Some(5));
        assert_eq!(written(&[(None, 7), (None, 5)]), Some(7));
        assert_eq!(written(&[(None, 7), (Some(b""), 5)]), None);
    }

    #[test]
    fn a_row_under_another_key_is_damage() {
        let bytes = encoded(&key(b"a"), &Row::default());
        assert!(decode(&key(b"a"), &bytes).is_ok());
        assert!(matches!(
            decode(&key(b"b"), &bytes),
            Err(Damage::Checksum { .. })
        ));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = encoded(&key(b"a"), &Row::default());
        bytes[0] = 2;
        assert_eq!(decode(&key(b"a"), &bytes), Err(Damage::Version(2)));
    }

    #[test]
    fn a_body_that_lies_behind_a_good_checksum_is_refused() {
        let key = key(b"a");
        let mut rest = vec![0; 16];
        rest.extend_from_slice(&postcard::to_stdvec(&Row::default()).expect("encodes"));
        assert!(decode(&key, &sealed(&key, &rest)).is_ok());
        rest.push(0);
        assert_eq!(decode(&key, &sealed(&key, &rest)), Err(Damage::Trailing(1)));
        // No mint, then a context that claims four thousand million actors.
        let mut huge = vec![0; 17];
        huge.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(matches!(
            decode(&key, &sealed(&key, &huge)),
            Err(Damage::Body(_))
        ));
        // One actor of whom nothing was seen, and no siblings.
        let mut empty_actor = vec![0; 17];
        empty_actor.push(1);
        empty_actor.extend_from_slice(&[0; 16]);
        empty_actor.extend_from_slice(&[0, 0, 0, 0]);
        assert_eq!(
            decode(&key, &sealed(&key, &empty_actor)),
            Err(Damage::Malformed)
        );
    }
}
