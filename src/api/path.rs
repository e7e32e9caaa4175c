//! Path segments: percent-encoded bytes, any bytes.
//!
//! Promises: a segment is decoded once, and a key may hold every byte from 0x00
//! to 0xff, `/` written as `%2F`. Splitting comes before decoding, so an encoded
//! slash never starts a segment.

use std::borrow::Cow;
use std::ops::Deref;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::problem::{Code, Problem};
use crate::protocol::id::{MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES};

/// What is written as it is in a segment that this node writes.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// Percent-encodes bytes as one segment of a path.
pub fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, PLAIN).to_string()
}

/// What to say of a slash that was not encoded.
pub const SLASH_HINT: &str = "a '/' that belongs to a key is written %2F";

/// How many segments of a path are told apart: one more than the longest path of ours
/// has, which is that of an operation on an item with a sort key, so that a longer one
/// is never taken for it.
const MAX_SEGMENTS: usize = 8;

/// Some segments of a path.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    first: [&'a str; MAX_SEGMENTS],
    begin: usize,
    end: usize,
}

impl<'a> Deref for Segments<'a> {
    type Target = [&'a str];

    fn deref(&self) -> &[&'a str] {
        &self.first[self.begin..self.end]
    }
}

impl Segments<'_> {
    /// Those at these places.
    pub fn at(mut self, places: std::ops::Range<usize>) -> Self {
        assert!(places.end <= self.len(), "the path is as long as that");
        self.end = self.begin + places.end;
        self.begin += places.start;
        self
    }
}

/// The raw segments of a path, without its leading slash: the first of them, one more
/// than any path of the API has.
pub fn segments(path: &str) -> Segments<'_> {
    let mut first = [""; MAX_SEGMENTS];
    let mut end = 0;
    let mut rest = Some(path.strip_prefix('/').unwrap_or(path));
    while let Some(text) = rest.filter(|_| end < MAX_SEGMENTS) {
        // Segments are short: to set out for a search in words takes longer than it.
        let slash = text.bytes().position(|byte| byte == b'/');
        first[end] = slash.map_or(text, |slash| &text[..slash]);
        rest = slash.map(|slash| &text[slash + 1..]);
        end += 1;
    }
    Segments {
        first,
        begin: 0,
        end,
    }
}

/// The bytes that a segment, or a part of a query, stands for: its own, when nothing
/// is encoded in it.
pub fn decode(segment: &str) -> Result<Cow<'_, [u8]>, Problem> {
    if !segment.as_bytes().contains(&b'%') {
        return Ok(Cow::Borrowed(segment.as_bytes()));
    }
    let malformed = || {
        Problem::bad_request(format_args!(
            "{:?} has a '%' without two hex digits after it; a literal one is written %25",
            shorten(segment)
        ))
    };
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| {
            byte.and_then(|byte| char::from(byte).to_digit(16))
                .ok_or_else(malformed)
        };
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push((high * 16 + low) as u8);
    }
    Ok(Cow::Owned(bytes))
}

/// The text that a segment, or a part of a query, stands for; none when it is not
/// UTF-8.
pub fn text(segment: &str) -> Result<Option<Cow<'_, str>>, Problem> {
    Ok(match decode(segment)? {
        Cow::Borrowed(_) => Some(Cow::Borrowed(segment)),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    })
}

/// The name that a segment stands for; none when it is not UTF-8 and thus no
/// name of ours.
pub fn name(segment: &str) -> Result<Option<String>, Problem> {
    Ok(text(segment)?.map(Cow::into_owned))
}

/// A partition key: 1..=2048 bytes.
pub fn partition_key(segment: &str) -> Result<Cow<'_, [u8]>, Problem> {
    key(segment, "partition key", MAX_PARTITION_KEY_BYTES)
}

/// A sort key: 1..=1024 bytes.
pub fn sort_key(segment: &str) -> Result<Cow<'_, [u8]>, Problem> {
    key(segment, "sort key", MAX_SORT_KEY_BYTES)
}

fn key<'a>(segment: &'a str, what: &str, max_bytes: usize) -> Result<Cow<'a, [u8]>, Problem> {
    let key = decode(segment)?;
    if key.is_empty() {
        return Err(Problem::bad_request(format_args!(
            "the {what} is empty; it has 1..={max_bytes} bytes, and {SLASH_HINT}"
        )));
    }
    if key.len() > max_bytes {
        return Err(Problem::new(
            Code::TooLarge,
            format_args!(
                "the {what} has {} bytes; at most {max_bytes} are taken",
                key.len()
            ),
        ));
    }
    Ok(key)
}

/// The beginning of a text, for messages.
pub fn shorten(text: &str) -> &str {
    /// As much as tells which one was meant.
    const MAX_SHOWN_BYTES: usize = 80;
    let end = (0..=text.len().min(MAX_SHOWN_BYTES))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    &text[..end]
}

/// What stands for itself in a path segment. Dots do not: a segment `..` would
/// be taken for the way up.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// Percent-encodes bytes as one segment of a path.
pub fn segment(bytes: &[u8]) -> String {
    percent_encode(bytes, SEGMENT).to_string()
}

/// The path of an item.
pub fn item_path(table: &str, partition_key: &[u8], sort_key: Option<&[u8]>) -> String {
    let mut path = format!(
        "/v1/tables/{}/items/{}",
        segment(table.as_bytes()),
        segment(partition_key)
    );
    if let Some(sort_key) = sort_key {
        path.push('/');
        path.push_str(&segment(sort_key));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_string_has_a_segment(key in prop::collection::vec(any::<u8>(), 1..64)) {
            let encoded: String = key.iter().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(&*decode(&encoded).unwrap(), &key);
            let written = segment(&key);
            prop_assert_eq!(&*decode(&written).unwrap(), &key);
        }

        #[test]
        fn any_text_decodes_or_is_refused(text in "\\PC{0,100}") {
            let _ = decode(&text);
            let _ = shorten(&text);
        }
    }

    #[test]
    fn a_percent_sign_needs_two_digits() {
        for wrong in ["%", "%2", "a%zz", "%+1", "%%20", "%2\u{e9}"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
        assert_eq!(*decode("a%2Fb%2fc").unwrap(), *b"a/b/c");
    }

    #[test]
    fn an_encoded_slash_does_not_split() {
        assert_eq!(*segments("/a/b%2Fc/"), ["a", "b%2Fc", ""]);
        assert_eq!(*segments("/a/b%2Fc/").at(1..2), ["b%2Fc"]);
    }

    #[test]
    fn what_is_not_encoded_is_not_copied() {
        assert!(matches!(decode("a-b"), Ok(Cow::Borrowed(b"a-b"))));
        assert!(matches!(text("caf\u{e9}"), Ok(Some(Cow::Borrowed(_)))));
        assert_eq!(text("caf%C3%A9").unwrap().as_deref(), Some("caf\u{e9}"));
        assert_eq!(text("%ff").unwrap(), None);
    }

    #[test]
    fn a_path_longer_than_any_of_ours_stays_longer() {
        let endless = "/x".repeat(10_000);
        assert_eq!(*segments(&endless), ["x"; MAX_SEGMENTS]);
    }
}
