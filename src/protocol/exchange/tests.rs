//! Two replicas and a session between them, with nothing else: what it brings
//! over, what it costs, and how it ends.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::protocol::context::Context;
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::{Leaf, LeafChange, StoreRequest};
use crate::protocol::id::{NodeId, TableId};
use crate::protocol::merkle;
use crate::protocol::message::{Message, MessageId};
use crate::protocol::siblings::Version;

const PARTITION: Partition = Partition(0);
const CLASS: Class = 3;

/// What a message takes on the wire: its encoding behind length and checksum.
fn frame_bytes(message: &Message) -> usize {
    8 + postcard::to_stdvec(message)
        .expect("it encodes into memory")
        .len()
}

/// One side: rows and their trees.
struct Replica {
    rows: BTreeMap<ItemKey, SiblingSet>,
    trees: Trees,
}

impl Replica {
    fn new() -> Self {
        let mut trees = Trees::default();
        trees.set_partitions(1);
        trees.next_request(0, 0).expect("the first partition");
        trees.on_leaves(&[], true, |_| CLASS);
        Replica {
            rows: BTreeMap::new(),
            trees,
        }
    }

    fn sync(&mut self, key: &ItemKey, set: &SiblingSet) {
        let row = self.rows.entry(key.clone()).or_default();
        let before = (!row.is_empty()).then(|| row.hash());
        row.sync(set);
        let change = LeafChange {
            partition: PARTITION,
            key: key.clone(),
            before,
            after: Some(row.hash()),
            mended: false,
        };
        self.trees.on_change(&change, CLASS);
    }

    fn leaves(&self, buckets: &[u32], limit: usize) -> (Vec<Leaf>, bool) {
        let width = self.trees.width();
        let mut leaves: Vec<Leaf> = self
            .rows
            .iter()
            .filter(|(key, _)| buckets.contains(&merkle::bucket_of(key, width)))
            .map(|(key, set)| Leaf {
                key: key.clone(),
                hash: Some(set.hash()),
                deleted_us: None,
            })
            .collect();
        let done = leaves.len() <= limit;
        leaves.truncate(limit);
        (leaves, done)
    }

    /// Rows in this order, at most so many: what a store's bounds come to.
    fn read<'a>(
        &self,
        keys: impl Iterator<Item = &'a ItemKey>,
        most: usize,
    ) -> (Vec<(ItemKey, SiblingSet)>, bool) {
        let mut rows: Vec<_> = keys
            .filter_map(|key| self.rows.get(key).map(|set| (key.clone(), set.clone())))
            .collect();
        let done = rows.len() <= most;
        rows.truncate(most);
        (rows, done)
    }

    fn answer(&mut self, ask: Ask, most: usize) -> Answer {
        match ask {
            Ask::Branches {
                partition,
                class,
                level,
                nodes,
            } => {
                let differing = differing_children(&self.trees, partition, class, level, &nodes);
                Answer::Branches(differing.expect("the trees are known"))
            }
            Ask::Compare {
                buckets, leaves, ..
            } => {
                let (mine, done) = self.leaves(&buckets, MAX_LEAVES);
                let mine: Vec<_> = mine
                    .into_iter()
                    .filter_map(|leaf| leaf.hash.map(|hash| (leaf.key, hash)))
                    .collect();
                let (wants, gives) = compare(&mine, &leaves);
                let (rows, all) = self.read(gives.iter(), most);
                Answer::Compared {
                    wants,
                    rows,
                    more: !done || !all,
                }
            }
            Ask::Pull { after, .. } => {
                let keys: Vec<ItemKey> = self.rows.keys().cloned().collect();
                let after = keys
                    .iter()
                    .filter(|key| after.as_ref().is_none_or(|after| *key > after));
                let (rows, done) = self.read(after, most);
                let next = rows.last().map(|(key, _)| key.clone()).filter(|_| !done);
                Answer::Pulled { rows, next }
            }
            Ask::Give { rows, .. } => {
                for (key, set) in &rows {
                    self.sync(key, set);
                }
                Answer::Given
            }
            other => panic!("a session does not ask {other:?}"),
        }
    }
}

/// What a session came to.
struct Outcome {
    complete: bool,
    bytes: usize,
    rounds: u32,
    rested_ms: u64,
}

/// Plays one session to its end, with stores that give so many rows at once.
fn play(a: &mut Replica, b: &mut Replica, most: usize) -> Outcome {
    let (_, theirs) = b.trees.root(PARTITION, CLASS).expect("known");
    let mut now_ms = 1_000;
    let peer = NodeId(2);
    let mut session = Session::new(peer, PARTITION, CLASS, &a.trees, theirs, now_ms);
    let mut action = session.on_tick(&a.trees, now_ms);
    let mut outcome = Outcome {
        complete: false,
        bytes: 0,
        rounds: 0,
        rested_ms: 0,
    };
    loop {
        action = match action.expect("a session always has something to do") {
            Action::Ask(ask) => {
                let id = MessageId(1);
                let message = Message::Exchange {
                    id,
                    ask: ask.clone(),
                };
                let answer = b.answer(ask, most);
                let reply = Message::ExchangeAnswer {
                    id,
                    answer: Ok(answer.clone()),
                };
                outcome.bytes += frame_bytes(&message) + frame_bytes(&reply);
                outcome.rounds += 1;
                assert!(outcome.rounds < 10_000, "the session does not end");
                session.on_answer(answer, &a.trees, now_ms)
            }
            Action::Store(StoreRequest::Leaves { buckets, limit, .. }) => {
                let (leaves, done) = a.leaves(&buckets, limit);
                session.on_leaves(leaves, done, now_ms)
            }
            Action::Store(StoreRequest::ReadMany { keys, .. }) => {
                let (rows, done) = a.read(keys.iter(), most);
                session.on_rows(rows, done, &a.trees, now_ms)
            }
            Action::Store(other) => panic!("a session does not ask a store for {other:?}"),
            Action::Apply(rows) => {
                for (key, set) in &rows {
                    a.sync(key, set);
                }
                session.on_stored(&a.trees, now_ms)
            }
            Action::Rest => {
                now_ms += 1;
                outcome.rested_ms += 1;
                let mut next = session.on_tick(&a.trees, now_ms);
                while next.is_none() {
                    now_ms += 1;
                    outcome.rested_ms += 1;
                    next = session.on_tick(&a.trees, now_ms);
                }
                next
            }
            Action::End { complete } => {
                outcome.complete = complete;
                return outcome;
            }
        };
    }
}

fn key(number: u32) -> ItemKey {
    ItemKey::new(TableId(1), &number.to_be_bytes(), None)
}

/// A state with one value, written by this node.
fn state(node: u64, counter: u64, bytes: usize) -> SiblingSet {
    let dot = Dot {
        actor: Actor {
            node: NodeId(node),
            epoch: Epoch(9),
        },
        counter,
    };
    let version = Version {
        value: Some(Bytes::from(vec![b'v'; bytes])),
        content_type: "text/plain".into(),
        written_at_us: counter,
        stands_for: None,
    };
    SiblingSet::delta(&Context::new(), dot, version)
}

#[test]
fn one_difference_costs_a_few_kilobytes_however_many_items_agree() {
    let mut costs = Vec::new();
    for items in [1_000, 20_000] {
        let (mut a, mut b) = (Replica::new(), Replica::new());
        for number in 0..items {
            let set = state(1, u64::from(number) + 1, 10);
            a.sync(&key(number), &set);
            b.sync(&key(number), &set);
        }
        b.sync(&key(17), &state(2, 1, 900));
        let outcome = play(&mut a, &mut b, 512);
        assert!(outcome.complete);
        assert_eq!(a.rows, b.rows);
        assert_eq!(
            a.trees.root(PARTITION, CLASS),
            b.trees.root(PARTITION, CLASS)
        );
        costs.push(outcome.bytes);
    }
    println!("one difference of 900 bytes costs {costs:?} bytes among 1,000 and 20,000 items");
    // The keys of one bucket are listed, and a bucket of twenty times as many
    // items is a little longer.
    assert!(costs.iter().all(|bytes| *bytes < 8_000), "{costs:?}");
}

#[test]
fn a_replica_with_nothing_asks_for_all_in_order_and_rests_in_between() {
    let (mut a, mut b) = (Replica::new(), Replica::new());
    for number in 0..3_000 {
        b.sync(&key(number), &state(1, u64::from(number) + 1, 9_000));
    }
    let outcome = play(&mut a, &mut b, 100);
    assert!(outcome.complete);
    assert_eq!(a.rows, b.rows);
    assert!(
        outcome.rounds <= 32,
        "{} rounds: thirty pulls, and one look for the rest",
        outcome.rounds
    );
    let seconds = 3_000 * 9_000 / BYTES_PER_SECOND;
    assert!(outcome.rested_ms >= seconds * 1_000, "it is held back");
}

#[test]
fn overdue_answers_end_it() {
    let (a, mut b) = (Replica::new(), Replica::new());
    b.sync(&key(1), &state(1, 1, 1));
    let mut session = Session::new(NodeId(2), PARTITION, CLASS, &a.trees, 1, 0);
    assert!(matches!(
        session.on_tick(&a.trees, 0),
        Some(Action::Ask(Ask::Branches { .. }))
    ));
    assert_eq!(session.on_tick(&a.trees, ANSWER_TIMEOUT_MS - 1), None);
    assert_eq!(
        session.on_tick(&a.trees, ANSWER_TIMEOUT_MS),
        Some(Action::End { complete: false })
    );
    assert_eq!(session.on_answer(Answer::Given, &a.trees, 0), None);
}

proptest! {
    /// Whatever two replicas hold: a few sessions make them one, and both hold
    /// the join.
    #[test]
    fn sessions_make_both_the_join(
        rows in prop::collection::vec((0u32..60, 0u8..2, 1u64..3, 1u64..4), 0..120),
        most in 1usize..40,
    ) {
        let (mut a, mut b) = (Replica::new(), Replica::new());
        let mut joined: BTreeMap<ItemKey, SiblingSet> = BTreeMap::new();
        for (number, side, node, counter) in rows {
            let set = state(node, counter, 5);
            let replica = if side == 0 { &mut a } else { &mut b };
            replica.sync(&key(number), &set);
            joined.entry(key(number)).or_default().sync(&set);
        }
        let mut sessions = 0;
        loop {
            let outcome = play(&mut a, &mut b, most);
            sessions += 1;
            prop_assert!(sessions < 200, "sessions make no headway");
            if outcome.complete {
                break;
            }
        }
        prop_assert_eq!(&a.rows, &joined);
        prop_assert_eq!(&b.rows, &joined);
        prop_assert_eq!(a.trees.root(PARTITION, CLASS), b.trees.root(PARTITION, CLASS));
    }
}
