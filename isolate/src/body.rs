//! Bodies that cross the boundary: a request's bytes as a resource for JS, a response's as an HTTP body.

use std::borrow::Cow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use deno_core::{
    AsyncRefCell, AsyncResult, BufView, CancelHandle, CancelTryFuture, RcRef, Resource,
};
use deno_error::JsErrorBox;
use http_body::{Frame, SizeHint};

use crate::host::{Body, BoxError};
use crate::invocation::BodyGuard;

/// The most that one read takes out of a stream, in bytes.
const READ_BYTES_MAX: usize = 64 << 10;

struct Incoming {
    body: Body,
    rest: Bytes,
}

/// A body that comes in, readable from JS. Closing it drops the body and so tells the sender to stop.
pub(crate) struct BodyResource {
    incoming: AsyncRefCell<Incoming>,
    cancel: Rc<CancelHandle>,
    size: (u64, Option<u64>),
}

impl BodyResource {
    pub(crate) fn new(body: Body, cancel: Rc<CancelHandle>) -> Self {
        let hint = http_body::Body::size_hint(&body);
        Self {
            incoming: AsyncRefCell::new(Incoming { body, rest: Bytes::new() }),
            cancel,
            size: (hint.lower(), hint.upper()),
        }
    }

    async fn next(self: Rc<Self>, limit: usize) -> Result<BufView, JsErrorBox> {
        let cancel = self.cancel.clone();
        let read = async move {
            let mut incoming = RcRef::map(&self, |this| &this.incoming).borrow_mut().await;
            while incoming.rest.is_empty() {
                let frame = std::future::poll_fn(|cx| {
                    http_body::Body::poll_frame(Pin::new(&mut incoming.body), cx)
                });
                match frame.await {
                    None => return Ok(BufView::empty()),
                    Some(Err(error)) => {
                        return Err(JsErrorBox::type_error(format!("the body broke off: {error}")));
                    }
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            incoming.rest = data;
                        }
                    }
                }
            }
            let take = limit.min(incoming.rest.len());
            Ok(BufView::from(incoming.rest.split_to(take)))
        };
        read.try_or_cancel(cancel).await
    }
}

impl Resource for BodyResource {
    fn name(&self) -> Cow<'_, str> {
        "body".into()
    }

    fn read(self: Rc<Self>, limit: usize) -> AsyncResult<BufView> {
        Box::pin(self.next(limit))
    }

    fn size_hint(&self) -> (u64, Option<u64>) {
        self.size
    }
}

/// The body of a worker's response.
pub enum ResponseBody {
    /// No bytes.
    Empty,
    /// All bytes at once; `None` once they have been taken.
    Full(Option<Bytes>),
    /// Bytes as they come.
    Stream(StreamBody),
}

/// A response body that is read as the client takes it.
pub struct StreamBody {
    resource: Rc<dyn Resource>,
    reading: Option<AsyncResult<BufView>>,
    length: Option<u64>,
    guard: Option<BodyGuard>,
}

impl StreamBody {
    pub(crate) fn new(resource: Rc<dyn Resource>, guard: BodyGuard) -> Self {
        let length = match resource.size_hint() {
            (lower, Some(upper)) if lower == upper && upper > 0 => Some(upper),
            _ => None,
        };
        Self { resource, reading: None, length, guard: Some(guard) }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        if self.guard.is_none() {
            return Poll::Ready(None);
        }
        let reading =
            self.reading.get_or_insert_with(|| self.resource.clone().read(READ_BYTES_MAX));
        let read = std::task::ready!(reading.as_mut().poll(cx));
        self.reading = None;
        match read {
            Ok(view) if view.is_empty() => {
                if let Some(guard) = self.guard.take() {
                    guard.complete();
                }
                Poll::Ready(None)
            }
            Ok(view) => Poll::Ready(Some(Ok(Bytes::copy_from_slice(&view)))),
            Err(error) => {
                if let Some(guard) = self.guard.take() {
                    guard.broken(&error.to_string());
                }
                Poll::Ready(Some(Err(error.to_string().into())))
            }
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.reading = None;
        self.resource.clone().close();
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => {
                stream.poll_chunk(cx).map(|chunk| chunk.map(|c| c.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Full(None) => true,
            Self::Full(Some(_)) => false,
            Self::Stream(stream) => stream.guard.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(StreamBody { length: Some(length), .. }) => SizeHint::with_exact(*length),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
