//! Writes of one thread's connections, gathered while a batch of them is served and sent one after another
//! when it is over.
//!
//! A response that is sent at once wakes a client that sleeps on another core, and that costs more than
//! the response itself. Sent in a row, the first wakes the client and the others find it awake.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What one connection may hold back. More is written through.
const HELD_BYTES_MAX: usize = 16 * 1024;
/// The buffer that an idle connection keeps.
const IDLE_BYTES_MAX: usize = 2 * 1024;
/// How long the first response of a batch may wait for the others to be made.
const HELD_TIME_MAX: Duration = Duration::from_millis(1);

/// How long a client may go on sending after its connection has been answered and shut down.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// How much it may send.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How much is read and forgotten at once.
const LINGER_BUFFER_BYTES: usize = 4 * 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Batch {
    streams: Vec<Arc<Mutex<Held>>>,
    since: Option<Instant>,
    waker: Option<Waker>,
}

/// The connections of one thread that hold something back.
#[derive(Clone, Default)]
pub(crate) struct Flusher(Arc<Mutex<Batch>>);

impl Flusher {
    /// Sends what is held back, each time after the tasks that were ready before it. Never ends.
    pub(crate) async fn run(self) {
        std::future::poll_fn(|cx| {
            let streams = {
                let mut batch = lock(&self.0);
                if !batch.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    batch.waker = Some(cx.waker().clone());
                }
                batch.since = None;
                std::mem::take(&mut batch.streams)
            };
            streams.iter().for_each(|stream| lock(stream).send());
            Poll::<()>::Pending
        })
        .await;
    }

    fn add(&self, stream: &Arc<Mutex<Held>>) {
        let mut batch = lock(&self.0);
        batch.streams.push(Arc::clone(stream));
        let now = Instant::now();
        if now.duration_since(*batch.since.get_or_insert(now)) < HELD_TIME_MAX {
            // After the first the task is awake already.
            if batch.streams.len() == 1
                && let Some(waker) = &batch.waker
            {
                waker.wake_by_ref();
            }
            return;
        }
        batch.since = None;
        let streams = std::mem::take(&mut batch.streams);
        drop(batch);
        streams.iter().for_each(|stream| lock(stream).send());
    }
}

struct Held {
    socket: TcpStream,
    bytes: BytesMut,
    /// It waits in the flusher's batch.
    queued: bool,
    /// The socket took no more; the connection's task goes on with it.
    blocked: bool,
    failed: Option<io::Error>,
    waker: Option<Waker>,
    /// Our side is shut down: nothing more is read for its own sake.
    shut: bool,
}

impl Held {
    /// Sends as much as the socket takes.
    fn send(&mut self) {
        self.queued = false;
        while !self.bytes.is_empty() && self.failed.is_none() {
            match self.socket.try_write(&self.bytes) {
                Ok(written) => self.bytes.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) => self.failed = Some(error),
            }
        }
        if self.bytes.is_empty() && self.bytes.capacity() > IDLE_BYTES_MAX {
            self.bytes = BytesMut::new();
        }
        if (self.blocked || self.failed.is_some())
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.bytes))?;
            self.bytes.advance(written);
        }
        self.blocked = false;
        Poll::Ready(Ok(()))
    }
}

/// A socket whose small writes wait for the end of the batch.
pub(crate) struct BatchedStream {
    held: Arc<Mutex<Held>>,
    flusher: Flusher,
}

impl BatchedStream {
    pub(crate) fn new(socket: TcpStream, flusher: Flusher) -> Self {
        let held = Held {
            socket,
            bytes: BytesMut::new(),
            queued: false,
            blocked: false,
            failed: None,
            waker: None,
            shut: false,
        };
        Self { held: Arc::new(Mutex::new(held)), flusher }
    }

    /// What to close the socket with when its connection has been served.
    pub(crate) fn closing(&self) -> Closing {
        Closing(Arc::clone(&self.held))
    }

    pub(crate) fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        lock(&self.held).socket.local_addr()
    }
}

/// A socket that a connection was served on, to be closed well.
pub(crate) struct Closing(Arc<Mutex<Held>>);

impl Closing {
    /// Reads on, and forgets, what the client still sends after our side is shut down: closing a socket with
    /// unread bytes resets it, and the client could lose the answer to a body that nobody wanted. Bounded in
    /// time and bytes; over at once when the client has closed, or the socket went to someone else.
    pub(crate) async fn linger(self) {
        let mut forgotten = 0;
        let read_on = std::future::poll_fn(|cx| {
            let mut buffer = [0; LINGER_BUFFER_BYTES];
            let mut held = lock(&self.0);
            while held.shut && forgotten < LINGER_BYTES_MAX {
                let mut into = ReadBuf::new(&mut buffer);
                match ready!(Pin::new(&mut held.socket).poll_read(cx, &mut into)) {
                    Ok(()) if !into.filled().is_empty() => forgotten += into.filled().len(),
                    Ok(()) | Err(_) => break,
                }
            }
            Poll::Ready(())
        });
        // Past the time the client gets the reset.
        let _ = tokio::time::timeout(LINGER_TIME_MAX, read_on).await;
    }
}

impl AsyncRead for BatchedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.held).socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for BatchedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = lock(&self.held);
        let more: usize = slices.iter().map(|slice| slice.len()).sum();
        if held.blocked || held.failed.is_some() || held.bytes.len() + more > HELD_BYTES_MAX {
            ready!(held.poll_drained(cx))?;
            return Pin::new(&mut held.socket).poll_write_vectored(cx, slices);
        }
        slices.iter().for_each(|slice| held.bytes.extend_from_slice(slice));
        if !held.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            held.waker = Some(cx.waker().clone());
        }
        if !std::mem::replace(&mut held.queued, true) {
            drop(held);
            self.flusher.add(&self.held);
        }
        Poll::Ready(Ok(more))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The flusher flushes; only what it could not send is waited for.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.held);
        if held.blocked || held.failed.is_some() {
            held.poll_drained(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.held);
        ready!(held.poll_drained(cx))?;
        held.shut = true;
        Pin::new(&mut held.socket).poll_shutdown(cx)
    }
}

impl Drop for BatchedStream {
    fn drop(&mut self) {
        // What a connection leaves behind without a shutdown is sent as far as the socket takes it.
        lock(&self.held).send();
    }
}
