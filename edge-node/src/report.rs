//! What one invocation leaves behind: its outcome, logs, exceptions and measured cost.

use std::sync::Arc;

use atoll_isolate::{Exception, LogLine, Outcome};
use serde::{Deserialize, Serialize};

use crate::registry::{VersionId, WorkerRef};

/// The record of one finished invocation. It goes to the log, live tails and metrics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InvocationReport {
    /// The invocation's id, shown on error pages and as `cf-ray`: 16 hexadecimal digits.
    pub id: Arc<str>,
    /// The worker that ran.
    pub worker: WorkerRef,
    /// The version that ran.
    pub version: VersionId,
    /// What started the work.
    pub event: Event,
    /// How it ended.
    pub outcome: Outcome,
    /// Uncaught exceptions, stacks mapped back to the source.
    pub exceptions: Vec<Exception>,
    /// Console lines in order.
    pub logs: Vec<LogLine>,
    /// When it started: milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// CPU time charged, in microseconds.
    pub cpu_us: u64,
    /// Wall time until the response was complete and `waitUntil` had settled, in microseconds.
    pub wall_us: u64,
}

/// What started an invocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// An HTTP request.
    Fetch {
        /// The whole URL.
        url: String,
        /// The method.
        method: String,
        /// Request headers in order. Empty unless a tail listens: copying them costs.
        headers: Vec<(String, String)>,
        /// The client's address.
        client_ip: Option<std::net::IpAddr>,
        /// The response's status, when there was one.
        status: Option<u16>,
    },
    /// An HTTP request that a script was to decide about.
    Rule {
        /// The whole URL.
        url: String,
        /// The method.
        method: String,
    },
    /// A cron line that came due.
    Scheduled {
        /// The cron line.
        cron: String,
        /// The due time: milliseconds since the Unix epoch.
        scheduled_ms: u64,
    },
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
