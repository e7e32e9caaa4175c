//! Compiled code on disk, so that a restart does not compile again.
//!
//! A file is named by the module's digest and by what the engine's compiled code
//! depends on (its version, settings and processor):
//!
//! ```text
//! ┌──────────┬─────────────────────────────┬─────────────────────────────────┐
//! │ kfcode 1 │ SHA-256 of name and code    │ code, as wasmtime serialised it │
//! │ 8 bytes  │ 32 bytes                    │                                 │
//! └──────────┴─────────────────────────────┴─────────────────────────────────┘
//! ```
//!
//! Promises: what comes back is, bit for bit, what this node's compiler made of
//! that module; anything else (cut short, flipped bits, another module's file,
//! an old engine's, one that others may write) counts as absent, and the module
//! is compiled again. Losing the folder costs time and nothing else.
//!
//! **Why it may be trusted.** Running deserialised code is running code: wasmtime
//! does not verify it. So nothing but [`CodeCache::put`] makes these files, and
//! only of code that this process just compiled; no byte of them comes from a
//! peer, a client or a backup. Folder and files are the server's own (0700,
//! 0600), and a file that someone else may write is not read. Who can write
//! there all the same can write the server's database and binary, and needs no
//! cache. The checksum is against bad disks, not against people.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::protocol::catalog::Digest;

const MAGIC: &[u8; 8] = b"kfcode\0\x01";
const HEADER_BYTES: usize = 8 + 32;

/// A folder of compiled code.
pub(super) struct CodeCache {
    folder: PathBuf,
    /// What the code depends on beside the module, as sixteen hex digits.
    engine: String,
}

impl CodeCache {
    /// Uses the folder, making it if need be.
    pub fn open(folder: PathBuf, engine: &Engine) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(CodeCache {
            folder,
            engine: engine_fingerprint(engine),
        })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{}.code", self.name(digest)))
    }

    fn name(&self, digest: Digest) -> String {
        let hex = digest.to_string().replace("sha256:", "");
        format!("{hex}-{}", self.engine)
    }

    fn checksum(&self, digest: Digest, code: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.name(digest).as_bytes());
        hash.update(code);
        hash.finalize().into()
    }

    /// The compiled form of a module, if it is here and whole.
    pub fn get(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let path = self.path(digest);
        let bytes = match read_own(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code is not readable; compiling again");
                return None;
            }
        };
        let code = bytes.get(HEADER_BYTES..).filter(|code| {
            bytes.starts_with(MAGIC) && bytes[8..HEADER_BYTES] == self.checksum(digest, code)
        });
        let Some(code) = code else {
            tracing::warn!(path = %path.display(), "compiled code is damaged; compiling again");
            return None;
        };
        // SAFETY: these are the bytes that `put` wrote, by the checksum, into a
        // file that nobody else may write; and `put` writes only what
        // `Component::serialize` gave. See the head of this file.
        #[allow(unsafe_code)]
        let loaded = unsafe { Component::deserialize(engine, code) };
        match loaded {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code does not load; compiling again");
                None
            }
        }
    }

    /// Keeps what was just compiled of a module. It is no harm if that fails.
    pub fn put(&self, digest: Digest, component: &Component) {
        if let Err(error) = self.try_put(digest, component) {
            tracing::warn!(folder = %self.folder.display(), %error, "compiled code is not kept");
        }
    }

    fn try_put(&self, digest: Digest, component: &Component) -> io::Result<()> {
        let code = component.serialize().map_err(io::Error::other)?;
        // Made with 0600 by tempfile, and renamed, so that a reader sees all of
        // it or none. Not fsynced: after a crash the checksum decides.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(MAGIC)?;
        file.write_all(&self.checksum(digest, &code))?;
        file.write_all(&code)?;
        file.persist(self.path(digest))
            .map_err(|error| error.error)?;
        Ok(())
    }
}

/// Reads a file that only its owner may write.
fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if fs::metadata(path)?.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "others may write it",
            ));
        }
    }
    Ok(bytes)
}

/// What compiled code depends on beside the module: wasmtime's own hash of
/// version, settings and processor features.
fn engine_fingerprint(engine: &Engine) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
