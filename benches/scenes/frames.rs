//! Scenes of the peer wire: each message of a put and of a get, to bytes and back.

use bytes::{Bytes, BytesMut};
use kinfold::protocol::context::Context;
use kinfold::protocol::id::Partition;
use kinfold::protocol::message::{Message, MessageId, ReadAnswer};
use kinfold::protocol::siblings::SiblingSet;
use kinfold::transport::codec::{Decoder, encode};

use super::{LARGE_BYTES, SMALL_BYTES, Scene, dot, key, usual, version};

/// The messages of a put and of a get, by what they are called here.
pub fn messages() -> Vec<(&'static str, Message)> {
    let id = MessageId(0x1234_5678_9abc_def0);
    let partition = Partition(171);
    let delta = |size_bytes| SiblingSet::delta(&Context::new(), dot(1, 5), version(size_bytes));
    let write = |size_bytes| Message::Write {
        id,
        partition,
        key: key(1),
        set: delta(size_bytes),
        hint_for: None,
    };
    let state = |size_bytes| Message::ReadAnswer {
        id,
        answer: Ok(ReadAnswer::State(usual(size_bytes))),
    };
    vec![
        ("Write, 900 bytes", write(SMALL_BYTES)),
        ("Write, 100 kB", write(LARGE_BYTES)),
        ("WriteAnswer", Message::WriteAnswer { id, answer: Ok(()) }),
        (
            "Read, hash only",
            Message::Read {
                id,
                partition,
                key: key(1),
                hash_only: true,
            },
        ),
        (
            "ReadAnswer, hash",
            Message::ReadAnswer {
                id,
                answer: Ok(ReadAnswer::Hash {
                    hash: usual(SMALL_BYTES).hash(),
                    is_empty: false,
                }),
            },
        ),
        ("ReadAnswer, 900 bytes", state(SMALL_BYTES)),
        ("ReadAnswer, 100 kB", state(LARGE_BYTES)),
    ]
}

/// All of them.
pub fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (what, message) in messages() {
        let mut frame = BytesMut::new();
        encode(&message, &mut frame).expect("it is small");
        let frame: Bytes = frame.freeze();
        let batch = if frame.len() > SMALL_BYTES * 2 {
            32
        } else {
            1024
        };
        let mut buffer = BytesMut::with_capacity(frame.len());
        // A connection's buffer is used again and again.
        let work = move |()| {
            buffer.clear();
            encode(&message, &mut buffer).expect("it is small");
            buffer.len()
        };
        let name = format!("frame/encode {what}");
        scenes.push(Scene::new(name, || (), work).in_batches_of(batch));
        let make = move || {
            let mut decoder = Decoder::new();
            decoder.buffer().extend_from_slice(&frame);
            decoder
        };
        let work = |mut decoder: Decoder| {
            let message = decoder.next_message().expect("our own frame");
            (message.expect("whole"), decoder)
        };
        // Each decoder has the room that a connection has.
        let name = format!("frame/decode {what}");
        scenes.push(Scene::new(name, make, work).in_batches_of(batch.min(256)));
    }
    scenes
}
