//! The thread that moves what the logs gather into the databases, while their writers
//! go on.
//!
//! A checkpoint copies thousands of pages and syncs a file: tens of milliseconds in which
//! no write would be answered. So nearly all of it is done here. What comes meanwhile is
//! little, and the writer moves that itself between two of its transactions: only then
//! does the log have an end, and can begin anew.
//!
//! Nor does the disk get it all at once, which would hold up the logs' syncs: see
//! vfs/paced.rs.
//!
//! Promises: a file's log is moved by one at a time, the writer or this thread; a sync
//! that failed is told to the writer, which takes no more changes then; if this thread is
//! gone, writers do the whole of it.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::store::sqlite::OpenError;
use crate::store::sqlite::files::file;
use crate::store::sqlite::files::vfs::paced;

/// How often what came meanwhile is moved too. Each time it is what came during the time
/// before, and that is soon little.
const MAX_PASSES: usize = 4;
/// What may be left to the writer: it moves as many in a millisecond or so.
const MAX_LEFT_PAGES: u64 = 128;

/// Why a log could not be moved.
#[derive(Debug)]
pub enum Failure {
    Sqlite(rusqlite::Error),
    /// The database file could not be synced.
    Sync(std::io::Error),
}

impl Failure {
    /// Whether the disk did not take a sync, see [`file::is_failed_sync`].
    pub fn is_failed_sync(&self) -> bool {
        match self {
            Failure::Sqlite(error) => file::is_failed_sync(error),
            Failure::Sync(_) => true,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Sqlite(error) => error.fmt(out),
            Failure::Sync(error) => write!(out, "a database could not be synced: {error}"),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Failure::Sqlite(error)
    }
}

/// How it stands with a file's log.
#[derive(Default)]
enum State {
    #[default]
    Idle,
    UnderWay,
    Done(Result<(), Failure>),
    /// Nobody moves it but the writer.
    Alone,
}

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }
}

/// What the writer of a file has of the thread.
pub struct Checkpoints {
    file: u32,
    slot: Arc<Slot>,
    asked: SyncSender<u32>,
}

/// How far it has come.
pub enum Progress {
    /// Come again later.
    UnderWay,
    /// The rest is the writer's.
    Done,
}

impl Checkpoints {
    /// Has the log moved. With `wait` until that is done, so that it cannot grow faster
    /// than it is moved.
    pub fn advance(&self, wait: bool) -> Result<Progress, Failure> {
        let mut state = self.slot.state();
        if matches!(*state, State::Idle) {
            // There is room for one of each file, so nobody waits here.
            *state = match self.asked.send(self.file) {
                Ok(()) => State::UnderWay,
                Err(_) => State::Alone,
            };
        }
        while wait && matches!(*state, State::UnderWay) {
            let waited = self.slot.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        match std::mem::take(&mut *state) {
            State::Done(moved) => moved.map(|()| Progress::Done),
            State::Alone => {
                *state = State::Alone;
                Ok(Progress::Done)
            }
            State::Idle | State::UnderWay => {
                *state = State::UnderWay;
                Ok(Progress::UnderWay)
            }
        }
    }
}

/// A database, to be moved into.
struct Target {
    connection: Connection,
    /// To sync it. Kept for as long as the connections are: closing a file gives up the
    /// process's locks on it.
    database: Arc<File>,
    slot: Arc<Slot>,
}

/// Has those who read a file let go of what they hold of it and no longer want: a log is
/// moved no further than to where the oldest of them looks.
pub type LetGo = Box<dyn Fn(u32) + Send>;

/// The thread's state.
pub struct Checkpointer {
    targets: Vec<Target>,
    asked: Receiver<u32>,
    let_go: LetGo,
}

impl Checkpointer {
    /// Opens what is needed for a store of this many files. Ends when every one of the
    /// [`Checkpoints`], one for each file, is gone.
    pub fn open(
        dir: &Path,
        files: u32,
        let_go: LetGo,
    ) -> Result<(Self, Vec<Checkpoints>), OpenError> {
        let (asking, asked) = sync_channel(files as usize);
        let mut targets = Vec::new();
        let mut checkpoints = Vec::new();
        for number in 0..files {
            let path = file::path(dir, number);
            let slot = Arc::new(Slot::default());
            let mut connection = file::open_mover(&path)?;
            let database = File::open(&path).map_err(|source| OpenError::io(&path, source))?;
            let database = Arc::new(database);
            paced::pace(&mut connection, paced::by(database.clone()));
            targets.push(Target {
                connection,
                database,
                slot: slot.clone(),
            });
            checkpoints.push(Checkpoints {
                file: number,
                slot,
                asked: asking.clone(),
            });
        }
        let checkpointer = Checkpointer {
            targets,
            asked,
            let_go,
        };
        Ok((checkpointer, checkpoints))
    }

    /// Moves the logs that it is asked to move.
    pub fn run(self) {
        while let Ok(number) = self.asked.recv() {
            let target = &self.targets[number as usize];
            let moved = target.advance(|| (self.let_go)(number));
            target.slot.set(State::Done(moved));
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        for target in &self.targets {
            target.slot.set(State::Alone);
        }
    }
}

impl Target {
    fn advance(&self, let_go: impl Fn()) -> Result<(), Failure> {
        let mut before = u64::MAX;
        for _ in 0..MAX_PASSES {
            let_go();
            let left = file::checkpoint(&self.connection, false)?.left_pages;
            // Where readers hold back as much as before, there is no use in going on.
            if left <= MAX_LEFT_PAGES || left >= before {
                break;
            }
            before = left;
        }
        // SQLite syncs the database once all of the log is moved. That is left to the
        // writer, and it finds little to write then.
        self.database.sync_data().map_err(Failure::Sync)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A database with pages in its log, and the connection that writes it.
    fn database() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().expect("a directory");
        let (connection, _) = file::open_writer(&file::path(dir.path(), 0), None).expect("opens");
        file::create(&connection, &[]).expect("makes");
        fill(&connection, 0..200);
        (dir, connection)
    }

    fn fill(connection: &Connection, keys: std::ops::Range<u32>) {
        for key in keys {
            connection
                .execute(
                    "INSERT INTO items(partition, key, row) VALUES(0, ?1, zeroblob(3000))",
                    [key.to_be_bytes()],
                )
                .expect("inserts");
        }
    }

    fn of(dir: &tempfile::TempDir) -> (Checkpointer, Checkpoints) {
        let (checkpointer, mut checkpoints) =
            Checkpointer::open(dir.path(), 1, Box::new(|_| {})).expect("opens");
        (checkpointer, checkpoints.pop().expect("one file"))
    }

    /// What lies in the database file itself, whatever its log holds.
    fn moved_bytes(dir: &tempfile::TempDir) -> u64 {
        let metadata = std::fs::metadata(file::path(dir.path(), 0));
        metadata.expect("is there").len()
    }

    #[test]
    fn a_log_is_moved_while_its_file_is_written_and_begins_anew_after_the_writers_part() {
        let (dir, connection) = database();
        let before = moved_bytes(&dir);
        let (checkpointer, checkpoints) = of(&dir);
        let thread = thread::spawn(|| checkpointer.run());
        assert!(matches!(checkpoints.advance(false), Ok(Progress::UnderWay)));
        fill(&connection, 200..260);
        assert!(matches!(checkpoints.advance(true), Ok(Progress::Done)));
        assert!(moved_bytes(&dir) > before + 200 * 3000);
        let left = file::checkpoint(&connection, false).expect("moves");
        assert_eq!(left.left_pages, 0);
        let log = file::log_path(dir.path(), 0);
        // Its length tells nothing: there is room in it. The header counts its rounds.
        let round = || std::fs::read(&log).expect("is there")[12..16].to_vec();
        let before = round();
        fill(&connection, 260..400);
        assert_ne!(round(), before, "it begins anew");
        drop(checkpoints);
        thread.join().expect("ends when nobody can ask");
    }

    #[test]
    fn what_is_moved_is_awaited_slice_by_slice() {
        let (dir, connection) = database();
        fill(&connection, 200..600);
        let before = moved_bytes(&dir);
        let (mut checkpointer, checkpoints) = of(&dir);
        let slices = Arc::new(Mutex::new(Vec::new()));
        let told = slices.clone();
        let flush = move |range| {
            told.lock().expect("sound").push(range);
            Ok(())
        };
        paced::pace(&mut checkpointer.targets[0].connection, Box::new(flush));
        let thread = thread::spawn(|| checkpointer.run());
        assert!(matches!(checkpoints.advance(true), Ok(Progress::Done)));
        let moved = moved_bytes(&dir) - before;
        let slices = slices.lock().expect("sound");
        let lengths = slices.iter().map(|range| range.end - range.start);
        assert!(moved > 4 * paced::SLICE_BYTES);
        // Longer in the file where pages lie between that did not change.
        assert!(lengths.clone().all(|length| length >= paced::SLICE_BYTES));
        assert!(lengths.sum::<u64>() + paced::SLICE_BYTES > moved);
        drop(checkpoints);
        thread.join().expect("ends when nobody can ask");
    }

    #[test]
    fn who_waits_is_let_go_when_the_thread_is_gone() {
        let (dir, _connection) = database();
        let (checkpointer, checkpoints) = of(&dir);
        assert!(matches!(checkpoints.advance(false), Ok(Progress::UnderWay)));
        let waiting = thread::spawn(move || {
            let waited = checkpoints.advance(true);
            (waited.is_ok(), checkpoints)
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(checkpointer);
        let (ended, checkpoints) = waiting.join().expect("ends");
        assert!(ended);
        // From now on the writer does all of it.
        assert!(matches!(checkpoints.advance(false), Ok(Progress::Done)));
        assert!(matches!(checkpoints.advance(true), Ok(Progress::Done)));
    }

    #[test]
    fn a_failure_is_told_once_and_the_next_time_is_another_try() {
        let (dir, connection) = database();
        let path = file::path(dir.path(), 0);
        // A connection that may not write moves nothing, and there is no syncing of a
        // device that keeps nothing.
        let of_a_reader = |target: &mut Target| {
            let reader = file::open_reader(&path, 64).expect("opens");
            target.connection = reader;
        };
        let of_nothing = |target: &mut Target| {
            target.database = Arc::new(File::open("/dev/null").expect("opens"));
        };
        let of_a_full_disk = |target: &mut Target| {
            let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
            paced::pace(&mut target.connection, Box::new(move |_| Err(full())));
        };
        type Spoil<'a> = &'a dyn Fn(&mut Target);
        let spoilers: [(Spoil, bool); 3] = [
            (&of_a_reader, false),
            (&of_a_full_disk, true),
            (&of_nothing, true),
        ];
        for (spoil, is_failed_sync) in spoilers {
            let (mut checkpointer, checkpoints) = of(&dir);
            spoil(&mut checkpointer.targets[0]);
            let thread = thread::spawn(|| checkpointer.run());
            let failure = checkpoints.advance(true).map(drop).expect_err("fails");
            assert_eq!(failure.is_failed_sync(), is_failed_sync, "{failure}");
            assert!(matches!(checkpoints.advance(false), Ok(Progress::UnderWay)));
            drop(checkpoints);
            thread.join().expect("ends");
        }
        drop(connection);
    }
}
