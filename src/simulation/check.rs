//! The invariants of the protocol, held against what a run's clients saw and
//! what its stores hold. Numbers are those of the protocol page.
//!
//! Some are checked while a run goes on: 5, and that a write is carried out once
//! and is later than what it saw, where a store changes a row (`disk.rs`); 4, 8
//! and what strict quorums promise, where a client is answered (here). The rest
//! is checked once the faults are over. 7 is 1 in runs that crash. 9 is a test of
//! its own.

use std::collections::BTreeSet;

use super::history::{History, Seen};
use super::tables::Kind;
use super::workload::{Plan, Run};
use super::{Violation, World};
use crate::protocol::catalog::DEFAULT_MAX_ACTORS;
use crate::protocol::machine::{DEFAULT_BACKGROUND_PERCENT, Upkeep};
use crate::protocol::message::{Ask, ItemRequest, Response};
use crate::protocol::siblings::SiblingSet;

use super::faults::FaultKind;

/// How long a healed cluster may take until everyone serves and sees everyone.
const SETTLES_WITHIN_MS: u64 = 120_000;
/// How long it may take until all hints are delivered: longer than the longest
/// pause after a target failed.
const HINTS_WITHIN_MS: u64 = 240_000;
/// How long it may take until the trees agree: some exchange intervals.
const AGREES_WITHIN_MS: u64 = 240_000;
/// How long after a read the repairs that it leads to take at most.
const REPAIRS_WITHIN_MS: u64 = 100;

/// How many actors the contexts of a table keep that says nothing of it.
const MAX_ACTORS: usize = DEFAULT_MAX_ACTORS as usize;

/// Faults after which hints alone need not bring every replica up to date: what
/// was in a process's memory is gone, or a hint could not be written.
const HINTS_ARE_LOST_BY: [FaultKind; 12] = [
    FaultKind::TornWrites,
    FaultKind::LyingDisk,
    FaultKind::Kill,
    FaultKind::PowerLoss,
    FaultKind::DiskFull,
    FaultKind::ReadErrors,
    FaultKind::Wipe,
    FaultKind::OldCopy,
    FaultKind::Corruption,
    FaultKind::Join,
    FaultKind::Leave,
    FaultKind::Remove,
];

fn violation(run: &Run, invariant: u8, item: Option<usize>, what: String) -> Violation {
    Violation {
        invariant,
        item: item.map(|item| run.items[item].item.clone()),
        at_ms: run.world.now_ms,
        what,
    }
}

/// Waits until everyone serves, no hint is left and the replicas agree.
pub(super) fn settle(world: &mut World) -> Result<(), Violation> {
    let violation = |world: &World, invariant, what| Violation {
        invariant,
        item: None,
        at_ms: world.now_ms,
        what,
    };
    if !world.run_until(SETTLES_WITHIN_MS, World::is_settled) {
        let why = world.unrest().unwrap_or_default();
        let what = format!("the cluster did not settle after it was healed: {why}");
        return Err(violation(world, 0, what));
    }
    if !world.run_until(HINTS_WITHIN_MS, |world| world.hints() == 0) {
        let what = format!("{} hints were not delivered", world.hints());
        return Err(violation(world, 2, what));
    }
    // What is forgotten from here on would only blur what is looked at.
    let upkeep = world.settings.upkeep;
    world.set_upkeep(Upkeep {
        reap_after_ms: 1 << 40,
        background_percent: DEFAULT_BACKGROUND_PERCENT,
        ..upkeep
    });
    let agreed = world.run_until(AGREES_WITHIN_MS, |world| {
        world.is_settled() && world.disagreement().is_none()
    });
    if !agreed {
        let why = world.disagreement();
        let what = format!("the replicas do not agree: {}", why.unwrap_or_default());
        return Err(violation(world, 2, what));
    }
    Ok(())
}

/// Reads an item from all replicas, which repairs those that differ.
fn read_all(run: &mut Run, item: usize, node: usize) -> Result<SiblingSet, Violation> {
    let history = &run.items[item];
    let n = history.table.n.min(run.world.members().len() as u32);
    let id = run
        .world
        .ask(node, history.table.name, &history.key, |request| {
            ItemRequest {
                ask: Ask::Get { raw: true },
                r: n,
                strict: true,
                timeout_ms: 10_000,
                ..request
            }
        });
    run.world
        .run_until(11_000, |world| world.responses.contains_key(&id));
    run.world.run(REPAIRS_WITHIN_MS);
    match run.world.responses.remove(&id) {
        Some(Response::Siblings { set, .. }) => Ok(set),
        Some(Response::Absent { context: None }) => Ok(SiblingSet::new()),
        other => {
            let what = format!("a read of a healed cluster gave {other:?}");
            Err(violation(run, 0, Some(item), what))
        }
    }
}

/// One of those that serve.
fn some_member(run: &Run, choice: usize) -> usize {
    let members = run.world.members();
    members[choice % members.len()]
}

/// Reads everything from everyone.
pub(super) fn read_everything(run: &mut Run) -> Result<(), Violation> {
    for item in 0..run.items.len() {
        read_all(run, item, some_member(run, item))?;
    }
    Ok(())
}

/// 2: every primary holds this, and nobody else anything.
fn check_replicas(run: &Run, item: usize, set: &SiblingSet) -> Result<(), Violation> {
    let history = &run.items[item];
    let preference = run.world.preference(history.table.name, &history.key);
    let n = (history.table.n as usize).min(preference.len());
    for node in run.world.members() {
        let stored = run.world.stored(node, history.table.name, &history.key);
        let is_primary = preference[..n].contains(&run.world.node_id(node));
        let expected = if is_primary {
            set.clone()
        } else {
            SiblingSet::new()
        };
        if stored != expected {
            let name = history.name();
            let what = format!("{name} on n{node} is {stored:?}, not {expected:?}");
            return Err(violation(run, 2, Some(item), what));
        }
    }
    Ok(())
}

/// Checks a run that has been played.
pub fn check(run: &mut Run) -> Result<(), Violation> {
    if let Some(violation) = &run.world.violation {
        return Err(violation.clone());
    }
    settle(&mut run.world)?;
    run.give_up();
    let items = run.items.len();
    if !run.plan.faults.has_any(&HINTS_ARE_LOST_BY) {
        // Hints alone have brought every replica up to date: those that hold the
        // most hold it all.
        run.world.run(2_000);
        for item in 0..items {
            let history = &run.items[item];
            let mut joined = SiblingSet::new();
            for node in 0..run.world.len() {
                joined.sync(&run.world.stored(node, history.table.name, &history.key));
            }
            if history.table.kind != (Kind::Register { forgets: true }) {
                check_replicas(run, item, &joined)?;
            }
        }
    }
    read_everything(run)?;
    // 6: reads of converged data write nothing.
    let writes = run.world.row_writes;
    for item in 0..items {
        let set = read_all(run, item, some_member(run, item + 1))?;
        check_replicas(run, item, &set)?;
        let checked = match run.items[item].table.kind {
            kind @ Kind::Register { .. } => {
                check_register(&run.items[item], &set, forgets(kind, &set))
            }
            Kind::Lines | Kind::Set => check_lines(&run.items[item], &set),
            Kind::Counter => check_counter(run, item),
        };
        checked.map_err(|(invariant, what)| {
            let name = run.items[item].name();
            violation(run, invariant, Some(item), format!("{name}: {what}"))
        })?;
    }
    if run.world.row_writes != writes {
        let what = "reads of converged data wrote something".to_owned();
        return Err(violation(run, 6, None, what));
    }
    match &run.world.violation {
        Some(violation) => Err(violation.clone()),
        None => Ok(()),
    }
}

type Checked = Result<(), (u8, String)>;

/// 1, 3 and 4 for a register.
fn check_register(history: &History, set: &SiblingSet, forgets: bool) -> Checked {
    let mut shown = BTreeSet::new();
    for (_, version) in set.siblings() {
        let Some(value) = &version.value else {
            continue;
        };
        match history.write_of(value) {
            Some(number) => shown.insert(number),
            None => return Err((4, format!("nobody wrote {}", value.escape_ascii()))),
        };
    }
    // Whoever had a write in a context may have superseded it, whether that
    // later write was acknowledged or not.
    let (mut may_be_over, mut must_be_over) = (Seen::default(), Seen::default());
    for write in &history.writes {
        may_be_over.join(&write.seen);
        if write.acknowledged && write.survives {
            must_be_over.join(&write.seen);
        }
    }
    for (number, write) in history.writes.iter().enumerate() {
        let Some(value) = &write.value else { continue };
        let value = value.escape_ascii();
        let is_shown = shown.contains(&number);
        let must_live = write.acknowledged && write.survives && !may_be_over.contains(number);
        if must_live && !is_shown {
            return Err((
                1,
                format!("the acknowledged write {value} is lost: {set:?}"),
            ));
        }
        if is_shown && must_be_over.contains(number) && !forgets {
            return Err((3, format!("the superseded write {value} is back: {set:?}")));
        }
    }
    Ok(())
}

/// 1 and 4 for lines: every acknowledged one is there, and no other.
fn check_lines(history: &History, set: &SiblingSet) -> Checked {
    let lines: BTreeSet<String> = set
        .siblings()
        .filter_map(|(_, version)| version.value.as_ref())
        .flat_map(|value| {
            String::from_utf8_lossy(value)
                .lines()
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    if let Some(lost) = history.lines_acknowledged.difference(&lines).next() {
        return Err((1, format!("the acknowledged line {lost} is lost: {set:?}")));
    }
    match lines.difference(&history.lines_asked).next() {
        Some(strange) => Err((4, format!("nobody wrote the line {strange}"))),
        None => Ok(()),
    }
}

/// 1 and 4 for a counter: it shows what was acknowledged, and of what was not
/// any part.
fn check_counter(run: &mut Run, item: usize) -> Checked {
    let node = some_member(run, 0);
    let history = &run.items[item];
    let id = run
        .world
        .ask(node, history.table.name, &history.key, |request| {
            ItemRequest {
                ask: Ask::Get { raw: false },
                ..request
            }
        });
    run.world.run(1_500);
    let (least, most) = (history.sum + history.less, history.sum + history.more);
    let shown = match run.world.responses.remove(&id) {
        Some(Response::Value(value)) => String::from_utf8_lossy(&value.value).parse::<i64>().ok(),
        Some(Response::Absent { .. }) => Some(0),
        _ => None,
    };
    match shown {
        None => Err((0, "a counter of a healed cluster has no value".to_owned())),
        Some(shown) if shown < least => Err((
            1,
            format!("the counter shows {shown}, at least {least} were added"),
        )),
        Some(shown) if shown > most => Err((
            4,
            format!("the counter shows {shown}, at most {most} were added"),
        )),
        Some(_) => Ok(()),
    }
}

/// A client was shown a register's siblings. 4: somebody wrote each of them. And
/// what strict quorums promise: with R + W > N, whatever was acknowledged before
/// the read began was seen by what it shows. (Not where disks go back to what they
/// held once, and not while members change.)
pub(super) fn on_shown(
    world: &mut World,
    plan: &Plan,
    history: &History,
    set: &SiblingSet,
    r: u32,
    strict: bool,
    asked_ms: u64,
) {
    for (_, version) in set.siblings() {
        if let Some(value) = &version.value
            && history.write_of(value).is_none()
        {
            let value = value.escape_ascii().to_string();
            world.violated(4, Some(&history.item), || format!("nobody wrote {value}"));
        }
    }
    if strict && !forgets(history.table.kind, set) {
        let n = history.table.n.min(plan.settings.nodes as u32);
        let strict = history.strict.iter();
        for promised in strict.filter(|promised| plan.promises_reads(promised.w)) {
            let value = history.writes[promised.write].value.as_ref();
            let dot = value.and_then(|value| world.dots.get(value)).copied();
            let Some(dot) = dot else { continue };
            let before = promised.at_ms < asked_ms;
            if before && promised.w + r > n && !set.context().covers(dot) {
                world.violated(1, Some(&history.item), || {
                    let w = promised.w;
                    format!(
                        "a strict read (r={r}) asked at {asked_ms} ms did not see the strict \
                         write of {dot:?} (w={w}), acknowledged at {} ms: {set:?}",
                        promised.at_ms
                    )
                });
            }
        }
    }
}

/// A client was told that nothing was ever written. 8: that cannot be once all
/// primaries have acknowledged a write.
pub(super) fn on_absent(world: &mut World, plan: &Plan, history: &History, asked_ms: u64) {
    let n = history.table.n.min(plan.settings.nodes as u32);
    let known = history
        .strict
        .iter()
        .find(|promised| promised.w == n && promised.at_ms < asked_ms);
    if let Some(promised) = known
        && plan.promises_reads(n)
    {
        let at_ms = promised.at_ms;
        world.violated(8, Some(&history.item), || {
            format!(
                "a read asked at {asked_ms} ms says that nothing was ever there, after all \
                 primaries acknowledged a write at {at_ms} ms"
            )
        });
    }
}

/// Whether truncation may have let something superseded come back: in a table
/// that keeps few actors, or in an item that as many have written as are kept.
fn forgets(kind: Kind, set: &SiblingSet) -> bool {
    kind == (Kind::Register { forgets: true }) || set.context().len() >= MAX_ACTORS
}
