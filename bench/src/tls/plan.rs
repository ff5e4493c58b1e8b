//! What the load generator of front doors is told.

use std::net::SocketAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::window::Span;

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// A connection over TCP and a full handshake.
    Full,
    /// The same by a ticket of the connection before.
    Resumed,
    /// A full handshake over QUIC.
    Quic,
    /// Requests by HTTP/1.1.
    Http1,
    /// Requests by HTTP/2.
    Http2,
    /// Requests by HTTP/3.
    Http3,
}

/// What to do to which server, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) work: Work,
    pub(crate) target: SocketAddr,
    /// The name that is asked for, in the handshake and by requests.
    pub(crate) host: String,
    /// The certificate that the server must have, in DER.
    pub(crate) certificate: Vec<u8>,
    /// Bytes that every body must have.
    pub(crate) body_bytes: u64,
    pub(crate) span: Span,
}

impl Work {
    pub(crate) const ALL: [Self; 6] =
        [Self::Full, Self::Resumed, Self::Quic, Self::Http1, Self::Http2, Self::Http3];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "full handshakes",
            Self::Resumed => "resumed handshakes",
            Self::Quic => "full handshakes, QUIC",
            Self::Http1 => "requests, HTTP/1.1",
            Self::Http2 => "requests, HTTP/2",
            Self::Http3 => "requests, HTTP/3",
        }
    }

    /// Connections at once, and requests at once on each.
    pub(super) fn shape(self) -> (usize, usize) {
        match self {
            Self::Full | Self::Resumed | Self::Quic => (32, 1),
            Self::Http1 => (64, 1),
            Self::Http2 | Self::Http3 => (8, 8),
        }
    }

    /// Whether it goes over QUIC.
    pub(super) fn is_quic(self) -> bool {
        matches!(self, Self::Quic | Self::Http3)
    }

    pub(super) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Full | Self::Resumed | Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
            Self::Quic | Self::Http3 => b"h3",
        }
    }
}
