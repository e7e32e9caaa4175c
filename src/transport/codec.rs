//! Frames: how a message lies on the wire, and how bytes become messages again.
//!
//! Pure: nothing here knows a socket. A stream of wire version 1 is frames, one
//! after another, each of them
//!
//! ```text
//! byte 0        4             8                      8 + length
//! ┌─────────────┬─────────────┬──────────────────────┐
//! │ length, BE  │ CRC32C, BE  │ payload              │
//! │ u32         │ u32         │ postcard(Message)    │
//! └─────────────┴─────────────┴──────────────────────┘
//! ```
//!
//! `length` counts the payload alone, 1..=[`MAX_FRAME_BYTES`]; the checksum is
//! taken over the payload. The payload is the number of the variant of
//! [`Message`] as a varint and then its fields in order, as postcard 1 lays them
//! out; what later versions change they change behind another wire version,
//! which the two sides agree on before the first frame.
//!
//! Promises: any bytes decode to messages, a wish for more bytes, or an error,
//! never to a panic; a message that comes out is well formed (its sibling sets
//! obey their invariants); memory grows with the bytes that came, never with a
//! length that was merely claimed. Not promised: that a stream can be read on
//! after an error; where the next frame would begin is unknown.

use bytes::{Buf, BytesMut};
use postcard::ser_flavors::Flavor;

use crate::protocol::exchange;
use crate::protocol::message::{Ask, Message, ReadAnswer, Response};

/// The wire versions that this build reads and writes, ascending. A version is
/// added here one release before anything writes it. (Versions 1 and 2 were never
/// released.)
pub const WIRE_VERSIONS: &[u32] = &[3];

/// The largest payload, in bytes. Sixty-four values of the default limit (1 MiB)
/// fit, and so does every set that a table with a reconciler is likely to hold;
/// a hundred full siblings do not, but a frame has to be held whole in memory on
/// both sides, and one that takes a second to send starves every other message
/// on its connection.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// Length and checksum, in bytes.
pub const HEADER_BYTES: usize = 8;

/// How much room a decoder makes before each read, in bytes: many small frames
/// per system call, and the most that an idle connection costs.
const READ_STEP_BYTES: usize = 64 << 10;

/// A decoder that grew beyond this many bytes for a large frame gives the memory
/// back when it is empty again.
const KEEP_BYTES: usize = 1 << 20;

/// Why bytes are not frames, or a message not a frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The message is larger than a frame may be. Nothing was written.
    #[error("the message is larger than {MAX_FRAME_BYTES} bytes, the most that a frame holds")]
    TooLarge,
    /// The header claims a length that no frame has.
    #[error("a frame claims a payload of {claimed} bytes; 1 to {MAX_FRAME_BYTES} are allowed")]
    BadLength { claimed: u32 },
    /// The payload is not what was sent.
    #[error("a frame's checksum is {found:08x} where its header says {claimed:08x}")]
    BadChecksum { claimed: u32, found: u32 },
    /// The checksum is right but this is no message: the peer has a bug, or
    /// speaks another version than it agreed to.
    #[error("a frame does not hold a message of this wire version: {0}")]
    NotAMessage(postcard::Error),
    /// The payload decodes, but breaks an invariant of the types in it.
    #[error("a frame holds a message whose {0} is malformed")]
    Malformed(&'static str),
}

/// Appends to a buffer, up to a bound.
struct Appender<'a> {
    buffer: &'a mut BytesMut,
    /// The length that the buffer may reach.
    end: usize,
}

impl Flavor for Appender<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.end - self.buffer.len() < bytes.len() {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Counts what would be appended.
struct Counter(usize);

impl Flavor for Counter {
    type Output = usize;

    fn try_push(&mut self, _: u8) -> postcard::Result<()> {
        self.0 += 1;
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0 += bytes.len();
        Ok(())
    }

    fn finalize(self) -> postcard::Result<usize> {
        Ok(self.0)
    }
}

/// How long the message's frame is, header included, even if no frame may be so
/// long. Walks the message but not its values.
pub fn frame_bytes(message: &Message) -> usize {
    postcard::serialize_with_flavor(message, Counter(HEADER_BYTES))
        .expect("messages hold nothing that postcard cannot encode")
}

/// About how long the message's frame is, and no less: what a queue counts for it.
/// The messages that a request sends are not walked through for it.
pub fn room_for(message: &Message) -> usize {
    let room = match message {
        Message::Read { key, .. } => MAX_SMALL_FRAME_BYTES + key.as_bytes().len(),
        Message::Write { key, set, .. } => {
            MAX_SMALL_FRAME_BYTES + key.as_bytes().len() + set.room_bytes()
        }
        Message::ReadAnswer {
            answer: Ok(ReadAnswer::State(set)),
            ..
        } => MAX_SMALL_FRAME_BYTES + set.room_bytes(),
        Message::ReadAnswer {
            answer: Ok(ReadAnswer::Hash { .. }),
            ..
        }
        | Message::WriteAnswer { answer: Ok(()), .. }
        | Message::Probe { .. }
        | Message::ProbeAnswer { .. } => MAX_SMALL_FRAME_BYTES,
        other => return frame_bytes(other),
    };
    // What might not fit is measured: it must not be refused for a guess.
    if room > MAX_FRAME_BYTES {
        return frame_bytes(message);
    }
    room
}

/// The largest frame of a message of numbers only: five of ten bytes at most, and a
/// hash.
const MAX_SMALL_FRAME_BYTES: usize = HEADER_BYTES + 5 * 10 + 16;

/// Appends the message's frame to the buffer, or leaves the buffer as it was.
pub fn encode(message: &Message, buffer: &mut BytesMut) -> Result<(), FrameError> {
    let start = buffer.len();
    let payload_start = start + HEADER_BYTES;
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
    let appender = Appender {
        end: payload_start + MAX_FRAME_BYTES,
        buffer,
    };
    if let Err(error) = postcard::serialize_with_flavor(message, appender) {
        assert_eq!(
            error,
            postcard::Error::SerializeBufferFull,
            "messages hold nothing that postcard cannot encode"
        );
        buffer.truncate(start);
        return Err(FrameError::TooLarge);
    }
    let payload = &buffer[payload_start..];
    let length = u32::try_from(payload.len()).expect("a frame's length is bounded");
    let checksum = crc32c::crc32c(payload);
    buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
    buffer[start + 4..payload_start].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Cuts a stream of bytes into messages.
#[derive(Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer to append what was read to, with room for a read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_BYTES {
            self.buffer = BytesMut::new();
        }
        // Beyond this step the buffer doubles with what has really arrived.
        self.buffer.reserve(READ_STEP_BYTES);
        &mut self.buffer
    }

    /// Whether the stream might end here: no part of a frame is held.
    pub fn is_between_frames(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next message; none when more bytes are needed. After an error the
    /// stream is of no more use.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = u64::from_be_bytes(*header);
        let (claimed, checksum) = ((header >> 32) as u32, header as u32);
        let length = claimed as usize;
        if !(1..=MAX_FRAME_BYTES).contains(&length) {
            return Err(FrameError::BadLength { claimed });
        }
        let Some(payload) = self.buffer.get(HEADER_BYTES..HEADER_BYTES + length) else {
            return Ok(None);
        };
        let found = crc32c::crc32c(payload);
        if found != checksum {
            return Err(FrameError::BadChecksum {
                claimed: checksum,
                found,
            });
        }
        let message = decode_payload(payload)?;
        self.buffer.advance(HEADER_BYTES + length);
        Ok(Some(message))
    }
}

/// The message whose frame these bytes are, and nothing else.
pub fn decode_one(frame: &[u8]) -> Result<Option<Message>, FrameError> {
    let mut decoder = Decoder::new();
    decoder.buffer.extend_from_slice(frame);
    decoder.next_message()
}

fn decode_payload(payload: &[u8]) -> Result<Message, FrameError> {
    let (message, rest) =
        postcard::take_from_bytes::<Message>(payload).map_err(FrameError::NotAMessage)?;
    if !rest.is_empty() {
        return Err(FrameError::Malformed("end"));
    }
    check(&message)?;
    Ok(message)
}

/// The same of what a client is told.
fn is_well_formed(response: &Response) -> bool {
    match response {
        Response::Value(value) => value.context.is_well_formed(),
        Response::Siblings { set, .. } => set.is_well_formed(),
        Response::Absent { context } => context.as_ref().is_none_or(|c| c.is_well_formed()),
        Response::Written { context } => context.is_well_formed(),
        Response::Refused(_) => true,
        // A coordinator makes one of these of a read, and reads are not forwarded:
        // one within another would be of nobody's making.
        Response::Explained(explanation) => {
            !matches!(explanation.told, Response::Explained(_))
                && is_well_formed(&explanation.told)
                && explanation.set.is_well_formed()
        }
    }
}

/// Refuses what decodes but would break the invariants that the machines rely
/// on: checksums protect against the network, this against the sender.
fn check(message: &Message) -> Result<(), FrameError> {
    let well_formed = match message {
        Message::ReadAnswer {
            answer: Ok(ReadAnswer::State(set)),
            ..
        }
        | Message::Write { set, .. } => set.is_well_formed(),
        Message::Forward { item, .. } => match &item.ask {
            Ask::Put { client, .. } => client.is_well_formed(),
            Ask::Delete { client } => client.as_ref().is_none_or(|c| c.is_well_formed()),
            Ask::Get { .. } | Ask::Operate { .. } | Ask::Explain => true,
        },
        Message::ForwardAnswer { response, .. } => is_well_formed(response),
        Message::Exchange {
            ask: exchange::Ask::Give { rows, .. },
            ..
        }
        | Message::ExchangeAnswer {
            answer:
                Ok(
                    exchange::Answer::Compared { rows, .. }
                    | exchange::Answer::Pulled { rows, .. }
                    | exchange::Answer::Surveyed { rows, .. },
                ),
            ..
        } => rows.iter().all(|(_, set)| set.is_well_formed()),
        Message::Exchange { .. }
        | Message::ExchangeAnswer { .. }
        | Message::Read { .. }
        | Message::ReadAnswer { .. }
        | Message::WriteAnswer { .. }
        | Message::Probe { .. }
        | Message::ProbeAnswer { .. }
        | Message::GossipSummary(_)
        | Message::GossipNews(_)
        | Message::FetchModule { .. }
        | Message::Module { .. }
        | Message::Offer { .. }
        | Message::Adopt { .. }
        | Message::Accepted { .. } => true,
    };
    if well_formed {
        Ok(())
    } else {
        Err(FrameError::Malformed("causal context or sibling set"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use proptest::prelude::*;

    fn frames(messages: &[Message]) -> BytesMut {
        let mut buffer = BytesMut::new();
        for message in messages {
            let before = buffer.len();
            encode(message, &mut buffer).expect("the samples are small");
            assert_eq!(buffer.len() - before, frame_bytes(message));
            assert!(buffer.len() - before <= room_for(message));
        }
        buffer
    }

    /// Feeds the stream in pieces of these sizes, over and over.
    fn decode_in_pieces(
        mut stream: &[u8],
        pieces: &[usize],
    ) -> (Vec<Message>, Result<(), FrameError>) {
        let mut decoder = Decoder::new();
        let mut messages = Vec::new();
        for &piece in pieces.iter().cycle() {
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Err(error)),
                }
            }
            if stream.is_empty() {
                break;
            }
            let (now, later) = stream.split_at(piece.min(stream.len()));
            decoder.buffer().extend_from_slice(now);
            stream = later;
        }
        (messages, Ok(()))
    }

    #[test]
    fn a_probe_is_these_bytes() {
        // Drawn in full so that a change of layout cannot slip in unseen:
        // variant 6, id 300 as a varint.
        let frame = frames(&[Message::Probe {
            id: crate::protocol::message::MessageId(300),
        }]);
        let payload = [6, 0xac, 2];
        let mut expected = vec![0, 0, 0, 3];
        expected.extend_from_slice(&crc32c::crc32c(&payload).to_be_bytes());
        expected.extend_from_slice(&payload);
        assert_eq!(&frame[..], &expected[..]);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283, "Castagnoli's");
    }

    #[test]
    fn an_oversized_message_leaves_the_buffer_alone() {
        let mut buffer = frames(&samples::one_of_each()[..1]);
        let before = buffer.clone();
        assert_eq!(
            encode(&samples::module(MAX_FRAME_BYTES), &mut buffer),
            Err(FrameError::TooLarge)
        );
        assert_eq!(buffer, before);
        // The largest that fits: variant, digest, option and a four-byte length.
        let largest = samples::module(MAX_FRAME_BYTES - 38);
        encode(&largest, &mut buffer).expect("fits to the byte");
        assert_eq!(
            buffer.len(),
            before.len() + HEADER_BYTES + MAX_FRAME_BYTES,
            "this is the largest"
        );
        let (decoded, end) = decode_in_pieces(&buffer, &[READ_STEP_BYTES]);
        assert_eq!(end, Ok(()));
        assert_eq!(decoded.last(), Some(&largest));
    }

    #[test]
    fn a_claimed_length_reserves_nothing() {
        let mut decoder = Decoder::new();
        let header = u32::try_from(MAX_FRAME_BYTES).expect("small").to_be_bytes();
        decoder.buffer().extend_from_slice(&header);
        decoder.buffer().extend_from_slice(&[0; 4]);
        assert_eq!(decoder.next_message(), Ok(None));
        assert!(decoder.buffer().capacity() <= 4 * READ_STEP_BYTES);
    }

    #[test]
    fn memory_for_a_large_frame_is_given_back() {
        let stream = frames(&[samples::module(8 << 20)]);
        let mut decoder = Decoder::new();
        for piece in stream.chunks(READ_STEP_BYTES) {
            decoder.buffer().extend_from_slice(piece);
        }
        assert!(decoder.next_message().expect("whole").is_some());
        assert!(decoder.is_between_frames());
        assert!(decoder.buffer().capacity() <= KEEP_BYTES);
    }

    #[test]
    fn impossible_lengths_and_ends_are_refused() {
        for claimed in [0, MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
            let mut frame = claimed.to_be_bytes().to_vec();
            frame.extend_from_slice(&[0; 12]);
            assert_eq!(decode_one(&frame), Err(FrameError::BadLength { claimed }));
        }
        let payload = [6, 1, 0];
        let mut frame = vec![0, 0, 0, 3];
        frame.extend_from_slice(&crc32c::crc32c(&payload).to_be_bytes());
        frame.extend_from_slice(&payload);
        assert_eq!(decode_one(&frame), Err(FrameError::Malformed("end")));
    }

    #[test]
    fn an_ill_formed_sibling_set_is_refused() {
        // A set with a sibling that its context does not cover cannot be made
        // through the type, so its bytes are: an empty context in front of the
        // siblings of a real one.
        let write = samples::write(b"value");
        let mut frame = frames(std::slice::from_ref(&write));
        let payload = frame.split_off(HEADER_BYTES).to_vec();
        let Message::Write { set, .. } = &write else {
            unreachable!("samples::write writes");
        };
        let context = postcard::to_stdvec(set.context()).expect("encodes");
        let at = payload
            .windows(context.len())
            .position(|window| window == context)
            .expect("the set's context is in the payload");
        let mut broken = payload[..at].to_vec();
        broken.push(0);
        broken.extend_from_slice(&payload[at + context.len()..]);
        assert!(postcard::from_bytes::<Message>(&broken).is_ok());
        assert_eq!(
            decode_payload(&broken),
            Err(FrameError::Malformed("causal context or sibling set"))
        );
    }

    proptest! {
        #[test]
        fn any_cut_of_a_stream_gives_the_same_messages(
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            pieces in prop::collection::vec(1usize..200, 1..6),
        ) {
            let all = samples::one_of_each();
            let sent: Vec<Message> = picks.iter().map(|pick| pick.get(&all).clone()).collect();
            let (received, end) = decode_in_pieces(&frames(&sent), &pieces);
            prop_assert_eq!(end, Ok(()));
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn any_bytes_are_refused_or_wait(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (messages, _) = decode_in_pieces(&bytes, &[7]);
            prop_assert!(messages.is_empty(), "random bytes passed a checksum");
        }

        /// As above, but past the checksum, where the payload's decoder is.
        #[test]
        fn any_payload_decodes_or_is_refused(
            variant in 0u8..16,
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            bytes.insert(0, variant);
            if let Ok(message) = decode_payload(&bytes) {
                prop_assert!(check(&message).is_ok());
            }
        }

        #[test]
        fn a_damaged_payload_of_a_real_message_never_panics(
            pick in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let frame = frames(std::slice::from_ref(pick.get(&samples::one_of_each())));
            let mut payload = frame[HEADER_BYTES..].to_vec();
            let at = place.index(payload.len());
            payload[at] = byte;
            if let Ok(message) = decode_payload(&payload) {
                prop_assert!(check(&message).is_ok());
            }
        }

        #[test]
        fn one_flipped_bit_is_noticed(
            pick in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(),
            bit in 0u32..8,
        ) {
            let message = pick.get(&samples::one_of_each()).clone();
            let mut frame = frames(&[message, samples::write(b"next")]);
            let at = place.index(frame.len());
            frame[at] ^= 1 << bit;
            let (received, _) = decode_in_pieces(&frame, &[1000]);
            prop_assert!(received.len() < 2);
        }
    }
}
