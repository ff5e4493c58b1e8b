//! The supervisor: the process that holds a node's state and its listening sockets and runs no tenant's
//! code. It starts serving processes, tells them what to serve, starts them again when they end, and keeps
//! away what brought them down.

mod check;
mod child;
mod keep;
mod quarantine;
mod relay;
mod restart;
mod siblings;

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_kv::{Epochs, KvStore};
use atoll_router::{PeerCredentials, QuicKeys};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::cluster::Peering;
use crate::config::NodeConfig;
use crate::dispatch::{Job, Neighbourhood, home_of};
use crate::experiments::Experiments;
use crate::geo::GeoWatch;
use crate::node::control::{Control, ServingSide, bind_admin, raise_file_limit};
use crate::node::fit::Fit;
use crate::node::kept::Kept;
use crate::node::sockets::{Listeners, ThreadSockets};
use crate::node::stores::NodeStores;
use crate::node::{NodeError, threads};
use crate::observe::{Count, Health, ProcessState, ReportHub};
use crate::process::FDS_MAX;
use crate::registry::{Registry, Snapshot, VersionId};
use crate::tls::{Reload, TlsBytes, TlsFollower, TlsSource};
use check::ProcessCheck;
use keep::Seats;
use quarantine::Quarantine;
pub(crate) use restart::Restarts;
use siblings::Siblings;

/// Threads of one process: each brings four sockets along, and four descriptors come besides.
const THREADS_PER_PROCESS_MAX: usize = (FDS_MAX - 4) / 4;

/// Threads of all processes: each process gets the senders of all inboxes in one message.
const THREADS_MAX: usize = FDS_MAX;

/// Events that wait for one serving process.
const JOBS_QUEUED_MAX: usize = 256;

/// How long the serving processes may take until all of them accept requests.
const START_MAX: Duration = Duration::from_secs(60);

/// A running supervisor.
pub struct Supervisor {
    http: SocketAddr,
    https: SocketAddr,
    shared: Arc<Shared>,
    drain: watch::Sender<bool>,
    processes: JoinSet<()>,
    tasks: Vec<JoinHandle<()>>,
    control: Control,
    /// The listening sockets once more, for a restart.
    kept: Kept,
    _peering: Option<Peering>,
}

/// What one serving process listens on.
struct ProcessSockets {
    /// For clients, of each thread.
    threads: Vec<ThreadSockets>,
    /// Of each thread for other nodes; none where they send nothing.
    peers: Vec<TcpListener>,
    /// Of each thread for the node's other serving processes; none where there are no others.
    siblings: Vec<TcpListener>,
}

/// What the tasks around serving processes share.
struct Shared {
    /// As the processes get it.
    config: NodeConfig,
    /// What TLS serves by.
    tls: watch::Receiver<Arc<TlsBytes>>,
    quic_keys: QuicKeys,
    /// The senders of all threads' inboxes.
    inboxes: Vec<UnixDatagram>,
    registry: Registry,
    kv: Arc<dyn KvStore>,
    /// The epoch file of the KV store, for reading.
    epochs: OwnedFd,
    geo: GeoWatch,
    /// What the node shows to others, in a cluster.
    credentials: watch::Receiver<Option<Arc<PeerCredentials>>>,
    /// What is known of the other nodes.
    neighbours: watch::Receiver<Arc<Neighbourhood>>,
    /// What serving processes know of each other.
    siblings: Siblings,
    hub: ReportHub,
    experiments: Experiments,
    health: Health,
    /// The environment of children.
    variables: Vec<(OsString, OsString)>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    quarantine: Mutex<Quarantine>,
    quarantined: watch::Receiver<Vec<VersionId>>,
    quarantined_sender: watch::Sender<Vec<VersionId>>,
    in_use: InUse,
    /// How often a process became ready.
    ready: watch::Sender<u64>,
    drain: watch::Receiver<bool>,
    restarts: Count,
    numbers: AtomicU64,
}

impl Shared {
    /// A number that no process had before.
    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps a version away from all processes for some time, which this gives.
    fn quarantine(&self, version: VersionId) -> Duration {
        let now = Instant::now();
        let mut quarantine = self.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
        let time = quarantine.add(version, now);
        self.quarantined_sender.send_replace(quarantine.versions(now));
        time
    }
}

/// Which revision of the registry each serving process has in use.
struct InUse {
    by_process: Mutex<HashMap<u64, u64>>,
    /// The revision that all of them have.
    least: watch::Sender<u64>,
}

impl InUse {
    fn new() -> Self {
        Self { by_process: Mutex::default(), least: watch::Sender::new(u64::MAX) }
    }

    fn set(&self, process: u64, revision: u64) {
        self.change(|by_process| {
            by_process.insert(process, revision);
        });
    }

    fn remove(&self, process: u64) {
        self.change(|by_process| {
            by_process.remove(&process);
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<u64, u64>)) {
        let mut by_process = self.by_process.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut by_process);
        // Nobody serves by an old revision while nobody serves.
        self.least.send_replace(by_process.values().copied().min().unwrap_or(u64::MAX));
    }
}

impl Supervisor {
    /// Starts everything; every serving process takes requests when this returns. Needs a tokio runtime.
    /// `variables` are the environment of the processes; `kept` are sockets that the program before has left.
    ///
    /// # Errors
    /// When a file, a socket or a process cannot be had.
    pub(crate) async fn start(
        config: NodeConfig,
        variables: Vec<(OsString, OsString)>,
        mut kept: Kept,
    ) -> Result<Self, NodeError> {
        raise_file_limit();
        let (threads, processes) = (threads(&config), processes(&config));
        let shares = shares(threads, processes)?;
        let fit = Fit::of(&config, processes, threads);
        fit.warn();
        let config = NodeConfig { memory: fit.memory.clone(), ..config };
        let epochs = Arc::new(Epochs::new()?);
        let stores = NodeStores::open(&config, Some(epochs.clone())).await?;
        let geo = GeoWatch::start(&config.geo.database).await?;
        let follower = follow_tls(&config, &stores.registry)?;
        let Listeners { threads, inboxes, http, https } =
            Listeners::bind(&config, shares.iter().sum(), &mut kept).await?;
        let admin = bind_admin(&config, kept.admin)?;
        let mut peering = match &stores.cluster {
            Some(cluster) => Some(Peering::start(cluster, shares.iter().sum(), kept.peers).await?),
            None => None,
        };
        let of_peers = peering.as_mut().map(|peering| std::mem::take(&mut peering.sockets));
        let of_peers = of_peers.unwrap_or_default();
        let (siblings, of_siblings) = Siblings::start(&shares).await?;
        let kept = Kept::beside(&threads, &of_peers, &admin)?;
        let (quarantined_sender, quarantined) = watch::channel(Vec::new());
        let (drain, draining) = watch::channel(false);
        let metrics = stores.hub.metrics();
        fit.show(metrics);
        let restarts = metrics.counter("process_restarts", "Serving processes started again");
        let shared = Arc::new(Shared {
            config: childs_config(&config, processes),
            tls: follower.tls,
            quic_keys: stores.registry.quic_keys(node_name(&config)),
            inboxes,
            registry: stores.registry.clone(),
            kv: stores.kv.store(),
            epochs: epochs.read_only()?,
            geo,
            credentials: peering
                .as_ref()
                .map_or_else(|| watch::channel(None).1, |peering| peering.credentials.clone()),
            neighbours: peering.as_ref().map_or_else(
                || watch::channel(Arc::default()).1,
                |peering| peering.neighbours.clone(),
            ),
            siblings,
            hub: stores.hub.clone(),
            experiments: stores.experiments.clone(),
            health: Health::default(),
            variables,
            snapshots: follower.snapshots,
            quarantine: Mutex::default(),
            quarantined,
            quarantined_sender,
            in_use: InUse::new(),
            ready: watch::Sender::new(0),
            drain: draining,
            restarts,
            numbers: AtomicU64::new(0),
        });
        let mut tasks = vec![follower.task, tokio::spawn(release(shared.clone()))];
        show_processes(&shared);
        let mut keepers = JoinSet::new();
        let mut inboxes = Vec::new();
        let (mut threads, mut first) = (threads.into_iter(), 0);
        let mut of_peers = of_peers.into_iter();
        for ((place, share), siblings) in shares.into_iter().enumerate().zip(of_siblings) {
            let (inbox, jobs) = mpsc::channel(JOBS_QUEUED_MAX);
            inboxes.push(inbox);
            let sockets = ProcessSockets {
                threads: threads.by_ref().take(share).collect(),
                peers: of_peers.by_ref().take(share).collect(),
                siblings,
            };
            let seats = Seats { place, first, sockets: Some(sockets) };
            first += u16::try_from(share).unwrap_or(u16::MAX);
            keepers.spawn(keep::keep(shared.clone(), seats, jobs));
        }
        all_ready(&shared, processes).await?;
        let check = ProcessCheck::start(&config, shared.variables.clone());
        tasks.push(check.1);
        let side = ServingSide {
            check: Arc::new(check.0),
            http,
            https,
            in_use: shared.in_use.least.subscribe(),
            fire: fire(inboxes),
        };
        let control = Control::start(&config, &stores, admin, shared.health.clone(), side).await?;
        Ok(Self {
            http,
            https,
            shared,
            drain,
            processes: keepers,
            tasks,
            control,
            kept,
            _peering: peering,
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

    /// Has every serving process finish accepted work and take none, and closes everything. Bounded by
    /// `drain_ms_max` and the time of `waitUntil`.
    pub async fn drain(mut self) {
        // Nobody may wait in them any more.
        self.kept = Kept::default();
        self.drain_but_listen().await;
    }

    /// The same, but for the listening sockets: connections to come wait in their queues for whoever gets them.
    pub(crate) async fn drain_but_listen(mut self) -> Kept {
        self.control.drain();
        self.drain.send_replace(true);
        while let Some(joined) = self.processes.join_next().await {
            if let Err(error) = joined {
                tracing::error!(%error, "keeping a serving process failed");
            }
        }
        for task in &self.tasks {
            task.abort();
        }
        drop(self.shared);
        self.control.close().await;
        self.kept
    }
}

/// How many serving processes: as configured, or two, and one more for every eight cores.
fn processes(config: &NodeConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let default = if cores < 2 { 1 } else { 2 + cores / 8 };
    config.processes.map_or(default, NonZeroUsize::get)
}

/// How many threads each process gets: at least one.
fn shares(threads: usize, processes: usize) -> Result<Vec<usize>, NodeError> {
    let (each, over) = (threads / processes, threads % processes);
    let shares: Vec<usize> =
        (0..processes).map(|place| (each + usize::from(place < over)).max(1)).collect();
    let all: usize = shares.iter().sum();
    if shares.iter().any(|share| *share > THREADS_PER_PROCESS_MAX) || all > THREADS_MAX {
        let per_process_max = THREADS_PER_PROCESS_MAX;
        return Err(NodeError::Threads { threads, processes, per_process_max });
    }
    Ok(shares)
}

/// Reads what TLS serves by, and follows it.
fn follow_tls(config: &NodeConfig, registry: &Registry) -> Result<TlsFollower, NodeError> {
    let source = TlsSource::open(config, registry)?;
    let current = source.read()?;
    Ok(TlsFollower::start(source, current, registry.subscribe(), Reload::OnSignal)?)
}

/// What tells the node from others with the same key.
fn node_name(config: &NodeConfig) -> &str {
    config.cluster.as_ref().map_or("", |cluster| &cluster.name)
}

/// The configuration as one of several processes gets it.
fn childs_config(config: &NodeConfig, processes: usize) -> NodeConfig {
    let mut config = config.clone();
    config.kv.cache_bytes_max /= processes as u64;
    config.processes = NonZeroUsize::new(processes);
    // What reaches the cluster's servers is nothing for processes that run tenants' code.
    config.geo.colo = Some(config.colo().to_owned());
    config.cluster = None;
    config.tls.acme = None;
    config
}

/// Lets versions run again when their time is over.
async fn release(shared: Arc<Shared>) {
    let mut quarantined = shared.quarantined.clone();
    loop {
        let next = {
            let quarantine = shared.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let versions = quarantine.versions(now);
            shared.quarantined_sender.send_if_modified(|known| {
                let changed = *known != versions;
                *known = versions;
                changed
            });
            quarantined.mark_unchanged();
            quarantine.next_release(now)
        };
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            changed = quarantined.changed() => if changed.is_err() { return },
        }
    }
}

fn show_processes(shared: &Arc<Shared>) {
    let (metrics, health) = (shared.hub.metrics(), shared.health.clone());
    let serves = move || {
        let processes = health.processes();
        let ready = processes.iter().filter(|process| process.state == ProcessState::Ready);
        i64::try_from(ready.count()).unwrap_or(i64::MAX)
    };
    metrics.add_gauge("serving_processes", "Serving processes that take requests", serves);
    let quarantined = shared.quarantined.clone();
    let help = "Versions that are kept away for having crashed a process";
    metrics.add_gauge("quarantined_versions", help, move || {
        i64::try_from(quarantined.borrow().len()).unwrap_or(i64::MAX)
    });
}

/// Waits until so many processes have become ready.
async fn all_ready(shared: &Shared, processes: usize) -> Result<(), NodeError> {
    let mut ready = shared.ready.subscribe();
    let all = ready.wait_for(|ready| *ready >= processes as u64);
    match tokio::time::timeout(START_MAX, all).await {
        Ok(_) => Ok(()),
        Err(_) => Err(NodeError::Process(format!("not all are ready after {START_MAX:?}"))),
    }
}

/// Gives events to the homes of their workers, or to another process where one has too many.
fn fire(inboxes: Vec<mpsc::Sender<Job>>) -> impl Fn(Job) -> bool + Send + Sync + 'static {
    move |job| {
        let Job::Scheduled { worker, .. } = &job;
        let first = home_of(worker, 0..inboxes.len()).unwrap_or_default();
        (0..inboxes.len())
            .any(|step| inboxes[(first + step) % inboxes.len()].try_send(job.clone()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_shared_out() {
        let check = |threads, processes, expected: Option<&[usize]>| {
            assert_eq!(shares(threads, processes).ok().as_deref(), expected);
        };
        check(2, 2, Some(&[1, 1]));
        check(1, 3, Some(&[1, 1, 1]));
        check(8, 3, Some(&[3, 3, 2]));
        check(THREADS_PER_PROCESS_MAX, 1, Some(&[THREADS_PER_PROCESS_MAX]));
        check(THREADS_PER_PROCESS_MAX + 1, 1, None);
    }

    #[test]
    fn a_revision_is_in_use_when_every_process_has_it() {
        let in_use = InUse::new();
        let least = in_use.least.subscribe();
        assert_eq!(*least.borrow(), u64::MAX);
        in_use.set(1, 5);
        in_use.set(2, 7);
        assert_eq!(*least.borrow(), 5);
        in_use.set(1, 8);
        assert_eq!(*least.borrow(), 7);
        in_use.remove(2);
        assert_eq!(*least.borrow(), 8);
        in_use.remove(1);
        assert_eq!(*least.borrow(), u64::MAX);
    }
}
