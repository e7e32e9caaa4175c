//! An object of fields, each written on its own: two people who edit two fields
//! of one profile both find their edits.
//!
//! Operations are JSON objects of one key:
//!
//! | operation | effect |
//! | --- | --- |
//! | `{"set":{"name":"Ada","age":36}}` | these fields, any JSON, all at once |
//! | `{"unset":["name"]}` | these fields are gone, as far as the operation saw |
//!
//! `{"set":{"name":null}}` sets the field to `null`, which is a value. A field is
//! replaced whole: objects in it are not merged. Unsetting what is not there is
//! no error: somebody else may have been quicker.
//!
//! The view is the JSON object of the fields, ascending by the bytes of their
//! names' UTF-8: `{"age":36,"name":"Ada"}`. Which values are equal, and which are
//! refused, [`kinfold_reconciler::json::text`] says.
//!
//! # Which write wins
//!
//! - A write that saw another replaces it, whatever the clocks say: whoever reads
//!   a field and then writes it is never overruled by what they read. (Plain
//!   last-write-wins loses such a write when its clock is behind.)
//! - Of writes that did not see each other the one with the newest `written-at`
//!   wins, then the one with the greatest dot.
//! - An unset takes away the writes that it saw. One that it did not see stays,
//!   whatever its time: an unset is never lost to a write that it saw, and never
//!   undoes one that it could not know of.
//!
//! # What that costs
//!
//! No tombstones, for fields as for elements of a set: a field that was unset
//! leaves nothing behind. In exchange a field holds every write that nobody has
//! replaced yet, at most one of each actor, and not just the winner: the winner
//! may be unset by somebody who saw none of the others, and they must then be
//! there on every replica. Most fields hold one; after writes on `k` nodes that
//! were cut off from each other a field holds `k`, until it is written again. So
//! a state is bounded by fields × actors, not by its history.
//!
//! A tombstone of the whole item contributes nothing, and only tombstones leave
//! the item deleted: versions that a deletion did not see survive it, whole.
//!
//! The fold of one sibling is that sibling: a state is canonical or refused.
//! [`LwwMap::apply`] refuses an operation with a text that says what is expected, and
//! [`LwwMap::render`] fails only on bytes that no operation and no fold made.
//!
//! Why it is lawful: states are a join semilattice ([`kinfold_reconciler::causal`],
//! keyed by a field's name), the fold is the join, and an operation only ever
//! moves a state up. The winner is found by the view, among what the state holds.
//! Neither times nor dots of siblings are looked at.

use kinfold_reconciler::causal::{Causal, Content};
use kinfold_reconciler::json::text;
use kinfold_reconciler::operation::Operation;
use kinfold_reconciler::varint::{self, Fault, Reader};
use kinfold_reconciler::{DataType, Dice, Event, Item, Outcome, Sibling, View, fold_values};

/// What an operation is, for whoever sent another.
const EXPECTED: &str = "an operation on a map is {\"set\":{\"name\":\"Ada\",\"age\":36}} \
                        or {\"unset\":[\"name\"]}";

type State<'a> = Causal<'a, Written<'a>>;

/// What was written to a field, and when. Greater is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Written<'a> {
    written_at: u64,
    /// Canonical JSON.
    value: &'a str,
}

impl<'a> Content<'a> for Written<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.written_at);
        varint::put_bytes(out, self.value.as_bytes());
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        let written_at = reader.number()?;
        let value = str::from_utf8(reader.bytes()?).map_err(|_| "a value is not UTF-8")?;
        if !text::is_canonical(value) {
            return Err("a value is not canonical JSON");
        }
        Ok(Written { written_at, value })
    }
}

/// What a table calls `lww-map`.
pub struct LwwMap;

impl DataType for LwwMap {
    const SUMMARY: &str =
        "A JSON object, last write wins field by field; an unset removes what it saw";

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
        let operation = parse(operation)?;
        let mut state = state.map_or_else(|| Ok(State::default()), decode)?;
        let (actor, counter) = (&event.dot.actor, event.dot.counter);
        state.see(actor, counter)?;
        for (field, value) in &operation {
            match value {
                Some(value) => {
                    let written_at = event.written_at;
                    state.write(field, Written { written_at, value }, actor, counter);
                }
                None => state.remove(field),
            }
        }
        Ok(state.encode())
    }

    fn render(state: &[u8]) -> Result<View, String> {
        let state = decode(state)?;
        let mut body = vec![b'{'];
        for (field, writes) in state.keys() {
            let winner = writes
                .iter()
                .max_by_key(|write| (write.content.written_at, write.actor, write.counter));
            let written = winner.expect("no field is without a write").content;
            if body.len() > 1 {
                body.push(b',');
            }
            text::put_string(&mut body, field);
            body.push(b':');
            body.extend_from_slice(written.value.as_bytes());
        }
        body.push(b'}');
        Ok(View {
            body,
            content_type: "application/json",
        })
    }

    /// Operations for the law check: few fields and values, so that they meet.
    fn operations(seed: u64, count: u32) -> Vec<Vec<u8>> {
        const FIELDS: &[&str] = &[r#""name""#, r#""age""#, r#""""#, r#""\u00e9\n""#];
        const VALUES: &[&str] = &["1", "1.0", r#""Ada""#, "null", r#"{"b":[],"a":0.5}"#];
        let mut dice = Dice::new(seed);
        let mut operation = || {
            let one = dice.below(FIELDS.len() as u64) as usize;
            let other = (one + 1 + dice.below(FIELDS.len() as u64 - 1) as usize) % FIELDS.len();
            let (one, other) = (FIELDS[one], FIELDS[other]);
            let (this, that) = (dice.pick(VALUES), dice.pick(VALUES));
            match dice.below(8) {
                0..3 => format!(r#"{{"set":{{{one}:{this}}}}}"#),
                3 => format!(r#"{{"set":{{{one}:{this},{other}:{that}}}}}"#),
                4..7 => format!(r#"{{"unset":[{one}]}}"#),
                _ => format!(r#"{{"unset":[{one},{other}]}}"#),
            }
        };
        (0..count).map(|_| operation().into_bytes()).collect()
    }
}

/// What to write to which field; `None` to unset it.
fn parse(operation: &[u8]) -> Result<Vec<(String, Option<String>)>, String> {
    let refused = |what: &str| Err(format!("{EXPECTED}: {what}"));
    let Operation { name, value } = Operation::parse(operation, EXPECTED)?;
    let fields: Vec<_> = match &name[..] {
        "set" if !value.starts_with('{') => {
            return refused("set takes an object of fields and their values");
        }
        "set" => text::members(&value)
            .map(|(field, value)| (text::unquoted(field), Some(value.to_owned())))
            .collect(),
        "unset" if !value.starts_with('[') => {
            return refused("unset takes an array of names of fields");
        }
        "unset" => {
            if let Some(other) = text::items(&value).find(|item| !item.starts_with('"')) {
                return refused(&format!(
                    "unset takes names of fields, which are strings, and this is {}",
                    text::clipped(other)
                ));
            }
            text::items(&value)
                .map(|field| (text::unquoted(field), None))
                .collect()
        }
        _ => return refused(&format!("there is no {:?}", text::clipped(&name))),
    };
    if fields.is_empty() {
        return refused(&format!("{name} takes one field or more"));
    }
    Ok(fields)
}

fn decode(bytes: &[u8]) -> Result<State<'_>, String> {
    State::decode(bytes, |_| Ok(()))
        .map_err(|fault| format!("this is not the state of an lww-map: {fault}"))
}

#[cfg(test)]
mod tests;
