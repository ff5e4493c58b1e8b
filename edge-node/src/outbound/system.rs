//! What the system's files say about the network, read once: a process that serves has no files to read.

use std::sync::Arc;

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::{Hosts, TokioResolver};
use rustls::RootCertStore;

/// The system's name servers, hosts file and certificate authorities.
pub struct SystemNetwork {
    roots: Arc<RootCertStore>,
    /// None when the configuration cannot be read.
    resolver: Option<(ResolverConfig, ResolverOpts)>,
    hosts: Arc<Hosts>,
}

impl SystemNetwork {
    /// Reads the files, which takes milliseconds.
    pub fn read() -> Self {
        let roots = system_roots();
        let resolver = hickory_resolver::system_conf::read_system_conf()
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot read the system's resolver configuration");
            })
            .ok();
        let hosts = Arc::new(Hosts::from_system().unwrap_or_default());
        Self { roots: Arc::new(roots), resolver, hosts }
    }

    /// The authorities to trust: the system's, or Mozilla's where the system has none.
    pub(super) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// A resolver for one thread; none when the system has no configuration to resolve by.
    pub(super) fn resolver(&self) -> Option<TokioResolver> {
        let (config, options) = self.resolver.clone()?;
        let provider = TokioConnectionProvider::default();
        let mut builder =
            TokioResolver::builder_with_config(config, provider).with_options(options);
        // Building would read the hosts file again.
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        let mut resolver = builder.build();
        resolver.set_hosts(self.hosts.clone());
        Some(resolver)
    }
}

/// The authorities that the system trusts, or Mozilla's where it has none. Reads files.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read a part of the system's certificates");
    }
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
