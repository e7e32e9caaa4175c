//! kinfold beside Garage K2V: the same requests to both, turn by turn, in one run.
//!
//! Run with `scripts/compare-garage.sh`, which builds Garage, or with
//! `cargo bench --bench garage -- --garage FILE`; `-- --help` lists the flags.
//! Promises: three real nodes of each on loopback, three copies, quorums of two
//! for reads and writes; the same client, connections, keys and values for both;
//! rounds that alternate, so that whatever else the machine does hits both; the
//! processor time of all servers of a side, from `/proc`, for each operation;
//! what the machine itself needs at least for such a put and such a get
//! (`floor.rs`); and first of all a table of what was configured on each side.
//! Where the two cannot be made alike, Garage is given the cheaper way, and the
//! table says so.
//!
//! Not measured: a network, a disk apart, clients on another machine. On few
//! cores the client takes its share; its own processor time is printed, and not
//! counted as any server's.

// A bench asks what time it is.
#![allow(clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;

mod cluster;
mod facts;
mod floor;
mod load;
mod processes;
mod report;
mod sign;
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use cluster::{Engine, Garage};
use common::Servers;
use facts::Facts;
use floor::Floor;
use load::{Load, Open, Phase, Sample};
use report::{Report, Run};
use wire::{Dialect, Target};

/// Runs kinfold and Garage K2V side by side and says what each took
#[derive(Parser, Debug, Clone)]
#[command(after_help = "\
Examples:
  scripts/compare-garage.sh                         LMDB without fsync, 32 connections
  scripts/compare-garage.sh --connections 32,256 --json figures.json
  scripts/compare-garage.sh --engine sqlite
  scripts/compare-garage.sh --fsync                 Garage syncs its transactions, too")]
pub struct Args {
    /// Garage's program, built with K2V; scripts/compare-garage.sh builds it
    #[arg(long, env = "COMPARE_GARAGE", value_name = "FILE")]
    garage: Option<PathBuf>,
    /// kinfold's program
    #[arg(long, env = "COMPARE_SERVER", value_name = "FILE", default_value = env!("CARGO_BIN_EXE_kinfold"))]
    server: PathBuf,
    /// Garage's database
    #[arg(long, default_value = "lmdb")]
    engine: Engine,
    /// Have Garage sync its transactions (`metadata_fsync`), which it does not by itself
    #[arg(long)]
    fsync: bool,
    /// kinfold's durability: commit syncs before every acknowledgement, os does not
    #[arg(long, default_value = "commit", value_parser = ["commit", "os"])]
    durability: String,
    /// How many connections, spread over the three nodes; several one after another
    #[arg(long, value_delimiter = ',', default_values_t = [32])]
    connections: Vec<usize>,
    /// How often each phase runs against each side
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each phase lasts each time, in seconds
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value_t = 900)]
    value_bytes: usize,
    /// What to run; get reads what put wrote
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Phase::Put, Phase::Get, Phase::ReadModifyWrite])]
    phases: Vec<Phase>,
    /// How long the open loops last each time, in seconds; 0 leaves them out
    #[arg(long, default_value_t = 4.0)]
    open_seconds: f64,
    /// How long each part of the floor lasts, in seconds; 0 leaves it out
    #[arg(long, default_value_t = 1.0)]
    floor_seconds: f64,
    /// How many items share a partition of Garage's, which counts the items of each; with 1
    /// a put costs it twice as much
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    items_per_partition: u64,
    /// How many threads the client has
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    client_threads: u16,
    /// Where both keep their data, in a folder that is removed afterwards
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Write all figures there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What a child process of the floor does
    #[arg(long, hide = true)]
    floor: Option<floor::Part>,
    /// What `cargo bench` passes along
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(part) = args.floor {
        return floor::child(part, args);
    }
    let garage = args.garage.as_ref().context(
        "which Garage? Run scripts/compare-garage.sh, which builds it, or name its program: --garage FILE",
    )?;
    ensure!(
        args.rounds > 0 && args.seconds > 0.0 && args.connections.iter().all(|&many| many > 0),
        "--rounds, --seconds and --connections have to be more than nothing"
    );
    let mut builder = tempfile::Builder::new();
    builder.prefix("kinfold-beside-garage-");
    let data = match &args.data_dir {
        Some(folder) => builder.tempdir_in(folder),
        None => builder.tempdir(),
    }
    .context("no folder for the data; name one with --data-dir")?;
    side_by_side(args, garage, data.path()).map_err(|error| {
        let kept = data.keep();
        error.context(format!("the nodes' logs are kept in {}", kept.display()))
    })
}

/// Starts both, runs everything, and says it.
fn side_by_side(args: &Args, garage: &Path, data: &Path) -> anyhow::Result<()> {
    let facts = Facts::gather(args, garage)?;
    println!("{facts}");

    let other = Garage::start(data, garage, args.engine, args.fsync)?;
    let own_data = data.join("kinfold");
    std::fs::create_dir(&own_data)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let own = runtime.block_on(Servers::start(
        &own_data,
        &args.server,
        &args.durability,
        &[],
    ))?;
    let targets = [
        Target::new(
            "kinfold",
            own.addresses.clone(),
            own.children.iter().map(Child::id).collect(),
            Dialect::Kinfold,
        ),
        Target::new(
            "Garage",
            other.addresses.clone(),
            other.pids(),
            Dialect::Garage {
                signer: Box::new(other.signer.clone()),
                items_per_partition: args.items_per_partition,
            },
        ),
    ];
    let mut warm = Vec::new();
    for mut target in targets {
        load::warm_up(&target, args.value_bytes)?;
        target.idle_share = processes::idle_share(&target.pids)?;
        println!(
            "{} is up: pids {:?}, {:.1} % of a core when idle",
            target.name,
            target.pids,
            target.idle_share * 100.0
        );
        warm.push(Arc::new(target));
    }

    let mut report = Report::new(facts);
    for &connections in &args.connections {
        let load = Load {
            connections,
            threads: usize::from(args.client_threads),
            duration: Duration::from_secs_f64(args.seconds),
            value: Arc::from(vec![b'v'; args.value_bytes]),
        };
        let run = compare(args, &warm, &load, &mut report.floors)?;
        println!("{run}");
        report.runs.push(run);
    }
    println!("{}", report.against_the_floor());
    println!("{}", report.verdict());
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report.json())?)
            .with_context(|| format!("{} cannot be written", file.display()))?;
        println!("all figures: {}", file.display());
    }
    Ok(())
}

/// All rounds with one number of connections.
fn compare(
    args: &Args,
    targets: &[Arc<Target>],
    load: &Load,
    floors: &mut Vec<Floor>,
) -> anyhow::Result<Run> {
    let mut run = Run::new(load.connections);
    for round in 1..=args.rounds {
        for &phase in &args.phases {
            for (side, target) in targets.iter().enumerate() {
                let sample = load::closed(target, phase, load)?;
                tell(target, phase, round, &sample);
                run.closed.push((side, phase, sample));
            }
        }
        if args.floor_seconds > 0.0 {
            let floor = Floor::measure(args, load)?;
            println!("round {round}: {floor}");
            floors.push(floor);
        }
    }
    if args.open_seconds > 0.0 {
        let load = Load {
            duration: Duration::from_secs_f64(args.open_seconds),
            ..load.clone()
        };
        for round in 1..=args.rounds {
            // A read-modify-write is two requests that wait for each other: no open loop.
            let phases = [Phase::Put, Phase::Get];
            for phase in phases.into_iter().filter(|one| args.phases.contains(one)) {
                for (side, target) in targets.iter().enumerate() {
                    let rate = run.best(side, phase) / 2.0;
                    let open = load::open(target, phase, &load, rate)?;
                    tell_open(target, phase, round, &open);
                    run.open.push((side, phase, open));
                }
            }
        }
    }
    Ok(run)
}

fn tell(target: &Target, phase: Phase, round: usize, sample: &Sample) {
    println!(
        "round {round}: {:8} {:17} {:>8.0}/s {:>7.1} µs CPU, {:>6.1} µs after, client {:>5.1} µs{}",
        target.name,
        phase.to_string(),
        sample.per_second,
        sample.cpu_us,
        sample.after_cpu_us,
        sample.client_cpu_us,
        report::failures(sample.failures, sample.first_failure.as_deref()),
    );
}

fn tell_open(target: &Target, phase: Phase, round: usize, open: &Open) {
    println!(
        "round {round}: {:8} {:17} {:>8.0}/s open loop: p50 {:.2} ms, p99.9 {:.2} ms{}",
        target.name,
        phase.to_string(),
        open.asked_per_second,
        open.latencies.milliseconds(0.5),
        open.latencies.milliseconds(0.999),
        report::failures(open.failures, open.first_failure.as_deref()),
    );
}

/// What a program prints with the given arguments.
fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .with_context(|| format!("{shown} does not run"))?;
    ensure!(
        output.status.success(),
        "{shown}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}
