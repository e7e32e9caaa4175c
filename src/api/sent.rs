//! What a response's body may be: bytes that are there, or lines as they come.
//!
//! Promises: lines leave as soon as they are given, whole; at most
//! [`MAX_WAITING_LINES`] wait, then whoever gives them waits; when the client has
//! gone, giving fails.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// How many lines wait for a slow client.
pub const MAX_WAITING_LINES: usize = 4;

/// A response's body.
pub enum Sent {
    Whole(Full<Bytes>),
    Lines(mpsc::Receiver<Bytes>),
}

impl From<Full<Bytes>> for Sent {
    fn from(whole: Full<Bytes>) -> Self {
        Sent::Whole(whole)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Sent::Whole(whole) => Pin::new(whole).poll_frame(context),
            Sent::Lines(lines) => {
                let line = ready!(lines.poll_recv(context));
                Poll::Ready(line.map(|line| Ok(Frame::data(line))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Sent::Whole(whole) => whole.is_end_stream(),
            Sent::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Sent::Whole(whole) => whole.size_hint(),
            Sent::Lines(_) => SizeHint::default(),
        }
    }
}
