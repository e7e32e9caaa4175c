//! `/v1/reconcilers`: modules, uploaded, listed, fetched and rolled back.

use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, VARY};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::problem::{Code, Problem};
use super::query::Query;
use super::route::Resource;
use super::service::Service;
use super::{Answer, Call, accept, headers, path, require_method};
use crate::protocol::catalog::{
    Catalog, Digest, Lawfulness, MAX_RECONCILERS, ModuleInfo, ModuleKind, ReconcilerDefinition,
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

fn describe_module<S: Service>(service: &S, module: &ModuleInfo) -> Value {
    let health = service.module_health(module.digest);
    json!({
        "digest": module.digest.to_string(),
        "size_bytes": module.size_bytes,
        "kind": kind(module.kind),
        "eager": module.folds_eagerly(),
        "summary": module.summary.as_ref(),
        "version": module.version.as_ref(),
        "built_in": module.built_in,
        "laws": laws(&module.lawfulness),
        "folds": health.folds,
        "failures": health.failures,
    })
}

/// A reconciler: its current module, those it had, and who uses it.
fn describe<S: Service>(
    service: &S,
    catalog: &Catalog,
    name: &str,
    definition: &ReconcilerDefinition,
) -> Value {
    let tables: Vec<&str> = catalog
        .tables()
        .filter(|(_, table)| table.reconciler.as_deref() == Some(name))
        .map(|(table, _)| table.as_ref())
        .collect();
    let mut document = match definition.module(definition.current) {
        Some(module) => describe_module(service, module),
        None => json!({ "digest": definition.current.to_string() }),
    };
    document["name"] = json!(name);
    document["versions"] = definition
        .modules
        .iter()
        .map(|module| describe_module(service, module))
        .collect();
    document["tables"] = json!(tables);
    document
}

/// `GET /v1/reconcilers`.
pub fn list<S: Service>(service: &S, call: &Call) -> Answer {
    require_method(call, Resource::Reconcilers)?;
    Query::parse(call.parts.uri.query(), &[])?;
    let catalog = service.catalog();
    let reconcilers: Vec<Value> = catalog
        .reconcilers()
        .map(|(name, definition)| describe(service, &catalog, name, definition))
        .collect();
    Ok(super::json(
        StatusCode::OK,
        &json!({ "reconcilers": reconcilers }),
    ))
}

/// `GET` and `PUT` of `/v1/reconcilers/{name}`.
pub async fn handle<S: Service>(service: &S, name: &str, call: &mut Call) -> Answer {
    require_method(call, Resource::Reconciler)?;
    let name = path::name(name)?;
    if call.parts.method == Method::PUT {
        put(service, name, call).await
    } else {
        get(service, name, call)
    }
}

fn get<S: Service>(service: &S, name: Option<String>, call: &Call) -> Answer {
    Query::parse(call.parts.uri.query(), &[])?;
    let catalog = service.catalog();
    let name = name.ok_or_else(Problem::no_such_reconciler)?;
    let definition = catalog
        .reconciler(&name)
        .ok_or_else(Problem::no_such_reconciler)?;
    let mut response = match accept::best(&call.parts.headers, &[JSON, WASM]) {
        Some(JSON) => super::json(
            StatusCode::OK,
            &describe(service, &catalog, &name, definition),
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

async fn put<S: Service>(service: &S, name: Option<String>, call: &mut Call) -> Answer {
    let query = Query::parse(call.parts.uri.query(), &["accept"])?;
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
        .add_reconciler(&name, bytes, accept_unlawful)
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

/// `POST /v1/reconcilers/{name}/rollback` with `{"digest"}`.
pub async fn roll_back<S: Service>(service: &S, name: &str, call: &mut Call) -> Answer {
    require_method(call, Resource::Rollback)?;
    Query::parse(call.parts.uri.query(), &[])?;
    let name = path::name(name)?
        .filter(|name| service.catalog().reconciler(name).is_some())
        .ok_or_else(Problem::no_such_reconciler)?;
    let mut body = super::json_object(call, MAX_JSON_BYTES).await?;
    let digest: Digest = match body.remove("digest") {
        Some(Value::String(text)) => text
            .parse()
            .map_err(|error| Problem::bad_request(format_args!("digest: {error}")))?,
        _ => {
            return Err(Problem::bad_request(
                "the body is {\"digest\": \"sha256:…\"}",
            ));
        }
    };
    if let Some(key) = body.keys().next() {
        return Err(Problem::bad_request(format_args!(
            "the key {key:?} is not known here; the body is {{\"digest\": \"sha256:…\"}}"
        )));
    }
    service.roll_back_reconciler(&name, digest).await?;
    let catalog = service.catalog();
    let definition = catalog
        .reconciler(&name)
        .ok_or_else(Problem::no_such_reconciler)?;
    Ok(super::json(
        StatusCode::OK,
        &describe(service, &catalog, &name, definition),
    ))
}
