//! One client of a workload: its connection, what it names and writes, and what it
//! remembers.
//!
//! Promises: every call ends within the patience and is one [`Reply`], whatever
//! became of it; a connection that broke is opened again at the next call; no
//! memory grows with the number of calls.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::time::timeout;

use super::connection::{Answer, Connection, Failed};
use super::record::Outcome;
use crate::client::{CONTEXT, Problem, segment};
use crate::clock::Dice;

/// How long a client waits that got no connection, so that a node which is down is
/// not asked all the time.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Room for paths, taken anew when it is used up.
const PATH_ROOM_BYTES: usize = 4096;
/// How many different values there are: copies that differ must differ in their
/// bytes, and nothing is to be made for each write.
const VALUES: usize = 65_536;
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What items are called.
#[derive(Debug)]
pub struct Names {
    /// The path up to the key.
    prefix: String,
    /// What follows the key: a sort key where the table has them, and the query.
    suffix: String,
    /// Keys below are those of the load phase, which later runs find again.
    loaded: u64,
    /// Keeps the inserts of this run apart from those of others.
    run: String,
}

impl Names {
    /// Names in a table. `query` is empty or begins with a question mark.
    pub fn new(table: &str, has_sort_keys: bool, query: &str, loaded: u64, run: &str) -> Self {
        let sort_key = if has_sort_keys { "/0" } else { "" };
        Names {
            prefix: format!("/v1/tables/{}/items/", segment(table.as_bytes())),
            suffix: format!("{sort_key}{query}"),
            loaded,
            run: run.to_owned(),
        }
    }

    fn write_path(&self, key: u64, path: &mut BytesMut) -> std::fmt::Result {
        if key < self.loaded {
            write!(path, "{}bench-{key}{}", self.prefix, self.suffix)
        } else {
            write!(
                path,
                "{}bench-{}-{key}{}",
                self.prefix, self.run, self.suffix
            )
        }
    }
}

/// Values to write, of one length: parts of one piece of noise.
#[derive(Clone, Debug)]
pub struct Values {
    noise: Bytes,
    length_bytes: usize,
}

impl Values {
    /// Values of this length.
    pub fn new(length_bytes: usize, seed: u64) -> Self {
        let mut dice = Dice::from_seed(seed);
        let noise = std::iter::repeat_with(|| dice.next_u64().to_le_bytes())
            .take((length_bytes + VALUES) / 8 + 1)
            .flatten()
            .collect::<Vec<u8>>();
        Values {
            noise: Bytes::from(noise),
            length_bytes,
        }
    }

    /// Any of them, which costs no copy.
    fn nth(&self, nth: u64) -> Bytes {
        let from = (nth % VALUES as u64) as usize;
        self.noise.slice(from..from + self.length_bytes)
    }
}

/// An error and what caused it: those of HTTP keep to themselves what happened.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("no connection to {authority}: {source}")]
    Connect {
        authority: String,
        source: std::io::Error,
    },
    #[error("the connection to {authority} broke: {}", with_causes(source))]
    Broken {
        authority: String,
        source: std::io::Error,
    },
    #[error("{authority} did not answer within {} s", after.as_secs_f64())]
    TimedOut { authority: String, after: Duration },
    #[error("the name of the table makes a path that HTTP cannot carry")]
    Path,
}

/// What became of a call.
#[derive(Debug)]
pub struct Reply {
    pub outcome: Outcome,
    pub context: Option<HeaderValue>,
    pub length_bytes: Option<u64>,
    pub retry_after_s: u64,
    failure: Option<Failure>,
}

#[derive(Debug)]
enum Failure {
    Refused(StatusCode, Vec<u8>),
    NoAnswer(CallError),
}

impl Reply {
    fn of(answer: Answer) -> Reply {
        let status = answer.status;
        let problem = || serde_json::from_slice::<Problem>(&answer.refusal).unwrap_or_default();
        let outcome = match status.as_u16() {
            200 | 204 => Outcome::Ok,
            300 => Outcome::Siblings,
            404 if problem().code != "no_such_table" => Outcome::Absent,
            409 if problem().code == "too_many_siblings" => Outcome::TooManySiblings,
            429 => Outcome::Throttled,
            503 => match problem().code.as_str() {
                "overloaded" => Outcome::Overloaded,
                "quorum_unmet" => Outcome::QuorumUnmet,
                _ => Outcome::Refused,
            },
            _ => Outcome::Refused,
        };
        Reply {
            outcome,
            context: answer.context,
            length_bytes: answer.length_bytes,
            retry_after_s: answer.retry_after_s.unwrap_or(0),
            failure: (!outcome.is_answer()).then_some(Failure::Refused(status, answer.refusal)),
        }
    }

    fn none(error: CallError) -> Reply {
        Reply {
            outcome: Outcome::NoAnswer,
            context: None,
            length_bytes: None,
            retry_after_s: 0,
            failure: Some(Failure::NoAnswer(error)),
        }
    }

    /// Whether there was not even a connection.
    pub fn is_unconnected(&self) -> bool {
        matches!(
            self.failure,
            Some(Failure::NoAnswer(CallError::Connect { .. }))
        )
    }

    /// What went wrong, for people; empty when nothing did.
    pub fn tell(&self) -> String {
        match &self.failure {
            None => String::new(),
            Some(Failure::NoAnswer(error)) => error.to_string(),
            Some(Failure::Refused(status, body)) => {
                let problem = serde_json::from_slice::<Problem>(body).unwrap_or_default();
                let reason = status.canonical_reason().unwrap_or("refused");
                if problem.code.is_empty() {
                    format!("{reason} (HTTP {})", status.as_u16())
                } else {
                    let detail = if problem.detail.is_empty() {
                        reason
                    } else {
                        &problem.detail
                    };
                    format!("{detail} ({})", problem.code)
                }
            }
        }
    }
}

/// A client: one connection, to one node.
pub struct Caller {
    authority: String,
    host: HeaderValue,
    names: Arc<Names>,
    values: Values,
    patience: Duration,
    connection: Option<Connection>,
    /// Where paths are written: requests take their part of it along.
    paths: BytesMut,
    written: u64,
}

impl Caller {
    /// A client that has connected to `host:port`. `first_value` has clients begin
    /// with different values.
    pub async fn open(
        authority: &str,
        names: Arc<Names>,
        values: Values,
        patience: Duration,
        first_value: u64,
    ) -> Result<Caller, CallError> {
        let failed = |source| CallError::Connect {
            authority: authority.to_owned(),
            source,
        };
        let connection = Connection::open(authority).await.map_err(failed)?;
        let host = HeaderValue::from_str(authority).map_err(std::io::Error::other);
        Ok(Caller {
            authority: authority.to_owned(),
            host: host.map_err(failed)?,
            names,
            values,
            patience,
            connection: Some(connection),
            paths: BytesMut::new(),
            written: first_value,
        })
    }

    /// Reads an item.
    pub async fn read(&mut self, key: u64) -> Reply {
        self.call(Method::GET, key, None, Bytes::new()).await
    }

    /// Asks whether an item is there, and how long.
    pub async fn look(&mut self, key: u64) -> Reply {
        self.call(Method::HEAD, key, None, Bytes::new()).await
    }

    /// Writes an item, over what `context` has seen.
    pub async fn write(&mut self, key: u64, context: Option<HeaderValue>) -> Reply {
        self.written = self.written.wrapping_add(1);
        let value = self.values.nth(self.written);
        self.call(Method::PUT, key, context, value).await
    }

    async fn call(
        &mut self,
        method: Method,
        key: u64,
        context: Option<HeaderValue>,
        body: Bytes,
    ) -> Reply {
        let Ok(request) = self.request(method, key, context, body) else {
            return Reply::none(CallError::Path);
        };
        let patience = self.patience;
        match timeout(patience, self.exchange(request)).await {
            Ok(Ok(answer)) => Reply::of(answer),
            Ok(Err(error)) => {
                self.connection = None;
                Reply::none(error)
            }
            Err(_) => {
                // Its answer may come yet, and must not be taken for another's.
                self.connection = None;
                Reply::none(CallError::TimedOut {
                    authority: self.authority.clone(),
                    after: patience,
                })
            }
        }
    }

    fn request(
        &mut self,
        method: Method,
        key: u64,
        context: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        if self.paths.capacity() < PATH_ROOM_BYTES / 8 {
            self.paths.reserve(PATH_ROOM_BYTES);
        }
        self.names
            .write_path(key, &mut self.paths)
            .expect("there is always room for more bytes");
        let is_write = method == Method::PUT;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_maybe_shared(self.paths.split().freeze())?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        if is_write {
            headers.insert(CONTENT_TYPE, OCTETS);
        }
        if let Some(context) = context {
            headers.insert(CONTEXT, context);
        }
        Ok(request)
    }

    async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer, CallError> {
        loop {
            let kept = self.connection.take();
            let (mut connection, is_fresh) = match kept {
                Some(kept) if !kept.is_over() => (kept, false),
                _ => (self.connect().await?, true),
            };
            match connection.exchange(request).await {
                Ok(answer) => {
                    self.connection = Some(connection);
                    return Ok(answer);
                }
                // A node closes what it refused without reading it, and what idled:
                // nothing was sent, so it is no failure of the node's.
                Err(Failed {
                    unsent: Some(unsent),
                    ..
                }) if !is_fresh => request = *unsent,
                Err(Failed { source, .. }) => {
                    return Err(CallError::Broken {
                        authority: self.authority.clone(),
                        source,
                    });
                }
            }
        }
    }

    async fn connect(&self) -> Result<Connection, CallError> {
        Connection::open(&self.authority)
            .await
            .map_err(|source| CallError::Connect {
                authority: self.authority.clone(),
                source,
            })
    }
}

/// The contexts of the items that a client wrote or read last: as many as there
/// are slots, a key for each. A key takes the slot of another.
#[derive(Debug, Default)]
pub struct Contexts {
    slots: Vec<Option<(u64, HeaderValue)>>,
}

impl Contexts {
    /// Room for so many.
    pub fn with_slots(slots: usize) -> Self {
        Contexts {
            slots: vec![None; slots],
        }
    }

    fn slot(&mut self, key: u64) -> Option<&mut Option<(u64, HeaderValue)>> {
        let slots = self.slots.len() as u64;
        let place = key.checked_rem(slots)?;
        self.slots.get_mut(place as usize)
    }

    /// What the last answer for this key said.
    pub fn get(&mut self, key: u64) -> Option<HeaderValue> {
        let kept = self.slot(key)?.as_ref();
        kept.filter(|(of, _)| *of == key)
            .map(|(_, context)| context.clone())
    }

    /// Keeps a context.
    pub fn remember(&mut self, key: u64, context: &HeaderValue) {
        if let Some(slot) = self.slot(key) {
            // A copy: the answer's own is a part of everything that was read.
            let copy = HeaderValue::from_bytes(context.as_bytes());
            *slot = copy.ok().map(|context| (key, context));
        }
    }

    /// Forgets a key's.
    pub fn forget(&mut self, key: u64) {
        if let Some(slot) = self.slot(key)
            && slot.as_ref().is_some_and(|(of, _)| *of == key)
        {
            *slot = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_those_of_their_keys() {
        let token = |text| HeaderValue::from_static(text);
        let mut contexts = Contexts::with_slots(10);
        contexts.remember(3, &token("three"));
        contexts.remember(4, &token("four"));
        assert_eq!(contexts.get(3), Some(token("three")));
        assert_eq!(contexts.get(13), None, "another key of the same slot");
        contexts.forget(13);
        assert_eq!(contexts.get(3), Some(token("three")));
        contexts.remember(13, &token("thirteen"));
        assert_eq!(contexts.get(3), None);
        contexts.forget(13);
        assert_eq!(contexts.get(13), None);
        let mut none = Contexts::default();
        none.remember(1, &token("one"));
        assert_eq!(none.get(1), None);
    }

    #[test]
    fn values_differ_and_have_their_length() {
        let values = Values::new(900, 1);
        assert_eq!(values.nth(0).len(), 900);
        assert_eq!(values.nth(VALUES as u64 - 1).len(), 900);
        assert_ne!(values.nth(0), values.nth(1));
        assert_eq!(Values::new(0, 1).nth(5).len(), 0);
    }

    #[test]
    fn names_keep_runs_apart_but_not_what_was_loaded() {
        let path = |names: &Names, key| {
            let mut path = BytesMut::new();
            names.write_path(key, &mut path).unwrap();
            String::from_utf8(path.to_vec()).unwrap()
        };
        let names = Names::new("a b", false, "", 10, "x1");
        assert_eq!(path(&names, 9), "/v1/tables/a%20b/items/bench-9");
        assert_eq!(path(&names, 10), "/v1/tables/a%20b/items/bench-x1-10");
        let names = Names::new("t", true, "?r=1", 10, "x1");
        assert_eq!(path(&names, 0), "/v1/tables/t/items/bench-0/0?r=1");
    }

    #[test]
    fn answers_are_told_apart_by_status_and_code() {
        for (status, body, outcome) in [
            (200, "", Outcome::Ok),
            (204, "", Outcome::Ok),
            (300, "", Outcome::Siblings),
            (404, "", Outcome::Absent),
            (404, r#"{"code":"not_found"}"#, Outcome::Absent),
            (404, r#"{"code":"no_such_table"}"#, Outcome::Refused),
            (
                409,
                r#"{"code":"too_many_siblings"}"#,
                Outcome::TooManySiblings,
            ),
            (429, "", Outcome::Throttled),
            (503, r#"{"code":"overloaded"}"#, Outcome::Overloaded),
            (503, r#"{"code":"quorum_unmet"}"#, Outcome::QuorumUnmet),
            (503, r#"{"code":"not_ready"}"#, Outcome::Refused),
            (507, "<html>", Outcome::Refused),
        ] {
            let reply = Reply::of(Answer {
                status: StatusCode::from_u16(status).unwrap(),
                context: None,
                length_bytes: None,
                retry_after_s: None,
                refusal: body.as_bytes().to_vec(),
            });
            assert_eq!(reply.outcome, outcome, "{status} {body}");
            assert_eq!(reply.tell().is_empty(), outcome.is_answer(), "{status}");
        }
    }
}
