//! Coordinating a write, as a machine: who stores it, who stands in for whom,
//! when enough have it (Dynamo, sections 4.5 and 4.6).
//!
//! The coordinator has stored the write itself; this machine brings it to the
//! other primaries. While layouts overlap there are several *groups* of primaries,
//! one a layout; every one of them gets the write, and each group must have W of
//! its own (of an older group that is smaller than W, all). A primary that is down,
//! fails, or is slow past the hedge delay is replaced by the next fallback, which
//! stores the write with a hint naming that primary; where no such node is left the
//! coordinator keeps the hint itself. Promises: every primary of every group either
//! acknowledged durably or is named by a hint on a node that stored the write
//! durably, whatever the client was told; the client hears success only when every
//! group has W durable acknowledgements.

use super::id::NodeId;
use super::sabotage::{Variant, broken};

/// How many groups there are at most: as many as layouts.
pub const MAX_GROUPS: usize = 8;
const _: () = assert!(MAX_GROUPS >= super::membership::MAX_LAYOUTS);

/// Some of the groups, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
struct Groups(u8);

impl Groups {
    fn all(count: usize) -> Self {
        Groups((0..count).fold(0, |bits, group| bits | 1 << group))
    }

    fn with(self, group: usize) -> Self {
        Groups(self.0 | 1 << group)
    }

    fn and(self, other: Groups) -> Self {
        Groups(self.0 | other.0)
    }

    fn has(self, group: usize) -> bool {
        self.0 & (1 << group) != 0
    }
}

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
    /// Whose primary it is.
    groups: Groups,
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
    /// Every group has W replicas.
    Answer,
    /// W replicas cannot be had in each group, or not in time; the group that has
    /// the fewest has this many.
    Unmet { got: u32 },
}

/// A write on its way to its replicas.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Put {
    copies: Vec<Copy>,
    /// How many nodes each group needs.
    needs: Vec<usize>,
    /// Fallbacks not used yet, those that seem up only.
    fallbacks: std::collections::VecDeque<NodeId>,
    /// Fallbacks in use, and the groups in which they count.
    standing: Vec<(NodeId, Groups)>,
    /// Nodes that acknowledged, and the groups in which they count.
    acked: Vec<(NodeId, Groups)>,
    /// Nodes whose word is awaited.
    awaited: Vec<NodeId>,
    strict: bool,
    answered: bool,
    finished: bool,
}

impl Put {
    /// Plans a write. Returns the machine and the primaries for which the
    /// coordinator must note a hint in the same transaction as the write.
    ///
    /// `me` coordinates. `groups` are the primaries by each layout that is written
    /// to, the newest first; `others` are the nodes that may stand in, the first
    /// ones first, and any primary among them is passed over.
    pub fn new(
        groups: &[Vec<NodeId>],
        others: impl IntoIterator<Item = NodeId>,
        w: usize,
        strict: bool,
        me: NodeId,
        is_up: impl Fn(NodeId) -> bool,
    ) -> (Self, Vec<NodeId>) {
        assert!(groups.len() <= MAX_GROUPS, "there are as many as layouts");
        let mut copies: Vec<Copy> = Vec::with_capacity(groups.first().map_or(0, Vec::len));
        for (group, primaries) in groups.iter().enumerate() {
            for &primary in primaries {
                match copies.iter_mut().find(|copy| copy.primary == primary) {
                    Some(copy) => copy.groups = copy.groups.with(group),
                    None => copies.push(Copy {
                        primary,
                        groups: Groups::default().with(group),
                        place: Place::HintedHere,
                        hedge: None,
                    }),
                }
            }
        }
        let mut fallbacks = std::collections::VecDeque::new();
        for node in others {
            let is_primary = copies.iter().any(|copy| copy.primary == node);
            if !is_primary && !fallbacks.contains(&node) && (node == me || is_up(node)) {
                fallbacks.push_back(node);
            }
        }
        // What an older layout cannot give, because it had fewer nodes, the newest
        // one gives.
        let need = |(group, primaries): (usize, &Vec<NodeId>)| match group {
            0 => w,
            _ => w.min(primaries.len()),
        };
        let mut put = Put {
            needs: groups.iter().enumerate().map(need).collect(),
            fallbacks,
            standing: Vec::new(),
            acked: Vec::with_capacity(copies.len()),
            awaited: Vec::with_capacity(copies.len()),
            strict,
            answered: false,
            finished: false,
            copies,
        };
        let own = put.copies.iter().find(|copy| copy.primary == me);
        let is_primary = own.is_some();
        let counts_in = match own {
            _ if !strict => Groups::all(groups.len()),
            Some(copy) => copy.groups,
            None => Groups::default(),
        };
        put.acked.push((me, counts_in));
        let mut hints_here = Vec::new();
        let mut stands_in = false;
        for place in 0..put.copies.len() {
            let primary = put.copies[place].primary;
            put.copies[place].place = if primary == me {
                Place::Acked
            } else if is_up(primary) {
                Place::Sent { hedged: false }
            } else {
                match put.fallbacks.pop_front() {
                    Some(node) if node != me => {
                        put.stand_in(node, place);
                        Place::Standing(node)
                    }
                    other => {
                        stands_in |= other.is_some();
                        hints_here.push(primary);
                        Place::HintedHere
                    }
                }
            };
        }
        put.fallbacks.retain(|&node| node != me);
        // A coordinator that is no primary and stands in for none (the primaries
        // came back meanwhile) keeps a copy that nobody would fetch: it says so
        // with a hint for each, and delivery sorts it out.
        if !is_primary && !stands_in && hints_here.is_empty() {
            hints_here.extend(put.copies.iter().map(|copy| copy.primary));
        }
        (put, hints_here)
    }

    /// A fallback takes a primary's place in its groups.
    fn stand_in(&mut self, node: NodeId, place: usize) {
        self.standing.push((node, self.copies[place].groups));
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
        if self.is_hopeless() {
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
        for copy in &mut self.copies {
            if copy.primary == node {
                copy.place = Place::Acked;
            } else if copy.place == Place::Standing(node) {
                copy.place = Place::Hinted;
            } else if copy.hedge == Some(node) && copy.place == (Place::Sent { hedged: true }) {
                // The primary is awaited still, but it is safe now.
                copy.place = Place::Hinted;
            }
        }
        if !self.acked.iter().any(|(acked, _)| *acked == node) {
            self.acked.push((node, self.counts_in(node)));
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
                self.stand_in(node, place);
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
        for place in 0..self.copies.len() {
            if self.copies[place].place == (Place::Sent { hedged: false }) {
                let Some(node) = self.fallbacks.pop_front() else {
                    break;
                };
                self.stand_in(node, place);
                let copy = &mut self.copies[place];
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
                if broken(Variant::SlowPrimaryUnhinted) {
                    continue;
                }
                actions.push(PutAction::HintHere {
                    primary: copy.primary,
                });
            }
        }
        self.awaited.clear();
        self.settle(&mut actions);
        actions
    }

    /// The groups in which a node counts once it has the write.
    fn counts_in(&self, node: NodeId) -> Groups {
        if let Some(copy) = self.copies.iter().find(|copy| copy.primary == node) {
            return copy.groups;
        }
        let standing = self.standing.iter().filter(|(other, _)| *other == node);
        match self.strict && !broken(Variant::StrictCountsAnyone) {
            true => Groups::default(),
            false => standing.fold(Groups::default(), |all, (_, groups)| all.and(*groups)),
        }
    }

    /// How many nodes of a group have the write, and how many more may.
    fn count(&self, group: usize) -> (usize, usize) {
        let has = |(_, groups): &&(NodeId, Groups)| groups.has(group);
        let may = |node: &&NodeId| self.counts_in(**node).has(group);
        (
            self.acked.iter().filter(has).count(),
            self.awaited.iter().filter(may).count(),
        )
    }

    /// Whether some group cannot get what it needs from those that were given it.
    fn is_hopeless(&self) -> bool {
        self.needs.iter().enumerate().any(|(group, &need)| {
            let (have, may) = self.count(group);
            have + may < need
        })
    }

    fn settle(&mut self, actions: &mut Vec<PutAction>) {
        if !self.answered {
            let early = usize::from(broken(Variant::AnsweredOneEarly));
            let has_enough = |(group, need): (usize, &usize)| self.count(group).0 + early >= *need;
            if self.needs.iter().enumerate().all(has_enough) {
                self.answered = true;
                actions.push(PutAction::Answer);
            } else if self.is_hopeless() {
                self.answered = true;
                let have = (0..self.needs.len()).map(|group| self.count(group).0);
                let got = have.min().unwrap_or(0) as u32;
                actions.push(PutAction::Unmet { got });
            }
        }
        self.finished = self.awaited.is_empty();
    }
}

#[cfg(test)]
mod tests;
