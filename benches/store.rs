//! What the store costs: puts and gets per second and CPU per operation, for
//! 900-byte values, beside bare SQLite with and without a rowid; what the Merkle
//! trees add to a put; and how long walks over one partition take.
//!
//! `cargo bench --bench store` prints a table in about a minute. CPU is
//! user and system time of the whole process, which also submits, so it is an
//! upper bound; compare ratios from one run. Under `cargo test` it does nothing.

use std::hint::black_box;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use kinfold::clock::{Clock, Dice, SystemClock};
use kinfold::protocol::context::Context;
use kinfold::protocol::dot::{Actor, Dot, Epoch};
use kinfold::protocol::effect::{LeafChange, StoreReply, StoreRequest};
use kinfold::protocol::id::{ItemKey, NodeId, Partition, TableId};
use kinfold::protocol::merkle::{Tree, bucket_of};
use kinfold::protocol::replica::{Draft, Minting, Mutation, SiblingLimits};
use kinfold::protocol::siblings::{SiblingSet, Version};
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

/// What one call costs, on average of two million.
fn nanoseconds(name: &str, mut call: impl FnMut(u64)) {
    const CALLS: u64 = 2_000_000;
    let start_cpu_us = cpu_us();
    for number in 0..CALLS {
        call(number);
    }
    let each_ns = (cpu_us() - start_cpu_us) as f64 * 1000.0 / CALLS as f64;
    println!("{name:<58} {each_ns:>9.0} ns CPU");
}

/// What a put's change of a leaf costs, beside what the put costs above.
fn leaves() {
    let (partition, key) = item(1);
    let actor = Actor {
        node: NodeId(1),
        epoch: Epoch(2),
    };
    let version = Version {
        value: Some(Bytes::from(vec![7u8; VALUE_BYTES])),
        content_type: "application/octet-stream".into(),
        written_at_us: 1_700_000_000_000_000,
        stands_for: None,
    };
    let set = SiblingSet::delta(&Context::new(), Dot { actor, counter: 1 }, version);
    nanoseconds("hash of a state (one for each put, before and now)", |_| {
        black_box(black_box(&set).hash());
    });
    let after = Some(set.hash());
    nanoseconds("leaf change, made and dropped", |_| {
        drop(black_box(LeafChange {
            partition,
            key: black_box(&key).clone(),
            before: None,
            after,
            mended: false,
        }));
    });
    for width in [256, 4096] {
        let keys: Vec<ItemKey> = (0..1024).map(|number| item(number).1).collect();
        let mut tree = Tree::new(width);
        let name = format!("tree of {width} buckets: change of one leaf");
        nanoseconds(&name, |number| {
            tree.change(&keys[number as usize % 1024], None, black_box(after));
        });
        black_box(tree.root());
    }
    nanoseconds("bucket of a key", |_| {
        black_box(bucket_of(black_box(&key), 4096));
    });
}

fn asked(store: &SqliteStore, request: StoreRequest) -> StoreReply {
    let (send, receive) = std::sync::mpsc::channel();
    let done = move |reply| send.send(reply).expect("it is waited for");
    store.submit(request, Box::new(done));
    receive.recv().expect("answered").expect("done")
}

/// Walks over one partition with so many items.
fn walks(clock: &SystemClock, items: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(Options {
        durability: Durability::Os,
        ..Options::new(dir.path(), 1)
    })
    .expect("opens");
    let value = Bytes::from(vec![7u8; VALUE_BYTES]);
    let mut dice = Dice::from_seed(1);
    let window = Arc::new(Window::default());
    let partition = Partition(7);
    for number in 0..items {
        let mut request = put(number, &value, &mut dice);
        if let StoreRequest::Update { partition: p, .. } = &mut request {
            *p = partition;
        }
        window.submit(&store, request, 1024);
    }
    window.drain();
    let timed = |name: &str, walk: &mut dyn FnMut() -> u64| {
        let (start_us, start_cpu_us) = (clock.now().wall_us, cpu_us());
        let found = walk();
        let spent_us = clock.now().wall_us.saturating_sub(start_us);
        println!(
            "{items:>7} items, {name:<36} {found:>7} found {:>9.1} ms, CPU {:>5} ms",
            spent_us as f64 / 1000.0,
            (cpu_us() - start_cpu_us) / 1000
        );
    };
    let leaves = |reply| match reply {
        StoreReply::Leaves { leaves, done } => (leaves, done),
        other => panic!("not leaves: {other:?}"),
    };
    timed("all leaves derived, 1024 at a time", &mut || {
        let (mut after, mut found) = (None, 0);
        loop {
            let request = StoreRequest::Derive {
                partition,
                after,
                limit: 1024,
            };
            let (some, done) = leaves(asked(&store, request));
            found += some.len() as u64;
            if done {
                return found;
            }
            after = some.last().map(|leaf| leaf.key.clone());
        }
    });
    timed("one chunk of 1024 of them", &mut || {
        let request = StoreRequest::Derive {
            partition,
            after: None,
            limit: 1024,
        };
        leaves(asked(&store, request)).0.len() as u64
    });
    timed("leaves of 1 bucket of 4096", &mut || {
        let request = StoreRequest::Leaves {
            partition,
            buckets: vec![9],
            width: 4096,
            limit: usize::MAX,
        };
        leaves(asked(&store, request)).0.len() as u64
    });
    timed("leaves of 16 buckets of 4096", &mut || {
        let request = StoreRequest::Leaves {
            partition,
            buckets: (0..16).collect(),
            width: 4096,
            limit: usize::MAX,
        };
        leaves(asked(&store, request)).0.len() as u64
    });
    timed("scan of the first 256", &mut || {
        let request = StoreRequest::Scan {
            partition,
            after: None,
            limit: 256,
            max_bytes: usize::MAX,
        };
        match asked(&store, request) {
            StoreReply::Rows { rows, .. } => rows.len() as u64,
            other => panic!("not rows: {other:?}"),
        }
    });
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
    leaves();
    walks(&clock, 4096);
    walks(&clock, 400_000);
}
