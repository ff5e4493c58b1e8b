//! Events from the host's side: a request becomes a response, a cron line becomes an outcome.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::{Either, LocalBoxFuture, Ready, ready};
use http::{Request, Response};

use crate::body::ResponseBody;
use crate::boundary::Call;
use crate::host::Body;
use crate::instance::{Inner, Instance, State, limit_exception, plain_exception};
use crate::invocation::{Answer, InvocationKey, OnEnd, PendingRequest, RequestFacts};
use crate::outcome::{Exception, Outcome};
use crate::socket::SocketSlot;

/// Why an event got no (proper) answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How the invocation ended.
    pub outcome: Outcome,
    /// What was thrown, or what the limit says.
    pub exception: Exception,
    /// Whether the handler asked that failures be passed to the origin.
    pub pass_through: bool,
}

/// One HTTP request for a worker.
pub struct FetchEvent {
    /// The id for logs and the error page.
    pub id: Arc<str>,
    /// The whole URL.
    pub url: Arc<str>,
    /// The request; its URI is not looked at. No body at all is `None`.
    pub request: Request<Option<Body>>,
    /// What is known of the client; without it the headers are as they came and `request.cf` is empty.
    pub facts: Option<Box<dyn RequestFacts>>,
}

/// A response that is there already, or will be. Most handlers answer within their first slice: their
/// callers pay for no future.
pub type Fetching = Either<Ready<Fetched>, LocalBoxFuture<'static, Fetched>>;

/// What became of a request.
pub type Fetched = Result<Response<ResponseBody>, Failure>;

/// Ends the invocation as canceled if it is dropped before the answer is there: the client left.
struct ClientGuard {
    inner: Rc<Inner>,
    key: InvocationKey,
    answered: bool,
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        if !self.answered {
            self.inner.invocations.client_left(self.key);
            self.inner.linger(self.key);
        }
    }
}

impl Instance {
    /// Calls the `fetch` handler. Dropping the future that is not ready yet says that the client has left.
    ///
    /// `on_end` is called once, when the response, its body and all `waitUntil` work are over; it may be
    /// called while the isolate executes and must not call into any instance.
    ///
    /// # Errors
    /// When the handler failed or a limit ended it.
    pub fn fetch(&self, event: FetchEvent, on_end: OnEnd) -> Fetching {
        let (parts, body) = event.request.into_parts();
        let has_body = body.is_some();
        let pending =
            PendingRequest { headers: parts.headers, facts: event.facts, finished: false, body };
        let key = self.inner.invocations.begin(event.id, Some(pending), on_end);
        let guard = ClientGuard { inner: self.inner.clone(), key, answered: false };
        let call = Call::Fetch { method: parts.method.as_str(), url: &event.url, has_body };
        self.inner.dispatch(key, &call);
        match self.inner.invocations.take_answer(key) {
            Some(answer) => Either::Left(ready(guard.fetched(Some(answer)))),
            None => Either::Right(Box::pin(async move {
                let answer = guard.wait().await;
                guard.fetched(answer)
            })),
        }
    }

    /// Calls the `scheduled` handler for a cron line that came due.
    ///
    /// # Errors
    /// When the handler failed or a limit ended it.
    pub async fn scheduled(
        &self,
        id: Arc<str>,
        cron: &str,
        scheduled_ms: u64,
        on_end: OnEnd,
    ) -> Result<(), Failure> {
        let key = self.inner.invocations.begin(id, None, on_end);
        let mut guard = ClientGuard { inner: self.inner.clone(), key, answered: false };
        self.inner.dispatch(key, &Call::Scheduled { cron, scheduled_ms });
        let answer = guard.wait().await;
        guard.answered = true;
        let result = guard.outcome_of(answer);
        guard.over();
        result.map(|_| ())
    }
}

impl Instance {
    /// Calls the `rule` handler for a request, of which it gets everything but the body. Gives the decision, read
    /// from JSON text by `read`; none if it made none. A handler that takes too long is ended, and the instance goes
    /// on.
    ///
    /// # Errors
    /// When the handler failed, a limit ended it, or its decision cannot be read.
    pub async fn rule<T>(
        &self,
        event: FetchEvent,
        read: impl FnOnce(&str) -> Result<T, String>,
        on_end: OnEnd,
    ) -> Result<Option<T>, Failure> {
        let (parts, _) = event.request.into_parts();
        let (headers, facts) = (parts.headers, event.facts);
        let pending = PendingRequest { headers, facts, finished: false, body: None };
        let key = self.inner.invocations.begin(event.id, Some(pending), on_end);
        let mut guard = ClientGuard { inner: self.inner.clone(), key, answered: false };
        self.inner.dispatch(key, &Call::Rule { method: parts.method.as_str(), url: &event.url });
        let answer = guard.wait_for(self.inner.limits.rule_wall).await;
        guard.answered = true;
        let decided = match answer {
            Some(Answer::Decision(text)) if text.is_empty() => Ok(None),
            Some(Answer::Decision(text)) => read(&text).map(Some).map_err(|why| {
                let failure = failure(Outcome::Exception, &why);
                self.inner.invocations.fail(key, failure.exception.clone());
                failure
            }),
            other => match guard.outcome_of(other) {
                Ok(_) => Err(failure(Outcome::Internal, "the rule handler decided nothing")),
                Err(failure) => Err(failure),
            },
        };
        guard.over();
        decided
    }
}

impl ClientGuard {
    /// Waits for the handler's answer, as long as it may take.
    async fn wait(&self) -> Option<Answer> {
        self.wait_for(self.inner.limits.wall).await
    }

    async fn wait_for(&self, most: std::time::Duration) -> Option<Answer> {
        let invocations = &self.inner.invocations;
        let waiting = std::future::poll_fn(|cx| invocations.poll_answer(self.key, cx));
        match tokio::time::timeout(most, waiting).await {
            Ok(answer) => answer,
            Err(_) => {
                let exception = limit_exception(Outcome::ExceededWall);
                invocations.answer(self.key, Answer::Failed(Outcome::ExceededWall, exception));
                invocations.take_answer(self.key)
            }
        }
    }

    /// Hands the response over, or says why there is none.
    fn fetched(mut self, answer: Option<Answer>) -> Fetched {
        self.answered = true;
        match self.outcome_of(answer) {
            Ok(Some(response))
                if matches!(response.body(), ResponseBody::Stream(_))
                    || SocketSlot::is_in(&response) =>
            {
                self.inner.linger(self.key);
                Ok(response)
            }
            Ok(Some(response)) => {
                self.over();
                Ok(response)
            }
            Ok(None) => {
                self.over();
                Err(failure(Outcome::Internal, "the handler gave no response"))
            }
            Err(failure) => {
                self.over();
                Err(failure)
            }
        }
    }

    /// The client has all that it gets; `waitUntil` work may go on.
    fn over(&self) {
        self.inner.invocations.client_done(self.key);
        self.inner.linger(self.key);
    }

    fn outcome_of(
        &self,
        answer: Option<Answer>,
    ) -> Result<Option<Response<ResponseBody>>, Failure> {
        let (outcome, exception) = match answer {
            Some(Answer::Response(response)) => return Ok(Some(response)),
            Some(Answer::Done | Answer::Decision(_)) => return Ok(None),
            Some(Answer::Failed(outcome, exception)) => (outcome, exception),
            None => {
                let outcome = match self.inner.state() {
                    State::Live => Outcome::Canceled,
                    State::Condemned(outcome) => outcome,
                };
                (outcome, limit_exception(outcome))
            }
        };
        let pass_through =
            self.inner.invocations.with(self.key, |i| i.pass_through).unwrap_or(false);
        Err(Failure { outcome, exception, pass_through })
    }
}

fn failure(outcome: Outcome, message: &str) -> Failure {
    Failure { outcome, exception: plain_exception("Error", message), pass_through: false }
}
