//! What a node shows to other nodes, and how it looks at what they show.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde::{Deserialize, Serialize};

use super::Carries;

/// What the URI of a node's certificate begins with. The node's name follows.
const URI_PREFIX: &str = "atoll:node:";

/// Nodes' certificates cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerTlsError {
    /// The authority's key cannot be made.
    #[error("the cluster's secret gives no key")]
    Key,
    /// A certificate cannot be made.
    #[error("cannot make a certificate for other nodes: {0}")]
    Generate(#[from] rcgen::Error),
    /// The TLS library refused what it was given.
    #[error("cannot set up tls between nodes: {0}")]
    Config(#[from] rustls::Error),
    /// The verifier of certificates refused the authority's.
    #[error("cannot look at certificates of other nodes: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A node's certificate with its key, and the authority's certificate, all in DER. It holds for a day.
#[derive(Clone, Serialize, Deserialize)]
pub struct PeerCredentials {
    pub(super) authority: Vec<u8>,
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// Both directions of TLS between nodes: 1.3 alone, both ends with certificates, without resumption.
pub struct PeerTls {
    pub(super) server: Arc<ServerConfig>,
    requests: Arc<ClientConfig>,
    sockets: Arc<ClientConfig>,
}

impl PeerTls {
    /// Uses a node's credentials.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn new(credentials: &PeerCredentials) -> Result<Self, PeerTlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(credentials.authority.clone()))?;
        let roots = Arc::new(roots);
        let chain = || vec![CertificateDer::from(credentials.certificate.clone())];
        let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(credentials.key.clone()));
        let versions = &[&rustls::version::TLS13];
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(), key())?;
        let protocol = |carries: Carries| carries.protocol().to_vec();
        server.alpn_protocols = vec![protocol(Carries::Requests), protocol(Carries::Sockets)];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain(), key())?;
        client.resumption = rustls::client::Resumption::disabled();
        let client = |carries| {
            let mut client = client.clone();
            client.alpn_protocols = vec![protocol(carries)];
            Arc::new(client)
        };
        let (requests, sockets) = (client(Carries::Requests), client(Carries::Sockets));
        Ok(Self { server: Arc::new(server), requests, sockets })
    }

    /// For connections to other nodes.
    pub(super) fn client(&self, carries: Carries) -> &Arc<ClientConfig> {
        match carries {
            Carries::Requests => &self.requests,
            Carries::Sockets => &self.sockets,
        }
    }
}

/// The host name in a node's certificate, by which TLS checks that it is this node's. A node's name may be no
/// host name, so its hash stands for it.
pub(super) fn host_of(name: &str) -> String {
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, name.as_bytes());
    let mut host = String::with_capacity(48);
    for byte in &digest.as_ref()[..16] {
        host.push_str(&format!("{byte:02x}"));
    }
    host + ".node.atoll"
}

/// The same as TLS has it.
pub(super) fn server_name(name: &str) -> ServerName<'static> {
    ServerName::try_from(host_of(name)).expect("a hash in front of a domain is a host name")
}

/// The URI in a node's certificate.
pub(super) fn uri_of(name: &str) -> String {
    format!("{URI_PREFIX}{name}")
}

/// The name of the node at the other end of a connection whose handshake is over, and what it wants to send.
pub(super) fn node_of(connection: &ServerConnection) -> Option<(Box<str>, Carries)> {
    // Whoever named no protocol is no node, whatever it showed.
    let carries = Carries::by_protocol(connection.alpn_protocol())?;
    let certificate = connection.peer_certificates()?.first()?;
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let name = certificate.valid_uri_names().find_map(|uri| uri.strip_prefix(URI_PREFIX))?;
    Some((name.into(), carries))
}
