//! Merkle trees over the items of a partition (Dynamo, section 4.7), kept up to
//! date by every write.
//!
//! A tree has a fixed number of buckets, its width; an item's key says which of
//! them it falls into. A bucket is the sum of its items' leaf hashes, and every
//! node above it the sum of its sixteen children, modulo 2^128: sums forget the
//! order, so a change of one item touches one cell in each level, whatever else
//! is in the tree (the incremental hash of Bellare and Micciancio, 1997; here
//! against accidents, not against forgers). Promises: two trees of one width with
//! the same leaves are the same, whatever changes led there; the root costs
//! nothing to read; a tree never needs its items.
//!
//! Width: buckets of all partitions together number 2^20, so that a node's trees
//! take some 17 MiB at most for each number of replicas that its tables have, and
//! a bucket of a node with a million items holds about one of them.

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::id::ItemKey;
use super::siblings::StateHash;

/// How many children a node of a tree has.
pub const FANOUT: u32 = 16;
/// The most buckets that a tree has: 16³.
pub const MAX_WIDTH: u32 = 4096;
/// The fewest: with 65,536 partitions a bucket of a million items is still one.
pub const MIN_WIDTH: u32 = 16;
/// About how many buckets the trees of all partitions have together.
const BUCKETS_IN_ALL: u32 = 1 << 20;

/// The sum of some leaves' hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sum(pub u128);

// A sum is as good as random: its sixteen bytes are shorter than a variable-length
// integer of it.
impl Serialize for Sum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.to_be_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 16]>::deserialize(deserializer).map(|bytes| Sum(u128::from_be_bytes(bytes)))
    }
}

/// How many buckets the trees of a ring with so many partitions have: a power of
/// [`FANOUT`].
pub fn width(partitions: u32) -> u32 {
    let mut width = MAX_WIDTH;
    while width > MIN_WIDTH && width.saturating_mul(partitions) > BUCKETS_IN_ALL {
        width /= FANOUT;
    }
    width
}

fn digest(parts: &[&[u8]]) -> u128 {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize());
    u128::from_be_bytes(bytes)
}

/// The bucket that an item falls into, in a tree of this width.
pub fn bucket_of(key: &ItemKey, width: u32) -> u32 {
    (digest(&[key.as_bytes()]) % u128::from(width)) as u32
}

/// What an item adds to its bucket: its key, and by the state's hash its context
/// and dots.
fn leaf(key: u128, state: StateHash) -> u128 {
    digest(&[&key.to_be_bytes(), &state.0])
}

/// The tree of the items of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    /// Level by level, the root first: 1, 16, 256, … up to the buckets.
    levels: Vec<Box<[u128]>>,
    items: u64,
}

impl Tree {
    /// The tree of no items.
    pub fn new(width: u32) -> Self {
        debug_assert!(
            width.is_power_of_two() && width.trailing_zeros().is_multiple_of(4) && width > 0
        );
        let depth = width.trailing_zeros() / 4;
        let levels = (0..=depth)
            .map(|level| vec![0; FANOUT.pow(level) as usize].into())
            .collect();
        Tree { levels, items: 0 }
    }

    /// How many buckets it has.
    pub fn width(&self) -> u32 {
        self.buckets().len() as u32
    }

    fn buckets(&self) -> &[u128] {
        self.levels.last().expect("a tree has a root")
    }

    /// How many items it sums up.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// The sum of everything.
    pub fn root(&self) -> Sum {
        Sum(self.levels[0][0])
    }

    /// The last level, that of the buckets; the root's is 0.
    pub fn depth(&self) -> u32 {
        self.levels.len() as u32 - 1
    }

    /// One level, from its left to its right.
    pub fn level(&self, level: u32) -> &[u128] {
        &self.levels[level as usize]
    }

    /// The sums of a node's children, none when there is no such node.
    pub fn children(&self, level: u32, index: u32) -> Option<Vec<Sum>> {
        let below = self.levels.get(level as usize + 1)?;
        let first = index.checked_mul(FANOUT)? as usize;
        let children = below.get(first..first + FANOUT as usize)?;
        Some(children.iter().copied().map(Sum).collect())
    }

    /// Takes a change of one item's state: none where there is no such item.
    pub fn change(&mut self, key: &ItemKey, before: Option<StateHash>, after: Option<StateHash>) {
        let key = digest(&[key.as_bytes()]);
        let hash = |state: Option<StateHash>| state.map_or(0, |state| leaf(key, state));
        let difference = hash(after).wrapping_sub(hash(before));
        let mut index = (key % u128::from(self.width())) as usize;
        for level in self.levels.iter_mut().rev() {
            level[index] = level[index].wrapping_add(difference);
            index /= FANOUT as usize;
        }
        // Of an item whose row was damaged the tree may know, or not: it is made
        // anew then, and until that is done its count may be off.
        self.items = match (before, after) {
            (None, Some(_)) => self.items + 1,
            (Some(_), None) => self.items.saturating_sub(1),
            _ => self.items,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::id::TableId;

    fn key(number: u16) -> ItemKey {
        ItemKey::new(TableId(1), &number.to_be_bytes(), None)
    }

    fn state(number: u8) -> Option<StateHash> {
        (number > 0).then_some(StateHash([number; 16]))
    }

    #[test]
    fn widths_keep_the_trees_of_all_partitions_at_one_size() {
        assert_eq!(width(1), 4096);
        assert_eq!(width(256), 4096);
        assert_eq!(width(512), 256);
        assert_eq!(width(4096), 256);
        assert_eq!(width(65_536), 16);
        assert_eq!(Tree::new(4096).depth(), 3);
    }

    #[test]
    fn a_change_shows_on_one_path_from_root_to_bucket() {
        let mut tree = Tree::new(256);
        let empty = tree.clone();
        tree.change(&key(7), None, state(1));
        let bucket = bucket_of(&key(7), 256);
        assert_eq!(tree.items(), 1);
        for level in 0..=2 {
            let differing: Vec<usize> = (0..tree.level(level).len())
                .filter(|&index| tree.level(level)[index] != empty.level(level)[index])
                .collect();
            assert_eq!(differing, [(bucket / FANOUT.pow(2 - level)) as usize]);
        }
        tree.change(&key(7), state(1), None);
        assert_eq!(tree, empty);
    }

    proptest! {
        #[test]
        fn the_tree_is_that_of_what_is_left_whatever_led_there(
            changes in prop::collection::vec((0u16..40, 0u8..5), 0..200),
        ) {
            let mut tree = Tree::new(16);
            let mut items = BTreeMap::new();
            for (number, to) in changes {
                let from = items.insert(number, to).unwrap_or(0);
                tree.change(&key(number), state(from), state(to));
            }
            let mut fresh = Tree::new(16);
            for (number, to) in items.iter().rev() {
                fresh.change(&key(*number), None, state(*to));
            }
            prop_assert_eq!(&tree, &fresh);
            prop_assert_eq!(tree.items(), items.values().filter(|to| **to > 0).count() as u64);
            let children = tree.children(0, 0).expect("a root");
            let sum = children.iter().fold(0u128, |sum, child| sum.wrapping_add(child.0));
            prop_assert_eq!(Sum(sum), tree.root());
        }
    }
}
