//! Listening sockets that several threads share through SO_REUSEPORT.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// The length of a listening socket's queue of connections that nobody has accepted yet.
pub const BACKLOG: i32 = 4096;

/// What a UDP socket holds in each direction: packets that come while a thread is at something else are lost
/// beyond it.
pub const UDP_BUFFER_BYTES: usize = 2 << 20;

/// A socket could not be made to listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", advice(.source))]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "; another program has this port, choose a different one",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE), choose a higher one"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// Binds a listening socket that other threads may bind too: the kernel spreads connections over
/// them. Bind port 0 once and the others to the port that came of it. Connections accepted from
/// it have Nagle's algorithm off.
pub fn bind_reuse_port(address: SocketAddr) -> Result<TcpListener, BindError> {
    bind(address).map_err(|source| BindError { address, source })
}

/// Binds a UDP socket that other threads may bind too: the kernel spreads clients over them.
pub fn bind_udp_reuse_port(address: SocketAddr) -> Result<UdpSocket, BindError> {
    bind_udp(address).map_err(|source| BindError { address, source })
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // The system may grant less.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if let SocketAddr::V6(v6) = address {
        // `[::]` serves IPv4 as well, so one address in the config is enough.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // Accepted sockets inherit it, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sockets_share_a_port() {
        let first = bind_reuse_port("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let second = bind_reuse_port(address).unwrap();
        assert_eq!(second.local_addr().unwrap(), address);
    }

    #[test]
    fn a_taken_port_is_named_in_the_error() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind_reuse_port(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("another program"));
    }
}
