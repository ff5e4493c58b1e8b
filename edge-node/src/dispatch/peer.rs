//! What other nodes ask of this one: whether it is there, and to serve requests of clients that came to them. They
//! are known by their certificates.

use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use atoll_isolate::ResponseBody;
use atoll_router::{PeerCredentials, PeerService, PeerTls, PeerTlsError};
use futures_util::future::{Either, FutureExt};
use http::header::HeaderValue;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::admission::Arrival;
use super::body::{AnswerBody, SendBody};
use super::cf::Client;
use super::depth::Depth;
use super::forward::{
    Carried, FORWARD_PATH, HOPS_MAX, Neighbourhood, Neighbours, REFUSED, without_socket,
};
use super::handshake::{Handshake, not_a_handshake};
use super::service::{Answering, Dispatcher, Serving, now};
use super::targets::Target;
use crate::cluster::PING_PATH;
use crate::registry::VersionId;

/// What requests between nodes need, for all threads of a process.
pub struct ServingPeering {
    /// What the node shows to others.
    pub(super) tls: Arc<ArcSwap<PeerTls>>,
    /// The other nodes.
    pub(super) neighbours: Arc<Neighbours>,
}

impl ServingPeering {
    /// Shows these credentials to these nodes.
    ///
    /// # Errors
    /// If they cannot be used.
    pub(crate) fn new(
        credentials: &PeerCredentials,
        neighbours: Neighbourhood,
    ) -> Result<Self, PeerTlsError> {
        let tls = Arc::new(ArcSwap::from_pointee(PeerTls::new(credentials)?));
        Ok(Self { tls, neighbours: Arc::new(Neighbours::new(neighbours)) })
    }

    /// Takes over what is known of the other nodes now.
    pub(crate) fn meet(&self, neighbours: Neighbourhood) {
        self.neighbours.replace(neighbours);
    }

    /// Shows others from now on.
    ///
    /// # Errors
    /// If they cannot be used: those of before stay.
    pub(crate) fn renew(&self, credentials: &PeerCredentials) -> Result<(), PeerTlsError> {
        self.tls.store(Arc::new(PeerTls::new(credentials)?));
        Ok(())
    }
}

/// Answers other nodes on one thread.
pub(super) struct Nodes(pub(super) Rc<Dispatcher>);

impl PeerService for Nodes {
    type Body = AnswerBody;

    fn call(
        &self,
        request: Request<Incoming>,
        node: &Rc<str>,
    ) -> impl Future<Output = Response<AnswerBody>> + use<> + 'static {
        match request.uri().path() {
            PING_PATH if request.method() == Method::GET => {
                Either::Left(ready(empty(StatusCode::NO_CONTENT)))
            }
            FORWARD_PATH => {
                let (dispatcher, handshake) = (self.0.clone(), Handshake::of(&request));
                let answering = dispatcher.passed_on(request, node).map(without_refusal);
                Either::Right(
                    answering.map(move |answer| dispatcher.passed_back(answer, handshake)),
                )
            }
            _ => Either::Left(ready(empty(StatusCode::NOT_FOUND))),
        }
    }
}

/// Who answers with [`REFUSED`] is the node: a worker's own header of that name goes no further.
pub(super) fn without_refusal(mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    if response.extensions_mut().remove::<NotBegun>().is_none() {
        response.headers_mut().remove(REFUSED);
    }
    response
}

/// Marks the node's own refusals.
#[derive(Clone, Copy)]
struct NotBegun;

pub(super) fn empty(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Here(ResponseBody::Empty));
    *response.status_mut() = status;
    response
}

/// Says that the request was not begun with, so that it may be sent to another node.
pub(super) fn refused(node: &str, why: &'static str) -> Answering {
    tracing::info!(from = node, why, "a request that was passed on is refused");
    let mut response = empty(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(REFUSED, HeaderValue::from_static(why));
    response.extensions_mut().insert(NotBegun);
    now(response)
}

impl Dispatcher {
    /// Serves a request that another node passes on, or refuses it. It is never passed on again.
    fn passed_on(self: &Rc<Self>, mut request: Request<Incoming>, node: &str) -> Answering {
        let Some(carried) = Carried::take(request.headers_mut()) else {
            return refused(node, "it is not understood: does the node run another release?");
        };
        if carried.hops > HOPS_MAX {
            return refused(node, "it was passed on too often");
        }
        let here = self.forwarding.as_ref().map(|to| to.neighbours().known());
        if here.is_none_or(|here| !carried.policy.permits(&here.region)) {
            return refused(node, "this node is not in a region that may serve it");
        }
        let Some(target) = self.targets.worker(&carried.worker) else {
            return refused(node, "the worker is not here yet, or not any more");
        };
        // While a deploy is on its way, this node serves what it has: the request might have come a moment
        // earlier, or later.
        let version = match self.targets.serves(&carried.version) {
            true => Some(&carried.version),
            false => target.version(rand::random_range(0.0..100.0)),
        };
        let Some(version) = version.cloned() else {
            return refused(node, "the worker has no version here");
        };
        self.serve_carried(request, carried, target, version, Arrival::Fresh)
    }

    /// Serves a request that is known by what was told along with it.
    pub(super) fn serve_carried(
        self: &Rc<Self>,
        request: Request<Incoming>,
        carried: Carried,
        target: Arc<Target>,
        version: VersionId,
        arrival: Arrival,
    ) -> Answering {
        let (depth, client) = (Depth::of(request.headers()), Client::carried(&carried));
        let (url, decided) = (carried.url, None);
        let serving = Serving { target, version, url, depth, client, decided, arrival };
        let request = request.map(|body| self.bounded(body));
        self.serve(request, &carried.id, serving)
    }

    /// The answer as the other node takes it: a worker's socket becomes the stream's.
    fn passed_back(
        &self,
        answer: Response<AnswerBody>,
        handshake: Option<Box<Handshake>>,
    ) -> Response<AnswerBody> {
        let is_socket = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        match handshake {
            None if is_socket => not_a_handshake("-"),
            None => answer,
            Some(handshake) if is_socket => handshake.finish(answer, self.drain.as_ref(), "-"),
            Some(_) => without_socket(answer),
        }
    }

    fn bounded(&self, body: Incoming) -> Option<SendBody> {
        if body.is_end_stream() {
            return None;
        }
        let bytes_max = usize::try_from(self.limits.request_body_bytes_max).unwrap_or(usize::MAX);
        Some(Box::pin(Limited::new(body, bytes_max).map_err(Into::into)))
    }
}
