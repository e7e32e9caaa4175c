//! Layout: which nodes hold which partition.
//!
//! Promises: each partition has `replicas` distinct holders (every node, if
//! there are fewer), in distinct zones while there are enough, else spread over
//! the zones as evenly as they allow. Each node holds its fair share: weights
//! water-filled, no node over Q replicas, no zone over Q while zones suffice,
//! rounded up or down to whole partitions. The next layout is a pure function
//! of the present one and the members, and moves close to the least that any
//! layout with these promises would move (`Layout::next` says how it is
//! measured).
//!
//! Invariants: a `Layout` is always valid, wherever its bytes came from:
//! decoding checks them. Its nodes ascend and each holds something. Holders are
//! listed in the order of preference, and first places are even: a node is
//! first for `1/replicas` of the partitions that it holds, to one partition.
//!
//! Does not know who is alive, who has synced which version, or who proposes:
//! `membership` does. Does not name fallbacks; `preference` does.
//!
//! Dynamo (SOSP 2007), section 6.2, strategy 3: equal partitions, placed apart
//! from how they are cut.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::id::{NodeId, Partition};

mod leads;
#[cfg(test)]
mod oracle;
mod polish;
mod repair;
mod shares;
#[cfg(test)]
mod tests;

/// The most partitions that a ring may be cut into.
pub const MAX_PARTITIONS: u32 = 1 << 16;
/// The most replicas that a layout may place.
pub const MAX_REPLICAS: u32 = 16;
/// The most nodes that a layout may use. Members beyond it, by order of id,
/// hold nothing.
pub const MAX_NODES: usize = u16::MAX as usize;

/// A member that should hold data, as the member list describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// How much, relative to the others, in thousandths. Zero: nothing.
    pub weight_milli: u32,
    /// What fails together. Nodes of one zone share its name.
    pub zone: Arc<str>,
}

/// Which nodes hold which partition.
///
/// As bytes, 256 partitions on 10 nodes take about 900 and 4,096 partitions on
/// 100 nodes about 13,000: a table of node ids, and an index into it per
/// replica.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Layout {
    version: u64,
    partitions: u32,
    replicas: u32,
    /// Ascending; each holds something.
    nodes: Vec<NodeId>,
    /// Indices into `nodes`, the same number per partition, partition by
    /// partition, in the order of preference.
    holders: Vec<u16>,
}

impl Layout {
    /// The layout of a cluster that was just born: its founder holds all of the
    /// ring, whatever its weight, and the version is 1.
    ///
    /// # Panics
    /// If `partitions` is no power of two up to `MAX_PARTITIONS`, or `replicas`
    /// is not in `1..=MAX_REPLICAS`: the configuration was not checked.
    pub fn founding(partitions: u32, replicas: u32, founder: Candidate) -> Layout {
        let layout = Layout {
            version: 1,
            partitions,
            replicas,
            nodes: vec![founder.node],
            holders: vec![0; partitions as usize],
        };
        layout
            .validate()
            .expect("partitions and replicas were checked with the configuration");
        layout
    }

    /// The layout that should follow this one when these are the members that
    /// may hold data. Does not depend on the order of `members`.
    ///
    /// Every node gets its fair share, rounded, at the price of few moves. What
    /// this is held to, the *ideal*, is the least number of replicas that any
    /// layout with the promises of this module has to hand to a new holder. With
    /// zones to spare or none it is what nodes lack: the sum, over all nodes, of
    /// how far the replicas held now fall short of the new share rounded down
    /// (or what must leave, where that is more). Zones can force more: two
    /// replicas in one zone must part when a third zone comes, and where zones
    /// are full, one node's need is met by what another zone must first give up.
    /// `oracle` computes it exactly; measured, this is within 1.10 of it, and
    /// mostly equal.
    ///
    /// If no member may hold data, the present holders keep theirs: data
    /// without an owner would be worse than data on a node that wants to go.
    pub fn next(&self, members: &[Candidate]) -> Layout {
        let mut next = self.clone();
        next.version += 1;
        let Some(plan) = shares::Plan::new(self.partitions, self.replicas, members) else {
            return next;
        };
        // The present holders, in the plan's numbering; those who left drop out.
        let number = |node| {
            plan.nodes
                .binary_search(node)
                .map_or(repair::NOBODY, |at| at as u16)
        };
        let numbers: Vec<u16> = self.nodes.iter().map(number).collect();
        let present: Vec<u16> = self
            .holders
            .iter()
            .map(|&holder| numbers[holder as usize])
            .collect();
        let holders = repair::place(&plan, &present);

        // Nodes that got nothing (there are more of them than replicas, or
        // their weight is tiny) are not named.
        let mut used = vec![false; plan.nodes.len()];
        holders
            .iter()
            .for_each(|&holder| used[holder as usize] = true);
        let mut numbers = vec![0; plan.nodes.len()];
        next.nodes.clear();
        for (index, &node) in plan
            .nodes
            .iter()
            .enumerate()
            .filter(|(index, _)| used[*index])
        {
            numbers[index] = next.nodes.len() as u16;
            next.nodes.push(node);
        }
        next.holders = holders
            .iter()
            .map(|&holder| numbers[holder as usize])
            .collect();
        next
    }

    /// Whether these members need no other layout: the next one would place
    /// everything as this one does.
    pub fn suits(&self, members: &[Candidate]) -> bool {
        self.same_places(&self.next(members))
    }

    /// Whether the other layout, whatever its version, has the same holders
    /// everywhere.
    pub fn same_places(&self, other: &Layout) -> bool {
        (self.partitions, self.replicas) == (other.partitions, other.replicas)
            && self.nodes == other.nodes
            && self.holders == other.holders
    }

    /// Grows by one with each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many partitions the ring is cut into, a power of two. Never changes.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// How many distinct nodes should hold each partition.
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    /// The distinct nodes that hold a partition, the preferred first:
    /// `replicas` of them, or every node that may hold data if there are fewer.
    ///
    /// # Panics
    /// If the partition is not below `partitions()`.
    pub fn holders(&self, partition: Partition) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.holder_indices(partition)
            .iter()
            .map(|&index| self.nodes[index as usize])
    }

    /// Whether the node holds the partition.
    pub fn is_holder(&self, node: NodeId, partition: Partition) -> bool {
        self.holders(partition).any(|holder| holder == node)
    }

    /// Every node that holds something, ascending.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The partitions that a node holds, ascending.
    pub fn partitions_of(&self, node: NodeId) -> impl Iterator<Item = Partition> + '_ {
        let index = self.nodes.binary_search(&node).ok();
        (0..self.partitions)
            .map(Partition)
            .filter(move |&partition| {
                index.is_some_and(|index| self.holder_indices(partition).contains(&(index as u16)))
            })
    }

    /// A digest of all of the content, to settle two proposals of one version:
    /// the greater (version, digest) wins. MD5, like everything on the ring;
    /// nobody gains by forging one.
    pub fn digest(&self) -> u128 {
        let mut hash = Md5::new();
        hash.update(self.version.to_be_bytes());
        hash.update(self.partitions.to_be_bytes());
        hash.update(self.replicas.to_be_bytes());
        hash.update((self.nodes.len() as u64).to_be_bytes());
        self.nodes
            .iter()
            .for_each(|node| hash.update(node.0.to_be_bytes()));
        self.holders
            .iter()
            .for_each(|holder| hash.update(holder.to_be_bytes()));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize());
        u128::from_be_bytes(bytes)
    }

    /// The holders of a partition as indices into `nodes()`.
    pub(super) fn holder_indices(&self, partition: Partition) -> &[u16] {
        let each = self.each();
        &self.holders[partition.0 as usize * each..][..each]
    }

    /// How many holders each partition has.
    fn each(&self) -> usize {
        self.holders.len() / self.partitions as usize
    }

    fn validate(&self) -> Result<(), LayoutError> {
        if !self.partitions.is_power_of_two() || self.partitions > MAX_PARTITIONS {
            return Err(LayoutError::Partitions(self.partitions));
        }
        if !(1..=MAX_REPLICAS).contains(&self.replicas) {
            return Err(LayoutError::Replicas(self.replicas));
        }
        if self.nodes.is_empty() || self.nodes.len() > MAX_NODES {
            return Err(LayoutError::Nodes);
        }
        if !self.nodes.is_sorted_by(|a, b| a < b) {
            return Err(LayoutError::Nodes);
        }
        // A layout made when no member may hold data keeps the holders of the
        // time before, so the rule holds for the nodes named here, always.
        // Fewer holders than nodes and replicas allow would be a replica lost.
        let each = self.holders.len() / self.partitions as usize;
        if each * self.partitions as usize != self.holders.len()
            || each != self.nodes.len().min(self.replicas as usize)
        {
            return Err(LayoutError::Holders(Partition(0)));
        }
        let mut used = vec![false; self.nodes.len()];
        for (number, holders) in self.holders.chunks_exact(each).enumerate() {
            for (place, &holder) in holders.iter().enumerate() {
                if holder as usize >= self.nodes.len() || holders[..place].contains(&holder) {
                    return Err(LayoutError::Holders(Partition(number as u32)));
                }
                used[holder as usize] = true;
            }
        }
        if used.contains(&false) {
            return Err(LayoutError::Nodes);
        }
        Ok(())
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Thousands of indices help nobody; the digest tells two layouts apart.
        f.debug_struct("Layout")
            .field("version", &self.version)
            .field("partitions", &self.partitions)
            .field("replicas", &self.replicas)
            .field("nodes", &self.nodes)
            .field("digest", &format_args!("{:032x}", self.digest()))
            .finish()
    }
}

/// What each member should hold, in partitions: the feasible fair share before
/// it is rounded, by ascending id. Members without weight are not listed.
pub fn fair_shares(partitions: u32, replicas: u32, members: &[Candidate]) -> Vec<(NodeId, f64)> {
    let Some(plan) = shares::Plan::new(partitions, replicas, members) else {
        return Vec::new();
    };
    let unit = f64::from(1u32 << shares::FRACTION_BITS);
    plan.nodes
        .iter()
        .zip(&plan.share)
        .map(|(&node, &share)| (node, share as f64 / unit))
        .collect()
}

/// A layout as its bytes claim it to be.
#[derive(Serialize, Deserialize)]
struct Unchecked {
    version: u64,
    partitions: u32,
    replicas: u32,
    nodes: Vec<NodeId>,
    holders: Vec<u16>,
}

impl From<Layout> for Unchecked {
    fn from(layout: Layout) -> Unchecked {
        let Layout {
            version,
            partitions,
            replicas,
            nodes,
            holders,
        } = layout;
        Unchecked {
            version,
            partitions,
            replicas,
            nodes,
            holders,
        }
    }
}

impl TryFrom<Unchecked> for Layout {
    type Error = LayoutError;

    fn try_from(unchecked: Unchecked) -> Result<Layout, LayoutError> {
        let Unchecked {
            version,
            partitions,
            replicas,
            nodes,
            holders,
        } = unchecked;
        let layout = Layout {
            version,
            partitions,
            replicas,
            nodes,
            holders,
        };
        layout.validate()?;
        Ok(layout)
    }
}

/// Why bytes are not a layout. The sender is broken or speaks another version:
/// drop what it sent and keep the layout at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The number of partitions is no power of two, or over `MAX_PARTITIONS`.
    Partitions(u32),
    /// The number of replicas is zero, or over `MAX_REPLICAS`.
    Replicas(u32),
    /// The nodes do not ascend, are none or too many, or one holds nothing.
    Nodes,
    /// A partition (the first that does) has too few or too many holders, one
    /// of them twice, or one that is not among the nodes.
    Holders(Partition),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayoutError::Partitions(number) => {
                write!(f, "a layout cannot have {number} partitions")
            }
            LayoutError::Replicas(number) => write!(f, "a layout cannot have {number} replicas"),
            LayoutError::Nodes => write!(f, "the nodes of a layout must ascend and hold something"),
            LayoutError::Holders(partition) => {
                write!(
                    f,
                    "partition {} of the layout has wrong holders",
                    partition.0
                )
            }
        }
    }
}

impl Error for LayoutError {}
