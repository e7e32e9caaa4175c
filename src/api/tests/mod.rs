//! The API over real TCP, on a small node that keeps real sibling sets.

mod admin;
mod items;
mod limits;
mod world;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use self::world::World;
use super::gate::MAX_ITEM_BYTES;
use super::{Api, PeerHandler};
use crate::clock::ManualClock;
use crate::metrics::Metrics;

/// A served API and the node behind it.
struct Server {
    address: std::net::SocketAddr,
    world: Arc<World>,
}

/// An answer, read whole.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing: {self:?}"))
            .to_str()
            .unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Checks that this is a well-formed problem of this status and code, and
    /// returns its detail.
    fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert!(self.has("x-request-id"), "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["type"], format!("urn:kinfold:problem:{code}"));
        assert!(!body["title"].as_str().unwrap().is_empty());
        assert_eq!(self.has("retry-after"), status == 503 || status == 429);
        body["detail"].as_str().unwrap().to_owned()
    }
}

fn api(world: &Arc<World>, peer: PeerHandler) -> Api<World> {
    let clock = Arc::new(ManualClock::default());
    Api::new(world.clone(), world.metrics.clone(), clock, peer)
}

async fn serve() -> Server {
    let world = Arc::new(World::new());
    let peer: PeerHandler = Box::new(|request: Request<Incoming>| {
        Box::pin(async move {
            let mut response = Response::new(Full::new(Bytes::from("peer")));
            let upgrade = request.headers().get("upgrade").cloned();
            if let Some(upgrade) = upgrade {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert("upgrade", upgrade);
            }
            response
        })
    });
    let api = Arc::new(api(&world, peer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let api = api.clone();
            let service = service_fn(move |request| {
                let api = api.clone();
                async move { Ok::<_, std::convert::Infallible>(api.handle(request).await) }
            });
            tokio::spawn(async move {
                // A client that breaks off is part of some tests.
                let _ = super::connection()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    Server { address, world }
}

impl Server {
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, path, headers, "").await
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        self.send(Method::PUT, path, headers, body).await
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.send(Method::POST, path, &[], body).await
    }

    async fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::DELETE, path, headers, "").await
    }

    /// A value without a conflict, and the token that came with it.
    async fn write(&self, path: &str, value: &'static str) -> String {
        let reply = self
            .put(path, &[("content-type", "text/plain")], value)
            .await;
        assert_eq!(reply.status, 204, "{reply:?}");
        reply.header("kinfold-context").to_owned()
    }
}

#[tokio::test]
async fn large_answers_count_until_they_have_left() {
    let api = api(&Arc::new(World::new()), Box::new(|_| unreachable!()));
    let small = Response::new(Full::new(Bytes::from("small")));
    let large = Bytes::from(vec![0; MAX_ITEM_BYTES as usize]);
    let large = api.hold(Response::new(Full::new(large))).await;
    assert!(api.gate().is_full());
    let small = api.hold(small).await;
    drop(large);
    assert!(!api.gate().is_full());
    assert_eq!(small.into_body().size_hint().exact(), Some(5));
}

#[test]
fn numbers_are_written_in_decimal() {
    for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
        let mut digits = [0; super::MAX_NUMBER_DIGITS];
        assert_eq!(
            super::decimal(number, &mut digits),
            number.to_string().as_bytes()
        );
    }
}

#[test]
fn counting_is_shared() {
    // Metrics are behind an Arc, and the API is used from many tasks at once.
    fn shared<T: Send + Sync>() {}
    shared::<Metrics>();
    shared::<Api<World>>();
}
