//! Telling what a trial found: which writes met where, in which order, and which
//! two values they became.
//!
//! Promises: every value shown is what the module gave for the writes shown, not
//! for those of the run that were left out; letters name writes, and an
//! expression says how they met.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::derivation::{Made, Number};
use super::ledger::{Finding, Ledger};
use super::shrink::{Essence, essence, evaluate};
use super::{Played, Subject, Trouble};
use crate::protocol::effect::GuestSibling;
use crate::protocol::id::NodeId;

/// Values longer than this are cut when they are shown, in characters.
const MAX_SHOWN_CHARS: usize = 120;

/// One write of the story.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    pub name: String,
    pub at_ms: u64,
    pub node: String,
    /// Such as `writes {"a":1}`.
    pub does: String,
    /// What the operation made of the state it found, for data types.
    pub gives: Option<String>,
}

/// One of the two paths.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// Such as `n2, at 1.204 s`.
    pub place: String,
    /// Such as `fold(fold(a, b), c)`.
    pub expression: String,
    pub gave: String,
}

/// What was found, for people and programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Story {
    pub headline: String,
    /// The law that does not hold, by the name that the law check has for it.
    pub law: Option<&'static str>,
    pub item: String,
    pub steps: Vec<Step>,
    pub paths: Vec<Path>,
    /// How many writes of the run went into it before those that do not matter
    /// were left out.
    pub of_writes: usize,
}

/// Bytes as a person reads them: JSON as JSON, else text, else hex.
pub fn shown(value: &[u8]) -> String {
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok();
    let text = match std::str::from_utf8(value) {
        Ok(text) if is_json => text.to_owned(),
        // A bare word looks the same as a number beside it, which may be JSON.
        Ok(text) if !text.is_empty() && text.chars().all(|char| char.is_ascii_graphic()) => {
            text.to_owned()
        }
        Ok(text) if !text.chars().any(|char| char.is_control() && char != '\n') => {
            format!("{text:?}")
        }
        _ => {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("bytes {hex}")
        }
    };
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((cut, _)) => format!("{}… ({} bytes)", &text[..cut], value.len()),
        None => text,
    }
}

fn shown_sibling(sibling: &Option<GuestSibling>) -> String {
    match sibling
        .as_ref()
        .and_then(|sibling| sibling.version.value.as_deref())
    {
        Some(value) => shown(value),
        None => "deleted".to_owned(),
    }
}

fn seconds(at_ms: u64) -> String {
    format!("{:.3} s", at_ms as f64 / 1000.0)
}

/// Tells what a cluster came to grief over.
pub fn story(subject: &Subject, played: &Played, nodes: usize) -> Option<Story> {
    let finding = match played.trouble.as_ref()? {
        Trouble::Cluster(violation) => {
            return Some(Story {
                headline: format!("the cluster did not heal: {violation}"),
                law: None,
                item: String::new(),
                steps: Vec::new(),
                paths: Vec::new(),
                of_writes: 0,
            });
        }
        Trouble::Module(finding) => finding,
    };
    let ledger = &*played.ledger;
    let essence = essence(ledger, finding, &subject.pool);
    let teller = Teller {
        names: names(&essence.writes),
        ledger,
        essence: &essence,
        nodes,
    };
    Some(teller.story(finding))
}

/// `a`, `b`, … `z`, `a1`, …
fn names(writes: &[Number]) -> BTreeMap<Number, String> {
    let name = |place: usize| {
        let letter = char::from(b'a' + (place % 26) as u8);
        match place / 26 {
            0 => letter.to_string(),
            round => format!("{letter}{round}"),
        }
    };
    writes
        .iter()
        .enumerate()
        .map(|(place, write)| (*write, name(place)))
        .collect()
}

struct Teller<'a> {
    ledger: &'a Ledger,
    essence: &'a Essence,
    names: BTreeMap<Number, String>,
    nodes: usize,
}

impl Teller<'_> {
    fn story(&self, finding: &Finding) -> Story {
        let count = self.essence.writes.len();
        let writes = if count == 1 { "write" } else { "writes" };
        let (headline, law, paths) = match finding {
            Finding::Apart { one, other, .. } => (
                format!("the same {count} {writes} became two different values"),
                Some(self.law(*one, *other)),
                vec![self.path(*one), self.path(*other)],
            ),
            Finding::Failed { fold, .. } => (
                "a fold gave no value".to_owned(),
                Some("closed"),
                vec![self.path(*fold)],
            ),
            Finding::Unshown { state, reason } => {
                let mut path = self.path(*state);
                path.gave = format!("{}, which cannot be shown: {reason}", path.gave);
                let headline = "a state that the module made cannot be shown".to_owned();
                (headline, Some("data-type"), vec![path])
            }
        };
        let item = &self.ledger.all[super::shrink::subject_of(finding)].item;
        let (_, key, _) = item.parts();
        Story {
            headline,
            law,
            item: key.escape_ascii().to_string(),
            steps: self
                .essence
                .writes
                .iter()
                .map(|write| self.step(*write))
                .collect(),
            paths,
            of_writes: self.essence.of,
        }
    }

    /// Which law the difference speaks against.
    fn law(&self, one: Number, other: Number) -> &'static str {
        let of = |number: Number| &self.ledger.all[number];
        let expressions = [self.expression(one), self.expression(other)];
        let repeats = |expression: &String| {
            self.names.values().any(|name| {
                let words = expression.split(|char: char| !char.is_ascii_alphanumeric());
                words.filter(|word| word == name).count() > 1
            })
        };
        let has_operations = self
            .essence
            .writes
            .iter()
            .any(|write| matches!(self.ledger.all[*write].made, Made::Applied(_)));
        if matches!(of(one).made, Made::FoldedAsListed)
            || matches!(of(other).made, Made::FoldedAsListed)
        {
            "order-free"
        } else if has_operations {
            "data-type"
        } else if expressions.iter().any(repeats) {
            "idempotent"
        } else {
            "regroupable"
        }
    }

    fn sibling(&self, number: Number) -> Result<Option<GuestSibling>, String> {
        let Essence {
            without, instead, ..
        } = self.essence;
        evaluate(self.ledger, number, without, instead)
    }

    /// What is left of the inputs, each once, as the module was given them.
    fn inputs(&self, number: Number) -> Vec<(Option<GuestSibling>, String)> {
        let derived = &self.ledger.all[number];
        let mut inputs: Vec<(Option<GuestSibling>, String)> = Vec::new();
        for input in &derived.inputs {
            if let Ok(sibling @ Some(_)) = self.sibling(*input)
                && !inputs.iter().any(|(known, _)| *known == sibling)
            {
                inputs.push((sibling, self.expression(*input)));
            }
        }
        if !matches!(derived.made, Made::FoldedAsListed) {
            inputs.sort_by_key(|(sibling, _)| sibling.as_ref().map(|sibling| sibling.dot));
        }
        inputs
    }

    /// How the writes met in this value.
    fn expression(&self, number: Number) -> String {
        if let Some(name) = self.names.get(&number) {
            return name.clone();
        }
        self.met(number)
    }

    fn met(&self, number: Number) -> String {
        let inputs = self.inputs(number);
        match &inputs[..] {
            [] => "nothing".to_owned(),
            [(_, only)] => only.clone(),
            _ => {
                let parts: Vec<&str> = inputs.iter().map(|(_, part)| &part[..]).collect();
                format!("fold({})", parts.join(", "))
            }
        }
    }

    /// Whether the writes themselves were folded, with no fold among them.
    fn is_at_once(&self, number: Number) -> bool {
        let inputs = &self.ledger.all[number].inputs;
        inputs
            .iter()
            .all(|input| self.ledger.all[*input].is_write())
    }

    fn path(&self, number: Number) -> Path {
        let derived = &self.ledger.all[number];
        let at = seconds(derived.at_ms);
        let place = match (derived.node, &derived.made) {
            (Some(node), _) => format!("n{node}, at {at}"),
            (None, Made::FoldedAsListed) => "in another order".to_owned(),
            (None, Made::Folded) if self.is_at_once(number) => "all at once".to_owned(),
            (None, Made::Folded) => "had they met this way".to_owned(),
            (None, _) => format!("{}, at {at}", self.node(number)),
        };
        Path {
            place,
            expression: self.expression(number),
            gave: match self.sibling(number) {
                Ok(sibling) => shown_sibling(&sibling),
                Err(reason) => format!("no value: {reason}"),
            },
        }
    }

    /// The node that took a write.
    fn node(&self, write: Number) -> String {
        let derived = &self.ledger.all[write];
        let node = derived.node.or_else(|| {
            let id = derived.sibling.dot.actor.node;
            (0..self.nodes).find(|node| NodeId::of(&format!("n{node}")) == id)
        });
        node.map_or_else(|| "a node".to_owned(), |node| format!("n{node}"))
    }

    fn step(&self, write: Number) -> Step {
        let derived = &self.ledger.all[write];
        let instead: Option<&Bytes> = self.essence.instead.get(&write);
        let (does, gives) = match &derived.made {
            Made::Applied(operation) => {
                let body = shown(instead.unwrap_or(&operation.body));
                let to = self.met(write);
                let gave = match self.sibling(write) {
                    Ok(sibling) => shown_sibling(&sibling),
                    Err(reason) => format!("no value: {reason}"),
                };
                (format!("applies {body} to {to}"), Some(gave))
            }
            _ => match &derived.sibling.version.value {
                Some(value) => (format!("writes {}", shown(instead.unwrap_or(value))), None),
                None => ("deletes the item".to_owned(), None),
            },
        };
        Step {
            name: self.names.get(&write).cloned().unwrap_or_default(),
            at_ms: derived.at_ms,
            node: self.node(write),
            does,
            gives,
        }
    }
}

impl Story {
    /// The lines that people read.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let width = self
            .steps
            .iter()
            .map(|step| step.does.chars().count())
            .max();
        for step in &self.steps {
            let does = &step.does;
            let line = match &step.gives {
                None => format!(
                    "  {}  {}  {:>9}  {does}",
                    step.name,
                    step.node,
                    seconds(step.at_ms)
                ),
                Some(gives) => format!(
                    "  {}  {}  {:>9}  {does:width$}  →  {gives}",
                    step.name,
                    step.node,
                    seconds(step.at_ms),
                    width = width.unwrap_or(0),
                ),
            };
            lines.push(line);
        }
        if !self.steps.is_empty() && !self.paths.is_empty() {
            lines.push(String::new());
        }
        let place = self
            .paths
            .iter()
            .map(|path| path.place.chars().count())
            .max();
        let expression = self
            .paths
            .iter()
            .map(|path| path.expression.chars().count())
            .max();
        let (place, expression) = (place.unwrap_or(0), expression.unwrap_or(0));
        for path in &self.paths {
            lines.push(format!(
                "  {:place$}  {:expression$}  =  {}",
                path.place, path.expression, path.gave
            ));
        }
        if let [one, other] = &self.paths[..]
            && let Some((from, marks)) = difference(&one.gave, &other.gave)
        {
            let indent = 2 + place + 2 + expression + 5 + from;
            lines.push(format!("{}{}", " ".repeat(indent), "^".repeat(marks)));
        }
        lines
    }

    /// The same for programs.
    pub fn to_json(&self) -> Json {
        let steps: Vec<Json> = self
            .steps
            .iter()
            .map(|step| {
                json!({
                    "name": step.name, "at_ms": step.at_ms, "node": step.node,
                    "does": step.does, "gives": step.gives,
                })
            })
            .collect();
        let paths: Vec<Json> = self
            .paths
            .iter()
            .map(|path| {
                json!({"where": path.place, "expression": path.expression, "gave": path.gave})
            })
            .collect();
        json!({
            "what": self.headline, "law": self.law, "item": self.item,
            "writes": steps, "paths": paths, "writes_before": self.of_writes,
        })
    }
}

/// Where the second text differs from the first, and for how many characters.
fn difference(one: &str, other: &str) -> Option<(usize, usize)> {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one == other {
        return None;
    }
    let same = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let rest = one.len().min(other.len()) - same;
    let tail = one
        .iter()
        .rev()
        .zip(other.iter().rev())
        .take(rest)
        .take_while(|(a, b)| a == b)
        .count();
    Some((same, (other.len() - same - tail).max(1)))
}
