//! `kinfold reconciler`: everything about the modules that fold siblings, one
//! command per file.
//!
//! A command is its arguments and a `run` of its own; what several of them
//! show of a module is said here, so that it reads the same everywhere.

use clap::Subcommand;
use serde_json::Value;

use super::Common;
use super::check::{self, CheckArgs};
use super::error::CliError;
use super::output::cell;
use crate::client::segment;

mod build;
mod delete;
mod dry_run;
mod list;
mod new;
mod push;
mod rollback;
mod show;
pub(super) mod simulate;
mod toolchain;
mod vendored;

pub use build::BuildError;
pub use new::NewError;

/// How many hex digits of a digest people are shown: enough to tell apart the
/// versions of a module.
const SHORT_DIGEST_CHARS: usize = 12;

#[derive(Subcommand, Debug)]
pub enum ReconcilerCommand {
    /// Make a crate with a merge to begin with
    #[command(after_help = new::EXAMPLES)]
    New(new::NewArgs),
    /// Build a crate into a module
    Build(build::BuildArgs),
    /// Upload a module
    #[command(after_help = push::EXAMPLES)]
    Push(push::PushArgs),
    /// Try a module on what a table stores, and change nothing
    #[command(after_help = dry_run::EXAMPLES)]
    DryRun(dry_run::DryRunArgs),
    /// List the modules
    List,
    /// Show a module, its versions, and how it fares
    Show(show::ShowArgs),
    /// Make an earlier version of a module current again
    #[command(after_help = rollback::EXAMPLES)]
    Rollback(rollback::RollbackArgs),
    /// Forget a module that no table names
    Delete(delete::DeleteArgs),
    /// Search for siblings that a module folds wrong, without a server
    Check(CheckArgs),
    /// Play clusters that fold with a module while the network between them fails
    Simulate(simulate::SimulateArgs),
}

pub async fn run(common: &Common, command: ReconcilerCommand) -> Result<(), CliError> {
    match command {
        ReconcilerCommand::New(args) => new::run(common, args),
        ReconcilerCommand::Build(args) => build::run(common, &args),
        ReconcilerCommand::Push(args) => push::run(common, args).await,
        ReconcilerCommand::DryRun(args) => dry_run::run(common, args).await,
        ReconcilerCommand::List => list::run(common).await,
        ReconcilerCommand::Show(args) => show::run(common, args).await,
        ReconcilerCommand::Rollback(args) => rollback::run(common, args).await,
        ReconcilerCommand::Delete(args) => delete::run(common, args).await,
        ReconcilerCommand::Check(args) => check::run(common, &args),
        ReconcilerCommand::Simulate(args) => simulate::run(common, &args),
    }
}

/// The path of a module.
fn path(name: &str) -> String {
    format!("/v1/reconcilers/{}", segment(name.as_bytes()))
}

/// The beginning of a digest, as people are shown it.
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
}
