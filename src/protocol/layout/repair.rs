//! Repair: from the present holders and a plan to the next holders.
//!
//! Promises: every node ends with exactly its target, every partition with its
//! full number of distinct holders, within the limits of each zone. What can be
//! kept is kept; a replica moves only to fill a hole, to relieve a node, or as
//! a link of the shortest chain that does either; `polish` then takes back what
//! proved needless.
//!
//! The shape of it is a flow from the partitions through their zones to the
//! nodes. Whole targets that respect the limits can always be met (take every
//! replica of a node spread evenly over all partitions, a fractional flow; a
//! network with whole capacities then has a whole one too), so a chain that
//! mends a hole or relieves a node exists as long as there is one: the search
//! for it cannot fail, and a failure is a bug.
//!
//! Does not read clocks or dice: where nodes are equally good, a hash of
//! partition and node decides, so that neighbours on the ring do not all share
//! the same holders, and a lost node's work falls on many.

use std::collections::VecDeque;

use super::leads;
use super::shares::{FRACTION_BITS, Plan};

/// A replica without a holder, and "nobody" elsewhere.
pub(super) const NOBODY: u16 = u16::MAX;

/// The holders of every partition, `plan.each` indices into `plan.nodes` per
/// partition, in the order of preference. `present` holds the present ones, the
/// same number for each partition, with nobody in place of a node that left.
pub(super) fn place(plan: &Plan, present: &[u16]) -> Vec<u16> {
    let mut table = Table::new(plan, present);
    table.keep();
    table.target = plan.targets(&table.held);
    table.fill_holes();
    table.relieve();
    table.chains();
    table.polish();
    let leads = table
        .partitions()
        .map(|partition| table.present(partition)[0])
        .collect();
    leads::order(plan, table.cells, leads)
}

/// Which nodes hold which partitions, as a bit for each pair.
pub(super) struct Pairs {
    words: usize,
    bits: Vec<u64>,
}

impl Pairs {
    pub(super) fn new(nodes: usize, partitions: usize) -> Pairs {
        let words = partitions.div_ceil(64);
        Pairs {
            words,
            bits: vec![0; nodes * words],
        }
    }

    pub(super) fn contains(&self, node: u16, partition: usize) -> bool {
        self.bits[node as usize * self.words + partition / 64] >> (partition % 64) & 1 == 1
    }

    pub(super) fn insert(&mut self, node: u16, partition: usize) {
        self.bits[node as usize * self.words + partition / 64] |= 1 << (partition % 64);
    }

    fn remove(&mut self, node: u16, partition: usize) {
        self.bits[node as usize * self.words + partition / 64] &= !(1 << (partition % 64));
    }

    /// The partitions of a node, ascending.
    pub(super) fn of(&self, node: u16) -> impl Iterator<Item = usize> + '_ {
        let words = &self.bits[node as usize * self.words..][..self.words];
        words.iter().enumerate().flat_map(|(at, &word)| {
            std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)))
                .take_while(|&word| word != 0)
                .map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }
}

/// Where a chain begins.
enum Start {
    /// A partition that lacks a holder.
    Hole(usize),
    /// A node that holds too much.
    Node(u16),
}

/// One link of a chain: `partition` goes to `to`, from `from` or out of a hole.
#[derive(Clone, Copy)]
struct Link {
    partition: usize,
    from: u16,
    to: u16,
}

/// The layout in the making. Nodes and zones are the plan's indices.
pub(super) struct Table<'a> {
    plan: &'a Plan,
    /// The holders before any change, lead first.
    present: &'a [u16],
    /// `plan.each` nodes per partition, in no order, `NOBODY` for a hole.
    cells: Vec<u16>,
    pub(super) now: Pairs,
    /// What was held before any change.
    pub(super) before: Pairs,
    pub(super) held: Vec<u32>,
    pub(super) target: Vec<u32>,
}

impl<'a> Table<'a> {
    fn new(plan: &'a Plan, present: &'a [u16]) -> Table<'a> {
        let (nodes, partitions) = (plan.nodes.len(), plan.partitions as usize);
        let mut table = Table {
            plan,
            present,
            cells: vec![NOBODY; partitions * plan.each],
            now: Pairs::new(nodes, partitions),
            before: Pairs::new(nodes, partitions),
            held: vec![0; nodes],
            target: vec![0; nodes],
        };
        for partition in table.partitions() {
            for &node in table
                .present(partition)
                .iter()
                .filter(|&&node| node != NOBODY)
            {
                table.before.insert(node, partition);
                table.held[node as usize] += 1;
            }
        }
        table
    }

    /// The present holders of a partition, the lead first, `NOBODY` for those
    /// who left the cluster.
    fn present(&self, partition: usize) -> &'a [u16] {
        let each = self.present.len() / self.plan.partitions as usize;
        &self.present[partition * each..][..each]
    }

    /// Those who held the partition before any change and do not now.
    pub(super) fn left(&self, partition: usize) -> impl Iterator<Item = u16> + '_ {
        let present = self.present(partition).iter().copied();
        present.filter(move |&node| node != NOBODY && !self.now.contains(node, partition))
    }

    pub(super) fn partitions(&self) -> std::ops::Range<usize> {
        0..self.plan.partitions as usize
    }

    fn cells(&self, partition: usize) -> &[u16] {
        &self.cells[partition * self.plan.each..][..self.plan.each]
    }

    pub(super) fn holders(&self, partition: usize) -> impl Iterator<Item = u16> + '_ {
        self.cells(partition)
            .iter()
            .copied()
            .filter(|&node| node != NOBODY)
    }

    fn holes(&self, partition: usize) -> usize {
        self.plan.each - self.holders(partition).count()
    }

    fn zone(&self, node: u16) -> usize {
        self.plan.zone[node as usize]
    }

    /// How many replicas of the partition are in the zone.
    fn in_zone(&self, partition: usize, zone: usize) -> u32 {
        self.holders(partition)
            .filter(|&node| self.zone(node) == zone)
            .count() as u32
    }

    /// How many of the partition's holes are bespoken for zones that have fewer
    /// than their least.
    fn bespoken(&self, partition: usize) -> u32 {
        let zones = self
            .plan
            .zones
            .iter()
            .enumerate()
            .filter(|(_, zone)| zone.least > 0);
        zones
            .map(|(at, zone)| zone.least.saturating_sub(self.in_zone(partition, at)))
            .sum()
    }

    pub(super) fn replace(&mut self, partition: usize, from: u16, to: u16) {
        let each = self.plan.each;
        let cells = &mut self.cells[partition * each..][..each];
        let cell = cells
            .iter_mut()
            .find(|cell| **cell == from)
            .expect("replaces what is there");
        *cell = to;
        if from != NOBODY {
            self.now.remove(from, partition);
            self.held[from as usize] -= 1;
        }
        if to != NOBODY {
            self.now.insert(to, partition);
            self.held[to as usize] += 1;
        }
    }

    /// Whether the node may have one of the partition's holes.
    fn may_fill(&self, partition: usize, to: u16) -> bool {
        if self.now.contains(to, partition) {
            return false;
        }
        let zone = self.zone(to);
        let bounds = self.plan.zones[zone];
        let there = self.in_zone(partition, zone);
        there < bounds.most
            && (there < bounds.least || (self.bespoken(partition) as usize) < self.holes(partition))
    }

    /// Whether the partition may go from one node, which has it, to another.
    pub(super) fn may_pass(&self, partition: usize, from: u16, to: u16) -> bool {
        !self.now.contains(to, partition)
            && self.may_cross(partition, self.zone(from), self.zone(to))
    }

    /// Whether the partition may go from a node of one zone to one of another.
    fn may_cross(&self, partition: usize, left: usize, entered: usize) -> bool {
        left == entered
            || (self.in_zone(partition, left) > self.plan.zones[left].least
                && self.in_zone(partition, entered) < self.plan.zones[entered].most)
    }

    /// Keeps each present holder that the limits of the zones allow. Where one
    /// has to go, it is the one that holds most beyond its share.
    fn keep(&mut self) {
        let mut kept = Vec::new();
        for partition in self.partitions() {
            kept.clear();
            kept.extend(
                self.present(partition)
                    .iter()
                    .filter(|&&node| node != NOBODY),
            );
            while let Some(at) = self.unfit(&kept) {
                self.held[kept.swap_remove(at) as usize] -= 1;
            }
            for (place, &node) in kept.iter().enumerate() {
                self.cells[partition * self.plan.each + place] = node;
                self.now.insert(node, partition);
            }
        }
    }

    /// Which of a partition's holders has to go, if one has.
    fn unfit(&self, kept: &[u16]) -> Option<usize> {
        let there = |zone| kept.iter().filter(|&&node| self.zone(node) == zone).count() as u32;
        let zones = &self.plan.zones;
        let bespoken: u32 = (0..zones.len())
            .filter(|&zone| zones[zone].least > 0)
            .map(|zone| zones[zone].least.saturating_sub(there(zone)))
            .sum();
        let crowded = kept.len() + bespoken as usize > self.plan.each;
        let excess = |at: &usize| {
            let node = kept[*at] as usize;
            let held = i64::from(self.held[node]) << FRACTION_BITS;
            (held - self.plan.share[node] as i64, node)
        };
        let over = |at: &usize| there(self.zone(kept[*at])) > zones[self.zone(kept[*at])].most;
        let spare = |at: &usize| there(self.zone(kept[*at])) > zones[self.zone(kept[*at])].least;
        (0..kept.len()).filter(over).max_by_key(excess).or_else(|| {
            (0..kept.len())
                .filter(|at| crowded && spare(at))
                .max_by_key(excess)
        })
    }

    /// How many more each zone should hold.
    fn zone_room(&self) -> Vec<i64> {
        let mut room = vec![0; self.plan.zones.len()];
        for (node, &zone) in self.plan.zone.iter().enumerate() {
            room[zone] += i64::from(self.target[node]) - i64::from(self.held[node]);
        }
        room
    }

    /// Nodes with room, ascending.
    fn short(&self) -> Vec<u16> {
        (0..self.held.len() as u16)
            .filter(|&node| self.has_room(node))
            .collect()
    }

    /// Whether the node's share, rounded, may be one more.
    pub(super) fn may_round_up(&self, node: u16) -> bool {
        let target = u64::from(self.target[node as usize]);
        target << FRACTION_BITS < self.plan.share[node as usize]
    }

    /// Whether the node's share, rounded, may be one less.
    pub(super) fn may_round_down(&self, node: u16) -> bool {
        let target = u64::from(self.target[node as usize]);
        target << FRACTION_BITS > self.plan.share[node as usize]
    }

    fn has_room(&self, node: u16) -> bool {
        self.held[node as usize] < self.target[node as usize]
    }

    /// The neediest of the nodes that would do: its zone lacks most, then it
    /// lacks most itself. Serving the neediest first leaves no need that only a
    /// few partitions could meet.
    fn neediest(
        &self,
        partition: usize,
        short: &[u16],
        zone_room: &[i64],
        may: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let mut best: Option<((i64, u32), u64, u16)> = None;
        for &node in short {
            let index = node as usize;
            let need = (
                zone_room[self.zone(node)],
                self.target[index] - self.held[index],
            );
            // Most lose here, before the costlier questions.
            if best.is_some_and(|(most, _, _)| need < most) || !may(node) {
                continue;
            }
            let die = mix(self.plan.nodes[index].0 ^ mix(partition as u64));
            if best.is_none_or(|(most, highest, _)| (need, die) > (most, highest)) {
                best = Some((need, die, node));
            }
        }
        best.map(|(_, _, node)| node)
    }

    /// Gives holes to nodes with room.
    fn fill_holes(&mut self) {
        let (mut short, mut zone_room) = (self.short(), self.zone_room());
        for partition in self.partitions() {
            for _ in 0..self.holes(partition) {
                let may = |node| self.may_fill(partition, node);
                let Some(to) = self.neediest(partition, &short, &zone_room, may) else {
                    break;
                };
                self.replace(partition, NOBODY, to);
                zone_room[self.zone(to)] -= 1;
                if !self.has_room(to) {
                    short.retain(|&node| node != to);
                }
            }
        }
    }

    /// Takes what nodes hold too much and gives it to nodes with room.
    fn relieve(&mut self) {
        let (mut short, mut zone_room) = (self.short(), self.zone_room());
        for from in 0..self.held.len() as u16 {
            let index = from as usize;
            if self.held[index] <= self.target[index] || short.is_empty() {
                continue;
            }
            // In an order of its own, or every node would give away the
            // partitions at the beginning of the ring.
            let mut partitions: Vec<usize> = self.now.of(from).collect();
            partitions.sort_by_key(|&at| mix(self.plan.nodes[index].0 ^ mix(at as u64)));
            for partition in partitions {
                if self.held[index] == self.target[index] {
                    break;
                }
                let may = |node| self.may_pass(partition, from, node);
                let Some(to) = self.neediest(partition, &short, &zone_room, may) else {
                    continue;
                };
                self.replace(partition, from, to);
                zone_room[self.zone(to)] -= 1;
                zone_room[self.zone(from)] += 1;
                if !self.has_room(to) {
                    short.retain(|&node| node != to);
                }
            }
        }
    }

    /// Mends what no single move could: partitions pass along chains.
    fn chains(&mut self) {
        for partition in self.partitions() {
            for _ in 0..self.holes(partition) {
                self.chain(Start::Hole(partition));
            }
        }
        for node in 0..self.held.len() as u16 {
            while self.held[node as usize] > self.target[node as usize] {
                self.chain(Start::Node(node));
            }
        }
    }

    /// Lets partitions pass along the shortest chain from `start` to a node with
    /// room. All of its links can be applied: if one partition occurred twice,
    /// and one of the two links barred the other, then its first holder in the
    /// chain could pass it to its last, and the chain were shorter.
    fn chain(&mut self, start: Start) {
        let links = self.search(start).expect("whole targets can be met");
        for Link {
            partition,
            from,
            to,
        } in links
        {
            self.replace(partition, from, to);
        }
    }

    /// The shortest chain, its first link first.
    fn search(&self, start: Start) -> Option<Vec<Link>> {
        let nodes = self.held.len() as u16;
        // The link by which each node was reached.
        let mut came: Vec<Option<Link>> = vec![None; self.held.len()];
        // By zone: where a zone is full, most partitions can enter none of its
        // nodes, and that is asked once.
        let mut unreached: Vec<Vec<u16>> = vec![Vec::new(); self.plan.zones.len()];
        (0..nodes).for_each(|node| unreached[self.zone(node)].push(node));
        let mut queue = VecDeque::new();
        match start {
            Start::Node(node) => {
                unreached[self.zone(node)].retain(|&other| other != node);
                queue.push_back(node);
            }
            Start::Hole(partition) => {
                for to in (0..nodes).filter(|&to| self.may_fill(partition, to)) {
                    came[to as usize] = Some(Link {
                        partition,
                        from: NOBODY,
                        to,
                    });
                    unreached[self.zone(to)].retain(|&other| other != to);
                    queue.push_back(to);
                }
            }
        }
        while let Some(from) = queue.pop_front() {
            if self.has_room(from) {
                let back = |link: &Link| came.get(link.from as usize).copied().flatten();
                let mut links: Vec<Link> =
                    std::iter::successors(came[from as usize], back).collect();
                links.reverse();
                return Some(links);
            }
            for partition in self.now.of(from) {
                for (entered, nodes) in unreached.iter_mut().enumerate() {
                    if nodes.is_empty() || !self.may_cross(partition, self.zone(from), entered) {
                        continue;
                    }
                    nodes.retain(|&to| {
                        let holds = self.now.contains(to, partition);
                        if !holds {
                            came[to as usize] = Some(Link {
                                partition,
                                from,
                                to,
                            });
                            queue.push_back(to);
                        }
                        holds
                    });
                }
            }
        }
        None
    }
}

/// The finaliser of SplitMix64: what a pure function has for dice.
fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
