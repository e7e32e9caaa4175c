//! What may happen in a state, and what comes of it.
//!
//! Promises: an action changes nodes only through their stores and the write
//! machines; wherever a rule of the protocol is left out on purpose the code
//! names the [`Broken`] variant. An action that would put more into the network
//! than the bounds allow does not happen.

use std::sync::OnceLock;

use super::node::{FALLBACK, NODES, PARTITION, PRIMARIES, id, key};
use super::reaping::Reaping;
use super::state::{Action, Because, Message, State};
use super::{Broken, Crash, Model};
use crate::protocol::effect::{HintId, StoreRequest};
use crate::protocol::put::Put;
use crate::protocol::replica::Mutation;
use crate::protocol::siblings::{SiblingSet, StateHash};

impl Model {
    /// Everything that may happen next.
    pub(super) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        self.of_clients(state, actions);
        actions.extend((0..state.folds.len()).map(Action::FinishFold));
        self.of_network(state, actions);
        for (place, slot) in state.puts.iter().enumerate() {
            if self.bounds.give_ups {
                actions.push(Action::GiveUp(place));
            }
            if self.bounds.hedges && !slot.hedged {
                actions.push(Action::Hedge(place));
            }
        }
        for from in 0..NODES {
            for to in (0..PRIMARIES).filter(|to| *to != from) {
                if state.nodes[from].hints.contains(&id(to)) && !is_hint_sent(state, from, to) {
                    actions.push(Action::SendHint { from, to });
                }
                let news = !state.nodes[from].set().is_empty()
                    && state.nodes[from].known != state.nodes[to].known;
                if from < PRIMARIES && state.exchanges_left > 0 && news {
                    actions.push(Action::Exchange { from, to });
                }
            }
        }
        self.of_fate(state, actions);
        for at in (0..PRIMARIES).filter(|at| self.may_begin_reap(state, *at)) {
            let orders = self.bounds.reap_orders.iter();
            actions.extend(orders.map(|&order| Action::BeginReap { at, order }));
        }
        if self.may_say_yes(state) {
            actions.push(Action::AskForReap);
        }
        if self.may_agree(state) {
            actions.push(Action::AgreeOnReap);
        }
    }

    fn of_clients(&self, state: &State, actions: &mut Vec<Action>) {
        if state.writes_left == 0 {
            return;
        }
        for (session, held) in state.sessions.iter().enumerate() {
            for (at, node) in state.nodes.iter().enumerate() {
                if self.bounds.reads && node.known != held.known && node.row.is_some() {
                    actions.push(Action::Read { session, at });
                }
            }
        }
        if state.puts.len() + state.folds.len() >= self.bounds.puts {
            return;
        }
        for &at in self.bounds.coordinators {
            for &down in self.bounds.down.iter().filter(|down| !down.contains(&at)) {
                // A fallback coordinates when a primary seems down.
                if at == FALLBACK && down.is_empty() {
                    continue;
                }
                let write = |session, delete| Action::Write {
                    session,
                    at,
                    delete,
                    down,
                };
                if self.bounds.blind {
                    actions.push(write(None, false));
                }
                for (session, held) in state.sessions.iter().enumerate() {
                    actions.push(write(Some(session), false));
                    if !held.token.is_empty() {
                        actions.push(write(Some(session), true));
                    }
                }
            }
        }
    }

    fn of_network(&self, state: &State, actions: &mut Vec<Action>) {
        for (message, sent) in state.network.iter().enumerate() {
            let deliver = |acked, stays| Action::Deliver {
                message,
                acked,
                stays,
            };
            actions.push(deliver(true, false));
            match sent {
                Message::Store { because, .. } => {
                    if self.bounds.lost_acks
                        && matches!(because, Because::Write(write) if state.slot(*write).is_some())
                    {
                        actions.push(deliver(false, false));
                    }
                    if state.repeats_left > 0 {
                        actions.push(deliver(true, true));
                    }
                    if state.losses_left > 0 {
                        actions.push(Action::Lose(message));
                    }
                }
                Message::HintAck { .. } if state.losses_left > 0 => {
                    actions.push(Action::Lose(message));
                }
                Message::HintAck { .. } | Message::Reap { .. } => {}
            }
        }
    }

    fn of_fate(&self, state: &State, actions: &mut Vec<Action>) {
        if state.crashes_left == 0 {
            return;
        }
        let past_reap = state.reaping.is_some() || state.ghost.writes.iter().any(|w| w.reaped);
        for &kind in self.bounds.crash_kinds {
            match (kind, &state.backup) {
                (Crash::Restore, None) => {
                    let holding = |at: &usize| state.nodes[*at].row.is_some();
                    actions.extend((0..NODES).filter(holding).map(Action::Copy));
                }
                (Crash::Restore, Some((at, _))) => {
                    if !past_reap || self.is(Broken::RestorePastReap) {
                        actions.push(Action::Crash(kind, *at));
                    }
                }
                (Crash::Wipe | Crash::Restart, _) => {
                    let holding = |at: &usize| state.nodes[*at].row.is_some();
                    let nodes = (0..NODES).filter(holding);
                    actions.extend(nodes.map(|at| Action::Crash(kind, at)));
                }
            }
        }
    }

    /// What the action makes of the state; none if nothing, or too much.
    pub(super) fn take(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        state.verdict = OnceLock::new();
        match action {
            Action::Read { session, at } => {
                let node = &state.nodes[at];
                state.sessions[session].token = node.set().context().clone();
                state.sessions[session].known = node.known;
            }
            Action::Write {
                session,
                at,
                delete,
                down,
            } => {
                state.writes_left -= 1;
                self.write(&mut state, session, at, delete, down);
            }
            Action::FinishFold(place) => self.finish_fold(&mut state, place),
            Action::Deliver {
                message,
                acked,
                stays,
            } => {
                let sent = if stays {
                    state.repeats_left -= 1;
                    state.network[message].clone()
                } else {
                    state.network.remove(message)
                };
                self.deliver(&mut state, sent, acked);
            }
            Action::Lose(message) => {
                state.losses_left -= 1;
                if let Message::Store {
                    to,
                    because: Because::Write(write),
                    ..
                } = state.network.remove(message)
                {
                    self.with_put(&mut state, write, |put| put.on_failure(id(to)));
                }
            }
            Action::Hedge(place) => {
                state.puts[place].hedged = true;
                let write = state.puts[place].write;
                self.with_put(&mut state, write, Put::on_hedge);
            }
            Action::GiveUp(place) => {
                let write = state.puts[place].write;
                self.with_put(&mut state, write, Put::on_timeout);
            }
            Action::SendHint { from, to } => self.send_hint(&mut state, from, to),
            Action::Exchange { from, to } => {
                state.exchanges_left -= 1;
                let because = Because::Exchange;
                state.send_state(from, to, because);
            }
            Action::Crash(kind, at) => self.crash(&mut state, kind, at),
            Action::Copy(at) => state.backup = Some((at, state.nodes[at].clone())),
            Action::BeginReap { at, order } => {
                state.reaps_left -= 1;
                state.reaping = Some(Reaping {
                    order,
                    expected: state.nodes[at].held.hash,
                    known: state.nodes[at].known,
                    said: Default::default(),
                });
            }
            Action::AskForReap => state.reaping.as_mut()?.said += 1,
            Action::AgreeOnReap => self.agree(&mut state)?,
        }
        let counts = |message: &&Message| !matches!(message, Message::Reap { .. });
        let in_flight = state.network.iter().filter(counts).count();
        (in_flight <= self.bounds.in_flight).then_some(state)
    }

    // The network.

    fn deliver(&self, state: &mut State, message: Message, acked: bool) {
        match message {
            Message::Store {
                from,
                to,
                set,
                carries,
                hint_for,
                because,
            } => {
                let set = self.received(state, to, &set.set);
                let hints = hint_for.filter(|primary| *primary != id(to));
                let sync = Mutation::Sync {
                    set,
                    max_actors: usize::MAX,
                };
                state.nodes[to].update(sync, hints.into_iter().collect());
                state.nodes[to].known.add(carries);
                match because {
                    Because::Write(write) if acked => {
                        self.with_put(state, write, |put| put.on_ack(id(to)));
                    }
                    Because::Hint(hint, delivered) => {
                        state.network.push(Message::HintAck {
                            from: to,
                            to: from,
                            hint,
                            delivered,
                        });
                    }
                    Because::Write(_) | Because::Exchange => {}
                }
            }
            Message::HintAck {
                from,
                to,
                hint,
                delivered,
            } => self.drop_hint(state, (to, from), hint, delivered),
            Message::Reap { to, expected } => {
                let held = state.nodes[to].held.hash;
                let expected = if self.is(Broken::ReapUncompared) {
                    held
                } else {
                    expected
                };
                let before = state.nodes[to].row.is_some();
                state.nodes[to].drop_row(expected);
                state.reaped_rows += u32::from(before && state.nodes[to].row.is_none());
            }
        }
    }

    /// What the receiver takes the state or delta for.
    fn received(&self, state: &State, to: usize, set: &SiblingSet) -> SiblingSet {
        let held = state.nodes[to].set();
        let (mut siblings, one) = (set.siblings(), set.len() == 1);
        match siblings.next() {
            Some((dot, version))
                if one && self.is(Broken::SyncDropsUnseen) && !held.context().covers(dot) =>
            {
                let mut wide = set.context().clone();
                wide.join(held.context());
                SiblingSet::delta(&wide, dot, version.clone())
            }
            _ => set.clone(),
        }
    }

    fn send_hint(&self, state: &mut State, from: usize, to: usize) {
        let Some(hint) = state.nodes[from].hint_for(id(to)) else {
            return;
        };
        let Some(row) = hint.row else {
            // The item is gone and with it the reason for the hint.
            let gone = vec![(hint.id, PARTITION, key(), None)];
            state.nodes[from].ask(StoreRequest::DropHints { hints: gone });
            return;
        };
        let delivered = row.set.hash();
        state.send_state(from, to, Because::Hint(hint.id, delivered));
        if self.is(Broken::HintDroppedBeforeAck) {
            self.drop_hint(state, (from, to), hint.id, delivered);
        }
    }

    /// The hint that `at` held for `target` was delivered with this state.
    fn drop_hint(
        &self,
        state: &mut State,
        (at, target): (usize, usize),
        hint: HintId,
        delivered: StateHash,
    ) {
        let node = &mut state.nodes[at];
        let (hint, delivered) = if self.is(Broken::HintDroppedByTarget) {
            let renewed = node.hint_for(id(target));
            (renewed.map_or(hint, |hint| hint.id), node.held.hash)
        } else {
            (hint, delivered)
        };
        let then_drop = (at == FALLBACK).then_some(delivered);
        let hints = vec![(hint, PARTITION, key(), then_drop)];
        node.ask(StoreRequest::DropHints { hints });
    }

    // Fate.

    fn crash(&self, state: &mut State, kind: Crash, at: usize) {
        state.crashes_left -= 1;
        state.crashed = true;
        state.puts.retain(|slot| slot.at != at);
        state.folds.retain(|fold| fold.at != at);
        // Whoever lives again knows nothing of what it had asked.
        state
            .network
            .retain(|message| !matches!(message, Message::HintAck { to, .. } if *to == at));
        for message in &mut state.network {
            if let Message::Store { from, because, .. } = message
                && *from == at
                && matches!(because, Because::Hint(..))
            {
                *because = Because::Exchange;
            }
        }
        let node = &mut state.nodes[at];
        match kind {
            Crash::Restart => {}
            Crash::Wipe => {
                if self.is(Broken::WipedNodeGoesOn) {
                    node.draws = 0;
                }
                node.incarnation += 1;
                node.wipe();
            }
            Crash::Restore => {
                if !self.is(Broken::RestoredNodeGoesOn) {
                    node.incarnation += 1;
                }
                if let Some((_, backup)) = state.backup.take() {
                    node.restore(&backup);
                }
            }
        }
    }
}

fn is_hint_sent(state: &State, from: usize, to: usize) -> bool {
    state.network.iter().any(|message| {
        matches!(message, Message::Store { from: f, to: t, because: Because::Hint(..), .. } if (*f, *t) == (from, to))
    })
}

impl State {
    /// Where the machine of this write is, if it still has something to do.
    pub(super) fn slot(&self, write: usize) -> Option<usize> {
        self.puts.iter().position(|slot| slot.write == write)
    }

    /// Sends all that a node holds.
    fn send_state(&mut self, from: usize, to: usize, because: Because) {
        self.network.push(Message::Store {
            from,
            to,
            set: self.nodes[from].held.clone(),
            carries: self.nodes[from].known,
            hint_for: None,
            because,
        });
    }
}
