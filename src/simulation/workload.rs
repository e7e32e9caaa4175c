//! Clients of a simulated cluster: they write, read, delete, operate on and
//! recreate a few items through any node, each going on with the contexts that
//! it was given, while a [`Nemesis`] is at work.
//!
//! Every value of a register is written once in the whole run, so that whatever
//! comes to light names the write that it came from. `history.rs` holds what
//! clients did and were told; what follows from an answer at once is checked at
//! once.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::check::{on_absent, on_shown};
use super::disk::Durability;
use super::faults::{FaultKind, FaultSet, Nemesis};
use super::history::{History, Seen, Write};
use super::tables::Kind;
use super::{CALM_UPKEEP, NO_UPKEEP, Settings, World};
use crate::clock::Dice;
use crate::protocol::context::Context;
use crate::protocol::effect::RequestId;
use crate::protocol::message::{Ask, ItemRequest, Refusal, Response};

/// How long a cluster may take to form.
const FORMS_WITHIN_MS: u64 = 60_000;
/// How many replicas must have acknowledged a write for it to survive the loss
/// of one disk.
const SURVIVES_A_DISK: u32 = 2;

/// One of so many operations is on the hot item, besides its share of the rest.
const HEAT: usize = 4;

/// The items of a table with so many keys are cold.
const MANY_KEYS: usize = 10;

/// How fast a cluster and its clients are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tempo {
    /// Gossip five times a second, hundreds of operations a second, a fault every
    /// few dozen milliseconds: much happens in little time.
    Hectic,
    /// Gossip once a second, some operations a second, a fault every few
    /// seconds: as in production, so that detectors and back-offs matter.
    Calm,
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub settings: Settings,
    pub tempo: Tempo,
    pub clients: usize,
    /// How long clients and faults go on.
    pub lasts_ms: u64,
    pub faults: FaultSet,
    /// Whether the story of each item is kept.
    pub story: bool,
}

/// Faults that may take away what a disk holds.
pub const DESTRUCTIVE: [FaultKind; 4] = [
    FaultKind::Wipe,
    FaultKind::OldCopy,
    FaultKind::Corruption,
    FaultKind::Remove,
];
/// Of so many seeds one has faults that destroy.
const DESTRUCTIVE_SEEDS: u64 = 3;

impl Plan {
    /// The plan that goes with a tempo, with no faults.
    pub fn new(tempo: Tempo, nodes: usize) -> Self {
        let settings = match tempo {
            Tempo::Hectic => Settings {
                nodes,
                ..Settings::default()
            },
            Tempo::Calm => Settings {
                nodes,
                loss: 0,
                duplication: 0,
                tick_ms: 50,
                gossip_interval_ms: 1_000,
                upkeep: CALM_UPKEEP,
                ..Settings::default()
            },
        };
        let lasts_ms = match tempo {
            Tempo::Hectic => 6_000,
            Tempo::Calm => 600_000,
        };
        Plan {
            settings,
            tempo,
            clients: 4,
            lasts_ms,
            faults: FaultSet::NONE,
            story: false,
        }
    }

    /// What a seed says: how many nodes, and which kinds of faults. Half of the
    /// kinds at a time find what all of them together would hide (swarm testing,
    /// Groce et al., ISSTA 2012).
    pub fn of_seed(seed: u64, tempo: Tempo) -> Self {
        let mut dice = Dice::from_seed(seed ^ 0x706c_616e_706c_616e);
        let mut plan = Plan::new(tempo, 3 + (dice.next_u64() % 4) as usize);
        let destroys = dice.next_u64().is_multiple_of(DESTRUCTIVE_SEEDS);
        for kind in FaultKind::ALL {
            let chosen = dice.next_u64().is_multiple_of(2);
            let allowed = destroys || !DESTRUCTIVE.contains(&kind);
            if chosen && allowed {
                plan.faults = plan.faults.with(kind);
            }
        }
        if destroys && dice.next_u64().is_multiple_of(2) {
            plan.settings.durability = Durability::Os;
        }
        if plan.faults.has(FaultKind::OldCopy) {
            // A disk put back to before a reap brings back what was reaped: no
            // store can tell, and docs/guarantees.md says so.
            plan.settings.upkeep.reap_after_ms = NO_UPKEEP.reap_after_ms;
        }
        plan
    }

    /// Whether a disk may lose what was acknowledged.
    pub fn destroys(&self) -> bool {
        let loses = self.settings.durability == Durability::Os;
        self.faults.has_any(&DESTRUCTIVE) || (loses && self.faults.has(FaultKind::PowerLoss))
    }

    fn pace_ms(&self) -> u64 {
        match self.tempo {
            Tempo::Hectic => 60,
            Tempo::Calm => 2_000,
        }
    }

    fn gap_ms(&self, dice: u64) -> u64 {
        match self.tempo {
            Tempo::Hectic => (dice % 32).saturating_sub(16),
            Tempo::Calm => 50 + dice % 600,
        }
    }
}

/// What a client holds of one item: its context, and the writes that are in it.
#[derive(Clone, Debug, Default)]
struct Holding {
    context: Context,
    seen: Seen,
    lines: String,
}

struct Pending {
    item: usize,
    client: usize,
    asked_ms: u64,
    r: u32,
    w: u32,
    strict: bool,
    of: Asked,
}

enum Asked {
    Write { write: usize, seen: Seen },
    Read,
    Line { line: String },
    Add { amount: i64 },
}

/// What a run left behind, for the checks.
pub struct Run {
    pub plan: Plan,
    pub world: World,
    pub items: Vec<History>,
    pub nemesis: Nemesis,
    pub operations: u64,
    pub acknowledged: u64,
    pub unavailable: u64,
    dice: Dice,
    /// The item that is asked for most.
    hot: usize,
    /// The items that are not cold.
    warm: Vec<usize>,
    holdings: Vec<Vec<Holding>>,
    pending: BTreeMap<RequestId, Pending>,
}

impl Run {
    /// A cluster that has formed.
    pub fn new(seed: u64, plan: Plan) -> Result<Self, String> {
        let mut world = World::new(seed, plan.settings);
        if plan.story {
            world.keep_story();
        }
        if !world.run_until(FORMS_WITHIN_MS, World::is_settled) {
            return Err(format!("no cluster formed within {FORMS_WITHIN_MS} ms"));
        }
        let items = History::of_all(&world);
        let warm: Vec<usize> = (0..items.len())
            .filter(|&item| items[item].table.keys < MANY_KEYS)
            .collect();
        let nemesis = Nemesis::new(seed, plan.faults, plan.pace_ms(), &mut world);
        Ok(Run {
            plan,
            world,
            nemesis,
            operations: 0,
            acknowledged: 0,
            unavailable: 0,
            dice: Dice::from_seed(seed ^ 0x6b69_6e66_6f6c_6421),
            hot: warm[(seed % warm.len() as u64) as usize],
            warm,
            holdings: vec![vec![Holding::default(); items.len()]; plan.clients],
            items,
            pending: BTreeMap::new(),
        })
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.dice.next_u64() % bound as u64) as usize
    }

    /// Plays until the plan's time is over or something does not hold; then the
    /// faults end, and what is under way comes to its end.
    pub fn play(&mut self) {
        let until_ms = self.world.now_ms + self.plan.lasts_ms;
        // Towards the end clients are silent while the faults go on: what nodes do
        // by themselves has to come through without the next request's help.
        let quiet_ms = until_ms - self.plan.lasts_ms / 4;
        while self.world.now_ms < until_ms && self.world.violation.is_none() {
            self.nemesis.act(&mut self.world);
            if self.nemesis.wants_refill() {
                self.refill();
                continue;
            }
            if self.world.now_ms < quiet_ms {
                self.ask();
            }
            let dice = self.dice.next_u64();
            self.world.run(self.plan.gap_ms(dice));
            self.collect();
        }
        self.nemesis.end_all(&mut self.world);
        self.world.heal();
        self.world.run(2_000);
        self.collect();
    }

    /// Clients wait while a disk that lost something is filled again by its peers.
    fn refill(&mut self) {
        self.nemesis.end_all(&mut self.world);
        self.world.heal();
        self.world.run(2_000);
        self.collect();
        match super::check::settle(self) {
            Ok(()) => self.nemesis.refilled(),
            Err(violation) => {
                self.world.violation = self.world.violation.take().or(Some(violation))
            }
        }
        self.world.settings = self.plan.settings;
        self.world.set_upkeep(self.plan.settings.upkeep);
    }

    /// Some client asks something of some node.
    fn ask(&mut self) {
        let client = self.below(self.plan.clients);
        // One item is hot, so that its writers meet; the many cold ones together
        // are asked for as often.
        let item = match self.below(HEAT) {
            0 => self.hot,
            1 => self.below(self.items.len()),
            _ => {
                let place = self.below(self.warm.len());
                self.warm[place]
            }
        };
        let node = self.below(self.world.len());
        if !self.world.is_up(node) {
            return;
        }
        let n = self.items[item]
            .table
            .n
            .min(self.plan.settings.nodes as u32) as usize;
        let (r, w) = (1 + self.below(n) as u32, 1 + self.below(n) as u32);
        let strict = self.below(3) == 0;
        self.operations += 1;
        let (ask, of) = match self.items[item].table.kind {
            Kind::Register { .. } => self.ask_register(client, item),
            Kind::Lines => self.ask_lines(client, item),
            Kind::Set => {
                let line = format!("{client}.{}", self.operations);
                self.items[item].lines_asked.insert(line.clone());
                let operation = Bytes::from(line.clone());
                (Ask::Operate { operation }, Asked::Line { line })
            }
            Kind::Counter => {
                let amount = self.below(20) as i64 - 5;
                let operation = Bytes::from(amount.to_string());
                let of = Asked::Add { amount };
                match self.below(4) {
                    0 => (Ask::Get { raw: false }, Asked::Read),
                    _ => (Ask::Operate { operation }, of),
                }
            }
        };
        let history = &self.items[item];
        let (table, key) = (history.table.name, history.key.clone());
        let asked_ms = self.world.now_ms;
        let id = self.world.ask(node, table, &key, |request| ItemRequest {
            ask,
            r,
            w,
            strict,
            ..request
        });
        let pending = Pending {
            item,
            client,
            asked_ms,
            r,
            w,
            strict,
            of,
        };
        self.pending.insert(id, pending);
    }

    fn ask_register(&mut self, client: usize, item: usize) -> (Ask, Asked) {
        if self.below(5) < 2 {
            return (Ask::Get { raw: true }, Asked::Read);
        }
        let held = match self.below(4) {
            0 => Holding::default(),
            _ => self.holdings[client][item].clone(),
        };
        let value = (self.below(8) > 0).then(|| format!("{client}.{}", self.operations));
        let value = value.map(Bytes::from);
        let write = self.items[item].add_write(Write {
            value: value.clone(),
            seen: held.seen.clone(),
            acknowledged: false,
            survives: false,
        });
        let seen = held.seen;
        let ask = match value {
            Some(value) => Ask::Put {
                client: held.context,
                value,
                content_type: "text/plain".into(),
                representation: false,
            },
            None => Ask::Delete {
                client: Some(held.context),
            },
        };
        (ask, Asked::Write { write, seen })
    }

    /// A line is added blindly, or to the lines that the client read.
    fn ask_lines(&mut self, client: usize, item: usize) -> (Ask, Asked) {
        if self.below(4) == 0 {
            return (Ask::Get { raw: false }, Asked::Read);
        }
        let held = match self.below(2) {
            0 => Holding::default(),
            _ => self.holdings[client][item].clone(),
        };
        let line = format!("{client}.{}", self.operations);
        self.items[item].lines_asked.insert(line.clone());
        let value = Bytes::from(format!("{}\n{line}", held.lines));
        let ask = Ask::Put {
            client: held.context,
            value,
            content_type: "text/plain".into(),
            representation: false,
        };
        (ask, Asked::Line { line })
    }

    fn collect(&mut self) {
        for (id, response) in std::mem::take(&mut self.world.responses) {
            if let Some(pending) = self.pending.remove(&id) {
                self.on_response(pending, response);
            }
        }
    }

    fn on_response(&mut self, pending: Pending, response: Response) {
        let history = &mut self.items[pending.item];
        let held = &mut self.holdings[pending.client][pending.item];
        let survives = !self.plan.destroys() || pending.w >= SURVIVES_A_DISK;
        if let Response::Refused(refusal) = &response {
            self.unavailable += 1;
            if let Asked::Add { amount } = pending.of
                && may_be_stored(refusal)
            {
                history.unknown(amount);
            }
            return;
        }
        match (pending.of, response) {
            (Asked::Write { write, mut seen }, Response::Written { context }) => {
                self.acknowledged += 1;
                history.writes[write].acknowledged = true;
                history.writes[write].survives = survives;
                if pending.strict {
                    let (w, at_ms) = (pending.w, self.world.now_ms);
                    history.note_strict(write, w, at_ms);
                }
                seen.insert(write);
                *held = Holding {
                    context,
                    seen,
                    lines: String::new(),
                };
            }
            (Asked::Read, Response::Siblings { set, raw: true, .. }) => {
                let (r, strict, asked_ms) = (pending.r, pending.strict, pending.asked_ms);
                on_shown(
                    &mut self.world,
                    &self.plan,
                    history,
                    &set,
                    r,
                    strict,
                    asked_ms,
                );
                let seen = history.seen_in(&set);
                *held = Holding {
                    context: set.context().clone(),
                    seen,
                    lines: String::new(),
                };
            }
            (Asked::Read, Response::Value(value)) if history.table.kind == Kind::Lines => {
                *held = Holding {
                    context: value.context,
                    seen: Seen::default(),
                    lines: String::from_utf8_lossy(&value.value).into_owned(),
                };
            }
            (Asked::Read, Response::Absent { context: None }) => {
                on_absent(&mut self.world, &self.plan, history, pending.asked_ms);
            }
            (Asked::Line { line }, Response::Written { .. } | Response::Value(_)) => {
                self.acknowledged += 1;
                if survives {
                    history.lines_acknowledged.insert(line);
                }
            }
            (Asked::Add { amount }, Response::Value(_)) => {
                self.acknowledged += 1;
                if survives {
                    history.added(amount);
                } else {
                    history.unknown(amount);
                }
            }
            _ => {}
        }
    }

    /// What nobody was told of by the end may or may not have happened.
    pub fn give_up(&mut self) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Asked::Add { amount } = pending.of {
                self.items[pending.item].unknown(amount);
            }
        }
    }
}

/// Whether what was refused may have been stored all the same.
fn may_be_stored(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::QuorumUnmet { may_be_stored, .. } => *may_be_stored,
        Refusal::NoSuchTable
        | Refusal::Overloaded
        | Refusal::NotReady(_)
        | Refusal::TooManySiblings { .. }
        | Refusal::BadOperation(_)
        | Refusal::ReconcileFailed(_)
        | Refusal::Quarantined(_)
        | Refusal::Storage(_) => false,
    }
}
