//! The cart of the Dynamo paper (DeCandia et al., SOSP 2007, sections 4.4 and
//! 6): no addition is ever lost, and a removed item can come back.
//!
//! A value is a JSON object of item → quantity, a non-negative integer of at
//! most 64 bits: `{"apple":2,"pear":1}`.
//!
//! Promises: the fold holds every item that some sibling holds, at the largest
//! quantity that some sibling gives it. A tombstone contributes nothing, and
//! only tombstones leave the item deleted. Of an item that one object names
//! twice, the larger quantity counts. Whatever else a value is, it is refused
//! with a text that says what is expected, the same text in any order.
//!
//! The result is canonical: items sorted by the bytes of their UTF-8, each once,
//! no spaces, escapes only where JSON demands them. So the fold of one sibling
//! is its canonical form, which is itself once it has been folded. Names are
//! compared code point by code point: no Unicode normalisation, `"é"` written in
//! two ways is two items.
//!
//! Not promised: that a removal holds. Leaving an item out says nothing to a
//! union, so a sibling that still has the item brings it back (and a quantity
//! that was lowered goes back up). That is why the module is not eager, and why
//! `or-cart` exists.
//!
//! Why it is lawful: objects ordered by "has each item of the other at the same
//! quantity or more" are a lattice and the fold is its join. Neither times nor
//! dots are looked at, so it does not matter which of them a fold carries.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use kinfold_reconciler::{Dice, Item, Outcome, Reconciler, Sibling, fold_values};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Item → quantity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cart(BTreeMap<String, u64>);

impl Cart {
    /// Takes note of `quantity` of `item`, if that is more than there is.
    fn raise(&mut self, item: String, quantity: u64) {
        match self.0.entry(item) {
            Entry::Vacant(entry) => {
                entry.insert(quantity);
            }
            Entry::Occupied(mut entry) => {
                let larger = quantity.max(*entry.get());
                entry.insert(larger);
            }
        }
    }

    fn join(mut self, other: Cart) -> Cart {
        for (item, quantity) in other.0 {
            self.raise(item, quantity);
        }
        self
    }

    fn parse(value: &[u8]) -> Result<Cart, String> {
        serde_json::from_slice(value).map_err(|error| {
            format!(
                "a cart is a JSON object of item to quantity, a non-negative integer, \
                 like {{\"apple\":2}}: {error}"
            )
        })
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).expect("a map of strings to integers is JSON")
    }
}

/// By hand, because a derived map keeps the last of two entries of one name, and
/// which one is last is not for a lawful merge to mind.
impl<'de> Deserialize<'de> for Cart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;

        impl<'de> Visitor<'de> for Items {
            type Value = Cart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Cart, A::Error> {
                let mut cart = Cart::default();
                while let Some((item, quantity)) = entries.next_entry()? {
                    cart.raise(item, quantity);
                }
                Ok(cart)
            }
        }

        deserializer.deserialize_map(Items)
    }
}

/// What a table calls `cart-union`.
pub struct CartUnion;

impl Reconciler for CartUnion {
    const SUMMARY: &str = "The Dynamo paper's cart: the union of items, the larger quantity of each; a removed item can come back";

    fn fold(_: &Item, siblings: &[Sibling]) -> Result<Outcome, String> {
        Ok(match fold_values(siblings, Cart::parse, Cart::join)? {
            Some(cart) => Outcome::Merged(cart.to_json()),
            None => Outcome::Deleted,
        })
    }

    /// Carts for the law check: few items and quantities, so that they collide, and
    /// some that are spelled in no canonical way.
    fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        const ITEMS: &[&str] = &["apple", "pear", "fig", "", "\u{e9}", "\u{1f350}", "\"\\\n"];
        const ODD: &[&str] = &[
            " { \"pear\" : 2 , \"apple\" : 1 } ",
            r#"{"\u0061pple":3}"#,
            r#"{"fig":1,"fig":4,"fig":2}"#,
            r#"{"apple":18446744073709551615}"#,
            "{}",
        ];
        let mut dice = Dice::new(seed);
        let mut sample = || {
            if dice.below(8) == 0 {
                return dice.pick(ODD).as_bytes().to_vec();
            }
            let mut cart = Cart::default();
            for _ in 0..dice.below(5) {
                cart.raise(dice.pick(ITEMS).to_owned(), dice.below(4));
            }
            cart.to_json()
        };
        (0..count).map(|_| sample()).collect()
    }
}

#[cfg(test)]
mod tests {
    use kinfold_reconciler::testing::{check_siblings, conclude, item, report, sibling};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The fold of these carts, each under a dot of its own, as text.
    fn union(carts: &[&str]) -> Result<String, String> {
        let siblings: Vec<Sibling> = carts
            .iter()
            .zip(1..)
            .map(|(cart, counter)| sibling(Some(cart.as_bytes()), counter, 1, counter))
            .collect();
        CartUnion::fold(&item(), &siblings)
            .map(|outcome| String::from_utf8(outcome.into_value().unwrap()).unwrap())
    }

    fn ok(cart: &str) -> Result<String, String> {
        Ok(cart.to_owned())
    }

    #[test]
    fn takes_the_union_and_the_larger_quantities() {
        assert_eq!(
            union(&[r#"{"apple":1,"pear":5}"#, r#"{"apple":3,"fig":2}"#]),
            ok(r#"{"apple":3,"fig":2,"pear":5}"#)
        );
    }

    /// The paper's anomaly: one side removed the pear and the other bought a fig
    /// without having seen that.
    #[test]
    fn a_removed_item_comes_back() {
        assert_eq!(
            union(&[r#"{"apple":1}"#, r#"{"apple":1,"fig":1,"pear":1}"#]),
            ok(r#"{"apple":1,"fig":1,"pear":1}"#)
        );
    }

    #[test]
    fn one_sibling_becomes_canonical() {
        assert_eq!(
            union(&[" { \"b\" : 2 ,\n\"a\":1 } "]),
            ok(r#"{"a":1,"b":2}"#)
        );
        assert_eq!(
            union(&[r#"{"\u0061":1,"\u00e9":0,"\/":2}"#]),
            ok(r#"{"/":2,"a":1,"é":0}"#)
        );
        assert_eq!(union(&[r#"{"a":1,"a":7,"\u0061":3}"#]), ok(r#"{"a":7}"#));
        assert_eq!(
            union(&[r#"{"\u0000\n\"\\\u007f":1}"#]),
            ok("{\"\\u0000\\n\\\"\\\\\u{7f}\":1}")
        );
        assert_eq!(union(&[r#"{"😀":1,"�":2}"#]), ok(r#"{"�":2,"😀":1}"#));
        assert_eq!(union(&["{}"]), ok("{}"));
        assert_eq!(
            union(&[r#"{"a":18446744073709551615}"#]),
            ok(r#"{"a":18446744073709551615}"#)
        );
    }

    #[test]
    fn tombstones_contribute_nothing() {
        let cart = sibling(Some(b"{\"a\":1}"), 1, 1, 1);
        let gone = sibling(None, 9, 9, 9);
        assert_eq!(
            CartUnion::fold(&item(), &[cart, gone.clone()]),
            Ok(Outcome::Merged(b"{\"a\":1}".to_vec()))
        );
        assert_eq!(CartUnion::fold(&item(), &[gone]), Ok(Outcome::Deleted));
    }

    #[test]
    fn refuses_what_is_no_cart_and_says_what_is() {
        for wrong in [
            "",
            "null",
            "[]",
            "[[\"a\",1]]",
            "\"a\"",
            "{\"a\":-1}",
            "{\"a\":-0}",
            "{\"a\":1.0}",
            "{\"a\":1e2}",
            "{\"a\":\"1\"}",
            "{\"a\":null}",
            "{\"a\":{}}",
            "{\"a\":18446744073709551616}",
            "{\"a\":1}x",
            "{\"a\":1,}",
            "{\"\\ud800\":1}",
            "{a:1}",
        ] {
            let error = union(&[wrong]).expect_err(wrong);
            assert!(
                error.starts_with("a cart is a JSON object of item to quantity"),
                "{error}"
            );
            assert_eq!(union(&["{\"a\":1}", wrong]), Err(error.clone()));
            assert_eq!(union(&[wrong, "{\"a\":1}"]), Err(error));
        }
        assert!(
            CartUnion::fold(&item(), &[sibling(Some(b"{\"\xff\":1}"), 1, 1, 1)]).is_err(),
            "not UTF-8"
        );
        assert_eq!(union(&["1", "[]", "{"]), union(&["{", "[]", "1"]));
    }

    #[test]
    fn every_sample_is_a_cart() {
        assert_eq!(CartUnion::samples(7, 100), CartUnion::samples(7, 100));
        for sample in CartUnion::samples(7, 1000) {
            Cart::parse(&sample).unwrap();
        }
    }

    #[test]
    fn the_law_check_finds_nothing() {
        for seed in 0..4 {
            let decided = conclude(&report::<CartUnion>(seed, 200));
            assert!(decided > 120, "seed {seed} decided {decided}");
        }
    }

    proptest! {
        #[test]
        fn lawful(
            seed: u64,
            rows in vec((any::<bool>(), 0..3u64, 0..3u8), 1..6),
        ) {
            let siblings: Vec<Sibling> = rows
                .iter()
                .zip(CartUnion::samples(seed, 6))
                .zip(1..)
                .map(|((&(there, written_at, actor), cart), counter)| {
                    sibling(there.then_some(&cart[..]), written_at, actor, counter)
                })
                .collect();
            check_siblings(CartUnion::fold, &siblings).map_err(TestCaseError::fail)?;
        }

        /// Any names at all survive the way through JSON.
        #[test]
        fn any_names(items in proptest::collection::btree_map(".*", any::<u64>(), 0..5)) {
            let cart = Cart(items);
            prop_assert_eq!(Cart::parse(&cart.to_json()), Ok(cart));
        }

        #[test]
        fn never_panics(values in vec(vec(any::<u8>(), 0..40), 1..4)) {
            let siblings: Vec<Sibling> =
                values.iter().map(|value| sibling(Some(value), 1, 1, 1)).collect();
            check_siblings(CartUnion::fold, &siblings).map_err(TestCaseError::fail)?;
        }
    }
}
