//! Writes: minted and stored at their coordinator, folded where siblings would be
//! too many, and brought to the other replicas by the real [`Put`].

use bytes::Bytes;

use super::ghost::Known;
use super::node::{NODES, PARTITION, PRIMARIES, Packet, id, index, key, limits};
use super::state::{Because, Folding, Message, Slot, State};
use super::{Broken, Model};
use crate::protocol::context::Context;
use crate::protocol::dot::{Actor, Dot};
use crate::protocol::effect::StoreRequest;
use crate::protocol::id::NodeId;
use crate::protocol::put::{Put, PutAction};
use crate::protocol::replica::{Draft, Mutation, Outcome, Written, plan_fold, plan_write};
use crate::protocol::siblings::SiblingSet;

/// Acknowledgements that a write needs.
const W: usize = 2;

impl Model {
    pub(super) fn write(
        &self,
        state: &mut State,
        session: Option<usize>,
        at: usize,
        deletes: bool,
        down: &[usize],
    ) {
        let held = session
            .map(|session| state.sessions[session].clone())
            .unwrap_or_default();
        let draft = Draft {
            client: held.token.clone(),
            value: (!deletes).then(|| Bytes::from_static(b"v")),
            content_type: "".into(),
        };
        let primaries: Vec<NodeId> = (0..PRIMARIES).map(id).collect();
        let fallbacks = (PRIMARIES..NODES).map(id);
        let is_up = |node: NodeId| !down.contains(&index(node));
        let (put, hints_here) = Put::new(&[primaries], fallbacks, W, false, id(at), is_up);
        let minting = state.nodes[at].minting(at, self.fresh_epoch(state, at));
        // A broken mint that the node itself could see is found here: the sibling
        // sets of a debug build would not bear it.
        let first = Dot {
            actor: Actor {
                node: id(at),
                epoch: minting.fresh_epoch,
            },
            counter: 1,
        };
        let remembers = state.nodes[at]
            .row
            .as_ref()
            .is_some_and(|row| row.minted.is_some());
        let seen = |context: &Context| context.covers(first);
        if !remembers && (seen(state.nodes[at].set().context()) || seen(&held.token)) {
            state.ghost.minted_twice = true;
            return;
        }
        let fold_above = self.bounds.folds.then_some(1);
        let mutation = Mutation::Write {
            draft: draft.clone(),
            minting,
            limits: limits(fold_above),
        };
        match state.nodes[at].update(mutation, hints_here.clone()) {
            Outcome::Written(written) => {
                state.drawn(at, &written);
                let write = state.ghost.note(written.dot, held.known, deletes);
                let carries = held.known.with(write);
                state.nodes[at].known.add(carries);
                let delta = Packet::new(self.shipped(&held.token, &written));
                self.tell(state, session, at, &written, carries);
                let slot = Slot {
                    at,
                    put,
                    delta,
                    write,
                    acks: Known::default().with(write),
                    carries,
                    hedged: false,
                };
                self.replicate(state, slot);
            }
            Outcome::WantsFold(base) => {
                let fold = Folding {
                    at,
                    base,
                    draft,
                    covers: held.known,
                    session,
                    put,
                    hints_here,
                    planned: None,
                };
                self.plan(state, fold);
            }
            other => unreachable!("a write without limits gave {other:?}"),
        }
    }

    fn fresh_epoch(&self, state: &State, at: usize) -> u64 {
        let node = &state.nodes[at];
        let forgot = node.row.as_ref().is_none_or(|row| row.minted.is_none());
        if self.is(Broken::ReusedEpoch) && forgot {
            return 1;
        }
        node.draws + 1
    }

    /// The delta as it is sent.
    fn shipped(&self, client: &Context, written: &Written) -> SiblingSet {
        if !self.is(Broken::VectorCoversCloud) {
            return written.delta.clone();
        }
        let mut wide = client.clone();
        for (actor, seen) in written.delta.context().iter() {
            for counter in 1..=seen.highest() {
                let dot = Dot { actor, counter };
                if dot != written.dot {
                    wide.add(dot, seen.newest_us);
                }
            }
        }
        let (dot, version) = written
            .delta
            .siblings()
            .next()
            .expect("a delta has its write");
        SiblingSet::delta(&wide, dot, version.clone())
    }

    /// The writer's token covers what it had seen and its write.
    fn tell(
        &self,
        state: &mut State,
        session: Option<usize>,
        at: usize,
        written: &Written,
        known: Known,
    ) {
        let Some(session) = session else { return };
        let seen = state.nodes[at].held.clone();
        let held = &mut state.sessions[session];
        held.token.join(written.delta.context());
        held.known.add(known);
        if self.is(Broken::TokenCoversUnseen) {
            held.token.join(seen.set.context());
        }
    }

    fn plan(&self, state: &mut State, mut fold: Folding) {
        let minting = state.nodes[fold.at].minting(fold.at, self.fresh_epoch(state, fold.at));
        let (planned, written) = plan_write(fold.base.clone(), &fold.draft, &minting);
        let folded = Some(Bytes::from_static(b"f"));
        let (row, dot) = plan_fold(planned, folded, "".into(), &minting, usize::MAX);
        state.drawn(fold.at, &written);
        fold.planned = Some((row, written, dot));
        state.folds.push(fold);
    }

    pub(super) fn finish_fold(&self, state: &mut State, place: usize) {
        let mut fold = state.folds.remove(place);
        let at = fold.at;
        let (row, written, dot) = fold
            .planned
            .take()
            .expect("a fold is planned when it is kept");
        let expected = fold.base.set.hash();
        let swap = Mutation::Replace {
            expected,
            row: row.clone(),
        };
        match state.nodes[at].update(swap, fold.hints_here.clone()) {
            Outcome::Replaced => {
                let deletes = fold.draft.value.is_none();
                let seen = state.nodes[at].known;
                let write = state.ghost.note(written.dot, fold.covers, deletes);
                let carries = fold.covers.with(write);
                self.tell(state, fold.session, at, &written, carries);
                let known = Known(seen.0 | carries.0);
                let stored = state.ghost.note(dot, known, false);
                state.nodes[at].known = known.with(stored);
                let slot = Slot {
                    at,
                    put: fold.put,
                    delta: Packet::new(row.set),
                    write,
                    acks: Known::default().with(write).with(stored),
                    carries: known.with(stored),
                    hedged: false,
                };
                self.replicate(state, slot);
            }
            Outcome::Conflict(row) => {
                fold.base = row;
                self.plan(state, fold);
            }
            other => unreachable!("a swap gave {other:?}"),
        }
    }

    fn replicate(&self, state: &mut State, slot: Slot) {
        let write = slot.write;
        state.puts.push(slot);
        self.with_put(state, write, Put::on_stored);
    }

    pub(super) fn with_put(
        &self,
        state: &mut State,
        write: usize,
        step: impl FnOnce(&mut Put) -> Vec<PutAction>,
    ) {
        let Some(place) = state.slot(write) else {
            return;
        };
        let slot = &mut state.puts[place];
        for action in step(&mut slot.put) {
            match action {
                PutAction::Store { node, hint_for } => state.network.push(Message::Store {
                    from: slot.at,
                    to: index(node),
                    set: slot.delta.clone(),
                    carries: slot.carries,
                    hint_for,
                    because: Because::Write(write),
                }),
                // As the machine does: the write goes with the hint.
                PutAction::HintHere { primary } if !self.is(Broken::HintWithoutWrite) => {
                    let node = &mut state.nodes[slot.at];
                    let sync = Mutation::Sync {
                        set: slot.delta.set.clone(),
                        max_actors: usize::MAX,
                    };
                    node.update(sync, vec![primary]);
                    node.known.add(slot.carries);
                }
                PutAction::HintHere { primary } => {
                    state.nodes[slot.at].ask(StoreRequest::AddHints {
                        partition: PARTITION,
                        key: key(),
                        hints: vec![primary],
                    });
                }
                PutAction::Answer => {
                    for (place, write) in state.ghost.writes.iter_mut().enumerate() {
                        write.acked |= slot.acks.has(place);
                    }
                }
                PutAction::Unmet { .. } => {}
            }
        }
        if slot.put.is_finished() {
            state.puts.remove(place);
        }
    }
}

impl State {
    /// The dice were thrown, if the dot is of the epoch that they gave.
    fn drawn(&mut self, at: usize, written: &Written) {
        let node = &mut self.nodes[at];
        node.draws += u64::from(written.dot.actor.epoch.0 == node.draws + 1);
    }
}
