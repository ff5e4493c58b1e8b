//! Certificates by the names that they are valid for.

use std::collections::HashMap;
use std::sync::Arc;

use super::client_certificate::rfc2253;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

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
    /// first one added also answers clients that ask for an unknown name, or for none, until
    /// [`set_fallback`](Self::set_fallback).
    pub fn add(&mut self, certificate: Arc<CertifiedKey>) {
        for name in names(&certificate) {
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.insert(parent.into(), Arc::clone(&certificate)),
                None => self.exact.insert(name.into(), Arc::clone(&certificate)),
            };
        }
        self.fallback.get_or_insert(certificate);
    }

    /// Has a certificate answer clients that ask for an unknown name, or for none.
    pub fn set_fallback(&mut self, certificate: Arc<CertifiedKey>) {
        self.fallback = Some(certificate);
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

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.find(name.as_deref()).cloned()
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The DNS names in its subject alternative names, in lower case.
    pub names: Vec<String>,
    /// Who has issued it, in the form of RFC 2253.
    pub issuer: String,
    /// From when it is valid: seconds since the Unix epoch.
    pub not_before_s: i64,
    /// Until when.
    pub not_after_s: i64,
}

impl CertificateFacts {
    /// Reads a certificate; none when it cannot be read.
    pub fn of(certificate: &CertifiedKey) -> Option<Self> {
        let leaf = certificate.end_entity_cert().ok()?;
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        Some(Self {
            names: names(certificate),
            issuer: rfc2253(parsed.issuer()),
            not_before_s: parsed.validity().not_before.timestamp(),
            not_after_s: parsed.validity().not_after.timestamp(),
        })
    }
}

/// The DNS names in a certificate's subject alternative names, in lower case.
fn names(certificate: &CertifiedKey) -> Vec<String> {
    let parsed = certificate.end_entity_cert().ok();
    let parsed = parsed.and_then(|der| webpki::EndEntityCert::try_from(der).ok());
    parsed
        .map_or_else(Vec::new, |cert| cert.valid_dns_names().map(str::to_ascii_lowercase).collect())
}
