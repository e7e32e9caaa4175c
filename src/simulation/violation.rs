//! What a run that breaks a promise says of it.

use crate::protocol::id::ItemKey;

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// By the protocol page; 0 for what must hold as well, such as an answer to
    /// every request of a healed cluster.
    pub invariant: u8,
    pub item: Option<ItemKey>,
    pub at_ms: u64,
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at_s = self.at_ms as f64 / 1000.0;
        match self.invariant {
            0 => write!(f, "{} (at {at_s:.3} s)", self.what),
            number => write!(f, "invariant {number}: {} (at {at_s:.3} s)", self.what),
        }
    }
}
