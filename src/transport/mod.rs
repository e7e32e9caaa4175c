//! Carrying messages between nodes: one trait, two transports, one suite.
//!
//! Promises of every transport: a message arrives as it was sent or not at all
//! (checksums); `send` never blocks; every queue is bounded, and what cannot be
//! queued or written comes back as [`Input::Undelivered`] at once. Messages to
//! one peer usually arrive in order, but nothing may depend on it.

pub mod codec;
pub mod http;
pub mod memory;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod suite;

use std::sync::Arc;

use crate::protocol::effect::{Address, Input};
use crate::protocol::id::NodeId;
use crate::protocol::message::Message;

/// Takes what the network brings, all that came at once, in order; what it took is
/// gone from the list afterwards. It may be called from any thread, and must not
/// block.
pub type Deliver = Arc<dyn Fn(&mut Vec<Input>) + Send + Sync>;

/// Carries messages.
pub trait Transport: Send + Sync + 'static {
    /// Queues a message for a node that listens at this address.
    fn send(&self, to: NodeId, address: &Address, message: Message);

    /// Queues a message for whoever listens at this address.
    fn contact(&self, address: &Address, message: Message);

    /// Where a node listens that has introduced itself to this one, while it is
    /// connected: how to answer a node that is in no member list yet.
    fn address_of(&self, _node: NodeId) -> Option<Address> {
        None
    }
}
