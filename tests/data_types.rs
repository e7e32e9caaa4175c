//! The data types `or-set` and `lww-map` over HTTP: operations at several nodes
//! at once, folded to what every node shows. And a guest in C, from its upload to
//! the values that it folds.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Barrier, OnceLock};
use std::thread;

use common::{Cluster, Expect, Plan, Shared, eventually, item};
use serde_json::{Value, json};

const SETTINGS: &str = r#"
[tables.tags]
reconciler = "or-set"

[tables.people]
reconciler = "lww-map"
"#;

/// Three nodes for all tests of this file; each uses keys of its own.
fn cluster() -> Shared {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    Shared(CLUSTER.get_or_init(|| Cluster::start(3, Plan::with(SETTINGS))))
}

/// Applies these operations at the same time, each at a node of its own.
fn at_once(cluster: &Cluster, path: &str, operations: &[(usize, Value)]) {
    let barrier = Barrier::new(operations.len());
    thread::scope(|scope| {
        for (node, operation) in operations {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                cluster.at(*node).operate(path, operation.clone())
            });
        }
    });
}

/// What all nodes show, once they were asked for all copies.
#[track_caller]
fn everywhere(cluster: &Cluster, path: &str) -> Value {
    let shown: Vec<Value> = cluster
        .nodes
        .iter()
        .map(|node| node.http().get(&format!("{path}?r=all")).is(200).document())
        .collect();
    for other in &shown[1..] {
        assert_eq!(*other, shown[0], "of {path}");
    }
    shown[0].clone()
}

#[test]
fn a_set_keeps_what_is_added_and_not_what_is_removed() {
    let cluster = cluster();
    for round in 0..6 {
        let path = item("tags", format!("tags-{round}"));
        let added = cluster
            .at(round % 3)
            .operate(&path, json!({"add_all": ["pear", 1, {"b": [], "a": null}]}));
        assert_eq!(added, json!([1, "pear", {"a": null, "b": []}]));
        at_once(
            &cluster,
            &path,
            &[
                ((round + 1) % 3, json!({"remove": "pear"})),
                ((round + 2) % 3, json!({"add": "fig"})),
                (round % 3, json!({"remove": {"a": null, "b": []}})),
            ],
        );
        assert_eq!(
            everywhere(&cluster, &path),
            json!([1, "fig"]),
            "round {round}"
        );
        // Another spelling of an element is the same element.
        let reply = cluster
            .at(round % 3)
            .post(&format!("{path}/operations"), r#"{"remove":1.0}"#);
        assert_eq!(reply.is(200).document(), json!(["fig"]));
    }
}

#[test]
fn additions_at_all_nodes_are_all_there() {
    let cluster = cluster();
    const EACH: usize = 20;
    let path = item("tags", "busy");
    thread::scope(|scope| {
        for node in 0..3 {
            let (cluster, path) = (&cluster, &path);
            scope.spawn(move || {
                for round in 0..EACH {
                    let own = node * EACH + round;
                    let seen = cluster
                        .at(node)
                        .operate(path, json!({"add_all": [own, "all"]}));
                    assert!(
                        seen.as_array().expect("an array").contains(&json!(own)),
                        "an operation sees itself"
                    );
                }
            });
        }
    });
    let mut expected: Vec<Value> = (0..3 * EACH).map(Value::from).collect();
    expected.push(json!("all"));
    assert_eq!(everywhere(&cluster, &path), Value::from(expected));
}

#[test]
fn fields_are_written_apart_and_an_unset_holds() {
    let cluster = cluster();
    for round in 0..6 {
        let path = item("people", format!("ada-{round}"));
        cluster.at(round % 3).operate(
            &path,
            json!({"set": {"name": "Ada", "age": 36, "draft": true}}),
        );
        at_once(
            &cluster,
            &path,
            &[
                ((round + 1) % 3, json!({"set": {"name": "Ada Lovelace"}})),
                ((round + 2) % 3, json!({"set": {"age": 37}})),
                (round % 3, json!({"unset": ["draft"]})),
            ],
        );
        assert_eq!(
            everywhere(&cluster, &path),
            json!({"age": 37, "name": "Ada Lovelace"}),
            "round {round}"
        );
    }
}

#[test]
fn of_concurrent_writes_of_a_field_every_node_shows_the_same_one() {
    let cluster = cluster();
    for round in 0..6 {
        let path = item("people", format!("tie-{round}"));
        at_once(
            &cluster,
            &path,
            &[
                (0, json!({"set": {"name": 0}})),
                (1, json!({"set": {"name": 1}})),
                (2, json!({"set": {"name": 2}})),
            ],
        );
        let shown = everywhere(&cluster, &path);
        let winner = shown["name"].as_u64().expect("one of the three");
        assert!(winner < 3, "{shown}");
        // Whoever has read a field and writes it is not overruled.
        let loser = (winner as usize + 1) % 3;
        let after = cluster
            .at(loser)
            .operate(&path, json!({"set": {"name": "mine"}}));
        assert_eq!(after, json!({"name": "mine"}));
        assert_eq!(everywhere(&cluster, &path), json!({"name": "mine"}));
    }
}

#[test]
fn what_is_no_operation_is_refused_with_what_would_be() {
    let cluster = cluster();
    for (table, operation, expected) in [
        ("tags", r#"{"insert":1}"#, r#"{"add":"apple"}"#),
        (
            "tags",
            r#"{"add":12345678901234567890}"#,
            "send a larger one as a string",
        ),
        ("people", r#"{"unset":"name"}"#, r#"{"unset":["name"]}"#),
        ("people", r#"{"set":{"a":1,"a":2}}"#, "is there twice"),
    ] {
        let path = format!("{}/operations", item(table, "refused"));
        let detail = cluster
            .at(1)
            .post(&path, operation)
            .refused(400, "bad_operation");
        assert!(detail.contains(expected), "{detail}");
    }
    for table in ["tags", "people"] {
        let path = item(table, "refused");
        cluster.at(1).get(&path).refused(404, "not_found");
        cluster
            .at(1)
            .put(&path, "[]")
            .refused(405, "operations_only");
    }
}

/// One C file, no header, no library: what clang makes of it is uploaded as it is.
#[test]
fn a_guest_in_c_folds() {
    let cluster = cluster();
    let module =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("reconcilers/prebuilt/test/c-bitmap.wasm");
    let module = fs::read(module).expect("a prebuilt module");
    let told = cluster
        .at(0)
        .put("/v1/reconcilers/bitmap", module.clone())
        .is(201)
        .document();
    assert_eq!(told["laws"]["verdict"], "no counterexample", "{told}");
    assert_eq!(told["size_bytes"], module.len());
    let definition = json!({"reconciler": "bitmap"}).to_string();
    cluster.at(0).put("/v1/tables/days", definition).is(201);

    let path = item("days", "alice");
    for node in 0..3 {
        let url = &path;
        eventually("the table is known", || {
            let day = [0_u8, 1 << node, 0x80];
            let reply = cluster.at(node).put(url, day[..node + 1].to_vec());
            match reply.status.as_u16() {
                204 => Ok(()),
                status => Err(format!("{status}")),
            }
        });
    }
    for node in &cluster.nodes {
        eventually(&format!("{} folds", node.name), || {
            let reply = node.http().get(&format!("{path}?r=all"));
            match reply.status.as_u16() {
                200 => {
                    assert_eq!(reply.body, [0, 2 | 4, 0x80][..]);
                    // None where a write has folded already: it is eager.
                    if let Some(by) = reply.header("kinfold-reconciler") {
                        assert!(by.starts_with("bitmap@sha256:"), "{by}");
                    }
                    Ok(())
                }
                status => Err(format!("{status}")),
            }
        });
    }
}
