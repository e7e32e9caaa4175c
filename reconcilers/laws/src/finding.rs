//! What is found: a law, and two ways to fold the same siblings that should have
//! given the same.
//!
//! Promises: a finding holds everything that telling it needs, and nothing that
//! was not run.

use crate::subject::{Answer, Failure, Limit, Sibling};

/// What a fold must keep.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Law {
    Deterministic,
    OrderFree,
    Idempotent,
    Regroupable,
    Closed,
    DataType,
}

impl Law {
    /// Its name, as the documentation and the API have it.
    pub fn name(self) -> &'static str {
        match self {
            Law::Deterministic => "deterministic",
            Law::OrderFree => "order-free",
            Law::Idempotent => "idempotent",
            Law::Regroupable => "regroupable",
            Law::Closed => "closed",
            Law::DataType => "data-type",
        }
    }

    /// What it asks, in one line.
    pub fn statement(self) -> &'static str {
        match self {
            Law::Deterministic => {
                "the same inputs give the same answer, whatever was folded before"
            }
            Law::OrderFree => "the order of the siblings changes nothing",
            Law::Idempotent => "repeats change nothing, and folding a fold changes nothing",
            Law::Regroupable => "a fold of some siblings may stand in their place",
            Law::Closed => "what a fold gives, a fold takes, within the limits",
            Law::DataType => {
                "an operation's state includes the one that it was made from, every state renders, \
                 and replicas that exchange states end up equal"
            }
        }
    }
}

/// One way to fold the siblings, and what it gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    /// Such as `fold(fold(a, b), c)`.
    pub formula: String,
    /// Such as "a and b first, then c".
    pub words: String,
    pub answer: Answer,
    /// What the folds inside the formula gave, in the order in which they ran.
    pub within: Vec<Within>,
}

/// A fold inside a formula.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Within {
    pub formula: String,
    /// None: deleted.
    pub value: Option<Vec<u8>>,
}

/// A law broken: two expressions that should agree, and what each gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    pub law: Law,
    pub left: Side,
    pub right: Side,
    /// The siblings that the formulas speak of: `a`, `b`, …
    pub siblings: Vec<Sibling>,
}

/// What makes two findings the same mistake: shrinking keeps to it, or a loop
/// without end would shrink to some refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Signature {
    law: Law,
    failure: Option<FailureKind>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FailureKind {
    Refused,
    Trapped,
    Limit(Limit),
}

impl Finding {
    pub fn signature(&self) -> Signature {
        let kind = |side: &Side| match &side.answer {
            Err(Failure::Refused(_)) => Some(FailureKind::Refused),
            Err(Failure::Trapped(_)) => Some(FailureKind::Trapped),
            Err(Failure::Limit(limit, _)) => Some(FailureKind::Limit(*limit)),
            _ => None,
        };
        Signature {
            law: self.law,
            failure: kind(&self.right).or_else(|| kind(&self.left)),
        }
    }

    /// Whether running it again is expensive: the fuel limit takes seconds.
    pub fn is_slow(&self) -> bool {
        [&self.left, &self.right].into_iter().any(|side| {
            matches!(
                side.answer,
                Err(Failure::Limit(Limit::Fuel | Limit::Memory, _))
            )
        })
    }
}

/// `a`, `b`, `c`: how the siblings of a case are called.
pub(crate) fn name(index: usize) -> String {
    char::from(b'a' + (index % 26) as u8).to_string()
}

/// "a", "a and b", "a, b and c".
pub(crate) fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}
