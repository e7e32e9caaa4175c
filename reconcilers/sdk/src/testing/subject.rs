//! A merge in plain Rust as what the law check asks.
//!
//! Promises: it converts and does not decide; a panic of the merge is an answer
//! like any other.

use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use kinfold_laws::{self as laws, Failure, Kind, Subject};

use crate::{DataType, Dot, Event, Item, Outcome, Reconciler, Sibling};

thread_local! {
    /// Whether this thread calls a merge, whose panics are findings.
    static CALLS: Cell<bool> = const { Cell::new(false) };
}

/// Calls a merge; its panic becomes a finding, with its message.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    // A search panics a hundred times where one is of interest: the one that is
    // left when the case is shrunk. Other threads' panics are told as ever.
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            if !CALLS.get() {
                usual(about);
            }
        }));
    });
    CALLS.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    CALLS.set(false);
    match result {
        Ok(result) => result.map_err(Failure::Refused),
        Err(message) => {
            let text = message.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| message.downcast_ref::<&str>().copied());
            Err(Failure::Trapped(format!(
                "panicked: {}",
                text.unwrap_or("without a message")
            )))
        }
    }
}

pub fn to_laws(sibling: &Sibling) -> laws::Sibling {
    laws::Sibling {
        value: sibling.value.clone(),
        content_type: sibling.content_type.clone(),
        written_at_us: sibling.written_at,
        dot: laws::Dot {
            actor: sibling.dot.actor.clone(),
            counter: sibling.dot.counter,
        },
    }
}

pub fn from_laws(sibling: &laws::Sibling) -> Sibling {
    Sibling {
        value: sibling.value.clone(),
        content_type: sibling.content_type.clone(),
        written_at: sibling.written_at_us,
        dot: from_laws_dot(&sibling.dot),
    }
}

fn from_laws_dot(dot: &laws::Dot) -> Dot {
    Dot {
        actor: dot.actor.clone(),
        counter: dot.counter,
    }
}

fn from_laws_item(item: &laws::Item) -> Item {
    Item {
        table: item.table.clone(),
        partition_key: item.partition_key.clone(),
        sort_key: item.sort_key.clone(),
    }
}

/// Any fold.
pub type Fold = fn(&Item, &[Sibling]) -> Result<Outcome, String>;

fn folded(fold: Fold, item: &laws::Item, siblings: &[&laws::Sibling]) -> laws::Answer {
    let siblings: Vec<Sibling> = siblings.iter().map(|one| from_laws(one)).collect();
    let item = from_laws_item(item);
    guarded(|| fold(&item, &siblings)).map(|outcome| match outcome {
        Outcome::Merged(value) => laws::Outcome::Merged(value),
        Outcome::Deleted => laws::Outcome::Deleted,
        Outcome::Unresolved => laws::Outcome::Unresolved,
    })
}

/// None when there are none: the engine then makes up its own.
fn own(samples: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    (!samples.is_empty()).then_some(samples)
}

/// A fold alone: siblings are given, so it has none of its own.
pub struct Alone(pub Fold);

impl Subject for Alone {
    fn kind(&self) -> Kind {
        Kind::Reconciler
    }

    fn samples(&self, _: u64, _: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        Ok(None)
    }

    fn fold(&self, item: &laws::Item, siblings: &[&laws::Sibling]) -> laws::Answer {
        folded(self.0, item, siblings)
    }
}

/// A reconciler.
pub struct Merge<M>(pub PhantomData<M>);

impl<M: Reconciler> Subject for Merge<M> {
    fn kind(&self) -> Kind {
        Kind::Reconciler
    }

    fn samples(&self, seed: u64, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        guarded(|| Ok(own(M::samples(seed, count))))
    }

    fn fold(&self, item: &laws::Item, siblings: &[&laws::Sibling]) -> laws::Answer {
        folded(M::fold, item, siblings)
    }
}

/// A data type.
pub struct Type<D>(pub PhantomData<D>);

impl<D: DataType> Subject for Type<D> {
    fn kind(&self) -> Kind {
        Kind::DataType
    }

    fn samples(&self, seed: u64, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        guarded(|| Ok(own(D::operations(seed, count))))
    }

    fn fold(&self, item: &laws::Item, siblings: &[&laws::Sibling]) -> laws::Answer {
        folded(D::fold, item, siblings)
    }

    fn apply(
        &self,
        item: &laws::Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &laws::Event,
    ) -> Result<Vec<u8>, Failure> {
        let item = from_laws_item(item);
        let event = Event {
            dot: from_laws_dot(&event.dot),
            written_at: event.written_at_us,
        };
        guarded(|| D::apply(&item, state, operation, &event))
    }

    fn render(&self, state: &[u8]) -> Result<laws::View, Failure> {
        guarded(|| D::render(state)).map(|view| laws::View {
            body: view.body,
            content_type: view.content_type.to_owned(),
        })
    }
}
