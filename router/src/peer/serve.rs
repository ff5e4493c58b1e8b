//! The listener for other nodes on one thread: mutual TLS, HTTP/2, and limits.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::tls::{PeerTls, node_of};
use super::{
    CONNECTION_LIFE, CONNECTIONS_MAX, Carries, HEADER_LIST_BYTES_MAX, PEER_HANDSHAKE_TIMEOUT,
    PING_INTERVAL, PING_TIMEOUT, PeerLink, STREAMS_MAX,
};
use crate::connection::Activity;
use crate::drain::{DrainSignal, Drained};
use crate::options::{H2_ERROR_RESETS_MAX, H2_PENDING_RESETS_MAX};
use crate::serve::{ACCEPT_BACKOFF, LocalExecutor, ServeError, is_of_one_connection};
use crate::upgrade::Upgrade;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What answers other nodes. It lives on one thread.
pub trait PeerService: 'static {
    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static;

    /// Answers one request of the node of this name. A dropped future or body means that it does not want the
    /// answer any more. A request for a WebSocket carries an [`Upgrade`].
    fn call(
        &self,
        request: Request<Incoming>,
        node: &Rc<str>,
    ) -> impl Future<Output = Response<Self::Body>> + use<Self> + 'static;
}

/// Serves other nodes until the drain has ended. Runs within a `LocalSet` of a current-thread runtime.
///
/// # Errors
/// If the socket cannot be used.
pub async fn serve_peers<S: PeerService>(
    listener: TcpListener,
    tls: Arc<ArcSwap<PeerTls>>,
    link: PeerLink,
    service: Rc<S>,
    mut drain: DrainSignal,
) -> Result<Drained, ServeError> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (draining, stop) = watch::channel(Stop::Serve);
    let deadline = loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await.expect("nobody closes it");
            (place, listener.accept().await)
        };
        tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((socket, from)) => {
                    let (tls, service, stop) = (tls.load_full(), service.clone(), stop.clone());
                    tokio::task::spawn_local(async move {
                        if let Err(error) = serve_node(socket, from, &tls, link, service, stop).await {
                            tracing::debug!(%from, error, "a node's connection ended early");
                        }
                        drop(place);
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept other nodes for a moment");
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
            deadline = drain.started() => break deadline,
        }
    };
    drop(listener);
    let open = CONNECTIONS_MAX - places.available_permits();
    draining.send_replace(Stop::Drain);
    let all = u32::try_from(CONNECTIONS_MAX).expect("the limit fits");
    let cut = match tokio::time::timeout_at(deadline, places.acquire_many(all)).await {
        Ok(_) => 0,
        Err(_) => CONNECTIONS_MAX - places.available_permits(),
    };
    draining.send_replace(Stop::Close);
    Ok(Drained { finished: open.saturating_sub(cut), cut })
}

/// What connections are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Serve,
    Drain,
    Close,
}

async fn serve_node<S: PeerService>(
    socket: TcpStream,
    from: SocketAddr,
    tls: &PeerTls,
    link: PeerLink,
    service: Rc<S>,
    mut stop: watch::Receiver<Stop>,
) -> Result<(), BoxError> {
    socket.set_nodelay(true)?;
    let handshake = TlsAcceptor::from(tls.server.clone()).accept(socket);
    let stream = match timeout(PEER_HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%from, %error, "a stranger was turned away from the listener for nodes");
            return Ok(());
        }
        Err(_) => return Err("the tls handshake took too long".into()),
    };
    let (node, carries) = node_of(stream.get_ref().1)
        .ok_or_else(|| io::Error::other("its certificate names no node"))?;
    let node: Rc<str> = node.into();
    // Streams after an upgrade note in it what they do; here nobody asks.
    let activity = Arc::<Activity>::default();
    let respond = service_fn(move |mut request| {
        Upgrade::mark(&mut request, &activity);
        let response = service.call(request, &node);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut builder = http2::Builder::new(LocalExecutor);
    if carries == Carries::Sockets {
        builder.enable_connect_protocol();
    }
    let served = builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(H2_ERROR_RESETS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(link.stream_window_bytes(carries))
        .initial_connection_window_size(link.connection_window_bytes(carries))
        .max_send_buf_size(link.send_buffer_bytes())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), respond);
    let mut served = std::pin::pin!(served);
    let old = sleep(CONNECTION_LIFE);
    tokio::select! {
        ended = &mut served => return Ok(ended?),
        () = old => {}
        _ = stop.wait_for(|stop| *stop != Stop::Serve) => {}
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        ended = served => Ok(ended?),
        _ = stop.wait_for(|stop| *stop == Stop::Close) => Ok(()),
    }
}
