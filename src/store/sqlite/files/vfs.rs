//! Layers between SQLite and its files ("VFS"): each does all that the usual one does,
//! by calling it, but for one thing that is done in another way.
//!
//! Promises: a layer that cannot be made here, because SQLite's usual one is not what
//! was expected, is not registered, and its connections use the usual one. A layer only
//! touches the kind of file that it is for.

#![allow(unsafe_code)]

pub mod log_writes;
pub mod paced;

use std::ffi::{CStr, c_int};
use std::path::Path;
use std::sync::OnceLock;

use rusqlite::{Connection, OpenFlags, ffi};

/// What opens a file.
pub type OpenFile = unsafe extern "C" fn(
    *mut ffi::sqlite3_vfs,
    ffi::sqlite3_filename,
    *mut ffi::sqlite3_file,
    c_int,
    *mut c_int,
) -> c_int;

/// What is done with an open file: what the usual layer does, and ours.
struct Methods {
    usual: &'static ffi::sqlite3_io_methods,
    ours: ffi::sqlite3_io_methods,
}

/// A layer. Each is a static: SQLite keeps what it is told for ever.
pub struct Layer {
    /// What SQLite knows it by.
    name: &'static CStr,
    /// Which files it is for: one of `SQLITE_OPEN_…_DB` or `SQLITE_OPEN_WAL`.
    kind: c_int,
    /// Opens a file; it ends in [`Layer::open`].
    open: OpenFile,
    /// Puts its own methods in the place of the usual ones, all of which but the
    /// memory that is shared are there.
    replace: fn(&mut ffi::sqlite3_io_methods),
    usual: OnceLock<Option<Usual>>,
    methods: OnceLock<Option<Methods>>,
}

/// The usual layer.
struct Usual {
    open: OpenFile,
    /// How long its description of an open file is.
    file_bytes: usize,
}

/// What lies behind the usual layer's own description of an open file.
#[repr(C)]
struct Tail<T> {
    own: *mut T,
}

impl Layer {
    /// One that nobody has used yet.
    const fn new(
        name: &'static CStr,
        kind: c_int,
        open: OpenFile,
        replace: fn(&mut ffi::sqlite3_io_methods),
    ) -> Self {
        Layer {
            name,
            kind,
            open,
            replace,
            usual: OnceLock::new(),
            methods: OnceLock::new(),
        }
    }

    /// Opens a connection that uses it, or the usual one where it cannot be had.
    pub fn connect(&self, path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
        if self.usual.get_or_init(|| self.register()).is_some() {
            Connection::open_with_flags_and_vfs(path, flags, self.name)
        } else {
            Connection::open_with_flags(path, flags)
        }
    }

    fn register(&self) -> Option<Usual> {
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
                file_bytes: file_bytes.next_multiple_of(align_of::<Tail<()>>()),
            };
            let ours = ffi::sqlite3_vfs {
                szOsFile: c_int::try_from(usual.file_bytes + size_of::<Tail<()>>()).ok()?,
                pNext: std::ptr::null_mut(),
                zName: self.name.as_ptr(),
                xOpen: Some(self.open),
                ..*found
            };
            let registered = ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 0);
            (registered == ffi::SQLITE_OK).then_some(usual)
        }
    }

    fn known(&self) -> &Usual {
        let usual = self.usual.get().and_then(Option::as_ref);
        usual.expect("SQLite knows the layer from there")
    }

    /// What is done usually.
    fn usual(&self) -> &'static ffi::sqlite3_io_methods {
        let made = self.methods.get().and_then(Option::as_ref);
        made.expect("a file of this layer has its methods by them")
            .usual
    }

    /// The layer's methods, for files whose usual methods are these.
    fn methods(
        &'static self,
        usual: &'static ffi::sqlite3_io_methods,
    ) -> Option<&'static ffi::sqlite3_io_methods> {
        let made = self.methods.get_or_init(|| {
            let is_whole = usual.xClose.is_some()
                && usual.xRead.is_some()
                && usual.xWrite.is_some()
                && usual.xTruncate.is_some()
                && usual.xSync.is_some()
                && usual.xFileSize.is_some();
            if !is_whole {
                return None;
            }
            let mut ours = *usual;
            (self.replace)(&mut ours);
            Some(Methods { usual, ours })
        });
        let made = made.as_ref()?;
        std::ptr::eq(made.usual, usual).then_some(&made.ours)
    }

    /// Opens a file, and gives one of the layer's kind what is its own.
    ///
    /// # Safety
    ///
    /// The arguments are those with which SQLite called the layer's `open`, and the
    /// layer's methods end in [`Layer::close`], with the same `T`.
    unsafe fn open<T>(
        &'static self,
        (vfs, name, file, flags, out): (
            *mut ffi::sqlite3_vfs,
            ffi::sqlite3_filename,
            *mut ffi::sqlite3_file,
            c_int,
            *mut c_int,
        ),
        own: impl FnOnce() -> T,
    ) -> c_int {
        unsafe {
            let code = (self.known().open)(vfs, name, file, flags, out);
            if code != ffi::SQLITE_OK || flags & self.kind == 0 {
                return code;
            }
            let usual = (*file).pMethods.as_ref();
            if let Some(methods) = usual.and_then(|usual| self.methods(usual)) {
                (*self.tail::<T>(file)).own = Box::into_raw(Box::new(own()));
                (*file).pMethods = methods;
            }
            code
        }
    }

    unsafe fn tail<T>(&self, file: *mut ffi::sqlite3_file) -> *mut Tail<T> {
        let at = self.known().file_bytes;
        unsafe { file.cast::<u8>().add(at).cast() }
    }

    /// What is the layer's own of an open file.
    ///
    /// # Safety
    ///
    /// The file was opened by [`Layer::open`] with this `T`, and has the layer's
    /// methods; nobody else has its own at this time.
    unsafe fn own<'f, T>(&self, file: *mut ffi::sqlite3_file) -> &'f mut T {
        unsafe { &mut *(*self.tail::<T>(file)).own }
    }

    /// Closes a file.
    ///
    /// # Safety
    ///
    /// As with [`Layer::own`], and the file is not used any more.
    unsafe fn close<T>(&self, file: *mut ffi::sqlite3_file) -> c_int {
        let close = self.usual().xClose.expect("checked");
        unsafe {
            drop(Box::from_raw((*self.tail::<T>(file)).own));
            close(file)
        }
    }

    /// What is the layer's own of a connection's database, if the connection uses it.
    ///
    /// # Safety
    ///
    /// The layer opens files with this `T`.
    unsafe fn of_database<'c, T>(&self, connection: &'c mut Connection) -> Option<&'c mut T> {
        let made = self.methods.get().and_then(Option::as_ref)?;
        let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
        unsafe {
            let found = ffi::sqlite3_file_control(
                connection.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_FILE_POINTER,
                (&raw mut file).cast(),
            );
            let methods = file.as_ref()?.pMethods;
            let is_ours = found == ffi::SQLITE_OK && std::ptr::eq(methods, &raw const made.ours);
            is_ours.then(|| self.own(file))
        }
    }
}
