//! What writers are asked to change, how much memory it takes while it waits, and what a
//! transaction of it changed for those who look for rows.

use bytes::Bytes;

use crate::protocol::effect::HintId;
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::replica::Mutation;
use crate::protocol::siblings::{SiblingSet, StateHash};
use crate::store::sqlite::unfiled::{Entry as Unfiling, Unfiled};

/// About how many bytes a request takes beside its values: key, context, list
/// nodes.
pub const OVERHEAD_BYTES: usize = 256;

/// A hint that was delivered, and the state at which its row may go.
pub type Delivered = (HintId, Partition, ItemKey, Option<StateHash>);

/// A change that a writer is asked for.
pub enum Change {
    Update {
        partition: Partition,
        key: ItemKey,
        mutation: Mutation,
        hints: Vec<NodeId>,
    },
    AddHints {
        partition: Partition,
        key: ItemKey,
        hints: Vec<NodeId>,
    },
    /// Those of this file.
    DropHints(Vec<Delivered>),
    Forget {
        partition: Partition,
        items: Vec<(ItemKey, StateHash)>,
        hints: bool,
    },
    ForgetDamaged {
        partition: Partition,
        keys: Vec<ItemKey>,
    },
    PutMeta {
        name: &'static str,
        bytes: Bytes,
    },
    /// What the store knows of itself. Synced whatever the durability, so it has a
    /// transaction of its own.
    SetNumber(&'static str, u64),
}

impl Change {
    /// About how many bytes it holds in memory.
    pub fn size_bytes(&self) -> usize {
        let payload = match self {
            Change::Update { mutation, .. } => match mutation {
                Mutation::Write { draft, .. } => draft.value.as_ref().map_or(0, Bytes::len),
                Mutation::Sync { set, .. } | Mutation::Mend { set, .. } => set_bytes(set),
                Mutation::Replace { row, .. } | Mutation::Join { made: row, .. } => {
                    set_bytes(&row.set)
                }
            },
            Change::PutMeta { bytes, .. } => bytes.len(),
            Change::DropHints(hints) => hints.len() * OVERHEAD_BYTES,
            Change::Forget { items, .. } => items.len() * OVERHEAD_BYTES,
            Change::ForgetDamaged { keys, .. } => keys.len() * OVERHEAD_BYTES,
            Change::AddHints { .. } | Change::SetNumber(..) => 0,
        };
        payload + OVERHEAD_BYTES
    }
}

/// About how many bytes a set's values take.
pub fn set_bytes(set: &SiblingSet) -> usize {
    set.siblings()
        .map(|(_, version)| version.value.as_ref().map_or(0, Bytes::len))
        .sum()
}

/// What a transaction changes for those who look for rows, once it is committed.
#[derive(Default)]
pub struct Written {
    /// About how many pages changed.
    pub pages: u64,
    /// Rows that the index does not know.
    pub made: Vec<Unfiling>,
    /// Rows that the index knows now.
    pub filed: Vec<Unfiling>,
    /// Rows that went.
    pub gone: Vec<(Partition, ItemKey)>,
    /// Whether the index was asked for a row that it does not know.
    pub asked_in_vain: bool,
}

impl Written {
    /// Tells what was committed: new rows before, and rows that are filed or gone after
    /// snapshots that lack it count as fresh no more, which is what `flow` does.
    pub fn tell(self, unfiled: &Unfiled, flow: impl FnOnce()) {
        unfiled.add(self.made);
        flow();
        let filed = self.filed.iter().map(|row| (row.partition, &row.key));
        let gone = self.gone.iter().map(|(partition, key)| (*partition, key));
        unfiled.forget(filed.chain(gone));
    }
}
