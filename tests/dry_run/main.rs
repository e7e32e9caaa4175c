//! Dry runs over real processes and real modules: what a module would make of
//! what a table stores, told before it is live, and nothing changed by it.

mod alone;
#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use common::http::with;
use common::{Cluster, Expect, KINFOLD, Node, Plan, Request, Shared, eventually, item};
use kinfold::protocol::catalog::Digest;
use serde_json::{Value, json};

const SETTINGS: &str = r#"
[sandbox]
fuel = 100_000_000

[tables.wishes]
[tables.wild]
[tables.alone]
n = 1
[tables.pairs]
n = 2
r = 1
w = 1
[tables.empty]

[tables.baskets]
reconciler = "cart-union"

[tables.carts]
reconciler = "or-cart"
"#;

/// The shared nodes, for one test at a time: a node makes one dry run at a time.
struct Turn {
    shared: Shared,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Turn {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.shared
    }
}

/// Three nodes for all tests that leave them as they are.
fn cluster() -> Turn {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn {
        shared: Shared(CLUSTER.get_or_init(|| Cluster::start(3, Plan::with(SETTINGS)))),
        _turn: turn,
    }
}

fn wasm_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("reconcilers/prebuilt")
        .join(name)
}

fn wasm(name: &str) -> Vec<u8> {
    fs::read(wasm_path(name)).expect("a prebuilt module")
}

fn path(table: &str) -> String {
    format!("/v1/tables/{table}/dry-run")
}

#[track_caller]
fn dry_run(node: &Node, table: &str, body: Value) -> Value {
    let reply = node.http().post(&path(table), body.to_string());
    reply.is(200).document()
}

fn upload(table: &str, query: &str, bytes: Vec<u8>) -> Request {
    Request::post(format!("{}{query}", path(table)), bytes)
        .content_type("application/wasm")
        .expect("a header")
}

/// Blind writes: each is a sibling of those before.
#[track_caller]
fn conflict(cluster: &Cluster, table: &str, key: &str, values: &[&str]) {
    for (turn, value) in values.iter().enumerate() {
        let request = Request::put(item(table, key), value.as_bytes().to_vec())
            .content_type("application/json")
            .expect("a header");
        let node = &cluster.nodes[turn % cluster.nodes.len()];
        node.http().send(request).is(204);
    }
}

/// Waits until every replica of these items has all of their siblings: a dry run
/// reads one replica, and a write answers when a quorum has it.
fn settle(cluster: &Cluster, table: &str, keys: &[String], siblings: usize) {
    for node in &cluster.nodes {
        for key in keys {
            eventually(&format!("{} has {key}", node.name), || {
                let explained = node
                    .http()
                    .get(&format!("{}?explain=true&r=all", item(table, key)))
                    .is(200)
                    .document();
                let replicas = explained["replicas"].as_array().expect("replicas");
                let whole = replicas.iter().all(|replica| {
                    let held = replica["siblings"].as_array();
                    held.is_some_and(|held| held.len() == siblings)
                });
                whole.then_some(()).ok_or_else(|| explained.to_string())
            });
        }
    }
}

fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}{number}"))
        .collect()
}

#[test]
fn a_table_without_a_reconciler_is_shown_what_a_module_would_make_of_its_conflicts() {
    let cluster = cluster();
    let conflicts = keys("conflict", 5);
    for key in &conflicts {
        conflict(
            &cluster,
            "wishes",
            key,
            &[r#"{"apple":1}"#, r#"{"apple":2,"pear":1}"#],
        );
    }
    let singles = keys("single", 3);
    for key in &singles {
        conflict(&cluster, "wishes", key, &[r#"{"plum":1}"#]);
    }
    settle(&cluster, "wishes", &conflicts, 2);
    settle(&cluster, "wishes", &singles, 1);
    for node in &cluster.nodes {
        let report = dry_run(node, "wishes", json!({"reconciler": "cart-union"}));
        assert_eq!(report["items"], 8, "{report}");
        assert_eq!(report["sibling_sets"], 5);
        assert_eq!(report["states"], 0);
        assert_eq!(report["different"], 5);
        assert_eq!(report["newly_folded"], 5);
        assert_eq!(report["same"], 0);
        assert_eq!(report["failed"], 0);
        assert_eq!(report["complete"], true);
        assert_eq!(report["present"], Value::Null);
        assert_eq!(report["candidate"]["stored"], true);
        assert_eq!(report["candidate"]["laws"]["verdict"], "built in");
        assert!(report["costs"]["candidate"]["fuel"]["p50"].as_u64() > Some(0));
        let differences = report["differences"].as_array().expect("examples");
        assert_eq!(differences.len(), 5);
        for one in differences {
            assert_eq!(one["present"]["outcome"], "siblings");
            assert_eq!(one["candidate"]["value"], json!({"apple": 2, "pear": 1}));
            assert_eq!(one["candidate"]["content_type"], "application/json");
            assert_eq!(one["siblings"].as_array().map(Vec::len), Some(2));
            let key = one["key"].as_str().expect("a key");
            assert_eq!(one["path"], item("wishes", key));
        }
    }
    // Nothing changed: clients get the siblings as before.
    for key in &conflicts {
        let reply = cluster.at(1).get(&item("wishes", key)).is(300);
        assert_eq!(reply.siblings().len(), 2);
    }
    assert_eq!(
        cluster.at(0).get("/v1/tables/wishes").is(200).document()["reconciler"],
        "none"
    );
}

#[test]
fn a_module_is_compared_with_the_present_one() {
    let cluster = cluster();
    conflict(
        &cluster,
        "baskets",
        "alike",
        &[r#"{"apple":1}"#, r#"{"apple":1}"#],
    );
    conflict(
        &cluster,
        "baskets",
        "unlike",
        &[r#"{"apple":1}"#, r#"{"pear":1}"#],
    );
    let keys = ["alike".to_owned(), "unlike".to_owned()];
    settle(&cluster, "baskets", &keys, 2);
    let report = dry_run(
        &cluster.nodes[0],
        "baskets",
        json!({"reconciler": "cart-union"}),
    );
    assert_eq!(
        (&report["same"], &report["different"]),
        (&json!(2), &json!(0)),
        "{report}"
    );

    let digest = Digest::of(&wasm("lww.wasm")).to_string();
    let report = dry_run(&cluster.nodes[1], "baskets", json!({"digest": digest}));
    assert_eq!(
        (&report["same"], &report["different"]),
        (&json!(1), &json!(1)),
        "{report}"
    );
    assert_eq!(report["newly_folded"], 0);
    assert_eq!(report["present"]["name"], "cart-union");
    let difference = &report["differences"][0];
    assert_eq!(difference["key"], "unlike");
    assert_eq!(
        difference["present"]["value"],
        json!({"apple": 1, "pear": 1})
    );
    assert_eq!(difference["candidate"]["value"], json!({"pear": 1}));
    let folds = |report: &Value, side: &str| report["costs"][side]["calls"].as_u64();
    assert_eq!(folds(&report, "present"), Some(2));
    assert_eq!(folds(&report, "candidate"), Some(2));
}

#[test]
fn bytes_are_tried_and_kept_nowhere() {
    let cluster = cluster();
    for request in ["trap", "spin", "unresolved", "fine"] {
        conflict(&cluster, "wild", request, &[request, request]);
    }
    let keys: Vec<String> = ["trap", "spin", "unresolved", "fine"]
        .map(str::to_owned)
        .into();
    settle(&cluster, "wild", &keys, 2);
    let node = &cluster.nodes[0];
    let files = |folder: &str| {
        let entries = fs::read_dir(node.data_dir().join(folder)).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        names
    };
    let before = (files("modules"), files("compiled"));
    let bytes = wasm("test/misbehave.wasm");
    let digest = Digest::of(&bytes).to_string();
    let report = node
        .http()
        .send(upload("wild", "", bytes))
        .is(200)
        .document();
    assert_eq!(report["candidate"]["digest"], digest, "{report}");
    assert_eq!(report["candidate"]["stored"], false);
    assert_eq!(
        report["candidate"]["laws"]["verdict"], "unlawful",
        "told, not required"
    );
    assert_eq!(report["sibling_sets"], 4);
    assert_eq!(report["failed"], 2);
    assert_eq!(report["unresolved"], 1);
    assert_eq!(report["different"], 1);
    let failures = report["failures"].as_array().expect("reasons");
    assert_eq!(failures.len(), 2, "{failures:?}");
    let fuel = failures
        .iter()
        .find(|one| one["limit"] == "fuel")
        .expect("one spins");
    assert_eq!(fuel["count"], 1);
    assert!(fuel["fuel_max"].as_u64() >= Some(100_000_000), "{fuel}");
    let trap = failures
        .iter()
        .find(|one| one["limit"].is_null())
        .expect("one traps");
    assert!(
        trap["reason"]
            .as_str()
            .is_some_and(|why| why.contains("unreachable")),
        "{trap}"
    );
    let examples = report["failed_examples"].as_array().expect("examples");
    assert_eq!(examples.len(), 2);

    assert_eq!((files("modules"), files("compiled")), before);
    for node in &cluster.nodes {
        let list = node.http().get("/v1/reconcilers").is(200).text();
        assert!(!list.contains(&digest), "{list}");
    }
    // A module that is no module is refused as an upload of it would be.
    let refused = node.http().send(upload("wild", "", b"garbage".to_vec()));
    refused.refused(422, "invalid_module");
    node.http()
        .send(upload("wild", "", Vec::new()))
        .refused(422, "invalid_module");
    let imports = node
        .http()
        .send(upload("wild", "", wasm("test/imports.wasm")));
    let detail = imports.refused(422, "invalid_module");
    assert!(detail.contains("bad:clock/wall"), "{detail}");
}

#[test]
fn a_data_type_must_be_able_to_read_every_state() {
    let cluster = cluster();
    let keys = keys("cart", 4);
    for key in &keys {
        cluster
            .at(0)
            .operate(&item("carts", key), json!({"add": "apple"}));
    }
    settle(&cluster, "carts", &keys, 1);
    let report = dry_run(&cluster.nodes[2], "carts", json!({"reconciler": "or-cart"}));
    assert_eq!(report["states"], 4, "{report}");
    assert_eq!(report["same"], 4);
    assert_eq!(report["unreadable"], 0);
    let notes = report["notes"].to_string();
    assert!(notes.contains("eagerly"), "{notes}");

    let report = dry_run(
        &cluster.nodes[2],
        "carts",
        json!({"reconciler": "pn-counter"}),
    );
    assert_eq!(report["unreadable"], 4, "{report}");
    assert_eq!(report["same"], 0);
    let examples = report["unreadable_examples"].as_array().expect("examples");
    assert_eq!(examples.len(), 4);
    for one in examples {
        assert_eq!(one["present"]["outcome"], "value");
        assert_eq!(one["candidate"]["outcome"], "failed");
        assert!(one["candidate"]["reason"].is_string());
    }
    // Each state is what it was.
    for key in &keys {
        let view = cluster.at(1).get(&item("carts", key)).is(200).document();
        assert_eq!(view, json!({"apple": 1}));
    }
}

#[test]
fn every_item_is_counted_once_wherever_it_lies() {
    let cluster = cluster();
    let keys = keys("far", 60);
    for key in &keys {
        conflict(&cluster, "alone", key, &[r#"{"apple":1}"#, r#"{"pear":1}"#]);
    }
    for node in &cluster.nodes {
        let report = dry_run(node, "alone", json!({"reconciler": "cart-union"}));
        assert_eq!(report["items"], 60, "{report}");
        assert_eq!(report["sibling_sets"], 60);
        assert_eq!(report["different"], 60);
        let replicas = report["replicas"].as_array().expect("replicas");
        assert_eq!(replicas.len(), 3, "each item lies on one node only");
        let partitions: u64 = replicas
            .iter()
            .map(|replica| replica["partitions"].as_u64().expect("a count"))
            .sum();
        assert_eq!(report["partitions"]["all"], partitions);
        assert_eq!(report["differences"].as_array().map(Vec::len), Some(10));
    }
    let report = dry_run(
        &cluster.nodes[0],
        "alone",
        json!({"reconciler": "lww", "limit": 7}),
    );
    assert_eq!(report["sibling_sets"], 7, "{report}");
    assert_eq!(report["stopped"], "limit");
    assert_eq!(report["complete"], false);
    let report = dry_run(&cluster.nodes[0], "empty", json!({"reconciler": "lww"}));
    assert_eq!(
        (&report["items"], &report["complete"]),
        (&json!(0), &json!(true))
    );
}

#[test]
fn wrong_requests_are_refused_clearly() {
    let cluster = cluster();
    let post = |table: &str, body: &str| cluster.at(0).post(&path(table), body.to_owned());
    post("nowhere", r#"{"reconciler":"lww"}"#).refused(404, "no_such_table");
    post("wishes", r#"{"reconciler":"nobody"}"#).refused(404, "no_such_reconciler");
    let unknown = format!(r#"{{"digest":"{}"}}"#, Digest::of(b"unknown"));
    post("wishes", &unknown).refused(404, "no_such_reconciler");
    let other = format!(
        r#"{{"reconciler":"lww","digest":"{}"}}"#,
        Digest::of(&wasm("or-cart.wasm"))
    );
    post("wishes", &other).refused(404, "no_such_reconciler");
    for (body, names) in [
        ("{}", "reconciler"),
        ("[]", "object"),
        ("x", "JSON"),
        (r#"{"reconciler":7}"#, "reconciler"),
        (r#"{"digest":"7"}"#, "digest"),
        (r#"{"reconciler":"lww","limit":0}"#, "limit"),
        (r#"{"reconciler":"lww","limit":-1}"#, "limit"),
        (r#"{"reconciler":"lww","limit":100001}"#, "limit"),
        (r#"{"reconciler":"lww","limit":"7"}"#, "limit"),
        (r#"{"reconciler":"lww","table":"x"}"#, "table"),
    ] {
        let detail = post("wishes", body).refused(400, "bad_request");
        assert!(detail.contains(names), "{body}: {detail}");
    }
    let at = |query: &str| upload("wishes", query, wasm("lww.wasm"));
    for query in [
        "?limit=0",
        "?limit=x",
        "?limit=100001",
        "?limit=",
        "?speed=1",
    ] {
        cluster.at(0).send(at(query)).refused(400, "bad_request");
    }
    let query = Request::post(
        format!("{}?limit=7", path("wishes")),
        r#"{"reconciler":"lww"}"#,
    );
    cluster.at(0).send(query).refused(400, "bad_request");
    let text = Request::post(path("wishes"), "lww").content_type("text/plain");
    let text = cluster.at(0).send(text.expect("a header"));
    text.refused(415, "unsupported_media_type");
    cluster
        .at(0)
        .get(&path("wishes"))
        .refused(405, "method_not_allowed");
    let html = with(
        Request::post(path("wishes"), r#"{"reconciler":"lww"}"#),
        "accept",
        "text/html",
    );
    cluster.at(0).send(html).refused(406, "not_acceptable");
}

#[test]
fn progress_comes_line_by_line() {
    let cluster = cluster();
    let request = Request::post(path("empty"), r#"{"reconciler":"lww"}"#);
    let reply = cluster
        .at(0)
        .send(with(request, "accept", "application/x-ndjson"));
    let reply = reply.is(200);
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let text = reply.text();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let (last, progress) = events.split_last().expect("some lines");
    assert_eq!(last["event"], "report", "{text}");
    assert_eq!(last["report"]["complete"], true);
    assert!(!progress.is_empty());
    for event in progress {
        assert_eq!(event["event"], "progress");
        assert!(event["partitions_done"].as_u64() <= event["partitions"].as_u64());
    }
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn kinfold(node: &Node, arguments: &[&str]) -> Ran {
    let output = Command::new(KINFOLD)
        .env_clear()
        .env("KINFOLD_ENDPOINT", node.endpoint())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

#[test]
fn the_command_shows_differences_and_ends_with_a_code_of_its_own() {
    let cluster = Cluster::start(
        1,
        Plan::with("[tables.notes]\nn = 1\nreconciler = \"cart-union\"\n"),
    );
    let node = &cluster.nodes[0];
    conflict(
        &cluster,
        "notes",
        "shopping",
        &[r#"{"apple":1,"egg":6}"#, r#"{"pear":1,"egg":6}"#],
    );
    let same = kinfold(
        node,
        &["reconciler", "dry-run", "cart-union", "--table", "notes"],
    );
    assert_eq!(same.code, Some(0), "{}", same.err);
    assert!(same.out.contains("sibling sets"), "{}", same.out);
    assert!(!same.out.contains('≠'), "{}", same.out);

    let file = wasm_path("lww.wasm");
    let file = file.to_str().expect("text");
    let ran = kinfold(node, &["reconciler", "dry-run", file, "--table", "notes"]);
    assert_eq!(ran.code, Some(7), "{}", ran.err);
    assert!(ran.err.contains("1 differ"), "{}", ran.err);
    for text in [
        "kept nowhere",
        "shopping",
        "≠   apple: 1",
        "    egg: 6",
        "fuel p50",
    ] {
        assert!(ran.out.contains(text), "{text} is not in\n{}", ran.out);
    }
    let digest = Digest::of(&wasm("lww.wasm")).to_string();
    let arguments = [
        "reconciler",
        "dry-run",
        &digest,
        "--table",
        "notes",
        "--limit",
        "5",
        "--json",
    ];
    let ran = kinfold(node, &arguments);
    assert_eq!(ran.code, Some(7), "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).expect("one JSON document");
    assert_eq!(
        (&report["different"], &report["limit"]),
        (&json!(1), &json!(5))
    );

    let ran = kinfold(
        node,
        &["reconciler", "dry-run", "nobody", "--table", "notes"],
    );
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    let ran = kinfold(
        node,
        &["reconciler", "dry-run", "no/such.wasm", "--table", "notes"],
    );
    assert_eq!(ran.code, Some(1), "{}", ran.err);
}
