//! What became of an effect: the store's answers, and messages that went nowhere.
//!
//! Promises: every answer finds the one thing that waits for it, or nothing; each
//! change of a row reaches the trees before anything is made of it.

use super::super::effect::{JobId, StoreError, StoreReply};
use super::super::id::NodeId;
use super::super::message::{Message, MessageId};
use super::super::sabotage::{Variant, broken};
use super::{Awaited, AwaitedOf, Job, Machine};

impl Machine {
    pub(super) fn on_stored(&mut self, job: JobId, reply: Result<StoreReply, StoreError>) {
        let Some(job) = self.jobs.remove(&job) else {
            debug_assert!(false, "every job is answered once");
            return;
        };
        match &reply {
            Ok(StoreReply::Updated(_, Some(change))) => self.on_leaf_change(change),
            Ok(StoreReply::Dropped(changes)) if !broken(Variant::TreesKeepTheGone) => {
                changes
                    .iter()
                    .for_each(|change| self.on_leaf_change(change));
            }
            Ok(_) => {}
            Err(error) => {
                self.counters.store_failures += 1;
                self.note_damage(&job, error);
            }
        }
        match job {
            Job::SlotRead(slot) => self.on_slot_read(slot, reply),
            Job::SlotStore(slot) => self.on_slot_stored(slot, reply),
            Job::SlotGuest(_) => debug_assert!(false, "a guest's answer comes from a guest"),
            Job::SlotHint(target) => {
                if reply.is_ok() {
                    self.hints_noted(&[target]);
                }
            }
            Job::PeerRead { from, id, .. } => self.on_peer_read(from, id, reply),
            Job::PeerWrite {
                from, id, hint_for, ..
            } => self.on_peer_written(from, id, hint_for, reply),
            // What is still there is found again.
            Job::ForgetDamaged => {}
            Job::Derive(partition) => self.on_derive(partition, reply),
            Job::Session(id) => self.on_session_store(id, reply),
            Job::Mend(by) => self.on_mended(by, reply),
            Job::Serve(serve) => self.on_served(serve, reply),
            Job::Sweep(step) => self.on_sweep_store(step, reply),
            Job::RepairHere => {}
            // Loaded before the delivered ones are forgotten, the next batch
            // would be the same.
            Job::HintDrop => {
                self.hint_drops -= 1;
                if self.hint_drops == 0 {
                    self.deliver_hints();
                }
            }
            Job::Persist { revision } => {
                if reply.is_ok() {
                    let gossip = self
                        .membership
                        .on_persisted(revision, self.now.monotonic_ms);
                    self.on_gossip(gossip);
                    self.on_durable(revision);
                }
            }
            Job::HintBatch(target) => self.on_hints_loaded(target, reply),
            Job::HintCount => {
                // A count that failed is asked for again: hints that nobody knows
                // of would stay for the rest of this life.
                if let Ok(StoreReply::HintCounts(counts)) = reply {
                    self.hints_counted = true;
                    self.hints.on_counts(&counts);
                }
            }
        }
    }

    /// A row that cannot be read is healed by exchange, once it is known of.
    fn note_damage(&mut self, job: &Job, error: &StoreError) {
        let partition = match job {
            Job::SlotRead(slot) | Job::SlotStore(slot) => {
                self.slots.get(slot).map(|slot| slot.item.partition)
            }
            Job::PeerRead { partition, .. } | Job::PeerWrite { partition, .. } => Some(*partition),
            _ => None,
        };
        if let (StoreError::Corrupt(_), Some(partition)) = (error, partition) {
            self.on_damage(partition);
        }
    }

    pub(super) fn hints_noted(&mut self, targets: &[NodeId]) {
        self.counters.hints_noted += targets.len() as u64;
        self.hints.on_added(targets);
    }

    /// A message will not be answered.
    ///
    /// `undelivered`: it was never handed to the network, so what it asked did
    /// not happen.
    pub(super) fn on_lost(&mut self, id: MessageId, undelivered: bool) {
        let Some(Awaited { node, of }) = self.awaited.remove(&id) else {
            return;
        };
        match of {
            AwaitedOf::Read(slot) => self.on_read_lost(slot, id, node),
            AwaitedOf::Write(slot) => self.on_write_lost(slot, id, node),
            AwaitedOf::Forward(slot) => self.on_forward_lost(slot, id, undelivered),
            AwaitedOf::Hint(delivered) => self.hints.on_failed(node, Some(delivered.id)),
            AwaitedOf::Nothing => {}
            AwaitedOf::Roots => self.on_roots_lost(id),
            AwaitedOf::Session(session) => self.on_session_lost(session),
            AwaitedOf::Sweep(step) => self.on_sweep_lost(step),
            AwaitedOf::Reaping(ballot) => self.lose_ballot(ballot),
            AwaitedOf::Survey(survey) => self.on_survey_lost(survey),
        }
    }

    pub(super) fn on_undelivered(&mut self, to: NodeId, message: Message, overloaded: bool) {
        if !overloaded {
            self.membership
                .on_undelivered(to, &message, self.now.monotonic_ms);
            self.notice_liveness();
        }
        match message {
            Message::Read { id, .. }
            | Message::Write { id, .. }
            | Message::Forward { id, .. }
            | Message::Exchange { id, .. } => self.on_lost(id, true),
            // Answers and gossip: whoever waits for them has a timer.
            _ => {}
        }
    }

    pub(super) fn on_disconnected(&mut self, peer: NodeId) {
        self.membership.on_disconnected(peer, self.now.monotonic_ms);
        self.notice_liveness();
        let mut lost: Vec<MessageId> = self
            .awaited
            .iter()
            .filter(|(_, awaited)| awaited.node == peer)
            .map(|(id, _)| *id)
            .collect();
        lost.sort_unstable();
        for id in lost {
            self.on_lost(id, false);
        }
    }
}
