//! The other serving processes of the node. A worker that is called seldom has one isolate in one of them, its home,
//! and its calls go there; one that is called often is loaded where its calls come to.

use std::cell::{Cell, RefCell};
use std::future::ready;
use std::mem;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atoll_isolate::Outcome;
use atoll_router::regions::RegionPolicy;
use atoll_router::{
    PeerCredentials, PeerError, PeerLink, PeerNode, PeerPool, PeerService, PeerTls, PeerTlsError,
    Upgrade, no_peer_body,
};
use futures_util::future::{Either, FutureExt};
use http::header::UPGRADE;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::admission::Arrival;
use super::body::AnswerBody;
use super::call::{Answered, Call, Unanswered};
use super::forward::{
    Carried, Errand, FORWARD_PATH, REFUSED, Replay, answer_max, passed_back, passing_on,
};
use super::home::home_of;
use super::pages::Problem;
use super::peer::{empty, refused, without_refusal};
use super::placement::CallRate;
use super::service::{Answering, Dispatcher};
use super::targets::Target;
use crate::held_body::HeldBody;
use crate::registry::{VersionId, WorkerRef};

/// The name in the certificate that all serving processes of a node show each other.
pub(crate) const SIBLING_NAME: &str = "serving-process";

/// Where a version is asked to be loaded for calls to come. Its id follows.
const WARM_PATH: &str = "/warm/";

/// The serving processes of a node, as the supervisor knows them.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Siblings {
    /// What they show each other.
    pub(crate) credentials: PeerCredentials,
    /// Where each listens for the others, by its place; none while it does not run.
    pub(crate) running: Vec<Option<SocketAddr>>,
}

/// The same as one of them knows it, for all of its threads.
pub(crate) struct ServingSiblings {
    /// The place of this process.
    place: usize,
    /// What it shows to the others.
    pub(super) tls: Arc<ArcSwap<PeerTls>>,
    running: ArcSwap<Vec<Option<SocketAddr>>>,
}

impl ServingSiblings {
    /// What the process of this place knows at its start.
    ///
    /// # Errors
    /// If the credentials cannot be used.
    pub(crate) fn new(place: usize, siblings: Siblings) -> Result<Self, PeerTlsError> {
        let tls = Arc::new(ArcSwap::from_pointee(PeerTls::new(&siblings.credentials)?));
        Ok(Self { place, tls, running: ArcSwap::from_pointee(siblings.running) })
    }

    /// Takes over what is known now.
    ///
    /// # Errors
    /// If the credentials cannot be used: those of before stay.
    pub(crate) fn meet(&self, siblings: Siblings) -> Result<(), PeerTlsError> {
        self.running.store(Arc::new(siblings.running));
        self.tls.store(Arc::new(PeerTls::new(&siblings.credentials)?));
        Ok(())
    }

    /// Whether this process is a worker's home.
    pub(crate) fn is_home(&self, worker: &WorkerRef) -> bool {
        self.home(worker).is_none()
    }

    /// The process that is a worker's home, unless it is this one.
    fn home(&self, worker: &WorkerRef) -> Option<PeerNode> {
        let running = self.running.load();
        let runs = |(place, address): (usize, &Option<SocketAddr>)| {
            (place == self.place || address.is_some()).then_some(place)
        };
        let home = home_of(worker, running.iter().enumerate().filter_map(runs))?;
        let address = (*running.get(home)?).filter(|_| home != self.place)?;
        Some(PeerNode { name: SIBLING_NAME.into(), address })
    }
}

/// What one front thread needs to send calls home.
pub(super) struct HomeCalls {
    siblings: Arc<ServingSiblings>,
    pool: PeerPool,
    /// How long a sibling may take to answer.
    answer_max: Duration,
    /// How often workers were called here whose home is elsewhere.
    rates: RefCell<FxHashMap<WorkerRef, CallRate>>,
    /// A sibling is being asked to load a version. One at a time: it is a hint.
    warming: Cell<bool>,
}

impl HomeCalls {
    pub(super) fn new(siblings: Arc<ServingSiblings>, wall_ms_max: u64) -> Self {
        let pool = PeerPool::new(siblings.tls.clone(), PeerLink::Machine);
        let answer_max = answer_max(wall_ms_max);
        Self { siblings, pool, answer_max, rates: RefCell::default(), warming: Cell::default() }
    }

    /// Forgets what was counted too long ago, and processes that are gone.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.rates.borrow_mut().retain(|_, rate| !rate.is_over(now));
        let running = self.siblings.running.load();
        self.pool.keep(|sibling| running.contains(&Some(sibling.address)));
    }

    /// Counts a call here. Whether they are so many that the worker is to be loaded here, too.
    fn is_hot(&self, worker: &WorkerRef) -> bool {
        let (mut rates, now) = (self.rates.borrow_mut(), Instant::now());
        match rates.get_mut(worker) {
            Some(rate) => rate.call(now),
            None => rates.entry(worker.clone()).or_insert(CallRate::new(now)).call(now),
        }
    }
}

impl Dispatcher {
    /// The process that a call goes to which no thread of this one has an instance for; none if it stays here.
    pub(super) fn home(&self, call: &Call, arrival: Arrival) -> Option<PeerNode> {
        let homes = self.home_calls.as_ref()?;
        // What rules decided is noted in this process, also while the worker runs. A socket would cost the way for
        // each message, and its header cannot be sent on.
        let stays = arrival == Arrival::FromSibling
            || call.decided.is_some()
            || Upgrade::is_asked(&call.request)
            || call.request.headers().contains_key(UPGRADE)
            || !self.placer.placement.is_nowhere(call.subject.version());
        if stays {
            return None;
        }
        let home = homes.siblings.home(call.subject.worker())?;
        (!homes.is_hot(call.subject.worker())).then_some(home)
    }

    /// Has a worker's home answer a call. Where that has not begun with it, it is answered here.
    pub(super) async fn send_home(
        self: Rc<Self>,
        mut call: Call,
        home: PeerNode,
    ) -> Answered<AnswerBody> {
        let (Some(homes), Some(client)) = (&self.home_calls, &call.client) else {
            return self.placer.clone().fetch(call).await;
        };
        let (worker, version) = (call.subject.worker(), call.subject.version());
        let policy = RegionPolicy::default();
        let errand = Errand { id: &call.id, worker, version, url: &call.url, policy };
        let carried = client.carry(&self.placer.host.node, None, errand);
        let (parts, body) = mem::replace(&mut call.request, Request::new(None)).into_parts();
        let replay = Replay::of(body);
        let sending = homes.pool.send(&home, passing_on(&parts, &replay, &carried));
        let problem = match tokio::time::timeout(homes.answer_max, sending).await {
            Ok(Ok(response)) if !response.headers().contains_key(REFUSED) => {
                replay.settle();
                self.placer.placement.counts.sent_home.add(1);
                // The call is under way here, too, until it has ended there.
                let wrap = |body| AnswerBody::Home(HeldBody::new(body, call.subject));
                return Ok(passed_back(response, wrap));
            }
            Ok(Ok(_) | Err(PeerError::NotSent { .. } | PeerError::Unprocessed(_)))
                if replay.is_whole() =>
            {
                call.request = Request::from_parts(parts, replay.attempt());
                return self.placer.clone().fetch(call).await;
            }
            _ if replay.is_broken() => Problem::Ended(Outcome::Canceled),
            _ => Problem::NodeLost,
        };
        // If it lives, its home reports what became of it.
        let message = "the serving process that had it did not answer".to_owned();
        tracing::info!(id = &*call.id, worker = %call.subject.worker().worker, message);
        Err(Unanswered { problem, message })
    }

    /// Has a worker loaded somewhere, for calls that are about to come.
    pub(super) fn warm(self: &Rc<Self>, target: &Target) {
        let Some(version) = target.single() else { return };
        let home = self.home_calls.as_ref().and_then(|homes| homes.siblings.home(&target.worker));
        let Some(home) = home.filter(|_| self.placer.placement.is_nowhere(version)) else {
            return self.placer.warm(version);
        };
        let mut request = Request::new(no_peer_body());
        let path = format!("http://node{WARM_PATH}{}", version.as_str());
        let Ok(uri) = path.parse() else { return };
        *request.uri_mut() = uri;
        let dispatcher = self.clone();
        tokio::task::spawn_local(async move {
            let Some(homes) = &dispatcher.home_calls else { return };
            if homes.warming.replace(true) {
                return;
            }
            // It is a hint: the call will tell what is wrong.
            let _ = tokio::time::timeout(homes.answer_max, homes.pool.send(&home, request)).await;
            homes.warming.set(false);
        });
    }

    /// Serves a call that a sibling sends home, or refuses it. It is never sent on.
    fn came_home(self: &Rc<Self>, mut request: Request<Incoming>, sibling: &str) -> Answering {
        let Some(carried) = Carried::take(request.headers_mut()) else {
            return refused(sibling, "it is not understood");
        };
        // The supervisor tells its processes of a deploy one after the other.
        let target = self.targets.worker(&carried.worker);
        let Some(target) = target.filter(|_| self.targets.serves(&carried.version)) else {
            return refused(sibling, "the version is not here yet, or not any more");
        };
        let version = carried.version.clone();
        self.serve_carried(request, carried, target, version, Arrival::FromSibling)
    }
}

/// Answers the node's other serving processes on one thread.
pub(super) struct FromSiblings(pub(super) Rc<Dispatcher>);

impl PeerService for FromSiblings {
    type Body = AnswerBody;

    fn call(
        &self,
        request: Request<Incoming>,
        sibling: &Rc<str>,
    ) -> impl Future<Output = Response<AnswerBody>> + use<> + 'static {
        let path = request.uri().path();
        if let Some(version) = path.strip_prefix(WARM_PATH).map(VersionId::new) {
            if self.0.targets.serves(&version) {
                self.0.placer.warm(&version);
            }
            return Either::Left(ready(empty(StatusCode::NO_CONTENT)));
        }
        match path {
            FORWARD_PATH => Either::Right(self.0.came_home(request, sibling).map(without_refusal)),
            _ => Either::Left(ready(empty(StatusCode::NOT_FOUND))),
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_router::{AUTHORITY_SEED_BYTES, PeerAuthority};

    use super::*;
    use crate::registry::{AccountId, WorkerName};

    #[test]
    fn homes_follow_who_runs_and_a_process_needs_no_word_of_itself() {
        let authority = PeerAuthority::from_seed(&[7; AUTHORITY_SEED_BYTES]).unwrap();
        let credentials = authority.issue(SIBLING_NAME).unwrap();
        let address = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let known = |running: &[Option<SocketAddr>]| Siblings {
            credentials: credentials.clone(),
            running: running.to_vec(),
        };
        let siblings = ServingSiblings::new(1, known(&[address(1), None, address(3)])).unwrap();
        let workers: Vec<WorkerRef> = (0..100)
            .map(|index| WorkerRef {
                account: AccountId::new("a"),
                worker: WorkerName::new(format!("w{index}")),
            })
            .collect();
        let homes = || -> Vec<Option<SocketAddr>> {
            let home = |worker| siblings.home(worker).map(|home| home.address);
            workers.iter().map(home).collect()
        };
        let before = homes();
        for home in [address(1), None, address(3)] {
            assert!(before.iter().filter(|one| **one == home).count() > 15, "{before:?}");
        }
        siblings.meet(known(&[address(1), address(2), None])).unwrap();
        for (worker, (before, after)) in workers.iter().zip(before.iter().zip(homes())) {
            assert!(*before == after || *before == address(3), "{before:?} {after:?}");
            assert_ne!(after, address(3));
            assert_eq!(siblings.is_home(worker), after.is_none());
        }
    }
}
