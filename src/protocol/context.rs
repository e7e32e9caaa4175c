//! Causal contexts: what a write, a replica or a client has seen.
//!
//! A context is a version vector with a dot cloud: for each actor the highest
//! contiguous counter, and the counters seen beyond it. Each actor also carries
//! the newest `written_at` among its dots that were seen, by which truncation
//! chooses what to forget (Dynamo, section 4.4, cuts the oldest entries).
//!
//! Promises: [`Context::join`] is commutative, associative and idempotent; a
//! context is always compact (no dot lies both in the vector and in the cloud,
//! none lies next to its vector), so equal contexts are equal bytes; keeping the
//! newest `k` actors of a join is itself a join, so replicas that truncate agree.

use serde::{Deserialize, Serialize};

use super::dot::{Actor, Dot};
use super::sabotage::{Variant, broken};
use super::sorted::SortedMap;

/// What was seen of one actor.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, Hash)]
pub struct Seen {
    /// Every counter from 1 up to this one was seen.
    pub contiguous: u64,
    /// The counters seen beyond it, ascending, none of them `contiguous + 1`.
    pub beyond: Vec<u64>,
    /// The newest `written_at` of a dot of this actor that was seen, in
    /// microseconds since the Unix epoch.
    pub newest_us: u64,
}

impl Seen {
    fn covers(&self, counter: u64) -> bool {
        counter <= self.contiguous || self.beyond.binary_search(&counter).is_ok()
    }

    /// The highest counter seen.
    pub fn highest(&self) -> u64 {
        self.beyond.last().copied().unwrap_or(self.contiguous)
    }

    fn add(&mut self, counter: u64) {
        if counter <= self.contiguous {
            return;
        }
        if broken(Variant::VectorCoversCloud) {
            self.contiguous = counter;
            return;
        }
        if let Err(place) = self.beyond.binary_search(&counter) {
            self.beyond.insert(place, counter);
            self.compact();
        }
    }

    /// Returns whether anything changed here.
    fn join(&mut self, other: &Seen) -> bool {
        let mut changed = other.newest_us > self.newest_us || other.contiguous > self.contiguous;
        self.newest_us = self.newest_us.max(other.newest_us);
        self.contiguous = self.contiguous.max(other.contiguous);
        for counter in &other.beyond {
            if *counter > self.contiguous
                && let Err(place) = self.beyond.binary_search(counter)
            {
                self.beyond.insert(place, *counter);
                changed = true;
            }
        }
        if changed {
            self.compact();
        }
        changed
    }

    /// Moves what has become contiguous out of the cloud.
    fn compact(&mut self) {
        let mut keep_from = 0;
        for &counter in &self.beyond {
            if counter > self.contiguous {
                match self.contiguous.checked_add(1) {
                    Some(next) if next == counter => self.contiguous = counter,
                    _ => break,
                }
            }
            keep_from += 1;
        }
        self.beyond.drain(..keep_from);
    }

    /// Whether the fields obey what their docs say; decoders ask it of foreign
    /// bytes.
    fn is_well_formed(&self) -> bool {
        let ascending = self.beyond.windows(2).all(|pair| pair[0] < pair[1]);
        let apart = self.beyond.first().is_none_or(|&first| {
            self.contiguous
                .checked_add(1)
                .is_some_and(|next| next < first)
        });
        ascending && apart && self.highest() > 0
    }
}

/// A causal context: a set of dots, compactly.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
pub struct Context {
    seen: SortedMap<Actor, Seen>,
}

impl Context {
    /// The context of someone who has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Whether the write was seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.seen
            .get(&dot.actor)
            .is_some_and(|seen| seen.covers(dot.counter))
    }

    /// Adds one write, made at `written_at_us`.
    pub fn add(&mut self, dot: Dot, written_at_us: u64) {
        let seen = self.seen.get_or_default(dot.actor);
        seen.add(dot.counter);
        seen.newest_us = seen.newest_us.max(written_at_us);
    }

    /// Adds all that `other` has seen. Returns whether any of it was new here.
    pub fn join(&mut self, other: &Context) -> bool {
        let mut changed = false;
        for (actor, theirs) in other.seen.iter() {
            match self.seen.get_mut(actor) {
                Some(mine) => changed |= mine.join(theirs),
                None => {
                    self.seen.insert(*actor, theirs.clone());
                    changed = true;
                }
            }
        }
        changed
    }

    /// The highest counter of the actor that was seen, 0 when none was.
    pub fn highest(&self, actor: Actor) -> u64 {
        self.seen.get(&actor).map_or(0, Seen::highest)
    }

    /// The newest `written_at` of anything seen, 0 when nothing was.
    pub fn newest_us(&self) -> u64 {
        self.seen
            .values()
            .map(|seen| seen.newest_us)
            .max()
            .unwrap_or(0)
    }

    /// The actors and what was seen of each, in the actors' order.
    pub fn iter(&self) -> impl Iterator<Item = (Actor, &Seen)> {
        self.seen.iter().map(|(actor, seen)| (*actor, seen))
    }

    /// How many actors the context names.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// About how many bytes it is encoded, and no fewer: a number takes ten at most,
    /// an actor sixteen.
    pub fn room_bytes(&self) -> usize {
        let seen = self.seen.values();
        seen.fold(10, |room, seen| room + 46 + 10 * seen.beyond.len())
    }

    /// Forgets all but the `max_actors` actors with the newest (time, actor) and
    /// those for which `live` holds.
    ///
    /// Ordering by a time that only grows, and breaking ties by the actor, makes
    /// this agree on every replica whatever path the entries took.
    pub fn truncate(&mut self, max_actors: usize, live: impl Fn(Actor) -> bool) {
        if self.seen.len() <= max_actors {
            return;
        }
        let mut by_age: Vec<(u64, Actor)> = self
            .seen
            .iter()
            .map(|(actor, seen)| (seen.newest_us, *actor))
            .collect();
        by_age.sort_unstable();
        let excess = by_age.len() - max_actors;
        for (_, actor) in &by_age[..excess] {
            if !live(*actor) {
                self.seen.remove(actor);
            }
        }
    }

    /// Forgets the lowest counters of clouds that hold more than `max_beyond`.
    ///
    /// For tokens only: a client that writes again and again without ever
    /// reading collects one dot a write, all but the last long superseded.
    pub fn shorten_clouds(&mut self, max_beyond: usize) {
        for seen in self.seen.values_mut() {
            let excess = seen.beyond.len().saturating_sub(max_beyond);
            seen.beyond.drain(..excess);
        }
    }

    /// Whether the context is one that this module could have made; asked of
    /// bytes that came from outside.
    pub fn is_well_formed(&self) -> bool {
        self.seen.values().all(Seen::is_well_formed)
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{")?;
        for (index, (actor, seen)) in self.seen.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{actor:?}:{}", seen.contiguous)?;
            if !seen.beyond.is_empty() {
                write!(f, "+{:?}", seen.beyond)?;
            }
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::dot::Epoch;
    use crate::protocol::id::NodeId;

    fn dot(actor: u64, counter: u64) -> Dot {
        Dot {
            actor: Actor {
                node: NodeId(actor),
                epoch: Epoch(0),
            },
            counter,
        }
    }

    fn dots() -> impl Strategy<Value = BTreeSet<Dot>> {
        prop::collection::btree_set((0u64..4, 1u64..8).prop_map(|(a, c)| dot(a, c)), 0..16)
    }

    /// A dot's time, a function of the dot as it is in life.
    fn time(dot: &Dot) -> u64 {
        dot.counter * 10 + dot.actor.node.0
    }

    fn context(dots: &BTreeSet<Dot>) -> Context {
        let mut context = Context::new();
        for dot in dots {
            context.add(*dot, time(dot));
        }
        context
    }

    fn joined(a: &Context, b: &Context) -> Context {
        let mut joined = a.clone();
        joined.join(b);
        joined
    }

    proptest! {
        /// A context is a set of dots: every operation agrees with the plain set.
        #[test]
        fn a_context_is_a_set_of_dots(a in dots(), b in dots()) {
            let union: BTreeSet<Dot> = a.union(&b).copied().collect();
            let joined = joined(&context(&a), &context(&b));
            prop_assert_eq!(&joined, &context(&union));
            prop_assert!(joined.is_well_formed());
            for actor in 0..4 {
                for counter in 1..9 {
                    let dot = dot(actor, counter);
                    prop_assert_eq!(joined.covers(dot), union.contains(&dot));
                }
            }
        }

        /// Truncating before a join, after it, or on both sides gives one answer.
        #[test]
        fn truncation_is_a_join(a in dots(), b in dots(), c in dots(), keep in 1usize..4) {
            let cut = |mut context: Context| {
                context.truncate(keep, |_| false);
                context
            };
            // Replicas see prefixes of each actor's history, so a later time
            // always comes with the earlier counters.
            let prefix = |dots: &BTreeSet<Dot>| -> BTreeSet<Dot> {
                dots.iter().flat_map(|d| (1..=d.counter).map(|n| dot(d.actor.node.0, n))).collect()
            };
            let (a, b, c) = (context(&prefix(&a)), context(&prefix(&b)), context(&prefix(&c)));
            let once = cut(joined(&joined(&a, &b), &c));
            let early = cut(joined(&cut(joined(&cut(a.clone()), &cut(b.clone()))), &cut(c.clone())));
            let other = cut(joined(&cut(a), &cut(joined(&cut(c), &cut(b)))));
            prop_assert_eq!(&once, &early);
            prop_assert_eq!(&once, &other);
        }
    }

    #[test]
    fn truncation_keeps_the_living() {
        let mut context = context(&BTreeSet::from([
            dot(0, 1),
            dot(1, 2),
            dot(2, 3),
            dot(3, 4),
        ]));
        context.truncate(1, |actor| actor.node == NodeId(0));
        let left: Vec<u64> = context.iter().map(|(actor, _)| actor.node.0).collect();
        assert_eq!(left, [0, 3]);
    }

    #[test]
    fn counters_at_the_edge_do_not_overflow() {
        let mut context = Context::new();
        context.add(dot(0, u64::MAX), 1);
        context.add(dot(0, u64::MAX - 1), 1);
        assert!(context.covers(dot(0, u64::MAX)));
        assert!(!context.covers(dot(0, 1)));
        assert!(context.is_well_formed());
    }
}
