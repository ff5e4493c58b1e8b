//! Fires cron lines once in the cluster: one node has the lease, and claims every due time in a log before it
//! fires it. What came due while nobody had the lease, the next holder fires late.

use std::sync::Arc;
use std::time::Duration;

use atoll_kv::log::{
    Append, ChangeLog, Expect, FENCE_HEADER, Fence, Lease, LogEngine, LogError, LogOptions,
    Retention,
};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::lease::{LeaseOptions, Tenure, hold};
use crate::dispatch::{Job, Lines};
use crate::registry::{Schedule, Snapshot};

/// The lease of whoever fires.
const LEASE: LeaseOptions =
    LeaseOptions { name: "crons", ttl: Duration::from_secs(3), interval: Duration::from_secs(1) };
/// The log of claims.
const LOG: &str = "crons";
/// How long a claim stays: far longer than anybody looks back.
const CLAIM_TTL: Duration = Duration::from_secs(3_600);
/// How long a claim may take.
const CLAIM_MAX: Duration = Duration::from_secs(2);
/// How often a claim is tried while the log does not answer.
const CLAIM_TRIES_MAX: u32 = 3;
/// Claims under way at once.
const CLAIMS_MAX: usize = 32;
/// How far a new holder looks back for what nobody fired.
const LOOK_BACK: Duration = Duration::from_secs(60);
/// The pause before claims are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The longest sleep between two looks at the clock, so that a changed clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Fires the lines that come due while this node has the lease, until the registry is gone or `leave` says so.
pub(crate) async fn run_cluster_crons(
    engine: &dyn LogEngine,
    leases: Arc<dyn Lease>,
    holder: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    leave: watch::Receiver<bool>,
    fire: impl Fn(Job) -> bool,
) {
    let options = LogOptions {
        retention: Retention::LastPerSubject,
        append_timeout: CLAIM_MAX,
        ..LogOptions::default()
    };
    let claims = engine.log(LOG, options);
    let (sender, tenures) = watch::channel(None);
    let lease = hold(leases, LEASE, holder.clone(), sender, leave);
    let crons = Crons { claims, holder, fire };
    tokio::join!(lease, crons.run(snapshots, tenures));
}

struct Crons<F> {
    claims: Arc<dyn ChangeLog>,
    holder: String,
    fire: F,
}

/// What becomes of a due time that was claimed.
enum Claim {
    Ours,
    Others,
    /// The log does not answer.
    Unknown,
}

impl<F: Fn(Job) -> bool> Crons<F> {
    async fn run(
        &self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut tenures: watch::Receiver<Option<Tenure>>,
    ) {
        loop {
            let Ok(tenure) = tenures.wait_for(Option::is_some).await.map(|tenure| *tenure) else {
                return;
            };
            let Some(tenure) = tenure else { continue };
            let mut last = Utc::now() - LOOK_BACK;
            let mut lines = Lines::default();
            while self.step(tenure.fence, &mut last, &mut lines, &mut snapshots, &mut tenures).await
            {
            }
            if snapshots.has_changed().is_err() {
                return;
            }
        }
    }

    /// Waits for the next due time and fires it; false when the tenure is over.
    async fn step(
        &self,
        fence: Fence,
        last: &mut DateTime<Utc>,
        lines: &mut Lines,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
        tenures: &mut watch::Receiver<Option<Tenure>>,
    ) -> bool {
        lines.follow(&snapshots.borrow_and_update().schedules);
        let next = lines.next_after(last);
        let wait = next.map_or(SLEEP_MAX, |due| (due - Utc::now()).to_std().unwrap_or_default());
        tokio::select! {
            changed = lines.changed(snapshots) => return changed.is_ok() && has(tenures, fence),
            changed = tenures.changed() => return changed.is_ok() && has(tenures, fence),
            () = tokio::time::sleep(wait.min(SLEEP_MAX)) => {}
        }
        if !has(tenures, fence) {
            return false;
        }
        let Some(due) = next.filter(|due| *due <= Utc::now()) else { return true };
        let there = lines.due(&due).filter(|line| existed(line, &due)).cloned();
        let settled = stream::iter(there.collect::<Vec<_>>())
            .map(|line| self.settle(line, due, fence))
            .buffer_unordered(CLAIMS_MAX)
            .all(std::future::ready)
            .await;
        // What could not be claimed is tried again while there is a tenure, and then by the next holder.
        match settled {
            true => *last = due,
            false => tokio::time::sleep(RETRY_PAUSE).await,
        }
        has(tenures, fence)
    }

    /// Claims a due time and fires it if nobody did; false if it may still be to do.
    async fn settle(&self, line: Schedule, due: DateTime<Utc>, fence: Fence) -> bool {
        match self.claim(&line, due, fence).await {
            Claim::Others => true,
            Claim::Unknown => false,
            Claim::Ours => {
                let job = Job::Scheduled {
                    worker: line.worker.clone(),
                    cron: line.cron.clone(),
                    scheduled_ms: u64::try_from(due.timestamp_millis()).unwrap_or(0),
                };
                if !(self.fire)(job) {
                    tracing::warn!(worker = %line.worker.worker, cron = line.cron, "cron line skipped: every thread is busy");
                }
                true
            }
        }
    }

    async fn claim(&self, line: &Schedule, due: DateTime<Utc>, fence: Fence) -> Claim {
        let subject = subject(line, due);
        let append = Append::new(subject.clone(), self.holder.clone())
            .header(FENCE_HEADER, fence.0.to_string())
            .ttl(CLAIM_TTL)
            .expect(Expect::LastOnSubject(0))
            // A try whose answer was lost is found to be this node's.
            .id(format!("{}-{subject}", self.holder));
        for _ in 0..CLAIM_TRIES_MAX {
            match self.claims.append(append.clone()).await {
                Ok(_) => return Claim::Ours,
                Err(LogError::Conflict) => return Claim::Others,
                Err(error) => tracing::debug!(%error, "a cron line cannot be claimed now"),
            }
        }
        Claim::Unknown
    }
}

fn has(tenures: &watch::Receiver<Option<Tenure>>, fence: Fence) -> bool {
    let tenure = *tenures.borrow();
    tenure.is_some_and(|tenure| tenure.fence == fence && Instant::now() < tenure.until)
}

/// Whether the line was there when it came due: who looks back must not fire what was made since.
fn existed(line: &Schedule, due: &DateTime<Utc>) -> bool {
    u64::try_from(due.timestamp_millis()).is_ok_and(|due_ms| line.created_ms <= due_ms)
}

/// Lines are any text, so they are named by their hash.
fn subject(line: &Schedule, due: DateTime<Utc>) -> String {
    let mut hash = Sha256::new();
    for part in [line.worker.account.as_str(), line.worker.worker.as_str(), &line.cron] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    format!("{}.{}", hex::encode(&hash.finalize()[..16]), due.timestamp())
}
