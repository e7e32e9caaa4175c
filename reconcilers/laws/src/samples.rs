//! Where the values of cases come from.
//!
//! Promises: a folder's samples are in the order of their names, and bounded.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How many files a folder of samples may have.
pub const MAX_SAMPLE_FILES: usize = 4096;
/// How large each may be, in bytes.
pub const MAX_SAMPLE_BYTES: u64 = 1 << 20;

/// Where the samples come from.
#[derive(Clone, Debug, Default)]
pub enum Samples {
    /// The module's own; failing these, general ones.
    #[default]
    Module,
    /// These: values, or operations for a data type.
    Given(Vec<Vec<u8>>),
}

/// Why a folder gives no samples.
#[derive(Debug)]
pub enum SamplesError {
    Io { path: PathBuf, source: io::Error },
    Empty { path: PathBuf },
    TooMany { path: PathBuf },
    TooLarge { path: PathBuf },
}

impl fmt::Display for SamplesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SamplesError::Io { path, source } => write!(f, "{}: {source}", path.display()),
            SamplesError::Empty { path } => {
                write!(f, "{} has no files; put one sample in each", path.display())
            }
            SamplesError::TooMany { path } => write!(
                f,
                "{} has more than {MAX_SAMPLE_FILES} files; leave those that differ most",
                path.display()
            ),
            SamplesError::TooLarge { path } => write!(
                f,
                "{} is larger than the {MAX_SAMPLE_BYTES} bytes of a sample",
                path.display()
            ),
        }
    }
}

impl std::error::Error for SamplesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SamplesError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Samples {
    /// One sample for each file of the folder, in the order of their names.
    pub fn from_dir(folder: &Path) -> Result<Self, SamplesError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| SamplesError::Io { path, source }
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(at(folder))? {
            let path = entry.map_err(at(folder))?.path();
            if path.is_file() {
                paths.push(path);
            }
        }
        let path = folder.to_owned();
        if paths.is_empty() {
            return Err(SamplesError::Empty { path });
        }
        if paths.len() > MAX_SAMPLE_FILES {
            return Err(SamplesError::TooMany { path });
        }
        paths.sort();
        let mut samples = Vec::with_capacity(paths.len());
        for path in paths {
            if fs::metadata(&path).map_err(at(&path))?.len() > MAX_SAMPLE_BYTES {
                return Err(SamplesError::TooLarge { path });
            }
            samples.push(fs::read(&path).map_err(at(&path))?);
        }
        Ok(Samples::Given(samples))
    }
}

/// Values for a module that gives none of its own: texts, numbers, bytes, and
/// JSON whose keys collide.
pub(crate) const GENERAL: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"2",
    b"10",
    b"-3",
    b"2.5",
    b"0.1",
    b"0.2",
    b"a",
    b"b",
    b"ab",
    b"a\nb\n",
    b"b\nc\n",
    b"null",
    b"true",
    b"\"x\"",
    b"\"y\"",
    b"[]",
    b"[1,2]",
    b"[2,3]",
    b"[\"a\",\"b\"]",
    b"[\"b\",\"c\"]",
    b"{}",
    br#"{"a":1}"#,
    br#"{"a":2}"#,
    br#"{"b":1}"#,
    br#"{"b":1,"a":1}"#,
    br#"{"a":"x"}"#,
    br#"{"a":"y","b":"z"}"#,
    br#"{"a":{"b":1}}"#,
    br#"{"a":{"c":2}}"#,
    br#"{"a":null}"#,
    br#"{"a":[1]}"#,
    br#"{"a":[2,1]}"#,
    br#"{"a":0.1}"#,
    b"\x00",
    b"\xff\xfe",
    b"\x01\x02\x03",
];
