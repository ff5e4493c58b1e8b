//! Which clients are asked for a certificate, by the host that they ask for, and what is made of what they show.

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::TlsError;

/// Whether a connection may be made without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientMode {
    /// It may, and with one that is not valid too: the worker is told.
    Optional,
    /// It may not: the handshake fails.
    Required,
}

/// Who is asked for a certificate, and whose are valid.
#[derive(Clone, Debug)]
pub struct ClientPolicy {
    /// Host names in lower case, `*.example.com` for every name below; empty for every host.
    pub hosts: Vec<String>,
    /// Whether it may be missing.
    pub mode: ClientMode,
    /// The authorities that issue valid ones.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// Tells a policy from others by what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PolicyId(pub(crate) u64);

impl PolicyId {
    /// Of hosts where nobody is asked.
    pub(crate) const OPEN: Self = Self(0);
}

/// A policy, ready for handshakes; also that of hosts where nobody is asked.
pub(crate) struct Asked {
    pub(crate) id: PolicyId,
    /// None where nobody is asked.
    pub(crate) mode: Option<ClientMode>,
    pub(super) hosts: Vec<String>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Decides whether a certificate is valid, when the handshake may not.
    strict: Option<Arc<dyn ClientCertVerifier>>,
    pub(crate) config: Arc<ServerConfig>,
}

impl Asked {
    /// Makes the TLS configuration of a policy by `config`.
    pub(super) fn new(
        policy: Option<&ClientPolicy>,
        config: impl FnOnce(Arc<dyn ClientCertVerifier>, PolicyId) -> Result<ServerConfig, Error>,
    ) -> Result<Arc<Self>, TlsError> {
        let Some(policy) = policy else {
            let verifier = WebPkiClientVerifier::no_client_auth();
            let (id, hosts) = (PolicyId::OPEN, Vec::new());
            let config = Arc::new(config(verifier.clone(), id)?);
            return Ok(Arc::new(Self { id, mode: None, hosts, verifier, strict: None, config }));
        };
        let strict = strict_verifier(policy)?;
        let verifier = match policy.mode {
            ClientMode::Required => strict.clone(),
            ClientMode::Optional => Arc::new(Lenient(strict.clone())),
        };
        let id = policy.id();
        Ok(Arc::new(Self {
            id,
            mode: Some(policy.mode),
            hosts: policy.hosts.clone(),
            config: Arc::new(config(verifier.clone(), id)?),
            verifier,
            strict: Some(strict),
        }))
    }

    /// How closely the policy names a host; none when it does not.
    pub(super) fn fit(&self, host: Option<&str>) -> Option<usize> {
        if self.hosts.is_empty() {
            return Some(0);
        }
        let host = host?;
        let fit = |pattern: &String| match pattern.strip_prefix('*') {
            Some(parent) => {
                let (before, end) = host.split_at_checked(host.len().checked_sub(parent.len())?)?;
                (!before.is_empty() && end.eq_ignore_ascii_case(parent)).then_some(parent.len())
            }
            None => pattern.eq_ignore_ascii_case(host).then_some(usize::MAX),
        };
        self.hosts.iter().filter_map(fit).max()
    }

    /// Whether a certificate that a client has shown, leaf first, is valid now.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let (leaf, others) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        match &self.strict {
            Some(strict) => strict.verify_client_cert(leaf, others, UnixTime::now()).map(drop),
            None => Err(Error::General("nobody is asked for a certificate".to_owned())),
        }
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("id", &self.id).field("mode", &self.mode).finish()
    }
}

impl ClientPolicy {
    /// FNV-1a over all that it says: the same in every process, so that tickets are read there too.
    fn id(&self) -> PolicyId {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        hash.write(&[u8::from(self.mode == ClientMode::Required)]);
        let names = self.hosts.iter().map(String::as_bytes);
        for bytes in names.chain(self.authorities.iter().map(AsRef::as_ref)) {
            hash.write(&(bytes.len() as u64).to_be_bytes());
            hash.write(bytes);
        }
        PolicyId(hash.finish().max(1))
    }
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn strict_verifier(policy: &ClientPolicy) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let failed = |reason: String| TlsError::ClientCa {
        hosts: match policy.hosts.is_empty() {
            true => "all hosts".to_owned(),
            false => policy.hosts.join(", "),
        },
        reason,
    };
    let mut roots = RootCertStore::empty();
    for authority in &policy.authorities {
        roots.add(authority.clone()).map_err(|error| failed(error.to_string()))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder.build().map_err(|error| failed(error.to_string()))
}

/// Takes any certificate whose key the client has, and none. Whether it is valid is asked afterwards.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
