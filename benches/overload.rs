//! What three nodes do with more than they can carry.
//!
//! Run with `cargo bench --bench overload`, and `-- --help` for the flags. First
//! the best that a closed loop gets is measured. Then requests come in an open
//! loop, at multiples of that: they come when they are due, whatever became of
//! those before, as clients do that do not know of each other. Each gives up
//! after a timeout and closes its connection. Printed: what was answered in time
//! (goodput) and its share of the best, what was refused and how quickly, what
//! found no answer, and the memory of the servers. The goal is 80 % of the best
//! at five times the best. Where `taskset` is there the nodes have one core, and
//! the clients the others: refused requests cost their clients as much as the
//! nodes, and those are elsewhere in life. Not measured: networks, and clients
//! that heed `Retry-After`, which would make it easy.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::{NAMES, Servers};
use kinfold::clock::Dice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many connections the closed loop uses: enough to keep every part busy.
const CLOSED_CONNECTIONS: usize = 64;
/// Keys that are written and read.
const KEYS: u64 = 20_000;
/// How long a row runs before it counts: thousands of connections are opened, and
/// queues fill.
const WARM_UP: Duration = Duration::from_secs(2);
/// How often due requests are sent.
const BEAT: Duration = Duration::from_millis(2);

/// Offers three nodes more than they can carry
#[derive(Parser, Debug)]
struct Args {
    /// How long each row lasts, in seconds
    #[arg(long, env = "LOAD_SECONDS", default_value_t = 8)]
    seconds: u64,
    /// How long a client waits for its answer, in milliseconds
    #[arg(long, env = "LOAD_TIMEOUT_MS", default_value_t = 3_000)]
    timeout_ms: u64,
    /// How many requests may be on their way to each node at once; what comes then
    /// finds no connection and counts as unsent
    #[arg(long, env = "LOAD_MAX_OPEN", default_value_t = 1_000)]
    max_open: usize,
    #[arg(long, env = "LOAD_VALUE_BYTES", default_value_t = 900)]
    value_bytes: usize,
    /// commit: fsync before every acknowledgement; os: survive only a crash of the process
    #[arg(long, env = "LOAD_DURABILITY", default_value = "commit")]
    durability: String,
    /// What is asked: put, get, mix (half and half) or op
    #[arg(long, env = "LOAD_PHASES", value_delimiter = ',', default_values = ["put", "get", "mix"])]
    phases: Vec<String>,
    /// Multiples of the best that are offered
    #[arg(long, env = "LOAD_MULTIPLES", value_delimiter = ',', default_values = ["1", "2", "5"])]
    multiples: Vec<f64>,
    /// Servers to compare, one after the other
    #[arg(long, env = "LOAD_SERVER", value_name = "FILE", value_delimiter = ',', default_values = [env!("CARGO_BIN_EXE_kinfold")])]
    server: Vec<PathBuf>,
    /// Let the nodes use every core
    #[arg(long)]
    all_cores: bool,
    /// What `cargo bench` passes along
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Put,
    Get,
    Mix,
    Operation,
}

impl Phase {
    fn parse(text: &str) -> anyhow::Result<Phase> {
        Ok(match text {
            "put" => Phase::Put,
            "get" => Phase::Get,
            "mix" => Phase::Mix,
            "op" => Phase::Operation,
            other => bail!("{other:?} is no phase; there are put, get, mix and op"),
        })
    }

    /// One request, whole.
    fn request(self, dice: u64, value: &[u8]) -> Vec<u8> {
        let reads = self == Phase::Get || (self == Phase::Mix && dice >> 63 == 0);
        let (method, path, body): (_, _, &[u8]) = match self {
            Phase::Operation => {
                let path = format!("counters/items/c{}/operations", dice % KEYS);
                ("POST", path, b"{\"add\":1}")
            }
            _ if reads => ("GET", format!("raw/items/k{}", dice % KEYS), b""),
            // A key of its own: what siblings cost is not the question.
            _ => ("PUT", format!("raw/items/n{dice}"), value),
        };
        request(method, &path, body)
    }
}

/// A request as it goes over the wire.
fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut bytes = format!(
        "{method} /v1/tables/{path} HTTP/1.1\r\nhost: n\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A connection that is kept. As little as can be: what clients cost here is
/// taken from what they can offer.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let buffer = Vec::with_capacity(4096);
        Ok(Connection { stream, buffer })
    }

    /// One exchange: the answer's status, and whether the connection stays.
    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, bool)> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the connection was closed");
            if let Some(head) = head(&self.buffer)? {
                while self.buffer.len() < head.whole_bytes {
                    let read = self.stream.read_buf(&mut self.buffer).await?;
                    ensure!(read > 0, "the connection was closed");
                }
                return Ok((head.status, head.stays));
            }
        }
    }
}

/// What the head of an answer says.
struct Head {
    status: u16,
    /// How long the answer is, head and body.
    whole_bytes: usize,
    stays: bool,
}

/// The head of an answer, once it is there.
fn head(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end])?;
    let status = text.get(9..12).context("no status")?.parse()?;
    let (mut length, mut stays) = (0, true);
    for line in text.lines().skip(1) {
        if let Some((name, value)) = line.split_once(": ") {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse()?;
            } else if name.eq_ignore_ascii_case("connection") {
                stays = !value.eq_ignore_ascii_case("close");
            }
        }
    }
    Ok(Some(Head {
        status,
        whole_bytes: end + 4 + length,
        stays,
    }))
}

/// Whether a request was carried out.
fn is_good(status: u16) -> bool {
    matches!(status, 200 | 204 | 300)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of the requests of a row.
#[derive(Default)]
struct Outcomes {
    /// Latencies of those that were carried out in time.
    good_us: Mutex<Vec<u64>>,
    /// Latencies of those that were refused for want of room.
    refused_us: Mutex<Vec<u64>>,
    /// Refused for other reasons.
    other: AtomicU64,
    /// No answer in time, or a connection that broke.
    lost: AtomicU64,
    /// There were too many on their way already.
    unsent: AtomicU64,
}

fn percentile_ms(latencies_us: &mut [u64], share: f64) -> String {
    latencies_us.sort_unstable();
    let place = (latencies_us.len() as f64 * share) as usize;
    match latencies_us.get(place.min(latencies_us.len().saturating_sub(1))) {
        Some(latency_us) => format!("{:.1} ms", *latency_us as f64 / 1_000.0),
        None => String::new(),
    }
}

/// Connections to one node that wait for a request, and how many there are.
struct Pool {
    address: String,
    idle: Mutex<Vec<Connection>>,
    out: AtomicU64,
}

/// One request of the open loop.
async fn one(pool: Arc<Pool>, request: Vec<u8>, timeout: Duration) -> Outcome {
    let begun = Instant::now();
    let work = async {
        let kept = lock(&pool.idle).pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(&pool.address).await?,
        };
        let (status, stays) = connection.ask(&request).await?;
        if stays {
            lock(&pool.idle).push(connection);
        }
        anyhow::Ok(status)
    };
    // Whoever gives up closes the connection: it is dropped with the work.
    let ended = tokio::time::timeout(timeout, work).await;
    pool.out.fetch_sub(1, Ordering::Relaxed);
    let took_us = begun.elapsed().as_micros() as u64;
    match ended {
        Ok(Ok(status)) if is_good(status) => Outcome::Good(took_us),
        Ok(Ok(503)) => Outcome::Refused(took_us),
        Ok(Ok(_)) => Outcome::Other,
        Ok(Err(_)) | Err(_) => Outcome::Lost,
    }
}

enum Outcome {
    Good(u64),
    Refused(u64),
    Other,
    Lost,
}

/// Offers so many requests a second for so long.
async fn open_loop(
    phase: Phase,
    args: &Args,
    servers: &Servers,
    per_second: f64,
    seed: u64,
) -> Arc<Outcomes> {
    let outcomes = Arc::new(Outcomes::default());
    let pools: Vec<Arc<Pool>> = servers
        .addresses
        .iter()
        .map(|address| {
            Arc::new(Pool {
                address: address.clone(),
                idle: Mutex::default(),
                out: AtomicU64::new(0),
            })
        })
        .collect();
    let value = vec![b'v'; args.value_bytes];
    let timeout = Duration::from_millis(args.timeout_ms);
    let mut dice = Dice::from_seed(seed);
    let begun = Instant::now();
    let mut sent = 0_u64;
    let mut beats = tokio::time::interval(BEAT);
    let mut outcomes = outcomes;
    let mut warm = false;
    while begun.elapsed() < WARM_UP + Duration::from_secs(args.seconds) {
        beats.tick().await;
        if !warm && begun.elapsed() >= WARM_UP {
            // What was begun before is counted elsewhere, and looked at by nobody.
            outcomes = Arc::new(Outcomes::default());
            warm = true;
        }
        let due = (begun.elapsed().as_secs_f64() * per_second) as u64;
        while sent < due {
            let pool = &pools[sent as usize % pools.len()];
            sent += 1;
            if pool.out.fetch_add(1, Ordering::Relaxed) >= args.max_open as u64 {
                pool.out.fetch_sub(1, Ordering::Relaxed);
                outcomes.unsent.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let (pool, outcomes) = (pool.clone(), outcomes.clone());
            let request = phase.request(dice.next_u64(), &value);
            tokio::spawn(async move {
                match one(pool, request, timeout).await {
                    Outcome::Good(took_us) => lock(&outcomes.good_us).push(took_us),
                    Outcome::Refused(took_us) => lock(&outcomes.refused_us).push(took_us),
                    Outcome::Other => drop(outcomes.other.fetch_add(1, Ordering::Relaxed)),
                    Outcome::Lost => drop(outcomes.lost.fetch_add(1, Ordering::Relaxed)),
                }
            });
        }
    }
    // What is on its way has its time, and so has the next row its peace.
    tokio::time::sleep(timeout + Duration::from_secs(1)).await;
    outcomes
}

/// The best of a closed loop, in requests a second.
async fn closed_loop(phase: Phase, args: &Args, servers: &Servers) -> anyhow::Result<f64> {
    let value: Arc<[u8]> = vec![b'v'; args.value_bytes].into();
    let begun = Instant::now();
    let end = begun + Duration::from_secs(args.seconds);
    let mut workers = JoinSet::new();
    for seed in 0..CLOSED_CONNECTIONS as u64 {
        let address = &servers.addresses[seed as usize % NAMES.len()];
        let mut connection = Connection::open(address).await?;
        let value = value.clone();
        workers.spawn(async move {
            let mut dice = Dice::from_seed(1_000 + seed);
            let mut done = 0_u64;
            while Instant::now() < end {
                let request = phase.request(dice.next_u64(), &value);
                let (status, stays) = connection.ask(&request).await?;
                ensure!(stays, "the node wants no more: {status}");
                done += u64::from(is_good(status));
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = workers.join_next().await {
        done += ended??;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

/// Keys to read.
async fn fill(args: &Args, servers: &Servers) -> anyhow::Result<()> {
    let mut workers = JoinSet::new();
    for part in 0..CLOSED_CONNECTIONS as u64 {
        let address = &servers.addresses[part as usize % NAMES.len()];
        let mut connection = Connection::open(address).await?;
        let value = vec![b'v'; args.value_bytes];
        workers.spawn(async move {
            for key in (part..KEYS).step_by(CLOSED_CONNECTIONS) {
                let put = request("PUT", &format!("raw/items/k{key}"), &value);
                let (status, _) = connection.ask(&put).await?;
                ensure!(is_good(status), "{status}");
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

fn megabytes(bytes: &[u64]) -> String {
    let each: Vec<String> = bytes
        .iter()
        .map(|bytes| (bytes >> 20).to_string())
        .collect();
    each.join(" ")
}

async fn measure(args: &Args, server: &Path, under: &[&str]) -> anyhow::Result<()> {
    let data = tempfile::Builder::new()
        .prefix("kinfold-overload-")
        .tempdir()?;
    let servers = Servers::start(data.path(), server, &args.durability, under).await?;
    println!("{}, run by {under:?}", server.display());
    if args
        .phases
        .iter()
        .any(|phase| phase == "get" || phase == "mix")
    {
        fill(args, &servers).await?;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "",
        "offered/s",
        "good/s",
        "of best",
        "p50",
        "p99",
        "503/s",
        "503 p50",
        "503 p99",
        "other",
        "lost",
        "unsent",
        "RSS MB",
        "most MB",
    ]);
    for phase in &args.phases {
        let name = phase;
        let phase = Phase::parse(phase)?;
        let best = closed_loop(phase, args, &servers).await?;
        let (now, most) = servers.memory_bytes()?;
        table.add_row([
            format!("{name}, closed"),
            String::new(),
            format!("{best:.0}"),
            "1.00".to_owned(),
        ]);
        println!(
            "{name}: best {best:.0}/s; RSS {} MB, at most {} MB",
            megabytes(&now),
            megabytes(&most)
        );
        for (seed, multiple) in (1..).zip(&args.multiples) {
            let outcomes = open_loop(phase, args, &servers, best * multiple, seed).await;
            let mut good_us = std::mem::take(&mut *lock(&outcomes.good_us));
            let mut refused_us = std::mem::take(&mut *lock(&outcomes.refused_us));
            let a_second = |count: usize| count as f64 / args.seconds as f64;
            let (now, most) = servers.memory_bytes()?;
            table.add_row([
                format!("{name}, {multiple} x"),
                format!("{:.0}", best * multiple),
                format!("{:.0}", a_second(good_us.len())),
                format!("{:.2}", a_second(good_us.len()) / best),
                percentile_ms(&mut good_us, 0.5),
                percentile_ms(&mut good_us, 0.99),
                format!("{:.0}", a_second(refused_us.len())),
                percentile_ms(&mut refused_us, 0.5),
                percentile_ms(&mut refused_us, 0.99),
                outcomes.other.load(Ordering::Relaxed).to_string(),
                outcomes.lost.load(Ordering::Relaxed).to_string(),
                outcomes.unsent.load(Ordering::Relaxed).to_string(),
                megabytes(&now),
                megabytes(&most),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(!args.server.is_empty(), "no server to run");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pinned = !args.all_cores
        && cores > 1
        && Command::new("taskset")
            .args(["--all-tasks", "--pid", "--cpu-list"])
            .arg(format!("1-{}", cores - 1))
            .arg(std::process::id().to_string())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    let under: &[&str] = if pinned { &["taskset", "-c", "0"] } else { &[] };
    for server in &args.server {
        measure(&args, server, under).await?;
    }
    Ok(())
}
