//! The check over real modules finds what is wrong and passes what is right.

use super::*;
use crate::reconcile::registry::built_ins;
use crate::reconcile::wasm::SandboxLimits;

const MISBEHAVE: &[u8] = include_bytes!("../../../reconcilers/prebuilt/test/misbehave.wasm");

fn report(module: &[u8], seed: u64, cases: u64) -> Report {
    report_with(module, seed, cases, SandboxLimits::default().fuel)
}

/// With a limit for each call.
pub(super) fn report_with(module: &[u8], seed: u64, cases: u64, fuel: u64) -> Report {
    let limits = SandboxLimits {
        fuel,
        ..SandboxLimits::default()
    };
    let sandbox = Sandbox::new(limits, None).expect("a sandbox");
    let loaded = sandbox.prepare(module).expect("a module");
    check(
        &sandbox,
        &loaded,
        &Samples::Module,
        Settings::new(seed, cases),
        &mut |_| ControlFlow::Continue(()),
    )
}

#[test]
fn the_built_ins_are_lawful() {
    for (name, bytes) in built_ins() {
        for seed in [1, 2] {
            let report = report(bytes, seed, 100);
            match &report.verdict {
                Verdict::NoCounterexample { cases } => {
                    assert!(*cases > 60, "{name}: only {cases} were decided");
                }
                Verdict::Unchecked { reason } => panic!("{name}: {reason}"),
                Verdict::Violated(counterexample) => panic!("{name}: {counterexample}"),
            }
            assert!(report.notes.is_empty(), "{name}: {:?}", report.notes);
            let usage = report.usage.expect("a sandbox meters");
            assert!(usage.fuel_peak > 0 && usage.memory_peak_bytes > 0);
        }
    }
}

#[test]
fn a_module_that_strings_values_together_is_caught_and_told_plainly() {
    let Verdict::Violated(found) = report(MISBEHAVE, 42, 250).verdict else {
        panic!("not caught");
    };
    let json = found.to_json();
    assert_eq!(json["seed"], 42);
    assert!(
        json["hint"]
            .as_str()
            .expect("a hint")
            .contains("one after the other")
    );
    // The seed finds the same again.
    let again = report(MISBEHAVE, 42, found.case + 1).verdict;
    assert_eq!(again, Verdict::Violated(found));
}
