//! A data type at one replica.
//!
//! Promises: it does what a node does with a data type, and nothing else: every
//! operation under a fresh dot of its own actor, states joined by the fold.

use std::marker::PhantomData;

use super::{ACTOR_BYTES, item, sibling};
use crate::{DataType, Dot, Event, Sibling};

/// One replica of an item of a data type, for tests of operations.
pub struct Replica<D> {
    actor: u8,
    counter: u64,
    now: Option<u64>,
    state: Option<Vec<u8>>,
    data_type: PhantomData<D>,
}

/// By hand, because a derived one wants the data type to be copied, of which
/// there is no value.
impl<D> Clone for Replica<D> {
    fn clone(&self) -> Self {
        Replica {
            state: self.state.clone(),
            ..*self
        }
    }
}

impl<D: DataType> Replica<D> {
    /// A replica that has seen nothing; each needs an actor of its own.
    pub fn new(actor: u8) -> Self {
        Replica {
            actor,
            counter: 0,
            now: None,
            state: None,
            data_type: PhantomData,
        }
    }

    /// Sets the clock, which otherwise ticks once for each operation.
    pub fn at(&mut self, now: u64) -> &mut Self {
        self.now = Some(now);
        self
    }

    /// One operation; the error is what its client would see.
    pub fn apply(&mut self, operation: &str) -> Result<(), String> {
        self.skip();
        let event = Event {
            dot: self.dot(),
            written_at: self.now.unwrap_or(self.counter),
        };
        let operation = operation.as_bytes();
        self.state = Some(D::apply(&item(), self.state.as_deref(), operation, &event)?);
        Ok(())
    }

    /// As [`Replica::apply`], of an operation that is right: fails the test when it
    /// is refused.
    #[track_caller]
    pub fn does(&mut self, operation: &str) -> &mut Self {
        if let Err(error) = self.apply(operation) {
            panic!("{operation} is refused: {error}");
        }
        self
    }

    /// Takes over what another one has.
    #[track_caller]
    pub fn receive(&mut self, other: &Replica<D>) -> &mut Self {
        self.state = match (self.state.take(), &other.state) {
            (Some(ours), Some(theirs)) => Some(join::<D>(&[&ours, theirs])),
            (ours, theirs) => ours.or_else(|| theirs.clone()),
        };
        self
    }

    /// The item was deleted here: the next operation starts from nothing, under a
    /// later dot.
    pub fn forget(&mut self) -> &mut Self {
        self.state = None;
        self
    }

    /// Spends a dot on something else, as a store does now and then.
    pub fn skip(&mut self) -> &mut Self {
        self.counter += 1;
        self
    }

    /// The dot that was spent last.
    pub fn dot(&self) -> Dot {
        Dot {
            actor: vec![self.actor; ACTOR_BYTES],
            counter: self.counter,
        }
    }

    /// What it holds; nothing where there is no item.
    pub fn state(&self) -> Option<&[u8]> {
        self.state.as_deref()
    }

    /// What a client sees, as text; nothing where there is no item.
    #[track_caller]
    pub fn view(&self) -> String {
        self.state().map_or(String::new(), view::<D>)
    }
}

/// Both receive what the other has, and must then agree: what a client sees.
#[track_caller]
pub fn meet<D: DataType>(one: &mut Replica<D>, other: &mut Replica<D>) -> String {
    let before = one.clone();
    one.receive(other);
    other.receive(&before);
    assert_eq!(one.state, other.state, "two that saw the same are equal");
    one.view()
}

/// The fold of these states, at least one. Fails the test when they are refused.
#[track_caller]
pub fn join<D: DataType>(states: &[&[u8]]) -> Vec<u8> {
    let numbered = states.iter().zip(1..);
    let siblings: Vec<Sibling> = numbered
        .map(|(state, n)| sibling(Some(state), n, 1, n))
        .collect();
    let folded = D::fold(&item(), &siblings).expect("states join");
    folded.into_value().expect("states join to a state")
}

/// What a client sees of a state, as text. Fails the test when there is none.
#[track_caller]
pub fn view<D: DataType>(state: &[u8]) -> String {
    let view = D::render(state).expect("a state renders");
    String::from_utf8(view.body).expect("the view is text")
}
