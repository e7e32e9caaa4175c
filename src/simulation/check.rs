//! The invariants of the protocol, held against what a run's clients saw and
//! what its stores hold. Numbers are those of the protocol page.

use std::collections::BTreeSet;

use super::workload::{Run, UNION_KEY, key_name};
use super::{RAW_TABLE, UNION_TABLE, World};
use crate::protocol::id::ItemKey;
use crate::protocol::message::{Ask, ItemRequest, Response};
use crate::protocol::siblings::SiblingSet;

/// What a run shows, when all invariants hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub operations: u64,
    pub acknowledged: u64,
    pub unavailable: u64,
    pub crashes: u64,
    pub dots: usize,
}

/// Reads an item from all replicas, which repairs those that differ.
fn read_all(world: &mut World, node: usize, table: &str, key: &[u8]) -> Result<SiblingSet, String> {
    let id = world.ask(node, table, key, |request| ItemRequest {
        ask: Ask::Get { raw: true },
        r: 3,
        strict: true,
        ..request
    });
    world.run(1_500);
    match world.responses.remove(&id) {
        Some(Response::Siblings { set, .. }) => Ok(set),
        Some(Response::Absent { context: None }) => Ok(SiblingSet::new()),
        other => Err(format!("a read of a healed cluster gave {other:?}")),
    }
}

fn item_key(world: &World, table: &str, key: &[u8]) -> Result<ItemKey, String> {
    let id = world
        .table_id(table)
        .ok_or_else(|| format!("no node knows the table {table}"))?;
    Ok(ItemKey::new(id, key, None))
}

/// Checks a run that has been healed.
pub fn check(run: &mut Run) -> Result<Verdict, String> {
    let nodes = run.world.len();
    // 5: nothing mends a dot that was minted twice.
    if let Some(dot) = run.world.double_mints.first() {
        return Err(format!("{dot:?} names two writes"));
    }
    if !run.world.run_until(60_000, World::is_settled) {
        return Err("the cluster did not settle after it was healed".to_owned());
    }
    // 2: no hint is left once work has drained.
    if !run.world.run_until(120_000, |world| world.hints() == 0) {
        return Err(format!("{} hints were not delivered", run.world.hints()));
    }
    let mut items: Vec<(&str, Vec<u8>)> = (0..run.keys.len())
        .map(|key| (RAW_TABLE, key_name(key)))
        .collect();
    items.push((UNION_TABLE, UNION_KEY.to_vec()));
    for (table, key) in &items {
        read_all(&mut run.world, 0, table, key)?;
    }
    // 6: reads of converged data write nothing.
    let writes = run.world.row_writes;
    for (number, (table, key)) in items.iter().enumerate() {
        let set = read_all(&mut run.world, number % nodes, table, key)?;
        // 2: all replicas are the same, byte for byte.
        let id = item_key(&run.world, table, key)?;
        // 2 again: no stray is left either.
        let primaries = &run.world.preference(table, key)[..3];
        for node in 0..nodes {
            let stored = run.world.stored(node, &id);
            let is_primary = primaries.contains(&run.world.node_id(node));
            let expected = if is_primary {
                set.clone()
            } else {
                SiblingSet::new()
            };
            if stored != expected {
                let key = key.escape_ascii();
                return Err(format!(
                    "{table}/{key} on node {node} is {stored:?}, not {expected:?}"
                ));
            }
        }
        if *table == RAW_TABLE {
            check_key(run, number, &set)?;
        } else {
            check_lines(run, &set)?;
        }
    }
    if run.world.row_writes != writes {
        return Err("reads of converged data wrote something".to_owned());
    }
    Ok(Verdict {
        operations: run.operations,
        acknowledged: run.acknowledged,
        unavailable: run.unavailable,
        crashes: run.crashes,
        dots: run.world.minted.len(),
    })
}

/// 1, 3 and 4 for one key of the raw table.
fn check_key(run: &Run, key: usize, set: &SiblingSet) -> Result<(), String> {
    let writes = &run.keys[key].writes;
    let values: BTreeSet<&[u8]> = set
        .siblings()
        .filter_map(|(_, version)| version.value.as_deref())
        .collect();
    for value in &values {
        if !writes
            .iter()
            .any(|write| write.value.as_deref() == Some(value))
        {
            return Err(format!("nobody wrote {}", value.escape_ascii()));
        }
    }
    for (number, write) in writes.iter().enumerate() {
        let Some(value) = &write.value else { continue };
        let shown = values.contains(value.as_slice());
        let name = value.escape_ascii();
        // Whoever had it in a context may have superseded it, whether that
        // later write was acknowledged or not.
        let overwritten = writes.iter().any(|later| later.seen.contains(&number));
        if write.acknowledged && !shown && !overwritten {
            return Err(format!(
                "the acknowledged write {name} of key {key} is lost: {set:?}"
            ));
        }
        let superseded = writes
            .iter()
            .any(|later| later.acknowledged && later.seen.contains(&number));
        if shown && superseded {
            for (n, later) in writes
                .iter()
                .enumerate()
                .filter(|(_, later)| later.acknowledged && later.seen.contains(&number))
            {
                let dot = later.value.as_ref().and_then(|v| {
                    run.world
                        .minted
                        .iter()
                        .find(|(_, x)| x.as_ref() == Some(v))
                        .map(|(d, _)| *d)
                });
                eprintln!(
                    "superseder #{n} {:?} dot {dot:?} covered {:?} seen {:?}",
                    later.value.as_ref().map(|v| v.escape_ascii().to_string()),
                    dot.map(|d| set.context().covers(d)),
                    later.seen.len()
                );
            }
            eprintln!(
                "its dot {:?} number {number}",
                run.world
                    .minted
                    .iter()
                    .find(|(_, x)| x.as_ref() == Some(value))
            );
            return Err(format!(
                "the superseded write {name} of key {key} is back: {set:?}"
            ));
        }
    }
    Ok(())
}

/// 1 and 4 for the union table: every acknowledged line is there, and no other.
fn check_lines(run: &Run, set: &SiblingSet) -> Result<(), String> {
    let lines: BTreeSet<String> = set
        .siblings()
        .filter_map(|(_, version)| version.value.as_ref())
        .flat_map(|value| {
            String::from_utf8_lossy(value)
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    if let Some(lost) = run.lines_acknowledged.difference(&lines).next() {
        return Err(format!("the acknowledged line {lost} is lost: {set:?}"));
    }
    match lines.difference(&run.lines_asked).next() {
        Some(strange) => Err(format!("nobody wrote the line {strange}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::workload::{Plan, play};
    use super::*;

    /// The seeds that every build plays. One that ever fails stays here for good.
    const SEEDS: std::ops::Range<u64> = 0..24;

    #[test]
    fn the_invariants_hold_under_faults() {
        let mut total = 0;
        for seed in SEEDS {
            let mut run = play(seed, Plan::default());
            let verdict = check(&mut run).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            assert!(
                verdict.acknowledged > 50,
                "seed {seed} shows nothing: {verdict:?}"
            );
            total += run.world.now_ms;
        }
        println!(
            "{} simulated seconds over {} seeds",
            total / 1000,
            SEEDS.end
        );
    }

    #[test]
    fn five_nodes_use_fallbacks_and_hand_over_their_hints() {
        for seed in 100..108 {
            let mut plan = Plan::default();
            plan.settings.nodes = 5;
            let mut run = play(seed, plan);
            check(&mut run).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
    }

    /// A forwarded write that the network repeats is one write: a second dot for
    /// it would come back after the first was superseded.
    #[test]
    fn a_repeated_forward_is_one_write() {
        let settings = Settings {
            nodes: 5,
            loss: 0,
            duplication: 100,
            ..Settings::default()
        };
        let mut world = World::new(11, settings);
        assert!(world.run_until(20_000, World::is_settled));
        let mut forwarded = 0;
        for number in 0..20 {
            let key = format!("key{number}");
            let preference = world.preference(RAW_TABLE, key.as_bytes());
            let outsider = (0..5).find(|&node| !preference[..3].contains(&world.node_id(node)));
            let node = outsider.expect("five nodes, three primaries");
            let id = world.ask(node, RAW_TABLE, key.as_bytes(), |request| ItemRequest {
                ask: Ask::Put {
                    client: crate::protocol::context::Context::new(),
                    value: bytes::Bytes::from_static(b"once"),
                    content_type: "text/plain".into(),
                    representation: false,
                },
                ..request
            });
            world.run(2_000);
            let written = world.responses.remove(&id);
            assert!(
                matches!(written, Some(Response::Written { .. })),
                "{written:?}"
            );
            let item = item_key(&world, RAW_TABLE, key.as_bytes()).expect("a table");
            for node in 0..5 {
                let set = world.stored(node, &item);
                assert!(set.len() <= 1, "{set:?}");
                forwarded += usize::from(set.len() == 1);
            }
        }
        assert_eq!(forwarded, 60, "three copies of each");
    }

    /// New seeds, for as many as are wanted:
    /// `KINFOLD_SEEDS=1000..2000 cargo test --release new_seeds -- --ignored --nocapture`.
    #[test]
    #[ignore = "explores; the seeds above are what every build plays"]
    fn new_seeds() {
        let range = std::env::var("KINFOLD_SEEDS").unwrap_or_else(|_| "1000..1100".to_owned());
        let (from, to) = range.split_once("..").expect("KINFOLD_SEEDS is FROM..TO");
        let (from, to): (u64, u64) = (
            from.parse().expect("a number"),
            to.parse().expect("a number"),
        );
        let mut failed = Vec::new();
        for seed in from..to {
            let mut plan = Plan::default();
            plan.settings.nodes = 3 + (seed % 3) as usize;
            let mut run = play(seed, plan);
            if let Err(why) = check(&mut run) {
                println!("seed {seed} ({} nodes): {why}", plan.settings.nodes);
                failed.push(seed);
            }
        }
        assert!(failed.is_empty(), "{failed:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let hash = |seed| {
            play(
                seed,
                Plan {
                    rounds: 40,
                    ..Plan::default()
                },
            )
            .world
            .trace_hash()
        };
        assert_eq!(hash(7), hash(7));
        assert_ne!(hash(7), hash(8));
    }
}
