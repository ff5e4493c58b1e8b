//! One call of a worker, in a form that any thread can run, and what becomes of it.

use std::rc::Rc;
use std::sync::Arc;

use atoll_isolate::{
    Body, Failure, FetchEvent, Fetching, Instance, OnEnd, Outcome, RequestFacts, StartError,
};
use atoll_router::rules::Scripted;
use http::{Request, Response};

use super::admission::Refusal;
use super::body::{PumpedBody, SendBody};
use super::cf::{Client, ClientFacts};
use super::depth::Depth;
use super::events::{Subject, on_end};
use super::host::{Remembered, ThreadHost};
use super::pages::Problem;
use super::pool::LoadError;
use super::rules::Decided;
use crate::observe::ReportHub;
use crate::origins::Whence;
use crate::registry::WorkerRef;

/// A request that was let in and has a version to go to.
pub(super) struct Call<B = SendBody> {
    pub(super) id: Arc<str>,
    pub(super) subject: Subject,
    pub(super) request: Request<Option<B>>,
    pub(super) url: Arc<str>,
    /// Who asks; none of a call by a service binding.
    pub(super) client: Option<Client>,
    /// How many calls led to it.
    pub(super) depth: Depth,
    /// What rules decided about it, where there are any.
    pub(super) decided: Option<Decided>,
}

/// A cron line that came due for a version.
pub(super) struct CronCall {
    pub(super) id: Arc<str>,
    pub(super) subject: Subject,
    pub(super) cron: String,
    pub(super) scheduled_ms: u64,
}

/// What became of a call.
pub(super) type Answered<B> = Result<Response<B>, Unanswered>;

/// What a script decided, if it did.
pub(super) type Judged = Result<Option<Scripted>, Unanswered>;

/// Why a call has no response. It is in the log already.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) problem: Problem,
    /// For the worker that called.
    pub(super) message: String,
}

impl Unanswered {
    /// The thread that had the call is gone.
    pub(super) fn lost() -> Self {
        let message = "the thread that ran it is gone".to_owned();
        Self { problem: Problem::Ended(Outcome::Internal), message }
    }
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        let message = format!("{}: {}", failure.exception.name, failure.exception.message);
        Self { problem: Problem::Ended(failure.outcome), message }
    }
}

impl From<&LoadError> for Unanswered {
    fn from(error: &LoadError) -> Self {
        let problem = match error {
            LoadError::Resting(outcome) => Problem::Ended(*outcome),
            LoadError::Quarantined => Problem::Quarantined,
            LoadError::NoRoom | LoadError::Start(StartError::Limit(Outcome::Overloaded)) => {
                Problem::Ended(Outcome::Overloaded)
            }
            _ => Problem::NotStarted,
        };
        Self { problem, message: error.to_string() }
    }
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self { problem: refusal.problem(), message: refusal.message().to_owned() }
    }
}

impl Subject {
    /// Reports that the invocation never began.
    pub(super) fn unanswered(self, hub: &ReportHub, id: Arc<str>, why: Unanswered) -> Unanswered {
        self.refused(hub, id, why.problem.outcome(), why.message.clone());
        why
    }
}

impl<B> Call<B> {
    /// Reports that the call never began.
    pub(super) fn unanswered(self, hub: &ReportHub, why: impl Into<Unanswered>) -> Unanswered {
        self.subject.unanswered(hub, self.id, why.into())
    }

    fn map_body<C>(self, map: impl FnOnce(B) -> C) -> Call<C> {
        let Self { id, subject, request, url, client, depth, decided } = self;
        let request = request.map(|body| body.map(map));
        Call { id, subject, request, url, client, depth, decided }
    }
}

impl Call {
    /// For an instance on this thread.
    pub(super) fn here(self) -> Call<Body> {
        self.map_body(|body| body as Body)
    }
}

impl Call<Body> {
    /// For an instance on any thread. This one reads the body.
    pub(super) fn sendable(self) -> Call {
        self.map_body(|body| Box::pin(PumpedBody::of(body)) as SendBody)
    }

    /// Calls the `rule` handler.
    pub(super) async fn judge(self, instance: &Instance, host: &Rc<ThreadHost>) -> Judged {
        let Self { id, subject, request, url, client, decided, .. } = self;
        let facts = client.map(|client| {
            let (id, host) = (id.clone(), host.clone());
            Box::new(ClientFacts { client, id, host, decided }) as Box<dyn RequestFacts>
        });
        let report = on_end(host.hub.clone(), subject);
        Ok(instance.rule(FetchEvent { id, url, request, facts }, read_decision, report).await?)
    }

    /// Calls the handler.
    pub(super) fn start(self, instance: &Instance, host: &Rc<ThreadHost>) -> Fetching {
        let Self { id, subject, request, url, client, depth, decided } = self;
        let whence = client.as_ref().and_then(|client| whence(host, subject.worker(), client));
        let facts = client.map(|client| {
            let (id, host) = (id.clone(), host.clone());
            Box::new(ClientFacts { client, id, host, decided }) as Box<dyn RequestFacts>
        });
        let report = on_end(host.hub.clone(), subject);
        let over = match (depth == Depth::default(), whence) {
            (true, None) => report,
            (_, whence) => remembered(host, &id, Remembered { depth, whence }, report),
        };
        instance.fetch(FetchEvent { id, url, request, facts }, over)
    }
}

fn read_decision(text: &str) -> Result<Scripted, String> {
    let decision = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Scripted::parse(&decision).map_err(|error| format!("the decision cannot be used: {error}"))
}

/// Where a client is, for a worker whose requests depend on that.
fn whence(host: &ThreadHost, worker: &WorkerRef, client: &Client) -> Option<Whence> {
    if !host.targets.pools(worker)?.wants_place() {
        return None;
    }
    let place = client.place(&host.node);
    Some(Whence { country: place.country.clone(), continent: place.continent.clone() })
}

/// Remembers something of an invocation until it is over.
fn remembered(host: &Rc<ThreadHost>, id: &Arc<str>, what: Remembered, report: OnEnd) -> OnEnd {
    host.remembered.borrow_mut().insert(id.clone(), what);
    let (host, id) = (host.clone(), id.clone());
    Box::new(move |record| {
        host.remembered.borrow_mut().remove(&id);
        report(record);
    })
}
