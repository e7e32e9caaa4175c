//! The cart against the plainest model there is: every replica keeps every
//! operation that it has heard of and, of each, whether somebody removed it.

use std::collections::{BTreeMap, BTreeSet};

use kinfold_histories::{Histories, Model, crowd};
use kinfold_reconciler::testing::{Replica, event, item, meet, view};
use proptest::prelude::*;

use super::*;
use crate::state::MAX_ADDITIONS;

mod refusals;

fn two() -> (Replica<OrCart>, Replica<OrCart>) {
    (Replica::new(1), Replica::new(2))
}

#[test]
fn one_replica_is_a_plain_cart() {
    let (mut a, _) = two();
    assert_eq!(a.does(r#"{"add":"pear"}"#).view(), r#"{"pear":1}"#);
    assert_eq!(
        a.does(r#"{"quantity":2,"add":"apple"}"#).view(),
        r#"{"apple":2,"pear":1}"#
    );
    assert_eq!(
        a.does(r#"{"add":"apple","quantity":3}"#).view(),
        r#"{"apple":5,"pear":1}"#
    );
    assert_eq!(
        a.does(r#"{"set":"apple","quantity":4}"#).view(),
        r#"{"apple":4,"pear":1}"#
    );
    assert_eq!(
        a.does(r#"{"add":"apple"}"#).view(),
        r#"{"apple":5,"pear":1}"#
    );
    assert_eq!(a.does(r#"{"remove":"apple"}"#).view(), r#"{"pear":1}"#);
    assert_eq!(a.does(r#"{"set":"pear","quantity":0}"#).view(), "{}");
    assert_eq!(a.does(r#"{"remove":"pear"}"#).view(), "{}");
}

/// What `cart-union` gets wrong.
#[test]
fn a_removed_item_stays_removed() {
    let (mut a, mut b) = two();
    a.does(r#"{"add":"apple"}"#).does(r#"{"add":"pear"}"#);
    b.receive(&a);
    a.does(r#"{"remove":"pear"}"#);
    b.does(r#"{"add":"fig"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":1,"fig":1}"#);
}

#[test]
fn a_removal_removes_what_it_saw_and_nothing_else() {
    let (mut a, mut b) = two();
    a.does(r#"{"add":"apple","quantity":3}"#);
    b.receive(&a).does(r#"{"remove":"apple"}"#);
    // The same actor's next addition, which the removal did not see: one apple
    // stays, not four.
    a.does(r#"{"add":"apple"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":1}"#);

    let (mut a, mut b) = two();
    a.does(r#"{"add":"apple","quantity":3}"#);
    b.does(r#"{"remove":"apple"}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":3}"#, "it saw no apple");
}

#[test]
fn concurrent_additions_add_up_and_a_setting_replaces_what_it_saw() {
    let (mut a, mut b) = two();
    a.does(r#"{"add":"apple","quantity":2}"#);
    b.does(r#"{"add":"apple","quantity":3}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":5}"#);
    a.does(r#"{"set":"apple","quantity":1}"#);
    b.does(r#"{"add":"apple","quantity":7}"#);
    assert_eq!(meet(&mut a, &mut b), r#"{"apple":8}"#);
    a.does(r#"{"set":"apple","quantity":4}"#);
    b.does(r#"{"set":"apple","quantity":6}"#);
    assert_eq!(
        meet(&mut a, &mut b),
        r#"{"apple":6}"#,
        "settings do not add up"
    );
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
    assert_eq!(meet(&mut a, &mut b), r#"{"fig":1,"pear":1}"#);
}

#[test]
fn sums_are_exact_and_bounded_work_never_fails_a_view() {
    let mut replicas: Vec<Replica<OrCart>> = (1..=4).map(Replica::new).collect();
    for replica in &mut replicas {
        for _ in 0..20 {
            replica.does(r#"{"add":"a","quantity":9007199254740991}"#);
        }
    }
    let mut first = replicas.remove(0);
    for replica in &replicas {
        first.receive(replica);
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
        a.does(r#"{"add":"apple"}"#);
        b.receive(&a).does(r#"{"remove":"apple"}"#);
        for _ in 0..later {
            a.does(r#"{"add":"apple"}"#);
        }
        assert_eq!(meet(&mut a, &mut b), format!("{{\"apple\":{stays}}}"));
    }
}

/// 10,000 operations on 10 items at five replicas: no state is ever over 2 KiB,
/// whatever the mix of operations.
#[test]
fn states_stay_small() {
    for (mix, adds_in_8) in [("as many adds as removes", 4), ("adds alone", 8)] {
        let (_, largest) = crowd::<OrCart>(|dice, _| {
            let item = dice.below(10);
            if dice.below(8) < adds_in_8 {
                format!(r#"{{"add":"item {item}","quantity":2}}"#)
            } else {
                format!(r#"{{"remove":"item {item}"}}"#)
            }
        });
        println!("{mix}: at most {largest} bytes");
        assert!(largest < 2048, "{mix}: {largest} bytes");
    }
}

/// Everything that a replica has heard of.
#[derive(Clone, Default)]
struct Quantities {
    heard: BTreeSet<Happened>,
    removed: BTreeSet<Happened>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Happened {
    item: u8,
    is_set: bool,
    quantity: u64,
    actor: Vec<u8>,
    counter: u64,
}

/// What happens to an item.
#[derive(Clone, Debug)]
enum Step {
    Add(u8, u64),
    Set(u8, u64),
    Remove(u8),
}

impl Quantities {
    fn remove(&mut self, item: u8) {
        let seen = self.heard.iter().filter(|it| it.item == item);
        self.removed.extend(seen.cloned());
    }

    fn quantity(&mut self, item: u8, is_set: bool, quantity: u64, replica: &Replica<OrCart>) {
        let dot = replica.dot();
        self.heard.insert(Happened {
            item,
            is_set,
            quantity,
            actor: dot.actor,
            counter: dot.counter,
        });
    }
}

impl Model<OrCart> for Quantities {
    type Step = Step;

    fn step(&mut self, replica: &mut Replica<OrCart>, step: &Step) {
        match *step {
            Step::Add(item, quantity) => {
                replica.does(&format!(r#"{{"add":"i{item}","quantity":{quantity}}}"#));
                self.quantity(item, false, quantity, replica);
            }
            Step::Set(item, quantity) => {
                replica.does(&format!(r#"{{"set":"i{item}","quantity":{quantity}}}"#));
                self.remove(item);
                if quantity > 0 {
                    self.quantity(item, true, quantity, replica);
                }
            }
            Step::Remove(item) => {
                replica.does(&format!(r#"{{"remove":"i{item}"}}"#));
                self.remove(item);
            }
        }
    }

    fn hear(&mut self, other: &Quantities) {
        self.heard.extend(other.heard.iter().cloned());
        self.removed.extend(other.removed.iter().cloned());
    }

    /// Nothing where an actor added so often that the cart may have summed up what
    /// a late removal saw a part of: the top of `state.rs` tells.
    fn view(&self) -> Option<String> {
        let mut additions: BTreeMap<&[u8], usize> = BTreeMap::new();
        for it in self.heard.iter().filter(|it| !it.is_set) {
            *additions.entry(&it.actor).or_default() += 1;
        }
        if additions.values().any(|count| *count > MAX_ADDITIONS) {
            return None;
        }
        let mut carts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for it in self.heard.difference(&self.removed) {
            let (set, added) = carts.entry(format!("i{}", it.item)).or_default();
            if it.is_set {
                *set = it.quantity.max(*set);
            } else {
                *added += it.quantity;
            }
        }
        let sums: BTreeMap<_, _> = carts
            .into_iter()
            .map(|(item, (set, added))| (item, set + added))
            .collect();
        serde_json::to_string(&sums).ok()
    }
}

fn histories() -> Histories<OrCart, Quantities> {
    let item = 0..2u8;
    Histories::new(prop_oneof![
        3 => (item.clone(), 1..4u64).prop_map(|(item, quantity)| Step::Add(item, quantity)),
        1 => (item.clone(), 0..4u64).prop_map(|(item, quantity)| Step::Set(item, quantity)),
        2 => item.prop_map(Step::Remove),
    ])
}

kinfold_histories::tests!(OrCart, histories(), r#"{"add":"a"}"#);
