//! The part of a node that runs tenants' code: V8 and the data-plane threads with their listeners. It holds
//! no state of its own: it reads through seams, and runs in the node's only process or in one of many.

mod check_process;
mod process;
mod state;

pub(crate) use check_process::run as run_check_process;
pub(crate) use process::run as run_serving_process;

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use atoll_isolate::{Engine, EngineOptions};
use atoll_kv::KvStore;
use atoll_router::{DrainTrigger, QuicSocket, Tls, drain_channel};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use crate::config::{MemoryConfig, NodeConfig};
use crate::dispatch::{
    ConsoleLine, DataThread, Job, Quarantined, ServingPeering, ServingSiblings, Shared, Sockets,
    Targets, ThreadError, spawn_threads,
};
use crate::experiments::Recorder;
use crate::geo::Geo;
use crate::inspect::Debuggees;
use crate::node::sockets::{QuicSockets, ThreadSockets};
use crate::observe::ReportHub;
use crate::outbound::SystemNetwork;
use crate::process::QuicSeats;
use crate::registry::Snapshot;
use crate::state::ServingState;

/// Compiled code kept for the whole process, in bytes.
const CODE_CACHE_BYTES_MAX: usize = 64 << 20;

/// Console lines that wait for one slow reader.
const CONSOLE_QUEUED_MAX: usize = 1_024;

/// Starts V8 with the memory that the configuration grants to this process.
pub(crate) fn start_engine(memory: &MemoryConfig) -> std::io::Result<Arc<Engine>> {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let defaults = EngineOptions::default();
    let engine = Engine::start(EngineOptions {
        code_cache_bytes_max: CODE_CACHE_BYTES_MAX,
        heap_bytes_max: bytes(memory.heap_bytes_max),
        memory_bytes_max: memory.process_bytes_max.map_or(defaults.memory_bytes_max, bytes),
    })?;
    Ok(Arc::new(engine))
}

/// What serving stands on.
pub(crate) struct ServingOptions {
    pub(crate) engine: Arc<Engine>,
    pub(crate) config: NodeConfig,
    pub(crate) state: Arc<dyn ServingState>,
    pub(crate) kv: Arc<dyn KvStore>,
    pub(crate) geo: Arc<Geo>,
    pub(crate) hub: ReportHub,
    /// Where it is noted what comes of decisions of rules.
    pub(crate) recorder: Recorder,
    pub(crate) debuggees: Option<Debuggees>,
    pub(crate) quarantined: Arc<Quarantined>,
    pub(crate) system: SystemNetwork,
    /// Those of each thread.
    pub(crate) sockets: Vec<ThreadSockets>,
    pub(crate) quic: QuicSeats,
    /// The senders of all inboxes of the node.
    pub(crate) inboxes: Vec<UnixDatagram>,
    pub(crate) tls: Arc<Tls>,
    /// For each thread its socket for other nodes; none where they send nothing.
    pub(crate) peers: Vec<TcpListener>,
    /// What requests between nodes need, in a cluster.
    pub(crate) peering: Option<Arc<ServingPeering>>,
    /// For each thread its socket for other serving processes of the node; none where there are no others.
    pub(crate) sibling_sockets: Vec<TcpListener>,
    /// What is known of those.
    pub(crate) siblings: Option<Arc<ServingSiblings>>,
}

/// Running data-plane threads.
pub(crate) struct Serving {
    threads: Vec<DataThread>,
    drain: DrainTrigger,
    console: broadcast::Sender<ConsoleLine>,
    in_use: watch::Receiver<u64>,
    follow: JoinHandle<()>,
}

impl Serving {
    /// Starts the threads; they accept connections when this returns. Needs a tokio runtime.
    pub(crate) async fn start(options: ServingOptions) -> Result<Self, ThreadError> {
        let ServingOptions { engine, config, state, kv, hub, debuggees, .. } = options;
        let snapshots = state.snapshots();
        let snapshot = snapshots.borrow().clone();
        let targets = Arc::new(Targets::new(&config.domain, options.recorder, &snapshot));
        let (used, in_use) = watch::channel(snapshot.revision);
        let instances = Arc::new(AtomicI64::new(0));
        let counted = instances.clone();
        hub.metrics().add_gauge("isolates_live", "Instances held in memory", move || {
            counted.load(Ordering::Relaxed)
        });
        let told_of = targets.clone();
        hub.metrics().ask_for_standings(move || told_of.origin_standings());
        let console = broadcast::Sender::new(CONSOLE_QUEUED_MAX);
        let (drain, signal) = drain_channel();
        let QuicSeats { keys, first } = options.quic;
        let mut sockets = seated(options.sockets, first, Arc::new(options.inboxes));
        for (thread, peer) in sockets.iter_mut().zip(options.peers) {
            thread.peer = Some(peer);
        }
        for (thread, sibling) in sockets.iter_mut().zip(options.sibling_sockets) {
            thread.sibling = Some(sibling);
        }
        let shared = Arc::new(Shared {
            engine,
            config,
            state,
            targets: targets.clone(),
            kv,
            geo: options.geo,
            peering: options.peering,
            siblings: options.siblings,
            hub,
            console: console.clone(),
            debuggees,
            instances,
            quarantined: options.quarantined,
            tls: options.tls,
            quic_keys: keys,
            system: options.system,
        });
        let mut threads = spawn_threads(&shared, sockets, &signal)?;
        for thread in &mut threads {
            if !thread.started().await {
                return Err(std::io::Error::other("see the log").into());
            }
        }
        let follow = tokio::spawn(follow(snapshots, targets, used));
        Ok(Self { threads, drain, console, in_use, follow })
    }

    /// Follows console lines as they are written.
    pub(crate) fn console(&self) -> broadcast::Receiver<ConsoleLine> {
        self.console.subscribe()
    }

    /// The revision of the registry that every request sees.
    pub(crate) fn in_use(&self) -> watch::Receiver<u64> {
        self.in_use.clone()
    }

    /// Gives events to the threads in turn; false when every thread is busy.
    pub(crate) fn fire(&self) -> impl Fn(Job) -> bool + Send + Sync + 'static {
        let inboxes: Vec<_> = self.threads.iter().map(DataThread::inbox).collect();
        let turn = AtomicUsize::new(0);
        move |job| {
            let first = turn.fetch_add(1, Ordering::Relaxed);
            (0..inboxes.len())
                .any(|step| inboxes[(first + step) % inboxes.len()].try_send(job.clone()).is_ok())
        }
    }

    /// Whether a thread has ended before the drain: it panicked, or its listeners failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.threads.iter().any(DataThread::is_finished)
    }

    /// Finishes what was accepted, takes nothing new, and ends the threads.
    pub(crate) async fn drain(self, within: Duration) {
        self.drain.start(within);
        self.follow.abort();
        let threads = self.threads;
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(DataThread::join));
        if joined.await.is_err() {
            tracing::error!("waiting for the data-plane threads failed");
        }
    }
}

/// The sockets of threads that know their places among all of the node, of which the first thread's is given.
fn seated(
    threads: Vec<ThreadSockets>,
    first: u16,
    inboxes: Arc<Vec<UnixDatagram>>,
) -> Vec<Sockets> {
    let seat = |(thread, place): (ThreadSockets, u16)| {
        let ThreadSockets { http, https, quic } = thread;
        let inboxes = inboxes.clone();
        let quic = quic.map(|QuicSockets { udp, inbox }| QuicSocket { udp, inbox, inboxes, place });
        Sockets { http, https, quic, peer: None, sibling: None }
    };
    threads.into_iter().zip(first..).map(seat).collect()
}

async fn follow(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    targets: Arc<Targets>,
    used: watch::Sender<u64>,
) {
    // What was published while the threads started counts as a change, too.
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        targets.swap(&snapshot);
        used.send_replace(snapshot.revision);
        tracing::debug!(revision = snapshot.revision, "routes replaced");
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}
