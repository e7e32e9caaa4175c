//! A node: the machine, and the ports that carry out its effects.
//!
//! Everything that decides is in [`crate::protocol::machine`]; this file only
//! hands inputs to it and effects to the store, the guests and the transport.
//! Promises: the machine is stepped by one thread at a time and never while an
//! effect is carried out; every effect is carried out exactly once; a client
//! that goes away takes nothing with it.
//!
//! The parts: `tasks.rs` takes in what came and ticks, `admin.rs` changes tables and
//! modules, `views.rs` shows what the node knows, `dry_run.rs` tries a module on what is
//! stored.

mod admin;
pub mod dry_run;
mod tasks;
mod views;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use bytes::Bytes;
use tokio::runtime::RuntimeFlavor;
use tokio::sync::oneshot;

pub use admin::{AdminError, Upload};
use tasks::Inbox;
pub use views::{ClusterView, MemberView, PreferenceView, RingView, TransferView};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::protocol::catalog::{Applied, Catalog, Digest, ModuleInfo, TableDefinition};
use crate::protocol::effect::{
    Effect, GuestCost, Input, RequestId, StoreError, StoreReply, StoreRequest, SurveyPage,
};
use crate::protocol::id::{ClusterId, Partition, Position};
pub use crate::protocol::machine::Tables;
use crate::protocol::machine::{Machine, PublishRefused};
use crate::protocol::message::{ItemRequest, Message, Refusal, Response};
use crate::protocol::pending::Pending;
use crate::reconcile::Guests;
pub use crate::reconcile::ModuleFigures;
pub use crate::reconcile::quarantine::Trouble;
use crate::reconcile::rehearsal::Rehearsal;
use crate::store::Store;
use crate::transport::Transport;

/// How many effects, or inputs, the lists keep room for in which a thread collects
/// them: what a rush needed beyond that is given back.
const KEEP_ROOM: usize = 256;

/// The lists in which a thread collects what it has to do, empty but for the time of
/// one call: room for a few effects is kilobytes, to be had for every input else.
#[derive(Default)]
struct Hands {
    effects: Vec<Effect>,
    known: Vec<Input>,
}

thread_local! {
    static HANDS: Cell<Hands> = Cell::default();
}

/// Why a module was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("{0}")]
    Invalid(String),
    #[error("{text}")]
    Unlawful {
        text: String,
        counterexample: serde_json::Value,
    },
    #[error("the module could not be stored: {0}")]
    Storage(String),
}

/// The port through which a node keeps and judges modules. All calls may block.
pub trait Modules: Send + Sync + 'static {
    /// The digests whose modules can fold here.
    fn held(&self) -> Vec<Digest>;
    /// The bytes of a module, as they were uploaded.
    fn bytes(&self, digest: Digest) -> Result<Option<Bytes>, ModuleError>;
    /// Stores bytes that have this digest, and makes them ready to fold.
    fn keep(&self, digest: Digest, bytes: &Bytes) -> Result<(), ModuleError>;
    /// Makes room: the module need not be ready to fold any more. Its bytes stay.
    fn unload(&self, digest: Digest);
    /// Says what a module is, after it passed the law check or was let off it.
    fn inspect(&self, bytes: &Bytes, accept_unlawful: bool) -> Result<ModuleInfo, ModuleError>;
    /// A place to try modules in, apart from those that serve.
    fn rehearse(&self) -> Result<Rehearsal, ModuleError>;
    /// How a module has fared.
    fn health(&self, digest: Digest) -> ModuleFigures;
    /// How every module has fared.
    fn all_health(&self) -> BTreeMap<Digest, ModuleFigures>;
}

/// The ports of a node.
pub struct Ports {
    pub clock: Arc<dyn Clock>,
    pub store: Arc<dyn Store>,
    pub guests: Arc<dyn Guests>,
    pub modules: Arc<dyn Modules>,
    pub metrics: Arc<Metrics>,
}

/// One running node.
pub struct Node {
    /// Itself: what a store or a guest answers comes back on their threads.
    this: Weak<Node>,
    name: Arc<str>,
    machine: Mutex<Machine>,
    ports: Ports,
    /// Set once, right after the node is made: the transport delivers to it.
    transport: OnceLock<Arc<dyn Transport>>,
    inbox: Arc<Inbox>,
    /// Requests whose clients wait.
    waiting: Mutex<Pending<RequestId, oneshot::Sender<Response>>>,
    /// Operators who wait for their change to be taken.
    publishing: Mutex<HashMap<RequestId, oneshot::Sender<Result<Applied, PublishRefused>>>>,
    /// Pages of a table that somebody waits for.
    surveys: Mutex<HashMap<RequestId, oneshot::Sender<Result<SurveyPage, Refusal>>>>,
    /// Held by the dry run that is under way: there is one at a time.
    rehearsing: Arc<tokio::sync::Semaphore>,
    next_request: AtomicU64,
    /// Into how many partitions the ring is cut, once that is known: it is so for the
    /// cluster's life, and asked for every request.
    partitions: OnceLock<u32>,
    tables: RwLock<Arc<Tables>>,
    catalog: RwLock<Arc<Catalog>>,
    draining: AtomicBool,
    /// Effects are carried out on threads of the store's and the sandbox's too,
    /// which are not the runtime's own.
    runtime: tokio::runtime::Handle,
    /// Whether one thread does all that the runtime has to do. Then what clients ask waits
    /// for the others whose requests came at the same time: to read all of them, to step
    /// the machine through all of them and to look up all rows is a tenth cheaper than to
    /// do each of it for one after the other, since the processor keeps at hand what it
    /// does again and again. Several threads would wait for the one that does so.
    has_one_thread: bool,
    /// One change of tables or modules at a time: each is read, changed, stored.
    changing: tokio::sync::Mutex<()>,
}

/// A lock that a panic poisoned still guards whole data: machines are stepped
/// to the end or the process is a bug away from ending anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A node with this machine, on the present runtime. Its first effects wait
    /// for [`Node::start`].
    pub fn new(name: Arc<str>, machine: Machine, ports: Ports) -> Arc<Self> {
        let tables = machine.tables().clone();
        let catalog = Arc::new(machine.catalog().clone());
        let runtime = tokio::runtime::Handle::current();
        let has_one_thread = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        Arc::new_cyclic(|this| Node {
            this: this.clone(),
            name,
            machine: Mutex::new(machine),
            ports,
            transport: OnceLock::new(),
            inbox: Arc::default(),
            waiting: Mutex::default(),
            publishing: Mutex::default(),
            surveys: Mutex::default(),
            rehearsing: Arc::new(tokio::sync::Semaphore::new(1)),
            next_request: AtomicU64::new(1),
            partitions: OnceLock::new(),
            tables: RwLock::new(tables),
            catalog: RwLock::new(catalog),
            draining: AtomicBool::new(false),
            runtime,
            has_one_thread,
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// Connects the node to its network, carries out the machine's first
    /// effects, and ticks until the node is dropped.
    ///
    /// `joined` hears of the cluster once the node is in one.
    pub fn start(
        &self,
        transport: Arc<dyn Transport>,
        first: Vec<Effect>,
        joined: impl Fn(ClusterId) + Send + 'static,
    ) {
        let fresh = self.transport.set(transport).is_ok();
        assert!(fresh, "a node is started once");
        self.perform(first);
        let held = self.ports.modules.held();
        self.step(Input::ModulesHeld { digests: held });
        tasks::start(self.inbox.clone(), self.this.clone(), joined);
    }

    /// Logs why the node does not serve, when the reason changes: who looks at a
    /// node that does not come up looks at its log first.
    fn tell_readiness(&self, last: &mut Option<String>) {
        let reason = self.readiness().err();
        if reason != *last {
            match &reason {
                Some(why) => tracing::info!(node = %self.name, "not ready: {why}"),
                None => tracing::info!(node = %self.name, "ready"),
            }
            *last = reason;
        }
    }

    fn arc(&self) -> Arc<Node> {
        self.this.upgrade().expect("whoever calls holds the node")
    }

    /// Hands an input to the machine and carries out what it wants, and what it
    /// wants when it hears what the store knows at once.
    pub fn step(&self, input: Input) {
        self.step_all([input]);
    }

    /// The same of several, in order.
    pub fn step_all(&self, inputs: impl IntoIterator<Item = Input>) {
        // A call within this one, should a port make one, finds empty hands.
        let mut hands = HANDS.take();
        {
            let mut machine = lock(&self.machine);
            // Read under the lock: the machine's time must not run backwards.
            let now = self.ports.clock.now();
            machine.step_all(now, inputs, &mut hands.effects);
        }
        self.go_on(&mut hands);
        if hands.effects.capacity() <= KEEP_ROOM && hands.known.capacity() <= KEEP_ROOM {
            HANDS.set(hands);
        }
    }

    /// The same of what waits to be taken in, and of these after it; they are drained.
    pub fn step_with_waiting(&self, inputs: &mut Vec<Input>) {
        self.inbox.take_before(inputs);
        if !inputs.is_empty() {
            self.step_all(inputs.drain(..));
        }
    }

    /// Carries out effects, and those of what comes of them at once.
    fn perform(&self, effects: Vec<Effect>) {
        let known = Vec::new();
        self.go_on(&mut Hands { effects, known });
    }

    fn go_on(&self, Hands { effects, known }: &mut Hands) {
        self.carry_out(effects, known);
        while !known.is_empty() {
            let mut machine = lock(&self.machine);
            // What is known at once is known now, by the machine's own time.
            let now = machine.now();
            machine.step_all(now, known.drain(..), effects);
            drop(machine);
            self.carry_out(effects, known);
        }
    }

    /// Has an input taken in by the node's own task, with all others that come
    /// meanwhile: a thread of the store's that stepped the machine itself would
    /// wait for it, and wake somebody for every message that comes of it.
    fn step_soon(&self, input: Input) {
        self.inbox.put(input);
    }

    /// Carries out effects; what the store answers at once is left in `known`.
    fn carry_out(&self, effects: &mut Vec<Effect>, known: &mut Vec<Input>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Send {
                    to,
                    address,
                    message,
                } => {
                    self.transport().send(to, &address, message);
                }
                Effect::Contact { address, message } => {
                    self.transport().contact(&address, message);
                }
                Effect::Store { job, request } => {
                    let tell = |reply: &Result<StoreReply, StoreError>| {
                        if let Err(error) = reply
                            && *error != StoreError::Overloaded
                        {
                            tracing::error!(%error, "the store could not do what was asked");
                        }
                    };
                    if let Some(reply) = self.ports.store.read_now(&request) {
                        tell(&reply);
                        known.push(Input::Stored { job, reply });
                        continue;
                    }
                    let node = self.arc();
                    let done = move |reply: Result<StoreReply, StoreError>| {
                        tell(&reply);
                        node.step_soon(Input::Stored { job, reply });
                    };
                    self.ports.store.submit(request, Box::new(done));
                }
                Effect::Guest { job, request } => {
                    let node = self.arc();
                    let begun_us = self.ports.clock.now().wall_us;
                    let done = move |reply, fuel| {
                        let time_us = node.ports.clock.now().wall_us.saturating_sub(begun_us);
                        node.ports.metrics.fold_finished(time_us as f64 / 1e6);
                        let cost = GuestCost { fuel, time_us };
                        node.step_soon(Input::Guest { job, reply, cost });
                    };
                    self.ports.guests.submit(request, Box::new(done));
                }
                Effect::Respond { request, response } => {
                    if let Some(client) = lock(&self.waiting).remove(&request) {
                        // A client that has gone needs no answer.
                        let _gone = client.send(response);
                    }
                }
                Effect::Surveyed { request, page } => {
                    if let Some(asker) = lock(&self.surveys).remove(&request) {
                        // Whoever asked may have given up.
                        let _gone = asker.send(page);
                    }
                }
                Effect::ServeModule {
                    to,
                    address,
                    digest,
                } => {
                    let node = self.arc();
                    self.runtime.spawn_blocking(move || {
                        let bytes = node.ports.modules.bytes(digest).unwrap_or_else(|error| {
                            tracing::warn!(%digest, %error, "a module cannot be read");
                            None
                        });
                        let message = Message::Module { digest, bytes };
                        node.transport().send(to, &address, message);
                    });
                }
                Effect::KeepModule { digest, bytes } => {
                    let node = self.arc();
                    self.runtime.spawn_blocking(move || {
                        match node.ports.modules.keep(digest, &bytes) {
                            Ok(()) => {
                                tracing::info!(%digest, "a module arrived");
                                node.step(Input::ModulesHeld {
                                    digests: vec![digest],
                                });
                            }
                            Err(error) => {
                                tracing::warn!(%digest, %error, "a module was not kept");
                                node.step(Input::ModuleNotKept { digest });
                            }
                        }
                    });
                }
                Effect::CatalogChanged => self.refresh_catalog(),
                Effect::MembersChanged => tracing::info!(node = %self.name, "members changed"),
                Effect::RenewIncarnation { incarnation } => {
                    tracing::warn!(
                        "peers remember deeds of this node that it does not: its data directory \
                         was restored or replaced; dots are minted under fresh epochs from now on"
                    );
                    if let Err(error) = self.ports.store.renew_incarnation(incarnation) {
                        tracing::error!(%error, "the fresh incarnation could not be stored");
                    }
                }
                Effect::ForgetModule { digest } => self.ports.modules.unload(digest),
                Effect::Published { request, outcome } => {
                    if let Some(operator) = lock(&self.publishing).remove(&request) {
                        // An operator who has gone needs no answer.
                        let _gone = operator.send(outcome);
                    }
                }
                Effect::Fault { text } => tracing::error!(node = %self.name, "{text}"),
            }
        }
    }

    fn transport(&self) -> &Arc<dyn Transport> {
        self.transport
            .get()
            .expect("a node is started before it is stepped")
    }

    fn refresh_catalog(&self) {
        let (tables, catalog) = {
            let machine = lock(&self.machine);
            (
                machine.tables().clone(),
                Arc::new(machine.catalog().clone()),
            )
        };
        self.look_for_modules(&catalog);
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = tables;
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    /// A module that the catalog names anew may lie here already: from an upload that
    /// met no majority, or from before a restart. It need not be fetched then.
    fn look_for_modules(&self, catalog: &Catalog) {
        let held: BTreeSet<Digest> = self.ports.modules.held().into_iter().collect();
        let lacking: Vec<Digest> = catalog
            .digests()
            .into_iter()
            .filter(|digest| !held.contains(digest))
            .collect();
        if lacking.is_empty() {
            return;
        }
        let node = self.arc();
        self.runtime.spawn_blocking(move || {
            for digest in lacking {
                // What is damaged or absent here comes from a peer.
                let Ok(Some(bytes)) = node.ports.modules.bytes(digest) else {
                    continue;
                };
                match node.ports.modules.keep(digest, &bytes) {
                    Ok(()) => node.step(Input::ModulesHeld {
                        digests: vec![digest],
                    }),
                    Err(error) => tracing::warn!(%digest, %error, "a module does not load"),
                }
            }
        });
    }

    /// The node's configured name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tables as of now; cheap.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The catalog as of now; cheap.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Where an item of this table lies. Before a layout is known it lies
    /// nowhere, and whoever asks is told that the node is not ready.
    pub fn partition(&self, table: &str, partition_key: &[u8]) -> Partition {
        let known = self.partitions.get().copied();
        let partitions = known.or_else(|| {
            let machine = lock(&self.machine);
            let partitions = machine.ring()?.layout().partitions();
            // A node that is not ready may yet find itself in another cluster.
            if machine.readiness().is_ok() {
                self.partitions.get_or_init(|| partitions);
            }
            Some(partitions)
        });
        partitions.map_or_else(Partition::default, |partitions| {
            Position::of(table, partition_key).partition(partitions)
        })
    }

    /// Carries out a client's request.
    pub async fn item(&self, item: ItemRequest) -> Response {
        if self.draining.load(Ordering::Relaxed) {
            return Response::Refused(Refusal::NotReady("it is shutting down".to_owned()));
        }
        let request = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        let (client, response) = oneshot::channel();
        lock(&self.waiting).insert(request, client);
        let asked = Input::Client { request, item };
        if self.has_one_thread {
            self.step_soon(asked);
        } else {
            self.step(asked);
        }
        match response.await {
            Ok(response) => response,
            Err(_) => Response::Refused(Refusal::NotReady("it is shutting down".to_owned())),
        }
    }

    /// Whether the node can serve, or why not yet.
    pub fn readiness(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("it is shutting down".to_owned());
        }
        lock(&self.machine).readiness()
    }

    /// Whether this node holds what it should; not while it is being filled after
    /// its disk lost something.
    pub fn is_filled(&self) -> bool {
        let machine = lock(&self.machine);
        machine.membership().cluster().is_some() && machine.membership().is_filled()
    }

    /// Refuses new requests from now on; those in hand are finished.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        lock(&self.machine).drain();
    }

    /// How many requests, forwarded ones included, have no answer yet.
    pub fn waiting(&self) -> usize {
        let unanswered = lock(&self.machine).unanswered();
        unanswered.max(lock(&self.waiting).len())
    }

    /// Asks the store for something on behalf of the node itself.
    async fn ask_store(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let (done, reply) = oneshot::channel();
        self.ports.store.submit(
            request,
            Box::new(move |result| {
                // Nobody waits any more: the store has done its work all the same.
                let _gone = done.send(result);
            }),
        );
        reply
            .await
            .unwrap_or_else(|_| Err(StoreError::Io("the store was closed".to_owned())))
    }

    /// What the config file said about tables, applied where it changed; see
    /// `admin.rs`.
    pub async fn apply_config_tables(
        &self,
        tables: BTreeMap<String, TableDefinition>,
    ) -> Result<(), AdminError> {
        admin::apply_config_tables(self, tables).await
    }
}
