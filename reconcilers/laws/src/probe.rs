//! Laws 1 to 5, tried on the siblings of one case.
//!
//! Promises: the first law that is broken is found, plain ones before others;
//! what a limit or the host cut short is held against the module only where the
//! inputs are small.

use crate::case::{Values, plain_item};
use crate::finding::{Finding, Law, Side, Within, listed, name};
use crate::subject::{Answer, Failure, Item, Outcome, Sibling, Subject, stand_in};

pub(crate) type Found = Box<Finding>;

/// What came of a case that broke nothing.
#[derive(Clone, Debug)]
pub(crate) enum Came {
    /// The module said what two siblings or more become.
    Decided(Option<Vec<u8>>),
    /// One sibling only, which decides little.
    Single,
    Unresolved,
    /// The module's reason.
    Refused(String),
    /// A limit, or the host, cut it short.
    CutShort,
}

/// Whether two answers are the same, as far as can be said: refusals are in the
/// module's own words, and a limit proves nothing of large values.
fn agree(left: &Answer, right: &Answer, is_large: bool) -> bool {
    let proves_nothing = |answer: &Answer| match answer {
        Err(Failure::Unavailable(_)) => true,
        Err(Failure::Limit(..)) => is_large,
        _ => false,
    };
    match (left, right) {
        _ if proves_nothing(left) || proves_nothing(right) => true,
        (Err(_), Err(_)) => true,
        _ => left == right,
    }
}

/// All orders of `0..count`, the given one first.
fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![vec![]];
    for next in 0..count {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).rev().map(move |at| {
                    let mut longer = order.clone();
                    longer.insert(at, next);
                    longer
                })
            })
            .collect();
    }
    orders
}

/// A sibling in a formula: one of the case's, or a fold that stands for some.
#[derive(Clone)]
struct Part {
    sibling: Sibling,
    formula: String,
    is_fold: bool,
    /// The folds that made it, its own last.
    within: Vec<Within>,
}

fn formula(parts: &[&Part]) -> String {
    let parts: Vec<&str> = parts.iter().map(|part| part.formula.as_str()).collect();
    format!("fold({})", parts.join(", "))
}

fn names(parts: &[&Part]) -> String {
    listed(
        &parts
            .iter()
            .map(|part| part.formula.clone())
            .collect::<Vec<_>>(),
    )
}

/// Parts as the store hands them over: by dot.
fn sorted<'a>(mut parts: Vec<&'a Part>) -> Vec<&'a Part> {
    parts.sort_by(|one, other| one.sibling.dot.cmp(&other.sibling.dot));
    parts
}

struct Probe<'a> {
    subject: &'a dyn Subject,
    item: &'a Item,
    parts: Vec<Part>,
    is_large: bool,
}

/// Tries laws 1 to 5 on these siblings.
pub(crate) fn probe(subject: &dyn Subject, values: &Values) -> Result<Came, Found> {
    if values.siblings.is_empty() {
        return Ok(Came::Single);
    }
    let parts = values
        .siblings
        .iter()
        .enumerate()
        .map(|(place, sibling)| Part {
            sibling: sibling.clone(),
            formula: name(place),
            is_fold: false,
            within: vec![],
        })
        .collect();
    Probe {
        subject,
        item: &values.item,
        parts,
        is_large: values.is_large,
    }
    .laws()
}

impl Probe<'_> {
    fn laws(&self) -> Result<Came, Found> {
        let all: Vec<&Part> = self.parts.iter().collect();
        let whole = self.fold(&all);
        self.deterministic(&whole, &all)?;
        if let Err(failure) = &whole {
            self.not_by_itself(failure, &all)?;
        }
        self.order_free(&whole)?;
        self.regroupable(&whole, &all)?;
        match whole {
            Ok(Outcome::Merged(value)) => {
                self.idempotent(Some(value.clone()), &all)?;
                Ok(self.decided(Some(value)))
            }
            Ok(Outcome::Deleted) => {
                self.idempotent(None, &all)?;
                Ok(self.decided(None))
            }
            Ok(Outcome::Unresolved) => Ok(Came::Unresolved),
            Err(Failure::Refused(text) | Failure::Trapped(text)) => Ok(Came::Refused(text)),
            Err(Failure::Limit(..) | Failure::Unavailable(_)) => Ok(Came::CutShort),
        }
    }

    fn decided(&self, value: Option<Vec<u8>>) -> Came {
        if self.parts.len() > 1 {
            Came::Decided(value)
        } else {
            Came::Single
        }
    }

    fn fold(&self, parts: &[&Part]) -> Answer {
        let siblings: Vec<&Sibling> = parts.iter().map(|part| &part.sibling).collect();
        self.subject.fold(self.item, &siblings)
    }

    /// The same again, after a fold of another item that it must not remember.
    fn deterministic(&self, whole: &Answer, all: &[&Part]) -> Result<(), Found> {
        let mut elsewhere = plain_item();
        elsewhere.table = "another-table".to_owned();
        elsewhere.partition_key = b"another item".to_vec();
        elsewhere.sort_key = Some(b"s".to_vec());
        // What that gives is of no interest.
        let last = &all[all.len() - 1].sibling;
        drop(self.subject.fold(&elsewhere, &[last]));
        let again = self.fold(all);
        let cut_short = |answer: &Answer| matches!(answer, Err(Failure::Unavailable(_)));
        if *whole == again || cut_short(whole) || cut_short(&again) {
            return Ok(());
        }
        Err(self.finding(
            Law::Deterministic,
            self.side(all, "once", whole.clone()),
            self.side(all, "again, after another item", again),
        ))
    }

    /// A trap or a limit is a finding when each sibling by itself is taken.
    fn not_by_itself(&self, failure: &Failure, all: &[&Part]) -> Result<(), Found> {
        let counts = match failure {
            Failure::Trapped(_) => true,
            Failure::Limit(..) => !self.is_large,
            Failure::Refused(_) | Failure::Unavailable(_) => false,
        };
        if !counts {
            return Ok(());
        }
        let right = self.side(all, "all at once", Err(failure.clone()));
        if let ([only], Failure::Limit(..)) = (all, failure) {
            let made = Side {
                formula: only.formula.clone(),
                words: "what was written".to_owned(),
                answer: Ok(only
                    .sibling
                    .value
                    .clone()
                    .map_or(Outcome::Deleted, Outcome::Merged)),
                within: vec![],
            };
            return Err(self.finding(Law::Closed, made, right));
        }
        if all.len() < 2 {
            return Ok(());
        }
        let mut first = None;
        for part in all {
            let alone = self.fold(&[part]);
            if alone.is_err() {
                return Ok(());
            }
            first.get_or_insert_with(|| self.side(&[part], "each by itself is taken", alone));
        }
        match first {
            Some(left) => Err(self.finding(Law::Closed, left, right)),
            None => Ok(()),
        }
    }

    fn order_free(&self, whole: &Answer) -> Result<(), Found> {
        for order in permutations(self.parts.len()).iter().skip(1) {
            let parts: Vec<&Part> = order.iter().map(|place| &self.parts[*place]).collect();
            self.same(Law::OrderFree, whole, &parts, "in another order")?;
        }
        Ok(())
    }

    fn idempotent(&self, value: Option<Vec<u8>>, all: &[&Part]) -> Result<(), Found> {
        let whole = Ok(value.clone().map_or(Outcome::Deleted, Outcome::Merged));
        for (place, part) in all.iter().enumerate() {
            let mut repeated = all.to_vec();
            repeated.insert(place, part);
            let words = format!("with {} twice", part.formula);
            self.same(Law::Idempotent, &whole, &repeated, &words)?;
        }
        if all.len() > 1 {
            let twice = [all, all].concat();
            self.same(Law::Idempotent, &whole, &twice, "everything twice")?;
        }
        let folded = self.stand_in(all, value);
        self.same(
            Law::Closed,
            &whole,
            &[&folded],
            "the result, folded by itself",
        )?;
        let twice = [&folded, &folded];
        self.same(Law::Idempotent, &whole, &twice, "the result, twice")?;
        let mut with_all = all.to_vec();
        with_all.push(&folded);
        let words = "the result, folded with what it was made of";
        self.same(Law::Idempotent, &whole, &sorted(with_all), words)?;
        if all.len() > 1 {
            for part in all {
                let words = format!("the result, folded with {} again", part.formula);
                let pair = sorted(vec![&folded, part]);
                self.same(Law::Idempotent, &whole, &pair, &words)?;
            }
        }
        Ok(())
    }

    /// Folds every group of two or more first (the store never folds one
    /// sibling by itself), then the others with it, folded too where they are
    /// two or more; then groups that overlap, and groups within groups.
    fn regroupable(&self, whole: &Answer, all: &[&Part]) -> Result<(), Found> {
        let count = all.len();
        if count < 3 {
            return Ok(());
        }
        let full = (1usize << count) - 1;
        let members = |mask: usize| -> Vec<&Part> {
            (0..count)
                .filter(|place| mask & (1 << place) != 0)
                .map(|place| all[place])
                .collect()
        };
        // Each group is folded once, however often it is part of another.
        let groups: Vec<Option<Part>> = (0..=full)
            .map(|mask| {
                (mask != full && mask.count_ones() >= 2)
                    .then(|| self.group(&members(mask)))
                    .flatten()
            })
            .collect();
        for mask in 1..full {
            let Some(group) = &groups[mask] else {
                continue;
            };
            let outside = members(full & !mask);
            let words = format!("{} first, then {}", names(&members(mask)), names(&outside));
            let mut parts = vec![group];
            parts.extend(&outside);
            self.same(Law::Regroupable, whole, &sorted(parts), &words)?;
            if let Some(others) = &groups[full & !mask]
                && mask < full & !mask
            {
                let words = format!(
                    "{} first, {} first, then both",
                    names(&members(mask)),
                    names(&outside)
                );
                let parts = sorted(vec![group, others]);
                self.same(Law::Regroupable, whole, &parts, &words)?;
            }
        }
        self.overlapping(whole, &groups, full, &members)?;
        self.nested(whole, all)
    }

    /// Groups that overlap, as those of replicas do, in both orders: folds of
    /// overlapping groups may carry the same dot.
    fn overlapping<'a>(
        &self,
        whole: &Answer,
        groups: &[Option<Part>],
        full: usize,
        members: &dyn Fn(usize) -> Vec<&'a Part>,
    ) -> Result<(), Found> {
        for left in 1..full {
            for right in left + 1..full {
                let overlap = left & right;
                // Five siblings have 180 such pairs; those that share one
                // sibling are as good as all.
                if left | right != full || overlap.count_ones() != 1 {
                    continue;
                }
                let (Some(one), Some(other)) = (&groups[left], &groups[right]) else {
                    continue;
                };
                let words = format!(
                    "{} first, {} first, then both",
                    names(&members(left)),
                    names(&members(right))
                );
                self.same(Law::Regroupable, whole, &[one, other], &words)?;
                self.same(Law::Regroupable, whole, &[other, one], &words)?;
            }
        }
        Ok(())
    }

    /// One after the other, from either end.
    fn nested(&self, whole: &Answer, all: &[&Part]) -> Result<(), Found> {
        if all.len() < 4 {
            return Ok(());
        }
        let mut backwards = all.to_vec();
        backwards.reverse();
        for order in [all.to_vec(), backwards] {
            let mut so_far = order[0].clone();
            let (last, middle) = order[1..].split_last().expect("four or more");
            let mut whole_way = true;
            for part in middle {
                match self.group(&sorted(vec![&so_far, part])) {
                    Some(next) => so_far = next,
                    None => {
                        whole_way = false;
                        break;
                    }
                }
            }
            if whole_way {
                let words = format!("one after the other, {} last", last.formula);
                let parts = sorted(vec![&so_far, last]);
                self.same(Law::Regroupable, whole, &parts, &words)?;
            }
        }
        Ok(())
    }

    /// What a fold of these gave, as a part; none when nothing would be stored.
    fn group(&self, parts: &[&Part]) -> Option<Part> {
        match self.fold(parts) {
            Ok(Outcome::Merged(value)) => Some(self.stand_in(parts, Some(value))),
            Ok(Outcome::Deleted) => Some(self.stand_in(parts, None)),
            Ok(Outcome::Unresolved) | Err(_) => None,
        }
    }

    fn stand_in(&self, parts: &[&Part], value: Option<Vec<u8>>) -> Part {
        let siblings: Vec<&Sibling> = parts.iter().map(|part| &part.sibling).collect();
        let formula = formula(parts);
        let mut within: Vec<Within> = parts.iter().flat_map(|part| part.within.clone()).collect();
        within.push(Within {
            formula: formula.clone(),
            value: value.clone(),
        });
        Part {
            sibling: stand_in(&siblings, value),
            formula,
            is_fold: true,
            within,
        }
    }

    /// Whether these fold to the same as the whole did.
    fn same(&self, law: Law, whole: &Answer, parts: &[&Part], words: &str) -> Result<(), Found> {
        let answer = self.fold(parts);
        if agree(whole, &answer, self.is_large) {
            return Ok(());
        }
        let hard =
            |answer: &Answer| matches!(answer, Err(Failure::Trapped(_) | Failure::Limit(..)));
        let takes_folds = parts.iter().any(|part| part.is_fold);
        let law = match &answer {
            _ if hard(&answer) || hard(whole) => Law::Closed,
            Err(_) if takes_folds => Law::Closed,
            _ if law == Law::Closed => Law::Idempotent,
            _ => law,
        };
        let all: Vec<&Part> = self.parts.iter().collect();
        let left = self.side(&all, "all at once", whole.clone());
        Err(self.finding(law, left, self.side(parts, words, answer)))
    }

    fn side(&self, parts: &[&Part], words: &str, answer: Answer) -> Side {
        let mut within: Vec<Within> = Vec::new();
        for inner in parts.iter().flat_map(|part| &part.within) {
            if !within.contains(inner) {
                within.push(inner.clone());
            }
        }
        Side {
            formula: formula(parts),
            words: words.to_owned(),
            answer,
            within,
        }
    }

    fn finding(&self, law: Law, left: Side, right: Side) -> Found {
        let siblings = self.parts.iter().map(|part| part.sibling.clone());
        Box::new(Finding {
            law,
            left,
            right,
            siblings: siblings.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_all_there_and_begin_with_the_order_given() {
        let mut orders = permutations(5);
        assert_eq!(orders[0], [0, 1, 2, 3, 4]);
        orders.sort();
        orders.dedup();
        assert_eq!(orders.len(), 120);
    }
}
