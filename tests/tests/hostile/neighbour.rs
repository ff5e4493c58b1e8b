//! A well-behaved worker of the same node, called at a steady pace whether it answers or not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_tests::{Node, POLL, Request, Script, fixture};
use tokio::task::JoinHandle;

/// The time between two calls: 100 each second.
const PACE: Duration = Duration::from_millis(10);
/// Calls under way at once, at most.
const UNDER_WAY_MAX: usize = 1_000;

#[derive(Default)]
struct Seen {
    begun: AtomicUsize,
    ended: AtomicUsize,
    latencies: Mutex<Vec<Duration>>,
    faults: Mutex<Vec<String>>,
}

/// The calls go on until it is dropped.
pub(crate) struct Neighbour {
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

/// What the neighbour's callers met with.
#[derive(Default)]
pub(crate) struct Calls {
    latencies: Vec<Duration>,
    pub(crate) faults: Vec<String>,
}

impl Neighbour {
    /// Deploys it, and begins to call.
    pub(crate) async fn start(node: &Node) -> Self {
        node.deploy("neighbour", &Script::module(fixture("echo.js"))).await;
        node.text("neighbour", "/").await;
        let seen = Arc::new(Seen::default());
        let task = tokio::spawn(call(node.request("neighbour", "/"), Arc::clone(&seen)));
        Self { seen, task }
    }

    /// What has been met with since the last look, all calls that were begun by now included.
    pub(crate) async fn calls(&self) -> Calls {
        let begun = self.seen.begun.load(Ordering::SeqCst);
        while self.seen.ended.load(Ordering::SeqCst) < begun {
            tokio::time::sleep(POLL).await;
        }
        let mut latencies = std::mem::take(&mut *lock(&self.seen.latencies));
        latencies.sort_unstable();
        Calls { latencies, faults: std::mem::take(&mut *lock(&self.seen.faults)) }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Calls {
    /// The latency that all but one in a hundred stay below.
    pub(crate) fn p99(&self) -> Duration {
        let at = (self.latencies.len() * 99).div_ceil(100).saturating_sub(1);
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn call(request: Request, seen: Arc<Seen>) {
    let mut pace = tokio::time::interval(PACE);
    loop {
        pace.tick().await;
        let begun = seen.begun.load(Ordering::SeqCst);
        if begun - seen.ended.load(Ordering::SeqCst) >= UNDER_WAY_MAX {
            continue;
        }
        seen.begun.store(begun + 1, Ordering::SeqCst);
        let (request, seen) = (request.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let started = Instant::now();
            let fault = match request.send().await {
                Ok(reply) if reply.status == 200 => None,
                Ok(reply) => Some(format!("status {}: {}", reply.status, reply.text())),
                Err(error) => Some(error.to_string()),
            };
            lock(&seen.latencies).push(started.elapsed());
            lock(&seen.faults).extend(fault);
            seen.ended.fetch_add(1, Ordering::SeqCst);
        });
    }
}
