//! `kinfold cluster`: shows the nodes, and where an item lies; lets nodes go.

use std::ffi::OsString;

use clap::Subcommand;
use serde_json::Value;

use super::Common;
use super::error::{CliError, expect_success};
use super::output::{Output, cell, list};
use crate::client::{Client, Request, segment};

#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Show the nodes as one of them sees them
    Status,
    /// Show which nodes an item lies on
    Ring {
        table: String,
        /// The partition key: any bytes
        key: OsString,
    },
    /// Let the node at --endpoint leave: it hands over its data, then may be stopped
    #[command(after_help = LEAVE_HELP)]
    Leave,
    /// Remove a dead node for good: the others take over its share
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// Its name or id, as `kinfold cluster status` shows it
        node: String,
    },
}

const LEAVE_HELP: &str = "\
Only one node leaves: name it alone with --endpoint. It serves until everything is
handed over. `kinfold cluster status` shows `leaving` until then; afterwards the node
is gone from the list, says that it may be stopped, and its data directory may be
emptied.";

const REMOVE_HELP: &str = "\
For a node that is dead and stays dead: what only it had is lost. One that is up is
asked to leave instead. Do not start a removed node again with its old data directory;
emptied, it may join anew.";

pub async fn run(common: &Common, command: ClusterCommand) -> Result<(), CliError> {
    let output = common.output();
    let client = common.client()?;
    match command {
        ClusterCommand::Status => {
            let answer = expect_success(client.get("/v1/cluster").await?)?.json()?;
            status(&output, &answer)
        }
        ClusterCommand::Ring { table, key } => {
            let path = format!(
                "/v1/cluster/ring/{}/{}",
                segment(table.as_bytes()),
                segment(key.as_encoded_bytes())
            );
            let answer = expect_success(client.get(&path).await?)?.json()?;
            ring(&output, &answer)
        }
        ClusterCommand::Leave => leave(common, &output, &client).await,
        ClusterCommand::Remove { node } => {
            let path = format!("/v1/cluster/members/{}", segment(node.as_bytes()));
            let answer = expect_success(client.send(Request::delete(path)).await?)?.json()?;
            removed(&output, &answer)
        }
    }
}

async fn leave(common: &Common, output: &Output, client: &Client) -> Result<(), CliError> {
    // With several endpoints it would be chance who leaves.
    if common.endpoint.contains(',') {
        let text = "name the one node that is to leave with --endpoint".to_owned();
        return Err(CliError::Usage(text));
    }
    let request = Request::post("/v1/cluster/leave", "");
    let answer: Value = expect_success(client.send(request).await?)?.json()?;
    if output.json {
        return output.json(&answer);
    }
    output.line(&format!(
        "{} is leaving: it serves until the others have its data, and says so when it may be \
         stopped; `kinfold cluster status` at another node shows it as leaving until then",
        cell(&answer["node"])
    ))
}

fn removed(output: &Output, answer: &Value) -> Result<(), CliError> {
    if output.json {
        return output.json(answer);
    }
    output.line(&format!(
        "{} is removed: the others take over its share, `kinfold cluster status` shows how many \
         partitions still lack copies; do not start it again before its data directory is empty",
        cell(&answer["node"])
    ))
}

fn status(output: &Output, answer: &Value) -> Result<(), CliError> {
    if output.json {
        return output.json(answer);
    }
    let rows = list(answer, "members")
        .iter()
        .map(|member| {
            let offset = member["clock_offset_us"]
                .as_i64()
                .map_or_else(|| "-".to_owned(), clock_offset);
            let shown = [
                "node",
                "address",
                "status",
                "up",
                "zone",
                "weight",
                "partitions",
                "hints",
            ];
            let cells = shown.iter().map(|key| cell(&member[key]));
            cells.chain([offset]).collect()
        })
        .collect();
    let header = [
        "node",
        "address",
        "status",
        "up",
        "zone",
        "weight",
        "partitions",
        "hints",
        "clock",
    ];
    output.table(&header, rows)?;
    let (newest, read) = (&answer["layout_version"], &answer["layout_read"]);
    let moving = match newest == read || read.is_null() {
        true => String::new(),
        false => format!(" (reads still go by {})", cell(read)),
    };
    output.line(&format!(
        "seen from {}, layout {}{moving}, {} under-replicated partitions, {} strays",
        cell(&answer["node"]),
        cell(newest),
        cell(&answer["under_replicated"]),
        cell(&answer["strays"]),
    ))?;
    for transfer in list(answer, "transfers") {
        output.line(&format!(
            "{} is being filled from {}: {} of {} partitions",
            cell(&transfer["to"]),
            cell(&transfer["from"]),
            cell(&transfer["partitions_done"]),
            cell(&transfer["partitions"]),
        ))?;
    }
    Ok(())
}

/// How far a clock is ahead, in milliseconds: gossip cannot tell it any finer.
fn clock_offset(microseconds: i64) -> String {
    format!("{:+.1}ms", microseconds as f64 / 1000.0)
}

fn ring(output: &Output, answer: &Value) -> Result<(), CliError> {
    if output.json {
        return output.json(answer);
    }
    let rows = list(answer, "preference_list")
        .iter()
        .enumerate()
        .map(|(index, place)| {
            let role = match place["primary"].as_bool() {
                Some(true) => "primary",
                Some(false) => "fallback",
                None => "-",
            };
            vec![
                (index + 1).to_string(),
                cell(&place["node"]),
                cell(&place["address"]),
                role.to_owned(),
                cell(&place["up"]),
            ]
        })
        .collect();
    output.table(&["place", "node", "address", "role", "up"], rows)?;
    output.line(&format!(
        "partition {}, position {}",
        cell(&answer["partition"]),
        cell(&answer["position"])
    ))
}
