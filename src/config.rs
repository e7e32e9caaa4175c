//! The config file and what overrides it, parsed and checked.
//!
//! Promises: every key has a default but `node.name`; a key that nobody knows
//! is an error; an error is one line that names the key and, for a file, the
//! line, or else the flag; a [`Config`] that exists has been checked, so that
//! nothing behind it checks again. Durations and sizes are written with units
//! (`"500ms"`, `"64MiB"`).
//!
//! Not promised: that what a config names can be had. Binding the address,
//! making the folder and finding the seeds is the work of who runs it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::protocol::catalog::{MAX_TABLES, TableDefinition};
use crate::protocol::effect::Address;
use crate::protocol::machine::DEFAULT_BACKGROUND_PERCENT;
use crate::table_spec::{self, TableSpec};

mod locate;
mod serving;
#[cfg(test)]
mod tests;
mod units;

use locate::Lines;
pub use serving::{MAX_SERVING_THREADS, Scheduling, ServingConfig};

/// The longest name of a node or zone, in bytes: both travel in every gossip.
pub const MAX_NODE_NAME_BYTES: usize = 64;
/// The most seeds a node may be given: each is asked when a node starts, and a
/// handful is enough to find a cluster of any size.
pub const MAX_SEEDS: usize = 64;
/// The most partitions that a ring may be cut into.
pub const MAX_PARTITIONS: u32 = 1 << 16;
/// The most replicas of a partition.
pub const MAX_REPLICAS: u32 = 16;
/// A shorter `reap_after` would be no wait at all.
pub const MIN_REAP_AFTER: Duration = Duration::from_secs(10);
/// The largest weight: weights are kept in thousandths, and 1,000 times the
/// usual node is beyond any machine.
pub const MAX_WEIGHT: f64 = 1000.0;
/// Where a node listens when nothing says otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8101";

/// Everything that a node is told when it starts.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub node: NodeConfig,
    pub cluster: ClusterConfig,
    pub sandbox: SandboxConfig,
    pub serving: ServingConfig,
    /// Tables to propose to the cluster, by name.
    pub tables: BTreeMap<Arc<str>, TableDefinition>,
}

/// The `[node]` section.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeConfig {
    /// Unique in the cluster: 1..=64 bytes of `[A-Za-z0-9._-]`.
    pub name: Arc<str>,
    /// Where the node binds. Port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// What others are told to connect to, where it was given; see
    /// [`NodeConfig::advertised`].
    pub advertise: Option<Address>,
    /// Where the node keeps its files; made when it is missing.
    pub data_dir: PathBuf,
    /// Whom to ask for a cluster, `host:port` each. Empty: the node is its own
    /// only seed, so it founds a cluster of one that others may join.
    pub seeds: Vec<Address>,
    /// The node's share of the data relative to others, over 0, at most 1,000.
    pub weight: f64,
    /// Replicas go to distinct zones while there are enough of them.
    pub zone: Arc<str>,
    pub durability: Durability,
}

impl NodeConfig {
    /// What others are told to connect to: `advertise`, or else the address
    /// that was bound, which has the port that the system chose.
    pub fn advertised(&self, bound: SocketAddr) -> Address {
        match &self.advertise {
            Some(address) => address.clone(),
            None => bound.to_string().into(),
        }
    }

    /// The seeds, or the node itself when it was given none.
    pub fn seeds_or_self(&self, bound: SocketAddr) -> Vec<Address> {
        if self.seeds.is_empty() {
            vec![self.advertised(bound)]
        } else {
            self.seeds.clone()
        }
    }
}

/// What an acknowledged write survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Power loss: every acknowledgement waits for an fsync.
    #[default]
    Commit,
    /// A crash of the process, but not of the machine.
    Os,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Commit => "commit",
            Durability::Os => "os",
        })
    }
}

/// The `[cluster]` section.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Into how many partitions the ring is cut: a power of two, fixed when the
    /// cluster is born.
    pub partitions: u32,
    /// How many nodes hold a partition, fixed when the cluster is born.
    pub replicas: u32,
    /// How often a node gossips with a peer.
    #[serde(deserialize_with = "units::duration")]
    pub gossip_interval: Duration,
    /// How often a pair of primaries compares a partition.
    #[serde(deserialize_with = "units::duration")]
    pub exchange_interval: Duration,
    /// How old a tombstone grows before it may be forgotten, and how far apart the
    /// looks at it are; longer than any message can be under way.
    #[serde(deserialize_with = "units::duration")]
    pub reap_after: Duration,
    /// How much of a store's time goes to work that no client waits for, while
    /// clients ask all the time; see `protocol/machine/background.rs`.
    pub background_percent: u32,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            partitions: 256,
            replicas: 3,
            gossip_interval: Duration::from_secs(1),
            exchange_interval: Duration::from_secs(60),
            reap_after: Duration::from_secs(3600),
            background_percent: DEFAULT_BACKGROUND_PERCENT,
        }
    }
}

/// The `[sandbox]` section: what one call of a reconciler may use, and how many
/// calls there are at once.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// What one call may burn, about one unit for each WebAssembly instruction:
    /// the limit that decides, since it is the same on every machine.
    pub fuel: u64,
    /// The largest linear memory of a call, in bytes.
    #[serde(rename = "memory", deserialize_with = "units::size")]
    pub memory_bytes: u64,
    /// The most that a call may take by the clock, the backstop behind the fuel.
    #[serde(deserialize_with = "units::duration")]
    pub deadline: Duration,
    /// How many threads run calls; 0 is one for each core.
    pub workers: u32,
    /// How many calls may wait for a thread before more are refused.
    pub queue: u32,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        SandboxConfig {
            fuel: 4_000_000_000,
            memory_bytes: 16 << 20,
            deadline: Duration::from_secs(30),
            workers: 0,
            queue: 1024,
        }
    }
}

/// The `[node]` section as someone wrote it: in the file, or in flags and
/// `KINFOLD_…` variables. What is none was not said.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    pub name: Option<String>,
    pub listen: Option<String>,
    pub advertise: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub seeds: Option<Vec<String>>,
    pub weight: Option<f64>,
    pub zone: Option<String>,
    pub durability: Option<Durability>,
}

impl NodeSettings {
    /// What these settings say, and what the others say where these are silent.
    fn or(self, other: NodeSettings) -> NodeSettings {
        NodeSettings {
            name: self.name.or(other.name),
            listen: self.listen.or(other.listen),
            advertise: self.advertise.or(other.advertise),
            data_dir: self.data_dir.or(other.data_dir),
            seeds: self.seeds.or(other.seeds),
            weight: self.weight.or(other.weight),
            zone: self.zone.or(other.zone),
            durability: self.durability.or(other.durability),
        }
    }

    fn says(&self, key: &str) -> bool {
        match key {
            "name" => self.name.is_some(),
            "listen" => self.listen.is_some(),
            "advertise" => self.advertise.is_some(),
            "data_dir" => self.data_dir.is_some(),
            "seeds" => self.seeds.is_some(),
            "weight" => self.weight.is_some(),
            "zone" => self.zone.is_some(),
            "durability" => self.durability.is_some(),
            _ => false,
        }
    }
}

/// Why there is no config. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// What was said cannot be meant. `place` is empty, or says where and ends
    /// with a colon and a space.
    #[error("{place}{key}: {reason}")]
    Invalid {
        place: String,
        key: String,
        reason: String,
    },
}

/// The file as it is written.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct File {
    node: NodeSettings,
    cluster: ClusterConfig,
    sandbox: SandboxConfig,
    serving: ServingConfig,
    tables: BTreeMap<String, TableSpec>,
}

/// What is wrong with the value of a key, before it is known where that stands.
struct Fault {
    key: Vec<String>,
    reason: String,
}

fn fault(key: &[&str], reason: impl Into<String>) -> Fault {
    Fault {
        key: key.iter().map(ToString::to_string).collect(),
        reason: reason.into(),
    }
}

impl Config {
    /// Reads the file, if there is one, and lets `overrides` win over its
    /// `[node]` section.
    pub fn load(path: Option<&Path>, overrides: NodeSettings) -> Result<Config, ConfigError> {
        match path {
            None => Config::parse("", "", overrides),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                        path: path.to_owned(),
                        source,
                    })?;
                Config::parse(&text, &path.display().to_string(), overrides)
            }
        }
    }

    /// Parses the text of a config file. `file` is what errors call it.
    pub fn parse(text: &str, file: &str, overrides: NodeSettings) -> Result<Config, ConfigError> {
        let parsed: File = toml::from_str(text).map_err(|error| {
            let lines = Lines::of(text);
            let line = error.span().map(|span| lines.line(span.start));
            // A text with a key twice is no TOML, and so has no keys to look up;
            // but what stands at the place of the error is that key.
            let twice = error.message() == "duplicate key";
            let key = error.span().and_then(|span| match twice {
                true => text.get(span).map(one_line),
                false => lines.key_at(span),
            });
            ConfigError::Invalid {
                place: place(file, line),
                key: key.unwrap_or_else(|| "the file is not TOML".to_owned()),
                reason: one_line(error.message()),
            }
        })?;
        let said = overrides.clone();
        check(parsed, overrides).map_err(|Fault { key, reason }| {
            let overridden = match key.as_slice() {
                [section, key, ..] if section == "node" && said.says(key) => Some(key.clone()),
                _ => None,
            };
            let place = match overridden {
                Some(key) => format!(
                    "--{} or KINFOLD_{}: ",
                    key.replace('_', "-"),
                    key.to_uppercase()
                ),
                None => Lines::of(text)
                    .line_of(&key)
                    .map_or_else(String::new, |line| place(file, Some(line))),
            };
            ConfigError::Invalid {
                place,
                key: key.join("."),
                reason,
            }
        })
    }
}

fn place(file: &str, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{file} line {line}: "),
        None => format!("{file}: "),
    }
}

/// Errors are one line: scripts and logs read them by the line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn check(file: File, overrides: NodeSettings) -> Result<Config, Fault> {
    let node = check_node(overrides.or(file.node))?;
    check_cluster(&file.cluster)?;
    check_sandbox(&file.sandbox)?;
    if file.serving.threads > MAX_SERVING_THREADS {
        let reason = format!("must be at most {MAX_SERVING_THREADS}");
        return Err(fault(&["serving", "threads"], reason));
    }
    if file.tables.len() > MAX_TABLES {
        return Err(fault(
            &["tables"],
            format!("a cluster holds at most {MAX_TABLES} tables"),
        ));
    }
    let mut tables = BTreeMap::new();
    for (name, spec) in file.tables {
        if !table_spec::is_name(&name) {
            let reason = format!("no name for a table; one has {}", table_spec::NAME_RULE);
            return Err(fault(&["tables", &name], reason));
        }
        let definition = spec.into_definition().map_err(|error| {
            let text = error.to_string();
            // These errors begin with the key that they are about.
            match text.split_once(": ") {
                Some((key, reason)) => fault(&["tables", &name, key], reason),
                None => fault(&["tables", &name], text),
            }
        })?;
        tables.insert(name.into(), definition);
    }
    Ok(Config {
        node,
        cluster: file.cluster,
        sandbox: file.sandbox,
        serving: file.serving,
        tables,
    })
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=MAX_NODE_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits {
        Ok(())
    } else {
        Err(format!(
            "{name:?} is no name; one has 1..={MAX_NODE_NAME_BYTES} letters, digits, dots, hyphens and underscores"
        ))
    }
}

/// Checks `host:port`, where the host is a name, an IPv4 or a bracketed IPv6
/// address that another machine could connect to.
fn check_reachable(address: &str) -> Result<Address, String> {
    let shape = || format!("{address:?} is not host:port, like \"10.0.0.7:8101\"");
    let (host, port) = address.rsplit_once(':').ok_or_else(shape)?;
    let port: u16 = port.parse().map_err(|_| shape())?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let host_fits = if bracketed {
        address.parse::<SocketAddr>().is_ok()
    } else {
        !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if !host_fits {
        return Err(shape());
    }
    if port == 0 {
        return Err(format!(
            "nothing can connect to port 0 of {address:?}; name the port that the node listens on"
        ));
    }
    if address
        .parse::<SocketAddr>()
        .is_ok_and(|parsed| parsed.ip().is_unspecified())
    {
        return Err(format!(
            "nothing can connect to the wildcard {address:?}; name an address that the other nodes reach this one by"
        ));
    }
    Ok(address.into())
}

fn check_node(said: NodeSettings) -> Result<NodeConfig, Fault> {
    let Some(name) = said.name else {
        return Err(fault(
            &["node", "name"],
            "a node needs a name of its own; give one with --name, KINFOLD_NAME or name = \"a\" under [node]",
        ));
    };
    check_name(&name).map_err(|reason| fault(&["node", "name"], reason))?;

    let listen = said.listen.as_deref().unwrap_or(DEFAULT_LISTEN);
    let listen: SocketAddr = listen.parse().map_err(|_| {
        let reason = format!(
            "{listen:?} is not an IP address and a port, like \"127.0.0.1:8101\" or \"0.0.0.0:8101\""
        );
        fault(&["node", "listen"], reason)
    })?;
    let advertise = match said.advertise {
        Some(address) => Some(
            check_reachable(&address).map_err(|reason| fault(&["node", "advertise"], reason))?,
        ),
        None if listen.ip().is_unspecified() => {
            let reason = format!(
                "{listen} listens everywhere, so others must be told where; set advertise to an address that they reach this node by, like \"10.0.0.7:{}\"",
                listen.port()
            );
            return Err(fault(&["node", "listen"], reason));
        }
        None => None,
    };

    let said_seeds = said.seeds.unwrap_or_default();
    if said_seeds.len() > MAX_SEEDS {
        return Err(fault(
            &["node", "seeds"],
            format!("a few seeds find any cluster; {MAX_SEEDS} is the most"),
        ));
    }
    let mut seeds: Vec<Address> = Vec::new();
    for seed in &said_seeds {
        let seed = check_reachable(seed).map_err(|reason| fault(&["node", "seeds"], reason))?;
        if !seeds.contains(&seed) {
            seeds.push(seed);
        }
    }

    let weight = said.weight.unwrap_or(1.0);
    // Weights travel in thousandths, so anything smaller would be none at all.
    if !(0.001..=MAX_WEIGHT).contains(&weight) {
        return Err(fault(
            &["node", "weight"],
            format!("{weight} is not from 0.001 to {MAX_WEIGHT}"),
        ));
    }
    let zone = said.zone.unwrap_or_else(|| "default".to_owned());
    check_name(&zone).map_err(|reason| fault(&["node", "zone"], reason))?;
    let data_dir = said
        .data_dir
        .unwrap_or_else(|| Path::new("data").join(&name));
    if data_dir.as_os_str().is_empty() {
        return Err(fault(&["node", "data_dir"], "the path is empty"));
    }
    Ok(NodeConfig {
        name: name.into(),
        listen,
        advertise,
        data_dir,
        seeds,
        weight,
        zone: zone.into(),
        durability: said.durability.unwrap_or_default(),
    })
}

fn check_cluster(cluster: &ClusterConfig) -> Result<(), Fault> {
    if !cluster.partitions.is_power_of_two() || cluster.partitions > MAX_PARTITIONS {
        let reason = format!(
            "{} is not a power of two from 1 to {MAX_PARTITIONS}",
            cluster.partitions
        );
        return Err(fault(&["cluster", "partitions"], reason));
    }
    if !(1..=MAX_REPLICAS).contains(&cluster.replicas) {
        let reason = format!("{} is not from 1 to {MAX_REPLICAS}", cluster.replicas);
        return Err(fault(&["cluster", "replicas"], reason));
    }
    for (key, interval) in [
        ("gossip_interval", cluster.gossip_interval),
        ("exchange_interval", cluster.exchange_interval),
    ] {
        if interval < Duration::from_millis(1) {
            return Err(fault(&["cluster", key], "under 1ms, which is no pause"));
        }
    }
    if cluster.reap_after < MIN_REAP_AFTER {
        let reason = format!(
            "under {}: what a deletion superseded could still be under way",
            humantime::format_duration(MIN_REAP_AFTER)
        );
        return Err(fault(&["cluster", "reap_after"], reason));
    }
    let percent = cluster.background_percent;
    if !(1..=100).contains(&percent) {
        let reason = format!("{percent} is not a share of time from 1 to 100 percent");
        return Err(fault(&["cluster", "background_percent"], reason));
    }
    Ok(())
}

fn check_sandbox(sandbox: &SandboxConfig) -> Result<(), Fault> {
    let at_least = |key: &str, value: u64, least: u64| {
        (value >= least)
            .then_some(())
            .ok_or_else(|| fault(&["sandbox", key], format!("must be at least {least}")))
    };
    at_least("fuel", sandbox.fuel, 1)?;
    // One page of WebAssembly memory, which every guest needs.
    at_least("memory", sandbox.memory_bytes, 1 << 16)?;
    at_least("queue", u64::from(sandbox.queue), 1)?;
    if sandbox.deadline < Duration::from_millis(1) {
        return Err(fault(
            &["sandbox", "deadline"],
            "under 1ms, in which no module ends",
        ));
    }
    Ok(())
}
