//! Where finished invocations are reported: metrics, the log, and whoever follows a worker live.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use atoll_isolate::Outcome;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};

use super::{Count, Metrics};
use crate::registry::WorkerRef;
use crate::report::InvocationReport;

/// Reports that wait for one listener; the oldest are dropped and counted when it is too slow.
const REPORTS_QUEUED_MAX: usize = 1_024;

type Channel = broadcast::Sender<Arc<InvocationReport>>;

/// Takes reports of finished invocations. Cloning is cheap and shares the hub.
#[derive(Clone)]
pub struct ReportHub {
    inner: Arc<Inner>,
}

struct Inner {
    metrics: Arc<Metrics>,
    everything: Channel,
    /// A channel for each worker that someone follows: read at every invocation, seldom changed.
    followed: ArcSwap<FxHashMap<WorkerRef, Channel>>,
    changing: Mutex<()>,
    /// Whom listeners follow, for those who publish in other processes.
    announced: watch::Sender<Followed>,
    /// Where reports go instead of the log and listeners of this process.
    outlet: Option<Outlet>,
}

/// The way to the hub of another process.
struct Outlet {
    reports: mpsc::Sender<InvocationReport>,
    dropped: Count,
    /// Whether the listeners of the other hub follow every worker.
    everything: AtomicBool,
}

/// Whose reports listeners follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Some follow every worker.
    pub everything: bool,
    /// Workers that some follow.
    pub workers: Vec<WorkerRef>,
}

impl ReportHub {
    /// Makes a hub that counts into `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self::with_outlet(metrics, None)
    }

    /// Makes a hub whose reports go to the hub of another process, as far as somebody there wants them.
    /// Nothing waits for the receiver: what finds the queue full is dropped and counted.
    pub fn relayed(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<InvocationReport>) {
        let (reports, receiver) = mpsc::channel(REPORTS_QUEUED_MAX);
        let help = "Reports of invocations that were lost between processes";
        let dropped = metrics.counter("reports_dropped", help);
        let outlet = Outlet { reports, dropped, everything: AtomicBool::new(false) };
        (Self::with_outlet(metrics, Some(outlet)), receiver)
    }

    fn with_outlet(metrics: Arc<Metrics>, outlet: Option<Outlet>) -> Self {
        let inner = Inner {
            metrics,
            everything: broadcast::Sender::new(REPORTS_QUEUED_MAX),
            followed: ArcSwap::default(),
            changing: Mutex::default(),
            announced: watch::Sender::default(),
            outlet,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whom listeners follow, whenever that changes.
    pub fn followed(&self) -> watch::Receiver<Followed> {
        self.inner.announced.subscribe()
    }

    /// Takes over whom the listeners of the other hub follow.
    pub fn follow(&self, followed: Followed) {
        let Some(outlet) = &self.inner.outlet else { return };
        outlet.everything.store(followed.everything, Ordering::Relaxed);
        let each = followed.workers.into_iter().map(|worker| (worker, Channel::new(1)));
        self.inner.followed.store(Arc::new(each.collect()));
    }

    /// The metrics that this hub counts into.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Whether someone follows the worker live, so that request headers are worth copying.
    pub fn wants_headers(&self, worker: &WorkerRef) -> bool {
        self.inner.followed.load().contains_key(worker)
    }

    /// Whether anyone would see a report of this: the log has what did not end well, followers everything.
    pub fn wants(&self, worker: &WorkerRef, outcome: Outcome) -> bool {
        outcome != Outcome::Ok
            || self.inner.everything.receiver_count() > 0
            || self.inner.outlet.as_ref().is_some_and(|to| to.everything.load(Ordering::Relaxed))
            || self.inner.followed.load().contains_key(worker)
            || tracing::enabled!(tracing::Level::DEBUG)
    }

    /// Counts a finished invocation that nobody wants a report of.
    pub fn count(&self, worker: &WorkerRef, outcome: Outcome, cpu_us: u64, wall_us: u64) {
        self.inner.metrics.observe(worker, outcome, cpu_us, wall_us);
    }

    /// Reports a finished invocation. Never blocks.
    pub fn publish(&self, report: InvocationReport) {
        self.count(&report.worker, report.outcome, report.cpu_us, report.wall_us);
        match &self.inner.outlet {
            None => self.show(report),
            Some(outlet) => {
                if outlet.reports.try_send(report).is_err() {
                    outlet.dropped.add(1);
                }
            }
        }
    }

    /// Writes a report that was counted elsewhere to the log, and gives it to listeners. Never blocks.
    pub fn show(&self, report: InvocationReport) {
        log(&report);
        let followed = self.inner.followed.load();
        let channel = followed.get(&report.worker);
        let all = Some(&self.inner.everything).filter(|all| all.receiver_count() > 0);
        if channel.is_none() && all.is_none() {
            return;
        }
        let report = Arc::new(report);
        for channel in channel.into_iter().chain(all) {
            // No receiver is left: the listener went away meanwhile.
            let _ = channel.send(report.clone());
        }
    }

    /// Follows one worker.
    pub fn listen(&self, worker: &WorkerRef) -> Listener {
        let _changing = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = self.inner.followed.load();
        if let Some(channel) = followed.get(worker) {
            return Listener::new(channel, self, Some(worker));
        }
        let channel = Channel::new(REPORTS_QUEUED_MAX);
        let listener = Listener::new(&channel, self, Some(worker));
        let mut changed = FxHashMap::clone(&followed);
        changed.insert(worker.clone(), channel);
        self.inner.followed.store(Arc::new(changed));
        self.announce();
        listener
    }

    /// Follows every worker of the node, without request headers.
    pub fn listen_to_all(&self) -> Listener {
        let listener = Listener::new(&self.inner.everything, self, None);
        self.announce();
        listener
    }

    fn announce(&self) {
        let workers = self.inner.followed.load().keys().cloned().collect();
        let everything = self.inner.everything.receiver_count() > 0;
        let now = Followed { everything, workers };
        self.inner.announced.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    fn forget_unfollowed(&self) {
        let _changing = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut followed = FxHashMap::clone(&self.inner.followed.load());
        followed.retain(|_, channel| channel.receiver_count() > 0);
        self.inner.followed.store(Arc::new(followed));
        self.announce();
    }
}

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A finished invocation.
    Report(Arc<InvocationReport>),
    /// The listener was too slow: so many reports are lost.
    Missed(u64),
}

/// Follows reports until it is dropped.
pub struct Listener {
    /// Taken out on drop, before the hub counts who is left.
    receiver: Option<broadcast::Receiver<Arc<InvocationReport>>>,
    hub: ReportHub,
    one_worker: bool,
}

impl Listener {
    fn new(channel: &Channel, hub: &ReportHub, worker: Option<&WorkerRef>) -> Self {
        let receiver = Some(channel.subscribe());
        Self { receiver, hub: hub.clone(), one_worker: worker.is_some() }
    }

    /// The next report, or how many were lost. Cancel-safe. Nothing when the hub is gone.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.receiver.as_mut()?.recv().await {
            Ok(report) => Some(Heard::Report(report)),
            Err(RecvError::Lagged(count)) => Some(Heard::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.receiver = None;
        match self.one_worker {
            true => self.hub.forget_unfollowed(),
            false => self.hub.announce(),
        }
    }
}

fn log(report: &InvocationReport) {
    let (id, worker) = (&*report.id, report.worker.worker.as_str());
    for line in &report.logs {
        tracing::debug!(id, worker, level = ?line.level, "{}", line.message);
    }
    if report.outcome == Outcome::Ok {
        return;
    }
    let exception = report.exceptions.first();
    tracing::info!(
        id,
        worker,
        account = report.worker.account.as_str(),
        version = report.version.as_str(),
        outcome = report.outcome.as_str(),
        exception = exception.map(|e| format!("{}: {}", e.name, e.message)),
        cpu_us = report.cpu_us,
        wall_us = report.wall_us,
        "an invocation did not end well"
    );
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::registry::{AccountId, VersionId, WorkerName};
    use crate::report::Event;

    pub(crate) fn report(worker: &str, outcome: Outcome) -> InvocationReport {
        InvocationReport {
            id: "0123456789abcdef".into(),
            worker: WorkerRef { account: AccountId::new("a"), worker: WorkerName::new(worker) },
            version: VersionId::new("v"),
            event: Event::Scheduled { cron: "* * * * *".into(), scheduled_ms: 0 },
            outcome,
            exceptions: Vec::new(),
            logs: Vec::new(),
            started_ms: 1,
            cpu_us: 2,
            wall_us: 3,
        }
    }

    #[tokio::test]
    async fn listeners_hear_their_worker_only_and_are_told_what_they_missed() {
        let hub = ReportHub::new(Arc::default());
        let worker = report("w", Outcome::Ok).worker;
        assert!(!hub.wants_headers(&worker));
        hub.publish(report("w", Outcome::Ok));
        let mut first = hub.listen(&worker);
        let mut second = hub.listen(&worker);
        let mut all = hub.listen_to_all();
        assert!(hub.wants_headers(&worker));
        hub.publish(report("other", Outcome::Ok));
        hub.publish(report("w", Outcome::Exception));
        for listener in [&mut first, &mut second] {
            let Some(Heard::Report(heard)) = listener.next().await else { panic!("no report") };
            assert_eq!(heard.outcome, Outcome::Exception);
        }
        let Some(Heard::Report(heard)) = all.next().await else { panic!("no report") };
        assert_eq!(heard.worker.worker.as_str(), "other");
        drop(second);
        assert!(hub.wants_headers(&worker));
        for _ in 0..REPORTS_QUEUED_MAX + 9 {
            hub.publish(report("w", Outcome::Ok));
        }
        assert!(matches!(first.next().await, Some(Heard::Missed(9))));
        drop(first);
        assert!(!hub.wants_headers(&worker));
    }
}
