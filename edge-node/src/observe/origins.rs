//! Counts of what workers sent to the origins of their pools, by origin and what became of it.

use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use serde::{Deserialize, Serialize};

use super::labelled::{Counts, Delta, Event, Label, Labelled, fits};
use crate::registry::WorkerRef;

/// Origins with labels of their own; others share the label `other`.
const ORIGINS_LABELLED_MAX: usize = 200;
/// Bytes of one label.
const LABEL_BYTES_MAX: usize = 256;
/// The label of origins that have none of their own.
const OTHER: &str = "other";

/// What happened with one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginEvent {
    /// It answered a request, with a status below 500.
    Answered,
    /// It answered with a status from 500.
    Error,
    /// There was no connection.
    Unreachable,
    /// There was no answer, or none in time.
    Lost,
    /// Failed requests took it out for a while.
    Ejected,
    /// Failed checks took it out.
    Ill,
}

const REQUESTS: [(OriginEvent, &str); 4] = [
    (OriginEvent::Answered, "answered"),
    (OriginEvent::Error, "error"),
    (OriginEvent::Unreachable, "unreachable"),
    (OriginEvent::Lost, "lost"),
];
const EJECTIONS: [(OriginEvent, &str); 2] =
    [(OriginEvent::Ejected, "requests"), (OriginEvent::Ill, "checks")];

impl Event for OriginEvent {
    fn place(self) -> usize {
        self as usize
    }
}

/// How many events there are.
const EVENTS: usize = REQUESTS.len() + EJECTIONS.len();

/// What was counted of one origin, by what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct OriginTotals {
    answered: u64,
    error: u64,
    unreachable: u64,
    lost: u64,
    ejections: u64,
    failed_checks: u64,
}

/// Counts of one origin.
pub(crate) type OriginCounts = Counts<OriginEvent, EVENTS>;

/// Which origin, by its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct OriginLabels {
    account: String,
    worker: String,
    host: String,
    origin: String,
}

impl OriginLabels {
    fn new(worker: &WorkerRef, host: &str, origin: &str) -> Self {
        Self {
            account: worker.account.as_str().to_owned(),
            worker: worker.worker.as_str().to_owned(),
            host: host.to_owned(),
            origin: origin.to_owned(),
        }
    }

    fn all(&self) -> [(&'static str, &str); 4] {
        let Self { account, worker, host, origin } = self;
        [("account", account), ("worker", worker), ("host", host), ("origin", origin)]
    }
}

impl Label for OriginLabels {
    const LABELLED_MAX: usize = ORIGINS_LABELLED_MAX;

    fn other() -> Self {
        let other = || OTHER.to_owned();
        Self { account: other(), worker: other(), host: other(), origin: other() }
    }

    fn fits(&self) -> bool {
        self.all().iter().all(|(_, text)| fits(text, LABEL_BYTES_MAX))
    }
}

/// Counts of all origins.
pub(super) type Origins = Labelled<OriginLabels, OriginEvent, EVENTS>;

/// What was counted since it was last asked, as it travels.
pub(super) type OriginsDelta = Delta<OriginLabels>;

impl Origins {
    /// The counts of an origin of a worker's pool.
    pub(super) fn of_origin(
        &self,
        worker: &WorkerRef,
        host: &str,
        origin: &str,
    ) -> Arc<OriginCounts> {
        self.of(OriginLabels::new(worker, host, origin))
    }

    /// What was counted of an origin; nothing where it has no labels of its own.
    pub(super) fn totals(
        &self,
        worker: &WorkerRef,
        host: &str,
        origin: &str,
    ) -> Option<OriginTotals> {
        let counts = self.lock().get(&OriginLabels::new(worker, host, origin))?.clone();
        Some(OriginTotals {
            answered: counts.of(OriginEvent::Answered),
            error: counts.of(OriginEvent::Error),
            unreachable: counts.of(OriginEvent::Unreachable),
            lost: counts.of(OriginEvent::Lost),
            ejections: counts.of(OriginEvent::Ejected),
            failed_checks: counts.of(OriginEvent::Ill),
        })
    }

    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let origins = self.lock();
        let families = [
            (
                "origin_requests",
                "Requests that workers sent to origins of their pools, by what became of them",
                "outcome",
                REQUESTS.as_slice(),
            ),
            (
                "origin_ejections",
                "How often an origin was left out of its pool, because of requests or checks",
                "cause",
                EJECTIONS.as_slice(),
            ),
        ];
        for (name, help, label, events) in families.into_iter().filter(|_| !origins.is_empty()) {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, counts) in &*origins {
                for (event, value) in events {
                    let [account, worker, host, origin] = labels.all();
                    let labels = [account, worker, host, origin, (label, *value)];
                    family
                        .encode_family(&labels)?
                        .encode_counter::<NoLabelSet, _, f64>(&counts.of(*event), None)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;
    use crate::registry::{AccountId, WorkerName};

    #[test]
    fn counts_travel_and_are_shown_with_bounded_labels() {
        let (own, sum) = (Metrics::default(), Arc::new(Metrics::default()));
        let worker = WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") };
        let count = |origin: &str, event| own.origin(&worker, "api.b", origin).count(event);
        count("http://o:1", OriginEvent::Answered);
        count("http://o:1", OriginEvent::Ejected);
        for n in 0..ORIGINS_LABELLED_MAX + 4 {
            count(&format!("http://n{n}"), OriginEvent::Lost);
        }
        sum.add(1, own.drain());
        sum.add(1, own.drain());
        let text = sum.render();
        let labels = r#"account="a",worker="w",host="api.b",origin="http://o:1""#;
        for line in [
            format!(r#"atoll_origin_requests_total{{{labels},outcome="answered"}} 1"#),
            format!(r#"atoll_origin_ejections_total{{{labels},cause="requests"}} 1"#),
            r#"atoll_origin_requests_total{account="other",worker="other",host="other",origin="other",outcome="lost"} 5"#
                .to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
