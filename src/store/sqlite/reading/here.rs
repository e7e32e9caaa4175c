//! Reads that are answered on the thread that asks.
//!
//! A row that the system has in memory is read in a few microseconds; handing the
//! question to another thread and the answer back costs several times as much.
//! Promises: a read that is answered here sees every change that was answered
//! before it was asked; a thread never waits here for another one; while the disk
//! is slow, reads go to the threads that are there for it, so that no thread that
//! has other things to do waits for a disk more often than [`Pace`] allows.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use rusqlite::Connection;

use super::reader::Part;
use crate::clock::Stopwatch;
use crate::protocol::effect::{StoreError, StoreReply};
use crate::protocol::id::{ItemKey, Partition};
use crate::store::sqlite::files::file;
use crate::store::sqlite::{OpenError, Shared, file_of};

/// How many threads may read at once in this way. Each costs a connection and its
/// cache for each file; who finds all of them taken asks the reading threads.
const BENCHES: usize = 4;

/// The page cache of each. While nothing is written it stays good, and the inner pages of
/// some million rows fit.
const CACHE_KIB: i64 = 8 * 1024;

/// A read that takes longer than this has waited for a disk: from memory it takes
/// a tenth of it, even of a large row.
const SLOW_US: u64 = 250;
/// What a slow read adds to the strain; a quick one takes one off. More than one
/// slow read in so many is too many.
const STRAIN_OF_SLOW: u32 = 16;
/// At which strain the reads go to the reading threads.
const MAX_STRAIN: u32 = 64;
/// For how many reads they do, before it is tried here again.
const READS_ELSEWHERE: u32 = 2_000;

/// Whether reads are quick enough to be made by whoever asks.
#[derive(Default)]
struct Pace {
    strain: AtomicU32,
    elsewhere: AtomicU32,
}

impl Pace {
    /// Whether the next read may be made here.
    fn allows(&self) -> bool {
        let left = self.elsewhere.load(Ordering::Relaxed);
        if left == 0 {
            return true;
        }
        // Two that count down at once send one read more or less elsewhere.
        self.elsewhere.store(left - 1, Ordering::Relaxed);
        false
    }

    /// A read was made here and took so long.
    fn note(&self, took_us: u64) {
        let strain = self.strain.load(Ordering::Relaxed);
        let strain = if took_us > SLOW_US {
            strain + STRAIN_OF_SLOW
        } else {
            strain.saturating_sub(1)
        };
        if strain < MAX_STRAIN {
            self.strain.store(strain, Ordering::Relaxed);
        } else {
            self.strain.store(0, Ordering::Relaxed);
            self.elsewhere.store(READS_ELSEWHERE, Ordering::Relaxed);
        }
    }
}

/// A connection to one file, and the snapshot that it may hold.
struct Seat {
    connection: Connection,
    /// How many times the file's changes had been answered when the snapshot that is
    /// held was taken; none when none is held.
    held_at: Option<u64>,
}

impl Seat {
    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn let_go(&mut self) -> rusqlite::Result<()> {
        // A failure may have ended it already.
        match self.held_at.take() {
            Some(_) if !self.connection.is_autocommit() => self.execute("COMMIT"),
            _ => Ok(()),
        }
    }

    /// Sees to it that what is read next is a state of the file that holds every
    /// change that was answered by now.
    fn hold(&mut self, tide: &Tide) -> rusqlite::Result<()> {
        // Asked before the snapshot is taken: what is answered in between is in it.
        let answered = tide.answered.load(Ordering::SeqCst);
        let may_hold = !tide.is_ebbing.load(Ordering::SeqCst);
        if may_hold && self.held_at == Some(answered) {
            return Ok(());
        }
        self.let_go()?;
        if may_hold {
            self.execute("BEGIN")?;
            self.held_at = Some(answered);
        }
        Ok(())
    }
}

/// What a file's writer tells those who read beside it.
///
/// A snapshot stays good for as long as nothing more was answered, and keeping it
/// saves each read two locks and SQLite its cache. But the log cannot begin anew
/// while anyone looks at it, so none is kept from a checkpoint to the commit after.
#[derive(Default)]
pub struct Tide {
    /// How many times changes were answered.
    answered: AtomicU64,
    /// Whether snapshots are given back at once.
    is_ebbing: AtomicBool,
}

/// What those who ask read with.
pub struct Here {
    shared: Arc<Shared>,
    /// By file.
    tides: Vec<Tide>,
    /// Each with a seat by file; none once the store is closed.
    benches: Vec<Mutex<Option<Vec<Seat>>>>,
    pace: Pace,
}

impl Here {
    /// Opens what is needed for a store of this many files.
    pub fn open(dir: &Path, files: u32, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let seat = |file| -> Result<Seat, OpenError> {
            Ok(Seat {
                connection: file::open_reader(&file::path(dir, file), CACHE_KIB)?,
                held_at: None,
            })
        };
        let bench = |_| -> Result<_, OpenError> {
            let seats = (0..files).map(seat).collect::<Result<_, _>>()?;
            Ok(Mutex::new(Some(seats)))
        };
        Ok(Here {
            shared,
            tides: (0..files).map(|_| Tide::default()).collect(),
            benches: (0..BENCHES).map(bench).collect::<Result<_, _>>()?,
            pace: Pace::default(),
        })
    }

    /// Reads a row; none when it is better read elsewhere.
    pub fn read(
        &self,
        partition: Partition,
        key: &ItemKey,
        part: Part,
    ) -> Option<Result<StoreReply, StoreError>> {
        let unknown = match part {
            Part::Whole => None,
            Part::State => match self.shared.states.get(partition, key) {
                Ok(state) => return Some(Ok(StoreReply::State(Some(state)))),
                Err(unknown) => Some(unknown),
            },
        };
        if !self.pace.allows() {
            return None;
        }
        for bench in &self.benches {
            let mut seats = match bench.try_lock() {
                Ok(seats) => seats,
                // Whoever panicked there left a seat that nobody should trust.
                Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => continue,
            };
            let seats = seats.as_mut()?;
            let file = file_of(partition, seats.len());
            let seat = &mut seats[file as usize];
            let watch = Stopwatch::start();
            // Asked before the snapshot is, see unfiled.rs.
            let place = self.shared.unfiled[file as usize].place(partition, key);
            let reply = match seat.hold(&self.tides[file as usize]) {
                Ok(()) => {
                    let item = (partition, key, place);
                    self.shared.read(&seat.connection, item, part)
                }
                Err(error) => Err(self.shared.meaning(file, &error)),
            };
            self.pace.note(watch.elapsed_ns() / 1_000);
            if let (Some(unknown), Ok(StoreReply::State(Some(state)))) = (unknown, &reply) {
                self.shared.states.learn(&unknown, *state);
            }
            return Some(reply);
        }
        None
    }

    /// Changes of this file are about to be answered.
    pub fn flow(&self, file: u32) {
        let tide = &self.tides[file as usize];
        tide.answered.fetch_add(1, Ordering::SeqCst);
        tide.is_ebbing.store(false, Ordering::SeqCst);
    }

    /// Has everyone let go of what they hold of this file, until the next
    /// [`Here::flow`].
    pub fn ebb(&self, file: u32) {
        self.tides[file as usize]
            .is_ebbing
            .store(true, Ordering::SeqCst);
        self.let_go(file, |_| true);
    }

    /// Has everyone let go of what is good no more. Who has not read since would hold it
    /// for as long as nobody asks, and the log could not be moved beyond it.
    pub fn let_go_of_old(&self, file: u32) {
        let answered = &self.tides[file as usize].answered;
        self.let_go(file, |held_at| held_at != answered.load(Ordering::SeqCst));
    }

    fn let_go(&self, file: u32, which: impl Fn(u64) -> bool) {
        for bench in &self.benches {
            let mut seats = bench.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(seat) = seats
                .as_mut()
                .and_then(|seats| seats.get_mut(file as usize))
            else {
                continue;
            };
            if !seat.held_at.is_some_and(&which) {
                continue;
            }
            if let Err(error) = seat.let_go() {
                tracing::error!(file, %error, "a snapshot did not end");
            }
        }
    }

    /// Reads no more.
    pub fn close(&self) {
        for bench in &self.benches {
            *bench.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_slow_reads_are_borne_and_many_go_elsewhere_for_a_while() {
        let pace = Pace::default();
        for _ in 0..1_000 {
            assert!(pace.allows());
            pace.note(SLOW_US + 1);
            for _ in 0..STRAIN_OF_SLOW {
                assert!(pace.allows());
                pace.note(SLOW_US);
            }
        }
        for _ in 0..MAX_STRAIN / STRAIN_OF_SLOW {
            assert!(pace.allows());
            pace.note(SLOW_US + 1);
        }
        for _ in 0..READS_ELSEWHERE {
            assert!(!pace.allows());
        }
        assert!(pace.allows(), "it is tried again");
    }
}
