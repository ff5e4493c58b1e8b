//! One end of a link: a bounded queue of frames to send, drained by a task, and a reader of typed messages.

use std::marker::PhantomData;
use std::os::fd::AsFd;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::frame::{self, Frame, FrameLimits, LinkError};

/// Frames that wait to be sent.
const FRAMES_QUEUED_MAX: usize = 256;

/// Sends messages of one kind. Cloning is cheap; the link's sending side closes with the last clone.
pub(crate) struct LinkSender<M> {
    frames: mpsc::Sender<Frame>,
    messages: PhantomData<fn(M)>,
}

impl<M> Clone for LinkSender<M> {
    fn clone(&self) -> Self {
        Self { frames: self.frames.clone(), messages: PhantomData }
    }
}

/// Reads messages of one kind.
pub(crate) struct LinkReader<M> {
    socket: BufReader<OwnedReadHalf>,
    limits: FrameLimits,
    messages: PhantomData<fn() -> M>,
}

/// Opens a link over a connected socket. `limits` bound what the other side may send.
pub(crate) fn open<Sent, Received>(
    socket: UnixStream,
    limits: FrameLimits,
) -> (LinkSender<Sent>, LinkReader<Received>) {
    let (read, write) = socket.into_split();
    let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
    tokio::spawn(send(write, queue));
    let reader = LinkReader { socket: BufReader::new(read), limits, messages: PhantomData };
    (LinkSender { frames, messages: PhantomData }, reader)
}

/// The link that this process's supervisor left it as standard input.
///
/// # Errors
/// When standard input is no Unix socket: the command was not started by a supervisor.
pub(crate) fn own_link() -> std::io::Result<UnixStream> {
    let socket =
        std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.peer_addr()?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

async fn send(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Frame>) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = frame.write(&mut socket).await {
            // The reader of this side sees the end, too.
            return tracing::debug!(%error, "a message could not be sent to the other process");
        }
    }
}

impl<M: Serialize> LinkSender<M> {
    /// Sends a message, waiting for room in the queue.
    ///
    /// # Errors
    /// When the link is closed.
    pub(crate) async fn send(&self, message: &M, payload: Vec<Bytes>) -> Result<(), LinkError> {
        let frame = Frame::new(message, payload)?;
        self.frames.send(frame).await.map_err(|_| LinkError::Closed)
    }

    /// Sends a message if there is room. Gives whether it was taken.
    pub(crate) fn try_send(&self, message: &M) -> bool {
        match Frame::new(message, Vec::new()) {
            Ok(frame) => self.frames.try_send(frame).is_ok(),
            Err(error) => {
                tracing::error!(%error, "a message to another process was dropped");
                false
            }
        }
    }
}

impl<M: DeserializeOwned> LinkReader<M> {
    /// The next message and its payload. Not cancel-safe: a dropped call may lose the half of a frame.
    ///
    /// # Errors
    /// When the link is closed, fails, or brings what is no message.
    pub(crate) async fn next(&mut self) -> Result<(M, Bytes), LinkError> {
        frame::read(&mut self.socket, self.limits).await
    }
}
