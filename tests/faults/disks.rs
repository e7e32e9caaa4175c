//! Disks that are full, and disks that do not keep what they were given.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::common::{Cluster, Expect, Http, Plan, Request, eventually, item};
use crate::heal::start;
use crate::isolation::{isolated, loopback, run};
use crate::shim::{Shim, available};
use crate::workload::{TABLES, heal_and_judge, work_under};

/// How many operations go well between two faults.
const BETWEEN: usize = 60;
/// The exit code of a node whose disk did not take a sync.
const EXIT_FAILED_SYNC: i32 = 74;
/// The size of the values that fill a disk.
const VALUE_BYTES: usize = 8 << 10;

/// A node alone: what it cannot do, nobody does for it.
const LONE: &str = "[tables.raw]\nn = 1\nr = 1\nw = 1\n";

/// Puts, and remembers what was acknowledged and what was refused.
#[derive(Default)]
struct Told {
    stored: BTreeMap<String, String>,
    refused: Vec<String>,
    next: usize,
}

impl Told {
    /// Puts one value. True when it was stored.
    #[track_caller]
    fn put(&mut self, http: &Http) -> bool {
        let path = item("raw", format!("k{}", self.next));
        let value = format!("{}-{}", self.next, "x".repeat(VALUE_BYTES));
        self.next += 1;
        let reply = http.put(&path, value.clone());
        if reply.status == 204 {
            self.stored.insert(path, value);
            return true;
        }
        let detail = reply.refused(507, "storage_full");
        assert!(detail.contains("full"), "{detail}");
        self.refused.push(path);
        false
    }

    /// Everything acknowledged is there, nothing refused is.
    #[track_caller]
    fn check(&self, http: &Http) {
        for (path, value) in &self.stored {
            assert_eq!(&http.get(path).is(200).text(), value, "{path}");
        }
        for path in &self.refused {
            http.get(path).refused(404, "not_found");
        }
    }
}

/// What SQLite itself says of a node's files.
#[track_caller]
fn check_integrity(data_dir: &Path) {
    let mut files = 0;
    for entry in fs::read_dir(data_dir).expect("a data directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "db") {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
            let connection = Connection::open_with_flags(&path, flags).expect("it opens");
            let said: String = connection
                .query_row("PRAGMA integrity_check", [], |row| row.get(0))
                .expect("it is checked");
            assert_eq!(said, "ok", "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 0, "{} holds no database", data_dir.display());
}

/// A lone node meets a disk that is full, twice, and gets room again.
fn a_full_disk_comes_and_goes(cluster: &Cluster, set_full: impl Fn(bool)) {
    let http = cluster.at(0);
    let mut told = Told::default();
    for _ in 0..2 {
        for _ in 0..20 {
            assert!(told.put(http));
        }
        set_full(true);
        // What the files have room for within themselves may still be stored.
        eventually("the disk is full", || {
            if told.put(http) {
                Err(format!("{} values were stored", told.stored.len()))
            } else {
                Ok(())
            }
        });
        for _ in 0..20 {
            told.put(http);
        }
        told.check(http);
        set_full(false);
        eventually("there is room again", || {
            told.put(http).then_some(()).ok_or("507".to_owned())
        });
        told.check(http);
    }
    println!(
        "a full disk: {} stored, {} refused with 507",
        told.stored.len(),
        told.refused.len()
    );
    // Also a crash amid it leaves everything readable.
    set_full(true);
    eventually("the disk is full", || {
        if told.put(http) {
            Err(String::new())
        } else {
            Ok(())
        }
    });
    let node = &cluster.nodes[0];
    node.kill9();
    node.start();
    let serves = eventually(
        "it serves from a full disk, or says that it cannot",
        || match node.not_ready() {
            None => Ok(true),
            Some(_) if node.has_ended() => Ok(false),
            Some(reason) => Err(reason),
        },
    );
    println!("a restart on a full disk: the node serves: {serves}");
    if serves {
        told.check(http);
        set_full(false);
    } else {
        let said = node.said();
        let last = said.lines().last().unwrap_or_default();
        let says_why = last.contains("full") || last.contains("items-");
        assert!(says_why, "it says why, or where: {last}");
        set_full(false);
        node.start();
        node.wait_ready();
    }
    eventually("there is room again", || {
        told.put(http).then_some(()).ok_or("507".to_owned())
    });
    told.check(http);
    assert_eq!(node.stop().code(), Some(0));
    check_integrity(&node.data_dir());
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    if !available("disks::a_full_disk_refuses_writes_and_serves_reads") {
        return;
    }
    let cluster = Cluster::prepare(1, Plan::with(LONE));
    let shim = Shim::under(&cluster.nodes[0], cluster.dir());
    start(&cluster);
    a_full_disk_comes_and_goes(&cluster, |full| shim.no_space(full));
}

/// Fills what is left of a file system, or makes room again.
fn set_full(folder: &Path, full: bool) {
    let ballast = folder.join("ballast");
    if !full {
        fs::remove_file(ballast).expect("it goes");
        return;
    }
    let mut file = File::create(ballast).expect("a file");
    let zeros = vec![0; 64 << 10];
    // By pages in the end: not one is left.
    for length in [zeros.len(), 4 << 10] {
        while file.write_all(&zeros[..length]).is_ok() {}
    }
}

#[test]
fn a_full_file_system_refuses_writes_and_serves_reads() {
    let name = "disks::a_full_file_system_refuses_writes_and_serves_reads";
    let mount = ["mount", "-t", "tmpfs", "none", "/mnt"];
    if !isolated(name, &[&mount, &["ip", "link"]]) {
        return;
    }
    loopback();
    let cluster = Cluster::prepare(1, Plan::with(LONE));
    let data_dir = cluster.nodes[0].data_dir();
    fs::create_dir_all(&data_dir).expect("a folder");
    let at = data_dir.to_str().expect("a path of text");
    run("mount", &["-t", "tmpfs", "-o", "size=64m", "none", at]);
    start(&cluster);
    a_full_disk_comes_and_goes(&cluster, |full| set_full(&data_dir, full));
    run("umount", &[at]);
}

#[test]
fn two_nodes_go_on_beside_a_full_one() {
    if !available("disks::two_nodes_go_on_beside_a_full_one") {
        return;
    }
    let cluster = Cluster::prepare(3, Plan::with(TABLES));
    let shim = Shim::under(&cluster.nodes[1], cluster.dir());
    start(&cluster);
    let history = work_under(&cluster, |progress| {
        for _ in 0..2 {
            progress.wait_for(BETWEEN);
            shim.no_space(true);
            progress.wait_for(2 * BETWEEN);
            shim.no_space(false);
        }
        progress.wait_for(BETWEEN);
    });
    heal_and_judge("a full disk of three", &cluster, &history);
}

#[test]
fn a_failed_sync_ends_the_process() {
    if !available("disks::a_failed_sync_ends_the_process") {
        return;
    }
    let cluster = Cluster::prepare(1, Plan::with(LONE));
    let shim = Shim::under(&cluster.nodes[0], cluster.dir());
    let node = &cluster.nodes[0];
    start(&cluster);
    let mut told = Told::default();
    assert!(told.put(node.http()));
    shim.fail_sync(true);
    let unsure = node
        .http()
        .try_send(Request::put(item("raw", "unsure"), "v"));
    assert!(unsure.is_err(), "nobody is told anything: {unsure:?}");
    assert_eq!(node.wait_end().code(), Some(EXIT_FAILED_SYNC));
    let said = node.said();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("kinfold: node a ends"), "{last}");
    assert!(last.contains("its disk did not keep"), "{last}");
    // As long as the disk is so, it does not come up to take more.
    node.start();
    assert_ne!(node.wait_end().code(), Some(0));
    shim.fail_sync(false);
    cluster.restart(0);
    told.check(node.http());
    assert!(told.put(node.http()));
    assert_eq!(node.stop().code(), Some(0));
    check_integrity(&node.data_dir());
}

#[test]
fn two_nodes_go_on_beside_one_whose_sync_failed() {
    if !available("disks::two_nodes_go_on_beside_one_whose_sync_failed") {
        return;
    }
    let cluster = Cluster::prepare(3, Plan::with(TABLES));
    let shim = Shim::under(&cluster.nodes[2], cluster.dir());
    start(&cluster);
    let history = work_under(&cluster, |progress| {
        progress.wait_for(BETWEEN);
        shim.fail_sync(true);
        assert_eq!(cluster.nodes[2].wait_end().code(), Some(EXIT_FAILED_SYNC));
        progress.wait_for(BETWEEN);
        shim.fail_sync(false);
        cluster.restart(2);
        progress.wait_for(BETWEEN);
    });
    heal_and_judge("a failed sync of three", &cluster, &history);
}
