//! What a machine counts: how often things went one way or the other since the
//! process began. Nothing decides by these numbers.

/// What a machine counts, for `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub quorum_met: u64,
    pub quorum_unmet: u64,
    pub forwarded: u64,
    pub hedged: u64,
    pub read_repairs: u64,
    pub hints_noted: u64,
    pub hints_delivered: u64,
    pub hints_held: u64,
    pub folds_of_reads: u64,
    pub folds_of_writes: u64,
    pub failed_folds: u64,
    pub swap_conflicts: u64,
    pub store_failures: u64,
    pub requests_in_hand: u64,
    /// Partitions whose trees were made from their rows; and of those, how many
    /// were not as the writes had left them.
    pub partitions_derived: u64,
    pub trees_corrected: u64,
    /// Roots that were compared with a peer's; and how many differed.
    pub roots_compared: u64,
    pub trees_differing: u64,
    pub sessions_begun: u64,
    pub sessions_failed: u64,
    /// Rows that came from peers by exchange, and rows that went to them.
    pub rows_received: u64,
    pub rows_given: u64,
    /// About how many bytes of rows this node's own sessions moved.
    pub exchange_bytes: u64,
    /// Damaged rows that no owner had, forgotten.
    pub rows_given_up: u64,
    pub strays_moved: u64,
    pub tombstones_reaped: u64,
}
