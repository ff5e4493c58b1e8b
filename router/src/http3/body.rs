//! A request's body over HTTP/3.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h3::server::RequestStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};

use super::transport::{Allowance, RecvStream};
use crate::request_body::RequestBodyError;

/// A request's body over HTTP/3, read as it comes. Dropped before its end it tells the client to stop.
pub struct Http3Body {
    stream: RequestStream<RecvStream, Bytes>,
    allowance: Arc<Allowance>,
    allowed_bytes: usize,
    /// What is still to come, when the client has said so.
    left: Option<u64>,
    /// What came before anybody asked.
    ahead: Option<Frame<Bytes>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Data may come.
    Data,
    /// The data is over, trailers may come.
    Trailers,
    /// Nothing comes any more.
    Ended,
}

impl Http3Body {
    /// The body of a request with these headers. `allowed_bytes` may be held of it without being data.
    pub(super) fn new(
        stream: RequestStream<RecvStream, Bytes>,
        headers: &HeaderMap,
        allowance: Arc<Allowance>,
        allowed_bytes: usize,
    ) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let left = length.and_then(|length| length.parse().ok());
        allowance.renew(allowed_bytes);
        Self { stream, allowance, allowed_bytes, left, ahead: None, state: State::Data }
    }

    /// Looks whether the body is over already, as those of most requests are.
    pub(super) fn look_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), RequestBodyError> {
        if let Poll::Ready(frame) = self.poll_frame(cx) {
            self.ahead = frame.transpose()?;
        }
        Ok(())
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if let Some(frame) = self.ahead.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = std::task::ready!(self.poll_stream(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.state = State::Ended;
        }
        Poll::Ready(frame)
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self.state == State::Data {
            let data = std::task::ready!(self.stream.poll_recv_data(cx))?;
            if let Some(mut data) = data {
                let bytes = data.copy_to_bytes(data.remaining());
                self.allowance.renew(self.allowed_bytes);
                if let Some(left) = &mut self.left {
                    let less = left.checked_sub(bytes.len() as u64);
                    *left = less.ok_or(RequestBodyError::Length)?;
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            self.state = State::Trailers;
        }
        if self.state == State::Ended {
            return Poll::Ready(None);
        }
        let trailers = std::task::ready!(self.stream.poll_recv_trailers(cx))?;
        self.state = State::Ended;
        if self.left.is_some_and(|left| left > 0) {
            return Poll::Ready(Some(Err(RequestBodyError::Length)));
        }
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.state == State::Ended && self.ahead.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let ahead =
            self.ahead.as_ref().and_then(Frame::data_ref).map_or(0, |bytes| bytes.len() as u64);
        match self.left {
            Some(left) => SizeHint::with_exact(ahead + left),
            None => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Http3Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http3Body").field("state", &self.state).finish_non_exhaustive()
    }
}
