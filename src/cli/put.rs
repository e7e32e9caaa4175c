//! `kinfold put`: writes an item.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Common;
use super::error::{CliError, expect_success};
use super::item::{self, ContextArgs, ItemName, QuorumArgs};
use crate::client::Request;

const EXAMPLES: &str = "\
With --json: context, which covers what the write had seen and the write itself.

Examples:
  kinfold put profiles alice '{\"name\":\"Alice\"}'
  kinfold put pictures alice --file alice.png --content-type image/png
  date | kinfold put raw now -
  kinfold put raw now later --context \"$(kinfold get raw now --json | jq -r .context)\"";

/// Writes an item
#[derive(Args, Debug)]
#[command(
    after_help = EXAMPLES,
    override_usage = "kinfold put [OPTIONS] TABLE KEY [SORT_KEY] <VALUE | - | --file FILE>"
)]
pub struct PutArgs {
    table: String,
    /// The partition key: any bytes
    key: OsString,
    /// The sort key, in tables that have them, and the value; - reads the value
    /// from standard input
    #[arg(value_name = "SORT_KEY] [VALUE", num_args = 0..=2)]
    rest: Vec<OsString>,
    /// Read the value from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The value's media type [default: JSON or text where it looks like it, else bytes]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    quorum: QuorumArgs,
}

impl PutArgs {
    /// The sort key and the value.
    fn sort_key_and_value(&mut self) -> Result<(Option<OsString>, Vec<u8>), CliError> {
        let mut rest = std::mem::take(&mut self.rest);
        if let Some(path) = &self.file {
            if rest.len() > 1 {
                return Err(CliError::Usage(
                    "there is a value both in the arguments and in --file".to_owned(),
                ));
            }
            return Ok((rest.pop(), item::read_input(Some(path))?));
        }
        let Some(value) = rest.pop() else {
            return Err(CliError::Usage(
                "there is no value: give one, or --file FILE, or - to read standard input"
                    .to_owned(),
            ));
        };
        let value = if value == "-" {
            item::read_input(None)?
        } else {
            value.into_encoded_bytes()
        };
        Ok((rest.pop(), value))
    }
}

pub async fn run(common: &Common, mut args: PutArgs) -> Result<(), CliError> {
    let output = common.output();
    let (sort_key, value) = args.sort_key_and_value()?;
    let name = ItemName {
        table: args.table,
        partition_key: args.key,
        sort_key,
    };
    let content_type = match &args.content_type {
        Some(said) => said.as_str(),
        None => item::guess_content_type(&value),
    };
    let request = Request::put(name.path(), value.clone()).content_type(content_type)?;
    let request = args.context.apply(args.quorum.apply(request))?;
    let client = common.client_for(args.quorum.timeout_ms)?;
    let reply = expect_success(client.send(request).await?)?;
    args.context.remember(&reply)?;
    if output.json {
        output.json(&json!({ "context": reply.context() }))
    } else {
        output.note(&format!("stored {}", name.shown()))
    }
}
