//! A walk over the rows of one partition, in the order of their keys.
//!
//! Promises: a walk goes by the index and by what is not filed there yet (unfiled.rs),
//! so it meets what a read would find, and what a read looks for in vain is missing
//! from it too; a row that cannot be
//! read never ends it, be it the row that rotted or the page below it; an index
//! that rotted is noticed where its keys are out of order, no keys at all, or
//! name another row than the one they lead to.
//!
//! Not promised: that an entry which vanished from the index is noticed here. It
//! is missing from the leaves, so peers send the item again, and what is left in
//! the table is dead weight. To look for it would cost a read of the whole table
//! and a search of the index for each row, twice the walk.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension};

use crate::protocol::effect::{Leaf, StoreReply};
use crate::protocol::id::{ItemKey, Partition};
use crate::protocol::merkle;
use crate::protocol::siblings::SiblingSet;
use crate::store::row::{self, Damage};
use crate::store::sqlite::unfiled::Unfiled;
use crate::store::sqlite::writing::change::set_bytes;
use crate::store::sqlite::{Shared, file_of};

/// About how many bytes of rows one derivation reads at most: writers wait for
/// it. A thousand rows of 900 bytes take some 4 ms of a processor; from a cold
/// disk this much is some tens of milliseconds.
const MAX_DERIVE_BYTES: usize = 4 * 1024 * 1024;

/// Walks through one partition.
pub struct Walk<'c> {
    connection: &'c Connection,
    shared: &'c Shared,
    partition: Partition,
    row: CachedStatement<'c>,
}

/// Where a row lies.
#[derive(Clone, Copy)]
struct Spot {
    id: i64,
    /// Whether the index says so. Otherwise it was so before the snapshot was taken,
    /// and the row may be gone since.
    filed: bool,
}

/// What lies there.
enum Found<T> {
    Row(T),
    /// A row that cannot be read.
    Damaged,
    /// Nothing, and nothing is wrong with that.
    Gone,
}

impl<T> Found<T> {
    fn row(self) -> Option<T> {
        match self {
            Found::Row(row) => Some(row),
            Found::Damaged | Found::Gone => None,
        }
    }
}

impl<'c> Walk<'c> {
    /// Walks on this connection to the partition's file, on which no snapshot is open.
    /// What one call finds is of one moment.
    pub fn new(
        connection: &'c Connection,
        shared: &'c Shared,
        partition: Partition,
    ) -> rusqlite::Result<Self> {
        Ok(Walk {
            connection,
            shared,
            partition,
            row: connection.prepare_cached("SELECT row FROM items WHERE id = ?1")?,
        })
    }

    fn suspect(&self, text: &str) {
        let file = file_of(self.partition, self.shared.files());
        self.shared.suspect_text(file, text);
    }

    fn unfiled(&self) -> &'c Unfiled {
        &self.shared.unfiled[file_of(self.partition, self.shared.files()) as usize]
    }

    /// Visits the items after this key until the visitor breaks, and tells whether it
    /// came to the end. An item at which the visitor breaks is not done. The visitor
    /// breaks at the latest when it is shown one more than `limit`.
    fn entries(
        &mut self,
        after: Option<&ItemKey>,
        limit: usize,
        mut visit: impl FnMut(&mut Self, Spot, ItemKey) -> rusqlite::Result<ControlFlow<()>>,
    ) -> rusqlite::Result<bool> {
        // Before the snapshot, see unfiled.rs. What is filed in between is in both.
        let unfiled = self
            .unfiled()
            .of(self.partition, after, limit.saturating_add(1));
        let mut unfiled = unfiled.into_iter().peekable();
        let _snapshot = self.connection.unchecked_transaction()?;
        let mut entries = self.connection.prepare_cached(
            "SELECT id, key FROM places WHERE partition = ?1 AND key > ?2 ORDER BY key",
        )?;
        let mut last = after.cloned();
        let after = after.map_or(&[][..], ItemKey::as_bytes);
        let mut entries = entries.query((self.partition.0, after))?;
        while let Some(entry) = entries.next()? {
            let bytes = entry.get_ref(1)?.as_blob()?;
            let key = ItemKey::decode(bytes);
            let Some(key) = key.filter(|key| last.as_ref().is_none_or(|last| key > last)) else {
                let name = bytes.escape_ascii();
                self.shared.count_damage();
                self.suspect(&format!(
                    "the index of partition {} holds {name} where it cannot be",
                    self.partition.0
                ));
                continue;
            };
            while let Some((key, id)) = unfiled.next_if(|unfiled| unfiled.0 < key) {
                if visit(self, Spot { id, filed: false }, key)?.is_break() {
                    return Ok(false);
                }
            }
            unfiled.next_if(|unfiled| unfiled.0 == key);
            let spot = Spot {
                id: entry.get(0)?,
                filed: true,
            };
            if visit(self, spot, key.clone())?.is_break() {
                return Ok(false);
            }
            last = Some(key);
        }
        for (key, id) in unfiled {
            if visit(self, Spot { id, filed: false }, key)?.is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the row that lies here.
    fn at<T>(
        &mut self,
        spot: Spot,
        key: &ItemKey,
        parse: impl FnOnce(&[u8]) -> Result<T, Damage>,
    ) -> rusqlite::Result<Found<T>> {
        let read = || -> rusqlite::Result<Option<Result<T, Damage>>> {
            let mut found = self.row.query([spot.id])?;
            match found.next()? {
                None => Ok(None),
                Some(columns) => Ok(Some(parse(columns.get_ref(0)?.as_blob()?))),
            }
        };
        match read() {
            Ok(Some(Ok(parsed))) => return Ok(Found::Row(parsed)),
            Ok(Some(Err(damage))) => {
                self.shared.note_damage(self.partition, key, &damage);
                self.compare_key(spot.id, key)?;
            }
            Ok(None) if !spot.filed => return Ok(Found::Gone),
            Ok(None) => {
                self.shared.note_damage(self.partition, key, &Damage::Gone);
                self.suspect("the index leads to a row that is not in the table");
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                self.shared.note_damage(self.partition, key, &error);
                self.suspect(&error.to_string());
            }
            Err(error) => return Err(error),
        }
        Ok(Found::Damaged)
    }

    /// Of a row whose checksum is wrong: whether it is the row of another item,
    /// and so the index that is damaged.
    fn compare_key(&self, id: i64, key: &ItemKey) -> rusqlite::Result<()> {
        let named = self
            .connection
            .prepare_cached("SELECT partition = ?2 AND key = ?3 FROM items WHERE id = ?1")?
            .query_row((id, self.partition.0, key.as_bytes()), |row| {
                row.get::<_, bool>(0)
            })
            .optional()?;
        if named == Some(false) {
            self.suspect("the index leads to the row of another item");
        }
        Ok(())
    }

    /// The leaf of a row and the row's size; none where no row is.
    fn leaf(&mut self, spot: Spot, key: ItemKey) -> rusqlite::Result<Option<(Leaf, usize)>> {
        let found = self.at(spot, &key, |bytes| {
            row::skim(&key, bytes).map(|skimmed| (skimmed, bytes.len()))
        })?;
        let skimmed = match found {
            Found::Gone => return Ok(None),
            found => found.row(),
        };
        let leaf = Leaf {
            hash: skimmed.map(|(skimmed, _)| skimmed.state),
            deleted_us: skimmed.and_then(|(skimmed, _)| skimmed.deleted_us),
            key,
        };
        Ok(Some((leaf, skimmed.map_or(0, |(_, bytes)| bytes))))
    }

    /// See `StoreRequest::Derive`.
    pub fn derive(
        &mut self,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> rusqlite::Result<StoreReply> {
        let mut leaves = Vec::new();
        let mut bytes = 0;
        let limit = limit.max(1);
        let done = self.entries(after, limit, |walk, spot, key| {
            if leaves.len() >= limit || bytes > MAX_DERIVE_BYTES {
                return Ok(ControlFlow::Break(()));
            }
            if let Some((leaf, size)) = walk.leaf(spot, key)? {
                leaves.push(leaf);
                bytes += size;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(StoreReply::Leaves { leaves, done })
    }

    /// See `StoreRequest::Leaves`.
    pub fn leaves(
        &mut self,
        buckets: &[u32],
        width: u32,
        limit: usize,
    ) -> rusqlite::Result<StoreReply> {
        let mut leaves = Vec::new();
        // Peers name buckets: there may be none such.
        let wanted: BTreeSet<u32> = buckets.iter().copied().filter(|b| *b < width).collect();
        if wanted.is_empty() {
            return Ok(StoreReply::Leaves { leaves, done: true });
        }
        let done = self.entries(None, usize::MAX, |walk, spot, key| {
            if !wanted.contains(&merkle::bucket_of(&key, width)) {
                return Ok(ControlFlow::Continue(()));
            }
            if leaves.len() >= limit {
                return Ok(ControlFlow::Break(()));
            }
            let leaf = walk.leaf(spot, key)?;
            leaves.extend(
                leaf.map(|(leaf, _)| leaf)
                    .filter(|leaf| leaf.hash.is_some()),
            );
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(StoreReply::Leaves { leaves, done })
    }

    /// See `StoreRequest::Scan`.
    pub fn scan(
        &mut self,
        after: Option<&ItemKey>,
        limit: usize,
        max_bytes: usize,
    ) -> rusqlite::Result<StoreReply> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let done = self.entries(after, usize::MAX, |walk, spot, key| {
            let full = rows.len() >= limit || bytes >= max_bytes;
            if full && !rows.is_empty() {
                return Ok(ControlFlow::Break(()));
            }
            let row = walk.at(spot, &key, |bytes| row::decode(&key, bytes))?;
            if let Some(row) = row.row() {
                bytes += set_bytes(&row.set);
                rows.push((key, row.set));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(StoreReply::Rows { rows, done })
    }

    /// See `StoreRequest::ReadMany`.
    pub fn read_many(
        &mut self,
        keys: &[ItemKey],
        max_bytes: usize,
    ) -> rusqlite::Result<StoreReply> {
        let unfiled: Vec<Option<i64>> = keys
            .iter()
            .map(|key| self.unfiled().place(self.partition, key))
            .collect();
        let _snapshot = self.connection.unchecked_transaction()?;
        let mut place = self
            .connection
            .prepare_cached("SELECT id FROM places WHERE partition = ?1 AND key = ?2")?;
        let mut rows: Vec<(ItemKey, SiblingSet)> = Vec::new();
        let mut bytes = 0;
        for (key, unfiled) in keys.iter().zip(unfiled) {
            if bytes > max_bytes {
                return Ok(StoreReply::Rows { rows, done: false });
            }
            let mut row = None;
            if let Some(id) = unfiled {
                let spot = Spot { id, filed: false };
                row = self.at(spot, key, |bytes| row::decode(key, bytes))?.row();
            }
            if row.is_none() {
                let id = place
                    .query_row((self.partition.0, key.as_bytes()), |row| row.get(0))
                    .optional()?;
                if let Some(id) = id {
                    let spot = Spot { id, filed: true };
                    row = self.at(spot, key, |bytes| row::decode(key, bytes))?.row();
                }
            }
            if let Some(row) = row {
                bytes += set_bytes(&row.set);
                rows.push((key.clone(), row.set));
            }
        }
        Ok(StoreReply::Rows { rows, done: true })
    }
}
