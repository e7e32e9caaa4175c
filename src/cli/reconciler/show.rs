//! `kinfold reconciler show`: a module, the versions that it had, what was done to
//! it, and how it fares on the node that answers.

use clap::Args;
use serde_json::Value;

use super::super::Common;
use super::super::error::{CliError, expect_success};
use super::super::output::{self, cell};
use super::{laws, path, short_digest};

#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The module's name
    name: String,
}

/// How many of the last changes people are shown; `--json` has all.
const SHOWN_CHANGES: usize = 10;

pub async fn run(common: &Common, args: ShowArgs) -> Result<(), CliError> {
    let output = common.output();
    let client = common.client()?;
    let answer: Value = expect_success(client.get(&path(&args.name)).await?)?.json()?;
    if output.json {
        return output.json(&answer);
    }
    for line in summary(&answer) {
        output.line(&line)?;
    }
    output.line("")?;
    let versions = output::list(&answer, "versions")
        .iter()
        .rev()
        .map(version)
        .collect();
    output.table(
        &[
            "",
            "version",
            "uploaded",
            "on",
            "bytes",
            "laws",
            "pinned by",
        ],
        versions,
    )?;
    let history = output::list(&answer, "history");
    if history.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let changes = history
        .iter()
        .rev()
        .take(SHOWN_CHANGES)
        .map(|change| {
            vec![
                when(&change["at"]),
                cell(&change["node"]),
                cell(&change["deed"]),
                short_digest(&change["digest"]),
            ]
        })
        .collect();
    output.table(&["when", "on", "what", "version"], changes)
}

/// A time to the second, without the letters between.
fn when(time: &Value) -> String {
    match time.as_str().and_then(|text| text.split_once('T')) {
        Some((day, time)) => {
            let seconds = time.split(['.', 'Z']).next().unwrap_or(time);
            format!("{day} {seconds}")
        }
        None => cell(time),
    }
}

/// The lines above the tables.
fn summary(answer: &Value) -> Vec<String> {
    let tables: Vec<String> = output::list(answer, "tables").iter().map(cell).collect();
    let used = match tables.is_empty() {
        true => "no table uses it".to_owned(),
        false => format!("folds {}", tables.join(", ")),
    };
    let health = &answer["health"];
    let mut lines = vec![
        format!(
            "{} ({}), {used}",
            cell(&answer["name"]),
            cell(&answer["kind"])
        ),
        format!(
            "current {}, {}",
            short_digest(&answer["digest"]),
            laws(&answer["laws"])
        ),
        format!(
            "here    {} runs, {} failed, {} spared, {} items fail",
            cell(&health["folds"]),
            cell(&health["failures"]),
            cell(&health["spared"]),
            cell(&health["failing_items"]),
        ),
    ];
    let failure = &health["last_failure"];
    if failure.is_object() {
        lines.push(format!(
            "failed  {} UTC: {} ({})",
            when(&failure["at"]),
            cell(&failure["error"]),
            cell(&failure["item"])
        ));
    }
    if health["quarantined_since"].is_string() {
        let back = match answer["previous"].is_string() {
            true => "`kinfold reconciler rollback` goes back",
            false => "push a version that works",
        };
        lines.push(format!(
            "QUARANTINED on this node since {} UTC: siblings are served unfolded; {back}",
            when(&health["quarantined_since"])
        ));
    }
    lines
}

fn version(module: &Value) -> Vec<String> {
    let mark = if module["current"] == true { "*" } else { "" };
    let pins: Vec<String> = output::list(module, "pinned_by").iter().map(cell).collect();
    let uploaded = match (&module["uploaded_at"], &module["built_in"]) {
        (Value::Null, Value::Bool(true)) => "built in".to_owned(),
        (time, _) => when(time),
    };
    vec![
        mark.to_owned(),
        short_digest(&module["digest"]),
        uploaded,
        cell(&module["uploaded_on"]),
        cell(&module["size_bytes"]),
        laws(&module["laws"]),
        pins.join(" "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_matters_is_said_first() {
        let answer = json!({
            "name": "mine", "kind": "reconciler", "digest": "sha256:7692c3ad3540bb",
            "laws": {"verdict": "unchecked"}, "tables": ["carts"], "previous": "sha256:00",
            "health": {
                "folds": 9, "failures": 8, "spared": 70, "failing_items": 8,
                "quarantined_since": "2026-11-22T03:04:05.000001Z",
                "last_failure": {
                    "error": "ran out of fuel", "at": "2026-11-22T03:04:05.000000Z",
                    "item": "/v1/tables/carts/items/alice",
                },
            },
        });
        assert_eq!(
            summary(&answer),
            [
                "mine (reconciler), folds carts",
                "current 7692c3ad3540, unchecked",
                "here    9 runs, 8 failed, 70 spared, 8 items fail",
                "failed  2026-11-22 03:04:05 UTC: ran out of fuel (/v1/tables/carts/items/alice)",
                "QUARANTINED on this node since 2026-11-22 03:04:05 UTC: siblings are served \
                 unfolded; `kinfold reconciler rollback` goes back",
            ]
        );
    }
}
