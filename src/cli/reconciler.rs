//! `kinfold reconciler`: uploads modules and shows those that are there.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::Value;

use super::Common;
use super::check::{self, CheckArgs};
use super::error::{CliError, expect_success};
use super::item;
use super::output::{self, Output, cell};
use crate::client::{Client, Reply, Request, segment};

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
    /// Search for siblings that a module folds wrong, without a server
    Check(CheckArgs),
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
        ReconcilerCommand::Check(args) => check::run(common, &args),
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
    let reply = client.send(request).await?;
    if reply.problem().code == "law_violated" {
        return Err(unlawful(output, &reply, name)?);
    }
    let answer: Value = expect_success(reply)?.json()?;
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

/// Shows a counterexample, which is too large for the line that an error has,
/// and is what the module's author came for.
fn unlawful(output: &Output, reply: &Reply, name: &str) -> Result<CliError, CliError> {
    let problem: Value = reply.json()?;
    if output.json {
        output.json(&problem)?;
    } else {
        output.line(&cell(&problem["detail"]))?;
    }
    Ok(CliError::Unlawful {
        module: name.to_owned(),
        law: problem["counterexample"]["law"]
            .as_str()
            .unwrap_or("a law")
            .to_owned(),
        advice: "mend it, or admit it with --accept-unlawful, never to be folded eagerly",
    })
}

async fn list(output: &Output, client: &Client) -> Result<(), CliError> {
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

fn short_digest(digest: &Value) -> String {
    let text = cell(digest);
    let hex = text.strip_prefix("sha256:").unwrap_or(&text);
    hex.chars().take(SHORT_DIGEST_CHARS).collect()
}

/// What the law check said, in a few words.
fn laws(laws: &Value) -> String {
    match (&laws["verdict"], &laws["law"], &laws["cases"]) {
        (_, Value::String(law), _) => format!("UNLAWFUL: not {law}"),
        (_, _, Value::Number(cases)) => format!("no counterexample in {cases} cases"),
        (verdict, ..) => cell(verdict),
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
                json!({"verdict": "no counterexample", "cases": 400}),
                "no counterexample in 400 cases",
            ),
            (json!({"verdict": "unchecked"}), "unchecked"),
            (
                json!({"verdict": "unlawful", "law": "idempotent", "counterexample": "…"}),
                "UNLAWFUL: not idempotent",
            ),
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
