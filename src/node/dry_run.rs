//! Dry runs: what a module would make of what a table stores, before it is live.
//!
//! A dry run goes over all partitions of the table, takes what is stored there
//! from one replica each (see `machine/survey.rs`), and has the candidate and the
//! table's present module fold it, side by side. Promises: nothing is written, and
//! a module that comes as bytes is kept nowhere; folding happens on one thread of
//! its own, in a sandbox of its own, which rests as long as it works, so that the
//! folds of requests wait for none of it; what is held in memory is two pages,
//! some examples and a figure for each item tried; it ends when nobody waits for
//! its report any more, at its limit, or after [`MAX_DURATION`].
//!
//! Not promised: anything about values that were folded when they were written
//! (an eager table stores few siblings), nor about items that no replica which
//! answered has heard of.

pub mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use self::tally::{Pair, Tally};
use super::{AdminError, Modules, Node, lock};
use crate::clock::Clock;
use crate::protocol::catalog::{Digest, Lawfulness, ModuleInfo, ModuleKind, Table};
use crate::protocol::effect::{Input, RequestId, SurveyAsk, SurveyPage};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::message::Refusal;
use crate::protocol::siblings::SiblingSet;
use std::sync::atomic::Ordering;

/// How many items are tried where nobody says.
pub const DEFAULT_LIMIT: u64 = 1_000;
/// How many items can be tried at most: their figures are kept until the end,
/// some 32 bytes for each.
pub const MAX_LIMIT: u64 = 100_000;
/// How long a dry run may take. It rests half of that.
pub const MAX_DURATION: Duration = Duration::from_secs(600);
/// How often a page that no replica gave is asked for again, in the whole dry run:
/// enough for a node that is just starting, and an end where one is gone.
const MAX_RETRIES: u32 = 20;
/// How long to wait before a page is asked for again.
const PAGE_RETRY: Duration = Duration::from_millis(200);
/// The longest rest between two pages.
const MAX_PAGE_REST: Duration = Duration::from_millis(100);
/// Work is rested for when it comes to this much: a system cannot sleep for much
/// less.
const REST_EVERY: Duration = Duration::from_millis(2);

/// Which module is tried.
#[derive(Clone, Debug)]
pub enum Candidate {
    /// One that the catalog knows.
    Known(ModuleInfo),
    /// One that nobody knows.
    Bytes(Bytes),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    pub table: Arc<Table>,
    pub candidate: Candidate,
    /// How many items are tried at most, 1..=[`MAX_LIMIT`].
    pub limit: u64,
}

/// How far a dry run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Whether the candidate's laws are being checked, before anything else.
    pub checking_laws: bool,
    pub partitions_done: u64,
    pub partitions: u64,
    /// Items gone through.
    pub items: u64,
    /// Those of them that are to be tried, and those that were.
    pub found: u64,
    pub tried: u64,
}

/// Why a dry run ended before it had seen everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// As many items as were asked for have been tried.
    Limit,
    /// [`MAX_DURATION`] is over.
    Time,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    pub table: Arc<Table>,
    /// The candidate. Its lawfulness is that of its upload, or of the check that
    /// bytes went through here.
    pub candidate: ModuleInfo,
    /// Whether the candidate came as bytes.
    pub is_upload: bool,
    pub limit: u64,
    pub partitions: u64,
    pub partitions_read: u64,
    /// Partitions of which no replica answered.
    pub partitions_unread: u64,
    /// How many partitions and items were read from each replica.
    pub replicas: BTreeMap<NodeId, (u64, u64)>,
    /// Items gone through.
    pub items: u64,
    pub tally: Tally,
    pub stopped: Option<Stopped>,
    pub elapsed_ms: u64,
}

impl Report {
    /// Whether everything that is stored was seen.
    pub fn is_complete(&self) -> bool {
        self.stopped.is_none() && self.partitions_unread == 0
    }
}

/// A dry run under way. It ends when this is dropped.
pub struct Running {
    pub progress: watch::Receiver<Progress>,
    pub report: oneshot::Receiver<Result<Report, AdminError>>,
}

/// What the folding thread gets: rows of one replica.
struct Batch {
    from: NodeId,
    rows: Vec<(ItemKey, SiblingSet)>,
}

/// A dry run that is ready to begin.
struct Ready {
    pair: Pair,
    candidate: ModuleInfo,
    seed: Option<u64>,
    /// One dry run at a time.
    permit: tokio::sync::OwnedSemaphorePermit,
}

fn busy() -> AdminError {
    AdminError::Busy("another dry run is under way on this node; wait for it, or ask another node")
}

impl Node {
    /// Begins a dry run. Modules that cannot be run are refused at once.
    pub async fn dry_run(&self, plan: Plan) -> Result<Running, AdminError> {
        self.readiness()
            .map_err(|why| AdminError::Refused(Refusal::NotReady(why)))?;
        let permit = self.rehearsing.clone().try_acquire_owned();
        let permit = permit.map_err(|_| busy())?;
        let modules = self.ports.modules.clone();
        let Plan {
            table,
            candidate,
            limit,
        } = plan;
        debug_assert!((1..=MAX_LIMIT).contains(&limit));
        let is_upload = matches!(candidate, Candidate::Bytes(_));
        let for_thread = table.clone();
        let seed = is_upload.then(|| self.ports.clock.now().wall_us);
        let preparing = self
            .runtime
            .spawn_blocking(move || prepare(&*modules, for_thread, candidate, seed, permit));
        let ready = super::admin::joined(preparing.await)??;
        let (progress, shown) = watch::channel(Progress::default());
        let (report, awaited) = oneshot::channel();
        let node = self.arc();
        let looking = Looking {
            node: node.clone(),
            table,
            limit,
            is_upload,
            progress: Arc::new(progress),
            retries_left: MAX_RETRIES,
        };
        self.runtime.spawn(async move {
            let mut report = report;
            // Nobody waits any more: what is under way is dropped, and the thread
            // that folds finds its queue closed.
            let done = tokio::select! {
                done = looking.run(ready) => done,
                () = report.closed() => return,
            };
            if report.send(done).is_err() {
                tracing::debug!("whoever wanted a dry run has gone");
            }
        });
        Ok(Running {
            progress: shown,
            report: awaited,
        })
    }

    /// A page of what a table stores in a partition.
    async fn survey(&self, ask: SurveyAsk) -> Result<SurveyPage, Refusal> {
        let request = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        let (asker, page) = oneshot::channel();
        lock(&self.surveys).insert(request, asker);
        self.step(Input::Survey { request, ask });
        page.await
            .unwrap_or_else(|_| Err(Refusal::NotReady("it is shutting down".to_owned())))
    }

    /// How many partitions there are.
    fn partition_count(&self) -> u32 {
        let machine = lock(&self.machine);
        let ring = machine.reading_ring();
        ring.map_or(0, |ring| ring.layout().partitions())
    }
}

/// Makes both modules ready. Blocks while they compile.
fn prepare(
    modules: &dyn Modules,
    table: Arc<Table>,
    candidate: Candidate,
    seed: Option<u64>,
    permit: tokio::sync::OwnedSemaphorePermit,
) -> Result<Ready, AdminError> {
    let stored = |digest: Digest| {
        modules.bytes(digest)?.ok_or_else(|| {
            AdminError::Refused(Refusal::NotReady(format!(
                "the module {digest} has not arrived here yet; ask again, or ask another node"
            )))
        })
    };
    let invalid = |error: crate::reconcile::rehearsal::RehearsalError| {
        AdminError::InvalidModule(error.to_string())
    };
    let mut rehearsal = modules.rehearse()?;
    let candidate = match candidate {
        Candidate::Bytes(bytes) => rehearsal.prepare(&bytes).map_err(invalid)?,
        Candidate::Known(info) => {
            let bytes = stored(info.digest)?;
            rehearsal.prepare(&bytes).map_err(invalid)?;
            info
        }
    };
    let present = table.module.as_ref().map(|module| module.digest);
    if let Some(digest) = present.filter(|digest| *digest != candidate.digest) {
        let bytes = stored(digest)?;
        rehearsal.prepare(&bytes).map_err(invalid)?;
    }
    Ok(Ready {
        pair: Pair {
            rehearsal,
            table,
            present,
            candidate: candidate.digest,
            candidate_keeps_states: candidate.kind == ModuleKind::DataType,
        },
        candidate,
        seed,
        permit,
    })
}

/// Sleeps for as long as was worked, now and then.
#[derive(Default)]
struct Rest {
    owed: Duration,
}

impl Rest {
    fn after(&mut self, worked: Duration) {
        self.owed += worked;
        if self.owed >= REST_EVERY {
            std::thread::sleep(self.owed);
            self.owed = Duration::ZERO;
        }
    }
}

fn since(clock: &dyn Clock, begun_us: u64) -> Duration {
    Duration::from_micros(clock.now().wall_us.saturating_sub(begun_us))
}

/// Folds what comes until nothing more does, on a thread where that may take long.
fn fold_all(
    ready: Ready,
    clock: &dyn Clock,
    progress: &watch::Sender<Progress>,
    mut batches: mpsc::Receiver<Batch>,
    deadline_ms: u64,
) -> (Tally, Lawfulness) {
    let Ready {
        pair,
        candidate,
        seed,
        permit,
    } = ready;
    let mut rest = Rest::default();
    let mut tally = Tally::default();
    let mut lawfulness = candidate.lawfulness;
    if let Some(seed) = seed {
        let begun_us = clock.now().wall_us;
        progress.send_modify(|progress| progress.checking_laws = true);
        lawfulness = pair.rehearsal.judge(pair.candidate, seed);
        progress.send_modify(|progress| progress.checking_laws = false);
        rest.after(since(clock, begun_us).min(MAX_PAGE_REST));
    }
    'batches: while let Some(Batch { from, rows }) = batches.blocking_recv() {
        for (key, set) in &rows {
            if progress.is_closed() || clock.now().monotonic_ms >= deadline_ms {
                break 'batches;
            }
            let begun_us = clock.now().wall_us;
            pair.try_item(key, set, from, &mut tally);
            progress.send_modify(|progress| progress.tried = tally.tried());
            rest.after(since(clock, begun_us));
        }
    }
    drop(permit);
    (tally, lawfulness)
}

/// The part of a dry run that goes over the partitions.
struct Looking {
    node: Arc<Node>,
    table: Arc<Table>,
    limit: u64,
    is_upload: bool,
    progress: Arc<watch::Sender<Progress>>,
    retries_left: u32,
}

impl Looking {
    async fn run(mut self, ready: Ready) -> Result<Report, AdminError> {
        let begun_ms = self.node.ports.clock.now().monotonic_ms;
        let deadline_ms = begun_ms + MAX_DURATION.as_millis() as u64;
        let mut candidate = ready.candidate.clone();
        let keeps_states = candidate.kind == ModuleKind::DataType || self.table.is_data_type();
        // One batch waits while another is folded.
        let (give, batches) = mpsc::channel(1);
        let (clock, progress) = (self.node.ports.clock.clone(), self.progress.clone());
        let folding = self
            .node
            .runtime
            .spawn_blocking(move || fold_all(ready, &*clock, &progress, batches, deadline_ms));
        let partitions = self.node.partition_count();
        let mut report = Report {
            table: self.table.clone(),
            candidate: candidate.clone(),
            is_upload: self.is_upload,
            limit: self.limit,
            partitions: u64::from(partitions),
            partitions_read: 0,
            partitions_unread: 0,
            replicas: BTreeMap::new(),
            items: 0,
            tally: Tally::default(),
            stopped: None,
            elapsed_ms: 0,
        };
        self.tell(&report, 0);
        let mut found = 0;
        for partition in (0..partitions).map(Partition) {
            if report.stopped.is_none() {
                self.look(
                    partition,
                    keeps_states,
                    &mut report,
                    &mut found,
                    &give,
                    deadline_ms,
                )
                .await?;
            }
        }
        drop(give);
        let (tally, lawfulness) = super::admin::joined(folding.await)?;
        if tally.tried() < found {
            report.stopped = Some(Stopped::Time);
        }
        candidate.lawfulness = lawfulness;
        report.candidate = candidate;
        report.tally = tally;
        let now_ms = self.node.ports.clock.now().monotonic_ms;
        report.elapsed_ms = now_ms.saturating_sub(begun_ms);
        Ok(report)
    }

    fn tell(&self, report: &Report, found: u64) {
        self.progress.send_modify(|progress| {
            progress.partitions = report.partitions;
            progress.partitions_done = report.partitions_read + report.partitions_unread;
            progress.items = report.items;
            progress.found = found;
        });
    }

    /// Goes through one partition, page by page.
    async fn look(
        &mut self,
        partition: Partition,
        keeps_states: bool,
        report: &mut Report,
        found: &mut u64,
        give: &mpsc::Sender<Batch>,
        deadline_ms: u64,
    ) -> Result<(), AdminError> {
        let clock = self.node.ports.clock.clone();
        let mut after = None;
        let mut last_from = None;
        loop {
            if clock.now().monotonic_ms >= deadline_ms {
                report.stopped = Some(Stopped::Time);
                return Ok(());
            }
            if *found >= self.limit {
                // Whether anything is left is not known without looking.
                report.stopped = Some(Stopped::Limit);
                return Ok(());
            }
            let begun_us = clock.now().wall_us;
            let ask = SurveyAsk {
                table: self.table.id,
                partition,
                after: after.clone(),
                singles: keeps_states,
            };
            let Some(page) = self.page(ask).await? else {
                report.partitions_unread += 1;
                self.tell(report, *found);
                return Ok(());
            };
            let SurveyPage {
                from,
                scanned,
                mut rows,
                next,
            } = page;
            let (partitions, items) = report.replicas.entry(from).or_default();
            *items += scanned;
            if last_from != Some(from) {
                *partitions += 1;
                last_from = Some(from);
            }
            report.items += scanned;
            let room = usize::try_from(self.limit - *found).unwrap_or(usize::MAX);
            let is_cut = rows.len() > room;
            rows.truncate(room);
            *found += rows.len() as u64;
            if !rows.is_empty() && give.send(Batch { from, rows }).await.is_err() {
                // The thread ended: its time is over.
                report.stopped = Some(Stopped::Time);
                return Ok(());
            }
            if is_cut {
                report.stopped = Some(Stopped::Limit);
                return Ok(());
            }
            // Clients come first: the stores and the wire rest, too.
            tokio::time::sleep(since(&*clock, begun_us).min(MAX_PAGE_REST)).await;
            let is_last = next.is_none();
            after = next;
            if is_last {
                report.partitions_read += 1;
                self.tell(report, *found);
                return Ok(());
            }
            self.tell(report, *found);
        }
    }

    /// A page; none when no replica gives it.
    async fn page(&mut self, ask: SurveyAsk) -> Result<Option<SurveyPage>, AdminError> {
        loop {
            if self.node.draining.load(Ordering::Relaxed) {
                let refusal = Refusal::NotReady("it is shutting down".to_owned());
                return Err(AdminError::Refused(refusal));
            }
            match self.node.survey(ask.clone()).await {
                Ok(page) => return Ok(Some(page)),
                Err(Refusal::NoSuchTable) => return Err(AdminError::NoSuchTable),
                Err(error) => {
                    tracing::debug!(partition = ask.partition.0, %error, "no page of a table");
                    let Some(left) = self.retries_left.checked_sub(1) else {
                        return Ok(None);
                    };
                    self.retries_left = left;
                    tokio::time::sleep(PAGE_RETRY).await;
                }
            }
        }
    }
}
