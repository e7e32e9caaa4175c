//! The suite on real sockets, and what only sockets can get wrong.
//!
//! Nothing here sleeps to decide: every wait is for a condition, with a deadline
//! that only a failure reaches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

use super::*;
use crate::transport::codec::WIRE_VERSIONS;
use crate::transport::samples::{module, probe, write};
use crate::transport::suite::{World, run_on};

mod returning;

/// Only a failure takes so long.
const DEADLINE: Duration = Duration::from_secs(60);

/// What all nodes of a world were given, by name.
#[derive(Default)]
struct Inboxes {
    inputs: Mutex<BTreeMap<String, Vec<Input>>>,
    changed: Condvar,
}

impl Inboxes {
    fn wait<T>(&self, mut look: impl FnMut(&mut BTreeMap<String, Vec<Input>>) -> Option<T>) -> T {
        let mut found = None;
        let (inputs, _) = self
            .changed
            .wait_timeout_while(self.inputs.lock().expect("whole"), DEADLINE, |inputs| {
                found = look(inputs);
                found.is_none()
            })
            .expect("whole");
        found.unwrap_or_else(|| panic!("waited in vain; this has come: {inputs:?}"))
    }
}

/// One node: its own runtime, so that it can die as a process does.
struct Running {
    runtime: Runtime,
    transport: HttpTransport,
}

#[derive(Default)]
struct OnSockets {
    inboxes: Arc<Inboxes>,
    nodes: BTreeMap<String, Running>,
    addresses: BTreeMap<String, SocketAddr>,
    clusters: BTreeMap<String, u64>,
    deaf: Vec<TcpListener>,
}

/// Waits for the port: another test may be using it for a moment.
fn bind(address: SocketAddr) -> TcpListener {
    let tries = DEADLINE.as_millis() / 10;
    for _ in 0..tries {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("{address} is never free");
}

async fn listen(listener: TcpListener, transport: HttpTransport) {
    listener.set_nonblocking(true).expect("a socket can");
    let listener = tokio::net::TcpListener::from_std(listener).expect("within a runtime");
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
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

impl OnSockets {
    fn start_with(&mut self, name: &str, versions: &[u32]) {
        let anywhere = "127.0.0.1:0".parse().expect("an address");
        let listener = bind(self.addresses.get(name).copied().unwrap_or(anywhere));
        let address = listener.local_addr().expect("bound");
        self.addresses.insert(name.to_owned(), address);
        let identity = Identity::new(name, &address.to_string());
        if let Some(cluster) = self.clusters.get(name) {
            identity.join_cluster(ClusterId(*cluster));
        }
        let (inboxes, owner) = (self.inboxes.clone(), name.to_owned());
        inboxes.inputs.lock().expect("whole").remove(name);
        let deliver: Deliver = Arc::new(move |arrived: &mut Vec<Input>| {
            let mut inputs = inboxes.inputs.lock().expect("whole");
            inputs.entry(owner.clone()).or_default().append(arrived);
            inboxes.changed.notify_all();
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let entered = runtime.enter();
        let transport = HttpTransport::with_versions(identity, deliver, versions.to_vec());
        drop(entered);
        runtime.spawn(listen(listener, transport.clone()));
        let running = Running { runtime, transport };
        self.nodes.insert(name.to_owned(), running);
    }

    fn join(&self, name: &str, cluster: u64) {
        let identity = &self.nodes[name].transport.shared.identity;
        identity.join_cluster(ClusterId(cluster));
    }

    fn send(&self, from: &str, to: &str, message: Message) {
        let address = self.address(to);
        self.transport(from).send(NodeId::of(to), &address, message);
    }

    /// Sends until the message comes back for good: the peer refuses.
    fn expect_refused(&mut self, from: &str, to: &str) {
        self.send(from, to, probe(1));
        let inputs = self.take_when(from, &|inputs| !inputs.is_empty());
        assert!(
            matches!(
                inputs[..],
                [Input::Undelivered {
                    overloaded: false,
                    ..
                }]
            ),
            "{inputs:?}"
        );
    }
}

impl World for OnSockets {
    fn start(&mut self, name: &str) {
        self.start_with(name, WIRE_VERSIONS);
    }

    fn stop(&mut self, name: &str) {
        let node = self.nodes.remove(name).expect("it runs");
        node.runtime.shutdown_background();
    }

    fn address(&self, name: &str) -> Address {
        Address::from(self.addresses[name].to_string())
    }

    fn transport(&self, name: &str) -> &dyn Transport {
        &self.nodes[name].transport
    }

    fn take_when(&mut self, name: &str, condition: &dyn Fn(&[Input]) -> bool) -> Vec<Input> {
        self.inboxes.wait(|inputs| {
            let inputs = inputs.entry(name.to_owned()).or_default();
            condition(inputs).then(|| std::mem::take(inputs))
        })
    }

    fn first_to_get<'n>(&mut self, names: &[&'n str]) -> &'n str {
        self.inboxes.wait(|inputs| {
            let has_some = |name: &&&str| inputs.get(**name).is_some_and(|got| !got.is_empty());
            names.iter().find(has_some).copied()
        })
    }

    fn deaf_address(&mut self) -> Address {
        // The kernel accepts for it, and nobody ever reads.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        self.deaf.push(listener);
        Address::from(address)
    }

    fn max_queued(&self) -> usize {
        MAX_QUEUED_MESSAGES
    }
}

impl Drop for OnSockets {
    fn drop(&mut self) {
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.runtime.shutdown_background();
        }
    }
}

run_on!(OnSockets::default());

#[test]
fn clusters_that_differ_do_not_mix() {
    let mut world = OnSockets::default();
    world.clusters = BTreeMap::from([("a".into(), 7), ("b".into(), 8)]);
    for name in ["a", "b", "joiner"] {
        world.start(name);
    }
    world.expect_refused("a", "b");
    world.expect_refused("b", "a");
    // Who belongs nowhere may ask anyone, and be answered.
    world.send("joiner", "a", probe(2));
    assert_eq!(world.take_when("a", &|inputs| !inputs.is_empty()).len(), 1);
    world.send("a", "joiner", probe(3));
    let inputs = world.take_when("joiner", &|inputs| !inputs.is_empty());
    assert!(matches!(inputs[..], [Input::Peer { .. }]));
    // Once it belongs to A's cluster, the connection says so, without a word
    // lost; and B, which would have let it in before, refuses it.
    world.join("joiner", 7);
    world.send("joiner", "a", probe(4));
    let inputs = world.take_when("a", &|inputs| !inputs.is_empty());
    assert!(matches!(inputs[..], [Input::Peer { .. }]), "{inputs:?}");
    let known = world.nodes["a"]
        .transport
        .introduction(NodeId::of("joiner"));
    assert_eq!(known.and_then(|known| known.cluster), Some(ClusterId(7)));
    world.expect_refused("joiner", "b");
}

#[test]
fn the_text_of_a_refusal_says_both_clusters() {
    let mut world = OnSockets::default();
    world.clusters = BTreeMap::from([("b".into(), 8)]);
    world.start("b");
    let offer = offer("a", "0000000000000007", "3");
    let text = ask(&world, "b", &offer);
    assert!(text.starts_with("HTTP/1.1 409 "), "{text}");
    assert!(text.contains("application/problem+json"), "{text}");
    assert!(text.contains("0000000000000007") && text.contains("0000000000000008"));
}

#[test]
fn versions_are_agreed_on_or_refused() {
    let mut world = OnSockets::default();
    world.start_with("old", &[1]);
    world.start_with("both", &[1, 2]);
    world.start_with("new", &[2]);
    world.expect_refused("old", "new");
    world.expect_refused("new", "old");
    for (from, to) in [
        ("old", "both"),
        ("both", "old"),
        ("new", "both"),
        ("both", "new"),
    ] {
        world.send(from, to, probe(1));
        let inputs = world.take_when(to, &|inputs| !inputs.is_empty());
        assert!(matches!(inputs[..], [Input::Peer { .. }]), "{inputs:?}");
    }
    let text = ask(&world, "old", &offer("a", "none", "2,3"));
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert!(text.contains("no wire version in common"), "{text}");
}

#[test]
fn a_node_refuses_its_own_name() {
    let mut world = OnSockets::default();
    world.start("a");
    let text = ask(&world, "a", &offer("a", "none", "3"));
    assert!(text.starts_with("HTTP/1.1 409 "), "{text}");
}

#[test]
fn without_an_upgrade_the_answer_says_what_to_ask_for() {
    let mut world = OnSockets::default();
    world.start("b");
    let plain = format!("GET {PEER_PATH} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
    let text = ask(&world, "b", &plain);
    assert!(text.starts_with("HTTP/1.1 426 "), "{text}");
    assert!(text.contains("upgrade: kinfold-peer/1\r\n"), "{text}");
}

fn offer(name: &str, cluster: &str, versions: &str) -> String {
    format!(
        "GET {PEER_PATH} HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\n\
         Upgrade: {PEER_PROTOCOL}\r\nKinfold-Node: {name}\r\nKinfold-Address: 127.0.0.1:1\r\n\
         Kinfold-Cluster: {cluster}\r\nKinfold-Wire-Versions: {versions}\r\n\r\n"
    )
}

fn connect_raw(world: &OnSockets, to: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.addresses[to]).expect("it listens");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a socket can");
    stream.write_all(request.as_bytes()).expect("it reads");
    stream
}

/// The answer up to the end of its head, or of a refusal's body.
fn ask(world: &OnSockets, to: &str, request: &str) -> String {
    read_answer(&mut connect_raw(world, to, request))
}

fn read_answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    let is_whole = |text: &str| {
        text.ends_with('}') || text.ends_with("\r\n\r\n") && text.starts_with("HTTP/1.1 101 ")
    };
    while !is_whole(&text) && stream.read(&mut byte).expect("it answers") > 0 {
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn corrupt_bytes_end_the_connection_and_nothing_else() {
    let mut world = OnSockets::default();
    world.start("b");
    let mut good = BytesMut::new();
    codec::encode(&write(b"value"), &mut good).expect("small");
    let mut corrupt = good.clone();
    let last = corrupt.len() - 1;
    corrupt[last] ^= 1;
    for bad in [&corrupt[..], &[0xff; 100], &[0; 100]] {
        let mut stream = connect_raw(&world, "b", &offer("raw", "none", "3"));
        let head = read_answer(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("kinfold-wire-version: 3\r\n"), "{head}");
        assert!(head.contains("kinfold-node: b\r\n"), "{head}");
        let known = world.transport("b").address_of(NodeId::of("raw"));
        assert_eq!(known.as_deref(), Some("127.0.0.1:1"));
        stream.write_all(&good).expect("it reads");
        stream.write_all(bad).expect("it reads");
        // What came before the damage is delivered, and then there is no more.
        let inputs = world.take_when("b", &|inputs| !inputs.is_empty());
        assert!(matches!(inputs[..], [Input::Peer { .. }]));
        // The end may come as a reset, since bytes are left unread.
        while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
        let is_forgotten = || world.nodes["b"].transport.figures().incoming == 0;
        wait_until(is_forgotten);
        assert_eq!(world.transport("b").address_of(NodeId::of("raw")), None);
    }
    world.start("a");
    world.send("a", "b", probe(1));
    assert_eq!(world.take_when("b", &|inputs| !inputs.is_empty()).len(), 1);
}

fn wait_until(condition: impl Fn() -> bool) {
    let tries = DEADLINE.as_millis();
    for _ in 0..tries {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("waited in vain");
}

/// Accepts one connection as node `name`, without reading what comes on it.
fn accept_raw(listener: &TcpListener, name: &str) -> TcpStream {
    let (mut stream, _) = listener.accept().expect("someone dials");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a socket can");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("a request comes"), 1);
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    assert!(
        head.starts_with("GET /internal/v1/peer HTTP/1.1\r\n"),
        "{head}"
    );
    for line in [
        "upgrade: kinfold-peer/1",
        "kinfold-cluster: none",
        "kinfold-wire-versions: 3",
    ] {
        assert!(head.contains(&format!("{line}\r\n")), "{head}");
    }
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PEER_PROTOCOL}\r\n\
         Kinfold-Node: {name}\r\nKinfold-Cluster: none\r\nKinfold-Wire-Version: 3\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).expect("it reads");
    stream
}

#[test]
fn what_was_never_written_in_full_comes_back_when_the_connection_breaks() {
    let mut world = OnSockets::default();
    world.start("a");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::from(listener.local_addr().expect("bound").to_string());
    let send = |world: &OnSockets, message| {
        world
            .transport("a")
            .send(NodeId::of("b"), &address, message);
    };
    send(&world, probe(1));
    let mut stream = accept_raw(&listener, "b");
    let mut first = [0; codec::HEADER_BYTES + 2];
    stream.read_exact(&mut first).expect("the probe comes");
    // Each is more than the kernel buffers on both sides together, so that not
    // even the one that is being written can have left in full.
    let count = 5;
    for _ in 0..count {
        send(&world, module(20 << 20));
    }
    stream.read_exact(&mut first).expect("a module begins");
    drop(stream);
    let is_module = |input: &Input| {
        matches!(
            input,
            Input::Undelivered {
                message: Message::Module { .. },
                overloaded: false,
                ..
            }
        )
    };
    let inputs = world.take_when("a", &|inputs| inputs.len() > count);
    assert_eq!(
        inputs.iter().filter(|input| is_module(input)).count(),
        count
    );
    let told = |input: &&Input| matches!(input, Input::Disconnected { .. });
    assert_eq!(
        inputs.iter().filter(told).count(),
        1,
        "the end is told once"
    );
}

#[test]
fn everything_that_arrives_is_receipted() {
    let mut world = OnSockets::default();
    world.start("b");
    let mut frame = BytesMut::new();
    codec::encode(&probe(1), &mut frame).expect("small");
    let mut stream = connect_raw(&world, "b", &offer("raw", "none", "3"));
    read_answer(&mut stream);
    for round in 1..=3 {
        stream.write_all(&frame).expect("it reads");
        let mut receipt = [0; 8];
        stream.read_exact(&mut receipt).expect("a receipt comes");
        assert_eq!(u64::from_be_bytes(receipt), round * frame.len() as u64);
    }
}

#[test]
fn a_peer_that_takes_bytes_but_never_reads_is_given_up() {
    let mut world = OnSockets::default();
    world.start("a");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::from(listener.local_addr().expect("bound").to_string());
    world
        .transport("a")
        .send(NodeId::of("b"), &address, probe(1));
    let _stream = accept_raw(&listener, "b");
    let inputs = world.take_when("a", &|inputs| !inputs.is_empty());
    assert!(matches!(inputs[..], [Input::Disconnected { peer }] if peer == NodeId::of("b")));
}

#[test]
fn receipts_keep_a_connection_and_lies_end_it() {
    let mut world = OnSockets::default();
    world.start("a");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::from(listener.local_addr().expect("bound").to_string());
    for (receipt, is_true) in [(10_u64, true), (11, false)] {
        world
            .transport("a")
            .send(NodeId::of("b"), &address, probe(1));
        let mut stream = accept_raw(&listener, "b");
        let mut frame = [0; codec::HEADER_BYTES + 2];
        stream.read_exact(&mut frame).expect("the probe comes");
        stream.write_all(&receipt.to_be_bytes()).expect("it reads");
        if is_true {
            // The same connection carries the next message.
            world
                .transport("a")
                .send(NodeId::of("b"), &address, probe(2));
            stream.read_exact(&mut frame).expect("the probe comes");
            assert_eq!(frame[codec::HEADER_BYTES + 1], 2);
            drop(stream);
        } else {
            assert_eq!(stream.read(&mut frame).expect("a clean end"), 0);
        }
        let inputs = world.take_when("a", &|inputs| !inputs.is_empty());
        assert!(
            matches!(inputs[..], [Input::Disconnected { .. }]),
            "{inputs:?}"
        );
        let links = || world.nodes["a"].transport.figures().links;
        wait_until(|| links() == 0);
    }
}

#[test]
fn closing_sends_what_waits_and_ends_every_task() {
    let mut world = OnSockets::default();
    world.start("a");
    world.start("b");
    world.send("a", "b", probe(0));
    assert_eq!(world.take_when("b", &|inputs| !inputs.is_empty()).len(), 1);
    for id in 1..=1000 {
        world.send("a", "b", probe(id));
    }
    let node = &world.nodes["a"];
    node.runtime.block_on(node.transport.close());
    assert!(node.transport.shared.all_ended.try_lock().is_ok());
    assert_eq!(
        world.take_when("b", &|inputs| inputs.len() >= 1000).len(),
        1000
    );
    // Later messages go nowhere, quietly.
    world.send("a", "b", probe(0));
    assert_eq!(world.nodes["a"].transport.figures().queued_messages, 0);
}

/// Not a test: prints how fast messages of 1 KB go one way.
#[test]
#[ignore = "a measurement"]
fn messages_per_second() {
    let mut world = OnSockets::default();
    world.start("a");
    world.start("b");
    let count = 500_000;
    let message = write(&[7; 1024]);
    let clock = crate::clock::SystemClock::new();
    let now = || crate::clock::Clock::now(&clock).monotonic_ms;
    let started = now();
    let address = world.address("b");
    for _ in 0..count {
        // Full queues are for others: the sender waits for room.
        while world.nodes["a"].transport.figures().queued_messages > 8192 {
            std::thread::yield_now();
        }
        world
            .transport("a")
            .send(NodeId::of("b"), &address, message.clone());
    }
    let inputs = world.take_when("b", &|inputs| inputs.len() >= count);
    let took_ms = now() - started;
    println!("{} messages in {took_ms} ms", inputs.len());
    let mut out = BytesMut::new();
    let started = now();
    for _ in 0..count {
        out.clear();
        codec::encode(&message, &mut out).expect("small");
    }
    let encoded = now();
    for _ in 0..count {
        codec::decode_one(out.chunk()).expect("good");
    }
    let decoded = now();
    println!(
        "{count} encoded in {} ms, decoded in {} ms",
        encoded - started,
        decoded - encoded
    );
}
