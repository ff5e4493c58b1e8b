//! Brings calls and instances of one thread together: on the thread's own instance if it has one, else on a
//! back thread. It gives versions that are called often an instance on a front thread, and takes it from
//! those that run long there.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use atoll_isolate::{Body, Fetching, Instance, Outcome};
use http::Response;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::back::{Handed, Work};
use super::body::AnswerBody;
use super::call::{Answered, Call, CronCall, Judged, Unanswered};
use super::events::on_end;
use super::host::ThreadHost;
use super::pages::Problem;
use super::placement::{CallRate, SLICE_MAX};
use super::pool::Pool;
use super::replicas::{BackThread, Placement, Replicas, Waiting};
use crate::registry::VersionId;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It accepts, and runs what is called often and never long.
    Front,
    /// It runs everything else. The number is its place among the back threads.
    Back(usize),
}

/// What a front thread knows of a version that it has no instance of.
struct Seat {
    replicas: Arc<Replicas>,
    rate: CallRate,
}

/// Places the calls that come up on one thread.
pub(super) struct Placer {
    pub(super) placement: Arc<Placement>,
    pub(super) pool: Rc<Pool>,
    pub(super) host: Rc<ThreadHost>,
    role: Role,
    queue_max: u32,
    seats: RefCell<FxHashMap<VersionId, Seat>>,
    /// An instance is being loaded on this front thread. One at a time: each holds the thread up for some
    /// milliseconds.
    promoting: Cell<bool>,
}

/// Where a call goes that the thread has no instance for.
enum Place<'a> {
    Here(Waiting),
    There(&'a BackThread, Waiting),
    /// Nowhere: too many wait.
    Full,
}

/// Too many requests wait for the version, or for the thread.
fn overloaded() -> Unanswered {
    let message = "limits.queue_max requests wait for the worker".to_owned();
    Unanswered { problem: Problem::Ended(Outcome::Overloaded), message }
}

impl Placer {
    pub(super) fn new(
        placement: Arc<Placement>,
        pool: Rc<Pool>,
        host: Rc<ThreadHost>,
        role: Role,
        queue_max: u32,
    ) -> Rc<Self> {
        let (seats, promoting) = (RefCell::default(), Cell::new(false));
        Rc::new(Self { placement, pool, host, role, queue_max, seats, promoting })
    }

    /// This thread's instance, if it has one that may go on here.
    pub(super) fn live(&self, version: &VersionId) -> Option<Instance> {
        let instance = self.pool.live(version)?;
        instance.footprint().prefetch();
        if self.role == Role::Front
            && instance.longest_slice() > SLICE_MAX
            && !self.placement.backs().is_empty()
        {
            self.demote(version);
            return None;
        }
        Some(instance)
    }

    /// Calls the handler of an instance of this thread.
    pub(super) fn start(
        &self,
        instance: &Instance,
        waiting: Waiting,
        call: Call<Body>,
    ) -> Fetching {
        let replicas = waiting.into_replicas();
        let fetching = call.start(instance, &self.host);
        replicas.called(instance.take_longest_slice());
        fetching
    }

    /// Answers a call that this thread has no instance for.
    pub(super) async fn fetch(self: Rc<Self>, call: Call) -> Answered<AnswerBody> {
        match self.place(call.subject.version()) {
            Place::Full => Err(call.unanswered(&self.host.hub, overloaded())),
            Place::Here(waiting) => {
                let instance = match self.pool.instance(call.subject.version()).await {
                    Ok(instance) => instance,
                    Err(error) => return Err(call.unanswered(&self.host.hub, &error)),
                };
                let fetched = self.start(&instance, waiting, call.here()).await;
                Ok(fetched?.map(AnswerBody::Here))
            }
            Place::There(thread, waiting) => {
                self.placement.counts.handed.add(1);
                let (answer, answered) = oneshot::channel();
                let work = Work::Fetch(Box::new(call), answer);
                if let Err(handed) = thread.hand_over(Handed::new(waiting, work)) {
                    let Work::Fetch(call, _) = handed.into_work() else {
                        return Err(Unanswered::lost());
                    };
                    return Err(call.unanswered(&self.host.hub, overloaded()));
                }
                let answered = answered.await.unwrap_or_else(|_| Err(Unanswered::lost()));
                answered.map(|response: Response<_>| response.map(AnswerBody::from))
            }
        }
    }

    /// Has a script decide, wherever its version is.
    pub(super) async fn judge(self: Rc<Self>, call: Call) -> Judged {
        if let Some(instance) = self.live(call.subject.version()) {
            return call.here().judge(&instance, &self.host).await;
        }
        match self.place(call.subject.version()) {
            Place::Full => Err(call.unanswered(&self.host.hub, overloaded())),
            Place::Here(waiting) => self.judge_here(call, waiting).await,
            Place::There(thread, waiting) => {
                let (answer, answered) = oneshot::channel();
                let work = Work::Judge(Box::new(call), answer);
                if let Err(handed) = thread.hand_over(Handed::new(waiting, work)) {
                    let Work::Judge(call, _) = handed.into_work() else {
                        return Err(Unanswered::lost());
                    };
                    return Err(call.unanswered(&self.host.hub, overloaded()));
                }
                answered.await.unwrap_or_else(|_| Err(Unanswered::lost()))
            }
        }
    }

    /// Has a script decide on this thread.
    pub(super) async fn judge_here(&self, call: Call, waiting: Waiting) -> Judged {
        let instance = match self.pool.instance(call.subject.version()).await {
            Ok(instance) => instance,
            Err(error) => return Err(call.unanswered(&self.host.hub, &error)),
        };
        let replicas = waiting.into_replicas();
        let judged = call.here().judge(&instance, &self.host).await;
        replicas.called(instance.take_longest_slice());
        judged
    }

    /// Runs a cron line wherever its version is.
    pub(super) async fn cron(self: Rc<Self>, call: CronCall) {
        let CronCall { id, subject, .. } = match self.place(call.subject.version()) {
            Place::Here(waiting) => return self.cron_here(call, waiting).await,
            Place::Full => call,
            Place::There(thread, waiting) => {
                let work = Work::Cron(Box::new(call));
                let Err(handed) = thread.hand_over(Handed::new(waiting, work)) else { return };
                let Work::Cron(call) = handed.into_work() else { return };
                *call
            }
        };
        subject.unanswered(&self.host.hub, id, overloaded());
    }

    /// Runs a cron line on this thread.
    pub(super) async fn cron_here(&self, call: CronCall, waiting: Waiting) {
        let CronCall { id, subject, cron, scheduled_ms } = call;
        let hub = &self.host.hub;
        let instance = match self.pool.instance(subject.version()).await {
            Ok(instance) => instance,
            Err(error) => {
                subject.unanswered(hub, id, (&error).into());
                return;
            }
        };
        drop(waiting);
        let ended = on_end(hub.clone(), subject);
        if let Err(failure) = instance.scheduled(id, &cron, scheduled_ms, ended).await {
            tracing::debug!(outcome = failure.outcome.as_str(), "scheduled handler failed");
        }
    }

    /// Has an instance ready somewhere, for calls that are about to come.
    pub(super) fn warm(&self, version: &VersionId) {
        if self.pool.live(version).is_some() {
            return;
        }
        let replicas = self.placement.replicas(version);
        if !replicas.is_nowhere() {
            return;
        }
        let Some(waiting) = replicas.wait(self.queue_max) else { return };
        if let Some((_, thread)) = self.placement.choose(&replicas) {
            // A thread whose queue is full has better things to do.
            let _ = thread.hand_over(Handed::new(waiting, Work::Warm(version.clone())));
        }
    }

    fn place(self: &Rc<Self>, version: &VersionId) -> Place<'_> {
        let replicas = match self.role {
            Role::Front => self.called(version),
            Role::Back(_) => self.placement.replicas(version),
        };
        let Some(waiting) = replicas.wait(self.queue_max) else { return Place::Full };
        match self.placement.choose(&replicas) {
            Some((back, thread)) if self.role != Role::Back(back) => Place::There(thread, waiting),
            _ => Place::Here(waiting),
        }
    }

    /// Counts a call on this front thread. Begins to load an instance here for a version that earned it.
    fn called(self: &Rc<Self>, version: &VersionId) -> Arc<Replicas> {
        let now = Instant::now();
        let mut seats = self.seats.borrow_mut();
        if !seats.contains_key(version) {
            let replicas = self.placement.replicas(version);
            let seat = Seat { replicas, rate: CallRate::new(now) };
            seats.insert(version.clone(), seat);
        }
        let seat = seats.get_mut(version).expect("it was put in above");
        let replicas = seat.replicas.clone();
        if seat.rate.call(now)
            && !self.promoting.get()
            && !self.placement.backs().is_empty()
            && replicas.is_proven(now)
        {
            // Calls go to back threads meanwhile.
            self.promoting.set(true);
            let (placer, version) = (self.clone(), version.clone());
            atoll_isolate::spawn(async move { placer.promote(version).await });
        }
        replicas
    }

    async fn promote(&self, version: VersionId) {
        // A version that does not start here did start elsewhere: it is tried again after a while.
        let loaded = self.pool.instance(&version).await;
        self.promoting.set(false);
        self.seats.borrow_mut().remove(&version);
        if loaded.is_ok() {
            self.placement.counts.promotions.add(1);
            tracing::debug!(version = version.as_str(), "promoted to a front thread");
        }
    }

    fn demote(&self, version: &VersionId) {
        self.placement.replicas(version).demote(Instant::now());
        self.pool.retire(version);
        self.placement.counts.demotions.add(1);
        tracing::debug!(version = version.as_str(), "demoted to back threads");
    }

    /// Forgets what was counted too long ago, and instances that are not wanted any more.
    pub(super) async fn sweep(&self, serves: impl Fn(&VersionId) -> bool) {
        let now = Instant::now();
        self.seats.borrow_mut().retain(|_, seat| !seat.rate.is_over(now));
        self.pool.sweep(&serves).await;
        self.placement.sweep(&serves);
    }
}
