//! The laws of a fold, for the tests of merge logic.
//!
//! Promises: [`check`] says what is broken, and by which siblings, or nothing.
//! The server's law check asks the same of the compiled module; this one is
//! quick enough to run on every edit, and points at a line of Rust.
//!
//! "A fold stands for its inputs": it carries the greatest (written-at, dot) of
//! them, the pair, not the two apart; [`stand_in`] is that rule.

use std::slice;

use crate::{Dot, Outcome, Sibling};

/// Any fold.
pub type Fold = fn(&[Sibling]) -> Result<Outcome, String>;

/// The sibling that a fold of `inputs` (at least one) is when it is folded again.
pub fn stand_in(inputs: &[Sibling], outcome: Outcome) -> Sibling {
    let newest = inputs
        .iter()
        .max_by_key(|sibling| (sibling.written_at, &sibling.dot))
        .expect("a fold has at least one input");
    Sibling {
        value: outcome.into_value(),
        written_at: newest.written_at,
        dot: newest.dot.clone(),
    }
}

fn folded(fold: Fold, inputs: &[Sibling]) -> Result<Sibling, String> {
    fold(inputs).map(|outcome| stand_in(inputs, outcome))
}

/// Order-free, idempotent, regroupable, closed: laws 2 to 5, on these siblings
/// (at least one). Siblings that `fold` refuses must be refused in every order.
pub fn check(fold: Fold, siblings: &[Sibling]) -> Result<(), String> {
    let whole = fold(siblings);
    let same = |law: &str, got: Result<Outcome, String>| {
        if got == whole {
            Ok(())
        } else {
            Err(format!("{law}: {got:?} is not {whole:?}, for {siblings:?}"))
        }
    };

    // Every swap of neighbours reached from every rotation: these generate all
    // permutations, so a fold that minds the order minds one of them.
    let mut order = siblings.to_vec();
    for _ in 0..siblings.len() {
        order.rotate_left(1);
        same("order-free", fold(&order))?;
        for left in 1..order.len() {
            let mut swapped = order.clone();
            swapped.swap(left - 1, left);
            same("order-free", fold(&swapped))?;
        }
    }
    order.reverse();
    same("order-free", fold(&order))?;

    let Ok(ref outcome) = whole else {
        return Ok(());
    };

    let twice = [siblings, siblings].concat();
    same("idempotent", fold(&twice))?;
    let again = stand_in(siblings, outcome.clone());
    same("closed: a fold folded alone", fold(slice::from_ref(&again)))?;
    let mut with_fold = siblings.to_vec();
    with_fold.push(again);
    same(
        "idempotent: a fold folded with its inputs",
        fold(&with_fold),
    )?;

    for cut in 1..siblings.len() {
        let (left, right) = siblings.split_at(cut);
        let left_fold = folded(fold, left)?;
        let right_fold = folded(fold, right)?;
        let mut left_first = vec![left_fold.clone()];
        left_first.extend_from_slice(right);
        same("regroupable: fold(fold(a), b)", fold(&left_first))?;
        let mut right_first = left.to_vec();
        right_first.push(right_fold.clone());
        same("regroupable: fold(a, fold(b))", fold(&right_first))?;
        same(
            "regroupable: fold(fold(a), fold(b))",
            fold(&[left_fold, right_fold]),
        )?;
        // Groups that overlap, as replicas' do.
        let overlap = folded(fold, &siblings[cut - 1..])?;
        left_first.push(overlap);
        same("regroupable: groups that overlap", fold(&left_first))?;
    }
    Ok(())
}

/// A sibling for tests: a one-byte actor.
pub fn sibling(value: Option<&[u8]>, written_at: u64, actor: u8, counter: u64) -> Sibling {
    Sibling {
        value: value.map(<[u8]>::to_vec),
        written_at,
        dot: Dot {
            actor: vec![actor],
            counter,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Sibling> {
        (1..=3).map(|n| sibling(Some(&[n]), 7, n, 1)).collect()
    }

    /// A check that cannot fail says nothing: here it meets the usual mistakes.
    #[test]
    fn notices_unlawful_folds() {
        fn values(siblings: &[Sibling]) -> impl Iterator<Item = &[u8]> {
            siblings
                .iter()
                .filter_map(|sibling| sibling.value.as_deref())
        }
        let concat: Fold = |s| Ok(Outcome::Merged(values(s).flatten().copied().collect()));
        let first: Fold = |s| Ok(Outcome::Merged(s[0].value.clone().unwrap_or_default()));
        let sum: Fold = |s| {
            let sum = values(s)
                .flatten()
                .fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
            Ok(Outcome::Merged(vec![sum]))
        };
        let count: Fold = |s| Ok(Outcome::Merged(vec![s.len() as u8]));
        let mean: Fold = |s| {
            let sum: usize = values(s).flatten().map(|byte| *byte as usize).sum();
            Ok(Outcome::Merged(vec![(sum / s.len()) as u8]))
        };
        for (name, fold) in [
            ("concat", concat),
            ("first", first),
            ("sum", sum),
            ("count", count),
            ("mean", mean),
        ] {
            // The mean of 1, 2, 3 regroups by luck; of 1, 2, 9 it does not.
            let mut siblings = three();
            siblings[2].value = Some(vec![9]);
            assert!(check(fold, &siblings).is_err(), "{name} passed");
        }
        let max: Fold = |s| {
            Ok(Outcome::Merged(
                values(s).max().unwrap_or_default().to_vec(),
            ))
        };
        assert_eq!(check(max, &three()), Ok(()));
    }
}
