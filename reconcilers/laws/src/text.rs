//! Values as people read them.
//!
//! Promises: JSON is shown as JSON, text as text, anything else in hex; nothing
//! is shown at full length that a person would not read.

use serde_json::{Value as Json, json};

/// Values longer than this are cut when they are shown, in characters.
pub(crate) const MAX_SHOWN_CHARS: usize = 160;

pub(crate) fn is_json(value: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::value::Value>(value).is_ok()
}

fn hex(value: &[u8]) -> String {
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes in full: JSON as it is, else text in quotes, else hex.
pub(crate) fn whole(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if is_json(value) && !text.contains(['\n', '\r', '\t']) => text.to_owned(),
        Ok(text)
            if !text
                .chars()
                .any(|c| c.is_control() && c != '\n' && c != '\t') =>
        {
            format!("text {text:?}")
        }
        _ => format!("bytes {}", hex(value)),
    }
}

/// Bytes as people read them, cut.
pub(crate) fn shown(value: &[u8]) -> String {
    cut(value, MAX_SHOWN_CHARS)
}

/// Bytes as people read them, cut at this many characters.
pub(crate) fn cut(value: &[u8], chars: usize) -> String {
    let text = whole(value);
    match text.char_indices().nth(chars) {
        Some((cut, _)) => format!("{}… ({} bytes)", &text[..cut], value.len()),
        None => text,
    }
}

/// Bytes for programs: the kind is the key.
pub(crate) fn as_json(value: Option<&[u8]>) -> Json {
    let Some(value) = value else {
        return json!({ "deleted": true });
    };
    if let Ok(json) = serde_json::from_slice::<Json>(value) {
        return json!({ "json": json });
    }
    match std::str::from_utf8(value) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "hex": hex(value) }),
    }
}

/// Two lines cut to the part that differs, and a third that marks it. None when
/// they do not differ.
pub(crate) fn marked(left: &str, right: &str) -> Option<[String; 3]> {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let same = |pairs: &mut dyn Iterator<Item = (&char, &char)>| {
        pairs.take_while(|(one, other)| one == other).count()
    };
    let start = same(&mut left.iter().zip(&right));
    if start == left.len() && start == right.len() {
        return None;
    }
    let room = left.len().min(right.len()) - start;
    let tail = same(&mut left.iter().rev().zip(right.iter().rev())).min(room);
    // Far from the beginning, the beginning says little.
    let cut = if start > MAX_SHOWN_CHARS / 2 {
        start - MAX_SHOWN_CHARS / 4
    } else {
        0
    };
    let window = |text: &[char]| {
        let end = text.len().min(cut + MAX_SHOWN_CHARS);
        let mut line = String::from(if cut > 0 { "…" } else { "" });
        line.extend(&text[cut.min(end)..end]);
        if end < text.len() {
            line.push('…');
        }
        line
    };
    let differs = (left.len().max(right.len()) - tail - start).max(1);
    let indent = start - cut + usize::from(cut > 0);
    let marks = differs.min((cut + MAX_SHOWN_CHARS + 1).saturating_sub(start).max(1));
    Some([
        window(&left),
        window(&right),
        format!("{}{}", " ".repeat(indent), "^".repeat(marks)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_each_kind_as_what_it_is() {
        assert_eq!(shown(b"{\"a\":1}"), "{\"a\":1}");
        assert_eq!(shown(b"a\nb"), "text \"a\\nb\"");
        assert_eq!(shown(b"\xff\x00"), "bytes ff00");
        let long = shown(&[b'x'; 1000]);
        assert!(long.ends_with("… (1000 bytes)"), "{long}");
    }

    #[test]
    fn marks_what_differs() {
        let [left, right, marks] = marked(r#"{"a":1,"b":2}"#, r#"{"a":12,"b":2}"#).unwrap();
        assert_eq!(left, r#"{"a":1,"b":2}"#);
        assert_eq!(right, r#"{"a":12,"b":2}"#);
        assert_eq!(marks, "      ^");
        assert_eq!(marked("same", "same"), None);
        let long = "x".repeat(500);
        let [left, right, marks] = marked(&format!("{long}a"), &format!("{long}b")).unwrap();
        let at = marks.find('^').unwrap();
        assert_eq!(left.chars().nth(at), Some('a'));
        assert_eq!(right.chars().nth(at), Some('b'));
    }
}
