//! Answers to an ACME authority that asks whether a name leads here: http-01 (RFC 8555, section 8.3) and tls-alpn-01
//! (RFC 8737). What is pending is told from outside; nothing else is answered.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs as provider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};

use super::{TlsError, VERSIONS, builder};

/// The protocol that an authority asks for in a handshake of tls-alpn-01.
pub(crate) const ACME_ALPN: &[u8] = b"acme-tls/1";

/// Where an authority looks for the answer of http-01; the token follows.
const HTTP_PATH: &str = "/.well-known/acme-challenge/";

/// How an authority asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChallengeKind {
    /// By a request over plain HTTP.
    #[serde(rename = "http-01")]
    Http01,
    /// By a TLS handshake.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// A question that an authority may ask now, and the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// How it asks.
    pub kind: ChallengeKind,
    /// The name in question, in lower case.
    pub host: String,
    /// What the authority calls the question.
    pub token: String,
    /// The answer: the key authorization.
    pub answer: String,
}

/// Everything that may be asked now.
#[derive(Default)]
pub(super) struct Challenges {
    /// Answers of http-01 by host and token.
    http: HashMap<(String, String), String>,
    /// For handshakes of tls-alpn-01; none while no such question is pending.
    pub(super) handshake: Option<Arc<ServerConfig>>,
}

impl Challenges {
    /// Gets ready for these questions.
    ///
    /// # Errors
    /// When a certificate that answers cannot be made.
    pub(super) fn new(pending: Vec<Challenge>) -> Result<Self, TlsError> {
        let (mut http, mut certificates) = (HashMap::new(), HashMap::new());
        for Challenge { kind, host, token, answer } in pending {
            match kind {
                ChallengeKind::Http01 => {
                    http.insert((host, token), answer);
                }
                ChallengeKind::TlsAlpn01 => {
                    let certificate = certificate(&host, &answer)?;
                    certificates.insert(host, Arc::new(certificate));
                }
            }
        }
        let handshake = match certificates.is_empty() {
            true => None,
            false => Some(handshake(Answering(certificates))?),
        };
        Ok(Self { http, handshake })
    }

    /// The answer to a request, if it asks what is pending.
    pub(super) fn answer(&self, host: &str, path: &str) -> Option<&str> {
        let token = path.strip_prefix(HTTP_PATH)?;
        let asked = (host.to_ascii_lowercase(), token.to_owned());
        self.http.get(&asked).map(String::as_str)
    }
}

/// Whether a path may lead to an answer.
pub(crate) fn is_challenge_path(path: &str) -> bool {
    path.starts_with(HTTP_PATH)
}

/// The certificate that holds the answer: no client would take it for a real one.
fn certificate(host: &str, answer: &str) -> Result<CertifiedKey, TlsError> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let digest = digest(&SHA256, answer.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let key = KeyPair::generate()?;
    let chain = vec![params.self_signed(&key)?.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|reason| rustls::Error::General(reason.to_owned()))?;
    // Its critical extension is unknown to whoever would check that the key fits.
    Ok(CertifiedKey::new(chain, provider::sign::any_supported_type(&key)?))
}

/// Handshakes that end with themselves: no session is taken up or remembered.
fn handshake(answering: Answering) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = builder(Arc::new(provider::default_provider()), VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(answering));
    config.alpn_protocols = vec![ACME_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Certificates by the name in question.
#[derive(Debug)]
struct Answering(HashMap<String, Arc<CertifiedKey>>);

impl ResolvesServerCert for Answering {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(kind: ChallengeKind, host: &str) -> Challenge {
        Challenge { kind, host: host.into(), token: "token".into(), answer: "token.key".into() }
    }

    #[test]
    fn only_what_is_pending_is_answered() {
        let pending = vec![
            challenge(ChallengeKind::Http01, "a.test"),
            challenge(ChallengeKind::TlsAlpn01, "b.test"),
        ];
        let challenges = Challenges::new(pending).unwrap();
        for (host, path, answer) in [
            ("A.test", "/.well-known/acme-challenge/token", Some("token.key")),
            ("a.test", "/.well-known/acme-challenge/other", None),
            ("b.test", "/.well-known/acme-challenge/token", None),
            ("a.test", "/.well-known/acme-challenge/", None),
            ("a.test", "/token", None),
        ] {
            assert_eq!(challenges.answer(host, path), answer, "{host}{path}");
        }
        assert!(challenges.handshake.is_some());
        assert!(Challenges::new(Vec::new()).unwrap().handshake.is_none());
    }

    #[test]
    fn the_certificate_has_the_name_and_the_answers_digest() {
        let certified = certificate("b.test", "token.key").unwrap();
        let leaf = certified.end_entity_cert().unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).unwrap();
        let acme = parsed.extensions().iter().find(|e| e.oid.to_string() == "1.3.6.1.5.5.7.1.31");
        let acme = acme.unwrap();
        assert!(acme.critical);
        assert_eq!(acme.value[..2], [4, 32], "an octet string of 32 bytes");
        assert_eq!(&acme.value[2..], digest(&SHA256, b"token.key").as_ref());
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        let expected = [x509_parser::extensions::GeneralName::DNSName("b.test")];
        assert_eq!(names.value.general_names, expected);
    }
}
