//! The part of the configuration that makes a node one of many.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use atoll_kv::log::{NatsAuth, NatsOptions, NatsTls};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::Url;

/// Letters of a node's or a region's name.
const NAME_BYTES_MAX: usize = 64;

/// The least that `absence_s_max` can be: logs are asked every few seconds whether everything is here, and
/// may be without a leader for some seconds more.
const ABSENCE_S_MIN: u64 = 30;

/// Logs are asked whether everything is here every five seconds, and may take some to answer.
const STALE_MS_MIN: u64 = 10_000;

/// How a node belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// NATS servers, such as `nats://10.0.0.1:4222`; one is enough to find the others. A user and a password may
    /// stand before the host, the same in all of them.
    pub nats: Vec<String>,
    /// What the node is called: unlike every other node of the cluster.
    pub name: String,
    /// Where the node says it is.
    pub region: String,
    /// What the names of streams and subjects begin with: nodes of one prefix are one cluster.
    pub prefix: String,
    /// NATS servers that keep each record: 1, 3 or 5. It applies when streams are made.
    pub replicas: usize,
    /// Streams that KV keys are spread over: the same on all nodes, for ever.
    pub shards: u16,
    /// A credentials file of NATS's `nsc`, or a file with the seed of a user's nkey.
    pub credentials: Option<PathBuf>,
    /// The key of the cluster's secrets, the same on all nodes; `node.key` in the data directory when absent.
    pub key_file: Option<PathBuf>,
    /// The node is not ready while what it has may be older than this, in milliseconds; 0 for any age.
    pub stale_ms_max: u64,
    /// How long a node may be away and still catch up from where it was, in seconds: deleted KV keys are
    /// remembered that long. The same on all nodes, and longer than a new node takes to copy everything.
    pub absence_s_max: u64,
    /// Where other nodes and people reach the node's workers, as shown by `atoll nodes`.
    pub advertise_http: Option<String>,
    /// Where other nodes and people reach the node's API, as shown by `atoll nodes`.
    pub advertise_admin: Option<String>,
    /// Where other nodes send requests; none are sent to this node when absent.
    pub peer: Option<SocketAddr>,
    /// Where they reach that, as `HOST:PORT`; `peer` itself when absent.
    pub advertise_peer: Option<String>,
    /// Whether every client may ask, by the header `atoll-explain: 1`, which node served its request.
    pub explain: bool,
    /// How the connection to NATS is protected.
    pub tls: ClusterTlsConfig,
}

/// How the connection to NATS is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterTlsConfig {
    /// Refuse servers that do not speak TLS.
    pub required: bool,
    /// Begin with TLS instead of the server's greeting.
    pub first: bool,
    /// Certificates to trust instead of the system's, as a PEM file.
    pub ca: Option<PathBuf>,
    /// The node's own certificate, as a PEM file.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            nats: Vec::new(),
            name: String::new(),
            region: "default".to_owned(),
            prefix: "atoll".to_owned(),
            replicas: 1,
            shards: 16,
            credentials: None,
            key_file: None,
            stale_ms_max: 60_000,
            absence_s_max: 7 * 86_400,
            advertise_http: None,
            advertise_admin: None,
            peer: None,
            advertise_peer: None,
            explain: false,
            tls: ClusterTlsConfig::default(),
        }
    }
}

impl ClusterConfig {
    /// What is wrong with it, with the key first.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.nats.is_empty() {
            return Err("cluster.nats: name one NATS server at least (--nats)".to_owned());
        }
        for (key, flag, name) in
            [("name", "--name", &self.name), ("region", "--region", &self.region)]
        {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
                return Err(format!(
                    "cluster.{key}: {name:?} is not 1 to {NAME_BYTES_MAX} letters, digits, -, _ or . ({flag})"
                ));
            }
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return Err("cluster.replicas: must be 1, 3 or 5".to_owned());
        }
        if !(1..=256).contains(&self.shards) {
            return Err("cluster.shards: must be 1 to 256".to_owned());
        }
        if (1..STALE_MS_MIN).contains(&self.stale_ms_max) {
            return Err(format!(
                "cluster.stale_ms_max: must be 0 or at least {STALE_MS_MIN}: logs are asked every few seconds"
            ));
        }
        if let Some(peer) = self.peer
            && peer.ip().is_unspecified()
            && self.advertise_peer.is_none()
        {
            return Err(format!(
                "cluster.advertise_peer: say where other nodes reach {peer}, as HOST:PORT"
            ));
        }
        if let Some(peer) = &self.advertise_peer
            && peer.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return Err(format!("cluster.advertise_peer: {peer:?} is not HOST:PORT"));
        }
        if self.absence_s_max < ABSENCE_S_MIN {
            return Err(format!("cluster.absence_s_max: must be at least {ABSENCE_S_MIN}"));
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err("cluster.tls: cert and key go together".to_owned());
        }
        match (user_and_password(&self.nats)?, &self.credentials) {
            (Some(_), Some(_)) => Err("cluster.credentials: the URLs of cluster.nats name a user \
                                       already, give one of both"
                .to_owned()),
            _ => Ok(()),
        }
    }

    /// How to connect.
    pub(crate) fn nats_options(&self) -> NatsOptions {
        let ClusterTlsConfig { required, first, ca, cert, key } = self.tls.clone();
        let auth = match (&self.credentials, user_and_password(&self.nats)) {
            (Some(path), _) => NatsAuth::CredentialsFile(path.clone()),
            (None, Ok(Some((user, password)))) => NatsAuth::UserPassword(user, password),
            (None, _) => NatsAuth::None,
        };
        NatsOptions {
            urls: self.nats.iter().map(|url| without_user(url)).collect(),
            prefix: self.prefix.clone(),
            replicas: self.replicas,
            auth,
            tls: NatsTls { required, first, roots: ca, client: cert.zip(key) },
            name: format!("atoll {}", self.name),
            ..NatsOptions::default()
        }
    }

    /// How old what the node has may be while it is ready; none for any age.
    pub(crate) fn stale_max(&self) -> Option<Duration> {
        (self.stale_ms_max > 0).then(|| Duration::from_millis(self.stale_ms_max))
    }
}

/// The user and the password that stand in the URLs of servers, if they do.
fn user_and_password(urls: &[String]) -> Result<Option<(String, String)>, String> {
    let mut found = None;
    for (position, text) in urls.iter().enumerate() {
        // A URL without a scheme is fine for the client, and has no user then. Its text may hold a password,
        // so it is named by its place.
        let Some((_, rest)) = text.split_once("://") else { continue };
        let url = Url::parse(text)
            .map_err(|error| format!("cluster.nats: entry {}: {error}", position + 1))?;
        let named = rest.contains('@').then(|| {
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            (decoded(url.username()), decoded(url.password().unwrap_or_default()))
        });
        if position > 0 && named != found {
            return Err("cluster.nats: all URLs must name the same user and password".to_owned());
        }
        found = named;
    }
    Ok(found)
}

fn without_user(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_needs_is_checked() {
        let good = || ClusterConfig {
            nats: vec!["nats://127.0.0.1:4222".into()],
            name: "a-1".into(),
            ..ClusterConfig::default()
        };
        assert_eq!(good().check(), Ok(()));
        let check = |config: ClusterConfig, key: &str| {
            let refused = config.check().unwrap_err();
            assert!(refused.starts_with(key), "{refused}");
        };
        check(ClusterConfig { nats: Vec::new(), ..good() }, "cluster.nats");
        check(ClusterConfig { name: String::new(), ..good() }, "cluster.name");
        check(ClusterConfig { region: "a b".into(), ..good() }, "cluster.region");
        check(ClusterConfig { replicas: 2, ..good() }, "cluster.replicas");
        check(ClusterConfig { shards: 0, ..good() }, "cluster.shards");
        check(ClusterConfig { stale_ms_max: 1, ..good() }, "cluster.stale_ms_max");
        assert_eq!(ClusterConfig { stale_ms_max: 0, ..good() }.check(), Ok(()));
        let peer = Some("0.0.0.0:7000".parse().unwrap());
        check(ClusterConfig { peer, ..good() }, "cluster.advertise_peer");
        let advertise_peer = Some("node-1".to_owned());
        check(ClusterConfig { peer, advertise_peer, ..good() }, "cluster.advertise_peer");
        let advertise_peer = Some("node-1:7000".to_owned());
        assert_eq!(ClusterConfig { peer, advertise_peer, ..good() }.check(), Ok(()));
        let tls = ClusterTlsConfig { cert: Some("a".into()), ..ClusterTlsConfig::default() };
        check(ClusterConfig { tls, ..good() }, "cluster.tls");
    }

    #[test]
    fn a_user_may_stand_in_the_urls() {
        let config = |urls: &[&str]| ClusterConfig {
            nats: urls.iter().map(|url| (*url).to_owned()).collect(),
            name: "a".into(),
            ..ClusterConfig::default()
        };
        let two = config(&["tls://edge:p%40ss@one:4222", "tls://edge:p%40ss@two:4222"]);
        assert_eq!(two.check(), Ok(()));
        let options = two.nats_options();
        assert_eq!(options.urls, ["tls://one:4222", "tls://two:4222"]);
        let NatsAuth::UserPassword(user, password) = options.auth else {
            panic!("{:?}", options.urls)
        };
        assert_eq!((&*user, &*password), ("edge", "p@ss"));
        for refused in [
            config(&["nats://a:b@one", "nats://two"]),
            config(&["nats://a:b@one", "nats://a:c@two"]),
            ClusterConfig { credentials: Some("node.creds".into()), ..config(&["nats://a:b@one"]) },
            config(&["nats://a:b@one:port"]),
        ] {
            let told = refused.check().unwrap_err();
            assert!(told.starts_with("cluster.") && !told.contains("a:b"), "{told}");
        }
        assert!(matches!(config(&["one:4222"]).nats_options().auth, NatsAuth::None));
    }
}
