//! What is refused early, and how connections fare with it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const ITEM: &str = "/v1/tables/raw/items/k";

/// Sends these bytes and reads until the text occurs or the server closes.
async fn raw(server: &Server, request: &[u8], until: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let text = read_until(&mut stream, until).await;
    (stream, text)
}

async fn read_until(stream: &mut TcpStream, until: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains(until) {
        let length = stream.read(&mut chunk).await.unwrap();
        if length == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    text
}

#[tokio::test]
async fn values_at_the_limit_and_over_it() {
    let server = serve().await;
    let reply = server.put(ITEM, &[], vec![7; 1000]).await;
    assert_eq!(reply.status, 204);
    for size in [1001, 3 << 20] {
        // The client writes its whole body before it looks: it must still get
        // the answer, not a reset.
        let reply = server.put(ITEM, &[], vec![7; size]).await;
        let detail = reply.problem(413, "too_large");
        assert!(detail.contains("1000"), "{detail}");
    }
    let operations = "/v1/tables/counters/items/k/operations";
    let reply = server.post(operations, vec![b' '; 1001]).await;
    reply.problem(413, "too_large");
}

#[tokio::test]
async fn a_long_body_is_refused_before_it_is_sent() {
    let server = serve().await;
    let request = format!("PUT {ITEM} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
    let (_, text) = raw(&server, request.as_bytes(), "too_large").await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(text.to_lowercase().contains("connection: close"), "{text}");
}

#[tokio::test]
async fn expect_continue_is_answered_only_when_the_body_is_wanted() {
    let server = serve().await;
    let head = |length: usize| {
        format!(
            "PUT {ITEM} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let (_, text) = raw(&server, head(1001).as_bytes(), "too_large").await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    let (mut stream, text) = raw(&server, head(3).as_bytes(), "\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 100"), "{text}");
    stream.write_all(b"abc").await.unwrap();
    let text = read_until(&mut stream, "\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 204"), "{text}");
}

#[tokio::test]
async fn a_refused_expectation_ends_the_connection() {
    let server = serve().await;
    let request = format!(
        "PUT {ITEM}?x=1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    );
    let (mut stream, text) = raw(&server, request.as_bytes(), "bad_request").await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    // Nobody can know whether these are the body or the next request.
    let _ = stream
        .write_all(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
                .repeat(2)
                .as_slice(),
        )
        .await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
}

#[tokio::test]
async fn chunks_stop_at_the_limit() {
    let server = serve().await;
    let mut request =
        format!("PUT {ITEM} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for _ in 0..3 {
        request.extend_from_slice(b"190\r\n");
        request.extend_from_slice(&[b'x'; 400]);
        request.extend_from_slice(b"\r\n");
    }
    // The last chunk never comes.
    let (_, text) = raw(&server, &request, "too_large").await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    // In several chunks within the limit, all of it is kept in order.
    let mut request =
        format!("PUT {ITEM} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    request.extend_from_slice(b"2\r\nab\r\n1\r\nc\r\n3\r\ndef\r\n0\r\n\r\n");
    let (_, text) = raw(&server, &request, "\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 204"), "{text}");
    assert_eq!(server.get(ITEM).await.body, "abcdef");
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_usable() {
    let server = serve().await;
    // The body arrives after the head, and is wanted by nobody.
    let request = format!("PUT {ITEM}?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n");
    let (mut stream, text) = raw(&server, request.as_bytes(), "bad_request").await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    stream
        .write_all(b"helloGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let text = read_until(&mut stream, "ok").await;
    assert!(text.contains("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn keys_have_limits() {
    let server = serve().await;
    let path = |length: usize| format!("/v1/tables/raw/items/{}", "%41".repeat(length));
    assert_eq!(server.put(&path(2048), &[], "x").await.status, 204);
    server
        .put(&path(2049), &[], "x")
        .await
        .problem(413, "too_large");
    let path = |length: usize| format!("/v1/tables/sorted/items/p/{}", "s".repeat(length));
    assert_eq!(server.put(&path(1024), &[], "x").await.status, 204);
    server
        .put(&path(1025), &[], "x")
        .await
        .problem(413, "too_large");
    for path in [
        "/v1/tables/raw/items/",
        "/v1/tables/sorted/items//s",
        "/v1/tables/sorted/items/p/",
    ] {
        let detail = server.get(path).await.problem(400, "bad_request");
        assert!(detail.contains("is empty"), "{detail}");
    }
}

#[tokio::test]
async fn a_truncated_body_writes_nothing() {
    let server = serve().await;
    let request = format!("PUT {ITEM} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    // Whether the server still says something is its affair.
    let _ = stream.read_to_end(&mut rest).await;
    server.get(ITEM).await.problem(404, "not_found");
}

#[tokio::test]
async fn bytes_whose_meaning_would_be_lost_are_refused() {
    let server = serve().await;
    let reply = server.put(ITEM, &[("content-encoding", "gzip")], "x").await;
    reply.problem(415, "unsupported_media_type");
    let reply = server
        .put(ITEM, &[("content-encoding", "identity")], "x")
        .await;
    assert_eq!(reply.status, 204);
    let reply = server
        .put(ITEM, &[("content-range", "bytes 0-0/2")], "x")
        .await;
    reply.problem(400, "bad_request");
    let long = "a/".to_owned() + &"b".repeat(300);
    let reply = server.put(ITEM, &[("content-type", &long)], "x").await;
    reply.problem(400, "bad_request");
}

#[tokio::test]
async fn request_ids_come_back() {
    let server = serve().await;
    let reply = server
        .get_with("/healthz", &[("x-request-id", "abc-1")])
        .await;
    assert_eq!(reply.header("x-request-id"), "abc-1");
    let first = server
        .get_with("/healthz", &[("x-request-id", "a b")])
        .await;
    let second = server.get("/healthz").await;
    assert!(first.header("x-request-id").starts_with("a-"));
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    assert_eq!(
        server
            .get("/nowhere")
            .await
            .header("x-request-id")
            .split('-')
            .next(),
        Some("a")
    );
}

#[tokio::test]
async fn an_answer_does_not_wait_for_what_comes_next() {
    let server = serve().await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea";
    let patience = std::time::Duration::from_secs(30);
    let answered = tokio::time::timeout(patience, raw(&server, request, "ok\n")).await;
    let (_, text) = answered.expect("half a request holds the answer up");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn a_malformed_request_is_told_so() {
    let server = serve().await;
    let many = "X: y\r\n".repeat(1000);
    for (request, status) in [
        ("NONSENSE\r\n\r\n".to_owned(), "400"),
        (format!("GET /healthz HTTP/1.1\r\n{many}\r\n"), "431"),
        (
            format!("PUT {ITEM} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "400",
        ),
    ] {
        let (_, text) = raw(&server, request.as_bytes(), "\r\n\r\n").await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
    }
}
