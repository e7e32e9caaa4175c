//! Nodes that die, pause and come back: what goes on meanwhile, what is said
//! when it cannot, and what a node that was away finds when it returns.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::http::values;
use common::{Cluster, Expect, Plan, Request, eventually, item, until};

const TABLES: &str = "[tables.raw]\n";

fn start(count: usize) -> Cluster {
    Cluster::start(count, Plan::with(TABLES))
}

/// Writes and reads through these nodes, over and over, until told to stop.
/// Every request has to succeed.
fn go_on(cluster: &Cluster, nodes: [usize; 2], label: &str, done: &AtomicUsize, stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = item("raw", format!("{label}-{round}"));
        let value = format!("{label} {round}");
        let (one, other) = (nodes[round % 2], nodes[(round + 1) % 2]);
        let token = cluster.at(one).put(&path, value.clone()).is(204).token();
        assert_eq!(cluster.at(other).get(&path).is(200).text(), value);
        let newer = format!("{value} again");
        cluster
            .at(other)
            .put_with(&path, newer.clone(), &token)
            .is(204);
        assert_eq!(cluster.at(one).get(&path).is(200).text(), newer);
        round += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn with_a_node_dead_everything_goes_on_without_an_error() {
    let cluster = start(3);
    // The founder, too, and a second time, now with a past.
    for (turn, dead) in [2, 0, 1].into_iter().enumerate() {
        let alive = [(dead + 1) % 3, (dead + 2) % 3];
        let label = format!("turn{turn}");
        let kept = item("raw", format!("{label}-kept"));
        let gone = item("raw", format!("{label}-gone"));
        let gone_token = cluster
            .at(dead)
            .put(&format!("{gone}?w=all"), "gone")
            .is(204)
            .token();
        let kept_token = cluster
            .at(dead)
            .put(&format!("{kept}?w=all"), "old")
            .is(204)
            .token();

        let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let before = thread::scope(|scope| {
            for writer in 0..3 {
                let (cluster, done, stop) = (&cluster, &done, &stop);
                let label = format!("{label}-{writer}");
                scope.spawn(move || {
                    // Whoever fails must not let the others go on for ever.
                    let _stop = StopWhenDropped(stop);
                    go_on(cluster, alive, &label, done, stop);
                });
            }
            let more = |count: usize| {
                let until_then = done.load(Ordering::Relaxed) + count;
                until("requests go on", || {
                    stop.load(Ordering::Relaxed) || done.load(Ordering::Relaxed) >= until_then
                });
            };
            more(10);
            cluster.nodes[dead].kill9();
            let before = done.load(Ordering::Relaxed);
            // The first request after the kill, and those after it.
            cluster
                .at(alive[0])
                .put_with(&kept, "new", &kept_token)
                .is(204);
            assert_eq!(cluster.at(alive[1]).get(&kept).is(200).text(), "new");
            let request = Request::delete(&gone).context(&gone_token).unwrap();
            cluster.at(alive[1]).send(request).is(204);
            more(60);
            stop.store(true, Ordering::Relaxed);
            before
        });
        assert!(done.load(Ordering::Relaxed) >= before + 60);

        let held: u64 = alive
            .iter()
            .flat_map(|&node| cluster.nodes[node].hints())
            .map(|(_, held)| held)
            .sum();
        assert!(held > 0, "what the dead node misses is held for it");
        cluster.restart(dead);
        cluster.wait_no_hints();
        // Alone, it can only say what it has.
        for node in alive {
            cluster.nodes[node].kill9();
        }
        let alone = cluster.at(dead);
        assert_eq!(alone.get(&format!("{kept}?r=1")).is(200).text(), "new");
        alone.get(&format!("{gone}?r=1")).refused(404, "not_found");
        for writer in 0..3 {
            let mut found = 0;
            loop {
                let path = item("raw", format!("{label}-{writer}-{found}"));
                let reply = alone.get(&format!("{path}?r=1"));
                if reply.status == 404 {
                    break;
                }
                assert_eq!(
                    reply.is(200).text(),
                    format!("{label}-{writer} {found} again")
                );
                found += 1;
            }
            assert!(found > 0);
        }
        for node in alive {
            cluster.nodes[node].start();
        }
        assert!(cluster.settle());
        let all = cluster.at(alive[0]).get(&format!("{gone}?r=all"));
        all.refused(404, "not_found");
    }
}

struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn with_two_nodes_dead_one_replica_is_what_can_be_had() {
    let cluster = start(3);
    let old = item("raw", "old");
    cluster.at(1).put(&format!("{old}?w=all"), "old").is(204);
    cluster.nodes[1].kill9();
    cluster.nodes[2].kill9();
    let last = cluster.at(0);

    for round in 0..20 {
        let path = item("raw", format!("one-{round}"));
        last.put(&format!("{path}?w=1"), "one").is(204);
        last.put(&format!("{path}-strict?w=1&quorum=strict"), "one")
            .is(204);
        assert_eq!(last.get(&format!("{path}?r=1")).is(200).text(), "one");
        assert_eq!(last.get(&format!("{old}?r=1")).is(200).text(), "old");

        let two = item("raw", format!("two-{round}"));
        for query in ["", "?w=2", "?w=all", "?quorum=strict"] {
            let reply = last.put(&format!("{two}{query}"), "two").is(503);
            assert_eq!(reply.header("retry-after"), Some("1"));
            let detail = reply.refused(503, "quorum_unmet");
            assert!(detail.contains("1 of the "), "{detail}");
            assert!(detail.contains("may still be stored"), "{detail}");
        }
        let reply = last.get(&two).is(503);
        assert_eq!(reply.header("retry-after"), Some("1"));
        let detail = reply.refused(503, "quorum_unmet");
        assert!(detail.contains("1 of the 2"), "{detail}");
        assert!(
            !detail.contains("stored"),
            "a read stores nothing: {detail}"
        );
        last.get(&format!("{two}?quorum=strict"))
            .refused(503, "quorum_unmet");
    }
    // A delete that cannot know what it deletes says so, and one that can is
    // taken where w lets it.
    last.delete(&old).refused(503, "quorum_unmet");
    last.delete(&format!("{old}?r=1&w=1")).is(204);

    for node in [1, 2] {
        cluster.nodes[node].start();
    }
    assert!(cluster.settle());
    cluster.wait_no_hints();
    cluster.nodes[0].kill9();
    for node in [1, 2] {
        let http = cluster.at(node);
        for round in 0..20 {
            assert_eq!(
                http.get(&item("raw", format!("one-{round}")))
                    .is(200)
                    .text(),
                "one"
            );
            // It was stored indeed: four writers, none of whom saw another.
            assert_eq!(http.siblings(&item("raw", format!("two-{round}"))).len(), 4);
        }
        http.get(&old).refused(404, "not_found");
    }
}

/// An item whose first primary is a given node, found by trying.
fn item_of(cluster: &Cluster, first: usize, label: &str) -> (String, Vec<usize>) {
    for number in 0.. {
        let key = format!("{label}-{number}");
        let preference = cluster.preference("raw", &key);
        if preference[0] == first {
            return (item("raw", key), preference);
        }
    }
    unreachable!("every node is first for some keys");
}

#[test]
fn a_fallback_stands_in_for_a_dead_primary_and_hands_over() {
    let cluster = start(5);
    let (path, preference) = item_of(&cluster, 4, "handed");
    let (dead, fallback, outsider) = (preference[0], preference[3], preference[4]);
    let seen = cluster
        .at(outsider)
        .put(&format!("{path}?w=all"), "before")
        .is(204)
        .token();
    cluster.nodes[dead].kill9();
    // All three replicas, at once.
    let request = Request::put(format!("{path}?w=all"), "soon")
        .context(&seen)
        .unwrap();
    let seen = cluster.at(preference[1]).send(request).is(204).token();
    // And from a node that holds none itself, once it knows whom not to forward
    // to: a forward that may have arrived is not repeated.
    cluster.wait_seen(outsider, dead, false);
    let request = Request::put(format!("{path}?w=all"), "meanwhile")
        .context(&seen)
        .unwrap();
    cluster.at(outsider).send(request).is(204);
    for node in [fallback, outsider, preference[1]] {
        assert_eq!(
            cluster
                .at(node)
                .get(&format!("{path}?r=all"))
                .is(200)
                .text(),
            "meanwhile"
        );
    }
    let reply = cluster
        .at(outsider)
        .put(&format!("{path}?w=all&quorum=strict&timeout_ms=2000"), "v");
    reply.refused(503, "quorum_unmet");
    cluster
        .at(outsider)
        .get(&format!("{path}?r=all&quorum=strict"))
        .refused(503, "quorum_unmet");
    let of_dead = &cluster.nodes[dead].name;
    until("the fallback holds a hint", || {
        cluster.nodes[fallback].hints().contains_key(of_dead)
    });

    // Many items, of which the dead node is primary, stand-by or nothing at all.
    let many: Vec<String> = (0..60)
        .map(|number| item("raw", format!("many-{number}")))
        .collect();
    for (number, path) in many.iter().enumerate() {
        let node = preference[1 + number % 4];
        cluster
            .at(node)
            .put(&format!("{path}?w=all"), path.clone())
            .is(204);
    }

    cluster.nodes[dead].start();
    cluster.nodes[dead].wait_ready();
    cluster.wait_no_hints();
    // What a primary has to have it has, of its own.
    for node in 0..5 {
        if node != dead {
            cluster.nodes[node].kill9();
        }
    }
    let alone = cluster.at(dead);
    assert_eq!(
        values(
            &alone
                .get(&format!("{path}?r=1&siblings=true"))
                .is(200)
                .siblings()
        ),
        [&b"meanwhile"[..], b"v"]
    );
    let mut own = 0;
    for (number, path) in many.iter().enumerate() {
        if cluster.preference("raw", &format!("many-{number}"))[..3].contains(&dead) {
            assert_eq!(
                alone
                    .get(&format!("{path}?r=1&quorum=strict"))
                    .is(200)
                    .text(),
                *path
            );
            own += 1;
        }
    }
    assert!(own > 10, "{own} of 60 items have the node as primary");
}

#[test]
fn a_paused_node_is_waited_for_only_by_those_who_ask_for_it() {
    let cluster = start(4);
    let (path, preference) = item_of(&cluster, 3, "paused");
    let (paused, other) = (preference[0], preference[1]);
    let token = cluster
        .at(other)
        .put(&format!("{path}?w=all"), "before")
        .is(204)
        .token();
    // Its connections stay open and nobody refuses anything: only time tells.
    cluster.nodes[paused].pause();
    let detail = cluster
        .at(other)
        .put(
            &format!("{path}?w=all&quorum=strict&timeout_ms=700"),
            "strict",
        )
        .refused(503, "quorum_unmet");
    assert!(detail.contains("2 of the 3"), "{detail}");
    // A fallback is tried beside it.
    let request = Request::put(format!("{path}?w=all"), "after")
        .context(&token)
        .unwrap();
    cluster.at(other).send(request).is(204);
    let read = cluster
        .at(other)
        .get(&format!("{path}?r=all&siblings=true"))
        .is(200);
    assert_eq!(values(&read.siblings()), [&b"after"[..], b"strict"]);

    cluster.nodes[paused].resume();
    eventually("the paused node has caught up", || {
        let reply = cluster
            .at(paused)
            .try_send(Request::get(format!("{path}?r=1&siblings=true")));
        let reply = reply.map_err(|error| error.to_string())?;
        if reply.status != 200 {
            return Err(format!("{}: {}", reply.status, reply.problem().detail));
        }
        match values(&reply.siblings())[..] {
            [b"after", b"strict"] => Ok(()),
            ref other => Err(format!("{other:?}")),
        }
    });
    cluster.wait_no_hints();
}
