//! Tests of placement: what must hold of every layout, checked against shares
//! and ideals computed here in another way than the code under test does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn member(number: usize, weight_milli: u32, zone: usize) -> Candidate {
    Candidate {
        node: NodeId::of(&format!("node-{number}")),
        weight_milli,
        zone: Arc::from(format!("zone-{zone}")),
    }
}

/// Weights as people buy machines: three sizes.
fn mixed(number: usize) -> u32 {
    [1000, 2000, 4000, 1000, 500][number % 5]
}

/// Replicas of one partition per zone, (least, most), by the definition: hand
/// them out one at a time to the zone that has fewest and a node left.
fn zone_limits(replicas: u32, members: &[Candidate]) -> BTreeMap<Arc<str>, (u32, u32)> {
    let mut populations: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    for member in members {
        *populations.entry(member.zone.clone()).or_default() += 1;
    }
    let each = replicas.min(members.len() as u32);
    let mut level = 0;
    while populations.values().map(|&nodes| nodes.min(level)).sum::<u32>() < each {
        level += 1;
    }
    let limits = |nodes: u32| (nodes.min(level - 1), nodes.min(level));
    populations.into_iter().map(|(zone, nodes)| (zone, limits(nodes))).collect()
}

/// Fair shares by plain bisection of floating-point levels.
fn shares(layout: &Layout, members: &[Candidate]) -> BTreeMap<NodeId, f64> {
    let full = f64::from(layout.partitions);
    let limits = zone_limits(layout.replicas, members);
    let filled = |zone: &Arc<str>, level: f64| -> f64 {
        let inside = members.iter().filter(|member| member.zone == *zone);
        inside.map(|member| (level * f64::from(member.weight_milli)).min(full)).sum()
    };
    let bisect = |due: f64, amount: &dyn Fn(f64) -> f64| {
        let (mut low, mut high) = (0.0, full);
        for _ in 0..80 {
            let middle = (low + high) / 2.0;
            if amount(middle) < due { low = middle } else { high = middle }
        }
        high
    };
    let bounded = |zone: &Arc<str>, level: f64| {
        let (least, most) = limits[zone];
        filled(zone, level).clamp(full * f64::from(least), full * f64::from(most))
    };
    let total = full * f64::from(layout.replicas.min(members.len() as u32));
    let level =
        bisect(total, &|level| limits.keys().map(|zone| bounded(zone, level)).sum::<f64>());
    let mut shares = BTreeMap::new();
    for zone in limits.keys() {
        let due = bounded(zone, level);
        let level = bisect(due, &|level| filled(zone, level));
        for member in members.iter().filter(|member| member.zone == *zone) {
            let share = (level * f64::from(member.weight_milli)).min(full);
            shares.insert(member.node, share);
        }
    }
    shares
}

/// Rounds, forgiving what the bisection left.
fn down(share: f64) -> f64 {
    (share + 1e-4).floor()
}
fn up(share: f64) -> f64 {
    (share - 1e-4).ceil()
}

fn counts(layout: &Layout) -> BTreeMap<NodeId, u32> {
    let mut counts = BTreeMap::new();
    for partition in (0..layout.partitions).map(Partition) {
        for node in layout.holders(partition) {
            *counts.entry(node).or_default() += 1;
        }
    }
    counts
}

/// How many replicas got a new holder.
fn moved(before: &Layout, after: &Layout) -> usize {
    let new = |partition| {
        let had: Vec<NodeId> = before.holders(partition).collect();
        after.holders(partition).filter(|node| !had.contains(node)).count()
    };
    (0..after.partitions).map(|partition| new(Partition(partition))).sum()
}

/// The least that any layout that keeps the promises has to move, or a little
/// less: `Layout::next` defines it.
fn ideal(before: &Layout, members: &[Candidate]) -> f64 {
    let shares = shares(before, members);
    let limits = zone_limits(before.replicas, members);
    let zones: BTreeMap<NodeId, &Arc<str>> =
        members.iter().map(|member| (member.node, &member.zone)).collect();
    let held = counts(before);
    let held = |node: &NodeId| f64::from(held.get(node).copied().unwrap_or(0));
    let each = before.replicas.min(members.len() as u32);

    let mut lacking = 0.0;
    let mut total_held = 0.0;
    for zone in limits.keys() {
        let nodes = || shares.iter().filter(|(node, _)| zones[node] == zone);
        let by_node: f64 = nodes().map(|(node, &share)| (down(share) - held(node)).max(0.0)).sum();
        let zone_share: f64 = nodes().map(|(_, share)| share).sum();
        let zone_held: f64 = nodes().map(|(node, _)| held(node)).sum();
        lacking += by_node.max(down(zone_share) - zone_held);
        total_held += zone_held;
    }
    let holes = f64::from(before.partitions * each) - total_held;
    let beyond: f64 =
        shares.iter().map(|(node, &share)| (held(node) - up(share)).max(0.0)).sum();

    let mut homeless = 0;
    for partition in (0..before.partitions).map(Partition) {
        let mut there: BTreeMap<&Arc<str>, u32> = BTreeMap::new();
        for node in before.holders(partition).filter(|node| zones.contains_key(node)) {
            *there.entry(zones[&node]).or_default() += 1;
        }
        let there = |zone| there.get(zone).copied().unwrap_or(0);
        let keep: u32 = limits.iter().map(|(zone, &(_, most))| there(zone).min(most)).sum();
        let bespoken: u32 =
            limits.iter().map(|(zone, &(least, _))| least.saturating_sub(there(zone))).sum();
        homeless += each - keep.min(each - bespoken);
    }
    lacking.max(holes + beyond).max(f64::from(homeless))
}

/// Checks every promise about one layout.
fn check(layout: &Layout, members: &[Candidate]) {
    let members: Vec<Candidate> =
        members.iter().filter(|member| member.weight_milli > 0).cloned().collect();
    let each = (layout.replicas as usize).min(members.len());
    let limits = zone_limits(layout.replicas, &members);
    let zones: BTreeMap<NodeId, &Arc<str>> =
        members.iter().map(|member| (member.node, &member.zone)).collect();
    for partition in (0..layout.partitions).map(Partition) {
        let holders: BTreeSet<NodeId> = layout.holders(partition).collect();
        assert_eq!(holders.len(), each, "distinct holders of {partition:?}");
        let mut there: BTreeMap<&Arc<str>, u32> =
            limits.keys().map(|zone| (zone, 0)).collect();
        for node in &holders {
            *there.get_mut(zones[node]).expect("a zone of members") += 1;
        }
        for (zone, count) in there {
            let (least, most) = limits[zone];
            assert!((least..=most).contains(&count), "{count} of {partition:?} in {zone}");
        }
    }
    let held = counts(layout);
    for (node, share) in shares(layout, &members) {
        let held = f64::from(held.get(&node).copied().unwrap_or(0));
        assert!((down(share)..=up(share)).contains(&held), "{node} holds {held} of {share}");
    }
    check_leads(layout);
    assert_eq!(layout.validate(), Ok(()));
}

/// First places are even.
fn check_leads(layout: &Layout) {
    let mut led: BTreeMap<NodeId, u32> = BTreeMap::new();
    for partition in (0..layout.partitions).map(Partition) {
        *led.entry(layout.holders(partition).next().expect("a holder")).or_default() += 1;
    }
    for (node, held) in counts(layout) {
        let led = led.get(&node).copied().unwrap_or(0);
        let each = layout.each() as u32;
        assert!((held / each..=held.div_ceil(each)).contains(&led), "{node} leads {led} of {held}");
    }
}

/// Takes a step, checks it, and returns it with (moved, ideal).
fn step(before: &Layout, members: &[Candidate]) -> (Layout, usize, f64) {
    let after = before.next(members);
    check(&after, members);
    (moved(before, &after), ideal(before, members));
    let (moved, ideal) = (moved(before, &after), ideal(before, members));
    (after, moved, ideal)
}

fn walk(sizes: &[usize], partitions: u32, zones: usize, weight: fn(usize) -> u32) {
    let mut members = vec![member(0, weight(0), 0)];
    let mut layout = Layout::founding(partitions, 3, members[0].clone());
    let (mut all_moved, mut all_ideal) = (0, 0.0);
    let mut worst: (f64, usize, f64, usize) = (0.0, 0, 0.0, 0);
    for (turn, &size) in sizes.iter().enumerate() {
        while members.len() != size {
            if members.len() < size {
                let number = members.len() + 1000 * turn;
                members.push(member(number, weight(number), number % zones));
            } else {
                members.remove((members.len() * 7) % members.len().max(1));
            }
            let (after, moved, ideal) = step(&layout, &members);
            layout = after;
            all_moved += moved;
            all_ideal += ideal;
            let over = moved as f64 - 1.1 * ideal;
            if over > worst.0 {
                worst = (over, moved, ideal, members.len());
            }
        }
    }
    println!("Q {partitions} zones {zones}: {all_moved} moved, ideal {all_ideal}, {:.4}; worst {worst:?}", all_moved as f64 / all_ideal);
}

#[test]
fn explore() {
    for partitions in [256, 4096] {
        for zones in 1..=5 {
            for weight in [|_| 1000, mixed as fn(usize) -> u32] {
                walk(&[30, 5, 20, 3, 10], partitions, zones, weight);
            }
        }
    }
}
