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
}
