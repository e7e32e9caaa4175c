//! The disks of simulated nodes: when what a store was asked comes about, what
//! of it a crash takes back, and how a disk fails.
//!
//! A store has some files, as the real one, each with a writer of its own. Promises:
//! the changes of one file are made in the order in which they were asked for, those
//! of different files in any order; reads are made beside them, at a time of their
//! own, as by a real store's readers; the answers of one node come in the order in
//! which its store did the work. A crash takes back every change that was not made
//! yet and, where the durability says so or the disk lies, those that were made but
//! not synced, file by file. A torn one may leave some files further than others:
//! of what waited for a file, any number from the front is durable, and unanswered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Event, World};
use crate::protocol::catalog::Digest;
use crate::protocol::dot::Dot;
use crate::protocol::effect::{JobId, StoreError, StoreReply, StoreRequest};
use crate::protocol::id::{ItemKey, Partition};
use crate::protocol::replica::{Mutation, Outcome};
use crate::protocol::sabotage::{Variant, broken};
use crate::protocol::siblings::SiblingSet;
use crate::store::Store;
use crate::store::memory::{FILES, MemoryStore, Snapshot, file_of};

/// A file's changes are synced about once in so many, where nobody waits for it.
const SYNCED_ONE_IN: u64 = 16;

/// How many older states of a disk are kept to be restored one day.
const MAX_COPIES: usize = 4;

/// What a loss of power takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// Nothing that was answered: the default of the real store.
    #[default]
    Synced,
    /// Whatever came after the last time that the system wrote its cache out.
    /// The store notices the unclean end and takes a fresh incarnation.
    Os,
}

/// One node's disk.
pub(super) struct Disk {
    pub store: Arc<MemoryStore>,
    /// The modules that were uploaded and are kept here.
    pub shelf: BTreeSet<Digest>,
    /// Changes that wait for the store, oldest first.
    pub queue: VecDeque<(JobId, StoreRequest)>,
    /// When the last answer that is under way arrives.
    answered_ms: u64,
    /// Writes answer that there is no room.
    pub full: bool,
    /// Of a hundred reads so many fail.
    pub failing_reads: u64,
    /// How many times slower it is than it should be.
    pub slowness: u64,
    /// What a loss of power would leave, under [`Durability::Os`] or when it lies.
    synced: Option<Snapshot>,
    /// It says that what it was told to sync is synced, and it is not.
    lies: bool,
    /// The row that each file was last asked to write.
    written: BTreeMap<u32, (Partition, ItemKey)>,
    /// Backups that somebody made, oldest first.
    copies: VecDeque<Snapshot>,
}

impl Disk {
    pub fn new(incarnation: u64) -> Self {
        Disk {
            store: Arc::new(MemoryStore::new(incarnation)),
            shelf: BTreeSet::new(),
            queue: VecDeque::new(),
            answered_ms: 0,
            full: false,
            failing_reads: 0,
            slowness: 1,
            synced: None,
            lies: false,
            written: BTreeMap::new(),
            copies: VecDeque::new(),
        }
    }

    /// Keeps what is stored now, to be restored one day.
    pub fn back_up(&mut self) {
        if self.copies.len() == MAX_COPIES {
            self.copies.pop_front();
        }
        self.copies.push_back(self.store.snapshot());
    }

    /// Whether there is a backup.
    pub fn can_restore(&self) -> bool {
        !self.copies.is_empty()
    }

    /// Puts one of the backups back, incarnation and membership included; there
    /// must be one.
    pub fn restore(&mut self, choice: usize) {
        let copy = self.copies[choice % self.copies.len()].clone();
        self.store.restore(copy);
    }

    /// Takes back what was not synced; the store notices.
    pub fn lose_unsynced(&mut self, incarnation: u64) {
        if let Some(synced) = &self.synced {
            self.store.restore(synced.clone());
        }
        self.store
            .renew_incarnation(incarnation)
            .expect("memory does not fail");
    }

    /// From now on nothing is synced, whatever the disk says.
    pub fn lie(&mut self) {
        self.lies = true;
        self.synced = Some(self.store.snapshot());
    }

    /// The power fails while it lies: what it kept in its own memory is gone, file by
    /// file, and with `torn` the last row of one file is half there. The store cannot
    /// notice.
    pub fn come_to_light(&mut self, torn: Option<u32>) {
        self.lies = false;
        if let Some(synced) = self.synced.take() {
            self.store.restore(synced);
        }
        let row = torn.and_then(|file| self.written.get(&file));
        if let Some((partition, key)) = row {
            self.store.damage(*partition, key);
        }
    }

    /// Which file a change is for.
    fn file_of(request: &StoreRequest) -> u32 {
        match request {
            StoreRequest::Update { partition, .. }
            | StoreRequest::AddHints { partition, .. }
            | StoreRequest::Forget { partition, .. }
            | StoreRequest::ForgetDamaged { partition, .. }
            | StoreRequest::CountHintsOf { partition }
            | StoreRequest::Derive { partition, .. } => file_of(*partition),
            StoreRequest::DropHints { hints } => hints
                .first()
                .map_or(0, |(_, partition, ..)| file_of(*partition)),
            _ => 0,
        }
    }

    /// The oldest change that waits for the file `choice` says, among those that have
    /// any.
    fn next(&mut self, choice: u64) -> Option<(JobId, StoreRequest)> {
        let mut files: Vec<u32> = Vec::new();
        for (_, request) in &self.queue {
            let file = Disk::file_of(request);
            if !files.contains(&file) {
                files.push(file);
            }
        }
        let file = *files.get((choice % files.len().max(1) as u64) as usize)?;
        let place = self
            .queue
            .iter()
            .position(|(_, request)| Disk::file_of(request) == file)?;
        self.queue.remove(place)
    }
}

impl World {
    /// A node asks its store something.
    pub(super) fn ask_store(&mut self, node: usize, job: JobId, request: StoreRequest) {
        if let Some(ledger) = &mut self.scene.ledger {
            ledger.stores(&request);
        }
        let life = self.nodes[node].life;
        let slowness = self.nodes[node].disk.slowness * self.slowness(node);
        let in_ms = self.below(self.settings.commit_max_ms + 1) * slowness;
        let event = match request {
            StoreRequest::Read { .. }
            | StoreRequest::ReadState { .. }
            | StoreRequest::Hints { .. }
            | StoreRequest::CountHints
            | StoreRequest::Leaves { .. }
            | StoreRequest::ReadMany { .. }
            | StoreRequest::Scan { .. } => Event::ReadNow {
                node,
                life,
                job,
                request: Box::new(request),
            },
            change => {
                self.nodes[node].disk.queue.push_back((job, change));
                Event::Commit { node, life }
            }
        };
        self.plan(in_ms, event);
    }

    /// The store gets round to the oldest change that waits.
    pub(super) fn commit(&mut self, node: usize) {
        let choice = self.dice.next_u64();
        if let Some((job, request)) = self.nodes[node].disk.next(choice) {
            // These take their turn among the changes, but change nothing.
            let looks = matches!(
                request,
                StoreRequest::Derive { .. } | StoreRequest::CountHintsOf { .. }
            );
            let reply = if self.nodes[node].disk.full && !looks {
                Err(StoreError::Full)
            } else {
                self.change(node, request)
            };
            self.answer_from_store(node, job, reply);
            self.sync_sometimes(node);
        }
    }

    /// Where nobody waits for a sync, the system writes a file out now and then.
    fn sync_sometimes(&mut self, node: usize) {
        let waits_for_none = self.settings.durability == Durability::Os;
        if !waits_for_none && !self.nodes[node].disk.lies {
            return;
        }
        let (happens, file) = (self.below(SYNCED_ONE_IN) == 0, self.below(FILES.into()));
        let disk = &mut self.nodes[node].disk;
        let now = disk.store.snapshot();
        match &mut disk.synced {
            None => disk.synced = Some(now),
            Some(synced) if happens => synced.take_file(file as u32, &now),
            Some(_) => {}
        }
    }

    /// The power fails while the files of a node are being written: of what waits for
    /// each, some is durable, from the front, and nobody was told.
    pub(super) fn tear(&mut self, node: usize) {
        self.nodes[node].disk.slowness = 1;
        if self.nodes[node].disk.full {
            return;
        }
        let waiting = std::mem::take(&mut self.nodes[node].disk.queue);
        let mut left: BTreeMap<u32, u64> = BTreeMap::new();
        for (_, request) in waiting {
            let file = Disk::file_of(&request);
            // Mostly little waits: a file keeps its whole batch as often as not.
            let durable = left
                .entry(file)
                .or_insert_with(|| self.below(4) * self.below(4));
            if *durable == 0 {
                if let StoreRequest::Update { partition, key, .. } = &request
                    && broken(Variant::RowInTwoBatches)
                {
                    self.nodes[node].disk.store.take_away(*partition, key);
                }
                continue;
            }
            *durable -= 1;
            // Nobody hears of it any more: refused or made, the process is gone.
            drop(self.change(node, request));
        }
    }

    /// The store reads.
    pub(super) fn read(&mut self, node: usize, job: JobId, request: StoreRequest) {
        let failing = self.nodes[node].disk.failing_reads;
        let reply = if failing > 0 && self.below(100) < failing {
            Err(StoreError::Io("a simulated failure to read".to_owned()))
        } else {
            ask_now(&*self.nodes[node].disk.store, request)
        };
        self.answer_from_store(node, job, reply);
    }

    /// The answer takes its time too: a crash may come between.
    fn answer_from_store(
        &mut self,
        node: usize,
        job: JobId,
        reply: Result<StoreReply, StoreError>,
    ) {
        let in_ms = self.below(2) * self.slowness(node);
        let at_ms = (self.now_ms + in_ms).max(self.nodes[node].disk.answered_ms);
        let life = self.nodes[node].life;
        self.nodes[node].disk.answered_ms = at_ms;
        self.plan(
            at_ms - self.now_ms,
            Event::Stored {
                node,
                life,
                job,
                reply: Box::new(reply),
            },
        );
    }

    /// The store makes a change, and every dot that comes of it is noted.
    fn change(&mut self, node: usize, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let StoreRequest::Update { key, mutation, .. } = &request else {
            return ask_now(&*self.nodes[node].disk.store, request);
        };
        let key = key.clone();
        if let StoreRequest::Update { partition, .. } = &request {
            let written = &mut self.nodes[node].disk.written;
            written.insert(file_of(*partition), (*partition, key.clone()));
        }
        let mut brought: Vec<(Dot, Option<Bytes>)> = Vec::new();
        let mut seen_us = None;
        match mutation {
            Mutation::Write { draft, .. } => seen_us = Some(draft.client.newest_us()),
            Mutation::Sync { set, .. }
            | Mutation::Mend { set, .. }
            | Mutation::Replace {
                row: crate::protocol::replica::Row { set, .. },
                ..
            }
            | Mutation::Join {
                made: crate::protocol::replica::Row { set, .. },
                ..
            } => brought.extend(values(set)),
        }
        let reply = ask_now(&*self.nodes[node].disk.store, request);
        if let Ok(StoreReply::Updated(outcome, _)) = &reply {
            match outcome {
                Outcome::Written(written) => {
                    self.row_writes += 1;
                    brought.extend(values(&written.delta));
                    if let Some(ledger) = &mut self.scene.ledger {
                        ledger.stored(node, self.now_ms, &key, &written.delta);
                    }
                    let newest = written.delta.siblings().map(|(_, v)| v.written_at_us).max();
                    if newest <= seen_us {
                        self.violated(3, Some(&key), || {
                            "a write is not later than what it saw".to_owned()
                        });
                    }
                    self.check_written_once(&key, &brought);
                }
                Outcome::Synced { changed: true } | Outcome::Replaced => self.row_writes += 1,
                // Nothing of it was stored.
                Outcome::Synced { changed: false }
                | Outcome::WantsFold(_)
                | Outcome::TooManySiblings(_)
                | Outcome::Conflict(_) => brought.clear(),
            }
            let name = self.name(node);
            self.tell(Some(&key), || {
                format!("{name} stores: {}", super::trace::outcome(outcome))
            });
            for (dot, value) in brought {
                let known = self.minted.entry(dot).or_insert_with(|| value.clone());
                if *known != value {
                    self.violated(5, Some(&key), || format!("{dot:?} names two writes"));
                }
            }
        }
        reply
    }

    /// A client's write has one dot: carried out twice it would come back after
    /// the first of them was superseded.
    fn check_written_once(&mut self, key: &ItemKey, brought: &[(Dot, Option<Bytes>)]) {
        let is_register = self.registers.contains(&key.table());
        for (dot, value) in brought.iter().filter(|_| is_register) {
            let Some(value) = value else { continue };
            let known = *self.dots.entry(value.clone()).or_insert(*dot);
            if known != *dot {
                self.violated(3, Some(key), || {
                    let value = value.escape_ascii();
                    format!("the write {value} was carried out twice, as {known:?} and {dot:?}")
                });
            }
        }
    }
}

fn values(set: &SiblingSet) -> impl Iterator<Item = (Dot, Option<Bytes>)> + '_ {
    set.siblings()
        .map(|(dot, version)| (dot, version.value.clone()))
}

pub(super) fn ask_now(store: &dyn Store, request: StoreRequest) -> Result<StoreReply, StoreError> {
    let slot = Arc::new(Mutex::new(None));
    let place = slot.clone();
    store.submit(
        request,
        Box::new(move |reply| *place.lock().expect("no panic") = Some(reply)),
    );
    slot.lock()
        .expect("no panic")
        .take()
        .expect("memory answers at once")
}

/// What a store holds of an item; an error when it cannot be read.
pub(super) fn set_of(
    store: &MemoryStore,
    partition: Partition,
    key: &ItemKey,
) -> Result<SiblingSet, StoreError> {
    let key = key.clone();
    match ask_now(store, StoreRequest::Read { partition, key })? {
        StoreReply::Row(row) => Ok(row.map(|(row, _)| row.set).unwrap_or_default()),
        other => panic!("a read gave {other:?}"),
    }
}

pub(super) fn held_hints(store: &MemoryStore) -> Result<u64, StoreError> {
    match ask_now(store, StoreRequest::CountHints)? {
        StoreReply::HintCounts(counts) => Ok(counts.iter().map(|(_, count)| count).sum()),
        other => panic!("counting hints gave {other:?}"),
    }
}
