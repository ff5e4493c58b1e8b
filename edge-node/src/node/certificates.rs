//! The node's certificates as bytes: they are read where the files are, and used where connections come.

use std::path::Path;
use std::sync::Arc;

use atoll_router::{CertStore, Certificates, TlsError, parse_pem, self_signed, server_config};
use rustls::ServerConfig;

use crate::config::NodeConfig;
use crate::registry::Registry;

/// Where the self-signed certificate lives in the data directory.
const TLS_DIR: &str = "tls";

/// A certificate chain and its private key, as PEM.
pub(crate) type Pem = (Vec<u8>, Vec<u8>);

/// Reads the configured certificates and the node's own, which is made if need be.
pub(crate) fn read(config: &NodeConfig, registry: &Registry) -> Result<Vec<Pem>, TlsError> {
    let mut pems = Vec::new();
    for file in &config.tls.certificates {
        pems.push(read_pair(&file.cert, &file.key)?);
    }
    let mut domains = vec![config.domain.clone()];
    let snapshot = registry.snapshot();
    domains.extend(snapshot.subdomains.iter().map(|(_, name)| format!("{name}.{}", config.domain)));
    let own = self_signed(&config.data_dir.join(TLS_DIR), &domains)?;
    if own.created {
        tracing::info!(path = %own.path.display(), "made a self-signed certificate: clients can be told to trust it");
    }
    pems.push(read_pair(&own.path, &own.key_path)?);
    Ok(pems)
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Pem, TlsError> {
    let read = |what, path: &Path| {
        std::fs::read(path).map_err(|error| TlsError::File {
            what,
            path: path.to_owned(),
            reason: error.to_string(),
        })
    };
    let pem = (read("a certificate chain", certificate)?, read("a private key", key)?);
    parse_pem(&pem.0, &pem.1, certificate, key)?;
    Ok(pem)
}

/// The TLS configuration that serves these certificates. All threads of a process share one.
pub(crate) fn tls(pems: &[Pem]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut certificates = Certificates::default();
    for (chain, key) in pems {
        certificates.add(parse_pem(chain, key, Path::new("memory"), Path::new("memory"))?);
    }
    server_config(Arc::new(CertStore::new(certificates)))
}
