//! The runs: each names its bounds, and each broken rule must be found.

use stateright::{Checker, HasDiscoveries, Model as _};

use super::*;

/// The start of every list of bounds: two writes, and nothing goes wrong.
const SMALL: Bounds = Bounds {
    writes: 2,
    puts: 2,
    sessions: 1,
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
    reap_orders: &[[3, 0, 1, 2], [0, 1, 2, 3]],
    folds: false,
};

const ANY_CRASH: &[Crash] = &[Crash::Restart, Crash::Wipe, Crash::Restore];

/// Blind and informed writes and deletions, by clients that know different
/// things, at two coordinators, in any order.
const CONTEXTS: Bounds = Bounds { writes: 3, ..SMALL };

/// Nodes that lose their memory, or get back an old one.
const EPOCHS: Bounds = Bounds {
    writes: 3,
    sessions: 0,
    coordinators: &[0],
    exchanges: 1,
    crashes: 1,
    crash_kinds: ANY_CRASH,
    ..SMALL
};

/// The same among clients that know different things.
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

/// Primaries that are slow, a fallback that coordinates, hedges and giving up.
const HEDGES: Bounds = Bounds {
    puts: 1,
    sessions: 0,
    coordinators: &[0, 3],
    down: &[&[], &[1]],
    in_flight: 3,
    give_ups: true,
    hedges: true,
    ..SMALL
};

/// One write, and everything that a network does.
const LOSSES: Bounds = Bounds {
    writes: 1,
    coordinators: &[0, 3],
    down: &[&[], &[1], &[1, 2], &[0, 1, 2]],
    repeats: 1,
    losses: 2,
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

/// A value, its deletion, a reap, and a new value; messages arrive twice.
const REAPING: Bounds = Bounds {
    writes: 3,
    puts: 1,
    coordinators: &[0],
    down: &[&[], &[1]],
    repeats: 1,
    reaps: 1,
    ..SMALL
};

/// Reaping a value that was deleted while it was still on its way.
const REAPING_AMID_WRITES: Bounds = Bounds {
    coordinators: &[0],
    hedges: true,
    reaps: 1,
    ..SMALL
};

/// Reaping where stores are put back.
const REAPING_AND_CRASHES: Bounds = Bounds {
    puts: 1,
    coordinators: &[0],
    crashes: 1,
    crash_kinds: ANY_CRASH,
    reaps: 1,
    ..SMALL
};

fn check(name: &str, bounds: Bounds) {
    let model = Model {
        bounds,
        broken: Broken::Nothing,
    };
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(400_000)
        .spawn_bfs()
        .join();
    eprintln!(
        "{name}: {} states, {} steps between them, the longest way {} actions",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    for (found, path) in checker.discoveries() {
        if found != A_REAP {
            let actions: Vec<_> = path.into_actions();
            eprintln!("VIOLATION {found:?} does not hold: {actions:#?}");
        }
    }
}

#[test]
fn probe() {
    check("contexts", CONTEXTS);
    check("epochs", EPOCHS);
    check("epochs contexts", EPOCHS_AND_CONTEXTS);
    check("hints", HINTS);
    check("hedges", HEDGES);
    check("losses", LOSSES);
    check("hints crash", HINTS_AND_CRASHES);
    check("folds", FOLDS);
    check("reaping", REAPING);
    check("reaping writes", REAPING_AMID_WRITES);
    check("reaping crash", REAPING_AND_CRASHES);
}

fn finds(broken: Broken, bounds: Bounds, property: &str) {
    let model = Model { bounds, broken };
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(400_000)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    eprintln!(
        "{broken:?}: {} states, {} steps, {:?} [{property}]",
        checker.unique_state_count(),
        checker.state_count(),
        found
            .iter()
            .map(|(name, path)| (*name, path.clone().into_actions().len()))
            .collect::<Vec<_>>()
    );
}

#[test]
fn variants() {
    use Broken::*;
    finds(ReusedEpoch, EPOCHS, MINTED_ONCE);
    finds(WipedNodeGoesOn, EPOCHS, MINTED_ONCE);
    finds(RestoredNodeGoesOn, EPOCHS, MINTED_ONCE);
    finds(VectorCoversCloud, CONTEXTS, COVERS_WHAT_WAS_SEEN);
    finds(TokenCoversUnseen, CONTEXTS, COVERS_WHAT_WAS_SEEN);
    finds(SyncDropsUnseen, CONTEXTS, COVERS_WHAT_WAS_SEEN);
    finds(HintDroppedBeforeAck, HINTS_AND_CRASHES, NOTHING_LOST);
    finds(HintDroppedByTarget, HINTS, NOBODY_FORGOTTEN);
    finds(HintWithoutWrite, HEDGES, NOBODY_FORGOTTEN);
    finds(ReapByTimeAlone, REAPING, NOTHING_BACK);
    finds(ReapIgnoresHints, REAPING, NOTHING_BACK);
    finds(ReapInOneRound, REAPING_AMID_WRITES, NOTHING_BACK);
    finds(ReapAmongLateMessages, REAPING, NOTHING_BACK);
    finds(ReapUncompared, REAPING, NOTHING_LOST);
    finds(RestorePastReap, REAPING_AND_CRASHES, NOTHING_BACK);
}
