//! Running the modules that fold siblings: the port that machines use, and what
//! an operator's upload goes through.

use crate::protocol::effect::{GuestReply, GuestRequest};

/// Takes a guest's answer. Called on a thread of the sandbox's.
pub type Done = Box<dyn FnOnce(GuestReply) + Send>;

/// Runs guests.
pub trait Guests: Send + Sync + 'static {
    /// Runs what is asked, off the threads that serve requests. A sandbox whose
    /// queue is full answers [`GuestReply::Overloaded`] at once.
    fn submit(&self, request: GuestRequest, done: Done);
}
