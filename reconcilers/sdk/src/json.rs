//! Merges of typed JSON.
//!
//! Promises: the author writes the merge of two values and nothing else. What
//! folds it over siblings keeps the rules that are easily got wrong:
//!
//! - a tombstone contributes nothing, and only tombstones leave the item
//!   deleted;
//! - a value that is not of the type is refused with
//!   [`JsonMerge::EXPECTED`] and what is wrong with it, the same text in any
//!   order of the siblings;
//! - what is written is canonical: no spaces, the names of every object sorted,
//!   so that equal values are equal bytes, even from a `HashMap`.
//!
//! Not promised: that equal lists are equal when their order is by chance (use a
//! `BTreeSet`, not a `HashSet` or `Vec`), that fields which the type does not
//! name survive (`#[serde(deny_unknown_fields)]` refuses them instead), or that
//! the merge is lawful, which the law check searches. Nor that numbers equal in
//! value are equal bytes when the type keeps them as written (`1` and `1.0` in a
//! `serde_json::Value`): [`text`] is for such.

pub mod text;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{DataType, Dice, Event, Item, Outcome, Reconciler, Sibling, View, fold_values};

/// Values that are JSON, and merge two by two. Every such type is a
/// [`Reconciler`].
pub trait JsonMerge: Serialize + DeserializeOwned {
    /// One line for people: what a fold does.
    const SUMMARY: &'static str;
    /// What a value is, with an example: the beginning of every refusal.
    const EXPECTED: &'static str;
    /// As [`Reconciler::EAGER`].
    const EAGER: bool = false;

    /// One value of two. Lawful when `a.merge(b)` equals `b.merge(a)`,
    /// `a.merge(a)` equals `a`, and of three it does not matter which two are
    /// merged first: a union, a maximum, or those of each field.
    fn merge(self, other: Self) -> Self;

    /// A value for the law check. A good one collides with others: few names,
    /// small numbers, now and then nothing.
    fn sample(dice: &mut Dice) -> Self;
}

/// A state that is JSON, with operations that are JSON. Every such type is a
/// [`DataType`].
pub trait JsonDataType: Serialize + DeserializeOwned + Default {
    /// What clients send. It is serialised for samples alone.
    type Operation: Serialize + DeserializeOwned;
    /// What clients see.
    type View: Serialize;

    /// One line for people: what operations do.
    const SUMMARY: &'static str;
    /// What an operation is, with an example: the beginning of every refusal.
    const EXPECTED: &'static str;
    /// As [`DataType::EAGER`].
    const EAGER: bool = true;

    /// The join of two states, lawful as in [`JsonMerge::merge`].
    fn join(self, other: Self) -> Self;

    /// One operation, which only ever moves a state forward:
    /// `before.join(after)` equals `after`. An error refuses it.
    fn apply(&mut self, operation: Self::Operation, event: &Event) -> Result<(), String>;

    /// What a client sees.
    fn view(&self) -> Self::View;

    /// An operation for the law check; good ones collide.
    fn sample(dice: &mut Dice) -> Self::Operation;
}

impl<M: JsonMerge> Reconciler for M {
    const SUMMARY: &'static str = M::SUMMARY;
    const EAGER: bool = M::EAGER;

    fn fold(_: &Item, siblings: &[Sibling]) -> Result<Outcome, String> {
        let read = |value: &[u8]| parse::<M>(value, M::EXPECTED);
        match fold_values(siblings, read, M::merge)? {
            Some(value) => canonical(&value).map(Outcome::Merged),
            None => Ok(Outcome::Deleted),
        }
    }

    fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        samples(seed, count, M::sample)
    }
}

impl<D: JsonDataType> DataType for D {
    const SUMMARY: &'static str = D::SUMMARY;
    const EAGER: bool = D::EAGER;

    fn fold(_: &Item, siblings: &[Sibling]) -> Result<Outcome, String> {
        match fold_values(siblings, state::<D>, D::join)? {
            Some(state) => canonical(&state).map(Outcome::Merged),
            None => Ok(Outcome::Deleted),
        }
    }

    fn apply(
        _: &Item,
        before: Option<&[u8]>,
        operation: &[u8],
        event: &Event,
    ) -> Result<Vec<u8>, String> {
        let mut state = before.map_or_else(|| Ok(D::default()), state::<D>)?;
        D::apply(&mut state, parse(operation, D::EXPECTED)?, event)?;
        canonical(&state)
    }

    fn render(bytes: &[u8]) -> Result<View, String> {
        Ok(View {
            body: canonical(&state::<D>(bytes)?.view())?,
            content_type: "application/json",
        })
    }

    fn operations(seed: u64, count: u32) -> Vec<Vec<u8>> {
        samples(seed, count, D::sample)
    }
}

/// A value of the type; the error begins with what is `expected`.
pub fn parse<T: DeserializeOwned>(json: &[u8], expected: &str) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| format!("{expected}: {error}"))
}

/// The one way in which this value is written: no spaces, names sorted.
pub fn canonical<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let written = serde_json::to_value(value).and_then(|mut value| {
        // A no-op, unless some crate of the build has serde_json keep orders.
        value.sort_all_objects();
        serde_json::to_vec(&value)
    });
    written.map_err(|error| format!("what came of the merge is no JSON: {error}"))
}

fn state<D: JsonDataType>(bytes: &[u8]) -> Result<D, String> {
    parse(bytes, "this is not a state of this data type")
}

fn samples<T: Serialize>(
    seed: u64,
    count: u32,
    mut sample: impl FnMut(&mut Dice) -> T,
) -> Vec<Vec<u8>> {
    let mut dice = Dice::new(seed);
    let rolled = (0..count).map(|_| sample(&mut dice));
    // A sample that is no JSON is none: the check then says that it has none.
    rolled.filter_map(|value| canonical(&value).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::Deserialize;

    use super::*;
    use crate::Dot;

    #[derive(Serialize, Deserialize)]
    struct Highest(HashMap<String, u32>);

    impl JsonMerge for Highest {
        const SUMMARY: &str = "The highest of each name";
        const EXPECTED: &str = r#"scores are an object of numbers, like {"ann":3}"#;

        fn merge(mut self, other: Self) -> Self {
            for (name, score) in other.0 {
                let highest = self.0.entry(name).or_default();
                *highest = score.max(*highest);
            }
            self
        }

        fn sample(dice: &mut Dice) -> Self {
            let names = (0..dice.below(4)).map(|_| dice.pick(&["ann", "bob", "eve"]));
            let names: Vec<_> = names.collect();
            Highest(
                names
                    .into_iter()
                    .map(|name| (name.to_owned(), dice.below(3) as u32))
                    .collect(),
            )
        }
    }

    crate::export!(Highest);

    fn item() -> Item {
        Item {
            table: "scores".to_owned(),
            partition_key: b"game".to_vec(),
            sort_key: None,
        }
    }

    fn dot(counter: u64) -> Dot {
        Dot {
            actor: vec![0xab, counter as u8],
            counter,
        }
    }

    fn siblings(values: &[Option<&str>]) -> Vec<Sibling> {
        let numbered = values.iter().zip(1..);
        numbered
            .map(|(value, counter)| Sibling {
                value: value.map(|text| text.as_bytes().to_vec()),
                content_type: "application/json".to_owned(),
                written_at: 7,
                dot: dot(counter),
            })
            .collect()
    }

    fn fold(values: &[Option<&str>]) -> Result<Outcome, String> {
        <Highest as Reconciler>::fold(&item(), &siblings(values))
    }

    #[test]
    fn writes_names_in_order_whatever_map_they_come_from() {
        let names: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
        let scores: HashMap<&String, u32> = names.iter().map(|name| (name, 1)).collect();
        let value = serde_json::to_string(&scores).unwrap();
        let sorted: Vec<String> = names.iter().map(|name| format!("\"{name}\":1")).collect();
        let wanted = format!("{{{}}}", sorted.join(","));
        assert_eq!(
            fold(&[Some(&value)]),
            Ok(Outcome::Merged(wanted.into_bytes()))
        );
    }

    #[test]
    fn tombstones_contribute_nothing() {
        let merged = Ok(Outcome::Merged(br#"{"ann":2,"bob":1}"#.to_vec()));
        assert_eq!(
            fold(&[
                Some(r#"{"ann":2}"#),
                None,
                Some(r#"{ "bob": 1, "ann": 1 }"#)
            ]),
            merged
        );
        assert_eq!(fold(&[None, None]), Ok(Outcome::Deleted));
    }

    #[test]
    fn refuses_in_the_same_words_in_any_order() {
        let one = fold(&[Some("[]"), Some("{}"), Some(r#"{"ann":-1}"#)]);
        let other = fold(&[Some(r#"{"ann":-1}"#), Some("[]"), Some("{}")]);
        assert_eq!(one, other);
        let error = one.unwrap_err();
        assert!(
            error.starts_with("scores are an object of numbers, like {\"ann\":3}: "),
            "{error}"
        );
    }

    #[test]
    fn samples_are_values_and_follow_the_seed() {
        let samples = <Highest as Reconciler>::samples(7, 30);
        assert_eq!(samples, <Highest as Reconciler>::samples(7, 30));
        assert_ne!(samples, <Highest as Reconciler>::samples(8, 30));
        assert_eq!(samples.len(), 30);
        for sample in &samples {
            assert!(parse::<Highest>(sample, "").is_ok());
        }
    }

    /// Notes under the dot that wrote each.
    #[derive(Serialize, Deserialize, Default)]
    struct Notes(BTreeMap<String, String>);

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        note: String,
    }

    impl JsonDataType for Notes {
        type Operation = Note;
        type View = Vec<String>;
        const SUMMARY: &str = "Notes that are never lost";
        const EXPECTED: &str = r#"an operation is {"note":"a text"}"#;

        fn join(mut self, other: Self) -> Self {
            self.0.extend(other.0);
            self
        }

        fn apply(&mut self, operation: Note, event: &Event) -> Result<(), String> {
            if operation.note.is_empty() {
                return Err("there is nothing to note".to_owned());
            }
            self.0.insert(event.dot.to_string(), operation.note);
            Ok(())
        }

        fn view(&self) -> Vec<String> {
            self.0.values().cloned().collect()
        }

        fn sample(dice: &mut Dice) -> Note {
            Note {
                note: dice.pick(&["milk", "eggs"]).to_owned(),
            }
        }
    }

    fn note(state: Option<&[u8]>, operation: &str, counter: u64) -> Result<Vec<u8>, String> {
        let event = Event {
            dot: dot(counter),
            written_at: 0,
        };
        <Notes as DataType>::apply(&item(), state, operation.as_bytes(), &event)
    }

    #[test]
    fn operations_make_states_that_join_and_render() {
        let left = note(None, r#"{"note":"milk"}"#, 1).unwrap();
        assert_eq!(left, br#"{"ab01:1":"milk"}"#);
        let right = note(Some(&left), r#"{"note":"eggs"}"#, 2).unwrap();
        let left = note(Some(&left), r#"{"note":"salt"}"#, 3).unwrap();
        let states = [left, right].map(|state| String::from_utf8(state).unwrap());
        let states = siblings(&[Some(&states[0]), Some(&states[1])]);
        let joined = <Notes as DataType>::fold(&item(), &states).unwrap();
        let view = <Notes as DataType>::render(&joined.into_value().unwrap()).unwrap();
        assert_eq!(view.body, br#"["milk","eggs","salt"]"#);
    }

    #[test]
    fn a_refused_operation_says_why() {
        assert_eq!(
            note(None, r#"{"note":""}"#, 1).unwrap_err(),
            "there is nothing to note"
        );
        let error = note(None, r#"{"nite":"a"}"#, 1).unwrap_err();
        assert!(
            error.starts_with(r#"an operation is {"note":"a text"}: unknown field `nite`"#),
            "{error}"
        );
        assert!(
            note(Some(b"[]"), r#"{"note":"a"}"#, 1)
                .unwrap_err()
                .starts_with("this is not a state")
        );
    }
}
