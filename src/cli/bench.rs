//! `kinfold bench`: loads a cluster, and says how fast it is.
//!
//! Promises: what would make the figures wrong (a table that is not there or takes
//! no values, items that were not loaded, a node that is down) is refused before
//! anything is measured; progress goes to standard error and only to a terminal;
//! Ctrl-C ends it early and prints what there is; the exit code is 0 only when
//! something was carried out.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::Common;
use super::error::{CliError, expect_success};
use super::item::QuorumArgs;
use super::output::{Output, list};
use super::serve;
use crate::bench::keys::Distribution;
use crate::bench::load::{self, Loaded};
use crate::bench::pacing::Arrivals;
use crate::bench::record::Outcome;
use crate::bench::run::{self, Measured, Progress};
use crate::bench::workload::Workload;
use crate::bench::{BenchError, Plan, Rate, plot, report};
use crate::client::{self, Client, Request, segment};
use crate::clock::Dice;

/// How long the client waits for an answer when nothing is said: longer than a node
/// waits for its replicas, so that its reason arrives.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than a node that was told how long to take.
const MORE_PATIENCE: Duration = Duration::from_secs(5);
/// Of a machine's cores, the client takes one of so many unless told otherwise: on
/// one machine with nodes they need the others.
const CORES_PER_THREAD: usize = 4;
/// More threads than this ask for more machines.
const MAX_THREADS: u64 = 64;
/// More connections than a node takes are refused.
const MAX_CONNECTIONS: u64 = 16_384;
/// The largest value that a table can be set to take, in bytes.
const MAX_VALUE_BYTES: u64 = 16 << 20;
/// Numbers of items beyond this have no exact fraction.
const MAX_KEYS: u64 = 1 << 40;
/// Runs are told apart by this many bits.
const RUN_BITS: u32 = 32;

const EXAMPLES: &str = "\
Workloads are those of YCSB: a half reads, half updates; b 95 % reads, 5 % updates; c reads;
d 95 % reads of the newest, 5 % inserts; f half reads, half read-modify-writes; and put
(inserts), get (reads), rmw (read-modify-writes) alone. Keys are zipfian (0.99, scrambled) in
a, b, c and f, latest in d, uniform else.

First the items are loaded, unless they are there (--load-only, --no-load). They stay:
`kinfold table delete` removes them. Each connection remembers the context of what it read or
wrote last and updates with it; an update of an item that it never saw reads it first, which is
counted apart. --conflicts makes that share of writes blind, so that siblings arise.

Without --rate every connection asks again as soon as it is answered (closed loop): this finds
the most that the cluster carries. With --rate requests are due whether or not others have been
answered (open loop), and latencies count from then: this finds what users will see at that
rate. What became of requests is counted apart: ok, siblings, overloaded, …

Examples:
  kinfold table set bench && kinfold bench --table bench
  kinfold bench --server 10.0.0.1:8101,10.0.0.2:8101,10.0.0.3:8101 --table bench --workload b
  kinfold bench --table bench --no-load --rate 5000 --seconds 60 --plot bench.svg
  kinfold bench --table bench --workload put --connections 256 --pids $(pgrep -d, -x kinfold)";

/// Loads a cluster, and says how fast it is
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// The nodes to ask, separated by commas; connections take turns. Instead of
    /// --endpoint
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    server: Vec<String>,
    /// A table of values; make one for this, since items stay in it
    #[arg(long)]
    table: String,
    /// What to do
    #[arg(long, value_enum, default_value = "a")]
    workload: WorkloadArg,
    /// How many items there are at first
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=MAX_KEYS))]
    keys: u64,
    /// How popular keys are, instead of what the workload has
    #[arg(long, value_enum)]
    distribution: Option<DistributionArg>,
    /// How long values are
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u64).range(0..=MAX_VALUE_BYTES))]
    value_bytes: u64,
    /// How many connections, over all nodes; each carries one request at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS))]
    connections: u64,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long to do the same before, uncounted
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warmup: u64,
    /// How many requests a second, whatever becomes of those before (open loop)
    #[arg(long, value_name = "OPS_PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// How requests come in an open loop
    #[arg(long, value_enum, default_value = "poisson", requires = "rate")]
    arrivals: ArrivalsArg,
    /// The share of writes, from 0 to 1, that are sent without a context
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    conflicts: f64,
    /// Who remembers contexts: each connection its own, as apart clients do, or all
    /// together, as one client
    #[arg(long, value_enum, default_value = "connection")]
    contexts: ContextsArg,
    #[command(flatten)]
    quorum: QuorumArgs,
    /// Which operations and keys are drawn; the same seed draws the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many threads carry the connections; a quarter of the cores if not said
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_THREADS))]
    threads: Option<u64>,
    /// Processes on this machine whose processor time is told, as `pgrep -d, -x
    /// kinfold` prints them
    #[arg(long, value_delimiter = ',', value_name = "PID,…")]
    pids: Vec<u32>,
    /// Draw the figures into this file
    #[arg(long, value_name = "FILE.svg", conflicts_with = "load_only")]
    plot: Option<PathBuf>,
    /// Load the items, and no more
    #[arg(long, conflicts_with = "no_load")]
    load_only: bool,
    /// Do not load items: they are there
    #[arg(long)]
    no_load: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WorkloadArg {
    /// Half reads, half updates
    A,
    /// 95 % reads, 5 % updates
    B,
    /// Reads
    C,
    /// 95 % reads of the newest, 5 % inserts
    D,
    /// Half reads, half read-modify-writes
    F,
    /// Inserts
    Put,
    /// Reads, of all items alike
    Get,
    /// Read-modify-writes
    Rmw,
}

impl From<WorkloadArg> for Workload {
    fn from(arg: WorkloadArg) -> Self {
        match arg {
            WorkloadArg::A => Workload::A,
            WorkloadArg::B => Workload::B,
            WorkloadArg::C => Workload::C,
            WorkloadArg::D => Workload::D,
            WorkloadArg::F => Workload::F,
            WorkloadArg::Put => Workload::Put,
            WorkloadArg::Get => Workload::Get,
            WorkloadArg::Rmw => Workload::ReadModifyWrite,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DistributionArg {
    /// Some far more than others
    Zipfian,
    /// All alike
    Uniform,
    /// The newer the more
    Latest,
}

impl From<DistributionArg> for Distribution {
    fn from(arg: DistributionArg) -> Self {
        match arg {
            DistributionArg::Zipfian => Distribution::Zipfian,
            DistributionArg::Uniform => Distribution::Uniform,
            DistributionArg::Latest => Distribution::Latest,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArrivalsArg {
    /// As from many clients that do not know of each other
    Poisson,
    /// As from a clock
    Even,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ContextsArg {
    Connection,
    Shared,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1, such as 0.05".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e7 => Ok(rate),
        _ => Err("a rate is a number above 0, such as 5000".to_owned()),
    }
}

impl BenchArgs {
    fn plan(&self, authorities: Vec<String>, has_sort_keys: bool) -> Plan {
        let workload = Workload::from(self.workload);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self
            .threads
            .map_or((cores / CORES_PER_THREAD).max(1), |n| n as usize);
        let patience = match self.quorum.timeout_ms {
            None => PATIENCE,
            Some(timeout_ms) => Duration::from_millis(timeout_ms).saturating_add(MORE_PATIENCE),
        };
        let query = self.quorum.apply(Request::get("/"));
        Plan {
            authorities,
            table: self.table.clone(),
            has_sort_keys,
            query: query.path()[1..].to_owned(),
            workload,
            distribution: self
                .distribution
                .map_or(workload.usual_distribution(), Distribution::from),
            keys: self.keys,
            value_bytes: self.value_bytes as usize,
            connections: self.connections as usize,
            threads: threads.min(self.connections as usize),
            seconds: Duration::from_secs(self.seconds),
            warmup: Duration::from_secs(self.warmup),
            rate: self.rate.map(|per_second| Rate {
                per_second,
                arrivals: match self.arrivals {
                    ArrivalsArg::Poisson => Arrivals::Poisson,
                    ArrivalsArg::Even => Arrivals::Even,
                },
            }),
            conflicts: self.conflicts,
            shares_contexts: self.contexts == ContextsArg::Shared,
            seed: self.seed,
            run: format!("{:08x}", Dice::from_system().next_u64() >> RUN_BITS),
            patience,
            pids: self.pids.clone(),
        }
    }
}

/// What is known of the cluster before it is loaded.
struct Surveyed {
    has_sort_keys: bool,
    /// How many members are up.
    members: usize,
}

/// Asks every node whether it serves the table, and whether the table takes what
/// is to be written.
async fn survey(args: &BenchArgs, authorities: &[String]) -> Result<Surveyed, CliError> {
    let path = format!("/v1/tables/{}", segment(args.table.as_bytes()));
    let mut definition = Value::Null;
    for authority in authorities {
        let reply = Client::new(authority)?.get(&path).await?;
        definition = expect_success(reply)?.json()?;
    }
    let client = Client::new(&authorities.join(","))?;
    let max_value_bytes = definition["max_value_bytes"].as_u64().unwrap_or(u64::MAX);
    if args.value_bytes > max_value_bytes {
        return Err(CliError::from(BenchError::TooLarge {
            table: args.table.clone(),
            value_bytes: args.value_bytes as usize,
            max_value_bytes,
        }));
    }
    if let Some(reconciler) = definition["reconciler"]
        .as_str()
        .filter(|name| *name != "none")
    {
        let path = format!("/v1/reconcilers/{}", segment(reconciler.as_bytes()));
        let module: Value = expect_success(client.get(&path).await?)?.json()?;
        let kind = module["kind"].as_str().unwrap_or_default();
        if kind == "data-type" {
            return Err(CliError::from(BenchError::OperationsOnly {
                table: args.table.clone(),
                reconciler: reconciler.to_owned(),
            }));
        }
    }
    let view: Value = expect_success(client.get("/v1/cluster").await?)?.json()?;
    let is_up = |member: &&Value| member["up"] == true && member["status"] == "up";
    Ok(Surveyed {
        has_sort_keys: definition["sort_keys"] == true,
        members: list(&view, "members").iter().filter(is_up).count(),
    })
}

/// Runs the command.
pub async fn run(common: &Common, args: BenchArgs) -> Result<(), CliError> {
    let output = common.output();
    let authorities = if args.server.is_empty() {
        client::authorities(&common.endpoint)?
    } else {
        client::authorities(&args.server.join(","))?
    };
    let surveyed = survey(&args, &authorities).await?;
    run::see_processes(&args.pids)?;
    // Now, rather than when all has been measured and cannot be written.
    let picture = args.plot.as_deref().map(Picture::create).transpose()?;
    let plan = args.plan(authorities, surveyed.has_sort_keys);
    let needs_items = plan.workload.needs_items(plan.conflicts);
    let loaded = if args.no_load || (!needs_items && !args.load_only) {
        None
    } else {
        Some(load(&plan, &output).await?)
    };
    if args.load_only {
        return tell_loaded(&plan, loaded.as_ref(), &output);
    }
    if args.no_load && needs_items && !load::is_loaded(&plan).await? {
        return Err(CliError::from(BenchError::NothingLoaded {
            table: plan.table,
            keys: plan.keys,
        }));
    }
    let measured = measure(&plan, &output).await?;
    let operations = measured.record.steps(|_| true);
    if operations == 0 {
        return Err(CliError::from(BenchError::NothingBegun));
    }
    if let Some(picture) = picture {
        picture.write(&plot::draw(&plan, &measured))?;
    }
    print(&plan, loaded.as_ref(), &measured, surveyed.members, &output)?;
    if measured.record.steps(Outcome::is_answer) == 0 {
        return Err(CliError::from(BenchError::NothingDone {
            operations,
            first: measured.record.first_failure.unwrap_or_default(),
        }));
    }
    Ok(())
}

/// The file for the picture.
struct Picture<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Picture<'a> {
    fn create(path: &'a Path) -> Result<Self, CliError> {
        // Not emptied yet: the picture of an earlier run stays if this one fails.
        let mut options = File::options();
        let opened = options.write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|source| CliError::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Picture { path, file })
    }

    fn write(mut self, text: &str) -> Result<(), CliError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .map_err(|source| CliError::File {
                path: self.path.to_owned(),
                source,
            })
    }
}

/// Ends when the process is told to stop. Where signals cannot be heard it never
/// does, and the system ends the process as it would any other.
async fn stopped() {
    match serve::shutdown_signal().await {
        // What is on its way is awaited, but not by whoever asks twice.
        Ok(()) => serve::exit_on_second_signal(),
        Err(_) => std::future::pending().await,
    }
}

async fn load(plan: &Plan, output: &Output) -> Result<Loaded, CliError> {
    let target = if output.json {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style =
        ProgressStyle::with_template("{bar:32} {human_pos} of {human_len} items, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(plan.keys), target);
    let bar = match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    let loaded = load::load(plan, &mut |done| bar.set_position(done), stopped()).await;
    bar.finish_and_clear();
    Ok(loaded?)
}

fn tell_loaded(plan: &Plan, loaded: Option<&Loaded>, output: &Output) -> Result<(), CliError> {
    let Some(loaded) = loaded else {
        return Ok(());
    };
    if output.json {
        return output.json(&json!({
            "config": report::config_to_json(plan),
            "loaded": report::loaded_to_json(loaded),
        }));
    }
    output.line(&report::tell_loaded(loaded))
}

async fn measure(plan: &Plan, output: &Output) -> Result<Measured, CliError> {
    let shows = !output.json && std::io::stderr().is_terminal();
    let mut tell = |progress: Progress<'_>| {
        if !shows {
            return;
        }
        match progress {
            Progress::WarmingUp => eprintln!("warming up for {} s", plan.warmup.as_secs()),
            Progress::Second(second) => eprintln!("{}", report::tell_second(second)),
        }
    };
    Ok(run::run(plan, &mut tell, stopped()).await?)
}

fn print(
    plan: &Plan,
    loaded: Option<&Loaded>,
    measured: &Measured,
    members: usize,
    output: &Output,
) -> Result<(), CliError> {
    if output.json {
        return output.json(&report::to_json(plan, loaded, measured, members));
    }
    let told = report::tell(plan, measured, members);
    output.line(&told.heading)?;
    if let Some(loaded) = loaded {
        output.line(&report::tell_loaded(loaded))?;
    }
    output.figures(&told.header, told.rows, told.names)?;
    told.lines.iter().try_for_each(|line| output.line(line))
}
