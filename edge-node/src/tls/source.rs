//! Reads certificates from files and from the registry, and keeps the last good ones where a file has become
//! unusable: a certificate that is being replaced is not a reason to serve none.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_router::{Tls, TlsError, parse_certificates, parse_pem, self_signed};

use super::bytes::{ClientBytes, TlsBytes};
use crate::config::{ClientAuth, NodeConfig};
use crate::registry::{Pem, Registry, RegistryError};

/// Where the self-signed certificate lives in the data directory.
const TLS_DIR: &str = "tls";

/// Reads what TLS serves by.
pub(crate) struct TlsSource {
    config: NodeConfig,
    registry: Registry,
    files: Files,
}

/// What was read of the configuration's files.
struct Files {
    certificates: Vec<Pem>,
    clients: Vec<ClientBytes>,
}

impl TlsSource {
    /// Reads the configured files for the first time.
    ///
    /// # Errors
    /// When one of them is of no use.
    pub(crate) fn open(config: &NodeConfig, registry: &Registry) -> Result<Self, TlsError> {
        let files = Files::read(config)?;
        Ok(Self { config: config.clone(), registry: registry.clone(), files })
    }

    /// Reads the configured files again. Those that were read before stay in use when one is of no use.
    pub(super) fn reload(&mut self) -> Result<(), TlsError> {
        self.files = Files::read(&self.config)?;
        Ok(())
    }

    /// The files that are worth a look now and then.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let tls = &self.config.tls;
        let pairs = tls.certificates.iter().flat_map(|pair| [&*pair.cert, &*pair.key]);
        pairs.chain(tls.client.iter().map(|client| &*client.ca))
    }

    /// Everything that TLS serves by now, of two for a name the later one: the node's own certificate, those issued
    /// for hosts of routes, those that were uploaded, those issued for names of the configuration, and its files.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When the node's own certificate cannot be made.
    pub(crate) fn read(&self) -> Result<TlsBytes, TlsError> {
        let mut certificates = vec![self.own()?];
        let (listed, of_routes) = self.issued();
        certificates.extend(of_routes);
        certificates.extend(self.uploaded());
        certificates.extend(listed);
        let fallback = if self.files.certificates.is_empty() { 0 } else { certificates.len() };
        certificates.extend(self.files.certificates.iter().cloned());
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let tickets = self.registry.ticket_keys(since_epoch.as_secs());
        let unreadable =
            |error: &RegistryError| tracing::error!(%error, "what ACME asks cannot be read");
        let challenges = self.registry.acme_challenges().inspect_err(unreadable);
        let (clients, challenges) = (self.files.clients.clone(), challenges.unwrap_or_default());
        Ok(TlsBytes { certificates, fallback, clients, tickets, challenges })
    }

    /// What an ACME authority has issued: for names of the configuration, and for others.
    fn issued(&self) -> (Vec<Pem>, Vec<Pem>) {
        let unreadable = |error: &RegistryError| {
            tracing::error!(%error, "certificates of an ACME authority cannot be read");
        };
        let stored = self.registry.acme_to_serve().inspect_err(unreadable).unwrap_or_default();
        let place = Path::new("ACME");
        let usable = stored.into_iter().filter(|(host, (chain, key))| {
            let parsed = parse_pem(chain, key, place, place);
            parsed
                .inspect_err(|error| tracing::error!(host, %error, "a certificate is left out"))
                .is_ok()
        });
        let listed = |host: &String| {
            self.config.tls.acme.as_ref().is_some_and(|acme| acme.domains.contains(host))
        };
        let (of_domains, of_routes): (Vec<_>, Vec<_>) = usable.partition(|(host, _)| listed(host));
        let pems = |found: Vec<(String, Pem)>| found.into_iter().map(|(_, pem)| pem).collect();
        (pems(of_domains), pems(of_routes))
    }

    fn own(&self) -> Result<Pem, TlsError> {
        let domain = &self.config.domain;
        let snapshot = self.registry.snapshot();
        let below = snapshot.subdomains.iter().map(|named| format!("{}.{domain}", named.1));
        let domains: Vec<String> = [domain.clone()].into_iter().chain(below).collect();
        let own = self_signed(&self.config.data_dir.join(TLS_DIR), &domains)?;
        if own.created {
            tracing::info!(path = %own.path.display(), "made a self-signed certificate: clients can be told to trust it");
        }
        read_pair(&own.path, &own.key_path)
    }

    /// What was uploaded, as far as it can be used: one that cannot must not keep the others away.
    fn uploaded(&self) -> Vec<Pem> {
        let unreadable = |error: &RegistryError| {
            tracing::error!(%error, "uploaded certificates cannot be read");
        };
        let stored = self.registry.certificates_to_serve().inspect_err(unreadable);
        let place = Path::new("an upload");
        let usable = |(chain, key): &Pem| match parse_pem(chain, key, place, place) {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(%error, "an uploaded certificate is left out");
                false
            }
        };
        stored.unwrap_or_default().into_iter().filter(usable).collect()
    }
}

impl Files {
    fn read(config: &NodeConfig) -> Result<Self, TlsError> {
        let tls = &config.tls;
        let pair = |pair: &crate::config::CertificateConfig| read_pair(&pair.cert, &pair.key);
        let certificates = tls.certificates.iter().map(pair).collect::<Result<_, _>>()?;
        let mut clients = Vec::new();
        for client in &tls.client {
            let what = "certificates of client authorities";
            let authorities = read(what, &client.ca)?;
            parse_certificates(&authorities, &client.ca)?;
            let hosts = client.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
            let required = client.auth == ClientAuth::Required;
            clients.push(ClientBytes { hosts, required, authorities });
        }
        let files = Self { certificates, clients };
        files.check()?;
        Ok(files)
    }

    /// Whether TLS can be served by them.
    fn check(&self) -> Result<(), TlsError> {
        let clients = self.clients.iter().map(ClientBytes::policy).collect::<Result<_, _>>()?;
        Tls::new(atoll_router::TlsMaterial { clients, ..Default::default() }).map(drop)
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::File {
        what,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Pem, TlsError> {
    let pem = (read("a certificate chain", certificate)?, read("a private key", key)?);
    parse_pem(&pem.0, &pem.1, certificate, key)?;
    Ok(pem)
}
