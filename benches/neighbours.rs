//! What a module that spins costs the tables beside it.
//!
//! Run with `cargo bench --bench neighbours`, and `-- --help` for the flags. Three
//! nodes; some connections read carts whose two siblings are folded at each read,
//! write values and read them, in tables of their own. In turns that is all, and
//! in turns others ask without a pause for items whose module never comes to an
//! end. Printed: medians and 99th percentiles of both kinds of turns, and their
//! ratios in this one run. Not measured: what the spinning requests get, which is
//! their siblings and the reason.

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::{Connection, NAMES, Servers};
use hyper::Method;
use kinfold::client::{Client, Request};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A module that does what the first sibling's value says.
const MISBEHAVE: &[u8] = include_bytes!("../reconcilers/prebuilt/test/misbehave.wasm");
/// Carts to read; each has two siblings.
const CARTS: u64 = 100;
/// Items whose module spins: enough that no two requests wait for the same one.
const SPINNING: u64 = 100;

/// Measures tables beside one whose module spins
#[derive(Parser, Debug)]
struct Args {
    /// How long each turn lasts, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How many pairs of turns
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Connections of each kind: reading carts, writing and reading values
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Connections that ask for items whose module spins
    #[arg(long, default_value_t = 6)]
    spinning: usize,
    /// The server to run, to compare one build with another
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_kinfold"))]
    server: PathBuf,
    /// What `cargo bench` passes along
    #[arg(long, hide = true)]
    bench: bool,
}

const KINDS: [&str; 3] = ["fold at a read", "put", "get"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let data = tempfile::Builder::new()
        .prefix("kinfold-neighbours-")
        .tempdir()?;
    let servers = Servers::start(data.path(), &args.server, "commit", &[]).await?;
    prepare(&servers).await?;
    let next = Arc::new(AtomicU64::new(0));
    // The first turn warms up.
    turn(&args, &servers, &next, false).await?;
    let mut quiet: [Vec<u64>; 3] = Default::default();
    let mut beside: [Vec<u64>; 3] = Default::default();
    let mut asked = 0;
    for round in 1..=args.rounds {
        let (alone, _) = turn(&args, &servers, &next, false).await?;
        let (disturbed, spun) = turn(&args, &servers, &next, true).await?;
        asked += spun;
        for kind in 0..KINDS.len() {
            quiet[kind].extend(&alone[kind]);
            beside[kind].extend(&disturbed[kind]);
        }
        eprintln!("round {round} of {}", args.rounds);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "",
        "alone p50",
        "p99",
        "a second",
        "beside p50",
        "p99",
        "a second",
        "p50 ×",
        "p99 ×",
    ]);
    let took = (args.seconds * args.rounds as u64) as f64;
    for kind in 0..KINDS.len() {
        let (alone, disturbed) = (&mut quiet[kind], &mut beside[kind]);
        ensure!(
            !alone.is_empty() && !disturbed.is_empty(),
            "nothing was answered"
        );
        alone.sort_unstable();
        disturbed.sort_unstable();
        let at = |latencies: &[u64], share: f64| {
            latencies[((latencies.len() as f64 * share) as usize).min(latencies.len() - 1)] as f64
        };
        let mut row = vec![KINDS[kind].to_owned()];
        for latencies in [&*alone, &*disturbed] {
            row.push(format!("{:.2} ms", at(latencies, 0.5) / 1e3));
            row.push(format!("{:.2} ms", at(latencies, 0.99) / 1e3));
            row.push(format!("{:.0}", latencies.len() as f64 / took));
        }
        for share in [0.5, 0.99] {
            row.push(format!("{:.2}", at(disturbed, share) / at(alone, share)));
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!(
        "{} connections of each kind, {} that ask for what spins ({asked} of these were answered)\n{table}",
        args.connections, args.spinning,
    );
    Ok(())
}

/// The module, the tables, the carts, and what spins.
async fn prepare(servers: &Servers) -> anyhow::Result<()> {
    let client = Client::new(&servers.addresses[0])?;
    let path = "/v1/reconcilers/misbehave?accept=unlawful";
    let upload = Request::put(path, MISBEHAVE).content_type("application/wasm")?;
    let answer = client.send(upload).await?;
    ensure!(answer.status.is_success(), "upload: {}", answer.status);
    for (table, reconciler) in [("spins", "misbehave"), ("baskets", "cart-union")] {
        let definition = format!("{{\"reconciler\":\"{reconciler}\"}}");
        let path = format!("/v1/tables/{table}");
        let definition = Request::put(path, definition).content_type("application/json")?;
        let answer = client.send(definition).await?;
        ensure!(answer.status.is_success(), "{table}: {}", answer.status);
    }
    for address in &servers.addresses {
        let client = Client::new(address)?;
        for table in ["spins", "baskets"] {
            while !client
                .get(&format!("/v1/tables/{table}"))
                .await?
                .status
                .is_success()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let mut connection = Connection::open(&servers.addresses[0]).await?;
    for (table, count, values) in [
        ("spins", SPINNING, ["spin", "spin"]),
        (
            "baskets",
            CARTS,
            ["{\"apple\":1,\"pear\":2}", "{\"apple\":2,\"fig\":1}"],
        ),
    ] {
        for item in 0..count {
            let path = format!("/v1/tables/{table}/items/{item}");
            for value in values {
                let value = Bytes::from_static(value.as_bytes());
                connection.ask(Method::PUT, &path, None, value).await?;
            }
        }
    }
    Ok(())
}

/// Latencies in microseconds by kind, and how many spinning requests were answered.
async fn turn(
    args: &Args,
    servers: &Servers,
    next: &Arc<AtomicU64>,
    with_spinning: bool,
) -> anyhow::Result<([Vec<u64>; 3], u64)> {
    let over = Arc::new(AtomicBool::new(false));
    let spun = Arc::new(AtomicU64::new(0));
    let mut spinning = JoinSet::new();
    for place in 0..args.spinning * usize::from(with_spinning) {
        let address = servers.addresses[place % NAMES.len()].clone();
        let (over, spun) = (over.clone(), spun.clone());
        let mut item = place as u64;
        spinning.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                // A connection each: the last request may have no answer yet.
                let mut connection = Connection::open(&address).await?;
                let path = format!("/v1/tables/spins/items/{}", item % SPINNING);
                item += 7;
                let asked = connection.exchange(Method::GET, &path, None, Bytes::new());
                if let Ok(answer) = tokio::time::timeout(Duration::from_secs(1), asked).await {
                    answer?;
                    spun.fetch_add(1, Ordering::Relaxed);
                }
            }
            anyhow::Ok(())
        });
    }
    // What spins is under way when the clock starts.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut workers = JoinSet::new();
    for place in 0..args.connections * KINDS.len() {
        let kind = place % KINDS.len();
        let address = &servers.addresses[place / KINDS.len() % NAMES.len()];
        let mut connection = Connection::open(address).await?;
        let next = next.clone();
        workers.spawn(async move {
            let mut latencies_us = Vec::new();
            let mut now = Instant::now();
            while now < end {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let (method, path, value) = match kind {
                    0 => {
                        let path = format!("baskets/items/{}", number % CARTS);
                        (Method::GET, path, Bytes::new())
                    }
                    1 => {
                        let value = Bytes::from(vec![b'v'; 900]);
                        (Method::PUT, format!("raw/items/p{number}"), value)
                    }
                    _ => {
                        let path = format!("baskets/items/{}?siblings=true", number % CARTS);
                        (Method::GET, path, Bytes::new())
                    }
                };
                let path = format!("/v1/tables/{path}");
                connection.ask(method, &path, None, value).await?;
                let after = Instant::now();
                latencies_us.push((after - now).as_micros() as u64);
                now = after;
            }
            anyhow::Ok((kind, latencies_us))
        });
    }
    let mut latencies: [Vec<u64>; 3] = Default::default();
    while let Some(ended) = workers.join_next().await {
        let (kind, latencies_us) = ended??;
        latencies[kind].extend(latencies_us);
    }
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = spinning.join_next().await {
        ended?.context("a spinning request")?;
    }
    Ok((latencies, spun.load(Ordering::Relaxed)))
}
