//! `POST /v1/tables/{table}/dry-run`: what a module would make of what a table
//! stores.
//!
//! The candidate is named (`{"reconciler"}`, `{"digest"}`), or is the body itself
//! (`application/wasm`), which is then kept nowhere. The answer is one JSON
//! document at the end; with `Accept: application/x-ndjson` there are lines on
//! the way, `{"event":"progress",…}`, and a last one, `{"event":"report",…}` or
//! `{"event":"error",…}`. What is wrong with a request is told by its status
//! before the first line.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, VARY};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::problem::{Code, Problem};
use super::query::Query;
use super::reconcilers::{MAX_MODULE_BYTES, kind, laws};
use super::route::Resource;
use super::sent::{MAX_WAITING_LINES, Sent};
use super::service::Service;
use super::{Call, accept, explain, headers, path, require_method};
use crate::node::dry_run::tally::{
    Costs, Example, MAX_EXAMPLES, Shown, ShownResult, ShownSibling, Spread, Verdict,
};
use crate::node::dry_run::{
    Candidate, DEFAULT_LIMIT, MAX_DURATION, MAX_LIMIT, Plan, Progress, Report, Running, Stopped,
};
use crate::protocol::catalog::{Catalog, Digest, ModuleInfo, Table};
use crate::protocol::id::{ItemKey, NodeId};
use crate::protocol::message::Refusal;
use crate::reconcile::wasm::limit_named;

/// The longest body that is JSON, in bytes.
const MAX_JSON_BYTES: u64 = 4 << 10;
/// How often progress is told at most: what a person can follow.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

const WASM: &str = "application/wasm";
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// Answers the request.
pub async fn handle<S: Service>(
    service: &Arc<S>,
    table: &str,
    call: &mut Call<'_>,
) -> Result<Response<Sent>, Problem> {
    require_method(call, Resource::DryRun)?;
    let form = accept::best(&call.parts.headers, &[JSON, NDJSON]).ok_or_else(|| {
        Problem::new(
            Code::NotAcceptable,
            "a dry run is told as application/json, or as application/x-ndjson line by line",
        )
    })?;
    let table = path::name(table)?
        .and_then(|name| service.tables().get(name.as_str()).cloned())
        .ok_or_else(|| match service.readiness() {
            Ok(()) => Problem::no_such_table(),
            Err(reason) => Refusal::NotReady(reason).into(),
        })?;
    let plan = plan(&**service, table, call).await?;
    let running = service.dry_run(plan).await?;
    let mut response = if form == NDJSON {
        let (lines, sent) = mpsc::channel(MAX_WAITING_LINES);
        tokio::spawn(tell(service.clone(), running, lines));
        let mut response = Response::new(Sent::Lines(sent));
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        response
    } else {
        let report = finished(running.report.await)?;
        super::json(StatusCode::OK, &document(&**service, &report)).map(Sent::from)
    };
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// What is asked for.
async fn plan<S: Service>(
    service: &S,
    table: Arc<Table>,
    call: &mut Call<'_>,
) -> Result<Plan, Problem> {
    let given = headers::request_content_type(&call.parts.headers)?.unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    let (candidate, limit) = if essence.eq_ignore_ascii_case(WASM) {
        let query = Query::parse(call.parts.uri.query(), &["limit"])?;
        let limit = match query.get("limit") {
            None => DEFAULT_LIMIT,
            Some(text) => text
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| text.parse().ok())
                .flatten()
                .ok_or_else(|| bad_limit(&path::shorten(text)))?,
        };
        check_limit(limit)?;
        let bytes = call.body.read(MAX_MODULE_BYTES).await?;
        if bytes.is_empty() {
            return Err(Problem::new(
                Code::InvalidModule,
                "the body is empty; send the module's bytes",
            ));
        }
        (Candidate::Bytes(bytes), limit)
    } else {
        Query::parse(call.parts.uri.query(), &[])?;
        let body = super::json_object(call, MAX_JSON_BYTES).await?;
        named(&service.catalog(), body)?
    };
    check_limit(limit)?;
    Ok(Plan {
        table,
        candidate,
        limit,
    })
}

fn bad_limit(given: &dyn std::fmt::Display) -> Problem {
    Problem::bad_request(format_args!(
        "limit is {given}; it is how many items are tried at most, 1..={MAX_LIMIT}"
    ))
}

fn check_limit(limit: u64) -> Result<(), Problem> {
    if (1..=MAX_LIMIT).contains(&limit) {
        Ok(())
    } else {
        Err(bad_limit(&limit))
    }
}

/// The module that a body names, and the limit.
fn named(catalog: &Catalog, mut body: Map<String, Value>) -> Result<(Candidate, u64), Problem> {
    const SHAPE: &str = "the body is {\"reconciler\": NAME}, {\"digest\": \"sha256:…\"} or both, \
        and \"limit\" where you want one; or send a module's bytes as application/wasm";
    let limit = match body.remove("limit") {
        None => DEFAULT_LIMIT,
        Some(limit) => limit.as_u64().ok_or_else(|| bad_limit(&limit))?,
    };
    let mut text = |key: &str| match body.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Problem::bad_request(format_args!(
            "{key} is {other}; {SHAPE}"
        ))),
    };
    let (name, digest) = (text("reconciler")?, text("digest")?);
    if let Some(key) = body.keys().next() {
        return Err(Problem::bad_request(format_args!(
            "the key {key:?} is not known here; {SHAPE}"
        )));
    }
    let digest: Option<Digest> = digest
        .map(|text| text.parse())
        .transpose()
        .map_err(|error| Problem::bad_request(format_args!("digest: {error}")))?;
    let found: Option<&ModuleInfo> = match (&name, digest) {
        (None, None) => return Err(Problem::bad_request(SHAPE)),
        (Some(name), digest) => catalog
            .reconciler(name)
            .and_then(|known| known.module(digest.unwrap_or(known.current))),
        (None, Some(digest)) => catalog
            .reconcilers()
            .find_map(|(_, known)| known.module(digest)),
    };
    let info = found.cloned().ok_or_else(Problem::no_such_reconciler)?;
    Ok((Candidate::Known(info), limit))
}

/// What came of a dry run; a node that stops tells so.
fn finished<E>(
    report: Result<Result<Report, crate::node::AdminError>, E>,
) -> Result<Report, Problem> {
    match report {
        Ok(report) => Ok(report?),
        Err(_) => Err(Refusal::NotReady("it is shutting down".to_owned()).into()),
    }
}

fn line(value: &Value) -> Bytes {
    let mut text = value.to_string();
    text.push('\n');
    text.into()
}

fn progress_line(progress: Progress, limit_hint: &str) -> Bytes {
    line(&json!({
        "event": "progress",
        "stage": limit_hint,
        "partitions_done": progress.partitions_done,
        "partitions": progress.partitions,
        "items": progress.items,
        "found": progress.found,
        "tried": progress.tried,
    }))
}

/// Tells how far it is until it is done, or until nobody listens.
async fn tell<S: Service>(service: Arc<S>, running: Running, lines: mpsc::Sender<Bytes>) {
    let Running {
        mut progress,
        mut report,
    } = running;
    let done = loop {
        let now = *progress.borrow_and_update();
        let stage = if now.checking_laws { "laws" } else { "folding" };
        if lines.send(progress_line(now, stage)).await.is_err() {
            return;
        }
        tokio::select! {
            done = &mut report => break done,
            () = lines.closed() => return,
            () = tokio::time::sleep(PROGRESS_EVERY) => {}
        }
    };
    let last = match finished(done) {
        Ok(report) => json!({ "event": "report", "report": document(&*service, &report) }),
        Err(problem) => json!({ "event": "error", "problem": problem.document() }),
    };
    if lines.send(line(&last)).await.is_err() {
        tracing::debug!("whoever wanted a dry run has gone");
    }
}

// The document.

fn spread(spread: Spread) -> Value {
    json!({ "p50": spread.p50, "p99": spread.p99, "max": spread.max })
}

fn costs(costs: &Costs) -> Value {
    json!({
        "calls": costs.count(),
        "fuel": spread(costs.fuel()),
        "time_us": spread(costs.time_us()),
    })
}

/// A value that may have been cut: text that is JSON as JSON, all else in base64.
fn shown(value: &Shown, content_type: &str) -> Map<String, Value> {
    let is_cut = (value.bytes.len() as u64) < value.size_bytes;
    let (shown, is_base64) = if is_cut {
        (json!(STANDARD.encode(&value.bytes)), true)
    } else {
        explain::value_as_json(&value.bytes, content_type)
    };
    let mut document = Map::new();
    document.insert("value".into(), shown);
    document.insert("value_base64".into(), json!(is_base64));
    document.insert("size_bytes".into(), json!(value.size_bytes));
    if is_cut {
        document.insert("cut".into(), json!(true));
    }
    document.insert("content_type".into(), json!(content_type));
    document
}

fn result(result: &ShownResult) -> Value {
    let bare = |outcome: &str| json!({ "outcome": outcome });
    match result {
        ShownResult::Value {
            value,
            content_type,
        } => {
            let mut document = shown(value, content_type);
            document.insert("outcome".into(), json!("value"));
            Value::Object(document)
        }
        ShownResult::Deleted => bare("deleted"),
        ShownResult::Siblings => bare("siblings"),
        ShownResult::Unresolved => bare("unresolved"),
        ShownResult::Failed(reason) => {
            json!({ "outcome": "failed", "reason": reason, "limit": limit_named(reason) })
        }
    }
}

fn sibling(names: &explain::Names, sibling: &ShownSibling) -> Value {
    let mut document = match &sibling.value {
        Some(value) => shown(value, &sibling.content_type),
        None => Map::from_iter([("value".to_owned(), Value::Null)]),
    };
    document.insert("deleted".into(), json!(sibling.value.is_none()));
    document.insert("dot".into(), json!(sibling.dot.to_string()));
    document.insert("node".into(), json!(names.of(sibling.dot.actor.node)));
    let written_at = super::siblings::rfc3339(sibling.written_at_us);
    document.insert("written_at".into(), json!(written_at));
    Value::Object(document)
}

/// An item's keys as far as they are text, and the path that names it exactly.
fn item(table: &str, key: &ItemKey) -> Map<String, Value> {
    let (_, partition_key, sort_key) = key.parts();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut document = Map::new();
    document.insert("key".into(), json!(text(&partition_key)));
    if let Some(sort_key) = &sort_key {
        document.insert("sort_key".into(), json!(text(sort_key)));
    }
    let path = path::item_path(table, &partition_key, sort_key.as_deref());
    document.insert("path".into(), json!(path));
    document
}

fn example(table: &str, names: &explain::Names, one: &Example) -> Value {
    let mut document = item(table, &one.key);
    document.insert("verdict".into(), json!(one.verdict.name()));
    document.insert("replica".into(), json!(names.of(one.replica)));
    document.insert("sibling_count".into(), json!(one.siblings));
    let siblings: Vec<Value> = one.shown.iter().map(|one| sibling(names, one)).collect();
    document.insert("siblings".into(), json!(siblings));
    document.insert("present".into(), result(&one.present));
    document.insert("candidate".into(), result(&one.candidate));
    Value::Object(document)
}

/// Notes that an operator should read before trusting the figures.
fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let eager = |module: &ModuleInfo| module.folds_eagerly();
    if report.table.module.as_ref().is_some_and(eager) {
        notes.push(
            "the table folds eagerly, when siblings meet: few are stored at any time, and what \
             was folded before is not tried again"
                .to_owned(),
        );
    }
    match report.stopped {
        Some(Stopped::Limit) => notes.push(format!(
            "stopped after {} items, as the limit says; what lies beyond was not looked at",
            report.tally.tried()
        )),
        Some(Stopped::Time) => notes.push(format!(
            "stopped after {} s, the longest that a dry run may take",
            MAX_DURATION.as_secs()
        )),
        None => {}
    }
    if report.partitions_unread > 0 {
        notes.push(format!(
            "no replica of {} partitions answered; their items are not in the figures",
            report.partitions_unread
        ));
    }
    notes
}

/// The report as JSON.
fn document<S: Service>(service: &S, report: &Report) -> Value {
    let names = explain::Names::of_cluster(service);
    let tally = &report.tally;
    let table = &*report.table.name;
    let present = report.table.module.as_ref().map(|module| {
        json!({
            "name": report.table.definition.reconciler,
            "digest": module.digest.to_string(),
            "kind": kind(module.kind),
        })
    });
    let candidate = &report.candidate;
    let replicas: Vec<Value> = report
        .replicas
        .iter()
        .map(|(node, (partitions, items)): (&NodeId, &(u64, u64))| {
            json!({ "node": names.of(*node), "partitions": partitions, "items": items })
        })
        .collect();
    let failures: Vec<Value> = tally
        .failures
        .iter()
        .map(|(reason, failures)| {
            json!({
                "reason": reason,
                "limit": limit_named(reason),
                "count": failures.count,
                "fuel_max": failures.fuel_max,
            })
        })
        .collect();
    let examples = |verdict: Verdict| -> Vec<Value> {
        let told = tally.examples.iter().filter(|one| one.verdict == verdict);
        told.map(|one| example(table, &names, one)).collect()
    };
    json!({
        "table": table,
        "present": present,
        "candidate": {
            "digest": candidate.digest.to_string(),
            "size_bytes": candidate.size_bytes,
            "kind": kind(candidate.kind),
            "eager": candidate.folds_eagerly(),
            "summary": candidate.summary.as_ref(),
            "version": candidate.version.as_ref(),
            "laws": laws(&candidate.lawfulness),
            "stored": !report.is_upload,
        },
        "limit": report.limit,
        "complete": report.is_complete(),
        "stopped": report.stopped.map(|stopped| match stopped {
            Stopped::Limit => "limit",
            Stopped::Time => "time",
        }),
        "partitions": {
            "all": report.partitions,
            "read": report.partitions_read,
            "unread": report.partitions_unread,
        },
        "replicas": replicas,
        "items": report.items,
        "sibling_sets": tally.sibling_sets,
        "states": tally.states,
        "deleted": tally.deleted,
        "same": tally.same,
        "different": tally.different,
        "newly_folded": tally.newly_folded,
        "failed": tally.failed,
        "unresolved": tally.unresolved,
        "unreadable": tally.unreadable,
        "present_failed": tally.present_failed,
        "failures": failures,
        "costs": { "present": costs(&tally.present), "candidate": costs(&tally.candidate) },
        "elapsed_ms": report.elapsed_ms,
        "examples_at_most": MAX_EXAMPLES,
        "differences": examples(Verdict::Different),
        "failed_examples": examples(Verdict::Failed),
        "unresolved_examples": examples(Verdict::Unresolved),
        "unreadable_examples": examples(Verdict::Unreadable),
        "notes": notes(report),
    })
}
