//! Three `kinfold serve` processes to put load on, and connections to them.
//!
//! Promises: the processes are stopped when [`Servers`] goes; they listen on
//! ports that were free a moment ago, with two tables, `raw` (no reconciler) and
//! `counters` (`pn-counter`), and have found each other when [`Servers::start`]
//! returns. Each can be stopped, and started again on its data.

// Each bench compiles this file and uses a part of it.
#![allow(dead_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinfold::client::{CONTEXT, Client};
use serde_json::Value;
use tokio::net::TcpStream;

/// The names of the nodes.
pub const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long three nodes may take to start and to find each other.
const PATIENCE: Duration = Duration::from_secs(60);
/// Linux counts processor time for `/proc` in hundredths of a second on every
/// machine that kinfold runs on (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// The tables, in the config file that all nodes share.
pub const TABLES: &str = "[tables.raw]\n[tables.counters]\nreconciler = \"pn-counter\"\n";

/// Three processes, stopped when this goes.
pub struct Servers {
    pub children: Vec<Child>,
    pub addresses: Vec<String>,
    /// Where each node's data is, in a folder of its name, with config and logs.
    data: PathBuf,
    /// The command that runs a node, up to the arguments that are its own.
    command: Vec<String>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already needs no end.
            let _ = child.kill().and_then(|()| child.wait().map(drop));
        }
    }
}

impl Servers {
    /// Starts three nodes on ports that were free a moment ago, with the config file
    /// `kinfold.toml` in `data`, which is made of [`TABLES`] if it is not there. `under`
    /// is a command that runs them, like `taskset -c 0`; nothing runs them directly.
    pub async fn start(
        data: &Path,
        server: &Path,
        durability: &str,
        under: &[&str],
    ) -> anyhow::Result<Servers> {
        let free: Vec<TcpListener> = NAMES
            .iter()
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let addresses: Vec<String> = free
            .iter()
            .map(|one| Ok(one.local_addr()?.to_string()))
            .collect::<anyhow::Result<_>>()?;
        drop(free);
        let config = data.join("kinfold.toml");
        if !config.exists() {
            std::fs::write(&config, TABLES)?;
        }
        let text = |path: &Path| path.to_str().map(str::to_owned).context("an odd path");
        let mut command: Vec<String> = under.iter().map(|&part| part.to_owned()).collect();
        command.push(text(server)?);
        let flags = ["serve", "--log", "warn", "--durability", durability];
        command.extend(flags.map(str::to_owned));
        command.extend(["--seeds".to_owned(), addresses.join(",")]);
        command.extend(["--config".to_owned(), text(&config)?]);
        let mut servers = Servers {
            children: Vec::new(),
            addresses,
            data: data.to_owned(),
            command,
        };
        for (name, address) in NAMES.iter().zip(servers.addresses.clone()) {
            let child = servers.spawn(name, &address)?;
            servers.children.push(child);
        }
        let waiting = tokio::time::timeout(PATIENCE, servers.ready());
        waiting.await.context("the nodes do not find each other")?;
        Ok(servers)
    }

    /// Starts a node of this name, which may be a fourth.
    pub fn spawn(&self, name: &str, address: &str) -> anyhow::Result<Child> {
        let (program, flags) = self.command.split_first().context("a command")?;
        Command::new(program)
            .args(flags)
            .args(["--name", name, "--listen", address])
            .arg("--data-dir")
            .arg(self.data.join(name))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(
                self.data.join(format!("{name}.log")),
            )?)
            .spawn()
            .context("the server does not start")
    }

    /// The folder of a node's data.
    pub fn data_of(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// Kills a node.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        let child = &mut self.children[index];
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts a node again that was killed.
    pub fn revive(&mut self, index: usize) -> anyhow::Result<()> {
        self.children[index] = self.spawn(NAMES[index], &self.addresses[index])?;
        Ok(())
    }

    /// Ends when all three are ready and see each other.
    pub async fn ready(&self) {
        for address in &self.addresses {
            while !is_ready(address).await.unwrap_or(false) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// How much memory the three processes hold, and how much they held at most,
    /// each, in bytes.
    pub fn memory_bytes(&self) -> anyhow::Result<(Vec<u64>, Vec<u64>)> {
        let mut now = Vec::new();
        let mut most = Vec::new();
        for child in &self.children {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
            let of = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                let kib = line.and_then(|line| line.split_whitespace().next());
                kib.context("an odd file in /proc")?
                    .parse::<u64>()
                    .map(|kib| kib << 10)
                    .context("a number")
            };
            now.push(of("VmRSS:")?);
            most.push(of("VmHWM:")?);
        }
        Ok((now, most))
    }

    /// User and system time of the three processes so far, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let mut ticks = 0.0;
        for child in &self.children {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
            // The second field is a name in parentheses, which may hold anything.
            let (_, fields) = stat.rsplit_once(") ").context("an odd line in /proc")?;
            let fields: Vec<&str> = fields.split(' ').collect();
            ticks += fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        }
        Ok(ticks / TICKS_PER_SECOND)
    }
}

async fn is_ready(address: &str) -> anyhow::Result<bool> {
    let client = Client::new(address)?;
    if client.get("/readyz").await?.status != StatusCode::OK {
        return Ok(false);
    }
    for table in ["raw", "counters"] {
        if client.get(&format!("/v1/tables/{table}")).await?.status != StatusCode::OK {
            return Ok(false);
        }
    }
    let view: Value = client.get("/v1/cluster").await?.json()?;
    let up = |member: &&Value| member["up"] == true && member["status"] == "up";
    let members = view["members"].as_array().context("members")?;
    Ok(members.iter().filter(up).count() >= NAMES.len() && view["under_replicated"] == 0)
}

/// One connection that is kept.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub async fn open(address: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection {
            sender,
            host: address.to_owned(),
        })
    }

    /// One exchange that has to succeed; the answer's body is read to its end.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        context: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let answer = self.exchange(method, path, context, body).await?;
        ensure!(
            answer.status().is_success() || answer.status() == StatusCode::MULTIPLE_CHOICES,
            "{path}: {} {}",
            answer.status(),
            String::from_utf8_lossy(answer.body()),
        );
        Ok(answer)
    }

    /// One exchange, whatever the answer; its body is read to its end.
    pub async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        context: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(context) = context {
            request = request.header(CONTEXT, context);
        }
        self.sender.ready().await?;
        let answer = self
            .sender
            .send_request(request.body(Full::new(body))?)
            .await?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}
