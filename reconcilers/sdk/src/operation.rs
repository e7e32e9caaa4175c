//! Operations that are a JSON object of one key: `{"add": …}`.
//!
//! Promises: what is taken is canonical JSON with exactly one key; what is not is
//! refused with a text that begins with what would have been right.

use crate::json::text;

/// One operation: its key and its value, a canonical text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub name: String,
    pub value: String,
}

impl Operation {
    /// Reads an operation; `expected` says what one is, for whoever sent another.
    pub fn parse(json: &[u8], expected: &str) -> Result<Operation, String> {
        let refused = |what: &str| Err(format!("{expected}: {what}"));
        let object = match text::canonical(json) {
            Ok(object) => object,
            Err(fault) => return refused(&fault),
        };
        if !object.starts_with('{') {
            return refused("this is no JSON object");
        }
        let mut members = text::members(&object);
        match (members.next(), members.next()) {
            (Some((name, value)), None) => Ok(Operation {
                name: text::unquoted(name),
                value: value.to_owned(),
            }),
            (None, _) => refused("this object is empty"),
            (Some((one, _)), Some((other, _))) => refused(&format!(
                "an operation has one key, and this has {} and {}",
                text::clipped(one),
                text::clipped(other)
            )),
        }
    }
}
