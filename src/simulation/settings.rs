//! How many nodes a world begins with, how quick everything is, and what the
//! network is like when nothing is wrong.

use super::disk::Durability;
use crate::protocol::machine::{DEFAULT_BACKGROUND_PERCENT, Upkeep};

/// Everything that production does in minutes and hours, in seconds.
pub const HECTIC_UPKEEP: Upkeep = Upkeep {
    exchange_interval_ms: 1_000,
    reap_after_ms: 2_000,
    background_percent: DEFAULT_BACKGROUND_PERCENT,
};
/// As in production, but for reaping, of which an hour would see nothing.
pub const CALM_UPKEEP: Upkeep = Upkeep {
    exchange_interval_ms: 20_000,
    reap_after_ms: 60_000,
    background_percent: DEFAULT_BACKGROUND_PERCENT,
};
/// As if a cluster had neither exchange nor reaping: what other means are for
/// shows only without them.
pub const NO_UPKEEP: Upkeep = Upkeep {
    exchange_interval_ms: 1 << 40,
    reap_after_ms: 1 << 40,
    background_percent: DEFAULT_BACKGROUND_PERCENT,
};

/// How many nodes there are, and what the world is like when nothing is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub nodes: usize,
    /// In percent, of every message.
    pub loss: u64,
    /// In percent, of every message.
    pub duplication: u64,
    /// Delays are drawn from 1..=this, in milliseconds, so messages overtake
    /// each other.
    pub delay_max_ms: u64,
    /// How long a commit takes at most, in milliseconds.
    pub commit_max_ms: u64,
    /// How often a machine is ticked.
    pub tick_ms: u64,
    pub gossip_interval_ms: u64,
    pub durability: Durability,
    pub upkeep: Upkeep,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            nodes: 3,
            loss: 2,
            duplication: 2,
            delay_max_ms: 8,
            commit_max_ms: 4,
            tick_ms: 10,
            gossip_interval_ms: 200,
            durability: Durability::Synced,
            upkeep: HECTIC_UPKEEP,
        }
    }
}

impl Settings {
    /// A kind and quick network, for scripts that say themselves what goes wrong.
    pub fn quiet(nodes: usize) -> Self {
        Settings {
            nodes,
            loss: 0,
            duplication: 0,
            delay_max_ms: 1,
            commit_max_ms: 0,
            upkeep: NO_UPKEEP,
            ..Settings::default()
        }
    }
}
