//! The thread that writes one file.
//!
//! Promises: whatever waits when a commit ends makes the next transaction, with
//! no delay added; changes take effect, and are answered, in the order they were
//! submitted; a change is answered after the COMMIT that holds it has returned,
//! and never otherwise than with an error if that failed. What only looks is
//! done between two transactions, in its turn.
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
//! [`Options::on_failed_commit`]: crate::store::sqlite::Options::on_failed_commit

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::Connection;

use super::batch::{Batch, MAX_BATCH_BYTES};
use super::change::{Change, OVERHEAD_BYTES, Written};
use super::checkpoints::{Checkpoints, Failure, Progress};
use super::tools::Tools;
use crate::protocol::effect::{StoreError, StoreReply};
use crate::protocol::id::{ItemKey, Partition};
use crate::store::sqlite::files::file;
use crate::store::sqlite::queue::Queue;
use crate::store::sqlite::reading::here::Here;
use crate::store::sqlite::reading::walk::Walk;
use crate::store::sqlite::{Answer, Durability, Shared};

/// How many changes one transaction holds at most: past some hundred, sharing a
/// sync saves nothing more, and a failed batch is done again one by one.
pub const MAX_BATCH: usize = 1024;

/// How many pages the log gathers before they are moved into the database: a
/// page that changes often is moved once for all its changes. 32 MiB.
const CHECKPOINT_PAGES: u64 = 8192;

/// How many pages the log may reach before a checkpoint waits for readers to let
/// go of it, instead of leaving to the next what they still look at.
const FORCED_CHECKPOINT_PAGES: u64 = 4 * CHECKPOINT_PAGES;

/// What writers are asked.
pub enum Work {
    Change(Change),
    Look(Look),
}

/// What changes nothing, but has its place among the changes.
pub enum Look {
    Derive {
        partition: Partition,
        after: Option<ItemKey>,
        limit: usize,
    },
    CountHintsOf(Partition),
}

impl Work {
    /// About how many bytes it holds in memory.
    pub fn size_bytes(&self) -> usize {
        match self {
            Work::Change(change) => change.size_bytes(),
            Work::Look(_) => OVERHEAD_BYTES,
        }
    }

    /// Whether the transaction ends before it. What looks, sees what is committed,
    /// and stands for nothing that may yet be rolled back.
    fn is_apart(&self) -> bool {
        matches!(self, Work::Look(_) | Work::Change(Change::SetNumber(..)))
    }
}

/// A piece of work and who waits for it.
pub struct Job {
    pub work: Work,
    pub answer: Answer,
}

/// What one writing thread is given, beside its connection.
pub struct Post {
    pub file: u32,
    pub durability: Durability,
    pub queue: Arc<Queue<Job>>,
    pub shared: Arc<Shared>,
    /// The id of the next row that is made.
    pub next_id: i64,
    /// Those who read beside it.
    pub here: Arc<Here>,
    /// Whoever moves the log meanwhile.
    pub checkpoints: Checkpoints,
}

/// One writing thread's state.
pub struct Writer<'c> {
    post: Post,
    connection: &'c Connection,
    tools: Tools<'c>,
    /// Why the file takes no more changes.
    broken: Option<StoreError>,
    /// About how many pages wait in the log.
    logged_pages: u64,
    /// Whether the index was asked in vain since the filter read of it.
    asked_in_vain: bool,
}

/// Why a transaction was rolled back.
enum RolledBack {
    /// Nothing of it was written.
    Work(rusqlite::Error),
    /// What was written may or may not be on the disk.
    Commit(rusqlite::Error),
}

type Replies = Vec<Result<StoreReply, StoreError>>;

impl<'c> Writer<'c> {
    /// One that has done nothing yet.
    pub fn new(post: Post, connection: &'c Connection) -> Self {
        Writer {
            tools: Tools::new(connection, post.next_id),
            post,
            connection,
            broken: None,
            logged_pages: 0,
            asked_in_vain: false,
        }
    }

    /// Makes changes until the queue is closed and empty. Returns whether the file
    /// is sound.
    pub fn run(mut self) -> bool {
        let mut jobs = VecDeque::new();
        while !jobs.is_empty() || self.post.queue.take(MAX_BATCH, &mut jobs) {
            self.commit_some(&mut jobs);
            self.learn_if_due();
            self.checkpoint_if_due();
        }
        self.broken.is_none()
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
            Ok((replies, written)) => {
                self.tell(written);
                replies.iter().for_each(|reply| self.note_states(reply));
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
            self.note_states(&reply);
            job.answer.give(reply);
        }
    }

    /// Tells those who look for rows what was committed.
    fn tell(&self, written: Written) {
        let unfiled = &self.post.shared.unfiled[self.post.file as usize];
        written.tell(unfiled, || self.post.here.flow(self.post.file));
    }

    /// Tells those who ask for states what a change left.
    fn note_states(&self, reply: &Result<StoreReply, StoreError>) {
        let changes = match reply {
            Ok(StoreReply::Updated(_, Some(change))) => std::slice::from_ref(change),
            Ok(StoreReply::Dropped(changes)) => changes,
            _ => return,
        };
        for change in changes {
            let states = &self.post.shared.states;
            states.set(change.partition, &change.key, change.after);
        }
    }

    fn transact_alone(&mut self, job: &Job) -> Result<StoreReply, StoreError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        match self.transact(std::slice::from_ref(job)) {
            Ok((mut replies, written)) => {
                self.tell(written);
                replies.pop().expect("one change has one reply")
            }
            Err(failure) => {
                let error = self.after_failure(failure);
                self.post.here.flow(self.post.file);
                Err(error)
            }
        }
    }

    /// Rolls back, and decides whether the file can go on.
    fn after_failure(&mut self, failure: RolledBack) -> StoreError {
        let rolled_back =
            self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok();
        let (error, at_commit) = match &failure {
            RolledBack::Work(error) => (error, false),
            RolledBack::Commit(error) => (error, true),
        };
        let meant = self.post.shared.meaning(self.post.file, error);
        tracing::error!(file = self.post.file, %error, at_commit, "a transaction failed");
        let unsure = at_commit && matches!(meant, StoreError::Io(_) | StoreError::Corrupt(_));
        if unsure || !rolled_back || file::is_failed_sync(error) {
            self.break_off(error);
        }
        meant
    }

    /// Takes no more changes, see the top of the file.
    fn break_off(&mut self, error: &dyn std::fmt::Display) {
        let error = StoreError::Io(format!(
            "file {} takes no more changes until the process is started again: {error}",
            self.post.file
        ));
        tracing::error!(%error, "the store broke off");
        self.post.shared.tell_failed_commit(&error);
        self.broken = Some(error);
    }

    /// Makes changes from the front in one transaction and commits it. Returns
    /// one reply for each that it came to, at least one, and what those who read are to
    /// be told before they are given.
    fn transact(&mut self, jobs: &[Job]) -> Result<(Replies, Written), RolledBack> {
        let first = match &jobs[0].work {
            Work::Look(look) => return Ok((vec![self.look(look)], Written::default())),
            Work::Change(first) => first,
        };
        let synced = matches!(first, Change::SetNumber(..));
        let (connection, usual) = (self.connection, self.post.durability);
        let set_durability = |durability| {
            if synced && usual != Durability::Commit {
                file::set_durability(connection, durability).map_err(RolledBack::Work)
            } else {
                Ok(())
            }
        };
        set_durability(Durability::Commit)?;
        self.begin().map_err(RolledBack::Work)?;
        let shared = &self.post.shared;
        let unfiled = &shared.unfiled[self.post.file as usize];
        let mut batch = Batch::new(&mut self.tools, unfiled);
        let mut replies = Vec::with_capacity(jobs.len());
        for Job { work, .. } in jobs {
            let full = batch.bytes() > MAX_BATCH_BYTES;
            let Work::Change(change) = work else { break };
            if !replies.is_empty() && (synced || work.is_apart() || full) {
                break;
            }
            let made = batch.make(change, shared);
            replies.push(made.map_err(RolledBack::Work)?);
        }
        let written = batch.write(shared).map_err(RolledBack::Work)?;
        self.commit().map_err(RolledBack::Commit)?;
        self.logged_pages += written.pages;
        self.asked_in_vain |= written.asked_in_vain;
        self.post.shared.note_commit(replies.len());
        // What is committed is told in any case.
        if let Err(RolledBack::Work(error) | RolledBack::Commit(error)) =
            set_durability(Durability::Os)
        {
            self.break_off(&error);
        }
        Ok((replies, written))
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        self.tools.statements.begin.get()?.execute([]).map(drop)
    }

    fn commit(&mut self) -> rusqlite::Result<()> {
        self.tools.statements.commit.get()?.execute([]).map(drop)
    }

    fn look(&self, look: &Look) -> Result<StoreReply, StoreError> {
        let looked = match look {
            Look::Derive {
                partition,
                after,
                limit,
            } => Walk::new(self.connection, &self.post.shared, *partition)
                .and_then(|mut walk| walk.derive(after.as_ref(), *limit)),
            Look::CountHintsOf(partition) => self
                .connection
                .prepare_cached("SELECT count(*) FROM hints WHERE partition = ?1")
                .and_then(|mut count| count.query_row([partition.0], |row| row.get::<_, i64>(0)))
                .map(|count| StoreReply::Count(count.cast_unsigned())),
        };
        looked.map_err(|error| {
            tracing::error!(file = self.post.file, %error, "the rows could not be looked at");
            self.post.shared.meaning(self.post.file, &error)
        })
    }

    /// Has the filter read some of the index, where it would have spared a look at it.
    /// Runs after the answers were given.
    fn learn_if_due(&mut self) {
        if !std::mem::take(&mut self.asked_in_vain) || !self.tools.filter.can_learn() {
            return;
        }
        if let Err(error) = self.tools.filter.learn(self.connection) {
            let file = self.post.file;
            tracing::warn!(file, %error, "the index cannot be read whole; all rows are looked for in it");
            self.post.shared.suspect(file, &error);
        }
    }

    /// Runs after the answers were given, so that no one waits for it but those
    /// who came since. Most of the work is done beside this thread (checkpoints.rs).
    fn checkpoint_if_due(&mut self) {
        if self.logged_pages < CHECKPOINT_PAGES || self.broken.is_some() {
            return;
        }
        let cut = self.logged_pages >= FORCED_CHECKPOINT_PAGES;
        let finished = match self.post.checkpoints.advance(cut) {
            Ok(Progress::UnderWay) => return,
            Ok(Progress::Done) => {
                self.post.here.ebb(self.post.file);
                file::checkpoint(self.connection, cut).map_err(Failure::Sqlite)
            }
            Err(failure) => Err(failure),
        };
        match finished {
            // What readers held back is counted on, so that a log that cannot
            // be emptied is some day cut by force.
            Ok(done) => self.logged_pages = done.left_pages,
            Err(failure) if failure.is_failed_sync() => self.break_off(&failure),
            Err(failure) => {
                if let Failure::Sqlite(error) = &failure {
                    self.post.shared.suspect(self.post.file, error);
                }
                tracing::error!(file = self.post.file, error = %failure, "a checkpoint failed; the log grows");
                // Tried again when as much has gathered once more.
                self.logged_pages = 0;
            }
        }
    }
}
