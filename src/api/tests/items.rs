//! The item contract.

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;

use super::*;
use crate::protocol::message::{Ask, Refusal};

const ITEM: &str = "/v1/tables/raw/items/k";

#[tokio::test]
async fn what_is_put_is_got() {
    let server = serve().await;
    let token = server.write(ITEM, "hello").await;
    let reply = server.get(ITEM).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, "hello");
    assert_eq!(reply.header("content-type"), "text/plain");
    assert_eq!(reply.header("kinfold-siblings"), "1");
    assert_eq!(reply.header("kinfold-context"), token);
    assert!(reply.header("etag").starts_with('"'));
    assert!(!reply.has("kinfold-reconciler"));

    let head = server.send(Method::HEAD, ITEM, &[], "").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.body, "");
    for name in [
        "content-type",
        "kinfold-siblings",
        "kinfold-context",
        "etag",
        "content-length",
    ] {
        assert_eq!(head.header(name), reply.header(name), "{name}");
    }

    // Nothing said about the bytes, and none of them.
    let empty = server.put(ITEM, &[("kinfold-context", &token)], "").await;
    assert_eq!((empty.status.as_u16(), empty.body.len()), (204, 0));
    let reply = server.get(ITEM).await;
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.body, "");
}

#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let server = serve().await;
    let value: Vec<u8> = (0..=255).collect();
    let key: String = (0..=255u8).map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/v1/tables/raw/items/{key}");
    assert_eq!(server.put(&path, &[], value.clone()).await.status, 204);
    assert_eq!(server.get(&path).await.body, value);
    let asked = server.world.asked.lock().unwrap().clone().unwrap();
    assert_eq!(asked.key.parts().1, value);
    // One key, two spellings.
    server.write("/v1/tables/raw/items/a%2Fb", "slash").await;
    assert_eq!(
        server.get("/v1/tables/raw/items/%61%2fb").await.body,
        "slash"
    );
    for wrong in ["%", "%zz", "%2"] {
        let reply = server.get(&format!("/v1/tables/raw/items/{wrong}")).await;
        assert!(reply.problem(400, "bad_request").contains("%25"));
    }
}

#[tokio::test]
async fn concurrent_writes_become_siblings_in_both_forms() {
    let server = serve().await;
    server.write(ITEM, "one").await;
    server.write(ITEM, "two").await;
    let tombstone = server
        .delete(ITEM, &[("kinfold-context", &empty_token(&server))])
        .await;
    assert_eq!(tombstone.status, 204, "{tombstone:?}");

    let reply = server.get(ITEM).await;
    assert_eq!(reply.status, 300);
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("kinfold-siblings"), "3");
    assert!(!reply.has("kinfold-reconcile-error"));
    let json = reply.json();
    assert_eq!(json["context"], reply.header("kinfold-context"));
    let siblings = json["siblings"].as_array().unwrap();
    let values: Vec<_> = siblings.iter().map(|one| one["value"].clone()).collect();
    let expected = [
        Some(STANDARD.encode("one")),
        Some(STANDARD.encode("two")),
        None,
    ];
    assert_eq!(values, expected.map(|one| serde_json::json!(one)));
    assert_eq!(siblings[0]["content_type"], "text/plain");
    assert_eq!(siblings[0]["written_at"], "2023-11-14T22:13:20.000001Z");
    assert_eq!(siblings[0]["dot"], "0000000000000001.0000000000000001:1");

    let reply = server
        .get_with(ITEM, &[("accept", "multipart/mixed")])
        .await;
    assert_eq!(reply.status, 300);
    let boundary = reply
        .header("content-type")
        .strip_prefix("multipart/mixed; boundary=")
        .unwrap()
        .to_owned();
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    let expected = format!(
        "--{boundary}\r\nContent-Type: text/plain\r\n\
         Kinfold-Dot: 0000000000000001.0000000000000001:1\r\n\
         Kinfold-Written-At: 2023-11-14T22:13:20.000001Z\r\n\r\none\r\n\
         --{boundary}\r\nContent-Type: text/plain\r\n\
         Kinfold-Dot: 0000000000000001.0000000000000001:2\r\n\
         Kinfold-Written-At: 2023-11-14T22:13:20.000002Z\r\n\r\ntwo\r\n\
         --{boundary}\r\nKinfold-Tombstone: true\r\n\
         Kinfold-Dot: 0000000000000001.0000000000000001:3\r\n\
         Kinfold-Written-At: 2023-11-14T22:13:20.000003Z\r\n\r\n\r\n\
         --{boundary}--\r\n"
    );
    assert_eq!(text, expected);

    let refused = server.get_with(ITEM, &[("accept", "text/html")]).await;
    refused.problem(406, "not_acceptable");
    assert!(refused.has("kinfold-context"));

    // The token of the 300 supersedes all of them.
    let token = reply.header("kinfold-context").to_owned();
    let reply = server
        .put(ITEM, &[("kinfold-context", &token)], "merged")
        .await;
    assert_eq!(reply.status, 204);
    assert_eq!(server.get(ITEM).await.body, "merged");
}

/// A token for `ITEM` that has seen nothing.
fn empty_token(server: &Server) -> String {
    use crate::api::service::Service;
    let table = server.world.tables()["raw"].id;
    let key = crate::protocol::id::ItemKey::new(table, b"k", None);
    crate::api::token::of_read(&key, &crate::protocol::context::Context::new())
}

#[tokio::test]
async fn a_write_token_covers_its_own_write_only() {
    let server = serve().await;
    let mine = server.write(ITEM, "mine").await;
    server.write(ITEM, "theirs").await;
    server
        .put(ITEM, &[("kinfold-context", &mine)], "mine again")
        .await;
    let siblings = server.get(ITEM).await.json()["siblings"].clone();
    let values: Vec<_> = siblings
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["value"])
        .collect();
    assert_eq!(
        values,
        [&STANDARD.encode("theirs"), &STANDARD.encode("mine again")]
    );
}

#[tokio::test]
async fn folded_values_name_their_module_and_raw_ones_can_be_had() {
    let server = serve().await;
    let path = "/v1/tables/folded/items/k";
    server.write(path, "a").await;
    let before = server.get(path).await;
    server.write(path, "b").await;
    let reply = server.get(path).await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"b"[..]));
    assert_eq!(reply.header("kinfold-siblings"), "2");
    let digest = crate::protocol::catalog::Digest::of(b"greatest");
    assert_eq!(
        reply.header("kinfold-reconciler"),
        format!("greatest@{digest}")
    );
    assert_ne!(reply.header("etag"), before.header("etag"));

    let raw = server.get(&format!("{path}?siblings=true")).await;
    assert_eq!(raw.status, 200);
    assert_eq!(raw.json()["siblings"].as_array().unwrap().len(), 2);
    assert!(raw.has("kinfold-context"));
    let not_raw = server.get(&format!("{path}?siblings=false")).await;
    assert_eq!(not_raw.body, "b");
    // One version is shown raw too, and nothing is still nothing.
    server.write(ITEM, "x").await;
    let raw = server.get(&format!("{ITEM}?siblings=true")).await;
    assert_eq!(raw.json()["siblings"].as_array().unwrap().len(), 1);
    server
        .get("/v1/tables/raw/items/absent?siblings=true")
        .await
        .problem(404, "not_found");

    server.write(path, "poison").await;
    let reply = server.get(path).await;
    assert_eq!(reply.status, 300);
    assert_eq!(reply.header("kinfold-siblings"), "3");
    assert_eq!(
        reply.header("kinfold-reconcile-error"),
        "trap: unreachable at caf?"
    );
}

#[tokio::test]
async fn deletes_and_tombstones() {
    let server = serve().await;
    let absent = server.delete(ITEM, &[]).await;
    absent.problem(404, "not_found");
    assert!(!absent.has("kinfold-context"));
    let absent = server.get(ITEM).await;
    absent.problem(404, "not_found");
    assert!(!absent.has("kinfold-context"));

    server.write(ITEM, "x").await;
    let deleted = server.delete(ITEM, &[]).await;
    assert_eq!(deleted.status, 204);
    assert!(deleted.has("kinfold-context"));
    let gone = server.get(ITEM).await;
    gone.problem(404, "not_found");
    let token = gone.header("kinfold-context").to_owned();
    let head = server.send(Method::HEAD, ITEM, &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (404, 0));
    assert_eq!(head.header("kinfold-context"), token);
    // Raw, a tombstone is shown.
    let raw = server.get(&format!("{ITEM}?siblings=true")).await;
    assert_eq!(raw.json()["siblings"][0]["value"], Value::Null);

    let again = server
        .put(ITEM, &[("kinfold-context", &token)], "back")
        .await;
    assert_eq!(again.status, 204);
    assert_eq!(server.get(ITEM).await.body, "back");

    // With a context only what it covers goes.
    let token = server.get(ITEM).await.header("kinfold-context").to_owned();
    server.write(ITEM, "unseen").await;
    assert_eq!(
        server
            .delete(ITEM, &[("kinfold-context", &token)])
            .await
            .status,
        204
    );
    let left = server.get(&format!("{ITEM}?siblings=true")).await.json();
    assert_eq!(left["siblings"][0]["value"], STANDARD.encode("unseen"));
}

#[tokio::test]
async fn bad_and_foreign_tokens_are_refused() {
    let server = serve().await;
    let token = server.write(ITEM, "x").await;
    let other = server.write("/v1/tables/raw/items/other", "x").await;
    let elsewhere = server.write("/v1/tables/folded/items/k", "x").await;
    let mut flipped = token.clone();
    let last = if flipped.ends_with('A') { "B" } else { "A" };
    flipped.replace_range(flipped.len() - 1.., last);
    for wrong in [
        &other,
        &elsewhere,
        &flipped,
        &token[1..],
        "",
        "!!!",
        &"A".repeat(70_000),
    ] {
        let headers = [("kinfold-context", wrong)];
        let reply = server.put(ITEM, &headers, "y").await;
        reply.problem(400, "invalid_context");
        server
            .delete(ITEM, &headers)
            .await
            .problem(400, "invalid_context");
    }
    let twice = [("kinfold-context", &*token), ("kinfold-context", &*token)];
    server
        .put(ITEM, &twice, "y")
        .await
        .problem(400, "invalid_context");
    assert_eq!(server.get(ITEM).await.body, "x");
    // A table made again under its name is another table.
    server.delete("/v1/tables/raw?confirm=raw", &[]).await;
    server.put("/v1/tables/raw", &[], "{}").await;
    let reply = server.put(ITEM, &[("kinfold-context", &token)], "y").await;
    reply.problem(400, "invalid_context");
}

#[tokio::test]
async fn representation_on_request() {
    let server = serve().await;
    let prefer = [
        ("prefer", "respond-async, Return=\"representation\"; x=y"),
        ("content-type", "a/b"),
    ];
    let reply = server.put(ITEM, &prefer, "one").await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"one"[..]));
    assert_eq!(reply.header("preference-applied"), "return=representation");
    assert_eq!(reply.header("content-type"), "a/b");
    let got = server.get(ITEM).await;
    for name in ["etag", "kinfold-context", "kinfold-siblings"] {
        assert_eq!(reply.header(name), got.header(name));
    }
    let reply = server.put(ITEM, &prefer, "two").await;
    assert_eq!(reply.status, 300);
    // What was written is not told as "not acceptable".
    let picky = [prefer[0], ("accept", "image/png, */*;q=0")];
    assert_eq!(server.put(ITEM, &picky, "two").await.status, 300);
    let fresh = server.put("/v1/tables/raw/items/fresh", &picky, "x").await;
    assert_eq!(fresh.status, 200);
    let minimal = server
        .put(ITEM, &[("prefer", "return=minimal")], "three")
        .await;
    assert_eq!(minimal.status, 204);
    assert!(!minimal.has("preference-applied"));
    // A write that goes well is never told as "not found".
    let path = "/v1/tables/folded/items/k";
    let reply = server.put(path, &prefer, "delete us").await;
    assert_eq!(reply.status, 204, "{reply:?}");
    assert!(reply.has("kinfold-context"));
}

#[tokio::test]
async fn entity_tags() {
    let server = serve().await;
    server.write(ITEM, "x").await;
    let etag = server.get(ITEM).await.header("etag").to_owned();
    for matching in [&*etag, "*", &format!("\"other\", W/{etag}")] {
        let reply = server.get_with(ITEM, &[("if-none-match", matching)]).await;
        assert_eq!(
            (reply.status.as_u16(), reply.body.len()),
            (304, 0),
            "{matching}"
        );
        assert_eq!(reply.header("etag"), etag);
        assert!(reply.has("kinfold-context"));
    }
    let reply = server
        .get_with(ITEM, &[("if-none-match", "\"other\"")])
        .await;
    assert_eq!(reply.status, 200);
    let absent = server
        .get_with("/v1/tables/raw/items/no", &[("if-none-match", "*")])
        .await;
    absent.problem(404, "not_found");
    // What cannot be promised is not taken silently.
    for condition in ["if-match", "if-none-match"] {
        let reply = server.put(ITEM, &[(condition, "*")], "y").await;
        assert!(reply.problem(400, "bad_request").contains(condition));
    }
    // A data type's view belongs to its module too.
    let path = "/v1/tables/counters/items/k";
    server
        .post(&format!("{path}/operations"), r#"{"add": 1}"#)
        .await;
    let before = server.get(path).await.header("etag").to_owned();
    let same = server.get_with(path, &[("if-none-match", &before)]).await;
    assert_eq!(same.status, 304);
    server.world.upload("sum", b"another sum");
    let other = server.get_with(path, &[("if-none-match", &before)]).await;
    assert_eq!(other.status, 200);
}

#[tokio::test]
async fn quorums_and_timeouts() {
    let server = serve().await;
    server
        .write(&format!("{ITEM}?w=all&quorum=strict&timeout_ms=60000"), "x")
        .await;
    let asked = server.world.asked.lock().unwrap().clone().unwrap();
    assert_eq!(
        (asked.r, asked.w, asked.strict, asked.timeout_ms),
        (2, 3, true, 60_000)
    );
    assert!(matches!(asked.ask, Ask::Put { .. }));
    server
        .get(&format!("{ITEM}?r=1&w=quorum&quorum=sloppy"))
        .await;
    let asked = server.world.asked.lock().unwrap().clone().unwrap();
    assert_eq!(
        (asked.r, asked.w, asked.strict, asked.timeout_ms),
        (1, 2, false, 5000)
    );
    for (query, code) in [
        ("r=0", "invalid_quorum"),
        ("r=4", "invalid_quorum"),
        ("r=-1", "invalid_quorum"),
        ("r=+1", "invalid_quorum"),
        ("r=", "invalid_quorum"),
        ("w=most", "invalid_quorum"),
        ("quorum=loose", "invalid_quorum"),
        ("timeout_ms=0", "bad_request"),
        ("timeout_ms=60001", "bad_request"),
        ("timeout_ms=1s", "bad_request"),
        ("r=1&r=1", "bad_request"),
        ("consistency=one", "bad_request"),
        ("siblings=yes", "bad_request"),
        ("r=%zz", "bad_request"),
    ] {
        let detail = server
            .get(&format!("{ITEM}?{query}"))
            .await
            .problem(400, code);
        let name = query.split('=').next().unwrap();
        assert!(
            query == "r=%zz" || detail.contains(name),
            "{query}: {detail}"
        );
    }
    // The parameter of reads is no parameter of writes.
    let reply = server.put(&format!("{ITEM}?siblings=true"), &[], "x").await;
    reply.problem(400, "bad_request");

    server.world.alive.store(1, Ordering::Relaxed);
    let reply = server.put(ITEM, &[], "x").await;
    assert!(
        reply
            .problem(503, "quorum_unmet")
            .contains("may still be stored")
    );
    let reply = server.get(ITEM).await;
    assert!(
        !reply
            .problem(503, "quorum_unmet")
            .contains("may still be stored")
    );
    assert_eq!(server.get(&format!("{ITEM}?r=1")).await.status, 200);
}

#[tokio::test]
async fn operations() {
    let server = serve().await;
    let path = "/v1/tables/counters/items/k";
    let operations = format!("{path}/operations");
    let reply = server
        .post(&format!("{operations}?r=1&w=2"), r#"{"add": 5}"#)
        .await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"5"[..]));
    assert!(reply.has("kinfold-context"));
    let reply = server.post(&operations, r#"{"add": -3}"#).await;
    assert_eq!(reply.body, "2");
    assert_eq!(server.get(path).await.body, "2");
    let detail = server
        .post(&operations, "nonsense")
        .await
        .problem(400, "bad_operation");
    assert!(detail.contains("an operation is"), "{detail}");

    let reply = server.put(path, &[], "7").await;
    reply.problem(405, "operations_only");
    assert_eq!(reply.header("allow"), "GET, HEAD, DELETE");
    let reply = server.get(&operations).await;
    reply.problem(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "POST");
    let reply = server.post(path, "{}").await;
    reply.problem(405, "method_not_allowed");
    let reply = server.post(&format!("{ITEM}/operations"), "{}").await;
    assert!(reply.problem(405, "method_not_allowed").contains("PUT"));
    assert_eq!(reply.header("allow"), "");
    assert_eq!(server.delete(path, &[]).await.status, 204);
}

#[tokio::test]
async fn sort_keys() {
    let server = serve().await;
    let item = "/v1/tables/sorted/items/p/s";
    server.write(item, "x").await;
    assert_eq!(server.get(item).await.body, "x");
    let asked = server.world.asked.lock().unwrap().clone().unwrap();
    assert_eq!(asked.key.parts().2, Some(b"s".to_vec()));
    // An item may be called "operations"; a POST never means it.
    server
        .write("/v1/tables/sorted/items/p/operations", "o")
        .await;
    assert_eq!(
        server
            .get("/v1/tables/sorted/items/p/operations")
            .await
            .body,
        "o"
    );
    let reply = server
        .post("/v1/tables/sorted/items/p/operations", "{}")
        .await;
    reply.problem(400, "bad_request");
    let reply = server.post(&format!("{item}/operations"), "{}").await;
    reply.problem(405, "method_not_allowed");

    for path in ["/v1/tables/sorted/items/p", "/v1/tables/sorted/items/p/"] {
        server.get(path).await.problem(400, "bad_request");
    }
    for path in [
        "/v1/tables/sorted/items/p/s/t",
        "/v1/tables/raw/items/a/b",
        "/v1/tables/raw/items/a/",
    ] {
        let detail = server.get(path).await.problem(400, "bad_request");
        assert!(detail.contains("%2F"), "{detail}");
    }
}

#[tokio::test]
async fn what_the_node_refuses() {
    let server = serve().await;
    let few = "/v1/tables/few/items/k";
    server.write(few, "1").await;
    server.write(few, "2").await;
    server
        .put(few, &[], "3")
        .await
        .problem(409, "too_many_siblings");
    use crate::protocol::effect::StoreError;
    for (refusal, status, code) in [
        (Refusal::Overloaded, 503, "overloaded"),
        (Refusal::NotReady("starting".into()), 503, "not_ready"),
        (Refusal::NoSuchTable, 404, "no_such_table"),
        (Refusal::Storage(StoreError::Full), 507, "storage_full"),
        (Refusal::Storage(StoreError::Overloaded), 503, "overloaded"),
        (
            Refusal::Storage(StoreError::Corrupt("row".into())),
            500,
            "storage_failed",
        ),
        (
            Refusal::ReconcileFailed("a\nb".into()),
            500,
            "reconcile_failed",
        ),
    ] {
        *server.world.refuse.lock().unwrap() = Some(refusal);
        let reply = server.get(ITEM).await;
        reply.problem(status, code);
        assert_eq!(
            reply.has("kinfold-reconcile-error"),
            code == "reconcile_failed"
        );
    }
}

#[tokio::test]
async fn unknown_tables_paths_and_methods() {
    let server = serve().await;
    for path in [
        "/v1/tables/none/items/k",
        "/v1/tables/%FF/items/k",
        "/v1/tables/none",
    ] {
        server.get(path).await.problem(404, "no_such_table");
    }
    for path in [
        "/",
        "/v2/tables",
        "/v1/tables/",
        "/v1/tables/raw/items",
        "/v1/tables/raw/rows/k",
    ] {
        server.get(path).await.problem(404, "not_found");
    }
    let reply = server.send(Method::PATCH, ITEM, &[], "x").await;
    reply.problem(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "GET, HEAD, PUT, DELETE");
    server.write(ITEM, "x").await;
    let ruled_out = server
        .get_with(ITEM, &[("accept", "text/plain;q=0, */*")])
        .await;
    ruled_out.problem(406, "not_acceptable");
    let other = server
        .get_with(ITEM, &[("accept", "application/json")])
        .await;
    assert_eq!((other.status.as_u16(), &other.body[..]), (200, &b"x"[..]));
}
