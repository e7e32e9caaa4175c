//! Who runs next: what keeps one module's endless loop out of the others' way.
//!
//! A fold takes microseconds, a module that spins some seconds. With a few threads
//! and one queue, a few such calls would make every table wait. So there are two
//! lanes. Every call begins in the **quick lane**. One that outlasts its quantum is
//! moved to the **slow lane**, thread and all, where the system gives it what is
//! left over, and a fresh thread takes its place. While a module has a call in the
//! slow lane, its other requests wait there too, behind that call; when one of them
//! ends within its quantum, the module is let back. (Multilevel feedback, as
//! schedulers have done it since Corbató's CTSS, 1962.)
//!
//! Promises: a module holds the quick lane for one quantum for each of its calls
//! there and never queues in it while it is slow; at most [`MAX_SLOW_CALLS`] calls
//! are in the slow lane; what waits is bounded in all and for each module; nothing
//! is lost: whatever does not fit is handed back. Decides only: no thread, no
//! clock, no lock is in here.

use std::collections::{BTreeMap, VecDeque};

use crate::protocol::catalog::Digest;

/// How many calls may be in the slow lane at once. They share what is left of the
/// cores, so more of them would only end later; one more is cut short.
pub(super) const MAX_SLOW_CALLS: usize = 4;
/// How many requests of one module wait behind its slow call. At some seconds a
/// call even these are answered long after their clients have gone.
pub(super) const MAX_HELD_PER_MODULE: usize = 64;

/// What waits for a thread, by lane.
pub(super) struct Lanes<T> {
    quick: VecDeque<(Digest, T)>,
    /// The modules that have calls in the slow lane.
    slow: BTreeMap<Digest, Slow<T>>,
    /// How many wait, in all.
    waiting: usize,
    /// How many may.
    limit: usize,
    slow_calls: usize,
}

struct Slow<T> {
    /// Its calls in the slow lane: one, or as many as were running when the first
    /// was found out.
    calls: usize,
    held: VecDeque<T>,
}

impl<T> Lanes<T> {
    /// Lanes in which at most `limit` wait.
    pub fn new(limit: usize) -> Self {
        Lanes {
            quick: VecDeque::new(),
            slow: BTreeMap::new(),
            waiting: 0,
            limit,
            slow_calls: 0,
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many calls are in the slow lane.
    pub fn slow_calls(&self) -> usize {
        self.slow_calls
    }

    /// Takes a request in, or hands it back when there is no room for it.
    pub fn push(&mut self, digest: Digest, job: T) -> Result<(), T> {
        if self.waiting >= self.limit {
            return Err(job);
        }
        match self.slow.get_mut(&digest) {
            Some(slow) if slow.held.len() >= MAX_HELD_PER_MODULE => return Err(job),
            Some(slow) => slow.held.push_back(job),
            None => self.quick.push_back((digest, job)),
        }
        self.waiting += 1;
        Ok(())
    }

    /// The next for a thread of the quick lane.
    pub fn pop(&mut self) -> Option<(Digest, T)> {
        let next = self.quick.pop_front()?;
        self.waiting -= 1;
        Some(next)
    }

    /// A call of this module has outlasted its quantum and wants to go on in the
    /// slow lane: its module's other requests come along, and those for which
    /// there is no room there are handed back. None: the lane is full, and the
    /// call has to end.
    pub fn overran(&mut self, digest: Digest) -> Option<Vec<T>> {
        if self.slow_calls >= MAX_SLOW_CALLS {
            return None;
        }
        self.slow_calls += 1;
        let slow = self.slow.entry(digest).or_insert(Slow {
            calls: 0,
            held: VecDeque::new(),
        });
        slow.calls += 1;
        let mut excess = Vec::new();
        for (other, job) in std::mem::take(&mut self.quick) {
            if other != digest {
                self.quick.push_back((other, job));
            } else if slow.held.len() < MAX_HELD_PER_MODULE {
                slow.held.push_back(job);
            } else {
                self.waiting -= 1;
                excess.push(job);
            }
        }
        Some(excess)
    }

    /// A thread of the slow lane has ended a call of this module, `within` its
    /// quantum or not. What it does next, or none: the thread has no more to do.
    pub fn next_slow(&mut self, digest: Digest, within: bool) -> Option<T> {
        let slow = self
            .slow
            .get_mut(&digest)
            .expect("a thread of the slow lane counts among its module's calls");
        if !within
            && slow.calls == 1
            && let Some(job) = slow.held.pop_front()
        {
            self.waiting -= 1;
            return Some(job);
        }
        slow.calls -= 1;
        self.slow_calls -= 1;
        if slow.calls == 0
            && let Some(slow) = self.slow.remove(&digest)
        {
            // In front: they have waited longest.
            for job in slow.held.into_iter().rev() {
                self.quick.push_front((digest, job));
            }
        }
        None
    }

    /// Hands back all that waits.
    pub fn drain(&mut self) -> Vec<T> {
        self.waiting = 0;
        let quick = std::mem::take(&mut self.quick).into_iter();
        let mut jobs: Vec<T> = quick.map(|(_, job)| job).collect();
        for slow in self.slow.values_mut() {
            jobs.extend(slow.held.drain(..));
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    #[test]
    fn a_slow_module_waits_behind_itself_and_nobody_else_does() {
        let (good, bad) = (digest("good"), digest("bad"));
        let mut lanes = Lanes::new(10);
        for job in 0..2 {
            lanes.push(bad, job).expect("room");
            lanes.push(good, 10 + job).expect("room");
        }
        assert_eq!(lanes.pop(), Some((bad, 0)));
        assert_eq!(lanes.overran(bad), Some(vec![]));
        lanes.push(bad, 2).expect("room");
        assert_eq!(lanes.pop(), Some((good, 10)));
        assert_eq!(lanes.pop(), Some((good, 11)));
        assert_eq!(lanes.pop(), None, "the bad one's requests are held");
        assert_eq!((lanes.waiting(), lanes.slow_calls()), (2, 1));
        assert_eq!(lanes.next_slow(bad, false), Some(1), "one after the other");
        // That one was quick: the module is let back.
        assert_eq!(lanes.next_slow(bad, true), None);
        assert_eq!(lanes.slow_calls(), 0);
        assert_eq!(lanes.pop(), Some((bad, 2)));
        assert_eq!(lanes.waiting(), 0);
    }

    #[test]
    fn calls_that_were_running_already_come_along_and_leave_one_thread() {
        let bad = digest("bad");
        let mut lanes = Lanes::new(10);
        for job in 0..3 {
            lanes.push(bad, job).expect("room");
        }
        assert!(lanes.pop().is_some() && lanes.pop().is_some());
        assert!(lanes.overran(bad).is_some() && lanes.overran(bad).is_some());
        assert_eq!(lanes.slow_calls(), 2);
        assert_eq!(lanes.next_slow(bad, false), None, "the other one goes on");
        assert_eq!(lanes.slow_calls(), 1);
        assert_eq!(lanes.next_slow(bad, false), Some(2));
        assert_eq!(lanes.next_slow(bad, false), None);
        assert_eq!((lanes.waiting(), lanes.slow_calls()), (0, 0));
    }

    #[test]
    fn the_slow_lane_and_what_waits_are_bounded() {
        let mut lanes = Lanes::new(1000);
        for module in 0..MAX_SLOW_CALLS {
            assert!(lanes.overran(digest(&module.to_string())).is_some());
        }
        assert_eq!(lanes.overran(digest("one more")), None);

        let slow = digest("0");
        for job in 0..MAX_HELD_PER_MODULE {
            lanes.push(slow, job).expect("room");
        }
        assert_eq!(lanes.push(slow, 7), Err(7));

        // What waited in the quick lane when its module was found out.
        let mut lanes = Lanes::new(MAX_HELD_PER_MODULE + 3);
        for job in 0..MAX_HELD_PER_MODULE + 3 {
            lanes.push(slow, job).expect("room");
        }
        assert_eq!(lanes.push(digest("other"), 7), Err(7));
        lanes.pop();
        let excess = lanes.overran(slow).expect("room");
        assert_eq!(excess, [MAX_HELD_PER_MODULE + 1, MAX_HELD_PER_MODULE + 2]);
        assert_eq!(lanes.waiting(), MAX_HELD_PER_MODULE);
        assert_eq!(lanes.drain().len(), MAX_HELD_PER_MODULE);
        assert_eq!(lanes.waiting(), 0);
    }
}
