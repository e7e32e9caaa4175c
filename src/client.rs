//! A small HTTP/1.1 client for nodes: what the command line, the black-box
//! tests and the load examples speak through.
//!
//! Promises: connections are kept and used again; a request goes to one
//! endpoint at a time, and to the next one only when nothing of it was sent, so
//! no write happens twice by the client's doing; every wait ends; an answer of
//! any status is a [`Reply`], and only the lack of one is an error. Errors are
//! one line that says what to do next.
//!
//! Not promised: TLS, redirects, streaming (bodies are held whole, but for those
//! that come in lines: `stream.rs`) and fair
//! spreading of load: an endpoint that answers is kept.

mod stream;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use crate::api::path::{item_path, segment};

/// How long a request may take in all, where nothing else is said. More than
/// the server's own patience with its replicas, so that its reason arrives.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one endpoint may take to accept a connection before the next one is
/// tried: a live machine takes milliseconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How many idle connections to one endpoint are kept: as many as a load
/// example runs requests at once.
pub const MAX_IDLE_CONNECTIONS: usize = 256;
/// How long an answered request may keep its connection from being kept: a
/// server that refuses a body without reading it would keep it for ever.
pub const REUSE_PATIENCE: Duration = Duration::from_millis(20);
/// The largest answer that is taken, in bytes: a hundred siblings of a
/// megabyte, in base64, and room to spare.
pub const MAX_REPLY_BYTES: usize = 256 << 20;
/// The header that carries an item's context token.
pub const CONTEXT: HeaderName = HeaderName::from_static("kinfold-context");

/// A request: what is asked, of no one in particular.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Request {
    /// A request with no headers and no body. The path begins with `/`, is
    /// encoded, and carries the query.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Request {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Reads.
    pub fn get(path: impl Into<String>) -> Self {
        Request::new(Method::GET, path)
    }

    /// Writes.
    pub fn put(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Request {
            body: body.into(),
            ..Request::new(Method::PUT, path)
        }
    }

    /// Sends something to be worked on.
    pub fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Request {
            body: body.into(),
            ..Request::new(Method::POST, path)
        }
    }

    /// Deletes.
    pub fn delete(path: impl Into<String>) -> Self {
        Request::new(Method::DELETE, path)
    }

    /// What is asked for: the path, and the query where there is one.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// With one more header. One that HTTP cannot carry is an error when the
    /// request is sent, not silence.
    pub fn header(mut self, name: HeaderName, value: &str) -> Result<Self, ClientError> {
        let value = HeaderValue::from_str(value).map_err(|_| ClientError::BadHeader {
            name: name.to_string(),
        })?;
        self.headers.push((name, value));
        Ok(self)
    }

    /// With the media type of its body.
    pub fn content_type(self, media_type: &str) -> Result<Self, ClientError> {
        self.header(CONTENT_TYPE, media_type)
    }

    /// With a context token.
    pub fn context(self, token: &str) -> Result<Self, ClientError> {
        self.header(CONTEXT, token)
    }

    /// With one more parameter of the query.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        self.path.push(separator);
        self.path.push_str(&segment(name.as_bytes()));
        self.path.push('=');
        self.path.push_str(&segment(value.as_bytes()));
        self
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What an error answer says (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// Stable, for programs.
    pub code: String,
    /// For people.
    pub detail: String,
    pub title: String,
}

impl Reply {
    /// A header's text; none when it is absent or is not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The context token that came along.
    pub fn context(&self) -> Option<&str> {
        self.header(CONTEXT.as_str())
    }

    /// The body, as JSON.
    pub fn json<T: for<'de> Deserialize<'de>>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|source| ClientError::NotJson { source })
    }

    /// What an error answer says; empty texts when it is no problem document.
    pub fn problem(&self) -> Problem {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{endpoint:?} is no endpoint: {reason}; write it like http://127.0.0.1:8101")]
    BadEndpoint {
        endpoint: String,
        reason: &'static str,
    },
    #[error("the value for {name} holds bytes that no HTTP header can; use printable ASCII")]
    BadHeader { name: String },
    #[error("{path:?} is no path that HTTP can carry")]
    BadPath { path: String },
    /// No endpoint took a connection: nothing was sent.
    #[error(
        "nothing answers at {endpoints} ({source}); start a node with `kinfold dev`, or name one that runs with --endpoint"
    )]
    Unreachable {
        endpoints: String,
        source: std::io::Error,
    },
    #[error(
        "{endpoint} did not answer within {}; a write may have been stored all the same, so read before you repeat it",
        humantime::format_duration(*after)
    )]
    TimedOut { endpoint: String, after: Duration },
    #[error(
        "the connection to {endpoint} broke ({source}); a write may have been stored all the same, so read before you repeat it"
    )]
    Broken {
        endpoint: String,
        source: hyper::Error,
    },
    #[error("the answer of {endpoint} broke off or is over {MAX_REPLY_BYTES} bytes: {source}")]
    BadBody {
        endpoint: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "the answer is not the JSON that was expected ({source}); is the endpoint a kinfold node of this version?"
    )]
    NotJson { source: serde_json::Error },
}

impl ClientError {
    /// Whether the same request may well succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            ClientError::Unreachable { .. }
                | ClientError::TimedOut { .. }
                | ClientError::Broken { .. }
        )
    }
}

/// The `host:port` of each of these endpoints, which are written as for
/// [`Client::new`].
pub fn authorities(endpoints: &str) -> Result<Vec<String>, ClientError> {
    endpoints
        .split(',')
        .map(|endpoint| Ok(Endpoint::parse(endpoint.trim())?.authority))
        .collect()
}

type Sender = SendRequest<Full<Bytes>>;

struct Endpoint {
    /// As people write it, `http://host:port`.
    url: String,
    /// `host:port`.
    authority: String,
    host: HeaderValue,
    /// Connections that wait for a request, newest last.
    idle: Mutex<Vec<Sender>>,
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::BadEndpoint {
            endpoint: text.to_owned(),
            reason,
        };
        let authority = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err(bad("nodes speak plain HTTP, not HTTPS")),
            Some(_) => return Err(bad("the scheme is not http")),
            None => text,
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let uri: hyper::http::uri::Authority = authority
            .parse()
            .map_err(|_| bad("it is not a host and a port"))?;
        if uri.port_u16().is_none() || uri.host().is_empty() || authority.contains('@') {
            return Err(bad("it is not a host and a port"));
        }
        Ok(Endpoint {
            url: format!("http://{authority}"),
            authority: authority.to_owned(),
            host: HeaderValue::from_str(authority).map_err(|_| bad("it is not ASCII"))?,
            idle: Mutex::default(),
        })
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn give_back(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.is_closed() && idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> std::io::Result<Sender> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        // Requests are written whole; waiting to fill a packet only adds delay.
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // Whoever waits on this connection is told by its own error.
                tracing::debug!(%error, "a connection ended");
            }
        });
        Ok(sender)
    }
}

struct Inner {
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    timeout: Duration,
}

/// A client of one or several nodes. Clones share their connections. Needs a
/// tokio runtime.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl Client {
    /// A client of these endpoints: `http://host:port`, several of them
    /// separated by commas.
    pub fn new(endpoints: &str) -> Result<Self, ClientError> {
        Self::with_timeout(endpoints, DEFAULT_TIMEOUT)
    }

    /// A client whose requests end after `timeout`, connecting included.
    pub fn with_timeout(endpoints: &str, timeout: Duration) -> Result<Self, ClientError> {
        let endpoints = endpoints
            .split(',')
            .map(|endpoint| Endpoint::parse(endpoint.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Client {
            inner: Arc::new(Inner {
                endpoints,
                preferred: AtomicUsize::new(0),
                timeout,
            }),
        })
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.send(Request::get(path)).await
    }

    /// Writes.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<Reply, ClientError> {
        self.send(Request::put(path, body)).await
    }

    /// Sends something to be worked on.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<Reply, ClientError> {
        self.send(Request::post(path, body)).await
    }

    /// Deletes.
    pub async fn delete(&self, path: &str) -> Result<Reply, ClientError> {
        self.send(Request::delete(path)).await
    }

    /// Sends a request and takes in the whole answer.
    pub async fn send(&self, request: Request) -> Result<Reply, ClientError> {
        let inner = &*self.inner;
        let count = inner.endpoints.len();
        let first = inner.preferred.load(Ordering::Relaxed);
        let mut message = build(&request)?;
        let mut refusal = None;
        for turn in 0..count {
            let index = (first + turn) % count;
            let endpoint = &inner.endpoints[index];
            message.headers_mut().insert(HOST, endpoint.host.clone());
            let answer = timeout(inner.timeout, exchange(endpoint, message))
                .await
                .unwrap_or_else(|_| {
                    Err(Attempt::Failed(ClientError::TimedOut {
                        endpoint: endpoint.url.clone(),
                        after: inner.timeout,
                    }))
                });
            match answer {
                Ok(reply) => {
                    inner.preferred.store(index, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::NotSent(source, unsent)) => {
                    refusal = Some(source);
                    message = *unsent;
                }
            }
        }
        Err(self.unreachable(refusal))
    }

    /// No endpoint took a connection.
    fn unreachable(&self, refusal: Option<std::io::Error>) -> ClientError {
        let endpoints = self.inner.endpoints.iter();
        let urls: Vec<&str> = endpoints.map(|endpoint| endpoint.url.as_str()).collect();
        ClientError::Unreachable {
            endpoints: urls.join(" or "),
            source: refusal.unwrap_or_else(|| std::io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Why an endpoint gave no answer.
enum Attempt {
    /// Nothing left this machine: another endpoint may be asked the same.
    NotSent(std::io::Error, Box<hyper::Request<Full<Bytes>>>),
    Failed(ClientError),
}

fn build(request: &Request) -> Result<hyper::Request<Full<Bytes>>, ClientError> {
    let bad = || ClientError::BadPath {
        path: request.path.clone(),
    };
    if !request.path.starts_with('/') {
        return Err(bad());
    }
    let mut message = hyper::Request::builder()
        .method(request.method.clone())
        .uri(&request.path)
        .body(Full::new(request.body.clone()))
        .map_err(|_| bad())?;
    message
        .headers_mut()
        .extend(request.headers.iter().cloned());
    Ok(message)
}

/// One request on one connection: a kept one that turns out to be closed is
/// replaced by a new one, as long as nothing was sent on it.
async fn exchange(
    endpoint: &Endpoint,
    mut message: hyper::Request<Full<Bytes>>,
) -> Result<Reply, Attempt> {
    loop {
        let (mut sender, is_fresh) = match endpoint.take_idle() {
            Some(sender) => (sender, false),
            None => match endpoint.connect().await {
                Ok(sender) => (sender, true),
                Err(source) => return Err(Attempt::NotSent(source, Box::new(message))),
            },
        };
        let mut error = match sender.try_send_request(message).await {
            Ok(answer) => {
                let reply = take_in(endpoint, answer).await.map_err(Attempt::Failed)?;
                // The connection frees up a moment after the body's end, unless
                // the answer came before the request was read.
                if let Ok(Ok(())) = timeout(REUSE_PATIENCE, sender.ready()).await {
                    endpoint.give_back(sender);
                }
                return Ok(reply);
            }
            Err(error) => error,
        };
        match error.take_message() {
            Some(unsent) if !is_fresh => message = unsent,
            Some(unsent) => {
                let source = std::io::Error::other(error.into_error());
                return Err(Attempt::NotSent(source, Box::new(unsent)));
            }
            None => {
                return Err(Attempt::Failed(ClientError::Broken {
                    endpoint: endpoint.url.clone(),
                    source: error.into_error(),
                }));
            }
        }
    }
}

async fn take_in(
    endpoint: &Endpoint,
    answer: hyper::Response<hyper::body::Incoming>,
) -> Result<Reply, ClientError> {
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MAX_REPLY_BYTES)
        .collect()
        .await
        .map_err(|source| ClientError::BadBody {
            endpoint: endpoint.url.clone(),
            source,
        })?
        .to_bytes();
    Ok(Reply {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}

#[cfg(test)]
mod tests;
