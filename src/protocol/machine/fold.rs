//! Reconcilers at work: folding what a client reads, folding what a write would
//! leave, applying operations.
//!
//! Guests run off the store's writer: the row is read, the guest works, and the
//! result is swapped in only if the item is still what was read. Changes of one
//! item that need a guest take turns on this node, so only another coordinator's
//! write can come between. Promises: a fold never touches what is stored unless
//! a write asks for it; a guest that fails costs its own request and nothing
//! else.

use std::sync::Arc;

use bytes::Bytes;

use super::super::effect::{
    GuestCost, GuestReply, GuestRequest, GuestSibling, JobId, Operation, StoreError, StoreRequest,
    View,
};
use super::super::message::{Ask, Refusal, Response, ValueResponse};
use super::super::replica::{Mutation, Row, plan_event, plan_fold, plan_operation, plan_write};
use super::super::siblings::{SiblingSet, StateHash, Version};
use super::{
    Job, MAX_FOLD_ATTEMPTS, MAX_OPERATION_ATTEMPTS, MAX_WAITING_PER_ITEM, Machine, Slot, SlotId,
    Stage,
};

/// The media type of a data type's state, which no client sees.
const STATE_TYPE: &str = "application/octet-stream";

/// The siblings as a module gets them: by dot, or the dot that they stand for.
pub fn guest_siblings(set: &SiblingSet) -> Vec<GuestSibling> {
    let mut siblings: Vec<GuestSibling> = set
        .siblings()
        .map(|(dot, version)| GuestSibling {
            dot: version.stands_for.unwrap_or(dot),
            version: version.clone(),
        })
        .collect();
    siblings.sort_by_key(|sibling| sibling.dot);
    siblings
}

/// The media type of a folded value. Modules give bytes only: it is that of the
/// newest sibling with these very bytes, else that of the newest with a value.
pub fn folded_type(siblings: &[GuestSibling], value: &Bytes) -> Arc<str> {
    let newest = |wanted: &dyn Fn(&Version) -> bool| {
        siblings
            .iter()
            .filter(|sibling| wanted(&sibling.version))
            .max_by_key(|sibling| (sibling.version.written_at_us, sibling.dot))
            .map(|sibling| sibling.version.content_type.clone())
    };
    newest(&|version| version.value.as_ref() == Some(value))
        .or_else(|| newest(&|version| version.value.is_some()))
        .unwrap_or_else(|| Arc::from(STATE_TYPE))
}

impl Machine {
    /// Shows a client what was read: as it is, or through the table's module.
    /// `hash` is that of its state.
    pub(super) fn show(&mut self, id: SlotId, set: SiblingSet, hash: StateHash) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let is_data_type = slot.table.is_data_type();
        if set.is_absent() {
            let context = (!set.is_empty()).then(|| set.context().clone());
            return self.answer(id, Response::Absent { context });
        }
        if set.len() == 1 && !is_data_type {
            let response = value_response(set, hash);
            return self.answer(id, response);
        }
        let Some(module) = slot.table.module.clone() else {
            // A table that names a reconciler nobody has heard of yet says so.
            let reason = slot.table.definition.reconciler.as_ref().map(|name| {
                match slot.table.is_orphaned {
                    true => format!(
                        "the reconciler {name} was deleted; upload it again, or give the table \
                         another"
                    ),
                    false => format!("the reconciler {name} is not known on this node yet"),
                }
            });
            return self.answer(
                id,
                Response::Siblings {
                    set,
                    reason,
                    raw: false,
                },
            );
        };
        let request = GuestRequest {
            digest: module.digest,
            table: slot.table.name.clone(),
            key: slot.item.key.clone(),
            siblings: guest_siblings(&set),
            operation: None,
            render: is_data_type,
            max_output_bytes: slot.table.definition.max_value_bytes,
        };
        slot.stage = Stage::FoldingRead { set };
        slot.working = true;
        self.counters.folds_of_reads += 1;
        self.run_guest(id, request);
    }

    /// A write would leave more siblings than the table wants: fold them first.
    pub(super) fn fold_write(&mut self, id: SlotId, base: Row) {
        if !self.take_item(id) {
            return;
        }
        let minting = self.fresh_minting();
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let (Some(draft), Some(module)) = (slot.draft(), slot.table.module.clone()) else {
            return self.store_unfolded(id);
        };
        let (planned, written) = plan_write(base.clone(), &draft, &minting);
        let request = GuestRequest {
            digest: module.digest,
            table: slot.table.name.clone(),
            key: slot.item.key.clone(),
            siblings: guest_siblings(&planned.set),
            operation: None,
            render: false,
            max_output_bytes: slot.table.definition.max_value_bytes,
        };
        slot.stage = Stage::FoldingWrite {
            base,
            planned,
            written,
            minting,
        };
        slot.working = true;
        self.counters.folds_of_writes += 1;
        self.run_guest(id, request);
    }

    /// Keeps the siblings: the client's write matters more than their number.
    fn store_unfolded(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.unfolded = true;
            self.start_write(id);
        }
    }

    /// An operation reads like a get, then works on this node's own row.
    pub(super) fn start_operation(&mut self, id: SlotId) {
        if !self.take_item(id) {
            return;
        }
        match self.slots.get(&id) {
            Some(slot) if slot.item.r > 1 || !self.is_filled(slot.item.partition) => {
                self.start_get(id);
            }
            Some(_) => self.load_row(id, SiblingSet::new()),
            None => {}
        }
    }

    /// Reads the row that an operation is for; `read` is what replicas hold.
    pub(super) fn load_row(&mut self, id: SlotId, read: SiblingSet) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.stage = Stage::LoadingRow { read };
        slot.working = true;
        let (partition, key) = (slot.item.partition, slot.item.key.clone());
        self.store(Job::SlotRead(id), StoreRequest::Read { partition, key });
    }

    pub(super) fn on_operation_row(&mut self, id: SlotId, base: Row) {
        let minting = self.fresh_minting();
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.working = false;
        let Stage::LoadingRow { read } = std::mem::replace(&mut slot.stage, Stage::Open) else {
            return;
        };
        let Some(module) = slot.table.module.clone() else {
            let name = slot
                .table
                .definition
                .reconciler
                .as_deref()
                .unwrap_or("none")
                .to_owned();
            let refusal = Refusal::NotReady(format!("its reconciler {name} is not here yet"));
            self.answer(id, Response::Refused(refusal));
            return self.retire(id);
        };
        let Ask::Operate { operation } = &slot.item.ask else {
            return;
        };
        let mut joined = base.clone();
        joined.set.sync(&read);
        let (planned, dot, written_at_us) = plan_event(joined, &minting);
        let request = GuestRequest {
            digest: module.digest,
            table: slot.table.name.clone(),
            key: slot.item.key.clone(),
            siblings: guest_siblings(&planned.set),
            operation: Some(Operation {
                body: operation.clone(),
                dot,
                written_at_us,
            }),
            render: true,
            max_output_bytes: slot.table.definition.max_value_bytes,
        };
        slot.stage = Stage::Applying {
            base,
            planned,
            event: (dot, written_at_us),
        };
        slot.working = true;
        self.run_guest(id, request);
    }

    pub(super) fn on_guest(&mut self, job: JobId, reply: GuestReply, cost: GuestCost) {
        let Some(Job::SlotGuest(id)) = self.jobs.remove(&job) else {
            return;
        };
        if matches!(
            reply,
            GuestReply::Failed(_)
                | GuestReply::Missing
                | GuestReply::Overloaded
                | GuestReply::Quarantined(_)
        ) {
            self.counters.failed_folds += 1;
        }
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.working = false;
        match std::mem::replace(&mut slot.stage, Stage::Open) {
            Stage::FoldingRead { set } => {
                slot.note_fold(&reply, cost);
                let response = slot.folded_response(set, reply);
                self.answer(id, response);
                self.retire(id);
            }
            Stage::FoldingWrite {
                base,
                planned,
                written,
                minting,
            } => match reply {
                GuestReply::Done { value, .. } => {
                    let siblings = guest_siblings(&planned.set);
                    let content_type = match &value {
                        Some(value) => folded_type(&siblings, value),
                        None => Arc::from(""),
                    };
                    let max_actors = slot.table.definition.max_actors as usize;
                    let (row, _) = plan_fold(planned, value, content_type, &minting, max_actors);
                    self.swap(id, base, row.clone(), Stage::Swapping { written, row });
                }
                _ => self.store_unfolded(id),
            },
            Stage::Applying {
                base,
                planned,
                event,
            } => match reply {
                GuestReply::Done {
                    value: Some(state),
                    view: Some(view),
                } => {
                    let max_actors = slot.table.definition.max_actors as usize;
                    let row =
                        plan_operation(planned, event, state, Arc::from(STATE_TYPE), max_actors);
                    if self.plan_operation_put(id) {
                        self.swap(
                            id,
                            base,
                            row.clone(),
                            Stage::SwappingOperation { row, view },
                        );
                    }
                }
                reply => {
                    let refusal = match reply {
                        GuestReply::BadOperation(reason) => Refusal::BadOperation(reason),
                        GuestReply::Failed(reason) => Refusal::ReconcileFailed(reason),
                        GuestReply::Missing => Refusal::NotReady(
                            "the table's reconciler has not arrived here yet".to_owned(),
                        ),
                        GuestReply::Overloaded => Refusal::Overloaded,
                        GuestReply::Quarantined(reason) => Refusal::Quarantined(reason),
                        GuestReply::Unresolved => Refusal::ReconcileFailed(
                            "the reconciler declines to fold the siblings".to_owned(),
                        ),
                        GuestReply::Done { .. } => Refusal::ReconcileFailed(
                            "the reconciler gave no state for the operation".to_owned(),
                        ),
                    };
                    self.answer(id, Response::Refused(refusal));
                    self.retire(id);
                }
            },
            stage => unreachable!("no guest works for {stage:?}"),
        }
    }

    fn plan_operation_put(&mut self, id: SlotId) -> bool {
        // Who is up is asked now, not before the guest ran.
        if self.plan_put(id) {
            return true;
        }
        self.fail_write(
            id,
            StoreError::Io("the ring is not known any more".to_owned()),
        );
        false
    }

    fn swap(&mut self, id: SlotId, base: Row, row: Row, stage: Stage) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        // Peers that write the same item without a pause would have an operation
        // begin again for ever. It supersedes what it saw and no more, so its last
        // attempt may stand beside what came meanwhile: the next fold joins them.
        let is_operation = matches!(stage, Stage::SwappingOperation { .. });
        let mutation = if is_operation && slot.attempts + 1 >= MAX_FOLD_ATTEMPTS {
            Mutation::Join {
                minted: base.minted,
                made: row,
                max_actors: slot.table.definition.max_actors as usize,
            }
        } else {
            Mutation::Replace {
                expected: base.set.hash(),
                row,
            }
        };
        slot.stage = stage;
        slot.working = true;
        let request = StoreRequest::Update {
            partition: slot.item.partition,
            key: slot.item.key.clone(),
            mutation,
            hints: slot.hints_here.clone(),
        };
        self.store(Job::SlotStore(id), request);
    }

    /// The item changed while the guest worked: once more, on what it is now.
    pub(super) fn on_conflict(&mut self, id: SlotId, row: Row, stage: &Stage) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.attempts += 1;
        let attempts = slot.attempts;
        match stage {
            Stage::Swapping { .. } if attempts >= MAX_FOLD_ATTEMPTS => self.store_unfolded(id),
            Stage::Swapping { .. } => self.fold_write(id, row),
            _ if attempts >= MAX_OPERATION_ATTEMPTS => {
                self.answer(id, Response::Refused(Refusal::Overloaded));
                self.retire(id);
            }
            _ => {
                // What replicas held when they were asked is in the row, or will
                // be read again with the operation's own quorum.
                slot.get = None;
                self.start_operation(id);
            }
        }
    }

    // Turns.

    /// Takes the item's turn, or queues for it. True when it is this request's.
    fn take_item(&mut self, id: SlotId) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        if slot.holds_item {
            return true;
        }
        match self.busy.get_mut(&slot.item.key) {
            None => {
                self.busy.insert(slot.item.key.clone(), Default::default());
                slot.holds_item = true;
                true
            }
            Some(waiting) if waiting.len() >= MAX_WAITING_PER_ITEM => {
                self.answer(id, Response::Refused(Refusal::Overloaded));
                self.retire(id);
                false
            }
            Some(waiting) => {
                waiting.push_back(id);
                slot.stage = Stage::Queued;
                false
            }
        }
    }

    /// Gives the turn to the next in the queue.
    pub(super) fn release_item(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut slot.holds_item) {
            if matches!(slot.stage, Stage::Queued)
                && let Some(waiting) = self.busy.get_mut(&slot.item.key)
            {
                waiting.retain(|other| *other != id);
            }
            return;
        }
        let key = slot.item.key.clone();
        let next = self
            .busy
            .get_mut(&key)
            .and_then(|waiting| waiting.pop_front());
        match next.and_then(|next| self.slots.get_mut(&next).map(|slot| (next, slot))) {
            Some((next, slot)) => {
                slot.holds_item = true;
                self.resumable.push_back(next);
            }
            None => {
                debug_assert!(
                    next.is_none(),
                    "whoever leaves takes its place in the queue along"
                );
                self.busy.remove(&key);
            }
        }
    }

    /// A queued request got its turn.
    pub(super) fn resume(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.stage = Stage::Open;
        match slot.item.ask {
            Ask::Operate { .. } => self.start_operation(id),
            _ => self.start_write(id),
        }
    }
}

/// The one value of a set without a conflict.
fn value_response(set: SiblingSet, hash: StateHash) -> Response {
    let (context, mut versions) = set.into_parts();
    let version = versions.next().expect("the set has one sibling");
    Response::Value(ValueResponse {
        value: version.value.unwrap_or_default(),
        content_type: version.content_type,
        context,
        siblings: 1,
        hash,
        folded_by: None,
    })
}

impl Slot {
    /// What an operation's client sees.
    pub(super) fn view_response(&self, set: &SiblingSet, view: View) -> Response {
        Response::Value(ValueResponse {
            value: view.body,
            content_type: view.content_type,
            context: set.context().clone(),
            siblings: 1,
            hash: set.hash(),
            folded_by: None,
        })
    }

    /// What the module made of what was read, or the siblings and why not.
    fn folded_response(&self, set: SiblingSet, reply: GuestReply) -> Response {
        let siblings = set.len() as u32;
        let folded_by = match (&self.table.definition.reconciler, &self.table.module) {
            (Some(name), Some(module)) if siblings > 1 => Some((name.clone(), module.digest)),
            _ => None,
        };
        let reason = match reply {
            GuestReply::Done { value: None, .. } => {
                return Response::Absent {
                    context: Some(set.context().clone()),
                };
            }
            GuestReply::Done {
                value: Some(value),
                view,
            } => {
                let (value, content_type) = match view {
                    Some(view) => (view.body, view.content_type),
                    None => {
                        let content_type = folded_type(&guest_siblings(&set), &value);
                        (value, content_type)
                    }
                };
                return Response::Value(ValueResponse {
                    value,
                    content_type,
                    context: set.context().clone(),
                    siblings,
                    hash: set.hash(),
                    folded_by,
                });
            }
            GuestReply::Unresolved => "the reconciler declines to decide".to_owned(),
            GuestReply::Missing => {
                "the reconciler's module has not arrived on this node yet".to_owned()
            }
            GuestReply::Failed(reason) | GuestReply::BadOperation(reason) => reason,
            GuestReply::Overloaded => "too many folds wait on this node".to_owned(),
            GuestReply::Quarantined(reason) => {
                format!("the reconciler is quarantined on this node: {reason}")
            }
        };
        Response::Siblings {
            set,
            reason: Some(reason),
            raw: false,
        }
    }
}
