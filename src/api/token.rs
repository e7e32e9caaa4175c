//! Context tokens: what `Kinfold-Context` carries.
//!
//! ```text
//! ┌─────────┬──────────┬──────────┬─────────────────────────┐
//! │ version │ crc32c   │ item     │ context                 │
//! │ 1 byte  │ 4, BE    │ 8 bytes  │ postcard                │   base64url, no padding
//! └─────────┴──────────┴──────────┴─────────────────────────┘
//! ```
//!
//! The checksum is over the version, the item and the context; the item is the
//! beginning of the SHA-256 of its [`ItemKey`], table id included, so a token of
//! a table that was deleted and made again is foreign too. Promises: a token that
//! was cut, changed or taken from another item is refused; each context has one
//! token per item; decoding arbitrary bytes neither panics nor allocates beyond a
//! small multiple of their length.
//!
//! Not promised: secrecy, or protection from a client that forges a checksum. A
//! forged context can do no more than a client with write access may do anyway.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};

use super::headers;
use super::problem::{Code, Problem};
use crate::protocol::context::Context;
use crate::protocol::id::ItemKey;

/// The version of the layout above.
const VERSION: u8 = 1;
/// Version, checksum and item.
const PREFIX_BYTES: usize = 1 + 4 + ITEM_BYTES;
/// How much of the item's hash goes in: enough that no mistake passes.
const ITEM_BYTES: usize = 8;

/// As many bytes as most tokens have, and more: a context of three actors has about a
/// hundred. Longer ones take room as they come.
const USUAL_BYTES: usize = 256;

/// How many dots beyond the vector a write's token keeps per actor.
///
/// A client that writes on and on with the token of its last write, while others
/// write between, collects a dot a write; all but the last few are long
/// superseded. Forgetting one may leave a sibling, and never loses a write.
pub const MAX_TOKEN_CLOUD: usize = 64;

/// The longest token, in characters. Twenty actors with short clouds make about
/// 1 KiB, a hundred siblings of different actors 4 KiB; a token that a request's
/// headers could not hold would be of no use.
pub const MAX_TOKEN_CHARS: usize = 64 << 10;

fn item_of(key: &ItemKey) -> [u8; ITEM_BYTES] {
    let mut item = [0; ITEM_BYTES];
    item.copy_from_slice(&Sha256::digest(key.as_bytes())[..ITEM_BYTES]);
    item
}

fn checksum(item: &[u8], context: &[u8]) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c_append(crc32c::crc32c(&[VERSION]), item),
        context,
    )
}

fn pack(key: &ItemKey, context: &Context) -> String {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    bytes.extend_from_slice(&[0; PREFIX_BYTES]);
    // The prefix is known when the rest is there.
    let mut bytes = postcard::to_extend(context, bytes).expect("a context encodes into memory");
    let item = item_of(key);
    let sum = checksum(&item, &bytes[PREFIX_BYTES..]);
    bytes[0] = VERSION;
    bytes[1..5].copy_from_slice(&sum.to_be_bytes());
    bytes[5..PREFIX_BYTES].copy_from_slice(&item);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The token of a read: it covers the whole context, unless that would be longer
/// than any header.
pub fn of_read(key: &ItemKey, context: &Context) -> String {
    let token = pack(key, context);
    if token.len() <= MAX_TOKEN_CHARS {
        return token;
    }
    of_write(key, context)
}

/// The token of a write: its clouds are cut to [`MAX_TOKEN_CLOUD`].
pub fn of_write(key: &ItemKey, context: &Context) -> String {
    if context
        .iter()
        .all(|(_, seen)| seen.beyond.len() <= MAX_TOKEN_CLOUD)
    {
        return pack(key, context);
    }
    let mut short = context.clone();
    short.shorten_clouds(MAX_TOKEN_CLOUD);
    pack(key, &short)
}

/// A token as a header.
pub fn header(token: impl Into<bytes::Bytes>) -> HeaderValue {
    HeaderValue::from_maybe_shared(token.into()).expect("base64url is visible ASCII")
}

/// The context in a token for this item; else what is wrong with it.
pub fn decode(key: &ItemKey, token: &str) -> Result<Context, &'static str> {
    if token.len() > MAX_TOKEN_CHARS {
        return Err("it is longer than any token");
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| "it is not base64url without padding")?;
    if bytes.len() < PREFIX_BYTES {
        return Err("it is too short");
    }
    let (prefix, encoded) = bytes.split_at(PREFIX_BYTES);
    let (version, sum, item) = (prefix[0], &prefix[1..5], &prefix[5..]);
    if version != VERSION {
        return Err("it is of a version that this node does not know");
    }
    if sum != checksum(item, encoded).to_be_bytes() {
        return Err("its checksum does not match: it was cut or changed");
    }
    if item != item_of(key) {
        return Err("it belongs to another item");
    }
    let (context, rest) =
        postcard::take_from_bytes::<Context>(encoded).map_err(|_| "it does not hold a context")?;
    // Varints have longer spellings too; only the one that we write is a token.
    let canonical = postcard::to_stdvec(&context).is_ok_and(|again| again == encoded);
    if !rest.is_empty() || !canonical || !context.is_well_formed() {
        return Err("it does not hold a context that a node made");
    }
    Ok(context)
}

/// The context that a request carries for this item, if it carries one.
pub fn of_request(headers: &HeaderMap, key: &ItemKey) -> Result<Option<Context>, Problem> {
    let refused = |why: &str| {
        Problem::new(
            Code::InvalidContext,
            format_args!(
                "the Kinfold-Context of this request cannot be used: {why}. Send one that a GET \
                 or PUT of this very item returned, or none"
            ),
        )
    };
    let mut values = headers.get_all(headers::CONTEXT).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(refused("it is given twice"));
    }
    let token = value.to_str().map_err(|_| refused("it is not ASCII"))?;
    decode(key, token).map(Some).map_err(refused)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::dot::{Actor, Dot, Epoch};
    use crate::protocol::id::{NodeId, TableId};

    fn key(table: u64, name: &[u8]) -> ItemKey {
        ItemKey::new(TableId(table), name, None)
    }

    fn context(dots: &[(u64, u64)]) -> Context {
        let mut context = Context::new();
        for &(node, counter) in dots {
            let actor = Actor {
                node: NodeId(node),
                epoch: Epoch(node * 3),
            };
            context.add(Dot { actor, counter }, counter * 7);
        }
        context
    }

    fn dots() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0u64..5, 1u64..90), 0..40)
    }

    proptest! {
        #[test]
        fn tokens_round_trip_on_their_own_item(dots in dots()) {
            let context = context(&dots);
            let token = of_read(&key(1, b"a"), &context);
            prop_assert_eq!(decode(&key(1, b"a"), &token), Ok(context));
            for foreign in [key(1, b"b"), key(2, b"a")] {
                prop_assert!(decode(&foreign, &token).is_err());
            }
            let with_sort_key = ItemKey::new(TableId(1), b"a", Some(b"x"));
            prop_assert!(decode(&with_sort_key, &token).is_err());
        }

        #[test]
        fn any_text_is_a_token_or_is_refused(text in "[A-Za-z0-9_-]{0,200}|\\PC{0,40}") {
            prop_assert!(decode(&key(1, b"a"), &text).is_err());
        }

        /// Bytes behind a right checksum reach the decoder: it must bear them.
        #[test]
        fn any_bytes_behind_a_checksum_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let item = item_of(&key(1, b"a"));
            let mut token = vec![VERSION];
            token.extend_from_slice(&checksum(&item, &bytes).to_be_bytes());
            token.extend_from_slice(&item);
            token.extend_from_slice(&bytes);
            if let Ok(context) = decode(&key(1, b"a"), &URL_SAFE_NO_PAD.encode(&token)) {
                prop_assert!(context.is_well_formed());
                prop_assert_eq!(of_read(&key(1, b"a"), &context), URL_SAFE_NO_PAD.encode(&token));
            }
        }

        #[test]
        fn one_changed_character_is_refused(dots in dots(), place in any::<prop::sample::Index>(), other in "[A-Za-z0-9_=+/ -]") {
            let token = of_read(&key(1, b"a"), &context(&dots));
            let place = place.index(token.len());
            prop_assume!(token[place..=place] != other);
            let mut changed = token.clone();
            changed.replace_range(place..=place, &other);
            prop_assert!(decode(&key(1, b"a"), &changed).is_err());
            prop_assert!(decode(&key(1, b"a"), &token[..place]).is_err());
        }
    }

    #[test]
    fn a_context_has_one_spelling() {
        let key = key(1, b"a");
        let item = item_of(&key);
        let packed = |context: &[u8]| {
            let mut token = vec![VERSION];
            token.extend_from_slice(&checksum(&item, context).to_be_bytes());
            token.extend_from_slice(&item);
            token.extend_from_slice(context);
            URL_SAFE_NO_PAD.encode(&token)
        };
        assert_eq!(decode(&key, &packed(&[0])), Ok(Context::new()));
        // The same zero in two bytes; and a zero with something after it.
        assert!(decode(&key, &packed(&[0x80, 0])).is_err());
        assert!(decode(&key, &packed(&[0, 0])).is_err());
    }

    #[test]
    fn a_length_from_outside_allocates_nothing_much() {
        // A context that claims 2^63 actors.
        let bytes = [0xff; 9];
        let item = item_of(&key(1, b"a"));
        let mut token = vec![VERSION];
        token.extend_from_slice(&checksum(&item, &bytes).to_be_bytes());
        token.extend_from_slice(&item);
        token.extend_from_slice(&bytes);
        assert!(decode(&key(1, b"a"), &URL_SAFE_NO_PAD.encode(&token)).is_err());
    }

    #[test]
    fn a_write_token_forgets_the_oldest_of_a_long_cloud() {
        let every_other: Vec<(u64, u64)> = (1..=500).map(|n| (1, n * 2)).collect();
        let full = context(&every_other);
        let key = key(1, b"a");
        let short = decode(&key, &of_write(&key, &full)).unwrap();
        let actor = Actor {
            node: NodeId(1),
            epoch: Epoch(3),
        };
        assert!(short.covers(Dot {
            actor,
            counter: 1000
        }));
        assert!(!short.covers(Dot { actor, counter: 2 }));
        assert_eq!(decode(&key, &of_read(&key, &full)), Ok(full));
    }

    #[test]
    fn a_read_token_never_outgrows_a_header() {
        let every_other: Vec<(u64, u64)> = (1..=60_000).map(|n| (1, n * 2)).collect();
        let key = key(1, b"a");
        let token = of_read(&key, &context(&every_other));
        assert!(token.len() <= MAX_TOKEN_CHARS);
        assert!(decode(&key, &token).is_ok());
    }
}
