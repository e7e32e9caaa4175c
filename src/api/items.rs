//! Items: `/v1/tables/{table}/items/…`.
//!
//! Which path is an item and which its operations depends on the table: without
//! sort keys `/{pk}` and `/{pk}/operations`, with them `/{pk}/{sk}` and
//! `/{pk}/{sk}/operations`. A POST always means operations; an item whose sort
//! key is `operations` is reached by the other methods.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH,
    IF_NONE_MATCH, IF_UNMODIFIED_SINCE, VARY,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};

use super::gate::Pass;
use super::headers::{JSON, Said};
use super::problem::{Code, Problem};
use super::query::{Query, Quorum};
use super::service::Service;
use super::{Answer, Body, Call, accept, explain, headers, path, siblings, token};
use crate::metrics::Metrics;
use crate::protocol::catalog::{Digest, Table};
use crate::protocol::id::ItemKey;
use crate::protocol::message::{Ask, ItemRequest, Refusal, Response as Told, ValueResponse};
use crate::protocol::siblings::SiblingSet;

const MULTIPART: &str = "multipart/mixed";

/// The methods of an item in a table of values, and in one of a data type.
const ALLOW_VALUES: &str = "GET, HEAD, PUT, DELETE";
const ALLOW_OPERATIONS: &str = "GET, HEAD, DELETE";

/// What a path below `items` names, once the table is known.
struct Target<'a> {
    table: Arc<Table>,
    key: ItemKey,
    partition_key: Cow<'a, [u8]>,
    operations: bool,
}

/// Answers a request on `/v1/tables/{table}/items/{keys…}`.
pub async fn handle<S: Service>(
    service: &S,
    metrics: &Metrics,
    table: &str,
    keys: &[&str],
    call: &mut Call<'_>,
    pass: &mut Pass<'_>,
) -> Answer {
    let table = path::text(table)?
        .and_then(|name| service.tables().get(&*name).cloned())
        .ok_or_else(|| match service.readiness() {
            Ok(()) => Problem::no_such_table(),
            // A node that has not heard of the cluster's tables yet must not
            // say that there is none: its client would take that for an answer.
            Err(reason) => Refusal::NotReady(reason).into(),
        })?;
    let target = target(table, keys, &call.parts.method)?;
    if target.operations {
        return operate(service, &target, call, pass).await;
    }
    match call.parts.method {
        Method::GET | Method::HEAD => get(service, metrics, &target, call.parts, call.said).await,
        Method::PUT => put(service, &target, call, pass).await,
        Method::DELETE => delete(service, &target, call.parts, call.said).await,
        _ => Err(Problem::method_not_allowed(
            allowed(&target.table),
            if call.parts.method == Method::POST {
                "operations are posted to …/{key}/operations"
            } else {
                "an item takes GET, HEAD, PUT and DELETE"
            },
        )),
    }
}

fn allowed(table: &Table) -> &'static str {
    if table.is_data_type() {
        ALLOW_OPERATIONS
    } else {
        ALLOW_VALUES
    }
}

fn target<'a>(table: Arc<Table>, keys: &[&'a str], method: &Method) -> Result<Target<'a>, Problem> {
    let posts = *method == Method::POST;
    let (partition_key, sort_key, operations) = match (table.definition.sort_keys, keys) {
        (false, [partition_key]) => (partition_key, None, false),
        (false, [partition_key, "operations"]) => (partition_key, None, true),
        (true, [partition_key, sort_key]) if !(posts && *sort_key == "operations") => {
            (partition_key, Some(sort_key), false)
        }
        (true, [partition_key, sort_key, "operations"]) => (partition_key, Some(sort_key), true),
        (true, [_] | [_, _]) => {
            return Err(Problem::bad_request(
                "the table has sort keys: an item is items/{partition_key}/{sort_key}, and its \
                 operations items/{partition_key}/{sort_key}/operations",
            ));
        }
        (true, _) => {
            return Err(Problem::bad_request(format_args!(
                "too many segments: an item of this table is \
                 items/{{partition_key}}/{{sort_key}}, and {}",
                path::SLASH_HINT
            )));
        }
        (false, _) => {
            return Err(Problem::bad_request(format_args!(
                "the table has no sort keys: an item is items/{{partition_key}}, and {} \
                 (percent-encoding)",
                path::SLASH_HINT
            )));
        }
    };
    let partition_key = path::partition_key(partition_key)?;
    let sort_key = sort_key.map(|key| path::sort_key(key)).transpose()?;
    if operations && !posts {
        return Err(Problem::method_not_allowed(
            "POST",
            "operations are posted; a GET of the item shows what they came to",
        ));
    }
    Ok(Target {
        key: ItemKey::new(table.id, &partition_key, sort_key.as_deref()),
        table,
        partition_key,
        operations,
    })
}

impl Target<'_> {
    async fn ask<S: Service>(&self, service: &S, quorum: Quorum, ask: Ask) -> Told {
        let partition = service.partition(&self.table.name, &self.partition_key);
        service
            .item(ItemRequest {
                table: self.table.id,
                partition,
                key: self.key.clone(),
                ask,
                r: quorum.r,
                w: quorum.w,
                strict: quorum.strict,
                timeout_ms: quorum.timeout_ms,
            })
            .await
    }

    /// The largest body that is taken.
    fn limit_bytes(&self) -> u64 {
        self.table.definition.max_value_bytes
    }
}

async fn get<S: Service>(
    service: &S,
    metrics: &Metrics,
    target: &Target<'_>,
    parts: &Parts,
    said: Said,
) -> Answer {
    let query = Query::parse(
        parts.uri.query(),
        &["r", "w", "quorum", "timeout_ms", "siblings", "explain"],
    )?;
    let raw = query.flag("siblings")?;
    let explains = query.flag("explain")?;
    if raw && explains {
        return Err(Problem::bad_request(
            "siblings=true and explain=true do not go together: an explanation lists the siblings, \
             and siblings=true gives their values",
        ));
    }
    let quorum = Quorum::of(&query, &target.table.definition)?;
    refuse_preconditions(said, &parts.headers, &[IF_MATCH, IF_UNMODIFIED_SINCE])?;
    let ask = if explains {
        Ask::Explain
    } else {
        Ask::Get { raw }
    };
    let told = target.ask(service, quorum, ask).await;
    match &told {
        Told::Value(value) => metrics.read_siblings(u64::from(value.siblings)),
        Told::Siblings { set, .. } => metrics.read_siblings(set.len() as u64),
        Told::Explained(explanation) => {
            let answer = explain::represent(service, &target.table, &target.key, explanation);
            return Ok(answer);
        }
        _ => {}
    }
    represent(target, said, &parts.headers, told, Done::Read)
}

async fn put<S: Service>(
    service: &S,
    target: &Target<'_>,
    call: &mut Call<'_>,
    pass: &mut Pass<'_>,
) -> Answer {
    let (parts, said) = (call.parts, call.said);
    let query = Query::parse(parts.uri.query(), &Quorum::PARAMETERS)?;
    let quorum = Quorum::of(&query, &target.table.definition)?;
    refuse_conditional_write(said, &parts.headers)?;
    if target.table.is_data_type() {
        return Err(Problem::new(
            Code::OperationsOnly,
            "the table's reconciler is a data type, which keeps a state of its own: POST an \
             operation to …/{key}/operations",
        )
        .with(ALLOW, HeaderValue::from_static(ALLOW_OPERATIONS)));
    }
    if target.table.is_orphaned {
        // It may have been a data type's, whose state is no client's to write.
        return Err(Problem::new(
            Code::NotReady,
            "the table's reconciler was deleted: upload it again, or give the table another",
        ));
    }
    let content_type: Arc<str> = headers::request_content_type(&parts.headers)?
        .unwrap_or(headers::OCTET_STREAM)
        .into();
    refuse_partial_content(said, &parts.headers)?;
    let client = token::of_request(said, &parts.headers, &target.key)?.unwrap_or_default();
    let representation = prefers_representation(said, &parts.headers);
    pass.admit_body(call.body.expected_bytes(target.limit_bytes()))?;
    let value = call.body.read(target.limit_bytes()).await?;
    let ask = Ask::Put {
        client,
        value,
        content_type,
        representation,
    };
    let told = target.ask(service, quorum, ask).await;
    if let Told::Absent { context } = told {
        // The module folds what is stored now into "deleted". The write itself
        // went well, and a 404 would tell its client otherwise.
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        put_token(
            &mut response,
            context.map(|context| token::header_of_read(&target.key, &context)),
        );
        return Ok(response);
    }
    // Preconditions were refused above: nothing may turn this into a 304.
    let applied = representation && !matches!(told, Told::Written { .. });
    let mut response = represent(target, said, &parts.headers, told, Done::Written)?;
    if applied {
        response.headers_mut().insert(
            headers::PREFERENCE_APPLIED,
            HeaderValue::from_static("return=representation"),
        );
    }
    Ok(response)
}

async fn delete<S: Service>(service: &S, target: &Target<'_>, parts: &Parts, said: Said) -> Answer {
    let query = Query::parse(parts.uri.query(), &Quorum::PARAMETERS)?;
    let quorum = Quorum::of(&query, &target.table.definition)?;
    refuse_conditional_write(said, &parts.headers)?;
    let client = token::of_request(said, &parts.headers, &target.key)?;
    let told = target.ask(service, quorum, Ask::Delete { client }).await;
    represent(target, said, &parts.headers, told, Done::Written)
}

async fn operate<S: Service>(
    service: &S,
    target: &Target<'_>,
    call: &mut Call<'_>,
    pass: &mut Pass<'_>,
) -> Answer {
    let (parts, said) = (call.parts, call.said);
    let query = Query::parse(parts.uri.query(), &Quorum::PARAMETERS)?;
    let quorum = Quorum::of(&query, &target.table.definition)?;
    refuse_conditional_write(said, &parts.headers)?;
    if !target.table.is_data_type() {
        let definition = &target.table.definition;
        if target.table.module.is_none() && definition.reconciler.is_some() {
            return Err(Problem::new(
                Code::NotReady,
                "this node does not know the table's reconciler yet",
            ));
        }
        return Err(Problem::method_not_allowed(
            "",
            "the table's reconciler is no data type, so it takes no operations; PUT the value",
        ));
    }
    refuse_partial_content(said, &parts.headers)?;
    pass.admit_body(call.body.expected_bytes(target.limit_bytes()))?;
    let operation = call.body.read(target.limit_bytes()).await?;
    let told = target
        .ask(service, quorum, Ask::Operate { operation })
        .await;
    represent(target, said, &parts.headers, told, Done::Written)
}

/// Whether the answer follows a write. Then it is sent even in a form that the
/// client does not accept: a 406 would say that nothing was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Read,
    Written,
}

/// What a client is told, as a response.
fn represent(
    target: &Target<'_>,
    said: Said,
    request: &HeaderMap,
    told: Told,
    done: Done,
) -> Answer {
    match told {
        Told::Value(value) => represent_value(target, said, request, value, done),
        Told::Siblings { set, .. } if set.is_empty() => Err(absent()),
        Told::Siblings { set, reason, raw } => {
            let form = accept::best(request, &[JSON, MULTIPART])
                .or((done == Done::Written).then_some(JSON));
            represent_siblings(target, request, &set, reason.as_deref(), raw, form)
        }
        Told::Absent { context } => {
            let problem = absent();
            Err(match context {
                Some(context) => {
                    let token = token::header_of_read(&target.key, &context);
                    problem.with(headers::CONTEXT, token)
                }
                None => problem,
            })
        }
        Told::Written { context } => {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let token = token::header_of_write(&target.key, &context);
            put_token(&mut response, Some(token));
            Ok(response)
        }
        Told::Refused(refusal) => Err(refusal.into()),
        // Only what asked for an explanation gets one, and it was shown above.
        Told::Explained(explanation) => represent(target, said, request, explanation.told, done),
    }
}

pub(super) fn absent() -> Problem {
    Problem::not_found("the table holds no item of this key")
}

fn put_token(response: &mut Response<Body>, token: Option<HeaderValue>) {
    if let Some(token) = token {
        response.headers_mut().insert(headers::CONTEXT, token);
    }
}

fn represent_value(
    target: &Target<'_>,
    said: Said,
    request: &HeaderMap,
    value: ValueResponse,
    done: Done,
) -> Answer {
    if done == Done::Read && accept::rules_out(request, &value.content_type) {
        return Err(Problem::new(
            Code::NotAcceptable,
            format_args!("the value is {}", value.content_type),
        ));
    }
    // A data type's view is its module's work even when nothing was folded.
    let viewed_by = target.table.module.as_ref().map(|module| module.digest);
    let made_by = match &value.folded_by {
        Some((_, digest)) => Some(*digest),
        None => viewed_by.filter(|_| target.table.is_data_type()),
    };
    let etag = entity_tag(&value.hash.0, made_by, "");
    let token = token::header_of_read(&target.key, &value.context);
    let unchanged = said.has(Said::PRECONDITION) && matches_etag(request, &etag);
    let mut response = Response::new(Body::default());
    put_token(&mut response, Some(token));
    let fields = response.headers_mut();
    fields.insert(ETAG, etag);
    fields.insert(headers::SIBLINGS, headers::count(value.siblings as usize));
    if let Some((name, digest)) = &value.folded_by {
        fields.insert(
            headers::RECONCILER,
            headers::text(&format!("{name}@{digest}")),
        );
    }
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        fields.insert(CONTENT_TYPE, headers::content_type(&value.content_type));
        *response.body_mut() = Full::new(value.value);
    }
    Ok(response)
}

fn represent_siblings(
    target: &Target<'_>,
    request: &HeaderMap,
    set: &SiblingSet,
    reason: Option<&str>,
    raw: bool,
    form: Option<&str>,
) -> Answer {
    let token = token::of_read(&target.key, set.context());
    let Some(form) = form else {
        return Err(Problem::new(
            Code::NotAcceptable,
            "the item has siblings, which are shown as application/json or multipart/mixed",
        )
        .with(headers::CONTEXT, token::header(&token))
        .with(headers::SIBLINGS, headers::count(set.len())));
    };
    let mut response = Response::new(Body::default());
    let fields = response.headers_mut();
    fields.insert(headers::CONTEXT, token::header(&token));
    fields.insert(headers::SIBLINGS, headers::count(set.len()));
    fields.insert(VARY, HeaderValue::from_static("Accept"));
    if let Some(reason) = reason {
        fields.insert(headers::RECONCILE_ERROR, headers::text(reason));
    }
    if raw {
        let etag = entity_tag(&set.hash().0, None, form);
        let unchanged = matches_etag(request, &etag);
        fields.insert(ETAG, etag);
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
    } else {
        *response.status_mut() = StatusCode::MULTIPLE_CHOICES;
    }
    let (content_type, body) = if form == MULTIPART {
        let (content_type, body) = siblings::to_multipart(set);
        (headers::content_type(&content_type), body)
    } else {
        let mut text = siblings::to_json(set, &token).to_string();
        text.push('\n');
        (HeaderValue::from_static(JSON), Bytes::from(text))
    };
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    *response.body_mut() = Full::new(body);
    Ok(response)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A strong entity tag: equal states, made into a representation by one module
/// and in one form, are equal bytes.
fn entity_tag(state: &[u8; 16], made_by: Option<Digest>, form: &str) -> HeaderValue {
    let mut hash = Sha256::new();
    hash.update(state);
    hash.update(made_by.map_or([0; 32], |digest| digest.0));
    hash.update(form.as_bytes());
    let mut text = [b'"'; 2 + 2 * 16];
    let digits = text[1..].chunks_exact_mut(2);
    for (digits, byte) in digits.zip(&hash.finalize()[..16]) {
        digits[0] = HEX[usize::from(byte >> 4)];
        digits[1] = HEX[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).expect("hex digits in quotes are visible ASCII")
}

/// Whether `If-None-Match` names this tag (RFC 9110, section 13.1.2). The
/// comparison is the weak one: a cache may have weakened our tag.
fn matches_etag(request: &HeaderMap, etag: &HeaderValue) -> bool {
    request
        .get_all(IF_NONE_MATCH)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|one| one == b"*" || one.strip_prefix(b"W/").unwrap_or(one) == etag.as_bytes())
}

/// Whether the client asks for the representation (RFC 7240).
fn prefers_representation(said: Said, request: &HeaderMap) -> bool {
    if !said.has(Said::PREFERENCE) {
        return false;
    }
    request
        .get_all(headers::PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|preference| preference.split(';').next()?.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("return"))
        .is_some_and(|(_, value)| {
            value
                .trim()
                .trim_matches('"')
                .eq_ignore_ascii_case("representation")
        })
}

/// Preconditions that cannot be kept are refused rather than ignored.
fn refuse_preconditions(
    said: Said,
    request: &HeaderMap,
    refused: &[HeaderName],
) -> Result<(), Problem> {
    if !said.has(Said::PRECONDITION) {
        return Ok(());
    }
    match refused.iter().find(|name| request.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(Problem::bad_request(format_args!(
            "{name} is not offered: every replica takes every write. Send the Kinfold-Context \
             that you read; concurrent writes then become siblings, and none is lost"
        ))),
    }
}

fn refuse_conditional_write(said: Said, request: &HeaderMap) -> Result<(), Problem> {
    refuse_preconditions(
        said,
        request,
        &[IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE],
    )
}

/// Refuses what would change the meaning of the bytes and would not be kept.
fn refuse_partial_content(said: Said, request: &HeaderMap) -> Result<(), Problem> {
    if !said.has(Said::CODING_OR_RANGE) {
        return Ok(());
    }
    if request.contains_key(CONTENT_RANGE) {
        return Err(Problem::bad_request(
            "Content-Range is not offered: a PUT replaces the whole value",
        ));
    }
    match headers::single(request, &CONTENT_ENCODING)? {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Problem::new(
                Code::UnsupportedMediaType,
                "Content-Encoding is not kept; send the bytes plain, or encoded under a \
                 Content-Type that says so",
            ))
        }
        _ => Ok(()),
    }
}
