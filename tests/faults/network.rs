//! A real network to cut: each node in a network namespace of its own, this
//! process on the router between them.
//!
//! ```text
//! this process ── router ─┬─ 10.77.1.1/30 ── 10.77.1.2  node a
//!                         ├─ 10.77.2.1/30 ── 10.77.2.2  node b
//!                         └─ …
//! ```
//!
//! Promises: what the router is told to drop it drops silently, one way, from the
//! next packet on; clients, who sit on the router, reach every node always.
//! Policy routes that lead into a black hole do this, so no firewall is needed.
//! Everything is gone with this process. Needs namespaces of this process's own,
//! see [`crate::isolation`].

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::{Cluster, Launch, Plan};
use crate::isolation::{loopback, run};

/// What has to work for this, tried in namespaces of its own.
pub const NEEDS: &[&[&str]] = &[
    &[
        "ip", "link", "add", "x", "type", "veth", "peer", "name", "y",
    ],
    &[
        "ip",
        "rule",
        "add",
        "from",
        "10.0.0.1",
        "to",
        "10.0.0.2",
        "blackhole",
    ],
    &["unshare", "--net", "true"],
    &["nsenter", "--version"],
];

/// Where nodes listen, each in its own namespace.
const PORT: u16 = 8101;

/// The network of a cluster.
pub struct Network {
    /// Processes that keep the namespaces there; they end with this one.
    holders: Vec<Child>,
    cut: BTreeSet<(usize, usize)>,
}

fn address(node: usize) -> String {
    format!("10.77.{}.2", node + 1)
}

impl Network {
    /// Lays cables to this many nodes.
    pub fn new(nodes: usize) -> Self {
        loopback();
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a namespace of our own");
        let holders = (0..nodes).map(Network::lay).collect();
        Network {
            holders,
            cut: BTreeSet::new(),
        }
    }

    fn lay(node: usize) -> Child {
        // It reads what never comes, until this process is gone.
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo here; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was tried");
        let mut holder = holder;
        let mut first = [0];
        let out = holder.stdout.as_mut().expect("it was asked for");
        std::io::Read::read_exact(out, &mut first).expect("it is in its namespace");
        let pid = holder.id().to_string();
        let (near, far) = (format!("kf{node}"), "eth0");
        run(
            "ip",
            &[
                "link", "add", &near, "type", "veth", "peer", "name", far, "netns", &pid,
            ],
        );
        let gateway = format!("10.77.{}.1", node + 1);
        run(
            "ip",
            &["addr", "add", &format!("{gateway}/30"), "dev", &near],
        );
        run("ip", &["link", "set", &near, "up"]);
        let there = |args: &[&str]| {
            run(
                "nsenter",
                &[&["--net", "--target", &pid, "ip"], args].concat(),
            );
        };
        there(&["link", "set", "lo", "up"]);
        there(&["addr", "add", &format!("{}/30", address(node)), "dev", far]);
        there(&["link", "set", far, "up"]);
        there(&["route", "add", "default", "via", &gateway]);
        holder
    }

    /// A command that runs another one in a node's namespace.
    pub fn under(&self, node: usize) -> Vec<String> {
        let pid = self.holders[node].id().to_string();
        ["nsenter", "--net", "--target", &pid]
            .map(str::to_owned)
            .into()
    }

    /// Nodes on this network that do not run yet.
    pub fn prepare(&self, plan: Plan) -> Cluster {
        let places = (0..self.holders.len())
            .map(|node| (address(node), PORT))
            .collect();
        let cluster = Cluster::prepare_at(places, plan);
        for (index, node) in cluster.nodes.iter().enumerate() {
            node.set_launch(Launch {
                under: self.under(index),
                ..Launch::default()
            });
        }
        cluster
    }

    /// Drops what one node sends to another.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        if self.cut.insert((from, to)) {
            Network::rule("add", from, to);
        }
    }

    /// Cuts two nodes off from each other.
    pub fn cut(&mut self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts these nodes off from all others.
    pub fn split(&mut self, side: &[usize]) {
        for &one in side {
            for other in (0..self.holders.len()).filter(|other| !side.contains(other)) {
                self.cut(one, other);
            }
        }
    }

    /// Mends everything.
    pub fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.cut) {
            Network::rule("del", from, to);
        }
    }

    fn rule(what: &str, from: usize, to: usize) {
        run(
            "ip",
            &[
                "rule",
                what,
                "from",
                &address(from),
                "to",
                &address(to),
                "blackhole",
            ],
        );
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            // It may have ended with its input already.
            let _ended = holder.kill();
            let _ended = holder.wait();
        }
    }
}
