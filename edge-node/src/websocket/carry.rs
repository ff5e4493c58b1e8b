//! Carries the bytes of a WebSocket between a client and the node that serves it. Messages, pings, limits and closes
//! are between those two; only a node that stops on the way has a word of its own, between two frames.

use std::pin::pin;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::frames::Frames;
use super::{CLOSE_WAIT, LINGER, READ_BUFFER_BYTES, STOPPING, read_on};

/// How one direction came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Who sends has said its last, and who reads has it.
    Over,
    /// Who sends broke off.
    Gone,
    /// Who reads takes no more.
    Refused,
}

/// Serves a client's connection to its end, by the stream to the node that has the worker. `leave` is ready when
/// this node stops: both ends are closed with 1001 then.
pub(crate) async fn carry<C, N>(client: C, node: N, leave: impl Future<Output = ()>)
where
    C: AsyncRead + AsyncWrite,
    N: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = split(client);
    let (mut from_node, mut to_node) = split(node);
    let leave = leave.shared();
    let too_late = leave.clone().then(|()| sleep(CLOSE_WAIT));
    let passing = async {
        let has_last_word = {
            let mut up = pin!(pass(&mut from_client, &mut to_node, masked(stop()), leave.clone()));
            let mut down = pin!(pass(&mut from_node, &mut to_client, stop(), leave.clone()));
            tokio::select! {
                end = &mut down => end == End::Over,
                end = &mut up => match end {
                    End::Gone => false,
                    // The node may have something to say yet.
                    End::Over | End::Refused => timeout(CLOSE_WAIT, down).await == Ok(End::Over),
                },
            }
        };
        if has_last_word {
            // Otherwise the client may lose what it was sent last.
            let _ = timeout(LINGER, read_on(&mut from_client)).await;
        }
    };
    tokio::select! {
        () = passing => {}
        () = too_late => {}
    }
}

/// Passes one direction on, up to its end or, once this node stops, to the end of a frame. `close` follows that; what
/// comes afterwards is forgotten.
async fn pass<F, T>(
    from: &mut ReadHalf<F>,
    to: &mut WriteHalf<T>,
    close: Frame,
    leave: impl Future<Output = ()>,
) -> End
where
    F: AsyncRead,
    T: AsyncWrite,
{
    let (mut leave, mut leaving) = (pin!(leave), false);
    let (mut frames, mut buffer) = (Frames::default(), vec![0; READ_BUFFER_BYTES]);
    while !(leaving && frames.are_whole()) {
        let bytes = tokio::select! {
            () = &mut leave, if !leaving => {
                leaving = true;
                continue;
            }
            read = from.read(&mut buffer) => match read {
                Ok(0) => return shut(to).await,
                Ok(bytes) => &buffer[..bytes],
                Err(_) => return End::Gone,
            },
        };
        let bytes = match leaving {
            true => &bytes[..frames.take_one(bytes)],
            false => {
                frames.take(bytes);
                bytes
            }
        };
        if send(to, bytes).await.is_err() {
            return End::Refused;
        }
    }
    if !frames.are_closed() && send(to, &written(close)).await.is_err() {
        return End::Refused;
    }
    read_on(from).await;
    shut(to).await
}

async fn send<T: AsyncWrite>(to: &mut WriteHalf<T>, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

async fn shut<T: AsyncWrite>(to: &mut WriteHalf<T>) -> End {
    match to.shutdown().await {
        Ok(()) => End::Over,
        Err(_) => End::Refused,
    }
}

/// The close that a node sends that stops.
fn stop() -> Frame {
    Frame::close(Some(CloseFrame { code: CloseCode::Away, reason: STOPPING.into() }))
}

/// As clients send it.
fn masked(mut frame: Frame) -> Frame {
    frame.header_mut().mask = Some(rand::random());
    frame
}

fn written(frame: Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("memory takes what is written to it");
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{DuplexStream, duplex};
    use tokio::sync::oneshot;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    use super::*;

    struct Carried {
        client: DuplexStream,
        node: DuplexStream,
        leave: oneshot::Sender<()>,
        carrying: tokio::task::JoinHandle<()>,
    }

    fn carried() -> Carried {
        let ((client, near), (far, node)) = (duplex(1_024), duplex(1_024));
        let (leave, leaving) = oneshot::channel::<()>();
        let leaving = async {
            if leaving.await.is_err() {
                std::future::pending().await
            }
        };
        Carried { client, node, leave, carrying: tokio::spawn(carry(near, far, leaving)) }
    }

    async fn websocket(stream: DuplexStream, role: Role) -> WebSocketStream<DuplexStream> {
        WebSocketStream::from_raw_socket(stream, role, None).await
    }

    fn code(message: Option<Result<Message, impl std::fmt::Debug>>) -> u16 {
        match message {
            Some(Ok(Message::Close(Some(close)))) => close.code.into(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closes_pass_both_ways_and_end_it() {
        for by_client in [true, false] {
            let Carried { client, node, carrying, leave: _leave } = carried();
            let client = websocket(client, Role::Client).await;
            let node = websocket(node, Role::Server).await;
            let (mut one, mut other) = if by_client { (client, node) } else { (node, client) };
            let long = Message::text("x".repeat(100_000));
            let (sent, got) = tokio::join!(one.send(long.clone()), other.next());
            assert_eq!((sent.unwrap(), got.unwrap().unwrap()), ((), long));
            let close = CloseFrame { code: 4_000.into(), reason: "bye".into() };
            one.send(Message::Close(Some(close))).await.unwrap();
            assert_eq!(code(other.next().await), 4_000);
            // The answer goes out with this.
            let _ = other.flush().await;
            assert_eq!(code(one.next().await), 4_000);
            drop((one, other));
            carrying.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stops_closes_both_ends_after_a_whole_frame() {
        let Carried { mut client, node, leave, carrying } = carried();
        let mut node = websocket(node, Role::Server).await;
        let frame = Frame::message("hello", OpCode::Data(Data::Text), true);
        let (half, rest) = (written(masked(frame.clone())), written(masked(frame)));
        client.write_all(&half[..7]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        leave.send(()).unwrap();
        sleep(Duration::from_secs(1)).await;
        // What follows the frame is not passed on.
        client.write_all(&half[7..]).await.unwrap();
        client.write_all(&rest).await.unwrap();
        let mut client = websocket(client, Role::Client).await;
        assert_eq!(node.next().await.unwrap().unwrap(), Message::text("hello"));
        assert_eq!(code(node.next().await), 1001);
        assert_eq!(code(client.next().await), 1001);
        drop((client, node));
        carrying.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_without_end() {
        // A client that sends no close in answer to that of a node which stops; one that is gone while the node
        // says nothing; a node that has ended while its client says nothing.
        let Carried { client: _client, node: _node, leave, carrying } = carried();
        leave.send(()).unwrap();
        carrying.await.unwrap();
        let Carried { client, node: _node, carrying, leave: _leave } = carried();
        drop(client);
        carrying.await.unwrap();
        let Carried { client: _client, node, carrying, leave: _leave } = carried();
        drop(node);
        carrying.await.unwrap();
    }
}
