//! Sibling sets as clients see them: JSON, or the raw parts as multipart/mixed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use super::headers;
use crate::protocol::siblings::{SiblingSet, Version};

/// 9999-12-31T23:59:59.999999Z: the last time that RFC 3339 can write. A clock
/// that runs beyond it is shown as standing there.
const LAST_WRITABLE_US: u64 = 253_402_300_799_999_999;

/// Microseconds since the epoch as RFC 3339, in UTC.
pub fn rfc3339(time_us: u64) -> String {
    let since = Duration::from_micros(time_us.min(LAST_WRITABLE_US));
    humantime::format_rfc3339_micros(time(since)).to_string()
}

fn time(since_epoch: Duration) -> SystemTime {
    UNIX_EPOCH + since_epoch
}

/// `{"context","siblings":[{"value","content_type","written_at","dot"}]}`. The
/// value is base64, or null for a tombstone.
pub fn to_json(set: &SiblingSet, token: &str) -> Value {
    let siblings: Vec<Value> = set
        .siblings()
        .map(|(dot, version)| {
            json!({
                "value": version.value.as_ref().map(|value| STANDARD.encode(value)),
                "content_type": version.content_type.as_ref(),
                "written_at": rfc3339(version.written_at_us),
                "dot": dot.to_string(),
            })
        })
        .collect();
    json!({ "context": token, "siblings": siblings })
}

/// A boundary that no value holds. It begins with the state's hash, so a client
/// could not have foreseen it, and is lengthened should it occur all the same.
fn boundary(set: &SiblingSet) -> String {
    let mut boundary = format!("kinfold-{}", set.hash());
    let occurs = |boundary: &str| {
        set.siblings().any(|(_, version)| {
            let value = version.value.as_deref().unwrap_or_default();
            value
                .windows(boundary.len())
                .any(|window| window == boundary.as_bytes())
        })
    };
    // Each round makes the boundary longer, and no value is endless.
    while occurs(&boundary) {
        boundary.push('x');
    }
    boundary
}

/// The raw parts (RFC 2046): each with its `Content-Type`, `Kinfold-Dot` and
/// `Kinfold-Written-At`; a tombstone is an empty part with
/// `Kinfold-Tombstone: true`. Returns the content type and the body.
pub fn to_multipart(set: &SiblingSet) -> (String, Bytes) {
    let boundary = boundary(set);
    let mut body = BytesMut::new();
    for (dot, version) in set.siblings() {
        body.put_slice(format!("--{boundary}\r\n").as_bytes());
        put_part_headers(&mut body, version);
        let trailer = format!(
            "Kinfold-Dot: {dot}\r\nKinfold-Written-At: {}\r\n\r\n",
            rfc3339(version.written_at_us)
        );
        body.put_slice(trailer.as_bytes());
        body.put_slice(version.value.as_deref().unwrap_or_default());
        body.put_slice(b"\r\n");
    }
    body.put_slice(format!("--{boundary}--\r\n").as_bytes());
    (
        format!("multipart/mixed; boundary={boundary}"),
        body.freeze(),
    )
}

fn put_part_headers(body: &mut BytesMut, version: &Version) {
    if version.is_tombstone() {
        body.put_slice(b"Kinfold-Tombstone: true\r\n");
        return;
    }
    body.put_slice(b"Content-Type: ");
    // Checked as a header would be, so that no stored type can forge another.
    body.put_slice(headers::content_type(&version.content_type).as_bytes());
    body.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::context::Context;
    use crate::protocol::dot::{Actor, Dot, Epoch};
    use crate::protocol::id::NodeId;

    #[test]
    fn times_are_rfc3339_with_microseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            rfc3339(1_700_000_000_000_001),
            "2023-11-14T22:13:20.000001Z"
        );
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_value_with_the_boundary_in_it_makes_another() {
        let actor = Actor {
            node: NodeId(1),
            epoch: Epoch(1),
        };
        let version = |value: Bytes| Version {
            value: Some(value),
            content_type: "text/plain\r\nX-Forged: yes".into(),
            written_at_us: 1,
            stands_for: None,
        };
        let dot = Dot { actor, counter: 1 };
        // The hash covers dots, not values: the boundary can be known here.
        let plain = SiblingSet::delta(&Context::new(), dot, version(Bytes::new()));
        let first = boundary(&plain);
        let hostile = SiblingSet::delta(&Context::new(), dot, version(first.clone().into()));
        let (content_type, body) = to_multipart(&hostile);
        assert_eq!(content_type, format!("multipart/mixed; boundary={first}x"));
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(!text.contains("X-Forged"), "{text}");
        assert_eq!(text.matches(&format!("--{first}x")).count(), 2);
    }
}
