//! What was acknowledged is there, and no dot is minted twice, however often
//! nodes are killed with writes in hand.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::http::values;
use common::{Cluster, Expect, Http, Plan, Request, item, until};

const TABLES: &str = "[tables.raw]\nmax_siblings = 10000\n";
/// How often a node is killed.
const KILLS: usize = 5;
/// How many writes have to be acknowledged between two kills.
const WRITES_PER_KILL: usize = 40;
/// How many writers there are at once.
const WRITERS: usize = 4;
/// How many items the blind writers write to, over and over.
const BLIND_ITEMS: usize = 3;

/// What one writer was told: the values of the writes that were acknowledged,
/// by path.
type Acknowledged = Vec<(String, String)>;

/// Writes until told to stop: items of its own, and blindly to shared ones.
/// Nodes die under it, so only what is acknowledged counts.
fn write(
    http: &Http,
    label: &str,
    w: usize,
    done: &AtomicUsize,
    stop: &AtomicBool,
) -> Acknowledged {
    let mut acknowledged = Vec::new();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = format!("{label} {round}");
        let path = match round % 2 {
            0 => item("raw", format!("{label}-{round}")),
            _ => item("raw", format!("blind-{}", round / 2 % BLIND_ITEMS)),
        };
        let request = Request::put(format!("{path}?w={w}"), value.clone());
        match http.try_send(request) {
            Ok(reply) if reply.status == 204 => {
                acknowledged.push((path, value));
                done.fetch_add(1, Ordering::Relaxed);
            }
            // Nobody promised anything.
            Ok(reply) => assert_eq!(reply.status, 503, "{}", reply.problem().detail),
            Err(_) => thread::yield_now(),
        }
        round += 1;
    }
    acknowledged
}

/// Lets writers write while `disturb` is called again and again.
fn write_under(targets: &[(Http, usize)], mut disturb: impl FnMut(usize)) -> Acknowledged {
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (http, w) = &targets[writer % targets.len()];
                let (done, stop) = (&done, &stop);
                scope.spawn(move || write(http, &format!("writer{writer}"), *w, done, stop))
            })
            .collect();
        for kill in 0..KILLS {
            let enough = done.load(Ordering::Relaxed) + WRITES_PER_KILL;
            until("writes are acknowledged", || {
                done.load(Ordering::Relaxed) >= enough || writers.iter().any(|w| w.is_finished())
            });
            disturb(kill);
        }
        stop.store(true, Ordering::Relaxed);
        let finished = writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer"));
        finished.flatten().collect()
    })
}

/// Checks that every acknowledged value is there, and that dots are distinct.
fn check(http: &Http, query: &str, acknowledged: &[(String, String)]) {
    let mut by_path: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, value) in acknowledged {
        by_path.entry(path).or_default().push(value);
    }
    let mut blind = 0;
    for (path, expected) in by_path {
        let reply = http.get(&format!("{path}?siblings=true{query}")).is(200);
        let siblings = reply.siblings();
        let found = values(&siblings);
        for value in &expected {
            let times = found.iter().filter(|one| **one == value.as_bytes()).count();
            assert_eq!(times, 1, "{value:?} was acknowledged for {path}");
        }
        let mut dots: Vec<&str> = siblings.iter().map(|sibling| &*sibling.dot).collect();
        dots.sort_unstable();
        dots.dedup();
        assert_eq!(
            dots.len(),
            siblings.len(),
            "a dot names two writes to {path}"
        );
        blind += usize::from(expected.len() > 1);
    }
    assert_eq!(blind, BLIND_ITEMS, "the blind writers wrote");
    assert!(acknowledged.len() >= KILLS * WRITES_PER_KILL);
}

#[test]
fn a_lone_node_keeps_what_it_acknowledged() {
    let cluster = Cluster::start(1, Plan::with(TABLES));
    let acknowledged = write_under(&[(cluster.at(0).clone(), 1)], |_| {
        cluster.nodes[0].kill9();
        cluster.restart(0);
    });
    check(cluster.at(0), "&r=1", &acknowledged);
    // It is on the disk, not only in what the last process remembers.
    assert_eq!(cluster.nodes[0].stop().code(), Some(0));
    cluster.restart(0);
    check(cluster.at(0), "&r=1", &acknowledged);
}

#[test]
fn three_nodes_keep_what_any_of_them_acknowledged() {
    let cluster = Cluster::start(3, Plan::with(TABLES));
    let targets: Vec<(Http, usize)> = [(0, 1), (1, 2), (2, 1), (0, 2)]
        .map(|(node, w)| (cluster.at(node).clone(), w))
        .into();
    let acknowledged = write_under(&targets, |kill| {
        let node = kill % 3;
        cluster.nodes[node].kill9();
        cluster.restart(node);
    });
    // All at once, as when the power fails in a rack, but for the disks.
    for node in &cluster.nodes {
        node.kill9();
    }
    for node in &cluster.nodes {
        node.start();
    }
    assert!(cluster.settle());
    cluster.wait_no_hints();
    for node in &cluster.nodes {
        check(node.http(), "&r=all", &acknowledged);
    }
}

#[test]
fn a_node_whose_store_is_damaged_comes_back_without_it() {
    let cluster = Cluster::start(3, Plan::with(TABLES));
    let damaged = &cluster.nodes[2];
    // With two copies of everything, the loss of one loses nothing.
    let targets: Vec<(Http, usize)> = [0, 1, 2].map(|node| (cluster.at(node).clone(), 2)).into();
    let acknowledged = write_under(&targets, |kill| {
        if kill % 2 == 0 {
            assert_eq!(damaged.stop().code(), Some(0));
        } else {
            damaged.kill9();
        }
        for entry in fs::read_dir(damaged.data_dir()).expect("a data directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("items-") && !name.contains(".damaged-") {
                let mut bytes = fs::read(&path).expect("reads");
                bytes.fill(0xa5);
                fs::write(&path, bytes).expect("writes");
            }
        }
        cluster.restart(2);
    });
    assert!(cluster.settle());
    cluster.wait_no_hints();
    let said = damaged.said();
    assert_eq!(said.matches("is beyond repair").count(), KILLS, "{said}");
    for node in &cluster.nodes {
        check(node.http(), "&r=all", &acknowledged);
    }
}
