//! `GET …/items/{key}?explain=true`: how the answer to a read came about.
//!
//! Always 200 and JSON, whatever a plain GET would say; that is in `status`.
//! Promises: what is told is of the very read that was made for it, with the
//! quorum that was asked for; the module ran as it would have.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::problem::Problem;
use super::service::Service;
use super::siblings::rfc3339;
use super::{Body, token};
use crate::protocol::catalog::Table;
use crate::protocol::id::{ItemKey, NodeId};
use crate::protocol::message::{Explanation, FoldOutcome, Response as Told, Saw, Witness};
use crate::protocol::siblings::Version;
use crate::reconcile::wasm::limit_named;

/// The names of the nodes that this one knows. Ids are hashes of names.
pub struct Names(BTreeMap<NodeId, Arc<str>>);

impl Names {
    /// Those of all members, of those that are gone too.
    pub fn of_cluster<S: Service>(service: &S) -> Self {
        let members = service.cluster_view().members.into_iter();
        Names(
            members
                .map(|member| (NodeId::of(&member.node), member.node))
                .collect(),
        )
    }

    /// The name of a node, or its id where nobody remembers the name.
    pub fn of(&self, node: NodeId) -> String {
        match self.0.get(&node) {
            Some(name) => name.to_string(),
            None => node.to_string(),
        }
    }
}

/// A value as JSON where it is JSON by its type and its bytes, else in base64;
/// and whether it is in base64.
pub fn value_as_json(bytes: &[u8], content_type: &str) -> (Value, bool) {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let parsed = (essence.eq_ignore_ascii_case("application/json"))
        .then(|| serde_json::from_slice(bytes).ok())
        .flatten();
    match parsed {
        Some(value) => (value, false),
        None => (json!(STANDARD.encode(bytes)), true),
    }
}

fn hash(version: &Version) -> Option<String> {
    let value = version.value.as_ref()?;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(value) {
        text.push_str(&format!("{byte:02x}"));
    }
    Some(text)
}

fn plural(count: usize, one: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {one}s")
    }
}

/// What a plain GET would have answered: status, code, detail.
fn plain(told: &Told) -> (u16, Option<String>, Option<String>) {
    let of_problem = |problem: Problem| {
        let document = problem.document();
        let text = |key: &str| document[key].as_str().map(str::to_owned);
        let status = document["status"].as_u64().unwrap_or_default() as u16;
        (status, text("code"), text("detail"))
    };
    match told {
        Told::Value(_) | Told::Written { .. } => (200, None, None),
        Told::Siblings { .. } => (300, None, None),
        Told::Absent { .. } => of_problem(super::items::absent()),
        Told::Refused(refusal) => of_problem(refusal.clone().into()),
        Told::Explained(explanation) => plain(&explanation.told),
    }
}

/// How the read ended, in a word.
fn outcome(explanation: &Explanation) -> &'static str {
    let outcome = explanation.fold.map(|fold| fold.outcome);
    match (&explanation.told, outcome) {
        (Told::Refused(_), _) => "refused",
        (Told::Absent { .. }, Some(_)) => "deleted",
        (Told::Absent { .. }, None) if explanation.set.is_empty() => "absent",
        (Told::Absent { .. }, None) => "deleted",
        (Told::Siblings { .. }, Some(FoldOutcome::Unresolved)) => "unresolved",
        (Told::Siblings { .. }, Some(FoldOutcome::Missing)) => "missing",
        (Told::Siblings { .. }, Some(FoldOutcome::Overloaded)) => "overloaded",
        (Told::Siblings { .. }, Some(FoldOutcome::Quarantined)) => "quarantined",
        (Told::Siblings { .. }, Some(_)) => "failed",
        (Told::Siblings { .. }, None) => "siblings",
        (_, Some(_)) if explanation.set.len() > 1 => "folded",
        (_, Some(_)) => "rendered",
        _ => "value",
    }
}

/// The story in a sentence.
fn story(explanation: &Explanation, reason: Option<&str>, names: &Names) -> String {
    let told = |witness: &&Witness| matches!(witness.saw, Saw::Nothing | Saw::State { .. });
    let answered = explanation.witnesses.iter().filter(told).count();
    let asked = format!(
        "{answered} of the {} asked",
        plural(explanation.witnesses.len(), "replica")
    );
    let mut writers: Vec<String> = explanation
        .set
        .siblings()
        .map(|(dot, _)| names.of(dot.actor.node))
        .collect();
    writers.sort();
    writers.dedup();
    let siblings = format!(
        "{} (written through {})",
        plural(explanation.set.len(), "sibling"),
        writers.join(", ")
    );
    let module = match &explanation.module {
        Some((name, digest)) => format!("{name}@{}", &digest.to_string()[..19]),
        None => "no module".to_owned(),
    };
    let cost = explanation.fold.map_or_else(String::new, |fold| {
        format!(" with {} fuel in {} µs", fold.cost.fuel, fold.cost.time_us)
    });
    let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    match outcome(explanation) {
        "refused" => format!("{asked} answered, too few{why}."),
        "absent" => format!("{asked} answered, and none of them ever heard of the item."),
        "deleted" if explanation.fold.is_some() => {
            format!("{asked} answered; {module} folded {siblings} into a deletion{cost}.")
        }
        "deleted" => format!("{asked} answered; the item was deleted, {siblings} of it are left."),
        "siblings" => {
            format!("{asked} answered; the client gets {siblings}, as {module} folds them{why}.")
        }
        "folded" => format!("{asked} answered; {module} folded {siblings} into one value{cost}."),
        "rendered" => format!("{asked} answered; {module} rendered the one state{cost}."),
        "value" => {
            format!("{asked} answered; there is no conflict, so the value is as it was written.")
        }
        "unresolved" => format!("{asked} answered; {module} declines to fold {siblings}{cost}."),
        _ => format!("{asked} answered; {module} did not fold {siblings}{cost}{why}."),
    }
}

fn witness(names: &Names, witness: &Witness) -> Value {
    let (saw, hash, siblings) = match &witness.saw {
        Saw::Silent => ("silent", None, None),
        Saw::Failed => ("failed", None, None),
        Saw::Nothing => ("nothing", None, Some(Vec::new())),
        Saw::State { hash, siblings } => {
            let dots: Vec<String> = siblings.iter().map(ToString::to_string).collect();
            ("state", Some(hash.to_string()), Some(dots))
        }
    };
    json!({
        "node": names.of(witness.node),
        "primary": witness.primary,
        "answered": matches!(witness.saw, Saw::Nothing | Saw::State { .. }),
        "saw": saw,
        "state": hash,
        "siblings": siblings,
    })
}

/// The explanation as a response.
pub fn represent<S: Service>(
    service: &S,
    table: &Table,
    key: &ItemKey,
    explanation: &Explanation,
) -> Response<Body> {
    let names = Names::of_cluster(service);
    let (status, code, detail) = plain(&explanation.told);
    let (value, value_base64, content_type) = match &explanation.told {
        Told::Value(value) => {
            let (shown, is_base64) = value_as_json(&value.value, &value.content_type);
            (shown, is_base64, Some(value.content_type.clone()))
        }
        _ => (Value::Null, false, None),
    };
    let reason = match &explanation.told {
        Told::Siblings { reason, .. } => reason.clone(),
        Told::Refused(refusal) => Some(refusal.to_string()),
        _ => None,
    };
    let siblings: Vec<Value> = explanation
        .set
        .siblings()
        .map(|(dot, version)| {
            let mut held_by: Vec<String> = explanation
                .witnesses
                .iter()
                .filter(|witness| match &witness.saw {
                    Saw::State { siblings, .. } => siblings.contains(&dot),
                    _ => false,
                })
                .map(|witness| names.of(witness.node))
                .collect();
            held_by.sort();
            json!({
                "dot": dot.to_string(),
                "node": names.of(dot.actor.node),
                "written_at": rfc3339(version.written_at_us),
                "size_bytes": version.value.as_ref().map_or(0, |value| value.len()),
                "content_type": version.content_type.as_ref(),
                "deleted": version.is_tombstone(),
                "hash": hash(version),
                "made_by_fold": version.stands_for.is_some(),
                "held_by": held_by,
            })
        })
        .collect();
    let reconciler = explanation
        .module
        .as_ref()
        .map(|(name, digest)| json!({ "name": name, "digest": digest.to_string() }));
    let replicas: Vec<Value> = explanation
        .witnesses
        .iter()
        .map(|one| witness(&names, one))
        .collect();
    let context =
        (!explanation.set.is_empty()).then(|| token::of_read(key, explanation.set.context()));
    let document = json!({
        "table": table.name.as_ref(),
        "status": status,
        "code": code,
        "detail": detail,
        "outcome": outcome(explanation),
        "story": story(explanation, reason.as_deref(), &names),
        "value": value,
        "value_base64": value_base64,
        "content_type": content_type,
        "context": context,
        "siblings": siblings,
        "replicas": replicas,
        "reconciler": reconciler,
        "reason": reason,
        "limit": reason.as_deref().and_then(limit_named),
        "fuel": explanation.fold.map(|fold| fold.cost.fuel),
        "time_us": explanation.fold.map(|fold| fold.cost.time_us),
    });
    super::json(StatusCode::OK, &document)
}
