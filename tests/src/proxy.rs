//! A TCP proxy that can cut, silence or delay what goes through it: a network that is far away, or fails.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

const BUFFER_BYTES: usize = 16 * 1024;

/// Buffers that are on their way in one direction.
const BUFFERS_MAX: usize = 256;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// They pass.
    Open,
    /// They pass, each so much later.
    Slow(Duration),
    /// Connections are closed, and new ones too.
    Cut,
    /// Nothing passes, and nobody is told. What was sent meanwhile arrives when the link opens again, as it
    /// does after a network's outage.
    Silent,
}

/// A proxy to one address. It ends when it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    accepting: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of loopback for `target`, which need not be there yet.
    ///
    /// # Panics
    /// Panics when there is no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let link = watch::Sender::new(Link::Open);
        let accepting = tokio::spawn(accept(listener, target, link.subscribe()));
        Self { address, link, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what becomes of the bytes, on connections that there are and on those to come.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.link.send_replace(Link::Cut);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, link: watch::Receiver<Link>) {
    // A connection that ended before it was taken is nobody's loss.
    while let Ok((near, _)) = listener.accept().await {
        if *link.borrow() != Link::Cut {
            tokio::spawn(connect(near, target, link.clone()));
        }
    }
}

async fn connect(near: TcpStream, target: SocketAddr, mut link: watch::Receiver<Link>) {
    let passes = |link: &Link| *link != Link::Silent;
    if link.wait_for(passes).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    // It only costs time.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near, far) = (near.into_split(), far.into_split());
    let mut cut = link.clone();
    tokio::select! {
        () = pump(near.0, far.1, link.clone()) => {}
        () = pump(far.0, near.1, link) => {}
        _ = cut.wait_for(|link| *link == Link::Cut) => {}
    }
}

/// Passes bytes on in one direction until either end is gone.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: watch::Receiver<Link>) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(BUFFERS_MAX);
    let now = link.clone();
    let take = async move {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let delay = if let Link::Slow(delay) = *now.borrow() { delay } else { Duration::ZERO };
            if sender.send((Instant::now() + delay, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let give = async move {
        while let Some((due, bytes)) = on_the_way.recv().await {
            sleep_until(due).await;
            let passes = link.wait_for(|link| *link != Link::Silent).await.is_ok();
            if !passes || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(take, give);
    tokio::select! {
        // What was taken arrives, though its sender is gone.
        () = &mut take => give.await,
        () = &mut give => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_millis(100);

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut read, mut write) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_link_is_cut_silenced_and_opened() {
        let proxy = FaultProxy::start(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut byte = [0];
        stream.write_all(b"a").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();

        let delay = 3 * SOON;
        proxy.set(Link::Slow(delay));
        let sent = std::time::Instant::now();
        stream.write_all(b"s").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        assert!(sent.elapsed() >= 2 * delay, "each way takes its time");

        proxy.set(Link::Silent);
        stream.write_all(b"b").await.unwrap();
        let silence = tokio::time::timeout(SOON, stream.read_exact(&mut byte)).await;
        assert!(silence.is_err(), "nothing passes");
        proxy.set(Link::Open);
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b", "it comes late");

        proxy.set(Link::Cut);
        assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(matches!(refused.read(&mut byte).await, Ok(0) | Err(_)));
        proxy.set(Link::Open);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"c").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
    }
}
