//! The requests of an open loop that are due and wait for a free connection.
//!
//! Promises: at most [`MAX_WAITING`] wait; what finds no room and what still waits
//! at the end is counted, never lost silently; the connection that has idled
//! longest is woken first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::pacing::Schedule;
use crate::clock::Stopwatch;

/// How many requests may wait for a connection: beyond, a figure for how long they
/// wait says nothing that the number of those turned away does not.
pub const MAX_WAITING: usize = 65_536;
/// How long the pacer sleeps at most, so that it notices when it is to stop.
const MAX_NAP: Duration = Duration::from_millis(20);

/// Due times, oldest first.
pub struct Backlog {
    due_ns: Mutex<VecDeque<u64>>,
    /// A permit for each.
    waiting: Semaphore,
}

/// What became of requests that were due, but for those that were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// How many were due, sent or not.
    pub requests: u64,
    /// How many found the backlog full.
    pub crowded_out: u64,
    /// How many still waited at the end.
    pub left: u64,
}

impl Backlog {
    /// An empty one.
    pub fn new() -> Self {
        Backlog {
            due_ns: Mutex::default(),
            waiting: Semaphore::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.due_ns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds these; those that found no room are left in `due_ns`.
    fn push(&self, due_ns: &mut VecDeque<u64>) {
        let added = {
            let mut waiting = self.lock();
            let room = MAX_WAITING.saturating_sub(waiting.len());
            let added = room.min(due_ns.len());
            waiting.extend(due_ns.drain(..added));
            added
        };
        self.waiting.add_permits(added);
    }

    /// The oldest, once there is one; none when it is over.
    pub async fn take(&self) -> Option<u64> {
        let permit = self.waiting.acquire().await.ok()?;
        permit.forget();
        self.lock().pop_front()
    }

    /// Fills it as time goes by, from `begun_ns` until `until_ns` says that it is
    /// over; requests due before `from_ns` are not counted. Blocks its thread: the timers of a
    /// runtime are coarser than what is measured.
    pub fn fill(
        &self,
        mut schedule: Schedule,
        watch: Stopwatch,
        begun_ns: u64,
        from_ns: u64,
        until_ns: &dyn Fn() -> u64,
    ) -> Due {
        let mut due = Due::default();
        let mut batch = VecDeque::new();
        let mut next_ns = begun_ns + schedule.next_ns();
        loop {
            let until_ns = until_ns();
            let now_ns = watch.elapsed_ns();
            while next_ns <= now_ns.min(until_ns) {
                batch.push_back(next_ns);
                due.requests += u64::from(next_ns >= from_ns);
                next_ns = begun_ns + schedule.next_ns();
            }
            self.push(&mut batch);
            let counted = batch.drain(..).filter(|due_ns| *due_ns >= from_ns);
            due.crowded_out += counted.count() as u64;
            if now_ns >= until_ns {
                break;
            }
            let wake_ns = next_ns.min(until_ns);
            std::thread::sleep(MAX_NAP.min(Duration::from_nanos(wake_ns.saturating_sub(now_ns))));
        }
        self.waiting.close();
        let mut left = self.lock();
        due.left = left.iter().filter(|due_ns| **due_ns >= from_ns).count() as u64;
        left.clear();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::pacing::Arrivals;

    /// Nobody takes anything: all of it is accounted for, and what there is room
    /// for waits.
    #[test]
    fn what_is_not_sent_is_counted() {
        let backlog = Backlog::new();
        let watch = Stopwatch::start();
        let per_second = 10_000_000.0;
        let schedule = Schedule::new(Arrivals::Even, per_second, 1);
        let due = backlog.fill(schedule, watch, 0, 0, &|| 50_000_000);
        assert_eq!(due.left, MAX_WAITING as u64);
        assert_eq!(due.requests, due.left + due.crowded_out);
        // As many as the schedule has until then, however late the thread ran.
        assert_eq!(due.requests, 500_000);
    }

    #[tokio::test]
    async fn what_waits_is_taken_oldest_first_until_the_end() {
        let backlog = Backlog::new();
        backlog.push(&mut VecDeque::from([1, 2, 3]));
        assert_eq!(backlog.take().await, Some(1));
        assert_eq!(backlog.take().await, Some(2));
        let until_ns = || 0;
        let schedule = Schedule::new(Arrivals::Poisson, 1.0, 1);
        let due = backlog.fill(schedule, Stopwatch::start(), 0, 2, &until_ns);
        assert_eq!((due.requests, due.left), (0, 1));
        assert_eq!(backlog.take().await, None, "it is over");
    }
}
