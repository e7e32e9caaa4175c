//! The threads that run guests: [`Guests`] over a [`Sandbox`].
//!
//! Promises: every request is answered exactly once, also when the sandbox
//! closes and when the host itself panics; a full queue is answered at once.
//! Not promised: any order between requests.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::abi::Outcome;
use super::failure::Failure;
use super::module::Loaded;
use super::run::{Call, Sandbox, SandboxError, fuel_burnt};
use crate::protocol::catalog::ModuleKind;
use crate::protocol::effect::{GuestReply, GuestRequest};
use crate::reconcile::{Done, Guests};

/// Threads that run guests, behind one bounded queue.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    sandbox: Arc<Sandbox>,
    queue: Mutex<Queue>,
    wake: Condvar,
    refused: AtomicU64,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(GuestRequest, Done)>,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none when the sandbox closes.
    fn next(&self) -> Option<(GuestRequest, Done)> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Workers {
    /// Starts as many threads as the sandbox's limits say.
    pub fn start(sandbox: Arc<Sandbox>) -> Result<Self, SandboxError> {
        let count = sandbox.limits().worker_count();
        let workers = Workers {
            shared: Arc::new(Shared {
                sandbox,
                queue: Mutex::default(),
                wake: Condvar::new(),
                refused: AtomicU64::new(0),
            }),
            threads: Mutex::default(),
        };
        for index in 0..count {
            let shared = workers.shared.clone();
            let thread = thread::Builder::new()
                .name(format!("guest-{index}"))
                .spawn(move || {
                    while let Some((request, done)) = shared.next() {
                        let burnt = fuel_burnt();
                        let reply = run(&shared.sandbox, &request);
                        done(reply, fuel_burnt().wrapping_sub(burnt));
                    }
                })
                .map_err(SandboxError::Thread)?;
            workers.threads().push(thread);
        }
        Ok(workers)
    }

    /// The sandbox that the threads use.
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.shared.sandbox
    }

    /// How many requests wait for a thread.
    pub fn queue_depth(&self) -> u64 {
        self.shared.queue().jobs.len() as u64
    }

    /// How many requests met a full queue.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Answers what waits, lets the threads end what they are at, and ends them.
    /// Later requests are answered `Overloaded`.
    pub fn close(&self) {
        let waiting = {
            let mut queue = self.shared.queue();
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        self.shared.wake.notify_all();
        for (_, done) in waiting {
            done(GuestReply::Overloaded, 0);
        }
        let threads = std::mem::take(&mut *self.threads());
        let me = thread::current().id();
        for thread in threads {
            // The last owner may be a `done` on one of these threads.
            if thread.thread().id() != me && thread.join().is_err() {
                tracing::error!("a thread that ran guests had panicked");
            }
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests for Workers {
    fn submit(&self, request: GuestRequest, done: Done) {
        let mut queue = self.shared.queue();
        if queue.closed || queue.jobs.len() >= self.shared.sandbox.limits().queue {
            drop(queue);
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return done(GuestReply::Overloaded, 0);
        }
        queue.jobs.push_back((request, done));
        drop(queue);
        self.shared.wake.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs one request on this thread and counts it.
fn run(sandbox: &Sandbox, request: &GuestRequest) -> GuestReply {
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
