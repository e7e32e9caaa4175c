//! What was done to a reconciler: which digest was made current when, and on
//! which node.
//!
//! A set of entries that grows by union and keeps the newest [`MAX_HISTORY`], so
//! that merging is commutative, associative and idempotent, and an upload that
//! lost to another at the same time is still on record. Promises: no entry of an
//! earlier life of the name. Not promised: that the clocks of the nodes agree; the
//! order is that of what their clocks said.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Catalog, Digest};

/// How many entries each reconciler's history keeps: the newest. They travel with
/// the catalog, each some sixty bytes.
pub const MAX_HISTORY: usize = 64;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Deed {
    Uploaded,
    RolledBack,
}

impl Deed {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Deed::Uploaded => "uploaded",
            Deed::RolledBack => "rolled back",
        }
    }
}

/// One change. The order of entries is that of the fields.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Of the name; see [`super::Register`].
    pub generation: u64,
    /// When, by the clock of the node that took it, in microseconds since the Unix
    /// epoch.
    pub at_us: u64,
    /// What was made current.
    pub digest: Digest,
    pub deed: Deed,
    /// The name of the node that took it.
    pub by: Arc<str>,
}

/// A reconciler's entries, oldest first.
pub type History = BTreeSet<HistoryEntry>;

/// Keeps the newest.
fn shorten(history: &mut History) {
    while history.len() > MAX_HISTORY {
        history.pop_first();
    }
}

impl Catalog {
    /// What was done to a reconciler, oldest first, as far as it is remembered.
    pub fn history(&self, name: &str) -> impl DoubleEndedIterator<Item = &HistoryEntry> {
        self.histories.get(name).into_iter().flatten()
    }

    /// Which digest a rollback goes back to when nobody says which: that which was
    /// current before the present one, as far as it is still to be had.
    pub fn previous(&self, name: &str) -> Option<Digest> {
        let definition = self.reconciler(name)?;
        let fits =
            |digest: &Digest| *digest != definition.current && definition.module(*digest).is_some();
        let remembered = self.history(name).rev().map(|entry| entry.digest);
        // What was never uploaded, since it is built in, comes last.
        let oldest_last = definition.modules.iter().rev().map(|module| module.digest);
        remembered.chain(oldest_last).find(fits)
    }

    /// Notes that a digest was made current.
    pub(super) fn note(&mut self, name: &str, at_us: u64, by: &Arc<str>, deed: Deed) {
        let Some(register) = self.reconcilers.get(name) else {
            return;
        };
        let Some(definition) = &register.value else {
            return;
        };
        let entry = HistoryEntry {
            generation: register.generation,
            at_us,
            digest: definition.current,
            deed,
            by: by.clone(),
        };
        let history = self.histories.entry(name.into()).or_default();
        history.insert(entry);
        shorten(history);
        self.forget_earlier_lives(name);
    }

    /// Takes over what the other remembers. Returns whether anything changed.
    pub(super) fn merge_histories(&mut self, other: &Catalog) -> bool {
        let mut changed = false;
        let mut names: Vec<Arc<str>> = other.histories.keys().cloned().collect();
        names.extend(self.histories.keys().cloned());
        for name in names {
            let before = self.histories.get(&name).cloned();
            if let Some(theirs) = other.histories.get(&name) {
                let mine = self.histories.entry(name.clone()).or_default();
                mine.extend(theirs.iter().cloned());
                shorten(mine);
            }
            self.forget_earlier_lives(&name);
            changed |= before != self.histories.get(&name).cloned();
        }
        changed
    }

    fn forget_earlier_lives(&mut self, name: &str) {
        let register = self.reconcilers.get(name);
        let since = register.map_or(0, |register| {
            register.generation + u64::from(register.value.is_none())
        });
        if let Some(history) = self.histories.get_mut(name) {
            history.retain(|entry| entry.generation >= since);
            if history.is_empty() {
                self.histories.remove(name);
            }
        }
    }
}
