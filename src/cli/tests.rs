//! Commands against a server that answers as told: exit codes, messages, and
//! what was asked.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use clap::CommandFactory;

use super::*;

/// A server that gives these answers, one a connection, and then tells what it
/// was asked: the first line of each request, and its body.
fn server(answers: &'static [&'static str]) -> (String, JoinHandle<Vec<(String, String)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let handle = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let line = head.lines().next().unwrap().to_owned();
            asked.push((line, String::from_utf8(body).unwrap()));
            let (head, body) = answer.split_once("\n\n").unwrap_or((answer, ""));
            write!(
                stream,
                "HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                head.replace('\n', "\r\n"),
                body.len()
            )
            .unwrap();
        }
        asked
    });
    (url, handle)
}

/// Runs a command line; the error's exit code and line.
fn outcome(url: &str, words: &[&str]) -> Result<(), (u8, String)> {
    let words = ["kinfold", "--endpoint", url]
        .into_iter()
        .chain(words.iter().copied());
    let cli = Cli::try_parse_from(words).map_err(|error| {
        let code = u8::try_from(error.exit_code()).unwrap();
        let line = usage_line(&error);
        assert_eq!(line.lines().count(), 1, "{line}");
        (code, line)
    })?;
    dispatch(cli).map_err(|error| {
        let line = error.line();
        assert_eq!(line.lines().count(), 1, "{line}");
        (error.exit_code(), line)
    })
}

#[test]
fn the_arguments_are_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn failures_have_their_exit_codes_and_say_what_to_do() {
    for (answer, words, code, part) in [
        (
            "404 Not Found\ncontent-type: application/problem+json\n\n{\"code\":\"not_found\",\"detail\":\"nothing is here\"}",
            &["get", "t", "k"][..],
            3,
            "nothing is here (not_found)",
        ),
        (
            "404 Not Found\n\n{\"code\":\"no_such_table\",\"detail\":\"no table t\"}",
            &["put", "t", "k", "v"],
            3,
            "kinfold table list",
        ),
        (
            "409 Conflict\n\n{\"code\":\"too_many_siblings\",\"detail\":\"101 siblings\"}",
            &["put", "t", "k", "v"],
            4,
            "101 siblings",
        ),
        (
            "300 Multiple Choices\nkinfold-siblings: 2\nkinfold-context: abc\nkinfold-reconcile-error: it trapped\n\n{\"context\":\"abc\",\"siblings\":[]}",
            &["get", "t", "k", "s"],
            4,
            "t/k/s has 2 siblings that nobody folded (it trapped); see them with --siblings and settle it: kinfold put t k s VALUE --context abc",
        ),
        (
            "503 Service Unavailable\nretry-after: 3\n\n{\"code\":\"overloaded\",\"detail\":\"too much\"}",
            &["delete", "t", "k"],
            5,
            "too much (overloaded); try again in 3 s",
        ),
        (
            "400 Bad Request\n\n{\"code\":\"bad_operation\",\"detail\":\"no\\nsuch thing\"}",
            &["op", "t", "k", "{}"],
            1,
            "no such thing (bad_operation)",
        ),
        (
            "422 Unprocessable Entity\n\n{\"code\":\"law_violated\",\"detail\":\"the long\\nstory\",\"counterexample\":{\"law\":\"idempotent\"}}",
            &["reconciler", "push", "/dev/null", "--name", "mine"],
            1,
            "mine is not lawful: idempotent does not hold; mend it, or admit it with --accept-unlawful",
        ),
        (
            "502 Bad Gateway\n\n<html>",
            &["cluster", "status"],
            1,
            "Bad Gateway (HTTP 502)",
        ),
    ] {
        let (url, handle) = server(Vec::leak(vec![answer]));
        let (got, line) = outcome(&url, words).unwrap_err();
        assert_eq!(got, code, "{line}");
        assert!(line.contains(part), "{line}");
        handle.join().unwrap();
    }
}

#[test]
fn no_node_is_exit_code_5() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (code, line) = outcome(&url, &["get", "t", "k"]).unwrap_err();
    assert_eq!(code, 5, "{line}");
    assert!(line.contains("kinfold dev"), "{line}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let url = "http://127.0.0.1:1";
    for words in [
        &["put", "t", "k"][..],
        &["put", "t", "k", "s", "v", "extra"],
        &["op", "t", "k", "not json"],
        &["table", "delete", "t"],
        &["serve", "--name", "a b"],
        &["serve", "--name", "a", "--listen", "nowhere"],
        &["serve", "--name", "a", "--log", "kinfold=loud"],
        &["dev", "--port-base", "65534"],
        &["frobnicate"],
        &["get", "t"],
        &["serve", "--weight", "x"],
        &["get", "t", "k", "--sibling"],
        &["--endpoint", "ftp://x", "cluster", "status"],
    ] {
        let (code, line) = outcome(url, words).unwrap_err();
        assert_eq!(code, 2, "{words:?}: {line}");
    }
}

#[test]
fn items_are_asked_for_as_their_words_say() {
    let (url, handle) = server(&[
        "204 No Content\nkinfold-context: abc",
        "200 OK\ncontent-type: application/json\n\n{}",
        "204 No Content",
        "200 OK\ncontent-type: application/json\n\n{\"apple\":1}",
    ]);
    let context = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(context.path(), "old\n").unwrap();
    let file = context.path().to_str().unwrap();
    outcome(
        &url,
        &[
            "put",
            "t",
            "a/b",
            "s",
            "val",
            "--w",
            "all",
            "--context-file",
            file,
        ],
    )
    .unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "abc\n");
    outcome(
        &url,
        &["get", "t", "é", "--json", "--r", "1", "--quorum", "strict"],
    )
    .unwrap();
    outcome(&url, &["delete", "t", "k", "s", "--timeout-ms", "10"]).unwrap();
    outcome(&url, &["op", "t", "k", "{\"add\":1}"]).unwrap();
    let asked = handle.join().unwrap();
    let lines: Vec<&str> = asked.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "PUT /v1/tables/t/items/a%2Fb/s?w=all HTTP/1.1",
            "GET /v1/tables/t/items/%C3%A9?r=1&quorum=strict HTTP/1.1",
            "DELETE /v1/tables/t/items/k/s?timeout_ms=10 HTTP/1.1",
            "POST /v1/tables/t/items/k/operations HTTP/1.1",
        ]
    );
    assert_eq!(asked[0].1, "val");
    assert_eq!(asked[3].1, "{\"add\":1}");
}

#[test]
fn a_table_is_changed_over_what_it_is() {
    let (url, handle) = server(&[
        "200 OK\n\n{\"name\":\"t\",\"n\":3,\"r\":2,\"reconciler\":null}",
        "200 OK\n\n{}",
        "204 No Content",
    ]);
    outcome(&url, &["table", "set", "t", "--w", "all"]).unwrap();
    outcome(&url, &["table", "delete", "t", "--yes"]).unwrap();
    let asked = handle.join().unwrap();
    assert_eq!(asked[1].0, "PUT /v1/tables/t HTTP/1.1");
    let sent: serde_json::Value = serde_json::from_str(&asked[1].1).unwrap();
    assert_eq!(sent, serde_json::json!({"n": 3, "r": 2, "w": "all"}));
    assert_eq!(asked[2].0, "DELETE /v1/tables/t?confirm=t HTTP/1.1");
}

#[test]
fn modules_are_checked_without_a_server() {
    let check = |file: &str, more: &[&str]| {
        let file = format!("{}/reconcilers/prebuilt/{file}", env!("CARGO_MANIFEST_DIR"));
        let words: Vec<&str> = ["reconciler", "check", &file]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        outcome("http://127.0.0.1:1", &words)
    };
    check("or-cart.wasm", &["--cases", "20", "--seed", "1"]).unwrap();
    let (code, line) = check("test/imports.wasm", &[]).unwrap_err();
    assert_eq!(code, 1, "{line}");
    assert!(line.contains("imports.wasm"), "{line}");
}
