//! One accepted connection: what a service may know of it, and the wrappers around its socket and
//! its responses by which idleness and stalls are noticed without a clock on the hot path.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pattern::Scheme;
use crate::tls::{ClientCertificate, PolicyId};

/// A client's connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client's address. Behind proxies that are trusted it is the one that they tell.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// The scheme that the client used, with a proxy or without.
    pub scheme: Scheme,
    /// The TLS session, when there is one.
    pub tls: Option<TlsInfo>,
}

/// What TLS agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by OpenSSL's name, as `request.cf.tlsCipher` has it.
    pub cipher: &'static str,
    /// The host name the client asked for.
    pub sni: Option<Box<str>>,
    /// The protocol agreed on.
    pub alpn: Option<Alpn>,
    /// How the client was asked for a certificate.
    pub policy: PolicyId,
    /// Its certificate, where it was asked for one.
    pub client: Option<Arc<ClientCertificate>>,
}

/// A protocol agreed on by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `http/1.1`
    Http1,
    /// `h2`
    H2,
    /// `h3`
    H3,
}

/// Marks that connection work leaves for the sweep, which alone looks at the clock.
///
/// One thread writes and reads all of it; it is atomic only because hyper wants a socket that it
/// may hand over after an upgrade to be `Send`. Relaxed loads and stores cost nothing here.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    in_flight: AtomicU32,
    requests: AtomicU64,
    /// Bytes have come since the last request ended: a request head is on its way.
    head_started: AtomicBool,
    /// HTTP/2 sends frames between requests, so bytes say nothing of a head.
    multiplexed: AtomicBool,
    write_blocked: AtomicBool,
    writes: AtomicU64,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No request in flight and none begun.
    Idle,
    /// A part of a request head has come.
    Head,
    /// A request is being answered.
    Busy,
}

impl Activity {
    pub(crate) fn phase(&self) -> Phase {
        if self.in_flight.load(Relaxed) > 0 {
            Phase::Busy
        } else if self.head_started.load(Relaxed) && !self.multiplexed.load(Relaxed) {
            Phase::Head
        } else {
            Phase::Idle
        }
    }

    /// How many requests have begun: a phase that looks the same with another count is a new one.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// The count of successful writes while the last attempt found the socket full, else `None`.
    pub(crate) fn blocked_at_write(&self) -> Option<u64> {
        self.write_blocked.load(Relaxed).then(|| self.writes.load(Relaxed))
    }

    pub(crate) fn set_multiplexed(&self) {
        self.multiplexed.store(true, Relaxed);
    }

    fn wrote(&self) {
        self.writes.store(self.writes.load(Relaxed).wrapping_add(1), Relaxed);
        self.write_blocked.store(false, Relaxed);
    }
}

/// A request in flight, from its head to the end of its response's body.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Activity>);

impl InFlight {
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.in_flight.store(activity.in_flight.load(Relaxed) + 1, Relaxed);
        activity.requests.store(activity.requests.load(Relaxed) + 1, Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.store(self.0.in_flight.load(Relaxed) - 1, Relaxed);
        self.0.head_started.store(false, Relaxed);
    }
}

/// A response body that keeps its request in flight until it is dropped.
pub(crate) struct TrackedBody<B> {
    body: B,
    _in_flight: InFlight,
}

impl<B> TrackedBody<B> {
    pub(crate) fn new(body: B, in_flight: InFlight) -> Self {
        Self { body, _in_flight: in_flight }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that notes reads and writes in its [`Activity`], and first yields the bytes that were
/// read to learn the protocol.
#[derive(Debug)]
pub(crate) struct GuardedIo<T> {
    socket: T,
    sniffed: Bytes,
    activity: Arc<Activity>,
}

impl<T> GuardedIo<T> {
    pub(crate) fn new(socket: T, sniffed: Bytes, activity: Arc<Activity>) -> Self {
        activity.head_started.store(!sniffed.is_empty(), Relaxed);
        Self { socket, sniffed, activity }
    }

    fn note_write<R>(&self, result: &Poll<io::Result<R>>) {
        match result {
            Poll::Pending => self.activity.write_blocked.store(true, Relaxed),
            Poll::Ready(_) => self.activity.wrote(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.sniffed.is_empty() {
            let len = self.sniffed.len().min(buf.remaining());
            buf.put_slice(&self.sniffed[..len]);
            self.sniffed.advance(len);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.head_started.store(true, Relaxed);
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(cx);
        // TLS keeps bytes of its own: a flush that waits is a client that does not read.
        self.note_write(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
