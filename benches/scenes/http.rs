//! Scenes of the API: a get and a put of one item, from the bytes that a client
//! sends to the bytes of the answer, and the same exchange with nothing but hyper.
//!
//! Promises: `api/…` drives the very connection that the server serves
//! ([`connections::attend`]) and the very [`Api`]; the node behind it says what it is
//! to say when it is polled for the second time, as one does that waits for others.
//! `http/…` answers the same requests with the same headers and bytes, ready made:
//! what hyper itself takes, and so the floor. Sockets are buffers in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinfold::api::Api;
use kinfold::api::service::Service;
use kinfold::clock::SystemClock;
use kinfold::metrics::Metrics;
use kinfold::node::dry_run::{Plan, Running};
use kinfold::node::{AdminError, ClusterView, ModuleFigures, RingView, Tables, Trouble, Upload};
use kinfold::protocol::catalog::{Applied, Catalog, CatalogChange, Digest, TableDefinition};
use kinfold::protocol::id::{Partition, Position};
use kinfold::protocol::message::{Ask, ItemRequest, Response as Told, ValueResponse};
use kinfold::protocol::siblings::SiblingSet;
use kinfold::server::connections;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::{SMALL_BYTES, Scene, usual, world};

/// How many partitions the ring has.
const PARTITIONS: u32 = 256;
/// The most polls that an exchange may take: the request is read and handed on,
/// the answer comes, and nothing is left to do.
const MAX_POLLS: usize = 3;

/// All of them.
pub fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (what, request) in [("get", get()), ("put", put())] {
        let name = format!("{what} of {SMALL_BYTES} bytes");
        let answer = answer_of(&request);
        scenes.push(scene(format!("api/{name}"), served(), request.clone()));
        scenes.push(scene(format!("http/{name}, bare"), bare(answer), request));
    }
    scenes
}

/// A get, as curl sends it.
fn get() -> Bytes {
    let table = world::TABLE;
    Bytes::from(format!(
        "GET /v1/tables/{table}/items/user:00000001 HTTP/1.1\r\nHost: 127.0.0.1:8101\r\n\
         User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
    ))
}

/// A put, as curl sends it.
fn put() -> Bytes {
    let table = world::TABLE;
    let mut text = format!(
        "PUT /v1/tables/{table}/items/user:00000001 HTTP/1.1\r\nHost: 127.0.0.1:8101\r\n\
         User-Agent: curl/8.5.0\r\nAccept: */*\r\nContent-Type: application/json\r\n\
         Content-Length: {SMALL_BYTES}\r\n\r\n"
    )
    .into_bytes();
    text.resize(text.len() + SMALL_BYTES, b'v');
    Bytes::from(text)
}

/// What comes back, head and body.
fn answer_of(request: &Bytes) -> (StatusCode, HeaderMap, Bytes) {
    let mut exchange = Exchange::new(served());
    exchange.give(request);
    let answer = exchange.answer();
    let text = String::from_utf8(answer).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    let fields = lines.filter_map(|line| {
        let (name, value) = line.split_once(": ").expect("a field");
        let written_by_hyper = matches!(name, "content-length" | "date");
        (!written_by_hyper).then(|| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        })
    });
    let body = Bytes::copy_from_slice(body.as_bytes());
    (status.expect("a status"), fields.collect(), body)
}

type Served = Pin<Box<dyn Future<Output = ()>>>;

/// A connection that the server serves, with a node that has one item.
fn served() -> impl Fn(Wire) -> Served {
    let mut catalog = Catalog::default();
    catalog.set_table(world::TABLE, TableDefinition::default());
    let set = usual(SMALL_BYTES);
    let (_, version) = set.siblings().next().expect("it has one");
    let value = ValueResponse {
        value: version.value.clone().expect("a value"),
        content_type: version.content_type.clone(),
        context: set.context().clone(),
        siblings: 1,
        hash: set.hash(),
        folded_by: None,
    };
    let node = Arc::new(Ready {
        tables: Arc::new(catalog.resolve()),
        value,
        set,
    });
    let peer = |_| -> Pin<Box<dyn Future<Output = _> + Send>> { panic!("no peer calls") };
    let api = Arc::new(Api::new(
        node,
        Arc::new(Metrics::new()),
        Arc::new(SystemClock::new()),
        Box::new(peer),
    ));
    // Nobody stops it.
    let (stop, stopped) = watch::channel(false);
    move |wire| {
        let served = connections::attend(wire, api.clone(), stopped.clone());
        let stop = stop.clone();
        Box::pin(async move {
            served.await;
            drop(stop);
        })
    }
}

/// A connection that hyper serves with an answer that is there.
fn bare(answer: (StatusCode, HeaderMap, Bytes)) -> impl Fn(Wire) -> Served {
    move |wire| {
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (status, fields, body) = answer.clone();
            async move {
                let read = request.into_body().collect().await.expect("it comes");
                assert!(matches!(read.to_bytes().len(), 0 | SMALL_BYTES));
                Pause::default().await;
                let mut response = Response::new(Full::new(body));
                *response.status_mut() = status;
                *response.headers_mut() = fields;
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(wire), service);
        Box::pin(async move { connection.await.expect("it is served") })
    }
}

fn scene(name: String, serve: impl Fn(Wire) -> Served, request: Bytes) -> Scene {
    let exchange = Rc::new(Mutex::new(Exchange::new(serve)));
    let ready = exchange.clone();
    Scene::new(
        name,
        move || ready.lock().expect("sound").rest(),
        move |()| {
            let mut exchange = exchange.lock().expect("sound");
            exchange.give(&request);
            exchange.answer().len()
        },
    )
}

/// Both ends of a connection, and the future that serves it.
struct Exchange {
    ends: Arc<Mutex<Ends>>,
    served: Served,
    /// Timers live in it. It runs nothing.
    runtime: Runtime,
}

impl Exchange {
    fn new(serve: impl Fn(Wire) -> Served) -> Exchange {
        let ends = Arc::<Mutex<Ends>>::default();
        let served = serve(Wire(ends.clone()));
        let runtime = Builder::new_current_thread().enable_time().build();
        Exchange {
            ends,
            served,
            runtime: runtime.expect("a runtime"),
        }
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().expect("sound")
    }

    /// What the client sends.
    fn give(&self, request: &Bytes) {
        self.ends().given = request.clone();
    }

    /// Polls until the answer is there, and then until nothing more is to be done.
    fn answer(&mut self) -> Vec<u8> {
        let _inside = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..MAX_POLLS {
            let polled = self.served.as_mut().poll(&mut context);
            assert!(polled.is_pending(), "the connection ended");
            if !self.ends().taken.is_empty() {
                return std::mem::take(&mut self.ends().taken);
            }
        }
        panic!("no answer after {MAX_POLLS} polls");
    }

    /// Nothing is on its way.
    fn rest(&self) {
        let ends = self.ends();
        assert!(ends.given.is_empty() && ends.taken.is_empty());
    }
}

/// What lies between the client and the server.
#[derive(Default)]
struct Ends {
    given: Bytes,
    taken: Vec<u8>,
}

/// The server's end.
struct Wire(Arc<Mutex<Ends>>);

impl Wire {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().expect("sound")
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        if ends.given.is_empty() {
            return Poll::Pending;
        }
        let many = ends.given.len().min(buffer.remaining());
        let given = ends.given.split_to(many);
        buffer.put_slice(&given);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ends().taken.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.ends();
        let before = ends.taken.len();
        for piece in bytes {
            ends.taken.extend_from_slice(piece);
        }
        Poll::Ready(Ok(ends.taken.len() - before))
    }
}

/// Is ready when it is polled for the second time.
#[derive(Default)]
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        Poll::Pending
    }
}

/// A node that knows the answers.
struct Ready {
    tables: Arc<Tables>,
    value: ValueResponse,
    set: SiblingSet,
}

const ITEMS_ONLY: &str = "the scenes ask for items only";

impl Service for Ready {
    fn name(&self) -> &str {
        "a"
    }

    fn tables(&self) -> Arc<Tables> {
        self.tables.clone()
    }

    fn catalog(&self) -> Arc<Catalog> {
        unreachable!("{ITEMS_ONLY}")
    }

    fn partition(&self, table: &str, partition_key: &[u8]) -> Partition {
        Position::of(table, partition_key).partition(PARTITIONS)
    }

    async fn item(&self, item: ItemRequest) -> Told {
        Pause::default().await;
        match item.ask {
            Ask::Get { .. } => Told::Value(self.value.clone()),
            Ask::Put { value, .. } => {
                assert_eq!(value.len(), SMALL_BYTES);
                Told::Written {
                    context: self.set.context().clone(),
                }
            }
            _ => unreachable!("{ITEMS_ONLY}"),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    fn cluster_view(&self) -> ClusterView {
        unreachable!("{ITEMS_ONLY}")
    }

    fn ring_view(&self, _: &str, _: &[u8]) -> Option<RingView> {
        unreachable!("{ITEMS_ONLY}")
    }

    async fn publish(&self, _: CatalogChange, _: u64) -> Result<Applied, AdminError> {
        unreachable!("{ITEMS_ONLY}")
    }

    async fn add_reconciler(
        &self,
        _: &str,
        _: Bytes,
        _: bool,
        _: u64,
    ) -> Result<Upload, AdminError> {
        unreachable!("{ITEMS_ONLY}")
    }

    async fn dry_run(&self, _: Plan) -> Result<Running, AdminError> {
        unreachable!("{ITEMS_ONLY}")
    }

    async fn leave(&self) -> Result<(), AdminError> {
        unreachable!("{ITEMS_ONLY}")
    }

    async fn remove_member(&self, _: &str) -> Result<String, AdminError> {
        unreachable!("{ITEMS_ONLY}")
    }

    fn module_bytes(&self, _: Digest) -> Option<Bytes> {
        unreachable!("{ITEMS_ONLY}")
    }

    fn module_health(&self, _: Digest) -> ModuleFigures {
        unreachable!("{ITEMS_ONLY}")
    }

    fn troubles(&self) -> BTreeMap<Digest, Trouble> {
        unreachable!("{ITEMS_ONLY}")
    }

    fn metrics_text(&self) -> String {
        unreachable!("{ITEMS_ONLY}")
    }
}
