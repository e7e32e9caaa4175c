//! The measured phase: connections that do the steps of a workload, and what
//! became of them.
//!
//! Promises: what was begun (or, in an open loop, due) after the warm-up and before
//! the end is counted, once, and awaited; it ends early when told to, and what
//! there is by then is measured all the same. Seconds of the timeline are bounded
//! by the time that was asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::sync::{Semaphore, watch};

use super::backlog::{Backlog, Due};
use super::caller::{Caller, Contexts, Names, RECONNECT_PAUSE, Reply, Values};
use super::pacing::Schedule;
use super::process::{cpu_s, own_cpu_s};
use super::record::{Outcome, Record};
use super::workload::{Answered, Operation, Step, Steps};
use super::{BenchError, Plan, crew};
use crate::clock::{Dice, Stopwatch};

const NS_PER_US: u64 = 1_000;
const NS_PER_SECOND: u64 = 1_000_000_000;
/// A last part of a second that is shorter than this is in the whole, but no point
/// of the timeline: a few answers in a moment make a wild rate.
const SHORTEST_POINT_S: f64 = 0.5;

/// What became of the operations of a second.
#[derive(Clone, Debug)]
pub struct Second {
    /// When it ended, in seconds after the warm-up.
    pub at_s: f64,
    /// How long it really was.
    pub lasted_s: f64,
    /// Operations that were answered, carried out or not refused at least.
    pub answered: u64,
    pub siblings: u64,
    pub failed: u64,
    /// Of each operation that was carried out: how many, and how quickly.
    pub operations: Vec<(Operation, Quantiles)>,
}

/// How quickly operations were carried out.
#[derive(Clone, Copy, Debug)]
pub struct Quantiles {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
}

impl Second {
    fn of(record: &Record, at_s: f64, lasted_s: f64) -> Second {
        let operations = Operation::ALL.into_iter().filter_map(|operation| {
            let latencies = record.latencies_us(operation, Outcome::Ok)?;
            let quantiles = Quantiles {
                count: latencies.len(),
                p50_us: latencies.value_at_quantile(0.5),
                p99_us: latencies.value_at_quantile(0.99),
            };
            Some((operation, quantiles))
        });
        Second {
            at_s,
            lasted_s,
            answered: record.steps(Outcome::is_answer),
            siblings: record.steps(|outcome| outcome == Outcome::Siblings),
            failed: record.steps(|outcome| !outcome.is_answer()),
            operations: operations.collect(),
        }
    }

    /// Answers a second.
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.lasted_s
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    WarmingUp,
    Second(&'a Second),
}

/// What a run came to.
pub struct Measured {
    pub record: Record,
    pub timeline: Vec<Second>,
    /// How long operations were begun, in seconds: the time that was asked for,
    /// unless it was ended early.
    pub lasted_s: f64,
    pub ended_early: bool,
    /// What was due, in an open loop.
    pub due: Option<Due>,
    /// How long processor time was counted, in seconds: until the last answer.
    pub cpu_span_s: f64,
    /// None where the system does not tell.
    pub client_cpu_s: Option<f64>,
    /// Of each process that was named; none of one that ended meanwhile.
    pub servers_cpu_s: Vec<(u32, Option<f64>)>,
}

struct Shared {
    plan: Plan,
    watch: Stopwatch,
    /// What was begun before is not counted.
    from_ns: AtomicU64,
    /// Nothing is begun after it.
    until_ns: AtomicU64,
    next_insert: AtomicU64,
    answered: Mutex<Answered>,
    /// Keys below are there.
    items: AtomicU64,
    backlog: Backlog,
    /// One of each thread.
    records: Vec<Mutex<Record>>,
    opened: Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(plan: &Plan) -> Arc<Self> {
        Arc::new(Shared {
            plan: plan.clone(),
            watch: Stopwatch::start(),
            from_ns: AtomicU64::new(u64::MAX),
            until_ns: AtomicU64::new(u64::MAX),
            next_insert: AtomicU64::new(plan.keys),
            answered: Mutex::new(Answered::from(plan.keys)),
            items: AtomicU64::new(plan.keys),
            backlog: Backlog::new(),
            records: (0..plan.threads).map(|_| Mutex::default()).collect(),
            opened: Semaphore::new(0),
        })
    }

    fn is_over(&self) -> bool {
        self.watch.elapsed_ns() >= self.until_ns.load(Ordering::Relaxed)
    }

    fn end_now(&self) {
        let now_ns = self.watch.elapsed_ns();
        self.until_ns.fetch_min(now_ns, Ordering::Relaxed);
    }

    /// What was counted since it was last asked.
    fn harvest(&self, spare: &mut Record) -> Record {
        let mut whole = Record::default();
        for record in &self.records {
            // Swapped, so that no thread waits while another's counts are added.
            std::mem::swap(&mut *lock(record), spare);
            whole.absorb(spare);
            spare.clear();
        }
        whole
    }
}

/// One connection at work.
struct Worker {
    shared: Arc<Shared>,
    caller: Caller,
    steps: Steps,
    contexts: Arc<Mutex<Contexts>>,
    /// Which thread's record is this one's.
    thread: usize,
}

impl Worker {
    async fn closed_loop(&mut self) {
        while !self.shared.is_over() {
            let begun_ns = self.shared.watch.elapsed_ns();
            self.step(begun_ns).await;
        }
    }

    async fn open_loop(&mut self) {
        let shared = self.shared.clone();
        while let Some(due_ns) = shared.backlog.take().await {
            if due_ns >= shared.from_ns.load(Ordering::Relaxed) {
                let late_ns = shared.watch.elapsed_ns().saturating_sub(due_ns);
                lock(&shared.records[self.thread]).count_late(late_ns / NS_PER_US);
            }
            self.step(due_ns).await;
        }
    }

    /// Does the next step, which was begun, or was due, then.
    async fn step(&mut self, begun_ns: u64) {
        let items = self.shared.items.load(Ordering::Relaxed);
        let step = self.steps.next(items);
        let reply = match step.operation {
            Operation::Read => self.read(step, begun_ns).await,
            Operation::Update => self.update(step, begun_ns).await,
            Operation::Insert => self.insert(begun_ns).await,
            Operation::ReadModifyWrite => self.read_modify_write(step, begun_ns).await,
            Operation::ReadForContext => unreachable!("it comes with updates only"),
        };
        if reply.is_unconnected() {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    fn count(&self, operation: Operation, outcome: Outcome, begun_ns: u64, reply: &Reply) {
        if begun_ns < self.shared.from_ns.load(Ordering::Relaxed) {
            return;
        }
        let took_ns = self.shared.watch.elapsed_ns().saturating_sub(begun_ns);
        let mut record = lock(&self.shared.records[self.thread]);
        record.count(operation, outcome, took_ns / NS_PER_US);
        if !outcome.is_answer() {
            record.retry_after_s = record.retry_after_s.max(reply.retry_after_s);
            record.note_failure(|| reply.tell());
        }
    }

    fn remember(&self, key: u64, context: Option<&HeaderValue>) {
        if let Some(context) = context {
            lock(&self.contexts).remember(key, context);
        }
    }

    async fn read(&mut self, step: Step, begun_ns: u64) -> Reply {
        let reply = self.caller.read(step.key).await;
        self.count(Operation::Read, reply.outcome, begun_ns, &reply);
        self.remember(step.key, reply.context.as_ref());
        reply
    }

    /// A write over what this client saw last. When it never saw the item it reads
    /// it first, which is counted apart. After a blind write it does not know the
    /// item any more: the next one finds the sibling and resolves it.
    async fn update(&mut self, step: Step, begun_ns: u64) -> Reply {
        let mut begun_ns = begun_ns;
        let mut context = None;
        if step.is_blind {
            lock(&self.contexts).forget(step.key);
        } else {
            context = lock(&self.contexts).get(step.key);
            if context.is_none() {
                let sent_ns = self.shared.watch.elapsed_ns();
                let found = self.caller.read(step.key).await;
                self.count(Operation::ReadForContext, found.outcome, begun_ns, &found);
                if !found.outcome.is_answer() {
                    self.count(Operation::Update, found.outcome, begun_ns, &found);
                    return found;
                }
                // What the read took is its own; what the update waited before it
                // is still the update's.
                begun_ns += self.shared.watch.elapsed_ns() - sent_ns;
                context = found.context;
            }
        }
        let reply = self.caller.write(step.key, context).await;
        self.count(Operation::Update, reply.outcome, begun_ns, &reply);
        match reply.outcome {
            Outcome::Ok if !step.is_blind => self.remember(step.key, reply.context.as_ref()),
            Outcome::Ok => {}
            // Perhaps there are siblings now that it has not seen.
            _ => lock(&self.contexts).forget(step.key),
        }
        reply
    }

    async fn insert(&mut self, begun_ns: u64) -> Reply {
        let shared = self.shared.clone();
        let key = shared.next_insert.fetch_add(1, Ordering::Relaxed);
        let reply = self.caller.write(key, None).await;
        self.count(Operation::Insert, reply.outcome, begun_ns, &reply);
        // Refused ones too: readers of the newest would wait for ever for them.
        let items = lock(&shared.answered).take(key);
        shared.items.fetch_max(items, Ordering::Relaxed);
        reply
    }

    async fn read_modify_write(&mut self, step: Step, begun_ns: u64) -> Reply {
        let found = self.caller.read(step.key).await;
        if !found.outcome.is_answer() {
            self.count(Operation::ReadModifyWrite, found.outcome, begun_ns, &found);
            return found;
        }
        let context = found.context.filter(|_| !step.is_blind);
        let reply = self.caller.write(step.key, context).await;
        // Siblings are an outcome of their own: they are larger, and are resolved.
        let outcome = match (reply.outcome, found.outcome) {
            (Outcome::Ok, Outcome::Siblings) => Outcome::Siblings,
            (outcome, _) => outcome,
        };
        self.count(Operation::ReadModifyWrite, outcome, begun_ns, &reply);
        reply
    }
}

/// Connections for a run: each connects, waits for the beginning, and works until
/// the end.
fn spawn_workers(
    shared: &Arc<Shared>,
    begins: &watch::Receiver<bool>,
) -> tokio::task::JoinSet<Result<(), BenchError>> {
    let plan = &shared.plan;
    let names = Arc::new(Names::new(
        &plan.table,
        plan.has_sort_keys,
        &plan.query,
        plan.keys,
        &plan.run,
    ));
    let values = Values::new(plan.value_bytes, plan.seed);
    let together = Arc::new(Mutex::new(Contexts::with_slots(plan.context_slots())));
    let (shared, begins) = (shared.clone(), begins.clone());
    crew::spawn(plan.threads, plan.connections, move |place| {
        let shared = shared.clone();
        let (names, values, together) = (names.clone(), values.clone(), together.clone());
        let mut begins = begins.clone();
        async move {
            let plan = &shared.plan;
            // Seeds of neighbours must not be neighbours of other runs' seeds.
            let seed = Dice::from_seed(plan.seed ^ ((place as u64 + 1) << 32)).next_u64();
            let contexts = if plan.shares_contexts {
                together
            } else {
                Arc::new(Mutex::new(Contexts::with_slots(plan.context_slots())))
            };
            let authority = plan.authority(place);
            let caller = Caller::open(authority, names, values, plan.patience, seed)
                .await
                .map_err(|error| BenchError::Unreachable(error.to_string()))?;
            let mut worker = Worker {
                caller,
                steps: Steps::new(
                    plan.workload,
                    plan.distribution,
                    plan.keys,
                    plan.conflicts,
                    seed,
                ),
                contexts,
                thread: place % plan.threads,
                shared: shared.clone(),
            };
            shared.opened.add_permits(1);
            if begins.wait_for(|begins| *begins).await.is_err() {
                // Nobody is left who could begin.
                return Ok(());
            }
            match plan.rate {
                None => worker.closed_loop().await,
                Some(_) => worker.open_loop().await,
            }
            Ok(())
        }
    })
}

/// Whether the processor time of these processes can be read at all.
pub fn see_processes(pids: &[u32]) -> Result<(), BenchError> {
    pids.iter().try_for_each(|pid| match cpu_s(*pid) {
        Ok(_) => Ok(()),
        Err(source) => Err(BenchError::Pid { pid: *pid, source }),
    })
}

/// What is measured besides the answers, from the end of the warm-up on.
struct Meters {
    at_ns: u64,
    own_s: Option<f64>,
    /// In the order of the plan. A server that ended is part of what is found out.
    servers_s: Vec<Option<f64>>,
}

impl Meters {
    fn read(shared: &Shared) -> Meters {
        let servers_s = shared.plan.pids.iter().map(|pid| cpu_s(*pid).ok());
        Meters {
            at_ns: shared.watch.elapsed_ns(),
            own_s: own_cpu_s(),
            servers_s: servers_s.collect(),
        }
    }
}

fn spent_s(begin_s: Option<f64>, end_s: Option<f64>) -> Option<f64> {
    Some(end_s? - begin_s?)
}

/// What a run has come to so far.
struct Harvest {
    whole: Record,
    timeline: Vec<Second>,
    spare: Record,
    last_ns: u64,
}

impl Harvest {
    fn take(&mut self, shared: &Shared, from_ns: u64, shortest_s: f64) -> Option<&Second> {
        let now_ns = shared.watch.elapsed_ns();
        let record = shared.harvest(&mut self.spare);
        self.whole.absorb(&record);
        let seconds = |ns: u64| ns as f64 / NS_PER_SECOND as f64;
        let lasted_s = seconds(now_ns.saturating_sub(self.last_ns));
        self.last_ns = now_ns;
        if lasted_s < shortest_s {
            return None;
        }
        let at_s = seconds(now_ns.saturating_sub(from_ns));
        self.timeline.push(Second::of(&record, at_s, lasted_s));
        self.timeline.last()
    }
}

/// Runs the measured phase. `tell` hears how far it is, once a second; `stop` ends
/// it early.
pub async fn run(
    plan: &Plan,
    tell: &mut dyn FnMut(Progress<'_>),
    stop: impl Future<Output = ()>,
) -> Result<Measured, BenchError> {
    let shared = Shared::new(plan);
    let (begin, begins) = watch::channel(false);
    let mut workers = spawn_workers(&shared, &begins);
    let ended = measure(&shared, &begin, &mut workers, tell, stop).await;
    if ended.is_err() {
        // What still runs has nobody to report to.
        shared.end_now();
    }
    ended
}

async fn measure(
    shared: &Arc<Shared>,
    begin: &watch::Sender<bool>,
    workers: &mut tokio::task::JoinSet<Result<(), BenchError>>,
    tell: &mut dyn FnMut(Progress<'_>),
    stop: impl Future<Output = ()>,
) -> Result<Measured, BenchError> {
    let plan = &shared.plan;
    let connections = u32::try_from(plan.connections).unwrap_or(u32::MAX);
    tokio::select! {
        ended = crew::wait(workers) => return ended.and(Err(BenchError::NothingBegun)),
        opened = shared.opened.acquire_many(connections) => {
            opened.expect("it is never closed").forget();
        }
    }
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let begun_ns = shared.watch.elapsed_ns();
    let from_ns = begun_ns.saturating_add(ns(plan.warmup));
    let planned_ns = from_ns.saturating_add(ns(plan.seconds));
    shared.from_ns.store(from_ns, Ordering::Relaxed);
    shared.until_ns.store(planned_ns, Ordering::Relaxed);
    begin.send_replace(true);
    let pacer = plan.rate.map(|rate| {
        let shared = shared.clone();
        let schedule = Schedule::new(rate.arrivals, rate.per_second, shared.plan.seed);
        tokio::task::spawn_blocking(move || {
            let until_ns = || shared.until_ns.load(Ordering::Relaxed);
            shared
                .backlog
                .fill(schedule, shared.watch, begun_ns, from_ns, &until_ns)
        })
    });
    let mut meters = Meters::read(shared);
    let mut harvest = Harvest {
        whole: Record::default(),
        timeline: Vec::new(),
        spare: Record::default(),
        last_ns: from_ns,
    };
    let mut stop = std::pin::pin!(stop);
    let mut ended_early = false;
    let mut tick_ns = from_ns;
    if begun_ns < from_ns {
        tell(Progress::WarmingUp);
    }
    loop {
        let now_ns = shared.watch.elapsed_ns();
        tokio::select! {
            ended = crew::wait(workers) => {
                ended?;
                break;
            }
            () = &mut stop, if !ended_early => {
                ended_early = true;
                shared.end_now();
            }
            () = tokio::time::sleep(Duration::from_nanos(tick_ns.saturating_sub(now_ns))) => {
                if tick_ns == from_ns {
                    meters = Meters::read(shared);
                } else if let Some(second) = harvest.take(shared, from_ns, 0.0) {
                    tell(Progress::Second(second));
                }
                tick_ns += NS_PER_SECOND;
            }
        }
    }
    if let Some(second) = harvest.take(shared, from_ns, SHORTEST_POINT_S) {
        tell(Progress::Second(second));
    }
    let due = match pacer {
        None => None,
        Some(pacer) => Some(pacer.await?),
    };
    let until_ns = shared.until_ns.load(Ordering::Relaxed);
    let end = Meters::read(shared);
    let servers = meters.servers_s.iter().zip(&end.servers_s);
    let servers_cpu_s = servers.map(|(begin_s, end_s)| spent_s(*begin_s, *end_s));
    Ok(Measured {
        record: harvest.whole,
        timeline: harvest.timeline,
        lasted_s: until_ns.saturating_sub(from_ns) as f64 / NS_PER_SECOND as f64,
        ended_early,
        due,
        cpu_span_s: end.at_ns.saturating_sub(meters.at_ns) as f64 / NS_PER_SECOND as f64,
        client_cpu_s: spent_s(meters.own_s, end.own_s),
        servers_cpu_s: plan.pids.iter().copied().zip(servers_cpu_s).collect(),
    })
}
