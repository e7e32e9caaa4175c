//! `/v1/reconcilers`: modules, uploaded, listed, fetched, rolled back and deleted.
//!
//! Promises: what was answered 200, 201 or 204 is durable on a majority of the
//! layout's nodes; how a module fares, and whether it is quarantined, is told as
//! it is on the node that answers.

use std::collections::BTreeMap;

use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, VARY};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::problem::{Code, Problem};
use super::query::{DEFAULT_CHANGE_TIMEOUT_MS, Query};
use super::route::Resource;
use super::service::Service;
use super::siblings::rfc3339;
use super::{Answer, Call, accept, headers, path, require_method};
use crate::node::Trouble;
use crate::protocol::catalog::{
    Catalog, CatalogChange, Deed, Digest, Lawfulness, MAX_RECONCILERS, ModuleInfo, ModuleKind,
    ReconcilerDefinition,
};
use crate::table_spec;

/// The largest module, in bytes. The built-ins have some hundred kilobytes; a
/// module is compiled on every node and sent to each in one message.
pub const MAX_MODULE_BYTES: u64 = 8 << 20;
/// The longest body that is JSON, in bytes.
const MAX_JSON_BYTES: u64 = 4 << 10;

const WASM: &str = "application/wasm";
const JSON: &str = "application/json";

pub(super) fn kind(kind: ModuleKind) -> &'static str {
    match kind {
        ModuleKind::Reconciler => "reconciler",
        ModuleKind::DataType => "data-type",
    }
}

/// What the law check said.
pub(super) fn laws(lawfulness: &Lawfulness) -> Value {
    match lawfulness {
        Lawfulness::NoCounterexample { cases } => json!({
            "verdict": "no counterexample",
            "cases": cases,
            "text": format!("no counterexample in {cases} cases"),
        }),
        Lawfulness::Unchecked => json!({
            "verdict": "unchecked",
            "text": "the module accepted none of the samples",
        }),
        Lawfulness::BuiltIn => json!({
            "verdict": "built in",
            "text": "compiled into the server, whose tests check its laws",
        }),
        Lawfulness::Unlawful {
            law,
            counterexample,
        } => json!({
            "verdict": "unlawful",
            "law": law.as_ref(),
            "counterexample": counterexample.as_ref(),
            "text": "admitted though it breaks a law; never folded eagerly",
        }),
    }
}

fn digest_text(digest: Option<Digest>) -> Value {
    digest.map_or(Value::Null, |digest| json!(digest.to_string()))
}

/// How a module fares on this node.
fn health<S: Service>(
    service: &S,
    catalog: &Catalog,
    troubles: &BTreeMap<Digest, Trouble>,
    digest: Digest,
) -> Value {
    let figures = service.module_health(digest);
    let trouble = troubles.get(&digest).cloned().unwrap_or_default();
    let mut document = json!({
        "folds": figures.folds,
        "failures": figures.failures,
        "fuel": figures.fuel,
        "spared": trouble.spared,
        "failing_items": trouble.failing_items,
        "quarantined_since": trouble.quarantined_since_us.map(rfc3339),
    });
    if let Some(failure) = trouble.last_failure {
        let (_, partition_key, sort_key) = failure.key.parts();
        let sort_keys = catalog
            .table(&failure.table)
            .is_some_and(|table| table.sort_keys);
        let text = |bytes: &[u8]| path::encode(bytes);
        let mut item = format!(
            "/v1/tables/{}/items/{}",
            failure.table,
            text(&partition_key)
        );
        if let Some(sort_key) = sort_key.filter(|_| sort_keys) {
            item = format!("{item}/{}", text(&sort_key));
        }
        document["last_failure"] = json!({
            "error": failure.error,
            "at": rfc3339(failure.at_us),
            "table": failure.table.as_ref(),
            "item": item,
        });
    }
    document
}

fn describe_module(module: &ModuleInfo, health: &Value) -> Value {
    json!({
        "digest": module.digest.to_string(),
        "size_bytes": module.size_bytes,
        "kind": kind(module.kind),
        "eager": module.folds_eagerly(),
        "summary": module.summary.as_ref(),
        "version": module.version.as_ref(),
        "built_in": module.built_in,
        "laws": laws(&module.lawfulness),
        "folds": health["folds"],
        "failures": health["failures"],
        "health": health,
    })
}

/// A reconciler: its current module, those it had, what was done to it, and who
/// uses it.
fn describe<S: Service>(
    service: &S,
    catalog: &Catalog,
    troubles: &BTreeMap<Digest, Trouble>,
    name: &str,
    definition: &ReconcilerDefinition,
) -> Value {
    let describe_one = |module: &ModuleInfo| {
        let health = health(service, catalog, troubles, module.digest);
        describe_module(module, &health)
    };
    let mut document = match definition.module(definition.current) {
        Some(module) => describe_one(module),
        None => json!({ "digest": definition.current.to_string() }),
    };
    let tables: Vec<&str> = catalog.tables_of(name).map(AsRef::as_ref).collect();
    let pinned_by = |digest: Digest| -> Vec<&str> {
        let pins = |table: &&str| {
            let table = catalog.table(table);
            table.is_some_and(|table| table.reconciler_digest == Some(digest))
        };
        tables.iter().copied().filter(pins).collect()
    };
    let versions: Vec<Value> = definition
        .modules
        .iter()
        .map(|module| {
            let mut version = describe_one(module);
            let uploaded = catalog
                .history(name)
                .find(|entry| entry.digest == module.digest && entry.deed == Deed::Uploaded);
            version["current"] = json!(module.digest == definition.current);
            version["uploaded_at"] = json!(uploaded.map(|entry| rfc3339(entry.at_us)));
            version["uploaded_on"] = json!(uploaded.map(|entry| entry.by.as_ref()));
            version["pinned_by"] = json!(pinned_by(module.digest));
            version
        })
        .collect();
    let history: Vec<Value> = catalog
        .history(name)
        .map(|entry| {
            json!({
                "at": rfc3339(entry.at_us),
                "node": entry.by.as_ref(),
                "deed": entry.deed.as_str(),
                "digest": entry.digest.to_string(),
            })
        })
        .collect();
    document["name"] = json!(name);
    document["versions"] = json!(versions);
    document["history"] = json!(history);
    document["previous"] = digest_text(catalog.previous(name));
    document["tables"] = json!(tables);
    document
}

/// `GET /v1/reconcilers`.
pub fn list<S: Service>(service: &S, call: &Call<'_>) -> Answer {
    require_method(call, Resource::Reconcilers)?;
    Query::parse(call.parts.uri.query(), &[])?;
    let catalog = service.catalog();
    let troubles = service.troubles();
    let reconcilers: Vec<Value> = catalog
        .reconcilers()
        .map(|(name, definition)| describe(service, &catalog, &troubles, name, definition))
        .collect();
    Ok(super::json(
        StatusCode::OK,
        &json!({ "reconcilers": reconcilers }),
    ))
}

/// `GET`, `PUT` and `DELETE` of `/v1/reconcilers/{name}`.
pub async fn handle<S: Service>(service: &S, name: &str, call: &mut Call<'_>) -> Answer {
    require_method(call, Resource::Reconciler)?;
    let name = path::name(name)?;
    match call.parts.method {
        Method::PUT => put(service, name, call).await,
        Method::DELETE => delete(service, name, call).await,
        _ => get(service, name, call),
    }
}

fn get<S: Service>(service: &S, name: Option<String>, call: &Call<'_>) -> Answer {
    Query::parse(call.parts.uri.query(), &[])?;
    let catalog = service.catalog();
    let name = name.ok_or_else(Problem::no_such_reconciler)?;
    let definition = catalog
        .reconciler(&name)
        .ok_or_else(Problem::no_such_reconciler)?;
    let mut response = match accept::best(&call.parts.headers, &[JSON, WASM]) {
        Some(JSON) => super::json(
            StatusCode::OK,
            &describe(service, &catalog, &service.troubles(), &name, definition),
        ),
        Some(_) => {
            let bytes = service.module_bytes(definition.current).ok_or_else(|| {
                Problem::new(
                    Code::NotReady,
                    "this node is still fetching the module; ask again, or ask another node",
                )
            })?;
            let mut response = Response::new(Full::new(bytes));
            let fields = response.headers_mut();
            fields.insert(CONTENT_TYPE, HeaderValue::from_static(WASM));
            fields.insert(ETAG, headers::text(&format!("\"{}\"", definition.current)));
            response
        }
        None => {
            return Err(Problem::new(
                Code::NotAcceptable,
                "a reconciler is shown as application/json or application/wasm",
            ));
        }
    };
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

async fn put<S: Service>(service: &S, name: Option<String>, call: &mut Call<'_>) -> Answer {
    let query = Query::parse(call.parts.uri.query(), &["accept", "timeout_ms"])?;
    let timeout_ms = query.timeout_ms(DEFAULT_CHANGE_TIMEOUT_MS)?;
    let accept_unlawful = match query.get("accept") {
        None => false,
        Some("unlawful") => true,
        Some(other) => {
            return Err(Problem::bad_request(format_args!(
                "accept is {:?}; it is unlawful, or left out",
                path::shorten(other)
            )));
        }
    };
    let invalid = |detail: &dyn std::fmt::Display| Problem::new(Code::InvalidModule, detail);
    let name = name
        .filter(|name| table_spec::is_name(name))
        .ok_or_else(|| {
            invalid(&format_args!(
                "a reconciler's name has {}",
                table_spec::NAME_RULE
            ))
        })?;
    if name == table_spec::NO_RECONCILER {
        return Err(invalid(&format_args!(
            "{name:?} is how a table says that it has no reconciler"
        )));
    }
    let catalog = service.catalog();
    if catalog.reconciler(&name).is_none() && catalog.reconcilers().count() >= MAX_RECONCILERS {
        return Err(invalid(&format_args!(
            "there are {MAX_RECONCILERS} reconcilers already"
        )));
    }
    headers::require_content_type(&call.parts.headers, &[WASM])?;
    let bytes = call.body.read(MAX_MODULE_BYTES).await?;
    if bytes.is_empty() {
        return Err(invalid(&"the body is empty; send the module's bytes"));
    }
    let upload = service
        .add_reconciler(&name, bytes, accept_unlawful, timeout_ms)
        .await?;
    let status = if upload.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let module = &upload.module;
    Ok(super::json(
        status,
        &json!({
            "name": name,
            "digest": module.digest.to_string(),
            "size_bytes": module.size_bytes,
            "kind": kind(module.kind),
            "laws": laws(&module.lawfulness),
        }),
    ))
}

/// `POST /v1/reconcilers/{name}/rollback` with `{"digest"}`, or with `{}` for what
/// was current before.
pub async fn roll_back<S: Service>(service: &S, name: &str, call: &mut Call<'_>) -> Answer {
    require_method(call, Resource::Rollback)?;
    let query = Query::parse(call.parts.uri.query(), &["timeout_ms"])?;
    let timeout_ms = query.timeout_ms(DEFAULT_CHANGE_TIMEOUT_MS)?;
    let name = path::name(name)?
        .filter(|name| service.catalog().reconciler(name).is_some())
        .ok_or_else(Problem::no_such_reconciler)?;
    let mut body = super::json_object(call, MAX_JSON_BYTES).await?;
    let digest: Option<Digest> = match body.remove("digest") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(
            text.parse()
                .map_err(|error| Problem::bad_request(format_args!("digest: {error}")))?,
        ),
        Some(_) => {
            return Err(Problem::bad_request(
                "the body is {\"digest\": \"sha256:…\"}, or {} for the version before",
            ));
        }
    };
    if let Some(key) = body.keys().next() {
        return Err(Problem::bad_request(format_args!(
            "the key {key:?} is not known here; the body is {{\"digest\": \"sha256:…\"}}"
        )));
    }
    let change = CatalogChange::RollBack {
        name: name.as_str().into(),
        digest,
    };
    let applied = service.publish(change, timeout_ms).await?;
    let catalog = service.catalog();
    let definition = catalog
        .reconciler(&name)
        .ok_or_else(Problem::no_such_reconciler)?;
    let mut document = describe(service, &catalog, &service.troubles(), &name, definition);
    document["rolled_back"] = json!({
        "from": digest_text(applied.before),
        "to": digest_text(applied.current),
        "changed": applied.changed,
    });
    Ok(super::json(StatusCode::OK, &document))
}

async fn delete<S: Service>(service: &S, name: Option<String>, call: &Call<'_>) -> Answer {
    let query = Query::parse(call.parts.uri.query(), &["confirm", "timeout_ms"])?;
    let timeout_ms = query.timeout_ms(DEFAULT_CHANGE_TIMEOUT_MS)?;
    let name = name
        .filter(|name| service.catalog().reconciler(name).is_some())
        .ok_or_else(Problem::no_such_reconciler)?;
    if query.get("confirm") != Some(name.as_str()) {
        return Err(Problem::bad_request(format_args!(
            "deleting a reconciler deletes all of its versions; add ?confirm={name} if that is \
             what you want"
        )));
    }
    let change = CatalogChange::DeleteReconciler {
        name: name.as_str().into(),
    };
    service.publish(change, timeout_ms).await?;
    let mut response = Response::new(super::Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
