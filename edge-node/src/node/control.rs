//! The part of a node that holds its state and runs no tenant's code: the registry, the KV store, the API,
//! crons, metrics and health. It is the same whether workers are served in this process or in others.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::NodeError;
use super::kept::fitting;
use super::stores::{KvEngine, NodeStores};
use crate::acme;
use crate::api::{self, ApiConfig, NodeInfo, ScriptCheck};
use crate::cluster::{
    Announced, Cluster, announce, listen, run_cluster_crons, run_cluster_guardrails,
};
use crate::config::NodeConfig;
use crate::dispatch::{Job, run_crons};
use crate::experiments::watch_guardrails;
use crate::node_file::NodeFile;
use crate::observe::Health;
use crate::tls::show_certificates;

/// What the control part is told of those who serve.
pub(crate) struct ServingSide<F> {
    /// Starts uploaded scripts.
    pub(crate) check: Arc<dyn ScriptCheck>,
    /// Where workers answer over plain HTTP.
    pub(crate) http: SocketAddr,
    /// Where they answer over TLS.
    pub(crate) https: SocketAddr,
    /// The registry's revision that everyone who serves has in use.
    pub(crate) in_use: watch::Receiver<u64>,
    /// Hands an event to some thread, and says whether it was taken.
    pub(crate) fire: F,
}

/// The control part, running.
pub(crate) struct Control {
    data_dir: PathBuf,
    pub(crate) admin: SocketAddr,
    pub(crate) health: Health,
    crons: JoinHandle<()>,
    experiments: [JoinHandle<()>; 2],
    acme: Option<JoinHandle<()>>,
    stop_api: watch::Sender<bool>,
    api: JoinHandle<()>,
    kv: KvEngine,
    cluster: Option<Part>,
}

/// What tasks do for the node's part in its cluster.
struct Part {
    cluster: Cluster,
    leave: watch::Sender<bool>,
    announcing: JoinHandle<()>,
    listening: JoinHandle<()>,
}

/// How long other nodes may take to be told that this one ends, and the lease of crons to be let go.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// Binds the API's listener.
pub(crate) fn bind_admin(
    config: &NodeConfig,
    kept: Vec<StdTcpListener>,
) -> Result<StdTcpListener, NodeError> {
    if let Some(kept) = fitting(kept, config.admin, StdTcpListener::local_addr).pop() {
        return Ok(kept);
    }
    StdTcpListener::bind(config.admin)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| NodeError::Admin { address: config.admin, source })
}

impl Control {
    /// Starts the API and the crons, and says where the node is to be found.
    pub(crate) async fn start<F: Fn(Job) -> bool + Send + Sync + 'static>(
        config: &NodeConfig,
        stores: &NodeStores,
        listener: StdTcpListener,
        health: Health,
        serving: ServingSide<F>,
    ) -> Result<Self, NodeError> {
        let admin = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let ServingSide { check, http, https, in_use, fire } = serving;
        let router = api::router(ApiConfig {
            registry: stores.registry.clone(),
            kv: stores.kv.store(),
            check,
            hub: stores.hub.clone(),
            health: health.clone(),
            domain: config.domain.clone(),
            limits: config.limits.clone(),
            node: NodeInfo { http, https },
            in_use: in_use.clone(),
            cluster: stores.cluster.clone(),
            experiments: stores.experiments.clone(),
        });
        let (stop_api, stopped) = watch::channel(false);
        let api = tokio::spawn(api::serve(listener, router, stopped));
        let (leave, leaving) = watch::channel(false);
        let crons = start_crons(stores, leaving.clone(), fire);
        let experiments = start_experiments(stores, leaving.clone());
        let acme = acme::start(config, stores, in_use.clone());
        show_certificates(&stores.registry, &health, stores.hub.metrics());
        let cluster = stores.cluster.clone().map(|cluster| {
            let metrics = stores.hub.metrics().clone();
            Part::start(cluster, Announced { in_use, metrics }, (leave, leaving), &health)
        });
        NodeFile { admin, http, https, pid: std::process::id() }.write(&config.data_dir)?;
        health.ready();
        let (data_dir, kv) = (config.data_dir.clone(), stores.kv.clone());
        Ok(Self { data_dir, admin, health, crons, experiments, acme, stop_api, api, kv, cluster })
    }

    /// Tells the world that the node takes no new work.
    pub(crate) fn drain(&self) {
        self.health.drain();
        if let Err(error) = NodeFile::remove(&self.data_dir) {
            tracing::warn!(%error, "the file that leads commands to this node could not be removed");
        }
        // Its lease goes with it, and what it asked an authority for is asked for again.
        self.acme.iter().for_each(JoinHandle::abort);
        match &self.cluster {
            // The lease is let go first.
            Some(part) => {
                part.leave.send_replace(true);
            }
            None => self.crons.abort(),
        }
    }

    /// Closes everything, once nobody serves any more.
    pub(crate) async fn close(self) {
        self.stop_api.send_replace(true);
        if let Err(error) = self.api.await {
            tracing::error!(%error, "the API did not end well");
        }
        self.kv.close().await;
        self.experiments.iter().for_each(JoinHandle::abort);
        if let Some(part) = self.cluster {
            part.end(self.crons).await;
        }
    }
}

impl Part {
    fn start(
        cluster: Cluster,
        announced: Announced,
        (leave, leaving): (watch::Sender<bool>, watch::Receiver<bool>),
        health: &Health,
    ) -> Self {
        let (ready, lines) = (cluster.clone(), cluster.clone());
        health.follow_cluster(move || ready.why_not_ready(), move || lines.lines());
        let announcing = tokio::spawn(announce(cluster.clone(), announced, leaving));
        let listening = tokio::spawn(listen(cluster.clone()));
        Self { cluster, leave, announcing, listening }
    }

    /// Waits until the others know, and ends the connection.
    async fn end(self, crons: JoinHandle<()>) {
        let told = async { tokio::join!(self.announcing, crons) };
        if tokio::time::timeout(LEAVE_MAX, told).await.is_err() {
            tracing::debug!("other nodes find out by themselves that this one has ended");
        }
        self.listening.abort();
        let closed = self.cluster.connection().close();
        let _ = tokio::time::timeout(LEAVE_MAX, closed).await;
    }
}

fn start_crons<F: Fn(Job) -> bool + Send + Sync + 'static>(
    stores: &NodeStores,
    leaving: watch::Receiver<bool>,
    fire: F,
) -> JoinHandle<()> {
    let snapshots = stores.registry.subscribe();
    let Some(cluster) = stores.cluster.clone() else {
        return tokio::spawn(run_crons(snapshots, fire));
    };
    let holder = format!("{}-{}", cluster.config().name, cluster.instance());
    let leases = cluster.connection().leases();
    tokio::spawn(async move {
        run_cluster_crons(cluster.connection(), leases, holder, snapshots, leaving, fire).await;
    })
}

/// Keeps what is seen of experiments, and watches over their guardrails.
fn start_experiments(stores: &NodeStores, leaving: watch::Receiver<bool>) -> [JoinHandle<()>; 2] {
    let (experiments, registry) = (stores.experiments.clone(), stores.registry.clone());
    let snapshots = registry.subscribe();
    let watched = (experiments.clone(), registry.clone());
    match stores.cluster.clone() {
        None => {
            let (kept, known) = watched;
            let watching = watch_guardrails(kept, known, snapshots, || true, leaving);
            [tokio::spawn(experiments.keep(registry)), tokio::spawn(watching)]
        }
        Some(cluster) => {
            let engine = cluster.connection().clone();
            let keeping = experiments.keep_in_cluster(registry, engine);
            let watching = run_cluster_guardrails(cluster, watched, snapshots, leaving);
            [tokio::spawn(keeping), tokio::spawn(watching)]
        }
    }
}

/// Each open connection is a file descriptor: the limit of the process is raised as far as it goes.
pub(crate) fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
