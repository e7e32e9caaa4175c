//! Birth, joining and agreement: clusters of real memberships in
//! virtual time.

use super::*;
use crate::protocol::catalog::TableDefinition;
use crate::protocol::layout::Candidate;

mod change;
mod life;
mod network;
mod random;
use network::{Faults, Network};

const ABC: [&str; 3] = ["a", "b", "c"];

/// All orders of three, and how long after one another they start.
fn start_orders() -> impl Iterator<Item = Vec<(&'static str, u64)>> {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    const GAPS_MS: [u64; 8] = [0, 1, 40, 300, 490, 700, 1_010, 2_500];
    ORDERS.into_iter().flat_map(|order| {
        GAPS_MS.into_iter().flat_map(move |first_ms| {
            GAPS_MS.into_iter().map(move |second_ms| {
                let starts = [0, first_ms, first_ms + second_ms];
                order
                    .iter()
                    .zip(starts)
                    .map(|(&index, at_ms)| (ABC[index], at_ms))
                    .collect()
            })
        })
    })
}

#[test]
fn three_seeds_settle_in_any_order() {
    let mut slowest_ms = 0;
    for (run, starts) in start_orders().enumerate() {
        let mut network = Network::new(run as u64, Faults::default());
        network.add_all(&ABC, &ABC);
        for &(name, at_ms) in &starts {
            network.run_until(at_ms);
            network.start(name);
        }
        let last_ms = starts[2].1;
        let settled_ms = network.settle(&ABC, last_ms + 3_000).unwrap_or_else(|| {
            panic!("{starts:?} did not settle:\n{}", network.describe());
        });
        slowest_ms = slowest_ms.max(settled_ms - last_ms);
        assert!(
            network.faults().is_empty(),
            "{starts:?}: {:?}",
            network.faults()
        );
        for name in ABC {
            assert_eq!(
                network.node(name).is_ready(network.now_ms()),
                Ok(()),
                "{starts:?}"
            );
            assert_eq!(
                network
                    .node(name)
                    .layout()
                    .expect("in a cluster")
                    .nodes()
                    .len(),
                3
            );
        }
        // And it stays so: no layout follows, and nobody is taken for dead.
        let version = network.node("a").layout().expect("in a cluster").version();
        network.run_until(settled_ms + 10_000);
        assert!(
            network.is_settled(&ABC),
            "{starts:?}\n{}",
            network.describe()
        );
        assert_eq!(
            network.node("a").layout().expect("in a cluster").version(),
            version
        );
    }
    println!("three nodes: at most {slowest_ms} ms after the last start");
}

#[test]
fn a_node_alone_is_ready_at_once_and_a_first_seed_soon() {
    let mut network = Network::new(1, Faults::default());
    network.add("alone", &[]);
    network.add_all(&["a"], &ABC);
    network.start("alone");
    network.start("a");
    network.run_until(100);
    assert_eq!(network.node("alone").is_ready(100), Ok(()));
    assert_eq!(network.node("a").is_ready(100), Err(NotReady::Seeking));
    network.run_until(1_100);
    assert_eq!(network.node("a").is_ready(1_100), Ok(()));
    assert_ne!(network.node("a").cluster(), network.node("alone").cluster());
}

#[test]
fn a_node_that_is_not_the_first_seed_never_founds() {
    let mut network = Network::new(2, Faults::default());
    network.add_all(&["b", "c", "d"], &ABC);
    for name in ["b", "c", "d"] {
        network.start(name);
    }
    network.run_until(120_000);
    for name in ["b", "c", "d"] {
        assert_eq!(network.node(name).cluster(), None);
        let not_ready = network.node(name).is_ready(network.now_ms());
        assert_eq!(
            not_ready,
            Err(NotReady::NoClusterYet {
                first: "a:1".into()
            })
        );
    }
    network.stop("b");
    network.stop("c");
    network.run_until(130_000);
    let not_ready = network
        .node("d")
        .is_ready(network.now_ms())
        .unwrap_err()
        .to_string();
    assert!(
        not_ready.contains("no seed answers: a:1, b:1, c:1"),
        "{not_ready}"
    );
}

#[test]
fn twenty_join_at_once_with_few_layouts() {
    let names: Vec<String> = (0..20).map(|number| format!("node-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut network = Network::new(3, Faults::default());
    network.add_all(&names, &names[..2]);
    names.iter().for_each(|name| network.start(name));
    let settled_ms = network.settle(&names, 5_000).expect("twenty settle");
    println!("twenty nodes: {settled_ms} ms");
    let layout = network.node(names[0]).layout().expect("in a cluster");
    assert_eq!(layout.nodes().len(), 20);
    assert!(layout.version() <= 3, "one change, not twenty: {layout:?}");
    assert!(settled_ms < 700, "those who wait are told at once");
}

#[test]
fn ten_that_join_one_after_another_make_one_layout() {
    let newcomers: Vec<String> = (0..10).map(|number| format!("new-{number}")).collect();
    let mut network = Network::new(23, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    let version = |network: &Network| network.node("a").layout().expect("in a cluster").version();
    let before = version(&network);
    for name in &newcomers {
        network.add(name, &ABC);
        network.start(name);
        let now_ms = network.now_ms();
        network.run_until(now_ms + 300);
    }
    let mut all: Vec<&str> = newcomers.iter().map(String::as_str).collect();
    all.extend(ABC);
    let now_ms = network.now_ms();
    network.settle(&all, now_ms + 3_000).expect("all settle");
    assert_eq!(version(&network), before + 1);
}

#[test]
fn of_two_layouts_of_one_version_everyone_keeps_the_same() {
    let candidate = |name: &str| Candidate {
        node: NodeId::of(name),
        weight_milli: 1_000,
        zone: "z".into(),
    };
    let founding = Layout::founding(32, 3, candidate("a"));
    let rivals = ["b", "c"].map(|name| founding.next(&[candidate("a"), candidate(name)]));
    let kept = |order: [&Layout; 3]| {
        let mut membership = network::lone_membership("a");
        order
            .into_iter()
            .for_each(|layout| membership.take_layout(layout.clone()));
        membership.layout().expect("one was taken").digest()
    };
    let greater = rivals[0].digest().max(rivals[1].digest());
    assert_eq!(kept([&founding, &rivals[0], &rivals[1]]), greater);
    assert_eq!(kept([&rivals[1], &rivals[0], &founding]), greater);
}

#[test]
fn a_restart_needs_no_seed() {
    let mut network = Network::new(4, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    let cluster = network.node("a").cluster();
    let (version, incarnation) = {
        let c = network.node("c");
        (
            c.layout().expect("in a cluster").version(),
            c.me().incarnation,
        )
    };
    ABC.iter().for_each(|name| network.stop(name));
    // A seed list that leads nowhere, and another port for c.
    network.reconfigure("c", "c:2", &["nowhere:1"]);
    network.start("b");
    network.start("c");
    assert!(matches!(
        network.node("b").is_ready(network.now_ms()),
        Err(NotReady::CatchingUp)
    ));
    let now_ms = network.now_ms();
    network
        .settle(&["b", "c"], now_ms + 3_000)
        .expect("two find one another");
    let c = network.node("c");
    assert_eq!(c.cluster(), cluster);
    assert_eq!(
        c.layout().expect("in a cluster").version(),
        version,
        "a crash is not a leave"
    );
    assert_eq!(c.me().incarnation, incarnation + 1);
    assert_eq!(
        network.node("b").address(NodeId::of("c")).map(|a| &**a),
        Some("c:2")
    );
    assert_eq!(network.renewals("c"), 0);
    assert_eq!(c.is_ready(network.now_ms()), Ok(()));
}

#[test]
fn the_last_one_alive_serves() {
    let mut network = Network::new(5, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    ABC.iter().for_each(|name| network.stop(name));
    network.start("b");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 5_000);
    let b = network.node("b");
    assert_eq!(b.is_ready(network.now_ms()), Ok(()));
    assert!(!b.is_up(NodeId::of("a")) && !b.is_up(NodeId::of("c")));
}

#[test]
fn a_wiped_first_seed_joins_what_the_others_remember() {
    for wait_ms in [0, 20, 400, 5_000] {
        let mut network = Network::new(6 + wait_ms, Faults::default());
        network.add_all(&ABC, &ABC);
        ABC.iter().for_each(|name| network.start(name));
        network.settle(&ABC, 3_000).expect("three settle");
        let cluster = network.node("b").cluster();
        network.stop("a");
        network.wipe("a");
        let now_ms = network.now_ms();
        network.run_until(now_ms + wait_ms);
        network.start("a");
        let now_ms = network.now_ms();
        network.settle(&ABC, now_ms + 3_000).expect("a is back");
        assert_eq!(network.node("a").cluster(), cluster);
        assert_eq!(network.renewals("a"), 1, "its store forgot, and must know");
        assert!(network.node("a").me().incarnation > 1);
        assert!(network.faults().is_empty());
    }
}

#[test]
fn a_wiped_first_seed_waits_for_others_that_are_just_starting() {
    let mut network = Network::new(7, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    let cluster = network.node("b").cluster();
    ABC.iter().for_each(|name| network.stop(name));
    network.wipe("a");
    network.start("a");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 600);
    network.start("b");
    network.start("c");
    network
        .settle(&ABC, now_ms + 4_000)
        .expect("three settle again");
    assert_eq!(network.node("a").cluster(), cluster);
}

#[test]
fn a_founder_that_dies_while_founding_leaves_no_second_cluster() {
    // Whatever the moment, and whether its disk had it or not.
    for crash_ms in (980..1_200).step_by(4) {
        let mut network = Network::new(crash_ms, Faults::default());
        network.slow_disks(40);
        network.add_all(&ABC, &ABC);
        network.start("b");
        network.start("a");
        network.run_until(crash_ms);
        network.stop("a");
        network.run_until(crash_ms + 100);
        // b, which may have heard of the cluster, is away while a comes back.
        network.stop("b");
        network.start("a");
        network.run_until(crash_ms + 3_000);
        network.start("b");
        network.start("c");
        network.settle(&ABC, crash_ms + 6_000).unwrap_or_else(|| {
            panic!("crash at {crash_ms}:\n{}", network.describe());
        });
        assert!(
            network.faults().is_empty(),
            "crash at {crash_ms}: {:?}",
            network.faults()
        );
    }
}

#[test]
fn two_lists_that_disagree_about_the_first_make_one_cluster() {
    for gap_ms in (0..2_000).step_by(30) {
        let mut network = Network::new(gap_ms, Faults::default());
        network.add("a", &["a", "b"]);
        network.add("b", &["b", "a"]);
        network.start("a");
        network.run_until(gap_ms);
        network.start("b");
        network
            .settle(&["a", "b"], gap_ms + 4_000)
            .unwrap_or_else(|| {
                panic!("{gap_ms} ms apart:\n{}", network.describe());
            });
    }
}

#[test]
fn two_clusters_never_mix() {
    let mut network = Network::new(9, Faults::default());
    network.add_all(&["a", "b"], &["a", "b"]);
    network.add_all(&["x", "y"], &["x", "y"]);
    for name in ["a", "b", "x", "y"] {
        network.start(name);
    }
    network.settle(&["a", "b"], 3_000).expect("ab settle");
    network.settle(&["x", "y"], 3_000).expect("xy settle");
    // y's operator adds a seed of the other cluster.
    network.stop("y");
    network.reconfigure("y", "y:1", &["a", "x"]);
    network.start("y");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 30_000);
    assert!(network.is_settled(&["a", "b"]) && network.is_settled(&["x", "y"]));
    assert_ne!(network.node("a").cluster(), network.node("x").cluster());
    assert_eq!(network.node("a").members().count(), 2);
    assert_eq!(network.node("y").members().count(), 2);
    let faults = network.faults();
    let other = |name| {
        let mine = |(node, fault): &&(String, Fault)| {
            node == name && matches!(fault, Fault::OtherCluster { .. })
        };
        faults.iter().filter(mine).count()
    };
    assert_eq!((other("y"), other("a")), (1, 1), "once each: {faults:?}");
}

#[test]
fn a_seeking_node_is_not_drawn_into_a_cluster_that_merely_spoke_to_it() {
    let mut network = Network::new(10, Faults::default());
    network.add("stranger", &["stranger", "b"]); // a wrong list: b is no friend
    network.add("b", &["a", "b"]);
    network.start("b");
    network.start("stranger");
    network.run_until(30_000);
    assert!(network.node("stranger").cluster().is_some());
    assert_eq!(network.node("b").cluster(), None);
}

#[test]
fn an_answer_to_someone_else_is_nobodys_invitation() {
    let founder_out = |summary: Summary| {
        let mut founder = network::lone_membership("founder");
        let founding = founder.tick(10, 10, &mut || 7);
        let Some(Gossip::Persist { revision }) = founding.first() else {
            panic!("a founder stores its cluster first: {founding:?}");
        };
        founder.on_persisted(*revision, 20);
        let asked = Message::GossipSummary(Box::new(summary));
        let mut out = founder.on_message(NodeId::of("b"), asked, 30, 30);
        match out.pop() {
            Some(Gossip::Send { message, .. }) => message,
            other => panic!("a question is answered: {other:?}"),
        }
    };
    let question = |membership: &mut Membership| {
        let out = membership.tick(10, 10, &mut || 7);
        out.into_iter()
            .find_map(|gossip| match gossip {
                Gossip::Contact {
                    message: Message::GossipSummary(summary),
                    ..
                } => Some(*summary),
                _ => None,
            })
            .expect("a node without a cluster asks")
    };
    let mut past = network::seeking_membership("b", 1);
    let mut present = network::seeking_membership("b", 1_000);
    let answer = founder_out(question(&mut past));
    question(&mut present);
    present.on_message(NodeId::of("founder"), answer.clone(), 40, 40);
    assert_eq!(present.cluster(), None);
    past.on_message(NodeId::of("founder"), answer, 40, 40);
    assert_eq!(past.cluster(), Some(ClusterId(7)));
}

#[test]
fn two_names_with_one_id_are_refused() {
    let mut network = Network::new(11, Faults::default());
    network.add_all(&["a", "b"], &["a"]);
    network.start("a");
    network.start("b");
    network.settle(&["a", "b"], 3_000).expect("two settle");
    network.add("double", &["a"]);
    network.impersonate("double", NodeId::of("b"));
    network.start("double");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 5_000);
    assert_eq!(network.node("double").cluster(), None);
    let not_ready = network
        .node("double")
        .is_ready(network.now_ms())
        .unwrap_err();
    assert!(
        matches!(not_ready, NotReady::Fault(Fault::NameTaken { .. })),
        "{not_ready:?}"
    );
    assert!(network.is_settled(&["a", "b"]));
    assert_eq!(
        &*network
            .node("a")
            .member(NodeId::of("b"))
            .expect("a member")
            .name,
        "b"
    );
}

#[test]
fn one_name_used_twice_is_reported() {
    let mut network = Network::new(12, Faults::default());
    network.add_all(&["a", "b"], &["a"]);
    network.start("a");
    network.start("b");
    network.settle(&["a", "b"], 3_000).expect("two settle");
    network.add("b2", &["a"]);
    network.rename("b2", "b");
    network.start("b2");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 20_000);
    let faults = network.faults();
    assert!(
        faults
            .iter()
            .any(|(_, fault)| matches!(fault, Fault::SameName { .. })),
        "{faults:?}"
    );
}

#[test]
fn a_restored_node_takes_a_higher_incarnation() {
    let mut network = Network::new(13, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 3_000).expect("three settle");
    let backup = network.disk("b");
    for _ in 0..3 {
        network.stop("b");
        network.start("b");
        let now_ms = network.now_ms();
        network.settle(&ABC, now_ms + 3_000).expect("three settle");
    }
    let before = network.node("b").me().incarnation;
    assert_eq!(network.renewals("b"), 0);
    network.stop("b");
    network.restore("b", backup);
    network.start("b");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 3_000);
    assert!(network.is_settled(&ABC));
    assert!(network.node("b").me().incarnation > before);
    assert_eq!(network.renewals("b"), 1);
}

#[test]
fn the_catalog_spreads_and_settles() {
    let mut network = Network::new(14, Faults::default());
    network.add_all(&ABC, &ABC);
    ABC.iter().for_each(|name| network.start(name));
    // Before there is a cluster, too: what a config file says.
    network.change_catalog("c", |c| {
        c.propose_table("carts", TableDefinition::default())
    });
    network.settle(&ABC, 3_000).expect("three settle");
    assert!(network.node("a").catalog().table("carts").is_some());
    let changed_ms = network.now_ms();
    network.change_catalog("a", |c| c.set_table("one", TableDefinition::default()));
    network.change_catalog("b", |c| c.set_table("two", TableDefinition::default()));
    let settled_ms = network
        .settle(&ABC, changed_ms + 1_000)
        .expect("at once, not at a round");
    for name in ABC {
        let catalog = network.node(name).catalog();
        assert!(catalog.table("one").is_some() && catalog.table("two").is_some());
    }
    assert!(
        settled_ms - changed_ms < 500,
        "{} ms",
        settled_ms - changed_ms
    );
}

#[test]
fn two_proposals_at_once_settle() {
    let mut network = Network::new(15, Faults::default());
    let names = ["a", "b", "c", "d", "e", "f"];
    network.add_all(&names, &["a", "d"]);
    for name in ["a", "b", "c", "d"] {
        network.start(name);
    }
    network
        .settle(&["a", "b", "c", "d"], 4_000)
        .expect("four settle");
    let version = network.node("a").layout().expect("in a cluster").version();
    // Each half gets a newcomer of its own, and proposes a layout with it.
    network.split(&["a", "b", "e"]);
    network.start("e");
    network.start("f");
    let now_ms = network.now_ms();
    network.run_until(now_ms + 20_000);
    let stamp = |network: &Network, name| {
        let layout = network.node(name).layout().expect("in a cluster");
        (layout.version(), layout.digest())
    };
    assert_eq!(stamp(&network, "a").0, version + 1);
    assert_eq!(stamp(&network, "d").0, version + 1);
    assert_ne!(stamp(&network, "a"), stamp(&network, "d"));
    network.heal();
    let now_ms = network.now_ms();
    // A version is left to one side's newcomer at first; the next has both.
    network.run_until(now_ms + 10_000);
    assert!(network.is_settled(&names), "{}", network.describe());
    assert_eq!(
        network
            .node("a")
            .layout()
            .expect("in a cluster")
            .nodes()
            .len(),
        6
    );
}

#[test]
fn a_weightless_node_takes_part_without_data() {
    let mut network = Network::new(20, Faults::default());
    network.add_all(&ABC, &ABC);
    network.weigh("c", 0);
    ABC.iter().for_each(|name| network.start(name));
    network.settle(&ABC, 6_000).expect("three settle");
    let c = network.node("c");
    assert_eq!(c.me().status, Status::Up);
    assert!(
        !c.layout()
            .expect("in a cluster")
            .nodes()
            .contains(&NodeId::of("c"))
    );
}

#[test]
fn memory_of_another_node_is_refused() {
    let mut network = Network::new(21, Faults::default());
    network.add_all(&["a", "b"], &["a"]);
    network.start("a");
    network.run_until(1_000);
    let disk = network.disk("a");
    network.restore("b", disk);
    network.start("b");
    let not_ready = network.node("b").is_ready(1_000);
    assert_eq!(not_ready, Err(NotReady::Fault(Fault::ForeignMemory)));
}
