//! What a node shows of itself and of the cluster: as seen from here, and
//! possibly a gossip round old.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{ModuleFigures, Node, Trouble, lock};
use crate::metrics::{self, Family, Samples};
use crate::protocol::catalog::Digest;
use crate::protocol::id::{Partition, Position};
use crate::protocol::membership::Status;

/// What `GET /v1/cluster` shows.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub node: Arc<str>,
    pub cluster: Option<String>,
    pub layout_version: u64,
    /// The version of the layout that reads go by: the same, but for the time that
    /// the newest one's data is on its way.
    pub layout_read: u64,
    pub members: Vec<MemberView>,
    /// Partitions with fewer live holders than they should have, by the layout that
    /// reads go by.
    pub under_replicated: u64,
    /// Items that this node holds of partitions that it does not own, those kept
    /// for a primary that is away among them.
    pub strays: u64,
    /// What this node is being filled with.
    pub transfers: Vec<TransferView>,
}

/// How far the filling of this node from another has come.
#[derive(Clone, Debug)]
pub struct TransferView {
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub partitions_done: u64,
    pub partitions: u64,
}

/// One member as this node sees it.
#[derive(Clone, Debug)]
pub struct MemberView {
    pub node: Arc<str>,
    pub address: Arc<str>,
    /// joining, up, leaving or removed.
    pub status: &'static str,
    pub up: bool,
    pub zone: Arc<str>,
    pub weight: f64,
    pub partitions: u64,
    /// Hints that this node holds for it.
    pub hints: u64,
    /// How far its clock is ahead of ours, as gossip shows; none before the first.
    pub clock_offset_us: Option<i64>,
}

/// What `GET /v1/cluster/ring/{table}/{partition_key}` shows.
#[derive(Clone, Debug)]
pub struct RingView {
    pub position: Position,
    pub partition: Partition,
    /// Names in order; the first `n` are primaries.
    pub preference: Vec<PreferenceView>,
}

/// One place of a preference list.
#[derive(Clone, Debug)]
pub struct PreferenceView {
    pub node: Arc<str>,
    pub address: Arc<str>,
    pub up: bool,
    pub primary: bool,
}

impl Node {
    /// The cluster as seen from here.
    pub fn cluster_view(&self) -> ClusterView {
        let machine = lock(&self.machine);
        let membership = machine.membership();
        let me = membership.me().node;
        let layout = membership.layout();
        let mut members: Vec<MemberView> = membership
            .members()
            .filter(|member| member.status != Status::Removed)
            .map(|member| MemberView {
                node: member.name.clone(),
                address: member.address.clone(),
                status: member.status.as_str(),
                up: machine.is_up(member.node),
                zone: member.zone.clone(),
                weight: f64::from(member.weight_milli) / 1000.0,
                partitions: layout
                    .map_or(0, |layout| layout.partitions_of(member.node).count() as u64),
                hints: machine.hints_held(member.node),
                clock_offset_us: if member.node == me {
                    Some(0)
                } else {
                    membership.clock_offset_us(member.node)
                },
            })
            .collect();
        members.sort_by(|left, right| left.node.cmp(&right.node));
        let under_replicated = membership.reading().map_or(0, |layout| {
            (0..layout.partitions())
                .filter(|&partition| {
                    let live = layout
                        .holders(Partition(partition))
                        .filter(|&node| machine.is_up(node));
                    live.count() < layout.replicas() as usize
                })
                .count() as u64
        });
        let name_of = |node| {
            let member = membership.member(node);
            member.map_or_else(|| Arc::from(node.to_string()), |member| member.name.clone())
        };
        let transfers = machine
            .transfers()
            .into_iter()
            .map(|transfer| TransferView {
                from: name_of(transfer.from),
                to: self.name.clone(),
                partitions_done: transfer.done,
                partitions: transfer.total,
            })
            .collect();
        ClusterView {
            node: self.name.clone(),
            cluster: membership.cluster().map(|cluster| cluster.to_string()),
            layout_version: layout.map_or(0, |layout| layout.version()),
            layout_read: membership.reading().map_or(0, |layout| layout.version()),
            members,
            under_replicated,
            strays: machine.strays(),
            transfers,
        }
    }

    /// Where an item lies; none before a layout is known or if no such table is.
    pub fn ring_view(&self, table: &str, partition_key: &[u8]) -> Option<RingView> {
        let machine = lock(&self.machine);
        let definition = machine.tables().get(table)?.definition.clone();
        let ring = machine.reading_ring()?;
        let position = Position::of(table, partition_key);
        let partition = ring.partition(position);
        let membership = machine.membership();
        let preference = ring
            .preference(partition)
            .iter()
            .enumerate()
            .map(|(place, &node)| {
                let member = membership.member(node);
                PreferenceView {
                    node: member.map_or_else(|| node.to_string().into(), |m| m.name.clone()),
                    address: member.map_or_else(|| "".into(), |m| m.address.clone()),
                    up: machine.is_up(node),
                    primary: place < definition.n as usize,
                }
            })
            .collect();
        Some(RingView {
            position,
            partition,
            preference,
        })
    }

    /// The bytes of a module that this node holds.
    pub fn module_bytes(&self, digest: Digest) -> Option<Bytes> {
        self.ports.modules.bytes(digest).unwrap_or_else(|error| {
            tracing::warn!(%digest, %error, "a module cannot be read");
            None
        })
    }

    /// How a module has fared on this node.
    pub fn module_health(&self, digest: Digest) -> ModuleFigures {
        self.ports.modules.health(digest)
    }

    /// What is wrong with modules on this node; those that never failed are not
    /// named.
    pub fn troubles(&self) -> BTreeMap<Digest, Trouble> {
        self.ports.guests.troubles()
    }

    /// Everything that `/metrics` shows, as Prometheus text.
    pub fn metrics_text(&self) -> String {
        let (counters, members) = {
            let machine = lock(&self.machine);
            let members: Vec<(Arc<str>, bool)> = machine
                .membership()
                .members()
                .filter(|member| member.status != Status::Removed)
                .map(|member| (member.name.clone(), machine.is_up(member.node)))
                .collect();
            (machine.counters(), members)
        };
        let mut families = metrics::of_machine(&counters);
        families.extend(metrics::of_store(&self.ports.store.figures()));
        let health = self.ports.modules.all_health();
        families.extend(metrics::of_modules(&health));
        families.extend(metrics::of_reconcilers(
            &self.catalog(),
            &health,
            &self.troubles(),
        ));
        families.push(Family {
            name: "kinfold_member_up",
            help: "Whether each member seems to be up from here",
            samples: Samples::Gauge(
                members
                    .into_iter()
                    .map(|(name, up)| (vec![("node", name.to_string())], f64::from(u8::from(up))))
                    .collect(),
            ),
        });
        self.ports.metrics.text(&families)
    }
}
