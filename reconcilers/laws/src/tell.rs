//! Telling a counterexample: to people as a few lines, to programs as JSON.
//!
//! Promises: what is shown is what was run; where two results differ is marked.

use std::fmt;

use serde_json::{Value as Json, json};

use crate::case::{Case, Deed, usual_type};
use crate::finding::{Finding, Law, Side, name};
use crate::hint::hint;
use crate::subject::{Answer, Outcome, Sibling};
use crate::text::{as_json, cut, marked, shown, whole};

/// How much of a value is shown beside a failure, in characters.
const MAX_BEGUN_CHARS: usize = 48;

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
    pub siblings: Vec<Sibling>,
    pub left: Side,
    pub right: Side,
    /// The mistake that it looks like, if it looks like one.
    pub hint: Option<&'static str>,
}

pub(crate) fn counterexample(
    case: &Case,
    finding: Finding,
    seed: u64,
    number: u64,
) -> Counterexample {
    let history = match case {
        Case::Values(_) => vec![],
        Case::History(history) => history
            .steps
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
        hint: hint(&finding),
        siblings: finding.siblings,
        left: finding.left,
        right: finding.right,
    }
}

/// An answer in full.
fn gave(answer: &Answer) -> String {
    match answer {
        Ok(Outcome::Merged(value)) => whole(value),
        Ok(Outcome::Deleted) => "deleted".to_owned(),
        Ok(Outcome::Unresolved) => "unresolved".to_owned(),
        Err(failure) => format!("no value: {}", failure.text()),
    }
}

/// An answer: a failure in full, the beginning of a value.
fn begun(answer: &Answer) -> String {
    match answer {
        Ok(Outcome::Merged(value)) => cut(value, MAX_BEGUN_CHARS),
        other => gave(other),
    }
}

/// A case's dots, short: the actor without leading and trailing zeros, and the
/// counter.
fn dot(sibling: &Sibling) -> String {
    let actor = &sibling.dot.actor;
    let is_set = |byte: &u8| *byte != 0;
    let first = actor.iter().position(is_set).unwrap_or(0);
    let last = actor.iter().rposition(is_set).map_or(0, |last| last + 1);
    let hex: String = actor[first.min(last)..last]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let hex = hex.trim_start_matches('0');
    format!(
        "{}:{}",
        if hex.is_empty() { "0" } else { hex },
        sibling.dot.counter
    )
}

impl Side {
    fn to_json(&self) -> Json {
        let mut document = json!({
            "expression": self.formula,
            "words": self.words,
            "gave": shown_answer(&self.answer),
        });
        match &self.answer {
            Ok(Outcome::Merged(value)) => document["value"] = as_json(Some(value)),
            Ok(Outcome::Deleted) => document["value"] = as_json(None),
            Ok(Outcome::Unresolved) | Err(_) => {}
        }
        if !self.within.is_empty() {
            document["within"] = self
                .within
                .iter()
                .map(|inner| {
                    json!({
                        "expression": inner.formula,
                        "value": as_json(inner.value.as_deref()),
                    })
                })
                .collect();
        }
        document
    }
}

fn shown_answer(answer: &Answer) -> String {
    match answer {
        Ok(Outcome::Merged(value)) => shown(value),
        other => gave(other),
    }
}

impl Counterexample {
    /// The options that make `kinfold reconciler check` find it again.
    pub fn replay_options(&self) -> String {
        format!("--seed {} --cases {}", self.seed, self.case + 1)
    }

    /// The whole of it, for `422 law_violated`.
    pub fn to_json(&self) -> Json {
        let siblings: Vec<Json> = self
            .siblings
            .iter()
            .enumerate()
            .map(|(place, sibling)| {
                json!({
                    "name": name(place),
                    "value": as_json(sibling.value.as_deref()),
                    "content_type": sibling.content_type,
                    "written_at_us": sibling.written_at_us,
                    "dot": dot(sibling),
                })
            })
            .collect();
        json!({
            "law": self.law.name(),
            "statement": self.law.statement(),
            "seed": self.seed,
            "case": self.case,
            "history": self.history,
            "siblings": siblings,
            "left": self.left.to_json(),
            "right": self.right.to_json(),
            "hint": self.hint,
            "replay": format!("kinfold reconciler check FILE {}", self.replay_options()),
        })
    }

    /// The whole of it for people; `command` is what checks the module.
    pub fn tell(&self, command: &str) -> String {
        let mut lines = vec![
            format!("not {}: {}", self.law.name(), self.law.statement()),
            String::new(),
        ];
        lines.extend(self.history.iter().map(|step| format!("  {step}")));
        if !self.history.is_empty() && !self.siblings.is_empty() {
            lines.push(String::new());
        }
        self.tell_siblings(&mut lines);
        lines.push(String::new());
        self.tell_sides(&mut lines);
        lines.push(String::new());
        if let Some(hint) = self.hint {
            lines.push(format!("  looks like: {hint}"));
        }
        lines.push(format!(
            "  see it again: {command} {}",
            self.replay_options()
        ));
        lines.join("\n")
    }

    fn tell_siblings(&self, lines: &mut Vec<String>) {
        let value = |sibling: &Sibling| match &sibling.value {
            Some(value) => shown(value),
            None => "deleted".to_owned(),
        };
        let width = self.siblings.iter().map(|one| value(one).chars().count());
        let width = width.max().unwrap_or(0);
        // A type is worth its place where it is not the one that the bytes say.
        let unusual = |one: &Sibling| one.content_type != usual_type(one.value.as_deref());
        let shows_types = self.siblings.iter().any(unusual) && self.history.is_empty();
        for (place, sibling) in self.siblings.iter().enumerate() {
            let mut line = format!(
                "  {} = {:width$}   written at {}, dot {}",
                name(place),
                value(sibling),
                sibling.written_at_us,
                dot(sibling)
            );
            if shows_types && sibling.value.is_some() {
                line.push_str(&format!(", {:?}", sibling.content_type));
            }
            lines.push(line);
        }
    }

    fn tell_sides(&self, lines: &mut Vec<String>) {
        let (left, right) = (&self.left, &self.right);
        let width = |texts: [&String; 2]| texts.map(|text| text.chars().count()).into_iter().max();
        let words = width([&left.words, &right.words]).unwrap_or(0);
        let formulas = width([&left.formula, &right.formula]).unwrap_or(0);
        // Beside a failure a value says little, and is only begun.
        let [one, other, marks] = if left.answer.is_ok() && right.answer.is_ok() {
            marked(&gave(&left.answer), &gave(&right.answer))
                .unwrap_or_else(|| [gave(&left.answer), gave(&right.answer), String::new()])
        } else {
            [begun(&left.answer), begun(&right.answer), String::new()]
        };
        let mut line = |side: &Side, gave: &str| {
            for inner in &side.within {
                let value = inner
                    .value
                    .as_deref()
                    .map_or_else(|| "deleted".to_owned(), shown);
                lines.push(format!("  where {} = {value}", inner.formula));
            }
            lines.push(format!(
                "  {:words$}   {:formulas$} = {gave}",
                side.words, side.formula
            ));
        };
        line(left, &one);
        line(right, &other);
        if !marks.is_empty() {
            lines.push(format!("{}{marks}", " ".repeat(words + formulas + 8)));
        }
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tell("kinfold reconciler check FILE"))
    }
}
