//! Contexts and siblings: what supersedes what, and how conflicts are shown.

use super::cluster;
use super::common::http::{values, with};
use super::common::{Expect, Request, item};

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
