//! The limits of a listener, each with the default that a node starts with.

use std::sync::Arc;
use std::time::Duration;

use crate::proxies::Proxies;

/// The longest URL (as it stands in the request line) answered with anything but 414.
pub const URL_BYTES_MAX: usize = 16 * 1024;
/// The most header bytes a request may have, its first line included.
pub const HEADER_BYTES_MAX: usize = 128 * 1024;
/// The most header lines a request may have. It is hyper's own limit for HTTP/1, whose parser is
/// slower with any other.
pub const HEADERS_MAX: usize = 100;
/// The time for a whole request head, from its first byte (or from the accept) to its last.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(15);
/// The time for a TLS handshake.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection without a request in flight is kept.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may refuse to take bytes that are ready for it.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request body may yield nothing while it is being read.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The most open connections of one listener on one thread.
pub const CONNECTIONS_MAX: usize = 16_384;
/// The most streams a client may have open on one HTTP/2 connection.
pub const H2_STREAMS_MAX: u32 = 128;
/// The most streams reset by the client before they were taken up (CVE-2023-44487).
pub const H2_PENDING_RESETS_MAX: usize = 32;
/// The most streams reset by us for the client's errors before the connection is closed.
pub const H2_ERROR_RESETS_MAX: usize = 256;
/// The most frames at once on an HTTP/2 connection that bring nothing: all but requests and their bodies.
pub const H2_FUTILE_FRAMES_MAX: u32 = 10_000;
/// How many more of them may come in each second. Requests and what is sent in response allow for further ones.
pub const H2_FUTILE_FRAMES_PER_S: u32 = 1_000;
/// For how many of them the client's reset of a stream counts: 500 at once, and 50 in each second.
pub const H2_RESET_COST: u32 = 20;
/// How often an HTTP/2 peer is pinged.
pub const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long an HTTP/2 peer has to answer a ping.
pub const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The receive window of one HTTP/2 stream, in bytes.
pub const H2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The receive window of one HTTP/2 connection, in bytes.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// The most response bytes buffered for one HTTP/2 stream.
pub const H2_SEND_BUFFER_BYTES: usize = 256 * 1024;
/// The most streams of its own that an HTTP/3 client may have open besides requests: it needs three.
pub const H3_UNI_STREAMS_MAX: u32 = 8;
/// The most connections over QUIC that wait to be taken up.
pub const H3_INCOMING_MAX: usize = 1024;
/// The most bytes of early packets that one of them may bring.
pub const H3_INCOMING_BYTES_MAX: u64 = 64 * 1024;
/// The most handshakes over QUIC under way before clients must show that their address is theirs.
pub const H3_UNPROVEN_MAX: usize = 128;
/// The most requests that a client may take back, beyond those that it lets be answered, before its connection
/// is closed: what CVE-2023-44487 is to HTTP/2.
pub const H3_CANCELED_MAX: usize = 256;

/// The limits of one listener. `ServeOptions::default()` has the constants of this module.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// See [`URL_BYTES_MAX`].
    pub url_bytes_max: usize,
    /// See [`HEADER_BYTES_MAX`]. Never below 8 KiB.
    pub header_bytes_max: usize,
    /// See [`HEADER_READ_TIMEOUT`].
    pub header_read_timeout: Duration,
    /// See [`TLS_HANDSHAKE_TIMEOUT`].
    pub tls_handshake_timeout: Duration,
    /// See [`IDLE_TIMEOUT`].
    pub idle_timeout: Duration,
    /// See [`WRITE_STALL_TIMEOUT`].
    pub write_stall_timeout: Duration,
    /// See [`CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// See [`H2_STREAMS_MAX`].
    pub h2_streams_max: u32,
    /// See [`H2_PING_INTERVAL`].
    pub h2_ping_interval: Duration,
    /// See [`H2_PING_TIMEOUT`].
    pub h2_ping_timeout: Duration,
    /// Where clients that come over TLS are told to find HTTP/3; they are told nothing when absent.
    pub http3_port: Option<u16>,
    /// Who stands in front of the node.
    pub proxies: Arc<Proxies>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            url_bytes_max: URL_BYTES_MAX,
            header_bytes_max: HEADER_BYTES_MAX,
            header_read_timeout: HEADER_READ_TIMEOUT,
            tls_handshake_timeout: TLS_HANDSHAKE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            write_stall_timeout: WRITE_STALL_TIMEOUT,
            connections_max: CONNECTIONS_MAX,
            h2_streams_max: H2_STREAMS_MAX,
            h2_ping_interval: H2_PING_INTERVAL,
            h2_ping_timeout: H2_PING_TIMEOUT,
            http3_port: None,
            proxies: Arc::default(),
        }
    }
}

impl ServeOptions {
    /// The frames that a sweep grants to every HTTP/2 connection.
    pub(crate) fn frames_per_sweep(&self) -> u32 {
        (self.sweep_interval().as_secs_f64() * f64::from(H2_FUTILE_FRAMES_PER_S)).ceil() as u32
    }

    /// How often the connections are looked over: often enough to hold the shortest limit to a
    /// quarter, and never more than once a second under the defaults.
    pub(crate) fn sweep_interval(&self) -> Duration {
        let shortest =
            self.header_read_timeout.min(self.idle_timeout).min(self.write_stall_timeout);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}
