//! Time and dice: the only file that asks the system for either.
//!
//! Everything else takes a [`Clock`] or numbers drawn from [`Dice`], so that a
//! simulation and a test decide what time it is and how the dice fall.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use crate::protocol::time::Now;

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// What time it is.
    fn now(&self) -> Now;
}

/// The system's clock.
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    #[allow(clippy::disallowed_methods)]
    pub fn new() -> Self {
        SystemClock {
            started: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
            monotonic_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What measures how long things take: finer than a [`Clock`], which the protocol
/// needs no finer. Copies measure from the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// A stopwatch that starts now.
    #[allow(clippy::disallowed_methods)]
    pub fn start() -> Self {
        Stopwatch {
            started: Instant::now(),
        }
    }

    /// How long ago it was started, in nanoseconds.
    pub fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A clock that stands still until it is moved.
#[derive(Clone, Default)]
pub struct ManualClock {
    wall_us: Arc<AtomicU64>,
    monotonic_ms: Arc<AtomicU64>,
}

impl ManualClock {
    /// Moves both times on.
    pub fn advance_ms(&self, by_ms: u64) {
        self.wall_us.fetch_add(by_ms * 1000, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        Now {
            wall_us: self.wall_us.load(Ordering::SeqCst),
            monotonic_ms: self.monotonic_ms.load(Ordering::SeqCst),
        }
    }
}

/// Random numbers from a seed: ChaCha12, so that epochs and ids do not collide
/// and a run can be had again.
pub struct Dice(StdRng);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn from_seed(seed: u64) -> Self {
        Dice(StdRng::seed_from_u64(seed))
    }

    /// Dice that the system's entropy has thrown.
    pub fn from_system() -> Self {
        Dice(StdRng::try_from_rng(&mut rand::rngs::SysRng).expect("the system has entropy"))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}
