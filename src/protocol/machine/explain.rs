//! Reads that tell how their answer came about.
//!
//! An explained read is an ordinary one with a notebook: every replica is asked
//! for its whole state instead of a hash, what each said is noted, and so is what
//! the module did. Promises: what it tells is what a plain read at that moment
//! would have been told, and of whom; it changes nothing that a plain read would
//! not (read repair goes on as ever). Not promised: what replicas would have said
//! that were not needed for the answer; `r=all` waits for them.

use super::super::effect::{GuestCost, GuestReply};
use super::super::id::NodeId;
use super::super::message::{
    Explanation, FoldOutcome, FoldReport, ReadAnswer, Response, Saw, Witness,
};
use super::super::siblings::SiblingSet;
use super::{Machine, Slot, SlotId};

/// What is noted on the way.
#[derive(Debug, Default)]
pub(super) struct Notebook {
    witnesses: Vec<(NodeId, Saw)>,
    set: SiblingSet,
    fold: Option<FoldReport>,
}

/// How a module's work ended, in a word.
fn outcome(reply: &GuestReply) -> FoldOutcome {
    match reply {
        GuestReply::Done { value: Some(_), .. } => FoldOutcome::Done,
        GuestReply::Done { value: None, .. } => FoldOutcome::Deleted,
        GuestReply::Unresolved => FoldOutcome::Unresolved,
        GuestReply::Failed(_) | GuestReply::BadOperation(_) => FoldOutcome::Failed,
        GuestReply::Missing => FoldOutcome::Missing,
        GuestReply::Overloaded => FoldOutcome::Overloaded,
        GuestReply::Quarantined(_) => FoldOutcome::Quarantined,
    }
}

impl Slot {
    /// Whether a replica may answer with a hash.
    pub(super) fn takes_hashes(&self) -> bool {
        self.notebook.is_none()
    }

    /// A replica is being asked.
    pub(super) fn note_asked(&mut self, node: NodeId) {
        if let Some(notebook) = &mut self.notebook
            && notebook.witnesses.iter().all(|(known, _)| *known != node)
        {
            notebook.witnesses.push((node, Saw::Silent));
        }
    }

    fn note(&mut self, node: NodeId, saw: impl FnOnce() -> Saw) {
        if let Some(notebook) = &mut self.notebook
            && let Some((_, known)) = notebook
                .witnesses
                .iter_mut()
                .find(|(known, _)| *known == node)
        {
            *known = saw();
        }
    }

    fn note_answer(&mut self, node: NodeId, answer: &ReadAnswer) {
        self.note(node, || match answer {
            ReadAnswer::State(set) if set.is_empty() => Saw::Nothing,
            ReadAnswer::State(set) => Saw::State {
                hash: set.hash(),
                siblings: set.siblings().map(|(dot, _)| dot).collect(),
            },
            ReadAnswer::Hash { is_empty: true, .. } => Saw::Nothing,
            ReadAnswer::Hash { hash, .. } => Saw::State {
                hash: *hash,
                siblings: Vec::new(),
            },
        });
    }

    /// R replicas were joined to this.
    pub(super) fn note_read(&mut self, set: &SiblingSet) {
        if let Some(notebook) = &mut self.notebook {
            notebook.set = set.clone();
        }
    }

    /// The module is done.
    pub(super) fn note_fold(&mut self, reply: &GuestReply, cost: GuestCost) {
        if let Some(notebook) = &mut self.notebook {
            let outcome = outcome(reply);
            notebook.fold = Some(FoldReport { outcome, cost });
        }
    }
}

impl Machine {
    pub(super) fn note_answer(&mut self, id: SlotId, node: NodeId, answer: &ReadAnswer) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.note_answer(node, answer);
        }
    }

    pub(super) fn note_failure(&mut self, id: SlotId, node: NodeId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.note(node, || Saw::Failed);
        }
    }

    /// The answer, with its explanation where one was asked for.
    pub(super) fn explained(&mut self, id: SlotId, told: Response) -> Response {
        let ring = self.reading_ring.clone();
        let Some(slot) = self.slots.get_mut(&id) else {
            return told;
        };
        let Some(notebook) = slot.notebook.take() else {
            return told;
        };
        let n = slot.table.definition.n as usize;
        let partition = slot.item.partition;
        let is_primary = |node: NodeId| {
            let ring = ring.as_ref();
            ring.is_some_and(|ring| ring.primaries(partition, n).contains(&node))
        };
        let witness = |(node, saw)| Witness {
            node,
            primary: is_primary(node),
            saw,
        };
        let name = slot.table.definition.reconciler.clone();
        let digest = slot.table.module.as_ref().map(|module| module.digest);
        Response::Explained(Box::new(Explanation {
            told,
            set: notebook.set,
            witnesses: notebook.witnesses.into_iter().map(witness).collect(),
            module: name.zip(digest),
            fold: notebook.fold,
        }))
    }
}
