//! The accepting side: lets peers in and reads what they say.
//!
//! Each connection has two tasks: one that reads and does nothing else, so that what
//! comes is all that it is woken for, and one that writes receipts, and ends both when
//! the transport closes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use crate::protocol::effect::Input;
use crate::protocol::id::{ClusterId, NodeId};
use crate::protocol::message::Introduction;
use crate::transport::codec::{Decoder, FrameError};

use super::handshake::{self, HandshakeError, Offer};
use super::{DIAL_TIMEOUT_MS, RECEIPT_EVERY_MS, STALL_MS, Shared, lock};

/// Why a peer's connection ended before its end.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it ends within a frame")]
    CutOff,
    #[error("this node has joined another cluster meanwhile")]
    OtherCluster,
}

pub(super) fn accept<B>(shared: &Arc<Shared>, mut request: Request<B>) -> Response<Full<Bytes>> {
    match admit(shared, &mut request) {
        Ok(version) => handshake::welcome(&shared.identity, version),
        Err(error) => {
            warn!(%error, "a peer is refused");
            error.to_response()
        }
    }
}

fn admit<B>(shared: &Arc<Shared>, request: &mut Request<B>) -> Result<u32, HandshakeError> {
    let offer = handshake::read_offer(request.headers())?;
    let version = handshake::judge(&shared.identity, &shared.versions, &offer)?;
    let permit = shared.incoming.clone().try_acquire_owned();
    let permit = permit.map_err(|_| HandshakeError::TooManyPeers)?;
    let upgrade = hyper::upgrade::on(request);
    info!(
        node = %offer.node(), name = %offer.name, address = %offer.address, version,
        "a peer connects"
    );
    let guest = Guest::introduce(shared.clone(), &offer, permit);
    if shared.spawn(serve(guest, offer, upgrade)) {
        Ok(version)
    } else {
        Err(HandshakeError::Closing)
    }
}

/// A connected peer; known by name and address for as long as this lives.
struct Guest {
    shared: Arc<Shared>,
    node: NodeId,
    connection: u64,
    _permit: OwnedSemaphorePermit,
}

impl Guest {
    fn introduce(shared: Arc<Shared>, offer: &Offer, permit: OwnedSemaphorePermit) -> Self {
        let node = offer.node();
        let connection = shared.next_connection.fetch_add(1, Ordering::Relaxed);
        let introduction = Introduction {
            node,
            name: offer.name.clone(),
            address: offer.address.clone(),
            cluster: offer.cluster,
        };
        lock(&shared.introductions).insert(node, (connection, introduction));
        let links = shared.links.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(&offer.address) {
            link.meet();
        }
        drop(links);
        Guest {
            shared,
            node,
            connection,
            _permit: permit,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut introductions = lock(&self.shared.introductions);
        // A peer that connected again has introduced itself again.
        if introductions
            .get(&self.node)
            .is_some_and(|(at, _)| *at == self.connection)
        {
            introductions.remove(&self.node);
        }
    }
}

async fn serve(guest: Guest, offer: Offer, upgrade: OnUpgrade) {
    let node = guest.node;
    let upgraded = tokio::select! {
        upgraded = timeout(Duration::from_millis(DIAL_TIMEOUT_MS), upgrade) => upgraded,
        () = guest.shared.closing() => return,
    };
    let upgraded = match upgraded {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return warn!(%node, %error, "a peer's connection was not upgraded"),
        Err(_) => return warn!(%node, "a peer's connection was not upgraded in time"),
    };
    let (reading, writing) = tokio::io::split(TokioIo::new(upgraded));
    let listener = Listener {
        shared: guest.shared.clone(),
        node,
        cluster: offer.cluster,
        io: reading,
        arrived: Arc::default(),
    };
    let arrived = listener.arrived.clone();
    let mut listening = guest.shared.runtime.spawn(listener.listen());
    let receipted = tokio::select! {
        heard = &mut listening => return tell_of_end(node, heard),
        error = write_receipts(writing, &arrived) => Err(error.into()),
        () = guest.shared.closing() => Ok(()),
    };
    // Nothing more is delivered once the guest is forgotten.
    listening.abort();
    match listening.await {
        Err(error) if error.is_cancelled() => tell_of_end(node, Ok(receipted)),
        heard => tell_of_end(node, heard),
    }
}

fn tell_of_end(node: NodeId, heard: Result<Result<(), ReadError>, JoinError>) {
    match heard {
        Ok(Ok(())) => debug!(%node, "a peer's connection ended"),
        Ok(Err(ReadError::Io(error))) => info!(%node, %error, "a peer's connection broke"),
        Ok(Err(error)) => warn!(%node, %error, "a peer's connection is closed"),
        Err(error) => warn!(%node, %error, "what a peer said could not be taken in"),
    }
}

/// Delivers what one peer says.
struct Listener {
    shared: Arc<Shared>,
    node: NodeId,
    /// Which cluster the peer said it belongs to.
    cluster: Option<ClusterId>,
    io: ReadHalf<TokioIo<Upgraded>>,
    /// How many bytes have come.
    arrived: Arc<AtomicU64>,
}

impl Listener {
    /// Delivers until the connection ends.
    async fn listen(mut self) -> Result<(), ReadError> {
        let mut decoder = Decoder::new();
        let mut inputs = Vec::new();
        loop {
            let read = self.io.read_buf(decoder.buffer()).await?;
            if read == 0 {
                return if decoder.is_between_frames() {
                    Ok(())
                } else {
                    Err(ReadError::CutOff)
                };
            }
            self.arrived.fetch_add(read as u64, Ordering::Relaxed);
            if let (Some(ours), Some(theirs)) = (self.shared.cluster(), self.cluster)
                && ours != theirs
            {
                return Err(ReadError::OtherCluster);
            }
            // What came before a frame that is broken counts.
            let decoded = loop {
                match decoder.next_message() {
                    Ok(Some(message)) => inputs.push(Input::Peer {
                        from: self.node,
                        message,
                    }),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if !inputs.is_empty() {
                (self.shared.deliver)(&mut inputs);
            }
            decoded?;
        }
    }
}

/// Says now and then how much has arrived, until that cannot be said: the peer reads
/// receipts, so one that cannot be written means a dead peer.
async fn write_receipts(
    mut io: WriteHalf<TokioIo<Upgraded>>,
    arrived: &AtomicU64,
) -> std::io::Error {
    let mut due = interval(Duration::from_millis(RECEIPT_EVERY_MS));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut receipted = 0;
    loop {
        due.tick().await;
        let arrived = arrived.load(Ordering::Relaxed);
        if arrived == receipted {
            continue;
        }
        let bytes = arrived.to_be_bytes();
        match timeout(Duration::from_millis(STALL_MS), io.write_all(&bytes)).await {
            Ok(Ok(())) => receipted = arrived,
            Ok(Err(error)) => return error,
            Err(_) => return std::io::ErrorKind::TimedOut.into(),
        }
    }
}
