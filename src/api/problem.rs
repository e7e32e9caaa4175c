//! Errors as clients see them: one table from code to status and title.
//!
//! Every error is `application/problem+json` (RFC 9457) with `type`, `title`,
//! `status`, `detail` and a stable `code`; those that pass with time carry
//! `Retry-After`. Promises: a code, once published, keeps its meaning and its
//! status; the detail says what the caller can do.

use std::fmt::Display;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Body;
use crate::node::AdminError;
use crate::protocol::catalog::ChangeRefused as C;
use crate::protocol::effect::StoreError;
use crate::protocol::membership::{LeaveRefused, RemoveRefused};
use crate::protocol::message::Refusal;

/// What `Retry-After` says, in seconds: the smallest whole number, since what
/// passes here (a full queue, a node that is coming up) passes within moments.
const RETRY_AFTER_SECONDS: &str = "1";

/// The stable codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    BadRequest,
    InvalidContext,
    InvalidQuorum,
    BadOperation,
    NotFound,
    NoSuchTable,
    NoSuchReconciler,
    NoSuchMember,
    MethodNotAllowed,
    OperationsOnly,
    NotAcceptable,
    RequestTimeout,
    TooManySiblings,
    MemberIsUp,
    LastMember,
    ReconcilerInUse,
    BuiltIn,
    NoEarlierVersion,
    TooLarge,
    UnsupportedMediaType,
    InvalidTable,
    InvalidModule,
    LawViolated,
    Throttled,
    ReconcileFailed,
    StorageFailed,
    QuorumUnmet,
    Overloaded,
    NotReady,
    Quarantined,
    StorageFull,
}

impl Code {
    /// The table: status, code and title.
    pub fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Code::BadRequest => (S::BAD_REQUEST, "bad_request", "The request is wrong"),
            Code::InvalidContext => (
                S::BAD_REQUEST,
                "invalid_context",
                "The context token is not one for this item",
            ),
            Code::InvalidQuorum => (
                S::BAD_REQUEST,
                "invalid_quorum",
                "The quorum cannot be had in this table",
            ),
            Code::BadOperation => (
                S::BAD_REQUEST,
                "bad_operation",
                "The reconciler refuses the operation",
            ),
            Code::NotFound => (S::NOT_FOUND, "not_found", "Nothing is here"),
            Code::NoSuchTable => (S::NOT_FOUND, "no_such_table", "No such table"),
            Code::NoSuchReconciler => (S::NOT_FOUND, "no_such_reconciler", "No such reconciler"),
            Code::NoSuchMember => (S::NOT_FOUND, "no_such_member", "No such member"),
            Code::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "The method does not go with this path",
            ),
            Code::OperationsOnly => (
                S::METHOD_NOT_ALLOWED,
                "operations_only",
                "The table takes operations, not values",
            ),
            Code::NotAcceptable => (
                S::NOT_ACCEPTABLE,
                "not_acceptable",
                "No acceptable representation",
            ),
            Code::RequestTimeout => (
                S::REQUEST_TIMEOUT,
                "request_timeout",
                "The request's body did not come in time",
            ),
            Code::TooManySiblings => (S::CONFLICT, "too_many_siblings", "Too many siblings"),
            Code::MemberIsUp => (S::CONFLICT, "member_is_up", "The member is up"),
            Code::LastMember => (
                S::CONFLICT,
                "last_member",
                "Nobody could take over the node's data",
            ),
            Code::ReconcilerInUse => (
                S::CONFLICT,
                "reconciler_in_use",
                "Tables use the reconciler",
            ),
            Code::BuiltIn => (S::CONFLICT, "built_in", "The reconciler is built in"),
            Code::NoEarlierVersion => (
                S::CONFLICT,
                "no_earlier_version",
                "There is nothing to go back to",
            ),
            Code::TooLarge => (S::PAYLOAD_TOO_LARGE, "too_large", "Too large"),
            Code::UnsupportedMediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Unsupported media type",
            ),
            Code::InvalidTable => (
                S::UNPROCESSABLE_ENTITY,
                "invalid_table",
                "The table's definition is refused",
            ),
            Code::InvalidModule => (
                S::UNPROCESSABLE_ENTITY,
                "invalid_module",
                "The module is refused",
            ),
            Code::LawViolated => (
                S::UNPROCESSABLE_ENTITY,
                "law_violated",
                "The module breaks a law of folding",
            ),
            Code::Throttled => (S::TOO_MANY_REQUESTS, "throttled", "The rate is spent"),
            Code::ReconcileFailed => (
                S::INTERNAL_SERVER_ERROR,
                "reconcile_failed",
                "The reconciler failed",
            ),
            Code::StorageFailed => (
                S::INTERNAL_SERVER_ERROR,
                "storage_failed",
                "The store failed",
            ),
            Code::QuorumUnmet => (
                S::SERVICE_UNAVAILABLE,
                "quorum_unmet",
                "Too few replicas answered",
            ),
            Code::Overloaded => (
                S::SERVICE_UNAVAILABLE,
                "overloaded",
                "The node is overloaded",
            ),
            Code::NotReady => (S::SERVICE_UNAVAILABLE, "not_ready", "The node is not ready"),
            Code::Quarantined => (
                S::SERVICE_UNAVAILABLE,
                "quarantined",
                "The reconciler is quarantined",
            ),
            Code::StorageFull => (S::INSUFFICIENT_STORAGE, "storage_full", "The disk is full"),
        }
    }
}

/// The code of a response that is a problem, for the access log and metrics.
#[derive(Clone, Copy, Debug)]
pub struct ProblemCode(pub &'static str);

/// An error on its way to the client.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem; `detail` says where it lies and what the caller can do.
    pub fn new(code: Code, detail: impl Display) -> Self {
        Problem {
            code,
            detail: detail.to_string(),
            headers: Vec::new(),
            members: Map::new(),
        }
    }

    /// 400 `bad_request`.
    pub fn bad_request(detail: impl Display) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// 404 `not_found`.
    pub fn not_found(detail: impl Display) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// 404 `no_such_table`.
    pub fn no_such_table() -> Self {
        Self::from(Refusal::NoSuchTable)
    }

    /// 404 `no_such_reconciler`.
    pub fn no_such_reconciler() -> Self {
        Self::from(AdminError::NoSuchReconciler)
    }

    /// 405 with the methods that do go with the path.
    pub fn method_not_allowed(allow: &'static str, detail: impl Display) -> Self {
        Self::new(Code::MethodNotAllowed, detail).with(ALLOW, HeaderValue::from_static(allow))
    }

    /// 413; the connection is closed after it, because the rest of the body is
    /// not going to be read.
    pub fn body_too_large(detail: impl Display) -> Self {
        Self::new(Code::TooLarge, detail).with(CONNECTION, HeaderValue::from_static("close"))
    }

    /// Adds a header.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds a member to the problem's JSON.
    pub fn with_member(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// The problem as JSON.
    pub fn document(&self) -> Value {
        let (status, code, title) = self.code.row();
        let mut body = Map::new();
        body.insert("type".into(), json!(format!("urn:kinfold:problem:{code}")));
        body.insert("title".into(), json!(title));
        body.insert("status".into(), json!(status.as_u16()));
        body.insert("detail".into(), json!(self.detail));
        body.insert("code".into(), json!(code));
        body.extend(self.members.clone());
        Value::Object(body)
    }

    /// The response.
    pub fn into_response(self) -> Response<Body> {
        let (status, code, _) = self.code.row();
        let mut text = self.document().to_string();
        text.push('\n');
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.extensions_mut().insert(ProblemCode(code));
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::NoSuchTable => Code::NoSuchTable,
            Refusal::QuorumUnmet { .. } => Code::QuorumUnmet,
            Refusal::Overloaded | Refusal::Storage(StoreError::Overloaded) => Code::Overloaded,
            Refusal::NotReady(_) => Code::NotReady,
            Refusal::TooManySiblings { .. } => Code::TooManySiblings,
            Refusal::BadOperation(_) => Code::BadOperation,
            Refusal::ReconcileFailed(_) => Code::ReconcileFailed,
            Refusal::Quarantined(_) => Code::Quarantined,
            Refusal::Storage(StoreError::Full) => Code::StorageFull,
            Refusal::Storage(StoreError::Corrupt(_) | StoreError::Io(_)) => Code::StorageFailed,
        };
        let problem = Problem::new(code, &refusal);
        match &refusal {
            Refusal::ReconcileFailed(reason) | Refusal::Quarantined(reason) => problem.with(
                super::headers::RECONCILE_ERROR,
                super::headers::text(reason),
            ),
            _ => problem,
        }
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        let code = match &error {
            AdminError::InvalidTable(_) => Code::InvalidTable,
            AdminError::InvalidModule(_) => Code::InvalidModule,
            AdminError::LawViolated { .. } => Code::LawViolated,
            AdminError::NoSuchTable => Code::NoSuchTable,
            AdminError::Busy(_) => Code::Overloaded,
            AdminError::NoSuchReconciler | AdminError::Change(C::NoSuchReconciler) => {
                Code::NoSuchReconciler
            }
            AdminError::Change(C::NoSuchTable) => Code::NoSuchTable,
            AdminError::Change(C::InvalidTable(_)) => Code::InvalidTable,
            AdminError::Change(C::InvalidModule(_)) => Code::InvalidModule,
            AdminError::Change(C::InUse { .. }) => Code::ReconcilerInUse,
            AdminError::Change(C::BuiltIn { .. }) => Code::BuiltIn,
            AdminError::Change(C::NothingBefore { .. }) => Code::NoEarlierVersion,
            AdminError::Unmet { .. } => Code::QuorumUnmet,
            AdminError::Leave(LeaveRefused::LastMember) => Code::LastMember,
            AdminError::Remove(RemoveRefused::Unknown) => Code::NoSuchMember,
            AdminError::Remove(RemoveRefused::IsUp { .. }) => Code::MemberIsUp,
            AdminError::Leave(LeaveRefused::NoCluster)
            | AdminError::Remove(RemoveRefused::NoCluster) => Code::NotReady,
            AdminError::Refused(refusal) => return Problem::from(refusal.clone()),
        };
        let problem = Problem::new(code, &error);
        match error {
            AdminError::LawViolated { counterexample, .. } => {
                problem.with_member("counterexample", counterexample)
            }
            AdminError::Change(C::InUse { tables, .. }) => {
                problem.with_member("tables", json!(tables))
            }
            _ => problem,
        }
    }
}
