//! `kinfold reconciler check`: the law check that an upload goes through,
//! without a server.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::Common;
use super::error::CliError;
use super::item;
use crate::clock::Dice;
use crate::protocol::catalog::ModuleKind;
use crate::reconcile::laws::{self, DEFAULT_CASES, Samples, SamplesError, Verdict};
use crate::reconcile::wasm::{InvalidModule, Sandbox, SandboxError, SandboxLimits};

const EXAMPLES: &str = "\
Replicas meet siblings in any order, in any groups and more than once. A module that
keeps the laws gives all of them the same answer. A counterexample names the seed that
finds it again.

Examples:
  kinfold reconciler check my_merge.wasm
  kinfold reconciler check my_merge.wasm --samples carts/ --cases 100000";

/// Searches for siblings that a module folds differently depending on their order
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The module: a WebAssembly component, or a core module that carries its type
    file: PathBuf,
    /// Draw cases from the files of this folder, one value (or operation) in
    /// each, instead of the module's own samples
    #[arg(long, value_name = "DIR")]
    samples: Option<PathBuf>,
    /// How many cases to try
    #[arg(long, default_value_t = DEFAULT_CASES)]
    cases: u64,
    /// Try the cases of an earlier run again
    #[arg(long)]
    seed: Option<u64>,
}

/// Why a module could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{}: {source}; nodes would refuse it too", file.display())]
    Invalid {
        file: PathBuf,
        source: InvalidModule,
    },
    #[error(transparent)]
    Samples(#[from] SamplesError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Runs the check on this thread: there is nothing else to do meanwhile.
pub fn run(common: &Common, args: &CheckArgs) -> Result<(), CliError> {
    let output = common.output();
    let bytes = item::read_input(Some(&args.file))?;
    let samples = match &args.samples {
        Some(folder) => Samples::from_dir(folder).map_err(CheckError::from)?,
        None => Samples::Module,
    };
    let seed = args.seed.unwrap_or_else(|| Dice::from_system().next_u64());
    let sandbox = Sandbox::new(SandboxLimits::default(), None).map_err(CheckError::from)?;
    let loaded = sandbox
        .prepare(&bytes)
        .map_err(|source| CheckError::Invalid {
            file: args.file.clone(),
            source,
        })?;
    let verdict = laws::check(
        &sandbox,
        &loaded,
        &samples,
        seed,
        args.cases,
        &mut progress(args.cases),
    );
    if std::io::stderr().is_terminal() {
        // The last word on progress, which the verdict replaces.
        eprint!("\x1b[K");
    }
    let kind = match loaded.kind() {
        ModuleKind::Reconciler => "reconciler",
        ModuleKind::DataType => "data type",
    };
    let digest = loaded.digest().to_string();
    match &verdict {
        Verdict::NoCounterexample { cases, seed } if output.json => output.json(&json!({
            "verdict": "no counterexample", "cases": cases, "seed": seed,
            "kind": kind, "digest": digest,
        })),
        Verdict::NoCounterexample { cases, seed } => output.line(&format!(
            "{}: {kind}, no counterexample in {cases} cases (seed {seed})",
            args.file.display()
        )),
        Verdict::Unchecked { reason, seed } if output.json => output.json(&json!({
            "verdict": "unchecked", "reason": reason, "seed": seed,
            "kind": kind, "digest": digest,
        })),
        Verdict::Unchecked { reason, .. } => output.line(&format!(
            "{}: {kind}, unchecked: {reason} with --samples",
            args.file.display()
        )),
        Verdict::Violated(counterexample) => {
            if output.json {
                output.json(&json!({
                    "verdict": "unlawful", "counterexample": counterexample.to_json(),
                    "kind": kind, "digest": digest,
                }))?;
            } else {
                output.line(&counterexample.to_string())?;
            }
            Err(CliError::Unlawful {
                module: shown(&args.file),
                law: counterexample.law.name().to_owned(),
                advice: "mend the module and check it again with the same --seed",
            })
        }
    }
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

/// Tells people how far the check is, on a line that is written over.
fn progress(cases: u64) -> impl FnMut(u64) {
    let is_watched = std::io::stderr().is_terminal();
    move |done| {
        if is_watched {
            eprint!("\r{done} of {cases} cases\r");
            // Progress that cannot be shown is no reason to stop.
            let _ = std::io::stderr().flush();
        }
    }
}
