//! Members (types only so far).
use super::effect::Address;
use super::id::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Status {
    Joining,
    Up,
    Leaving,
    Removed,
}
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub node: NodeId,
    pub name: Arc<str>,
    pub incarnation: u64,
    pub status: Status,
    pub address: Address,
    pub weight_milli: u32,
    pub zone: Arc<str>,
    pub wire_version: u32,
    pub heartbeat: u64,
    pub layout_seen: u64,
    pub layout_synced: u64,
}
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Summary {
    pub cluster: Option<ClusterId>,
    pub members: Vec<(NodeId, u64)>,
    pub layout: (u64, u64),
    pub catalog: u64,
}
