//! Machines in memory: whole nodes but for sockets, disks and modules.
//!
//! Promises: messages travel in no time and are not encoded, stores answer at once,
//! time passes only in [`World::pass`], and the same calls give the same run. What
//! is sent is counted as the bytes that its frames would have.

use std::collections::VecDeque;
use std::sync::Arc;

use kinfold::clock::Dice;
use kinfold::protocol::catalog::TableDefinition;
use kinfold::protocol::effect::{Effect, Input, RequestId};
use kinfold::protocol::id::NodeId;
use kinfold::protocol::machine::Machine;
use kinfold::protocol::membership::{Identity, Pace, Persisted};
use kinfold::protocol::message::{ItemRequest, Message, Response};
use kinfold::protocol::time::Now;
use kinfold::store::Store;
use kinfold::store::memory::MemoryStore;
use kinfold::transport::codec::frame_bytes;

/// The table that every world has.
pub const TABLE: &str = "items";

/// A node.
pub struct Node {
    pub id: NodeId,
    pub machine: Machine,
    store: MemoryStore,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Frames about members, layouts and the catalog, and their bytes.
    pub gossip_messages: u64,
    pub gossip_bytes: u64,
    /// The largest of them, in bytes.
    pub gossip_largest_bytes: u64,
    /// All other frames.
    pub other_messages: u64,
    pub other_bytes: u64,
}

/// Some nodes that reach each other.
pub struct World {
    pub nodes: Vec<Node>,
    pub now_ms: u64,
    pub traffic: Traffic,
    /// Whether bytes are counted: it takes time.
    pub counts: bool,
    responses: Vec<Response>,
    requests: u64,
}

/// What the `number`th node is called and how it is reached.
pub fn identity(number: usize, partitions: u32) -> Identity {
    let name = format!("n{number}");
    Identity {
        node: NodeId::of(&name),
        name: name.into(),
        address: number.to_string().into(),
        weight_milli: 1000,
        zone: format!("z{}", number % 3).into(),
        wire_version: 3,
        seeds: vec!["0".into(), "1".into(), "2".into()],
        partitions,
        replicas: 3,
    }
}

impl World {
    /// No nodes yet.
    pub fn new() -> World {
        World {
            nodes: Vec::new(),
            now_ms: 1,
            traffic: Traffic::default(),
            counts: false,
            responses: Vec::new(),
            requests: 0,
        }
    }

    /// Three nodes that are ready, with a table of three replicas, and at rest.
    pub fn of_three(partitions: u32) -> World {
        let mut world = World::new();
        for number in 0..3 {
            world.start(identity(number, partitions), None);
        }
        let is_ready = |node: &Node| {
            let layout = node
                .machine
                .reading_ring()
                .map(|ring| ring.layout().clone());
            layout.is_some_and(|layout| layout.nodes().len() == 3)
                && node.machine.readiness().is_ok()
                && node.machine.writing_rings().len() == 1
        };
        world.pass_until(60_000, |world| world.nodes.iter().all(is_ready));
        let now = world.now();
        let (_, effects) = world.nodes[0].machine.change_catalog(now, |catalog| {
            catalog.propose_table(TABLE, TableDefinition::default())
        });
        world.carry_out(0, effects);
        let rests = |node: &Node| {
            let machine = &node.machine;
            machine.tables().contains_key(TABLE)
                && machine.trees().all_known()
                && machine.is_at_rest()
        };
        world.pass_until(120_000, |world| world.nodes.iter().all(rests));
        world
    }

    /// Starts a node with what it remembers.
    pub fn start(&mut self, identity: Identity, persisted: Option<Persisted>) {
        let number = self.nodes.len();
        let id = identity.node;
        let mut dice = Dice::from_seed(number as u64);
        let (machine, effects) = Machine::new(
            identity,
            Pace::default(),
            persisted,
            number as u64 + 1,
            self.now(),
            Box::new(move || dice.next_u64()),
        );
        self.nodes.push(Node {
            id,
            machine,
            store: MemoryStore::new(number as u64 + 1),
        });
        self.carry_out(number, effects);
    }

    /// The present.
    pub fn now(&self) -> Now {
        Now {
            wall_us: 1_700_000_000_000_000 + self.now_ms * 1000,
            monotonic_ms: self.now_ms,
        }
    }

    /// A client asks a node, and is answered before this returns.
    pub fn ask(&mut self, node: usize, item: ItemRequest) -> Response {
        self.requests += 1;
        let request = RequestId(self.requests);
        let now = self.now();
        let effects = self.nodes[node]
            .machine
            .step(now, Input::Client { request, item });
        self.carry_out(node, effects);
        assert_eq!(self.responses.len(), 1, "one answer, and at once");
        self.responses.pop().expect("one answer")
    }

    /// Lets time pass, in ticks of this length.
    pub fn pass(&mut self, duration_ms: u64, tick_ms: u64) {
        let until_ms = self.now_ms + duration_ms;
        while self.now_ms < until_ms {
            self.now_ms += tick_ms;
            for node in 0..self.nodes.len() {
                let now = self.now();
                let effects = self.nodes[node].machine.step(now, Input::Tick);
                self.carry_out(node, effects);
            }
        }
    }

    /// Lets time pass until this holds; how many milliseconds that took.
    ///
    /// # Panics
    /// If it takes longer than `patience_ms`.
    pub fn pass_until(&mut self, patience_ms: u64, done: impl Fn(&World) -> bool) -> u64 {
        let begun_ms = self.now_ms;
        while !done(self) {
            self.pass(25, 25);
            assert!(
                self.now_ms < begun_ms + patience_ms,
                "{patience_ms} ms, and nothing came of it"
            );
        }
        self.now_ms - begun_ms
    }

    fn count(&mut self, message: &Message) {
        if !self.counts {
            return;
        }
        let bytes = frame_bytes(message) as u64;
        if matches!(message, Message::GossipSummary(_) | Message::GossipNews(_)) {
            self.traffic.gossip_messages += 1;
            self.traffic.gossip_bytes += bytes;
            self.traffic.gossip_largest_bytes = self.traffic.gossip_largest_bytes.max(bytes);
        } else {
            self.traffic.other_messages += 1;
            self.traffic.other_bytes += bytes;
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
                    self.count(&message);
                    let from = self.nodes[node].id;
                    let to: usize = address.parse().expect("a number");
                    if to < self.nodes.len() {
                        (to, Input::Peer { from, message })
                    } else {
                        let undelivered = Input::Undelivered {
                            to: NodeId::NOBODY,
                            message,
                            overloaded: false,
                        };
                        (node, undelivered)
                    }
                }
                Effect::Store { job, request } => {
                    let reply = Arc::new(std::sync::Mutex::new(None));
                    let kept = reply.clone();
                    let done = move |answer| *kept.lock().expect("sound") = Some(answer);
                    self.nodes[node].store.submit(request, Box::new(done));
                    let reply = reply.lock().expect("sound").take();
                    let reply = reply.expect("a store in memory answers at once");
                    (node, Input::Stored { job, reply })
                }
                Effect::Respond { response, .. } => {
                    self.responses.push(response);
                    continue;
                }
                _ => continue,
            };
            let now = self.now();
            let more = self.nodes[at].machine.step(now, input);
            waiting.extend(more.into_iter().map(|effect| (at, effect)));
        }
    }
}
