//! Bytes from outside, bent: what decodes them neither panics nor takes memory
//! that the bytes do not account for.
//!
//! Targets: context tokens, peer frames, stored rows, percent-encoded paths and
//! the membership record. Each begins with real encodings and bends them with
//! flips, cuts, repeats, splices and lengths that lie; where the encoding has a
//! checksum it is made right again, so that the decoder behind it is reached.
//! Whatever still decodes is bent further. Held against every case:
//!
//! - no panic (debug assertions and overflow checks are on);
//! - the most memory held at once is within a bound per byte of input plus a
//!   constant, counted by the allocator of this very process;
//! - what decodes encodes again to something that decodes to the same.
//!
//! `KINFOLD_FUZZ_CASES` says how many cases each target gets (2,000 unless set)
//! and `KINFOLD_FUZZ_SEED` which ones; a failure names its case, its seed and its
//! bytes. Not promised: that coverage guides the bending, as a fuzzer's would be.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use kinfold::api::{path, token};
use kinfold::clock::Dice;
use kinfold::protocol;
use kinfold::protocol::catalog::Catalog;
use kinfold::protocol::context::Context;
use kinfold::protocol::dot::{Actor, Dot, Epoch};
use kinfold::protocol::id::{ClusterId, ItemKey, NodeId, TableId};
use kinfold::protocol::layout::{Candidate, Layout as RingLayout};
use kinfold::protocol::machine::Machine;
use kinfold::protocol::membership::{Identity, Member, Pace, Persisted, Status};
use kinfold::protocol::message::Message;
use kinfold::protocol::replica::{Draft, Minting, Mutation, Row, SiblingLimits, apply};
use kinfold::protocol::time::Now;
use kinfold::store::row;
use kinfold::transport::codec;

/// The messages that the transport's own tests send: one of every kind.
#[allow(dead_code)]
#[path = "../src/transport/samples.rs"]
mod samples;

// Memory, counted per thread: tests run side by side.

struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn grew(bytes: usize) {
    // Threads that end allocate after their locals are gone; nobody measures them.
    let held = HELD.try_with(|held| {
        held.set(held.get().wrapping_add(bytes));
        held.get()
    });
    if let Ok(held) = held
        && PEAK
            .try_with(|peak| peak.set(peak.get().max(held)))
            .is_err()
    {
        std::process::abort();
    }
}

fn shrank(bytes: usize) {
    if HELD
        .try_with(|held| held.set(held.get().wrapping_sub(bytes)))
        .is_err()
    {
        // As above.
    }
}

// SAFETY: every call is handed to the system's allocator as it came; counting
// touches no memory that it gives out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrank(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What came of a run, and the most memory that it held at once beyond before.
fn measured<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let made = run();
    (made, PEAK.with(Cell::get).saturating_sub(before))
}

// Bending.

/// How many bent inputs are kept to be bent further.
const MAX_POOL: usize = 512;

/// Numbers, as variable-length integers, that lengths and counters trip over.
const VARINTS: &[&[u8]] = &[
    &[0],
    &[1],
    &[0x7f],
    &[0x80, 0x01],
    &[0xff, 0xff, 0x03],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x00],
];

struct Bender {
    dice: Dice,
    pool: Vec<Vec<u8>>,
    /// How many inputs the pool began with; those stay.
    real: usize,
}

impl Bender {
    fn new(seed: u64, real: Vec<Vec<u8>>) -> Self {
        let (dice, count) = (Dice::from_seed(seed), real.len());
        Bender {
            dice,
            pool: real,
            real: count,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.dice.next_u64() % bound.max(1) as u64) as usize
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = (length - start).min(40);
        start..start + self.below(most + 1)
    }

    fn bent(&mut self) -> Vec<u8> {
        let pick = self.below(self.pool.len());
        let mut bytes = self.pool[pick].clone();
        for _ in 0..=self.below(4) {
            self.bend(&mut bytes);
        }
        bytes
    }

    fn bend(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.dice.next_u64() as u8,
            2 => bytes.insert(at, self.dice.next_u64() as u8),
            3 => {
                let cut = self.range(bytes.len());
                bytes.drain(cut);
            }
            4 => {
                let again = self.range(bytes.len());
                let again = bytes[again].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let other = self.below(self.pool.len());
                let piece = self.range(self.pool[other].len());
                let piece = self.pool[other][piece].to_vec();
                let over = self.range(bytes.len());
                bytes.splice(over, piece);
            }
            6 => bytes.truncate(at),
            7 => {
                let number = VARINTS[self.below(VARINTS.len())];
                bytes.splice(at..at, number.iter().copied());
            }
            _ => {
                let number = VARINTS[self.below(VARINTS.len())];
                let end = (at + 1).min(bytes.len());
                bytes.splice(at..end, number.iter().copied());
            }
        }
    }

    fn keep(&mut self, bytes: Vec<u8>) {
        // Longer than any real one by far: bending it teaches nothing new.
        const MAX_KEPT_BYTES: usize = 4 << 10;
        if bytes.len() > MAX_KEPT_BYTES {
            return;
        }
        if self.pool.len() < MAX_POOL {
            self.pool.push(bytes);
        } else {
            let at = self.real + self.below(MAX_POOL - self.real);
            self.pool[at] = bytes;
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => otherwise,
    }
}

/// The most that may be held at once for an input of so many bytes.
#[derive(Clone, Copy)]
struct Bound {
    per_byte: usize,
    constant: usize,
}

/// Bends `real` inputs, seals each and has it decoded. `decode` gives none for
/// what is refused; what it gives is encoded again, and must decode the same.
fn fuzz<T: PartialEq + Debug>(
    target: &str,
    real: Vec<Vec<u8>>,
    bound: Bound,
    seal: impl Fn(&[u8]) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Option<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    let (cases, seed) = (
        number("KINFOLD_FUZZ_CASES", 2_000),
        number("KINFOLD_FUZZ_SEED", 1),
    );
    for bytes in &real {
        assert!(
            decode(&seal(bytes)).is_some(),
            "{target}: a real one is refused"
        );
    }
    let mut bender = Bender::new(seed, real);
    let (mut decoded, mut worst) = (0u64, 0usize);
    let mut most_per_byte = 0;
    for case in 0..cases {
        let bytes = bender.bent();
        let sealed = seal(&bytes);
        let told = || {
            format!(
                "{target}, seed {seed}, case {case}: {}",
                sealed.escape_ascii()
            )
        };
        let run = || measured(|| decode(&sealed));
        let (outcome, peak) =
            catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("it panics: {}", told()));
        let allowed = bound.per_byte * sealed.len() + bound.constant;
        assert!(
            peak <= allowed,
            "{peak} bytes held, {allowed} allowed: {}",
            told()
        );
        worst = worst.max(peak.saturating_sub(bound.per_byte * sealed.len()));
        if sealed.len() > 64 {
            most_per_byte = most_per_byte.max(peak / sealed.len());
        }
        if let Some(value) = outcome {
            decoded += 1;
            let again = encode(&value);
            assert_eq!(decode(&again).as_ref(), Some(&value), "{}", told());
            bender.keep(bytes);
        }
    }
    assert!(
        cases < 1_000 || decoded > 0,
        "{target}: {decoded} of {cases} decoded, so what lies behind is hardly reached"
    );
    println!(
        "{target}: {cases} cases, {decoded} decoded; of memory at most {most_per_byte} bytes per \
         byte of input, and {worst} beyond the share"
    );
}

// Real things.

fn dot(node: u64, counter: u64) -> Dot {
    let actor = Actor {
        node: NodeId(node),
        epoch: Epoch(node * 0x0101_0101),
    };
    Dot { actor, counter }
}

fn context(dots: &[(u64, u64)]) -> Context {
    let mut context = Context::new();
    for &(node, counter) in dots {
        context.add(dot(node, counter), counter.saturating_mul(1_000_000));
    }
    context
}

fn contexts() -> Vec<Context> {
    let long: Vec<(u64, u64)> = (1..20).map(|node| (node, node)).collect();
    let cloud: Vec<(u64, u64)> = (1..100).map(|counter| (1, counter * 2)).collect();
    vec![
        context(&[]),
        context(&[(1, 1)]),
        context(&[(1, 1), (1, 2), (2, 7), (2, 9), (3, u64::MAX)]),
        context(&long),
        context(&cloud),
    ]
}

fn key() -> ItemKey {
    ItemKey::new(TableId(7), b"a\0b", Some(b"s"))
}

fn rows() -> Vec<Vec<u8>> {
    let mut rows = vec![Row::default()];
    for client in contexts() {
        let last = rows.last().cloned();
        let mutation = Mutation::Write {
            draft: Draft {
                client,
                value: (rows.len() % 3 != 2).then(|| Bytes::from(vec![b'v'; rows.len() * 20])),
                content_type: "text/plain".into(),
            },
            minting: Minting {
                node: NodeId(rows.len() as u64 % 2 + 50),
                incarnation: 3,
                now_us: 5,
                fresh_epoch: Epoch(rows.len() as u64),
            },
            limits: SiblingLimits {
                fold_above: None,
                max_siblings: 100,
                max_actors: 30,
            },
        };
        let (row, _) = apply(last, mutation);
        rows.push(row.expect("a write changes the row"));
    }
    rows.iter().map(encoded_row).collect()
}

fn encoded_row(row: &Row) -> Vec<u8> {
    let mut buffer = Vec::new();
    row::encode(&key(), row, row.set.hash(), &mut buffer);
    buffer
}

fn record() -> Vec<u8> {
    let candidate = |node| Candidate {
        node: NodeId(node),
        weight_milli: 1000,
        zone: Arc::from("z"),
    };
    let member = |node| Member {
        node: NodeId(node),
        name: Arc::from("name"),
        incarnation: 2,
        status: Status::Up,
        address: Arc::from("127.0.0.1:8102"),
        weight_milli: 1000,
        zone: Arc::from("z"),
        wire_version: 1,
        heartbeat: 99,
        born: 1,
        layout_seen: 1,
        layout_synced: 1,
        synced_tag: 7,
        layout_read: 1,
    };
    let layout = RingLayout::founding(8, 3, candidate(1));
    let persisted = Persisted {
        node: NodeId(1),
        incarnation: 3,
        cluster: Some(ClusterId(9)),
        members: (1..4).map(member).collect(),
        layouts: vec![layout.next(&[candidate(1), candidate(2), candidate(3)])],
        catalog: Catalog::default(),
    };
    encoded_record(&persisted)
}

/// The node whose record it is.
fn identity() -> Identity {
    Identity {
        node: NodeId(1),
        name: "name".into(),
        address: "127.0.0.1:8101".into(),
        weight_milli: 1000,
        zone: "z".into(),
        wire_version: 1,
        seeds: Vec::new(),
        partitions: 8,
        replicas: 3,
    }
}

fn encoded_record(persisted: &Persisted) -> Vec<u8> {
    let mut bytes = vec![3];
    bytes.extend(postcard::to_stdvec(persisted).expect("it encodes into memory"));
    bytes
}

#[test]
fn context_tokens() {
    let key = key();
    // Version, checksum and item lie before the context.
    let real = contexts().into_iter().map(|context| {
        let token = token::of_read(&key, &context);
        let bytes = URL_SAFE_NO_PAD.decode(token).expect("our own token");
        bytes[5..].to_vec()
    });
    fuzz(
        "context tokens",
        real.collect(),
        Bound {
            per_byte: 20,
            constant: 4 << 10,
        },
        |rest| {
            let sum = crc32c::crc32c_append(crc32c::crc32c(&[1]), rest);
            let mut bytes = vec![1];
            bytes.extend_from_slice(&sum.to_be_bytes());
            bytes.extend_from_slice(rest);
            URL_SAFE_NO_PAD.encode(bytes).into_bytes()
        },
        |token| {
            let token = std::str::from_utf8(token).expect("base64 is ASCII");
            let context = token::decode(&key, token).ok()?;
            assert_eq!(token::of_read(&key, &context), token, "one spelling");
            Some(context)
        },
        |context| token::of_read(&key, context).into_bytes(),
    );
}

#[test]
fn the_text_of_context_tokens() {
    let key = key();
    let real = contexts().into_iter();
    fuzz(
        "the text of context tokens",
        real.map(|context| token::of_read(&key, &context).into_bytes())
            .collect(),
        Bound {
            per_byte: 20,
            constant: 4 << 10,
        },
        <[u8]>::to_vec,
        |text| token::decode(&key, &String::from_utf8_lossy(text)).ok(),
        |context| token::of_read(&key, context).into_bytes(),
    );
}

fn frame(message: &Message) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    codec::encode(message, &mut buffer).expect("the samples are small");
    buffer.to_vec()
}

#[test]
fn peer_frames() {
    let real = samples::one_of_each().into_iter();
    fuzz(
        "peer frames",
        real.map(|message| frame(&message)[codec::HEADER_BYTES..].to_vec())
            .collect(),
        Bound {
            per_byte: 64,
            constant: 8 << 10,
        },
        |payload| {
            let length = u32::try_from(payload.len()).expect("small");
            let mut frame = length.to_be_bytes().to_vec();
            frame.extend_from_slice(&crc32c::crc32c(payload).to_be_bytes());
            frame.extend_from_slice(payload);
            frame
        },
        |frame| codec::decode_one(frame).ok().flatten(),
        frame,
    );
}

#[test]
fn stored_rows() {
    let key = key();
    // Version and checksum lie before the state hash.
    let real = rows().into_iter().map(|bytes| bytes[5..].to_vec());
    fuzz(
        "stored rows",
        real.collect(),
        Bound {
            per_byte: 40,
            constant: 4 << 10,
        },
        |rest| {
            let sum = crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), &[1]);
            let sum = crc32c::crc32c_append(sum, rest);
            let mut bytes = vec![1];
            bytes.extend_from_slice(&sum.to_le_bytes());
            bytes.extend_from_slice(rest);
            bytes
        },
        |bytes| {
            let decoded = row::decode(&key, bytes).ok()?;
            row::skim(&key, bytes).expect("a row that decodes can be skimmed");
            Some(decoded)
        },
        encoded_row,
    );
}

#[test]
fn percent_encoded_paths() {
    let real = [
        "/v1/tables/carts/items/alice/2024%2F01",
        "%00%ff%2f%25",
        "plain",
        "%E2%82%AC/\u{20ac}",
    ];
    fuzz(
        "percent-encoded paths",
        real.iter().map(|text| text.as_bytes().to_vec()).collect(),
        Bound {
            per_byte: 20,
            constant: 4 << 10,
        },
        |bytes| String::from_utf8_lossy(bytes).into_owned().into_bytes(),
        |text| {
            let text = std::str::from_utf8(text).expect("it was made text");
            assert!(path::shorten(text).len() <= text.len());
            for segment in path::segments(text).iter() {
                let keys = [path::partition_key(segment), path::sort_key(segment)];
                let decoded = path::decode(segment).ok();
                for key in keys.into_iter().flatten() {
                    assert_eq!(Some(key), decoded);
                }
            }
            path::decode(text).ok().map(|decoded| decoded.into_owned())
        },
        |decoded| {
            let digits = decoded.iter().map(|byte| format!("%{byte:02X}"));
            digits.collect::<String>().into_bytes()
        },
    );
}

#[test]
fn membership_records() {
    fuzz(
        "membership records",
        vec![record()],
        Bound {
            per_byte: 80,
            constant: 16 << 10,
        },
        <[u8]>::to_vec,
        |bytes| Machine::read_record(bytes).ok(),
        |persisted| {
            // Whatever passes for a record, a node starts with it.
            let mut dice = Dice::from_seed(1);
            let now = Now {
                wall_us: 1,
                monotonic_ms: 1,
            };
            let (_, effects) = Machine::new(
                identity(),
                Pace::new(200),
                Some(persisted.clone()),
                1,
                now,
                Box::new(move || dice.next_u64()),
            );
            drop(effects);
            encoded_record(persisted)
        },
    );
}
