//! Plain Rust as a subject of the law check, for the tests.

#![allow(dead_code)]

use std::ops::ControlFlow;

use kinfold_laws::{
    Answer, Event, Failure, Item, Kind, Law, Report, Samples, Settings, Sibling, Subject, Verdict,
    View, check,
};

/// The seeds that everything is tried with.
pub const SEEDS: [u64; 5] = [1, 2, 3, 42, u64::MAX];

type Fold = Box<dyn Fn(&[&Sibling]) -> Answer>;
type Apply = Box<dyn Fn(Option<&[u8]>, &[u8], &Event) -> Result<Vec<u8>, Failure>>;
type Render = Box<dyn Fn(&[u8]) -> Result<View, Failure>>;

/// A merge in plain Rust.
pub struct Native {
    pub name: &'static str,
    samples: Vec<Vec<u8>>,
    fold: Fold,
    data_type: Option<(Apply, Render)>,
}

fn bytes(samples: &[&str]) -> Vec<Vec<u8>> {
    let samples = samples.iter();
    samples.map(|sample| sample.as_bytes().to_vec()).collect()
}

impl Native {
    pub fn fold(
        name: &'static str,
        samples: &[&str],
        fold: impl Fn(&[&Sibling]) -> Answer + 'static,
    ) -> Self {
        Native {
            name,
            samples: bytes(samples),
            fold: Box::new(fold),
            data_type: None,
        }
    }

    pub fn data_type(
        mut self,
        apply: impl Fn(Option<&[u8]>, &[u8], &Event) -> Result<Vec<u8>, Failure> + 'static,
        render: impl Fn(&[u8]) -> Result<View, Failure> + 'static,
    ) -> Self {
        self.data_type = Some((Box::new(apply), Box::new(render)));
        self
    }

    pub fn with(mut self, samples: &[&str]) -> Self {
        self.samples = bytes(samples);
        self
    }
}

impl Subject for Native {
    fn kind(&self) -> Kind {
        match self.data_type {
            Some(_) => Kind::DataType,
            None => Kind::Reconciler,
        }
    }

    fn samples(&self, _: u64, _: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        Ok((!self.samples.is_empty()).then(|| self.samples.clone()))
    }

    fn fold(&self, _: &Item, siblings: &[&Sibling]) -> Answer {
        (self.fold)(siblings)
    }

    fn apply(
        &self,
        _: &Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &Event,
    ) -> Result<Vec<u8>, Failure> {
        let (apply, _) = self.data_type.as_ref().expect("a data type");
        apply(state, operation, event)
    }

    fn render(&self, state: &[u8]) -> Result<View, Failure> {
        let (_, render) = self.data_type.as_ref().expect("a data type");
        render(state)
    }
}

/// The values that are there.
pub fn values<'a>(siblings: &'a [&'a Sibling]) -> impl Iterator<Item = &'a [u8]> {
    siblings
        .iter()
        .filter_map(|sibling| sibling.value.as_deref())
}

pub fn report(native: &Native, seed: u64, cases: u64) -> Report {
    let settings = Settings::new(seed, cases);
    check(native, &Samples::Module, settings, &mut |_| {
        ControlFlow::Continue(())
    })
}

/// What each seed comes to: the text of a counterexample, or none.
pub fn verdicts(native: &Native, cases: u64) -> Vec<(u64, Option<String>)> {
    SEEDS
        .into_iter()
        .map(|seed| match report(native, seed, cases).verdict {
            Verdict::NoCounterexample { .. } => (seed, None),
            Verdict::Unchecked { reason } => panic!("{}: {reason}", native.name),
            Verdict::Violated(found) => (seed, Some(found.to_string())),
        })
        .collect()
}

/// Every seed finds one of these laws broken, and replays it.
pub fn found(native: &Native, laws: &[Law], cases: u64) {
    for seed in SEEDS {
        let report = report(native, seed, cases);
        let Verdict::Violated(found) = report.verdict else {
            panic!("{}, seed {seed}: {:?}", native.name, report.verdict);
        };
        println!(
            "{}: case {}, {} calls\n{found}\n",
            native.name, found.case, report.calls
        );
        assert!(laws.contains(&found.law), "{}: {found}", native.name);
        assert!(found.siblings.len() <= 5, "{}: {found}", native.name);
    }
}
