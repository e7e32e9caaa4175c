//! Opening a store, and bringing it to rest.
//!
//! Promises: a directory is opened by one process at a time; files that are
//! missing, foreign or newer are refused by name, never made anew over what was
//! lost; a store whose making was cut short is made again; the mark of a clean
//! end is durable before the first change and after the last.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rusqlite::Connection;

use super::file::{self, Kind};
use crate::protocol::effect::StoreError;

/// How many files a store has at most: each costs a thread and, with every
/// reader, a page cache.
pub const MAX_FILES: u32 = 64;

/// How many files a new store gets at most by itself; past this, syncs to one
/// disk are what writers wait for.
const MAX_DEFAULT_FILES: usize = 8;

/// How many changes wait for one file before further ones are refused: a few
/// batches, so that the newest waits for a few syncs.
pub const MAX_QUEUED_CHANGES: usize = 4096;

/// How many bytes of changes wait for one file.
pub const MAX_QUEUED_CHANGE_BYTES: usize = 64 * 1024 * 1024;

/// How many reads wait: at some microseconds each, far less than a timeout.
pub const MAX_QUEUED_READS: usize = 16 * 1024;

/// What a commit is safe against when it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// Loss of power: every commit is synced to the disk.
    #[default]
    Commit,
    /// The end of the process: the operating system has it and writes it out in
    /// its own time.
    Os,
}

/// Told why a file takes no more changes; see writer.rs.
pub type OnFailedCommit = Arc<dyn Fn(&StoreError) + Send + Sync>;

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// The directory that holds the files; made if it is not there.
    pub data_dir: PathBuf,
    /// Into how many files a new store is cut, `1..=MAX_FILES`; by default one
    /// for every two cores, at most eight. A store keeps its number for life.
    pub files: Option<u32>,
    pub durability: Durability,
    /// Freshly thrown dice: the incarnation if the store is new or has to
    /// renew it.
    pub fresh_incarnation: u64,
    /// Per file.
    pub max_queued_changes: usize,
    /// Per file.
    pub max_queued_change_bytes: usize,
    pub max_queued_reads: usize,
    /// Changes that would make a file larger are answered
    /// [`StoreError::Full`].
    pub max_file_bytes: Option<u64>,
    /// Called on a store's thread when a sync failed, before anyone is answered.
    /// A server that wants its supervisor to start it again ends here.
    pub on_failed_commit: Option<OnFailedCommit>,
}

impl Options {
    /// The usual options.
    pub fn new(data_dir: impl Into<PathBuf>, fresh_incarnation: u64) -> Self {
        Options {
            data_dir: data_dir.into(),
            files: None,
            durability: Durability::Commit,
            fresh_incarnation,
            max_queued_changes: MAX_QUEUED_CHANGES,
            max_queued_change_bytes: MAX_QUEUED_CHANGE_BYTES,
            max_queued_reads: MAX_QUEUED_READS,
            max_file_bytes: None,
            on_failed_commit: None,
        }
    }
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("{path}: {source}")]
    Sqlite {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("{path} is a database of something else")]
    NotOurs { path: PathBuf },
    #[error(
        "{path} was written by a later release (schema {found}; this one knows {known}); start that release"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("{path} is missing or empty, and with it the items that it held; restore it")]
    Missing { path: PathBuf },
    #[error("{path} belongs to another store than the files beside it")]
    Foreign { path: PathBuf },
    #[error("a store has 1 to {MAX_FILES} files, not {0}")]
    FileCount(u32),
}

impl OpenError {
    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        OpenError::Sqlite {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        OpenError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// What `store.state` says in file 0.
mod state {
    /// Not all files are made yet: no item was ever taken.
    pub const MAKING: u64 = 0;
    /// Closed in order.
    pub const CLEAN: u64 = 1;
    /// Open, every commit synced.
    pub const OPEN_COMMIT: u64 = 2;
    /// Open, commits may be lost with the power.
    pub const OPEN_OS: u64 = 3;
}

/// Makes and locks the directory.
pub fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::io(dir, source);
    let made = !dir.exists();
    std::fs::create_dir_all(dir).map_err(failed)?;
    let path = dir.join("lock");
    let lock = File::create(&path).map_err(|source| OpenError::io(&path, source))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.into() }),
        Err(TryLockError::Error(source)) => return Err(OpenError::io(&path, source)),
    }
    // A store in a directory that is lost with the power is lost too. SQLite
    // sees to what lies in it.
    if made && let Some(parent) = dir.canonicalize().map_err(failed)?.parent() {
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(|source| OpenError::io(parent, source))?;
    }
    Ok(lock)
}

/// Opens every file, in a state that can be served from.
///
/// Making a store begins and ends with file 0, so one that was cut short is
/// known and made anew: nothing was stored in it yet.
pub fn open_files(options: &Options) -> Result<Vec<Connection>, OpenError> {
    let dir = &options.data_dir;
    let first = file::path(dir, 0);
    let sqlite = |source| OpenError::sqlite(&first, source);
    let others = (1..MAX_FILES).any(|file| file::path(dir, file).exists());
    if others && !first.exists() {
        return Err(OpenError::Missing { path: first });
    }
    let (connection, kind) = file::open_writer(&first, options.max_file_bytes)?;
    if let Kind::Empty = kind {
        if others {
            return Err(OpenError::Missing { path: first });
        }
        let files = options.files.unwrap_or_else(default_files);
        if !(1..=MAX_FILES).contains(&files) {
            return Err(OpenError::FileCount(files));
        }
        let numbers = [
            ("store", options.fresh_incarnation),
            ("file", 0),
            ("files", u64::from(files)),
            ("incarnation", options.fresh_incarnation),
            ("state", state::MAKING),
        ];
        file::create(&connection, &numbers).map_err(sqlite)?;
    }
    let number = |name| {
        let number = file::number(&connection, name).map_err(sqlite)?;
        number.ok_or_else(|| OpenError::NotOurs {
            path: first.clone(),
        })
    };
    let (store, making) = (number("store")?, number("state")? == state::MAKING);
    let recorded = number("files")?;
    let files = u32::try_from(recorded)
        .ok()
        .filter(|files| (1..=MAX_FILES).contains(files) && number("file").is_ok_and(|n| n == 0))
        .ok_or_else(|| OpenError::Foreign {
            path: first.clone(),
        })?;
    if options.files.is_some_and(|wanted| wanted != files) {
        tracing::warn!(
            files,
            "the store was made with this many files and keeps them"
        );
    }
    let mut connections = vec![connection];
    for file in 1..files {
        let path = file::path(dir, file);
        if !making && !path.exists() {
            return Err(OpenError::Missing { path });
        }
        let (connection, kind) = file::open_writer(&path, options.max_file_bytes)?;
        let sqlite = |source| OpenError::sqlite(&path, source);
        match kind {
            Kind::Empty if making => {
                let numbers = [("store", store), ("file", u64::from(file))];
                file::create(&connection, &numbers).map_err(sqlite)?;
            }
            Kind::Empty => return Err(OpenError::Missing { path }),
            Kind::Ours => {
                let number = |name| file::number(&connection, name).map_err(sqlite);
                if number("store")? != Some(store) || number("file")? != Some(u64::from(file)) {
                    return Err(OpenError::Foreign { path });
                }
            }
        }
        connections.push(connection);
    }
    Ok(connections)
}

/// One file for every two cores: the other one serves.
fn default_files() -> u32 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, MAX_DEFAULT_FILES) as u32
}

/// Notes durably that the store is open and how; returns its incarnation.
pub fn wake(first: &Connection, options: &Options) -> rusqlite::Result<u64> {
    let transaction = first.unchecked_transaction()?;
    let recorded = file::number(first, "incarnation")?;
    // Commits may have been lost if the last run did not sync them and did not
    // end in order. How this run will sync does not matter.
    let forgetful = file::number(first, "state")? == Some(state::OPEN_OS);
    let incarnation = match recorded {
        Some(incarnation) if !forgetful => incarnation,
        _ => options.fresh_incarnation,
    };
    file::set_number(first, "incarnation", incarnation)?;
    let open = match options.durability {
        Durability::Commit => state::OPEN_COMMIT,
        Durability::Os => state::OPEN_OS,
    };
    file::set_number(first, "state", open)?;
    transaction.commit()?;
    Ok(incarnation)
}

/// Brings the files to rest and marks the end as clean, after everything that
/// the mark vouches for is synced.
pub fn rest(connections: &[Connection]) -> rusqlite::Result<()> {
    for connection in connections {
        file::checkpoint(connection, true)?;
    }
    let first = &connections[0];
    file::set_durability(first, Durability::Commit)?;
    file::set_number(first, "state", state::CLEAN)?;
    file::checkpoint(first, true).map(drop)
}
