//! Where a node keeps its rows, hints and records: one trait, two stores, one
//! suite of tests for both.
//!
//! Promises of every store: a request is answered exactly once; a change is
//! answered only when it will survive what the durability promises; a row is
//! read as it was written or reported as damaged, never as absent; changes of
//! one item take effect in the order they were submitted, and a read sees every
//! change that was answered before the read was submitted. Of a change that is
//! not answered yet a read may see the outcome or not.
//!
//! The Merkle trees rely on two more: the answers about one partition's changes,
//! and to what takes its turn among them (`Derive`, `CountHintsOf`), come in the
//! order in which the changes were made; and every change of a row is told, once,
//! by the hashes of its state before and after. Both hold for changes; an answer
//! to a plain read may overtake them. A row that cannot be read stays as it is
//! under every change but `Mutation::Mend`.

pub mod memory;
pub mod row;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

use crate::protocol::effect::{StoreError, StoreReply, StoreRequest};

/// Takes the answer to a request. Called on a thread of the store's, or on the
/// one that submits when the answer is known at once: it must not block, nor
/// close the store. It may submit further requests.
pub type Done = Box<dyn FnOnce(Result<StoreReply, StoreError>) + Send>;

/// A node's store.
pub trait Store: Send + Sync + 'static {
    /// Starts a request. A store whose queue is full answers
    /// [`StoreError::Overloaded`] at once.
    fn submit(&self, request: StoreRequest, done: Done);

    /// Answers a read of one row ([`StoreRequest::Read`], [`StoreRequest::ReadState`])
    /// on the calling thread, where the store thinks that quicker than handing it to
    /// another one. None: submit it.
    fn read_now(&self, _request: &StoreRequest) -> Option<Result<StoreReply, StoreError>> {
        None
    }

    /// A number that changes whenever the store may have forgotten something:
    /// drawn when the store is made, and again after an unclean end under a
    /// durability that may lose commits.
    fn incarnation(&self) -> u64;

    /// Takes a fresh incarnation and stores it durably: the node learned from
    /// its peers that its memory is older than its deeds.
    fn renew_incarnation(&self, incarnation: u64) -> Result<(), StoreError>;

    /// Reads a named record of the node itself. Blocks: for start-up.
    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// What the store has done and how much waits.
    fn figures(&self) -> Figures;

    /// Finishes what was submitted, marks the end as clean, and closes. Later
    /// requests are refused.
    fn close(&self);
}

/// A store's figures, for `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests that wait for a writer.
    pub write_queue_depth: u64,
    /// Requests that wait for a reader.
    pub read_queue_depth: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Changes in them.
    pub changes: u64,
    /// Transactions by how many changes they held: up to 1, 2, 4, … 1024.
    pub batch_sizes: [u64; 11],
    /// Times that a stored row was found damaged, the same one each time.
    pub damaged_rows: u64,
    /// New rows that the indices do not know yet.
    pub unfiled_rows: u64,
    /// How long the logs are on the disk, together.
    pub log_bytes: u64,
}
