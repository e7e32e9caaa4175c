//! What a node does of its own accord: it takes in what came, and it ticks.
//!
//! Promises: both go on until the node is dropped, also when a step panicked, which is a
//! bug: what the step was about is lost, like a message, and a node that answered nobody
//! from then on would be worse. What came is taken in in the order in which it came.

use std::future::Future;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::{Node, lock};
use crate::protocol::effect::Input;
use crate::protocol::id::ClusterId;

/// How often the machine's timers are looked at. The shortest of them is a hedge
/// of 50 ms; a tick that finds nothing due costs about a microsecond.
const TICK: Duration = Duration::from_millis(10);

/// What came from clients and other threads and was not taken in yet. As much as has
/// passed the gate and as the store and the sandbox have in hand, which is bounded there.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Vec<Input>>,
    arrived: Notify,
}

impl Inbox {
    /// Puts one after what waits.
    pub fn put(&self, input: Input) {
        let mut waiting = lock(&self.waiting);
        let is_first = waiting.is_empty();
        waiting.push(input);
        drop(waiting);
        if is_first {
            self.arrived.notify_one();
        }
    }

    /// Takes what waits, and puts it before these.
    pub fn take_before(&self, inputs: &mut Vec<Input>) {
        let mut waiting = lock(&self.waiting);
        waiting.append(inputs);
        std::mem::swap(&mut *waiting, inputs);
    }
}

/// Starts both tasks. `joined` hears of the cluster once the node is in one.
pub(super) fn start(
    inbox: Arc<Inbox>,
    node: Weak<Node>,
    joined: impl Fn(ClusterId) + Send + 'static,
) {
    let taking = node.clone();
    tokio::spawn(keep_up(move || take_in(inbox.clone(), taking.clone())));
    // One task at a time has it.
    let joined = Arc::new(Mutex::new(joined));
    tokio::spawn(keep_up(move || tick(node.clone(), joined.clone())));
}

/// Has a task run until it ends otherwise than by a panic.
async fn keep_up<T>(task: impl Fn() -> T)
where
    T: Future<Output = ()> + Send + 'static,
{
    while let Err(error) = tokio::spawn(task()).await {
        if error.is_cancelled() {
            return;
        }
        tracing::error!(
            %error,
            "a step of the node failed, which is a bug: please report it. What it was about is \
             lost, and its clients get no answer; the node goes on"
        );
    }
}

/// Takes in what other threads bring, until the node is dropped.
async fn take_in(inbox: Arc<Inbox>, node: Weak<Node>) {
    let mut inputs = Vec::new();
    loop {
        inbox.arrived.notified().await;
        let Some(node) = node.upgrade() else { return };
        node.step_with_waiting(&mut inputs);
    }
}

/// Ticks until the node is dropped.
async fn tick(node: Weak<Node>, joined: Arc<Mutex<impl Fn(ClusterId)>>) {
    let mut told = false;
    let mut reason = None;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(node) = node.upgrade() else { return };
        node.step(Input::Tick);
        node.tell_readiness(&mut reason);
        if !told {
            let cluster = lock(&node.machine).membership().cluster();
            if let Some(cluster) = cluster {
                tracing::info!(node = %node.name, %cluster, "in a cluster");
                lock(&joined)(cluster);
                told = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use tokio::time::timeout;

    use super::*;
    use crate::clock::{Clock, Dice, ManualClock};
    use crate::metrics::Metrics;
    use crate::node::{ModuleError, ModuleFigures, Modules, Ports};
    use crate::protocol::catalog::{Digest, ModuleInfo, QuorumSize, TableDefinition};
    use crate::protocol::context::Context;
    use crate::protocol::effect::{Address, GuestReply, GuestRequest};
    use crate::protocol::id::{ItemKey, NodeId};
    use crate::protocol::machine::Machine;
    use crate::protocol::membership::{Identity, Pace};
    use crate::protocol::message::{Ask, ItemRequest, Message, Response};
    use crate::reconcile::rehearsal::Rehearsal;
    use crate::reconcile::{self, Guests};
    use crate::store::memory::MemoryStore;
    use crate::transport::Transport;

    /// A node alone, without modules.
    struct Alone;

    fn nothing_here<T>() -> Result<T, ModuleError> {
        Err(ModuleError::Invalid("there are no modules here".to_owned()))
    }

    impl Modules for Alone {
        fn held(&self) -> Vec<Digest> {
            Vec::new()
        }

        fn bytes(&self, _: Digest) -> Result<Option<Bytes>, ModuleError> {
            Ok(None)
        }

        fn keep(&self, _: Digest, _: &Bytes) -> Result<(), ModuleError> {
            nothing_here()
        }

        fn unload(&self, _: Digest) {}

        fn inspect(&self, _: &Bytes, _: bool) -> Result<ModuleInfo, ModuleError> {
            nothing_here()
        }

        fn rehearse(&self) -> Result<Rehearsal, ModuleError> {
            nothing_here()
        }

        fn health(&self, _: Digest) -> ModuleFigures {
            ModuleFigures::default()
        }

        fn all_health(&self) -> BTreeMap<Digest, ModuleFigures> {
            BTreeMap::new()
        }
    }

    impl Guests for Alone {
        fn submit(&self, _: GuestRequest, done: reconcile::Done) {
            done(GuestReply::Missing, 0);
        }
    }

    impl Transport for Alone {
        fn send(&self, _: NodeId, _: &Address, _: Message) {}

        fn contact(&self, _: &Address, _: Message) {}
    }

    /// A clock that moves on each time it is looked at, and breaks once when it is told to.
    #[derive(Default)]
    struct Breaking {
        clock: ManualClock,
        breaks: AtomicBool,
    }

    impl Clock for Breaking {
        fn now(&self) -> crate::clock::Now {
            assert!(
                !self.breaks.swap(false, Ordering::SeqCst),
                "it was to break"
            );
            self.clock.advance_ms(10);
            self.clock.now()
        }
    }

    fn node(clock: Arc<Breaking>) -> Arc<Node> {
        let identity = Identity {
            name: "n1".into(),
            node: NodeId::of("n1"),
            address: "127.0.0.1:1".into(),
            weight_milli: 1000,
            zone: "z".into(),
            wire_version: 3,
            seeds: vec!["127.0.0.1:1".into()],
            partitions: 16,
            replicas: 1,
        };
        let mut dice = Dice::from_seed(1);
        clock.clock.advance_ms(1_700_000_000_000);
        let (machine, first) = Machine::new(
            identity,
            Pace::default(),
            None,
            7,
            clock.now(),
            Box::new(move || dice.next_u64()),
        );
        let ports = Ports {
            clock,
            store: Arc::new(MemoryStore::new(7)),
            guests: Arc::new(Alone),
            modules: Arc::new(Alone),
            metrics: Arc::new(Metrics::new()),
        };
        let node = Node::new("n1".into(), machine, ports);
        node.start(Arc::new(Alone), first, |_| {});
        node
    }

    /// How long an answer may take that comes at all.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Lets ticks pass until this holds.
    async fn until(holds: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
        panic!("it never came about");
    }

    async fn put(node: &Node) -> Response {
        let table = node.tables()["carts"].id;
        let request = ItemRequest {
            table,
            partition: node.partition("carts", b"ann"),
            key: ItemKey::new(table, b"ann", None),
            ask: Ask::Put {
                client: Context::new(),
                value: Bytes::from_static(b"milk"),
                content_type: "text/plain".into(),
                representation: false,
            },
            r: 1,
            w: 1,
            strict: false,
            timeout_ms: 60_000,
        };
        node.item(request).await
    }

    #[tokio::test]
    async fn a_step_that_panics_ends_neither_task() {
        let clock = Arc::new(Breaking::default());
        let node = node(clock.clone());
        until(|| node.readiness().is_ok()).await;
        let definition = TableDefinition {
            n: 1,
            r: QuorumSize::Count(1),
            w: QuorumSize::Count(1),
            ..TableDefinition::default()
        };
        let tables = BTreeMap::from([("carts".to_owned(), definition)]);
        node.apply_config_tables(tables).await.expect("a table");
        until(|| node.tables().contains_key("carts")).await;
        let has_broken = || !clock.breaks.load(Ordering::SeqCst);
        // Mostly it is the request's turn that looks at the clock next, else it is a tick.
        for _ in 0..20 {
            clock.breaks.store(true, Ordering::SeqCst);
            let asking = {
                let node = node.clone();
                tokio::spawn(async move { put(&node).await })
            };
            until(has_broken).await;
            asking.abort();
            let wrote = timeout(PATIENCE, put(&node)).await;
            let wrote = wrote.expect("requests are still taken in");
            assert!(matches!(wrote, Response::Written { .. }), "{wrote:?}");
        }
        clock.breaks.store(true, Ordering::SeqCst);
        until(has_broken).await;
        let then = clock.clock.now().monotonic_ms;
        until(|| clock.clock.now().monotonic_ms > then).await;
    }
}
