//! One transaction of a writer: rows are read once, changed in memory, and
//! written once at its end.
//!
//! A new row goes to the end of the table, and the index hears of it in a later
//! transaction (unfiled.rs).
//!
//! Promises: each change sees those before it; what it did to its row is told by
//! the hashes of the row's state before and after it, also where others changed
//! the row within the transaction. A hash is made once for each change, and the
//! hash of what lies on the disk never: it is in the row's header.
//!
//! A row that cannot be read is left as it is by everything but
//! [`Mutation::Mend`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::Connection;

use super::change::{Change, Written};
use super::tools::{FILED_TOGETHER, Tools};
use crate::protocol::effect::{HintId, LeafChange, StoreError, StoreReply};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::replica::{Mutation, Outcome, Row, apply};
use crate::protocol::siblings::StateHash;
use crate::store::row::{self, Damage};
use crate::store::sqlite::files::file::{self, PAGE_BYTES};
use crate::store::sqlite::unfiled::{Entry as Unfiling, FILED_BELOW, Unfiled};
use crate::store::sqlite::{Shared, file_of};

/// About how many bytes of rows one transaction reads and writes at most. Its
/// changed pages are held in memory until it commits.
pub const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// About how many rows that are filed at once share a page of the index: see unfiled.rs.
const FILED_A_PAGE: u64 = 8;

/// A transaction at work.
pub struct Batch<'t, 'c> {
    tools: &'t mut Tools<'c>,
    unfiled: &'t Unfiled,
    rows: BTreeMap<(Partition, ItemKey), Held>,
    /// About how many bytes of rows it holds.
    bytes: usize,
    /// About how many pages its hints and records changed.
    other_pages: u64,
    /// Rows that went.
    gone: Vec<(Partition, ItemKey)>,
    /// Whether the index was asked for a row that it does not know.
    asked_in_vain: bool,
}

/// A row as the transaction has it so far.
struct Held {
    /// Where the row lies in the table; none when it does not.
    id: Option<i64>,
    /// With the hash of its state.
    row: Option<(Row, StateHash)>,
    changed: bool,
}

/// A row that lies in the table and cannot be read.
struct Unreadable {
    id: i64,
    damage: Damage,
}

impl<'t, 'c> Batch<'t, 'c> {
    /// A transaction that has begun.
    pub fn new(tools: &'t mut Tools<'c>, unfiled: &'t Unfiled) -> Self {
        Batch {
            tools,
            unfiled,
            rows: BTreeMap::new(),
            bytes: 0,
            other_pages: 0,
            gone: Vec::new(),
            asked_in_vain: false,
        }
    }

    /// About how many bytes of rows it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes one change. The inner error is the change's own; after the outer
    /// one the transaction is of no more use.
    pub fn make(
        &mut self,
        change: &Change,
        shared: &Shared,
    ) -> rusqlite::Result<Result<StoreReply, StoreError>> {
        self.bytes += change.size_bytes();
        match change {
            Change::Update {
                partition,
                key,
                mutation,
                hints,
            } => self.update(*partition, key, mutation, hints, shared),
            Change::AddHints {
                partition,
                key,
                hints,
            } => {
                self.add_hints(*partition, key, hints)?;
                Ok(Ok(StoreReply::Done))
            }
            Change::DropHints(hints) => {
                let mut gone = Vec::new();
                for (id, partition, key, then_drop) in hints {
                    gone.extend(self.drop_hint(*id, *partition, key, *then_drop, shared)?);
                    self.let_go(*partition, key);
                }
                Ok(Ok(StoreReply::Dropped(gone)))
            }
            Change::Forget {
                partition,
                items,
                hints,
            } => {
                let mut gone = Vec::new();
                for (key, state) in items {
                    gone.extend(self.forget(*partition, key, *state, *hints, shared)?);
                    self.let_go(*partition, key);
                }
                Ok(Ok(StoreReply::Dropped(gone)))
            }
            Change::ForgetDamaged { partition, keys } => {
                for key in keys {
                    self.forget_damaged(*partition, key)?;
                    self.let_go(*partition, key);
                }
                Ok(Ok(StoreReply::Dropped(Vec::new())))
            }
            Change::PutMeta { name, bytes } => {
                self.other_pages += 2;
                let mut put = self.connection().prepare_cached(
                    "INSERT INTO meta(name, bytes) VALUES(?1, ?2)
                     ON CONFLICT(name) DO UPDATE SET bytes = excluded.bytes",
                )?;
                put.execute((name, &bytes[..]))?;
                Ok(Ok(StoreReply::Done))
            }
            Change::SetNumber(name, number) => {
                file::set_number(self.connection(), name, *number)?;
                Ok(Ok(StoreReply::Done))
            }
        }
    }

    fn connection(&self) -> &'c Connection {
        self.tools.statements.connection
    }

    /// The row, from this transaction or from the table.
    fn hold(
        &mut self,
        partition: Partition,
        key: &ItemKey,
    ) -> rusqlite::Result<Result<&mut Held, Unreadable>> {
        let vacant = match self.rows.entry((partition, key.clone())) {
            Entry::Occupied(held) => return Ok(Ok(held.into_mut())),
            Entry::Vacant(vacant) => vacant,
        };
        let item = (partition.0, key.as_bytes());
        let place = match self.unfiled.place(partition, key) {
            Some(_) if self.gone.contains(vacant.key()) => None,
            place => place,
        };
        if place.is_none() && self.tools.filter.rules_out(partition, key.as_bytes()) {
            return Ok(Ok(vacant.insert(Held {
                id: None,
                row: None,
                changed: false,
            })));
        }
        let statements = &mut self.tools.statements;
        let (id, bytes_at) = (0, 1);
        let mut found = match place {
            Some(id) => statements.select_at.get()?.query([id])?,
            None => statements.select.get()?.query(item)?,
        };
        let found = match (place, found.next()?) {
            (None, None) => {
                self.asked_in_vain = true;
                None
            }
            (Some(id), None) => Some((id, Err(Damage::Gone))),
            (_, Some(columns)) => {
                let row = match columns.get_ref(bytes_at)?.as_blob_or_null()? {
                    None => Err(Damage::Gone),
                    Some(bytes) => {
                        self.bytes += bytes.len();
                        row::decode_with_state(key, bytes)
                    }
                };
                Some((columns.get(id)?, row))
            }
        };
        let (id, row) = match found {
            None => (None, None),
            Some((id, Ok(row))) => (Some(id), Some(row)),
            Some((id, Err(damage))) => return Ok(Err(Unreadable { id, damage })),
        };
        Ok(Ok(vacant.insert(Held {
            id,
            row,
            changed: false,
        })))
    }

    /// Holds a row no longer that was only looked at: the next who wants it reads
    /// it again.
    fn let_go(&mut self, partition: Partition, key: &ItemKey) {
        if let Entry::Occupied(held) = self.rows.entry((partition, key.clone()))
            && !held.get().changed
        {
            held.remove();
        }
    }

    fn update(
        &mut self,
        partition: Partition,
        key: &ItemKey,
        mutation: &Mutation,
        hints: &[NodeId],
        shared: &Shared,
    ) -> rusqlite::Result<Result<StoreReply, StoreError>> {
        let held = match self.hold(partition, key)? {
            Ok(held) => held,
            Err(unreadable) => {
                shared.note_damage(partition, key, &unreadable.damage);
                return self.mend(partition, key, mutation, hints, shared, unreadable);
            }
        };
        // `apply` takes the row; where it makes no other, an unchanged one is
        // simply read again, and a changed one must be kept.
        let kept = if held.changed { held.row.clone() } else { None };
        let (row, before) = held.row.take().unzip();
        let (made, outcome) = apply(row, mutation.clone());
        let malformed = made.as_ref().is_some_and(|row| !row.set.is_well_formed());
        let mut after = before;
        match made {
            Some(row) if !malformed => {
                let state = row.set.hash();
                after = Some(state);
                held.row = Some((row, state));
                held.changed = true;
            }
            _ if held.changed => held.row = kept,
            _ => self.let_go(partition, key),
        }
        if malformed {
            return Ok(Err(malformed_set(key)));
        }
        if is_taken(&outcome) {
            self.add_hints(partition, key, hints)?;
        }
        let leaf = (before != after).then(|| LeafChange {
            partition,
            key: key.clone(),
            before,
            after,
            mended: false,
        });
        Ok(Ok(StoreReply::Updated(outcome, leaf)))
    }

    /// Puts a peer's whole state in the place of a row that cannot be read; any
    /// other change of it is refused.
    fn mend(
        &mut self,
        partition: Partition,
        key: &ItemKey,
        mutation: &Mutation,
        hints: &[NodeId],
        shared: &Shared,
        Unreadable { id, damage }: Unreadable,
    ) -> rusqlite::Result<Result<StoreReply, StoreError>> {
        let made = match mutation {
            Mutation::Mend { .. } => apply(None, mutation.clone()),
            _ => (None, Outcome::Synced { changed: false }),
        };
        // A peer that has nothing mends nothing: the item would pass for absent.
        let (Some(row), outcome) = made else {
            return Ok(Err(damage.at(key)));
        };
        if !row.set.is_well_formed() {
            return Ok(Err(malformed_set(key)));
        }
        let state = row.set.hash();
        self.rows.insert(
            (partition, key.clone()),
            Held {
                id: Some(id),
                row: Some((row, state)),
                changed: true,
            },
        );
        shared.note_mended(partition, key);
        self.add_hints(partition, key, hints)?;
        let leaf = LeafChange {
            partition,
            key: key.clone(),
            before: None,
            after: Some(state),
            mended: true,
        };
        Ok(Ok(StoreReply::Updated(outcome, Some(leaf))))
    }

    fn add_hints(
        &mut self,
        partition: Partition,
        key: &ItemKey,
        hints: &[NodeId],
    ) -> rusqlite::Result<()> {
        for target in hints {
            self.other_pages += 3;
            let mut add = self.connection().prepare_cached(
                "INSERT OR REPLACE INTO hints(target, partition, key) VALUES(?1, ?2, ?3)",
            )?;
            add.execute((target.0.cast_signed(), partition.0, key.as_bytes()))?;
        }
        Ok(())
    }

    /// Removes a row whose state is this; tells what its leaf was, and whether
    /// the row is not there now.
    fn remove_at(
        &mut self,
        partition: Partition,
        key: &ItemKey,
        state: StateHash,
        shared: &Shared,
    ) -> rusqlite::Result<(Option<LeafChange>, bool)> {
        let held = match self.hold(partition, key)? {
            Ok(held) => held,
            // The state that is meant was read whole, so this is not it.
            Err(unreadable) => {
                shared.note_damage(partition, key, &unreadable.damage);
                return Ok((None, false));
            }
        };
        let before = held.row.as_ref().map(|(_, state)| *state);
        if before == Some(state) {
            held.row = None;
            held.changed = true;
        }
        let is_gone = held.row.is_none();
        let leaf = (is_gone && before.is_some()).then(|| LeafChange {
            partition,
            key: key.clone(),
            before,
            after: None,
            mended: false,
        });
        Ok((leaf, is_gone))
    }

    fn drop_hint(
        &mut self,
        id: HintId,
        partition: Partition,
        key: &ItemKey,
        then_drop: Option<StateHash>,
        shared: &Shared,
    ) -> rusqlite::Result<Option<LeafChange>> {
        self.other_pages += 3;
        if let Some(delivered) = then_drop {
            match self.hold(partition, key)? {
                Ok(held) => {
                    if held.row.as_ref().is_some_and(|row| row.1 != delivered) {
                        return Ok(None);
                    }
                }
                // What was delivered was read whole, so this is not it.
                Err(unreadable) => {
                    shared.note_damage(partition, key, &unreadable.damage);
                    return Ok(None);
                }
            }
        }
        let mut delete = self.connection().prepare_cached(
            "DELETE FROM hints WHERE sequence = ?1 AND partition = ?2 AND key = ?3",
        )?;
        let deleted = delete.execute((id.sequence, partition.0, key.as_bytes()))?;
        drop(delete);
        // A hint that was forgotten before says nothing about the row.
        let (Some(delivered), 1..) = (then_drop, deleted) else {
            return Ok(None);
        };
        let others = self
            .connection()
            .prepare_cached("SELECT 1 FROM hints WHERE partition = ?1 AND key = ?2")?
            .exists((partition.0, key.as_bytes()))?;
        if others {
            return Ok(None);
        }
        let (leaf, _) = self.remove_at(partition, key, delivered, shared)?;
        Ok(leaf)
    }

    fn forget(
        &mut self,
        partition: Partition,
        key: &ItemKey,
        state: StateHash,
        hints: bool,
        shared: &Shared,
    ) -> rusqlite::Result<Option<LeafChange>> {
        let (leaf, is_gone) = self.remove_at(partition, key, state, shared)?;
        if hints && is_gone {
            let deleted = self
                .connection()
                .prepare_cached("DELETE FROM hints WHERE partition = ?1 AND key = ?2")?
                .execute((partition.0, key.as_bytes()))?;
            self.other_pages += 3 * deleted as u64;
        }
        Ok(leaf)
    }

    fn forget_damaged(&mut self, partition: Partition, key: &ItemKey) -> rusqlite::Result<()> {
        if let Err(Unreadable { id, damage }) = self.hold(partition, key)? {
            tracing::error!(partition = partition.0, ?key, %damage, "a row that nobody else has is given up");
            self.delete(id, partition, key)?;
            self.connection()
                .prepare_cached("DELETE FROM hints WHERE partition = ?1 AND key = ?2")?
                .execute((partition.0, key.as_bytes()))?;
            self.other_pages += 5;
        }
        Ok(())
    }

    /// Takes a row from the table, and from the index if that knows it.
    fn delete(&mut self, id: i64, partition: Partition, key: &ItemKey) -> rusqlite::Result<()> {
        let connection = self.connection();
        connection
            .prepare_cached("DELETE FROM items WHERE id = ?1")?
            .execute([id])?;
        connection
            .prepare_cached("DELETE FROM places WHERE partition = ?1 AND key = ?2")?
            .execute((partition.0, key.as_bytes()))?;
        self.gone.push((partition, key.clone()));
        Ok(())
    }

    /// Whether the row went in this transaction.
    fn is_gone(&self, partition: Partition, key: &ItemKey) -> bool {
        let mut gone = self.gone.iter();
        gone.any(|(of, gone)| *of == partition && gone == key)
    }

    /// Tells the index of rows, if too many are unknown to it. Returns them.
    fn file(&mut self, shared: &Shared) -> rusqlite::Result<Vec<Unfiling>> {
        let Some((mut due, hand)) = self.unfiled.due(&self.tools.hand) else {
            return Ok(Vec::new());
        };
        if !self.gone.is_empty() {
            due.retain(|row| !self.is_gone(row.partition, &row.key));
        }
        for row in &due {
            self.tools.filter.add(row.partition, row.key.as_bytes());
        }
        let (together, rest) = due.as_chunks::<FILED_TOGETHER>();
        for rows in together {
            let many = self.tools.statements.file_many.get()?;
            for (row, at) in rows.iter().zip(0..) {
                many.raw_bind_parameter(3 * at + 1, row.partition.0)?;
                many.raw_bind_parameter(3 * at + 2, row.key.as_bytes())?;
                many.raw_bind_parameter(3 * at + 3, row.id)?;
            }
            if many.raw_execute()? < FILED_TOGETHER {
                for row in rows {
                    self.file_one(row, shared)?;
                }
            }
        }
        for row in rest {
            self.file_one(row, shared)?;
        }
        self.tools.hand = hand;
        self.tools.filed_since_note += due.len();
        if self.tools.filed_since_note >= self.unfiled.bounds().rows_a_note() {
            // Rows of this transaction come after all that there are.
            let least = self.unfiled.least_id(&due).unwrap_or(self.tools.next_id);
            file::set_number(self.connection(), FILED_BELOW, least.cast_unsigned())?;
            self.tools.filed_since_note = 0;
        }
        Ok(due)
    }

    fn file_one(&mut self, row: &Unfiling, shared: &Shared) -> rusqlite::Result<()> {
        let place = (row.partition.0, row.key.as_bytes(), row.id);
        if self.tools.statements.file.get()?.execute(place)? == 1 {
            return Ok(());
        }
        let changed = self
            .connection()
            .prepare_cached(
                "UPDATE places SET id = ?3 WHERE partition = ?1 AND key = ?2 AND id <> ?3",
            )?
            .execute(place)?;
        if changed == 1 {
            // It was looked for in vain once, and made anew.
            let file = file_of(row.partition, shared.files());
            shared.suspect_text(file, "the index knows an older row of an item");
        }
        Ok(())
    }

    /// Writes the changed rows, in the order of their keys so that neighbours
    /// meet the same pages, and files what is due.
    pub fn write(mut self, shared: &Shared) -> rusqlite::Result<Written> {
        // First, so that a row which goes is taken from the index as well.
        let filed = self.file(shared)?;
        let mut pages = 2 + self.other_pages + (filed.len() as u64).div_ceil(FILED_A_PAGE);
        let mut made = Vec::with_capacity(self.rows.len());
        for ((partition, key), held) in std::mem::take(&mut self.rows) {
            if !held.changed {
                continue;
            }
            let Some((row, state)) = &held.row else {
                if let Some(id) = held.id {
                    self.delete(id, partition, &key)?;
                    pages += 2;
                }
                continue;
            };
            let Tools {
                statements,
                buffer,
                next_id,
                ..
            } = &mut *self.tools;
            row::encode(&key, row, *state, buffer);
            pages += 1 + buffer.len() as u64 / PAGE_BYTES;
            if let Some(id) = held.id
                && statements.update.get()?.execute((id, &buffer[..]))? == 1
            {
                continue;
            }
            // A row that went from the table and is mended gets its id again.
            let id = held.id.unwrap_or(*next_id);
            statements
                .insert
                .get()?
                .execute((id, partition.0, key.as_bytes(), &buffer[..]))?;
            if held.id.is_none() {
                *next_id += 1;
                // It may have gone and come again.
                self.gone
                    .retain(|gone| (gone.0, &gone.1) != (partition, &key));
                let bytes = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
                made.push(Unfiling {
                    partition,
                    key,
                    id,
                    bytes,
                });
            }
        }
        // One huge row must not be held for the life of the store.
        let buffer = &mut self.tools.buffer;
        if buffer.capacity() > MAX_BATCH_BYTES {
            *buffer = Vec::new();
        }
        Ok(Written {
            pages,
            made,
            filed,
            gone: self.gone,
            asked_in_vain: self.asked_in_vain,
        })
    }
}

/// Whether the change took, and hints are noted with it.
fn is_taken(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Written(_) | Outcome::Synced { .. } | Outcome::Replaced
    )
}

fn malformed_set(key: &ItemKey) -> StoreError {
    StoreError::Corrupt(format!(
        "{key:?}: the change makes a sibling set that is not well formed"
    ))
}
