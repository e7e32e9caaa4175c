//! The log's writes, joined: one system call for a commit, where SQLite makes two for
//! each of its pages (a frame's header, then the page).
//!
//! This is a file layer of SQLite's ("VFS") that does all that the usual one does, by
//! calling it, except that frames of a log wait in memory until the one that ends
//! their commit is whole.
//!
//! Promises: the write that ends a commit returns when all that waited was handed to
//! the system, or with the error, and only then does SQLite go on to sync the log and
//! to show others the commit, so that nobody is shown a frame that is not in the
//! file; whatever else is done with a log (reading, syncing, cutting, asking for its
//! length, closing, a write elsewhere) happens after what waits was written. What is
//! written, and in which order, is as SQLite has it. No more than [`MOST_BYTES`] wait.
//! A log whose frames are not those of [`PAGE_BYTES`] is left alone.
//!
//! It wants a connection that writes frames at commits only (`cache_spill = OFF`):
//! then no frame is written twice in a transaction, and nothing ever waits while the
//! file's lock is not held, so that what others write to the log (a tool that was
//! pointed at the file) is never written over.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::slice;
use std::sync::OnceLock;

use rusqlite::ffi;

use super::file::PAGE_BYTES;

/// What SQLite knows this layer by.
pub const NAME: &CStr = c"kinfold";

/// How many bytes of one log wait at most; a transaction that is larger is written in
/// parts of this size.
const MOST_BYTES: usize = 31 * FRAME_BYTES;

/// More than this SQLite's own layer does not write at a time.
const _: () = assert!(MOST_BYTES <= 0x1_ffff);

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

/// What lies behind the usual layer's own description of an open log.
#[repr(C)]
struct Tail {
    waiting: *mut Waiting,
}

/// The usual layer.
struct Usual {
    open: unsafe extern "C" fn(
        *mut ffi::sqlite3_vfs,
        ffi::sqlite3_filename,
        *mut ffi::sqlite3_file,
        c_int,
        *mut c_int,
    ) -> c_int,
    /// How long its description of an open file is.
    file_bytes: usize,
}

/// What is done with a log: what the usual layer does, and ours.
struct Methods {
    usual: &'static ffi::sqlite3_io_methods,
    ours: ffi::sqlite3_io_methods,
}

static USUAL: OnceLock<Option<Usual>> = OnceLock::new();
static METHODS: OnceLock<Option<Methods>> = OnceLock::new();

/// Makes the layer known to SQLite; false when this SQLite has no layer that could be
/// built upon, and the usual one is to be used.
pub fn register() -> bool {
    USUAL.get_or_init(make).is_some()
}

fn make() -> Option<Usual> {
    // SAFETY: SQLite's default layer is never taken away, and copying its description
    // is how one is built upon another. Ours lives for ever, as SQLite demands.
    unsafe {
        if ffi::sqlite3_initialize() != ffi::SQLITE_OK {
            return None;
        }
        let found = ffi::sqlite3_vfs_find(std::ptr::null()).as_ref()?;
        let file_bytes = usize::try_from(found.szOsFile).ok()?;
        let usual = Usual {
            open: found.xOpen?,
            file_bytes: file_bytes.next_multiple_of(align_of::<Tail>()),
        };
        let ours = ffi::sqlite3_vfs {
            szOsFile: c_int::try_from(usual.file_bytes + size_of::<Tail>()).ok()?,
            pNext: std::ptr::null_mut(),
            zName: NAME.as_ptr(),
            xOpen: Some(open),
            ..*found
        };
        let registered = ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 0);
        (registered == ffi::SQLITE_OK).then_some(usual)
    }
}

/// The usual methods and ours, for logs whose usual methods are these.
fn methods(usual: &'static ffi::sqlite3_io_methods) -> Option<&'static Methods> {
    let made = METHODS.get_or_init(|| {
        let is_whole = usual.xClose.is_some()
            && usual.xRead.is_some()
            && usual.xWrite.is_some()
            && usual.xTruncate.is_some()
            && usual.xSync.is_some()
            && usual.xFileSize.is_some();
        if !is_whole {
            return None;
        }
        let ours = ffi::sqlite3_io_methods {
            xClose: Some(close),
            xRead: Some(read),
            xWrite: Some(write),
            xTruncate: Some(truncate),
            xSync: Some(sync),
            xFileSize: Some(file_size),
            ..*usual
        };
        Some(Methods { usual, ours })
    });
    let made = made.as_ref()?;
    std::ptr::eq(made.usual, usual).then_some(made)
}

// SAFETY, of all that follows: SQLite calls these with a file that it made as large as
// our layer wants, opens before all else, closes after all else, and uses on one thread
// at a time. `tail` is set by `open` before our methods are, and valid until `close`.

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let usual = USUAL.get().and_then(Option::as_ref);
    let usual = usual.expect("SQLite knows the layer from there");
    unsafe {
        let code = (usual.open)(vfs, name, file, flags, out);
        if code != ffi::SQLITE_OK || flags & ffi::SQLITE_OPEN_WAL == 0 {
            return code;
        }
        if let Some(methods) = (*file).pMethods.as_ref().and_then(|usual| methods(usual)) {
            tail(file).waiting = Box::into_raw(Box::default());
            (*file).pMethods = &methods.ours;
        }
        code
    }
}

unsafe fn tail<'f>(file: *mut ffi::sqlite3_file) -> &'f mut Tail {
    let usual = USUAL.get().and_then(Option::as_ref);
    let at = usual.expect("the file is one of this layer's").file_bytes;
    unsafe { &mut *file.cast::<u8>().add(at).cast::<Tail>() }
}

unsafe fn waiting<'f>(file: *mut ffi::sqlite3_file) -> &'f mut Waiting {
    unsafe { &mut *tail(file).waiting }
}

fn usual() -> &'static ffi::sqlite3_io_methods {
    let made = METHODS.get().and_then(Option::as_ref);
    made.expect("a log has our methods by them").usual
}

/// Writes what waits. When that fails it is forgotten, as is what SQLite could not
/// write itself: the transaction is rolled back and its frames are made anew.
unsafe fn flush(file: *mut ffi::sqlite3_file) -> c_int {
    let waiting = unsafe { waiting(file) };
    if waiting.bytes.is_empty() {
        return ffi::SQLITE_OK;
    }
    let write = usual().xWrite.expect("checked");
    let amount = waiting.bytes.len() as c_int;
    let bytes = waiting.bytes.as_ptr().cast::<c_void>();
    let code = unsafe { write(file, bytes, amount, waiting.at) };
    waiting.bytes.clear();
    code
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
            return usual().xWrite.expect("checked")(file, data, amount, at);
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
    let read = usual().xRead.expect("checked");
    unsafe { flushed(file, || read(file, into, amount, at)) }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let truncate = usual().xTruncate.expect("checked");
    unsafe { flushed(file, || truncate(file, size)) }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let sync = usual().xSync.expect("checked");
    unsafe { flushed(file, || sync(file, flags)) }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    let file_size = usual().xFileSize.expect("checked");
    unsafe { flushed(file, || file_size(file, size)) }
}

/// What still waits belongs to no commit. It is written all the same, so that a log is
/// what SQLite makes of it.
unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let close = usual().xClose.expect("checked");
    unsafe {
        let flushed = flush(file);
        drop(Box::from_raw(tail(file).waiting));
        match close(file) {
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
