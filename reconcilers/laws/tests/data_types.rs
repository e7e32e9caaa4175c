//! Data types that are nearly right: what the check finds, on every one of
//! several seeds; and plain ones that it must not find.

mod native;

use std::collections::{BTreeMap, BTreeSet};

use kinfold_laws::{Event, Failure, Law, Outcome, Sibling, Verdict, View};
use native::{Native, found, report, values, verdicts};
use serde::de::DeserializeOwned;
use serde_json::json;

const STEPS: &[&str] = &["1", "2", "5", "-3"];
/// `+a` adds, `-a` removes.
const CHANGES: &[&str] = &["+a", "+b", "+c", "+d", "+e", "-a", "-b", "-c", "-d"];

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::Refused(error.to_string()))
}

fn written(value: impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(&value).expect("JSON")
}

/// A fold that joins states two by two; only tombstones leave nothing.
fn joining<T: DeserializeOwned + serde::Serialize>(
    siblings: &[&Sibling],
    join: impl Fn(T, T) -> T,
) -> Result<Outcome, Failure> {
    let mut all: Option<T> = None;
    for value in values(siblings) {
        let next = read(value)?;
        all = Some(match all {
            Some(all) => join(all, next),
            None => next,
        });
    }
    Ok(all.map_or(Outcome::Deleted, |all| Outcome::Merged(written(all))))
}

fn state<T: DeserializeOwned + Default>(state: Option<&[u8]>) -> Result<T, Failure> {
    state.map_or(Ok(T::default()), read)
}

fn as_it_is(state: &[u8]) -> Result<View, Failure> {
    Ok(View {
        body: state.to_vec(),
        content_type: "application/json".to_owned(),
    })
}

fn actor(event: &Event) -> String {
    event
        .dot
        .actor
        .iter()
        .map(|byte| format!("{byte:x}"))
        .collect()
}

/// By actor: counter, sum.
type Sums = BTreeMap<String, (u64, i64)>;

fn join_sums(mut one: Sums, other: Sums) -> Sums {
    for (actor, theirs) in other {
        let ours = one.entry(actor).or_insert(theirs);
        *ours = theirs.max(*ours);
    }
    one
}

/// What is there, and what was removed.
type TwoSets = (BTreeSet<String>, BTreeSet<String>);

fn join_sets(mut one: TwoSets, other: TwoSets) -> TwoSets {
    one.0.extend(other.0);
    one.1.extend(other.1);
    one
}

fn change(sets: &mut TwoSets, operation: &[u8]) -> Result<(), Failure> {
    let text = std::str::from_utf8(operation).unwrap_or_default();
    match text.split_at_checked(1) {
        Some(("+", name)) => sets.0.insert(name.to_owned()),
        Some(("-", name)) => sets.1.insert(name.to_owned()),
        _ => return Err(Failure::Refused("+name or -name".to_owned())),
    };
    Ok(())
}

#[test]
fn right_ones_are_left_alone() {
    let right = [
        Native::fold("a counter by actor", STEPS, |siblings| {
            joining(siblings, join_sums)
        })
        .data_type(
            |before, step, event| {
                let mut sums: Sums = state(before)?;
                let pair = sums.entry(actor(event)).or_default();
                *pair = (event.dot.counter, pair.1 + read::<i64>(step)? % 1_000);
                Ok(written(sums))
            },
            as_it_is,
        ),
        Native::fold("a set with tombstones", CHANGES, |siblings| {
            joining(siblings, join_sets)
        })
        .data_type(
            |before, operation, _| {
                let mut sets: TwoSets = state(before)?;
                change(&mut sets, operation)?;
                Ok(written(sets))
            },
            as_it_is,
        ),
    ];
    for native in &right {
        for (seed, verdict) in verdicts(native, 300) {
            assert_eq!(verdict, None, "{}, seed {seed}", native.name);
        }
    }
    // A state that keeps all it ever saw is lawful, and worth a note.
    let log = Native::fold("a log", CHANGES, |siblings| {
        joining::<BTreeSet<String>>(siblings, |mut one, other| {
            one.extend(other);
            one
        })
    })
    .data_type(
        |before, operation, event| {
            let mut log: BTreeSet<String> = state(before)?;
            let text = String::from_utf8_lossy(operation);
            log.insert(format!("{} {} {text}", event.dot.counter, actor(event)));
            Ok(written(log))
        },
        as_it_is,
    );
    let report = report(&log, 1, 100);
    assert!(matches!(report.verdict, Verdict::NoCounterexample { .. }));
    assert!(
        report.notes[0].starts_with("a state grows by about "),
        "{:?}",
        report.notes
    );
}

fn wrong() -> Vec<(Native, &'static [Law])> {
    use Law::*;
    vec![
        (
            Native::fold("a number: the greater wins", STEPS, |siblings| {
                joining(siblings, |one: i64, other: i64| one.max(other))
            })
            .data_type(
                |before, step, _| {
                    let sum = state::<i64>(before)?.wrapping_add(read::<i64>(step)?);
                    Ok(written(sum))
                },
                as_it_is,
            ),
            &[DataType],
        ),
        (
            Native::fold("a sum by actor without its counter", STEPS, |siblings| {
                joining(siblings, |mut one: BTreeMap<String, i64>, other| {
                    for (actor, theirs) in other {
                        let ours = one.entry(actor).or_insert(theirs);
                        *ours = theirs.max(*ours);
                    }
                    one
                })
            })
            .data_type(
                |before, step, event| {
                    let mut sums: BTreeMap<String, i64> = state(before)?;
                    *sums.entry(actor(event)).or_default() += read::<i64>(step)? % 1_000;
                    Ok(written(sums))
                },
                as_it_is,
            ),
            &[DataType],
        ),
        (
            Native::fold("sums versioned by the clock", STEPS, |siblings| {
                joining(siblings, join_sums)
            })
            .data_type(
                |before, step, event| {
                    let mut sums: Sums = state(before)?;
                    let pair = sums.entry(actor(event)).or_default();
                    *pair = (event.written_at_us, pair.1 + read::<i64>(step)? % 1_000);
                    Ok(written(sums))
                },
                as_it_is,
            ),
            &[DataType],
        ),
        (
            Native::fold("a set that forgets removals", CHANGES, |siblings| {
                joining(siblings, join_sets)
            })
            .data_type(
                |before, operation, _| {
                    let mut sets: TwoSets = state(before)?;
                    change(&mut sets, operation)?;
                    let (there, removed) = sets;
                    let there: BTreeSet<String> = there.difference(&removed).cloned().collect();
                    Ok(written((there, BTreeSet::<String>::new())))
                },
                as_it_is,
            ),
            &[DataType],
        ),
        (
            Native::fold("three tombstones at most", CHANGES, |siblings| {
                joining(siblings, |one, other| {
                    let (mut there, removed) = join_sets(one, other);
                    there.retain(|name| !removed.contains(name));
                    let last = removed.into_iter().rev().take(3).collect();
                    (there, last)
                })
            })
            .data_type(
                |before, operation, _| {
                    let mut sets: TwoSets = state(before)?;
                    change(&mut sets, operation)?;
                    let (mut there, removed) = sets;
                    there.retain(|name| !removed.contains(name));
                    let last: BTreeSet<String> = removed.into_iter().rev().take(3).collect();
                    Ok(written((there, last)))
                },
                as_it_is,
            ),
            &[DataType, Regroupable, Idempotent, OrderFree],
        ),
        (
            Native::fold("does not render an empty set", CHANGES, |siblings| {
                joining(siblings, join_sets)
            })
            .data_type(
                |before, operation, _| {
                    let mut sets: TwoSets = state(before)?;
                    change(&mut sets, operation)?;
                    Ok(written(sets))
                },
                |state| {
                    let (there, removed): TwoSets = read(state)?;
                    match there.is_subset(&removed) && removed.len() > 1 {
                        true => Err(Failure::Refused("nothing to show".to_owned())),
                        false => as_it_is(state),
                    }
                },
            ),
            &[DataType],
        ),
        (
            Native::fold("the newest value, ties to the first", CHANGES, |siblings| {
                joining(
                    siblings,
                    |one: (u64, String), other| {
                        if other.0 > one.0 { other } else { one }
                    },
                )
            })
            .data_type(
                |_, operation, event| {
                    let text = String::from_utf8_lossy(operation);
                    Ok(written((event.written_at_us, text)))
                },
                as_it_is,
            ),
            &[DataType, OrderFree, Regroupable],
        ),
        (
            Native::fold("traps on a state of two actors", STEPS, |siblings| {
                joining(siblings, join_sums)
            })
            .data_type(
                |before, step, event| {
                    let mut sums: Sums = state(before)?;
                    if sums.len() > 2 {
                        return Err(Failure::Trapped("index out of bounds".to_owned()));
                    }
                    let pair = sums.entry(actor(event)).or_default();
                    *pair = (event.dot.counter, pair.1 + read::<i64>(step)? % 1_000);
                    Ok(written(sums))
                },
                as_it_is,
            ),
            &[Closed],
        ),
        (
            Native::fold(
                "refuses states of three actors",
                STEPS,
                |siblings| match joining(siblings, join_sums)? {
                    Outcome::Merged(state) if read::<Sums>(&state)?.len() > 2 => {
                        Err(Failure::Refused("too many".to_owned()))
                    }
                    outcome => Ok(outcome),
                },
            )
            .data_type(
                |before, step, event| {
                    let mut sums: Sums = state(before)?;
                    let pair = sums.entry(actor(event)).or_default();
                    *pair = (event.dot.counter, pair.1 + read::<i64>(step)? % 1_000);
                    Ok(written(sums))
                },
                as_it_is,
            ),
            &[Closed, DataType],
        ),
    ]
}

#[test]
fn nearly_right_ones_are_found_on_every_seed() {
    for (native, laws) in wrong() {
        found(&native, laws, 2_000);
    }
}

#[test]
fn an_operation_that_is_refused_everywhere_leaves_nothing_to_check() {
    let native = Native::fold("refuses all", &["x"], |_| Ok(Outcome::Deleted)).data_type(
        |_, _, _| Err(Failure::Refused("no such operation".to_owned())),
        as_it_is,
    );
    let report = report(&native, 1, 50);
    let Verdict::Unchecked { reason } = &report.verdict else {
        panic!("{report:?}");
    };
    assert!(reason.contains("no such operation"), "{reason}");
    assert_eq!(json!(report.tried), 50);
}
