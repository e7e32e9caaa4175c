//! `kinfold reconciler list`: the modules there are, and who folds with them.

use serde_json::Value;

use super::super::Common;
use super::super::error::{CliError, expect_success};
use super::super::output::{self, cell};
use super::{laws, short_digest};

pub async fn run(common: &Common) -> Result<(), CliError> {
    let output = common.output();
    let client = common.client()?;
    let answer: Value = expect_success(client.get("/v1/reconcilers").await?)?.json()?;
    if output.json {
        return output.json(&answer);
    }
    let rows = output::list(&answer, "reconcilers")
        .iter()
        .map(|module| {
            let tables: Vec<String> = output::list(module, "tables").iter().map(cell).collect();
            vec![
                cell(&module["name"]),
                cell(&module["kind"]),
                short_digest(&module["digest"]),
                output::list(module, "versions").len().to_string(),
                laws(&module["laws"]),
                health(&module["health"]),
                tables.join(" "),
            ]
        })
        .collect();
    output.table(
        &[
            "reconciler",
            "kind",
            "current",
            "versions",
            "laws",
            "here",
            "tables",
        ],
        rows,
    )
}

/// How it fares on the node that answers, in a few words.
fn health(health: &Value) -> String {
    match (&health["quarantined_since"], &health["failures"]) {
        (Value::String(_), _) => "QUARANTINED".to_owned(),
        (_, Value::Number(failures)) if failures.as_u64() != Some(0) => {
            format!("{failures} failures")
        }
        _ => "ok".to_owned(),
    }
}
