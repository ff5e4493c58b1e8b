//! What a cluster's node shows of its state: gauges for scrapers, lines for `/healthz`.

use std::fmt::Write as _;
use std::time::Instant;

use atoll_kv::{Health as KvHealth, ReplicatedStats};

use super::Cluster;
use crate::observe::Metrics;

impl Cluster {
    /// Adds the cluster's gauges.
    pub(crate) fn show(&self, metrics: &Metrics) {
        let kv = |cluster: &Self, value: fn(&ReplicatedStats) -> u64| {
            let cluster = cluster.clone();
            move || int(value(&cluster.kv().stats()))
        };
        let help = "How old KV values may be here, in seconds";
        metrics.add_gauge("kv_staleness_seconds", help, kv(self, |kv| kv.staleness.as_secs()));
        let help = "Records of the KV logs that are not here yet, of the log where that is most";
        metrics.add_gauge(
            "kv_lag_records",
            help,
            kv(self, |kv| kv.lag.iter().copied().max().unwrap_or(0)),
        );
        let help = "Times that KV logs were compared as a whole since the start";
        metrics.add_gauge("kv_resyncs", help, kv(self, |kv| kv.resyncs));
        let help = "KV writes that were refused since the start, for NATS could not be reached";
        metrics.add_gauge("kv_writes_unavailable", help, kv(self, |kv| kv.writes_unavailable));
        let help = "KV writes since the start whose outcome is unknown";
        metrics.add_gauge("kv_writes_unknown", help, kv(self, |kv| kv.writes_unknown));
        let cluster = self.clone();
        let help = "Whether NATS can be reached";
        metrics.add_gauge("nats_connected", help, move || i64::from(cluster.is_connected()));
        let cluster = self.clone();
        let help = "Times that the connection to NATS came back since the start";
        metrics.add_gauge("nats_reconnects", help, move || int(cluster.connection().reconnects()));
        self.show_registry(metrics);
        let cluster = self.clone();
        let help = "Nodes that told of themselves in the last seconds, this one included";
        metrics.add_gauge("cluster_nodes", help, move || {
            int(cluster.peers().serving(0, Instant::now()).len() as u64)
        });
    }

    fn show_registry(&self, metrics: &Metrics) {
        let cluster = self.clone();
        let help = "The registry's revision";
        metrics.add_gauge("registry_revision", help, move || {
            int(cluster.registry().snapshot().revision)
        });
        let cluster = self.clone();
        let help = "Records of the registry's log that are not here yet";
        metrics.add_gauge("registry_lag_records", help, move || {
            let status = cluster.registry().replica_status();
            status.map_or(0, |status| {
                let status = status.borrow();
                int(status.last.saturating_sub(status.applied))
            })
        });
        let cluster = self.clone();
        let help = "Times that the registry began anew since the start";
        metrics.add_gauge("registry_resyncs", help, move || {
            let status = cluster.registry().replica_status();
            status.map_or(0, |status| int(status.borrow().resyncs))
        });
    }

    /// Lines for people.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        let (config, kv) = (self.config(), self.kv().stats());
        let nats = if self.is_connected() { "connected" } else { "unreachable" };
        let nodes = self.peers().serving(0, Instant::now()).len();
        let _ = writeln!(
            text,
            "cluster: name={} region={} nats={nats} nodes={nodes}",
            config.name, config.region
        );
        let health = match *self.kv().health().borrow() {
            KvHealth::Starting => "starting".to_owned(),
            KvHealth::Connected => "current".to_owned(),
            KvHealth::Disconnected { since } => format!("cut-off-{}s", since.elapsed().as_secs()),
            KvHealth::Resyncing { shards } => format!("resyncing-{shards}"),
        };
        let lag = kv.lag.iter().copied().max().unwrap_or(0);
        let _ = writeln!(
            text,
            "kv: state={health} staleness_s={} lag={lag} fault={}",
            kv.staleness.as_secs(),
            kv.fault.as_deref().unwrap_or("-")
        );
        let status = self.registry().replica_status().map(|status| status.borrow().clone());
        let status = status.unwrap_or_default();
        let staleness =
            self.registry_staleness().map_or_else(|| "-".to_owned(), |s| s.as_secs().to_string());
        let _ = writeln!(
            text,
            "registry: revision={} staleness_s={staleness} lag={} fault={}",
            self.registry().snapshot().revision,
            status.last.saturating_sub(status.applied),
            status.fault.as_deref().unwrap_or("-"),
        );
        text
    }
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
