//! One accepted connection: what a service may know of it, and the wrappers around its socket and
//! its responses by which idleness and stalls are noticed without a clock on the hot path.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::frame_watch::{Flood, FrameWatch};
use crate::pattern::Scheme;
use crate::tls::{ClientCertificate, PolicyId};

/// GOAWAY with the reason ENHANCE_YOUR_CALM, which leaves open what became of the last streams.
const GO_AWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11];

/// What is less than this in one write is no part of a body that a client makes room for, but an answer to a ping
/// or the like.
const PART_BYTES_MIN: usize = 256;

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
    /// Response bodies that have more, and that nobody asks for it: HTTP/2 has no room for it at the client.
    untaken: AtomicU32,
    /// How often one of them was asked, or a part of one was sent.
    taken: AtomicU64,
    /// Frames that the client may send beyond those known to its connection's watch.
    granted: AtomicU32,
    /// Streams that go on after HTTP.
    borrowed: AtomicU32,
    returned: Notify,
    cut: AtomicBool,
    cut_waker: AtomicWaker,
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
        if self.in_flight.load(Relaxed) > 0 || self.borrowed.load(Relaxed) > 0 {
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

    /// A count that grows when a part of a body is asked for or sent, while there is a body that nobody asks for,
    /// else `None`.
    pub(crate) fn untaken(&self) -> Option<u64> {
        (self.untaken.load(Relaxed) > 0).then(|| self.taken.load(Relaxed))
    }

    /// Grants the client of an HTTP/2 connection so many frames more.
    pub(crate) fn grant(&self, frames: u32) {
        self.granted.store(self.granted.load(Relaxed).saturating_add(frames), Relaxed);
    }

    pub(crate) fn set_multiplexed(&self) {
        self.multiplexed.store(true, Relaxed);
    }

    fn moved(&self) {
        self.taken.store(self.taken.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Waits until no stream goes on after HTTP.
    pub(crate) async fn returned(&self) {
        while self.borrowed.load(Relaxed) > 0 {
            self.returned.notified().await;
        }
    }

    /// Has the streams that go on after HTTP fail.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Relaxed);
        self.cut_waker.wake();
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

/// A connection that serves something else than HTTP now, until this is dropped.
#[derive(Debug)]
pub(crate) struct Borrowed(Arc<Activity>);

impl Borrowed {
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.borrowed.fetch_add(1, Relaxed);
        Self(Arc::clone(activity))
    }

    /// Fails once the connection is to be closed. Until then `cx` hears of it: of several streams on one HTTP/2
    /// connection the one that asked last, whose connection ends the others too.
    pub(crate) fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        if self.0.cut.load(Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.0.cut_waker.register(cx.waker());
        Ok(())
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.0.borrowed.fetch_sub(1, Relaxed);
        self.0.returned.notify_one();
    }
}

/// A response body that keeps its request in flight until it is dropped, and notes whether it is asked for more.
pub(crate) struct TrackedBody<B> {
    body: B,
    in_flight: InFlight,
    untaken: bool,
}

impl<B: Body> TrackedBody<B> {
    pub(crate) fn new(body: B, in_flight: InFlight) -> Self {
        let more = !body.is_end_stream();
        let mut new = Self { body, in_flight, untaken: false };
        new.note(more);
        new
    }
}

impl<B> TrackedBody<B> {
    /// Notes that there is more of the body for whoever asks, or that somebody has asked.
    fn note(&mut self, untaken: bool) {
        let activity = &self.in_flight.0;
        match (std::mem::replace(&mut self.untaken, untaken), untaken) {
            (false, true) => activity.untaken.store(activity.untaken.load(Relaxed) + 1, Relaxed),
            (true, false) => {
                activity.untaken.store(activity.untaken.load(Relaxed) - 1, Relaxed);
                activity.moved();
            }
            _ => {}
        }
    }
}

impl<B> Drop for TrackedBody<B> {
    fn drop(&mut self) {
        self.note(false);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.note(false);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) && !self.body.is_end_stream() {
            self.note(true);
        }
        polled
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
    /// On HTTP/2.
    watch: Option<FrameWatch>,
}

impl<T> GuardedIo<T> {
    pub(crate) fn new(socket: T, sniffed: Bytes, activity: Arc<Activity>) -> Self {
        activity.head_started.store(!sniffed.is_empty(), Relaxed);
        Self { socket, sniffed, activity, watch: None }
    }

    /// Watches the client's frames.
    pub(crate) fn watched(self) -> Self {
        Self { watch: Some(FrameWatch::new()), ..self }
    }

    /// Looks at what was read.
    fn look(&mut self, read: &[u8]) -> Result<(), Flood> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let granted = self.activity.granted.load(Relaxed);
        if granted > 0 {
            self.activity.granted.store(0, Relaxed);
            watch.grant(granted);
        }
        watch.read(read)
    }

    fn note_written(&mut self, result: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(bytes)), Some(watch)) = (result, &mut self.watch) {
            watch.wrote(*bytes);
            if *bytes >= PART_BYTES_MIN {
                self.activity.moved();
            }
        }
        self.note_write(result);
    }

    fn note_write<R>(&self, result: &Poll<io::Result<R>>) {
        match result {
            Poll::Pending => self.activity.write_blocked.store(true, Relaxed),
            Poll::Ready(_) => self.activity.wrote(),
        }
    }
}

impl<T: AsyncWrite + Unpin> GuardedIo<T> {
    /// Says why the connection ends, if the socket takes it: what was written before were whole frames then.
    fn say_farewell(&mut self, cx: &mut Context<'_>) {
        if !self.activity.write_blocked.load(Relaxed) {
            let socket = Pin::new(&mut self.socket);
            // The connection ends, whether its client learns why or not.
            let _ = socket.poll_write(cx, &GO_AWAY);
            let _ = Pin::new(&mut self.socket).poll_flush(cx);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.sniffed.is_empty() {
            let len = self.sniffed.len().min(buf.remaining());
            let sniffed = self.sniffed.split_to(len);
            buf.put_slice(&sniffed);
            return Poll::Ready(self.look(&sniffed).map_err(io::Error::other));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.head_started.store(true, Relaxed);
            if let Err(flood) = self.look(&buf.filled()[before..]) {
                self.say_farewell(cx);
                return Poll::Ready(Err(io::Error::other(flood)));
            }
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
        self.note_written(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.note_written(&result);
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
