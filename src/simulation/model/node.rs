//! One node of the model: a real store in memory, frozen between two steps.
//!
//! Promises: every change goes through [`MemoryStore`], so rows are made by
//! `replica::apply` and hints are noted and dropped by the very code that the
//! simulator's nodes run; two nodes that store the same have the same mark.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::super::disk::ask_now;
use super::ghost::Known;
use crate::protocol::effect::{Hint, StoreReply, StoreRequest};
use crate::protocol::id::{ItemKey, NodeId, Partition, TableId};
use crate::protocol::replica::{Minting, Mutation, Outcome, Row, SiblingLimits};
use crate::protocol::siblings::{SiblingSet, StateHash};
use crate::store::memory::{MemoryStore, Snapshot};

/// The partition of the one item.
pub const PARTITION: Partition = Partition(0);
/// How many nodes there are: three primaries and a fallback.
pub const NODES: usize = 4;
/// How many of them are primaries.
pub const PRIMARIES: usize = 3;
/// The node that is no primary.
pub const FALLBACK: usize = 3;

/// The one item.
pub fn key() -> ItemKey {
    ItemKey::new(TableId(1), b"k", None)
}

/// The name under which the protocol knows a node.
pub fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

/// The node of this name.
pub fn index(id: NodeId) -> usize {
    id.0 as usize - 1
}

/// A state or delta, with its hash: states of the model share it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub set: SiblingSet,
    pub hash: StateHash,
}

impl Packet {
    pub fn new(set: SiblingSet) -> Arc<Self> {
        let hash = set.hash();
        Arc::new(Packet { set, hash })
    }
}

/// What a node stores: the store's own snapshot, and what can be seen of it.
#[derive(PartialEq, Eq, Debug)]
pub struct Content {
    stored: Snapshot,
    pub row: Option<Row>,
    /// The replicated state, empty where there is no row.
    pub held: Arc<Packet>,
    pub hints: BTreeSet<NodeId>,
    mark: u64,
}

impl Content {
    fn of(store: &MemoryStore) -> Arc<Self> {
        let row = store.rows().pop().map(|(_, _, row)| row);
        let mut mark = DefaultHasher::new();
        postcard::to_stdvec(&row)
            .expect("rows always encode into memory")
            .hash(&mut mark);
        let mut hints = BTreeSet::new();
        let counts = match ask_now(store, StoreRequest::CountHints) {
            Ok(StoreReply::HintCounts(counts)) => counts,
            other => unreachable!("hints were counted, not {other:?}"),
        };
        for (target, _) in counts {
            let oldest = oldest_hint(store, target).expect("it was counted");
            (target, oldest.id).hash(&mut mark);
            hints.insert(target);
        }
        let set = row.as_ref().map(|row| row.set.clone());
        Arc::new(Content {
            stored: store.snapshot(),
            held: Packet::new(set.unwrap_or_default()),
            row,
            hints,
            mark: mark.finish(),
        })
    }
}

fn oldest_hint(store: &MemoryStore, target: NodeId) -> Option<Hint> {
    match ask_now(store, StoreRequest::Hints { target, limit: 1 }) {
        Ok(StoreReply::Hints(mut hints)) => hints.pop(),
        other => unreachable!("hints were asked for, not {other:?}"),
    }
}

/// A node, and what the one who watches knows about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    content: Arc<Content>,
    /// The writes that the node heard of since its row was last empty.
    pub known: Known,
    pub incarnation: u64,
    /// How many fresh epochs were drawn here: dice are never thrown back, so
    /// neither a wipe nor a restore touches it.
    pub draws: u64,
}

impl std::ops::Deref for Node {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.content
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.mark, self.known, self.incarnation, self.draws).hash(state);
    }
}

impl Node {
    /// A node with an empty store.
    pub fn new() -> Self {
        Node {
            content: Content::of(&MemoryStore::new(1)),
            known: Known::default(),
            incarnation: 1,
            draws: 0,
        }
    }

    /// Loses everything but the dice.
    pub fn wipe(&mut self) {
        self.take(&MemoryStore::new(self.incarnation));
    }

    /// Puts an old copy in the place of what is stored.
    pub fn restore(&mut self, backup: &Node) {
        self.content = backup.content.clone();
        self.known = backup.known;
    }

    fn store(&self) -> MemoryStore {
        let store = MemoryStore::new(0);
        store.restore(self.content.stored.clone());
        store
    }

    fn take(&mut self, store: &MemoryStore) {
        self.content = Content::of(store);
        if self.row.is_none() {
            self.known = Known::default();
        }
    }

    /// Carries out a request of the store.
    pub fn ask(&mut self, request: StoreRequest) -> StoreReply {
        let store = self.store();
        let reply = ask_now(&store, request).expect("memory does not fail");
        self.take(&store);
        reply
    }

    /// Changes the row, and notes hints with the change.
    pub fn update(&mut self, mutation: Mutation, hints: Vec<NodeId>) -> Outcome {
        let request = StoreRequest::Update {
            partition: PARTITION,
            key: key(),
            mutation,
            hints,
        };
        match self.ask(request) {
            StoreReply::Updated(outcome, _) => outcome,
            other => unreachable!("a change is answered by its outcome, not {other:?}"),
        }
    }

    /// The oldest hint for the node, with the item as it is now.
    pub fn hint_for(&self, target: NodeId) -> Option<Hint> {
        oldest_hint(&self.store(), target)
    }

    /// Forgets the row if it is still this state: compare-and-delete, which the
    /// store has for the row of a fallback whose last hint was delivered.
    pub fn drop_row(&mut self, expected: StateHash) {
        let request = StoreRequest::AddHints {
            partition: PARTITION,
            key: key(),
            hints: vec![NodeId::NOBODY],
        };
        self.ask(request);
        let hint = self.hint_for(NodeId::NOBODY).expect("it was just noted");
        let place = (hint.id, PARTITION, key(), Some(expected));
        self.ask(StoreRequest::DropHints { hints: vec![place] });
        // Where the state had changed the helper hint is still there.
        let place = (hint.id, PARTITION, key(), None);
        self.ask(StoreRequest::DropHints { hints: vec![place] });
    }

    /// The replicated state.
    pub fn set(&self) -> &SiblingSet {
        &self.held.set
    }

    /// What the node brings to a mint at this moment.
    pub fn minting(&self, node: usize, fresh_epoch: u64) -> Minting {
        Minting {
            node: id(node),
            incarnation: self.incarnation,
            // A clock that stands still: no decision may need it.
            now_us: 1_000,
            fresh_epoch: crate::protocol::dot::Epoch(fresh_epoch),
        }
    }
}

/// No limits but, where a table folds, how many siblings it wants.
pub fn limits(fold_above: Option<usize>) -> SiblingLimits {
    SiblingLimits {
        fold_above,
        max_siblings: usize::MAX,
        max_actors: usize::MAX,
    }
}
