//! Dots: the names of single writes.
//!
//! Promises: a dot is minted once and never again (the minting rules live in
//! `replica.rs`), dots are totally ordered, and their order is the same on every
//! node and inside reconcilers. From *Dotted Version Vectors* (Preguiça, Baquero,
//! Almeida, Fonte, Gonçalves, 2010), with the per-key actor epochs that Riak 2.1
//! introduced after its issue kv679.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::NodeId;

/// A fresh random number that tells one run of an actor's counter from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who mints: a node, for one item, in one epoch. A node that lost its memory of
/// an item mints under a new epoch, so its counter may safely begin again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    pub node: NodeId,
    pub epoch: Epoch,
}

impl Actor {
    /// The sixteen bytes that reconcilers see: they sort as actors do.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.node.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes
    }

    /// The actor that these bytes name.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Actor {
            node: NodeId((both >> 64) as u64),
            epoch: Epoch(both as u64),
        }
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{:016x}", self.node.0, self.epoch.0)
    }
}

// Epochs are random, so a variable-length integer would only make them longer:
// an actor travels as its sixteen bytes.
impl Serialize for Actor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 16]>::deserialize(deserializer).map(Actor::from_bytes)
    }
}

/// The name of one write. Counters begin at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    pub actor: Actor,
    pub counter: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.actor, self.counter)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self)
    }
}
