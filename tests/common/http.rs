//! HTTP without `async`, and what tests expect of answers.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderName;
use kinfold::client::{Client, ClientError, Reply, Request, item_path};
use serde_json::Value;
use tokio::runtime::Runtime;

/// One runtime for all clients of a test binary.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

/// The path of an item without a sort key.
pub fn item(table: &str, key: impl AsRef<[u8]>) -> String {
    item_path(table, key.as_ref(), None)
}

/// A client of one or several nodes that blocks the thread that uses it.
#[derive(Clone)]
pub struct Http {
    client: Client,
}

impl Http {
    /// A client of the nodes on these ports.
    pub fn to(ports: &[u16]) -> Self {
        let at = |port: &u16| format!("127.0.0.1:{port}");
        Http::at(&ports.iter().map(at).collect::<Vec<_>>())
    }

    /// A client of the nodes at these addresses.
    pub fn at(addresses: &[String]) -> Self {
        Http {
            client: Client::new(&addresses.join(",")).expect("endpoints"),
        }
    }

    /// A client of the node at this address that gives up after so long.
    pub fn with_timeout(address: &str, timeout: Duration) -> Self {
        Http {
            client: Client::with_timeout(address, timeout).expect("an endpoint"),
        }
    }

    /// Sends a request; an error only when there is no answer.
    pub fn try_send(&self, request: Request) -> Result<Reply, ClientError> {
        runtime().block_on(self.client.send(request))
    }

    #[track_caller]
    pub fn send(&self, request: Request) -> Reply {
        let asked = format!("{request:?}");
        match self.try_send(request) {
            Ok(reply) => reply,
            Err(error) => panic!("no answer: {error}\n{}", shorten(&asked)),
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path))
    }

    #[track_caller]
    pub fn put(&self, path: &str, body: impl Into<bytes::Bytes>) -> Reply {
        self.send(Request::put(path, body))
    }

    /// Writes with the context of a read.
    #[track_caller]
    pub fn put_with(&self, path: &str, body: impl Into<bytes::Bytes>, token: &str) -> Reply {
        self.send(Request::put(path, body).context(token).expect("a token"))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: impl Into<bytes::Bytes>) -> Reply {
        self.send(Request::post(path, body))
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.send(Request::delete(path))
    }

    /// Applies an operation to an item and returns the new view.
    #[track_caller]
    pub fn operate(&self, item: &str, operation: Value) -> Value {
        let reply = self.post(&format!("{item}/operations"), operation.to_string());
        reply.is(200).document()
    }

    /// The raw siblings of an item.
    #[track_caller]
    pub fn siblings(&self, item: &str) -> Vec<Sibling> {
        self.get(&format!("{item}?siblings=true"))
            .is(200)
            .siblings()
    }
}

/// A request with one more header.
pub fn with(request: Request, name: &'static str, value: &str) -> Request {
    request
        .header(HeaderName::from_static(name), value)
        .expect("a header")
}

/// One sibling as `application/json` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sibling {
    /// None for a tombstone.
    pub value: Option<Vec<u8>>,
    pub content_type: String,
    pub written_at: String,
    pub dot: String,
}

fn shorten(text: &str) -> String {
    text.chars().take(1_000).collect()
}

/// What tests say about answers. A failure shows the whole answer.
pub trait Expect {
    /// The answer, if it has this status.
    fn is(self, status: u16) -> Self;
    /// The detail of a refusal with this status and code.
    fn refused(self, status: u16, code: &str) -> String;
    /// The context token.
    fn token(&self) -> String;
    /// The body as text.
    fn text(&self) -> String;
    /// The body as JSON.
    fn document(&self) -> Value;
    /// The siblings of a 300, or of `?siblings=true`, in the order of their values.
    fn siblings(&self) -> Vec<Sibling>;
}

impl Expect for Reply {
    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{:?}\n{}",
            self.headers,
            shorten(&String::from_utf8_lossy(&self.body))
        );
        self
    }

    #[track_caller]
    fn refused(self, status: u16, code: &str) -> String {
        let reply = self.is(status);
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json")
        );
        let problem = reply.problem();
        assert_eq!(problem.code, code, "{}", problem.detail);
        assert!(!problem.detail.is_empty(), "a refusal says why");
        problem.detail
    }

    #[track_caller]
    fn token(&self) -> String {
        match self.context() {
            Some(token) => token.to_owned(),
            None => panic!("no Kinfold-Context in {:?}", self.headers),
        }
    }

    #[track_caller]
    fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("text")
    }

    #[track_caller]
    fn document(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(document) => document,
            Err(error) => panic!("{error}: {}", shorten(&String::from_utf8_lossy(&self.body))),
        }
    }

    #[track_caller]
    fn siblings(&self) -> Vec<Sibling> {
        let document = self.document();
        assert_eq!(
            document["context"].as_str(),
            self.context(),
            "one context, told twice"
        );
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mut siblings: Vec<Sibling> = document["siblings"]
            .as_array()
            .expect("siblings")
            .iter()
            .map(|sibling| Sibling {
                value: match &sibling["value"] {
                    Value::Null => None,
                    value => Some(STANDARD.decode(text(value)).expect("base64")),
                },
                content_type: text(&sibling["content_type"]),
                written_at: text(&sibling["written_at"]),
                dot: text(&sibling["dot"]),
            })
            .collect();
        siblings.sort_by(|left, right| left.value.cmp(&right.value));
        siblings
    }
}

/// The values of siblings, tombstones left out.
pub fn values(siblings: &[Sibling]) -> Vec<&[u8]> {
    siblings
        .iter()
        .filter_map(|sibling| sibling.value.as_deref())
        .collect()
}
