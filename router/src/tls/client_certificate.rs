//! What is known of a client by its certificate, under the names that `request.cf.tlsClientAuth` has.

use std::borrow::Cow;

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::{CertificateError, Error};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// Names of attributes in a distinguished name (RFC 4514, RFC 4519).
const ATTRIBUTES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Whether a certificate is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It is.
    Success,
    /// It is not, for this reason in OpenSSL's words.
    Failed(&'static str),
}

/// A client's certificate. Serialises to `request.cf.tlsClientAuth`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    cert_presented: Cow<'static, str>,
    cert_verified: String,
    cert_revoked: Cow<'static, str>,
    #[serde(rename = "certIssuerDN")]
    issuer: String,
    #[serde(rename = "certSubjectDN")]
    subject: String,
    #[serde(rename = "certIssuerDNRFC2253")]
    issuer_rfc2253: String,
    #[serde(rename = "certSubjectDNRFC2253")]
    subject_rfc2253: String,
    #[serde(rename = "certIssuerDNLegacy")]
    issuer_legacy: String,
    #[serde(rename = "certSubjectDNLegacy")]
    subject_legacy: String,
    cert_serial: String,
    cert_issuer_serial: String,
    #[serde(rename = "certSKI")]
    key_id: String,
    #[serde(rename = "certIssuerSKI")]
    issuer_key_id: String,
    #[serde(rename = "certFingerprintSHA1")]
    sha1: String,
    #[serde(rename = "certFingerprintSHA256")]
    sha256: String,
    cert_not_before: String,
    cert_not_after: String,
}

impl ClientCertificate {
    /// What is said of a client that showed none.
    pub fn none() -> Self {
        let empty = String::new;
        Self {
            cert_presented: "0".into(),
            cert_verified: "NONE".to_owned(),
            cert_revoked: "0".into(),
            issuer: empty(),
            subject: empty(),
            issuer_rfc2253: empty(),
            subject_rfc2253: empty(),
            issuer_legacy: empty(),
            subject_legacy: empty(),
            cert_serial: empty(),
            cert_issuer_serial: empty(),
            key_id: empty(),
            issuer_key_id: empty(),
            sha1: empty(),
            sha256: empty(),
            cert_not_before: empty(),
            cert_not_after: empty(),
        }
    }

    /// Reads a certificate. What cannot be read stays empty: whoever showed it need not be honest.
    pub(super) fn read(der: &[u8], verified: &Verified) -> Self {
        let cert_verified = match verified {
            Verified::Success => "SUCCESS".to_owned(),
            Verified::Failed("") => "FAILED".to_owned(),
            Verified::Failed(reason) => format!("FAILED:{reason}"),
        };
        let shown = Self {
            cert_presented: "1".into(),
            cert_verified,
            cert_revoked: if *verified == Verified::Failed(REVOKED) { "1" } else { "0" }.into(),
            sha1: fingerprint(&SHA1_FOR_LEGACY_USE_ONLY, der),
            sha256: fingerprint(&SHA256, der),
            ..Self::none()
        };
        match X509Certificate::from_der(der) {
            Ok((_, parsed)) => shown.with(&parsed),
            Err(_) => shown,
        }
    }

    fn with(self, parsed: &X509Certificate<'_>) -> Self {
        let (subject, issuer) = (attributes(parsed.subject()), attributes(parsed.issuer()));
        let mut ids = (String::new(), String::new(), String::new());
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => ids.0 = hex::encode(id.0),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    ids.1 =
                        id.key_identifier.as_ref().map(|id| hex::encode(id.0)).unwrap_or_default();
                    ids.2 = id.authority_cert_serial.map(hex::encode_upper).unwrap_or_default();
                }
                _ => {}
            }
        }
        Self {
            subject_rfc2253: backwards(&subject),
            issuer_rfc2253: backwards(&issuer),
            subject_legacy: slashed(&subject),
            issuer_legacy: slashed(&issuer),
            subject: backwards(&subject),
            issuer: backwards(&issuer),
            cert_serial: hex::encode_upper(parsed.raw_serial()),
            cert_issuer_serial: ids.2,
            key_id: ids.0,
            issuer_key_id: ids.1,
            cert_not_before: openssl_time(parsed.validity().not_before),
            cert_not_after: openssl_time(parsed.validity().not_after),
            ..self
        }
    }
}

/// The reason for a certificate that its authority has taken back.
const REVOKED: &str = "certificate revoked";

impl Verified {
    pub(super) fn of(result: &Result<(), Error>) -> Self {
        let Err(error) = result else { return Self::Success };
        use CertificateError as C;
        Self::Failed(match error {
            Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
                "certificate has expired"
            }
            Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
                "certificate is not yet valid"
            }
            Error::InvalidCertificate(C::UnknownIssuer) => "unable to verify the first certificate",
            Error::InvalidCertificate(C::Revoked) => REVOKED,
            _ => "",
        })
    }
}

fn fingerprint(algorithm: &'static Algorithm, der: &[u8]) -> String {
    hex::encode(digest(algorithm, der))
}

/// The attributes of a name in their order, with their values as text.
fn attributes(name: &X509Name<'_>) -> Vec<(String, String)> {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let oid = attribute.attr_type().to_id_string();
        let name = ATTRIBUTES.iter().find(|(known, _)| *known == oid);
        let name = name.map_or(oid.clone(), |(_, name)| (*name).to_owned());
        (name, attribute.as_str().unwrap_or_default().to_owned())
    };
    name.iter_attributes().map(text).collect()
}

/// A name in the form of RFC 2253.
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    backwards(&attributes(name))
}

/// The form of RFC 2253: the last attribute first, special characters escaped.
fn backwards(attributes: &[(String, String)]) -> String {
    let each = attributes.iter().rev();
    each.map(|(name, value)| format!("{name}={}", escaped(value))).collect::<Vec<_>>().join(",")
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        let edge = (letter == ' ' && (at == 0 || at == last)) || (letter == '#' && at == 0);
        if edge || matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

/// The form of OpenSSL's `X509_NAME_oneline`.
fn slashed(attributes: &[(String, String)]) -> String {
    attributes.iter().map(|(name, value)| format!("/{name}={value}")).collect()
}

/// `Dec 22 19:39:00 2018 GMT`
fn openssl_time(time: x509_parser::time::ASN1Time) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let at = time.to_datetime();
    let (hour, minute, second) = at.to_hms();
    let month = MONTHS[usize::from(u8::from(at.month())) - 1];
    format!("{month} {:>2} {hour:02}:{minute:02}:{second:02} {} GMT", at.day(), at.year())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params.distinguished_name.push(DnType::OrganizationName, "Ä, B");
        params.distinguished_name.push(DnType::CommonName, "the client");
        params.not_before = rcgen::date_time_ymd(2018, 12, 2);
        params.not_after = rcgen::date_time_ymd(2040, 1, 22);
        params.serial_number = Some(vec![0x0a, 0xbc].into());
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn fields_are_cloudflares() {
        let der = certificate();
        let json = serde_json::to_value(ClientCertificate::read(&der, &Verified::Success)).unwrap();
        let check = |field: &str, expected: &str| assert_eq!(json[field], expected, "{field}");
        check("certPresented", "1");
        check("certVerified", "SUCCESS");
        check("certRevoked", "0");
        check("certSubjectDN", "CN=the client,O=Ä\\, B,C=DE");
        check("certIssuerDNRFC2253", "CN=the client,O=Ä\\, B,C=DE");
        check("certSubjectDNLegacy", "/C=DE/O=Ä, B/CN=the client");
        check("certSerial", "0ABC");
        check("certNotBefore", "Dec  2 00:00:00 2018 GMT");
        check("certNotAfter", "Jan 22 00:00:00 2040 GMT");
        assert_eq!(json["certFingerprintSHA1"].as_str().unwrap().len(), 40);
        assert_eq!(json["certFingerprintSHA256"].as_str().unwrap().len(), 64);
        let none = serde_json::to_value(ClientCertificate::none()).unwrap();
        assert_eq!((&none["certPresented"], &none["certVerified"]), (&"0".into(), &"NONE".into()));
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&json), keys(&none));
    }

    #[test]
    fn any_bytes_can_be_shown() {
        let der = certificate();
        for cut in 0..der.len() {
            let read = ClientCertificate::read(&der[..cut], &Verified::Failed("why"));
            assert_eq!(read.cert_verified, "FAILED:why");
        }
    }
}
