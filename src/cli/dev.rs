//! `kinfold dev`: three nodes in one process, and what to try with them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Common;
use super::error::CliError;
use super::output::{Output, list};
use super::serve::{self, LogArgs};
use crate::client::Client;
use crate::config::{Config, NodeSettings};

/// The nodes' names, in the order of their ports.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// The port of the first node.
const DEFAULT_PORT_BASE: u16 = 8101;
/// How long three nodes may take to find each other: a few rounds of gossip,
/// and the compilation of the built-in modules on a slow machine.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How often to ask whether they have.
const READY_POLL: Duration = Duration::from_millis(50);

/// The tables, as a config file would have them. `baskets` is the paper's cart:
/// its module is not eager, so that siblings stay apart until they are read and
/// a fold can be watched.
const TABLES: &str = r#"
[tables.carts]
reconciler = "or-cart"

[tables.profiles]
reconciler = "lww"

[tables.counters]
reconciler = "pn-counter"

[tables.raw]

[tables.baskets]
reconciler = "cart-union"
"#;

const EXAMPLES: &str = "\
Tables: carts (or-cart), profiles (lww), counters (pn-counter), raw (none), baskets
(cart-union). With --json one line of JSON says where the nodes are, once they are ready.

Examples:
  kinfold dev
  kinfold dev --data-dir ./play
  kinfold dev --port-base 0 --json     free ports, for scripts";

/// Runs three nodes in one process, to try things out
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DevArgs {
    /// The first of three ports; 0 takes free ones
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT_BASE)]
    port_base: u16,
    /// Keep the data here [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

pub async fn run(common: &Common, args: DevArgs) -> Result<(), CliError> {
    let output = common.output();
    args.log.start("warn")?;
    // Removed when it goes out of scope, which is after the nodes have closed.
    let temporary;
    let data_dir = match &args.data_dir {
        Some(given) => given.as_path(),
        None => {
            temporary = tempfile::Builder::new()
                .prefix("kinfold-dev-")
                .tempdir()
                .map_err(|source| CliError::File {
                    path: std::env::temp_dir(),
                    source,
                })?;
            temporary.path()
        }
    };
    let bound = bind_all(args.port_base)?;
    let addresses: Vec<SocketAddr> = bound.iter().map(|(_, address)| *address).collect();
    let endpoints: Vec<String> = addresses.iter().map(|a| format!("http://{a}")).collect();

    let (stop, stopped) = watch::channel(());
    let mut nodes = JoinSet::new();
    for (name, (listener, address)) in NAMES.into_iter().zip(bound) {
        let config = config(name, address, &addresses, data_dir)?;
        let mut stopped = stopped.clone();
        nodes.spawn(async move {
            let stopped = async move {
                // Nothing is ever sent: the channel closes.
                while stopped.changed().await.is_ok() {}
            };
            let result = serve::host(config, listener, stopped).await;
            result.map_err(|source| CliError::Node {
                node: name.to_owned(),
                source,
            })
        });
    }
    drop(stopped);

    let outcome = tokio::select! {
        Some(ended) = nodes.join_next() => flatten(ended),
        outcome = play(&output, &endpoints, data_dir, args.data_dir.is_some()) => outcome,
    };
    // Told to stop, or one of them failed: either way all of them end.
    drop(stop);
    serve::exit_on_second_signal();
    let mut ends = Vec::new();
    while let Some(ended) = nodes.join_next().await {
        ends.push(flatten(ended));
    }
    outcome?;
    ends.into_iter().collect()
}

/// What a node's task came to. One that panicked has failed like any other.
fn flatten(ended: Result<Result<(), CliError>, tokio::task::JoinError>) -> Result<(), CliError> {
    ended.unwrap_or_else(|panic| {
        Err(CliError::Node {
            node: "of three".to_owned(),
            source: panic.into(),
        })
    })
}

/// Takes three ports in a row, or three free ones.
fn bind_all(port_base: u16) -> Result<Vec<(TcpListener, SocketAddr)>, CliError> {
    let count = u16::try_from(NAMES.len()).expect("there are three");
    if port_base.checked_add(count - 1).is_none() {
        let text = format!("--port-base {port_base} leaves no room for {count} ports");
        return Err(CliError::Usage(text));
    }
    (0..count)
        .map(|index| {
            let port = if port_base == 0 { 0 } else { port_base + index };
            serve::bind((Ipv4Addr::LOCALHOST, port).into())
        })
        .collect()
}

fn config(
    name: &str,
    address: SocketAddr,
    seeds: &[SocketAddr],
    data_dir: &Path,
) -> Result<Config, CliError> {
    let settings = NodeSettings {
        name: Some(name.to_owned()),
        listen: Some(address.to_string()),
        data_dir: Some(data_dir.join(name)),
        seeds: Some(seeds.iter().map(ToString::to_string).collect()),
        ..NodeSettings::default()
    };
    Ok(Config::parse(TABLES, "dev", settings)?)
}

/// Waits until the nodes are ready, says what to try, and waits for the end.
async fn play(
    output: &Output,
    endpoints: &[String],
    data_dir: &Path,
    is_kept: bool,
) -> Result<(), CliError> {
    tokio::select! {
        ready = all_ready(endpoints) => ready?,
        signal = serve::shutdown_signal() => return signal,
    }
    if output.json {
        let nodes: Vec<_> = NAMES
            .iter()
            .zip(endpoints)
            .map(|(name, endpoint)| json!({ "name": name, "endpoint": endpoint }))
            .collect();
        output.json(&json!({ "nodes": nodes, "data_dir": data_dir.to_string_lossy() }))?;
    } else {
        output.line(&what_to_try(endpoints, data_dir, is_kept))?;
    }
    serve::shutdown_signal().await
}

/// Waits until every node serves and sees the others, with every partition on
/// as many nodes as it should be on.
async fn all_ready(endpoints: &[String]) -> Result<(), CliError> {
    let mut last = String::new();
    let waiting = async {
        for endpoint in endpoints {
            let client = Client::new(endpoint)?;
            while let Err(reason) = is_ready(&client).await {
                last = format!("{endpoint}: {reason}");
                tokio::time::sleep(READY_POLL).await;
            }
        }
        Ok(())
    };
    let waited = tokio::time::timeout(READY_PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| {
        Err(CliError::NotReady {
            seconds: READY_PATIENCE.as_secs(),
            detail: last,
        })
    })
}

/// Whether a node is ready, or else why not yet.
async fn is_ready(client: &Client) -> Result<(), String> {
    let readiness = client
        .get("/readyz")
        .await
        .map_err(|error| error.to_string())?;
    if readiness.status != StatusCode::OK {
        return Err(readiness.problem().detail);
    }
    let cluster = client
        .get("/v1/cluster")
        .await
        .map_err(|error| error.to_string())?;
    let view: Value = cluster.json().map_err(|error| error.to_string())?;
    let up = list(&view, "members")
        .iter()
        .filter(|member| member["status"] == "up" && member["up"] == true)
        .count();
    if up < NAMES.len() {
        return Err(format!("it sees {up} of {} nodes up", NAMES.len()));
    }
    match view["under_replicated"].as_u64() {
        Some(0) => Ok(()),
        _ => Err("not every partition has its replicas yet".to_owned()),
    }
}

/// The tour. Every line works on its own, and again.
fn what_to_try(endpoints: &[String], data_dir: &Path, is_kept: bool) -> String {
    let [a, b, c] = endpoints else {
        unreachable!("there are three nodes");
    };
    let fate = if is_kept {
        "kept"
    } else {
        "removed at the end"
    };
    format!(
        r#"kinfold: three nodes are ready: {a} {b} {c}
data in {dir} ({fate}); Ctrl-C stops them

# Write at one node. The Kinfold-Context that comes back stands for what this client has seen.
curl -i -X PUT {a}/v1/tables/profiles/items/alice -H content-type:application/json -d '{{"name":"Alice"}}'

# Read it at another.
curl -i {b}/v1/tables/profiles/items/alice

# Put two apples into a cart: an operation, so nothing has to be read first. Each time, two more.
curl -i {c}/v1/tables/carts/items/alice/operations -H content-type:application/json -d '{{"add":"apple","quantity":2}}'

# Two writers who have not seen each other, in a table without a reconciler: 300, and both siblings.
curl -X PUT {a}/v1/tables/raw/items/note -d left; curl -X PUT {b}/v1/tables/raw/items/note -d right; curl -i {c}/v1/tables/raw/items/note

# The same conflict where a module folds it: the two baskets become one (Kinfold-Siblings counts what went in).
curl -X PUT {a}/v1/tables/baskets/items/bob -H content-type:application/json -d '{{"apple":1}}'; curl -X PUT {b}/v1/tables/baskets/items/bob -H content-type:application/json -d '{{"pear":2}}'; curl -i {c}/v1/tables/baskets/items/bob
"#,
        dir = data_dir.display(),
    )
}
