//! Tests of placement: what must hold of every layout, checked against shares
//! and ideals computed here in another way than the code under test does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::oracle::{least_moved, moved};
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
    while populations
        .values()
        .map(|&nodes| nodes.min(level))
        .sum::<u32>()
        < each
    {
        level += 1;
    }
    let limits = |nodes: u32| (nodes.min(level - 1), nodes.min(level));
    populations
        .into_iter()
        .map(|(zone, nodes)| (zone, limits(nodes)))
        .collect()
}

/// Fair shares by plain bisection of floating-point levels.
fn shares(layout: &Layout, members: &[Candidate]) -> BTreeMap<NodeId, f64> {
    let full = f64::from(layout.partitions);
    let limits = zone_limits(layout.replicas, members);
    let filled = |zone: &Arc<str>, level: f64| -> f64 {
        let inside = members.iter().filter(|member| member.zone == *zone);
        inside
            .map(|member| (level * f64::from(member.weight_milli)).min(full))
            .sum()
    };
    let bisect = |due: f64, amount: &dyn Fn(f64) -> f64| {
        let (mut low, mut high) = (0.0, full);
        for _ in 0..80 {
            let middle = (low + high) / 2.0;
            if amount(middle) < due {
                low = middle
            } else {
                high = middle
            }
        }
        high
    };
    let bounded = |zone: &Arc<str>, level: f64| {
        let (least, most) = limits[zone];
        filled(zone, level).clamp(full * f64::from(least), full * f64::from(most))
    };
    let total = full * f64::from(layout.replicas.min(members.len() as u32));
    let level = bisect(total, &|level| {
        limits.keys().map(|zone| bounded(zone, level)).sum::<f64>()
    });
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

/// Rounds, forgiving what the bisection left, but less than any two shares can
/// differ by: weights here are below 100,000 and so is a million their sum.
fn down(share: f64) -> f64 {
    (share + 2e-7).floor()
}
fn up(share: f64) -> f64 {
    (share - 2e-7).ceil()
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

/// What any layout that keeps the promises has to move at least: cheap, and
/// where zones do not force more also exact.
fn bound(before: &Layout, members: &[Candidate]) -> f64 {
    let shares = shares(before, members);
    let limits = zone_limits(before.replicas, members);
    let zones: BTreeMap<NodeId, &Arc<str>> = members
        .iter()
        .map(|member| (member.node, &member.zone))
        .collect();
    let held = counts(before);
    let held = |node: &NodeId| f64::from(held.get(node).copied().unwrap_or(0));
    let each = before.replicas.min(members.len() as u32);

    let mut lacking = 0.0;
    let mut total_held = 0.0;
    for zone in limits.keys() {
        let nodes = || shares.iter().filter(|(node, _)| zones[node] == zone);
        let by_node: f64 = nodes()
            .map(|(node, &share)| (down(share) - held(node)).max(0.0))
            .sum();
        let zone_least = f64::from(before.partitions * limits[zone].0);
        let zone_held: f64 = nodes().map(|(node, _)| held(node)).sum();
        lacking += by_node.max(zone_least - zone_held);
        total_held += zone_held;
    }
    let holes = f64::from(before.partitions * each) - total_held;
    let beyond: f64 = shares
        .iter()
        .map(|(node, &share)| (held(node) - up(share)).max(0.0))
        .sum();

    let mut homeless = 0;
    for partition in (0..before.partitions).map(Partition) {
        let mut there: BTreeMap<&Arc<str>, u32> = BTreeMap::new();
        for node in before
            .holders(partition)
            .filter(|node| zones.contains_key(node))
        {
            *there.entry(zones[&node]).or_default() += 1;
        }
        let there = |zone| there.get(zone).copied().unwrap_or(0);
        let keep: u32 = limits
            .iter()
            .map(|(zone, &(_, most))| there(zone).min(most))
            .sum();
        let bespoken: u32 = limits
            .iter()
            .map(|(zone, &(least, _))| least.saturating_sub(there(zone)))
            .sum();
        homeless += each - keep.min(each - bespoken);
    }
    lacking.max(holes + beyond).max(f64::from(homeless))
}

/// Checks every promise about one layout.
fn check(layout: &Layout, members: &[Candidate]) {
    let members: Vec<Candidate> = members
        .iter()
        .filter(|member| member.weight_milli > 0)
        .cloned()
        .collect();
    let each = (layout.replicas as usize).min(members.len());
    let limits = zone_limits(layout.replicas, &members);
    let zones: BTreeMap<NodeId, &Arc<str>> = members
        .iter()
        .map(|member| (member.node, &member.zone))
        .collect();
    for partition in (0..layout.partitions).map(Partition) {
        let holders: BTreeSet<NodeId> = layout.holders(partition).collect();
        assert_eq!(holders.len(), each, "distinct holders of {partition:?}");
        let mut there: BTreeMap<&Arc<str>, u32> = limits.keys().map(|zone| (zone, 0)).collect();
        for node in &holders {
            *there.get_mut(zones[node]).expect("a zone of members") += 1;
        }
        for (zone, count) in there {
            let (least, most) = limits[zone];
            assert!(
                (least..=most).contains(&count),
                "{count} of {partition:?} in {zone}"
            );
        }
    }
    let held = counts(layout);
    for (node, share) in shares(layout, &members) {
        let held = f64::from(held.get(&node).copied().unwrap_or(0));
        assert!(
            (down(share)..=up(share)).contains(&held),
            "{node} holds {held} of {share}"
        );
    }
    check_leads(layout);
    assert_eq!(layout.validate(), Ok(()));
}

/// First places are even.
fn check_leads(layout: &Layout) {
    let mut led: BTreeMap<NodeId, u32> = BTreeMap::new();
    for partition in (0..layout.partitions).map(Partition) {
        *led.entry(layout.holders(partition).next().expect("a holder"))
            .or_default() += 1;
    }
    for (node, held) in counts(layout) {
        let led = led.get(&node).copied().unwrap_or(0);
        let each = layout.each() as u32;
        assert!(
            (held / each..=held.div_ceil(each)).contains(&led),
            "{node} leads {led} of {held}"
        );
    }
}

/// Takes a step and checks all that is promised of it.
fn step(before: &Layout, members: &[Candidate]) -> Layout {
    let after = before.next(members);
    assert_eq!(after.version, before.version + 1);
    check(&after, members);
    let members: Vec<Candidate> = members
        .iter()
        .filter(|member| member.weight_milli > 0)
        .cloned()
        .collect();
    let moved = moved(before, &after);
    let allowed = |ideal: f64| moved as f64 <= (1.1 * ideal).ceil();
    let bound = bound(before, &members);
    assert!(moved as f64 >= bound, "moved {moved}, but {bound} must");
    if !allowed(bound) {
        let least = least_moved(before, &after, &members);
        assert!(allowed(least as f64), "moved {moved}, the ideal is {least}");
    }
    assert!(
        after.suits(&members),
        "the same members once more change nothing"
    );
    after
}

/// Lets members join up to the first size, leave down to the second, and so on.
fn tides(sizes: &[usize], partitions: u32, zones: usize, weight: fn(usize) -> u32) {
    let mut members = vec![member(0, weight(0), 0)];
    let mut layout = Layout::founding(partitions, 3, members[0].clone());
    let mut born = 1;
    for &size in sizes {
        while members.len() != size {
            if members.len() < size {
                members.push(member(born, weight(born), born % zones));
                born += 1;
            } else {
                members.remove(born * 7 % members.len());
            }
            layout = step(&layout, &members);
        }
    }
}

fn equal(_: usize) -> u32 {
    1000
}

#[test]
fn sixty_join_then_thirty_leave() {
    tides(&[61, 31], 256, 3, mixed);
}

#[test]
fn few_nodes_and_many_zones() {
    for zones in 1..=5 {
        tides(&[8, 2], 64, zones, equal);
        tides(&[12, 3], 64, zones, mixed);
    }
}

#[test]
fn four_thousand_partitions() {
    tides(&[4], 4096, 3, mixed);
}

#[test]
#[ignore = "minutes; the dense version of the tests above, for a release build"]
fn dense() {
    for partitions in [256, 4096] {
        for zones in 1..=5 {
            for weight in [equal, mixed as fn(usize) -> u32] {
                tides(&[100, 3, 20, 5, 10, 1], partitions, zones, weight);
            }
        }
    }
}

#[test]
fn a_hundred_join_at_once_and_a_zone_is_lost() {
    let members: Vec<Candidate> = (0..100)
        .map(|number| member(number, mixed(number), number % 4))
        .collect();
    let layout = step(&Layout::founding(256, 3, members[0].clone()), &members);
    let rest: Vec<Candidate> = members
        .into_iter()
        .filter(|member| &*member.zone != "zone-1")
        .collect();
    step(&layout, &rest);
}

#[test]
fn more_replicas_than_zones_spread_evenly() {
    for (replicas, zones) in [(4, 3), (5, 3), (5, 2), (7, 4), (16, 5)] {
        let members: Vec<Candidate> = (0..20)
            .map(|number| member(number, 1000, number % zones))
            .collect();
        let mut layout = Layout::founding(64, replicas, members[0].clone());
        for size in [2, 7, 20, 19, 12] {
            layout = step(&layout, &members[..size]);
        }
    }
}

#[test]
fn shares_are_capped_by_node_and_zone() {
    // One giant is due every partition once, and no more.
    let giant = [
        member(0, 90_000, 0),
        member(1, 1000, 0),
        member(2, 1000, 0),
        member(3, 2000, 0),
    ];
    let shares: Vec<f64> = {
        let all: BTreeMap<NodeId, f64> = fair_shares(256, 3, &giant).into_iter().collect();
        giant.iter().map(|member| all[&member.node]).collect()
    };
    assert_eq!(shares, [256.0, 128.0, 128.0, 256.0]);
    // With three zones each is due all of the ring once, whatever its weight.
    let zones = [
        member(0, 10, 0),
        member(1, 1000, 1),
        member(2, 3000, 1),
        member(3, 9000, 2),
    ];
    let all: BTreeMap<NodeId, f64> = fair_shares(256, 3, &zones).into_iter().collect();
    let shares: Vec<f64> = zones.iter().map(|member| all[&member.node]).collect();
    assert_eq!(shares, [256.0, 64.0, 192.0, 256.0]);
}

#[test]
fn a_member_without_weight_holds_nothing() {
    let mut members: Vec<Candidate> = (0..6).map(|number| member(number, 1000, number)).collect();
    let layout = step(&Layout::founding(64, 3, members[0].clone()), &members);
    members[2].weight_milli = 0;
    let layout = step(&layout, &members);
    assert!(!layout.nodes().contains(&members[2].node));
    assert_eq!(layout.partitions_of(members[2].node).count(), 0);
    // When nobody may hold anything, what is held stays where it is.
    members
        .iter_mut()
        .for_each(|member| member.weight_milli = 0);
    assert!(layout.suits(&members));
    assert!(layout.suits(&[]));
}

/// Rounding that suits the zones is not worth a move by itself.
#[test]
fn what_is_balanced_stays() {
    let first = [(500, 0), (500, 0), (1146, 1), (500, 0)];
    let second = [
        (2489, 0),
        (2469, 0),
        (35086, 0),
        (500, 0),
        (0, 0),
        (2942, 1),
        (788, 1),
        (73789, 2),
    ];
    let mut layout = Layout::founding(64, 1, member(0, 1000, 0));
    for members in [&first[..], &second[..]] {
        let member = |(number, &(weight, zone))| member(number, weight, zone);
        let members: Vec<Candidate> = members.iter().enumerate().map(member).collect();
        layout = step(&layout, &members);
    }
}

/// Groups of nodes that share no partition with the others: a choice of whom to
/// round up that is blind to the groups cannot be met.
#[test]
fn leads_are_even_among_nodes_that_share_few_partitions() {
    let weights = [0, 781, 0, 74425, 3087, 0, 0, 558, 2077, 579, 1673, 78676];
    let zones = [0, 4, 0, 4, 2, 0, 0, 2, 4, 1, 1, 0];
    let members: Vec<Candidate> = (0..12)
        .map(|number| member(number, weights[number], zones[number]))
        .collect();
    step(&Layout::founding(64, 2, member(0, 1000, 0)), &members);
    for nodes in 2..40 {
        let members: Vec<Candidate> = (0..nodes).map(|n| member(n, mixed(n), n % 3)).collect();
        for partitions in [1, 2, 8, 16] {
            step(
                &Layout::founding(partitions, 2, members[0].clone()),
                &members,
            );
            step(
                &Layout::founding(partitions, 3, members[0].clone()),
                &members,
            );
        }
    }
}

#[test]
fn looks_things_up() {
    let members: Vec<Candidate> = (0..5).map(|number| member(number, 1000, number)).collect();
    let layout = Layout::founding(64, 3, members[0].clone()).next(&members);
    for node in layout.nodes() {
        let listed: Vec<Partition> = layout.partitions_of(*node).collect();
        let found: Vec<Partition> = (0..64)
            .map(Partition)
            .filter(|&partition| layout.is_holder(*node, partition))
            .collect();
        assert_eq!(listed, found);
        assert_eq!(listed.len() as u32, counts(&layout)[node]);
    }
    assert_eq!(layout.partitions_of(NodeId(1)).count(), 0);
}

#[test]
fn a_digest_tells_layouts_apart() {
    let members: Vec<Candidate> = (0..5).map(|number| member(number, 1000, number)).collect();
    let founding = Layout::founding(64, 3, members[0].clone());
    let (some, all) = (founding.next(&members[..4]), founding.next(&members));
    assert_eq!(some.version, all.version);
    assert_ne!(some.digest(), all.digest());
    assert_ne!(all.digest(), all.next(&members).digest(), "another version");
    assert!(all.same_places(&all.next(&members)));
    // Known by its value: two builds that disagree here would never settle.
    assert_eq!(
        format!("{:032x}", founding.digest()),
        "374a7e4792697bd10cf97a47d9eba381"
    );
    assert_eq!(
        format!("{:032x}", all.digest()),
        "0e2974b3be114f2c2b3706a2f56c22ec"
    );
}

#[test]
fn refuses_bytes_that_are_no_layout() {
    let members: Vec<Candidate> = (0..5).map(|number| member(number, 1000, number)).collect();
    let layout = Layout::founding(4, 3, members[0].clone()).next(&members);
    let decode = |change: &dyn Fn(&mut Unchecked)| {
        let mut unchecked = Unchecked::from(layout.clone());
        change(&mut unchecked);
        let bytes = postcard::to_stdvec(&unchecked).expect("encodes");
        let result = Layout::try_from(unchecked).map(|_| ());
        assert_eq!(
            postcard::from_bytes::<Layout>(&bytes).is_ok(),
            result.is_ok()
        );
        result
    };
    assert_eq!(decode(&|_| ()), Ok(()));
    assert_eq!(
        decode(&|it| it.partitions = 3),
        Err(LayoutError::Partitions(3))
    );
    assert_eq!(
        decode(&|it| it.partitions = 0),
        Err(LayoutError::Partitions(0))
    );
    assert_eq!(
        decode(&|it| it.partitions = 1 << 17),
        Err(LayoutError::Partitions(1 << 17))
    );
    assert_eq!(decode(&|it| it.replicas = 0), Err(LayoutError::Replicas(0)));
    assert_eq!(
        decode(&|it| it.replicas = 17),
        Err(LayoutError::Replicas(17))
    );
    assert_eq!(decode(&|it| it.nodes.clear()), Err(LayoutError::Nodes));
    assert_eq!(decode(&|it| it.nodes.swap(0, 1)), Err(LayoutError::Nodes));
    assert_eq!(
        decode(&|it| it.nodes.push(NodeId(u64::MAX))),
        Err(LayoutError::Nodes)
    );
    assert_eq!(
        decode(&|it| it.replicas = 4),
        Err(LayoutError::Holders(Partition(0)))
    );
    assert_eq!(
        decode(&|it| it.holders.truncate(11)),
        Err(LayoutError::Holders(Partition(0)))
    );
    assert_eq!(
        decode(&|it| it.holders[3] = 5),
        Err(LayoutError::Holders(Partition(1)))
    );
    assert_eq!(
        decode(&|it| it.holders[3] = it.holders[4]),
        Err(LayoutError::Holders(Partition(1)))
    );
}

/// Members of any kind: `(weight, zone)` by number.
fn any_members() -> impl Strategy<Value = Vec<(u32, usize)>> {
    let weight = prop_oneof![1 => Just(0u32), 8 => 500..4000u32, 1 => 1..100_000u32];
    prop::collection::vec((weight, 0..5usize), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Anyone may come, go, and change weight and zone, all at once.
    #[test]
    fn any_history_keeps_the_promises(
        history in prop::collection::vec(any_members(), 1..4),
        replicas in 1..6u32,
        partition_bits in 0..8u32,
    ) {
        let mut layout = Layout::founding(1 << partition_bits, replicas, member(0, 1000, 0));
        for members in history {
            let members: Vec<Candidate> = members
                .into_iter()
                .enumerate()
                .map(|(number, (weight, zone))| member(number, weight, zone))
                .collect();
            if members.iter().all(|member| member.weight_milli == 0) {
                prop_assert!(layout.suits(&members));
                continue;
            }
            layout = step(&layout, &members);
            let bytes = postcard::to_stdvec(&layout).expect("encodes");
            prop_assert_eq!(&postcard::from_bytes::<Layout>(&bytes).expect("decodes"), &layout);
        }
    }

    #[test]
    fn the_order_of_members_does_not_matter(
        members in any_members().prop_map(|members| {
            let member = |(number, (weight, zone))| member(number, weight, zone);
            members.into_iter().enumerate().map(member).collect::<Vec<_>>()
        }).prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
    ) {
        let founding = Layout::founding(64, 3, member(0, 1000, 0));
        prop_assert_eq!(founding.next(&members.0), founding.next(&members.1));
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(layout) = postcard::from_bytes::<Layout>(&bytes) {
            prop_assert_eq!(layout.validate(), Ok(()));
        }
    }
}
