//! The clocks of simulated nodes: each has its own offset and drift, and its wall
//! clock may be set.
//!
//! Promises: monotonic time never goes back, whatever is done to the wall clock,
//! and goes on while a node is paused.

use crate::protocol::time::Now;

/// The wall clock at the world's beginning, in microseconds since the Unix
/// epoch: far enough from zero for clocks that are an hour late.
const BEGINNING_US: u64 = 1_000_000_000_000_000;

/// One node's idea of the time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NodeClock {
    /// How far the wall clock is ahead, in microseconds.
    pub offset_us: i64,
    /// How much both clocks are too fast, in millionths; fixed for a run.
    pub drift_ppm: u32,
}

impl NodeClock {
    pub fn now(&self, world_ms: u64) -> Now {
        let gained_ms = world_ms * u64::from(self.drift_ppm) / 1_000_000;
        let monotonic_ms = world_ms + gained_ms;
        Now {
            wall_us: (BEGINNING_US + monotonic_ms * 1000).saturating_add_signed(self.offset_us),
            monotonic_ms,
        }
    }
}
