//! The threads that run guests: [`Guests`] over a [`Sandbox`], in two lanes
//! (`lanes.rs`).
//!
//! Promises: every request is answered exactly once, also when the sandbox
//! closes and when the host itself panics; a full queue is answered at once; as
//! many threads as the limits say wait for quick calls, whatever the slow ones do.
//! Not promised: any order between requests.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::abi::Outcome;
use super::failure::Failure;
use super::lanes::Lanes;
use super::module::Loaded;
use super::run::{Call, Sandbox, SandboxError, fuel_burnt};
use crate::clock::{Clock, SystemClock};
use crate::protocol::catalog::{Digest, ModuleKind};
use crate::protocol::effect::{GuestReply, GuestRequest};
use crate::reconcile::{Done, Guests};

/// How long a request may wait behind a slow call of its module and still be run:
/// whoever asked has been answered without it by then.
const MAX_WAIT_MS: u64 = 10_000;
/// The niceness of threads in the slow lane: a thirtieth of a core where others
/// want it (Linux gives 36 shares to 1,024), enough not to sit on a lock for long.
#[cfg(target_os = "linux")]
const SLOW_NICENESS: i32 = 15;

/// Threads that run guests, behind one bounded queue.
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    sandbox: Arc<Sandbox>,
    queue: Mutex<Queue>,
    wake: Condvar,
    refused: AtomicU64,
    clock: SystemClock,
    /// All that were started and may still run.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Queue {
    lanes: Lanes<Job>,
    closed: bool,
}

struct Job {
    request: GuestRequest,
    done: Done,
    since_ms: u64,
}

/// What a thread that runs guests knows of itself.
struct Place {
    shared: Arc<Shared>,
    /// The module whose call it runs.
    digest: Digest,
    /// Whether it was moved to the slow lane, from which it does not come back.
    is_slow: bool,
    /// Whether a call of the request that it runs outlasted its quantum.
    has_overrun: bool,
}

thread_local! {
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// A call on this thread has outlasted its quantum. Whether it may go on.
pub(super) fn may_go_on() -> bool {
    PLACE.with_borrow_mut(|place| match place {
        // Law checks and dry runs are on threads of their own.
        None => true,
        Some(place) => place.may_go_on(),
    })
}

impl Place {
    fn may_go_on(&mut self) -> bool {
        self.has_overrun = true;
        if self.shared.queue().closed {
            return false;
        }
        if self.is_slow {
            return true;
        }
        let Some(excess) = self.shared.queue().lanes.overran(self.digest) else {
            return false;
        };
        for job in excess {
            self.shared.refuse(job.done);
        }
        if let Err(error) = start_thread(&self.shared) {
            tracing::error!(%error, "a slow call is cut short: no thread can take its place");
            let none = self.shared.queue().lanes.next_slow(self.digest, true);
            debug_assert!(none.is_none(), "its module is let back");
            return false;
        }
        self.is_slow = true;
        step_back();
        tracing::debug!(digest = %self.digest, "a call takes long: its module waits in the slow lane");
        true
    }
}

/// Leaves the cores to the other threads, for good.
fn step_back() {
    // Linux takes "the calling process" for the calling thread (setpriority(2)).
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, SLOW_NICENESS) {
        tracing::warn!(%error, "a slow call keeps its priority");
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none when the sandbox closes.
    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            if let Some((_, job)) = queue.lanes.pop() {
                return Some(job);
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn refuse(&self, done: Done) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        done(GuestReply::Overloaded, 0);
    }
}

/// Starts one more thread of the quick lane.
fn start_thread(shared: &Arc<Shared>) -> Result<(), SandboxError> {
    let mut threads = shared.threads();
    threads.retain(|thread| !thread.is_finished());
    let mine = shared.clone();
    let thread = thread::Builder::new()
        .name("guest".to_owned())
        .spawn(move || serve(&mine))
        .map_err(SandboxError::Thread)?;
    threads.push(thread);
    Ok(())
}

/// Runs requests of the quick lane until the sandbox closes, or until one of them
/// takes this thread to the slow lane; then those of its module.
fn serve(shared: &Arc<Shared>) {
    while let Some(job) = shared.next() {
        let digest = job.request.digest;
        let mut place = run_job(shared, job, false);
        while place.is_slow {
            let next = {
                let mut queue = shared.queue();
                if queue.closed {
                    return;
                }
                queue.lanes.next_slow(digest, !place.has_overrun)
            };
            let now_ms = shared.clock.now().monotonic_ms;
            // Whatever it handed back to the quick lane wants a thread.
            shared.wake.notify_all();
            match next {
                None => return,
                Some(job) if now_ms.saturating_sub(job.since_ms) > MAX_WAIT_MS => {
                    shared.refuse(job.done);
                    place.has_overrun = true;
                }
                Some(job) => place = run_job(shared, job, true),
            }
        }
    }
}

/// Runs one request and answers it. Says where that took the thread.
fn run_job(shared: &Arc<Shared>, job: Job, is_slow: bool) -> Place {
    PLACE.set(Some(Place {
        shared: shared.clone(),
        digest: job.request.digest,
        is_slow,
        has_overrun: false,
    }));
    let burnt = fuel_burnt();
    let reply = run(&shared.sandbox, &job.request);
    let fuel = fuel_burnt().wrapping_sub(burnt);
    let place = PLACE.take().expect("nobody else takes it");
    (job.done)(reply, fuel);
    place
}

impl Workers {
    /// Starts as many threads as the sandbox's limits say.
    pub fn start(sandbox: Arc<Sandbox>) -> Result<Self, SandboxError> {
        let count = sandbox.limits().worker_count();
        let lanes = Lanes::new(sandbox.limits().queue);
        let workers = Workers {
            shared: Arc::new(Shared {
                sandbox,
                queue: Mutex::new(Queue {
                    lanes,
                    closed: false,
                }),
                wake: Condvar::new(),
                refused: AtomicU64::new(0),
                clock: SystemClock::new(),
                threads: Mutex::default(),
            }),
        };
        for _ in 0..count {
            start_thread(&workers.shared)?;
        }
        Ok(workers)
    }

    /// The sandbox that the threads use.
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.shared.sandbox
    }

    /// How many requests wait for a thread.
    pub fn queue_depth(&self) -> u64 {
        self.shared.queue().lanes.waiting() as u64
    }

    /// How many calls have outlasted their quantum and still run.
    pub fn slow_calls(&self) -> u64 {
        self.shared.queue().lanes.slow_calls() as u64
    }

    /// How many requests met a full queue.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Answers what waits, lets the threads end what they are at (slow calls are
    /// cut short), and ends them. Later requests are answered `Overloaded`.
    pub fn close(&self) {
        let waiting = {
            let mut queue = self.shared.queue();
            queue.closed = true;
            queue.lanes.drain()
        };
        self.shared.wake.notify_all();
        for job in waiting {
            (job.done)(GuestReply::Overloaded, 0);
        }
        let me = thread::current().id();
        loop {
            // A call that outlasts its quantum just now may have started one more.
            let threads = std::mem::take(&mut *self.shared.threads());
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                // The last owner may be a `done` on one of these threads.
                if thread.thread().id() != me && thread.join().is_err() {
                    tracing::error!("a thread that ran guests had panicked");
                }
            }
        }
    }
}

impl Guests for Workers {
    fn submit(&self, request: GuestRequest, done: Done) {
        let mut queue = self.shared.queue();
        let digest = request.digest;
        let job = Job {
            request,
            done,
            since_ms: self.shared.clock.now().monotonic_ms,
        };
        let refused = if queue.closed {
            Some(job)
        } else {
            queue.lanes.push(digest, job).err()
        };
        drop(queue);
        match refused {
            Some(job) => self.shared.refuse(job.done),
            None => self.shared.wake.notify_one(),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs one request on this thread and counts it: what a worker does with each,
/// for those who have no need of workers.
pub fn run(sandbox: &Sandbox, request: &GuestRequest) -> GuestReply {
    let Some(loaded) = sandbox.loaded(request.digest) else {
        return GuestReply::Missing;
    };
    let answer = catch_unwind(AssertUnwindSafe(|| answer(sandbox, &loaded, request)));
    let reply = match answer {
        Ok(Ok(reply)) => reply,
        Ok(Err(Failure::Busy)) => return GuestReply::Overloaded,
        Ok(Err(failure)) => GuestReply::Failed(failure.to_string()),
        Err(_) => GuestReply::Failed("the sandbox itself failed; see this node's log".to_owned()),
    };
    loaded.counters.folds.fetch_add(1, Ordering::Relaxed);
    if let GuestReply::Failed(reason) = &reply {
        loaded.counters.failures.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(digest = %request.digest, table = %request.table, reason, "a guest failed");
    }
    reply
}

/// Fold, apply, render: what of these is asked for.
fn answer(
    sandbox: &Sandbox,
    loaded: &Loaded,
    request: &GuestRequest,
) -> Result<GuestReply, Failure> {
    let call = Call::new(&request.table, &request.key, request.max_output_bytes);
    let mut state: Option<Bytes> = match &request.siblings[..] {
        [] => None,
        // One version needs no merging.
        [only] => only.version.value.clone(),
        siblings => match sandbox.fold(loaded, &call, siblings)? {
            Outcome::Merged(value) => Some(value.into()),
            Outcome::Deleted => None,
            Outcome::Unresolved => return Ok(GuestReply::Unresolved),
        },
    };
    if let Some(operation) = &request.operation {
        match sandbox.apply(loaded, &call, state.as_deref(), operation) {
            Ok(changed) => state = Some(changed),
            Err(Failure::Refused(reason)) => return Ok(GuestReply::BadOperation(reason)),
            Err(failure) => return Err(failure),
        }
    }
    // A deleted item has no view, and neither has a plain reconciler's value.
    let view = match &state {
        Some(state) if request.render && loaded.kind() == ModuleKind::DataType => {
            Some(sandbox.render(loaded, state, request.max_output_bytes)?)
        }
        _ => None,
    };
    Ok(GuestReply::Done { value: state, view })
}
