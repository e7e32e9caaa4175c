//! One SQLite file: its schema, how connections to it are set, and what its
//! errors mean.
//!
//! Schema 2 of `items-NN.db`:
//!
//! ```text
//! items(id, partition, key, row)        rows, see row.rs; an id is never given twice
//! places(partition, key, id)            the index of their keys; it lacks the newest
//!                                       rows, see unfiled.rs
//! hints(sequence, target, partition, key)
//!                                       an item held for another node; adding
//!                                       one again gives it a new sequence
//! meta(name, bytes)                     the node's records; file 0 only
//! store(name, number)                   what the store knows of itself
//! ```
//!
//! Items lie in a rowid table in the order in which they came: for 1 KB values that
//! is several times cheaper than `WITHOUT ROWID`, whose inner pages carry whole
//! rows (benches/store.rs measures both). The index is a table of its own, because
//! SQLite keeps one of its own making up to date with every row.
//!
//! Schema 1 had `items_by_key`, an index of SQLite's on (partition, key), in its place.
//!
//! 64-bit unsigned numbers are stored as the signed ones with the same bits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ffi};

use super::vfs::{log_writes, paced};
use crate::protocol::effect::StoreError;
use crate::store::sqlite::{Durability, OpenError};

/// The schema that this code writes; older ones are migrated at open.
pub const SCHEMA_VERSION: i64 = 2;

/// Marks a database as one of ours: `knfd`.
const APPLICATION_ID: i64 = 0x6b6e_6664;

/// Four rows of 1 KB fit a page, and a page is what an update rewrites; it is
/// also the page of most file systems and disks.
pub const PAGE_BYTES: u64 = 4096;

/// Page cache of a writer: the inner pages of a table and index of some ten
/// million rows.
const WRITER_CACHE_KIB: i64 = 4 * 1024;

/// Page cache of each reader of each file. Small, because a reader's cache is
/// void after every commit; the system's page cache serves what it misses.
pub const READER_CACHE_KIB: i64 = 2 * 1024;

/// How far the log file is cut back after a checkpoint.
const MAX_LOG_BYTES: u64 = 64 * 1024 * 1024;

/// How long to wait for someone else's lock on a file. Only a tool that was
/// pointed at the file can hold one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
    CREATE TABLE items(
        id INTEGER PRIMARY KEY,
        partition INTEGER NOT NULL,
        key BLOB NOT NULL,
        row BLOB NOT NULL);
    CREATE TABLE places(
        partition INTEGER NOT NULL,
        key BLOB NOT NULL,
        id INTEGER NOT NULL,
        PRIMARY KEY(partition, key)) WITHOUT ROWID;
    CREATE TABLE hints(
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        target INTEGER NOT NULL,
        partition INTEGER NOT NULL,
        key BLOB NOT NULL,
        UNIQUE(partition, key, target));
    CREATE INDEX hints_by_target ON hints(target);
    CREATE TABLE meta(name TEXT PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE store(name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
";

/// Makes schema 2 of schema 1.
const MIGRATION: &str = "
    CREATE TABLE places(
        partition INTEGER NOT NULL,
        key BLOB NOT NULL,
        id INTEGER NOT NULL,
        PRIMARY KEY(partition, key)) WITHOUT ROWID;
    INSERT OR IGNORE INTO places SELECT partition, key, id FROM items INDEXED BY items_by_key
        ORDER BY partition, key;
    DROP INDEX items_by_key;
    INSERT INTO store(name, number)
        SELECT 'filed_below', ifnull(max(id), 0) + 1 FROM items;
    PRAGMA user_version = 2;
";

/// The name of a file of the store.
pub fn path(data_dir: &Path, file: u32) -> PathBuf {
    data_dir.join(format!("items-{file:02}.db"))
}

/// Where SQLite keeps the log of a file of the store.
pub fn log_path(data_dir: &Path, file: u32) -> PathBuf {
    data_dir.join(format!("items-{file:02}.db-wal"))
}

/// What marks a file of the store as suspect, see suspicion.rs.
pub fn mark_path(data_dir: &Path, file: u32) -> PathBuf {
    data_dir.join(format!("items-{file:02}.suspect"))
}

/// What a file turned out to be.
pub enum Kind {
    /// Nothing is in it yet.
    Empty,
    /// One of ours, of this schema.
    Ours,
    /// One of ours, of an earlier schema.
    Older,
}

/// Opens the one connection that writes to a file; makes the file if need be, and brings
/// one of an earlier schema to this one.
///
/// It syncs every commit, whatever the store's durability: see [`set_durability`].
pub fn open_writer(path: &Path, max_bytes: Option<u64>) -> Result<(Connection, Kind), OpenError> {
    let sqlite = |source| OpenError::sqlite(path, source);
    let connection = log_writes::LAYER.connect(path, OpenFlags::default());
    let connection = connection.map_err(sqlite)?;
    let mut kind = kind(&connection, path)?;
    set_up(&connection).map_err(sqlite)?;
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {PAGE_BYTES};
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA journal_size_limit = {MAX_LOG_BYTES};
             PRAGMA cache_size = -{WRITER_CACHE_KIB};
             PRAGMA cache_spill = OFF;
             PRAGMA cell_size_check = ON;
             PRAGMA trusted_schema = OFF;"
        ))
        .map_err(sqlite)?;
    if let Some(max_bytes) = max_bytes {
        let pages = (max_bytes / PAGE_BYTES).max(1);
        connection
            .execute_batch(&format!("PRAGMA max_page_count = {pages}"))
            .map_err(sqlite)?;
    }
    if let Kind::Older = kind {
        migrate(&connection, path).map_err(sqlite)?;
        kind = Kind::Ours;
    }
    Ok((connection, kind))
}

/// Opens a connection that only reads, to a file that is open for writing, with a page
/// cache of at most this size.
pub fn open_reader(path: &Path, cache_kib: i64) -> Result<Connection, OpenError> {
    let sqlite = |source| OpenError::sqlite(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    set_up(&connection).map_err(sqlite)?;
    connection
        .execute_batch(&format!(
            "PRAGMA cache_size = -{cache_kib};
             PRAGMA cell_size_check = ON;
             PRAGMA trusted_schema = OFF;"
        ))
        .map_err(sqlite)?;
    Ok(connection)
}

/// Opens a connection that moves the log of a file into it, while another one writes.
pub fn open_mover(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |source| OpenError::sqlite(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = paced::LAYER.connect(path, flags).map_err(sqlite)?;
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA trusted_schema = OFF;",
        )
        .map_err(sqlite)?;
    Ok(connection)
}

/// What holds for every connection that is asked the same again and again.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // One plan for each statement. Otherwise SQLite compiles a join anew whenever other
    // values are bound to it, which costs more than the join.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
}

fn kind(connection: &Connection, path: &Path) -> Result<Kind, OpenError> {
    let number = |sql: &str| -> Result<i64, OpenError> {
        connection
            .query_row(sql, [], |row| row.get(0))
            .map_err(|source| OpenError::sqlite(path, source))
    };
    let version = number("PRAGMA user_version")?;
    match number("PRAGMA application_id")? {
        APPLICATION_ID if version > SCHEMA_VERSION => Err(OpenError::Newer {
            path: path.to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        }),
        APPLICATION_ID if version < SCHEMA_VERSION => Ok(Kind::Older),
        APPLICATION_ID => Ok(Kind::Ours),
        0 if number("SELECT count(*) FROM sqlite_schema")? == 0 => Ok(Kind::Empty),
        _ => Err(OpenError::NotOurs {
            path: path.to_owned(),
        }),
    }
}

/// Brings a file of schema 1 to this one, in one transaction.
fn migrate(connection: &Connection, path: &Path) -> rusqlite::Result<()> {
    tracing::warn!(
        path = %path.display(),
        "the index of a file is made anew, as this release has it; this takes some seconds for \
         each million items"
    );
    // The index of a large file does not fit the cache.
    connection.execute_batch("PRAGMA cache_spill = ON")?;
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(MIGRATION)?;
    transaction.commit()?;
    checkpoint(connection, true)?;
    connection.execute_batch("PRAGMA cache_spill = OFF")
}

/// Makes the tables and the first numbers of an empty file, in one transaction.
pub fn create(connection: &Connection, numbers: &[(&str, u64)]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
    ))?;
    for (name, value) in numbers {
        set_number(&transaction, name, *value)?;
    }
    transaction.commit()
}

/// Sets whether every commit is synced.
pub fn set_durability(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    connection.execute_batch(match durability {
        Durability::Commit => "PRAGMA synchronous = FULL",
        Durability::Os => "PRAGMA synchronous = NORMAL",
    })
}

/// A number that the store keeps for itself.
pub fn number(connection: &Connection, name: &str) -> rusqlite::Result<Option<u64>> {
    connection
        .query_row("SELECT number FROM store WHERE name = ?1", [name], |row| {
            row.get::<_, i64>(0)
        })
        .optional()
        .map(|number| number.map(i64::cast_unsigned))
}

/// Keeps a number.
pub fn set_number(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO store(name, number) VALUES(?1, ?2)
             ON CONFLICT(name) DO UPDATE SET number = excluded.number",
            (name, value.cast_signed()),
        )
        .map(drop)
}

/// How far a checkpoint came.
pub struct Checkpoint {
    /// Pages that still wait in the log for the next one.
    pub left_pages: u64,
}

/// Moves what the log holds into the database file. `cut` waits for readers and
/// empties the log as well.
pub fn checkpoint(connection: &Connection, cut: bool) -> rusqlite::Result<Checkpoint> {
    let sql = if cut {
        "PRAGMA wal_checkpoint(TRUNCATE)"
    } else {
        "PRAGMA wal_checkpoint(PASSIVE)"
    };
    connection.query_row(sql, [], |row| {
        let (logged, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(Checkpoint {
            left_pages: (logged - moved).max(0).cast_unsigned(),
        })
    })
}

/// What an error of SQLite's means to those who asked.
pub fn meaning(error: &rusqlite::Error) -> StoreError {
    // The index of the log grows with it; SQLite calls it an I/O error when there
    // is no room for that.
    let extended = error.sqlite_error().map(|error| error.extended_code);
    if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) {
        return StoreError::Full;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt(error.to_string())
        }
        // Nothing happened yet when a lock was not had.
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Overloaded,
        _ => StoreError::Io(error.to_string()),
    }
}

/// Whether the error says that the disk did not take a sync: what the system
/// still holds in memory may be lost although a second sync would succeed.
pub fn is_failed_sync(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        matches!(
            error.extended_code,
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC
        )
    })
}
