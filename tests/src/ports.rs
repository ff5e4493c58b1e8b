//! Ports for servers that must be told theirs before they start.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Below the ports that systems give to outgoing connections (32,768 and up on Linux), one of which could else take
/// a port between its choice and its use.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of the loopback address that is free for TCP and UDP, and that this process gives out once.
///
/// # Panics
/// When none is free.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of several processes begin at different places.
    let start = std::process::id().wrapping_mul(37);
    (0..COUNT)
        .map(|_| (start + u32::from(NEXT.fetch_add(1, Relaxed))) % u32::from(COUNT))
        .map(|offset| SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + offset as u16)))
        .find(|address| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok())
        .expect("a test machine has free ports")
}
