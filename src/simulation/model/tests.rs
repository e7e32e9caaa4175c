//! The runs: each names its bounds, and each broken rule must be found.
//!
//! A run walks every state within its bounds, however deep, and prints how many
//! there were. A broken rule is looked for within bounds under which the whole
//! protocol was found to hold, so it is the rule that makes the difference.

use stateright::{Checker, HasDiscoveries, Model as _};

use super::*;

/// The start of every list of bounds: two writes, and nothing goes wrong.
const SMALL: Bounds = Bounds {
    writes: 2,
    puts: 2,
    sessions: 1,
    reads: true,
    blind: true,
    coordinators: &[0, 1],
    down: &[&[]],
    in_flight: 4,
    repeats: 0,
    losses: 0,
    lost_acks: false,
    give_ups: false,
    hedges: false,
    exchanges: 0,
    crashes: 0,
    crash_kinds: &[],
    reaps: 0,
    reap_orders: &[[3, 0, 1, 2]],
    folds: false,
};

const ANY_CRASH: &[Crash] = &[Crash::Restart, Crash::Wipe, Crash::Restore];

/// Blind and informed writes and deletions at two coordinators, in any order.
const CONTEXTS: Bounds = Bounds { writes: 3, ..SMALL };

/// Nodes that lose their memory, or get back an old one.
const EPOCHS: Bounds = Bounds {
    writes: 3,
    sessions: 0,
    coordinators: &[0],
    crashes: 1,
    crash_kinds: ANY_CRASH,
    ..SMALL
};

/// The same among clients that show what a node forgot.
const EPOCHS_AND_CONTEXTS: Bounds = Bounds {
    puts: 1,
    crashes: 1,
    crash_kinds: ANY_CRASH,
    ..SMALL
};

/// Hints that are renewed while they are delivered.
const HINTS: Bounds = Bounds {
    puts: 1,
    coordinators: &[0, 3],
    down: &[&[1]],
    ..SMALL
};

/// One write; slow primaries, a fallback that coordinates, hedges, giving up, and
/// a network that loses and repeats.
const HEDGES: Bounds = Bounds {
    writes: 1,
    sessions: 0,
    coordinators: &[0, 3],
    down: &[&[], &[1], &[1, 2]],
    in_flight: 3,
    losses: 1,
    lost_acks: true,
    give_ups: true,
    hedges: true,
    ..SMALL
};

/// Hints, and a disk that is lost.
const HINTS_AND_CRASHES: Bounds = Bounds {
    puts: 1,
    coordinators: &[0],
    down: &[&[], &[1]],
    crashes: 1,
    crash_kinds: &[Crash::Restart, Crash::Wipe],
    ..SMALL
};

/// Folds before storing.
const FOLDS: Bounds = Bounds {
    writes: 3,
    folds: true,
    ..SMALL
};

/// A value, its deletion, a reap, and a new value.
const REAPING: Bounds = Bounds {
    writes: 3,
    puts: 1,
    reads: false,
    blind: false,
    coordinators: &[0],
    reaps: 1,
    ..SMALL
};

/// A primary seems down when the value is written, or when it is deleted.
const REAPING_AND_HINTS: Bounds = Bounds {
    down: &[&[], &[1]],
    ..REAPING
};

/// A message arrives twice.
const REAPING_AND_REPEATS: Bounds = Bounds {
    writes: 2,
    repeats: 1,
    ..REAPING
};

/// The value is deleted while it is still on its way.
const REAPING_AMID_WRITES: Bounds = Bounds {
    writes: 2,
    puts: 2,
    hedges: true,
    ..REAPING
};

/// A store is put back.
const REAPING_AND_CRASHES: Bounds = Bounds {
    writes: 2,
    crashes: 1,
    crash_kinds: &[Crash::Restore],
    ..REAPING
};

/// Walks all states and says how many.
fn check(name: &str, bounds: Bounds) {
    let reaps = bounds.reaps > 0;
    let model = Model {
        bounds,
        broken: Broken::Nothing,
    };
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states, {} steps between them, at most {} from the beginning",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth() - 1
    );
    let mut reaped = false;
    for (found, path) in checker.discoveries() {
        if found == A_REAP {
            reaped = true;
        } else {
            panic!(
                "{name}: it is not so that {found}: {:#?}",
                path.into_actions()
            );
        }
    }
    assert!(checker.is_done(), "{name}: all states were walked");
    assert_eq!(reaped, reaps, "{name}: something is reaped");
}

/// Looks for the shortest way in which the broken rule does harm.
fn finds(broken: Broken, bounds: Bounds, harm: &str) {
    let model = Model { bounds, broken };
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let path = found.get(harm).cloned();
    let path = path.unwrap_or_else(|| panic!("{broken:?} went unseen: {:?}", found.keys()));
    println!(
        "{broken:?}: {harm:?} does not hold after {} actions; found within {} states",
        path.into_actions().len(),
        checker.unique_state_count()
    );
}

#[test]
fn contexts_hold() {
    check("contexts", CONTEXTS);
}

#[test]
fn epochs_hold() {
    check("epochs", EPOCHS);
    check("epochs and contexts", EPOCHS_AND_CONTEXTS);
}

#[test]
fn hints_hold() {
    check("hints", HINTS);
    check("hints and crashes", HINTS_AND_CRASHES);
}

#[test]
fn hedges_hold() {
    check("hedges", HEDGES);
}

#[test]
fn folds_hold() {
    check("folds", FOLDS);
}

#[test]
fn reaping_holds() {
    check("reaping", REAPING);
    check("reaping and hints", REAPING_AND_HINTS);
    check("reaping and repeats", REAPING_AND_REPEATS);
}

#[test]
fn reaping_amid_writes_holds() {
    check("reaping amid writes", REAPING_AMID_WRITES);
}

#[test]
fn reaping_and_crashes_hold() {
    check("reaping and crashes", REAPING_AND_CRASHES);
}

// The longer runs, each to its end: `cargo test --release --lib at_length -- --ignored
// --nocapture`. Every one is a test of its own, because they differ by orders of
// magnitude: those that walk some hundred thousand states end within minutes in a
// debug build too, and say so.

const BOTH_ORDERS: &[[usize; 4]] = &[[3, 0, 1, 2], [0, 1, 2, 3]];

macro_rules! at_length {
    ($($test:ident, $why:literal: $bounds:expr;)*) => {
        $(#[test]
        #[ignore = $why]
        fn $test() {
            check(stringify!($test), $bounds);
        })*
    };
}

at_length! {
    epochs_with_exchange_at_length, "walks 119,865 states, at most 13 from the beginning":
    Bounds { exchanges: 1, ..EPOCHS };
    epochs_and_contexts_with_exchange_at_length,
    "walks 96,765 states, at most 10 from the beginning":
    Bounds { exchanges: 1, ..EPOCHS_AND_CONTEXTS };
    two_clients_at_length, "walks 42,391 states, at most 11 from the beginning":
    Bounds { sessions: 2, ..CONTEXTS };
    hedges_at_length, "walks some millions of states: in a release build":
    Bounds { writes: 2, puts: 1, losses: 0, lost_acks: false, ..HEDGES };
    reaping_hints_and_a_new_value_at_length,
    "walks some millions of states: in a release build":
    Bounds { writes: 3, repeats: 1, reap_orders: BOTH_ORDERS, ..REAPING_AND_HINTS };
    reaping_amid_given_up_writes_at_length,
    "walks some millions of states: in a release build":
    Bounds { give_ups: true, exchanges: 1, reap_orders: BOTH_ORDERS, ..REAPING_AMID_WRITES };
    reaping_and_any_crash_at_length, "walks some millions of states: in a release build":
    Bounds {
        crash_kinds: ANY_CRASH,
        down: &[&[], &[1]],
        reap_orders: BOTH_ORDERS,
        ..REAPING_AND_CRASHES
    };
}

macro_rules! found {
    ($($test:ident: $broken:ident within $bounds:ident breaks $harm:ident;)*) => {
        $(#[test]
        fn $test() {
            finds(Broken::$broken, $bounds, $harm);
        })*
    };
}

found! {
    a_reused_epoch: ReusedEpoch within EPOCHS_AND_CONTEXTS breaks MINTED_ONCE;
    a_wiped_node_that_goes_on: WipedNodeGoesOn within EPOCHS breaks MINTED_ONCE;
    a_restored_node_that_goes_on: RestoredNodeGoesOn within EPOCHS breaks MINTED_ONCE;
    a_vector_that_covers_the_cloud: VectorCoversCloud within CONTEXTS breaks NOTHING_LOST;
    a_token_that_covers_the_unseen: TokenCoversUnseen within CONTEXTS breaks NOTHING_LOST;
    a_sync_that_drops_the_unseen: SyncDropsUnseen within CONTEXTS breaks NOTHING_LOST;
    a_hint_dropped_before_the_ack: HintDroppedBeforeAck within HINTS_AND_CRASHES breaks NOTHING_LOST;
    a_renewed_hint_dropped_by_an_old_ack: HintDroppedByTarget within HINTS breaks NOBODY_FORGOTTEN;
    a_hint_beside_no_write: HintWithoutWrite within HEDGES breaks NOBODY_FORGOTTEN;
    a_reap_by_time_alone: ReapByTimeAlone within REAPING breaks NOTHING_BACK;
    a_reap_that_ignores_hints: ReapIgnoresHints within REAPING_AND_HINTS breaks NOTHING_BACK;
    a_reap_in_one_round: ReapInOneRound within REAPING_AMID_WRITES breaks NOTHING_BACK;
    a_reap_among_late_messages: ReapAmongLateMessages within REAPING_AND_REPEATS breaks NOTHING_BACK;
    a_reap_that_does_not_compare: ReapUncompared within REAPING breaks NOTHING_LOST;
    a_store_put_back_to_before_a_reap: RestorePastReap within REAPING_AND_CRASHES breaks NOTHING_BACK;
}
