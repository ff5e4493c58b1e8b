//! File descriptors over the link: the first byte that a supervisor sends carries all that a child needs.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors that one message may carry. The kernel takes 253.
pub(crate) const FDS_MAX: usize = 250;

/// Room for the descriptors of one message, with the message's own header.
const SPACE_BYTES: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));

/// The byte that carries the descriptors.
const MARK: u8 = b'F';

/// Sends descriptors. They stay open here.
///
/// # Errors
/// When there are more than [`FDS_MAX`], or the socket fails.
pub(crate) async fn send_fds(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    if fds.len() > FDS_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    socket
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); SPACE_BYTES];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            sendmsg(socket, &[IoSlice::new(&[MARK])], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

/// Receives what [`send_fds`] sent.
///
/// # Errors
/// When the socket fails, is closed, or something else comes.
pub(crate) async fn receive_fds(socket: &UnixStream) -> std::io::Result<Vec<OwnedFd>> {
    socket
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); SPACE_BYTES];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut mark = [0];
            let slices = &mut [IoSliceMut::new(&mut mark)];
            let received = recvmsg(socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut fds = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    fds.extend(received);
                }
            }
            match (received.bytes, mark) {
                (1, [MARK]) => Ok(fds),
                (0, _) => Err(ErrorKind::UnexpectedEof.into()),
                _ => Err(Error::new(ErrorKind::InvalidData, "descriptors were expected")),
            }
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn descriptors_arrive_in_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let pipes: Vec<_> = (0..FDS_MAX / 2).map(|_| std::io::pipe().unwrap()).collect();
        let fds: Vec<_> = pipes.iter().flat_map(|(r, w)| [r.as_fd(), w.as_fd()]).collect();
        send_fds(&a, &fds).await.unwrap();
        let mut received = receive_fds(&b).await.unwrap();
        assert_eq!(received.len(), FDS_MAX);
        let (mut read, _) = (&pipes[3].0, ());
        let mut write = std::io::PipeWriter::from(received.swap_remove(7));
        write.write_all(b"x").unwrap();
        let mut byte = [0];
        read.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[tokio::test]
    async fn anything_else_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let (pipe, _keep) = std::io::pipe().unwrap();
        assert!(send_fds(&a, &vec![pipe.as_fd(); FDS_MAX + 1]).await.is_err());
        a.try_write(b"?").unwrap();
        assert!(receive_fds(&b).await.is_err());
        drop(a);
        assert!(receive_fds(&b).await.is_err());
    }
}
