//! The databases of places over a link of their own: the supervisor sends the memory that they lie in, once and
//! after every change, and all serving processes map the same.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::watch;

use super::fds::{receive_fds, send_fds};
use crate::geo::{Geo, GeoFiles};

/// Sends the databases, now and whenever they change, until the other end, which this gives, is closed.
pub(crate) fn serve(files: watch::Receiver<GeoFiles>) -> std::io::Result<OwnedFd> {
    let (own, others) = UnixStream::pair()?;
    tokio::spawn(send(own, files));
    Ok(others.into_std()?.into())
}

async fn send(socket: UnixStream, mut files: watch::Receiver<GeoFiles>) {
    loop {
        let now = files.borrow_and_update().clone();
        let fds: Vec<BorrowedFd<'_>> = now.iter().map(AsFd::as_fd).collect();
        if let Err(error) = send_fds(&socket, &fds).await {
            return tracing::debug!(%error, "databases could not be sent to a serving process");
        }
        tokio::select! {
            changed = files.changed() => if changed.is_err() { return },
            () = closed(&socket) => return,
        }
    }
}

/// Waits until the other end, which says nothing, is closed.
async fn closed(socket: &UnixStream) {
    let mut byte = [0];
    while socket.readable().await.is_ok() {
        if !matches!(socket.try_read(&mut byte), Err(error) if error.kind() == ErrorKind::WouldBlock)
        {
            return;
        }
    }
}

/// Takes the first databases from the other end of a link, and then what comes as long as it is open.
///
/// # Errors
/// When the link fails before the first ones are here, or they cannot be used.
pub(crate) async fn follow(
    link: OwnedFd,
    geo: Arc<Geo>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let link = StdUnixStream::from(link);
    link.set_nonblocking(true)?;
    let link = UnixStream::from_std(link)?;
    geo.replace(receive_fds(&link).await?)?;
    tokio::spawn(async move {
        while let Ok(files) = receive_fds(&link).await {
            if let Err(error) = geo.replace(files) {
                tracing::error!(%error, "changed databases of places cannot be used");
            }
        }
    });
    Ok(())
}
