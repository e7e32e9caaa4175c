//! A client's request, from its first step to its last.
//!
//! A read is coordinated by whoever received it. A write, a delete or an
//! operation is coordinated by one of the first N reachable nodes of the item's
//! preference list, so that dots are minted where the item lives; any other node
//! forwards it. Promises: one answer a request; a forward is repeated elsewhere
//! only if it certainly did not arrive; a write that was stored anywhere goes on
//! to its replicas whatever its client was told.

use super::super::effect::{Effect, StoreError, StoreReply, StoreRequest};
use super::super::get::{Get, GetAction};
use super::super::id::NodeId;
use super::super::message::{Ask, ItemRequest, Message, MessageId, ReadAnswer, Refusal, Response};
use super::super::put::Put;
use super::super::replica::Mutation;
use super::super::sabotage::{Variant, broken};
use super::super::siblings::{SiblingSet, StateHash};
use super::timers::Line;
use super::{
    AwaitedOf, GRACE_MS, Job, MAX_REQUESTS, Machine, Origin, PASS_OVER_MS, READ_HEDGE_MS, Slot,
    SlotId, Stage, WRITE_HEDGE_MS,
};

/// How many bytes of values and operations the requests in hand hold at most; more
/// are refused at once, but an idle node takes one of any size. A write is held
/// until its last replica has answered or was replaced, so this is what a slow
/// replica can make a node hold.
pub const MAX_REQUEST_BYTES: usize = 256 << 20;

impl Machine {
    pub(super) fn on_client(&mut self, origin: Origin, item: ItemRequest) {
        let Some(table) = self.tables_by_id.get(&item.table).cloned() else {
            return self.refuse(origin, Refusal::NoSuchTable);
        };
        if self.draining && !origin.is_client() {
            return self.refuse(origin, Refusal::NotReady("it is shutting down".to_owned()));
        }
        if let Err(why) = self.readiness() {
            return self.refuse(origin, Refusal::NotReady(why));
        }
        let bytes = item.ask.size_bytes();
        let too_large = self.request_bytes + bytes > MAX_REQUEST_BYTES && !self.slots.is_empty();
        if self.slots.len() >= MAX_REQUESTS || too_large {
            return self.refuse(origin, Refusal::Overloaded);
        }
        self.request_bytes += bytes;
        let id = SlotId(self.next_id());
        let now_ms = self.now.monotonic_ms;
        let deadline_ms = now_ms + item.timeout_ms.max(1);
        let (line, hedge_ms) = match item.ask {
            Ask::Get { .. } | Ask::Explain => (Line::ReadHedge, READ_HEDGE_MS),
            _ => (Line::WriteHedge, WRITE_HEDGE_MS),
        };
        let timer_ms = now_ms + hedge_ms;
        let notebook = matches!(item.ask, Ask::Explain).then(Box::default);
        let slot = Slot {
            origin,
            item,
            table,
            deadline_ms,
            timer_ms: timer_ms.min(deadline_ms),
            stage: Stage::Open,
            answered: false,
            result: None,
            delta: None,
            get: None,
            put: None,
            hints_here: Vec::new(),
            awaited: Vec::new(),
            forwarded_to: Vec::new(),
            attempts: 0,
            begun_ms: now_ms,
            holds_item: false,
            unfolded: false,
            unfit: None,
            working: false,
            bytes,
            notebook,
        };
        if timer_ms <= deadline_ms {
            let slots = &self.slots;
            let has_ended = |slot| slots.get(&slot).is_none();
            self.timers.stand(line, (timer_ms, id), has_ended);
        } else {
            self.timers.set((deadline_ms, id));
        }
        self.slots.insert(id, Box::new(slot));
        self.begin(id);
    }

    /// Starts a request, or starts its write once a delete knows what it saw.
    pub(super) fn begin(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        match &slot.item.ask {
            Ask::Get { .. } | Ask::Delete { client: None } | Ask::Explain => self.start_get(id),
            Ask::Put { .. } | Ask::Delete { client: Some(_) } => {
                if self.coordinates(id) {
                    self.start_write(id);
                }
            }
            Ask::Operate { .. } => {
                if self.coordinates(id) {
                    self.start_operation(id);
                }
            }
        }
    }

    /// Whether this node coordinates the write; forwards it if not.
    fn coordinates(&mut self, id: SlotId) -> bool {
        let Some(slot) = self.slots.get(&id) else {
            return false;
        };
        // Whoever got a forwarded request was chosen: passing it on again could
        // go round in circles.
        if matches!(slot.origin, Origin::Peer { .. }) {
            return true;
        }
        // Dots are minted where the item is known to lie: a node that is still being
        // filled would mint beside siblings that it has not got.
        let Some(ring) = self.reading_ring.clone() else {
            return false;
        };
        let preference = ring.preference(slot.item.partition);
        let n = (slot.table.definition.n as usize).min(preference.len());
        let usable = if slot.item.strict {
            &preference[..n]
        } else {
            preference
        };
        let reachable: Vec<NodeId> = usable
            .iter()
            .copied()
            .filter(|&node| self.is_up(node))
            .take(n)
            .collect();
        if reachable.contains(&self.me) && slot.unfit.is_none() {
            return true;
        }
        let untried = |node: &NodeId| *node != self.me && !slot.forwarded_to.contains(node);
        let now_ms = self.now.monotonic_ms;
        let ready = |node: &NodeId| {
            let until_ms = self.passed_over.get(node);
            until_ms.is_none_or(|until_ms| now_ms >= *until_ms)
        };
        let candidates = || reachable.iter().chain(usable).copied().filter(untried);
        let chosen = candidates().find(ready).or_else(|| candidates().next());
        let Some(node) = chosen else {
            let refusal = match &slot.unfit {
                None if usable.contains(&self.me) => return true,
                None => Refusal::QuorumUnmet {
                    needed: slot.item.w,
                    got: 0,
                    may_be_stored: false,
                },
                Some(error) => Refusal::Storage(error.clone()),
            };
            self.answer(id, Response::Refused(refusal));
            self.retire(id);
            return false;
        };
        self.counters.forwarded += 1;
        let slot = self.slots.get_mut(&id).expect("looked up above");
        slot.forwarded_to.push(node);
        slot.stage = Stage::Forwarded;
        let mut item = Box::new(slot.item.clone());
        // The other node gives up before this one does, so that its reasons
        // arrive.
        let left_ms = slot.deadline_ms.saturating_sub(self.now.monotonic_ms);
        item.timeout_ms = (left_ms * 9 / 10).max(1);
        let message = self.ask(node, AwaitedOf::Forward(id), |id| Message::Forward {
            id,
            item,
        });
        self.await_message(id, message);
        false
    }

    pub(super) fn on_forward_answer(&mut self, from: NodeId, id: MessageId, response: Response) {
        let Some(awaited) = self.awaited.remove(&id) else {
            return;
        };
        debug_assert_eq!(awaited.node, from);
        if let AwaitedOf::Forward(slot) = awaited.of {
            if matches!(response, Response::Refused(Refusal::NotReady(_))) {
                // It did nothing and says so: another one may.
                let until_ms = self.now.monotonic_ms + PASS_OVER_MS;
                self.passed_over.insert(from, until_ms);
                return self.on_forward_lost(slot, id, true);
            }
            self.forget_message(slot, id);
            self.answer(slot, response);
            self.retire(slot);
        }
    }

    pub(super) fn on_forward_lost(&mut self, slot: SlotId, id: MessageId, undelivered: bool) {
        self.forget_message(slot, id);
        let Some(state) = self.slots.get_mut(&slot) else {
            return;
        };
        let retries = undelivered || broken(Variant::ForwardRetriedBlindly);
        if retries && !state.answered {
            state.stage = Stage::Open;
            self.begin(slot);
        } else {
            // It may have been carried out: doing it again elsewhere would make
            // a second write of it.
            let needed = state.item.w;
            let refusal = Refusal::QuorumUnmet {
                needed,
                got: 0,
                may_be_stored: true,
            };
            self.answer(slot, Response::Refused(refusal));
            self.retire(slot);
        }
    }

    // Reads.

    pub(super) fn start_get(&mut self, id: SlotId) {
        let (Some(ring), Some(slot)) = (self.reading_ring.clone(), self.slots.get(&id)) else {
            return;
        };
        let preference = ring.preference(slot.item.partition);
        let n = (slot.table.definition.n as usize).min(preference.len());
        let (get, actions) = Get::new(
            preference,
            n,
            slot.item.r as usize,
            slot.item.strict,
            self.me,
            |node| self.is_up(node),
        );
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.get = Some(get);
        }
        self.do_get(id, actions);
    }

    fn do_get(&mut self, id: SlotId, actions: Vec<GetAction>) {
        let mut cannot_say = false;
        for action in actions {
            let Some(slot) = self.slots.get_mut(&id) else {
                return;
            };
            let partition = slot.item.partition;
            let key = slot.item.key.clone();
            let (needed, may_be_stored) = (slot.item.r, slot.result.is_some());
            let takes_hashes = slot.takes_hashes();
            if let GetAction::Ask { node, .. } = &action {
                slot.note_asked(*node);
            }
            match action {
                // What is lacking here would pass for absent.
                GetAction::Ask { node, .. } if node == self.me && !self.is_filled(partition) => {
                    cannot_say = true;
                }
                GetAction::Ask { node, .. } if node == self.me => {
                    self.store(Job::SlotRead(id), StoreRequest::Read { partition, key });
                }
                GetAction::Ask { node, hash_only } => {
                    let hash_only = hash_only && takes_hashes;
                    let message = self.ask(node, AwaitedOf::Read(id), |id| Message::Read {
                        id,
                        partition,
                        key,
                        hash_only,
                    });
                    self.await_message(id, message);
                }
                GetAction::Answer { set, hash } => self.on_read(id, set, hash),
                GetAction::Unmet { got } => {
                    self.counters.quorum_unmet += 1;
                    let refusal = Refusal::QuorumUnmet {
                        needed,
                        got,
                        may_be_stored,
                    };
                    self.answer(id, Response::Refused(refusal));
                }
                GetAction::Repair { node, set } => {
                    self.counters.read_repairs += 1;
                    self.repair(node, id, set);
                }
            }
        }
        if cannot_say {
            let me = self.me;
            self.note_failure(id, me);
            self.with_get(id, |get| get.on_failure(me));
        }
        self.retire(id);
    }

    fn repair(&mut self, node: NodeId, id: SlotId, set: SiblingSet) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        if broken(Variant::RepairReachesNobody) {
            return;
        }
        let (partition, key) = (slot.item.partition, slot.item.key.clone());
        if node == self.me {
            let mutation = Mutation::Sync {
                set,
                max_actors: self.max_actors(&key),
            };
            let request = StoreRequest::Update {
                partition,
                key,
                mutation,
                hints: Vec::new(),
            };
            self.store(Job::RepairHere, request);
        } else {
            self.ask(node, AwaitedOf::Nothing, |id| Message::Write {
                id,
                partition,
                key,
                set,
                hint_for: None,
            });
        }
    }

    pub(super) fn on_slot_read(&mut self, id: SlotId, reply: Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Row(row))
                if matches!(self.stage(id), Some(Stage::LoadingRow { .. })) =>
            {
                let row = row.map(|(row, _)| row);
                self.on_operation_row(id, row.unwrap_or_default());
            }
            Ok(StoreReply::Row(row)) => {
                let me = self.me;
                let (set, hash) = match row {
                    Some((row, state)) => (row.set, state),
                    None => (SiblingSet::new(), StateHash::OF_NOTHING),
                };
                let answer = ReadAnswer::State(set);
                self.note_answer(id, me, &answer);
                self.with_get(id, |get| get.on_hashed_answer(me, answer, hash));
            }
            Ok(other) => unreachable!("a read is answered by a row, not {other:?}"),
            Err(error) if matches!(self.stage(id), Some(Stage::LoadingRow { .. })) => {
                self.fail_write(id, error);
            }
            Err(_) if broken(Variant::FailedReadIsAbsent) => {
                let (me, nothing) = (self.me, ReadAnswer::State(SiblingSet::new()));
                self.with_get(id, |get| get.on_answer(me, nothing));
            }
            Err(_) => {
                let me = self.me;
                self.note_failure(id, me);
                self.with_get(id, |get| get.on_failure(me));
            }
        }
    }

    pub(super) fn on_slot_answer(
        &mut self,
        slot: SlotId,
        id: MessageId,
        from: NodeId,
        answer: ReadAnswer,
    ) {
        self.forget_message(slot, id);
        self.note_answer(slot, from, &answer);
        self.with_get(slot, |get| get.on_answer(from, answer));
    }

    pub(super) fn on_read_lost(&mut self, slot: SlotId, id: MessageId, node: NodeId) {
        self.forget_message(slot, id);
        self.note_failure(slot, node);
        self.with_get(slot, |get| get.on_failure(node));
    }

    fn with_get(&mut self, id: SlotId, step: impl FnOnce(&mut Get) -> Vec<GetAction>) {
        if let Some(get) = self.slots.get_mut(&id).and_then(|slot| slot.get.as_mut()) {
            let actions = step(get);
            self.do_get(id, actions);
        }
    }

    /// R replicas were joined: on to what the request wants of them.
    fn on_read(&mut self, id: SlotId, set: SiblingSet, hash: StateHash) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        match &slot.item.ask {
            Ask::Get { raw: true } => {
                let response = if set.is_empty() {
                    Response::Absent { context: None }
                } else {
                    Response::Siblings {
                        set,
                        reason: None,
                        raw: true,
                    }
                };
                self.counters.quorum_met += 1;
                self.answer(id, response);
            }
            Ask::Get { raw: false } | Ask::Put { .. } | Ask::Explain => {
                slot.note_read(&set);
                self.counters.quorum_met += 1;
                self.show(id, set, hash);
            }
            Ask::Delete { .. } => {
                if set.is_absent() {
                    let context = (!set.is_empty()).then(|| set.context().clone());
                    self.answer(id, Response::Absent { context });
                } else {
                    slot.item.ask = Ask::Delete {
                        client: Some(set.context().clone()),
                    };
                    self.begin(id);
                }
            }
            Ask::Operate { .. } => self.load_row(id, set),
        }
    }

    // Time.

    pub(super) fn on_timer(&mut self, id: SlotId) {
        let now_ms = self.now.monotonic_ms;
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if now_ms < slot.deadline_ms {
            slot.timer_ms = slot.deadline_ms;
            self.timers.set((slot.timer_ms, id));
            self.counters.hedged += 1;
            self.with_get(id, Get::on_hedge);
            // A write that waits for its own store has nothing to hedge yet.
            if self.slots.get(&id).is_some_and(|slot| slot.delta.is_some()) {
                self.with_put(id, Put::on_hedge);
            }
            return;
        }
        // Peers that did not answer in all this time count as failed.
        let silent: Vec<NodeId> = slot
            .awaited
            .iter()
            .filter_map(|message| self.awaited.get(message).map(|awaited| awaited.node))
            .collect();
        let answered = slot.answered;
        let stored = slot.delta.is_some();
        let writes = !slot.item.ask.is_read();
        let needed = if writes { slot.item.w } else { slot.item.r };
        for node in silent {
            self.membership.on_timeout(node, now_ms);
        }
        self.with_get(id, Get::on_timeout);
        if stored {
            self.with_put(id, Put::on_timeout);
        }
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if !slot.answered && !answered {
            let may_be_stored =
                writes && (slot.working || stored || matches!(slot.stage, Stage::Forwarded));
            self.counters.quorum_unmet += 1;
            let refusal = Refusal::QuorumUnmet {
                needed,
                got: 0,
                may_be_stored,
            };
            self.answer(id, Response::Refused(refusal));
        }
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if slot.working {
            // The store or the guest has not come back: what it stored must
            // still reach its replicas.
            slot.deadline_ms = now_ms + GRACE_MS;
            slot.timer_ms = slot.deadline_ms;
            self.timers.set((slot.timer_ms, id));
        } else {
            self.abandon(id);
        }
    }

    // Ends.

    /// Tells the client, once.
    pub(super) fn answer(&mut self, id: SlotId, response: Response) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if !slot.answered {
            slot.answered = true;
            let origin = slot.origin;
            let response = match slot.notebook {
                Some(_) => self.explained(id, response),
                None => response,
            };
            self.respond(origin, response);
        }
    }

    pub(super) fn refuse(&mut self, origin: Origin, refusal: Refusal) {
        self.respond(origin, Response::Refused(refusal));
    }

    pub(super) fn respond(&mut self, origin: Origin, response: Response) {
        match origin {
            Origin::Client(request) => self.out.push(Effect::Respond { request, response }),
            Origin::Peer { node, id } => {
                let response = Box::new(response);
                self.send(node, Message::ForwardAnswer { id, response });
            }
        }
    }

    /// Forgets a request from which nothing more will come.
    pub(super) fn retire(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let done = slot.answered
            && !slot.working
            && slot.get.as_ref().is_none_or(Get::is_finished)
            && (slot.delta.is_none() || slot.put.as_ref().is_none_or(Put::is_finished));
        if done {
            self.abandon(id);
        }
    }

    fn abandon(&mut self, id: SlotId) {
        self.release_item(id);
        if let Some(slot) = self.slots.remove(&id) {
            self.request_bytes -= slot.bytes;
            self.timers.forget((slot.timer_ms, id));
            for message in slot.awaited {
                self.awaited.remove(&message);
            }
        }
    }

    pub(super) fn await_message(&mut self, slot: SlotId, id: MessageId) {
        match self.slots.get_mut(&slot) {
            Some(slot) => {
                slot.awaited.push(id);
            }
            None => {
                self.awaited.remove(&id);
            }
        }
    }

    pub(super) fn forget_message(&mut self, slot: SlotId, id: MessageId) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.awaited.retain(|awaited| *awaited != id);
        }
    }

    pub(super) fn stage(&self, id: SlotId) -> Option<&Stage> {
        self.slots.get(&id).map(|slot| &slot.stage)
    }
}

#[cfg(test)]
pub(super) mod tests;
