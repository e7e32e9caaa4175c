//! A set of JSON values: no addition is lost, and a removal holds.
//!
//! Operations are JSON objects of one key:
//!
//! | operation | effect |
//! | --- | --- |
//! | `{"add":"apple"}` | the value, any JSON, is in the set |
//! | `{"remove":"apple"}` | it is not, as far as the operation saw |
//! | `{"add_all":["apple","pear"]}` | each of these is in the set, all at once |
//! | `{"remove_all":["apple","pear"]}` | none of these is, as far as the operation saw |
//!
//! `{"add":["apple","pear"]}` adds one value, which is an array. Removing what is
//! not there is no error: somebody else may have been quicker.
//!
//! The view is the JSON array of the values, in the order of
//! [`kinfold_reconciler::json::text`]: `null`, `false`, `true`, numbers, strings,
//! arrays, objects. That page also says which values are equal: `1` and `1.0` are
//! one element, `1` and `"1"` are two, the order of an object's keys says nothing.
//!
//! Promises, of operations that did not see each other: a removal takes away the
//! additions that it saw and nothing else, so of a concurrent addition and
//! removal of one value the addition stays. A value that was removed leaves
//! nothing behind: a state is bounded by what is in the set (and one number for
//! each actor), not by its history.
//!
//! A tombstone of the whole item contributes nothing, and only tombstones leave
//! the item deleted: versions that a deletion did not see survive it, whole.
//!
//! The fold of one sibling is that sibling: a state is canonical or refused.
//! [`OrSet::apply`] refuses an operation with a text that says what is expected, and
//! [`OrSet::render`] fails only on bytes that no operation and no fold made.
//!
//! Why it is lawful: states are a join semilattice ([`kinfold_reconciler::causal`],
//! keyed by the canonical text of a value), the fold is the join, and an
//! operation only ever moves a state up. Neither times nor dots of siblings are
//! looked at.

use std::collections::BTreeSet;

use kinfold_reconciler::causal::Causal;
use kinfold_reconciler::json::text::{self, Ordered};
use kinfold_reconciler::operation::Operation;
use kinfold_reconciler::{DataType, Dice, Event, Item, Outcome, Sibling, View, fold_values};

/// What an operation is, for whoever sent another.
const EXPECTED: &str = "an operation on a set is {\"add\":\"apple\"}, {\"remove\":\"apple\"}, \
                        {\"add_all\":[\"apple\",\"pear\"]} or {\"remove_all\":[…]}, \
                        of any JSON values";

type State<'a> = Causal<'a, ()>;

/// What a table calls `or-set`.
pub struct OrSet;

impl DataType for OrSet {
    const SUMMARY: &str =
        "A set of JSON values: a removal removes what it saw, an addition made meanwhile stays";

    fn fold(_: &Item, siblings: &[Sibling]) -> Result<Outcome, String> {
        Ok(match fold_values(siblings, decode, State::join)? {
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
        let Operation { name, value } = Operation::parse(operation, EXPECTED)?;
        let mut state = state.map_or_else(|| Ok(State::default()), decode)?;
        let (actor, counter) = (&event.dot.actor, event.dot.counter);
        state.see(actor, counter)?;
        match &name[..] {
            "add" => state.write(&value, (), actor, counter),
            "remove" => state.remove(&value),
            "add_all" => {
                for element in elements(&name, &value)? {
                    state.write(element, (), actor, counter);
                }
            }
            "remove_all" => {
                for element in elements(&name, &value)? {
                    state.remove(element);
                }
            }
            _ => {
                let name = text::clipped(&name);
                return Err(format!("{EXPECTED}: there is no {name:?}"));
            }
        }
        Ok(state.encode())
    }

    fn render(state: &[u8]) -> Result<View, String> {
        let state = decode(state)?;
        let mut sorted = BTreeSet::new();
        sorted.extend(state.keys().keys().map(|text| Ordered(text)));
        let mut body = vec![b'['];
        for Ordered(text) in sorted {
            if body.len() > 1 {
                body.push(b',');
            }
            body.extend_from_slice(text.as_bytes());
        }
        body.push(b']');
        Ok(View {
            body,
            content_type: "application/json",
        })
    }

    /// Operations for the law check: few values, some in several spellings, so that
    /// they meet.
    fn operations(seed: u64, count: u32) -> Vec<Vec<u8>> {
        const VALUES: &[&str] = &[
            r#""apple""#,
            r#""\u0061pple""#,
            "1",
            "1.0",
            "null",
            r#"{"a":1,"b":[]}"#,
            r#"{"b":[],"a":1e0}"#,
            r#"["pear"]"#,
        ];
        let mut dice = Dice::new(seed);
        let mut operation = || {
            let (one, other) = (dice.pick(VALUES), dice.pick(VALUES));
            match dice.below(8) {
                0..3 => format!(r#"{{"add":{one}}}"#),
                3..6 => format!(r#"{{"remove":{one}}}"#),
                6 => format!(r#"{{"add_all":[{one},{other}]}}"#),
                _ => format!(r#"{{"remove_all":[{one},{other}]}}"#),
            }
        };
        (0..count).map(|_| operation().into_bytes()).collect()
    }
}

/// The values that an operation on several names: one or more.
fn elements<'a>(name: &str, value: &'a str) -> Result<impl Iterator<Item = &'a str>, String> {
    if !value.starts_with('[') || value == "[]" {
        return Err(format!(
            "{EXPECTED}: {name} takes an array of one value or more"
        ));
    }
    Ok(text::items(value))
}

fn decode(bytes: &[u8]) -> Result<State<'_>, String> {
    let check = |key: &str| match text::is_canonical(key) {
        true => Ok(()),
        false => Err("an element is not canonical JSON"),
    };
    State::decode(bytes, check)
        .map_err(|fault| format!("this is not the state of an or-set: {fault}"))
}

#[cfg(test)]
mod tests;
