//! The store in memory: for simulation, the model checker and tests.
//!
//! Promises: those of [`Store`], with every request carried out and answered
//! before `submit` returns, and the same requests giving the same answers (in the
//! order of the changes as long as one thread at a time submits). What
//! a simulated disk lost is for the one who simulates to say: [`snapshot`] and
//! [`restore`] take and put back everything that is stored, [`damage`] makes a row
//! rot, [`set_full`] fills the disk, and [`Snapshot::take_file`] has one file go back
//! without the others.
//!
//! [`snapshot`]: MemoryStore::snapshot
//! [`restore`]: MemoryStore::restore
//! [`damage`]: MemoryStore::damage
//! [`set_full`]: MemoryStore::set_full

mod walk;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::{Done, Figures, Store};
use crate::protocol::effect::{Hint, HintId, LeafChange, StoreError, StoreReply, StoreRequest};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::replica::{Mutation, Outcome, Row, apply};
use crate::protocol::siblings::StateHash;

/// How many files the store has as far as a disk may lose them apart: partitions
/// lie in them as in the real store's, and what is known of the store in the first.
pub const FILES: u32 = 4;

/// The file that a partition lies in.
pub fn file_of(partition: Partition) -> u32 {
    partition.0 % FILES
}

/// A row, with the hash of its state: made once, as in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    row: Row,
    state: StateHash,
    /// Nothing can be read of it.
    damaged: bool,
}

impl Kept {
    fn sound(&self) -> Option<&Kept> {
        (!self.damaged).then_some(self)
    }
}

/// Everything that a [`MemoryStore`] stores, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    incarnation: u64,
    rows: BTreeMap<(Partition, ItemKey), Kept>,
    /// By sequence.
    hints: BTreeMap<i64, (NodeId, Partition, ItemKey)>,
    /// The same hints by what they name.
    sequences: BTreeMap<(Partition, ItemKey, NodeId), i64>,
    last_sequence: i64,
    meta: BTreeMap<String, Vec<u8>>,
}

impl Snapshot {
    /// Puts what this file holds in `other` in the place of what it holds here.
    pub fn take_file(&mut self, file: u32, other: &Snapshot) {
        let lies_here = |partition: Partition| file_of(partition) == file;
        self.rows.retain(|(partition, _), _| !lies_here(*partition));
        let rows = other.rows.iter();
        let rows = rows.filter(|((partition, _), _)| lies_here(*partition));
        self.rows
            .extend(rows.map(|(item, kept)| (item.clone(), kept.clone())));
        self.hints
            .retain(|_, (_, partition, _)| !lies_here(*partition));
        self.sequences
            .retain(|(partition, ..), _| !lies_here(*partition));
        for (sequence, hint) in &other.hints {
            let (target, partition, key) = hint;
            if lies_here(*partition) {
                let named = (*partition, key.clone(), *target);
                self.sequences.insert(named, *sequence);
                self.hints.insert(*sequence, hint.clone());
            }
        }
        self.last_sequence = self.last_sequence.max(other.last_sequence);
        if file == 0 {
            self.meta = other.meta.clone();
            self.incarnation = other.incarnation;
        }
    }
}

/// A store in memory.
pub struct MemoryStore {
    state: Mutex<State>,
}

struct State {
    stored: Snapshot,
    figures: Figures,
    closed: bool,
    full: bool,
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
                figures: Figures::default(),
                closed: false,
                full: false,
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
        state.closed = false;
    }

    /// Every row that can be read, in the order of partition, table, partition key
    /// and sort key.
    pub fn rows(&self) -> Vec<(Partition, ItemKey, Row)> {
        let state = self.state();
        let rows = state.stored.rows.iter();
        let sound = rows.filter(|(_, kept)| !kept.damaged);
        sound
            .map(|((partition, key), kept)| (*partition, key.clone(), kept.row.clone()))
            .collect()
    }

    /// One row; none when it is not there or cannot be read.
    pub fn row(&self, partition: Partition, key: &ItemKey) -> Option<Row> {
        let state = self.state();
        let kept = state.stored.rows.get(&(partition, key.clone()))?;
        kept.sound().map(|kept| kept.row.clone())
    }

    /// Makes a row unreadable until it is mended; false when there is none.
    pub fn damage(&self, partition: Partition, key: &ItemKey) -> bool {
        let mut state = self.state();
        let kept = state.stored.rows.get_mut(&(partition, key.clone()));
        kept.map(|kept| kept.damaged = true).is_some()
    }

    /// Takes a row away, as a write does that was cut off between two halves.
    pub fn take_away(&self, partition: Partition, key: &ItemKey) -> bool {
        let item = (partition, key.clone());
        self.state().stored.rows.remove(&item).is_some()
    }

    /// The rows that cannot be read, in order.
    pub fn damaged(&self) -> Vec<(Partition, ItemKey)> {
        let state = self.state();
        let rows = state.stored.rows.iter();
        rows.filter(|(_, kept)| kept.damaged)
            .map(|(place, _)| place.clone())
            .collect()
    }

    /// Whether the disk is full: changes are refused then, and reads go on.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }
}

impl State {
    fn carry_out(&mut self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        if self.closed {
            return Err(StoreError::Io("the store is closed".into()));
        }
        let damaged = &mut self.figures.damaged_rows;
        let stored = &mut self.stored;
        let request = match request {
            StoreRequest::Read { partition, key } => {
                let kept = stored.rows.get(&(partition, key.clone()));
                let row = sound_or_corrupt(kept, &key, damaged)?;
                let row = row.map(|kept| (kept.row.clone(), kept.state));
                return Ok(StoreReply::Row(row));
            }
            StoreRequest::ReadState { partition, key } => {
                let kept = stored.rows.get(&(partition, key.clone()));
                let row = sound_or_corrupt(kept, &key, damaged)?;
                return Ok(StoreReply::State(row.map(|kept| kept.state)));
            }
            StoreRequest::Hints { target, limit } => {
                return Ok(StoreReply::Hints(stored.hints_for(target, limit, damaged)));
            }
            StoreRequest::CountHints => {
                return Ok(StoreReply::HintCounts(stored.count_hints()));
            }
            StoreRequest::CountHintsOf { partition } => {
                let hints = stored.hints.values();
                let count = hints.filter(|hint| hint.1 == partition).count();
                return Ok(StoreReply::Count(count as u64));
            }
            StoreRequest::Derive {
                partition,
                after,
                limit,
            } => return Ok(stored.derive(partition, after, limit, damaged)),
            StoreRequest::Leaves {
                partition,
                buckets,
                width,
                limit,
            } => return Ok(stored.leaves(partition, &buckets, width, limit, damaged)),
            StoreRequest::ReadMany {
                partition,
                keys,
                max_bytes,
            } => return Ok(stored.read_many(partition, keys, max_bytes, damaged)),
            StoreRequest::Scan {
                partition,
                after,
                limit,
                max_bytes,
            } => return Ok(stored.scan(partition, after, limit, max_bytes, damaged)),
            change => change,
        };
        if self.full {
            return Err(StoreError::Full);
        }
        let reply = stored.change(request, damaged)?;
        self.figures.commits += 1;
        self.figures.changes += 1;
        self.figures.batch_sizes[0] += 1;
        Ok(reply)
    }
}

fn corrupt(key: &ItemKey) -> StoreError {
    StoreError::Corrupt(format!("{key:?}: damaged at will"))
}

/// The row, if there is one; damage is an error.
fn sound_or_corrupt<'a>(
    kept: Option<&'a Kept>,
    key: &ItemKey,
    damaged: &mut u64,
) -> Result<Option<&'a Kept>, StoreError> {
    let Some(kept) = kept else { return Ok(None) };
    match kept.sound() {
        None => {
            *damaged += 1;
            Err(corrupt(key))
        }
        sound => Ok(sound),
    }
}

impl Snapshot {
    fn change(
        &mut self,
        request: StoreRequest,
        damaged: &mut u64,
    ) -> Result<StoreReply, StoreError> {
        match request {
            StoreRequest::Update {
                partition,
                key,
                mutation,
                hints,
            } => self.update(partition, key, mutation, &hints, damaged),
            StoreRequest::AddHints {
                partition,
                key,
                hints,
            } => {
                self.add_hints(partition, &key, &hints);
                Ok(StoreReply::Done)
            }
            StoreRequest::DropHints { hints } => {
                let mut gone = Vec::new();
                for (id, partition, key, then_drop) in hints {
                    gone.extend(self.drop_hint(id, partition, key, then_drop, damaged));
                }
                Ok(StoreReply::Dropped(gone))
            }
            StoreRequest::Forget {
                partition,
                items,
                hints,
            } => {
                let mut gone = Vec::new();
                for (key, state) in items {
                    gone.extend(self.forget((partition, key), state, hints, damaged));
                }
                Ok(StoreReply::Dropped(gone))
            }
            StoreRequest::ForgetDamaged { partition, keys } => {
                for key in keys {
                    let place = (partition, key);
                    if self.rows.get(&place).is_some_and(|kept| kept.damaged) {
                        self.rows.remove(&place);
                        self.drop_hints_of(&place);
                    }
                }
                Ok(StoreReply::Dropped(Vec::new()))
            }
            StoreRequest::PutMeta { name, bytes } => {
                self.meta.insert(name.to_owned(), bytes.to_vec());
                Ok(StoreReply::Done)
            }
            other => unreachable!("{other:?} changes nothing and was answered before"),
        }
    }

    fn update(
        &mut self,
        partition: Partition,
        key: ItemKey,
        mutation: Mutation,
        hints: &[NodeId],
        damaged: &mut u64,
    ) -> Result<StoreReply, StoreError> {
        let item = (partition, key);
        let kept = self.rows.get(&item);
        let mended = kept.is_some_and(|kept| kept.damaged);
        let kept = match sound_or_corrupt(kept, &item.1, damaged) {
            Err(_) if matches!(mutation, Mutation::Mend { .. }) => None,
            sound => sound?,
        };
        let before = kept.map(|kept| kept.state);
        let (made, outcome) = apply(kept.map(|kept| kept.row.clone()), mutation);
        // A peer that has nothing mends nothing: the item would pass for absent.
        if mended && made.is_none() {
            return Err(corrupt(&item.1));
        }
        let mut after = before;
        if let Some(row) = made {
            if !row.set.is_well_formed() {
                let key = item.1;
                return Err(StoreError::Corrupt(format!(
                    "{key:?}: the change makes a sibling set that is not well formed"
                )));
            }
            let state = row.set.hash();
            after = Some(state);
            let kept = Kept {
                row,
                state,
                damaged: false,
            };
            self.rows.insert(item.clone(), kept);
        }
        if let Outcome::Written(_) | Outcome::Synced { .. } | Outcome::Replaced = outcome {
            self.add_hints(partition, &item.1, hints);
        }
        let leaf = (before != after).then_some(LeafChange {
            partition,
            key: item.1,
            before,
            after,
            mended,
        });
        Ok(StoreReply::Updated(outcome, leaf))
    }

    /// Removes a row whose state is this; tells what its leaf was, and whether the
    /// row is not there now.
    fn remove_at(
        &mut self,
        item: &(Partition, ItemKey),
        state: StateHash,
        damaged: &mut u64,
    ) -> (Option<LeafChange>, bool) {
        match sound_or_corrupt(self.rows.get(item), &item.1, damaged) {
            Ok(None) => (None, true),
            Ok(Some(kept)) if kept.state == state => {
                self.rows.remove(item);
                let leaf = LeafChange {
                    partition: item.0,
                    key: item.1.clone(),
                    before: Some(state),
                    after: None,
                    mended: false,
                };
                (Some(leaf), true)
            }
            Ok(Some(_)) | Err(_) => (None, false),
        }
    }

    fn drop_hint(
        &mut self,
        id: HintId,
        partition: Partition,
        key: ItemKey,
        then_drop: Option<StateHash>,
        damaged: &mut u64,
    ) -> Option<LeafChange> {
        let item = (partition, key);
        if let Some(delivered) = then_drop {
            match sound_or_corrupt(self.rows.get(&item), &item.1, damaged) {
                Ok(Some(kept)) if kept.state != delivered => return None,
                Err(_) => return None,
                Ok(_) => {}
            }
        }
        let dropped = self.remove_hint(id, partition, &item.1);
        let delivered = then_drop.filter(|_| dropped && !self.is_hinted(&item))?;
        self.remove_at(&item, delivered, damaged).0
    }

    fn forget(
        &mut self,
        item: (Partition, ItemKey),
        state: StateHash,
        hints: bool,
        damaged: &mut u64,
    ) -> Option<LeafChange> {
        let (leaf, is_gone) = self.remove_at(&item, state, damaged);
        if hints && is_gone {
            self.drop_hints_of(&item);
        }
        leaf
    }

    fn drop_hints_of(&mut self, (partition, key): &(Partition, ItemKey)) {
        let first = (*partition, key.clone(), NodeId(0));
        let last = (*partition, key.clone(), NodeId(u64::MAX));
        for (_, sequence) in self.sequences.extract_if(first..=last, |_, _| true) {
            self.hints.remove(&sequence);
        }
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
    fn remove_hint(&mut self, id: HintId, partition: Partition, key: &ItemKey) -> bool {
        let named = self.hints.get(&id.sequence);
        let here = id.file == file_of(partition);
        let named = named.filter(|hint| hint.1 == partition && hint.2 == *key && here);
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

    /// A hint whose row is damaged is passed over and stays: the item is neither
    /// delivered nor forgotten.
    fn hints_for(&self, target: NodeId, limit: usize, damaged: &mut u64) -> Vec<Hint> {
        let hints = self.hints.iter().filter(|(_, hint)| hint.0 == target);
        let sound = hints.filter_map(|(&sequence, (_, partition, key))| {
            let kept = self.rows.get(&(*partition, key.clone()));
            let row = sound_or_corrupt(kept, key, damaged).ok()?;
            Some(Hint {
                id: HintId {
                    file: file_of(*partition),
                    sequence,
                },
                partition: *partition,
                key: key.clone(),
                row: row.map(|kept| kept.row.clone()),
            })
        });
        sound.take(limit).collect()
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
        let mut state = self.state();
        if state.full {
            return Err(StoreError::Full);
        }
        state.stored.incarnation = incarnation;
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
