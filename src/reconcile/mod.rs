//! Running the modules that fold siblings: the port that machines use, and what
//! an operator's upload goes through.
//!
//! - [`wasm`]: the sandbox, and the threads that run guests in it;
//! - [`registry`]: where the bytes of modules live, and what an upload must pass;
//! - [`rehearsal`]: modules on trial, apart from those that serve;
//! - [`laws`]: the search for a counterexample to what every fold must keep;
//! - [`quarantine`]: what is not run, because it has failed before;
//! - [`native`]: the simulator's guests, with no WebAssembly in them.
//!
//! Promises of every [`Guests`]: a request is answered exactly once; the same
//! request to the same module gives the same answer on every node, unless the
//! wall-clock backstop cuts it short; a guest that fails costs its own request
//! an answer and nothing else.

use std::collections::BTreeMap;

use crate::protocol::catalog::Digest;
use crate::protocol::effect::{GuestReply, GuestRequest};
use quarantine::Trouble;

pub mod laws;
pub mod native;
pub mod quarantine;
pub mod registry;
pub mod rehearsal;
pub mod wasm;

/// Takes a guest's answer, and the fuel that it took. Called on a thread of the
/// sandbox's.
pub type Done = Box<dyn FnOnce(GuestReply, u64) + Send>;

/// Runs guests.
pub trait Guests: Send + Sync + 'static {
    /// Runs what is asked, off the threads that serve requests. A sandbox whose
    /// queue is full answers [`GuestReply::Overloaded`] at once.
    fn submit(&self, request: GuestRequest, done: Done);

    /// What is wrong with modules; nothing is known of those that are not named.
    fn troubles(&self) -> BTreeMap<Digest, Trouble> {
        BTreeMap::new()
    }
}

/// What one module has done on this node since it was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ModuleFigures {
    /// Requests that ran: each folds, applies or renders, or several of these.
    pub folds: u64,
    /// Those of them that ended in [`GuestReply::Failed`].
    pub failures: u64,
    /// Fuel that its calls burnt, about one unit for each instruction.
    pub fuel: u64,
}
