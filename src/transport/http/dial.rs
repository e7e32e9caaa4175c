//! The task behind a link: it dials, gives back what cannot be written, and minds the
//! connection while those who send write on it (`link.rs`).
//!
//! Its life: dial; on success mind the connection until it ends; after a failure
//! give everything back for [`BACKOFF_MS`], or until the peer itself connects;
//! then end if nothing waits, else dial again. A link without traffic stays
//! connected.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use crate::protocol::effect::{Address, Input};
use crate::protocol::id::{ClusterId, NodeId};

use super::handshake::{self, HandshakeError};
use super::link::Link;
use super::outlet::{Outlet, Outlook, Troubles};
use super::{BACKOFF_MS, DIAL_TIMEOUT_MS, DRAIN_MS, STALL_MS, Shared};

/// How much of a refusal's text is read.
const MAX_REFUSAL_BYTES: usize = 4096;
/// Receipts are eight bytes: room for a minute of them.
const RECEIPTS_BYTES: usize = 1024;

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no connection within {DIAL_TIMEOUT_MS} ms")]
    TimedOut,
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("no HTTP upgrade: {0}")]
    Http(#[from] hyper::Error),
    #[error("the address cannot stand in an HTTP header")]
    BadAddress,
    #[error("refused with {status}: {detail}")]
    Refused { status: StatusCode, detail: String },
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// A connection that both sides agreed on.
struct Connection {
    stream: TcpStream,
    peer: NodeId,
    /// Which cluster this node said it belongs to.
    met_as: Option<ClusterId>,
    /// What the peer has said already.
    receipts: BytesMut,
}

/// How talking ended.
enum End {
    Broken,
    /// This node joined a cluster since the handshake: the peer should know.
    Outdated,
    Closing,
}

/// The task of one link.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) {
    loop {
        let dialed = tokio::select! {
            dialed = timeout(Duration::from_millis(DIAL_TIMEOUT_MS), dial(&shared, link.address())) => {
                dialed.unwrap_or(Err(DialError::TimedOut))
            }
            () = shared.closing() => return give_back_all(&shared, &link),
        };
        match dialed {
            Ok(connection) => match talk(&shared, &link, connection).await {
                End::Broken => {}
                End::Outdated => continue,
                End::Closing => return give_back_all(&shared, &link),
            },
            // Somebody is there and will not talk: a person has to know.
            Err(error @ (DialError::Refused { .. } | DialError::Handshake(_))) => {
                warn!(address = %link.address(), %error, "a peer and this node will not talk");
            }
            // Nobody is there: the machine says so when it takes the node for dead.
            Err(error) => debug!(address = %link.address(), %error, "a peer cannot be reached"),
        }
        back_off(&shared, &link).await;
        if shared.end_if_empty(&link) {
            return;
        }
    }
}

fn give_back_all(shared: &Shared, link: &Link) {
    let mut letters = Vec::new();
    link.take(usize::MAX, &mut letters);
    for letter in letters {
        shared.give_back(letter);
    }
}

async fn back_off(shared: &Shared, link: &Link) {
    let mut over = std::pin::pin!(sleep(Duration::from_millis(BACKOFF_MS)));
    let mut met = std::pin::pin!(link.met());
    loop {
        give_back_all(shared, link);
        tokio::select! {
            // A peer that has connected waits for answers: they come after its
            // introduction, and are dialed for instead of given back.
            biased;
            () = &mut met => return,
            () = &mut over => return,
            () = shared.closing() => return,
            () = link.wanted() => {}
        }
    }
}

async fn dial(shared: &Shared, address: &Address) -> Result<Connection, DialError> {
    let stream = TcpStream::connect(&**address).await?;
    stream.set_nodelay(true)?;
    let met_as = shared.cluster();
    let request = handshake::request::<Empty<Bytes>>(&shared.identity, &shared.versions, address)
        .ok_or(DialError::BadAddress)?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let answer =
            handshake::read_answer(&shared.identity, &shared.versions, response.headers())?;
        Ok((answer, hyper::upgrade::on(response).await?))
    };
    let (exchanged, driven) = tokio::join!(exchange, driver.with_upgrades());
    let (answer, upgraded) = exchanged?;
    driven?;
    let peer = NodeId::of(&answer.name);
    let upgraded = upgraded.downcast::<TokioIo<TcpStream>>();
    let upgraded = upgraded.expect("it is the stream that was dialed");
    let mut receipts = BytesMut::with_capacity(RECEIPTS_BYTES);
    receipts.extend_from_slice(&upgraded.read_buf);
    info!(%address, %peer, name = %answer.name, version = answer.version, "connected to a peer");
    Ok(Connection {
        stream: upgraded.io.into_inner(),
        peer,
        met_as,
        receipts,
    })
}

async fn refusal(response: hyper::Response<Incoming>) -> DialError {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES);
    let text = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return DialError::Refused {
                status,
                detail: error.to_string(),
            };
        }
    };
    let problem: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    let detail = problem
        .as_ref()
        .and_then(|problem| problem["detail"].as_str());
    DialError::Refused {
        status,
        detail: detail.map_or_else(|| text.escape_ascii().to_string(), str::to_owned),
    }
}

async fn talk(shared: &Shared, link: &Link, connection: Connection) -> End {
    let peer = connection.peer;
    let (reading, writing) = connection.stream.into_split();
    let mut receipts = Receipts {
        reading,
        bytes: connection.receipts,
        receipted: 0,
    };
    link.connect(Outlet::new(writing, peer, connection.met_as));
    let end = mind(shared, link, &mut receipts).await;
    let outlet = link.disconnect().expect("nobody else disconnects a link");
    let (lost, writing) = outlet.end();
    for letter in lost {
        shared.give_back(letter);
    }
    let all_arrived = match &end {
        Ok(End::Broken) => false,
        Ok(End::Outdated | End::Closing) => finish(peer, receipts.reading, writing).await,
        Err(error) => {
            info!(address = %link.address(), %peer, %error, "a connection broke");
            false
        }
    };
    if !all_arrived {
        (shared.deliver)(&mut vec![Input::Disconnected { peer }]);
    }
    end.unwrap_or(End::Broken)
}

/// Sees to what those who write leave, until the connection is of no more use.
async fn mind(shared: &Shared, link: &Link, receipts: &mut Receipts) -> std::io::Result<End> {
    let mut closing = std::pin::pin!(shared.closing());
    let mut is_closing = false;
    let mut stall_check = interval(Duration::from_millis(STALL_MS));
    stall_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What had been written and receipted at the last check.
    let mut last_check = (0, 0);
    // What came with the handshake.
    receipts.take_in(0)?;
    loop {
        let outlook = link.write(shared);
        if outlook == Outlook::Wants {
            let Troubles {
                misdirected,
                error,
                is_outdated,
            } = link.with_outlet(Outlet::troubles).unwrap_or_default();
            for letter in misdirected {
                shared.give_back(letter);
            }
            match error {
                Some(error) => return Err(error),
                None if is_outdated => return Ok(End::Outdated),
                // There is more to write than one turn should hold others up for.
                None => tokio::task::yield_now().await,
            }
            continue;
        }
        // Nothing is queued any more once the transport is closing.
        if is_closing && outlook == Outlook::Good {
            if link.has_written_all() {
                return Ok(End::Closing);
            }
            continue;
        }
        let interest = match outlook {
            Outlook::Waits => Interest::READABLE | Interest::WRITABLE,
            Outlook::Good | Outlook::Wants => Interest::READABLE,
        };
        // Receipts come before the check, which reads them.
        tokio::select! {
            biased;
            ready = receipts.reading.ready(interest) => {
                if ready?.is_readable() {
                    receipts.read(link)?;
                }
            }
            () = link.wanted() => {}
            () = &mut closing, if !is_closing => is_closing = true,
            _ = stall_check.tick() => {
                let (written, receipted) = (written(link), receipts.receipted);
                if last_check.1 < last_check.0 && receipted == last_check.1 {
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
                last_check = (written, receipted);
            }
        }
    }
}

/// Bytes of frames written in the life of the link's connection.
fn written(link: &Link) -> u64 {
    let written = link.with_outlet(|outlet| outlet.written());
    written.expect("whoever minds a connection has one")
}

/// What a peer says on a connection that was dialed to it: how much has arrived.
struct Receipts {
    reading: OwnedReadHalf,
    /// What has come of the next one.
    bytes: BytesMut,
    /// Bytes of frames receipted in the connection's life.
    receipted: u64,
}

impl Receipts {
    /// Reads what has come.
    fn read(&mut self, link: &Link) -> std::io::Result<()> {
        match self.reading.try_read_buf(&mut self.bytes) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        self.take_in(written(link))
    }

    /// Takes in what the peer said; so many bytes can have arrived there.
    fn take_in(&mut self, written: u64) -> std::io::Result<()> {
        while let Some(receipt) = self.bytes.first_chunk() {
            let receipted = u64::from_be_bytes(*receipt);
            self.bytes.advance(size_of::<u64>());
            if receipted < self.receipted || receipted > written {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            self.receipted = receipted;
        }
        // Room again, in place.
        self.bytes.reserve(RECEIPTS_BYTES);
        Ok(())
    }
}

/// Ends the connection so that the peer can read all of it: a socket closed
/// with receipts unread would be reset. True if the peer read it all.
async fn finish(peer: NodeId, mut reading: OwnedReadHalf, mut writing: OwnedWriteHalf) -> bool {
    let finishing = async {
        writing.shutdown().await?;
        let mut rest = [0; RECEIPTS_BYTES];
        while reading.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    match timeout(Duration::from_millis(DRAIN_MS), finishing).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            debug!(%peer, %error, "a connection broke while it was closed");
            false
        }
        Err(_) => false,
    }
}
