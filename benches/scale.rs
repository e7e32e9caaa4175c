//! Clusters larger than any machine here: what members cost each other, what rings
//! and trees take, and at what pace a node is filled that joins.
//!
//! `cargo bench --bench scale` prints five tables in some minutes; with a number
//! (`-- 100`) clusters larger than that are left out. All of it is the real
//! machines, in memory (`scenes/world.rs`): messages travel in no time and stores
//! answer at once, so that processor time is the machines' own work, virtual seconds
//! are the protocol's own waiting, and bytes are those of frames. Not measured:
//! sockets, disks, and what it takes to keep a thousand connections. What follows
//! from the figures is in `docs/performance-scale.md`.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use comfy_table::{CellAlignment, Table, presets};
use kinfold::protocol::context::Context;
use kinfold::protocol::effect::Input;
use kinfold::protocol::id::{ClusterId, ItemKey, Partition, Position, TableId};
use kinfold::protocol::layout::{Candidate, Layout};
use kinfold::protocol::membership::{Member, Persisted, Status, tag_of};
use kinfold::protocol::merkle::{Tree, width};
use kinfold::protocol::message::{Ask, ItemRequest, Response};
use kinfold::protocol::ring::{MAX_PREFERENCE, Ring};

use scenes::SMALL_BYTES;
use scenes::processor::timed;
use scenes::protocol::candidates;
use scenes::world::{TABLE, Traffic, World, identity};

mod scenes;

/// How many nodes the clusters have.
const SIZES: [usize; 4] = [3, 10, 100, 1_000];
/// Into how many partitions the rings of the clusters that gossip are cut.
const PARTITIONS: u32 = 4_096;
/// A tick, in virtual milliseconds: as in a server.
const TICK_MS: u64 = 10;
/// How many items lie on the three nodes that another joins.
const ITEMS: u64 = 200_000;

/// Into how many partitions they fall: few, so that each is as long as in a store of
/// a hundred million items, and beginning a session does not weigh.
const FILLED_PARTITIONS: u32 = 16;

/// How long a cluster is watched, in virtual milliseconds.
#[derive(Clone, Copy)]
struct Watch {
    tick_ms: u64,
    /// Before it counts as settled.
    settling_ms: u64,
    /// How long its gossip is counted, once settled and once while one joins.
    counted_ms: u64,
}

impl Watch {
    /// The largest clusters are watched shorter and less closely, or they would take
    /// an hour.
    fn of(nodes: usize) -> Watch {
        if nodes < 1_000 {
            Watch {
                tick_ms: TICK_MS,
                settling_ms: 15_000,
                counted_ms: 20_000,
            }
        } else {
            Watch {
                tick_ms: 10 * TICK_MS,
                settling_ms: 10_000,
                counted_ms: 8_000,
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` runs benches too, without this flag.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let largest = arguments.iter().find_map(|argument| argument.parse().ok());
    rings(largest.unwrap_or(1_000).clamp(3, 1_000));
    trees();
    filling();
    ticks();
    gossip(largest.unwrap_or(usize::MAX));
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

// Gossip.

/// Settled clusters, and one node that joins them.
fn gossip(largest: usize) {
    println!("Gossip, {PARTITIONS} partitions: what one node sends, and what it works for it");
    let mut table = table(&[
        "nodes",
        "bytes/s",
        "messages/s",
        "largest frame",
        "work ms/s",
        "one joins: bytes more",
        "largest frame",
        "all know the layout after",
    ]);
    for nodes in SIZES.into_iter().filter(|nodes| *nodes <= largest) {
        let watch = Watch::of(nodes);
        let mut world = remembering(nodes, nodes);
        world.pass(watch.settling_ms, watch.tick_ms);
        world.counts = true;
        let (settled, worked_ms) = timed(|| counted(&mut world, watch));
        let node_seconds = nodes as f64 * watch.counted_ms as f64 / 1000.0;
        let each = |figure: u64| figure as f64 / node_seconds;

        // The same time again, in which one joins.
        world.start(identity(nodes, PARTITIONS), None);
        let joiner = world.nodes[nodes].id;
        world.traffic = Traffic::default();
        let begun_ms = world.now_ms;
        let mut all_know_ms = None;
        while world.now_ms < begun_ms + watch.counted_ms {
            world.pass(watch.tick_ms, watch.tick_ms);
            let knows = |node: &scenes::world::Node| {
                let ring = node.machine.ring();
                ring.is_some_and(|ring| ring.layout().nodes().binary_search(&joiner).is_ok())
            };
            if all_know_ms.is_none() && world.nodes.iter().all(knows) {
                all_know_ms = Some(world.now_ms - begun_ms);
            }
        }
        let joining = world.traffic;
        let more = joining
            .gossip_bytes
            .saturating_sub(settled.gossip_bytes * (nodes as u64 + 1) / nodes as u64);
        table.add_row([
            nodes.to_string(),
            format!("{:.0}", each(settled.gossip_bytes)),
            format!("{:.1}", each(settled.gossip_messages)),
            settled.gossip_largest_bytes.to_string(),
            format!("{:.2}", worked_ms / node_seconds),
            format!("{:.0}", more as f64 / (nodes + 1) as f64),
            joining.gossip_largest_bytes.to_string(),
            all_know_ms.map_or_else(
                || "not yet".to_owned(),
                |ms| format!("{:.1} s", ms as f64 / 1000.0),
            ),
        ]);
    }
    println!("{table}");
    println!("Work: of a processor, with a tick each 10 ms (100 ms from 1,000 nodes on); frames");
    println!("are counted but not encoded.\n");
}

fn counted(world: &mut World, watch: Watch) -> Traffic {
    world.traffic = Traffic::default();
    world.pass(watch.counted_ms, watch.tick_ms);
    world.traffic
}

/// What a tick costs in which nothing is due: a server has a hundred in a second.
fn ticks() {
    const TICKS: usize = 100;
    println!("A tick in which nothing is due, {PARTITIONS} partitions");
    let mut table = table(&["members", "µs"]);
    for nodes in SIZES {
        let mut world = remembering(nodes, 3);
        world.pass(10 * TICK_MS, TICK_MS);
        let now = world.now();
        let ((), spent_ms) = timed(|| {
            for node in &mut world.nodes {
                for _ in 0..TICKS {
                    black_box(node.machine.step(now, Input::Tick));
                }
            }
        });
        let each_us = spent_ms * 1000.0 / (3 * TICKS) as f64;
        table.add_row([nodes.to_string(), format!("{each_us:.1}")]);
    }
    println!("{table}\n");
}

/// A cluster that was stopped and starts again, this many of its nodes at once: each
/// remembers all of them, and the layout.
fn remembering(nodes: usize, starting: usize) -> World {
    let candidate = |number: usize| {
        let identity = identity(number, PARTITIONS);
        Candidate {
            node: identity.node,
            weight_milli: identity.weight_milli,
            zone: identity.zone,
        }
    };
    let candidates: Vec<Candidate> = (0..nodes).map(candidate).collect();
    let layout = Layout::founding(PARTITIONS, 3, candidates[0].clone()).next(&candidates);
    let version = layout.version();
    let tag = tag_of(layout.digest());
    let member = |number: usize| {
        let identity = identity(number, PARTITIONS);
        Member {
            node: identity.node,
            name: identity.name,
            born: 1,
            incarnation: 1,
            status: Status::Up,
            address: identity.address,
            weight_milli: identity.weight_milli,
            zone: identity.zone,
            wire_version: identity.wire_version,
            heartbeat: 100_000,
            layout_seen: version,
            layout_synced: version,
            synced_tag: tag,
            layout_read: version,
        }
    };
    let members: Vec<Member> = (0..nodes).map(member).collect();
    let mut world = World::new();
    for number in 0..starting {
        let identity = identity(number, PARTITIONS);
        let persisted = Persisted {
            node: identity.node,
            incarnation: 1,
            cluster: Some(ClusterId(7)),
            members: members.clone(),
            layouts: vec![layout.clone()],
            catalog: Default::default(),
        };
        world.start(identity, Some(persisted));
    }
    world
}

// Rings.

fn rings(nodes: usize) {
    println!("{nodes} nodes of three weights in five zones");
    let mut table = table(&[
        "partitions",
        "layout ms",
        "one joins ms",
        "moved share",
        "of its fair share",
        "ring ms",
        "lookup ns",
        "ring bytes",
        "layout bytes",
    ]);
    let members = candidates(nodes + 1);
    for partitions in [256, 4_096, 16_384, 65_536] {
        let founding = Layout::founding(partitions, 3, members[0].clone());
        let (layout, born_ms) = timed(|| founding.next(&members[..nodes]));
        let (joined, join_ms) = timed(|| layout.next(&members));
        let moved: usize = (0..partitions)
            .map(Partition)
            .map(|partition| {
                let came = |node| !layout.is_holder(node, partition);
                joined.holders(partition).filter(|node| came(*node)).count()
            })
            .sum();
        let replicas = 3 * partitions as usize;
        let newest = members[nodes].node;
        let gained = joined.partitions_of(newest).count();
        let bytes = postcard::to_stdvec(&joined)
            .expect("a layout encodes")
            .len();
        let joined = Arc::new(joined);
        let (ring, ring_ms) = timed(|| Ring::new(joined));
        const LOOKUPS: u32 = 10_000_000;
        let (_, lookup_ms) = timed(|| {
            let mut partition = 0;
            for _ in 0..LOOKUPS {
                partition = (partition + 40_503) % partitions;
                black_box(ring.preference(Partition(partition)));
            }
        });
        table.add_row([
            partitions.to_string(),
            format!("{born_ms:.1}"),
            format!("{join_ms:.1}"),
            format!("{:.3} %", moved as f64 * 100.0 / replicas as f64),
            format!("{:.2}", moved as f64 / gained.max(1) as f64),
            format!("{ring_ms:.2}"),
            format!("{:.1}", lookup_ms * 1e6 / f64::from(LOOKUPS)),
            (partitions as usize * MAX_PREFERENCE.min(nodes) * size_of::<u64>()).to_string(),
            bytes.to_string(),
        ]);
    }
    println!("{table}");
    println!("Of its fair share: what moves, by what the node that joins is given.\n");
}

// Trees.

fn trees() {
    println!("Merkle trees of a node that holds every partition, for one number of replicas");
    let mut table = table(&[
        "partitions",
        "buckets each",
        "memory",
        "items a bucket, of 1 million",
        "of 1,000 million",
    ]);
    for partitions in [256, 4_096, 65_536] {
        let tree = Tree::new(width(partitions));
        let sums: usize = (0..=tree.depth())
            .map(|level| tree.level(level).len())
            .sum();
        let bytes = partitions as usize * sums * size_of::<u128>();
        let buckets = f64::from(partitions * width(partitions));
        table.add_row([
            partitions.to_string(),
            width(partitions).to_string(),
            format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
            format!("{:.1}", 1e6 / buckets),
            format!("{:.0}", 1e9 / buckets),
        ]);
    }
    println!("{table}\n");
}

// Filling.

/// A fourth node joins three that hold items, and is given half of them: it shares a
/// zone with one of the three.
fn filling() {
    let mut world = World::of_three(FILLED_PARTITIONS);
    let value = Bytes::from(vec![b'v'; SMALL_BYTES]);
    for number in 0..ITEMS {
        let name = format!("user:{number:08}");
        let table = TableId::of(TABLE, 1);
        let item = ItemRequest {
            table,
            partition: Position::of(TABLE, name.as_bytes()).partition(FILLED_PARTITIONS),
            key: ItemKey::new(table, name.as_bytes(), None),
            ask: Ask::Put {
                client: Context::new(),
                value: value.clone(),
                content_type: Arc::from("application/json"),
                representation: false,
            },
            r: 2,
            w: 2,
            strict: false,
            timeout_ms: 5_000,
        };
        let response = world.ask(number as usize % 3, item);
        assert!(matches!(response, Response::Written { .. }), "{response:?}");
    }
    world.counts = true;
    world.start(identity(3, FILLED_PARTITIONS), None);
    world.traffic = Traffic::default();
    let begins = |world: &World| !world.nodes[3].machine.transfers().is_empty();
    let waited_ms = pass_until(&mut world, 60_000, begins);
    let (filled_ms, worked_ms) = timed(|| {
        let is_up = |world: &World| world.nodes[3].machine.membership().me().status == Status::Up;
        pass_until(&mut world, 3_600_000, is_up)
    });
    report_filling(&world, waited_ms, filled_ms, worked_ms);
}

/// As `World::pass_until`, with the ticks of a server.
fn pass_until(world: &mut World, patience_ms: u64, done: impl Fn(&World) -> bool) -> u64 {
    let begun_ms = world.now_ms;
    while !done(world) {
        world.pass(TICK_MS, TICK_MS);
        assert!(
            world.now_ms < begun_ms + patience_ms,
            "{patience_ms} ms, and nothing came of it"
        );
    }
    world.now_ms - begun_ms
}

fn report_filling(world: &World, waited_ms: u64, filled_ms: u64, worked_ms: f64) {
    let joiner = &world.nodes[3].machine;
    let items: u64 = joiner.trees().present().map(|(_, _, items)| items).sum();
    let counters = joiner.counters();
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
    let per_second = (items * SMALL_BYTES as u64) as f64 * 1000.0 / filled_ms as f64;
    println!("A node joins three that hold {ITEMS} items of {SMALL_BYTES} bytes");
    let mut table = table(&["", ""]);
    for (what, figure) in [
        ("until the transfer begins", seconds(waited_ms)),
        ("until the node is up", seconds(filled_ms)),
        ("items that it holds then", items.to_string()),
        (
            "of them by its own sessions",
            counters.rows_received.to_string(),
        ),
        ("its sessions", counters.sessions_begun.to_string()),
        (
            "frames of all nodes",
            format!("{:.1} MB", world.traffic.other_bytes as f64 / 1e6),
        ),
        ("pace, in values", format!("{:.1} MB/s", per_second / 1e6)),
        (
            "1 TB of values at this pace",
            format!("{:.1} hours", 1e12 / per_second / 3600.0),
        ),
        (
            "work of all four machines",
            format!("{:.2} s of a processor", worked_ms / 1000.0),
        ),
    ] {
        table.add_row([what.to_owned(), figure]);
    }
    println!("{table}\n");
}
