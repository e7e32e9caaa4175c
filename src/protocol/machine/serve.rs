//! What a node does for its peers: reads and writes of its own replica, and
//! requests that were forwarded to it.

use super::super::effect::{StoreError, StoreReply, StoreRequest};
use super::super::exchange;
use super::super::id::NodeId;
use super::super::message::{Message, MessageId, ReadAnswer, Refusal};
use super::super::replica::Mutation;
use super::super::sabotage::{Variant, broken};
use super::{AwaitedOf, Job, MAX_FORWARDS_REMEMBERED, Machine, Origin};
use crate::protocol::catalog::DEFAULT_MAX_ACTORS;
use crate::protocol::effect::Effect;
use crate::protocol::id::ItemKey;
use crate::protocol::siblings::{SiblingSet, StateHash};

impl Machine {
    pub(super) fn on_message(&mut self, from: NodeId, message: Message) {
        if let Some(refusal) = self.refuses(&message) {
            self.send(from, refusal);
            return;
        }
        self.membership.on_heard(from, self.now.monotonic_ms);
        self.notice_liveness();
        if matches!(message, Message::Read { .. } | Message::Write { .. }) {
            self.exchanges.background.on_request();
        }
        match message {
            Message::Read {
                id,
                partition,
                key,
                hash_only,
            } => {
                let job = Job::PeerRead {
                    from,
                    id,
                    partition,
                };
                let request = if hash_only {
                    StoreRequest::ReadState { partition, key }
                } else {
                    StoreRequest::Read { partition, key }
                };
                self.store(job, request);
            }
            Message::Write {
                id,
                partition,
                key,
                set,
                hint_for,
            } => {
                if !set.is_well_formed() {
                    let broken = StoreError::Corrupt("a peer sent a malformed state".to_owned());
                    self.send(
                        from,
                        Message::WriteAnswer {
                            id,
                            answer: Err(Refusal::Storage(broken)),
                        },
                    );
                    return;
                }
                let mutation = Mutation::Sync {
                    set,
                    max_actors: self.max_actors(&key),
                };
                // A hint for oneself is no hint: the write has arrived.
                let hint_for = hint_for.filter(|primary| *primary != self.me);
                let hints = hint_for.into_iter().collect();
                let job = Job::PeerWrite {
                    from,
                    id,
                    partition,
                    hint_for,
                };
                if broken(Variant::AckBeforeCommit) {
                    let answer = Ok(());
                    self.send(from, Message::WriteAnswer { id, answer });
                }
                self.store(
                    job,
                    StoreRequest::Update {
                        partition,
                        key,
                        mutation,
                        hints,
                    },
                );
            }
            Message::ReadAnswer { id, answer } => self.on_read_answer(from, id, answer),
            Message::WriteAnswer { id, answer } => self.on_write_answer(from, id, answer),
            Message::Forward { id, item } => {
                if self.is_first(from, id) {
                    self.on_client(Origin::Peer { node: from, id }, *item);
                }
            }
            Message::ForwardAnswer { id, response } => self.on_forward_answer(from, id, *response),
            Message::Probe { id } => {
                self.send(from, Message::ProbeAnswer { id });
            }
            Message::ProbeAnswer { .. } => {}
            Message::GossipSummary(_) | Message::GossipNews(_) => {
                let gossip = self.membership.on_message(
                    from,
                    message,
                    self.now.monotonic_ms,
                    self.now.wall_us,
                );
                self.on_gossip(gossip);
            }
            Message::FetchModule { digest } => {
                if let Some(address) = self.membership.address(from).cloned() {
                    self.out.push(Effect::ServeModule {
                        to: from,
                        address,
                        digest,
                    });
                }
            }
            // Whoever is no part of the cluster keeps nothing for it.
            Message::Offer { .. } | Message::Adopt { .. }
                if !self.membership.is_fit() || self.membership.cluster().is_none() => {}
            Message::Offer { id, digests } => self.on_offer(from, id, digests),
            Message::Adopt { id, catalog } => self.on_adopt(from, id, &catalog),
            Message::Accepted { id } => self.on_accepted(from, id),
            Message::Exchange { id, ask } => self.on_exchange(from, id, ask),
            Message::ExchangeAnswer { id, answer } => self.on_exchange_answer(from, id, answer),
            Message::Module { digest, bytes } => {
                let wanted = self.modules_asked_ms.contains_key(&digest);
                if let (Some(bytes), true) = (bytes, wanted)
                    // Keeping it takes a while; twice would take longer.
                    && self.modules_coming.insert(digest)
                {
                    self.out.push(Effect::KeepModule { digest, bytes });
                }
            }
        }
    }

    /// What a peer is told that asks for more than this node may do: one that is
    /// unfit neither gives nor takes, and one that is not filled yet takes writes but
    /// is no witness for what is absent.
    fn refuses(&self, message: &Message) -> Option<Message> {
        let fit = self.membership.is_fit();
        let refusal = |why: &str| Refusal::NotReady(why.to_owned());
        match message {
            Message::Read { id, partition, .. } if !fit || !self.is_filled(*partition) => {
                let answer = Err(refusal("it does not hold its data yet"));
                Some(Message::ReadAnswer { id: *id, answer })
            }
            Message::Write { id, .. } if !fit => {
                let answer = Err(refusal("it is not in the cluster"));
                Some(Message::WriteAnswer { id: *id, answer })
            }
            Message::Exchange { id, .. } if !fit => {
                let answer = Err(refusal("it is not in the cluster"));
                Some(Message::ExchangeAnswer { id: *id, answer })
            }
            _ => None,
        }
    }

    /// Whether a forwarded request arrives for the first time. Carried out twice
    /// it would be two writes.
    fn is_first(&mut self, from: NodeId, id: MessageId) -> bool {
        if !self.forwards.insert((from, id)) && !broken(Variant::ForwardTwice) {
            return false;
        }
        self.forwards_in_order.push_back((from, id));
        if self.forwards_in_order.len() > MAX_FORWARDS_REMEMBERED
            && let Some(oldest) = self.forwards_in_order.pop_front()
        {
            self.forwards.remove(&oldest);
        }
        true
    }

    /// How many actors the contexts of this item keep. A table that is not known
    /// here yet is taken to have the default.
    pub(super) fn max_actors(&self, key: &ItemKey) -> usize {
        self.tables_by_id
            .get(&key.table())
            .map_or(DEFAULT_MAX_ACTORS, |table| table.definition.max_actors) as usize
    }

    pub(super) fn on_peer_read(
        &mut self,
        from: NodeId,
        id: MessageId,
        reply: Result<StoreReply, StoreError>,
    ) {
        let answer = match reply {
            Ok(StoreReply::Row(row)) => Ok(ReadAnswer::State(
                row.map(|(row, _)| row.set).unwrap_or_default(),
            )),
            Ok(StoreReply::State(state)) => {
                // A row may remember minting and nothing else.
                let hash = state.unwrap_or(StateHash::OF_NOTHING);
                Ok(ReadAnswer::Hash {
                    hash,
                    is_empty: hash == StateHash::OF_NOTHING,
                })
            }
            Ok(other) => unreachable!("a read is answered by a row, not {other:?}"),
            Err(_) if broken(Variant::FailedReadIsAbsent) => {
                Ok(ReadAnswer::State(SiblingSet::new()))
            }
            Err(StoreError::Overloaded) => Err(Refusal::Overloaded),
            Err(error) => Err(Refusal::Storage(error)),
        };
        self.send(from, Message::ReadAnswer { id, answer });
    }

    pub(super) fn on_peer_written(
        &mut self,
        from: NodeId,
        id: MessageId,
        hint_for: Option<NodeId>,
        reply: Result<StoreReply, StoreError>,
    ) {
        let answer = match reply {
            Ok(_) => {
                if let Some(primary) = hint_for {
                    self.hints_noted(&[primary]);
                }
                Ok(())
            }
            Err(StoreError::Overloaded) => Err(Refusal::Overloaded),
            Err(error) => Err(Refusal::Storage(error)),
        };
        self.send(from, Message::WriteAnswer { id, answer });
    }

    fn on_read_answer(&mut self, from: NodeId, id: MessageId, answer: Result<ReadAnswer, Refusal>) {
        let Some(awaited) = self.awaited.remove(&id) else {
            return;
        };
        debug_assert_eq!(awaited.node, from);
        if let AwaitedOf::Read(slot) = awaited.of {
            match answer {
                Ok(ReadAnswer::State(set)) if !set.is_well_formed() => {
                    self.on_read_lost(slot, id, from);
                }
                Ok(answer) => self.on_slot_answer(slot, id, from, answer),
                Err(_) => self.on_read_lost(slot, id, from),
            }
        }
    }

    fn on_write_answer(&mut self, from: NodeId, id: MessageId, answer: Result<(), Refusal>) {
        let Some(awaited) = self.awaited.remove(&id) else {
            return;
        };
        debug_assert_eq!(awaited.node, from);
        match (awaited.of, answer) {
            (AwaitedOf::Write(slot), Ok(())) => self.on_slot_ack(slot, id, from),
            (AwaitedOf::Write(slot), Err(_)) => self.on_write_lost(slot, id, from),
            (AwaitedOf::Hint(delivered), Ok(())) => {
                self.counters.hints_delivered += 1;
                self.hints.on_delivered(from, delivered);
                self.finish_hints();
            }
            (AwaitedOf::Hint(delivered), Err(_)) => {
                self.hints.on_failed(from, Some(delivered.id));
                self.finish_hints();
            }
            _ => {}
        }
    }

    fn on_exchange_answer(
        &mut self,
        from: NodeId,
        id: MessageId,
        answer: Result<exchange::Answer, Refusal>,
    ) {
        let Some(awaited) = self.awaited.remove(&id) else {
            return;
        };
        debug_assert_eq!(awaited.node, from);
        match awaited.of {
            AwaitedOf::Roots => self.on_roots(id, answer),
            AwaitedOf::Session(session) => self.on_session_answer(session, answer),
            AwaitedOf::Sweep(step) => self.on_sweep_answer(step, answer),
            AwaitedOf::Reaping(ballot) => self.on_reaping_answer(ballot, from, answer),
            AwaitedOf::Survey(survey) => self.on_survey_answer(survey, from, answer),
            _ => {}
        }
    }
}
