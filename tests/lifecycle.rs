//! The life of a module: durable before it is acknowledged, rolled back, pinned,
//! fetched by whoever missed it, quarantined while it fails, and deleted.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Cluster, Expect, Plan, eventually, item, until};
use serde_json::{Value, json};

const SETTINGS: &str = r#"
[sandbox]
fuel = 10_000_000

[tables.raw]
"#;

fn wasm(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reconcilers/prebuilt");
    fs::read(folder.join(name)).expect("a prebuilt module")
}

/// Uploads the module that does what values say: it concatenates, unless told
/// otherwise.
fn upload(cluster: &Cluster, node: usize, name: &str, file: &str) -> Value {
    // Compiling it on every node takes a debug build a while.
    let path = format!("/v1/reconcilers/{name}?accept=unlawful&timeout_ms=60000");
    cluster.at(node).put(&path, wasm(file)).is(201).document()
}

fn make_table(cluster: &Cluster, node: usize, name: &str, definition: &Value) {
    let path = format!("/v1/tables/{name}?timeout_ms=60000");
    cluster.at(node).put(&path, definition.to_string()).is(201);
}

/// What a node makes of the siblings of an item, once it folds them.
fn folded(cluster: &Cluster, node: usize, path: &str) -> (String, String) {
    eventually("the item is folded", || {
        let reply = cluster.at(node).get(path);
        match reply.status.as_u16() {
            200 => {
                let by = reply.header("kinfold-reconciler").expect("who folded");
                Ok((reply.text(), by.to_owned()))
            }
            status => Err(format!("{status}: {}", reply.text())),
        }
    })
}

/// Two siblings.
fn conflict(cluster: &Cluster, node: usize, path: &str, value: &str) {
    for _ in 0..2 {
        eventually("a write is taken", || {
            let reply = cluster.at(node).put(path, value.to_owned());
            match reply.status.as_u16() {
                204 => Ok(()),
                status => Err(format!("{status}: {}", reply.text())),
            }
        });
    }
}

fn shown(cluster: &Cluster, node: usize, name: &str) -> Value {
    let path = format!("/v1/reconcilers/{name}");
    cluster.at(node).get(&path).is(200).document()
}

#[test]
fn an_upload_outlives_the_node_that_took_it() {
    let cluster = Cluster::start(3, Plan::with(SETTINGS));
    make_table(&cluster, 0, "before", &json!({}));
    let told = upload(&cluster, 0, "mine", "test/misbehave.wasm");
    make_table(&cluster, 0, "wishes", &json!({"reconciler": "mine"}));
    // Killed as soon as it has answered, and its disk with it.
    cluster.nodes[0].kill9();
    cluster.nodes[0].forget();
    for node in [1, 2] {
        let known = eventually("the survivors know it", || {
            let reply = cluster.at(node).get("/v1/reconcilers/mine");
            match reply.status.as_u16() {
                200 => Ok(reply.document()),
                status => Err(status.to_string()),
            }
        });
        assert_eq!(known["digest"], told["digest"]);
    }
    let path = item("wishes", "k");
    conflict(&cluster, 1, &path, "x");
    for node in [1, 2] {
        let (value, by) = folded(&cluster, node, &path);
        assert_eq!(value, "xx");
        assert_eq!(
            by,
            format!("mine@{}", told["digest"].as_str().expect("text"))
        );
    }
    // It comes back with nothing, and learns all of it from the others.
    cluster.restart(0);
    assert_eq!(folded(&cluster, 0, &path).0, "xx");
}

#[test]
fn a_minority_takes_nothing_and_a_majority_goes_on() {
    let cluster = Cluster::start(3, Plan::with(SETTINGS));
    upload(&cluster, 0, "mine", "test/misbehave.wasm");
    cluster.nodes[1].pause();
    cluster.nodes[2].pause();
    let refused = cluster.at(0).put("/v1/tables/t?timeout_ms=1000", "{}");
    assert!(refused.header("retry-after").is_some());
    let detail = refused.refused(503, "quorum_unmet");
    assert!(detail.contains("1 of the 2 nodes"), "{detail}");
    assert!(detail.contains("nothing was changed"), "{detail}");
    let other = "/v1/reconcilers/other?accept=unlawful&timeout_ms=1000";
    cluster
        .at(0)
        .put(other, wasm("test/misbehave.core.wasm"))
        .refused(503, "quorum_unmet");
    cluster
        .at(0)
        .get("/v1/reconcilers/other")
        .refused(404, "no_such_reconciler");
    cluster
        .at(0)
        .delete("/v1/reconcilers/mine?confirm=mine&timeout_ms=1000")
        .refused(503, "quorum_unmet");
    cluster.at(0).get("/v1/reconcilers/mine").is(200);
    // Two of three are enough.
    cluster.nodes[1].resume();
    upload(&cluster, 0, "other", "test/misbehave.core.wasm");
    make_table(&cluster, 0, "t", &json!({"reconciler": "other"}));
    cluster.nodes[2].resume();
    until("the third has heard of it", || {
        cluster.at(2).get("/v1/tables/t").status.as_u16() == 200
    });
}

#[test]
fn a_node_that_was_away_fetches_what_it_missed_and_folds_with_one_digest() {
    let cluster = Cluster::start(3, Plan::with(SETTINGS));
    let first = upload(&cluster, 0, "mine", "test/misbehave.wasm");
    make_table(&cluster, 0, "wishes", &json!({"reconciler": "mine"}));
    let path = item("wishes", "k");
    conflict(&cluster, 0, &path, "x");
    assert_eq!(folded(&cluster, 2, &path).0, "xx");
    cluster.nodes[2].kill9();
    let second = upload(&cluster, 0, "mine", "test/misbehave.core.wasm");
    assert_ne!(first["digest"], second["digest"]);
    cluster.restart(2);
    // Whatever it answers meanwhile comes of one digest or of none.
    let by_second = format!("mine@{}", second["digest"].as_str().expect("text"));
    let by_first = format!("mine@{}", first["digest"].as_str().expect("text"));
    until("it folds with the one that it missed", || {
        let reply = cluster.at(2).get(&path);
        match reply.status.as_u16() {
            200 => {
                let by = reply.header("kinfold-reconciler").expect("who folded");
                assert!(by == by_second || by == by_first, "{by}");
                assert_eq!(reply.text(), "xx");
                by == by_second
            }
            300 => {
                let why = reply.header("kinfold-reconcile-error").expect("a reason");
                assert!(why.contains("has not arrived"), "{why}");
                false
            }
            _ => false,
        }
    });
}

#[test]
fn a_rollback_moves_tables_but_no_pins_and_is_undone_by_another() {
    let cluster = Cluster::start(3, Plan::with(SETTINGS));
    let digest = |told: &Value| told["digest"].as_str().expect("a digest").to_owned();
    let first = digest(&upload(&cluster, 0, "mine", "test/misbehave.wasm"));
    let second = digest(&upload(&cluster, 1, "mine", "test/misbehave.core.wasm"));
    make_table(&cluster, 0, "follows", &json!({"reconciler": "mine"}));
    let pin = json!({"reconciler": "mine", "reconciler_digest": second});
    make_table(&cluster, 0, "pinned", &pin);
    let folds_with = |node: usize, table: &str| {
        let reply = cluster.at(node).get(&format!("/v1/tables/{table}"));
        let document = reply.is(200).document();
        document["folds_with"]["digest"].as_str().map(str::to_owned)
    };
    let roll_back = |node: usize, body: &Value| {
        let path = "/v1/reconcilers/mine/rollback?timeout_ms=60000";
        cluster.at(node).post(path, body.to_string())
    };
    let told = roll_back(2, &json!({})).is(200).document();
    assert_eq!(
        told["rolled_back"],
        json!({"from": second, "to": first, "changed": true})
    );
    assert_eq!(folds_with(2, "follows"), Some(first.clone()));
    assert_eq!(folds_with(2, "pinned"), Some(second.clone()));
    // Lost with the node that took it? No.
    cluster.nodes[2].kill9();
    cluster.nodes[2].forget();
    for node in [0, 1] {
        until("the others have heard of it", || {
            folds_with(node, "follows").as_ref() == Some(&first)
        });
        assert_eq!(folds_with(node, "pinned"), Some(second.clone()));
    }
    let path = item("pinned", "k");
    conflict(&cluster, 0, &path, "y");
    assert_eq!(folded(&cluster, 1, &path).1, format!("mine@{second}"));
    let path = item("follows", "k");
    conflict(&cluster, 0, &path, "y");
    assert_eq!(folded(&cluster, 1, &path).1, format!("mine@{first}"));

    let document = shown(&cluster, 0, "mine");
    assert_eq!(document["previous"], second);
    let history: Vec<(&Value, &Value)> = document["history"]
        .as_array()
        .expect("a history")
        .iter()
        .map(|entry| (&entry["deed"], &entry["node"]))
        .collect();
    let (uploaded, rolled) = (json!("uploaded"), json!("rolled back"));
    let (a, b, c) = (json!("a"), json!("b"), json!("c"));
    assert_eq!(history, [(&uploaded, &a), (&uploaded, &b), (&rolled, &c)]);
    let pinned = document["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .find(|version| version["digest"] == second)
        .expect("the second");
    assert_eq!(pinned["pinned_by"], json!(["pinned"]));
    let told = roll_back(0, &json!({"digest": second})).is(200).document();
    assert_eq!(told["digest"], second);
    let unknown = json!({"digest": format!("sha256:{}", "0".repeat(64))});
    roll_back(0, &unknown).refused(404, "no_such_reconciler");
    let path = "/v1/reconcilers/lww/rollback";
    cluster
        .at(0)
        .post(path, "{}")
        .refused(409, "no_earlier_version");
}

#[test]
fn a_module_in_use_is_not_deleted_and_one_that_is_deleted_stays_so() {
    let cluster = Cluster::start(3, Plan::with(SETTINGS));
    upload(&cluster, 0, "mine", "test/misbehave.wasm");
    make_table(&cluster, 0, "wishes", &json!({"reconciler": "mine"}));
    let path = "/v1/reconcilers/mine?confirm=mine&timeout_ms=60000";
    cluster
        .at(0)
        .delete("/v1/reconcilers/mine")
        .refused(400, "bad_request");
    let reply = cluster.at(0).delete(path);
    assert_eq!(reply.document()["tables"], json!(["wishes"]));
    let detail = reply.refused(409, "reconciler_in_use");
    assert!(detail.contains("the table wishes"), "{detail}");
    cluster
        .at(0)
        .delete("/v1/reconcilers/lww?confirm=lww")
        .refused(409, "built_in");
    // One node sleeps through it, and must not bring it back.
    cluster.nodes[2].kill9();
    let table = "/v1/tables/wishes?confirm=wishes&timeout_ms=60000";
    cluster.at(0).delete(table).is(204);
    cluster.at(0).delete(path).is(204);
    cluster.restart(2);
    for node in 0..3 {
        until("everyone has forgotten it", || {
            cluster.at(node).get("/v1/reconcilers/mine").status.as_u16() == 404
        });
    }
    // A new life under the name shares nothing with the old one.
    upload(&cluster, 2, "mine", "test/misbehave.core.wasm");
    let document = shown(&cluster, 2, "mine");
    assert_eq!(document["versions"].as_array().map(Vec::len), Some(1));
    assert_eq!(document["history"].as_array().map(Vec::len), Some(1));
}

/// What the metrics of a node say.
fn metric(cluster: &Cluster, node: usize, line: &str) -> f64 {
    let text = cluster.at(node).get("/metrics").is(200).text();
    let found = text
        .lines()
        .find_map(|one| one.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {line} in {text}"))
}

#[test]
fn one_poisoned_item_harms_nobody_else() {
    let cluster = Cluster::start(1, Plan::with(SETTINGS));
    upload(&cluster, 0, "mine", "test/misbehave.wasm");
    let definition = json!({"reconciler": "mine", "n": 1, "r": 1, "w": 1});
    make_table(&cluster, 0, "t", &definition);
    let poison = item("t", "poison");
    conflict(&cluster, 0, &poison, "spin");
    for round in 0..40 {
        let reply = cluster.at(0).get(&poison).is(300);
        let why = reply.header("kinfold-reconcile-error").expect("a reason");
        assert!(why.contains("ran out of fuel"), "{why}");
        let healthy = item("t", format!("k{round}"));
        conflict(&cluster, 0, &healthy, "x");
        assert_eq!(folded(&cluster, 0, &healthy).0, "xx");
    }
    let health = &shown(&cluster, 0, "mine")["health"];
    assert_eq!(health["quarantined_since"], Value::Null);
    assert_eq!(health["failing_items"], 1);
    assert_eq!(health["last_failure"]["item"], poison);
    let failures = health["failures"].as_u64().expect("a count");
    assert!(failures < 20, "{failures} of 40 reads burnt their fuel");
    assert!(health["spared"].as_u64() > Some(20), "{health}");
    // Put right by a client, it is folded again at once.
    let token = cluster.at(0).get(&poison).is(300);
    let token = token
        .header("kinfold-context")
        .expect("a context")
        .to_owned();
    cluster.at(0).put_with(&poison, "x", &token).is(204);
    cluster.at(0).put(&poison, "x").is(204);
    let reply = cluster.at(0).get(&poison).is(200);
    assert_eq!(reply.text(), "xx");
}

#[test]
fn a_module_that_fails_everywhere_is_quarantined_and_a_rollback_ends_it() {
    let cluster = Cluster::start(1, Plan::with(SETTINGS));
    upload(&cluster, 0, "mine", "test/misbehave.core.wasm");
    upload(&cluster, 0, "mine", "test/misbehave.wasm");
    let definition = json!({"reconciler": "mine", "n": 1, "r": 1, "w": 1});
    make_table(&cluster, 0, "t", &definition);
    for number in 0..16 {
        conflict(&cluster, 0, &item("t", format!("bad{number}")), "trap");
    }
    let quarantined = || shown(&cluster, 0, "mine")["health"]["quarantined_since"].is_string();
    for number in 0..16 {
        cluster
            .at(0)
            .get(&item("t", format!("bad{number}")))
            .is(300);
    }
    assert!(quarantined());
    let gauge = "kinfold_reconciler_quarantined{name=\"mine\"}";
    assert_eq!(metric(&cluster, 0, gauge), 1.0);
    let good = item("t", "good");
    // Writes are taken all the same.
    conflict(&cluster, 0, &good, "x");
    let before = metric(&cluster, 0, "kinfold_reconciler_runs_total{name=\"mine\"}");
    let reply = cluster.at(0).get(&item("t", "bad3")).is(300);
    let why = reply.header("kinfold-reconcile-error").expect("a reason");
    assert!(why.contains("quarantined"), "{why}");
    let after = metric(&cluster, 0, "kinfold_reconciler_runs_total{name=\"mine\"}");
    assert!(
        after <= before + 1.0,
        "one probe at most: {before}, then {after}"
    );

    // Good items get it out by themselves, a probe now and then.
    until("probes have ended the quarantine", || {
        std::thread::sleep(Duration::from_millis(20));
        cluster.at(0).get(&good);
        !quarantined()
    });
    assert_eq!(cluster.at(0).get(&good).is(200).text(), "xx");
    assert_eq!(metric(&cluster, 0, gauge), 0.0);

    // In again, and out by a rollback, at once.
    until("it is quarantined again", || {
        for number in 0..16 {
            cluster.at(0).get(&item("t", format!("bad{number}")));
        }
        quarantined()
    });
    let path = "/v1/reconcilers/mine/rollback?timeout_ms=60000";
    let told = cluster.at(0).post(path, "{}").is(200).document();
    assert_eq!(told["health"]["quarantined_since"], Value::Null);
    assert_eq!(cluster.at(0).get(&good).is(200).text(), "xx");
}
