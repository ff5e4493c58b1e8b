//! Events from the host's side: a request becomes a response, a cron line becomes an outcome.

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};

use crate::body::ResponseBody;
use crate::boundary::Call;
use crate::host::Body;
use crate::instance::{Inner, Instance, limit_exception, plain_exception};
use crate::invocation::{Answer, FinishHeaders, InvocationKey, OnEnd, PendingRequest};
use crate::outcome::{Exception, Outcome};

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
    /// Runs over the headers before the worker sees them, if it looks at them at all.
    pub finish_headers: Option<FinishHeaders>,
    /// `request.cf` as JSON text.
    pub cf: Arc<str>,
}

/// Ends the invocation as canceled if it is dropped before the answer is there: the client left.
struct ClientGuard<'a> {
    inner: &'a Rc<Inner>,
    key: InvocationKey,
    answered: bool,
}

impl Drop for ClientGuard<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.inner.invocations.client_left(self.key);
            self.inner.linger(self.key);
        }
    }
}

impl Instance {
    /// Calls the `fetch` handler. Dropping the future says that the client has left.
    ///
    /// `on_end` is called once, when the response, its body and all `waitUntil` work are over; it may be
    /// called while the isolate executes and must not call into any instance.
    ///
    /// # Errors
    /// When the handler failed or a limit ended it.
    pub async fn fetch(
        &self,
        event: FetchEvent,
        on_end: OnEnd,
    ) -> Result<Response<ResponseBody>, Failure> {
        let (parts, body) = event.request.into_parts();
        let has_body = body.is_some();
        let pending = PendingRequest {
            headers: parts.headers,
            finish_headers: event.finish_headers,
            body,
            cf: event.cf,
        };
        let key = self.inner.invocations.begin(event.id, Some(pending), on_end);
        let call = Call::Fetch { method: parts.method.as_str(), url: &event.url, has_body };
        match self.run(key, &call).await {
            Ok(Some(response)) => {
                if !matches!(response.body(), ResponseBody::Stream(_)) {
                    self.inner.invocations.client_done(key);
                }
                self.inner.linger(key);
                Ok(response)
            }
            Ok(None) => {
                self.inner.invocations.client_done(key);
                Err(failure(Outcome::Internal, "the handler gave no response"))
            }
            Err(failure) => {
                self.inner.invocations.client_done(key);
                self.inner.linger(key);
                Err(failure)
            }
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
        let result = self.run(key, &Call::Scheduled { cron, scheduled_ms }).await;
        self.inner.invocations.client_done(key);
        self.inner.linger(key);
        result.map(|_| ())
    }

    async fn run(
        &self,
        key: InvocationKey,
        call: &Call<'_>,
    ) -> Result<Option<Response<ResponseBody>>, Failure> {
        let mut guard = ClientGuard { inner: &self.inner, key, answered: false };
        self.inner.dispatch(key, call);
        let answer = match self.inner.invocations.take_answer(key) {
            Some(answer) => Some(answer),
            None => {
                let waiting =
                    std::future::poll_fn(|cx| self.inner.invocations.poll_answer(key, cx));
                match tokio::time::timeout(self.inner.limits.wall, waiting).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let exception = limit_exception(Outcome::ExceededWall);
                        self.inner
                            .invocations
                            .answer(key, Answer::Failed(Outcome::ExceededWall, exception));
                        self.inner.invocations.take_answer(key)
                    }
                }
            }
        };
        guard.answered = true;
        let pass_through = self.inner.invocations.with(key, |i| i.pass_through).unwrap_or(false);
        match answer {
            Some(Answer::Response(response)) => Ok(Some(response)),
            Some(Answer::Done) => Ok(None),
            Some(Answer::Failed(outcome, exception)) => {
                Err(Failure { outcome, exception, pass_through })
            }
            None => {
                let outcome = self.condemned().unwrap_or(Outcome::Canceled);
                Err(Failure { outcome, exception: limit_exception(outcome), pass_through })
            }
        }
    }
}

fn failure(outcome: Outcome, message: &str) -> Failure {
    Failure { outcome, exception: plain_exception("Error", message), pass_through: false }
}
