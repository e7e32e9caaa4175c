//! Networks that are cut: a node alone, one way only, and where two nodes do not
//! see each other that both see a third.

use std::thread;
use std::time::Duration;

use kinfold::clock::{Clock, SystemClock};

use crate::common::{Expect, Plan, Request, eventually, item};
use crate::heal::{full_service, start};
use crate::isolation::isolated;
use crate::network::{NEEDS, Network};
use crate::workload::{TABLES, heal_and_judge, work_under};

/// How many operations go well between two faults.
const BETWEEN: usize = 60;
/// How long a cut lasts at least: longer than the suspicion of peers, and than
/// requests that were under way when it came.
const CUT: Duration = Duration::from_secs(4);

#[test]
fn networks_are_cut() {
    if !isolated("partitions::networks_are_cut", NEEDS) {
        return;
    }
    let mut network = Network::new(4);
    let cluster = network.prepare(Plan::with(TABLES));
    start(&cluster);
    let clock = SystemClock::new();
    let history = work_under(&cluster, |progress| {
        let during = |name: &str, network: &mut Network, seen: &[(usize, usize)]| {
            let begun_ms = clock.now().monotonic_ms;
            for &(by, of) in seen {
                cluster.wait_seen(by, of, false);
            }
            let noticed_ms = clock.now().monotonic_ms - begun_ms;
            progress.wait_for(BETWEEN);
            let spent = Duration::from_millis(clock.now().monotonic_ms - begun_ms);
            thread::sleep(CUT.saturating_sub(spent));
            network.heal();
            let whole = full_service(&cluster);
            println!("{name}: noticed after {noticed_ms} ms; healed → full service {whole:?}");
            progress.wait_for(BETWEEN);
        };
        progress.wait_for(BETWEEN);

        network.split(&[0]);
        during("a node alone", &mut network, &[(0, 1), (1, 0), (2, 0)]);

        // Two and two: with four nodes each side has half of each quorum.
        network.split(&[0, 1]);
        during("two and two", &mut network, &[(0, 2), (3, 1)]);

        // What 1 sends to 2 is lost, what 2 sends to 1 arrives.
        network.cut_one_way(1, 2);
        during("one way", &mut network, &[]);

        // 0 and 1 do not see each other; both see 2 and 3.
        network.cut(0, 1);
        cluster.wait_seen(0, 1, false);
        cluster.wait_seen(1, 0, false);
        for node in [0, 1] {
            assert_eq!(cluster.nodes[node].sees_up(), Ok(3), "the others are there");
            for turn in 0..20 {
                let path = item("raw", format!("beside-{node}-{turn}"));
                eventually("a write beside the cut", || {
                    let reply = cluster
                        .at(node)
                        .try_send(Request::put(path.clone(), "v"))
                        .map_err(|error| error.to_string())?;
                    match reply.status.as_u16() {
                        204 => Ok(()),
                        other => Err(format!("{other}: {}", reply.problem().detail)),
                    }
                });
            }
        }
        during("two that do not see each other", &mut network, &[(0, 1)]);
    });
    for node in [0, 1] {
        for turn in 0..20 {
            let path = item("raw", format!("beside-{node}-{turn}"));
            cluster.at(1 - node).get(&path).is(200);
        }
    }
    heal_and_judge("partitions", &cluster, &history);
}
