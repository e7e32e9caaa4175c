//! The law check: a search for siblings that a fold gets wrong.
//!
//! Replicas meet siblings in any order, in any groups and more than once. They
//! end up equal only if the fold does not mind, which is what the laws say:
//!
//! 1. *deterministic*: the same inputs, the same answer, whatever was folded
//!    before;
//! 2. *order-free*: every permutation, of up to five siblings;
//! 3. *idempotent*: repeats change nothing, folding a fold changes nothing;
//! 4. *regroupable*: folds of some in the place of these, nested and
//!    overlapping, the same answer;
//! 5. *closed*: what a fold gives, a fold takes, within the limits;
//! 6. *data type*: what an operation makes includes what it was made from, every
//!    state renders, and replicas that exchange states end up equal.
//!
//! A fold **stands for its inputs**, see [`stand_in`].
//!
//! - [`Subject`]: what is checked: a module in a sandbox, or plain Rust;
//! - [`check`]: the search; [`Settings`] say how long, [`Samples`] from what;
//! - [`Report`]: the [`Verdict`] and the figures; [`Counterexample`]: what was
//!   found, shrunk, for people and for programs.
//!
//! Promises: the same seed, subject and samples find the same counterexample. A
//! counterexample is a real one: it was run. A subject is called on this thread
//! only, and holds no state here. Not promised: that there is no counterexample
//! when none was found; success counts the cases and never says "proved".
//!
//! A refusal is the module's good right, if it refuses in every order: clients
//! write anything. A trap, or a limit met, on siblings that the module takes one
//! by one is a finding; so is one on the module's own samples.

mod case;
mod check;
mod dice;
mod finding;
mod hint;
mod mutate;
mod play;
mod probe;
mod samples;
mod shrink;
mod subject;
mod tell;
mod text;

pub use check::{Progress, Report, Settings, Verdict, check, check_siblings};
pub use dice::Dice;
pub use finding::{Law, Side};
pub use samples::{MAX_SAMPLE_BYTES, MAX_SAMPLE_FILES, Samples, SamplesError};
pub use subject::{
    Answer, Dot, Event, Failure, Item, Kind, Limit, Outcome, Sibling, Subject, Usage, View,
    stand_in,
};
pub use tell::Counterexample;
