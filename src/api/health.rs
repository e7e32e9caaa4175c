//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`: for those who operate a
//! node and those who program against it.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::problem::{Code, Problem};
use super::query::Query;
use super::route::Resource;
use super::service::Service;
use super::{Answer, Body, Call, require_method};

/// The API described in OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

fn check(call: &Call<'_>, resource: Resource) -> Result<(), Problem> {
    require_method(call, resource)?;
    Query::parse(call.parts.uri.query(), &[]).map(drop)
}

fn fixed(content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// 200 while the process lives, whatever its state.
pub fn alive(call: &Call<'_>) -> Answer {
    check(call, Resource::Health)?;
    Ok(fixed("text/plain; charset=utf-8", "ok\n"))
}

/// 200 when the node serves, 503 `not_ready` with the reason while it does not.
pub fn ready<S: Service>(service: &S, call: &Call<'_>) -> Answer {
    check(call, Resource::Ready)?;
    service
        .readiness()
        .map_err(|reason| Problem::new(Code::NotReady, reason))?;
    Ok(fixed("text/plain; charset=utf-8", "ready\n"))
}

/// The node's figures as OpenMetrics text, which Prometheus reads.
pub fn metrics<S: Service>(service: &S, call: &Call<'_>) -> Answer {
    check(call, Resource::Metrics)?;
    Ok(fixed(
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        service.metrics_text(),
    ))
}

/// The description of this API.
pub fn openapi(call: &Call<'_>) -> Answer {
    check(call, Resource::OpenApi)?;
    Ok(fixed("application/json", OPENAPI))
}
