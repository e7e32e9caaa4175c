//! `kinfold reconciler simulate`: clusters that fold with a module under faults,
//! and whether their replicas end up with the same values.
//!
//! Promises: the exit code is 0 only if everything converged and the module folded
//! something; what does not converge is shown with the writes that matter, how
//! they met, the two values that they became, and the command that plays it again.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::super::Common;
use super::super::error::CliError;
use super::super::item;
use super::super::output::Output;
use crate::clock::Dice;
use crate::protocol::catalog::ModuleKind;
use crate::reconcile::laws::{Samples, SamplesError};
use crate::reconcile::wasm::{Sandbox, SandboxError, SandboxLimits};
use crate::simulation::faults::{FaultKind, FaultSet};
use crate::simulation::trial::ledger::Figures;
use crate::simulation::trial::module::{Untried, subject};
use crate::simulation::trial::tell::{Story, story};
use crate::simulation::trial::{FAULTS, Plan, Subject, play, shrink};

/// Seeds that nobody named are below this, so that they are easily typed.
const RANDOM_SEEDS: u64 = 1 << 32;
const MS_PER_MINUTE: f64 = 60_000.0;
/// The longest trial, in simulated minutes: a week.
const MAX_MINUTES: f64 = 10_080.0;

pub const EXAMPLES: &str = "\
Whole clusters are simulated, with the real nodes and the module in the real sandbox.
Clients write the module's samples at all nodes at once while links fail, nodes stop
and clocks are off. In the end everything heals, and what the same writes became by
different paths must be the same. The same seed gives the same run.

Examples:
  kinfold reconciler simulate my_merge.wasm
  kinfold reconciler simulate my_merge.wasm --samples carts/ --minutes 60
  kinfold reconciler simulate my_merge.wasm --seed 7 --faults partition --trace";

/// Plays clusters that fold with a module while the network between them fails
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// The module: a WebAssembly component, or a core module that carries its type
    file: PathBuf,
    /// Play the run of this seed
    #[arg(long)]
    seed: Option<u64>,
    /// How many simulated minutes of writes under faults
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// How many nodes each cluster has
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Write the files of this folder, one value (or operation) in each, instead
    /// of the module's own samples
    #[arg(long, visible_alias = "operations", value_name = "DIR")]
    samples: Option<PathBuf>,
    /// Which faults there are, instead of what the seed says: names separated by
    /// commas, or none
    #[arg(long, value_parser = faults)]
    faults: Option<FaultSet>,
    /// Tell everything that happened to the item that fails
    #[arg(long)]
    trace: bool,
}

fn faults(text: &str) -> Result<FaultSet, String> {
    let set: FaultSet = text
        .parse()
        .map_err(|error: crate::simulation::faults::UnknownFault| error.to_string())?;
    let possible = FaultSet::of(&FAULTS);
    match set.kinds().find(|kind| !possible.has(*kind)) {
        None => Ok(set),
        Some(kind) => Err(format!(
            "{} takes away what was written, or who holds it, which says nothing of a \
             module; there are: {possible}",
            kind.name()
        )),
    }
}

/// Why a module could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("{}: {source}", file.display())]
    Untried { file: PathBuf, source: Untried },
    #[error(transparent)]
    Samples(#[from] SamplesError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// What was found has been shown.
    #[error("{module} does not converge; play it again: {command}")]
    Diverges { module: String, command: String },
    #[error("{module} decided none of the conflicts: {advice}")]
    Undecided {
        module: String,
        advice: &'static str,
    },
}

/// What all clusters together came to.
#[derive(Default)]
struct Total {
    clusters: u64,
    figures: Figures,
    simulated_ms: u64,
    asked: u64,
    acknowledged: u64,
    unavailable: u64,
    faults: BTreeMap<FaultKind, u64>,
}

/// Runs the trial on this thread: there is nothing else to do meanwhile.
pub fn run(common: &Common, args: &SimulateArgs) -> Result<(), CliError> {
    let output = common.output();
    if !(0.0..=MAX_MINUTES).contains(&args.minutes) {
        return Err(CliError::Usage(format!(
            "--minutes is a time, at most {MAX_MINUTES}"
        )));
    }
    let bytes = item::read_input(Some(&args.file))?;
    let given = match &args.samples {
        None => None,
        Some(folder) => match Samples::from_dir(folder).map_err(TrialError::from)? {
            Samples::Given(samples) => Some(samples),
            Samples::Module => None,
        },
    };
    let seed = args
        .seed
        .unwrap_or_else(|| Dice::from_system().next_u64() % RANDOM_SEEDS);
    let sandbox = Sandbox::new(SandboxLimits::default(), None).map_err(TrialError::from)?;
    let sandbox = Arc::new(sandbox);
    // The samples do not go by the seed: a run of a later cluster is played again
    // by a seed of its own.
    let subject = subject(&sandbox, &bytes, given, 0).map_err(|source| TrialError::Untried {
        file: args.file.clone(),
        source,
    })?;
    let lasts_ms = (args.minutes * MS_PER_MINUTE).round() as u64;
    let plans = Plan::rounds(seed, args.nodes as usize, lasts_ms);
    let mut total = Total::default();
    let is_watched = std::io::stderr().is_terminal() && !output.json;
    for plan in &plans {
        let plan = Plan {
            faults: args.faults.unwrap_or(plan.faults),
            ..*plan
        };
        let played = play(&subject, plan);
        total.clusters += 1;
        total.figures.join(&played.figures);
        total.simulated_ms += played.simulated_ms;
        total.asked += played.asked;
        total.acknowledged += played.acknowledged;
        total.unavailable += played.unavailable;
        for (kind, count) in &played.faults {
            *total.faults.entry(*kind).or_default() += count;
        }
        if is_watched {
            progress(&total, plans.len());
        }
        if played.trouble.is_some() {
            // A run that was named in full is told as it is: it was made small before.
            let is_named = args.seed.is_some() && args.faults.is_some();
            let (plan, played) = if is_named {
                (plan, played)
            } else {
                if is_watched {
                    eprint!("\rmaking it smaller\x1b[K\r");
                }
                shrink(&subject, plan, played)
            };
            let story = story(&subject, &played, plan.nodes);
            if is_watched {
                eprint!("\x1b[K");
            }
            let story = story.expect("a run that fails has a story");
            return Err(diverges(&output, args, &subject, &plan, &total, &story)?);
        }
    }
    if is_watched {
        eprint!("\x1b[K");
    }
    converges(&output, args, &subject, seed, &total, sandbox.limits().fuel)
}

/// Tells people how far it is, on a line that is written over.
fn progress(total: &Total, of: usize) {
    eprint!(
        "\r{} of {of} clusters, {} writes, {} conflicts folded\x1b[K\r",
        total.clusters, total.acknowledged, total.figures.folds
    );
    // Progress that cannot be shown is no reason to stop.
    drop(std::io::stderr().flush());
}

/// The command that plays this again.
fn command(args: &SimulateArgs, plan: &Plan) -> String {
    let samples = args.samples.as_ref();
    let samples = samples.map_or_else(String::new, |folder| {
        format!(" --samples {}", folder.display())
    });
    // So many places tell milliseconds apart.
    let minutes = format!("{:.5}", plan.lasts_ms as f64 / MS_PER_MINUTE);
    format!(
        "kinfold reconciler simulate {}{samples} --seed {} --nodes {} --minutes {} --faults {}",
        args.file.display(),
        plan.seed,
        plan.nodes,
        minutes.trim_end_matches('0').trim_end_matches('.'),
        plan.faults
    )
}

fn kind(subject: &Subject) -> &'static str {
    match subject.kind {
        ModuleKind::Reconciler => "reconciler",
        ModuleKind::DataType => "data type",
    }
}

fn figures(total: &Total) -> serde_json::Value {
    let faults: BTreeMap<&str, u64> = total
        .faults
        .iter()
        .map(|(kind, count)| (kind.name(), *count))
        .collect();
    let folds = &total.figures;
    json!({
        "clusters": total.clusters,
        "simulated_minutes": total.simulated_ms as f64 / MS_PER_MINUTE,
        "writes": {
            "asked": total.asked, "acknowledged": total.acknowledged,
            "unavailable": total.unavailable,
        },
        "folds": {
            "conflicts": folds.folds, "most_siblings": folds.most_siblings,
            "unresolved": folds.unresolved, "refused": folds.refused,
            "compared": folds.compared, "max_fuel": folds.max_fuel,
        },
        "faults": faults,
    })
}

fn diverges(
    output: &Output,
    args: &SimulateArgs,
    subject: &Subject,
    plan: &Plan,
    total: &Total,
    story: &Story,
) -> Result<CliError, CliError> {
    let module = args.file.display().to_string();
    let command = command(args, plan);
    if output.json {
        output.json(&json!({
            "verdict": "diverges", "kind": kind(subject), "digest": subject.digest.to_string(),
            "seed": plan.seed, "divergence": story.to_json(), "command": command,
            "figures": figures(total),
        }))?;
    } else {
        output.line(&format!("{module} does not converge: {}\n", story.headline))?;
        for line in story.lines() {
            output.line(&line)?;
        }
        output.line("")?;
        let needs = match plan.faults == FaultSet::NONE {
            true => {
                "no fault was needed: clients that write at the same time are enough".to_owned()
            }
            false => format!("it took these faults: {}", plan.faults),
        };
        let left_out = story.of_writes.saturating_sub(story.steps.len());
        let left_out = match left_out {
            0 => String::new(),
            count => format!("; {count} more writes were in it that make no difference"),
        };
        output.line(&format!("  {needs}{left_out}"))?;
        if let Some(law) = story.law {
            output.line(&format!(
                "  the module is not {law}: kinfold reconciler check {module} looks for the law alone"
            ))?;
        }
        output.line(&format!("  again: {command}"))?;
        if args.trace {
            let told = Plan {
                story: true,
                ..*plan
            };
            output.line("")?;
            for line in play(subject, told).story {
                output.line(&format!("  {line}"))?;
            }
        }
    }
    Ok(TrialError::Diverges { module, command }.into())
}

fn converges(
    output: &Output,
    args: &SimulateArgs,
    subject: &Subject,
    seed: u64,
    total: &Total,
    fuel: u64,
) -> Result<(), CliError> {
    let module = args.file.display().to_string();
    let folds = &total.figures;
    let undecided = folds.folds == 0 || folds.compared == 0;
    let verdict = if undecided { "undecided" } else { "converges" };
    if output.json {
        output.json(&json!({
            "verdict": verdict, "kind": kind(subject), "digest": subject.digest.to_string(),
            "seed": seed, "figures": figures(total),
        }))?;
    }
    if undecided {
        let advice = match subject.lenient {
            true => "give it values that it accepts with --samples DIR",
            false => "play longer with --minutes, or give it other values with --samples DIR",
        };
        return Err(TrialError::Undecided { module, advice }.into());
    }
    if output.json {
        return Ok(());
    }
    let minutes = total.simulated_ms as f64 / MS_PER_MINUTE;
    output.line(&format!(
        "{module} converges: no divergence in {} clusters of {} nodes, \
         {minutes:.1} simulated minutes (seed {seed})\n",
        total.clusters, args.nodes
    ))?;
    let line = |name: &str, text: String| output.line(&format!("  {name:<10} {text}"));
    line(
        "writes",
        format!(
            "{} acknowledged, {} not (a node or a quorum was away)",
            total.acknowledged,
            total.asked.saturating_sub(total.acknowledged)
        ),
    )?;
    let mut conflicts = format!(
        "{} folded, of up to {} versions",
        folds.folds, folds.most_siblings
    );
    if folds.unresolved > 0 {
        conflicts.push_str(&format!("; {} left to clients", folds.unresolved));
    }
    if folds.refused > 0 {
        conflicts.push_str(&format!("; {} refused by the module", folds.refused));
    }
    line("conflicts", conflicts)?;
    line(
        "paths",
        format!(
            "{} values made of the same writes in different ways, all alike",
            folds.compared
        ),
    )?;
    line(
        "replicas",
        "equal byte for byte once healed; every node reads the same".to_owned(),
    )?;
    let faults: Vec<String> = total
        .faults
        .iter()
        .map(|(kind, count)| format!("{} {count}", kind.name()))
        .collect();
    line(
        "faults",
        match faults.is_empty() {
            true => "none".to_owned(),
            false => faults.join(", "),
        },
    )?;
    line(
        "fuel",
        format!("at most {} of {fuel} for one call", folds.max_fuel),
    )
}
