//! The peer wire over HTTP: nodes upgrade a connection on the one port that
//! serves clients too, and then send frames (`codec.rs`).
//!
//! Each node dials one connection per address and sends everything that it has
//! to say there on it; answers travel on the connection that the other node
//! dialed. On the way back a dialed connection carries receipts only: how many
//! bytes of frames have arrived so far, a big-endian u64, at most one every
//! [`RECEIPT_EVERY_MS`]. A connection whose bytes are not receipted in
//! [`STALL_MS`] is given up: otherwise, once a network partition heals, TCP would
//! go on waiting for its own backoff, which doubles up to two minutes.
//!
//! Promises: see [`Transport`]; and `send` and `contact` never call back into
//! the caller, what they refuse is delivered by a task. Messages that were handed
//! to the kernel in full before the connection broke are never reported
//! undelivered (they may have arrived): one [`Input::Disconnected`] stands for
//! all of them. Not promised: secrecy, or that a peer is who it says it is.

mod accept;
mod dial;
mod handshake;
mod link;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tracing::{debug, warn};

use crate::protocol::effect::{Address, Input};
use crate::protocol::id::{ClusterId, NodeId};
use crate::protocol::message::{Introduction, Message};

use super::codec::{self, WIRE_VERSIONS};
use super::{Deliver, Transport};
use link::{Letter, Link, Posted};

pub use handshake::{HandshakeError, PEER_PATH, PEER_PROTOCOL};

/// How many messages wait for one peer at most: at some 20 µs of work each, what
/// a peer needs a third of a second for; beyond that it is kinder to say
/// `overloaded`.
pub const MAX_QUEUED_MESSAGES: usize = 16_384;
/// How many bytes of frames wait for one peer at most; two of the largest.
pub const MAX_QUEUED_BYTES: usize = 2 * codec::MAX_FRAME_BYTES;
/// How many addresses this node dials at most: four times the largest cluster
/// that layouts are computed for.
pub const MAX_LINKS: usize = 4096;
/// How many peers may be connected to this node at most; each costs a task and
/// a read buffer.
pub const MAX_INCOMING: usize = 4096;
/// How many refused messages wait to be given back at most. Beyond it they are
/// lost, and counted, as any message may be.
pub const MAX_REFUSED: usize = 65_536;
/// How long a dial may take, from the first packet to the agreed version. Twice
/// the first retransmission of a lost SYN.
pub const DIAL_TIMEOUT_MS: u64 = 2_000;
/// How long after a failure messages come back at once instead of dialing
/// again. Short, so that a node that returns is found by the next probe.
pub const BACKOFF_MS: u64 = 100;
/// How often the accepting side says at most how much has arrived.
pub const RECEIPT_EVERY_MS: u64 = 500;
/// How long written bytes may stay unreceipted, or a write stuck; up to twice
/// that may pass until it is noticed.
pub const STALL_MS: u64 = 3_000;
/// How long a closing connection waits for the other side to read what is left.
pub const DRAIN_MS: u64 = 1_000;

/// Who this node is, for every handshake.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: Arc<str>,
    pub node: NodeId,
    /// Where peers find this node, `host:port`.
    pub address: Address,
    /// The cluster, shared by all clones: set once, when it is joined or founded.
    pub cluster: Arc<OnceLock<ClusterId>>,
}

impl Identity {
    /// A node of this name, which belongs to no cluster yet.
    pub fn new(name: &str, address: &str) -> Self {
        Identity {
            name: Arc::from(name),
            node: NodeId::of(name),
            address: Arc::from(address),
            cluster: Arc::default(),
        }
    }

    /// The cluster that the node belongs to by now.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// Makes the node a member, for this clone and all others. A node never
    /// changes clusters: another id than the first is a bug.
    pub fn join_cluster(&self, cluster: ClusterId) {
        let joined = *self.cluster.get_or_init(|| cluster);
        assert_eq!(joined, cluster, "a node belongs to one cluster for life");
    }
}

/// How much waits and who is connected, for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpFigures {
    /// Addresses that are connected, being dialed or backed off from.
    pub links: u64,
    /// Messages that wait to be written, all peers together.
    pub queued_messages: u64,
    /// The bytes of their frames.
    pub queued_bytes: u64,
    /// Connections that peers hold to this node.
    pub incoming: u64,
    /// Refused messages that were lost because too many waited already.
    pub lost: u64,
}

/// The peer wire of one node. Clones share it.
#[derive(Clone)]
pub struct HttpTransport {
    shared: Arc<Shared>,
}

/// Locks even if a task died with the lock held: what it guards are queues and
/// maps that every step leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared {
    identity: Identity,
    versions: Vec<u32>,
    deliver: Deliver,
    runtime: tokio::runtime::Handle,
    links: RwLock<BTreeMap<Address, Arc<Link>>>,
    /// Peers that are connected to this node, with the number of the connection
    /// that introduced each.
    introductions: Mutex<BTreeMap<NodeId, (u64, Introduction)>>,
    next_connection: AtomicU64,
    incoming: Arc<Semaphore>,
    /// Messages that `post` refused: a task gives them back.
    refused: Mutex<Vec<Input>>,
    refused_some: Notify,
    lost: AtomicU64,
    closing: watch::Sender<bool>,
    /// Every task holds a clone; when the last is dropped all tasks have ended.
    /// None once the transport is closing.
    alive: Mutex<Option<mpsc::Sender<Infallible>>>,
    all_ended: tokio::sync::Mutex<mpsc::Receiver<Infallible>>,
}

impl HttpTransport {
    /// A transport that gives what arrives to `deliver`. Call it within a tokio
    /// runtime; its tasks run there.
    pub fn new(identity: Identity, deliver: Deliver) -> Self {
        Self::with_versions(identity, deliver, WIRE_VERSIONS.to_vec())
    }

    /// As [`HttpTransport::new`], but speaking these wire versions.
    fn with_versions(identity: Identity, deliver: Deliver, versions: Vec<u32>) -> Self {
        let (alive, all_ended) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            identity,
            versions,
            deliver,
            runtime: tokio::runtime::Handle::current(),
            links: RwLock::default(),
            introductions: Mutex::default(),
            next_connection: AtomicU64::new(0),
            incoming: Arc::new(Semaphore::new(MAX_INCOMING)),
            refused: Mutex::default(),
            refused_some: Notify::new(),
            lost: AtomicU64::new(0),
            closing: watch::Sender::new(false),
            alive: Mutex::new(Some(alive)),
            all_ended: tokio::sync::Mutex::new(all_ended),
        });
        let spawned = shared.spawn(give_back_refused(shared.clone()));
        assert!(spawned, "a new transport is not closing");
        HttpTransport { shared }
    }

    /// Answers a peer's `GET /internal/v1/peer`: 101 and a task that reads its
    /// messages, or a refusal with the reason. The server must serve the
    /// connection `with_upgrades`.
    pub fn accept<B>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        accept::accept(&self.shared, request)
    }

    /// Who connected to this node under this id, while the connection lasts: how
    /// to answer a node that is in no member list yet.
    pub fn introduction(&self, node: NodeId) -> Option<Introduction> {
        let introductions = lock(&self.shared.introductions);
        introductions.get(&node).map(|(_, known)| known.clone())
    }

    /// How much waits and who is connected.
    pub fn figures(&self) -> HttpFigures {
        let mut figures = HttpFigures {
            incoming: (MAX_INCOMING - self.shared.incoming.available_permits()) as u64,
            lost: self.shared.lost.load(Ordering::Relaxed),
            ..HttpFigures::default()
        };
        let links = self.shared.links.read();
        for link in links.unwrap_or_else(PoisonError::into_inner).values() {
            let (messages, bytes) = link.waiting();
            figures.links += 1;
            figures.queued_messages += messages as u64;
            figures.queued_bytes += bytes as u64;
        }
        figures
    }

    /// Sends what waits for connected peers, gives the rest back, and ends every
    /// task. Messages that are sent afterwards are dropped.
    pub async fn close(&self) {
        self.shared.closing.send_replace(true);
        // Without this sender the receiver below ends with the last task.
        drop(lock(&self.shared.alive).take());
        let mut all_ended = self.shared.all_ended.lock().await;
        let ended = all_ended.recv();
        let patience = Duration::from_millis(STALL_MS + 2 * DRAIN_MS);
        if tokio::time::timeout(patience, ended).await.is_err() {
            warn!(
                waited_ms = patience.as_millis(),
                "peer connections did not close in time"
            );
        }
    }
}

impl Transport for HttpTransport {
    fn send(&self, to: NodeId, address: &Address, message: Message) {
        let identity = &self.shared.identity;
        debug_assert_ne!(to, identity.node, "a node does not write to itself");
        self.shared.post(Some(to), address, message);
    }

    /// A contact that is not delivered comes back as a message to
    /// [`NodeId::NOBODY`]: its receiver has no name yet.
    fn contact(&self, address: &Address, message: Message) {
        let identity = &self.shared.identity;
        debug_assert_ne!(
            *address, identity.address,
            "a node does not write to itself"
        );
        self.shared.post(None, address, message);
    }

    fn address_of(&self, node: NodeId) -> Option<Address> {
        self.introduction(node).map(|known| known.address)
    }
}

impl Shared {
    fn cluster(&self) -> Option<ClusterId> {
        self.identity.cluster()
    }

    /// Starts a task, unless the transport is closing.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let Some(alive) = lock(&self.alive).clone() else {
            return false;
        };
        self.runtime.spawn(async move {
            task.await;
            drop(alive);
        });
        true
    }

    /// Returns once the transport is closing.
    async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        // An error would mean that the sender is gone, and it is in `self`.
        let _ = closing.wait_for(|closing| *closing).await;
    }

    fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Queues a message at the link to this address, or refuses it.
    fn post(self: &Arc<Self>, to: Option<NodeId>, address: &Address, message: Message) {
        let bytes = codec::room_for(&message);
        let mut letter = Letter { to, message, bytes };
        if bytes > codec::HEADER_BYTES + codec::MAX_FRAME_BYTES {
            warn!(%address, ?to, bytes, "a message is too large to send");
            return self.refuse(letter);
        }
        if self.is_closing() {
            return self.refuse(letter);
        }
        // A link may end between being found and being written to, but a new
        // one does not end before it has seen a message.
        loop {
            let Some(link) = self.link(address) else {
                return self.refuse(letter);
            };
            match link.post(letter) {
                Posted::Queued => return,
                Posted::Full(back) => return self.refuse(back),
                Posted::Ended(back) => letter = back,
            }
        }
    }

    /// The link to this address, made if there is none; none if there are too
    /// many, or the transport is closing.
    fn link(self: &Arc<Self>, address: &Address) -> Option<Arc<Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(address) {
            return Some(link.clone());
        }
        drop(links);
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(address) {
            return Some(link.clone());
        }
        if links.len() >= MAX_LINKS {
            warn!(%address, max = MAX_LINKS, "too many peer addresses");
            return None;
        }
        let link = Arc::new(Link::new(address.clone()));
        if !self.spawn(dial::run(self.clone(), link.clone())) {
            return None;
        }
        links.insert(address.clone(), link.clone());
        Some(link)
    }

    /// Takes a link without messages out of use. False if one came meanwhile.
    fn end_if_empty(&self, link: &Link) -> bool {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let ended = link.end_if_empty();
        if ended {
            links.remove(link.address());
        }
        ended
    }

    /// Has a message given back that could not be queued.
    fn refuse(&self, letter: Letter) {
        let input = undelivered(letter, true);
        if self.is_closing() {
            debug!("a message is dropped: the transport is closing");
            return;
        }
        let mut refused = lock(&self.refused);
        if refused.len() < MAX_REFUSED {
            refused.push(input);
            drop(refused);
            self.refused_some.notify_one();
        } else {
            drop(refused);
            if self.lost.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
                warn!("refused messages are being lost: too many wait to be given back");
            }
        }
    }

    /// Gives a message back from a task.
    fn give_back(&self, letter: Letter) {
        (self.deliver)(&mut vec![undelivered(letter, false)]);
    }
}

fn undelivered(letter: Letter, overloaded: bool) -> Input {
    let Letter { to, message, .. } = letter;
    Input::Undelivered {
        to: to.unwrap_or(NodeId::NOBODY),
        message,
        overloaded,
    }
}

async fn give_back_refused(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.refused_some.notified() => {}
            () = shared.closing() => return,
        }
        let mut refused = std::mem::take(&mut *lock(&shared.refused));
        (shared.deliver)(&mut refused);
    }
}
