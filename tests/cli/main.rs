//! The command line against a real cluster: what it prints, what it ends with,
//! and what it says when something is wrong.

#[path = "../common/mod.rs"]
mod common;
mod serving;
mod simulating;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Cluster, KINFOLD, Plan, Shared, free_port, wait};
use kinfold::reconcile::registry::built_ins;
use serde_json::{Value, json};

const TABLES: &str = r#"
[tables.raw]

[tables.sorted]
sort_keys = true

[tables.carts]
reconciler = "or-cart"
"#;

/// Three nodes for all tests of this file; each uses names and keys of its own.
fn cluster() -> Shared {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    Shared(CLUSTER.get_or_init(|| Cluster::start(3, Plan::with(TABLES))))
}

/// What a command printed and ended with.
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Ran {
    /// It ended with this code. Errors are one line on standard error.
    #[track_caller]
    fn code(self, code: i32) -> Self {
        let stdout = String::from_utf8_lossy(&self.stdout).into_owned();
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {stdout}\nstderr: {}",
            self.stderr
        );
        if code != 0 {
            assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
            assert!(self.stderr.starts_with("kinfold: "), "{}", self.stderr);
        }
        self
    }

    #[track_caller]
    fn says(self, wanted: &str) -> Self {
        assert!(
            self.stderr.contains(wanted),
            "{wanted:?} is not in {}",
            self.stderr
        );
        self
    }

    fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("text")
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).expect("one JSON document")
    }
}

fn command(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(KINFOLD);
    command
        .env_clear()
        .env("KINFOLD_ENDPOINT", endpoint)
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Runs a command against a node of the cluster.
#[track_caller]
fn run(cluster: &Cluster, node: usize, arguments: &[&str]) -> Ran {
    command(&cluster.nodes[node].endpoint(), arguments)
        .output()
        .expect("it runs")
        .into()
}

fn prebuilt(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reconcilers/prebuilt");
    folder.join(name).to_str().expect("text").to_owned()
}

#[test]
fn items_are_written_read_and_deleted() {
    let cluster = cluster();
    run(&cluster, 0, &["get", "raw", "note"])
        .code(3)
        .says("not_found");
    run(&cluster, 0, &["put", "raw", "note", "{\"a\": 1}"]).code(0);
    assert_eq!(
        run(&cluster, 1, &["get", "raw", "note"]).code(0).stdout,
        b"{\"a\": 1}"
    );
    let shown = run(&cluster, 2, &["get", "raw", "note", "--json"])
        .code(0)
        .json();
    assert_eq!(shown["json"], json!({"a": 1}));
    assert_eq!(shown["value"], STANDARD.encode("{\"a\": 1}"));
    assert_eq!(shown["content_type"], "application/json");
    assert_eq!(shown["siblings"], 1);
    let context = shown["context"].as_str().expect("a context");
    let put = [
        "put",
        "raw",
        "note",
        "next",
        "--context",
        context,
        "--json",
        "--w",
        "all",
    ];
    assert!(run(&cluster, 0, &put).code(0).json()["context"].is_string());
    assert_eq!(
        run(&cluster, 1, &["get", "raw", "note", "--r", "all"])
            .code(0)
            .text(),
        "next"
    );
    run(&cluster, 1, &["delete", "raw", "note"]).code(0);
    run(&cluster, 2, &["get", "raw", "note"]).code(3);
    run(&cluster, 2, &["delete", "raw", "note"]).code(3);

    // Any bytes, from a file or a pipe.
    let bytes: Vec<u8> = (0..=255).collect();
    let file = cluster.dir().join("bytes");
    fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    run(&cluster, 0, &["put", "raw", "a/b?c", "--file", file]).code(0);
    let read = run(&cluster, 1, &["get", "raw", "a/b?c"]).code(0);
    assert_eq!(read.stdout, bytes);
    let endpoint = cluster.nodes[0].endpoint();
    let mut child = command(&endpoint, &["put", "raw", "piped", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("it runs");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"from a pipe")
        .unwrap();
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(
        run(&cluster, 2, &["get", "raw", "piped"]).code(0).text(),
        "from a pipe"
    );

    run(&cluster, 0, &["put", "sorted", "day", "1", "first"]).code(0);
    assert_eq!(
        run(&cluster, 1, &["get", "sorted", "day", "1"])
            .code(0)
            .text(),
        "first"
    );
}

#[test]
fn a_conflict_is_told_and_settled_with_a_context_file() {
    let cluster = cluster();
    run(&cluster, 0, &["put", "raw", "torn", "left"]).code(0);
    run(&cluster, 1, &["put", "raw", "torn", "right"]).code(0);
    let file = cluster.dir().join("context");
    let file = file.to_str().unwrap();
    let conflict = run(&cluster, 2, &["get", "raw", "torn", "--context-file", file]).code(4);
    assert!(
        conflict.stdout.is_empty(),
        "siblings in a file would be taken for the value"
    );
    let conflict = conflict.says("2 siblings").says("kinfold put raw torn");
    assert!(
        conflict
            .stderr
            .contains(fs::read_to_string(file).unwrap().trim())
    );
    let shown = run(&cluster, 2, &["get", "raw", "torn", "--siblings", "--json"])
        .code(0)
        .json();
    assert_eq!(shown["siblings"].as_array().map(Vec::len), Some(2));
    let table = run(&cluster, 2, &["get", "raw", "torn", "--siblings"])
        .code(0)
        .text();
    assert!(table.contains("left") && table.contains("right"), "{table}");
    run(
        &cluster,
        0,
        &["put", "raw", "torn", "mended", "--context-file", file],
    )
    .code(0);
    run(
        &cluster,
        1,
        &["put", "raw", "torn", "on and on", "--context-file", file],
    )
    .code(0);
    assert_eq!(
        run(&cluster, 2, &["get", "raw", "torn"]).code(0).text(),
        "on and on"
    );
    run(&cluster, 2, &["put", "raw", "torn", "v", "--context", "x"])
        .code(1)
        .says("invalid_context");
}

#[test]
fn operations_show_what_came_of_them() {
    let cluster = cluster();
    let add = run(
        &cluster,
        0,
        &["op", "carts", "alice", r#"{"add":"apple","quantity":2}"#],
    )
    .code(0);
    assert_eq!(add.json(), json!({"apple": 2}));
    let shown = run(
        &cluster,
        1,
        &["op", "carts", "alice", r#"{"add":"fig"}"#, "--json"],
    )
    .code(0)
    .json();
    assert_eq!(shown["json"], json!({"apple": 2, "fig": 1}));
    run(&cluster, 2, &["op", "carts", "alice", r#"{"steal":"fig"}"#])
        .code(1)
        .says("bad_operation");
    run(&cluster, 2, &["op", "carts", "alice", "not JSON"])
        .code(2)
        .says("not JSON");
    run(&cluster, 2, &["put", "carts", "alice", "{}"])
        .code(1)
        .says("kinfold op");
}

#[test]
fn tables_are_made_shown_changed_and_deleted() {
    let cluster = cluster();
    run(
        &cluster,
        0,
        &[
            "table",
            "set",
            "wishes",
            "--reconciler",
            "lww",
            "--max-value-bytes",
            "2KiB",
        ],
    )
    .code(0);
    let shown = run(&cluster, 0, &["table", "show", "wishes", "--json"])
        .code(0)
        .json();
    assert_eq!(shown["reconciler"], "lww");
    assert_eq!(shown["max_value_bytes"], 2048);
    // What no flag names stays.
    run(
        &cluster,
        0,
        &["table", "set", "wishes", "--w", "all", "--quorum", "strict"],
    )
    .code(0);
    let shown = run(&cluster, 0, &["table", "show", "wishes", "--json"])
        .code(0)
        .json();
    assert_eq!(
        (&shown["reconciler"], &shown["w"]),
        (&json!("lww"), &json!("all"))
    );
    assert_eq!(shown["quorum"], "strict");
    let file = cluster.dir().join("wishes.json");
    fs::write(&file, shown.to_string()).unwrap();
    run(
        &cluster,
        0,
        &["table", "set", "wishes", "--file", file.to_str().unwrap()],
    )
    .code(0);
    let list = run(&cluster, 0, &["table", "list", "--json"])
        .code(0)
        .json();
    let names: Vec<&str> = list["tables"]
        .as_array()
        .expect("tables")
        .iter()
        .filter_map(|table| table["name"].as_str())
        .collect();
    assert_eq!(names, ["carts", "raw", "sorted", "wishes"]);
    let list = run(&cluster, 0, &["table", "list"]).code(0).text();
    assert!(
        list.contains("wishes") && list.contains("or-cart"),
        "{list}"
    );

    run(
        &cluster,
        0,
        &["table", "set", "wishes", "--n", "2", "--r", "3"],
    )
    .code(1)
    .says("invalid_table");
    run(
        &cluster,
        0,
        &["table", "set", "wishes", "--reconciler", "nobody"],
    )
    .code(1)
    .says("nobody");
    run(&cluster, 0, &["table", "delete", "wishes"])
        .code(2)
        .says("--yes");
    run(&cluster, 0, &["table", "delete", "wishes", "--yes"]).code(0);
    run(&cluster, 0, &["table", "show", "wishes"])
        .code(3)
        .says("no_such_table");
}

#[test]
fn modules_are_checked_pushed_and_listed() {
    let cluster = cluster();
    let misbehave = prebuilt("test/misbehave.wasm");
    let refused = run(&cluster, 0, &["reconciler", "push", &misbehave]).code(1);
    assert!(!refused.stdout.is_empty(), "the counterexample is shown");
    refused
        .says("misbehave is not lawful")
        .says("--accept-unlawful");
    run(
        &cluster,
        0,
        &["reconciler", "push", &misbehave, "--accept-unlawful"],
    )
    .code(0);
    let pushed = run(
        &cluster,
        0,
        &[
            "reconciler",
            "push",
            &prebuilt("lww.wasm"),
            "--name",
            "mine",
            "--json",
        ],
    );
    assert_eq!(pushed.code(0).json()["name"], "mine");
    run(
        &cluster,
        0,
        &["reconciler", "push", &prebuilt("test/imports.wasm")],
    )
    .code(1)
    .says("bad:clock/wall");
    run(&cluster, 0, &["reconciler", "push", "/nowhere/x.wasm"])
        .code(1)
        .says("/nowhere/x.wasm");
    let list = run(&cluster, 0, &["reconciler", "list"]).code(0).text();
    for name in [
        "cart-union",
        "mine",
        "misbehave",
        "UNLAWFUL",
        "or-cart",
        "carts",
    ] {
        assert!(list.contains(name), "{name} is not in {list}");
    }
    let list = run(&cluster, 0, &["reconciler", "list", "--json"])
        .code(0)
        .json();
    assert_eq!(
        list["reconcilers"].as_array().map(Vec::len),
        Some(built_ins().len() + 2),
        "{list}"
    );

    // Another version, looked at, taken back, and all of it forgotten.
    let union = prebuilt("cart-union.wasm");
    run(
        &cluster,
        0,
        &["reconciler", "push", &union, "--name", "mine"],
    )
    .code(0);
    let shown = run(&cluster, 0, &["reconciler", "show", "mine", "--json"])
        .code(0)
        .json();
    let versions = shown["versions"].as_array().expect("versions");
    assert_eq!(versions.len(), 2);
    let short = |version: &Value| {
        let digest = version["digest"].as_str().expect("a digest");
        digest["sha256:".len()..][..12].to_owned()
    };
    let (first, second) = (short(&versions[0]), short(&versions[1]));
    let text = run(&cluster, 0, &["reconciler", "show", "mine"])
        .code(0)
        .text();
    for said in [&first[..], &second, "no table uses it", "uploaded"] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
    let rolled = run(&cluster, 0, &["reconciler", "rollback", "mine"]);
    assert_eq!(
        rolled.code(0).text().trim(),
        format!("mine: {second} → {first}")
    );
    run(
        &cluster,
        0,
        &["reconciler", "rollback", "mine", &second[..8]],
    )
    .code(0);
    run(&cluster, 0, &["reconciler", "rollback", "mine", "zz"])
        .code(2)
        .says("kinfold reconciler show mine");
    run(&cluster, 0, &["reconciler", "rollback", "lww"])
        .code(4)
        .says("no_earlier_version");
    run(&cluster, 0, &["reconciler", "delete", "mine"])
        .code(2)
        .says("--yes");
    run(
        &cluster,
        0,
        &["reconciler", "delete", "cart-union", "--yes"],
    )
    .code(4)
    .says("built in");
    run(&cluster, 0, &["reconciler", "delete", "mine", "--yes"]).code(0);
    run(&cluster, 0, &["reconciler", "show", "mine"])
        .code(3)
        .says("no_such_reconciler");

    // Without a server, too.
    let alone = |arguments: &[&str]| -> Ran {
        command("http://127.0.0.1:1", arguments)
            .output()
            .expect("it runs")
            .into()
    };
    let checked = alone(&[
        "reconciler",
        "check",
        &prebuilt("lww.wasm"),
        "--cases",
        "50",
        "--json",
    ]);
    assert_eq!(checked.code(0).json()["verdict"], "no counterexample");
    alone(&["reconciler", "check", &misbehave, "--cases", "50"])
        .code(1)
        .says("not lawful");
}

#[test]
fn the_cluster_is_shown() {
    let cluster = cluster();
    let status = run(&cluster, 1, &["cluster", "status", "--json"])
        .code(0)
        .json();
    assert_eq!(status["node"], "b");
    let members = status["members"].as_array().expect("members");
    assert_eq!(members.len(), 3);
    for (member, node) in members.iter().zip(&cluster.nodes) {
        assert_eq!(member["node"], *node.name);
        assert_eq!(member["address"], node.address());
        assert_eq!(
            (&member["status"], &member["up"]),
            (&json!("up"), &json!(true))
        );
        assert_eq!(member["partitions"], 256);
    }
    let status = run(&cluster, 1, &["cluster", "status"]).code(0).text();
    assert!(
        status.contains("seen from b") && status.contains(&cluster.nodes[2].address()),
        "{status}"
    );
    let ring = run(&cluster, 1, &["cluster", "ring", "raw", "a/b", "--json"])
        .code(0)
        .json();
    assert_eq!(ring["preference_list"].as_array().map(Vec::len), Some(3));
    let other = run(&cluster, 2, &["cluster", "ring", "raw", "a/b", "--json"])
        .code(0)
        .json();
    assert_eq!(ring, other, "every node places an item alike");
    let ring = run(&cluster, 1, &["cluster", "ring", "raw", "a/b"])
        .code(0)
        .text();
    assert!(ring.contains("primary"), "{ring}");
    run(&cluster, 1, &["cluster", "ring", "nowhere", "k"])
        .code(3)
        .says("no_such_table");
}

#[test]
fn what_goes_wrong_is_one_line_and_a_code() {
    let cluster = cluster();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let run_at = |endpoint: &str, arguments: &[&str]| -> Ran {
        command(endpoint, arguments)
            .output()
            .expect("it runs")
            .into()
    };
    run_at(&nobody, &["get", "raw", "k"])
        .code(5)
        .says("kinfold dev");
    run_at("ftp://x", &["get", "raw", "k"])
        .code(2)
        .says("ftp://x");
    // The next endpoint is asked when nobody is at the first.
    let both = format!("{nobody},{}", cluster.nodes[0].endpoint());
    run_at(&both, &["put", "raw", "spare", "v"]).code(0);
    let flag = [
        "get",
        "raw",
        "spare",
        "--endpoint",
        &cluster.nodes[1].endpoint(),
    ];
    assert_eq!(
        run_at(&nobody, &flag).code(0).text(),
        "v",
        "a flag wins over the variable"
    );
    run(&cluster, 0, &["get", "nowhere", "k"])
        .code(3)
        .says("kinfold table list");
    run(&cluster, 0, &["get", "raw"]).code(2).says("--help");
    run(&cluster, 0, &["fetch"]).code(2).says("fetch");
    run(&cluster, 0, &["put", "raw", "k"])
        .code(2)
        .says("no value");
    run(&cluster, 0, &["get", "raw", "k", "--r", "9"])
        .code(1)
        .says("invalid_quorum");
    assert_eq!(run(&cluster, 0, &["--help"]).code(0).stderr, "");
    assert!(
        run(&cluster, 0, &["--version"])
            .code(0)
            .text()
            .starts_with("kinfold ")
    );
}
