//! One kept connection to a node.
//!
//! Promises: one request at a time, in the task of whoever asks (nothing is
//! spawned, and nothing is handed from one task to another); answers are read to
//! their end, and no more than [`MAX_KEPT_BYTES`] of them is kept. Deliberately
//! less than [`crate::client`]: the load shares a machine with what it loads.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{CONNECT_TIMEOUT, CONTEXT};

/// How much of the body of a refusal is kept: problem documents are smaller.
const MAX_KEPT_BYTES: usize = 4096;

/// What a node answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub context: Option<HeaderValue>,
    /// How long the value is, or would be for a HEAD.
    pub length_bytes: Option<u64>,
    pub retry_after_s: Option<u64>,
    /// The beginning of the body, where it says why something was refused.
    pub refusal: Vec<u8>,
}

/// A connection that is kept.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// What moves the bytes: polled together with the exchange that waits for them.
    driver: http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
    is_over: bool,
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(authority: &str) -> io::Result<Connection> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(authority))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        // Requests are written whole; waiting to fill a packet only adds delay.
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        Ok(Connection {
            sender,
            driver,
            is_over: false,
        })
    }

    /// Whether it is of no more use.
    pub fn is_over(&self) -> bool {
        self.is_over || self.sender.is_closed()
    }

    /// One exchange. After an error, and when it was dropped before its end, the
    /// connection is of no more use.
    pub async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Failed> {
        let Connection {
            sender,
            driver,
            is_over,
        } = self;
        let mut asking = pin!(ask(sender, request));
        poll_fn(|task| {
            if let Poll::Ready(answer) = asking.as_mut().poll(task) {
                return Poll::Ready(answer);
            }
            let mut ended = None;
            if !*is_over && let Poll::Ready(result) = Pin::new(&mut *driver).poll(task) {
                *is_over = true;
                ended = Some(result);
            }
            // What ended the connection is told to whoever asks, if anything is.
            match (asking.as_mut().poll(task), ended) {
                (Poll::Pending, Some(result)) => Poll::Ready(Err(Failed {
                    unsent: None,
                    source: match result {
                        Ok(()) => io::ErrorKind::UnexpectedEof.into(),
                        Err(error) => io::Error::other(error),
                    },
                })),
                (polled, _) => polled,
            }
        })
        .await
    }
}

/// Why an exchange came to nothing.
#[derive(Debug)]
pub struct Failed {
    /// The request, when nothing of it was sent: a node may have closed a
    /// connection that idled.
    pub unsent: Option<Box<Request<Full<Bytes>>>>,
    pub source: io::Error,
}

impl From<hyper::Error> for Failed {
    fn from(error: hyper::Error) -> Self {
        Failed {
            unsent: None,
            source: io::Error::other(error),
        }
    }
}

async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Failed> {
    if let Err(error) = sender.ready().await {
        return Err(Failed {
            unsent: Some(Box::new(request)),
            source: io::Error::other(error),
        });
    }
    let answer = sender.try_send_request(request).await;
    let (parts, mut body) = answer
        .map_err(|mut error| Failed {
            unsent: error.take_message().map(Box::new),
            source: io::Error::other(error.into_error()),
        })?
        .into_parts();
    let number = |name| parts.headers.get(name)?.to_str().ok()?.parse().ok();
    let mut answer = Answer {
        status: parts.status,
        context: parts.headers.get(CONTEXT).cloned(),
        length_bytes: number(CONTENT_LENGTH),
        retry_after_s: number(RETRY_AFTER),
        refusal: Vec::new(),
    };
    let is_refusal = parts.status.is_client_error() || parts.status.is_server_error();
    while let Some(frame) = body.frame().await {
        if let (true, Ok(data)) = (is_refusal, frame?.into_data()) {
            let room = MAX_KEPT_BYTES.saturating_sub(answer.refusal.len());
            answer
                .refusal
                .extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(answer)
}
