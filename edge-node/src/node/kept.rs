//! Listening sockets that outlive the program which bound them: a node that is restarted leaves them to its next
//! program, so that clients wait in their queues and are not refused.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::net::UnixStream;

use super::sockets::ThreadSockets;
use crate::process::{own_link, receive_fds, send_fds};

/// Listening sockets by what they are for. Empty at an ordinary start.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) http: Vec<TcpListener>,
    pub(crate) https: Vec<TcpListener>,
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) admin: Vec<TcpListener>,
    pub(crate) peers: Vec<TcpListener>,
}

impl Kept {
    /// Holds sockets of threads, of other nodes and of the API open, beside whoever uses them.
    ///
    /// # Errors
    /// When there are too many open files.
    pub(crate) fn beside(
        threads: &[ThreadSockets],
        peers: &[TcpListener],
        admin: &TcpListener,
    ) -> std::io::Result<Self> {
        let udp = threads.iter().filter_map(|thread| thread.quic.as_ref());
        Ok(Self {
            http: threads.iter().map(|thread| thread.http.try_clone()).collect::<Result<_, _>>()?,
            https: threads
                .iter()
                .map(|thread| thread.https.try_clone())
                .collect::<Result<_, _>>()?,
            udp: udp.map(|quic| quic.udp.try_clone()).collect::<Result<_, _>>()?,
            admin: vec![admin.try_clone()?],
            peers: peers.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?,
        })
    }

    /// Puts all of them into a socket, out of which the next program takes them.
    ///
    /// # Errors
    /// When the socket fails.
    pub(crate) async fn send(&self, socket: &UnixStream) -> std::io::Result<()> {
        fn fds<S: AsFd>(sockets: &[S]) -> Vec<BorrowedFd<'_>> {
            sockets.iter().map(AsFd::as_fd).collect()
        }
        send_fds(socket, &fds(&self.http)).await?;
        send_fds(socket, &fds(&self.https)).await?;
        send_fds(socket, &fds(&self.udp)).await?;
        send_fds(socket, &fds(&self.admin)).await?;
        send_fds(socket, &fds(&self.peers)).await
    }

    /// Takes what the program before has left in standard input.
    ///
    /// # Errors
    /// When standard input is something else.
    pub(crate) async fn receive() -> std::io::Result<Self> {
        fn sockets<S: From<OwnedFd>>(fds: Vec<OwnedFd>) -> Vec<S> {
            fds.into_iter().map(S::from).collect()
        }
        let socket = own_link()?;
        Ok(Self {
            http: sockets(receive_fds(&socket).await?),
            https: sockets(receive_fds(&socket).await?),
            udp: sockets(receive_fds(&socket).await?),
            admin: sockets(receive_fds(&socket).await?),
            peers: sockets(receive_fds(&socket).await?),
        })
    }
}

/// Those of the sockets that listen where it is wanted now; the others are closed. Where the system may choose the
/// port, what it chose before is as good.
pub(crate) fn fitting<S>(
    kept: Vec<S>,
    wanted: SocketAddr,
    local: impl Fn(&S) -> std::io::Result<SocketAddr>,
) -> Vec<S> {
    let fits = |socket: &S| {
        local(socket)
            .is_ok_and(|bound| bound == wanted || (wanted.port() == 0 && bound.ip() == wanted.ip()))
    };
    kept.into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_fit_where_they_are_wanted() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = socket.local_addr().unwrap();
        let kept = || vec![socket.try_clone().unwrap()];
        let check = |wanted: SocketAddr, expected: usize| {
            assert_eq!(
                fitting(kept(), wanted, TcpListener::local_addr).len(),
                expected,
                "{wanted}"
            );
        };
        check(bound, 1);
        check("127.0.0.1:0".parse().unwrap(), 1);
        check("127.0.0.1:1".parse().unwrap(), 0);
        check("[::1]:0".parse().unwrap(), 0);
    }
}
