//! Sockets of messages (WebSocket), as both sides of the boundary see them: a worker's end and another one that the
//! host, or another worker, holds. It knows no wire format; queues are bounded, and each says when it is full.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// The largest message that a worker is given, in bytes: as on the Workers platform. A host ends a socket that
/// brings a larger one, with code 1009.
pub const SOCKET_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What a worker has sent on one socket and the other end has not taken, in bytes. It is the most that one message
/// may have, too.
pub(crate) const SENT_BYTES_MAX: usize = 8 << 20;

/// The same for all sockets of an instance together.
const INSTANCE_SENT_BYTES_MAX: usize = 32 << 20;

/// What waits for a worker on one socket, in bytes, before the other end has to wait.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// What a message costs besides its bytes.
const MESSAGE_EXTRA_BYTES: usize = 64;

/// Code of a close without a code (RFC 6455, 7.4.1). Never on the wire.
pub const CLOSE_NO_CODE: u16 = 1005;

/// Code of a connection that broke off. Never on the wire.
pub const CLOSE_ABNORMAL: u16 = 1006;

/// How a socket is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketClose {
    /// The code of RFC 6455, section 7.4; [`CLOSE_NO_CODE`] for none.
    pub code: u16,
    /// At most 123 bytes.
    pub reason: String,
}

impl SocketClose {
    /// A close with a code and a reason.
    pub fn new(code: u16, reason: &str) -> Self {
        Self { code, reason: reason.to_owned() }
    }

    /// The connection broke off without a word.
    pub fn abnormal() -> Self {
        Self::new(CLOSE_ABNORMAL, "WebSocket disconnected without sending Close frame.")
    }
}

/// What passes through a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketMessage {
    /// A message of text.
    Text(String),
    /// A message of bytes.
    Binary(Bytes),
    /// The last: the other end closes.
    Close(SocketClose),
    /// The last: it broke off.
    Lost(SocketClose),
}

impl SocketMessage {
    fn cost(&self) -> usize {
        let bytes = match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Close(_) | Self::Lost(_) => 0,
        };
        bytes + MESSAGE_EXTRA_BYTES
    }
}

/// Why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendRefusal {
    /// Too much waits to be taken.
    Full,
    /// The socket is closed.
    Over,
}

/// What all sockets of an instance have sent and nobody has taken.
#[derive(Clone, Default)]
pub(crate) struct SentBytes(Arc<AtomicUsize>);

/// A message's part of [`SentBytes`], given back when it is taken.
struct Charge(SentBytes, usize);

impl SentBytes {
    fn charge(&self, bytes: usize) -> Option<Charge> {
        let charge = Charge(self.clone(), bytes);
        // Counted first: threads that do this at once never pass the limit together.
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        (before + bytes <= INSTANCE_SENT_BYTES_MAX).then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far a direction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// Messages may follow.
    #[default]
    Open,
    /// The last was a close.
    Closed,
    /// It broke off.
    Lost,
}

/// One direction of a socket.
#[derive(Default)]
struct Queue {
    messages: VecDeque<(SocketMessage, Option<Charge>)>,
    bytes: usize,
    progress: Progress,
    /// Somebody has begun to read.
    is_read: bool,
    /// Nobody reads any more.
    abandoned: bool,
    /// Messages come from outside of the instance that reads them.
    from_outside: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Queue {
    fn is_over(&self) -> bool {
        self.progress != Progress::Open || self.abandoned
    }

    fn push(&mut self, message: SocketMessage, charge: Option<Charge>) {
        self.bytes += message.cost();
        self.messages.push_back((message, charge));
        wake(&mut self.reader);
    }

    /// Whether who reads has done with the last message, or never will read it.
    fn is_settled(&self) -> bool {
        self.abandoned || self.progress != Progress::Open && !self.is_read
    }
}

#[derive(Default)]
struct Flow(Mutex<Queue>);

impl Flow {
    /// Sends the last message.
    fn finish(&self, last: SocketMessage) {
        let mut queue = lock(&self.0);
        if queue.is_over() {
            return;
        }
        queue.progress =
            if matches!(last, SocketMessage::Close(_)) { Progress::Closed } else { Progress::Lost };
        queue.push(last, None);
        wake(&mut queue.writer);
        wake(&mut queue.watcher);
    }

    /// Forgets what was not taken, and ends.
    fn cut(&self, last: SocketMessage) {
        let mut queue = lock(&self.0);
        if queue.progress == Progress::Open {
            queue.messages.clear();
            queue.bytes = 0;
        }
        drop(queue);
        self.finish(last);
    }

    /// Nobody reads any more.
    fn abandon(&self) {
        let mut queue = lock(&self.0);
        queue.abandoned = true;
        queue.messages.clear();
        queue.bytes = 0;
        wake(&mut queue.reader);
        wake(&mut queue.writer);
        wake(&mut queue.watcher);
    }

    fn try_send(&self, message: SocketMessage, sent: &SentBytes) -> Result<(), SendRefusal> {
        let mut queue = lock(&self.0);
        if queue.is_over() {
            return Err(SendRefusal::Over);
        }
        let cost = message.cost();
        if queue.bytes > 0 && queue.bytes + cost > SENT_BYTES_MAX {
            return Err(SendRefusal::Full);
        }
        let charge = sent.charge(cost).ok_or(SendRefusal::Full)?;
        queue.push(message, Some(charge));
        Ok(())
    }

    /// Takes the message once there is room for it.
    fn poll_send(&self, cx: &mut Context<'_>, message: &mut Option<SocketMessage>) -> Poll<bool> {
        let mut queue = lock(&self.0);
        if queue.is_over() {
            return Poll::Ready(false);
        }
        if queue.bytes >= WAITING_BYTES_MAX {
            queue.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(message) = message.take() {
            queue.push(message, None);
        }
        Poll::Ready(true)
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<SocketMessage>> {
        let mut queue = lock(&self.0);
        queue.is_read = true;
        if let Some((message, _)) = queue.messages.pop_front() {
            queue.bytes -= message.cost();
            wake(&mut queue.writer);
            return Poll::Ready(Some(message));
        }
        if queue.is_over() {
            return Poll::Ready(None);
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// One end of a socket. Dropping it without a close tells the other end that it broke off.
pub struct Socket {
    incoming: Arc<Flow>,
    outgoing: Arc<Flow>,
}

impl Socket {
    /// Two ends: what is sent on one comes out of the other.
    pub fn pair() -> (Self, Self) {
        let (one, other) = (Arc::new(Flow::default()), Arc::new(Flow::default()));
        let first = Self { incoming: one.clone(), outgoing: other.clone() };
        (first, Self { incoming: other, outgoing: one })
    }

    /// Sends a message once there is room for it. False when the other end takes none any more. Safe to cancel.
    pub async fn send(&self, message: SocketMessage) -> bool {
        let mut message = Some(message);
        poll_fn(|cx| self.outgoing.poll_send(cx, &mut message)).await
    }

    /// The next message; nothing after the last one. Safe to cancel.
    pub async fn next(&self) -> Option<SocketMessage> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same, to be polled.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<SocketMessage>> {
        self.incoming.poll_next(cx)
    }

    /// Sends the last message. One that comes after it is not sent.
    pub fn close(&self, close: SocketClose) {
        self.outgoing.finish(SocketMessage::Close(close));
    }

    /// Tells the other end that the connection broke off.
    pub fn lose(&self, close: SocketClose) {
        self.outgoing.finish(SocketMessage::Lost(close));
    }

    /// Sends a message, unless too much waits to be taken.
    pub(crate) fn try_send(
        &self,
        message: SocketMessage,
        sent: &SentBytes,
    ) -> Result<(), SendRefusal> {
        self.outgoing.try_send(message, sent)
    }

    /// Breaks off in both directions.
    pub(crate) fn fail(&self, close: SocketClose) {
        self.outgoing.cut(SocketMessage::Lost(close.clone()));
        self.incoming.cut(SocketMessage::Lost(close));
    }

    /// Whether messages come from outside of the instance.
    pub(crate) fn hears_outside(&self) -> bool {
        lock(&self.incoming.0).from_outside
    }

    /// This end is about to leave the instance that made it, or has come from another.
    pub(crate) fn crosses(&self) {
        lock(&self.incoming.0).from_outside = true;
        lock(&self.outgoing.0).from_outside = true;
    }

    /// What the instance keeps of an end that it hands out.
    pub(crate) fn watch(&self) -> SocketWatch {
        SocketWatch { to_worker: self.outgoing.clone(), to_client: self.incoming.clone() }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.lose(SocketClose::abnormal());
        self.incoming.abandon();
    }
}

/// A socket that was handed out as a response, from the side of the invocation that it keeps alive.
#[derive(Clone)]
pub(crate) struct SocketWatch {
    to_worker: Arc<Flow>,
    to_client: Arc<Flow>,
}

impl SocketWatch {
    /// Waits until the client's end is gone and the worker has seen it. Says whether it was closed properly.
    pub(crate) async fn over(&self) -> bool {
        poll_fn(|cx| {
            let mut client = lock(&self.to_client.0);
            client.watcher = Some(cx.waker().clone());
            let gone = client.abandoned;
            let closed = client.progress == Progress::Closed;
            drop(client);
            let mut worker = lock(&self.to_worker.0);
            worker.watcher = Some(cx.waker().clone());
            if !gone || !worker.is_settled() {
                return Poll::Pending;
            }
            Poll::Ready(closed || worker.progress == Progress::Closed)
        })
        .await
    }

    /// Closes it towards both ends.
    pub(crate) fn close(&self, close: &SocketClose) {
        self.to_client.finish(SocketMessage::Close(close.clone()));
        self.to_worker.finish(SocketMessage::Close(close.clone()));
    }
}

/// How a response carries its socket past those who know nothing of sockets: among its extensions.
#[derive(Clone)]
pub struct SocketSlot(Arc<Mutex<Option<Socket>>>);

impl SocketSlot {
    /// Puts a socket into a response.
    pub fn put<B>(response: &mut http::Response<B>, socket: Socket) {
        response.extensions_mut().insert(Self(Arc::new(Mutex::new(Some(socket)))));
    }

    /// Takes it out again, if there is one.
    pub fn take<B>(response: &mut http::Response<B>) -> Option<Socket> {
        let slot = response.extensions_mut().remove::<Self>()?;
        lock(&slot.0).take()
    }

    /// Whether a response has one.
    pub(crate) fn is_in<B>(response: &http::Response<B>) -> bool {
        response.extensions().get::<Self>().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;

    fn text(text: &str) -> SocketMessage {
        SocketMessage::Text(text.to_owned())
    }

    fn next(socket: &Socket) -> Poll<Option<SocketMessage>> {
        socket.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn messages_come_in_order_and_nothing_after_the_last() {
        let (one, other) = Socket::pair();
        let sent = SentBytes::default();
        assert!(next(&other).is_pending());
        one.try_send(text("a"), &sent).unwrap();
        one.close(SocketClose::new(4000, "bye"));
        assert_eq!(one.try_send(text("b"), &sent), Err(SendRefusal::Over));
        assert_eq!(next(&other), Poll::Ready(Some(text("a"))));
        let close = SocketMessage::Close(SocketClose::new(4000, "bye"));
        assert_eq!(next(&other), Poll::Ready(Some(close)));
        assert_eq!(next(&other), Poll::Ready(None));
        drop(one);
        assert_eq!(next(&other), Poll::Ready(None));
    }

    #[test]
    fn an_end_that_is_dropped_is_lost() {
        let (one, other) = Socket::pair();
        drop(one);
        let lost = SocketMessage::Lost(SocketClose::abnormal());
        assert_eq!(next(&other), Poll::Ready(Some(lost)));
        assert_eq!(other.try_send(text("a"), &SentBytes::default()), Err(SendRefusal::Over));
    }

    #[test]
    fn what_nobody_takes_is_bounded_by_socket_and_by_instance() {
        let sent = SentBytes::default();
        let chunk = || SocketMessage::Binary(Bytes::from(vec![0; 1 << 20]));
        let fill = || {
            let (one, other) = Socket::pair();
            while one.try_send(chunk(), &sent).is_ok() {}
            (one, other)
        };
        let pairs: Vec<_> = (0..8).map(|_| fill()).collect();
        let queued: usize = pairs.iter().map(|(_, other)| lock(&other.incoming.0).bytes).sum();
        assert!(lock(&pairs[0].1.incoming.0).bytes <= SENT_BYTES_MAX);
        assert!(queued <= INSTANCE_SENT_BYTES_MAX, "{queued}");
        drop(pairs);
        assert_eq!(sent.0.load(Ordering::Relaxed), 0, "what is dropped is given back");
    }

    #[tokio::test]
    async fn it_is_over_when_the_client_is_gone_and_the_worker_has_done() {
        for (close, closed) in [(true, true), (false, false)] {
            let (worker, client) = Socket::pair();
            let watch = client.watch();
            assert!(next(&worker).is_pending());
            if close {
                client.close(SocketClose::new(1000, ""));
            }
            drop(client);
            let over = tokio::time::timeout(std::time::Duration::from_millis(10), watch.over());
            assert!(over.await.is_err(), "the worker has not seen it");
            drop(worker);
            assert_eq!(watch.over().await, closed);
        }
        let (_worker, client) = Socket::pair();
        let watch = client.watch();
        drop(client);
        assert!(!watch.over().await, "nobody reads");
    }
}
