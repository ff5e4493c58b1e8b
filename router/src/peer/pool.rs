//! Connections of one thread to other nodes: opened when a request needs one, shared by many, and given up when
//! they fail. It decides nothing about which node, and sends no request twice.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::tls::{PeerTls, server_name};
use super::{
    CONNECTION_LIFE, CONNECTION_WINDOW_BYTES, CONNECTIONS_PER_NODE_MAX, HEADER_LIST_BYTES_MAX,
    PEER_HANDSHAKE_TIMEOUT, PING_INTERVAL, PING_TIMEOUT, PROTOCOL, SEND_BUFFER_BYTES,
    STREAM_WINDOW_BYTES, STREAMS_MAX,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Nodes that one pool has connections to. It is far above what a cluster has.
const NODES_MAX: usize = 1_000;

/// How long before the other end a connection is let go, so that no request meets its end.
const LET_GO_BEFORE: Duration = Duration::from_secs(60);

/// A request's body on its way to another node.
pub type PeerBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// Another node, and where it listens for nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerNode {
    /// Its name, which its certificate must have.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
}

/// A request has no response.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No byte of it has reached the node: it can be sent again, anywhere.
    #[error("cannot reach the node: {cause}")]
    NotSent {
        /// The request as it was, its body untouched.
        request: Box<Request<PeerBody>>,
        /// What is wrong.
        cause: NotSent,
    },
    /// It was sent, and the node has said that it did not begin with it (RFC 9113, 8.7): it can be sent again as
    /// far as its body can.
    #[error("the node did not take it: {0}")]
    Unprocessed(hyper::Error),
    /// The node may have it, and may have acted upon it.
    #[error("the node did not answer: {0}")]
    Unknown(hyper::Error),
}

/// Why no byte was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// No connection could be opened.
    #[error("{0}")]
    Connect(std::io::Error),
    /// Opening one took too long.
    #[error("no connection after {PEER_HANDSHAKE_TIMEOUT:?}")]
    Timeout,
    /// The connection ended just before.
    #[error("the connection has ended")]
    Ended,
    /// As many requests are under way to it as may be.
    #[error("too many requests are under way to it")]
    Full,
}

/// Connections to nodes. Use one on one runtime.
pub struct PeerPool {
    tls: Arc<ArcSwap<PeerTls>>,
    nodes: Mutex<HashMap<PeerNode, Arc<Connections>>>,
}

/// Those to one node.
#[derive(Default)]
struct Connections {
    open: Mutex<Vec<Connection>>,
    /// Held while one is opened: those who come meanwhile use it, too.
    opening: tokio::sync::Mutex<()>,
}

struct Connection {
    sender: SendRequest<PeerBody>,
    in_flight: Arc<AtomicUsize>,
    opened: Instant,
}

/// A request under way, up to the end of the response's body.
#[derive(Debug)]
struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body from another node.
#[derive(Debug)]
pub struct PeerResponseBody {
    body: Incoming,
    _in_flight: InFlight,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent { cause, .. } => f.debug_tuple("NotSent").field(cause).finish(),
            Self::Unprocessed(error) => f.debug_tuple("Unprocessed").field(error).finish(),
            Self::Unknown(error) => f.debug_tuple("Unknown").field(error).finish(),
        }
    }
}

impl PeerError {
    /// What it means that a request was sent and this came instead of a response.
    fn of_answer(error: hyper::Error) -> Self {
        let source = std::error::Error::source(&error);
        let unprocessed =
            source.and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(|h2| {
                // Of a connection that is given up, streams after the last one that the other end took have its
                // GOAWAY for an error; earlier ones have that of the socket.
                let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
                h2.is_remote() && (h2.is_go_away() || refused)
            });
        if unprocessed { Self::Unprocessed(error) } else { Self::Unknown(error) }
    }
}

impl fmt::Debug for PeerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPool").field("nodes", &locked(&self.nodes).len()).finish()
    }
}

impl PeerPool {
    /// A pool that shows these credentials. They may be swapped for newer ones.
    pub fn new(tls: Arc<ArcSwap<PeerTls>>) -> Self {
        Self { tls, nodes: Mutex::default() }
    }

    /// Sends a request and waits for the head of the response. There is no limit of time but the pings by
    /// which a connection is known to work.
    ///
    /// # Errors
    /// If there is no response; see [`PeerError`] for what may have happened.
    pub async fn send(
        &self,
        node: &PeerNode,
        request: Request<PeerBody>,
    ) -> Result<Response<PeerResponseBody>, PeerError> {
        let not_sent =
            |request, cause| Err(PeerError::NotSent { request: Box::new(request), cause });
        let (mut sender, in_flight) = match self.connection(node).await {
            Ok(connection) => connection,
            Err(cause) => return not_sent(request, cause),
        };
        if sender.ready().await.is_err() {
            return not_sent(request, NotSent::Ended);
        }
        match sender.try_send_request(request).await {
            Ok(response) => {
                Ok(response.map(|body| PeerResponseBody { body, _in_flight: in_flight }))
            }
            Err(mut error) => match error.take_message() {
                Some(request) => not_sent(request, NotSent::Ended),
                None => Err(PeerError::of_answer(error.into_error())),
            },
        }
    }

    /// Closes connections to nodes that are not among these any more, once nothing is under way on them.
    pub fn keep(&self, nodes: impl Fn(&PeerNode) -> bool) {
        locked(&self.nodes).retain(|node, _| nodes(node));
    }

    async fn connection(
        &self,
        node: &PeerNode,
    ) -> Result<(SendRequest<PeerBody>, InFlight), NotSent> {
        let connections = {
            let mut nodes = locked(&self.nodes);
            if nodes.len() >= NODES_MAX && !nodes.contains_key(node) {
                return Err(NotSent::Full);
            }
            nodes.entry(node.clone()).or_default().clone()
        };
        if let Some(found) = connections.find(STREAMS_MAX as usize / 2) {
            return Ok(found);
        }
        let _opening = connections.opening.lock().await;
        if let Some(found) = connections.find(STREAMS_MAX as usize / 2) {
            return Ok(found);
        }
        if locked(&connections.open).len() >= CONNECTIONS_PER_NODE_MAX {
            return connections.find(STREAMS_MAX as usize).ok_or(NotSent::Full);
        }
        let opened = timeout(PEER_HANDSHAKE_TIMEOUT, open(node, self.tls.load_full())).await;
        let sender = opened.map_err(|_| NotSent::Timeout)?.map_err(NotSent::Connect)?;
        let connection = Connection { sender, in_flight: Arc::default(), opened: Instant::now() };
        let taken = connection.take();
        locked(&connections.open).push(connection);
        Ok(taken)
    }
}

impl Connections {
    /// The least busy connection with fewer than so many requests under way.
    fn find(&self, below: usize) -> Option<(SendRequest<PeerBody>, InFlight)> {
        let mut open = locked(&self.open);
        let life = CONNECTION_LIFE - LET_GO_BEFORE;
        // One that is let go here ends when nothing is under way on it any more.
        open.retain(|one| !one.sender.is_closed() && one.opened.elapsed() < life);
        let busy = |one: &&Connection| one.in_flight.load(Ordering::Relaxed);
        let least = open.iter().min_by_key(busy)?;
        (busy(&least) < below).then(|| least.take())
    }
}

impl Connection {
    fn take(&self) -> (SendRequest<PeerBody>, InFlight) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), InFlight(self.in_flight.clone()))
    }
}

async fn open(node: &PeerNode, tls: Arc<PeerTls>) -> std::io::Result<SendRequest<PeerBody>> {
    let socket = TcpStream::connect(node.address).await?;
    socket.set_nodelay(true)?;
    let connector = TlsConnector::from(tls.client.clone());
    let stream = connector.connect(server_name(&node.name), socket).await?;
    if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        return Err(std::io::Error::other("it speaks another protocol between nodes"));
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    let name = node.name.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(node = &*name, %error, "a connection to a node ended");
        }
    });
    Ok(sender)
}

impl Body for PeerResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
