//! What clients notice of a node's background work.
//!
//! Run with `cargo bench --bench background`, and `-- --help` for the flags. Three
//! real nodes carry an open loop of gets and puts at half of what they can do
//! (`kinfold bench` sends it to two of them). Then something befalls the third, or all, and
//! the same load is measured while they work on that: trees derived from the rows, hints
//! handed over to a node that is back, a wiped node filled, deletions reaped, a fourth
//! node that joins. Printed: the tails of latency without and with that work, in turns in
//! one run, how much of it was done meanwhile, and the largest write-ahead log that any
//! node had. Of several rounds the median is shown, and of their ratios the middle half,
//! too: where that is wide, the machine says nothing about the median. The goal is a p99
//! at most a fifth longer.
//!
//! Not told apart: what work costs because nodes, clients and all share this machine's
//! cores. On a machine for each node it costs less.

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use common::{Connection, NAMES, Servers, TABLES};
use hyper::Method;
use kinfold::client::Client;
use kinfold::protocol::machine::DEFAULT_BACKGROUND_PERCENT;
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// The node that misfortune strikes; clients ask the others.
const STRUCK: usize = 2;
/// How long background work may take to begin, or to end.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often is looked.
const GLANCE: Duration = Duration::from_millis(50);
/// How many items are deleted to be reaped.
const DELETIONS: u64 = 20_000;

/// Measures what clients notice of background work
#[derive(Parser, Debug)]
struct Args {
    /// How long each measurement lasts, in seconds
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How many items there are, on each node
    #[arg(long, default_value_t = 200_000)]
    keys: u64,
    /// The share of what a closed loop gets that is asked for
    #[arg(long, default_value_t = 0.5)]
    load: f64,
    /// What the nodes are told of `background_percent`
    #[arg(long, default_value_t = DEFAULT_BACKGROUND_PERCENT)]
    percent: u32,
    /// How often each work is measured, with and without
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Which work
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["trees", "hints", "filling", "reaping", "join"])]
    work: Vec<Work>,
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_kinfold"))]
    server: PathBuf,
    /// What `cargo bench` passes along
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Work {
    /// Trees derived from rows, as they are every ten exchange intervals
    Trees,
    /// Hints delivered to a node that was away
    Hints,
    /// A node whose disk was lost, filled
    Filling,
    /// Deletions, reaped
    Reaping,
    /// A fourth node, given its share
    Join,
}

impl Work {
    /// What is counted of it, at `/metrics` of all nodes together.
    fn metric(self) -> &'static str {
        match self {
            Work::Trees => "kinfold_partitions_derived_total",
            Work::Hints => "kinfold_hints_delivered_total",
            Work::Filling | Work::Join => "kinfold_exchange_rows_total{direction=\"received\"}",
            Work::Reaping => "kinfold_tombstones_reaped_total",
        }
    }

    /// How many times `--seconds` it is measured for. Deletions are looked at three times,
    /// ten seconds apart, and then go within a moment: all of that belongs to the work.
    fn stretch(self) -> u64 {
        match self {
            Work::Reaping => 8,
            _ => 1,
        }
    }

    /// How many items there are. To be looked at every ten seconds they must be few
    /// enough to be gone through in less.
    fn keys(self, asked: u64) -> u64 {
        match self {
            Work::Reaping => asked.min(50_000),
            _ => asked,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Work::Trees => "partitions",
            Work::Hints => "hints",
            Work::Filling | Work::Join => "rows",
            Work::Reaping => "deletions",
        }
    }

    /// How the nodes are set, so that this work can be seen within a minute and other
    /// work does not come between.
    fn config(self) -> &'static str {
        match self {
            Work::Trees => "exchange_interval = \"6s\"\n",
            Work::Reaping => "exchange_interval = \"10s\"\nreap_after = \"10s\"\n",
            Work::Hints | Work::Filling | Work::Join => "exchange_interval = \"10m\"\n",
        }
    }
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Default, Debug)]
struct Tails {
    p50: f64,
    p99: f64,
    p999: f64,
}

#[derive(Clone, Copy, Default, Debug)]
struct Figures {
    gets: Tails,
    puts: Tails,
    /// Processor time of all nodes, in seconds a second.
    cores: f64,
    /// How much of the work was done.
    done: f64,
}

/// The cluster, and what is asked of it.
struct Lab<'a> {
    args: &'a Args,
    keys: u64,
    servers: Servers,
    /// Gets and puts a second.
    rates: [f64; 2],
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !args.bench {
        // `cargo test` runs benches too, without this flag.
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "work", "", "get p50", "p99", "p99.9", "put p50", "p99", "p99.9", "cores", "done",
    ]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut failed = false;
    for &work in &args.work {
        let Measured { rounds, log_bytes } = match measure(&args, work).await {
            Ok(measured) => measured,
            Err(error) => {
                // What the others came to is not lost for it.
                eprintln!("{work:?} was not measured: {error:#}");
                failed = true;
                continue;
            }
        };
        let name = format!("{work:?}").to_lowercase();
        let row = |what: &str, figures: &Figures| {
            let mut row = vec![name.clone(), what.to_owned()];
            for tails in [figures.gets, figures.puts] {
                row.extend([tails.p50, tails.p99, tails.p999].map(milliseconds));
            }
            row.push(format!("{:.2}", figures.cores));
            row.push(format!("{:.0} {}", figures.done, work.unit()));
            row
        };
        table.add_row(row(
            "without",
            &median_of(rounds.iter().map(|round| &round.0)),
        ));
        table.add_row(row("with", &median_of(rounds.iter().map(|round| &round.1))));
        let mut ratios = vec![name.clone(), "ratio".to_owned()];
        for field in TAILS {
            let mut all: Vec<f64> = rounds
                .iter()
                .map(|(quiet, busy)| field(busy) / field(quiet))
                .collect();
            let (low, middle, high) = quartiles(&mut all);
            ratios.push(format!("{middle:.2} ({low:.2} to {high:.2})"));
        }
        let mut more: Vec<f64> = rounds
            .iter()
            .map(|(quiet, busy)| busy.cores - quiet.cores)
            .collect();
        ratios.push(format!("{:+.2}", quartiles(&mut more).1));
        ratios.push(format!("log {} MB", log_bytes >> 20));
        table.add_row(ratios);
    }
    println!("{table}");
    ensure!(!failed, "not all was measured");
    Ok(())
}

fn milliseconds(us: f64) -> String {
    format!("{:.1} ms", us / 1000.0)
}

/// Figures without and with a work, by round, and the largest log meanwhile.
struct Measured {
    rounds: Vec<(Figures, Figures)>,
    log_bytes: u64,
}

async fn measure(args: &Args, work: Work) -> anyhow::Result<Measured> {
    let data = tempfile::tempdir()?;
    let percent = args.percent;
    let config = format!(
        "[cluster]\nbackground_percent = {percent}\n{}{TABLES}",
        work.config()
    );
    std::fs::write(data.path().join("kinfold.toml"), config)?;
    let servers = Servers::start(data.path(), &args.server, "commit", &[]).await?;
    let mut lab = Lab {
        args,
        keys: work.keys(args.keys),
        servers,
        rates: [0.0; 2],
    };
    let largest = Arc::new(AtomicU64::new(0));
    let watch = tokio::spawn(watch_logs(data.path().to_owned(), largest.clone()));
    eprintln!("{work:?}: loading {} items", lab.keys);
    lab.bench("put", None, &["--load-only", "--connections", "96"])
        .await?;
    lab.rest(work).await?;
    for (rate, workload) in [(0, "get"), (1, "put")] {
        let seconds = &args.seconds.to_string();
        let best = lab
            .bench(workload, None, &["--no-load", "--seconds", seconds])
            .await?;
        // Together they are one load: half of each share.
        let per_second = best["total"]["per_second"].as_f64().context("a rate")?;
        lab.rates[rate] = per_second * args.load / 2.0;
    }
    eprintln!(
        "{:.0} gets and {:.0} puts a second",
        lab.rates[0], lab.rates[1]
    );
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        lab.rest(work).await?;
        if work == Work::Join && round > 0 {
            break;
        }
        let quiet = lab.figures(work).await?;
        lab.begin(work).await?;
        let busy = lab.figures(work).await?;
        let p99 = |of: &Figures| {
            let [gets, puts] = [of.gets.p99, of.puts.p99].map(milliseconds);
            format!("gets {gets}, puts {puts}, {:.0} {}", of.done, work.unit())
        };
        eprintln!("p99 without: {}; with: {}", p99(&quiet), p99(&busy));
        rounds.push((quiet, busy));
    }
    watch.abort();
    let done = |of: fn(&(Figures, Figures)) -> f64| rounds.iter().map(of).sum::<f64>();
    let (without, with) = (done(|round| round.0.done), done(|round| round.1.done));
    ensure!(
        with > without,
        "there was no more of it with than without: {with} and {without} {}",
        work.unit()
    );
    Ok(Measured {
        rounds,
        log_bytes: largest.load(Ordering::Relaxed),
    })
}

/// The latencies that are shown, in this order.
const TAILS: [fn(&Figures) -> f64; 6] = [
    |figures| figures.gets.p50,
    |figures| figures.gets.p99,
    |figures| figures.gets.p999,
    |figures| figures.puts.p50,
    |figures| figures.puts.p99,
    |figures| figures.puts.p999,
];

/// The middle of the lower half, the median and the middle of the upper half.
fn quartiles(all: &mut [f64]) -> (f64, f64, f64) {
    all.sort_by(f64::total_cmp);
    let at = |part: f64| all[(part * (all.len() - 1) as f64).round() as usize];
    (at(0.25), at(0.5), at(0.75))
}

/// Of each figure the median.
fn median_of<'a>(all: impl Iterator<Item = &'a Figures> + Clone) -> Figures {
    let of = |field: &dyn Fn(&Figures) -> f64| {
        let mut values: Vec<f64> = all.clone().map(field).collect();
        quartiles(&mut values).1
    };
    let tails = |field: &dyn Fn(&Figures) -> Tails| Tails {
        p50: of(&|one| field(one).p50),
        p99: of(&|one| field(one).p99),
        p999: of(&|one| field(one).p999),
    };
    Figures {
        gets: tails(&|one| one.gets),
        puts: tails(&|one| one.puts),
        cores: of(&|one| one.cores),
        done: of(&|one| one.done),
    }
}

/// Keeps the size of the largest log.
async fn watch_logs(data: PathBuf, largest: Arc<AtomicU64>) {
    loop {
        for name in NAMES.iter().chain(&["d"]) {
            // A folder that is being wiped or is not there yet has no logs.
            for file in std::fs::read_dir(data.join(name))
                .into_iter()
                .flatten()
                .flatten()
            {
                let is_log = file.file_name().to_string_lossy().ends_with("-wal");
                if is_log && let Ok(metadata) = file.metadata() {
                    largest.fetch_max(metadata.len(), Ordering::Relaxed);
                }
            }
        }
        sleep(GLANCE).await;
    }
}

impl Lab<'_> {
    /// Runs `kinfold bench` against the nodes that nothing befalls.
    async fn bench(
        &self,
        workload: &str,
        rate: Option<f64>,
        flags: &[&str],
    ) -> anyhow::Result<Value> {
        let mut command = Command::new(&self.args.server);
        command
            .args(["bench", "--json", "--table", "raw", "--workload", workload])
            .args(["--server", &self.servers.addresses[..STRUCK].join(",")])
            .args(["--keys", &self.keys.to_string()])
            .args(["--warmup", "1", "--threads", "1"])
            .args(flags)
            .stderr(Stdio::inherit());
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(
            output.status.success(),
            "the load failed: {}",
            output.status
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The load, at its rates.
    async fn figures(&self, work: Work) -> anyhow::Result<Figures> {
        let before = (
            self.servers.cpu_seconds()?,
            self.sum(work.metric()).await?,
            Instant::now(),
        );
        let seconds = (self.args.seconds * work.stretch()).to_string();
        let gets = ["--no-load", "--seconds", &seconds];
        let puts = ["--no-load", "--seconds", &seconds, "--seed", "2"];
        let (gets, puts) = tokio::try_join!(
            self.bench("get", Some(self.rates[0]), &gets),
            self.bench("put", Some(self.rates[1]), &puts),
        )?;
        let seconds = before.2.elapsed().as_secs_f64();
        Ok(Figures {
            gets: tails(&gets, "read")?,
            puts: tails(&puts, "insert")?,
            cores: (self.servers.cpu_seconds()? - before.0) / seconds,
            done: self.sum(work.metric()).await? - before.1,
        })
    }

    /// A metric of all nodes that answer, together.
    async fn sum(&self, metric: &str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for address in &self.servers.addresses {
            let Ok(answer) = Client::new(address)?.get("/metrics").await else {
                continue;
            };
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let value = text
                .lines()
                .filter_map(|line| line.strip_prefix(metric)?.trim().parse::<f64>().ok());
            sum += value.sum::<f64>();
        }
        Ok(sum)
    }

    /// Ends when nothing is under way any more that this program can see. Where deletions
    /// are to be reaped the rows are gone through all the time, without and with them.
    async fn rest(&self, work: Work) -> anyhow::Result<()> {
        self.servers.ready().await;
        let mut works = Work::value_variants().to_vec();
        works.retain(|other| work != Work::Reaping || *other != Work::Trees);
        let deadline = Instant::now() + PATIENCE;
        let mut calm = 0;
        let mut last = Vec::new();
        while calm < 2 {
            ensure!(Instant::now() < deadline, "the nodes find no rest");
            let mut now = Vec::new();
            for work in &works {
                now.push(self.sum(work.metric()).await?);
            }
            calm = if now == last { calm + 1 } else { 0 };
            last = now;
            sleep(Duration::from_millis(700)).await;
        }
        Ok(())
    }

    /// Brings the work about, and returns when it has begun.
    async fn begin(&mut self, work: Work) -> anyhow::Result<()> {
        let before = self.sum(work.metric()).await?;
        match work {
            Work::Trees => {}
            Work::Hints => {
                self.servers.kill(STRUCK)?;
                let rate = Some(2.0 * self.rates[1]);
                let seconds = &self.args.seconds.to_string();
                self.bench(
                    "put",
                    rate,
                    &["--no-load", "--seed", "3", "--seconds", seconds],
                )
                .await?;
                self.servers.revive(STRUCK)?;
            }
            Work::Filling => {
                self.servers.kill(STRUCK)?;
                let folder = self.servers.data_of(NAMES[STRUCK]);
                std::fs::remove_dir_all(folder)?;
                self.servers.revive(STRUCK)?;
            }
            Work::Reaping => self.delete().await?,
            Work::Join => {
                let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
                let address = address.to_string();
                let child = self.servers.spawn("d", &address)?;
                self.servers.children.push(child);
                self.servers.addresses.push(address);
            }
        }
        if work == Work::Reaping {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        // A node that was started again counts from zero.
        let mut least = before;
        loop {
            let now = self.sum(work.metric()).await?;
            if now > least {
                return Ok(());
            }
            least = least.min(now);
            ensure!(Instant::now() < deadline, "{work:?} does not begin");
            sleep(GLANCE).await;
        }
    }

    /// Writes and deletes items which nobody reads.
    async fn delete(&self) -> anyhow::Result<()> {
        let mut lanes = Vec::new();
        for lane in 0..32 {
            let address = self.servers.addresses[0].clone();
            lanes.push(tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                for number in (lane..DELETIONS).step_by(32) {
                    let path = format!("/v1/tables/raw/items/gone{number}");
                    let value = Bytes::from_static(b"{}");
                    connection.ask(Method::PUT, &path, None, value).await?;
                    connection
                        .ask(Method::DELETE, &path, None, Bytes::new())
                        .await?;
                }
                anyhow::Ok(())
            }));
        }
        for lane in lanes {
            lane.await??;
        }
        Ok(())
    }
}

/// The latencies of an operation's successes.
fn tails(report: &Value, operation: &str) -> anyhow::Result<Tails> {
    let latency = &report["operations"][operation]["outcomes"]["ok"]["latency_us"];
    let of = |name: &str| match latency[name].as_f64() {
        Some(us) => Ok(us),
        None => bail!("no {operation} succeeded: {report}"),
    };
    Ok(Tails {
        p50: of("p50")?,
        p99: of("p99")?,
        p999: of("p999")?,
    })
}
