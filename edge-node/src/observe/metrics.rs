//! Prometheus metrics with bounded cardinality: past a number of workers, further ones share the
//! label `other`.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use atoll_isolate::Outcome;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rustc_hash::FxHashMap;

use crate::registry::WorkerRef;

/// Workers with labels of their own.
const WORKERS_LABELLED_MAX: usize = 200;
const OTHER: &str = "other";
const DURATION_BUCKETS_S: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0];
const CPU_BUCKETS_S: [f64; 11] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 30.0];
const OUTCOMES: [Outcome; 9] = [
    Outcome::Ok,
    Outcome::Exception,
    Outcome::ExceededCpu,
    Outcome::ExceededMemory,
    Outcome::ExceededWall,
    Outcome::Canceled,
    Outcome::Overloaded,
    Outcome::RateLimited,
    Outcome::Internal,
];

type HistogramFamily = Family<WorkerLabels, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabels {
    account: String,
    worker: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InvocationLabels {
    account: String,
    worker: String,
    outcome: &'static str,
}

/// An operation on the KV store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum KvOperation {
    /// A read of one or more keys.
    Get,
    /// A write of a key.
    Put,
    /// A delete of a key.
    Delete,
    /// A page of keys.
    List,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KvLabels {
    operation: KvOperation,
    failed: bool,
}

/// The node's metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    invocations: Family<InvocationLabels, Counter>,
    duration: HistogramFamily,
    cpu: HistogramFamily,
    in_flight: Gauge,
    kv: Family<KvLabels, Counter>,
    workers: RwLock<FxHashMap<WorkerRef, Arc<WorkerMetrics>>>,
}

/// One worker's metrics, looked up once per invocation.
struct WorkerMetrics {
    outcomes: [Counter; OUTCOMES.len()],
    duration: Histogram,
    cpu: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("atoll");
        let invocations = Family::default();
        registry.register("invocations", "Finished invocations", invocations.clone());
        let duration = HistogramFamily::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_S));
        let help = "Wall time of invocations, waitUntil included";
        registry.register_with_unit("invocation_duration", help, Unit::Seconds, duration.clone());
        let cpu = HistogramFamily::new_with_constructor(|| Histogram::new(CPU_BUCKETS_S));
        let help = "CPU time charged to invocations";
        registry.register_with_unit("invocation_cpu", help, Unit::Seconds, cpu.clone());
        let in_flight = Gauge::default();
        registry.register("invocations_in_flight", "Invocations under way", in_flight.clone());
        let kv = Family::default();
        registry.register("kv_operations", "Operations on the KV store", kv.clone());
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running release", build);
        let (registry, workers) = (Mutex::new(registry), RwLock::default());
        Self { registry, invocations, duration, cpu, in_flight, kv, workers }
    }
}

impl Metrics {
    /// Counts an invocation as under way until the guard is dropped.
    pub fn start_invocation(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Records a finished invocation.
    pub(super) fn observe(&self, worker: &WorkerRef, outcome: Outcome, cpu_us: u64, wall_us: u64) {
        let worker = self.worker(worker);
        worker.duration.observe(seconds(wall_us));
        worker.cpu.observe(seconds(cpu_us));
        let index = OUTCOMES.iter().position(|known| *known == outcome);
        if let Some(counter) = index.and_then(|index| worker.outcomes.get(index)) {
            counter.inc();
        }
    }

    /// Records an operation on the KV store.
    pub fn observe_kv<T, E>(&self, operation: KvOperation, result: &Result<T, E>) {
        self.kv.get_or_create(&KvLabels { operation, failed: result.is_err() }).inc();
    }

    /// Adds a gauge whose value is asked for at every scrape (`isolates_live`). The callback must
    /// be quick.
    pub fn add_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        value: impl Fn() -> i64 + Send + Sync + 'static,
    ) {
        let gauge = AskedGauge { name, help, value: Box::new(value) };
        self.locked().register_collector(Box::new(gauge));
    }

    /// The OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.locked()).expect("writing to a string cannot fail");
        text
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self, worker: &WorkerRef) -> Arc<WorkerMetrics> {
        if let Some(known) = self.workers.read().unwrap_or_else(PoisonError::into_inner).get(worker)
        {
            return known.clone();
        }
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        if workers.len() >= WORKERS_LABELLED_MAX && !workers.contains_key(worker) {
            drop(workers);
            return Arc::new(self.resolve(OTHER, OTHER));
        }
        let resolve = || Arc::new(self.resolve(worker.account.as_str(), worker.worker.as_str()));
        workers.entry(worker.clone()).or_insert_with(resolve).clone()
    }

    fn resolve(&self, account: &str, worker: &str) -> WorkerMetrics {
        let labels = WorkerLabels { account: account.to_owned(), worker: worker.to_owned() };
        WorkerMetrics {
            outcomes: OUTCOMES.map(|outcome| {
                self.invocations.get_or_create_owned(&InvocationLabels {
                    account: account.to_owned(),
                    worker: worker.to_owned(),
                    outcome: outcome.as_str(),
                })
            }),
            duration: self.duration.get_or_create_owned(&labels),
            cpu: self.cpu.get_or_create_owned(&labels),
        }
    }
}

/// Counts one invocation as under way while it lives.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

struct AskedGauge {
    name: &'static str,
    help: &'static str,
    value: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl std::fmt::Debug for AskedGauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Collector for AskedGauge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::<i64>::new((self.value)());
        let metric = encoder.encode_descriptor(
            self.name,
            self.help,
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        gauge.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::hub::tests::report;

    #[test]
    fn renders_what_was_observed_with_bounded_labels() {
        let metrics = Metrics::default();
        for n in 0..WORKERS_LABELLED_MAX + 5 {
            let worker = report(&format!("w{n}"), Outcome::Exception).worker;
            metrics.observe(&worker, Outcome::Exception, 2, 3);
        }
        metrics.add_gauge("isolates_live", "Isolates that are live", || 7);
        metrics.observe_kv(KvOperation::Get, &Ok::<(), ()>(()));
        let running = metrics.start_invocation();
        let text = metrics.render();
        for line in [
            r#"atoll_invocations_total{account="a",worker="w0",outcome="exception"} 1"#,
            r#"atoll_invocations_total{account="other",worker="other",outcome="exception"} 5"#,
            r#"atoll_invocation_duration_seconds_count{account="a",worker="w0"} 1"#,
            r#"atoll_kv_operations_total{operation="Get",failed="false"} 1"#,
            "atoll_isolates_live 7",
            "atoll_invocations_in_flight 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains(&format!("\"w{}\"", WORKERS_LABELLED_MAX + 1)));
        drop(running);
        assert!(metrics.render().contains("atoll_invocations_in_flight 0"));
    }
}
