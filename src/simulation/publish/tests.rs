//! Whether what an operator was told is done outlives any minority of the nodes.

use std::collections::BTreeSet;

use super::super::{NO_UPKEEP, Settings, World};
use super::*;
use crate::clock::Dice;
use crate::protocol::catalog::{
    Applied, Catalog, ChangeRefused, Lawfulness, ModuleInfo, ModuleKind, TableDefinition,
};
use crate::protocol::machine::{KEEP_IDLE_MS, MEMBERSHIP_RECORD, Machine, PublishRefused};
use crate::protocol::sabotage::{self, Variant};
use crate::store::Store;

const TIMEOUT_MS: u64 = 3_000;
/// How long anything may take to come about.
const PATIENCE_MS: u64 = 60_000;

fn world(seed: u64, nodes: usize, loss: u64) -> World {
    let settings = Settings {
        loss,
        duplication: loss,
        delay_max_ms: 8,
        commit_max_ms: 20,
        upkeep: NO_UPKEEP,
        ..Settings::quiet(nodes)
    };
    let mut world = World::new(seed, settings);
    assert!(world.run_until(PATIENCE_MS, World::is_settled));
    world
}

fn module(text: &str) -> ModuleInfo {
    ModuleInfo {
        digest: Digest::of(text.as_bytes()),
        size_bytes: 1,
        kind: ModuleKind::Reconciler,
        eager: false,
        summary: "".into(),
        version: text.into(),
        lawfulness: Lawfulness::Unchecked,
        built_in: false,
    }
}

fn upload(name: &str, text: &str) -> CatalogChange {
    CatalogChange::SetReconciler {
        name: name.into(),
        module: module(text),
    }
}

fn table(name: &str, reconciler: Option<&str>) -> CatalogChange {
    CatalogChange::SetTable {
        name: name.into(),
        definition: TableDefinition {
            reconciler: reconciler.map(Into::into),
            ..TableDefinition::default()
        },
    }
}

fn roll_back(name: &str, text: Option<&str>) -> CatalogChange {
    CatalogChange::RollBack {
        name: name.into(),
        digest: text.map(|text| Digest::of(text.as_bytes())),
    }
}

type Outcome = Result<Applied, PublishRefused>;

/// What an operator is told; none when the node ended first.
fn outcome(world: &mut World, node: usize, change: &CatalogChange) -> Option<Outcome> {
    let request = world.publish(node, change.clone(), TIMEOUT_MS);
    let is_over =
        |world: &World| world.outcomes.contains_key(&request) || world.machine(node).is_none();
    assert!(world.run_until(2 * TIMEOUT_MS, is_over), "nobody answers");
    world.outcomes.remove(&request)
}

fn taken(world: &mut World, node: usize, change: &CatalogChange) {
    match outcome(world, node, change) {
        Some(Ok(_)) => {}
        other => panic!("{change:?} came to {other:?}"),
    }
}

/// What a node's disk says of the catalog.
fn on_disk(world: &World, node: usize) -> Catalog {
    let record = world.nodes[node].disk.store.meta(MEMBERSHIP_RECORD);
    record
        .expect("memory does not fail")
        .map_or_else(Catalog::default, |bytes| {
            Machine::read_record(&bytes)
                .expect("it was written")
                .catalog
        })
}

/// Whether a catalog remembers a change that came to this: a later one may have
/// gone before it, but nothing takes it out of the history.
fn knows(catalog: &Catalog, change: &CatalogChange, applied: &Applied) -> bool {
    match change {
        CatalogChange::SetTable { name, definition } => catalog.table(name) == Some(definition),
        CatalogChange::SetReconciler { name, .. } | CatalogChange::RollBack { name, .. } => {
            let mut history = catalog.history(name);
            history.any(|entry| Some(entry.digest) == applied.current)
        }
        other => panic!("nobody asked for {other:?}"),
    }
}

/// On how many disks a change is, and on how many shelves its module: the lesser of
/// the two. They need not be the same nodes: whichever minority is lost, one of
/// each is left, and fetches from the other.
fn holders(world: &World, change: &CatalogChange, applied: &Applied) -> usize {
    let count = |holds: &dyn Fn(usize) -> bool| (0..world.len()).filter(|n| holds(*n)).count();
    let knowing = count(&|node| knows(&on_disk(world, node), change, applied));
    match applied.current {
        None => knowing,
        Some(digest) => {
            let keeping = count(&|node| world.nodes[node].disk.shelf.contains(&digest));
            knowing.min(keeping)
        }
    }
}

/// Cuts these nodes off from the others.
fn cut_off(world: &mut World, some: &[usize]) {
    for from in 0..world.len() {
        for to in 0..world.len() {
            if some.contains(&from) != some.contains(&to) {
                world.cut(from, to);
            }
        }
    }
}

/// Plays operators on nodes that crash and links that fail. What did not hold; none
/// when all did.
fn play(seed: u64) -> Option<String> {
    let mut dice = Dice::from_seed(seed);
    let nodes = if seed.is_multiple_of(2) { 3 } else { 5 };
    let mut world = world(seed, nodes, 5);
    let majority = nodes / 2 + 1;
    let mut acknowledged = 0;
    for round in 0..24u64 {
        let below = |dice: &mut Dice, bound: u64| (dice.next_u64() % bound) as usize;
        match below(&mut dice, 6) {
            0 => {
                world.mend();
                let many = 1 + below(&mut dice, nodes as u64 - 1);
                cut_off(&mut world, &(0..many).collect::<Vec<_>>());
            }
            1 => {
                let node = below(&mut dice, nodes as u64);
                if world.is_up(node) {
                    world.crash(node);
                }
            }
            2 => world.heal(),
            _ => {}
        }
        let node = below(&mut dice, nodes as u64);
        let name = format!("m{}", below(&mut dice, 3));
        let change = match below(&mut dice, 4) {
            0 => table(&format!("t{round}"), None),
            1 => roll_back(&name, None),
            _ => upload(&name, &format!("{name} {round}")),
        };
        if let Some(Ok(applied)) = outcome(&mut world, node, &change) {
            acknowledged += 1;
            let holders = holders(&world, &change, &applied);
            if holders < majority {
                return Some(format!("{change:?} lies on {holders} of {nodes}"));
            }
        }
        // Whoever folds with a module is not alone with it.
        for node in 0..nodes {
            let Some(machine) = world.machine(node) else {
                continue;
            };
            for (name, known) in machine.catalog().reconcilers() {
                let has = |node: &usize| world.nodes[*node].disk.shelf.contains(&known.current);
                let kept = (0..nodes).filter(has).count();
                if name.starts_with('m') && kept < majority {
                    return Some(format!("{name} is {} on {kept} of {nodes}", known.current));
                }
            }
        }
    }
    assert!(acknowledged > 0, "seed {seed} took nothing");
    world.heal();
    let agree = |world: &World| {
        let catalogs: BTreeSet<u64> = (0..nodes)
            .filter_map(|node| Some(world.machine(node)?.catalog().digest()))
            .collect();
        world.is_settled() && catalogs.len() == 1
    };
    (!world.run_until(PATIENCE_MS, agree)).then(|| "the catalogs differ for good".to_owned())
}

const SEEDS: u64 = 24;

#[test]
fn what_was_taken_is_durable_on_a_majority() {
    for seed in 0..SEEDS {
        let violation = play(seed);
        assert_eq!(violation, None, "seed {seed}");
    }
}

#[test]
fn every_broken_variant_of_it_is_found() {
    for variant in [
        Variant::PublishedByOne,
        Variant::OfferUnheld,
        Variant::AdoptInMemory,
    ] {
        let found = (0..SEEDS).find_map(|seed| sabotage::with(variant, || play(seed)));
        let found = found.unwrap_or_else(|| panic!("{variant:?} goes unnoticed"));
        println!("{variant:?}: {found}");
    }
}

#[test]
fn a_node_that_is_lost_takes_no_upload_along() {
    let mut world = world(1, 3, 0);
    let change = upload("mine", "one");
    taken(&mut world, 0, &change);
    // At the very moment of the answer.
    world.crash(0);
    world.wipe(0);
    for node in [1, 2] {
        let known = |world: &World| {
            let machine = world.machine(node).expect("it is up");
            let shelf = &world.nodes[node].disk.shelf;
            machine.catalog().reconciler("mine").is_some() && shelf.contains(&Digest::of(b"one"))
        };
        assert!(world.run_until(PATIENCE_MS, known), "n{node} has it");
    }
    world.start(0);
    let back = |world: &World| world.nodes[0].disk.shelf.contains(&Digest::of(b"one"));
    assert!(
        world.run_until(PATIENCE_MS, back),
        "and so has the lost one"
    );
}

#[test]
fn a_minority_changes_nothing_and_says_so() {
    let mut world = world(2, 5, 0);
    taken(&mut world, 0, &upload("mine", "one"));
    taken(&mut world, 0, &upload("mine", "two"));
    assert!(world.run_until(PATIENCE_MS, |world| {
        (0..5).all(|node| world.nodes[node].disk.shelf.len() == 2)
    }));
    cut_off(&mut world, &[0, 1]);
    let before = world.machine(0).expect("it is up").catalog().clone();
    for change in [
        upload("mine", "three"),
        roll_back("mine", None),
        table("t", Some("mine")),
        CatalogChange::DeleteReconciler {
            name: "mine".into(),
        },
    ] {
        let unmet = PublishRefused::Unmet {
            needed: 3,
            got: 2,
            may_be_taken: false,
        };
        assert_eq!(outcome(&mut world, 0, &change), Some(Err(unmet)));
        assert_eq!(*world.machine(0).expect("it is up").catalog(), before);
        assert_eq!(*world.machine(1).expect("it is up").catalog(), before);
    }
    // The others go on, and all agree in the end.
    taken(&mut world, 2, &upload("mine", "four"));
    world.mend();
    taken(&mut world, 0, &roll_back("mine", Some("one")));
    let current = |world: &World, node: usize| {
        let machine = world.machine(node).expect("it is up");
        machine
            .catalog()
            .reconciler("mine")
            .map(|known| known.current)
    };
    let rolled = Some(Digest::of(b"one"));
    assert!(world.run_until(PATIENCE_MS, |world| {
        (0..5).all(|node| current(world, node) == rolled)
    }));
}

#[test]
fn a_majority_that_goes_between_the_rounds_leaves_it_open() {
    let mut world = world(3, 3, 0);
    let change = upload("mine", "one");
    let request = world.publish(0, change, TIMEOUT_MS);
    while world
        .machine(0)
        .expect("it is up")
        .catalog()
        .reconciler("mine")
        .is_none()
    {
        assert!(
            world.now_ms < PATIENCE_MS,
            "the first round met no majority"
        );
        world.run(1);
    }
    // Its messages are on their way: so they are lost with their receivers.
    world.crash(1);
    world.crash(2);
    assert!(world.run_until(2 * TIMEOUT_MS, |world| {
        world.outcomes.contains_key(&request)
    }));
    let unmet = PublishRefused::Unmet {
        needed: 2,
        got: 1,
        may_be_taken: true,
    };
    assert_eq!(world.outcomes.remove(&request), Some(Err(unmet)));
    world.heal();
    let everywhere = |world: &World| {
        (0..3).all(|node| {
            let machine = world.machine(node);
            machine.is_some_and(|machine| machine.catalog().reconciler("mine").is_some())
        })
    };
    assert!(world.run_until(PATIENCE_MS, everywhere), "and it was taken");
}

#[test]
fn one_node_alone_and_nodes_that_join_make_no_difference() {
    let mut world = world(4, 1, 0);
    taken(&mut world, 0, &upload("mine", "one"));
    let joining = [world.join(), world.join()];
    taken(&mut world, 0, &upload("mine", "two"));
    assert!(world.run_until(PATIENCE_MS, World::is_settled));
    // They fetch what they lack, from peers of which some lack it too.
    for node in joining {
        assert!(world.run_until(PATIENCE_MS, |world| {
            world.nodes[node].disk.shelf.len() == 2
        }));
    }
    let change = table("t", Some("mine"));
    let applied = match outcome(&mut world, joining[1], &change) {
        Some(Ok(applied)) => applied,
        other => panic!("it came to {other:?}"),
    };
    assert!(holders(&world, &change, &applied) >= 2);
}

#[test]
fn a_change_that_is_refused_is_refused_at_once() {
    let mut world = world(5, 3, 0);
    let missing = PublishRefused::Change(ChangeRefused::NoSuchReconciler);
    let asked_ms = world.now_ms;
    let refused = outcome(&mut world, 0, &roll_back("nobody", None));
    assert_eq!(refused, Some(Err(missing)));
    assert!(world.now_ms < asked_ms + 100);
    taken(&mut world, 0, &upload("mine", "one"));
    taken(&mut world, 0, &table("t", Some("mine")));
    let delete = CatalogChange::DeleteReconciler {
        name: "mine".into(),
    };
    let refused = outcome(&mut world, 0, &delete);
    let Some(Err(PublishRefused::Change(ChangeRefused::InUse { tables, .. }))) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(tables, ["t".into()]);
    let again = outcome(&mut world, 0, &upload("mine", "one"));
    let Some(Ok(applied)) = again else {
        panic!("{again:?}");
    };
    assert!(!applied.changed && !applied.created);
}

#[test]
fn modules_of_no_use_are_let_go_of_and_come_back() {
    let mut world = world(6, 3, 0);
    taken(&mut world, 0, &upload("mine", "one"));
    taken(&mut world, 0, &upload("mine", "two"));
    let delete = CatalogChange::DeleteReconciler {
        name: "mine".into(),
    };
    taken(&mut world, 0, &delete);
    let held = |world: &World, node: usize| {
        let machine = world.machine(node).expect("it is up");
        machine.holds_module(Digest::of(b"one"))
    };
    world.run(KEEP_IDLE_MS / 2);
    assert!(held(&world, 0), "it may be wanted yet");
    let gone = |world: &World| (0..3).all(|node| !held(world, node));
    assert!(world.run_until(KEEP_IDLE_MS, gone));
    taken(&mut world, 1, &upload("mine", "one"));
    assert!(world.run_until(PATIENCE_MS, |world| {
        (0..3).all(|node| held(world, node))
    }));
}
