//! Departure: a node that leaves, and one that is removed because it is dead.
//!
//! Promises: nobody leaves who has not handed over everything; a node that is up as
//! seen from here is not removed; what was decided spreads like any other change,
//! and outranks whatever the removed disk does later. The caller stores
//! `persisted()` before it tells the operator.
//!
//! Does not promise that the dead one is dead: whoever removes it says so. If it
//! comes back it finds itself removed and serves nobody.

use super::{Gossip, LeaveRefused, Member, Membership, RemoveRefused, Status};
use crate::protocol::id::NodeId;

impl Membership {
    /// This node begins to leave. Asked again, it goes on leaving.
    pub fn leave(&mut self) -> (Result<(), LeaveRefused>, Vec<Gossip>) {
        let result = self.begin_to_leave();
        self.settle_layouts();
        (result, self.take())
    }

    fn begin_to_leave(&mut self) -> Result<(), LeaveRefused> {
        if self.cluster().is_none() || !self.is_fit() {
            return Err(LeaveRefused::NoCluster);
        }
        if self.me().status >= Status::Leaving {
            return Ok(());
        }
        let stays = |member: &Member| member.status == Status::Up && self.is_up(member.node);
        if !self.others().any(stays) {
            return Err(LeaveRefused::LastMember);
        }
        let me = self.me_mut();
        me.status = Status::Leaving;
        me.heartbeat += 1;
        self.members_changed();
        Ok(())
    }

    /// Marks a dead member removed, at once.
    pub fn remove(&mut self, node: NodeId) -> (Result<(), RemoveRefused>, Vec<Gossip>) {
        let result = self.mark_removed(node);
        self.settle_layouts();
        (result, self.take())
    }

    fn mark_removed(&mut self, node: NodeId) -> Result<(), RemoveRefused> {
        if self.cluster().is_none() || !self.is_fit() {
            return Err(RemoveRefused::NoCluster);
        }
        let is_up = self.is_up(node);
        let member = self.members.get_mut(&node).ok_or(RemoveRefused::Unknown)?;
        if member.status == Status::Removed {
            return Ok(());
        }
        if is_up {
            let name = member.name.clone();
            return Err(RemoveRefused::IsUp { name });
        }
        member.status = Status::Removed;
        self.detector.forget(node);
        self.clocks.remove(&node);
        self.members_changed();
        Ok(())
    }

    /// Ends the departure of a node that leaves, if its data is where it belongs:
    /// the newest layout does without it, every other counted member that is live
    /// holds what that layout gives it and reads from it, and this node says that it
    /// `holds_nothing` that others lack. Call it now and then.
    pub fn try_depart(&mut self, holds_nothing: bool) -> Vec<Gossip> {
        if self.me().status == Status::Leaving && holds_nothing && self.is_done_without() {
            let me = self.me_mut();
            me.status = Status::Removed;
            me.heartbeat += 1;
            self.farewell = Some(self.gossip.upcoming());
            self.members_changed();
        }
        self.take()
    }

    fn is_done_without(&self) -> bool {
        let Some(newest) = self.history.newest() else {
            return false;
        };
        let named = newest.layout.nodes().contains(&self.identity.node);
        // Its own reading says that those who are down hold what they should, too.
        let mut others = self
            .others()
            .filter(|member| self.counts(member) && self.is_up(member.node));
        !named
            && self.is_fit()
            && self.me().layout_read == newest.stamp.0
            && others.all(|member| {
                member.has_synced(newest.stamp) && member.layout_read == newest.stamp.0
            })
    }
}
