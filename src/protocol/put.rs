//! Coordinating a write, as a machine: who stores it, who stands in for whom,
//! when enough have it (Dynamo, sections 4.5 and 4.6).
//!
//! The coordinator has stored the write itself; this machine brings it to the
//! other N−1. A primary that is down, fails, or is slow past the hedge delay is
//! replaced by the next node of the preference list, which stores the write with
//! a hint naming that primary; where no such node is left the coordinator keeps
//! the hint itself. Promises: every primary either acknowledged durably or is
//! named by a hint on a node that stored the write durably, whatever the client
//! was told; the client hears success only after W durable acknowledgements.

use super::id::NodeId;

/// Where one primary's copy stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Place {
    /// Given to the primary; no word yet. With `hedged`, a fallback was given it
    /// too.
    Sent { hedged: bool },
    /// The primary has it.
    Acked,
    /// A fallback was given it with a hint; no word yet.
    Standing(NodeId),
    /// A fallback has it, with a hint.
    Hinted,
    /// The coordinator holds the hint.
    HintedHere,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Copy {
    primary: NodeId,
    place: Place,
    /// The fallback that was given it beside a slow primary.
    hedge: Option<NodeId>,
}

/// What the coordinator does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutAction {
    /// Give the write to a node, on behalf of a primary if not for itself.
    Store {
        node: NodeId,
        hint_for: Option<NodeId>,
    },
    /// Note a hint for this primary in the coordinator's own store.
    HintHere { primary: NodeId },
    /// W replicas have it.
    Answer,
    /// W replicas cannot be had, or not in time; this many have it.
    Unmet { got: u32 },
}

/// A write on its way to its replicas.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Put {
    copies: Vec<Copy>,
    /// Fallbacks not used yet, those that seem up only.
    fallbacks: std::collections::VecDeque<NodeId>,
    /// Nodes that acknowledged and count.
    acked: Vec<NodeId>,
    /// Nodes whose word is awaited.
    awaited: Vec<NodeId>,
    w: usize,
    strict: bool,
    answered: bool,
    finished: bool,
}

impl Put {
    /// Plans a write. Returns the machine and the primaries for which the
    /// coordinator must note a hint in the same transaction as the write.
    ///
    /// `me` coordinates. The first `n` of `preference` are primaries.
    pub fn new(
        preference: &[NodeId],
        n: usize,
        w: usize,
        strict: bool,
        me: NodeId,
        is_up: impl Fn(NodeId) -> bool,
    ) -> (Self, Vec<NodeId>) {
        let n = n.min(preference.len());
        let (primaries, fallbacks) = preference.split_at(n);
        let mut put = Put {
            copies: Vec::with_capacity(n),
            fallbacks: fallbacks
                .iter()
                .copied()
                .filter(|&node| node == me || is_up(node))
                .collect(),
            acked: Vec::with_capacity(n),
            awaited: Vec::with_capacity(n),
            w,
            strict,
            answered: false,
            finished: false,
        };
        if primaries.contains(&me) || !strict {
            put.acked.push(me);
        }
        let mut hints_here = Vec::new();
        let mut stands_in = false;
        for &primary in primaries {
            let place = if primary == me {
                Place::Acked
            } else if is_up(primary) {
                Place::Sent { hedged: false }
            } else {
                match put.fallbacks.pop_front() {
                    Some(node) if node != me => Place::Standing(node),
                    other => {
                        stands_in |= other.is_some();
                        hints_here.push(primary);
                        Place::HintedHere
                    }
                }
            };
            put.copies.push(Copy {
                primary,
                place,
                hedge: None,
            });
        }
        put.fallbacks.retain(|&node| node != me);
        // A coordinator that is no primary and stands in for none (the primaries
        // came back meanwhile) keeps a copy that nobody would fetch: it says so
        // with a hint for each, and delivery sorts it out.
        if !primaries.contains(&me) && !stands_in && hints_here.is_empty() {
            hints_here.extend_from_slice(primaries);
        }
        (put, hints_here)
    }

    /// The coordinator's own copy is durable: send out the others.
    pub fn on_stored(&mut self) -> Vec<PutAction> {
        let mut actions = Vec::new();
        for copy in &self.copies {
            match copy.place {
                Place::Sent { .. } => {
                    self.awaited.push(copy.primary);
                    actions.push(PutAction::Store {
                        node: copy.primary,
                        hint_for: None,
                    });
                }
                Place::Standing(node) => {
                    self.awaited.push(node);
                    actions.push(PutAction::Store {
                        node,
                        hint_for: Some(copy.primary),
                    });
                }
                Place::Acked | Place::Hinted | Place::HintedHere => {}
            }
        }
        // Too few seem up: those that seem down are tried all the same, since
        // opinions are stale and the write may be kept anywhere.
        if self.acked.len() + self.countable() < self.w {
            for copy in &self.copies {
                if !matches!(copy.place, Place::Acked | Place::Sent { .. }) {
                    self.awaited.push(copy.primary);
                    actions.push(PutAction::Store {
                        node: copy.primary,
                        hint_for: None,
                    });
                }
            }
        }
        self.settle(&mut actions);
        actions
    }

    /// Whether nothing more will come of this write.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// A node has stored it durably.
    pub fn on_ack(&mut self, node: NodeId) -> Vec<PutAction> {
        let mut actions = Vec::new();
        self.awaited.retain(|&awaited| awaited != node);
        let mut is_primary = false;
        for copy in &mut self.copies {
            if copy.primary == node {
                is_primary = true;
                copy.place = Place::Acked;
            } else if copy.place == Place::Standing(node) {
                copy.place = Place::Hinted;
            } else if copy.hedge == Some(node) && copy.place == (Place::Sent { hedged: true }) {
                // The primary is awaited still, but it is safe now.
                copy.place = Place::Hinted;
            }
        }
        if (is_primary || !self.strict) && !self.acked.contains(&node) {
            self.acked.push(node);
        }
        self.settle(&mut actions);
        actions
    }

    /// A node could not be reached, refused, or could not store it.
    pub fn on_failure(&mut self, node: NodeId) -> Vec<PutAction> {
        let mut actions = Vec::new();
        if !self.awaited.contains(&node) {
            return actions;
        }
        self.awaited.retain(|&awaited| awaited != node);
        for place in 0..self.copies.len() {
            let copy = &self.copies[place];
            let lost = match copy.place {
                Place::Sent { hedged } => {
                    if copy.primary == node && hedged {
                        // Its stand-in is on the way already.
                        let hedge = copy.hedge.expect("a hedged copy names its fallback");
                        self.copies[place].place = Place::Standing(hedge);
                        // The fallback may have failed before the primary did.
                        !self.awaited.contains(&hedge)
                    } else {
                        copy.primary == node
                    }
                }
                Place::Standing(standing) => standing == node,
                _ => false,
            };
            if lost {
                self.replace(place, &mut actions);
            }
        }
        self.settle(&mut actions);
        actions
    }

    /// Finds another holder for a copy: the next fallback, or the coordinator.
    fn replace(&mut self, place: usize, actions: &mut Vec<PutAction>) {
        let primary = self.copies[place].primary;
        match self.fallbacks.pop_front() {
            Some(node) => {
                self.copies[place].place = Place::Standing(node);
                self.awaited.push(node);
                actions.push(PutAction::Store {
                    node,
                    hint_for: Some(primary),
                });
            }
            None => {
                self.copies[place].place = Place::HintedHere;
                actions.push(PutAction::HintHere { primary });
            }
        }
    }

    /// Some primary is slow: the next fallbacks get a copy each, beside it.
    pub fn on_hedge(&mut self) -> Vec<PutAction> {
        let mut actions = Vec::new();
        if self.finished {
            return actions;
        }
        for copy in &mut self.copies {
            if copy.place == (Place::Sent { hedged: false }) {
                let Some(node) = self.fallbacks.pop_front() else {
                    break;
                };
                copy.place = Place::Sent { hedged: true };
                copy.hedge = Some(node);
                self.awaited.push(node);
                actions.push(PutAction::Store {
                    node,
                    hint_for: Some(copy.primary),
                });
            }
        }
        actions
    }

    /// The client's patience is over. Whoever has not said a word is named by a
    /// hint here: a word that is still under way does no harm.
    pub fn on_timeout(&mut self) -> Vec<PutAction> {
        let mut actions = Vec::new();
        if self.finished {
            return actions;
        }
        for copy in &mut self.copies {
            if matches!(copy.place, Place::Sent { .. } | Place::Standing(_)) {
                copy.place = Place::HintedHere;
                actions.push(PutAction::HintHere {
                    primary: copy.primary,
                });
            }
        }
        self.awaited.clear();
        self.settle(&mut actions);
        actions
    }

    /// How many of the awaited nodes would count towards W.
    fn countable(&self) -> usize {
        let counts =
            |node: &&NodeId| !self.strict || self.copies.iter().any(|copy| copy.primary == **node);
        self.awaited.iter().filter(counts).count()
    }

    fn settle(&mut self, actions: &mut Vec<PutAction>) {
        if !self.answered {
            if self.acked.len() >= self.w {
                self.answered = true;
                actions.push(PutAction::Answer);
            } else if self.acked.len() + self.countable() < self.w {
                self.answered = true;
                actions.push(PutAction::Unmet {
                    got: self.acked.len() as u32,
                });
            }
        }
        self.finished = self.awaited.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node 1 coordinates; 1 to `n` are primaries, the others fallbacks.
    fn put(nodes: u64, w: usize, strict: bool, down: &[u64]) -> (Put, Vec<NodeId>) {
        let preference: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        Put::new(&preference, 3, w, strict, NodeId(1), |node| {
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
}
