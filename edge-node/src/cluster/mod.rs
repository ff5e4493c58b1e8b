//! What makes a node one of many, beside its stores: what nodes tell each other of themselves, and which of
//! them fires crons. It keeps no state that matters and decides nothing about workers.

mod crons;
mod figures;
mod foundation;
mod guardrails;
mod lease;
mod peering;
mod peers;
mod presence;
mod probe;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use atoll_kv::log::{Connectivity, NatsConnection};
use atoll_kv::{Health as KvHealth, ReplicatedStore};

pub(crate) use crons::run_cluster_crons;
pub(crate) use foundation::NatsFoundation;
pub(crate) use guardrails::run_cluster_guardrails;
pub(crate) use lease::LeaseView;
pub(crate) use peering::{Peering, renew};
pub(crate) use peers::Peers;
pub(crate) use presence::{Announced, announce, listen};
pub(crate) use probe::PING_PATH;

use crate::config::ClusterConfig;
use crate::dispatch::Neighbourhood;
use crate::registry::Registry;

/// A node's part in its cluster. Clones share it.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Inner>);

struct Inner {
    config: ClusterConfig,
    connection: NatsConnection,
    registry: Registry,
    kv: ReplicatedStore,
    peers: Peers,
    /// Tells this run of the node from an earlier one, and from another node of its name.
    instance: String,
    /// Where other nodes send requests, once that is known.
    peer: OnceLock<Option<String>>,
    started: Instant,
}

impl Cluster {
    pub(crate) fn new(
        config: ClusterConfig,
        connection: NatsConnection,
        registry: Registry,
        kv: ReplicatedStore,
    ) -> Self {
        let instance = hex::encode(rand::random::<[u8; 8]>());
        let peers = Peers::default();
        let started = Instant::now();
        let peer = OnceLock::new();
        Self(Arc::new(Inner { config, connection, registry, kv, peers, instance, peer, started }))
    }

    pub(crate) fn config(&self) -> &ClusterConfig {
        &self.0.config
    }

    pub(crate) fn connection(&self) -> &NatsConnection {
        &self.0.connection
    }

    /// What those who serve are told of the others.
    pub(crate) fn neighbourhood(&self) -> Neighbourhood {
        let ClusterConfig { name, region, explain, .. } = self.config();
        Neighbourhood {
            name: name.clone(),
            region: region.clone(),
            explain: *explain,
            nodes: self.peers().neighbours(name),
        }
    }

    /// What the node knows of the others.
    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    pub(crate) fn instance(&self) -> &str {
        &self.0.instance
    }

    fn registry(&self) -> &Registry {
        &self.0.registry
    }

    fn kv(&self) -> &ReplicatedStore {
        &self.0.kv
    }

    fn is_connected(&self) -> bool {
        *self.0.connection.connectivity().borrow() == Connectivity::Connected
    }

    /// How long ago the registry is known to have had everything, if it did since the start.
    fn registry_staleness(&self) -> Option<Duration> {
        let caught_up = self.registry().replica_status()?.borrow().caught_up?;
        Some(caught_up.elapsed())
    }

    /// Why the node should not be given requests now, if there is a reason.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        let Some(registry) = self.registry_staleness() else {
            return Some(self.with_cause("the registry is not current yet"));
        };
        if *self.kv().health().borrow() == KvHealth::Starting {
            return Some(self.with_cause("the key-value store is not current yet"));
        }
        let oldest = registry.max(self.kv().staleness());
        let most = self.config().stale_max()?;
        (oldest > most).then(|| {
            self.with_cause(&format!(
                "what the node has may be {} s old, more than {} s (cluster.stale_ms_max)",
                oldest.as_secs(),
                most.as_secs()
            ))
        })
    }

    /// Why this node does not follow what it should, as far as NATS can be reached.
    fn fault(&self) -> Option<String> {
        let of_registry = || self.registry().replica_status()?.borrow().fault.clone();
        of_registry().or_else(|| Some(self.kv().stats().fault?.to_string()))
    }

    fn with_cause(&self, what: &str) -> String {
        match self.is_connected() {
            true => match self.fault() {
                Some(fault) => format!("{what}: {fault}"),
                None => what.to_owned(),
            },
            false => match self.connection().trouble() {
                Some(why) => format!("{what}: NATS cannot be reached: {why}"),
                None => format!("{what}: NATS cannot be reached"),
            },
        }
    }
}
