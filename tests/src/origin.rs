//! A small HTTP server of the test's own, for workers to fetch from or to be kept away from.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What an origin does with a request.
#[derive(Clone)]
pub enum Answer {
    /// Sends these bytes, head included, and closes.
    Whole(Bytes),
    /// Sends a head, then the same bytes again and again until the client leaves.
    Endless(&'static str, Bytes),
    /// Sends nothing and keeps the connection.
    Silence,
}

type Route = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// A server that answers by the request's head and counts connections. It ends when dropped.
pub struct Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Serves `body` with 200 on a free port of `ip`.
    pub async fn answering(ip: IpAddr, body: &str) -> Self {
        let length = body.len();
        Self::always(ip, format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")).await
    }

    /// Redirects to `location`.
    pub async fn redirecting(ip: IpAddr, location: &str) -> Self {
        let head =
            format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        Self::always(ip, head).await
    }

    async fn always(ip: IpAddr, answer: String) -> Self {
        let answer = Answer::Whole(answer.into());
        Self::routing(ip, move |_| answer.clone()).await
    }

    /// Answers each path (with its query) as `route` says.
    pub async fn routing(
        ip: IpAddr,
        route: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let by_path = move |head: &str| route(head.split(' ').nth(1).unwrap_or_default());
        Self::at((ip, 0).into(), by_path).await
    }

    /// Answers each head of a request as `route` says, at an address that another may have had before.
    ///
    /// # Panics
    /// Panics when the address is taken.
    pub async fn at(
        address: SocketAddr,
        route: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::on(TcpListener::bind(address).await.expect("the address is free"), route)
    }

    /// The same on a socket that listens already.
    ///
    /// # Panics
    /// Panics outside of a runtime.
    pub fn on(
        listener: TcpListener,
        route: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("a bound listener has an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let route: Route = Arc::new(route);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(respond(stream, Arc::clone(&route)));
            }
        });
        Self { address, connections, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers one request and closes; a failed connection is the client's affair.
async fn respond(mut stream: TcpStream, route: Route) {
    let mut head = Vec::new();
    // A part of the body may come along.
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    let head = String::from_utf8_lossy(&head);
    match route(&head) {
        Answer::Whole(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        Answer::Endless(head, bytes) => {
            let mut sent = stream.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(&bytes).await;
            }
        }
        Answer::Silence => {
            let mut rest = [0];
            let _ = stream.read(&mut rest).await;
        }
    }
}
