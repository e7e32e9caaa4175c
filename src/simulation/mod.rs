//! The seeded world: whole clusters of the machines that the server runs, on a
//! network, disks and clocks of its own making.
//!
//! A [`World`] holds some nodes, each a [`Machine`] over a [`MemoryStore`], and
//! one queue of events in virtual time. Messages pass through the wire's codec
//! and may be delayed, lost, repeated and reordered; links fail one way or keep
//! what they should carry; nodes crash at any event, pause, are slow, and come
//! back with what their disk holds, or with less. Promises: the same seed and the
//! same calls give the same run, event for event ([`World::trace_hash`] says so).
//!
//! `network.rs`, `disk.rs`, `clocks.rs` and `guests.rs` are what nodes run on,
//! `faults.rs` is what befalls them, `workload.rs` drives clients, `check.rs`
//! holds what they saw against the invariants of the protocol, `explore.rs` plays
//! seeds and makes failures small, and `seeds.rs` lists those that every build
//! plays. `detection.rs` and `trace.rs` only look on.
//!
//! [`MemoryStore`]: crate::store::memory::MemoryStore

pub mod check;
mod clocks;
pub mod detection;
mod disk;
pub mod explore;
pub mod faults;
mod guests;
pub mod history;
pub mod members;
#[cfg(test)]
mod model;
#[cfg(test)]
mod mutants;
mod network;
mod play;
mod publish;
#[cfg(test)]
mod repair;
pub mod seeds;
pub mod settings;
pub mod tables;
mod trace;
#[cfg(test)]
mod transcripts;
mod violation;
pub mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use bytes::Bytes;

use self::clocks::NodeClock;
use self::detection::{Detection, End};
use self::disk::{Disk, set_of};
use self::guests::Modules;
use self::members::Standing;
use self::network::{Frame, Network};
use self::play::Doom;
pub use self::settings::{CALM_UPKEEP, HECTIC_UPKEEP, NO_UPKEEP, Settings};
use self::tables::propose_tables;
pub use self::tables::{RAW_TABLE, UNION_TABLE};
use self::trace::Tracer;
pub use self::violation::Violation;
use crate::clock::Dice;
use crate::protocol::catalog::{Applied, Digest};
use crate::protocol::dot::Dot;
use crate::protocol::effect::{
    Address, GuestReply, Input, JobId, RequestId, StoreError, StoreReply, StoreRequest,
};
use crate::protocol::id::{ItemKey, NodeId, Position, TableId};
use crate::protocol::machine::{MEMBERSHIP_RECORD, Machine, PublishRefused};
use crate::protocol::membership::{Identity, Pace};
use crate::protocol::message::{Ask, ItemRequest, Message, Response};
use crate::protocol::siblings::SiblingSet;
use crate::protocol::time::Now;
use crate::store::Store;

/// Something that will happen.
enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    Deliver(Frame),
    Undelivered {
        node: usize,
        life: u64,
        to: NodeId,
        message: Box<Message>,
    },
    /// The connection to a process that was killed breaks.
    Disconnected {
        node: usize,
        life: u64,
        peer: NodeId,
    },
    /// The store of a node gets round to its next change.
    Commit {
        node: usize,
        life: u64,
    },
    /// The store of a node reads.
    ReadNow {
        node: usize,
        life: u64,
        job: JobId,
        request: Box<StoreRequest>,
    },
    Stored {
        node: usize,
        life: u64,
        job: JobId,
        reply: Box<Result<StoreReply, StoreError>>,
    },
    Guest {
        node: usize,
        life: u64,
        job: JobId,
        reply: GuestReply,
    },
    /// A module that came is kept.
    Kept {
        node: usize,
        life: u64,
        digest: Digest,
    },
}

/// One node: what survives a crash, and what does not.
struct SimNode {
    identity: Identity,
    disk: Disk,
    clock: NodeClock,
    modules: Modules,
    /// None while it is down.
    machine: Option<Machine>,
    /// Which life this is: events of former lives come to nothing.
    life: u64,
    started_ms: u64,
    /// How its last life ended.
    end: Option<End>,
    /// How many times slower than it should be everything that it does is.
    slowness: u64,
    /// While it is paused, what waits for it to go on.
    paused: Option<Vec<Event>>,
    /// When it was last paused.
    paused_ms: u64,
    /// After so many events its process ends, in the midst of one.
    doomed: Option<Doom>,
    standing: Standing,
}

/// A cluster and its fate.
pub struct World {
    settings: Settings,
    pub now_ms: u64,
    /// Virtual time, then the order in which events were planned.
    events: BTreeMap<(u64, u64), Event>,
    planned: u64,
    /// How many events have happened.
    pub happened: u64,
    dice: Dice,
    nodes: Vec<SimNode>,
    by_address: BTreeMap<Address, usize>,
    network: Network,
    /// What clients were told, until somebody takes it.
    pub responses: BTreeMap<RequestId, Response>,
    /// What operators were told, likewise.
    pub outcomes: BTreeMap<RequestId, Result<Applied, PublishRefused>>,
    next_request: u64,
    /// Every dot that was minted, and the value it named.
    pub minted: BTreeMap<Dot, Option<Bytes>>,
    /// Tables whose every value is written once, and the dot of each such value.
    registers: BTreeSet<TableId>,
    dots: BTreeMap<Bytes, Dot>,
    /// Changes that stores made to rows.
    pub row_writes: u64,
    /// What did not hold so far; the run ends with the first.
    pub violation: Option<Violation>,
    pub detection: Detection,
    tracer: Option<Tracer>,
    trace: DefaultHasher,
}

fn address(node: usize) -> Address {
    format!("10.0.0.{}:1", node + 1).into()
}

/// How many of the nodes are seeds to all.
const SEEDS: usize = 3;

impl World {
    /// A cluster that starts now, all nodes at once.
    pub fn new(seed: u64, settings: Settings) -> Self {
        let mut world = World {
            settings,
            now_ms: 0,
            events: BTreeMap::new(),
            planned: 0,
            happened: 0,
            dice: Dice::from_seed(seed),
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            network: Network::default(),
            responses: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            next_request: 0,
            minted: BTreeMap::new(),
            registers: BTreeSet::new(),
            dots: BTreeMap::new(),
            row_writes: 0,
            violation: None,
            detection: Detection::default(),
            tracer: None,
            trace: DefaultHasher::new(),
        };
        for _ in 0..settings.nodes {
            world.add();
        }
        for node in 0..settings.nodes {
            world.start(node);
        }
        world
    }

    /// Keeps the story of each item from now on.
    pub fn keep_story(&mut self) {
        self.tracer = Some(Tracer::default());
    }

    /// A node that is not started yet: with the first nodes as seeds it will ask
    /// to join.
    pub fn add(&mut self) -> usize {
        let node = self.nodes.len();
        let name = format!("n{node}");
        let identity = Identity {
            node: NodeId::of(&name),
            name: name.into(),
            address: address(node),
            weight_milli: 1000,
            zone: "z".into(),
            wire_version: 1,
            seeds: (0..self.settings.nodes.min(SEEDS)).map(address).collect(),
            partitions: 16,
            replicas: 3,
        };
        self.by_address.insert(address(node), node);
        let disk = Disk::new(self.dice.next_u64());
        self.nodes.push(SimNode {
            identity,
            disk,
            clock: NodeClock::default(),
            modules: Modules::default(),
            machine: None,
            life: 0,
            started_ms: 0,
            end: None,
            slowness: 1,
            paused: None,
            paused_ms: 0,
            doomed: None,
            standing: Standing::Member,
        });
        node
    }

    fn now(&self, node: usize) -> Now {
        self.nodes[node].clock.now(self.now_ms)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice.next_u64() % bound.max(1)
    }

    /// How many times slower a node is than it should be.
    fn slowness(&self, node: usize) -> u64 {
        self.nodes[node].slowness
    }

    fn plan(&mut self, in_ms: u64, event: Event) {
        self.planned += 1;
        self.events
            .insert((self.now_ms + in_ms, self.planned), event);
    }

    /// Something does not hold. The first is what counts: the rest follows.
    fn violated(&mut self, invariant: u8, item: Option<&ItemKey>, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.tell(item, || format!("VIOLATED: {what}"));
            self.violation = Some(Violation {
                invariant,
                item: item.cloned(),
                at_ms: self.now_ms,
                what,
            });
        }
    }

    /// Adds to the story, if it is kept.
    fn tell(&mut self, item: Option<&ItemKey>, text: impl FnOnce() -> String) {
        if let Some(tracer) = &mut self.tracer {
            tracer.tell(self.now_ms, item, text());
        }
    }

    /// The last events of an item and of the cluster, as lines; none when no
    /// story was kept.
    pub fn story(&self, item: Option<&ItemKey>) -> Vec<String> {
        let tracer = self.tracer.as_ref();
        tracer.map_or_else(Vec::new, |tracer| tracer.story(item))
    }

    /// A node begins a life with what its store holds.
    pub fn start(&mut self, node: usize) {
        assert!(self.nodes[node].machine.is_none(), "the node is up");
        let seed = self.dice.next_u64();
        let now = self.now(node);
        let pace = Pace::new(self.settings.gossip_interval_ms);
        // Seeds that left are of no use: operators keep the list up to date.
        let members: Vec<_> = self.members().into_iter().map(address).collect();
        let seeds = &mut self.nodes[node].identity.seeds;
        let missing = members.into_iter().filter(|seed| !seeds.contains(seed));
        let missing: Vec<_> = missing.collect();
        seeds.extend(missing);
        let sim = &mut self.nodes[node];
        sim.life += 1;
        sim.started_ms = self.now_ms;
        let life = sim.life;
        let record = sim
            .disk
            .store
            .meta(MEMBERSHIP_RECORD)
            .expect("memory does not fail");
        let persisted = record
            .map(|bytes| Machine::read_record(&bytes).expect("a store holds what was written"));
        let mut dice = Dice::from_seed(seed);
        let (mut machine, mut effects) = Machine::new(
            sim.identity.clone(),
            pace,
            persisted,
            sim.disk.store.incarnation(),
            now,
            Box::new(move || dice.next_u64()),
        );
        machine.set_upkeep(self.settings.upkeep);
        // Every node's config file says the same of the tables.
        let (_, more) = machine.change_catalog(now, propose_tables);
        effects.extend(more);
        self.registers = tables::registers(machine.tables());
        sim.machine = Some(machine);
        self.trouble_node(node);
        self.forget_opinions(node);
        let name = self.name(node);
        self.tell(None, || format!("{name} starts"));
        let tick_ms = self.settings.tick_ms;
        self.plan(tick_ms, Event::Tick { node, life });
        self.carry_out(node, effects);
        self.show_shelf(node);
    }

    /// A node stops at once. What its store had not committed is gone.
    pub fn crash(&mut self, node: usize) {
        self.end(node, false);
    }

    /// A node's process ends: refusing connections from now on, or in silence.
    fn end(&mut self, node: usize, silent: bool) {
        let at_ms = self.now_ms;
        let sim = &mut self.nodes[node];
        sim.machine = None;
        sim.disk.queue.clear();
        sim.paused = None;
        sim.doomed = None;
        sim.end = Some(End { at_ms, silent });
        self.note(&[1, node as u8]);
        let name = self.name(node);
        self.tell(None, || {
            let how = if silent { " in silence" } else { "" };
            format!("{name} ends{how}")
        });
        if !silent {
            self.break_connections(node);
        }
    }

    /// Loses a node's disk; it must be down.
    pub fn wipe(&mut self, node: usize) {
        assert!(self.nodes[node].machine.is_none(), "the node is up");
        let incarnation = self.dice.next_u64();
        self.nodes[node].disk = Disk::new(incarnation);
    }

    /// Whether a node runs.
    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].machine.is_some()
    }

    /// Lets a link carry nothing, one way.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.network.cut(from, to);
    }

    /// Mends every link that was cut, and nothing else.
    pub fn mend(&mut self) {
        self.network.mend_all();
    }

    /// Starts every node that is down, and makes the network kind.
    pub fn heal(&mut self) {
        self.network.mend_all();
        self.settings.loss = 0;
        self.settings.duplication = 0;
        self.start_all();
    }

    /// Starts every node that is down.
    fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].doomed = None;
            let returns = matches!(
                self.nodes[node].standing,
                Standing::Member | Standing::Leaving
            );
            if returns && !self.is_up(node) {
                self.start(node);
            }
        }
    }

    /// How many nodes there are, up or down.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The name under which the protocol knows a node.
    pub fn node_id(&self, node: usize) -> NodeId {
        self.nodes[node].identity.node
    }

    /// The name by which people know a node.
    fn name(&self, node: usize) -> String {
        if self.tracer.is_some() {
            format!("n{node}")
        } else {
            String::new()
        }
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
        let position = Position::of(table, key);
        ring.preference(ring.partition(position)).to_vec()
    }

    /// The id of a table, as any node that is up knows it.
    pub fn table_id(&self, name: &str) -> Option<TableId> {
        let machine = self.nodes.iter().find_map(|sim| sim.machine.as_ref())?;
        Some(machine.tables().get(name)?.id)
    }

    /// What a node's store holds of an item of this table.
    pub fn stored(&self, node: usize, table: &str, key: &[u8]) -> SiblingSet {
        let machine = self.nodes.iter().find_map(|sim| sim.machine.as_ref());
        let found = machine.and_then(|machine| {
            let ring = machine.ring()?;
            let id = machine.tables().get(table)?.id;
            let partition = ring.partition(Position::of(table, key));
            let key = ItemKey::new(id, key, None);
            set_of(&self.nodes[node].disk.store, partition, &key).ok()
        });
        found.unwrap_or_default()
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
        let position = Position::of(&table.name, key);
        let item = request(ItemRequest {
            table: table.id,
            partition: ring.partition(position),
            key: ItemKey::new(table.id, key, None),
            ask: Ask::Get { raw: true },
            r: 2,
            w: 2,
            strict: false,
            timeout_ms: 1_000,
        });
        if let Some(tracer) = &mut self.tracer {
            tracer.on_request(id, &item.key);
            let (r, w, strict) = (item.r, item.w, if item.strict { ", strict" } else { "" });
            let what = trace::ask(&item.ask);
            let text = format!("n{node} is asked for {what} (r={r}, w={w}{strict})");
            tracer.tell(self.now_ms, Some(&item.key), text);
        }
        self.step(node, Input::Client { request: id, item });
        id
    }

    /// Plays events until the virtual time is this much later.
    pub fn run(&mut self, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        while let Some(entry) = self.events.first_entry() {
            let at_ms = entry.key().0;
            if at_ms > until_ms {
                break;
            }
            let event = entry.remove();
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
            self.run(self.settings.tick_ms);
        }
        done(self)
    }

    fn note(&mut self, bytes: &[u8]) {
        self.trace.write_u64(self.now_ms);
        self.trace.write(bytes);
    }

    /// A hash over every message and answer so far, in their order.
    pub fn trace_hash(&self) -> u64 {
        self.trace.finish()
    }
}
