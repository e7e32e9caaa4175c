//! The HTTP API: hyper requests in, hyper responses out.
//!
//! One file per resource; [`route`] says which path is which, [`problem`] which
//! error is which status. Promises: unknown parameters, paths and methods are
//! errors; a request is refused before its body is read wherever that can be
//! known; every answer carries `X-Request-Id`; every error is problem+json with a
//! stable code. Nothing here decides about data: that is the node's, behind
//! [`service::Service`].
//!
//! Where the contract is silent:
//!
//! - `POST …/operations` on a table without a data type is 405
//!   `method_not_allowed` with an empty `Allow`, the counterpart of
//!   `operations_only`.
//! - A PUT with `Prefer: return=representation` whose value meets siblings that
//!   nothing folds answers what a GET gives: 300 (as Riak's `returnbody`). One
//!   whose fold deletes the item answers 204: the write itself went well.
//! - `If-Match`, and `If-None-Match` on writes, are 400: a store that takes every
//!   write cannot promise them, and ignoring them would lose someone's data.
//! - A value is sent as its stored type unless `Accept` rules that out with
//!   `q=0`; siblings (300) are negotiated properly, 406 included.
//! - `Content-Encoding` on a PUT is 415: only bytes and their type are kept.
//! - A body that does not come in time is 408 `request_timeout`; a module that
//!   fails under an operation 500 `reconcile_failed`; a store that fails 500
//!   `storage_failed`.

pub mod accept;
pub mod alarm;
pub mod body;
pub mod cluster;
pub mod dry_run;
pub mod explain;
pub mod gate;
pub mod headers;
pub mod health;
pub mod items;
pub mod path;
pub mod problem;
pub mod query;
pub mod reconcilers;
pub mod route;
pub mod sent;
pub mod service;
pub mod siblings;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod token;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::{HeaderMap, Request, Response, StatusCode};
use tracing::Instrument;

use self::alarm::SharedAlarm;
use self::body::RequestBody;
use self::gate::Gate;
use self::headers::Said;
use self::path::Segments;
use self::problem::{Code, Problem, ProblemCode};
use self::route::Resource;
use self::sent::Sent;
use self::service::Service;
use crate::clock::{Clock, Stopwatch};
use crate::metrics::{Kind, Metrics};

/// Almost every response's body: bytes that are there already. See [`sent`].
pub type Body = Full<Bytes>;

/// Answers `GET /internal/v1/peer`: the transport's handshake and upgrade.
pub type PeerHandler = Box<
    dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync,
>;

/// The largest head of a request, in bytes: the longest path (three bytes for
/// each of two keys) and the longest token fit, with room for other headers.
pub const MAX_REQUEST_HEAD_BYTES: usize = 128 << 10;
/// How long a client may take over the head of a request, and stay idle between
/// two: idle connections cost little, so this is what load balancers expect.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// The longest request id that is taken over from a client, in bytes: it is
/// written to every line of the log.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// A u64 in decimal.
const MAX_NUMBER_DIGITS: usize = 20;
/// How often the log tells of requests that were refused for want of room: a line
/// for each would cost more than the refusal.
const TELL_REFUSED_MS: u64 = 1_000;

/// The code of a refusal for want of room.
const OVERLOADED: &str = "overloaded";

/// A request taken apart.
pub struct Call<'a> {
    /// Method, URI, headers.
    pub parts: &'a Parts,
    /// What the headers say.
    pub said: Said,
    /// What may still be read.
    pub body: RequestBody,
}

/// What every handler returns.
pub type Answer = Result<Response<Body>, Problem>;

/// The API of one node.
pub struct Api<S> {
    service: Arc<S>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    peer: PeerHandler,
    /// Tells the request ids of this node, in this run, from all others.
    id_prefix: String,
    requests: AtomicU64,
    gate: Arc<Gate>,
    /// What is said when there is no room, made once: saying it has to cost next
    /// to nothing, because it is said most when there is least time.
    no_room: Response<Body>,
    /// When the log was last told of refusals, by the monotonic clock.
    refused_told_ms: AtomicU64,
}

/// Notes the end of a request, however it ends.
struct Finish<'a> {
    metrics: &'a Metrics,
    kind: Kind,
    begun: Stopwatch,
    outcome: Option<(u16, &'static str)>,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        // A client that went away is counted under nginx's number for it.
        let (status, code) = self.outcome.unwrap_or((499, "client_gone"));
        let seconds = self.begun.elapsed_ns() as f64 / 1e9;
        self.metrics
            .request_finished(self.kind, status, code, seconds);
    }
}

/// hyper as this API wants a connection served: one for each. Use
/// `serve_connection(…).with_upgrades()`, which peers need.
pub fn connection() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(SharedAlarm::default())
        .header_read_timeout(HEAD_TIMEOUT)
        // No `pipeline_flush`: it keeps an answer back while anything at all is
        // unread, so that half a next request holds up the answer to the last one,
        // and what hyper says of a malformed request never leaves.
        .max_buf_size(MAX_REQUEST_HEAD_BYTES);
    builder
}

impl<S: Service> Api<S> {
    /// The API of a node; `peer` answers `GET /internal/v1/peer`.
    pub fn new(
        service: Arc<S>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        peer: PeerHandler,
    ) -> Self {
        let id_prefix = format!("{}-{:x}-", service.name(), clock.now().wall_us);
        Api {
            service,
            metrics,
            clock,
            peer,
            id_prefix,
            requests: AtomicU64::new(0),
            gate: Arc::new(Gate::new(
                std::thread::available_parallelism().map_or(1, usize::from),
            )),
            no_room: Problem::new(
                Code::Overloaded,
                "this node has as much in hand as it can carry out; nothing was done; try again \
                 after a moment, or at another node",
            )
            .into_response(),
            refused_told_ms: AtomicU64::new(0),
        }
    }

    /// Who is let in: connections ask it before they read.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Answers one request. Never fails: errors are responses.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Sent> {
        if self.gate.is_full() && route::is_item(request.uri().path()) {
            let kind = Resource::Items.kind(request.method());
            return self.refuse(request, kind);
        }
        let said = Said::by(request.headers());
        let id = self.request_id(said, request.headers());
        let (parts, body) = request.into_parts();
        let method = &parts.method;
        let path = || path::shorten(parts.uri.path());
        let id_text = || id.to_str().unwrap_or("?");
        let resource = route::find(parts.uri.path());
        let kind = match &resource {
            Some((resource, _)) => resource.kind(method),
            None => Kind::Unknown,
        };
        // As loud as what is logged inside it: a filter that lets a warning through
        // must not drop the id of the request that it is about. Requests for items
        // log nothing on their way unless every one of them is to be followed, and
        // they are too many to pay for words that nobody reads.
        let is_item = matches!(resource, Some((Resource::Items, _)));
        let span = if is_item && !tracing::enabled!(tracing::Level::DEBUG) {
            tracing::Span::none()
        } else {
            tracing::error_span!("request", id = %id_text(), %method, path = %path())
        };
        let is_probe = matches!(resource, Some((Resource::Ready, _)));
        self.metrics.request_started();
        let mut finish = Finish {
            metrics: &self.metrics,
            kind,
            begun: Stopwatch::start(),
            outcome: None,
        };
        let mut response = match resource {
            Some((Resource::Items, captured)) if span.is_none() => {
                self.answer_item(&captured, &parts, said, body).await
            }
            // In a box, because what all else may come to is a large future, which
            // would be moved about with each request for an item.
            _ => {
                let answer = self.answer(resource, &parts, said, body);
                Box::pin(answer.instrument(span.clone())).await
            }
        };
        let status = response.status();
        let code = response
            .extensions()
            .get::<ProblemCode>()
            .map_or("", |code| code.0);
        finish.outcome = Some((status.as_u16(), code));
        span.in_scope(|| {
            // A probe that finds a starting node not ready is no event, and a
            // refusal for want of room is told with all others of its second.
            let is_event = status.is_server_error() && !is_probe;
            if is_event && code != OVERLOADED {
                if span.is_none() {
                    let status = status.as_u16();
                    tracing::warn!(id = %id_text(), %method, path = %path(), status, code, "answered");
                } else {
                    tracing::warn!(status = status.as_u16(), code, "answered");
                }
            } else {
                tracing::debug!(status = status.as_u16(), code, "answered");
            }
        });
        if code == OVERLOADED {
            self.tell_refused();
        }
        response.headers_mut().insert(headers::REQUEST_ID, id);
        response
    }

    /// Answers a request on a connection for which there is no room: peers and
    /// those who ask whether the node lives are served, all others are told to
    /// come again, and the connection ends.
    pub async fn turn_away(&self, request: Request<Incoming>) -> Response<Sent> {
        let resource = route::find(request.uri().path()).map(|(resource, _)| resource);
        let mut response = match resource {
            Some(Resource::Peer) => return self.handle(request).await,
            Some(Resource::Health | Resource::Ready | Resource::Metrics) => {
                self.handle(request).await
            }
            _ => {
                let kind =
                    resource.map_or(Kind::Unknown, |resource| resource.kind(request.method()));
                self.refuse(request, kind)
            }
        };
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// Says that there is no room, without looking any closer.
    fn refuse(&self, request: Request<Incoming>, kind: Kind) -> Response<Sent> {
        let said = Said::by(request.headers());
        let id = self.request_id(said, request.headers());
        RequestBody::new(said, request.into_body()).discard();
        self.gate.count_refused();
        self.metrics.request_refused(kind, OVERLOADED);
        self.tell_refused();
        let mut response = self.no_room.clone();
        response.headers_mut().insert(headers::REQUEST_ID, id);
        response.map(Sent::from)
    }

    /// Tells the log how many requests found no room, once a second at most.
    fn tell_refused(&self) {
        let now_ms = self.clock.now().monotonic_ms;
        let told_ms = self.refused_told_ms.load(Ordering::Relaxed);
        let due = told_ms == 0 || now_ms.saturating_sub(told_ms) >= TELL_REFUSED_MS;
        // Whoever comes second finds another time there, and stays silent.
        if due
            && self
                .refused_told_ms
                .compare_exchange(told_ms, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let refused = self.gate.take_refused();
            tracing::warn!(refused, "overloaded: requests were refused");
        }
    }

    async fn answer(
        &self,
        resource: Option<(Resource, Segments<'_>)>,
        parts: &Parts,
        said: Said,
        body: Incoming,
    ) -> Response<Sent> {
        let Some((resource, captured)) = resource else {
            RequestBody::new(said, body).discard();
            return Problem::not_found(
                "no resource has this path; GET /openapi.json lists those there are",
            )
            .into_response()
            .map(Sent::from);
        };
        match resource {
            Resource::Peer => {
                let request = Request::from_parts(parts.clone(), body);
                return (self.peer)(request).await.map(Sent::from);
            }
            Resource::Items => return self.answer_item(&captured, parts, said, body).await,
            _ => {}
        }
        let body = RequestBody::new(said, body);
        let mut call = Call { parts, said, body };
        let answer = match (resource, &*captured) {
            (Resource::DryRun, [table, ..]) => {
                dry_run::handle(&self.service, table, &mut call).await
            }
            _ => {
                let answer = self.dispatch(resource, &captured, &mut call).await;
                answer.map(|response| response.map(Sent::from))
            }
        };
        call.body.discard();
        answer.unwrap_or_else(|problem| problem.into_response().map(Sent::from))
    }

    /// Answers a request for an item, of which `captured` is what [`route::find`] says.
    async fn answer_item(
        &self,
        captured: &[&str],
        parts: &Parts,
        said: Said,
        body: Incoming,
    ) -> Response<Sent> {
        let [table, _, keys @ ..] = captured else {
            unreachable!("an item does not capture {captured:?}: see route::find")
        };
        let body = RequestBody::new(said, body);
        let mut call = Call { parts, said, body };
        let answer = match self.gate.enter() {
            Ok(mut pass) => {
                let answer = items::handle(
                    &*self.service,
                    &self.metrics,
                    table,
                    keys,
                    &mut call,
                    &mut pass,
                );
                match answer.await {
                    Ok(answer) if is_counted(&answer) => Ok(self.hold(answer).await),
                    answer => answer,
                }
            }
            Err(problem) => Err(problem),
        };
        call.body.discard();
        answer
            .unwrap_or_else(Problem::into_response)
            .map(Sent::from)
    }

    async fn dispatch(&self, resource: Resource, captured: &[&str], call: &mut Call<'_>) -> Answer {
        match (resource, captured) {
            (Resource::Tables, _) => tables::list(&*self.service, call),
            (Resource::Table, [name, ..]) => tables::handle(&*self.service, name, call).await,
            (Resource::Reconcilers, _) => reconcilers::list(&*self.service, call),
            (Resource::Reconciler, [name, ..]) => {
                reconcilers::handle(&*self.service, name, call).await
            }
            (Resource::Rollback, [name, ..]) => {
                reconcilers::roll_back(&*self.service, name, call).await
            }
            (Resource::Cluster, _) => cluster::show(&*self.service, call),
            (Resource::Leave, _) => cluster::leave(&*self.service, call).await,
            (Resource::Member, [member, ..]) => cluster::remove(&*self.service, member, call).await,
            (Resource::Ring, [table, key, ..]) => cluster::ring(&*self.service, table, key, call),
            (Resource::Health, _) => health::alive(call),
            (Resource::Ready, _) => health::ready(&*self.service, call),
            (Resource::Metrics, _) => health::metrics(&*self.service, call),
            (Resource::OpenApi, _) => health::openapi(call),
            (resource, captured) => {
                unreachable!("{resource:?} does not capture {captured:?}: see route::find")
            }
        }
    }

    /// Counts an answer's bytes until they have left.
    async fn hold(&self, answer: Response<Body>) -> Response<Body> {
        let (parts, body) = answer.into_parts();
        let bytes = match body.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(never) => match never {},
        };
        Response::from_parts(parts, Full::new(self.gate.hold(bytes)))
    }

    /// The client's own id if it is a sane one, else a fresh one.
    fn request_id(&self, said: Said, headers: &HeaderMap) -> HeaderValue {
        let given = if said.has(Said::REQUEST_ID) {
            headers.get(headers::REQUEST_ID)
        } else {
            None
        };
        let sane = given.filter(|id| {
            let mut bytes = id.as_bytes().iter();
            (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
        });
        if let Some(id) = sane {
            return id.clone();
        }
        let mut digits = [0; MAX_NUMBER_DIGITS];
        let number = decimal(self.requests.fetch_add(1, Ordering::Relaxed), &mut digits);
        let mut id = Vec::with_capacity(self.id_prefix.len() + number.len());
        id.extend_from_slice(self.id_prefix.as_bytes());
        id.extend_from_slice(number);
        // Names are letters, digits, dots, hyphens and underscores.
        HeaderValue::from_maybe_shared(Bytes::from(id)).unwrap_or(HeaderValue::from_static("?"))
    }
}

/// Whether an answer's bytes are counted until they have left.
fn is_counted(answer: &Response<Body>) -> bool {
    answer.body().size_hint().exact().is_none_or(Gate::counts)
}

/// A number in decimal. Each request has one, which is why this does without the
/// machinery of formatting.
fn decimal(mut number: u64, digits: &mut [u8; MAX_NUMBER_DIGITS]) -> &[u8] {
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[first..];
        }
    }
}

/// Refuses every method but these. HEAD goes with GET: hyper leaves out the body.
fn require_method(call: &Call<'_>, resource: Resource) -> Result<(), Problem> {
    let (methods, allow) = resource.methods();
    if methods.contains(&call.parts.method) {
        return Ok(());
    }
    Err(Problem::method_not_allowed(
        allow,
        format_args!("this path takes {allow}"),
    ))
}

/// A JSON document as a response.
fn json(status: StatusCode, document: &serde_json::Value) -> Response<Body> {
    let mut text = document.to_string();
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The JSON object in a body of at most `limit_bytes`. Duplicate keys are not
/// noticed: the last one counts, as everywhere.
async fn json_object(
    call: &mut Call<'_>,
    limit_bytes: u64,
) -> Result<serde_json::Map<String, serde_json::Value>, Problem> {
    headers::require_content_type(&call.parts.headers, &["application/json"])?;
    let bytes = call.body.read(limit_bytes).await?;
    match serde_json::from_slice(&bytes) {
        Ok(serde_json::Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::bad_request("the body is JSON, but not an object")),
        Err(error) => Err(Problem::bad_request(format_args!(
            "the body is not JSON: {error}"
        ))),
    }
}
