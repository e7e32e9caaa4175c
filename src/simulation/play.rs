//! How events come about: what a node's effects turn into, what the network and
//! the disk do with them, and what of it is noted for the checks.

use std::sync::{Arc, Mutex};

use sha2::Digest as _;

use super::{Event, RAW_TABLE, TICK_MS, UNION_TABLE, World, address};
use crate::protocol::catalog::{
    Catalog, Digest, Lawfulness, ModuleInfo, ModuleKind, TableDefinition,
};
use crate::protocol::effect::{Address, Effect, Input, StoreError, StoreReply, StoreRequest};
use crate::protocol::id::{ItemKey, NodeId, Partition};
use crate::protocol::message::Message;
use crate::protocol::siblings::SiblingSet;
use crate::reconcile::Guests;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::transport::codec;

/// The native reconciler answers to any digest; this one stands for it.
const NATIVE_DIGEST: Digest = Digest([0x6b; 32]);

impl World {
    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && self.is_up(node)
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => {
                if self.lives(node, life) {
                    self.plan(TICK_MS, Event::Tick { node, life });
                    self.step(node, Input::Tick);
                }
            }
            Event::Deliver { from, to, frame } => {
                let message = codec::decode_one(&frame)
                    .expect("our own frame")
                    .expect("whole");
                self.note(&frame);
                self.step(to, Input::Peer { from, message });
            }
            Event::Undelivered {
                node,
                life,
                to,
                message,
            } => {
                if self.lives(node, life) {
                    let input = Input::Undelivered {
                        to,
                        message: *message,
                        overloaded: false,
                    };
                    self.step(node, input);
                }
            }
            Event::Commit { node, life } => {
                if self.lives(node, life)
                    && let Some((job, request)) = self.nodes[node].disk.pop_front()
                {
                    let reply = self.commit(node, request);
                    // The answer takes its time too: a crash may come between.
                    let in_ms = self.below(2);
                    self.plan(
                        in_ms,
                        Event::Stored {
                            node,
                            life,
                            job,
                            reply,
                        },
                    );
                }
            }
            Event::Stored {
                node,
                life,
                job,
                reply,
            } => {
                if self.lives(node, life) {
                    self.step(node, Input::Stored { job, reply });
                }
            }
            Event::Guest {
                node,
                life,
                job,
                reply,
            } => {
                if self.lives(node, life) {
                    self.step(node, Input::Guest { job, reply });
                }
            }
        }
    }

    /// The store does what was asked, and every dot that comes of it is noted.
    fn commit(&mut self, node: usize, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let store = self.nodes[node].store.clone();
        let item = match &request {
            StoreRequest::Update { partition, key, .. } => Some((*partition, key.clone())),
            _ => None,
        };
        let before = item
            .as_ref()
            .map(|(partition, key)| row_of(&store, *partition, key));
        let reply = ask_now(&*store, request);
        if let Some((partition, key)) = item {
            let after = row_of(&store, partition, &key);
            if before.as_ref() != Some(&after) {
                self.row_writes += 1;
            }
            for (dot, version) in after.siblings() {
                let value = version.value.as_ref().map(|value| value.to_vec());
                let known = self.minted.entry(dot).or_insert_with(|| value.clone());
                if *known != value {
                    self.double_mints.push(dot);
                }
            }
        }
        reply
    }

    pub(super) fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        let life = self.nodes[node].life;
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
                Effect::Store { job, request } => {
                    self.nodes[node].disk.push_back((job, request));
                    let commit_max_ms = self.settings.commit_max_ms;
                    let in_ms = self.below(commit_max_ms + 1);
                    self.plan(in_ms, Event::Commit { node, life });
                }
                Effect::Guest { job, request } => {
                    let slot = Arc::new(Mutex::new(None));
                    let place = slot.clone();
                    self.guests.submit(
                        request,
                        Box::new(move |reply| *place.lock().expect("no panic") = Some(reply)),
                    );
                    let reply = slot
                        .lock()
                        .expect("no panic")
                        .take()
                        .expect("answered at once");
                    let in_ms = self.below(5);
                    self.plan(
                        in_ms,
                        Event::Guest {
                            node,
                            life,
                            job,
                            reply,
                        },
                    );
                }
                Effect::Respond { request, response } => {
                    self.note(&request.0.to_be_bytes());
                    let twice = self.responses.insert(request, response).is_some();
                    assert!(!twice, "a request was answered twice");
                }
                Effect::RenewIncarnation { incarnation } => {
                    let store = &self.nodes[node].store;
                    store
                        .renew_incarnation(incarnation)
                        .expect("memory does not fail");
                }
                Effect::ServeModule { .. }
                | Effect::KeepModule { .. }
                | Effect::CatalogChanged
                | Effect::MembersChanged
                | Effect::Fault { .. } => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: NodeId, at: &Address, message: Message) {
        let life = self.nodes[from].life;
        let target = (0..self.nodes.len()).find(|&node| address(node) == *at);
        let target = target.filter(|&node| self.is_up(node));
        let in_ms = 1 + self.below(self.settings.delay_max_ms);
        let Some(target) = target else {
            // The connection is refused.
            let message = Box::new(message);
            return self.plan(
                in_ms,
                Event::Undelivered {
                    node: from,
                    life,
                    to,
                    message,
                },
            );
        };
        if self.cut.contains(&(from, target)) || self.below(100) < self.settings.loss {
            return;
        }
        let mut frame = bytes::BytesMut::new();
        codec::encode(&message, &mut frame).expect("messages of a simulation are small");
        let sender = self.nodes[from].identity.node;
        if self.below(100) < self.settings.duplication {
            let again_ms = in_ms + self.below(50);
            let frame = frame.to_vec();
            self.plan(
                again_ms,
                Event::Deliver {
                    from: sender,
                    to: target,
                    frame,
                },
            );
        }
        let frame = frame.to_vec();
        self.plan(
            in_ms,
            Event::Deliver {
                from: sender,
                to: target,
                frame,
            },
        );
    }

    pub(super) fn note(&mut self, bytes: &[u8]) {
        self.trace.update(self.now_ms.to_be_bytes());
        self.trace.update(bytes);
    }

    /// A hash over every message and answer so far, in their order.
    pub fn trace_hash(&self) -> String {
        self.trace
            .clone()
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The tables of a simulated cluster.
pub(super) fn propose_tables(catalog: &mut Catalog) {
    let module = ModuleInfo {
        digest: NATIVE_DIGEST,
        size_bytes: 0,
        kind: ModuleKind::Reconciler,
        eager: false,
        summary: "union of lines".into(),
        version: "1".into(),
        lawfulness: Lawfulness::NoCounterexample { cases: 0 },
        built_in: true,
    };
    catalog.propose_reconciler("lines", module);
    catalog.propose_table(RAW_TABLE, TableDefinition::default());
    let union = TableDefinition {
        reconciler: Some("lines".into()),
        fold_above: Some(2),
        ..TableDefinition::default()
    };
    catalog.propose_table(UNION_TABLE, union);
}

pub(super) fn ask_now(store: &dyn Store, request: StoreRequest) -> Result<StoreReply, StoreError> {
    let slot = Arc::new(Mutex::new(None));
    let place = slot.clone();
    store.submit(
        request,
        Box::new(move |reply| *place.lock().expect("no panic") = Some(reply)),
    );
    slot.lock()
        .expect("no panic")
        .take()
        .expect("memory answers at once")
}

fn row_of(store: &MemoryStore, partition: Partition, key: &ItemKey) -> SiblingSet {
    match ask_now(
        store,
        StoreRequest::Read {
            partition,
            key: key.clone(),
        },
    ) {
        Ok(StoreReply::Row(row)) => row.map(|row| row.set).unwrap_or_default(),
        other => panic!("a read gave {other:?}"),
    }
}

pub(super) fn held_hints(store: &MemoryStore) -> Result<u64, StoreError> {
    match ask_now(store, StoreRequest::CountHints)? {
        StoreReply::HintCounts(counts) => Ok(counts.iter().map(|(_, count)| count).sum()),
        other => panic!("counting hints gave {other:?}"),
    }
}
