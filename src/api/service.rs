//! What the API asks of a node.
//!
//! [`Service`] mirrors the methods of [`Node`] that the API uses, one to one, so
//! that the API can be tested over a small node of its own. It promises nothing
//! that [`Node`] does not.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::node::dry_run::{Plan, Running};
use crate::node::{
    AdminError, ClusterView, ModuleFigures, Node, RingView, Tables, Trouble, Upload,
};
use crate::protocol::catalog::{Applied, Catalog, CatalogChange, Digest};
use crate::protocol::id::Partition;
use crate::protocol::message::{ItemRequest, Response};

/// A node, as its HTTP API sees it. See [`Node`] for what each method does.
pub trait Service: Send + Sync + 'static {
    /// The node's configured name.
    fn name(&self) -> &str;
    /// The tables as of now; cheap.
    fn tables(&self) -> Arc<Tables>;
    /// The catalog as of now; cheap.
    fn catalog(&self) -> Arc<Catalog>;
    /// Where an item of this table lies.
    fn partition(&self, table: &str, partition_key: &[u8]) -> Partition;
    /// Carries out a client's request. Answers within its `timeout_ms`.
    fn item(&self, item: ItemRequest) -> impl Future<Output = Response> + Send;
    /// Whether the node can serve, or why not yet.
    fn readiness(&self) -> Result<(), String>;
    /// What `GET /v1/cluster` shows.
    fn cluster_view(&self) -> ClusterView;
    /// What `GET /v1/cluster/ring/{table}/{partition_key}` shows.
    fn ring_view(&self, table: &str, partition_key: &[u8]) -> Option<RingView>;
    /// Changes tables or reconcilers, durably on a majority.
    fn publish(
        &self,
        change: CatalogChange,
        timeout_ms: u64,
    ) -> impl Future<Output = Result<Applied, AdminError>> + Send;
    /// Checks a module and makes it the current one of this name.
    fn add_reconciler(
        &self,
        name: &str,
        bytes: Bytes,
        accept_unlawful: bool,
        timeout_ms: u64,
    ) -> impl Future<Output = Result<Upload, AdminError>> + Send;
    /// Tries a module on what a table stores.
    fn dry_run(&self, plan: Plan) -> impl Future<Output = Result<Running, AdminError>> + Send;
    /// This node begins to leave the cluster.
    fn leave(&self) -> impl Future<Output = Result<(), AdminError>> + Send;
    /// Removes a dead member, by its name or id. Returns its name.
    fn remove_member(
        &self,
        member: &str,
    ) -> impl Future<Output = Result<String, AdminError>> + Send;
    /// The bytes of a module that this node holds.
    fn module_bytes(&self, digest: Digest) -> Option<Bytes>;
    /// How a module has fared on this node.
    fn module_health(&self, digest: Digest) -> ModuleFigures;
    /// What is wrong with modules on this node.
    fn troubles(&self) -> BTreeMap<Digest, Trouble>;
    /// Everything that `/metrics` shows.
    fn metrics_text(&self) -> String;
}

impl Service for Node {
    fn name(&self) -> &str {
        Node::name(self)
    }

    fn tables(&self) -> Arc<Tables> {
        Node::tables(self)
    }

    fn catalog(&self) -> Arc<Catalog> {
        Node::catalog(self)
    }

    fn partition(&self, table: &str, partition_key: &[u8]) -> Partition {
        Node::partition(self, table, partition_key)
    }

    async fn item(&self, item: ItemRequest) -> Response {
        Node::item(self, item).await
    }

    fn readiness(&self) -> Result<(), String> {
        Node::readiness(self)
    }

    fn cluster_view(&self) -> ClusterView {
        Node::cluster_view(self)
    }

    fn ring_view(&self, table: &str, partition_key: &[u8]) -> Option<RingView> {
        Node::ring_view(self, table, partition_key)
    }

    async fn publish(&self, change: CatalogChange, timeout_ms: u64) -> Result<Applied, AdminError> {
        Node::publish(self, change, timeout_ms).await
    }

    async fn add_reconciler(
        &self,
        name: &str,
        bytes: Bytes,
        accept_unlawful: bool,
        timeout_ms: u64,
    ) -> Result<Upload, AdminError> {
        Node::add_reconciler(self, name, bytes, accept_unlawful, timeout_ms).await
    }

    async fn dry_run(&self, plan: Plan) -> Result<Running, AdminError> {
        Node::dry_run(self, plan).await
    }

    async fn leave(&self) -> Result<(), AdminError> {
        Node::leave(self).await
    }

    async fn remove_member(&self, member: &str) -> Result<String, AdminError> {
        Node::remove_member(self, member).await
    }

    fn module_bytes(&self, digest: Digest) -> Option<Bytes> {
        Node::module_bytes(self, digest)
    }

    fn module_health(&self, digest: Digest) -> ModuleFigures {
        Node::module_health(self, digest)
    }

    fn troubles(&self) -> BTreeMap<Digest, Trouble> {
        Node::troubles(self)
    }

    fn metrics_text(&self) -> String {
        Node::metrics_text(self)
    }
}
