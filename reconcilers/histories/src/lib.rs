//! Random histories of operations at replicas, and what must hold of each: the
//! tests that every built-in data type has.
//!
//! Promises: a history does what nodes do, and nothing else: operations at
//! replicas that hear of each other now and then, in any order. A data type is
//! compared with a [`Model`], the plainest thing that could be right, and asked
//! for the laws on the states that histories made, on edited ones, and on noise.
//! What fails is shrunk, and shown with what made it.
//!
//! Not promised: anything about a module. This is for plain Rust; the law check
//! asks modules. It is in none, so a change here makes none stale.

use std::fmt::Debug;
use std::marker::PhantomData;

use kinfold_reconciler::testing::{
    Replica, check_siblings, conclude, event, item, join, report_data_type, sibling,
};
use kinfold_reconciler::{DataType, Dice, Outcome, Sibling};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// How many replicas a history has. Three: two that meet, and one that hears of it
/// later.
pub const REPLICAS: usize = 3;

/// How long a history is at the most, unless a test says otherwise.
pub const LONGEST: usize = 40;

/// Every operation that a replica has heard of: what a data type would do if
/// nothing cost anything.
pub trait Model<D: DataType>: Clone + Default {
    /// What may happen at one replica.
    type Step: Clone + Debug;

    /// Does it at the replica, and keeps note of it.
    fn step(&mut self, replica: &mut Replica<D>, step: &Self::Step);

    /// Takes over all that another one knows.
    fn hear(&mut self, other: &Self);

    /// What a client sees, or nothing where the data type does not promise it.
    fn view(&self) -> Option<String>;
}

/// The tests that every data type has: its type, its [`Histories`], and an operation
/// that it takes at any time.
#[macro_export]
macro_rules! tests {
    ($data_type:ty, $histories:expr, $operation:literal) => {
        #[test]
        fn does_as_the_model() {
            $histories.do_as_the_model();
        }

        #[test]
        fn lawful() {
            $histories.are_lawful();
        }

        #[test]
        fn lawful_as_a_data_type() {
            $histories.are_lawful_as_a_data_type();
        }

        #[test]
        fn one_state_has_one_encoding() {
            $histories.have_one_encoding();
        }

        #[test]
        fn the_law_check_finds_nothing() {
            $crate::the_law_check_finds_nothing::<$data_type>();
        }

        #[test]
        fn tombstones_contribute_nothing() {
            $crate::tombstones_contribute_nothing::<$data_type>($operation);
        }

        #[test]
        fn refuses_a_dot_that_is_not_fresh() {
            $crate::refuses_a_dot_that_is_not_fresh::<$data_type>($operation);
        }
    };
}

/// What happens in a history: at a replica, or between two.
#[derive(Clone, Debug)]
pub enum Happening<S> {
    /// An operation at this replica.
    Step(usize, S),
    /// This replica hears of what that one has.
    Hear(usize, usize),
    /// A dot of this replica is spent on something else.
    Skip(usize),
}

/// Where a history ended, and how it got there.
pub struct Played<D, M> {
    /// Each replica, and what a model in its place knows.
    pub ends: Vec<(Replica<D>, M)>,
    /// Every state that there ever was, oldest first.
    pub states: Vec<Vec<u8>>,
}

/// Plays a history, on the data type and on the model.
pub fn play<D: DataType, M: Model<D>>(history: &[Happening<M::Step>]) -> Played<D, M> {
    let mut ends: Vec<(Replica<D>, M)> = (0..REPLICAS)
        .map(|actor| (Replica::new(actor as u8), M::default()))
        .collect();
    let mut states = Vec::new();
    for happening in history {
        let at = match happening {
            Happening::Step(at, step) => {
                let (replica, model) = &mut ends[*at];
                model.step(replica, step);
                *at
            }
            Happening::Hear(at, from) => {
                let (replica, model) = ends[*from].clone();
                ends[*at].0.receive(&replica);
                ends[*at].1.hear(&model);
                *at
            }
            Happening::Skip(at) => {
                ends[*at].0.skip();
                *at
            }
        };
        states.extend(ends[at].0.state().map(<[u8]>::to_vec));
    }
    Played { ends, states }
}

/// The tests of a data type `D` against a model `M`.
pub struct Histories<D, M: Model<D>>
where
    D: DataType,
{
    steps: BoxedStrategy<M::Step>,
    types: PhantomData<(D, M)>,
}

impl<D: DataType, M: Model<D>> Histories<D, M> {
    /// Of these steps.
    pub fn new(steps: impl Strategy<Value = M::Step> + 'static) -> Self {
        Histories {
            steps: steps.boxed(),
            types: PhantomData,
        }
    }

    fn histories(
        &self,
        longest: usize,
    ) -> impl Strategy<Value = Vec<Happening<M::Step>>> + use<D, M> {
        let at = 0..REPLICAS;
        let happening = prop_oneof![
            6 => (at.clone(), self.steps.clone()).prop_map(|(at, step)| Happening::Step(at, step)),
            3 => (at.clone(), at.clone()).prop_map(|(at, from)| Happening::Hear(at, from)),
            1 => at.prop_map(Happening::Skip),
        ];
        vec(happening, 0..longest)
    }

    /// What the data type shows is what the model shows, at every replica, and
    /// again when all have heard of all.
    pub fn do_as_the_model(&self) {
        run(&self.histories(LONGEST), |history| {
            let Played { ends, .. } = play::<D, M>(&history);
            let mut whole = ends[0].clone();
            for (replica, model) in &ends {
                agree(replica, model)?;
                whole.0.receive(replica);
                whole.1.hear(model);
            }
            agree(&whole.0, &whole.1)
        });
    }

    /// Laws 1 to 5, on states that operations made, old ones and new ones, and on
    /// states that none made: edited bytes that are still read.
    pub fn are_lawful(&self) {
        let index = any::<Index>;
        let edits = vec((index(), index(), 0..6u8), 0..12);
        let picks = vec((index(), prop::bool::weighted(0.9)), 1..5);
        let inputs = (self.histories(LONGEST), edits, picks);
        run(&inputs, |(history, edits, picks)| {
            let mut states = play::<D, M>(&history).states;
            prop_assume!(!states.is_empty());
            for (which, index, byte) in edits {
                let mut forged = which.get(&states).clone();
                let at = index.index(forged.len());
                forged[at] = byte;
                if D::render(&forged).is_ok() {
                    states.push(forged);
                }
            }
            let siblings: Vec<Sibling> = picks
                .iter()
                .zip(1..)
                .map(|((index, there), n)| {
                    let state = there.then(|| index.get(&states));
                    sibling(state.map(|state| &state[..]), n % 3, 1, n)
                })
                .collect();
            check_siblings(D::fold, &siblings).map_err(TestCaseError::fail)
        });
    }

    /// Law 6: an operation moves a state up; replicas end up equal whatever the
    /// order in which they exchange states; every state has a view.
    pub fn are_lawful_as_a_data_type(&self) {
        run(&self.histories(LONGEST), |history| {
            let Played { ends, states } = play::<D, M>(&history);
            let mut ends: Vec<&[u8]> = ends.iter().filter_map(|(end, _)| end.state()).collect();
            if let Some(first) = ends.first() {
                let one_way = join::<D>(&ends);
                prop_assert_eq!(join::<D>(&[first, first]), *first);
                ends.reverse();
                let other_way = ends[1..]
                    .iter()
                    .fold(ends[0].to_vec(), |all, one| join::<D>(&[one, &all]));
                prop_assert_eq!(one_way, other_way);
            }
            for state in &states {
                prop_assert!(D::render(state).is_ok());
                for operation in D::operations(state.len() as u64, 4) {
                    let after = D::apply(&item(), Some(state), &operation, &event(7, 1000));
                    let after = after.map_err(TestCaseError::fail)?;
                    prop_assert_eq!(join::<D>(&[state, &after]), after);
                }
            }
            Ok(())
        });
    }

    /// One state, one encoding: any bytes at all are refused, or are what the fold
    /// of them alone gives back, and have a view.
    pub fn have_one_encoding(&self) {
        let edits = vec((any::<Index>(), any::<u8>()), 0..3);
        let noise = vec(any::<u8>(), 0..60);
        run(
            &(self.histories(LONGEST), edits, noise, any::<Index>()),
            |(history, edits, noise, stretched)| {
                let mut candidates = play::<D, M>(&history).states;
                if let Some(state) = candidates.last() {
                    // A number in a longer form than it needs.
                    let mut state = state.clone();
                    let at = stretched.index(state.len());
                    state[at] |= 0x80;
                    state.insert(at + 1, 0);
                    candidates.push(state);
                }
                candidates.push(noise);
                for mut bytes in candidates {
                    for (index, byte) in &edits {
                        if !bytes.is_empty() {
                            let at = index.index(bytes.len());
                            bytes[at] = *byte;
                        }
                    }
                    let alone = sibling(Some(&bytes), 1, 1, 1);
                    let folded = D::fold(&item(), &[alone]);
                    prop_assert_eq!(folded.is_ok(), D::render(&bytes).is_ok());
                    if let Ok(folded) = folded {
                        prop_assert_eq!(folded, Outcome::Merged(bytes));
                    }
                }
                Ok(())
            },
        );
    }
}

/// What a test of one history is run with: nothing is written beside the sources,
/// the failure shows the history.
fn run<S: Strategy>(inputs: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if let Err(failure) = TestRunner::new(config).run(inputs, test) {
        panic!("{failure}");
    }
}

fn agree<D: DataType, M: Model<D>>(replica: &Replica<D>, model: &M) -> Result<(), TestCaseError> {
    // An item that is not there has no view.
    if let (Some(_), Some(wanted)) = (replica.state(), model.view()) {
        prop_assert_eq!(replica.view(), wanted);
    }
    Ok(())
}

/// A tombstone contributes nothing to a state that this operation makes, and only
/// tombstones leave the item deleted.
#[track_caller]
pub fn tombstones_contribute_nothing<D: DataType>(operation: &str) {
    let mut replica = Replica::<D>::new(1);
    replica.does(operation);
    let state = sibling(replica.state(), 1, 1, 1);
    let gone = sibling(None, 9, 9, 9);
    assert_eq!(
        D::fold(&item(), &[gone.clone(), state.clone()]),
        Ok(Outcome::Merged(state.value.expect("it was written")))
    );
    assert_eq!(
        D::fold(&item(), &[gone.clone(), gone]),
        Ok(Outcome::Deleted)
    );
}

/// An operation needs a fresh dot; gaps mean nothing, for the store spends counters
/// elsewhere too.
#[track_caller]
pub fn refuses_a_dot_that_is_not_fresh<D: DataType>(operation: &str) {
    let apply = |state: Option<&[u8]>, actor, counter| {
        D::apply(&item(), state, operation.as_bytes(), &event(actor, counter))
    };
    let state = apply(None, 1, 5).expect("an operation of this type");
    let error = apply(Some(&state), 1, 5).expect_err("the dot is used");
    assert!(error.contains("fresh dot"), "{error}");
    assert!(apply(Some(&state), 1, 4).is_err());
    assert!(apply(None, 1, 0).is_err());
    assert!(apply(Some(&state), 1, 900).is_ok());
    assert!(apply(Some(&state), 2, 1).is_ok());
}

/// The law check on the data type's own operations finds nothing, and decides most
/// cases, on each of a few seeds.
#[track_caller]
pub fn the_law_check_finds_nothing<D: DataType>() {
    for seed in 0..4 {
        let decided = conclude(&report_data_type::<D>(seed, 200));
        assert!(decided > 120, "seed {seed} decided {decided}");
    }
}

/// 10,000 operations that `draw` makes at five replicas, which hear of each other
/// now and then: where they end, and the length of the largest state on the way.
pub fn crowd<D: DataType>(
    mut draw: impl FnMut(&mut Dice, u64) -> String,
) -> (Vec<Replica<D>>, usize) {
    let mut dice = Dice::new(8);
    let mut replicas: Vec<Replica<D>> = (1..=5).map(Replica::new).collect();
    let mut largest = 0;
    for round in 0..10_000 {
        let at = dice.below(5) as usize;
        let operation = draw(&mut dice, round);
        // Times as long as real ones.
        replicas[at]
            .at(1_700_000_000_000_000 + round)
            .does(&operation);
        if dice.below(4) == 0 {
            let other = replicas[dice.below(5) as usize].clone();
            replicas[at].receive(&other);
        }
        largest = largest.max(replicas[at].state().map_or(0, <[u8]>::len));
    }
    (replicas, largest)
}
