//! Items that fail, modules that fail, and how they get out of it.

use bytes::Bytes;

use super::*;
use crate::protocol::dot::{Actor, Dot, Epoch};
use crate::protocol::effect::{GuestSibling, Operation};
use crate::protocol::id::{NodeId, TableId};
use crate::protocol::siblings::Version;

/// A ward, and a clock that goes on when it is told.
#[derive(Default)]
struct World {
    ward: Ward,
    now: Now,
    runs: u64,
}

const BAD: Fared<'static> = Fared::Badly("ran out of fuel");

fn test_dot(counter: u64) -> Dot {
    let actor = Actor {
        node: NodeId(1),
        epoch: Epoch(1),
    };
    Dot { actor, counter }
}

fn request(module: &str, key: &str, dots: &[u64]) -> GuestRequest {
    let sibling = |dot: &u64| GuestSibling {
        dot: test_dot(*dot),
        version: Version {
            value: Some(Bytes::from_static(b"v")),
            content_type: "".into(),
            written_at_us: 1,
            stands_for: None,
        },
    };
    GuestRequest {
        digest: Digest::of(module.as_bytes()),
        table: "t".into(),
        key: ItemKey::new(TableId(1), key.as_bytes(), None),
        siblings: dots.iter().map(sibling).collect(),
        operation: None,
        render: false,
        max_output_bytes: 1,
    }
}

impl World {
    /// Asks once; the module fares so if it is run.
    fn ask(&mut self, request: &GuestRequest, fared: Fared<'_>) -> Admission {
        let case = Case::of(request);
        let admission = self.ward.admit(&case, self.now);
        if let Admission::Run { probe } = admission {
            self.runs += 1;
            self.ward.report(&case, probe, fared, self.now);
        }
        admission
    }

    fn wait(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.wall_us += ms * 1_000;
    }

    fn is_quarantined(&self, module: &str) -> bool {
        let troubles = self.ward.troubles();
        let trouble = troubles.get(&Digest::of(module.as_bytes()));
        trouble.is_some_and(|trouble| trouble.quarantined_since_us.is_some())
    }

    /// A module that fails on everything.
    fn break_module(&mut self, module: &str) {
        for key in 0..QUARANTINE_ITEMS {
            self.ask(&request(module, &key.to_string(), &[1, 2]), BAD);
        }
        assert!(self.is_quarantined(module));
    }
}

fn is_spared(admission: &Admission) -> bool {
    matches!(admission, Admission::Spare(_))
}

#[test]
fn a_poisoned_item_costs_little_and_harms_no_other() {
    let mut world = World::default();
    let poison = request("m", "poison", &[1, 2]);
    for round in 0..1_000u32 {
        world.ask(&poison, BAD);
        let healthy = request("m", &round.to_string(), &[1, 2]);
        assert_eq!(
            world.ask(&healthy, Fared::Well),
            Admission::Run { probe: false }
        );
        world.wait(10);
    }
    assert!(!world.is_quarantined("m"));
    let runs = world.runs - 1_000;
    assert!(
        (TRIES as u64..8).contains(&runs),
        "{runs} runs in ten seconds"
    );
    let answer = world.ask(&poison, BAD);
    let Admission::Spare(GuestReply::Failed(text)) = answer else {
        panic!("{answer:?}");
    };
    assert!(text.contains("ran out of fuel"), "{text}");
}

#[test]
fn an_item_that_nobody_else_is_asked_beside_quarantines_nothing() {
    let mut world = World::default();
    for dot in 0..3_000 {
        world.ask(&request("m", "poison", &[dot, dot + 1]), BAD);
        assert!(!world.is_quarantined("m"), "one item counts once");
        world.wait(100);
    }
    let runs = world.runs;
    assert!(
        runs > QUARANTINE_ITEMS as u64,
        "{runs} are too few to show it"
    );
    assert!(
        runs < 24,
        "{runs} runs of ever new siblings in five minutes"
    );
    // Fewer siblings than ever failed: someone may have put it right.
    let mended = world.ask(&request("m", "poison", &[5_000]), Fared::Well);
    assert_eq!(mended, Admission::Run { probe: false });
    let after = world.ask(&request("m", "poison", &[5_000, 5_001]), Fared::Well);
    assert_eq!(after, Admission::Run { probe: false }, "and it has");
}

#[test]
fn other_siblings_of_a_failing_item_are_tried_at_once() {
    let mut world = World::default();
    for _ in 0..3 {
        world.ask(&request("m", "k", &[1, 2]), BAD);
    }
    assert!(is_spared(&world.ask(&request("m", "k", &[1, 2]), BAD)));
    let other = world.ask(&request("m", "k", &[2, 3]), Fared::Well);
    assert!(!is_spared(&other));
}

#[test]
fn a_module_that_fails_widely_is_quarantined_and_probed() {
    let mut world = World::default();
    world.break_module("m");
    let before = world.runs;
    for key in 0..1_000 {
        let answer = world.ask(&request("m", &format!("x{key}"), &[1, 2]), BAD);
        let Admission::Spare(GuestReply::Quarantined(text)) = answer else {
            panic!("{answer:?}");
        };
        assert!(text.contains("ran out of fuel"), "{text}");
    }
    assert_eq!(world.runs, before);
    assert!(world.ward.troubles()[&Digest::of(b"m")].spared >= 1_000);
    // An hour of probes that fail costs about one run a minute.
    for tenth in 0..36_000u32 {
        world.ask(&request("m", &format!("y{tenth}"), &[1, 2]), BAD);
        world.wait(100);
    }
    let probes = world.runs - before;
    assert!((50..80).contains(&probes), "{probes} probes in an hour");
    // Mended: a probe, then two that follow at once, and it is over.
    world.wait(MAX_PROBE_WAIT_MS);
    for key in 0..PROBES {
        assert!(world.is_quarantined("m"));
        let probe = world.ask(&request("m", &format!("z{key}"), &[1, 2]), Fared::Well);
        assert_eq!(probe, Admission::Run { probe: true });
    }
    assert!(!world.is_quarantined("m"));
    let folded = world.ask(&request("m", "z", &[1, 2]), Fared::Well);
    assert_eq!(folded, Admission::Run { probe: false });
    // What was wrong is still told.
    let trouble = &world.ward.troubles()[&Digest::of(b"m")];
    assert_eq!(
        trouble.last_failure.as_ref().unwrap().error,
        "ran out of fuel"
    );
}

#[test]
fn one_probe_at_a_time_and_a_lost_one_is_replaced() {
    let mut world = World::default();
    world.break_module("m");
    world.wait(PROBE_WAIT_MS);
    let case = |key: &str| Case::of(&request("m", key, &[1, 2]));
    let run = Admission::Run { probe: true };
    assert_eq!(world.ward.admit(&case("a"), world.now), run);
    assert!(is_spared(&world.ward.admit(&case("b"), world.now)));
    // It met a full queue: the next one may go.
    world.ward.report(&case("a"), true, Fared::Not, world.now);
    assert_eq!(world.ward.admit(&case("b"), world.now), run);
    assert!(is_spared(&world.ward.admit(&case("c"), world.now)));
    world.wait(PROBE_LOST_MS);
    assert_eq!(world.ward.admit(&case("c"), world.now), run);
}

#[test]
fn another_digest_and_operations_are_judged_by_themselves() {
    let mut world = World::default();
    world.break_module("m");
    let other = world.ask(&request("better", "0", &[1, 2]), Fared::Well);
    assert_eq!(other, Admission::Run { probe: false });
    let mut operation = request("m", "0", &[1, 2]);
    operation.operation = Some(Operation {
        body: Bytes::from_static(b"{}"),
        dot: test_dot(9),
        written_at_us: 1,
    });
    let operated = world.ask(&operation, Fared::Well);
    assert_eq!(operated, Admission::Run { probe: false });
}

#[test]
fn failures_among_many_good_folds_quarantine_nothing() {
    let mut world = World::default();
    for round in 0..10_000u64 {
        let fared = if round % 3 == 0 { BAD } else { Fared::Well };
        world.ask(&request("m", &round.to_string(), &[1, 2]), fared);
        assert!(!world.is_quarantined("m"), "after {round}");
    }
    let trouble = &world.ward.troubles()[&Digest::of(b"m")];
    assert!(trouble.failing_items <= MAX_FAILING_ITEMS as u64);
}

#[test]
fn what_was_not_run_counts_for_nothing() {
    for reply in [GuestReply::Missing, GuestReply::Overloaded] {
        let mut world = World::default();
        for key in 0..100 {
            let case = request("m", &key.to_string(), &[1, 2]);
            world.ask(&case, Fared::of(&reply));
        }
        assert!(world.ward.troubles().is_empty());
    }
    let refused = GuestReply::BadOperation("no".into());
    assert_eq!(Fared::of(&refused), Fared::Well);
    assert_eq!(Fared::of(&GuestReply::Unresolved), Fared::Well);
}

#[test]
fn memories_are_bounded() {
    let mut world = World::default();
    for module in 0..MAX_MODULES + 10 {
        world.ask(&request(&module.to_string(), "k", &[1, 2]), BAD);
        world.wait(1);
    }
    assert_eq!(world.ward.records.len(), MAX_MODULES);
    assert!(!world.ward.troubles().contains_key(&Digest::of(b"0")));
}
