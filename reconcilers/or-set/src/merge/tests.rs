//! The set against the plainest model there is: every replica keeps every
//! addition that it has heard of and, of each, whether somebody removed it.

use std::collections::BTreeSet;

use kinfold_guest::Dot;
use kinfold_guest::laws::{check, sibling};
use kinfold_guest::replica::{DataType, Replica, meet};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const OR_SET: DataType = DataType {
    fold,
    apply,
    render,
};

fn two() -> (Replica, Replica) {
    (Replica::new(OR_SET, 1), Replica::new(OR_SET, 2))
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

#[test]
fn one_replica_is_a_plain_set_in_order() {
    let (mut a, _) = two();
    assert_eq!(a.apply(r#"{"add":"pear"}"#).view(), r#"["pear"]"#);
    assert_eq!(a.apply(r#"{"add":"pear"}"#).view(), r#"["pear"]"#);
    assert_eq!(
        a.apply(r#"{"add_all":["apple",10,9,null,{"b":1,"a":[]},[2]]}"#)
            .view(),
        r#"[null,9,10,"apple","pear",[2],{"a":[],"b":1}]"#
    );
    assert_eq!(
        a.apply(r#"{"remove_all":["apple","fig",9,[2]]}"#).view(),
        r#"[null,10,"pear",{"a":[],"b":1}]"#
    );
    assert_eq!(
        a.apply(r#"{"remove":{"a":[],"b":1.0}}"#).view(),
        r#"[null,10,"pear"]"#
    );
    assert_eq!(
        a.apply(r#"{"add":["x","y"]}"#).view(),
        r#"[null,10,"pear",["x","y"]]"#
    );
    assert_eq!(
        a.apply(r#"{"remove_all":[null,10,"pear",["x","y"]]}"#)
            .view(),
        "[]"
    );
    assert_eq!(a.apply(r#"{"remove":"pear"}"#).view(), "[]");
}

#[test]
fn equal_values_are_one_element() {
    let (mut a, mut b) = two();
    a.apply(r#"{"add":1}"#)
        .apply(r#"{"add":"\u0061"}"#)
        .apply(r#"{"add":{"x":1,"y":2}}"#);
    b.apply(r#"{"add":1.0}"#)
        .apply(r#"{"add":"a"}"#)
        .apply(r#"{"add":{"y":2,"x":1e0}}"#);
    assert_eq!(meet(&mut a, &mut b), r#"[1,"a",{"x":1,"y":2}]"#);
    a.apply(r#"{"remove":10e-1}"#).apply(r#"{"remove":"1"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"["a",{"x":1,"y":2}]"#);
}

#[test]
fn a_removed_element_stays_removed() {
    let (mut a, mut b) = two();
    a.apply(r#"{"add_all":["apple","pear"]}"#);
    b.hear(&a);
    a.apply(r#"{"remove":"pear"}"#);
    b.apply(r#"{"add":"fig"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"["apple","fig"]"#);
}

#[test]
fn a_removal_removes_what_it_saw_and_nothing_else() {
    let (mut a, mut b) = two();
    a.apply(r#"{"add":"apple"}"#);
    b.hear(&a).apply(r#"{"remove":"apple"}"#);
    a.apply(r#"{"add":"apple"}"#);
    assert_eq!(
        meet(&mut a, &mut b),
        r#"["apple"]"#,
        "added again meanwhile"
    );
    b.apply(r#"{"remove":"apple"}"#);
    assert_eq!(meet(&mut a, &mut b), "[]");

    let (mut a, mut b) = two();
    a.apply(r#"{"add":"apple"}"#);
    b.apply(r#"{"remove":"apple"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"["apple"]"#, "it saw no apple");

    // Two additions of one element; a removal that saw one of them.
    let (mut a, mut b) = two();
    let mut c = Replica::new(OR_SET, 3);
    a.apply(r#"{"add":"apple"}"#);
    b.apply(r#"{"add":"apple"}"#);
    c.hear(&a).apply(r#"{"remove":"apple"}"#);
    a.hear(&c);
    assert_eq!(meet(&mut a, &mut b), r#"["apple"]"#);
}

#[test]
fn tombstones_contribute_nothing() {
    let (mut a, _) = two();
    a.apply(r#"{"add":"apple"}"#);
    let set = sibling(a.state.as_deref(), 1, 1, 1);
    let gone = sibling(None, 9, 9, 9);
    assert_eq!(
        fold(&[gone.clone(), set]),
        Ok(Outcome::Merged(a.state.unwrap()))
    );
    assert_eq!(fold(&[gone.clone(), gone]), Ok(Outcome::Deleted));
}

/// The item was deleted at `a`, whose next operation starts from nothing, while
/// `b` went on with what it had heard of `a` before.
#[test]
fn an_operation_after_a_deletion_removes_what_the_deletion_saw() {
    let (mut a, mut b) = two();
    a.apply(r#"{"add":"apple"}"#);
    b.hear(&a).apply(r#"{"add":"pear"}"#);
    a.state = None;
    a.apply(r#"{"add":"fig"}"#);
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
        let error = apply(None, wrong.as_bytes(), &event(1, 1)).expect_err(wrong);
        assert!(
            error.starts_with("an operation on a set is {\"add\":\"apple\"}, "),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn refuses_a_dot_that_is_not_fresh() {
    let add = br#"{"add":"a"}"#;
    let state = apply(None, add, &event(1, 5)).unwrap();
    let error = apply(Some(&state), add, &event(1, 5)).unwrap_err();
    assert!(error.contains("fresh dot"), "{error}");
    assert!(apply(Some(&state), add, &event(1, 4)).is_err());
    assert!(apply(None, add, &event(1, 0)).is_err());
    // Gaps mean nothing: the store spends counters elsewhere too.
    assert!(apply(Some(&state), add, &event(1, 900)).is_ok());
    assert!(apply(Some(&state), add, &event(2, 1)).is_ok());
}

/// Every rule of the layout, broken one at a time.
#[test]
fn refuses_forged_states_and_says_why() {
    // Two actors, `a` seen up to 5 and `b` up to 7; `1` was added under (a, 5)
    // and (b, 3), and `2` under (b, 7).
    let good = [
        1, 2, 1, b'a', 5, 1, b'b', 7, 2, 1, b'1', 2, 0, 0, 1, 4, 1, b'2', 1, 1, 0,
    ];
    assert_eq!(OR_SET.view(&good), "[1,2]");
    for cut in 0..good.len() {
        assert!(render(&good[..cut]).is_err(), "cut at {cut}");
    }
    assert!(render(&[&good[..], &[0]].concat()).is_err());
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
        let error = render(&forged).expect_err(why);
        assert!(error.contains(why), "byte {at} as {byte}: {error}");
        assert!(
            error.starts_with("this is not the state of an or-set: "),
            "{error}"
        );
    }
}

/// 10,000 operations on 10 elements at five replicas, which hear of each other
/// now and then: no state is ever over 2 KiB, whatever the mix of operations.
#[test]
fn states_stay_small() {
    for (mix, adds_in_8) in [("as many adds as removes", 4), ("adds alone", 8)] {
        let mut dice = Dice::new(8);
        let mut replicas: Vec<Replica> = (1..=5).map(|n| Replica::new(OR_SET, n)).collect();
        let mut largest = 0;
        for _ in 0..10_000 {
            let at = dice.below(5) as usize;
            let element = dice.below(10);
            let name = if dice.below(8) < adds_in_8 {
                "add"
            } else {
                "remove"
            };
            replicas[at].apply(&format!(r#"{{"{name}":"element {element}"}}"#));
            if dice.below(4) == 0 {
                let other = replicas[dice.below(5) as usize].clone();
                replicas[at].hear(&other);
            }
            largest = largest.max(replicas[at].state.as_ref().unwrap().len());
        }
        println!("{mix}: at most {largest} bytes");
        assert!(largest < 2048, "{mix}: {largest} bytes");
        // When all is removed and all have heard of it, only the actors are left.
        let mut last = replicas.remove(0);
        for replica in &replicas {
            last.hear(replica);
        }
        for element in 0..10 {
            last.apply(&format!(r#"{{"remove":"element {element}"}}"#));
        }
        let left = last.state.as_ref().unwrap().len();
        assert!(left < 128, "{mix}: {left} bytes left of an empty set");
        for replica in &replicas {
            last.hear(replica);
        }
        assert_eq!(last.view(), "[]");
    }
}

/// Every addition that a replica has heard of, by element, actor and counter.
#[derive(Clone, Default)]
struct Model {
    heard: BTreeSet<(u8, u8, u64)>,
    removed: BTreeSet<(u8, u8, u64)>,
}

impl Model {
    fn hear(&mut self, other: &Model) {
        self.heard.extend(&other.heard);
        self.removed.extend(&other.removed);
    }

    fn view(&self) -> String {
        let live = self.heard.difference(&self.removed);
        let elements: BTreeSet<u8> = live.map(|(element, ..)| *element).collect();
        serde_json::to_string(&elements).unwrap()
    }
}

/// What happens in a history: at a replica, to some elements, or between two
/// replicas.
#[derive(Clone, Debug)]
enum Step {
    Add(usize, Vec<u8>),
    Remove(usize, Vec<u8>),
    Hear(usize, usize),
    Skip(usize),
}

const REPLICAS: usize = 3;

fn history(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let at = 0..REPLICAS;
    let few = vec(0..3u8, 1..3);
    let step = prop_oneof![
        3 => (at.clone(), few.clone()).prop_map(|(at, elements)| Step::Add(at, elements)),
        2 => (at.clone(), few).prop_map(|(at, elements)| Step::Remove(at, elements)),
        3 => (at.clone(), at.clone()).prop_map(|(at, from)| Step::Hear(at, from)),
        1 => at.prop_map(Step::Skip),
    ];
    vec(step, 0..longest)
}

/// Plays a history on the set and on the model, and gives every state that
/// there ever was, besides where they end.
fn play(steps: &[Step]) -> (Vec<(Replica, Model)>, Vec<Vec<u8>>) {
    let mut world: Vec<_> = (0..REPLICAS)
        .map(|n| (Replica::new(OR_SET, n as u8), Model::default()))
        .collect();
    let mut states = Vec::new();
    for step in steps {
        let at = match step {
            Step::Add(at, elements) => {
                let (replica, model) = &mut world[*at];
                replica.apply(&match elements[..] {
                    [element] => format!(r#"{{"add":{element}}}"#),
                    _ => format!(r#"{{"add_all":{elements:?}}}"#),
                });
                let (actor, counter) = (replica.actor, replica.counter);
                model
                    .heard
                    .extend(elements.iter().map(|element| (*element, actor, counter)));
                *at
            }
            Step::Remove(at, elements) => {
                let (replica, model) = &mut world[*at];
                replica.apply(&match elements[..] {
                    [element] => format!(r#"{{"remove":{element}}}"#),
                    _ => format!(r#"{{"remove_all":{elements:?}}}"#),
                });
                let seen = model.heard.iter().filter(|(it, ..)| elements.contains(it));
                model.removed.extend(seen);
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
    /// What a set shows is what the model shows, at every replica, and again
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
            let one_way = OR_SET.join(&ends);
            prop_assert_eq!(OR_SET.join(&[first, first]), *first);
            ends.reverse();
            let other_way = ends[1..]
                .iter()
                .fold(ends[0].to_vec(), |all, one| OR_SET.join(&[one, &all]));
            prop_assert_eq!(one_way, other_way);
        }
        for state in &states {
            prop_assert!(render(state).is_ok());
            for operation in operations(state.len() as u64, 4) {
                let after = apply(Some(state), &operation, &event(7, 1000)).unwrap();
                prop_assert_eq!(OR_SET.join(&[state, &after]), after);
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
