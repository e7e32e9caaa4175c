//! What is moved into a database reaches the disk a slice at a time.
//!
//! A checkpoint copies thousands of pages into the system's memory in a moment. When
//! the database is synced then, they all go to the disk at once, and whoever syncs a log
//! meanwhile waits behind them: a tenth of a second in which no write is answered.
//! In this layer each slice that was copied is awaited on the disk before the next.
//!
//! Promises: a database is written as without it; the syncs that SQLite asks for are
//! made by the usual layer. A slice that the disk did not take fails the write, and
//! that as a failed sync: the system forgets what it could not write. Where the system
//! has no such means, the layer does nothing.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::{Connection, ffi};

use super::Layer;

/// The layer.
pub static LAYER: Layer = Layer::new(
    c"kinfold-paced",
    ffi::SQLITE_OPEN_MAIN_DB,
    open,
    |methods| {
        methods.xClose = Some(close);
        methods.xWrite = Some(write);
    },
);

/// How much is copied before the disk is waited for: a log's sync has no more than this
/// before it in the disk's queue, a millisecond or so.
pub const SLICE_BYTES: u64 = 256 * 1024;

/// Brings a range of a file to the disk: its contents, not what is known of the file.
pub type Flush = Box<dyn FnMut(Range<u64>) -> io::Result<()> + Send>;

/// How far a database is.
#[derive(Default)]
struct Pace {
    flush: Option<Flush>,
    /// Written since the last slice.
    written: Option<Range<u64>>,
    written_bytes: u64,
}

impl Pace {
    fn note(&mut self, at: u64, amount: u64) -> io::Result<()> {
        let Some(flush) = &mut self.flush else {
            return Ok(());
        };
        let end = at + amount;
        let written = match &self.written {
            None => at..end,
            Some(range) => range.start.min(at)..range.end.max(end),
        };
        self.written_bytes += amount;
        if self.written_bytes < SLICE_BYTES {
            self.written = Some(written);
            return Ok(());
        }
        (self.written, self.written_bytes) = (None, 0);
        flush(written)
    }
}

/// Has this connection's writes to its database flushed slice by slice. Does nothing for
/// a connection that does not use the layer.
pub fn pace(connection: &mut Connection, flush: Flush) {
    // SAFETY: the layer's own is a `Pace`.
    if let Some(pace) = unsafe { LAYER.of_database::<Pace>(connection) } {
        *pace = Pace {
            flush: Some(flush),
            ..Pace::default()
        };
    }
}

/// Flushes a file by way of this handle of it.
#[cfg(target_os = "linux")]
pub fn by(database: Arc<File>) -> Flush {
    use std::os::fd::AsRawFd;

    let mut can = true;
    Box::new(move |range| {
        let (at, amount) = (range.start.cast_signed(), range.end - range.start);
        let wait_for_all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: the handle is open, and no memory is passed.
        let made = !can
            || unsafe {
                libc::sync_file_range(database.as_raw_fd(), at, amount.cast_signed(), wait_for_all)
            } == 0;
        if made {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EIO | libc::ENOSPC | libc::EDQUOT | libc::ENOMEM) => Err(error),
            // Not every system and file has this. The sync at the end is all there is then.
            _ => {
                can = false;
                Ok(())
            }
        }
    })
}

/// Elsewhere there is no such means.
#[cfg(not(target_os = "linux"))]
pub fn by(_: Arc<File>) -> Flush {
    Box::new(|_| Ok(()))
}

// SAFETY, of all that follows: SQLite calls these with a file that it made as large as
// our layer wants, opens before all else, closes after all else, and uses on one thread
// at a time.

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    unsafe { LAYER.open((vfs, name, file, flags, out), Pace::default) }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    amount: c_int,
    at: i64,
) -> c_int {
    let write = LAYER.usual().xWrite.expect("checked");
    let code = unsafe { write(file, data, amount, at) };
    if code != ffi::SQLITE_OK {
        return code;
    }
    let pace: &mut Pace = unsafe { LAYER.own(file) };
    match pace.note(at.cast_unsigned(), u64::from(amount.cast_unsigned())) {
        Ok(()) => ffi::SQLITE_OK,
        Err(error) => {
            tracing::error!(%error, "the disk did not take what was moved into a database");
            ffi::SQLITE_IOERR_FSYNC
        }
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe { LAYER.close::<Pace>(file) }
}
