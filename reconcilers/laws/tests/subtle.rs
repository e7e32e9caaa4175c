//! Merges that are nearly right, and some that look wrong and are right: what
//! the check finds, on every one of several seeds, and what it must not find.

mod native;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use kinfold_laws::{Failure, Law, Outcome, Sibling};
use native::{Native, found, values, verdicts};
use serde_json::{Map, Value as Json};

type Answer = Result<Outcome, Failure>;

fn kept(sibling: Option<&&Sibling>) -> Answer {
    Ok(match sibling.and_then(|sibling| sibling.value.clone()) {
        Some(value) => Outcome::Merged(value),
        None => Outcome::Deleted,
    })
}

fn refused(text: &str) -> Failure {
    Failure::Refused(text.to_owned())
}

fn words(siblings: &[&Sibling]) -> BTreeSet<Vec<u8>> {
    values(siblings)
        .flat_map(|value| value.split(|byte| *byte == b' '))
        .filter(|word| !word.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

fn joined<'a>(words: impl IntoIterator<Item = &'a Vec<u8>>) -> Answer {
    let words: Vec<&[u8]> = words.into_iter().map(Vec::as_slice).collect();
    Ok(Outcome::Merged(words.join(&b' ')))
}

fn objects(siblings: &[&Sibling]) -> Result<Vec<(u64, Map<String, Json>)>, Failure> {
    let mut objects = Vec::new();
    for sibling in siblings {
        if let Some(value) = &sibling.value {
            let object = serde_json::from_slice(value).map_err(|_| refused("no object"))?;
            objects.push((sibling.written_at_us, object));
        }
    }
    Ok(objects)
}

fn json(value: impl Into<Json>) -> Answer {
    Ok(Outcome::Merged(value.into().to_string().into_bytes()))
}

const COLOURS: &[&str] = &["red", "green", "blue", "teal"];
const WORDS: &[&str] = &["a", "b c", "c", "a d", "e f", ""];
const OBJECTS: &[&str] = &[
    r#"{"a":1}"#,
    r#"{"a":2,"b":1}"#,
    r#"{"b":2}"#,
    r#"{"c":1}"#,
    "{}",
];
const NUMBERS: &[&str] = &["1", "2", "3", "7", "10"];

#[test]
fn right_ones_are_left_alone() {
    let right: Vec<Native> = vec![
        Native::fold("the greatest value", COLOURS, |siblings| {
            Ok(values(siblings)
                .max()
                .map_or(Outcome::Deleted, |value| Outcome::Merged(value.to_vec())))
        }),
        Native::fold("newest, then the greatest value", COLOURS, |siblings| {
            kept(
                siblings
                    .iter()
                    .max_by_key(|one| (one.written_at_us, &one.value)),
            )
        }),
        Native::fold(
            "a deletion wins over all",
            COLOURS,
            |siblings| match siblings.iter().any(|one| one.value.is_none()) {
                true => Ok(Outcome::Deleted),
                false => kept(siblings.iter().max_by_key(|one| &one.value)),
            },
        ),
        Native::fold("the three least words", WORDS, |siblings| {
            joined(words(siblings).iter().take(3))
        }),
        Native::fold("a union that refuses more than three", WORDS, |siblings| {
            let words = words(siblings);
            match words.len() {
                0..=3 => joined(&words),
                _ => Err(refused("more than three words")),
            }
        }),
        Native::fold("unresolved where fields differ", OBJECTS, |siblings| {
            let mut union = Map::new();
            for (_, object) in objects(siblings)? {
                for (name, field) in object {
                    if union.get(&name).is_some_and(|known| *known != field) {
                        return Ok(Outcome::Unresolved);
                    }
                    union.insert(name, field);
                }
            }
            json(union)
        }),
        Native::fold("one type of value only", COLOURS, |siblings| {
            if values(siblings).any(|value| !value.is_ascii()) {
                return Err(refused("no ASCII"));
            }
            kept(siblings.iter().max_by_key(|one| &one.value))
        }),
        Native::fold(
            "panics on what is no JSON, alone too",
            OBJECTS,
            |siblings| {
                let objects = objects(siblings).map_err(|_| Failure::Trapped("unwrap".into()))?;
                let names = objects.into_iter().flat_map(|(_, object)| object);
                let union: Map<String, Json> =
                    names.map(|(name, _)| (name, Json::from(1))).collect();
                json(union)
            },
        ),
    ];
    for native in right {
        for (seed, verdict) in verdicts(&native, 400) {
            assert_eq!(verdict, None, "{}, seed {seed}", native.name);
        }
    }
}

/// Each with the laws that it may be found to break.
fn wrong() -> Vec<(Native, &'static [Law])> {
    use Law::*;
    let remembered = Cell::new(0u32);
    vec![
        (
            Native::fold("newest by the second, then the dot", COLOURS, |siblings| {
                let second = |one: &Sibling| one.written_at_us / 1_000_000;
                kept(
                    siblings
                        .iter()
                        .max_by_key(|one| (second(one), one.dot.clone())),
                )
            }),
            &[Regroupable, Idempotent],
        ),
        (
            Native::fold("newest by 32 bits of the time", COLOURS, |siblings| {
                let low = |one: &Sibling| (one.written_at_us as u32, one.dot.clone());
                kept(siblings.iter().max_by_key(|one| low(one)))
            }),
            &[Regroupable, Idempotent],
        ),
        (
            Native::fold("the greatest dot, whatever the time", COLOURS, |siblings| {
                kept(siblings.iter().max_by_key(|one| &one.dot))
            }),
            &[Regroupable, Idempotent, OrderFree],
        ),
        (
            Native::fold("the longest, then whichever", COLOURS, |siblings| {
                kept(
                    siblings
                        .iter()
                        .max_by_key(|one| one.value.as_ref().map(Vec::len)),
                )
            }),
            &[OrderFree],
        ),
        (
            Native::fold(
                "newest, or the longer if they are near",
                COLOURS,
                |siblings| {
                    let newest = siblings.iter().map(|one| one.written_at_us).max().unwrap();
                    let near = siblings
                        .iter()
                        .filter(|one| one.written_at_us + 1_000 > newest);
                    kept(
                        near.max_by_key(|one| {
                            (one.value.as_ref().map(Vec::len), &one.value, &one.dot)
                        }),
                    )
                },
            ),
            &[Regroupable, Idempotent],
        ),
        (
            Native::fold("a deletion wins if it is the newest", WORDS, |siblings| {
                let newest = siblings
                    .iter()
                    .max_by_key(|one| (one.written_at_us, &one.dot));
                match newest.and_then(|newest| newest.value.as_ref()) {
                    Some(_) => joined(&words(siblings)),
                    None => Ok(Outcome::Deleted),
                }
            }),
            &[Regroupable, Idempotent],
        ),
        (
            Native::fold(
                "field by field, the newest document's",
                OBJECTS,
                |siblings| {
                    let mut objects = objects(siblings)?;
                    objects.sort_by_key(|(time, object)| {
                        (*time, Json::from(object.clone()).to_string())
                    });
                    json(
                        objects
                            .into_iter()
                            .fold(Map::new(), |mut all, (_, object)| {
                                all.extend(object);
                                all
                            }),
                    )
                },
            ),
            &[Regroupable, Idempotent],
        ),
        (
            Native::fold("the value of most votes", COLOURS, |siblings| {
                let mut votes: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
                for one in siblings {
                    votes.entry(&one.value).or_default().insert(&one.dot);
                }
                let most = votes
                    .into_iter()
                    .max_by_key(|(value, dots)| (dots.len(), *value));
                Ok(match most.and_then(|(value, _)| value.clone()) {
                    Some(value) => Outcome::Merged(value),
                    None => Outcome::Deleted,
                })
            }),
            &[Regroupable, Idempotent],
        ),
        (
            Native::fold("the median", NUMBERS, |siblings| {
                let mut numbers: Vec<&[u8]> = values(siblings).collect();
                numbers.sort();
                numbers.dedup();
                Ok(match numbers.get(numbers.len() / 2) {
                    Some(middle) => Outcome::Merged(middle.to_vec()),
                    None => Outcome::Deleted,
                })
            }),
            &[Regroupable, Idempotent],
        ),
        (
            Native::fold("exclusive or, each write once", NUMBERS, |siblings| {
                let once: BTreeMap<_, _> = siblings.iter().map(|one| (&one.dot, one)).collect();
                let mut xor = 0;
                for one in once.values().filter_map(|one| one.value.as_ref()) {
                    let number: u64 = serde_json::from_slice(one).map_err(|_| refused("no"))?;
                    xor ^= number;
                }
                json(xor)
            }),
            &[Regroupable, Idempotent, OrderFree],
        ),
        (
            Native::fold("the first four siblings, sorted", WORDS, |siblings| {
                joined(&words(&siblings[..siblings.len().min(4)]))
            }),
            &[OrderFree, Idempotent, Regroupable],
        ),
        (
            Native::fold(
                "pairs of siblings, an odd one left out",
                WORDS,
                |siblings| {
                    let even = siblings.len() / 2 * 2;
                    joined(&words(&siblings[..even.max(1)]))
                },
            ),
            &[OrderFree, Idempotent],
        ),
        (
            Native::fold(
                "a union cut at 1,000 bytes",
                WORDS,
                |siblings| match joined(&words(siblings)) {
                    Ok(Outcome::Merged(mut value)) => {
                        value.truncate(1000);
                        Ok(Outcome::Merged(value))
                    }
                    other => other,
                },
            ),
            &[Regroupable, Idempotent, Closed],
        ),
        (
            Native::fold("undecided above two values", COLOURS, |siblings| {
                let distinct: BTreeSet<_> = siblings.iter().map(|one| &one.value).collect();
                match distinct.len() {
                    0..=2 => kept(siblings.iter().max_by_key(|one| &one.value)),
                    _ => Ok(Outcome::Unresolved),
                }
            }),
            &[Regroupable, Idempotent],
        ),
        (
            Native::fold(
                "unites JSON, keeps the newest of the rest",
                OBJECTS,
                |siblings| {
                    let is_json = |one: &&&Sibling| one.content_type == "application/json";
                    let live = siblings.iter().filter(|one| one.value.is_some());
                    if live.clone().all(|one| is_json(&one)) {
                        let mut union = Map::new();
                        for (_, object) in objects(siblings)? {
                            for (name, field) in object {
                                let known = union.entry(name).or_insert(field.clone());
                                if known.to_string() < field.to_string() {
                                    *known = field;
                                }
                            }
                        }
                        return json(union);
                    }
                    kept(live.max_by_key(|one| (one.written_at_us, &one.dot)))
                },
            ),
            &[Regroupable, Idempotent, Closed],
        ),
        (
            Native::fold("names in the spelling that came first", WORDS, |siblings| {
                let mut spelled: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
                for value in values(siblings) {
                    for word in value.split(|byte| *byte == b' ') {
                        let folded = word.to_ascii_lowercase();
                        spelled.entry(folded).or_insert(word.to_vec());
                    }
                }
                joined(spelled.values().filter(|word| !word.is_empty()))
            })
            .with(&["Ann", "ann", "bob Ann", "BOB"]),
            &[OrderFree],
        ),
        (
            Native::fold(
                "remembers the last answer when asked of one",
                COLOURS,
                move |siblings| {
                    remembered.set(remembered.get() + 1);
                    if siblings.len() == 1 && remembered.get() > 40 {
                        return Ok(Outcome::Merged(vec![remembered.get() as u8]));
                    }
                    kept(siblings.iter().max_by_key(|one| &one.value))
                },
            ),
            &[Deterministic, Idempotent, Closed],
        ),
        (
            Native::fold("counts its siblings", COLOURS, |siblings| {
                json(siblings.len())
            }),
            &[Idempotent],
        ),
        (
            Native::fold(
                "refuses five siblings, as if they were four",
                WORDS,
                |siblings| match siblings.len() {
                    5 => Err(Failure::Trapped("index out of bounds".into())),
                    _ => joined(&words(siblings)),
                },
            ),
            &[Closed],
        ),
        (
            Native::fold("adds a version to the document", OBJECTS, |siblings| {
                let mut union = Map::new();
                let mut version = 0;
                for (_, object) in objects(siblings)? {
                    version = version.max(object.get("v").and_then(Json::as_u64).unwrap_or(0));
                    union.extend(
                        object
                            .into_iter()
                            .filter(|(name, _)| name != "v")
                            .map(|(name, _)| (name, Json::from(1))),
                    );
                }
                union.insert("v".to_owned(), Json::from(version + 1));
                json(union)
            }),
            &[Idempotent],
        ),
    ]
}

#[test]
fn nearly_right_ones_are_found_on_every_seed() {
    for (native, laws) in wrong() {
        found(&native, laws, 4_000);
    }
}
