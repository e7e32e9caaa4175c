//! The law check: a search for siblings that a fold gets wrong.
//!
//! Replicas meet siblings in any order, in any groups and more than once. They
//! end up equal only if the fold does not mind, which is what the laws say:
//!
//! 1. *deterministic*: two fresh instances, same answer;
//! 2. *order-free*: every permutation (of up to [`MAX_PERMUTED`] siblings);
//! 3. *idempotent*: repeats change nothing, folding a fold changes nothing;
//! 4. *regroupable*: a fold of some in the place of these, same answer;
//! 5. *closed*: what a fold gives, a fold takes;
//! 6. *data type*: what an operation makes includes what it was made from, every
//!    state renders, and replicas that exchange states end up equal.
//!
//! A fold **stands for its inputs**: it carries the newest written-at among
//! them, and of those that have it the greatest dot, see [`stand_in`].
//!
//! Promises: the same seed, module and samples find the same counterexample. A
//! counterexample is a real one: it was run. Not promised: that there is none
//! when none was found; success counts the cases and never says "proved". A call
//! that a limit cut short is no evidence either way, except that a result must
//! not be too much for the next fold; an input that the module refuses is not
//! held against it.

use bytes::Bytes;

use super::wasm::{Call, Failure, Loaded, Outcome, Sandbox};
use crate::clock::Dice;
use crate::protocol::catalog::{Lawfulness, ModuleKind};
use crate::protocol::effect::{GuestSibling, Operation};
use crate::protocol::id::{ItemKey, TableId};
use crate::protocol::siblings::Version;

mod cases;
mod probe;
mod shrink;
mod tell;
#[cfg(test)]
mod tests;

pub use cases::{Samples, SamplesError};
pub use probe::stand_in;
pub use tell::{Counterexample, Side};

/// How many cases an upload is checked with: under a second for the built-ins.
pub const DEFAULT_CASES: u64 = 1_000;
/// Up to this many siblings every permutation is tried: 24 of them.
pub const MAX_PERMUTED: usize = 4;
/// What one check may burn in all, some 20 seconds' worth: a module that takes
/// its limit for every fold gets fewer cases, not hours of this node.
const MAX_CHECK_FUEL: u64 = 20_000_000_000;
/// The largest output during a check: a table's usual limit.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;
/// How often progress is reported.
const PROGRESS_EVERY: u64 = 50;

/// What a fold must keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Law {
    Deterministic,
    OrderFree,
    Idempotent,
    Regroupable,
    Closed,
    DataType,
}

impl Law {
    /// Its name, as the documentation and the API have it.
    pub fn name(self) -> &'static str {
        match self {
            Law::Deterministic => "deterministic",
            Law::OrderFree => "order-free",
            Law::Idempotent => "idempotent",
            Law::Regroupable => "regroupable",
            Law::Closed => "closed",
            Law::DataType => "data-type",
        }
    }

    /// What it asks, in one line.
    pub fn statement(self) -> &'static str {
        match self {
            Law::Deterministic => "the same inputs give the same answer in every instance",
            Law::OrderFree => "the order of the siblings changes nothing",
            Law::Idempotent => "repeats change nothing, and folding a fold changes nothing",
            Law::Regroupable => "a fold of some siblings may stand in their place",
            Law::Closed => "what a fold gives, a fold takes, within the limits",
            Law::DataType => {
                "an operation's state includes the one that it was made from, and every state renders"
            }
        }
    }
}

/// What the search came to.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// No counterexample in `cases` cases: those that the module decided.
    NoCounterexample { cases: u64, seed: u64 },
    /// Nothing could be tried; the reason is for people.
    Unchecked { reason: &'static str, seed: u64 },
    /// A counterexample, shrunk.
    Violated(Box<Counterexample>),
}

impl Verdict {
    /// What the catalog remembers of it.
    pub fn lawfulness(&self) -> Lawfulness {
        match self {
            Verdict::NoCounterexample { cases, .. } => {
                Lawfulness::NoCounterexample { cases: *cases }
            }
            Verdict::Unchecked { .. } => Lawfulness::Unchecked,
            Verdict::Violated(counterexample) => Lawfulness::Unlawful {
                law: counterexample.law.name().into(),
                counterexample: counterexample.to_string().into(),
            },
        }
    }
}

/// What a call gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The bytes; none: deleted.
    Value(Option<Bytes>),
    Unresolved,
    /// An error of the module's, or a trap.
    Refused(String),
    /// A limit cut the call short.
    Exhausted(String),
}

/// What the laws are asked of: a module, or plain Rust in a test.
pub trait Subject {
    /// Whether it takes operations.
    fn kind(&self) -> ModuleKind;
    /// Its own samples: values, or operations for a data type.
    fn samples(&self, seed: u64, count: u32) -> Option<Vec<Vec<u8>>>;
    /// Folds siblings in the order given.
    fn fold(&self, siblings: &[GuestSibling]) -> Answer;
    /// Applies an operation.
    fn apply(&self, state: Option<&[u8]>, operation: &Operation) -> Answer;
    /// Renders a state; the error is the reason.
    fn render(&self, state: &[u8]) -> Result<(), String>;
    /// Whether the check has used what it may.
    fn is_spent(&self) -> bool {
        false
    }
}

/// A module in the sandbox.
struct Module<'a> {
    sandbox: &'a Sandbox,
    loaded: &'a Loaded,
    key: ItemKey,
    fuel_before: u64,
}

fn answer(result: Result<Option<Bytes>, Failure>) -> Answer {
    match result {
        Ok(value) => Answer::Value(value),
        Err(failure) if failure.is_exhaustion() => Answer::Exhausted(failure.to_string()),
        Err(failure) => Answer::Refused(failure.to_string()),
    }
}

impl Module<'_> {
    fn call(&self) -> Call<'_> {
        Call::new("law-check", &self.key, MAX_OUTPUT_BYTES)
    }
}

impl Subject for Module<'_> {
    fn kind(&self) -> ModuleKind {
        self.loaded.kind()
    }

    fn samples(&self, seed: u64, count: u32) -> Option<Vec<Vec<u8>>> {
        let samples = match self.kind() {
            ModuleKind::Reconciler => self.sandbox.samples(self.loaded, seed, count),
            ModuleKind::DataType => self.sandbox.operations(self.loaded, seed, count),
        };
        // A module whose own samples fail is checked with the general ones.
        samples.unwrap_or_else(|failure| {
            tracing::warn!(digest = %self.loaded.digest(), %failure, "a module's own samples fail");
            None
        })
    }

    fn fold(&self, siblings: &[GuestSibling]) -> Answer {
        match self.sandbox.fold(self.loaded, &self.call(), siblings) {
            Ok(Outcome::Unresolved) => Answer::Unresolved,
            Ok(Outcome::Deleted) => Answer::Value(None),
            Ok(Outcome::Merged(value)) => Answer::Value(Some(value.into())),
            Err(failure) => answer(Err(failure)),
        }
    }

    fn apply(&self, state: Option<&[u8]>, operation: &Operation) -> Answer {
        let applied = self
            .sandbox
            .apply(self.loaded, &self.call(), state, operation);
        answer(applied.map(Some))
    }

    fn render(&self, state: &[u8]) -> Result<(), String> {
        // A view may well be larger than its state.
        let view = self.sandbox.render(self.loaded, state, MAX_OUTPUT_BYTES);
        view.map(|_| ()).map_err(|failure| failure.to_string())
    }

    fn is_spent(&self) -> bool {
        self.loaded.figures().fuel - self.fuel_before > MAX_CHECK_FUEL
    }
}

/// Searches for a counterexample in `cases` cases drawn from `seed`. `progress`
/// is told how many are done, now and then.
pub fn check(
    sandbox: &Sandbox,
    loaded: &Loaded,
    samples: &Samples,
    seed: u64,
    cases: u64,
    progress: &mut dyn FnMut(u64),
) -> Verdict {
    let module = Module {
        sandbox,
        loaded,
        key: ItemKey::new(TableId::of("law-check", 1), b"item", None),
        fuel_before: loaded.figures().fuel,
    };
    check_subject(&module, samples, seed, cases, progress)
}

/// As [`check`], of anything that folds.
pub fn check_subject(
    subject: &dyn Subject,
    samples: &Samples,
    seed: u64,
    cases: u64,
    progress: &mut dyn FnMut(u64),
) -> Verdict {
    let mut dice = Dice::from_seed(seed);
    let Some(source) = cases::Source::new(subject, samples, &mut dice) else {
        return Verdict::Unchecked {
            reason: "the module accepts none of the samples; give it its own",
            seed,
        };
    };
    let mut decided = 0;
    for number in 0..cases {
        if subject.is_spent() {
            tracing::warn!(
                cases = number,
                "the law check has used its fuel and stops early"
            );
            break;
        }
        let case = source.case(&mut dice);
        let probed = probe::probe(subject, &case);
        if let Some(finding) = probed.finding {
            let (case, finding) = shrink::shrink(subject, case, *finding);
            let counterexample = tell::counterexample(&case, finding, seed, number);
            return Verdict::Violated(Box::new(counterexample));
        }
        decided += u64::from(probed.decided);
        if (number + 1) % PROGRESS_EVERY == 0 {
            progress(number + 1);
        }
    }
    if decided == 0 {
        let reason =
            "the module decided none of the cases: it refused them, or left them unresolved";
        return Verdict::Unchecked { reason, seed };
    }
    Verdict::NoCounterexample {
        cases: decided,
        seed,
    }
}

/// A version with nothing unusual about it.
fn version(value: Option<Bytes>, written_at_us: u64) -> Version {
    let content_type = match &value {
        None => "",
        Some(value) if serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok() => {
            "application/json"
        }
        Some(_) => "application/octet-stream",
    };
    Version {
        value,
        content_type: content_type.into(),
        written_at_us,
        stands_for: None,
    }
}

/// A dot for tests elsewhere.
#[cfg(test)]
pub(super) fn test_dot(counter: u64) -> crate::protocol::dot::Dot {
    cases::dot(0, counter)
}
