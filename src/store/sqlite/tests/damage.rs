//! Damage to SQLite's own pages and files: noticed, marked, and at the next start
//! set aside, with nothing else lost and no dot minted twice.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;

use super::*;
use crate::protocol::effect::Leaf;

/// How many items each partition holds. Partition 0 lies in file 0, 1 in file 1.
const ITEMS: u32 = 200;

fn name(number: u32) -> String {
    format!("item {number:03}0")
}

/// A store of two files with some items and a record, closed.
fn filled() -> TempDir {
    let dir = dir();
    let store = open(&dir, 2);
    let (send, receive) = mpsc::channel();
    for number in 0..2 * ITEMS {
        let send = send.clone();
        let value = format!("{number}").repeat(200);
        store.submit(
            update(number % 2, &name(number / 2), write(&value, 1), vec![]),
            Box::new(move |reply| send.send(reply.is_ok()).expect("the test waits")),
        );
    }
    drop(send);
    assert!(receive.iter().all(|done| done));
    let record = StoreRequest::PutMeta {
        name: "record",
        bytes: Bytes::from_static(b"of the node"),
    };
    ask(&*store, record).expect("keeps");
    // Any change has the rows before it filed.
    for partition in 0..2 {
        let change = StoreRequest::ForgetDamaged {
            partition: Partition(partition),
            keys: vec![],
        };
        ask(&*store, change).expect("changes nothing");
    }
    store.close();
    dir
}

/// Opens again, with the incarnation 8 if a fresh one is wanted.
fn reopen(dir: &TempDir) -> Arc<SqliteStore> {
    SqliteStore::open(options(dir.path(), 2, 8)).expect("opens")
}

fn path(dir: &TempDir, file: u32) -> PathBuf {
    file::path(dir.path(), file)
}

fn is_marked(dir: &TempDir, file: u32) -> bool {
    file::mark_path(dir.path(), file).exists()
}

/// The names of what was set aside.
fn aside(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.contains(".damaged-"))
        .collect();
    names.sort();
    names
}

/// Changes the bytes of a file that nobody has open.
fn spoil(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("reads");
    change(&mut bytes);
    fs::write(path, bytes).expect("writes");
}

/// How many items of a partition are read, and how many cannot be.
fn count(store: &SqliteStore, partition: u32) -> (u32, u32) {
    let mut counts = (0, 0);
    for number in 0..ITEMS {
        match read(store, partition, &name(number)) {
            Ok(row) => counts.0 += u32::from(row.is_some()),
            Err(StoreError::Corrupt(_)) => counts.1 += 1,
            Err(other) => panic!("{other}"),
        }
    }
    counts
}

fn derive(store: &SqliteStore, partition: u32) -> Result<Vec<Leaf>, StoreError> {
    let request = StoreRequest::Derive {
        partition: Partition(partition),
        after: None,
        limit: usize::MAX,
    };
    ask(store, request).map(|reply| match reply {
        StoreReply::Leaves { leaves, done: true } => leaves,
        other => panic!("not all leaves: {other:?}"),
    })
}

/// File 1 is empty and the rest as it was.
fn assert_replaced(dir: &TempDir, store: &SqliteStore) {
    assert!(store.was_replaced());
    assert_eq!(store.incarnation(), 8);
    assert_eq!(count(store, 0), (ITEMS, 0));
    assert_eq!(count(store, 1), (0, 0));
    assert_eq!(store.meta("record"), Ok(Some(b"of the node".to_vec())));
    assert!(!is_marked(dir, 1));
    put(store, 1, "new", "x");
    assert_eq!(values(store, 1, "new"), ["x"]);
}

#[test]
fn pages_that_rot_are_noticed_and_the_file_is_set_aside_at_the_next_start() {
    let dir = filled();
    spoil(&path(&dir, 1), |bytes| {
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 5 * 4096].fill(0xa5);
    });
    let store = reopen(&dir);
    assert!(!store.was_replaced() && !is_marked(&dir, 1));
    let (read, corrupt) = count(&store, 1);
    assert!(read > 100 && corrupt > 5, "{read} and {corrupt}");
    assert!(is_marked(&dir, 1) && !is_marked(&dir, 0));
    // Some rows are lost, and the walk goes on.
    let leaves = derive(&store, 1).expect("the index is sound");
    assert_eq!(leaves.len() as u32, ITEMS);
    let lost = leaves.iter().filter(|leaf| leaf.hash.is_none()).count();
    assert_eq!(lost as u32, corrupt);
    let scan = StoreRequest::Scan {
        partition: Partition(1),
        after: None,
        limit: usize::MAX,
        max_bytes: usize::MAX,
    };
    let Ok(StoreReply::Rows { rows, done: true }) = ask(&*store, scan) else {
        panic!("no rows");
    };
    assert_eq!(rows.len() as u32, read);
    assert_eq!(count(&store, 0), (ITEMS, 0));
    store.close();
    drop(store);
    let store = reopen(&dir);
    assert_replaced(&dir, &store);
    assert_eq!(aside(&dir), ["items-01.db.damaged-0000000000000008"]);
    // It is not forgotten until the peers have filled it.
    store.close();
    drop(store);
    let store = SqliteStore::open(options(dir.path(), 2, 9)).expect("opens");
    assert!(store.was_replaced());
    assert_eq!(store.incarnation(), 8);
    store.refilled().expect("notes it");
    assert!(!store.was_replaced());
    store.close();
    drop(store);
    assert!(!reopen(&dir).was_replaced());
}

#[test]
fn a_file_that_is_no_database_is_set_aside() {
    let spoilers: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.clear(),
        |bytes| bytes[..100].fill(0),
        |bytes| bytes[..4096].fill(0x5a),
        |bytes| bytes.truncate(700),
    ];
    for (spoiler, number) in spoilers.into_iter().zip(1..) {
        let dir = filled();
        spoil(&path(&dir, 1), spoiler);
        let before = fs::read(path(&dir, 1)).expect("reads");
        let store = reopen(&dir);
        assert_replaced(&dir, &store);
        let names = aside(&dir);
        assert_eq!(names, ["items-01.db.damaged-0000000000000008"], "{number}");
        let kept = fs::read(dir.path().join(&names[0])).expect("reads");
        assert_eq!(kept, before);
    }
}

#[test]
fn without_its_first_file_a_store_keeps_the_others() {
    let spoilers: [fn(&mut Vec<u8>); 2] = [|bytes| bytes.clear(), |bytes| bytes[..100].fill(0)];
    for spoiler in spoilers {
        let dir = filled();
        spoil(&path(&dir, 0), spoiler);
        let store = SqliteStore::open(Options::new(dir.path(), 8)).expect("opens");
        assert!(store.was_replaced());
        assert_eq!(store.incarnation(), 8);
        assert_eq!(
            store.meta("record"),
            Ok(None),
            "the node's records are gone"
        );
        assert_eq!(count(&store, 0), (0, 0));
        assert_eq!(count(&store, 1), (ITEMS, 0));
        put(&*store, 0, "new", "x");
        store.close();
        drop(store);
        let store = SqliteStore::open(Options::new(dir.path(), 9)).expect("opens");
        assert!(store.was_replaced());
        assert_eq!(store.incarnation(), 8);
        assert_eq!(values(&*store, 0, "new"), ["x"]);
        assert_eq!(count(&store, 1), (ITEMS, 0));
    }
}

#[test]
fn a_store_that_lost_every_file_begins_anew() {
    let dir = filled();
    for file in 0..2 {
        spoil(&path(&dir, file), |bytes| bytes[..100].fill(0));
    }
    let store = SqliteStore::open(Options::new(dir.path(), 8)).expect("opens");
    assert!(store.was_replaced());
    assert_eq!(aside(&dir).len(), 2);
    for partition in 0..2 {
        assert_eq!(count(&store, partition), (0, 0));
        put(&*store, partition, "new", "x");
    }
    store.close();
    drop(store);
    let store = reopen(&dir);
    assert_eq!(values(&*store, 1, "new"), ["x"]);
}

/// What a crash leaves of a store that had written after it was opened.
fn crashed() -> TempDir {
    let dir = filled();
    let store = open(&dir, 2);
    for number in 0..20 {
        put(&*store, 1, &format!("late {number}"), "x");
    }
    copy(&dir)
}

#[test]
fn a_log_that_lost_commits_renews_the_incarnation() {
    let log = |dir: &TempDir| dir.path().join("items-01.db-wal");
    let sound = crashed();
    let store = reopen(&sound);
    assert!(!store.was_replaced());
    assert_eq!(store.incarnation(), 7);
    assert_eq!(values(&*store, 1, "late 19"), ["x"]);
    type Spoiler = fn(&mut Vec<u8>);
    let spoilers: [(u32, Spoiler); 3] = [
        (0, |bytes| bytes.fill(0x3c)),
        (0, |bytes| bytes[17] ^= 1),
        (10, |bytes| {
            // Amid the tenth of twenty commits, each of which is of a few frames. Room
            // that no commit has used yet follows them.
            let room = bytes.iter().rev().take_while(|byte| **byte == 0).count();
            let middle = (bytes.len() - room) / 2;
            bytes[middle] ^= 1;
        }),
    ];
    for (most, spoiler) in spoilers {
        let dir = crashed();
        spoil(&log(&dir), spoiler);
        let store = reopen(&dir);
        assert!(store.was_replaced());
        assert_eq!(store.incarnation(), 8);
        // What was there before is sound; of what came since a part is lost.
        assert_eq!(count(&store, 1), (ITEMS, 0));
        let late =
            (0..20).filter(|number| !values(&*store, 1, &format!("late {number}")).is_empty());
        assert!(late.count() as u32 <= most);
        assert_eq!(aside(&dir), ["items-01.db-wal.damaged-0000000000000008"]);
    }
}

/// Flips a bit of an item's key in the index, in a file that nobody has open.
fn rot_in_index(path: &Path, item: &str, at: usize) {
    spoil(path, |bytes| {
        // Also where a leaf of the index was copied from when it was split.
        let mut hits = 0;
        for page in bytes.chunks_exact_mut(4096).filter(|page| page[0] == 0x0a) {
            let name = item.as_bytes();
            let found = page.windows(name.len()).position(|window| window == name);
            if let Some(found) = found {
                page[found + at] ^= 1;
                hits += 1;
            }
        }
        assert!(hits > 0, "it is in a leaf of the index");
    });
}

#[test]
fn an_index_that_rots_is_noticed_when_leaves_are_derived() {
    // At the end of a key the order stays; at its beginning it does not.
    for (at, in_order) in [(8, true), (0, false)] {
        let dir = filled();
        let rotten = name(77);
        rot_in_index(&path(&dir, 1), &rotten, at);
        let store = reopen(&dir);
        assert_eq!(read(&*store, 1, &rotten), Ok(None), "looked for in vain");
        assert!(!is_marked(&dir, 1));
        let leaves = derive(&store, 1).expect("derives");
        assert!(leaves.iter().all(|leaf| leaf.key != key(&rotten)));
        let strange = leaves.iter().filter(|leaf| leaf.hash.is_none()).count();
        assert_eq!(strange, usize::from(in_order));
        assert!(leaves.len() as u32 >= ITEMS - 1);
        assert!(is_marked(&dir, 1));
        store.close();
        drop(store);
        assert_replaced(&dir, &reopen(&dir));
    }
}

#[test]
fn a_mark_without_damage_is_taken_away() {
    let dir = filled();
    repair::mark(dir.path(), 1).expect("marks");
    let store = reopen(&dir);
    assert!(!store.was_replaced() && !is_marked(&dir, 1));
    assert_eq!(store.incarnation(), 7);
    assert_eq!(count(&store, 1), (ITEMS, 0));
}

#[test]
fn what_was_cut_short_goes_on_at_the_next_start() {
    for file in 0..2 {
        // Set aside, and the process ended.
        let dir = filled();
        repair::mark(dir.path(), file).expect("marks");
        repair::set_aside(dir.path(), file, 5, "for the test").expect("sets aside");
        let store = reopen(&dir);
        assert!(store.was_replaced() && !is_marked(&dir, file));
        assert_eq!(store.incarnation(), 8);
        assert_eq!(count(&store, file), (0, 0));
        assert_eq!(count(&store, 1 - file), (ITEMS, 0));
    }
}

#[test]
fn a_fresh_incarnation_is_taken_before_anything_is_set_aside() {
    let dir = filled();
    spoil(&path(&dir, 1), |bytes| bytes[..100].fill(0));
    // Where it was to go there is something that cannot be overwritten.
    let in_the_way = dir.path().join("items-01.db.damaged-0000000000000008");
    fs::create_dir(&in_the_way).expect("makes");
    let refused = SqliteStore::open(options(dir.path(), 2, 8)).err();
    assert!(matches!(refused, Some(OpenError::Io { .. })), "{refused:?}");
    let number = |name| file::number(&tool(&dir, 0), name).expect("reads");
    assert_eq!(number("incarnation"), Some(8));
    assert_eq!(number("replaced"), Some(1));
    assert!(path(&dir, 1).exists() && is_marked(&dir, 1));
    let store = SqliteStore::open(options(dir.path(), 2, 9)).expect("opens");
    assert!(store.was_replaced());
    assert_eq!(store.incarnation(), 9);
    assert_eq!(count(&store, 1), (0, 0));
}

#[test]
fn a_file_that_cannot_be_used_is_no_damaged_one() {
    let dir = filled();
    let there = path(&dir, 1);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&there, &elsewhere).expect("moves");
    repair::mark(dir.path(), 1).expect("marks");
    fs::create_dir(&there).expect("makes");
    let refused = SqliteStore::open(options(dir.path(), 2, 8)).err();
    let text = refused.expect("no file is there").to_string();
    assert!(text.contains("see to the disk"), "{text}");
    assert_eq!(aside(&dir), Vec::<String>::new());
    fs::remove_dir(&there).expect("removes");
    fs::rename(&elsewhere, &there).expect("moves back");
    let store = reopen(&dir);
    assert!(!store.was_replaced());
    assert_eq!(count(&store, 1), (ITEMS, 0));
}
