//! The task behind a link: it dials, writes what waits, and gives back what it
//! cannot write.
//!
//! Its life: dial; on success talk until the connection ends; after a failure
//! give everything back for [`BACKOFF_MS`], or until the peer itself connects;
//! then end if nothing waits, else dial again. A link without traffic stays
//! connected.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use crate::protocol::effect::{Address, Input};
use crate::protocol::id::{ClusterId, NodeId};
use crate::transport::codec;

use super::handshake::{self, HandshakeError};
use super::link::{Letter, Link};
use super::{BACKOFF_MS, DIAL_TIMEOUT_MS, DRAIN_MS, STALL_MS, Shared};

/// How many bytes of frames one write gathers, about: everything that waits, in
/// all but the largest rushes.
const WRITE_BYTES: usize = 1 << 20;
/// A write buffer that grew beyond this for a large frame is given back.
const KEEP_BYTES: usize = 2 * WRITE_BYTES;
/// Nor is room for more letters than this kept.
const KEEP_LETTERS: usize = 1024;
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
    io: TokioIo<Upgraded>,
    peer: NodeId,
    /// Which cluster this node said it belongs to.
    met_as: Option<ClusterId>,
    /// Bytes of frames written, and receipted, in the connection's life.
    written: u64,
    receipted: u64,
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
            // What others say in this turn is given back together with it.
            () = link.filled() => tokio::task::yield_now().await,
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
    info!(%address, %peer, name = %answer.name, version = answer.version, "connected to a peer");
    Ok(Connection {
        io: TokioIo::new(upgraded),
        peer,
        met_as,
        written: 0,
        receipted: 0,
        receipts: BytesMut::with_capacity(RECEIPTS_BYTES),
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

async fn talk(shared: &Shared, link: &Link, mut connection: Connection) -> End {
    let end = talk_on(shared, link, &mut connection).await;
    let all_arrived = match &end {
        Ok(End::Broken) => false,
        Ok(End::Outdated | End::Closing) => connection.finish().await,
        Err(error) => {
            info!(address = %link.address(), peer = %connection.peer, %error, "a connection broke");
            false
        }
    };
    if !all_arrived {
        let peer = connection.peer;
        (shared.deliver)(&mut vec![Input::Disconnected { peer }]);
    }
    end.unwrap_or(End::Broken)
}

/// Writes until the connection is of no more use. What was taken from the queue
/// and not written has been given back.
async fn talk_on(
    shared: &Shared,
    link: &Link,
    connection: &mut Connection,
) -> std::io::Result<End> {
    let mut batch = Batch::default();
    let mut closing = std::pin::pin!(shared.closing());
    let mut stall_check = interval(Duration::from_millis(STALL_MS));
    stall_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What had been written and receipted at the last check.
    let mut last_check = (0, 0);
    loop {
        if connection.met_as != shared.cluster() {
            return Ok(End::Outdated);
        }
        if write_batch(shared, link, connection, &mut batch).await? {
            continue;
        }
        // Receipts come before the check, which reads them.
        tokio::select! {
            biased;
            read = connection.io.read_buf(&mut connection.receipts) => {
                if read? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                connection.read_receipts()?;
            }
            () = link.filled() => {}
            () = &mut closing => {
                // Nothing is queued any more once what waits is written: other
                // tasks may still send, but not faster than forever.
                while write_batch(shared, link, connection, &mut batch).await? {
                    if link.waiting().0 == 0 {
                        break;
                    }
                }
                return Ok(End::Closing);
            }
            _ = stall_check.tick() => {
                let (written, receipted) = last_check;
                if receipted < written && connection.receipted == receipted {
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
                last_check = (connection.written, connection.receipted);
            }
        }
    }
}

/// What one write gathers. A connection has one, whose room is used again.
#[derive(Default)]
struct Batch {
    letters: Vec<Letter>,
    /// Their frames, one after the other.
    frames: BytesMut,
    /// Where each letter's frame ends.
    ends: Vec<usize>,
}

impl Batch {
    fn clear(&mut self) {
        self.letters.clear();
        self.frames.clear();
        self.ends.clear();
        if self.frames.capacity() > KEEP_BYTES {
            self.frames = BytesMut::new();
        }
        if self.letters.capacity() > KEEP_LETTERS {
            self.letters = Vec::new();
            self.ends = Vec::new();
        }
    }
}

/// Writes some of what waits, as one write if the kernel takes it. False if
/// nothing waited.
async fn write_batch(
    shared: &Shared,
    link: &Link,
    connection: &mut Connection,
    batch: &mut Batch,
) -> std::io::Result<bool> {
    link.take(WRITE_BYTES, &mut batch.letters);
    if batch.letters.is_empty() {
        return Ok(false);
    }
    let peer = connection.peer;
    let is_misdirected = |letter: &mut Letter| letter.to.is_some_and(|to| to != peer);
    let mut misdirected = 0_u32;
    for letter in batch.letters.extract_if(.., is_misdirected) {
        misdirected += 1;
        shared.give_back(letter);
    }
    if misdirected > 0 {
        warn!(
            address = %link.address(), %peer, messages = misdirected,
            "another node listens where messages were to go"
        );
    }
    for letter in &batch.letters {
        codec::encode(&letter.message, &mut batch.frames)
            .expect("its size was checked when it was queued");
        batch.ends.push(batch.frames.len());
    }
    let outcome = connection.write(&batch.frames).await;
    if let Err((written, error)) = outcome {
        // A frame that did not leave in full can never be acted on.
        for (letter, end) in batch.letters.drain(..).zip(&batch.ends) {
            if *end > written {
                shared.give_back(letter);
            }
        }
        return Err(error);
    }
    batch.clear();
    Ok(true)
}

impl Connection {
    /// Writes it all, or says how much the kernel took.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, std::io::Error)> {
        let stall = Duration::from_millis(STALL_MS);
        let mut done = 0;
        while done < bytes.len() {
            let mut write = std::pin::pin!(self.io.write(&bytes[done..]));
            // Nearly always the kernel takes it all at once, and there is no time to
            // be looked at.
            let outcome = match poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await {
                Poll::Ready(written) => Ok(written),
                Poll::Pending => timeout(stall, write).await,
            };
            let written = match outcome {
                Ok(Ok(0)) => Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            };
            match written {
                Ok(written) => done += written,
                Err(error) => return Err((done, error)),
            }
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn read_receipts(&mut self) -> std::io::Result<()> {
        while let Some(receipt) = self.receipts.first_chunk() {
            let receipted = u64::from_be_bytes(*receipt);
            self.receipts.advance(size_of::<u64>());
            if receipted < self.receipted || receipted > self.written {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            self.receipted = receipted;
        }
        // Room again, in place.
        self.receipts.reserve(RECEIPTS_BYTES);
        Ok(())
    }

    /// Ends the connection so that the peer can read all of it: a socket closed
    /// with receipts unread would be reset. True if the peer read it all.
    async fn finish(&mut self) -> bool {
        let finishing = async {
            self.io.shutdown().await?;
            let mut rest = [0; RECEIPTS_BYTES];
            while self.io.read(&mut rest).await? > 0 {}
            std::io::Result::Ok(())
        };
        match timeout(Duration::from_millis(DRAIN_MS), finishing).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                debug!(peer = %self.peer, %error, "a connection broke while it was closed");
                false
            }
            Err(_) => false,
        }
    }
}
