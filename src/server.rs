//! A server: every part wired to the others, and run until it is told to stop.
//!
//! The only file that names adapters: SQLite under the store's trait, the
//! sandbox under the guests', HTTP under the transport's. Promises: nothing is
//! served before the node knows its tables; after `shutdown` new requests are
//! refused, those in hand are finished for up to [`DRAIN`], and the store closes
//! cleanly; a disk that did not take a sync ends the process with
//! [`EXIT_FAILED_SYNC`] before anyone is answered. `connections.rs` accepts.

pub mod connections;
mod scheduling;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::api::{self, Api};
use crate::clock::{Clock, Dice, SystemClock};
use crate::config::{Config, Durability};
use crate::metrics::Metrics;
use crate::node::{ModuleError, ModuleFigures, Modules, Node, Ports};
use crate::protocol::catalog::{Digest, ModuleInfo};
use crate::protocol::effect::{Input, StoreError};
use crate::protocol::id::NodeId;
use crate::protocol::machine::{MEMBERSHIP_RECORD, Machine, Upkeep};
use crate::protocol::membership::{Identity, Pace};
use crate::reconcile::quarantine::Guarded;
use crate::reconcile::registry::{InspectError, LoadError, Registry};
use crate::reconcile::rehearsal::Rehearsal;
use crate::reconcile::wasm::{Sandbox, SandboxLimits, Workers};
use crate::store::Store;
use crate::store::sqlite::{Options, SqliteStore};
use crate::transport::Deliver;
use crate::transport::codec::WIRE_VERSIONS;
use crate::transport::http::{self, HttpTransport};

use self::connections::Serving;
pub use self::connections::{MAX_CONNECTIONS, MAX_STALL};

/// How long requests in hand may take once the server was told to stop.
pub const DRAIN: Duration = Duration::from_secs(10);
/// The exit code of a process whose disk did not take a sync: `EX_IOERR` of
/// sysexits.h.
pub const EXIT_FAILED_SYNC: i32 = 74;

/// The registry and the sandbox as the node's port.
struct ModuleShelf {
    registry: Arc<Registry>,
    dice: std::sync::Mutex<Dice>,
}

fn storage(error: impl std::fmt::Display) -> ModuleError {
    ModuleError::Storage(error.to_string())
}

impl Modules for ModuleShelf {
    fn held(&self) -> Vec<Digest> {
        self.registry.sandbox().figures().into_keys().collect()
    }

    fn bytes(&self, digest: Digest) -> Result<Option<Bytes>, ModuleError> {
        self.registry.bytes(digest).map_err(storage)
    }

    fn keep(&self, digest: Digest, bytes: &Bytes) -> Result<(), ModuleError> {
        self.registry.keep(digest, bytes).map_err(storage)?;
        match self.registry.load(digest) {
            Ok(_) => Ok(()),
            Err(LoadError::Invalid(error)) => Err(ModuleError::Invalid(error.to_string())),
            Err(error) => Err(storage(error)),
        }
    }

    fn unload(&self, digest: Digest) {
        self.registry.sandbox().unload(digest);
    }

    fn inspect(&self, bytes: &Bytes, accept_unlawful: bool) -> Result<ModuleInfo, ModuleError> {
        let seed = self.dice.lock().map_err(storage)?.next_u64();
        match self.registry.inspect(bytes, accept_unlawful, seed) {
            Ok(inspection) => Ok(inspection.info),
            Err(InspectError::Invalid(error)) => Err(ModuleError::Invalid(error.to_string())),
            Err(InspectError::Unlawful(counterexample)) => Err(ModuleError::Unlawful {
                text: format!("the module is not lawful; {counterexample}"),
                counterexample: counterexample.to_json(),
            }),
        }
    }

    fn rehearse(&self) -> Result<Rehearsal, ModuleError> {
        let limits = self.registry.sandbox().limits().clone();
        Rehearsal::new(limits).map_err(storage)
    }

    fn health(&self, digest: Digest) -> ModuleFigures {
        let loaded = self.registry.sandbox().loaded(digest);
        loaded.map(|loaded| loaded.figures()).unwrap_or_default()
    }

    fn all_health(&self) -> BTreeMap<Digest, ModuleFigures> {
        self.registry.sandbox().figures()
    }
}

/// Ends the process, since what the system holds of the store may be lost: a node
/// that starts again reads what the disk has, and its peers bring the rest. The
/// last line says so; nobody was told that the write is stored.
fn end_after_failed_commit(node: &str, error: &StoreError) {
    eprintln!(
        "kinfold: node {node} ends, because its disk did not keep what was written ({error}); \
         look at the disk, then start the node again"
    );
    std::process::exit(EXIT_FAILED_SYNC);
}

/// The parts that outlive the connections.
struct Parts {
    node: Arc<Node>,
    store: Arc<SqliteStore>,
    transport: Arc<HttpTransport>,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

/// How often a node that is being filled again is asked whether that is done.
const FILLED_LOOK: Duration = Duration::from_millis(500);

/// Lets the store forget that it lost something, once the others have made it good.
async fn tell_when_filled(node: Arc<Node>, store: Arc<SqliteStore>) {
    while !node.is_filled() {
        tokio::time::sleep(FILLED_LOOK).await;
    }
    let told = tokio::task::spawn_blocking(move || store.refilled()).await;
    match told {
        Ok(Ok(())) => tracing::info!("this node holds again what it should"),
        Ok(Err(error)) => tracing::error!(%error, "it is filled again at the next start, too"),
        Err(error) => tracing::debug!(%error, "the node was stopping"),
    }
}

/// Opens the store, loads the modules, and starts the node.
async fn start(config: &Config, listener: &TcpListener) -> anyhow::Result<Parts> {
    let bound = listener
        .local_addr()
        .context("the listener has no address")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut dice = Dice::from_system();
    let metrics = Arc::new(Metrics::new());

    let data_dir = config.node.data_dir.clone();
    let durability = match config.node.durability {
        Durability::Commit => crate::store::sqlite::Durability::Commit,
        Durability::Os => crate::store::sqlite::Durability::Os,
    };
    let name = config.node.name.clone();
    let options = Options {
        durability,
        on_failed_commit: Some(Arc::new(move |error| end_after_failed_commit(&name, error))),
        ..Options::new(data_dir.clone(), dice.next_u64())
    };
    let store = tokio::task::spawn_blocking(move || SqliteStore::open(options)).await??;

    let limits = SandboxLimits {
        fuel: config.sandbox.fuel,
        memory_bytes: config.sandbox.memory_bytes as usize,
        deadline_ms: config.sandbox.deadline.as_millis() as u64,
        workers: config.sandbox.workers as usize,
        queue: config.sandbox.queue as usize,
    };
    let modules_dir = data_dir.join("modules");
    let compiled_dir = data_dir.join("compiled");
    let prepared = tokio::task::spawn_blocking(move || {
        let sandbox = Arc::new(Sandbox::new(limits, Some(compiled_dir))?);
        let registry = Arc::new(Registry::open(modules_dir, sandbox.clone())?);
        let modules = registry.load_built_ins().context("a built-in reconciler")?;
        let workers = Arc::new(Workers::start(sandbox)?);
        anyhow::Ok((registry, workers, modules))
    });
    let (registry, workers, built_in) = prepared.await??;

    let record = store
        .meta(MEMBERSHIP_RECORD)
        .context("the membership record cannot be read")?;
    let mut persisted = match &record {
        None => None,
        Some(bytes) => Some(Machine::read_record(bytes).with_context(|| {
            format!(
                "the membership record in {} cannot be used",
                data_dir.display()
            )
        })?),
    };
    if let Some(persisted) = persisted.as_mut().filter(|_| store.was_replaced()) {
        tracing::warn!("this node's store lost items; the other owners fill it again");
        persisted.lost_items();
    }
    let catalog = persisted
        .as_ref()
        .map(|persisted| persisted.catalog.clone());
    let address = config.node.advertised(bound);
    let identity = Identity {
        name: config.node.name.clone(),
        node: NodeId::of(&config.node.name),
        address: address.clone(),
        weight_milli: (config.node.weight * 1000.0).round() as u32,
        zone: config.node.zone.clone(),
        wire_version: WIRE_VERSIONS.iter().copied().max().unwrap_or(1),
        seeds: config.node.seeds_or_self(bound),
        partitions: config.cluster.partitions,
        replicas: config.cluster.replicas,
    };
    let pace = Pace::new(config.cluster.gossip_interval.as_millis() as u64);
    let seed = dice.next_u64();
    let (mut machine, first) = Machine::new(
        identity,
        pace,
        persisted,
        store.incarnation(),
        clock.now(),
        Box::new(move || dice.next_u64()),
    );
    machine.set_upkeep(Upkeep {
        exchange_interval_ms: config.cluster.exchange_interval.as_millis() as u64,
        reap_after_ms: config.cluster.reap_after.as_millis() as u64,
        background_percent: config.cluster.background_percent,
    });

    // Modules that tables used before the restart are compiled before the first
    // request; the cache of compiled code makes that quick.
    let wanted: Vec<Digest> = catalog.map(|catalog| catalog.digests()).unwrap_or_default();
    let loading = registry.clone();
    tokio::task::spawn_blocking(move || {
        for digest in wanted {
            match loading.load(digest) {
                Ok(_) | Err(LoadError::Absent(_)) => {}
                Err(error) => tracing::warn!(%digest, %error, "a module does not load"),
            }
        }
    })
    .await?;

    let ports = Ports {
        clock: clock.clone(),
        store: store.clone(),
        guests: Arc::new(Guarded::new(workers.clone(), clock.clone())),
        modules: Arc::new(ModuleShelf {
            registry,
            dice: std::sync::Mutex::new(Dice::from_seed(seed)),
        }),
        metrics: metrics.clone(),
    };
    let node = Node::new(config.node.name.clone(), machine, ports);
    let receiver = Arc::downgrade(&node);
    let deliver: Deliver = Arc::new(move |inputs: &mut Vec<Input>| match receiver.upgrade() {
        Some(node) => node.step_with_waiting(inputs),
        None => inputs.clear(),
    });
    let identity = http::Identity::new(&config.node.name, &address);
    let transport = Arc::new(HttpTransport::new(identity.clone(), deliver));
    node.start(transport.clone(), first, move |cluster| {
        identity.join_cluster(cluster)
    });
    node.propose_built_ins(built_in).await?;
    let tables = config
        .tables
        .iter()
        .map(|(name, table)| (name.to_string(), table.clone()))
        .collect();
    node.apply_config_tables(tables)
        .await
        .context("the config file's tables")?;
    if store.was_replaced() {
        tokio::spawn(tell_when_filled(node.clone(), store.clone()));
    }
    Ok(Parts {
        node,
        store,
        transport,
        workers,
        metrics,
        clock,
    })
}

/// Runs a node on this listener until `shutdown` ends, then drains it.
///
/// # Errors
/// When the data directory cannot be used, a table of the config file names what
/// there is not, or the listener fails.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let serving = Serving::new(&config.serving).context("threads to serve on")?;
    let running = serving.handle().spawn(serve(config, listener, shutdown));
    running.await.context("the node's threads")?
}

async fn serve(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let parts = start(&config, &listener).await?;
    let Parts {
        node,
        store,
        transport,
        workers,
        metrics,
        clock,
    } = parts;
    let peers = transport.clone();
    // A peer's connection comes in among clients' and is served by the transport,
    // apart from them.
    let peer: api::PeerHandler = Box::new(move |request| {
        let response = peers.accept(request);
        Box::pin(std::future::ready(response))
    });
    let api = Arc::new(Api::new(node.clone(), metrics, clock, peer));
    let listener = tokio::net::TcpListener::from_std(listener).context("the listener")?;
    let (stop, stopped) = watch::channel(false);
    let (close, closed) = oneshot::channel::<()>();
    let closed = async move {
        // A sender that is gone means the same as a word from it.
        let _gone = closed.await;
    };
    let accepting = tokio::spawn(connections::serve(listener, api, stopped, closed));
    shutdown.await;
    drop(close);
    accepting.await.context("accepting connections")?;

    tracing::info!(node = %config.node.name, "draining");
    node.drain();
    stop.send_replace(true);
    let drained = async {
        while node.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The last answers are on their way through hyper, and those to other
        // nodes through the transport.
        stop.closed().await;
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("some requests were not finished in {DRAIN:?}");
    }
    // Peers learn from refusals that this node stops; what they forwarded before
    // they knew is refused too, and not lost with the connection.
    tokio::time::sleep(connections::LINGER).await;
    transport.close().await;
    tokio::task::spawn_blocking(move || {
        workers.close();
        store.close();
    })
    .await?;
    tracing::info!(node = %config.node.name, "stopped");
    Ok(())
}
