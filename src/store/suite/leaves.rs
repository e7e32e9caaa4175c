//! What the Merkle trees are told, and many rows at once.

use super::*;
use crate::protocol::merkle;

fn leaf_of(reply: Result<StoreReply, StoreError>) -> Option<LeafChange> {
    match reply {
        Ok(StoreReply::Updated(_, leaf)) => leaf,
        other => panic!("not the reply to an update: {other:?}"),
    }
}

fn sync(counter: u64) -> Mutation {
    Mutation::Sync {
        set: foreign_set(counter, "theirs"),
        max_actors: 20,
    }
}

fn deletion(client: Context, fresh_epoch: u64) -> Mutation {
    match write_after(client, "", fresh_epoch) {
        Mutation::Write {
            mut draft,
            minting,
            limits,
        } => {
            draft.value = None;
            Mutation::Write {
                draft,
                minting,
                limits,
            }
        }
        other => other,
    }
}

pub fn every_change_of_a_row_tells_its_leaf(store: &impl Subject) {
    let told = |mutation| leaf_of(ask(store, update(0, "a", mutation, vec![])));
    let hash = || Some(hash_of(store, 0, "a"));
    let first = told(write("one", 1));
    let one = hash();
    assert_eq!(first, Some(change("a", None, one)));
    let second = told(sync(1));
    let two = hash();
    assert_eq!(second, Some(change("a", one, two)));
    assert_eq!(told(sync(1)), None, "it brought nothing new");
    let stale = Mutation::Replace {
        expected: StateHash([0; 16]),
        row: Row::default(),
    };
    assert_eq!(told(stale), None, "it was not done");
    let row = read(store, 0, "a").expect("reads").expect("is there");
    let replacement = Row {
        set: foreign_set(9, "folded"),
        ..row
    };
    let replace = |row| Mutation::Replace {
        expected: hash_of(store, 0, "a"),
        row,
    };
    let third = told(replace(replacement.clone()));
    let three = hash();
    assert_eq!(third, Some(change("a", two, three)));
    let forgetful = Row {
        minted: None,
        ..replacement
    };
    assert_eq!(told(replace(forgetful)), None, "the state is the same");
    let mend = || Mutation::Mend {
        set: foreign_set(10, "more"),
        max_actors: 20,
    };
    let fourth = told(mend());
    assert_eq!(
        fourth,
        Some(change("a", three, hash())),
        "a sound row is synced"
    );
    assert_eq!(told(mend()), None);
}

pub fn changes_of_one_batch_tell_their_leaves_apart(store: &impl Subject) {
    let (send, receive) = mpsc::channel();
    for number in 0..40 {
        let send = send.clone();
        let name = ["a", "b"][number % 2];
        store.submit(
            update(0, name, write("x", number as u64), vec![]),
            Box::new(move |reply| send.send(reply).expect("the test waits")),
        );
    }
    drop(send);
    let replies: Vec<_> = receive.iter().collect();
    assert_eq!(replies.len(), 40);
    let mut last = std::collections::BTreeMap::new();
    for reply in replies {
        let leaf = leaf_of(reply).expect("it changed");
        let before = last.insert(leaf.key, leaf.after).flatten();
        assert_eq!(leaf.before, before);
    }
    for name in ["a", "b"] {
        assert_eq!(last[&key(name)], Some(hash_of(store, 0, name)));
    }
}

pub fn a_damaged_row_is_refused_until_it_is_mended(store: &impl Subject) {
    let target = NodeId(2);
    put(store, 0, "a", "one");
    let known = hash_of(store, 0, "a");
    store.damage(Partition(0), &key("a"));
    let mend = |set| Mutation::Mend {
        set,
        max_actors: 20,
    };
    let replace = Mutation::Replace {
        expected: known,
        row: Row::default(),
    };
    let hollow = mend(SiblingSet::new());
    for refused in [write("two", 1), sync(1), replace, hollow] {
        let reply = ask(store, update(0, "a", refused, vec![target]));
        assert!(matches!(reply, Err(StoreError::Corrupt(_))), "{reply:?}");
    }
    let forget = StoreRequest::Forget {
        partition: Partition(0),
        items: vec![(key("a"), known)],
        hints: true,
    };
    assert_eq!(ask(store, forget), Ok(StoreReply::Dropped(vec![])));
    assert!(matches!(read(store, 0, "a"), Err(StoreError::Corrupt(_))));
    assert_eq!(hints(store, target, 9), []);
    let damaged = store.figures().damaged_rows;
    assert!(damaged >= 6, "{damaged}");
    let reply = ask(
        store,
        update(0, "a", mend(foreign_set(3, "theirs")), vec![target]),
    );
    let leaf = LeafChange {
        mended: true,
        ..change("a", None, Some(hash_of(store, 0, "a")))
    };
    let outcome = Outcome::Synced { changed: true };
    assert_eq!(reply, Ok(StoreReply::Updated(outcome, Some(leaf))));
    assert_eq!(values(store, 0, "a"), ["theirs"]);
    assert_eq!(hints(store, target, 9).len(), 1);
    // What it had minted is forgotten, so the next dot has a fresh epoch.
    assert!(
        matches!(put(store, 0, "a", "two"), Outcome::Written(written) if written.dot.counter == 1)
    );
}

pub fn rows_are_forgotten_by_their_state(store: &impl Subject) {
    let target = NodeId(2);
    for (name, epoch) in ["a", "b", "c", "d"].into_iter().zip(1..) {
        ask(store, update(0, name, write(name, epoch), vec![target])).expect("writes");
    }
    ask(store, update(1, "a", write("elsewhere", 1), vec![target])).expect("writes");
    let state = |name: &str| hash_of(store, 0, name);
    let (a, b) = (state("a"), state("b"));
    let forget = |items: &[(&str, StateHash)], hints| {
        let items = items.iter().map(|(name, state)| (key(name), *state));
        let request = StoreRequest::Forget {
            partition: Partition(0),
            items: items.collect(),
            hints,
        };
        match ask(store, request) {
            Ok(StoreReply::Dropped(gone)) => gone,
            other => panic!("not the reply to forgetting: {other:?}"),
        }
    };
    // One matches, one does not, one was never there, one is named twice.
    let gone = forget(&[("a", a), ("b", a), ("x", a), ("a", a)], false);
    assert_eq!(gone, [change("a", Some(a), None)]);
    assert_eq!(read(store, 0, "a"), Ok(None));
    assert_eq!(values(store, 0, "b"), ["b"]);
    assert_eq!(values(store, 1, "a"), ["elsewhere"]);
    assert_eq!(hints(store, target, 9).len(), 5, "hints were to stay");
    // With hints: of a row that went, of one that was not there, not of one that
    // stays.
    let gone = forget(&[("b", b), ("a", a), ("c", a)], true);
    assert_eq!(gone, [change("b", Some(b), None)]);
    let left: Vec<(Partition, ItemKey)> = hints(store, target, 9)
        .into_iter()
        .map(|hint| (hint.partition, hint.key))
        .collect();
    let stays = [(0, "c"), (0, "d"), (1, "a")].map(|(p, name)| (Partition(p), key(name)));
    // Files are listed in turn, so the order is theirs.
    assert_eq!(
        left.into_iter().collect::<BTreeSet<_>>(),
        stays.into_iter().collect::<BTreeSet<_>>()
    );
    assert!(matches!(put(store, 0, "a", "again"), Outcome::Written(_)));
}

/// All leaves of a partition, some at a time.
fn derive(store: &impl Subject, partition: u32, limit: usize) -> Vec<Leaf> {
    let mut all: Vec<Leaf> = Vec::new();
    loop {
        let request = StoreRequest::Derive {
            partition: Partition(partition),
            after: all.last().map(|leaf| leaf.key.clone()),
            limit,
        };
        let Ok(StoreReply::Leaves { leaves, done }) = ask(store, request) else {
            panic!("no leaves");
        };
        assert!(leaves.len() <= limit);
        assert!(done || !leaves.is_empty());
        all.extend(leaves);
        if done {
            return all;
        }
    }
}

pub fn leaves_are_derived_in_chunks(store: &impl Subject) {
    assert_eq!(derive(store, 0, 3), []);
    for number in 0..10 {
        put(store, 0, &format!("item {number}"), "x");
    }
    put(store, 1, "elsewhere", "x");
    // A deletion beside a value is none; two that are siblings tell the newer.
    let seen = read(store, 0, "item 1").expect("reads").expect("is there");
    let informed = deletion(seen.set.context().clone(), 1);
    ask(store, update(0, "item 1", informed, vec![])).expect("writes");
    ask(
        store,
        update(0, "item 1", deletion(Context::new(), 1), vec![]),
    )
    .expect("writes");
    ask(
        store,
        update(0, "item 2", deletion(Context::new(), 1), vec![]),
    )
    .expect("writes");
    store.damage(Partition(0), &key("item 3"));
    let expected: Vec<Leaf> = (0..10)
        .map(|number| {
            let name = format!("item {number}");
            let row = read(store, 0, &name).ok().flatten();
            let newest_us = row.as_ref().map(|row| row.set.newest_us());
            Leaf {
                key: key(&name),
                hash: row.map(|row| row.set.hash()),
                deleted_us: newest_us.filter(|_| number == 1),
            }
        })
        .collect();
    assert_eq!(expected[3].hash, None);
    let damaged = store.figures().damaged_rows;
    for limit in [1, 3, 10, 11] {
        assert_eq!(derive(store, 0, limit), expected, "{limit} at a time");
    }
    assert_eq!(store.figures().damaged_rows, damaged + 4);
    assert_eq!(derive(store, 1, 9).len(), 1);
}

pub fn leaves_are_found_by_bucket(store: &impl Subject) {
    let width = 16;
    let mut expected = Vec::new();
    for number in 0..60 {
        let name = format!("item {number:02}");
        put(store, 0, &name, "x");
        if [2, 11].contains(&merkle::bucket_of(&key(&name), width)) {
            expected.push((key(&name), hash_of(store, 0, &name)));
        }
    }
    assert!(expected.len() > 3, "keys are spread");
    let find = |buckets: &[u32], limit| {
        let request = StoreRequest::Leaves {
            partition: Partition(0),
            buckets: buckets.to_vec(),
            width,
            limit,
        };
        let Ok(StoreReply::Leaves { leaves, done }) = ask(store, request) else {
            panic!("no leaves");
        };
        let leaves = leaves.into_iter();
        let leaves = leaves.map(|leaf| (leaf.key, leaf.hash.expect("it is sound")));
        (leaves.collect::<Vec<_>>(), done)
    };
    assert_eq!(find(&[11, 2], 60), (expected.clone(), true));
    assert_eq!(find(&[11, 2, 2], expected.len()), (expected.clone(), true));
    assert_eq!(find(&[2, 11], 2), (expected[..2].to_vec(), false));
    assert_eq!(find(&[], 60), (vec![], true));
    assert_eq!(find(&[16, u32::MAX], 60), (vec![], true), "there is none");
    let of_no_width = StoreRequest::Leaves {
        partition: Partition(0),
        buckets: vec![0],
        width: 0,
        limit: 60,
    };
    let (leaves, done) = (vec![], true);
    let none = Ok(StoreReply::Leaves { leaves, done });
    assert_eq!(ask(store, of_no_width), none);
    store.damage(Partition(0), &expected[0].0);
    assert_eq!(find(&[2, 11], 60), (expected[1..].to_vec(), true));
}

fn rows_in(reply: Result<StoreReply, StoreError>) -> (Vec<ItemKey>, bool) {
    match reply {
        Ok(StoreReply::Rows { rows, done }) => {
            assert!(rows.iter().all(|(_, set)| !set.is_empty()));
            (rows.into_iter().map(|(key, _)| key).collect(), done)
        }
        other => panic!("not rows: {other:?}"),
    }
}

fn scan(
    store: &impl Subject,
    after: Option<&str>,
    limit: usize,
    max_bytes: usize,
) -> (Vec<ItemKey>, bool) {
    rows_in(ask(
        store,
        StoreRequest::Scan {
            partition: Partition(0),
            after: after.map(key),
            limit,
            max_bytes,
        },
    ))
}

fn read_many(store: &impl Subject, names: &[&str], max_bytes: usize) -> (Vec<ItemKey>, bool) {
    rows_in(ask(
        store,
        StoreRequest::ReadMany {
            partition: Partition(0),
            keys: names.iter().map(|name| key(name)).collect(),
            max_bytes,
        },
    ))
}

fn keys(names: &[&str]) -> Vec<ItemKey> {
    names.iter().map(|name| key(name)).collect()
}

pub fn rows_are_read_until_there_is_enough(store: &impl Subject) {
    for name in ["a", "b", "c", "d"] {
        put(store, 0, name, "0123456789");
    }
    put(store, 1, "elsewhere", "x");
    let all = keys(&["a", "b", "c", "d"]);
    assert_eq!(scan(store, None, 9, 999), (all.clone(), true));
    assert_eq!(scan(store, None, 4, 40), (all.clone(), true));
    assert_eq!(scan(store, None, 3, 999), (keys(&["a", "b", "c"]), false));
    assert_eq!(scan(store, None, 9, 11), (keys(&["a", "b"]), false));
    assert_eq!(scan(store, Some("a"), 9, 1), (keys(&["b"]), false));
    assert_eq!(scan(store, Some("bb"), 9, 999), (keys(&["c", "d"]), true));
    assert_eq!(scan(store, Some("d"), 9, 999), (vec![], true));
    let some = ["d", "x", "a", "c"];
    assert_eq!(read_many(store, &some, 999), (keys(&["d", "a", "c"]), true));
    assert_eq!(read_many(store, &some, 20), (keys(&["d", "a", "c"]), true));
    assert_eq!(read_many(store, &some, 19), (keys(&["d", "a"]), false));
    assert_eq!(read_many(store, &some, 0), (keys(&["d"]), false));
    assert_eq!(read_many(store, &[], 0), (vec![], true));
}

pub fn damaged_rows_are_passed_over(store: &impl Subject) {
    for name in ["a", "b", "c", "d"] {
        put(store, 0, name, "0123456789");
    }
    for name in ["a", "c"] {
        store.damage(Partition(0), &key(name));
    }
    let damaged = store.figures().damaged_rows;
    assert_eq!(scan(store, None, 9, 999), (keys(&["b", "d"]), true));
    assert_eq!(store.figures().damaged_rows, damaged + 2);
    assert_eq!(scan(store, None, 1, 999), (keys(&["b"]), false));
    assert_eq!(scan(store, Some("b"), 1, 999), (keys(&["d"]), true));
    assert_eq!(read_many(store, &["a", "b"], 999), (keys(&["b"]), true));
    for name in ["b", "d"] {
        store.damage(Partition(0), &key(name));
    }
    assert_eq!(scan(store, None, 1, 1), (vec![], true), "it ends");
    assert_eq!(read_many(store, &["a", "d"], 0), (vec![], true));
    let leaves = derive(store, 0, 1);
    assert_eq!(leaves.len(), 4);
    assert!(leaves.iter().all(|leaf| leaf.hash.is_none()));
}
