//! From a connection to a target: listeners, TLS, HTTP/1.1, HTTP/2 and HTTP/3, the route table, where clients
//! are, and error pages.
//!
//! Everything on a data-plane thread is single-threaded: futures are not `Send`, tasks are local,
//! and threads share only the listening port, the route table and the certificates. The route
//! table is pure and generic over its target; the crate knows no worker and runs no code of one.

#![forbid(unsafe_code)]

mod batch;
mod connection;
mod connections;
mod dot_segments;
mod drain;
mod error_page;
mod frame_watch;
mod gate;
mod geo;
mod host_rules;
mod http3;
mod listener;
mod options;
pub mod origins;
mod outlier;
mod pattern;
mod peer;
mod prefix;
mod proxies;
pub mod regions;
mod request_body;
mod router;
pub mod rules;
mod self_signed;
mod serve;
mod shared_map;
mod table;
mod timed_body;
mod tls;
mod upgrade;

pub use connection::{Alpn, Connection, TlsInfo};
pub use drain::{DrainSignal, DrainTrigger, Drained, drain_channel};
pub use error_page::{ErrorPage, PageFormat};
pub use gate::Refusal;
pub use geo::{GEO_NETWORKS_MAX, GeoError, GeoNetwork, GeoTable, Place};
pub use http3::{Http3Body, QuicKeys, QuicSocket, serve_http3};
pub use listener::{BACKLOG, BindError, UDP_BUFFER_BYTES, bind_reuse_port, bind_udp_reuse_port};
pub use options::*;
pub use outlier::{Ejection, Outlier};
pub use pattern::{HOST_BYTES_MAX, PATTERN_BYTES_MAX, Pattern, PatternError, Scheme, bare_host};
pub use peer::{
    AUTHORITY_SEED_BYTES, CERTIFICATE_LIFE, Handshaken, NotSent, PEER_HANDSHAKE_TIMEOUT,
    PeerAuthority, PeerBody, PeerCredentials, PeerError, PeerLink, PeerNode, PeerPool,
    PeerResponseBody, PeerService, PeerSocket, PeerTls, PeerTlsError, no_peer_body, serve_peers,
};
pub use proxies::{
    FORWARDED_HOPS_MAX, ForwardedHeader, PREAMBLE_BYTES_MAX, PREAMBLE_TIMEOUT, Proxies,
};
pub use request_body::{RequestBody, RequestBodyError};
pub use router::Router;
pub use self_signed::{SelfSigned, self_signed};
pub use serve::{Security, ServeError, Service, serve};
pub use shared_map::SharedMap;
pub use table::{Match, RouteChanges, RouteTable};
pub use timed_body::{TimedBody, TimedBodyError};
pub use tls::{
    CertificateFacts, Certificates, Challenge, ChallengeKind, ClientCertificate, ClientMode,
    ClientPolicy, PolicyId, TICKET_NAME_BYTES, TICKET_SECRET_BYTES, TicketKey, Tls, TlsError,
    TlsMaterial, Verified, load_pem, parse_certificates, parse_pem,
};
pub use upgrade::{Upgrade, UpgradeKind, UpgradedStream};
