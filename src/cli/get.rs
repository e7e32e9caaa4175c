//! `kinfold get`: reads an item, or its siblings.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::Common;
use super::error::{CliError, expect_success};
use super::explain;
use super::item::{self, ItemName, QuorumArgs};
use super::output::{Output, cell, decode, list, preview};
use crate::client::{Reply, Request};

const EXAMPLES: &str = "\
The value's bytes go to standard output as they are. With --json: value (base64),
json (the value, where it is JSON), content_type, context, etag, siblings, reconciler.
--explain says which replicas answered, which siblings went into the answer, and what the
module did with them; it succeeds whatever a plain read would say.

Examples:
  kinfold get profiles alice > alice.json
  kinfold get raw note --siblings
  kinfold get carts alice --explain --r all
  kinfold get profiles alice --context-file ctx && kinfold put profiles alice '{}' --context-file ctx";

/// Reads an item
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct GetArgs {
    table: String,
    /// The partition key: any bytes
    key: OsString,
    /// The sort key, in tables that have them
    sort_key: Option<OsString>,
    /// Show every sibling as it is stored, whatever the reconciler
    #[arg(long)]
    siblings: bool,
    /// Tell how the answer comes about, instead of giving it
    #[arg(long, conflicts_with_all = ["siblings", "context_file"])]
    explain: bool,
    /// Leave the context in this file, for `put --context-file`
    #[arg(long, value_name = "FILE")]
    context_file: Option<PathBuf>,
    #[command(flatten)]
    quorum: QuorumArgs,
}

pub async fn run(common: &Common, args: GetArgs) -> Result<(), CliError> {
    let output = common.output();
    let name = ItemName {
        table: args.table,
        partition_key: args.key,
        sort_key: args.sort_key,
    };
    let mut request = args.quorum.apply(Request::get(name.path()));
    if args.siblings {
        request = request.query("siblings", "true");
    }
    if args.explain {
        request = request.query("explain", "true");
    }
    let client = common.client_for(args.quorum.timeout_ms)?;
    let reply = client.send(request).await?;
    if args.explain {
        let explanation: Value = expect_success(reply)?.json()?;
        return if output.json {
            output.json(&explanation)
        } else {
            explain::show(&output, &explanation)
        };
    }
    if let Some(path) = &args.context_file {
        item::write_context(path, &reply)?;
    }
    if reply.status == StatusCode::MULTIPLE_CHOICES {
        // On a terminal the siblings are the answer; in a file they would be
        // taken for the value.
        if output.json || output.terminal {
            print_siblings(&output, &reply)?;
        }
        return Err(unresolved(&name, &reply));
    }
    let reply = expect_success(reply)?;
    if args.siblings {
        print_siblings(&output, &reply)
    } else {
        item::print_value(&output, &reply)
    }
}

/// Why a read with unresolved siblings fails, and what settles it.
pub fn unresolved(name: &ItemName, reply: &Reply) -> CliError {
    CliError::Unresolved {
        item: name.shown(),
        item_words: name.words(),
        siblings: reply
            .header("kinfold-siblings")
            .unwrap_or("several")
            .to_owned(),
        reason: reply
            .header("kinfold-reconcile-error")
            .map_or_else(String::new, |reason| format!(" ({reason})")),
        context: reply.context().unwrap_or("TOKEN").to_owned(),
    }
}

fn print_siblings(output: &Output, reply: &Reply) -> Result<(), CliError> {
    let answer: Value = reply.json()?;
    if output.json {
        return output.json(&answer);
    }
    let rows = list(&answer, "siblings")
        .iter()
        .map(|sibling| {
            let (bytes, shown) = match sibling["value"].as_str().map(decode) {
                Some(Some(value)) => (value.len().to_string(), preview(&value)),
                Some(None) => ("?".to_owned(), "not base64".to_owned()),
                None => ("-".to_owned(), "deleted".to_owned()),
            };
            vec![
                cell(&sibling["dot"]),
                cell(&sibling["written_at"]),
                cell(&sibling["content_type"]),
                bytes,
                shown,
            ]
        })
        .collect();
    output.table(&["dot", "written at", "type", "bytes", "value"], rows)?;
    output.note(&format!("context: {}", cell(&json!(reply.context()))))
}
