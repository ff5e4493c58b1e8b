//! A back thread: it listens to nobody, and runs what front threads hand over. What one version runs long
//! delays others on this thread, not the connections of a front thread.

use std::rc::Rc;
use std::time::{Duration, Instant};

use atoll_isolate::{Fetched, Instance, Outcome};
use futures_util::future::Either;
use tokio::sync::{mpsc, oneshot};

use super::body::HandedBody;
use super::call::{Answered, Call, CronCall, Judged, Unanswered};
use super::fair_queue::FairQueue;
use super::pages::Problem;
use super::placer::Placer;
use super::replicas::{BackThread, Waiting};
use crate::registry::VersionId;

/// How long calls are begun, one after another, before the thread sees to what is under way.
const TURN_MAX: Duration = Duration::from_millis(1);

/// What a front thread hands over.
pub(super) struct Handed {
    since: Instant,
    waiting: Waiting,
    /// What the call is expected to execute in one go, in microseconds.
    work_us: u64,
    work: Work,
}

/// What is to be done with it.
pub(super) enum Work {
    /// Answer a request. The asker that is gone has dropped the receiver.
    Fetch(Box<Call>, oneshot::Sender<Answered<HandedBody>>),
    /// Have a script decide about a request.
    Judge(Box<Call>, oneshot::Sender<Judged>),
    /// Run a cron line.
    Cron(Box<CronCall>),
    /// Have an instance ready.
    Warm(VersionId),
}

impl Handed {
    pub(super) fn new(waiting: Waiting, work: Work) -> Self {
        let work_us = waiting.replicas().slice_us();
        Self { since: Instant::now(), waiting, work_us, work }
    }

    pub(super) fn work_us(&self) -> u64 {
        self.work_us
    }

    pub(super) fn into_work(self) -> Work {
        self.work
    }

    fn version(&self) -> &VersionId {
        match &self.work {
            Work::Fetch(call, _) | Work::Judge(call, _) => call.subject.version(),
            Work::Cron(call) => call.subject.version(),
            Work::Warm(version) => version,
        }
    }
}

/// Begins what is handed over, versions taking turns, until nobody can hand over any more.
pub(super) async fn serve_handed(
    placer: Rc<Placer>,
    back: usize,
    mut inbox: mpsc::Receiver<Handed>,
) {
    let placement = placer.placement.clone();
    let thread = &placement.backs()[back];
    let mut queue = FairQueue::default();
    loop {
        if queue.is_empty() {
            let Some(handed) = inbox.recv().await else { return };
            queue.push(&handed.version().clone(), handed);
        }
        let turn = Instant::now();
        while turn.elapsed() < TURN_MAX {
            // What has come meanwhile takes part in the turns.
            while let Ok(handed) = inbox.try_recv() {
                queue.push(&handed.version().clone(), handed);
            }
            let Some(handed) = queue.pop() else { break };
            begin(&placer, thread, handed);
        }
        if !queue.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

fn begin(placer: &Rc<Placer>, thread: &BackThread, handed: Handed) {
    let Handed { since, waiting, work_us, work } = handed;
    thread.delayed(since.elapsed());
    match work {
        Work::Fetch(call, answer) => begin_fetch(placer, waiting, *call, answer),
        Work::Judge(call, answer) => {
            let placer = placer.clone();
            atoll_isolate::spawn(async move {
                // Whoever asked may have left.
                let _ = answer.send(placer.judge_here(*call, waiting).await);
            });
        }
        Work::Cron(call) => {
            let placer = placer.clone();
            atoll_isolate::spawn(async move { placer.cron_here(*call, waiting).await });
        }
        Work::Warm(version) => {
            let placer = placer.clone();
            // Whoever calls it is told why it does not start.
            atoll_isolate::spawn(async move { placer.pool.instance(&version).await.map(drop) });
        }
    }
    thread.done(work_us);
}

fn begin_fetch(
    placer: &Rc<Placer>,
    waiting: Waiting,
    call: Call,
    mut answer: oneshot::Sender<Answered<HandedBody>>,
) {
    if answer.is_closed() {
        call.unanswered(&placer.host.hub, left());
        return;
    }
    if let Some(instance) = placer.live(call.subject.version()) {
        return fetch(placer, &instance, waiting, call, answer);
    }
    let placer = placer.clone();
    atoll_isolate::spawn(async move {
        let version = call.subject.version().clone();
        let loaded = tokio::select! {
            loaded = placer.pool.instance(&version) => loaded,
            () = answer.closed() => {
                call.unanswered(&placer.host.hub, left());
                return;
            }
        };
        match loaded {
            Ok(instance) => fetch(&placer, &instance, waiting, call, answer),
            Err(error) => send(answer, Err(call.unanswered(&placer.host.hub, &error))),
        }
    });
}

/// The asker went away before the call began.
fn left() -> Unanswered {
    let message = "the client left before the worker was called".to_owned();
    Unanswered { problem: Problem::Ended(Outcome::Canceled), message }
}

fn fetch(
    placer: &Rc<Placer>,
    instance: &Instance,
    waiting: Waiting,
    call: Call,
    mut answer: oneshot::Sender<Answered<HandedBody>>,
) {
    match placer.start(instance, waiting, call.here()) {
        Either::Left(fetched) => send(answer, handed(fetched.into_inner())),
        Either::Right(fetching) => {
            atoll_isolate::spawn(async move {
                tokio::select! {
                    fetched = fetching => send(answer, handed(fetched)),
                    // Dropping the future tells the handler.
                    () = answer.closed() => {}
                }
            });
        }
    }
}

fn handed(fetched: Fetched) -> Answered<HandedBody> {
    Ok(fetched?.map(HandedBody::of))
}

fn send(answer: oneshot::Sender<Answered<HandedBody>>, answered: Answered<HandedBody>) {
    // The asker may have left: dropping the response's body tells the handler.
    let _ = answer.send(answered);
}
