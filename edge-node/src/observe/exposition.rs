//! The metrics as the OpenMetrics text that scrapers read.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::{KV_OPERATIONS, Labelled, Metrics, OUTCOMES, WorkerMetrics};

/// The label of workers that have none of their own.
const OTHER: &str = "other";

impl Metrics {
    /// The OpenMetrics text.
    pub fn render(self: &std::sync::Arc<Self>) -> String {
        let mut registry = Registry::with_prefix("atoll");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running release", build);
        registry.register_collector(Box::new(Exposed(self.clone())));
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string cannot fail");
        text
    }
}

struct Exposed(std::sync::Arc<Metrics>);

impl std::fmt::Debug for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("metrics")
    }
}

/// A worker with the labels that it is shown under.
struct OfWorker<'a> {
    account: &'a str,
    worker: &'a str,
    metrics: &'a WorkerMetrics,
}

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let workers = self.0.workers.read().unwrap_or_else(PoisonError::into_inner);
        let other = self.0.other.read().unwrap_or_else(PoisonError::into_inner);
        let mut labelled: Vec<OfWorker<'_>> = workers
            .iter()
            .map(|(of, metrics)| OfWorker {
                account: of.account.as_str(),
                worker: of.worker.as_str(),
                metrics,
            })
            .collect();
        labelled.sort_unstable_by_key(|of| (of.account, of.worker));
        labelled.extend(other.iter().map(|metrics| OfWorker {
            account: OTHER,
            worker: OTHER,
            metrics,
        }));
        encode_workers(&mut encoder, &labelled)?;
        self.encode_kv(&mut encoder)?;
        self.0.forwarded.encode(&mut encoder)?;
        self.0.origins.encode(&mut encoder)?;
        for (name, (help, count)) in
            &*self.0.counters.lock().unwrap_or_else(PoisonError::into_inner)
        {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count.value()).encode(metric)?;
        }
        for (name, (help, value)) in self.0.gauges() {
            let metric = encoder.encode_descriptor(&name, &help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        self.encode_labelled(&mut encoder)
    }
}

impl Exposed {
    fn encode_labelled(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for gauge in &*self.0.labelled.lock().unwrap_or_else(PoisonError::into_inner) {
            let values = (gauge.values)();
            if values.is_empty() {
                continue;
            }
            let mut family =
                encoder.encode_descriptor(gauge.name, gauge.help, None, MetricType::Gauge)?;
            for Labelled { labels, value } in values {
                let mut metric = family.encode_family(&labels)?;
                metric.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn encode_kv(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Operations on the KV store";
        let mut family =
            encoder.encode_descriptor("kv_operations", help, None, MetricType::Counter)?;
        for (operation, counts) in KV_OPERATIONS.iter().zip(&self.0.kv) {
            for (failed, count) in ["false", "true"].iter().zip(counts) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = [("operation", *operation), ("failed", *failed)];
                    let mut metric = family.encode_family(&labels)?;
                    metric.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_workers(
    encoder: &mut DescriptorEncoder<'_>,
    workers: &[OfWorker<'_>],
) -> Result<(), std::fmt::Error> {
    let help = "Finished invocations";
    let mut family = encoder.encode_descriptor("invocations", help, None, MetricType::Counter)?;
    for OfWorker { account, worker, metrics } in workers {
        for (outcome, count) in OUTCOMES.iter().zip(&metrics.outcomes) {
            let labels =
                [("account", *account), ("worker", *worker), ("outcome", outcome.as_str())];
            let count = count.load(Ordering::Relaxed);
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
    }
    let (unit, kind) = (Unit::Seconds, MetricType::Histogram);
    let help = "Wall time of invocations, waitUntil included";
    let mut family = encoder.encode_descriptor("invocation_duration", help, Some(&unit), kind)?;
    for OfWorker { account, worker, metrics } in workers {
        let labels = [("account", *account), ("worker", *worker)];
        metrics.duration.encode(family.encode_family(&labels)?)?;
    }
    let help = "CPU time charged to invocations";
    let mut family = encoder.encode_descriptor("invocation_cpu", help, Some(&unit), kind)?;
    for OfWorker { account, worker, metrics } in workers {
        let labels = [("account", *account), ("worker", *worker)];
        metrics.cpu.encode(family.encode_family(&labels)?)?;
    }
    let help = "Memory that the worker's isolates hold";
    let (unit, kind) = (Unit::Bytes, MetricType::Gauge);
    let mut family = encoder.encode_descriptor("worker_memory", help, Some(&unit), kind)?;
    for OfWorker { account, worker, metrics } in workers {
        let labels = [("account", *account), ("worker", *worker)];
        let bytes = metrics.memory.load(Ordering::Relaxed);
        family.encode_family(&labels)?.encode_gauge(&bytes)?;
    }
    let help = "Serving processes that died while they executed the worker";
    let mut family =
        encoder.encode_descriptor("process_crashes", help, None, MetricType::Counter)?;
    for OfWorker { account, worker, metrics } in workers {
        let count = metrics.crashes.load(Ordering::Relaxed);
        if count > 0 {
            let labels = [("account", *account), ("worker", *worker)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_isolate::Outcome;

    use super::*;
    use crate::observe::KvOperation;
    use crate::observe::hub::tests::report;
    use crate::observe::metrics::WORKERS_LABELLED_MAX;

    #[track_caller]
    fn check(metrics: &Arc<Metrics>, lines: &[&str]) {
        let text = metrics.render();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is missing in\n{text}");
        }
    }

    fn counted() -> Arc<Metrics> {
        let metrics = Arc::new(Metrics::default());
        for n in 0..WORKERS_LABELLED_MAX + 5 {
            let worker = report(&format!("w{n}"), Outcome::Exception).worker;
            metrics.observe(&worker, Outcome::Exception, 2, 3);
        }
        metrics.add_gauge("isolates_live", "Isolates that are live", || 7);
        metrics.observe_kv(KvOperation::Get, &Ok::<(), ()>(()));
        metrics.counter("things", "Things").add(3);
        metrics
    }

    const COUNTED: [&str; 5] = [
        r#"atoll_invocations_total{account="a",worker="w0",outcome="exception"} 1"#,
        r#"atoll_invocations_total{account="other",worker="other",outcome="exception"} 5"#,
        r#"atoll_invocation_duration_seconds_count{account="a",worker="w0"} 1"#,
        r#"atoll_kv_operations_total{operation="Get",failed="false"} 1"#,
        "atoll_things_total 3",
    ];

    #[test]
    fn renders_what_was_observed_with_bounded_labels() {
        let metrics = counted();
        let running = metrics.start_invocation();
        check(&metrics, &COUNTED);
        check(&metrics, &["atoll_isolates_live 7", "atoll_invocations_in_flight 1"]);
        assert!(!metrics.render().contains(&format!("\"w{}\"", WORKERS_LABELLED_MAX + 1)));
        drop(running);
        check(&metrics, &["atoll_invocations_in_flight 0"]);
    }

    #[test]
    fn memory_of_workers_is_what_the_living_processes_hold() {
        let (sum, first, second) = <(Arc<Metrics>, Arc<Metrics>, Arc<Metrics>)>::default();
        let worker = report("w", Outcome::Ok).worker;
        let holds =
            |bytes: i64| format!("atoll_worker_memory_bytes{{account=\"a\",worker=\"w\"}} {bytes}");
        first.observe_memory(&worker, 700);
        second.observe_memory(&worker, 30);
        check(&first, &[&holds(700)]);
        sum.add(1, first.drain());
        sum.add(2, second.drain());
        check(&sum, &[&holds(730)]);
        first.observe_memory(&worker, -200);
        sum.add(1, first.drain());
        sum.add(1, first.drain());
        check(&sum, &[&holds(530)]);
        sum.forget(2);
        check(&sum, &[&holds(500)]);
        first.observe_memory(&worker, -500);
        sum.add(1, first.drain());
        check(&sum, &[&holds(0)]);
    }

    #[test]
    fn counts_of_processes_add_up_and_stay_when_they_end() {
        let sum = Arc::new(Metrics::default());
        let (first, second) = (counted(), counted());
        let sent = rmp_serde::to_vec_named(&first.drain()).unwrap();
        sum.add(1, rmp_serde::from_slice(&sent).unwrap());
        check(&sum, &COUNTED);
        check(&sum, &["atoll_isolates_live 7"]);
        sum.add(1, first.drain());
        check(&sum, &COUNTED);
        sum.add(2, second.drain());
        check(&sum, &["atoll_isolates_live 14", "atoll_things_total 6"]);
        sum.forget(1);
        check(&sum, &["atoll_isolates_live 7", "atoll_things_total 6"]);
    }
}
