//! NAME: who wishes for what. Change this into the merge of your own data.
//!
//! A value is JSON, a wish and everyone who has it: `{"fig":["ann","bob"]}`.
//! Two writers who have not seen each other leave two versions. kinfold keeps
//! both and calls `merge` to make one of them.
//!
//! Every replica may merge in another order, in other groups, and some versions
//! twice, and all must end up with the same bytes. So ask of your merge:
//!
//! - a.merge(b) is b.merge(a);
//! - a.merge(a) is a;
//! - of three, it does not matter which two are merged first.
//!
//! A union keeps these laws, and so does the larger of two. A sum does not (it
//! counts twice what both have seen), nor does an average, or "the first wins".
//! That is why this holds *who* wishes, and not how many.
//!
//! `cargo test` searches for versions that your merge gets wrong.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use kinfold_reconciler::{Dice, JsonMerge};
use serde::{Deserialize, Serialize};

/// Each wish, and who has it. (With a struct, write
/// `#[serde(deny_unknown_fields)]` over it: fields that it does not know are
/// then refused, and not dropped.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wishes(BTreeMap<String, BTreeSet<String>>);

impl JsonMerge for Wishes {
    const SUMMARY: &str = "Wishes: everyone who wished, and everything they wished for";
    /// The beginning of every refusal: values come from clients, and may be wrong.
    const EXPECTED: &str = r#"wishes are a JSON object of names, like {"fig":["ann"]}"#;

    /// What is in either: no wish is lost, and none counts twice.
    fn merge(mut self, other: Self) -> Self {
        for (wish, names) in other.0 {
            self.0.entry(wish).or_default().extend(names);
        }
        self
    }

    /// Values for the law check. Few names, so that they meet.
    fn sample(dice: &mut Dice) -> Self {
        let mut wishes = BTreeMap::new();
        for _ in 0..dice.below(4) {
            let names: &mut BTreeSet<String> = wishes
                .entry(dice.pick(&["fig", "nut", "pear"]).to_owned())
                .or_default();
            names.insert(dice.pick(&["ann", "bob", "eve"]).to_owned());
        }
        Wishes(wishes)
    }
}

kinfold_reconciler::export!(Wishes);

#[cfg(test)]
mod tests {
    use kinfold_reconciler::testing;

    use super::*;

    #[test]
    fn nothing_is_lost() {
        let left = r#"{"fig":["ann"]}"#;
        let right = r#"{"fig":["bob"],"nut":["bob"]}"#;
        assert_eq!(
            testing::fold::<Wishes>(&[left, right]),
            r#"{"fig":["ann","bob"],"nut":["bob"]}"#
        );
    }

    /// Fails with siblings that are folded wrong, if it finds any.
    #[test]
    fn the_merge_is_lawful() {
        testing::check::<Wishes>();
    }
}
