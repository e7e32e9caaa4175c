//! Many rows of a partition at once; the answers are those of the SQLite store.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::{Kept, Snapshot};
use crate::protocol::effect::{Leaf, StoreReply};
use crate::protocol::id::{ItemKey, Partition, TableId};
use crate::protocol::merkle;
use crate::protocol::siblings::SiblingSet;
use crate::store::row::deleted_us;

fn value_bytes(set: &SiblingSet) -> usize {
    set.siblings()
        .map(|(_, version)| version.value.as_ref().map_or(0, |value| value.len()))
        .sum()
}

fn leaf(key: &ItemKey, kept: &Kept, damaged: &mut u64) -> Leaf {
    let sound = kept.sound();
    *damaged += u64::from(sound.is_none());
    Leaf {
        key: key.clone(),
        hash: sound.map(|kept| kept.state),
        deleted_us: sound.and_then(|kept| deleted_us(&kept.row.set)),
    }
}

impl Snapshot {
    fn rows_after(
        &self,
        partition: Partition,
        after: Option<ItemKey>,
    ) -> impl Iterator<Item = (&ItemKey, &Kept)> {
        let first = match after {
            Some(after) => Bound::Excluded((partition, after)),
            // The least key that there is.
            None => Bound::Included((partition, ItemKey::new(TableId(0), b"\0", None))),
        };
        let rows = self.rows.range((first, Bound::Unbounded));
        rows.take_while(move |((other, _), _)| *other == partition)
            .map(|((_, key), kept)| (key, kept))
    }

    pub(super) fn derive(
        &self,
        partition: Partition,
        after: Option<ItemKey>,
        limit: usize,
        damaged: &mut u64,
    ) -> StoreReply {
        let mut rows = self.rows_after(partition, after);
        let some = rows.by_ref().take(limit.max(1));
        let leaves = some.map(|(key, kept)| leaf(key, kept, damaged)).collect();
        let done = rows.next().is_none();
        StoreReply::Leaves { leaves, done }
    }

    pub(super) fn leaves(
        &self,
        partition: Partition,
        buckets: &[u32],
        width: u32,
        limit: usize,
        damaged: &mut u64,
    ) -> StoreReply {
        let mut leaves = Vec::new();
        let wanted: BTreeSet<u32> = buckets.iter().copied().filter(|b| *b < width).collect();
        if wanted.is_empty() {
            return StoreReply::Leaves { leaves, done: true };
        }
        for (key, kept) in self.rows_after(partition, None) {
            if !wanted.contains(&merkle::bucket_of(key, width)) {
                continue;
            }
            if leaves.len() >= limit {
                let done = false;
                return StoreReply::Leaves { leaves, done };
            }
            let leaf = leaf(key, kept, damaged);
            leaves.extend(Some(leaf).filter(|leaf| leaf.hash.is_some()));
        }
        StoreReply::Leaves { leaves, done: true }
    }

    pub(super) fn scan(
        &self,
        partition: Partition,
        after: Option<ItemKey>,
        limit: usize,
        max_bytes: usize,
        damaged: &mut u64,
    ) -> StoreReply {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for (key, kept) in self.rows_after(partition, after) {
            let full = rows.len() >= limit || bytes >= max_bytes;
            if full && !rows.is_empty() {
                return StoreReply::Rows { rows, done: false };
            }
            match kept.sound() {
                Some(kept) => {
                    bytes += value_bytes(&kept.row.set);
                    rows.push((key.clone(), kept.row.set.clone()));
                }
                None => *damaged += 1,
            }
        }
        StoreReply::Rows { rows, done: true }
    }

    pub(super) fn read_many(
        &self,
        partition: Partition,
        keys: Vec<ItemKey>,
        max_bytes: usize,
        damaged: &mut u64,
    ) -> StoreReply {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for key in keys {
            if bytes > max_bytes {
                return StoreReply::Rows { rows, done: false };
            }
            let item = (partition, key);
            let Some(kept) = self.rows.get(&item) else {
                continue;
            };
            match kept.sound() {
                Some(kept) => {
                    bytes += value_bytes(&kept.row.set);
                    rows.push((item.1, kept.row.set.clone()));
                }
                None => *damaged += 1,
            }
        }
        StoreReply::Rows { rows, done: true }
    }
}
