//! The upgrade: which headers the two sides exchange, and who is let in.
//!
//! Pure: headers in, headers or a reasoned refusal out.
//!
//! ```text
//! GET /internal/v1/peer HTTP/1.1          HTTP/1.1 101 Switching Protocols
//! Connection: Upgrade                     Connection: Upgrade
//! Upgrade: kinfold-peer/1                 Upgrade: kinfold-peer/1
//! Kinfold-Node: a                         Kinfold-Node: b
//! Kinfold-Address: 127.0.0.1:8101         Kinfold-Cluster: 00f3…
//! Kinfold-Cluster: none                   Kinfold-Wire-Version: 1
//! Kinfold-Wire-Versions: 1
//! ```
//!
//! Names and addresses are percent-encoded, since a header holds no UTF-8. A
//! node that belongs to no cluster says `none` and is let in everywhere: it may
//! be about to join. Two nodes of different clusters never talk.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::protocol::effect::Address;
use crate::protocol::id::{ClusterId, NodeId};

use super::Identity;

/// Where peers connect.
pub const PEER_PATH: &str = "/internal/v1/peer";
/// What they upgrade to.
pub const PEER_PROTOCOL: &str = "kinfold-peer/1";

const NODE: &str = "kinfold-node";
const ADDRESS: &str = "kinfold-address";
const CLUSTER: &str = "kinfold-cluster";
const VERSION: &str = "kinfold-wire-version";
const VERSIONS: &str = "kinfold-wire-versions";
const NO_CLUSTER: &str = "none";

/// The longest name or address that a handshake may carry, in bytes once
/// decoded: host names end at 253.
const MAX_TEXT_BYTES: usize = 512;
/// How many wire versions a peer may offer; a node reads every version that it
/// ever wrote, so the list only grows by one per change of the wire.
const MAX_VERSIONS: usize = 64;

const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Why two nodes will not talk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(
        "this path is for peers: ask with `Connection: Upgrade` and `Upgrade: {PEER_PROTOCOL}`"
    )]
    NotAnUpgrade,
    #[error("the handshake lacks a readable header {0}")]
    BadHeader(&'static str),
    #[error(
        "no wire version in common: the peer speaks {theirs:?}, this node {ours:?}; \
         upgrade nodes one release at a time"
    )]
    NoCommonVersion { theirs: Vec<u32>, ours: Vec<u32> },
    #[error(
        "node {peer} belongs to cluster {theirs} and node {node} to cluster {ours}: \
         two clusters never mix; check the seeds of both"
    )]
    OtherCluster {
        peer: Arc<str>,
        theirs: ClusterId,
        node: Arc<str>,
        ours: ClusterId,
    },
    #[error(
        "node {0} reached itself, or another node that bears its name: leave a node out of its \
         own seeds, and give every node a name of its own"
    )]
    SameName(Arc<str>),
    #[error("this node has as many incoming peers as it takes; try again shortly")]
    TooManyPeers,
    #[error("this node is shutting down")]
    Closing,
}

impl HandshakeError {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NotAnUpgrade => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            Self::BadHeader(_) => (StatusCode::BAD_REQUEST, "bad_handshake"),
            Self::NoCommonVersion { .. } => (StatusCode::BAD_REQUEST, "no_common_wire_version"),
            Self::OtherCluster { .. } => (StatusCode::CONFLICT, "other_cluster"),
            Self::SameName(_) => (StatusCode::CONFLICT, "same_name"),
            Self::TooManyPeers => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Closing => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
        }
    }

    /// The refusal as the other side reads it, `application/problem+json`.
    pub fn to_response(&self) -> Response<Full<Bytes>> {
        let (status, code) = self.status_and_code();
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "code": code,
            "detail": self.to_string(),
        });
        let mut response = Response::new(Full::from(problem.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(PEER_PROTOCOL));
        }
        response
    }
}

/// What the dialing side says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub name: Arc<str>,
    pub address: Address,
    pub cluster: Option<ClusterId>,
    pub versions: Vec<u32>,
}

impl Offer {
    pub fn node(&self) -> NodeId {
        NodeId::of(&self.name)
    }
}

/// What the accepting side says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub name: Arc<str>,
    pub cluster: Option<ClusterId>,
    pub version: u32,
}

fn escape(text: &str) -> HeaderValue {
    HeaderValue::from_str(&utf8_percent_encode(text, ESCAPED).to_string())
        .expect("percent-encoded text is visible ASCII")
}

fn cluster_text(cluster: Option<ClusterId>) -> HeaderValue {
    match cluster {
        Some(cluster) => escape(&cluster.to_string()),
        None => HeaderValue::from_static(NO_CLUSTER),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h str, HandshakeError> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .ok_or(HandshakeError::BadHeader(name))
}

fn unescaped(headers: &HeaderMap, name: &'static str) -> Result<Arc<str>, HandshakeError> {
    let decoded = percent_decode_str(text(headers, name)?)
        .decode_utf8()
        .map_err(|_| HandshakeError::BadHeader(name))?;
    if (1..=MAX_TEXT_BYTES).contains(&decoded.len()) {
        Ok(Arc::from(&*decoded))
    } else {
        Err(HandshakeError::BadHeader(name))
    }
}

fn cluster(headers: &HeaderMap) -> Result<Option<ClusterId>, HandshakeError> {
    let text = text(headers, CLUSTER)?;
    if text == NO_CLUSTER {
        return Ok(None);
    }
    let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    id.map(|id| Some(ClusterId(id)))
        .ok_or(HandshakeError::BadHeader(CLUSTER))
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let has_token = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    has_token(CONNECTION, "upgrade") && has_token(UPGRADE, PEER_PROTOCOL)
}

/// The request that opens a connection to the node at `host`; none when the
/// address cannot stand in a header.
pub(super) fn request<B: Default>(
    identity: &Identity,
    versions: &[u32],
    host: &Address,
) -> Option<Request<B>> {
    let versions: Vec<String> = versions.iter().map(u32::to_string).collect();
    let mut request = Request::new(B::default());
    *request.uri_mut() = hyper::Uri::from_static(PEER_PATH);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(host).ok()?);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PEER_PROTOCOL));
    headers.insert(NODE, escape(&identity.name));
    headers.insert(ADDRESS, escape(&identity.address));
    headers.insert(CLUSTER, cluster_text(identity.cluster()));
    headers.insert(VERSIONS, escape(&versions.join(",")));
    Some(request)
}

/// What the dialing side said.
pub(super) fn read_offer(headers: &HeaderMap) -> Result<Offer, HandshakeError> {
    if !asks_for_upgrade(headers) {
        return Err(HandshakeError::NotAnUpgrade);
    }
    let versions: Vec<u32> = text(headers, VERSIONS)?
        .split(',')
        .map(|version| version.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|_| HandshakeError::BadHeader(VERSIONS))?;
    if versions.len() > MAX_VERSIONS {
        return Err(HandshakeError::BadHeader(VERSIONS));
    }
    Ok(Offer {
        name: unescaped(headers, NODE)?,
        address: unescaped(headers, ADDRESS)?,
        cluster: cluster(headers)?,
        versions,
    })
}

/// Whether a node that calls itself so may talk to this one.
pub(super) fn check_peer(
    identity: &Identity,
    name: &Arc<str>,
    theirs: Option<ClusterId>,
) -> Result<(), HandshakeError> {
    if NodeId::of(name) == identity.node {
        return Err(HandshakeError::SameName(name.clone()));
    }
    match (identity.cluster(), theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => Err(HandshakeError::OtherCluster {
            peer: name.clone(),
            theirs,
            node: identity.name.clone(),
            ours,
        }),
        _ => Ok(()),
    }
}

/// Decides about an offer: the wire version that both will speak, the greatest
/// in common.
pub(super) fn judge(
    identity: &Identity,
    versions: &[u32],
    offer: &Offer,
) -> Result<u32, HandshakeError> {
    check_peer(identity, &offer.name, offer.cluster)?;
    let common = offer.versions.iter().filter(|v| versions.contains(v)).max();
    common
        .copied()
        .ok_or_else(|| HandshakeError::NoCommonVersion {
            theirs: offer.versions.clone(),
            ours: versions.to_vec(),
        })
}

/// The answer that lets a peer in.
pub(super) fn welcome(identity: &Identity, version: u32) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PEER_PROTOCOL));
    headers.insert(NODE, escape(&identity.name));
    headers.insert(CLUSTER, cluster_text(identity.cluster()));
    headers.insert(VERSION, HeaderValue::from(version));
    response
}

/// What the accepting side said, once it said 101, if this node agrees.
pub(super) fn read_answer(
    identity: &Identity,
    versions: &[u32],
    headers: &HeaderMap,
) -> Result<Answer, HandshakeError> {
    if !asks_for_upgrade(headers) {
        return Err(HandshakeError::BadHeader("upgrade"));
    }
    let version = text(headers, VERSION)?
        .parse()
        .map_err(|_| HandshakeError::BadHeader(VERSION))?;
    let answer = Answer {
        name: unescaped(headers, NODE)?,
        cluster: cluster(headers)?,
        version,
    };
    check_peer(identity, &answer.name, answer.cluster)?;
    if versions.contains(&version) {
        Ok(answer)
    } else {
        Err(HandshakeError::NoCommonVersion {
            theirs: vec![version],
            ours: versions.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str, cluster: Option<u64>) -> Identity {
        let identity = Identity::new(name, "127.0.0.1:8101");
        if let Some(cluster) = cluster {
            identity.join_cluster(ClusterId(cluster));
        }
        identity
    }

    fn offer_of(identity: &Identity, versions: &[u32]) -> Result<Offer, HandshakeError> {
        let host = Address::from("127.0.0.1:8102");
        let request: Request<()> = request(identity, versions, &host).expect("a good host");
        read_offer(request.headers())
    }

    #[test]
    fn both_sides_read_what_the_other_wrote() {
        let (a, b) = (identity("knot % ü", Some(7)), identity("b", None));
        let offer = offer_of(&a, &[1, 2, 3]).expect("reads");
        assert_eq!(&*offer.name, "knot % ü");
        assert_eq!(offer.cluster, Some(ClusterId(7)));
        assert_eq!(judge(&b, &[2, 3, 4], &offer), Ok(3));
        let answer = read_answer(&a, &[1, 2, 3], welcome(&b, 3).headers()).expect("reads");
        assert_eq!((&*answer.name, answer.cluster), ("b", None));
        assert_eq!(answer.version, 3);
    }

    #[test]
    fn strangers_are_refused_with_reasons() {
        let (a, b) = (identity("a", Some(7)), identity("b", Some(8)));
        let error = judge(&b, &[1], &offer_of(&a, &[1]).expect("reads")).expect_err("differ");
        let text = error.to_string();
        assert!(text.contains("0000000000000007") && text.contains("0000000000000008"));
        assert_eq!(error.to_response().status(), StatusCode::CONFLICT);
        let error = read_answer(&a, &[1], welcome(&b, 1).headers()).expect_err("differ");
        assert!(matches!(error, HandshakeError::OtherCluster { .. }));

        let newer = identity("c", None);
        let error = judge(&a, &[1], &offer_of(&newer, &[2, 3]).expect("reads"));
        assert!(matches!(error, Err(HandshakeError::NoCommonVersion { .. })));
        let error = read_answer(&a, &[1], welcome(&newer, 2).headers());
        assert!(matches!(error, Err(HandshakeError::NoCommonVersion { .. })));
        let error = judge(
            &a,
            &[1],
            &offer_of(&identity("a", None), &[1]).expect("reads"),
        );
        assert_eq!(error, Err(HandshakeError::SameName("a".into())));
    }

    #[test]
    fn damaged_headers_are_named() {
        let host = Address::from("x");
        let whole: Request<()> = request(&identity("a", None), &[1], &host).expect("good");
        for name in [NODE, ADDRESS, CLUSTER, VERSIONS] {
            for value in [None, Some("%ff"), Some(""), Some("+00000000000000g")] {
                let mut headers = whole.headers().clone();
                headers.remove(name);
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
                let plain_text = matches!(name, NODE | ADDRESS);
                if !(plain_text && value.is_some_and(|value| value.starts_with('+'))) {
                    assert_eq!(read_offer(&headers), Err(HandshakeError::BadHeader(name)));
                }
            }
        }
        let mut headers = whole.headers().clone();
        headers.remove(UPGRADE);
        assert_eq!(read_offer(&headers), Err(HandshakeError::NotAnUpgrade));
        let response = HandshakeError::NotAnUpgrade.to_response();
        assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(response.headers()[UPGRADE], PEER_PROTOCOL);
    }
}
