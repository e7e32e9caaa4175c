//! A node: the machine and the ports that carry out its effects.
//!
//! (Signatures first; the bodies follow.)

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::catalog::{Catalog, Digest, ModuleInfo, Table, TableDefinition};
use crate::protocol::id::{Partition, Position};
use crate::protocol::message::{ItemRequest, Refusal, Response};

/// The tables that exist, by name, with everything resolved.
pub type Tables = BTreeMap<Arc<str>, Arc<Table>>;

/// One running node.
pub struct Node {}

/// What `GET /v1/cluster` shows.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub node: Arc<str>,
    pub cluster: Option<String>,
    pub layout_version: u64,
    pub members: Vec<MemberView>,
    /// Partitions with fewer live holders than they should have.
    pub under_replicated: u64,
}

/// One member as this node sees it.
#[derive(Clone, Debug)]
pub struct MemberView {
    pub node: Arc<str>,
    pub address: Arc<str>,
    /// joining, up, leaving or removed.
    pub status: &'static str,
    pub up: bool,
    pub zone: Arc<str>,
    pub weight: f64,
    pub partitions: u64,
    /// Hints that this node holds for it.
    pub hints: u64,
    /// How far its clock is ahead of ours, as gossip shows; none before the first.
    pub clock_offset_us: Option<i64>,
}

/// What `GET /v1/cluster/ring/{table}/{partition_key}` shows.
#[derive(Clone, Debug)]
pub struct RingView {
    pub position: Position,
    pub partition: Partition,
    /// Names in order; the first `n` are primaries.
    pub preference: Vec<PreferenceView>,
}

/// One place of a preference list.
#[derive(Clone, Debug)]
pub struct PreferenceView {
    pub node: Arc<str>,
    pub address: Arc<str>,
    pub up: bool,
    pub primary: bool,
}

/// What an upload came to.
#[derive(Clone, Debug)]
pub struct Upload {
    pub module: ModuleInfo,
    /// False when the same bytes were current already.
    pub created: bool,
}

/// Why a definition or module was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    /// 422 `invalid_table`.
    #[error("{0}")]
    InvalidTable(String),
    /// 422 `invalid_module`.
    #[error("{0}")]
    InvalidModule(String),
    /// 422 `law_violated`; the JSON describes the counterexample.
    #[error("{text}")]
    LawViolated {
        text: String,
        counterexample: serde_json::Value,
    },
    /// 404.
    #[error("no table has this name")]
    NoSuchTable,
    #[error("no reconciler has this name or digest")]
    NoSuchReconciler,
    /// 503 and others.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// How a module has fared on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModuleHealth {
    pub folds: u64,
    pub failures: u64,
}

impl Node {
    /// The node's configured name.
    pub fn name(&self) -> &str {
        todo!()
    }

    /// The tables as of now; cheap.
    pub fn tables(&self) -> Arc<Tables> {
        todo!()
    }

    /// The catalog as of now; cheap.
    pub fn catalog(&self) -> Arc<Catalog> {
        todo!()
    }

    /// Where an item of this table lies.
    pub fn partition(&self, _table: &str, _partition_key: &[u8]) -> Partition {
        todo!()
    }

    /// Carries out a client's request.
    pub async fn item(&self, _item: ItemRequest) -> Response {
        todo!()
    }

    /// Whether the node can serve, or why not yet.
    pub fn readiness(&self) -> Result<(), String> {
        todo!()
    }

    pub fn cluster_view(&self) -> ClusterView {
        todo!()
    }

    pub fn ring_view(&self, _table: &str, _partition_key: &[u8]) -> RingView {
        todo!()
    }

    /// Makes or changes a table. True when it is new.
    pub async fn set_table(
        &self,
        _name: &str,
        _definition: TableDefinition,
    ) -> Result<bool, AdminError> {
        todo!()
    }

    pub async fn delete_table(&self, _name: &str) -> Result<(), AdminError> {
        todo!()
    }

    /// Checks a module and makes it the current one of this name.
    pub async fn add_reconciler(
        &self,
        _name: &str,
        _bytes: Bytes,
        _accept_unlawful: bool,
    ) -> Result<Upload, AdminError> {
        todo!()
    }

    pub async fn roll_back_reconciler(
        &self,
        _name: &str,
        _digest: Digest,
    ) -> Result<(), AdminError> {
        todo!()
    }

    /// The bytes of a module that this node holds.
    pub fn module_bytes(&self, _digest: Digest) -> Option<Bytes> {
        todo!()
    }

    pub fn module_health(&self, _digest: Digest) -> ModuleHealth {
        todo!()
    }

    /// Everything that `/metrics` shows, as Prometheus text.
    pub fn metrics_text(&self) -> String {
        todo!()
    }
}
