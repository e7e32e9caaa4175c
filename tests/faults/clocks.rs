//! Clocks that are an hour off, and step.

use crate::common::{Cluster, Expect, Plan, item};
use crate::heal::start;
use crate::shim::{Shim, available};
use crate::workload::{TABLES, heal_and_judge, work_under};

const HOUR: i64 = 3_600;
/// How many operations go well between two steps.
const BETWEEN: usize = 60;

fn lied_to(plan: Plan) -> (Cluster, Vec<Shim>) {
    let cluster = Cluster::prepare(3, plan);
    let shims: Vec<Shim> = cluster
        .nodes
        .iter()
        .map(|node| Shim::under(node, cluster.dir()))
        .collect();
    (cluster, shims)
}

#[test]
fn clocks_are_an_hour_off_and_step() {
    if !available("clocks::clocks_are_an_hour_off_and_step") {
        return;
    }
    let profiles = "[tables.profiles]\nreconciler = \"lww\"\n";
    let (cluster, shims) = lied_to(Plan::with(&format!("{TABLES}\n{profiles}")));
    shims[0].clock_off_by(HOUR);
    shims[1].clock_off_by(-HOUR);
    start(&cluster);

    // Who has seen a write comes after it, whatever the clocks say.
    let path = item("profiles", "p");
    let first = cluster.at(0).put(&format!("{path}?w=all"), "ahead").is(204);
    let read = cluster.at(1).get(&path).is(200);
    assert_eq!(read.text(), "ahead");
    cluster
        .at(1)
        .put_with(&format!("{path}?w=all"), "behind", &read.token())
        .is(204);
    assert_eq!(cluster.at(2).get(&path).is(200).text(), "behind");
    drop(first);
    let written = |node: usize| {
        let siblings = cluster.at(node).siblings(&path);
        assert_eq!(siblings.len(), 1);
        siblings[0].written_at.clone()
    };
    let before = written(1);

    let history = work_under(&cluster, |progress| {
        for (step, offsets) in [[-HOUR, HOUR, 0], [0, 0, HOUR], [HOUR, -24 * HOUR, -HOUR]]
            .into_iter()
            .enumerate()
        {
            progress.wait_for(BETWEEN);
            for (shim, offset) in shims.iter().zip(offsets) {
                shim.clock_off_by(offset + step as i64);
            }
            // A clock that steps says nothing about who lives.
            for seen in 0..3 {
                for by in 0..3 {
                    cluster.wait_seen(by, seen, true);
                }
            }
        }
        progress.wait_for(BETWEEN);
        cluster.nodes[1].kill9();
        cluster.restart(1);
        progress.wait_for(BETWEEN);
    });
    heal_and_judge("clocks an hour off", &cluster, &history);

    // A day behind what it wrote last, and yet later.
    let read = cluster.at(1).get(&path).is(200);
    cluster
        .at(1)
        .put_with(&format!("{path}?w=all"), "last", &read.token())
        .is(204);
    assert!(written(1) > before, "{} after {before}", written(1));
    for node in &cluster.nodes {
        assert_eq!(node.http().get(&path).is(200).text(), "last");
    }
}
