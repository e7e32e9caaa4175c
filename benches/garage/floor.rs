//! What a put and a get cost at the least on this machine: hyper, SQLite and
//! loopback TCP with no store around them.
//!
//! Promises: each part runs in a process of its own, and its processor time is
//! that process's, from `/proc`. A put is counted as three rows, one exchange
//! and two messages to peers, a get as two reads, one exchange and one message.
//! The parts:
//!
//! - an exchange: a bare hyper server on one thread, keep-alive, that reads a PUT
//!   to its end or answers a GET with a value, asked by the same client as the
//!   stores;
//! - a row: rusqlite, a table with a rowid and a unique index of its keys, pages
//!   of 4 KiB, write-ahead log, `synchronous=FULL`, 64 rows a commit, keys in
//!   order; and the same with scattered keys, as a hash of the key gives them,
//!   which is told but not counted in the floor;
//! - a read: a point read by that index, 64 to a snapshot, all pages in SQLite's own
//!   cache;
//! - a message: a frame of a value and [`FRAME_OVERHEAD_BYTES`], written to a
//!   loopback connection and read from it, eight to a write, both sides counted.
//!
//! Not in it: encoding, checksums, tasks that wake each other, answers of peers.
//! Nothing that stores can be as cheap as this floor.

use std::convert::Infallible;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rusqlite::{Connection as Sqlite, params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

use crate::load::{self, Load, Phase};
use crate::processes::own_cpu_seconds;
use crate::wire::{Dialect, Target};
use crate::{Args, output_of};

/// What measures.md takes the floor with.
const EXCHANGE_CONNECTIONS: usize = 32;
/// Rows of one commit: a full batch of 64 writers.
const ROWS_A_COMMIT: u64 = 64;
/// Reads of one snapshot: as many, so that its locks cost each of them next to
/// nothing.
const READS_A_SNAPSHOT: u64 = 64;
/// Rows that are read: few enough that SQLite's cache holds their pages.
const READ_ROWS: u64 = 20_000;
/// SQLite's cache for the reads.
const CACHE_KIB: u32 = 64 << 10;
/// What a message carries besides a value: key, context and header, about.
const FRAME_OVERHEAD_BYTES: usize = 100;
/// Messages that are written at once.
const MESSAGES_A_WRITE: u64 = 8;

/// What a child process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    Exchange,
    Rows,
    Messages,
}

/// Processor time of the parts, in microseconds each.
#[derive(Serialize, Clone, Copy)]
pub struct Floor {
    pub put_exchange_us: f64,
    pub get_exchange_us: f64,
    pub row_us: f64,
    pub scattered_row_us: f64,
    pub read_us: f64,
    pub message_us: f64,
}

/// What the child of the rows says.
#[derive(Serialize, Deserialize)]
struct Rows {
    row_us: f64,
    scattered_row_us: f64,
    read_us: f64,
}

/// What the child of the messages says.
#[derive(Serialize, Deserialize)]
struct Messages {
    message_us: f64,
}

impl Floor {
    /// Of a put with three copies.
    pub fn put_us(&self) -> f64 {
        3.0 * self.row_us + self.put_exchange_us + 2.0 * self.message_us
    }

    /// Of a get that asks two.
    pub fn get_us(&self) -> f64 {
        2.0 * self.read_us + self.get_exchange_us + self.message_us
    }

    /// Measures all parts, one after another.
    pub fn measure(args: &Args, load: &Load) -> anyhow::Result<Floor> {
        let duration = Duration::from_secs_f64(args.floor_seconds);
        let load = Load {
            connections: EXCHANGE_CONNECTIONS,
            duration,
            ..load.clone()
        };
        let server = Server::start(args)?;
        let target = Arc::new(Target::new(
            "floor",
            vec![server.address.clone()],
            vec![server.child.id()],
            Dialect::Bare,
        ));
        let put = load::closed(&target, Phase::Put, &load)?;
        let get = load::closed(&target, Phase::Get, &load)?;
        drop(server);
        let rows: Rows = serde_json::from_str(&output_of(&mut command(args, Part::Rows)?)?)?;
        let messages: Messages =
            serde_json::from_str(&output_of(&mut command(args, Part::Messages)?)?)?;
        Ok(Floor {
            put_exchange_us: put.cpu_us,
            get_exchange_us: get.cpu_us,
            row_us: rows.row_us,
            scattered_row_us: rows.scattered_row_us,
            read_us: rows.read_us,
            message_us: messages.message_us,
        })
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "floor: put {:.1} µs, get {:.1} µs (exchange {:.1} and {:.1}, row {:.1}, \
             scattered {:.1}, read {:.1}, message {:.1})",
            self.put_us(),
            self.get_us(),
            self.put_exchange_us,
            self.get_exchange_us,
            self.row_us,
            self.scattered_row_us,
            self.read_us,
            self.message_us,
        )
    }
}

/// This program as one part of the floor.
fn command(args: &Args, part: Part) -> anyhow::Result<Command> {
    let part = part.to_possible_value().context("a part without a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--floor", part.get_name()])
        .args(["--floor-seconds", &args.floor_seconds.to_string()])
        .args(["--value-bytes", &args.value_bytes.to_string()]);
    if let Some(folder) = &args.data_dir {
        command.arg("--data-dir").arg(folder);
    }
    Ok(command)
}

/// The bare server, stopped when this goes.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(args: &Args) -> anyhow::Result<Server> {
        let mut child = command(args, Part::Exchange)?
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("a pipe was asked for")?;
        let mut server = Server {
            child,
            address: String::new(),
        };
        BufReader::new(output).read_line(&mut server.address)?;
        server.address = server.address.trim().to_owned();
        ensure!(!server.address.is_empty(), "the bare server does not start");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("process {} is not stopped: {error}", self.child.id());
        }
    }
}

/// What a child process does; its answer goes to standard output.
pub fn child(part: Part, args: &Args) -> anyhow::Result<()> {
    let duration = Duration::from_secs_f64(args.floor_seconds);
    let said = match part {
        Part::Exchange => return exchange(args.value_bytes),
        Part::Rows => serde_json::to_value(rows(args, duration)?)?,
        Part::Messages => json!(Messages {
            message_us: messages(args.value_bytes, duration)?
        }),
    };
    println!("{said}");
    Ok(())
}

/// Answers until it is killed.
fn exchange(value_bytes: usize) -> anyhow::Result<()> {
    let value = Bytes::from(vec![b'v'; value_bytes]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let value = value.clone();
            let service = service_fn(move |request| answer(request, value.clone()));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

async fn answer(
    request: Request<Incoming>,
    value: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::default();
    if request.method() == Method::GET {
        *response.body_mut() = Full::new(value);
        return Ok(response);
    }
    let body = request.into_body().collect().await;
    *response.status_mut() = match body.map(|body| body.to_bytes().len()) {
        Ok(bytes) if bytes == value.len() => StatusCode::NO_CONTENT,
        _ => StatusCode::BAD_REQUEST,
    };
    Ok(response)
}

/// Processor time of each call, in microseconds, with as many calls as fit; a
/// call says how many things it did.
fn each_us(
    duration: Duration,
    mut once: impl FnMut(u64) -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    let (before, begin) = (own_cpu_seconds()?, Instant::now());
    let mut done = 0;
    while begin.elapsed() < duration {
        done += once(done)?;
    }
    Ok((own_cpu_seconds()? - before) * 1e6 / done as f64)
}

fn rows(args: &Args, duration: Duration) -> anyhow::Result<Rows> {
    let data = match &args.data_dir {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let value = vec![b'v'; args.value_bytes];
    let open = |name: &str| {
        let database = Sqlite::open(data.path().join(name))?;
        database.execute_batch(&format!(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA cache_size = -{CACHE_KIB};
             CREATE TABLE items(id INTEGER PRIMARY KEY, key BLOB NOT NULL, row BLOB NOT NULL);
             CREATE UNIQUE INDEX items_by_key ON items(key);"
        ))?;
        anyhow::Ok(database)
    };
    let write = |database: &Sqlite, key: fn(u64) -> [u8; 16]| {
        each_us(duration, |first| {
            database.execute_batch("BEGIN")?;
            let mut insert =
                database.prepare_cached("INSERT INTO items(key, row) VALUES (?1, ?2)")?;
            for row in first..first + ROWS_A_COMMIT {
                insert.execute(params![key(row), value])?;
            }
            database.execute_batch("COMMIT")?;
            Ok(ROWS_A_COMMIT)
        })
    };
    let ordered = open("ordered.db")?;
    let row_us = write(&ordered, in_order)?;
    let rows: i64 = ordered.query_row("SELECT count(*) FROM items", [], |row| row.get(0))?;
    let readable = u64::try_from(rows)?.min(READ_ROWS);
    let mut select = ordered.prepare("SELECT row FROM items WHERE key = ?1")?;
    let read_us = each_us(duration, |first| {
        ordered.execute_batch("BEGIN")?;
        for read in first..first + READS_A_SNAPSHOT {
            let key = in_order(scatter(read) % readable);
            let found: Vec<u8> = select.query_row(params![key], |row| row.get(0))?;
            ensure!(found.len() == value.len(), "a row of another length");
        }
        ordered.execute_batch("COMMIT")?;
        Ok(READS_A_SNAPSHOT)
    })?;
    let scattered_row_us = write(&open("scattered.db")?, scattered)?;
    Ok(Rows {
        row_us,
        scattered_row_us,
        read_us,
    })
}

/// Mixes the bits of a number (the last steps of SplitMix64).
fn scatter(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn in_order(row: u64) -> [u8; 16] {
    u128::from(row).to_be_bytes()
}

fn scattered(row: u64) -> [u8; 16] {
    (u128::from(scatter(row)) << 64 | u128::from(row)).to_be_bytes()
}

fn messages(value_bytes: usize, duration: Duration) -> anyhow::Result<f64> {
    let listener = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut to = StdTcpStream::connect(listener.local_addr()?)?;
    let (mut from, _) = listener.accept()?;
    to.set_nodelay(true)?;
    let frames = vec![b'v'; (value_bytes + FRAME_OVERHEAD_BYTES) * MESSAGES_A_WRITE as usize];
    let mut read = vec![0; frames.len()];
    // More than the kernel holds of a connection would wait for itself for ever.
    ensure!(
        frames.len() <= 64 << 10,
        "values this large make no floor; leave it out with --floor-seconds 0"
    );
    each_us(duration, |_| {
        to.write_all(&frames)?;
        from.read_exact(&mut read)?;
        Ok(MESSAGES_A_WRITE)
    })
}
