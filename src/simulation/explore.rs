//! Playing seeds, and making those that fail small.
//!
//! Promises: a panic of the code under test is a failure like any other; the
//! same seed and plan give the same outcome; a failure that was made small still
//! fails, and in the same way as far as its invariant goes.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Violation;
use super::check::check;
use super::detection::Detection;
use super::faults::FaultKind;
use super::workload::{Plan, Run, Tempo};

/// How often a failing run is played again at most to make it smaller.
const MAX_ATTEMPTS: u32 = 60;

/// How many seeds may fail before an exploration ends: they usually have one
/// cause.
pub const MAX_FAILURES: usize = 5;

thread_local! {
    /// The words of the last panic of this thread, and where it was.
    static LAST_PANIC: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// Panics of this process print nothing from now on: [`play`] tells of them.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        LAST_PANIC.with(|last| *last.borrow_mut() = Some(text));
    }));
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Played {
    pub violation: Option<Violation>,
    /// The last events around the violation, if the plan wanted them.
    pub story: Vec<String>,
    pub simulated_ms: u64,
    pub events: u64,
    pub operations: u64,
    pub acknowledged: u64,
    pub unavailable: u64,
    pub faults: BTreeMap<FaultKind, u64>,
    pub detection: Detection,
    pub trace_hash: u64,
}

impl Played {
    /// Adds another run's figures.
    pub fn join(&mut self, other: &Played) {
        self.simulated_ms += other.simulated_ms;
        self.events += other.events;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.unavailable += other.unavailable;
        for (kind, count) in &other.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        self.detection.join(&other.detection);
    }
}

/// Plays one seed and checks it.
pub fn play(seed: u64, plan: Plan) -> Played {
    // The run is looked at after a panic only to tell of it.
    let mut run = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| match Run::new(seed, plan) {
        Ok(formed) => {
            let run = run.insert(formed);
            run.play();
            check(run)
        }
        Err(what) => Err(Violation {
            invariant: 0,
            item: None,
            at_ms: 0,
            what,
        }),
    }));
    let violation = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => Some(Violation {
            invariant: 0,
            item: None,
            at_ms: run.as_ref().map_or(0, |run| run.world.now_ms),
            what: format!("panic: {}", panic_text(&*panic)),
        }),
    };
    let Some(run) = run else {
        return Played {
            violation,
            ..Played::default()
        };
    };
    let story = match &violation {
        Some(violation) => run.world.story(violation.item.as_ref()),
        None => Vec::new(),
    };
    Played {
        violation,
        story,
        simulated_ms: run.world.now_ms,
        events: run.world.happened,
        operations: run.operations,
        acknowledged: run.acknowledged,
        unavailable: run.unavailable,
        faults: run.nemesis.counts.clone(),
        trace_hash: run.world.trace_hash(),
        detection: run.world.detection,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = LAST_PANIC.with(|last| last.borrow_mut().take()) {
        return text;
    }
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a word".to_owned())
}

/// Finds a shorter run with fewer kinds of faults that breaks the same
/// invariant. Gives the plan back as it was when there is none.
pub fn shrink(seed: u64, plan: Plan, violation: &Violation) -> Plan {
    let mut attempts = 0;
    let mut fails = |plan: Plan| {
        attempts += 1;
        attempts <= MAX_ATTEMPTS
            && play(seed, plan)
                .violation
                .is_some_and(|found| found.invariant == violation.invariant)
    };
    let mut least = plan;
    // The first violation of a run ends it: no more time is needed than that.
    let shorter = Plan {
        lasts_ms: plan.lasts_ms.min(violation.at_ms),
        ..plan
    };
    if fails(shorter) {
        least = shorter;
    }
    for _ in 0..2 {
        for kind in least.faults.kinds() {
            let fewer = Plan {
                faults: least.faults.without(kind),
                ..least
            };
            if fails(fewer) {
                least = fewer;
            }
        }
        let mut step_ms = least.lasts_ms / 2;
        while step_ms > 0 && step_ms >= plan.lasts_ms / 64 {
            let shorter = Plan {
                lasts_ms: least.lasts_ms - step_ms,
                ..least
            };
            if fails(shorter) {
                least = shorter;
            }
            step_ms = (step_ms / 2).min(least.lasts_ms / 2);
        }
    }
    least
}

/// The command that plays this again.
pub fn command(seed: u64, plan: &Plan) -> String {
    let tempo = match plan.tempo {
        Tempo::Hectic => "hectic",
        Tempo::Calm => "calm",
    };
    format!(
        "kinfold simulate --seed {seed} --tempo {tempo} --nodes {} --minutes {} --faults {} --trace",
        plan.settings.nodes,
        plan.lasts_ms as f64 / 60_000.0,
        plan.faults
    )
}
