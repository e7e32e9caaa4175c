//! A bounded queue between those who ask and the threads that answer.
//!
//! Promises: what was taken in is handed out once, in order, also after the
//! queue was closed; pushing never waits. Bounded by count and by bytes, but an
//! empty queue takes one thing of any size, or that could never be done.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

/// The queue.
pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    ready: Condvar,
    max_items: usize,
    max_bytes: usize,
}

struct Inner<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// Threads that wait; a push that finds none saves itself a system call.
    idle: usize,
    closed: bool,
}

/// Why a queue gave back what it was to take.
pub enum Refused<T> {
    Full(T),
    Closed(T),
}

impl<T> Queue<T> {
    /// A queue of at most `max_items` things and `max_bytes` bytes.
    pub fn new(max_items: usize, max_bytes: usize) -> Self {
        Queue {
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                bytes: 0,
                idle: 0,
                closed: false,
            }),
            ready: Condvar::new(),
            max_items,
            max_bytes,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().expect("no code panics under this lock")
    }

    /// Takes in a thing of about `bytes` bytes.
    pub fn push(&self, item: T, bytes: usize) -> Result<(), Refused<T>> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(Refused::Closed(item));
        }
        let too_long = inner.items.len() >= self.max_items;
        let too_large = inner.bytes.saturating_add(bytes) > self.max_bytes;
        if too_long || (too_large && !inner.items.is_empty()) {
            return Err(Refused::Full(item));
        }
        inner.bytes += bytes;
        inner.items.push_back((item, bytes));
        let wake = inner.idle > 0;
        drop(inner);
        if wake {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits until there is something, then moves up to `most` things to the
    /// end of `into`. False when the queue is closed and empty.
    pub fn take(&self, most: usize, into: &mut VecDeque<T>) -> bool {
        let mut inner = self.inner();
        while inner.items.is_empty() {
            if inner.closed {
                return false;
            }
            inner.idle += 1;
            inner = self
                .ready
                .wait(inner)
                .expect("no code panics under this lock");
            inner.idle -= 1;
        }
        let count = inner.items.len().min(most);
        let mut bytes = 0;
        into.extend(inner.items.drain(..count).map(|(item, size)| {
            bytes += size;
            item
        }));
        inner.bytes -= bytes;
        true
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.inner().items.len()
    }

    /// Takes in nothing more; what waits is still handed out.
    pub fn close(&self) {
        self.inner().closed = true;
        self.ready.notify_all();
    }

    /// Closes, and gives back what waits: for a thread that cannot go on.
    pub fn abandon(&self) -> VecDeque<(T, usize)> {
        let mut inner = self.inner();
        inner.closed = true;
        inner.bytes = 0;
        std::mem::take(&mut inner.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_one_large_thing_always_fits() {
        let queue = Queue::new(2, 10);
        assert!(queue.push('a', 11).is_ok());
        assert!(matches!(queue.push('b', 1), Err(Refused::Full('b'))));
        let mut taken = VecDeque::new();
        assert!(queue.take(9, &mut taken));
        assert!(queue.push('c', 5).is_ok());
        assert!(queue.push('d', 5).is_ok());
        assert!(matches!(queue.push('e', 0), Err(Refused::Full('e'))));
        queue.close();
        assert!(matches!(queue.push('f', 0), Err(Refused::Closed('f'))));
        assert!(queue.take(1, &mut taken));
        assert!(queue.take(1, &mut taken));
        assert!(!queue.take(1, &mut taken));
        assert_eq!(taken, ['a', 'c', 'd']);
    }
}
