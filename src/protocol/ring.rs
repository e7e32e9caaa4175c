//! Ring: a layout made ready for the path of every request.
//!
//! Promises: answers who the primaries and first fallbacks of a partition are
//! without allocating, and the same as `preference` would.
//!
//! Invariants: one ring belongs to one layout and never changes; a new layout
//! gets a new ring. It is built in one pass, in time and memory proportional to
//! partitions × `MAX_PREFERENCE` (8 MiB for 65,536 partitions).
//!
//! Does not know who is alive.

use std::sync::Arc;

use super::id::{NodeId, Partition, Position};
use super::layout::{Layout, MAX_REPLICAS};
use super::preference;

/// How many nodes of a preference list are kept ready. A request gets past
/// them only if 16 nodes in a row are down, and then `Ring::walk` goes on: a
/// write is never refused for this bound. Keeping whole lists would take half a
/// gigabyte for 1,000 nodes and 65,536 partitions.
pub const MAX_PREFERENCE: usize = 16;
// The holders of a partition must fit.
const _: () = assert!(MAX_PREFERENCE >= MAX_REPLICAS as usize);

/// The preference lists of a layout.
#[derive(Clone, Debug)]
pub struct Ring {
    layout: Arc<Layout>,
    /// `kept` nodes per partition.
    lists: Box<[NodeId]>,
    kept: usize,
}

impl Ring {
    /// The ring of this layout.
    pub fn new(layout: Arc<Layout>) -> Ring {
        let partitions = layout.partitions() as usize;
        let kept = layout.nodes().len().min(MAX_PREFERENCE);
        let mut lists = vec![NodeId(0); partitions * kept];
        // The last list is walked. Each one before it is its own nodes and then
        // its successor's list without them: enough, as at most so many are
        // struck as were put in front. Walking for each would take a round of
        // the ring per partition when some node holds very little.
        let last = Partition(layout.partitions() - 1);
        let cells = &mut lists[(partitions - 1) * kept..];
        cells
            .iter_mut()
            .zip(preference::walk(&layout, last))
            .for_each(|(cell, node)| *cell = node);
        for at in (0..partitions - 1).rev() {
            let (head, successor) = lists.split_at_mut((at + 1) * kept);
            let cells = &mut head[at * kept..];
            let mut filled = 0;
            for node in layout.holders(Partition(at as u32)) {
                cells[filled] = node;
                filled += 1;
            }
            let own = filled;
            for &node in &successor[..kept] {
                if filled == kept {
                    break;
                }
                if !cells[..own].contains(&node) {
                    cells[filled] = node;
                    filled += 1;
                }
            }
            debug_assert_eq!(filled, kept);
        }
        Ring {
            layout,
            lists: lists.into(),
            kept,
        }
    }

    /// The layout that this is the ring of.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The partition that a position falls into.
    pub fn partition(&self, position: Position) -> Partition {
        position.partition(self.layout.partitions())
    }

    /// The head of the partition's preference list: `MAX_PREFERENCE` nodes, or
    /// all if there are fewer.
    ///
    /// # Panics
    /// If the layout has no such partition.
    pub fn preference(&self, partition: Partition) -> &[NodeId] {
        &self.lists[partition.0 as usize * self.kept..][..self.kept]
    }

    /// The primaries of the partition for a table with `n` replicas: so many
    /// nodes, or all if there are fewer. N is at most `MAX_PREFERENCE`.
    ///
    /// # Panics
    /// If the layout has no such partition.
    pub fn primaries(&self, partition: Partition, n: usize) -> &[NodeId] {
        debug_assert!(
            n <= MAX_PREFERENCE,
            "a table's N is checked when it is made"
        );
        &self.preference(partition)[..n.min(self.kept)]
    }

    /// The whole preference list, every node of the layout, found step by step.
    /// Allocates a flag per node.
    ///
    /// # Panics
    /// If the layout has no such partition.
    pub fn walk(&self, partition: Partition) -> impl Iterator<Item = NodeId> + '_ {
        preference::walk(&self.layout, partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::layout::Candidate;

    #[test]
    fn says_what_preference_says() {
        for nodes in [1, 2, 3, 5, 16, 17, 40] {
            let members: Vec<Candidate> = (0..nodes)
                .map(|number| Candidate {
                    node: NodeId::of(&format!("n{number}")),
                    // One node so light that it turns up in few lists early.
                    weight_milli: if number == 0 { 10 } else { 1000 },
                    zone: Arc::from(format!("z{}", number % 3)),
                })
                .collect();
            let layout = Layout::founding(128, 3, members[0].clone()).next(&members);
            let ring = Ring::new(Arc::new(layout.clone()));
            for partition in (0..128).map(Partition) {
                let whole = preference::preference(&layout, partition, 3);
                let head = whole.nodes.len().min(MAX_PREFERENCE);
                assert_eq!(ring.preference(partition), &whole.nodes[..head]);
                assert_eq!(ring.primaries(partition, 3), whole.primaries());
                assert_eq!(ring.walk(partition).collect::<Vec<_>>(), whole.nodes);
            }
        }
    }
}
