//! Numbers: from what JSON calls one to the one text of its value.
//!
//! Promises: numbers of equal decimal value give equal text, and the text is
//! what ECMAScript prints. A number that a double does not keep, or beyond
//! ±(2^53 − 1), is refused with a text that says what to send in its place.

use crate::MAX_EXACT_JSON_INTEGER;

/// Whole numbers of up to this many digits need no look at all.
const PLAIN_DIGITS: usize = 15;

/// Appends the canonical text of `text`, which has the form of a JSON number.
pub fn put(out: &mut Vec<u8>, text: &str) -> Result<(), String> {
    let magnitude = text.strip_prefix('-').unwrap_or(text);
    let plain = magnitude.len() <= PLAIN_DIGITS && magnitude.bytes().all(|b| b.is_ascii_digit());
    if plain {
        // `-0` is no other number than `0`.
        let shown = if magnitude == "0" { magnitude } else { text };
        out.extend_from_slice(shown.as_bytes());
        return Ok(());
    }
    let decimal = Decimal::read(magnitude);
    if decimal.digits.is_empty() {
        out.push(b'0');
        return Ok(());
    }
    let double: f64 = magnitude.parse().expect("the form of a JSON number");
    if double > MAX_EXACT_JSON_INTEGER as f64 {
        return Err(format!(
            "a number lies within ±{MAX_EXACT_JSON_INTEGER}, beyond which readers of JSON \
             differ: send a larger one as a string"
        ));
    }
    let kept = Decimal::read(&format!("{double:e}"));
    // As short a text of the same double is as good: of two that are equally near,
    // others print the one, Rust the other.
    if decimal.digits.len() > kept.digits.len() {
        return Err(
            "this number has more digits than readers of JSON keep (a double's, some 16): \
             round it, or send it as a string"
                .to_owned(),
        );
    }
    if text.len() > magnitude.len() {
        out.push(b'-');
    }
    kept.put(out);
    Ok(())
}

/// 0.`digits` × 10^`exponent`; the first and the last digit are not zero.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Reads a magnitude of the form of a JSON number.
    fn read(text: &str) -> Decimal {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, small(exponent)),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            return Decimal {
                digits,
                exponent: 0,
            };
        }
        Decimal {
            digits,
            exponent: exponent + whole.len() as i64 - zeros as i64,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let digits = &self.digits[..];
        let point = self.exponent;
        let zeros = |out: &mut Vec<u8>, count: i64| {
            for _ in 0..count {
                out.push(b'0');
            }
        };
        if point > digits.len() as i64 - 1 {
            out.extend_from_slice(digits);
            zeros(out, point - digits.len() as i64);
        } else if point > 0 {
            let (whole, fraction) = digits.split_at(point as usize);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        } else if point > -6 {
            out.extend_from_slice(b"0.");
            zeros(out, -point);
            out.extend_from_slice(digits);
        } else {
            out.push(digits[0]);
            if digits.len() > 1 {
                out.push(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            out.extend_from_slice(format!("e{}", point - 1).as_bytes());
        }
    }
}

/// An exponent, cut off far beyond what any double has.
fn small(exponent: &str) -> i64 {
    const FAR: i64 = 1 << 40;
    let negative = exponent.starts_with('-');
    let mut size = 0;
    for digit in exponent.bytes().filter(u8::is_ascii_digit) {
        size = FAR.min(size * 10 + i64::from(digit - b'0'));
    }
    if negative { -size } else { size }
}
