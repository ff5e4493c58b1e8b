//! Certificates of the HTTPS listener, and those that its clients are asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::AcmeConfig;

/// Certificates of the HTTPS listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Certificates by SNI; one made by the node itself serves the names that none of them has.
    pub certificates: Vec<CertificateConfig>,
    /// Who is asked for a certificate.
    pub client: Vec<ClientConfig>,
    /// Which names get certificates from an ACME authority.
    pub acme: Option<AcmeConfig>,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// The certificate chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Clients that are asked for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// The hosts that they ask for, `*.example.com` for every one below; every host when empty.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Whether they must have one.
    #[serde(default)]
    pub auth: ClientAuth,
    /// The authorities that issue valid ones, as a PEM file.
    pub ca: PathBuf,
}

/// Whether a client must have a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// The worker is told whether it has a valid one.
    #[default]
    Optional,
    /// Without a valid one there is no connection.
    Required,
}

impl TlsConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        for host in self.client.iter().flat_map(|client| &client.hosts) {
            let name = host.strip_prefix("*.").unwrap_or(host);
            let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
            if name.is_empty() || !name.bytes().all(fits) {
                return Err(format!(
                    "tls.client.hosts: {host:?} is no host: write example.com or *.example.com"
                ));
            }
        }
        self.acme.as_ref().map_or(Ok(()), AcmeConfig::check)
    }
}
