//! Exchange: two replicas of a partition find out where they differ and sync
//! that, both ways (Dynamo, section 4.7; what Cassandra calls repair and Riak
//! active anti-entropy).
//!
//! ```text
//! a ── Roots: of every partition that both own ──────▶ b   one message a round
//! a ◀─ which of them differ ────────────────────────── b
//! a ── Branches: sums below the nodes that differ ───▶ b   once a level
//! a ◀─ which of those differ ───────────────────────── b
//! a ── Compare: keys and hashes in those buckets ────▶ b
//! a ◀─ rows that a lacks or has otherwise; what b wants b
//! a ── Give: those ──────────────────────────────────▶ b
//! ```
//!
//! A replica that has little of what the other has skips the descent and asks for
//! the rows in the order of their keys (`Pull`); the descent that follows finds
//! what that left out. The same session fills a node that joins or was wiped.
//!
//! Promises: a session that ends complete has brought everything that the peer
//! held when it began, and given what the peer lacked of ours; what agrees costs
//! nothing but sums; a session asks one thing at a time, moves a bounded number
//! of bytes at once and rests between, and ends when an answer is overdue. It
//! keeps no state that outlives it: begun again, it finds what is left.

mod session;
use serde::{Deserialize, Serialize};

use super::id::{ItemKey, Partition, TableId};
use super::merkle::Sum;
use super::siblings::{SiblingSet, StateHash};
use super::trees::{Class, Trees};
pub use session::{Action, Session};

/// How many nodes of a tree are compared in one message: 64 times 16 sums are
/// 16 KiB.
pub const MAX_BRANCHES: usize = 64;
/// How many buckets are compared in one message.
pub const MAX_BUCKETS: usize = 256;
/// How many leaves are compared in one message: some 25 KB with ordinary keys,
/// 2.6 MB with the longest.
pub const MAX_LEAVES: usize = 512;
/// How many bytes of values travel in one message, about: the last row may pass
/// it.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// How many rows travel in one message.
pub const MAX_BATCH_ROWS: usize = 512;
/// How many bytes a session moves in a second, about; see `MAX_SESSIONS` for how
/// many there are. Together they fill a network of 256 Mbit/s and leave most of a
/// disk to clients.
pub const BYTES_PER_SECOND: u64 = 8 << 20;
/// How long an answer may take before the session counts as failed.
pub const ANSWER_TIMEOUT_MS: u64 = 10_000;

/// What a node says of one of its trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Root {
    pub partition: Partition,
    pub class: Class,
    pub sum: Sum,
}

/// What the other finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RootVerdict {
    Same,
    /// It holds so many items.
    Differs {
        items: u64,
    },
    /// Its tree is not known yet.
    Unknown,
}

/// What nodes ask of one another to stay or become alike.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Which of these trees differ? All have this width.
    Roots { width: u32, roots: Vec<Root> },
    /// Which of these nodes' children differ? Nodes of this level, with the sums
    /// of their children.
    Branches {
        partition: Partition,
        class: Class,
        level: u32,
        nodes: Vec<(u32, Vec<Sum>)>,
    },
    /// Here is all that lies in these buckets: what of it is different there?
    Compare {
        partition: Partition,
        class: Class,
        width: u32,
        buckets: Vec<u32>,
        leaves: Vec<(ItemKey, StateHash)>,
    },
    /// The rows after this key, in order.
    Pull {
        partition: Partition,
        class: Class,
        after: Option<ItemKey>,
    },
    /// Rows to sync, durably.
    Give {
        partition: Partition,
        rows: Vec<(ItemKey, SiblingSet)>,
    },
    /// Which of these states does the receiver not hold exactly so?
    Holds {
        partition: Partition,
        items: Vec<(ItemKey, StateHash)>,
    },
    /// Is there anything that could bring back what these tombstones deleted?
    /// `aged_ms` is how long ago the asker first looked.
    Vote {
        partition: Partition,
        class: Class,
        layout: u64,
        aged_ms: u64,
        items: Vec<(ItemKey, StateHash)>,
    },
    /// Everyone agreed: forget those that are still so.
    Reap {
        partition: Partition,
        items: Vec<(ItemKey, StateHash)>,
    },
    /// The rows of one table after this key, in order: all, or only those that
    /// have more than one version. For looking at, not for storing.
    Survey {
        table: TableId,
        partition: Partition,
        after: Option<ItemKey>,
        singles: bool,
    },
}

/// The answers, in the order of the questions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    Roots(Vec<RootVerdict>),
    /// The children that differ, by their place in their level.
    Branches(Vec<u32>),
    Compared {
        /// Which of the asker's leaves, by their place, are wanted.
        wants: Vec<u32>,
        /// What the asker lacks or has otherwise.
        rows: Vec<(ItemKey, SiblingSet)>,
        /// Whether there was more of that than fits.
        more: bool,
    },
    Pulled {
        rows: Vec<(ItemKey, SiblingSet)>,
        /// After which key to go on; none when that was all.
        next: Option<ItemKey>,
    },
    /// The rows are stored.
    Given,
    /// Those that it holds otherwise or not at all, by their place.
    Lacking(Vec<u32>),
    Vote {
        /// Whether nothing here could bring anything back.
        clean: bool,
        /// Of a primary: the tombstones that it holds exactly so, by their place.
        same: Vec<u32>,
    },
    Reaped,
    Surveyed {
        /// How many of the table's items were gone through.
        scanned: u64,
        rows: Vec<(ItemKey, SiblingSet)>,
        /// After which key to go on; none when that was all.
        next: Option<ItemKey>,
    },
}

/// About how many bytes these rows take.
pub fn bytes_of(rows: &[(ItemKey, SiblingSet)]) -> u64 {
    rows.iter().map(|(key, set)| bytes_of_row(key, set)).sum()
}

/// About how many bytes this row takes.
pub fn bytes_of_row(key: &ItemKey, set: &SiblingSet) -> u64 {
    /// Dots, contexts, lengths.
    const OVERHEAD_BYTES: u64 = 128;
    let values = set
        .siblings()
        .map(|(_, version)| version.value.as_ref().map_or(0, bytes::Bytes::len) as u64);
    key.as_bytes().len() as u64 + OVERHEAD_BYTES + values.sum::<u64>()
}

/// Of the nodes that a peer describes, the children whose sums are others here;
/// none when the own trees are not known.
pub fn differing_children(
    trees: &Trees,
    partition: Partition,
    class: Class,
    level: u32,
    nodes: &[(u32, Vec<Sum>)],
) -> Option<Vec<u32>> {
    let mut differing = Vec::new();
    for (index, theirs) in nodes.iter().take(MAX_BRANCHES) {
        let mine = trees.children(partition, class, level, *index)?;
        let first = index * super::merkle::FANOUT;
        let pairs = mine.iter().zip(theirs).zip(first..);
        differing.extend(
            pairs
                .filter(|((mine, theirs), _)| mine != theirs)
                .map(|(_, child)| child),
        );
    }
    Some(differing)
}

/// Compares the leaves of some buckets, both in the order of keys: which of
/// theirs are wanted here, by their place, and which of the own they should get.
pub fn compare(
    mine: &[(ItemKey, StateHash)],
    theirs: &[(ItemKey, StateHash)],
) -> (Vec<u32>, Vec<ItemKey>) {
    let (mut wants, mut gives) = (Vec::new(), Vec::new());
    let mut mine = mine.iter().peekable();
    for ((key, hash), place) in theirs.iter().zip(0u32..) {
        while let Some((only_mine, _)) = mine.next_if(|(own, _)| own < key) {
            gives.push(only_mine.clone());
        }
        match mine.next_if(|(own, _)| own == key) {
            Some((_, own)) if own == hash => {}
            Some((both, _)) => {
                gives.push(both.clone());
                wants.push(place);
            }
            None => wants.push(place),
        }
    }
    gives.extend(mine.map(|(only_mine, _)| only_mine.clone()));
    (wants, gives)
}

#[cfg(test)]
mod tests;
