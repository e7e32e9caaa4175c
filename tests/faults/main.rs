//! Real nodes under real faults: processes killed, paused and cut off, disks that
//! are full, that lie or are gone, and clocks that are wrong.
//!
//! Promises: each test starts real `kinfold serve` processes, lets clients work
//! against all of them while faults come and go, heals everything, waits until
//! the nodes have converged, and judges by what the clients were told: what was
//! acknowledged is there or was superseded, nothing else is there, and counters
//! count ([`judge`]). A machine that does not allow a fault (mounts, network
//! namespaces, a C compiler) is told so in a line that begins with `SKIPPED`,
//! whether or not the test's output is shown.
//!
//! The short version runs with all other tests. The long one plays random faults
//! for as long as it is told, from a seed that it prints:
//! `KINFOLD_FAULTS_MINUTES=30 cargo test --test faults -- --ignored --nocapture long`,
//! and `KINFOLD_FAULTS_SEED` plays a seed's faults again (the interleaving with
//! clients is never quite the same).

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod crowds;
mod disks;
mod heal;
mod isolation;
mod judge;
mod kills;
mod long;
mod network;
mod partitions;
mod pauses;
mod shim;
mod wiped;
mod workload;
