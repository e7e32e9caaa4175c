//! The laws themselves, tried on one case.

use super::cases::{Case, Deed, REPLICAS, Step, dot};
use super::tell::Side;
use super::{Answer, Law, MAX_PERMUTED, Subject, version};
use crate::protocol::effect::{GuestSibling, Operation};
use crate::protocol::siblings::Version;

/// What came of a case.
pub(super) struct Probed {
    pub finding: Option<Box<Finding>>,
    /// Whether the module said what the case's siblings become.
    pub decided: bool,
}

/// A law broken: two expressions that should agree, and what each gave.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub law: Law,
    pub left: Side,
    pub right: Side,
    /// The siblings that the expressions speak of.
    pub siblings: Vec<GuestSibling>,
}

/// The sibling that a fold of `inputs` (at least one) is when it is folded
/// again: it carries the greatest (written-at, dot) of them.
///
/// The pair, not the two apart: with the newest time of one input and the
/// greatest dot of another, last-write-wins would not be regroupable, for the
/// dot would break a tie that its own write was not part of.
pub fn stand_in(inputs: &[GuestSibling], version: Version) -> GuestSibling {
    let newest = inputs
        .iter()
        .map(|input| (input.version.written_at_us, input.dot))
        .max();
    let (written_at_us, dot) = newest.expect("a fold has at least one input");
    GuestSibling {
        dot,
        version: Version {
            written_at_us,
            ..version
        },
    }
}

/// Tries every law on the case; the first that is broken is found.
pub(super) fn probe(subject: &dyn Subject, case: &Case) -> Probed {
    let result = match case {
        Case::Values(siblings) => Probe { subject, siblings }.laws(),
        Case::History(steps) => play(subject, steps).and_then(|siblings| match &siblings[..] {
            [] => Ok(false),
            siblings => Probe { subject, siblings }.laws(),
        }),
    };
    match result {
        Ok(decided) => Probed {
            finding: None,
            decided,
        },
        Err(finding) => Probed {
            finding: Some(finding),
            decided: true,
        },
    }
}

/// `a`, `b`, `c`: how the siblings of a case are called.
pub(super) fn name(index: usize) -> String {
    char::from(b'a' + (index % 26) as u8).to_string()
}

/// Whether two answers are the same, as far as can be said: refusals are in the
/// module's own words, and a limit proves nothing.
fn agree(left: &Answer, right: &Answer) -> bool {
    match (left, right) {
        (Answer::Exhausted(_), _) | (_, Answer::Exhausted(_)) => true,
        (Answer::Refused(_), Answer::Refused(_)) => true,
        _ => left == right,
    }
}

/// All orders of `0..count`.
fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![vec![]];
    for next in 0..count {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |at| {
                    let mut longer = order.clone();
                    longer.insert(at, next);
                    longer
                })
            })
            .collect();
    }
    orders
}

/// `fold(a, b)` for the siblings with these places.
fn expression(places: &[usize]) -> String {
    let names: Vec<String> = places.iter().map(|place| name(*place)).collect();
    format!("fold({})", names.join(", "))
}

struct Probe<'a> {
    subject: &'a dyn Subject,
    /// At least one, sorted by dot.
    siblings: &'a [GuestSibling],
}

/// A fold that stands for its inputs, and how it is written.
struct Folded {
    sibling: GuestSibling,
    expression: String,
}

impl Probe<'_> {
    /// Whether the module decided, or what it broke.
    fn laws(&self) -> Result<bool, Box<Finding>> {
        let all: Vec<usize> = (0..self.siblings.len()).collect();
        let whole = self.subject.fold(self.siblings);
        let again = self.subject.fold(self.siblings);
        let deterministic = matches!(
            (&whole, &again),
            (Answer::Exhausted(_), _) | (_, Answer::Exhausted(_))
        ) || whole == again;
        if !deterministic {
            let again = Side::of(format!("{}, again", expression(&all)), &again);
            return Err(self.finding(Law::Deterministic, &whole, again));
        }
        if matches!(whole, Answer::Exhausted(_)) {
            return Ok(false);
        }
        self.order_free(&whole)?;
        if matches!(whole, Answer::Refused(_)) {
            return Ok(false);
        }
        self.idempotent(&whole)?;
        self.regroupable(&whole)?;
        Ok(true)
    }

    fn order_free(&self, whole: &Answer) -> Result<(), Box<Finding>> {
        let count = self.siblings.len();
        if count <= MAX_PERMUTED {
            for order in permutations(count) {
                self.same(Law::OrderFree, whole, &order)?;
            }
        } else {
            // Swaps of neighbours make all permutations.
            for left in 1..count {
                let mut order: Vec<usize> = (0..count).collect();
                order.swap(left - 1, left);
                self.same(Law::OrderFree, whole, &order)?;
            }
        }
        Ok(())
    }

    fn idempotent(&self, whole: &Answer) -> Result<(), Box<Finding>> {
        let count = self.siblings.len();
        for repeated in 0..count {
            let mut places: Vec<usize> = (0..count).collect();
            places.insert(repeated, repeated);
            self.same(Law::Idempotent, whole, &places)?;
        }
        if let Some(folded) = self.folded(&(0..count).collect::<Vec<_>>(), whole) {
            let alone = [folded];
            self.same_with(Law::Closed, whole, &alone, &[])?;
            let every: Vec<usize> = (0..count).collect();
            self.same_with(Law::Idempotent, whole, &alone, &every)?;
        }
        Ok(())
    }

    /// Folds every group of two or more first (one sibling is never folded by
    /// itself), then the others with it, folded too where they are two or more.
    fn regroupable(&self, whole: &Answer) -> Result<(), Box<Finding>> {
        let count = self.siblings.len();
        if !(3..=MAX_PERMUTED).contains(&count) {
            return Ok(());
        }
        let places = |mask: usize| -> Vec<usize> {
            (0..count)
                .filter(|place| mask & (1 << place) != 0)
                .collect()
        };
        let full = (1 << count) - 1;
        for mask in 1..full {
            let (inside, outside) = (places(mask), places(full & !mask));
            if inside.len() < 2 {
                continue;
            }
            let Some(group) = self.fold_group(&inside) else {
                continue;
            };
            let others = if outside.len() >= 2 {
                self.fold_group(&outside)
            } else {
                None
            };
            let group = [group];
            self.same_with(Law::Regroupable, whole, &group, &outside)?;
            let [group] = group;
            if let Some(others) = others {
                self.same_with(Law::Regroupable, whole, &[group, others], &[])?;
            }
        }
        // Groups that overlap, as those of replicas do.
        let groups = (
            self.fold_group(&places(full >> 1)),
            self.fold_group(&places(full & !1)),
        );
        if let (Some(left), Some(right)) = groups {
            self.same_with(Law::Regroupable, whole, &[left, right], &[])?;
        }
        Ok(())
    }

    fn fold_group(&self, places: &[usize]) -> Option<Folded> {
        let inputs: Vec<GuestSibling> = places
            .iter()
            .map(|place| self.siblings[*place].clone())
            .collect();
        self.folded(places, &self.subject.fold(&inputs))
    }

    /// What a fold of these gave, as a sibling; none when nothing would be
    /// stored.
    fn folded(&self, places: &[usize], answer: &Answer) -> Option<Folded> {
        let Answer::Value(value) = answer else {
            return None;
        };
        let inputs: Vec<GuestSibling> = places
            .iter()
            .map(|place| self.siblings[*place].clone())
            .collect();
        Some(Folded {
            sibling: stand_in(&inputs, version(value.clone(), 0)),
            expression: expression(places),
        })
    }

    /// Whether the siblings in this order, or with these repeats, fold the same.
    fn same(&self, law: Law, whole: &Answer, places: &[usize]) -> Result<(), Box<Finding>> {
        let inputs: Vec<GuestSibling> = places
            .iter()
            .map(|place| self.siblings[*place].clone())
            .collect();
        let answer = self.subject.fold(&inputs);
        if agree(whole, &answer) {
            return Ok(());
        }
        Err(self.finding(law, whole, Side::of(expression(places), &answer)))
    }

    /// Whether folds and siblings together, sorted by dot, fold the same.
    fn same_with(
        &self,
        law: Law,
        whole: &Answer,
        folds: &[Folded],
        places: &[usize],
    ) -> Result<(), Box<Finding>> {
        let mut inputs: Vec<GuestSibling> = folds
            .iter()
            .map(|folded| folded.sibling.clone())
            .chain(places.iter().map(|place| self.siblings[*place].clone()))
            .collect();
        inputs.sort_by_key(|sibling| sibling.dot);
        let answer = self.subject.fold(&inputs);
        let refused = match &answer {
            Answer::Refused(_) => true,
            // By itself a result must do; beside others a limit proves nothing.
            Answer::Exhausted(_) => places.is_empty() && folds.len() == 1,
            _ => false,
        };
        if !refused && agree(whole, &answer) {
            return Ok(());
        }
        let law = match (refused, law) {
            (true, _) => Law::Closed,
            (false, Law::Closed) => Law::Idempotent,
            (false, law) => law,
        };
        let parts: Vec<String> = folds
            .iter()
            .map(|folded| folded.expression.clone())
            .chain(places.iter().map(|place| name(*place)))
            .collect();
        let right = Side::of(format!("fold({})", parts.join(", ")), &answer);
        Err(self.finding(law, whole, right))
    }

    fn finding(&self, law: Law, whole: &Answer, right: Side) -> Box<Finding> {
        let all: Vec<usize> = (0..self.siblings.len()).collect();
        Box::new(Finding {
            law,
            left: Side::of(expression(&all), whole),
            right,
            siblings: self.siblings.to_vec(),
        })
    }
}

/// Plays a history of a data type, checking what each step must keep.
///
/// Returns what the replicas end up with, sorted by dot.
fn play(subject: &dyn Subject, steps: &[Step]) -> Result<Vec<GuestSibling>, Box<Finding>> {
    let mut replicas: Vec<Option<GuestSibling>> = vec![None; REPLICAS];
    let mut now_us = 1;
    for (index, step) in steps.iter().enumerate() {
        now_us += step.later_us;
        // One counter for the whole history: unique, and rising for each actor.
        let dot = dot(step.replica, index as u64 + 1);
        let mine = replicas[step.replica].clone();
        let next = match &step.deed {
            Deed::Delete => mine.map(|_| GuestSibling {
                dot,
                version: version(None, now_us),
            }),
            Deed::Merge(other) => merge(subject, mine, replicas[*other].clone())?,
            Deed::Apply(body) => {
                let operation = Operation {
                    body: body.clone(),
                    dot,
                    written_at_us: now_us,
                };
                operate(subject, mine, &operation)?
            }
        };
        replicas[step.replica] = next;
    }
    let mut siblings: Vec<GuestSibling> = replicas.into_iter().flatten().collect();
    siblings.sort_by_key(|sibling| sibling.dot);
    siblings.dedup_by(|one, other| one.dot == other.dot);
    Ok(siblings)
}

fn renders(subject: &dyn Subject, sibling: &GuestSibling, of: &str) -> Result<(), Box<Finding>> {
    let Some(state) = &sibling.version.value else {
        return Ok(());
    };
    subject.render(state).map_err(|reason| {
        Box::new(Finding {
            law: Law::DataType,
            left: Side::of(of, &Answer::Value(Some(state.clone()))),
            right: Side::of("render(a)", &Answer::Refused(reason)),
            siblings: vec![sibling.clone()],
        })
    })
}

fn merge(
    subject: &dyn Subject,
    mine: Option<GuestSibling>,
    theirs: Option<GuestSibling>,
) -> Result<Option<GuestSibling>, Box<Finding>> {
    let (mine, theirs) = match (mine, theirs) {
        (Some(mine), Some(theirs)) if mine.dot != theirs.dot => (mine, theirs),
        (mine, theirs) => return Ok(mine.or(theirs)),
    };
    let mut inputs = vec![mine.clone(), theirs];
    inputs.sort_by_key(|sibling| sibling.dot);
    match subject.fold(&inputs) {
        Answer::Value(value) => {
            let folded = stand_in(&inputs, version(value, 0));
            renders(subject, &folded, "fold of two states = a")?;
            Ok(Some(folded))
        }
        Answer::Unresolved | Answer::Exhausted(_) => Ok(Some(mine)),
        refused @ Answer::Refused(_) => Err(Box::new(Finding {
            law: Law::Closed,
            left: Side {
                expression: "a, b".to_owned(),
                gave: "states that apply and fold made".to_owned(),
            },
            right: Side::of("fold(a, b)", &refused),
            siblings: inputs,
        })),
    }
}

fn operate(
    subject: &dyn Subject,
    mine: Option<GuestSibling>,
    operation: &Operation,
) -> Result<Option<GuestSibling>, Box<Finding>> {
    let before = mine.as_ref().and_then(|mine| mine.version.value.as_ref());
    let applied = subject.apply(before.map(|state| &state[..]), operation);
    let again = subject.apply(before.map(|state| &state[..]), operation);
    let cut_short = matches!(
        (&applied, &again),
        (Answer::Exhausted(_), _) | (_, Answer::Exhausted(_))
    );
    if !cut_short && applied != again {
        return Err(Box::new(Finding {
            law: Law::Deterministic,
            left: Side::of("apply(…)", &applied),
            right: Side::of("apply(…), again", &again),
            siblings: mine.into_iter().collect(),
        }));
    }
    let Answer::Value(value) = &applied else {
        return Ok(mine);
    };
    let after = GuestSibling {
        dot: operation.dot,
        version: version(value.clone(), operation.written_at_us),
    };
    renders(subject, &after, "apply(…) = a")?;
    if let Some(mine) = mine.filter(|mine| mine.version.value.is_some()) {
        let mut inputs = vec![mine, after.clone()];
        inputs.sort_by_key(|sibling| sibling.dot);
        let both = subject.fold(&inputs);
        if !matches!(both, Answer::Exhausted(_)) && both != applied {
            return Err(Box::new(Finding {
                law: Law::DataType,
                left: Side::of("apply(…), made from the other state", &applied),
                right: Side::of("fold(a, b)", &both),
                siblings: inputs,
            }));
        }
    }
    Ok(Some(after))
}
