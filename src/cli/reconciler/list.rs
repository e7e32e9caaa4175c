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
                laws(&module["laws"]),
                tables.join(" "),
            ]
        })
        .collect();
    output.table(&["reconciler", "kind", "digest", "laws", "tables"], rows)
}
