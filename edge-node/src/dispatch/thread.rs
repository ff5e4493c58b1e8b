//! One data-plane thread: its runtime, its listeners, its instances, its client, its inbox for events that
//! are not requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::TcpListener;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use atoll_isolate::Engine;
use atoll_kv::KvStore;
use atoll_router::{DrainSignal, ServeOptions, serve};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::LocalSet;

use super::cf::CfTexts;
use super::events::{Subject, on_end};
use super::host::{ConsoleLine, ThreadHost};
use super::pool::Pool;
use super::quarantine::Quarantined;
use super::service::{Dispatcher, Front, new_id};
use super::spares;
use super::targets::Targets;
use crate::config::NodeConfig;
use crate::inspect::{Debuggees, serving};
use crate::observe::ReportHub;
use crate::outbound::{Outbound, OutboundOptions, SystemNetwork};
use crate::registry::WorkerRef;
use crate::state::ServingState;

/// V8 takes close to 1 MiB of stack; the rest is for Rust around it.
const STACK_BYTES: usize = 8 << 20;

/// Events that wait for one thread.
const JOBS_QUEUED_MAX: usize = 256;

/// How often instances that are no longer wanted are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

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
    /// The TLS configuration.
    pub tls: Arc<ServerConfig>,
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

/// Starts one thread for each set of sockets.
///
/// # Errors
/// When the operating system gives no thread.
pub fn spawn_threads(
    shared: &Arc<Shared>,
    sockets: Vec<Sockets>,
    drain: &DrainSignal,
) -> Result<Vec<DataThread>, ThreadError> {
    sockets
        .into_iter()
        .enumerate()
        .map(|(index, sockets)| spawn(index, shared, sockets, drain.clone()))
        .collect()
}

fn spawn(
    index: usize,
    shared: &Arc<Shared>,
    sockets: Sockets,
    drain: DrainSignal,
) -> Result<DataThread, ThreadError> {
    let (jobs, inbox) = mpsc::channel(JOBS_QUEUED_MAX);
    let (starting, started) = oneshot::channel();
    let shared = shared.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run =
        move || LocalSet::new().block_on(&runtime, run(shared, sockets, drain, inbox, starting));
    let thread = std::thread::Builder::new().name(format!("data-{index}")).stack_size(STACK_BYTES);
    Ok(DataThread { jobs, started, join: thread.spawn(run)? })
}

async fn run(
    shared: Arc<Shared>,
    sockets: Sockets,
    drain: DrainSignal,
    inbox: mpsc::Receiver<Job>,
    starting: oneshot::Sender<()>,
) {
    let dispatcher = match dispatcher(&shared) {
        Ok(dispatcher) => dispatcher,
        Err(error) => {
            tracing::error!(%error, "a data-plane thread cannot start");
            return;
        }
    };
    let options = ServeOptions {
        url_bytes_max: shared.config.limits.url_bytes_max,
        header_bytes_max: shared.config.limits.request_header_bytes_max,
        ..ServeOptions::default()
    };
    let front = Rc::new(Front(dispatcher.clone()));
    let listeners =
        [(sockets.http, None), (sockets.https, Some(sockets.tls))].map(|(listener, tls)| {
            tokio::task::spawn_local(serve(
                listener,
                tls,
                options.clone(),
                front.clone(),
                drain.clone(),
            ))
        });
    let housekeeping = tokio::task::spawn_local(keep_house(shared.clone(), dispatcher.clone()));
    let events = tokio::task::spawn_local(take_jobs(dispatcher.clone(), inbox));
    let loading = shared
        .debuggees
        .is_some()
        .then(|| tokio::task::spawn_local(load_deployed(shared.state.clone(), dispatcher.clone())));
    // Whoever started the thread may not care.
    let _ = starting.send(());
    for listener in listeners {
        match listener.await {
            Ok(Ok(drained)) => {
                tracing::debug!(finished = drained.finished, cut = drained.cut, "listener drained")
            }
            Ok(Err(error)) => tracing::error!(%error, "listener failed"),
            Err(error) => tracing::error!(%error, "listener task failed"),
        }
    }
    let last = async {
        while dispatcher.pool.in_flight() > 0 {
            tokio::time::sleep(DRAIN_CHECK).await;
        }
    };
    let wait_until = Duration::from_millis(
        shared.config.limits.wait_until_ms_max.min(shared.config.drain_ms_max),
    );
    if tokio::time::timeout(wait_until, last).await.is_err() {
        tracing::warn!("invocations were cut off by the drain's deadline");
    }
    housekeeping.abort();
    events.abort();
    if let Some(loading) = loading {
        loading.abort();
    }
}

fn dispatcher(shared: &Arc<Shared>) -> std::io::Result<Rc<Dispatcher>> {
    let config = &shared.config;
    let options =
        OutboundOptions { allow: config.outbound.allow.clone(), ..OutboundOptions::default() };
    let outbound = Outbound::new(options, &shared.system);
    let host = Rc::new(ThreadHost {
        outbound,
        kv: shared.kv.clone(),
        hub: shared.hub.clone(),
        targets: shared.targets.clone(),
        console: shared.console.clone(),
        debuggees: shared.debuggees.clone(),
        quarantined: shared.quarantined.clone(),
        pool: RefCell::new(Weak::new()),
        depths: RefCell::new(HashMap::new()),
    });
    let isolates = shared.engine.thread()?;
    tokio::task::spawn_local(spares::keep(isolates.clone(), config.isolates.spares_per_thread));
    let pool = Pool::new(isolates, shared.state.clone(), config.limits.clone(), host.clone());
    *host.pool.borrow_mut() = Rc::downgrade(&pool);
    let targets = shared.targets.clone();
    Ok(Rc::new(Dispatcher {
        targets,
        pool,
        host,
        limits: config.limits.clone(),
        cf: CfTexts::default(),
    }))
}

async fn keep_house(shared: Arc<Shared>, dispatcher: Rc<Dispatcher>) {
    let mut counted = 0;
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        dispatcher.pool.sweep(|version| dispatcher.targets.serves(version));
        let now = i64::try_from(dispatcher.pool.len()).unwrap_or(i64::MAX);
        shared.instances.fetch_add(now - counted, Ordering::Relaxed);
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
            let _ = dispatcher.pool.instance(version).await;
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
    let hub = &dispatcher.host.hub;
    let subject = Subject::scheduled(worker, version.clone(), cron.clone(), scheduled_ms);
    let instance = match dispatcher.pool.instance(version).await {
        Ok(instance) => instance,
        Err(error) => {
            return subject.refused(hub, id, atoll_isolate::Outcome::Exception, error.to_string());
        }
    };
    let ended = on_end(hub.clone(), subject);
    if let Err(failure) = instance.scheduled(id, &cron, scheduled_ms, ended).await {
        tracing::debug!(outcome = failure.outcome.as_str(), "scheduled handler failed");
    }
}
