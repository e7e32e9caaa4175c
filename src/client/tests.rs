//! The client against real connections: a hyper server, and sockets that
//! misbehave on purpose.

use std::convert::Infallible;

use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server that answers with what it was asked, and counts its connections.
async fn echo() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
                let line = format!("{} {}", request.method(), request.uri());
                let context = request.headers().get(CONTEXT).cloned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut answer = hyper::Response::new(Full::new(body));
                if let Some(context) = context {
                    answer.headers_mut().insert(CONTEXT, context);
                }
                let line = HeaderValue::from_str(&line).unwrap();
                answer.headers_mut().insert("echo", line);
                Ok::<_, Infallible>(answer)
            });
            tokio::spawn(async move {
                server::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok()
            });
        }
    });
    (url, connections)
}

/// An address where nothing listens.
async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn requests_arrive_as_asked_on_one_kept_connection() {
    let (url, connections) = echo().await;
    let client = Client::new(&url).unwrap();
    let path = item_path("carts", b"al/ice\0\xff..", Some(b"a b"));
    let request = Request::put(path, &b"value"[..])
        .query("r", "2")
        .query("w", "all");
    let reply = client
        .send(request.context("token").unwrap())
        .await
        .unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(
        reply.header("echo"),
        Some("PUT /v1/tables/carts/items/al%2Fice%00%FF%2E%2E/a%20b?r=2&w=all")
    );
    assert_eq!(reply.context(), Some("token"));
    assert_eq!(&reply.body[..], b"value");
    for _ in 0..5 {
        client.get("/x").await.unwrap();
        client.post("/x", "y").await.unwrap();
        client.delete("/x").await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_takes_no_connection() {
    let (url, connections) = echo().await;
    let client = Client::new(&format!("{}, {url}", nowhere().await)).unwrap();
    for _ in 0..2 {
        assert_eq!(client.put("/x", "y").await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nothing_there_says_what_to_do() {
    let url = nowhere().await;
    let error = Client::new(&url).unwrap().get("/x").await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("nothing answers at {url} (")),
        "{text}"
    );
    assert!(text.contains("kinfold dev"), "{text}");
    assert!(error.is_unavailable());
}

#[tokio::test]
async fn a_write_that_was_sent_is_never_sent_to_another() {
    let breaking = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = format!("http://{}", breaking.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = breaking.accept().await.unwrap();
        // Takes some of the request and hangs up without an answer.
        stream.read_exact(&mut [0; 4]).await.unwrap();
    });
    let (second, connections) = echo().await;
    let client = Client::new(&format!("{first},{second}")).unwrap();
    let error = client.put("/x", "y").await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        // One answer per connection, though nothing says that it will close.
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                seen.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
    let client = Client::new(&url).unwrap();
    for _ in 0..3 {
        client.get("/x").await.unwrap();
        // The client's runtime learns of the end before the next request, as it
        // would between two commands.
        while client.inner.endpoints[0]
            .idle
            .lock()
            .unwrap()
            .iter()
            .any(Sender::is_ready)
        {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn waiting_ends() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let client = Client::with_timeout(&url, Duration::from_millis(20)).unwrap();
    let error = client.get("/x").await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
}

#[test]
fn endpoints_are_checked() {
    for (good, url) in [
        ("http://127.0.0.1:8101", "http://127.0.0.1:8101"),
        ("http://[::1]:8101/", "http://[::1]:8101"),
        ("node-a:8101", "http://node-a:8101"),
    ] {
        assert_eq!(Endpoint::parse(good).unwrap().url, url);
    }
    for bad in [
        "",
        "https://h:1",
        "ftp://h:1",
        "h",
        "http://h:1/path",
        "u@h:1",
        "h:x",
    ] {
        let text = Client::new(bad).err().expect(bad).to_string();
        assert!(text.contains("http://127.0.0.1:8101"), "{text}");
    }
}

#[test]
fn problems_are_read_where_there_are_any() {
    let reply = |body: &'static str| Reply {
        status: StatusCode::NOT_FOUND,
        headers: HeaderMap::new(),
        body: body.into(),
    };
    let problem = reply(r#"{"type":"about:blank","code":"no_such_table","detail":"d"}"#).problem();
    assert_eq!((&*problem.code, &*problem.detail), ("no_such_table", "d"));
    assert_eq!(reply("<html>").problem(), Problem::default());
}
