//! The sandbox: modules run here, and only here. No other file of the server
//! imports wasmtime or wit-component.
//!
//! - [`Sandbox`] compiles modules and calls them, each call in a fresh instance;
//! - [`Workers`] is the port that machines use: threads with a bounded queue;
//! - [`SandboxLimits`] says what a guest may use.
//!
//! Promises: a guest gets nothing but its arguments (no clock, randomness, file
//! or network), cannot remember one call in the next, and cannot take more than
//! its limits. Whether a call comes to something is decided by fuel and memory,
//! which are the same on every machine; the wall clock is only a backstop. NaNs
//! are canonicalised, relaxed SIMD and threads are off: two nodes that fold the
//! same siblings get the same bytes.
//!
//! Not promised: that two kinds of processor run out of *stack* at the same
//! depth; compiled frames differ in size. A module that recurses half a megabyte
//! deep may trap on one and not on the other, and a trap only costs a fold.

mod abi;
mod compiled;
mod contract;
mod epochs;
mod failure;
mod lanes;
mod limits;
mod module;
mod run;
#[cfg(test)]
mod tests;
mod workers;

pub use abi::{Description, Outcome};
pub use failure::{Failure, InvalidModule, MAX_REASON_CHARS, limit_named};
pub use limits::{MAX_WORKERS, SandboxLimits};
pub use module::{Loaded, MAX_MODULE_BYTES};
pub use run::{Call, MAX_LOADED_MODULES, Sandbox, SandboxError, fuel_burnt};
pub use workers::{Workers, run as run_now};
