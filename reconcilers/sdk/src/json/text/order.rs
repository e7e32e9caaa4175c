//! The order of JSON values, and the way into arrays and objects.
//!
//! Promises: total, and equal just where texts are equal. All of this takes
//! canonical texts and gives canonical texts; what it makes of others is some
//! answer and no panic.

use std::cmp::Ordering;

/// A canonical text, in the order of values that [`super`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered<'a>(pub &'a str);

impl Ord for Ordered<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Texts that differ while their values do not are not canonical; they
        // are told apart all the same, so that this is an order on all texts.
        compare(self.0, other.0).then_with(|| self.0.cmp(other.0))
    }
}

impl PartialOrd for Ordered<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The items of an array.
pub fn items(array: &str) -> impl Iterator<Item = &str> {
    let mut rest = inside(array);
    std::iter::from_fn(move || {
        let item = rest.get(..value_length(rest)).filter(|it| !it.is_empty())?;
        rest = after(rest, item.len());
        Some(item)
    })
}

/// The members of an object: key, still quoted, and value.
pub fn members(object: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = inside(object);
    std::iter::from_fn(move || {
        let key = rest.get(..value_length(rest)).filter(|it| !it.is_empty())?;
        rest = after(rest, key.len());
        let value = &rest[..value_length(rest)];
        rest = after(rest, value.len());
        Some((key, value))
    })
}

/// The string that a quoted text names.
pub fn unquoted(text: &str) -> String {
    let bytes = unescaped(text).collect();
    String::from_utf8(bytes).expect("a canonical string is UTF-8")
}

fn compare(one: &str, other: &str) -> Ordering {
    let kinds = kind(one).cmp(&kind(other));
    if kinds.is_ne() {
        return kinds;
    }
    match one.bytes().next() {
        Some(b'-' | b'0'..=b'9') => {
            let number = |text: &str| text.parse::<f64>().unwrap_or(f64::MAX);
            number(one).total_cmp(&number(other))
        }
        Some(b'"') => unescaped(one).cmp(unescaped(other)),
        Some(b'[') => compare_all(items(one), items(other), compare),
        Some(b'{') => compare_all(members(one), members(other), |(key, value), (k, v)| {
            unescaped(key)
                .cmp(unescaped(k))
                .then_with(|| compare(value, v))
        }),
        _ => Ordering::Equal,
    }
}

/// Item by item; of two that agree as far as the shorter goes, the shorter.
fn compare_all<T>(
    mut one: impl Iterator<Item = T>,
    mut other: impl Iterator<Item = T>,
    compare: impl Fn(T, T) -> Ordering,
) -> Ordering {
    loop {
        match (one.next(), other.next()) {
            (Some(ours), Some(theirs)) => {
                let order = compare(ours, theirs);
                if order.is_ne() {
                    return order;
                }
            }
            (ours, theirs) => return ours.is_some().cmp(&theirs.is_some()),
        }
    }
}

fn kind(text: &str) -> u8 {
    match text.bytes().next() {
        Some(b'n') | None => 0,
        Some(b'f') => 1,
        Some(b't') => 2,
        Some(b'"') => 4,
        Some(b'[') => 5,
        Some(b'{') => 6,
        Some(_) => 3,
    }
}

/// What an array or object has between its brackets.
fn inside(text: &str) -> &str {
    text.get(1..text.len().saturating_sub(1)).unwrap_or("")
}

/// What follows a value and the comma or colon after it.
fn after(text: &str, length: usize) -> &str {
    text.get(length + 1..).unwrap_or("")
}

/// The length of the value that the text begins with.
fn value_length(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b',' | b':' | b']' | b'}' if depth == 0 => return at,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The bytes of the string that a quoted text names.
fn unescaped(text: &str) -> impl Iterator<Item = u8> {
    let mut bytes = inside(text).bytes();
    std::iter::from_fn(move || {
        let byte = bytes.next()?;
        if byte != b'\\' {
            return Some(byte);
        }
        Some(match bytes.next()? {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                // A canonical text escapes nothing above 0x1f like this.
                let mut code = 0;
                for _ in 0..4 {
                    let digit = char::from(bytes.next()?).to_digit(16)?;
                    code = code << 4 | digit;
                }
                code as u8
            }
            other => other,
        })
    })
}
