//! `kinfold serve`: runs one node until it is told to stop.
//!
//! Also the command line's only door to the server: [`bind`] and [`host`].

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Common;
use super::error::CliError;
use super::output::Output;
use crate::config::{Config, Durability, NodeSettings};
use crate::logging::{self, LogFormat};

const EXAMPLES: &str = "\
Flags win over KINFOLD_… variables, and both over the file. SIGTERM and Ctrl-C drain
what is in flight and stop; a second one stops at once.

Examples:
  kinfold serve --config node.toml
  kinfold serve --name a --listen 127.0.0.1:8101 --seeds 127.0.0.1:8101,127.0.0.1:8102
  KINFOLD_NAME=b KINFOLD_LISTEN=0.0.0.0:8101 KINFOLD_ADVERTISE=10.0.0.8:8101 kinfold serve";

/// Runs one node
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// The config file
    #[arg(long, env = "KINFOLD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What every log takes.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// What to log: a level, or more, like warn,kinfold=debug [default: info; dev: warn]
    #[arg(long, env = "KINFOLD_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How to write it, on standard error
    #[arg(long, env = "KINFOLD_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

impl LogArgs {
    pub fn start(&self, default: &str) -> Result<(), CliError> {
        let filter = self.log.as_deref().unwrap_or(default);
        Ok(logging::init(filter, self.log_format)?)
    }
}

/// The `[node]` section in flags and variables.
#[derive(Args, Debug)]
struct NodeArgs {
    /// The node's name, unique in the cluster
    #[arg(long, env = "KINFOLD_NAME")]
    name: Option<String>,
    /// Where to listen [default: 127.0.0.1:8101]; port 0 takes a free one
    #[arg(long, env = "KINFOLD_LISTEN", value_name = "IP:PORT")]
    listen: Option<String>,
    /// Where other nodes connect to [default: where it listens]
    #[arg(long, env = "KINFOLD_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where to keep the data [default: data/NAME]
    #[arg(long, env = "KINFOLD_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Whom to ask for the cluster; the first one founds it [default: itself]
    #[arg(
        long,
        env = "KINFOLD_SEEDS",
        value_name = "HOST:PORT,…",
        value_delimiter = ','
    )]
    seeds: Option<Vec<String>>,
    /// The share of the data relative to other nodes [default: 1]
    #[arg(long, env = "KINFOLD_WEIGHT")]
    weight: Option<f64>,
    /// The zone; replicas go to distinct ones [default: default]
    #[arg(long, env = "KINFOLD_ZONE")]
    zone: Option<String>,
    /// What an acknowledged write survives: commit, power loss; os, a crash of
    /// the process [default: commit]
    #[arg(long, env = "KINFOLD_DURABILITY", value_enum)]
    durability: Option<DurabilityArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DurabilityArg {
    Commit,
    Os,
}

impl From<NodeArgs> for NodeSettings {
    fn from(args: NodeArgs) -> Self {
        NodeSettings {
            name: args.name,
            listen: args.listen,
            advertise: args.advertise,
            data_dir: args.data_dir,
            // A variable that is set to nothing says nothing.
            seeds: args
                .seeds
                .map(|seeds| seeds.into_iter().filter(|seed| !seed.is_empty()).collect()),
            weight: args.weight,
            zone: args.zone,
            durability: args.durability.map(|durability| match durability {
                DurabilityArg::Commit => Durability::Commit,
                DurabilityArg::Os => Durability::Os,
            }),
        }
    }
}

pub async fn run(common: &Common, args: ServeArgs) -> Result<(), CliError> {
    let config = Config::load(args.config.as_deref(), args.node.into())?;
    args.log.start("info")?;
    let (listener, bound) = bind(config.node.listen)?;
    let name = config.node.name.clone();
    announce(&common.output(), &config, bound)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async move {
        // A sender that is gone means the same as a word from it: stop.
        let _ = stopped.await;
    };
    let mut node = std::pin::pin!(host(config, listener, stopped));
    let mut signal = std::pin::pin!(shutdown_signal());
    let failed = |source| CliError::Node {
        node: name.to_string(),
        source,
    };
    tokio::select! {
        result = &mut node => return result.map_err(failed),
        signal = &mut signal => signal?,
    }
    drop(stop);
    exit_on_second_signal();
    node.await.map_err(failed)
}

fn announce(output: &Output, config: &Config, bound: SocketAddr) -> Result<(), CliError> {
    if output.json {
        // For scripts that asked for a free port.
        output.json(&json!({
            "name": &*config.node.name,
            "endpoint": format!("http://{bound}"),
        }))?;
    }
    tracing::info!(
        node = %config.node.name,
        address = %bound,
        data_dir = %config.node.data_dir.display(),
        "listening"
    );
    Ok(())
}

/// Takes the address that a node will listen on, and says which one it got.
pub fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), CliError> {
    let take = || {
        let listener = TcpListener::bind(address)?;
        // The runtime takes it over, which wants it so.
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    take().map_err(|source: io::Error| CliError::Bind {
        address: address.to_string(),
        advice: match source.kind() {
            io::ErrorKind::AddrInUse => {
                "stop what runs there, or choose another port (serve: --listen, dev: --port-base)"
            }
            io::ErrorKind::PermissionDenied => {
                "ports under 1024 are for the system; choose another"
            }
            _ => {
                "choose an address of this machine with --listen, and tell others with --advertise"
            }
        },
        source,
    })
}

/// Runs a node on a listener until `shutdown` ends, then drains it.
pub async fn host(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    crate::server::run(config, listener, shutdown).await
}

/// Ends when the process is told to stop: Ctrl-C, or SIGTERM.
pub async fn shutdown_signal() -> Result<(), CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|source| CliError::Signals { source })?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.map_err(|source| CliError::Signals { source })?,
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping: what is in flight is finished first");
    Ok(())
}

/// Whoever asks twice does not want to wait for what is in flight.
pub fn exit_on_second_signal() {
    tokio::spawn(async {
        if shutdown_signal().await.is_ok() {
            eprintln!("kinfold: stopped at once, as asked twice");
            std::process::exit(130);
        }
    });
}
