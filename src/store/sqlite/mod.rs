//! The store in SQLite files.
//!
//! Promises, beside those of [`Store`]: partitions are spread over several
//! files, each with one writing thread that gathers what waits into one
//! transaction (writer.rs), while a few threads read beside them (reader.rs).
//! Under [`Durability::Commit`] what was answered survives power loss; under
//! [`Durability::Os`] it survives the end of the process, and a store that may
//! have lost commits has a new incarnation when it is opened. One process at a
//! time holds a data directory. Queues are bounded.
//!
//! Order: changes of one item take effect as they were submitted. A read sees
//! every change that was answered before the read was submitted; of a change
//! that is not answered yet it may see the outcome or not, but never a part of
//! it, and never one whose predecessor it does not see. Changes of one partition
//! are answered in the order in which they were made, and what looks at them in
//! its turn (`Derive`, `CountHintsOf`) is answered in that order too: its file's
//! writer does both (writer.rs). What reads many rows out of turn (`Leaves`,
//! `ReadMany`, `Scan`) has a thread of its own, so that no client's read waits
//! behind it.
//!
//! Not promised: one transaction over several files. Nor that damage to SQLite's
//! own pages is always noticed when a row is read: rows carry a checksum, the
//! pages of the index do not, and a key that rots there may be looked for in vain
//! until the rows are next derived (walk.rs).

mod files;
mod queue;
mod reading;
mod requests;
#[cfg(test)]
mod tests;
mod unfiled;
mod writing;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use self::files::file;
pub use self::files::open::{
    Durability, MAX_FILES, MAX_QUEUED_CHANGE_BYTES, MAX_QUEUED_CHANGES, MAX_QUEUED_READS,
    OnFailedCommit, OpenError, Options,
};
use self::files::open::{Opened, REFILLED, lock, open_files, rest, wake};
use self::files::suspicion::Suspicion;
use self::queue::{Queue, Refused};
use self::reading::here::Here;
use self::reading::reader::{self, Part, Query, Reader, Survey};
use self::reading::states::States;
use self::unfiled::Unfiled;
use self::writing::change::{Change, Delivered};
use self::writing::checkpoints::Checkpointer;
use self::writing::writer::{Job, Look, Post, Work, Writer};
use super::{Done, Figures, Store};
use crate::protocol::effect::{StoreError, StoreReply, StoreRequest};
use crate::protocol::id::{ItemKey, Partition};
use crate::protocol::replica::Row;

/// How many threads read. More than one, so that a read that waits for the disk
/// does not hold up those that would not.
const READERS: usize = 2;

/// How many requests that read many rows wait for the one thread that does them.
const MAX_QUEUED_SURVEYS: usize = 256;

/// Takes a [`Done`] along, and calls it with an error if nobody else did: a
/// thread that dies still answers.
pub(crate) struct Answer(Option<Done>);

impl Answer {
    pub(crate) fn give(mut self, reply: Result<StoreReply, StoreError>) {
        if let Some(done) = self.0.take() {
            done(reply);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(closed()));
        }
    }
}

fn closed() -> StoreError {
    StoreError::Io("the store is closed".into())
}

/// What the store's threads share.
pub(crate) struct Shared {
    /// How many files there are.
    files: u32,
    incarnation: AtomicU64,
    commits: AtomicU64,
    changes: AtomicU64,
    damaged: AtomicU64,
    batch_sizes: [AtomicU64; 11],
    on_failed_commit: Option<OnFailedCommit>,
    suspicion: Suspicion,
    states: States,
    /// By file.
    unfiled: Vec<Unfiled>,
    replaced: AtomicBool,
    /// Held while the store is open: locks the directory.
    lock: Mutex<Option<File>>,
}

impl Shared {
    pub(crate) fn note_commit(&self, changes: usize) {
        let changes = changes as u64;
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(changes, Ordering::Relaxed);
        let bucket = changes.next_power_of_two().trailing_zeros() as usize;
        self.batch_sizes[bucket.min(10)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_damage(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tell_failed_commit(&self, error: &StoreError) {
        if let Some(tell) = &self.on_failed_commit {
            tell(error);
        }
    }
}

/// The file that holds a partition.
pub(crate) fn file_of(partition: Partition, files: usize) -> u32 {
    partition.0 % files as u32
}

struct Threads {
    readers: Vec<JoinHandle<()>>,
    writers: Vec<JoinHandle<Option<Connection>>>,
    /// Ends when the writers have.
    checkpointer: Option<JoinHandle<()>>,
}

/// A store in SQLite files.
pub struct SqliteStore {
    data_dir: PathBuf,
    shared: Arc<Shared>,
    /// By file.
    changes: Vec<Arc<Queue<Job>>>,
    queries: Arc<Queue<Query>>,
    /// Queries that read many rows.
    surveys: Arc<Queue<Query>>,
    here: Arc<Here>,
    threads: Mutex<Option<Threads>>,
}

impl SqliteStore {
    /// Opens the store in `options.data_dir`, or makes one there.
    pub fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let dir = &options.data_dir;
        let lock = lock(dir)?;
        let Opened {
            files: opened,
            replaced,
        } = open_files(&options)?;
        if replaced {
            tracing::warn!(
                "the store lacks items that it once held until the peers have sent them"
            );
        }
        let first = file::path(dir, 0);
        let incarnation =
            wake(&opened[0].0, &options).map_err(|source| OpenError::sqlite(&first, source))?;
        let files = opened.len() as u32;
        let mut connections = Vec::new();
        let mut unfiled = Vec::new();
        for (connection, loaded) in opened {
            connections.push((connection, loaded.next_id));
            unfiled.push(loaded.unfiled);
        }
        let shared = Arc::new(Shared {
            files,
            incarnation: AtomicU64::new(incarnation),
            commits: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            batch_sizes: Default::default(),
            on_failed_commit: options.on_failed_commit.clone(),
            suspicion: Suspicion::new(dir, files as usize),
            states: States::default(),
            unfiled,
            replaced: AtomicBool::new(replaced),
            lock: Mutex::new(Some(lock)),
        });
        let queries = Arc::new(Queue::new(options.max_queued_reads, usize::MAX));
        let surveys = Arc::new(Queue::new(MAX_QUEUED_SURVEYS, usize::MAX));
        let mut readers = Vec::new();
        for number in 0..=READERS {
            let (queue, max_batch) = match number {
                READERS => (&surveys, 1),
                _ => (&queries, reader::MAX_BATCH),
            };
            readers.push(Reader {
                connections: (0..files)
                    .map(|file| file::open_reader(&file::path(dir, file), file::READER_CACHE_KIB))
                    .collect::<Result<_, _>>()?,
                queue: queue.clone(),
                shared: shared.clone(),
                max_batch,
            });
        }
        let here = Arc::new(Here::open(dir, files, shared.clone())?);
        let readers_here = here.clone();
        let let_go = Box::new(move |file| readers_here.let_go_of_old(file));
        let (checkpointer, checkpoints) = Checkpointer::open(dir, files, let_go)?;
        let mut writers = Vec::new();
        for (((connection, next_id), checkpoints), file) in
            connections.into_iter().zip(checkpoints).zip(0..)
        {
            file::set_durability(&connection, options.durability)
                .map_err(|source| OpenError::sqlite(&file::path(dir, file), source))?;
            let post = Post {
                file,
                durability: options.durability,
                queue: Arc::new(Queue::new(
                    options.max_queued_changes,
                    options.max_queued_change_bytes,
                )),
                shared: shared.clone(),
                next_id,
                here: here.clone(),
                checkpoints,
            };
            writers.push((post, connection));
        }
        let changes = writers.iter().map(|(post, _)| post.queue.clone()).collect();
        let store = Arc::new(SqliteStore {
            data_dir: dir.clone(),
            shared,
            changes,
            queries,
            surveys,
            here,
            threads: Mutex::new(Some(Threads {
                readers: Vec::new(),
                writers: Vec::new(),
                checkpointer: None,
            })),
        });
        store.start(readers, writers, checkpointer)?;
        Ok(store)
    }

    /// Starts the threads. If one cannot be had, dropping the store ends those
    /// that run.
    fn start(
        &self,
        readers: Vec<Reader>,
        writers: Vec<(Post, Connection)>,
        checkpointer: Checkpointer,
    ) -> Result<(), OpenError> {
        let failed = |source| OpenError::io(&self.data_dir, source);
        let mut threads = self.threads();
        let threads = threads.as_mut().expect("the store was just made");
        for (reader, number) in readers.into_iter().zip(0..) {
            let thread = thread::Builder::new().name(format!("store-read-{number}"));
            let thread = thread.spawn(|| {
                let _leaving = Leaving(reader.queue.clone());
                reader.run();
            });
            threads.readers.push(thread.map_err(failed)?);
        }
        for (post, connection) in writers {
            let thread = thread::Builder::new().name(format!("store-write-{}", post.file));
            let thread = thread.spawn(move || {
                let _leaving = Leaving(post.queue.clone());
                let sound = Writer::new(post, &connection).run();
                sound.then_some(connection)
            });
            threads.writers.push(thread.map_err(failed)?);
        }
        let thread = thread::Builder::new().name("store-checkpoint".into());
        let thread = thread.spawn(|| checkpointer.run());
        threads.checkpointer = Some(thread.map_err(failed)?);
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Option<Threads>> {
        self.threads.lock().expect("no code panics under this lock")
    }

    /// All rows of a partition, in the order of table, partition key and sort
    /// key. Blocks and holds them all: for checks and repair, not for serving.
    pub fn scan(&self, partition: Partition) -> Result<Vec<(ItemKey, Row)>, StoreError> {
        let file = file_of(partition, self.changes.len());
        let connection =
            file::open_reader(&file::path(&self.data_dir, file), file::READER_CACHE_KIB)
                .map_err(|error| StoreError::Io(error.to_string()))?;
        reader::scan(&connection, partition)
    }

    /// Whether the store lost items that it once held (a file was beyond repair and
    /// was replaced, or commits were lost with a damaged log), in this run or an
    /// earlier one, and has not been filled again. Until then it answers "absent"
    /// for what it no longer knows: the node is to be filled like one that was
    /// wiped. If file 0 went, so did the node's records.
    pub fn was_replaced(&self) -> bool {
        self.shared.replaced.load(Ordering::SeqCst)
    }

    /// The peers have filled the store again: it is whole. Blocks.
    pub fn refilled(&self) -> Result<(), StoreError> {
        self.set_number(REFILLED)?;
        self.shared.replaced.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn set_number(&self, (name, number): (&'static str, u64)) -> Result<(), StoreError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let done = move |reply| {
            if answer.send(reply).is_err() {
                tracing::debug!("the one who set a number has gone");
            }
        };
        self.change(0, Change::SetNumber(name, number), Box::new(done));
        let reply = answered.recv().unwrap_or_else(|_| Err(closed()));
        reply.map(drop)
    }

    fn change(&self, file: u32, change: Change, done: Done) {
        self.work(file, Work::Change(change), done);
    }

    fn look(&self, partition: Partition, look: Look, done: Done) {
        let file = file_of(partition, self.changes.len());
        self.work(file, Work::Look(look), done);
    }

    fn work(&self, file: u32, work: Work, done: Done) {
        let bytes = work.size_bytes();
        let answer = Answer(Some(done));
        match self.changes[file as usize].push(Job { work, answer }, bytes) {
            Ok(()) => {}
            Err(Refused::Full(job)) => job.answer.give(Err(StoreError::Overloaded)),
            Err(Refused::Closed(job)) => job.answer.give(Err(closed())),
        }
    }

    fn survey(&self, partition: Partition, survey: Survey, done: Done) {
        self.ask(Query::Survey {
            partition,
            survey,
            answer: Answer(Some(done)),
        });
    }

    fn ask(&self, query: Query) {
        let queue = match &query {
            Query::Survey { .. } => &self.surveys,
            _ => &self.queries,
        };
        let (query, error) = match queue.push(query, 0) {
            Ok(()) => return,
            Err(Refused::Full(query)) => (query, StoreError::Overloaded),
            Err(Refused::Closed(query)) => (query, closed()),
        };
        match query {
            Query::Read { answer, .. }
            | Query::Survey { answer, .. }
            | Query::Hints { answer, .. }
            | Query::CountHints { answer } => answer.give(Err(error)),
            Query::Meta { answer, .. } => {
                if answer.send(Err(error)).is_err() {
                    tracing::debug!("the one who asked for a record has gone");
                }
            }
        }
    }

    /// Hands the hints to their file.
    fn drop_hints(&self, mut hints: Vec<Delivered>, done: Done) {
        // An id of another file than its item's names no hint.
        let files = self.changes.len();
        hints.retain(|(id, partition, ..)| id.file == file_of(*partition, files));
        let Some(file) = hints.first().map(|hint| hint.0.file) else {
            return done(Ok(StoreReply::Dropped(vec![])));
        };
        if hints.iter().any(|hint| hint.0.file != file) {
            return done(Err(StoreError::Io(
                "hints of several files were to be dropped by one request".into(),
            )));
        }
        self.change(file, Change::DropHints(hints), done);
    }

    /// Lets the threads finish what waits and end.
    ///
    /// With `clean`, all files are brought to rest and the end is marked so. On
    /// a thread of the store's own, which cannot wait for itself, they are only
    /// told to end.
    fn end(&self, clean: bool) {
        let Some(threads) = self.threads().take() else {
            return;
        };
        self.queries.close();
        self.surveys.close();
        self.here.close();
        self.changes.iter().for_each(|queue| queue.close());
        let me = thread::current().id();
        let mut ids = threads.readers.iter().map(|thread| thread.thread().id());
        let mut writer_ids = threads.writers.iter().map(|thread| thread.thread().id());
        if ids.any(|id| id == me) || writer_ids.any(|id| id == me) {
            tracing::error!("the store was dropped on its own thread; it ends uncleanly");
            return;
        }
        for thread in threads.readers {
            if thread.join().is_err() {
                tracing::error!("a reading thread had panicked");
            }
        }
        let writers: Vec<Option<Connection>> = threads
            .writers
            .into_iter()
            .map(|thread| thread.join().ok().flatten())
            .collect();
        if let Some(thread) = threads.checkpointer
            && thread.join().is_err()
        {
            tracing::error!("the thread of checkpoints had panicked");
        }
        if clean {
            match writers.into_iter().collect::<Option<Vec<_>>>() {
                Some(connections) => {
                    if let Err(error) = rest(&connections) {
                        tracing::error!(%error, "the store did not come to rest");
                    }
                }
                None => tracing::error!("a writing thread had failed; the end is not clean"),
            }
        }
        let lock = self.shared.lock.lock();
        lock.expect("no code panics under this lock").take();
    }
}

/// Empties the queue of a thread that ends by a panic, so that those who wait
/// are answered, and nobody comes after them.
struct Leaving<T>(Arc<Queue<T>>);

impl<T> Drop for Leaving<T> {
    fn drop(&mut self) {
        if thread::panicking() {
            drop(self.0.abandon());
        }
    }
}

impl Store for SqliteStore {
    fn submit(&self, request: StoreRequest, done: Done) {
        self.take(request, done);
    }

    fn read_now(&self, request: &StoreRequest) -> Option<Result<StoreReply, StoreError>> {
        let (partition, key, part) = match request {
            StoreRequest::Read { partition, key } => (*partition, key, Part::Whole),
            StoreRequest::ReadState { partition, key } => (*partition, key, Part::State),
            _ => return None,
        };
        self.here.read(partition, key, part)
    }

    fn incarnation(&self) -> u64 {
        self.shared.incarnation.load(Ordering::SeqCst)
    }

    fn renew_incarnation(&self, incarnation: u64) -> Result<(), StoreError> {
        self.set_number(("incarnation", incarnation))?;
        self.shared.incarnation.store(incarnation, Ordering::SeqCst);
        Ok(())
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.ask(Query::Meta {
            name: name.to_owned(),
            answer,
        });
        answered.recv().unwrap_or_else(|_| Err(closed()))
    }

    fn figures(&self) -> Figures {
        let shared = &self.shared;
        let mut figures = Figures {
            write_queue_depth: self.changes.iter().map(|queue| queue.len() as u64).sum(),
            read_queue_depth: (self.queries.len() + self.surveys.len()) as u64,
            commits: shared.commits.load(Ordering::Relaxed),
            changes: shared.changes.load(Ordering::Relaxed),
            damaged_rows: shared.damaged.load(Ordering::Relaxed),
            unfiled_rows: shared.unfiled.iter().map(|of| of.count() as u64).sum(),
            log_bytes: (0..shared.files)
                .map(|number| file::log_path(&self.data_dir, number))
                // A closed store has none.
                .map(|log| std::fs::metadata(log).map_or(0, |log| log.len()))
                .sum(),
            ..Figures::default()
        };
        for (figure, count) in figures.batch_sizes.iter_mut().zip(&shared.batch_sizes) {
            *figure = count.load(Ordering::Relaxed);
        }
        figures
    }

    fn close(&self) {
        self.end(true);
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.end(false);
    }
}
