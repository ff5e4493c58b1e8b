//! Connections that carry WebSockets to another node. They are h2's and not hyper's: hyper's upgraded streams cannot be
//! reset, so that one whose reader waits would stay on the connection after its client has left.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::{Method, Request, Version};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use super::connections::{Sender, reach};
use super::pool::PeerNode;
use super::tls::PeerTls;
use super::{Carries, HEADER_LIST_BYTES_MAX, PING_INTERVAL, PING_TIMEOUT, PeerLink};

/// What opens WebSockets on one connection.
#[derive(Clone)]
pub(super) struct SocketSender {
    sender: SendRequest<Bytes>,
    over: Arc<AtomicBool>,
}

impl Sender for SocketSender {
    fn is_closed(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl SocketSender {
    /// Connects to a node.
    pub(super) async fn open(
        node: &PeerNode,
        tls: Arc<PeerTls>,
        link: PeerLink,
    ) -> io::Result<Self> {
        let carries = Carries::Sockets;
        let stream = reach(node, &tls, carries).await?;
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .initial_window_size(link.stream_window_bytes(carries))
            .initial_connection_window_size(link.connection_window_bytes(carries))
            .max_send_buffer_size(link.stream_window_bytes(carries) as usize)
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        let pings = connection.ping_pong().expect("nobody has taken it before");
        let over = Arc::<AtomicBool>::default();
        let (name, ended) = (node.name.clone(), over.clone());
        let (settled, is_settled) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let why = carry(connection, pings, settled).await;
            tracing::debug!(node = &*name, why, "a connection for websockets to a node ended");
            ended.store(true, Ordering::Relaxed);
        });
        is_settled.await.map_err(|_| io::Error::other("it ended before it was of use"))?;
        Ok(Self { sender, over })
    }

    /// Sends a handshake. On an error nothing was sent.
    pub(super) async fn begin(
        self,
        request: &Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let Self { sender, over } = self;
        let begun = async {
            let mut head = request.clone();
            *head.method_mut() = Method::CONNECT;
            *head.version_mut() = Version::HTTP_2;
            head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
            sender.ready().await?.send_request(head, false)
        };
        // The other end has said that it takes no more, or is gone.
        begun.await.inspect_err(|_| over.store(true, Ordering::Relaxed))
    }
}

/// Runs a connection to its end, and says why that came. `settled` is told when the other end's settings are here:
/// extended CONNECT may not be used before (RFC 8441, 3). They are the first that it sends (RFC 9113, 3.4), and so
/// before the answer to a ping.
async fn carry(
    connection: Connection<TlsStream<TcpStream>>,
    mut pings: PingPong,
    settled: tokio::sync::oneshot::Sender<()>,
) -> String {
    let mut settled = Some(settled);
    let alive = async {
        loop {
            match timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
                // Whoever opened it may have given up.
                Ok(Ok(_)) => drop(settled.take().map(|settled| settled.send(()))),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the node does not answer".to_owned(),
            }
            sleep(PING_INTERVAL).await;
        }
    };
    tokio::select! {
        ended = connection => ended.map_or_else(|error| error.to_string(), |()| String::new()),
        // What is open on it fails as it is dropped.
        why = alive => why,
    }
}
