//! Three nodes of Garage, set up as its own manual does it.
//!
//! Promises: `garage server` three times on loopback, three copies, the
//! consistency that Garage has when nobody says otherwise, K2V on; layout, key
//! and bucket are made through Garage's own command line. Nothing is set that
//! the manual does not name, and what slows Garage down and can be left out is
//! left out: log lines for each request, and metrics. The processes are stopped
//! when [`Garage`] goes.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::output_of;
use crate::sign::{REGION, Signer};

/// The bucket that everything is put into.
pub const BUCKET: &str = "compare";
const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long the nodes may take to find each other and to agree on a layout.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
/// What a node is said to hold; the layout wants a figure, and nothing checks it.
const CAPACITY_BYTES: u64 = 100_000_000_000;
/// Without lines for each request.
const LOG: &str = "warn";

/// Garage's database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Engine {
    /// What Garage takes by itself, and recommends.
    Lmdb,
    /// What kinfold stands on, too.
    Sqlite,
}

impl fmt::Display for Engine {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Engine::Lmdb => "lmdb",
            Engine::Sqlite => "sqlite",
        })
    }
}

impl Engine {
    /// Whether what Garage has acknowledged survives that the power fails, read
    /// from how its database adapters open their files.
    pub fn durability(self, fsync: bool) -> &'static str {
        match (self, fsync) {
            (Engine::Lmdb, false) => {
                "no: LMDB without any sync (metadata_fsync = false, Garage's default)"
            }
            (Engine::Lmdb, true) => {
                "but for the last transaction: LMDB syncs its data pages, not its meta page \
                 (metadata_fsync = true)"
            }
            (Engine::Sqlite, false) => {
                "no: WAL, synchronous=OFF (metadata_fsync = false, Garage's default)"
            }
            (Engine::Sqlite, true) => {
                "no: WAL, synchronous=NORMAL, which syncs at checkpoints (metadata_fsync = true)"
            }
        }
    }
}

/// Three processes, stopped when this goes.
pub struct Garage {
    children: Vec<Child>,
    /// Where their K2V listens.
    pub addresses: Vec<String>,
    /// Signs requests to them.
    pub signer: Signer,
}

impl Drop for Garage {
    fn drop(&mut self) {
        for child in &mut self.children {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("process {} of Garage is not stopped: {error}", child.id());
            }
        }
    }
}

/// How one command of Garage's is run.
struct Tool<'a> {
    program: &'a Path,
    config: PathBuf,
}

impl Tool<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.env("RUST_LOG", LOG).arg("-c").arg(&self.config);
        command
    }

    /// A call of Garage's administration, as its manual lists them.
    fn call(&self, endpoint: &str, payload: &Value) -> anyhow::Result<Value> {
        let mut command = self.command();
        command.args(["json-api", endpoint, &payload.to_string()]);
        Ok(serde_json::from_str(&output_of(&mut command)?)?)
    }

    /// The same for a call that is asked again until its answer will do.
    fn wait(
        &self,
        endpoint: &str,
        for_what: &str,
        will_do: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let answer = self.call(endpoint, &Value::Null);
            match &answer {
                Ok(answer) if will_do(answer) => return Ok(()),
                _ if begin.elapsed() < PATIENCE => sleep(PAUSE),
                Ok(answer) => bail!("Garage's nodes {for_what}: {answer}"),
                Err(error) => bail!("Garage's nodes {for_what}: {error:#}"),
            }
        }
    }
}

impl Garage {
    /// Starts three nodes on ports that were free a moment ago.
    pub fn start(
        data: &Path,
        program: &Path,
        engine: Engine,
        fsync: bool,
    ) -> anyhow::Result<Garage> {
        let folder = data.join("garage");
        let mut free = Vec::new();
        for _ in 0..NAMES.len() * 3 {
            free.push(TcpListener::bind("127.0.0.1:0")?);
        }
        let ports = free
            .iter()
            .map(|one| Ok(one.local_addr()?.to_string()))
            .collect::<anyhow::Result<Vec<String>>>()?;
        drop(free);
        let (rpc, rest) = ports.split_at(NAMES.len());
        let (k2v, s3) = rest.split_at(NAMES.len());
        let secret = secret()?;
        let mut garage = Garage {
            children: Vec::new(),
            addresses: k2v.to_vec(),
            signer: Signer::new("", "")?,
        };
        let mut tools = Vec::new();
        for (node, name) in NAMES.iter().enumerate() {
            let home = folder.join(name);
            std::fs::create_dir_all(&home)?;
            let listens = (&*rpc[node], &*k2v[node], &*s3[node]);
            let tool = Tool {
                program,
                config: home.join("garage.toml"),
            };
            let config = config(&home, engine, fsync, &secret, listens);
            std::fs::write(&tool.config, config)?;
            let log = File::create(tool.config.with_extension("log"))?;
            let child = tool
                .command()
                .arg("server")
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .with_context(|| format!("{} does not start", program.display()))?;
            garage.children.push(child);
            tools.push(tool);
        }
        garage.set_up(&tools)?;
        Ok(garage)
    }

    /// Introduces the nodes, and makes layout, bucket and key.
    fn set_up(&mut self, tools: &[Tool<'_>]) -> anyhow::Result<()> {
        let admin = &tools[0];
        for tool in tools {
            tool.wait("GetClusterStatus", "do not start", |_| true)?;
        }
        // A node makes its key, which is its name, when it starts for the first time.
        let mut peers = Vec::new();
        for tool in tools {
            let id = output_of(tool.command().args(["node", "id", "--quiet"]))?;
            peers.push(id.trim().to_owned());
        }
        admin.call("ConnectClusterNodes", &json!(&peers[1..]))?;
        let all_up = |status: &Value| {
            let nodes = status["nodes"].as_array();
            nodes.is_some_and(|nodes| {
                nodes.len() == NAMES.len() && nodes.iter().all(|node| node["isUp"] == true)
            })
        };
        for tool in tools {
            tool.wait("GetClusterStatus", "do not find each other", all_up)?;
        }
        let mut roles = Vec::new();
        for peer in &peers {
            let (id, _) = peer.split_once('@').context("a node without an address")?;
            roles.push(json!({"id": id, "zone": "here", "capacity": CAPACITY_BYTES, "tags": []}));
        }
        admin.call("UpdateClusterLayout", &json!({"roles": roles}))?;
        admin.call("ApplyClusterLayout", &json!({"version": 1}))?;
        for tool in tools {
            tool.wait("GetClusterHealth", "do not agree on a layout", |health| {
                health["status"] == "healthy"
                    && health["storageNodesUp"] == NAMES.len()
                    && health["partitionsAllOk"] == health["partitions"]
            })?;
        }
        let key = admin.call("CreateKey", &json!({"name": BUCKET}))?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
        let key_id = text(&key["accessKeyId"])?;
        self.signer = Signer::new(&key_id, &text(&key["secretAccessKey"])?)?;
        let bucket = admin.call("CreateBucket", &json!({"globalAlias": BUCKET}))?;
        let allowed = admin.call(
            "AllowBucketKey",
            &json!({
                "bucketId": text(&bucket["id"])?,
                "accessKeyId": self.signer.key_id(),
                "permissions": {"read": true, "write": true, "owner": true},
            }),
        )?;
        ensure!(
            allowed["keys"][0]["permissions"]["write"] == true,
            "Garage does not let the key into its bucket: {allowed}"
        );
        Ok(())
    }

    /// The three processes.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}

/// A node's config file.
fn config(
    home: &Path,
    engine: Engine,
    fsync: bool,
    secret: &str,
    (rpc, k2v, s3): (&str, &str, &str),
) -> String {
    let home = home.display();
    format!(
        "metadata_dir = \"{home}/meta\"\n\
         data_dir = \"{home}/data\"\n\
         db_engine = \"{engine}\"\n\
         metadata_fsync = {fsync}\n\
         replication_factor = 3\n\
         rpc_bind_addr = \"{rpc}\"\n\
         rpc_public_addr = \"{rpc}\"\n\
         rpc_secret = \"{secret}\"\n\
         [s3_api]\n\
         api_bind_addr = \"{s3}\"\n\
         s3_region = \"{REGION}\"\n\
         [k2v_api]\n\
         api_bind_addr = \"{k2v}\"\n"
    )
}

/// What the nodes know each other by: 32 bytes, in hexadecimal.
fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
