//! Tells the other nodes of this one every second and whenever what it serves by changes, and listens to them.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::watch;

use super::Cluster;
use super::peers::{NodeStatus, millis};
use crate::observe::Metrics;

/// Where nodes tell of themselves.
pub(super) const SUBJECT: &str = "nodes";
/// How often they do.
const INTERVAL: Duration = Duration::from_secs(1);
/// Bytes that a node may tell of itself.
const STATUS_BYTES_MAX: usize = 16 << 10;
/// The pause before listening again after that ended.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// What a node tells of itself beside what its stores say.
pub(crate) struct Announced {
    /// The revision that everyone who serves here has in use.
    pub(crate) in_use: watch::Receiver<u64>,
    pub(crate) metrics: std::sync::Arc<Metrics>,
}

/// Tells of this node until `leave` says that it ends, and then that.
pub(crate) async fn announce(
    cluster: Cluster,
    mut announced: Announced,
    mut leave: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut load = Load::default();
    loop {
        let leaving = *leave.borrow();
        let mut status = cluster.status(&announced);
        (status.in_flight, status.requests_per_s) = load.of(&announced.metrics);
        status.leaving = leaving;
        cluster.tell(&status).await;
        if leaving {
            return;
        }
        tokio::select! {
            _ = ticks.tick() => {}
            changed = announced.in_use.changed() => if changed.is_err() { return },
            // Whoever told it to leave may be gone.
            _ = leave.wait_for(|leave| *leave) => {}
        }
    }
}

/// Takes in what other nodes tell, for ever.
pub(crate) async fn listen(cluster: Cluster) {
    let mut warned = None::<Instant>;
    loop {
        match cluster.connection().subscribe(SUBJECT).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    let Some(status) = parse(&message.payload) else { continue };
                    if status.name != cluster.config().name {
                        cluster.peers().note(status, Instant::now());
                    } else if status.instance != cluster.instance()
                        && !status.leaving
                        && warned.is_none_or(|at| at.elapsed() > Duration::from_secs(60))
                    {
                        warned = Some(Instant::now());
                        tracing::warn!(
                            name = status.name,
                            "another node has this node's name: give each its own (cluster.name)"
                        );
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "cannot listen to other nodes"),
        }
        tokio::time::sleep(LISTEN_PAUSE).await;
    }
}

fn parse(payload: &[u8]) -> Option<NodeStatus> {
    if payload.len() > STATUS_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(payload).ok()
}

impl Cluster {
    fn status(&self, announced: &Announced) -> NodeStatus {
        let stats = self.kv().stats();
        let registry = self.registry().replica_status().map(|status| status.borrow().clone());
        let registry = registry.unwrap_or_default();
        let config = self.config();
        // While nobody serves, nobody serves by an old revision.
        let revision = (*announced.in_use.borrow()).min(self.registry().snapshot().revision);
        NodeStatus {
            name: config.name.clone(),
            instance: self.instance().to_owned(),
            region: config.region.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_s: self.0.started.elapsed().as_secs(),
            ready: self.why_not_ready().is_none(),
            leaving: false,
            revision,
            kv_lag: stats.lag.iter().copied().max().unwrap_or(0),
            kv_staleness_ms: millis(stats.staleness),
            registry_lag: registry.last.saturating_sub(registry.applied),
            in_flight: 0,
            requests_per_s: 0,
            http: config.advertise_http.clone(),
            admin: config.advertise_admin.clone(),
            peer: self.0.peer.get().cloned().flatten(),
        }
    }

    async fn tell(&self, status: &NodeStatus) {
        self.peers().note(status.clone(), Instant::now());
        let payload = serde_json::to_vec(status).expect("a status is plain data");
        if let Err(error) = self.connection().publish(SUBJECT, payload.into()).await {
            tracing::trace!(%error, "other nodes are not told of this one now");
        }
    }
}

/// How busy the node is: counts between two looks.
#[derive(Default)]
struct Load {
    before: Option<(Instant, u64)>,
    per_s: u64,
}

impl Load {
    /// Invocations under way, and those that ended in a second.
    fn of(&mut self, metrics: &Metrics) -> (i64, u64) {
        let (in_flight, ended) = metrics.load();
        let now = Instant::now();
        match self.before {
            // A look soon after another would show what a moment did.
            Some((at, _)) if now - at < INTERVAL / 2 => {}
            Some((at, before)) => {
                let s = (now - at).as_secs_f64();
                self.per_s = (ended.saturating_sub(before) as f64 / s).round() as u64;
                self.before = Some((now, ended));
            }
            None => self.before = Some((now, ended)),
        }
        (in_flight, self.per_s)
    }
}
