//! Changes of tables and reconcilers that are not lost with the node that took
//! them.
//!
//! An operator's change takes two rounds. First the node *offers* the modules that
//! tables would fold with to every member: whoever lacks one fetches it, and
//! accepts once it holds all of them durably. With a majority of the newest
//! layout's nodes (those that are down count in the total) it makes the change in
//! its own catalog and has the others *adopt* it: whoever has it on disk, or
//! something that goes before it, accepts. With a majority again the operator is
//! told.
//!
//! Promises: what was taken is durable on a majority of the layout's nodes, bytes
//! and definition both (not always the same majority: whichever minority is lost,
//! one of each is left, and fetches what it lacks from the other); no table folds with a module before a majority holds it; a
//! change that met no majority in its first round changed nothing anywhere. One
//! that met none in its second may still be taken: gossip goes on with it. Not
//! promised: that of two changes to one name at the same time both survive; see
//! `catalog.rs`.
//!
//! Messages may be lost, repeated and reordered: both rounds are repeated until
//! they are answered or time is over, and doing either twice does nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::super::catalog::{Applied, Catalog, CatalogChange, ChangeRefused, Digest, Stamp};
use super::super::effect::{Effect, RequestId};
use super::super::id::NodeId;
use super::super::membership::Status;
use super::super::message::{Message, MessageId};
use super::super::sabotage::{Variant, broken};
use super::{Job, Machine};

/// How many changes of operators a node has in hand at most: they are few, and
/// each holds a definition.
pub const MAX_PUBLICATIONS: usize = 64;
/// How many offers of peers wait for their modules at most. One more is forgotten,
/// and comes again.
pub const MAX_OFFERS: usize = 64;
/// How many adoptions wait for the disk at most; likewise.
pub const MAX_ADOPTIONS: usize = 256;
/// How long a round waits for answers before it asks those again that gave none.
pub const REPEAT_MS: u64 = 500;
/// How long an offer that is not repeated is remembered: whoever made it has given
/// up, or is gone.
pub const OFFER_KEEP_MS: u64 = 10 * REPEAT_MS;

/// Why a change was not published.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PublishRefused {
    #[error(transparent)]
    Change(#[from] ChangeRefused),
    #[error(
        "{got} of the {needed} nodes needed {} in time{}",
        if *.may_be_taken { "stored the change" } else { "had what the change needs" },
        if *.may_be_taken {
            "; it may still be taken, so look before you ask again"
        } else {
            ", and nothing was changed; try again when more nodes are reachable"
        }
    )]
    Unmet {
        needed: u32,
        got: u32,
        may_be_taken: bool,
    },
    #[error("this node has more changes in hand than it can take; try again after a moment")]
    Overloaded,
    #[error("this node is not ready: {0}")]
    NotReady(String),
}

enum Round {
    /// Others get the modules.
    Offering { digests: Vec<Digest> },
    /// Others take over the catalog's new part.
    Adopting {
        excerpt: Box<Catalog>,
        /// What this node's own disk must have.
        revision: u64,
        applied: Applied,
    },
}

/// A change in hand.
struct Publication {
    change: CatalogChange,
    round: Round,
    /// What this round's messages are called.
    id: MessageId,
    accepted: BTreeSet<NodeId>,
    deadline_ms: u64,
    repeat_ms: u64,
}

/// A peer's offer that waits for its modules.
struct Offer {
    digests: Vec<Digest>,
    forget_ms: u64,
}

/// Changes that this node makes, and those that it helps others make.
#[derive(Default)]
pub(super) struct Publishing {
    publications: BTreeMap<RequestId, Publication>,
    offers: BTreeMap<(NodeId, MessageId), Offer>,
    /// Which revision must be on disk before the peer is answered.
    adoptions: BTreeMap<(NodeId, MessageId), u64>,
    /// Which revision is on disk.
    durable: u64,
}

impl Publishing {
    pub(super) fn len(&self) -> usize {
        self.publications.len()
    }

    /// The modules that peers offer, and who does.
    pub(super) fn offered(&self) -> impl Iterator<Item = (NodeId, Digest)> {
        self.offers
            .iter()
            .flat_map(|((from, _), offer)| offer.digests.iter().map(|digest| (*from, *digest)))
    }
}

impl Machine {
    /// An operator wants a change.
    pub(super) fn on_publish(
        &mut self,
        request: RequestId,
        change: CatalogChange,
        timeout_ms: u64,
    ) {
        if let Err(why) = self.readiness() {
            return self.published(request, Err(PublishRefused::NotReady(why)));
        }
        if self.publishing.publications.len() >= MAX_PUBLICATIONS {
            return self.published(request, Err(PublishRefused::Overloaded));
        }
        let digests = match self.catalog().needs(&change) {
            Ok(digests) => digests,
            Err(refused) => return self.published(request, Err(refused.into())),
        };
        let now_ms = self.now.monotonic_ms;
        let publication = Publication {
            change,
            round: Round::Offering { digests },
            id: MessageId(self.next_id()),
            accepted: BTreeSet::new(),
            deadline_ms: now_ms + timeout_ms.max(1),
            repeat_ms: now_ms + REPEAT_MS,
        };
        self.publishing.publications.insert(request, publication);
        self.tell_round(request);
        self.advance(request);
    }

    fn published(&mut self, request: RequestId, outcome: Result<Applied, PublishRefused>) {
        self.out.push(Effect::Published { request, outcome });
    }

    /// Sends a round's message to every member that has not accepted.
    fn tell_round(&mut self, request: RequestId) {
        let Some(publication) = self.publishing.publications.get(&request) else {
            return;
        };
        let id = publication.id;
        let message = match &publication.round {
            Round::Offering { digests } => Message::Offer {
                id,
                digests: digests.clone(),
            },
            Round::Adopting { excerpt, .. } => Message::Adopt {
                id,
                catalog: excerpt.clone(),
            },
        };
        let asked: Vec<NodeId> = self
            .membership
            .members()
            .filter(|member| member.status != Status::Removed && member.node != self.me)
            .map(|member| member.node)
            .filter(|node| !publication.accepted.contains(node))
            .collect();
        for node in asked {
            self.send(node, message.clone());
        }
    }

    /// How many of the newest layout's nodes have done what the round asks, and how
    /// many must. This node is one of them when it has done so itself.
    fn support(&self, publication: &Publication) -> (u32, u32) {
        let done_here = match &publication.round {
            Round::Offering { digests } => digests
                .iter()
                .all(|digest| self.modules_held.contains(digest)),
            Round::Adopting { revision, .. } => self.publishing.durable >= *revision,
        };
        let nodes = self.membership.layout().map_or(&[][..], |l| l.nodes());
        let has_done =
            |node: &&NodeId| publication.accepted.contains(node) || **node == self.me && done_here;
        let needed = nodes.len() / 2 + 1;
        let needed = if broken(Variant::PublishedByOne) {
            1
        } else {
            needed
        };
        (nodes.iter().filter(has_done).count() as u32, needed as u32)
    }

    /// Goes on to the next round, or answers, once enough have accepted.
    fn advance(&mut self, request: RequestId) {
        let Some(publication) = self.publishing.publications.get(&request) else {
            return;
        };
        let (got, needed) = self.support(publication);
        if got < needed {
            return;
        }
        match &publication.round {
            Round::Offering { .. } => self.make_change(request),
            Round::Adopting { applied, .. } => {
                let applied = applied.clone();
                self.publishing.publications.remove(&request);
                self.published(request, Ok(applied));
            }
        }
    }

    /// The modules are where they are needed: the catalog changes.
    fn make_change(&mut self, request: RequestId) {
        let Some(mut publication) = self.publishing.publications.remove(&request) else {
            return;
        };
        let stamp = Stamp {
            at_us: self.now.wall_us,
            by: self.membership.me().name.clone(),
        };
        let change = &publication.change;
        let offered = match &publication.round {
            Round::Offering { digests } => digests,
            Round::Adopting { .. } => unreachable!("a change is made once"),
        };
        match self.membership.catalog().needs(change) {
            Err(refused) => return self.published(request, Err(refused.into())),
            // What is current was changed meanwhile: others may lack that module.
            Ok(needed) if needed != *offered => {
                publication.round = Round::Offering { digests: needed };
                publication.id = MessageId(self.next_id());
                publication.accepted.clear();
            }
            Ok(_) => {
                let (result, gossip) = self
                    .membership
                    .change_catalog(|catalog| catalog.apply(change, &stamp));
                let applied = match result {
                    Ok(applied) => applied,
                    Err(refused) => return self.published(request, Err(refused.into())),
                };
                publication.round = Round::Adopting {
                    excerpt: Box::new(self.membership.catalog().excerpt(change)),
                    revision: self.membership.revision(),
                    applied,
                };
                publication.id = MessageId(self.next_id());
                publication.accepted.clear();
                self.publishing.publications.insert(request, publication);
                self.on_gossip(gossip);
                self.insist_on_disk();
                self.tell_round(request);
                return self.advance(request);
            }
        }
        self.publishing.publications.insert(request, publication);
        self.tell_round(request);
        self.advance(request);
    }

    /// Has what is known now written to disk, if it is neither there nor on its way.
    fn insist_on_disk(&mut self) {
        let revision = self.membership.revision();
        let on_its_way = |job: &Job| matches!(job, Job::Persist { revision: r } if *r >= revision);
        if self.publishing.durable < revision && !self.jobs.values().any(on_its_way) {
            self.persist(revision);
        }
    }

    /// What this node knows is on disk, up to this revision.
    pub(super) fn on_durable(&mut self, revision: u64) {
        self.publishing.durable = self.publishing.durable.max(revision);
        let durable = self.publishing.durable;
        let adoptions = std::mem::take(&mut self.publishing.adoptions);
        for ((from, id), revision) in adoptions {
            if revision <= durable {
                self.send(from, Message::Accepted { id });
            } else {
                self.publishing.adoptions.insert((from, id), revision);
            }
        }
        self.advance_all();
    }

    /// Modules came: peers that offered them are answered.
    pub(super) fn on_modules_held(&mut self) {
        let offers = std::mem::take(&mut self.publishing.offers);
        for ((from, id), offer) in offers {
            let held = |digest: &Digest| self.modules_held.contains(digest);
            if offer.digests.iter().all(held) {
                self.send(from, Message::Accepted { id });
            } else {
                self.publishing.offers.insert((from, id), offer);
            }
        }
        self.advance_all();
    }

    fn advance_all(&mut self) {
        let requests: Vec<RequestId> = self.publishing.publications.keys().copied().collect();
        for request in requests {
            self.advance(request);
        }
    }

    /// A peer offers modules.
    pub(super) fn on_offer(&mut self, from: NodeId, id: MessageId, digests: Vec<Digest>) {
        let held = |digest: &Digest| self.modules_held.contains(digest);
        if digests.iter().all(held) || broken(Variant::OfferUnheld) {
            self.send(from, Message::Accepted { id });
            return;
        }
        let offers = &mut self.publishing.offers;
        if offers.len() >= MAX_OFFERS && !offers.contains_key(&(from, id)) {
            return;
        }
        let forget_ms = self.now.monotonic_ms + OFFER_KEEP_MS;
        offers.insert((from, id), Offer { digests, forget_ms });
        self.fetch_modules();
    }

    /// A peer wants a part of its catalog adopted.
    pub(super) fn on_adopt(&mut self, from: NodeId, id: MessageId, theirs: &Catalog) {
        let (_, gossip) = self
            .membership
            .change_catalog(|catalog| catalog.merge(theirs));
        self.on_gossip(gossip);
        let revision = self.membership.revision();
        if self.publishing.durable >= revision || broken(Variant::AdoptInMemory) {
            self.send(from, Message::Accepted { id });
            return;
        }
        let adoptions = &mut self.publishing.adoptions;
        if adoptions.len() < MAX_ADOPTIONS || adoptions.contains_key(&(from, id)) {
            // The first wait is the right one: what came since is another's.
            adoptions.entry((from, id)).or_insert(revision);
        }
        self.insist_on_disk();
    }

    /// A peer has done what a round asks.
    pub(super) fn on_accepted(&mut self, from: NodeId, id: MessageId) {
        let mut publications = self.publishing.publications.iter_mut();
        if let Some((&request, publication)) = publications.find(|(_, one)| one.id == id) {
            publication.accepted.insert(from);
            self.advance(request);
        }
    }

    /// Asks again, and gives up what took too long.
    pub(super) fn tick_publishing(&mut self) {
        let now_ms = self.now.monotonic_ms;
        self.publishing
            .offers
            .retain(|_, offer| now_ms < offer.forget_ms);
        let requests: Vec<RequestId> = self.publishing.publications.keys().copied().collect();
        for request in requests {
            // The layout may be another by now.
            self.advance(request);
            let Some(publication) = self.publishing.publications.get_mut(&request) else {
                continue;
            };
            if now_ms >= publication.deadline_ms {
                let may_be_taken = matches!(publication.round, Round::Adopting { .. });
                let Some(publication) = self.publishing.publications.remove(&request) else {
                    continue;
                };
                let (got, needed) = self.support(&publication);
                let unmet = PublishRefused::Unmet {
                    needed,
                    got,
                    may_be_taken,
                };
                self.published(request, Err(unmet));
            } else if now_ms >= publication.repeat_ms {
                publication.repeat_ms = now_ms + REPEAT_MS;
                if matches!(publication.round, Round::Adopting { .. }) {
                    self.insist_on_disk();
                }
                self.tell_round(request);
            }
        }
    }
}
