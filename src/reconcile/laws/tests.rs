//! The check over real modules finds what is wrong and passes what is right.

use super::*;
use crate::reconcile::registry::built_ins;
use crate::reconcile::wasm::SandboxLimits;

const MISBEHAVE: &[u8] = include_bytes!("../../../reconcilers/prebuilt/test/misbehave.wasm");

pub(super) fn report(module: &[u8], seed: u64, cases: u64) -> Report {
    // A loop without end is told from a long one after a tenth of a second, not
    // after the seconds that a table's folds may take.
    let limits = SandboxLimits {
        fuel: 100_000_000,
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
            let report = report(bytes, seed, 150);
            match &report.verdict {
                Verdict::NoCounterexample { cases } => {
                    assert!(*cases > 90, "{name}: only {cases} were decided");
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
