//! The pools of workers, and what this process knows of their origins. A pool that a change of the worker's document
//! leaves as it is keeps what is known.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use atoll_router::origins::{
    Change, CheckOutcome, HealthCheck, Origin, OriginPool, PoolState, Standing, Steering, Vantage,
    check_pools,
};
use http::Uri;
use http::uri::{Authority, Scheme};
use tokio::sync::Semaphore;

use crate::observe::{Metrics, OriginCounts, OriginEvent, OriginStanding};
use crate::outbound::Destination;
use crate::registry::{WorkerDocument, WorkerRef};

/// Pools of one process whose origins are checked at the same time. Those that come later are not checked.
const CHECKED_POOLS_MAX: usize = 256;

/// Of a pool that was not used for so long nothing is told.
const TOLD_OF: Duration = Duration::from_secs(600);

/// Places for pools whose origins are checked, of one process.
#[derive(Clone)]
pub(crate) struct Checkers(pub(super) Arc<Semaphore>);

impl Default for Checkers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CHECKED_POOLS_MAX)))
    }
}

/// The pools of one worker.
#[derive(Clone)]
pub(crate) struct LivePools(Arc<[Arc<LivePool>]>);

/// One pool, and what is known of its origins.
pub(crate) struct LivePool {
    pub(super) worker: WorkerRef,
    pub(super) pool: OriginPool,
    pub(super) origins: Vec<LiveOrigin>,
    state: Mutex<PoolState>,
    begun: Instant,
    /// When the last request came, in milliseconds since the beginning; 0 if none did.
    used_ms: AtomicU64,
    /// Whether a thread checks the origins.
    pub(super) checking: AtomicBool,
    pub(super) checkers: Checkers,
}

/// An origin, ready to be connected to.
pub(super) struct LiveOrigin {
    scheme: Scheme,
    /// What it is asked for in place of the URL's host.
    authority: Option<Authority>,
    pub(super) destination: Destination,
    counts: OnceLock<Arc<OriginCounts>>,
}

/// Where an invocation's client is, as far as a pool wants to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whence {
    pub(crate) country: Option<Box<str>>,
    pub(crate) continent: Option<Box<str>>,
}

/// Pools as the API takes them. It refuses others, but a newer release may have set these.
fn usable(document: &str) -> Result<Vec<OriginPool>, String> {
    let pools: Vec<OriginPool> =
        serde_json::from_str(document).map_err(|error| error.to_string())?;
    check_pools(&pools).map_err(|error| error.to_string())?;
    Ok(pools)
}

impl LivePools {
    /// The pools that a worker's document describes, if they can be used. Those that are as before stay the same.
    pub(crate) fn of(
        source: &WorkerDocument,
        before: Option<&Self>,
        checkers: &Checkers,
    ) -> Option<Self> {
        let pools = usable(&source.document)
            .inspect_err(|error| {
                tracing::error!(worker = %source.worker.worker, %error, "origin pools cannot be used: the worker's requests go to the hosts of their URLs");
            })
            .ok()?;
        let live = pools.into_iter().filter_map(|pool| {
            let same = before.and_then(|before| before.0.iter().find(|live| live.pool == pool));
            same.cloned().or_else(|| LivePool::new(&source.worker, pool, checkers).map(Arc::new))
        });
        Some(Self(live.collect()))
    }

    /// The pool for a URL.
    pub(crate) fn find(&self, uri: &Uri) -> Option<Arc<LivePool>> {
        let (scheme, host) = (uri.scheme_str()?, uri.host()?);
        let port = uri.port_u16();
        self.0.iter().find(|live| live.pool.is_for(scheme, host, port)).cloned()
    }

    /// Whether some pool asks where clients are.
    pub(crate) fn wants_place(&self) -> bool {
        self.0.iter().any(|live| live.pool.steering == Steering::Geo)
    }

    /// How the origins of pools stand that were used of late.
    pub(crate) fn standings(&self) -> impl Iterator<Item = OriginStanding> {
        let used = self.0.iter().filter(|live| live.is_used() && live.idle() < TOLD_OF);
        used.flat_map(|live| live.standings())
    }
}

impl LivePool {
    fn standings(&self) -> Vec<OriginStanding> {
        let standings = self.state().standings(self.begun.elapsed());
        let told = |(origin, standing): (&Origin, Standing)| OriginStanding {
            worker: self.worker.clone(),
            host: self.pool.host.clone(),
            origin: origin.address.clone(),
            standing,
        };
        self.pool.origins.iter().zip(standings).map(told).collect()
    }

    fn new(worker: &WorkerRef, pool: OriginPool, checkers: &Checkers) -> Option<Self> {
        let connect_timeout = Duration::from_millis(pool.connect_timeout_ms);
        let live = |origin: &Origin| {
            let (scheme, host, port) = origin.parts()?;
            let authority = origin.host_header.as_deref().map(str::parse).transpose().ok()?;
            let scheme = if scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP };
            let destination = Destination { host, port, connect_timeout };
            Some(LiveOrigin { scheme, authority, destination, counts: OnceLock::new() })
        };
        Some(Self {
            origins: pool.origins.iter().map(live).collect::<Option<_>>()?,
            state: Mutex::new(PoolState::new(&pool)),
            worker: worker.clone(),
            pool,
            begun: Instant::now(),
            used_ms: AtomicU64::new(0),
            checking: AtomicBool::new(false),
            checkers: checkers.clone(),
        })
    }

    /// The origin for the next attempt of a request.
    pub(super) fn begin(
        self: &Arc<Self>,
        vantage: &Vantage<'_>,
        tried: &[usize],
    ) -> Option<UnderWay> {
        let (now, draw) = (self.begun.elapsed(), |below| rand::random_range(0..below));
        let at = self.state().begin(&self.pool, vantage, tried, now, draw)?;
        Some(UnderWay { pool: self.clone(), at })
    }

    /// The URL that an origin is asked for instead of `uri`.
    pub(super) fn addressed(&self, uri: &Uri, at: usize) -> Uri {
        let origin = &self.origins[at];
        let mut parts = uri.clone().into_parts();
        parts.scheme = Some(origin.scheme.clone());
        if let Some(authority) = &origin.authority {
            parts.authority = Some(authority.clone());
        }
        Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
    }

    /// Notes a response to a request.
    pub(super) fn answered(&self, at: usize, status: u16, took: Duration, metrics: &Metrics) {
        if status < 500 {
            self.counts(at, metrics).count(OriginEvent::Answered);
            self.state().answered(at, took);
        } else {
            self.counts(at, metrics).count(OriginEvent::Error);
            self.failed(at, &format!("status {status}"), metrics);
        }
    }

    /// Notes that a request had no response.
    pub(super) fn unanswered(&self, at: usize, event: OriginEvent, why: &str, metrics: &Metrics) {
        self.counts(at, metrics).count(event);
        self.failed(at, why, metrics);
    }

    fn failed(&self, at: usize, why: &str, metrics: &Metrics) {
        let change = self.state().failed(&self.pool, at, self.begun.elapsed());
        self.tell(at, change, why, metrics);
    }

    /// Notes what became of a check.
    pub(super) fn checked(
        &self,
        health: &HealthCheck,
        at: usize,
        outcome: CheckOutcome,
        why: &str,
        metrics: &Metrics,
    ) {
        let change = self.state().checked(health, at, outcome);
        self.tell(at, change, why, metrics);
    }

    /// Logs and counts that an origin is left out or comes back.
    fn tell(&self, at: usize, change: Option<Change>, why: &str, metrics: &Metrics) {
        let (worker, host) = (&self.worker.worker, &self.pool.host);
        let origin = &self.pool.origins[at].address;
        match change {
            None => {}
            Some(Change::Ejected(time)) => {
                self.counts(at, metrics).count(OriginEvent::Ejected);
                let ms = time.as_millis() as u64;
                tracing::warn!(%worker, host, origin, ms, why, "requests to an origin fail: it gets none for a while");
            }
            Some(Change::Ill) => {
                self.counts(at, metrics).count(OriginEvent::Ill);
                tracing::warn!(%worker, host, origin, why, "checks of an origin fail: it gets no requests until they pass");
            }
            Some(Change::Well) => {
                tracing::info!(%worker, host, origin, "checks of an origin pass: it gets requests again");
            }
        }
    }

    /// Forgets what checks said, since nobody checks any more.
    pub(super) fn forget_checks(&self) {
        self.state().forget_checks();
    }

    /// Notes that a request came.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used_ms.store(now.max(1), Ordering::Relaxed);
    }

    fn is_used(&self) -> bool {
        self.used_ms.load(Ordering::Relaxed) > 0
    }

    /// For how long no request came.
    pub(super) fn idle(&self) -> Duration {
        let used = Duration::from_millis(self.used_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(used)
    }

    fn counts(&self, at: usize, metrics: &Metrics) -> &OriginCounts {
        self.origins[at].counts.get_or_init(|| {
            metrics.origin(&self.worker, &self.pool.host, &self.pool.origins[at].address)
        })
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        // The state is whole between any two statements under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way to an origin, until this is dropped with its response's body.
pub(crate) struct UnderWay {
    pool: Arc<LivePool>,
    pub(super) at: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.pool.state().ended(self.at);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::registry::{AccountId, WorkerName};

    fn worker() -> WorkerRef {
        WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") }
    }

    fn live(pools: &Value, before: Option<&LivePools>) -> Option<LivePools> {
        let source = WorkerDocument { worker: worker(), document: pools.to_string() };
        LivePools::of(&source, before, &Checkers::default())
    }

    fn pool(host: &str, address: &str) -> Value {
        json!({ "host": host, "origins": [
            { "address": address },
            { "address": "http://[2001:db8::1]:81", "host_header": "inner.b:82" },
        ] })
    }

    #[test]
    fn a_pool_that_stays_keeps_what_is_known() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let first = json!([pool("a.b", "http://o1"), pool("c.d", "http://o2")]);
        let before = live(&first, None).unwrap();
        let second = json!([pool("c.d", "http://o2"), pool("a.b", "http://other")]);
        let after = live(&second, Some(&before)).unwrap();
        let find = |pools: &LivePools, url| pools.find(&uri(url));
        let same = |url| Arc::ptr_eq(&find(&before, url).unwrap(), &find(&after, url).unwrap());
        assert!(same("https://c.d/x") && !same("https://a.b/x"));
        assert!(find(&after, "https://c.d:444/").is_none());
        for wrong in [json!([{ "host": "a.b", "origins": [] }]), json!({ "newer": true })] {
            assert!(live(&wrong, Some(&before)).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_asked_for_the_urls_host_or_its_own() {
        let pools = live(&json!([pool("a.b", "https://o1:8443")]), None).unwrap();
        let uri: Uri = "http://a.b/p?q=1".parse().unwrap();
        let live = pools.find(&uri).unwrap();
        assert_eq!(live.addressed(&uri, 0).to_string(), "https://a.b/p?q=1");
        assert_eq!(live.addressed(&uri, 1).to_string(), "http://inner.b:82/p?q=1");
        let to = |at: usize| {
            (live.origins[at].destination.host.as_str(), live.origins[at].destination.port)
        };
        assert_eq!((to(0), to(1)), (("o1", 8443), ("[2001:db8::1]", 81)));
    }
}
