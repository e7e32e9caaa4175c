//! Request bodies: read up to a limit, within a time, or not at all.
//!
//! Promises: a body whose `Content-Length` is over the limit is refused before
//! a byte of it is asked for (`Expect: 100-continue` is then never answered); one
//! of unknown length is refused at the first byte over it. What was not read when
//! the answer is ready is thrown away beside the answer, up to a bound, because a
//! server that closes on unread bytes makes many clients lose the answer to a
//! reset.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::headers::Said;
use super::problem::{Code, Problem};

/// How long a client may take over its body. A megabyte in 30 s is 280 kbit/s;
/// slower clients hold memory for too long.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a body that nobody wants is thrown away before the connection is
/// closed, in bytes: as much as the largest value of the most generous table.
const MAX_DISCARD_BYTES: usize = 16 << 20;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(3);

/// A body that may still be read.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    /// The client waits for `100 Continue` and sends nothing until then.
    waits: bool,
}

impl RequestBody {
    /// The body of a request whose headers say this.
    pub fn new(said: Said, incoming: Incoming) -> Self {
        RequestBody {
            incoming: (!incoming.is_end_stream()).then_some(incoming),
            waits: said.has(Said::EXPECTATION),
        }
    }

    /// How many bytes to make room for before [`RequestBody::read`] with this
    /// limit: what the client says, or the limit when it does not say. Nothing
    /// for a body that is going to be refused.
    pub fn expected_bytes(&self, limit_bytes: u64) -> u64 {
        let Some(incoming) = &self.incoming else {
            return 0;
        };
        match incoming.size_hint().exact() {
            Some(bytes) if bytes > limit_bytes => 0,
            Some(bytes) => bytes,
            None => limit_bytes,
        }
    }

    /// Reads the whole body; 413 when it has more than `limit_bytes`.
    pub async fn read(&mut self, limit_bytes: u64) -> Result<Bytes, Problem> {
        let too_large = || {
            Problem::body_too_large(format_args!(
                "the body is longer than the {limit_bytes} bytes that are taken here"
            ))
        };
        let Some(incoming) = &mut self.incoming else {
            return Ok(Bytes::new());
        };
        if incoming.size_hint().lower() > limit_bytes {
            return Err(too_large());
        }
        self.waits = false;
        let all = async {
            let mut first = Bytes::new();
            let mut whole = BytesMut::new();
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(|error| {
                    Problem::bad_request(format_args!("the body ended early: {error}"))
                })?;
                // Trailers say nothing that we know.
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                let so_far = first.len() + whole.len() + data.len();
                if so_far as u64 > limit_bytes {
                    return Err(too_large());
                }
                if first.is_empty() && whole.is_empty() {
                    // Most bodies come in one piece, which is kept as it is.
                    first = data;
                } else {
                    if whole.is_empty() {
                        whole.reserve(so_far + incoming.size_hint().lower() as usize);
                        whole.extend_from_slice(&std::mem::take(&mut first));
                    }
                    whole.extend_from_slice(&data);
                }
            }
            Ok(if whole.is_empty() {
                first
            } else {
                whole.freeze()
            })
        };
        let read = {
            let mut all = pin!(all);
            let at_once = poll_fn(|context| Poll::Ready(all.as_mut().poll(context))).await;
            match at_once {
                // Most bodies come with their heads: no timer is made for them.
                Poll::Ready(read) => read,
                Poll::Pending => tokio::time::timeout(READ_TIMEOUT, all)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Problem::new(
                            Code::RequestTimeout,
                            format_args!(
                                "the body did not come within {} s",
                                READ_TIMEOUT.as_secs()
                            ),
                        ))
                    }),
            }
        };
        if read.is_ok() {
            self.incoming = None;
        }
        read
    }

    /// Lets go of what was not read. The answer is sent meanwhile.
    pub fn discard(&mut self) {
        let Some(mut incoming) = self.incoming.take() else {
            return;
        };
        if self.waits {
            // Polling would invite the client to send what nobody wants.
            return;
        }
        if take_what_is_there(&mut incoming) {
            return;
        }
        // One such task lives as long as its connection at most, and connections
        // are bounded where they are accepted.
        tokio::spawn(tokio::time::timeout(DISCARD_TIMEOUT, async move {
            let mut discarded_bytes = 0;
            while discarded_bytes < MAX_DISCARD_BYTES {
                match incoming.frame().await {
                    Some(Ok(frame)) => {
                        discarded_bytes += frame.data_ref().map_or(0, Bytes::len);
                    }
                    Some(Err(_)) | None => break,
                }
            }
        }));
    }
}

/// Throws away what has arrived of a body. True when that was all of it, as it is
/// of most: they come with their heads.
fn take_what_is_there(incoming: &mut Incoming) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match Pin::new(&mut *incoming).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_)) | None) => return true,
            Poll::Pending => return incoming.is_end_stream(),
        }
    }
}
