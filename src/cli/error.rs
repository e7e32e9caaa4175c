//! How a command fails: one line for people, one number for scripts.

use std::io;
use std::path::PathBuf;

use hyper::StatusCode;

use super::check::CheckError;
use super::reconciler::simulate::TrialError;
use super::reconciler::{BuildError, NewError};
use crate::bench::BenchError;
use crate::client::{ClientError, Reply};
use crate::config::ConfigError;
use crate::logging::LoggingError;

/// What a dry run ends with that found something.
pub const EXIT_DIFFERS: u8 = 7;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// There is no answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is no.
    #[error("{detail} ({code}){hint}")]
    Refused {
        status: StatusCode,
        code: String,
        detail: String,
        /// Empty, or begins with a semicolon.
        hint: String,
    },
    /// The item has siblings that no module folded.
    #[error(
        "{item} has {siblings} siblings that nobody folded{reason}; see them with --siblings and settle it: kinfold put {item_words} VALUE --context {context}"
    )]
    Unresolved {
        item: String,
        item_words: String,
        siblings: String,
        /// Empty, or why the module did not, in parentheses.
        reason: String,
        context: String,
    },
    /// A module breaks a law. The counterexample has been shown.
    #[error("{module} is not lawful: {law} does not hold; {advice}")]
    Unlawful {
        module: String,
        law: String,
        advice: &'static str,
    },
    /// The law check could try nothing on a module. The reason has been shown.
    #[error(
        "nothing is known of {module}: give it samples of its own, or check it with --samples DIR"
    )]
    Unchecked { module: String },
    /// A module would not give clients the same. What differs has been shown.
    #[error("not the same everywhere: of {tried} items tried in {table}, {what}")]
    Differs {
        table: String,
        what: String,
        tried: u64,
    },
    /// The last line of an answer is missing.
    #[error(
        "the answer broke off before its end; is the node stopping? try again, or ask another one"
    )]
    CutShort,
    /// A simulated cluster broke a promise.
    #[error("{failed} of {seeds} seeds failed; play the first one again: {first}")]
    Invariant {
        failed: usize,
        seeds: u64,
        first: String,
    },
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    New(#[from] NewError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// The arguments cannot be meant.
    #[error("{0}; see --help")]
    Usage(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot read standard input: {source}")]
    Input { source: io::Error },
    #[error("cannot write the answer: {source}")]
    Output { source: io::Error },
    #[error("cannot listen on {address}: {source}; {advice}")]
    Bind {
        address: String,
        source: io::Error,
        advice: &'static str,
    },
    #[error("cannot start the runtime: {source}")]
    Runtime { source: io::Error },
    #[error("cannot listen for signals: {source}")]
    Signals { source: io::Error },
    /// A node could not start or go on.
    #[error("node {node}: {source:#}")]
    Node { node: String, source: anyhow::Error },
    #[error(
        "the nodes were not ready after {seconds} s: {detail}; run again with --log info to see why"
    )]
    NotReady { seconds: u64, detail: String },
}

impl CliError {
    /// What the process ends with: 1 failed, 2 wrong usage or config, 3 not
    /// found, 4 conflict, 5 not available now, 6 nothing could be checked, 7 not the
    /// same.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Client(error) if error.is_unavailable() => 5,
            CliError::Client(
                ClientError::BadEndpoint { .. }
                | ClientError::BadHeader { .. }
                | ClientError::BadPath { .. },
            )
            | CliError::Config(_)
            | CliError::Logging(_)
            | CliError::New(NewError::Name { .. })
            | CliError::Usage(_) => 2,
            CliError::Refused { status, .. } => match *status {
                StatusCode::NOT_FOUND => 3,
                StatusCode::CONFLICT => 4,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => 5,
                _ => 1,
            },
            CliError::Bench(BenchError::Unreachable(_) | BenchError::Look(_)) => 5,
            CliError::Bench(BenchError::NothingLoaded { .. }) => 3,
            CliError::Bench(
                BenchError::OperationsOnly { .. }
                | BenchError::TooLarge { .. }
                | BenchError::Pid { .. },
            ) => 2,
            CliError::Unresolved { .. } => 4,
            CliError::Unchecked { .. } => 6,
            CliError::CutShort => 5,
            CliError::Differs { .. } => EXIT_DIFFERS,
            _ => 1,
        }
    }

    /// Whether whoever read the output has heard enough, as `| head` does.
    pub fn is_closed_output(&self) -> bool {
        matches!(self, CliError::Output { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error in one line: what came from elsewhere may have more.
    pub fn line(&self) -> String {
        let text = self.to_string();
        text.split(['\n', '\r'])
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// What an error means that came after the answer had begun.
    pub fn refused_late(problem: &serde_json::Value) -> CliError {
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        let status = problem["status"]
            .as_u64()
            .and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
        let code = text("code");
        CliError::Refused {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            hint: hint(&code, None),
            code,
            detail: text("detail"),
        }
    }

    /// What an error answer means.
    pub fn refused(reply: &Reply) -> CliError {
        let problem = reply.problem();
        let code = if problem.code.is_empty() {
            format!("HTTP {}", reply.status.as_u16())
        } else {
            problem.code
        };
        let detail = [problem.detail, problem.title]
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_else(|| {
                let reason = reply.status.canonical_reason();
                reason
                    .unwrap_or("the node refused without a reason")
                    .to_owned()
            });
        CliError::Refused {
            status: reply.status,
            hint: hint(&code, reply.header("retry-after")),
            code,
            detail,
        }
    }
}

/// What to do about a refusal, by its code.
fn hint(code: &str, retry_after: Option<&str>) -> String {
    let advice = match code {
        "no_such_table" => "`kinfold table list` shows the tables, `kinfold table set` makes one",
        "no_such_member" => "`kinfold cluster status` shows the members",
        "no_such_reconciler" => {
            "`kinfold reconciler list` shows the modules, `kinfold reconciler push` adds one"
        }
        "invalid_context" => "`kinfold get --json` gives the item's present context",
        "invalid_quorum" => "`kinfold table show` shows the table's n",
        "operations_only" => "use `kinfold op`",
        "too_large" => "`kinfold table set --max-value-bytes` raises a table's limit",
        "quorum_unmet" => {
            "`kinfold cluster status` shows who is down; ask for fewer replicas with --r or --w, or try again"
        }
        "reconciler_in_use" => "`kinfold table set --reconciler` gives a table another",
        "quarantined" => "`kinfold reconciler show` says why",
        "storage_full" => "make room on the node's disk",
        "throttled" | "overloaded" | "not_ready" => {
            return match retry_after {
                Some(seconds) => format!("; try again in {seconds} s"),
                None => "; try again in a moment".to_owned(),
            };
        }
        _ => return String::new(),
    };
    format!("; {advice}")
}

/// The answer, if it is a success.
pub fn expect_success(reply: Reply) -> Result<Reply, CliError> {
    if reply.status.is_success() {
        Ok(reply)
    } else {
        Err(CliError::refused(&reply))
    }
}
