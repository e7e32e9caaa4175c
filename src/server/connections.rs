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

mod patience;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::api::service::Service;
use crate::api::{self, Api};
use crate::config::ServingConfig;
use crate::node::Node;

pub use self::patience::MAX_STALL;
use self::patience::{Door, Impatient};
use super::scheduling;

/// How many connections are served at once. Each costs some kilobytes and a file
/// descriptor.
pub const MAX_CONNECTIONS: usize = 16_384;
/// How many connections more are being told that there is no room. They are gone
/// within moments, or after [`TURN_AWAY_TIMEOUT`].
const MAX_TURNED_AWAY: usize = 256;
/// How long a client that there is no room for may take to say what it wants.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(2);
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

/// What the threads are called that serve clients and peers.
const THREAD_NAME: &str = "serving";

/// The threads that serve clients and peers. They end with it, in the background: it
/// may go where nobody may wait.
///
/// They are few: what clients, peers and the machine have to do with each other for
/// one request is a dozen small steps, and each that is handed to another thread
/// costs more than the step itself.
pub struct Serving {
    handle: Handle,
    threads: Threads,
}

enum Threads {
    /// One: with nobody to share work with, it needs not look whether anybody would. It
    /// ends when the sender does.
    One { _until: oneshot::Sender<()> },
    /// Some; none once they are ending.
    Many(Option<Runtime>),
}

impl Serving {
    /// The threads that are wanted. What they start, the store's and the modules', is
    /// scheduled as they are.
    pub fn new(wanted: &ServingConfig) -> io::Result<Self> {
        let scheduling = wanted.scheduling;
        if wanted.thread_count() > 1 {
            let runtime = Builder::new_multi_thread()
                .worker_threads(wanted.thread_count())
                .thread_name(THREAD_NAME)
                .on_thread_start(move || scheduling::apply(scheduling))
                .enable_all()
                .build()?;
            return Ok(Serving {
                handle: runtime.handle().clone(),
                threads: Threads::Many(Some(runtime)),
            });
        }
        let runtime = Builder::new_current_thread()
            .thread_name(THREAD_NAME)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (until, ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name(THREAD_NAME.into())
            .spawn(move || {
                scheduling::apply(scheduling);
                if runtime.block_on(ended).is_ok() {
                    unreachable!("nobody sends anything");
                }
                runtime.shutdown_background();
            })?;
        Ok(Serving {
            handle,
            threads: Threads::One { _until: until },
        })
    }

    /// What is spawned on it runs on these threads.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Threads::Many(runtime) = &mut self.threads
            && let Some(runtime) = runtime.take()
        {
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

/// What the requests of one connection share.
struct Attended<A> {
    api: A,
    stopping: watch::Receiver<bool>,
    /// See [`Door`].
    in_hand: Arc<AtomicBool>,
}

/// What `work` comes to; nothing when the server stops before it is done. Neither
/// receiver has seen any word yet.
///
/// The word is asked for once, by whoever is to be woken by it: after that there is
/// but a number to be looked at each time that something happens on a connection.
async fn unless_told<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    stopping: &watch::Receiver<bool>,
    stopped: &mut watch::Receiver<bool>,
) -> Option<T> {
    let mut told = pin!(told_to_stop(stopped));
    let mut asked_by: Option<Waker> = None;
    poll_fn(|context| {
        if let Poll::Ready(ended) = work.as_mut().poll(context) {
            return Poll::Ready(Some(ended));
        }
        let waker = context.waker();
        let is_asked = asked_by.as_ref().is_some_and(|by| by.will_wake(waker));
        // Anything but this, and be it that the sender has gone, is looked at closely.
        if is_asked && matches!(stopping.has_changed(), Ok(false)) {
            return Poll::Pending;
        }
        asked_by = Some(waker.clone());
        // A connection that has used up its turn would be put off without being noted,
        // and not ask again.
        pin!(tokio::task::coop::unconstrained(told.as_mut()))
            .poll(context)
            .map(|()| None)
    })
    .await
}

/// Serves a connection to its end: until its client goes, or `stopped` turns true.
pub async fn attend<S, N>(stream: S, api: Arc<Api<N>>, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    N: Service,
{
    let door = Door::new(api.gate().clone());
    let attended = Arc::new(Attended {
        api,
        stopping: stopped.clone(),
        in_hand: door.in_hand.clone(),
    });
    let asked = attended.clone();
    let stream = Impatient::new(stream).with(door);
    let service = service_fn(move |request| {
        let attended = asked.clone();
        attended.in_hand.store(true, Ordering::Relaxed);
        async move {
            let mut response = attended.api.handle(request).await;
            let stays = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if *attended.stopping.borrow() && !stays {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            // A peer's connection is not held up at the gate of clients.
            attended.in_hand.store(stays, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = api::connection()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = match unless_told(connection.as_mut(), &attended.stopping, &mut stopped).await {
        Some(ended) => ended,
        None => match tokio::time::timeout(LINGER, connection.as_mut()).await {
            Ok(ended) => ended,
            Err(_) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Answers one request for which there is no room.
async fn turn_away(stream: TcpStream, api: Arc<Api<Node>>, permit: OwnedSemaphorePermit) {
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(api.turn_away(request).await) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_bound_connections() {
        assert_eq!(room_with(1 << 20), MAX_CONNECTIONS);
        assert_eq!(room_with(1024), 1024 - OWN_FILES - MAX_TURNED_AWAY);
        assert!((1..256).contains(&room_with(256)));
        assert!(room_with(0) >= 1);
    }

    #[tokio::test]
    async fn the_word_to_stop_is_heard_whatever_happens_meanwhile() {
        for word in [Some(true), None] {
            let (stop, mut stopped) = watch::channel(false);
            let stopping = stopped.clone();
            let mut left = 5;
            let busy = pin!(poll_fn(|context| {
                if left > 0 {
                    left -= 1;
                    context.waker().wake_by_ref();
                }
                Poll::<()>::Pending
            }));
            let served = unless_told(busy, &stopping, &mut stopped);
            let telling = async move {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                if let Some(word) = word {
                    stop.send(word).expect("it is heard");
                    std::future::pending::<()>().await;
                }
            };
            let heard = async {
                tokio::select! {
                    biased;
                    heard = served => heard,
                    () = async { telling.await; std::future::pending().await } => unreachable!(),
                }
            };
            let heard = tokio::time::timeout(Duration::from_secs(60), heard).await;
            assert_eq!(heard.expect("it is heard"), None, "{word:?}");
        }
        // One that has used up its turn when it asks.
        let (stop, mut stopped) = watch::channel(false);
        let stopping = stopped.clone();
        let heard = tokio::spawn(async move {
            let busy = pin!(poll_fn(|context| {
                while tokio::task::coop::has_budget_remaining() {
                    let used = pin!(tokio::task::coop::consume_budget()).poll(context);
                    assert!(used.is_ready(), "there was budget");
                }
                Poll::<()>::Pending
            }));
            unless_told(busy, &stopping, &mut stopped).await
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        stop.send(true).expect("it is heard");
        let heard = tokio::time::timeout(Duration::from_secs(60), heard).await;
        assert_eq!(heard.expect("it is heard").expect("it ends"), None);
        let (_stop, mut stopped) = watch::channel(false);
        let stopping = stopped.clone();
        let done = pin!(std::future::ready(7));
        assert_eq!(unless_told(done, &stopping, &mut stopped).await, Some(7));
    }
}
