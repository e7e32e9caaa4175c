//! Too many clients: they are told so at once, before anything is done for them,
//! and the node stays in its cluster.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kinfold::clock::{Clock, SystemClock};

use crate::common::{Cluster, Expect, Launch, Plan, Request, eventually, item, until};
use crate::heal::{start, start_cluster};
use crate::workload::TABLES;

/// How many files the crowded node may open.
const FILES: usize = 600;
/// How quickly a refusal has to come: many times what it takes, and far less than
/// any timeout of the node's.
const AT_ONCE: Duration = Duration::from_secs(2);
/// What a node holds of bodies at most, see `src/api/gate.rs`.
const MAX_ITEM_BYTES: usize = 64 << 20;

/// A client that has begun to send a value.
struct Slow {
    stream: TcpStream,
    left: usize,
}

impl Slow {
    /// Sends the head and all but the last byte of a value, or less.
    fn begin(cluster: &Cluster, key: &str, bytes: usize, sent: usize) -> Slow {
        let mut stream = TcpStream::connect(cluster.nodes[0].address()).expect("a connection");
        let path = item("raw", key);
        write!(
            stream,
            "PUT {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n"
        )
        .expect("it is taken");
        stream.write_all(&vec![b'x'; sent]).expect("it is taken");
        Slow {
            stream,
            left: bytes - sent,
        }
    }

    /// Sends the rest, and returns the status line.
    fn end(mut self) -> String {
        self.stream
            .write_all(&vec![b'x'; self.left])
            .expect("it is taken");
        answer(&mut self.stream)
    }
}

/// What comes back, up to the end of its head.
fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        text.push(byte[0].into());
    }
    text
}

/// Waits until this many item requests are being carried out.
fn wait_in_flight(cluster: &Cluster, count: usize) {
    eventually("the requests are in hand", || {
        let metrics = cluster.at(0).get("/metrics").is(200).text();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("kinfold_requests_in_flight "))
            .expect("a gauge")
            .to_owned();
        // The request for the metrics is one of them.
        match line.parse::<usize>() {
            Ok(found) if found > count => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Sends a request that has to be refused at once.
#[track_caller]
fn refused(cluster: &Cluster, request: Request) {
    let clock = SystemClock::new();
    let reply = cluster.at(0).send(request);
    assert!(clock.now().monotonic_ms < AT_ONCE.as_millis() as u64);
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert!(reply.header("x-request-id").is_some());
    let detail = reply.refused(503, "overloaded");
    assert!(detail.contains("nothing was done"), "{detail}");
}

#[test]
fn too_many_requests_are_refused_before_they_are_read() {
    let cluster = start_cluster(Plan::with(TABLES));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let room = (128 * cores).clamp(256, 1024);
    let slow: Vec<Slow> = (0..room)
        .map(|number| Slow::begin(&cluster, &format!("slow-{number}"), 10, 9))
        .collect();
    wait_in_flight(&cluster, room);
    refused(&cluster, Request::put(item("raw", "one-more"), "v"));
    refused(&cluster, Request::get(item("raw", "slow-1")));
    // Others are not meant, and neither are those who look after the node.
    cluster.at(1).put(&item("raw", "elsewhere"), "v").is(204);
    for path in ["/healthz", "/readyz", "/v1/cluster", "/v1/tables"] {
        cluster.at(0).get(path).is(200);
    }
    for client in slow {
        let answer = client.end();
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
    cluster.at(0).put(&item("raw", "one-more"), "v").is(204);
    let metrics = cluster.at(0).get("/metrics").text();
    assert!(
        metrics.contains(r#"kinfold_requests_total{kind="put",status="503",code="overloaded"} 1"#),
        "{metrics}"
    );
    until("the log tells of it", || {
        cluster.nodes[0]
            .said()
            .contains("overloaded: requests were refused")
    });
}

#[test]
fn too_many_bytes_are_refused_before_they_are_sent() {
    const VALUE_BYTES: usize = 1_000_000;
    let cluster = start_cluster(Plan::with(TABLES));
    let count = MAX_ITEM_BYTES / VALUE_BYTES;
    let slow: Vec<Slow> = (0..count)
        .map(|number| Slow::begin(&cluster, &format!("large-{number}"), VALUE_BYTES, 1))
        .collect();
    wait_in_flight(&cluster, count);
    let room = MAX_ITEM_BYTES - count * VALUE_BYTES;
    // A client that asks first never sends it.
    let mut stream = TcpStream::connect(cluster.nodes[0].address()).expect("a connection");
    let path = item("raw", "one-more");
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        room + 1
    )
    .expect("it is taken");
    let answer = answer(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    // One whose value fits is served, and so are readers.
    cluster.at(0).put(&item("raw", "small"), "v").is(204);
    assert_eq!(cluster.at(0).get(&item("raw", "small")).is(200).text(), "v");
    for client in slow {
        let answer = client.end();
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
    let value = "x".repeat(room + 1);
    cluster.at(0).put(&path, value).is(204);
}

#[test]
fn too_many_connections_are_told_so_and_peers_are_let_in() {
    let cluster = Cluster::prepare(3, Plan::with(TABLES));
    let limited = format!("ulimit -n {FILES}; exec \"$0\" \"$@\"");
    cluster.nodes[0].set_launch(Launch {
        under: ["sh", "-c", &limited].map(str::to_owned).into(),
        ..Launch::default()
    });
    start(&cluster);
    cluster.at(0).put(&item("raw", "k"), "v").is(204);
    // As many as a fourth of its files, and some that are turned away.
    let mut idle = Vec::new();
    for _ in 0..FILES / 4 + 10 {
        idle.push(TcpStream::connect(cluster.nodes[0].address()).expect("a connection"));
    }
    let fresh = || {
        let mut stream = TcpStream::connect(cluster.nodes[0].address()).expect("a connection");
        let path = item("raw", "k");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is taken");
        answer(&mut stream).to_lowercase()
    };
    eventually("there is no room", || {
        let answer = fresh();
        match answer.starts_with("http/1.1 503") {
            true if answer.contains("retry-after: 1") && answer.contains("connection: close") => {
                Ok(())
            }
            _ => Err(answer),
        }
    });
    // Who asks whether it lives is answered, and a peer that starts again is met.
    let mut stream = TcpStream::connect(cluster.nodes[0].address()).expect("a connection");
    write!(stream, "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is taken");
    let answer = answer(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    cluster.nodes[1].kill9();
    cluster.nodes[1].start();
    cluster.nodes[1].wait_ready();
    cluster.wait_seen(1, 0, true);
    until("the crowded node answers its peer", || {
        let reply = cluster.at(1).get(&format!("{}?r=all", item("raw", "k")));
        reply.status == 200
    });
    drop(idle);
    eventually("there is room again", || {
        let answer = fresh();
        match answer.starts_with("http/1.1 200") {
            true => Ok(()),
            false => Err(answer),
        }
    });
}

/// Connections that nobody uses any more would fill the table of files in the end.
#[test]
fn who_is_silent_for_long_is_let_go() {
    /// What `HEAD_TIMEOUT` in `src/api/mod.rs` says, less what a second may be cut by.
    const SILENCE: Duration = Duration::from_secs(74);
    let cluster = Cluster::start(1, Plan::with(TABLES));
    let address = cluster.nodes[0].address();
    let clock = SystemClock::new();
    let now_ms = || u128::from(clock.now().monotonic_ms);
    let get = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let be_silent = |said: &str| {
        let mut stream = TcpStream::connect(&address).expect("a connection");
        // A node that never closes fails this in place of holding it up for ever.
        let patience = Some(10 * SILENCE);
        stream.set_read_timeout(patience).expect("it is set");
        let begun_ms = now_ms();
        stream.write_all(said.as_bytes()).expect("it is taken");
        if said == get {
            let answer = answer(&mut stream);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        let mut rest = Vec::new();
        // Ends when the node closes, and not before.
        stream
            .read_to_end(&mut rest)
            .expect("it is closed in order");
        let silence_ms = now_ms() - begun_ms;
        assert!(
            silence_ms >= SILENCE.as_millis(),
            "{said:?}: {silence_ms} ms"
        );
    };
    std::thread::scope(|scope| {
        for said in ["", "GET /healthz HT", get] {
            let be_silent = &be_silent;
            scope.spawn(move || be_silent(said));
        }
    });
}
