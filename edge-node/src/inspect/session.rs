//! One debugger's session: carries messages between its WebSocket and the instance's inspector until
//! either side, or the instance, goes away.

use std::time::Duration;

use atoll_isolate::{InspectorCommands, InspectorMessage, InspectorMessages};
use axum::extract::ws::{Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::debuggees::Attached;

/// One command, in bytes.
pub(super) const COMMAND_BYTES_MAX: usize = 16 << 20;
/// Commands without an answer yet; further ones wait in the socket.
const COMMANDS_OPEN_MAX: usize = 256;
/// Messages that wait for a slow client. The inspector does not wait: a client that lags by more is cut off.
const MESSAGES_QUEUED_MAX: usize = 16_384;
/// How long one message may take to be sent before the socket is given up.
const SEND_MS_MAX: u64 = 30_000;

/// Serves a session to its end.
pub(super) async fn serve(socket: WebSocket, attached: Attached) {
    let Attached { commands, messages, mut open } = attached;
    let (mut sink, stream) = socket.split();
    let (queue, queued) = mpsc::channel(MESSAGES_QUEUED_MAX);
    let unanswered = Semaphore::new(COMMANDS_OPEN_MAX);
    tokio::select! {
        () = receive(stream, &commands, &unanswered) => {}
        () = collect(messages, &queue, &unanswered) => {}
        () = send(queued, &mut sink) => {}
        _ = open.changed() => {}
    }
    // A breakpoint must not outlive its session.
    drop(commands);
    let farewell = sink.send(Message::Close(None));
    let _ = tokio::time::timeout(Duration::from_millis(SEND_MS_MAX), farewell).await;
}

/// From the socket to the inspector.
async fn receive(
    mut stream: SplitStream<WebSocket>,
    commands: &InspectorCommands,
    unanswered: &Semaphore,
) {
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(command) = message else { continue };
        let Ok(permit) = unanswered.acquire().await else { return };
        // Its reply gives it back.
        permit.forget();
        if !commands.send(command.as_str().to_owned()) {
            return;
        }
    }
}

/// From the inspector to the queue, at once.
async fn collect(
    mut messages: InspectorMessages,
    queue: &mpsc::Sender<String>,
    unanswered: &Semaphore,
) {
    while let Some(message) = messages.next().await {
        let text = match message {
            InspectorMessage::Reply(text) => {
                unanswered.add_permits(1);
                text
            }
            InspectorMessage::Event(text) => text,
        };
        if queue.try_send(text).is_err() {
            tracing::warn!("a debugger reads too slowly: its session ends");
            return;
        }
    }
}

/// From the queue to the socket.
async fn send(mut queued: mpsc::Receiver<String>, sink: &mut SplitSink<WebSocket, Message>) {
    while let Some(text) = queued.recv().await {
        let sent = sink.send(Message::text(text));
        let sent = tokio::time::timeout(Duration::from_millis(SEND_MS_MAX), sent).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}
