//! QUIC as h3 wants it. Beyond handing bytes on it bounds what h3 may hold of a stream, notes which streams
//! came in early data, and lets a request see that its client has lost interest.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use tokio::io::ReadBuf;

/// How much is read of a stream at once.
const READ_BYTES: usize = 16 * 1024;
/// What the client's own streams (control, QPACK) may say before the first request, in bytes.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// What they may say besides for each request.
const CONTROL_BYTES_PER_REQUEST: usize = 4 * 1024;

thread_local! {
    /// Where streams are read to, one after the other.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// What a stream may still hand to h3 without anything coming out of it. h3 gathers a frame until it is whole,
/// however long the frame claims to be.
#[derive(Debug)]
pub(super) struct Allowance(AtomicUsize);

impl Allowance {
    fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(bytes)))
    }

    /// Something came out: so much may be held again.
    pub(super) fn renew(&self, bytes: usize) {
        self.0.store(bytes, Relaxed);
    }

    fn add(&self, bytes: usize, bytes_max: usize) {
        self.0.store(self.0.load(Relaxed).saturating_add(bytes).min(bytes_max), Relaxed);
    }

    fn take(&self, bytes: usize) -> Result<(), StreamErrorIncoming> {
        let left = self.0.load(Relaxed).checked_sub(bytes);
        self.0.store(left.unwrap_or(0), Relaxed);
        match left {
            Some(_) => Ok(()),
            None => {
                Err(StreamErrorIncoming::Unknown("the frames of this stream are too large".into()))
            }
        }
    }
}

/// What is known of a request's stream besides its bytes.
pub(super) struct Facts {
    /// It was opened before the handshake was over.
    pub(super) early: bool,
    /// Resolves when the client has the whole response or wants none any more, or its connection is gone.
    pub(super) abandoned: BoxFuture<'static, ()>,
    pub(super) allowance: Arc<Allowance>,
}

/// The facts of streams that h3 has and their requests do not have yet.
#[derive(Clone, Default)]
pub(super) struct NewStreams(Arc<Mutex<HashMap<u64, Facts>>>);

impl NewStreams {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Facts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over the facts of a stream.
    pub(super) fn take(&self, id: StreamId) -> Option<Facts> {
        let (mut streams, id) = (self.lock(), id.into_inner());
        let facts = streams.remove(&id);
        // h3 has rejected those before it, if there are any.
        streams.retain(|other, _| *other > id);
        facts
    }
}

/// A connection.
pub(super) struct Transport {
    connection: quinn::Connection,
    requests: BoxStream<'static, Result<(quinn::SendStream, quinn::RecvStream), ConnectionError>>,
    controls: BoxStream<'static, Result<quinn::RecvStream, ConnectionError>>,
    opening: BoxStream<'static, Result<quinn::SendStream, ConnectionError>>,
    streams: NewStreams,
    /// What a request's stream may hold.
    request_bytes_max: usize,
    controls_allowance: Arc<Allowance>,
}

impl Transport {
    pub(super) fn new(connection: quinn::Connection, request_bytes_max: usize) -> Self {
        let of = |connection: &quinn::Connection| connection.clone();
        Self {
            requests: unfold(of(&connection), |on| async { Some((on.accept_bi().await, on)) })
                .boxed(),
            controls: unfold(of(&connection), |on| async { Some((on.accept_uni().await, on)) })
                .boxed(),
            opening: unfold(of(&connection), |on| async { Some((on.open_uni().await, on)) })
                .boxed(),
            connection,
            streams: NewStreams::default(),
            request_bytes_max,
            controls_allowance: Allowance::new(CONTROL_BYTES_MAX),
        }
    }

    /// Where the facts of new streams are found.
    pub(super) fn streams(&self) -> NewStreams {
        self.streams.clone()
    }
}

impl quic::Connection<Bytes> for Transport {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let accepted = ready!(self.controls.poll_next_unpin(cx)).unwrap_or(Err(LOCAL));
        let allowance = self.controls_allowance.clone();
        Poll::Ready(accepted.map(|recv| RecvStream::new(recv, allowance)).map_err(of_connection))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        let accepted = ready!(self.requests.poll_next_unpin(cx)).unwrap_or(Err(LOCAL));
        let (send, recv) = accepted.map_err(of_connection)?;
        self.controls_allowance.add(CONTROL_BYTES_PER_REQUEST, CONTROL_BYTES_MAX);
        let allowance = Allowance::new(self.request_bytes_max);
        let stopped = send.stopped();
        let facts = Facts {
            early: recv.is_0rtt(),
            abandoned: Box::pin(async move { drop(stopped.await) }),
            allowance: allowance.clone(),
        };
        self.streams.lock().insert(u64::from(VarInt::from(recv.id())), facts);
        let (send, recv) = (SendStream::new(send), RecvStream::new(recv, allowance));
        Poll::Ready(Ok(BidiStream { send, recv }))
    }

    fn opener(&self) -> Opener {
        Opener { connection: self.connection.clone() }
    }
}

impl quic::OpenStreams<Bytes> for Transport {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        Poll::Ready(Err(no_requests()))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        let opened = ready!(self.opening.poll_next_unpin(cx)).unwrap_or(Err(LOCAL));
        Poll::Ready(opened.map(SendStream::new).map_err(lost))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(var_int(code.value()), reason);
    }
}

/// What h3 may close a connection with. A server opens no request.
pub(super) struct Opener {
    connection: quinn::Connection,
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        Poll::Ready(Err(no_requests()))
    }

    fn poll_open_send(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        Poll::Ready(Err(no_requests()))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(var_int(code.value()), reason);
    }
}

/// A request's stream.
pub(super) struct BidiStream {
    send: SendStream,
    recv: RecvStream,
}

impl quic::BidiStream<Bytes> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

/// What the client sends. Dropped before its end, it tells the client to stop.
#[derive(Debug)]
pub(super) struct RecvStream {
    stream: quinn::RecvStream,
    allowance: Arc<Allowance>,
    ended: bool,
}

impl RecvStream {
    fn new(stream: quinn::RecvStream, allowance: Arc<Allowance>) -> Self {
        Self { stream, allowance, ended: false }
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let read = SPACE.with_borrow_mut(|space| {
            let mut into = ReadBuf::new(space);
            ready!(self.stream.poll_read_buf(cx, &mut into)).map_err(of_read)?;
            Poll::Ready(Ok(Bytes::copy_from_slice(into.filled())))
        });
        let bytes = ready!(read)?;
        if bytes.is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(None));
        }
        self.allowance.take(bytes.len())?;
        Poll::Ready(Ok(Some(bytes)))
    }

    fn stop_sending(&mut self, error_code: u64) {
        // A stream that is over needs no stopping.
        let _ = self.stream.stop(var_int(error_code));
        self.ended = true;
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.stream.stop(var_int(Code::H3_NO_ERROR.value()));
        }
    }
}

/// What the client gets. Dropped before its end it is reset, so that the client does not take a part for the
/// whole.
pub(super) struct SendStream {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    ended: bool,
}

impl SendStream {
    fn new(stream: quinn::SendStream) -> Self {
        Self { stream, writing: None, ended: false }
    }
}

impl quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(bytes) = &mut self.writing {
            let written = Pin::new(&mut self.stream).poll_write(cx, bytes.chunk());
            bytes.advance(ready!(written).map_err(of_write)?);
            if !bytes.has_remaining() {
                self.writing = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        match self.writing {
            Some(_) => Err(StreamErrorIncoming::Unknown("the last write is not over".into())),
            None => {
                self.writing = Some(data.into());
                Ok(())
            }
        }
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.ended = true;
        // Only a stream that was reset cannot be finished.
        Poll::Ready(
            self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(error.into())),
        )
    }

    fn reset(&mut self, reset_code: u64) {
        self.ended = true;
        let _ = self.stream.reset(var_int(reset_code));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.stream.reset(var_int(Code::H3_REQUEST_CANCELLED.value()));
        }
    }
}

/// Streams of new connections never end by themselves.
const LOCAL: ConnectionError = ConnectionError::LocallyClosed;

fn no_requests() -> StreamErrorIncoming {
    StreamErrorIncoming::Unknown("a server opens no streams for requests".into())
}

fn stream_id(id: quinn::StreamId) -> StreamId {
    u64::from(VarInt::from(id)).try_into().expect("QUIC's ids are HTTP/3's")
}

/// Codes of HTTP/3 fit; what is larger than QUIC can carry is an internal error.
pub(super) fn var_int(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::from_u32(0x102))
}

fn of_connection(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: of_connection(error) }
}

fn of_read(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        ReadError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(other.into()),
    }
}

fn of_write(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code.into() }
        }
        WriteError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(other.into()),
    }
}
