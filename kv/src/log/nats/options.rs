//! How a node reaches NATS and what it calls its things there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::ConnectOptions;

use super::connection::NatsError;

/// What the first line of a part of a credentials file says.
const USER_JWT: &str = "BEGIN NATS USER JWT";
/// What the seed of a user's nkey begins with.
const USER_SEED: &str = "SU";
/// What each certificate of a PEM file begins with.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// How often the client asks the server whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// The pause before a first new attempt to connect; it doubles with each attempt.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
/// The longest pause between attempts to connect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// Doublings after which the pause no longer grows.
const RECONNECT_DOUBLINGS_MAX: usize = 8;

/// How a node reaches its NATS servers.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// The servers, such as `nats://10.0.0.1:4222`; one is enough to find the others.
    pub urls: Vec<String>,
    /// What the names of all streams and subjects begin with: 1 to 32 letters, digits, `-`. Nodes
    /// of one prefix are one cluster.
    pub prefix: String,
    /// Copies of each stream: 1, 3 or 5. It applies when a stream is made.
    pub replicas: usize,
    /// Who the node is to the servers.
    pub auth: NatsAuth,
    /// How the connection is protected.
    pub tls: NatsTls,
    /// The JetStream domain, for servers that have one.
    pub domain: Option<String>,
    /// What the servers call this connection in their own reports.
    pub name: String,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Messages of one subscription that wait to be taken, at most; further ones are dropped and
    /// counted. A log's subscription never lets so many come.
    pub subscription_capacity: usize,
    /// Messages that wait to be sent, at most; whoever sends waits then.
    pub send_capacity: usize,
}

/// Who a node is to its NATS servers.
#[derive(Debug, Clone, Default)]
pub enum NatsAuth {
    /// Nobody in particular.
    #[default]
    None,
    /// A credentials file of the `nsc` tool, or a file with the seed of a user's nkey.
    CredentialsFile(PathBuf),
    /// The seed of a user's nkey.
    Nkey(String),
    /// A token.
    Token(String),
    /// A user and a password.
    UserPassword(String, String),
}

/// How a connection is protected.
#[derive(Debug, Clone, Default)]
pub struct NatsTls {
    /// Refuse servers that do not speak TLS. Without it TLS is used where the server asks for it.
    pub required: bool,
    /// Begin with TLS instead of the server's greeting.
    pub first: bool,
    /// A file of certificates to trust instead of the system's.
    pub roots: Option<PathBuf>,
    /// Files of a certificate and its key, by which the node shows who it is.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".into()],
            prefix: "atoll".into(),
            replicas: 1,
            auth: NatsAuth::None,
            tls: NatsTls::default(),
            domain: None,
            name: "atoll".into(),
            connect_timeout: Duration::from_secs(3),
            subscription_capacity: 8192,
            send_capacity: 4096,
        }
    }
}

impl NatsOptions {
    /// Refuses a prefix that is no part of a stream's name and a subject's token alike, and certificates that
    /// are none: the client would look for them at every attempt, and say little.
    pub(super) fn check(&self) -> Result<(), NatsError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if self.prefix.is_empty() || self.prefix.len() > 32 || !self.prefix.bytes().all(good) {
            return Err(NatsError::Prefix(self.prefix.clone()));
        }
        if let Some(roots) = &self.tls.roots {
            certificates(roots)?;
        }
        if let Some((certificate, key)) = &self.tls.client {
            certificates(certificate)?;
            read(key)?;
        }
        Ok(())
    }

    /// The client's own options.
    pub(super) fn client(&self) -> Result<ConnectOptions, NatsError> {
        let mut options = ConnectOptions::new()
            .name(&self.name)
            .connection_timeout(self.connect_timeout)
            .ping_interval(PING_INTERVAL)
            .subscription_capacity(self.subscription_capacity)
            .client_capacity(self.send_capacity)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_delay)
            .require_tls(self.tls.required);
        if self.tls.first {
            options = options.tls_first();
        }
        if let Some(roots) = &self.tls.roots {
            options = options.add_root_certificates(roots.clone());
        }
        if let Some((certificate, key)) = &self.tls.client {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(match &self.auth {
            NatsAuth::None => options,
            NatsAuth::CredentialsFile(path) => with_credentials(options, path)?,
            NatsAuth::Nkey(seed) => options.nkey(seed.clone()),
            NatsAuth::Token(token) => options.token(token.clone()),
            NatsAuth::UserPassword(user, password) => {
                options.user_and_password(user.clone(), password.clone())
            }
        })
    }
}

fn with_credentials(options: ConnectOptions, path: &Path) -> Result<ConnectOptions, NatsError> {
    let text = read(path)?;
    if text.contains(USER_JWT) {
        let read = options.credentials(&text);
        return read.map_err(|cause| NatsError::File { path: path.to_owned(), cause });
    }
    match text.lines().map(str::trim).find(|line| line.starts_with(USER_SEED)) {
        Some(seed) => Ok(options.nkey(seed.to_owned())),
        None => {
            Err(unfit(path, "it holds neither nsc's credentials nor the seed of a user's nkey"))
        }
    }
}

fn certificates(path: &Path) -> Result<(), NatsError> {
    match read(path)?.contains(CERTIFICATE) {
        true => Ok(()),
        false => Err(unfit(path, "it holds no certificate in PEM")),
    }
}

fn read(path: &Path) -> Result<String, NatsError> {
    let failed = |cause| NatsError::File { path: path.to_owned(), cause };
    std::fs::read_to_string(path).map_err(failed)
}

fn unfit(path: &Path, why: &str) -> NatsError {
    let cause = std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned());
    NatsError::File { path: path.to_owned(), cause }
}

/// Nodes that lost a server together do not come back together: each pause is drawn between half
/// and all of its length.
fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = attempts.saturating_sub(1).min(RECONNECT_DOUBLINGS_MAX);
    let delay = (RECONNECT_DELAY_MIN * (1 << doublings)).min(RECONNECT_DELAY_MAX);
    delay.mul_f64(rand::random_range(0.5..1.0))
}
