//! `kinfold reconciler rollback`: makes an earlier version of a module current
//! again, and says what was and what is.

use clap::Args;
use serde_json::{Value, json};

use super::super::Common;
use super::super::error::{CliError, expect_success};
use super::super::output::{self, cell};
use super::{path, short_digest};
use crate::client::Request;

pub const EXAMPLES: &str = "\
Tables that name the module fold with the earlier version from then on; those that pin
a digest keep it. A rollback without a digest is undone by another one.

Examples:
  kinfold reconciler rollback my-merge                back to the version before
  kinfold reconciler rollback my-merge 7692c3ad3540   back to this one
  kinfold reconciler show my-merge                    the versions there are";

#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// The module's name
    name: String,
    /// The version: the beginning of its digest [default: the one before]
    digest: Option<String>,
}

pub async fn run(common: &Common, args: RollbackArgs) -> Result<(), CliError> {
    let output = common.output();
    let client = common.client()?;
    let name = &args.name;
    let body = match &args.digest {
        None => json!({}),
        Some(wanted) => {
            let known: Value = expect_success(client.get(&path(name)).await?)?.json()?;
            let versions = output::list(&known, "versions");
            let digests: Vec<String> = versions.iter().map(|one| cell(&one["digest"])).collect();
            json!({ "digest": the_one(&digests, wanted, name)? })
        }
    };
    let request = Request::post(format!("{}/rollback", path(name)), body.to_string())
        .content_type("application/json")?;
    let answer: Value = expect_success(client.send(request).await?)?.json()?;
    if output.json {
        return output.json(&answer);
    }
    output.line(&said(name, &answer))
}

/// The digest that begins like this.
fn the_one<'a>(digests: &'a [String], wanted: &str, name: &str) -> Result<&'a str, CliError> {
    let hex = |digest: &'a String| digest.strip_prefix("sha256:").unwrap_or(digest);
    let wanted = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let mut fitting = digests
        .iter()
        .filter(|digest| !wanted.is_empty() && hex(digest).starts_with(&wanted.to_lowercase()));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "several versions of {name} begin with {wanted}: give more of the digest"
        ))),
        (None, _) => Err(CliError::Usage(format!(
            "no version of {name} begins with {wanted:?}: `kinfold reconciler show {name}` lists \
             them"
        ))),
    }
}

/// What it did.
fn said(name: &str, answer: &Value) -> String {
    let rolled = &answer["rolled_back"];
    if rolled["changed"] != true {
        return format!("{name} has {} current already", short_digest(&rolled["to"]));
    }
    let tables: Vec<String> = output::list(answer, "tables").iter().map(cell).collect();
    let pins = output::list(answer, "versions")
        .iter()
        .flat_map(|version| output::list(version, "pinned_by"))
        .map(cell)
        .collect::<Vec<_>>();
    let (keep, follow): (Vec<_>, Vec<_>) =
        tables.into_iter().partition(|table| pins.contains(table));
    let mut text = format!(
        "{name}: {} → {}",
        short_digest(&rolled["from"]),
        short_digest(&rolled["to"])
    );
    if !follow.is_empty() {
        text = format!("{text}; now folds {}", follow.join(", "));
    }
    if !keep.is_empty() {
        text = format!("{text}; {} pin their own version", keep.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_the_beginning_of_its_digest() {
        let digests = ["sha256:aabb".to_owned(), "sha256:aacc".to_owned()];
        for wanted in ["aab", "sha256:aabb", "AABB"] {
            assert_eq!(the_one(&digests, wanted, "m").unwrap(), "sha256:aabb");
        }
        for wanted in ["aa", "", "x", "sha256:"] {
            assert!(the_one(&digests, wanted, "m").is_err(), "{wanted}");
        }
    }

    #[test]
    fn a_rollback_says_what_it_did_and_to_whom() {
        let answer = json!({
            "rolled_back": {"from": "sha256:aa", "to": "sha256:bb", "changed": true},
            "tables": ["carts", "old", "wishes"],
            "versions": [{"pinned_by": ["old"]}, {"pinned_by": []}],
        });
        assert_eq!(
            said("m", &answer),
            "m: aa → bb; now folds carts, wishes; old pin their own version"
        );
        let same =
            json!({"rolled_back": {"from": "sha256:aa", "to": "sha256:aa", "changed": false}});
        assert_eq!(said("m", &same), "m has aa current already");
    }
}
