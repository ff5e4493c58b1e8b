//! Which node of a cluster takes variants back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Cluster;
use super::lease::{LeaseOptions, hold};
use crate::experiments::{Experiments, watch_guardrails};
use crate::registry::{Registry, Snapshot};

/// The lease of whoever does so.
const LEASE: LeaseOptions = LeaseOptions {
    name: "guardrails",
    ttl: Duration::from_secs(6),
    interval: Duration::from_secs(2),
};

/// Watches over guardrails while this node has the lease, until `leave` says so.
pub(crate) async fn run_cluster_guardrails(
    cluster: Cluster,
    (experiments, registry): (Experiments, Registry),
    snapshots: watch::Receiver<Arc<Snapshot>>,
    leave: watch::Receiver<bool>,
) {
    let (sender, tenures) = watch::channel(None);
    let holder = format!("{}-{}", cluster.config().name, cluster.instance());
    let lease = hold(cluster.connection().leases(), LEASE, holder, sender, leave.clone());
    let holds = move || tenures.borrow().is_some_and(|tenure| Instant::now() < tenure.until);
    let watching = watch_guardrails(experiments, registry, snapshots, holds, leave);
    tokio::join!(lease, watching);
}
