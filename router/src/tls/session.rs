//! What a finished handshake agreed on.

use std::sync::Arc;

use rustls::{CipherSuite, ProtocolVersion, ServerConnection};
use rustls_pki_types::CertificateDer;

use super::client_certificate::{ClientCertificate, Verified};
use super::client_policy::{Asked, ClientMode};
use crate::connection::{Alpn, TlsInfo};

/// What a finished handshake agreed on.
///
/// # Errors
/// When the client must have a certificate and has none that is valid now: a resumed session brings one that
/// was valid when the session began.
pub(crate) fn session(
    tls: &ServerConnection,
    asked: &Asked,
) -> Result<TlsInfo, Box<dyn std::error::Error + Send + Sync>> {
    Ok(TlsInfo {
        version: match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        },
        cipher: tls.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
        sni: tls.server_name().map(Into::into),
        alpn: match tls.alpn_protocol() {
            Some(b"h2") => Some(Alpn::H2),
            Some(_) => Some(Alpn::Http1),
            None => None,
        },
        policy: asked.id,
        client: client_of(tls.peer_certificates(), asked)?,
    })
}

/// The client's certificate, where it was asked for one.
///
/// # Errors
/// When it must have one and has none that is valid now.
pub(crate) fn client_of(
    chain: Option<&[CertificateDer<'_>]>,
    asked: &Asked,
) -> Result<Option<Arc<ClientCertificate>>, Box<dyn std::error::Error + Send + Sync>> {
    let Some(mode) = asked.mode else { return Ok(None) };
    let chain = chain.unwrap_or_default();
    let checked = asked.check(chain);
    if mode == ClientMode::Required {
        checked.clone()?;
    }
    Ok(Some(Arc::new(match chain.first() {
        Some(leaf) => ClientCertificate::read(leaf, &Verified::of(&checked)),
        None => ClientCertificate::none(),
    })))
}

/// The names that OpenSSL has for the suites we offer; for TLS 1.3 the ones Cloudflare shows.
pub(crate) fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "AEAD-AES128-GCM-SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "AEAD-AES256-GCM-SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "AEAD-CHACHA20-POLY1305-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other.as_str().unwrap_or(""),
    }
}
