//! The isolate threads of a process: each with its runtime, its instances and its client; front threads with
//! listeners, back threads with an inbox for what front threads hand over.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::TcpListener;
use std::num::{NonZeroU32, NonZeroUsize};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use atoll_isolate::Engine;
use atoll_kv::KvStore;
use atoll_router::{
    DrainSignal, Drained, PeerLink, QuicKeys, QuicSocket, Security, ServeError, ServeOptions, Tls,
    serve, serve_http3, serve_peers,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

use super::admission::{Admission, Arrival};
use super::ahead::Ahead;
use super::back::{Handed, serve_handed};
use super::call::CronCall;
use super::cf::NodeFacts;
use super::counts::Counts;
use super::events::Subject;
use super::forward::Forwarding;
use super::host::{ConsoleLine, ThreadHost};
use super::peer::{Nodes, ServingPeering};
use super::placement::BACK_THREADS_MAX;
use super::placer::{Placer, Role};
use super::pool::Pool;
use super::quarantine::Quarantined;
use super::replicas::Placement;
use super::room::{Pressure, Room};
use super::service::{Dispatcher, Front, new_id};
use super::siblings::{FromSiblings, HomeCalls, ServingSiblings};
use super::spares;
use super::targets::Targets;
use crate::config::NodeConfig;
use crate::geo::Geo;
use crate::inspect::{Debuggees, serving};
use crate::observe::ReportHub;
use crate::origins::OriginClients;
use crate::outbound::{Outbound, OutboundOptions, SystemNetwork};
use crate::registry::WorkerRef;
use crate::state::ServingState;

/// V8 takes close to 1 MiB of stack; the rest is for Rust around it.
const STACK_BYTES: usize = 8 << 20;

/// Events that wait for one thread.
const JOBS_QUEUED_MAX: usize = 256;

/// Back threads unless the configuration says otherwise: two to spread what runs long, and one that is left
/// to others.
const BACK_THREADS_MIN: usize = 3;

/// How much nicer to others a back thread is than a front thread: it gets a third of the time of one that
/// wants the same processor, and all of what nobody else wants.
const BACK_NICENESS: i32 = 5;

/// Threads on which the ciphers and digests of one isolate thread are computed.
const CRYPTO_THREADS_MAX: usize = 4;

/// How often instances that are no longer wanted are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// How often each thread looks whether memory is short and idle instances should go.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(100);

/// How often a drain looks whether the last invocation has ended.
const DRAIN_CHECK: Duration = Duration::from_millis(20);

/// An event that is not a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    /// A cron line came due.
    Scheduled {
        /// The worker.
        worker: WorkerRef,
        /// The line.
        cron: String,
        /// The due time: milliseconds since the Unix epoch.
        scheduled_ms: u64,
    },
}

/// What all data-plane threads share.
pub struct Shared {
    /// V8.
    pub engine: Arc<Engine>,
    /// The node's configuration.
    pub config: NodeConfig,
    /// What is deployed.
    pub state: Arc<dyn ServingState>,
    /// Routes and workers.
    pub targets: Arc<Targets>,
    /// The KV store.
    pub kv: Arc<dyn KvStore>,
    /// Where clients are.
    pub(crate) geo: Arc<Geo>,
    /// What requests between nodes need, in a cluster.
    pub(crate) peering: Option<Arc<ServingPeering>>,
    /// The node's other serving processes, where there are any.
    pub(crate) siblings: Option<Arc<ServingSiblings>>,
    /// Where invocations are reported.
    pub hub: ReportHub,
    /// Console lines as they are written.
    pub console: broadcast::Sender<ConsoleLine>,
    /// Where instances are shown to debuggers. With it there must be one thread only: a breakpoint parks it.
    pub debuggees: Option<Debuggees>,
    /// Live instances of the whole process.
    pub instances: Arc<AtomicI64>,
    /// Versions that must not run now.
    pub quarantined: Arc<Quarantined>,
    /// What TLS serves by.
    pub tls: Arc<Tls>,
    /// What QUIC's threads have the same.
    pub quic_keys: QuicKeys,
    /// Name servers and certificate authorities.
    pub system: SystemNetwork,
}

/// A running data-plane thread.
pub struct DataThread {
    jobs: mpsc::Sender<Job>,
    started: oneshot::Receiver<()>,
    join: std::thread::JoinHandle<()>,
}

/// A data-plane thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a data-plane thread: {0}")]
pub struct ThreadError(#[from] std::io::Error);

/// The sockets that one thread accepts on.
pub struct Sockets {
    /// Plain HTTP.
    pub http: TcpListener,
    /// TLS.
    pub https: TcpListener,
    /// QUIC, unless HTTP/3 is off.
    pub quic: Option<QuicSocket>,
    /// For other nodes, where they send something.
    pub peer: Option<TcpListener>,
    /// For other serving processes of the node, where there are any.
    pub sibling: Option<TcpListener>,
}

impl DataThread {
    /// Where events for the thread go. Its queue is bounded.
    pub fn inbox(&self) -> mpsc::Sender<Job> {
        self.jobs.clone()
    }

    /// Waits until the thread accepts connections. False when it cannot, for a reason that it has logged.
    pub async fn started(&mut self) -> bool {
        (&mut self.started).await.is_ok()
    }

    /// Whether the thread has ended: without a drain, it failed.
    pub fn is_finished(&self) -> bool {
        self.join.is_finished()
    }

    /// Waits for the thread to end.
    pub fn join(self) {
        if self.join.join().is_err() {
            tracing::error!("a data-plane thread panicked");
        }
    }
}

/// Starts one front thread for each set of sockets, and the back threads. Under an inspector everything runs
/// on the front thread: a breakpoint parks it, and nothing may be lost between threads.
///
/// # Errors
/// When the operating system gives no thread.
pub fn spawn_threads(
    shared: &Arc<Shared>,
    sockets: Vec<Sockets>,
    drain: &DrainSignal,
) -> Result<Vec<DataThread>, ThreadError> {
    let config = &shared.config;
    let backs = if shared.debuggees.is_some() { 0 } else { back_threads(config) };
    let metrics = shared.hub.metrics();
    let admission = Admission::new(&config.limits, processes(config));
    let memory = shared.engine.memory().clone();
    let room = Room::new(config.limits.isolates_max as usize, move || Pressure::of(&memory));
    let (placement, inboxes) = Placement::new(backs, admission, room, Counts::new(metrics));
    placement.show(metrics, shared.engine.memory());
    // Back threads end when no front thread is left to hand anything over.
    let (fronts, front) = watch::channel(());
    let fronts = Arc::new(fronts);
    let mut threads = Vec::new();
    for (index, sockets) in sockets.into_iter().enumerate() {
        let seat = Seat { shared: shared.clone(), placement: placement.clone(), role: Role::Front };
        let (drain, front) = (drain.clone(), front.clone());
        threads.push(spawn(format!("front-{index}"), move |inbox| async move {
            run_front(seat, sockets, drain, inbox).await;
            drop(front);
        })?);
    }
    for (index, handed) in inboxes.into_iter().enumerate() {
        let role = Role::Back(index);
        let seat = Seat { shared: shared.clone(), placement: placement.clone(), role };
        let fronts = fronts.clone();
        threads.push(spawn(format!("back-{index}"), move |inbox| async move {
            run_back(seat, index, handed, inbox, &fronts).await;
        })?);
    }
    Ok(threads)
}

/// The serving processes of the node, this one included.
fn processes(config: &NodeConfig) -> NonZeroU32 {
    config.processes.and_then(|processes| processes.try_into().ok()).unwrap_or(NonZeroU32::MIN)
}

fn back_threads(config: &NodeConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = cores.div_ceil(processes(config).get() as usize).max(BACK_THREADS_MIN);
    config.back_threads.map_or(share, NonZeroUsize::get).min(BACK_THREADS_MAX)
}

fn spawn<F: Future<Output = ()>>(
    name: String,
    run: impl FnOnce(Inbox) -> F + Send + 'static,
) -> Result<DataThread, ThreadError> {
    let (jobs, inbox) = mpsc::channel(JOBS_QUEUED_MAX);
    let (starting, started) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(CRYPTO_THREADS_MAX)
        .build()?;
    let run = move || LocalSet::new().block_on(&runtime, run(Inbox { jobs: inbox, starting }));
    let thread = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
    Ok(DataThread { jobs, started, join: thread.spawn(run)? })
}

/// What a thread receives from outside of dispatch, and owes.
struct Inbox {
    jobs: mpsc::Receiver<Job>,
    /// To be told when the thread is ready.
    starting: oneshot::Sender<()>,
}

/// What a thread begins with.
struct Seat {
    shared: Arc<Shared>,
    placement: Arc<Placement>,
    role: Role,
}

/// The tasks of every isolate thread; they end with this.
struct Tasks {
    dispatcher: Rc<Dispatcher>,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Tasks {
    fn begin(
        seat: Seat,
        jobs: mpsc::Receiver<Job>,
        drain: Option<DrainSignal>,
    ) -> std::io::Result<Self> {
        let dispatcher = dispatcher(&seat, drain)?;
        let running = vec![
            tokio::task::spawn_local(keep_house(seat, dispatcher.clone())),
            tokio::task::spawn_local(take_jobs(dispatcher.clone(), jobs)),
        ];
        Ok(Self { dispatcher, running })
    }

    /// Waits for what is under way, within the drain's limits.
    async fn finish(&self, config: &NodeConfig) {
        let last = async {
            while self.dispatcher.placer.pool.in_flight() > 0 {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        let wait_until =
            Duration::from_millis(config.limits.wait_until_ms_max.min(config.drain_ms_max));
        if tokio::time::timeout(wait_until, last).await.is_err() {
            tracing::warn!("invocations were cut off by the drain's deadline");
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.running.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn run_front(seat: Seat, mut sockets: Sockets, drain: DrainSignal, inbox: Inbox) {
    let shared = seat.shared.clone();
    let mut tasks = match Tasks::begin(seat, inbox.jobs, Some(drain.clone())) {
        Ok(tasks) => tasks,
        Err(error) => return tracing::error!(%error, "a front thread cannot start"),
    };
    let options = ServeOptions {
        url_bytes_max: shared.config.limits.url_bytes_max,
        header_bytes_max: shared.config.limits.request_header_bytes_max,
        http3_port: http3_port(&shared.config, &sockets),
        proxies: Arc::new(shared.config.proxies.proxies()),
        ..ServeOptions::default()
    };
    let front = Rc::new(Front(tasks.dispatcher.clone()));
    let nodes = sockets.peer.take().zip(shared.peering.clone()).map(|(listener, peering)| {
        let nodes = Rc::new(Nodes(tasks.dispatcher.clone()));
        tokio::task::spawn_local(serve_peers(
            listener,
            peering.tls.clone(),
            PeerLink::Network,
            nodes,
            drain.clone(),
        ))
    });
    let siblings = sockets.sibling.take().zip(shared.siblings.clone()).map(|(listener, known)| {
        let siblings = Rc::new(FromSiblings(tasks.dispatcher.clone()));
        tokio::task::spawn_local(serve_peers(
            listener,
            known.tls.clone(),
            PeerLink::Machine,
            siblings,
            drain.clone(),
        ))
    });
    let listeners = listen(sockets, &shared, &options, &front, &drain);
    let listeners = listeners.into_iter().chain(nodes).chain(siblings);
    if shared.debuggees.is_some() {
        let loading = load_deployed(shared.state.clone(), tasks.dispatcher.clone());
        tasks.running.push(tokio::task::spawn_local(loading));
    }
    // Whoever started the thread may not care.
    let _ = inbox.starting.send(());
    for listener in listeners {
        match listener.await {
            Ok(Ok(drained)) => {
                tracing::debug!(finished = drained.finished, cut = drained.cut, "listener drained")
            }
            Ok(Err(error)) => tracing::error!(%error, "listener failed"),
            Err(error) => tracing::error!(%error, "listener task failed"),
        }
    }
    tasks.finish(&shared.config).await;
}

/// The port at which clients are told to find HTTP/3.
fn http3_port(config: &NodeConfig, sockets: &Sockets) -> Option<u16> {
    sockets.quic.as_ref()?;
    config.http3_port.or_else(|| Some(sockets.https.local_addr().ok()?.port()))
}

type Listening = tokio::task::JoinHandle<Result<Drained, ServeError>>;

fn listen(
    sockets: Sockets,
    shared: &Arc<Shared>,
    options: &ServeOptions,
    front: &Rc<Front>,
    drain: &DrainSignal,
) -> Vec<Listening> {
    let Sockets { http, https, quic, .. } = sockets;
    let tls = &shared.tls;
    let secured = [(http, Security::Plain(Some(tls.clone()))), (https, Security::Tls(tls.clone()))];
    let over_tcp = secured.into_iter().map(|(listener, security)| {
        let (options, front, drain) = (options.clone(), front.clone(), drain.clone());
        tokio::task::spawn_local(serve(listener, security, options, front, drain))
    });
    let over_quic = quic.map(|socket| {
        let (shared, options) = (shared.clone(), options.clone());
        let (front, drain) = (front.clone(), drain.clone());
        tokio::task::spawn_local(async move {
            let tls = shared.tls.clone();
            serve_http3(socket, &shared.quic_keys, tls, options, front, drain).await
        })
    });
    over_tcp.chain(over_quic).collect()
}

async fn run_back(
    seat: Seat,
    index: usize,
    handed: mpsc::Receiver<Handed>,
    inbox: Inbox,
    fronts: &watch::Sender<()>,
) {
    let shared = seat.shared.clone();
    // Linux keeps the priority of each thread by itself.
    if let Err(error) = rustix::process::nice(BACK_NICENESS) {
        tracing::debug!(%error, "back threads run at the priority of front threads");
    }
    let mut tasks = match Tasks::begin(seat, inbox.jobs, None) {
        Ok(tasks) => tasks,
        Err(error) => return tracing::error!(%error, "a back thread cannot start"),
    };
    let serving = serve_handed(tasks.dispatcher.placer.clone(), index, handed);
    tasks.running.push(tokio::task::spawn_local(serving));
    // Whoever started the thread may not care.
    let _ = inbox.starting.send(());
    fronts.closed().await;
    tasks.finish(&shared.config).await;
}

fn dispatcher(seat: &Seat, drain: Option<DrainSignal>) -> std::io::Result<Rc<Dispatcher>> {
    let Seat { shared, placement, role } = seat;
    let config = &shared.config;
    let options =
        OutboundOptions { allow: config.outbound.allow.clone(), ..OutboundOptions::default() };
    let outbound = Outbound::new(options, &shared.system);
    let region = config.cluster.as_ref().map(|cluster| cluster.region.as_str());
    let region = region.or(config.geo.colo.as_deref());
    let host = Rc::new(ThreadHost {
        origins: Rc::new(OriginClients::new(outbound.clone(), region)),
        outbound,
        kv: shared.kv.clone(),
        node: NodeFacts::new(config, shared.geo.clone()),
        hub: shared.hub.clone(),
        targets: shared.targets.clone(),
        console: shared.console.clone(),
        debuggees: shared.debuggees.clone(),
        quarantined: shared.quarantined.clone(),
        placer: RefCell::new(Weak::new()),
        peering: shared.peering.clone(),
        remembered: RefCell::new(HashMap::new()),
    });
    let isolates = shared.engine.thread()?;
    tokio::task::spawn_local(spares::keep(isolates.clone(), config.isolates.spares_per_thread));
    let back = match role {
        Role::Front => None,
        Role::Back(index) => {
            placement.backs()[*index].began(isolates.pulse());
            Some(*index)
        }
    };
    let (state, limits) = (shared.state.clone(), config.limits.clone());
    let pool = Pool::new(isolates, placement.clone(), back, state, limits.clone(), host.clone());
    let queue_max = limits.queue_max;
    let placer = Placer::new(placement.clone(), pool, host.clone(), *role, queue_max);
    *host.placer.borrow_mut() = Rc::downgrade(&placer);
    let targets = shared.targets.clone();
    let development = config.development;
    let forwarding = shared
        .peering
        .clone()
        .map(|peering| Forwarding::new(peering, shared.hub.metrics().clone(), limits.wall_ms_max));
    let siblings = shared.siblings.clone();
    let home_calls = siblings.map(|siblings| HomeCalls::new(siblings, limits.wall_ms_max));
    let help = "Scripts that failed to decide about a request";
    let script_failures = shared.hub.metrics().counter("rule_script_failures", help);
    Ok(Rc::new(Dispatcher {
        targets,
        placer,
        limits,
        development,
        forwarding,
        home_calls,
        ahead: Ahead::default(),
        drain,
        deciding: Cell::default(),
        script_failures,
    }))
}

async fn keep_house(seat: Seat, dispatcher: Rc<Dispatcher>) {
    let Dispatcher { placer, targets, .. } = &*dispatcher;
    let mut counted = 0;
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    let mut looks = tokio::time::interval(PRESSURE_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = looks.tick() => {
                placer.pool.relieve().await;
                continue;
            }
            () = seat.placement.room.asked() => {
                placer.pool.evict_one();
                continue;
            }
        }
        placer.sweep(|version| targets.serves(version)).await;
        dispatcher.forwarding.iter().for_each(Forwarding::sweep);
        dispatcher.home_calls.iter().for_each(HomeCalls::sweep);
        let held = placer.pool.len();
        if let Role::Back(index) = seat.role {
            seat.placement.backs()[index].instances.store(held, Ordering::Relaxed);
        }
        let now = i64::try_from(held).unwrap_or(i64::MAX);
        seat.shared.instances.fetch_add(now - counted, Ordering::Relaxed);
        counted = now;
    }
}

/// Loads what is deployed without waiting for a request, so that breakpoints can be set before the first.
async fn load_deployed(state: Arc<dyn ServingState>, dispatcher: Rc<Dispatcher>) {
    let mut snapshots = state.snapshots();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        for version in serving(&snapshot) {
            // Whoever deployed it was told why it does not start.
            let _ = dispatcher.placer.pool.instance(version).await;
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

async fn take_jobs(dispatcher: Rc<Dispatcher>, mut inbox: mpsc::Receiver<Job>) {
    while let Some(Job::Scheduled { worker, cron, scheduled_ms }) = inbox.recv().await {
        let dispatcher = dispatcher.clone();
        tokio::task::spawn_local(async move {
            scheduled(&dispatcher, worker, cron, scheduled_ms).await
        });
    }
}

async fn scheduled(dispatcher: &Dispatcher, worker: WorkerRef, cron: String, scheduled_ms: u64) {
    let Some(target) = dispatcher.targets.worker(&worker) else { return };
    let Some(version) = target.version(rand::random_range(0.0..100.0)) else { return };
    let id = new_id();
    let placer = &dispatcher.placer;
    let hub = &placer.host.hub;
    let mut subject = Subject::scheduled(worker, version.clone(), cron.clone(), scheduled_ms);
    if let Err(refusal) = subject.admit(target.gate(&placer.placement.admission), Arrival::Fresh) {
        subject.unanswered(hub, id, refusal.into());
        return;
    }
    placer.clone().cron(CronCall { id, subject, cron, scheduled_ms }).await;
}
