//! Answers that come line by line.
//!
//! Promises: a line is given as soon as it is whole; a connection on which
//! nothing comes for as long as the caller is patient is an error; an answer that
//! is no success is given whole, like any other. A connection that was read this
//! way is not used again.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::header::HOST;
use tokio::time::timeout;

use super::{Client, ClientError, Endpoint, MAX_REPLY_BYTES, Reply, Request, build, take_in};

impl Client {
    /// Sends a request and hands over each line of the answer. Endpoints that take
    /// no connection are passed over. The reply's body is empty when its lines were
    /// handed over.
    pub async fn lines(
        &self,
        request: Request,
        patience: Duration,
        mut on_line: impl FnMut(&[u8]),
    ) -> Result<Reply, ClientError> {
        let mut refusal = None;
        for endpoint in &self.inner.endpoints {
            let mut sender = match endpoint.connect().await {
                Ok(sender) => sender,
                Err(source) => {
                    refusal = Some(source);
                    continue;
                }
            };
            let mut message = build(&request)?;
            message.headers_mut().insert(HOST, endpoint.host.clone());
            let late = || ClientError::TimedOut {
                endpoint: endpoint.url.clone(),
                after: patience,
            };
            let broken = |source| ClientError::Broken {
                endpoint: endpoint.url.clone(),
                source,
            };
            let answer = timeout(patience, sender.send_request(message)).await;
            let answer = answer.map_err(|_| late())?.map_err(broken)?;
            if !answer.status().is_success() {
                return take_in(endpoint, answer).await;
            }
            let (parts, mut body) = answer.into_parts();
            let mut rest = BytesMut::new();
            while let Some(frame) = timeout(patience, body.frame()).await.map_err(|_| late())? {
                // Trailers say nothing that we know.
                let Ok(data) = frame.map_err(broken)?.into_data() else {
                    continue;
                };
                rest.extend_from_slice(&data);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line = rest.split_to(end + 1);
                    on_line(&line[..end]);
                }
                if rest.len() > MAX_REPLY_BYTES {
                    return Err(too_long(endpoint));
                }
            }
            if !rest.is_empty() {
                on_line(&rest);
            }
            return Ok(Reply {
                status: parts.status,
                headers: parts.headers,
                body: Bytes::new(),
            });
        }
        Err(self.unreachable(refusal))
    }
}

fn too_long(endpoint: &Endpoint) -> ClientError {
    ClientError::BadBody {
        endpoint: endpoint.url.clone(),
        source: "a line of the answer does not end".into(),
    }
}
