//! `/v1/tables`: definitions, read, made, changed and ended at run time.
//!
//! A definition is the JSON of what the config file says; what a GET gives, a PUT
//! takes. A PUT names the whole definition: keys that it leaves out get their
//! defaults.

use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::problem::{Code, Problem};
use super::query::{DEFAULT_CHANGE_TIMEOUT_MS, Query};
use super::route::Resource;
use super::service::Service;
use super::{Answer, Call, path, require_method};
use crate::protocol::catalog::{CatalogChange, Table, TableDefinition};
use crate::table_spec::{self, TableSpec};

/// The longest definition, in bytes: a hundred times what one takes.
const MAX_DEFINITION_BYTES: u64 = 64 << 10;

/// A definition with its name.
fn describe(name: &str, definition: &TableDefinition) -> Map<String, Value> {
    let mut table = Map::new();
    table.insert("name".into(), json!(name));
    table.extend(TableSpec::from(definition).to_json());
    table
}

/// `GET /v1/tables`.
pub fn list<S: Service>(service: &S, call: &Call<'_>) -> Answer {
    require_method(call, Resource::Tables)?;
    Query::parse(call.parts.uri.query(), &[])?;
    let tables: Vec<Value> = service
        .tables()
        .iter()
        .map(|(name, table)| Value::Object(describe(name, &table.definition)))
        .collect();
    Ok(super::json(StatusCode::OK, &json!({ "tables": tables })))
}

/// `GET`, `PUT` and `DELETE` of `/v1/tables/{table}`.
pub async fn handle<S: Service>(service: &S, name: &str, call: &mut Call<'_>) -> Answer {
    require_method(call, Resource::Table)?;
    let name = path::name(name)?;
    match call.parts.method {
        Method::PUT => put(service, name, call).await,
        Method::DELETE => delete(service, name, call).await,
        _ => {
            Query::parse(call.parts.uri.query(), &[])?;
            let name = name.ok_or_else(Problem::no_such_table)?;
            let tables = service.tables();
            let table = tables
                .get(name.as_str())
                .ok_or_else(Problem::no_such_table)?;
            let mut document = describe(&name, &table.definition);
            document.insert("folds_with".into(), folds_with(table));
            Ok(super::json(StatusCode::OK, &Value::Object(document)))
        }
    }
}

/// What folds the table's siblings now; null for a table without a reconciler, and
/// for one whose reconciler was deleted.
fn folds_with(table: &Table) -> Value {
    let Some(module) = &table.module else {
        return Value::Null;
    };
    json!({
        "reconciler": table.definition.reconciler.as_deref(),
        "digest": module.digest.to_string(),
        "pinned": table.definition.reconciler_digest.is_some(),
    })
}

fn invalid(detail: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidTable, detail)
}

async fn put<S: Service>(service: &S, name: Option<String>, call: &mut Call<'_>) -> Answer {
    let query = Query::parse(call.parts.uri.query(), &["timeout_ms"])?;
    let timeout_ms = query.timeout_ms(DEFAULT_CHANGE_TIMEOUT_MS)?;
    let name = name
        .filter(|name| table_spec::is_name(name))
        .ok_or_else(|| invalid(format_args!("a table's name has {}", table_spec::NAME_RULE)))?;
    let mut body = super::json_object(call, MAX_DEFINITION_BYTES).await?;
    if let Some(given) = body.remove("name")
        && given != json!(name)
    {
        return Err(invalid(format_args!(
            "name is {given}, but the path says {name:?}"
        )));
    }
    // A GET says this too, and what it gives a PUT takes.
    body.remove("folds_with");
    let definition = TableSpec::from_json(body)
        .and_then(|spec| spec.into_definition())
        .map_err(invalid)?;
    let existing = service
        .tables()
        .get(name.as_str())
        .map(|table| table.definition.clone());
    check(service, existing.as_ref(), &definition)?;
    // What was said already is published all the same: whoever said it may not have
    // been told that it was taken.
    let change = CatalogChange::SetTable {
        name: name.as_str().into(),
        definition: definition.clone(),
    };
    let created = service.publish(change, timeout_ms).await?.created;
    let mut document = describe(&name, &definition);
    let warnings = warnings(service, &definition);
    if !warnings.is_empty() {
        document.insert("warnings".into(), json!(warnings));
    }
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(super::json(status, &Value::Object(document)))
}

/// What only the catalog can say about a definition.
fn check<S: Service>(
    service: &S,
    existing: Option<&TableDefinition>,
    definition: &TableDefinition,
) -> Result<(), Problem> {
    if existing.is_some_and(|existing| existing.sort_keys != definition.sort_keys) {
        return Err(invalid(
            "sort_keys is fixed when a table is made: the items that are there would lose \
             their names",
        ));
    }
    let catalog = service.catalog();
    let Some(reconciler) = &definition.reconciler else {
        return Ok(());
    };
    let known = catalog.reconciler(reconciler).ok_or_else(|| {
        invalid(format_args!(
            "reconciler is {reconciler:?}, which nobody uploaded; GET /v1/reconcilers lists them"
        ))
    })?;
    match definition.reconciler_digest {
        Some(digest) if known.module(digest).is_none() => Err(invalid(format_args!(
            "reconciler_digest is {digest}, which {reconciler:?} never had"
        ))),
        _ => Ok(()),
    }
}

/// What is allowed and yet worth saying.
fn warnings<S: Service>(service: &S, definition: &TableDefinition) -> Vec<String> {
    let members = service
        .cluster_view()
        .members
        .iter()
        .filter(|member| member.status != "removed")
        .count();
    if definition.n as usize > members {
        vec![format!(
            "n is {}, but the cluster has {members} members: items have fewer replicas until \
             more join",
            definition.n
        )]
    } else {
        Vec::new()
    }
}

async fn delete<S: Service>(service: &S, name: Option<String>, call: &Call<'_>) -> Answer {
    let query = Query::parse(call.parts.uri.query(), &["confirm", "timeout_ms"])?;
    let timeout_ms = query.timeout_ms(DEFAULT_CHANGE_TIMEOUT_MS)?;
    let name = name
        .filter(|name| service.tables().contains_key(name.as_str()))
        .ok_or_else(Problem::no_such_table)?;
    if query.get("confirm") != Some(name.as_str()) {
        return Err(Problem::bad_request(format_args!(
            "deleting a table deletes its items; add ?confirm={name} if that is what you want"
        )));
    }
    let change = CatalogChange::DeleteTable {
        name: name.as_str().into(),
    };
    service.publish(change, timeout_ms).await?;
    let mut response = hyper::Response::new(super::Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
