//! The `[serving]` section: the threads that serve clients and peers.
//!
//! Promises: what is not said is right for a machine whose processors are the limit.

use serde::Deserialize;

/// The most threads that may serve.
pub const MAX_SERVING_THREADS: u32 = 64;

/// The `[serving]` section.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServingConfig {
    /// How many threads serve clients and peers; 0 is one for every two cores. What
    /// one thread does alone it need not hand to another, so fewer cost less for each
    /// request, and more carry more of them.
    pub threads: u32,
    /// Whether a thread that has something to do again may interrupt one at work.
    pub scheduling: Scheduling,
}

/// How the system is to schedule a node's threads, the store's and the modules' included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduling {
    /// Who wakes up interrupts nobody: Linux's `SCHED_BATCH`, see sched(7). It waits until
    /// whoever runs waits or has had its slice, some milliseconds at most, and until then
    /// more comes in that is done in one go.
    #[default]
    Batch,
    /// As the system does with any program.
    Normal,
}

impl ServingConfig {
    /// How many threads that makes on this machine.
    pub fn thread_count(&self) -> usize {
        if self.threads > 0 {
            return self.threads as usize;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (cores / 2).clamp(1, MAX_SERVING_THREADS as usize)
    }
}
