//! The set against the plainest model there is: every replica keeps every
//! addition that it has heard of and, of each, whether somebody removed it.

use std::collections::BTreeSet;

use kinfold_histories::{Histories, Model, crowd};
use kinfold_reconciler::testing::{Replica, event, item, meet, view};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn two() -> (Replica<OrSet>, Replica<OrSet>) {
    (Replica::new(1), Replica::new(2))
}

#[test]
fn one_replica_is_a_plain_set_in_order() {
    let (mut a, _) = two();
    assert_eq!(a.does(r#"{"add":"pear"}"#).view(), r#"["pear"]"#);
    assert_eq!(a.does(r#"{"add":"pear"}"#).view(), r#"["pear"]"#);
    assert_eq!(
        a.does(r#"{"add_all":["apple",10,9,null,{"b":1,"a":[]},[2]]}"#)
            .view(),
        r#"[null,9,10,"apple","pear",[2],{"a":[],"b":1}]"#
    );
    assert_eq!(
        a.does(r#"{"remove_all":["apple","fig",9,[2]]}"#).view(),
        r#"[null,10,"pear",{"a":[],"b":1}]"#
    );
    assert_eq!(
        a.does(r#"{"remove":{"a":[],"b":1.0}}"#).view(),
        r#"[null,10,"pear"]"#
    );
    assert_eq!(
        a.does(r#"{"add":["x","y"]}"#).view(),
        r#"[null,10,"pear",["x","y"]]"#
    );
    assert_eq!(
        a.does(r#"{"remove_all":[null,10,"pear",["x","y"]]}"#)
            .view(),
        "[]"
    );
    assert_eq!(a.does(r#"{"remove":"pear"}"#).view(), "[]");
}

#[test]
fn equal_values_are_one_element() {
    let (mut a, mut b) = two();
    a.does(r#"{"add":1}"#)
        .does(r#"{"add":"\u0061"}"#)
        .does(r#"{"add":{"x":1,"y":2}}"#);
    b.does(r#"{"add":1.0}"#)
        .does(r#"{"add":"a"}"#)
        .does(r#"{"add":{"y":2,"x":1e0}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"[1,"a",{"x":1,"y":2}]"#);
    a.does(r#"{"remove":10e-1}"#).does(r#"{"remove":"1"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"["a",{"x":1,"y":2}]"#);
}

#[test]
fn a_removed_element_stays_removed() {
    let (mut a, mut b) = two();
    a.does(r#"{"add_all":["apple","pear"]}"#);
    b.receive(&a);
    a.does(r#"{"remove":"pear"}"#);
    b.does(r#"{"add":"fig"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"["apple","fig"]"#);
}

#[test]
fn a_removal_removes_what_it_saw_and_nothing_else() {
    let (mut a, mut b) = two();
    a.does(r#"{"add":"apple"}"#);
    b.receive(&a).does(r#"{"remove":"apple"}"#);
    a.does(r#"{"add":"apple"}"#);
    assert_eq!(
        meet(&mut a, &mut b),
        r#"["apple"]"#,
        "added again meanwhile"
    );
    b.does(r#"{"remove":"apple"}"#);
    assert_eq!(meet(&mut a, &mut b), "[]");

    let (mut a, mut b) = two();
    a.does(r#"{"add":"apple"}"#);
    b.does(r#"{"remove":"apple"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"["apple"]"#, "it saw no apple");

    // Two additions of one element; a removal that saw one of them.
    let (mut a, mut b) = two();
    let mut c = Replica::new(3);
    a.does(r#"{"add":"apple"}"#);
    b.does(r#"{"add":"apple"}"#);
    c.receive(&a).does(r#"{"remove":"apple"}"#);
    a.receive(&c);
    assert_eq!(meet(&mut a, &mut b), r#"["apple"]"#);
}

/// The item was deleted at `a`, whose next operation starts from nothing, while
/// `b` went on with what it had heard of `a` before.
#[test]
fn an_operation_after_a_deletion_removes_what_the_deletion_saw() {
    let (mut a, mut b) = two();
    a.does(r#"{"add":"apple"}"#);
    b.receive(&a).does(r#"{"add":"pear"}"#);
    a.forget();
    a.does(r#"{"add":"fig"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"["fig","pear"]"#);
}

#[test]
fn refuses_what_is_no_operation_and_says_what_is() {
    let deep = format!("{{\"add\":{}{}}}", "[".repeat(80), "]".repeat(80));
    let large = format!("{{\"add\":\"{}\"}}", "x".repeat(1 << 20));
    let long = format!("{{\"{}\":1}}", "x".repeat(1000));
    for (wrong, why) in [
        ("", "it ends where a JSON value would begin"),
        ("null", "this is no JSON object"),
        ("[\"add\",1]", "this is no JSON object"),
        ("{}", "this object is empty"),
        ("{\"add\":}", "a JSON value would begin here"),
        ("{\"add\":1} x", "the value has ended"),
        ("{\"insert\":1}", "there is no \"insert\""),
        ("{\"Add\":1}", "there is no \"Add\""),
        (&long, "xx…"),
        (
            "{\"add\":1,\"remove\":2}",
            "one key, and this has \"add\" and \"remove\"",
        ),
        ("{\"add\":1,\"add\":1}", "the key \"add\" is there twice"),
        (
            "{\"add\":{\"a\":1,\"a\":2}}",
            "the key \"a\" is there twice",
        ),
        (
            "{\"add\":9007199254740993}",
            "send a larger one as a string",
        ),
        ("{\"add\":0.1000000000000000055}", "round it"),
        ("{\"add\":\"\\ud800\"}", "half of a surrogate pair"),
        (
            "{\"add_all\":1}",
            "add_all takes an array of one value or more",
        ),
        (
            "{\"add_all\":[]}",
            "add_all takes an array of one value or more",
        ),
        ("{\"remove_all\":{\"a\":1}}", "remove_all takes an array"),
        (&deep, "nests more than 64 deep"),
        (&large, "at most 1048576"),
    ] {
        let error = OrSet::apply(&item(), None, wrong.as_bytes(), &event(1, 1)).expect_err(wrong);
        assert!(
            error.starts_with("an operation on a set is {\"add\":\"apple\"}, "),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
        assert!(error.len() < 400, "{error}");
    }
}

/// Every rule of the layout, broken one at a time.
#[test]
fn refuses_forged_states_and_says_why() {
    // Two actors, `a` seen up to 5 and `b` up to 7; `1` was added under (a, 5)
    // and (b, 3), and `2` under (b, 7).
    let good = [
        1, 2, 1, b'a', 5, 1, b'b', 7, 2, 1, b'1', 2, 0, 0, 1, 4, 1, b'2', 1, 1, 0,
    ];
    assert_eq!(view::<OrSet>(&good), "[1,2]");
    for cut in 0..good.len() {
        assert!(OrSet::render(&good[..cut]).is_err(), "cut at {cut}");
    }
    assert!(OrSet::render(&[&good[..], &[0]].concat()).is_err());
    for (at, byte, why) in [
        (0, 2, "its first byte names no version"),
        (4, 0, "actors are not in order"),
        (6, b'a', "actors are not in order"),
        (10, 0xff, "a key is not UTF-8"),
        (10, b'x', "an element is not canonical JSON"),
        (10, b'2', "keys are not in order"),
        (10, b'3', "keys are not in order"),
        (11, 0, "keys are not in order"),
        (12, 1, "writes are not in order"),
        (12, 2, "a write names no actor"),
        (13, 5, "a dot is below its actor's first"),
        (13, 9, "a dot is below its actor's first"),
        (20, 0x80, "it ends too early"),
        (8, 1, "bytes are left over"),
    ] {
        let mut forged = good;
        forged[at] = byte;
        let error = OrSet::render(&forged).expect_err(why);
        assert!(error.contains(why), "byte {at} as {byte}: {error}");
        assert!(
            error.starts_with("this is not the state of an or-set: "),
            "{error}"
        );
    }
}

/// 10,000 operations on 10 elements at five replicas: no state is ever over 2 KiB,
/// whatever the mix of operations.
#[test]
fn states_stay_small() {
    for (mix, adds_in_8) in [("as many adds as removes", 4), ("adds alone", 8)] {
        let (mut replicas, largest) = crowd::<OrSet>(|dice, _| {
            let element = dice.below(10);
            let name = if dice.below(8) < adds_in_8 {
                "add"
            } else {
                "remove"
            };
            format!(r#"{{"{name}":"element {element}"}}"#)
        });
        println!("{mix}: at most {largest} bytes");
        assert!(largest < 2048, "{mix}: {largest} bytes");
        // When all is removed and all have heard of it, only the actors are left.
        let mut last = replicas.remove(0);
        for replica in &replicas {
            last.receive(replica);
        }
        for element in 0..10 {
            last.does(&format!(r#"{{"remove":"element {element}"}}"#));
        }
        let left = last.state().unwrap().len();
        assert!(left < 128, "{mix}: {left} bytes left of an empty set");
        for replica in &replicas {
            last.receive(replica);
        }
        assert_eq!(last.view(), "[]");
    }
}

/// Every addition that a replica has heard of, by element, actor and counter.
#[derive(Clone, Default)]
struct Additions {
    heard: BTreeSet<(u8, Vec<u8>, u64)>,
    removed: BTreeSet<(u8, Vec<u8>, u64)>,
}

/// What happens to some elements at once.
#[derive(Clone, Debug)]
enum Step {
    Add(Vec<u8>),
    Remove(Vec<u8>),
}

impl Model<OrSet> for Additions {
    type Step = Step;

    fn step(&mut self, replica: &mut Replica<OrSet>, step: &Step) {
        let (name, Step::Add(elements) | Step::Remove(elements)) = match step {
            Step::Add(_) => ("add", step),
            Step::Remove(_) => ("remove", step),
        };
        replica.does(&match elements[..] {
            [element] => format!(r#"{{"{name}":{element}}}"#),
            _ => format!(r#"{{"{name}_all":{elements:?}}}"#),
        });
        let seen = |it: &&(u8, Vec<u8>, u64)| elements.contains(&it.0);
        match step {
            Step::Add(_) => {
                let dot = replica.dot();
                let added = elements
                    .iter()
                    .map(|element| (*element, dot.actor.clone(), dot.counter));
                self.heard.extend(added);
            }
            Step::Remove(_) => self.removed.extend(self.heard.iter().filter(seen).cloned()),
        }
    }

    fn hear(&mut self, other: &Additions) {
        self.heard.extend(other.heard.iter().cloned());
        self.removed.extend(other.removed.iter().cloned());
    }

    fn view(&self) -> Option<String> {
        let live = self.heard.difference(&self.removed);
        let elements: BTreeSet<u8> = live.map(|(element, ..)| *element).collect();
        serde_json::to_string(&elements).ok()
    }
}

fn histories() -> Histories<OrSet, Additions> {
    let few = vec(0..3u8, 1..3);
    Histories::new(prop_oneof![
        3 => few.clone().prop_map(Step::Add),
        2 => few.prop_map(Step::Remove),
    ])
}

kinfold_histories::tests!(OrSet, histories(), r#"{"add":"a"}"#);
