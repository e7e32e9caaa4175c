//! The queue in front of one peer address.
//!
//! Promises: it holds at most [`MAX_QUEUED_MESSAGES`] messages and
//! [`MAX_QUEUED_BYTES`] bytes of frames; messages leave it in the order in which
//! they came; no message is queued once it has ended.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::protocol::effect::Address;
use crate::protocol::id::NodeId;
use crate::protocol::message::Message;

use super::{MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES, lock};

/// A message on its way out.
#[derive(Debug)]
pub(super) struct Letter {
    /// Who it is for; none for whoever listens at the address.
    pub to: Option<NodeId>,
    pub message: Message,
    /// How long its frame is.
    pub bytes: usize,
}

/// What became of a letter.
pub(super) enum Posted {
    Queued,
    Full(Letter),
    /// The link's task is gone: find or make another link.
    Ended(Letter),
}

#[derive(Default)]
struct Queue {
    letters: VecDeque<Letter>,
    bytes: usize,
    ended: bool,
}

pub(super) struct Link {
    address: Address,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Whoever listens at the address has just connected to this node.
    met: Notify,
}

impl Link {
    pub fn new(address: Address) -> Self {
        Link {
            address,
            queue: Mutex::default(),
            wake: Notify::new(),
            met: Notify::new(),
        }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many messages, and bytes of frames, wait.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = lock(&self.queue);
        (queue.letters.len(), queue.bytes)
    }

    pub fn post(&self, letter: Letter) -> Posted {
        let mut queue = lock(&self.queue);
        if queue.ended {
            return Posted::Ended(letter);
        }
        if queue.letters.len() >= MAX_QUEUED_MESSAGES
            || queue.bytes + letter.bytes > MAX_QUEUED_BYTES
        {
            return Posted::Full(letter);
        }
        queue.bytes += letter.bytes;
        queue.letters.push_back(letter);
        let is_first = queue.letters.len() == 1;
        drop(queue);
        // Later messages find the task awake, or about to look.
        if is_first {
            self.wake.notify_one();
        }
        Posted::Queued
    }

    /// Takes the oldest letters, about `bytes` of frames but at least one if any
    /// waits.
    pub fn take(&self, bytes: usize, into: &mut Vec<Letter>) {
        let mut queue = lock(&self.queue);
        let mut taken = 0;
        while taken < bytes {
            let Some(letter) = queue.letters.pop_front() else {
                break;
            };
            taken += letter.bytes;
            into.push(letter);
        }
        queue.bytes -= taken;
    }

    /// Returns once a letter has come to an empty queue since the last call; it
    /// may return once too often.
    pub async fn filled(&self) {
        self.wake.notified().await;
    }

    /// Says that the peer is there: waiting any longer to dial it is idle.
    pub fn meet(&self) {
        // Whoever does not wait now needs no word of it later.
        self.met.notify_waiters();
    }

    /// Returns when [`Link::meet`] is called.
    pub async fn met(&self) {
        self.met.notified().await;
    }

    /// Ends the queue for good, unless something waits in it.
    pub fn end_if_empty(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.ended = queue.letters.is_empty();
        queue.ended
    }
}
