//! Where each value of a trial came from: which writes went into it, and by which
//! folds.
//!
//! Promises: a derivation is known by its number, and its inputs have smaller
//! ones, so none is part of itself; evaluating one again without some of its
//! writes gives what the module would have made had they never been.
//! Not promised: that what is evaluated again could have come about in a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::effect::{GuestReply, GuestRequest, GuestSibling, Operation};
use crate::protocol::id::ItemKey;
use crate::protocol::siblings::Version;

/// The number of a derivation.
pub type Number = usize;

/// How a version came about.
#[derive(Clone, Debug)]
pub enum Made {
    /// A client wrote it.
    Written,
    /// The inputs were folded, in the order of their dots as nodes do it.
    Folded,
    /// The inputs were folded in this very order, which no node would do.
    FoldedAsListed,
    /// The inputs, folded if there are several, and an operation on them.
    Applied(Operation),
}

/// One version, and what it was made of.
#[derive(Clone, Debug)]
pub struct Derived {
    pub item: ItemKey,
    pub made: Made,
    pub inputs: Vec<Number>,
    /// The writes that are in it, by their own numbers.
    pub writes: BTreeSet<Number>,
    /// As a module sees it when it is folded again.
    pub sibling: GuestSibling,
    /// On which node; none when only the check asked for it.
    pub node: Option<usize>,
    pub at_ms: u64,
}

impl Derived {
    /// Whether a client's write or operation made it.
    pub fn is_write(&self) -> bool {
        matches!(self.made, Made::Written | Made::Applied(_))
    }
}

/// What a module is asked for in a trial, and how.
pub trait Guest {
    /// What the module makes of it.
    fn answer(&self, request: &GuestRequest) -> GuestReply;
    /// What all its calls have burnt so far.
    fn fuel(&self) -> u64;
}

/// Asks a guest to fold: the request as a node would make it.
#[derive(Clone, Debug)]
pub struct Asking {
    pub request: GuestRequest,
}

impl Asking {
    /// A request for folds of the module with this digest.
    pub fn fold(&self, item: &ItemKey, siblings: Vec<GuestSibling>) -> GuestRequest {
        GuestRequest {
            key: item.clone(),
            siblings,
            operation: None,
            render: false,
            ..self.request.clone()
        }
    }
}

/// The media type of a folded value, as nodes choose it.
fn folded_type(inputs: &[GuestSibling], value: &Option<Bytes>) -> Arc<str> {
    let newest = |same: bool| {
        inputs
            .iter()
            .filter(|input| input.version.value.is_some())
            .filter(|input| !same || input.version.value == *value)
            .max_by_key(|input| (input.version.written_at_us, input.dot))
            .map(|input| input.version.content_type.clone())
    };
    match value {
        None => Arc::from(""),
        Some(_) => newest(true)
            .or_else(|| newest(false))
            .unwrap_or_else(|| Arc::from("application/octet-stream")),
    }
}

/// What a fold of these (at least one) is when it is folded again: it carries the
/// greatest (written-at, dot) among them, as a stored fold does.
pub fn folded(inputs: &[GuestSibling], value: Option<Bytes>) -> GuestSibling {
    let newest = inputs
        .iter()
        .map(|input| (input.version.written_at_us, input.dot))
        .max();
    let (written_at_us, dot) = newest.expect("a fold has at least one input");
    GuestSibling {
        dot,
        version: Version {
            content_type: folded_type(inputs, &value),
            value,
            written_at_us,
            stands_for: Some(dot),
        },
    }
}

/// Evaluates derivations again, with fewer writes and with other values.
pub struct Evaluation<'a> {
    pub all: &'a [Derived],
    pub guest: &'a dyn Guest,
    pub asking: &'a Asking,
    /// The writes that never were.
    pub without: &'a BTreeSet<Number>,
    /// Other values, or operations, for some writes.
    pub instead: &'a BTreeMap<Number, Bytes>,
    done: BTreeMap<Number, Option<GuestSibling>>,
}

impl<'a> Evaluation<'a> {
    pub fn new(
        all: &'a [Derived],
        guest: &'a dyn Guest,
        asking: &'a Asking,
        without: &'a BTreeSet<Number>,
        instead: &'a BTreeMap<Number, Bytes>,
    ) -> Self {
        Evaluation {
            all,
            guest,
            asking,
            without,
            instead,
            done: BTreeMap::new(),
        }
    }

    /// What the derivation gives: none when nothing is left of it. The error is
    /// the module's.
    pub fn of(&mut self, number: Number) -> Result<Option<GuestSibling>, String> {
        if let Some(done) = self.done.get(&number) {
            return Ok(done.clone());
        }
        let value = self.evaluate(number)?;
        self.done.insert(number, value.clone());
        Ok(value)
    }

    fn evaluate(&mut self, number: Number) -> Result<Option<GuestSibling>, String> {
        let derived = &self.all[number];
        let gone = self.without.contains(&number);
        if matches!(derived.made, Made::Written) {
            let mut sibling = derived.sibling.clone();
            if let Some(value) = self.instead.get(&number)
                && sibling.version.value.is_some()
            {
                sibling.version.value = Some(value.clone());
            }
            return Ok((!gone).then_some(sibling));
        }
        let inputs = self.inputs(derived)?;
        let mut operation = match &derived.made {
            Made::Applied(operation) if !gone => Some(operation.clone()),
            _ => None,
        };
        if let (Some(operation), Some(body)) = (&mut operation, self.instead.get(&number)) {
            operation.body = body.clone();
        }
        if operation.is_none() && inputs.len() < 2 {
            return Ok(inputs.into_iter().next());
        }
        let mut request = self.asking.fold(&derived.item, inputs.clone());
        request.operation = operation.clone();
        request.render = operation.is_some();
        match self.guest.answer(&request) {
            GuestReply::Done { value, .. } => Ok(Some(match operation {
                None => folded(&inputs, value),
                Some(operation) => GuestSibling {
                    dot: operation.dot,
                    version: Version {
                        value,
                        content_type: Arc::from("application/octet-stream"),
                        written_at_us: operation.written_at_us,
                        stands_for: None,
                    },
                },
            })),
            other => Err(said(&other)),
        }
    }

    fn inputs(&mut self, derived: &Derived) -> Result<Vec<GuestSibling>, String> {
        let mut inputs: Vec<GuestSibling> = Vec::new();
        for &input in &derived.inputs {
            // Two paths may be the same once a write is left out of one of them: a
            // node never holds one version twice.
            if let Some(sibling) = self.of(input)?
                && !inputs.contains(&sibling)
            {
                inputs.push(sibling);
            }
        }
        if !matches!(derived.made, Made::FoldedAsListed) {
            inputs.sort_by_key(|sibling| sibling.dot);
        }
        Ok(inputs)
    }
}

/// What a module said instead of giving a value.
pub fn said(reply: &GuestReply) -> String {
    match reply {
        GuestReply::Done { .. } => "a value".to_owned(),
        GuestReply::Unresolved => "it declines to decide".to_owned(),
        GuestReply::BadOperation(reason)
        | GuestReply::Failed(reason)
        | GuestReply::Quarantined(reason) => reason.clone(),
        GuestReply::Missing => "it is missing".to_owned(),
        GuestReply::Overloaded => "too many folds wait".to_owned(),
    }
}
