//! The contract about items, kept by three real nodes: whatever is written at
//! one is read at another, and every refusal has its status, code and reason.

#[path = "../common/mod.rs"]
mod common;
mod conflicts;
mod refusals;

use std::sync::OnceLock;

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
