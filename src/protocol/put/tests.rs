//! Writes to one group of primaries, and to several at once; what a plain book of
//! deeds says of them.

use proptest::prelude::*;

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

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

#[test]
fn while_layouts_overlap_each_of_them_needs_its_own_w() {
    let groups = [nodes(&[1, 4, 5]), nodes(&[1, 2, 3])];
    let (mut put, hints_here) = Put::new(&groups, [], 2, false, NodeId(1), |_| true);
    assert_eq!(hints_here, []);
    let everyone = [4, 5, 2, 3].map(|node| store(node, None));
    assert_eq!(put.on_stored(), everyone);
    assert_eq!(put.on_ack(NodeId(2)), [], "the newer layout has one copy");
    assert_eq!(put.on_ack(NodeId(3)), []);
    assert_eq!(put.on_ack(NodeId(5)), [PutAction::Answer]);
    assert!(!put.is_finished());
}

#[test]
fn who_is_in_both_layouts_counts_in_both_and_so_does_who_stands_in_for_it() {
    let groups = [nodes(&[1, 2, 4]), nodes(&[1, 2, 3])];
    let is_up = |node: NodeId| node != NodeId(2);
    let (mut put, _) = Put::new(&groups, nodes(&[3, 6]), 2, false, NodeId(1), is_up);
    put.on_stored();
    assert_eq!(put.on_ack(NodeId(6)), [PutAction::Answer]);
}

#[test]
fn a_smaller_layout_of_the_past_gives_what_it_has() {
    // A cluster that forms: its founder held all, and w is 2.
    let groups = [nodes(&[1, 2, 3]), nodes(&[1])];
    let (mut put, _) = Put::new(&groups, [], 2, false, NodeId(1), |_| true);
    put.on_stored();
    assert_eq!(put.on_ack(NodeId(3)), [PutAction::Answer]);
    // But the newest one is never let off.
    let groups = [nodes(&[1]), nodes(&[1, 2, 3])];
    let (mut put, _) = Put::new(&groups, [], 2, false, NodeId(1), |_| true);
    assert!(put.on_stored().contains(&PutAction::Unmet { got: 1 }));
}

/// What happens to a write under way.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ack(prop::sample::Index),
    Fail(prop::sample::Index),
    Hedge,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Event::Ack),
        3 => any::<prop::sample::Index>().prop_map(Event::Fail),
        1 => Just(Event::Hedge),
    ]
}

/// A plain book of deeds: who holds the write, for itself or for whom.
struct Book {
    groups: Vec<Vec<NodeId>>,
    w: usize,
    strict: bool,
    me: NodeId,
    under_way: Vec<(NodeId, Option<NodeId>)>,
    durable: Vec<(NodeId, Option<NodeId>)>,
    hinted: Vec<NodeId>,
    told: Option<PutAction>,
}

impl Book {
    /// Whether every group has what it needs, if these hold the write.
    fn is_met(&self, holders: &[(NodeId, Option<NodeId>)]) -> bool {
        self.groups.iter().enumerate().all(|(number, group)| {
            let counts = |node: NodeId, stands_for: Option<NodeId>| {
                group.contains(&node)
                    || !self.strict
                        && (node == self.me || stands_for.is_some_and(|p| group.contains(&p)))
            };
            let mut counted: Vec<NodeId> = vec![];
            for &(node, stands_for) in holders.iter().chain(&[(self.me, None)]) {
                if counts(node, stands_for) && !counted.contains(&node) {
                    counted.push(node);
                }
            }
            let need = if number == 0 {
                self.w
            } else {
                self.w.min(group.len())
            };
            counted.len() >= need
        })
    }

    fn note(&mut self, actions: Vec<PutAction>) -> Result<(), TestCaseError> {
        for action in actions {
            match action {
                PutAction::Store { node, hint_for } => {
                    prop_assert_ne!(node, self.me);
                    let mut known = self.under_way.iter().chain(&self.durable);
                    prop_assert!(known.all(|(other, _)| *other != node), "{node} twice");
                    self.under_way.push((node, hint_for));
                }
                PutAction::HintHere { primary } => self.hinted.push(primary),
                told => {
                    prop_assert_eq!(self.told.replace(told), None, "told twice");
                }
            }
        }
        let met = self.is_met(&self.durable);
        match &self.told {
            Some(PutAction::Unmet { .. }) => {}
            Some(_) => prop_assert!(met),
            None => {
                prop_assert!(!met, "enough have it, and nobody was told");
                let may_be = [self.under_way.clone(), self.durable.clone()].concat();
                prop_assert!(self.is_met(&may_be), "hopeless, and nobody was told");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// Whatever the layouts, and whatever happens: the client is told once and told
    /// the truth, and nobody who should have the write is forgotten.
    #[test]
    fn no_primary_of_any_group_is_forgotten(
        groups in prop::collection::vec(prop::sample::subsequence((1..=8).collect::<Vec<u64>>(), 1..5), 1..4),
        others in prop::sample::subsequence((1..=11).collect::<Vec<u64>>(), 0..8),
        down in prop::sample::subsequence((1..=11).collect::<Vec<u64>>(), 0..6),
        me in 1u64..=11,
        w in 1usize..5,
        strict: bool,
        events in prop::collection::vec(event(), 0..24),
    ) {
        let groups: Vec<Vec<NodeId>> = groups.iter().map(|group| nodes(group)).collect();
        let me = NodeId(me);
        let (mut put, hints_here) = Put::new(&groups, nodes(&others), w, strict, me, |node| {
            !down.contains(&node.0)
        });
        let mut book = Book {
            groups: groups.clone(),
            w,
            strict,
            me,
            under_way: vec![],
            durable: vec![],
            hinted: hints_here,
            told: None,
        };
        book.note(put.on_stored())?;
        for event in events {
            let actions = match event {
                Event::Hedge => put.on_hedge(),
                Event::Ack(_) | Event::Fail(_) if book.under_way.is_empty() => continue,
                Event::Ack(at) => {
                    let deed = book.under_way.swap_remove(at.index(book.under_way.len()));
                    book.durable.push(deed);
                    put.on_ack(deed.0)
                }
                Event::Fail(at) => {
                    let deed = book.under_way.swap_remove(at.index(book.under_way.len()));
                    put.on_failure(deed.0)
                }
            };
            // Who failed may be asked for nothing again; the book forgets it.
            book.note(actions)?;
            prop_assert_eq!(put.is_finished(), book.under_way.is_empty());
        }
        let finished = put.is_finished();
        let actions = put.on_timeout();
        prop_assert!(!finished || actions.is_empty());
        for action in actions {
            match action {
                PutAction::HintHere { primary } => book.hinted.push(primary),
                PutAction::Unmet { .. } => prop_assert_eq!(book.told.replace(action), None),
                other => prop_assert!(false, "{other:?} after the end"),
            }
        }
        prop_assert!(book.told.is_some());
        for primary in groups.iter().flatten() {
            let has_it = *primary == me || book.durable.contains(&(*primary, None));
            let hinted = book.hinted.contains(primary)
                || book.durable.iter().any(|(_, stands_for)| *stands_for == Some(*primary));
            prop_assert!(has_it || hinted, "{primary} is forgotten");
        }
    }
}
