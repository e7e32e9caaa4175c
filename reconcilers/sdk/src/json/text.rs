//! JSON values as text that is the same wherever values are equal.
//!
//! Promises: [`canonical`] takes any bytes at all and refuses, with a text that
//! says where and what would be right, whatever is not one JSON value (RFC 8259)
//! that every reader keeps as it is (RFC 7493): no key twice in one object, no
//! half of a surrogate pair, no number that a double does not keep. Equal values
//! give equal texts, and a canonical text is its own canonical text.
//!
//! # Equality and text
//!
//! - Numbers are equal when their decimal values are: `1`, `1.0` and `10e-1` are
//!   one number, and so are `0` and `-0`. A number is taken when a double keeps
//!   it, that is, the shortest decimal that names the double is that very
//!   number, and when it lies within ±(2^53 − 1), where whole numbers have no
//!   gaps. `0.1` is taken; `0.1000000000000000055` is not, every reader would
//!   make `0.1` of it; 64-bit identifiers belong into strings. The text is
//!   ECMAScript's, and so RFC 8785's: `0.5`, `1e-7`, `100`.
//! - Strings are equal when their code points are; nothing is normalised. The
//!   text escapes `"`, `\` and control characters, the short way where there is
//!   one.
//! - Objects are equal when they hold equal values under equal keys. The text
//!   has the keys ascending by the bytes of their UTF-8.
//! - No white space.
//!
//! # Order
//!
//! `null`, `false`, `true`, numbers by value, strings by the bytes of their UTF-8
//! (that is by code points), arrays item by item, objects key by key, each key
//! before its value; of two that agree as far as the shorter goes, the shorter.
//! [`Ordered`] is a text in that order.
//!
//! Not promised: room for just any value; see [`MAX_DEPTH`] and [`MAX_BYTES`].

use std::collections::BTreeMap;
use std::ops::Range;

mod number;
mod order;

pub use order::{Ordered, items, members, unquoted};

/// How deep arrays and objects nest at most. The reader calls itself for each
/// level, and a guest's stack is small.
pub const MAX_DEPTH: usize = 64;

/// The longest text that is taken: what a value has at most in a table of the
/// usual settings. It bounds the work and the memory that one operation takes.
pub const MAX_BYTES: usize = 1 << 20;

/// The canonical text of a JSON text; or what is wrong with it, and where.
pub fn canonical(json: &[u8]) -> Result<String, String> {
    if json.len() > MAX_BYTES {
        let length = json.len();
        return Err(format!(
            "it has {length} bytes, and at most {MAX_BYTES} are taken"
        ));
    }
    let text = str::from_utf8(json).map_err(|error| {
        let at = error.valid_up_to();
        format!("at byte {at}: JSON is UTF-8, and this is not")
    })?;
    let mut reader = Reader {
        text: text.as_bytes(),
        at: 0,
    };
    let mut out = Vec::with_capacity(text.len());
    reader.space();
    reader.value(&mut out, 0)?;
    reader.space();
    if reader.at < reader.text.len() {
        return Err(reader.fault("the value has ended, and something follows"));
    }
    Ok(String::from_utf8(out).expect("text in UTF-8, cut between characters"))
}

/// Whether this is a canonical text.
pub fn is_canonical(text: &str) -> bool {
    canonical(text.as_bytes()).is_ok_and(|canonical| canonical == text)
}

/// Appends a string with its quotes.
pub fn put_string(out: &mut Vec<u8>, string: &str) {
    out.push(b'"');
    for byte in string.bytes() {
        put_escaped(out, byte);
    }
    out.push(b'"');
}

/// Appends one byte of a string's UTF-8, escaped if it must be.
fn put_escaped(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        0..0x20 => {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            return;
        }
        _ => return out.push(byte),
    };
    out.extend_from_slice(&[b'\\', short]);
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn fault(&self, what: &str) -> String {
        format!("at byte {}: {what}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes this byte if it is next.
    fn takes(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(self.fault(&format!("it nests more than {MAX_DEPTH} deep")));
        }
        match self.peek() {
            Some(b'{') => self.object(out, depth),
            Some(b'[') => self.array(out, depth),
            Some(b'"') => {
                let string = self.string()?;
                put_string(out, &string);
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => self.number(out),
            Some(b'n') => self.word("null", out),
            Some(b'f') => self.word("false", out),
            Some(b't') => self.word("true", out),
            Some(_) => Err(self.fault("a JSON value would begin here")),
            None => Err(self.fault("it ends where a JSON value would begin")),
        }
    }

    fn word(&mut self, word: &str, out: &mut Vec<u8>) -> Result<(), String> {
        if !self.text[self.at..].starts_with(word.as_bytes()) {
            return Err(self.fault(&format!("only {word} begins like this")));
        }
        self.at += word.len();
        out.extend_from_slice(word.as_bytes());
        Ok(())
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        self.at += 1;
        out.push(b'[');
        self.space();
        if !self.takes(b']') {
            loop {
                self.value(out, depth + 1)?;
                self.space();
                if self.takes(b']') {
                    break;
                }
                if !self.takes(b',') {
                    return Err(self.fault("an array goes on with a comma or ends with ]"));
                }
                out.push(b',');
                self.space();
            }
        }
        out.push(b']');
        Ok(())
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        self.at += 1;
        out.push(b'{');
        let start = out.len();
        // Where each member lies in `out`, by its key.
        let mut found: BTreeMap<String, Range<usize>> = BTreeMap::new();
        let mut ascending = true;
        self.space();
        if !self.takes(b'}') {
            loop {
                self.member(out, depth, start, &mut found, &mut ascending)?;
                self.space();
                if self.takes(b'}') {
                    break;
                }
                if !self.takes(b',') {
                    return Err(self.fault("an object goes on with a comma or ends with }"));
                }
                self.space();
            }
        }
        if !ascending {
            let unsorted = out.split_off(start);
            for range in found.into_values() {
                if out.len() > start {
                    out.push(b',');
                }
                out.extend_from_slice(&unsorted[range.start - start..range.end - start]);
            }
        }
        out.push(b'}');
        Ok(())
    }

    fn member(
        &mut self,
        out: &mut Vec<u8>,
        depth: usize,
        start: usize,
        found: &mut BTreeMap<String, Range<usize>>,
        ascending: &mut bool,
    ) -> Result<(), String> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("an object's key would begin here, with a quote"));
        }
        let key_at = self.at;
        let key = self.string()?;
        if found.contains_key(&key) {
            self.at = key_at;
            return Err(self.fault(&format!(
                "the key {} is there twice in one object",
                clipped(&quoted(&key))
            )));
        }
        if let Some((last, _)) = found.last_key_value() {
            *ascending &= *last < key;
        }
        if out.len() > start {
            out.push(b',');
        }
        let from = out.len();
        put_string(out, &key);
        self.space();
        if !self.takes(b':') {
            return Err(self.fault("a colon would follow the key"));
        }
        self.space();
        out.push(b':');
        self.value(out, depth + 1)?;
        found.insert(key, from..out.len());
        Ok(())
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut string = Vec::new();
        loop {
            let Some(byte) = self.peek() else {
                return Err(self.fault("a string has no end"));
            };
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(String::from_utf8(string).expect("pieces of UTF-8"));
                }
                b'\\' => {
                    let character = self.escape()?;
                    let mut bytes = [0; 4];
                    string.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
                }
                0..0x20 => {
                    return Err(self.fault("a control character in a string is written \\u00.."));
                }
                _ => {
                    string.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let at = self.at;
        self.at += 1;
        let letter = self.peek();
        self.at += 1;
        Ok(match letter {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex(at)?;
                let code = match first {
                    0xd800..0xdc00 if self.takes(b'\\') && self.takes(b'u') => {
                        let second = self.hex(at)?;
                        match second {
                            0xdc00..0xe000 => {
                                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                            }
                            _ => first,
                        }
                    }
                    _ => first,
                };
                match char::from_u32(code) {
                    Some(character) => character,
                    None => {
                        self.at = at;
                        return Err(self.fault("half of a surrogate pair is no character"));
                    }
                }
            }
            _ => {
                self.at = at;
                return Err(self.fault("after a backslash comes one of \"\\/bfnrtu"));
            }
        })
    }

    /// Four hexadecimal digits of the escape that began at `escape_at`.
    fn hex(&mut self, escape_at: usize) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                self.at = escape_at;
                return Err(self.fault("\\u takes four hexadecimal digits"));
            };
            code = code << 4 | digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn number(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let start = self.at;
        self.takes(b'-');
        let whole = self.digits()?;
        if self.text[whole.clone()].len() > 1 && self.text[whole.start] == b'0' {
            self.at = whole.start;
            return Err(self.fault("a number has no leading zeros"));
        }
        if self.takes(b'.') {
            self.digits()?;
        }
        if self.takes(b'e') || self.takes(b'E') {
            if !self.takes(b'-') {
                self.takes(b'+');
            }
            self.digits()?;
        }
        let text = str::from_utf8(&self.text[start..self.at]).expect("digits and signs");
        number::put(out, text).map_err(|what| {
            self.at = start;
            self.fault(&what)
        })
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<Range<usize>, String> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.fault("a number would have a digit here"));
        }
        Ok(start..self.at)
    }
}

fn quoted(string: &str) -> String {
    let mut out = Vec::with_capacity(string.len() + 2);
    put_string(&mut out, string);
    String::from_utf8(out).expect("text in UTF-8, escaped between characters")
}

/// The beginning of a text, for a message that people read.
pub fn clipped(text: &str) -> String {
    const LONGEST_CHARS: usize = 40;
    if text.chars().count() <= LONGEST_CHARS {
        return text.to_owned();
    }
    text.chars().take(LONGEST_CHARS).chain(['…']).collect()
}
