//! Modules: uploaded to one node and folding on all, refused with a reason,
//! harmless when they misbehave; and what the built-in ones make of conflicts.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Barrier, OnceLock};
use std::thread;

use common::http::{values, with};
use common::{Cluster, Expect, Plan, Request, Shared, eventually, item};
use serde_json::{Value, json};

const SETTINGS: &str = r#"
[sandbox]
fuel = 100_000_000

[tables.raw]

[tables.profiles]
reconciler = "lww"

[tables.baskets]
reconciler = "cart-union"

[tables.carts]
reconciler = "or-cart"

[tables.counters]
reconciler = "pn-counter"
"#;

/// Three nodes for all tests of this file; each uses names and keys of its own.
fn cluster() -> Shared {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    Shared(CLUSTER.get_or_init(|| Cluster::start(3, Plan::with(SETTINGS))))
}

fn wasm(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reconcilers/prebuilt");
    fs::read(folder.join(name)).expect("a prebuilt module")
}

/// Uploads the module that misbehaves on request, under this name.
fn upload_misbehave(cluster: &Cluster, node: usize, name: &str) -> Value {
    let path = format!("/v1/reconcilers/{name}?accept=unlawful&timeout_ms=60000");
    cluster
        .at(node)
        .put(&path, wasm("test/misbehave.wasm"))
        .is(201)
        .document()
}

/// Makes a table with this reconciler, and waits until every node folds with it.
fn make_table(cluster: &Cluster, node: usize, name: &str, reconciler: &str) {
    let definition = json!({"reconciler": reconciler}).to_string();
    cluster
        .at(node)
        .put(&format!("/v1/tables/{name}"), definition)
        .is(201);
    let probe = item(name, "probe");
    for _ in 0..2 {
        cluster.at(node).put(&probe, "probe").is(204);
    }
    for node in &cluster.nodes {
        eventually(&format!("{} folds with {reconciler}", node.name), || {
            let reply = node.http().get(&probe);
            match reply.status.as_u16() {
                200 => Ok(()),
                // Until the module is here, fetched by its digest and compiled,
                // clients get the siblings.
                300 => Err(reply
                    .header("kinfold-reconcile-error")
                    .expect("a reason")
                    .to_owned()),
                404 => Err(reply.refused(404, "no_such_table")),
                _ => Err(reply.refused(503, "not_ready")),
            }
        });
    }
}

/// Waits until a node has the bytes of a module; returns them.
fn wait_module(http: &common::Http, name: &str) -> Vec<u8> {
    eventually(&format!("{name} has arrived"), || {
        let request = with(
            Request::get(format!("/v1/reconcilers/{name}")),
            "accept",
            "application/wasm",
        );
        let reply = http.send(request);
        match reply.status.as_u16() {
            200 => Ok(reply.body.to_vec()),
            status => Err(format!("{status}: {}", reply.problem().detail)),
        }
    })
}

#[test]
fn an_unlawful_module_is_refused_with_a_counterexample() {
    let cluster = cluster();
    let bytes = wasm("test/misbehave.wasm");
    let reply = cluster
        .at(0)
        .put("/v1/reconcilers/lawless", bytes.clone())
        .is(422);
    let counterexample = reply.document()["counterexample"].clone();
    assert!(counterexample["law"].is_string(), "{counterexample}");
    let detail = reply.refused(422, "law_violated");
    assert!(detail.contains("not lawful"), "{detail}");
    cluster
        .at(0)
        .get("/v1/reconcilers/lawless")
        .refused(404, "no_such_reconciler");

    cluster
        .at(0)
        .put("/v1/reconcilers/lawless?accept=all", bytes.clone())
        .refused(400, "bad_request");
    let path = "/v1/reconcilers/lawless?accept=unlawful&timeout_ms=60000";
    let told = cluster.at(0).put(path, bytes.clone()).is(201).document();
    assert_eq!(told["name"], "lawless");
    assert_eq!(told["size_bytes"], bytes.len());
    assert_eq!(told["kind"], "reconciler");
    assert_eq!(told["laws"]["verdict"], "unlawful");
    let again = cluster.at(0).put(path, bytes.clone()).is(200).document();
    assert_eq!(again["digest"], told["digest"]);
    // It is marked wherever it is shown, and on every node.
    for node in &cluster.nodes {
        assert_eq!(wait_module(node.http(), "lawless"), bytes);
        let shown = node
            .http()
            .get("/v1/reconcilers/lawless")
            .is(200)
            .document();
        assert_eq!(shown["digest"], told["digest"]);
        assert_eq!(shown["laws"]["verdict"], "unlawful");
        assert_eq!(shown["built_in"], false);
        let list = node.http().get("/v1/reconcilers").is(200).document();
        let names: Vec<&str> = list["reconcilers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["name"].as_str().expect("a name"))
            .collect();
        for name in ["cart-union", "lawless", "lww", "or-cart", "pn-counter"] {
            assert!(names.contains(&name), "{names:?}");
        }
    }
}

#[test]
fn a_lawful_module_is_taken_and_may_come_as_a_core_module() {
    let cluster = cluster();
    let told = cluster
        .at(1)
        .put("/v1/reconcilers/my-lww", wasm("lww.wasm"))
        .is(201)
        .document();
    assert_eq!(told["laws"]["verdict"], "no counterexample", "{told}");
    assert!(told["laws"]["cases"].as_u64() > Some(0), "{told}");
    let builtin = cluster.at(1).get("/v1/reconcilers/lww").is(200).document();
    assert_eq!(
        told["digest"], builtin["digest"],
        "a module is its bytes, whoever sent them"
    );

    let core = wasm("test/misbehave.core.wasm");
    let path = "/v1/reconcilers/core?accept=unlawful&timeout_ms=60000";
    let told = cluster.at(1).put(path, core.clone()).is(201).document();
    assert_eq!(
        told["size_bytes"],
        core.len(),
        "known by the bytes that were uploaded"
    );
    make_table(&cluster, 1, "cored", "core");
    let path = item("cored", "k");
    cluster.at(0).put(&path, "x").is(204);
    cluster.at(1).put(&path, "x").is(204);
    assert_eq!(cluster.at(2).get(&path).is(200).text(), "xx");
}

#[test]
fn what_is_no_module_is_refused_with_the_reason() {
    let cluster = cluster();
    let put = |name: &str, bytes: Vec<u8>| {
        cluster
            .at(2)
            .put(&format!("/v1/reconcilers/{name}"), bytes)
            .refused(422, "invalid_module")
    };
    put("garbage", b"garbage".to_vec());
    put("garbage", Vec::new());
    let half = wasm("lww.wasm");
    put("garbage", half[..half.len() / 2].to_vec());
    // An empty module: valid WebAssembly, and no reconciler.
    put("garbage", b"\0asm\x01\0\0\0".to_vec());
    let detail = put("imports", wasm("test/imports.wasm"));
    assert!(detail.contains("bad:clock/wall"), "{detail}");
    put("none", wasm("lww.wasm"));
    put("a%2Fb", wasm("lww.wasm"));
    let request = Request::put("/v1/reconcilers/text", "x")
        .content_type("text/plain")
        .unwrap();
    cluster
        .at(2)
        .send(request)
        .refused(415, "unsupported_media_type");
    for name in ["garbage", "imports", "text"] {
        cluster
            .at(2)
            .get(&format!("/v1/reconcilers/{name}"))
            .refused(404, "no_such_reconciler");
    }
}

#[test]
fn a_module_that_fails_costs_its_own_request_and_nothing_else() {
    let cluster = cluster();
    upload_misbehave(&cluster, 0, "misbehave");
    make_table(&cluster, 0, "wild", "misbehave");
    // Twice the same request: whichever sibling comes first asks for it.
    let conflict = |request: &'static str| {
        let path = item("wild", request);
        cluster.at(0).put(&path, request).is(204);
        cluster.at(1).put(&path, request).is(204);
        path
    };
    for (request, why) in [
        ("trap", "unreachable"),
        ("spin", "fuel"),
        ("hog", "memory"),
        ("huge", "bytes"),
        ("error", "asked to fail"),
        ("unresolved", "declines"),
    ] {
        let path = conflict(request);
        for node in [2, 0] {
            // A module may spin for long on a machine that does other things.
            let patiently = format!("{path}?timeout_ms=60000");
            let reply = cluster.at(node).get(&patiently).is(300);
            let reason = reply
                .header("kinfold-reconcile-error")
                .expect("a reason")
                .to_owned();
            assert!(reason.contains(why), "{request}: {reason}");
            assert_eq!(
                values(&reply.siblings()),
                [request.as_bytes(); 2],
                "{request}"
            );
            assert_eq!(reply.header("kinfold-reconciler"), None);
        }
        // Whoever reads them can settle the matter.
        let token = cluster.at(1).get(&path).is(300).token();
        cluster.at(2).put_with(&path, "settled", &token).is(204);
        assert_eq!(cluster.at(0).get(&path).is(200).text(), "settled");
    }
    let deleted = conflict("delete");
    cluster.at(2).get(&deleted).is(404).token();
    let remember = conflict("remember");
    for _ in 0..3 {
        assert_eq!(
            cluster.at(2).get(&remember).is(200).text(),
            "0",
            "every fold is the first"
        );
    }
    // A lone value needs no module.
    let lone = item("wild", "lone");
    cluster.at(0).put(&lone, "trap").is(204);
    assert_eq!(cluster.at(1).get(&lone).is(200).text(), "trap");

    let health = cluster
        .at(2)
        .get("/v1/reconcilers/misbehave")
        .is(200)
        .document();
    assert!(health["failures"].as_u64() >= Some(5), "{health}");
    assert!(health["folds"].as_u64() > Some(0), "{health}");
    let path = item("baskets", "beside");
    cluster.at(0).put(&path, r#"{"a":1}"#).is(204);
    cluster.at(1).put(&path, r#"{"b":1}"#).is(204);
    assert_eq!(
        cluster.at(2).get(&path).is(200).document(),
        json!({"a": 1, "b": 1})
    );
}

#[test]
fn an_older_version_can_be_made_current_again() {
    let cluster = cluster();
    let first = upload_misbehave(&cluster, 0, "versions")["digest"].clone();
    make_table(&cluster, 0, "versioned", "versions");
    let second = wasm("test/misbehave.core.wasm");
    let path = "/v1/reconcilers/versions?accept=unlawful";
    let second = cluster.at(1).put(path, second).is(201).document()["digest"].clone();
    assert_ne!(first, second);

    let path = item("versioned", "k");
    cluster.at(0).put(&path, "x").is(204);
    cluster.at(1).put(&path, "x").is(204);
    let folded_with = |digest: &Value| {
        let wanted = format!("versions@{}", digest.as_str().expect("a digest"));
        for node in &cluster.nodes {
            eventually(&format!("{} folds with {digest}", node.name), || {
                let reply = node.http().get(&path);
                match reply.header("kinfold-reconciler") {
                    Some(found) if found == wanted => Ok(()),
                    other => Err(format!("{} {other:?}", reply.status)),
                }
            });
        }
    };
    folded_with(&second);
    let back = |digest: &Value| {
        let body = json!({"digest": digest}).to_string();
        cluster
            .at(2)
            .post("/v1/reconcilers/versions/rollback", body)
    };
    let shown = back(&first).is(200).document();
    assert_eq!(shown["digest"], first);
    assert_eq!(
        shown["versions"].as_array().map(Vec::len),
        Some(2),
        "{shown}"
    );
    folded_with(&first);
    back(&json!(format!("sha256:{}", "0".repeat(64)))).refused(404, "no_such_reconciler");
    back(&json!("sha256:x")).refused(400, "bad_request");
}

#[test]
fn lww_keeps_the_newest() {
    let cluster = cluster();
    let path = item("profiles", "alice");
    let mut last = String::new();
    for round in 0..12 {
        last = format!("{round}");
        cluster.at(round % 3).put(&path, last.clone()).is(204);
    }
    for node in &cluster.nodes {
        assert_eq!(
            node.http().get(&format!("{path}?r=all")).is(200).text(),
            last
        );
    }
    // Eager: blind writers do not pile up siblings.
    assert!(cluster.at(0).siblings(&path).len() <= 3);
    // A delete is a version like any other.
    cluster.at(1).delete(&path).is(204);
    cluster.at(2).get(&path).refused(404, "not_found");
    cluster.at(0).put(&path, "again").is(204);
    assert_eq!(cluster.at(1).get(&path).is(200).text(), "again");
}

#[test]
fn a_union_keeps_every_addition_and_may_bring_back_what_was_removed() {
    let cluster = cluster();
    let path = item("baskets", "bob");
    cluster.at(0).put(&path, r#"{"apple":1}"#).is(204);
    cluster.at(1).put(&path, r#"{"apple":3,"pear":1}"#).is(204);
    let read = cluster.at(2).get(&path).is(200);
    assert_eq!(read.document(), json!({"apple": 3, "pear": 1}));
    assert_eq!(read.header("kinfold-siblings"), Some("2"));
    let by = read.header("kinfold-reconciler").expect("a module folded");
    assert!(by.starts_with("cart-union@sha256:"), "{by}");
    // A merge is a view: the siblings are still there, until someone writes.
    assert_eq!(cluster.at(0).siblings(&path).len(), 2);

    // The paper's anomaly: two devices go on from the same cart; one removes the
    // pear, the other buys a fig.
    let seen = read.token();
    cluster
        .at(0)
        .put_with(&path, r#"{"apple":3}"#, &seen)
        .is(204);
    cluster
        .at(1)
        .put_with(&path, r#"{"apple":3,"fig":1,"pear":1}"#, &seen)
        .is(204);
    let folded = cluster.at(2).get(&path).is(200);
    assert_eq!(
        folded.document(),
        json!({"apple": 3, "fig": 1, "pear": 1}),
        "the pear is back"
    );
    cluster
        .at(0)
        .put_with(&path, r#"{"fig":1}"#, &folded.token())
        .is(204);
    assert_eq!(
        cluster.at(1).get(&path).is(200).document(),
        json!({"fig": 1})
    );
}

#[test]
fn an_or_cart_does_not_bring_back_what_was_removed() {
    let cluster = cluster();
    for round in 0..8 {
        let path = item("carts", format!("anomaly-{round}"));
        cluster.at(round % 3).operate(&path, json!({"add": "pear"}));
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                cluster
                    .at((round + 1) % 3)
                    .operate(&path, json!({"remove": "pear"}))
            });
            scope.spawn(|| {
                barrier.wait();
                cluster
                    .at((round + 2) % 3)
                    .operate(&path, json!({"add": "fig", "quantity": 2}))
            });
        });
        for node in &cluster.nodes {
            let cart = node.http().get(&format!("{path}?r=all")).is(200).document();
            assert_eq!(cart, json!({"fig": 2}), "round {round} at {}", node.name);
        }
    }
}

#[test]
fn a_remove_sees_every_acknowledged_add() {
    let cluster = cluster();
    let path = item("carts", "seen");
    for round in 0..30 {
        let thing = format!("thing-{round}");
        let added = cluster
            .at(round % 3)
            .operate(&path, json!({"add": thing, "quantity": 2}));
        assert_eq!(added, json!({&thing: 2}));
        let removed = cluster
            .at((round + 1) % 3)
            .operate(&path, json!({"remove": thing}));
        assert_eq!(removed, json!({}));
        assert_eq!(
            cluster.at((round + 2) % 3).get(&path).is(200).document(),
            json!({})
        );
    }
    assert_eq!(
        cluster
            .at(0)
            .operate(&path, json!({"set": "apple", "quantity": 5})),
        json!({"apple": 5})
    );
    cluster
        .at(1)
        .post(&format!("{path}/operations"), r#"{"steal":"apple"}"#)
        .refused(400, "bad_operation");
}

#[test]
fn operations_at_different_nodes_all_count_once() {
    let cluster = cluster();
    const EACH: i64 = 25;
    let counter = item("counters", "busy");
    let cart = item("carts", "busy");
    thread::scope(|scope| {
        for node in 0..3 {
            let (cluster, counter, cart) = (&cluster, &counter, &cart);
            for step in [3, -1] {
                scope.spawn(move || {
                    for _ in 0..EACH {
                        cluster.at(node).operate(counter, json!({"add": step}));
                    }
                });
            }
            scope.spawn(move || {
                for round in 0..EACH {
                    let thing = format!("{node}-{round}");
                    cluster.at(node).operate(cart, json!({"add": thing}));
                    cluster.at(node).operate(cart, json!({"add": "shared"}));
                }
            });
        }
    });
    for node in &cluster.nodes {
        let total = node
            .http()
            .get(&format!("{counter}?r=all"))
            .is(200)
            .document();
        assert_eq!(total, json!(3 * EACH * (3 - 1)), "at {}", node.name);
        let cart = node.http().get(&format!("{cart}?r=all")).is(200).document();
        assert_eq!(cart["shared"], json!(3 * EACH), "at {}", node.name);
        assert_eq!(
            cart.as_object().map(|cart| cart.len() as i64),
            Some(3 * EACH + 1)
        );
    }
}
