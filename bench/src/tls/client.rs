//! How clients secure their connections. All servers are met with the same version, key exchange and cipher, and
//! clients do as little as they can, so that the server's core sets the pace.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::plan::Plan;
use crate::load;

/// The one suite that QUIC's clients and servers all have.
const SUITE: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;

/// What a plan says of its clients, over TLS.
pub(super) struct Client {
    target: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Client {
    pub(super) fn new(plan: &Plan, resumption: Resumption) -> Result<Self, String> {
        Ok(Self {
            target: plan.target,
            name: ServerName::try_from(plan.host.clone()).map_err(text)?,
            connector: TlsConnector::from(Arc::new(config(plan, resumption)?)),
        })
    }

    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let stream = load::connect(self.target).await.map_err(text)?;
        self.connector.connect(self.name.clone(), stream).await.map_err(text)
    }
}

/// A client over QUIC, with a socket of its own.
pub(super) fn endpoint(plan: &Plan) -> Result<Endpoint, String> {
    let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).map_err(text)?;
    let tls = config(plan, Resumption::disabled())?;
    let tls = QuicClientConfig::try_from(tls).map_err(text)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    Ok(endpoint)
}

fn config(plan: &Plan, resumption: Resumption) -> Result<ClientConfig, String> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == SUITE);
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    config_by(provider, plan, resumption).map_err(text)
}

fn config_by(
    provider: CryptoProvider,
    plan: &Plan,
    resumption: Resumption,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Expected(plan.certificate.clone())))
        .with_no_client_auth();
    config.alpn_protocols = vec![plan.work.alpn().to_vec()];
    config.resumption = resumption;
    Ok(config)
}

/// Takes the run's own certificate and no other. Signatures are not looked at: that is the client's work, and it
/// would take longer than all of the server's.
#[derive(Debug)]
struct Expected(Vec<u8>);

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if **end_entity == *self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
