//! What becomes of a file that is damaged beyond repair: it is set aside, and an
//! empty one takes its place, which the peers fill.
//!
//! Promises: only damage sets a file aside, and nothing is deleted: a disk that
//! fails, is full, or may not be used ends the opening with an error. The store
//! has a fresh incarnation, durably, before anything is set aside, so that a dot
//! that was forgotten is not minted again; a process that ends amid it goes on
//! with it at the next start; what is missing is not forgotten until it was said
//! to be filled again.
//!
//! How a file comes to be set aside: it is not empty and no database, or SQLite
//! finds it corrupt as it is opened; its newest rows name no items; it is empty although it held items; or it was
//! marked (suspicion.rs), or its log had lost commits (log.rs), and an integrity
//! check finds it damaged. A file that is gone altogether was perhaps not mounted:
//! that ends the opening, unless its mark is there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::file::{self, Kind};
use super::log;
use super::suspicion::is_damage;
use crate::store::sqlite::unfiled::{self, Bounds, FILED_BELOW, Loaded};
use crate::store::sqlite::{MAX_FILES, OpenError, Options};

/// A file of the store as it was found.
pub enum Found {
    /// Not there.
    Missing,
    /// Nothing is in it.
    Empty,
    /// It can be served from. `lost` when commits were lost with its log.
    Sound {
        connection: Connection,
        lost: bool,
        /// What its index lacks.
        loaded: Loaded,
    },
    /// Beyond repair; why.
    Damaged(String),
}

impl Found {
    /// The connection to a sound file.
    pub fn connection(&self) -> Option<&Connection> {
        match self {
            Found::Sound { connection, .. } => Some(connection),
            _ => None,
        }
    }
}

/// The companions of a database, itself first.
fn parts(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| with_suffix(path, suffix))
}

fn aside_suffix(incarnation: u64) -> String {
    format!(".damaged-{incarnation:016x}")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Looks into a file, and checks it if there is reason to.
pub fn examine(options: &Options, file: u32) -> Result<Found, OpenError> {
    let dir = &options.data_dir;
    let path = file::path(dir, file);
    let io_error = |source| OpenError::io(&path, source);
    match fs::metadata(&path) {
        Ok(found) if found.len() == 0 => return Ok(Found::Empty),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(io_error(error)),
    }
    let log = with_suffix(&path, "-wal");
    let log_damage = log::damage(&log).map_err(io_error)?;
    if let Some(damage) = log_damage {
        // SQLite takes what it can from the log and begins it anew.
        let aside = with_suffix(&log, &aside_suffix(options.fresh_incarnation));
        fs::copy(&log, &aside).map_err(io_error)?;
        tracing::error!(
            path = %path.display(),
            aside = %aside.display(),
            damage,
            "the log of a file is damaged, and commits are lost with it; a copy is kept"
        );
    }
    let lost = log_damage.is_some();
    let (connection, kind) = match file::open_writer(&path, options.max_file_bytes) {
        Ok(opened) => opened,
        Err(OpenError::Sqlite { source, .. }) if is_damage(&source) => {
            return Ok(Found::Damaged(source.to_string()));
        }
        Err(error) => return Err(error),
    };
    if let Kind::Empty = kind {
        return Ok(Found::Empty);
    }
    let is_suspect = lost || file::mark_path(dir, file).exists();
    let look = || -> rusqlite::Result<Result<Loaded, String>> {
        if is_suspect {
            tracing::warn!(path = %path.display(), "a file is checked; this reads all of it");
            if let Some(damage) = check(&connection)? {
                return Ok(Err(damage));
            }
        }
        let bounds = Bounds {
            max_rows: options.max_unfiled_rows,
        };
        unfiled::load(&connection, bounds)
    };
    match look() {
        Ok(Ok(loaded)) => Ok(Found::Sound {
            connection,
            lost,
            loaded,
        }),
        Ok(Err(damage)) => Ok(Found::Damaged(damage)),
        Err(error) if is_damage(&error) => Ok(Found::Damaged(error.to_string())),
        Err(error) => Err(OpenError::sqlite(&path, error)),
    }
}

/// The first thing that is wrong with pages or tables, or between the index and the rows.
fn check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let first = connection.query_row("PRAGMA integrity_check(1)", [], |row| {
        row.get::<_, String>(0)
    })?;
    if first != "ok" {
        return Ok(Some(first));
    }
    let led_astray = connection
        .prepare(
            "SELECT 1 FROM places p LEFT JOIN items i ON i.id = p.id
             WHERE i.id IS NULL OR i.partition <> p.partition OR i.key <> p.key",
        )?
        .exists([])?;
    if led_astray {
        return Ok(Some(
            "the index leads to a row that is not the item's".into(),
        ));
    }
    let filed_below = file::number(connection, FILED_BELOW)?.unwrap_or(1);
    let is_lacking = connection
        .prepare(
            "SELECT 1 FROM items i WHERE i.id < ?1 AND NOT EXISTS
                 (SELECT 1 FROM places p WHERE p.partition = i.partition AND p.key = i.key)",
        )?
        .exists([filed_below.cast_signed()])?;
    Ok(is_lacking.then(|| "a row is missing from the index".into()))
}

/// Which files a store has, as their names say, where file 0 cannot.
pub fn files_by_name(dir: &Path) -> Option<u32> {
    let files = (0..MAX_FILES).rev();
    let mut there = files
        .filter(|file| file::path(dir, *file).exists() || file::mark_path(dir, *file).exists());
    there.next().map(|last| last + 1)
}

/// Marks a file, durably, as one to be checked at the next start.
pub fn mark(dir: &Path, file: u32) -> io::Result<()> {
    File::create(file::mark_path(dir, file))?.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Takes the marks away of files that are sound, or were replaced.
pub fn unmark(dir: &Path, files: u32) -> Result<(), OpenError> {
    for file in 0..files {
        let mark = file::mark_path(dir, file);
        match fs::remove_file(&mark) {
            Ok(()) => tracing::info!(mark = %mark.display(), "a file is suspect no longer"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::io(&mark, error)),
        }
    }
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| OpenError::io(dir, error))
}

/// Moves what is left of a file out of the way. It is marked by then, so that an
/// opening that ends here is known to have been at it.
pub fn set_aside(dir: &Path, file: u32, incarnation: u64, damage: &str) -> Result<(), OpenError> {
    let path = file::path(dir, file);
    let aside = with_suffix(&path, &aside_suffix(incarnation));
    // The database first: without it, what is left is known for a remnant.
    for (from, to) in parts(&path).iter().zip(parts(&aside)) {
        match fs::rename(from, to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::io(from, error)),
        }
    }
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| OpenError::io(dir, error))?;
    tracing::error!(
        path = %path.display(),
        aside = %aside.display(),
        damage,
        "a file of the store is beyond repair. It is set aside, and an empty one takes its place \
         for the peers to fill; delete it when the node is whole again"
    );
    Ok(())
}
