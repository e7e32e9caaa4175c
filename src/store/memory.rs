//! The store in memory: for simulation, the model checker and tests.
//!
//! Promises: those of [`Store`], with every request carried out and answered
//! before `submit` returns, and the same requests giving the same answers. What
//! a simulated disk lost is for the one who simulates to say: [`snapshot`] and
//! [`restore`] take and put back everything that is stored.
//!
//! [`snapshot`]: MemoryStore::snapshot
//! [`restore`]: MemoryStore::restore

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use super::{Done, Figures, Store};
use crate::protocol::effect::{Hint, HintId, StoreError, StoreReply, StoreRequest};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::replica::{Mutation, Outcome, Row, apply};

/// The one file that hints lie in.
const FILE: u32 = 0;

/// Everything that a [`MemoryStore`] stores, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    incarnation: u64,
    rows: BTreeMap<(Partition, ItemKey), Row>,
    /// By sequence.
    hints: BTreeMap<i64, (NodeId, Partition, ItemKey)>,
    /// The same hints by what they name.
    sequences: BTreeMap<(Partition, ItemKey, NodeId), i64>,
    last_sequence: i64,
    meta: BTreeMap<String, Vec<u8>>,
}

/// A store in memory.
pub struct MemoryStore {
    state: Mutex<State>,
}

struct State {
    stored: Snapshot,
    /// Rows that cannot be read.
    corrupt: BTreeSet<(Partition, ItemKey)>,
    figures: Figures,
    closed: bool,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(incarnation: u64) -> Self {
        MemoryStore {
            state: Mutex::new(State {
                stored: Snapshot {
                    incarnation,
                    ..Snapshot::default()
                },
                corrupt: BTreeSet::new(),
                figures: Figures::default(),
                closed: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
    }

    /// Everything that is stored now.
    pub fn snapshot(&self) -> Snapshot {
        self.state().stored.clone()
    }

    /// Puts back what was stored once, the incarnation too, and opens the store
    /// if it was closed: a crash that lost what came since.
    pub fn restore(&self, snapshot: Snapshot) {
        let mut state = self.state();
        state.stored = snapshot;
        state.corrupt.clear();
        state.closed = false;
    }

    /// Makes a row unreadable from now on, or readable again: reads and changes of
    /// it answer as if its checksum failed.
    pub fn corrupt(&self, partition: Partition, key: &ItemKey, is_corrupt: bool) {
        let mut state = self.state();
        let item = (partition, key.clone());
        if is_corrupt {
            state.corrupt.insert(item);
        } else {
            state.corrupt.remove(&item);
        }
    }

    /// Every row, in the order of partition, table, partition key and sort key.
    pub fn rows(&self) -> Vec<(Partition, ItemKey, Row)> {
        let state = self.state();
        let rows = state.stored.rows.iter();
        rows.map(|((partition, key), row)| (*partition, key.clone(), row.clone()))
            .collect()
    }
}

impl State {
    fn carry_out(&mut self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        if self.closed {
            return Err(StoreError::Io("the store is closed".into()));
        }
        if let StoreRequest::Read { partition, key } | StoreRequest::Update { partition, key, .. } =
            &request
            && !self.corrupt.is_empty()
            && self.corrupt.contains(&(*partition, key.clone()))
        {
            return Err(StoreError::Corrupt(format!("{key:?}")));
        }
        let reply = match request {
            StoreRequest::Read { partition, key } => {
                return Ok(StoreReply::Row(
                    self.stored.rows.get(&(partition, key)).cloned(),
                ));
            }
            StoreRequest::Hints { target, limit } => {
                return Ok(StoreReply::Hints(self.stored.hints_for(target, limit)));
            }
            StoreRequest::CountHints => {
                return Ok(StoreReply::HintCounts(self.stored.count_hints()));
            }
            StoreRequest::Update {
                partition,
                key,
                mutation,
                hints,
            } => self.stored.update(partition, key, mutation, &hints)?,
            StoreRequest::AddHints {
                partition,
                key,
                hints,
            } => {
                self.stored.add_hints(partition, &key, &hints);
                StoreReply::Done
            }
            StoreRequest::DropHints { hints } => {
                for (id, partition, key, then_drop) in hints {
                    let item = (partition, key);
                    if let (Some(delivered), Some(row)) = (then_drop, self.stored.rows.get(&item))
                        && row.set.hash() != delivered
                    {
                        continue;
                    }
                    let dropped = self.stored.drop_hint(id, partition, &item.1);
                    if dropped && then_drop.is_some() && !self.stored.is_hinted(&item) {
                        self.stored.rows.remove(&item);
                    }
                }
                StoreReply::Done
            }
            StoreRequest::PutMeta { name, bytes } => {
                self.stored.meta.insert(name.to_owned(), bytes.to_vec());
                StoreReply::Done
            }
        };
        self.figures.commits += 1;
        self.figures.changes += 1;
        self.figures.batch_sizes[0] += 1;
        Ok(reply)
    }
}

impl Snapshot {
    fn update(
        &mut self,
        partition: Partition,
        key: ItemKey,
        mutation: Mutation,
        hints: &[NodeId],
    ) -> Result<StoreReply, StoreError> {
        let item = (partition, key);
        let (made, outcome) = apply(self.rows.get(&item).cloned(), mutation);
        if let Some(row) = made {
            if !row.set.is_well_formed() {
                let key = item.1;
                return Err(StoreError::Corrupt(format!(
                    "{key:?}: the change makes a sibling set that is not well formed"
                )));
            }
            self.rows.insert(item.clone(), row);
        }
        if let Outcome::Written(_) | Outcome::Synced { .. } | Outcome::Replaced = outcome {
            self.add_hints(partition, &item.1, hints);
        }
        Ok(StoreReply::Updated(outcome))
    }

    fn add_hints(&mut self, partition: Partition, key: &ItemKey, hints: &[NodeId]) {
        for &target in hints {
            self.last_sequence += 1;
            let sequence = self.last_sequence;
            let named = (partition, key.clone(), target);
            if let Some(older) = self.sequences.insert(named, sequence) {
                self.hints.remove(&older);
            }
            self.hints
                .insert(sequence, (target, partition, key.clone()));
        }
    }

    /// Whether there was such a hint.
    fn drop_hint(&mut self, id: HintId, partition: Partition, key: &ItemKey) -> bool {
        let named = self.hints.get(&id.sequence);
        let named = named.filter(|hint| hint.1 == partition && hint.2 == *key && id.file == FILE);
        let Some(&(target, ..)) = named else {
            return false;
        };
        self.sequences.remove(&(partition, key.clone(), target));
        self.hints.remove(&id.sequence);
        true
    }

    fn is_hinted(&self, (partition, key): &(Partition, ItemKey)) -> bool {
        let first = (*partition, key.clone(), NodeId(0));
        let next = self.sequences.range(first..).next();
        next.is_some_and(|((p, k, _), _)| (p, k) == (partition, key))
    }

    fn hints_for(&self, target: NodeId, limit: usize) -> Vec<Hint> {
        let hints = self.hints.iter().filter(|(_, hint)| hint.0 == target);
        hints
            .take(limit)
            .map(|(&sequence, (_, partition, key))| Hint {
                id: HintId {
                    file: FILE,
                    sequence,
                },
                partition: *partition,
                key: key.clone(),
                row: self.rows.get(&(*partition, key.clone())).cloned(),
            })
            .collect()
    }

    fn count_hints(&self) -> Vec<(NodeId, u64)> {
        let mut counts = BTreeMap::new();
        for (target, ..) in self.hints.values() {
            *counts.entry(*target).or_default() += 1;
        }
        counts.into_iter().collect()
    }
}

impl Store for MemoryStore {
    fn submit(&self, request: StoreRequest, done: Done) {
        // The lock is let go first: the answer may lead to the next request.
        let reply = self.state().carry_out(request);
        done(reply);
    }

    fn incarnation(&self) -> u64 {
        self.state().stored.incarnation
    }

    fn renew_incarnation(&self, incarnation: u64) -> Result<(), StoreError> {
        self.state().stored.incarnation = incarnation;
        Ok(())
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().stored.meta.get(name).cloned())
    }

    fn figures(&self) -> Figures {
        self.state().figures.clone()
    }

    fn close(&self) {
        self.state().closed = true;
    }
}
