//! Starting clusters, and waiting until they are whole again.
//!
//! Promises: a node starts with the compiled code of the built-in modules that
//! earlier clusters left ([`start`]), which saves seconds each and holds nothing
//! else; [`converge`] returns once every node serves and sees every other one
//! up, no node holds a hint, a read of all replicas finds nothing to repair in
//! any item, and every node answers the same for each. It waits for that by
//! looking, as long as the harness's patience lasts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kinfold::clock::{Clock, SystemClock};

use crate::common::{Cluster, Node, Plan, Request, eventually};

/// Where compiled code is kept from one cluster to the next. Nodes check what
/// they find there, so the worst that a stale file does is to be compiled anew.
fn compiled() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")
}

/// Copies what the other folder lacks.
fn copy_missing(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if !copy.exists() && entry.path().is_file() {
            // Tests run at once, and half a file is none.
            let part = tempfile::NamedTempFile::new_in(to)?;
            fs::copy(entry.path(), part.path())?;
            part.persist(copy)?;
        }
    }
    Ok(())
}

/// Starts all nodes of a cluster and waits until they see one another.
#[track_caller]
pub fn start(cluster: &Cluster) {
    let kept = compiled();
    fs::create_dir_all(&kept).expect("a folder");
    for node in &cluster.nodes {
        copy_missing(&kept, &node.data_dir().join("compiled")).expect("copies");
        node.start();
    }
    assert!(cluster.settle(), "ports stay theirs");
    copy_missing(&cluster.nodes[0].data_dir().join("compiled"), &kept).expect("copies");
}

/// Three nodes that see one another.
#[track_caller]
pub fn start_cluster(plan: Plan) -> Cluster {
    let cluster = Cluster::prepare(3, plan);
    start(&cluster);
    cluster
}

/// Waits until every node serves and sees every other one up.
#[track_caller]
pub fn full_service(cluster: &Cluster) -> Duration {
    let clock = SystemClock::new();
    assert!(cluster.settle(), "ports stay theirs");
    Duration::from_millis(clock.now().monotonic_ms)
}

/// How many copies this node has mended after reads since it started.
fn read_repairs(node: &Node) -> Result<u64, String> {
    let reply = node
        .http()
        .try_send(Request::get("/metrics"))
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("kinfold_read_repairs_total "))
        .and_then(|count| count.trim().parse().ok())
        .ok_or_else(|| "no count of read repairs".to_owned())
}

/// What a node answers for an item.
fn answer(node: &Node, path: &str, query: &str) -> Result<(u16, Option<String>), String> {
    let request = Request::get(format!("{path}?siblings=true&{query}"));
    let reply = node
        .http()
        .try_send(request)
        .map_err(|error| format!("{}: {error}", node.name))?;
    let status = reply.status.as_u16();
    if status != 200 && status != 404 {
        return Err(format!("{}: {path}: {status}", node.name));
    }
    Ok((status, reply.header("etag").map(str::to_owned)))
}

/// Waits until all nodes hold the same of all these items. Returns how long that
/// took.
#[track_caller]
pub fn converge<'p>(cluster: &Cluster, paths: impl IntoIterator<Item = &'p str>) -> Duration {
    let paths: BTreeSet<&str> = paths.into_iter().collect();
    let clock = SystemClock::new();
    assert!(cluster.settle(), "ports stay theirs");
    cluster.wait_no_hints();
    eventually("the nodes converge", || {
        let before: Vec<u64> = cluster
            .nodes
            .iter()
            .map(read_repairs)
            .collect::<Result<_, _>>()?;
        for (turn, path) in paths.iter().enumerate() {
            // A read of all copies mends what neither hints nor exchange reach.
            let node = &cluster.nodes[turn % cluster.nodes.len()];
            answer(node, path, "r=all")?;
        }
        let after: Vec<u64> = cluster
            .nodes
            .iter()
            .map(read_repairs)
            .collect::<Result<_, _>>()?;
        if before != after {
            return Err(format!("repairs went from {before:?} to {after:?}"));
        }
        for path in &paths {
            let answers = cluster
                .nodes
                .iter()
                .map(|node| answer(node, path, "r=1"))
                .collect::<Result<Vec<_>, _>>()?;
            if answers.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(format!("{path}: {answers:?}"));
            }
        }
        let hints: Vec<_> = cluster.nodes.iter().map(Node::hints).collect();
        if hints.iter().any(|hints| !hints.is_empty()) {
            return Err(format!("hints {hints:?}"));
        }
        Ok(())
    });
    Duration::from_millis(clock.now().monotonic_ms)
}
