//! Reports of a run that was made up: all that has to be told is, and only once.

use super::*;
use crate::bench::keys::Distribution;
use crate::bench::pacing::Arrivals;
use crate::bench::record::Record;
use crate::bench::workload::Workload;
use crate::bench::{Due, Rate};
use std::time::Duration;

/// An open loop with some of everything that has to be told.
pub fn example() -> (Plan, Measured) {
    let plan = Plan {
        authorities: vec!["n:1".to_owned(), "n:2".to_owned()],
        table: "t<1>".to_owned(),
        has_sort_keys: false,
        query: String::new(),
        workload: Workload::A,
        distribution: Distribution::Zipfian,
        keys: 10_000,
        value_bytes: 900,
        connections: 4,
        threads: 1,
        seconds: Duration::from_secs(10),
        warmup: Duration::ZERO,
        rate: Some(Rate {
            per_second: 50.0,
            arrivals: Arrivals::Even,
        }),
        conflicts: 0.0,
        shares_contexts: false,
        seed: 1,
        run: "r".to_owned(),
        patience: Duration::from_secs(1),
        pids: vec![1, 2],
    };
    let mut record = Record::default();
    for latency_us in 1..=200 {
        record.count(Operation::Read, Outcome::Ok, latency_us);
        record.count_late(5_000);
    }
    record.count(Operation::Read, Outcome::Siblings, 7);
    record.count(Operation::ReadForContext, Outcome::Ok, 7);
    record.count(Operation::Update, Outcome::Overloaded, 9);
    record.retry_after_s = 3;
    record.note_failure(|| "too much".to_owned());
    let measured = Measured {
        record,
        timeline: Vec::new(),
        lasted_s: 10.0,
        ended_early: true,
        due: Some(Due {
            requests: 500,
            crowded_out: 290,
            left: 8,
        }),
        cpu_span_s: 10.0,
        client_cpu_s: Some(9.5),
        servers_cpu_s: vec![(1, Some(2.0)), (2, None)],
    };
    (plan, measured)
}

#[test]
fn everything_is_told_once_and_what_misleads_in_words() {
    let (plan, measured) = example();
    let told = tell(&plan, &measured, 3);
    let rows: Vec<Vec<&str>> = told
        .rows
        .iter()
        .map(|row| row.iter().take(4).map(String::as_str).collect())
        .collect();
    assert_eq!(
        rows,
        [
            ["read", "ok", "200", "20.0"],
            ["", "siblings (300)", "1", "0.1"],
            ["update", "overloaded (503)", "1", "0.1"],
            ["read for context", "ok", "1", "0.1"],
        ]
    );
    assert!(told.rows.iter().all(|row| row.len() == told.header.len()));
    let text = [&told.heading, &told.lines.join("\n")]
        .map(String::as_str)
        .join("\n");
    for said in [
        "ended early",
        "open loop, 50.0 a second (even)",
        "20.1 operations a second answered, 1 failed",
        "500 requests, of which 298 were never sent",
        "waited   5.00 ms (p50)",
        "0.95 cores, in 1 thread",
        "1: 0.20 cores, 2: ended",
        "the first said: too much",
        "--threads 2",
        "only 2 of 3 nodes",
        "said to wait 3 s",
        "290 requests found 65,536 waiting",
        "no connection was free",
    ] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
}

#[test]
fn scripts_are_told_the_same() {
    let (plan, measured) = example();
    let report = to_json(&plan, None, &measured, 3);
    assert_eq!(report["total"]["count"], 202);
    assert_eq!(report["total"]["failed"], 1);
    assert_eq!(report["operations"]["read"]["count"], 201);
    assert_eq!(report["operations"]["read_for_context"]["count"], 1);
    let ok = &report["operations"]["read"]["outcomes"]["ok"]["latency_us"];
    assert_eq!((&ok["p50"], &ok["max"]), (&json!(100), &json!(200)));
    assert_eq!(
        report["open_loop"]["unsent"],
        json!({"backlog_full": 290, "not_before_the_end": 8})
    );
    assert_eq!(
        report["servers"]["processes"][1]["cpu_seconds"],
        Value::Null
    );
    assert_eq!(report["servers"]["cpu_us_per_operation"], Value::Null);
    assert_eq!(report["ended_early"], true);
}

#[test]
fn times_have_three_digits_and_a_unit() {
    for (us, text) in [
        (0.0, "0 µs"),
        (7.0, "7 µs"),
        (7.25, "7.25 µs"),
        (52.34, "52.3 µs"),
        (999.0, "999 µs"),
        (999.6, "1.00 ms"),
        (1_234.0, "1.23 ms"),
        (12_345.0, "12.3 ms"),
        (123_456.0, "123 ms"),
        (999_499.0, "999 ms"),
        (999_500.0, "1.00 s"),
        (12_000_000.0, "12.0 s"),
    ] {
        assert_eq!(duration(us), text, "{us}");
    }
}

#[test]
fn numbers_are_grouped_and_rates_rounded() {
    for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000")] {
        assert_eq!(grouped(number), text);
    }
    assert_eq!(rate(0.52), "0.5");
    assert_eq!(rate(41_234.6), "41,235");
}
