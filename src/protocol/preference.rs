//! Preference list: the nodes to ask for a partition, best first.
//!
//! Promises: a partition's own nodes in the layout's order (whose first places
//! are even), then clockwise the nodes of the partitions that follow, in their
//! order, each node once, until every node of the layout is named. The first N
//! are the table's primaries, the rest its fallbacks.
//!
//! Invariants: depends on nothing but the layout, so nodes that share a layout
//! agree. A table with N ≤ replicas uses the first N of the holders; one with
//! more goes on clockwise, where zones may repeat.
//!
//! Does not know who is alive, and remembers nothing: for the path of every
//! request there is `ring`.

use super::id::{NodeId, Partition};
use super::layout::Layout;

/// Primaries and fallbacks of a partition, for a table with `n` replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// Every node of the layout, the preferred first.
    pub nodes: Vec<NodeId>,
    /// How many of them are primaries: the table's N, or every node if there
    /// are fewer.
    pub n: usize,
}

impl Preference {
    /// The nodes that should hold the partition's items.
    pub fn primaries(&self) -> &[NodeId] {
        &self.nodes[..self.n]
    }

    /// The nodes that stand in for primaries, the first ones first.
    pub fn fallbacks(&self) -> &[NodeId] {
        &self.nodes[self.n..]
    }
}

/// The whole preference list of a partition, for a table with `n` replicas.
///
/// # Panics
/// If the layout has no such partition.
pub fn preference(layout: &Layout, partition: Partition, n: usize) -> Preference {
    let nodes: Vec<NodeId> = walk(layout, partition).collect();
    Preference {
        n: n.min(nodes.len()),
        nodes,
    }
}

/// The preference list of a partition, found step by step: for the rare caller
/// who must go on past the end of what `Ring` keeps.
///
/// # Panics
/// If the layout has no such partition.
pub fn walk(layout: &Layout, partition: Partition) -> impl Iterator<Item = NodeId> + '_ {
    let mut named = vec![false; layout.nodes().len()];
    let clockwise = (partition.0..layout.partitions()).chain(0..partition.0);
    clockwise
        .flat_map(|partition| layout.holder_indices(Partition(partition)))
        .filter(move |&&index| !std::mem::replace(&mut named[index as usize], true))
        .map(|&index| layout.nodes()[index as usize])
        // Ends with the last node, not after a walk around the whole ring.
        .take(layout.nodes().len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::protocol::layout::Candidate;

    fn layout(nodes: usize) -> Layout {
        let members: Vec<Candidate> = (0..nodes)
            .map(|number| Candidate {
                node: NodeId::of(&format!("n{number}")),
                weight_milli: 1000 + 500 * (number as u32 % 3),
                zone: Arc::from(format!("z{}", number % 4)),
            })
            .collect();
        Layout::founding(64, 3, members[0].clone()).next(&members)
    }

    #[test]
    fn names_holders_then_goes_clockwise_naming_each_node_once() {
        let layout = layout(12);
        for partition in (0..64).map(Partition) {
            let list = preference(&layout, partition, 2);
            // Said again the long way: all places from here on, repeats struck.
            let mut expected: Vec<NodeId> = Vec::new();
            for step in 0..64 {
                for node in layout.holders(Partition((partition.0 + step) % 64)) {
                    if !expected.contains(&node) {
                        expected.push(node);
                    }
                }
            }
            assert_eq!(list.nodes, expected);
            let holders: Vec<NodeId> = layout.holders(partition).collect();
            assert_eq!(list.primaries(), &holders[..2]);
            assert_eq!(list.fallbacks()[0], holders[2]);
            let distinct: BTreeSet<NodeId> = list.nodes.iter().copied().collect();
            assert_eq!(distinct.into_iter().collect::<Vec<_>>(), layout.nodes());
        }
    }

    #[test]
    fn caps_n_at_the_nodes_there_are() {
        assert_eq!(preference(&layout(1), Partition(7), 3).n, 1);
        assert_eq!(preference(&layout(2), Partition(7), 3).n, 2);
        let five = preference(&layout(12), Partition(7), 5);
        assert_eq!(five.primaries().len(), 5);
        assert_eq!(five.fallbacks().len(), 7);
    }
}
