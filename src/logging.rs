//! What a node says of itself while it runs, on standard error.
//!
//! Promises: lines for people, or one JSON object a line; colours only on a
//! terminal; standard output is left to answers. Which lines are kept is the
//! filter's say, in the language of `tracing-subscriber` (`info`,
//! `warn,kinfold::node=debug`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error(
        "{filter:?} is no log filter ({source}); write one like \"info\" or \"warn,kinfold=debug\""
    )]
    BadFilter {
        filter: String,
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("the process has a log already")]
    AlreadySet,
}

/// Sets the process's log up. Once.
pub fn init(filter: &str, format: LogFormat) -> Result<(), LoggingError> {
    let env_filter =
        EnvFilter::builder()
            .parse(filter)
            .map_err(|source| LoggingError::BadFilter {
                filter: filter.to_owned(),
                source,
            })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let set = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| LoggingError::AlreadySet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_says_how_to_write_one() {
        let text = init("kinfold=loud", LogFormat::Text)
            .unwrap_err()
            .to_string();
        assert!(text.contains("\"info\""), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
