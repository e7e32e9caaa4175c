//! Last write wins.
//!
//! Promises: of any siblings, the one with the newest `written-at` is kept, of
//! several such the one with the greatest dot, whole and byte for byte. A
//! tombstone is a version like any other: when it is the last write, the item
//! is deleted. Every value is accepted, and the fold of one sibling is that
//! sibling.
//!
//! Not promised: that the last write is the one a person made last. `written-at`
//! is some node's clock; concurrent writes lose here, which is the price that a
//! table agrees to by naming this module.
//!
//! Why it is lawful: siblings are totally ordered by (written-at, dot) and the
//! fold is the maximum, which minds neither order nor repeats nor groups, given
//! that a fold stands for its inputs with the greatest *pair*: that is the
//! winner's own. (Were it to carry the newest time of one and the greatest dot
//! of another, no module could break ties by dot and regroup; see the test
//! `a_borrowed_dot_would_not_regroup`.)

use kinfold_reconciler::{Dice, Item, Outcome, Reconciler, Sibling};

/// What a table calls `lww`.
pub struct Lww;

impl Reconciler for Lww {
    const SUMMARY: &str = "Last write wins: the newest written-at, then the greatest dot; a delete is a version like any other";
    const EAGER: bool = true;

    fn fold(_: &Item, siblings: &[Sibling]) -> Result<Outcome, String> {
        // A dot names one write, so two siblings never tie on it. The value comes
        // last so that even siblings that break this are folded in any order.
        let last = siblings
            .iter()
            .max_by_key(|sibling| (sibling.written_at, &sibling.dot, &sibling.value))
            .ok_or("there is nothing to fold: at least one sibling is expected")?;
        Ok(match &last.value {
            Some(value) => Outcome::Merged(value.clone()),
            None => Outcome::Deleted,
        })
    }

    /// Values for the law check: few and short, so that they collide.
    fn samples(seed: u64, count: u32) -> Vec<Vec<u8>> {
        const VALUES: &[&[u8]] = &[
            b"",
            b"a",
            b"b",
            b"apple",
            b"pear",
            b"\x00\xff",
            b"{}",
            b"{\"a\":1}",
        ];
        let mut dice = Dice::new(seed);
        (0..count).map(|_| dice.pick(VALUES).to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use kinfold_reconciler::testing::{check_siblings, conclude, item, report, sibling, stand_in};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn merged(bytes: &[u8]) -> Result<Outcome, String> {
        Ok(Outcome::Merged(bytes.to_vec()))
    }

    #[test]
    fn the_newest_time_wins_over_every_dot() {
        let old = sibling(Some(b"old"), 1, 9, 9);
        let new = sibling(Some(b"new"), 2, 1, 1);
        assert_eq!(Lww::fold(&item(), &[new, old]), merged(b"new"));
    }

    #[test]
    fn the_greatest_dot_breaks_a_tie_by_actor_then_counter() {
        let one = sibling(Some(b"one"), 5, 1, 9);
        let two = sibling(Some(b"two"), 5, 2, 1);
        let three = sibling(Some(b"three"), 5, 2, 3);
        assert_eq!(
            Lww::fold(&item(), &[two.clone(), one.clone()]),
            merged(b"two")
        );
        assert_eq!(Lww::fold(&item(), &[three, two, one]), merged(b"three"));
    }

    #[test]
    fn a_tombstone_wins_and_loses_like_any_version() {
        let put = sibling(Some(b"put"), 5, 1, 1);
        assert_eq!(
            Lww::fold(&item(), &[put.clone(), sibling(None, 6, 1, 2)]),
            Ok(Outcome::Deleted)
        );
        assert_eq!(
            Lww::fold(&item(), &[put.clone(), sibling(None, 4, 1, 2)]),
            merged(b"put")
        );
        assert_eq!(
            Lww::fold(&item(), &[put, sibling(None, 5, 1, 2)]),
            Ok(Outcome::Deleted)
        );
    }

    #[test]
    fn one_sibling_is_itself_and_none_is_an_error() {
        assert_eq!(
            Lww::fold(&item(), &[sibling(Some(b"\x00"), 5, 1, 1)]),
            merged(b"\x00")
        );
        assert!(Lww::fold(&item(), &[]).is_err());
    }

    /// Why a fold must carry the winner's dot: with the newest time of `x` and
    /// the greatest dot of `y`, `x` would beat `z` in one grouping and lose to
    /// it in another.
    #[test]
    fn a_borrowed_dot_would_not_regroup() {
        let x = sibling(Some(b"x"), 5, 1, 1);
        let y = sibling(Some(b"y"), 1, 1, 9);
        let z = sibling(Some(b"z"), 5, 1, 7);
        let mut xy = stand_in(
            &[x.clone(), y.clone()],
            Lww::fold(&item(), &[x.clone(), y.clone()]).unwrap(),
        );
        assert_eq!(
            Lww::fold(&item(), &[x.clone(), y.clone(), z.clone()]),
            merged(b"z")
        );
        assert_eq!(Lww::fold(&item(), &[xy.clone(), z.clone()]), merged(b"z"));
        xy.dot = y.dot;
        assert_eq!(
            Lww::fold(&item(), &[xy, z]),
            merged(b"x"),
            "the two maxima apart do not regroup"
        );
    }

    #[test]
    fn samples_follow_the_seed() {
        assert_eq!(Lww::samples(7, 20), Lww::samples(7, 20));
        assert_ne!(Lww::samples(7, 20), Lww::samples(8, 20));
        assert_eq!(Lww::samples(7, 20).len(), 20);
    }

    /// Siblings with distinct dots, few times and few values.
    fn siblings() -> impl Strategy<Value = Vec<Sibling>> {
        vec(
            (proptest::option::of(vec(0..3u8, 0..3)), 0..3u64, 0..3u8),
            1..7,
        )
        .prop_map(|rows| {
            let numbered = rows.into_iter().zip(1..);
            numbered
                .map(|((value, written_at, actor), counter)| {
                    sibling(value.as_deref(), written_at, actor, counter)
                })
                .collect()
        })
    }

    #[test]
    fn the_law_check_finds_nothing() {
        for seed in 0..4 {
            let decided = conclude(&report::<Lww>(seed, 200));
            assert!(decided > 120, "seed {seed} decided {decided}");
        }
    }

    proptest! {
        #[test]
        fn lawful(siblings in siblings()) {
            check_siblings(Lww::fold, &siblings).map_err(TestCaseError::fail)?;
        }

        /// The winner is an input, and none of the others is later.
        #[test]
        fn keeps_the_last(siblings in siblings()) {
            let kept = Lww::fold(&item(), &siblings).unwrap().into_value();
            let last = siblings.iter().max_by_key(|s| (s.written_at, s.dot.clone())).unwrap();
            prop_assert_eq!(&kept, &last.value);
        }
    }
}
