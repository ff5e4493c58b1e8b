//! The node's state, open: the registry and the KV store, of a single node or of one in a cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_kv::log::NatsConnection;
use atoll_kv::{Epochs, KvStore, ReplicatedOptions, ReplicatedStore, SqliteOptions, SqliteStore};
use tokio::runtime::Handle;

use super::NodeError;
use crate::cluster::{Cluster, NatsFoundation};
use crate::config::{ClusterConfig, NodeConfig};
use crate::experiments::Experiments;
use crate::observe::{Metrics, ReportHub};
use crate::registry::{
    AccountId, CLUSTER_DIR, JoinOptions, ROOT_TOKEN_FILE, Registry, RegistryError, Token,
};

/// Where the KV store lies in the data directory, or in its part for the cluster.
const KV_FILE: &str = "kv.sqlite";

/// The node's state, open.
pub(crate) struct NodeStores {
    pub(crate) registry: Registry,
    pub(crate) kv: KvEngine,
    pub(crate) hub: ReportHub,
    pub(crate) experiments: Experiments,
    pub(crate) root_token: String,
    pub(crate) account: AccountId,
    /// The node's part in its cluster, if it has one.
    pub(crate) cluster: Option<Cluster>,
}

/// What keeps KV values.
#[derive(Clone)]
pub(crate) enum KvEngine {
    /// This node alone.
    Embedded(SqliteStore),
    /// Every node of a cluster.
    Replicated(ReplicatedStore),
}

impl KvEngine {
    /// The store for whoever reads and writes.
    pub(crate) fn store(&self) -> Arc<dyn KvStore> {
        match self {
            Self::Embedded(store) => Arc::new(store.clone()),
            Self::Replicated(store) => Arc::new(store.clone()),
        }
    }

    /// Finishes what is under way and closes the store.
    pub(crate) async fn close(&self) {
        match self {
            Self::Embedded(store) => store.close().await,
            Self::Replicated(store) => store.close().await,
        }
    }
}

impl NodeStores {
    /// Opens everything in the data directory. `epochs` tell other processes what changes in the KV store.
    pub(crate) async fn open(
        config: &NodeConfig,
        epochs: Option<Arc<Epochs>>,
    ) -> Result<Self, NodeError> {
        let (registry, kv, cluster) = match &config.cluster {
            None => alone(config, epochs)?,
            Some(cluster) => joined(config, cluster, epochs).await?,
        };
        let (root_token, account) = root_token(&registry, &config.data_dir)?;
        let hub = ReportHub::new(Arc::new(Metrics::default()));
        if let Some(cluster) = &cluster {
            cluster.show(hub.metrics());
        }
        let directory = match &cluster {
            None => config.data_dir.clone(),
            Some(_) => config.data_dir.join(CLUSTER_DIR),
        };
        let experiments = Experiments::open(&directory)
            .map_err(|error| NodeError::Experiments(error.to_string()))?;
        Ok(Self { registry, kv, hub, experiments, root_token, account, cluster })
    }
}

type Opened = (Registry, KvEngine, Option<Cluster>);

fn alone(config: &NodeConfig, epochs: Option<Arc<Epochs>>) -> Result<Opened, NodeError> {
    let registry = Registry::open(&config.data_dir)?;
    registry.bootstrap()?;
    let path = config.data_dir.join(KV_FILE);
    let kv = SqliteStore::open(&path, sqlite_options(config, epochs))
        .map_err(|source| NodeError::Kv { path, source })?;
    Ok((registry, KvEngine::Embedded(kv), None))
}

async fn joined(
    config: &NodeConfig,
    cluster: &ClusterConfig,
    epochs: Option<Arc<Epochs>>,
) -> Result<Opened, NodeError> {
    let connection = NatsConnection::connect(cluster.nats_options()).await?;
    let (engine, runtime) = (connection.clone(), Handle::current());
    let (data_dir, of_registry) = (config.data_dir.clone(), join_options(cluster));
    let foundation = NatsFoundation { connection: connection.clone(), shards: cluster.shards };
    let join = move || Registry::join(&data_dir, &engine, &foundation, of_registry, runtime);
    let registry = unblocked(join).await??;
    let id = registry.cluster_id()?.unwrap_or_default();
    let path = config.data_dir.join(CLUSTER_DIR).join(KV_FILE);
    if !path.exists() {
        ReplicatedStore::verify(&connection, &id, cluster.shards)
            .await
            .map_err(NodeError::KvLogs)?;
    }
    let options = ReplicatedOptions {
        sqlite: sqlite_options(config, epochs),
        cluster: Some(id),
        shards: cluster.shards,
        absence_max: Duration::from_secs(cluster.absence_s_max),
        ..ReplicatedOptions::default()
    };
    let (engine, at) = (connection.clone(), path.clone());
    let kv = unblocked(move || ReplicatedStore::open(&engine, at, options))
        .await?
        .map_err(|source| NodeError::Kv { path, source })?;
    let part = Cluster::new(cluster.clone(), connection, registry.clone(), kv.clone());
    Ok((registry, KvEngine::Replicated(kv), Some(part)))
}

fn join_options(cluster: &ClusterConfig) -> JoinOptions {
    JoinOptions {
        name: cluster.name.clone(),
        key_file: cluster.key_file.clone(),
        ..JoinOptions::default()
    }
}

/// Runs what blocks where it may.
async fn unblocked<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| NodeError::Io(std::io::Error::other(error)))
}

fn sqlite_options(config: &NodeConfig, epochs: Option<Arc<Epochs>>) -> SqliteOptions {
    SqliteOptions {
        cache_bytes_max: config.kv.cache_bytes_max,
        readers: config.kv.readers.get(),
        epochs,
        ..SqliteOptions::default()
    }
}

fn root_token(registry: &Registry, data_dir: &Path) -> Result<(String, AccountId), NodeError> {
    let path = data_dir.join(ROOT_TOKEN_FILE);
    let text = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
    let token: Result<Option<Token>, RegistryError> = registry.authenticate(&text);
    match token? {
        Some(token) => Ok((text, token.account)),
        None => Err(NodeError::RootToken { path }),
    }
}
