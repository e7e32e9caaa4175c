//! Leads: which holder of each partition comes first.
//!
//! Promises: a node comes first in `1/replicas` of the partitions that it
//! holds, rounded up or down, and a lead that can stay stays. Rotating by the
//! partition's number would be even only on average: with 8 partitions a node,
//! one in twenty would come first nowhere.
//!
//! Leads pass along the shortest chain of partitions from a node with too many,
//! or to a node with too few. As with places (see `repair`) the chain exists
//! because whole leads can be met: a node that led each of its partitions for
//! `1/replicas` would lead exactly its share. Which way a share is rounded must
//! stay open, though: where few partitions tie a group of nodes to the others,
//! the group has as many leads as it has partitions.
//!
//! Does not move data: which nodes hold a partition is settled before.

use std::collections::VecDeque;

use super::repair::NOBODY;
use super::shares::Plan;

/// Puts each partition's holders in the order of preference: ascending, rotated
/// until its lead comes first. `present` are the leads of the present layout.
pub(super) fn order(plan: &Plan, mut holders: Vec<u16>, present: Vec<u16>) -> Vec<u16> {
    let mut leads = Leads::new(plan, &holders, present);
    leads.even_out();
    let lead = leads.lead;
    for (holders, lead) in holders.chunks_exact_mut(plan.each).zip(lead) {
        holders.sort_unstable();
        holders.rotate_left(
            holders
                .iter()
                .position(|&node| node == lead)
                .expect("leads hold"),
        );
    }
    holders
}

struct Leads<'a> {
    each: usize,
    holders: &'a [u16],
    /// The lead of each partition.
    lead: Vec<u16>,
    /// What each node leads.
    partitions: Vec<Vec<u32>>,
    led: Vec<u32>,
    /// How many each node holds.
    held: Vec<u32>,
}

impl<'a> Leads<'a> {
    fn new(plan: &Plan, holders: &'a [u16], present: Vec<u16>) -> Leads<'a> {
        let (each, nodes) = (plan.each, plan.nodes.len());
        let mut held = vec![0u32; nodes];
        holders.iter().for_each(|&node| held[node as usize] += 1);

        let mut lead = present;
        let mut led = vec![0u32; nodes];
        for (lead, holders) in lead.iter_mut().zip(holders.chunks_exact(each)) {
            if holders.contains(lead) {
                led[*lead as usize] += 1;
            } else {
                *lead = NOBODY;
            }
        }
        for (lead, holders) in lead.iter_mut().zip(holders.chunks_exact(each)) {
            if *lead == NOBODY {
                let ahead = |&node: &u16| {
                    let index = node as usize;
                    (
                        i64::from(led[index]) * each as i64 - i64::from(held[index]),
                        node,
                    )
                };
                *lead = holders
                    .iter()
                    .copied()
                    .min_by_key(ahead)
                    .expect("someone holds it");
                led[*lead as usize] += 1;
            }
        }

        let mut partitions = vec![Vec::new(); nodes];
        for (partition, &lead) in lead.iter().enumerate() {
            partitions[lead as usize].push(partition as u32);
        }
        Leads {
            each,
            holders,
            lead,
            partitions,
            led,
            held,
        }
    }

    /// The fewest and the most that a node should lead.
    fn range(&self, node: u16) -> (u32, u32) {
        let (held, each) = (self.held[node as usize], self.each as u32);
        (held / each, held.div_ceil(each))
    }

    fn even_out(&mut self) {
        let nodes = self.led.len() as u16;
        for node in 0..nodes {
            while self.led[node as usize] > self.range(node).1 {
                self.pass_on(vec![node], |leads, end| {
                    leads.led[end as usize] < leads.range(end).1
                });
            }
        }
        for node in 0..nodes {
            while self.led[node as usize] < self.range(node).0 {
                let spare = |&other: &u16| self.led[other as usize] > self.range(other).0;
                let starts = (0..nodes).filter(spare).collect();
                self.pass_on(starts, |_, end| end == node);
            }
        }
    }

    /// One lead of one of the `starts` goes, along the shortest chain, to a node
    /// that will do for an end.
    fn pass_on(&mut self, starts: Vec<u16>, is_end: impl Fn(&Self, u16) -> bool) {
        // How each node was reached: from whom, by which partition.
        let mut came: Vec<Option<(u16, u32)>> = vec![None; self.led.len()];
        let mut reached = vec![false; self.led.len()];
        starts
            .iter()
            .for_each(|&start| reached[start as usize] = true);
        let mut queue = VecDeque::from(starts);
        while let Some(from) = queue.pop_front() {
            for &partition in &self.partitions[from as usize] {
                for &to in &self.holders[partition as usize * self.each..][..self.each] {
                    if std::mem::replace(&mut reached[to as usize], true) {
                        continue;
                    }
                    came[to as usize] = Some((from, partition));
                    if is_end(self, to) {
                        self.apply(to, &came);
                        return;
                    }
                    queue.push_back(to);
                }
            }
        }
        unreachable!("whole leads can always be met");
    }

    fn apply(&mut self, end: u16, came: &[Option<(u16, u32)>]) {
        self.led[end as usize] += 1;
        let mut to = end;
        while let Some((from, partition)) = came[to as usize] {
            self.lead[partition as usize] = to;
            self.partitions[from as usize].retain(|&led| led != partition);
            self.partitions[to as usize].push(partition);
            to = from;
        }
        self.led[to as usize] -= 1;
    }
}
