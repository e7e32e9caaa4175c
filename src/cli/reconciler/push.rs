//! `kinfold reconciler push`: uploads a module, and shows the counterexample of
//! one that breaks a law.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::super::Common;
use super::super::error::{CliError, expect_success};
use super::super::item;
use super::super::output::{Output, cell};
use super::{laws, path, short_digest};
use crate::client::{Reply, Request};

pub const EXAMPLES: &str = "\
The node checks the module's laws before it takes it, and shows a counterexample if
there is one. Tables that name the module fold with it from then on.

Examples:
  kinfold reconciler push my_merge.wasm --name my-merge
  kinfold table set wishes --reconciler my-merge";

/// How long an upload may take, in milliseconds: the node checks the laws before it
/// answers, which is seconds, and on a busy machine many of them.
const PATIENCE_MS: u64 = 180_000;

#[derive(Args, Debug)]
pub struct PushArgs {
    /// The module: a WebAssembly component, or a core module that carries its type
    file: PathBuf,
    /// What tables will call it [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// Take it even if it breaks a law; it is then never folded eagerly
    #[arg(long)]
    accept_unlawful: bool,
}

pub async fn run(common: &Common, args: PushArgs) -> Result<(), CliError> {
    let output = common.output();
    let client = common.client_for(Some(PATIENCE_MS))?;
    let name = match args.name {
        Some(name) => name,
        None => name_from(&args.file)?,
    };
    let bytes = item::read_input(Some(&args.file))?;
    let mut request = Request::put(path(&name), bytes).content_type("application/wasm")?;
    if args.accept_unlawful {
        request = request.query("accept", "unlawful");
    }
    let reply = client.send(request).await?;
    if reply.problem().code == "law_violated" {
        return Err(unlawful(&output, &reply, &name, &args.file)?);
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

/// `target/my_merge.wasm` is called `my-merge`, as its crate is.
fn name_from(file: &Path) -> Result<String, CliError> {
    file.file_stem()
        .and_then(|stem| stem.to_str())
        .map(|stem| stem.replace('_', "-"))
        .ok_or_else(|| CliError::Usage("the file's name is no name: give one with --name".into()))
}

/// Shows a counterexample, which is too large for the line that an error has,
/// and is what the module's author came for.
fn unlawful(output: &Output, reply: &Reply, name: &str, file: &Path) -> Result<CliError, CliError> {
    let problem: Value = reply.json()?;
    if output.json {
        output.json(&problem)?;
    } else {
        // The node does not know what the file is called here.
        let command = format!("check {}", file.display());
        output.line(&cell(&problem["detail"]).replacen("check FILE", &command, 1))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_called_as_their_files() {
        let name = name_from(Path::new("target/wasm32/my_merge.wasm")).unwrap();
        assert_eq!(name, "my-merge");
    }
}
