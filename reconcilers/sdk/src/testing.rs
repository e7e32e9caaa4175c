//! The law check as a test, and what tests of a merge are written with.
//!
//! Promises: [`check`] and [`check_data_type`] search for a counterexample with
//! the very engine that nodes use on every upload, on plain Rust, where a case is
//! quick; what they find they show as the failure of the test, shrunk, with what
//! finds it again. A panic of the merge is a finding, not the end of the search.
//!
//! Not promised: what only a sandbox shows, the limits on instructions, memory
//! and output; `kinfold reconciler check` runs the module itself. And no
//! counterexample is no proof.
//!
//! | variable | is |
//! | --- | --- |
//! | `KINFOLD_SEED` | which cases are drawn; by chance if unset, as failures depend on the merge alone in the end |
//! | `KINFOLD_CASES` | how many, [`DEFAULT_CASES`] if unset |

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::env;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

pub use kinfold_laws::Report;
use kinfold_laws::{self as laws, Failure, Kind, Samples, Settings, Subject, Verdict};

use crate::{DataType, Dot, Event, Item, Outcome, Reconciler, Sibling};

/// How many cases a test tries, some forty folds each: a moment, and twice what an
/// upload is checked with.
pub const DEFAULT_CASES: u64 = 2_000;

/// Fails the test with a counterexample if there is one, and when nothing could
/// be checked at all.
#[track_caller]
pub fn check<M: Reconciler>() {
    conclude(&report::<M>(seed(), cases()));
}

/// As [`check`], of a data type.
#[track_caller]
pub fn check_data_type<D: DataType>() {
    conclude(&report_data_type::<D>(seed(), cases()));
}

/// The law check itself, for tests that look at what it says.
pub fn report<M: Reconciler>(seed: u64, cases: u64) -> Report {
    search(&Merge::<M>(PhantomData), seed, cases)
}

/// As [`report`], of a data type.
pub fn report_data_type<D: DataType>(seed: u64, cases: u64) -> Report {
    search(&Type::<D>(PhantomData), seed, cases)
}

/// The fold of these values, written in this order by as many actors, as text.
/// Fails the test when they are refused, or become no text.
#[track_caller]
pub fn fold<M: Reconciler>(values: &[&str]) -> String {
    let numbered = values.iter().zip(1..);
    let siblings: Vec<Sibling> = numbered
        .map(|(value, n)| sibling(Some(value.as_bytes()), n, n as u8, 1))
        .collect();
    match M::fold(&item(), &siblings) {
        Ok(Outcome::Merged(value)) => String::from_utf8(value).expect("the fold is text"),
        Ok(outcome) => panic!("the fold of {values:?} is {outcome:?} and no value"),
        Err(error) => panic!("the fold of {values:?} is refused: {error}"),
    }
}

/// A sibling: what was written (`None`: deleted), when, and by whom.
pub fn sibling(value: Option<&[u8]>, written_at: u64, actor: u8, counter: u64) -> Sibling {
    Sibling {
        value: value.map(<[u8]>::to_vec),
        content_type: value.map_or(String::new(), |_| "application/json".to_owned()),
        written_at,
        dot: Dot {
            actor: vec![actor],
            counter,
        },
    }
}

/// An item for tests.
pub fn item() -> Item {
    Item {
        table: "things".to_owned(),
        partition_key: b"one".to_vec(),
        sort_key: None,
    }
}

/// The sibling that a fold of `inputs` (at least one) is when it is folded again:
/// it carries the greatest (written-at, dot) of them, the pair.
pub fn stand_in(inputs: &[Sibling], outcome: Outcome) -> Sibling {
    let inputs: Vec<laws::Sibling> = inputs.iter().map(to_laws).collect();
    let inputs: Vec<&laws::Sibling> = inputs.iter().collect();
    from_laws(&laws::stand_in(&inputs, outcome.into_value()))
}

/// One replica of an item of a data type, for tests of operations.
pub struct Replica<D> {
    actor: u8,
    counter: u64,
    state: Option<Vec<u8>>,
    data_type: PhantomData<D>,
}

impl<D: DataType> Replica<D> {
    /// A replica that has seen nothing; each needs an actor of its own.
    pub fn new(actor: u8) -> Self {
        Replica {
            actor,
            counter: 0,
            state: None,
            data_type: PhantomData,
        }
    }

    /// One operation; the error is what its client would see.
    pub fn apply(&mut self, operation: &str) -> Result<(), String> {
        self.counter += 1;
        let event = Event {
            dot: Dot {
                actor: vec![self.actor],
                counter: self.counter,
            },
            written_at: self.counter,
        };
        let operation = operation.as_bytes();
        self.state = Some(D::apply(&item(), self.state.as_deref(), operation, &event)?);
        Ok(())
    }

    /// Takes over what another one has.
    #[track_caller]
    pub fn receive(&mut self, other: &Replica<D>) {
        let mine = sibling(
            self.state.as_deref(),
            self.counter,
            self.actor,
            self.counter,
        );
        let theirs = sibling(
            other.state.as_deref(),
            other.counter,
            other.actor,
            other.counter,
        );
        let folded = D::fold(&item(), &[mine, theirs]).expect("states join");
        self.state = folded.into_value();
    }

    /// What a client sees, as text; nothing where there is no item.
    #[track_caller]
    pub fn view(&self) -> String {
        let Some(state) = &self.state else {
            return String::new();
        };
        let view = D::render(state).expect("a state renders");
        String::from_utf8(view.body).expect("the view is text")
    }
}

fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    let number = value.parse();
    Some(
        number.unwrap_or_else(|error| panic!("{name} is a number, and {value:?} is none: {error}")),
    )
}

fn seed() -> u64 {
    variable("KINFOLD_SEED").unwrap_or_else(|| RandomState::new().hash_one("seed"))
}

fn cases() -> u64 {
    variable("KINFOLD_CASES").unwrap_or(DEFAULT_CASES)
}

fn search(subject: &dyn Subject, seed: u64, cases: u64) -> Report {
    let settings = Settings::new(seed, cases);
    laws::check(subject, &Samples::Module, settings, &mut |_| {
        ControlFlow::Continue(())
    })
}

#[track_caller]
fn conclude(report: &Report) {
    match &report.verdict {
        Verdict::NoCounterexample { cases } => {
            println!("no counterexample in {cases} cases (seed {})", report.seed);
            for note in &report.notes {
                println!("note: {note}");
            }
        }
        Verdict::Unchecked { reason } => panic!(
            "nothing was checked: {reason}; see to it that the samples are values that it takes"
        ),
        Verdict::Violated(found) => panic!(
            "{}\n  or natively:  KINFOLD_SEED={} KINFOLD_CASES={} cargo test\n",
            found.tell("kinfold reconciler check FILE"),
            found.seed,
            found.case + 1,
        ),
    }
}

thread_local! {
    /// Whether this thread calls a merge, whose panics are findings.
    static CALLS: Cell<bool> = const { Cell::new(false) };
}

/// Calls a merge; its panic becomes a finding, with its message.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    // A search panics a hundred times where one is of interest: the one that is
    // left when the case is shrunk. Other threads' panics are told as ever.
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            if !CALLS.get() {
                usual(about);
            }
        }));
    });
    CALLS.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    CALLS.set(false);
    match result {
        Ok(result) => result.map_err(Failure::Refused),
        Err(message) => {
            let text = message.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| message.downcast_ref::<&str>().copied());
            Err(Failure::Trapped(format!(
                "panicked: {}",
                text.unwrap_or("without a message")
            )))
        }
    }
}

fn to_laws(sibling: &Sibling) -> laws::Sibling {
    laws::Sibling {
        value: sibling.value.clone(),
        content_type: sibling.content_type.clone(),
        written_at_us: sibling.written_at,
        dot: laws::Dot {
            actor: sibling.dot.actor.clone(),
            counter: sibling.dot.counter,
        },
    }
}

fn from_laws(sibling: &laws::Sibling) -> Sibling {
    Sibling {
        value: sibling.value.clone(),
        content_type: sibling.content_type.clone(),
        written_at: sibling.written_at_us,
        dot: from_laws_dot(&sibling.dot),
    }
}

fn from_laws_dot(dot: &laws::Dot) -> Dot {
    Dot {
        actor: dot.actor.clone(),
        counter: dot.counter,
    }
}

fn from_laws_item(item: &laws::Item) -> Item {
    Item {
        table: item.table.clone(),
        partition_key: item.partition_key.clone(),
        sort_key: item.sort_key.clone(),
    }
}

type Fold = fn(&Item, &[Sibling]) -> Result<Outcome, String>;

fn folded(fold: Fold, item: &laws::Item, siblings: &[&laws::Sibling]) -> laws::Answer {
    let siblings: Vec<Sibling> = siblings.iter().map(|one| from_laws(one)).collect();
    let item = from_laws_item(item);
    guarded(|| fold(&item, &siblings)).map(|outcome| match outcome {
        Outcome::Merged(value) => laws::Outcome::Merged(value),
        Outcome::Deleted => laws::Outcome::Deleted,
        Outcome::Unresolved => laws::Outcome::Unresolved,
    })
}

/// None when there are none: the engine then makes up its own.
fn own(samples: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    (!samples.is_empty()).then_some(samples)
}

struct Merge<M>(PhantomData<M>);

impl<M: Reconciler> Subject for Merge<M> {
    fn kind(&self) -> Kind {
        Kind::Reconciler
    }

    fn samples(&self, seed: u64, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        guarded(|| Ok(own(M::samples(seed, count))))
    }

    fn fold(&self, item: &laws::Item, siblings: &[&laws::Sibling]) -> laws::Answer {
        folded(M::fold, item, siblings)
    }
}

struct Type<D>(PhantomData<D>);

impl<D: DataType> Subject for Type<D> {
    fn kind(&self) -> Kind {
        Kind::DataType
    }

    fn samples(&self, seed: u64, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        guarded(|| Ok(own(D::operations(seed, count))))
    }

    fn fold(&self, item: &laws::Item, siblings: &[&laws::Sibling]) -> laws::Answer {
        folded(D::fold, item, siblings)
    }

    fn apply(
        &self,
        item: &laws::Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &laws::Event,
    ) -> Result<Vec<u8>, Failure> {
        let item = from_laws_item(item);
        let event = Event {
            dot: from_laws_dot(&event.dot),
            written_at: event.written_at_us,
        };
        guarded(|| D::apply(&item, state, operation, &event))
    }

    fn render(&self, state: &[u8]) -> Result<laws::View, Failure> {
        guarded(|| D::render(state)).map(|view| laws::View {
            body: view.body,
            content_type: view.content_type.to_owned(),
        })
    }
}
