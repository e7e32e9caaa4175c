//! One kept connection to a store, and what each store wants to hear on it.
//!
//! Promises: one write for each request and as few reads as the kernel allows
//! for its answer, the same code for all stores, so that the client is cheap and
//! as cheap for one as for another (but for Garage's signatures, see `sign.rs`).
//! A connection that the server closes is an error, never a quiet second one:
//! keep-alive is part of what is compared. Not promised: anything of HTTP that
//! the stores do not use here, such as chunked bodies, which are errors.

use std::io::Write as _;
use std::net::TcpStream as StdTcpStream;
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::BUCKET;
use crate::sign::Signer;

/// Room for one answer, in bytes, to begin with; it grows to what comes.
const FIRST_BUFFER_BYTES: usize = 4 << 10;
/// No answer here is larger: one value, or a few siblings of it.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A store that load is put on.
pub struct Target {
    /// What to call it.
    pub name: &'static str,
    /// Where its nodes listen.
    pub addresses: Vec<String>,
    /// Its processes.
    pub pids: Vec<u32>,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// How many keys were put.
    pub keys: AtomicU64,
    /// The processor time that its processes take when nobody asks anything, in
    /// cores.
    pub idle_share: f64,
}

impl Target {
    /// A store without keys.
    pub fn new(
        name: &'static str,
        addresses: Vec<String>,
        pids: Vec<u32>,
        dialect: Dialect,
    ) -> Target {
        Target {
            name,
            addresses,
            pids,
            dialect,
            keys: AtomicU64::new(0),
            idle_share: 0.0,
        }
    }
}

/// How a store is spoken to.
#[derive(Clone)]
pub enum Dialect {
    /// A table without a reconciler.
    Kinfold,
    /// A bucket of K2V; items are spread over partitions of so many.
    Garage {
        signer: Box<Signer>,
        items_per_partition: u64,
    },
    /// The bare server of the floor, which takes anything.
    Bare,
}

impl Dialect {
    /// The header that carries a context, in lower case.
    fn context_name(&self) -> &'static str {
        match self {
            Dialect::Kinfold | Dialect::Bare => "kinfold-context",
            Dialect::Garage { .. } => "x-garage-causality-token",
        }
    }
}

/// What came back.
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// The item's, where there was one.
    pub context: Option<String>,
    /// How long the body was.
    pub body_bytes: usize,
    /// The body of a refusal.
    pub refusal: Option<String>,
}

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    host: String,
    dialect: Dialect,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

/// Connects and waits for it, outside of any runtime.
pub fn connect(address: &str) -> anyhow::Result<StdTcpStream> {
    let stream =
        StdTcpStream::connect(address).with_context(|| format!("{address} takes no connection"))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl Connection {
    /// Takes a connection into the runtime that this is called in.
    pub fn adopt(stream: StdTcpStream, host: &str, dialect: &Dialect) -> anyhow::Result<Self> {
        Ok(Connection {
            stream: TcpStream::from_std(stream)?,
            host: host.to_owned(),
            dialect: dialect.clone(),
            request: Vec::new(),
            buffer: Vec::with_capacity(FIRST_BUFFER_BYTES),
        })
    }

    /// Puts a value.
    pub async fn put(
        &mut self,
        key: u64,
        context: Option<&str>,
        value: &[u8],
    ) -> anyhow::Result<Answer> {
        self.begin("PUT", key)?;
        if let Some(context) = context {
            let name = self.dialect.context_name();
            write!(self.request, "{name}: {context}\r\n")?;
        }
        write!(
            self.request,
            "content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
            value.len()
        )?;
        self.request.extend_from_slice(value);
        self.exchange().await
    }

    /// Gets a value and its context.
    pub async fn get(&mut self, key: u64) -> anyhow::Result<Answer> {
        self.begin("GET", key)?;
        if let Dialect::Garage { .. } = self.dialect {
            // As it is when there is one value; all of them, in JSON, when there are more.
            self.request.extend_from_slice(b"accept: */*\r\n");
        }
        self.request.extend_from_slice(b"\r\n");
        self.exchange().await
    }

    /// The request line and the headers that every request has.
    fn begin(&mut self, method: &str, key: u64) -> anyhow::Result<()> {
        let (host, request) = (&self.host, &mut self.request);
        request.clear();
        match &mut self.dialect {
            Dialect::Kinfold | Dialect::Bare => {
                write!(
                    request,
                    "{method} /v1/tables/raw/items/k{key} HTTP/1.1\r\nhost: {host}\r\n"
                )?;
            }
            Dialect::Garage {
                signer,
                items_per_partition,
            } => {
                let path = format!("/{BUCKET}/k{}", key / *items_per_partition);
                let query = format!("sort_key=s{}", key % *items_per_partition);
                write!(
                    request,
                    "{method} {path}?{query} HTTP/1.1\r\nhost: {host}\r\n"
                )?;
                signer.sign(method, &path, &query, host, request)?;
            }
        }
        Ok(())
    }

    async fn exchange(&mut self) -> anyhow::Result<Answer> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        let head_bytes = loop {
            let known = self.buffer.len();
            self.more().await?;
            // The end of the head may lie across two reads.
            let from = known.saturating_sub(3);
            let found = self.buffer[from..]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(place) = found {
                break from + place + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..head_bytes])?;
        let (mut answer, body_bytes) = parse_head(head, self.dialect.context_name())?;
        answer.body_bytes = body_bytes;
        while self.buffer.len() < head_bytes + body_bytes {
            self.more().await?;
        }
        ensure!(
            self.buffer.len() == head_bytes + body_bytes,
            "{} sent more than it was asked for",
            self.host
        );
        if answer.status >= 400 {
            let body = String::from_utf8_lossy(&self.buffer[head_bytes..]);
            answer.refusal = Some(format!("{} {}", answer.status, body.trim()));
        }
        Ok(answer)
    }

    /// What has come, or waits for some.
    async fn more(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.buffer.len() < MAX_ANSWER_BYTES,
            "{} answers without an end",
            self.host
        );
        let read = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(
            read > 0,
            "{} closed a connection that was to be kept",
            self.host
        );
        Ok(())
    }
}

/// Status and context of an answer, and how long its body is.
fn parse_head(head: &str, context_name: &str) -> anyhow::Result<(Answer, usize)> {
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3))
        .with_context(|| format!("no answer of HTTP/1.1: {head:?}"))?
        .parse::<u16>()?;
    let mut context = None;
    let mut length = None;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse::<usize>()?);
        } else if name.eq_ignore_ascii_case(context_name) {
            context = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            bail!("the server does not keep its connections: {head:?}");
        }
    }
    // RFC 9112, 6.3: these have no body, whatever their headers say.
    let body_bytes = match (status, length) {
        (204 | 304, _) => 0,
        (_, Some(length)) => length,
        (_, None) => bail!("a body without a length, which this client does not take: {head:?}"),
    };
    let answer = Answer {
        status,
        context,
        body_bytes,
        refusal: None,
    };
    Ok((answer, body_bytes))
}
