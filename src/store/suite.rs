//! One suite of tests for every store, and what such tests need.
//!
//! Each test is a function of a [`Subject`]; the macro at the end runs all of
//! them for each store. `suite/agree.rs` holds the stores against each other,
//! `suite/trees.rs` the trees that follow their changes; what only SQLite promises
//! is in `sqlite/tests.rs`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

mod agree;
mod hints;
mod leaves;
mod trees;

use self::hints::*;
use self::leaves::*;
use super::Store;
use super::memory::MemoryStore;
use super::sqlite::{Options, SqliteStore};
use crate::protocol::context::Context;
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::{Hint, Leaf, LeafChange, StoreError, StoreReply, StoreRequest};
use crate::protocol::id::{ItemKey, NodeId, Partition, TableId};
use crate::protocol::replica::{Draft, Minting, Mutation, Outcome, Row, SiblingLimits, plan_write};
use crate::protocol::siblings::{SiblingSet, StateHash};

/// The node that the tests mint as.
pub const NODE: NodeId = NodeId(1);

/// What the tests ask of a store beyond the trait.
pub trait Subject: Store {
    fn rows_of(&self, partition: Partition) -> Vec<(ItemKey, Row)>;

    /// Makes a row unreadable that is there.
    fn damage(&self, partition: Partition, key: &ItemKey);
}

impl Subject for MemoryStore {
    fn rows_of(&self, partition: Partition) -> Vec<(ItemKey, Row)> {
        let rows = self.rows().into_iter();
        rows.filter(|(p, ..)| *p == partition)
            .map(|(_, key, row)| (key, row))
            .collect()
    }

    fn damage(&self, partition: Partition, key: &ItemKey) {
        assert!(MemoryStore::damage(self, partition, key));
    }
}

impl Subject for SqliteStore {
    fn rows_of(&self, partition: Partition) -> Vec<(ItemKey, Row)> {
        self.scan(partition).expect("no row is damaged")
    }

    fn damage(&self, partition: Partition, key: &ItemKey) {
        self.flip_a_bit(partition, key);
    }
}

pub fn key(name: &str) -> ItemKey {
    ItemKey::new(TableId(1), name.as_bytes(), None)
}

/// Asks and waits.
pub fn ask(store: &(impl Store + ?Sized), request: StoreRequest) -> Result<StoreReply, StoreError> {
    // Every other one in the one way, every other one in the other.
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    if ASKED.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
        && let Some(reply) = store.read_now(&request)
    {
        return reply;
    }
    let (send, receive) = mpsc::channel();
    store.submit(
        request,
        Box::new(move |reply| send.send(reply).expect("the test waits")),
    );
    receive.recv().expect("a request is answered")
}

/// A blind write of `value`, minted with the epoch if the row has none.
pub fn write(value: &str, fresh_epoch: u64) -> Mutation {
    write_after(Context::new(), value, fresh_epoch)
}

pub fn write_after(client: Context, value: &str, fresh_epoch: u64) -> Mutation {
    Mutation::Write {
        draft: Draft {
            client,
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            content_type: "text/plain".into(),
        },
        minting: minting(fresh_epoch),
        limits: SiblingLimits {
            fold_above: None,
            max_siblings: 10_000,
            max_actors: 20,
        },
    }
}

fn minting(fresh_epoch: u64) -> Minting {
    Minting {
        node: NODE,
        incarnation: 7,
        now_us: 1_000,
        fresh_epoch: Epoch(fresh_epoch),
    }
}

pub fn update(partition: u32, name: &str, mutation: Mutation, hints: Vec<NodeId>) -> StoreRequest {
    StoreRequest::Update {
        partition: Partition(partition),
        key: key(name),
        mutation,
        hints,
    }
}

pub fn put(store: &(impl Store + ?Sized), partition: u32, name: &str, value: &str) -> Outcome {
    updated(ask(store, update(partition, name, write(value, 5), vec![])))
}

pub fn updated(reply: Result<StoreReply, StoreError>) -> Outcome {
    match reply {
        Ok(StoreReply::Updated(outcome, _)) => outcome,
        other => panic!("not the reply to an update: {other:?}"),
    }
}

pub fn read(
    store: &(impl Store + ?Sized),
    partition: u32,
    name: &str,
) -> Result<Option<Row>, StoreError> {
    let request = StoreRequest::Read {
        partition: Partition(partition),
        key: key(name),
    };
    ask(store, request).map(|reply| match reply {
        StoreReply::Row(row) => row.map(|(row, state)| {
            assert_eq!(row.set.hash(), state, "a row comes with its state's hash");
            row
        }),
        other => panic!("not the reply to a read: {other:?}"),
    })
}

/// The values of an item, sorted.
pub fn values(store: &(impl Store + ?Sized), partition: u32, name: &str) -> Vec<Bytes> {
    let row = read(store, partition, name)
        .expect("reads")
        .unwrap_or_default();
    let mut values: Vec<Bytes> = row
        .set
        .siblings()
        .filter_map(|(_, version)| version.value.clone())
        .collect();
    values.sort();
    values
}

pub fn hints(store: &(impl Store + ?Sized), target: NodeId, limit: usize) -> Vec<Hint> {
    match ask(store, StoreRequest::Hints { target, limit }) {
        Ok(StoreReply::Hints(hints)) => hints,
        other => panic!("not the reply to a listing: {other:?}"),
    }
}

fn drop_hint(store: &impl Store, hint: &Hint, then_drop: Option<StateHash>) -> Vec<LeafChange> {
    let hints = vec![(hint.id, hint.partition, hint.key.clone(), then_drop)];
    match ask(store, StoreRequest::DropHints { hints }) {
        Ok(StoreReply::Dropped(gone)) => gone,
        other => panic!("not the reply to a dropping: {other:?}"),
    }
}

/// A change of an item of partition 0.
fn change(name: &str, before: Option<StateHash>, after: Option<StateHash>) -> LeafChange {
    LeafChange {
        partition: Partition(0),
        key: key(name),
        before,
        after,
        mended: false,
    }
}

fn hash_of(store: &impl Store, partition: u32, name: &str) -> StateHash {
    let row = read(store, partition, name).expect("reads");
    row.expect("the row is there").set.hash()
}

pub fn foreign_set(counter: u64, value: &'static str) -> SiblingSet {
    let dot = Dot {
        actor: Actor {
            node: NodeId(99),
            epoch: Epoch(9),
        },
        counter,
    };
    let version = crate::protocol::siblings::Version {
        value: Some(Bytes::from_static(value.as_bytes())),
        content_type: "text/plain".into(),
        written_at_us: 500,
        stands_for: None,
    };
    SiblingSet::delta(&Context::new(), dot, version)
}

/// Rows as life makes them: a few writes, some of them informed, some foreign.
pub fn rows() -> impl Strategy<Value = Row> {
    let step = (any::<bool>(), any::<bool>(), 1u64..4, "[a-z]{0,40}");
    prop::collection::vec(step, 0..6).prop_map(|steps| {
        let mut row = Row::default();
        for (foreign, informed, counter, value) in steps {
            if foreign {
                row.set.sync(&foreign_set(counter, "theirs"));
                continue;
            }
            let draft = Draft {
                client: if informed {
                    row.set.context().clone()
                } else {
                    Context::new()
                },
                value: (!value.is_empty()).then(|| Bytes::from(value)),
                content_type: "text/plain".into(),
            };
            row = plan_write(row, &draft, &minting(5)).0;
        }
        row
    })
}

fn what_is_written_is_read(store: &impl Subject) {
    assert_eq!(read(store, 0, "a"), Ok(None));
    assert!(matches!(put(store, 0, "a", "one"), Outcome::Written(_)));
    assert_eq!(values(store, 0, "a"), ["one"]);
    assert_eq!(read(store, 0, "b"), Ok(None));
    assert_eq!(read(store, 1, "a"), Ok(None), "partitions are apart");
    let seen = read(store, 0, "a").expect("reads").expect("is there");
    let informed = write_after(seen.set.context().clone(), "two", 6);
    let outcome = updated(ask(store, update(0, "a", informed, vec![])));
    assert!(matches!(outcome, Outcome::Written(_)));
    assert_eq!(values(store, 0, "a"), ["two"]);
}

fn every_dot_is_minted_once(store: &impl Subject) {
    const THREADS: u64 = 8;
    const WRITES: u64 = 25;
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let send = send.clone();
            scope.spawn(move || {
                for number in 0..WRITES {
                    let send = send.clone();
                    let change = write(&format!("{thread}/{number}"), thread * WRITES + number);
                    store.submit(
                        update(0, "a", change, vec![]),
                        Box::new(move |reply| send.send(updated(reply)).expect("the test waits")),
                    );
                }
            });
        }
    });
    drop(send);
    let dots: Vec<Dot> = receive
        .iter()
        .map(|outcome| match outcome {
            Outcome::Written(written) => written.dot,
            other => panic!("not written: {other:?}"),
        })
        .collect();
    let distinct: BTreeSet<Dot> = dots.iter().copied().collect();
    assert_eq!(dots.len() as u64, THREADS * WRITES);
    assert_eq!(distinct.len(), dots.len());
    let actors: BTreeSet<Actor> = dots.iter().map(|dot| dot.actor).collect();
    assert_eq!(actors.len(), 1, "an item's epoch lasts");
    assert_eq!(values(store, 0, "a").len(), dots.len());
}

fn changes_take_effect_as_submitted(store: &impl Subject) {
    let (send, receive) = mpsc::channel();
    for number in 0..50 {
        let send = send.clone();
        store.submit(
            update(0, "a", write("x", number), vec![]),
            Box::new(move |reply| send.send(updated(reply)).expect("the test waits")),
        );
    }
    for number in 1..=50 {
        let Outcome::Written(written) = receive.recv().expect("answered") else {
            panic!("not written");
        };
        assert_eq!(written.dot.counter, number);
    }
}

fn replace_is_refused_when_the_state_moved_on(store: &impl Subject) {
    put(store, 0, "a", "one");
    let before = hash_of(store, 0, "a");
    put(store, 0, "a", "two");
    let replacement = Row {
        set: foreign_set(1, "folded"),
        ..Row::default()
    };
    let replace = |expected| Mutation::Replace {
        expected,
        row: replacement.clone(),
    };
    let target = NodeId(2);
    let stale = updated(ask(store, update(0, "a", replace(before), vec![target])));
    let now = read(store, 0, "a").expect("reads").expect("is there");
    assert_eq!(stale, Outcome::Conflict(now.clone()));
    assert_eq!(values(store, 0, "a"), ["one", "two"]);
    assert_eq!(
        hints(store, target, 9),
        [],
        "a change not made hints nothing"
    );
    let current = update(0, "a", replace(now.set.hash()), vec![target]);
    assert_eq!(updated(ask(store, current)), Outcome::Replaced);
    assert_eq!(values(store, 0, "a"), ["folded"]);
    assert_eq!(hints(store, target, 9).len(), 1);
    // An item that nobody wrote has a state too.
    let absent = update(0, "b", replace(SiblingSet::new().hash()), vec![]);
    assert_eq!(updated(ask(store, absent)), Outcome::Replaced);
}

fn syncing_twice_changes_nothing(store: &impl Subject) {
    let sync = || Mutation::Sync {
        set: foreign_set(1, "theirs"),
        max_actors: 20,
    };
    let outcome = |changed| Outcome::Synced { changed };
    let first = ask(store, update(0, "a", sync(), vec![]));
    assert_eq!(updated(first), outcome(true));
    let before = read(store, 0, "a");
    let target = NodeId(2);
    let again = ask(store, update(0, "a", sync(), vec![target]));
    assert_eq!(updated(again), outcome(false));
    assert_eq!(read(store, 0, "a"), before);
    assert_eq!(hints(store, target, 9).len(), 1, "it is held all the same");
}

fn changes_within_a_batch_see_each_other(store: &impl Subject) {
    // Submitted together, these meet in one transaction where the store has any.
    let stale = SiblingSet::new().hash();
    let requests = vec![
        update(0, "a", write("one", 1), vec![]),
        update(
            0,
            "a",
            Mutation::Replace {
                expected: stale,
                row: Row::default(),
            },
            vec![],
        ),
        update(0, "a", write("two", 2), vec![]),
    ];
    let (send, receive) = mpsc::channel();
    for request in requests {
        let send = send.clone();
        store.submit(
            request,
            Box::new(move |reply| send.send(updated(reply)).expect("the test waits")),
        );
    }
    let outcomes: Vec<Outcome> = (0..3).map(|_| receive.recv().expect("answered")).collect();
    assert!(matches!(outcomes[0], Outcome::Written(_)));
    assert!(matches!(&outcomes[1], Outcome::Conflict(row) if row.set.len() == 1));
    assert!(matches!(&outcomes[2], Outcome::Written(written) if written.dot.counter == 2));
    assert_eq!(values(store, 0, "a"), ["one", "two"]);
}

fn a_malformed_set_is_refused_and_changes_nothing(store: &impl Subject) {
    put(store, 0, "a", "one");
    // An actor of whom nothing was seen.
    let mut bytes = vec![1];
    bytes.extend_from_slice(&[0; 16]);
    bytes.extend_from_slice(&[0, 0, 0, 0]);
    let set: SiblingSet = postcard::from_bytes(&bytes).expect("decodes");
    assert!(!set.is_well_formed());
    let sync = Mutation::Sync {
        set,
        max_actors: 20,
    };
    let refused = ask(store, update(0, "a", sync, vec![NodeId(2)]));
    assert!(
        matches!(refused, Err(StoreError::Corrupt(_))),
        "{refused:?}"
    );
    assert_eq!(values(store, 0, "a"), ["one"]);
    assert_eq!(hints(store, NodeId(2), 9), []);
}

fn records_are_kept(store: &impl Subject) {
    assert_eq!(store.meta("layout"), Ok(None));
    for text in ["one", "two"] {
        let put = StoreRequest::PutMeta {
            name: "layout",
            bytes: Bytes::from_static(text.as_bytes()),
        };
        assert_eq!(ask(store, put), Ok(StoreReply::Done));
        assert_eq!(store.meta("layout"), Ok(Some(text.into())));
    }
    assert_eq!(store.meta("catalog"), Ok(None));
    store.renew_incarnation(u64::MAX).expect("renews");
    assert_eq!(store.incarnation(), u64::MAX);
}

fn items_lie_in_the_order_of_their_names(store: &impl Subject) {
    type Name<'a> = (u64, &'a [u8], Option<&'a [u8]>);
    let mut names: Vec<Name<'_>> = vec![
        (1, b"a", None),
        (1, b"a", Some(b"\0")),
        (1, b"a", Some(b"b")),
        (1, b"a\0", None),
        (1, b"a\0b", Some(b"a")),
        (1, b"ab", None),
        (2, b"\xff", Some(b"\xff")),
        (2, b"\xff\xff", None),
        (1 << 63, b"a", None),
    ];
    let keys = |names: &[Name<'_>]| -> Vec<ItemKey> {
        let names = names.iter();
        names
            .map(|(table, pk, sk)| ItemKey::new(TableId(*table), pk, *sk))
            .collect()
    };
    let sorted = keys(&names);
    names.reverse();
    names.swap(1, 5);
    for key in keys(&names) {
        let request = StoreRequest::Update {
            partition: Partition(3),
            key,
            mutation: write("x", 1),
            hints: vec![],
        };
        ask(store, request).expect("writes");
    }
    put(store, 2, "elsewhere", "x");
    let found: Vec<ItemKey> = store
        .rows_of(Partition(3))
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(found, sorted);
}

fn a_closed_store_answers_with_errors(store: &impl Subject) {
    put(store, 0, "a", "one");
    store.close();
    store.close();
    assert!(matches!(read(store, 0, "a"), Err(StoreError::Io(_))));
    let refused = ask(store, update(0, "a", write("two", 1), vec![]));
    assert!(matches!(refused, Err(StoreError::Io(_))));
}

fn an_answer_may_ask_again(store: Arc<impl Subject>) {
    let (send, receive) = mpsc::channel();
    let next = store.clone();
    store.submit(
        update(0, "a", write("one", 1), vec![]),
        Box::new(move |_| {
            let read = StoreRequest::Read {
                partition: Partition(0),
                key: key("a"),
            };
            next.submit(
                read,
                Box::new(move |reply| send.send(reply).expect("the test waits")),
            );
        }),
    );
    let reply = receive.recv().expect("answered");
    assert!(matches!(reply, Ok(StoreReply::Row(Some(_)))));
}

/// A store for one test; the directory goes with it.
type Made<S> = (Arc<S>, Option<TempDir>);

fn memory() -> Made<MemoryStore> {
    (Arc::new(MemoryStore::new(7)), None)
}

fn sqlite(files: u32) -> Made<SqliteStore> {
    let dir = TempDir::new().expect("a directory");
    let options = Options {
        files: Some(files),
        // So few that nearly every change files some.
        max_unfiled_rows: 3,
        ..Options::new(dir.path(), 7)
    };
    (SqliteStore::open(options).expect("opens"), Some(dir))
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(#[test] fn $test() { super::$test(&*super::memory().0) })*
        }
        mod in_one_file {
            $(#[test] fn $test() { let (store, _dir) = super::sqlite(1); super::$test(&*store) })*
        }
        mod in_three_files {
            $(#[test] fn $test() { let (store, _dir) = super::sqlite(3); super::$test(&*store) })*
        }
    };
}

suite!(
    what_is_written_is_read,
    every_dot_is_minted_once,
    changes_take_effect_as_submitted,
    replace_is_refused_when_the_state_moved_on,
    syncing_twice_changes_nothing,
    changes_within_a_batch_see_each_other,
    hints_are_listed_oldest_first_with_their_rows,
    a_hint_added_again_survives_its_predecessor,
    a_row_is_dropped_with_its_last_hint_only,
    hints_are_counted_by_partition,
    a_hint_of_a_damaged_row_is_passed_over_and_kept,
    every_change_of_a_row_tells_its_leaf,
    changes_of_one_batch_tell_their_leaves_apart,
    a_damaged_row_is_refused_until_it_is_mended,
    rows_are_forgotten_by_their_state,
    leaves_are_derived_in_chunks,
    leaves_are_found_by_bucket,
    rows_are_read_until_there_is_enough,
    damaged_rows_are_passed_over,
    a_malformed_set_is_refused_and_changes_nothing,
    records_are_kept,
    items_lie_in_the_order_of_their_names,
    a_closed_store_answers_with_errors,
);

#[test]
fn answers_may_ask_again() {
    an_answer_may_ask_again(memory().0);
    let (store, _dir) = sqlite(2);
    an_answer_may_ask_again(store);
}

#[test]
fn a_memory_store_goes_back_to_what_it_was() {
    let (store, _) = memory();
    put(&*store, 0, "a", "one");
    let snapshot = store.snapshot();
    put(&*store, 0, "a", "two");
    store.close();
    store.restore(snapshot.clone());
    assert_eq!(values(&*store, 0, "a"), ["one"]);
    assert_eq!(store.snapshot(), snapshot);
}

#[test]
fn a_full_memory_store_refuses_changes_and_serves_reads() {
    let (store, _) = memory();
    put(&*store, 0, "a", "one");
    let snapshot = store.snapshot();
    store.set_full(true);
    let refused = [
        update(0, "a", write("two", 1), vec![NodeId(2)]),
        StoreRequest::DropHints { hints: vec![] },
        StoreRequest::PutMeta {
            name: "record",
            bytes: Bytes::new(),
        },
    ];
    for request in refused {
        assert_eq!(ask(&*store, request), Err(StoreError::Full));
    }
    assert_eq!(store.renew_incarnation(9), Err(StoreError::Full));
    assert_eq!(store.snapshot(), snapshot);
    assert_eq!(values(&*store, 0, "a"), ["one"]);
    store.set_full(false);
    put(&*store, 0, "a", "two");
    assert_eq!(values(&*store, 0, "a"), ["one", "two"]);
}
