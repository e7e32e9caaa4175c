//! `kinfold bench`: load for a cluster, and what it took.
//!
//! Promises: what is asked is seeded and pure ([`workload`], [`keys`], [`pacing`]);
//! every operation is counted once, by what became of it, and latencies of
//! different outcomes are never mixed ([`record`]); in an open loop a latency
//! counts from when the request was due, and what could not be sent is told.
//! Contexts are kept as clients keep them, so that siblings arise as they do in
//! life, and where they are asked for.
//!
//! Not promised: that the client is not what is slow. It says what it took itself;
//! a busy one shows.
//!
//! ```text
//! load ─┐
//! run ──┴→ crew → caller → connection        what it measured → report, plot
//!   └→ workload → keys;  backlog → pacing;  record;  process
//! ```

use std::time::Duration;

use self::keys::Distribution;
use self::pacing::Arrivals;
use self::workload::Workload;

mod backlog;
mod caller;
mod connection;
mod crew;
pub mod keys;
pub mod load;
pub mod pacing;
pub mod plot;
mod process;
pub mod record;
pub mod report;
pub mod run;
pub mod workload;

pub use backlog::{Due, MAX_WAITING};

/// How many contexts all connections together remember: with their keys some
/// 60 MB.
const MAX_CONTEXTS: usize = 1 << 18;

/// How many requests come, whatever becomes of those before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate {
    pub per_second: f64,
    pub arrivals: Arrivals,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `host:port` of the nodes; connections take turns.
    pub authorities: Vec<String>,
    pub table: String,
    pub has_sort_keys: bool,
    /// The query of every item request: empty, or with its question mark.
    pub query: String,
    pub workload: Workload,
    pub distribution: Distribution,
    /// How many items there are at first.
    pub keys: u64,
    pub value_bytes: usize,
    pub connections: usize,
    pub threads: usize,
    pub seconds: Duration,
    pub warmup: Duration,
    /// None: every connection asks again as soon as it is answered.
    pub rate: Option<Rate>,
    /// The share of writes that are blind.
    pub conflicts: f64,
    /// Whether all connections remember contexts together, as one client.
    pub shares_contexts: bool,
    pub seed: u64,
    /// Keeps the inserts of this run apart from those of others.
    pub run: String,
    /// How long a request may take.
    pub patience: Duration,
    /// Processes on this machine whose processor time is told.
    pub pids: Vec<u32>,
}

impl Plan {
    fn authority(&self, place: usize) -> &str {
        &self.authorities[place % self.authorities.len()]
    }

    /// How many contexts are kept by whoever keeps them.
    fn context_slots(&self) -> usize {
        if !self.workload.remembers_contexts() {
            return 0;
        }
        let keepers = if self.shares_contexts {
            1
        } else {
            self.connections
        };
        let keys = usize::try_from(self.keys).unwrap_or(usize::MAX);
        (MAX_CONTEXTS / keepers).clamp(1, keys.max(1))
    }
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}; `kinfold dev` starts three nodes to play with, --server names those that run")]
    Unreachable(String),
    #[error(
        "the items cannot be looked at: {0}; `kinfold cluster status` shows the nodes, and a moment later it may go"
    )]
    Look(String),
    #[error("loading stopped at {loaded} of {keys} keys: {reason}; a later run goes on from there")]
    Load {
        loaded: u64,
        keys: u64,
        reason: String,
    },
    #[error(
        "table {table} takes operations only ({reconciler} is a data type); name a table of values with --table, or make one: kinfold table set bench"
    )]
    OperationsOnly { table: String, reconciler: String },
    #[error(
        "table {table} does not hold all of the {keys} items to work on; run without --no-load first, or with the --keys that were loaded"
    )]
    NothingLoaded { table: String, keys: u64 },
    #[error(
        "values of {value_bytes} bytes are over the limit of table {table}, {max_value_bytes} bytes; give less with --value-bytes, or raise it: kinfold table set {table} --max-value-bytes {value_bytes}"
    )]
    TooLarge {
        table: String,
        value_bytes: usize,
        max_value_bytes: u64,
    },
    #[error("none of {operations} operations was carried out; the first said: {first}")]
    NothingDone { operations: u64, first: String },
    #[error("nothing was begun within the time; give more with --seconds, or a higher --rate")]
    NothingBegun,
    #[error(
        "the processor time of process {pid} cannot be read: {source}; --pids are of processes on this machine, as `pgrep kinfold` shows them, and only Linux tells"
    )]
    Pid { pid: u32, source: std::io::Error },
    #[error("cannot start a thread for connections: {0}")]
    Thread(std::io::Error),
    #[error("a part of the load generator panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}
