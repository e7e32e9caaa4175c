//! Changes of layout while the network, the disks and the operators do what they
//! do: who reads from what, who writes to what, who comes back.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::network::{Faults, Network};
use super::*;

/// How often everybody is looked at: more often than they tick.
const LOOK_MS: u64 = 5;

/// Looks over everybody's shoulder.
#[derive(Default)]
struct Watch {
    /// Who said at some time that it has the data of which layout.
    synced: BTreeSet<(String, u64, u128)>,
    /// From what each node reads, by name and birth.
    reads: BTreeMap<(String, u64), u64>,
}

/// The layouts that a node writes to, ascending.
fn written(node: &Membership) -> impl Iterator<Item = (u64, u128)> + '_ {
    node.history.all().map(|placed| placed.stamp)
}

/// Whether the node takes part, as far as anybody knows.
fn serves(network: &Network, name: &str) -> bool {
    let node = network.node(name);
    let me = node.me();
    let is_removed = |other: &String| {
        let entry = network.node(other).member(me.node);
        entry.is_some_and(|entry| entry.status == Status::Removed && entry.born >= me.born)
    };
    node.is_fit()
        && matches!(me.status, Status::Up | Status::Leaving)
        && !network.running().iter().any(is_removed)
}

impl Watch {
    fn look(&mut self, network: &Network) {
        let running = network.running();
        for name in &running {
            let (node, name) = (network.node(name), name.clone());
            for (version, digest) in written(node) {
                if node.me().has_synced((version, digest)) {
                    self.synced.insert((name.clone(), version, digest));
                }
            }
        }
        let serving: Vec<&String> = running
            .iter()
            .filter(|name| serves(network, name))
            .collect();
        // One that was away asks and writes nothing before it has caught up.
        let is_ready = |name: &&&String| network.node(name).is_ready(network.now_ms()).is_ok();
        for reader in serving.iter().filter(is_ready) {
            let node = network.node(reader);
            let version = node.reading().expect("it serves").version();
            let mut at_hand = written(node);
            let reading = at_hand.find(|stamp| stamp.0 == version).expect("at hand");
            let life = ((*reader).clone(), node.me().born);
            let before = self.reads.insert(life, reading.0).unwrap_or(0);
            assert!(
                reading.0 >= before,
                "{reader} went back\n{}",
                network.describe()
            );
            for other in &serving {
                let has = ((*other).clone(), reading.0, reading.1);
                // Whoever holds nothing by that layout has nothing to be synced to.
                let holds = node.reading().expect("it serves").nodes();
                assert!(
                    self.synced.contains(&has) || !holds.contains(&NodeId::of(other)),
                    "{reader} reads from {reading:?}, to which {other} was never synced\n{}",
                    network.describe()
                );
                assert!(
                    !is_ready(&other)
                        || written(network.node(other)).any(|written| written == reading),
                    "{reader} reads from {reading:?}, to which {other} does not write\n{}",
                    network.describe()
                );
            }
        }
        for name in &running {
            assert!(network.node(name).writing().count() <= MAX_LAYOUTS);
        }
    }

    fn run(&mut self, network: &mut Network, for_ms: u64) {
        let until_ms = network.now_ms() + for_ms;
        while network.now_ms() < until_ms {
            let now_ms = network.now_ms();
            network.run_until(until_ms.min(now_ms + LOOK_MS));
            self.look(network);
        }
    }

    /// Runs until the nodes are one cluster whose last change is over.
    fn settle(&mut self, network: &mut Network, names: &[&str], within_ms: u64) {
        let until_ms = network.now_ms() + within_ms;
        while !is_over(network, names) {
            assert!(network.now_ms() < until_ms, "{}", network.describe());
            self.run(network, 10);
        }
    }
}

/// Whether these have settled, and a change of layout is over everywhere.
fn is_over(network: &Network, names: &[&str]) -> bool {
    network.is_settled(names)
        && names.iter().all(|name| {
            let node = network.node(name);
            let layout = node.layout().expect("it is settled");
            layout.nodes().len() == names.len()
                && node.writing().count() == 1
                && node.me().layout_read == layout.version()
        })
}

fn three(seed: u64) -> (Network, Watch) {
    let mut network = Network::new(seed, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    let mut watch = Watch::default();
    watch.settle(&mut network, &ABC, 3_000);
    (network, watch)
}

/// Runs until `a` sees the node down.
fn see_down(network: &mut Network, name: &str) {
    let until_ms = network.now_ms() + 20_000;
    while network.node("a").is_up(NodeId::of(name)) {
        assert!(network.now_ms() < until_ms);
        let now_ms = network.now_ms();
        network.run_until(now_ms + 10);
    }
}

#[test]
fn one_that_joins_is_written_to_at_once_and_read_from_when_it_is_filled() {
    let (mut network, mut watch) = three(1);
    let before = network.node("a").layout().expect("in a cluster").version();
    network.transfers_take(5_000);
    network.add("d", &ABC);
    network.start("d");
    watch.run(&mut network, 4_000);
    for name in ["a", "b", "c", "d"] {
        let node = network.node(name);
        let written: Vec<u64> = node.writing().map(Layout::version).collect();
        assert_eq!(written, [before + 1, before], "{name}");
        assert_eq!(node.reading().map(Layout::version), Some(before), "{name}");
    }
    let d = network.node("d");
    assert_eq!(d.me().status, Status::Joining);
    assert_eq!(d.is_ready(network.now_ms()), Err(NotReady::Joining));
    watch.settle(&mut network, &["a", "b", "c", "d"], 6_000);
    assert_eq!(network.node("d").is_ready(network.now_ms()), Ok(()));
    assert_eq!(
        network.node("a").layout().expect("in a cluster").version(),
        before + 1
    );
}

#[test]
fn a_restart_amid_a_change_goes_on_where_it_was() {
    let (mut network, mut watch) = three(2);
    network.transfers_take(1_000);
    network.add("d", &ABC);
    network.start("d");
    for step in 0..40 {
        watch.run(&mut network, 100);
        let name = ["a", "b", "c", "d"][step % 4];
        network.stop(name);
        watch.run(&mut network, 20);
        network.start(name);
    }
    watch.settle(&mut network, &["a", "b", "c", "d"], 10_000);
}

#[test]
fn one_that_leaves_serves_until_it_holds_nothing_and_is_gone_then() {
    let (mut network, mut watch) = three(3);
    network.add("d", &ABC);
    network.start("d");
    watch.settle(&mut network, &["a", "b", "c", "d"], 6_000);
    network.transfers_take(2_000);
    network.holds("c", true);
    assert_eq!(network.leave("c"), Ok(()));
    assert_eq!(network.leave("c"), Ok(()), "asked again, it goes on");
    watch.run(&mut network, 3_000);
    assert!(
        network
            .node("a")
            .reading()
            .expect("one")
            .nodes()
            .contains(&NodeId::of("c"))
    );
    watch.run(&mut network, 7_000);
    let c = network.node("c");
    assert_eq!(c.me().status, Status::Leaving);
    assert_eq!(
        c.is_ready(network.now_ms()),
        Ok(()),
        "it still holds something"
    );
    assert!(!c.reading().expect("one").nodes().contains(&NodeId::of("c")));
    network.split(&["c"]);
    network.holds("c", false);
    watch.run(&mut network, 3_000);
    let alone = network.node("c").is_ready(network.now_ms());
    assert_eq!(alone, Err(NotReady::TakingLeave), "nobody has heard of it");
    network.heal();
    watch.settle(&mut network, &["a", "b", "d"], 3_000);
    watch.run(&mut network, 1_000);
    assert_eq!(
        network.node("c").is_ready(network.now_ms()),
        Err(NotReady::Left)
    );
    assert_eq!(
        network.node("a").member(NodeId::of("c")).map(|c| c.status),
        Some(Status::Removed)
    );
    assert!(network.faults().is_empty(), "{:?}", network.faults());
    comes_back_only_wiped(&mut network, "c", &["a", "b", "d"]);
}

/// A removed node with its disk is refused for good; without, it joins anew.
fn comes_back_only_wiped(network: &mut Network, name: &str, others: &[&str]) {
    if network.is_running(name) {
        network.stop(name);
    }
    let version = |network: &Network| network.node("a").layout().expect("one").version();
    let before = version(network);
    for _ in 0..3 {
        network.start(name);
        let now_ms = network.now_ms();
        network.run_until(now_ms + 5_000);
        let not_ready = network.node(name).is_ready(network.now_ms());
        assert_eq!(not_ready, Err(NotReady::Fault(Fault::Removed)));
        assert!(!network.node(name).is_fit());
        for other in others {
            let entry = network
                .node(other)
                .member(NodeId::of(name))
                .expect("remembered");
            assert_eq!(entry.status, Status::Removed);
        }
        assert_eq!(version(network), before);
        network.stop(name);
    }
    network.wipe(name);
    network.start(name);
    let all: Vec<&str> = others.iter().copied().chain([name]).collect();
    let now_ms = network.now_ms();
    network
        .settle(&all, now_ms + 10_000)
        .expect("it joins anew");
}

#[test]
fn a_dead_one_is_removed_and_its_disk_does_not_come_back() {
    let (mut network, mut watch) = three(4);
    network.stop("c");
    see_down(&mut network, "c");
    assert_eq!(network.remove("a", "c"), Ok(()));
    assert_eq!(network.remove("a", "c"), Ok(()), "it is gone already");
    watch.settle(&mut network, &["a", "b"], 10_000);
    assert_eq!(network.node("b").layout().expect("one").nodes().len(), 2);
    assert!(!network.node("a").is_up(NodeId::of("c")));
    comes_back_only_wiped(&mut network, "c", &["a", "b"]);
}

#[test]
fn one_that_was_removed_behind_its_back_finds_out_however_often_it_starts() {
    let (mut network, mut watch) = three(5);
    network.split(&["c"]);
    see_down(&mut network, "c");
    assert_eq!(network.remove("a", "c"), Ok(()));
    for _ in 0..3 {
        network.stop("c");
        network.start("c");
        let now_ms = network.now_ms();
        network.run_until(now_ms + 5_000);
    }
    let c = network.node("c");
    assert_eq!(
        (c.me().status, c.is_fit()),
        (Status::Up, true),
        "nobody told it"
    );
    network.heal();
    let now_ms = network.now_ms();
    network.run_until(now_ms + 5_000);
    assert!(!network.node("c").is_fit());
    watch.settle(&mut network, &["a", "b"], 10_000);
    comes_back_only_wiped(&mut network, "c", &["a", "b"]);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let (mut network, mut watch) = three(6);
    let name = "c".into();
    assert_eq!(network.remove("a", "c"), Err(RemoveRefused::IsUp { name }));
    assert_eq!(network.remove("a", "nobody"), Err(RemoveRefused::Unknown));
    let myself = network.remove("a", "a");
    assert!(
        matches!(myself, Err(RemoveRefused::IsUp { .. })),
        "{myself:?}"
    );
    for name in ["c", "b"] {
        assert_eq!(network.leave(name), Ok(()));
        watch.run(&mut network, 10_000);
        assert_eq!(
            network.node(name).is_ready(network.now_ms()),
            Err(NotReady::Left)
        );
    }
    assert_eq!(network.leave("a"), Err(LeaveRefused::LastMember));
    assert_eq!(network.node("a").is_ready(network.now_ms()), Ok(()));
    network.add("lone", &["nowhere:1"]);
    network.start("lone");
    assert_eq!(network.leave("lone"), Err(LeaveRefused::NoCluster));
}

#[test]
fn nobody_is_asked_that_was_wiped_or_restored_until_it_is_filled() {
    let (mut network, mut watch) = three(7);
    let old = network.disk("b");
    watch.run(&mut network, 100);
    for wipe in [true, false] {
        // Two more lives, so that others know more of it than an old disk does.
        for _ in 0..2 {
            network.stop("b");
            network.start("b");
            network.run_until(network.now_ms() + 2_000);
        }
        network.transfers_take(4_000);
        network.stop("b");
        match wipe {
            true => network.wipe("b"),
            false => network.restore("b", old.clone()),
        }
        network.start("b");
        network.run_until(network.now_ms() + 3_000);
        assert!(!network.node("b").is_filled(), "wiped: {wipe}");
        assert_eq!(network.node("b").me().layout_synced, 0);
        network.run_until(network.now_ms() + 4_000);
        assert!(network.node("b").is_filled(), "wiped: {wipe}");
        network.transfers_take(0);
        let now_ms = network.now_ms();
        network.settle(&ABC, now_ms + 3_000).expect("it is back");
    }
}

#[test]
fn a_dead_member_holds_up_changes_at_the_bound_and_its_removal_frees_them() {
    let (mut network, mut watch) = three(8);
    network.stop("c");
    see_down(&mut network, "c");
    let before = network.node("a").layout().expect("one").version();
    let mut names = vec!["a".to_owned(), "b".to_owned()];
    for number in 0..MAX_LAYOUTS + 2 {
        let name = format!("new-{number}");
        network.add(&name, &ABC);
        network.start(&name);
        names.push(name);
        watch.run(&mut network, 3_500);
    }
    let a = network.node("a");
    assert_eq!(a.writing().count(), MAX_LAYOUTS);
    let newest = a.layout().expect("one").version();
    assert_eq!(
        newest,
        before + MAX_LAYOUTS as u64 - 1,
        "none was dropped for it"
    );
    assert_eq!(
        a.reading().map(Layout::version),
        Some(before),
        "c has not seen any"
    );
    assert_eq!(network.remove("a", "c"), Ok(()));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    watch.settle(&mut network, &names, 20_000);
}

#[test]
fn who_was_synced_to_a_layout_that_lost_takes_that_back() {
    let candidate = |name: &str| Candidate {
        node: NodeId::of(name),
        weight_milli: 1_000,
        zone: "z".into(),
    };
    let founding = Layout::founding(32, 3, candidate("a"));
    let mut rivals = ["b", "c"].map(|name| founding.next(&[candidate("a"), candidate(name)]));
    rivals.sort_by_key(Layout::digest);
    let [loser, winner] = rivals;
    let mut node = network::lone_membership("a");
    node.take_layout(founding);
    node.take_as_synced();
    node.settle_layouts();
    assert_eq!(node.me().layout_read, 0, "told only when it is durable");
    node.on_persisted(node.revision(), 0);
    node.take_layout(loser.clone());
    node.on_synced(2, loser.digest());
    assert_eq!((node.me().layout_synced, node.me().layout_read), (2, 1));
    node.take_layout(winner.clone());
    assert_eq!((node.me().layout_synced, node.me().layout_read), (1, 1));
    // A transfer for the loser that ends late says nothing of the winner.
    node.on_synced(2, loser.digest());
    assert_eq!(node.me().layout_synced, 1);
    node.on_synced(2, winner.digest());
    assert_eq!(node.me().layout_synced, 2);
}

#[test]
fn being_synced_to_a_layout_that_lost_is_not_being_synced_to_the_one_that_won() {
    let candidate = |name: &str| Candidate {
        node: NodeId::of(name),
        weight_milli: 1_000,
        zone: "z".into(),
    };
    let founding = Layout::founding(32, 3, candidate("a"));
    let winner = founding.next(&[candidate("a"), candidate("b")]);
    let mut node = network::lone_membership("a");
    node.take_layout(founding);
    node.take_as_synced();
    node.take_layout(winner.clone());
    node.on_synced(2, winner.digest());
    let lone = network::lone_membership("b");
    let claims = |heartbeat, synced_tag| Member {
        status: Status::Up,
        heartbeat,
        layout_seen: 2,
        layout_synced: 2,
        synced_tag,
        layout_read: 1,
        ..lone.me().clone()
    };
    let tag = tag_of(winner.digest());
    node.merge_member(claims(1, tag ^ 1), 0);
    node.settle_layouts();
    assert_eq!(node.reading().map(Layout::version), Some(1));
    node.merge_member(claims(2, tag), 0);
    node.settle_layouts();
    assert_eq!(node.reading().map(Layout::version), Some(2));
}

/// What an operator, or fate, does to a node.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Start,
    Stop,
    Leave,
    Remove,
    Split,
    Heal,
    Pause,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => Just(Deed::Start),
        3 => Just(Deed::Stop),
        1 => Just(Deed::Leave),
        1 => Just(Deed::Remove),
        2 => Just(Deed::Split),
        2 => Just(Deed::Heal),
        1 => Just(Deed::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        max_shrink_iters: 30,
        ..ProptestConfig::default()
    })]

    /// Nobody reads from a layout that somebody is not synced to, and nobody stops
    /// writing to one that somebody reads from, whatever happens; and when it ends,
    /// the change does.
    #[test]
    fn reads_and_writes_meet_whatever_happens(
        seed: u64,
        loss_percent in 0u64..25,
        longest_ms in 2u64..150,
        transfer_ms in 0u64..4_000,
        deeds in prop::collection::vec((deed(), 0usize..6, 100u64..3_000), 1..14),
    ) {
        let all = ["a", "b", "c", "d", "e", "f"];
        let (mut network, mut watch) = three(seed);
        network.add_all(&all[3..], &ABC);
        network.worsen(Faults { loss_percent, repeat_percent: 10, longest_ms });
        network.transfers_take(transfer_ms);
        let mut gone = BTreeSet::new();
        for (deed, index, for_ms) in deeds {
            let name = all[index];
            match deed {
                Deed::Start if !network.is_running(name) && !gone.contains(name) => network.start(name),
                Deed::Stop if network.is_running(name) && network.running().len() > 1 => network.stop(name),
                Deed::Pause if network.is_running(name) => network.pause(name, 1_500),
                Deed::Split => network.split(&[name, all[(index + 1) % 6]]),
                Deed::Heal => network.heal(),
                // One at a time, and never below two: operators wait for the end.
                Deed::Leave if network.is_running(name) && gone.len() < 3
                    && network.leave(name).is_ok() => {
                        gone.insert(name);
                    }
                Deed::Remove if !network.is_running(name) && gone.len() < 3 => {
                    let by = network.running()[0].clone();
                    if network.remove(&by, name).is_ok() {
                        gone.insert(name);
                    }
                }
                _ => {}
            }
            watch.run(&mut network, for_ms);
        }
        network.heal();
        network.calm();
        for name in all {
            if !network.is_running(name) && !gone.contains(name) {
                network.start(name);
            }
        }
        let rest: Vec<&str> = all.into_iter().filter(|name| !gone.contains(name)).collect();
        for &name in &gone {
            // One that was leaving when it was stopped goes on with it.
            if !network.is_running(name) {
                network.start(name);
            }
        }
        watch.settle(&mut network, &rest, 60_000);
    }
}
