//! Bodies that cross the boundary: what comes in as a resource for JS, what goes out as an HTTP body.

use std::borrow::Cow;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use deno_core::{AsyncResult, BufView, Resource};
use deno_error::JsErrorBox;
use http_body::{Frame, SizeHint};

use crate::connections::Connection;
use crate::host::{Body, BoxError};
use crate::invocation::BodyGuard;

/// The most that one read takes out of a stream, in bytes.
const READ_BYTES_MAX: usize = 64 << 10;

/// Where a body that comes in stands.
enum Source {
    /// More may come.
    Open(Body),
    /// All of it came.
    Over,
    /// It broke off, or nobody is to read it any more.
    Closed,
}

struct Incoming {
    source: Source,
    rest: Bytes,
    reader: Option<Waker>,
    /// Held until the last byte has come.
    connection: Option<Connection>,
}

/// A body that comes in, readable from JS. Closing it, or the end of its invocation, drops the body and so
/// tells the sender to stop.
pub(crate) struct BodyResource {
    incoming: RefCell<Incoming>,
    size: (u64, Option<u64>),
}

impl BodyResource {
    pub(crate) fn new(body: Body, connection: Option<Connection>) -> Rc<Self> {
        let hint = http_body::Body::size_hint(&body);
        let incoming =
            Incoming { source: Source::Open(body), rest: Bytes::new(), reader: None, connection };
        Rc::new(Self { incoming: RefCell::new(incoming), size: (hint.lower(), hint.upper()) })
    }

    /// Drops the body. A read under way fails.
    pub(crate) fn shut(&self) {
        // The body itself is polled while it is borrowed; whoever ends the invocation from there is heard
        // by the read that is going on.
        let Ok(mut incoming) = self.incoming.try_borrow_mut() else { return };
        let source = std::mem::replace(&mut incoming.source, Source::Closed);
        incoming.connection = None;
        let reader = incoming.reader.take();
        drop(incoming);
        drop(source);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Whether the body still holds one of its invocation's connections.
    pub(crate) fn holds_connection(&self) -> bool {
        self.incoming.try_borrow().is_ok_and(|incoming| incoming.connection.is_some())
    }

    /// Whether somebody waits for more of the body.
    pub(crate) fn is_read(&self) -> bool {
        self.incoming.try_borrow().map_or(true, |incoming| incoming.reader.is_some())
    }

    fn poll_next(&self, cx: &mut Context<'_>, limit: usize) -> Poll<Result<BufView, JsErrorBox>> {
        let incoming = &mut *self.incoming.borrow_mut();
        incoming.reader = None;
        while incoming.rest.is_empty() {
            let body = match &mut incoming.source {
                Source::Open(body) => body,
                Source::Over => return Poll::Ready(Ok(BufView::empty())),
                Source::Closed => {
                    return Poll::Ready(Err(JsErrorBox::type_error("the body is closed")));
                }
            };
            match http_body::Body::poll_frame(body.as_mut(), cx) {
                Poll::Pending => {
                    incoming.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(None) => {
                    incoming.source = Source::Over;
                    incoming.connection = None;
                }
                Poll::Ready(Some(Err(error))) => {
                    incoming.source = Source::Closed;
                    incoming.connection = None;
                    let error = JsErrorBox::type_error(format!("the body broke off: {error}"));
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        incoming.rest = data;
                    }
                }
            }
        }
        let take = limit.min(incoming.rest.len());
        Poll::Ready(Ok(BufView::from(incoming.rest.split_to(take))))
    }
}

impl Resource for BodyResource {
    fn name(&self) -> Cow<'_, str> {
        "body".into()
    }

    fn read(self: Rc<Self>, limit: usize) -> AsyncResult<BufView> {
        Box::pin(std::future::poll_fn(move |cx| self.poll_next(cx, limit)))
    }

    fn close(self: Rc<Self>) {
        self.shut();
    }

    fn size_hint(&self) -> (u64, Option<u64>) {
        self.size
    }
}

/// A body on its way out: of a worker's response, or of a request that it makes.
pub enum ResponseBody {
    /// No bytes.
    Empty,
    /// All bytes at once; `None` once they have been taken.
    Full(Option<Bytes>),
    /// Bytes as they come.
    Stream(StreamBody),
}

/// A body that is read from its resource as the receiver takes it.
pub struct StreamBody {
    resource: Rc<dyn Resource>,
    reading: Option<AsyncResult<BufView>>,
    length: Option<u64>,
    sent: u64,
    over: bool,
    guard: Option<BodyGuard>,
}

impl StreamBody {
    /// The guard of a response learns how it ended; a request has none.
    pub(crate) fn new(resource: Rc<dyn Resource>, guard: Option<BodyGuard>) -> Self {
        let length = match resource.size_hint() {
            (lower, Some(upper)) if lower == upper && upper > 0 => Some(upper),
            _ => None,
        };
        Self { resource, reading: None, length, sent: 0, over: false, guard }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.guard.as_ref().is_some_and(|guard| !guard.goes_on(cx)) {
            self.over = true;
            return Poll::Ready(Some(Err("the worker was ended".into())));
        }
        let reading =
            self.reading.get_or_insert_with(|| self.resource.clone().read(READ_BYTES_MAX));
        let read = std::task::ready!(reading.as_mut().poll(cx));
        self.reading = None;
        match read {
            Ok(view) if view.is_empty() => {
                self.end(None);
                Poll::Ready(None)
            }
            Ok(view) => {
                self.sent += view.len() as u64;
                // Nobody asks for the end of a body whose length was announced.
                if self.length.is_some_and(|length| self.sent >= length) {
                    self.end(None);
                }
                Poll::Ready(Some(Ok(Bytes::copy_from_slice(&view))))
            }
            Err(error) => {
                let message = error.to_string();
                self.end(Some(&message));
                Poll::Ready(Some(Err(message.into())))
            }
        }
    }

    fn end(&mut self, broken: Option<&str>) {
        self.over = true;
        match (self.guard.take(), broken) {
            (Some(guard), None) => guard.complete(),
            (Some(guard), Some(message)) => guard.broken(message),
            (None, _) => {}
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
            Self::Stream(stream) => stream.over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(StreamBody { length: Some(length), sent, .. }) => {
                SizeHint::with_exact(length.saturating_sub(*sent))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
