//! Questions to origins whether they are well. They are asked from when a request uses the pool until none has for a
//! while, by one thread of the process: a pool that nobody uses costs nothing.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use atoll_router::origins::{CheckOutcome, HealthCheck};
use futures_util::StreamExt;
use http::Request;
use http::header::{ACCEPT, USER_AGENT};
use http_body_util::{BodyExt, Empty};
use tokio::sync::OwnedSemaphorePermit;

use super::clients::OriginClients;
use super::live::LivePool;
use crate::dispatch::stamp_as_node;
use crate::observe::Metrics;
use crate::outbound::{DecodeBody, Resendable};

/// How long after the last request origins are still asked.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Origins of one pool that are asked at once.
const CHECKS_AT_ONCE_MAX: usize = 4;
/// An answer that is later than this after its time says nothing: the thread was busy.
const STALL: Duration = Duration::from_millis(250);
/// What checks call themselves.
const AGENT: &str = "atoll-health-check";

/// Has the calling thread check the pool's origins, unless another does or there is nothing to check.
pub(super) fn keep(pool: &Arc<LivePool>, clients: &Rc<OriginClients>, metrics: &Arc<Metrics>) {
    let Some(health) = &pool.pool.health else { return };
    if pool.checking.load(Ordering::Relaxed) || pool.checking.swap(true, Ordering::AcqRel) {
        return;
    }
    let Ok(permit) = pool.checkers.0.clone().try_acquire_owned() else {
        pool.checking.store(false, Ordering::Release);
        tracing::debug!(host = pool.pool.host, "too many pools are checked: this one is not");
        return;
    };
    let checking = Checking { pool: Arc::downgrade(pool), _permit: permit };
    let (health, clients, metrics) = (health.clone(), clients.clone(), metrics.clone());
    atoll_isolate::spawn(run(checking, health, clients, metrics));
}

/// That a thread checks the pool. It ends with the thread.
struct Checking {
    pool: Weak<LivePool>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Checking {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.checking.store(false, Ordering::Release);
        }
    }
}

async fn run(
    checking: Checking,
    health: HealthCheck,
    clients: Rc<OriginClients>,
    metrics: Arc<Metrics>,
) {
    let interval = Duration::from_secs(health.interval_s);
    // The pool is gone once a deploy has replaced it.
    while let Some(pool) = checking.pool.upgrade() {
        if pool.idle() > IDLE_MAX {
            pool.forget_checks();
            return;
        }
        let began = Instant::now();
        let check = |at| check(&pool, &health, at, &clients, &metrics);
        futures_util::stream::iter(0..pool.origins.len())
            .map(check)
            .buffer_unordered(CHECKS_AT_ONCE_MAX)
            .collect::<()>()
            .await;
        drop(pool);
        // Processes and nodes do not ask at the same moment.
        let spread = interval.mul_f64(rand::random_range(0.9..1.1));
        tokio::time::sleep(spread.saturating_sub(began.elapsed()).max(interval / 2)).await;
    }
}

async fn check(
    pool: &Arc<LivePool>,
    health: &HealthCheck,
    at: usize,
    clients: &OriginClients,
    metrics: &Metrics,
) {
    let limit = Duration::from_millis(health.timeout_ms);
    let began = Instant::now();
    let body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
    let (parts, body) = question(pool, health, at, body).into_parts();
    let (client, body) = (clients.of(pool, at), Resendable::new(body));
    // The body is not read: dropping the response ends it.
    let answer = tokio::time::timeout(limit, client.attempt(parts, &body)).await;
    let (outcome, why) = match answer {
        Ok(Ok(response)) => {
            let status = response.status().as_u16();
            let passes = health.passes(status);
            let outcome = if passes { CheckOutcome::Passed } else { CheckOutcome::Failed };
            (outcome, format!("status {status}"))
        }
        Ok(Err(unanswered)) => (CheckOutcome::Failed, unanswered.error.to_string()),
        Err(_) if began.elapsed() > limit + STALL => return,
        Err(_) => (CheckOutcome::Failed, format!("no answer within {} ms", health.timeout_ms)),
    };
    pool.checked(health, at, outcome, &why, metrics);
}

fn question<B>(pool: &LivePool, health: &HealthCheck, at: usize, body: B) -> Request<B> {
    let host = &pool.pool.host;
    let uri = format!("http://{host}{}", health.path).parse().unwrap_or_default();
    let mut request = Request::new(body);
    *request.uri_mut() = pool.addressed(&uri, at);
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, http::HeaderValue::from_static(AGENT));
    headers.insert(ACCEPT, http::HeaderValue::from_static("*/*"));
    // An origin that is a node in turn must be able to see a loop.
    stamp_as_node(headers);
    request.extensions_mut().insert(DecodeBody::No);
    request
}
