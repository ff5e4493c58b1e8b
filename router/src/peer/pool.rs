//! What one thread sends to other nodes: requests, and handshakes of WebSockets. It decides nothing about which node,
//! and sends no request twice.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use h2::RecvStream;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::AlertDescription;

use super::connections::{Connections, InFlight, Sender, locked, reach};
use super::socket::PeerSocket;
use super::sockets::SocketSender;
use super::tls::PeerTls;
use super::{
    Carries, HEADER_LIST_BYTES_MAX, PEER_HANDSHAKE_TIMEOUT, PING_INTERVAL, PING_TIMEOUT, PeerLink,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Nodes that one pool has connections to. It is far above what a cluster has.
const NODES_MAX: usize = 1_000;

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
    Unprocessed(BoxError),
    /// The node may have it, and may have acted upon it.
    #[error("the node did not answer: {0}")]
    Unknown(BoxError),
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
    /// The node is there, and of a release that does not know what it is asked for.
    #[error("the node runs a release that does not know this")]
    Unsupported,
}

impl NotSent {
    pub(super) fn of_opening(error: std::io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                Self::Unsupported
            }
            _ => Self::Connect(error),
        }
    }
}

/// Connections to nodes. Use one on one runtime.
pub struct PeerPool {
    tls: Arc<ArcSwap<PeerTls>>,
    link: PeerLink,
    nodes: Mutex<HashMap<PeerNode, Arc<Reached>>>,
}

/// One node.
#[derive(Default)]
struct Reached {
    requests: Connections<SendRequest<PeerBody>>,
    sockets: Connections<SocketSender>,
}

/// A response's body from another node.
#[derive(Debug)]
pub struct PeerResponseBody {
    body: Received,
    _in_flight: InFlight,
}

#[derive(Debug)]
enum Received {
    OfRequest(Incoming),
    OfHandshake(RecvStream),
}

/// What a node answers to the handshake of a WebSocket.
#[derive(Debug)]
pub enum Handshaken {
    /// It has accepted.
    Accepted(Response<PeerSocket>),
    /// It has something else to say, which is never a 2xx: that would be a WebSocket (RFC 8441, 5).
    Answered(Response<PeerResponseBody>),
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
        let h2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
        Self::of(h2.is_some_and(is_unprocessed), error)
    }

    /// The same of a handshake.
    fn of_handshake(error: h2::Error) -> Self {
        Self::of(is_unprocessed(&error), error)
    }

    fn of(unprocessed: bool, error: impl Into<BoxError>) -> Self {
        if unprocessed { Self::Unprocessed(error.into()) } else { Self::Unknown(error.into()) }
    }
}

/// Whether the other end says that it has not begun with a request (RFC 9113, 8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    // Of a connection that is given up, streams after the last one that the other end took have its GOAWAY for an
    // error; earlier ones have that of the socket.
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || refused)
}

impl fmt::Debug for PeerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPool").field("nodes", &locked(&self.nodes).len()).finish()
    }
}

impl PeerPool {
    /// A pool that shows these credentials. They may be swapped for newer ones.
    pub fn new(tls: Arc<ArcSwap<PeerTls>>, link: PeerLink) -> Self {
        Self { tls, link, nodes: Mutex::default() }
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
        let connection = async {
            let reached = self.reached(node)?;
            reached.requests.get(open(node, self.tls.load_full(), self.link)).await
        };
        let (mut sender, in_flight) = match connection.await {
            Ok(connection) => connection,
            Err(cause) => return not_sent(request, cause),
        };
        if sender.ready().await.is_err() {
            return not_sent(request, NotSent::Ended);
        }
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(|body| PeerResponseBody {
                body: Received::OfRequest(body),
                _in_flight: in_flight,
            })),
            Err(mut error) => match error.take_message() {
                Some(request) => not_sent(request, NotSent::Ended),
                None => Err(PeerError::of_answer(error.into_error())),
            },
        }
    }

    /// Sends the handshake of a WebSocket, as extended CONNECT (RFC 8441), and waits for the head of the response.
    /// The request's method does not matter.
    ///
    /// # Errors
    /// As [`PeerPool::send`].
    pub async fn shake_hands(
        &self,
        node: &PeerNode,
        request: Request<()>,
    ) -> Result<Handshaken, PeerError> {
        let not_sent = |request: Request<()>, cause| {
            let request = Box::new(request.map(|()| no_peer_body()));
            Err(PeerError::NotSent { request, cause })
        };
        let connection = async {
            let reached = self.reached(node)?;
            reached.sockets.get(SocketSender::open(node, self.tls.load_full(), self.link)).await
        };
        let (sender, in_flight) = match connection.await {
            Ok(connection) => connection,
            Err(cause) => return not_sent(request, cause),
        };
        let Ok((response, sending)) = sender.begin(&request).await else {
            return not_sent(request, NotSent::Ended);
        };
        let (parts, body) = response.await.map_err(PeerError::of_handshake)?.into_parts();
        Ok(if parts.status.is_success() {
            let socket = PeerSocket::new(sending, body, in_flight);
            Handshaken::Accepted(Response::from_parts(parts, socket))
        } else {
            let body = Received::OfHandshake(body);
            let body = PeerResponseBody { body, _in_flight: in_flight };
            Handshaken::Answered(Response::from_parts(parts, body))
        })
    }

    /// Closes connections to nodes that are not among these any more, once nothing is under way on them.
    pub fn keep(&self, nodes: impl Fn(&PeerNode) -> bool) {
        locked(&self.nodes).retain(|node, _| nodes(node));
    }

    fn reached(&self, node: &PeerNode) -> Result<Arc<Reached>, NotSent> {
        let mut nodes = locked(&self.nodes);
        if nodes.len() >= NODES_MAX && !nodes.contains_key(node) {
            return Err(NotSent::Full);
        }
        Ok(nodes.entry(node.clone()).or_default().clone())
    }
}

/// The body of a request that has none.
pub fn no_peer_body() -> PeerBody {
    Box::pin(NoBody)
}

/// It says nothing of its length: by an exact one the client would write a header that was not in the request.
struct NoBody;

impl Body for NoBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

impl Sender for SendRequest<PeerBody> {
    fn is_closed(&self) -> bool {
        SendRequest::is_closed(self)
    }
}

async fn open(
    node: &PeerNode,
    tls: Arc<PeerTls>,
    link: PeerLink,
) -> std::io::Result<SendRequest<PeerBody>> {
    let carries = Carries::Requests;
    let stream = reach(node, &tls, carries).await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(link.stream_window_bytes(carries))
        .initial_connection_window_size(link.connection_window_bytes(carries))
        .max_send_buf_size(link.send_buffer_bytes())
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
        match &mut self.body {
            Received::OfRequest(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Received::OfHandshake(body) => {
                let data = std::task::ready!(body.poll_data(cx));
                Poll::Ready(data.map(|data| {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                    Ok(Frame::data(data))
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Received::OfRequest(body) => body.is_end_stream(),
            Received::OfHandshake(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Received::OfRequest(body) => body.size_hint(),
            Received::OfHandshake(_) => SizeHint::default(),
        }
    }
}
