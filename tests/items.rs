//! The contract about items, kept by three real nodes: whatever is written at
//! one is read at another, and every refusal has its status, code and reason.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

use common::http::{values, with};
use common::{Cluster, Expect, Plan, Request, Shared, item};
use hyper::Method;
use kinfold::client::item_path;
use serde_json::json;

const TABLES: &str = r#"
[tables.raw]

[tables.small]
max_value_bytes = "1KiB"
max_siblings = 3

[tables.sorted]
sort_keys = true

[tables.profiles]
reconciler = "lww"

[tables.carts]
reconciler = "or-cart"

[tables.counters]
reconciler = "pn-counter"
"#;

/// Three nodes for all tests of this file; each uses keys of its own.
fn cluster() -> Shared {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    Shared(CLUSTER.get_or_init(|| Cluster::start(3, Plan::with(TABLES))))
}

#[test]
fn a_value_comes_back_as_it_was_written_from_any_node() {
    let cluster = cluster();
    let path = item("raw", "round-trip");
    let value: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let request = Request::put(&path, value.clone())
        .content_type("image/x-test; v=1")
        .unwrap();
    let written = cluster.at(0).send(request).is(204);
    assert!(written.body.is_empty());
    for node in &cluster.nodes {
        let read = node.http().get(&path).is(200);
        assert_eq!(read.body, value);
        assert_eq!(read.header("content-type"), Some("image/x-test; v=1"));
        assert_eq!(read.header("kinfold-siblings"), Some("1"));
        assert_eq!(read.header("kinfold-reconciler"), None);
        assert_eq!(
            read.token(),
            written.token(),
            "a lone writer has seen all there is"
        );

        let head = node.http().send(Request::new(Method::HEAD, &path)).is(200);
        assert!(head.body.is_empty());
        for name in ["content-type", "content-length", "etag", "kinfold-siblings"] {
            assert_eq!(head.header(name), read.header(name), "{name}");
        }
        assert_eq!(head.token(), read.token());
    }
    // Nothing is something, too.
    cluster.at(1).put_with(&path, "", &written.token()).is(204);
    let read = cluster.at(2).get(&path).is(200);
    assert!(read.body.is_empty());
    assert_eq!(
        read.header("content-type"),
        Some("application/octet-stream")
    );
}

#[test]
fn keys_are_any_bytes() {
    let cluster = cluster();
    const LONG: [u8; 2048] = [0xff; 2048];
    let keys: Vec<&'static [u8]> = vec![
        b"\0",
        b"\0\0",
        b"a/b",
        b"a%2Fb",
        b"\xff\xfe",
        b".",
        b"..",
        b"%",
        b"?a=b",
        b"#",
        b" ",
        b"+",
        "\u{e4}".as_bytes(),
        b"operations",
        &LONG,
    ];
    for (index, key) in keys.iter().enumerate() {
        cluster.at(index % 3).put(&item("raw", key), *key).is(204);
    }
    for (index, key) in keys.iter().enumerate() {
        let read = cluster.at((index + 1) % 3).get(&item("raw", key)).is(200);
        assert_eq!(read.body, *key, "{key:?}");
        assert_eq!(
            read.header("kinfold-siblings"),
            Some("1"),
            "{key:?} is no other key"
        );
    }
    // Encoding is a matter of taste, and every byte has one meaning.
    let raw = |path: &str| format!("/v1/tables/raw/items/{path}");
    assert_eq!(cluster.at(0).get(&raw("a%2fb")).is(200).text(), "a/b");
    assert_eq!(cluster.at(0).get(&raw("%61%2F%62")).is(200).text(), "a/b");
    assert_eq!(cluster.at(0).get(&raw("%00")).is(200).body, b"\0"[..]);
    assert_eq!(
        cluster.at(0).get(&raw("%FF%fe")).is(200).body,
        b"\xff\xfe"[..]
    );

    let detail = cluster.at(0).get(&raw("a/b")).refused(400, "bad_request");
    assert!(detail.contains("%2F"), "{detail}");
    let detail = cluster.at(0).get(&raw("a%2")).refused(400, "bad_request");
    assert!(detail.contains("%25"), "{detail}");
    cluster.at(0).get(&raw("")).refused(400, "bad_request");
    let detail = cluster
        .at(0)
        .put(&item("raw", [b'k'; 2049]), "v")
        .refused(413, "too_large");
    assert!(detail.contains("2048"), "{detail}");
}

#[test]
fn a_context_makes_the_difference_between_superseding_and_standing_beside() {
    let cluster = cluster();
    let path = item("raw", "contexts");
    let first = cluster.at(0).put(&path, "first").is(204).token();
    let second = cluster
        .at(1)
        .put_with(&path, "second", &first)
        .is(204)
        .token();
    assert_eq!(cluster.at(2).get(&path).is(200).text(), "second");

    // Blind: it supersedes nothing. So does one whose writer saw less.
    cluster.at(2).put(&path, "blind").is(204);
    cluster.at(0).put_with(&path, "late", &first).is(204);
    assert_eq!(
        values(&cluster.at(1).siblings(&path)),
        [&b"blind"[..], b"late", b"second"]
    );

    // The token of a write covers that write and what its client had seen.
    cluster.at(1).put_with(&path, "third", &second).is(204);
    assert_eq!(
        values(&cluster.at(2).siblings(&path)),
        [&b"blind"[..], b"late", b"third"]
    );

    // The token of a read covers everything that was read.
    let all = cluster.at(0).get(&path).is(300).token();
    cluster.at(1).put_with(&path, "settled", &all).is(204);
    assert_eq!(cluster.at(2).get(&path).is(200).text(), "settled");
}

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
fn unresolved_siblings_are_shown_as_json_and_as_multipart() {
    let cluster = cluster();
    let path = item("raw", "siblings");
    let left = b"left\r\n--kinfold-\r\n\x00".to_vec();
    let request = Request::put(&path, left.clone())
        .content_type("text/x-left")
        .unwrap();
    cluster.at(0).send(request).is(204);
    cluster.at(1).put(&path, "right").is(204);

    let reply = cluster.at(2).get(&path).is(300);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("kinfold-siblings"), Some("2"));
    let siblings = reply.siblings();
    assert_eq!(values(&siblings), [&left[..], b"right"]);
    assert_eq!(siblings[0].content_type, "text/x-left");
    assert_ne!(siblings[0].dot, siblings[1].dot);
    for sibling in &siblings {
        humantime::parse_rfc3339(&sibling.written_at).expect("RFC 3339");
    }
    assert_eq!(
        cluster.at(0).siblings(&path),
        siblings,
        "any node shows the same"
    );

    let request = with(Request::get(&path), "accept", "multipart/mixed");
    let reply = cluster.at(0).send(request).is(300);
    let kind = reply.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/mixed; boundary=").expect(kind);
    let body = String::from_utf8(reply.body.to_vec()).unwrap();
    let mut parts: Vec<(&str, &str)> = body
        .split(&format!("--{boundary}"))
        .map(|part| {
            part.strip_prefix("\r\n")
                .and_then(|part| part.strip_suffix("\r\n"))
        })
        .filter_map(|part| part?.split_once("\r\n\r\n"))
        .collect();
    parts.sort_by_key(|(_, value)| *value);
    assert!(body.ends_with(&format!("--{boundary}--\r\n")));
    assert_eq!(parts.len(), 2);
    for ((head, value), sibling) in parts.iter().zip(&siblings) {
        assert_eq!(value.as_bytes(), sibling.value.as_deref().unwrap());
        assert!(
            head.contains(&format!("Content-Type: {}", sibling.content_type)),
            "{head}"
        );
        assert!(
            head.contains(&format!("Kinfold-Dot: {}", sibling.dot)),
            "{head}"
        );
        assert!(
            head.contains(&format!("Kinfold-Written-At: {}", sibling.written_at)),
            "{head}"
        );
    }

    let request = with(Request::get(&path), "accept", "text/html");
    cluster.at(0).send(request).refused(406, "not_acceptable");

    // A deletion beside a value is a sibling without a value.
    let seen = cluster.at(1).get(&path).is(300).token();
    let settled = cluster
        .at(0)
        .put_with(&path, "settled", &seen)
        .is(204)
        .token();
    cluster.at(1).put_with(&path, "kept", &settled).is(204);
    let request = Request::delete(&path).context(&settled).unwrap();
    cluster.at(2).send(request).is(204);
    let siblings = cluster.at(0).siblings(&path);
    assert_eq!(siblings.len(), 2);
    assert_eq!(siblings[0].value, None);
    assert_eq!(siblings[1].value.as_deref(), Some(&b"kept"[..]));
}

#[test]
fn raw_siblings_are_shown_whatever_the_reconciler() {
    let cluster = cluster();
    let path = item("profiles", "raw");
    cluster.at(0).put(&path, "{}").is(204);
    let reply = cluster.at(1).get(&format!("{path}?siblings=true")).is(200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(values(&reply.siblings()), [b"{}"]);
    cluster.at(1).get(&format!("{path}?siblings=false")).is(200);
    cluster
        .at(1)
        .get(&format!("{path}?siblings=yes"))
        .refused(400, "bad_request");
    cluster
        .at(1)
        .get(&format!("{}?siblings=true", item("raw", "none")))
        .refused(404, "not_found");
}

#[test]
fn two_interleaved_writers_never_make_more_than_two_siblings() {
    let cluster = cluster();
    let path = item("raw", "interleaved");
    let mut tokens = [
        cluster.at(0).put(&path, "0 of left").is(204).token(),
        cluster.at(1).put(&path, "0 of right").is(204).token(),
    ];
    for round in 1..=20 {
        for (writer, name) in ["left", "right"].iter().enumerate() {
            // Each time another node coordinates.
            let node = cluster.at((round + writer * 2) % 3);
            let value = format!("{round} of {name}");
            tokens[writer] = node.put_with(&path, value, &tokens[writer]).is(204).token();
            let read = cluster
                .at(round % 3)
                .get(&format!("{path}?siblings=true&r=all"))
                .is(200);
            assert_eq!(read.siblings().len(), 2, "after {round} of {name}");
        }
    }
    let last = cluster.at(2).siblings(&path);
    assert_eq!(values(&last), [&b"20 of left"[..], b"20 of right"]);
}

#[test]
fn a_delete_deletes_what_was_seen() {
    let cluster = cluster();
    let path = item("raw", "deleted");
    cluster.at(0).get(&path).refused(404, "not_found");
    cluster.at(0).delete(&path).refused(404, "not_found");

    let first = cluster.at(0).put(&path, "first").is(204).token();
    // Without a context: what a quorum read sees.
    let deleted = cluster.at(1).delete(&path).is(204).token();
    for node in &cluster.nodes {
        let reply = node.http().get(&path).is(404);
        assert_eq!(
            reply.token(),
            deleted,
            "a tombstone's 404 says what it covers"
        );
        reply.refused(404, "not_found");
        node.http().delete(&path).refused(404, "not_found");
    }
    // A writer that had not seen the deletion stands beside it; one that had
    // goes on from it.
    cluster.at(2).put_with(&path, "late", &first).is(204);
    assert_eq!(cluster.at(0).siblings(&path).len(), 2);
    let seen = cluster
        .at(0)
        .get(&format!("{path}?siblings=true"))
        .is(200)
        .token();
    cluster.at(1).put_with(&path, "again", &seen).is(204);
    assert_eq!(cluster.at(2).get(&path).is(200).text(), "again");
    // With an old context it deletes nothing newer.
    let request = Request::delete(&path).context(&deleted).unwrap();
    cluster.at(0).send(request).is(204);
    assert_eq!(values(&cluster.at(1).siblings(&path)), [b"again"]);
}

#[test]
fn quorums_are_asked_for_by_request() {
    let cluster = cluster();
    let path = item("raw", "quorums");
    for query in [
        "w=1",
        "w=2",
        "w=3",
        "w=quorum",
        "w=all&quorum=strict",
        "quorum=sloppy&timeout_ms=9000",
    ] {
        let seen = cluster.at(0).get(&format!("{path}?r=all"));
        let mut request = Request::put(format!("{path}?{query}"), query);
        if let Some(token) = seen.context() {
            request = request.context(token).unwrap();
        }
        cluster.at(1).send(request).is(204);
        assert_eq!(
            cluster.at(2).get(&format!("{path}?r=all")).is(200).text(),
            query
        );
    }
    for query in [
        "r=1",
        "r=2",
        "r=3",
        "r=quorum",
        "r=all&quorum=strict",
        "r=1&w=3&timeout_ms=60000",
    ] {
        cluster.at(1).get(&format!("{path}?{query}")).is(200);
    }
    for query in ["r=0", "r=4", "r=-1", "r=most", "r=", "w=4", "w=1.5"] {
        let detail = cluster
            .at(0)
            .get(&format!("{path}?{query}"))
            .refused(400, "invalid_quorum");
        assert!(detail.contains("1..=3"), "{query}: {detail}");
    }
    cluster
        .at(0)
        .put(&format!("{path}?w=4"), "v")
        .refused(400, "invalid_quorum");
    for query in [
        "quorum=loose",
        "timeout_ms=0",
        "timeout_ms=60001",
        "timeout_ms=soon",
    ] {
        let reply = cluster.at(0).get(&format!("{path}?{query}")).is(400);
        let name = query.split('=').next().unwrap();
        assert!(
            reply.problem().detail.contains(name),
            "{query}: {}",
            reply.problem().detail
        );
    }
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

#[test]
fn a_writer_may_ask_for_what_a_read_would_give() {
    let cluster = cluster();
    let represent = |path: &str, value: &'static str| {
        with(Request::put(path, value), "prefer", "return=representation")
    };
    let path = item("raw", "representation");
    let reply = cluster
        .at(0)
        .send(represent(&path, "one").content_type("text/x-one").unwrap())
        .is(200);
    assert_eq!(reply.text(), "one");
    assert_eq!(reply.header("content-type"), Some("text/x-one"));
    assert_eq!(
        reply.header("preference-applied"),
        Some("return=representation")
    );
    let read = cluster.at(1).get(&format!("{path}?r=all")).is(200);
    assert_eq!(reply.header("etag"), read.header("etag"));
    assert_eq!(reply.token(), read.token());

    // Siblings that nobody folds are what a read would give.
    let reply = cluster.at(1).send(represent(&path, "two")).is(300);
    assert_eq!(values(&reply.siblings()), [b"one", b"two"]);

    let path = item("profiles", "representation");
    cluster.at(0).put(&path, "older").is(204);
    assert_eq!(
        cluster.at(1).send(represent(&path, "newer")).is(200).text(),
        "newer"
    );
}

#[test]
fn an_unchanged_item_is_not_sent_again() {
    let cluster = cluster();
    let path = item("raw", "etag");
    let token = cluster.at(0).put(&path, "one").is(204).token();
    let etag = cluster
        .at(1)
        .get(&path)
        .is(200)
        .header("etag")
        .unwrap()
        .to_owned();
    for given in [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"other\", {etag}"),
        "*".to_owned(),
    ] {
        let reply = cluster
            .at(2)
            .send(with(Request::get(&path), "if-none-match", &given))
            .is(304);
        assert!(reply.body.is_empty());
        assert_eq!(reply.header("etag"), Some(&*etag));
        assert_eq!(reply.token(), token);
    }
    cluster.at(0).put_with(&path, "two", &token).is(204);
    let reply = cluster
        .at(2)
        .send(with(Request::get(&path), "if-none-match", &etag))
        .is(200);
    assert_eq!(reply.text(), "two");
    assert_ne!(reply.header("etag"), Some(&*etag));
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

#[test]
fn sort_keys_name_items_within_a_partition_key() {
    let cluster = cluster();
    let path = |partition: &[u8], sort: &[u8]| item_path("sorted", partition, Some(sort));
    let sorts: [&[u8]; 5] = [b"1", b"2", b"\0/", b"\xff", b"operations"];
    for (index, sort) in sorts.iter().enumerate() {
        cluster
            .at(index % 3)
            .put(&path(b"day", sort), *sort)
            .is(204);
    }
    cluster.at(0).put(&path(b"da", b"y1"), "another").is(204);
    for (index, sort) in sorts.iter().enumerate() {
        let read = cluster.at((index + 2) % 3).get(&path(b"day", sort)).is(200);
        assert_eq!(read.body, *sort);
        assert_eq!(read.header("kinfold-siblings"), Some("1"));
    }
    let token = cluster.at(0).get(&path(b"day", b"1")).is(200).token();
    cluster
        .at(0)
        .put_with(&path(b"day", b"2"), "v", &token)
        .refused(400, "invalid_context");
    cluster.at(1).delete(&path(b"day", b"1")).is(204);
    cluster
        .at(2)
        .get(&path(b"day", b"1"))
        .refused(404, "not_found");
    cluster.at(2).get(&path(b"day", b"2")).is(200);

    cluster
        .at(0)
        .get(&item("sorted", "day"))
        .refused(400, "bad_request");
    cluster
        .at(0)
        .get(&path(b"day", b""))
        .refused(400, "bad_request");
    cluster
        .at(0)
        .get(&format!("{}/3", path(b"day", b"1")))
        .refused(400, "bad_request");
    cluster
        .at(0)
        .put(&path(b"day", &[1; 1025]), "v")
        .refused(413, "too_large");
    cluster.at(0).put(&path(b"day", &[1; 1024]), "v").is(204);
    cluster
        .at(0)
        .get(&item_path("raw", b"day", Some(b"1")))
        .refused(400, "bad_request");
}

#[test]
fn a_data_type_takes_operations_and_nothing_else_does() {
    let cluster = cluster();
    let path = item("counters", "visits");
    let reply = cluster.at(0).put(&path, "7").is(405);
    assert_eq!(reply.header("allow"), Some("GET, HEAD, DELETE"));
    reply.refused(405, "operations_only");
    assert_eq!(cluster.at(0).operate(&path, json!({"add": 3})), json!(3));
    assert_eq!(cluster.at(1).operate(&path, json!({"add": -5})), json!(-2));
    let read = cluster.at(2).get(&path).is(200);
    assert_eq!(read.document(), json!(-2));
    for operation in ["", "{", "{}", r#"{"add": 1.5}"#, r#"{"add": 1, "to": 2}"#] {
        let reply = cluster.at(1).post(&format!("{path}/operations"), operation);
        reply.refused(400, "bad_operation");
    }
    assert_eq!(cluster.at(0).get(&path).is(200).document(), json!(-2));
    cluster
        .at(0)
        .get(&format!("{path}/operations"))
        .refused(405, "method_not_allowed");
    cluster.at(0).delete(&path).is(204);
    cluster.at(1).get(&path).refused(404, "not_found");
    assert_eq!(cluster.at(2).operate(&path, json!({"add": 1})), json!(1));

    let raw = format!("{}/operations", item("raw", "visits"));
    cluster
        .at(0)
        .post(&raw, r#"{"add": 1}"#)
        .refused(405, "method_not_allowed");
}

#[test]
fn too_many_siblings_are_refused_and_can_be_mended() {
    let cluster = cluster();
    let path = item("small", "many");
    for value in ["1", "2", "3"] {
        cluster.at(0).put(&format!("{path}?w=all"), value).is(204);
    }
    let detail = cluster
        .at(1)
        .put(&path, "4")
        .refused(409, "too_many_siblings");
    assert!(detail.contains('4') || detail.contains('3'), "{detail}");
    let all = cluster.at(2).get(&format!("{path}?r=all")).is(300);
    assert_eq!(values(&all.siblings()), [b"1", b"2", b"3"]);
    cluster
        .at(1)
        .put_with(&path, "mended", &all.token())
        .is(204);
    assert_eq!(cluster.at(0).get(&path).is(200).text(), "mended");
    cluster.at(0).put(&path, "5").is(204);
}

#[test]
fn requests_carry_a_name_of_their_own_or_the_clients() {
    let cluster = cluster();
    let path = item("raw", "request-id");
    let request = with(Request::get(&path), "x-request-id", "mine-7");
    assert_eq!(
        cluster.at(0).send(request).header("x-request-id"),
        Some("mine-7")
    );
    let one = cluster.at(0).get(&path);
    let two = cluster.at(0).get(&path);
    assert!(one.header("x-request-id").is_some());
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}
