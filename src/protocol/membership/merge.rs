//! Merging: how what others say changes what this node knows.
//!
//! Promises: the greater of two entries wins, whatever order they come in; an
//! entry never changes its name; nothing that others say about this node itself
//! is believed, but for an operator's decision to remove it, and none of it is
//! ignored.

use super::{Fault, Gossip, MAX_MEMBERS, Member, Membership, News, Pulse, Status};
use crate::protocol::effect::Address;
use crate::protocol::id::{ClusterId, NodeId};
use crate::protocol::layout::Layout;

/// How often someone else may claim to be this node before that is no memory of
/// its own: a restored or moved node meets its past once or twice.
const IMPOSTURES_FORGIVEN: u32 = 2;
impl Membership {
    /// Joins the cluster of someone who was asked. False if it cannot.
    pub(super) fn adopt(&mut self, cluster: ClusterId, news: &News) -> bool {
        let past = news
            .members
            .iter()
            .find(|member| member.node == self.identity.node);
        if let Some(past) = past {
            if past.name != self.identity.name {
                self.become_unfit(Fault::NameTaken {
                    known: past.name.clone(),
                    refused: self.identity.name.clone(),
                });
                return false;
            }
            // They know this node, and it knows nothing: it was wiped.
            let Some(incarnation) = past.incarnation.max(self.me().incarnation).checked_add(1)
            else {
                self.fault(Fault::Exhausted {
                    address: news.address.clone(),
                });
                return false;
            };
            self.be_born(incarnation);
        }
        self.cluster = Some(cluster);
        self.gossip.greet_seeds();
        self.members_changed();
        if let Some(layout) = news.layouts.last() {
            let (partitions, replicas) = (layout.partitions(), layout.replicas());
            if (partitions, replicas) != (self.identity.partitions, self.identity.replicas) {
                self.fault(Fault::RingDiffers {
                    partitions,
                    replicas,
                });
            }
        }
        true
    }

    /// Joins with an empty disk, whatever others remember of an earlier one.
    fn be_born(&mut self, incarnation: u64) {
        let me = self.me_mut();
        me.incarnation = incarnation;
        me.born = incarnation;
        self.out.push(Gossip::RenewIncarnation);
    }

    pub(super) fn merge_layout(&mut self, layout: Layout, from: &Address) {
        let ring = |layout: &Layout| (layout.partitions(), layout.replicas());
        if self
            .layout()
            .is_some_and(|known| ring(known) != ring(&layout))
        {
            self.fault(Fault::ForeignLayout {
                address: from.clone(),
            });
        } else {
            self.take_layout(layout);
        }
    }

    pub(super) fn merge_member(&mut self, theirs: Member, now_ms: u64) {
        if theirs.node == self.identity.node {
            self.face_past(&theirs);
            return;
        }
        let (matters, clash) = match self.members.get(&theirs.node) {
            None if self.members.len() >= MAX_MEMBERS => {
                self.fault(Fault::TooManyMembers { name: theirs.name });
                return;
            }
            None => (true, None),
            Some(mine) if mine.name != theirs.name => (false, Some(mine.name.clone())),
            Some(mine) if mine.rank() >= theirs.rank() => return,
            Some(mine) => {
                if mine.standing() != theirs.standing() {
                    // A change of layout waits for what everyone says of it, so that
                    // is passed on at once, like the change itself.
                    self.history.unsettle();
                    self.gossip.hurry();
                }
                let life = mine.pulse().life() == theirs.pulse().life();
                (!life || mine.status != theirs.status, None)
            }
        };
        if let Some(known) = clash {
            self.fault(Fault::NameTaken {
                known,
                refused: theirs.name,
            });
            return;
        }
        let (node, status) = (theirs.node, theirs.status);
        self.members.insert(node, theirs);
        self.note_life(node, status, now_ms);
        if matters {
            self.members_changed();
        }
    }

    /// Takes over what is newer in entries at hand. Returns whose entries have to
    /// be asked for.
    pub(super) fn merge_pulses(&mut self, pulses: &[Pulse], now_ms: u64) -> Vec<NodeId> {
        let mut wanted = Vec::new();
        for pulse in pulses.iter().take(MAX_MEMBERS) {
            match self.members.get_mut(&pulse.node) {
                None => wanted.push(pulse.node),
                Some(mine) if mine.rank() >= pulse.rank() => {}
                // The entry shows who claims to be this node.
                Some(mine) if mine.pulse().life() != pulse.life() => wanted.push(pulse.node),
                Some(mine) => {
                    let mut theirs = mine.clone();
                    theirs.follow(pulse);
                    self.merge_member(theirs, now_ms);
                }
            }
        }
        wanted
    }

    fn note_life(&mut self, node: NodeId, status: Status, now_ms: u64) {
        if status == Status::Removed {
            self.detector.forget(node);
            self.clocks.remove(&node);
        } else {
            self.detector.on_heartbeat(node, now_ms);
        }
    }

    /// An entry about this node: an operator's decision, or deeds that it forgot
    /// (a wiped or restored disk). Those it outbids with a higher incarnation, as
    /// a suspected member does in SWIM (Das, Gupta, Motivala, DSN 2002).
    fn face_past(&mut self, theirs: &Member) {
        let me = self.me();
        if theirs.name != me.name {
            self.fault(Fault::NameTaken {
                known: self.identity.name.clone(),
                refused: theirs.name.clone(),
            });
            return;
        }
        // One that was removed has nothing to claim any more, whoever bears its name.
        if theirs.rank() <= me.rank() || me.status == Status::Removed {
            return;
        }
        if theirs.status == Status::Removed {
            self.face_removal(theirs);
            return;
        }
        let address = theirs.address.clone();
        let Some(incarnation) = theirs.incarnation.checked_add(1) else {
            self.fault(Fault::Exhausted { address });
            return;
        };
        if address != self.identity.address {
            self.impostures += 1;
            if self.impostures > IMPOSTURES_FORGIVEN {
                self.fault(Fault::SameName { address });
            }
        }
        let me = self.me_mut();
        me.incarnation = incarnation;
        // Deeds of a later disk than this one: it is that one's memory that counts.
        me.born = me.born.max(theirs.born);
        // What this disk holds is from before those deeds. It is filled again.
        me.layout_synced = 0;
        me.synced_tag = 0;
        self.out.push(Gossip::RenewIncarnation);
        self.members_changed();
    }

    /// Others say that this node was removed. Its rows must not come back: they may
    /// be older than deletions that everyone has forgotten since. A node that holds
    /// none, because it came with an empty disk, is simply another one.
    fn face_removal(&mut self, theirs: &Member) {
        let me = self.me();
        let is_of_this_life = theirs.pulse().life() == me.pulse().life();
        if self.came_empty && me.status == Status::Joining && !is_of_this_life {
            let greatest = theirs.incarnation.max(me.incarnation);
            if let Some(incarnation) = greatest.checked_add(1) {
                self.be_born(incarnation);
                self.members_changed();
                return;
            }
        }
        let me = self.me_mut();
        me.born = theirs.born;
        me.incarnation = me.incarnation.max(theirs.incarnation);
        me.status = Status::Removed;
        self.members_changed();
        self.become_unfit(Fault::Removed);
    }
}
