//! Nodes that come and go, and whether what they hold is where it belongs.
//!
//! Promises: a node that left or was removed is never started again, and is not
//! counted; whoever is to be removed is removed as soon as some node takes it for
//! dead.

use super::disk::{held_hints, set_of};
use super::{NO_UPKEEP, World};
use crate::protocol::id::{ItemKey, Partition, Position};
use crate::protocol::machine::{Machine, Upkeep};
use crate::protocol::membership::Status;
use crate::protocol::merkle::Sum;

/// How a node stands to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Member,
    /// Was asked to leave, and hands over what it holds.
    Leaving,
    /// Is dead, and to be removed.
    Condemned,
    Gone,
}

impl World {
    /// A further node joins.
    pub fn join(&mut self) -> usize {
        let node = self.add();
        self.start(node);
        node
    }

    /// The machine of a node that runs.
    pub fn machine(&self, node: usize) -> Option<&Machine> {
        self.nodes[node].machine.as_ref()
    }

    /// Those that count: members that were not asked to go.
    pub fn members(&self) -> Vec<usize> {
        let standing = |node: &usize| self.nodes[*node].standing == Standing::Member;
        (0..self.nodes.len()).filter(standing).collect()
    }

    /// Whether the node left or was removed, and is of no more interest.
    pub fn is_gone(&self, node: usize) -> bool {
        self.nodes[node].standing == Standing::Gone
    }

    /// Asks a node to leave; false if it does not.
    pub fn leave(&mut self, node: usize) -> bool {
        let now = self.now(node);
        let Some(machine) = &mut self.nodes[node].machine else {
            return false;
        };
        let (result, effects) = machine.leave(now);
        self.carry_out(node, effects);
        if result.is_ok() {
            self.nodes[node].standing = Standing::Leaving;
        }
        result.is_ok()
    }

    /// Kills a node for good, to be removed by whoever misses it first.
    pub fn condemn(&mut self, node: usize) {
        if self.is_up(node) {
            self.crash(node);
        }
        self.nodes[node].standing = Standing::Condemned;
    }

    /// What a node's tick does about those that go.
    pub(super) fn bury(&mut self, by: usize) {
        let status = self.nodes[by].machine.as_ref();
        let status = status.map(|machine| machine.membership().me().status);
        if self.nodes[by].standing == Standing::Leaving && status == Some(Status::Removed) {
            self.nodes[by].standing = Standing::Gone;
        }
        if self.nodes[by].standing == Standing::Leaving && status == Some(Status::Up) {
            // It was killed before that was on its disk, and before anybody was
            // told: whoever asked asks again.
            self.leave(by);
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].standing != Standing::Condemned
                || self.nodes[by].standing != Standing::Member
            {
                continue;
            }
            let (now, id) = (self.now(by), self.node_id(node));
            let Some(machine) = &mut self.nodes[by].machine else {
                continue;
            };
            if machine.is_up(id) {
                continue;
            }
            let (result, effects) = machine.remove(now, id);
            self.carry_out(by, effects);
            if result.is_ok() {
                self.nodes[node].standing = Standing::Gone;
            }
        }
    }

    /// Sets how every node keeps its replicas.
    pub fn set_upkeep(&mut self, upkeep: Upkeep) {
        self.settings.upkeep = upkeep;
        for node in &mut self.nodes {
            if let Some(machine) = &mut node.machine {
                machine.set_upkeep(upkeep);
            }
        }
    }

    /// Whether every member serves, sees every other, and nobody is going.
    pub fn is_settled(&self) -> bool {
        self.unrest().is_none()
    }

    /// What keeps the cluster from being settled.
    pub fn unrest(&self) -> Option<String> {
        let members = self.members();
        for (node, sim) in self.nodes.iter().enumerate() {
            if matches!(sim.standing, Standing::Leaving | Standing::Condemned) {
                let holds = sim.machine.as_ref().map(|machine| {
                    let status = machine.membership().me().status;
                    (status, machine.strays(), machine.counters().hints_held)
                });
                return Some(format!(
                    "n{node} is {:?}; its status, strays and hints: {holds:?}",
                    sim.standing
                ));
            }
        }
        for &node in &members {
            let Some(machine) = self.machine(node) else {
                return Some(format!("n{node} is down"));
            };
            if let Err(why) = machine.readiness() {
                return Some(format!("n{node} is not ready: {why}"));
            }
            let read = machine.reading_ring().map(|ring| ring.layout().clone());
            if read.is_none_or(|layout| layout.nodes().len() != members.len())
                || machine.writing_rings().len() != 1
                || !machine.membership().is_filled()
            {
                let written: Vec<u64> = machine
                    .writing_rings()
                    .iter()
                    .map(|ring| ring.layout().version())
                    .collect();
                let of = |member: &crate::protocol::membership::Member| {
                    (
                        member.name.clone(),
                        member.status,
                        member.layout_seen,
                        member.layout_synced,
                        member.layout_read,
                    )
                };
                let list: Vec<_> = machine.membership().members().map(of).collect();
                return Some(format!(
                    "n{node} writes to {written:?}, is filled: {}, wants to be synced to {:?}, \
                     transfers {:?}, and knows {list:?}",
                    machine.membership().is_filled(),
                    machine.membership().sync_wanted(),
                    machine.transfers(),
                ));
            }
            for &other in &members {
                if !machine.is_up(self.node_id(other)) {
                    return Some(format!("n{node} takes n{other} for down"));
                }
            }
        }
        None
    }

    /// How many hints all members hold together.
    pub fn hints(&self) -> usize {
        let held = |&node: &usize| match held_hints(&self.nodes[node].disk.store) {
            Ok(count) => count as usize,
            Err(error) => panic!("memory does not fail: {error}"),
        };
        self.members().iter().map(held).sum()
    }

    /// What keeps the replicas from being alike as far as their trees tell; none
    /// when all trees are known, equal, and nowhere but where they belong.
    pub fn disagreement(&self) -> Option<String> {
        let members = self.members();
        let machines: Vec<(usize, &Machine)> = members
            .iter()
            .filter_map(|&node| Some((node, self.machine(node)?)))
            .collect();
        for (node, machine) in &machines {
            if !machine.trees().all_known() {
                return Some(format!("n{node} has not made its trees"));
            }
            let store = &self.nodes[*node].disk.store;
            if let Some((_, key)) = store.damaged().first() {
                return Some(format!("n{node} has {key:?} damaged"));
            }
            if !machine.is_at_rest() {
                return Some(format!("n{node} exchanges"));
            }
            if machine.strays() > 0 {
                return Some(format!("n{node} holds {} strays", machine.strays()));
            }
        }
        if self.settings.upkeep == NO_UPKEEP {
            return None;
        }
        let (_, first) = machines.first()?;
        let ring = first.ring()?;
        for partition in (0..ring.layout().partitions()).map(Partition) {
            for class in 1..=5u8 {
                let owners = ring.primaries(partition, class as usize);
                let roots: Vec<(usize, Option<(Sum, u64)>)> = machines
                    .iter()
                    .filter(|(node, _)| owners.contains(&self.node_id(*node)))
                    .map(|(node, machine)| (*node, machine.trees().root(partition, class)))
                    .collect();
                if roots.iter().any(|(_, root)| *root != roots[0].1) {
                    return Some(format!(
                        "the trees of {partition:?} for n={class} differ: {roots:?}"
                    ));
                }
            }
        }
        None
    }

    /// Makes an item's row unreadable on one node; false when it has none.
    pub fn damage(&mut self, node: usize, table: &str, key: &[u8]) -> bool {
        let Some((partition, key)) = self.place(table, key) else {
            return false;
        };
        self.nodes[node].disk.store.damage(partition, &key)
    }

    /// Makes one of a node's rows unreadable, by this choice; false when there is
    /// none, or no other copy of it.
    pub(super) fn damage_any(&mut self, node: usize, choice: u64) -> bool {
        let store = &self.nodes[node].disk.store;
        let rows = store.rows();
        let Some((partition, key, row)) = rows.get(choice as usize % rows.len().max(1)) else {
            return false;
        };
        // With the only copy gone nothing could be promised.
        let again = (0..self.nodes.len()).any(|other| {
            let copy = self.nodes[other].disk.store.row(*partition, key);
            other != node && copy.is_some_and(|copy| copy.set == row.set)
        });
        again && store.damage(*partition, key)
    }

    pub(super) fn place(&self, table: &str, key: &[u8]) -> Option<(Partition, ItemKey)> {
        let machine = self.nodes.iter().find_map(|sim| sim.machine.as_ref())?;
        let id = machine.tables().get(table)?.id;
        let partition = machine.ring()?.partition(Position::of(table, key));
        Some((partition, ItemKey::new(id, key, None)))
    }

    /// Whether a node's store has a row of this item, readable or not.
    pub fn has_row(&self, node: usize, table: &str, key: &[u8]) -> bool {
        let Some((partition, key)) = self.place(table, key) else {
            return false;
        };
        let set = set_of(&self.nodes[node].disk.store, partition, &key);
        set.map_or(true, |set| !set.is_empty())
    }
}
