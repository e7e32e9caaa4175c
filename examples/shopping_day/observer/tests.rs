//! The observer on days small enough to be judged by a person.

use super::*;

fn write(number: u32, change: Change, start: u64, end: u64) -> Write {
    Write {
        number,
        item: "figs".to_owned(),
        change,
        read_start: start,
        start,
        end: (end > 0).then_some(end),
        put: None,
    }
}

/// The outcomes of writes given as (change, start, end); end 0 is unknown.
fn outcomes(writes: &[(Change, u64, u64)]) -> Vec<Outcome> {
    let writes: Vec<Write> = (1..)
        .zip(writes)
        .map(|(number, (change, start, end))| write(number, *change, *start, *end))
        .collect();
    allowed(&writes.iter().collect::<Vec<_>>())
        .into_iter()
        .collect()
}

use Change::{Add, Remove, Set};

#[test]
fn what_came_one_after_the_other_has_one_outcome() {
    assert_eq!(outcomes(&[(Add(2), 1, 2), (Add(3), 3, 4)]), [Some(5)]);
    assert_eq!(outcomes(&[(Add(2), 1, 2), (Remove, 3, 4)]), [None]);
    assert_eq!(outcomes(&[(Remove, 1, 2), (Add(2), 3, 4)]), [Some(2)]);
    assert_eq!(
        outcomes(&[(Add(2), 1, 2), (Set(9), 3, 4), (Add(1), 5, 6)]),
        [Some(10)]
    );
}

#[test]
fn additions_that_overlap_add_up() {
    assert_eq!(
        outcomes(&[(Add(2), 1, 9), (Add(3), 2, 8), (Add(4), 3, 0)]),
        [Some(5), Some(9)]
    );
}

#[test]
fn an_overlap_leaves_both_open() {
    assert_eq!(outcomes(&[(Add(2), 1, 3), (Remove, 2, 4)]), [None, Some(2)]);
    assert_eq!(
        outcomes(&[(Add(2), 1, 3), (Set(9), 2, 4)]),
        [Some(9), Some(11)]
    );
}

#[test]
fn who_saw_the_later_addition_saw_the_earlier() {
    let removal_over_both = [(Add(1), 1, 2), (Add(10), 3, 4), (Remove, 0, 5)];
    // Never 1: that would be the later addition gone and the earlier there.
    assert_eq!(outcomes(&removal_over_both), [None, Some(10), Some(11)]);
}

#[test]
fn two_settings_cannot_replace_each_other() {
    assert_eq!(
        outcomes(&[(Set(2), 1, 3), (Set(5), 2, 4)]),
        [Some(2), Some(5)]
    );
}

#[test]
fn seeing_a_removal_is_seeing_what_it_saw() {
    // The setting overlaps the removal; the addition came after the setting and
    // overlaps the removal too. Either the removal saw the addition, then also
    // the setting, or it did not.
    let writes = [(Set(5), 1, 3), (Remove, 2, 7), (Add(1), 4, 6)];
    assert_eq!(outcomes(&writes), [None, Some(1), Some(6)]);
    // A setting that ended before the addition began cannot have taken it, not
    // even by way of a removal that overlaps both: never 5.
    let writes = [(Add(10), 6, 9), (Set(5), 1, 4), (Remove, 2, 8)];
    assert_eq!(outcomes(&writes), [None, Some(10), Some(15)]);
}

#[test]
fn a_cart_is_judged_item_by_item() {
    let writes = [write(1, Add(2), 1, 2), write(2, Remove, 3, 4)];
    let cart = |quantity: u64| Cart::from([("figs".to_owned(), quantity)]);
    assert!(
        judge_operations(&writes, &[Cart::new(), Cart::new()])
            .wrong
            .is_empty()
    );
    let verdict = judge_operations(&writes, &[cart(2)]);
    assert_eq!(
        (verdict.wrong.len(), verdict.came_back, verdict.lost),
        (1, 1, 0)
    );
    let verdict = judge_operations(&writes[..1], &[Cart::new()]);
    assert_eq!(
        (verdict.wrong.len(), verdict.came_back, verdict.lost),
        (1, 0, 1)
    );
    let verdict = judge_operations(&writes[..1], &[cart(3)]);
    assert_eq!((verdict.wrong.len(), verdict.off), (1, 1));
    assert_eq!(judge_operations(&[], &[cart(1)]).wrong.len(), 1);
}

/// A PUT of a cart in the way of the devices.
fn put(number: u32, change: Change, times: [u64; 3], cart: &[(&str, u64)]) -> Write {
    let mut cart: Cart = cart
        .iter()
        .map(|(item, quantity)| ((*item).to_owned(), *quantity))
        .collect();
    cart.insert(receipt(number), 1);
    let [read_start, start, end] = times;
    Write {
        read_start,
        put: Some(cart),
        ..write(number, change, start, end)
    }
}

fn cart(items: &[(&str, u64)]) -> Cart {
    items
        .iter()
        .map(|(item, quantity)| ((*item).to_owned(), *quantity))
        .collect()
}

#[test]
fn the_papers_anomaly_is_counted_and_is_no_error() {
    let writes = [
        put(1, Add(1), [1, 2, 3], &[("figs", 1)]),
        put(2, Remove, [4, 6, 8], &[("#1", 1)]),
        Write {
            item: "tea".to_owned(),
            ..put(3, Add(1), [5, 7, 9], &[("#1", 1), ("figs", 1), ("tea", 1)])
        },
    ];
    let all = cart(&[("#1", 1), ("#2", 1), ("#3", 1), ("figs", 1), ("tea", 1)]);
    let verdict = judge_union(&writes, std::slice::from_ref(&all));
    assert_eq!(
        (verdict.wrong.len(), verdict.came_back, verdict.lost),
        (0, 1, 0)
    );

    let mut without_tea = all.clone();
    without_tea.remove("tea");
    let verdict = judge_union(&writes, &[without_tea]);
    assert_eq!((verdict.lost, verdict.wrong.len()), (1, 2));

    let mut without_receipt = all;
    without_receipt.remove("#2");
    assert!(!judge_union(&writes, &[without_receipt]).wrong.is_empty());
}

#[test]
fn of_two_additions_at_once_the_larger_counts() {
    let writes = [
        put(1, Add(1), [1, 3, 5], &[("figs", 1)]),
        put(2, Add(2), [2, 4, 6], &[("figs", 2)]),
    ];
    let verdict = judge_union(&writes, &[cart(&[("#1", 1), ("#2", 1), ("figs", 2)])]);
    assert_eq!(
        (verdict.wrong.len(), verdict.off, verdict.came_back),
        (0, 1, 0)
    );
}

#[test]
fn a_read_that_misses_what_was_acknowledged_is_an_error() {
    let writes = [
        put(1, Add(1), [1, 2, 3], &[("figs", 1)]),
        put(2, Add(2), [4, 5, 6], &[("figs", 2)]),
    ];
    let verdict = judge_union(&writes, &[cart(&[("#1", 1), ("#2", 1), ("figs", 2)])]);
    assert_eq!(verdict.wrong.len(), 1, "{:?}", verdict.wrong);
}
