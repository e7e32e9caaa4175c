//! The search itself: samples, cases, one after the other, until something is
//! found or the cases are through.

use std::cell::Cell;
use std::ops::ControlFlow;

use crate::case::{Case, POOL, Source, Values, dot, plain_item, usual_type};
use crate::dice::Dice;
use crate::finding::{Finding, Law, Side};
use crate::mutate::mutate;
use crate::play::play;
use crate::probe::{Came, Found, probe};
use crate::samples::{GENERAL, Samples};
use crate::shrink::shrink;
use crate::subject::{
    Answer, Event, Failure, Item, Kind, Limit, Outcome, Sibling, Subject, Usage, View,
};
use crate::tell::{Counterexample, counterexample};

/// The most siblings of a case: five have 120 orders.
pub(crate) const MAX_SIBLINGS: usize = 5;
/// How often progress is reported.
const PROGRESS_EVERY: u64 = 20;
/// How many values that a module takes are made of its samples by mutation, and
/// how many that it refuses are kept.
const MAX_MUTANTS: usize = 32;
const MAX_REFUSED: usize = 8;
/// The largest value that is kept to be folded again.
const MAX_KEPT_BYTES: usize = 4096;
/// How many operations the growth of a state is watched over.
const GROWTH_OPERATIONS: u64 = 384;

/// How long to search, and where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Draws the cases.
    pub seed: u64,
    /// How many cases to try.
    pub cases: u64,
    /// The most siblings of a case, up to five.
    pub max_siblings: usize,
}

impl Settings {
    /// This many cases of up to five siblings.
    pub fn new(seed: u64, cases: u64) -> Self {
        Settings {
            seed,
            cases,
            max_siblings: MAX_SIBLINGS,
        }
    }
}

/// What the search came to.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// No counterexample in this many cases: those that the module decided.
    NoCounterexample { cases: u64 },
    /// Nothing could be tried; the reason is for people.
    Unchecked { reason: String },
    /// A counterexample, shrunk.
    Violated(Box<Counterexample>),
}

/// The verdict, and the figures of the search.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub verdict: Verdict,
    pub seed: u64,
    /// How many cases were tried, decided or not.
    pub tried: u64,
    /// How many calls that took.
    pub calls: u64,
    /// How many cases the module left unresolved, or refused.
    pub unresolved: u64,
    pub refused: u64,
    /// What the calls used; none when nothing is metered.
    pub usage: Option<Usage>,
    /// The largest value that a call gave.
    pub largest_output_bytes: u64,
    /// What is no violation and still worth a look, one sentence each.
    pub notes: Vec<String>,
}

/// Told now and then how many cases are done; may end the search there.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A subject whose calls are counted.
struct Counted<'a> {
    subject: &'a dyn Subject,
    calls: Cell<u64>,
    largest: Cell<u64>,
}

impl Counted<'_> {
    fn count(&self, bytes: Option<usize>) {
        self.calls.set(self.calls.get() + 1);
        let bytes = bytes.unwrap_or(0) as u64;
        self.largest.set(self.largest.get().max(bytes));
    }
}

impl Subject for Counted<'_> {
    fn kind(&self) -> Kind {
        self.subject.kind()
    }

    fn samples(&self, seed: u64, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        self.count(None);
        self.subject.samples(seed, count)
    }

    fn fold(&self, item: &Item, siblings: &[&Sibling]) -> Answer {
        let answer = self.subject.fold(item, siblings);
        self.count(match &answer {
            Ok(Outcome::Merged(value)) => Some(value.len()),
            _ => None,
        });
        answer
    }

    fn apply(
        &self,
        item: &Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &Event,
    ) -> Result<Vec<u8>, Failure> {
        let applied = self.subject.apply(item, state, operation, event);
        self.count(applied.as_ref().ok().map(Vec::len));
        applied
    }

    fn render(&self, state: &[u8]) -> Result<View, Failure> {
        let view = self.subject.render(state);
        self.count(view.as_ref().ok().map(|view| view.body.len()));
        view
    }

    fn usage(&self) -> Option<Usage> {
        self.subject.usage()
    }

    fn is_spent(&self) -> bool {
        self.subject.is_spent()
    }
}

/// Tries one case.
pub(crate) fn try_case(subject: &dyn Subject, case: &Case) -> Result<Came, Found> {
    match case {
        Case::Values(values) => probe(subject, values),
        Case::History(history) => play(subject, history),
    }
}

/// Searches for a counterexample.
pub fn check(
    subject: &dyn Subject,
    samples: &Samples,
    settings: Settings,
    progress: Progress<'_>,
) -> Report {
    let counted = Counted {
        subject,
        calls: Cell::new(0),
        largest: Cell::new(0),
    };
    let mut search = Search {
        subject: &counted,
        dice: Dice::new(settings.seed),
        notes: Vec::new(),
        tried: 0,
        unresolved: 0,
        refused: 0,
    };
    let verdict = search.run(samples, settings, progress);
    Report {
        verdict,
        seed: settings.seed,
        tried: search.tried,
        unresolved: search.unresolved,
        refused: search.refused,
        notes: search.notes,
        calls: counted.calls.get(),
        usage: subject.usage(),
        largest_output_bytes: counted.largest.get(),
    }
}

/// Tries laws 1 to 5 on these siblings alone, of the item `k` of a table `t`;
/// for property tests that draw their own. What is found is not shrunk.
pub fn check_siblings(
    subject: &dyn Subject,
    siblings: Vec<Sibling>,
) -> Result<(), Box<Counterexample>> {
    let values = Values {
        item: plain_item(),
        siblings,
        is_large: false,
    };
    match probe(subject, &values) {
        Ok(_) => Ok(()),
        Err(finding) => {
            let told = counterexample(&Case::Values(values), *finding, 0, 0);
            Err(Box::new(told))
        }
    }
}

struct Search<'a> {
    subject: &'a dyn Subject,
    dice: Dice,
    notes: Vec<String>,
    tried: u64,
    unresolved: u64,
    refused: u64,
}

/// Why there is nothing to draw cases from.
enum NoSource {
    Unchecked(String),
    Found(Values, Found),
}

impl Search<'_> {
    fn run(&mut self, samples: &Samples, settings: Settings, progress: Progress<'_>) -> Verdict {
        let mut source = match self.source(samples, settings.max_siblings) {
            Ok(source) => source,
            Err(NoSource::Unchecked(reason)) => return Verdict::Unchecked { reason },
            Err(NoSource::Found(values, finding)) => {
                return self.violated(Case::Values(values), *finding, settings.seed);
            }
        };
        let (mut decided, mut reason) = (0, None);
        for number in 0..settings.cases {
            if self.subject.is_spent() {
                self.notes.push(format!(
                    "the fuel of one check was spent after {number} of {} cases",
                    settings.cases
                ));
                break;
            }
            let case = source.case(&mut self.dice, number);
            let came = try_case(self.subject, &case);
            match came {
                Err(finding) => return self.violated(case, *finding, settings.seed),
                Ok(Came::Decided(value)) => {
                    decided += 1;
                    let value = value.filter(|value| value.len() <= MAX_KEPT_BYTES);
                    if let Some(value) = value {
                        source.keep(&mut self.dice, value);
                    }
                }
                Ok(Came::Unresolved) => self.unresolved += 1,
                Ok(Came::Refused(text)) => {
                    self.refused += 1;
                    reason.get_or_insert(text);
                }
                Ok(Came::Single | Came::CutShort) => {}
            }
            self.tried += 1;
            if self.tried.is_multiple_of(PROGRESS_EVERY) && progress(self.tried).is_break() {
                break;
            }
        }
        if decided == 0 {
            let what = match (self.unresolved, reason) {
                (_, Some(reason)) => format!("it refused them: {reason}"),
                (1.., None) => "it left them unresolved".to_owned(),
                (0, None) => "there were none".to_owned(),
            };
            return Verdict::Unchecked {
                reason: format!(
                    "the module decided none of the {} cases that were tried; {what}",
                    self.tried
                ),
            };
        }
        if source.is_data_type {
            self.watch_growth(&source);
        }
        Verdict::NoCounterexample { cases: decided }
    }

    fn violated(&self, case: Case, finding: Finding, seed: u64) -> Verdict {
        let (case, finding) = shrink(self.subject, case, finding);
        let counterexample = counterexample(&case, finding, seed, self.tried);
        Verdict::Violated(Box::new(counterexample))
    }

    /// The samples, and what the module takes of them and of values near them.
    fn source(&mut self, samples: &Samples, max_siblings: usize) -> Result<Source, NoSource> {
        let seed = self.dice.roll();
        let (drawn, are_general) = match samples {
            Samples::Given(samples) => (samples.clone(), false),
            Samples::Module => match self.subject.samples(seed, POOL) {
                Ok(Some(samples)) if !samples.is_empty() => (samples, false),
                Ok(_) => (self.general(), true),
                Err(failure) => {
                    let text = failure.text();
                    self.notes.push(format!(
                        "the module's own samples fail ({text}), so general ones were tried"
                    ));
                    (self.general(), true)
                }
            },
        };
        let is_data_type = self.subject.kind() == Kind::DataType;
        let mut source = Source {
            pool: Vec::new(),
            refused: Vec::new(),
            grown: Vec::new(),
            is_data_type,
            max_siblings: max_siblings.clamp(1, MAX_SIBLINGS),
        };
        if is_data_type {
            // An operation may need a state that has come further.
            source.pool = drawn;
        } else {
            self.sieve(&mut source, drawn, are_general)?;
        }
        if source.pool.is_empty() {
            return Err(NoSource::Unchecked(
                "the module accepts none of the samples; give it its own".to_owned(),
            ));
        }
        Ok(source)
    }

    fn general(&mut self) -> Vec<Vec<u8>> {
        let mut samples: Vec<Vec<u8>> = GENERAL.iter().map(|sample| sample.to_vec()).collect();
        while samples.len() < POOL as usize {
            let sample = self.dice.pick(&samples).clone();
            samples.push(mutate(&mut self.dice, &sample, &samples));
        }
        samples
    }

    /// Keeps what the module takes by itself, and some of what it refuses.
    fn sieve(
        &mut self,
        source: &mut Source,
        drawn: Vec<Vec<u8>>,
        are_general: bool,
    ) -> Result<(), NoSource> {
        let count = drawn.len();
        let mut reason = None;
        for sample in drawn {
            match self.alone(&sample, !are_general)? {
                Ok(_) => source.pool.push(sample),
                Err(failure) => {
                    reason.get_or_insert_with(|| failure.text().to_owned());
                    if source.refused.len() < MAX_REFUSED {
                        source.refused.push(sample);
                    }
                }
            }
        }
        if let (Some(reason), true) = (&reason, source.pool.is_empty()) {
            return Err(NoSource::Unchecked(format!(
                "the module accepts none of the samples ({reason}); give it its own"
            )));
        }
        let refused = count - source.pool.len();
        if let (Some(reason), false) = (reason, are_general) {
            self.notes.push(format!(
                "the module refuses {refused} of its {count} samples: {reason}"
            ));
        }
        if source.pool.is_empty() {
            return Ok(());
        }
        for _ in 0..MAX_MUTANTS {
            let sample = self.dice.pick(&source.pool).clone();
            let mutant = mutate(&mut self.dice, &sample, &source.pool);
            if source.pool.contains(&mutant) {
                continue;
            }
            match self.alone(&mutant, false)? {
                Ok(_) => source.pool.push(mutant),
                Err(_) if source.refused.len() < MAX_REFUSED => source.refused.push(mutant),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Folds one value by itself. A limit is a finding: the values are small. So
    /// is a trap on a sample that is the module's own; any other may be refused
    /// in whatever way.
    fn alone(&self, value: &[u8], is_own: bool) -> Result<Answer, NoSource> {
        let sibling = Sibling {
            value: Some(value.to_vec()),
            content_type: usual_type(Some(value)),
            written_at_us: 1,
            dot: dot(0, 1),
        };
        let answer = self.subject.fold(&plain_item(), &[&sibling]);
        let counts = match &answer {
            // A host that cannot meter the stack says so by a trap.
            Err(Failure::Limit(limit, _)) => is_own || *limit != Limit::Output,
            Err(Failure::Trapped(_)) => is_own,
            _ => false,
        };
        if !counts {
            return Ok(answer);
        }
        let side = |formula: &str, words: &str, answer| Side {
            formula: formula.to_owned(),
            words: words.to_owned(),
            answer,
            within: vec![],
        };
        let finding = Finding {
            law: Law::Closed,
            left: side(
                "a",
                if is_own {
                    "one of its own samples"
                } else {
                    "a small value"
                },
                Ok(Outcome::Merged(value.to_vec())),
            ),
            right: side("fold(a)", "folded by itself", answer),
            siblings: vec![sibling.clone()],
        };
        let values = Values {
            item: plain_item(),
            siblings: vec![sibling],
            is_large: false,
        };
        Err(NoSource::Found(values, Box::new(finding)))
    }

    /// Says so when a state grows with every operation and never stops.
    fn watch_growth(&mut self, source: &Source) {
        let item = plain_item();
        let mut state: Option<Vec<u8>> = None;
        let mut sizes = Vec::new();
        for counter in 1..=GROWTH_OPERATIONS {
            let event = Event {
                dot: dot(self.dice.below(3), counter),
                written_at_us: counter,
            };
            let operation = self.dice.pick(&source.pool);
            let applied = self
                .subject
                .apply(&item, state.as_deref(), operation, &event);
            if let Ok(next) = applied {
                state = Some(next);
            }
            if counter.is_multiple_of(GROWTH_OPERATIONS / 3) {
                sizes.push(state.as_ref().map_or(0, Vec::len) as u64);
            }
        }
        if let [first, second, third] = sizes[..]
            && second > first
            && third - first >= (second - first) * 3 / 2
            && third > 2 * first.max(64)
        {
            let each = (third - first) * 3 / (2 * GROWTH_OPERATIONS);
            self.notes.push(format!(
                "a state grows by about {each} bytes with each of its own operations: {first}, \
                 {second}, {third} bytes after {}, {} and {GROWTH_OPERATIONS} of them",
                GROWTH_OPERATIONS / 3,
                GROWTH_OPERATIONS * 2 / 3,
            ));
        }
    }
}
