//! How nodes find each other, remember it, agree on tables, and part.

mod common;

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Cluster, Expect, KINFOLD, Plan, Request, eventually, free_port, item, until};
use serde_json::{Value, json};

const TABLES: &str = "[tables.raw]\n\n[tables.limited]\nmax_value_bytes = 100\n";

#[test]
fn three_nodes_settle_whatever_the_order_of_their_start() {
    let cluster = Cluster::prepare(3, Plan::with(TABLES));
    for (turn, order) in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ]
    .into_iter()
    .enumerate()
    {
        for node in order {
            cluster.nodes[node].start();
            until("it listens", || cluster.nodes[node].try_view().is_ok());
        }
        assert!(cluster.settle(), "{order:?}");
        for node in &cluster.nodes {
            assert_eq!(node.members(), ["a", "b", "c"], "{order:?}");
        }
        let path = item("raw", "k");
        cluster.at(order[0]).get(&path).refused(404, "not_found");
        cluster
            .at(order[0])
            .put(&format!("{path}?w=all"), format!("turn {turn}"))
            .is(204);
        assert_eq!(
            cluster.at(order[2]).get(&path).is(200).text(),
            format!("turn {turn}")
        );
        for node in &cluster.nodes {
            node.kill9();
            node.forget();
        }
    }
}

#[test]
fn a_cluster_remembers_itself_without_its_seeds() {
    let cluster = Cluster::start(3, Plan::with(TABLES));
    let path = item("raw", "k");
    cluster.at(0).put(&format!("{path}?w=all"), "v").is(204);
    for node in &cluster.nodes {
        node.kill9();
        // Nobody listens there.
        node.configure(&[format!("127.0.0.1:{}", free_port())], TABLES);
    }
    for node in cluster.nodes.iter().rev() {
        node.start();
    }
    assert!(cluster.settle());
    for node in &cluster.nodes {
        assert_eq!(
            node.http().get(&format!("{path}?r=all")).is(200).text(),
            "v"
        );
    }
    // An orderly end is no leave either.
    assert_eq!(cluster.nodes[1].stop().code(), Some(0));
    assert_eq!(cluster.nodes[0].members(), ["a", "b", "c"]);
    cluster.wait_seen(0, 1, false);
    cluster.nodes[1].start();
    assert!(cluster.settle());
    cluster.wait_seen(0, 1, true);
}

#[test]
fn clusters_never_mix_and_a_node_without_one_says_why() {
    let cluster = Cluster::prepare(4, Plan::default());
    let [a, b, c, d] = &cluster.nodes[..] else {
        unreachable!("four nodes")
    };
    let nowhere = format!("127.0.0.1:{}", free_port());
    a.configure(&[a.address()], TABLES);
    b.configure(&[b.address()], TABLES);
    c.configure(std::slice::from_ref(&nowhere), TABLES);
    d.configure(&[c.address()], TABLES);
    for node in &cluster.nodes {
        node.start();
    }
    a.wait_ready();
    b.wait_ready();
    let says = |node: &common::Node, wanted: &[&str]| {
        eventually("the node says why it is not ready", || {
            let reason = node.not_ready().ok_or("it is ready")?;
            match wanted.iter().all(|text| reason.contains(text)) {
                true => Ok(()),
                false => Err(reason),
            }
        });
    };
    says(c, &["no seed answers", &nowhere]);
    says(d, &["know no cluster yet", &c.address()]);
    let reply = c.http().get("/readyz").is(503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    reply.refused(503, "not_ready");
    c.http().get("/healthz").is(200);
    c.http()
        .put("/v1/tables/made", "{}")
        .refused(503, "not_ready");

    // What b remembers goes before what its seed list says now.
    a.http()
        .put(&item("raw", "k"), "of a")
        .refused(503, "quorum_unmet");
    a.http()
        .put(&format!("{}?w=1", item("raw", "k")), "of a")
        .is(204);
    b.kill9();
    b.configure(&[a.address()], TABLES);
    b.start();
    b.wait_ready();
    eventually("b names the cluster that it found", || {
        let said = b.said();
        match said.contains("other cluster") || said.contains("belongs to cluster") {
            true => Ok(()),
            false => Err(said),
        }
    });
    assert_eq!(a.members(), ["a"]);
    assert_eq!(b.members(), ["b"]);
    b.http()
        .get(&format!("{}?r=1", item("raw", "k")))
        .refused(404, "not_found");

    // The right seed list mends the others.
    for node in [c, d] {
        node.kill9();
        node.configure(&[a.address()], TABLES);
        node.start();
    }
    for node in [a, c, d] {
        until("the three are one cluster", || {
            node.not_ready().is_none() && node.members() == ["a", "c", "d"]
        });
    }
    assert_eq!(b.members(), ["b"]);
}

fn define(cluster: &Cluster, node: usize, name: &str, definition: &Value) -> common::Reply {
    cluster
        .at(node)
        .put(&format!("/v1/tables/{name}"), definition.to_string())
}

/// Waits until every node gives this definition, as far as it goes.
#[track_caller]
fn wait_table(cluster: &Cluster, name: &str, wanted: &Value) {
    for node in &cluster.nodes {
        eventually(&format!("{} knows the table {name}", node.name), || {
            let reply = node.http().get(&format!("/v1/tables/{name}"));
            let found = reply.document();
            let wanted = wanted.as_object().expect("an object");
            match wanted.iter().all(|(key, value)| found[key] == *value) {
                true => Ok(()),
                false => Err(found.to_string()),
            }
        });
    }
}

#[test]
fn tables_are_made_changed_and_ended_anywhere() {
    let cluster = Cluster::start(3, Plan::with(TABLES));
    define(&cluster, 0, "wishes", &json!({"n": 3, "r": 1, "w": "all"})).is(201);
    wait_table(
        &cluster,
        "wishes",
        &json!({"n": 3, "r": 1, "w": "all", "reconciler": "none"}),
    );
    let path = item("wishes", "k");
    cluster.at(2).put(&path, "v").is(204);
    define(
        &cluster,
        1,
        "wishes",
        &json!({"max_value_bytes": "1KiB", "reconciler": "lww"}),
    )
    .is(200);
    wait_table(
        &cluster,
        "wishes",
        &json!({"max_value_bytes": 1024, "reconciler": "lww"}),
    );
    cluster
        .at(0)
        .put(&path, vec![0; 1025])
        .refused(413, "too_large");
    // The same again is no change.
    define(
        &cluster,
        2,
        "wishes",
        &json!({"max_value_bytes": 1024, "reconciler": "lww"}),
    )
    .is(200);

    for (wrong, why) in [
        (json!({"n": 0}), "n: "),
        (json!({"n": 2, "r": 3}), "r: "),
        (json!({"n": 2, "w": 3}), "w: "),
        (json!({"reconciler": "nobody"}), "nobody"),
        (json!({"replicas": 3}), "replicas"),
        (json!({"sort_keys": true}), "sort_keys"),
        (json!({"name": "other"}), "other"),
    ] {
        let detail = define(&cluster, 1, "wishes", &wrong).refused(422, "invalid_table");
        assert!(detail.contains(why), "{wrong}: {detail}");
    }
    define(&cluster, 1, "a%2Fb", &json!({})).refused(422, "invalid_table");
    cluster
        .at(1)
        .put("/v1/tables/wishes", "[")
        .refused(400, "bad_request");
    let reply = define(&cluster, 1, "wide", &json!({"n": 5, "w": 1, "r": 1}))
        .is(201)
        .document();
    let warning = reply["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("3 members"), "{warning}");

    // A table made again under its name shares nothing with the old one.
    cluster
        .at(0)
        .delete("/v1/tables/wishes")
        .refused(400, "bad_request");
    cluster
        .at(0)
        .delete("/v1/tables/wishes?confirm=wide")
        .refused(400, "bad_request");
    cluster
        .at(0)
        .delete("/v1/tables/wishes?confirm=wishes")
        .is(204);
    cluster
        .at(0)
        .delete("/v1/tables/wishes?confirm=wishes")
        .refused(404, "no_such_table");
    for node in &cluster.nodes {
        until("the table is gone", || {
            node.http().get("/v1/tables/wishes").status == 404
        });
        node.http().get(&path).refused(404, "no_such_table");
    }
    define(&cluster, 2, "wishes", &json!({})).is(201);
    wait_table(&cluster, "wishes", &json!({"reconciler": "none"}));
    for node in &cluster.nodes {
        node.http().get(&path).refused(404, "not_found");
    }
    let names = |node: usize| -> Vec<String> {
        let document = cluster.at(node).get("/v1/tables").is(200).document();
        let tables = document["tables"].as_array().expect("tables").iter();
        tables
            .map(|table| table["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    until("every node lists all", || {
        (0..3).all(|node| names(node) == ["limited", "raw", "wide", "wishes"])
    });
}

#[test]
fn what_was_said_last_about_a_table_holds() {
    let cluster = Cluster::start(3, Plan::with(TABLES));
    wait_table(&cluster, "limited", &json!({"max_value_bytes": 100}));
    define(&cluster, 1, "limited", &json!({"max_value_bytes": 200})).is(200);
    define(&cluster, 1, "made", &json!({})).is(201);
    // The file says 100, as it did last time: what was said over HTTP is newer.
    wait_table(&cluster, "limited", &json!({"max_value_bytes": 200}));
    for node in &cluster.nodes {
        node.kill9();
    }
    for node in &cluster.nodes {
        node.start();
    }
    assert!(cluster.settle());
    wait_table(&cluster, "limited", &json!({"max_value_bytes": 200}));
    wait_table(&cluster, "made", &json!({}));

    // Now one file says something new.
    let changed = TABLES.replace("= 100", "= 300");
    cluster.nodes[2].stop();
    cluster.nodes[2].configure(&cluster.seeds(), &changed);
    cluster.nodes[2].start();
    wait_table(&cluster, "limited", &json!({"max_value_bytes": 300}));
    // The other files say nothing new.
    for index in [0, 1] {
        cluster.nodes[index].stop();
        cluster.restart(index);
    }
    wait_table(&cluster, "limited", &json!({"max_value_bytes": 300}));
    let path = item("limited", "k");
    cluster
        .at(0)
        .send(Request::put(&path, vec![0; 300]))
        .is(204);
    cluster
        .at(1)
        .put(&path, vec![0; 301])
        .refused(413, "too_large");
}

/// Runs a command against these endpoints.
fn kinfold(endpoint: &str, arguments: &[&str]) -> Output {
    Command::new(KINFOLD)
        .env_clear()
        .args(["--endpoint", endpoint, "cluster"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

/// What a command printed; it must have ended so.
#[track_caller]
fn printed(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}{errors}");
    text + &errors
}

/// Waits until these, and nobody else, are members and nothing is on its way.
#[track_caller]
fn wait_members(cluster: &Cluster, names: &[&str]) {
    for name in names {
        let node = &cluster.nodes[cluster.index(name)];
        eventually(&format!("{name} knows {names:?} and no more"), || {
            let view = node.try_view()?;
            let moved = view["layout_version"] == view["layout_read"];
            let whole = names.len() < 3 || view["under_replicated"] == 0;
            let up = node.sees_up()?;
            match node.members() == names && up == names.len() && moved && whole {
                true => node.not_ready().map_or(Ok(()), Err),
                false => Err(view.to_string()),
            }
        });
    }
}

#[track_caller]
fn wait_not_ready(node: &common::Node, wanted: &str) {
    eventually(&format!("{} says why it is not ready", node.name), || {
        let reason = node.not_ready().ok_or("it is ready")?;
        match reason.contains(wanted) {
            true => Ok(()),
            false => Err(reason),
        }
    });
    node.http()
        .put(&item("raw", "k"), "v")
        .refused(503, "not_ready");
}

/// A node that was removed: refused with its disk, taken without.
fn comes_back_only_empty(cluster: &Cluster, index: usize, others: &[&str]) {
    let node = &cluster.nodes[index];
    for _ in 0..2 {
        node.start();
        wait_not_ready(node, "empty its data directory");
        node.http()
            .post("/v1/cluster/leave", "")
            .refused(503, "not_ready");
        wait_members(cluster, others);
        assert_eq!(node.stop().code(), Some(0));
    }
    node.forget();
    node.start();
    assert!(cluster.settle());
}

#[test]
fn a_node_leaves_is_gone_and_comes_back_empty() {
    let cluster = Cluster::start(4, Plan::with(TABLES));
    for key in 0..20 {
        let path = item("raw", format!("k{key}"));
        cluster.at(key % 4).put(&path, format!("v{key}")).is(204);
    }
    let d = &cluster.nodes[3];
    let said = printed(&kinfold(&d.endpoint(), &["leave"]), 0);
    assert!(said.contains("d is leaving"), "{said}");
    wait_members(&cluster, &["a", "b", "c"]);
    wait_not_ready(d, "has left the cluster and may be stopped");
    for key in 0..20 {
        let path = item("raw", format!("k{key}"));
        let read = cluster.at(key % 3).get(&path).is(200).text();
        assert_eq!(read, format!("v{key}"));
        cluster
            .at(key % 3)
            .put(&format!("{path}?w=all"), "new")
            .is(204);
    }
    assert_eq!(d.stop().code(), Some(0));
    comes_back_only_empty(&cluster, 3, &["a", "b", "c"]);
    // Over HTTP it is the same; and asked twice, once.
    let reply = d.http().post("/v1/cluster/leave", "").is(202).document();
    assert_eq!(reply, json!({"node": "d", "status": "leaving"}));
    wait_members(&cluster, &["a", "b", "c"]);
}

#[test]
fn a_dead_node_is_removed_and_its_disk_stays_away() {
    let cluster = Cluster::start(4, Plan::with(TABLES));
    let a = &cluster.nodes[0];
    let detail = a
        .http()
        .delete("/v1/cluster/members/b")
        .refused(409, "member_is_up");
    assert!(detail.contains("kinfold cluster leave"), "{detail}");
    a.http()
        .delete("/v1/cluster/members/nobody")
        .refused(404, "no_such_member");
    let said = printed(&kinfold(&a.endpoint(), &["remove", "b"]), 4);
    assert!(said.contains("member_is_up"), "{said}");
    printed(&kinfold(&a.endpoint(), &["remove", "nobody"]), 3);

    cluster.nodes[1].kill9();
    cluster.wait_seen(0, 1, false);
    let said = printed(&kinfold(&a.endpoint(), &["remove", "b", "--json"]), 0);
    let said: Value = serde_json::from_str(&said).expect("one document");
    assert_eq!(said, json!({"node": "b", "status": "removed"}));
    // It was durable before it was said.
    a.kill9();
    a.start();
    wait_members(&cluster, &["a", "c", "d"]);
    let path = item("raw", "k");
    cluster.at(2).put(&format!("{path}?w=all"), "v").is(204);
    comes_back_only_empty(&cluster, 1, &["a", "c", "d"]);
}

#[test]
fn the_last_node_does_not_leave() {
    let cluster = Cluster::start(1, Plan::with(TABLES));
    let only = &cluster.nodes[0];
    only.http()
        .post("/v1/cluster/leave", "")
        .refused(409, "last_member");
    let said = printed(&kinfold(&only.endpoint(), &["leave"]), 4);
    assert!(said.contains("let another node join first"), "{said}");
    let several = format!("{},{}", only.endpoint(), only.endpoint());
    let said = printed(&kinfold(&several, &["leave"]), 2);
    assert!(said.contains("--endpoint"), "{said}");
    assert_eq!(only.not_ready(), None);
}

#[test]
fn no_request_fails_while_nodes_come_and_go() {
    let cluster = Cluster::prepare(4, Plan::with(TABLES));
    for node in &cluster.nodes[..3] {
        node.start();
    }
    wait_members(&cluster, &["a", "b", "c"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|index| {
                let (http, stop) = (cluster.at(index), &stop);
                scope.spawn(move || {
                    let mut written = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let path = item("raw", format!("c{index}-{written}"));
                        http.put(&path, format!("{written}")).is(204);
                        assert_eq!(http.get(&path).is(200).text(), format!("{written}"));
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        let d = &cluster.nodes[3];
        d.start();
        wait_members(&cluster, &["a", "b", "c", "d"]);
        d.http().post("/v1/cluster/leave", "").is(202);
        wait_members(&cluster, &["a", "b", "c"]);
        stop.store(true, Ordering::Relaxed);
        for (index, client) in clients.into_iter().enumerate() {
            let written: u32 = client.join().expect("no request failed");
            assert!(written > 0);
            for number in 0..written {
                let path = item("raw", format!("c{index}-{number}"));
                let read = cluster.at((index + 1) % 3).get(&path).is(200).text();
                assert_eq!(read, format!("{number}"));
            }
        }
    });
}
