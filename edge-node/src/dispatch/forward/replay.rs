//! A request's body that can be sent again: what was read of it is kept, up to a limit.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use atoll_isolate::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::super::body::SendBody;

/// Bytes of a body that are kept for another attempt. What is longer is sent once.
pub(super) const REPLAY_BYTES_MAX: usize = 64 << 10;
/// Frames that are kept: each costs more than its bytes.
const REPLAY_FRAMES_MAX: usize = 64;

/// A body, for one attempt after the other.
pub(in super::super) struct Replay(Arc<Mutex<Kept>>);

struct Kept {
    body: Option<SendBody>,
    /// What was read of it, as long as all of that fits.
    frames: Vec<Bytes>,
    bytes: usize,
    state: State,
    /// The attempt that may read.
    attempt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All that was read is kept.
    Whole,
    /// More was read than is kept.
    Lost,
    /// Whoever sends the body broke off.
    Broken,
}

impl Replay {
    pub(in super::super) fn of(body: Option<SendBody>) -> Self {
        let frames = Vec::new();
        Self(Arc::new(Mutex::new(Kept { body, frames, bytes: 0, state: State::Whole, attempt: 0 })))
    }

    /// The body from its beginning. Whatever came before of this reads no more.
    pub(in super::super) fn attempt(&self) -> Option<SendBody> {
        let mut kept = lock(&self.0);
        kept.attempt += 1;
        if kept.frames.is_empty() && kept.body.as_ref().is_none_or(|body| body.is_end_stream()) {
            return None;
        }
        let (attempt, kept) = (kept.attempt, self.0.clone());
        Some(Box::pin(Attempt { kept, attempt, next: 0 }))
    }

    /// Whether another attempt would send all of it.
    pub(in super::super) fn is_whole(&self) -> bool {
        lock(&self.0).state == State::Whole
    }

    /// Whether its sender broke off, so that no node is to blame.
    pub(in super::super) fn is_broken(&self) -> bool {
        lock(&self.0).state == State::Broken
    }

    /// Keeps nothing from now on: there will be no other attempt.
    pub(in super::super) fn settle(&self) {
        let mut kept = lock(&self.0);
        if kept.state == State::Whole {
            kept.state = State::Lost;
        }
        // What was not read yet by the attempt that goes on stays.
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    // A panic under it ends the request that it belongs to.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One reading of the body.
struct Attempt {
    kept: Arc<Mutex<Kept>>,
    attempt: u64,
    /// The frame to give next, of those that are kept.
    next: usize,
}

impl Kept {
    fn keep(&mut self, data: &Bytes) {
        let fits = self.bytes.saturating_add(data.len()) <= REPLAY_BYTES_MAX
            && self.frames.len() < REPLAY_FRAMES_MAX;
        if self.state == State::Whole && fits {
            self.bytes += data.len();
            self.frames.push(data.clone());
        } else if self.state == State::Whole {
            self.state = State::Lost;
        }
    }
}

impl Body for Attempt {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut kept = lock(&this.kept);
        if kept.attempt != this.attempt {
            return Poll::Ready(Some(Err("the request is sent elsewhere".into())));
        }
        if let Some(data) = kept.frames.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let Some(body) = &mut kept.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(body.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => {
                    kept.keep(data);
                    this.next = kept.frames.len();
                }
                // Trailers end a body, and are not kept.
                None => kept.state = State::Lost,
            },
            Some(Err(_)) => kept.state = State::Broken,
            None => kept.body = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let kept = lock(&self.kept);
        self.next >= kept.frames.len() && kept.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let kept = lock(&self.kept);
        let again: usize = kept.frames.iter().skip(self.next).map(Bytes::len).sum();
        let rest = kept.body.as_ref().map_or(SizeHint::with_exact(0), |body| body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(again as u64));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(again as u64));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(frames: Vec<Result<&'static [u8], &'static str>>) -> Option<SendBody> {
        let frames = frames.into_iter().map(|frame| match frame {
            Ok(bytes) => Ok(Frame::data(Bytes::from_static(bytes))),
            Err(error) => Err(BoxError::from(error)),
        });
        Some(Box::pin(StreamBody::new(futures_util::stream::iter(frames))))
    }

    async fn all(body: Option<SendBody>) -> Result<Bytes, BoxError> {
        Ok(body.expect("it has a body").collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_short_body_is_sent_as_often_as_needed() {
        let replay = Replay::of(body(vec![Ok(b"one "), Ok(b"two")]));
        let mut first = replay.attempt().unwrap();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
        let second = replay.attempt();
        assert!(first.frame().await.unwrap().is_err(), "only one attempt reads");
        assert_eq!(all(second).await.unwrap(), "one two");
        assert_eq!(all(replay.attempt()).await.unwrap(), "one two");
        assert!(replay.is_whole());
        assert!(Replay::of(None).attempt().is_none());
    }

    #[tokio::test]
    async fn what_is_long_or_broken_is_not_sent_again() {
        static LONG: [u8; REPLAY_BYTES_MAX + 1] = [7; REPLAY_BYTES_MAX + 1];
        let replay = Replay::of(body(vec![Ok(b"x"), Ok(&LONG), Ok(b"y")]));
        assert_eq!(all(replay.attempt()).await.unwrap().len(), LONG.len() + 2);
        assert!(!replay.is_whole() && !replay.is_broken());
        let replay = Replay::of(body(vec![Ok(b"x"), Err("gone")]));
        assert!(all(replay.attempt()).await.is_err());
        assert!(replay.is_broken());
        let replay = Replay::of(body(vec![Ok(b"one "), Ok(b"two")]));
        let first = replay.attempt();
        replay.settle();
        assert_eq!(all(first).await.unwrap(), "one two");
        assert!(!replay.is_whole());
    }
}
