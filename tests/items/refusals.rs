//! What is refused, with which status and code, and how early.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hyper::Method;

use super::cluster;
use super::common::http::with;
use super::common::{Expect, Request, item};

#[test]
fn a_context_that_was_changed_or_is_anothers_is_refused() {
    let cluster = cluster();
    let path = item("raw", "tampered");
    let token = cluster.at(0).put(&path, "v").is(204).token();
    let mut wrong: Vec<String> = vec![
        "x".into(),
        token[1..].into(),
        token[..token.len() - 1].into(),
    ];
    for place in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        wrong.push(String::from_utf8(bytes).unwrap());
    }
    wrong.push("A".repeat(5_000));
    for (index, wrong) in wrong.iter().enumerate() {
        let reply = cluster.at(index % 3).put_with(&path, "tampered", wrong);
        reply.refused(400, "invalid_context");
    }
    for other in [item("raw", "tampered2"), item("small", "tampered")] {
        cluster
            .at(1)
            .put_with(&other, "foreign", &token)
            .refused(400, "invalid_context");
        let request = Request::delete(&other).context(&token).unwrap();
        cluster.at(1).send(request).refused(400, "invalid_context");
        cluster.at(1).get(&other).refused(404, "not_found");
    }
    assert_eq!(cluster.at(2).get(&path).is(200).text(), "v");
}

#[test]
fn what_is_not_known_is_refused_and_named() {
    let cluster = cluster();
    let path = item("raw", "unknown");
    for request in [
        Request::get(format!("{path}?q=1")),
        Request::put(format!("{path}?q=1"), "v"),
        Request::put(format!("{path}?siblings=true&q=1"), "v"),
        Request::delete(format!("{path}?q")),
        Request::get("/v1/cluster?q=1"),
        Request::get("/readyz?q=1"),
    ] {
        let shown = format!("{request:?}");
        let detail = cluster.at(0).send(request).refused(400, "bad_request");
        assert!(
            detail.contains("\"q\"") || detail.contains("\"siblings\""),
            "{shown}: {detail}"
        );
    }
    cluster
        .at(0)
        .get(&format!("{path}?r=1&r=1"))
        .refused(400, "bad_request");

    let nowhere = item("nowhere", "k");
    cluster.at(0).get(&nowhere).refused(404, "no_such_table");
    cluster
        .at(0)
        .put(&nowhere, "v")
        .refused(404, "no_such_table");
    cluster.at(0).delete(&nowhere).refused(404, "no_such_table");
    cluster
        .at(0)
        .post(&format!("{nowhere}/operations"), "{}")
        .refused(404, "no_such_table");
    for path in [
        "/",
        "/v1",
        "/v2/tables",
        "/v1/tables/raw/item/k",
        "/v1/tables/raw/items",
    ] {
        cluster.at(0).get(path).refused(404, "not_found");
    }
    let reply = cluster
        .at(0)
        .send(Request::new(Method::PATCH, &path))
        .is(405);
    assert_eq!(reply.header("allow"), Some("GET, HEAD, PUT, DELETE"));
    reply.refused(405, "method_not_allowed");
    // What cannot be promised is not ignored either.
    let request = with(Request::put(&path, "v"), "if-match", "\"x\"");
    cluster.at(0).send(request).refused(400, "bad_request");
    let request = with(Request::put(&path, "v"), "content-encoding", "gzip");
    cluster
        .at(0)
        .send(request)
        .refused(415, "unsupported_media_type");
    cluster.at(0).get(&path).refused(404, "not_found");
}

/// Sends these bytes and returns what comes back until the other side closes or
/// the first answer's head is complete.
fn raw_exchange(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream
            .read(&mut buffer)
            .expect("an answer, though no body was sent")
        {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_is_too_large_is_refused_before_it_is_sent() {
    let cluster = cluster();
    let path = item("small", "large");
    cluster.at(0).put(&path, vec![7; 1024]).is(204);
    let detail = cluster
        .at(1)
        .put(&path, vec![7; 1025])
        .refused(413, "too_large");
    assert!(detail.contains("1024"), "{detail}");
    assert_eq!(cluster.at(2).siblings(&path).len(), 1);

    let port = cluster.nodes[0].port;
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\n");
    // A terabyte that is never sent: whoever waited for it would wait for ever.
    let huge = format!("{head}Content-Length: 1099511627776\r\n\r\n");
    let answer = raw_exchange(port, &huge);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let polite = format!("{head}Content-Length: 4096\r\nExpect: 100-continue\r\n\r\n");
    let answer = raw_exchange(port, &polite);
    assert!(
        answer.starts_with("HTTP/1.1 413 "),
        "no invitation comes first: {answer}"
    );
    // Of unknown length: refused at the first byte over it, with more to come.
    let endless = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n800\r\n{}\r\n",
        "x".repeat(0x800)
    );
    let answer = raw_exchange(port, &endless);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(cluster.at(1).siblings(&path).len(), 1);
}
