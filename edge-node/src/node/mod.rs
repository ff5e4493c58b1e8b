//! A node that does everything in its own process: for development and tests. `atoll serve` runs a
//! supervisor instead, which composes the same parts over several processes.

pub(crate) mod control;
mod error;
pub(crate) mod fit;
pub(crate) mod kept;
pub(crate) mod sockets;
pub(crate) mod stores;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use atoll_router::Tls;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use crate::api;
use crate::config::NodeConfig;
pub use crate::dispatch::ConsoleLine;
use crate::dispatch::{IsolateCheck, Quarantined};
use crate::experiments::{Experiments, Flush, Recorder};
use crate::geo::{Geo, GeoWatch};
use crate::inspect::{self, Debuggees};
use crate::observe::{Health, Listener};
use crate::outbound::SystemNetwork;
use crate::process::QuicSeats;
use crate::registry::{AccountId, Registry};
use crate::serving::{Serving, ServingOptions, start_engine};
use crate::tls::{Reload, TlsBytes, TlsFollower, TlsSource};
use control::{Control, ServingSide, bind_admin, raise_file_limit};
pub use error::NodeError;
use fit::Fit;
use kept::Kept;
use sockets::Listeners;
use stores::NodeStores;

/// How often what is seen of experiments is handed over.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// A running node.
pub struct Node {
    http: SocketAddr,
    https: SocketAddr,
    stores: NodeStores,
    debuggees: Option<Debuggees>,
    _geo: GeoWatch,
    drain_max: Duration,
    stop_inspect: watch::Sender<bool>,
    serving: Serving,
    follower: [JoinHandle<()>; 2],
    telling: JoinHandle<()>,
    control: Control,
}

impl Node {
    /// Starts everything; the node takes requests when this returns. Needs a tokio runtime, and must be
    /// called before other threads use V8.
    ///
    /// # Errors
    /// When a file, a socket or a thread cannot be had.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        raise_file_limit();
        let fit = Fit::of(&config, 1, threads(&config));
        let engine = start_engine(&fit.memory)?;
        let stores = NodeStores::open(&config, None).await?;
        fit.show(stores.hub.metrics());
        let (geo, geo_watch) = geo(&config).await?;
        let source = TlsSource::open(&config, &stores.registry)?;
        let current = source.read()?;
        let tls = Arc::new(Tls::new(current.material()?)?);
        let snapshots = stores.registry.subscribe();
        let follower = TlsFollower::start(source, current, snapshots, Reload::OnChange)?;
        let follower = [follower.task, tokio::spawn(keep_up(follower.tls, tls.clone()))];
        let listeners = Listeners::bind(&config, threads(&config), &mut Kept::default()).await?;
        let Listeners { threads: sockets, inboxes, http, https } = listeners;
        let admin = bind_admin(&config, Vec::new())?;
        let check = Arc::new(IsolateCheck::start(engine.clone(), config.limits.clone())?);
        let (stop_inspect, stopped) = watch::channel(false);
        let debuggees = debuggees(&config, &stores.registry, &stopped).await?;
        let recorder = Recorder::default();
        let serving = Serving::start(ServingOptions {
            engine,
            config: config.clone(),
            state: Arc::new(stores.registry.clone()),
            kv: stores.kv.store(),
            geo,
            hub: stores.hub.clone(),
            recorder: recorder.clone(),
            debuggees: debuggees.clone(),
            quarantined: Arc::new(Quarantined::default()),
            system: SystemNetwork::read(),
            sockets,
            quic: QuicSeats { keys: stores.registry.quic_keys(""), first: 0 },
            inboxes,
            tls,
            // Nodes of a cluster have processes of their own to serve.
            peers: Vec::new(),
            peering: None,
            sibling_sockets: Vec::new(),
            siblings: None,
        })
        .await?;
        let side =
            ServingSide { check, http, https, in_use: serving.in_use(), fire: serving.fire() };
        let control = Control::start(&config, &stores, admin, Health::default(), side).await?;
        let drain_max = Duration::from_millis(config.drain_ms_max);
        let telling = tokio::spawn(tell(recorder, stores.experiments.clone()));
        Ok(Self {
            http,
            https,
            stores,
            debuggees,
            _geo: geo_watch,
            drain_max,
            stop_inspect,
            serving,
            follower,
            telling,
            control,
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
        self.control.admin
    }

    /// The first account's token.
    pub fn root_token(&self) -> &str {
        &self.stores.root_token
    }

    /// The first account.
    pub fn account_id(&self) -> &AccountId {
        &self.stores.account
    }

    /// Follows every finished invocation.
    pub fn reports(&self) -> Listener {
        self.stores.hub.listen_to_all()
    }

    /// Follows console lines as they are written.
    pub fn console(&self) -> broadcast::Receiver<ConsoleLine> {
        self.serving.console()
    }

    /// Follows where debuggers may attach, when the node was told to let them.
    pub fn debugger(&self) -> Option<watch::Receiver<Option<String>>> {
        self.debuggees.as_ref().map(Debuggees::newest)
    }

    /// Finishes accepted work, takes none, and closes everything. Bounded by `drain_ms_max`.
    pub async fn drain(self) {
        self.control.drain();
        if let Some(debuggees) = &self.debuggees {
            debuggees.close();
        }
        self.serving.drain(self.drain_max).await;
        self.stop_inspect.send_replace(true);
        self.follower.iter().for_each(JoinHandle::abort);
        self.telling.abort();
        self.control.close().await;
    }
}

/// Hands over what is seen of experiments, once a second.
async fn tell(recorder: Recorder, experiments: Experiments) {
    let mut ticks = tokio::time::interval(TELL_INTERVAL);
    loop {
        ticks.tick().await;
        experiments.take(recorder.flush(Flush::Tick));
    }
}

/// Has TLS serve by whatever the follower finds.
async fn keep_up(mut bytes: watch::Receiver<Arc<TlsBytes>>, tls: Arc<Tls>) {
    while bytes.changed().await.is_ok() {
        let material = bytes.borrow_and_update().material();
        if let Err(error) = material.and_then(|material| tls.replace(material)) {
            tracing::error!(%error, "TLS stays as it was");
        }
    }
}

/// What is known of addresses, kept current until the watch is dropped.
async fn geo(config: &NodeConfig) -> Result<(Arc<Geo>, GeoWatch), NodeError> {
    let geo = Arc::new(Geo::new(&config.geo)?);
    let watch = GeoWatch::start(&config.geo.database).await?;
    let mut files = watch.files.clone();
    files.mark_changed();
    let follower = geo.clone();
    tokio::spawn(async move {
        while files.changed().await.is_ok() {
            let now = files.borrow_and_update().clone();
            if let Err(error) = follower.take(&now) {
                tracing::error!(%error, "changed databases of places cannot be used");
            }
        }
    });
    Ok((geo, watch))
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

/// Data-plane threads: as configured, or one for each core.
pub(crate) fn threads(config: &NodeConfig) -> usize {
    config
        .threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get)
}
