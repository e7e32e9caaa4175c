//! `kinfold cluster`: shows the nodes, and where an item lies.

use std::ffi::OsString;

use clap::Subcommand;
use serde_json::Value;

use super::Common;
use super::error::{CliError, expect_success};
use super::output::{Output, cell, list};
use crate::client::segment;

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
}

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
    }
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
    output.line(&format!(
        "seen from {}, layout {}, {} under-replicated partitions, {} strays",
        cell(&answer["node"]),
        cell(&answer["layout_version"]),
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
