//! The self-signed certificate that a node makes on its first run, so that HTTPS answers before
//! anyone has brought a certificate.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::sign::CertifiedKey;

use crate::tls::{TlsError, load_pem};

/// The file of the certificate within its directory.
const CERTIFICATE_FILE: &str = "self-signed.crt.pem";
/// The file of the private key within its directory.
const KEY_FILE: &str = "self-signed.key.pem";

/// A self-signed certificate and where it lies.
#[derive(Clone, Debug)]
pub struct SelfSigned {
    /// The certificate, ready to serve.
    pub certificate: Arc<CertifiedKey>,
    /// The file that a client can be told to trust (`curl --cacert`).
    pub path: PathBuf,
    /// The file of the private key.
    pub key_path: PathBuf,
    /// Whether this call made it.
    pub created: bool,
}

/// Loads the self-signed certificate from a directory, or makes it there.
///
/// It is valid for `localhost`, the loopback addresses, and each domain with one wildcard level:
/// TLS knows no wildcard of two levels, so for workers at `name.subdomain.domain` the caller lists
/// `subdomain.domain` too. A certificate that lacks one of the domains is made anew. The key file
/// is readable by its owner alone.
pub fn self_signed(directory: &Path, domains: &[String]) -> Result<SelfSigned, TlsError> {
    let (path, key_path) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
    if path.exists() && key_path.exists() {
        let certificate = load_pem(&path, &key_path)?;
        if covers(&certificate, domains) {
            return Ok(SelfSigned { certificate, path, key_path, created: false });
        }
    }
    let (certificate_pem, key_pem) = generate(domains)?;
    let failed = |path: &Path, source| TlsError::Write { path: path.to_owned(), source };
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    replace(&key_path, &key_pem, 0o600).map_err(|error| failed(&key_path, error))?;
    replace(&path, &certificate_pem, 0o644).map_err(|error| failed(&path, error))?;
    let certificate = load_pem(&path, &key_path)?;
    Ok(SelfSigned { certificate, path, key_path, created: true })
}

fn covers(certificate: &CertifiedKey, domains: &[String]) -> bool {
    let parsed = certificate.end_entity_cert().ok();
    let Some(parsed) = parsed.and_then(|der| webpki::EndEntityCert::try_from(der).ok()) else {
        return false;
    };
    let names: Vec<&str> = parsed.valid_dns_names().collect();
    dns_names(domains).iter().all(|wanted| names.contains(&wanted.as_str()))
}

fn dns_names(domains: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    for domain in domains {
        let domain = domain.to_ascii_lowercase();
        // Clients take no wildcard directly below a top-level name.
        if domain.contains('.') {
            names.push(format!("*.{domain}"));
        }
        names.push(domain);
    }
    names.sort();
    names.dedup();
    names
}

fn generate(domains: &[String]) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(dns_names(domains))?;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Atoll self-signed");
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Writes a file beside and renames it, so that a crash leaves the old one or the new one.
fn replace(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(&draft)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}
