//! A request's body, whatever protocol brought it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::http3::Http3Body;

/// A request's body as it comes, with the protocol's backpressure.
#[derive(Debug)]
pub enum RequestBody {
    /// Of HTTP/1.1 or HTTP/2.
    Hyper(Incoming),
    /// Of HTTP/3.
    Http3(Box<Http3Body>),
}

/// A request's body ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestBodyError {
    /// Over HTTP/1.1 or HTTP/2.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// Over HTTP/3.
    #[error(transparent)]
    Http3(#[from] h3::error::StreamError),
    /// It is not as long as its header said.
    #[error("the body is not as long as its Content-Length")]
    Length,
}

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> Self {
        Self::Hyper(body)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Hyper(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?)))
            }
            Self::Http3(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
        }
    }
}
