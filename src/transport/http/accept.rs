//! The accepting side: lets peers in and reads what they say.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use crate::protocol::effect::Input;
use crate::protocol::id::NodeId;
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
    let read = tokio::select! {
        read = read(&guest, &offer, TokioIo::new(upgraded)) => read,
        () = guest.shared.closing() => Ok(()),
    };
    match read {
        Ok(()) => debug!(%node, "a peer's connection ended"),
        Err(ReadError::Io(error)) => info!(%node, %error, "a peer's connection broke"),
        Err(error) => warn!(%node, %error, "a peer's connection is closed"),
    }
}

/// Delivers what the peer says until it ends.
async fn read(guest: &Guest, offer: &Offer, mut io: TokioIo<Upgraded>) -> Result<(), ReadError> {
    let shared = &guest.shared;
    let mut decoder = Decoder::new();
    let mut inputs = Vec::new();
    let mut receipt_due = interval(Duration::from_millis(RECEIPT_EVERY_MS));
    receipt_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut arrived, mut receipted) = (0_u64, 0_u64);
    loop {
        let read = tokio::select! {
            read = io.read_buf(decoder.buffer()) => read?,
            _ = receipt_due.tick(), if arrived > receipted => {
                write_receipt(&mut io, arrived).await?;
                receipted = arrived;
                continue;
            }
        };
        if read == 0 {
            return if decoder.is_between_frames() {
                Ok(())
            } else {
                Err(ReadError::CutOff)
            };
        }
        arrived += read as u64;
        if let (Some(ours), Some(theirs)) = (shared.cluster(), offer.cluster)
            && ours != theirs
        {
            return Err(ReadError::OtherCluster);
        }
        // What came before a frame that is broken counts.
        let decoded = loop {
            match decoder.next_message() {
                Ok(Some(message)) => inputs.push(Input::Peer {
                    from: guest.node,
                    message,
                }),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if !inputs.is_empty() {
            (shared.deliver)(&mut inputs);
        }
        decoded?;
    }
}

/// The peer reads receipts, so one that cannot be written means a dead peer.
async fn write_receipt(io: &mut TokioIo<Upgraded>, arrived: u64) -> std::io::Result<()> {
    let bytes = arrived.to_be_bytes();
    match timeout(Duration::from_millis(STALL_MS), io.write_all(&bytes)).await {
        Ok(written) => written,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
