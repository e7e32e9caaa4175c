//! Accepting connections: how many, for how long, and what becomes of the rest.
//!
//! Promises: at most [`MAX_CONNECTIONS`] connections are served, fewer where the
//! system gives the process fewer files; who comes then is accepted all the same
//! and told to come again (503 `overloaded`), since waiting in the listener's
//! backlog tells nobody anything; when even those are too many, connections are
//! closed unread. Peers and probes are served among them: a node with too many
//! clients must not drop out of its cluster. A client that takes nothing of its
//! answer for [`MAX_STALL`] loses its connection, because the answer is held in
//! memory until then.
//!
//! Everything that a node serves, it serves on threads of its own ([`Serving`]).

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};

use crate::api::gate::{self, Gate};
use crate::api::service::Service;
use crate::api::{self, Api};
use crate::node::Node;

/// How many connections are served at once. Each costs some kilobytes and a file
/// descriptor.
pub const MAX_CONNECTIONS: usize = 16_384;
/// How many connections more are being told that there is no room. They are gone
/// within moments, or after [`TURN_AWAY_TIMEOUT`].
const MAX_TURNED_AWAY: usize = 256;
/// How long a client that there is no room for may take to say what it wants.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client may take nothing of what it is sent. Answers that the
/// system's buffers hold do not count, so a client at the far end of a slow line
/// is not meant by this.
pub const MAX_STALL: Duration = Duration::from_secs(20);
/// How many files the process needs for itself: databases with their logs,
/// modules, and connections to peers.
const OWN_FILES: usize = 256;
/// How long to let be when the system has no file descriptor to give: trying
/// again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long connections without a request stay open once the server was told to
/// stop. A request that is on its way to one is answered, with a refusal and a
/// word to close, where a closed connection would leave its client not knowing
/// whether its write was stored.
pub const LINGER: Duration = Duration::from_millis(250);

/// The threads that serve clients and peers. They end with it, in the background: it
/// may go where nobody may wait.
///
/// They are few: what clients, peers and the machine have to do with each other for
/// one request is a dozen small steps, and each that is handed to another thread
/// costs more than the step itself.
pub struct Serving(Option<Runtime>);

impl Serving {
    /// So many threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("serving")
            .enable_all()
            .build()?;
        Ok(Serving(Some(runtime)))
    }

    /// What is spawned on it runs on these threads.
    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is there until it goes").handle()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// How many connections to serve when the process may open this many files.
fn room_with(max_files: usize) -> usize {
    let for_clients = max_files.saturating_sub(OWN_FILES + MAX_TURNED_AWAY);
    // With very few files some go to clients all the same, or none would be served.
    for_clients.max(max_files / 4 + 1).min(MAX_CONNECTIONS)
}

/// How many files the process may open, as Linux tells; elsewhere it is not
/// asked, and accepting stops for moments when there are none left.
fn max_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Accepts connections until `shutdown` ends. They are served on the runtime that
/// this runs on.
pub async fn serve(
    listener: TcpListener,
    api: Arc<Api<Node>>,
    stopped: watch::Receiver<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let count = max_files().map_or(MAX_CONNECTIONS, room_with);
    if count < MAX_CONNECTIONS {
        tracing::info!(
            connections = count,
            "the limit on open files bounds connections"
        );
    }
    let room = Arc::new(Semaphore::new(count));
    let doorstep = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone at once");
            continue;
        }
        if let Ok(permit) = room.clone().try_acquire_owned() {
            let (api, stopped) = (api.clone(), stopped.clone());
            tokio::spawn(async move {
                attend(stream, api, stopped).await;
                drop(permit);
            });
        } else if let Ok(permit) = doorstep.clone().try_acquire_owned() {
            tokio::spawn(turn_away(stream, api.clone(), permit));
        } else {
            tracing::debug!("a connection was closed unread: too many are being turned away");
        }
    }
}

/// Ends when the server stops.
async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _gone = stopped.wait_for(|stop| *stop).await.map(drop);
}

/// Serves a connection to its end: until its client goes, or `stopped` turns true.
pub async fn attend<S, N>(stream: S, api: Arc<Api<N>>, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    N: Service,
{
    let stopping = stopped.clone();
    let door = Door::new(api.gate().clone());
    let in_hand = door.in_hand.clone();
    let stream = Impatient {
        door: Some(door),
        ..Impatient::new(stream)
    };
    let service = service_fn(move |request| {
        let api = api.clone();
        let stopping = stopping.clone();
        let in_hand = in_hand.clone();
        in_hand.store(true, Ordering::Relaxed);
        async move {
            let mut response = api.handle(request).await;
            let stays = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if *stopping.borrow() && !stays {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            // A peer's connection is not held up at the gate of clients.
            in_hand.store(stays, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = api::connection()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told_to_stop(&mut stopped) => {
            match tokio::time::timeout(LINGER, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Answers one request for which there is no room.
async fn turn_away(stream: TcpStream, api: Arc<Api<Node>>, permit: OwnedSemaphorePermit) {
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, std::convert::Infallible>(api.turn_away(request).await) }
    });
    let connection = api::connection()
        .serve_connection(TokioIo::new(Impatient::new(stream)), service)
        .with_upgrades();
    match tokio::time::timeout(TURN_AWAY_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        Err(_) => tracing::debug!("one that there was no room for said nothing"),
    }
    drop(permit);
}

/// Where a connection waits before it reads its next request: until there is room for
/// it, or it has waited for long enough.
struct Door {
    gate: Arc<Gate>,
    /// Whether a request is being answered: what is read then belongs to it.
    in_hand: Arc<AtomicBool>,
    /// While it waits for room: word of it, and the end of its patience, which lasts
    /// until something was read.
    room: Option<Pin<Box<OwnedNotified>>>,
    patience: Option<Pin<Box<Sleep>>>,
    max_wait: Duration,
}

impl Door {
    fn new(gate: Arc<Gate>) -> Self {
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
struct Impatient<S> {
    stream: S,
    door: Option<Door>,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    max_stall: Duration,
}

impl<S> Impatient<S> {
    fn new(stream: S) -> Self {
        Impatient {
            stream,
            door: None,
            stall: None,
            max_stall: MAX_STALL,
        }
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
        if let Some(door) = &mut self.door {
            ready!(door.poll_open(context));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(door) = &mut self.door {
            door.note_read(read.is_pending());
        }
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(context, written)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn files_bound_connections() {
        assert_eq!(room_with(1 << 20), MAX_CONNECTIONS);
        assert_eq!(room_with(1024), 1024 - OWN_FILES - MAX_TURNED_AWAY);
        assert!((1..256).contains(&room_with(256)));
        assert!(room_with(0) >= 1);
    }

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
            let near = Impatient {
                door: Some(door),
                ..Impatient::new(near)
            };
            (near, far, in_hand)
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
