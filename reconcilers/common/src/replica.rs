//! A data type at one replica, for the tests of merge logic.
//!
//! Promises: it does what a node does with a data type, and nothing else: every
//! operation under a fresh dot of its own actor, states joined by the fold.

use crate::laws::sibling;
use crate::{Dot, Event, Outcome, Sibling, View};

/// The merge logic of a data type.
#[derive(Clone, Copy)]
pub struct DataType {
    pub fold: fn(&[Sibling]) -> Result<Outcome, String>,
    pub apply: fn(Option<&[u8]>, &[u8], &Event) -> Result<Vec<u8>, String>,
    pub render: fn(&[u8]) -> Result<View, String>,
}

impl DataType {
    /// The fold of these states, at least one.
    pub fn join(&self, states: &[&[u8]]) -> Vec<u8> {
        let numbered = states.iter().zip(1..);
        let siblings: Vec<Sibling> = numbered
            .map(|(state, n)| sibling(Some(state), n, 1, n))
            .collect();
        let folded = (self.fold)(&siblings).expect("states of this type");
        folded.into_value().expect("no tombstones among them")
    }

    /// What a client sees.
    pub fn view(&self, state: &[u8]) -> String {
        let view = (self.render)(state).expect("a state of this type");
        assert_eq!(view.content_type, "application/json");
        String::from_utf8(view.body).expect("JSON is UTF-8")
    }
}

/// One copy of an item, whose operations are its own actor's.
#[derive(Clone)]
pub struct Replica {
    pub data_type: DataType,
    pub actor: u8,
    /// The counter that was used last.
    pub counter: u64,
    /// The clock, for whoever cares to set it.
    pub now: u64,
    pub state: Option<Vec<u8>>,
}

impl Replica {
    pub fn new(data_type: DataType, actor: u8) -> Self {
        Replica {
            data_type,
            actor,
            counter: 0,
            now: 0,
            state: None,
        }
    }

    /// Where its next operation happens.
    pub fn event(&mut self) -> Event {
        self.counter += 1;
        Event {
            dot: Dot {
                actor: vec![self.actor; 16],
                counter: self.counter,
            },
            written_at: self.now,
        }
    }

    /// Applies an operation that is right.
    pub fn apply(&mut self, operation: &str) -> &mut Self {
        let event = self.event();
        let applied = (self.data_type.apply)(self.state.as_deref(), operation.as_bytes(), &event);
        self.state = Some(applied.expect("an operation of this type"));
        self
    }

    /// Joins what another holds.
    pub fn hear(&mut self, other: &Replica) -> &mut Self {
        self.state = match (self.state.take(), &other.state) {
            (Some(ours), Some(theirs)) => Some(self.data_type.join(&[&ours, theirs])),
            (ours, theirs) => ours.or(theirs.clone()),
        };
        self
    }

    /// What a client sees; nothing when there is no item.
    pub fn view(&self) -> String {
        let state = self.state.as_deref();
        state.map_or(String::new(), |state| self.data_type.view(state))
    }
}

/// Both hear of each other and must then agree.
pub fn meet(a: &mut Replica, b: &mut Replica) -> String {
    let before = a.clone();
    a.hear(b);
    b.hear(&before);
    assert_eq!(a.state, b.state, "two that heard of the same are equal");
    a.view()
}
