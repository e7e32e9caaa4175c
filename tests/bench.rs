//! `kinfold bench` against a real cluster: what it writes, counts and refuses.
//!
//! No figure of speed is looked at: only that counts add up, that what was counted
//! was done, and that a mistake is told before anything is measured.

mod common;

use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use common::{
    Cluster, Expect, KINFOLD, Plan, Shared, eventually, free_port, item, signals, until, wait,
};
use serde_json::Value;

const TABLES: &str = r#"
[tables.loaded]

[tables.mixed]

[tables.paced]

[tables.torn]

[tables.whole]

[tables.stopped]

[tables.empty]

[tables.small]
max_value_bytes = "1KiB"

[tables.sorted]
sort_keys = true

[tables.counters]
reconciler = "pn-counter"
"#;

/// Three nodes for all tests of this file; each uses a table of its own.
fn cluster() -> Shared {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    Shared(CLUSTER.get_or_init(|| Cluster::start(3, Plan::with(TABLES))))
}

fn servers(cluster: &Cluster) -> String {
    cluster.seeds().join(",")
}

fn command(server: &str, words: &str) -> Command {
    let mut command = Command::new(KINFOLD);
    command
        .env_clear()
        .args(["bench", "--server", server, "--warmup", "0"])
        .args(words.split_whitespace())
        .stdin(Stdio::null());
    command
}

fn output(server: &str, words: &str) -> Output {
    command(server, words).output().expect("it runs")
}

/// The report of a run that has to succeed. How much a second holds depends on the
/// machine, so the run is repeated until it held `enough` operations.
#[track_caller]
fn measured(cluster: &Cluster, words: &str, enough: u64) -> Value {
    eventually("enough was measured", || {
        let output = output(&servers(cluster), &format!("{words} --json"));
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("nothing was begun") {
            return Err(said.into_owned());
        }
        assert!(output.status.success(), "{said}");
        assert!(said.is_empty(), "nothing but the report: {said}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        if enough == 0 {
            return Ok(report);
        }
        adds_up(&report);
        match number(&report["total"]["count"]) {
            count if count < enough => Err(format!("{count} operations")),
            _ => Ok(report),
        }
    })
}

/// The items are there.
#[track_caller]
fn loaded(cluster: &Cluster, words: &str) -> Value {
    measured(cluster, &format!("{words} --load-only"), 0)
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no count"))
}

fn count(report: &Value, operation: &str, outcome: &str) -> u64 {
    report["operations"][operation]["outcomes"][outcome]["count"]
        .as_u64()
        .unwrap_or(0)
}

/// Every operation is in one place, and there is nothing else.
#[track_caller]
fn adds_up(report: &Value) {
    let mut steps = 0;
    for (name, operation) in report["operations"].as_object().expect("operations") {
        let outcomes = operation["outcomes"].as_object().expect("outcomes");
        let sum: u64 = outcomes.values().map(|one| number(&one["count"])).sum();
        assert_eq!(sum, number(&operation["count"]), "{name}");
        if name != "read_for_context" {
            steps += sum;
        }
        for outcome in outcomes.values() {
            let latency = &outcome["latency_us"];
            let marks = ["p50", "p90", "p99", "p999", "max"].map(|mark| number(&latency[mark]));
            assert!(marks.is_sorted(), "{latency}");
        }
    }
    let total = &report["total"];
    assert_eq!(steps, number(&total["count"]));
    assert_eq!(
        steps,
        number(&total["answered"]) + number(&total["failed"]),
        "{total}"
    );
    let timeline = report["timeline"].as_array().expect("a timeline");
    let each = |second: &Value| number(&second["answered"]) + number(&second["failed"]);
    let seen: u64 = timeline.iter().map(each).sum();
    assert!(seen <= steps, "{seen} of {steps}");
    if let Some(open_loop) = report["open_loop"].as_object() {
        let unsent = &open_loop["unsent"];
        let unsent = number(&unsent["backlog_full"]) + number(&unsent["not_before_the_end"]);
        assert_eq!(number(&open_loop["due"]), steps + unsent, "{open_loop:?}");
        assert_eq!(number(&open_loop["sent"]), steps);
    }
}

/// Loading is complete, and doing it again changes nothing: no siblings arise.
#[test]
fn items_are_loaded_once() {
    let cluster = cluster();
    let words = "--table loaded --keys 150 --value-bytes 300 --connections 4";
    let first = loaded(&cluster, words);
    assert_eq!(number(&first["loaded"]["written"]), 150);
    let again = loaded(&cluster, words);
    assert_eq!(number(&again["loaded"]["written"]), 0);
    assert_eq!(number(&again["loaded"]["there_already"]), 150);
    for key in 0..150 {
        let read = cluster
            .at(key % 3)
            .get(&item("loaded", format!("bench-{key}")));
        assert_eq!((read.status.as_u16(), read.body.len()), (200, 300), "{key}");
    }
    cluster.at(0).get(&item("loaded", "bench-150")).is(404);

    // More keys, and another length: what is there is written over, not beside.
    let more = loaded(
        &cluster,
        "--table loaded --keys 200 --value-bytes 40 --connections 4",
    );
    assert_eq!(number(&more["loaded"]["written"]), 200);
    for key in [0, 149, 150, 199] {
        let read = cluster.at(1).get(&item("loaded", format!("bench-{key}")));
        assert_eq!((read.status.as_u16(), read.body.len()), (200, 40), "{key}");
    }
}

#[test]
fn what_was_counted_was_done() {
    let cluster = cluster();
    // Alone, a client has seen everything that it writes over.
    let report = measured(
        &cluster,
        "--table mixed --keys 20 --connections 1 --seconds 1 --workload a --contexts shared",
        60,
    );
    assert!(count(&report, "read", "ok") > 0, "{report}");
    assert!(count(&report, "update", "ok") > 0, "{report}");
    assert!(count(&report, "read_for_context", "ok") <= 20, "{report}");
    assert_eq!(number(&report["total"]["failed"]), 0);
    for key in 0..20 {
        cluster
            .at(0)
            .get(&item("mixed", format!("bench-{key}")))
            .is(200);
    }

    // Every insert is there under its own name, and no more than were counted.
    let report = measured(
        &cluster,
        "--table mixed --keys 20 --connections 3 --seconds 1 --workload put --value-bytes 10",
        3,
    );
    assert!(report["loaded"].is_null(), "inserts need no items");
    let inserted = count(&report, "insert", "ok");
    assert_eq!(inserted, number(&report["total"]["count"]));
    let run = report["config"]["run"].as_str().expect("a name");
    let at = |key: u64| item("mixed", format!("bench-{run}-{key}"));
    for key in [20, 20 + inserted / 2, 20 + inserted - 1] {
        assert_eq!(cluster.at(1).get(&at(key)).is(200).body.len(), 10);
    }
    cluster.at(1).get(&at(20 + inserted)).is(404);

    // Readers of the newest read what inserts have left, and sort keys are given.
    let report = measured(
        &cluster,
        "--table sorted --keys 20 --connections 3 --seconds 1 --workload d --r 1",
        20,
    );
    assert!(count(&report, "read", "ok") > 0, "{report}");
    assert_eq!(report["config"]["query"], "?r=1");
    cluster
        .at(2)
        .get("/v1/tables/sorted/items/bench-19/0")
        .is(200);
}

#[test]
fn an_open_loop_accounts_for_all_that_was_due() {
    let cluster = cluster();
    let report = measured(
        &cluster,
        "--table paced --keys 20 --connections 4 --seconds 1 --workload b --rate 200 --arrivals even",
        1,
    );
    let due = number(&report["open_loop"]["due"]);
    assert_eq!(due, 200);
    assert!(report["open_loop"]["waited_us"]["p50"].is_u64(), "{report}");
    // Far more than there are connections for: what was not sent is told.
    let report = measured(
        &cluster,
        "--table paced --no-load --keys 20 --connections 1 --seconds 1 --workload c --rate 1000000",
        1,
    );
    let unsent = &report["open_loop"]["unsent"];
    assert!(number(&unsent["backlog_full"]) > 0, "{unsent}");
    assert!(number(&unsent["not_before_the_end"]) > 0, "{unsent}");
    assert!(report["notes"].to_string().contains("were not sent"));
}

#[test]
fn blind_writes_make_siblings_and_others_resolve_them() {
    let cluster = cluster();
    let words = "--keys 5 --connections 1 --seconds 1 --workload rmw";
    let report = measured(
        &cluster,
        &format!("--table torn {words} --conflicts 0.5"),
        60,
    );
    let met = count(&report, "read_modify_write", "siblings");
    assert!(met > 0, "{report}");
    let report = measured(&cluster, &format!("--table whole {words}"), 60);
    assert_eq!(count(&report, "read_modify_write", "siblings"), 0);
    assert!(count(&report, "read_modify_write", "ok") > 0, "{report}");
    let read = |key| cluster.at(0).get(&item("whole", format!("bench-{key}")));
    assert!((0..5).all(|key| read(key).status == 200));
}

fn interrupt(child: &Child) {
    signals::signal(child, "INT");
}

#[test]
fn told_to_stop_it_prints_what_there_is() {
    let cluster = cluster();
    loaded(&cluster, "--table stopped --keys 1");
    let path = item("stopped", "bench-0");
    let before = cluster
        .at(0)
        .get(&path)
        .is(200)
        .header("etag")
        .map(str::to_owned);
    let mut child = command(
        &servers(&cluster),
        "--table stopped --keys 1 --connections 1 --seconds 3600 --workload rmw --json",
    )
    .stdout(Stdio::piped())
    .spawn()
    .expect("it runs");
    until("something has been measured", || {
        let now = cluster.at(0).get(&path);
        now.header("etag").map(str::to_owned) != before
    });
    interrupt(&child);
    assert!(wait(&mut child).success());
    let output = child.wait_with_output().expect("its output");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    adds_up(&report);
    assert_eq!(report["ended_early"], true);
    assert!(number(&report["total"]["count"]) > 0);
    assert!(
        report["seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds < 3_000.0)
    );
}

#[test]
fn the_report_and_the_picture_are_for_people() {
    let cluster = cluster();
    let file = cluster.dir().join("plot.svg");
    let words = format!(
        "--table empty --keys 10 --connections 2 --seconds 1 --workload a --pids {} --plot {}",
        std::process::id(),
        file.display()
    );
    let server = cluster.nodes[0].address();
    let text = eventually("both operations were measured", || {
        let output = output(&server, &words);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("nothing was begun") {
            return Err(said.into_owned());
        }
        assert!(output.status.success(), "{output:?}");
        assert!(said.is_empty(), "nobody watches: {output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        if text.contains("\n read ") && text.contains("\n update ") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    for said in [
        "workload a: half reads, half updates",
        "10 keys, zipfian",
        "p99.9",
        "an operation",
        "servers",
        "only 1 of 3 nodes were asked",
    ] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
    let picture = std::fs::read_to_string(&file).expect("a picture");
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    for part in [
        "prefers-color-scheme: dark",
        ">update<",
        "99 %",
        "Operations a second",
    ] {
        assert!(picture.contains(part), "{part:?} is not in\n{picture}");
    }
    assert!(
        !picture.contains("NaN") && !picture.contains("inf"),
        "{picture}"
    );
}

#[test]
fn mistakes_are_told_before_anything_is_measured() {
    let cluster = cluster();
    let server = cluster.nodes[0].address();
    let nobody = format!("127.0.0.1:{}", free_port());
    let one_down = format!("{server},{nobody}");
    for (server, words, code, part) in [
        (&server, "--table nothing", 3, "kinfold table list"),
        (&nobody, "--table empty", 5, "nothing answers"),
        (&one_down, "--table empty", 5, "nothing answers"),
        (&server, "--table counters", 2, "takes operations only"),
        (&server, "--table small", 3, "without --no-load first"),
        (
            &server,
            "--table small --value-bytes 2000",
            2,
            "--max-value-bytes 2000",
        ),
        (&server, "--table empty --load-only", 2, "--plot"),
        (&server, "--table small --pids 4294967295", 2, "pgrep"),
        (
            &server,
            "--table small --plot /nowhere/plot.svg",
            1,
            "/nowhere/plot.svg",
        ),
        (&server, "--table small --rate 0", 2, "above 0"),
        (&server, "--table small --conflicts 2", 2, "from 0 to 1"),
        (
            &server,
            "--table small --load-only --no-load",
            2,
            "cannot be used with",
        ),
        (&server, "--table small --arrivals even", 2, "--rate"),
        (&server, "--table small --keys 0", 2, "--keys"),
        (&server, "--keys 1", 2, "--table"),
        (&"ftp://x".to_owned(), "--table small", 2, "no endpoint"),
    ] {
        // What would be refused anyway must not load first.
        let more = match part {
            "without --no-load first" => " --no-load",
            "--plot" => " --plot /nowhere/plot.svg",
            _ => "",
        };
        let output = output(server, &format!("{words}{more}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words}: {said}");
        assert_eq!(said.lines().count(), 1, "{words}: {said}");
        assert!(said.contains(part), "{words}: {part:?} is not in {said}");
        assert!(output.stdout.is_empty(), "{words}");
    }
    cluster.at(0).get(&item("small", "bench-0")).is(404);
}
