//! A write on its way: minted and stored here, then brought to its replicas.
//!
//! Promises: a write is sent out only once it is durable here; a store that
//! fails has written nothing, and its node coordinates no item that it cannot
//! read; the token that a writer gets covers what it had seen and its own write.

use std::sync::Arc;

use super::super::context::Context;
use super::super::effect::{StoreError, StoreReply, StoreRequest};
use super::super::id::NodeId;
use super::super::message::{Ask, Message, MessageId, Refusal, Response};
use super::super::put::{Put, PutAction};
use super::super::replica::{Draft, Mutation, Outcome, Written};
use super::super::ring::Ring;
use super::super::sabotage::{Variant, broken};
use super::super::siblings::SiblingSet;
use super::{AwaitedOf, Job, Machine, Slot, SlotId, Stage};

impl Machine {
    /// Says which nodes get the write: the primaries by every layout that somebody
    /// may read from, so that whoever reads finds it where it looks.
    pub(super) fn plan_put(&mut self, id: SlotId) -> bool {
        let Some(slot) = self.slots.get(&id) else {
            return false;
        };
        if self.writing_rings.is_empty() {
            return false;
        }
        let (partition, w) = (slot.item.partition, slot.item.w as usize);
        let n = slot.table.definition.n as usize;
        // A removed node will not take its copy, now or later. The next one of the
        // list does, without a hint.
        let members = |ring: &'_ Arc<Ring>| {
            let preference = ring.preference(partition).iter().copied();
            let members = preference.filter(|node| !self.membership.is_removed(*node));
            members.collect::<Vec<NodeId>>()
        };
        let mut groups: Vec<Vec<NodeId>> = self.writing_rings.iter().map(members).collect();
        let mut others = Vec::new();
        for group in &mut groups {
            others.extend(group.split_off(n.min(group.len())));
        }
        let (put, hints_here) = Put::new(&groups, others, w, slot.item.strict, self.me, |node| {
            self.is_up(node)
        });
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.put = Some(put);
            slot.hints_here = hints_here;
        }
        true
    }

    /// Asks the store to mint and write, or to say that folding comes first.
    pub(super) fn start_write(&mut self, id: SlotId) {
        if !self.plan_put(id) {
            return;
        }
        let minting = self.fresh_minting();
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some(draft) = slot.draft() else { return };
        let mut limits = slot.table.limits();
        if slot.unfolded {
            limits.fold_above = None;
        }
        slot.stage = Stage::Storing;
        slot.working = true;
        let request = StoreRequest::Update {
            partition: slot.item.partition,
            key: slot.item.key.clone(),
            mutation: Mutation::Write {
                draft,
                minting,
                limits,
            },
            hints: slot.hints_here.clone(),
        };
        self.store(Job::SlotStore(id), request);
    }

    pub(super) fn on_slot_stored(&mut self, id: SlotId, reply: Result<StoreReply, StoreError>) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.working = false;
        let outcome = match reply {
            Ok(StoreReply::Updated(outcome, _)) => outcome,
            Ok(other) => unreachable!("a change is answered by its outcome, not {other:?}"),
            Err(error) => return self.fail_write(id, error),
        };
        match (outcome, std::mem::replace(&mut slot.stage, Stage::Open)) {
            (Outcome::Written(written), Stage::Storing) => {
                let context = slot.token(&written);
                slot.result = Some(Response::Written { context });
                self.replicate(id, written.delta);
            }
            (Outcome::WantsFold(row), Stage::Storing) => self.fold_write(id, row),
            (Outcome::TooManySiblings(siblings), Stage::Storing) => {
                let refusal = Refusal::TooManySiblings {
                    siblings: siblings as u32,
                };
                self.answer(id, Response::Refused(refusal));
                self.retire(id);
            }
            (Outcome::Replaced, Stage::Swapping { written, row }) => {
                let context = slot.token(&written);
                slot.result = Some(Response::Written { context });
                self.replicate(id, row.set);
            }
            (Outcome::Replaced, Stage::SwappingOperation { row, view }) => {
                slot.result = Some(slot.view_response(&row.set, view));
                self.replicate(id, row.set);
            }
            (Outcome::Conflict(row), stage) => {
                self.counters.swap_conflicts += 1;
                self.on_conflict(id, row, &stage);
            }
            (outcome, stage) => unreachable!("{outcome:?} does not answer {stage:?}"),
        }
    }

    /// The write is durable here: to the replicas with it.
    fn replicate(&mut self, id: SlotId, delta: SiblingSet) {
        self.release_item(id);
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.delta = Some(delta);
        let hints_here = std::mem::take(&mut slot.hints_here);
        let actions = slot.put.as_mut().map(Put::on_stored).unwrap_or_default();
        self.hints_noted(&hints_here);
        self.do_put(id, actions);
    }

    fn do_put(&mut self, id: SlotId, actions: Vec<PutAction>) {
        for action in actions {
            let Some(slot) = self.slots.get_mut(&id) else {
                return;
            };
            let partition = slot.item.partition;
            let key = slot.item.key.clone();
            match action {
                PutAction::Store { node, hint_for } => {
                    let Some(set) = slot.delta.clone() else {
                        continue;
                    };
                    let message = self.ask(node, AwaitedOf::Write(id), |id| Message::Write {
                        id,
                        partition,
                        key,
                        set,
                        hint_for,
                    });
                    self.await_message(id, message);
                }
                PutAction::HintHere { primary } => {
                    let Some(set) = slot.delta.clone() else {
                        continue;
                    };
                    // The write goes with the hint: a node that stands in may have
                    // handed over its row meanwhile, and a hint beside no row
                    // would bring the primary nothing.
                    let max_actors = self.max_actors(&key);
                    let request = StoreRequest::Update {
                        partition,
                        key,
                        mutation: Mutation::Sync { set, max_actors },
                        hints: vec![primary],
                    };
                    self.store(Job::SlotHint(primary), request);
                }
                PutAction::Answer => {
                    self.counters.quorum_met += 1;
                    if slot.answered {
                        continue;
                    }
                    if matches!(
                        slot.item.ask,
                        Ask::Put {
                            representation: true,
                            ..
                        }
                    ) {
                        self.start_get(id);
                    } else if let Some(result) = slot.result.clone() {
                        self.answer(id, result);
                    }
                }
                PutAction::Unmet { got } => {
                    self.counters.quorum_unmet += 1;
                    let needed = slot.item.w;
                    let refusal = Refusal::QuorumUnmet {
                        needed,
                        got,
                        may_be_stored: true,
                    };
                    self.answer(id, Response::Refused(refusal));
                }
            }
        }
        self.retire(id);
    }

    pub(super) fn on_slot_ack(&mut self, slot: SlotId, id: MessageId, from: NodeId) {
        self.forget_message(slot, id);
        self.with_put(slot, |put| put.on_ack(from));
    }

    pub(super) fn on_write_lost(&mut self, slot: SlotId, id: MessageId, node: NodeId) {
        self.forget_message(slot, id);
        self.with_put(slot, |put| put.on_failure(node));
    }

    pub(super) fn with_put(&mut self, id: SlotId, step: impl FnOnce(&mut Put) -> Vec<PutAction>) {
        if let Some(put) = self.slots.get_mut(&id).and_then(|slot| slot.put.as_mut()) {
            let actions = step(put);
            self.do_put(id, actions);
        }
    }

    /// The coordinator's own store failed: nothing was written, and this node
    /// does not coordinate an item that it cannot read. Another one may.
    pub(super) fn fail_write(&mut self, id: SlotId, error: StoreError) {
        self.release_item(id);
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.put = None;
        slot.get = None;
        slot.hints_here.clear();
        slot.stage = Stage::Open;
        slot.working = false;
        let refusal = match error {
            StoreError::Overloaded => Refusal::Overloaded,
            // Another primary may be able to read the item: let it coordinate.
            StoreError::Corrupt(_) | StoreError::Io(_)
                if slot.unfit.is_none() && !slot.answered && slot.origin.is_client() =>
            {
                slot.unfit = Some(error);
                return self.begin(id);
            }
            error => Refusal::Storage(error),
        };
        self.answer(id, Response::Refused(refusal));
        self.retire(id);
    }
}

impl Slot {
    /// What the client had seen, as far as its request says.
    pub(super) fn client(&self) -> Context {
        match &self.item.ask {
            Ask::Put { client, .. }
            | Ask::Delete {
                client: Some(client),
            } => client.clone(),
            _ => Context::new(),
        }
    }

    /// The write that the request asks for.
    pub(super) fn draft(&self) -> Option<Draft> {
        match &self.item.ask {
            Ask::Put {
                client,
                value,
                content_type,
                ..
            } => Some(Draft {
                client: client.clone(),
                value: Some(value.clone()),
                content_type: content_type.clone(),
            }),
            Ask::Delete {
                client: Some(client),
            } => Some(Draft {
                client: client.clone(),
                value: None,
                content_type: Arc::from(""),
            }),
            _ => None,
        }
    }

    /// The context that a writer gets: what it had seen and its own write,
    /// never a sibling that it did not see.
    fn token(&self, written: &Written) -> Context {
        let mut context = self.client();
        context.join(written.delta.context());
        if broken(Variant::TokenCoversUnseen) {
            for counter in 1..written.dot.counter {
                let actor = written.dot.actor;
                context.add(crate::protocol::dot::Dot { actor, counter }, 0);
            }
        }
        context
    }
}
