//! Requests between the nodes of one cluster: HTTP/2 over TLS 1.3 in which both ends show a certificate of the
//! cluster's own authority. Strangers get no further than the handshake.

mod authority;
mod pool;
mod serve;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

pub use authority::{AUTHORITY_SEED_BYTES, CERTIFICATE_LIFE, PeerAuthority};
pub use pool::{NotSent, PeerBody, PeerError, PeerNode, PeerPool, PeerResponseBody};
pub use serve::{PeerService, serve_peers};
pub use tls::{PeerCredentials, PeerTls, PeerTlsError};

/// The protocol that both ends must name, by ALPN. Its number changes when nodes of two releases could not
/// understand each other.
const PROTOCOL: &[u8] = b"atoll-peer/1";

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
/// The receive window of one stream, in bytes.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The receive window of one connection, in bytes.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes buffered for sending on one stream.
const SEND_BUFFER_BYTES: usize = 256 << 10;
