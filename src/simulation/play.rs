//! How events come about: what becomes of a node's effects, and what of it is
//! noted for the checks.

use super::network::{Fate, Frame};
use super::{Event, World};
use crate::protocol::effect::{Address, Effect, GuestCost, Input};
use crate::protocol::id::NodeId;
use crate::protocol::message::Message;
use crate::store::Store;
use crate::transport::codec;

/// How long a message takes at most, however slow everything is: after the faults
/// are over, nothing is on its way for longer than a run waits.
const DELAY_MAX_MS: u64 = 1_900;
/// How long after it was sent a message may be repeated.
const REPEATED_WITHIN_MS: u64 = 50;

/// When and how a process will end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doom {
    pub after_events: u64,
    pub silent: bool,
    /// Whether its store is being written at that moment.
    pub torn: bool,
}

impl Event {
    fn node(&self) -> usize {
        match self {
            Event::Deliver(frame) => frame.to,
            Event::Tick { node, .. }
            | Event::Undelivered { node, .. }
            | Event::Disconnected { node, .. }
            | Event::Commit { node, .. }
            | Event::ReadNow { node, .. }
            | Event::Stored { node, .. }
            | Event::Guest { node, .. }
            | Event::Kept { node, .. } => *node,
        }
    }

    fn life(&self) -> u64 {
        match self {
            Event::Deliver(frame) => frame.life,
            Event::Tick { life, .. }
            | Event::Undelivered { life, .. }
            | Event::Disconnected { life, .. }
            | Event::Commit { life, .. }
            | Event::ReadNow { life, .. }
            | Event::Stored { life, .. }
            | Event::Guest { life, .. }
            | Event::Kept { life, .. } => *life,
        }
    }
}

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        let sim = &mut self.nodes[event.node()];
        if sim.life != event.life() || sim.machine.is_none() {
            return;
        }
        if let Some(held) = &mut sim.paused {
            held.push(event);
            return;
        }
        if let Some(doom) = &mut sim.doomed {
            doom.after_events = doom.after_events.saturating_sub(1);
        }
        self.happened += 1;
        match event {
            Event::Tick { node, life } => {
                self.bury(node);
                let in_ms = self.settings.tick_ms * self.slowness(node).min(4);
                self.plan(in_ms, Event::Tick { node, life });
                self.step(node, Input::Tick);
                self.observe(node);
            }
            Event::Deliver(frame) => self.deliver(&frame),
            Event::Undelivered {
                node, to, message, ..
            } => {
                let input = Input::Undelivered {
                    to,
                    message: *message,
                    overloaded: false,
                };
                self.step(node, input);
            }
            Event::Disconnected { node, peer, .. } => {
                self.step(node, Input::Disconnected { peer });
            }
            Event::Commit { node, .. } => self.commit(node),
            Event::ReadNow {
                node, job, request, ..
            } => self.read(node, job, *request),
            Event::Stored {
                node, job, reply, ..
            } => {
                let reply = *reply;
                self.step(node, Input::Stored { job, reply });
            }
            Event::Guest {
                node,
                life,
                job,
                reply,
            } => {
                let cost = GuestCost::default();
                if let Some(ledger) = &mut self.scene.ledger {
                    ledger.decide(node, life, job);
                }
                self.step(node, Input::Guest { job, reply, cost });
                if let Some(ledger) = &mut self.scene.ledger {
                    ledger.decided();
                }
            }
            Event::Kept { node, digest, .. } => self.keep_module(node, digest),
        }
    }

    fn deliver(&mut self, frame: &Frame) {
        let message = codec::decode_one(&frame.bytes)
            .expect("our own frame")
            .expect("whole");
        self.note(&frame.bytes);
        if let Some(tracer) = &mut self.tracer {
            let receiver = self.nodes[frame.to].identity.node;
            if let Some((item, text)) = tracer.describe(frame.sender, receiver, &message) {
                let (from, to) = (frame.from, frame.to);
                let text = format!("n{from} → n{to} {text}");
                tracer.tell(self.now_ms, Some(&item), text);
            }
        }
        let from = frame.sender;
        self.step(frame.to, Input::Peer { from, message });
    }

    /// One input for a node; if its time has come, its process ends in the midst
    /// of what the input led to.
    pub(super) fn step(&mut self, node: usize, input: Input) {
        let now = self.now(node);
        let Some(machine) = &mut self.nodes[node].machine else {
            return;
        };
        let mut effects = machine.step(now, input);
        let ends = match self.nodes[node].doomed {
            Some(doom) if doom.after_events == 0 => Some(doom),
            _ => None,
        };
        if ends.is_some() {
            let done = self.below(effects.len() as u64 + 1) as usize;
            effects.truncate(done);
        }
        self.carry_out(node, effects);
        if let Some(doom) = ends {
            if doom.torn {
                self.tear(node);
            }
            self.end(node, doom.silent);
        }
    }

    pub(super) fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send {
                    to,
                    address,
                    message,
                } => self.send(node, to, &address, message),
                Effect::Contact { address, message } => {
                    self.send(node, NodeId::NOBODY, &address, message);
                }
                Effect::Store { job, request } => self.ask_store(node, job, request),
                Effect::Guest { job, request } => self.run_guest(node, job, &request),
                Effect::Respond { request, response } => {
                    self.note(&request.0.to_be_bytes());
                    if let Some(tracer) = &mut self.tracer
                        && let Some(item) = tracer.item_of_request(request)
                    {
                        let text =
                            format!("n{node} answers: {}", super::trace::response(&response));
                        tracer.tell(self.now_ms, Some(&item), text);
                    }
                    let twice = self.responses.insert(request, response).is_some();
                    assert!(!twice, "a request was answered twice");
                }
                Effect::RenewIncarnation { incarnation } => {
                    let store = &self.nodes[node].disk.store;
                    store
                        .renew_incarnation(incarnation)
                        .expect("memory does not fail");
                }
                Effect::ServeModule {
                    to,
                    address,
                    digest,
                } => self.serve_module(node, to, &address, digest),
                Effect::KeepModule { digest, .. } => self.plan_keeping(node, digest),
                Effect::Published { request, outcome } => {
                    let twice = self.outcomes.insert(request, outcome).is_some();
                    assert!(!twice, "an operator was answered twice");
                }
                // Nobody looks through a table here.
                Effect::ForgetModule { .. }
                | Effect::Surveyed { .. }
                | Effect::CatalogChanged
                | Effect::MembersChanged
                | Effect::Fault { .. } => {}
            }
        }
    }

    pub(super) fn send(&mut self, from: usize, to: NodeId, at: &Address, message: Message) {
        let target = self.by_address.get(at).copied();
        let delay_max_ms = self.network.delay_max_ms;
        let delay_max_ms = delay_max_ms.unwrap_or(self.settings.delay_max_ms);
        let in_ms = ((1 + self.below(delay_max_ms)) * self.slowness(from)).min(DELAY_MAX_MS);
        let Some(target) = target else { return };
        let is_cut = self.network.is_broken(from, target);
        if !self.is_up(target) {
            let silent = self.nodes[target].end.is_some_and(|end| end.silent);
            if !silent && !is_cut {
                // The connection is refused.
                let life = self.nodes[from].life;
                let message = Box::new(message);
                self.plan(
                    in_ms,
                    Event::Undelivered {
                        node: from,
                        life,
                        to,
                        message,
                    },
                );
            }
            return;
        }
        if self.below(100) < self.settings.loss + self.network.extra_loss {
            return;
        }
        let mut bytes = bytes::BytesMut::new();
        codec::encode(&message, &mut bytes).expect("messages of a simulation are small");
        let frame = Frame {
            from,
            sender: self.nodes[from].identity.node,
            to: target,
            life: self.nodes[target].life,
            bytes: bytes.to_vec(),
        };
        let in_ms = (in_ms * self.slowness(target)).min(DELAY_MAX_MS);
        match self.network.fate(frame) {
            Fate::Goes(frame) => {
                let duplication = self.settings.duplication + self.network.extra_duplication;
                if self.below(100) < duplication {
                    let again_ms = in_ms + self.below(REPEATED_WITHIN_MS);
                    self.plan(again_ms, Event::Deliver(frame.clone()));
                }
                self.plan(in_ms, Event::Deliver(frame));
            }
            Fate::Kept | Fate::Lost => {}
        }
    }

    /// What a clogged link kept goes on its way, in its order.
    pub(super) fn release(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            self.plan(1, Event::Deliver(frame));
        }
    }

    /// Whoever is connected to a process that was killed is told by the system.
    pub(super) fn break_connections(&mut self, gone: usize) {
        let peer = self.nodes[gone].identity.node;
        for node in 0..self.nodes.len() {
            if node == gone || !self.is_up(node) || self.network.is_broken(gone, node) {
                continue;
            }
            let in_ms = 1 + self.below(self.settings.delay_max_ms);
            let life = self.nodes[node].life;
            self.plan(in_ms, Event::Disconnected { node, life, peer });
        }
    }
}
