//! A module's trial: whole clusters of the real machines fold with a module that
//! somebody wrote, while the network between them fails.
//!
//! Clients write the module's samples (or apply its operations) at all nodes of a
//! cluster at once, some after reading and some blindly, so that versions meet in
//! every order. The [`ledger`] knows what each value is made of. Promises: the
//! same module, seed and plan give the same trial; what is found was folded by the
//! module itself, on a node or because the check asked it to; a trial that finds
//! nothing says so in numbers, and never that there is nothing to find.
//!
//! What must hold: values that hold the same writes are the same, however the
//! writes met; every fold gives a value; and once the faults are over every
//! replica holds the same bytes and every node gives the same answer.
//!
//! `derivation.rs` says what values are made of, `shrink.rs` makes a finding small,
//! `tell.rs` tells it to people, and `module.rs` is the module in the sandbox.

pub mod derivation;
pub mod ledger;
pub mod module;
mod shrink;
pub mod tell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;

use self::derivation::{Asking, Guest, Made, Number};
use self::ledger::{Figures, Finding, Ledger};
pub use self::shrink::shrink;
use super::check::settle;
use super::faults::{FaultKind, FaultSet, Nemesis};
use super::guests::Scene;
use super::workload::{Plan as SimPlan, Tempo};
use super::{Settings, Violation, World};
use crate::clock::Dice;
use crate::protocol::catalog::{
    Catalog, Digest, Lawfulness, ModuleInfo, ModuleKind, TableDefinition,
};
use crate::protocol::context::Context;
use crate::protocol::effect::{GuestRequest, RequestId};
use crate::protocol::id::{ItemKey, TableId};
use crate::protocol::message::{Ask, ItemRequest, Response};
use crate::protocol::siblings::SiblingSet;

/// How long one cluster of a trial lives at most; a longer trial has several. In
/// so much time every kind of fault comes about some times, and a value is still
/// made of few enough writes to be looked through.
pub const ROUND_MS: u64 = 6_000;
/// How many clients there are: each goes on with the contexts that it was given.
const CLIENTS: usize = 4;
/// How many items each table has.
const ITEMS: usize = 2;
/// A fault comes every so often.
const PACE_MS: u64 = 60;
/// How long a cluster may take to form.
const FORMS_WITHIN_MS: u64 = 60_000;
/// How long a read of a healed cluster may take.
const READ_MS: u64 = 11_000;
/// How many orders the versions that are left at the end are folded in.
const ORDERS: usize = 4;
/// How many of the writes in a value are folded at once at the end.
const MAX_WRITES: usize = 96;
/// How many actors an item's context remembers: enough that nothing is cut, which
/// is no fault of the module's.
const MAX_ACTORS: u32 = 1_000;

/// The kinds of faults that a trial may have: those after which every
/// acknowledged write is still there and the members are the same.
pub const FAULTS: [FaultKind; 14] = [
    FaultKind::Delay,
    FaultKind::Loss,
    FaultKind::Duplication,
    FaultKind::OneWay,
    FaultKind::Partition,
    FaultKind::Clog,
    FaultKind::SlowNode,
    FaultKind::SlowDisk,
    FaultKind::Pause,
    FaultKind::Kill,
    FaultKind::PowerLoss,
    FaultKind::TornWrites,
    FaultKind::ClockStep,
    FaultKind::ClockDrift,
];

/// What is tried.
pub struct Subject {
    pub guest: Rc<dyn Guest>,
    pub digest: Digest,
    pub kind: ModuleKind,
    pub eager: bool,
    /// Values for clients to write, or operations; at least one.
    pub pool: Vec<Bytes>,
    /// Whether the samples are none of the module's own, so that it may refuse
    /// what clients write.
    pub lenient: bool,
}

/// One cluster of a trial.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub lasts_ms: u64,
    pub faults: FaultSet,
    /// Whether the story of each item is kept.
    pub story: bool,
}

impl Plan {
    /// What a seed says: half of the kinds of faults at a time find what all of
    /// them together would hide.
    pub fn of_seed(seed: u64, nodes: usize, lasts_ms: u64) -> Self {
        let mut dice = Dice::from_seed(seed ^ 0x7472_6961_6c21_2121);
        let faults = FAULTS
            .into_iter()
            .filter(|_| dice.next_u64().is_multiple_of(2));
        let faults = faults.fold(FaultSet::NONE, FaultSet::with);
        Plan {
            seed,
            nodes,
            lasts_ms,
            faults,
            story: false,
        }
    }

    /// The clusters of a trial that lasts so long in all.
    pub fn rounds(seed: u64, nodes: usize, lasts_ms: u64) -> Vec<Plan> {
        let count = lasts_ms.div_ceil(ROUND_MS).max(1);
        (0..count)
            .map(|round| {
                let left_ms = lasts_ms - round * ROUND_MS;
                Plan::of_seed(seed.wrapping_add(round), nodes, left_ms.min(ROUND_MS))
            })
            .collect()
    }
}

/// What a cluster broke.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The module's doing.
    Module(Finding),
    /// The cluster's: it did not come to rest, or replicas or answers differ.
    Cluster(Violation),
}

/// What came of one cluster.
pub struct Played {
    pub trouble: Option<Trouble>,
    /// When the trouble showed.
    pub at_ms: u64,
    pub ledger: Box<Ledger>,
    pub figures: Figures,
    pub simulated_ms: u64,
    pub asked: u64,
    pub acknowledged: u64,
    pub unavailable: u64,
    pub faults: BTreeMap<FaultKind, u64>,
    /// The last events around the trouble, if the plan wanted them.
    pub story: Vec<String>,
}

/// A table of the trial: its name, and from how many versions on its writes fold.
const TABLES: [(&str, Option<u32>); 3] =
    [("trial-1", Some(1)), ("trial-3", Some(3)), ("trial", None)];

fn propose(subject: &Subject) -> impl Fn(&mut Catalog) + 'static {
    let info = ModuleInfo {
        digest: subject.digest,
        size_bytes: 0,
        kind: subject.kind,
        eager: subject.eager,
        summary: "the module under trial".into(),
        version: "1".into(),
        // An unlawful one would not be folded eagerly, and would go unnoticed.
        lawfulness: Lawfulness::NoCounterexample { cases: 0 },
        built_in: false,
    };
    move |catalog| {
        catalog.propose_reconciler("trial", info.clone());
        for (name, fold_above) in TABLES {
            let definition = TableDefinition {
                reconciler: Some("trial".into()),
                fold_above,
                max_actors: MAX_ACTORS,
                ..TableDefinition::default()
            };
            catalog.propose_table(name, definition);
        }
    }
}

struct Item {
    table: &'static str,
    key: Vec<u8>,
}

struct Run<'a> {
    subject: &'a Subject,
    plan: Plan,
    world: World,
    dice: Dice,
    items: Vec<Item>,
    /// What each client holds of each item.
    held: Vec<Vec<Context>>,
    pending: BTreeMap<RequestId, (usize, usize, bool)>,
    asked: u64,
    acknowledged: u64,
    unavailable: u64,
}

/// Plays one cluster.
pub fn play(subject: &Subject, plan: Plan) -> Played {
    let asking = Asking {
        request: GuestRequest {
            digest: subject.digest,
            table: TABLES[0].0.into(),
            key: ItemKey::new(TableId(0), b"-", None),
            siblings: Vec::new(),
            operation: None,
            render: false,
            max_output_bytes: TableDefinition::default().max_value_bytes,
        },
    };
    let ledger = Box::new(Ledger::new(subject.guest.clone(), asking, subject.lenient));
    let scene = Scene {
        tables: Rc::new(propose(subject)),
        ledger: Some(ledger),
    };
    let settings: Settings = SimPlan::new(Tempo::Hectic, plan.nodes).settings;
    let mut run = Run {
        subject,
        plan,
        world: World::of(plan.seed, settings, scene),
        dice: Dice::from_seed(plan.seed ^ 0x6d6f_6475_6c65_2121),
        items: Vec::new(),
        held: Vec::new(),
        pending: BTreeMap::new(),
        asked: 0,
        acknowledged: 0,
        unavailable: 0,
    };
    if plan.story {
        run.world.keep_story();
    }
    for (table, _) in TABLES {
        for number in 0..ITEMS {
            let key = format!("k{number}").into_bytes();
            run.items.push(Item { table, key });
        }
    }
    run.held = vec![vec![Context::new(); run.items.len()]; CLIENTS];
    let mut nemesis = None;
    let outcome = run.live(&mut nemesis);
    let at_ms = run.world.now_ms;
    let ledger = run.world.scene.ledger.take().expect("put there above");
    let trouble = match (&ledger.finding, outcome) {
        (Some(finding), _) => Some(Trouble::Module(finding.clone())),
        (None, Err(violation)) => Some(Trouble::Cluster(violation)),
        (None, Ok(())) => None,
    };
    let item = match &trouble {
        Some(Trouble::Module(finding)) => {
            Some(ledger.all[shrink::subject_of(finding)].item.clone())
        }
        Some(Trouble::Cluster(violation)) => violation.item.clone(),
        None => None,
    };
    let story = match &trouble {
        Some(_) => run.world.story(item.as_ref()),
        None => Vec::new(),
    };
    Played {
        trouble,
        at_ms,
        figures: ledger.figures,
        ledger,
        simulated_ms: run.world.now_ms,
        asked: run.asked,
        acknowledged: run.acknowledged,
        unavailable: run.unavailable,
        faults: nemesis.map_or_else(BTreeMap::new, |nemesis| nemesis.counts),
        story,
    }
}

impl Run<'_> {
    fn below(&mut self, bound: usize) -> usize {
        (self.dice.next_u64() % bound as u64) as usize
    }

    fn ledger(&mut self) -> &mut Ledger {
        let ledger = self.world.scene.ledger.as_deref_mut();
        ledger.expect("a trial has a ledger until it is over")
    }

    fn is_over(&mut self) -> bool {
        self.ledger().finding.is_some() || self.world.violation.is_some()
    }

    fn violation(&self, item: Option<usize>, what: String) -> Violation {
        let item = item.map(|item| &self.items[item]);
        let item = item.and_then(|item| {
            let id = self.world.table_id(item.table)?;
            Some(ItemKey::new(id, &item.key, None))
        });
        Violation {
            invariant: 2,
            item,
            at_ms: self.world.now_ms,
            what,
        }
    }

    fn live(&mut self, nemesis: &mut Option<Nemesis>) -> Result<(), Violation> {
        if !self.world.run_until(FORMS_WITHIN_MS, World::is_settled) {
            return Err(self.violation(None, "no cluster formed".to_owned()));
        }
        let plan = self.plan;
        let nemesis = nemesis.insert(Nemesis::new(
            plan.seed,
            plan.faults,
            PACE_MS,
            &mut self.world,
        ));
        let until_ms = self.world.now_ms + plan.lasts_ms;
        while self.world.now_ms < until_ms {
            nemesis.act(&mut self.world);
            self.ask();
            // Often none at all: writes of one moment have one time.
            let gap_ms = (self.dice.next_u64() % 32).saturating_sub(16);
            self.world.run(gap_ms);
            self.collect();
            if self.is_over() {
                return self.outcome();
            }
        }
        nemesis.end_all(&mut self.world);
        self.world.heal();
        self.world.run(2_000);
        self.collect();
        settle(&mut self.world)?;
        for item in 0..self.items.len() {
            self.look_at(item)?;
            if self.is_over() {
                break;
            }
        }
        self.outcome()
    }

    fn outcome(&self) -> Result<(), Violation> {
        match &self.world.violation {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    /// Some client asks something of some node.
    fn ask(&mut self) {
        let (client, item) = (self.below(CLIENTS), self.below(self.items.len()));
        let node = self.below(self.world.len());
        if !self.world.is_up(node) {
            return;
        }
        let sample = self.below(self.subject.pool.len());
        let sample = self.subject.pool[sample].clone();
        let context = match self.below(2) {
            0 => Context::new(),
            _ => self.held[client][item].clone(),
        };
        let ask = match (self.below(8), self.subject.kind) {
            (0 | 1, _) => Ask::Get { raw: false },
            (_, ModuleKind::DataType) => Ask::Operate { operation: sample },
            (2, ModuleKind::Reconciler) => Ask::Delete {
                client: Some(context),
            },
            (_, ModuleKind::Reconciler) => Ask::Put {
                client: context,
                content_type: content_type(&sample).into(),
                value: sample,
                representation: false,
            },
        };
        let writes = !matches!(ask, Ask::Get { .. });
        let (r, w) = (1 + self.below(3) as u32, 1 + self.below(3) as u32);
        let Item { table, key } = &self.items[item];
        let id = self.world.ask(node, table, key, |request| ItemRequest {
            ask,
            r,
            w,
            ..request
        });
        self.asked += u64::from(writes);
        self.pending.insert(id, (client, item, writes));
    }

    fn collect(&mut self) {
        for (id, response) in std::mem::take(&mut self.world.responses) {
            let Some((client, item, writes)) = self.pending.remove(&id) else {
                continue;
            };
            let held = &mut self.held[client][item];
            match response {
                Response::Value(value) => *held = value.context,
                Response::Siblings { set, .. } => *held = set.context().clone(),
                Response::Written { context } => *held = context,
                Response::Absent { context } => *held = context.unwrap_or_default(),
                Response::Refused(_) => {
                    self.unavailable += u64::from(writes);
                    continue;
                }
                Response::Explained(_) => unreachable!("nobody asks for explanations"),
            }
            self.acknowledged += u64::from(writes);
        }
    }

    fn read(&mut self, node: usize, item: usize, raw: bool) -> Result<Response, Violation> {
        let Item { table, key } = &self.items[item];
        let n = self.world.len().min(3) as u32;
        let id = self.world.ask(node, table, key, |request| ItemRequest {
            ask: Ask::Get { raw },
            r: n,
            strict: true,
            timeout_ms: 10_000,
            ..request
        });
        self.world
            .run_until(READ_MS, |world| world.responses.contains_key(&id));
        match self.world.responses.remove(&id) {
            None | Some(Response::Refused(_)) => Err(self.violation(
                Some(item),
                "a read of a healed cluster was refused".to_owned(),
            )),
            Some(response) => Ok(response),
        }
    }

    /// Every replica holds the same bytes, every node gives the same answer, and
    /// what is left folds to it in any order.
    fn look_at(&mut self, item: usize) -> Result<(), Violation> {
        let set = match self.read(0, item, true)? {
            Response::Siblings { set, .. } => set,
            _ => SiblingSet::new(),
        };
        let mut first = None;
        for node in 0..self.world.len() {
            let Item { table, key } = &self.items[item];
            let n = self.world.len().min(3);
            let primaries = self.world.preference(table, key);
            let is_primary = primaries[..n].contains(&self.world.node_id(node));
            if is_primary && self.world.stored(node, table, key) != set {
                let name = format!("{table}/{}", key.escape_ascii());
                let what = format!("{name} differs on n{node} once everything has healed");
                return Err(self.violation(Some(item), what));
            }
            let answer = match self.read(node, item, false)? {
                Response::Value(value) => Some(value.value),
                _ => None,
            };
            let first = first.get_or_insert_with(|| answer.clone());
            if *first != answer {
                let what = format!("n{node} gives another answer than n0, of the same siblings");
                return Err(self.violation(Some(item), what));
            }
        }
        self.fold_all_ways(&set);
        Ok(())
    }

    /// What the versions that are left give, in several orders and groups, and all
    /// their writes at once.
    fn fold_all_ways(&mut self, set: &SiblingSet) {
        let at_ms = self.world.now_ms;
        let orders: Vec<u64> = (0..64).map(|_| self.dice.next_u64()).collect();
        let ledger = self.ledger();
        let numbers = set
            .siblings()
            .map(|(dot, version)| ledger.version(dot, version));
        let Some(numbers) = numbers.collect::<Option<Vec<Number>>>() else {
            return;
        };
        let Some(&first) = numbers.first() else {
            return;
        };
        let item = ledger.all[first].item.clone();
        let whole = match numbers.len() {
            1 => first,
            _ => match ledger.fold(&item, Made::Folded, numbers.clone(), at_ms) {
                Ok(whole) => whole,
                // A failure was met, and told, when clients read.
                Err(_) => return,
            },
        };
        for turn in 0..ORDERS {
            let mut order = numbers.clone();
            // Nodes fold in the order of the dots: backwards is what no node did.
            order.sort_by_key(|number| std::cmp::Reverse(ledger.all[*number].sibling.dot));
            let shuffled = if turn == 0 { 0 } else { order.len() };
            for at in (1..shuffled).rev() {
                let other = orders[(turn * 16 + at) % orders.len()] as usize % (at + 1);
                order.swap(at, other);
            }
            ledger.hold_against(whole, Made::FoldedAsListed, order.clone());
            // One after the other, as a replica meets them that hears of each alone.
            let mut met = order[0];
            for (place, next) in order.iter().enumerate().skip(1) {
                if place + 1 == order.len() {
                    ledger.hold_against(whole, Made::Folded, vec![met, *next]);
                } else if let Ok(folded) = ledger.fold(&item, Made::Folded, vec![met, *next], at_ms)
                {
                    met = folded;
                }
            }
        }
        let writes: BTreeSet<Number> = ledger.all[whole].writes.clone();
        let mut at_once: Vec<Number> = writes.into_iter().collect();
        let all_of_it = at_once.len() <= MAX_WRITES;
        at_once.drain(..at_once.len().saturating_sub(MAX_WRITES));
        if !all_of_it {
            // States that later ones include: they must change nothing beside them.
            if self.subject.kind == ModuleKind::Reconciler {
                return;
            }
            at_once.extend(
                numbers
                    .iter()
                    .filter(|number| !at_once.contains(number))
                    .copied()
                    .collect::<Vec<_>>(),
            );
        }
        self.ledger().hold_against(whole, Made::Folded, at_once);
    }
}

/// The media type that a client gives with a sample.
fn content_type(sample: &[u8]) -> &'static str {
    match serde_json::from_slice::<serde::de::IgnoredAny>(sample) {
        Ok(_) => "application/json",
        Err(_) => "application/octet-stream",
    }
}
