//! What commands print: bytes, JSON, or tables, drawn with lines on a terminal
//! and with spaces elsewhere.

use std::io::{IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use super::error::CliError;

/// How much of a value a table shows, in characters: a line of a usual
/// terminal beside the other columns.
const PREVIEW_CHARS: usize = 48;

/// Standard output, and how it is written.
pub struct Output {
    pub json: bool,
    pub terminal: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Output {
            json,
            terminal: std::io::stdout().is_terminal(),
        }
    }

    /// Prints bytes as they are; on a terminal a value's end is a line's end.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        let ends = !self.terminal || bytes.ends_with(b"\n");
        out.write_all(bytes)
            .and_then(|()| if ends { Ok(()) } else { out.write_all(b"\n") })
            .and_then(|()| out.flush())
            .map_err(|source| CliError::Output { source })
    }

    /// Prints a line.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(|source| CliError::Output { source })
    }

    /// Prints a line that only people want: nothing for scripts.
    pub fn note(&self, text: &str) -> Result<(), CliError> {
        if self.terminal && !self.json {
            self.line(text)?;
        }
        Ok(())
    }

    /// Prints a JSON document on a line of its own.
    pub fn json(&self, value: &Value) -> Result<(), CliError> {
        self.line(&value.to_string())
    }

    /// Prints a table.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), CliError> {
        let mut table = self.drawn(header, rows);
        if self.terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        self.line(&table.trim_fmt())
    }

    /// Prints a table whose columns are figures, aligned at their ends, but for so
    /// many at the left. Where there is no room for them, lines are rather too long
    /// than figures broken.
    pub fn figures(
        &self,
        header: &[&str],
        rows: Vec<Vec<String>>,
        names: usize,
    ) -> Result<(), CliError> {
        let mut table = self.drawn(header, rows);
        for column in table.column_iter_mut().skip(names) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self.line(&table.trim_fmt())
    }

    fn drawn(&self, header: &[&str], rows: Vec<Vec<String>>) -> Table {
        let mut table = Table::new();
        if self.terminal {
            table.load_style(presets::UTF8_FULL_CONDENSED);
        } else {
            table.load_style(presets::NOTHING);
        }
        table.set_header(header.to_vec());
        for row in rows {
            table.add_row(row);
        }
        table
    }
}

/// A field of a JSON answer as a cell: texts bare, nothing as a dash.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

/// The beginning of a value, for a table: text as text, anything else in hex.
pub fn preview(bytes: &[u8]) -> String {
    let printable = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.chars().any(|c| c.is_control() && !c.is_whitespace()));
    let (shown, is_whole) = match printable {
        Some(text) => {
            let flat: String = text
                .chars()
                .take(PREVIEW_CHARS)
                .map(|c| if c.is_whitespace() { ' ' } else { c })
                .collect();
            (flat, text.chars().count() <= PREVIEW_CHARS)
        }
        None => {
            let most = PREVIEW_CHARS / 2 - 1;
            let hex: String = bytes
                .iter()
                .take(most)
                .map(|b| format!("{b:02x}"))
                .collect();
            (format!("0x{hex}"), bytes.len() <= most)
        }
    };
    if is_whole { shown } else { shown + "…" }
}

/// A value as JSON answers carry it: base64, as the HTTP API has it.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a base64 field; none when it is no base64.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A list in an answer.
pub fn list<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().map_or(&[], Vec::as_slice)
}
