//! Making a counterexample small: fewer siblings or steps, then simpler values,
//! then equal times.
//!
//! Promises: what comes out breaks the same law as what went in, by running it.
//! Not promised: that nothing smaller would.

use bytes::Bytes;
use serde_json::Value as Json;

use super::cases::{Case, Deed};
use super::probe::{Finding, probe};
use super::{Subject, version};

/// How many smaller cases are tried: each is some tens of folds.
const MAX_PROBES: usize = 400;

/// Shrinks a case that broke a law.
pub(super) fn shrink(
    subject: &dyn Subject,
    mut case: Case,
    mut finding: Finding,
) -> (Case, Finding) {
    let mut left = MAX_PROBES;
    'smaller: loop {
        for candidate in candidates(&case) {
            if left == 0 || subject.is_spent() {
                return (case, finding);
            }
            left -= 1;
            let probed = probe(subject, &candidate);
            if let Some(found) = probed.finding.filter(|found| found.law == finding.law) {
                case = candidate;
                finding = *found;
                continue 'smaller;
            }
        }
        return (case, finding);
    }
}

/// Cases a little simpler than this one, the boldest first.
fn candidates(case: &Case) -> Vec<Case> {
    match case {
        Case::Values(siblings) => {
            let mut simpler = Vec::new();
            if siblings.len() > 1 {
                for out in 0..siblings.len() {
                    let mut fewer = siblings.clone();
                    fewer.remove(out);
                    simpler.push(Case::Values(fewer));
                }
            }
            for (place, sibling) in siblings.iter().enumerate() {
                let value = sibling.version.value.as_deref().unwrap_or_default();
                for value in simpler_values(value) {
                    let mut other = siblings.clone();
                    other[place].version = version(Some(value), sibling.version.written_at_us);
                    simpler.push(Case::Values(other));
                }
            }
            for (place, sibling) in siblings.iter().enumerate() {
                if sibling.version.written_at_us > 1 {
                    let mut other = siblings.clone();
                    other[place].version.written_at_us = 1;
                    simpler.push(Case::Values(other));
                }
            }
            simpler
        }
        Case::History(steps) => {
            let mut simpler = Vec::new();
            for out in 0..steps.len() {
                let mut fewer = steps.clone();
                fewer.remove(out);
                simpler.push(Case::History(fewer));
            }
            for (place, step) in steps.iter().enumerate() {
                if let Deed::Apply(operation) = &step.deed {
                    for operation in simpler_values(operation) {
                        let mut other = steps.clone();
                        other[place].deed = Deed::Apply(operation);
                        simpler.push(Case::History(other));
                    }
                }
                if step.later_us > 0 {
                    let mut other = steps.clone();
                    other[place].later_us = 0;
                    simpler.push(Case::History(other));
                }
            }
            simpler
        }
    }
}

/// Values shorter than this one, or of the same length and plainer, so that
/// shrinking ends.
fn simpler_values(value: &[u8]) -> Vec<Bytes> {
    let mut simpler: Vec<Vec<u8>> = Vec::new();
    match serde_json::from_slice::<Json>(value) {
        Ok(json) => {
            simpler.extend(
                simpler_json(&json)
                    .iter()
                    .map(|json| json.to_string().into_bytes()),
            );
        }
        Err(_) => {
            let half = value.len() / 2;
            simpler.push(Vec::new());
            simpler.push(value[..half].to_vec());
            simpler.push(value[half..].to_vec());
            // Byte by byte only what a person could look at anyway.
            for out in 0..value.len().min(32) {
                let mut shorter = value.to_vec();
                shorter.remove(out);
                simpler.push(shorter);
            }
        }
    }
    simpler.retain(|other| weight(other) < weight(value));
    simpler.into_iter().map(Bytes::from).collect()
}

/// How plain a value is: its length, then its bytes.
fn weight(value: &[u8]) -> (usize, &[u8]) {
    (value.len(), value)
}

fn simpler_json(json: &Json) -> Vec<Json> {
    match json {
        Json::Object(fields) => {
            let mut simpler = Vec::new();
            for name in fields.keys() {
                let mut fewer = fields.clone();
                fewer.remove(name);
                simpler.push(Json::Object(fewer));
            }
            for (name, field) in fields {
                for field in simpler_json(field) {
                    let mut other = fields.clone();
                    other.insert(name.clone(), field);
                    simpler.push(Json::Object(other));
                }
            }
            simpler
        }
        Json::Array(items) => {
            let mut simpler = Vec::new();
            for out in 0..items.len() {
                let mut fewer = items.clone();
                fewer.remove(out);
                simpler.push(Json::Array(fewer));
            }
            simpler
        }
        Json::Number(_) => vec![Json::from(0), Json::from(1), Json::from(2)],
        Json::String(text) if text.chars().count() > 1 => {
            vec![Json::from(text.chars().take(1).collect::<String>())]
        }
        _ => vec![],
    }
}
