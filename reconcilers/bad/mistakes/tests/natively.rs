//! The mistakes as plain Rust, those that end by themselves: the law check must
//! find each on every seed. The server's tests ask the same of the modules in
//! the sandbox, where those without an end, or with a giant output, meet one.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::panic::catch_unwind;

use kinfold_guest::Dot;
use kinfold_laws::{
    Answer, Failure, Item, Kind, Law, Outcome, Samples, Settings, Sibling, Subject, Verdict, check,
};

#[path = "../examples/concatenation.rs"]
mod concatenation;
#[path = "../examples/first_wins.rs"]
mod first_wins;
#[path = "../examples/float_total.rs"]
mod float_total;
#[path = "../examples/hash_order.rs"]
mod hash_order;
#[path = "../examples/ignores_deletes.rs"]
mod ignores_deletes;
#[path = "../examples/keeps_duplicates.rs"]
mod keeps_duplicates;
#[path = "../examples/mean.rs"]
mod mean;
#[path = "../examples/no_tie_break.rs"]
mod no_tie_break;
#[path = "../examples/sum.rs"]
mod sum;
#[path = "../examples/traps_on_third.rs"]
mod traps_on_third;
#[path = "../examples/truncation.rs"]
mod truncation;
#[path = "../examples/unreadable_output.rs"]
mod unreadable_output;

type Fold = fn(&[kinfold_guest::Sibling]) -> Result<kinfold_guest::Outcome, String>;

struct Native {
    fold: Fold,
    samples: fn(u64, u32) -> Vec<Vec<u8>>,
}

impl Subject for Native {
    fn kind(&self) -> Kind {
        Kind::Reconciler
    }

    fn samples(&self, seed: u64, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        Ok(Some((self.samples)(seed, count)))
    }

    fn fold(&self, _: &Item, siblings: &[&Sibling]) -> Answer {
        let siblings: Vec<kinfold_guest::Sibling> = siblings
            .iter()
            .map(|one| kinfold_guest::Sibling {
                value: one.value.clone(),
                written_at: one.written_at_us,
                dot: Dot {
                    actor: one.dot.actor.clone(),
                    counter: one.dot.counter,
                },
            })
            .collect();
        let fold = self.fold;
        match catch_unwind(move || fold(&siblings)) {
            Err(_) => Err(Failure::Trapped("it panicked".to_owned())),
            Ok(Err(reason)) => Err(Failure::Refused(reason)),
            Ok(Ok(kinfold_guest::Outcome::Deleted)) => Ok(Outcome::Deleted),
            Ok(Ok(kinfold_guest::Outcome::Merged(value))) => Ok(Outcome::Merged(value)),
        }
    }
}

macro_rules! native {
    ($name:ident) => {
        (
            stringify!($name),
            Native {
                fold: $name::merge::fold,
                samples: $name::merge::samples,
            },
        )
    };
}

#[test]
fn every_mistake_that_ends_is_found_on_every_seed() {
    use Law::*;
    // A hash map of the host has dice of its own, so it is not even
    // deterministic here.
    let mistakes: [(_, &[Law], &str); 12] = [
        (
            native!(concatenation),
            &[Idempotent, OrderFree],
            "one after the other",
        ),
        (native!(sum), &[Idempotent, Regroupable], "counted twice"),
        (native!(mean), &[Idempotent, Regroupable], "a mean"),
        (native!(first_wins), &[OrderFree], "comes first"),
        (native!(no_tie_break), &[OrderFree], "tie-break"),
        (native!(keeps_duplicates), &[Idempotent], "duplicates"),
        (
            native!(float_total),
            &[OrderFree, Regroupable, Idempotent],
            "floats",
        ),
        (
            native!(hash_order),
            &[Deterministic, OrderFree, Idempotent, Regroupable, Closed],
            "",
        ),
        (native!(truncation), &[Idempotent, Regroupable], ""),
        (
            native!(ignores_deletes),
            &[Regroupable, Idempotent],
            "deletions",
        ),
        (native!(unreadable_output), &[Closed], "write what you read"),
        (native!(traps_on_third), &[Closed], "a panic"),
    ];
    let mut wrong = BTreeSet::new();
    for ((name, native), laws, says) in mistakes {
        for seed in [1, 2, 42] {
            let settings = Settings::new(seed, 400);
            let report = check(&native, &Samples::Module, settings, &mut |_| {
                ControlFlow::Continue(())
            });
            let Verdict::Violated(found) = report.verdict else {
                wrong.insert(format!("{name}, seed {seed}: {:?}", report.verdict));
                continue;
            };
            let text = found.to_string();
            let sizes = found.siblings.iter().filter_map(|one| one.value.as_ref());
            let is_small = found.siblings.len() <= 3 && sizes.map(Vec::len).max() <= Some(48);
            if !laws.contains(&found.law) || !text.contains(says) || !is_small {
                wrong.insert(format!("{name}, seed {seed}: {text}"));
            }
            if seed == 1 {
                println!("{name}, case {}: {text}\n", found.case);
            }
        }
    }
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
