//! What trials find, and what they let pass: lawful modules converge, and each of
//! these mistakes is found and told in few writes.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::derivation::Guest;
use super::module::subject;
use super::tell::{Story, story};
use super::{FaultSet, Plan, Played, Subject, Trouble, play, shrink};
use crate::protocol::catalog::{Digest, ModuleKind};
use crate::protocol::effect::{GuestReply, GuestRequest, GuestSibling, View};
use crate::reconcile::native::{COUNTER, NativeGuests};
use crate::reconcile::wasm::{Sandbox, SandboxLimits};

/// How long a cluster lives here: unlawful modules are found in less.
const LASTS_MS: u64 = 1_500;
/// How many clusters a mistake may take to show.
const SEEDS: u64 = 6;

struct Native<F>(F);

impl<F: Fn(&GuestRequest) -> GuestReply> Guest for Native<F> {
    fn answer(&self, request: &GuestRequest) -> GuestReply {
        (self.0)(request)
    }
    fn fuel(&self) -> u64 {
        0
    }
}

fn native(
    kind: ModuleKind,
    digest: Digest,
    pool: &[&str],
    answer: impl Fn(&GuestRequest) -> GuestReply + 'static,
) -> Subject {
    Subject {
        guest: Rc::new(Native(answer)),
        digest,
        kind,
        eager: false,
        pool: pool
            .iter()
            .map(|text| Bytes::copy_from_slice(text.as_bytes()))
            .collect(),
        lenient: false,
    }
}

/// A reconciler whose fold of two siblings or more is this.
fn folding(fold: impl Fn(&[GuestSibling]) -> Option<Vec<u8>> + 'static) -> Subject {
    native(
        ModuleKind::Reconciler,
        Digest::of(b"mistake"),
        &["1", "2", "3", "10"],
        move |request| GuestReply::Done {
            value: match &request.siblings[..] {
                [only] => only.version.value.clone(),
                siblings => fold(siblings).map(Bytes::from),
            },
            view: None,
        },
    )
}

fn numbers(siblings: &[GuestSibling]) -> Vec<i64> {
    let values = siblings
        .iter()
        .filter_map(|sibling| sibling.version.value.as_ref());
    values
        .map(|value| String::from_utf8_lossy(value).parse().expect("a number"))
        .collect()
}

/// Plays until it fails, and makes that small.
fn found(subject: &Subject) -> (Plan, Played, Story) {
    for seed in 0..SEEDS {
        let plan = Plan::of_seed(seed, 3, LASTS_MS);
        let played = play(subject, plan);
        if played.trouble.is_some() {
            let (plan, played) = shrink(subject, plan, played);
            let story = story(subject, &played, plan.nodes).expect("it failed");
            println!("{}\n{}\n", story.headline, story.lines().join("\n"));
            return (plan, played, story);
        }
    }
    panic!("nothing was found in {SEEDS} clusters");
}

fn diverges(subject: &Subject, laws: &[&str], most_writes: usize) {
    let (plan, played, story) = found(subject);
    assert!(matches!(played.trouble, Some(Trouble::Module(_))));
    let law = story.law.expect("a law");
    assert!(laws.contains(&law), "{law} instead of {laws:?}");
    assert!(
        story.steps.len() <= most_writes,
        "{} writes: {story:?}",
        story.steps.len()
    );
    let [one, other] = &story.paths[..] else {
        panic!("two paths: {story:?}");
    };
    assert_ne!(one.gave, other.gave);
    // The very same run shows the very same story.
    let again = super::tell::story(subject, &play(subject, plan), plan.nodes);
    assert_eq!(again, Some(story));
}

fn converges(subject: &Subject, seeds: std::ops::Range<u64>, lasts_ms: u64) {
    for seed in seeds {
        let plan = Plan::of_seed(seed, 3 + (seed % 2) as usize, lasts_ms);
        let played = play(subject, plan);
        if played.trouble.is_some() {
            let story = story(subject, &played, plan.nodes).expect("it failed");
            panic!(
                "seed {seed}: {}\n{}",
                story.headline,
                story.lines().join("\n")
            );
        }
        assert!(played.acknowledged > 20, "seed {seed} shows nothing");
        assert!(played.figures.folds > 3, "{:?}", played.figures);
        assert!(played.figures.compared > 3, "{:?}", played.figures);
    }
}

#[test]
fn lawful_folds_and_data_types_converge() {
    let lines = native(
        ModuleKind::Reconciler,
        Digest::of(b"lines"),
        &["a\n", "b\n", "a\nb\n", "c\n"],
        NativeGuests::answer,
    );
    converges(&lines, 0..4, LASTS_MS);
    let counter = native(
        ModuleKind::DataType,
        COUNTER,
        &["1", "-2", "10"],
        NativeGuests::answer,
    );
    converges(&counter, 4..8, LASTS_MS);
}

#[test]
fn a_concatenation_diverges() {
    let concatenation = folding(|siblings| {
        let values = siblings.iter().filter_map(|s| s.version.value.as_deref());
        Some(values.collect::<Vec<_>>().concat())
    });
    diverges(&concatenation, &["idempotent", "regroupable"], 3);
}

#[test]
fn a_sum_and_a_mean_diverge() {
    let sum = folding(|siblings| {
        let sum: i64 = numbers(siblings).iter().sum();
        Some(sum.to_string().into_bytes())
    });
    diverges(&sum, &["idempotent", "regroupable"], 3);
    let mean = folding(|siblings| {
        let numbers = numbers(siblings);
        let sum: i64 = numbers.iter().sum();
        Some((sum / numbers.len().max(1) as i64).to_string().into_bytes())
    });
    diverges(&mean, &["idempotent", "regroupable"], 3);
}

#[test]
fn the_last_of_equal_times_diverges() {
    let no_tie_break = folding(|siblings| {
        let newest = siblings.iter().max_by_key(|s| s.version.written_at_us);
        newest.and_then(|s| s.version.value.as_ref().map(|value| value.to_vec()))
    });
    diverges(&no_tie_break, &["order-free", "regroupable"], 3);
}

#[test]
fn dropped_tombstones_diverge() {
    let undead = folding(|siblings| {
        let alive = siblings.iter().filter(|s| s.version.value.is_some());
        let newest = alive.max_by_key(|s| (s.version.written_at_us, s.dot));
        newest.and_then(|s| s.version.value.as_ref().map(|value| value.to_vec()))
    });
    diverges(&undead, &["regroupable", "idempotent"], 3);
}

#[test]
fn a_counter_that_counts_twice_diverges() {
    let twice = native(
        ModuleKind::DataType,
        Digest::of(b"twice"),
        &["1", "2"],
        |request| {
            let mut sum: i64 = numbers(&request.siblings).iter().sum();
            if let Some(operation) = &request.operation {
                sum += numbers(&[GuestSibling {
                    dot: operation.dot,
                    version: crate::protocol::siblings::Version {
                        value: Some(operation.body.clone()),
                        content_type: "".into(),
                        written_at_us: 0,
                        stands_for: None,
                    },
                }])[0];
            }
            let state = Bytes::from(sum.to_string());
            GuestReply::Done {
                view: Some(View {
                    body: state.clone(),
                    content_type: "text/plain".into(),
                }),
                value: Some(state),
            }
        },
    );
    diverges(&twice, &["order-free", "data-type"], 3);
}

#[test]
fn a_fold_that_fails_on_its_own_output_is_found() {
    let mut subject = folding(|_| None);
    subject.guest = Rc::new(Native(|request: &GuestRequest| {
        let values = || {
            let siblings = request.siblings.iter();
            siblings.filter_map(|s| s.version.value.as_deref())
        };
        if request.siblings.len() > 1 && values().any(|value| value.starts_with(b"max")) {
            return GuestReply::Failed("not a number".to_owned());
        }
        let greatest = values().max().map(|value| [b"max ", value].concat());
        GuestReply::Done {
            value: match &request.siblings[..] {
                [only] => only.version.value.clone(),
                _ => greatest.map(Bytes::from),
            },
            view: None,
        }
    }));
    let (_, _, story) = found(&subject);
    assert_eq!(story.law, Some("closed"));
    assert!(story.paths[0].gave.contains("not a number"), "{story:?}");
    assert!(story.steps.len() <= 3, "{story:?}");
}

#[test]
fn the_built_ins_converge_in_the_real_sandbox() {
    let sandbox = Arc::new(Sandbox::new(SandboxLimits::default(), None).unwrap());
    for (seed, bytes) in [
        &include_bytes!("../../../reconcilers/prebuilt/lww.wasm")[..],
        include_bytes!("../../../reconcilers/prebuilt/cart-union.wasm"),
        include_bytes!("../../../reconcilers/prebuilt/or-cart.wasm"),
        include_bytes!("../../../reconcilers/prebuilt/pn-counter.wasm"),
    ]
    .into_iter()
    .enumerate()
    {
        let subject = subject(&sandbox, bytes, None, 0).unwrap();
        let seed = seed as u64;
        converges(&subject, seed..seed + 1, LASTS_MS / 2);
    }
}

/// It strings the values together when they ask for nothing else.
#[test]
fn an_unlawful_module_diverges_in_the_real_sandbox() {
    let sandbox = Arc::new(Sandbox::new(SandboxLimits::default(), None).unwrap());
    let misbehave = include_bytes!("../../../reconcilers/prebuilt/test/misbehave.wasm");
    let subject = subject(&sandbox, misbehave, None, 0).unwrap();
    diverges(&subject, &["idempotent", "regroupable"], 3);
}

#[test]
fn the_same_seed_gives_the_same_trial() {
    let sum = folding(|siblings| {
        let greatest = numbers(siblings).into_iter().max();
        greatest.map(|number| number.to_string().into_bytes())
    });
    let figures = |seed| {
        let played = play(&sum, Plan::of_seed(seed, 3, 800));
        (played.figures, played.acknowledged, played.faults)
    };
    assert_eq!(figures(3), figures(3));
    assert_ne!(figures(3), figures(4));
}

#[test]
fn trials_are_cut_into_clusters_with_seeds_of_their_own() {
    let plans = Plan::rounds(7, 3, 2 * super::ROUND_MS + 1);
    let seeds: Vec<(u64, u64)> = plans
        .iter()
        .map(|plan| (plan.seed, plan.lasts_ms))
        .collect();
    assert_eq!(seeds, [(7, super::ROUND_MS), (8, super::ROUND_MS), (9, 1)]);
    let faults: Vec<FaultSet> = plans.iter().map(|plan| plan.faults).collect();
    assert_ne!(faults[0], faults[1]);
}
