//! Making a counterexample small: fewer siblings or steps, then simpler values,
//! then plain times, types and names.
//!
//! Promises: what comes out breaks the same law in the same way as what went in,
//! by running it. Not promised: that nothing smaller would.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::case::{Case, Deed, History, REPLICAS, Values, dot, plain_item, usual_type};
use crate::check::try_case;
use crate::finding::Finding;
use crate::subject::{Sibling, Subject};

/// How many smaller cases are tried: each is some tens of folds.
const MAX_PROBES: usize = 600;
/// The same where each takes until a limit, which is seconds.
const MAX_SLOW_PROBES: usize = 4;
/// The plainest values there are, each kind of them: in the order of their bytes.
const PLAINEST: [&[&str]; 3] = [
    &["a", "b", "c", "d", "e"],
    &["1", "2", "3", "4", "5"],
    &["\"a\"", "\"b\"", "\"c\"", "\"d\"", "\"e\""],
];
/// Bytes beyond this are taken away in halves only.
const MAX_SINGLE_BYTES: usize = 48;

/// Shrinks a case that broke a law.
pub(crate) fn shrink(
    subject: &dyn Subject,
    mut case: Case,
    mut finding: Finding,
) -> (Case, Finding) {
    let signature = finding.signature();
    let mut left = if finding.is_slow() {
        MAX_SLOW_PROBES
    } else {
        MAX_PROBES
    };
    'smaller: loop {
        for candidate in candidates(&case) {
            if left == 0 || subject.is_spent() {
                return (case, finding);
            }
            left -= 1;
            if let Err(found) = try_case(subject, &candidate)
                && found.signature() == signature
            {
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
        Case::Values(values) => {
            let simpler = simpler_siblings(values);
            simpler.into_iter().map(Case::Values).collect()
        }
        Case::History(history) => {
            let simpler = simpler_histories(history);
            simpler.into_iter().map(Case::History).collect()
        }
    }
}

fn simpler_siblings(values: &Values) -> Vec<Values> {
    let siblings = &values.siblings;
    let mut simpler = Vec::new();
    let mut push = |change: &dyn Fn(&mut Values)| {
        let mut other = values.clone();
        change(&mut other);
        if other != *values {
            simpler.push(other);
        }
    };
    if siblings.len() > 1 {
        for out in 0..siblings.len() {
            push(&|other| {
                other.siblings.remove(out);
            });
        }
    }
    for letters in PLAINEST {
        push(&|other| name_values(&mut other.siblings, letters));
    }
    for (place, sibling) in siblings.iter().enumerate() {
        let Some(value) = &sibling.value else {
            continue;
        };
        // Another sibling's value, where that is plainer.
        for other in siblings.iter().filter_map(|other| other.value.as_ref()) {
            if weight(other) < weight(value) {
                push(&|changed| changed.siblings[place].value = Some(other.clone()));
            }
        }
        for plainer in simpler_values(value) {
            push(&|changed| {
                let usual = usual_type(Some(value)) == sibling.content_type;
                if usual {
                    changed.siblings[place].content_type = usual_type(Some(&plainer));
                }
                changed.siblings[place].value = Some(plainer.clone());
            });
        }
    }
    // Times by turn, 1, 2, 3, so that nobody takes equal ones for the cause;
    // where they are the cause, as many as can be are 1.
    let by_turn = (1..)
        .zip(siblings)
        .all(|(time, one)| one.written_at_us == time);
    if !by_turn {
        push(&|other| {
            for (time, sibling) in (1..).zip(&mut other.siblings) {
                sibling.written_at_us = time;
            }
        });
        push(&|other| {
            let mut times: Vec<u64> = siblings.iter().map(|one| one.written_at_us).collect();
            times.sort_unstable();
            times.dedup();
            for sibling in &mut other.siblings {
                let rank = times.binary_search(&sibling.written_at_us);
                sibling.written_at_us = rank.map_or(1, |rank| rank as u64 + 1);
            }
        });
    }
    for (place, sibling) in siblings.iter().enumerate() {
        if sibling.written_at_us > 1 && !by_turn {
            push(&|other| other.siblings[place].written_at_us = 1);
        }
        push(&|other| {
            other.siblings[place].content_type = usual_type(sibling.value.as_deref());
        });
    }
    // An actor each, in the same order, and a plain item.
    push(&|other| {
        for (actor, sibling) in other.siblings.iter_mut().enumerate() {
            sibling.dot = dot(actor, 1);
        }
    });
    push(&|other| other.item = plain_item());
    simpler
}

/// Which of [`PLAINEST`] a value is like: no JSON, a number, or a string.
fn kind(value: &[u8]) -> Option<usize> {
    match serde_json::from_slice(value) {
        Err(_) => Some(0),
        Ok(Json::Number(_)) => Some(1),
        Ok(Json::String(_)) => Some(2),
        Ok(_) => None,
    }
}

/// Puts one of these in the place of each value, the same for equal ones, where
/// that makes all of them plainer.
fn name_values(siblings: &mut [Sibling], letters: &[&str]) {
    let values = siblings.iter().filter_map(|one| one.value.clone());
    let distinct: BTreeSet<Vec<u8>> = values.collect();
    let named: BTreeMap<Vec<u8>, &[u8]> = distinct
        .into_iter()
        .zip(letters.iter().map(|letter| letter.as_bytes()))
        .collect();
    let is_plainer = |value: &Vec<u8>| {
        let letter = named.get(value);
        letter.is_some_and(|letter| weight(letter) <= weight(value))
    };
    let mut values = siblings.iter().filter_map(|one| one.value.as_ref());
    // Texts stay texts, and numbers numbers.
    let of_kind = |value: &Vec<u8>| kind(value) == kind(letters[0].as_bytes());
    if !values.all(|value| is_plainer(value) && of_kind(value)) {
        return;
    }
    for sibling in siblings {
        if let Some(value) = &sibling.value {
            let plain = named[value].to_vec();
            sibling.content_type = usual_type(Some(&plain));
            sibling.value = Some(plain);
        }
    }
}

fn simpler_histories(history: &History) -> Vec<History> {
    let mut simpler = Vec::new();
    let mut push = |change: &dyn Fn(&mut History)| {
        let mut other = history.clone();
        change(&mut other);
        if other != *history {
            simpler.push(other);
        }
    };
    push(&|other| other.recalled.clear());
    for out in 0..history.recalled.len() {
        push(&|other| {
            other.recalled.remove(out);
        });
    }
    let count = history.steps.len();
    if count > 3 {
        push(&|other| {
            other.steps.drain(..count / 2);
        });
        push(&|other| other.steps.truncate(count / 2));
    }
    for out in 0..count {
        push(&|other| {
            other.steps.remove(out);
        });
    }
    push(&|other| other.ahead_us = [0; REPLICAS]);
    for (place, step) in history.steps.iter().enumerate() {
        if step.replica > 0 {
            push(&|other| other.steps[place].replica = step.replica - 1);
        }
        if let Deed::Apply(operation) = &step.deed {
            for operation in simpler_values(operation) {
                push(&|other| other.steps[place].deed = Deed::Apply(operation.clone()));
            }
        }
        if step.later_us > 0 {
            push(&|other| other.steps[place].later_us = 0);
        }
    }
    push(&|other| other.item = plain_item());
    // A replica that takes in its own state does nothing: such steps go first
    // among those that are left out.
    simpler.retain(|history| {
        let to_itself =
            |step: &crate::case::Step| matches!(step.deed, Deed::Merge(of) if of == step.replica);
        !history.steps.iter().any(to_itself)
    });
    simpler
}

/// Values shorter than this one, or of the same length and plainer, so that
/// shrinking ends.
fn simpler_values(value: &[u8]) -> Vec<Vec<u8>> {
    let mut simpler: Vec<Vec<u8>> = Vec::new();
    match serde_json::from_slice::<Json>(value) {
        Ok(json) => {
            let texts = simpler_json(&json);
            simpler.extend(texts.iter().map(|json| json.to_string().into_bytes()));
        }
        Err(_) => {
            let half = value.len() / 2;
            simpler.push(Vec::new());
            simpler.push(value[..half].to_vec());
            simpler.push(value[half..].to_vec());
            let lines: Vec<&[u8]> = value.split_inclusive(|byte| *byte == b'\n').collect();
            if lines.len() > 1 {
                for out in 0..lines.len().min(MAX_SINGLE_BYTES) {
                    let mut fewer = lines.clone();
                    fewer.remove(out);
                    simpler.push(fewer.concat());
                }
            }
            // Byte by byte only what a person could look at anyway.
            for out in 0..value.len().min(MAX_SINGLE_BYTES) {
                let mut shorter = value.to_vec();
                shorter.remove(out);
                simpler.push(shorter);
            }
        }
    }
    simpler.retain(|other| weight(other) < weight(value));
    simpler
}

/// How plain a value is: its length, then its bytes.
fn weight(value: &[u8]) -> (usize, &[u8]) {
    (value.len(), value)
}

fn simpler_json(json: &Json) -> Vec<Json> {
    match json {
        Json::Object(fields) => {
            let mut simpler = vec![Json::Object(serde_json::Map::new())];
            if fields.len() > 3 {
                // Half of many fields at a time.
                for keep in 0..2 {
                    let half = fields.iter().enumerate();
                    let half = half.filter(|(place, _)| place * 2 / fields.len() == keep);
                    let half = half.map(|(_, (name, field))| (name.clone(), field.clone()));
                    simpler.push(Json::Object(half.collect()));
                }
            }
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
            for (name, field) in fields {
                for short in ["a", "b"] {
                    if !fields.contains_key(short) {
                        let mut other = fields.clone();
                        other.remove(name);
                        other.insert(short.to_owned(), field.clone());
                        simpler.push(Json::Object(other));
                    }
                }
            }
            simpler
        }
        Json::Array(items) => {
            let mut simpler = vec![Json::Array(vec![])];
            if items.len() > 3 {
                simpler.push(Json::from(items[..items.len() / 2].to_vec()));
                simpler.push(Json::from(items[items.len() / 2..].to_vec()));
            }
            for out in 0..items.len() {
                let mut fewer = items.clone();
                fewer.remove(out);
                simpler.push(Json::Array(fewer));
            }
            for (place, item) in items.iter().enumerate() {
                for item in simpler_json(item) {
                    let mut other = items.clone();
                    other[place] = item;
                    simpler.push(Json::Array(other));
                }
            }
            simpler
        }
        Json::Number(_) => vec![Json::from(0), Json::from(1), Json::from(2)],
        Json::String(text) if text.chars().count() > 1 => {
            let half: String = text.chars().take(text.chars().count() / 2).collect();
            let first: String = text.chars().take(1).collect();
            vec![
                Json::from("a"),
                Json::from("b"),
                Json::from(first),
                Json::from(half),
            ]
        }
        _ => vec![],
    }
}
