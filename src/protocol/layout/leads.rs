//! Leads: which holder of each partition comes first.
//!
//! Promises: a node comes first in `1/replicas` of the partitions that it
//! holds, rounded up or down, and a lead that can stay stays. Rotating by the
//! partition's number would be even only on average: with 8 partitions a node,
//! one in twenty would come first nowhere.
//!
//! A node that leads too many passes one on along the shortest chain of
//! partitions to a node that leads too few. As with places (see `repair`) the
//! chain exists because whole leads can always be met: a node that led each of
//! its partitions for `1/replicas` would lead exactly its share.
//!
//! Does not move data: which nodes hold a partition is settled before.

use std::collections::VecDeque;

use super::repair::NOBODY;
use super::shares::Plan;

/// Puts each partition's holders in the order of preference: ascending, rotated
/// until its lead comes first. `present` are the leads of the present layout.
pub(super) fn order(plan: &Plan, mut holders: Vec<u16>, present: Vec<u16>) -> Vec<u16> {
    let mut leads = Leads::new(plan, &holders, present);
    for node in 0..leads.led.len() as u16 {
        while leads.led[node as usize] > leads.target[node as usize] {
            leads.pass_on(node);
        }
    }
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
    /// How many each node leads, and should.
    led: Vec<u32>,
    target: Vec<u32>,
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

        // Shares rounded so that they add up: up where a node leads so many
        // already, then where most is lost by rounding down.
        let mut target: Vec<u32> = held.iter().map(|held| held / each as u32).collect();
        let mut uneven: Vec<usize> = (0..nodes)
            .filter(|&node| !held[node].is_multiple_of(each as u32))
            .collect();
        uneven.sort_by_key(|&node| {
            let remainder = std::cmp::Reverse(held[node] % each as u32);
            (led[node] <= target[node], remainder, node)
        });
        let ups = (plan.partitions - target.iter().sum::<u32>()) as usize;
        uneven[..ups].iter().for_each(|&node| target[node] += 1);

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
            target,
        }
    }

    /// One lead of `start` goes, along the shortest chain, to a node with too
    /// few.
    fn pass_on(&mut self, start: u16) {
        // How each node was reached: from whom, by which partition.
        let mut came: Vec<Option<(u16, u32)>> = vec![None; self.led.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(from) = queue.pop_front() {
            for &partition in &self.partitions[from as usize] {
                for &to in &self.holders[partition as usize * self.each..][..self.each] {
                    let index = to as usize;
                    if to == start || came[index].is_some() {
                        continue;
                    }
                    came[index] = Some((from, partition));
                    if self.led[index] < self.target[index] {
                        self.apply(start, to, &came);
                        return;
                    }
                    queue.push_back(to);
                }
            }
        }
        unreachable!("whole leads can always be met");
    }

    fn apply(&mut self, start: u16, end: u16, came: &[Option<(u16, u32)>]) {
        self.led[start as usize] -= 1;
        self.led[end as usize] += 1;
        let mut to = end;
        while to != start {
            let (from, partition) = came[to as usize].expect("the chain reached it");
            self.lead[partition as usize] = to;
            self.partitions[from as usize].retain(|&led| led != partition);
            self.partitions[to as usize].push(partition);
            to = from;
        }
    }
}
