//! What it costs two nodes to find and mend one difference, and what keeping the
//! trees costs each put.
//!
//! `cargo bench --bench exchange -- 1000000` fills two real stores with that many
//! items of 900 bytes, lets two machines make their trees, changes one item on one
//! of them and counts every byte and moment until both are the same. A second line
//! changes a hundred. Time is the machines' own: messages travel in no time, and
//! stores answer as fast as they can. Under `cargo test` it does nothing.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use kinfold::clock::{Clock, Dice, SystemClock};
use kinfold::protocol::catalog::TableDefinition;
use kinfold::protocol::context::Context;
use kinfold::protocol::dot::{Actor, Dot, Epoch};
use kinfold::protocol::effect::{Effect, Input, StoreReply, StoreRequest};
use kinfold::protocol::id::{ItemKey, NodeId, Partition, Position, TableId};
use kinfold::protocol::machine::{Machine, Upkeep};
use kinfold::protocol::membership::{Identity, Pace};
use kinfold::protocol::merkle::Tree;
use kinfold::protocol::message::{Message, MessageId};
use kinfold::protocol::replica::Mutation;
use kinfold::protocol::siblings::{SiblingSet, StateHash, Version};
use kinfold::protocol::time::Now;
use kinfold::store::Store;
use kinfold::store::sqlite::{Durability, Options, SqliteStore};
use kinfold::transport::codec::frame_bytes;

const VALUE_BYTES: usize = 900;
const PARTITIONS: u32 = 256;
const TABLE: &str = "items";
/// How many changes are under way in a store while it is filled.
const DEPTH: usize = 512;
/// How much virtual time passes between two ticks.
const TICK_MS: u64 = 10;

struct Node {
    id: NodeId,
    machine: Machine,
    store: Arc<SqliteStore>,
    _dir: tempfile::TempDir,
}

/// Two nodes, and what they say to each other.
struct Pair {
    nodes: Vec<Node>,
    now_ms: u64,
    /// Bytes of frames about exchange.
    bytes: usize,
    messages: usize,
}

fn state(counter: u64) -> SiblingSet {
    let dot = Dot {
        actor: Actor {
            node: NodeId(7),
            epoch: Epoch(9),
        },
        counter,
    };
    let version = Version {
        value: Some(Bytes::from(vec![b'v'; VALUE_BYTES])),
        content_type: "text/plain".into(),
        written_at_us: counter,
        stands_for: None,
    };
    SiblingSet::delta(&Context::new(), dot, version)
}

fn item(number: u64) -> (Partition, ItemKey) {
    let name = number.to_be_bytes();
    let partition = Position::of(TABLE, &name).partition(PARTITIONS);
    (partition, ItemKey::new(TableId::of(TABLE, 1), &name, None))
}

fn ask(store: &SqliteStore, request: StoreRequest) -> StoreReply {
    let (done, reply) = mpsc::channel();
    store.submit(
        request,
        Box::new(move |reply| done.send(reply).expect("the bench waits")),
    );
    reply.recv().expect("answered").expect("the store works")
}

fn fill(store: &SqliteStore, items: u64) {
    let (done, replies) = mpsc::channel();
    let mut open = 0;
    for number in 0..items {
        let (partition, key) = item(number);
        let done = done.clone();
        let request = StoreRequest::Update {
            partition,
            key,
            mutation: Mutation::Sync {
                set: state(number + 1),
                max_actors: 20,
            },
            hints: Vec::new(),
        };
        store.submit(
            request,
            Box::new(move |reply| done.send(reply.is_ok()).expect("the bench waits")),
        );
        open += 1;
        if open == DEPTH {
            assert!(replies.recv().expect("answered"));
            open -= 1;
        }
    }
    for _ in 0..open {
        assert!(replies.recv().expect("answered"));
    }
}

impl Pair {
    fn new(items: u64) -> Self {
        let mut pair = Pair {
            nodes: Vec::new(),
            now_ms: 1,
            bytes: 0,
            messages: 0,
        };
        let mut first = Vec::new();
        for number in 0..2u64 {
            let dir = tempfile::tempdir().expect("a directory");
            let options = Options {
                durability: Durability::Os,
                ..Options::new(dir.path().to_owned(), number + 1)
            };
            let store = SqliteStore::open(options).expect("opens");
            fill(&store, items);
            let name = format!("n{number}");
            let identity = Identity {
                node: NodeId::of(&name),
                name: name.into(),
                address: number.to_string().into(),
                weight_milli: 1000,
                zone: "z".into(),
                wire_version: 1,
                seeds: vec!["0".into(), "1".into()],
                partitions: PARTITIONS,
                replicas: 2,
            };
            let id = identity.node;
            let mut dice = Dice::from_seed(number);
            let (mut machine, effects) = Machine::new(
                identity,
                Pace::default(),
                None,
                number + 1,
                pair.now(),
                Box::new(move || dice.next_u64()),
            );
            machine.set_upkeep(Upkeep {
                exchange_interval_ms: 60_000,
                ..Upkeep::default()
            });
            let definition = TableDefinition {
                n: 2,
                ..TableDefinition::default()
            };
            let (_, more) = machine.change_catalog(pair.now(), |catalog| {
                catalog.propose_table(TABLE, definition)
            });
            first.push(effects.into_iter().chain(more).collect::<Vec<_>>());
            pair.nodes.push(Node {
                id,
                machine,
                store,
                _dir: dir,
            });
        }
        for (node, effects) in first.into_iter().enumerate() {
            pair.carry_out(node, effects);
        }
        pair
    }

    fn now(&self) -> Now {
        Now {
            wall_us: 1_000_000_000_000_000 + self.now_ms * 1000,
            monotonic_ms: self.now_ms,
        }
    }

    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        let mut waiting: VecDeque<(usize, Effect)> =
            effects.into_iter().map(|effect| (node, effect)).collect();
        while let Some((node, effect)) = waiting.pop_front() {
            let (at, input) = match effect {
                Effect::Send {
                    address, message, ..
                }
                | Effect::Contact { address, message } => {
                    if matches!(
                        message,
                        Message::Exchange { .. } | Message::ExchangeAnswer { .. }
                    ) {
                        self.bytes += frame_bytes(&message);
                        self.messages += 1;
                    }
                    let to: usize = address.parse().expect("a number");
                    if to >= self.nodes.len() {
                        continue;
                    }
                    let from = self.nodes[node].id;
                    (to, Input::Peer { from, message })
                }
                Effect::Store { job, request } => {
                    let reply = Ok(ask(&self.nodes[node].store, request));
                    (node, Input::Stored { job, reply })
                }
                _ => continue,
            };
            let now = self.now();
            let more = self.nodes[at].machine.step(now, input);
            waiting.extend(more.into_iter().map(|effect| (at, effect)));
        }
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        for node in 0..self.nodes.len() {
            let now = self.now();
            let effects = self.nodes[node].machine.step(now, Input::Tick);
            self.carry_out(node, effects);
        }
    }

    fn roots(&self) -> Vec<Vec<Option<(kinfold::protocol::merkle::Sum, u64)>>> {
        let root = |node: &Node| {
            let trees = node.machine.trees();
            (0..PARTITIONS)
                .map(|partition| trees.root(Partition(partition), 2))
                .collect()
        };
        self.nodes.iter().map(root).collect()
    }

    fn is_equal(&self) -> bool {
        let roots = self.roots();
        roots[0] == roots[1] && roots[0].iter().all(Option::is_some)
    }

    /// Ticks until this holds; the virtual seconds that it took.
    fn until(&mut self, done: impl Fn(&Pair) -> bool) -> f64 {
        let begun_ms = self.now_ms;
        while !done(self) {
            self.tick();
            assert!(
                self.now_ms < begun_ms + 3_600_000,
                "an hour, and nothing came of it"
            );
        }
        (self.now_ms - begun_ms) as f64 / 1000.0
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).collect::<Vec<_>>();
    if arguments.iter().any(|argument| argument == "--test")
        || !arguments.contains(&"--bench".into())
    {
        return;
    }
    arguments.retain(|argument| argument != "--bench");
    let items: u64 = arguments
        .first()
        .map_or(100_000, |items| items.parse().expect("a number of items"));
    let clock = SystemClock::new();

    let mut pair = Pair::new(items);
    println!("{items} items of {VALUE_BYTES} bytes on each of two nodes, {PARTITIONS} partitions");
    let begun_ms = clock.now().monotonic_ms;
    let paced = pair.until(Pair::is_equal);
    println!(
        "trees made from the rows: {paced:.0} s as paced, {:.1} s of work",
        (clock.now().monotonic_ms - begun_ms) as f64 / 1000.0 / 2.0
    );

    // A quiet round first: what agreement costs.
    (pair.bytes, pair.messages) = (0, 0);
    let until_ms = pair.now_ms + 60_000;
    while pair.now_ms < until_ms {
        pair.tick();
    }
    println!(
        "a minute without a difference: {} messages, {} bytes",
        pair.messages, pair.bytes
    );
    for changes in [1u64, 100] {
        let (from, to) = (pair.nodes[0].id, 1);
        for change in 0..changes {
            let (partition, key) = item(change * (items / changes));
            let message = Message::Write {
                id: MessageId(u64::MAX - change),
                partition,
                key,
                set: state(items + 1_000 * changes + change),
                hint_for: None,
            };
            let now = pair.now();
            let effects = pair.nodes[to]
                .machine
                .step(now, Input::Peer { from, message });
            pair.carry_out(to, effects);
        }
        assert!(!pair.is_equal());
        (pair.bytes, pair.messages) = (0, 0);
        let mut worked_ms = 0;
        let waited = pair.until(|pair| pair.messages > 0);
        let begun_ms = clock.now().monotonic_ms;
        let mended = pair.until(Pair::is_equal);
        worked_ms += clock.now().monotonic_ms - begun_ms;
        println!(
            "{changes} difference(s): asked about after {waited:.0} s, mended {mended:.2} s \
             later ({worked_ms} ms of work on both nodes), {} messages, {} bytes in all, the \
             roots of all partitions included",
            pair.messages, pair.bytes
        );
    }

    // What one change of a leaf costs.
    let mut tree = Tree::new(4096);
    let keys: Vec<ItemKey> = (0..10_000).map(|number| item(number).1).collect();
    let begun_ms = clock.now().monotonic_ms;
    let rounds = 200u64;
    for round in 0..rounds {
        for key in &keys {
            let hash = |round: u64| StateHash(u128::from(round).to_be_bytes());
            let before = (round > 0).then(|| hash(round - 1));
            tree.change(black_box(key), before, Some(hash(round)));
        }
    }
    let spent_ms = clock.now().monotonic_ms - begun_ms;
    println!(
        "a change of one leaf: {:.0} ns",
        spent_ms as f64 * 1e6 / (rounds * keys.len() as u64) as f64
    );
}
