//! Sibling sets against a naive model that keeps the full causal history.
//!
//! In the model a replica is a history: every write that it heard of, each with
//! the exact set of writes that its client had seen. A version lives if it was
//! received and no write in the history had seen it. Nothing is compact and
//! nothing is clever, so that what the real code makes of vectors, clouds and
//! deltas can be held against it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::context::Context;
use super::dot::{Dot, Epoch};
use super::id::NodeId;
use super::replica::{
    Draft, Minting, Mutation, Outcome, Row, SiblingLimits, apply, plan_fold, plan_write,
};
use super::siblings::SiblingSet;

const NODES: usize = 3;
const CLIENTS: usize = 3;
pub(super) const NO_LIMITS: SiblingLimits = SiblingLimits {
    fold_above: None,
    max_siblings: usize::MAX,
    max_actors: usize::MAX,
};

/// A write's name and what its writer had seen.
type History = BTreeMap<Dot, BTreeSet<Dot>>;

fn live(history: &History) -> BTreeSet<Dot> {
    let seen: BTreeSet<Dot> = history.values().flatten().copied().collect();
    history
        .keys()
        .filter(|dot| !seen.contains(dot))
        .copied()
        .collect()
}

/// Everything that a replica with this history has seen.
fn seen(history: &History) -> BTreeSet<Dot> {
    history
        .values()
        .flatten()
        .chain(history.keys())
        .copied()
        .collect()
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A client writes at a node: with what it has, blindly, or a deletion.
    Write {
        client: usize,
        node: usize,
        blind: bool,
        delete: bool,
    },
    /// A client reads at a node and takes the token.
    Read { client: usize, node: usize },
    /// The nth delta made so far arrives at a node (again, perhaps).
    Deliver { delta: usize, node: usize },
    /// One node's whole state arrives at another.
    Sync { from: usize, to: usize },
    /// A node forgets everything: its disk was lost.
    Wipe { node: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..CLIENTS, 0..NODES, prop::bool::weighted(0.3), prop::bool::weighted(0.2))
            .prop_map(|(client, node, blind, delete)| Step::Write { client, node, blind, delete }),
        2 => (0..CLIENTS, 0..NODES).prop_map(|(client, node)| Step::Read { client, node }),
        4 => (0usize..64, 0..NODES).prop_map(|(delta, node)| Step::Deliver { delta, node }),
        2 => (0..NODES, 0..NODES).prop_map(|(from, to)| Step::Sync { from, to }),
        1 => (0..NODES).prop_map(|node| Step::Wipe { node }),
    ];
    prop::collection::vec(step, 1..60)
}

/// A cluster of one item, twice: as it is, and as the model has it.
#[derive(Default)]
pub(super) struct World {
    pub(super) rows: [Row; NODES],
    histories: [History; NODES],
    /// What each client holds: the token, and the writes it stands for.
    tokens: [(Context, BTreeSet<Dot>); CLIENTS],
    deltas: Vec<(SiblingSet, Dot, BTreeSet<Dot>)>,
    minted: BTreeSet<Dot>,
    dice: u64,
}

impl World {
    pub(super) fn minting(&mut self, node: usize) -> Minting {
        self.dice += 1;
        Minting {
            node: NodeId(node as u64),
            incarnation: 7,
            // A clock that stands still: time must move on along an item anyway.
            now_us: 1_000,
            fresh_epoch: Epoch(self.dice),
        }
    }

    fn change(&mut self, node: usize, mutation: Mutation) -> Outcome {
        let (row, outcome) = apply(Some(self.rows[node].clone()), mutation);
        if let Some(row) = row {
            self.rows[node] = row;
        }
        outcome
    }

    pub(super) fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Write {
                client,
                node,
                blind,
                delete,
            } => {
                let (token, known) = if blind {
                    Default::default()
                } else {
                    self.tokens[client].clone()
                };
                let minting = self.minting(node);
                let newest_us = self.rows[node].set.newest_us().max(token.newest_us());
                let draft = Draft {
                    client: token.clone(),
                    value: (!delete).then(|| Bytes::from_static(b"v")),
                    content_type: "text/plain".into(),
                };
                let outcome = self.change(
                    node,
                    Mutation::Write {
                        draft,
                        minting,
                        limits: NO_LIMITS,
                    },
                );
                let Outcome::Written(written) = outcome else {
                    return Err(TestCaseError::fail(format!("{outcome:?}")));
                };
                prop_assert!(
                    self.minted.insert(written.dot),
                    "{:?} minted twice",
                    written.dot
                );
                let (_, version) = written
                    .delta
                    .siblings()
                    .next()
                    .expect("a delta has its write");
                prop_assert!(version.written_at_us > newest_us, "time ran backwards");
                self.histories[node].insert(written.dot, known.clone());
                let mut covered = known.clone();
                covered.insert(written.dot);
                let mut token = token;
                token.join(written.delta.context());
                self.tokens[client] = (token, covered);
                self.deltas.push((written.delta, written.dot, known));
            }
            Step::Read { client, node } => {
                self.tokens[client] = (
                    self.rows[node].set.context().clone(),
                    seen(&self.histories[node]),
                );
            }
            Step::Deliver { delta, node } => {
                if self.deltas.is_empty() {
                    return Ok(());
                }
                let (set, dot, known) = self.deltas[delta % self.deltas.len()].clone();
                self.change(
                    node,
                    Mutation::Sync {
                        set,
                        max_actors: usize::MAX,
                    },
                );
                self.histories[node].insert(dot, known);
            }
            Step::Sync { from, to } => {
                let set = self.rows[from].set.clone();
                self.change(
                    to,
                    Mutation::Sync {
                        set,
                        max_actors: usize::MAX,
                    },
                );
                let history = self.histories[from].clone();
                self.histories[to].extend(history);
            }
            Step::Wipe { node } => {
                self.rows[node] = Row::default();
                self.histories[node].clear();
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (row, history) in self.rows.iter().zip(&self.histories) {
            let siblings: BTreeSet<Dot> = row.set.siblings().map(|(dot, _)| dot).collect();
            prop_assert_eq!(&siblings, &live(history));
            prop_assert!(row.set.is_well_formed());
            let covered = seen(history);
            for dot in &self.minted {
                prop_assert_eq!(row.set.context().covers(*dot), covered.contains(dot));
            }
        }
        for (token, covered) in &self.tokens {
            for dot in &self.minted {
                prop_assert_eq!(token.covers(*dot), covered.contains(dot), "a token's reach");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn sibling_sets_agree_with_full_histories(steps in steps()) {
        let mut world = World::default();
        for step in &steps {
            world.take(step)?;
            world.check()?;
        }
        // When all have heard of all, all are the same.
        for round in 0..NODES {
            for to in 0..NODES {
                world.take(&Step::Sync { from: round, to })?;
            }
        }
        world.take(&Step::Sync { from: NODES - 1, to: 0 })?;
        world.take(&Step::Sync { from: NODES - 1, to: 1 })?;
        world.check()?;
        prop_assert_eq!(&world.rows[0].set, &world.rows[1].set);
        prop_assert_eq!(world.rows[0].set.hash(), world.rows[2].set.hash());
    }

    #[test]
    fn sync_is_a_join(steps in steps()) {
        let mut world = World::default();
        for step in &steps {
            world.take(step)?;
        }
        let [a, b, c] = world.rows.map(|row| row.set);
        let join = |left: &SiblingSet, right: &SiblingSet| {
            let mut joined = left.clone();
            joined.sync(right);
            joined
        };
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &a), a.clone());
        let mut again = join(&a, &b);
        prop_assert!(!again.sync(&b), "what is known brings nothing");
    }

    /// Truncating replicas agree after they have synced, and lose nothing live.
    #[test]
    fn truncation_converges_and_keeps_the_living(steps in steps(), keep in 1usize..4) {
        let mut world = World::default();
        for step in &steps {
            world.take(step)?;
        }
        let sync = |into: &SiblingSet, from: &SiblingSet| {
            let mut joined = into.clone();
            joined.sync(from);
            joined.truncate(keep);
            joined
        };
        let [a, b, c] = world.rows.map(|row| row.set);
        let untruncated = {
            let mut joined = a.clone();
            joined.sync(&b);
            joined.sync(&c);
            joined
        };
        let left = sync(&sync(&a, &b), &c);
        for (dot, _) in untruncated.siblings() {
            prop_assert!(left.siblings().any(|(other, _)| other == dot), "lost {dot:?}");
        }
        prop_assert!(left.context().len() <= keep.max(left.len()) + left.len());
        // Gossiping on, all reach one state, whatever the order was.
        let mut states = [a, b, c];
        for _ in 0..3 {
            for from in 0..3 {
                for to in 0..3 {
                    states[to] = sync(&states[to], &states[from].clone());
                }
            }
        }
        prop_assert_eq!(&states[0], &states[1]);
        prop_assert_eq!(&states[1], &states[2]);
    }
}

/// Two writers that each go on with the token of their own last PUT, never
/// reading, through coordinators that change: the case in which server-side
/// version vectors breed siblings without end.
#[test]
fn interleaved_writers_never_make_more_than_two_siblings() {
    let mut world = World::default();
    for round in 0..200 {
        let (client, node) = (round % 2, (round / 3) % NODES);
        let step = Step::Write {
            client,
            node,
            blind: false,
            delete: false,
        };
        world.take(&step).expect("a write");
        let delta = world.deltas.len() - 1;
        for node in 0..NODES {
            world
                .take(&Step::Deliver { delta, node })
                .expect("a delivery");
        }
        for row in &world.rows {
            assert!(row.set.len() <= 2, "{:?}", row.set);
        }
    }
    world.check().expect("the model agrees");
}

/// A fold that a write stores supersedes what it folded, and nothing that it
/// did not see; the writer's token covers its own write only.
#[test]
fn a_stored_fold_stands_for_its_inputs_only() {
    let mut world = World::default();
    for _ in 0..2 {
        let step = Step::Write {
            client: 0,
            node: 0,
            blind: true,
            delete: false,
        };
        world.take(&step).expect("a write");
    }
    // Elsewhere, unseen by the fold.
    world
        .take(&Step::Write {
            client: 1,
            node: 1,
            blind: true,
            delete: false,
        })
        .expect("a write");
    let minting = world.minting(0);
    let draft = Draft {
        client: Context::new(),
        value: Some(Bytes::from_static(b"x")),
        content_type: "text/plain".into(),
    };
    let (planned, written) = plan_write(world.rows[0].clone(), &draft, &minting);
    let newest_us = planned
        .set
        .siblings()
        .map(|(_, version)| version.written_at_us)
        .max();
    let greatest = planned
        .set
        .siblings()
        .max_by_key(|(dot, v)| (v.written_at_us, *dot))
        .map(|(dot, _)| dot);
    let (folded, dot) = plan_fold(
        planned,
        Some(Bytes::from_static(b"all")),
        "text/plain".into(),
        &minting,
        20,
    );
    let only: Vec<_> = folded.set.siblings().collect();
    assert_eq!(only.len(), 1);
    assert_eq!(only[0].0, dot);
    assert_eq!(
        Some(only[0].1.written_at_us),
        newest_us,
        "it is as old as its newest input"
    );
    assert_eq!(only[0].1.stands_for, greatest);
    assert!(
        !written.delta.context().covers(dot),
        "the writer did not see the others"
    );
    let mut joined = folded.set.clone();
    joined.sync(&world.rows[1].set);
    assert_eq!(joined.len(), 2, "a concurrent write survives");
}

/// Of siblings with several times the newest decides, whatever its dot: else
/// last-write-wins would give another answer when it is folded in steps.
#[test]
fn a_fold_stands_for_its_newest_input_not_for_the_greatest_dot() {
    let sibling = |node, written_at_us| {
        let actor = crate::protocol::dot::Actor {
            node: NodeId(node),
            epoch: Epoch(1),
        };
        let dot = Dot { actor, counter: 1 };
        let version = crate::protocol::siblings::Version {
            value: Some(Bytes::from_static(b"v")),
            content_type: "text/plain".into(),
            written_at_us,
            stands_for: None,
        };
        (dot, SiblingSet::delta(&Context::new(), dot, version))
    };
    let ((newest, left), (_, right)) = (sibling(1, 20), sibling(2, 10));
    let mut row = Row {
        minted: None,
        set: left,
    };
    row.set.sync(&right);
    let minting = World::default().minting(3);
    let (folded, _) = plan_fold(row, None, "".into(), &minting, 20);
    let (_, version) = folded.set.siblings().next().expect("one version");
    assert_eq!(version.stands_for, Some(newest));
    assert_eq!(version.written_at_us, 20);
}
