//! A table's definition as people write it, in a config file or as JSON.
//!
//! Promises: every key has a default; an unknown one is an error; what is not
//! possible (r over n, no siblings at all) is refused with the key it is about.

use serde::Deserialize;

use super::{MAX_REPLICAS, units};
use crate::protocol::catalog::{Digest, MAX_NAME_BYTES, QuorumSize, TableDefinition};

/// The definition as it is written.
#[derive(Deserialize, Debug, Default)]
#[serde(default, deny_unknown_fields)]
pub struct TableSpec {
    n: Option<u32>,
    r: Option<Replicas>,
    w: Option<Replicas>,
    reconciler: Option<String>,
    reconciler_digest: Option<String>,
    #[serde(deserialize_with = "optional_size")]
    max_value_bytes: Option<u64>,
    fold_above: Option<u32>,
    max_siblings: Option<u32>,
    max_actors: Option<u32>,
    quorum: Option<QuorumKind>,
    sort_keys: Option<bool>,
}

/// `2`, `"quorum"` or `"all"`.
#[derive(Deserialize, Debug)]
#[serde(untagged, expecting = "expected a number, \"quorum\" or \"all\"")]
enum Replicas {
    Count(u32),
    Named(NamedReplicas),
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
enum NamedReplicas {
    Quorum,
    All,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum QuorumKind {
    Sloppy,
    Strict,
}

fn optional_size<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    units::size(deserializer).map(Some)
}

impl From<Replicas> for QuorumSize {
    fn from(replicas: Replicas) -> Self {
        match replicas {
            Replicas::Count(count) => QuorumSize::Count(count),
            Replicas::Named(NamedReplicas::Quorum) => QuorumSize::Quorum,
            Replicas::Named(NamedReplicas::All) => QuorumSize::All,
        }
    }
}

impl TableSpec {
    /// The definition, or the key that cannot be meant and why.
    pub fn definition(self) -> Result<TableDefinition, (&'static str, String)> {
        let default = TableDefinition::default();
        let n = self.n.unwrap_or(default.n);
        if !(1..=MAX_REPLICAS).contains(&n) {
            return Err(("n", format!("{n} is not from 1 to {MAX_REPLICAS}")));
        }
        let replicas = |key, said: Option<Replicas>, default: QuorumSize| {
            let size = said.map_or(default, QuorumSize::from);
            match (size.resolve(n), size) {
                (None, QuorumSize::Count(count)) => Err((
                    key,
                    format!(
                        "{count} is not from 1 to n, which is {n}; or say \"quorum\" or \"all\""
                    ),
                )),
                _ => Ok(size),
            }
        };
        let r = replicas("r", self.r, default.r)?;
        let w = replicas("w", self.w, default.w)?;
        if let Some(name) = &self.reconciler {
            super::check_name(name, MAX_NAME_BYTES).map_err(|reason| ("reconciler", reason))?;
        }
        let reconciler_digest = match &self.reconciler_digest {
            None => None,
            Some(text) => Some(
                text.parse::<Digest>()
                    .map_err(|error| ("reconciler_digest", format!("{text:?}: {error}")))?,
            ),
        };
        let at_least_one = |key, said: Option<u32>, default: u32| match said.unwrap_or(default) {
            0 => Err((key, "must be at least 1".to_owned())),
            some => Ok(some),
        };
        if self.max_value_bytes == Some(0) {
            return Err(("max_value_bytes", "must be at least 1".to_owned()));
        }
        Ok(TableDefinition {
            n,
            r,
            w,
            reconciler: self
                .reconciler
                .filter(|name| name != "none")
                .map(Into::into),
            reconciler_digest,
            max_value_bytes: self.max_value_bytes.unwrap_or(default.max_value_bytes),
            fold_above: match self.fold_above {
                None => None,
                said => Some(at_least_one("fold_above", said, 1)?),
            },
            max_siblings: at_least_one("max_siblings", self.max_siblings, default.max_siblings)?,
            max_actors: at_least_one("max_actors", self.max_actors, default.max_actors)?,
            strict: self.quorum == Some(QuorumKind::Strict),
            sort_keys: self.sort_keys.unwrap_or(default.sort_keys),
        })
    }
}
