//! Requests between the nodes of one cluster: HTTP/2 over TLS 1.3 in which both ends show a certificate of the
//! cluster's own authority. Strangers get no further than the handshake.

mod authority;
mod connections;
mod pool;
mod serve;
mod socket;
mod sockets;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

pub use authority::{AUTHORITY_SEED_BYTES, CERTIFICATE_LIFE, PeerAuthority};
pub use pool::{
    Handshaken, NotSent, PeerBody, PeerError, PeerNode, PeerPool, PeerResponseBody, no_peer_body,
};
pub use serve::{PeerService, serve_peers};
pub use socket::PeerSocket;
pub use tls::{PeerCredentials, PeerTls, PeerTlsError};

/// The protocol that both ends must name, by ALPN. Its number changes when nodes of two releases could not
/// understand each other.
const PROTOCOL: &[u8] = b"atoll-peer/1";
/// The protocol of connections on which WebSockets go. A node of a release without it refuses the connection, and so
/// has seen nothing of the handshake.
const SOCKET_PROTOCOL: &[u8] = b"atoll-peer-sockets/1";

/// How long a connection and its handshake may take, at either end.
pub const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often either end asks whether the other is there.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long the other end may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection takes new requests: longer, and a certificate that has run out would go on counting.
const CONNECTION_LIFE: Duration = Duration::from_secs(1_800);

/// Connections that one thread accepts.
const CONNECTIONS_MAX: usize = 4_096;
/// Requests on one connection at once. It is what a pool opens connections by, too.
const STREAMS_MAX: u32 = 256;
/// Connections of one thread to one node.
const CONNECTIONS_PER_NODE_MAX: usize = 8;
/// Bytes of headers, with what a node adds to those of a client.
const HEADER_LIST_BYTES_MAX: u32 = 512 << 10;
/// The receive window of one stream, in bytes: of a request to another process of this machine, and of a WebSocket.
const STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// The receive window of one request to another machine, in bytes.
const FAR_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes buffered for sending on one stream to another process of this machine.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Bytes buffered for sending on one stream to another machine.
const FAR_SEND_BUFFER_BYTES: usize = 256 << 10;

/// What lies between the two ends of a connection. How long bytes are on their way decides how many are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLink {
    /// Nothing: both are processes of one machine.
    Machine,
    /// A network.
    Network,
}

impl PeerLink {
    /// The receive window of one stream, in bytes.
    fn stream_window_bytes(self, carries: Carries) -> u32 {
        match (self, carries) {
            (Self::Network, Carries::Requests) => FAR_STREAM_WINDOW_BYTES,
            _ => STREAM_WINDOW_BYTES,
        }
    }

    /// The receive window of one connection, in bytes. It has room for all of its streams: what one end does not take
    /// of one of them, for a client or a worker that has stopped reading, holds back no other.
    fn connection_window_bytes(self, carries: Carries) -> u32 {
        STREAMS_MAX * self.stream_window_bytes(carries)
    }

    fn send_buffer_bytes(self) -> usize {
        match self {
            Self::Machine => SEND_BUFFER_BYTES,
            Self::Network => FAR_SEND_BUFFER_BYTES,
        }
    }
}

/// What a connection carries. A WebSocket stays for hours: on connections of their own they take no request its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    Requests,
    Sockets,
}

impl Carries {
    fn by_protocol(protocol: Option<&[u8]>) -> Option<Self> {
        [Self::Requests, Self::Sockets].into_iter().find(|one| protocol == Some(one.protocol()))
    }

    fn protocol(self) -> &'static [u8] {
        match self {
            Self::Requests => PROTOCOL,
            Self::Sockets => SOCKET_PROTOCOL,
        }
    }
}
