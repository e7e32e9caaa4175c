//! What befalls a simulated cluster, when, and how it ends.
//!
//! Promises: the same seed and the same kinds give the same faults; every fault
//! ends, at the latest when [`Nemesis::end_all`] says so; at most
//! `MAX_AT_ONCE` stand at a time. Faults that destroy what a disk held strike
//! one disk, and strike again only after everything was copied back to it: with
//! two of three copies gone nothing could be promised.
//!
//! To add a kind: a line in [`FaultKind`] (`kinds.rs`), one in its `name`, an arm
//! in `Nemesis::strike`, and for what outlasts the moment one in `Nemesis::end`.

use std::collections::BTreeMap;

use super::clocks::NodeClock;
use super::disk::Durability;
use super::guests::Modules;
pub use super::kinds::{FaultKind, FaultSet, UnknownFault};
use super::members::Standing;
use super::play::Doom;
use super::{World, detection};
use crate::clock::Dice;
use crate::store::memory::FILES;

/// How many faults stand at a time at most: with more a cluster does nothing at
/// all, which shows nothing.
const MAX_AT_ONCE: usize = 4;
/// How much slower a slow node is.
const SLOWNESS: u64 = 20;
/// How far a clock may be off, in seconds.
const CLOCK_OFF_S: i64 = 3_600;
/// How much too fast a clock may be, in millionths: ten times what a bad quartz
/// does.
const MAX_DRIFT_PPM: u32 = 1_000;
/// Within how many of its node's events a crash comes.
const CRASH_WITHIN_EVENTS: u64 = 100;
/// How often a kind is drawn at most until one is among those that there are.
const DRAWS: u32 = 4;
/// Nobody leaves or is removed where so many or fewer are left: every table keeps
/// its three owners.
const MEMBERS_LEFT: usize = 3;
/// How many paces of the plan a fault lasts at most.
const LASTS_PACES: u64 = 15;

/// What ends a fault.
#[derive(Clone, Debug)]
enum Cure {
    KindNetwork(FaultKind),
    Mend(Vec<(usize, usize)>),
    Free(Vec<(usize, usize)>),
    QuickNode(usize),
    QuickDisk(usize),
    Resume(usize),
    Start(usize),
    Room(usize),
    ReadableDisk(usize),
    WorkingModules(usize),
    /// The power of a disk that lies fails.
    Truth(usize),
}

/// The one who does all this.
pub struct Nemesis {
    dice: Dice,
    kinds: FaultSet,
    /// A fault comes every so often, and lasts some of these.
    pace_ms: u64,
    next_ms: u64,
    /// What stands, by when it ends.
    cures: BTreeMap<(u64, u64), Cure>,
    struck: u64,
    /// How many of each kind there were.
    pub counts: BTreeMap<FaultKind, u64>,
    /// A disk lost what it held: nothing may be lost again before it is refilled.
    destroyed: bool,
    /// How many nodes may be added still.
    joiners: usize,
}

impl Nemesis {
    pub fn new(seed: u64, kinds: FaultSet, pace_ms: u64, world: &mut World) -> Self {
        let mut nemesis = Nemesis {
            dice: Dice::from_seed(seed ^ 0x6e65_6d65_7369_7321),
            kinds,
            pace_ms,
            next_ms: world.now_ms,
            cures: BTreeMap::new(),
            struck: 0,
            counts: BTreeMap::new(),
            destroyed: false,
            joiners: 2,
        };
        if kinds.has(FaultKind::ClockDrift) {
            for node in 0..world.len() {
                let offset_us = nemesis.clock_error_us();
                let drift_ppm = nemesis.below(u64::from(MAX_DRIFT_PPM) + 1) as u32;
                world.nodes[node].clock = NodeClock {
                    offset_us,
                    drift_ppm,
                };
                nemesis.count(FaultKind::ClockDrift);
            }
        }
        nemesis
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice.next_u64() % bound.max(1)
    }

    fn node(&mut self, world: &World) -> usize {
        self.below(world.len() as u64) as usize
    }

    fn clock_error_us(&mut self) -> i64 {
        let span = 2 * CLOCK_OFF_S * 1_000_000 + 1;
        self.below(span as u64) as i64 - CLOCK_OFF_S * 1_000_000
    }

    fn count(&mut self, kind: FaultKind) {
        *self.counts.entry(kind).or_default() += 1;
    }

    /// Whether a disk wants to be refilled from the others.
    pub fn wants_refill(&self) -> bool {
        self.destroyed && self.cures.is_empty()
    }

    /// Every disk holds again what it should.
    pub fn refilled(&mut self) {
        self.destroyed = false;
    }

    /// Ends what is over, and strikes when it is time.
    pub fn act(&mut self, world: &mut World) {
        while let Some(entry) = self.cures.first_entry() {
            if entry.key().0 > world.now_ms {
                break;
            }
            let cure = entry.remove();
            self.end(world, cure);
        }
        if world.now_ms < self.next_ms {
            return;
        }
        self.next_ms = world.now_ms + 1 + self.below(2 * self.pace_ms);
        let Some(kind) = self.draw() else { return };
        if self.cures.len() < MAX_AT_ONCE && !self.destroyed {
            self.strike(world, kind);
        }
    }

    /// Draws among all kinds, some times if need be: with few kinds there are
    /// fewer faults, and leaving out one changes little else.
    fn draw(&mut self) -> Option<FaultKind> {
        (0..DRAWS).find_map(|_| {
            let choice = self.below(FaultKind::ALL.len() as u64) as usize;
            Some(FaultKind::ALL[choice]).filter(|kind| self.kinds.has(*kind))
        })
    }

    /// Ends everything: the world is well again.
    pub fn end_all(&mut self, world: &mut World) {
        for (_, cure) in std::mem::take(&mut self.cures) {
            self.end(world, cure);
        }
    }

    fn until(&mut self, world: &mut World, kind: FaultKind, cure: Cure) {
        let lasts_ms = match kind {
            // Most pauses are as short as those that must not matter.
            FaultKind::Pause if self.below(3) > 0 => {
                self.below(detection::FORGIVEN_PAUSE_MS.min(2 * self.pace_ms)) + 1
            }
            _ => self.pace_ms / 2 + self.below(LASTS_PACES * self.pace_ms),
        };
        if let Cure::Resume(node) = cure {
            if lasts_ms <= detection::FORGIVEN_PAUSE_MS {
                world.detection.short_pauses += 1;
            } else {
                world.trouble_node(node);
            }
        }
        self.ends_in(world, lasts_ms, cure);
    }

    fn ends_in(&mut self, world: &World, in_ms: u64, cure: Cure) {
        self.struck += 1;
        self.cures.insert((world.now_ms + in_ms, self.struck), cure);
    }

    fn strike(&mut self, world: &mut World, kind: FaultKind) {
        let node = self.node(world);
        let is_up = world.is_up(node) && world.nodes[node].doomed.is_none();
        let cure = match kind {
            FaultKind::Delay => {
                world.network.delay_max_ms = Some(20 + self.below(400));
                Cure::KindNetwork(kind)
            }
            FaultKind::Loss => {
                world.network.extra_loss = 5 + self.below(50);
                Cure::KindNetwork(kind)
            }
            FaultKind::Duplication => {
                world.network.extra_duplication = 10 + self.below(90);
                Cure::KindNetwork(kind)
            }
            FaultKind::OneWay => {
                let other = self.node(world);
                if other == node {
                    return;
                }
                cut(world, vec![(node, other)])
            }
            FaultKind::Partition => {
                let links = self.partition(world.len());
                cut(world, links)
            }
            FaultKind::Clog => return self.swizzle(world),
            FaultKind::SlowNode if world.nodes[node].slowness == 1 => {
                world.nodes[node].slowness = SLOWNESS;
                world.trouble_node(node);
                Cure::QuickNode(node)
            }
            FaultKind::SlowDisk => {
                world.nodes[node].disk.slowness = SLOWNESS;
                Cure::QuickDisk(node)
            }
            FaultKind::Pause if is_up && world.nodes[node].paused.is_none() => {
                world.nodes[node].paused = Some(Vec::new());
                world.nodes[node].paused_ms = world.now_ms;
                Cure::Resume(node)
            }
            FaultKind::Kill if is_up => {
                let after_events = 1 + self.below(CRASH_WITHIN_EVENTS);
                world.nodes[node].doomed = Some(Doom {
                    after_events,
                    silent: false,
                    torn: false,
                });
                Cure::Start(node)
            }
            FaultKind::TornWrites if is_up => {
                let after_events = 1 + self.below(CRASH_WITHIN_EVENTS);
                // Writes pile up before it, so that there is something to tear.
                world.nodes[node].disk.slowness = SLOWNESS;
                world.nodes[node].doomed = Some(Doom {
                    after_events,
                    silent: true,
                    torn: true,
                });
                Cure::Start(node)
            }
            FaultKind::LyingDisk if is_up => {
                world.nodes[node].disk.lie();
                self.destroyed = true;
                Cure::Truth(node)
            }
            FaultKind::PowerLoss if is_up => {
                world.end(node, true);
                if world.settings.durability == Durability::Os {
                    self.destroyed = true;
                    let incarnation = self.dice.next_u64();
                    world.nodes[node].disk.lose_unsynced(incarnation);
                }
                Cure::Start(node)
            }
            FaultKind::DiskFull => {
                world.nodes[node].disk.full = true;
                Cure::Room(node)
            }
            FaultKind::ReadErrors => {
                world.nodes[node].disk.failing_reads = 20 + self.below(81);
                Cure::ReadableDisk(node)
            }
            FaultKind::ClockStep => {
                world.nodes[node].clock.offset_us = self.clock_error_us();
                world.tell(None, || format!("the clock of n{node} is set"));
                return self.count(kind);
            }
            FaultKind::Modules => {
                world.nodes[node].modules =
                    [Modules::Trap, Modules::Decline, Modules::Missing][self.below(3) as usize];
                Cure::WorkingModules(node)
            }
            FaultKind::Wipe if is_up => {
                world.end(node, false);
                world.wipe(node);
                self.destroyed = true;
                world.tell(None, || format!("the disk of n{node} is wiped"));
                // Somebody puts a new disk in once nothing else is wrong, so that it
                // is filled by every other owner.
                return self.count(kind);
            }
            FaultKind::OldCopy if is_up => {
                let choice = self.below(8) as usize;
                // Now somebody makes a copy, now one comes back.
                if choice < 2 || !world.nodes[node].disk.can_restore() {
                    world.nodes[node].disk.back_up();
                    return;
                }
                world.end(node, false);
                world.nodes[node].disk.restore(choice);
                self.destroyed = true;
                Cure::Start(node)
            }
            FaultKind::Join if self.joiners > 0 => {
                self.joiners -= 1;
                world.join();
                return self.count(kind);
            }
            FaultKind::Corruption if is_up => {
                let choice = self.dice.next_u64();
                if world.damage_any(node, choice) {
                    self.destroyed = true;
                    self.count(kind);
                }
                return;
            }
            FaultKind::Leave if is_up && world.members().len() > MEMBERS_LEFT => {
                if world.leave(node) {
                    self.count(kind);
                }
                return;
            }
            FaultKind::Remove
                if world.members().len() > MEMBERS_LEFT && world.members().contains(&node) =>
            {
                world.condemn(node);
                self.destroyed = true;
                return self.count(kind);
            }
            _ => return,
        };
        world.tell(None, || format!("{} begins: {cure:?}", kind.name()));
        self.count(kind);
        self.until(world, kind, cure);
    }

    /// Which links a partition cuts.
    fn partition(&mut self, nodes: usize) -> Vec<(usize, usize)> {
        let side: Vec<bool> = (0..nodes).map(|_| self.below(2) == 0).collect();
        // One node may hear both sides, and the cut may be one way.
        let bridge = self.below(2 * nodes as u64) as usize;
        let one_way = self.below(4) == 0;
        let mut links = Vec::new();
        for from in 0..nodes {
            for to in 0..nodes {
                let apart = side[from] != side[to] && from != bridge && to != bridge;
                if apart && (!one_way || side[from]) {
                    links.push((from, to));
                }
            }
        }
        links
    }

    /// Clogs the links of some nodes one after the other, to be freed in another
    /// order.
    fn swizzle(&mut self, world: &mut World) {
        for node in 0..world.len() {
            if self.below(3) > 0 {
                continue;
            }
            let links: Vec<(usize, usize)> = (0..world.len())
                .filter(|&other| other != node)
                .flat_map(|other| [(node, other), (other, node)])
                .filter(|_| self.below(3) > 0)
                .collect();
            for &(from, to) in &links {
                world.network.clog(from, to);
            }
            let in_ms = self.below(4 * self.pace_ms) + 1;
            self.ends_in(world, in_ms, Cure::Free(links));
        }
        world.tell(None, || "swizzle-clogging".to_owned());
        self.count(FaultKind::Clog);
    }

    fn end(&mut self, world: &mut World, cure: Cure) {
        world.tell(None, || format!("over: {cure:?}"));
        match cure {
            Cure::KindNetwork(FaultKind::Delay) => {
                world.network.delay_max_ms = None;
                world.trouble_all();
            }
            Cure::KindNetwork(FaultKind::Loss) => {
                world.network.extra_loss = 0;
                world.trouble_all();
            }
            Cure::KindNetwork(_) => world.network.extra_duplication = 0,
            Cure::Mend(links) => {
                for (from, to) in links {
                    world.network.mend(from, to);
                    world.trouble(from, to);
                }
            }
            Cure::Free(links) => {
                for (from, to) in links {
                    let frames = world.network.free(from, to);
                    world.release(frames);
                    world.trouble(from, to);
                }
            }
            Cure::QuickNode(node) => {
                world.nodes[node].slowness = 1;
                world.trouble_node(node);
            }
            Cure::QuickDisk(node) => world.nodes[node].disk.slowness = 1,
            Cure::Resume(node) => world.resume(node),
            Cure::Start(node) => {
                let doomed = world.nodes[node].doomed.take();
                if doomed.is_some_and(|doom| doom.torn) {
                    world.nodes[node].disk.slowness = 1;
                }
                let returns = matches!(
                    world.nodes[node].standing,
                    Standing::Member | Standing::Leaving
                );
                if returns && !world.is_up(node) {
                    world.start(node);
                }
            }
            Cure::Room(node) => world.nodes[node].disk.full = false,
            Cure::ReadableDisk(node) => world.nodes[node].disk.failing_reads = 0,
            Cure::WorkingModules(node) => world.nodes[node].modules = Modules::Work,
            Cure::Truth(node) => {
                if world.is_up(node) {
                    world.end(node, true);
                }
                let torn = self.below(2 * u64::from(FILES)) as u32;
                let torn = Some(torn).filter(|file| *file < FILES);
                world.nodes[node].disk.come_to_light(torn);
                let lasts_ms = 1 + self.below(2 * self.pace_ms);
                self.ends_in(world, lasts_ms, Cure::Start(node));
            }
        }
    }
}

fn cut(world: &mut World, links: Vec<(usize, usize)>) -> Cure {
    for &(from, to) in &links {
        world.network.cut(from, to);
    }
    Cure::Mend(links)
}

impl World {
    /// A paused process goes on: everything that waited happens at once.
    fn resume(&mut self, node: usize) {
        let Some(held) = self.nodes[node].paused.take() else {
            return;
        };
        if self.now_ms > self.nodes[node].paused_ms + detection::FORGIVEN_PAUSE_MS {
            self.trouble_node(node);
        }
        for event in held {
            self.happen(event);
        }
    }
}
