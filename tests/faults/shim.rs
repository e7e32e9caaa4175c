//! A layer of lies under a node: `shim.c`, compiled once and loaded into it.
//!
//! Promises: a [`Shim`] belongs to one node and acts at once, on a node that
//! runs too; a fresh one tells no lies.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::common::{Launch, Node};
use crate::isolation::skipped;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");

/// Where each lie stands in the file, in bytes.
const CLOCK_OFFSET_US: u64 = 0;
const FAIL_SYNC: u64 = 8;
const NO_SPACE: u64 = 16;

/// The compiled library, or why there is none.
fn library() -> Result<&'static Path, &'static str> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let compiled = LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Test binaries may run at once, and a half-written library is none.
        let fresh = folder.join(format!("shim-{}.so", std::process::id()));
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .arg(&fresh)
            .args([SOURCE, "-ldl"])
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        if !output.status.success() {
            return Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let library = folder.join("shim.so");
        fs::rename(&fresh, &library).map_err(|error| error.to_string())?;
        Ok(library)
    });
    compiled.as_deref().map_err(String::as_str)
}

/// Whether nodes can be lied to here; says so if not.
pub fn available(test: &str) -> bool {
    match library() {
        Ok(_) => true,
        Err(why) => {
            skipped(test, why);
            false
        }
    }
}

/// The lies that one node is told.
pub struct Shim {
    file: File,
    path: PathBuf,
}

impl Shim {
    /// Lies for this node, which has to be started after this.
    pub fn under(node: &Node, folder: &Path) -> Self {
        Shim::with(node, folder, Vec::new())
    }

    /// The same for a node that is run by a command of its own.
    pub fn with(node: &Node, folder: &Path, under: Vec<String>) -> Self {
        let path = folder.join(format!("{}.lies", node.name));
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("a file");
        file.set_len(24).expect("room for three numbers");
        let shim = Shim { file, path };
        node.set_launch(shim.launch(under));
        shim
    }

    fn launch(&self, under: Vec<String>) -> Launch {
        let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
        let library = library().expect("asked for before");
        Launch {
            under,
            env: vec![
                ("LD_PRELOAD".to_owned(), text(library)),
                ("KINFOLD_SHIM".to_owned(), text(&self.path)),
            ],
        }
    }

    fn tell(&self, place: u64, lie: i64) {
        let bytes = lie.to_ne_bytes();
        self.file.write_all_at(&bytes, place).expect("a lie");
    }

    /// The wall clock is off by so many seconds.
    pub fn clock_off_by(&self, seconds: i64) {
        self.tell(CLOCK_OFFSET_US, seconds * 1_000_000);
    }

    /// The disk takes no sync any more, or does again.
    pub fn fail_sync(&self, fails: bool) {
        self.tell(FAIL_SYNC, i64::from(fails));
    }

    /// The disk has no room any more, or has again.
    pub fn no_space(&self, full: bool) {
        self.tell(NO_SPACE, i64::from(full));
    }
}
