//! Carries messages between a connection and a worker's socket until either closes, breaks off, or says nothing for
//! too long. Pings are sent and answered here: no worker sees them.

use std::cell::Cell;
use std::time::Duration;

use atoll_isolate::{CLOSE_NO_CODE, SOCKET_MESSAGE_BYTES_MAX, Socket, SocketClose, SocketMessage};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{CLOSE_WAIT, LINGER, STOPPING, read_on};

/// How often the other side is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long the other side may send nothing, not even the answer to a ping.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// How long a socket is kept over which no message passes.
const IDLE_MAX: Duration = Duration::from_secs(60 * 60);

/// Bytes of a close reason (RFC 6455, 5.5).
const REASON_BYTES_MAX: usize = 123;

/// How a connection came to its end.
enum End {
    /// The other side closed, and has its answer.
    Closed,
    /// The worker closed; the other side is to answer.
    ClosedByWorker,
    /// Both are to be told: the rules want it.
    Tell(SocketClose),
    /// The other side broke a rule, or the worker broke off.
    Broken(SocketClose),
    /// It broke off.
    Gone,
}

/// When something passed last.
struct Watch {
    heard: Cell<Instant>,
    message: Cell<Instant>,
    /// The other side is not read because the worker has enough to do.
    held: Cell<bool>,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Self { heard: Cell::new(now), message: Cell::new(now), held: Cell::new(false) }
    }

    /// Waits until there was silence for too long.
    async fn over(&self) -> End {
        loop {
            let silent = self.heard.get() + SILENCE_MAX;
            let idle = self.message.get() + IDLE_MAX;
            sleep_until(silent.min(idle)).await;
            let now = Instant::now();
            if self.held.get() {
                self.heard.set(now);
            } else if self.heard.get() + SILENCE_MAX <= now {
                return End::Gone;
            }
            if self.message.get() + IDLE_MAX <= now {
                return End::Tell(SocketClose::new(1001, "No message for an hour."));
            }
        }
    }
}

/// Serves a connection to its end. `leave` is ready when the node stops.
pub(crate) async fn relay<S>(
    wire: WebSocketStream<S>,
    socket: Socket,
    leave: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = wire.split();
    let watch = Watch::new();
    let end = tokio::select! {
        end = read(&mut stream, &socket, &watch) => end,
        end = write(&mut sink, &socket, &watch) => end,
        end = watch.over() => end,
        () = leave => End::Tell(SocketClose::new(1001, STOPPING)),
    };
    match end {
        End::Closed => {}
        End::Gone => socket.lose(SocketClose::abnormal()),
        End::ClosedByWorker => match timeout(CLOSE_WAIT, answer(&mut stream)).await {
            Ok(Some(close)) => socket.close(close),
            Ok(None) | Err(_) => socket.lose(SocketClose::abnormal()),
        },
        End::Tell(close) => {
            let frame = Message::Close(frame_of(&close));
            socket.close(close);
            let told = async {
                if sink.send(frame).await.is_ok() {
                    answer(&mut stream).await;
                }
            };
            // Whoever does not answer is left.
            let _ = timeout(CLOSE_WAIT, told).await;
        }
        End::Broken(close) => {
            let frame = Message::Close(frame_of(&close));
            socket.lose(close);
            if let Ok(Ok(())) = timeout(LINGER, sink.send(frame)).await
                && let Ok(wire) = stream.reunite(sink)
            {
                let mut wire = wire.into_inner();
                let last = async {
                    // One that cannot be shut down is read to its end all the same.
                    let _ = wire.shutdown().await;
                    read_on(&mut wire).await;
                };
                // Past the time the other side may lose the reason.
                let _ = timeout(LINGER, last).await;
            }
        }
    }
}

async fn read<S>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    socket: &Socket,
    watch: &Watch,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return broken_by(&error),
            None => return End::Gone,
        };
        let now = Instant::now();
        watch.heard.set(now);
        let message = match message {
            Message::Text(text) => SocketMessage::Text(text.as_str().to_owned()),
            Message::Binary(bytes) => SocketMessage::Binary(bytes),
            Message::Close(frame) => {
                socket.close(close_of(frame));
                // Its answer is sent as the stream is read to its end.
                while let Some(Ok(_)) = stream.next().await {}
                return End::Closed;
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        watch.message.set(now);
        watch.held.set(true);
        // A worker that takes none any more has said why, and `write` tells it.
        socket.send(message).await;
        watch.held.set(false);
    }
}

async fn write<S>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    socket: &Socket,
    watch: &Watch,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = pings.tick() => match sink.send(Message::Ping(Bytes::new())).await {
                Ok(()) => continue,
                Err(_) => return End::Gone,
            },
        };
        let (message, last) = match message {
            Some(SocketMessage::Text(text)) => (Message::text(text), false),
            Some(SocketMessage::Binary(bytes)) => (Message::Binary(bytes), false),
            Some(SocketMessage::Close(close)) => (Message::Close(frame_of(&close)), true),
            Some(SocketMessage::Lost(close)) => return End::Broken(close),
            None => return End::Gone,
        };
        watch.message.set(Instant::now());
        match sink.send(message).await {
            Ok(()) if last => return End::ClosedByWorker,
            Ok(()) => {}
            Err(_) => return End::Gone,
        }
    }
}

/// Waits for the other side's close.
async fn answer<S>(stream: &mut SplitStream<WebSocketStream<S>>) -> Option<SocketClose>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = stream.next().await {
        if let Message::Close(frame) = message {
            return Some(close_of(frame));
        }
    }
    None
}

fn close_of(frame: Option<CloseFrame>) -> SocketClose {
    match frame {
        Some(frame) => SocketClose::new(frame.code.into(), &frame.reason),
        None => SocketClose::new(CLOSE_NO_CODE, ""),
    }
}

fn frame_of(close: &SocketClose) -> Option<CloseFrame> {
    if close.code == CLOSE_NO_CODE {
        return None;
    }
    let code = CloseCode::from(close.code);
    let code = if code.is_allowed() { code } else { CloseCode::Error };
    let mut reason = close.reason.as_str();
    while reason.len() > REASON_BYTES_MAX {
        let end = reason.char_indices().next_back().map_or(0, |(at, _)| at);
        reason = &reason[..end];
    }
    Some(CloseFrame { code, reason: reason.into() })
}

fn broken_by(error: &Error) -> End {
    let close = match error {
        Error::Capacity(_) => {
            let max = SOCKET_MESSAGE_BYTES_MAX;
            SocketClose::new(1009, &format!("A message may have {max} bytes at most."))
        }
        Error::Utf8(_) => SocketClose::new(1007, "A text is not UTF-8."),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return End::Gone,
        Error::Protocol(error) => SocketClose::new(1002, &error.to_string()),
        _ => return End::Gone,
    };
    End::Broken(close)
}
