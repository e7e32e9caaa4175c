//! What a node does without being asked: gossip, probes, hint delivery, fetching
//! modules, and firing timers.

use std::sync::Arc;

use super::super::detector::Liveness;
use super::super::effect::{Effect, Hint, StoreError, StoreReply, StoreRequest};
use super::super::hint::{Delivered, HINT_BATCH, HINT_INTERVAL_MS};
use super::super::id::NodeId;
use super::super::membership::{Gossip, Persisted};
use super::super::message::{Message, MessageId};
use super::super::ring::Ring;
use super::super::sabotage::{Variant, broken};
use super::{AwaitedOf, Job, Machine};

/// How long a node waits before it asks another one for a module.
const MODULE_RETRY_MS: u64 = 1_000;

/// The name of the record under which a store keeps what gossip knows.
pub const MEMBERSHIP_RECORD: &str = "membership";
/// The version of that record's bytes; every version ever written stays readable.
const RECORD_VERSION: u8 = 1;

impl Machine {
    pub(super) fn tick(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let gossip = self
            .membership
            .tick(now_ms, self.now.wall_us, &mut self.dice);
        self.on_gossip(gossip);
        self.notice_liveness();
        for node in self.membership.detector_mut().due_probes(now_ms) {
            let id = MessageId(self.next_id());
            self.send(node, Message::Probe { id });
        }
        if now_ms >= self.hints_looked_ms + HINT_INTERVAL_MS {
            self.hints_looked_ms = now_ms;
            let is_asked = || self.jobs.values().any(|job| matches!(job, Job::HintCount));
            if !self.hints_counted && !is_asked() {
                self.store(Job::HintCount, StoreRequest::CountHints);
            }
            self.deliver_hints();
            self.fetch_modules();
        }
        self.finish_hints();
        while let Some(&(due_ms, slot)) = self.timers.first() {
            if due_ms > now_ms {
                break;
            }
            self.timers.pop_first();
            self.on_timer(slot);
        }
    }

    pub(super) fn on_gossip(&mut self, gossip: Vec<Gossip>) {
        for event in gossip {
            match event {
                Gossip::Send {
                    to,
                    address,
                    message,
                } => {
                    self.out.push(Effect::Send {
                        to,
                        address,
                        message,
                    });
                }
                Gossip::Contact { address, message } => {
                    self.out.push(Effect::Contact { address, message });
                }
                Gossip::Persist { revision } => self.persist(revision),
                Gossip::LayoutChanged => self.on_layout_changed(),
                Gossip::CatalogChanged => self.on_catalog_changed(),
                Gossip::MembersChanged => self.out.push(Effect::MembersChanged),
                Gossip::RenewIncarnation => {
                    // Peers remember deeds of ours that we do not: nothing that
                    // was minted before may be gone on with.
                    self.incarnation = (self.dice)();
                    self.out.push(Effect::RenewIncarnation {
                        incarnation: self.incarnation,
                    });
                }
                Gossip::Fault(fault) => self.out.push(Effect::Fault {
                    text: fault.to_string(),
                }),
            }
        }
    }

    /// What a restart needs, as the store keeps it.
    pub(super) fn persist(&mut self, revision: u64) {
        let bytes = self.record();
        let request = StoreRequest::PutMeta {
            name: MEMBERSHIP_RECORD,
            bytes: bytes.into(),
        };
        self.store(Job::Persist { revision }, request);
    }

    /// The bytes of the membership record: its version, then what is persisted.
    pub fn record(&self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION];
        bytes.extend(
            postcard::to_stdvec(&self.membership.persisted()).expect("it encodes into memory"),
        );
        bytes
    }

    /// Reads a membership record; none when the bytes are not one.
    pub fn read_record(bytes: &[u8]) -> Option<Persisted> {
        let (&RECORD_VERSION, rest) = bytes.split_first()? else {
            return None;
        };
        postcard::from_bytes(rest).ok()
    }

    /// Acts on peers that came up.
    pub(super) fn notice_liveness(&mut self) {
        for event in self.membership.detector_mut().events() {
            if let Liveness::CameUp(node) = event {
                self.hints.on_up(node);
            }
        }
    }

    pub(super) fn on_layout_changed(&mut self) {
        self.ring = self
            .membership
            .layout()
            .map(|layout| Arc::new(Ring::new(Arc::new(layout.clone()))));
    }

    pub(super) fn on_catalog_changed(&mut self) {
        let tables = self.membership.catalog().resolve();
        self.tables_by_id = tables
            .values()
            .map(|table| (table.id, table.clone()))
            .collect();
        self.tables = Arc::new(tables);
        self.out.push(Effect::CatalogChanged);
        self.fetch_modules();
    }

    /// Asks a random live peer for each module that is lacking.
    pub(super) fn fetch_modules(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let lacking: Vec<_> = self
            .membership
            .catalog()
            .digests()
            .into_iter()
            .filter(|digest| !self.modules_held.contains(digest))
            .collect();
        self.modules_asked_ms
            .retain(|digest, _| lacking.contains(digest));
        let peers: Vec<NodeId> = self
            .membership
            .members()
            .map(|member| member.node)
            .filter(|node| *node != self.me && self.is_up(*node))
            .collect();
        if peers.is_empty() {
            return;
        }
        for digest in lacking {
            let asked_ms = self.modules_asked_ms.get(&digest).copied();
            if asked_ms.is_none_or(|asked_ms| now_ms >= asked_ms + MODULE_RETRY_MS) {
                self.modules_asked_ms.insert(digest, now_ms);
                let peer = peers[((self.dice)() % peers.len() as u64) as usize];
                self.send(peer, Message::FetchModule { digest });
            }
        }
    }

    /// Loads the next batch of hints for every target that is up.
    pub(super) fn deliver_hints(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let membership = &self.membership;
        let due = self.hints.due(now_ms, |node| {
            membership.is_up(node) && membership.address(node).is_some()
        });
        for target in due {
            self.store(
                Job::HintBatch(target),
                StoreRequest::Hints {
                    target,
                    limit: HINT_BATCH,
                },
            );
        }
    }

    pub(super) fn on_hints_loaded(
        &mut self,
        target: NodeId,
        reply: Result<StoreReply, StoreError>,
    ) {
        let hints = match reply {
            Ok(StoreReply::Hints(hints)) => hints,
            Ok(other) => unreachable!("hints were asked for, not {other:?}"),
            Err(_) => {
                self.hints.on_failed(target, None);
                return;
            }
        };
        let gone = self.hints.on_loaded(target, &hints);
        self.drop_hints(gone);
        for Hint {
            id: hint,
            partition,
            key,
            row,
        } in hints
        {
            let Some(row) = row else { continue };
            let delivered = Delivered {
                id: hint,
                partition,
                key: key.clone(),
                hash: Some(row.set.hash()),
            };
            if broken(Variant::HintDroppedEarly) {
                self.drop_hints(vec![delivered.clone()]);
            }
            self.ask(target, AwaitedOf::Hint(delivered), |id| Message::Write {
                id,
                partition,
                key,
                set: row.set,
                hint_for: None,
            });
        }
        self.finish_hints();
    }

    /// Forgets what was delivered; the next batch follows when that is done.
    pub(super) fn finish_hints(&mut self) {
        for (_, delivered) in self.hints.take_done(self.now.monotonic_ms) {
            self.drop_hints(delivered);
        }
    }

    /// Forgets hints; where this node is no primary of the item, its row goes
    /// with the last one.
    fn drop_hints(&mut self, delivered: Vec<Delivered>) {
        if delivered.is_empty() {
            return;
        }
        let hints = delivered
            .into_iter()
            .map(
                |Delivered {
                     id,
                     partition,
                     key,
                     hash,
                 }| {
                    let n = self
                        .tables_by_id
                        .get(&key.table())
                        .map(|table| table.definition.n as usize);
                    let stray = match (n, &self.ring) {
                        (Some(n), Some(ring)) => !ring.primaries(partition, n).contains(&self.me),
                        // Of a table or ring that is not known nothing is thrown away.
                        _ => false,
                    };
                    (id, partition, key, hash.filter(|_| stray))
                },
            )
            .collect();
        self.store(Job::HintDrop, StoreRequest::DropHints { hints });
    }
}
