//! `kinfold reconciler dry-run`: what a module would make of what a table stores,
//! before it is live.
//!
//! Promises: nothing is changed anywhere; the exit code is 0 only when clients
//! would get the same of every item that was tried, and 7 (`EXIT_DIFFERS`) when they
//! would not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::super::Common;
use super::super::error::{CliError, expect_success};
use super::super::item;
use super::super::output::{Output, cell, decode, list, preview};
use super::{laws, short_digest};
use crate::client::{Request, segment};

pub const EXAMPLES: &str = "\
Nothing is changed, and a file is kept nowhere. What is stored as siblings is folded with
the module and with the table's present one; differences are shown side by side, with a
mark (≠) where they lie. For a data type, every state that is stored must be readable.

Examples:
  kinfold reconciler dry-run my_merge.wasm --table carts
  kinfold reconciler dry-run cart-union --table wishes --limit 100
  kinfold reconciler dry-run sha256:4c5f… --table wishes --json

Exit codes: 0 the same everywhere, 6 something differs, fails, or cannot be read.";

/// How long nothing may come from the node: it tells how far it is several times
/// a second, once both modules are compiled.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many lines of a value are shown.
const MAX_LINES: usize = 24;

#[derive(Args, Debug)]
pub struct DryRunArgs {
    /// A module's file, a reconciler's name, or a digest (sha256:…) that one had
    module: String,
    /// The table to try it on
    #[arg(long)]
    table: String,
    /// How many items to try at most [default: 1000]
    #[arg(long)]
    limit: Option<u64>,
}

/// What is tried, by how it is written.
enum Module {
    File(PathBuf),
    Digest(String),
    Name(String),
}

impl Module {
    fn of(text: String) -> Self {
        let path = Path::new(&text);
        let is_file = path.is_file()
            || path
                .extension()
                .is_some_and(|extension| extension == "wasm")
            || text.contains(std::path::MAIN_SEPARATOR);
        if is_file {
            Module::File(path.to_owned())
        } else if text.starts_with("sha256:") {
            Module::Digest(text)
        } else {
            Module::Name(text)
        }
    }
}

pub async fn run(common: &Common, args: DryRunArgs) -> Result<(), CliError> {
    let output = common.output();
    let client = common.client()?;
    let path = format!("/v1/tables/{}/dry-run", segment(args.table.as_bytes()));
    let shown = args.module.clone();
    let mut body = json!({});
    if let Some(limit) = args.limit {
        body["limit"] = json!(limit);
    }
    let request = match Module::of(args.module) {
        Module::File(file) => {
            let bytes = item::read_input(Some(&file))?;
            let request = Request::post(path, bytes).content_type("application/wasm")?;
            match args.limit {
                Some(limit) => request.query("limit", &limit.to_string()),
                None => request,
            }
        }
        Module::Digest(digest) => {
            body["digest"] = json!(digest);
            Request::post(path, body.to_string()).content_type("application/json")?
        }
        Module::Name(name) => {
            body["reconciler"] = json!(name);
            Request::post(path, body.to_string()).content_type("application/json")?
        }
    };
    let request = request.header(hyper::header::ACCEPT, "application/x-ndjson")?;
    // Hidden by itself where standard error is no terminal.
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} [{bar:32}] {pos}/{len} partitions, {elapsed}")
    {
        bar.set_style(style.progress_chars("█▌ "));
    }
    let mut last = Value::Null;
    let mut broken = None;
    let reply = client
        .lines(request, PATIENCE, |line| {
            match serde_json::from_slice::<Value>(line) {
                Ok(event) if event["event"] == "progress" => follow(&bar, &event),
                Ok(event) => last = event,
                Err(source) => broken = Some(source),
            }
        })
        .await;
    bar.finish_and_clear();
    expect_success(reply?)?;
    if let Some(source) = broken {
        return Err(crate::client::ClientError::NotJson { source }.into());
    }
    match last["event"].as_str() {
        Some("report") => {}
        Some("error") => return Err(CliError::refused_late(&last["problem"])),
        _ => return Err(CliError::CutShort),
    }
    let report = &last["report"];
    if output.json {
        output.json(report)?;
    } else {
        show(&output, report, &shown)?;
    }
    verdict(report, &args.table)
}

fn follow(bar: &ProgressBar, event: &Value) {
    let figure = |key: &str| event[key].as_u64().unwrap_or_default();
    bar.set_length(figure("partitions"));
    bar.set_position(figure("partitions_done"));
    bar.set_message(match event["stage"].as_str() {
        Some("laws") => "checking the laws".to_owned(),
        _ => format!("{} of {} items tried", figure("tried"), figure("found")),
    });
}

/// How it ended, for scripts and in a line.
fn verdict(report: &Value, table: &str) -> Result<(), CliError> {
    let figure = |key: &str| report[key].as_u64().unwrap_or_default();
    let parts: Vec<String> = [
        ("different", "differ"),
        ("failed", "fail"),
        ("unresolved", "are not decided"),
        ("unreadable", "cannot be read"),
    ]
    .into_iter()
    .filter(|(key, _)| figure(key) > 0)
    .map(|(key, words)| format!("{} {words}", figure(key)))
    .collect();
    if parts.is_empty() {
        return Ok(());
    }
    Err(CliError::Differs {
        table: table.to_owned(),
        what: parts.join(", "),
        tried: figure("sibling_sets") + figure("states"),
    })
}

fn show(output: &Output, report: &Value, shown: &str) -> Result<(), CliError> {
    let candidate = &report["candidate"];
    let stored = if candidate["stored"] == true {
        ""
    } else {
        ", kept nowhere"
    };
    output.line(&format!(
        "candidate  {shown} {} ({}{stored}): {}",
        short_digest(&candidate["digest"]),
        cell(&candidate["kind"]),
        laws(&candidate["laws"]),
    ))?;
    let present = match &report["present"] {
        Value::Null => "none: clients get the siblings".to_owned(),
        present => format!(
            "{} {} ({})",
            cell(&present["name"]),
            short_digest(&present["digest"]),
            cell(&present["kind"])
        ),
    };
    output.line(&format!("present    {present}"))?;
    let replicas: Vec<String> = list(report, "replicas")
        .iter()
        .map(|replica| {
            format!(
                "{} {}",
                cell(&replica["node"]),
                cell(&replica["partitions"])
            )
        })
        .collect();
    output.line(&format!(
        "read       {} items in {} of {} partitions (by replica: {}), {} ms",
        cell(&report["items"]),
        cell(&report["partitions"]["read"]),
        cell(&report["partitions"]["all"]),
        replicas.join(", "),
        cell(&report["elapsed_ms"]),
    ))?;
    for note in list(report, "notes") {
        output.line(&format!("note       {}", cell(note)))?;
    }
    output.line("")?;
    let mut row = vec![cell(&report["sibling_sets"]), cell(&report["states"])];
    for key in ["same", "different", "failed", "unresolved", "unreadable"] {
        row.push(cell(&report[key]));
    }
    let header = [
        "sibling sets",
        "single states",
        "same",
        "different",
        "failed",
        "undecided",
        "unreadable",
    ];
    output.table(&header, vec![row])?;
    let newly = report["newly_folded"].as_u64().unwrap_or_default();
    if newly > 0 {
        output.line(&format!(
            "{newly} of the different ones reach clients as siblings now, and would be folded."
        ))?;
    }
    costs(output, report)?;
    failures(output, report)?;
    for (key, title) in [
        ("differences", "Different"),
        ("failed_examples", "Failed"),
        ("unresolved_examples", "Undecided"),
        ("unreadable_examples", "Unreadable"),
    ] {
        side_by_side(output, title, list(report, key))?;
    }
    Ok(())
}

fn costs(output: &Output, report: &Value) -> Result<(), CliError> {
    let rows: Vec<Vec<String>> = ["present", "candidate"]
        .into_iter()
        .map(|side| (side, &report["costs"][side]))
        .filter(|(_, costs)| costs["calls"].as_u64() > Some(0))
        .map(|(side, costs)| {
            let mut row = vec![side.to_owned(), cell(&costs["calls"])];
            for measure in ["fuel", "time_us"] {
                for at in ["p50", "p99", "max"] {
                    row.push(cell(&costs[measure][at]));
                }
            }
            row
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let header = [
        "module", "calls", "fuel p50", "p99", "max", "µs p50", "p99", "max",
    ];
    output.table(&header, rows)
}

fn failures(output: &Output, report: &Value) -> Result<(), CliError> {
    let rows: Vec<Vec<String>> = list(report, "failures")
        .iter()
        .map(|one| {
            vec![
                cell(&one["count"]),
                cell(&one["reason"]),
                cell(&one["fuel_max"]),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    output.line("")?;
    output.table(&["times", "why the candidate fails", "fuel, at most"], rows)
}

fn side_by_side(output: &Output, title: &str, examples: &[Value]) -> Result<(), CliError> {
    if examples.is_empty() {
        return Ok(());
    }
    output.line(&format!("\n{title}"))?;
    let rows = examples
        .iter()
        .map(|one| {
            let mut name = cell(&one["key"]);
            if let Some(sort_key) = one["sort_key"].as_str() {
                name = format!("{name}/{sort_key}");
            }
            let siblings: Vec<String> = list(one, "siblings").iter().map(brief).collect();
            let (present, candidate) = (&one["present"], &one["candidate"]);
            vec![
                name,
                siblings.join("\n"),
                side(present, candidate),
                side(candidate, present),
            ]
        })
        .collect();
    output.table(&["item", "siblings", "present", "candidate"], rows)
}

/// A sibling in a line.
fn brief(sibling: &Value) -> String {
    let value = match &sibling["value"] {
        Value::Null => "deleted".to_owned(),
        Value::String(text) if sibling["value_base64"] == true => match decode(text) {
            Some(bytes) => preview(&bytes),
            None => "not base64".to_owned(),
        },
        value => preview(value.to_string().as_bytes()),
    };
    format!("{}: {value}", cell(&sibling["node"]))
}

/// One result, with marks where the other one is not the same.
fn side(mine: &Value, other: &Value) -> String {
    match mine["outcome"].as_str() {
        Some("value") if mine["value_base64"] == true => {
            let bytes = mine["value"].as_str().and_then(decode);
            preview(&bytes.unwrap_or_default())
        }
        Some("value") => {
            let mut lines = Vec::new();
            let is_json = other["outcome"] == "value" && other["value_base64"] == false;
            let theirs = match is_json {
                true => Other::Has(&other["value"]),
                false => Other::None,
            };
            pretty(&mine["value"], theirs, "", 0, &mut lines);
            if lines.len() > MAX_LINES {
                let left = lines.len() - MAX_LINES;
                lines.truncate(MAX_LINES);
                lines.push(format!("  … {left} lines more"));
            }
            if is_json && mine["content_type"] != other["content_type"] {
                lines.push(format!("≠ {}", cell(&mine["content_type"])));
            }
            lines.join("\n")
        }
        Some("failed") => format!("failed: {}", cell(&mine["reason"])),
        Some("siblings") => "siblings".to_owned(),
        Some("unresolved") => "siblings: the module declines".to_owned(),
        Some(outcome) => outcome.to_owned(),
        None => "-".to_owned(),
    }
}

/// What the other side has in a place.
#[derive(Clone, Copy)]
enum Other<'a> {
    /// There is no other side to compare with.
    None,
    /// It has nothing in this place.
    Lacks,
    Has(&'a Value),
}

/// Pretty-prints JSON, each line marked that is not the same on the other side.
fn pretty(value: &Value, other: Other<'_>, name: &str, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    let mut line = |differs: bool, text: String| {
        let mark = if differs { "≠ " } else { "  " };
        lines.push(format!("{mark}{indent}{text}"));
    };
    let differs = |alike: &dyn Fn(&Value) -> bool| match other {
        Other::None => false,
        Other::Lacks => true,
        Other::Has(theirs) => !alike(theirs),
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            line(differs(&Value::is_object), format!("{name}{{"));
            for (key, field) in fields {
                let theirs = match other {
                    Other::None => Other::None,
                    Other::Has(theirs) => theirs.get(key).map_or(Other::Lacks, Other::Has),
                    Other::Lacks => Other::Lacks,
                };
                pretty(field, theirs, &format!("{key}: "), depth + 1, lines);
            }
            lines.push(format!("  {indent}}}"));
        }
        Value::Array(elements) if !elements.is_empty() => {
            line(differs(&Value::is_array), format!("{name}["));
            for element in elements {
                // What one list has and the other has not, wherever it stands.
                let theirs = match other {
                    Other::None => Other::None,
                    Other::Has(Value::Array(theirs)) if theirs.contains(element) => {
                        Other::Has(element)
                    }
                    _ => Other::Lacks,
                };
                pretty(element, theirs, "", depth + 1, lines);
            }
            lines.push(format!("  {indent}]"));
        }
        scalar => line(
            differs(&|theirs| theirs == scalar),
            format!("{name}{scalar}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(mine: Value, other: Value) -> String {
        let mut lines = Vec::new();
        pretty(&mine, Other::Has(&other), "", 0, &mut lines);
        lines.join("\n")
    }

    #[test]
    fn what_differs_is_marked_and_nothing_else() {
        let mine = json!({"apple": 2, "pear": 1, "tags": ["a", "b"]});
        let other = json!({"apple": 3, "tags": ["b"]});
        assert_eq!(
            marked(mine.clone(), other.clone()),
            "  {\n≠   apple: 2\n≠   pear: 1\n    tags: [\n≠     \"a\"\n      \"b\"\n    ]\n  }"
        );
        assert!(!marked(mine.clone(), mine.clone()).contains('≠'));
        assert_eq!(marked(json!(3), json!(4)), "≠ 3");
        assert_eq!(
            marked(json!({"a": null}), json!({})),
            "  {\n≠   a: null\n  }"
        );
        assert_eq!(marked(json!([1]), json!({"a": 1})), "≠ [\n≠   1\n  ]");
    }

    #[test]
    fn sides_are_said_in_words() {
        let value = json!({"outcome": "value", "value": {"a": 1}, "value_base64": false,
            "content_type": "application/json"});
        let failed = json!({"outcome": "failed", "reason": "ran out of fuel (limit 5)"});
        assert_eq!(side(&failed, &value), "failed: ran out of fuel (limit 5)");
        assert_eq!(side(&value, &failed), "  {\n    a: 1\n  }");
        let bytes = json!({"outcome": "value", "value": "aGk=", "value_base64": true});
        assert_eq!(side(&bytes, &failed), "hi");
        assert_eq!(side(&json!({"outcome": "deleted"}), &value), "deleted");
    }

    #[test]
    fn only_the_same_everywhere_is_a_success() {
        let report = json!({"sibling_sets": 3, "states": 0, "same": 3, "different": 0});
        assert!(verdict(&report, "carts").is_ok());
        for key in ["different", "failed", "unresolved", "unreadable"] {
            let mut report = report.clone();
            report[key] = json!(1);
            let error = verdict(&report, "carts").expect_err("not the same");
            assert_eq!(error.exit_code(), 7);
        }
    }
}
