//! Sends requests to nodes of the regions that their workers may run in. A request is sent once, or again where it
//! is known that no node has begun with it or where its method may be repeated; a node that gets one serves it and
//! never passes it on. A handshake goes the same way, and becomes a stream of bytes between the client and the node.

mod carried;
mod explanation;
mod neighbours;
mod replay;
mod socket;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use atoll_isolate::Outcome;
use atoll_router::regions::{RegionPolicy, Step};
use atoll_router::{
    Handshaken, NotSent, PeerBody, PeerError, PeerLink, PeerNode, PeerPool, PeerResponseBody,
    PeerSocket, Upgrade, no_peer_body,
};
use futures_util::future::Either;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, Version, request};

use super::body::{AnswerBody, SendBody};
use super::pages::{Problem, page};
use super::peer::ServingPeering;
use super::service::{Answering, Dispatcher, Serving};
use crate::held_body::HeldBody;
use crate::hop_by_hop::remove_hop_by_hop;
use crate::observe::{ForwardOutcome, Metrics};
use explanation::Account;
use neighbours::{Chosen, Fitness, Kind};
use socket::as_given;

pub(super) use carried::{Carried, Errand, FORWARD_PATH, FromElsewhere, HOPS_MAX, REFUSED};
pub(super) use explanation::{EXPLAIN_REQUEST, Explain};
pub(crate) use neighbours::{Neighbour, Neighbourhood, Neighbours};
pub(super) use replay::Replay;
pub(super) use socket::{NodeSocket, without_socket};

/// Attempts for one request, on all nodes together.
const ATTEMPTS_MAX: usize = 3;

/// What who serves a request elsewhere may take to answer beyond the time that its worker has.
const ANSWER_GRACE: Duration = Duration::from_secs(10);

/// How long it may take in all, where workers have so many milliseconds.
pub(super) fn answer_max(wall_ms_max: u64) -> Duration {
    Duration::from_millis(wall_ms_max).saturating_add(ANSWER_GRACE)
}

/// What one thread needs to send requests to other nodes.
pub(super) struct Forwarding {
    peering: Arc<ServingPeering>,
    pool: PeerPool,
    metrics: Arc<Metrics>,
    /// How long a node may take to answer.
    answer_max: Duration,
}

impl Forwarding {
    pub(super) fn new(
        peering: Arc<ServingPeering>,
        metrics: Arc<Metrics>,
        wall_ms_max: u64,
    ) -> Self {
        let pool = PeerPool::new(peering.tls.clone(), PeerLink::Network);
        Self { peering, pool, metrics, answer_max: answer_max(wall_ms_max) }
    }

    pub(super) fn neighbours(&self) -> &Arc<Neighbours> {
        &self.peering.neighbours
    }

    /// Closes connections to nodes that are gone.
    pub(super) fn sweep(&self) {
        let known = self.neighbours().known();
        self.pool.keep(|node| known.nodes.iter().any(|other| other.name == node.name));
    }
}

/// What came of the attempts for a request.
enum Ended {
    Answered(Box<Response<AnswerBody>>),
    /// It is to be served on this node.
    Here,
    /// Nobody has begun with it.
    Unavailable,
    /// Whether somebody has is unknown.
    Lost,
    /// Its sender broke off.
    Canceled,
}

/// What came of one attempt.
enum Attempt {
    Answered(Box<Response<AnswerBody>>),
    /// The node has not begun with it.
    Untouched,
    /// Whether it has is unknown.
    Lost,
    /// The request's sender broke off.
    Canceled,
}

impl Dispatcher {
    /// Serves a request where its worker may run: here, or on another node.
    pub(super) fn route(
        self: &Rc<Self>,
        request: Request<Option<SendBody>>,
        id: &Arc<str>,
        serving: Serving,
        explain: Explain,
    ) -> Answering {
        let (Some(forwarding), Some(policy)) = (&self.forwarding, serving.target.regions()) else {
            return self.serve(request, id, serving);
        };
        let known = forwarding.neighbours().known();
        let policy = policy.clone();
        let account = Account::new(&policy, &known);
        if policy.steps(&known.region).first() == Some(&Step::Here) {
            let answering = self.serve(request, id, serving);
            return explain.told(answering, || account.here());
        }
        let kind = match Upgrade::is_asked(&request) {
            true => Kind::Handshake,
            false => Kind::Request,
        };
        let (dispatcher, id) = (self.clone(), id.clone());
        Either::Right(Box::pin(async move {
            let (parts, body) = request.into_parts();
            let carried = dispatcher.carried(&id, &serving, &policy);
            let replay = Replay::of(body);
            let forwarding = dispatcher.forwarding.as_ref().expect("it was there a moment ago");
            let spent = Vec::new();
            let mut trip = Trip { forwarding, kind, parts, replay, carried, account, spent };
            let ended = trip.run(&policy.steps(&known.region)).await;
            let Trip { parts, replay, account, .. } = trip;
            let failed = |problem| (page(problem, &parts.headers, &id), account.nowhere());
            let (response, told) = match ended {
                Ended::Answered(response) => (*response, account.there()),
                Ended::Here => {
                    let request = Request::from_parts(parts, replay.attempt());
                    (dispatcher.serve(request, &id, serving).await, account.here())
                }
                Ended::Unavailable => failed(Problem::RegionUnavailable),
                Ended::Lost => failed(Problem::NodeLost),
                Ended::Canceled => failed(Problem::Ended(Outcome::Canceled)),
            };
            explain.tell(response, told)
        }))
    }

    fn carried(&self, id: &Arc<str>, serving: &Serving, policy: &RegionPolicy) -> Carried {
        let Serving { target, version, url, client, decided, .. } = serving;
        let node = &self.placer.host.node;
        let flags = decided.as_ref().map(super::rules::Decided::flags);
        let errand = Errand { id, worker: &target.worker, version, url, policy: policy.clone() };
        client.carry(node, flags, errand)
    }
}

/// A request on its way.
struct Trip<'a> {
    forwarding: &'a Forwarding,
    kind: Kind,
    parts: request::Parts,
    replay: Replay,
    carried: Carried,
    account: Account,
    /// Nodes that get no further attempt.
    spent: Vec<Arc<str>>,
}

impl Trip<'_> {
    async fn run(&mut self, steps: &[Step<'_>]) -> Ended {
        let mut lost = false;
        for (at, step) in steps.iter().enumerate() {
            let Step::Nearest(regions) = step else { return Ended::Here };
            // Where it can be served otherwise, only a node in good health is worth the way.
            let fitness = if at + 1 < steps.len() { Fitness::Good } else { Fitness::Any };
            while self.account.attempts() < ATTEMPTS_MAX {
                let (neighbours, metrics) =
                    (self.forwarding.neighbours(), &self.forwarding.metrics);
                let spent = |name: &str| self.spent.iter().any(|spent| **spent == *name);
                let chosen = neighbours.choose(regions, self.kind, fitness, metrics, spent);
                let Some(chosen) = chosen else { break };
                match self.attempt(chosen).await {
                    Attempt::Answered(response) => return Ended::Answered(response),
                    Attempt::Canceled => return Ended::Canceled,
                    Attempt::Untouched if self.replay.is_whole() => {}
                    Attempt::Untouched if lost => return Ended::Lost,
                    Attempt::Untouched => return Ended::Unavailable,
                    Attempt::Lost if self.may_repeat() => lost = true,
                    Attempt::Lost => return Ended::Lost,
                }
            }
        }
        if lost { Ended::Lost } else { Ended::Unavailable }
    }

    /// Whether a request that may have been acted upon may be sent again (RFC 9110, 9.2.2). A handshake looks like a
    /// GET, but what its worker began with it is no answer to a question.
    fn may_repeat(&self) -> bool {
        self.kind == Kind::Request && self.parts.method.is_idempotent() && self.replay.is_whole()
    }

    async fn attempt(&mut self, chosen: Chosen) -> Attempt {
        let sending = self.send(&chosen.node);
        let answered = tokio::time::timeout(self.forwarding.answer_max, sending).await;
        let (outcome, attempt) = match answered {
            Ok(Ok(Handshaken::Accepted(response))) => return self.accepted(chosen, response),
            Ok(Ok(Handshaken::Answered(response))) => return self.answered(chosen, response),
            Ok(Err(PeerError::NotSent { cause, .. })) => {
                match cause {
                    NotSent::Connect(_) | NotSent::Timeout => self.blame(&chosen),
                    // Its connection was closed when it ended, or for its age: another may be had.
                    NotSent::Ended if !self.account.has_tried(&chosen.node.name) => {}
                    _ => self.spent.push(chosen.node.name.clone()),
                }
                (ForwardOutcome::Unreachable, Attempt::Untouched)
            }
            Ok(Err(PeerError::Unprocessed(_))) => {
                if self.account.has_tried(&chosen.node.name) {
                    self.spent.push(chosen.node.name.clone());
                }
                (ForwardOutcome::Refused, Attempt::Untouched)
            }
            Ok(Err(_)) if self.replay.is_broken() => (ForwardOutcome::Canceled, Attempt::Canceled),
            Ok(Err(_)) | Err(_) => {
                self.blame(&chosen);
                (ForwardOutcome::Lost, Attempt::Lost)
            }
        };
        tracing::info!(
            id = &*self.carried.id,
            node = &*chosen.node.name,
            outcome = outcome.as_str(),
            "a request got no answer from another node"
        );
        chosen.counts.count(outcome);
        self.account.tried(&chosen, outcome);
        attempt
    }

    async fn send(&self, node: &PeerNode) -> Result<Handshaken, PeerError> {
        let pool = &self.forwarding.pool;
        match self.kind {
            Kind::Request => {
                let request = passing_on(&self.parts, &self.replay, &self.carried);
                pool.send(node, request).await.map(Handshaken::Answered)
            }
            Kind::Handshake => pool.shake_hands(node, self.handshake()).await,
        }
    }

    fn accepted(&mut self, chosen: Chosen, response: Response<PeerSocket>) -> Attempt {
        self.forwarding.neighbours().answered(&chosen.node.name);
        chosen.counts.count(ForwardOutcome::Answered);
        self.account.tried(&chosen, ForwardOutcome::Answered);
        let (parts, stream) = response.into_parts();
        let response = NodeSocket { stream, chosen }.respond(parts.headers);
        Attempt::Answered(Box::new(response))
    }

    fn answered(&mut self, chosen: Chosen, response: Response<PeerResponseBody>) -> Attempt {
        self.forwarding.neighbours().answered(&chosen.node.name);
        let refused = response.headers().contains_key(REFUSED);
        let outcome = if refused { ForwardOutcome::Refused } else { ForwardOutcome::Answered };
        chosen.counts.count(outcome);
        self.account.tried(&chosen, outcome);
        if refused {
            tracing::info!(
                id = &*self.carried.id,
                node = &*chosen.node.name,
                why = ?response.headers().get(REFUSED),
                "another node refused a request"
            );
            self.spent.push(chosen.node.name.clone());
            return Attempt::Untouched;
        }
        self.replay.settle();
        let response = match self.kind {
            Kind::Request => response,
            Kind::Handshake => as_given(response),
        };
        let response =
            passed_back(response, |body| AnswerBody::Peer(PeerAnswer::new(body, chosen)));
        Attempt::Answered(Box::new(response))
    }

    fn blame(&mut self, chosen: &Chosen) {
        self.forwarding.neighbours().failed(&chosen.node.name);
        self.spent.push(chosen.node.name.clone());
    }

    /// The handshake of a WebSocket for one attempt, which has no body.
    fn handshake(&self) -> Request<()> {
        let mut handshake = head(&self.parts, &self.carried);
        handshake.headers_mut().remove(CONTENT_LENGTH);
        handshake
    }
}

/// A request for one attempt to have it served elsewhere.
pub(super) fn passing_on(
    parts: &request::Parts,
    replay: &Replay,
    carried: &Carried,
) -> Request<PeerBody> {
    let body: PeerBody = match replay.attempt() {
        Some(body) => body,
        None => no_peer_body(),
    };
    let mut request = head(parts, carried).map(|()| body);
    *request.method_mut() = parts.method.clone();
    request
}

fn head(parts: &request::Parts, carried: &Carried) -> Request<()> {
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() =
        format!("http://node{FORWARD_PATH}").parse().expect("the address is well formed");
    let headers = request.headers_mut();
    headers.clone_from(&parts.headers);
    remove_hop_by_hop(headers);
    carried.write(headers);
    request
}

/// A response from elsewhere as one of this process.
pub(super) fn passed_back(
    response: Response<PeerResponseBody>,
    body: impl FnOnce(PeerResponseBody) -> AnswerBody,
) -> Response<AnswerBody> {
    let (parts, received) = response.into_parts();
    let mut response = Response::new(body(received));
    (*response.status_mut(), *response.headers_mut()) = (parts.status, parts.headers);
    response
}

/// A response's body from another node; the request counts as under way there until it ends.
pub(super) type PeerAnswer = HeldBody<PeerResponseBody, Chosen>;
