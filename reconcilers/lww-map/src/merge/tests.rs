//! The map against the plainest model there is: every replica keeps every write
//! that it has heard of and, of each, whether somebody replaced or unset it.

use std::collections::{BTreeMap, BTreeSet};

use kinfold_histories::{Histories, Model, crowd};
use kinfold_reconciler::testing::{Replica, event, item, meet, view};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn two() -> (Replica<LwwMap>, Replica<LwwMap>) {
    (Replica::new(1), Replica::new(2))
}

#[test]
fn one_replica_is_a_plain_object_in_order() {
    let (mut a, _) = two();
    assert_eq!(
        a.does(r#"{"set":{"name":"Ada","age":36}}"#).view(),
        r#"{"age":36,"name":"Ada"}"#
    );
    assert_eq!(
        a.does(r#"{"set":{"age":37.0,"":{"b":[],"a":null}}}"#)
            .view(),
        r#"{"":{"a":null,"b":[]},"age":37,"name":"Ada"}"#
    );
    assert_eq!(
        a.does(r#"{"unset":["","fig"]}"#).view(),
        r#"{"age":37,"name":"Ada"}"#
    );
    assert_eq!(
        a.does(r#"{"set":{"age":null}}"#).view(),
        r#"{"age":null,"name":"Ada"}"#
    );
    assert_eq!(
        a.does(r#"{"set":{"\u00e9\n":1}}"#).view(),
        "{\"age\":null,\"name\":\"Ada\",\"é\\n\":1}"
    );
    assert_eq!(a.does(r#"{"unset":["age","name","é\n"]}"#).view(), "{}");
    assert_eq!(a.does(r#"{"unset":["age"]}"#).view(), "{}");
}

#[test]
fn two_fields_are_written_apart() {
    let (mut a, mut b) = two();
    a.at(5).does(r#"{"set":{"name":"Ada","age":36}}"#);
    b.receive(&a);
    a.at(6).does(r#"{"set":{"name":"Ada Lovelace"}}"#);
    b.at(7).does(r#"{"set":{"age":37}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"age":37,"name":"Ada Lovelace"}"#);
}

#[test]
fn of_writes_that_did_not_see_each_other_the_newest_wins_then_the_greatest_dot() {
    let (mut a, mut b) = two();
    a.at(9).does(r#"{"set":{"x":"nine"}}"#);
    b.at(8).does(r#"{"set":{"x":"eight"}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"x":"nine"}"#);

    let (mut a, mut b) = two();
    a.at(9).does(r#"{"set":{"x":"zzz"}}"#);
    b.at(9).does(r#"{"set":{"x":"aaa"}}"#);
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
    a.at(1000).does(r#"{"set":{"x":1}}"#);
    b.receive(&a).at(10).does(r#"{"set":{"x":2}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"x":2}"#);
    b.at(3).does(r#"{"unset":["x"]}"#);
    assert_eq!(meet(&mut a, &mut b), "{}");
}

#[test]
fn an_unset_removes_what_it_saw_and_nothing_else() {
    let (mut a, mut b) = two();
    a.at(5).does(r#"{"set":{"x":1,"y":1}}"#);
    b.receive(&a).at(9).does(r#"{"unset":["x"]}"#);
    a.at(6).does(r#"{"set":{"y":2}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"y":2}"#, "it is not lost");
    a.at(6).does(r#"{"set":{"x":3}}"#);
    b.at(9).does(r#"{"unset":["x"]}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"x":3,"y":2}"#, "it saw no x");

    // The winner is unset by someone who saw none of the others.
    let (mut a, mut b) = two();
    let mut c = Replica::new(3);
    a.at(9).does(r#"{"set":{"x":"winner"}}"#);
    b.at(5).does(r#"{"set":{"x":"other"}}"#);
    c.receive(&a).does(r#"{"unset":["x"]}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"x":"winner"}"#);
    assert_eq!(meet(&mut a, &mut c), r#"{"x":"other"}"#);
    assert_eq!(meet(&mut b, &mut c), r#"{"x":"other"}"#);
}

/// The item was deleted at `a`, whose next operation starts from nothing, while
/// `b` went on with what it had heard of `a` before.
#[test]
fn an_operation_after_a_deletion_removes_what_the_deletion_saw() {
    let (mut a, mut b) = two();
    a.does(r#"{"set":{"x":1}}"#);
    b.receive(&a).does(r#"{"set":{"y":1}}"#);
    a.forget();
    a.does(r#"{"set":{"z":1}}"#);
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
        let error = LwwMap::apply(&item(), None, wrong.as_bytes(), &event(1, 1)).expect_err(wrong);
        assert!(
            error.starts_with("an operation on a map is {\"set\":{\"name\":\"Ada\""),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
        assert!(error.len() < 400, "{error}");
    }
}

/// Every rule of the layout, broken one at a time; what keys and actors keep is
/// told by the set's test of the same name.
#[test]
fn refuses_forged_states_and_says_why() {
    // One actor `a`, seen up to 5; it wrote 1 to `x` at 9 under dot 3.
    let good = [1, 1, 1, b'a', 5, 1, 1, b'x', 1, 0, 2, 9, 1, b'1'];
    assert_eq!(view::<LwwMap>(&good), r#"{"x":1}"#);
    for cut in 0..good.len() {
        assert!(LwwMap::render(&good[..cut]).is_err(), "cut at {cut}");
    }
    assert!(LwwMap::render(&[&good[..], &[0]].concat()).is_err());
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
        let error = LwwMap::render(&forged).expect_err(why);
        assert!(error.contains(why), "byte {at} as {byte}: {error}");
        assert!(
            error.starts_with("this is not the state of an lww-map: "),
            "{error}"
        );
    }
}

/// 10,000 operations on 10 fields at five replicas: no state is ever over 2 KiB,
/// whatever the mix of operations.
#[test]
fn states_stay_small() {
    for (mix, sets_in_8) in [("as many sets as unsets", 4), ("sets alone", 8)] {
        let (mut replicas, largest) = crowd::<LwwMap>(|dice, round| {
            let field = dice.below(10);
            if dice.below(8) < sets_in_8 {
                format!(r#"{{"set":{{"field {field}":{round}}}}}"#)
            } else {
                format!(r#"{{"unset":["field {field}"]}}"#)
            }
        });
        println!("{mix}: at most {largest} bytes");
        assert!(largest < 2048, "{mix}: {largest} bytes");
        // When all is unset and all have heard of it, only the actors are left.
        let mut last = replicas.remove(0);
        for replica in &replicas {
            last.receive(replica);
        }
        for field in 0..10 {
            last.does(&format!(r#"{{"unset":["field {field}"]}}"#));
        }
        let left = last.state().unwrap().len();
        assert!(left < 128, "{mix}: {left} bytes left of an empty map");
        for replica in &replicas {
            last.receive(replica);
        }
        assert_eq!(last.view(), "{}");
    }
}

/// One write of a field: greater is later, among those of one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Heard {
    field: u8,
    written_at: u64,
    actor: Vec<u8>,
    counter: u64,
    value: u8,
}

/// Every write that a replica has heard of.
#[derive(Clone, Default)]
struct Writes {
    heard: BTreeSet<Heard>,
    gone: BTreeSet<Heard>,
}

/// What happens to some fields at once; a write has a time and a value.
#[derive(Clone, Debug)]
enum Step {
    Set(u64, BTreeSet<u8>, u8),
    Unset(Vec<u8>),
}

impl Writes {
    fn replace(&mut self, is_written: impl Fn(&u8) -> bool) {
        let seen = self.heard.iter().filter(|it| is_written(&it.field));
        self.gone.extend(seen.cloned());
    }
}

impl Model<LwwMap> for Writes {
    type Step = Step;

    fn step(&mut self, replica: &mut Replica<LwwMap>, step: &Step) {
        match step {
            Step::Set(now, fields, value) => {
                let pairs: Vec<String> = fields
                    .iter()
                    .map(|field| format!("\"f{field}\":{value}"))
                    .collect();
                let operation = format!(r#"{{"set":{{{}}}}}"#, pairs.join(","));
                let dot = replica.at(*now).does(&operation).dot();
                self.replace(|field| fields.contains(field));
                self.heard.extend(fields.iter().map(|field| Heard {
                    field: *field,
                    written_at: *now,
                    actor: dot.actor.clone(),
                    counter: dot.counter,
                    value: *value,
                }));
            }
            Step::Unset(fields) => {
                let names: Vec<String> =
                    fields.iter().map(|field| format!("\"f{field}\"")).collect();
                replica.does(&format!(r#"{{"unset":[{}]}}"#, names.join(",")));
                self.replace(|field| fields.contains(field));
            }
        }
    }

    fn hear(&mut self, other: &Writes) {
        self.heard.extend(other.heard.iter().cloned());
        self.gone.extend(other.gone.iter().cloned());
    }

    fn view(&self) -> Option<String> {
        let mut winners = BTreeMap::new();
        // Ascending, so the last of each field is the one that wins.
        for write in self.heard.difference(&self.gone) {
            winners.insert(format!("f{}", write.field), write.value);
        }
        serde_json::to_string(&winners).ok()
    }
}

/// Times are few, and go back and forth, as those of several nodes do.
fn histories() -> Histories<LwwMap, Writes> {
    let few = vec(0..3u8, 1..3);
    let set = (0..3u64, few.clone(), 0..9u8)
        .prop_map(|(now, fields, value)| Step::Set(now, fields.into_iter().collect(), value));
    Histories::new(prop_oneof![4 => set, 2 => few.prop_map(Step::Unset)])
}

kinfold_histories::tests!(LwwMap, histories(), r#"{"set":{"a":1}}"#);
