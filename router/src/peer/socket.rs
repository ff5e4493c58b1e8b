//! The bytes of a WebSocket that another node serves. What they mean is not known here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::InFlight;
use crate::upgrade::WRITE_BYTES_MAX;

/// A stream to the node that serves a WebSocket. It ends when that node ends it, and fails when the node or the way
/// to it does; dropping it resets it, whatever waits to be sent.
#[derive(Debug)]
pub struct PeerSocket {
    sending: SendStream<Bytes>,
    receiving: RecvStream,
    /// What was received and not read.
    received: Bytes,
    is_shut: bool,
    _in_flight: InFlight,
}

impl PeerSocket {
    pub(super) fn new(
        sending: SendStream<Bytes>,
        receiving: RecvStream,
        in_flight: InFlight,
    ) -> Self {
        let received = Bytes::new();
        Self { sending, receiving, received, is_shut: false, _in_flight: in_flight }
    }
}

impl Drop for PeerSocket {
    fn drop(&mut self) {
        if !self.is_shut || !self.receiving.is_end_stream() {
            self.sending.send_reset(Reason::CANCEL);
        }
    }
}

impl AsyncRead for PeerSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.received.is_empty() {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(bytes)) => self.received = bytes,
                None => return Poll::Ready(Ok(())),
                // It has let the stream go after its last byte.
                Some(Err(error))
                    if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL))
                        && error.is_reset() =>
                {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let bytes = self.received.len().min(buf.remaining());
        buf.put_slice(&self.received[..bytes]);
        self.received.advance(bytes);
        let released = self.receiving.flow_control().release_capacity(bytes);
        Poll::Ready(released.map_err(io::Error::other))
    }
}

impl AsyncWrite for PeerSocket {
    /// Takes as much as the other end has room for.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = bytes.len().min(WRITE_BYTES_MAX);
        self.sending.reserve_capacity(wanted);
        let mut room = self.sending.capacity();
        while room == 0 {
            room = match ready!(self.sending.poll_capacity(cx)) {
                Some(room) => room.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let taken = room.min(wanted);
        let data = Bytes::copy_from_slice(&bytes[..taken]);
        self.sending.send_data(data, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task sends what there is room for.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_shut, true) {
            self.sending.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}
