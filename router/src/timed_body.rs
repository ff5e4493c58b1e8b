//! A request body that fails when the client sends nothing for too long.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Why a [`TimedBody`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TimedBodyError<E> {
    /// Answer 408 if there is still an answer to give.
    #[error("the client sent nothing of the request body for {} s", .0.as_secs_f32())]
    Idle(Duration),
    /// The connection failed, or the client broke the protocol.
    #[error("the request body ended early: {0}")]
    Body(E),
}

/// Wraps a request body with a limit on the time between two frames, counted only while someone
/// waits for one: a slow worker is not the client's fault.
#[derive(Debug)]
pub struct TimedBody<B> {
    body: B,
    idle_max: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<B> TimedBody<B> {
    /// Wraps a body. Nothing is allocated until a frame has to be waited for.
    pub fn new(body: B, idle_max: Duration) -> Self {
        Self { body, idle_max, timer: None, waiting: false }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TimedBody<B> {
    type Data = Bytes;
    type Error = TimedBodyError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = false;
            return Poll::Ready(frame.map(|result| result.map_err(TimedBodyError::Body)));
        }
        let idle_max = this.idle_max;
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_max)));
        if !std::mem::replace(&mut this.waiting, true) {
            timer.as_mut().reset(Instant::now() + idle_max);
        }
        timer.as_mut().poll(cx).map(|()| Some(Err(TimedBodyError::Idle(idle_max))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
