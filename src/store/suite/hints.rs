//! Hints: which are listed, and what goes with the last of them.

use super::*;

pub fn hints_are_listed_oldest_first_with_their_rows(store: &impl Subject) {
    let (target, other) = (NodeId(2), NodeId(u64::MAX));
    for name in ["a", "b", "c"] {
        ask(store, update(0, name, write(name, 1), vec![target, other])).expect("writes");
    }
    let names = |hints: Vec<Hint>| -> Vec<ItemKey> { hints.into_iter().map(|h| h.key).collect() };
    assert_eq!(
        names(hints(store, target, 9)),
        [key("a"), key("b"), key("c")]
    );
    assert_eq!(names(hints(store, target, 2)), [key("a"), key("b")]);
    assert_eq!(hints(store, target, 0), []);
    assert_eq!(hints(store, NodeId(3), 9), []);
    let listed = hints(store, target, 1);
    assert_eq!(Ok(listed[0].row.clone()), read(store, 0, "a"));
    assert_eq!(
        ask(store, StoreRequest::CountHints),
        Ok(StoreReply::HintCounts(vec![(target, 3), (other, 3)]))
    );
    // Added again, a hint goes to the end under another id.
    let again = StoreRequest::AddHints {
        partition: Partition(0),
        key: key("a"),
        hints: vec![target],
    };
    assert_eq!(ask(store, again), Ok(StoreReply::Done));
    assert_eq!(
        names(hints(store, target, 9)),
        [key("b"), key("c"), key("a")]
    );
    assert_ne!(hints(store, target, 9)[2].id, listed[0].id);
}

pub fn a_hint_added_again_survives_its_predecessor(store: &impl Subject) {
    let target = NodeId(2);
    ask(store, update(0, "a", write("one", 1), vec![target])).expect("writes");
    let listed = hints(store, target, 9);
    ask(store, update(0, "a", write("two", 1), vec![target])).expect("writes");
    drop_hint(store, &listed[0], None);
    let left = hints(store, target, 9);
    assert_eq!(left.len(), 1);
    assert_ne!(left[0].id, listed[0].id);
    assert_eq!(values(store, 0, "a"), ["one", "two"]);
    // An id with another item's name forgets nothing.
    let wrong = Hint {
        key: key("b"),
        ..left[0].clone()
    };
    drop_hint(store, &wrong, None);
    assert_eq!(hints(store, target, 9), left);
}

pub fn a_row_is_dropped_with_its_last_hint_only(store: &impl Subject) {
    let (target, other) = (NodeId(2), NodeId(3));
    ask(store, update(0, "a", write("one", 1), vec![target, other])).expect("writes");
    let state = hash_of(store, 0, "a");
    let none = drop_hint(store, &hints(store, target, 9)[0], Some(state));
    assert_eq!(values(store, 0, "a"), ["one"], "the other hint names it");
    assert_eq!(none, []);
    let last = hints(store, other, 9);
    let none = drop_hint(store, &last[0], Some(StateHash([0; 16])));
    assert_eq!(values(store, 0, "a"), ["one"], "its state is another");
    assert_eq!(none, []);
    assert_eq!(hints(store, other, 9), last, "so the hint stays as well");
    let gone = drop_hint(store, &last[0], Some(state));
    assert_eq!(gone, [change("a", Some(state), None)]);
    assert_eq!(drop_hint(store, &last[0], Some(state)), [], "it went once");
    assert_eq!(read(store, 0, "a"), Ok(None));
    // Without the wish, the row stays.
    ask(store, update(0, "b", write("one", 1), vec![target])).expect("writes");
    drop_hint(store, &hints(store, target, 9)[0], None);
    assert_eq!(values(store, 0, "b"), ["one"]);
    assert_eq!(
        ask(store, StoreRequest::CountHints),
        Ok(StoreReply::HintCounts(vec![]))
    );
    // A hint outlives its row, and says that it is gone.
    let orphan = StoreRequest::AddHints {
        partition: Partition(0),
        key: key("a"),
        hints: vec![target],
    };
    ask(store, orphan).expect("adds");
    assert_eq!(hints(store, target, 9)[0].row, None);
    // An item that was dropped can be written again.
    put(store, 0, "a", "again");
    assert_eq!(values(store, 0, "a"), ["again"]);
}

pub fn hints_are_counted_by_partition(store: &impl Subject) {
    let (target, other) = (NodeId(2), NodeId(3));
    ask(store, update(0, "a", write("x", 1), vec![target, other])).expect("writes");
    ask(store, update(1, "b", write("x", 1), vec![target])).expect("writes");
    let count = |partition| {
        let partition = Partition(partition);
        match ask(store, StoreRequest::CountHintsOf { partition }) {
            Ok(StoreReply::Count(count)) => count,
            other => panic!("not a count: {other:?}"),
        }
    };
    assert_eq!([0, 1, 2].map(count), [2, 1, 0]);
    drop_hint(store, &hints(store, other, 9)[0], None);
    assert_eq!([0, 1, 2].map(count), [1, 1, 0]);
}

pub fn a_hint_of_a_damaged_row_is_passed_over_and_kept(store: &impl Subject) {
    let target = NodeId(2);
    for name in ["a", "b"] {
        ask(store, update(0, name, write("x", 1), vec![target])).expect("writes");
    }
    let listed = hints(store, target, 9);
    let state = hash_of(store, 0, "a");
    store.damage(Partition(0), &key("a"));
    let sound = hints(store, target, 1);
    assert_eq!(sound, listed[1..]);
    assert_eq!(drop_hint(store, &listed[0], Some(state)), []);
    assert_eq!(
        ask(store, StoreRequest::CountHints),
        Ok(StoreReply::HintCounts(vec![(target, 2)]))
    );
}
