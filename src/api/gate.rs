//! Who is let in: how many item requests a node has in hand, and how many bytes.
//!
//! Connections do not read their next request while as many are in hand as may be:
//! what is not read costs nothing, and the system keeps it. Who has waited for
//! [`MAX_WAIT`] is read all the same, and told to come again. Room goes to those who
//! came last ([`Gate::wait`]): of those who came first, most have stopped waiting by
//! the time that everyone's turn would have come.
//!
//! Promises: at most [`ITEM_REQUESTS_PER_CORE`] item requests for each core are
//! carried out at once ([`MIN_ITEM_REQUESTS`] on the smallest machine,
//! [`MAX_ITEM_REQUESTS`] on the largest); bodies that are being read or worked on, and answers that have not left yet,
//! hold at most [`MAX_ITEM_BYTES`] together, and the answers of the requests that
//! were let in before that was reached; whoever is not let in is told so before
//! their body is read and before anything is done for them. An empty house lets
//! one request in, however large.
//!
//! Why a small number: a node that is offered more than it can do does not get
//! more done by having more in hand, it only answers each one later. Once answers
//! come later than clients wait, all work is for nobody. 256 requests at a few
//! thousand a second are a tenth of a second of work.
//!
//! Not promised: that what is let in is answered in time. Work that other nodes
//! forward is bounded by the machine (`MAX_REQUESTS` and `MAX_REQUEST_BYTES`
//! there), and is refused before it is begun too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::problem::{Code, Problem};

/// How many item requests are carried out at once, for each core; the next is told
/// at once that the node is overloaded. A core does a few thousand a second, so
/// these are less than a tenth of a second of work: enough to fill a commit with
/// what came while the last one was synced.
pub const ITEM_REQUESTS_PER_CORE: u64 = 128;
/// The fewest item requests that are carried out at once: a slow disk holds them
/// up whatever the cores could do, and so do answers that wait for their turn to
/// leave among thousands of refusals.
pub const MIN_ITEM_REQUESTS: u64 = 256;
/// The most item requests that are carried out at once.
pub const MAX_ITEM_REQUESTS: u64 = 1024;
/// How many bytes of bodies and answers are held at once: four values of the
/// largest size that a table may take, 64 of the usual limit.
pub const MAX_ITEM_BYTES: u64 = 64 << 20;
/// Answers up to this size are not counted: what a connection holds of them is
/// less than its own buffers.
const SMALL_ANSWER_BYTES: u64 = 4 << 10;

/// How long a connection leaves its next request unread for want of room. Each one
/// that is refused costs as much as a quarter of one that is carried out, so that a
/// node that refused them all at once would do little else; and most clients wait for
/// longer than this.
pub const MAX_WAIT: Duration = Duration::from_secs(1);

/// The gate of one node.
pub struct Gate {
    room: Arc<Notify>,
    max_requests: u64,
    requests: AtomicU64,
    bytes: Arc<AtomicU64>,
    refused: AtomicU64,
}

/// One request that was let in; gone when it is dropped, its client having gone
/// away included.
pub struct Pass<'a> {
    gate: &'a Gate,
    bytes: u64,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.requests.fetch_sub(1, Ordering::Relaxed);
        self.gate.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.gate.tell_of_room();
    }
}

/// An answer whose bytes count until hyper has let go of them.
struct Held {
    bytes: Bytes,
    count: Arc<AtomicU64>,
    room: Arc<Notify>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count
            .fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
        self.room.notify_last();
    }
}

impl Gate {
    /// The gate of a node with this many cores.
    pub fn new(cores: usize) -> Self {
        Gate {
            room: Arc::default(),
            max_requests: (ITEM_REQUESTS_PER_CORE * cores as u64)
                .clamp(MIN_ITEM_REQUESTS, MAX_ITEM_REQUESTS),
            requests: AtomicU64::new(0),
            bytes: Arc::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether the next one would not be let in, as far as can be seen now.
    pub fn is_full(&self) -> bool {
        self.requests.load(Ordering::Relaxed) >= self.max_requests
            || self.bytes.load(Ordering::Relaxed) >= MAX_ITEM_BYTES
    }

    /// Ends when there may be room, for the one who called this last.
    pub fn wait(&self) -> OwnedNotified {
        self.room.clone().notified_owned()
    }

    /// Wakes one who waits, if anyone does. Who was woken and has nothing to ask calls
    /// it in turn.
    pub fn tell_of_room(&self) {
        self.room.notify_last();
    }

    /// Lets a request in, or says that there is no room.
    pub fn enter(&self) -> Result<Pass<'_>, Problem> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let pass = Pass {
            gate: self,
            bytes: 0,
        };
        if before >= self.max_requests {
            return Err(self.refuse(
                "this node carries out as many requests as it can; try again after a moment, or \
                 at another node",
            ));
        }
        if self.bytes.load(Ordering::Relaxed) >= MAX_ITEM_BYTES {
            return Err(self.refuse_bytes());
        }
        Ok(pass)
    }

    /// Counts one that was turned away before it came to the gate.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn refuse(&self, detail: &str) -> Problem {
        self.count_refused();
        Problem::new(Code::Overloaded, detail)
    }

    fn refuse_bytes(&self) -> Problem {
        self.refuse(
            "this node has as many bytes of values in hand as it can hold; nothing was done; try \
             again after a moment, or at another node",
        )
    }

    /// How many requests found no room since this was last asked.
    pub fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    /// Whether an answer of so many bytes counts.
    pub fn counts(bytes: u64) -> bool {
        bytes > SMALL_ANSWER_BYTES
    }

    /// An answer's bytes, counted for as long as they are there.
    pub fn hold(&self, bytes: Bytes) -> Bytes {
        if !Self::counts(bytes.len() as u64) {
            return bytes;
        }
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Bytes::from_owner(Held {
            bytes,
            count: self.bytes.clone(),
            room: self.room.clone(),
        })
    }
}

impl Pass<'_> {
    /// Makes room for a body of this size, before it is read.
    pub fn admit_body(&mut self, bytes: u64) -> Result<(), Problem> {
        let before = self.gate.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before > 0 && before + bytes > MAX_ITEM_BYTES {
            return Err(self.gate.refuse_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_in_and_out() {
        let gate = Gate::new(3);
        let mut inside = Vec::new();
        for _ in 0..3 * ITEM_REQUESTS_PER_CORE {
            assert!(!gate.is_full());
            inside.push(gate.enter().expect("room"));
        }
        assert!(gate.is_full());
        assert!(gate.enter().is_err());
        assert!(gate.enter().is_err(), "who was refused takes no room");
        inside.pop();
        assert!(gate.enter().is_ok());
        assert_eq!(gate.take_refused(), 2);
        drop(inside);
        assert_eq!(gate.requests.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn machines_of_all_sizes_have_room() {
        assert_eq!(Gate::new(1).max_requests, MIN_ITEM_REQUESTS);
        assert_eq!(Gate::new(4).max_requests, 4 * ITEM_REQUESTS_PER_CORE);
        assert_eq!(Gate::new(1000).max_requests, MAX_ITEM_REQUESTS);
    }

    #[test]
    fn bytes_are_counted_in_and_out() {
        let gate = Gate::new(3);
        let mut first = gate.enter().expect("room");
        first.admit_body(MAX_ITEM_BYTES - 10).expect("room");
        let mut second = gate.enter().expect("room");
        assert!(second.admit_body(11).is_err());
        drop(second);
        let mut third = gate.enter().expect("room");
        third.admit_body(10).expect("just room");
        assert!(gate.enter().is_err(), "no byte is left");
        drop((first, third));
        assert_eq!(gate.bytes.load(Ordering::Relaxed), 0);
        // One that would never fit otherwise.
        let mut alone = gate.enter().expect("room");
        alone.admit_body(2 * MAX_ITEM_BYTES).expect("it is alone");
    }

    #[test]
    fn answers_count_until_they_are_gone() {
        let gate = Gate::new(3);
        let small = gate.hold(Bytes::from(vec![1; SMALL_ANSWER_BYTES as usize]));
        assert_eq!(gate.bytes.load(Ordering::Relaxed), 0);
        let large = gate.hold(Bytes::from(vec![2; MAX_ITEM_BYTES as usize]));
        assert_eq!((small[0], large[0]), (1, 2));
        let copy = large.slice(1..2);
        drop(large);
        assert!(gate.enter().is_err());
        drop(copy);
        assert!(gate.enter().is_ok());
    }
}
