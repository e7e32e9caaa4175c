//! Oracle: the least movement there is. For tests and benches; slow.
//!
//! Promises: given a layout that keeps the promises of `Layout`, the number of
//! replicas that the best of all such layouts would have moved. Klein's method:
//! as long as the residual network has a cycle of negative cost, turn it; when
//! it has none, the flow is the cheapest.
//!
//! Shares no code with what it judges, but for the fair shares.

use std::collections::BTreeMap;

use super::{Candidate, Layout, Partition, fair_shares};

/// No link.
const NEVER: i32 = i32::MAX;

/// Replicas of one partition that each member's zone must and may hold: handed
/// out evenly, as far as a zone has nodes.
pub fn zone_limits(replicas: u32, members: &[Candidate]) -> Vec<(u32, u32)> {
    let mut populations: BTreeMap<&str, u32> = BTreeMap::new();
    for member in members {
        *populations.entry(&member.zone).or_default() += 1;
    }
    let each = replicas.min(members.len() as u32);
    let room = |limit: u32| {
        populations
            .values()
            .map(|&nodes| nodes.min(limit))
            .sum::<u32>()
    };
    let most = (1..)
        .find(|&limit| room(limit) >= each)
        .expect("each ≤ members");
    let nodes = |member: &Candidate| populations[&*member.zone];
    members
        .iter()
        .map(|member| (nodes(member).min(most - 1), nodes(member).min(most)))
        .collect()
}

/// How many replicas got a new holder.
pub fn moved(before: &Layout, after: &Layout) -> usize {
    let new = |partition| {
        let had: Vec<_> = before.holders(partition).collect();
        after
            .holders(partition)
            .filter(|node| !had.contains(node))
            .count()
    };
    (0..after.partitions())
        .map(|partition| new(Partition(partition)))
        .sum()
}

/// The replicas that the best layout after `before` would move. `after` is any
/// right one; every member has weight.
pub fn least_moved(before: &Layout, after: &Layout, members: &[Candidate]) -> usize {
    let mut members = members.to_vec();
    members.sort_by_key(|member| member.node);
    let nodes = members.len();
    let limits = zone_limits(after.replicas(), &members);
    let same_zone = |x: usize, y: usize| members[x].zone == members[y].zone;
    let range: Vec<(u32, u32)> = fair_shares(after.partitions(), after.replicas(), &members)
        .iter()
        .map(|(_, share)| (share.floor() as u32, share.ceil() as u32))
        .collect();

    let matrix = |layout: &Layout| -> Vec<Vec<bool>> {
        let holds = |partition: u32| {
            let holders: Vec<_> = layout.holders(Partition(partition)).collect();
            members
                .iter()
                .map(|member| holders.contains(&member.node))
                .collect()
        };
        (0..layout.partitions()).map(holds).collect()
    };
    let (old, mut now) = (matrix(before), matrix(after));
    loop {
        let mut held = vec![0u32; nodes];
        for row in &now {
            (0..nodes)
                .filter(|&node| row[node])
                .for_each(|node| held[node] += 1);
        }
        // The cheapest way for one replica to go from x to y. The last row and
        // column stand for rounding: who may keep one more, who may do with one
        // less.
        let mut links = vec![vec![(NEVER, 0); nodes + 1]; nodes + 1];
        for node in 0..nodes {
            if held[node] < range[node].1 {
                links[node][nodes] = (0, 0);
            }
            if held[node] > range[node].0 {
                links[nodes][node] = (0, 0);
            }
        }
        for (partition, (now, old)) in now.iter().zip(&old).enumerate() {
            let there: Vec<u32> = (0..nodes)
                .map(|x| (0..nodes).filter(|&y| now[y] && same_zone(x, y)).count() as u32)
                .collect();
            for x in (0..nodes).filter(|&x| now[x]) {
                for y in (0..nodes).filter(|&y| !now[y]) {
                    let price = i32::from(!old[y]) - i32::from(!old[x]);
                    let allowed =
                        same_zone(x, y) || (there[x] > limits[x].0 && there[y] < limits[y].1);
                    if allowed && price < links[x][y].0 {
                        links[x][y] = (price, partition);
                    }
                }
            }
        }
        let Some(cycle) = negative_cycle(&links) else {
            break;
        };
        for pair in cycle
            .windows(2)
            .filter(|pair| pair[0] < nodes && pair[1] < nodes)
        {
            let partition = links[pair[0]][pair[1]].1;
            now[partition][pair[0]] = false;
            now[partition][pair[1]] = true;
        }
    }
    let new = |now: &Vec<bool>, old: &Vec<bool>| (0..nodes).filter(|&x| now[x] && !old[x]).count();
    now.iter().zip(&old).map(|(now, old)| new(now, old)).sum()
}

/// A cycle whose links cost less than nothing together, its first node again at
/// the end (Bellman and Ford).
fn negative_cycle(links: &[Vec<(i32, usize)>]) -> Option<Vec<usize>> {
    let mut cost = vec![0; links.len()];
    let mut came = vec![0; links.len()];
    let mut last = None;
    for _ in 0..=links.len() {
        last = None;
        for (x, row) in links.iter().enumerate() {
            for (y, &(price, _)) in row.iter().enumerate() {
                if price != NEVER && cost[x] + price < cost[y] {
                    (cost[y], came[y], last) = (cost[x] + price, x, Some(y));
                }
            }
        }
        last?;
    }
    // Far enough back from what still fell, the way runs round the cycle.
    let mut on_cycle = last?;
    (0..links.len()).for_each(|_| on_cycle = came[on_cycle]);
    let mut cycle = vec![on_cycle, came[on_cycle]];
    while cycle[cycle.len() - 1] != on_cycle {
        cycle.push(came[cycle[cycle.len() - 1]]);
    }
    cycle.reverse();
    Some(cycle)
}
