//! The command line: arguments in, one command run, an exit code out.
//!
//! Promises: answers go to standard output and everything else to standard
//! error; an error is one line that says what to do next; the exit code is 0
//! only on success, and tells scripts what kind of failure there was (see
//! `CliError::exit_code`); `--json` gives every answer as one JSON
//! document.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, DEFAULT_TIMEOUT};
use error::CliError;
use output::Output;

mod bench;
mod check;
mod cluster;
mod delete;
mod dev;
mod error;
mod explain;
mod get;
mod item;
mod op;
mod output;
mod put;
mod reconciler;
mod serve;
mod simulate;
mod table;
#[cfg(test)]
mod tests;

/// Where commands look for a node when nothing says otherwise: the first one
/// of `kinfold dev`.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8101";
/// How long a runtime's stray tasks may take to end after their command.
const LINGER: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "\
Examples:
  kinfold dev                                       three nodes to play with
  kinfold serve --config node.toml                  one node of a cluster
  kinfold put profiles alice '{\"name\":\"Alice\"}'     writes a value
  kinfold get profiles alice                        reads it, from any node
  kinfold op carts alice '{\"add\":\"apple\"}'          changes a data type
  kinfold table set wishes --reconciler cart-union  makes a table
  kinfold cluster status                            shows the nodes

Exit codes:
  0 done   1 failed   2 wrong usage or config   3 not found
  4 conflict: siblings that nobody folded   5 not available now: try again
  6 unchecked: the law check could try nothing on a module
  7 a dry run found a difference or a failure";

/// A replicated store whose conflicts are folded by WebAssembly modules
#[derive(Parser, Debug)]
#[command(name = "kinfold", version, after_help = AFTER_HELP, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Debug, Clone)]
struct Common {
    /// A node to talk to, or several separated by commas
    #[arg(
        long,
        global = true,
        env = "KINFOLD_ENDPOINT",
        value_name = "URL",
        default_value = DEFAULT_ENDPOINT
    )]
    endpoint: String,
    /// Answer with JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
}

impl Common {
    fn client(&self) -> Result<Client, CliError> {
        Ok(Client::new(&self.endpoint)?)
    }

    /// A client that is at least as patient as a server told to take this long.
    fn client_for(&self, timeout_ms: Option<u64>) -> Result<Client, CliError> {
        let asked = Duration::from_millis(timeout_ms.unwrap_or(0));
        // Beyond the server's own timeout, so that its answer says what failed.
        let patience = asked.saturating_add(Duration::from_secs(5));
        Ok(Client::with_timeout(
            &self.endpoint,
            DEFAULT_TIMEOUT.max(patience),
        )?)
    }

    fn output(&self) -> Output {
        Output::new(self.json)
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run one node
    Serve(serve::ServeArgs),
    /// Run three nodes in one process, to try things out
    Dev(dev::DevArgs),
    /// Read an item
    Get(get::GetArgs),
    /// Write an item
    Put(put::PutArgs),
    /// Delete an item
    Delete(delete::DeleteArgs),
    /// Apply an operation to an item of a data-type table
    Op(op::OpArgs),
    /// Look after tables
    #[command(subcommand)]
    Table(table::TableCommand),
    /// Look after the modules that fold siblings
    #[command(subcommand)]
    Reconciler(reconciler::ReconcilerCommand),
    /// Look at the cluster, and let nodes go
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Load a cluster, and say how fast it is
    Bench(Box<bench::BenchArgs>),
    /// Play clusters under faults, and check that nothing is lost
    Simulate(Box<simulate::SimulateArgs>),
}

/// Runs the command that the arguments name, and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kinfold: {}", error.line());
            ExitCode::from(error.exit_code())
        }
    }
}

/// What comes of arguments that name no command to run: help, the version, or
/// one line about what is wrong with them.
fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        // When it cannot be printed there is nowhere left to say so.
        let _ = error.print();
    } else {
        eprintln!("kinfold: {}", usage_line(error));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

/// What is wrong with the arguments, and clap's own tip, without the usage that
/// follows on lines of its own.
fn usage_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text
        .split("\n\n")
        .filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more information"))
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("; ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    format!("{said}; see --help")
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let serves = matches!(cli.command, Command::Serve(_) | Command::Dev(_));
    let mut builder = if serves {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        // A command that asks one thing needs no threads.
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|source| CliError::Runtime { source })?;
    let result = runtime.block_on(execute(cli));
    runtime.shutdown_timeout(LINGER);
    result
}

async fn execute(cli: Cli) -> Result<(), CliError> {
    let common = &cli.common;
    match cli.command {
        Command::Serve(args) => serve::run(common, args).await,
        Command::Dev(args) => dev::run(common, args).await,
        Command::Get(args) => get::run(common, args).await,
        Command::Put(args) => put::run(common, args).await,
        Command::Delete(args) => delete::run(common, args).await,
        Command::Op(args) => op::run(common, args).await,
        Command::Table(command) => table::run(common, command).await,
        Command::Reconciler(command) => reconciler::run(common, command).await,
        Command::Cluster(command) => cluster::run(common, command).await,
        Command::Bench(args) => bench::run(common, *args).await,
        Command::Simulate(args) => simulate::run(common, &args),
    }
}
