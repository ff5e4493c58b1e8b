//! Answers requests on one thread: routes, admits, dispatches, and turns every failure into a page.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use atoll_isolate::{Fetched, Instance, Places, ResponseBody};
use atoll_router::rules::{PathEffect, Picked};
use atoll_router::{
    Connection, DrainSignal, Place, Refusal, RequestBody, Scheme, Service, Upgrade,
};
use futures_util::future::{Either, LocalBoxFuture, Ready, ready};
use http::header::{ACCEPT, CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};

use super::admission::Arrival;
use super::ahead::Ahead;
use super::body::{AnswerBody, SendBody, SizedBody};
use super::call::{Answered, Call};
use super::cf::Client;
use super::depth::Depth;
use super::events::Subject;
use super::forward::{EXPLAIN_REQUEST, Explain, Forwarding};
use super::handshake::{Handshake, not_a_handshake};
use super::pages::{Problem, page};
use super::placer::Placer;
use super::rules::{Decided, LiveRules, Ruling, Sent, redirect};
use super::siblings::HomeCalls;
use super::splitmix::{STEP, mixed};
use super::targets::{Target, Targets};
use crate::config::LimitsConfig;
use crate::observe::Count;
use crate::registry::{VersionId, WorkerName, WorkerRef, now_ms};

/// The request's id on every response, and what a client quotes to the operator.
const RAY: HeaderName = HeaderName::from_static("cf-ray");

/// A client's own choice of affinity: the same key gets the same version.
const VERSION_KEY: HeaderName = HeaderName::from_static("cloudflare-workers-version-key");

thread_local! {
    static IDS: Cell<u64> = Cell::new(rand::random());
}

/// A new request id: 16 hexadecimal digits, unlike any other of this node for practical purposes.
pub(super) fn new_id() -> Arc<str> {
    // From a random start on: cheap, and no two ids of a thread collide.
    let state = IDS.get().wrapping_add(STEP);
    IDS.set(state);
    let mut digits = [0; 16];
    let digits = hex::encode_to_slice(mixed(state).to_be_bytes(), &mut digits)
        .ok()
        .and_then(|()| std::str::from_utf8(&digits).ok());
    digits.expect("eight bytes are sixteen hexadecimal digits").into()
}

/// What one thread needs to answer requests.
pub(super) struct Dispatcher {
    pub(super) targets: Arc<Targets>,
    pub(super) placer: Rc<Placer>,
    pub(super) limits: LimitsConfig,
    /// Whether anybody may force variants of rules.
    pub(super) development: bool,
    /// What other nodes are reached by, in a cluster.
    pub(super) forwarding: Option<Forwarding>,
    /// What calls are sent home by, where the node has several serving processes.
    pub(super) home_calls: Option<HomeCalls>,
    /// What requests touch, by their hosts.
    pub(super) ahead: Ahead,
    /// When the thread's listeners stop, if it has any.
    pub(super) drain: Option<DrainSignal>,
    /// Scripts that decide about requests now.
    pub(super) deciding: Cell<u32>,
    pub(super) script_failures: Count,
}

/// Where a request goes, once it has been routed.
pub(super) struct Goal {
    pub(super) target: Arc<Target>,
    /// Fixed by a rule; drawn by the deployment otherwise.
    pub(super) version: Option<VersionId>,
    pub(super) url: Arc<str>,
    pub(super) depth: Depth,
    decided: Option<Decided>,
    explain: Explain,
}

/// A request that is known to be for a version, wherever that runs.
pub(super) struct Serving {
    pub(super) target: Arc<Target>,
    pub(super) version: VersionId,
    pub(super) url: Arc<str>,
    pub(super) depth: Depth,
    pub(super) client: Client,
    pub(super) decided: Option<Decided>,
    pub(super) arrival: Arrival,
}

/// The service of one thread's listeners.
#[derive(Clone)]
pub(super) struct Front(pub(super) Rc<Dispatcher>);

impl Service for Front {
    type Body = AnswerBody;

    fn call(
        &self,
        request: Request<RequestBody>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<AnswerBody>> + use<> + 'static {
        let id = new_id();
        let handshake = Handshake::of(&request);
        let Answer { answering, told } = self.0.answer(request, connection, &id);
        match answering {
            Either::Left(response) => {
                Either::Left(ready(self.0.finished(response.into_inner(), told, handshake, &id)))
            }
            Either::Right(response) => {
                let dispatcher = self.0.clone();
                Either::Right(
                    async move { dispatcher.finished(response.await, told, handshake, &id) },
                )
            }
        }
    }

    fn greeted(&self, host: &str) {
        if let Some(target) = self.0.targets.sole_of_host(host) {
            self.0.warm(&target);
        }
    }

    fn challenge(&self, answer: String) -> Response<AnswerBody> {
        Response::new(AnswerBody::Here(ResponseBody::Full(Some(answer.into()))))
    }

    fn refuse(
        &self,
        request: &Request<RequestBody>,
        refusal: Refusal,
        _connection: &Rc<Connection>,
    ) -> Response<AnswerBody> {
        refused(Problem::Refused(refusal), request, &new_id())
    }
}

/// A response that is there already, or will be.
pub(super) type Answering =
    Either<Ready<Response<AnswerBody>>, LocalBoxFuture<'static, Response<AnswerBody>>>;

pub(super) fn now(response: Response<AnswerBody>) -> Answering {
    Either::Left(ready(response))
}

/// A response with what becomes of it when it is there.
pub(super) struct Answer {
    pub(super) answering: Answering,
    /// What rules decided, and the client is told along with it.
    pub(super) told: Option<Decided>,
}

impl From<Answering> for Answer {
    fn from(answering: Answering) -> Self {
        Self { answering, told: None }
    }
}

/// The host that a request is for, as the client named it.
pub(super) fn authority<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(HOST).and_then(|host| host.to_str().ok()),
    }
}

fn whole_url(scheme: Scheme, authority: &str, path: &str) -> Arc<str> {
    let mut url = String::with_capacity(8 + authority.len() + path.len());
    url.push_str(scheme.as_str());
    url.push_str("://");
    let host = url.len();
    url.push_str(authority);
    url[host..].make_ascii_lowercase();
    url.push_str(path);
    url.into()
}

impl Dispatcher {
    /// The response with what rules add, and what every one says: the id under which the log has its request, and
    /// where it was answered. A worker's socket becomes the client's.
    fn finished(
        &self,
        mut response: Response<AnswerBody>,
        told: Option<Decided>,
        handshake: Option<Box<Handshake>>,
        id: &str,
    ) -> Response<AnswerBody> {
        if let Some(told) = told {
            told.tell(&mut response);
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            response = match handshake {
                Some(handshake) => handshake.finish(response, self.drain.as_ref(), id),
                None => not_a_handshake(id),
            };
        }
        response.headers_mut().insert(RAY, self.placer.host.node.ray(id));
        response
    }

    fn answer(
        self: &Rc<Self>,
        mut request: Request<RequestBody>,
        connection: &Rc<Connection>,
        id: &Arc<str>,
    ) -> Answer {
        let Some(host) = authority(&request).filter(|host| !host.is_empty()) else {
            return now(refused(Problem::BadHost, &request, id)).into();
        };
        self.ahead.fetch(host);
        let mut goal = match self.goal(&request, connection, host) {
            Ok(goal) => goal,
            Err(problem) => return now(refused(problem, &request, id)).into(),
        };
        let Some(rules) = goal.target.rules().cloned() else {
            return self.dispatch(request, connection, id, goal).into();
        };
        let mut ruling = self.rule(&request, connection, host, rules);
        if let Some(judge) = self.judge(&request, &mut goal, &ruling) {
            let (dispatcher, connection, id) = (self.clone(), connection.clone(), id.clone());
            ruling.decided.note_exposure();
            let by = (goal, ruling);
            let answered = dispatcher.dispatch_by_script(request, connection, id, by, judge);
            return Answering::Right(Box::pin(answered)).into();
        }
        // A request is large: it moves only once more.
        match self.obey(&mut request, connection, &mut goal, ruling) {
            Err(response) => now(*response).into(),
            Ok(mut decided) => {
                let answering = self.dispatch(request, connection, id, goal);
                if let Either::Right(_) = answering {
                    decided.note_exposure();
                }
                Answer { answering, told: Some(decided) }
            }
        }
    }

    /// Where a request goes unless rules have it otherwise.
    fn goal(
        &self,
        request: &Request<RequestBody>,
        connection: &Connection,
        host: &str,
    ) -> Result<Goal, Problem> {
        let scheme = connection.scheme;
        let depth = Depth::of(request.headers());
        if depth.is_loop() {
            return Err(Problem::Loop);
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let target = self.targets.route(scheme, host, path).ok_or(Problem::NoRoute)?;
        if declared_length(request).is_some_and(|bytes| bytes > self.limits.request_body_bytes_max)
        {
            return Err(Problem::BodyTooLarge);
        }
        let url = whole_url(scheme, host, path);
        let explain = self.explain(request);
        Ok(Goal { target, version: None, url, depth, decided: None, explain })
    }

    /// What a worker's rules make of a request.
    fn rule(
        &self,
        request: &Request<RequestBody>,
        connection: &Connection,
        host: &str,
        rules: Arc<LiveRules>,
    ) -> Ruling {
        let place = rules.looks_at_place().then(|| self.place(connection));
        let (scheme, place) = (connection.scheme, place.as_deref());
        let now_ms = rules.looks_at_time().then(now_ms);
        rules.judge(&Sent { request, scheme, host, place, now_ms, trusted: self.development })
    }

    /// Where a client is.
    pub(super) fn place(&self, connection: &Connection) -> Rc<Place> {
        self.placer.host.node.geo.place(connection.peer.ip().to_canonical())
    }

    /// Makes of a request and its goal what was decided, and says what the client is told along with its response;
    /// fails with the response where the client is sent elsewhere.
    pub(super) fn obey(
        &self,
        request: &mut Request<RequestBody>,
        connection: &Connection,
        goal: &mut Goal,
        ruling: Ruling,
    ) -> Result<Decided, Box<Response<AnswerBody>>> {
        let Ruling { path, decided } = ruling;
        match path {
            Some(PathEffect::Redirect { status, location }) => {
                let mut response = redirect(status, &location);
                decided.tell(&mut response);
                return Err(Box::new(response));
            }
            Some(PathEffect::Rewrite(path)) => {
                let host = authority(request).unwrap_or_default();
                goal.url = whole_url(connection.scheme, host, &path);
            }
            None => {}
        }
        decided.change_request(request.headers_mut());
        match decided.picked() {
            Some(Picked::Version(version)) => goal.version = Some(VersionId::new(&**version)),
            Some(Picked::Worker(name)) => {
                let account = goal.target.worker.account.clone();
                let worker = WorkerRef { account, worker: WorkerName::new(&**name) };
                // One that is not there any more, or not yet, leaves the request where it is.
                if let Some(target) = self.targets.worker(&worker) {
                    (goal.target, goal.version) = (target, None);
                }
            }
            None => {}
        }
        if decided.is_explained() {
            goal.explain = Explain::Yes;
        }
        goal.decided = Some(decided.clone());
        Ok(decided)
    }

    /// Whether the client is told where its request was served.
    fn explain<B>(&self, request: &Request<B>) -> Explain {
        let asks = || request.headers().get(EXPLAIN_REQUEST).is_some_and(|value| value == "1");
        let known = self.forwarding.as_ref().map(|to| to.neighbours().known());
        match known.is_some_and(|known| known.explain || self.development) && asks() {
            true => Explain::Yes,
            false => Explain::No,
        }
    }

    /// Decides for a version, and has the request served where that may run.
    pub(super) fn dispatch(
        self: &Rc<Self>,
        request: Request<RequestBody>,
        connection: &Rc<Connection>,
        id: &Arc<str>,
        goal: Goal,
    ) -> Answering {
        let Goal { target, version, url, depth, decided, explain, .. } = goal;
        let Some(version) = version.or_else(|| pick(&target, &request).cloned()) else {
            return now(refused(Problem::NoRoute, &request, id));
        };
        let client = Client::of(request.version(), connection);
        let request = self.for_worker(request);
        let arrival = Arrival::Fresh;
        let serving = Serving { target, version, url, depth, client, decided, arrival };
        self.route(request, id, serving, explain)
    }

    /// Lets a request in and calls the worker.
    pub(super) fn serve(
        self: &Rc<Self>,
        request: Request<Option<SendBody>>,
        id: &Arc<str>,
        serving: Serving,
    ) -> Answering {
        let Serving { target, version, url, depth, client, decided, arrival } = serving;
        let host = &self.placer.host;
        let (hub, worker) = (&host.hub, target.worker.clone());
        let mut subject =
            Subject::fetch(hub, worker, version, &request, url.clone(), Some(client.ip));
        let gate = target.gate(&self.placer.placement.admission);
        if let Err(refusal) = subject.admit(gate, arrival) {
            let why = subject.unanswered(hub, id.clone(), refusal.into());
            return now(page(why.problem, request.headers(), id));
        }
        // The page of a failure is negotiated by what the client accepts.
        let accept = request.headers().get(ACCEPT).cloned();
        let (id, client) = (id.clone(), Some(client));
        self.call(Call { id, subject, request, url, client, depth, decided }, accept, arrival)
    }

    /// The request as its worker sees it: with a Host header and a bounded body.
    fn for_worker(&self, request: Request<RequestBody>) -> Request<Option<SendBody>> {
        let (mut parts, body) = request.into_parts();
        if !parts.headers.contains_key(HOST)
            && let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            parts.headers.insert(HOST, host);
        }
        Request::from_parts(parts, SizedBody::wrap(body, self.limits.request_body_bytes_max))
    }

    fn call(
        self: &Rc<Self>,
        call: Call,
        accept: Option<HeaderValue>,
        arrival: Arrival,
    ) -> Answering {
        let id = call.id.clone();
        // What a socket brings may run long, at any time: not on a front thread.
        let live = match Upgrade::is_asked(&call.request) {
            true => None,
            false => self.placer.live(call.subject.version()),
        };
        let Some(instance) = live else {
            let answering = match self.home(&call, arrival) {
                Some(home) => Either::Left(self.clone().send_home(call, home)),
                None => Either::Right(self.placer.clone().fetch(call)),
            };
            return Either::Right(Box::pin(async move { shown(answering.await, accept, &id) }));
        };
        if instance.footprint().is_due() {
            self.note_way(&call, &instance);
        }
        match call.here().start(&instance, &self.placer.host) {
            Either::Left(fetched) => now(shown(here(fetched.into_inner()), accept, &id)),
            Either::Right(fetching) => {
                Either::Right(Box::pin(async move { shown(here(fetching.await), accept, &id) }))
            }
        }
    }

    /// Notes what a call that is about to begin has touched.
    fn note_way(&self, call: &Call, instance: &Instance) {
        let Some(host) = authority(&call.request) else { return };
        let worker = call.subject.worker();
        let mut places = Places::default();
        self.targets.add_places(host, worker, &mut places);
        self.placer.host.hub.metrics().add_places(worker, &mut places);
        instance.footprint().set_way(places);
        self.ahead.note(host, instance.footprint());
    }
}

fn here(fetched: Fetched) -> Answered<AnswerBody> {
    Ok(fetched?.map(AnswerBody::Here))
}

/// The worker's response, or the page that says why there is none.
fn shown(
    answered: Answered<AnswerBody>,
    accept: Option<HeaderValue>,
    id: &str,
) -> Response<AnswerBody> {
    answered.unwrap_or_else(|why| {
        let accept = accept.map(|accept| (ACCEPT, accept));
        page(why.problem, &accept.into_iter().collect(), id)
    })
}

/// The page for a request that reaches no worker; the log has its id.
fn refused(problem: Problem, request: &Request<RequestBody>, id: &str) -> Response<AnswerBody> {
    tracing::info!(id, host = authority(request), ?problem, "request refused");
    page(problem, request.headers(), id)
}

fn declared_length(request: &Request<RequestBody>) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn pick<'a>(
    target: &'a Target,
    request: &Request<RequestBody>,
) -> Option<&'a VersionId> {
    if let Some(version) = target.single() {
        return Some(version);
    }
    let draw = match request.headers().get(VERSION_KEY) {
        Some(key) => share_of(key.as_bytes()),
        None => rand::random_range(0.0..100.0),
    };
    target.version(draw)
}

/// Where a key falls between 0 and 100, by 64-bit FNV-1a: the same on every node and in every release.
fn share_of(key: &[u8]) -> f64 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash % 10_000) as f64 / 100.0
}
