//! From the isolate's record of an invocation to the report that logs, tails and metrics get.

use std::net::IpAddr;
use std::sync::Arc;

use atoll_isolate::{Exception, InvocationRecord, OnEnd, Outcome};
use http::{Method, Request};

use super::admission::{Arrival, Permit, Refusal, WorkerGate};
use super::pages;
use crate::observe::ReportHub;
use crate::registry::{VersionId, WorkerRef};
use crate::report::{Event, InvocationReport, now_ms};

/// What an invocation is about, known before it runs.
pub(super) struct Subject {
    worker: WorkerRef,
    version: VersionId,
    cause: Cause,
    /// Given back when the invocation has been reported.
    permit: Option<Permit>,
}

enum Cause {
    Fetch {
        url: Arc<str>,
        method: Method,
        headers: Vec<(String, String)>,
        client_ip: Option<IpAddr>,
    },
    Rule {
        url: Arc<str>,
        method: Method,
    },
    Scheduled {
        cron: String,
        scheduled_ms: u64,
    },
}

impl Subject {
    pub(super) fn fetch<B>(
        hub: &ReportHub,
        worker: WorkerRef,
        version: VersionId,
        request: &Request<B>,
        url: Arc<str>,
        client_ip: Option<IpAddr>,
    ) -> Self {
        let headers = if hub.wants_headers(&worker) {
            let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            request.headers().iter().map(pair).collect()
        } else {
            Vec::new()
        };
        let method = request.method().clone();
        let cause = Cause::Fetch { url, method, headers, client_ip };
        Self { worker, version, cause, permit: None }
    }

    /// Whose invocation it is.
    pub(super) fn worker(&self) -> &WorkerRef {
        &self.worker
    }

    pub(super) fn rule<B>(
        worker: WorkerRef,
        version: VersionId,
        request: &Request<B>,
        url: Arc<str>,
    ) -> Self {
        let cause = Cause::Rule { url, method: request.method().clone() };
        Self { worker, version, cause, permit: None }
    }

    pub(super) fn scheduled(
        worker: WorkerRef,
        version: VersionId,
        cron: String,
        scheduled_ms: u64,
    ) -> Self {
        let cause = Cause::Scheduled { cron, scheduled_ms };
        Self { worker, version, cause, permit: None }
    }

    /// Asks to be let in.
    pub(super) fn admit(
        &mut self,
        gate: &Arc<WorkerGate>,
        arrival: Arrival,
    ) -> Result<(), Refusal> {
        self.permit = Some(gate.admit(arrival)?);
        Ok(())
    }

    /// The version that is called.
    pub(super) fn version(&self) -> &VersionId {
        &self.version
    }

    fn report(self, record: InvocationRecord) -> InvocationReport {
        let event = match self.cause {
            Cause::Fetch { url, method, headers, client_ip } => {
                let status = record.status.or_else(|| pages::status_of(record.outcome));
                Event::Fetch {
                    url: url.to_string(),
                    method: method.to_string(),
                    headers,
                    client_ip,
                    status,
                }
            }
            Cause::Rule { url, method } => {
                Event::Rule { url: url.to_string(), method: method.to_string() }
            }
            Cause::Scheduled { cron, scheduled_ms } => Event::Scheduled { cron, scheduled_ms },
        };
        InvocationReport {
            id: record.id,
            worker: self.worker,
            version: self.version,
            event,
            outcome: record.outcome,
            exceptions: record.exceptions,
            logs: record.logs,
            // Read back from the end: most invocations are only counted, and need no clock of the wall.
            started_ms: now_ms().saturating_sub(microseconds(record.wall) / 1_000),
            cpu_us: microseconds(record.cpu),
            wall_us: microseconds(record.wall),
        }
    }

    /// Reports an invocation that got no isolate.
    pub(super) fn refused(self, hub: &ReportHub, id: Arc<str>, outcome: Outcome, message: String) {
        let now = now_ms();
        let exception =
            Exception { name: "Error".to_owned(), message, stack: None, timestamp_ms: now };
        let record = InvocationRecord {
            id,
            outcome,
            status: None,
            logs: Vec::new(),
            exceptions: vec![exception],
            cpu: std::time::Duration::ZERO,
            wall: std::time::Duration::ZERO,
        };
        hub.publish(self.report(record));
    }
}

fn microseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What the isolate calls when an invocation has ended.
pub(super) fn on_end(hub: ReportHub, subject: Subject) -> OnEnd {
    let in_flight = hub.metrics().start_invocation();
    Box::new(move |record| {
        drop(in_flight);
        if hub.wants(&subject.worker, record.outcome) {
            hub.publish(subject.report(record));
        } else {
            hub.count(
                &subject.worker,
                record.outcome,
                microseconds(record.cpu),
                microseconds(record.wall),
            );
        }
    })
}
