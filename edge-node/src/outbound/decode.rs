//! Decoding of response bodies by their `content-encoding`, as a stream with bounded memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use atoll_isolate::wants_large_brotli_window;
use futures_util::TryStreamExt;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncBufRead, AsyncRead, BufReader, ReadBuf};
use tokio_util::io::{ReaderStream, StreamReader};

use super::BoxError;
use super::client::ResBody;

/// The most encodings undone on one body; each costs a buffer.
const ENCODINGS_MAX: usize = 3;
/// The largest zstd window, as a power of two: 8 MiB, which RFC 8878 asks every decoder to take.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// How much is decoded at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// Whether the response's body is decoded; set it in a request's extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecodeBody {
    /// Decode and remove `content-encoding` and `content-length`, as fetch does.
    #[default]
    Yes,
    /// Pass the bytes on as they come.
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// Says what can be decoded, unless the worker has said what it wants.
pub(super) fn advertise(headers: &mut HeaderMap) {
    if !headers.contains_key(ACCEPT_ENCODING) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, br, zstd"));
    }
}

/// Decodes a response to a request of this method. A body in an encoding that we do not know is
/// left as it is, with its header.
pub(super) fn decode(method: &Method, response: Response<ResBody>) -> Response<ResBody> {
    let bodiless = *method == Method::HEAD
        || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || response.body().is_end_stream();
    let encodings = match encodings(response.headers()) {
        Some(encodings) if !bodiless && !encodings.is_empty() => encodings,
        _ => return response,
    };
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_ENCODING);
    parts.headers.remove(CONTENT_LENGTH);
    let mut reader: Box<dyn AsyncBufRead + Send + Unpin> =
        Box::new(StreamReader::new(body.into_data_stream().map_err(std::io::Error::other)));
    // The last encoding named was applied last.
    for encoding in encodings.into_iter().rev() {
        reader = Box::new(BufReader::with_capacity(CHUNK_BYTES, decoder(encoding, reader)));
    }
    let frames = ReaderStream::with_capacity(reader, CHUNK_BYTES);
    let frames = frames.map_ok(Frame::data).map_err(BoxError::from);
    Response::from_parts(parts, StreamBody::new(frames).boxed_unsync())
}

/// The encodings in the order they were applied; none when one of them is unknown.
fn encodings(headers: &HeaderMap) -> Option<Vec<Encoding>> {
    let mut found = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        for name in value.to_str().ok()?.split(',').map(str::trim) {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            found.push(match () {
                () if is("gzip") || is("x-gzip") => Encoding::Gzip,
                () if is("deflate") => Encoding::Deflate,
                () if is("br") => Encoding::Brotli,
                () if is("zstd") => Encoding::Zstd,
                () if is("identity") || name.is_empty() => continue,
                () => return None,
            });
        }
    }
    (found.len() <= ENCODINGS_MAX).then_some(found)
}

fn decoder(
    encoding: Encoding,
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
) -> Box<dyn AsyncRead + Send + Unpin> {
    match encoding {
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Encoding::Deflate => Box::new(ZlibDecoder::new(reader)),
        Encoding::Brotli => {
            Box::new(BrotliDecoder::new(NoLargeWindow { reader, has_begun: false }))
        }
        Encoding::Zstd => {
            let limits = [DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)];
            let mut decoder = ZstdDecoder::with_params(reader, &limits);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
    }
}

/// A Brotli stream, which fails when it wants a window that the format does not have.
struct NoLargeWindow<R> {
    reader: R,
    has_begun: bool,
}

impl<R: AsyncBufRead + Unpin> NoLargeWindow<R> {
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_begun {
            if wants_large_brotli_window(ready!(Pin::new(&mut self.reader).poll_fill_buf(cx))?) {
                let large = "the body's Brotli window is larger than RFC 7932 allows";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, large)));
            }
            self.has_begun = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for NoLargeWindow<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_begin(cx))?;
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for NoLargeWindow<R> {
    fn poll_fill_buf(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_begin(cx))?;
        Pin::new(&mut self.get_mut().reader).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        Pin::new(&mut self.reader).consume(amount);
    }
}
