//! Telling a counterexample: to people as a few lines, to programs as JSON.

use std::fmt;

use serde_json::{Value as Json, json};

use super::cases::{Case, Deed};
use super::probe::{Finding, name};
use super::{Answer, Law};
use crate::protocol::effect::GuestSibling;

/// Values longer than this are cut when they are shown, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// One side of an equation that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    /// Such as `fold(a, b)`.
    pub expression: String,
    /// What it gave, as people read it.
    pub gave: String,
}

impl Side {
    pub(super) fn of(expression: impl Into<String>, answer: &Answer) -> Self {
        let gave = match answer {
            Answer::Value(Some(value)) => shown(value),
            Answer::Value(None) => "deleted".to_owned(),
            Answer::Unresolved => "unresolved".to_owned(),
            Answer::Refused(reason) | Answer::Exhausted(reason) => format!("no value: {reason}"),
        };
        Side {
            expression: expression.into(),
            gave,
        }
    }
}

/// Siblings, or the doings of replicas, that a law does not hold for.
#[derive(Clone, PartialEq, Debug)]
pub struct Counterexample {
    pub law: Law,
    /// What finds it again, with the same module and samples.
    pub seed: u64,
    /// Which case it was, from 0, before it was shrunk.
    pub case: u64,
    /// What the replicas did, for a data type; else empty.
    pub history: Vec<String>,
    /// The siblings `a`, `b`, …
    pub siblings: Vec<GuestSibling>,
    pub left: Side,
    pub right: Side,
}

pub(super) fn counterexample(
    case: &Case,
    finding: Finding,
    seed: u64,
    number: u64,
) -> Counterexample {
    let history = match case {
        Case::Values(_) => vec![],
        Case::History(steps) => steps
            .iter()
            .map(|step| {
                let who = step.replica + 1;
                match &step.deed {
                    Deed::Apply(operation) => format!("replica {who} applies {}", shown(operation)),
                    Deed::Merge(other) => {
                        format!("replica {who} takes in what replica {} has", other + 1)
                    }
                    Deed::Delete => format!("replica {who} deletes the item"),
                }
            })
            .collect(),
    };
    Counterexample {
        law: finding.law,
        seed,
        case: number,
        history,
        siblings: finding.siblings,
        left: finding.left,
        right: finding.right,
    }
}

/// Bytes as a person reads them: JSON as JSON, else text, else hex.
fn shown(value: &[u8]) -> String {
    let (kind, text) = match std::str::from_utf8(value) {
        Ok(text) if is_json(value) => ("", text.to_owned()),
        Ok(text) if !text.chars().any(|char| char.is_control() && char != '\n') => {
            ("text ", format!("{text:?}"))
        }
        _ => {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            ("bytes ", hex)
        }
    };
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((cut, _)) => format!("{kind}{}… ({} bytes)", &text[..cut], value.len()),
        None => format!("{kind}{text}"),
    }
}

fn is_json(value: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok()
}

/// Bytes for programs: the kind is the key.
fn as_json(value: Option<&[u8]>) -> Json {
    let Some(value) = value else {
        return json!({ "deleted": true });
    };
    if let Ok(json) = serde_json::from_slice::<Json>(value) {
        return json!({ "json": json });
    }
    match std::str::from_utf8(value) {
        Ok(text) => json!({ "text": text }),
        Err(_) => {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

/// A case's dots, short: actor and counter.
fn dot(sibling: &GuestSibling) -> String {
    format!("{}:{}", sibling.dot.actor.node.0, sibling.dot.counter)
}

impl Counterexample {
    /// The whole of it, for `422 law_violated`.
    pub fn to_json(&self) -> Json {
        let siblings: Vec<Json> = self
            .siblings
            .iter()
            .enumerate()
            .map(|(place, sibling)| {
                json!({
                    "name": name(place),
                    "value": as_json(sibling.version.value.as_deref()),
                    "written_at_us": sibling.version.written_at_us,
                    "dot": dot(sibling),
                })
            })
            .collect();
        let side = |side: &Side| json!({ "expression": side.expression, "gave": side.gave });
        json!({
            "law": self.law.name(),
            "statement": self.law.statement(),
            "seed": self.seed,
            "case": self.case,
            "history": self.history,
            "siblings": siblings,
            "left": side(&self.left),
            "right": side(&self.right),
        })
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "not {}: {}", self.law.name(), self.law.statement())?;
        for step in &self.history {
            writeln!(f, "  {step}")?;
        }
        for (place, sibling) in self.siblings.iter().enumerate() {
            let value = sibling.version.value.as_deref();
            let value = value.map_or_else(|| "deleted".to_owned(), shown);
            writeln!(
                f,
                "  {} = {value}, written at {}, dot {}",
                name(place),
                sibling.version.written_at_us,
                dot(sibling)
            )?;
        }
        writeln!(f, "  {} gave {}", self.left.expression, self.left.gave)?;
        writeln!(f, "  {} gave {}", self.right.expression, self.right.gave)?;
        write!(f, "  seed {}", self.seed)
    }
}
