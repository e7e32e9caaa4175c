//! The log's writes, joined, and into room that is there.
//!
//! In this layer frames of a log wait in memory until the one that ends their commit is
//! whole: one system call for a commit, where SQLite makes two for each of its pages (a
//! frame's header, then the page). And a log that grows is lengthened by many commits'
//! worth of zeros before it is synced: to sync a file that has grown costs two to three
//! times as much processor time as to sync one that has not, since the file system has
//! its own journal to write then.
//!
//! Promises: the write that ends a commit returns when all that waited was handed to
//! the system, or with the error, and only then does SQLite go on to sync the log and
//! to show others the commit, so that nobody is shown a frame that is not in the
//! file; whatever else is done with a log (reading, syncing, cutting, asking for its
//! length, closing, a write elsewhere) happens after what waits was written. What is
//! written, and in which order, is as SQLite has it; zeros come behind the end of all that
//! was ever written to the log, at most as much as that, and [`MOST_ROOM_BYTES`]. To SQLite
//! they end a log as the end of its file does. No more than [`MOST_BYTES`] wait.
//! A log whose frames are not those of [`PAGE_BYTES`] is left alone.
//!
//! It wants a connection that writes frames at commits only (`cache_spill = OFF`):
//! then no frame is written twice in a transaction, and nothing ever waits while the
//! file's lock is not held, so that what others write to the log (a tool that was
//! pointed at the file) is never written over.

use std::ffi::{c_int, c_void};
use std::slice;

use rusqlite::ffi;

use super::Layer;
use crate::store::sqlite::files::file::PAGE_BYTES;

/// The layer.
pub static LAYER: Layer = Layer::new(c"kinfold", ffi::SQLITE_OPEN_WAL, open, |methods| {
    methods.xClose = Some(close);
    methods.xRead = Some(read);
    methods.xWrite = Some(write);
    methods.xTruncate = Some(truncate);
    methods.xSync = Some(sync);
    methods.xFileSize = Some(file_size);
});

/// How many bytes of one log wait at most; a transaction that is larger is written in
/// parts of this size.
const MOST_BYTES: usize = 31 * FRAME_BYTES;

/// More than this SQLite's own layer does not write at a time.
const _: () = assert!(MOST_BYTES <= 0x1_ffff);

/// How many bytes of zeros one sync takes along: a millisecond or so of a disk.
const MOST_ROOM_BYTES: i64 = 1 << 20;
/// How many of them are written at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What the log itself begins with.
const LOG_HEADER_BYTES: i64 = 32;
/// What each frame begins with; where in it the size is that the database has after
/// the commit, which is zero in all frames but the last of a commit.
const FRAME_HEADER_BYTES: usize = 24;
const SIZE_AFTER_COMMIT: std::ops::Range<usize> = 4..8;
const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES as usize;

/// Frames that wait.
#[derive(Default)]
struct Waiting {
    /// Where the first byte belongs.
    at: i64,
    bytes: Vec<u8>,
    /// Whether the last frame ends a commit.
    ends_commit: bool,
    /// Where what was last written ends.
    written_end: i64,
    /// How long the file is at least, as far as is known.
    room_end: i64,
}

impl Waiting {
    fn end(&self) -> i64 {
        self.at + self.bytes.len() as i64
    }

    /// Whether these bytes are the header of a frame, or a page whose header waits.
    fn takes(&self, bytes: &[u8], at: i64) -> bool {
        let follows = self.bytes.is_empty() || at == self.end();
        let in_frame = (at - LOG_HEADER_BYTES).rem_euclid(FRAME_BYTES as i64) as usize;
        let is_header = in_frame == 0 && bytes.len() == FRAME_HEADER_BYTES;
        let is_page = in_frame == FRAME_HEADER_BYTES
            && bytes.len() == PAGE_BYTES as usize
            && !self.bytes.is_empty();
        follows && at >= LOG_HEADER_BYTES && (is_header || is_page)
    }

    /// Takes what [`Waiting::takes`]. Returns whether all of it is to be written now.
    fn take(&mut self, bytes: &[u8], at: i64) -> bool {
        if self.bytes.is_empty() {
            self.at = at;
        }
        self.bytes.extend_from_slice(bytes);
        if bytes.len() == FRAME_HEADER_BYTES {
            self.ends_commit = bytes[SIZE_AFTER_COMMIT] != [0; 4];
            return false;
        }
        self.ends_commit || self.bytes.len() >= MOST_BYTES
    }
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
    unsafe { LAYER.open((vfs, name, file, flags, out), Waiting::default) }
}

unsafe fn waiting<'f>(file: *mut ffi::sqlite3_file) -> &'f mut Waiting {
    unsafe { LAYER.own(file) }
}

/// Writes what waits. When that fails it is forgotten, as is what SQLite could not
/// write itself: the transaction is rolled back and its frames are made anew.
unsafe fn flush(file: *mut ffi::sqlite3_file) -> c_int {
    let waiting = unsafe { waiting(file) };
    if waiting.bytes.is_empty() {
        return ffi::SQLITE_OK;
    }
    let write = LAYER.usual().xWrite.expect("checked");
    let amount = waiting.bytes.len() as c_int;
    let bytes = waiting.bytes.as_ptr().cast::<c_void>();
    let code = unsafe { write(file, bytes, amount, waiting.at) };
    waiting.written_end = waiting.end();
    waiting.bytes.clear();
    code
}

/// Makes room in a log that has none left. Where there is none to be had SQLite will find
/// that out by itself, when it needs it.
unsafe fn make_room(file: *mut ffi::sqlite3_file) {
    let waiting = unsafe { waiting(file) };
    if waiting.written_end < waiting.room_end {
        return;
    }
    let file_size = LAYER.usual().xFileSize.expect("checked");
    let write = LAYER.usual().xWrite.expect("checked");
    let mut end = 0;
    if unsafe { file_size(file, &raw mut end) } != ffi::SQLITE_OK {
        return;
    }
    waiting.room_end = end;
    if end > waiting.written_end {
        return;
    }
    // Not tried again before as much is written, whatever comes of this.
    let room_end = end + end.min(MOST_ROOM_BYTES);
    waiting.room_end = room_end;
    while end < room_end {
        let amount = (room_end - end).min(ZEROS.len() as i64);
        let zeros = ZEROS.as_ptr().cast::<c_void>();
        if unsafe { write(file, zeros, amount as c_int, end) } != ffi::SQLITE_OK {
            return;
        }
        end += amount;
    }
}

/// What `then` comes to once nothing waits, or why it could not be written.
unsafe fn flushed(file: *mut ffi::sqlite3_file, then: impl FnOnce() -> c_int) -> c_int {
    match unsafe { flush(file) } {
        ffi::SQLITE_OK => then(),
        code => code,
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    amount: c_int,
    at: i64,
) -> c_int {
    unsafe {
        let bytes = slice::from_raw_parts(data.cast::<u8>(), amount as usize);
        if !waiting(file).takes(bytes, at) {
            let code = flush(file);
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
        if !waiting(file).takes(bytes, at) {
            return LAYER.usual().xWrite.expect("checked")(file, data, amount, at);
        }
        if waiting(file).take(bytes, at) {
            flush(file)
        } else {
            ffi::SQLITE_OK
        }
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    amount: c_int,
    at: i64,
) -> c_int {
    let read = LAYER.usual().xRead.expect("checked");
    unsafe { flushed(file, || read(file, into, amount, at)) }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let truncate = LAYER.usual().xTruncate.expect("checked");
    unsafe {
        waiting(file).room_end = 0;
        flushed(file, || truncate(file, size))
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let sync = LAYER.usual().xSync.expect("checked");
    unsafe {
        flushed(file, || {
            make_room(file);
            sync(file, flags)
        })
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    let file_size = LAYER.usual().xFileSize.expect("checked");
    unsafe { flushed(file, || file_size(file, size)) }
}

/// What still waits belongs to no commit. It is written all the same, so that a log is
/// what SQLite makes of it.
unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe {
        let flushed = flush(file);
        match LAYER.close::<Waiting>(file) {
            ffi::SQLITE_OK => flushed,
            code => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(ends_commit: bool) -> Vec<u8> {
        let mut header = vec![1; FRAME_HEADER_BYTES];
        header[SIZE_AFTER_COMMIT].fill(u8::from(ends_commit));
        header
    }

    #[test]
    fn frames_wait_for_the_end_of_their_commit_and_nothing_else_waits() {
        let mut waiting = Waiting::default();
        let page = vec![7; PAGE_BYTES as usize];
        let mut at = LOG_HEADER_BYTES;
        assert!(!waiting.takes(&[0; LOG_HEADER_BYTES as usize], 0));
        assert!(
            !waiting.takes(&page, at + FRAME_HEADER_BYTES as i64),
            "no header"
        );
        for frame in 0..3 {
            let header = header(frame == 2);
            assert!(waiting.takes(&header, at));
            assert!(!waiting.take(&header, at));
            at += header.len() as i64;
            assert!(!waiting.takes(&page[1..], at), "half a page");
            assert!(!waiting.takes(&page, at + FRAME_BYTES as i64), "elsewhere");
            assert!(waiting.takes(&page, at));
            assert_eq!(waiting.take(&page, at), frame == 2);
            at += page.len() as i64;
        }
        assert_eq!(waiting.at, LOG_HEADER_BYTES);
        assert_eq!(waiting.bytes.len(), 3 * FRAME_BYTES);
    }

    #[test]
    fn no_more_than_the_bound_waits() {
        let mut waiting = Waiting::default();
        let page = vec![7; PAGE_BYTES as usize];
        let mut frames = 0;
        loop {
            let at = LOG_HEADER_BYTES + (frames * FRAME_BYTES) as i64;
            assert!(!waiting.take(&header(false), at));
            frames += 1;
            if waiting.take(&page, at + FRAME_HEADER_BYTES as i64) {
                break;
            }
        }
        assert_eq!(frames * FRAME_BYTES, MOST_BYTES);
    }
}
