//! `kill -9` of any node, amid writes.

use crate::common::Plan;
use crate::heal::start_cluster;
use crate::workload::{TABLES, heal_and_judge, work_under};

/// How many nodes are killed, one after the other.
const KILLS: usize = 6;
/// How many operations go well between two faults.
const BETWEEN: usize = 60;

#[test]
fn any_node_is_killed_amid_writes() {
    let cluster = start_cluster(Plan::with(TABLES));
    let history = work_under(&cluster, |progress| {
        for kill in 0..KILLS {
            progress.wait_for(BETWEEN);
            let node = kill % 3;
            cluster.nodes[node].kill9();
            // Every other time the others have to do without it for a while.
            if kill % 2 == 0 {
                progress.wait_for(BETWEEN);
            }
            cluster.restart(node);
        }
        progress.wait_for(BETWEEN);
    });
    let verdict = heal_and_judge("kill -9", &cluster, &history);
    assert!(verdict.acknowledged >= KILLS * BETWEEN / 2);
}

#[test]
fn all_nodes_are_killed_at_once() {
    let cluster = start_cluster(Plan::with(TABLES));
    let history = work_under(&cluster, |progress| {
        for _ in 0..2 {
            progress.wait_for(BETWEEN);
            cluster.nodes.iter().for_each(|node| node.kill9());
            cluster.nodes.iter().for_each(|node| node.start());
        }
        progress.wait_for(BETWEEN);
    });
    heal_and_judge("kill -9 of all", &cluster, &history);
}
