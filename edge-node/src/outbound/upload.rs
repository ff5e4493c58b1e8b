//! The request's body on its way out, watched so that a slow upload is not taken for a server
//! that does not answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
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

/// A body that tells its [`Progress`].
pub(super) struct Upload {
    body: ReqBody,
    progress: Arc<Progress>,
}

impl Upload {
    pub(super) fn new(body: ReqBody, progress: Arc<Progress>) -> Self {
        Self { body, progress }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.progress.starved.store(frame.is_pending(), Relaxed);
        self.progress.frames.fetch_add(1, Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
