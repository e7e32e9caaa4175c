//! Tables, reconcilers, cluster, and what operators ask.

use std::sync::atomic::Ordering;

use hyper::Method;
use serde_json::json;

use super::*;
use crate::protocol::catalog::{Digest, QuorumSize};

#[tokio::test]
async fn tables_are_made_changed_shown_and_ended() {
    let server = serve().await;
    let path = "/v1/tables/carts";
    let body = r#"{"n": 3, "r": 2, "w": "all", "reconciler": "greatest", "max_value_bytes": "1MiB", "quorum": "strict"}"#;
    let reply = server
        .put(path, &[("content-type", "application/json")], body)
        .await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let expected = json!({
        "name": "carts", "n": 3, "r": 2, "w": "all", "reconciler": "greatest",
        "max_value_bytes": 1 << 20, "max_siblings": 100, "max_actors": 20, "quorum": "strict",
        "sort_keys": false,
    });
    assert_eq!(reply.json(), expected);
    let shown = server.get(path).await;
    let mut document = shown.json();
    let folds_with = document["folds_with"].take();
    assert_eq!(folds_with["reconciler"], "greatest");
    assert_eq!(folds_with["pinned"], false);
    document.as_object_mut().unwrap().remove("folds_with");
    assert_eq!(document, expected);
    let list = server.get("/v1/tables").await.json();
    let names: Vec<_> = list["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(
        names,
        ["carts", "counters", "few", "folded", "raw", "sorted"]
    );
    assert_eq!(list["tables"][0], expected);

    // What is shown can be said again, and changes nothing.
    let before = server.world.definition("carts");
    assert_eq!(server.put(path, &[], shown.body).await.status, 200);
    assert_eq!(server.world.definition("carts"), before);
    // A change; the warning counts members that are there.
    let reply = server.put(path, &[], r#"{"n": 4, "r": 1}"#).await;
    assert_eq!(reply.status, 200);
    assert!(
        reply.json()["warnings"][0]
            .as_str()
            .unwrap()
            .contains("3 members")
    );
    assert_eq!(server.get(path).await.json().get("warnings"), None);
    assert_eq!(
        server.world.definition("carts").unwrap().r,
        QuorumSize::Count(1)
    );

    let detail = server.delete(path, &[]).await.problem(400, "bad_request");
    assert!(detail.contains("confirm=carts"), "{detail}");
    let reply = server.delete(&format!("{path}?confirm=cart"), &[]).await;
    reply.problem(400, "bad_request");
    let reply = server.delete(&format!("{path}?confirm=carts"), &[]).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
    server.get(path).await.problem(404, "no_such_table");
    let reply = server.delete(&format!("{path}?confirm=carts"), &[]).await;
    reply.problem(404, "no_such_table");
}

#[tokio::test]
async fn definitions_are_checked() {
    let server = serve().await;
    for (body, names) in [
        (r#"{"r": 4}"#, "r: 4"),
        (r#"{"n": 2, "w": 3}"#, "w: 3"),
        (r#"{"n": 0}"#, "n: 0"),
        (r#"{"reconciler": "unheard-of"}"#, "unheard-of"),
        (r#"{"replicas": 3}"#, "replicas"),
        (r#"{"name": "other"}"#, "other"),
        (r#"{"max_value_bytes": "a lot"}"#, "max_value_bytes"),
        (r#"{"sort_keys": "yes"}"#, "sort_keys"),
        (r#"{"warnings": []}"#, "warnings"),
    ] {
        let detail = server
            .put("/v1/tables/t", &[], body)
            .await
            .problem(422, "invalid_table");
        assert!(detail.contains(names), "{body}: {detail}");
    }
    let foreign = Digest::of(b"sum");
    let body = json!({"reconciler": "greatest", "reconciler_digest": foreign.to_string()});
    let reply = server.put("/v1/tables/t", &[], body.to_string()).await;
    reply.problem(422, "invalid_table");
    for body in ["", "{", "[]", "3"] {
        server
            .put("/v1/tables/t", &[], body)
            .await
            .problem(400, "bad_request");
    }
    for name in ["a%20b", "%FF", "..%2f", &"x".repeat(129)] {
        let reply = server.put(&format!("/v1/tables/{name}"), &[], "{}").await;
        reply.problem(422, "invalid_table");
    }
    let reply = server
        .put("/v1/tables/raw", &[], r#"{"sort_keys": true}"#)
        .await;
    reply.problem(422, "invalid_table");
    let reply = server
        .put("/v1/tables/t", &[("content-type", "text/html")], "{}")
        .await;
    reply.problem(415, "unsupported_media_type");
    let reply = server.put("/v1/tables/t", &[], vec![b' '; 70_000]).await;
    reply.problem(413, "too_large");
    let reply = server.put("/v1/tables/t?force=true", &[], "{}").await;
    reply.problem(400, "bad_request");
    let reply = server.post("/v1/tables/t", "{}").await;
    reply.problem(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "GET, HEAD, PUT, DELETE");
    assert_eq!(server.world.definition("t"), None);
}

#[tokio::test]
async fn modules_are_uploaded_shown_and_rolled_back() {
    let server = serve().await;
    let path = "/v1/reconcilers/mine";
    let wasm = [("content-type", "application/wasm")];
    let reply = server.put(path, &wasm, "\0asm one").await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let first = Digest::of(b"\0asm one").to_string();
    assert_eq!(
        reply.json(),
        json!({
            "name": "mine", "digest": first, "size_bytes": 8, "kind": "reconciler",
            "laws": {"verdict": "no counterexample", "cases": 100, "text": "no counterexample in 100 cases"},
        })
    );
    assert_eq!(server.put(path, &[], "\0asm one").await.status, 200);
    let untold = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(server.put(path, &untold, "\0asm two").await.status, 201);
    server
        .put("/v1/tables/t", &[], r#"{"reconciler": "mine"}"#)
        .await;

    let shown = server.get(path).await.json();
    assert_eq!(shown["name"], "mine");
    assert_eq!(shown["digest"], Digest::of(b"\0asm two").to_string());
    assert_eq!(shown["tables"], json!(["t"]));
    assert_eq!(shown["versions"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&shown["folds"], &shown["failures"]),
        (&json!(9), &json!(3))
    );
    let list = server.get("/v1/reconcilers").await.json();
    assert_eq!(list["reconcilers"][1], shown);

    let accept = [("accept", "application/wasm")];
    let bytes = server.get_with(path, &accept).await;
    assert_eq!(bytes.body, "\0asm two");
    assert_eq!(bytes.header("content-type"), "application/wasm");
    let reply = server.get_with(path, &[("accept", "text/html")]).await;
    reply.problem(406, "not_acceptable");
    // Known from gossip, but not here yet.
    let reply = server.get_with("/v1/reconcilers/sum", &accept).await;
    reply.problem(503, "not_ready");

    let rollback = format!("{path}/rollback");
    let reply = server
        .post(&rollback, json!({"digest": first}).to_string())
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json()["digest"], first);
    assert_eq!(server.get_with(path, &accept).await.body, "\0asm one");
    let unknown = json!({"digest": Digest::of(b"?").to_string()}).to_string();
    let reply = server.post(&rollback, unknown.clone()).await;
    reply.problem(404, "no_such_reconciler");
    let reply = server.post("/v1/reconcilers/none/rollback", unknown).await;
    reply.problem(404, "no_such_reconciler");
    // Without a digest: what was current before; once more takes that back.
    let second = Digest::of(b"\0asm two").to_string();
    for (from, to) in [(&first, &second), (&second, &first)] {
        let told = server.post(&rollback, "{}").await.json();
        let expected = json!({"from": from, "to": to, "changed": true});
        assert_eq!(told["rolled_back"], expected);
    }
    let shown = server.get(path).await.json();
    let history = shown["history"].as_array().unwrap();
    assert_eq!(history.len(), 5);
    assert_eq!(history[0]["deed"], "uploaded");
    assert_eq!(history[4]["deed"], "rolled back");
    assert_eq!(history[4]["digest"], first);
    assert_eq!(shown["previous"], second);
    let version = &shown["versions"][1];
    assert_eq!(
        (&version["current"], &version["pinned_by"]),
        (&json!(false), &json!([]))
    );
    for body in [r#"{"digest": "x"}"#, r#"{"digest": 3}"#] {
        server
            .post(&rollback, body)
            .await
            .problem(400, "bad_request");
    }
    let extra = json!({"digest": first, "now": true}).to_string();
    server
        .post(&rollback, extra)
        .await
        .problem(400, "bad_request");
    server
        .get("/v1/reconcilers/none")
        .await
        .problem(404, "no_such_reconciler");

    let detail = server.delete(path, &[]).await.problem(400, "bad_request");
    assert!(detail.contains("confirm=mine"), "{detail}");
    let confirmed = format!("{path}?confirm=mine");
    let reply = server.delete(&confirmed, &[]).await;
    assert_eq!(reply.json()["tables"], json!(["t"]));
    let detail = reply.problem(409, "reconciler_in_use");
    assert!(detail.contains("the table t"), "{detail}");
    server.delete("/v1/tables/t?confirm=t", &[]).await;
    assert_eq!(server.delete(&confirmed, &[]).await.status, 204);
    server.get(path).await.problem(404, "no_such_reconciler");
    let reply = server.delete(&confirmed, &[]).await;
    reply.problem(404, "no_such_reconciler");
}

#[tokio::test]
async fn modules_are_refused_with_the_reason() {
    let server = serve().await;
    let path = "/v1/reconcilers/mine";
    server
        .put(path, &[], "not wasm")
        .await
        .problem(422, "invalid_module");
    server
        .put(path, &[], "")
        .await
        .problem(422, "invalid_module");
    for name in ["none", "a%20b"] {
        let reply = server
            .put(&format!("/v1/reconcilers/{name}"), &[], "\0asm")
            .await;
        reply.problem(422, "invalid_module");
    }
    let reply = server
        .put(path, &[("content-type", "application/json")], "\0asm")
        .await;
    reply.problem(415, "unsupported_media_type");
    let reply = server.put(path, &[], "\0asm unlawful").await;
    reply.problem(422, "law_violated");
    assert_eq!(reply.json()["counterexample"]["law"], "order-free");
    let reply = server
        .put(&format!("{path}?accept=anything"), &[], "\0asm")
        .await;
    reply.problem(400, "bad_request");
    let reply = server.put(path, &[], vec![0; (8 << 20) + 1]).await;
    reply.problem(413, "too_large");
    server.get(path).await.problem(404, "no_such_reconciler");

    let reply = server
        .put(&format!("{path}?accept=unlawful"), &[], "\0asm unlawful")
        .await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.json()["laws"]["verdict"], "unlawful");
    assert_eq!(server.get(path).await.json()["laws"]["law"], "order-free");
}

#[tokio::test]
async fn the_cluster_and_the_ring_are_shown() {
    let server = serve().await;
    let cluster = server.get("/v1/cluster").await.json();
    let member = json!({
        "node": "b", "address": "b:8101", "status": "up", "up": true, "zone": "z1",
        "weight": 1.5, "partitions": 256, "hints": 2, "clock_offset_us": -7,
    });
    assert_eq!(cluster["members"][1], member);
    assert_eq!(cluster["members"][0]["clock_offset_us"], Value::Null);
    let keys: Vec<_> = cluster.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "layout_read",
            "layout_version",
            "members",
            "node",
            "strays",
            "transfers",
            "under_replicated"
        ]
    );
    assert_eq!(cluster["strays"], 2);
    let transfer = json!({"from": "a", "to": "b", "partitions_done": 3, "partitions": 4});
    assert_eq!(cluster["transfers"], json!([transfer]));
    // From `printf 'raw\0alice' | md5sum`.
    let ring = server.get("/v1/cluster/ring/raw/%61lice").await.json();
    let position = crate::protocol::id::Position::of("raw", b"alice");
    assert_eq!(ring["position"], position.to_string());
    assert_eq!(ring["partition"], position.partition(256).0);
    let place = json!({"node": "a", "address": "a:8101", "up": true, "primary": true});
    assert_eq!(ring["preference_list"], json!([place]));
    server
        .get("/v1/cluster/ring/none/k")
        .await
        .problem(404, "no_such_table");
    server
        .get("/v1/cluster/ring/raw/")
        .await
        .problem(400, "bad_request");
}

#[tokio::test]
async fn operators_see_how_a_node_is() {
    let server = serve().await;
    assert_eq!(server.get("/healthz").await.body, "ok\n");
    assert_eq!(server.get("/readyz").await.status, 200);
    server.world.ready.store(false, Ordering::Relaxed);
    // It does not know the cluster's tables yet: 404 would be taken for an answer.
    let unknown = server.get("/v1/tables/unheard/items/k").await;
    unknown.problem(503, "not_ready");
    let detail = server.get("/readyz").await.problem(503, "not_ready");
    assert!(detail.contains("gossip"));
    assert_eq!(server.get("/healthz").await.status, 200);
    let head = server.send(Method::HEAD, "/readyz", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (503, 0));
    let reply = server.post("/healthz", "").await;
    reply.problem(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "GET, HEAD");
    server
        .get("/metrics?name=x")
        .await
        .problem(400, "bad_request");

    server.write("/v1/tables/raw/items/k", "x").await;
    server.get("/v1/tables/raw/items/k").await;
    let metrics = server.get("/metrics").await;
    assert!(
        metrics
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for line in [
        r#"kinfold_requests_total{kind="put",status="204",code=""} 1"#,
        r#"kinfold_requests_total{kind="health",status="503",code="not_ready"} 2"#,
        r#"kinfold_read_siblings_count 1"#,
        "kinfold_requests_in_flight 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
    let openapi = server.get("/openapi.json").await.json();
    assert_eq!(openapi["openapi"], "3.1.0");
}

#[tokio::test]
async fn peers_are_handed_over() {
    let server = serve().await;
    let reply = server.get("/internal/v1/peer").await;
    assert_eq!(reply.body, "peer");
    let upgrade = [("connection", "upgrade"), ("upgrade", "kinfold-peer/1")];
    let reply = server.get_with("/internal/v1/peer", &upgrade).await;
    assert_eq!(reply.status, 101);
    assert_eq!(reply.header("upgrade"), "kinfold-peer/1");
}

#[tokio::test]
async fn members_leave_and_are_removed_or_it_is_said_why_not() {
    let server = serve().await;
    let reply = server.post("/v1/cluster/leave", "").await;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.json(), json!({"node": "a", "status": "leaving"}));
    server.world.alive.store(1, Ordering::Relaxed);
    let detail = server
        .post("/v1/cluster/leave", "")
        .await
        .problem(409, "last_member");
    assert!(detail.contains("let another node join"), "{detail}");
    server
        .get("/v1/cluster/leave")
        .await
        .problem(405, "method_not_allowed");
    server
        .post("/v1/cluster/leave?now=true", "")
        .await
        .problem(400, "bad_request");

    let reply = server.delete("/v1/cluster/members/c", &[]).await;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.json(), json!({"node": "c", "status": "removed"}));
    let detail = server
        .delete("/v1/cluster/members/b", &[])
        .await
        .problem(409, "member_is_up");
    assert!(detail.contains("kinfold cluster leave"), "{detail}");
    for unknown in ["nobody", "%FF", "a%20b"] {
        let reply = server
            .delete(&format!("/v1/cluster/members/{unknown}"), &[])
            .await;
        reply.problem(404, "no_such_member");
    }
    let reply = server.get("/v1/cluster/members/c").await;
    reply.problem(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "DELETE");
    server
        .get("/v1/cluster/members")
        .await
        .problem(404, "not_found");
}
