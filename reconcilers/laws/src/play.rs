//! Law 6, tried on one history: replicas of a data type that apply operations,
//! take in each other's states, and delete.
//!
//! Promises: each step is checked as it is played; at the end the states, some
//! old ones among them, are siblings for laws 1 to 5, and the replicas exchange
//! what they have, in two orders, until all have heard of all.

use crate::case::{Deed, History, REPLICAS, Values, dot, plain_item, usual_type};
use crate::finding::{Finding, Law, Side};
use crate::probe::{Came, Found, probe};
use crate::subject::{Answer, Event, Failure, Item, Outcome, Sibling, Subject, View, stand_in};

/// How many siblings the end of a history gives at most.
const MAX_END: usize = 5;

struct Player<'a> {
    subject: &'a dyn Subject,
    item: &'a Item,
    /// What each replica has.
    replicas: Vec<Option<Sibling>>,
    /// Every state so far.
    seen: Vec<Sibling>,
    /// Why operations were refused, if any was.
    refusal: Option<String>,
    applied: bool,
}

/// Plays a history, and tries the laws on what it leaves.
pub(crate) fn play(subject: &dyn Subject, history: &History) -> Result<Came, Found> {
    let mut player = Player {
        subject,
        item: &history.item,
        replicas: vec![None; REPLICAS],
        seen: Vec::new(),
        refusal: None,
        applied: false,
    };
    let mut now_us = 1;
    for (index, step) in history.steps.iter().enumerate() {
        now_us += step.later_us;
        let mine = player.replicas[step.replica].clone();
        // No write is earlier than what it saw, whatever the replica's clock.
        let seen_us = mine.as_ref().map_or(0, |mine| mine.written_at_us);
        let event = Event {
            // One counter for the whole history: unique, rising for each actor.
            dot: dot(step.replica, index as u64 + 1),
            written_at_us: seen_us.max(now_us + history.ahead_us[step.replica]),
        };
        let next = match &step.deed {
            Deed::Delete => mine.map(|_| Sibling {
                value: None,
                content_type: String::new(),
                written_at_us: event.written_at_us,
                dot: event.dot,
            }),
            Deed::Merge(other) => {
                let theirs = player.replicas[*other].clone();
                player.merge(mine, theirs)?
            }
            Deed::Apply(operation) => player.apply(mine, operation, &event)?,
        };
        if let Some(next) = &next
            && !player.seen.contains(next)
        {
            player.seen.push(next.clone());
        }
        player.replicas[step.replica] = next;
    }
    let came = probe(subject, &player.end(history))?;
    player.converge()?;
    Ok(match (came, player.refusal) {
        (Came::Single | Came::Decided(_), _) if player.applied => Came::Decided(None),
        (Came::Single, Some(reason)) => Came::Refused(reason),
        (came, _) => came,
    })
}

fn merged(state: &[u8]) -> Answer {
    Ok(Outcome::Merged(state.to_vec()))
}

fn side(formula: &str, words: &str, answer: Answer) -> Side {
    Side {
        formula: formula.to_owned(),
        words: words.to_owned(),
        answer,
        within: vec![],
    }
}

fn finding(law: Law, left: Side, right: Side, siblings: Vec<Sibling>) -> Found {
    Box::new(Finding {
        law,
        left,
        right,
        siblings,
    })
}

/// A view as an answer, to be shown.
fn viewed(view: Result<View, Failure>) -> Answer {
    view.map(|view| Outcome::Merged(view.body))
}

impl Player<'_> {
    fn end(&self, history: &History) -> Values {
        let mut siblings: Vec<Sibling> = self.replicas.iter().flatten().cloned().collect();
        if !self.seen.is_empty() {
            let recalled = history.recalled.iter();
            siblings.extend(recalled.map(|place| self.seen[place % self.seen.len()].clone()));
        }
        siblings.sort_by(|one, other| one.dot.cmp(&other.dot));
        // Folds of the same states stand for the same dot.
        siblings.dedup();
        siblings.truncate(MAX_END);
        Values {
            item: history.item.clone(),
            siblings,
            is_large: false,
        }
    }

    fn fold(&self, siblings: &[&Sibling]) -> Answer {
        self.subject.fold(self.item, siblings)
    }

    /// Every state renders, and to the same twice.
    fn renders(&self, sibling: &Sibling, made_by: &str) -> Result<(), Found> {
        let Some(state) = &sibling.value else {
            return Ok(());
        };
        let view = self.subject.render(state);
        let left = || side("a", made_by, merged(state));
        let one = |view| side("render(a)", "what a client would see", viewed(view));
        match &view {
            Err(Failure::Unavailable(_)) => Ok(()),
            Err(_) => Err(finding(
                Law::DataType,
                left(),
                one(view),
                vec![sibling.clone()],
            )),
            Ok(_) => match self.subject.render(state) {
                again if again == view => Ok(()),
                Err(Failure::Unavailable(_)) => Ok(()),
                again => Err(finding(
                    Law::Deterministic,
                    one(view),
                    side("render(a)", "again", viewed(again)),
                    vec![sibling.clone()],
                )),
            },
        }
    }

    fn merge(
        &self,
        mine: Option<Sibling>,
        theirs: Option<Sibling>,
    ) -> Result<Option<Sibling>, Found> {
        let (mine, theirs) = match (mine, theirs) {
            (Some(mine), Some(theirs)) if mine != theirs => (mine, theirs),
            (mine, theirs) => return Ok(mine.or(theirs)),
        };
        let mut inputs = [&mine, &theirs];
        inputs.sort_by(|one, other| one.dot.cmp(&other.dot));
        let value = match self.fold(&inputs) {
            Ok(Outcome::Merged(value)) => Some(value),
            Ok(Outcome::Deleted) => None,
            Ok(Outcome::Unresolved) | Err(Failure::Unavailable(_)) => return Ok(Some(mine)),
            Err(failure) => {
                let siblings: Vec<Sibling> = inputs.into_iter().cloned().collect();
                let state = siblings[0].value.clone();
                let left = side(
                    "a",
                    "a state that operations made",
                    Ok(state.map_or(Outcome::Deleted, Outcome::Merged)),
                );
                let right = side("fold(a, b)", "with another one", Err(failure));
                return Err(finding(Law::Closed, left, right, siblings));
            }
        };
        let folded = stand_in(&inputs, value);
        self.renders(&folded, "the fold of two states")?;
        Ok(Some(folded))
    }

    fn apply(
        &mut self,
        mine: Option<Sibling>,
        operation: &[u8],
        event: &Event,
    ) -> Result<Option<Sibling>, Found> {
        let before = mine.as_ref().and_then(|mine| mine.value.clone());
        let once = |item: &Item| {
            self.subject
                .apply(item, before.as_deref(), operation, event)
        };
        let applied = once(self.item);
        // An operation on another item in between must leave no trace.
        let elsewhere = plain_item();
        drop(once(&elsewhere));
        let again = once(self.item);
        let unavailable =
            |result: &Result<Vec<u8>, Failure>| matches!(result, Err(Failure::Unavailable(_)));
        if unavailable(&applied) || unavailable(&again) {
            return Ok(mine);
        }
        let shown = crate::text::shown(operation);
        let formula = match &before {
            Some(_) => format!("apply(a, {shown})"),
            None => format!("apply(nothing, {shown})"),
        };
        let siblings = || mine.clone().into_iter().collect::<Vec<_>>();
        let answer = |result: Result<Vec<u8>, Failure>| result.map(Outcome::Merged);
        if applied != again {
            return Err(finding(
                Law::Deterministic,
                side(&formula, "once", answer(applied)),
                side(&formula, "again", answer(again)),
                siblings(),
            ));
        }
        let value = match applied {
            Ok(value) => value,
            Err(Failure::Refused(reason)) => {
                self.refusal.get_or_insert(reason);
                return Ok(mine);
            }
            Err(failure) => {
                let state = match &before {
                    Some(state) => side("a", "the state before", merged(state)),
                    None => side("nothing", "no item yet", Ok(Outcome::Deleted)),
                };
                let right = side(&formula, "one operation on it", Err(failure));
                return Err(finding(Law::Closed, state, right, siblings()));
            }
        };
        self.applied = true;
        let after = Sibling {
            content_type: usual_type(Some(&value)),
            value: Some(value),
            written_at_us: event.written_at_us,
            dot: event.dot.clone(),
        };
        self.renders(&after, &format!("the state after {shown}"))?;
        self.includes(mine.as_ref(), &after, &shown)?;
        Ok(Some(after))
    }

    /// What an operation makes includes the state that it was made from.
    fn includes(
        &self,
        before: Option<&Sibling>,
        after: &Sibling,
        operation: &str,
    ) -> Result<(), Found> {
        let Some(before) = before.filter(|before| before.value.is_some()) else {
            return Ok(());
        };
        let whole = Ok(after
            .value
            .clone()
            .map_or(Outcome::Deleted, Outcome::Merged));
        for inputs in [[before, after], [after, before]] {
            let both = self.fold(&inputs);
            if both == whole || matches!(both, Err(Failure::Unavailable(_))) {
                continue;
            }
            let left = side(
                &format!("b = apply(a, {operation})"),
                "the state after the operation",
                whole,
            );
            let formula = if inputs[0] == before {
                "fold(a, b)"
            } else {
                "fold(b, a)"
            };
            let right = side(formula, "folded with the state before", both);
            let siblings = vec![before.clone(), after.clone()];
            return Err(finding(Law::DataType, left, right, siblings));
        }
        Ok(())
    }

    /// The replicas tell each other what they have, each its neighbour, round
    /// after round: forwards, and from the same start backwards.
    fn converge(&self) -> Result<(), Found> {
        let start: Vec<Sibling> = self.replicas.iter().flatten().cloned().collect();
        let count = start.len();
        if count < 2 {
            return Ok(());
        }
        let mut ends: Vec<(String, Sibling)> = Vec::new();
        for (step, way) in [(1, "forwards"), (count - 1, "backwards")] {
            let mut states: Vec<Option<Sibling>> = start.iter().cloned().map(Some).collect();
            for round in 0..2 * count {
                let at = (round * step) % count;
                let to = (at + step) % count;
                states[to] = self.merge(states[to].clone(), states[at].clone())?;
            }
            for (place, state) in states.into_iter().enumerate() {
                let who = format!("replica {} in the end, news going {way}", place + 1);
                ends.extend(state.map(|state| (who, state)));
            }
        }
        let Some(((who, first), others)) = ends.split_first() else {
            return Ok(());
        };
        for (other, state) in others {
            if state.value != first.value {
                let end = |who: &str, state: &Sibling| {
                    let value = state.value.clone();
                    side(
                        "all states",
                        who,
                        Ok(value.map_or(Outcome::Deleted, Outcome::Merged)),
                    )
                };
                let (left, right) = (end(who, first), end(other, state));
                return Err(finding(Law::DataType, left, right, start));
            }
        }
        Ok(())
    }
}
