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

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};

use super::headers::{self, Said};
use super::problem::{Code, Problem};
use crate::protocol::context::Context;
use crate::protocol::id::ItemKey;

/// The version of the layout above.
const VERSION: u8 = 1;
/// Version and checksum.
const SUM_END: usize = 1 + 4;
/// Version, checksum and item.
const PREFIX_BYTES: usize = SUM_END + ITEM_BYTES;
/// How much of the item's hash goes in: enough that no mistake passes.
const ITEM_BYTES: usize = 8;

/// As many bytes as most tokens have, and more: a context of three actors has about a
/// hundred. Longer ones are put together in memory of their own.
const USUAL_BYTES: usize = 255;
/// As many characters as they are written in.
const USUAL_CHARS: usize = USUAL_BYTES.div_ceil(3) * 4;

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

/// The checksum of a token, of which this is what comes after the checksum.
fn checksum(item_and_context: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[VERSION]), item_and_context)
}

/// What `make` makes of the characters of a token. Those of a usual one are put together
/// without taking memory for them.
fn pack<T>(key: &ItemKey, context: &Context, make: impl FnOnce(&[u8]) -> T) -> T {
    let mut usual = [0; USUAL_BYTES];
    // The prefix is known when the rest is there.
    if let Ok(encoded) = postcard::to_slice(context, &mut usual[PREFIX_BYTES..]) {
        let length = PREFIX_BYTES + encoded.len();
        seal(key, &mut usual[..length]);
        let mut text = [0; USUAL_CHARS];
        let written = URL_SAFE_NO_PAD.encode_slice(&usual[..length], &mut text);
        return make(&text[..written.expect("there is room for as many as there may be")]);
    }
    let long = vec![0; PREFIX_BYTES];
    let mut long = postcard::to_extend(context, long).expect("a context encodes into memory");
    seal(key, &mut long);
    make(URL_SAFE_NO_PAD.encode(long).as_bytes())
}

/// Writes the prefix of a token, of which everything else is there.
fn seal(key: &ItemKey, token: &mut [u8]) {
    token[0] = VERSION;
    token[SUM_END..PREFIX_BYTES].copy_from_slice(&item_of(key));
    let sum = checksum(&token[SUM_END..]);
    token[1..SUM_END].copy_from_slice(&sum.to_be_bytes());
}

fn pack_of_read<T>(key: &ItemKey, context: &Context, make: impl Fn(&[u8]) -> T) -> T {
    let fit = |token: &[u8]| (token.len() <= MAX_TOKEN_CHARS).then(|| make(token));
    pack(key, context, fit).unwrap_or_else(|| pack_of_write(key, context, make))
}

fn pack_of_write<T>(key: &ItemKey, context: &Context, make: impl FnOnce(&[u8]) -> T) -> T {
    if context
        .iter()
        .all(|(_, seen)| seen.beyond.len() <= MAX_TOKEN_CLOUD)
    {
        return pack(key, context, make);
    }
    let mut short = context.clone();
    short.shorten_clouds(MAX_TOKEN_CLOUD);
    pack(key, &short, make)
}

fn text(token: &[u8]) -> String {
    String::from_utf8(token.to_vec()).expect("base64url is ASCII")
}

fn value(token: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(token).expect("base64url is visible ASCII")
}

/// The token of a read: it covers the whole context, unless that would be longer
/// than any header.
pub fn of_read(key: &ItemKey, context: &Context) -> String {
    pack_of_read(key, context, text)
}

/// The same as a header.
pub fn header_of_read(key: &ItemKey, context: &Context) -> HeaderValue {
    pack_of_read(key, context, value)
}

/// The token of a write: its clouds are cut to [`MAX_TOKEN_CLOUD`].
pub fn of_write(key: &ItemKey, context: &Context) -> String {
    pack_of_write(key, context, text)
}

/// The same as a header.
pub fn header_of_write(key: &ItemKey, context: &Context) -> HeaderValue {
    pack_of_write(key, context, value)
}

/// A token as a header.
pub fn header(token: &str) -> HeaderValue {
    value(token.as_bytes())
}

/// The context in a token for this item; else what is wrong with it.
pub fn decode(key: &ItemKey, token: &str) -> Result<Context, &'static str> {
    if token.len() > MAX_TOKEN_CHARS {
        return Err("it is longer than any token");
    }
    let mut usual = [0; USUAL_BYTES];
    let bytes = match URL_SAFE_NO_PAD.decode_slice(token, &mut usual) {
        Ok(length) => Cow::Borrowed(&usual[..length]),
        // It is longer than most, or wrong.
        Err(_) => URL_SAFE_NO_PAD
            .decode(token)
            .map(Cow::Owned)
            .map_err(|_| "it is not base64url without padding")?,
    };
    if bytes.len() < PREFIX_BYTES {
        return Err("it is too short");
    }
    let (prefix, encoded) = bytes.split_at(PREFIX_BYTES);
    let (version, sum, item) = (prefix[0], &prefix[1..SUM_END], &prefix[SUM_END..]);
    if version != VERSION {
        return Err("it is of a version that this node does not know");
    }
    if sum != checksum(&bytes[SUM_END..]).to_be_bytes() {
        return Err("its checksum does not match: it was cut or changed");
    }
    if item != item_of(key) {
        return Err("it belongs to another item");
    }
    let (context, rest) =
        postcard::take_from_bytes::<Context>(encoded).map_err(|_| "it does not hold a context")?;
    // Varints have longer spellings too; only the one that we write is a token.
    let mut again = [0; USUAL_BYTES];
    let canonical = match again.get_mut(..encoded.len()) {
        Some(again) => postcard::to_slice(&context, again).is_ok_and(|again| again == encoded),
        None => postcard::to_stdvec(&context).is_ok_and(|again| again == encoded),
    };
    if !rest.is_empty() || !canonical || !context.is_well_formed() {
        return Err("it does not hold a context that a node made");
    }
    Ok(context)
}

/// The context that a request carries for this item, if it carries one.
pub fn of_request(
    said: Said,
    headers: &HeaderMap,
    key: &ItemKey,
) -> Result<Option<Context>, Problem> {
    if !said.has(Said::CONTEXT) {
        return Ok(None);
    }
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
            token.extend_from_slice(&checksum(&[&item, &bytes[..]].concat()).to_be_bytes());
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
    fn tokens_of_every_length_are_made_alike() {
        let key = key(1, b"a");
        let mut lengths = std::collections::BTreeSet::new();
        for actors in 0..60 {
            let dots: Vec<(u64, u64)> = (0..actors).map(|actor| (actor, 1 + actor)).collect();
            let context = context(&dots);
            let token = of_read(&key, &context);
            assert_eq!(of_write(&key, &context), token);
            assert_eq!(header_of_read(&key, &context), token);
            assert_eq!(header_of_write(&key, &context), token);
            assert_eq!(header(&token), token);
            assert_eq!(decode(&key, &token), Ok(context));
            lengths.insert(token.len());
        }
        assert!(lengths.first() < Some(&USUAL_CHARS) && lengths.last() > Some(&USUAL_CHARS));
    }

    #[test]
    fn a_context_has_one_spelling() {
        let key = key(1, b"a");
        let item = item_of(&key);
        let packed = |context: &[u8]| {
            let mut token = vec![VERSION];
            token.extend_from_slice(&checksum(&[&item, context].concat()).to_be_bytes());
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
        token.extend_from_slice(&checksum(&[&item[..], &bytes].concat()).to_be_bytes());
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
