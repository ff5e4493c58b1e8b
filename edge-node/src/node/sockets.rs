//! The listening sockets of workers: for each thread one of every kind, which the kernel spreads connections
//! over.

use std::io::ErrorKind;
use std::mem::take;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use atoll_router::{BindError, bind_reuse_port, bind_udp_reuse_port};

use super::kept::{Kept, fitting};
use crate::config::NodeConfig;

/// How often a taken port is tried again: a node that was killed leaves processes behind which end at once,
/// but not at the same moment.
const TAKEN_TRIES_MAX: u32 = 60;

/// The pause between two tries.
const TAKEN_PAUSE: Duration = Duration::from_millis(50);

/// How often another port is tried when the system chose one that is taken for UDP.
const CHOICES_MAX: usize = 16;

/// Bound sockets of all threads.
pub(crate) struct Listeners {
    /// Those of each thread.
    pub(crate) threads: Vec<ThreadSockets>,
    /// The senders of all threads' inboxes, in the threads' order; none without HTTP/3.
    pub(crate) inboxes: Vec<UnixDatagram>,
    /// Where plain HTTP answers.
    pub(crate) http: SocketAddr,
    /// Where HTTPS answers.
    pub(crate) https: SocketAddr,
}

/// What one thread listens on.
pub(crate) struct ThreadSockets {
    pub(crate) http: TcpListener,
    pub(crate) https: TcpListener,
    /// Absent when HTTP/3 is off.
    pub(crate) quic: Option<QuicSockets>,
}

/// What one thread receives packets of QUIC on.
pub(crate) struct QuicSockets {
    pub(crate) udp: UdpSocket,
    /// For packets that other threads receive in its stead.
    pub(crate) inbox: UnixDatagram,
}

impl ThreadSockets {
    /// The descriptors, in the order in which [`collect`](Self::collect) takes them.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let quic = self.quic.iter().flat_map(|quic| [quic.udp.as_fd(), quic.inbox.as_fd()]);
        [self.http.as_fd(), self.https.as_fd()].into_iter().chain(quic)
    }

    /// The sockets of as many threads as these descriptors are of. None when some are missing.
    pub(crate) fn collect(
        fds: impl IntoIterator<Item = OwnedFd>,
        http3: bool,
    ) -> Option<Vec<Self>> {
        let mut fds = fds.into_iter();
        let mut threads = Vec::new();
        while let Some(http) = fds.next() {
            let https = fds.next()?.into();
            let quic = match http3 {
                true => Some(QuicSockets { udp: fds.next()?.into(), inbox: fds.next()?.into() }),
                false => None,
            };
            threads.push(Self { http: http.into(), https, quic });
        }
        Some(threads)
    }
}

impl Listeners {
    /// Binds the sockets of so many threads, or takes those that were kept.
    pub(crate) async fn bind(
        config: &NodeConfig,
        threads: usize,
        kept: &mut Kept,
    ) -> Result<Self, BindError> {
        let (http, http_address) = bind(config.http, threads, take(&mut kept.http)).await?;
        let (https, udp, https_address) = bind_secure(config, threads, kept).await?;
        let (mut quic, mut inboxes) = (Vec::new(), Vec::new());
        for udp in udp {
            let (inbox, sender) = UnixDatagram::pair()
                .map_err(|source| BindError { address: https_address, source })?;
            quic.push(QuicSockets { udp, inbox });
            inboxes.push(sender);
        }
        let mut quic = quic.into_iter();
        let pairs = http.into_iter().zip(https);
        let threads =
            pairs.map(|(http, https)| ThreadSockets { http, https, quic: quic.next() }).collect();
        Ok(Self { threads, inboxes, http: http_address, https: https_address })
    }
}

type Secure = (Vec<TcpListener>, Vec<UdpSocket>, SocketAddr);

/// Binds HTTPS, and HTTP/3 to the same port.
async fn bind_secure(
    config: &NodeConfig,
    threads: usize,
    kept: &mut Kept,
) -> Result<Secure, BindError> {
    let mut choices = 0;
    loop {
        let (https, address) = bind(config.https, threads, take(&mut kept.https)).await?;
        if !config.http3 {
            return Ok((https, Vec::new(), address));
        }
        choices += 1;
        match bind_udp(address, threads, take(&mut kept.udp)).await {
            Ok(udp) => return Ok((https, udp, address)),
            Err(error)
                if config.https.port() == 0
                    && error.source.kind() == ErrorKind::AddrInUse
                    && choices < CHOICES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

/// Binds so many sockets of one address, and says which that is. Those that were kept and listen there come first.
pub(crate) async fn bind(
    address: SocketAddr,
    threads: usize,
    kept: Vec<TcpListener>,
) -> Result<(Vec<TcpListener>, SocketAddr), BindError> {
    let mut listeners = fitting(kept, address, TcpListener::local_addr);
    listeners.truncate(threads);
    if listeners.is_empty() {
        if address.port() != 0 {
            refuse_taken(address, |address| TcpListener::bind(address).map(drop)).await?;
        }
        listeners.push(bind_reuse_port(address)?);
    }
    let bound = listeners[0].local_addr().map_err(|source| BindError { address, source })?;
    while listeners.len() < threads {
        listeners.push(bind_reuse_port(bound)?);
    }
    Ok((listeners, bound))
}

async fn bind_udp(
    address: SocketAddr,
    threads: usize,
    kept: Vec<UdpSocket>,
) -> Result<Vec<UdpSocket>, BindError> {
    let mut sockets = fitting(kept, address, UdpSocket::local_addr);
    sockets.truncate(threads);
    if sockets.is_empty() {
        refuse_taken(address, |address| UdpSocket::bind(address).map(drop)).await?;
    }
    while sockets.len() < threads {
        sockets.push(bind_udp_reuse_port(address)?);
    }
    Ok(sockets)
}

/// SO_REUSEPORT would let two nodes of one user share a port unnoticed: a plain bind shows that it is taken.
async fn refuse_taken(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> std::io::Result<()>,
) -> Result<(), BindError> {
    let mut tries = 1;
    loop {
        match bind(address) {
            Ok(()) => return Ok(()),
            Err(source) if source.kind() == ErrorKind::AddrInUse && tries < TAKEN_TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(TAKEN_PAUSE).await;
            }
            Err(source) => return Err(BindError { address, source }),
        }
    }
}
