//! Keeping a module that fails from burning fuel for nothing.
//!
//! Two memories, both of this node and this run only. Of an *item* whose siblings
//! made a module fail: the same siblings are not folded again for a while, and
//! neither is an item that failed with several sets of siblings in a row, unless
//! it has fewer of them by now. Of a *module* that fails on many items: it is
//! quarantined, and what asks for it is told why at once. From time to time one
//! fold is let through as a probe; a few in a row that go well end the quarantine.
//!
//! Promises: an item that makes a module fail, however often it is asked for, does
//! not put it in quarantine for the others; another digest is another module, so
//! that an upload or a rollback ends the matter at once; reads and operations are
//! counted apart, so that operations which fail do not take reads along; the
//! decision is a pure function of what was asked, what came of it and the time.
//! What waits for room (`Overloaded`) or for its module (`Missing`) counts for
//! nothing, and neither does a refused operation or a module that declines to
//! decide.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Done, Guests};
use crate::clock::Clock;
use crate::protocol::catalog::Digest;
use crate::protocol::effect::{GuestReply, GuestRequest};
use crate::protocol::id::ItemKey;
use crate::protocol::time::Now;

#[cfg(test)]
mod tests;

/// How many modules are remembered: of more, those that were quiet longest are
/// forgotten. As many as the sandbox loads.
pub const MAX_MODULES: usize = 1_024;
/// How many items each module is judged by: those that it was run for last.
pub const JUDGED_ITEMS: usize = 64;
/// How long an item counts for that, in milliseconds.
pub const JUDGED_MS: u64 = 300_000;
/// On how many items a module must have failed, each the last time it was asked
/// for, before it is quarantined. They must also be half of those it is judged by.
pub const QUARANTINE_ITEMS: usize = 8;
/// How many failing items each module is remembered to have; of more, the oldest
/// are forgotten.
pub const MAX_FAILING_ITEMS: usize = 256;
/// How often the same siblings may fail before they wait.
pub const TRIES: u32 = 2;
/// How many failures in a row make an item wait whatever its siblings are.
pub const STRIKES: u32 = 6;
/// How many sets of siblings are remembered for a failing item.
const MAX_SETS: usize = 4;
/// How long a failing item waits at first, doubled by each further failure, and at
/// most, in milliseconds.
pub const ITEM_WAIT_MS: u64 = 1_000;
pub const MAX_ITEM_WAIT_MS: u64 = 30_000;
/// How long a quarantine lasts until the first probe, doubled by each that fails,
/// and at most between two, in milliseconds.
pub const PROBE_WAIT_MS: u64 = 1_000;
pub const MAX_PROBE_WAIT_MS: u64 = 60_000;
/// How long an item that is known to fail leaves a probe to others.
const PROBE_PATIENCE_MS: u64 = 2_000;
/// How long a probe may take before another is let through.
const PROBE_LOST_MS: u64 = 30_000;
/// How many probes in a row must go well.
pub const PROBES: u32 = 3;

/// What a module was asked to do: reads and stored folds, or operations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Lane {
    Fold,
    Operate,
}

/// A request, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Case {
    digest: Digest,
    lane: Lane,
    table: Arc<str>,
    key: ItemKey,
    item: u64,
    /// Which siblings, and which operation.
    set: u64,
    siblings: usize,
}

impl Case {
    /// What a request is about. Cheap: no value is looked at.
    pub fn of(request: &GuestRequest) -> Self {
        let mut item = DefaultHasher::new();
        (&request.table, &request.key).hash(&mut item);
        let mut set = DefaultHasher::new();
        for sibling in &request.siblings {
            // A dot names one version of an item for ever.
            let size = sibling.version.value.as_ref().map(|value| value.len());
            (sibling.dot, size).hash(&mut set);
        }
        let operation = request.operation.as_ref();
        operation.map(|operation| &operation.body).hash(&mut set);
        Case {
            digest: request.digest,
            lane: match operation {
                None => Lane::Fold,
                Some(_) => Lane::Operate,
            },
            table: request.table.clone(),
            key: request.key.clone(),
            item: item.finish(),
            set: set.finish(),
            siblings: request.siblings.len(),
        }
    }
}

/// An item whose siblings make the module fail.
#[derive(Debug)]
struct Failing {
    failures: u32,
    sets: VecDeque<u64>,
    /// The fewest siblings that failed.
    fewest: usize,
    wait_until_ms: u64,
    last_ms: u64,
    error: String,
}

#[derive(Debug)]
struct Quarantine {
    since_us: u64,
    failed_probes: u32,
    good_probes: u32,
    next_probe_ms: u64,
    /// When the probe began that is under way.
    probing_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct Record {
    /// The items it is judged by, oldest first: which, whether it went well, when.
    judged: VecDeque<(u64, bool, u64)>,
    failing: BTreeMap<u64, Failing>,
    quarantine: Option<Quarantine>,
    last_failure: Option<LastFailure>,
    spared: u64,
    last_ms: u64,
}

/// How a module failed last, and on what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastFailure {
    pub error: String,
    pub at_us: u64,
    pub table: Arc<str>,
    pub key: ItemKey,
}

/// What is wrong with a module on this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trouble {
    /// Since when it is quarantined, in microseconds since the Unix epoch.
    pub quarantined_since_us: Option<u64>,
    pub last_failure: Option<LastFailure>,
    /// How many items wait because their siblings make it fail.
    pub failing_items: u64,
    /// How many requests were answered without running it.
    pub spared: u64,
}

/// What is to be done with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    Run {
        probe: bool,
    },
    /// Answered at once.
    Spare(GuestReply),
}

/// What became of a request that ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fared<'a> {
    Well,
    Badly(&'a str),
    /// It was not run after all.
    Not,
}

impl<'a> Fared<'a> {
    /// What an answer says of the module.
    pub fn of(reply: &'a GuestReply) -> Self {
        match reply {
            GuestReply::Done { .. } | GuestReply::Unresolved | GuestReply::BadOperation(_) => {
                Fared::Well
            }
            GuestReply::Failed(reason) => Fared::Badly(reason),
            GuestReply::Missing | GuestReply::Overloaded | GuestReply::Quarantined(_) => Fared::Not,
        }
    }
}

/// The memories of all modules.
#[derive(Debug, Default)]
pub struct Ward {
    records: BTreeMap<(Digest, Lane), Record>,
}

/// Doubled by each time, up to a bound.
fn wait_ms(first_ms: u64, times: u32, most_ms: u64) -> u64 {
    first_ms.saturating_mul(1 << times.min(32)).min(most_ms)
}

impl Record {
    fn judge(&mut self, item: u64, well: bool, now_ms: u64) {
        self.judged.retain(|(known, _, at_ms)| {
            *known != item && now_ms.saturating_sub(*at_ms) < JUDGED_MS
        });
        self.judged.push_back((item, well, now_ms));
        if self.judged.len() > JUDGED_ITEMS {
            self.judged.pop_front();
        }
    }

    fn fails_widely(&self) -> bool {
        let failing = self.judged.iter().filter(|(_, well, _)| !well).count();
        failing >= QUARANTINE_ITEMS && 2 * failing >= self.judged.len()
    }

    fn last_error(&self) -> &str {
        let last = self.last_failure.as_ref();
        last.map_or("it fails", |last| &last.error)
    }
}

impl Ward {
    /// Whether a request is run.
    pub fn admit(&mut self, case: &Case, now: Now) -> Admission {
        let now_ms = now.monotonic_ms;
        let Some(record) = self.records.get_mut(&(case.digest, case.lane)) else {
            return Admission::Run { probe: false };
        };
        let failing = record.failing.get(&case.item);
        if let Some(failing) = failing.filter(|failing| now_ms < failing.wait_until_ms) {
            let same = failing.failures >= TRIES && failing.sets.contains(&case.set);
            let any = failing.failures >= STRIKES && case.siblings >= failing.fewest;
            if same || any {
                record.spared += 1;
                let text = format!("{}; it is tried again after a while", failing.error);
                return Admission::Spare(GuestReply::Failed(text));
            }
        }
        let is_failing = failing.is_some();
        let reason = record.last_error().to_owned();
        let Some(quarantine) = &mut record.quarantine else {
            return Admission::Run { probe: false };
        };
        let patience_ms = if is_failing { PROBE_PATIENCE_MS } else { 0 };
        let due = now_ms >= quarantine.next_probe_ms + patience_ms;
        let alone = quarantine
            .probing_ms
            .is_none_or(|begun_ms| now_ms >= begun_ms + PROBE_LOST_MS);
        if due && alone {
            quarantine.probing_ms = Some(now_ms);
            return Admission::Run { probe: true };
        }
        record.spared += 1;
        Admission::Spare(GuestReply::Quarantined(format!(
            "it fails on many items, last with: {reason}"
        )))
    }

    /// Takes note of how a request fared that was let through.
    pub fn report(&mut self, case: &Case, probe: bool, fared: Fared<'_>, now: Now) {
        let now_ms = now.monotonic_ms;
        let place = (case.digest, case.lane);
        if fared == Fared::Not {
            let record = self.records.get_mut(&place);
            if let Some(quarantine) = record.and_then(|record| record.quarantine.as_mut())
                && probe
            {
                quarantine.probing_ms = None;
            }
            return;
        }
        let record = self.records.entry(place).or_default();
        record.last_ms = now_ms;
        match fared {
            Fared::Well => {
                record.failing.remove(&case.item);
                record.judge(case.item, true, now_ms);
            }
            Fared::Badly(error) => {
                record.note_failure(case, error, now);
                record.judge(case.item, false, now_ms);
            }
            Fared::Not => unreachable!("dealt with above"),
        }
        let well = fared == Fared::Well;
        let fails_widely = !well && record.fails_widely();
        match &mut record.quarantine {
            Some(quarantine) if probe && well => {
                quarantine.probing_ms = None;
                quarantine.good_probes += 1;
                // The next may follow at once.
                quarantine.next_probe_ms = now_ms;
                if quarantine.good_probes >= PROBES {
                    record.quarantine = None;
                    record.judged.clear();
                    tracing::info!(digest = %case.digest, "a module is out of quarantine");
                }
            }
            Some(quarantine) if probe => {
                quarantine.probing_ms = None;
                quarantine.good_probes = 0;
                quarantine.failed_probes += 1;
                let times = quarantine.failed_probes;
                quarantine.next_probe_ms =
                    now_ms + wait_ms(PROBE_WAIT_MS, times, MAX_PROBE_WAIT_MS);
            }
            Some(_) => {}
            None if fails_widely => {
                tracing::warn!(
                    digest = %case.digest, table = %case.table, error = record.last_error(),
                    "a module fails on many items and is quarantined"
                );
                record.quarantine = Some(Quarantine {
                    since_us: now.wall_us,
                    failed_probes: 0,
                    good_probes: 0,
                    next_probe_ms: now_ms + PROBE_WAIT_MS,
                    probing_ms: None,
                });
            }
            None => {}
        }
        self.forget_the_quiet();
    }

    fn forget_the_quiet(&mut self) {
        while self.records.len() > MAX_MODULES {
            let quiet = self.records.iter().min_by_key(|(_, record)| record.last_ms);
            let Some(place) = quiet.map(|(place, _)| *place) else {
                return;
            };
            self.records.remove(&place);
        }
    }

    /// What is wrong with each module that something is or was wrong with.
    pub fn troubles(&self) -> BTreeMap<Digest, Trouble> {
        let mut troubles = BTreeMap::<Digest, Trouble>::new();
        for ((digest, _), record) in &self.records {
            if record.last_failure.is_none() {
                continue;
            }
            let trouble = troubles.entry(*digest).or_default();
            let since_us = record.quarantine.as_ref().map(|one| one.since_us);
            trouble.quarantined_since_us = match (trouble.quarantined_since_us, since_us) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            let newest = |failure: &Option<LastFailure>| failure.as_ref().map(|one| one.at_us);
            if newest(&record.last_failure) > newest(&trouble.last_failure) {
                trouble.last_failure.clone_from(&record.last_failure);
            }
            trouble.failing_items += record.failing.len() as u64;
            trouble.spared += record.spared;
        }
        troubles
    }
}

impl Record {
    fn note_failure(&mut self, case: &Case, error: &str, now: Now) {
        let now_ms = now.monotonic_ms;
        self.last_failure = Some(LastFailure {
            error: error.to_owned(),
            at_us: now.wall_us,
            table: case.table.clone(),
            key: case.key.clone(),
        });
        let failing = self.failing.entry(case.item).or_insert_with(|| Failing {
            failures: 0,
            sets: VecDeque::new(),
            fewest: case.siblings,
            wait_until_ms: 0,
            last_ms: now_ms,
            error: String::new(),
        });
        failing.failures += 1;
        failing.fewest = failing.fewest.min(case.siblings);
        failing.last_ms = now_ms;
        error.clone_into(&mut failing.error);
        failing.wait_until_ms =
            now_ms + wait_ms(ITEM_WAIT_MS, failing.failures - 1, MAX_ITEM_WAIT_MS);
        if !failing.sets.contains(&case.set) {
            failing.sets.push_back(case.set);
            if failing.sets.len() > MAX_SETS {
                failing.sets.pop_front();
            }
        }
        while self.failing.len() > MAX_FAILING_ITEMS {
            let oldest = self.failing.iter().min_by_key(|(_, one)| one.last_ms);
            let Some(item) = oldest.map(|(item, _)| *item) else {
                return;
            };
            self.failing.remove(&item);
        }
    }
}

/// Guests behind a ward.
pub struct Guarded {
    guests: Arc<dyn Guests>,
    clock: Arc<dyn Clock>,
    ward: Arc<Mutex<Ward>>,
}

fn lock(ward: &Mutex<Ward>) -> MutexGuard<'_, Ward> {
    ward.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guarded {
    /// Lets through to these guests what is worth running.
    pub fn new(guests: Arc<dyn Guests>, clock: Arc<dyn Clock>) -> Self {
        Guarded {
            guests,
            clock,
            ward: Arc::default(),
        }
    }
}

impl Guests for Guarded {
    fn submit(&self, request: GuestRequest, done: Done) {
        let case = Case::of(&request);
        let admission = lock(&self.ward).admit(&case, self.clock.now());
        let probe = match admission {
            Admission::Run { probe } => probe,
            Admission::Spare(reply) => return done(reply, 0),
        };
        let (ward, clock) = (self.ward.clone(), self.clock.clone());
        let report = move |reply: GuestReply, fuel| {
            lock(&ward).report(&case, probe, Fared::of(&reply), clock.now());
            done(reply, fuel);
        };
        self.guests.submit(request, Box::new(report));
    }

    fn troubles(&self) -> BTreeMap<Digest, Trouble> {
        lock(&self.ward).troubles()
    }
}
