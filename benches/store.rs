//! What the store costs: puts and gets per second and CPU per operation, for
//! 900-byte values, beside bare SQLite with and without a rowid.
//!
//! `cargo bench --bench store` prints a table in some fifteen seconds. CPU is
//! user and system time of the whole process, which also submits, so it is an
//! upper bound; compare ratios from one run. Under `cargo test` it does nothing.

use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use kinfold::clock::{Clock, Dice, SystemClock};
use kinfold::protocol::context::Context;
use kinfold::protocol::dot::Epoch;
use kinfold::protocol::effect::{StoreReply, StoreRequest};
use kinfold::protocol::id::{ItemKey, NodeId, Partition, TableId};
use kinfold::protocol::replica::{Draft, Minting, Mutation, SiblingLimits};
use kinfold::store::Store;
use kinfold::store::sqlite::{Durability, Options, SqliteStore};
use rusqlite::Connection;

/// How long each line measures, in milliseconds.
const LINE_MS: u64 = 1000;
const VALUE_BYTES: usize = 900;
/// Keys are drawn from this many partitions, as on a real ring.
const PARTITIONS: u32 = 256;
/// How many items the get lines choose from.
const ITEMS: u64 = 20_000;

/// CPU that this process has used, in microseconds, to the kernel's tick.
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks * 10_000
}

/// Runs `step`, which says how many operations it did, and prints a line.
fn line(name: &str, clock: &SystemClock, mut step: impl FnMut() -> u64) {
    let (start_ms, start_cpu_us) = (clock.now().monotonic_ms, cpu_us());
    let mut operations = 0;
    let mut elapsed_ms = 0;
    while elapsed_ms < LINE_MS {
        operations += step();
        elapsed_ms = clock.now().monotonic_ms - start_ms;
    }
    let per_second = operations as f64 * 1000.0 / elapsed_ms as f64;
    let each_us = (cpu_us() - start_cpu_us) as f64 / operations as f64;
    println!("{name:<58} {per_second:>9.0}/s {each_us:>7.1} µs CPU");
}

fn item(number: u64) -> (Partition, ItemKey) {
    // A fixed mixing: consecutive numbers land far apart, as hashes do.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let name = format!("{spread:016x}");
    let partition = Partition((spread >> 32) as u32 % PARTITIONS);
    (partition, ItemKey::new(TableId(1), name.as_bytes(), None))
}

fn bare(clock: &SystemClock, rowid: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let connection = Connection::open(dir.path().join("bare.db")).expect("opens");
    let schema = if rowid {
        "CREATE TABLE items(id INTEGER PRIMARY KEY, partition INTEGER, key BLOB, row BLOB);
         CREATE UNIQUE INDEX by_key ON items(partition, key);"
    } else {
        "CREATE TABLE items(partition INTEGER, key BLOB, row BLOB,
                            PRIMARY KEY(partition, key)) WITHOUT ROWID;"
    };
    let pragmas = "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL;
                   PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;";
    connection
        .execute_batch(&format!("{pragmas}{schema}"))
        .expect("makes");
    let label = if rowid { "rowid" } else { "WITHOUT ROWID" };
    let value = vec![7u8; VALUE_BYTES];
    let mut next = 0;
    let mut put = |batch: u64| {
        connection.execute_batch("BEGIN IMMEDIATE").expect("begins");
        for number in next..next + batch {
            let (partition, key) = item(number);
            let mut insert = connection
                .prepare_cached("INSERT INTO items(partition, key, row) VALUES(?1, ?2, ?3)")
                .expect("prepares");
            insert
                .execute((partition.0, key.as_bytes(), &value))
                .expect("inserts");
        }
        connection.execute_batch("COMMIT").expect("commits");
        next += batch;
        batch
    };
    for _ in 0..ITEMS / 1000 {
        put(1000);
    }
    line(
        &format!("bare SQLite, {label}: put, 64 a commit"),
        clock,
        || put(64),
    );
    line(
        &format!("bare SQLite, {label}: put, 1 a commit"),
        clock,
        || put(1),
    );
    let mut at = 0;
    line(&format!("bare SQLite, {label}: get"), clock, || {
        for _ in 0..100 {
            at = (at + 7919) % ITEMS;
            let (partition, key) = item(at);
            let mut select = connection
                .prepare_cached("SELECT row FROM items WHERE partition = ?1 AND key = ?2")
                .expect("prepares");
            let row: Vec<u8> = select
                .query_row((partition.0, key.as_bytes()), |row| row.get(0))
                .expect("reads");
            assert_eq!(row.len(), VALUE_BYTES);
        }
        100
    });
}

fn put(number: u64, value: &Bytes, dice: &mut Dice) -> StoreRequest {
    let (partition, key) = item(number);
    StoreRequest::Update {
        partition,
        key,
        mutation: Mutation::Write {
            draft: Draft {
                client: Context::new(),
                value: Some(value.clone()),
                content_type: "application/octet-stream".into(),
            },
            minting: Minting {
                node: NodeId(1),
                incarnation: 1,
                now_us: 1_700_000_000_000_000 + number,
                fresh_epoch: Epoch(dice.next_u64()),
            },
            limits: SiblingLimits {
                fold_above: None,
                max_siblings: 100,
                max_actors: 20,
            },
        },
        hints: vec![],
    }
}

/// How many requests are on their way, and a bell for when one comes back.
#[derive(Default)]
struct Window {
    open: Mutex<u64>,
    back: Condvar,
}

impl Window {
    fn submit(self: &Arc<Self>, store: &SqliteStore, request: StoreRequest, width: u64) {
        let mut open = self.open.lock().expect("sound");
        while *open >= width {
            open = self.back.wait(open).expect("sound");
        }
        *open += 1;
        drop(open);
        let window = self.clone();
        store.submit(
            request,
            Box::new(move |reply| {
                assert!(
                    !matches!(reply, Ok(StoreReply::Row(None)) | Err(_)),
                    "{reply:?}"
                );
                *window.open.lock().expect("sound") -= 1;
                window.back.notify_one();
            }),
        );
    }

    fn drain(&self) {
        let mut open = self.open.lock().expect("sound");
        while *open > 0 {
            open = self.back.wait(open).expect("sound");
        }
    }
}

fn store(clock: &SystemClock, durability: Durability) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(Options {
        durability,
        ..Options::new(dir.path(), 1)
    })
    .expect("opens");
    let value = Bytes::from(vec![7u8; VALUE_BYTES]);
    let mut dice = Dice::from_seed(1);
    let window = Arc::new(Window::default());
    let mut next = 0;
    for number in 0..ITEMS {
        window.submit(&store, put(number, &value, &mut dice), 1024);
        next += 1;
    }
    window.drain();
    // Whole batches: the writer wakes at the first of 64 and meets the others
    // when that is committed, so most batches are a little smaller.
    for width in [512, 64, 1] {
        let before = store.figures();
        let name = format!("store, {durability:?}: put of new items, {width} in flight");
        line(&name, clock, || {
            for number in next..next + width {
                window.submit(&store, put(number, &value, &mut dice), width);
            }
            next += width;
            width
        });
        window.drain();
        let after = store.figures();
        let (commits, changes) = (
            after.commits - before.commits,
            after.changes - before.changes,
        );
        println!(
            "    {:.1} changes a commit",
            changes as f64 / commits as f64
        );
    }
    let mut at = 0;
    for width in [512, 64, 1] {
        let name = format!("store, {durability:?}: get, {width} in flight");
        line(&name, clock, || {
            for _ in 0..100 {
                at = (at + 7919) % ITEMS;
                let (partition, key) = item(at);
                window.submit(&store, StoreRequest::Read { partition, key }, width);
            }
            100
        });
        window.drain();
    }
    store.close();
}

fn main() {
    // `cargo test` runs benches too, without this flag.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let clock = SystemClock::new();
    bare(&clock, true);
    bare(&clock, false);
    store(&clock, Durability::Commit);
    store(&clock, Durability::Os);
}
