//! The answering end of a link: it runs a peer's operations on the store of this process. The peer
//! is not trusted: whatever it sends, it gets answers, is made to wait, or loses its link.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame::{BUFFER_BYTES, Frame, LinkError, Prefix, Values, write_frames};
use super::message::{Answer, Call, Request, Response, join_writes};
use crate::error::KvError;
use crate::store::{KvFuture, KvStore};

/// How much one peer may have under way. Past it its next request stays on the stream.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Reads between their arrival and the last byte of their answer, at most. Each may hold 25 MiB.
    pub reads_max: usize,
    /// Writes between their arrival and their answer, at most.
    pub writes_max: usize,
    /// Bytes of the requests under way, at most; one larger still fits alone.
    pub request_bytes_max: u32,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { reads_max: 32, writes_max: 2048, request_bytes_max: 64 * 1024 * 1024 }
    }
}

/// Answers the requests of a `RemoteStore` at the other end of `stream`, until that one is dropped
/// or breaks the rules. Operations that it has begun are finished even if the peer is gone.
pub async fn serve_remote(store: Arc<dyn KvStore>, stream: UnixStream, options: ServeOptions) {
    let (read, write) = stream.into_split();
    let (answers, frames) = mpsc::unbounded_channel();
    let requests = Requests {
        store,
        answers,
        reads: Arc::new(Semaphore::new(options.reads_max.max(1))),
        writes: Arc::new(Semaphore::new(options.writes_max.max(1))),
        bytes: Arc::new(Semaphore::new(options.request_bytes_max.max(1) as usize)),
        bytes_max: options.request_bytes_max.max(1),
    };
    let mut write = std::pin::pin!(write_frames(write, frames));
    let result = tokio::select! {
        result = requests.read(read) => match result {
            // The peer asks no more and takes what it still waits for.
            Ok(()) => write.await.map_err(LinkError::from),
            Err(error) => Err(error),
        },
        result = &mut write => result.map_err(LinkError::from),
    };
    match result {
        Ok(()) => {}
        Err(LinkError::Stream(error)) => {
            tracing::warn!(%error, "a link to the key-value store broke");
        }
        Err(error) => tracing::error!(%error, "ended a link to the key-value store"),
    }
}

/// What one operation occupies until its answer is written.
struct Held {
    _operation: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// The state of one link.
struct Requests {
    store: Arc<dyn KvStore>,
    /// Holds at most one answer for each operation that the semaphores permit.
    answers: UnboundedSender<(Frame, Held)>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

/// An operation's answer and the values that go with it.
type Answered = (Result<Answer, KvError>, Vec<Bytes>);

impl Requests {
    /// Starts operations as their requests come in, and drops `self` when none will follow.
    async fn read(self, stream: OwnedReadHalf) -> Result<(), LinkError> {
        let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        while let Some(prefix) = Prefix::read(&mut stream).await? {
            let bytes = u32::try_from(prefix.bytes()).unwrap_or(u32::MAX).min(self.bytes_max);
            let bytes = self.bytes.clone().acquire_many_owned(bytes);
            let bytes = bytes.await.expect(NEVER_CLOSED);
            let (request, values) = prefix.body::<Request>(&mut stream).await?;
            let operations = if request.call.is_read() { &self.reads } else { &self.writes };
            let operation = operations.clone().acquire_owned().await.expect(NEVER_CLOSED);
            let held = Held { _operation: operation, _bytes: bytes };
            self.start(request, values, held)?;
        }
        Ok(())
    }

    fn start(&self, request: Request, values: Values, held: Held) -> Result<(), LinkError> {
        let id = request.id;
        // Called here and not in the task: writes reach the store in the order of their requests.
        let mut operation = begin(&*self.store, request, values)?;
        let answers = self.answers.clone();
        let send = move |(answer, values)| {
            // If the link has ended nobody waits.
            let _ = answers.send((Frame::new(&Response { id, answer }, values), held));
        };
        match (&mut operation).now_or_never() {
            Some(answered) => send(answered),
            None => {
                tokio::spawn(operation.map(send));
            }
        }
        Ok(())
    }
}

const NEVER_CLOSED: &str = "the semaphores of a link are never closed";

impl Call {
    fn is_read(&self) -> bool {
        matches!(self, Self::Get(_) | Self::GetMany(_) | Self::List(_))
    }

    fn carries_values(&self) -> bool {
        matches!(self, Self::Put(..) | Self::WriteBulk(_))
    }
}

fn begin(
    store: &dyn KvStore,
    Request { namespace, call, .. }: Request,
    values: Values,
) -> Result<BoxFuture<'static, Answered>, LinkError> {
    let namespace = &namespace;
    let done = |()| (Answer::Done, Vec::new());
    if !call.carries_values() && !values.is_empty() {
        return Err(LinkError::Values);
    }
    Ok(match call {
        Call::Get(key) => answered(store.get(namespace, &key), Answer::found),
        Call::GetMany(keys) => answered(store.get_many(namespace, keys), Answer::found_many),
        Call::Put(key, options) => {
            answered(store.put(namespace, &key, values.rest(), options), done)
        }
        Call::Delete(key) => answered(store.delete(namespace, &key), done),
        Call::WriteBulk(pairs) => {
            answered(store.write_bulk(namespace, join_writes(pairs, values)?), done)
        }
        Call::DeleteBulk(keys) => answered(store.delete_bulk(namespace, keys), done),
        Call::List(options) => answered(store.list(namespace, options), Answer::page),
        Call::DropNamespace => answered(store.drop_namespace(namespace), done),
    })
}

fn answered<T: Send + 'static>(
    operation: KvFuture<T>,
    answer: impl FnOnce(T) -> (Answer, Vec<Bytes>) + Send + 'static,
) -> BoxFuture<'static, Answered> {
    let split = |result: Result<T, KvError>| match result.map(answer) {
        Ok((answer, values)) => (Ok(answer), values),
        Err(error) => (Err(error), Vec::new()),
    };
    operation.map(split).boxed()
}
