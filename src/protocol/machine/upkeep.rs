//! What a node does without being asked: gossip, probes, hint delivery, fetching
//! modules, and firing timers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::catalog::Digest;
use super::super::detector::Liveness;
use super::super::effect::{Effect, Hint, StoreError, StoreReply, StoreRequest};
use super::super::hint::{Delivered, HINT_BATCH, HINT_INTERVAL_MS};
use super::super::id::NodeId;
use super::super::layout::Layout;
use super::super::membership::{Gossip, Persisted, Status};
use super::super::message::{Message, MessageId};
use super::super::ring::Ring;
use super::super::sabotage::{Variant, broken};
use super::background::{Chore, Took};
use super::{AwaitedOf, Job, Machine};

/// How long a node waits before it asks another one for a module.
const MODULE_RETRY_MS: u64 = 1_000;

/// A node that was not ticked for this long was asleep: stopped, swapped out, or
/// starved of its processor.
const ASLEEP_MS: u64 = 1_000;

/// The name of the record under which a store keeps what gossip knows.
pub const MEMBERSHIP_RECORD: &str = "membership";
/// The version of that record's bytes. Version 1 was never released, and knew one
/// layout where there are several now.
const RECORD_VERSION: u8 = 3;
/// The version before, whose catalog ended without histories.
const RECORD_WITHOUT_HISTORIES: u8 = 2;

/// Why bytes are not a membership record that this build reads.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "it was written by a kinfold from before the first release (version {0}); empty the data \
         directory and let the node join anew"
    )]
    Outdated(u8),
    #[error("it was written by a newer kinfold (version {0}); run that one")]
    Newer(u8),
    #[error("it is damaged; restore the data directory, or empty it and let the node join anew")]
    Damaged,
}

impl Machine {
    pub(super) fn tick(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let gossip = self
            .membership
            .tick(now_ms, self.now.wall_us, &mut self.dice);
        self.on_gossip(gossip);
        self.notice_liveness();
        if !self.membership.is_fit() {
            // What it holds for others is not theirs any more.
            return;
        }
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
            self.forget_idle_modules();
        }
        if self.hints_due {
            self.deliver_hints();
        }
        self.finish_hints();
        self.notice_sleep();
        self.tick_exchanges();
        self.tick_filling();
        self.tick_sweep();
        self.tick_reaping();
        self.tick_surveys();
        self.tick_publishing();
        self.depart();
        while let Some(slot) = self.timers.take_due(now_ms) {
            self.on_timer(slot);
        }
    }

    /// A process that did not run for a while may have old news of others in its
    /// buffers, and must say so where it is asked what it still has in hand.
    fn notice_sleep(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let exchanges = &mut self.exchanges;
        if now_ms > exchanges.ticked_ms + ASLEEP_MS {
            exchanges.awake_since_ms = now_ms;
        }
        exchanges.ticked_ms = now_ms;
    }

    /// Leaves, when everything is handed over.
    fn depart(&mut self) {
        if self.membership.me().status == Status::Leaving {
            let no_hints = self.membership.members().all(|member| {
                member.status == Status::Removed || self.hints.held(member.node) == 0
            });
            let holds_nothing = no_hints && self.exchanges.trees.all_known() && self.strays() == 0;
            let gossip = self.membership.try_depart(holds_nothing);
            self.on_gossip(gossip);
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

    /// Reads a membership record.
    pub fn read_record(bytes: &[u8]) -> Result<Persisted, RecordError> {
        match bytes.split_first() {
            Some((&RECORD_WITHOUT_HISTORIES, rest)) => {
                // The catalog comes last, and in it the histories: an empty map is
                // one zero.
                let mut bytes = vec![RECORD_VERSION];
                bytes.extend_from_slice(rest);
                bytes.push(0);
                Self::read_record(&bytes)
            }
            Some((&RECORD_VERSION, rest)) => {
                let (persisted, rest) = postcard::take_from_bytes::<Persisted>(rest)
                    .map_err(|_| RecordError::Damaged)?;
                // A life more is counted at each start: a record that leaves no number
                // for it was never written, and taken at its word would start the
                // count again.
                if rest.is_empty() && persisted.incarnation < u64::MAX {
                    Ok(persisted)
                } else {
                    Err(RecordError::Damaged)
                }
            }
            Some((&version @ 1..RECORD_VERSION, _)) => Err(RecordError::Outdated(version)),
            Some((&version, _)) if version > RECORD_VERSION => Err(RecordError::Newer(version)),
            _ => Err(RecordError::Damaged),
        }
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
        let known = std::mem::take(&mut self.writing_rings);
        // A ring takes a while to build, and most of them were here before.
        let ring_of = |layout: &Layout| {
            let same = |ring: &&Arc<Ring>| **ring.layout() == *layout;
            match known.iter().find(same) {
                Some(ring) => ring.clone(),
                None => Arc::new(Ring::new(Arc::new(layout.clone()))),
            }
        };
        self.writing_rings = self.membership.writing().map(ring_of).collect();
        self.ring = self.writing_rings.first().cloned();
        let reading = self.membership.reading().map(Layout::version);
        let mut rings = self.writing_rings.iter();
        self.reading_ring = rings
            .find(|ring| Some(ring.layout().version()) == reading)
            .cloned();
    }

    pub(super) fn on_catalog_changed(&mut self) {
        let tables = self.membership.catalog().resolve();
        self.tables_by_id = tables
            .values()
            .map(|table| (table.id, table.clone()))
            .collect();
        self.tables = Arc::new(tables);
        self.note_classes();
        self.out.push(Effect::CatalogChanged);
        self.fetch_modules();
    }

    /// Asks for each module that is lacking: who offers it, or else a random live
    /// peer.
    pub(super) fn fetch_modules(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let offered: BTreeMap<Digest, NodeId> = self
            .publishing
            .offered()
            .map(|(from, digest)| (digest, from))
            .collect();
        let known = self.membership.catalog().digests();
        let lacking: BTreeSet<Digest> = known
            .into_iter()
            .chain(offered.keys().copied())
            .filter(|digest| !self.modules_held.contains(digest))
            .collect();
        self.modules_asked_ms
            .retain(|digest, _| lacking.contains(digest));
        self.modules_coming
            .retain(|digest| lacking.contains(digest));
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
            if self.modules_coming.contains(&digest) {
                continue;
            }
            let asked_ms = self.modules_asked_ms.get(&digest).copied();
            if asked_ms.is_none_or(|asked_ms| now_ms >= asked_ms + MODULE_RETRY_MS) {
                self.modules_asked_ms.insert(digest, now_ms);
                let peer = match offered.get(&digest) {
                    Some(offering) if peers.contains(offering) => *offering,
                    _ => peers[((self.dice)() % peers.len() as u64) as usize],
                };
                self.send(peer, Message::FetchModule { digest });
            }
        }
    }

    /// Loads the next batch of hints for every target that is up; while clients are
    /// served, for one target, if it is time.
    pub(super) fn deliver_hints(&mut self) {
        let now_ms = self.now.monotonic_ms;
        self.hints_due = false;
        if self.hints.total() == 0 {
            return;
        }
        let background = &mut self.exchanges.background;
        if !background.may_begin(Chore::Hinting, now_ms) {
            self.hints_due = true;
            return;
        }
        let membership = &self.membership;
        let most = background.step_size(usize::MAX, 1);
        // Those for a node that is gone for good are looked at to be forgotten.
        let due = self.hints.due(now_ms, most, |node| {
            membership.is_removed(node)
                || membership.is_up(node) && membership.address(node).is_some()
        });
        // There may be others.
        self.hints_due = !due.is_empty() && due.len() == most;
        for target in due {
            self.exchanges.background.begin(Chore::Hinting, now_ms);
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
        let mut hints = match reply {
            Ok(StoreReply::Hints(hints)) => hints,
            Ok(other) => unreachable!("hints were asked for, not {other:?}"),
            Err(_) => {
                self.hints.on_failed(target, None);
                return;
            }
        };
        if self.membership.is_removed(target) {
            // Whoever owns its partitions now gets the items by transfer, and what
            // lies here without being owned is a stray.
            hints.iter_mut().for_each(|hint| hint.row = None);
        }
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
        let now_ms = self.now.monotonic_ms;
        for (begun_ms, delivered) in self.hints.take_done(now_ms) {
            let took = Took { begun_ms, now_ms };
            let background = &mut self.exchanges.background;
            background.on_done(Chore::Hinting, delivered.len(), 0, took);
            self.drop_hints(delivered);
        }
    }

    /// Forgets hints; where this node is no primary of the item, by any layout that
    /// is written to, its row goes with the last one.
    fn drop_hints(&mut self, delivered: Vec<Delivered>) {
        if delivered.is_empty() {
            return;
        }
        let mut by_file = BTreeMap::<u32, Vec<_>>::new();
        for Delivered {
            id,
            partition,
            key,
            hash,
        } in delivered
        {
            let n = self
                .tables_by_id
                .get(&key.table())
                .map(|table| table.definition.n as usize);
            let mut rings = self.writing_rings.iter();
            let stray = match n {
                Some(n) if rings.len() > 0 => {
                    rings.all(|ring| !ring.primaries(partition, n).contains(&self.me))
                }
                // Of a table or ring that is not known nothing is thrown away.
                _ => false,
            };
            let hint = (id, partition, key, hash.filter(|_| stray));
            by_file.entry(id.file).or_default().push(hint);
        }
        for hints in by_file.into_values() {
            self.hint_drops += 1;
            self.store(Job::HintDrop, StoreRequest::DropHints { hints });
        }
    }
}
