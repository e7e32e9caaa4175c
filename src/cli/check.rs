//! `kinfold reconciler check`: the law check that an upload goes through,
//! without a server.
//!
//! Promises: a counterexample is shown whole, with the command that finds it
//! again; the exit code is 0 only when cases were tried and none was found.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::Common;
use super::error::CliError;
use super::item;
use super::output::Output;
use crate::clock::{Clock, Dice, SystemClock};
use crate::protocol::catalog::ModuleKind;
use crate::reconcile::laws::{
    self, Counterexample, DEFAULT_CASES, Report, Samples, SamplesError, Settings, Verdict,
};
use crate::reconcile::wasm::{InvalidModule, Sandbox, SandboxError, SandboxLimits};

const EXAMPLES: &str = "\
Replicas meet siblings in any order, in any groups and more than once. A module that
keeps the laws gives all of them the same answer. A counterexample names the seed that
finds it again; that none was found is no proof.

Examples:
  kinfold reconciler check my_merge.wasm
  kinfold reconciler check my_merge.wasm --samples carts/ --cases 100000

Exit codes:
  0 no counterexample   1 a counterexample, or no module   2 wrong usage
  6 unchecked: the module decided none of the cases, so nothing is known of it";

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

/// A report, and what was checked.
struct Checked<'a> {
    args: &'a CheckArgs,
    report: Report,
    kind: ModuleKind,
    digest: String,
    took_us: u64,
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
    let clock = SystemClock::new();
    let begun_us = clock.now().wall_us;
    let bar = progress_bar(&output, args.cases);
    let report = laws::check(
        &sandbox,
        &loaded,
        &samples,
        Settings::new(seed, args.cases),
        &mut |done| {
            bar.set_position(done);
            ControlFlow::Continue(())
        },
    );
    bar.finish_and_clear();
    let checked = Checked {
        args,
        report,
        kind: loaded.kind(),
        digest: loaded.digest().to_string(),
        took_us: clock.now().wall_us.saturating_sub(begun_us),
    };
    if output.json {
        output.json(&checked.to_json())?;
    } else {
        output.line(&checked.tell())?;
    }
    let module = args.file.display().to_string();
    match checked.report.verdict {
        Verdict::NoCounterexample { .. } => Ok(()),
        Verdict::Unchecked { .. } => Err(CliError::Unchecked { module }),
        Verdict::Violated(counterexample) => Err(CliError::Unlawful {
            module,
            law: counterexample.law.name().to_owned(),
            advice: "mend the module and check it again with the same --seed",
        }),
    }
}

/// How far the check is, for people who watch: nothing where standard error is
/// no terminal, and nothing beside JSON.
fn progress_bar(output: &Output, cases: u64) -> ProgressBar {
    let target = if output.json {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style = ProgressStyle::with_template(
        "{bar:32} {human_pos} of {human_len} cases, {per_sec}, {eta} left",
    );
    let bar = ProgressBar::with_draw_target(Some(cases), target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Checked<'_> {
    fn kind(&self) -> &'static str {
        match self.kind {
            ModuleKind::Reconciler => "reconciler",
            ModuleKind::DataType => "data type",
        }
    }

    fn cases_per_second(&self) -> u64 {
        self.report.tried * 1_000_000 / self.took_us.max(1)
    }

    fn to_json(&self) -> Value {
        let report = &self.report;
        let mut document = json!({
            "kind": self.kind(),
            "digest": self.digest,
            "seed": report.seed,
            "tried": report.tried,
            "unresolved": report.unresolved,
            "refused": report.refused,
            "calls": report.calls,
            "took_ms": self.took_us / 1000,
            "cases_per_second": self.cases_per_second(),
            "largest_output_bytes": report.largest_output_bytes,
            "notes": report.notes,
        });
        if let Some(usage) = &report.usage {
            document["fuel"] = json!({
                "most_of_a_call": usage.fuel_peak,
                "limit": usage.fuel_limit,
            });
            document["memory_bytes"] = json!({
                "most_of_a_call": usage.memory_peak_bytes,
                "limit": usage.memory_limit_bytes,
            });
        }
        match &report.verdict {
            Verdict::NoCounterexample { cases } => {
                document["verdict"] = json!("no counterexample");
                document["cases"] = json!(cases);
            }
            Verdict::Unchecked { reason } => {
                document["verdict"] = json!("unchecked");
                document["reason"] = json!(reason);
            }
            Verdict::Violated(counterexample) => {
                document["verdict"] = json!("unlawful");
                document["counterexample"] = counterexample.to_json();
                document["text"] = json!(counterexample.tell(&self.command()));
            }
        }
        document
    }

    /// The command that checks this module, but for seed and cases.
    fn command(&self) -> String {
        let mut command = format!("kinfold reconciler check {}", self.args.file.display());
        if let Some(folder) = &self.args.samples {
            command.push_str(&format!(" --samples {}", folder.display()));
        }
        command
    }

    fn tell(&self) -> String {
        let report = &self.report;
        let file = self.args.file.display();
        let kind = self.kind();
        let verdict = match &report.verdict {
            Verdict::Violated(counterexample) => return self.tell_violation(counterexample),
            Verdict::NoCounterexample { cases } => {
                format!("no counterexample in {cases} cases (seed {})", report.seed)
            }
            Verdict::Unchecked { reason } => format!("UNCHECKED: {reason} with --samples"),
        };
        let mut lines = vec![format!("{file}: {kind}, {verdict}")];
        lines.extend(self.figures());
        lines.extend(report.notes.iter().map(|note| format!("  note: {note}")));
        lines.join("\n")
    }

    fn tell_violation(&self, counterexample: &Counterexample) -> String {
        let mut lines = vec![counterexample.tell(&self.command())];
        lines.extend(self.figures());
        lines.join("\n")
    }

    /// What the check took, and the most that any one call did.
    fn figures(&self) -> Vec<String> {
        let report = &self.report;
        let mut lines = vec![format!(
            "  {} cases tried in {:.1} s ({} a second), {} calls",
            grouped(report.tried),
            self.took_us as f64 / 1e6,
            grouped(self.cases_per_second()),
            grouped(report.calls),
        )];
        if let Some(usage) = &report.usage {
            lines.push(format!(
                "  most of one call: fuel {} of {}, memory {} of {} KiB, output {} of {} bytes",
                grouped(usage.fuel_peak),
                grouped(usage.fuel_limit),
                grouped(usage.memory_peak_bytes >> 10),
                grouped(usage.memory_limit_bytes >> 10),
                grouped(report.largest_output_bytes),
                grouped(usage.output_limit_bytes),
            ));
        }
        lines
    }
}

/// A number with a comma before every third digit.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(grouped(4_000_000_000), "4,000,000,000");
    }
}
