//! Names: nodes, tables, items, positions on the ring, and the bytes that keep
//! items in order.
//!
//! Promises: every name is a newtype, cheap to copy or clone, totally ordered,
//! and means the same on every node. Nothing here is random: what must be fresh
//! is minted by the machine from the dice it was given.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

/// The longest partition key, in bytes (DynamoDB's limit).
pub const MAX_PARTITION_KEY_BYTES: usize = 2048;
/// The longest sort key, in bytes (DynamoDB's limit).
pub const MAX_SORT_KEY_BYTES: usize = 1024;

/// As long as most encoded names are at most, in bytes.
const SHORT_KEY_BYTES: usize = 128;

/// First eight bytes of an MD5, big endian: how names become fixed-size ids.
fn md5_u64(parts: &[&[u8]]) -> u64 {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// A node, by the hash of its configured name: a node that was wiped comes back
/// as itself, and a dot stays small. Two names with one hash are refused when
/// the second asks to join.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Stands for whoever listens at an address, where a message was for an
    /// address alone.
    pub const NOBODY: NodeId = NodeId(0);

    /// The id of the node with this name.
    pub fn of(name: &str) -> Self {
        NodeId(md5_u64(&[b"node\0", name.as_bytes()]))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One life of a table: a table deleted and made again under its old name has
/// another id and shares nothing with the old one. Made from the name and the
/// count of its lives, so that two nodes that create the same table at once
/// create one table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId(pub u64);

impl TableId {
    /// The id of the `generation`th life of the table with this name.
    pub fn of(name: &str, generation: u64) -> Self {
        TableId(md5_u64(&[
            b"table\0",
            name.as_bytes(),
            b"\0",
            &generation.to_be_bytes(),
        ]))
    }
}

impl fmt::Debug for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A cluster, by the random number that its founder drew. Part of every
/// handshake: two clusters never mix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u64);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A partition of the ring, `0..Q`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Partition(pub u32);

/// Where an item lies on the ring: MD5 of table name, a zero byte and partition
/// key, as 128 bits (Dynamo, section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u128);

impl Position {
    /// The position of an item of `table` (its name) with this partition key.
    pub fn of(table: &str, partition_key: &[u8]) -> Self {
        let mut hash = Md5::new();
        hash.update(table.as_bytes());
        hash.update([0]);
        hash.update(partition_key);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize());
        Position(u128::from_be_bytes(bytes))
    }

    /// The partition that the position falls into: its top bits.
    ///
    /// `partitions` is a power of two, at most 2^31.
    pub fn partition(self, partitions: u32) -> Partition {
        debug_assert!(partitions.is_power_of_two());
        let bits = partitions.trailing_zeros();
        if bits == 0 {
            Partition(0)
        } else {
            Partition((self.0 >> (128 - bits)) as u32)
        }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// An item's name as the stores order it: table id, then the partition key with
/// every zero byte escaped and a terminator after it, then the sort key.
///
/// Layout (the tuple encoding of FoundationDB, for one nested string):
///
/// ```text
/// ┌──────────────┬───────────────────────────────┬───────┬──────────┐
/// │ table id, BE │ partition key, 00 → 00 FF     │ 00 01 │ sort key │
/// │ 8 bytes      │ 1..=4096 bytes                │       │ 0..=1024 │
/// └──────────────┴───────────────────────────────┴───────┴──────────┘
/// ```
///
/// Comparing encodings compares (table, partition key, sort key), so the items
/// of one partition key lie together in sort-key order. No sort key is the
/// empty one, which is not a legal key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey(Arc<[u8]>);

impl ItemKey {
    /// Encodes a name. The caller has checked the keys' lengths.
    pub fn new(table: TableId, partition_key: &[u8], sort_key: Option<&[u8]>) -> Self {
        debug_assert!((1..=MAX_PARTITION_KEY_BYTES).contains(&partition_key.len()));
        debug_assert!(sort_key.is_none_or(|key| (1..=MAX_SORT_KEY_BYTES).contains(&key.len())));
        let sort_key = sort_key.unwrap_or_default();
        let length = 8 + partition_key.len() + 2 + sort_key.len();
        let mut short = [0; SHORT_KEY_BYTES];
        if length <= SHORT_KEY_BYTES && !partition_key.contains(&0) {
            // As nearly all are: put together here, and copied once.
            let (table_id, rest) = short.split_at_mut(8);
            table_id.copy_from_slice(&table.0.to_be_bytes());
            let (first, rest) = rest.split_at_mut(partition_key.len());
            first.copy_from_slice(partition_key);
            rest[1] = 1;
            rest[2..][..sort_key.len()].copy_from_slice(sort_key);
            return ItemKey(short[..length].into());
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&table.0.to_be_bytes());
        for &byte in partition_key {
            bytes.push(byte);
            if byte == 0 {
                bytes.push(0xff);
            }
        }
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(sort_key);
        ItemKey(bytes.into())
    }

    /// A key below all those of the table, and above those of lesser tables: where
    /// to begin to read it. None for the least table of all.
    pub fn before_table(table: TableId) -> Option<Self> {
        let lesser = TableId(table.0.checked_sub(1)?);
        let last = [0xff; MAX_PARTITION_KEY_BYTES];
        Some(ItemKey::new(
            lesser,
            &last,
            Some(&[0xff; MAX_SORT_KEY_BYTES]),
        ))
    }

    /// Takes bytes that claim to be an encoded name; `None` if they are not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (partition_key, sort_key) = Self::lengths(bytes)?;
        let allowed = (1..=MAX_PARTITION_KEY_BYTES).contains(&partition_key)
            && sort_key <= MAX_SORT_KEY_BYTES;
        allowed.then(|| ItemKey(bytes.into()))
    }

    /// How long the partition key and the sort key are that these bytes encode; `None`
    /// if they encode none. Each message about an item is asked this.
    fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
        let mut rest = bytes.get(8..)?;
        let mut partition_key = 0;
        loop {
            let zero = rest.iter().position(|&byte| byte == 0)?;
            partition_key += zero;
            match rest.get(zero + 1)? {
                0xff => partition_key += 1,
                1 => return Some((partition_key, rest.len() - zero - 2)),
                _ => return None,
            }
            rest = &rest[zero + 2..];
        }
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The table that the item belongs to.
    pub fn table(&self) -> TableId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.0[..8]);
        TableId(u64::from_be_bytes(id))
    }

    /// Table, partition key and sort key.
    pub fn parts(&self) -> (TableId, Vec<u8>, Option<Vec<u8>>) {
        self.parts_checked()
            .expect("an ItemKey is checked when it is made")
    }

    fn parts_checked(&self) -> Option<(TableId, Vec<u8>, Option<Vec<u8>>)> {
        if self.0.len() < 8 {
            return None;
        }
        let mut partition_key = Vec::new();
        let mut at = 8;
        loop {
            match (self.0.get(at)?, self.0.get(at + 1)) {
                (0, Some(0xff)) => {
                    partition_key.push(0);
                    at += 2;
                }
                (0, Some(1)) => {
                    at += 2;
                    break;
                }
                (0, _) => return None,
                (&byte, _) => {
                    partition_key.push(byte);
                    at += 1;
                }
            }
        }
        let sort_key = &self.0[at..];
        let sort_key = (!sort_key.is_empty()).then(|| sort_key.to_vec());
        Some((self.table(), partition_key, sort_key))
    }
}

impl fmt::Debug for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts_checked() {
            Some((table, partition_key, sort_key)) => {
                write!(f, "{table:?}/{}", partition_key.escape_ascii())?;
                sort_key.map_or(Ok(()), |key| write!(f, "/{}", key.escape_ascii()))
            }
            None => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

impl Serialize for ItemKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for ItemKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: Cow<'de, [u8]> = serde_bytes::deserialize(deserializer)?;
        ItemKey::decode(&bytes).ok_or_else(|| serde::de::Error::custom("not an item key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn position_is_md5_of_table_zero_key() {
        // From `printf 'carts\0alice' | md5sum`.
        assert_eq!(
            Position::of("carts", b"alice").to_string(),
            "54fb3cdc0463d0f967e84de1e79b75fb"
        );
        assert_eq!(Position(u128::MAX).partition(256), Partition(255));
        assert_eq!(Position(1 << 120).partition(256), Partition(1));
        assert_eq!(Position(u128::MAX).partition(1), Partition(0));
    }

    #[test]
    fn a_table_begins_after_what_comes_before_it() {
        let before = ItemKey::before_table(TableId(7)).expect("there are lesser tables");
        assert_eq!(ItemKey::decode(before.as_bytes()), Some(before.clone()));
        let least = ItemKey::new(TableId(7), &[0], None);
        let lesser = ItemKey::new(TableId(6), &[0xff; 9], Some(&[0xff; 9]));
        assert!(lesser < before && before < least);
        assert_eq!(ItemKey::before_table(TableId(0)), None);
    }

    #[test]
    fn names_of_every_length_are_put_together_alike() {
        for length in 1..2 * SHORT_KEY_BYTES {
            let plain = vec![7; length];
            let mut zero_at_last = plain.clone();
            zero_at_last.push(0);
            for partition_key in [plain, zero_at_last] {
                for sort_key in [None, Some(vec![9]), Some(vec![0; SHORT_KEY_BYTES / 2])] {
                    let key = ItemKey::new(TableId(5), &partition_key, sort_key.as_deref());
                    let zeros = partition_key.iter().filter(|byte| **byte == 0).count();
                    let sorted = sort_key.as_ref().map_or(0, Vec::len);
                    let expected = 8 + partition_key.len() + zeros + 2 + sorted;
                    assert_eq!(key.as_bytes().len(), expected);
                    assert_eq!(key.parts(), (TableId(5), partition_key.clone(), sort_key));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn item_keys_round_trip_and_keep_order(
            a in (any::<u8>(), prop::collection::vec(0u8..3, 1..6), prop::option::of(prop::collection::vec(0u8..3, 1..4))),
            b in (any::<u8>(), prop::collection::vec(0u8..3, 1..6), prop::option::of(prop::collection::vec(0u8..3, 1..4))),
        ) {
            let key = |(table, pk, sk): &(u8, Vec<u8>, Option<Vec<u8>>)| {
                ItemKey::new(TableId(u64::from(*table)), pk, sk.as_deref())
            };
            let (left, right) = (key(&a), key(&b));
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            prop_assert_eq!(left.parts(), (TableId(u64::from(a.0)), a.1.clone(), a.2.clone()));
            prop_assert_eq!(ItemKey::decode(left.as_bytes()), Some(left));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..2, Just(0xff)], 0..40),
        ) {
            // What has parts is a key, if its partition key is not empty.
            let key = ItemKey(bytes[..].into());
            let parts = key.parts_checked();
            let is_key = parts.is_some_and(|(_, partition_key, _)| !partition_key.is_empty());
            prop_assert_eq!(ItemKey::decode(&bytes), is_key.then_some(key));
        }
    }
}
