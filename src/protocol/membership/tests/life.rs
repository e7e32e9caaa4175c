//! A cluster's daily life: deaths, pauses, clocks and the cost of quiet.

use super::network::{Faults, Network};
use super::*;

#[test]
fn a_dead_node_is_noticed_and_noticed_again_when_it_returns() {
    let mut network = Network::new(16, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    network.stop("c");
    let stopped_ms = network.now_ms();
    network.run_until(stopped_ms + 4_000);
    assert!(!network.node("a").is_up(NodeId::of("c")));
    assert!(!network.node("b").is_up(NodeId::of("c")));
    assert_eq!(network.node("a").is_ready(network.now_ms()), Ok(()));
    network.start("c");
    let started_ms = network.now_ms();
    network.run_until(started_ms + 1_100);
    assert!(network.node("a").is_up(NodeId::of("c")));
    assert!(network.node("b").is_up(NodeId::of("c")));
}

#[test]
fn members_from_memory_that_never_speak_are_down() {
    let mut network = Network::new(22, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    network.stop("b");
    network.split(&["b"]);
    network.start("b");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 7_000);
    let b = network.node("b");
    assert!(!b.is_up(NodeId::of("a")) && !b.is_up(NodeId::of("c")));
    assert_eq!(b.is_ready(network.now_ms()), Ok(()));
    network.heal();
    let now_ms = network.now_ms();
    network.run_until(now_ms + 1_100);
    let b = network.node("b");
    assert!(b.is_up(NodeId::of("a")) && b.is_up(NodeId::of("c")));
}

#[test]
fn a_pause_is_not_a_death_and_the_sleeper_catches_up() {
    let mut network = Network::new(17, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 30_000);
    network.pause("b", 2_000);
    let now_ms = network.now_ms();
    for step_ms in (0..6_000).step_by(50) {
        network.run_until(now_ms + step_ms);
        for name in ABC {
            assert!(
                ABC.iter()
                    .all(|other| network.node(name).is_up(NodeId::of(other)))
            );
        }
    }
    network.pause("b", 20_000);
    let now_ms = network.now_ms();
    network.run_until(now_ms + 25_000);
    assert!(network.is_settled(&ABC));
    assert!(
        ABC.iter()
            .all(|other| network.node("b").is_up(NodeId::of(other)))
    );
}

#[test]
fn clocks_are_compared() {
    let mut network = Network::new(18, Faults::default());
    network.add_all(&["a", "b"], &["a"]);
    network.skew_us("b", 3_000_000);
    network.start("a");
    network.start("b");
    network.run_until(20_000);
    let offset_us = network
        .node("a")
        .clock_offset_us(NodeId::of("b"))
        .expect("they spoke");
    assert!((offset_us - 3_000_000).abs() < 5_000, "{offset_us}");
    let offset_us = network
        .node("b")
        .clock_offset_us(NodeId::of("a"))
        .expect("they spoke");
    assert!((offset_us + 3_000_000).abs() < 5_000, "{offset_us}");
}

#[test]
fn quiet_gossip_is_small() {
    let mut network = Network::new(19, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 5_000);
    let before = network.traffic();
    network.run_until(now_ms + 65_000);
    let (messages, bytes) = (
        network.traffic().0 - before.0,
        network.traffic().1 - before.1,
    );
    // Two messages per node and second, and probes for nobody.
    assert!(messages <= 3 * 60 * 3, "{messages}");
    assert!(bytes / messages <= 200, "{} bytes each", bytes / messages);
}
