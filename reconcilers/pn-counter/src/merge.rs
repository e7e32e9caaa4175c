//! A counter that goes up and down on every replica, and loses no step.
//!
//! The operation is `{"add":3}` or `{"add":-3}`, an integer of 64 bits; the view
//! is the number, as JSON: `-3`.
//!
//! Promises: the view is the sum of the operations that were applied, each once,
//! in whatever order replicas hear of each other. A sum that an actor's 64 bits
//! cannot hold refuses the operation; the sum of all actors cannot overflow. A
//! tombstone of the whole item contributes nothing, and only tombstones leave
//! the item deleted: versions that a deletion did not see survive it, whole.
//!
//! The fold of one sibling is that sibling: a state is canonical or refused.
//! [`PnCounter::render`] fails only on bytes that no operation and no fold made.
//!
//! # State
//!
//! One pair for each actor: the dot counter of its last operation, and the sum
//! of its operations, in place of the two growing sums of the textbook's
//! PN-counter (Shapiro et al., 2011): a sum that may fall too is safe because its
//! counter rises. Of two pairs the join takes the one with the greater counter.
//!
//! That is right because an actor's states grow one out of the other. An actor
//! is one node's, for one item, in one epoch; the node applies an operation to
//! its own copy, and stores the result only if the copy is still what it read;
//! a node that may have lost its copy mints under a fresh epoch. So the pair with
//! the greater counter has counted all that the other has. Gaps between
//! counters mean nothing: the store spends dots on other things too.
//!
//! A deletion of the whole item starts the sums again from zero, under higher
//! counters, wherever it was seen.
//!
//! ```text
//! ┌─────────┬────────┬─ each actor, ascending ──────────────┐
//! │ version │ actors │ length │ actor │ counter │ sum        │
//! │ 01      │ varint │ varint │ bytes │ varint  │ zigzag     │
//! └─────────┴────────┴──────────────────────────────────────┘
//! ```
//!
//! Why it is lawful: of one actor, pairs are totally ordered by (counter, sum),
//! the join is the maximum of each actor, and an operation only raises a pair.

use std::collections::BTreeMap;

use kinfold_reconciler::varint::{self, Fault, Reader};
use kinfold_reconciler::{DataType, Dice, Event, Item, Outcome, Sibling, View, fold_values};
use serde::Deserialize;

const VERSION: u8 = 1;

/// What a table calls `pn-counter`.
pub struct PnCounter;

impl DataType for PnCounter {
    const SUMMARY: &str = "A counter: concurrent additions and subtractions all count, each once";

    fn fold(_: &Item, siblings: &[Sibling]) -> Result<Outcome, String> {
        Ok(match fold_values(siblings, State::decode, State::join)? {
            Some(state) => Outcome::Merged(state.encode()),
            None => Outcome::Deleted,
        })
    }

    fn apply(
        _: &Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &Event,
    ) -> Result<Vec<u8>, String> {
        let step = parse(operation)?;
        let mut state = state.map_or_else(|| Ok(State::default()), State::decode)?;
        let pair = state.0.entry(&event.dot.actor).or_default();
        if event.dot.counter <= pair.counter {
            return Err(format!(
                "an operation needs a fresh dot: {} is not above {}, which its actor has used",
                event.dot.counter, pair.counter
            ));
        }
        let sum = pair.sum.checked_add(step).ok_or_else(|| {
            format!("adding {step} would take the counter out of 64 bits on this node")
        })?;
        *pair = Pair {
            counter: event.dot.counter,
            sum,
        };
        Ok(state.encode())
    }

    fn render(state: &[u8]) -> Result<View, String> {
        let total: i128 = State::decode(state)?
            .0
            .values()
            .map(|pair| i128::from(pair.sum))
            .sum();
        Ok(View {
            body: total.to_string().into_bytes(),
            content_type: "application/json",
        })
    }

    /// Operations for the law check: small, so that sums collide, and now and then
    /// large, so that they come near the edge.
    fn operations(seed: u64, count: u32) -> Vec<Vec<u8>> {
        let mut dice = Dice::new(seed);
        let mut operation = || {
            let step = match dice.below(16) {
                0 => i64::from(i32::MAX),
                1 => i64::from(i32::MIN),
                _ => dice.below(7) as i64 - 3,
            };
            format!("{{\"add\":{step}}}").into_bytes()
        };
        (0..count).map(|_| operation()).collect()
    }
}

fn parse(json: &[u8]) -> Result<i64, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        add: i64,
    }

    let expected = |what: &str| {
        format!("an operation on a counter is {{\"add\":-3}}, an integer of 64 bits: {what}")
    };
    // serde would take an array for the fields in their order.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(expected("this is no JSON object"));
    }
    let fields: Fields =
        serde_json::from_slice(json).map_err(|error| expected(&error.to_string()))?;
    Ok(fields.add)
}

/// A pair for each actor. Actors are borrowed from the bytes that were decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State<'a>(BTreeMap<&'a [u8], Pair>);

/// Greater is later: the counter decides. (The sum is in the order for states
/// that no store makes, two sums under one dot, so that these too are joined the
/// same way everywhere.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    counter: u64,
    sum: i64,
}

impl<'a> State<'a> {
    fn join(mut self, other: State<'a>) -> State<'a> {
        for (actor, theirs) in other.0 {
            let ours = self.0.entry(actor).or_default();
            *ours = theirs.max(*ours);
        }
        self
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        varint::put(&mut out, self.0.len() as u64);
        for (actor, pair) in &self.0 {
            varint::put_bytes(&mut out, actor);
            varint::put(&mut out, pair.counter);
            varint::put_signed(&mut out, pair.sum);
        }
        out
    }

    fn decode(bytes: &'a [u8]) -> Result<State<'a>, String> {
        read(bytes).map_err(|fault| format!("this is not the state of a pn-counter: {fault}"))
    }
}

fn read(bytes: &[u8]) -> Result<State<'_>, Fault> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != VERSION {
        return Err("its first byte names no version that this module knows");
    }
    let mut pairs = BTreeMap::new();
    for _ in 0..reader.number()? {
        let actor = reader.bytes()?;
        let pair = Pair {
            counter: reader.number()?,
            sum: reader.signed()?,
        };
        if pair.counter == 0
            || pairs
                .last_key_value()
                .is_some_and(|(last, _)| *last >= actor)
        {
            return Err("actors are not in order");
        }
        pairs.insert(actor, pair);
    }
    reader.end()?;
    Ok(State(pairs))
}

#[cfg(test)]
mod tests {
    use kinfold_histories::{Histories, Model, crowd};
    use kinfold_reconciler::Dot;
    use kinfold_reconciler::testing::{Replica, event, item, join, view};

    use super::*;

    fn add(state: Option<&[u8]>, step: i64, actor: u8, counter: u64) -> Result<Vec<u8>, String> {
        PnCounter::apply(
            &item(),
            state,
            format!("{{\"add\":{step}}}").as_bytes(),
            &event(actor, counter),
        )
    }

    #[test]
    fn counts_up_and_down() {
        let one = add(None, 5, 1, 1).unwrap();
        let two = add(Some(&one), -8, 1, 7).unwrap();
        assert_eq!(
            (view::<PnCounter>(&one), view::<PnCounter>(&two)),
            ("5".into(), "-3".into())
        );
    }

    #[test]
    fn concurrent_steps_count_once_each() {
        let base = add(None, 10, 1, 1).unwrap();
        let left = add(Some(&base), -4, 1, 2).unwrap();
        let right = add(Some(&base), 3, 2, 2).unwrap();
        assert_eq!(view::<PnCounter>(&join::<PnCounter>(&[&left, &right])), "9");
        assert_eq!(
            view::<PnCounter>(&join::<PnCounter>(&[&right, &left, &base, &right])),
            "9"
        );
    }

    /// A sum that fell is still the later one: its counter says so.
    #[test]
    fn the_later_pair_wins_not_the_larger_sum() {
        let high = add(None, 10, 1, 1).unwrap();
        let low = add(Some(&high), -9, 1, 2).unwrap();
        assert_eq!(view::<PnCounter>(&join::<PnCounter>(&[&high, &low])), "1");
    }

    #[test]
    fn an_overflow_refuses_the_operation_and_the_total_is_exact() {
        let full = add(None, i64::MAX, 1, 1).unwrap();
        assert!(add(Some(&full), 1, 1, 2).unwrap_err().contains("64 bits"));
        assert!(add(Some(&full), -1, 1, 2).is_ok());
        let fuller = add(Some(&full), i64::MAX, 2, 2).unwrap();
        assert_eq!(
            view::<PnCounter>(&fuller),
            (2 * i128::from(i64::MAX)).to_string()
        );
        let empty = add(None, i64::MIN, 1, 1).unwrap();
        assert_eq!(view::<PnCounter>(&empty), i64::MIN.to_string());
        assert!(add(Some(&empty), -1, 1, 2).is_err());
    }

    #[test]
    fn refuses_what_is_no_operation_and_says_what_is() {
        for wrong in [
            "",
            "{}",
            "3",
            "[3]",
            "{\"add\":\"3\"}",
            "{\"add\":1.0}",
            "{\"add\":1e3}",
            "{\"add\":null}",
            "{\"add\":9223372036854775808}",
            "{\"add\":1,\"add\":2}",
            "{\"add\":1,\"sub\":2}",
            "{\"add\":1}}",
        ] {
            let error =
                PnCounter::apply(&item(), None, wrong.as_bytes(), &event(1, 1)).expect_err(wrong);
            assert!(
                error.starts_with("an operation on a counter is {\"add\":-3}"),
                "{error}"
            );
        }
    }

    #[test]
    fn refuses_states_that_it_did_not_make() {
        let good = add(None, 1, 1, 1).unwrap();
        for cut in 0..good.len() {
            assert!(PnCounter::render(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(
            PnCounter::render(&[&good[..], &[0]].concat()).is_err(),
            "bytes left over"
        );
        let error = PnCounter::render(b"17").unwrap_err();
        assert!(
            error.starts_with("this is not the state of a pn-counter: "),
            "{error}"
        );
        assert!(
            PnCounter::render(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])
                .is_err()
        );
    }

    /// One pair for each actor, whatever the number of operations.
    #[test]
    fn states_stay_small() {
        let (mut replicas, largest) = crowd::<PnCounter>(|_, _| r#"{"add":7}"#.to_owned());
        let mut last = replicas.remove(0);
        for replica in &replicas {
            last.receive(replica);
        }
        assert_eq!(last.view(), "70000");
        assert!(largest < 128, "{largest} bytes");
    }

    /// Every operation that a replica has heard of, by its dot.
    #[derive(Clone, Default)]
    struct Steps(BTreeMap<Dot, i64>);

    impl Model<PnCounter> for Steps {
        type Step = i64;

        fn step(&mut self, replica: &mut Replica<PnCounter>, step: &i64) {
            replica.does(&format!("{{\"add\":{step}}}"));
            self.0.insert(replica.dot(), *step);
        }

        fn hear(&mut self, other: &Steps) {
            self.0.extend(other.0.clone());
        }

        fn view(&self) -> Option<String> {
            Some(self.0.values().sum::<i64>().to_string())
        }
    }

    fn histories() -> Histories<PnCounter, Steps> {
        Histories::new(-3..4i64)
    }

    kinfold_histories::tests!(PnCounter, histories(), r#"{"add":1}"#);
}
