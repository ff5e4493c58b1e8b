//! A serving process: the child of a supervisor that tells it everything over its standard input. It ends
//! when it is told to, when a thread of it fails, and at once when the supervisor is gone.

use std::collections::VecDeque;
use std::mem;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use atoll_router::Tls;
use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::state::LinkState;
use super::{Serving, ServingOptions, start_engine};
use crate::dispatch::{Job, Quarantined, ServingPeering, ServingSiblings, script};
use crate::experiments::{Flush, Recorder};
use crate::geo::Geo;
use crate::node::control::raise_file_limit;
use crate::node::sockets::ThreadSockets;
use crate::observe::{Metrics, ReportHub, init_log};
use crate::outbound::SystemNetwork;
use crate::process::{
    self, FrameLimits, FromServing, LinkError, LinkReader, LinkSender, ServingStart, ToServing,
    join_modules, open, own_link, receive_fds,
};
use crate::registry::WorkerRef;
use crate::report::InvocationReport;
use crate::sandbox::{self, SandboxOptions};

/// How often counts are sent, and the threads are looked at.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// What the supervisor may send: snapshots and versions are payload.
const LIMITS: FrameLimits = FrameLimits { header_bytes_max: 64 << 20, payload_bytes_max: 1 << 30 };

/// A serving process cannot go on.
type Fatal = Box<dyn std::error::Error + Send + Sync>;

/// `atoll serving-process`: serves until the supervisor says otherwise. Must be called before other threads
/// are started.
///
/// # Errors
/// When it cannot start, or a thread of it has failed.
pub(crate) fn run() -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())
}

/// The descriptors that come before the first message, in their order.
struct Descriptors {
    crashes: OwnedFd,
    kv: OwnedFd,
    epochs: OwnedFd,
    geo: OwnedFd,
    /// Those of the threads.
    sockets: VecDeque<OwnedFd>,
    /// The senders of all inboxes of the node.
    inboxes: Vec<UnixDatagram>,
    /// Those of the threads for other nodes.
    peers: Vec<TcpListener>,
    /// Those of the threads for other serving processes.
    siblings: Vec<TcpListener>,
}

impl Descriptors {
    async fn receive(link: &UnixStream) -> Result<Self, Fatal> {
        fn sockets<S: From<OwnedFd>>(fds: Vec<OwnedFd>) -> Vec<S> {
            fds.into_iter().map(S::from).collect()
        }
        let mut first = VecDeque::from(receive_fds(link).await?);
        let mut next = || first.pop_front().ok_or("descriptors are missing");
        Ok(Self {
            crashes: next()?,
            kv: next()?,
            epochs: next()?,
            geo: next()?,
            sockets: first,
            inboxes: sockets(receive_fds(link).await?),
            peers: sockets(receive_fds(link).await?),
            siblings: sockets(receive_fds(link).await?),
        })
    }
}

async fn serve() -> Result<(), Fatal> {
    // A signal to the whole process group is the supervisor's to understand.
    let _ignored = ignored_signals()?;
    let socket = own_link()?;
    let fds = Descriptors::receive(&socket).await?;
    let (link, mut from_supervisor) = open::<FromServing, ToServing>(socket, LIMITS);
    let (ToServing::Start(mut start), snapshot) = from_supervisor.next().await? else {
        return Err("the supervisor does not begin with the start".into());
    };
    let (credentials, neighbours) = (start.credentials.take(), mem::take(&mut start.neighbours));
    let siblings = start.siblings.take();
    let ServingStart { config, tls, quic, quarantined: now_quarantined, followed, .. } = *start;
    let sockets = ThreadSockets::collect(fds.sockets, config.http3).ok_or("sockets are missing")?;
    init_log(&config.log)?;
    atoll_isolate::report_crashes(fds.crashes)?;
    raise_file_limit();
    forbid_core_dumps();
    let tls = Arc::new(Tls::new(tls.material()?)?);
    let system = SystemNetwork::read();
    // From here on nothing is read from the file system. There is no other thread yet.
    let sandbox = sandbox::enter(&SandboxOptions::default()).to_string();
    let kv = process::kv::connect(fds.kv, fds.epochs, &config.kv)?;
    let geo = Arc::new(Geo::new(&config.geo)?);
    process::geo::follow(fds.geo, geo.clone()).await?;
    let peering = credentials.map(|shown| ServingPeering::new(&shown, neighbours));
    let peering = peering.transpose()?.map(Arc::new);
    let siblings = siblings.map(|(place, siblings)| ServingSiblings::new(place, siblings));
    let siblings = siblings.transpose()?.map(Arc::new);
    let engine = start_engine(&config.memory)?;
    let compiler = engine.clone();
    let metrics = Arc::new(Metrics::default());
    let (hub, reports) = ReportHub::relayed(metrics.clone());
    hub.follow(followed);
    let recorder = Recorder::default();
    let quarantined = Arc::new(Quarantined::default());
    quarantined.replace(now_quarantined);
    let state = LinkState::new(link.clone());
    state.take_over(rmp_serde::from_slice(&snapshot)?)?;
    let serving = Serving::start(ServingOptions {
        engine,
        config,
        state: Arc::new(state.clone()),
        kv,
        geo,
        hub: hub.clone(),
        recorder: recorder.clone(),
        debuggees: None,
        quarantined: quarantined.clone(),
        system,
        sockets,
        quic,
        inboxes: fds.inboxes,
        tls: tls.clone(),
        peers: fds.peers,
        peering: peering.clone(),
        sibling_sockets: fds.siblings,
        siblings: siblings.clone(),
    })
    .await?;
    let (drain, drained) = oneshot::channel();
    let state_ahead = state.clone();
    let fire = Box::new(serving.fire());
    let at_home = siblings.clone();
    let told = Told { link: link.clone(), state, hub, tls, peering, siblings, quarantined, fire };
    let mut supervised = tokio::spawn(told.listen(from_supervisor, drain));
    let (last_report, no_more) = oneshot::channel();
    let reporting = tokio::spawn(send_reports(reports, link.clone(), no_more));
    link.send(&FromServing::Ready { sandbox }, Vec::new()).await?;
    tokio::spawn(tell_use(serving.in_use(), link.clone()));
    let is_home = move |worker: &WorkerRef| at_home.as_ref().is_none_or(|all| all.is_home(worker));
    tokio::spawn(state_ahead.fetch_ahead(is_home, move |version| {
        compiler.compile_ahead(Arc::new(script(version)));
    }));
    let within = tokio::select! {
        ended = &mut supervised => orphaned(ended?),
        watched = watch_threads(&serving, &metrics, &recorder, &link) => match watched {
            Ok(()) => return Err("a data-plane thread has failed".into()),
            Err(error) => orphaned(error),
        },
        // Without the word, whoever could bring it is gone, and the listening ends as well.
        Ok(within) = drained => within,
    };
    let finish = async {
        serving.drain(within).await;
        drop(last_report);
        let _ = reporting.await;
        link.send(&FromServing::Metrics(metrics.drain()), Vec::new()).await?;
        let last = recorder.flush(Flush::Last);
        link.send(&FromServing::Experiments(Box::new(last)), Vec::new()).await?;
        link.send(&FromServing::Drained, Vec::new()).await
    };
    tokio::select! {
        ended = &mut supervised => orphaned(ended?),
        finished = finish => finished.unwrap_or_else(|error: LinkError| orphaned(error)),
    }
    // The supervisor has read everything when it closes the link.
    let _ = supervised.await;
    Ok(())
}

fn ignored_signals() -> std::io::Result<[Signal; 3]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ])
}

/// The memory of a process that crashed holds every tenant's secrets, and writing it to disk would keep the
/// next one waiting.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps could not be forbidden");
    }
}

/// Without a supervisor there is no state, no log of crashes and nobody to answer for: what is under way
/// is cut.
fn orphaned(error: LinkError) -> ! {
    match error {
        LinkError::Closed => tracing::warn!("the supervisor is gone: this process ends"),
        error => tracing::error!(%error, "the supervisor is not understood: this process ends"),
    }
    std::process::exit(1)
}

/// Sends reports until `no_more` is dropped, and then what is queued.
async fn send_reports(
    mut reports: mpsc::Receiver<InvocationReport>,
    link: LinkSender<FromServing>,
    mut no_more: oneshot::Receiver<()>,
) {
    loop {
        let report = tokio::select! {
            biased;
            report = reports.recv() => report,
            _ = &mut no_more => None,
        };
        let Some(report) = report else { return };
        if link.send(&FromServing::Report(Box::new(report)), Vec::new()).await.is_err() {
            return;
        }
    }
}

/// Says which revision of the registry is in use, whenever that changes.
async fn tell_use(mut in_use: watch::Receiver<u64>, link: LinkSender<FromServing>) {
    loop {
        let revision = *in_use.borrow_and_update();
        let told = link.send(&FromServing::Applied { revision }, Vec::new()).await;
        if told.is_err() || in_use.changed().await.is_err() {
            return;
        }
    }
}

/// Sends counts until a thread ends that should not.
///
/// # Errors
/// When the link ends before that.
async fn watch_threads(
    serving: &Serving,
    metrics: &Metrics,
    recorder: &Recorder,
    link: &LinkSender<FromServing>,
) -> Result<(), LinkError> {
    let mut ticks = tokio::time::interval(METRICS_INTERVAL);
    loop {
        ticks.tick().await;
        if serving.has_failed() {
            return Ok(());
        }
        link.send(&FromServing::Metrics(metrics.drain()), Vec::new()).await?;
        let seen = recorder.flush(Flush::Tick);
        if !seen.is_empty() {
            link.send(&FromServing::Experiments(Box::new(seen)), Vec::new()).await?;
        }
    }
}

/// What the supervisor's words act upon.
struct Told {
    link: LinkSender<FromServing>,
    state: LinkState,
    hub: ReportHub,
    tls: Arc<Tls>,
    peering: Option<Arc<ServingPeering>>,
    siblings: Option<Arc<ServingSiblings>>,
    quarantined: Arc<Quarantined>,
    fire: Box<dyn Fn(Job) -> bool + Send + Sync>,
}

impl Told {
    /// Acts upon what the supervisor says, until the link ends.
    async fn listen(
        self,
        mut supervisor: LinkReader<ToServing>,
        drain: oneshot::Sender<Duration>,
    ) -> LinkError {
        let mut drain = Some(drain);
        loop {
            let acted = match supervisor.next().await {
                Ok((ToServing::Drain { ms_max }, _)) => {
                    if let Some(drain) = drain.take() {
                        // Nobody waits for it while the process ends for another reason.
                        let _ = drain.send(Duration::from_millis(ms_max));
                    }
                    Ok(())
                }
                Ok((word, payload)) => self.act(word, payload).await,
                Err(error) => Err(error),
            };
            if let Err(error) = acted {
                return error;
            }
        }
    }

    async fn act(&self, word: ToServing, payload: Bytes) -> Result<(), LinkError> {
        match word {
            ToServing::Start(_) => return Err(LinkError::OutOfTurn("start")),
            ToServing::Drain { .. } => {}
            ToServing::Snapshot => self.state.take_over(rmp_serde::from_slice(&payload)?)?,
            ToServing::Tls(bytes) => {
                // The supervisor has looked at them: this is for the reader of its log.
                if let Err(error) = bytes.material().and_then(|material| self.tls.replace(material))
                {
                    tracing::error!(%error, "TLS stays as it was");
                }
            }
            ToServing::Credentials(shown) => {
                let renewed = self.peering.as_ref().map(|peering| peering.renew(&shown));
                if let Some(Err(error)) = renewed {
                    tracing::error!(%error, "other nodes are shown the certificate of before");
                }
            }
            ToServing::Neighbours(now) => {
                self.peering.iter().for_each(|peering| peering.meet((*now).clone()));
            }
            ToServing::Siblings(now) => {
                let met = self.siblings.as_ref().map(|siblings| siblings.meet(*now));
                if let Some(Err(error)) = met {
                    tracing::error!(%error, "other serving processes are shown the certificate of before");
                }
            }
            ToServing::Followed(followed) => self.hub.follow(followed),
            ToServing::Quarantined(versions) => self.quarantined.replace(versions),
            ToServing::Job(job) => {
                if !(self.fire)(job) {
                    tracing::warn!("a cron line was skipped: every thread is busy");
                }
            }
            ToServing::Version { request, version } => {
                let whole = version.and_then(|found| match found {
                    None => Ok(None),
                    Some((version, parts)) => match join_modules(*version, parts, payload) {
                        Some(version) => Ok(Some(version)),
                        None => Err("its modules did not arrive".to_owned()),
                    },
                });
                self.state.answer(request, whole);
            }
            ToServing::Ping(number) => {
                self.link.send(&FromServing::Pong(number), Vec::new()).await?;
            }
        }
        Ok(())
    }
}
