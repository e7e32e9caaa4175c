//! Placement: when the members ask for another layout, and who proposes it.
//!
//! The live node with the least id does (of those that hold data), once the member list has been quiet for
//! two gossip rounds, so that ten nodes that join together make one change and
//! not ten. While the layout has fewer nodes than replicas these rounds take an
//! eighth of the time: everyone holds everything then, a change takes nothing
//! away from anyone, and people wait for a cluster that forms.
//! Two proposals at once do no harm: the greater (version, digest) wins, and what
//! the other wanted is in the member list, so the next version has it.

use super::{Member, Membership, Status};
use crate::protocol::layout::Candidate;

/// How many rounds without news of members come before a proposal.
const QUIET_ROUNDS: u64 = 2;
/// By how much a round is shorter while the cluster forms.
const FORMING_HURRY: u64 = 8;

/// How long the member list has been as it is.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    disturbed: bool,
    since_ms: Option<u64>,
    /// For which candidates, layout and right to propose nothing is to be done:
    /// working a layout out is costly, and most ticks change nothing.
    checked: Option<(Vec<Candidate>, (u64, u128), bool)>,
}

impl Quiet {
    /// The members changed.
    pub(super) fn disturb(&mut self) {
        self.disturbed = true;
    }
}

impl Membership {
    /// Proposes the next layout if it is time and this node's turn.
    pub(super) fn propose(&mut self, now_ms: u64) {
        if std::mem::take(&mut self.placement.disturbed) {
            self.placement.since_ms = Some(now_ms);
        }
        let since_ms = *self.placement.since_ms.get_or_insert(now_ms);
        let Some(placed) = self.history.newest() else {
            return;
        };
        let forming = placed.layout.nodes().len() < placed.layout.replicas() as usize;
        let hurry = if forming { FORMING_HURRY } else { 1 };
        let quiet_ms = QUIET_ROUNDS * self.pace.gossip_interval_ms / hurry;
        // A node that was away would propose from old news.
        if now_ms < since_ms + quiet_ms || !self.gossip.is_caught_up() {
            return;
        }
        let is_mine = self.is_my_turn() && !self.history.is_full();
        let is_joining = self.me().status == Status::Joining;
        if !is_mine && !is_joining {
            return;
        }
        let candidates = self.candidates();
        let situation = (candidates, placed.stamp, is_mine);
        if self.placement.checked.as_ref() == Some(&situation) {
            return;
        }
        let next = placed.layout.next(&situation.0);
        let suits = next.same_places(&placed.layout);
        let named = placed.layout.nodes().contains(&self.identity.node);
        self.placement.checked = Some(situation);
        if suits {
            // Nothing more will come: a node whose share is less than one
            // partition, or whose weight is zero, takes part without holding any.
            if is_joining && !named {
                self.take_as_synced();
            }
        } else if is_mine {
            self.take_layout(next);
        }
    }

    /// Whether this node is the one to propose: the first live one by standing and
    /// id. Those who hold data come first, so that a proposal seldom comes from one
    /// whom the others do not count yet.
    fn is_my_turn(&self) -> bool {
        let placed = self.layout().map_or(&[][..], |layout| layout.nodes());
        let order = |member: &Member| {
            let named = placed.binary_search(&member.node).is_ok();
            (!named, member.status != Status::Up, member.node)
        };
        let mine = order(self.me());
        self.me().status != Status::Removed
            && !self
                .others()
                .any(|member| order(member) < mine && self.is_up(member.node))
    }

    /// Who may hold data. A member that was up is one even while it is down: a
    /// crash is not a leave. One that never took part has to be alive.
    fn candidates(&self) -> Vec<Candidate> {
        let placed = self.layout().map_or(&[][..], |layout| layout.nodes());
        let counts = |member: &&Member| match member.status {
            Status::Up => true,
            Status::Joining => {
                self.is_up(member.node) || placed.binary_search(&member.node).is_ok()
            }
            Status::Leaving | Status::Removed => false,
        };
        self.members
            .values()
            .filter(counts)
            .map(|member| self.candidate_of(member))
            .collect()
    }

    pub(super) fn candidate_of(&self, member: &Member) -> Candidate {
        Candidate {
            node: member.node,
            weight_milli: member.weight_milli,
            zone: member.zone.clone(),
        }
    }
}
