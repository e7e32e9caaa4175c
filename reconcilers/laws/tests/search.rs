//! What a search says: verdicts, limits and refusals, and how it is told.

mod native;

use std::ops::ControlFlow;

use kinfold_laws::{Failure, Law, Limit, Outcome, Samples, Settings, Verdict, check};
use native::{Native, found, report, values};

#[test]
fn a_counterexample_is_told_at_a_glance() {
    let joined = Native::fold("one after the other", &["x", "y"], |siblings| {
        Ok(Outcome::Merged(
            values(siblings).flatten().copied().collect(),
        ))
    });
    let Verdict::Violated(told) = report(&joined, 42, 100).verdict else {
        panic!("not found");
    };
    let expected = "\
not idempotent: repeats change nothing, and folding a fold changes nothing

  a = text \"a\"   written at 1, dot 1:1

  all at once    fold(a)    = text \"a\"
  with a twice   fold(a, a) = text \"aa\"
                                     ^

  looks like: values put one after the other; repeats and order must not show: join sets, not lists
  see it again: kinfold reconciler check FILE --seed 42 --cases 1";
    assert_eq!(told.to_string(), expected);
    let json = told.to_json();
    assert_eq!(json["law"], "idempotent");
    assert_eq!(json["siblings"][0]["value"]["text"], "a");
    assert_eq!(json["right"]["expression"], "fold(a, a)");
    assert_eq!(json["right"]["value"]["text"], "aa");
    assert_eq!(
        json["replay"],
        "kinfold reconciler check FILE --seed 42 --cases 1"
    );
}

#[test]
fn what_decides_nothing_is_unchecked_and_not_lawful() {
    let undecided = Native::fold("always unresolved", &["a"], |_| Ok(Outcome::Unresolved));
    let reason = |native: &Native| match report(native, 1, 100).verdict {
        Verdict::Unchecked { reason } => reason,
        other => panic!("{}: {other:?}", native.name),
    };
    let said = reason(&undecided);
    assert!(said.contains("it left them unresolved"), "{said}");
    let refusing = Native::fold("refuses all", &[], |_| Err(Failure::Refused("no".into())));
    let said = reason(&refusing);
    assert!(said.contains("accepts none of the samples (no)"), "{said}");
    // One sibling is itself, and two are never folded.
    let single = Native::fold("one only", &["a", "b"], |siblings| match siblings {
        [one] => Ok(Outcome::Merged(one.value.clone().unwrap_or_default())),
        _ => Ok(Outcome::Unresolved),
    });
    // A repeat of one sibling is two siblings: so much can be seen.
    found(&single, &[Law::Idempotent, Law::Closed], 100);
}

#[test]
fn limits_and_traps_on_its_own_samples_are_findings() {
    let limits = [
        (Limit::Fuel, "ran out of fuel"),
        (Limit::Memory, "ran out of memory"),
        (Limit::Stack, "ran out of stack"),
        (Limit::Output, "gave more than 1 MiB"),
    ];
    for (limit, text) in limits {
        let native = Native::fold(
            "meets a limit",
            &["a", "b"],
            move |siblings| match siblings.len() {
                1 => Ok(Outcome::Merged(b"a".to_vec())),
                _ => Err(Failure::Limit(limit, text.to_owned())),
            },
        );
        found(&native, &[Law::Closed], 50);
    }
    let traps = Native::fold(
        "traps on its own sample",
        &["a", "b"],
        |siblings| match siblings[0].value.as_deref() {
            Some(b"b") => Err(Failure::Trapped("unwrap".into())),
            _ => Ok(Outcome::Merged(b"a".to_vec())),
        },
    );
    found(&traps, &[Law::Closed], 50);
    // The host's own trouble is no evidence.
    let busy = Native::fold("has a busy host", &["a"], |_| {
        Err(Failure::Unavailable("too many instances".into()))
    });
    assert!(matches!(
        report(&busy, 1, 50).verdict,
        Verdict::Unchecked { .. }
    ));
}

#[test]
fn the_caller_may_end_a_search() {
    let greatest = Native::fold("the greatest", &["a", "b"], |siblings| {
        let greatest = values(siblings).max();
        Ok(greatest.map_or(Outcome::Deleted, |value| Outcome::Merged(value.to_vec())))
    });
    let mut told = 0;
    let settings = Settings::new(1, u64::MAX);
    let report = check(&greatest, &Samples::Module, settings, &mut |done| {
        told = done;
        match done < 100 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    assert_eq!((report.tried, told), (100, 100));
    assert!(matches!(report.verdict, Verdict::NoCounterexample { cases } if cases > 50));
}
