//! The simulator bites: every deliberately broken variant of the protocol is
//! found by some seed, and the very same run is fine without it.
//!
//! To add one: a line in [`sabotage`](crate::protocol::sabotage), the place that
//! asks for it, and a line here: under which faults, on how many nodes, in runs
//! of how many milliseconds and within how many of them it must be found.

use super::explore::{Played, play};
use super::faults::FaultSet;
use super::workload::{Plan, Tempo};
use super::{HECTIC_UPKEEP, NO_UPKEEP};
use crate::protocol::machine::Upkeep;
use crate::protocol::sabotage::{self, Variant};

fn plan(faults: &str, nodes: usize, lasts_ms: u64, upkeep: Upkeep) -> Plan {
    let faults: FaultSet = faults.parse().expect("names of faults");
    let mut plan = Plan::new(Tempo::Hectic, nodes);
    plan.settings.upkeep = upkeep;
    Plan {
        faults,
        lasts_ms,
        ..plan
    }
}

fn is_found(variant: Variant, plan: Plan, seeds: u64) {
    let (nodes, faults) = (plan.settings.nodes, plan.faults);
    let broken = |seed| -> Played { sabotage::with(variant, || play(seed, plan)) };
    let found = (0..seeds).find_map(|seed| Some((seed, broken(seed).violation?)));
    let Some((seed, violation)) = found else {
        panic!("{variant:?} goes unnoticed in {seeds} seeds of {nodes} nodes under {faults}");
    };
    println!("{variant:?}, seed {seed}: {violation}");
    let sound = play(seed, plan).violation;
    assert_eq!(sound, None, "seed {seed} fails without {variant:?} as well");
}

macro_rules! mutants {
    ($upkeep:ident: $($name:ident: $variant:ident, $faults:literal, $nodes:literal, $lasts_ms:literal, $seeds:literal;)*) => {
        $(#[test]
        fn $name() {
            is_found(Variant::$variant, plan($faults, $nodes, $lasts_ms, $upkeep), $seeds);
        })*
    };
}

// What exchange itself, and all that rests on its trees, is for.
mutants! {
    HECTIC_UPKEEP:
    reaping_by_time: ReapedByTime, "partition,kill", 4, 12_000, 48;
    an_exchange_one_way: ExchangeOneWay, "kill,loss", 3, 3_000, 12;
}

// Exchange would mend much of these before anyone looks.
mutants! {
    NO_UPKEEP:
    a_reused_epoch: EpochReused, "wipe", 3, 3_000, 12;
    an_epoch_that_a_copy_brings_back: LifeGoesOn, "old-copy,one-way,partition", 3, 6_000, 24;
    a_vector_that_covers_the_cloud: VectorCoversCloud, "partition,loss", 3, 3_000, 4;
    a_hint_dropped_before_the_ack: HintDroppedEarly, "partition,loss,one-way", 3, 6_000, 24;
    a_token_that_covers_unseen_siblings: TokenCoversUnseen, "none", 3, 3_000, 4;
    an_ack_before_the_commit: AckBeforeCommit, "kill,slow-disk,disk-full", 3, 3_000, 24;
    a_fallback_whose_emptiness_counts: EmptyFallbackCounts, "partition,kill", 6, 3_000, 24;
    a_forward_carried_out_twice: ForwardTwice, "duplication", 6, 3_000, 4;
    a_sync_that_keeps_dominated_siblings: SyncKeepsDominated, "none", 3, 3_000, 4;
    a_delta_with_the_context_of_the_row: DeltaCarriesRow, "partition,loss", 3, 3_000, 8;
    a_read_repair_that_reaches_nobody: RepairReachesNobody, "kill,loss", 3, 3_000, 12;
    a_slow_primary_without_a_hint: SlowPrimaryUnhinted, "loss,one-way", 3, 3_000, 12;
    a_truncation_on_one_path_only: TruncatedOnOnePath, "kill,wipe,loss", 5, 9_000, 40;
    a_failed_read_taken_for_absence: FailedReadIsAbsent, "read-errors", 3, 3_000, 12;
    an_answer_one_ack_too_early: AnsweredOneEarly, "delay,loss", 3, 3_000, 48;
    a_strict_quorum_of_fallbacks: StrictCountsAnyone, "partition", 6, 3_000, 24;
    a_swap_without_a_comparison: SwapWithoutCompare, "none", 3, 3_000, 48;
    a_strange_hash_that_counts: StrangeHashCounts, "delay,loss", 3, 3_000, 8;
    a_clock_that_rules: WallClockRules, "clock-drift", 3, 3_000, 4;
    a_row_in_two_batches: RowInTwoBatches, "torn-writes", 3, 3_000, 24;
    an_epoch_that_a_lying_disk_brings_back: LifeGoesOn, "lying-disk,one-way,partition", 3, 6_000, 48;
    a_wiped_disk_that_counts_before_it_is_filled: UnfilledCounts, "wipe,partition,kill", 3, 6_000, 48;
    a_forward_tried_again_blindly: ForwardRetriedBlindly, "kill,slow-node", 6, 3_000, 24;
}

/// Losing what was not committed does not show a row that is written in two halves.
#[test]
fn only_torn_writes_show_a_row_in_two_batches() {
    for seed in 0..8 {
        let plan = plan("kill,power-loss,slow-disk", 3, 1_500, NO_UPKEEP);
        let played = sabotage::with(Variant::RowInTwoBatches, || play(seed, plan));
        assert_eq!(played.violation, None, "seed {seed}");
    }
}
