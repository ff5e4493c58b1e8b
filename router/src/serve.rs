//! Serves one listener on one thread: accepts, agrees on TLS and a protocol, runs HTTP/1.1 or
//! HTTP/2, holds the limits, and drains. It knows nothing of routes or workers: a [`Service`] does.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service as HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::batch::{BatchedStream, Flusher};
use crate::connection::{Alpn, Connection, GuardedIo, InFlight, TrackedBody};
use crate::connections::{Connections, FIRST_REQUEST_GRACE, Order, Place};
use crate::drain::{DrainSignal, Drained};
use crate::frame_watch::PREFACE;
use crate::gate::{self, Gate, Refusal};
use crate::options::{
    H2_CONNECTION_WINDOW_BYTES, H2_ERROR_RESETS_MAX, H2_PENDING_RESETS_MAX, H2_SEND_BUFFER_BYTES,
    H2_STREAM_WINDOW_BYTES, ServeOptions,
};
use crate::pattern::Scheme;
use crate::proxies::{PreambleError, introduce};
use crate::request_body::RequestBody;
use crate::tls::{self, Asked, Tls};
use crate::upgrade::Upgrade;

/// How long accepting rests when the system has no file descriptor left.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// How much is read at once to learn the protocol.
const SNIFF_BYTES: usize = 1024;
/// hyper refuses a smaller buffer.
const BUFFER_BYTES_MIN: usize = 8192;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What answers requests. It lives on one thread, so it and its futures need not be `Send`.
pub trait Service: 'static {
    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static;

    /// Answers one request.
    ///
    /// A dropped future (or response body) means that the client left: HTTP/1 closed the
    /// connection, or HTTP/2 reset the stream. On HTTP/1 this is noticed while nothing of the
    /// request's body is left unread.
    ///
    /// The future outlives both borrows: implement it as
    /// `-> impl Future<Output = Response<Self::Body>> + use<> + 'static` (with the type parameters
    /// of the service, if it has any, between the angle brackets).
    fn call(
        &self,
        request: Request<RequestBody>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<Self::Body>> + use<Self> + 'static;

    /// Learns which host a client asks for, before the rest of its handshake and its request: time to get
    /// ready. Must be quick, and must not trust that a request for that host will follow.
    fn greeted(&self, _host: &str) {}

    /// Answers an ACME authority that looks for this text.
    fn challenge(&self, answer: String) -> Response<Self::Body>;

    /// Answers a request that a limit refuses before it is looked at.
    fn refuse(
        &self,
        request: &Request<RequestBody>,
        refusal: Refusal,
        connection: &Rc<Connection>,
    ) -> Response<Self::Body>;
}

/// How a listener's connections begin.
#[derive(Clone, Debug)]
pub enum Security {
    /// Without TLS. Hosts whose clients must have a certificate by this are not served.
    Plain(Option<Arc<Tls>>),
    /// With a TLS handshake.
    Tls(Arc<Tls>),
}

/// A listener could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the listening socket: {0}")]
pub struct ServeError(#[from] io::Error);

/// Serves a listener until the drain has ended. Runs within a `LocalSet` of a current-thread
/// runtime; each connection is a task of it.
///
/// HTTP/2 is chosen by ALPN, or without TLS by a client that begins with its preface.
///
/// When the drain starts, connections that wait in the socket's queue are still accepted, HTTP/1
/// connections close after the current response, and HTTP/2 connections get GOAWAY.
pub async fn serve<S: Service>(
    listener: TcpListener,
    security: Security,
    options: ServeOptions,
    service: Rc<S>,
    mut drain: DrainSignal,
) -> Result<Drained, ServeError> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let local = listener.local_addr()?;
    let flusher = Flusher::default();
    let flushing = tokio::task::spawn_local(flusher.clone().run());
    let (tls, gate) = match security {
        Security::Tls(tls) => (Some(tls.clone()), Gate::new(&options, Some(tls))),
        Security::Plain(policies) => {
            let silent = ServeOptions { http3_port: None, ..options.clone() };
            (None, Gate::new(&silent, policies))
        }
    };
    let server = Rc::new(Server { options, gate, tls, service, local, flusher });
    let connections = Rc::new(Connections::default());
    let mut sweep = tokio::time::interval(server.options.sweep_interval());
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let deadline = loop {
        tokio::select! {
            () = accept_one(&listener, &server, &connections) => {}
            _ = sweep.tick() => connections.sweep(&server.options),
            deadline = drain.started() => break deadline,
        }
    };
    accept_queued(listener, &server, &connections);
    let drained = connections.drain(&server.options, deadline).await;
    flushing.abort();
    Ok(drained)
}

/// What every connection of a listener shares.
struct Server<S> {
    options: ServeOptions,
    gate: Gate,
    tls: Option<Arc<Tls>>,
    service: Rc<S>,
    local: SocketAddr,
    flusher: Flusher,
}

/// Accepts one connection, or rests when there is no room. Safe to cancel.
async fn accept_one<S: Service>(
    listener: &tokio::net::TcpListener,
    server: &Rc<Server<S>>,
    connections: &Rc<Connections>,
) {
    while connections.count() >= server.options.connections_max {
        connections.evict();
        // With nothing to evict every connection is busy: newcomers wait in the socket's queue.
        connections.one_closed().await;
    }
    match listener.accept().await {
        Ok((socket, peer)) => spawn_connection(socket, peer, server, connections),
        Err(error) if is_of_one_connection(&error) => {}
        Err(error) => {
            let evicted = connections.evict();
            tracing::warn!(%error, evicted, "cannot accept connections for a moment");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
        }
    }
}

/// Whether an error of accept concerns only the connection that was to be accepted.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Accepts what already waits in the socket's queue (closing it would reset them) and closes it.
fn accept_queued<S: Service>(
    listener: tokio::net::TcpListener,
    server: &Rc<Server<S>>,
    connections: &Rc<Connections>,
) {
    let Ok(listener) = listener.into_std() else { return };
    while connections.count() < server.options.connections_max {
        let Ok((socket, peer)) = listener.accept() else { return };
        let ready = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
        if let Ok(socket) = ready {
            spawn_connection(socket, peer, server, connections);
        }
    }
}

fn spawn_connection<S: Service>(
    socket: TcpStream,
    peer: SocketAddr,
    server: &Rc<Server<S>>,
    connections: &Rc<Connections>,
) {
    let (place, server) = (connections.add(), Rc::clone(server));
    tokio::task::spawn_local(async move {
        let mut socket = socket;
        let introduced = introduce(&mut socket, peer, &server.options.proxies, &place.orders).await;
        let peer = match introduced {
            Ok(Some(client)) => client,
            Ok(None) => return,
            // Load balancers open and close connections to see whether somebody is there.
            Err(PreambleError::Io(error)) => {
                return tracing::debug!(%peer, %error, "a connection ended before its preamble");
            }
            Err(error) => return tracing::info!(%peer, %error, "a connection is refused"),
        };
        let socket = BatchedStream::new(socket, server.flusher.clone());
        let closing = socket.closing();
        match serve_connection(socket, peer, &server, &place).await {
            Ok(()) => {
                give_back(&place).await;
                closing.linger().await;
            }
            Err(error) => tracing::debug!(%peer, error, "a connection ended early"),
        }
    });
}

/// Keeps a connection's place while a WebSocket goes on where HTTP has ended.
async fn give_back(place: &Place) {
    tokio::select! {
        () = place.activity.returned() => {}
        _ = place.orders.beyond(Order::Drain) => place.activity.cut(),
    }
}

async fn serve_connection<S: Service>(
    socket: BatchedStream,
    peer: SocketAddr,
    server: &Rc<Server<S>>,
    place: &Place,
) -> Result<(), BoxError> {
    // With a listener on every address only the socket knows which one the client asked for.
    let local =
        if server.local.ip().is_unspecified() { socket.local_addr()? } else { server.local };
    let Some(tls) = &server.tls else {
        let connection = Connection { peer, local, scheme: Scheme::Http, tls: None };
        return serve_stream(socket, connection, server, place).await;
    };
    let handshake = timeout(server.options.tls_handshake_timeout, shake_hands(socket, tls, server));
    let shaken = tokio::select! {
        result = handshake => result.map_err(|_| "the tls handshake took too long")??,
        () = place.orders.given_up() => return Ok(()),
    };
    let Some((stream, asked)) = shaken else { return Ok(()) };
    let info = tls::session(stream.get_ref().1, &asked)?;
    let connection = Connection { peer, local, scheme: Scheme::Https, tls: Some(info) };
    serve_stream(stream, connection, server, place).await
}

/// Ends TLS, and tells the service the host as soon as the client has named it. None after the handshake of an
/// ACME authority, which is the answer in itself.
async fn shake_hands<S: Service>(
    socket: BatchedStream,
    tls: &Tls,
    server: &Server<S>,
) -> io::Result<Option<(TlsStream<BatchedStream>, Arc<Asked>)>> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let asked = {
        let client_hello = hello.client_hello();
        let wants_answer = client_hello
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| protocol == tls::ACME_ALPN));
        if wants_answer && let Some(config) = tls.for_challenge() {
            hello.into_stream(config).await?.shutdown().await?;
            return Ok(None);
        }
        let host = client_hello.server_name();
        if let Some(host) = host {
            server.service.greeted(host);
        }
        tls.for_host(host)
    };
    let stream = hello.into_stream(Arc::clone(&asked.config)).await?;
    Ok(Some((stream, asked)))
}

async fn serve_stream<S: Service, T>(
    mut stream: T,
    connection: Connection,
    server: &Rc<Server<S>>,
    place: &Place,
) -> Result<(), BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let agreed = connection.tls.as_ref().and_then(|tls| tls.alpn);
    let (protocol, sniffed) = match agreed {
        Some(protocol) => (protocol, Bytes::new()),
        None => {
            let sniff = timeout(server.options.header_read_timeout, sniff(&mut stream));
            tokio::select! {
                result = sniff => result.map_err(|_| "the client sent no request in time")??,
                () = place.orders.given_up() => return Ok(()),
            }
        }
    };
    let io = GuardedIo::new(stream, sniffed, Arc::clone(&place.activity));
    let connection = Rc::new(connection);
    match protocol {
        Alpn::H3 => Err("http/3 is not spoken over tcp".into()),
        Alpn::Http1 => serve_http1(TokioIo::new(io), connection, server, place).await,
        Alpn::H2 => serve_http2(TokioIo::new(io.watched()), connection, server, place).await,
    }
}

/// Reads until the bytes are, or cannot be, the preface of HTTP/2.
async fn sniff<T: AsyncRead + Unpin>(stream: &mut T) -> io::Result<(Alpn, Bytes)> {
    let mut read = BytesMut::with_capacity(SNIFF_BYTES);
    loop {
        let ended = stream.read_buf(&mut read).await? == 0;
        let compared = read.len().min(PREFACE.len());
        if read[..compared] != PREFACE[..compared] || ended {
            return Ok((Alpn::Http1, read.freeze()));
        }
        if compared == PREFACE.len() {
            return Ok((Alpn::H2, read.freeze()));
        }
    }
}

async fn serve_http1<S: Service, T>(
    io: TokioIo<GuardedIo<T>>,
    connection: Rc<Connection>,
    server: &Rc<Server<S>>,
    place: &Place,
) -> Result<(), BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Twice the limit is read, so that what is too large still gets an answer that explains.
    let buffer_bytes_max = (2 * server.options.header_bytes_max).max(BUFFER_BYTES_MIN);
    let served = http1::Builder::new()
        // The sweep bounds the time of a head; hyper's timer would cost every request.
        .header_read_timeout(None)
        // It bounds what is buffered of a response as well. `pipeline_flush` stays off: with it
        // hyper buffers a body without end when the client does not read.
        .max_buf_size(buffer_bytes_max)
        .serve_connection(io, responder(connection, server, place))
        .with_upgrades();
    drive(served, place, |served| served.graceful_shutdown()).await
}

async fn serve_http2<S: Service, T>(
    io: TokioIo<GuardedIo<T>>,
    connection: Rc<Connection>,
    server: &Rc<Server<S>>,
    place: &Place,
) -> Result<(), BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    place.activity.set_multiplexed();
    let options = &server.options;
    let served = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.h2_streams_max)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(H2_ERROR_RESETS_MAX)
        .max_header_list_size(u32::try_from(options.header_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        .keep_alive_interval(options.h2_ping_interval)
        .keep_alive_timeout(options.h2_ping_timeout)
        .enable_connect_protocol()
        .serve_connection(io, responder(connection, server, place));
    drive(served, place, |served| served.graceful_shutdown()).await
}

/// Runs a connection to its end, obeying the orders that come meanwhile.
async fn drive<C>(served: C, place: &Place, shut_down: impl Fn(Pin<&mut C>)) -> Result<(), BoxError>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut served = std::pin::pin!(served);
    let mut draining = false;
    // hyper closes a connection on which nothing was asked when it is to shut down: its first request may be on
    // the way.
    let mut grace = None;
    std::future::poll_fn(|cx| {
        loop {
            let order = place.orders.poll(cx);
            if order == Order::Close {
                return Poll::Ready(Ok(()));
            }
            let mut grace_is_over = || {
                let grace = grace.get_or_insert_with(|| Box::pin(sleep(FIRST_REQUEST_GRACE)));
                grace.as_mut().poll(cx).is_ready()
            };
            let is_asked = || place.activity.requests() > 0;
            if order == Order::Drain && !draining && (is_asked() || grace_is_over()) {
                draining = true;
                shut_down(served.as_mut());
            }
            if let Poll::Ready(ended) = served.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(BoxError::from));
            }
            // The first request may just have come.
            if order == Order::Serve || draining || !is_asked() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// What hyper gets for each request.
type Answer<S> = Response<TrackedBody<<S as Service>::Body>>;

/// Wraps the service for hyper: limits first, and the request stays in flight until the end of
/// its response.
fn responder<S: Service>(
    connection: Rc<Connection>,
    server: &Rc<Server<S>>,
    place: &Place,
) -> impl HttpService<
    Request<Incoming>,
    Response = Answer<S>,
    Error = Infallible,
    Future: Future<Output = Result<Answer<S>, Infallible>> + 'static,
> + use<S> {
    let (server, activity) = (Rc::clone(server), Arc::clone(&place.activity));
    hyper::service::service_fn(move |request: Request<Incoming>| {
        let in_flight = InFlight::begin(&activity);
        let mut request = request.map(RequestBody::from);
        Upgrade::mark(&mut request, &activity);
        let refusal = server.gate.refusal(&request, &connection);
        let answer = server.gate.challenge_answer(&request, refusal, &connection);
        let response = match (refusal, answer) {
            (_, Some(answer)) => {
                Either::Right(std::future::ready(server.service.challenge(answer)))
            }
            (None, None) => {
                let connection = server.gate.prepare(&mut request, &connection);
                Either::Left(server.service.call(request, &connection))
            }
            (Some(refusal), None) => {
                let mut response = server.service.refuse(&request, refusal, &connection);
                gate::close_after(request.version(), &mut response);
                Either::Right(std::future::ready(response))
            }
        };
        let server = Rc::clone(&server);
        async move {
            let mut response = response.await;
            server.gate.finish(&mut response);
            Ok(response.map(|body| TrackedBody::new(body, in_flight)))
        }
    })
}

/// Runs hyper's HTTP/2 streams on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
