//! The headers of our own, and text made fit for a header.

use hyper::HeaderMap;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, IF_MATCH,
    IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
};

use super::problem::{Code, Problem};

/// What a client has seen, or has now seen.
pub const CONTEXT: HeaderName = HeaderName::from_static("kinfold-context");
/// How many siblings went into the answer.
pub const SIBLINGS: HeaderName = HeaderName::from_static("kinfold-siblings");
/// The module that folded them: `name@sha256:…`.
pub const RECONCILER: HeaderName = HeaderName::from_static("kinfold-reconciler");
/// Why the module did not fold them.
pub const RECONCILE_ERROR: HeaderName = HeaderName::from_static("kinfold-reconcile-error");
/// Names a request in logs, ours and the client's.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// RFC 7240.
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// RFC 7240.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The type of bytes about which nobody said anything.
pub const OCTET_STREAM: &str = "application/octet-stream";
/// The type of siblings, and of many values.
pub const JSON: &str = "application/json";

/// The longest content type that is stored, in bytes: it is kept with every
/// version and travels with it. RFC 6838 allows names of 127 + 1 + 127.
pub const MAX_CONTENT_TYPE_BYTES: usize = 256;

/// The longest text put into a header, in bytes: a module's reason may be as
/// long as its author liked, and some clients stop at 8 KiB for all headers.
const MAX_TEXT_BYTES: usize = 1024;

/// What is asked of each request for an item, and said by few: told in one look at the
/// headers that there are, since to search for one that is not there takes longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said(u8);

impl Said {
    /// It has one of these.
    pub const EXPECTATION: Said = Said(1);
    pub const PRECONDITION: Said = Said(1 << 1);
    pub const CODING_OR_RANGE: Said = Said(1 << 2);
    pub const CONTEXT: Said = Said(1 << 3);
    pub const PREFERENCE: Said = Said(1 << 4);
    pub const REQUEST_ID: Said = Said(1 << 5);

    /// What these headers say.
    pub fn by(headers: &HeaderMap) -> Said {
        let said = headers.keys().map(|name| match *name {
            EXPECT => Said::EXPECTATION.0,
            IF_MATCH | IF_NONE_MATCH | IF_UNMODIFIED_SINCE => Said::PRECONDITION.0,
            CONTENT_ENCODING | CONTENT_RANGE => Said::CODING_OR_RANGE.0,
            _ => match name.as_str() {
                "kinfold-context" => Said::CONTEXT.0,
                "prefer" => Said::PREFERENCE.0,
                "x-request-id" => Said::REQUEST_ID.0,
                _ => 0,
            },
        });
        Said(said.fold(0, |all, one| all | one))
    }

    /// Whether it is among them.
    pub fn has(self, one: Said) -> bool {
        self.0 & one.0 != 0
    }
}

/// Any text as a header: what a header cannot hold becomes `?` or a space.
pub fn text(text: &str) -> HeaderValue {
    let fit: String = text
        .chars()
        .take(MAX_TEXT_BYTES)
        .map(|letter| match letter {
            ' '..='~' => letter,
            _ if letter.is_whitespace() => ' ',
            _ => '?',
        })
        .collect();
    HeaderValue::from_str(fit.trim()).unwrap_or(HeaderValue::from_static("?"))
}

/// A stored content type as a header. A module may have named one that no header
/// can hold: then nothing is said about the bytes.
pub fn content_type(stored: &str) -> HeaderValue {
    match stored {
        // What most values are need be neither checked nor copied.
        JSON => const { HeaderValue::from_static(JSON) },
        OCTET_STREAM => const { HeaderValue::from_static(OCTET_STREAM) },
        _ => match HeaderValue::from_str(stored) {
            Ok(value) if !value.is_empty() => value,
            _ => const { HeaderValue::from_static(OCTET_STREAM) },
        },
    }
}

/// How many siblings there were, as a header.
pub fn count(siblings: usize) -> HeaderValue {
    match siblings {
        // Hardly anything else is ever said.
        1 => const { HeaderValue::from_static("1") },
        more => HeaderValue::from(more),
    }
}

/// The `Content-Type` of a request; none when it has none or an empty one.
pub fn request_content_type(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = single(headers, &CONTENT_TYPE)? else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Problem::bad_request("Content-Type is not visible ASCII"))?
        .trim();
    if text.len() > MAX_CONTENT_TYPE_BYTES {
        return Err(Problem::bad_request(format_args!(
            "Content-Type is longer than {MAX_CONTENT_TYPE_BYTES} bytes"
        )));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// Refuses a body whose type is not one of these. Silence, octets and what curl
/// and urllib say when nobody told them are taken: the bytes are checked anyway.
pub fn require_content_type(headers: &HeaderMap, expected: &[&str]) -> Result<(), Problem> {
    const UNTOLD: [&str; 2] = [OCTET_STREAM, "application/x-www-form-urlencoded"];
    let Some(given) = request_content_type(headers)? else {
        return Ok(());
    };
    let essence = given.split(';').next().unwrap_or_default().trim();
    let known = expected.iter().chain(&UNTOLD);
    if known
        .into_iter()
        .any(|one| one.eq_ignore_ascii_case(essence))
    {
        return Ok(());
    }
    Err(Problem::new(
        Code::UnsupportedMediaType,
        format_args!(
            "Content-Type is {essence:?}; send {}",
            expected.join(" or ")
        ),
    ))
}

/// A header that may come once at most.
pub fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::bad_request(format_args!("{name} is given twice")));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_that_is_heeded_is_seen() {
        let heeded = [
            (EXPECT, Said::EXPECTATION),
            (IF_MATCH, Said::PRECONDITION),
            (IF_NONE_MATCH, Said::PRECONDITION),
            (IF_UNMODIFIED_SINCE, Said::PRECONDITION),
            (CONTENT_ENCODING, Said::CODING_OR_RANGE),
            (CONTENT_RANGE, Said::CODING_OR_RANGE),
            (CONTEXT, Said::CONTEXT),
            (PREFER, Said::PREFERENCE),
            (REQUEST_ID, Said::REQUEST_ID),
        ];
        let mut all = HeaderMap::new();
        for (name, said) in &heeded {
            let value = HeaderValue::from_static("x");
            let alone = HeaderMap::from_iter([(name.clone(), value.clone())]);
            assert_eq!(Said::by(&alone), *said, "{name}");
            all.insert(name, value);
        }
        assert!(heeded.iter().all(|(_, said)| Said::by(&all).has(*said)));
        all.clear();
        all.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        assert_eq!(Said::by(&all), Said(0));
        assert!(heeded.iter().all(|(_, said)| !Said(0).has(*said)));
    }
}
