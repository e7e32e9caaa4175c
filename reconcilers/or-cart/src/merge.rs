//! The cart done right: no addition is lost, and a removal holds.
//!
//! Operations are JSON objects:
//!
//! | operation | effect |
//! | --- | --- |
//! | `{"add":"apple","quantity":2}` | two more; without a quantity, one more |
//! | `{"set":"apple","quantity":5}` | five, in place of what the operation saw; zero removes |
//! | `{"remove":"apple"}` | none, of what the operation saw |
//!
//! The view is the JSON object of item → quantity, items sorted by the bytes of
//! their UTF-8: `{"apple":5,"pear":1}`.
//!
//! Promises, of operations that did not see each other:
//!
//! - additions add up;
//! - a removal, and a setting, takes away what it saw and nothing else: an
//!   addition made meanwhile stays, at its own quantity (the one exception, after
//!   a long time apart, is told in `state.rs`);
//! - of two settings the larger counts, so one that was sent twice counts once.
//!
//! A tombstone of the whole item contributes nothing, and only tombstones leave
//! the item deleted: a deletion takes away the versions that it saw (the store
//! sees to that), and a version that it did not see survives it, whole.
//!
//! The fold of one sibling is that sibling: a state is canonical or refused.
//! [`OrCart::apply`] refuses an operation with a text that says what is expected, and
//! [`OrCart::render`] fails only on bytes that no operation and no fold made.
//!
//! Why it is lawful: states are a join semilattice (`state.rs`), the fold is the
//! join, and an operation only ever moves a state up. Neither times nor dots of
//! siblings are looked at.

use kinfold_reconciler::{
    DataType, Dice, Event, Item, MAX_EXACT_JSON_INTEGER, Outcome, Sibling, View, fold_values,
};
use serde::Deserialize;

use crate::state::State;

/// What a table calls `or-cart`.
pub struct OrCart;

impl DataType for OrCart {
    const SUMMARY: &str =
        "A cart: concurrent additions add up, a removal removes what it saw and nothing else";

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
        let operation = Operation::parse(operation)?;
        let mut state = state.map_or_else(|| Ok(State::default()), State::decode)?;
        let (actor, counter) = (&event.dot.actor, event.dot.counter);
        state.see(actor, counter)?;
        match &operation {
            Operation::Add(item, quantity) => state.add(item, *quantity, actor, counter)?,
            Operation::Set(item, 0) | Operation::Remove(item) => state.remove(item),
            Operation::Set(item, quantity) => state.set(item, *quantity, actor, counter),
        }
        Ok(state.encode())
    }

    fn render(state: &[u8]) -> Result<View, String> {
        let quantities = State::decode(state)?.quantities();
        let body = serde_json::to_vec(&quantities).expect("a map of strings to integers is JSON");
        Ok(View {
            body,
            content_type: "application/json",
        })
    }

    /// Operations for the law check: few items, so that they meet.
    fn operations(seed: u64, count: u32) -> Vec<Vec<u8>> {
        const ITEMS: &[&str] = &[
            r#""apple""#,
            r#""pear""#,
            r#""fig""#,
            r#""""#,
            r#""\u00e9\n""#,
        ];
        let mut dice = Dice::new(seed);
        let mut operation = || {
            let item = dice.pick(ITEMS);
            match dice.below(8) {
                0 | 1 => format!(r#"{{"add":{item}}}"#),
                2 | 3 => format!(r#"{{"add":{item},"quantity":{}}}"#, 1 + dice.below(3)),
                4 => format!(r#"{{"set":{item},"quantity":{}}}"#, dice.below(3)),
                _ => format!(r#"{{"remove":{item}}}"#),
            }
        };
        (0..count).map(|_| operation().into_bytes()).collect()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Operation {
    Add(String, u64),
    Set(String, u64),
    Remove(String),
}

impl Operation {
    fn parse(json: &[u8]) -> Result<Operation, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            add: Option<String>,
            set: Option<String>,
            remove: Option<String>,
            quantity: Option<u64>,
        }

        let expected = |what: &str| {
            format!(
                "an operation on a cart is {{\"add\":\"apple\",\"quantity\":2}}, \
                 {{\"set\":\"apple\",\"quantity\":5}} or {{\"remove\":\"apple\"}}: {what}"
            )
        };
        // serde would take an array for the fields in their order.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(expected("this is no JSON object"));
        }
        let fields: Fields =
            serde_json::from_slice(json).map_err(|error| expected(&error.to_string()))?;
        let quantity = fields.quantity;
        if quantity.is_some_and(|quantity| quantity > MAX_EXACT_JSON_INTEGER) {
            return Err(expected("a quantity is at most 9007199254740991"));
        }
        match (fields.add, fields.set, fields.remove, quantity) {
            (Some(_), None, None, Some(0)) => Err(expected("there is no adding of zero")),
            (Some(item), None, None, quantity) => Ok(Operation::Add(item, quantity.unwrap_or(1))),
            (None, Some(item), None, Some(quantity)) => Ok(Operation::Set(item, quantity)),
            (None, Some(_), None, None) => Err(expected("a setting needs its quantity")),
            (None, None, Some(item), None) => Ok(Operation::Remove(item)),
            (None, None, Some(_), Some(_)) => Err(expected("a removal has no quantity")),
            _ => Err(expected("it has just one of the three")),
        }
    }
}

#[cfg(test)]
mod tests;
