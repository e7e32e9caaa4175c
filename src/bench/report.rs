//! What a run measured, for people and for scripts.
//!
//! Promises: every operation that was begun is in exactly one row, and counts add
//! up; each row is of one operation and one outcome; what may mislead (a busy
//! client, requests that were not sent in time, one node of many) is said in words.
//! The keys of the JSON document stay what they are.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::load::Loaded;
use super::record::Outcome;
use super::run::{Measured, Second};
use super::workload::Operation;
use super::{MAX_WAITING, Plan};

/// The quantiles of reports: what it is called for people, in JSON, and where it is.
const QUANTILES: [(&str, &str, f64); 4] = [
    ("p50", "p50", 0.5),
    ("p90", "p90", 0.9),
    ("p99", "p99", 0.99),
    ("p99.9", "p999", 0.999),
];
/// A client whose threads are busier than this measures itself.
const BUSY_SHARE: f64 = 0.85;
/// Requests of an open loop that are sent later than this, in the one of a hundred
/// that waits longest, waited for the client rather than for the clock.
const LATE_US: u64 = 2_000;

/// A number with a comma before every third digit.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time, with three digits and a unit.
pub fn duration(us: f64) -> String {
    let (value, unit) = if us < 999.5 {
        (us, "µs")
    } else if us < 999_500.0 {
        (us / 1e3, "ms")
    } else {
        (us / 1e6, "s")
    };
    let digits = match value {
        value if unit == "µs" && value.fract() == 0.0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// A rate, with as many digits as it deserves.
fn rate(per_second: f64) -> String {
    if per_second < 100.0 {
        format!("{per_second:.1}")
    } else {
        grouped(per_second.round() as u64)
    }
}

/// A report, for people.
pub struct Told {
    pub heading: String,
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    /// How many columns at the left are names.
    pub names: usize,
    pub lines: Vec<String>,
}

/// What was done, in two lines.
fn heading(plan: &Plan, measured: &Measured) -> String {
    let nodes = plan.authorities.len();
    let pace = match plan.rate {
        None => "closed loop".to_owned(),
        Some(rate_asked) => format!(
            "open loop, {} a second ({})",
            rate(rate_asked.per_second),
            rate_asked.arrivals.name()
        ),
    };
    let keys = if plan.workload.needs_items(plan.conflicts) {
        format!(
            "{} keys, {}; ",
            grouped(plan.keys),
            plan.distribution.name()
        )
    } else {
        String::new()
    };
    let conflicts = if plan.conflicts > 0.0 {
        format!("{} % of writes blind; ", plan.conflicts * 100.0)
    } else {
        String::new()
    };
    format!(
        "{}, workload {}: {}, {:.1} s after {} s of warm-up{}\n{keys}{conflicts}{} bytes; {} connections to {nodes} node{}, {pace}; seed {}",
        plan.table,
        plan.workload.name(),
        plan.workload.describe(),
        measured.lasted_s,
        plan.warmup.as_secs_f64(),
        if measured.ended_early {
            " (ended early)"
        } else {
            ""
        },
        grouped(plan.value_bytes as u64),
        grouped(plan.connections as u64),
        if nodes == 1 { "" } else { "s" },
        plan.seed,
    )
}

/// The whole report, for people.
pub fn tell(plan: &Plan, measured: &Measured, members: usize) -> Told {
    let mut rows = Vec::new();
    for operation in Operation::ALL {
        let mut name = operation.name();
        for outcome in Outcome::ALL {
            let Some(latencies) = measured.record.latencies_us(operation, outcome) else {
                continue;
            };
            let mut row = vec![
                name.to_owned(),
                outcome.name().to_owned(),
                grouped(latencies.len()),
                rate(latencies.len() as f64 / measured.lasted_s),
            ];
            row.extend(
                QUANTILES
                    .iter()
                    .map(|(_, _, at)| duration(latencies.value_at_quantile(*at) as f64)),
            );
            row.push(duration(latencies.max() as f64));
            rows.push(row);
            // Once for all of its outcomes.
            name = "";
        }
    }
    let mut header = vec!["operation", "answer", "count", "a second"];
    header.extend(QUANTILES.iter().map(|(name, _, _)| *name));
    header.push("max");
    Told {
        heading: heading(plan, measured),
        header,
        rows,
        names: 2,
        lines: lines(plan, measured, members),
    }
}

/// What is no latency.
fn lines(plan: &Plan, measured: &Measured, members: usize) -> Vec<String> {
    let record = &measured.record;
    let answered = record.steps(Outcome::is_answer);
    let failed = record.steps(|outcome| !outcome.is_answer());
    let mut lines = vec![format!(
        "in all   {} operations a second answered, {} failed",
        rate(answered as f64 / measured.lasted_s),
        grouped(failed),
    )];
    if let Some(due) = &measured.due {
        lines.push(format!(
            "due      {} requests, of which {} were never sent",
            grouped(due.requests),
            grouped(due.crowded_out + due.left)
        ));
        if let Some(late) = record.late_us() {
            let at = |quantile| duration(late.value_at_quantile(quantile) as f64);
            lines.push(format!(
                "waited   {} (p50), {} (p99) from when they were due until they were sent; latencies include it",
                at(0.5),
                at(0.99)
            ));
        }
    }
    let each = |cpu_s: f64| match answered + failed {
        0 => "no operation".to_owned(),
        operations => format!(
            "{} CPU an operation",
            duration(cpu_s * 1e6 / operations as f64)
        ),
    };
    if let Some(client_cpu_s) = measured.client_cpu_s {
        lines.push(format!(
            "client   {:.2} cores, in {} thread{}; {}",
            cores(client_cpu_s, measured),
            plan.threads,
            if plan.threads == 1 { "" } else { "s" },
            each(client_cpu_s),
        ));
    }
    if !measured.servers_cpu_s.is_empty() {
        let parts: Vec<String> = measured
            .servers_cpu_s
            .iter()
            .map(|(pid, cpu_s)| match cpu_s {
                Some(cpu_s) => format!("{pid}: {:.2} cores", cores(*cpu_s, measured)),
                None => format!("{pid}: ended"),
            })
            .collect();
        let whole = servers_cpu_s(measured).map_or_else(
            || "not all are there any more".to_owned(),
            |total_s| format!("{:.2} cores; {}", cores(total_s, measured), each(total_s)),
        );
        lines.push(format!("servers  {whole} ({})", parts.join(", ")));
    }
    if let Some(failure) = &record.first_failure {
        lines.push(format!("failure  the first said: {failure}"));
    }
    lines.extend(
        notes(plan, measured, members)
            .iter()
            .map(|note| format!("note     {note}")),
    );
    lines
}

/// What all processes that were named took, if all are there still.
fn servers_cpu_s(measured: &Measured) -> Option<f64> {
    measured.servers_cpu_s.iter().map(|(_, cpu_s)| *cpu_s).sum()
}

fn cores(cpu_s: f64, measured: &Measured) -> f64 {
    if measured.cpu_span_s > 0.0 {
        cpu_s / measured.cpu_span_s
    } else {
        0.0
    }
}

/// What may mislead, and what to do about it.
fn notes(plan: &Plan, measured: &Measured, members: usize) -> Vec<String> {
    let record = &measured.record;
    let mut notes = Vec::new();
    let busy = measured
        .client_cpu_s
        .map_or(0.0, |client_cpu_s| cores(client_cpu_s, measured));
    if busy > BUSY_SHARE * plan.threads as f64 {
        notes.push(format!(
            "the client itself was busy all the time: give it --threads {}, or run it on a machine of its own",
            plan.threads * 2
        ));
    }
    if plan.authorities.len() < members {
        notes.push(format!(
            "only {} of {members} nodes were asked: name the others too with --server A,B,C",
            plan.authorities.len()
        ));
    }
    let siblings = record.steps(|outcome| outcome == Outcome::Siblings);
    if siblings > 0 {
        let why = if plan.conflicts > 0.0 {
            "as --conflicts asks for"
        } else if !plan.workload.remembers_contexts() {
            "earlier runs left them, or two writes met; loading again resolves them"
        } else {
            "connections that write one item without having seen each other's writes make them; --contexts shared has all of them know what any knows"
        };
        notes.push(format!(
            "{} operations met siblings that nobody folded: {why}",
            grouped(siblings)
        ));
    }
    if record.retry_after_s > 0 {
        notes.push(format!(
            "refusals said to wait {} s; the load does not heed it, as careless clients do not",
            record.retry_after_s
        ));
    }
    let absent = record.steps(|outcome| outcome == Outcome::Absent);
    if absent > 0 {
        notes.push(format!(
            "{} reads found nothing: were as many keys loaded as --keys says?",
            grouped(absent)
        ));
    }
    if let Some(due) = &measured.due {
        if due.crowded_out > 0 {
            notes.push(format!(
                "{} requests found {} waiting already and were not sent: the rate is more than the cluster and {} connections carry",
                grouped(due.crowded_out),
                grouped(MAX_WAITING as u64),
                plan.connections
            ));
        }
        let late_us = record
            .late_us()
            .map_or(0, |late| late.value_at_quantile(0.99));
        if late_us > LATE_US {
            notes.push(
                "requests waited to be sent: no connection was free, or this machine was too busy to send; try more --connections, or another machine"
                    .to_owned(),
            );
        }
    }
    notes
}

/// A second, as it goes by.
pub fn tell_second(second: &Second) -> String {
    let mut text = format!(
        "{:>5.0} s  {:>9}/s",
        second.at_s.round(),
        rate(second.per_second())
    );
    for (operation, quantiles) in &second.operations {
        text.push_str(&format!(
            "   {} p50 {} p99 {}",
            operation.name(),
            duration(quantiles.p50_us as f64),
            duration(quantiles.p99_us as f64)
        ));
    }
    if second.siblings > 0 {
        text.push_str(&format!("   siblings {}", grouped(second.siblings)));
    }
    text.push_str(&format!("   failed {}", grouped(second.failed)));
    text
}

/// What the load phase came to.
pub fn tell_loaded(loaded: &Loaded) -> String {
    let per_second = (loaded.written + loaded.kept) as f64 / loaded.took_s.max(1e-9);
    format!(
        "loaded {} items in {:.1} s ({} a second); {} were there already",
        grouped(loaded.written),
        loaded.took_s,
        rate(per_second),
        grouped(loaded.kept)
    )
}

/// What the load phase came to, for scripts.
pub fn loaded_to_json(loaded: &Loaded) -> Value {
    json!({
        "written": loaded.written,
        "there_already": loaded.kept,
        "seconds": loaded.took_s,
    })
}

/// What was done, for scripts.
pub fn config_to_json(plan: &Plan) -> Value {
    json!({
        "servers": plan.authorities,
        "table": plan.table,
        "workload": plan.workload.name(),
        "distribution": plan.distribution.name(),
        "keys": plan.keys,
        "value_bytes": plan.value_bytes,
        "connections": plan.connections,
        "threads": plan.threads,
        "seconds": plan.seconds.as_secs_f64(),
        "warmup_seconds": plan.warmup.as_secs_f64(),
        "loop": if plan.rate.is_some() { "open" } else { "closed" },
        "rate": plan.rate.map(|rate| rate.per_second),
        "arrivals": plan.rate.map(|rate| rate.arrivals.name()),
        "conflicts": plan.conflicts,
        "contexts": if plan.shares_contexts { "shared" } else { "connection" },
        "query": plan.query,
        "seed": plan.seed,
        "run": plan.run,
    })
}

fn latencies_to_json(latencies: &Histogram<u64>) -> Value {
    let mut document = Map::new();
    for (_, key, at) in QUANTILES {
        document.insert(key.to_owned(), json!(latencies.value_at_quantile(at)));
    }
    document.insert("max".to_owned(), json!(latencies.max()));
    document.insert("mean".to_owned(), json!(latencies.mean()));
    Value::Object(document)
}

fn operations_to_json(measured: &Measured) -> Value {
    let mut operations = Map::new();
    for operation in Operation::ALL {
        let mut outcomes = Map::new();
        let mut count = 0;
        for outcome in Outcome::ALL {
            let Some(latencies) = measured.record.latencies_us(operation, outcome) else {
                continue;
            };
            count += latencies.len();
            let ended = json!({
                "count": latencies.len(),
                "per_second": latencies.len() as f64 / measured.lasted_s,
                "latency_us": latencies_to_json(latencies),
            });
            outcomes.insert(outcome.key().to_owned(), ended);
        }
        if count > 0 {
            let whole = json!({
                "count": count,
                "per_second": count as f64 / measured.lasted_s,
                "outcomes": outcomes,
            });
            operations.insert(operation.key().to_owned(), whole);
        }
    }
    Value::Object(operations)
}

fn second_to_json(second: &Second) -> Value {
    let operations: Map<String, Value> = second
        .operations
        .iter()
        .map(|(operation, quantiles)| {
            let figures = json!({
                "ok": quantiles.count,
                "p50_us": quantiles.p50_us,
                "p99_us": quantiles.p99_us,
            });
            (operation.key().to_owned(), figures)
        })
        .collect();
    json!({
        "at_seconds": second.at_s,
        "per_second": second.per_second(),
        "answered": second.answered,
        "siblings": second.siblings,
        "failed": second.failed,
        "operations": operations,
    })
}

/// The whole report, for scripts.
pub fn to_json(plan: &Plan, loaded: Option<&Loaded>, measured: &Measured, members: usize) -> Value {
    let record = &measured.record;
    let answered = record.steps(Outcome::is_answer);
    let operations = record.steps(|_| true);
    let each_us = |cpu_s: f64| (operations > 0).then(|| cpu_s * 1e6 / operations as f64);
    let open_loop = measured.due.map(|due| {
        json!({
            "due": due.requests,
            "sent": operations,
            "unsent": {"backlog_full": due.crowded_out, "not_before_the_end": due.left},
            "waited_us": record.late_us().map(latencies_to_json),
        })
    });
    let servers = (!measured.servers_cpu_s.is_empty()).then(|| {
        let total_s = servers_cpu_s(measured);
        let each: Vec<Value> = measured
            .servers_cpu_s
            .iter()
            .map(|(pid, cpu_s)| json!({"pid": pid, "cpu_seconds": cpu_s}))
            .collect();
        json!({
            "processes": each,
            "cpu_seconds": total_s,
            "cores": total_s.map(|total_s| cores(total_s, measured)),
            "cpu_us_per_operation": total_s.and_then(each_us),
        })
    });
    json!({
        "config": config_to_json(plan),
        "loaded": loaded.map(loaded_to_json),
        "ended_early": measured.ended_early,
        "seconds": measured.lasted_s,
        "total": {
            "count": operations,
            "answered": answered,
            "failed": operations - answered,
            "per_second": answered as f64 / measured.lasted_s,
            "first_failure": record.first_failure,
            "retry_after_seconds": record.retry_after_s,
        },
        "operations": operations_to_json(measured),
        "open_loop": open_loop,
        "timeline": measured.timeline.iter().map(second_to_json).collect::<Vec<_>>(),
        "client": {
            "threads": plan.threads,
            "cpu_seconds": measured.client_cpu_s,
            "cores": measured.client_cpu_s.map(|client_cpu_s| cores(client_cpu_s, measured)),
            "cpu_us_per_operation": measured.client_cpu_s.and_then(each_us),
        },
        "servers": servers,
        "notes": notes(plan, measured, members),
    })
}

#[cfg(test)]
pub(super) mod tests;
