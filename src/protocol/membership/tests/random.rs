//! Whatever the network and the operators do.

use proptest::prelude::*;

use super::network::{self, Faults, Network};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the network does while the nodes start, die and come back:
    /// one cluster, one layout.
    #[test]
    fn a_bad_network_only_costs_time(
        seed in any::<u64>(),
        loss_percent in 0u64..35,
        repeat_percent in 0u64..30,
        longest_ms in 2u64..200,
        starts in prop::collection::vec(0u64..2_000, 4),
        crashes in prop::collection::vec((0usize..4, 500u64..6_000, 0u64..1_500), 0..5),
    ) {
        let names = ["a", "b", "c", "d"];
        let mut network = Network::new(seed, Faults { loss_percent, repeat_percent, longest_ms });
        network.add_all(&names, &ABC);
        let mut events: Vec<(u64, usize, bool)> =
            starts.iter().enumerate().map(|(index, &at_ms)| (at_ms, index, true)).collect();
        for &(index, at_ms, away_ms) in &crashes {
            events.push((at_ms, index, false));
            events.push((at_ms + away_ms, index, true));
        }
        events.sort_unstable();
        for (at_ms, index, start) in events {
            network.run_until(at_ms);
            match (start, network.is_running(names[index])) {
                (true, false) => network.start(names[index]),
                (false, true) => network.stop(names[index]),
                _ => {}
            }
        }
        for name in names {
            if !network.is_running(name) {
                network.start(name);
            }
        }
        network.calm();
        let now_ms = network.now_ms();
        let settled = network.settle(&names, now_ms + 30_000);
        prop_assert!(settled.is_some(), "{}", network.describe());
        prop_assert!(network.faults().is_empty(), "{:?}", network.faults());
        prop_assert_eq!(network.node("a").layout().map(|layout| layout.nodes().len()), Some(4));
    }

    /// The order of arrival never matters: entries merge like the maximum.
    #[test]
    fn entries_merge_in_any_order(
        entries in prop::collection::vec((1u64..3, 1u64..4, 0u8..4, 0u64..4), 1..8),
        seed in any::<u64>(),
    ) {
        let merged = |entries: &[(u64, u64, u8, u64)]| {
            let mut membership = network::lone_membership("a");
            for &(born, incarnation, status, heartbeat) in entries {
                let status = [Status::Joining, Status::Up, Status::Leaving, Status::Removed]
                    [usize::from(status)];
                let b = network::lone_membership("b");
                let member =
                    Member { born, incarnation, status, heartbeat, ..b.me().clone() };
                membership.merge_member(member, 0);
            }
            membership.member(NodeId::of("b")).cloned()
        };
        let mut shuffled = entries.clone();
        let mut dice = network::dice(seed);
        for place in (1..shuffled.len()).rev() {
            shuffled.swap(place, (dice() % (place as u64 + 1)) as usize);
        }
        prop_assert_eq!(merged(&entries), merged(&shuffled));
    }
}
