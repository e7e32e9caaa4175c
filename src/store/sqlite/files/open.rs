//! Opening a store, and bringing it to rest.
//!
//! Promises: a directory is opened by one process at a time; files that are
//! missing, foreign or newer are refused by name, never made anew over what was
//! lost; only a file that is damaged beyond repair is replaced (repair.rs), and the
//! store then says so and has a fresh incarnation; a store whose making was cut short is made again; the mark of a clean
//! end is durable before the first change and after the last.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rusqlite::{Connection, ErrorCode};

use super::file::{self, Kind};
use super::repair::{self, Found};
use crate::protocol::effect::StoreError;
use crate::store::sqlite::unfiled::{self, Bounds, Loaded};

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
    /// Per file: how many rows the index may lack, see unfiled.rs.
    pub max_unfiled_rows: usize,
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
            max_unfiled_rows: unfiled::MAX_ROWS,
            max_file_bytes: None,
            on_failed_commit: None,
        }
    }
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use {path}: {source}; see to the disk and its permissions, then start again")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("{path}: {source}{}", advice(source))]
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
    #[error(
        "{path} is missing, and with it the items that it held: mount or restore it. If it is \
         lost, make an empty file {mark}, and it is begun anew for the peers to fill"
    )]
    Missing { path: PathBuf, mark: PathBuf },
    #[error("{path} belongs to another store than the files beside it")]
    Foreign { path: PathBuf },
    #[error("a store has 1 to {MAX_FILES} files, not {0}")]
    FileCount(u32),
}

/// What to do about an error that came of the disk and not of the data.
fn advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "; nothing was changed: make room, then start again",
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied,
        ) => {
            "; nothing was changed: see to the disk, how it is mounted and to whom the file \
             belongs, then start again"
        }
        _ => "",
    }
}

impl OpenError {
    pub fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        OpenError::Sqlite {
            path: path.to_owned(),
            source,
        }
    }

    pub fn io(path: &Path, source: io::Error) -> Self {
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

/// Every file, in a state that can be served from.
pub struct Opened {
    pub files: Vec<(Connection, Loaded)>,
    /// Whether items are missing that the store once held, and that the peers must
    /// send again.
    pub replaced: bool,
}

/// Opens every file. Those that are damaged beyond repair are replaced by empty
/// ones, see repair.rs.
///
/// Making a store begins and ends with file 0, so one that was cut short is
/// known and made anew: nothing was stored in it yet.
pub fn open_files(options: &Options) -> Result<Opened, OpenError> {
    let dir = &options.data_dir;
    let by_name = repair::files_by_name(dir);
    let mut found = Vec::new();
    for file in 0..by_name.unwrap_or(0) {
        found.push(repair::examine(options, file)?);
    }
    // A store whose only file is empty is one whose making was cut short at once.
    if matches!(found[..], [] | [Found::Empty]) {
        make_first(options)?;
        found = vec![repair::examine(options, 0)?];
    }
    let plan = plan(options, &found)?;
    found.resize_with(plan.files as usize, || Found::Missing);
    check_names(dir, &plan, &found)?;
    let mut forgot = false;
    let mut replace = Vec::new();
    for (found, file) in found.iter().zip(0u32..) {
        let damage = match found {
            Found::Sound { lost, .. } => {
                // Where commits may be lost in any case, peers heal what is lost.
                forgot |= *lost && plan.state != state::OPEN_OS;
                continue;
            }
            Found::Missing | Found::Empty if plan.state == state::MAKING => continue,
            Found::Missing if !file::mark_path(dir, file).exists() => {
                return Err(OpenError::Missing {
                    path: file::path(dir, file),
                    mark: file::mark_path(dir, file),
                });
            }
            Found::Missing => "it was set aside before".to_owned(),
            Found::Empty => "it is empty".to_owned(),
            Found::Damaged(damage) => damage.clone(),
        };
        replace.push((file, damage));
    }
    if forgot || !replace.is_empty() {
        replace_files(options, &mut found, &replace)?;
    }
    let mut files = Vec::new();
    for (found, file) in found.into_iter().zip(0u32..) {
        let numbers = [
            ("store", plan.store),
            ("file", u64::from(file)),
            ("files", u64::from(plan.files)),
            ("incarnation", options.fresh_incarnation),
            ("state", state::OPEN_COMMIT),
            ("replaced", 1),
        ];
        // Only file 0 knows of the store as a whole.
        let numbers = if file == 0 { &numbers } else { &numbers[..3] };
        let (connection, loaded) = match found {
            Found::Sound {
                connection, loaded, ..
            } => (connection, loaded),
            _ => {
                let connection = make(dir, file, options.max_file_bytes, numbers)?;
                let bounds = Bounds {
                    max_rows: options.max_unfiled_rows,
                };
                (connection, Loaded::nothing(bounds))
            }
        };
        // Earlier releases wrote this into file 0 alone, and with it it was lost.
        let sqlite = |source| OpenError::sqlite(&file::path(dir, file), source);
        if file::number(&connection, "files")
            .map_err(sqlite)?
            .is_none()
        {
            file::set_number(&connection, "files", u64::from(plan.files)).map_err(sqlite)?;
        }
        files.push((connection, loaded));
    }
    let first = file::path(dir, 0);
    let sqlite = |source| OpenError::sqlite(&first, source);
    let replaced = file::number(&files[0].0, "replaced").map_err(sqlite)? == Some(1);
    repair::unmark(dir, plan.files)?;
    Ok(Opened { files, replaced })
}

/// What the files say together.
struct Plan {
    store: u64,
    files: u32,
    /// File 0's.
    state: u64,
}

/// Makes file 0, and with it the store.
fn make_first(options: &Options) -> Result<(), OpenError> {
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
    make(&options.data_dir, 0, options.max_file_bytes, &numbers).map(drop)
}

fn make(
    dir: &Path,
    file: u32,
    max_bytes: Option<u64>,
    numbers: &[(&str, u64)],
) -> Result<Connection, OpenError> {
    let path = file::path(dir, file);
    let (connection, kind) = file::open_writer(&path, max_bytes)?;
    assert!(matches!(kind, Kind::Empty), "a file is made where none is");
    file::create(&connection, numbers).map_err(|source| OpenError::sqlite(&path, source))?;
    Ok(connection)
}

/// Finds out which files the store has: from file 0, or from another if that is
/// lost. The last resort are the names: a store whose files know no number was made
/// by an earlier release.
fn plan(options: &Options, found: &[Found]) -> Result<Plan, OpenError> {
    let dir = &options.data_dir;
    let mut sound = found.iter().zip(0u32..);
    let Some((connection, file)) =
        sound.find_map(|(found, file)| Some((found.connection()?, file)))
    else {
        return Ok(Plan {
            store: options.fresh_incarnation,
            files: found.len() as u32,
            state: state::OPEN_COMMIT,
        });
    };
    let path = file::path(dir, file);
    let number = |name| {
        let number = file::number(connection, name);
        number.map_err(|source| OpenError::sqlite(&path, source))
    };
    let foreign = || OpenError::Foreign { path: path.clone() };
    let store = number("store")?.ok_or_else(|| OpenError::NotOurs { path: path.clone() })?;
    let files = match number("files")? {
        None if file > 0 => found.len() as u32,
        files => files
            .and_then(|files| u32::try_from(files).ok())
            .filter(|files| (1..=MAX_FILES).contains(files))
            .ok_or_else(foreign)?,
    };
    if options.files.is_some_and(|wanted| wanted != files) {
        tracing::warn!(
            files,
            "the store was made with this many files and keeps them"
        );
    }
    let state = match file {
        0 => number("state")?.ok_or_else(foreign)?,
        _ => state::OPEN_COMMIT,
    };
    Ok(Plan {
        store,
        files,
        state,
    })
}

/// Whether every sound file is the one of this store that its name says.
fn check_names(dir: &Path, plan: &Plan, found: &[Found]) -> Result<(), OpenError> {
    for (found, file) in found.iter().zip(0u32..) {
        let Some(connection) = found.connection() else {
            continue;
        };
        let path = file::path(dir, file);
        let number = |name| {
            let number = file::number(connection, name);
            number.map_err(|source| OpenError::sqlite(&path, source))
        };
        let named =
            number("store")? == Some(plan.store) && number("file")? == Some(u64::from(file));
        if !named {
            return Err(OpenError::Foreign { path });
        }
    }
    Ok(())
}

/// Takes a fresh incarnation, then sets the damaged files aside.
fn replace_files(
    options: &Options,
    found: &mut [Found],
    replace: &[(u32, String)],
) -> Result<(), OpenError> {
    let dir = &options.data_dir;
    for (file, _) in replace {
        repair::mark(dir, *file).map_err(|source| OpenError::io(dir, source))?;
    }
    if let Some(first) = found[0].connection() {
        let fresh = || {
            let transaction = first.unchecked_transaction()?;
            file::set_number(first, "incarnation", options.fresh_incarnation)?;
            file::set_number(first, "replaced", 1)?;
            transaction.commit()
        };
        fresh().map_err(|source| OpenError::sqlite(&file::path(dir, 0), source))?;
    }
    for (file, damage) in replace {
        found[*file as usize] = Found::Missing;
        repair::set_aside(dir, *file, options.fresh_incarnation, damage)?;
    }
    Ok(())
}

/// One file for every two cores: the other one serves.
fn default_files() -> u32 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, MAX_DEFAULT_FILES) as u32
}

/// What file 0 says once the items that were missing are there again.
pub const REFILLED: (&str, u64) = ("replaced", 0);

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
