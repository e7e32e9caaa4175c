//! The mistakes as plain Rust, those that end by themselves: the law check must
//! find each on every seed. The server's tests ask the same of the modules in
//! the sandbox, where those without an end, or with a giant output, meet one.

use std::collections::BTreeSet;

use kinfold_laws::{Law, Report, Verdict};
use kinfold_reconciler::testing;

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

/// The search of one seed, for so many cases.
type Search = fn(u64, u64) -> Report;

macro_rules! native {
    ($name:ident) => {
        (
            stringify!($name),
            testing::report::<$name::Mistake> as Search,
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
    for ((name, search), laws, says) in mistakes {
        for seed in [1, 2, 42] {
            let report = search(seed, 400);
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
