//! The thread that writes one file.
//!
//! Promises: whatever waits when a commit ends makes the next transaction, with
//! no delay added; changes take effect in the order they were submitted; a
//! change is answered after the COMMIT that holds it has returned, and never
//! otherwise than with an error if that failed.
//!
//! A change that cannot be made (a damaged row) fails alone. When SQLite fails
//! amid a batch, all of it is rolled back; if the disk was full all of it is
//! answered so, otherwise each change is tried in a transaction of its own, so
//! that one damaged page fails only those who need it.
//!
//! After a failed sync the file takes no more changes: the system may have
//! dropped what it could not write and would report the next sync as good.
//! [`Options::on_failed_commit`] is told; to end the process there is the
//! caller's choice. What was acknowledged before stays, and reads go on.
//!
//! [`Options::on_failed_commit`]: super::Options::on_failed_commit

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{CachedStatement, Connection};

use super::file::{self, PAGE_BYTES, meaning};
use super::queue::Queue;
use super::{Answer, Durability, Shared};
use crate::protocol::effect::{HintId, StoreError, StoreReply};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::replica::{Mutation, Outcome, Row, apply};
use crate::protocol::siblings::{SiblingSet, StateHash};
use crate::store::row;

/// How many changes one transaction holds at most: past some hundred, sharing a
/// sync saves nothing more, and a failed batch is done again one by one.
pub const MAX_BATCH: usize = 1024;

/// About how many bytes of rows one transaction reads and writes at most. Its
/// changed pages are held in memory until it commits.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// How many pages the log gathers before they are moved into the database: a
/// page that changes often is moved once for all its changes. 16 MiB.
const CHECKPOINT_PAGES: u64 = 4096;

/// How many pages the log may reach before a checkpoint waits for readers to let
/// go of it, instead of leaving to the next what they still look at.
const FORCED_CHECKPOINT_PAGES: u64 = 8 * CHECKPOINT_PAGES;

/// A hint that was delivered, and the state at which its row may go.
pub type Delivered = (HintId, Partition, ItemKey, Option<StateHash>);

/// What writers are asked.
pub enum Change {
    Update {
        partition: Partition,
        key: ItemKey,
        mutation: Mutation,
        hints: Vec<NodeId>,
    },
    AddHints {
        partition: Partition,
        key: ItemKey,
        hints: Vec<NodeId>,
    },
    /// Those of this file.
    DropHints(Vec<Delivered>),
    PutMeta {
        name: &'static str,
        bytes: Bytes,
    },
    /// Synced whatever the durability, so it has a transaction of its own.
    SetIncarnation(u64),
}

impl Change {
    /// About how many bytes it holds in memory.
    pub fn size_bytes(&self) -> usize {
        /// The rest of a request: key, context, list nodes.
        const OVERHEAD_BYTES: usize = 256;
        let payload = match self {
            Change::Update { mutation, .. } => match mutation {
                Mutation::Write { draft, .. } => draft.value.as_ref().map_or(0, Bytes::len),
                Mutation::Sync { set, .. } => set_bytes(set),
                Mutation::Replace { row, .. } | Mutation::Join { made: row, .. } => {
                    set_bytes(&row.set)
                }
            },
            Change::PutMeta { bytes, .. } => bytes.len(),
            Change::DropHints(hints) => hints.len() * OVERHEAD_BYTES,
            Change::AddHints { .. } | Change::SetIncarnation(_) => 0,
        };
        payload + OVERHEAD_BYTES
    }
}

fn set_bytes(set: &SiblingSet) -> usize {
    set.siblings()
        .map(|(_, version)| version.value.as_ref().map_or(0, Bytes::len))
        .sum()
}

/// A change and who waits for it.
pub struct Job {
    pub change: Change,
    pub answer: Answer,
}

/// One writing thread's state.
pub struct Writer {
    pub connection: Connection,
    pub file: u32,
    pub durability: Durability,
    pub queue: Arc<Queue<Job>>,
    pub shared: Arc<Shared>,
    /// Why the file takes no more changes.
    pub broken: Option<StoreError>,
    /// About how many pages wait in the log.
    pub logged_pages: u64,
    /// Where rows are encoded.
    pub buffer: Vec<u8>,
}

/// Why a transaction was rolled back.
enum Failure {
    /// Nothing of it was written.
    Work(rusqlite::Error),
    /// What was written may or may not be on the disk.
    Commit(rusqlite::Error),
}

type Replies = Vec<Result<StoreReply, StoreError>>;

impl Writer {
    /// Makes changes until the queue is closed and empty. Gives the connection
    /// back if the file is sound.
    pub fn run(mut self) -> Option<Connection> {
        let mut jobs = VecDeque::new();
        while !jobs.is_empty() || self.queue.take(MAX_BATCH, &mut jobs) {
            self.commit_some(&mut jobs);
            self.checkpoint_if_due();
        }
        self.broken.is_none().then_some(self.connection)
    }

    /// Makes the first of these changes, as many as a transaction holds, and
    /// answers them.
    fn commit_some(&mut self, jobs: &mut VecDeque<Job>) {
        if let Some(error) = &self.broken {
            for job in jobs.drain(..) {
                job.answer.give(Err(error.clone()));
            }
            return;
        }
        let failure = match self.transact(jobs.make_contiguous()) {
            Ok(replies) => {
                for (job, reply) in jobs.drain(..replies.len()).zip(replies) {
                    job.answer.give(reply);
                }
                return;
            }
            Err(failure) => failure,
        };
        let error = self.after_failure(failure);
        let hopeless = self.broken.is_some()
            || jobs.len() == 1
            || matches!(error, StoreError::Full | StoreError::Overloaded);
        for job in jobs.drain(..) {
            let reply = if hopeless {
                Err(error.clone())
            } else {
                self.transact_alone(&job)
            };
            job.answer.give(reply);
        }
    }

    fn transact_alone(&mut self, job: &Job) -> Result<StoreReply, StoreError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        match self.transact(std::slice::from_ref(job)) {
            Ok(mut replies) => replies.pop().expect("one change has one reply"),
            Err(failure) => Err(self.after_failure(failure)),
        }
    }

    /// Rolls back, and decides whether the file can go on.
    fn after_failure(&mut self, failure: Failure) -> StoreError {
        let rolled_back =
            self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok();
        let (error, at_commit) = match &failure {
            Failure::Work(error) => (error, false),
            Failure::Commit(error) => (error, true),
        };
        let meant = meaning(error);
        tracing::error!(file = self.file, %error, at_commit, "a transaction failed");
        let unsure = at_commit && matches!(meant, StoreError::Io(_) | StoreError::Corrupt(_));
        if unsure || !rolled_back || file::is_failed_sync(error) {
            self.break_off(error);
        }
        meant
    }

    /// Takes no more changes, see the top of the file.
    fn break_off(&mut self, error: &rusqlite::Error) {
        let error = StoreError::Io(format!(
            "file {} takes no more changes until the process is started again: {error}",
            self.file
        ));
        tracing::error!(%error, "the store broke off");
        self.shared.tell_failed_commit(&error);
        self.broken = Some(error);
    }

    /// Makes changes from the front in one transaction and commits it. Returns
    /// one reply for each that it came to, at least one.
    fn transact(&mut self, jobs: &[Job]) -> Result<Replies, Failure> {
        let synced = matches!(jobs[0].change, Change::SetIncarnation(_));
        let connection = &self.connection;
        let set_durability = |durability| {
            if synced && self.durability != Durability::Commit {
                file::set_durability(connection, durability).map_err(Failure::Work)
            } else {
                Ok(())
            }
        };
        set_durability(Durability::Commit)?;
        execute(connection, "BEGIN IMMEDIATE").map_err(Failure::Work)?;
        let mut batch = Batch::new(connection).map_err(Failure::Work)?;
        let mut replies = Vec::with_capacity(jobs.len());
        for job in jobs {
            let synced_later =
                !replies.is_empty() && matches!(job.change, Change::SetIncarnation(_));
            if synced_later || batch.bytes > MAX_BATCH_BYTES {
                break;
            }
            replies.push(
                batch
                    .make(&job.change, &self.shared)
                    .map_err(Failure::Work)?,
            );
            if synced {
                break;
            }
        }
        let pages = batch.write(&mut self.buffer).map_err(Failure::Work)?;
        drop(batch);
        execute(connection, "COMMIT").map_err(Failure::Commit)?;
        self.logged_pages += pages;
        self.shared.note_commit(replies.len());
        set_durability(Durability::Os)?;
        Ok(replies)
    }

    /// Runs after the answers were given, so that no one waits for it but those
    /// who came since.
    fn checkpoint_if_due(&mut self) {
        if self.logged_pages < CHECKPOINT_PAGES || self.broken.is_some() {
            return;
        }
        let cut = self.logged_pages >= FORCED_CHECKPOINT_PAGES;
        match file::checkpoint(&self.connection, cut) {
            // What readers held back is counted on, so that a log that cannot
            // be emptied is some day cut by force.
            Ok(done) => self.logged_pages = done.left_pages,
            Err(error) if file::is_failed_sync(&error) => self.break_off(&error),
            Err(error) => {
                tracing::error!(file = self.file, %error, "a checkpoint failed; the log grows");
                // Tried again when as much has gathered once more.
                self.logged_pages = 0;
            }
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// A transaction at work: rows are read once, changed in memory, and written
/// once at its end.
struct Batch<'c> {
    connection: &'c Connection,
    select: CachedStatement<'c>,
    rows: BTreeMap<(Partition, ItemKey), Held>,
    /// About how many bytes of rows it holds.
    bytes: usize,
    /// About how many pages its hints and records changed.
    other_pages: u64,
}

/// A row as the transaction has it so far.
struct Held {
    /// Where the row lies in the table; none when it does not.
    id: Option<i64>,
    row: Option<Row>,
    changed: bool,
}

impl<'c> Batch<'c> {
    fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let select = connection
            .prepare_cached("SELECT id, row FROM items WHERE partition = ?1 AND key = ?2")?;
        Ok(Batch {
            connection,
            select,
            rows: BTreeMap::new(),
            bytes: 0,
            other_pages: 0,
        })
    }

    /// Makes one change. The inner error is the change's own; after the outer
    /// one the transaction is of no more use.
    fn make(
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
                for (id, partition, key, then_drop) in hints {
                    self.drop_hint(*id, *partition, key, *then_drop, shared)?;
                }
                Ok(Ok(StoreReply::Done))
            }
            Change::PutMeta { name, bytes } => {
                self.other_pages += 2;
                let mut put = self.connection.prepare_cached(
                    "INSERT INTO meta(name, bytes) VALUES(?1, ?2)
                     ON CONFLICT(name) DO UPDATE SET bytes = excluded.bytes",
                )?;
                put.execute((name, &bytes[..]))?;
                Ok(Ok(StoreReply::Done))
            }
            Change::SetIncarnation(incarnation) => {
                file::set_number(self.connection, "incarnation", *incarnation)?;
                Ok(Ok(StoreReply::Done))
            }
        }
    }

    /// The row, from this transaction or from the table.
    fn hold(
        &mut self,
        partition: Partition,
        key: &ItemKey,
    ) -> rusqlite::Result<Result<&mut Held, row::Damage>> {
        let vacant = match self.rows.entry((partition, key.clone())) {
            Entry::Occupied(held) => return Ok(Ok(held.into_mut())),
            Entry::Vacant(vacant) => vacant,
        };
        let mut found = self.select.query((partition.0, key.as_bytes()))?;
        let (id, row) = match found.next()? {
            None => (None, None),
            Some(columns) => {
                let bytes = columns.get_ref(1)?.as_blob()?;
                self.bytes += bytes.len();
                match row::decode(key, bytes) {
                    Ok(row) => (Some(columns.get(0)?), Some(row)),
                    Err(damage) => return Ok(Err(damage)),
                }
            }
        };
        Ok(Ok(vacant.insert(Held {
            id,
            row,
            changed: false,
        })))
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
            Err(damage) => {
                shared.note_damage(partition, key, &damage);
                return Ok(Err(damage.at(key)));
            }
        };
        // `apply` takes the row; where it makes no other, an unchanged one is
        // simply read again, and a changed one must be kept.
        let kept = if held.changed { held.row.clone() } else { None };
        let (made, outcome) = apply(held.row.take(), mutation.clone());
        let malformed = made.as_ref().is_some_and(|row| !row.set.is_well_formed());
        match made {
            Some(row) if !malformed => {
                held.row = Some(row);
                held.changed = true;
            }
            _ if held.changed => held.row = kept,
            _ => {
                self.rows.remove(&(partition, key.clone()));
            }
        }
        if malformed {
            return Ok(Err(StoreError::Corrupt(format!(
                "{key:?}: the change makes a sibling set that is not well formed"
            ))));
        }
        let taken = matches!(
            outcome,
            Outcome::Written(_) | Outcome::Synced { .. } | Outcome::Replaced
        );
        if taken {
            self.add_hints(partition, key, hints)?;
        }
        Ok(Ok(StoreReply::Updated(outcome)))
    }

    fn add_hints(
        &mut self,
        partition: Partition,
        key: &ItemKey,
        hints: &[NodeId],
    ) -> rusqlite::Result<()> {
        for target in hints {
            self.other_pages += 3;
            let mut add = self.connection.prepare_cached(
                "INSERT OR REPLACE INTO hints(target, partition, key) VALUES(?1, ?2, ?3)",
            )?;
            add.execute((target.0.cast_signed(), partition.0, key.as_bytes()))?;
        }
        Ok(())
    }

    fn drop_hint(
        &mut self,
        id: HintId,
        partition: Partition,
        key: &ItemKey,
        then_drop: Option<StateHash>,
        shared: &Shared,
    ) -> rusqlite::Result<()> {
        self.other_pages += 3;
        if let Some(delivered) = then_drop {
            match self.hold(partition, key)? {
                Ok(held) => {
                    let row = held.row.as_ref();
                    if row.is_some_and(|row| row.set.hash() != delivered) {
                        return Ok(());
                    }
                }
                // What was delivered was read whole, so this is not it.
                Err(damage) => {
                    shared.note_damage(partition, key, &damage);
                    return Ok(());
                }
            }
        }
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM hints WHERE sequence = ?1 AND partition = ?2 AND key = ?3",
        )?;
        let deleted = delete.execute((id.sequence, partition.0, key.as_bytes()))?;
        drop(delete);
        // A hint that was forgotten before says nothing about the row.
        if then_drop.is_none() || deleted == 0 {
            return Ok(());
        }
        let others = self
            .connection
            .prepare_cached("SELECT 1 FROM hints WHERE partition = ?1 AND key = ?2")?
            .exists((partition.0, key.as_bytes()))?;
        if !others && let Ok(held) = self.hold(partition, key)? {
            held.row = None;
            held.changed = true;
        }
        Ok(())
    }

    /// Writes the changed rows, in the order of their keys so that neighbours
    /// meet the same pages. Returns about how many pages changed.
    fn write(&mut self, buffer: &mut Vec<u8>) -> rusqlite::Result<u64> {
        let connection = self.connection;
        let mut pages = 2 + self.other_pages;
        let (mut insert, mut update) = (None, None);
        for ((partition, key), held) in &self.rows {
            if !held.changed {
                continue;
            }
            match (held.id, &held.row) {
                (None, None) => {}
                (Some(id), None) => {
                    connection
                        .prepare_cached("DELETE FROM items WHERE id = ?1")?
                        .execute([id])?;
                    pages += 2;
                }
                (Some(id), Some(row)) => {
                    row::encode(key, row, buffer);
                    prepared(
                        connection,
                        &mut update,
                        "UPDATE items SET row = ?2 WHERE id = ?1",
                    )?
                    .execute((id, &buffer[..]))?;
                    pages += 1 + buffer.len() as u64 / PAGE_BYTES;
                }
                (None, Some(row)) => {
                    row::encode(key, row, buffer);
                    prepared(
                        connection,
                        &mut insert,
                        "INSERT INTO items(partition, key, row) VALUES(?1, ?2, ?3)",
                    )?
                    .execute((partition.0, key.as_bytes(), &buffer[..]))?;
                    pages += 2 + buffer.len() as u64 / PAGE_BYTES;
                }
            }
        }
        // One huge row must not be held for the life of the store.
        if buffer.capacity() > MAX_BATCH_BYTES {
            *buffer = Vec::new();
        }
        Ok(pages)
    }
}

/// The statement, prepared when it is first wanted.
fn prepared<'s, 'c>(
    connection: &'c Connection,
    slot: &'s mut Option<CachedStatement<'c>>,
    sql: &str,
) -> rusqlite::Result<&'s mut CachedStatement<'c>> {
    match slot {
        Some(statement) => Ok(statement),
        None => Ok(slot.insert(connection.prepare_cached(sql)?)),
    }
}
