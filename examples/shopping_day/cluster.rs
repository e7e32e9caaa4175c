//! The cluster that the day is played on: three nodes in this process on free
//! ports and temporary data, or one that runs already.
//!
//! Promises: when [`Cluster::start`] or [`Cluster::at`] returns, every node
//! answers and knows both tables. A node that is stopped here drains what it has
//! in hand first.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use hyper::StatusCode;
use kinfold::client::{Client, Request};
use kinfold::config::{Config, NodeSettings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The table of operations.
pub const CARTS: &str = "carts";
/// The table of whole carts.
pub const BASKETS: &str = "baskets";
const TABLES: [(&str, &str); 2] = [(CARTS, "or-cart"), (BASKETS, "cart-union")];
const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long nodes may take to start and to find each other.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
}

/// Nodes, and a client for each.
pub struct Cluster {
    pub clients: Vec<Client>,
    /// Empty when the cluster is somebody else's.
    nodes: Vec<Option<Running>>,
    addresses: Vec<SocketAddr>,
    /// Removed at the end, after the nodes have closed.
    data: Option<TempDir>,
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Cluster {
    /// Three nodes of its own.
    pub async fn start() -> anyhow::Result<Cluster> {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listeners = NAMES
            .iter()
            .map(|_| bind(free))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<Vec<_>, _>>()?;
        let mut cluster = Cluster {
            clients: clients(addresses.iter().map(ToString::to_string))?,
            nodes: Vec::new(),
            addresses,
            data: Some(tempfile::Builder::new().prefix("kinfold-day-").tempdir()?),
        };
        for (place, listener) in listeners.into_iter().enumerate() {
            let running = cluster.run(place, listener)?;
            cluster.nodes.push(Some(running));
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// The cluster with these endpoints, separated by commas.
    pub async fn at(endpoints: &str) -> anyhow::Result<Cluster> {
        let cluster = Cluster {
            clients: clients(
                endpoints
                    .split(',')
                    .map(|endpoint| endpoint.trim().to_owned()),
            )?,
            nodes: Vec::new(),
            addresses: Vec::new(),
            data: None,
        };
        cluster.ready().await?;
        Ok(cluster)
    }

    fn run(&self, place: usize, listener: TcpListener) -> anyhow::Result<Running> {
        let data = self
            .data
            .as_ref()
            .context("the cluster is somebody else's")?;
        let settings = NodeSettings {
            name: Some(NAMES[place].to_owned()),
            listen: Some(self.addresses[place].to_string()),
            data_dir: Some(data.path().join(NAMES[place])),
            seeds: Some(self.addresses.iter().map(ToString::to_string).collect()),
            ..NodeSettings::default()
        };
        let config = Config::parse("", "shopping_day", settings)?;
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            // A sender that is gone means the same as a word from it.
            let _ = stopped.await;
        };
        let ended = tokio::spawn(kinfold::server::run(config, listener, stopped));
        Ok(Running { stop, ended })
    }

    /// Whether nodes can be stopped and started here.
    pub fn is_own(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Stops a node; what it has in hand is finished first.
    pub async fn stop(&mut self, place: usize) -> anyhow::Result<()> {
        if let Some(running) = self.nodes.get_mut(place).and_then(Option::take) {
            // One that has ended already says why below.
            let _ = running.stop.send(());
            running.ended.await.context("a node panicked")??;
        }
        Ok(())
    }

    /// Starts a node that was stopped, on its old data.
    pub async fn start_again(&mut self, place: usize) -> anyhow::Result<()> {
        let running = self.run(place, bind(self.addresses[place])?)?;
        self.nodes[place] = Some(running);
        self.ready().await
    }

    /// Stops all that is its own.
    pub async fn close(mut self) -> anyhow::Result<()> {
        for place in 0..self.nodes.len() {
            self.stop(place).await?;
        }
        Ok(())
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let mut last = String::new();
        let waiting = async {
            loop {
                match self.is_ready().await {
                    Ok(()) => return,
                    Err(reason) => last = format!("{reason:#}"),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            bail!("the cluster is not ready after {PATIENCE:?}: {last}");
        }
        for (table, reconciler) in TABLES {
            self.table(table, reconciler).await?;
        }
        Ok(())
    }

    async fn is_ready(&self) -> anyhow::Result<()> {
        for (place, client) in self.clients.iter().enumerate() {
            if let Some(Some(running)) = self.nodes.get(place) {
                ensure!(
                    !running.ended.is_finished(),
                    "node {} has ended",
                    NAMES[place]
                );
            }
            let readiness = client.get("/readyz").await?;
            ensure!(
                readiness.status == StatusCode::OK,
                "{}",
                readiness.problem().detail
            );
            let view: Value = client.get("/v1/cluster").await?.json()?;
            let members = view["members"].as_array().map_or(&[][..], Vec::as_slice);
            let up = members
                .iter()
                .filter(|one| one["status"] == "up" && one["up"] == true)
                .count();
            ensure!(
                up == members.len() && up >= self.clients.len(),
                "{up} members are up"
            );
            ensure!(view["under_replicated"] == 0, "partitions lack replicas");
        }
        Ok(())
    }

    /// Makes the table if there is none, and waits until every node has it.
    async fn table(&self, table: &str, reconciler: &str) -> anyhow::Result<()> {
        let path = format!("/v1/tables/{table}");
        if self.clients[0].get(&path).await?.status == StatusCode::NOT_FOUND {
            let definition = json!({ "reconciler": reconciler }).to_string();
            let request = Request::put(&path, definition).content_type("application/json")?;
            let reply = self.clients[0].send(request).await?;
            ensure!(
                reply.status.is_success(),
                "{path}: {}",
                reply.problem().detail
            );
        }
        let mut definition = Value::Null;
        let everywhere = async {
            for client in &self.clients {
                loop {
                    let reply = client.get(&path).await?;
                    if reply.status.is_success() {
                        definition = reply.json()?;
                        break;
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
            anyhow::Ok(())
        };
        let waited = tokio::time::timeout(PATIENCE, everywhere).await;
        waited.with_context(|| format!("the table {table} has not reached every node"))??;
        let folds_with = &definition["reconciler"];
        ensure!(
            folds_with == reconciler,
            "the table {table} is folded by {folds_with}, not by {reconciler}"
        );
        Ok(())
    }
}

fn clients(endpoints: impl Iterator<Item = String>) -> anyhow::Result<Vec<Client>> {
    endpoints
        .map(|endpoint| Ok(Client::new(&endpoint)?))
        .collect()
}
