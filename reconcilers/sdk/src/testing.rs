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

mod replica;
mod subject;

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::ops::ControlFlow;

pub use kinfold_laws::Report;
use kinfold_laws::{self as laws, Samples, Settings, Subject, Verdict};

use crate::{DataType, Dot, Event, Item, Outcome, Reconciler, Sibling};

pub use replica::{Replica, join, meet, view};
pub use subject::Fold;
use subject::{Alone, Merge, Type, from_laws, to_laws};

/// How many cases a test tries, some forty folds each: a moment, and twice what an
/// upload is checked with.
pub const DEFAULT_CASES: u64 = 2_000;

/// How long a node's actors are, and those of [`event`] and [`Replica`]: states
/// that name actors are then as large as real ones.
pub const ACTOR_BYTES: usize = 16;

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

/// Laws 1 to 5 on these very siblings (at least one): what is broken, or nothing.
/// Siblings that the fold refuses must be refused in every order.
///
/// ```
/// # use kinfold_reconciler::{Item, Outcome, Reconciler, Sibling, testing};
/// # struct Last;
/// # impl Reconciler for Last {
/// #     const SUMMARY: &str = "The last";
/// #     fn fold(_: &Item, siblings: &[Sibling]) -> Result<Outcome, String> {
/// #         let last = siblings.iter().max_by_key(|one| (one.written_at, &one.dot));
/// #         Ok(last.and_then(|one| one.value.clone()).map_or(Outcome::Deleted, Outcome::Merged))
/// #     }
/// # }
/// let (put, gone) = (testing::sibling(Some(b"a"), 1, 1, 1), testing::sibling(None, 1, 2, 1));
/// assert_eq!(testing::check_siblings(Last::fold, &[put, gone]), Ok(()));
/// ```
pub fn check_siblings(fold: Fold, siblings: &[Sibling]) -> Result<(), String> {
    let siblings = siblings.iter().map(to_laws).collect();
    laws::check_siblings(&Alone(fold), siblings)
        .map_err(|counterexample| counterexample.to_string())
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

/// Where a test's operation happens: the clock stands at zero.
pub fn event(actor: u8, counter: u64) -> Event {
    Event {
        dot: Dot {
            actor: vec![actor; ACTOR_BYTES],
            counter,
        },
        written_at: 0,
    }
}

/// The sibling that a fold of `inputs` (at least one) is when it is folded again:
/// it carries the greatest (written-at, dot) of them, the pair.
pub fn stand_in(inputs: &[Sibling], outcome: Outcome) -> Sibling {
    let inputs: Vec<laws::Sibling> = inputs.iter().map(to_laws).collect();
    let inputs: Vec<&laws::Sibling> = inputs.iter().collect();
    from_laws(&laws::stand_in(&inputs, outcome.into_value()))
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

/// Fails the test if the report has a counterexample, or decided nothing. How many
/// cases it decided, otherwise.
#[track_caller]
pub fn conclude(report: &Report) -> u64 {
    match &report.verdict {
        Verdict::NoCounterexample { cases } => {
            println!("no counterexample in {cases} cases (seed {})", report.seed);
            for note in &report.notes {
                println!("note: {note}");
            }
            *cases
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
