//! What the item commands share: names, quorums, contexts, values.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::error::CliError;
use super::output::{Output, encode};
use crate::client::{self, Reply, Request};

/// The largest value that is read from a file or standard input, in bytes:
/// beyond any table's limit, and short of filling the machine's memory.
const MAX_INPUT_BYTES: u64 = 256 << 20;

/// An item's name. Keys are any bytes that the shell can pass.
pub struct ItemName {
    pub table: String,
    pub partition_key: OsString,
    pub sort_key: Option<OsString>,
}

impl ItemName {
    pub fn path(&self) -> String {
        client::item_path(
            &self.table,
            self.partition_key.as_encoded_bytes(),
            self.sort_key.as_deref().map(OsStr::as_encoded_bytes),
        )
    }

    /// For messages: `carts/alice`.
    pub fn shown(&self) -> String {
        self.joined("/")
    }

    /// For commands: `carts alice`.
    pub fn words(&self) -> String {
        self.joined(" ")
    }

    fn joined(&self, separator: &str) -> String {
        let mut text = format!(
            "{}{separator}{}",
            self.table,
            self.partition_key.to_string_lossy()
        );
        if let Some(sort_key) = &self.sort_key {
            text.push_str(separator);
            text.push_str(&sort_key.to_string_lossy());
        }
        text
    }
}

/// Which replicas count.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Quorum {
    Sloppy,
    Strict,
}

/// How many replicas must answer, and how soon.
#[derive(Args, Debug)]
pub struct QuorumArgs {
    /// Replicas that must answer a read: a number, quorum or all
    #[arg(long, value_name = "R")]
    r: Option<String>,
    /// Replicas that must store a write: a number, quorum or all
    #[arg(long, value_name = "W")]
    w: Option<String>,
    /// Whether fallbacks count too (sloppy) or only primaries (strict)
    #[arg(long, value_enum)]
    quorum: Option<Quorum>,
    /// How long the node may take, in milliseconds
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u64>,
}

impl QuorumArgs {
    pub fn apply(&self, mut request: Request) -> Request {
        if let Some(r) = &self.r {
            request = request.query("r", r);
        }
        if let Some(w) = &self.w {
            request = request.query("w", w);
        }
        if let Some(quorum) = self.quorum {
            let text = match quorum {
                Quorum::Sloppy => "sloppy",
                Quorum::Strict => "strict",
            };
            request = request.query("quorum", text);
        }
        if let Some(timeout_ms) = self.timeout_ms {
            request = request.query("timeout_ms", &timeout_ms.to_string());
        }
        request
    }
}

/// What the writer has seen.
#[derive(Args, Debug)]
pub struct ContextArgs {
    /// The context that a read gave: this write supersedes what that read saw.
    /// Without one the write is blind and supersedes nothing
    #[arg(long, value_name = "TOKEN", conflicts_with = "context_file")]
    context: Option<String>,
    /// A file with the context, as `get --context-file` leaves it; the new
    /// context replaces it
    #[arg(long, value_name = "FILE")]
    context_file: Option<PathBuf>,
}

impl ContextArgs {
    pub fn apply(&self, request: Request) -> Result<Request, CliError> {
        let from_file;
        let token = match (&self.context, &self.context_file) {
            (Some(token), _) => token.as_str(),
            (None, Some(path)) => {
                from_file = std::fs::read_to_string(path).map_err(|source| CliError::File {
                    path: path.clone(),
                    source,
                })?;
                from_file.trim()
            }
            (None, None) => return Ok(request),
        };
        Ok(request.context(token)?)
    }

    pub fn remember(&self, reply: &Reply) -> Result<(), CliError> {
        self.context_file
            .as_deref()
            .map_or(Ok(()), |path| write_context(path, reply))
    }
}

/// Leaves an answer's context in a file.
pub fn write_context(path: &Path, reply: &Reply) -> Result<(), CliError> {
    let Some(context) = reply.context() else {
        return Ok(());
    };
    std::fs::write(path, format!("{context}\n")).map_err(|source| CliError::File {
        path: path.to_owned(),
        source,
    })
}

/// Reads a file, or standard input when there is none, up to the limit.
pub fn read_input(path: Option<&Path>) -> Result<Vec<u8>, CliError> {
    let read = |source: &mut dyn Read| {
        let mut bytes = Vec::new();
        source.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_INPUT_BYTES {
            let text = format!("more than {MAX_INPUT_BYTES} bytes, which no node takes");
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
        }
        Ok(bytes)
    };
    match path {
        None => read(&mut std::io::stdin().lock()).map_err(|source| CliError::Input { source }),
        Some(path) => std::fs::File::open(path)
            .and_then(|mut file| read(&mut file))
            .map_err(|source| CliError::File {
                path: path.to_owned(),
                source,
            }),
    }
}

/// What a value seems to be, when nobody says.
pub fn guess_content_type(value: &[u8]) -> &'static str {
    let first = value.trim_ascii_start().first();
    let structured = matches!(first, Some(b'{' | b'['));
    if structured && serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok() {
        "application/json"
    } else if std::str::from_utf8(value).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

/// An answer with a value, as `--json` prints it. `json` is the value itself
/// where it is JSON, so that scripts need not decode.
pub fn value_as_json(reply: &Reply) -> Value {
    let content_type = reply.header("content-type").unwrap_or_default();
    let is_json = content_type.starts_with("application/json");
    let parsed = is_json
        .then(|| serde_json::from_slice::<Value>(&reply.body).ok())
        .flatten();
    let siblings = reply
        .header("kinfold-siblings")
        .and_then(|count| count.parse::<u64>().ok());
    json!({
        "value": encode(&reply.body),
        "json": parsed,
        "content_type": content_type,
        "context": reply.context(),
        "etag": reply.header("etag"),
        "siblings": siblings,
        "reconciler": reply.header("kinfold-reconciler"),
    })
}

/// Prints an answer with a value.
pub fn print_value(output: &Output, reply: &Reply) -> Result<(), CliError> {
    if output.json {
        output.json(&value_as_json(reply))
    } else {
        output.bytes(&reply.body)
    }
}
