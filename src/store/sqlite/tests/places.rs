//! The index, and what it does not know yet: files of the schema before, crashes, readers
//! beside the writer, and an index that rots.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

const ITEMS: usize = 400;

fn name(number: usize) -> String {
    // Scattered, as keys are: filing goes by their order.
    format!("{:04x}", (number * 0x9e37) & 0xffff)
}

fn is_marked(dir: &TempDir) -> bool {
    file::mark_path(dir.path(), 0).exists()
}

fn number_of(dir: &TempDir, sql: &str) -> i64 {
    tool(dir, 0)
        .query_row(sql, [], |row| row.get(0))
        .expect("reads")
}

/// A store of one file with items, some of them unfiled.
fn filled(dir: &TempDir) -> Arc<SqliteStore> {
    let store = open(dir, 1);
    (0..ITEMS).for_each(|number| {
        put(&*store, 0, &name(number), "x");
    });
    let filed = number_of(dir, "SELECT count(*) FROM places");
    assert!((300..400).contains(&filed), "{filed}");
    store
}

fn assert_all(store: &SqliteStore) {
    for number in 0..ITEMS {
        assert_eq!(values(store, 0, &name(number)), ["x"], "{number}");
    }
    assert_eq!(store.scan(Partition(0)).map(|rows| rows.len()), Ok(ITEMS));
}

/// Makes a file what the release before would have made.
fn make_schema_1(dir: &TempDir) {
    let older = "CREATE UNIQUE INDEX items_by_key ON items(partition, key);
                 DROP TABLE places;
                 DELETE FROM store WHERE name = 'filed_below';
                 PRAGMA user_version = 1;";
    tool(dir, 0).execute_batch(older).expect("changes");
}

#[test]
fn a_file_of_schema_1_is_brought_to_this_one() {
    for is_empty in [false, true] {
        let dir = dir();
        let store = if is_empty {
            open(&dir, 1)
        } else {
            filled(&dir)
        };
        store.close();
        drop(store);
        make_schema_1(&dir);
        let store = open(&dir, 1);
        assert_eq!(number_of(&dir, "PRAGMA user_version"), 2);
        if is_empty {
            (0..ITEMS).for_each(|number| {
                put(&*store, 0, &name(number), "x");
            });
        } else {
            let filed = number_of(&dir, "SELECT count(*) FROM places");
            assert_eq!(filed, ITEMS as i64);
        }
        assert_all(&store);
        put(&*store, 0, "new", "y");
        assert_eq!(values(&*store, 0, "new"), ["y"]);
    }
}

#[test]
fn the_disk_has_no_room_for_a_new_index_and_the_file_stays_as_it_was() {
    let dir = dir();
    let store = filled(&dir);
    store.close();
    drop(store);
    make_schema_1(&dir);
    let pages = number_of(&dir, "PRAGMA page_count");
    tool(&dir, 0).execute_batch("VACUUM").expect("packs");
    let packed = number_of(&dir, "PRAGMA page_count");
    assert!(packed < pages);
    let full = Options {
        max_file_bytes: Some(packed as u64 * file::PAGE_BYTES),
        ..options(dir.path(), 1, 8)
    };
    let refused = SqliteStore::open(full).err().expect("no room").to_string();
    assert!(refused.contains("make room, then start again"), "{refused}");
    assert_eq!(number_of(&dir, "PRAGMA user_version"), 1);
    assert_all(&open(&dir, 1));
}

#[test]
fn an_opening_reads_no_more_than_the_newest_rows() {
    let dir = dir();
    let store = filled(&dir);
    store.close();
    drop(store);
    let filed_below = number_of(&dir, "SELECT number FROM store WHERE name = 'filed_below'");
    let unfiled = "SELECT min(id) FROM items i WHERE NOT EXISTS
                   (SELECT 1 FROM places p WHERE p.key = i.key)";
    assert!(filed_below > 1 && filed_below <= number_of(&dir, unfiled));
    let store = open(&dir, 1);
    assert_all(&store);
    // The ids go on where they were, also when the newest rows went.
    let last = number_of(&dir, "SELECT max(id) FROM items");
    put(&*store, 0, "new", "y");
    assert_eq!(number_of(&dir, "SELECT max(id) FROM items"), last + 1);
}

#[test]
fn readers_find_what_was_answered_while_it_is_filed() {
    let dir = dir();
    let store = open(&dir, 1);
    let answered = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (store, answered, over) = (&store, &answered, &over);
            scope.spawn(move || {
                let mut at = reader;
                while !over.load(Ordering::SeqCst) {
                    let there = answered.load(Ordering::SeqCst);
                    if there == 0 {
                        continue;
                    }
                    at = (at + 7) % there;
                    // Mostly the newest, which move.
                    let number = if at % 4 == 0 {
                        at
                    } else {
                        there - 1 - at % 8.min(there)
                    };
                    let name = name(number);
                    let request = StoreRequest::Read {
                        partition: Partition(0),
                        key: key(&name),
                    };
                    let found = match reader {
                        // None while the machine is slow; then the threads read.
                        0 => match store.read_now(&request) {
                            Some(reply) => reply,
                            None => ask(&**store, request),
                        },
                        1 => {
                            // Several share a snapshot.
                            let first = begin(store, request.clone());
                            let second = begin(store, request);
                            assert!(matches!(
                                first.recv().expect("answered"),
                                Ok(StoreReply::Row(Some(_)))
                            ));
                            second.recv().expect("answered")
                        }
                        _ => {
                            let request = StoreRequest::ReadMany {
                                partition: Partition(0),
                                keys: vec![key(&name)],
                                max_bytes: usize::MAX,
                            };
                            match ask(&**store, request).expect("reads") {
                                StoreReply::Rows { rows, .. } => {
                                    assert_eq!(rows.len(), 1, "{number} of {there}");
                                    continue;
                                }
                                other => panic!("{other:?}"),
                            }
                        }
                    };
                    let found = matches!(found, Ok(StoreReply::Row(Some(_))));
                    assert!(found, "{number} of {there}");
                }
            });
        }
        for number in 0..2_000 {
            put(&*store, 0, &name(number), "x");
            answered.store(number + 1, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn once_its_keys_are_known_the_index_is_not_asked_for_new_items() {
    let dir = dir();
    drop(filled(&dir));
    let store = open(&dir, 1);
    // Each asks in vain, and has some of the index read afterwards; the third comes when
    // the second's part was read.
    for new in ["new", "newer", "newest"] {
        put(&*store, 0, new, "y");
    }
    // Whoever asks for a key now fails.
    let tool = tool(&dir, 0);
    tool.execute_batch("ALTER TABLE places RENAME TO gone")
        .expect("changes");
    put(&*store, 0, "after", "y");
    tool.execute_batch("ALTER TABLE gone RENAME TO places")
        .expect("changes");
    for number in 0..ITEMS {
        assert_eq!(values(&*store, 0, &name(number)), ["x"], "{number}");
    }
}

#[test]
fn an_index_that_knows_an_older_row_gives_way_to_the_newer_and_is_checked() {
    let dir = dir();
    let store = open(&dir, 1);
    put(&*store, 0, "b", "newer");
    let older = "INSERT INTO items SELECT 0, partition, key, row FROM items;
                 INSERT INTO places SELECT partition, key, 0 FROM items WHERE id = 0;";
    tool(&dir, 0).execute_batch(older).expect("spoils");
    assert!(!is_marked(&dir));
    for number in 0..9 {
        put(&*store, 0, &format!("a{number}"), "x");
        put(&*store, 0, &format!("c{number}"), "x");
    }
    assert_eq!(values(&*store, 0, "b"), ["newer"]);
    let id = "SELECT p.id FROM places p JOIN items i ON i.id = 1 AND i.key = p.key";
    assert_eq!(number_of(&dir, id), 1);
    assert!(is_marked(&dir));
}

#[test]
fn a_row_that_the_index_lost_is_found_when_the_file_is_checked() {
    let dir = dir();
    let store = filled(&dir);
    store.close();
    drop(store);
    tool(&dir, 0)
        .execute("DELETE FROM places WHERE id = 77", [])
        .expect("spoils");
    assert!(!open(&dir, 1).was_replaced());
    repair::mark(dir.path(), 0).expect("marks");
    assert!(open(&dir, 1).was_replaced());
}

#[test]
fn a_row_that_is_gone_from_the_table_is_damage_and_is_mended() {
    let dir = dir();
    let store = filled(&dir);
    let lost = name(77);
    let id = number_of(&dir, "SELECT id FROM items ORDER BY id LIMIT 1 OFFSET 77");
    tool(&dir, 0)
        .execute("DELETE FROM items WHERE id = ?1", [id])
        .expect("spoils");
    store.here.flow(0);
    assert!(matches!(
        read(&*store, 0, &lost),
        Err(StoreError::Corrupt(_))
    ));
    let refused = ask(&*store, update(0, &lost, write("y", 1), vec![]));
    assert!(
        matches!(refused, Err(StoreError::Corrupt(_))),
        "{refused:?}"
    );
    assert!(is_marked(&dir));
    let mend = crate::protocol::replica::Mutation::Mend {
        set: crate::store::suite::foreign_set(9, "x"),
        max_actors: 20,
    };
    ask(&*store, update(0, &lost, mend, vec![])).expect("mends");
    assert_eq!(values(&*store, 0, &lost).len(), 1);
    assert_eq!(store.scan(Partition(0)).map(|rows| rows.len()), Ok(ITEMS));
}
