//! Scenarios of repair: exchange alone, damage, wiped disks, nodes that come and
//! go, and deletions that are forgotten. Each says what it does to a quiet
//! cluster, and what must have come of it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::disk::ask_now;
use super::{HECTIC_UPKEEP, NO_UPKEEP, RAW_TABLE, Settings, World};
use crate::protocol::context::Context;
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::StoreRequest;
use crate::protocol::id::NodeId;
use crate::protocol::machine::{DEFAULT_BACKGROUND_PERCENT, Upkeep};
use crate::protocol::message::{Ask, ItemRequest, Response};
use crate::protocol::replica::Mutation;
use crate::protocol::sabotage::{self, Variant};
use crate::protocol::siblings::{SiblingSet, Version};

/// How long anything may take to come about.
const PATIENCE_MS: u64 = 120_000;
/// Nothing is forgotten.
const KEEPS_ALL: Upkeep = Upkeep {
    reap_after_ms: 1 << 40,
    background_percent: DEFAULT_BACKGROUND_PERCENT,
    ..HECTIC_UPKEEP
};

fn world(seed: u64, nodes: usize, upkeep: Upkeep) -> World {
    let settings = Settings {
        upkeep,
        ..Settings::quiet(nodes)
    };
    let mut world = World::new(seed, settings);
    assert!(world.run_until(PATIENCE_MS, World::is_settled));
    world
}

fn key(number: usize) -> Vec<u8> {
    format!("key{number}").into_bytes()
}

fn request(world: &mut World, node: usize, key: &[u8], ask: Ask) -> Response {
    let id = world.ask(node, RAW_TABLE, key, |request| ItemRequest {
        ask,
        ..request
    });
    let answered = world.run_until(20_000, |world| world.responses.contains_key(&id));
    assert!(answered, "a request was not answered");
    world.responses.remove(&id).expect("it was answered")
}

fn put(world: &mut World, node: usize, key: &[u8], value: &str) -> Context {
    let ask = Ask::Put {
        client: Context::new(),
        value: Bytes::from(value.to_owned()),
        content_type: "text/plain".into(),
        representation: false,
    };
    match request(world, node, key, ask) {
        Response::Written { context } => context,
        other => panic!("a put gave {other:?}"),
    }
}

fn delete(world: &mut World, node: usize, key: &[u8], seen: Context) {
    let ask = Ask::Delete { client: Some(seen) };
    let answer = request(world, node, key, ask);
    assert!(matches!(answer, Response::Written { .. }), "{answer:?}");
}

fn values(set: &SiblingSet) -> Vec<String> {
    set.siblings()
        .filter_map(|(_, version)| version.value.as_ref())
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect()
}

/// Waits until the trees agree and nothing lies where it does not belong.
fn agree(world: &mut World) {
    let agreed = world.run_until(PATIENCE_MS, |world| {
        world.is_settled() && world.hints() == 0 && world.disagreement().is_none()
    });
    let why = world.disagreement();
    assert!(
        agreed,
        "settled: {}, hints: {}, {why:?}",
        world.is_settled(),
        world.hints()
    );
}

/// Every owner holds these values, and nobody else anything.
fn check_holds(world: &World, expected: &BTreeMap<usize, String>) {
    for (number, value) in expected {
        let key = key(*number);
        let owners = &world.preference(RAW_TABLE, &key)[..3];
        for node in world.members() {
            let stored = values(&world.stored(node, RAW_TABLE, &key));
            if owners.contains(&world.node_id(node)) {
                assert_eq!(
                    stored,
                    std::slice::from_ref(value),
                    "key {number} on n{node}"
                );
            } else {
                assert!(stored.is_empty(), "key {number} is a stray on n{node}");
            }
        }
    }
}

fn fill(world: &mut World, items: usize) -> BTreeMap<usize, String> {
    let mut expected = BTreeMap::new();
    for number in 0..items {
        let value = format!("value{number}");
        let node = number % world.members().len();
        put(world, node, &key(number), &value);
        expected.insert(number, value);
    }
    expected
}

/// A version that nobody wrote through a node: it appears on a disk.
fn strange(counter: u64) -> SiblingSet {
    let dot = Dot {
        actor: Actor {
            node: NodeId(77),
            epoch: Epoch(7),
        },
        counter,
    };
    let version = Version {
        value: Some(Bytes::from_static(b"strange")),
        content_type: "text/plain".into(),
        written_at_us: 5,
        stands_for: None,
    };
    SiblingSet::delta(&Context::new(), dot, version)
}

/// Changes a node's disk behind its back: no hint, no tree, no read hears of it.
fn tamper(world: &mut World, node: usize, table: &str, name: &[u8], present: bool) {
    let (partition, item) = world.place(table, name).expect("a table and a ring");
    let before = world.stored(node, table, name);
    let request = if present {
        StoreRequest::Update {
            partition,
            key: item,
            mutation: Mutation::Sync {
                set: strange(1),
                max_actors: 20,
            },
            hints: Vec::new(),
        }
    } else {
        StoreRequest::Forget {
            partition,
            items: vec![(item, before.hash())],
            hints: false,
        }
    };
    ask_now(&*world.nodes[node].disk.store, request).expect("memory does not fail");
}

#[test]
fn exchange_alone_makes_replicas_alike() {
    let mut world = world(1, 3, KEEPS_ALL);
    let expected = fill(&mut world, 40);
    agree(&mut world);
    // Each node loses some rows and gains others, and no client asks for any.
    for number in 0..12 {
        tamper(&mut world, number % 3, RAW_TABLE, &key(number), false);
    }
    for number in 100..106 {
        tamper(&mut world, number % 3, RAW_TABLE, &key(number), true);
    }
    // The rows are looked at again within ten intervals.
    world.run(15_000);
    agree(&mut world);
    check_holds(&world, &expected);
    let strange = (100..106).map(|number| (number, "strange".to_owned()));
    check_holds(&world, &strange.collect());
    let corrected: u64 = (0..3)
        .map(|node| world.machine(node).expect("up").counters().trees_corrected)
        .sum();
    assert!(corrected > 0, "the trees knew of it all along?");
}

#[test]
fn a_damaged_row_is_mended_though_nobody_asks_for_it() {
    let mut world = world(2, 3, KEEPS_ALL);
    let expected = fill(&mut world, 20);
    agree(&mut world);
    for number in [3, 7, 11] {
        assert!(world.damage(number % 3, RAW_TABLE, &key(number)));
    }
    world.run(15_000);
    agree(&mut world);
    check_holds(&world, &expected);
}

#[test]
fn a_read_that_meets_damage_has_it_mended_soon() {
    let mut world = world(3, 3, KEEPS_ALL);
    let expected = fill(&mut world, 5);
    agree(&mut world);
    for node in 0..3 {
        assert!(world.damage(node, RAW_TABLE, &key(node)));
        let answer = request(&mut world, node, &key(node), Ask::Get { raw: true });
        match answer {
            Response::Siblings { set, .. } => assert_eq!(values(&set), [expected[&node].clone()]),
            other => panic!("damage was taken for {other:?}"),
        }
    }
    world.run(3_000);
    check_holds(&world, &expected);
}

#[test]
fn a_wiped_node_is_filled_before_its_copy_counts() {
    let mut world = world(4, 3, KEEPS_ALL);
    let expected = fill(&mut world, 60);
    agree(&mut world);
    world.crash(1);
    world.wipe(1);
    world.start(1);
    // From its first moment on, an answer that counts it must be right.
    let mut asked = 0;
    while !world.is_settled() {
        let number = asked % 60;
        let node = [0, 2][asked % 2];
        let answer = request(&mut world, node, &key(number), Ask::Get { raw: true });
        match answer {
            Response::Siblings { set, .. } => {
                assert_eq!(values(&set), [expected[&number].clone()]);
            }
            other => panic!("key {number} is gone: {other:?}"),
        }
        asked += 1;
        assert!(asked < 100_000, "the node is never filled");
    }
    assert!(asked > 0);
    assert_eq!(world.machine(1).expect("up").counters().store_failures, 0);
    agree(&mut world);
    check_holds(&world, &expected);
}

fn nodes_come_and_go(upkeep: Upkeep) {
    let mut world = world(5, 4, upkeep);
    let mut expected = fill(&mut world, 80);
    let mut number = 80;
    let write = |world: &mut World, expected: &mut BTreeMap<usize, String>, number: &mut usize| {
        for _ in 0..10 {
            let members = world.members();
            let node = members[*number % members.len()];
            if world.machine(node).is_some_and(|m| m.readiness().is_ok()) {
                put(world, node, &key(*number), &format!("value{number}"));
                expected.insert(*number, format!("value{number}"));
            }
            *number += 1;
        }
    };
    let joined = world.join();
    write(&mut world, &mut expected, &mut number);
    world.run(700);
    write(&mut world, &mut expected, &mut number);
    agree(&mut world);
    check_holds(&world, &expected);
    assert!(world.leave(2));
    write(&mut world, &mut expected, &mut number);
    world.run(700);
    write(&mut world, &mut expected, &mut number);
    agree(&mut world);
    assert!(world.is_gone(2));
    check_holds(&world, &expected);
    for number in expected.keys() {
        assert!(
            !world.has_row(2, RAW_TABLE, &key(*number)),
            "it left with data"
        );
    }
    world.condemn(1);
    world.run(700);
    let alive = [0, 3, joined];
    for node in alive {
        put(&mut world, node, &key(number), &format!("value{number}"));
        expected.insert(number, format!("value{number}"));
        number += 1;
    }
    agree(&mut world);
    assert!(world.is_gone(1));
    check_holds(&world, &expected);
}

/// Rows lie on a node that does not own them, and on no other.
fn strays() {
    let mut world = world(9, 5, NO_UPKEEP);
    let mut expected = fill(&mut world, 10);
    agree(&mut world);
    for number in 100..110 {
        let owners = world.preference(RAW_TABLE, &key(number))[..3].to_vec();
        let other = (0..5).find(|&node| !owners.contains(&world.node_id(node)));
        let other = other.expect("five nodes, three owners");
        tamper(&mut world, other, RAW_TABLE, &key(number), true);
        expected.insert(number, "strange".to_owned());
    }
    // They are found by whoever looks at its rows: here, at a start.
    for node in 0..5 {
        world.crash(node);
        world.start(node);
    }
    agree(&mut world);
    check_holds(&world, &expected);
}

#[test]
fn nodes_join_leave_and_die_while_clients_write() {
    nodes_come_and_go(KEEPS_ALL);
}

/// A layout is filled by its own means: exchange only mends what these miss.
#[test]
fn nodes_come_and_go_without_exchange() {
    nodes_come_and_go(NO_UPKEEP);
}

#[test]
fn strays_find_their_owners() {
    strays();
}

/// The scenario fails with the variant on: what it shows is not there by itself.
fn fails_with(variant: Variant, scenario: fn()) {
    let failed = std::panic::catch_unwind(|| sabotage::with(variant, scenario)).is_err();
    sabotage::clear();
    assert!(failed, "{variant:?} goes unnoticed");
}

#[test]
fn a_layout_called_filled_by_word_is_noticed() {
    fails_with(Variant::FilledByWord, || nodes_come_and_go(NO_UPKEEP));
}

#[test]
fn strays_dropped_unconfirmed_are_noticed() {
    fails_with(Variant::StrayDroppedEarly, strays);
}

#[test]
fn trees_that_keep_the_gone_are_noticed() {
    fails_with(Variant::TreesKeepTheGone, strays);
}

/// How many nodes still hold anything of an item.
fn holders(world: &World, name: &[u8]) -> usize {
    let holds = |node: &usize| world.has_row(*node, RAW_TABLE, name);
    (0..world.len()).filter(holds).count()
}

#[test]
fn a_deletion_is_forgotten_when_nothing_can_contradict_it() {
    let mut world = world(6, 4, HECTIC_UPKEEP);
    let name = key(1);
    let seen = put(&mut world, 0, &name, "old");
    delete(&mut world, 1, &name, seen);
    assert_eq!(holders(&world, &name), 3);
    assert!(world.run_until(PATIENCE_MS, |world| holders(world, &name) == 0));
    // Made anew, it has nothing to do with its past.
    put(&mut world, 2, &name, "new");
    world.run(5_000);
    agree(&mut world);
    check_holds(&world, &BTreeMap::from([(1, "new".to_owned())]));
}

#[test]
fn nothing_is_forgotten_while_a_member_is_away() {
    for wait_ms in [0, 30_000] {
        let mut world = world(7, 4, HECTIC_UPKEEP);
        let name = key(1);
        let seen = put(&mut world, 0, &name, "old");
        agree(&mut world);
        // A primary sleeps through the deletion, and past `reap_after`.
        let owner = world.preference(RAW_TABLE, &name)[2];
        let sleeper = (0..4).find(|&node| world.node_id(node) == owner);
        let sleeper = sleeper.expect("an owner is a node");
        world.crash(sleeper);
        world.run(2_000);
        let other = (0..4)
            .find(|&node| node != sleeper)
            .expect("there are four");
        delete(&mut world, other, &name, seen);
        world.run(wait_ms);
        assert!(holders(&world, &name) >= 3, "it was reaped by time alone");
        world.start(sleeper);
        let gone = world.run_until(PATIENCE_MS, |world| holders(world, &name) == 0);
        assert!(gone, "{} hold it still", holders(&world, &name));
        world.run(10_000);
        assert_eq!(holders(&world, &name), 0, "it came back");
    }
}

/// Delete, reap, recreate, late hint: the new value survives, the old stays away.
#[test]
fn a_late_hint_changes_nothing() {
    let mut world = world(8, 4, HECTIC_UPKEEP);
    let name = key(1);
    let owners: Vec<usize> = world.preference(RAW_TABLE, &name)[..3]
        .iter()
        .filter_map(|owner| (0..4).find(|&node| world.node_id(node) == *owner))
        .collect();
    let fallback = (0..4)
        .find(|node| !owners.contains(node))
        .expect("a fourth");
    // The third owner cannot be reached, so the fallback keeps a hint for it.
    for node in 0..4 {
        world.cut(node, owners[2]);
        world.cut(owners[2], node);
    }
    world.run(3_000);
    let seen = put(&mut world, owners[0], &name, "old");
    world.run(500);
    assert!(world.has_row(fallback, RAW_TABLE, &name));
    // Now the fallback is cut off instead, and the owner comes back.
    world.mend();
    for node in 0..4 {
        world.cut(node, fallback);
        world.cut(fallback, node);
    }
    world.run(3_000);
    delete(&mut world, owners[0], &name, seen);
    world.run(30_000);
    assert!(
        holders(&world, &name) >= 3,
        "reaped though a hint is out there"
    );
    put(&mut world, owners[1], &name, "new");
    world.mend();
    world.run(3_000);
    agree(&mut world);
    let stored = values(&world.stored(owners[0], RAW_TABLE, &name));
    assert_eq!(stored, ["new"]);
}
