//! A network and disks in virtual time for memberships. Every message goes
//! through the codec; a node that does not listen refuses, as a kernel does.

mod events;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::super::*;

/// How often a node is ticked, as a server does.
const TICK_MS: u64 = 10;
/// How long a disk takes unless a test says otherwise.
const DISK_MS: u64 = 7;

/// What goes wrong with messages.
#[derive(Clone, Copy)]
pub struct Faults {
    pub loss_percent: u64,
    pub repeat_percent: u64,
    /// Delays are drawn from 1 to this.
    pub longest_ms: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            loss_percent: 0,
            repeat_percent: 0,
            longest_ms: 3,
        }
    }
}

/// SplitMix64.
pub fn dice(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn identity(name: &str, seeds: &[&str]) -> Identity {
    Identity {
        name: name.into(),
        node: NodeId::of(name),
        address: format!("{name}:1").into(),
        weight_milli: 1_000,
        zone: "z".into(),
        wire_version: 1,
        seeds: seeds
            .iter()
            .map(|seed| {
                if seed.contains(':') {
                    (*seed).into()
                } else {
                    format!("{seed}:1").into()
                }
            })
            .collect(),
        partitions: 32,
        replicas: 3,
    }
}

/// A node that is only looked at.
pub fn lone_membership(name: &str) -> Membership {
    Membership::new(identity(name, &[]), Pace::default(), None, 1)
}

/// A node with a seed and no cluster, whose dice fell so at the start.
pub fn seeking_membership(name: &str, start_dice: u64) -> Membership {
    let identity = identity(name, &["elsewhere"]);
    Membership::new(identity, Pace::default(), None, start_dice << 32)
}

enum Event {
    Arrive {
        from: NodeId,
        from_name: String,
        address: Address,
        bytes: Vec<u8>,
    },
    Refused {
        name: String,
        life: u64,
        to: NodeId,
        bytes: Vec<u8>,
    },
    Stored {
        name: String,
        life: u64,
        revision: u64,
        bytes: Vec<u8>,
    },
    Transferred {
        name: String,
        life: u64,
        version: u64,
        digest: u128,
    },
}

struct Host {
    identity: Identity,
    running: Option<Membership>,
    life: u64,
    disk: Option<Vec<u8>>,
    skew_us: u64,
    asleep_until_ms: u64,
    renewals: u32,
    /// The layout that is being transferred.
    transfer: Option<(u64, u128)>,
    /// Whether it still holds what others lack.
    holds: bool,
}

pub struct Network {
    now_ms: u64,
    faults: Faults,
    disk_ms: u64,
    transfer_ms: u64,
    dice: Box<dyn FnMut() -> u64>,
    hosts: BTreeMap<String, Host>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    side: Vec<String>,
    reported: Vec<(String, Fault)>,
    traffic: (u64, u64),
}

impl Network {
    pub fn new(seed: u64, faults: Faults) -> Self {
        Network {
            now_ms: 0,
            faults,
            disk_ms: DISK_MS,
            transfer_ms: 0,
            dice: Box::new(dice(seed)),
            hosts: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            side: Vec::new(),
            reported: Vec::new(),
            traffic: (0, 0),
        }
    }

    pub fn add(&mut self, name: &str, seeds: &[&str]) {
        let host = Host {
            identity: identity(name, seeds),
            running: None,
            life: 0,
            disk: None,
            skew_us: 0,
            asleep_until_ms: 0,
            renewals: 0,
            transfer: None,
            holds: false,
        };
        self.hosts.insert(name.to_string(), host);
    }

    pub fn add_all(&mut self, names: &[&str], seeds: &[&str]) {
        names.iter().for_each(|name| self.add(name, seeds));
    }

    fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.get_mut(name).expect("the test added it")
    }

    pub fn reconfigure(&mut self, name: &str, address: &str, seeds: &[&str]) {
        let mut changed = identity(name, seeds);
        changed.address = address.into();
        self.host(name).identity = changed;
    }

    pub fn impersonate(&mut self, name: &str, node: NodeId) {
        self.host(name).identity.node = node;
    }

    pub fn rename(&mut self, name: &str, new: &str) {
        let identity = &mut self.host(name).identity;
        (identity.name, identity.node) = (new.into(), NodeId::of(new));
    }

    /// How long it takes a node to become synced from when it may begin.
    pub fn transfers_take(&mut self, transfer_ms: u64) {
        self.transfer_ms = transfer_ms;
    }

    /// Whether a node that leaves has yet to find a home for something.
    pub fn holds(&mut self, name: &str, holds: bool) {
        self.host(name).holds = holds;
    }

    pub fn leave(&mut self, name: &str) -> Result<(), LeaveRefused> {
        let node = self.host(name).running.as_mut().expect("it runs");
        let (result, out) = node.leave();
        self.carry_out(name, out);
        result
    }

    pub fn remove(&mut self, by: &str, name: &str) -> Result<(), RemoveRefused> {
        let node = self.host(by).running.as_mut().expect("it runs");
        let (result, out) = node.remove(NodeId::of(name));
        self.carry_out(by, out);
        result
    }

    /// The names of those that run.
    pub fn running(&self) -> Vec<String> {
        let running = self.hosts.iter().filter(|(_, host)| host.running.is_some());
        running.map(|(name, _)| name.clone()).collect()
    }

    pub fn weigh(&mut self, name: &str, weight_milli: u32) {
        self.host(name).identity.weight_milli = weight_milli;
    }

    pub fn skew_us(&mut self, name: &str, skew_us: u64) {
        self.host(name).skew_us = skew_us;
    }

    pub fn start(&mut self, name: &str) {
        let start_dice = (self.dice)();
        let host = self.host(name);
        assert!(host.running.is_none());
        let memory = host.disk.as_ref().map(|bytes| {
            postcard::from_bytes::<Persisted>(bytes).expect("a disk holds what was stored")
        });
        let membership =
            Membership::new(host.identity.clone(), Pace::default(), memory, start_dice);
        // As the contract says: before the first tick. A foreign disk is left alone.
        if membership.fatal.is_none() {
            host.disk = Some(encode(&membership.persisted()));
        }
        host.running = Some(membership);
        host.life += 1;
        host.asleep_until_ms = 0;
        host.transfer = None;
    }

    pub fn stop(&mut self, name: &str) {
        assert!(self.host(name).running.take().is_some());
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.hosts[name].running.is_some()
    }

    pub fn wipe(&mut self, name: &str) {
        let host = self.host(name);
        (host.disk, host.life) = (None, host.life + 1);
    }

    pub fn disk(&self, name: &str) -> Vec<u8> {
        self.hosts[name].disk.clone().expect("it was started")
    }

    pub fn restore(&mut self, name: &str, disk: Vec<u8>) {
        self.host(name).disk = Some(disk);
    }

    /// It neither ticks nor reads until then; what is sent to it waits.
    pub fn pause(&mut self, name: &str, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        self.host(name).asleep_until_ms = until_ms;
    }

    /// These hear only one another; messages across vanish.
    pub fn split(&mut self, side: &[&str]) {
        self.side = side.iter().map(ToString::to_string).collect();
    }

    pub fn heal(&mut self) {
        self.side.clear();
    }

    pub fn slow_disks(&mut self, disk_ms: u64) {
        self.disk_ms = disk_ms;
    }

    /// From now on this goes wrong.
    pub fn worsen(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// From now on nothing goes wrong.
    pub fn calm(&mut self) {
        self.faults = Faults::default();
    }

    pub fn node(&self, name: &str) -> &Membership {
        self.hosts[name].running.as_ref().expect("it runs")
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub fn renewals(&self, name: &str) -> u32 {
        self.hosts[name].renewals
    }

    pub fn faults(&self) -> &[(String, Fault)] {
        &self.reported
    }

    /// Messages and bytes sent so far.
    pub fn traffic(&self) -> (u64, u64) {
        self.traffic
    }

    pub fn change_catalog(&mut self, name: &str, change: impl FnOnce(&mut Catalog)) {
        let node = self.host(name).running.as_mut().expect("it runs");
        let ((), out) = node.change_catalog(change);
        self.carry_out(name, out);
    }

    /// Whether these, and nobody else, are one cluster in which all know the same
    /// and all that can hold data do.
    pub fn is_settled(&self, names: &[&str]) -> bool {
        let first = self.node(names[0]);
        let stamp = |node: &Membership| {
            let layout = node.layout()?;
            Some((
                node.cluster()?,
                layout.version(),
                layout.digest(),
                node.catalog().digest(),
            ))
        };
        names.iter().all(|name| {
            let node = self.node(name);
            let placed = node.layout().is_some_and(|layout| {
                node.me().weight_milli == 0 || layout.nodes().contains(&node.me().node)
            });
            placed
                && stamp(node).is_some()
                && stamp(node) == stamp(first)
                && names.iter().all(|other| {
                    let other = self.node(other).me();
                    node.member(other.node).is_some_and(|member| {
                        member.status == Status::Up && member.incarnation == other.incarnation
                    })
                })
        })
    }

    /// Runs until the nodes are settled; when they are.
    pub fn settle(&mut self, names: &[&str], until_ms: u64) -> Option<u64> {
        while self.now_ms < until_ms {
            self.run_until(self.now_ms + TICK_MS);
            if self.is_settled(names) {
                return Some(self.now_ms);
            }
        }
        None
    }

    pub fn describe(&self) -> String {
        let mut text = format!("at {} ms\n", self.now_ms);
        for (name, host) in &self.hosts {
            let Some(node) = &host.running else {
                text += &format!("{name}: not running\n");
                continue;
            };
            let members: Vec<String> = node
                .members()
                .map(|m| {
                    format!(
                        "{} {:?} {}.{}",
                        m.name, m.status, m.incarnation, m.heartbeat
                    )
                })
                .collect();
            text += &format!(
                "{name}: {:?}, {:?}, {members:?}, {:?}\n",
                node.cluster(),
                node.layout(),
                node.is_ready(self.now_ms)
            );
        }
        text
    }

    pub fn run_until(&mut self, until_ms: u64) {
        while self.now_ms < until_ms {
            self.now_ms += 1;
            while let Some(&Reverse((at_ms, number))) = self.queue.peek() {
                if at_ms > self.now_ms {
                    break;
                }
                self.queue.pop();
                let event = self.events.remove(&number).expect("queued with its number");
                self.happen(event);
            }
            if self.now_ms.is_multiple_of(TICK_MS) {
                let names: Vec<String> = self.hosts.keys().cloned().collect();
                names.iter().for_each(|name| self.tick(name));
            }
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("values encode into memory")
}
