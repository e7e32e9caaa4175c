//! Fair shares: how much of the ring each node should hold.
//!
//! Promises: shares are in proportion to weight as far as is feasible. No node
//! is due more than every partition once, no zone more than its limit, and what
//! they cannot take goes to the others in proportion (water-filling). Whole
//! shares are either neighbour of the exact one, add up exactly, and are chosen
//! so that the fewest replicas need to move.
//!
//! Invariants: integers only, so every machine computes the same; the order of
//! the members does not matter.
//!
//! Does not decide which partition goes where; `repair` does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Candidate, MAX_NODES};
use crate::protocol::id::NodeId;

/// Exact shares are counted in 2^-24 of a partition: fine enough that the
/// rounding errors of 65,535 nodes stay below one partition together.
pub(super) const FRACTION_BITS: u32 = 24;
const ONE: u64 = 1 << FRACTION_BITS;

/// The level of the water is searched in 2^-64 of a partition per unit of
/// weight, so that the heaviest weight (2^32) still lands within 2^-32.
const LEVEL_BITS: u32 = 64;

/// How many replicas of one partition a zone holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// At least so many, or the others would be crowded.
    pub least: u32,
    /// At most so many.
    pub most: u32,
}

/// What a layout should look like: who takes part and how much is due to whom.
/// Nodes are indices into `nodes`, zones are indices into `zones`.
pub(super) struct Plan {
    pub partitions: u32,
    /// Holders of each partition: `replicas`, or every node if there are fewer.
    pub each: usize,
    /// Ascending.
    pub nodes: Vec<NodeId>,
    /// The zone of each node.
    pub zone: Vec<usize>,
    pub zones: Vec<Bounds>,
    /// The exact share of each node, in 2^-24 partitions; they add up.
    pub share: Vec<u64>,
}

impl Plan {
    /// The plan for these members; `None` if none of them may hold anything.
    pub fn new(partitions: u32, replicas: u32, members: &[Candidate]) -> Option<Plan> {
        // Sorted by every field, so that even a member that is listed twice
        // (which is a bug of the caller) counts the same way everywhere.
        let sorted: BTreeSet<(NodeId, u32, &Arc<str>)> = members
            .iter()
            .filter(|member| member.weight_milli > 0)
            .map(|member| (member.node, member.weight_milli, &member.zone))
            .collect();
        let mut sorted: Vec<_> = sorted.into_iter().collect();
        sorted.dedup_by_key(|(node, _, _)| *node);
        sorted.truncate(MAX_NODES);
        if sorted.is_empty() {
            return None;
        }
        let names: BTreeSet<&Arc<str>> = sorted.iter().map(|(_, _, zone)| *zone).collect();
        let numbers: BTreeMap<&Arc<str>, usize> = names
            .into_iter()
            .enumerate()
            .map(|(number, name)| (name, number))
            .collect();
        let zone: Vec<usize> = sorted.iter().map(|(_, _, zone)| numbers[zone]).collect();
        let mut populations = vec![0u32; numbers.len()];
        zone.iter().for_each(|&zone| populations[zone] += 1);

        let each = (replicas as usize).min(sorted.len());
        let zones = bounds(each as u32, &populations);
        let weights: Vec<u32> = sorted.iter().map(|(_, weight, _)| *weight).collect();
        Some(Plan {
            partitions,
            each,
            nodes: sorted.iter().map(|(node, _, _)| *node).collect(),
            share: water_fill(partitions, each, &weights, &zone, &zones),
            zone,
            zones,
        })
    }

    /// How many whole partitions each node should hold, given how many it
    /// holds: its share rounded up or down, and up preferably where that is
    /// what a node has already. No other rounding moves fewer replicas.
    pub fn targets(&self, held: &[u32]) -> Vec<u32> {
        let total = u64::from(self.partitions) * self.each as u64;
        let rounded = |(&held, &share): (&u32, &u64)| {
            (share / ONE..=share.div_ceil(ONE)).contains(&u64::from(held))
        };
        // What is balanced stays, though other roundings would suit zones
        // better: a layout that suits its members must not move.
        if held.iter().map(|&held| u64::from(held)).sum::<u64>() == total
            && held.iter().zip(&self.share).all(rounded)
        {
            return held.to_vec();
        }
        let by_zone = self.by_zone();
        let zone_shares: Vec<u64> = by_zone
            .iter()
            .map(|nodes| nodes.iter().map(|&node| self.share[node]).sum())
            .collect();
        // A zone is better rounded up when it has more nodes to round up for
        // free than rounding it down would let it use.
        let zone_wants: Vec<bool> = by_zone
            .iter()
            .zip(&zone_shares)
            .map(|(nodes, &share)| {
                let floors: u64 = nodes.iter().map(|&node| self.share[node] / ONE).sum();
                let wants = nodes
                    .iter()
                    .filter(|&&node| self.wants_up(node, held))
                    .count() as u64;
                wants > share / ONE - floors
            })
            .collect();
        let zone_totals = round(total, &zone_shares, &zone_wants);

        let mut targets = vec![0; self.nodes.len()];
        for (nodes, &total) in by_zone.iter().zip(&zone_totals) {
            let shares: Vec<u64> = nodes.iter().map(|&node| self.share[node]).collect();
            let wants: Vec<bool> = nodes
                .iter()
                .map(|&node| self.wants_up(node, held))
                .collect();
            for (&node, target) in nodes.iter().zip(round(total, &shares, &wants)) {
                targets[node] = target as u32;
            }
        }
        targets
    }

    fn wants_up(&self, node: usize, held: &[u32]) -> bool {
        !self.share[node].is_multiple_of(ONE) && u64::from(held[node]) > self.share[node] / ONE
    }

    fn by_zone(&self) -> Vec<Vec<usize>> {
        let mut by_zone = vec![Vec::new(); self.zones.len()];
        for (node, &zone) in self.zone.iter().enumerate() {
            by_zone[zone].push(node);
        }
        by_zone
    }
}

/// Spreads `each` replicas over zones with these populations as evenly as the
/// populations allow: the least limit that suffices, and at most one below it.
fn bounds(each: u32, populations: &[u32]) -> Vec<Bounds> {
    let room = |limit: u32| {
        populations
            .iter()
            .map(|&nodes| nodes.min(limit))
            .sum::<u32>()
    };
    let most = (1..=each)
        .find(|&limit| room(limit) >= each)
        .expect("each ≤ nodes");
    populations
        .iter()
        .map(|&nodes| Bounds {
            least: nodes.min(most - 1),
            most: nodes.min(most),
        })
        .collect()
}

/// Exact shares in 2^-24 partitions: proportional to weight below the limits of
/// nodes and zones. Adds up to `partitions * each`.
fn water_fill(
    partitions: u32,
    each: usize,
    weights: &[u32],
    zone: &[usize],
    zones: &[Bounds],
) -> Vec<u64> {
    let mut by_zone: Vec<Vec<u32>> = vec![Vec::new(); zones.len()];
    for (&weight, &zone) in weights.iter().zip(zone) {
        by_zone[zone].push(weight);
    }
    let whole = |replicas: u32| (u128::from(partitions) * u128::from(replicas)) << LEVEL_BITS;
    let full = whole(1);
    let filled = |weights: &[u32], level: u128| -> u128 {
        weights
            .iter()
            .map(|&weight| (level * u128::from(weight)).min(full))
            .sum()
    };
    let zone_filled = |zone: usize, level: u128| {
        filled(&by_zone[zone], level).clamp(whole(zones[zone].least), whole(zones[zone].most))
    };

    let total = whole(each as u32);
    let level = highest(full, |level| {
        (0..zones.len())
            .map(|zone| zone_filled(zone, level))
            .sum::<u128>()
            <= total
    });
    let mut zone_shares: Vec<u64> = (0..zones.len())
        .map(|zone| coarse(zone_filled(zone, level)))
        .collect();
    settle(&mut zone_shares, u64::from(partitions) * each as u64 * ONE);

    let mut shares: Vec<Vec<u64>> = Vec::with_capacity(zones.len());
    for (weights, &zone_share) in by_zone.iter().zip(&zone_shares) {
        let due = u128::from(zone_share) << (LEVEL_BITS - FRACTION_BITS);
        let level = highest(full, |level| filled(weights, level) <= due);
        let mut within: Vec<u64> = weights
            .iter()
            .map(|&weight| coarse((level * u128::from(weight)).min(full)))
            .collect();
        settle(&mut within, zone_share);
        shares.push(within);
    }
    let mut rest: Vec<_> = shares.iter().map(|shares| shares.iter()).collect();
    zone.iter()
        .map(|&zone| *rest[zone].next().expect("one share per node"))
        .collect()
}

/// The highest level in `0..=limit` at which a falling condition still holds.
fn highest(limit: u128, holds: impl Fn(u128) -> bool) -> u128 {
    let (mut low, mut high) = (0, limit);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if holds(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

/// From 2^-64 to 2^-24 partitions, to the nearest: what is a whole number of
/// partitions but for the search's error becomes one.
fn coarse(amount: u128) -> u64 {
    let shift = LEVEL_BITS - FRACTION_BITS;
    ((amount + (1 << (shift - 1))) >> shift) as u64
}

/// Makes the shares add up to `total` exactly, by single units and at the
/// expense of shares that are fractions anyway: limits are whole numbers, so no
/// limit is passed.
fn settle(shares: &mut [u64], total: u64) {
    let mut fractions: Vec<usize> = (0..shares.len())
        .filter(|&at| !shares[at].is_multiple_of(ONE))
        .collect();
    // The largest first: they notice a unit least.
    fractions.sort_by_key(|&at| (std::cmp::Reverse(shares[at]), at));
    let mut sum: u64 = shares.iter().sum();
    for &at in fractions.iter().cycle() {
        match sum.cmp(&total) {
            std::cmp::Ordering::Less => (shares[at], sum) = (shares[at] + 1, sum + 1),
            std::cmp::Ordering::Greater => (shares[at], sum) = (shares[at] - 1, sum - 1),
            std::cmp::Ordering::Equal => break,
        }
    }
    assert_eq!(sum, total, "whole shares leave nothing to settle");
}

/// Rounds each share up or down so that they add up to `total` whole
/// partitions; up first where it is wanted, then where the fraction is largest.
fn round(total: u64, shares: &[u64], wants_up: &[bool]) -> Vec<u64> {
    let mut whole: Vec<u64> = shares.iter().map(|share| share / ONE).collect();
    let mut fractions: Vec<usize> = (0..shares.len())
        .filter(|&at| !shares[at].is_multiple_of(ONE))
        .collect();
    fractions.sort_by_key(|&at| (!wants_up[at], std::cmp::Reverse(shares[at] % ONE), at));
    let floors: u64 = whole.iter().sum();
    let ups = total
        .checked_sub(floors)
        .expect("the floors of shares that add up") as usize;
    assert!(ups <= fractions.len(), "the ceilings of shares that add up");
    fractions[..ups].iter().for_each(|&at| whole[at] += 1);
    whole
}
