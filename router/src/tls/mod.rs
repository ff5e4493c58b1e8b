//! TLS for listeners: certificates by SNI, client certificates by host, and session tickets that all threads,
//! processes and nodes understand. Everything is swapped whole while connections go on.

mod certificates;
mod challenge;
mod client_certificate;
mod client_policy;
mod pem;
mod session;
mod tickets;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, StoresServerSessions};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use tokio::sync::watch;

pub use certificates::{CertificateFacts, Certificates};
pub(crate) use challenge::{ACME_ALPN, is_challenge_path};
pub use challenge::{Challenge, ChallengeKind};
pub use client_certificate::{ClientCertificate, Verified};
pub use client_policy::{ClientMode, ClientPolicy, PolicyId};
pub use pem::{load_pem, parse_certificates, parse_pem};
pub(crate) use session::{cipher_name, client_of, session};
pub use tickets::{TICKET_NAME_BYTES, TICKET_SECRET_BYTES, TicketKey};

use challenge::Challenges;
pub(crate) use client_policy::Asked;
use tickets::Ticketer;

/// The sessions of TLS 1.2 that are remembered for clients without tickets.
const SESSIONS_MAX: usize = 4096;

/// The sessions that are remembered for QUIC, where each may be taken up once, also with early data.
const QUIC_SESSIONS_MAX: usize = 16_384;

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file could not be read or holds something else.
    #[error("cannot read {what} from {}: {reason}", path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The private key is not the certificate's.
    #[error("the private key in {} does not fit the certificate in {}: {reason}", key.display(), certificate.display())]
    Mismatch {
        /// The file of the certificate chain.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A self-signed certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// A file could not be written.
    #[error("cannot write {}: {source}; make the directory writable for this user", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificates that clients' are checked against are of no use.
    #[error("the client CA of {hosts} cannot be used: {reason}")]
    ClientCa {
        /// Whose clients are asked.
        hosts: String,
        /// What is wrong.
        reason: String,
    },
    /// The TLS library refused the configuration.
    #[error("cannot set up tls: {0}")]
    Config(#[from] rustls::Error),
}

/// What TLS serves by.
#[derive(Clone, Debug, Default)]
pub struct TlsMaterial {
    /// Certificates by name.
    pub certificates: Certificates,
    /// Who is asked for a certificate.
    pub clients: Vec<ClientPolicy>,
    /// The keys of session tickets, in the order of their windows. Without any, sessions are resumed within
    /// this process alone.
    pub tickets: Vec<TicketKey>,
    /// What an ACME authority may ask now.
    pub challenges: Vec<Challenge>,
}

/// TLS of a process: what it serves by now, and the sessions that it remembers. All threads share one.
#[derive(Debug)]
pub struct Tls {
    setup: ArcSwap<Setup>,
    sessions: Arc<dyn StoresServerSessions>,
    quic_sessions: Arc<dyn StoresServerSessions>,
    changes: watch::Sender<u64>,
}

/// One configuration for each way in which clients are asked for certificates.
struct Setup {
    /// For hosts that no policy names.
    open: Arc<Asked>,
    /// The policies with hosts, and last the one for every host.
    asked: Vec<Arc<Asked>>,
    /// QUIC cannot choose by the host: what holds for hosts that no policy names.
    quic: Arc<ServerConfig>,
    challenges: Challenges,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("open", &self.open)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Serves by this.
    ///
    /// # Errors
    /// When the authorities of clients' certificates cannot be used.
    pub fn new(material: TlsMaterial) -> Result<Self, TlsError> {
        let sessions = ServerSessionMemoryCache::new(SESSIONS_MAX);
        let quic_sessions = ServerSessionMemoryCache::new(QUIC_SESSIONS_MAX);
        let setup = Setup::new(material, &(sessions.clone() as _), &(quic_sessions.clone() as _))?;
        let changes = watch::Sender::new(0);
        Ok(Self { setup: ArcSwap::from_pointee(setup), sessions, quic_sessions, changes })
    }

    /// Serves handshakes to come by this.
    ///
    /// # Errors
    /// When the authorities of clients' certificates cannot be used: then everything stays as it was.
    pub fn replace(&self, material: TlsMaterial) -> Result<(), TlsError> {
        let setup = Setup::new(material, &self.sessions, &self.quic_sessions)?;
        self.setup.store(Arc::new(setup));
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Follows that something was replaced.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How a client that asks for this host is served.
    pub(crate) fn for_host(&self, host: Option<&str>) -> Arc<Asked> {
        self.setup.load().for_host(host).clone()
    }

    /// How clients that come by QUIC are served.
    pub(crate) fn for_quic(&self) -> (Arc<ServerConfig>, Arc<Asked>) {
        let setup = self.setup.load();
        (setup.quic.clone(), setup.for_host(None).clone())
    }

    /// What a request for this host needs of its connection, as it stands now. `None` when any will do.
    pub(crate) fn policy_of(&self, host: &str) -> Option<(PolicyId, ClientMode)> {
        let setup = self.setup.load();
        if setup.asked.is_empty() {
            return None;
        }
        let asked = setup.for_host(Some(host));
        Some((asked.id, asked.mode?))
    }

    /// The answer to an ACME authority's request over plain HTTP, if it asks what is pending.
    pub(crate) fn challenge_answer(&self, host: &str, path: &str) -> Option<String> {
        self.setup.load().challenges.answer(host, path).map(str::to_owned)
    }

    /// How handshakes of an ACME authority are answered, while some are expected.
    pub(crate) fn for_challenge(&self) -> Option<Arc<ServerConfig>> {
        self.setup.load().challenges.handshake.clone()
    }

    /// Whether some hosts' clients are asked for certificates.
    pub(crate) fn has_policies(&self) -> bool {
        !self.setup.load().asked.is_empty()
    }
}

impl Setup {
    fn new(
        material: TlsMaterial,
        sessions: &Arc<dyn StoresServerSessions>,
        quic_sessions: &Arc<dyn StoresServerSessions>,
    ) -> Result<Self, TlsError> {
        let TlsMaterial { certificates, clients, tickets, challenges } = material;
        let challenges = Challenges::new(challenges)?;
        let certificates = Arc::new(certificates);
        let make = |policy: Option<&ClientPolicy>| {
            Asked::new(policy, |verifier, id| {
                let builder = builder(Arc::new(aws_lc_rs::default_provider()), VERSIONS)?;
                let mut config = builder
                    .with_client_cert_verifier(verifier)
                    .with_cert_resolver(certificates.clone());
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                if !tickets.is_empty() {
                    config.ticketer = Arc::new(Ticketer::new(&tickets, id));
                }
                config.session_storage = sessions.clone();
                Ok(config)
            })
        };
        let open = make(None)?;
        let mut asked =
            clients.iter().map(|client| make(Some(client))).collect::<Result<Vec<_>, _>>()?;
        asked.sort_by_key(|asked| asked.hosts.is_empty());
        let everyone = asked.iter().find(|asked| asked.hosts.is_empty()).unwrap_or(&open);
        let quic = quic_config(everyone, &certificates, quic_sessions)?;
        Ok(Self { open, asked, quic, challenges })
    }

    fn for_host(&self, host: Option<&str>) -> &Arc<Asked> {
        let fits = self.asked.iter().filter_map(|asked| Some((asked.fit(host)?, asked)));
        fits.max_by_key(|(fit, _)| *fit).map_or(&self.open, |(_, asked)| asked)
    }
}

/// Older versions are not spoken.
const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

fn builder(
    provider: Arc<CryptoProvider>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)
}

/// QUIC has TLS 1.3 alone, and here the one suite that every client must have, so that `cipher_name` needs
/// no word of the session. Sessions are remembered here and taken up once: no early data is taken twice.
fn quic_config(
    asked: &Asked,
    certificates: &Arc<Certificates>,
    sessions: &Arc<dyn StoresServerSessions>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == QUIC_SUITE);
    let mut config = builder(Arc::new(provider), &[&rustls::version::TLS13])?
        .with_client_cert_verifier(asked.verifier.clone())
        .with_cert_resolver(certificates.clone());
    config.alpn_protocols = vec![b"h3".to_vec()];
    match asked.mode {
        // Early requests would come before the certificate does.
        Some(_) => config.session_storage = Arc::new(NoServerSessionStorage {}),
        None => {
            config.session_storage = sessions.clone();
            config.max_early_data_size = u32::MAX;
        }
    }
    Ok(Arc::new(config))
}

/// The suite of all connections by QUIC.
pub(crate) const QUIC_SUITE: rustls::CipherSuite = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
