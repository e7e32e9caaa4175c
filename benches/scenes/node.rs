//! Scenes of whole nodes: three of them in this process, with SQLite, sockets and
//! all, but for what faces clients.
//!
//! Promises: one thread runs them, so that what is counted is their work and hardly
//! their order; their clock stands still while they are measured, so that nothing
//! is done of their own accord but ticks that find nothing due. What one operation
//! costs is what all three nodes do for it. Not in it: HTTP towards clients, the
//! kernel, and modules.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kinfold::clock::{Clock, Dice, ManualClock};
use kinfold::metrics::Metrics;
use kinfold::node::{ModuleError, ModuleFigures, Modules, Node, Ports};
use kinfold::protocol::catalog::{Digest, ModuleInfo, TableDefinition};
use kinfold::protocol::context::Context;
use kinfold::protocol::effect::{GuestReply, GuestRequest, Input};
use kinfold::protocol::id::{ItemKey, NodeId};
use kinfold::protocol::machine::Machine;
use kinfold::protocol::membership::{Identity, Pace};
use kinfold::protocol::message::{Ask, ItemRequest, Response};
use kinfold::reconcile::rehearsal::Rehearsal;
use kinfold::reconcile::{self, Guests};
use kinfold::store::Store;
use kinfold::store::sqlite::{Durability, Options, SqliteStore};
use kinfold::transport::Deliver;
use kinfold::transport::http::{self, HttpTransport};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::world::TABLE;
use super::{SMALL_BYTES, Scene};

/// How many nodes there are, each with a copy of every item.
const NODES: usize = 3;
/// Into how many partitions the ring is cut: as usual.
const PARTITIONS: u32 = 256;
/// How many items are written and read in turn.
const ITEMS: u64 = 64;
/// How many clients ask at the same time, in the scene that is about that.
const AT_ONCE: usize = 32;
/// How long one step of the nodes' clock is while they find each other, and how long
/// it really takes: long enough for each of them to be ticked in it, watched or not.
const STEP_MS: u64 = 25;
const STEP: Duration = Duration::from_millis(10);
/// In how many such steps they must have found each other.
const MAX_STEPS: usize = 10_000;
/// How many more it takes until they have compared what they hold.
const STEPS_TO_REST: usize = 200;
/// How long an answer may really take: a machine that is busy is no failure, and one that
/// never comes is not waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Threads wake each other, and ticks come when they come: the same code was seen to
/// take 72,000 to 78,000 instructions for a get, and 197,000 to 225,000 for a put.
const SPREAD_PERCENT: f64 = 20.0;

/// A node that holds no modules: no table of this scene names one.
struct Bare;

impl Modules for Bare {
    fn held(&self) -> Vec<Digest> {
        Vec::new()
    }

    fn bytes(&self, _: Digest) -> Result<Option<Bytes>, ModuleError> {
        Ok(None)
    }

    fn keep(&self, _: Digest, _: &Bytes) -> Result<(), ModuleError> {
        Err(ModuleError::Invalid("there are no modules here".to_owned()))
    }

    fn unload(&self, _: Digest) {}

    fn inspect(&self, _: &Bytes, _: bool) -> Result<ModuleInfo, ModuleError> {
        Err(ModuleError::Invalid("there are no modules here".to_owned()))
    }

    fn rehearse(&self) -> Result<Rehearsal, ModuleError> {
        Err(ModuleError::Invalid("there are no modules here".to_owned()))
    }

    fn health(&self, _: Digest) -> ModuleFigures {
        ModuleFigures::default()
    }

    fn all_health(&self) -> BTreeMap<Digest, ModuleFigures> {
        BTreeMap::new()
    }
}

impl Guests for Bare {
    fn submit(&self, _: GuestRequest, done: reconcile::Done) {
        done(GuestReply::Missing, 0);
    }
}

/// Lets the peers of one node in.
async fn listen(listener: TcpListener, transport: Arc<HttpTransport>) {
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
        stream.set_nodelay(true).expect("a socket");
        let transport = transport.clone();
        let answer = service_fn(move |request| {
            let response = transport.accept(request);
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .with_upgrades(),
        );
    }
}

/// Three nodes, and what a client knows of their items.
struct Cluster {
    runtime: Runtime,
    nodes: Vec<Arc<Node>>,
    stores: Vec<Arc<SqliteStore>>,
    contexts: Vec<Context>,
    turn: u64,
    value: Bytes,
    _dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stores.iter().for_each(|store| store.close());
    }
}

impl Cluster {
    fn new() -> Cluster {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(ManualClock::default());
        // Time zero is before all times.
        clock.advance_ms(1_700_000_000_000);
        let (nodes, stores) = runtime.block_on(async {
            let mut listeners = Vec::new();
            for _ in 0..NODES {
                listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
            }
            let addresses: Vec<Arc<str>> = listeners
                .iter()
                .map(|listener| listener.local_addr().expect("bound").to_string().into())
                .collect();
            listeners
                .into_iter()
                .enumerate()
                .map(|(number, listener)| {
                    let path = dir.path().join(number.to_string());
                    start(number, listener, &addresses, path, clock.clone())
                })
                .unzip::<_, _, Vec<_>, Vec<_>>()
        });
        let mut cluster = Cluster {
            runtime,
            nodes,
            stores,
            contexts: vec![Context::new(); ITEMS as usize],
            turn: 0,
            value: Bytes::from(vec![b'v'; SMALL_BYTES]),
            _dir: dir,
        };
        cluster.pass_until(&clock, |node| {
            let view = node.cluster_view();
            let whole = view.members.iter().filter(|member| member.partitions > 0);
            node.readiness().is_ok()
                && whole.count() == NODES
                && view.layout_read == view.layout_version
        });
        let definition = TableDefinition::default();
        let tables = BTreeMap::from([(TABLE.to_owned(), definition)]);
        let made = cluster.nodes[0].apply_config_tables(tables);
        cluster.runtime.block_on(made).expect("a table");
        cluster.pass_until(&clock, |node| node.tables().contains_key(TABLE));
        for _ in 0..STEPS_TO_REST {
            cluster.step(&clock);
        }
        for _ in 0..ITEMS {
            let put = cluster.next_put();
            cluster.put(put);
        }
        cluster
    }

    /// Lets time pass until this holds of every node.
    fn pass_until(&self, clock: &ManualClock, holds: impl Fn(&Node) -> bool) {
        for _ in 0..MAX_STEPS {
            if self.nodes.iter().all(|node| holds(node)) {
                return;
            }
            self.step(clock);
        }
        panic!("{MAX_STEPS} steps, and nothing came of it");
    }

    fn step(&self, clock: &ManualClock) {
        clock.advance_ms(STEP_MS);
        self.runtime
            .block_on(async { tokio::time::sleep(STEP).await });
    }

    fn request(&self, number: u64, ask: Ask) -> ItemRequest {
        let node = &self.nodes[0];
        let name = format!("user:{number:08}");
        let table = node.tables()[TABLE].id;
        ItemRequest {
            table,
            partition: node.partition(TABLE, name.as_bytes()),
            key: ItemKey::new(table, name.as_bytes(), None),
            ask,
            r: 2,
            w: 2,
            strict: false,
            timeout_ms: 60_000,
        }
    }

    fn item(&mut self) -> u64 {
        self.turn += 1;
        self.turn % ITEMS
    }

    /// A put by a client that has read, or written, the item before.
    fn next_put(&mut self) -> (u64, ItemRequest) {
        let number = self.item();
        let ask = Ask::Put {
            client: self.contexts[number as usize].clone(),
            value: self.value.clone(),
            content_type: Arc::from("application/json"),
            representation: false,
        };
        (number, self.request(number, ask))
    }

    fn put(&mut self, (number, request): (u64, ItemRequest)) {
        match self.ask(request) {
            Response::Written { context } => self.contexts[number as usize] = context,
            other => panic!("not written: {other:?}"),
        }
    }

    fn next_get(&mut self) -> ItemRequest {
        let number = self.item();
        self.request(number, Ask::Get { raw: false })
    }

    fn get(&mut self, request: ItemRequest) -> Response {
        let response = self.ask(request);
        assert!(matches!(response, Response::Value(_)), "{response:?}");
        response
    }

    /// All of them at once, and waits for the last.
    fn get_all(&self, requests: Vec<ItemRequest>) {
        let asking = async {
            let node = &self.nodes[0];
            let asked = requests
                .into_iter()
                .map(|request| {
                    let node = node.clone();
                    tokio::spawn(async move { node.item(request).await })
                })
                .collect::<Vec<_>>();
            for asked in asked {
                let response = timeout(PATIENCE, asked).await.expect("in time");
                let response = response.expect("it was asked");
                assert!(matches!(response, Response::Value(_)), "{response:?}");
            }
        };
        self.runtime.block_on(asking);
    }

    /// Asks. What the third replica answers after the client was told is taken in
    /// while the next one is asked, so each time has it once.
    fn ask(&self, request: ItemRequest) -> Response {
        let answered = async { timeout(PATIENCE, self.nodes[0].item(request)).await };
        let answered = self.runtime.block_on(answered);
        answered.expect("with a clock that stands still nobody asks again for what was lost")
    }
}

/// Starts one node.
fn start(
    number: usize,
    listener: TcpListener,
    addresses: &[Arc<str>],
    path: std::path::PathBuf,
    clock: Arc<ManualClock>,
) -> (Arc<Node>, Arc<SqliteStore>) {
    let name: Arc<str> = format!("n{number}").into();
    let options = Options {
        durability: Durability::Os,
        files: Some(1),
        ..Options::new(path, number as u64 + 1)
    };
    let store = SqliteStore::open(options).expect("opens");
    let identity = Identity {
        node: NodeId::of(&name),
        name: name.clone(),
        address: addresses[number].clone(),
        weight_milli: 1000,
        zone: format!("z{number}").into(),
        wire_version: 3,
        seeds: addresses.to_vec(),
        partitions: PARTITIONS,
        replicas: NODES as u32,
    };
    let mut dice = Dice::from_seed(number as u64);
    let (machine, first) = Machine::new(
        identity,
        Pace::default(),
        None,
        store.incarnation(),
        clock.now(),
        Box::new(move || dice.next_u64()),
    );
    let ports = Ports {
        clock,
        store: store.clone(),
        guests: Arc::new(Bare),
        modules: Arc::new(Bare),
        metrics: Arc::new(Metrics::new()),
    };
    let node = Node::new(name.clone(), machine, ports);
    let receiver = Arc::downgrade(&node);
    let deliver: Deliver = Arc::new(move |inputs: &mut Vec<Input>| match receiver.upgrade() {
        Some(node) => node.step_with_waiting(inputs),
        None => inputs.clear(),
    });
    let identity = http::Identity::new(&name, &addresses[number]);
    let transport = Arc::new(HttpTransport::new(identity.clone(), deliver));
    tokio::spawn(listen(listener, transport.clone()));
    node.start(transport, first, move |cluster| {
        identity.join_cluster(cluster);
    });
    (node, store)
}

/// The nodes, once somebody wants them. They stand still while nobody asks them, and who
/// stands still for longer than peers' patience loses connections, and what was said on
/// them: so they are made only when their scenes are played, one right after the other.
type Late = Rc<RefCell<Option<Cluster>>>;

fn with<T>(late: &Late, work: impl FnOnce(&mut Cluster) -> T) -> T {
    work(late.borrow_mut().get_or_insert_with(Cluster::new))
}

/// A whole put and a whole get with n = 3, r = w = 2, on three nodes.
pub fn scenes() -> Vec<Scene> {
    let cluster = Late::default();
    let (maker, puts) = (cluster.clone(), cluster.clone());
    let (asks, gets) = (cluster.clone(), cluster.clone());
    let (many_asks, many_gets) = (cluster.clone(), cluster);
    vec![
        // An item is put once a batch: each put needs what the last one told.
        Scene::new(
            "node/put on three",
            move || with(&maker, Cluster::next_put),
            move |put| with(&puts, |cluster| cluster.put(put)),
        )
        .in_batches_of(ITEMS as usize)
        .that_varies_by(SPREAD_PERCENT),
        Scene::new(
            "node/get on three",
            move || with(&asks, Cluster::next_get),
            move |request| with(&gets, |cluster| cluster.get(request)),
        )
        .that_varies_by(SPREAD_PERCENT),
        // As under load: what several have in common is done once.
        Scene::new(
            format!("node/{AT_ONCE} gets at once on three"),
            move || {
                with(&many_asks, |cluster| {
                    (0..AT_ONCE).map(|_| cluster.next_get()).collect()
                })
            },
            move |requests| with(&many_gets, |cluster| cluster.get_all(requests)),
        )
        .that_varies_by(SPREAD_PERCENT),
    ]
}
