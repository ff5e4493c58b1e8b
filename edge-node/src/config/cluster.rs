//! The part of the configuration that makes a node one of many.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use atoll_kv::log::{NatsAuth, NatsOptions, NatsTls};
use serde::{Deserialize, Serialize};

/// Letters of a node's or a region's name.
const NAME_BYTES_MAX: usize = 64;

/// Logs are asked whether everything is here every five seconds, and may take some to answer.
const STALE_MS_MIN: u64 = 10_000;

/// How a node belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// NATS servers, such as `nats://10.0.0.1:4222`; one is enough to find the others.
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
    /// A credentials file of NATS's `nsc`.
    pub credentials: Option<PathBuf>,
    /// The key of the cluster's secrets, the same on all nodes; `node.key` in the data directory when absent.
    pub key_file: Option<PathBuf>,
    /// The node is not ready while what it has may be older than this, in milliseconds; 0 for any age.
    pub stale_ms_max: u64,
    /// Where other nodes and people reach the node's workers, as shown by `atoll nodes`.
    pub advertise_http: Option<String>,
    /// Where other nodes and people reach the node's API, as shown by `atoll nodes`.
    pub advertise_admin: Option<String>,
    /// Where other nodes send requests; none are sent to this node when absent.
    pub peer: Option<SocketAddr>,
    /// Where they reach that, as `HOST:PORT`; `peer` itself when absent.
    pub advertise_peer: Option<String>,
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
            advertise_http: None,
            advertise_admin: None,
            peer: None,
            advertise_peer: None,
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
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err("cluster.tls: cert and key go together".to_owned());
        }
        Ok(())
    }

    /// How to connect.
    pub(crate) fn nats_options(&self) -> NatsOptions {
        let ClusterTlsConfig { required, first, ca, cert, key } = self.tls.clone();
        let auth = self.credentials.clone().map_or(NatsAuth::None, NatsAuth::CredentialsFile);
        NatsOptions {
            urls: self.nats.clone(),
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
}
