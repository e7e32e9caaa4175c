//! What three nodes carry: a closed loop against three `kinfold serve` processes.
//!
//! Run with `cargo bench --bench load`, and `-- --help` for the flags. Each
//! phase lasts a few seconds; its clients keep one connection each, to one node
//! each, and ask again as soon as they are answered. Values are 900 bytes, N = 3,
//! R = W = 2, and writes are durable. Prints operations a second, latencies, and
//! the processor time of the three servers for each operation, which is what to
//! compare between machines, beside figures of other stores that `measures.md`
//! took elsewhere on a machine of this size. Not measured: a network, disks apart,
//! and clients on another machine; on few cores the clients take their share.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::{Connection, NAMES, Servers};
use hyper::Method;
use kinfold::client::{CONTEXT, Client};
use kinfold::clock::Dice;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Keys of the phases that read, change and operate.
const KEYS: u64 = 10_000;

/// Measured elsewhere on a 2-core machine (`measures.md`), not here.
const ELSEWHERE: [(&str, &str, &str, &str); 5] = [
    (
        "floor: hyper and SQLite, no store",
        "≈ 35 µs CPU",
        "≈ 15 µs CPU",
        "",
    ),
    (
        "Garage K2V, LMDB, fsync",
        "510/s; 2,210 µs; p99 162 ms",
        "12,600/s; 120 µs",
        "940/s",
    ),
    (
        "Garage K2V, LMDB, no fsync",
        "1,890/s; 950 µs; p99 63 ms",
        "14,400/s; 110 µs; p99 6 ms",
        "1,080/s",
    ),
    (
        "Riak KV, every replica fsyncs",
        "1,060/s; 1,830 µs; p99 102 ms",
        "1,900/s; 1,020 µs",
        "590/s",
    ),
    (
        "Riak KV, no fsync",
        "1,340/s; 1,440 µs; p99 111 ms",
        "1,830/s; 1,060 µs; p99 90 ms",
        "690/s",
    ),
];

/// Puts load on three nodes and says what it took
#[derive(Parser, Debug)]
struct Args {
    /// How long each phase lasts, in seconds
    #[arg(long, env = "LOAD_SECONDS", default_value_t = 5)]
    seconds: u64,
    /// How many connections, spread over the nodes
    #[arg(long, env = "LOAD_CONNECTIONS", default_value_t = 32)]
    connections: usize,
    #[arg(long, env = "LOAD_VALUE_BYTES", default_value_t = 900)]
    value_bytes: usize,
    /// commit: fsync before every acknowledgement; os: survive only a crash of the process
    #[arg(long, env = "LOAD_DURABILITY", default_value = "commit")]
    durability: String,
    /// Phases to run, of put, get, rmw, op; get reads what put wrote
    #[arg(long, env = "LOAD_PHASES", value_delimiter = ',', default_values = ["put", "get", "rmw", "op"])]
    phases: Vec<String>,
    /// The server to run, to compare one build with another
    #[arg(long, env = "LOAD_SERVER", value_name = "FILE", default_value = env!("CARGO_BIN_EXE_kinfold"))]
    server: PathBuf,
    /// What `cargo bench` passes along
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// A new key each, blindly.
    Put,
    /// A key that was put.
    Get,
    /// A read, and a write with its context; two requests, one operation.
    ReadModifyWrite,
    /// One more on a counter.
    Operation,
}

impl Phase {
    fn parse(text: &str) -> anyhow::Result<Phase> {
        Ok(match text {
            "put" => Phase::Put,
            "get" => Phase::Get,
            "rmw" => Phase::ReadModifyWrite,
            "op" => Phase::Operation,
            other => bail!("{other:?} is no phase; there are put, get, rmw and op"),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Phase::Put => "put",
            Phase::Get => "get",
            Phase::ReadModifyWrite => "read-modify-write",
            Phase::Operation => "operation (pn-counter)",
        }
    }

    /// One operation.
    async fn once(
        self,
        connection: &mut Connection,
        next: &AtomicU64,
        dice: u64,
        value: &Bytes,
    ) -> anyhow::Result<()> {
        match self {
            Phase::Put => {
                let path = format!(
                    "/v1/tables/raw/items/k{}",
                    next.fetch_add(1, Ordering::Relaxed)
                );
                connection
                    .ask(Method::PUT, &path, None, value.clone())
                    .await?;
            }
            Phase::Get => {
                // The last few may be on their way still, or their phase was cut off.
                let path = format!(
                    "/v1/tables/raw/items/k{}",
                    dice % next.load(Ordering::Relaxed).max(1)
                );
                connection
                    .ask(Method::GET, &path, None, Bytes::new())
                    .await?;
            }
            Phase::ReadModifyWrite => {
                let path = format!(
                    "/v1/tables/raw/items/k{}",
                    dice % next.load(Ordering::Relaxed).clamp(1, KEYS)
                );
                let read = connection
                    .ask(Method::GET, &path, None, Bytes::new())
                    .await?;
                let context = read
                    .headers()
                    .get(CONTEXT)
                    .context("no context")?
                    .to_str()?
                    .to_owned();
                connection
                    .ask(Method::PUT, &path, Some(&context), value.clone())
                    .await?;
            }
            Phase::Operation => {
                let path = format!("/v1/tables/counters/items/c{}/operations", dice % KEYS);
                connection
                    .ask(
                        Method::POST,
                        &path,
                        None,
                        Bytes::from_static(b"{\"add\":1}"),
                    )
                    .await?;
            }
        }
        Ok(())
    }
}

/// What a phase came to.
struct Figures {
    operations: usize,
    per_second: f64,
    cpu_us: f64,
    latencies_us: Vec<u64>,
}

impl Figures {
    fn milliseconds(&self, share: f64) -> String {
        let place =
            ((self.latencies_us.len() as f64 * share) as usize).min(self.latencies_us.len() - 1);
        format!("{:.2} ms", self.latencies_us[place] as f64 / 1_000.0)
    }
}

async fn run(
    phase: Phase,
    args: &Args,
    servers: &Servers,
    next: &Arc<AtomicU64>,
) -> anyhow::Result<Figures> {
    let mut connections = Vec::new();
    for place in 0..args.connections {
        connections.push(Connection::open(&servers.addresses[place % NAMES.len()]).await?);
    }
    let value = Bytes::from(vec![b'v'; args.value_bytes]);
    let cpu_before = servers.cpu_seconds()?;
    let begin = Instant::now();
    let end = begin + Duration::from_secs(args.seconds);
    let mut workers = JoinSet::new();
    for (seed, mut connection) in (1..).zip(connections) {
        let (next, value) = (next.clone(), value.clone());
        workers.spawn(async move {
            let mut dice = Dice::from_seed(seed);
            let mut latencies_us = Vec::new();
            let mut now = Instant::now();
            while now < end {
                phase
                    .once(&mut connection, &next, dice.next_u64(), &value)
                    .await?;
                let after = Instant::now();
                latencies_us.push((after - now).as_micros() as u64);
                now = after;
            }
            anyhow::Ok(latencies_us)
        });
    }
    let mut latencies_us = Vec::new();
    while let Some(ended) = workers.join_next().await {
        latencies_us.extend(ended??);
    }
    let took = begin.elapsed().as_secs_f64();
    let cpu = servers.cpu_seconds()? - cpu_before;
    ensure!(!latencies_us.is_empty(), "nothing was answered");
    latencies_us.sort_unstable();
    let operations = latencies_us.len();
    Ok(Figures {
        operations,
        per_second: operations as f64 / took,
        cpu_us: cpu * 1e6 / operations as f64,
        latencies_us,
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let phases = args
        .phases
        .iter()
        .map(|phase| Phase::parse(phase))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let data = tempfile::Builder::new().prefix("kinfold-load-").tempdir()?;
    let servers = Servers::start(data.path(), &args.server, &args.durability, &[]).await?;
    println!(
        "three nodes, pids {:?}; {} connections, {} bytes, durability {}, {} s a phase",
        servers.children.iter().map(Child::id).collect::<Vec<_>>(),
        args.connections,
        args.value_bytes,
        args.durability,
        args.seconds,
    );
    let next = Arc::new(AtomicU64::new(0));
    if !phases.contains(&Phase::Put) {
        fill(&args, &servers, &next).await?;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "here",
        "operations",
        "a second",
        "CPU each",
        "p50",
        "p99",
        "p99.9",
    ]);
    for phase in phases {
        let figures = run(phase, &args, &servers, &next).await?;
        table.add_row([
            phase.name().to_owned(),
            figures.operations.to_string(),
            format!("{:.0}", figures.per_second),
            format!("{:.0} µs", figures.cpu_us),
            figures.milliseconds(0.5),
            figures.milliseconds(0.99),
            figures.milliseconds(0.999),
        ]);
        report_counters(&servers, phase).await?;
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}\n{}", elsewhere());
    Ok(())
}

/// Keys to read, where no phase has put any.
async fn fill(args: &Args, servers: &Servers, next: &AtomicU64) -> anyhow::Result<()> {
    let mut connection = Connection::open(&servers.addresses[0]).await?;
    let value = Bytes::from(vec![b'v'; args.value_bytes]);
    for _ in 0..1_000 {
        Phase::Put.once(&mut connection, next, 0, &value).await?;
    }
    Ok(())
}

/// What the nodes say that a phase took: forwarding and repairs explain much.
async fn report_counters(servers: &Servers, phase: Phase) -> anyhow::Result<()> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for address in &servers.addresses {
        let reply = Client::new(address)?.get("/metrics").await?;
        for line in String::from_utf8_lossy(&reply.body).lines() {
            for name in [
                "kinfold_forwarded_total",
                "kinfold_read_repairs_total",
                "kinfold_hedges_total",
                "kinfold_hints_stored_total",
            ] {
                if let Some(figure) = line.strip_prefix(name) {
                    *sums.entry(name.to_owned()).or_default() += figure.trim().parse::<f64>()?;
                }
            }
        }
    }
    println!("so far, after {}: {sums:?}", phase.name());
    Ok(())
}

fn elsewhere() -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "elsewhere, 2 cores, 32 connections, 900 bytes",
        "put",
        "get",
        "read-modify-write",
    ]);
    for (what, put, get, change) in ELSEWHERE {
        table.add_row([what, put, get, change]);
    }
    table.to_string()
}
