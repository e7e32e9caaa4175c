//! Query parameters: known ones, once each.
//!
//! Promises: a parameter that the path does not know, a repeated one and one
//! that does not decode are refused and named.

use super::path;
use super::problem::{Code, Problem};
use crate::protocol::catalog::TableDefinition;
use crate::table_spec::quorum_size;

/// How long a request waits for its quorum unless it says otherwise, in
/// milliseconds: well above a hedge and a retry on a busy machine, and below
/// where most clients give up themselves (10 s and more).
pub const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// The same of a change of a table or reconciler, in milliseconds: nodes that lack
/// a module fetch and compile it in that time.
pub const DEFAULT_CHANGE_TIMEOUT_MS: u64 = 10_000;
/// The longest wait that can be asked for, in milliseconds: a request holds its
/// value in memory for as long.
pub const MAX_TIMEOUT_MS: u64 = 60_000;

/// The parameters of one request.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query of which only these parameters may be part.
    pub fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for part in query
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (text(name)?, text(value)?);
            if !known.contains(&name.as_str()) {
                let known = match known {
                    [] => "it takes none".to_owned(),
                    names => format!("it takes {}", names.join(", ")),
                };
                return Err(Problem::bad_request(format_args!(
                    "the parameter {:?} is not known here; {known}",
                    path::shorten(&name)
                )));
            }
            if parameters.iter().any(|(given, _)| *given == name) {
                return Err(Problem::bad_request(format_args!(
                    "the parameter {name:?} is given twice"
                )));
            }
            parameters.push((name, value));
        }
        Ok(Query(parameters))
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    /// How long the client is willing to wait; so long when it does not say.
    pub fn timeout_ms(&self, default_ms: u64) -> Result<u64, Problem> {
        let Some(text) = self.get("timeout_ms") else {
            return Ok(default_ms);
        };
        Some(text)
            // `parse` would take a sign, too.
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|ms| (1..=MAX_TIMEOUT_MS).contains(ms))
            .ok_or_else(|| {
                Problem::bad_request(format_args!(
                    "timeout_ms is {:?}; it is 1..={MAX_TIMEOUT_MS}",
                    path::shorten(text)
                ))
            })
    }

    /// A parameter that is `true` or `false`.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Problem::bad_request(format_args!(
                "{name} is {:?}; it is true or false",
                path::shorten(other)
            ))),
        }
    }
}

fn text(raw: &str) -> Result<String, Problem> {
    path::name(raw)?.ok_or_else(|| Problem::bad_request("a query parameter is not UTF-8"))
}

/// How many replicas, and how long to wait for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorum {
    pub r: u32,
    pub w: u32,
    pub strict: bool,
    pub timeout_ms: u64,
}

impl Quorum {
    /// The parameters that make one up.
    pub const PARAMETERS: [&'static str; 4] = ["r", "w", "quorum", "timeout_ms"];

    /// What the request says, and the table where it is silent.
    pub fn of(query: &Query, table: &TableDefinition) -> Result<Self, Problem> {
        let n = table.n;
        let count = |name: &str, default: crate::protocol::catalog::QuorumSize| {
            let Some(text) = query.get(name) else {
                // A definition was checked when it was made; should one have
                // come from elsewhere, all replicas are the safe reading.
                return Ok(default.resolve(n).unwrap_or(n));
            };
            quorum_size(text)
                .and_then(|size| size.resolve(n))
                .ok_or_else(|| {
                    Problem::new(
                        Code::InvalidQuorum,
                        format_args!(
                            "{name} is {:?}; in this table it is 1..={n}, quorum or all",
                            path::shorten(text)
                        ),
                    )
                })
        };
        let strict = match query.get("quorum") {
            None => table.strict,
            Some("strict") => true,
            Some("sloppy") => false,
            Some(other) => {
                return Err(Problem::new(
                    Code::InvalidQuorum,
                    format_args!(
                        "quorum is {:?}; it is sloppy or strict",
                        path::shorten(other)
                    ),
                ));
            }
        };
        let timeout_ms = query.timeout_ms(DEFAULT_TIMEOUT_MS)?;
        Ok(Quorum {
            r: count("r", table.r)?,
            w: count("w", table.w)?,
            strict,
            timeout_ms,
        })
    }
}
