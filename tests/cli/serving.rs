//! `kinfold serve` and `kinfold dev`: how they begin, and how they end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use super::common::{Cluster, Expect, Http, Plan, forget, free_port, item, signals, wait, watch};
use super::{Ran, command};

/// Runs `kinfold serve` with this config file to its end.
fn serve(dir: &Path, text: &str) -> Ran {
    let path: PathBuf = dir.join("node.toml");
    fs::write(&path, text).unwrap();
    let arguments = ["serve", "--config", path.to_str().unwrap()];
    command("http://127.0.0.1:1", &arguments)
        .output()
        .expect("it runs")
        .into()
}

#[test]
fn config_errors_name_the_key_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    for (text, line, key) in [
        (
            "[node]\nname = \"a\"\nlisten = \"nowhere\"\n",
            3,
            "node.listen",
        ),
        ("[node]\nname = \"a b\"\n", 2, "node.name"),
        (
            "[node]\nname = \"a\"\n\n[cluster]\ngossip = \"1s\"\n",
            5,
            "gossip",
        ),
        (
            "[node]\nname = \"a\"\n[cluster]\npartitions = 100\n",
            4,
            "cluster.partitions",
        ),
        (
            "[node]\nname = \"a\"\n[cluster]\nreap_after = \"soon\"\n",
            4,
            "reap_after",
        ),
        (
            "[node]\nname = \"a\"\n[tables.x]\nn = 2\nr = 3\n",
            5,
            "tables.x.r",
        ),
        (
            "[node]\nname = \"a\"\n[tables.x]\nreplicas = 2\n",
            4,
            "replicas",
        ),
        (
            "[node]\nname = \"a\"\n[serving]\nscheduling = \"idle\"\n",
            4,
            "scheduling",
        ),
        ("[node]\nname = \n", 2, ""),
    ] {
        let ran = serve(dir.path(), text).code(2).says("node.toml").says(key);
        ran.says(&format!("line {line}"));
    }
    serve(dir.path(), "[cluster]\n").code(2).says("--name");
    fs::remove_file(dir.path().join("node.toml")).unwrap();
    let missing = dir.path().join("none.toml");
    let arguments = ["serve", "--config", missing.to_str().unwrap()];
    let ran: Ran = command("http://127.0.0.1:1", &arguments)
        .output()
        .expect("it runs")
        .into();
    ran.code(2).says("none.toml");
}

#[test]
fn a_port_that_is_taken_and_a_table_that_cannot_be_are_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let node = |port: u16| {
        let data = dir.path().join("data");
        format!("[node]\nname = \"a\"\nlisten = \"127.0.0.1:{port}\"\ndata_dir = {data:?}\n")
    };
    let port = taken.local_addr().unwrap().port();
    let ran = serve(dir.path(), &node(port));
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("--listen"), "{}", ran.stderr);

    let text = format!("{}[tables.x]\nreconciler = \"nobody\"\n", node(free_port()));
    let ran = serve(dir.path(), &text);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let last = ran.stderr.lines().last().expect("a reason");
    assert!(
        last.contains("tables.x") && last.contains("nobody"),
        "{last}"
    );
}

#[test]
fn dev_runs_three_nodes_until_it_is_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command("http://127.0.0.1:1", &["dev", "--port-base", "0", "--json"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    watch(&child);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let told: Value = serde_json::from_str(&lines.next().expect("a line").unwrap()).unwrap();
    let nodes: Vec<Http> = told["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| {
            let endpoint = node["endpoint"].as_str().expect("an endpoint");
            Http::to(&[endpoint
                .rsplit(':')
                .next()
                .unwrap()
                .parse()
                .expect("a port")])
        })
        .collect();
    assert_eq!(nodes.len(), 3);
    let data = PathBuf::from(told["data_dir"].as_str().expect("a folder"));
    assert!(data.starts_with(dir.path()) && data.exists());

    // What the tour shows: a value, an operation, a conflict that is folded.
    nodes[0].put(&item("profiles", "alice"), "{}").is(204);
    assert_eq!(
        nodes[1].get(&item("profiles", "alice")).is(200).text(),
        "{}"
    );
    assert_eq!(
        nodes[2].operate(&item("carts", "alice"), json!({"add": "apple"})),
        json!({"apple": 1})
    );
    assert_eq!(
        nodes[0].operate(&item("counters", "c"), json!({"add": 2})),
        json!(2)
    );
    nodes[0].put(&item("raw", "note"), "left").is(204);
    nodes[1].put(&item("raw", "note"), "right").is(204);
    nodes[2].get(&item("raw", "note")).is(300);

    signals::terminate(&child);
    assert_eq!(wait(&mut child).code(), Some(0));
    forget(&child);
    assert!(!data.exists(), "a temporary folder goes with the nodes");
    assert!(lines.next().is_none(), "one line for scripts, and no more");
}

/// By thread of a process: its name, and how the system schedules it (proc(5), field 41).
#[cfg(target_os = "linux")]
fn policies(pid: u32) -> Vec<(String, u32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let told = tasks.filter_map(|task| {
        // A thread may end while one looks.
        let stat = fs::read_to_string(task.expect("a thread").path().join("stat")).ok()?;
        let (name, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let (_, name) = name.split_once('(').expect("a name in parentheses");
        let policy = fields.split(' ').nth(41 - 3).expect("its policy");
        Some((name.to_owned(), policy.parse().expect("a number")))
    });
    told.collect()
}

#[cfg(target_os = "linux")]
#[test]
fn no_thread_of_a_node_interrupts_another_unless_the_config_says_so() {
    const NORMAL: u32 = 0;
    const BATCH: u32 = 3;
    for (section, expected) in [
        ("", BATCH),
        ("[serving]\nthreads = 3\n", BATCH),
        ("[serving]\nscheduling = \"batch\"\n", BATCH),
        ("[serving]\nscheduling = \"normal\"\n", NORMAL),
    ] {
        let cluster = Cluster::start(1, Plan::with(section));
        let policies = policies(cluster.nodes[0].pid());
        for working in ["serving", "store-write", "store-read", "store-checkpoin"] {
            let of_these: Vec<_> = policies
                .iter()
                .filter(|(name, _)| name.starts_with(working))
                .collect();
            assert!(!of_these.is_empty(), "no {working} among {policies:?}");
            for (name, policy) in of_these {
                assert_eq!(*policy, expected, "{name} of {section:?}");
            }
        }
    }
}
