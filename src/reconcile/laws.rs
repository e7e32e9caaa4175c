//! The law check of modules: the engine is the crate `kinfold-laws`, which an
//! author's own tests use too; here it meets the sandbox.
//!
//! Promises: what is checked is the module as nodes run it, each call in a fresh
//! instance and under the limits of a fold. A check burns at most
//! `MAX_CHECK_FUEL` in all: a module that takes its limit for every fold gets
//! fewer cases, not hours of this node, and its report says so.

use std::ops::ControlFlow;

use bytes::Bytes;
use kinfold_laws::{Answer, Dot, Event, Item, Kind, Limit, Sibling, Subject, Usage, View};
pub use kinfold_laws::{
    Counterexample, Law, MAX_SAMPLE_BYTES, MAX_SAMPLE_FILES, Report, Samples, SamplesError,
    Settings, Verdict,
};

use super::wasm::{Call, Failure, Loaded, Outcome, Sandbox};
use crate::protocol::catalog::{Lawfulness, ModuleKind};
use crate::protocol::dot::{self, Actor};
use crate::protocol::effect::{GuestSibling, Operation};
use crate::protocol::id::{ItemKey, TableId};
use crate::protocol::siblings::Version;

#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod tests;

/// How many cases an upload is checked with: about a second for the built-ins.
pub const DEFAULT_CASES: u64 = 1_000;
/// What one check may burn in all, some 20 seconds' worth. A check of more
/// cases than [`DEFAULT_CASES`] may burn more in proportion.
const MAX_CHECK_FUEL: u64 = 20_000_000_000;
/// The largest output during a check: a table's usual limit.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// What the catalog remembers of a verdict.
pub fn lawfulness(verdict: &Verdict) -> Lawfulness {
    match verdict {
        Verdict::NoCounterexample { cases } => Lawfulness::NoCounterexample { cases: *cases },
        Verdict::Unchecked { .. } => Lawfulness::Unchecked,
        Verdict::Violated(counterexample) => Lawfulness::Unlawful {
            law: counterexample.law.name().into(),
            counterexample: counterexample.to_string().into(),
        },
    }
}

/// Searches for a counterexample. `progress` is told how many cases are done,
/// now and then, and may end the search.
pub fn check(
    sandbox: &Sandbox,
    loaded: &Loaded,
    samples: &Samples,
    settings: Settings,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Report {
    let portions = settings.cases.div_ceil(DEFAULT_CASES).max(1);
    let module = Module {
        sandbox,
        loaded,
        fuel_before: loaded.figures().fuel,
        max_fuel: MAX_CHECK_FUEL.saturating_mul(portions),
    };
    kinfold_laws::check(&module, samples, settings, progress)
}

/// A module in the sandbox.
struct Module<'a> {
    sandbox: &'a Sandbox,
    loaded: &'a Loaded,
    fuel_before: u64,
    max_fuel: u64,
}

fn failure(failure: Failure) -> kinfold_laws::Failure {
    use kinfold_laws::Failure as Of;
    let text = failure.to_string();
    match failure {
        Failure::Refused(reason) => Of::Refused(reason),
        Failure::Trapped(_) | Failure::Malformed(_) => Of::Trapped(text),
        Failure::OutOfFuel { .. } => Of::Limit(Limit::Fuel, text),
        Failure::OutOfMemory { .. } => Of::Limit(Limit::Memory, text),
        Failure::OutOfStack => Of::Limit(Limit::Stack, text),
        Failure::OutputTooLarge { .. } => Of::Limit(Limit::Output, text),
        // The clock is this machine's, and so is the room for instances.
        Failure::OutOfTime { .. } | Failure::Busy => Of::Unavailable(text),
    }
}

/// The engine's dots have actors of sixteen bytes, as the store's have.
fn guest_dot(dot: &Dot) -> dot::Dot {
    let mut actor = [0; 16];
    let length = dot.actor.len().min(16);
    actor[..length].copy_from_slice(&dot.actor[..length]);
    dot::Dot {
        actor: Actor::from_bytes(actor),
        counter: dot.counter,
    }
}

fn guest_sibling(sibling: &Sibling) -> GuestSibling {
    GuestSibling {
        dot: guest_dot(&sibling.dot),
        version: Version {
            value: sibling.value.as_deref().map(Bytes::copy_from_slice),
            content_type: sibling.content_type.as_str().into(),
            written_at_us: sibling.written_at_us,
            stands_for: None,
        },
    }
}

fn call(item: &Item) -> Call<'_> {
    let table = TableId::of(&item.table, 1);
    let key = ItemKey::new(table, &item.partition_key, item.sort_key.as_deref());
    Call::new(&item.table, &key, MAX_OUTPUT_BYTES)
}

impl Subject for Module<'_> {
    fn kind(&self) -> Kind {
        match self.loaded.kind() {
            ModuleKind::Reconciler => Kind::Reconciler,
            ModuleKind::DataType => Kind::DataType,
        }
    }

    fn samples(
        &self,
        seed: u64,
        count: u32,
    ) -> Result<Option<Vec<Vec<u8>>>, kinfold_laws::Failure> {
        let samples = match self.kind() {
            Kind::Reconciler => self.sandbox.samples(self.loaded, seed, count),
            Kind::DataType => self.sandbox.operations(self.loaded, seed, count),
        };
        samples.map_err(failure)
    }

    fn fold(&self, item: &Item, siblings: &[&Sibling]) -> Answer {
        let siblings: Vec<GuestSibling> = siblings.iter().map(|one| guest_sibling(one)).collect();
        match self.sandbox.fold(self.loaded, &call(item), &siblings) {
            Ok(Outcome::Merged(value)) => Ok(kinfold_laws::Outcome::Merged(value)),
            Ok(Outcome::Deleted) => Ok(kinfold_laws::Outcome::Deleted),
            Ok(Outcome::Unresolved) => Ok(kinfold_laws::Outcome::Unresolved),
            Err(error) => Err(failure(error)),
        }
    }

    fn apply(
        &self,
        item: &Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &Event,
    ) -> Result<Vec<u8>, kinfold_laws::Failure> {
        let operation = Operation {
            body: Bytes::copy_from_slice(operation),
            dot: guest_dot(&event.dot),
            written_at_us: event.written_at_us,
        };
        let applied = self
            .sandbox
            .apply(self.loaded, &call(item), state, &operation);
        applied.map(Vec::from).map_err(failure)
    }

    fn render(&self, state: &[u8]) -> Result<View, kinfold_laws::Failure> {
        let view = self.sandbox.render(self.loaded, state, MAX_OUTPUT_BYTES);
        let view = view.map_err(failure)?;
        Ok(View {
            body: view.body.into(),
            content_type: view.content_type.to_string(),
        })
    }

    fn usage(&self) -> Option<Usage> {
        let limits = self.sandbox.limits();
        let (fuel_peak, memory_peak_bytes) = self.loaded.peaks();
        Some(Usage {
            fuel_peak,
            fuel_limit: limits.fuel,
            memory_peak_bytes,
            memory_limit_bytes: limits.memory_bytes as u64,
            output_limit_bytes: MAX_OUTPUT_BYTES,
        })
    }

    fn is_spent(&self) -> bool {
        self.loaded.figures().fuel - self.fuel_before > self.max_fuel
    }
}
