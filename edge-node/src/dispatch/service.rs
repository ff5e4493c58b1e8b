//! Answers requests on one thread: routes, admits, dispatches, and turns every failure into a page.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use atoll_isolate::{
    Body, BoxError, FetchEvent, Fetched, Instance, Outcome, ResponseBody, StartError,
};
use atoll_router::{BODY_IDLE_TIMEOUT, Connection, Refusal, Scheme, Service, TimedBody};
use bytes::Bytes;
use futures_util::future::{Either, LocalBoxFuture, Ready, ready};
use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::cf::{CfTexts, stamp};
use super::events::{Subject, on_end};
use super::host::ThreadHost;
use super::pages::{Problem, page};
use super::pool::{LoadError, Pool};
use super::targets::{Target, Targets};
use crate::config::LimitsConfig;
use crate::registry::VersionId;

/// The request's id on every response, and what a client quotes to the operator.
const RAY: HeaderName = HeaderName::from_static("cf-ray");

/// A client's own choice of affinity: the same key gets the same version.
const VERSION_KEY: HeaderName = HeaderName::from_static("cloudflare-workers-version-key");

thread_local! {
    static IDS: Cell<u64> = Cell::new(rand::random());
}

/// A new request id: 16 hexadecimal digits, unlike any other of this node for practical purposes.
pub(super) fn new_id() -> Arc<str> {
    // splitmix64 (Steele, Lea, Flood 2014) over a random start: cheap, and no two ids of a thread collide.
    let state = IDS.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    IDS.set(state);
    let mut id = state;
    id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    id ^= id >> 31;
    let mut digits = [0; 16];
    let digits = hex::encode_to_slice(id.to_be_bytes(), &mut digits)
        .ok()
        .and_then(|()| std::str::from_utf8(&digits).ok());
    digits.expect("eight bytes are sixteen hexadecimal digits").into()
}

/// A request body held to a size.
struct SizedBody {
    body: TimedBody<Incoming>,
    left: u64,
}

impl http_body::Body for SizedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            if let Some(data) = frame.data_ref() {
                self.left = self
                    .left
                    .checked_sub(data.len() as u64)
                    .ok_or("the request body is larger than limits.request_body_bytes_max")?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request that has a worker to go to.
struct Admitted {
    subject: Subject,
    request: Request<Incoming>,
    connection: Rc<Connection>,
    id: Arc<str>,
    url: Arc<str>,
}

/// What one thread needs to answer requests.
pub(super) struct Dispatcher {
    pub(super) targets: Arc<Targets>,
    pub(super) pool: Rc<Pool>,
    pub(super) host: Rc<ThreadHost>,
    pub(super) limits: LimitsConfig,
    pub(super) cf: CfTexts,
}

/// The service of one thread's listeners.
#[derive(Clone)]
pub(super) struct Front(pub(super) Rc<Dispatcher>);

impl Service for Front {
    type Body = ResponseBody;

    fn call(
        &self,
        request: Request<Incoming>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<ResponseBody>> + use<> + 'static {
        let id = new_id();
        match self.0.answer(request, connection, &id) {
            Either::Left(response) => Either::Left(ready(stamped(response.into_inner(), &id))),
            Either::Right(response) => Either::Right(async move { stamped(response.await, &id) }),
        }
    }

    fn refuse(
        &self,
        request: &Request<Incoming>,
        refusal: Refusal,
        _connection: &Rc<Connection>,
    ) -> Response<ResponseBody> {
        refused(Problem::Refused(refusal), request, &new_id())
    }
}

/// Every response says the id under which the log has its request.
fn stamped(mut response: Response<ResponseBody>, id: &str) -> Response<ResponseBody> {
    if let Ok(ray) = HeaderValue::from_str(id) {
        response.headers_mut().insert(RAY, ray);
    }
    response
}

/// A response that is there already, or will be.
type Answering =
    Either<Ready<Response<ResponseBody>>, LocalBoxFuture<'static, Response<ResponseBody>>>;

fn now(response: Response<ResponseBody>) -> Answering {
    Either::Left(ready(response))
}

impl Dispatcher {
    fn answer(
        self: &Rc<Self>,
        request: Request<Incoming>,
        connection: &Rc<Connection>,
        id: &Arc<str>,
    ) -> Answering {
        let secure = connection.tls.is_some();
        let scheme = if secure { Scheme::Https } else { Scheme::Http };
        let authority = match request.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => request.headers().get(HOST).and_then(|host| host.to_str().ok()),
        };
        let Some(authority) = authority.filter(|host| !host.is_empty()) else {
            return now(refused(Problem::BadHost, &request, id));
        };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Some(target) = self.targets.route(scheme, authority, path) else {
            return now(refused(Problem::NoRoute, &request, id));
        };
        if declared_length(&request)
            .is_some_and(|length| length > self.limits.request_body_bytes_max)
        {
            return now(refused(Problem::BodyTooLarge, &request, id));
        }
        let Some(version) = pick(&target, &request) else {
            return now(refused(Problem::NoRoute, &request, id));
        };
        let mut url = String::with_capacity(8 + authority.len() + path.len());
        url.push_str(if secure { "https://" } else { "http://" });
        url.push_str(authority);
        url.push_str(path);
        let ip = connection.peer.ip().to_canonical();
        let url: Arc<str> = url.into();
        let subject = Subject::fetch(
            &self.host.hub,
            target.worker.clone(),
            version.clone(),
            &request,
            url.clone(),
            Some(ip),
        );
        let admitted =
            Admitted { subject, request, connection: connection.clone(), id: id.clone(), url };
        match self.pool.live(version) {
            Some(instance) => self.invoke(&instance, admitted),
            None => {
                let (dispatcher, version) = (self.clone(), version.clone());
                Either::Right(Box::pin(async move {
                    match dispatcher.pool.instance(&version).await {
                        Ok(instance) => dispatcher.invoke(&instance, admitted).await,
                        Err(error) => dispatcher.not_started(&error, admitted),
                    }
                }))
            }
        }
    }

    fn not_started(&self, error: &LoadError, admitted: Admitted) -> Response<ResponseBody> {
        let (problem, outcome) = match error {
            LoadError::Resting(outcome) => (Problem::Ended(*outcome), *outcome),
            LoadError::Start(StartError::Limit(Outcome::Overloaded)) => {
                (Problem::Overloaded, Outcome::Overloaded)
            }
            _ => (Problem::NotStarted, Outcome::Exception),
        };
        let response = page(problem, admitted.request.headers(), &admitted.id);
        admitted.subject.refused(&self.host.hub, admitted.id, outcome, error.to_string());
        response
    }

    fn invoke(&self, instance: &Instance, admitted: Admitted) -> Answering {
        let Admitted { subject, request, connection, id, url } = admitted;
        if instance.in_flight() >= self.limits.concurrency_max as usize {
            let response = page(Problem::Overloaded, request.headers(), &id);
            let message = "the worker has limits.concurrency_max invocations under way".to_owned();
            subject.refused(&self.host.hub, id, Outcome::Overloaded, message);
            return now(response);
        }
        let cf = self.cf.of(request.version(), &connection);
        let (mut parts, body) = request.into_parts();
        // The page of a failure is negotiated by what the client accepts.
        let accept = parts.headers.get(http::header::ACCEPT).cloned();
        if !parts.headers.contains_key(HOST)
            && let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            parts.headers.insert(HOST, host);
        }
        let body: Option<Body> = if http_body::Body::is_end_stream(&body) {
            None
        } else {
            let body = TimedBody::new(body, BODY_IDLE_TIMEOUT);
            Some(Box::pin(SizedBody { body, left: self.limits.request_body_bytes_max }))
        };
        let stamp_id = id.clone();
        let event = FetchEvent {
            id: id.clone(),
            url,
            request: Request::from_parts(parts, body),
            finish_headers: Some(Box::new(move |headers| stamp(headers, &connection, &stamp_id))),
            cf,
        };
        let ended = on_end(self.host.hub.clone(), subject);
        match instance.fetch(event, ended) {
            Either::Left(fetched) => now(shown(fetched.into_inner(), accept, &id)),
            Either::Right(fetched) => {
                Either::Right(Box::pin(async move { shown(fetched.await, accept, &id) }))
            }
        }
    }
}

/// The worker's response, or the page that says why there is none.
fn shown(fetched: Fetched, accept: Option<HeaderValue>, id: &str) -> Response<ResponseBody> {
    fetched.unwrap_or_else(|failure| {
        let accept = accept.map(|accept| (http::header::ACCEPT, accept));
        page(Problem::Ended(failure.outcome), &accept.into_iter().collect(), id)
    })
}

/// The page for a request that reaches no worker; the log has its id.
fn refused(problem: Problem, request: &Request<Incoming>, id: &str) -> Response<ResponseBody> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or(host);
    tracing::info!(id, host, ?problem, "request refused");
    page(problem, request.headers(), id)
}

fn declared_length(request: &Request<Incoming>) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn pick<'a>(target: &'a Target, request: &Request<Incoming>) -> Option<&'a VersionId> {
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
