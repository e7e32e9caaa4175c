//! A cluster of real processes: what every black-box test stands on.
//!
//! Promises: each node is its own `kinfold serve` with its own config file, data
//! directory and port; nothing is shared with another test's cluster; a test
//! waits for conditions, never for time to pass; when a test fails, what its
//! nodes said is shown; no process outlives its test binary, however that ends
//! (see [`reaper`]).

// Every test binary compiles this file and uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod http;
mod reaper;
pub mod signals;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use kinfold::clock::{Clock, SystemClock};
use serde_json::Value;
use tempfile::TempDir;

pub use http::{Expect, Http, item};
pub use kinfold::client::{Reply, Request};
pub use reaper::{forget, watch};

/// The binary under test.
pub const KINFOLD: &str = env!("CARGO_BIN_EXE_kinfold");
/// How long anything may take that should take moments: many times what a busy
/// machine needs, so that only what never happens runs into it.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How often a cluster is tried with other ports when some were taken between
/// their choice and their use.
const MAX_PORT_TRIES: u32 = 5;
/// Ports are taken from here: below those that the system gives to outgoing
/// connections, so that none of these takes the port of a node that is down.
const PORTS: std::ops::Range<u32> = 12_000..30_000;
/// How many nodes hold a partition unless a plan says otherwise.
const REPLICAS: usize = 3;
/// How much of a node's log is shown when a test fails, in lines.
const SHOWN_LOG_LINES: usize = 60;

/// Waits until `look` finds something.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let clock = SystemClock::new();
    loop {
        let reason = match look() {
            Ok(found) => return found,
            Err(reason) => reason,
        };
        assert!(
            clock.now().monotonic_ms < PATIENCE.as_millis() as u64,
            "not within {PATIENCE:?}: {what}; last: {reason}"
        );
        thread::sleep(POLL);
    }
}

/// Waits until `look` is true.
#[track_caller]
pub fn until(what: &str, mut look: impl FnMut() -> bool) {
    eventually(what, || {
        if look() {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Test binaries that run side by side begin at different places.
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let span = PORTS.end - PORTS.start;
        let port = (PORTS.start + (std::process::id().wrapping_mul(97) + step) % span) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What the nodes of a cluster are told, besides their names and ports.
#[derive(Clone, Default)]
pub struct Plan {
    /// Further TOML, like `[tables.raw]`.
    pub toml: String,
}

impl Plan {
    /// Nodes with these tables and sections.
    pub fn with(toml: &str) -> Self {
        Plan {
            toml: toml.to_owned(),
        }
    }
}

/// How the process of a node is started, besides its arguments.
#[derive(Clone, Default)]
pub struct Launch {
    /// A command that runs it in its own place, like `nsenter …`.
    pub under: Vec<String>,
    /// All of its environment.
    pub env: Vec<(String, String)>,
}

/// One node: what is on disk of it, and the process when it runs.
pub struct Node {
    pub name: String,
    host: String,
    pub port: u16,
    dir: PathBuf,
    launch: Mutex<Launch>,
    process: Mutex<Option<Child>>,
    http: Http,
}

impl Node {
    fn new(dir: &Path, name: &str, host: &str, port: u16) -> Self {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).expect("a folder for the node");
        Node {
            name: name.to_owned(),
            host: host.to_owned(),
            port,
            dir,
            launch: Mutex::default(),
            process: Mutex::default(),
            http: Http::at(&[format!("{host}:{port}")]),
        }
    }

    /// Says how its process is to be started from now on.
    pub fn set_launch(&self, launch: Launch) {
        *self.launch.lock().unwrap_or_else(PoisonError::into_inner) = launch;
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// As the command line wants it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Forgets everything but compiled code, which only costs time to make again.
    pub fn forget(&self) {
        for entry in fs::read_dir(self.data_dir()).expect("a data directory") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                fs::remove_file(path).expect("it goes");
            } else if !path.ends_with("compiled") {
                fs::remove_dir_all(path).expect("it goes");
            }
        }
    }

    /// The names of the members that this node knows.
    pub fn members(&self) -> Vec<String> {
        let view = self.try_view().expect("the node runs");
        let members = view["members"].as_array().expect("members");
        members
            .iter()
            .map(|member| member["node"].as_str().expect("a name").to_owned())
            .collect()
    }

    fn log(&self) -> PathBuf {
        self.dir.join("stderr.log")
    }

    /// Writes the node's config file.
    pub fn configure(&self, seeds: &[String], toml: &str) {
        let text = format!(
            "[node]\nname = {:?}\nlisten = {:?}\ndata_dir = {:?}\nseeds = {seeds:?}\n\n\
             [cluster]\ngossip_interval = \"100ms\"\n\n{toml}\n",
            self.name,
            self.address(),
            self.data_dir(),
        );
        fs::write(self.dir.join("node.toml"), text).expect("a config file");
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process; does not wait until it serves.
    pub fn start(&self) {
        let mut process = self.lock();
        assert!(process.is_none(), "node {} runs already", self.name);
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log())
            .expect("a log file");
        let launch = self.launch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = match launch.under.split_first() {
            None => Command::new(KINFOLD),
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(KINFOLD);
                command
            }
        };
        let child = command
            .args(["serve", "--log", "info", "--config"])
            .arg(self.dir.join("node.toml"))
            // What the tests' own environment says of nodes is not meant for these.
            .env_clear()
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        reaper::watch(&child);
        *process = Some(child);
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.lock().as_ref().expect("the node runs").id()
    }

    /// `kill -9`, at once and without a word.
    pub fn kill9(&self) {
        let mut child = self.lock().take().expect("the node runs");
        child.kill().expect("it can be killed");
        reaper::forget(&child);
        child.wait().expect("it ends");
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self) -> ExitStatus {
        let mut child = self.lock().take().expect("the node runs");
        signals::terminate(&child);
        let status = wait(&mut child);
        reaper::forget(&child);
        status
    }

    /// Stops the process in its tracks: its connections stay, its answers do not
    /// come.
    pub fn pause(&self) {
        signals::stop(self.lock().as_ref().expect("the node runs"));
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        signals::signal(self.lock().as_ref().expect("the node runs"), "CONT");
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&self) -> bool {
        let mut process = self.lock();
        let ended = match process.as_mut() {
            None => true,
            Some(child) => child.try_wait().expect("a child").is_some(),
        };
        if ended && let Some(child) = process.take() {
            reaper::forget(&child);
        }
        ended
    }

    /// Whether a process of it is there, as far as anyone has looked.
    pub fn is_started(&self) -> bool {
        self.lock().is_some()
    }

    /// Waits until the process has ended by itself, and says how.
    #[track_caller]
    pub fn wait_end(&self) -> ExitStatus {
        let mut child = self.lock().take().expect("the node runs");
        let status = wait(&mut child);
        reaper::forget(&child);
        status
    }

    /// What the node said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn http(&self) -> &Http {
        &self.http
    }

    /// What `/readyz` says: nothing when the node serves.
    pub fn not_ready(&self) -> Option<String> {
        match self.http.try_send(Request::get("/readyz")) {
            Ok(reply) if reply.status == 200 => None,
            Ok(reply) => Some(reply.problem().detail),
            Err(error) => Some(error.to_string()),
        }
    }

    /// `GET /v1/cluster`, as long as somebody listens.
    pub fn try_view(&self) -> Result<Value, String> {
        let reply = self
            .http
            .try_send(Request::get("/v1/cluster"))
            .map_err(|error| error.to_string())?;
        reply.json().map_err(|error| error.to_string())
    }

    /// How many members this node sees up.
    pub fn sees_up(&self) -> Result<usize, String> {
        let view = self.try_view()?;
        let members = view["members"].as_array().ok_or("no members")?;
        let up = |member: &&Value| member["status"] == "up" && member["up"] == true;
        Ok(members.iter().filter(up).count())
    }

    /// Waits until the node serves.
    #[track_caller]
    pub fn wait_ready(&self) {
        eventually(&format!("node {} is ready", self.name), || {
            self.not_ready().map_or(Ok(()), Err)
        });
    }

    /// The hints that this node holds for each other one that it holds some for.
    pub fn hints(&self) -> BTreeMap<String, u64> {
        let view = self.try_view().expect("the node runs");
        let members = view["members"].as_array().expect("members");
        let of = |member: &Value| {
            let name = member["node"].as_str().expect("a name").to_owned();
            (name, member["hints"].as_u64().expect("a count"))
        };
        members
            .iter()
            .map(of)
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// Waits for a process that was asked to end.
#[track_caller]
pub fn wait(child: &mut Child) -> ExitStatus {
    eventually("the process ends", || {
        child
            .try_wait()
            .expect("a child")
            .ok_or_else(|| "it runs".to_owned())
    })
}

/// Several nodes, and the folder in which they live.
pub struct Cluster {
    pub nodes: Vec<Node>,
    plan: Plan,
    dir: TempDir,
}

/// The names of nodes, in order.
pub const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl Cluster {
    /// Nodes that have config files, with every one of them as seed, and do not
    /// run yet.
    pub fn prepare(count: usize, plan: Plan) -> Self {
        let at = |_| ("127.0.0.1".to_owned(), free_port());
        Cluster::prepare_at((0..count).map(at).collect(), plan)
    }

    /// The same, at these hosts and ports.
    pub fn prepare_at(places: Vec<(String, u16)>, plan: Plan) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kinfold-test-")
            .tempdir()
            .expect("a temporary folder");
        reaper::remove_at_end(dir.path());
        assert!(places.len() <= NAMES.len(), "a name for each");
        let nodes: Vec<Node> = NAMES
            .iter()
            .zip(places)
            .map(|(name, (host, port))| Node::new(dir.path(), name, &host, port))
            .collect();
        let cluster = Cluster { nodes, plan, dir };
        cluster.configure();
        cluster
    }

    fn configure(&self) {
        for node in &self.nodes {
            node.configure(&self.seeds(), &self.plan.toml);
        }
    }

    /// The addresses of all nodes, in order.
    pub fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }

    /// A cluster of this many nodes that see one another.
    pub fn start(count: usize, plan: Plan) -> Self {
        for _ in 0..MAX_PORT_TRIES {
            let cluster = Cluster::prepare(count, plan.clone());
            for node in &cluster.nodes {
                node.start();
            }
            if cluster.settle() {
                return cluster;
            }
            // Someone took a port between its choice and its use.
        }
        panic!("no cluster after {MAX_PORT_TRIES} choices of ports");
    }

    /// Waits until all running nodes serve and see all nodes up. False when a
    /// node could not have its port.
    #[track_caller]
    pub fn settle(&self) -> bool {
        let count = self.nodes.len();
        eventually("the cluster settles", || {
            for node in &self.nodes {
                if node.has_ended() {
                    if node.said().contains("cannot listen") {
                        return Ok(false);
                    }
                    return Err(format!("node {} has ended", node.name));
                }
                if let Some(reason) = node.not_ready() {
                    return Err(format!("{}: {reason}", node.name));
                }
                let up = node.sees_up()?;
                if up != count {
                    return Err(format!("{} sees {up} of {count} nodes up", node.name));
                }
                let view = node.try_view()?;
                if count >= REPLICAS && view["under_replicated"] != 0 {
                    return Err(format!("{}: partitions lack replicas", node.name));
                }
            }
            Ok(true)
        })
    }

    /// Starts a node again and waits until it serves.
    #[track_caller]
    pub fn restart(&self, index: usize) {
        self.nodes[index].start();
        self.nodes[index].wait_ready();
    }

    /// A client that talks to this node only.
    pub fn at(&self, index: usize) -> &Http {
        self.nodes[index].http()
    }

    /// Waits until a node sees another one up, or down.
    #[track_caller]
    pub fn wait_seen(&self, by: usize, of: usize, up: bool) {
        let name = &self.nodes[of].name;
        until(
            &format!("{} sees {name} up: {up}", self.nodes[by].name),
            || {
                let Ok(view) = self.nodes[by].try_view() else {
                    return false;
                };
                let members = view["members"].as_array().expect("members");
                members
                    .iter()
                    .any(|member| member["node"] == **name && member["up"] == up)
            },
        );
    }

    /// Waits until no running node holds a hint.
    #[track_caller]
    pub fn wait_no_hints(&self) {
        until("no hint is left", || {
            let running = self.nodes.iter().filter(|node| node.lock().is_some());
            running.map(Node::hints).all(|hints| hints.is_empty())
        });
    }

    /// The indices of an item's preference list, primaries first.
    pub fn preference(&self, table: &str, key: &str) -> Vec<usize> {
        let path = format!("/v1/cluster/ring/{table}/{key}");
        let running = self.nodes.iter().find(|node| node.lock().is_some());
        let ring = running
            .expect("a node runs")
            .http()
            .get(&path)
            .is(200)
            .document();
        let places = ring["preference_list"].as_array().expect("a list");
        places
            .iter()
            .map(|place| self.index(place["node"].as_str().expect("a name")))
            .collect()
    }

    /// The index of the node with this name.
    pub fn index(&self, name: &str) -> usize {
        self.nodes
            .iter()
            .position(|node| node.name == name)
            .expect("a node of this cluster")
    }

    /// The folder of this cluster, for files of the test's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the nodes said last, for whoever reads a failure.
    fn show_logs(&self) {
        for node in &self.nodes {
            let said = node.said();
            let lines: Vec<&str> = said.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LOG_LINES);
            eprintln!("---- node {} ({})", node.name, node.address());
            eprintln!("{}", lines[from..].join("\n"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
        }
        for node in &self.nodes {
            if let Some(mut child) = node.lock().take() {
                // It may have ended by itself.
                let _ended = child.kill();
                reaper::forget(&child);
                let _ended = child.wait();
            }
        }
    }
}

/// A cluster that the tests of a file share, as one of them sees it: it shows
/// what the nodes said when that test fails.
pub struct Shared(pub &'static Cluster);

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.show_logs();
        }
    }
}
