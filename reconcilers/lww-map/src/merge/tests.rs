//! The map against the plainest model there is: every replica keeps every write
//! that it has heard of and, of each, whether somebody replaced or unset it.

use std::collections::{BTreeMap, BTreeSet};

use kinfold_guest::Dot;
use kinfold_guest::laws::{check, sibling};
use kinfold_guest::replica::{DataType, Replica, meet};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LWW_MAP: DataType = DataType {
    fold,
    apply,
    render,
};

fn two() -> (Replica, Replica) {
    (Replica::new(LWW_MAP, 1), Replica::new(LWW_MAP, 2))
}

fn event(actor: u8, counter: u64) -> Event {
    Event {
        dot: Dot {
            actor: vec![actor; 16],
            counter,
        },
        written_at: 0,
    }
}

impl At for Replica {
    fn at(&mut self, now: u64) -> &mut Self {
        self.now = now;
        self
    }
}

/// Sets the clock of a replica.
trait At {
    fn at(&mut self, now: u64) -> &mut Self;
}

#[test]
fn one_replica_is_a_plain_object_in_order() {
    let (mut a, _) = two();
    assert_eq!(
        a.apply(r#"{"set":{"name":"Ada","age":36}}"#).view(),
        r#"{"age":36,"name":"Ada"}"#
    );
    assert_eq!(
        a.apply(r#"{"set":{"age":37.0,"":{"b":[],"a":null}}}"#)
            .view(),
        r#"{"":{"a":null,"b":[]},"age":37,"name":"Ada"}"#
    );
    assert_eq!(
        a.apply(r#"{"unset":["","fig"]}"#).view(),
        r#"{"age":37,"name":"Ada"}"#
    );
    assert_eq!(
        a.apply(r#"{"set":{"age":null}}"#).view(),
        r#"{"age":null,"name":"Ada"}"#
    );
    assert_eq!(
        a.apply(r#"{"set":{"\u00e9\n":1}}"#).view(),
        "{\"age\":null,\"name\":\"Ada\",\"é\\n\":1}"
    );
    assert_eq!(a.apply(r#"{"unset":["age","name","é\n"]}"#).view(), "{}");
    assert_eq!(a.apply(r#"{"unset":["age"]}"#).view(), "{}");
}

#[test]
fn two_fields_are_written_apart() {
    let (mut a, mut b) = two();
    a.at(5).apply(r#"{"set":{"name":"Ada","age":36}}"#);
    b.hear(&a);
    a.at(6).apply(r#"{"set":{"name":"Ada Lovelace"}}"#);
    b.at(7).apply(r#"{"set":{"age":37}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"age":37,"name":"Ada Lovelace"}"#);
}

#[test]
fn of_writes_that_did_not_see_each_other_the_newest_wins_then_the_greatest_dot() {
    let (mut a, mut b) = two();
    a.at(9).apply(r#"{"set":{"x":"nine"}}"#);
    b.at(8).apply(r#"{"set":{"x":"eight"}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"x":"nine"}"#);

    let (mut a, mut b) = two();
    a.at(9).apply(r#"{"set":{"x":"zzz"}}"#);
    b.at(9).apply(r#"{"set":{"x":"aaa"}}"#);
    assert_eq!(
        meet(&mut a, &mut b),
        r#"{"x":"aaa"}"#,
        "the second actor's dot is greater"
    );
}

/// A clock that is behind does not lose what its user wrote.
#[test]
fn a_write_replaces_what_it_saw_whatever_the_clocks_say() {
    let (mut a, mut b) = two();
    a.at(1000).apply(r#"{"set":{"x":1}}"#);
    b.hear(&a).at(10).apply(r#"{"set":{"x":2}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"x":2}"#);
    b.at(3).apply(r#"{"unset":["x"]}"#);
    assert_eq!(meet(&mut a, &mut b), "{}");
}

#[test]
fn an_unset_removes_what_it_saw_and_nothing_else() {
    let (mut a, mut b) = two();
    a.at(5).apply(r#"{"set":{"x":1,"y":1}}"#);
    b.hear(&a).at(9).apply(r#"{"unset":["x"]}"#);
    a.at(6).apply(r#"{"set":{"y":2}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"y":2}"#, "it is not lost");
    a.at(6).apply(r#"{"set":{"x":3}}"#);
    b.at(9).apply(r#"{"unset":["x"]}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"x":3,"y":2}"#, "it saw no x");

    // The winner is unset by someone who saw none of the others.
    let (mut a, mut b) = two();
    let mut c = Replica::new(LWW_MAP, 3);
    a.at(9).apply(r#"{"set":{"x":"winner"}}"#);
    b.at(5).apply(r#"{"set":{"x":"other"}}"#);
    c.hear(&a).apply(r#"{"unset":["x"]}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"x":"winner"}"#);
    assert_eq!(meet(&mut a, &mut c), r#"{"x":"other"}"#);
    assert_eq!(meet(&mut b, &mut c), r#"{"x":"other"}"#);
}

#[test]
fn tombstones_contribute_nothing() {
    let (mut a, _) = two();
    a.apply(r#"{"set":{"x":1}}"#);
    let map = sibling(a.state.as_deref(), 1, 1, 1);
    let gone = sibling(None, 9, 9, 9);
    assert_eq!(
        fold(&[gone.clone(), map]),
        Ok(Outcome::Merged(a.state.unwrap()))
    );
    assert_eq!(fold(&[gone.clone(), gone]), Ok(Outcome::Deleted));
}

/// The item was deleted at `a`, whose next operation starts from nothing, while
/// `b` went on with what it had heard of `a` before.
#[test]
fn an_operation_after_a_deletion_removes_what_the_deletion_saw() {
    let (mut a, mut b) = two();
    a.apply(r#"{"set":{"x":1}}"#);
    b.hear(&a).apply(r#"{"set":{"y":1}}"#);
    a.state = None;
    a.apply(r#"{"set":{"z":1}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"y":1,"z":1}"#);
}

#[test]
fn refuses_what_is_no_operation_and_says_what_is() {
    let deep = format!("{{\"set\":{{\"a\":{}{}}}}}", "[".repeat(80), "]".repeat(80));
    let large = format!("{{\"set\":{{\"a\":\"{}\"}}}}", "x".repeat(1 << 20));
    let long = format!("{{\"unset\":[[\"{}\"]]}}", "x".repeat(1000));
    for (wrong, why) in [
        ("", "it ends where a JSON value would begin"),
        ("null", "this is no JSON object"),
        ("[\"set\",{}]", "this is no JSON object"),
        ("{}", "this object is empty"),
        ("{\"set\":{\"a\":1}", "with a comma or ends with }"),
        ("{\"put\":{\"a\":1}}", "there is no \"put\""),
        ("{\"a\":1}", "there is no \"a\""),
        (
            "{\"set\":{\"a\":1},\"unset\":[\"b\"]}",
            "one key, and this has \"set\" and \"unset\"",
        ),
        ("{\"set\":{}}", "set takes one field or more"),
        ("{\"set\":1}", "set takes an object of fields"),
        ("{\"set\":[\"a\",1]}", "set takes an object of fields"),
        ("{\"set\":\"a\"}", "set takes an object of fields"),
        (
            "{\"set\":{\"a\":1,\"a\":2}}",
            "the key \"a\" is there twice",
        ),
        (
            "{\"set\":{\"a\":{\"b\":1,\"b\":1}}}",
            "the key \"b\" is there twice",
        ),
        (
            "{\"set\":{\"a\":12345678901234567890}}",
            "send a larger one as a string",
        ),
        ("{\"set\":{\"a\":0.1000000000000000055}}", "round it"),
        ("{\"set\":{1:1}}", "an object's key would begin here"),
        ("{\"unset\":[]}", "unset takes one field or more"),
        ("{\"unset\":\"a\"}", "unset takes an array of names"),
        ("{\"unset\":{\"a\":1}}", "unset takes an array of names"),
        ("{\"unset\":[\"a\",1]}", "which are strings, and this is 1"),
        ("{\"unset\":[null]}", "which are strings, and this is null"),
        (&long, "xx…"),
        (&deep, "nests more than 64 deep"),
        (&large, "at most 1048576"),
    ] {
        let error = apply(None, wrong.as_bytes(), &event(1, 1)).expect_err(wrong);
        assert!(
            error.starts_with("an operation on a map is {\"set\":{\"name\":\"Ada\""),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn refuses_a_dot_that_is_not_fresh() {
    let set = br#"{"set":{"a":1}}"#;
    let state = apply(None, set, &event(1, 5)).unwrap();
    let error = apply(Some(&state), set, &event(1, 5)).unwrap_err();
    assert!(error.contains("fresh dot"), "{error}");
    assert!(apply(Some(&state), set, &event(1, 4)).is_err());
    assert!(apply(None, set, &event(1, 0)).is_err());
    assert!(apply(Some(&state), set, &event(1, 900)).is_ok());
    assert!(apply(Some(&state), set, &event(2, 1)).is_ok());
}

/// Every rule of the layout, broken one at a time; what keys and actors keep is
/// told by the set's test of the same name.
#[test]
fn refuses_forged_states_and_says_why() {
    // One actor `a`, seen up to 5; it wrote 1 to `x` at 9 under dot 3.
    let good = [1, 1, 1, b'a', 5, 1, 1, b'x', 1, 0, 2, 9, 1, b'1'];
    assert_eq!(LWW_MAP.view(&good), r#"{"x":1}"#);
    for cut in 0..good.len() {
        assert!(render(&good[..cut]).is_err(), "cut at {cut}");
    }
    assert!(render(&[&good[..], &[0]].concat()).is_err());
    for (at, byte, why) in [
        (0, 2, "its first byte names no version"),
        (7, 0xff, "a key is not UTF-8"),
        (8, 0, "keys are not in order"),
        (10, 5, "a dot is below its actor's first"),
        (11, 0x80, "it ends too early"),
        (12, 0, "a value is not canonical JSON"),
        (13, b'x', "a value is not canonical JSON"),
        (13, 0xff, "a value is not UTF-8"),
    ] {
        let mut forged = good;
        forged[at] = byte;
        let error = render(&forged).expect_err(why);
        assert!(error.contains(why), "byte {at} as {byte}: {error}");
        assert!(
            error.starts_with("this is not the state of an lww-map: "),
            "{error}"
        );
    }
}

/// 10,000 operations on 10 fields at five replicas, which hear of each other now
/// and then: no state is ever over 2 KiB, whatever the mix of operations.
#[test]
fn states_stay_small() {
    for (mix, sets_in_8) in [("as many sets as unsets", 4), ("sets alone", 8)] {
        let mut dice = Dice::new(8);
        let mut replicas: Vec<Replica> = (1..=5).map(|n| Replica::new(LWW_MAP, n)).collect();
        let mut largest = 0;
        for round in 0..10_000 {
            let at = dice.below(5) as usize;
            let field = dice.below(10);
            replicas[at].now = 1_700_000_000_000_000 + round;
            replicas[at].apply(&if dice.below(8) < sets_in_8 {
                format!(r#"{{"set":{{"field {field}":{round}}}}}"#)
            } else {
                format!(r#"{{"unset":["field {field}"]}}"#)
            });
            if dice.below(4) == 0 {
                let other = replicas[dice.below(5) as usize].clone();
                replicas[at].hear(&other);
            }
            largest = largest.max(replicas[at].state.as_ref().unwrap().len());
        }
        println!("{mix}: at most {largest} bytes");
        assert!(largest < 2048, "{mix}: {largest} bytes");
        // When all is unset and all have heard of it, only the actors are left.
        let mut last = replicas.remove(0);
        for replica in &replicas {
            last.hear(replica);
        }
        for field in 0..10 {
            last.apply(&format!(r#"{{"unset":["field {field}"]}}"#));
        }
        let left = last.state.as_ref().unwrap().len();
        assert!(left < 128, "{mix}: {left} bytes left of an empty map");
        for replica in &replicas {
            last.hear(replica);
        }
        assert_eq!(last.view(), "{}");
    }
}

/// One write of a field: greater is later, among those of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Heard {
    field: u8,
    written_at: u64,
    actor: u8,
    counter: u64,
    value: u8,
}

/// Everything that a replica has heard of.
#[derive(Clone, Default)]
struct Model {
    heard: BTreeSet<Heard>,
    gone: BTreeSet<Heard>,
}

impl Model {
    fn replace(&mut self, fields: &[u8]) {
        let seen = self.heard.iter().filter(|it| fields.contains(&it.field));
        self.gone.extend(seen);
    }

    fn hear(&mut self, other: &Model) {
        self.heard.extend(&other.heard);
        self.gone.extend(&other.gone);
    }

    fn view(&self) -> String {
        let mut winners = BTreeMap::new();
        // Ascending, so the last of each field is the one that wins.
        for write in self.heard.difference(&self.gone) {
            winners.insert(format!("f{}", write.field), write.value);
        }
        serde_json::to_string(&winners).unwrap()
    }
}

/// What happens in a history: at a replica and a time, to some fields, or between
/// two replicas.
#[derive(Clone, Debug)]
enum Step {
    Set(usize, u64, BTreeSet<u8>, u8),
    Unset(usize, Vec<u8>),
    Hear(usize, usize),
    Skip(usize),
}

const REPLICAS: usize = 3;

/// Times are few, and go back and forth, as those of several nodes do.
fn history(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let at = 0..REPLICAS;
    let few = vec(0..3u8, 1..3);
    let step = prop_oneof![
        4 => (at.clone(), 0..3u64, few.clone(), 0..9u8).prop_map(|(at, now, fields, value)| {
            Step::Set(at, now, fields.into_iter().collect(), value)
        }),
        2 => (at.clone(), few).prop_map(|(at, fields)| Step::Unset(at, fields)),
        3 => (at.clone(), at.clone()).prop_map(|(at, from)| Step::Hear(at, from)),
        1 => at.prop_map(Step::Skip),
    ];
    vec(step, 0..longest)
}

/// Plays a history on the map and on the model, and gives every state that
/// there ever was, besides where they end.
fn play(steps: &[Step]) -> (Vec<(Replica, Model)>, Vec<Vec<u8>>) {
    let mut world: Vec<_> = (0..REPLICAS)
        .map(|n| (Replica::new(LWW_MAP, n as u8), Model::default()))
        .collect();
    let mut states = Vec::new();
    for step in steps {
        let at = match step {
            Step::Set(at, now, fields, value) => {
                let (replica, model) = &mut world[*at];
                replica.now = *now;
                let fields: Vec<u8> = fields.iter().copied().collect();
                let pairs: Vec<String> = fields
                    .iter()
                    .map(|field| format!("\"f{field}\":{value}"))
                    .collect();
                replica.apply(&format!(r#"{{"set":{{{}}}}}"#, pairs.join(",")));
                model.replace(&fields);
                model.heard.extend(fields.iter().map(|field| Heard {
                    field: *field,
                    written_at: *now,
                    actor: replica.actor,
                    counter: replica.counter,
                    value: *value,
                }));
                *at
            }
            Step::Unset(at, fields) => {
                let (replica, model) = &mut world[*at];
                let names: Vec<String> =
                    fields.iter().map(|field| format!("\"f{field}\"")).collect();
                replica.apply(&format!(r#"{{"unset":[{}]}}"#, names.join(",")));
                model.replace(fields);
                *at
            }
            Step::Hear(at, from) => {
                let (replica, model) = world[*from].clone();
                world[*at].0.hear(&replica);
                world[*at].1.hear(&model);
                *at
            }
            Step::Skip(at) => {
                world[*at].0.counter += 1;
                *at
            }
        };
        states.extend(world[at].0.state.clone());
    }
    (world, states)
}

/// States that no history makes: edited bytes that still decode.
fn forge(states: &mut Vec<Vec<u8>>, edits: Vec<(prop::sample::Index, prop::sample::Index, u8)>) {
    for (which, index, byte) in edits {
        let mut forged = which.get(states).clone();
        let at = index.index(forged.len());
        forged[at] = byte;
        if decode(&forged).is_ok() {
            states.push(forged);
        }
    }
}

/// A few of the states, some maybe tombstones, as siblings.
fn pick(states: &[Vec<u8>], picks: &[(prop::sample::Index, bool)]) -> Vec<Sibling> {
    let picks = picks.iter().zip(1..);
    picks
        .map(|((index, there), n)| {
            let state = there.then(|| index.get(states));
            sibling(state.map(|state| &state[..]), n % 3, 1, n)
        })
        .collect()
}

proptest! {
    /// What a map shows is what the model shows, at every replica, and again
    /// when all have heard of all.
    #[test]
    fn does_as_the_model(steps in history(40)) {
        let (world, _) = play(&steps);
        let mut whole = world[0].clone();
        for (replica, model) in &world {
            if replica.state.is_some() {
                prop_assert_eq!(replica.view(), model.view());
            }
            whole.0.hear(replica);
            whole.1.hear(model);
        }
        if whole.0.state.is_some() {
            prop_assert_eq!(whole.0.view(), whole.1.view());
        }
    }

    /// Laws 2 to 5, on states that operations made, old ones and new ones, and
    /// on states that none made.
    #[test]
    fn lawful(
        steps in history(40),
        edits in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..6u8), 0..12),
        picks in vec((any::<prop::sample::Index>(), prop::bool::weighted(0.9)), 1..5),
    ) {
        let (_, mut states) = play(&steps);
        prop_assume!(!states.is_empty());
        forge(&mut states, edits);
        check(fold, &pick(&states, &picks)).map_err(TestCaseError::fail)?;
    }

    /// Law 6: an operation moves a state up; replicas end up equal whatever the
    /// order in which they exchange states; every state has a view.
    #[test]
    fn lawful_as_a_data_type(steps in history(40)) {
        let (world, states) = play(&steps);
        let mut ends: Vec<&[u8]> = world.iter().filter_map(|(r, _)| r.state.as_deref()).collect();
        if let Some(first) = ends.first() {
            let one_way = LWW_MAP.join(&ends);
            prop_assert_eq!(LWW_MAP.join(&[first, first]), *first);
            ends.reverse();
            let other_way = ends[1..]
                .iter()
                .fold(ends[0].to_vec(), |all, one| LWW_MAP.join(&[one, &all]));
            prop_assert_eq!(one_way, other_way);
        }
        for state in &states {
            prop_assert!(render(state).is_ok());
            for operation in operations(state.len() as u64, 4) {
                let after = apply(Some(state), &operation, &event(7, 1000)).unwrap();
                prop_assert_eq!(LWW_MAP.join(&[state, &after]), after);
            }
        }
    }

    /// One state, one encoding; and any bytes at all are read or refused.
    #[test]
    fn decodes_what_it_encodes_and_nothing_else(
        steps in history(30),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        noise in vec(any::<u8>(), 0..60),
    ) {
        let (_, mut candidates) = play(&steps);
        candidates.push(noise);
        for mut bytes in candidates {
            for (index, byte) in &edits {
                if !bytes.is_empty() {
                    let at = index.index(bytes.len());
                    bytes[at] = *byte;
                }
            }
            if let Ok(state) = decode(&bytes) {
                prop_assert_eq!(state.encode(), &bytes[..]);
                prop_assert!(render(&bytes).is_ok());
            }
        }
    }
}
