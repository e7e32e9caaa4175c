//! Load on a store, closed and open.
//!
//! Promises: a closed loop asks again as soon as it is answered; an open loop
//! asks at even intervals whether or not it is answered, and counts latency from
//! the moment that a request was due, so that a store which stands still is
//! charged for all who wait (no coordinated omission). A refusal is counted and
//! shown and is no operation; a broken connection or a value that is cut short
//! ends the run. Each thread of the client is a runtime of its own with its share
//! of the connections, which are spread over the nodes evenly and opened before
//! the clock starts.

use std::fmt;
use std::net::TcpStream;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::ValueEnum;
use kinfold::clock::Dice;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::processes;
use crate::wire::{Connection, Target, connect};

/// Keys of the phase that reads and writes.
const CHANGED_KEYS: u64 = 10_000;
/// How many requests of an open loop may wait for each thread's connections,
/// beyond which the rest is not sent and counted as failed: the store is not
/// keeping up by then.
const MAX_WAITING: usize = 65_536;
/// How often a fresh node is asked before it counts as broken, and how long
/// between: Garage's nodes learn of keys and buckets from one another.
const WARM_UP_TRIES: usize = 100;
const WARM_UP_PAUSE: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A new key each, without a context.
    Put,
    /// A key that was put, any of them.
    Get,
    /// A read, and a write with its context; two requests, one operation.
    #[value(name = "rmw")]
    ReadModifyWrite,
}

impl fmt::Display for Phase {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Phase::Put => "put",
            Phase::Get => "get",
            Phase::ReadModifyWrite => "read-modify-write",
        })
    }
}

/// How much of it.
#[derive(Clone)]
pub struct Load {
    pub connections: usize,
    pub threads: usize,
    pub duration: Duration,
    pub value: Arc<[u8]>,
}

/// Latencies, sorted, in microseconds.
#[derive(Clone, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// The latency that a share of the operations kept under, in milliseconds;
    /// zero where there were none.
    pub fn milliseconds(&self, share: f64) -> f64 {
        let place = (self.0.len() as f64 * share) as usize;
        let us = self.0.get(place).or(self.0.last());
        us.map_or(0.0, |us| f64::from(*us) / 1_000.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Latencies> for Latencies {
    fn from_iter<All: IntoIterator<Item = Latencies>>(all: All) -> Latencies {
        let mut sorted: Vec<u32> = all.into_iter().flat_map(|one| one.0).collect();
        sorted.sort_unstable();
        Latencies(sorted)
    }
}

/// What one turn of a closed loop came to.
#[derive(Serialize, Clone)]
pub struct Sample {
    pub operations: usize,
    pub failures: usize,
    pub first_failure: Option<String>,
    pub seconds: f64,
    pub per_second: f64,
    /// Processor time of the store for each operation while there was load.
    pub cpu_us: f64,
    /// The same for what it did afterwards, until it rested.
    pub after_cpu_us: f64,
    /// Processor time of the client for each operation.
    pub client_cpu_us: f64,
    /// Of all cores' time that the client could use, the share that it used.
    pub client_busy: f64,
    #[serde(skip)]
    pub latencies: Latencies,
}

/// What one turn of an open loop came to.
#[derive(Serialize, Clone)]
pub struct Open {
    pub asked_per_second: f64,
    pub answered_per_second: f64,
    pub operations: usize,
    pub failures: usize,
    pub first_failure: Option<String>,
    #[serde(skip)]
    pub latencies: Latencies,
}

/// What some workers saw.
#[derive(Default)]
struct Seen {
    latencies: Latencies,
    failures: usize,
    first_failure: Option<String>,
}

impl Seen {
    fn note(&mut self, outcome: Result<(), String>, since: Instant) {
        match outcome {
            Ok(()) => {
                let us = since.elapsed().as_micros();
                self.latencies.0.push(u32::try_from(us).unwrap_or(u32::MAX));
            }
            Err(refusal) => {
                self.failures += 1;
                self.first_failure.get_or_insert(refusal);
            }
        }
    }
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Seen) {
        self.latencies.0.extend(other.latencies.0);
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

/// When a connection asks.
#[derive(Clone)]
enum Turn {
    /// As soon as it is answered, until then.
    Closed { end: Instant },
    /// When one that is due comes out of its thread's queue.
    Open {
        queue: Arc<Mutex<mpsc::Receiver<Instant>>>,
    },
}

/// One connection and what it does.
struct Worker {
    target: Arc<Target>,
    connection: Connection,
    dice: Dice,
    value: Arc<[u8]>,
}

impl Worker {
    async fn work(mut self, phase: Phase, turn: Turn) -> anyhow::Result<Seen> {
        let mut seen = Seen::default();
        loop {
            let since = match &turn {
                Turn::Closed { end } => Some(Instant::now()).filter(|now| now < end),
                // The lock is held only while waiting for the next one that is due.
                Turn::Open { queue } => queue.lock().await.recv().await,
            };
            let Some(since) = since else {
                return Ok(seen);
            };
            let outcome = self.once(phase).await?;
            seen.note(outcome, since);
        }
    }

    /// One operation; the inner error is a refusal by the store.
    async fn once(&mut self, phase: Phase) -> anyhow::Result<Result<(), String>> {
        let keys = &self.target.keys;
        let answer = match phase {
            Phase::Put => {
                let key = keys.fetch_add(1, Ordering::Relaxed);
                self.connection.put(key, None, &self.value).await?
            }
            Phase::Get => {
                let key = self.dice.next_u64() % keys.load(Ordering::Relaxed).max(1);
                let answer = self.connection.get(key).await?;
                // More where there are siblings, which Garage sends as 200, too.
                ensure!(
                    answer.refusal.is_some() || answer.body_bytes >= self.value.len(),
                    "{}: a value of {} bytes instead of {}",
                    self.target.name,
                    answer.body_bytes,
                    self.value.len()
                );
                answer
            }
            Phase::ReadModifyWrite => {
                let among = keys.load(Ordering::Relaxed).clamp(1, CHANGED_KEYS);
                let key = self.dice.next_u64() % among;
                let read = self.connection.get(key).await?;
                if let Some(refusal) = read.refusal {
                    return Ok(Err(refusal));
                }
                let context = read.context.context("an item without a context")?;
                self.connection
                    .put(key, Some(&context), &self.value)
                    .await?
            }
        };
        Ok(answer.refusal.map_or(Ok(()), Err))
    }
}

/// A thread of the client that has not begun.
struct Hands {
    runtime: Runtime,
    streams: Vec<(TcpStream, String, u64)>,
}

impl Hands {
    /// All threads of the client, with their connections: whatever may fail to
    /// start has started before the clock does.
    fn all(target: &Target, load: &Load) -> anyhow::Result<Vec<Hands>> {
        let mut hands = Vec::new();
        for _ in 0..load.threads {
            hands.push(Hands {
                runtime: Builder::new_current_thread().enable_all().build()?,
                streams: Vec::new(),
            });
        }
        for (place, seed) in (0..load.connections).zip(1..) {
            let address = &target.addresses[place % target.addresses.len()];
            let stream = connect(address)?;
            hands[place % load.threads]
                .streams
                .push((stream, address.clone(), seed));
        }
        Ok(hands)
    }

    /// Begins.
    fn begin(
        self,
        target: &Arc<Target>,
        phase: Phase,
        turn: Turn,
        value: &Arc<[u8]>,
    ) -> JoinHandle<anyhow::Result<Seen>> {
        let (target, value) = (target.clone(), value.clone());
        thread::spawn(move || {
            let Hands { runtime, streams } = self;
            runtime.block_on(async {
                let mut working = JoinSet::new();
                for (stream, address, seed) in streams {
                    let worker = Worker {
                        target: target.clone(),
                        connection: Connection::adopt(stream, &address, &target.dialect)?,
                        dice: Dice::from_seed(seed),
                        value: value.clone(),
                    };
                    working.spawn(worker.work(phase, turn.clone()));
                }
                let mut all = Seen::default();
                while let Some(seen) = working.join_next().await {
                    all += seen??;
                }
                Ok(all)
            })
        })
    }
}

/// What all threads saw, when they have ended.
fn gather(threads: Vec<JoinHandle<anyhow::Result<Seen>>>) -> anyhow::Result<Seen> {
    let mut all = Seen::default();
    for thread in threads {
        let seen = thread
            .join()
            .map_err(|_| anyhow!("a thread of the client panicked; it said why above"))?;
        all += seen?;
    }
    Ok(all)
}

/// Asks again and again for as long as the load says, then waits until the store rests.
pub fn closed(target: &Arc<Target>, phase: Phase, load: &Load) -> anyhow::Result<Sample> {
    let hands = Hands::all(target, load)?;
    let cpu_before = processes::cpu_seconds(&target.pids)?;
    let own_before = processes::own_cpu_seconds()?;
    let begin = Instant::now();
    let end = begin + load.duration;
    let threads = hands
        .into_iter()
        .map(|hands| hands.begin(target, phase, Turn::Closed { end }, &load.value))
        .collect();
    let seen = gather(threads)?;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = processes::cpu_seconds(&target.pids)? - cpu_before;
    let own_cpu = processes::own_cpu_seconds()? - own_before;
    let after_cpu = processes::settle(&target.pids, target.idle_share)?;
    let operations = seen.latencies.len();
    ensure!(
        operations > 0,
        "{}: no {phase} succeeded: {}",
        target.name,
        seen.first_failure.as_deref().unwrap_or("none was answered")
    );
    let each_us = 1e6 / operations as f64;
    let usable = load.threads.min(thread::available_parallelism()?.get());
    Ok(Sample {
        operations,
        failures: seen.failures,
        first_failure: seen.first_failure,
        seconds,
        per_second: operations as f64 / seconds,
        cpu_us: cpu * each_us,
        after_cpu_us: after_cpu * each_us,
        client_cpu_us: own_cpu * each_us,
        client_busy: own_cpu / seconds / usable as f64,
        latencies: [seen.latencies].into_iter().collect(),
    })
}

/// Asks so many times a second, answered or not, then waits until the store rests.
pub fn open(target: &Arc<Target>, phase: Phase, load: &Load, rate: f64) -> anyhow::Result<Open> {
    let hands = Hands::all(target, load)?;
    let asked = (load.duration.as_secs_f64() * rate) as u64;
    let begin = Instant::now();
    let (mut queues, mut threads) = (Vec::new(), Vec::new());
    for hands in hands {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let queue = Arc::new(Mutex::new(receiver));
        threads.push(hands.begin(target, phase, Turn::Open { queue }, &load.value));
        queues.push(sender);
    }
    let mut unsent = 0;
    for (number, queue) in (0..asked).zip(queues.iter().cycle()) {
        let due = begin + Duration::from_secs_f64(number as f64 / rate);
        let now = Instant::now();
        if due > now {
            thread::sleep(due - now);
        }
        if queue.try_send(due).is_err() {
            unsent += 1;
        }
    }
    drop(queues);
    let mut seen = gather(threads)?;
    let seconds = begin.elapsed().as_secs_f64();
    if unsent > 0 {
        seen.failures += unsent;
        let reason = format!("{unsent} were not sent: {MAX_WAITING} waited already");
        seen.first_failure.get_or_insert(reason);
    }
    processes::settle(&target.pids, target.idle_share)?;
    let operations = seen.latencies.len();
    Ok(Open {
        asked_per_second: rate,
        answered_per_second: operations as f64 / seconds,
        operations,
        failures: seen.failures,
        first_failure: seen.first_failure,
        latencies: [seen.latencies].into_iter().collect(),
    })
}

/// Puts one key through each node, so that each has opened what it opens at the
/// first request, and knows the key and the bucket it is asked with.
pub fn warm_up(target: &Target, value_bytes: usize) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let value = vec![b'v'; value_bytes];
    for address in &target.addresses {
        runtime.block_on(async {
            let mut connection = Connection::adopt(connect(address)?, address, &target.dialect)?;
            let mut refusal = None;
            for _ in 0..WARM_UP_TRIES {
                let key = target.keys.fetch_add(1, Ordering::Relaxed);
                refusal = connection.put(key, None, &value).await?.refusal;
                if refusal.is_none() {
                    return Ok(());
                }
                // The key was not put: it is the next one's.
                target.keys.fetch_sub(1, Ordering::Relaxed);
                tokio::time::sleep(WARM_UP_PAUSE).await;
            }
            let refusal = refusal.unwrap_or_default();
            bail!("{} at {address} takes no put: {refusal}", target.name)
        })?;
    }
    Ok(())
}
