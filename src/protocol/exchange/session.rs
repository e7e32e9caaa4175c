//! A session: one partition and class, brought in line with one peer, step by
//! step.
//!
//! Promises: it wants one thing at a time, and each answer leads to the next; what
//! it cannot make sense of it passes over; when it ends complete, both sides hold
//! the join of what they held when it began.

use std::collections::VecDeque;

use super::{
    ANSWER_TIMEOUT_MS, Answer, Ask, BYTES_PER_SECOND, MAX_BATCH_BYTES, MAX_BRANCHES, MAX_BUCKETS,
    MAX_LEAVES, bytes_of,
};
use crate::protocol::effect::{Leaf, StoreRequest};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::sabotage::{Variant, broken};
use crate::protocol::siblings::{SiblingSet, StateHash};
use crate::protocol::trees::{Class, Trees};

/// A replica with less than this share of the peer's items asks for all of them
/// rather than for what differs.
const PULL_SHARE: u64 = 2;
/// Below so many items a descent is as cheap as any.
const PULL_ITEMS: u64 = 64;

/// What a session wants done next; never more than one thing at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask the peer.
    Ask(Ask),
    /// Ask the own store; the answer comes back by `on_leaves` or `on_rows`.
    Store(StoreRequest),
    /// Sync these rows into the own store, then call `on_stored`.
    Apply(Vec<(ItemKey, SiblingSet)>),
    /// Nothing, until a tick says that the rest is over.
    Rest,
    /// The session is over; complete, if it did all that it promises.
    End { complete: bool },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// Not begun, or resting.
    Ready(Next),
    Descending {
        level: u32,
    },
    Listing {
        buckets: Vec<u32>,
    },
    Comparing {
        leaves: Vec<(ItemKey, StateHash)>,
    },
    /// Rows are being stored here.
    Storing {
        wanted: Vec<ItemKey>,
        next: Next,
    },
    /// Rows for the peer are being read; those that are left wait their turn.
    Reading {
        wanted: Vec<ItemKey>,
    },
    Giving {
        wanted: Vec<ItemKey>,
    },
    Pulling,
    Over,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Next {
    Pull {
        after: Option<ItemKey>,
    },
    Descend,
    Compare,
    /// Give the peer what it wants.
    Give {
        wanted: Vec<ItemKey>,
    },
}

/// One partition and class being brought in line with one peer.
#[derive(Debug)]
pub struct Session {
    pub peer: NodeId,
    pub partition: Partition,
    pub class: Class,
    width: u32,
    stage: Stage,
    /// Buckets that differ and were not compared yet.
    buckets: VecDeque<u32>,
    /// How many buckets are compared at once: fewer where they are full.
    batch: usize,
    /// Whether something was left out for its size.
    truncated: bool,
    begun_ms: u64,
    /// When the answer is overdue, or the rest over.
    due_ms: u64,
    /// Rows that came from the peer, rows that went to it, and about how many
    /// bytes of both.
    pub received: u64,
    pub given: u64,
    pub bytes: u64,
    /// Bytes since the last rest.
    unrested: u64,
}

impl Session {
    /// A session with a peer whose tree differs and counts so many items.
    pub fn new(
        peer: NodeId,
        partition: Partition,
        class: Class,
        trees: &Trees,
        theirs: u64,
        now_ms: u64,
    ) -> Self {
        let mine = trees.root(partition, class).map_or(0, |(_, items)| items);
        let pull = theirs > PULL_ITEMS && mine < theirs / PULL_SHARE;
        let next = if pull {
            Next::Pull { after: None }
        } else {
            Next::Descend
        };
        Session {
            peer,
            partition,
            class,
            width: trees.width(),
            stage: Stage::Ready(next),
            buckets: VecDeque::new(),
            batch: MAX_BUCKETS,
            truncated: false,
            begun_ms: now_ms,
            due_ms: now_ms,
            received: 0,
            given: 0,
            bytes: 0,
            unrested: 0,
        }
    }

    /// When it began.
    pub fn begun_ms(&self) -> u64 {
        self.begun_ms
    }

    /// Time passed: goes on after a rest, gives up on an overdue answer.
    pub fn on_tick(&mut self, trees: &Trees, now_ms: u64) -> Option<Action> {
        if now_ms < self.due_ms {
            return None;
        }
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Ready(next) => Some(self.go_on(next, trees, now_ms)),
            Stage::Over => None,
            _ => Some(self.fail()),
        }
    }

    /// What it waits for comes, piece by piece.
    pub fn extend(&mut self, now_ms: u64) {
        self.due_ms = now_ms + ANSWER_TIMEOUT_MS;
    }

    /// The peer could not be reached, refused, or the store failed.
    pub fn fail(&mut self) -> Action {
        self.stage = Stage::Over;
        Action::End { complete: false }
    }

    fn go_on(&mut self, next: Next, trees: &Trees, now_ms: u64) -> Action {
        // A rest in proportion to what was moved.
        let pause_ms = self.unrested * 1000 / BYTES_PER_SECOND;
        if pause_ms > 0 {
            self.unrested = 0;
            self.due_ms = now_ms + pause_ms;
            self.stage = Stage::Ready(next);
            return Action::Rest;
        }
        self.due_ms = now_ms + ANSWER_TIMEOUT_MS;
        match next {
            Next::Pull { after } => {
                self.stage = Stage::Pulling;
                Action::Ask(Ask::Pull {
                    partition: self.partition,
                    class: self.class,
                    after,
                })
            }
            Next::Descend => self.descend(0, vec![0], trees),
            Next::Compare => self.compare(),
            Next::Give { wanted } => {
                let request = StoreRequest::ReadMany {
                    partition: self.partition,
                    keys: wanted.clone(),
                    max_bytes: MAX_BATCH_BYTES,
                };
                self.stage = Stage::Reading { wanted };
                Action::Store(request)
            }
        }
    }

    fn descend(&mut self, level: u32, mut nodes: Vec<u32>, trees: &Trees) -> Action {
        if nodes.len() > MAX_BRANCHES {
            nodes.truncate(MAX_BRANCHES);
            self.truncated = true;
        }
        let mut branches = Vec::with_capacity(nodes.len());
        for index in nodes {
            match trees.children(self.partition, self.class, level, index) {
                Some(children) => branches.push((index, children)),
                // The trees are being made anew: later.
                None => return self.fail(),
            }
        }
        self.stage = Stage::Descending { level };
        Action::Ask(Ask::Branches {
            partition: self.partition,
            class: self.class,
            level,
            nodes: branches,
        })
    }

    fn compare(&mut self) -> Action {
        let count = self.batch.min(self.buckets.len());
        if count == 0 {
            self.stage = Stage::Over;
            return Action::End {
                complete: !self.truncated,
            };
        }
        let buckets: Vec<u32> = self.buckets.drain(..count).collect();
        let request = StoreRequest::Leaves {
            partition: self.partition,
            buckets: buckets.clone(),
            width: self.width,
            limit: MAX_LEAVES,
        };
        self.stage = Stage::Listing { buckets };
        Action::Store(request)
    }

    /// The own leaves in the buckets that are to be compared, of this class only.
    pub fn on_leaves(&mut self, leaves: Vec<Leaf>, done: bool, now_ms: u64) -> Option<Action> {
        let Stage::Listing { buckets } = &mut self.stage else {
            return None;
        };
        let buckets = std::mem::take(buckets);
        if !done {
            if buckets.len() > 1 {
                // Fuller than expected: fewer at a time.
                self.batch = (buckets.len() / 2).max(1);
                for bucket in buckets.into_iter().rev() {
                    self.buckets.push_front(bucket);
                }
                return Some(self.compare());
            }
            // What lies beyond stays uncompared, and the session says so.
            self.truncated = true;
        }
        let leaves: Vec<(ItemKey, StateHash)> = leaves
            .into_iter()
            .filter_map(|leaf| leaf.hash.map(|hash| (leaf.key, hash)))
            .collect();
        self.due_ms = now_ms + ANSWER_TIMEOUT_MS;
        self.stage = Stage::Comparing {
            leaves: leaves.clone(),
        };
        Some(Action::Ask(Ask::Compare {
            partition: self.partition,
            class: self.class,
            width: self.width,
            buckets,
            leaves,
        }))
    }

    /// The peer answered.
    pub fn on_answer(&mut self, answer: Answer, trees: &Trees, now_ms: u64) -> Option<Action> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let action = match (stage, answer) {
            (Stage::Descending { level }, Answer::Branches(differing)) => {
                self.due_ms = now_ms + ANSWER_TIMEOUT_MS;
                if level + 1 < trees.depth() {
                    if differing.is_empty() {
                        self.compare()
                    } else {
                        self.descend(level + 1, differing, trees)
                    }
                } else {
                    self.buckets.extend(differing);
                    self.compare()
                }
            }
            (
                Stage::Comparing { leaves },
                Answer::Compared {
                    wants, rows, more, ..
                },
            ) => {
                self.truncated |= more;
                let wanted = wants
                    .into_iter()
                    .filter_map(|place| leaves.get(place as usize))
                    .map(|(key, _)| key.clone())
                    .collect();
                self.apply(rows, wanted, Next::Compare, trees, now_ms)
            }
            (Stage::Pulling, Answer::Pulled { rows, next }) => {
                let next = match next {
                    Some(after) => Next::Pull { after: Some(after) },
                    None => Next::Descend,
                };
                self.apply(rows, Vec::new(), next, trees, now_ms)
            }
            (Stage::Giving { wanted }, Answer::Given) => self.give(wanted, trees, now_ms),
            // A repeated or late answer, or one that makes no sense.
            (stage, _) => {
                self.stage = stage;
                return None;
            }
        };
        Some(action)
    }

    fn apply(
        &mut self,
        rows: Vec<(ItemKey, SiblingSet)>,
        wanted: Vec<ItemKey>,
        next: Next,
        trees: &Trees,
        now_ms: u64,
    ) -> Action {
        self.note(&rows);
        self.received += rows.len() as u64;
        if rows.is_empty() {
            return self.after_storing(wanted, next, trees, now_ms);
        }
        self.due_ms = now_ms + ANSWER_TIMEOUT_MS;
        self.stage = Stage::Storing { wanted, next };
        Action::Apply(rows)
    }

    fn note(&mut self, rows: &[(ItemKey, SiblingSet)]) {
        let bytes = bytes_of(rows);
        self.bytes += bytes;
        self.unrested += bytes;
    }

    /// All rows that were to be applied are stored.
    pub fn on_stored(&mut self, trees: &Trees, now_ms: u64) -> Option<Action> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Storing { wanted, next } => {
                Some(self.after_storing(wanted, next, trees, now_ms))
            }
            stage => {
                self.stage = stage;
                None
            }
        }
    }

    fn after_storing(
        &mut self,
        wanted: Vec<ItemKey>,
        next: Next,
        trees: &Trees,
        now_ms: u64,
    ) -> Action {
        if wanted.is_empty() || broken(Variant::ExchangeOneWay) {
            self.go_on(next, trees, now_ms)
        } else {
            self.go_on(Next::Give { wanted }, trees, now_ms)
        }
    }

    fn give(&mut self, wanted: Vec<ItemKey>, trees: &Trees, now_ms: u64) -> Action {
        let next = if wanted.is_empty() {
            Next::Compare
        } else {
            Next::Give { wanted }
        };
        self.go_on(next, trees, now_ms)
    }

    /// The rows that the peer wants were read, or the first of them.
    pub fn on_rows(
        &mut self,
        rows: Vec<(ItemKey, SiblingSet)>,
        done: bool,
        trees: &Trees,
        now_ms: u64,
    ) -> Option<Action> {
        let Stage::Reading { wanted } = &mut self.stage else {
            return None;
        };
        let mut wanted = std::mem::take(wanted);
        match rows.last() {
            // In the order in which they were asked for.
            Some((last, _)) if !done => {
                let read = wanted.iter().position(|key| key == last);
                wanted.drain(..read.map_or(wanted.len(), |place| place + 1));
            }
            _ => wanted.clear(),
        }
        self.note(&rows);
        self.given += rows.len() as u64;
        if rows.is_empty() {
            return Some(self.give(wanted, trees, now_ms));
        }
        self.due_ms = now_ms + ANSWER_TIMEOUT_MS;
        self.stage = Stage::Giving { wanted };
        Some(Action::Ask(Ask::Give {
            partition: self.partition,
            rows,
        }))
    }
}
