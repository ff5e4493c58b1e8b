//! Certificates that the node gets from an ACME authority.

use std::path::PathBuf;

use atoll_router::ChallengeKind;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// Where Let's Encrypt is found.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Names that the configuration may list.
const DOMAINS_MAX: usize = 1_000;

/// Which names get certificates from an authority, and from which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// Where the authority's directory is.
    #[serde(default = "lets_encrypt")]
    pub directory: String,
    /// Whom the authority may write to, `mailto:` addresses.
    #[serde(default)]
    pub contact: Vec<String>,
    /// Whether the authority's terms of service are agreed to: nothing is asked for without.
    #[serde(default)]
    pub terms_accepted: bool,
    /// Host names that get a certificate each.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Whether hosts of deployed routes do, too.
    #[serde(default)]
    pub routes: bool,
    /// How many of those at most.
    #[serde(default = "route_domains_max")]
    pub route_domains_max: usize,
    /// How the authority is answered.
    #[serde(default = "challenge")]
    pub challenge: ChallengeKind,
    /// Who vouches for the authority's own address, a PEM file; the system's roots when absent.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The key id of an account that was made outside of ACME, for authorities that want one.
    #[serde(default)]
    pub eab_key_id: Option<String>,
    /// Its key, in base64url.
    #[serde(default)]
    pub eab_hmac_key: Option<String>,
}

fn lets_encrypt() -> String {
    LETS_ENCRYPT.to_owned()
}

fn route_domains_max() -> usize {
    100
}

fn challenge() -> ChallengeKind {
    ChallengeKind::Http01
}

impl AcmeConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.terms_accepted {
            return Err(format!(
                "tls.acme.terms_accepted: must be true: read the terms of service of {} and agree to them",
                self.directory
            ));
        }
        if !self.directory.starts_with("https://") {
            return Err(format!("tls.acme.directory: {:?} is no https address", self.directory));
        }
        if self.domains.is_empty() && !self.routes {
            return Err(
                "tls.acme: names nothing to get a certificate for: set domains, or routes = true"
                    .to_owned(),
            );
        }
        if self.domains.len() > DOMAINS_MAX {
            return Err(format!("tls.acme.domains: at most {DOMAINS_MAX} names are kept up"));
        }
        if let Some(contact) = self.contact.iter().find(|contact| !contact.starts_with("mailto:")) {
            return Err(format!("tls.acme.contact: write mailto:{contact}"));
        }
        self.domains.iter().try_for_each(|domain| check_domain(domain))?;
        match (&self.eab_key_id, &self.eab_hmac_key) {
            (Some(_), Some(_)) => self.external_key().map(drop),
            (None, None) => Ok(()),
            _ => Err("tls.acme: eab_key_id and eab_hmac_key belong together".to_owned()),
        }
    }

    /// The id and the bytes of the key of an account that was made outside of ACME.
    ///
    /// # Errors
    /// When the key is no base64url.
    pub(crate) fn external_key(&self) -> Result<Option<(String, Vec<u8>)>, String> {
        let (Some(id), Some(key)) = (&self.eab_key_id, &self.eab_hmac_key) else { return Ok(None) };
        let decoded = URL_SAFE_NO_PAD.decode(key).or_else(|_| URL_SAFE.decode(key));
        let bytes = decoded.map_err(|_| "tls.acme.eab_hmac_key: is no base64url".to_owned())?;
        Ok(Some((id.clone(), bytes)))
    }
}

/// Whether a public authority may have a certificate for it.
pub(crate) fn is_certifiable(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let last_is_name = host.rsplit('.').next().is_some_and(|last| last.parse::<u64>().is_err());
    host.len() <= 253 && host.contains('.') && host.split('.').all(label) && last_is_name
}

fn check_domain(domain: &str) -> Result<(), String> {
    if domain.starts_with("*.") {
        return Err(format!(
            "tls.acme.domains: {domain:?}: wildcards need dns-01, which is not spoken: list the names, or bring a \
             certificate"
        ));
    }
    match is_certifiable(domain) {
        true => Ok(()),
        false => Err(format!(
            "tls.acme.domains: {domain:?} is no host name: write it in lower case, as www.example.com"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str) -> Result<(), String> {
        let config: AcmeConfig = toml::from_str(toml).map_err(|error| error.to_string())?;
        config.check()
    }

    #[test]
    fn mistakes_are_named() {
        let fine = "terms_accepted = true\ndomains = ['www.example.com']\n";
        assert_eq!(check(fine), Ok(()));
        assert_eq!(check(&format!("{fine}challenge = 'tls-alpn-01'")), Ok(()));
        assert_eq!(check("terms_accepted = true\nroutes = true"), Ok(()));
        for (toml, part) in [
            ("domains = ['www.example.com']", "terms_accepted: must be true"),
            ("terms_accepted = true", "names nothing"),
            ("terms_accepted = true\ndomains = ['*.example.com']", "wildcards need dns-01"),
            ("terms_accepted = true\ndomains = ['Example.com']", "no host name"),
            ("terms_accepted = true\ndomains = ['localhost']", "no host name"),
            ("terms_accepted = true\ndomains = ['127.0.0.1']", "no host name"),
            (&format!("{fine}contact = ['me@example.com']"), "write mailto:me@example.com"),
            (&format!("{fine}directory = 'http://ca.test/'"), "no https address"),
            (&format!("{fine}eab_key_id = 'x'"), "belong together"),
            (&format!("{fine}eab_key_id = 'x'\neab_hmac_key = '?'"), "no base64url"),
            (&format!("{fine}challenge = 'dns-01'"), "http-01"),
        ] {
            let error = check(toml).unwrap_err();
            assert!(error.contains(part), "{toml}: {error}");
        }
    }
}
