//! `Accept` (RFC 9110, section 12.5.1): which of a few types a client likes best.
//!
//! Promises: the most specific range decides about a type; among equals the
//! earlier of ours wins; ranges that cannot be read are passed over, and a header
//! of only such ranges counts as none. Media type parameters other than `q` are
//! not compared.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, HeaderValue};

/// The most ranges that are looked at: browsers send under ten.
const MAX_RANGES: usize = 64;

/// One media range with its quality in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: u32,
}

fn ranges(headers: &HeaderMap) -> Vec<Range<'_>> {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(range)
        .take(MAX_RANGES)
        .collect()
}

fn range(text: &str) -> Option<Range<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let (kind, subtype) = parts.next()?.split_once('/')?;
    if kind.is_empty() || subtype.is_empty() || (kind == "*" && subtype != "*") {
        return None;
    }
    let mut quality = 1000;
    for parameter in parts {
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("q")
        {
            let value: f64 = value.trim().parse().ok()?;
            if !(0.0..=1.0).contains(&value) {
                return None;
            }
            quality = (value * 1000.0).round() as u32;
        }
    }
    Some(Range {
        kind,
        subtype,
        quality,
    })
}

/// How much the client likes a type: none when no range speaks of it.
fn quality(ranges: &[Range<'_>], media_type: &str) -> Option<u32> {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let (kind, subtype) = essence.split_once('/').unwrap_or((essence, ""));
    ranges
        .iter()
        .filter_map(|range| {
            let specific = range.kind.eq_ignore_ascii_case(kind);
            if specific && range.subtype.eq_ignore_ascii_case(subtype) {
                Some((2, range.quality))
            } else if specific && range.subtype == "*" {
                Some((1, range.quality))
            } else if range.kind == "*" {
                Some((0, range.quality))
            } else {
                None
            }
        })
        .max_by_key(|(specificity, _)| *specificity)
        .map(|(_, quality)| quality)
}

/// The one of these types that the client likes best; none when it takes none of
/// them. Without an `Accept` it is the first.
pub fn best<'a>(headers: &HeaderMap, offered: &[&'a str]) -> Option<&'a str> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return offered.first().copied();
    }
    let mut best = None;
    for one in offered {
        let liked = quality(&ranges, one).unwrap_or(0);
        if liked > best.map_or(0, |(_, most)| most) {
            best = Some((*one, liked));
        }
    }
    best.map(|(one, _)| one)
}

/// Whether the client says in so many words (`q=0`) that it does not want this
/// type.
///
/// A stored value has one type, and a client that lists others usually meant the
/// form of the siblings (`multipart/mixed`): it is given the value all the same,
/// as RFC 9110 allows, unless it rules it out.
pub fn rules_out(headers: &HeaderMap, media_type: &str) -> bool {
    // Only a quality of nothing rules anything out, and no quality comes without this.
    let has_parameters = |value: &HeaderValue| value.as_bytes().contains(&b';');
    headers.get_all(ACCEPT).iter().any(has_parameters)
        && quality(&ranges(headers), media_type) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [&str; 2] = ["application/json", "multipart/mixed"];

    fn headers(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())])
    }

    #[test]
    fn the_client_decides_and_ties_go_to_the_first() {
        for (accept, expected) in [
            ("*/*", Some("application/json")),
            ("", Some("application/json")),
            ("nonsense", Some("application/json")),
            ("multipart/mixed", Some("multipart/mixed")),
            ("Multipart/*", Some("multipart/mixed")),
            (
                "multipart/mixed, application/json",
                Some("application/json"),
            ),
            (
                "application/json;q=0.5, multipart/mixed",
                Some("multipart/mixed"),
            ),
            ("application/json;q=0, */*", Some("multipart/mixed")),
            ("multipart/mixed;q=0.3, */*;q=0.1", Some("multipart/mixed")),
            ("*/*;q=0", None),
            ("text/html", None),
            ("application/json; charset=utf-8", Some("application/json")),
            (
                "application/json;q=7, multipart/mixed;q=0.1",
                Some("multipart/mixed"),
            ),
        ] {
            assert_eq!(best(&headers(accept), &OFFERED), expected, "{accept}");
        }
        assert_eq!(best(&HeaderMap::new(), &OFFERED), Some("application/json"));
    }

    #[test]
    fn a_value_is_withheld_only_when_it_is_ruled_out() {
        assert!(!rules_out(&HeaderMap::new(), "text/plain"));
        assert!(!rules_out(&headers("multipart/mixed"), "text/plain"));
        assert!(rules_out(
            &headers("text/plain;q=0, */*"),
            "text/plain; charset=utf-8"
        ));
        assert!(rules_out(&headers("*/*;q=0"), "text/plain"));
        assert!(!rules_out(&headers("*/*;q=0, text/*"), "text/plain"));
    }
}
