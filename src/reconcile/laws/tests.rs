//! The check finds what is wrong and passes what is right.

use super::*;
use crate::reconcile::registry::built_ins;
use crate::reconcile::wasm::SandboxLimits;

const MISBEHAVE: &[u8] = include_bytes!("../../../reconcilers/prebuilt/test/misbehave.wasm");

fn verdict(module: &[u8], seed: u64, cases: u64) -> Verdict {
    let sandbox = Sandbox::new(SandboxLimits::default(), None).expect("a sandbox");
    let loaded = sandbox.prepare(module).expect("a module");
    check(
        &sandbox,
        &loaded,
        &Samples::Module,
        seed,
        cases,
        &mut |_| {},
    )
}

#[test]
fn the_built_ins_are_lawful() {
    for (name, bytes) in built_ins() {
        for seed in [1, 2] {
            match verdict(bytes, seed, 150) {
                Verdict::NoCounterexample { cases, .. } => {
                    assert!(cases > 120, "{name}: only {cases} were decided");
                }
                Verdict::Unchecked { reason, .. } => panic!("{name}: {reason}"),
                Verdict::Violated(counterexample) => panic!("{name}: {counterexample}"),
            }
        }
    }
}

#[test]
fn a_module_that_strings_values_together_is_caught_and_told_plainly() {
    let Verdict::Violated(found) = verdict(MISBEHAVE, 42, 250) else {
        panic!("not caught");
    };
    // Values one after the other mind repeats as much as order; which is met
    // first is up to the seed.
    assert_eq!(found.law, Law::Idempotent);
    let text = found.to_string();
    let expected = "\
not idempotent: repeats change nothing, and folding a fold changes nothing
  a = 0, written at 1, dot 1:1
  fold(a) gave 0
  fold(a, a) gave text \"00\"
  seed 42";
    assert_eq!(text, expected);
    let json = found.to_json();
    assert_eq!(json["law"], "idempotent");
    assert_eq!(json["siblings"][0]["value"]["json"], 0);
    assert_eq!(json["seed"], 42);
    // The seed finds the same again.
    assert_eq!(verdict(MISBEHAVE, 42, 250), Verdict::Violated(found));
}

/// A fold in plain Rust.
struct Native<F>(F);

impl<F: Fn(&[GuestSibling]) -> Answer> Subject for Native<F> {
    fn kind(&self) -> ModuleKind {
        ModuleKind::Reconciler
    }
    fn samples(&self, _seed: u64, _count: u32) -> Option<Vec<Vec<u8>>> {
        None
    }
    fn fold(&self, siblings: &[GuestSibling]) -> Answer {
        (self.0)(siblings)
    }
    fn apply(&self, _state: Option<&[u8]>, _operation: &Operation) -> Answer {
        Answer::Refused("no operations here".to_owned())
    }
    fn render(&self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

fn of(fold: impl Fn(&[GuestSibling]) -> Answer) -> Verdict {
    check_subject(&Native(fold), &Samples::Module, 3, 500, &mut |_| {})
}

/// The law that is found broken; none when all hold.
fn broken(fold: impl Fn(&[GuestSibling]) -> Answer) -> Option<Law> {
    match of(fold) {
        Verdict::Violated(found) => Some(found.law),
        Verdict::NoCounterexample { .. } => None,
        Verdict::Unchecked { reason, .. } => panic!("{reason}"),
    }
}

fn values(siblings: &[GuestSibling]) -> impl Iterator<Item = &Bytes> {
    siblings
        .iter()
        .filter_map(|sibling| sibling.version.value.as_ref())
}

fn greatest(siblings: &[GuestSibling]) -> Answer {
    Answer::Value(values(siblings).max().cloned())
}

#[test]
fn the_usual_mistakes_are_found() {
    assert_eq!(broken(greatest), None);

    // First wins.
    let first = |siblings: &[GuestSibling]| Answer::Value(siblings[0].version.value.clone());
    assert_eq!(broken(first), Some(Law::OrderFree));

    // A sum, whatever the order, counts repeats twice.
    let sum = |siblings: &[GuestSibling]| {
        let bytes = values(siblings).flat_map(|value| value.iter());
        let sum = bytes.fold(0u64, |sum, byte| sum + u64::from(*byte));
        Answer::Value(Some(sum.to_string().into()))
    };
    assert_eq!(broken(sum), Some(Law::Idempotent));

    // The value with the most votes among different dots: repeats change
    // nothing, but a fold has one vote.
    let majority = |siblings: &[GuestSibling]| {
        let mut distinct: Vec<&GuestSibling> = siblings.iter().collect();
        distinct.sort_by_key(|sibling| sibling.dot);
        distinct.dedup_by_key(|sibling| sibling.dot);
        let votes = |value: &Option<Bytes>| {
            let same = distinct
                .iter()
                .filter(|sibling| sibling.version.value == *value);
            same.count()
        };
        let winner = distinct
            .iter()
            .map(|sibling| &sibling.version.value)
            .max_by_key(|value| (votes(value), (*value).clone()));
        Answer::Value(winner.and_then(Clone::clone))
    };
    assert!(matches!(
        broken(majority),
        Some(Law::Regroupable | Law::Idempotent)
    ));

    // Refuses what it made itself.
    let picky = |siblings: &[GuestSibling]| {
        if values(siblings).any(|value| value.starts_with(b"folded")) {
            return Answer::Refused("not mine".to_owned());
        }
        match greatest(siblings) {
            Answer::Value(Some(value)) => {
                Answer::Value(Some([b"folded ", &value[..]].concat().into()))
            }
            other => other,
        }
    };
    assert_eq!(broken(picky), Some(Law::Closed));

    // Remembers.
    let calls = std::cell::Cell::new(0);
    let forgetful = |_: &[GuestSibling]| {
        calls.set(calls.get() + 1);
        Answer::Value(Some(format!("{}", calls.get()).into()))
    };
    assert_eq!(broken(forgetful), Some(Law::Deterministic));
}

#[test]
fn what_is_refused_is_not_held_against_a_module() {
    // Takes JSON only, and keeps the greatest.
    let json_only = |siblings: &[GuestSibling]| {
        let is_json =
            |value: &Bytes| serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok();
        if values(siblings).all(is_json) {
            greatest(siblings)
        } else {
            Answer::Refused("no JSON".to_owned())
        }
    };
    assert_eq!(broken(json_only), None);
    let refuses = |_: &[GuestSibling]| Answer::Refused("no".to_owned());
    assert!(matches!(of(refuses), Verdict::Unchecked { .. }));
    let declines = |_: &[GuestSibling]| Answer::Unresolved;
    assert!(matches!(of(declines), Verdict::NoCounterexample { .. }));
}

/// Last write wins breaks ties by dot, so a fold has to carry the dot of the
/// write that won: with the greatest dot of all it would win ties that its own
/// write loses.
#[test]
fn a_fold_carries_the_time_and_the_dot_of_one_write() {
    let at = |written_at_us: u64, counter: u64| GuestSibling {
        dot: cases::dot(0, counter),
        version: version(None, written_at_us),
    };
    let standing = stand_in(&[at(5, 1), at(3, 9)], version(None, 0));
    assert_eq!(standing.version.written_at_us, 5);
    assert_eq!(standing.dot, cases::dot(0, 1));
}

/// A counter whose operations forget what they saw.
struct BadCounter;

impl Subject for BadCounter {
    fn kind(&self) -> ModuleKind {
        ModuleKind::DataType
    }
    fn samples(&self, _seed: u64, _count: u32) -> Option<Vec<Vec<u8>>> {
        Some(vec![b"1".to_vec(), b"5".to_vec(), b"9".to_vec()])
    }
    fn fold(&self, siblings: &[GuestSibling]) -> Answer {
        greatest(siblings)
    }
    fn apply(&self, _state: Option<&[u8]>, operation: &Operation) -> Answer {
        Answer::Value(Some(operation.body.clone()))
    }
    fn render(&self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn a_data_type_that_loses_its_past_is_caught() {
    let verdict = check_subject(&BadCounter, &Samples::Module, 1, 200, &mut |_| {});
    let Verdict::Violated(found) = verdict else {
        panic!("not caught");
    };
    assert_eq!(found.law, Law::DataType);
    assert_eq!(found.history.len(), 2, "{found}");
}
