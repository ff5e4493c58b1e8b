//! The request's body on its way out, watched so that a slow upload is not taken for a server
//! that does not answer.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::BoxError;
use super::client::ReqBody;

/// How far an upload is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    frames: AtomicU64,
    starved: AtomicBool,
}

impl Progress {
    /// A number that changes while the server takes frames, or `None` while the worker owes one.
    pub(super) fn mark(&self) -> Option<u64> {
        (!self.starved.load(Relaxed)).then(|| self.frames.load(Relaxed))
    }
}

/// A body for several attempts: the first one that asks for a frame of it has it, and no later one.
#[derive(Clone)]
pub(crate) struct Resendable {
    body: Arc<Mutex<Option<ReqBody>>>,
    is_empty: bool,
    length: SizeHint,
}

impl Resendable {
    pub(crate) fn new(body: ReqBody) -> Self {
        let (is_empty, length) = (body.is_end_stream(), body.size_hint());
        Self { body: Arc::new(Mutex::new(Some(body))), is_empty, length }
    }

    /// Whether no attempt has asked for any of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_empty || self.slot().is_some()
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<ReqBody>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that tells its [`Progress`].
pub(super) struct Upload {
    source: Resendable,
    /// The body, from when its first frame was asked for.
    begun: Option<ReqBody>,
    progress: Arc<Progress>,
}

impl Upload {
    pub(super) fn new(source: Resendable, progress: Arc<Progress>) -> Self {
        Self { source, begun: None, progress }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.begun.is_none() {
            this.begun = this.source.slot().take();
        }
        let frame = match &mut this.begun {
            Some(body) => Pin::new(body).poll_frame(cx),
            None if this.source.is_empty => Poll::Ready(None),
            None => Poll::Ready(Some(Err("the body was sent before".into()))),
        };
        this.progress.starved.store(frame.is_pending(), Relaxed);
        this.progress.frames.fetch_add(1, Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.begun.as_ref().map_or(self.source.is_empty, Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.begun.as_ref().map_or_else(|| self.source.length, Body::size_hint)
    }
}
