//! The seeded world: whole clusters of the machines that the server runs, on a
//! network, disks and clocks of its own making.
//!
//! A [`World`] holds some nodes, each a [`Machine`] over a [`MemoryStore`], and
//! one queue of events in virtual time. Messages pass through the wire's codec
//! and may be delayed, lost, repeated and reordered; links fail one way; nodes
//! crash at any event, which loses every store request that was not yet
//! committed, and come back with what their store holds. Promises: the same seed
//! and the same calls give the same run, event for event ([`World::trace_hash`]
//! says so). Not here yet: disks that lie, clocks that step, changes of
//! membership while clients write.
//!
//! `workload.rs` drives clients, `check.rs` holds what they saw against the
//! invariants of the protocol.

pub mod check;
#[cfg(test)]
mod model;
mod play;
#[cfg(test)]
mod transcripts;
pub mod workload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use self::play::{held_hints, propose_tables};
use crate::clock::Dice;
use crate::protocol::dot::Dot;
use crate::protocol::effect::{
    Address, GuestReply, Input, JobId, RequestId, StoreError, StoreReply, StoreRequest,
};
use crate::protocol::id::{ItemKey, NodeId, TableId};
use crate::protocol::machine::{MEMBERSHIP_RECORD, Machine};
use crate::protocol::membership::{Identity, Pace};
use crate::protocol::message::{ItemRequest, Message, Response};
use crate::protocol::siblings::SiblingSet;
use crate::protocol::time::Now;
use crate::reconcile::native::NativeGuests;
use crate::store::Store;
use crate::store::memory::MemoryStore;

/// How often a machine is ticked, as in the server.
const TICK_MS: u64 = 10;
/// The name of the table whose conflicts clients see.
pub const RAW_TABLE: &str = "raw";
/// The name of the table whose conflicts are folded by a union of lines.
pub const UNION_TABLE: &str = "union";

/// How bad the network is, and how many nodes there are.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub nodes: usize,
    /// In percent, of every message.
    pub loss: u64,
    /// In percent, of every message.
    pub duplication: u64,
    /// Delays are drawn from 1..=this, in milliseconds, so messages overtake
    /// each other.
    pub delay_max_ms: u64,
    /// How long a commit takes at most, in milliseconds.
    pub commit_max_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            nodes: 3,
            loss: 2,
            duplication: 2,
            delay_max_ms: 8,
            commit_max_ms: 4,
        }
    }
}

/// Something that will happen.
enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    Deliver {
        from: NodeId,
        to: usize,
        frame: Vec<u8>,
    },
    Undelivered {
        node: usize,
        life: u64,
        to: NodeId,
        message: Box<Message>,
    },
    /// The store of a node gets round to its next request.
    Commit {
        node: usize,
        life: u64,
    },
    Stored {
        node: usize,
        life: u64,
        job: JobId,
        reply: Result<StoreReply, StoreError>,
    },
    Guest {
        node: usize,
        life: u64,
        job: JobId,
        reply: GuestReply,
    },
}

/// One node: what survives a crash, and what does not.
struct SimNode {
    identity: Identity,
    store: Arc<MemoryStore>,
    /// None while it is down.
    machine: Option<Machine>,
    /// Which life this is: events of former lives come to nothing.
    life: u64,
    /// Requests that wait for the store, oldest first.
    disk: VecDeque<(JobId, StoreRequest)>,
}

/// A cluster and its fate.
pub struct World {
    settings: Settings,
    pub now_ms: u64,
    /// Virtual time, then the order in which events were planned.
    events: BTreeMap<(u64, u64), Event>,
    planned: u64,
    dice: Dice,
    nodes: Vec<SimNode>,
    /// Links that carry nothing, (from, to).
    cut: BTreeSet<(usize, usize)>,
    guests: NativeGuests,
    /// What clients were told, until somebody takes it.
    pub responses: BTreeMap<RequestId, Response>,
    next_request: u64,
    /// Every dot that was minted, and the value it named.
    pub minted: BTreeMap<Dot, Option<Vec<u8>>>,
    /// A dot that was seen with two values: the invariant that nothing mends.
    pub double_mints: Vec<Dot>,
    /// Changes that stores made to rows.
    pub row_writes: u64,
    trace: Sha256,
}

fn address(node: usize) -> Address {
    format!("10.0.0.{}:1", node + 1).into()
}

impl World {
    /// A cluster that starts now, all nodes at once, with all as seeds.
    pub fn new(seed: u64, settings: Settings) -> Self {
        let mut world = World {
            settings,
            now_ms: 0,
            events: BTreeMap::new(),
            planned: 0,
            dice: Dice::from_seed(seed),
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            guests: NativeGuests,
            responses: BTreeMap::new(),
            next_request: 0,
            minted: BTreeMap::new(),
            double_mints: Vec::new(),
            row_writes: 0,
            trace: Sha256::new(),
        };
        for node in 0..settings.nodes {
            let name = format!("n{node}");
            let identity = Identity {
                node: NodeId::of(&name),
                name: name.into(),
                address: address(node),
                weight_milli: 1000,
                zone: "z".into(),
                wire_version: 1,
                seeds: (0..settings.nodes).map(address).collect(),
                partitions: 16,
                replicas: 3,
            };
            let store = Arc::new(MemoryStore::new(world.dice.next_u64()));
            world.nodes.push(SimNode {
                identity,
                store,
                machine: None,
                life: 0,
                disk: VecDeque::new(),
            });
        }
        for node in 0..settings.nodes {
            world.start(node);
        }
        world
    }

    fn now(&self) -> Now {
        // All clocks agree here; the protocol must not need it.
        Now {
            wall_us: 1_000_000_000_000_000 + self.now_ms * 1000,
            monotonic_ms: self.now_ms,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice.next_u64() % bound.max(1)
    }

    fn plan(&mut self, in_ms: u64, event: Event) {
        self.planned += 1;
        self.events
            .insert((self.now_ms + in_ms, self.planned), event);
    }

    /// A node begins a life with what its store holds.
    pub fn start(&mut self, node: usize) {
        assert!(self.nodes[node].machine.is_none(), "the node is up");
        let seed = self.dice.next_u64();
        let now = self.now();
        let sim = &mut self.nodes[node];
        sim.life += 1;
        let life = sim.life;
        let record = sim
            .store
            .meta(MEMBERSHIP_RECORD)
            .expect("memory does not fail");
        let persisted = record.and_then(|bytes| Machine::read_record(&bytes));
        let mut dice = Dice::from_seed(seed);
        let (mut machine, mut effects) = Machine::new(
            sim.identity.clone(),
            Pace::new(200),
            persisted,
            sim.store.incarnation(),
            now,
            Box::new(move || dice.next_u64()),
        );
        // Every node's config file says the same of the tables.
        let (_, more) = machine.change_catalog(now, propose_tables);
        effects.extend(more);
        sim.machine = Some(machine);
        self.plan(TICK_MS, Event::Tick { node, life });
        self.carry_out(node, effects);
    }

    /// A node stops at once. What its store had not committed is gone.
    pub fn crash(&mut self, node: usize) {
        let sim = &mut self.nodes[node];
        sim.machine = None;
        sim.disk.clear();
        self.note(&[1, node as u8]);
    }

    /// Loses a node's disk; it must be down.
    pub fn wipe(&mut self, node: usize) {
        assert!(self.nodes[node].machine.is_none(), "the node is up");
        let incarnation = self.dice.next_u64();
        self.nodes[node].store = Arc::new(MemoryStore::new(incarnation));
    }

    /// Whether a node runs.
    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].machine.is_some()
    }

    /// Lets a link carry nothing, one way.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Mends every link, starts every node, and makes the network kind.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.settings.loss = 0;
        self.settings.duplication = 0;
        for node in 0..self.nodes.len() {
            if !self.is_up(node) {
                self.start(node);
            }
        }
    }

    /// Mends every link, and nothing else.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// How many nodes there are, up or down.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The name under which the protocol knows a node.
    pub fn node_id(&self, node: usize) -> NodeId {
        self.nodes[node].identity.node
    }

    /// Whether the world is empty; it never is.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The preference list of an item, as any node that is up has it.
    pub fn preference(&self, table: &str, key: &[u8]) -> Vec<NodeId> {
        let machine = self.nodes.iter().find_map(|sim| sim.machine.as_ref());
        let Some(ring) = machine.and_then(Machine::ring) else {
            return Vec::new();
        };
        let position = crate::protocol::id::Position::of(table, key);
        ring.preference(ring.partition(position)).to_vec()
    }

    /// The id of a table, as any node that is up knows it.
    pub fn table_id(&self, name: &str) -> Option<TableId> {
        let machine = self.nodes.iter().find_map(|sim| sim.machine.as_ref())?;
        Some(machine.tables().get(name)?.id)
    }

    /// Whether every node serves clients and sees every other.
    pub fn is_settled(&self) -> bool {
        self.nodes.iter().all(|sim| {
            sim.machine.as_ref().is_some_and(|machine| {
                machine.readiness().is_ok()
                    && machine
                        .ring()
                        .is_some_and(|ring| ring.layout().nodes().len() == self.nodes.len())
                    && self
                        .nodes
                        .iter()
                        .all(|other| machine.is_up(other.identity.node))
            })
        })
    }

    /// How many hints all nodes hold together.
    pub fn hints(&self) -> usize {
        self.nodes
            .iter()
            .map(|sim| match held_hints(&sim.store) {
                Ok(count) => count as usize,
                Err(error) => panic!("memory does not fail: {error}"),
            })
            .sum()
    }

    /// What a node's store holds of an item.
    pub fn stored(&self, node: usize, key: &ItemKey) -> SiblingSet {
        self.nodes[node]
            .store
            .rows()
            .into_iter()
            .find(|(_, other, _)| other == key)
            .map(|(_, _, row)| row.set)
            .unwrap_or_default()
    }

    /// Asks a node on behalf of a client.
    pub fn ask(
        &mut self,
        node: usize,
        table: &str,
        key: &[u8],
        request: impl FnOnce(ItemRequest) -> ItemRequest,
    ) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        let Some(machine) = &self.nodes[node].machine else {
            // Nobody listens: the client's connection is refused.
            return id;
        };
        let (Some(table), Some(ring)) = (machine.tables().get(table).cloned(), machine.ring())
        else {
            return id;
        };
        let position = crate::protocol::id::Position::of(&table.name, key);
        let item = request(ItemRequest {
            table: table.id,
            partition: ring.partition(position),
            key: ItemKey::new(table.id, key, None),
            ask: crate::protocol::message::Ask::Get { raw: true },
            r: 2,
            w: 2,
            strict: false,
            timeout_ms: 1_000,
        });
        self.step(node, Input::Client { request: id, item });
        id
    }

    fn step(&mut self, node: usize, input: Input) {
        let now = self.now();
        if let Some(machine) = &mut self.nodes[node].machine {
            let effects = machine.step(now, input);
            self.carry_out(node, effects);
        }
    }

    /// Plays events until the virtual time is this much later.
    pub fn run(&mut self, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        while let Some((&(at_ms, _), _)) = self.events.first_key_value() {
            if at_ms > until_ms {
                break;
            }
            let (_, event) = self.events.pop_first().expect("there is one");
            self.now_ms = at_ms;
            self.happen(event);
        }
        self.now_ms = until_ms;
    }

    /// Plays on until `done` holds, at most this long. Whether it came to hold.
    pub fn run_until(&mut self, at_most_ms: u64, done: impl Fn(&World) -> bool) -> bool {
        let until_ms = self.now_ms + at_most_ms;
        while self.now_ms < until_ms {
            if done(self) {
                return true;
            }
            self.run(TICK_MS);
        }
        done(self)
    }
}
