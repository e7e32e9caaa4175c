//! The laws of a fold, for the tests of merge logic: the law check of the
//! server, `kinfold-laws`, asked of plain Rust.
//!
//! Promises: [`check`] says what is broken, and by which siblings, or nothing;
//! [`search`] draws the siblings too, as an upload does. Both are quick enough
//! to run on every edit, and point at a line of Rust.

use std::ops::ControlFlow;

use kinfold_laws::{Answer, Failure, Item, Kind, Samples, Settings, Subject, Verdict};

use crate::{Dot, Event, Outcome, Sibling, View};

/// Any fold.
pub type Fold = fn(&[Sibling]) -> Result<Outcome, String>;
/// Sample values, or operations.
pub type Draw = fn(u64, u32) -> Vec<Vec<u8>>;
/// What a data type has beside its fold.
pub type Apply = fn(Option<&[u8]>, &[u8], &Event) -> Result<Vec<u8>, String>;
/// What a client sees of a state.
pub type Render = fn(&[u8]) -> Result<View, String>;

/// Merge logic in plain Rust.
#[derive(Clone, Copy)]
pub struct Merge {
    pub fold: Fold,
    pub samples: Draw,
    /// None for a reconciler.
    pub data_type: Option<(Apply, Render)>,
}

fn dot(dot: &kinfold_laws::Dot) -> Dot {
    Dot {
        actor: dot.actor.clone(),
        counter: dot.counter,
    }
}

fn sibling_of(sibling: &kinfold_laws::Sibling) -> Sibling {
    Sibling {
        value: sibling.value.clone(),
        written_at: sibling.written_at_us,
        dot: dot(&sibling.dot),
    }
}

fn sibling_for(sibling: &Sibling) -> kinfold_laws::Sibling {
    kinfold_laws::Sibling {
        value: sibling.value.clone(),
        content_type: String::new(),
        written_at_us: sibling.written_at,
        dot: kinfold_laws::Dot {
            actor: sibling.dot.actor.clone(),
            counter: sibling.dot.counter,
        },
    }
}

impl Subject for Merge {
    fn kind(&self) -> Kind {
        match self.data_type {
            Some(_) => Kind::DataType,
            None => Kind::Reconciler,
        }
    }

    fn samples(&self, seed: u64, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        Ok(Some((self.samples)(seed, count)))
    }

    fn fold(&self, _: &Item, siblings: &[&kinfold_laws::Sibling]) -> Answer {
        let siblings: Vec<Sibling> = siblings.iter().map(|one| sibling_of(one)).collect();
        match (self.fold)(&siblings) {
            Ok(Outcome::Merged(value)) => Ok(kinfold_laws::Outcome::Merged(value)),
            Ok(Outcome::Deleted) => Ok(kinfold_laws::Outcome::Deleted),
            Err(reason) => Err(Failure::Refused(reason)),
        }
    }

    fn apply(
        &self,
        _: &Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &kinfold_laws::Event,
    ) -> Result<Vec<u8>, Failure> {
        let (apply, _) = self.data_type.expect("a data type");
        let event = Event {
            dot: dot(&event.dot),
            written_at: event.written_at_us,
        };
        apply(state, operation, &event).map_err(Failure::Refused)
    }

    fn render(&self, state: &[u8]) -> Result<kinfold_laws::View, Failure> {
        let (_, render) = self.data_type.expect("a data type");
        let view = render(state).map_err(Failure::Refused)?;
        Ok(kinfold_laws::View {
            body: view.body,
            content_type: view.content_type.to_owned(),
        })
    }
}

/// The sibling that a fold of `inputs` (at least one) is when it is folded again.
pub fn stand_in(inputs: &[Sibling], outcome: Outcome) -> Sibling {
    let inputs: Vec<kinfold_laws::Sibling> = inputs.iter().map(sibling_for).collect();
    let inputs: Vec<&kinfold_laws::Sibling> = inputs.iter().collect();
    sibling_of(&kinfold_laws::stand_in(&inputs, outcome.into_value()))
}

/// Laws 1 to 5, on these siblings (at least one). Siblings that `fold` refuses
/// must be refused in every order.
pub fn check(fold: Fold, siblings: &[Sibling]) -> Result<(), String> {
    let merge = Merge {
        fold,
        samples: |_, _| vec![],
        data_type: None,
    };
    let siblings = siblings.iter().map(sibling_for).collect();
    kinfold_laws::check_siblings(&merge, siblings)
        .map_err(|counterexample| counterexample.to_string())
}

/// All the laws, on cases drawn from the merge's own samples: how many it
/// decided, or the counterexample.
pub fn search(merge: Merge, seed: u64, cases: u64) -> Result<u64, String> {
    let report = kinfold_laws::check(
        &merge,
        &Samples::Module,
        Settings::new(seed, cases),
        &mut |_| ControlFlow::Continue(()),
    );
    match report.verdict {
        Verdict::NoCounterexample { cases } => Ok(cases),
        Verdict::Unchecked { reason } => Err(reason),
        Verdict::Violated(counterexample) => Err(counterexample.to_string()),
    }
}

/// A sibling for tests: a one-byte actor.
pub fn sibling(value: Option<&[u8]>, written_at: u64, actor: u8, counter: u64) -> Sibling {
    Sibling {
        value: value.map(<[u8]>::to_vec),
        written_at,
        dot: Dot {
            actor: vec![actor],
            counter,
        },
    }
}
