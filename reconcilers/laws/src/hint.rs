//! Which classic mistake a counterexample looks like.
//!
//! Promises: nothing: a hint is a guess from inputs and results, worded as one,
//! and none where nothing is recognised.

use serde_json::Value as Json;

use crate::finding::{Finding, Law};
use crate::subject::{Failure, Limit, Outcome, Sibling};

/// Results of this length and more may have been cut; shorter ones are short.
const MIN_CUT_BYTES: usize = 4;

const LOOP: &str = "a loop without end, or work that grows much faster than its input; \
    bound every loop by the size of what it reads";
const MEMORY: &str = "memory that grows without end, or a buffer of a size that the input claims; \
    allocate no more than the input is long";
const STACK: &str = "a recursion without end, or one as deep as its input; \
    use a loop, or bound the depth";
const OUTPUT: &str = "an output much larger than its inputs; \
    keep what is folded about as large as what went in";
const TRAP: &str = "a panic on some number or combination of siblings (an index, an unwrap, a \
    division); return an error for what may happen, and write the merge for any number of siblings";
const PARSER: &str = "an output in another form than the inputs; \
    what a fold gives comes back as a sibling, so write what you read";
const CONCATENATION: &str = "values put one after the other; \
    repeats and order must not show: join sets, not lists";
const SUM: &str = "a sum: what arrives twice is counted twice; \
    keep a count for each writer, as pn-counter does";
const MEAN: &str = "a mean: it depends on how often and in which groups values arrive; \
    keep what it is made of (each reading under its own name), and take the mean when it is read";
const FLOATS: &str = "floats added up in the order of arrival: (0.1 + 0.2) + 0.3 is not \
    0.1 + (0.2 + 0.3); sort before adding, or count in integers";
const DUPLICATES: &str = "a union that keeps duplicates; \
    keep each element once, in an order of its own";
const ARRIVAL: &str = "the same elements in another order: they are listed as they arrived, or as \
    a hash map has them; sort them, or use an ordered map";
const TIE: &str = "last write wins without a tie-break; \
    of two versions with one written-at, take the one with the greater dot";
const FIRST: &str = "whichever sibling comes first (or last) in the list wins; \
    choose by written-at, then dot, not by place";
const CUT: &str = "a result that is cut to a maximum length: what is cut off comes back with the \
    next sibling; refuse what is too long, or keep the least elements, whole";
const TOMBSTONE: &str = "deletions that are ignored, though their time is not: a fold carries the \
    newest written-at of all its inputs, deletions too; let a deletion win or lose like any version";
const PAST: &str = "an operation that forgets part of the state that it was made from; \
    every operation must leave a state that includes the one before";

/// The mistake that the finding looks like.
pub(crate) fn hint(finding: &Finding) -> Option<&'static str> {
    let failures = [&finding.right.answer, &finding.left.answer];
    let failure = failures
        .into_iter()
        .find_map(|answer| answer.as_ref().err());
    if let Some(failure) = failure {
        return match failure {
            Failure::Limit(Limit::Fuel, _) => Some(LOOP),
            Failure::Limit(Limit::Memory, _) => Some(MEMORY),
            Failure::Limit(Limit::Stack, _) => Some(STACK),
            Failure::Limit(Limit::Output, _) => Some(OUTPUT),
            Failure::Trapped(_) => Some(TRAP),
            Failure::Refused(_) if finding.law == Law::Closed => Some(PARSER),
            Failure::Refused(_) | Failure::Unavailable(_) => None,
        };
    }
    let merged = |answer: &Result<Outcome, Failure>| match answer {
        Ok(Outcome::Merged(value)) => Some(value.clone()),
        _ => None,
    };
    let (left, right) = (merged(&finding.left.answer), merged(&finding.right.answer));
    let values: Vec<&[u8]> = finding
        .siblings
        .iter()
        .filter_map(|sibling| sibling.value.as_deref())
        .collect();
    let both = left.as_deref().zip(right.as_deref());
    let json = both.and_then(|(left, right)| {
        let parse = |value| serde_json::from_slice::<Json>(value).ok();
        Some((parse(left)?, parse(right)?))
    });
    both.and_then(|(left, right)| concatenated(left, right, &values))
        .or_else(|| both.and_then(|(left, right)| last_digits(left, right)))
        .or_else(|| {
            json.as_ref()
                .and_then(|(left, right)| numbers(left, right, &values))
        })
        .or_else(|| json.as_ref().and_then(|(left, right)| lists(left, right)))
        .or_else(|| chosen(finding))
        .or_else(|| both.and_then(|(left, right)| cut(left, right)))
        .or_else(|| (finding.law == Law::DataType && !finding.siblings.is_empty()).then_some(PAST))
}

/// Both are the inputs' bytes one after the other.
fn concatenated(left: &[u8], right: &[u8], values: &[&[u8]]) -> Option<&'static str> {
    let is_made_of = |mut whole: &[u8]| {
        let mut pieces = 0;
        'next: while !whole.is_empty() {
            let mut tried: Vec<&&[u8]> = values.iter().filter(|value| !value.is_empty()).collect();
            tried.sort_by_key(|value| std::cmp::Reverse(value.len()));
            for value in tried {
                // A separator of one byte may stand between.
                for skip in 0..=usize::from(pieces > 0) {
                    if whole
                        .get(skip..)
                        .is_some_and(|rest| rest.starts_with(value))
                    {
                        whole = &whole[skip + value.len()..];
                        pieces += 1;
                        continue 'next;
                    }
                }
            }
            return 0;
        }
        pieces
    };
    (is_made_of(left).max(is_made_of(right)) >= 2).then_some(CONCATENATION)
}

/// The numbers of two documents that differ, at the first place where they do.
fn numbers_that_differ(left: &Json, right: &Json) -> Option<(f64, f64)> {
    match (left, right) {
        (Json::Number(left), Json::Number(right)) if left != right => {
            Some((left.as_f64()?, right.as_f64()?))
        }
        (Json::Object(left), Json::Object(right)) => left
            .iter()
            .filter_map(|(name, field)| Some((field, right.get(name)?)))
            .find_map(|(left, right)| numbers_that_differ(left, right)),
        (Json::Array(left), Json::Array(right)) => left
            .iter()
            .zip(right)
            .find_map(|(left, right)| numbers_that_differ(left, right)),
        _ => None,
    }
}

/// Every number in a document.
fn all_numbers(json: &Json, found: &mut Vec<f64>) {
    match json {
        Json::Number(number) => found.extend(number.as_f64()),
        Json::Object(fields) => fields.values().for_each(|field| all_numbers(field, found)),
        Json::Array(items) => items.iter().for_each(|item| all_numbers(item, found)),
        _ => {}
    }
}

fn numbers(left: &Json, right: &Json, values: &[&[u8]]) -> Option<&'static str> {
    let (left, right) = numbers_that_differ(left, right)?;
    let mut inputs = Vec::new();
    for value in values {
        if let Ok(json) = serde_json::from_slice::<Json>(value) {
            all_numbers(&json, &mut inputs);
        }
    }
    let least = inputs.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = inputs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let is_input = |result: f64| inputs.iter().any(|input| (input - result).abs() < 1e-9);
    let between = |result: f64| result > least && result < greatest && !is_input(result);
    // A sum leaves the range of its inputs, a mean lies inside it.
    if left > greatest || right > greatest || left < least || right < least {
        return Some(SUM);
    }
    (between(left) || between(right)).then_some(MEAN)
}

/// Both are JSON with one number that differs in its last digits only, which a
/// reader of floats may not even see.
fn last_digits(left: &[u8], right: &[u8]) -> Option<&'static str> {
    let start = left
        .iter()
        .zip(right)
        .take_while(|(one, other)| one == other);
    let start = start.count();
    let token = |value: &[u8]| -> Option<f64> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'-' | b'+');
        let before = value[..start]
            .iter()
            .rev()
            .take_while(|byte| is_digit(byte));
        let after = value[start..].iter().take_while(|byte| is_digit(byte));
        let (from, to) = (start - before.count(), start + after.count());
        std::str::from_utf8(&value[from..to]).ok()?.parse().ok()
    };
    let (one, other) = (token(left)?, token(right)?);
    let is_near = (one - other).abs() <= one.abs().max(other.abs()) * 1e-9;
    (one != other && is_near).then_some(FLOATS)
}

/// Elements of the first two lists that differ, as texts.
fn lists_that_differ(left: &Json, right: &Json) -> Option<(Vec<String>, Vec<String>)> {
    let texts = |items: &[Json]| items.iter().map(Json::to_string).collect();
    match (left, right) {
        (Json::Array(left), Json::Array(right)) if left != right => {
            Some((texts(left), texts(right)))
        }
        (Json::Object(left), Json::Object(right)) => left
            .iter()
            .filter_map(|(name, field)| Some((field, right.get(name)?)))
            .find_map(|(left, right)| lists_that_differ(left, right)),
        _ => None,
    }
}

fn lists(left: &Json, right: &Json) -> Option<&'static str> {
    if left == right {
        // The same document in other bytes: its keys are in another order.
        return Some(ARRIVAL);
    }
    let (mut left, mut right) = lists_that_differ(left, right)?;
    left.sort();
    right.sort();
    if left == right {
        return Some(ARRIVAL);
    }
    left.dedup();
    right.dedup();
    (left == right).then_some(DUPLICATES)
}

/// Both results are inputs, so the module chooses, and chooses wrongly.
fn chosen(finding: &Finding) -> Option<&'static str> {
    let choice = |answer: &Result<Outcome, Failure>| -> Option<Vec<&Sibling>> {
        let value = match answer {
            Ok(Outcome::Merged(value)) => Some(value),
            Ok(Outcome::Deleted) => None,
            _ => return None,
        };
        let chosen = finding.siblings.iter();
        let chosen: Vec<&Sibling> = chosen
            .filter(|sibling| sibling.value.as_ref() == value)
            .collect();
        (!chosen.is_empty()).then_some(chosen)
    };
    let (left, right) = (
        choice(&finding.left.answer)?,
        choice(&finding.right.answer)?,
    );
    let times = |chosen: &[&Sibling]| {
        let times = chosen.iter().map(|sibling| sibling.written_at_us);
        times.max().unwrap_or(0)
    };
    let newest = finding.siblings.iter().map(|one| one.written_at_us).max()?;
    let has_tombstone = finding.siblings.iter().any(|one| one.value.is_none());
    match finding.law {
        Law::OrderFree if times(&left) == newest && times(&right) == newest => Some(TIE),
        Law::OrderFree => Some(FIRST),
        Law::Regroupable | Law::Idempotent if has_tombstone => Some(TOMBSTONE),
        _ => None,
    }
}

/// Both have one length, as if something had cut them.
fn cut(left: &[u8], right: &[u8]) -> Option<&'static str> {
    (left.len() == right.len() && left.len() >= MIN_CUT_BYTES).then_some(CUT)
}
