//! The authority of one cluster. Every node makes the same one from the cluster's secret, and issues its own
//! certificate: there is nothing to hand round, and nothing to renew by hand.

use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::tls::{PeerCredentials, PeerTlsError, host_of, uri_of};

/// Bytes of the secret that an authority is made from.
pub const AUTHORITY_SEED_BYTES: usize = 32;

/// How long a node's certificate is good for.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// How far clocks of two nodes may differ.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(3_600);

/// How long the authority's own certificate is good for. Its key is what counts; nodes make it at each start.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3_650 * 24 * 3_600);

/// Issues certificates to nodes.
pub struct PeerAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

impl PeerAuthority {
    /// The authority that belongs to a secret. Two nodes with the same one trust each other.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn from_seed(seed: &[u8; AUTHORITY_SEED_BYTES]) -> Result<Self, PeerTlsError> {
        let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| PeerTlsError::Key)?;
        let pkcs8 = key.to_pkcs8().map_err(|_| PeerTlsError::Key)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_ref());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = called("Atoll cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let now = SystemTime::now();
        params.not_before = (now - CLOCKS_DIFFER_MAX).into();
        params.not_after = (now + AUTHORITY_LIFE).into();
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Issues a certificate to the node of this name, with a key of its own.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn issue(&self, name: &str) -> Result<PeerCredentials, PeerTlsError> {
        self.issue_at(name, SystemTime::now())
    }

    pub(super) fn issue_at(
        &self,
        name: &str,
        now: SystemTime,
    ) -> Result<PeerCredentials, PeerTlsError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::new(vec![host_of(name)])?;
        params.subject_alt_names.push(SanType::URI(uri_of(name).try_into()?));
        params.distinguished_name = called(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (now - CLOCKS_DIFFER_MAX).into();
        params.not_after = (now + CERTIFICATE_LIFE).into();
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(PeerCredentials {
            authority: self.certificate.clone(),
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        })
    }
}

fn called(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
