//! Bodies on their way through dispatch: a request's, held to its limits, and those that pass from one
//! thread to another, bit by bit and with backpressure.

use std::pin::Pin;
use std::task::{Context, Poll};

use atoll_isolate::{Body, BoxError, ResponseBody};
use atoll_router::{BODY_IDLE_TIMEOUT, PeerResponseBody, RequestBody, TimedBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::events::Subject;
use super::forward::PeerAnswer;
use crate::held_body::HeldBody;

/// Frames of one body that wait between two threads.
const FRAMES_QUEUED_MAX: usize = 2;

/// A body that any thread may read.
pub(super) type SendBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>;

/// A client's request body held to a size.
pub(super) struct SizedBody {
    body: TimedBody<RequestBody>,
    left: u64,
}

impl SizedBody {
    /// Wraps a body that is not empty.
    pub(super) fn wrap(body: RequestBody, bytes_max: u64) -> Option<SendBody> {
        if http_body::Body::is_end_stream(&body) {
            return None;
        }
        let body = TimedBody::new(body, BODY_IDLE_TIMEOUT);
        Some(Box::pin(Self { body, left: bytes_max }))
    }
}

impl http_body::Body for SizedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            if let Some(data) = frame.data_ref() {
                self.left = self
                    .left
                    .checked_sub(data.len() as u64)
                    .ok_or("the request body is larger than limits.request_body_bytes_max")?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that a task on another thread, or of another isolate, fills.
pub(super) struct PumpedBody {
    frames: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>,
    length: SizeHint,
}

impl PumpedBody {
    /// Has the calling isolate thread pump a body. Dropping the result drops the body.
    pub(super) fn of<B>(mut body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin + 'static,
    {
        use http_body_util::BodyExt;
        let (sender, frames) = mpsc::channel(FRAMES_QUEUED_MAX);
        let length = body.size_hint();
        atoll_isolate::spawn(async move {
            loop {
                let frame = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    frame = body.frame() => frame,
                };
                let Some(frame) = frame else { return };
                let failed = frame.is_err();
                if sender.send(frame).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { frames, length }
    }
}

impl http_body::Body for PumpedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.frames.poll_recv(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.length
    }
}

/// A response's body on its way to the client, or to the worker that asked.
pub(super) enum AnswerBody {
    /// From an instance on this thread, or whole.
    Here(ResponseBody),
    /// From another thread, as it comes.
    Pumped(PumpedBody),
    /// From another node.
    Peer(PeerAnswer),
    /// From another serving process of this node.
    Home(HeldBody<PeerResponseBody, Subject>),
}

/// A response's body between two threads.
pub(super) enum HandedBody {
    Whole(Option<Bytes>),
    Pumped(PumpedBody),
}

impl HandedBody {
    /// What is whole needs no task and no channel.
    pub(super) fn of(body: ResponseBody) -> Self {
        match body {
            ResponseBody::Empty => Self::Whole(None),
            ResponseBody::Full(bytes) => Self::Whole(bytes),
            stream @ ResponseBody::Stream(_) => Self::Pumped(PumpedBody::of(stream)),
        }
    }
}

impl From<HandedBody> for AnswerBody {
    fn from(body: HandedBody) -> Self {
        match body {
            HandedBody::Whole(None) => Self::Here(ResponseBody::Empty),
            HandedBody::Whole(bytes) => Self::Here(ResponseBody::Full(bytes)),
            HandedBody::Pumped(body) => Self::Pumped(body),
        }
    }
}

impl AnswerBody {
    /// For an isolate to read.
    pub(super) fn boxed(self) -> Body {
        match self {
            Self::Here(body) => Box::pin(body),
            Self::Pumped(body) => Box::pin(body),
            Self::Peer(body) => Box::pin(body),
            Self::Home(body) => Box::pin(body),
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Here(body) => Pin::new(body).poll_frame(cx),
            Self::Pumped(body) => Pin::new(body).poll_frame(cx),
            Self::Peer(body) => Pin::new(body).poll_frame(cx),
            Self::Home(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Here(body) => body.is_end_stream(),
            Self::Pumped(body) => body.is_end_stream(),
            Self::Peer(body) => body.is_end_stream(),
            Self::Home(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Here(body) => body.size_hint(),
            Self::Pumped(body) => body.size_hint(),
            Self::Peer(body) => body.size_hint(),
            Self::Home(body) => body.size_hint(),
        }
    }
}
