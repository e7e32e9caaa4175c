//! A walk over the rows of one partition, in the order of their keys.
//!
//! Promises: a walk goes by the index, so it meets what a read would find, and
//! what a read looks for in vain is missing from it too; a row that cannot be
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

use super::batch::set_bytes;
use super::{Shared, file_of};
use crate::protocol::effect::{Leaf, StoreReply};
use crate::protocol::id::{ItemKey, Partition};
use crate::protocol::merkle;
use crate::protocol::siblings::SiblingSet;
use crate::store::row::{self, Damage};

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

impl<'c> Walk<'c> {
    /// Walks on this connection to the partition's file. What one call finds is
    /// of one moment.
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

    /// Visits the entries of the index after this key until the visitor breaks,
    /// and tells whether it came to the end. An entry at which the visitor breaks
    /// is not done.
    fn entries(
        &mut self,
        after: Option<&ItemKey>,
        mut visit: impl FnMut(&mut Self, i64, ItemKey) -> rusqlite::Result<ControlFlow<()>>,
    ) -> rusqlite::Result<bool> {
        let mut entries = self.connection.prepare_cached(
            "SELECT id, key FROM items INDEXED BY items_by_key
             WHERE partition = ?1 AND key > ?2 ORDER BY key",
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
            if visit(self, entry.get(0)?, key.clone())?.is_break() {
                return Ok(false);
            }
            last = Some(key);
        }
        Ok(true)
    }

    /// Reads the row that the index says lies here; none if it cannot be read.
    fn at<T>(
        &mut self,
        id: i64,
        key: &ItemKey,
        parse: impl FnOnce(&[u8]) -> Result<T, Damage>,
    ) -> rusqlite::Result<Option<T>> {
        let read = || -> rusqlite::Result<Option<Result<T, Damage>>> {
            let mut found = self.row.query([id])?;
            match found.next()? {
                None => Ok(None),
                Some(columns) => Ok(Some(parse(columns.get_ref(0)?.as_blob()?))),
            }
        };
        match read() {
            Ok(Some(Ok(parsed))) => return Ok(Some(parsed)),
            Ok(Some(Err(damage))) => {
                self.shared.note_damage(self.partition, key, &damage);
                self.compare_key(id, key)?;
            }
            Ok(None) => {
                self.shared
                    .note_damage(self.partition, key, &"its row is gone from the table");
                self.suspect("the index leads to a row that is not in the table");
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                self.shared.note_damage(self.partition, key, &error);
                self.suspect(&error.to_string());
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Of a row whose checksum is wrong: whether it is the row of another item,
    /// and so the index that is damaged.
    fn compare_key(&self, id: i64, key: &ItemKey) -> rusqlite::Result<()> {
        let named = self
            .connection
            .prepare_cached(
                "SELECT partition = ?2 AND key = ?3 FROM items NOT INDEXED WHERE id = ?1",
            )?
            .query_row((id, self.partition.0, key.as_bytes()), |row| {
                row.get::<_, bool>(0)
            })
            .optional()?;
        if named == Some(false) {
            self.suspect("the index leads to the row of another item");
        }
        Ok(())
    }

    fn leaf(&mut self, id: i64, key: ItemKey) -> rusqlite::Result<(Leaf, usize)> {
        let skimmed = self.at(id, &key, |bytes| {
            row::skim(&key, bytes).map(|skimmed| (skimmed, bytes.len()))
        })?;
        let leaf = Leaf {
            hash: skimmed.map(|(skimmed, _)| skimmed.state),
            deleted_us: skimmed.and_then(|(skimmed, _)| skimmed.deleted_us),
            key,
        };
        Ok((leaf, skimmed.map_or(0, |(_, bytes)| bytes)))
    }

    /// See `StoreRequest::Derive`.
    pub fn derive(
        &mut self,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> rusqlite::Result<StoreReply> {
        let mut leaves = Vec::new();
        let mut bytes = 0;
        let done = self.entries(after, |walk, id, key| {
            if leaves.len() >= limit.max(1) || bytes > MAX_DERIVE_BYTES {
                return Ok(ControlFlow::Break(()));
            }
            let (leaf, size) = walk.leaf(id, key)?;
            leaves.push(leaf);
            bytes += size;
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
        let done = self.entries(None, |walk, id, key| {
            if !wanted.contains(&merkle::bucket_of(&key, width)) {
                return Ok(ControlFlow::Continue(()));
            }
            if leaves.len() >= limit {
                return Ok(ControlFlow::Break(()));
            }
            let (leaf, _) = walk.leaf(id, key)?;
            if leaf.hash.is_some() {
                leaves.push(leaf);
            }
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
        let done = self.entries(after, |walk, id, key| {
            let full = rows.len() >= limit || bytes >= max_bytes;
            if full && !rows.is_empty() {
                return Ok(ControlFlow::Break(()));
            }
            let row = walk.at(id, &key, |bytes| row::decode(&key, bytes))?;
            if let Some(row) = row {
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
        let mut place = self.connection.prepare_cached(
            "SELECT id FROM items INDEXED BY items_by_key WHERE partition = ?1 AND key = ?2",
        )?;
        let mut rows: Vec<(ItemKey, SiblingSet)> = Vec::new();
        let mut bytes = 0;
        for key in keys {
            if bytes > max_bytes {
                return Ok(StoreReply::Rows { rows, done: false });
            }
            let id = place
                .query_row((self.partition.0, key.as_bytes()), |row| row.get(0))
                .optional()?;
            let Some(id) = id else { continue };
            if let Some(row) = self.at(id, key, |bytes| row::decode(key, bytes))? {
                bytes += set_bytes(&row.set);
                rows.push((key.clone(), row.set));
            }
        }
        Ok(StoreReply::Rows { rows, done: true })
    }
}
