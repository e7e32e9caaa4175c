//! `kinfold op`: applies an operation to an item of a data-type table.

use std::ffi::OsString;

use clap::Args;

use super::Common;
use super::error::{CliError, expect_success};
use super::item::{self, ItemName, QuorumArgs};
use crate::client::Request;

const EXAMPLES: &str = "\
Prints what the item is now. With --json: the same fields as `get --json`.

Examples:
  kinfold op carts alice '{\"add\":\"apple\",\"quantity\":2}'
  kinfold op carts alice '{\"remove\":\"apple\"}'
  kinfold op counters visits '{\"add\":1}'";

/// Applies an operation to an item of a data-type table
#[derive(Args, Debug)]
#[command(
    after_help = EXAMPLES,
    override_usage = "kinfold op [OPTIONS] TABLE KEY [SORT_KEY] JSON"
)]
pub struct OpArgs {
    table: String,
    /// The partition key: any bytes
    key: OsString,
    /// The sort key, in tables that have them, and the operation; - reads the
    /// operation from standard input
    #[arg(value_name = "SORT_KEY] [JSON", num_args = 1..=2, required = true)]
    rest: Vec<OsString>,
    #[command(flatten)]
    quorum: QuorumArgs,
}

pub async fn run(common: &Common, args: OpArgs) -> Result<(), CliError> {
    let output = common.output();
    let mut rest = args.rest;
    let operation = match rest.pop() {
        Some(dash) if dash == "-" => item::read_input(None)?,
        Some(operation) => operation.into_encoded_bytes(),
        None => return Err(CliError::Usage("there is no operation".to_owned())),
    };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&operation) {
        return Err(CliError::Usage(format!(
            "the operation is not JSON: {error}"
        )));
    }
    let name = ItemName {
        table: args.table,
        partition_key: args.key,
        sort_key: rest.pop(),
    };
    let path = format!("{}/operations", name.path());
    let request = Request::post(path, operation).content_type("application/json")?;
    let client = common.client_for(args.quorum.timeout_ms)?;
    let reply = expect_success(client.send(args.quorum.apply(request)).await?)?;
    item::print_value(&output, &reply)
}
