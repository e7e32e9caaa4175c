//! What clients are given time for: the stream of one connection.
//!
//! Promises: nothing of a next request is read while the gate has no room, for
//! [`gate::MAX_WAIT`] at most; a client that takes nothing of its answer for
//! [`MAX_STALL`] gets an error of the stream, which ends its connection.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};

use crate::api::gate::{self, Gate};

/// How long a client may take nothing of what it is sent. Answers that the
/// system's buffers hold do not count, so a client at the far end of a slow line
/// is not meant by this.
pub const MAX_STALL: Duration = Duration::from_secs(20);

/// How long an answer is that is handed to the system in one piece: to copy so much costs
/// less than to have the system look at two pieces.
const SHORT_BYTES: usize = 2048;

/// The pieces one after the other, where there is room for them.
fn join<'a>(pieces: &[IoSlice<'_>], room: &'a mut [u8; SHORT_BYTES]) -> Option<&'a [u8]> {
    let mut end = 0;
    for piece in pieces {
        let place = room.get_mut(end..end + piece.len())?;
        place.copy_from_slice(piece);
        end += piece.len();
    }
    Some(&room[..end])
}

/// Where a connection waits before it reads its next request: until there is room for
/// it, or it has waited for long enough.
pub(super) struct Door {
    gate: Arc<Gate>,
    /// Whether a request is being answered: what is read then belongs to it.
    pub(super) in_hand: Arc<AtomicBool>,
    /// While it waits for room: word of it, and the end of its patience, which lasts
    /// until something was read.
    room: Option<Pin<Box<OwnedNotified>>>,
    patience: Option<Pin<Box<Sleep>>>,
    max_wait: Duration,
}

impl Door {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Door {
            gate,
            in_hand: Arc::default(),
            room: None,
            patience: None,
            max_wait: gate::MAX_WAIT,
        }
    }

    /// Ready when the next bytes may be read.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.in_hand.load(Ordering::Relaxed) && self.gate.is_full() {
            let max_wait = self.max_wait;
            let patience = self
                .patience
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(max_wait)));
            if patience.as_mut().poll(context).is_ready() {
                break;
            }
            let gate = &self.gate;
            let room = self.room.get_or_insert_with(|| Box::pin(gate.wait()));
            ready!(room.as_mut().poll(context));
            self.room = None;
        }
        if let Some(mut room) = self.room.take() {
            // Word of room that is dropped unread goes to the next one who waits, who
            // would find it taken.
            let _taken = room.as_mut().poll(context);
        }
        Poll::Ready(())
    }

    /// It was let in, and this is what it had to say.
    fn note_read(&mut self, has_nothing: bool) {
        if self.patience.take().is_some() && has_nothing {
            // The room is another's.
            self.gate.tell_of_room();
        }
    }
}

/// A connection that reads when its door is open, if it has one, and gives up when
/// nothing can be written for [`MAX_STALL`].
pub(super) struct Impatient<S> {
    stream: S,
    door: Option<Door>,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    max_stall: Duration,
}

impl<S> Impatient<S> {
    /// One that is never held up at a door.
    pub(super) fn new(stream: S) -> Self {
        Impatient {
            stream,
            door: None,
            stall: None,
            max_stall: MAX_STALL,
        }
    }

    /// One that asks at this door.
    pub(super) fn with(mut self, door: Door) -> Self {
        self.door = Some(door);
        self
    }

    /// Passes on what a write came to, unless it has waited for too long.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let max_stall = self.max_stall;
        let stall = self.stall.get_or_insert_with(|| {
            let deadline = Instant::now() + max_stall;
            Box::pin(tokio::time::sleep_until(deadline))
        });
        ready!(stall.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of what it is sent",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(door) = &mut this.door else {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        };
        ready!(door.poll_open(context));
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        door.note_read(read.is_pending());
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut short = [0; SHORT_BYTES];
        let stream = Pin::new(&mut self.stream);
        let written = match join(bytes, &mut short) {
            Some(joined) => stream.poll_write(context, joined),
            None => stream.poll_write_vectored(context, bytes),
        };
        self.watch(context, written)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn requests_stay_unread_until_there_is_room_or_patience_ends() {
        let gate = Arc::new(Gate::new(1));
        let polite = |max_wait_ms| {
            let (near, far) = tokio::io::duplex(64);
            let door = Door {
                max_wait: Duration::from_millis(max_wait_ms),
                ..Door::new(gate.clone())
            };
            let in_hand = door.in_hand.clone();
            (Impatient::new(near).with(door), far, in_hand)
        };
        let mut passes = Vec::new();
        while !gate.is_full() {
            passes.push(gate.enter().expect("room"));
        }
        let mut byte = [0; 1];
        let (mut near, mut far, in_hand) = polite(600_000);
        far.write_all(b"ab").await.expect("taken");
        let reading = tokio::spawn(async move {
            near.read_exact(&mut [0; 1]).await.expect("read");
            near
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        // One that has nothing to ask came last, so the room is offered to it first.
        let (mut idle, _silent, _) = polite(600_000);
        let idling = tokio::spawn(async move { idle.read(&mut [0; 1]).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!reading.is_finished(), "read with no room");
        drop(passes.pop());
        let mut near = reading.await.expect("it is passed on");
        passes.push(gate.enter().expect("room"));
        assert!(gate.is_full());
        // What belongs to a request in hand is read at once.
        in_hand.store(true, Ordering::Relaxed);
        near.read_exact(&mut byte).await.expect("read");
        assert_eq!(&byte, b"b");
        // Nobody waits for ever.
        let (mut near, mut far, _) = polite(20);
        far.write_all(b"c").await.expect("taken");
        near.read_exact(&mut byte).await.expect("read");
        assert_eq!(&byte, b"c");
        idling.abort();
    }

    #[test]
    fn short_answers_are_one_piece() {
        let joined = |pieces: &[&[u8]]| {
            let pieces: Vec<IoSlice> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            join(&pieces, &mut [0; SHORT_BYTES]).map(<[u8]>::to_vec)
        };
        assert_eq!(
            joined(&[b"head", b"", b"body"]).as_deref(),
            Some(&b"headbody"[..])
        );
        let long = [7; SHORT_BYTES];
        assert_eq!(joined(&[&long]).as_deref(), Some(&long[..]));
        assert_eq!(joined(&[b"h", &long]), None);
        assert_eq!(joined(&[&long, b"", b"t"]), None);
    }

    #[tokio::test]
    async fn who_takes_nothing_is_given_up() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Impatient {
            max_stall: Duration::from_millis(20),
            ..Impatient::new(near)
        };
        // As much as fits, and all of it once it is taken.
        near.write_all(&[1; 64]).await.expect("it fits");
        let taking = tokio::spawn(async move {
            let mut taken = [0; 128];
            far.read_exact(&mut taken).await.expect("it comes");
            far
        });
        near.write_all(&[2; 64]).await.expect("it is taken");
        let far = taking.await.expect("taken");
        let error = near
            .write_all(&[3; 128])
            .await
            .expect_err("nobody takes it");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
