//! A node's Merkle trees: which of them are known, and how they are made from
//! the rows and made again.
//!
//! There is a tree for each partition and each number of replicas that tables
//! have (a *class*): two nodes that are both primaries of a partition for tables
//! of three replicas may not both be for tables of two, so what is compared must
//! not be mixed. Promises: a tree that is known counts every row of its partition
//! and class, as far as changes were told, and nothing else; trees live in memory
//! and are derived from the rows after a start, and again once in each interval,
//! so that rot and lost rows show; changes that come while a partition is being
//! derived are in the outcome, once. The last needs the store to answer about
//! one partition in the order in which it makes changes.

use std::collections::{BTreeMap, VecDeque};

use super::effect::{Leaf, LeafChange};
use super::id::{ItemKey, Partition, TableId};
use super::merkle::{self, Sum, Tree};

/// How many replicas the tables of a tree's items have.
pub type Class = u8;

/// The class of items whose table is not known here: nobody owns them.
pub const NO_CLASS: Class = 0;

/// How many leaves one request to the store derives at most: it holds up the
/// writer of the partition's file for a millisecond or so.
pub const LEAVES_PER_REQUEST: usize = 256;
/// How many leaves are derived in a second at most. A million rows take a minute
/// and a half after a start, in some five percent of one core.
pub const LEAVES_PER_SECOND: u64 = 12_800;
/// How many leaves are derived at once after a pause, at most: those of a tenth of a
/// second, so that a pause is not made up for in one go.
const MAX_ALLOWANCE: i64 = LEAVES_PER_SECOND as i64 / 10;

/// A partition that is being derived.
struct Derivation {
    partition: Partition,
    /// Everything up to this key is in `trees`.
    cursor: Option<ItemKey>,
    trees: BTreeMap<Class, Tree>,
    damaged: u64,
    /// Whether the classes changed meanwhile: the outcome is of no use.
    void: bool,
}

/// What a derivation found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Derived {
    pub partition: Partition,
    /// Rows that cannot be read.
    pub damaged: u64,
    /// Whether the trees at hand were not those of the rows.
    pub differed: bool,
}

/// The trees of one node.
#[derive(Default)]
pub struct Trees {
    width: u32,
    partitions: u32,
    /// By partition, those that were derived; within one by class, those with
    /// items.
    known: BTreeMap<Partition, BTreeMap<Class, Tree>>,
    deriving: Option<Derivation>,
    /// Whether the store is at it.
    asked: bool,
    /// Partitions to derive before the next round.
    urgent: VecDeque<Partition>,
    /// The rest of the present round: the next partition.
    next: u32,
    round_begun_ms: u64,
    /// Leaves that may be derived before time has to pass. Below zero when an answer
    /// brought more than were allowed: time pays that back first.
    allowance: i64,
    allowed_ms: u64,
}

impl Trees {
    /// The ring has so many partitions. Before that nothing is derived.
    pub fn set_partitions(&mut self, partitions: u32) {
        if self.partitions == partitions {
            return;
        }
        *self = Trees {
            width: merkle::width(partitions),
            partitions,
            allowance: MAX_ALLOWANCE,
            ..Trees::default()
        };
    }

    /// The number of buckets of each tree.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Tables came, went, or changed their number of replicas: items may be of
    /// another class now, so every tree is made again.
    pub fn forget_all(&mut self) {
        self.known.clear();
        self.urgent.clear();
        self.next = 0;
        if let Some(deriving) = &mut self.deriving {
            deriving.void = true;
        }
    }

    /// Whether there are items of this class, in trees that are known or made.
    pub fn has_class(&self, class: Class) -> bool {
        let deriving = self.deriving.iter().map(|deriving| &deriving.trees);
        self.known
            .values()
            .chain(deriving)
            .any(|trees| trees.contains_key(&class))
    }

    /// Whether the partition's trees are known.
    pub fn is_known(&self, partition: Partition) -> bool {
        self.known.contains_key(&partition)
    }

    /// How many partitions' trees are known.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// Whether all are.
    pub fn all_known(&self) -> bool {
        self.partitions > 0 && self.known.len() == self.partitions as usize
    }

    /// Root and number of items; none when the partition's trees are not known.
    pub fn root(&self, partition: Partition, class: Class) -> Option<(Sum, u64)> {
        let trees = self.known.get(&partition)?;
        let tree = trees.get(&class);
        Some(tree.map_or((Sum::default(), 0), |tree| (tree.root(), tree.items())))
    }

    /// The sums of a node's children; of zeros where there are no items. None
    /// when the trees are not known, or have no such node.
    pub fn children(
        &self,
        partition: Partition,
        class: Class,
        level: u32,
        index: u32,
    ) -> Option<Vec<Sum>> {
        match self.known.get(&partition)?.get(&class) {
            Some(tree) => tree.children(level, index),
            // A tree of no items has no other nodes than one of many: what a peer
            // asks is not believed to be a node.
            None => {
                let is_node = level < self.depth() && index < merkle::FANOUT.pow(level);
                is_node.then(|| vec![Sum::default(); merkle::FANOUT as usize])
            }
        }
    }

    /// The level of the buckets.
    pub fn depth(&self) -> u32 {
        self.width.trailing_zeros() / 4
    }

    /// The partitions and classes of which there are items.
    pub fn present(&self) -> impl Iterator<Item = (Partition, Class, u64)> + '_ {
        self.known.iter().flat_map(|(partition, trees)| {
            trees
                .iter()
                .filter(|(_, tree)| tree.items() > 0)
                .map(|(class, tree)| (*partition, *class, tree.items()))
        })
    }

    /// A row changed.
    pub fn on_change(&mut self, change: &LeafChange, class: Class) {
        let width = self.width;
        if let Some(deriving) = &mut self.deriving
            && deriving.partition == change.partition
            && deriving
                .cursor
                .as_ref()
                .is_some_and(|cursor| change.key <= *cursor)
        {
            count(&mut deriving.trees, width, change, class);
        }
        if let Some(trees) = self.known.get_mut(&change.partition) {
            count(trees, width, change, class);
        }
        if change.mended {
            self.suspect(change.partition);
        }
    }

    /// Something is wrong with rows of this partition: it is derived before its
    /// turn.
    pub fn suspect(&mut self, partition: Partition) {
        // A derivation under way may have passed the place already.
        if partition.0 < self.partitions && !self.urgent.contains(&partition) {
            self.urgent.push_back(partition);
        }
    }

    /// What to ask the store for next, if it is time: a partition, and the key
    /// after which to go on. `every_ms` is how often everything is derived.
    pub fn next_request(
        &mut self,
        now_ms: u64,
        every_ms: u64,
    ) -> Option<(Partition, Option<ItemKey>)> {
        if self.partitions == 0 || self.asked {
            return None;
        }
        let passed_ms = now_ms.saturating_sub(self.allowed_ms);
        self.allowed_ms = now_ms;
        let earned = passed_ms.saturating_mul(LEAVES_PER_SECOND) / 1000;
        self.allowance = self
            .allowance
            .saturating_add(i64::try_from(earned).unwrap_or(i64::MAX))
            .min(MAX_ALLOWANCE);
        if self.allowance <= 0 {
            return None;
        }
        if self.deriving.as_ref().is_some_and(|deriving| deriving.void) {
            self.deriving = None;
        }
        if self.deriving.is_none() {
            let partition = self.choose(now_ms, every_ms)?;
            self.deriving = Some(Derivation {
                partition,
                cursor: None,
                trees: BTreeMap::new(),
                damaged: 0,
                void: false,
            });
        }
        self.asked = true;
        let deriving = self.deriving.as_ref()?;
        Some((deriving.partition, deriving.cursor.clone()))
    }

    fn choose(&mut self, now_ms: u64, every_ms: u64) -> Option<Partition> {
        if let Some(partition) = self.urgent.pop_front() {
            return Some(partition);
        }
        if self.next >= self.partitions {
            if now_ms < self.round_begun_ms.saturating_add(every_ms) {
                return None;
            }
            self.next = 0;
        }
        if self.next == 0 {
            self.round_begun_ms = now_ms;
        }
        self.next += 1;
        Some(Partition(self.next - 1))
    }

    /// The store could not derive: it is tried again in its turn.
    pub fn on_failed(&mut self) {
        self.asked = false;
        if let Some(deriving) = self.deriving.take() {
            self.suspect(deriving.partition);
        }
        // Not at once, or a store that always fails would be asked without end.
        self.allowance = self.allowance.min(0);
    }

    /// The store gave leaves. Returns what was found once the partition is done.
    pub fn on_leaves(
        &mut self,
        leaves: &[Leaf],
        done: bool,
        class_of: impl Fn(TableId) -> Class,
    ) -> Option<Derived> {
        self.asked = false;
        self.allowance -= leaves.len() as i64;
        let width = self.width;
        let deriving = self.deriving.as_mut()?;
        for leaf in leaves {
            match leaf.hash {
                Some(hash) => {
                    let class = class_of(leaf.key.table());
                    let tree = deriving
                        .trees
                        .entry(class)
                        .or_insert_with(|| Tree::new(width));
                    tree.change(&leaf.key, None, Some(hash));
                }
                None => deriving.damaged += 1,
            }
            deriving.cursor = Some(leaf.key.clone());
        }
        if !done || deriving.void {
            return None;
        }
        let Derivation {
            partition,
            trees,
            damaged,
            ..
        } = self.deriving.take()?;
        let before = self.known.insert(partition, trees);
        let differed = before.is_some_and(|before| {
            let now = &self.known[&partition];
            let roots = |trees: &BTreeMap<Class, Tree>| {
                trees
                    .iter()
                    .filter(|(_, tree)| tree.root() != Sum::default())
                    .map(|(class, tree)| (*class, tree.root()))
                    .collect::<Vec<_>>()
            };
            roots(&before) != roots(now)
        });
        Some(Derived {
            partition,
            damaged,
            differed,
        })
    }
}

fn count(trees: &mut BTreeMap<Class, Tree>, width: u32, change: &LeafChange, class: Class) {
    let tree = trees.entry(class).or_insert_with(|| Tree::new(width));
    tree.change(&change.key, change.before, change.after);
    // A partition whose last item went costs nothing again.
    if tree.items() == 0 && tree.root() == Sum::default() {
        trees.remove(&class);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::siblings::StateHash;

    const PARTITION: Partition = Partition(0);

    fn key(number: u8) -> ItemKey {
        ItemKey::new(TableId(u64::from(number % 3)), &[number], None)
    }

    fn class_of(table: TableId) -> Class {
        table.0 as Class
    }

    fn state(to: u8) -> Option<StateHash> {
        (to > 0).then_some(StateHash([to; 16]))
    }

    #[derive(Clone, Debug)]
    enum Act {
        Change(u8, u8),
        Derive(usize),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            3 => (0u8..24, 0u8..4).prop_map(|(number, to)| Act::Change(number, to)),
            1 => (1usize..6).prop_map(Act::Derive),
        ];
        prop::collection::vec(act, 0..120)
    }

    #[test]
    fn leaves_keep_to_their_pace_however_slowly_they_come() {
        // How long the store takes for an answer, and how often it is asked.
        for (answer_ms, tick_ms) in [(0, 10), (1, 1), (3, 3), (25, 10)] {
            let mut trees = Trees::default();
            trees.set_partitions(1 << 20);
            let (mut now_ms, mut given) = (0, 0);
            while now_ms < 10_000 {
                if trees.next_request(now_ms, 0).is_none() {
                    now_ms += tick_ms;
                    continue;
                }
                now_ms += answer_ms;
                let leaves: Vec<Leaf> = (0..LEAVES_PER_REQUEST)
                    .map(|number| Leaf {
                        key: key(number as u8),
                        hash: state(1),
                        deleted_us: None,
                    })
                    .collect();
                trees.on_leaves(&leaves, true, class_of);
                given += leaves.len() as u64;
            }
            let allowed = 10 * LEAVES_PER_SECOND + 2 * MAX_ALLOWANCE as u64;
            assert!(given <= allowed, "{given} leaves at {answer_ms} ms each");
            assert!(2 * given > allowed, "only {given} leaves");
        }
    }

    proptest! {
        /// Changes and derivations in any order end in the trees of the rows.
        #[test]
        fn what_is_known_is_what_is_stored(acts in acts()) {
            let mut trees = Trees::default();
            trees.set_partitions(1);
            let mut rows: BTreeMap<ItemKey, u8> = BTreeMap::new();
            let mut now_ms = 0;
            let ends = [Act::Derive(100), Act::Derive(100)];
            for act in acts.into_iter().chain(ends) {
                match act {
                    Act::Change(number, to) => {
                        let before = rows.remove(&key(number)).unwrap_or(0);
                        if to > 0 {
                            rows.insert(key(number), to);
                        }
                        let change = LeafChange {
                            partition: PARTITION,
                            key: key(number),
                            before: state(before),
                            after: state(to),
                            mended: false,
                        };
                        trees.on_change(&change, class_of(key(number).table()));
                    }
                    Act::Derive(limit) => {
                        now_ms += 1000;
                        let Some((partition, after)) = trees.next_request(now_ms, 0) else {
                            continue;
                        };
                        prop_assert_eq!(partition, PARTITION);
                        let rest: Vec<Leaf> = rows
                            .iter()
                            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
                            .map(|(key, to)| Leaf {
                                key: key.clone(),
                                hash: state(*to),
                                deleted_us: None,
                            })
                            .collect();
                        let done = rest.len() <= limit;
                        let given = &rest[..rest.len().min(limit)];
                        let found = trees.on_leaves(given, done, class_of);
                        prop_assert!(found.is_none_or(|found| !found.differed));
                    }
                }
                if trees.is_known(PARTITION) {
                    for class in 0..3 {
                        let mut expected = Tree::new(trees.width());
                        for (key, to) in &rows {
                            if class_of(key.table()) == class {
                                expected.change(key, None, state(*to));
                            }
                        }
                        let root = Some((expected.root(), expected.items()));
                        prop_assert_eq!(trees.root(PARTITION, class), root);
                    }
                }
            }
            prop_assert!(trees.is_known(PARTITION));
        }
    }

    #[test]
    fn nodes_that_no_tree_has_are_refused_also_where_there_are_no_items() {
        let mut trees = Trees::default();
        trees.set_partitions(1);
        trees.next_request(0, 0);
        trees.on_leaves(&[], true, class_of);
        let last = merkle::FANOUT.pow(trees.depth() - 1) - 1;
        assert!(
            trees
                .children(PARTITION, 1, trees.depth() - 1, last)
                .is_some()
        );
        for (level, index) in [
            (0, 1),
            (trees.depth() - 1, last + 1),
            (trees.depth(), 0),
            (u32::MAX, 0),
            (0, u32::MAX),
        ] {
            assert_eq!(trees.children(PARTITION, 1, level, index), None);
        }
    }

    #[test]
    fn a_store_that_fails_is_asked_again_later() {
        let mut trees = Trees::default();
        trees.set_partitions(2);
        assert_eq!(trees.next_request(0, 1000), Some((Partition(0), None)));
        assert_eq!(trees.next_request(0, 1000), None, "one at a time");
        trees.on_failed();
        assert_eq!(trees.next_request(0, 1000), None, "not at once");
        assert_eq!(trees.next_request(100, 1000), Some((Partition(0), None)));
        trees.on_leaves(&[], true, class_of);
        assert_eq!(trees.next_request(200, 1000), Some((Partition(1), None)));
        trees.on_leaves(&[], true, class_of);
        assert!(trees.all_known());
        assert_eq!(trees.next_request(500, 1000), None, "the round is over");
        assert_eq!(trees.next_request(1200, 1000), Some((Partition(0), None)));
    }

    #[test]
    fn rot_shows_when_the_rows_are_looked_at() {
        let mut trees = Trees::default();
        trees.set_partitions(1);
        let leaf = |hash| Leaf {
            key: key(1),
            hash,
            deleted_us: None,
        };
        trees.next_request(0, 0);
        trees.on_leaves(&[leaf(state(1))], true, class_of);
        trees.next_request(1000, 0);
        let found = trees.on_leaves(&[leaf(None)], true, class_of);
        let expected = Derived {
            partition: PARTITION,
            damaged: 1,
            differed: true,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(trees.root(PARTITION, 1), Some((Sum::default(), 0)));
    }
}
