//! Writes to one group of primaries, and to several at once; what a plain book of
//! deeds says of them.

use super::*;

/// Node 1 coordinates; 1 to `n` are primaries, the others fallbacks.
fn put(nodes: u64, w: usize, strict: bool, down: &[u64]) -> (Put, Vec<NodeId>) {
    let preference: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
    let (primaries, others) = preference.split_at(3);
    let groups = [primaries.to_vec()];
    Put::new(&groups, others.to_vec(), w, strict, NodeId(1), |node| {
        !down.contains(&node.0)
    })
}

fn store(node: u64, hint_for: Option<u64>) -> PutAction {
    PutAction::Store {
        node: NodeId(node),
        hint_for: hint_for.map(NodeId),
    }
}

fn hint(primary: u64) -> PutAction {
    PutAction::HintHere {
        primary: NodeId(primary),
    }
}

#[test]
fn the_client_hears_of_it_with_the_wth_ack_and_not_before() {
    let (mut put, hints_here) = put(3, 3, false, &[]);
    assert_eq!(hints_here, []);
    assert_eq!(put.on_stored(), [store(2, None), store(3, None)]);
    assert_eq!(put.on_ack(NodeId(3)), []);
    assert_eq!(put.on_ack(NodeId(3)), [], "a repeated ack is one ack");
    assert!(!put.is_finished());
    assert_eq!(put.on_ack(NodeId(2)), [PutAction::Answer]);
    assert!(put.is_finished());
}

#[test]
fn with_w_1_the_coordinators_own_copy_is_enough_and_the_others_follow() {
    let (mut put, _) = put(3, 1, false, &[]);
    let actions = put.on_stored();
    assert_eq!(actions, [store(2, None), store(3, None), PutAction::Answer]);
    assert!(!put.is_finished());
}

#[test]
fn a_dead_primary_is_replaced_by_the_next_fallback_with_a_hint() {
    let (mut put, hints_here) = put(5, 2, false, &[2]);
    assert_eq!(hints_here, []);
    assert_eq!(put.on_stored(), [store(4, Some(2)), store(3, None)]);
    assert_eq!(put.on_ack(NodeId(4)), [PutAction::Answer]);
}

#[test]
fn where_no_fallback_is_left_the_coordinator_keeps_the_hint() {
    // Known beforehand: in the same transaction as the write.
    let (mut known, hints_here) = put(3, 1, false, &[2, 3]);
    assert_eq!(hints_here, [NodeId(2), NodeId(3)]);
    assert_eq!(known.on_stored(), [PutAction::Answer]);
    // Found out: after it.
    let (mut found, _) = put(3, 1, false, &[]);
    found.on_stored();
    assert_eq!(found.on_failure(NodeId(2)), [hint(2)]);
    assert_eq!(found.on_timeout(), [hint(3)]);
    assert!(found.is_finished());
}

#[test]
fn a_fallback_that_fails_is_replaced_too() {
    let (mut put, _) = put(5, 2, false, &[2]);
    put.on_stored();
    assert_eq!(put.on_failure(NodeId(4)), [store(5, Some(2))]);
    assert_eq!(put.on_failure(NodeId(5)), [hint(2)]);
    assert_eq!(put.on_ack(NodeId(3)), [PutAction::Answer]);
}

#[test]
fn strict_counts_primaries_only_and_hints_all_the_same() {
    let (mut put, _) = put(5, 2, true, &[2]);
    put.on_stored();
    assert_eq!(put.on_ack(NodeId(4)), [], "a fallback does not count");
    assert_eq!(put.on_ack(NodeId(3)), [PutAction::Answer]);
}

#[test]
fn too_few_alive_are_tried_all_the_same_and_then_said_to_be_too_few() {
    let (mut put, hints_here) = put(3, 2, false, &[2, 3]);
    assert_eq!(hints_here, [NodeId(2), NodeId(3)]);
    assert_eq!(put.on_stored(), [store(2, None), store(3, None)]);
    assert_eq!(put.on_failure(NodeId(2)), []);
    assert_eq!(put.on_failure(NodeId(3)), [PutAction::Unmet { got: 1 }]);
}

#[test]
fn a_slow_primary_is_hedged_once_and_may_still_answer() {
    let (mut put, _) = put(4, 2, false, &[]);
    put.on_stored();
    assert_eq!(put.on_hedge(), [store(4, Some(2))]);
    assert_eq!(put.on_hedge(), [], "there is no further fallback");
    assert_eq!(put.on_ack(NodeId(2)), [PutAction::Answer]);
    assert_eq!(put.on_ack(NodeId(4)), []);
    assert_eq!(put.on_ack(NodeId(3)), []);
    assert!(put.is_finished());
}

#[test]
fn a_hedge_that_failed_before_its_primary_leaves_a_hint() {
    let (mut put, _) = put(4, 1, false, &[]);
    put.on_stored();
    put.on_hedge();
    assert_eq!(put.on_failure(NodeId(4)), []);
    assert_eq!(put.on_failure(NodeId(2)), [hint(2)]);
}
