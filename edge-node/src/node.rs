//! A node: composes the registry, the KV store, the isolates and the listeners, runs them, and drains.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use atoll_isolate::{Engine, EngineOptions};
use atoll_kv::{KvStore, SqliteOptions, SqliteStore};
use atoll_router::{
    BindError, CertStore, Certificates, DrainTrigger, TlsError, bind_reuse_port, drain_channel,
    load_pem, self_signed, server_config,
};
use rustls::ServerConfig;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use crate::api::{self, ApiConfig, NodeInfo};
use crate::config::NodeConfig;
pub use crate::dispatch::ConsoleLine;
use crate::dispatch::{
    DataThread, IsolateCheck, Shared, Sockets, Targets, ThreadError, run_crons, spawn_threads,
};
use crate::inspect::{self, Debuggees};
use crate::node_file::NodeFile;
use crate::observe::{Health, Listener, Metrics, ReportHub};
use crate::registry::{AccountId, ROOT_TOKEN_FILE, Registry, RegistryError, Token};

/// Compiled code kept for the whole node, in bytes.
const CODE_CACHE_BYTES_MAX: usize = 64 << 20;

/// Console lines that wait for one slow reader.
const CONSOLE_QUEUED_MAX: usize = 1_024;

/// Where the KV store lives in the data directory.
const KV_FILE: &str = "kv.sqlite";

/// Where the self-signed certificate lives in the data directory.
const TLS_DIR: &str = "tls";

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The registry cannot be used.
    #[error("cannot open the registry: {0}")]
    Registry(#[from] RegistryError),
    /// The KV store cannot be used.
    #[error("cannot open the key-value store {path}: {source}", path = path.display())]
    Kv {
        /// The file.
        path: PathBuf,
        /// Why.
        source: atoll_kv::KvError,
    },
    /// A listener for workers cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin listener cannot be bound.
    #[error(
        "cannot listen on {address} for the API: {source}: choose another address with --admin"
    )]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The listener for debuggers cannot be bound.
    #[error(
        "cannot listen on {address} for debuggers: {source}: choose another address with --inspect"
    )]
    Inspect {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// V8, a file or a socket.
    #[error("cannot start the node: {0}")]
    Io(#[from] std::io::Error),
    /// The root token is gone or not valid.
    #[error("{path} holds no valid token: restore it, or start with an empty data directory", path = path.display())]
    RootToken {
        /// The file.
        path: PathBuf,
    },
}

/// A running node.
pub struct Node {
    data_dir: PathBuf,
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
    root_token: String,
    account: AccountId,
    hub: ReportHub,
    console: broadcast::Sender<ConsoleLine>,
    debuggees: Option<Debuggees>,
    health: Health,
    drain: DrainTrigger,
    drain_max: Duration,
    threads: Vec<DataThread>,
    stop_api: watch::Sender<bool>,
    api: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    kv: SqliteStore,
}

impl Node {
    /// Starts everything; the node takes requests when this returns. Needs a tokio runtime, and must be
    /// called before other threads use V8.
    ///
    /// # Errors
    /// When a file, a socket or a thread cannot be had.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        raise_file_limit();
        let engine = Arc::new(Engine::start(EngineOptions {
            code_cache_bytes_max: CODE_CACHE_BYTES_MAX,
            ..EngineOptions::default()
        })?);
        let registry = Registry::open(&config.data_dir)?;
        registry.bootstrap()?;
        let (root_token, account) = root_token(&registry, &config.data_dir)?;
        let kv = open_kv(&config)?;
        let hub = ReportHub::new(Arc::new(Metrics::default()));
        let targets = Arc::new(Targets::new(&config.domain, &registry.snapshot()));
        let instances = Arc::new(AtomicI64::new(0));
        let counted = instances.clone();
        hub.metrics().add_gauge("isolates_live", "Instances held in memory", move || {
            counted.load(Ordering::Relaxed)
        });
        let console = broadcast::Sender::new(CONSOLE_QUEUED_MAX);
        let (drain, signal) = drain_channel();

        let tls = tls(&config, &registry)?;
        let threads = threads(&config);
        let (sockets, http, https) = sockets(&config, threads, &tls)?;
        let admin_listener = tokio::net::TcpListener::bind(config.admin)
            .await
            .map_err(|source| NodeError::Admin { address: config.admin, source })?;
        let admin = admin_listener.local_addr()?;

        let check = Arc::new(IsolateCheck::start(engine.clone(), config.limits.clone())?);
        let (stop_api, stopped) = watch::channel(false);
        let debuggees = debuggees(&config, &registry, &stopped).await?;
        let shared = Arc::new(Shared {
            engine,
            config: config.clone(),
            state: Arc::new(registry.clone()),
            targets: targets.clone(),
            kv: Arc::new(kv.clone()),
            hub: hub.clone(),
            console: console.clone(),
            debuggees: debuggees.clone(),
            instances,
        });
        let threads = spawn_threads(&shared, sockets, &signal)?;
        let health = Health::default();
        let router = api::router(ApiConfig {
            registry: registry.clone(),
            kv: Arc::new(kv.clone()) as Arc<dyn KvStore>,
            check,
            hub: hub.clone(),
            health: health.clone(),
            domain: config.domain.clone(),
            limits: config.limits.clone(),
            node: NodeInfo { http, https },
        });
        let api = tokio::spawn(api::serve(admin_listener, router, stopped));
        let tasks = vec![
            tokio::spawn(follow(registry.clone(), targets)),
            tokio::spawn(crons(&registry, &threads)),
        ];
        NodeFile { admin, http, https, pid: std::process::id() }.write(&config.data_dir)?;
        health.ready();
        let drain_max = Duration::from_millis(config.drain_ms_max);
        Ok(Self {
            data_dir: config.data_dir,
            http,
            https,
            admin,
            root_token,
            account,
            hub,
            console,
            debuggees,
            health,
            drain,
            drain_max,
            threads,
            stop_api,
            api,
            tasks,
            kv,
        })
    }

    /// Where workers answer over plain HTTP.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where workers answer over TLS.
    pub fn https_addr(&self) -> SocketAddr {
        self.https
    }

    /// Where the API answers.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The first account's token.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The first account.
    pub fn account_id(&self) -> &AccountId {
        &self.account
    }

    /// Follows every finished invocation.
    pub fn reports(&self) -> Listener {
        self.hub.listen_to_all()
    }

    /// Follows console lines as they are written.
    pub fn console(&self) -> broadcast::Receiver<ConsoleLine> {
        self.console.subscribe()
    }

    /// Follows where debuggers may attach, when the node was told to let them.
    pub fn debugger(&self) -> Option<watch::Receiver<Option<String>>> {
        self.debuggees.as_ref().map(Debuggees::newest)
    }

    /// Finishes accepted work, takes none, and closes everything. Bounded by `drain_ms_max`.
    pub async fn drain(self) {
        self.health.drain();
        if let Err(error) = NodeFile::remove(&self.data_dir) {
            tracing::warn!(%error, "the file that leads commands to this node could not be removed");
        }
        if let Some(debuggees) = &self.debuggees {
            debuggees.close();
        }
        self.drain.start(self.drain_max);
        for task in &self.tasks {
            task.abort();
        }
        let threads = self.threads;
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(DataThread::join));
        if joined.await.is_err() {
            tracing::error!("waiting for the data-plane threads failed");
        }
        self.stop_api.send_replace(true);
        if let Err(error) = self.api.await {
            tracing::error!(%error, "the API did not end well");
        }
        self.kv.close().await;
    }
}

/// Serves debuggers until `stopped` changes.
async fn debuggees(
    config: &NodeConfig,
    registry: &Registry,
    stopped: &watch::Receiver<bool>,
) -> Result<Option<Debuggees>, NodeError> {
    let Some(address) = config.inspect else { return Ok(None) };
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| NodeError::Inspect { address, source })?;
    let debuggees = Debuggees::new(listener.local_addr()?);
    tokio::spawn(inspect::follow(registry.subscribe(), debuggees.clone()));
    tokio::spawn(api::serve(listener, inspect::router(debuggees.clone()), stopped.clone()));
    Ok(Some(debuggees))
}

fn open_kv(config: &NodeConfig) -> Result<SqliteStore, NodeError> {
    let path = config.data_dir.join(KV_FILE);
    let options = SqliteOptions {
        cache_bytes_max: config.kv.cache_bytes_max,
        readers: config.kv.readers.get(),
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

fn threads(config: &NodeConfig) -> usize {
    config
        .threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get)
}

/// Each open connection is a file descriptor: the limit of the process is raised as far as it goes.
fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

fn tls(config: &NodeConfig, registry: &Registry) -> Result<Arc<ServerConfig>, NodeError> {
    let mut certificates = Certificates::default();
    for file in &config.tls.certificates {
        certificates.add(load_pem(&file.cert, &file.key)?);
    }
    let mut domains = vec![config.domain.clone()];
    let snapshot = registry.snapshot();
    domains.extend(snapshot.subdomains.iter().map(|(_, name)| format!("{name}.{}", config.domain)));
    let own = self_signed(&config.data_dir.join(TLS_DIR), &domains)?;
    if own.created {
        tracing::info!(path = %own.path.display(), "made a self-signed certificate: clients can be told to trust it");
    }
    certificates.add(own.certificate);
    Ok(server_config(Arc::new(CertStore::new(certificates)))?)
}

fn sockets(
    config: &NodeConfig,
    threads: usize,
    tls: &Arc<ServerConfig>,
) -> Result<(Vec<Sockets>, SocketAddr, SocketAddr), NodeError> {
    let bind = |address: SocketAddr| -> Result<(Vec<TcpListener>, SocketAddr), NodeError> {
        refuse_taken(address)?;
        let first = bind_reuse_port(address)?;
        let address = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..threads {
            listeners.push(bind_reuse_port(address)?);
        }
        Ok((listeners, address))
    };
    let (http, http_address) = bind(config.http)?;
    let (https, https_address) = bind(config.https)?;
    let pairs = http.into_iter().zip(https);
    let sockets = pairs.map(|(http, https)| Sockets { http, https, tls: tls.clone() }).collect();
    Ok((sockets, http_address, https_address))
}

/// SO_REUSEPORT would let two nodes of one user share a port unnoticed: a plain bind shows that it is taken.
fn refuse_taken(address: SocketAddr) -> Result<(), NodeError> {
    if address.port() == 0 {
        return Ok(());
    }
    TcpListener::bind(address).map(drop).map_err(|source| BindError { address, source }.into())
}

async fn follow(registry: Registry, targets: Arc<Targets>) {
    let mut snapshots = registry.subscribe();
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        targets.swap(&snapshot);
        tracing::debug!(revision = snapshot.revision, "routes replaced");
    }
}

fn crons(registry: &Registry, threads: &[DataThread]) -> impl Future<Output = ()> + Send + 'static {
    let inboxes: Vec<_> = threads.iter().map(DataThread::inbox).collect();
    let turn = AtomicUsize::new(0);
    let snapshots = registry.subscribe();
    run_crons(snapshots, move |job| {
        let first = turn.fetch_add(1, Ordering::Relaxed);
        (0..inboxes.len())
            .any(|step| inboxes[(first + step) % inboxes.len()].try_send(job.clone()).is_ok())
    })
}
