//! TLS for listeners: certificates chosen by SNI from a store that is swapped whole, PEM files,
//! and what a session agreed on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::connection::{Alpn, TlsInfo};

/// The sessions of TLS 1.2 remembered for clients without tickets.
const SESSIONS_MAX: usize = 4096;

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file could not be read or holds something else.
    #[error("cannot read {what} from {}: {reason}", path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The private key is not the certificate's.
    #[error("the private key in {} does not fit the certificate in {}: {reason}", key.display(), certificate.display())]
    Mismatch {
        /// The file of the certificate chain.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A self-signed certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// A file could not be written.
    #[error("cannot write {}: {source}; make the directory writable for this user", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The TLS library refused the configuration.
    #[error("cannot set up tls: {0}")]
    Config(#[from] rustls::Error),
}

/// Certificates by the names they are valid for.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// Keyed by what follows `*.`: a wildcard stands for exactly one label (RFC 6125).
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    fallback: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Adds a certificate under every DNS name it is valid for; the later one wins a name. The
    /// first one added also answers clients that ask for an unknown name, or for none.
    pub fn add(&mut self, certificate: Arc<CertifiedKey>) {
        for name in names(&certificate) {
            let name = name.to_ascii_lowercase();
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.insert(parent.into(), Arc::clone(&certificate)),
                None => self.exact.insert(name.into(), Arc::clone(&certificate)),
            };
        }
        self.fallback.get_or_insert(certificate);
    }

    /// The certificate for a host name in lower case: the exact name, a wildcard of one level, or
    /// the fallback.
    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        name.and_then(|name| {
            let parent = || name.split_once('.').and_then(|(_, p)| self.wildcard.get(p));
            self.exact.get(name).or_else(parent)
        })
        .or(self.fallback.as_ref())
    }
}

/// The DNS names in the certificate's subject alternative names.
fn names(certificate: &CertifiedKey) -> Vec<String> {
    let parsed = certificate.end_entity_cert().ok();
    let parsed = parsed.and_then(|der| webpki::EndEntityCert::try_from(der).ok());
    parsed.map_or_else(Vec::new, |cert| cert.valid_dns_names().map(str::to_owned).collect())
}

/// The certificates in use, shared by every thread and swapped whole.
#[derive(Debug, Default)]
pub struct CertStore {
    certificates: ArcSwap<Certificates>,
}

impl CertStore {
    /// A store that starts with these certificates.
    pub fn new(certificates: Certificates) -> Self {
        Self { certificates: ArcSwap::from_pointee(certificates) }
    }

    /// Puts other certificates into use for handshakes to come.
    pub fn swap(&self, certificates: Certificates) {
        self.certificates.store(Arc::new(certificates));
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.certificates.load().find(name.as_deref()).cloned()
    }
}

/// A server configuration for TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, with session tickets. Share
/// one between the threads of a node, or clients cannot resume on another thread.
pub fn server_config(store: Arc<CertStore>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS_MAX);
    Ok(Arc::new(config))
}

/// Loads a certificate chain (leaf first) and its private key from PEM files.
pub fn load_pem(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let read = |what, path: &Path| {
        std::fs::read(path).map_err(|error| TlsError::File {
            what,
            path: path.to_owned(),
            reason: error.to_string(),
        })
    };
    let chain = read("a certificate chain", certificate)?;
    let private = read("a private key", key)?;
    parse_pem(&chain, &private, certificate, key)
}

/// Understands a certificate chain (leaf first) and its private key, in PEM, that were read from these
/// files.
pub fn parse_pem(
    chain: &[u8],
    private: &[u8],
    certificate: &Path,
    key: &Path,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let failed =
        |what, path: &Path, reason: String| TlsError::File { what, path: path.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed("a certificate chain", certificate, error.to_string()))?;
    if chain.is_empty() {
        let reason = "it holds no CERTIFICATE section".to_owned();
        return Err(failed("a certificate chain", certificate, reason));
    }
    let private = PrivateKeyDer::from_pem_slice(private)
        .map_err(|error| failed("a private key", key, error.to_string()))?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).map(Arc::new).map_err(
        |error| TlsError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            reason: error.to_string(),
        },
    )
}

/// What a finished handshake agreed on.
pub(crate) fn session(tls: &ServerConnection) -> TlsInfo {
    TlsInfo {
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
    }
}

/// The names that OpenSSL has for the suites we offer; for TLS 1.3 the ones Cloudflare shows.
fn cipher_name(suite: CipherSuite) -> &'static str {
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
