//! The load phase: items that a workload works on.
//!
//! Promises: afterwards the table holds every key, with a value of the length that
//! was asked for; what an earlier run loaded is found and kept, and nothing is
//! written twice blindly, which would make siblings. Refusals that pass are waited
//! out, `MAX_TRIES` times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::caller::{Caller, Names, Reply, Values};
use super::record::Outcome;
use super::{BenchError, Plan, crew};
use crate::clock::Stopwatch;

/// How often a key is tried.
const MAX_TRIES: u32 = 10;
/// How long after the first try the second comes; the pause doubles each time, up
/// to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What the load phase came to.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    pub written: u64,
    /// Items that were there already.
    pub kept: u64,
    pub took_s: f64,
}

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    written: AtomicU64,
    kept: AtomicU64,
    is_stopped: AtomicBool,
}

impl Shared {
    fn done(&self) -> u64 {
        self.written.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed)
    }
}

async fn open(plan: &Plan, names: &Arc<Names>, place: usize) -> Result<Caller, BenchError> {
    let values = Values::new(plan.value_bytes, plan.seed);
    let authority = plan.authority(place);
    Caller::open(authority, names.clone(), values, plan.patience, 0)
        .await
        .map_err(|error| BenchError::Unreachable(error.to_string()))
}

fn names(plan: &Plan) -> Arc<Names> {
    Arc::new(Names::new(
        &plan.table,
        plan.has_sort_keys,
        &plan.query,
        plan.keys,
        &plan.run,
    ))
}

/// Whether the first and the last key of the load phase are there: keys are
/// written in order.
pub async fn is_loaded(plan: &Plan) -> Result<bool, BenchError> {
    let mut caller = open(plan, &names(plan), 0).await?;
    for key in [0, plan.keys.saturating_sub(1)] {
        let reply = look(&mut caller, key).await;
        match reply.outcome {
            Outcome::Absent => return Ok(false),
            outcome if outcome.is_answer() => {}
            _ => return Err(BenchError::Look(reply.tell())),
        }
    }
    Ok(true)
}

/// Whether the same request may well succeed later.
fn passes(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Overloaded | Outcome::Throttled | Outcome::QuorumUnmet | Outcome::NoAnswer
    )
}

/// How long to wait after so many tries.
fn pause(tries: u32) -> Duration {
    MAX_PAUSE.min(FIRST_PAUSE.saturating_mul(1 << (tries - 1).min(8)))
}

/// What is there, asked again while the answer is one that passes.
async fn look(caller: &mut Caller, key: u64) -> Reply {
    let mut tries = 1;
    loop {
        let reply = caller.look(key).await;
        if !passes(reply.outcome) || tries == MAX_TRIES {
            return reply;
        }
        tokio::time::sleep(pause(tries)).await;
        tries += 1;
    }
}

/// Sees to it that an item is there. `looks`: whether it may be there already.
async fn ensure(caller: &mut Caller, key: u64, length_bytes: u64, looks: bool) -> Ensured {
    let mut looks = looks;
    let mut tries = 1;
    loop {
        let mut context = None;
        if looks {
            let found = look(caller, key).await;
            match found.outcome {
                Outcome::Ok if found.length_bytes == Some(length_bytes) => return Ensured::Kept,
                // Written over: a value of another length, siblings, a tombstone.
                outcome if outcome.is_answer() => context = found.context,
                _ => return Ensured::Failed(found),
            }
        }
        let reply = caller.write(key, context).await;
        match reply.outcome {
            Outcome::Ok => return Ensured::Written,
            outcome if passes(outcome) && tries < MAX_TRIES => {
                // It may have been stored all the same.
                looks = true;
                tokio::time::sleep(pause(tries)).await;
                tries += 1;
            }
            _ => return Ensured::Failed(reply),
        }
    }
}

enum Ensured {
    Written,
    Kept,
    Failed(Reply),
}

/// Loads every key. `tell` hears how many are done, now and then; `stop` ends it
/// early, as an error that says how far it came.
pub async fn load(
    plan: &Plan,
    tell: &mut dyn FnMut(u64),
    stop: impl Future<Output = ()>,
) -> Result<Loaded, BenchError> {
    let watch = Stopwatch::start();
    let names = names(plan);
    // Keys are written in order: without the first there are none, and nobody need
    // look for the others.
    let looks = match look(&mut open(plan, &names, 0).await?, 0).await {
        reply if reply.outcome == Outcome::Absent => false,
        reply if reply.outcome.is_answer() => true,
        reply => return Err(BenchError::Look(reply.tell())),
    };
    let shared = Arc::new(Shared::default());
    let whole = Arc::new(plan.clone());
    let mut crew = {
        let shared = shared.clone();
        crew::spawn(plan.threads, plan.connections, move |place| {
            let (shared, names, plan) = (shared.clone(), names.clone(), whole.clone());
            async move {
                let mut caller = open(&plan, &names, place).await?;
                while !shared.is_stopped.load(Ordering::Relaxed) {
                    let key = shared.next.fetch_add(1, Ordering::Relaxed);
                    if key >= plan.keys {
                        break;
                    }
                    match ensure(&mut caller, key, plan.value_bytes as u64, looks).await {
                        Ensured::Written => shared.written.fetch_add(1, Ordering::Relaxed),
                        Ensured::Kept => shared.kept.fetch_add(1, Ordering::Relaxed),
                        Ensured::Failed(reply) => {
                            shared.is_stopped.store(true, Ordering::Relaxed);
                            return Err(BenchError::Load {
                                loaded: shared.done(),
                                keys: plan.keys,
                                reason: reply.tell(),
                            });
                        }
                    };
                }
                Ok(())
            }
        })
    };
    let mut stop = std::pin::pin!(stop);
    let mut is_stopped = false;
    loop {
        tokio::select! {
            ended = crew::wait(&mut crew) => {
                if ended.is_err() {
                    shared.is_stopped.store(true, Ordering::Relaxed);
                }
                ended?;
                break;
            }
            () = &mut stop, if !is_stopped => {
                is_stopped = true;
                shared.is_stopped.store(true, Ordering::Relaxed);
            }
            () = tokio::time::sleep(TELL_EVERY) => tell(shared.done()),
        }
    }
    tell(shared.done());
    if is_stopped && shared.done() < plan.keys {
        return Err(BenchError::Load {
            loaded: shared.done(),
            keys: plan.keys,
            reason: "told to stop".to_owned(),
        });
    }
    Ok(Loaded {
        written: shared.written.load(Ordering::Relaxed),
        kept: shared.kept.load(Ordering::Relaxed),
        took_s: watch.elapsed_ns() as f64 / 1e9,
    })
}
