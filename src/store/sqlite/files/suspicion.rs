//! What the store does about damage while it runs: it says so, once, and leaves
//! a mark for the next start.
//!
//! A row whose checksum is wrong is mended by a peer's (`Mutation::Mend`). Damage
//! to SQLite's own pages cannot be mended row by row: the file is marked by an
//! empty file beside it, `items-NN.suspect`, and is checked when the store is
//! opened next (open.rs). Promises: a file is marked before anyone hears of the
//! damage, and marked once, whatever is met later.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use rusqlite::ErrorCode;

use super::{file, repair};
use crate::protocol::effect::StoreError;
use crate::protocol::id::{ItemKey, Partition};
use crate::store::sqlite::Shared;

/// How many damaged rows are remembered, so that each is told once; what is found
/// beyond them is told each time.
const MAX_REMEMBERED: usize = 1024;

/// What is known to be damaged.
pub struct Suspicion {
    data_dir: PathBuf,
    /// By file.
    marked: Vec<AtomicBool>,
    rows: Mutex<BTreeSet<(Partition, ItemKey)>>,
}

impl Suspicion {
    /// Nothing is known to be damaged in so many files.
    pub fn new(data_dir: &Path, files: usize) -> Self {
        Suspicion {
            data_dir: data_dir.to_owned(),
            marked: (0..files).map(|_| AtomicBool::new(false)).collect(),
            rows: Mutex::default(),
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeSet<(Partition, ItemKey)>> {
        self.rows.lock().expect("no code panics under this lock")
    }
}

/// Whether the error says that the file itself is damaged, and not merely that it
/// could not be read.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

impl Shared {
    pub fn files(&self) -> usize {
        self.suspicion.marked.len()
    }

    /// Counts a row that cannot be read, and says so when it is first met.
    pub fn note_damage(&self, partition: Partition, key: &ItemKey, damage: &dyn Display) {
        self.count_damage();
        self.states.set(partition, key, None);
        let mut rows = self.suspicion.rows();
        let new = if rows.len() < MAX_REMEMBERED {
            rows.insert((partition, key.clone()))
        } else {
            !rows.contains(&(partition, key.clone()))
        };
        drop(rows);
        if new {
            tracing::error!(partition = partition.0, ?key, %damage, "a stored row is damaged");
        }
    }

    /// The row is sound again.
    pub fn note_mended(&self, partition: Partition, key: &ItemKey) {
        self.suspicion.rows().remove(&(partition, key.clone()));
        tracing::info!(partition = partition.0, ?key, "a damaged row is mended");
    }

    /// What an error of SQLite's means to those who asked. Marks the file if it
    /// says that it is damaged.
    pub fn meaning(&self, file: u32, error: &rusqlite::Error) -> StoreError {
        self.suspect(file, error);
        file::meaning(error)
    }

    /// Marks the file if the error says that it is damaged.
    pub fn suspect(&self, file: u32, error: &rusqlite::Error) {
        if is_damage(error) {
            self.suspect_text(file, &error.to_string());
        }
    }

    /// Marks the file: it is damaged, as the text says.
    pub fn suspect_text(&self, file: u32, text: &str) {
        let suspicion = &self.suspicion;
        if suspicion.marked[file as usize].swap(true, Ordering::SeqCst) {
            return;
        }
        let path = file::path(&suspicion.data_dir, file);
        let mark = file::mark_path(&suspicion.data_dir, file);
        let marked = repair::mark(&suspicion.data_dir, file);
        tracing::error!(
            path = %path.display(),
            damage = text,
            "a file of the store is damaged. What can be read of it is served. At the next start \
             it is checked and, if it is beyond repair, set aside and filled again by the peers: \
             restart this node while the others are well"
        );
        if let Err(error) = marked {
            tracing::error!(
                mark = %mark.display(),
                %error,
                "the damaged file could not be marked; make this file by hand before the restart"
            );
        }
    }
}
