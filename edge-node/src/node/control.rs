//! The part of a node that holds its state and runs no tenant's code: the registry, the KV store, the API,
//! crons, metrics and health. It is the same whether workers are served in this process or in others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_kv::{Epochs, KvStore, SqliteOptions, SqliteStore};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::NodeError;
use crate::api::{self, ApiConfig, NodeInfo, ScriptCheck};
use crate::config::NodeConfig;
use crate::dispatch::{Job, run_crons};
use crate::node_file::NodeFile;
use crate::observe::{Health, Metrics, ReportHub};
use crate::registry::{AccountId, ROOT_TOKEN_FILE, Registry, Token};

/// Where the KV store lives in the data directory.
const KV_FILE: &str = "kv.sqlite";

/// The node's state, open.
pub(crate) struct NodeStores {
    pub(crate) registry: Registry,
    pub(crate) kv: SqliteStore,
    pub(crate) hub: ReportHub,
    pub(crate) root_token: String,
    pub(crate) account: AccountId,
}

impl NodeStores {
    /// Opens everything in the data directory. `epochs` tell other processes what changes in the KV store.
    pub(crate) fn open(
        config: &NodeConfig,
        epochs: Option<Arc<Epochs>>,
    ) -> Result<Self, NodeError> {
        let registry = Registry::open(&config.data_dir)?;
        registry.bootstrap()?;
        let (root_token, account) = root_token(&registry, &config.data_dir)?;
        let kv = open_kv(config, epochs)?;
        let hub = ReportHub::new(Arc::new(Metrics::default()));
        Ok(Self { registry, kv, hub, root_token, account })
    }
}

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
    stop_api: watch::Sender<bool>,
    api: JoinHandle<()>,
    kv: SqliteStore,
}

/// Binds the API's listener.
pub(crate) async fn bind_admin(config: &NodeConfig) -> Result<TcpListener, NodeError> {
    TcpListener::bind(config.admin)
        .await
        .map_err(|source| NodeError::Admin { address: config.admin, source })
}

impl Control {
    /// Starts the API and the crons, and says where the node is to be found.
    pub(crate) async fn start<F: Fn(Job) -> bool + Send + Sync + 'static>(
        config: &NodeConfig,
        stores: &NodeStores,
        listener: TcpListener,
        health: Health,
        serving: ServingSide<F>,
    ) -> Result<Self, NodeError> {
        let admin = listener.local_addr()?;
        let ServingSide { check, http, https, in_use, fire } = serving;
        let router = api::router(ApiConfig {
            registry: stores.registry.clone(),
            kv: Arc::new(stores.kv.clone()) as Arc<dyn KvStore>,
            check,
            hub: stores.hub.clone(),
            health: health.clone(),
            domain: config.domain.clone(),
            limits: config.limits.clone(),
            node: NodeInfo { http, https },
            in_use,
        });
        let (stop_api, stopped) = watch::channel(false);
        let api = tokio::spawn(api::serve(listener, router, stopped));
        let crons = tokio::spawn(run_crons(stores.registry.subscribe(), fire));
        NodeFile { admin, http, https, pid: std::process::id() }.write(&config.data_dir)?;
        health.ready();
        let (data_dir, kv) = (config.data_dir.clone(), stores.kv.clone());
        Ok(Self { data_dir, admin, health, crons, stop_api, api, kv })
    }

    /// Tells the world that the node takes no new work.
    pub(crate) fn drain(&self) {
        self.health.drain();
        if let Err(error) = NodeFile::remove(&self.data_dir) {
            tracing::warn!(%error, "the file that leads commands to this node could not be removed");
        }
        self.crons.abort();
    }

    /// Closes everything, once nobody serves any more.
    pub(crate) async fn close(self) {
        self.stop_api.send_replace(true);
        if let Err(error) = self.api.await {
            tracing::error!(%error, "the API did not end well");
        }
        self.kv.close().await;
    }
}

fn open_kv(config: &NodeConfig, epochs: Option<Arc<Epochs>>) -> Result<SqliteStore, NodeError> {
    let path = config.data_dir.join(KV_FILE);
    let options = SqliteOptions {
        cache_bytes_max: config.kv.cache_bytes_max,
        readers: config.kv.readers.get(),
        epochs,
        ..SqliteOptions::default()
    };
    SqliteStore::open(&path, options).map_err(|source| NodeError::Kv { path, source })
}

fn root_token(registry: &Registry, data_dir: &Path) -> Result<(String, AccountId), NodeError> {
    let path = data_dir.join(ROOT_TOKEN_FILE);
    let text = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
    let token: Option<Token> = registry.authenticate(&text)?;
    match token {
        Some(token) => Ok((text, token.account)),
        None => Err(NodeError::RootToken { path }),
    }
}

/// Each open connection is a file descriptor: the limit of the process is raised as far as it goes.
pub(crate) fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
