//! Disks that are gone: a node that comes back with its name and nothing else.

use std::fs;

use rusqlite::{Connection, OpenFlags};

use crate::common::{Expect, Node, Plan, eventually, item};
use crate::heal::start_cluster;
use crate::workload::{TABLES, heal_and_judge, work_under};

/// How many operations go well between two faults.
const BETWEEN: usize = 60;

/// How many items lie on a node's disk.
fn items_on_disk(node: &Node) -> Result<u64, String> {
    let said = |error: rusqlite::Error| format!("{}: {error}", node.name);
    let mut count = 0;
    for entry in fs::read_dir(node.data_dir()).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "db") {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
            let connection = Connection::open_with_flags(path, flags).map_err(said)?;
            let of_file: i64 = connection
                .query_row("SELECT count(*) FROM items", [], |row| row.get(0))
                .map_err(said)?;
            count += of_file.unsigned_abs();
        }
    }
    Ok(count)
}

#[test]
fn a_wiped_node_mints_nothing_twice_and_loses_nothing() {
    let cluster = start_cluster(Plan::with(TABLES));
    let history = work_under(&cluster, |progress| {
        progress.wait_for(2 * BETWEEN);
        cluster.nodes[0].kill9();
        cluster.nodes[0].forget();
        cluster.restart(0);
        progress.wait_for(2 * BETWEEN);
    });
    heal_and_judge("a wiped data directory", &cluster, &history);
}

#[test]
fn a_wiped_node_is_filled_again_without_anyone_reading() {
    const ITEMS: usize = 200;
    let cluster = start_cluster(Plan::with(TABLES));
    for key in 0..ITEMS {
        let path = item("raw", format!("k{key}"));
        cluster
            .at(key % 3)
            .put(&format!("{path}?w=all"), "v")
            .is(204);
    }
    for wiped in 0..3 {
        cluster.nodes[wiped].kill9();
        cluster.nodes[wiped].forget();
        cluster.restart(wiped);
        eventually(
            "the wiped node holds every item again",
            || match items_on_disk(&cluster.nodes[wiped])? {
                count if count >= ITEMS as u64 => Ok(()),
                count => Err(format!("{count} of {ITEMS}")),
            },
        );
    }
    // Every disk was lost once, one after the other.
    assert!(cluster.settle());
    for key in 0..ITEMS {
        let path = item("raw", format!("k{key}"));
        let text = cluster
            .at(key % 3)
            .get(&format!("{path}?r=all"))
            .is(200)
            .text();
        assert_eq!(text, "v");
    }
}
