//! TLS of a node as its clients see it: one connection at a time, with what was agreed on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;
use crate::client::trusting_config;

/// How long a connection and its answer may take.
const EXCHANGE_MAX: Duration = Duration::from_secs(20);

/// What one connection agreed on, and the answer to the request on it.
#[derive(Debug)]
pub struct Session {
    /// Full, or resumed.
    pub kind: Option<HandshakeKind>,
    /// The version.
    pub version: Option<ProtocolVersion>,
    /// The server's certificate.
    pub certificate: CertificateDer<'static>,
    /// The answer's bytes, head and body.
    pub answer: String,
}

/// A client that remembers sessions and takes any certificate.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// A client without a certificate of its own.
    ///
    /// # Panics
    /// Panics when the TLS library has no protocol.
    pub fn new() -> Self {
        Self(Arc::new(trusting_config().expect("TLS is there").with_no_client_auth()))
    }

    /// A client with a certificate.
    ///
    /// # Panics
    /// Panics when the certificate cannot be used.
    pub fn with_certificate(certificate: &Issued) -> Self {
        let key = PrivateKeyDer::try_from(certificate.key.serialize_der());
        let chain = vec![certificate.der.clone()];
        let config = trusting_config().expect("TLS is there");
        let config = config.with_client_auth_cert(chain, key.expect("the key is one"));
        Self(Arc::new(config.expect("the certificate can be used")))
    }

    /// Opens a connection for a host and sends a GET on it.
    ///
    /// # Errors
    /// Fails when the connection does, or no answer comes.
    pub async fn get(
        &self,
        address: SocketAddr,
        host: &str,
        path: &str,
    ) -> Result<Session, Failure> {
        self.get_as(address, host, host, path).await
    }

    /// The same, with one host in the handshake and another in the request.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub async fn get_as(
        &self,
        address: SocketAddr,
        sni: &str,
        host: &str,
        path: &str,
    ) -> Result<Session, Failure> {
        tokio::time::timeout(EXCHANGE_MAX, async {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from(sni.to_owned())?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.0));
            let mut stream = connector.connect(name, tcp).await?;
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            let agreed = stream.get_ref().1;
            let chain = agreed.peer_certificates().ok_or("the server has no certificate")?;
            Ok(Session {
                kind: agreed.handshake_kind(),
                version: agreed.protocol_version(),
                certificate: chain[0].clone().into_owned(),
                answer: String::from_utf8_lossy(&answer).into_owned(),
            })
        })
        .await?
    }
}

impl Default for TlsClient {
    fn default() -> Self {
        Self::new()
    }
}

/// An authority that issues certificates into a directory of its own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate and its key.
pub struct Issued {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its key.
    pub key: KeyPair,
    /// The certificate as a PEM file.
    pub cert_path: PathBuf,
    /// The key as a PEM file.
    pub key_path: PathBuf,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Panics
    /// Panics when nothing can be written.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no name is wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate can be made");
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("it is writable");
        Self { issuer, dir }
    }

    /// The authority's own certificate, a PEM file.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The directory of its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Issues a certificate for host names, into files called by the first.
    ///
    /// # Panics
    /// Panics when it cannot be made.
    pub fn issue(&self, hosts: &[&str]) -> Issued {
        let names = hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("the names are host names");
        params.distinguished_name.push(DnType::CommonName, hosts[0]);
        let key = KeyPair::generate().expect("a key can be made");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        let path =
            |kind: &str| self.dir.path().join(format!("{}.{kind}", hosts[0].replace('*', "_")));
        let (cert_path, key_path) = (path("pem"), path("key"));
        std::fs::write(&cert_path, made.pem()).expect("it is writable");
        std::fs::write(&key_path, key.serialize_pem()).expect("it is writable");
        Issued { der: made.der().clone(), key, cert_path, key_path }
    }
}
