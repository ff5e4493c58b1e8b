//! The asking end of a link: who waits for which answer, and the task that moves frames.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::frame::{BUFFER_BYTES, Frame, LinkError, Prefix, Values, write_frames};
use super::message::{Answer, Call, Request, Response};
use crate::error::KvError;
use crate::key::NamespaceId;

/// What comes back for a request.
pub(super) type Reply = oneshot::Receiver<Result<(Answer, Values), KvError>>;

/// The asking end. When it is dropped the link ends after the last answer.
pub(super) struct Link {
    waiting: Arc<Waiting>,
    /// Holds at most what `queue` permits.
    outbox: UnboundedSender<(Frame, OwnedSemaphorePermit)>,
    in_flight: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    queue_bytes_max: u32,
    next_id: AtomicU64,
}

/// The requests without an answer.
#[derive(Default)]
struct Waiting(Mutex<Waiters>);

#[derive(Default)]
struct Waiters {
    by_id: HashMap<u64, Waiter>,
    closed: bool,
}

struct Waiter {
    reply: oneshot::Sender<Result<(Answer, Values), KvError>>,
    _in_flight: OwnedSemaphorePermit,
}

impl Link {
    /// Takes the stream and moves its frames in a task of the current runtime.
    pub(super) fn new(stream: UnixStream, in_flight_max: usize, queue_bytes_max: u32) -> Self {
        let waiting = Arc::<Waiting>::default();
        let (outbox, frames) = mpsc::unbounded_channel();
        let (read, write) = stream.into_split();
        let end = EndOnDrop(waiting.clone());
        tokio::spawn(async move {
            let write = async {
                match write_frames(write, frames).await {
                    // The store is gone, but some may still wait for their answers.
                    Ok(()) => pending().await,
                    Err(error) => error,
                }
            };
            let result = tokio::select! {
                result = read_answers(read, &end.0) => result,
                error = write => Err(error.into()),
            };
            if let Err(error) = result {
                tracing::error!(%error, "lost the link to the key-value store");
            }
        });
        Self {
            waiting,
            outbox,
            in_flight: Arc::new(Semaphore::new(in_flight_max)),
            queue: Arc::new(Semaphore::new(queue_bytes_max as usize)),
            queue_bytes_max,
            next_id: AtomicU64::new(0),
        }
    }

    /// Sends a request. Those of one caller reach the peer in the order of the calls.
    pub(super) fn ask(
        &self,
        namespace: &NamespaceId,
        call: Call,
        values: Vec<Bytes>,
    ) -> Result<Reply, KvError> {
        let overloaded = |_| KvError::Overloaded;
        let in_flight = self.in_flight.clone().try_acquire_owned().map_err(overloaded)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::new(&Request { id, namespace: namespace.clone(), call }, values);
        // One that is larger than the whole queue fits into an empty one.
        let bytes = u32::try_from(frame.bytes()).unwrap_or(u32::MAX).min(self.queue_bytes_max);
        let queued = self.queue.clone().try_acquire_many_owned(bytes).map_err(overloaded)?;
        let (reply, answer) = oneshot::channel();
        self.waiting.enter(id, Waiter { reply, _in_flight: in_flight })?;
        if self.outbox.send((frame, queued)).is_err() {
            return Err(KvError::Closed);
        }
        Ok(answer)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.waiting.lock().by_id.len()
    }
}

impl Waiting {
    fn enter(&self, id: u64, waiter: Waiter) -> Result<(), KvError> {
        let mut waiters = self.lock();
        if waiters.closed {
            return Err(KvError::Closed);
        }
        waiters.by_id.insert(id, waiter);
        Ok(())
    }

    fn answer(&self, id: u64, result: Result<(Answer, Values), KvError>) -> Result<(), LinkError> {
        let waiter = self.lock().by_id.remove(&id).ok_or(LinkError::Unasked(id))?;
        // The caller may have left.
        let _ = waiter.reply.send(result);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // The state is whole between any two statements under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails all who wait when the task ends, however it ends.
struct EndOnDrop(Arc<Waiting>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let mut waiters = self.0.lock();
        waiters.closed = true;
        let unanswered = std::mem::take(&mut waiters.by_id);
        drop(waiters);
        // Their receivers see that no answer will come.
        drop(unanswered);
    }
}

async fn read_answers(stream: OwnedReadHalf, waiting: &Waiting) -> Result<(), LinkError> {
    let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
    while let Some(prefix) = Prefix::read(&mut stream).await? {
        let (response, values) = prefix.body::<Response>(&mut stream).await?;
        waiting.answer(response.id, response.answer.map(|answer| (answer, values)))?;
    }
    Ok(())
}
