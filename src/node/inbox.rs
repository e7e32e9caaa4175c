//! Where the threads of the store and of the sandbox leave what they have for the machine.
//!
//! Promises: what is put here is taken in once, in the order in which it came, by one
//! task. As much waits here as those threads have in hand, which is bounded there.

use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::{Node, lock};
use crate::protocol::effect::Input;

/// What came from other threads and was not taken in yet.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Vec<Input>>,
    arrived: Notify,
}

impl Inbox {
    /// Leaves an input.
    pub fn put(&self, input: Input) {
        let mut waiting = lock(&self.waiting);
        let is_first = waiting.is_empty();
        waiting.push(input);
        drop(waiting);
        if is_first {
            self.arrived.notify_one();
        }
    }
}

/// Takes in what other threads bring, until the node is dropped.
pub(super) async fn take_in(inbox: Arc<Inbox>, node: Weak<Node>) {
    let mut inputs = Vec::new();
    loop {
        inbox.arrived.notified().await;
        let Some(node) = node.upgrade() else { return };
        std::mem::swap(&mut *lock(&inbox.waiting), &mut inputs);
        node.step_all(inputs.drain(..));
    }
}
