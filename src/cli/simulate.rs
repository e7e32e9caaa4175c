//! `kinfold simulate`: plays simulated clusters under faults, and looks for a
//! seed under which an invariant does not hold.
//!
//! Promises: a seed that fails is printed with the command that plays it again,
//! in the shortest form that was found; the exit code is 0 only if none failed.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Common;
use super::error::CliError;
use super::output::Output;
use crate::clock::{Clock, Dice, SystemClock};
use crate::simulation::detection::Detection;
use crate::simulation::explore::{self, Played};
use crate::simulation::faults::{FaultSet, UnknownFault};
use crate::simulation::workload::{Plan, Tempo};

/// How long seeds are played when nothing says otherwise.
const DEFAULT_FOR: Duration = Duration::from_secs(60);
/// How many seeds are played at a time at most: more than this many cores have
/// other work.
const MAX_THREADS: usize = 64;
/// Seeds that nobody named begin below this, so that they are easily typed.
const RANDOM_SEEDS: u64 = 1 << 32;
const MS_PER_MINUTE: f64 = 60_000.0;
const MS_PER_HOUR: f64 = 3_600_000.0;

const EXAMPLES: &str = "\
A cluster, its network, disks and clocks are simulated; the nodes are the real ones. The
same seed gives the same run. Hectic runs are seconds full of faults; calm ones are ten
minutes at the pace of production.

Examples:
  kinfold simulate --for 10m                              looks for a seed that fails
  kinfold simulate --seeds 0..1000 --tempo hectic
  kinfold simulate --seed 7 --minutes 3 --tempo calm --nodes 5
  kinfold simulate --seed 7 --faults kill,partition --trace";

/// Plays clusters under faults, and checks that nothing is lost
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// Play this seed
    #[arg(long, conflicts_with_all = ["seeds", "time"])]
    seed: Option<u64>,
    /// Play these seeds, the last one excluded
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// Play new seeds for so long, such as 90s or 8h (a minute if nothing is said)
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// How many simulated minutes each run lasts
    #[arg(long)]
    minutes: Option<f64>,
    /// How fast clusters and their clients are
    #[arg(long, value_enum, default_value = "both")]
    tempo: TempoArg,
    /// How many nodes each cluster has, instead of what its seed says
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=50))]
    nodes: Option<u64>,
    /// Which faults there are, instead of what the seed says: names separated by
    /// commas, or none
    #[arg(long, value_parser = faults)]
    faults: Option<FaultSet>,
    /// How many seeds to play at a time; as many as there are cores if not said
    #[arg(long)]
    threads: Option<usize>,
    /// Tell what happened to the item that fails
    #[arg(long)]
    trace: bool,
}

/// How fast clusters and their clients are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum TempoArg {
    /// Seconds full of faults
    Hectic,
    /// Minutes at the pace of production
    Calm,
    /// Even seeds hectic, odd ones calm
    Both,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.trim().parse().ok()?..to.trim().parse().ok()?));
    match parsed {
        Some(range) if range.start < range.end => Ok(range),
        _ => Err("seeds are two numbers with two dots between them, such as 0..1000".to_owned()),
    }
}

fn faults(text: &str) -> Result<FaultSet, UnknownFault> {
    text.parse()
}

impl SimulateArgs {
    fn plan(&self, seed: u64) -> Plan {
        let tempo = match self.tempo {
            TempoArg::Hectic => Tempo::Hectic,
            TempoArg::Calm => Tempo::Calm,
            TempoArg::Both if seed.is_multiple_of(2) => Tempo::Hectic,
            TempoArg::Both => Tempo::Calm,
        };
        let mut plan = Plan::of_seed(seed, tempo);
        if let Some(minutes) = self.minutes {
            plan.lasts_ms = (minutes * MS_PER_MINUTE) as u64;
        }
        if let Some(nodes) = self.nodes {
            plan.settings.nodes = nodes as usize;
        }
        if let Some(faults) = self.faults {
            plan.faults = faults;
        }
        plan
    }

    /// Which seeds to play: the first, and how many there are at most.
    fn range(&self) -> Range<u64> {
        match (self.seed, &self.seeds) {
            (Some(seed), _) => seed..seed.saturating_add(1),
            (None, Some(range)) => range.clone(),
            (None, None) => {
                let first = Dice::from_system().next_u64() % RANDOM_SEEDS;
                first..u64::MAX
            }
        }
    }
}

/// What all runs together came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    figures: Played,
    failed: Vec<(u64, Played)>,
}

/// Runs the command.
pub fn run(common: &Common, args: &SimulateArgs) -> Result<(), CliError> {
    let output = common.output();
    if args
        .minutes
        .is_some_and(|minutes| !(0.0..1e9).contains(&minutes))
    {
        return Err(CliError::Usage(
            "--minutes is a time, not below zero".to_owned(),
        ));
    }
    explore::quiet_panics();
    let clock = SystemClock::new();
    let range = args.range();
    let endless = args.seed.is_none() && args.seeds.is_none();
    let until_ms = match args.time {
        Some(time) => Some(time),
        None => endless.then_some(DEFAULT_FOR),
    }
    .map(|time| time.as_millis() as u64);
    let total = explore_all(args, &range, until_ms, &clock);
    let real_ms = clock.now().monotonic_ms.max(1);
    if std::io::stderr().is_terminal() {
        eprint!("\x1b[K");
    }
    let failures: Vec<Failure> = total
        .failed
        .iter()
        .map(|(seed, played)| Failure::of(*seed, args.plan(*seed), played))
        .collect();
    report(&output, &total, &failures, real_ms)?;
    if args.trace {
        for failure in &failures {
            failure.tell(&output)?;
        }
    }
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(CliError::Invariant {
            failed: failures.len(),
            seeds: total.seeds,
            first: first.command.clone(),
        }),
    }
}

fn explore_all(
    args: &SimulateArgs,
    range: &Range<u64>,
    until_ms: Option<u64>,
    clock: &SystemClock,
) -> Total {
    let next = AtomicU64::new(range.start);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let threads = args
        .threads
        .unwrap_or(cores)
        .clamp(1, MAX_THREADS)
        .min(most);
    let work = || {
        loop {
            let elapsed_ms = clock.now().monotonic_ms;
            if stop.load(Ordering::Relaxed) || until_ms.is_some_and(|until| elapsed_ms >= until) {
                return;
            }
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= range.end {
                return;
            }
            let played = explore::play(seed, args.plan(seed));
            let mut total = total.lock().expect("no run panics with it");
            total.seeds += 1;
            total.figures.join(&played);
            if played.violation.is_some() {
                // Made small and told of at the end; the figures are kept.
                total.failed.push((seed, played));
                if total.failed.len() >= explore::MAX_FAILURES {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            progress(&total, elapsed_ms, until_ms);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    total.into_inner().expect("no run panics with it")
}

/// Tells people how far it is, on a line that is written over.
fn progress(total: &Total, elapsed_ms: u64, until_ms: Option<u64>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let hours = total.figures.simulated_ms as f64 / MS_PER_HOUR;
    let of = until_ms.map_or(String::new(), |until_ms| format!(" of {}", until_ms / 1000));
    eprint!(
        "\r{} s{of}: {} seeds, {hours:.1} simulated hours, {} failed\x1b[K\r",
        elapsed_ms / 1000,
        total.seeds,
        total.failed.len()
    );
    // Progress that cannot be shown is no reason to stop.
    drop(std::io::stderr().flush());
}

/// A seed that failed, in its shortest form.
struct Failure {
    seed: u64,
    plan: Plan,
    what: String,
    command: String,
}

impl Failure {
    fn of(seed: u64, plan: Plan, played: &Played) -> Self {
        let violation = played.violation.as_ref().expect("it failed");
        let plan = explore::shrink(seed, plan, violation);
        let again = explore::play(seed, plan);
        let what = again.violation.as_ref().unwrap_or(violation).to_string();
        Failure {
            seed,
            plan,
            what,
            command: explore::command(seed, &plan),
        }
    }

    fn tell(&self, output: &Output) -> Result<(), CliError> {
        let plan = Plan {
            story: true,
            ..self.plan
        };
        if output.json {
            return Ok(());
        }
        output.line(&format!("\nseed {}: {}", self.seed, self.what))?;
        for line in explore::play(self.seed, plan).story {
            output.line(&format!("  {line}"))?;
        }
        Ok(())
    }
}

fn spread(times_ms: &[u64]) -> Value {
    let percentile = |percent| Detection::percentile_ms(times_ms, percent);
    json!({
        "count": times_ms.len(),
        "p50_ms": percentile(50),
        "p99_ms": percentile(99),
    })
}

fn report(
    output: &Output,
    total: &Total,
    failures: &[Failure],
    real_ms: u64,
) -> Result<(), CliError> {
    let figures = &total.figures;
    let simulated_hours = figures.simulated_ms as f64 / MS_PER_HOUR;
    let hours_per_hour = figures.simulated_ms as f64 / real_ms as f64;
    let faults: BTreeMap<&str, u64> = figures
        .faults
        .iter()
        .map(|(kind, count)| (kind.name(), *count))
        .collect();
    let detection = &figures.detection;
    if output.json {
        let failed: Vec<Value> = failures
            .iter()
            .map(|failure| {
                json!({"seed": failure.seed, "what": failure.what, "command": failure.command})
            })
            .collect();
        return output.json(&json!({
            "seeds": total.seeds,
            "simulated_hours": simulated_hours,
            "simulated_hours_per_hour": hours_per_hour,
            "events": figures.events,
            "operations": figures.operations,
            "acknowledged": figures.acknowledged,
            "unavailable": figures.unavailable,
            "faults": faults,
            "detection": {
                "killed": spread(&detection.killed_ms),
                "silent": spread(&detection.silent_ms),
                "false_positives": detection.false_positives,
                "excused": detection.excused,
                "short_pauses": detection.short_pauses,
            },
            "failed": failed,
        }));
    }
    output.line(&format!(
        "{} seeds, {simulated_hours:.2} simulated hours ({hours_per_hour:.0} an hour), {} events",
        total.seeds, figures.events
    ))?;
    output.line(&format!(
        "{} operations: {} writes acknowledged, {} refused",
        figures.operations, figures.acknowledged, figures.unavailable
    ))?;
    let counts: Vec<String> = faults
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    output.line(&format!("faults: {}", counts.join(", ")))?;
    let seconds = |times_ms: &[u64]| {
        let percentile = |percent| {
            let ms = Detection::percentile_ms(times_ms, percent).unwrap_or(0);
            ms as f64 / 1000.0
        };
        let (half, most) = (percentile(50), percentile(99));
        format!(
            "{} times, median {half:.2} s, p99 {most:.2} s",
            times_ms.len()
        )
    };
    output.line(&format!(
        "killed processes noticed {}; silent machines {}",
        seconds(&detection.killed_ms),
        seconds(&detection.silent_ms)
    ))?;
    output.line(&format!(
        "{} nodes wrongly taken for down, {} because of a fault; {} pauses of up to 2 s",
        detection.false_positives, detection.excused, detection.short_pauses
    ))?;
    for failure in failures {
        output.line(&format!("seed {} failed: {}", failure.seed, failure.what))?;
        output.line(&format!("  {}", failure.command))?;
    }
    Ok(())
}
