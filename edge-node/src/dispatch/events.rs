//! From the isolate's record of an invocation to the report that logs, tails and metrics get.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use atoll_isolate::{InvocationRecord, OnEnd, Outcome};
use http::Request;

use crate::observe::ReportHub;
use crate::registry::{VersionId, WorkerRef};
use crate::report::{Event, InvocationReport};

/// What an invocation is about, known before it runs; the status is filled in when there is one.
#[derive(Clone)]
pub(super) struct Subject(Rc<Inner>);

struct Inner {
    worker: WorkerRef,
    version: VersionId,
    event: Event,
    status: Cell<Option<u16>>,
}

impl Subject {
    pub(super) fn fetch<B>(
        hub: &ReportHub,
        worker: WorkerRef,
        version: VersionId,
        request: &Request<B>,
        url: String,
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
        let method = request.method().to_string();
        let event = Event::Fetch { url, method, headers, client_ip, status: None };
        Self(Rc::new(Inner { worker, version, event, status: Cell::new(None) }))
    }

    pub(super) fn scheduled(
        worker: WorkerRef,
        version: VersionId,
        cron: String,
        scheduled_ms: u64,
    ) -> Self {
        let event = Event::Scheduled { cron, scheduled_ms };
        Self(Rc::new(Inner { worker, version, event, status: Cell::new(None) }))
    }

    pub(super) fn set_status(&self, status: u16) {
        self.0.status.set(Some(status));
    }

    fn report(&self, record: InvocationRecord) -> InvocationReport {
        let mut event = self.0.event.clone();
        if let Event::Fetch { status, .. } = &mut event {
            *status = self.0.status.get();
        }
        InvocationReport {
            id: record.id,
            worker: self.0.worker.clone(),
            version: self.0.version.clone(),
            event,
            outcome: record.outcome,
            exceptions: record.exceptions,
            logs: record.logs,
            started_ms: record.started_ms,
            cpu_us: u64::try_from(record.cpu.as_micros()).unwrap_or(u64::MAX),
            wall_us: u64::try_from(record.wall.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Reports an invocation that got no isolate.
    pub(super) fn refused(
        &self,
        hub: &ReportHub,
        id: std::sync::Arc<str>,
        outcome: Outcome,
        message: String,
    ) {
        let now = crate::report::now_ms();
        let exception = atoll_isolate::Exception {
            name: "Error".to_owned(),
            message,
            stack: None,
            timestamp_ms: now,
        };
        let record = InvocationRecord {
            id,
            outcome,
            logs: Vec::new(),
            exceptions: vec![exception],
            started_ms: now,
            cpu: std::time::Duration::ZERO,
            wall: std::time::Duration::ZERO,
        };
        hub.publish(self.report(record));
    }
}

/// What the isolate calls when an invocation has ended.
pub(super) fn on_end(hub: ReportHub, subject: Subject) -> OnEnd {
    let in_flight = hub.metrics().start_invocation();
    Box::new(move |record| {
        drop(in_flight);
        hub.publish(subject.report(record));
    })
}
