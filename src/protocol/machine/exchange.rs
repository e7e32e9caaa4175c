//! What a node does to stay like its peers: trees, rounds of roots, sessions.
//!
//! Promises: once in each interval every partition that this node owns together
//! with a live peer is compared with that peer's (the node with the lesser id
//! asks); of what differs a bounded number of sessions is under way at a time;
//! trees are made after a start and made again now and then. A replica that
//! finds rows that it cannot read has them filled from every live owner.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::effect::{StoreError, StoreReply, StoreRequest};
use super::super::exchange::{Action, Answer, Ask, MAX_BATCH_BYTES, Root, RootVerdict, Session};
use super::super::id::{ItemKey, NodeId, Partition, TableId};
use super::super::message::{Message, MessageId, Refusal};
use super::super::ring::Ring;
use super::super::trees::{Class, NO_CLASS, Trees};
use super::background::{Background, DEFAULT_BACKGROUND_PERCENT};
use super::filling::Filling;
use super::intake::{Bringer, Intake};
use super::reaping::Reaping;
use super::serving::{Asker, Served};
use super::strays::Sweep;
use super::survey::Surveys;
use super::{AwaitedOf, Job, Machine};

/// How many sessions are under way at a time, those that fill included.
pub const MAX_SESSIONS: usize = 4;
/// How many partitions wait for a session at most. What does not fit differs
/// still in the next round.
pub const MAX_WAITING_SESSIONS: usize = 4096;
/// How many roots go into one message: 24 bytes each, so 100 KB.
pub const MAX_ROOTS: usize = 4096;
/// How long an answer about roots may take; then they are asked again in the next
/// round.
const ROOTS_TIMEOUT_MS: u64 = 10_000;
/// How many bytes of values are read for a peer at once while clients are served,
/// about: those of some seventy ordinary rows, which take a millisecond.
const POLITE_BATCH_BYTES: usize = 64 << 10;

/// How a node keeps its replicas, by its configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upkeep {
    /// Between two exchanges of a partition and a pair of its owners.
    pub exchange_interval_ms: u64,
    /// How old a tombstone is before it may be forgotten.
    pub reap_after_ms: u64,
    /// How much of its store's time a node gives to work that no client waits for, while
    /// clients ask all the time: from 1 to 100.
    pub background_percent: u32,
}

impl Default for Upkeep {
    /// As the config file's defaults.
    fn default() -> Self {
        Upkeep {
            exchange_interval_ms: 60_000,
            reap_after_ms: 3_600_000,
            background_percent: DEFAULT_BACKGROUND_PERCENT,
        }
    }
}

/// Names a session of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SessionId(pub u64);

/// A partition and class that differs from a peer's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Difference {
    pub peer: NodeId,
    pub partition: Partition,
    pub class: Class,
}

/// Roots that a peer was asked about.
struct AskedRoots {
    peer: NodeId,
    roots: Vec<(Partition, Class)>,
    due_ms: u64,
}

/// A session, and how many of the rows that it applies are not stored yet.
struct Running {
    session: Session,
    storing: usize,
    failed: bool,
}

/// Everything that a node knows of its replicas' agreement.
#[derive(Default)]
pub(super) struct Exchanges {
    pub upkeep: Upkeep,
    pub background: Background,
    pub intake: Intake,
    pub trees: Trees,
    /// The number of replicas of each table, and so its class.
    pub classes: BTreeMap<TableId, Class>,
    sessions: BTreeMap<SessionId, Running>,
    /// What differs and waits, with the number of items that the peer has.
    waiting: VecDeque<(Difference, u64)>,
    /// When the roots are next compared with each peer.
    rounds: BTreeMap<NodeId, u64>,
    roots: BTreeMap<MessageId, AskedRoots>,
    pub filling: Filling,
    /// When the store was last asked for leaves.
    pub derive_begun_ms: u64,
    /// Rows that the present derivation found damaged.
    pub damaged: BTreeSet<ItemKey>,
    pub serving: BTreeMap<u64, Served>,
    /// Questions that wait until work without a client may go on: with those being
    /// served at most `MAX_SERVED`.
    pub deferred: VecDeque<(Asker, Ask)>,
    pub sweep: Sweep,
    pub reaping: Reaping,
    pub surveys: Surveys,
    /// Since when this node has been running without a pause.
    pub awake_since_ms: u64,
    pub ticked_ms: u64,
}

impl Exchanges {
    /// Those of a node that starts now.
    pub fn new(now_ms: u64) -> Self {
        Exchanges {
            awake_since_ms: now_ms,
            ticked_ms: now_ms,
            ..Exchanges::default()
        }
    }

    /// How many bytes of values are read for a peer at once, about.
    pub fn batch_bytes(&self) -> usize {
        self.background
            .step_size(MAX_BATCH_BYTES, POLITE_BATCH_BYTES)
    }

    /// The classes in use.
    pub fn classes_in_use(&self) -> BTreeSet<Class> {
        self.classes.values().copied().collect()
    }

    /// The class of an item.
    pub fn class_of(&self, key: &ItemKey) -> Class {
        self.classes.get(&key.table()).copied().unwrap_or(NO_CLASS)
    }

    /// Whether a session about this partition began that long ago.
    pub fn has_session_since(&self, partition: Partition, begun_by_ms: u64) -> bool {
        self.sessions.values().any(|running| {
            running.session.partition == partition && running.session.begun_ms() <= begun_by_ms
        })
    }

    fn is_open(&self, difference: Difference) -> bool {
        let same = |running: &Running| {
            running.session.peer == difference.peer
                && running.session.partition == difference.partition
                && running.session.class == difference.class
        };
        self.sessions.values().any(same)
            || self
                .waiting
                .iter()
                .any(|(waiting, _)| *waiting == difference)
    }
}

/// The owners of a partition's items of this class.
pub(super) fn owners(ring: &Ring, partition: Partition, class: Class) -> &[NodeId] {
    ring.primaries(partition, class as usize)
}

impl Machine {
    /// Sets how this node keeps its replicas; what is under way goes on.
    pub fn set_upkeep(&mut self, upkeep: Upkeep) {
        self.exchanges.upkeep = upkeep;
        self.exchanges
            .background
            .set_percent(upkeep.background_percent);
    }

    /// How this node keeps its replicas.
    pub fn upkeep(&self) -> Upkeep {
        self.exchanges.upkeep
    }

    /// Whether nothing is under way that would change rows without a client.
    pub fn is_at_rest(&self) -> bool {
        let exchanges = &self.exchanges;
        exchanges.sessions.is_empty()
            && exchanges.waiting.is_empty()
            && exchanges.intake.is_empty()
            && exchanges.deferred.is_empty()
            && exchanges.serving.is_empty()
            && !exchanges.sweep.is_busy()
    }

    /// The node's Merkle trees.
    pub fn trees(&self) -> &Trees {
        &self.exchanges.trees
    }

    pub(super) fn tick_exchanges(&mut self) {
        let now_ms = self.now.monotonic_ms;
        if let Some(ring) = &self.ring {
            let partitions = ring.layout().partitions();
            self.exchanges.trees.set_partitions(partitions);
        }
        self.exchanges.background.on_tick();
        self.derive();
        self.take_in_rows();
        self.serve_deferred();
        self.begin_rounds();
        let overdue: Vec<MessageId> = self
            .exchanges
            .roots
            .iter()
            .filter(|(_, asked)| now_ms >= asked.due_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            self.awaited.remove(&id);
            self.on_roots_lost(id);
        }
        self.run_sessions();
    }

    // Rounds.

    /// Compares roots with every peer whose turn it is.
    fn begin_rounds(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let interval_ms = self.exchanges.upkeep.exchange_interval_ms.max(1);
        let Some(ring) = self.ring.clone() else {
            return;
        };
        let peers: Vec<NodeId> = ring
            .layout()
            .nodes()
            .iter()
            .copied()
            .filter(|node| self.me < *node)
            .collect();
        debug_assert!(peers.is_sorted());
        // A layout's nodes are in order, and there may be a thousand of them.
        self.exchanges
            .rounds
            .retain(|node, _| peers.binary_search(node).is_ok());
        for peer in peers {
            let due_ms = match self.exchanges.rounds.get(&peer) {
                Some(due_ms) => *due_ms,
                None => {
                    // Nodes that started together do not all ask at once.
                    let due_ms = now_ms + (self.dice)() % interval_ms;
                    self.exchanges.rounds.insert(peer, due_ms);
                    due_ms
                }
            };
            if now_ms < due_ms || !self.is_up(peer) {
                continue;
            }
            self.exchanges.rounds.insert(peer, now_ms + interval_ms);
            let classes = self.exchanges.classes_in_use();
            let mut shared = Vec::new();
            for partition in (0..ring.layout().partitions()).map(Partition) {
                for &class in &classes {
                    let owners = owners(&ring, partition, class);
                    if owners.contains(&self.me) && owners.contains(&peer) {
                        shared.push((partition, class));
                    }
                }
            }
            self.ask_roots(peer, shared);
        }
    }

    /// Asks a peer which of these trees differ from its own.
    pub(super) fn ask_roots(&mut self, peer: NodeId, trees: Vec<(Partition, Class)>) {
        let width = self.exchanges.trees.width();
        let roots: Vec<Root> = trees
            .into_iter()
            .filter_map(|(partition, class)| {
                let (sum, _) = self.exchanges.trees.root(partition, class)?;
                Some(Root {
                    partition,
                    class,
                    sum,
                })
            })
            .collect();
        let due_ms = self.now.monotonic_ms + ROOTS_TIMEOUT_MS;
        for roots in roots.chunks(MAX_ROOTS) {
            self.counters.roots_compared += roots.len() as u64;
            let asked = AskedRoots {
                peer,
                roots: roots
                    .iter()
                    .map(|root| (root.partition, root.class))
                    .collect(),
                due_ms,
            };
            let roots = roots.to_vec();
            let id = self.ask(peer, AwaitedOf::Roots, |id| Message::Exchange {
                id,
                ask: Ask::Roots { width, roots },
            });
            self.exchanges.roots.insert(id, asked);
        }
    }

    pub(super) fn on_roots(&mut self, id: MessageId, answer: Result<Answer, Refusal>) {
        let Some(asked) = self.exchanges.roots.remove(&id) else {
            return;
        };
        let Ok(Answer::Roots(verdicts)) = answer else {
            let now_ms = self.now.monotonic_ms;
            let filling = &mut self.exchanges.filling;
            return filling.on_unknown(asked.peer, &asked.roots, now_ms);
        };
        let now_ms = self.now.monotonic_ms;
        for ((partition, class), verdict) in asked.roots.into_iter().zip(verdicts) {
            let difference = Difference {
                peer: asked.peer,
                partition,
                class,
            };
            match verdict {
                RootVerdict::Same => self.on_filled(difference, now_ms),
                RootVerdict::Unknown => self.exchanges.filling.on_failed(difference, now_ms),
                RootVerdict::Differs { items } => {
                    let fills = self.exchanges.filling.wants(difference);
                    if self.exchanges.is_open(difference) {
                        continue;
                    }
                    self.counters.trees_differing += 1;
                    if self.exchanges.waiting.len() >= MAX_WAITING_SESSIONS {
                        self.exchanges.filling.on_failed(difference, now_ms);
                    } else if fills {
                        // Someone waits for it.
                        self.exchanges.waiting.push_front((difference, items));
                    } else {
                        self.exchanges.waiting.push_back((difference, items));
                    }
                }
            }
        }
        self.run_sessions();
    }

    fn on_filled(&mut self, difference: Difference, begun_ms: u64) {
        if self.exchanges.filling.on_done(difference, begun_ms) {
            // Now it shows whether what was damaged is mended.
            self.exchanges.trees.suspect(difference.partition);
        }
    }

    pub(super) fn on_roots_lost(&mut self, id: MessageId) {
        if let Some(asked) = self.exchanges.roots.remove(&id) {
            let now_ms = self.now.monotonic_ms;
            let filling = &mut self.exchanges.filling;
            filling.on_unknown(asked.peer, &asked.roots, now_ms);
        }
    }

    // Sessions.

    fn run_sessions(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let ids: Vec<SessionId> = self.exchanges.sessions.keys().copied().collect();
        for id in ids {
            let Exchanges {
                trees, sessions, ..
            } = &mut self.exchanges;
            let action = sessions
                .get_mut(&id)
                .and_then(|running| running.session.on_tick(trees, now_ms));
            self.act(id, action);
        }
        while self.exchanges.sessions.len() < MAX_SESSIONS {
            let Some((difference, items)) = self.exchanges.waiting.pop_front() else {
                break;
            };
            let Difference {
                peer,
                partition,
                class,
            } = difference;
            if !self.is_up(peer) {
                self.exchanges.filling.on_failed(difference, now_ms);
                continue;
            }
            let id = SessionId(self.next_id());
            let trees = &self.exchanges.trees;
            let mut session = Session::new(peer, partition, class, trees, items, now_ms);
            let action = session.on_tick(trees, now_ms);
            self.exchanges.sessions.insert(
                id,
                Running {
                    session,
                    storing: 0,
                    failed: false,
                },
            );
            self.counters.sessions_begun += 1;
            self.act(id, action);
        }
    }

    /// Does what a session wants.
    fn act(&mut self, id: SessionId, action: Option<Action>) {
        let (Some(action), Some(running)) = (action, self.exchanges.sessions.get_mut(&id)) else {
            return;
        };
        let peer = running.session.peer;
        match action {
            Action::Rest => {}
            Action::Ask(ask) => {
                self.ask(peer, AwaitedOf::Session(id), |id| Message::Exchange {
                    id,
                    ask,
                });
            }
            Action::Store(mut request) => {
                if let StoreRequest::ReadMany { max_bytes, .. } = &mut request {
                    *max_bytes = self.exchanges.batch_bytes();
                }
                self.store(Job::Session(id), request);
            }
            Action::Apply(rows) => {
                running.storing = rows.len();
                let partition = running.session.partition;
                self.bring(Bringer::Session(id), partition, rows);
            }
            Action::End { complete } => self.end_session(id, complete),
        }
    }

    fn end_session(&mut self, id: SessionId, complete: bool) {
        let now_ms = self.now.monotonic_ms;
        let Some(running) = self.exchanges.sessions.remove(&id) else {
            return;
        };
        self.exchanges.intake.forget(Bringer::Session(id));
        let session = running.session;
        self.counters.rows_given += session.given;
        self.counters.exchange_bytes += session.bytes;
        let difference = Difference {
            peer: session.peer,
            partition: session.partition,
            class: session.class,
        };
        if complete {
            self.on_filled(difference, session.begun_ms());
        } else {
            self.counters.sessions_failed += 1;
            self.exchanges.filling.on_failed(difference, now_ms);
        }
    }

    pub(super) fn on_session_row(&mut self, id: SessionId, stored: bool) {
        let now_ms = self.now.monotonic_ms;
        let Exchanges {
            trees, sessions, ..
        } = &mut self.exchanges;
        let Some(running) = sessions.get_mut(&id) else {
            return;
        };
        running.failed |= !stored;
        running.storing = running.storing.saturating_sub(1);
        // Rows that wait their turn are no answer that is overdue.
        running.session.extend(now_ms);
        if running.storing > 0 {
            return;
        }
        let action = if running.failed {
            Some(running.session.fail())
        } else {
            running.session.on_stored(trees, now_ms)
        };
        self.act(id, action);
    }

    pub(super) fn on_session_store(
        &mut self,
        id: SessionId,
        reply: Result<StoreReply, StoreError>,
    ) {
        let now_ms = self.now.monotonic_ms;
        let Exchanges {
            trees,
            sessions,
            classes,
            ..
        } = &mut self.exchanges;
        let Some(running) = sessions.get_mut(&id) else {
            return;
        };
        let session = &mut running.session;
        let action = match reply {
            Ok(StoreReply::Leaves { mut leaves, done }) => {
                let class = session.class;
                leaves.retain(|leaf| classes.get(&leaf.key.table()) == Some(&class));
                session.on_leaves(leaves, done, now_ms)
            }
            Ok(StoreReply::Rows { rows, done }) => session.on_rows(rows, done, trees, now_ms),
            Ok(other) => unreachable!("leaves or rows were asked for, not {other:?}"),
            Err(_) => Some(session.fail()),
        };
        self.act(id, action);
    }

    pub(super) fn on_session_answer(&mut self, id: SessionId, answer: Result<Answer, Refusal>) {
        let now_ms = self.now.monotonic_ms;
        let Exchanges {
            trees, sessions, ..
        } = &mut self.exchanges;
        let Some(running) = sessions.get_mut(&id) else {
            return;
        };
        let action = match answer {
            Ok(answer) => running.session.on_answer(answer, trees, now_ms),
            Err(_) => Some(running.session.fail()),
        };
        self.act(id, action);
    }

    pub(super) fn on_session_lost(&mut self, id: SessionId) {
        let action = self
            .exchanges
            .sessions
            .get_mut(&id)
            .map(|running| running.session.fail());
        self.act(id, action);
    }
}
