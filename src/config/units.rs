//! Durations and sizes as config files write them: with their unit.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Deserializer, Error, Visitor};

/// Reads a duration: text like `"500ms"` or `"1h 30m"`. A bare number is
/// refused, since nobody can tell seconds from milliseconds.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with its unit in quotes, like \"500ms\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|error| {
                E::custom(format!(
                    "{text:?} is not a duration, like \"500ms\", \"10s\" or \"1h\": {error}"
                ))
            })
        }
    }
    deserializer.deserialize_any(Text)
}

/// Reads a size in bytes: text like `"64MiB"`, or a number of bytes.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size in quotes, like \"64MiB\", or a number of bytes")
        }

        fn visit_u64<E: Error>(self, bytes: u64) -> Result<u64, E> {
            Ok(bytes)
        }

        fn visit_i64<E: Error>(self, bytes: i64) -> Result<u64, E> {
            u64::try_from(bytes).map_err(|_| E::custom(format!("{bytes} bytes are less than none")))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            text.parse::<ByteSize>()
                .map(|size| size.0)
                .map_err(|error| {
                    E::custom(format!(
                        "{text:?} is not a size, like \"64MiB\" or \"512KiB\": {error}"
                    ))
                })
        }
    }
    deserializer.deserialize_any(Size)
}
