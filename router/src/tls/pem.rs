//! Certificates and keys as PEM, from files or from memory.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

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
    let chain = parse_certificates(chain, certificate)?;
    let private = PrivateKeyDer::from_pem_slice(private).map_err(|error| TlsError::File {
        what: "a private key",
        path: key.to_owned(),
        reason: error.to_string(),
    })?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).map(Arc::new).map_err(
        |error| TlsError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            reason: error.to_string(),
        },
    )
}

/// Understands certificates in PEM that were read from this file: one at least.
pub fn parse_certificates(
    pem: &[u8],
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "a certificate chain";
    let failed = |reason| TlsError::File { what, path: path.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    match chain.is_empty() {
        true => Err(failed("it holds no CERTIFICATE section".to_owned())),
        false => Ok(chain),
    }
}
