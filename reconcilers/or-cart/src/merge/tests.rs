//! The cart against the plainest model there is: every replica keeps every
//! operation that it has heard of and, of each, whether somebody removed it.

use std::collections::{BTreeMap, BTreeSet};

use kinfold_guest::Dot;
use kinfold_guest::laws::{Merge, check, search, sibling};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::state::MAX_ADDITIONS;

mod refusals;

fn event(actor: u8, counter: u64) -> Event {
    Event {
        dot: Dot {
            actor: vec![actor; 16],
            counter,
        },
        written_at: 0,
    }
}

fn view(state: &[u8]) -> String {
    String::from_utf8(render(state).unwrap().body).unwrap()
}

fn join(states: &[&[u8]]) -> Vec<u8> {
    let siblings: Vec<Sibling> = states
        .iter()
        .zip(1..)
        .map(|(state, n)| sibling(Some(state), n, 1, n))
        .collect();
    fold(&siblings).unwrap().into_value().unwrap()
}

/// A replica of one item, whose operations are its own actor's.
#[derive(Clone)]
struct Replica {
    actor: u8,
    counter: u64,
    state: Option<Vec<u8>>,
}

impl Replica {
    fn new(actor: u8) -> Self {
        Replica {
            actor,
            counter: 0,
            state: None,
        }
    }

    fn apply(&mut self, operation: &str) -> &mut Self {
        self.counter += 1;
        let event = event(self.actor, self.counter);
        let state = apply(self.state.as_deref(), operation.as_bytes(), &event).unwrap();
        self.state = Some(state);
        self
    }

    fn hear(&mut self, other: &Replica) -> &mut Self {
        self.state = match (self.state.take(), &other.state) {
            (Some(ours), Some(theirs)) => Some(join(&[&ours, theirs])),
            (ours, theirs) => ours.or(theirs.clone()),
        };
        self
    }

    fn view(&self) -> String {
        self.state.as_deref().map_or("{}".to_owned(), view)
    }
}

fn two() -> (Replica, Replica) {
    (Replica::new(1), Replica::new(2))
}

/// Both hear of each other and must then agree.
fn meet(a: &mut Replica, b: &mut Replica) -> String {
    let before = a.clone();
    a.hear(b);
    b.hear(&before);
    assert_eq!(a.state, b.state);
    a.view()
}

#[test]
fn one_replica_is_a_plain_cart() {
    let mut a = Replica::new(1);
    assert_eq!(a.apply(r#"{"add":"pear"}"#).view(), r#"{"pear":1}"#);
    assert_eq!(
        a.apply(r#"{"quantity":2,"add":"apple"}"#).view(),
        r#"{"apple":2,"pear":1}"#
    );
    assert_eq!(
        a.apply(r#"{"add":"apple","quantity":3}"#).view(),
        r#"{"apple":5,"pear":1}"#
    );
    assert_eq!(
        a.apply(r#"{"set":"apple","quantity":4}"#).view(),
        r#"{"apple":4,"pear":1}"#
    );
    assert_eq!(
        a.apply(r#"{"add":"apple"}"#).view(),
        r#"{"apple":5,"pear":1}"#
    );
    assert_eq!(a.apply(r#"{"remove":"apple"}"#).view(), r#"{"pear":1}"#);
    assert_eq!(a.apply(r#"{"set":"pear","quantity":0}"#).view(), "{}");
    assert_eq!(a.apply(r#"{"remove":"pear"}"#).view(), "{}");
}

/// What `cart-union` gets wrong.
#[test]
fn a_removed_item_stays_removed() {
    let (mut a, mut b) = two();
    a.apply(r#"{"add":"apple"}"#).apply(r#"{"add":"pear"}"#);
    b.hear(&a);
    a.apply(r#"{"remove":"pear"}"#);
    b.apply(r#"{"add":"fig"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":1,"fig":1}"#);
}

#[test]
fn a_removal_removes_what_it_saw_and_nothing_else() {
    let (mut a, mut b) = two();
    a.apply(r#"{"add":"apple","quantity":3}"#);
    b.hear(&a).apply(r#"{"remove":"apple"}"#);
    // The same actor's next addition, which the removal did not see: one apple
    // stays, not four.
    a.apply(r#"{"add":"apple"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":1}"#);

    let (mut a, mut b) = two();
    a.apply(r#"{"add":"apple","quantity":3}"#);
    b.apply(r#"{"remove":"apple"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":3}"#, "it saw no apple");
}

#[test]
fn concurrent_additions_add_up_and_a_setting_replaces_what_it_saw() {
    let (mut a, mut b) = two();
    a.apply(r#"{"add":"apple","quantity":2}"#);
    b.apply(r#"{"add":"apple","quantity":3}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":5}"#);
    a.apply(r#"{"set":"apple","quantity":1}"#);
    b.apply(r#"{"add":"apple","quantity":7}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":8}"#);
    a.apply(r#"{"set":"apple","quantity":4}"#);
    b.apply(r#"{"set":"apple","quantity":6}"#);
    assert_eq!(
        meet(&mut a, &mut b),
        r#"{"apple":6}"#,
        "settings do not add up"
    );
}

#[test]
fn tombstones_contribute_nothing() {
    let mut a = Replica::new(1);
    a.apply(r#"{"add":"apple"}"#);
    let cart = sibling(a.state.as_deref(), 1, 1, 1);
    let gone = sibling(None, 9, 9, 9);
    assert_eq!(
        fold(&[gone.clone(), cart]),
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
    assert_eq!(meet(&mut a, &mut b), r#"{"fig":1,"pear":1}"#);
}

#[test]
fn sums_are_exact_and_bounded_work_never_fails_a_view() {
    let mut replicas: Vec<Replica> = (1..=4).map(Replica::new).collect();
    for replica in &mut replicas {
        for _ in 0..20 {
            replica.apply(r#"{"add":"a","quantity":9007199254740991}"#);
        }
    }
    let mut first = replicas.remove(0);
    for replica in &replicas {
        first.hear(replica);
    }
    assert_eq!(
        first.view(),
        format!("{{\"a\":{}}}", 80 * 9_007_199_254_740_991_u128)
    );
}

/// The older of two summed additions follows the newer: what the top of
/// `state.rs` tells. Up to the bound a late removal is exact.
#[test]
fn a_removal_is_exact_up_to_the_bound_and_then_errs_towards_keeping() {
    for (later, stays) in [(MAX_ADDITIONS - 1, MAX_ADDITIONS - 1), (MAX_ADDITIONS, 9)] {
        let (mut a, mut b) = two();
        a.apply(r#"{"add":"apple"}"#);
        b.hear(&a).apply(r#"{"remove":"apple"}"#);
        for _ in 0..later {
            a.apply(r#"{"add":"apple"}"#);
        }
        assert_eq!(meet(&mut a, &mut b), format!("{{\"apple\":{stays}}}"));
    }
}

/// 10,000 operations on 10 items at five replicas, which hear of each other now
/// and then: no state is ever over 2 KiB, whatever the mix of operations.
#[test]
fn states_stay_small() {
    for (mix, adds_in_8) in [("as many adds as removes", 4), ("adds alone", 8)] {
        let mut dice = Dice::new(8);
        let mut replicas: Vec<Replica> = (1..=5).map(Replica::new).collect();
        let mut largest = 0;
        for _ in 0..10_000 {
            let at = dice.below(5) as usize;
            let item = dice.below(10);
            if dice.below(8) < adds_in_8 {
                replicas[at].apply(&format!(r#"{{"add":"item {item}","quantity":2}}"#));
            } else {
                replicas[at].apply(&format!(r#"{{"remove":"item {item}"}}"#));
            }
            if dice.below(4) == 0 {
                let other = replicas[dice.below(5) as usize].clone();
                replicas[at].hear(&other);
            }
            largest = largest.max(replicas[at].state.as_ref().unwrap().len());
        }
        println!("{mix}: at most {largest} bytes");
        assert!(largest < 2048, "{mix}: {largest} bytes");
    }
}

/// Everything that a replica has heard of.
#[derive(Clone, Default, PartialEq)]
struct Model {
    heard: BTreeSet<Happened>,
    removed: BTreeSet<Happened>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Happened {
    item: u8,
    set: bool,
    quantity: u64,
    actor: u8,
    counter: u64,
}

impl Model {
    fn remove(&mut self, item: u8) {
        self.removed
            .extend(self.heard.iter().filter(|it| it.item == item).cloned());
    }

    fn hear(&mut self, other: &Model) {
        self.heard.extend(other.heard.iter().cloned());
        self.removed.extend(other.removed.iter().cloned());
    }

    fn view(&self) -> String {
        let mut carts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for it in self.heard.difference(&self.removed) {
            let (set, added) = carts.entry(format!("i{}", it.item)).or_default();
            if it.set {
                *set = it.quantity.max(*set);
            } else {
                *added += it.quantity;
            }
        }
        let sums: BTreeMap<_, _> = carts
            .into_iter()
            .map(|(i, (set, add))| (i, set + add))
            .collect();
        serde_json::to_string(&sums).unwrap()
    }
}

/// What happens in a history: at a replica, to an item, or between two replicas.
#[derive(Clone, Debug)]
enum Step {
    Add(usize, u8, u64),
    Set(usize, u8, u64),
    Remove(usize, u8),
    Hear(usize, usize),
    Skip(usize),
}

const REPLICAS: usize = 3;

fn history(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let at = 0..REPLICAS;
    let item = 0..2u8;
    let step = prop_oneof![
        3 => (at.clone(), item.clone(), 1..4u64).prop_map(|(at, i, q)| Step::Add(at, i, q)),
        1 => (at.clone(), item.clone(), 0..4u64).prop_map(|(at, i, q)| Step::Set(at, i, q)),
        2 => (at.clone(), item).prop_map(|(at, i)| Step::Remove(at, i)),
        3 => (at.clone(), at.clone()).prop_map(|(at, from)| Step::Hear(at, from)),
        1 => at.prop_map(Step::Skip),
    ];
    vec(step, 0..longest)
}

/// Plays a history on the cart and on the model, and gives every state that
/// there ever was, besides where they end.
fn play(steps: &[Step]) -> (Vec<(Replica, Model)>, Vec<Vec<u8>>) {
    let mut world: Vec<_> = (0..REPLICAS)
        .map(|n| (Replica::new(n as u8), Model::default()))
        .collect();
    let mut states = Vec::new();
    for step in steps {
        let at = match *step {
            Step::Add(at, item, quantity) | Step::Set(at, item, quantity) => {
                let set = matches!(step, Step::Set(..));
                let name = if set { "set" } else { "add" };
                let (replica, model) = &mut world[at];
                replica.apply(&format!(r#"{{"{name}":"i{item}","quantity":{quantity}}}"#));
                if set {
                    model.remove(item);
                }
                if quantity > 0 {
                    let (actor, counter) = (replica.actor, replica.counter);
                    model.heard.insert(Happened {
                        item,
                        set,
                        quantity,
                        actor,
                        counter,
                    });
                }
                at
            }
            Step::Remove(at, item) => {
                let (replica, model) = &mut world[at];
                replica.apply(&format!(r#"{{"remove":"i{item}"}}"#));
                model.remove(item);
                at
            }
            Step::Hear(at, from) => {
                let (replica, model) = world[from].clone();
                world[at].0.hear(&replica);
                world[at].1.hear(&model);
                at
            }
            Step::Skip(at) => {
                world[at].0.counter += 1;
                at
            }
        };
        states.extend(world[at].0.state.clone());
    }
    (world, states)
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

#[test]
fn the_law_check_finds_nothing() {
    let merge = Merge {
        fold,
        samples: operations,
        data_type: Some((apply, render)),
    };
    for seed in 0..4 {
        let decided = search(merge, seed, 200);
        assert!(
            decided.clone().is_ok_and(|cases| cases > 120),
            "{decided:?}"
        );
    }
}

proptest! {
    /// What a cart shows is what the model shows, at every replica, and again
    /// when all have heard of all. (As long as no removal is more than
    /// `MAX_ADDITIONS` late: histories are short.)
    #[test]
    fn does_as_the_model(steps in history(3 * MAX_ADDITIONS)) {
        let late = |at: usize| {
            let adds = steps.iter().filter(|step| matches!(step, Step::Add(by, ..) if *by == at));
            adds.count() > MAX_ADDITIONS
        };
        prop_assume!(!(0..REPLICAS).any(late));
        let (world, _) = play(&steps);
        let mut whole = world[0].clone();
        for (replica, model) in &world {
            prop_assert_eq!(replica.view(), model.view());
            whole.0.hear(replica);
            whole.1.hear(model);
        }
        prop_assert_eq!(whole.0.view(), whole.1.view());
    }

    /// Laws 2 to 5, on states that operations made, old ones and new ones.
    #[test]
    fn lawful(
        steps in history(60),
        picks in vec((any::<prop::sample::Index>(), prop::bool::weighted(0.9)), 1..5),
    ) {
        let (_, states) = play(&steps);
        prop_assume!(!states.is_empty());
        check(fold, &pick(&states, &picks)).map_err(TestCaseError::fail)?;
    }

    /// Law 6: an operation moves a state up; replicas end up equal whatever the
    /// order in which they exchange states; every state has a view.
    #[test]
    fn lawful_as_a_data_type(steps in history(60)) {
        let (world, states) = play(&steps);
        let mut ends: Vec<&[u8]> = world.iter().filter_map(|(r, _)| r.state.as_deref()).collect();
        if let Some(first) = ends.first() {
            let one_way = join(&ends);
            prop_assert_eq!(join(&[first, first]), *first);
            ends.reverse();
            let other_way = ends[1..].iter().fold(ends[0].to_vec(), |all, one| join(&[one, &all]));
            prop_assert_eq!(one_way, other_way);
        }
        for state in &states {
            prop_assert!(render(state).is_ok());
            for operation in operations(state.len() as u64, 4) {
                let after = apply(Some(state), &operation, &event(7, 1000)).unwrap();
                prop_assert_eq!(join(&[state, &after]), after);
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
        let (_, states) = play(&steps);
        let mut candidates = states;
        candidates.push(noise);
        for mut bytes in candidates {
            for (index, byte) in &edits {
                if !bytes.is_empty() {
                    let at = index.index(bytes.len());
                    bytes[at] = *byte;
                }
            }
            if let Ok(state) = State::decode(&bytes) {
                prop_assert_eq!(state.encode(), &bytes[..]);
                prop_assert!(render(&bytes).is_ok());
            }
        }
    }

    /// Even states that no history makes (edited bytes that still decode) are
    /// joined lawfully.
    #[test]
    fn lawful_on_forged_states(
        steps in history(12),
        edits in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..6u8), 0..12),
        picks in vec((any::<prop::sample::Index>(), prop::bool::weighted(0.9)), 2..5),
    ) {
        let (_, mut states) = play(&steps);
        prop_assume!(!states.is_empty());
        for (which, index, byte) in edits {
            let mut forged = which.get(&states).clone();
            let at = index.index(forged.len());
            forged[at] = byte;
            if State::decode(&forged).is_ok() {
                states.push(forged);
            }
        }
        check(fold, &pick(&states, &picks)).map_err(TestCaseError::fail)?;
    }
}
