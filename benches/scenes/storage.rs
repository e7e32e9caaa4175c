//! Scenes of the store: rows to bytes and back, and SQLite's changes and reads
//! from the request to the answer, its threads included.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use kinfold::protocol::context::Context;
use kinfold::protocol::dot::{Actor, Dot, Epoch};
use kinfold::protocol::effect::{StoreReply, StoreRequest};
use kinfold::protocol::id::{NodeId, Partition};
use kinfold::protocol::replica::{Draft, Minting, Mutation, Outcome, Row, SiblingLimits};
use kinfold::protocol::siblings::SiblingSet;
use kinfold::store::sqlite::{Durability, Options, SqliteStore};
use kinfold::store::{Store, row};

use super::{LARGE_BYTES, SMALL_BYTES, Scene, blind, dot, key, usual, version};

/// Over how many partitions keys are spread.
const PARTITIONS: u64 = 256;
/// How many items the reads choose from.
const ITEMS: u64 = 1_000;

/// Rows, as they are encoded into a file.
pub fn row_scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (what, set) in [
        ("900 bytes", usual(SMALL_BYTES)),
        ("100 kB", usual(LARGE_BYTES)),
        ("16 siblings of 900 bytes", blind(0..16, SMALL_BYTES)),
    ] {
        let key = key(1);
        let state = set.hash();
        let row = Row { minted: None, set };
        let mut bytes = Vec::new();
        row::encode(&key, &row, state, &mut bytes);
        let batch = if bytes.len() > SMALL_BYTES * 2 {
            32
        } else {
            1024
        };
        let (at, stored) = (key.clone(), Bytes::from(bytes));
        // The writer keeps one buffer.
        let mut buffer = Vec::with_capacity(stored.len());
        let work = move |()| {
            row::encode(&key, &row, state, &mut buffer);
            buffer.len()
        };
        let name = format!("row/encode {what}");
        scenes.push(Scene::new(name, || (), work).in_batches_of(batch));
        let work = move |()| row::decode(&at, &stored).expect("our own row");
        let name = format!("row/decode {what}");
        scenes.push(Scene::new(name, || (), work).in_batches_of(batch));
    }
    scenes
}

/// How many answers are awaited, and a bell for the last one. A channel would make
/// room for thirty answers each time, and that would be a tenth of what is counted.
#[derive(Default)]
struct Awaited {
    open: Mutex<usize>,
    none: Condvar,
}

/// A store of one file in a directory of its own, with items in it.
pub struct Place {
    pub store: Arc<SqliteStore>,
    value: Bytes,
    next: Cell<u64>,
    awaited: Arc<Awaited>,
    _dir: tempfile::TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.store.close();
    }
}

impl Place {
    /// With `ITEMS` items.
    pub fn new(durability: Durability) -> Rc<Place> {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            durability,
            files: Some(1),
            ..Options::new(dir.path(), 1)
        };
        let place = Place {
            store: SqliteStore::open(options).expect("opens"),
            value: Bytes::from(vec![b'v'; SMALL_BYTES]),
            next: Cell::new(0),
            awaited: Arc::default(),
            _dir: dir,
        };
        let fill: Vec<StoreRequest> = (0..ITEMS).map(|_| place.new_item()).collect();
        place.ask(fill);
        Rc::new(place)
    }

    /// A put of an item that is not there yet.
    pub fn new_item(&self) -> StoreRequest {
        let number = self.next.replace(self.next.get() + 1);
        self.put(number, Context::new())
    }

    fn put(&self, number: u64, client: Context) -> StoreRequest {
        StoreRequest::Update {
            partition: partition(number),
            key: key(number),
            mutation: Mutation::Write {
                draft: Draft {
                    client,
                    value: Some(self.value.clone()),
                    content_type: "application/json".into(),
                },
                minting: Minting {
                    node: NodeId::of("n0"),
                    incarnation: 1,
                    now_us: now_us(number),
                    fresh_epoch: epoch(number),
                },
                limits: SiblingLimits {
                    fold_above: None,
                    max_siblings: 100,
                    max_actors: 20,
                },
            },
            hints: Vec::new(),
        }
    }

    /// The next put of one of the first items, by a client who saw those before it.
    pub fn next_version(&self) -> StoreRequest {
        let write = self.next.replace(self.next.get() + 1);
        let (number, earlier) = (write % ITEMS, write / ITEMS);
        let mut client = Context::new();
        for counter in 1..=earlier {
            let actor = Actor {
                node: NodeId::of("n0"),
                epoch: epoch(number),
            };
            client.add(Dot { actor, counter }, now_us(number));
        }
        self.put(number, client)
    }

    /// What a peer's put of an item that is not there yet brings.
    pub fn new_delta(&self) -> StoreRequest {
        let number = self.next.replace(self.next.get() + 1);
        StoreRequest::Update {
            partition: partition(number),
            key: key(number),
            mutation: Mutation::Sync {
                set: SiblingSet::delta(&Context::new(), dot(1, number), version(SMALL_BYTES)),
                max_actors: 20,
            },
            hints: Vec::new(),
        }
    }

    /// A read of one of the first items.
    pub fn read(&self) -> StoreRequest {
        let number = self.next.replace(self.next.get() + 1) * 7919 % ITEMS;
        StoreRequest::Read {
            partition: partition(number),
            key: key(number),
        }
    }

    /// Asks all at once, and waits for all.
    pub fn ask(&self, requests: Vec<StoreRequest>) {
        *self.awaited.open.lock().expect("sound") = requests.len();
        for request in requests {
            let awaited = self.awaited.clone();
            let done = move |reply| {
                // On a thread of the store's, whose end would show as well.
                assert!(
                    matches!(
                        reply,
                        Ok(StoreReply::Row(Some(_))
                            | StoreReply::Updated(
                                Outcome::Written(_) | Outcome::Synced { changed: true },
                                _
                            ))
                    ),
                    "{reply:?}"
                );
                let mut open = awaited.open.lock().expect("sound");
                *open -= 1;
                if *open == 0 {
                    awaited.none.notify_one();
                }
            };
            self.store.submit(request, Box::new(done));
        }
        let mut open = self.awaited.open.lock().expect("sound");
        while *open > 0 {
            open = self.awaited.none.wait(open).expect("sound");
        }
    }
}

fn partition(number: u64) -> Partition {
    Partition((number * 0x9e37_79b9 % PARTITIONS) as u32)
}

/// When the item's puts are made.
fn now_us(number: u64) -> u64 {
    1_700_000_000_000_000 + number
}

/// The epoch that the item's first put takes.
fn epoch(number: u64) -> Epoch {
    Epoch(0x9e37_79b9_7f4a_7c15 ^ number)
}

/// Puts of new items, so many asked for at once.
pub fn puts(durability: Durability, at_once: usize) -> Scene {
    let name = match durability {
        Durability::Os => "os",
        Durability::Commit => "commit",
    };
    let place = Place::new(durability);
    let asks = place.clone();
    Scene::new(
        format!("store/put of {at_once} at once, durability {name}"),
        move || (0..at_once).map(|_| asks.new_item()).collect(),
        move |requests: Vec<StoreRequest>| place.ask(requests),
    )
    .in_batches_of(256 / at_once)
}

/// Puts that came to a peer first, of items that are new here.
fn deltas() -> Scene {
    let place = Place::new(Durability::Os);
    let asks = place.clone();
    Scene::new(
        "store/peer's put, durability os",
        move || vec![asks.new_delta()],
        move |requests: Vec<StoreRequest>| place.ask(requests),
    )
    .in_batches_of(256)
}

/// Puts over items that are there, one after the other.
fn next_versions() -> Scene {
    let place = Place::new(Durability::Os);
    let asks = place.clone();
    Scene::new(
        "store/put over an item, durability os",
        move || vec![asks.next_version()],
        move |requests: Vec<StoreRequest>| place.ask(requests),
    )
    .in_batches_of(256)
}

/// Reads of items that are there, one after the other.
pub fn reads() -> Scene {
    let place = Place::new(Durability::Os);
    let asks = place.clone();
    Scene::new(
        "store/read of one row",
        move || vec![asks.read()],
        move |requests: Vec<StoreRequest>| place.ask(requests),
    )
    .in_batches_of(256)
}

/// Those whose instructions are counted: mostly one at a time, so that no two
/// threads race for what goes into one commit.
pub fn counted_scenes() -> Vec<Scene> {
    let mut scenes = vec![
        puts(Durability::Os, 1),
        puts(Durability::Os, 16),
        deltas(),
        next_versions(),
        reads(),
    ];
    for scene in &mut scenes {
        scene.spread_percent = STORE_SPREAD_PERCENT;
    }
    scenes
}

/// Threads that wait for each other take a few system calls more or less.
const STORE_SPREAD_PERCENT: f64 = 5.0;
