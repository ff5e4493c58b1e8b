//! Connections to one node that carry the same: opened when something needs one, shared by many, and given up when they
//! fail or are old.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pool::{NotSent, PeerNode};
use super::tls::{PeerTls, server_name};
use super::{
    CONNECTION_LIFE, CONNECTIONS_PER_NODE_MAX, Carries, PEER_HANDSHAKE_TIMEOUT, STREAMS_MAX,
};

/// How long before the other end a connection is let go, so that no request meets its end.
const LET_GO_BEFORE: Duration = Duration::from_secs(60);

/// What sends on a connection, for as many as share it.
pub(super) trait Sender: Clone {
    /// Whether it can send no more.
    fn is_closed(&self) -> bool;
}

/// The connections.
pub(super) struct Connections<S> {
    open: Mutex<Vec<Connection<S>>>,
    /// Held while one is opened: those who come meanwhile use it, too.
    opening: tokio::sync::Mutex<()>,
}

struct Connection<S> {
    sender: S,
    in_flight: Arc<AtomicUsize>,
    opened: Instant,
}

/// A request under way, up to the end of the response's body or of the WebSocket.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Default for Connections<S> {
    fn default() -> Self {
        Self { open: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }
}

impl<S: Sender> Connections<S> {
    /// A connection for one request; `open` opens another if need be.
    pub(super) async fn get(
        &self,
        open: impl Future<Output = std::io::Result<S>>,
    ) -> Result<(S, InFlight), NotSent> {
        if let Some(found) = self.find(STREAMS_MAX as usize / 2) {
            return Ok(found);
        }
        let _opening = self.opening.lock().await;
        if let Some(found) = self.find(STREAMS_MAX as usize / 2) {
            return Ok(found);
        }
        if locked(&self.open).len() >= CONNECTIONS_PER_NODE_MAX {
            return self.find(STREAMS_MAX as usize).ok_or(NotSent::Full);
        }
        let opened = timeout(PEER_HANDSHAKE_TIMEOUT, open).await;
        let sender = opened.map_err(|_| NotSent::Timeout)?.map_err(NotSent::of_opening)?;
        let connection = Connection { sender, in_flight: Arc::default(), opened: Instant::now() };
        let taken = connection.take();
        locked(&self.open).push(connection);
        Ok(taken)
    }

    /// The least busy connection with fewer than so many requests under way.
    fn find(&self, below: usize) -> Option<(S, InFlight)> {
        let mut open = locked(&self.open);
        let life = CONNECTION_LIFE - LET_GO_BEFORE;
        // One that is let go here ends when nothing is under way on it any more.
        open.retain(|one| !one.sender.is_closed() && one.opened.elapsed() < life);
        let busy = |one: &&Connection<S>| one.in_flight.load(Ordering::Relaxed);
        let least = open.iter().min_by_key(busy)?;
        (busy(&least) < below).then(|| least.take())
    }
}

impl<S: Sender> Connection<S> {
    fn take(&self) -> (S, InFlight) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), InFlight(self.in_flight.clone()))
    }
}

/// Connects to a node, as a node of the cluster.
pub(super) async fn reach(
    node: &PeerNode,
    tls: &PeerTls,
    carries: Carries,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(node.address).await?;
    socket.set_nodelay(true)?;
    let connector = TlsConnector::from(tls.client(carries).clone());
    let stream = connector.connect(server_name(&node.name), socket).await?;
    if stream.get_ref().1.alpn_protocol() != Some(carries.protocol()) {
        return Err(std::io::Error::other("it speaks another protocol between nodes"));
    }
    Ok(stream)
}
