//! What really happened, as the one who watches knows it: every write with the
//! exact set of writes that it supersedes.
//!
//! Nothing here looks at contexts, so the causality that nodes and clients carry
//! can be held against it. Promises: [`Ghost::is_safe`] follows chains of
//! superseding writes to their end, so a write counts as superseded only where
//! what superseded it survived in its turn.

use crate::protocol::dot::Dot;

/// A set of writes, by their places in [`Ghost::writes`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Known(pub u32);

impl Known {
    pub fn has(self, write: usize) -> bool {
        self.0 & (1 << write) != 0
    }

    pub fn add(&mut self, other: Known) {
        self.0 |= other.0;
    }

    pub fn with(self, write: usize) -> Known {
        Known(self.0 | 1 << write)
    }

    pub fn meets(self, other: Known) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries((0..32).filter(|write| self.has(*write)))
            .finish()
    }
}

/// One write that was stored somewhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Written {
    pub dot: Dot,
    /// What its client, or the fold that made it, had seen.
    pub covers: Known,
    pub deletes: bool,
    /// Whether a client was told that it is stored.
    pub acked: bool,
    /// Whether it was decided that its replicas may forget it.
    pub reaped: bool,
}

/// All writes, in the order in which they were minted.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ghost {
    pub writes: Vec<Written>,
    /// Whether a dot was given to two writes.
    pub minted_twice: bool,
}

impl Ghost {
    /// A write has been stored; returns its place.
    pub fn note(&mut self, dot: Dot, covers: Known, deletes: bool) -> usize {
        self.minted_twice |= self.writes.iter().any(|write| write.dot == dot);
        self.writes.push(Written {
            dot,
            covers,
            deletes,
            acked: false,
            reaped: false,
        });
        self.writes.len() - 1
    }

    /// Whether a write lives on (`lives` says it of each), was reaped, or was superseded by one of which
    /// the same holds.
    pub fn is_safe(&self, write: usize, lives: &[bool]) -> bool {
        let it = &self.writes[write];
        it.reaped
            || lives[write]
            || (write + 1..self.writes.len())
                .any(|later| self.writes[later].covers.has(write) && self.is_safe(later, lives))
    }

    /// Whether a write that was acknowledged or reaped superseded this one.
    pub fn is_over(&self, write: usize) -> bool {
        self.writes
            .iter()
            .any(|later| later.covers.has(write) && (later.acked || later.reaped))
    }
}
