//! `?explain=true` over real processes and real modules: which replicas answered,
//! which siblings went into the answer, and what the module did with them.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::http::with;
use common::{Cluster, Expect, KINFOLD, Node, Plan, Request, Shared, eventually, item};
use kinfold::protocol::catalog::Digest;
use serde_json::{Value, json};

const SETTINGS: &str = r#"
[sandbox]
fuel = 100_000_000

[tables.raw]

[tables.baskets]
reconciler = "cart-union"

[tables.counters]
reconciler = "pn-counter"
"#;

fn cluster() -> Shared {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    Shared(CLUSTER.get_or_init(|| Cluster::start(3, Plan::with(SETTINGS))))
}

fn wasm(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reconcilers/prebuilt");
    fs::read(folder.join(name)).expect("a prebuilt module")
}

#[track_caller]
fn explain(node: &Node, item: &str, query: &str) -> Value {
    let reply = node.http().get(&format!("{item}?explain=true{query}"));
    reply.is(200).document()
}

#[track_caller]
fn put_json(node: &Node, item: &str, value: Value) {
    let request = Request::put(item, value.to_string()).content_type("application/json");
    node.http().send(request.expect("a header")).is(204);
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().expect("a list")
}

/// What must hold of every explanation: what it says of a plain read is so.
#[track_caller]
fn agrees_with_a_plain_read(node: &Node, item: &str, explained: &Value) {
    let plain = node.http().get(item);
    assert_eq!(explained["status"], plain.status.as_u16(), "{explained}");
    assert_eq!(
        explained["context"].as_str(),
        plain.context(),
        "{explained}"
    );
    let story = explained["story"].as_str().expect("a story");
    assert!(story.ends_with('.'), "{story}");
    if plain.status.as_u16() == 200 {
        assert_eq!(
            explained["content_type"].as_str(),
            plain.header("content-type")
        );
    }
}

#[test]
fn a_value_without_a_conflict() {
    let cluster = cluster();
    let node = &cluster.nodes[0];
    let name = item("raw", "plain");
    // A quorum's answer would leave the third replica free to be asked before it
    // has the write.
    node.http().put(&format!("{name}?w=all"), "hello").is(204);
    let told = explain(node, &name, "&r=all");
    assert_eq!(told["outcome"], "value", "{told}");
    assert_eq!(told["status"], 200);
    assert_eq!(
        (&told["value"], &told["value_base64"]),
        (&json!("aGVsbG8="), &json!(true))
    );
    assert_eq!(
        (&told["fuel"], &told["reconciler"]),
        (&Value::Null, &Value::Null)
    );
    let siblings = list(&told, "siblings");
    assert_eq!(siblings.len(), 1);
    assert_eq!(siblings[0]["size_bytes"], 5);
    assert_eq!(siblings[0]["deleted"], false);
    assert_eq!(siblings[0]["hash"], Digest::of(b"hello").to_string());
    assert_eq!(siblings[0]["held_by"].as_array().map(Vec::len), Some(3));
    let raw = node.http().siblings(&name);
    assert_eq!(siblings[0]["dot"], raw[0].dot);
    assert_eq!(siblings[0]["written_at"], raw[0].written_at);
    let replicas = list(&told, "replicas");
    assert_eq!(replicas.len(), 3);
    for replica in replicas {
        assert_eq!(replica["answered"], true);
        assert_eq!(replica["primary"], true);
        assert_eq!(replica["state"], replicas[0]["state"]);
    }
    agrees_with_a_plain_read(node, &name, &told);
}

#[test]
fn siblings_that_a_module_folds() {
    let cluster = cluster();
    let name = item("baskets", "folded");
    let baskets = [json!({"apple": 1}), json!({"apple": 3}), json!({"pear": 2})];
    for (node, basket) in cluster.nodes.iter().zip(&baskets) {
        put_json(node, &name, basket.clone());
    }
    for node in &cluster.nodes {
        let told = explain(node, &name, "&r=all&quorum=strict");
        assert_eq!(told["outcome"], "folded", "{told}");
        assert_eq!(told["value"], json!({"apple": 3, "pear": 2}));
        assert_eq!(told["value_base64"], false);
        assert!(told["fuel"].as_u64() > Some(0) && told["time_us"].as_u64() > Some(0));
        let reconciler = format!(
            "{}@{}",
            told["reconciler"]["name"].as_str().expect("a name"),
            told["reconciler"]["digest"].as_str().expect("a digest")
        );
        let plain = node.http().get(&name).is(200);
        assert_eq!(plain.header("kinfold-reconciler"), Some(&*reconciler));
        let siblings = list(&told, "siblings");
        assert_eq!(siblings.len(), 3);
        let mut writers: Vec<&str> = siblings
            .iter()
            .map(|sibling| sibling["node"].as_str().expect("a name"))
            .collect();
        writers.sort_unstable();
        assert_eq!(
            writers,
            ["a", "b", "c"],
            "each node coordinated its own write"
        );
        let story = told["story"].as_str().expect("a story");
        assert!(
            story.contains("3 siblings") && story.contains("cart-union"),
            "{story}"
        );
        agrees_with_a_plain_read(node, &name, &told);
    }
    // Fuel is deterministic, wherever the fold ran.
    let fuel = |node: usize| explain(&cluster.nodes[node], &name, "")["fuel"].clone();
    assert_eq!(fuel(0), fuel(1));
}

#[test]
fn siblings_that_nobody_folds_and_tombstones() {
    let cluster = cluster();
    let node = &cluster.nodes[1];
    let name = item("raw", "siblings");
    node.http().put(&name, "one").is(204);
    node.http().delete(&name).is(204);
    let told = explain(node, &name, "");
    assert_eq!(
        (&told["outcome"], &told["status"]),
        (&json!("deleted"), &json!(404)),
        "{told}"
    );
    assert_eq!(told["code"], "not_found");
    let siblings = list(&told, "siblings");
    assert_eq!((siblings.len(), &siblings[0]["deleted"]), (1, &json!(true)));
    assert_eq!(siblings[0]["hash"], Value::Null);
    agrees_with_a_plain_read(node, &name, &told);

    // A blind write beside the tombstone.
    node.http().put(&name, "two").is(204);
    let told = explain(node, &name, "");
    assert_eq!(
        (&told["outcome"], &told["status"]),
        (&json!("siblings"), &json!(300)),
        "{told}"
    );
    let deleted = list(&told, "siblings")
        .iter()
        .filter(|one| one["deleted"] == true);
    assert_eq!((deleted.count(), list(&told, "siblings").len()), (1, 2));
    assert_eq!(
        (&told["value"], &told["reason"]),
        (&Value::Null, &Value::Null)
    );
    agrees_with_a_plain_read(node, &name, &told);
}

#[test]
fn what_was_never_there() {
    let cluster = cluster();
    let node = &cluster.nodes[2];
    let name = item("baskets", "never");
    let told = explain(node, &name, "&r=all");
    assert_eq!(
        (&told["outcome"], &told["status"]),
        (&json!("absent"), &json!(404)),
        "{told}"
    );
    assert_eq!(list(&told, "siblings").len(), 0);
    for replica in list(&told, "replicas") {
        assert_eq!(replica["saw"], "nothing");
        assert_eq!(replica["answered"], true);
    }
    agrees_with_a_plain_read(node, &name, &told);
}

#[test]
fn a_data_type_that_renders() {
    let cluster = cluster();
    let name = item("counters", "visits");
    cluster.at(0).operate(&name, json!({"add": 5}));
    let told = explain(&cluster.nodes[1], &name, "");
    assert_eq!(
        (&told["outcome"], &told["value"]),
        (&json!("rendered"), &json!(5)),
        "{told}"
    );
    assert!(told["fuel"].as_u64() > Some(0));
    agrees_with_a_plain_read(&cluster.nodes[1], &name, &told);
}

#[test]
fn a_fold_that_fails_says_why_and_what_it_cost() {
    let cluster = cluster();
    let uploaded = "/v1/reconcilers/misbehave?accept=unlawful";
    cluster
        .at(0)
        .put(uploaded, wasm("test/misbehave.wasm"))
        .is(201);
    let definition = json!({"reconciler": "misbehave"}).to_string();
    cluster.at(0).put("/v1/tables/wild", definition).is(201);
    for (request, outcome, limit, why) in [
        ("spin", "failed", json!("fuel"), "fuel"),
        ("hog", "failed", json!("memory"), "memory"),
        ("huge", "failed", json!("output"), "bytes"),
        ("trap", "failed", Value::Null, "unreachable"),
        ("error", "failed", Value::Null, "asked to fail"),
        ("unresolved", "unresolved", Value::Null, "declines"),
    ] {
        let node = &cluster.nodes[0];
        let name = item("wild", request);
        for _ in 0..2 {
            node.http().put(&name, request).is(204);
        }
        let told = explain(node, &name, "");
        assert_eq!(told["outcome"], outcome, "{told}");
        assert_eq!(
            (&told["status"], &told["limit"]),
            (&json!(300), &limit),
            "{told}"
        );
        let reason = told["reason"].as_str().expect("a reason");
        assert!(reason.contains(why), "{reason}");
        assert_eq!(told["reconciler"]["name"], "misbehave");
        assert!(told["fuel"].as_u64() > Some(0), "{told}");
        if request == "spin" {
            assert!(told["fuel"].as_u64() >= Some(100_000_000), "{told}");
        }
        assert_eq!(list(&told, "siblings").len(), 2);
        agrees_with_a_plain_read(node, &name, &told);
    }
}

#[test]
fn a_module_that_is_missing() {
    let cluster = Cluster::start(1, Plan::with("[tables.raw]\nn = 1\n"));
    let node = &cluster.nodes[0];
    let bytes = wasm("test/misbehave.wasm");
    let file = Digest::of(&bytes).to_string().replace("sha256:", "");
    let file = node.data_dir().join("modules").join(format!("{file}.wasm"));
    node.http()
        .put("/v1/reconcilers/gone?accept=unlawful", bytes)
        .is(201);
    let definition = json!({"reconciler": "gone", "n": 1}).to_string();
    node.http().put("/v1/tables/bereft", definition).is(201);
    let name = item("bereft", "k");
    for _ in 0..2 {
        node.http().put(&name, "x").is(204);
    }
    node.stop();
    fs::remove_file(&file).expect("the module was kept there");
    node.start();
    node.wait_ready();
    let told = explain(node, &name, "");
    assert_eq!(
        (&told["outcome"], &told["status"]),
        (&json!("missing"), &json!(300)),
        "{told}"
    );
    assert_eq!(told["fuel"], 0);
    assert!(
        told["reason"]
            .as_str()
            .is_some_and(|why| why.contains("not arrived")),
        "{told}"
    );
}

#[test]
fn replicas_that_cannot_be_asked() {
    let cluster = Cluster::start(3, Plan::with(SETTINGS));
    let node = &cluster.nodes[0];
    let name = item("raw", "lonely");
    node.http().put(&name, "x").is(204);
    cluster.nodes[1].kill9();
    cluster.nodes[2].kill9();
    let told = explain(node, &name, "&r=1");
    assert_eq!(
        (&told["status"], &told["outcome"]),
        (&json!(200), &json!("value")),
        "{told}"
    );
    let told = explain(node, &name, "&r=all&quorum=strict&timeout_ms=1500");
    assert_eq!(
        (&told["status"], &told["outcome"]),
        (&json!(503), &json!("refused")),
        "{told}"
    );
    assert_eq!(told["code"], "quorum_unmet");
    assert!(told["detail"].is_string());
    let answered: Vec<&Value> = list(&told, "replicas")
        .iter()
        .filter(|replica| replica["answered"] == true)
        .map(|replica| &replica["node"])
        .collect();
    assert_eq!(answered, ["a"], "{told}");
}

#[test]
fn wrong_questions_are_refused() {
    let cluster = cluster();
    let name = item("raw", "questions");
    let at = |query: &str| cluster.at(0).get(&format!("{name}?{query}"));
    at("explain=maybe").refused(400, "bad_request");
    at("explain=true&explain=true").refused(400, "bad_request");
    at("explain=true&siblings=true").refused(400, "bad_request");
    at("explain=true&r=9").refused(400, "invalid_quorum");
    at("explain=false").refused(404, "not_found");
    let nowhere = item("nowhere", "k");
    let reply = cluster.at(0).get(&format!("{nowhere}?explain=true"));
    reply.refused(404, "no_such_table");
    let write = cluster.at(0).put(&format!("{name}?explain=true"), "x");
    write.refused(400, "bad_request");
    // What is explained is not a representation that could be unchanged.
    cluster.at(0).put(&name, "x").is(204);
    let request = with(
        Request::get(format!("{name}?explain=true")),
        "if-none-match",
        "*",
    );
    cluster.at(0).send(request).is(200);
}

#[test]
fn the_command_tells_the_story() {
    let cluster = cluster();
    let node = &cluster.nodes[0];
    let name = item("baskets", "told");
    for basket in [json!({"apple": 1}), json!({"pear": 2})] {
        put_json(node, &name, basket);
    }
    eventually("all have both", || {
        let told = explain(node, &name, "&r=all");
        let held = |one: &Value| one["held_by"].as_array().is_some_and(|by| by.len() == 3);
        let whole = list(&told, "siblings").iter().all(held);
        whole.then_some(()).ok_or_else(|| told.to_string())
    });
    let run = |arguments: &[&str]| {
        let output = Command::new(KINFOLD)
            .env_clear()
            .env("KINFOLD_ENDPOINT", node.endpoint())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, out, err) = run(&["get", "baskets", "told", "--explain", "--r", "all"]);
    assert_eq!(code, Some(0), "{err}");
    let first = out.lines().next().expect("a line");
    assert!(first.contains("folded 2 siblings"), "{first}");
    for text in [
        "held by",
        "a b c",
        "primary",
        "fuel",
        "cart-union@sha256:",
        r#"{"apple":1,"pear":2}"#,
    ] {
        assert!(out.contains(text), "{text} is not in\n{out}");
    }
    let (code, out, err) = run(&["get", "baskets", "told", "--explain", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let told: Value = serde_json::from_str(&out).expect("one JSON document");
    assert_eq!(told["outcome"], "folded");
    // What a plain read fails on is explained all the same.
    let (code, out, _) = run(&["get", "baskets", "nothing", "--explain"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("404 not_found"), "{out}");
    let (code, ..) = run(&["get", "baskets", "told", "--explain", "--siblings"]);
    assert_eq!(code, Some(2));
}

#[test]
fn a_replica_that_lags_is_seen() {
    let cluster = Cluster::start(
        3,
        Plan::with("exchange_interval = \"1h\"\n\n[tables.raw]\n"),
    );
    let name = item("raw", "lag");
    let (a, c) = (&cluster.nodes[0], &cluster.nodes[2]);
    a.http().put(&name, "one").is(204);
    eventually("all have it", || {
        let told = explain(a, &name, "&r=all");
        let whole = list(&told, "replicas")
            .iter()
            .all(|one| one["saw"] == "state");
        whole.then_some(()).ok_or_else(|| told.to_string())
    });
    c.pause();
    let token = a.http().get(&name).is(200).token();
    a.http().put_with(&name, "two", &token).is(204);
    let told = explain(a, &name, "&r=2");
    let silent = list(&told, "replicas")
        .iter()
        .find(|one| one["node"] == "c");
    assert!(silent.is_none_or(|one| one["answered"] == false), "{told}");
    c.resume();
}
