//! The queue in front of one peer address, and its way out.
//!
//! While the peer is connected, whoever sends writes what waits himself
//! ([`Link::flush`]): to wake a task for it costs more than the write's own work.
//! What he cannot do without waiting, and all that went wrong, is left to the link's
//! task (`dial.rs`).
//!
//! Promises: it holds at most [`MAX_QUEUED_MESSAGES`] messages and
//! [`MAX_QUEUED_BYTES`] bytes of frames; messages leave it in the order in which
//! they came; no message is queued once it has ended; nobody waits here for a
//! peer, or gives anything back.

use std::collections::VecDeque;
use std::sync::{Mutex, TryLockError};

use tokio::sync::Notify;

use crate::protocol::effect::Address;
use crate::protocol::id::NodeId;
use crate::protocol::message::Message;

use super::outlet::{Outlet, Outlook};
use super::{MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES, Shared, lock};

/// How many writes in a row one sender makes of what others keep adding; then the
/// link's task goes on.
const MAX_WRITES: usize = 4;

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
    /// Nothing waited before it: see to it that the link is flushed.
    First,
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
    /// The connection, while there is one.
    outlet: Mutex<Option<Outlet>>,
    /// Word to the link's task.
    wake: Notify,
    /// Whoever listens at the address has just connected to this node.
    met: Notify,
}

impl Link {
    pub fn new(address: Address) -> Self {
        Link {
            address,
            queue: Mutex::default(),
            outlet: Mutex::default(),
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
        // Later messages find someone who is about to look.
        match queue.letters.len() {
            1 => Posted::First,
            _ => Posted::Queued,
        }
    }

    /// Writes what waits, and has the task see to what that leaves.
    pub fn flush(&self, shared: &Shared) {
        if self.write(shared) != Outlook::Good {
            self.wake.notify_one();
        }
    }

    /// Writes what waits, as far as that goes without waiting.
    pub fn write(&self, shared: &Shared) -> Outlook {
        for _ in 0..MAX_WRITES {
            let mut outlet = match self.outlet.try_lock() {
                Ok(outlet) => outlet,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // Whoever holds it looks again after letting go of it.
                Err(TryLockError::WouldBlock) => return Outlook::Good,
            };
            let outlook = match &mut *outlet {
                Some(outlet) => outlet.write_some(self, shared),
                None => Outlook::Wants,
            };
            drop(outlet);
            if outlook != Outlook::Good || self.is_empty() {
                return outlook;
            }
        }
        Outlook::Wants
    }

    /// Opens the way out.
    pub fn connect(&self, outlet: Outlet) {
        *lock(&self.outlet) = Some(outlet);
    }

    /// Closes the way out.
    pub fn disconnect(&self) -> Option<Outlet> {
        lock(&self.outlet).take()
    }

    /// What `look` finds at the connection, if there is one. Write afterwards: whoever
    /// came meanwhile has left that to the caller.
    pub fn with_outlet<T>(&self, look: impl FnOnce(&mut Outlet) -> T) -> Option<T> {
        lock(&self.outlet).as_mut().map(look)
    }

    /// Whether nothing waits, here or amid a write. Waits for whoever is writing.
    pub fn has_written_all(&self) -> bool {
        let is_idle = self.with_outlet(|outlet| outlet.is_idle());
        is_idle.unwrap_or(true) && self.is_empty()
    }

    fn is_empty(&self) -> bool {
        lock(&self.queue).letters.is_empty()
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

    /// Returns once there was something for the link's task since the last call; it
    /// may return once too often.
    pub async fn wanted(&self) {
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
