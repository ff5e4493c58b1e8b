//! Scripts that decide about requests after the rules: which one, within what bounds, and what becomes of a request
//! when its script fails. A failure is never the client's: the request goes where the rules send it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use atoll_router::rules::{PREVIEW_TOKEN, Picked, Scripted};
use atoll_router::{Connection, RequestBody};
use http::Request;
use http::header::{HOST, HeaderValue};

use super::body::{AnswerBody, SendBody};
use super::call::Call;
use super::cf::Client;
use super::events::Subject;
use super::rules::{Ruling, Script, Sent};
use super::service::{Dispatcher, Goal, authority, pick};
use super::targets::Target;
use crate::registry::{VersionId, WorkerName, WorkerRef};

/// Scripts that decide at once on one thread.
const DECIDING_MAX: u32 = 1_000;

/// Whose script decides.
pub(super) struct Judge {
    target: Arc<Target>,
    version: VersionId,
}

/// A place among the scripts that decide at once.
struct Seat<'a>(&'a Cell<u32>);

impl<'a> Seat<'a> {
    fn take(deciding: &'a Cell<u32>) -> Option<Self> {
        if deciding.get() >= DECIDING_MAX {
            return None;
        }
        deciding.set(deciding.get() + 1);
        Some(Self(deciding))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Dispatcher {
    /// Whose script is to decide about a request, if one is. The version of a script that is the worker's own is also
    /// the one that answers.
    pub(super) fn judge(
        &self,
        request: &Request<RequestBody>,
        goal: &mut Goal,
        ruling: &Ruling,
    ) -> Option<Result<Judge, String>> {
        let named = ruling.decided.rules().script();
        if (named.is_none() && !goal.target.has_script()) || ruling.is_redirect() {
            return None;
        }
        let own = match ruling.decided.picked() {
            // The rules and scripts of a worker that was chosen by another one's do not count.
            Some(Picked::Worker(_)) => return None,
            Some(Picked::Version(version)) => Some(VersionId::new(&**version)),
            None => None,
        };
        if let Some(name) = named {
            let account = goal.target.worker.account.clone();
            let found = self.targets.worker(&WorkerRef { account, worker: WorkerName::new(name) });
            let judge = found.and_then(|target| {
                let version = pick(&target, request)?.clone();
                Some(Judge { target, version })
            });
            return Some(judge.ok_or_else(|| format!("there is no worker {name:?} to decide")));
        }
        let version = own.or_else(|| pick(&goal.target, request).cloned())?;
        if !self.targets.decides(&version) {
            return None;
        }
        goal.version = Some(version.clone());
        Some(Ok(Judge { target: goal.target.clone(), version }))
    }

    /// Has a script decide, adds that to what the rules decided, and answers by all of it.
    pub(super) async fn dispatch_by_script(
        self: Rc<Self>,
        mut request: Request<RequestBody>,
        connection: Rc<Connection>,
        id: Arc<str>,
        (mut goal, mut ruling): (Goal, Ruling),
        judge: Result<Judge, String>,
    ) -> http::Response<AnswerBody> {
        let decided = match judge {
            Ok(judge) => self.ask(&request, &connection, &id, &goal, &ruling, judge).await,
            Err(why) => {
                let worker = goal.target.worker.worker.as_str();
                tracing::info!(id = &*id, worker, why, "no script can decide: the rules do");
                Err(why)
            }
        };
        let script = match decided {
            Ok(Some(scripted)) => {
                let place = self.place(&connection);
                let sent = Sent {
                    request: &request,
                    scheme: connection.scheme,
                    host: authority(&request).unwrap_or_default(),
                    place: Some(&place),
                    // No address has the time in it.
                    now_ms: None,
                    trusted: self.development,
                };
                ruling.add_path(&scripted, &sent.visit());
                Script::Decided(Arc::new(scripted))
            }
            Ok(None) => Script::Nothing,
            Err(why) => {
                // The log has it as an invocation that did not end well.
                self.script_failures.add(1);
                Script::Failed(why.into())
            }
        };
        ruling.note(script);
        let decided = match self.obey(&mut request, &connection, &mut goal, ruling) {
            Ok(decided) => decided,
            Err(response) => return *response,
        };
        let mut response = self.dispatch(request, &connection, &id, goal).await;
        decided.tell(&mut response);
        response
    }

    async fn ask(
        &self,
        request: &Request<RequestBody>,
        connection: &Connection,
        id: &Arc<str>,
        goal: &Goal,
        ruling: &Ruling,
        judge: Judge,
    ) -> Result<Option<Scripted>, String> {
        let busy = || "too many scripts decide at once".to_owned();
        let _seat = Seat::take(&self.deciding).ok_or_else(busy)?;
        let (worker, version) = (judge.target.worker.clone(), judge.version);
        let subject = Subject::rule(worker, version, request, goal.url.clone());
        let call = Call {
            id: id.clone(),
            subject,
            request: without_body(request),
            url: goal.url.clone(),
            client: Some(Client::of(request.version(), connection)),
            depth: goal.depth,
            decided: Some(ruling.decided.clone()),
        };
        self.placer.clone().judge(call).await.map_err(|why| why.message)
    }
}

/// The request as a script sees it.
fn without_body(request: &Request<RequestBody>) -> Request<Option<SendBody>> {
    let mut seen = Request::new(None);
    *seen.method_mut() = request.method().clone();
    *seen.headers_mut() = request.headers().clone();
    let headers = seen.headers_mut();
    headers.remove(PREVIEW_TOKEN);
    if !headers.contains_key(HOST)
        && let Some(host) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(host.as_str())
    {
        headers.insert(HOST, host);
    }
    seen
}
