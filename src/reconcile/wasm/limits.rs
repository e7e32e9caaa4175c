//! What a guest may use, in plain numbers.
//!
//! Promises: every limit has a default and a reason. Not promised: that a limit
//! makes sense beside the others; the config file checks that.

use serde::{Deserialize, Serialize};

/// The limits of one call, and of the threads that make calls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxLimits {
    /// What one call may burn: about one unit for each instruction. This is the
    /// limit that decides, because it is the same on every machine. The built-in
    /// carts burn about 1,000 units a byte, so two of 1 MB each take 2 billion
    /// (`benches/fold.rs`): the default is twice that. It ends an endless loop
    /// after some seconds, which is why folds have threads of their own.
    pub fuel: u64,
    /// The largest linear memory, in bytes. A fold holds its inputs and its
    /// output: a few values of the largest usual size (1 MiB) and the parsed
    /// form of each.
    pub memory_bytes: usize,
    /// The most that a call may take by the clock, in milliseconds. Only a
    /// backstop for what fuel does not count (a host that swaps, a slow copy),
    /// so it lies far beyond what the fuel buys.
    pub deadline_ms: u64,
    /// How many threads run guests; 0 is one for each core, at most
    /// [`MAX_WORKERS`].
    pub workers: usize,
    /// How many requests wait for a thread at most; one more is answered
    /// `Overloaded`. At 20 µs a fold the default is 20 ms of waiting, at the
    /// fuel limit it is long past every request's timeout.
    pub queue: usize,
}

/// More threads than this gain nothing: a fold takes microseconds.
pub const MAX_WORKERS: usize = 16;

impl Default for SandboxLimits {
    fn default() -> Self {
        SandboxLimits {
            fuel: 4_000_000_000,
            memory_bytes: 16 << 20,
            deadline_ms: 30_000,
            workers: 0,
            queue: 1024,
        }
    }
}

impl SandboxLimits {
    /// How many threads run guests on this machine.
    pub fn worker_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.workers {
            0 => cores().clamp(1, MAX_WORKERS),
            count => count.min(MAX_WORKERS),
        }
    }
}
