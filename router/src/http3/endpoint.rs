//! QUIC's own configuration: keys that threads share, and limits.

use std::fmt;
use std::io;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use serde::{Deserialize, Serialize};

use super::cids::{CidKey, Cids};
use super::socket::{QuicSocket, SteeredSocket};
use crate::options::{
    H2_CONNECTION_WINDOW_BYTES, H2_STREAM_WINDOW_BYTES, H3_INCOMING_BYTES_MAX, H3_INCOMING_MAX,
    H3_UNI_STREAMS_MAX, ServeOptions,
};

/// What all threads of a node must have the same, so that each understands what another has told a client.
#[derive(Clone, Serialize, Deserialize)]
pub struct QuicKeys {
    /// Hides in a connection's ids which thread has it.
    pub cids: [u8; 16],
    /// Makes the tokens by which a client believes that its connection is lost.
    pub resets: [u8; 32],
    /// Seals the tokens by which clients show that they are where they say.
    pub tokens: [u8; 32],
}

impl fmt::Debug for QuicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKeys")
    }
}

/// Makes the configuration of connections, again whenever TLS changes.
pub(super) struct ServerConfigs {
    tokens: [u8; 32],
    transport: Arc<TransportConfig>,
}

impl ServerConfigs {
    pub(super) fn new(keys: &QuicKeys, options: &ServeOptions) -> Self {
        Self { tokens: keys.tokens, transport: Arc::new(transport(options)) }
    }

    pub(super) fn with(&self, tls: Arc<rustls::ServerConfig>) -> Arc<ServerConfig> {
        let crypto =
            QuicServerConfig::try_from(tls).expect("it has the suite that QUIC begins with");
        let tokens = hkdf::Salt::new(hkdf::HKDF_SHA256, b"atoll quic tokens").extract(&self.tokens);
        let mut config = ServerConfig::new(Arc::new(crypto), Arc::new(tokens));
        config
            .transport_config(self.transport.clone())
            .max_incoming(H3_INCOMING_MAX)
            .incoming_buffer_size(H3_INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(H3_INCOMING_BYTES_MAX * H3_INCOMING_MAX as u64 / 8);
        Arc::new(config)
    }
}

fn transport(options: &ServeOptions) -> TransportConfig {
    let window = VarInt::from_u32;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(window(options.h2_streams_max))
        .max_concurrent_uni_streams(window(H3_UNI_STREAMS_MAX))
        .stream_receive_window(window(H2_STREAM_WINDOW_BYTES))
        .receive_window(window(H2_CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(H2_CONNECTION_WINDOW_BYTES))
        .max_idle_timeout(IdleTimeout::try_from(options.idle_timeout).ok())
        // Datagrams are not offered.
        .datagram_receive_buffer_size(None);
    transport
}

/// The endpoint of one thread.
pub(super) fn endpoint(
    socket: QuicSocket,
    keys: &QuicKeys,
    config: ServerConfig,
) -> io::Result<Endpoint> {
    let (key, place) = (CidKey::new(&keys.cids), socket.place);
    let resets = hmac::Key::new(hmac::HMAC_SHA256, &keys.resets);
    let mut own = EndpointConfig::new(Arc::new(resets));
    let of_ids = key.clone();
    own.cid_generator(move || Box::new(Cids { key: of_ids.clone(), place }));
    let socket = Arc::new(SteeredSocket::new(socket, key)?);
    Endpoint::new_with_abstract_socket(own, Some(config), socket, Arc::new(TokioRuntime))
}
