//! What a connection wrote in joined writes is what others find, commit by commit; what
//! room there is in a log, and that it is moved.

use std::collections::BTreeSet;

use super::*;

/// Rows of this many bytes make transactions of hundreds of pages.
const BYTES: usize = 10_000;

fn write(connection: &Connection, rows: std::ops::Range<i64>) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO items(id, partition, key, row)
               VALUES(?1, 0, CAST(?1 AS BLOB), ?2)";
    for row in rows {
        let bytes = vec![row as u8; BYTES];
        connection.prepare_cached(sql)?.execute((row, bytes))?;
    }
    Ok(())
}

/// How many rows the connection finds, all of which it looks at.
fn count(connection: &Connection) -> i64 {
    let sql = "SELECT count(row) FROM items";
    let count = connection.query_row(sql, [], |row| row.get(0));
    count.expect("counts")
}

fn length(log: &Path) -> u64 {
    std::fs::metadata(log).expect("is there").len()
}

/// The rows that a connection of its own finds, with no layer of ours between.
fn assert_rows(dir: &TempDir, rows: i64) {
    let tool = tool(dir, 0);
    assert_eq!(count(&tool), rows);
    let mut all = tool.prepare("SELECT id, row FROM items").expect("prepares");
    let mut all = all.query([]).expect("reads");
    while let Some(row) = all.next().expect("reads") {
        let (id, bytes): (i64, Vec<u8>) = (row.get(0).expect("id"), row.get(1).expect("row"));
        assert_eq!(bytes, vec![id as u8; BYTES]);
    }
    let check: String = tool
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("checks");
    assert_eq!(check, "ok");
}

#[test]
fn each_commit_is_in_the_log_whole_when_it_is_shown() {
    let dir = dir();
    let opened = file::open_writer(&file::path(dir.path(), 0), None);
    let (connection, _) = opened.expect("opens");
    file::create(&connection, &[]).expect("makes");
    let log = file::log_path(dir.path(), 0);
    for durability in [Durability::Commit, Durability::Os] {
        file::set_durability(&connection, durability).expect("sets");
        connection
            .execute_batch("DELETE FROM items")
            .expect("deletes");
        let mut there = 0;
        // One row, some, and more than the cache holds and than ever waits.
        for rows in [1, 2, 7, 700, 3] {
            connection.execute_batch("BEGIN IMMEDIATE").expect("begins");
            write(&connection, there..there + rows).expect("writes");
            assert_rows(&dir, there);
            connection.execute_batch("COMMIT").expect("commits");
            there += rows;
            assert_rows(&dir, there);
            assert_eq!(log::damage(&log).expect("reads"), None);
            // What was rolled back never comes up, not even where another connection
            // wrote to the log in its place.
            connection.execute_batch("BEGIN IMMEDIATE").expect("begins");
            let bytes = length(&log);
            write(&connection, there..there + 700).expect("writes");
            assert_eq!(length(&log), bytes, "frames are written at commits only");
            connection.execute_batch("ROLLBACK").expect("rolls back");
            let tool = tool(&dir, 0);
            tool.execute_batch("BEGIN IMMEDIATE").expect("begins");
            write(&tool, there..there + rows).expect("writes");
            tool.execute_batch("COMMIT").expect("commits");
            there += rows;
            assert_eq!(count(&connection), there);
            assert_rows(&dir, there);
            assert_eq!(log::damage(&log).expect("reads"), None);
        }
        file::checkpoint(&connection, durability == Durability::Os).expect("moves");
        assert_rows(&dir, there);
    }
}

#[test]
fn a_log_that_is_synced_has_room_and_ends_where_its_commits_end() {
    const COMMITS: i64 = 200;
    let dir = dir();
    let opened = file::open_writer(&file::path(dir.path(), 0), None);
    let (connection, _) = opened.expect("opens");
    file::create(&connection, &[]).expect("makes");
    let log = file::log_path(dir.path(), 0);
    let mut lengths = BTreeSet::new();
    for row in 0..COMMITS {
        write(&connection, row..row + 1).expect("writes");
        lengths.insert(length(&log));
    }
    // It is doubled at first, and then grows by a mebibyte.
    assert!(lengths.len() < 20, "{lengths:?}");
    let bytes = std::fs::read(&log).expect("reads");
    let room = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    assert!((1..=(1 << 20) + BYTES).contains(&room), "{room} bytes");
    assert_eq!(log::damage(&log).expect("reads"), None);
    // Whoever finds the files after a crash finds every commit.
    let crashed = self::dir();
    for name in ["items-00.db", "items-00.db-wal"] {
        std::fs::copy(dir.path().join(name), crashed.path().join(name)).expect("copies");
    }
    assert_rows(&crashed, COMMITS);
    // Where nothing is synced there is nothing to save.
    file::checkpoint(&connection, true).expect("moves");
    assert_eq!(length(&log), 0, "it is cut all the same");
    file::set_durability(&connection, Durability::Os).expect("sets");
    for row in 0..COMMITS {
        write(&connection, row..row + 1).expect("writes");
    }
    let bytes = std::fs::read(&log).expect("reads");
    let room = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    assert!(room < BYTES, "{room} bytes");
}

#[test]
fn who_has_not_read_for_a_while_does_not_hold_up_the_log() {
    let dir = dir();
    let store = open(&dir, 1);
    put(&*store, 0, "a", "one");
    let tool = tool(&dir, 0);
    let left_pages = || file::checkpoint(&tool, false).expect("moves").left_pages;
    let look = || {
        let request = StoreRequest::Read {
            partition: Partition(0),
            key: key("a"),
        };
        assert!(store.read_now(&request).expect("is read here").is_ok());
    };
    look();
    put(&*store, 0, "b", "two");
    assert!(left_pages() > 0, "a snapshot is kept");
    store.here.let_go_of_old(0);
    assert_eq!(left_pages(), 0);
    // One that is good still is kept.
    look();
    store.here.let_go_of_old(0);
    put(&*store, 0, "b", "three");
    assert!(left_pages() > 0);
}

#[test]
fn figures_tell_of_logs_and_of_rows_that_the_index_does_not_know() {
    let dir = dir();
    let store = open(&dir, 2);
    let before = store.figures();
    assert_eq!(before.unfiled_rows, 0);
    for (partition, item) in [(0, "a"), (1, "b"), (1, "c")] {
        put(&*store, partition, item, "x");
    }
    let figures = store.figures();
    assert_eq!(
        figures.unfiled_rows, 3,
        "one in one file and two in the other"
    );
    let logs = [0, 1].map(|number| length(&file::log_path(dir.path(), number)));
    assert!(logs.iter().all(|bytes| *bytes > 0));
    assert_eq!(figures.log_bytes, logs.iter().sum::<u64>());
    store.close();
    assert_eq!(store.figures().log_bytes, 0);
}
