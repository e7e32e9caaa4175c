//! What only the SQLite store promises: damage, full disks, bounds, ends clean
//! and unclean, and that an answer means a commit.

use std::path::Path;
use std::sync::mpsc;

use rusqlite::Connection;
use tempfile::TempDir;

use super::files::{log, repair};
use super::*;
use crate::protocol::id::NodeId;
use crate::protocol::replica::Outcome;
use crate::store::suite::{ask, hints, key, put, read, update, values, write};

mod damage;
mod filing;
mod log_writes;
mod places;

fn dir() -> TempDir {
    TempDir::new().expect("a directory")
}

fn options(dir: &Path, files: u32, fresh_incarnation: u64) -> Options {
    Options {
        files: Some(files),
        // So few that nearly every change files some.
        max_unfiled_rows: 3,
        ..Options::new(dir, fresh_incarnation)
    }
}

fn open(dir: &TempDir, files: u32) -> Arc<SqliteStore> {
    SqliteStore::open(options(dir.path(), files, 7)).expect("opens")
}

/// A second connection to a file of the store, as an operator's tool has it.
fn tool(dir: &TempDir, file: u32) -> Connection {
    tool_at(dir.path(), file)
}

fn tool_at(dir: &Path, file: u32) -> Connection {
    let tool = Connection::open(file::path(dir, file)).expect("opens");
    // However slow the machine: a test waits for the lock rather than fail.
    let patience = std::time::Duration::from_secs(300);
    tool.busy_timeout(patience).expect("sets");
    tool
}

impl SqliteStore {
    /// Flips one bit in the middle of a stored row.
    pub fn flip_a_bit(&self, partition: Partition, key: &ItemKey) {
        let file = file_of(partition, self.changes.len());
        let tool = tool_at(&self.data_dir, file);
        let item = (partition.0, key.as_bytes());
        let select = "SELECT row FROM items WHERE partition = ?1 AND key = ?2";
        let mut bytes: Vec<u8> = tool
            .query_row(select, item, |row| row.get(0))
            .expect("the row is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let update = "UPDATE items SET row = ?3 WHERE partition = ?1 AND key = ?2";
        let changed = tool.execute(update, (item.0, item.1, bytes));
        assert_eq!(changed, Ok(1));
        // Rot shows where the disk is read, not where memory tells.
        self.shared.states.set(partition, key, None);
        self.here.ebb(file);
        self.here.flow(file);
    }
}

/// Submits and does not wait.
fn begin(
    store: &SqliteStore,
    request: StoreRequest,
) -> mpsc::Receiver<Result<StoreReply, StoreError>> {
    let (send, receive) = mpsc::channel();
    let done = move |reply| send.send(reply).expect("the test waits");
    store.submit(request, Box::new(done));
    receive
}

/// Holds the file's write lock, so that its writer gets no further.
fn hold(dir: &TempDir) -> Connection {
    let tool = tool(dir, 0);
    tool.execute_batch("BEGIN IMMEDIATE").expect("locks");
    tool
}

/// Waits until the writer has taken all that was submitted, and so is stuck with
/// it in a file that is held.
fn until_taken(store: &SqliteStore) {
    while store.figures().write_queue_depth > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_damaged_row_is_never_absent_and_harms_no_other() {
    let dir = dir();
    let store = open(&dir, 1);
    put(&*store, 0, "a", "one");
    put(&*store, 0, "b", "two");
    store.flip_a_bit(Partition(0), &key("a"));
    assert!(matches!(read(&*store, 0, "a"), Err(StoreError::Corrupt(_))));
    assert_eq!(values(&*store, 0, "b"), ["two"]);
    assert!(matches!(
        store.scan(Partition(0)),
        Err(StoreError::Corrupt(_))
    ));
    // In one batch with it, others are written and it is not.
    let held = hold(&dir);
    let first = begin(&store, update(0, "c", write("three", 1), vec![]));
    until_taken(&store);
    let damaged = begin(&store, update(0, "a", write("x", 1), vec![NodeId(2)]));
    let sound = begin(&store, update(0, "b", write("four", 1), vec![]));
    drop(held);
    assert!(first.recv().expect("answered").is_ok());
    let refused = damaged.recv().expect("answered");
    assert!(matches!(refused, Err(StoreError::Corrupt(_))));
    assert!(sound.recv().expect("answered").is_ok());
    assert_eq!(values(&*store, 0, "b"), ["four", "two"]);
    assert_eq!(hints(&*store, NodeId(2), 9), []);
    assert!(store.figures().damaged_rows >= 2);
}

#[test]
fn a_change_that_sqlite_cannot_make_fails_alone() {
    let dir = dir();
    let store = open(&dir, 1);
    // What a damaged page does to those who need it, had at will; it leaves the
    // transaction open and half done.
    let name = key("bad");
    let name = name.as_bytes().iter().map(|byte| format!("{byte:02x}"));
    let spoil = format!(
        "CREATE TRIGGER spoil AFTER INSERT ON items WHEN NEW.key = x'{}'
         BEGIN SELECT RAISE(FAIL, 'spoiled'); END",
        name.collect::<String>()
    );
    tool(&dir, 0).execute_batch(&spoil).expect("spoils");
    let held = hold(&dir);
    let first = begin(&store, update(0, "a", write("1", 1), vec![]));
    until_taken(&store);
    let target = NodeId(2);
    let before = begin(&store, update(0, "a", write("2", 1), vec![]));
    let bad = begin(&store, update(0, "bad", write("x", 1), vec![target]));
    let after = begin(&store, update(0, "b", write("3", 1), vec![target]));
    drop(held);
    for good in [first, before, after] {
        assert!(good.recv().expect("answered").is_ok());
    }
    let refused = bad.recv().expect("answered");
    assert!(matches!(refused, Err(StoreError::Io(_))), "{refused:?}");
    assert_eq!(values(&*store, 0, "a"), ["1", "2"]);
    assert_eq!(values(&*store, 0, "b"), ["3"]);
    assert_eq!(read(&*store, 0, "bad"), Ok(None));
    assert_eq!(hints(&*store, target, 9).len(), 1, "only that of b");
    assert_eq!(store.figures().commits, 3);
}

#[test]
fn hints_come_from_all_files_in_turn() {
    let dir = dir();
    let store = open(&dir, 3);
    let target = NodeId(2);
    for number in 0..12u32 {
        // Three quarters of them lie in file 0.
        let partition = if number.is_multiple_of(4) {
            number / 4 % 3
        } else {
            0
        };
        let name = format!("item {number}");
        ask(
            &*store,
            update(partition, &name, write("x", 1), vec![target]),
        )
        .expect("writes");
    }
    let listed = hints(&*store, target, 6);
    assert_eq!(listed.len(), 6);
    let files: std::collections::BTreeSet<u32> = listed.iter().map(|hint| hint.id.file).collect();
    assert_eq!(files.len(), 3, "no file waits for another");
    let all = hints(&*store, target, 99);
    assert_eq!(all.len(), 12);
    let mut drops = vec![Vec::new(); 3];
    for hint in all {
        let row = hint.row.expect("the row is there");
        let file = &mut drops[hint.id.file as usize];
        file.push((hint.id, hint.partition, hint.key, Some(row.set.hash())));
    }
    // What is done in several files could not be told in each one's turn.
    let mixed = drops.concat();
    let refused = ask(&*store, StoreRequest::DropHints { hints: mixed });
    assert!(matches!(refused, Err(StoreError::Io(_))), "{refused:?}");
    assert_eq!(hints(&*store, target, 99).len(), 12);
    for hints in drops {
        let count = hints.len();
        let dropped = ask(&*store, StoreRequest::DropHints { hints });
        assert!(matches!(dropped, Ok(StoreReply::Dropped(gone)) if gone.len() == count));
    }
    assert_eq!(hints(&*store, target, 99), []);
    for partition in 0..3 {
        assert_eq!(store.scan(Partition(partition)), Ok(vec![]));
    }
}

#[test]
fn a_full_queue_answers_at_once() {
    let dir = dir();
    let store = SqliteStore::open(Options {
        max_queued_changes: 2,
        ..options(dir.path(), 1, 7)
    })
    .expect("opens");
    let held = hold(&dir);
    let first = begin(&store, update(0, "a", write("1", 1), vec![]));
    until_taken(&store);
    let second = begin(&store, update(0, "a", write("2", 1), vec![]));
    let third = begin(&store, update(0, "a", write("3", 1), vec![]));
    let fourth = ask(&*store, update(0, "a", write("4", 1), vec![]));
    assert_eq!(fourth, Err(StoreError::Overloaded));
    assert_eq!(store.figures().write_queue_depth, 2);
    assert_eq!(read(&*store, 0, "a"), Ok(None), "reads go on");
    drop(held);
    for waiting in [first, second, third] {
        assert!(waiting.recv().expect("answered").is_ok());
    }
    assert_eq!(values(&*store, 0, "a"), ["1", "2", "3"]);
    let figures = store.figures();
    assert_eq!((figures.commits, figures.changes), (2, 3));
    assert_eq!(
        figures.batch_sizes[..3],
        [1, 1, 0],
        "one alone, two together"
    );
}

#[test]
fn a_full_disk_refuses_changes_and_serves_reads() {
    let dir = dir();
    let store = SqliteStore::open(Options {
        max_file_bytes: Some(256 * 1024),
        ..options(dir.path(), 1, 7)
    })
    .expect("opens");
    let value = "x".repeat(8 * 1024);
    let refused = (0..100).find_map(|number| {
        let name = format!("item {number}");
        let reply = ask(&*store, update(0, &name, write(&value, 1), vec![NodeId(2)]));
        reply.err().map(|error| (name, error))
    });
    let (name, error) = refused.expect("100 items of 8 KiB do not fit 256 KiB");
    assert_eq!(error, StoreError::Full);
    assert_eq!(read(&*store, 0, &name), Ok(None));
    assert_eq!(values(&*store, 0, "item 0").len(), 1);
    // What was refused left nothing, and making room helps.
    let listed = hints(&*store, NodeId(2), 999);
    assert!(listed.iter().all(|hint| hint.row.is_some()));
    let all = listed
        .into_iter()
        .map(|hint| {
            let row = hint.row.expect("was asserted");
            (hint.id, hint.partition, hint.key, Some(row.set.hash()))
        })
        .collect();
    let dropped = ask(&*store, StoreRequest::DropHints { hints: all });
    assert!(matches!(dropped, Ok(StoreReply::Dropped(_))));
    assert!(matches!(
        put(&*store, 0, &name, &value),
        Outcome::Written(_)
    ));
}

#[test]
fn a_store_that_was_closed_keeps_everything() {
    let dir = dir();
    let store = open(&dir, 3);
    for number in 0..20u32 {
        put(&*store, number, &format!("item {number}"), "one");
    }
    ask(&*store, update(0, "hinted", write("x", 1), vec![NodeId(2)])).expect("writes");
    store.renew_incarnation(11).expect("renews");
    store.close();
    assert!(
        !dir.path().join("items-00.db-wal").exists() || {
            let log = std::fs::metadata(dir.path().join("items-00.db-wal"));
            log.expect("is there").len() == 0
        }
    );
    // Another number of files than it was made with, or none, changes nothing.
    for files in [Some(1), None] {
        let store = SqliteStore::open(Options {
            files,
            ..Options::new(dir.path(), 99)
        })
        .expect("opens");
        assert_eq!(store.incarnation(), 11);
        for number in 0..20u32 {
            let name = format!("item {number}");
            assert_eq!(values(&*store, number, &name), ["one"]);
        }
        assert_eq!(hints(&*store, NodeId(2), 9).len(), 1);
        store.close();
    }
}

#[test]
fn an_unclean_end_renews_the_incarnation_where_commits_may_be_lost() {
    let reopened = |first: Durability, clean: bool, second: Durability| {
        let dir = dir();
        let with = |durability, fresh| Options {
            durability,
            ..options(dir.path(), 2, fresh)
        };
        let store = SqliteStore::open(with(first, 7)).expect("opens");
        put(&*store, 1, "a", "one");
        if clean {
            store.close();
        }
        drop(store);
        let store = SqliteStore::open(with(second, 8)).expect("opens");
        assert_eq!(values(&*store, 1, "a"), ["one"]);
        store.incarnation()
    };
    use Durability::{Commit, Os};
    assert_eq!(reopened(Commit, true, Commit), 7);
    assert_eq!(reopened(Commit, false, Commit), 7);
    assert_eq!(reopened(Commit, false, Os), 7);
    assert_eq!(reopened(Os, true, Os), 7);
    assert_eq!(reopened(Os, false, Os), 8);
    assert_eq!(reopened(Os, false, Commit), 8);
}

/// Copies the files as a crash would leave them, log included.
fn copy(from: &TempDir) -> TempDir {
    let to = dir();
    for entry in std::fs::read_dir(from.path()).expect("lists") {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        if name.to_string_lossy().ends_with("-shm") {
            continue;
        }
        std::fs::copy(entry.path(), to.path().join(name)).expect("copies");
    }
    to
}

#[test]
fn what_was_answered_is_in_the_files() {
    let dir = dir();
    let store = open(&dir, 2);
    // Enough rows that the log was moved into the database now and then.
    let value = "x".repeat(128 * 1024);
    let (send, receive) = mpsc::channel();
    let writer = {
        let store = store.clone();
        let value = value.clone();
        std::thread::spawn(move || {
            for number in 0..600u32 {
                put(&*store, number % 4, &format!("item {number}"), &value);
                if send.send(number).is_err() {
                    break;
                }
            }
        })
    };
    let mut answered = 0;
    for at in [50, 450, 560] {
        while answered < at {
            answered = receive.recv().expect("writes go on");
        }
        // Nothing is committed while the copy is made, nor the log begun anew: a
        // copy of files that change is torn as no crash would tear them. Pages
        // may still be moved from the log, which holds them until it begins anew.
        let held = [tool(&dir, 0), tool(&dir, 1)];
        for tool in &held {
            tool.execute_batch("BEGIN IMMEDIATE").expect("locks");
        }
        answered = receive.try_iter().last().unwrap_or(answered);
        let copied = copy(&dir);
        drop(held);
        let crashed = SqliteStore::open(options(copied.path(), 2, 8)).expect("opens");
        assert_eq!(crashed.incarnation(), 7);
        for number in 0..=answered {
            let name = format!("item {number}");
            assert_eq!(values(&*crashed, number % 4, &name).len(), 1, "{name}");
        }
    }
    let moved_bytes = std::fs::metadata(file::path(dir.path(), 0)).expect("is there");
    assert!(moved_bytes.len() > 8 << 20, "the log was never moved");
    drop(receive);
    writer.join().expect("the writer ends");
}

#[test]
fn one_process_at_a_time() {
    let dir = dir();
    let store = open(&dir, 1);
    let second = SqliteStore::open(options(dir.path(), 1, 7));
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    store.close();
    assert!(SqliteStore::open(options(dir.path(), 1, 7)).is_ok());
    // Dropped without a close, it lets go as well.
    assert!(SqliteStore::open(options(dir.path(), 1, 7)).is_ok());
}

#[test]
fn files_that_are_missing_foreign_or_newer_are_named() {
    let refusal = |spoil: &dyn Fn(&TempDir)| {
        let dir = dir();
        let store = open(&dir, 2);
        put(&*store, 1, "a", "one");
        store.close();
        drop(store);
        spoil(&dir);
        SqliteStore::open(options(dir.path(), 2, 8)).err()
    };
    let file = |dir: &TempDir, file| file::path(dir.path(), file);
    for number in 0..2 {
        let missing = refusal(&|dir| {
            std::fs::remove_file(file(dir, number)).expect("removes");
        });
        assert!(matches!(missing, Some(OpenError::Missing { .. })));
        let newer = refusal(&|dir| {
            let tool = tool(dir, number);
            tool.execute_batch("PRAGMA user_version = 3").expect("sets");
        });
        assert!(
            matches!(
                newer,
                Some(OpenError::Newer {
                    found: 3,
                    known: 2,
                    ..
                })
            ),
            "{newer:?}"
        );
    }
    let swapped = refusal(&|dir| {
        let other = dir_with_store();
        std::fs::copy(file(&other, 1), file(dir, 1)).expect("copies");
    });
    assert!(matches!(swapped, Some(OpenError::Foreign { .. })));
    let alien = refusal(&|dir| {
        std::fs::remove_file(file(dir, 1)).expect("removes");
        let tool = tool(dir, 1);
        tool.execute_batch("CREATE TABLE t(a)").expect("makes");
    });
    assert!(matches!(alien, Some(OpenError::NotOurs { .. })));
    let dir = dir();
    let none = SqliteStore::open(options(dir.path(), 0, 7));
    assert!(matches!(none, Err(OpenError::FileCount(0))));
}

fn dir_with_store() -> TempDir {
    let dir = dir();
    let store = SqliteStore::open(options(dir.path(), 2, 1234)).expect("opens");
    store.close();
    dir
}

#[test]
fn a_making_that_was_cut_short_is_done_again() {
    let dir = dir();
    let store = open(&dir, 3);
    store.close();
    drop(store);
    std::fs::remove_file(file::path(dir.path(), 2)).expect("removes");
    file::set_number(&tool(&dir, 0), "state", 0).expect("sets");
    let store = open(&dir, 3);
    put(&*store, 2, "a", "one");
    assert_eq!(values(&*store, 2, "a"), ["one"]);
}

#[test]
fn a_commit_that_fails_breaks_the_file_off_and_is_told() {
    let dir = dir();
    let (told, hears) = mpsc::channel();
    let store = SqliteStore::open(Options {
        on_failed_commit: Some(Arc::new(move |error| {
            told.send(error.clone()).expect("the test waits");
        })),
        ..options(dir.path(), 1, 7)
    })
    .expect("opens");
    put(&*store, 0, "a", "one");
    // A writer whose COMMIT fails: a deferred foreign key is checked there.
    let (send, receive) = mpsc::channel();
    let connection = Connection::open_in_memory().expect("opens");
    file::create(&connection, &[]).expect("makes");
    connection
        .execute_batch(
            "PRAGMA foreign_keys = ON;
             CREATE TABLE p(id INTEGER PRIMARY KEY);
             CREATE TABLE c(id REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER t AFTER INSERT ON items BEGIN INSERT INTO c VALUES(1); END;",
        )
        .expect("spoils");
    let queue = Arc::new(Queue::new(9, usize::MAX));
    for name in ["b", "c"] {
        let send = send.clone();
        let change = Change::Update {
            partition: Partition(0),
            key: key(name),
            mutation: write("x", 1),
            hints: vec![],
        };
        let done = move |reply| send.send(reply).expect("the test waits");
        let answer = Answer(Some(Box::new(done)));
        let work = Work::Change(change);
        assert!(queue.push(Job { work, answer }, 0).is_ok());
    }
    queue.close();
    let opened = Checkpointer::open(dir.path(), 1, Box::new(|_| {}));
    let checkpoints = opened.expect("opens").1.pop();
    let post = Post {
        file: 0,
        durability: Durability::Commit,
        queue,
        next_id: 1,
        shared: store.shared.clone(),
        here: store.here.clone(),
        checkpoints: checkpoints.expect("of the one file"),
    };
    assert!(!Writer::new(post, &connection).run(), "it is not sound");
    assert!(matches!(hears.try_recv(), Ok(StoreError::Io(_))));
    for _ in 0..2 {
        let reply = receive.recv().expect("answered");
        assert!(matches!(reply, Err(StoreError::Io(_))), "{reply:?}");
    }
    assert_eq!(store.figures().commits, 1, "only the store's own");
}

#[test]
fn the_last_reference_may_go_on_the_stores_own_thread() {
    let dir = dir();
    let store = open(&dir, 1);
    let held = hold(&dir);
    let (send, receive) = mpsc::channel();
    let last = store.clone();
    store.submit(
        update(0, "a", write("one", 1), vec![]),
        Box::new(move |reply| {
            drop(last);
            send.send(reply.is_ok()).expect("the test waits");
        }),
    );
    drop(store);
    drop(held);
    assert_eq!(receive.recv(), Ok(true));
}
