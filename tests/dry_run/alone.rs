//! Dry runs that need a cluster of their own: nodes that are gone, and clients that
//! go.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use super::common::{Cluster, Expect, Http, Plan, eventually, item};
use super::{SETTINGS, conflict, dry_run, keys, path, settle, wasm};

#[test]
fn a_replica_that_is_gone_is_passed_over() {
    let cluster = Cluster::start(3, Plan::with(SETTINGS));
    let keys = keys("twice", 30);
    for key in &keys {
        conflict(&cluster, "pairs", key, &[r#"{"apple":1}"#, r#"{"pear":1}"#]);
    }
    settle(&cluster, "pairs", &keys, 2);
    // Stopped in its tracks, it seems up until it has not answered once.
    cluster.nodes[1].pause();
    let patient = Http::with_timeout(&cluster.nodes[0].address(), Duration::from_secs(90));
    let body = json!({"reconciler": "cart-union"}).to_string();
    let report = patient.post(&path("pairs"), body).is(200).document();
    assert_eq!(report["sibling_sets"], 30, "{report}");
    assert_eq!(report["complete"], true);
    cluster.nodes[1].kill9();
    let report = dry_run(
        &cluster.nodes[0],
        "pairs",
        json!({"reconciler": "cart-union"}),
    );
    assert_eq!(report["sibling_sets"], 30, "{report}");
    assert_eq!(report["complete"], true);
    let readers = report["replicas"].to_string();
    assert!(!readers.contains("\"b\""), "{readers}");

    // An item that lay on that node only is missing, and the report says so.
    let report = dry_run(
        &cluster.nodes[0],
        "alone",
        json!({"reconciler": "cart-union"}),
    );
    assert_eq!(report["complete"], false, "{report}");
    assert!(
        report["partitions"]["unread"].as_u64() > Some(0),
        "{report}"
    );
}

#[test]
fn one_runs_at_a_time_and_ends_when_nobody_waits() {
    // Each of these takes all its fuel, and all of them minutes.
    let cluster = Cluster::start(
        1,
        Plan::with("[sandbox]\nfuel = 2_000_000_000\n[tables.slow]\nn = 1\n"),
    );
    let node = &cluster.nodes[0];
    for key in keys("spin", 80) {
        conflict(&cluster, "slow", &key, &["spin", "spin"]);
    }
    let bytes = wasm("test/misbehave.wasm");
    let uploaded = node
        .http()
        .put("/v1/reconcilers/misbehave?accept=unlawful", bytes);
    uploaded.is(201);
    let body = r#"{"reconciler":"misbehave"}"#;
    let mut first = TcpStream::connect(node.address()).expect("a connection");
    write!(
        first,
        "POST {} HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
        path("slow"),
        body.len()
    )
    .expect("it is sent");
    let ask = || node.http().post(&path("slow"), r#"{"reconciler":"lww"}"#);
    // Its first word says that it runs.
    let mut said = String::new();
    while !said.contains("progress") {
        let mut more = [0; 1024];
        let count = first.read(&mut more).expect("it says something");
        assert!(count > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&more[..count]));
    }
    let detail = ask().refused(503, "overloaded");
    assert!(detail.contains("another dry run"), "{detail}");
    // Clients are served meanwhile.
    node.http().put(&item("slow", "other"), "x").is(204);
    node.http().get(&item("slow", "other")).is(200);
    drop(first);
    eventually("there is room again", || match ask().status.as_u16() {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
}
