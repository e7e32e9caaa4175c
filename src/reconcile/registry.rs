//! Where the bytes of modules live on this node, and what an upload must pass.
//!
//! A folder with one file for each module, named by its digest. Promises: what
//! is read has the digest that it is asked for by, or is reported as damaged;
//! what was kept survives a crash; the built-ins are always there and need no
//! file. Not promised: that a file is ever deleted; a rollback may want it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::laws::{self, Counterexample, Samples, Settings, Verdict};
use super::wasm::{InvalidModule, Loaded, MAX_MODULE_BYTES, Sandbox};
use crate::protocol::catalog::{Digest, Lawfulness, ModuleInfo};

/// The modules that are compiled into the server, by the names that they go by.
static BUILT_INS: &[(&str, &[u8])] = &[
    (
        "cart-union",
        include_bytes!("../../reconcilers/prebuilt/cart-union.wasm"),
    ),
    ("lww", include_bytes!("../../reconcilers/prebuilt/lww.wasm")),
    (
        "lww-map",
        include_bytes!("../../reconcilers/prebuilt/lww-map.wasm"),
    ),
    (
        "or-cart",
        include_bytes!("../../reconcilers/prebuilt/or-cart.wasm"),
    ),
    (
        "or-set",
        include_bytes!("../../reconcilers/prebuilt/or-set.wasm"),
    ),
    (
        "pn-counter",
        include_bytes!("../../reconcilers/prebuilt/pn-counter.wasm"),
    ),
];

/// Their digests, in the same order.
static BUILT_IN_DIGESTS: LazyLock<Vec<Digest>> = LazyLock::new(|| {
    BUILT_INS
        .iter()
        .map(|(_, bytes)| Digest::of(bytes))
        .collect()
});

/// The modules that are compiled into the server: name and bytes.
pub fn built_ins() -> &'static [(&'static str, &'static [u8])] {
    BUILT_INS
}

/// The bytes of a built-in.
fn built_in(digest: Digest) -> Option<&'static [u8]> {
    let index = BUILT_IN_DIGESTS.iter().position(|known| *known == digest)?;
    Some(BUILT_INS[index].1)
}

/// Why the bytes of a module cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the modules' folder fails at {path}")]
    Io { path: PathBuf, source: io::Error },
    /// On disk, or on the way here.
    #[error("the bytes are not those of {expected}: they have {found}")]
    Damaged { expected: Digest, found: Digest },
    #[error("the module has {size} bytes, more than the {limit} that are taken")]
    TooLarge { size: u64, limit: u64 },
}

/// Why an upload is not taken.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// 422 `invalid_module`.
    #[error(transparent)]
    Invalid(#[from] InvalidModule),
    /// 422 `law_violated`.
    #[error("the module is not lawful; {0}")]
    Unlawful(Box<Counterexample>),
}

/// Why a module that should be here does not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Invalid(#[from] InvalidModule),
    #[error("{0} is not on this node")]
    Absent(Digest),
}

/// What is known of an upload that was taken.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub info: ModuleInfo,
    pub verdict: Verdict,
}

/// The modules of this node.
pub struct Registry {
    folder: PathBuf,
    sandbox: Arc<Sandbox>,
}

impl Registry {
    /// Uses the folder, making it if need be.
    pub fn open(folder: PathBuf, sandbox: Arc<Sandbox>) -> Result<Self, RegistryError> {
        fs::create_dir_all(&folder).map_err(|source| RegistryError::Io {
            path: folder.clone(),
            source,
        })?;
        Ok(Registry { folder, sandbox })
    }

    /// Where its modules are run.
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_string().replace("sha256:", "");
        self.folder.join(format!("{hex}.wasm"))
    }

    /// Whether the module is here. Looks, does not read.
    pub fn has(&self, digest: Digest) -> bool {
        built_in(digest).is_some() || self.path(digest).is_file()
    }

    /// The bytes of a module; none when it is not here. Blocks.
    pub fn bytes(&self, digest: Digest) -> Result<Option<Bytes>, RegistryError> {
        if let Some(bytes) = built_in(digest) {
            return Ok(Some(Bytes::from_static(bytes)));
        }
        let path = self.path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RegistryError::Io { path, source }),
        };
        check(digest, &bytes)?;
        Ok(Some(bytes.into()))
    }

    /// Keeps a module's bytes, durably. Blocks.
    pub fn keep(&self, digest: Digest, bytes: &[u8]) -> Result<(), RegistryError> {
        if bytes.len() as u64 > MAX_MODULE_BYTES {
            return Err(RegistryError::TooLarge {
                size: bytes.len() as u64,
                limit: MAX_MODULE_BYTES,
            });
        }
        check(digest, bytes)?;
        if matches!(self.bytes(digest), Ok(Some(_))) {
            return Ok(());
        }
        let path = self.path(digest);
        self.write(&path, bytes)
            .map_err(|source| RegistryError::Io { path, source })
    }

    /// Temporary file, fsync, rename, fsync of the folder: after a crash there is
    /// all of it or nothing.
    fn write(&self, path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Makes a module ready for requests. Blocks while it compiles.
    pub fn load(&self, digest: Digest) -> Result<Arc<Loaded>, LoadError> {
        if let Some(loaded) = self.sandbox.loaded(digest) {
            return Ok(loaded);
        }
        let bytes = self.bytes(digest)?.ok_or(LoadError::Absent(digest))?;
        Ok(self.sandbox.load(&bytes)?)
    }

    /// Makes these modules ready, one after the other, on a thread of its own;
    /// `absent` is told of those that must be fetched.
    pub fn load_in_background(
        self: &Arc<Self>,
        digests: Vec<Digest>,
        absent: impl Fn(Digest) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let registry = self.clone();
        thread::Builder::new()
            .name("module-loader".to_owned())
            .spawn(move || {
                for digest in digests {
                    match registry.load(digest) {
                        Ok(_) => tracing::debug!(%digest, "module ready"),
                        Err(LoadError::Absent(digest)) => absent(digest),
                        // Damaged bytes are as good as none: a peer has others.
                        Err(error @ LoadError::Registry(_)) => {
                            tracing::warn!(%digest, %error, "module not readable");
                            absent(digest);
                        }
                        Err(error @ LoadError::Invalid(_)) => {
                            tracing::error!(%digest, %error, "module not usable");
                        }
                    }
                }
            })
    }

    /// Checks an upload: that it is a module, what it says of itself, and the
    /// laws. Keeps nothing. Blocks, up to some seconds.
    ///
    /// `seed` draws the cases; a counterexample names it.
    pub fn inspect(
        &self,
        bytes: &[u8],
        accept_unlawful: bool,
        seed: u64,
    ) -> Result<Inspection, InspectError> {
        let loaded = self.sandbox.prepare(bytes)?;
        let report = laws::check(
            &self.sandbox,
            &loaded,
            &Samples::Module,
            Settings::new(seed, laws::DEFAULT_CASES),
            &mut |_| ControlFlow::Continue(()),
        );
        for note in &report.notes {
            tracing::info!(digest = %loaded.digest(), note, "the law check has a note");
        }
        let verdict = report.verdict;
        if let (Verdict::Violated(counterexample), false) = (&verdict, accept_unlawful) {
            return Err(InspectError::Unlawful(counterexample.clone()));
        }
        let info = describe(&loaded, laws::lawfulness(&verdict));
        Ok(Inspection { info, verdict })
    }

    /// The modules that are compiled into the server, loaded and described.
    ///
    /// They are not checked for their laws here: kinfold's own tests do that to
    /// the very bytes that are embedded.
    pub fn load_built_ins(&self) -> Result<Vec<(&'static str, ModuleInfo)>, LoadError> {
        let load = |(name, bytes): &(&'static str, &[u8])| {
            let loaded = self.load(Digest::of(bytes))?;
            Ok((*name, describe(&loaded, Lawfulness::BuiltIn)))
        };
        BUILT_INS.iter().map(load).collect()
    }
}

/// What a module says of itself, with what the law check says of it.
pub(super) fn describe(loaded: &Loaded, lawfulness: Lawfulness) -> ModuleInfo {
    let description = loaded.description();
    ModuleInfo {
        digest: loaded.digest(),
        size_bytes: loaded.size_bytes(),
        kind: loaded.kind(),
        eager: description.eager,
        summary: description.summary.as_str().into(),
        version: description.version.as_str().into(),
        lawfulness,
        built_in: built_in(loaded.digest()).is_some(),
    }
}

fn check(expected: Digest, bytes: &[u8]) -> Result<(), RegistryError> {
    let found = Digest::of(bytes);
    if found != expected {
        return Err(RegistryError::Damaged { expected, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::wasm::SandboxLimits;
    use super::*;
    use crate::protocol::catalog::{Lawfulness, ModuleKind};

    const MISBEHAVE: &[u8] = include_bytes!("../../reconcilers/prebuilt/test/misbehave.wasm");

    fn registry(folder: &tempfile::TempDir) -> Arc<Registry> {
        let sandbox = Sandbox::new(SandboxLimits::default(), None).expect("a sandbox");
        let registry = Registry::open(folder.path().join("modules"), Arc::new(sandbox));
        Arc::new(registry.expect("a registry"))
    }

    #[test]
    fn bytes_come_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = registry(&folder);
        let digest = Digest::of(MISBEHAVE);
        assert!(!registry.has(digest));
        assert!(matches!(registry.bytes(digest), Ok(None)));
        assert!(matches!(registry.load(digest), Err(LoadError::Absent(_))));

        let foreign = registry.keep(digest, b"something else");
        assert!(matches!(foreign, Err(RegistryError::Damaged { .. })));
        assert!(!registry.has(digest));

        registry.keep(digest, MISBEHAVE).expect("kept");
        assert!(registry.has(digest));
        assert_eq!(
            registry.bytes(digest).expect("read").as_deref(),
            Some(MISBEHAVE)
        );
        registry.load(digest).expect("runs");

        let path = registry.path(digest);
        let mut damaged = MISBEHAVE.to_vec();
        damaged[100] ^= 1;
        fs::write(&path, damaged).expect("damaged");
        assert!(matches!(
            registry.bytes(digest),
            Err(RegistryError::Damaged { .. })
        ));
        // Bytes that come again from a peer mend it.
        registry.keep(digest, MISBEHAVE).expect("kept");
        assert_eq!(
            registry.bytes(digest).expect("read").as_deref(),
            Some(MISBEHAVE)
        );
    }

    #[test]
    fn built_ins_need_no_file_and_load_in_the_background() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = registry(&folder);
        let mut digests: Vec<Digest> = built_ins()
            .iter()
            .map(|(_, bytes)| Digest::of(bytes))
            .collect();
        let unknown = Digest::of(b"unknown");
        digests.insert(0, unknown);
        let (told, absent) = std::sync::mpsc::channel();
        let loader = registry.load_in_background(digests.clone(), move |digest| {
            told.send(digest).expect("the test waits");
        });
        loader.expect("a thread").join().expect("no panic");
        assert_eq!(absent.iter().collect::<Vec<_>>(), [unknown]);
        for digest in &digests[1..] {
            assert!(registry.sandbox().loaded(*digest).is_some());
        }
    }

    #[test]
    fn an_upload_is_checked_and_described() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = registry(&folder);
        let (_, or_cart) = built_ins()
            .iter()
            .find(|(name, _)| *name == "or-cart")
            .expect("or-cart");
        let info = registry.inspect(or_cart, false, 1).expect("lawful").info;
        assert_eq!(info.kind, ModuleKind::DataType);
        assert!(info.eager && info.built_in && info.folds_eagerly());
        assert!(matches!(
            info.lawfulness,
            Lawfulness::NoCounterexample { .. }
        ));

        let refused = registry.inspect(MISBEHAVE, false, 1).expect_err("refused");
        assert!(matches!(refused, InspectError::Unlawful(_)), "{refused}");
        let admitted = registry.inspect(MISBEHAVE, true, 1).expect("admitted").info;
        assert!(matches!(admitted.lawfulness, Lawfulness::Unlawful { .. }));
        assert!(!admitted.built_in);
        // The guest in C is lawful, and so are all values: they are just bytes.
        let in_c = include_bytes!("../../reconcilers/prebuilt/test/c-bitmap.wasm");
        let info = registry.inspect(in_c, false, 1).expect("lawful").info;
        assert!(matches!(
            info.lawfulness,
            Lawfulness::NoCounterexample { .. }
        ));
        let garbage = registry.inspect(b"garbage", true, 1);
        assert!(matches!(garbage, Err(InspectError::Invalid(_))));
    }
}
