//! Why a module is not taken, and why a call came to nothing.
//!
//! Promises: texts are one line, short, meant for an operator, with no backtrace
//! and no control characters; a guest's own words are cut to
//! [`MAX_REASON_CHARS`].

use wasmtime::{PoolConcurrencyLimitError, Trap};

/// A guest's words travel in a header and in logs; more than this is noise.
pub const MAX_REASON_CHARS: usize = 300;

/// Bytes that are not a reconciler. The text names what is wrong with them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidModule {
    #[error("the module has {size} bytes, more than the {limit} that are taken")]
    TooLarge { size: u64, limit: u64 },
    #[error("this is neither a WebAssembly component nor a core module")]
    NotWasm,
    #[error("the core module cannot be made a component: {0}")]
    NotEncodable(String),
    #[error("the module does not compile: {0}")]
    NotCompilable(String),
    #[error("the module imports {0}; a reconciler imports nothing")]
    Import(String),
    #[error("the module does not export {0}")]
    MissingExport(&'static str),
    #[error("the export {export} is not as in wit/reconciler.wit: {reason}")]
    MistypedExport { export: String, reason: String },
    #[error("the module cannot describe itself: {0}")]
    NoDescription(Failure),
    #[error("{limit} modules are loaded already, as many as a node keeps; delete some reconcilers")]
    TooMany { limit: usize },
}

/// Why a call gave nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    #[error("ran out of fuel (limit {limit})")]
    OutOfFuel { limit: u64 },
    #[error("ran out of time (limit {limit_ms} ms)")]
    OutOfTime { limit_ms: u64 },
    #[error("ran out of memory (limit {limit_bytes} bytes)")]
    OutOfMemory { limit_bytes: usize },
    #[error("ran out of stack: it calls too deep")]
    OutOfStack,
    #[error("gave more than {limit_bytes} bytes of output")]
    OutputTooLarge { limit_bytes: u64 },
    #[error("trapped: {0}")]
    Trapped(String),
    /// What came out is not what the contract says.
    #[error("broke the contract: {0}")]
    Malformed(String),
    /// The module's own error, in its own words.
    #[error("refused: {0}")]
    Refused(String),
    /// No room for one more instance just now.
    #[error("too many instances run at once")]
    Busy,
}

/// The limits that a call ran under, to be named when it met one.
pub(super) struct Bounds {
    pub fuel: u64,
    pub deadline_ms: u64,
    pub memory_bytes: usize,
    pub output_bytes: u64,
}

/// Says what went wrong in a call. `memory_denied`: whether the guest was
/// refused memory; guests then end by `unreachable`, which alone would tell an
/// operator nothing.
pub(super) fn classify(error: &wasmtime::Error, memory_denied: bool, bounds: &Bounds) -> Failure {
    if error.is::<PoolConcurrencyLimitError>() {
        return Failure::Busy;
    }
    let out_of_memory = Failure::OutOfMemory {
        limit_bytes: bounds.memory_bytes,
    };
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Failure::OutOfFuel { limit: bounds.fuel },
        Some(Trap::Interrupt) => Failure::OutOfTime {
            limit_ms: bounds.deadline_ms,
        },
        Some(Trap::StackOverflow) => Failure::OutOfStack,
        Some(_) if memory_denied => out_of_memory,
        Some(Trap::UnreachableCodeReached) => Failure::Trapped("unreachable".to_owned()),
        Some(trap) => Failure::Trapped(trap.to_string()),
        None => {
            let text = format!("{error:#}");
            // The one way that wasmtime 48 tells this apart; the suite has a
            // guest that meets it.
            if text.contains("fuel allocated for hostcalls") {
                Failure::OutputTooLarge {
                    limit_bytes: bounds.output_bytes,
                }
            } else if memory_denied {
                out_of_memory
            } else {
                Failure::Malformed(one_line(&text))
            }
        }
    }
}

/// Text of a guest's or a library's, fit for a header and a log line.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (count, word) in text.split_whitespace().enumerate() {
        if count > 0 {
            line.push(' ');
        }
        line.extend(word.chars().filter(|char| !char.is_control()));
    }
    match line.char_indices().nth(MAX_REASON_CHARS) {
        Some((cut, _)) => {
            line.truncate(cut);
            line.push('…');
            line
        }
        None => line,
    }
}

/// Which limit a failure's text names, where one cut the call short: `fuel`,
/// `time`, `memory` or `output`. For whoever has the text only, which is all that
/// travels.
pub fn limit_named(reason: &str) -> Option<&'static str> {
    [
        ("ran out of fuel", "fuel"),
        ("ran out of time", "time"),
        ("ran out of memory", "memory"),
        ("gave more than", "output"),
    ]
    .into_iter()
    .find(|(text, _)| reason.starts_with(text))
    .map(|(_, limit)| limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_their_limits() {
        for (failure, limit) in [
            (Failure::OutOfFuel { limit: 1 }, Some("fuel")),
            (Failure::OutOfTime { limit_ms: 1 }, Some("time")),
            (Failure::OutOfMemory { limit_bytes: 1 }, Some("memory")),
            (Failure::OutputTooLarge { limit_bytes: 1 }, Some("output")),
            (Failure::Trapped("unreachable".to_owned()), None),
            (Failure::Refused("ran out of fuel".to_owned()), None),
        ] {
            assert_eq!(limit_named(&failure.to_string()), limit, "{failure}");
        }
    }

    #[test]
    fn words_become_one_short_line() {
        assert_eq!(one_line(" a\r\n b\tc\u{7} "), "a b c");
        let long = one_line(&"é".repeat(1000));
        assert_eq!(long.chars().count(), MAX_REASON_CHARS + 1);
        assert!(long.ends_with('…'));
    }
}
