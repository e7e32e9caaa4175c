//! A table's definition as people write it: in the config file and over HTTP.
//!
//! One struct for both, so that what one takes the other takes. Promises: every
//! key has a default, an unknown key is an error, every error names its key, and
//! `TableSpec::from(&definition)` turns into the same definition again.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::protocol::catalog::{Digest, MAX_NAME_BYTES, QuorumSize, TableDefinition};

/// How a table says that it has no reconciler.
pub const NO_RECONCILER: &str = "none";
/// What [`is_name`] asks for, in words.
pub const NAME_RULE: &str = "1..=128 letters, digits, dots, hyphens and underscores";

/// The most replicas that a table may ask for: as many as a ring keeps of each
/// preference list. More than there are nodes now is no error.
pub const MAX_N: u32 = 16;
/// The largest `max_value_bytes`. A value travels in one frame and is held whole
/// by every node that it passes; larger things belong into an object store.
pub const MAX_VALUE_BYTES: u64 = 16 << 20;
/// The largest `max_siblings`: a set is read, shown and folded whole.
pub const MAX_SIBLINGS: u32 = 10_000;
/// The largest `max_actors`: every actor is some 30 bytes in every row, message
/// and token.
pub const MAX_ACTORS: u32 = 1_000;

/// Whether a table or reconciler may be called this.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        // Clients and proxies resolve these two in paths.
        && name != "."
        && name != ".."
}

/// How many replicas, as written: a number, `quorum` or `all`.
pub fn quorum_size(text: &str) -> Option<QuorumSize> {
    match text {
        "quorum" => Some(QuorumSize::Quorum),
        "all" => Some(QuorumSize::All),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.parse().ok().map(QuorumSize::Count)
        }
        _ => None,
    }
}

/// Why a definition is refused. The text begins with the key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableSpecError {
    #[error("{key}: {message}")]
    Unreadable { key: String, message: String },
    #[error("n: {n} is not in 1..={MAX_N}")]
    N { n: u32 },
    #[error("{key}: {given} is not in 1..=n, and n is {n}")]
    QuorumSize {
        key: &'static str,
        given: u32,
        n: u32,
    },
    #[error("max_value_bytes: {given} is not in 1..={MAX_VALUE_BYTES}: a value is held whole")]
    ValueBytes { given: u64 },
    #[error("{key}: {given} is not in 1..={most}")]
    OutOfRange {
        key: &'static str,
        given: u32,
        most: u32,
    },
    #[error("reconciler: {name:?} is no name; one has {NAME_RULE}")]
    ReconcilerName { name: String },
    #[error("reconciler_digest: {message}")]
    ReconcilerDigest { message: String },
    #[error("reconciler_digest: there is no reconciler that it could be one of")]
    DigestWithoutReconciler,
}

/// [`QuorumSize`] as written: an integer, `"quorum"` or `"all"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuorumSpec(pub QuorumSize);

impl Serialize for QuorumSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            QuorumSize::Count(count) => serializer.serialize_u32(count),
            QuorumSize::Quorum => serializer.serialize_str("quorum"),
            QuorumSize::All => serializer.serialize_str("all"),
        }
    }
}

/// Takes an integer or what a text parses to.
struct NumberOr<T> {
    expecting: &'static str,
    number: fn(u64) -> Option<T>,
    text: fn(&str) -> Option<T>,
}

impl<T> de::Visitor<'_> for NumberOr<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        (self.number)(value).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        u64::try_from(value)
            .ok()
            .and_then(self.number)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<T, E> {
        (self.text)(value).ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
    }
}

impl<'de> Deserialize<'de> for QuorumSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOr {
            expecting: "a number of replicas, \"quorum\" or \"all\"",
            number: |count| {
                u32::try_from(count)
                    .ok()
                    .map(|n| QuorumSpec(QuorumSize::Count(n)))
            },
            text: |text| quorum_size(text).map(QuorumSpec),
        })
    }
}

/// A number of bytes as written: an integer, or text with a unit. It is shown as
/// an integer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BytesSpec(pub u64);

impl Serialize for BytesSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for BytesSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOr {
            expecting: "a number of bytes, or text with a unit such as \"1MiB\"",
            number: |bytes| Some(BytesSpec(bytes)),
            text: |text| {
                ByteSize::from_str(text)
                    .ok()
                    .map(|size| BytesSpec(size.as_u64()))
            },
        })
    }
}

/// Which quorums a table asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuorumKind {
    /// Fallbacks count.
    Sloppy,
    /// Primaries only.
    Strict,
}

/// A table as people write it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableSpec {
    /// How many replicas an item has, 1..=16.
    pub n: u32,
    /// How many must answer a read.
    pub r: QuorumSpec,
    /// How many must store a write.
    pub w: QuorumSpec,
    /// The module that folds siblings; `"none"`: clients get siblings.
    pub reconciler: Option<String>,
    /// Folds with this digest whatever the reconciler's current one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconciler_digest: Option<String>,
    /// The largest value.
    pub max_value_bytes: BytesSpec,
    /// A write that would leave more siblings is folded before it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fold_above: Option<u32>,
    /// A write that would leave more siblings is refused.
    pub max_siblings: u32,
    /// How many actors an item's context keeps.
    pub max_actors: u32,
    pub quorum: QuorumKind,
    /// Whether items are named by a sort key too.
    pub sort_keys: bool,
}

impl Default for TableSpec {
    fn default() -> Self {
        TableSpec::from(&TableDefinition::default())
    }
}

impl From<&TableDefinition> for TableSpec {
    fn from(definition: &TableDefinition) -> Self {
        let reconciler = definition.reconciler.as_deref().unwrap_or(NO_RECONCILER);
        TableSpec {
            n: definition.n,
            r: QuorumSpec(definition.r),
            w: QuorumSpec(definition.w),
            reconciler: Some(reconciler.to_owned()),
            reconciler_digest: definition
                .reconciler_digest
                .map(|digest| digest.to_string()),
            max_value_bytes: BytesSpec(definition.max_value_bytes),
            fold_above: definition.fold_above,
            max_siblings: definition.max_siblings,
            max_actors: definition.max_actors,
            quorum: if definition.strict {
                QuorumKind::Strict
            } else {
                QuorumKind::Sloppy
            },
            sort_keys: definition.sort_keys,
        }
    }
}

impl TableSpec {
    /// Reads a JSON object. serde's own message does not name the key that a
    /// wrong value stands under, so the key is looked for when there is an error.
    pub fn from_json(object: Map<String, Value>) -> Result<Self, TableSpecError> {
        let whole = match serde_json::from_value(Value::Object(object.clone())) {
            Ok(spec) => return Ok(spec),
            Err(error) => error,
        };
        for (key, value) in object {
            let alone = Map::from_iter([(key.clone(), value)]);
            if let Err(error) = serde_json::from_value::<TableSpec>(Value::Object(alone)) {
                let message = error.to_string();
                return Err(TableSpecError::Unreadable { key, message });
            }
        }
        // Every key is fine alone, and keys are never repeated in a map.
        Err(TableSpecError::Unreadable {
            key: "table".into(),
            message: whole.to_string(),
        })
    }

    /// The JSON object that [`Self::from_json`] takes.
    pub fn to_json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            other => unreachable!("a struct of plain fields is a JSON object: {other:?}"),
        }
    }

    /// Checks the keys and what they have to do with one another. Whether the
    /// reconciler exists is for those to check who know the catalog.
    pub fn into_definition(self) -> Result<TableDefinition, TableSpecError> {
        let n = self.n;
        if !(1..=MAX_N).contains(&n) {
            return Err(TableSpecError::N { n });
        }
        for (key, size) in [("r", self.r.0), ("w", self.w.0)] {
            if let (None, QuorumSize::Count(given)) = (size.resolve(n), size) {
                return Err(TableSpecError::QuorumSize { key, given, n });
            }
        }
        let max_value_bytes = self.max_value_bytes.0;
        if !(1..=MAX_VALUE_BYTES).contains(&max_value_bytes) {
            return Err(TableSpecError::ValueBytes {
                given: max_value_bytes,
            });
        }
        for (key, given, most) in [
            ("fold_above", self.fold_above.unwrap_or(1), MAX_SIBLINGS),
            ("max_siblings", self.max_siblings, MAX_SIBLINGS),
            ("max_actors", self.max_actors, MAX_ACTORS),
        ] {
            if !(1..=most).contains(&given) {
                return Err(TableSpecError::OutOfRange { key, given, most });
            }
        }
        let reconciler = self.reconciler.filter(|name| name != NO_RECONCILER);
        if let Some(name) = reconciler.as_ref().filter(|name| !is_name(name)) {
            return Err(TableSpecError::ReconcilerName { name: name.clone() });
        }
        let reconciler_digest = self
            .reconciler_digest
            .map(|text| Digest::from_str(&text))
            .transpose()
            .map_err(|error| TableSpecError::ReconcilerDigest {
                message: error.to_string(),
            })?;
        if reconciler_digest.is_some() && reconciler.is_none() {
            return Err(TableSpecError::DigestWithoutReconciler);
        }
        Ok(TableDefinition {
            n,
            r: self.r.0,
            w: self.w.0,
            reconciler: reconciler.map(Arc::from),
            reconciler_digest,
            max_value_bytes,
            fold_above: self.fold_above,
            max_siblings: self.max_siblings,
            max_actors: self.max_actors,
            strict: self.quorum == QuorumKind::Strict,
            sort_keys: self.sort_keys,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<TableDefinition, String> {
        let Value::Object(object) = value else {
            panic!("not an object")
        };
        TableSpec::from_json(object)
            .and_then(TableSpec::into_definition)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(read(json!({})), Ok(TableDefinition::default()));
        assert_eq!(
            read(json!({"reconciler": null})),
            Ok(TableDefinition::default())
        );
    }

    #[test]
    fn the_config_page_reads_as_written() {
        let text = r#"
            n = 3
            r = 2
            w = 2
            reconciler = "or-cart"
            max_value_bytes = "1MiB"
            fold_above = 16
            max_siblings = 100
            quorum = "sloppy"
        "#;
        let spec: TableSpec = toml::from_str(text).unwrap();
        let definition = spec.into_definition().unwrap();
        let expected = TableDefinition {
            r: QuorumSize::Count(2),
            w: QuorumSize::Count(2),
            reconciler: Some("or-cart".into()),
            fold_above: Some(16),
            ..TableDefinition::default()
        };
        assert_eq!(definition, expected);
    }

    #[test]
    fn what_is_shown_can_be_said_again() {
        let definition = TableDefinition {
            n: 5,
            r: QuorumSize::All,
            w: QuorumSize::Count(4),
            reconciler: Some("lww".into()),
            reconciler_digest: Some(Digest::of(b"module")),
            max_value_bytes: 77,
            fold_above: Some(2),
            max_siblings: 3,
            max_actors: 4,
            strict: true,
            sort_keys: true,
        };
        for one in [definition, TableDefinition::default()] {
            let shown = TableSpec::from(&one);
            assert_eq!(read(Value::Object(shown.to_json())), Ok(one.clone()));
            let toml = toml::to_string(&shown).unwrap();
            let again: TableSpec = toml::from_str(&toml).unwrap();
            assert_eq!(again.into_definition(), Ok(one));
        }
    }

    #[test]
    fn every_error_names_its_key() {
        for (wrong, key) in [
            (json!({"n": 0}), "n: "),
            (json!({"n": 101}), "n: "),
            (json!({"n": "three"}), "n: "),
            (json!({"n": 3, "r": 4}), "r: "),
            (json!({"n": 3, "w": 0}), "w: "),
            (json!({"w": "most"}), "w: "),
            (json!({"w": -1}), "w: "),
            (json!({"max_value_bytes": 0}), "max_value_bytes: "),
            (json!({"max_value_bytes": "17MiB"}), "max_value_bytes: "),
            (json!({"max_value_bytes": "a lot"}), "max_value_bytes: "),
            (json!({"fold_above": 0}), "fold_above: "),
            (json!({"fold_above": 10001}), "fold_above: "),
            (json!({"max_siblings": 0}), "max_siblings: "),
            (json!({"max_actors": 0}), "max_actors: "),
            (json!({"quorum": "loose"}), "quorum: "),
            (json!({"sort_keys": 1}), "sort_keys: "),
            (json!({"reconciler": "a/b"}), "reconciler: "),
            (
                json!({"reconciler": "lww", "reconciler_digest": "x"}),
                "reconciler_digest: ",
            ),
            (
                json!({"reconciler_digest": Digest::of(b"").to_string()}),
                "reconciler_digest: ",
            ),
            (json!({"replicas": 3}), "replicas: unknown field"),
        ] {
            let error = read(wrong.clone()).unwrap_err();
            assert!(error.starts_with(key), "{wrong}: {error}");
        }
    }

    #[test]
    fn names_are_plain() {
        for good in ["a", "Carts.v2_x-1", &"x".repeat(128)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(129)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
