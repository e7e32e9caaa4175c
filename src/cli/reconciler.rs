//! `kinfold reconciler`: uploads modules and shows those that are there.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::Value;

use super::Common;
use super::error::{CliError, expect_success};
use super::output::{Output, cell, named_list};
use super::{item, table};
use crate::client::{Client, Request, segment};

/// How many hex digits of a digest people are shown: enough to tell apart the
/// versions of a module.
const SHORT_DIGEST_CHARS: usize = 12;

const PUSH_EXAMPLES: &str = "\
The node checks the module's laws before it takes it, and shows a counterexample if
there is one. Tables that name the module fold with it from then on.

Examples:
  kinfold reconciler push my_merge.wasm --name my-merge
  kinfold table set wishes --reconciler my-merge";

#[derive(Subcommand, Debug)]
pub enum ReconcilerCommand {
    /// Upload a module
    #[command(after_help = PUSH_EXAMPLES)]
    Push {
        /// The module: a WebAssembly component, or a core module that carries its type
        file: PathBuf,
        /// What tables will call it [default: the file's name]
        #[arg(long)]
        name: Option<String>,
        /// Take it even if it breaks a law; it is then never folded eagerly
        #[arg(long)]
        accept_unlawful: bool,
    },
    /// List the modules
    List,
}

pub async fn run(common: &Common, command: ReconcilerCommand) -> Result<(), CliError> {
    let output = common.output();
    let client = common.client()?;
    match command {
        ReconcilerCommand::Push {
            file,
            name,
            accept_unlawful,
        } => {
            let name = match name {
                Some(name) => name,
                None => name_from(&file)?,
            };
            push(&output, &client, &file, &name, accept_unlawful).await
        }
        ReconcilerCommand::List => list(&output, &client).await,
    }
}

/// `target/my_merge.wasm` is called `my-merge`, as its crate is.
fn name_from(file: &Path) -> Result<String, CliError> {
    file.file_stem()
        .and_then(|stem| stem.to_str())
        .map(|stem| stem.replace('_', "-"))
        .ok_or_else(|| CliError::Usage("the file's name is no name: give one with --name".into()))
}

async fn push(
    output: &Output,
    client: &Client,
    file: &Path,
    name: &str,
    accept_unlawful: bool,
) -> Result<(), CliError> {
    let bytes = item::read_input(Some(file))?;
    let path = format!("/v1/reconcilers/{}", segment(name.as_bytes()));
    let mut request = Request::put(path, bytes).content_type("application/wasm")?;
    if accept_unlawful {
        request = request.query("accept", "unlawful");
    }
    let answer: Value = expect_success(client.send(request).await?)?.json()?;
    if output.json {
        return output.json(&answer);
    }
    output.line(&format!(
        "{name} {} ({}, {} bytes): {}",
        short_digest(&answer["digest"]),
        cell(&answer["kind"]),
        cell(&answer["size_bytes"]),
        laws(&answer["laws"]),
    ))
}

async fn list(output: &Output, client: &Client) -> Result<(), CliError> {
    let answer: Value = expect_success(client.get("/v1/reconcilers").await?)?.json()?;
    if output.json {
        return output.json(&answer);
    }
    let (_, tables) = table::fetch(client).await?;
    let rows = named_list(&answer, "reconcilers")
        .into_iter()
        .map(|(name, module)| {
            let users: Vec<&str> = tables
                .iter()
                .filter(|(_, table)| table["reconciler"] == name.as_str())
                .map(|(table, _)| table.as_str())
                .collect();
            let users = if users.is_empty() {
                "-".to_owned()
            } else {
                users.join(" ")
            };
            vec![
                name,
                cell(&module["kind"]),
                short_digest(&module["digest"]),
                laws(&module["laws"]),
                users,
            ]
        })
        .collect();
    output.table(&["reconciler", "kind", "digest", "laws", "tables"], rows)
}

fn short_digest(digest: &Value) -> String {
    let text = cell(digest);
    let hex = text.strip_prefix("sha256:").unwrap_or(&text);
    hex.chars().take(SHORT_DIGEST_CHARS).collect()
}

/// What the law check said, in a few words.
fn laws(laws: &Value) -> String {
    let status = laws["status"].as_str().or_else(|| laws.as_str());
    match (&laws["law"], &laws["cases"], status) {
        (Value::String(law), ..) => format!("UNLAWFUL: {law}"),
        (_, Value::Number(cases), _) => format!("no counterexample in {cases} cases"),
        (_, _, Some(status)) => status.to_owned(),
        _ => cell(laws),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn laws_are_said_in_words() {
        for (answer, words) in [
            (
                json!({"status": "ok", "cases": 400}),
                "no counterexample in 400 cases",
            ),
            (json!({"status": "unchecked"}), "unchecked"),
            (
                json!({"law": "idempotent", "counterexample": "…"}),
                "UNLAWFUL: idempotent",
            ),
            (json!("unchecked"), "unchecked"),
            (Value::Null, "-"),
        ] {
            assert_eq!(laws(&answer), words);
        }
    }

    #[test]
    fn modules_are_called_as_their_files() {
        let name = name_from(Path::new("target/wasm32/my_merge.wasm")).unwrap();
        assert_eq!(name, "my-merge");
    }
}
