//! `kinfold delete`: deletes an item.

use std::ffi::OsString;

use clap::Args;
use serde_json::json;

use super::Common;
use super::error::{CliError, expect_success};
use super::item::{ContextArgs, ItemName, QuorumArgs};
use crate::client::Request;

const EXAMPLES: &str = "\
Without a context, what a quorum read sees is deleted. A write that happens at the
same time survives beside the deletion, as a sibling.

Examples:
  kinfold delete profiles alice
  kinfold delete profiles alice --context-file ctx";

/// Deletes an item
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DeleteArgs {
    table: String,
    /// The partition key: any bytes
    key: OsString,
    /// The sort key, in tables that have them
    sort_key: Option<OsString>,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    quorum: QuorumArgs,
}

pub async fn run(common: &Common, args: DeleteArgs) -> Result<(), CliError> {
    let output = common.output();
    let name = ItemName {
        table: args.table,
        partition_key: args.key,
        sort_key: args.sort_key,
    };
    let request = args.quorum.apply(Request::delete(name.path()));
    let request = args.context.apply(request)?;
    let client = common.client_for(args.quorum.timeout_ms)?;
    let reply = expect_success(client.send(request).await?)?;
    args.context.remember(&reply)?;
    if output.json {
        output.json(&json!({ "context": reply.context() }))
    } else {
        output.note(&format!("deleted {}", name.shown()))
    }
}
