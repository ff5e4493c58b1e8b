//! What the node counts, with bounded cardinality: past a number of workers, further ones share the label
//! `other`. A serving process hands its counts to the supervisor, which adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use atoll_isolate::{Outcome, Places};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::forwarded::{Forwarded, ForwardedByNode, ForwardedDelta};
use super::histogram::{Histogram, HistogramCounts};
use super::origins::{OriginCounts, OriginTotals, Origins, OriginsDelta};
use super::standings::{OriginStanding, STANDINGS_MAX, Standings};
use crate::registry::WorkerRef;

/// Workers with labels of their own.
pub(super) const WORKERS_LABELLED_MAX: usize = 200;
/// Counters and gauges that a serving process may bring along by name.
const NAMES_MAX: usize = 64;
const DURATION_BOUNDS_US: &[u64] = &[
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    30_000_000,
    120_000_000,
];
const CPU_BOUNDS_US: &[u64] =
    &[100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000, 30_000_000];
pub(super) const OUTCOMES: [Outcome; 9] = [
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

/// An operation on the KV store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

pub(super) const KV_OPERATIONS: [&str; 4] = ["Get", "Put", "Delete", "List"];

/// One worker's metrics, looked up once per invocation.
pub(super) struct WorkerMetrics {
    pub(super) outcomes: [AtomicU64; OUTCOMES.len()],
    pub(super) duration: Histogram,
    pub(super) cpu: Histogram,
    pub(super) crashes: AtomicU64,
    /// Bytes that its isolates hold now, in this process and those that it supervises.
    pub(super) memory: AtomicI64,
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        Self {
            outcomes: Default::default(),
            duration: Histogram::new(DURATION_BOUNDS_US),
            cpu: Histogram::new(CPU_BOUNDS_US),
            crashes: AtomicU64::new(0),
            memory: AtomicI64::new(0),
        }
    }
}

/// The node's metrics.
#[derive(Default)]
pub struct Metrics {
    pub(super) workers: RwLock<FxHashMap<WorkerRef, Arc<WorkerMetrics>>>,
    /// Counts of the workers that are too many to have labels.
    pub(super) other: RwLock<Option<Arc<WorkerMetrics>>>,
    in_flight: Arc<AtomicI64>,
    /// By operation, and then whether it failed.
    pub(super) kv: [[AtomicU64; 2]; KV_OPERATIONS.len()],
    pub(super) counters: Mutex<BTreeMap<String, (String, Count)>>,
    /// Requests that were sent to other nodes.
    pub(super) forwarded: ForwardedByNode,
    /// Requests that workers sent to origins of their pools.
    pub(super) origins: Origins,
    standings: Standings,
    asked: Mutex<Vec<AskedGauge>>,
    pub(super) labelled: Mutex<Vec<LabelledGauge>>,
    /// What each serving process shows, by the process's number.
    of_processes: Mutex<BTreeMap<u64, OfProcess>>,
}

/// What a serving process shows now.
#[derive(Default)]
struct OfProcess {
    gauges: Vec<Named<i64>>,
    memory: Vec<(Arc<WorkerMetrics>, i64)>,
    standings: Vec<OriginStanding>,
}

/// A value with its name and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named<T> {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) value: T,
}

/// A gauge with several values.
pub(super) struct LabelledGauge {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) values: Box<dyn Fn() -> Vec<Labelled> + Send + Sync>,
}

/// One value of several.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// What tells it from the others.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: i64,
}

struct AskedGauge {
    name: &'static str,
    help: &'static str,
    value: Box<dyn Fn() -> i64 + Send + Sync>,
}

/// What a process counted since it was last asked, and what its gauges show now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MetricsDelta {
    workers: Vec<WorkerDelta>,
    /// As [`Metrics::kv`].
    kv: Vec<(u64, u64)>,
    counters: Vec<Named<u64>>,
    gauges: Vec<Named<i64>>,
    /// Bytes that each worker's isolates hold; none stands for those without labels.
    memory: Vec<(Option<WorkerRef>, i64)>,
    #[serde(default)]
    forwarded: ForwardedDelta,
    #[serde(default)]
    origins: OriginsDelta,
    /// How origins stand now.
    #[serde(default)]
    standings: Vec<OriginStanding>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct WorkerDelta {
    /// None for those without labels.
    worker: Option<WorkerRef>,
    outcomes: Vec<u64>,
    duration: HistogramCounts,
    cpu: HistogramCounts,
}

/// A counter. Cloning is cheap and shares it.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicU64>);

impl Count {
    /// Counts so many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    /// Counts an invocation as under way until the guard is dropped.
    pub fn start_invocation(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.in_flight.clone())
    }

    /// Records a finished invocation.
    pub(super) fn observe(&self, worker: &WorkerRef, outcome: Outcome, cpu_us: u64, wall_us: u64) {
        let worker = self.worker(worker);
        worker.duration.observe(wall_us);
        worker.cpu.observe(cpu_us);
        let index = OUTCOMES.iter().position(|known| *known == outcome);
        if let Some(counter) = index.and_then(|index| worker.outcomes.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds what counting a worker's invocation touches.
    pub(crate) fn add_places(&self, worker: &WorkerRef, places: &mut Places) {
        let known = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((worker, metrics)) = known.get_key_value(worker) {
            places.value(worker);
            places.value(metrics);
            places.value(&**metrics);
            metrics.duration.add_places(places);
            metrics.cpu.add_places(places);
        }
    }

    /// Invocations under way, and how many have ended since the start.
    pub fn load(&self) -> (i64, u64) {
        let in_flight = self.gauges().get("invocations_in_flight").map_or(0, |(_, value)| *value);
        let known = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        let other = self.other.read().unwrap_or_else(PoisonError::into_inner);
        let each = known.values().chain(other.iter());
        let ended = each.flat_map(|worker| &worker.outcomes);
        (in_flight, ended.map(|count| count.load(Ordering::Relaxed)).sum())
    }

    /// Records an operation on the KV store.
    pub fn observe_kv<T, E>(&self, operation: KvOperation, result: &Result<T, E>) {
        self.kv[operation as usize][usize::from(result.is_err())].fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a serving process died while it executed the worker.
    pub fn observe_crash(&self, worker: &WorkerRef) {
        self.worker(worker).crashes.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that the worker's isolates hold so many bytes more, or less.
    pub fn observe_memory(&self, worker: &WorkerRef, change: i64) {
        self.worker(worker).memory.fetch_add(change, Ordering::Relaxed);
    }

    /// The counts of requests that are sent to another node.
    pub(crate) fn forwarded(&self, node: &str) -> Arc<Forwarded> {
        self.forwarded.of_node(node)
    }

    /// The counts of an origin of a worker's pool.
    pub(crate) fn origin(&self, worker: &WorkerRef, host: &str, origin: &str) -> Arc<OriginCounts> {
        self.origins.of_origin(worker, host, origin)
    }

    /// What was counted of it, unless it shares its counts with others.
    pub(crate) fn origin_totals(
        &self,
        worker: &WorkerRef,
        host: &str,
        origin: &str,
    ) -> Option<OriginTotals> {
        self.origins.totals(worker, host, origin)
    }

    /// Says how a process's own origins stand. The callback must be quick, and give [`STANDINGS_MAX`] at most.
    pub(crate) fn ask_for_standings(
        &self,
        ask: impl Fn() -> Vec<OriginStanding> + Send + Sync + 'static,
    ) {
        self.standings.ask_by(Box::new(ask));
    }

    /// How a worker's origins stand, one for each process that uses them.
    pub(crate) fn standings(&self, worker: &WorkerRef) -> Vec<OriginStanding> {
        let own = self.standings.own();
        let of_processes = lock(&self.of_processes);
        let all = own.iter().chain(of_processes.values().flat_map(|of| &of.standings));
        all.filter(|standing| standing.worker == *worker).cloned().collect()
    }

    /// The counter of this name (`process_restarts`).
    pub fn counter(&self, name: &str, help: &str) -> Count {
        let mut counters = lock(&self.counters);
        counters
            .entry(name.to_owned())
            .or_insert_with(|| (help.to_owned(), Count::default()))
            .1
            .clone()
    }

    /// Adds a gauge whose value is asked for at every scrape (`isolates_live`). The callback must
    /// be quick.
    pub fn add_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        value: impl Fn() -> i64 + Send + Sync + 'static,
    ) {
        lock(&self.asked).push(AskedGauge { name, help, value: Box::new(value) });
    }

    /// Adds a gauge with labels whose values are asked for at every scrape. The callback must be quick, and give a
    /// bounded number.
    pub fn add_labelled_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        values: impl Fn() -> Vec<Labelled> + Send + Sync + 'static,
    ) {
        lock(&self.labelled).push(LabelledGauge { name, help, values: Box::new(values) });
    }

    /// Takes out what was counted since the last call. Crashes stay: only a supervisor counts them.
    pub fn drain(&self) -> MetricsDelta {
        let known = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        let other = self.other.read().unwrap_or_else(PoisonError::into_inner);
        let named = known.iter().map(|(worker, metrics)| (Some(worker), metrics));
        let each = named.chain(other.iter().map(|metrics| (None, metrics)));
        let memory = each
            .clone()
            .map(|(worker, metrics)| (worker.cloned(), metrics.memory.load(Ordering::Relaxed)));
        let delta = |(worker, metrics): (Option<&WorkerRef>, &Arc<WorkerMetrics>)| WorkerDelta {
            worker: worker.cloned(),
            outcomes: metrics.outcomes.iter().map(take).collect(),
            duration: metrics.duration.drain(),
            cpu: metrics.cpu.drain(),
        };
        let changed = |delta: &WorkerDelta| {
            delta.outcomes.iter().any(|count| *count > 0)
                || !delta.duration.is_empty()
                || !delta.cpu.is_empty()
        };
        let counters = lock(&self.counters);
        MetricsDelta {
            workers: each.map(delta).filter(changed).collect(),
            kv: self.kv.iter().map(|[done, failed]| (take(done), take(failed))).collect(),
            counters: counters
                .iter()
                .map(|(name, (help, count))| Named {
                    name: name.clone(),
                    help: help.clone(),
                    value: take(&count.0),
                })
                .collect(),
            gauges: self.own_gauges(),
            memory: memory.filter(|(_, bytes)| *bytes != 0).collect(),
            forwarded: self.forwarded.drain(),
            origins: self.origins.drain(),
            standings: self.standings.own(),
        }
    }

    /// Adds what the serving process of this number counted.
    pub fn add(&self, process: u64, delta: MetricsDelta) {
        for counts in delta.workers {
            let metrics = match &counts.worker {
                Some(worker) => self.worker(worker),
                None => self.other(),
            };
            for (counter, count) in metrics.outcomes.iter().zip(counts.outcomes) {
                counter.fetch_add(count, Ordering::Relaxed);
            }
            metrics.duration.add(&counts.duration);
            metrics.cpu.add(&counts.cpu);
        }
        for ([done, failed], (more_done, more_failed)) in self.kv.iter().zip(delta.kv) {
            done.fetch_add(more_done, Ordering::Relaxed);
            failed.fetch_add(more_failed, Ordering::Relaxed);
        }
        self.forwarded.add(delta.forwarded);
        self.origins.add(delta.origins);
        for Named { name, help, value } in delta.counters.into_iter().take(NAMES_MAX) {
            let known = lock(&self.counters);
            let wanted = known.len() < NAMES_MAX || known.contains_key(&name);
            drop(known);
            if wanted && is_fit(&name, &help) {
                self.counter(&name, &help).add(value);
            }
        }
        let mut gauges = delta.gauges;
        gauges.retain(|gauge| is_fit(&gauge.name, &gauge.help));
        gauges.truncate(NAMES_MAX);
        let memory: Vec<_> = delta
            .memory
            .into_iter()
            .take(WORKERS_LABELLED_MAX + 1)
            .map(|(worker, bytes)| {
                (worker.map_or_else(|| self.other(), |w| self.worker(&w)), bytes)
            })
            .collect();
        for (metrics, bytes) in &memory {
            metrics.memory.fetch_add(*bytes, Ordering::Relaxed);
        }
        let mut standings = delta.standings;
        standings.truncate(STANDINGS_MAX);
        let now = OfProcess { gauges, memory, standings };
        let before = lock(&self.of_processes).insert(process, now);
        before.into_iter().for_each(OfProcess::take_back);
    }

    /// Forgets the gauges of a serving process that has ended. What it counted stays.
    pub fn forget(&self, process: u64) {
        let gone = lock(&self.of_processes).remove(&process);
        gone.into_iter().for_each(OfProcess::take_back);
    }

    fn own_gauges(&self) -> Vec<Named<i64>> {
        let own = |name: &str, help: &str, value| Named {
            name: name.to_owned(),
            help: help.to_owned(),
            value,
        };
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let mut gauges = vec![own("invocations_in_flight", "Invocations under way", in_flight)];
        let asked = lock(&self.asked);
        gauges.extend(asked.iter().map(|gauge| own(gauge.name, gauge.help, (gauge.value)())));
        gauges
    }

    /// Every gauge by name, added up over this process and those that it supervises.
    pub(super) fn gauges(&self) -> BTreeMap<String, (String, i64)> {
        let mut sums = BTreeMap::new();
        let of_processes = lock(&self.of_processes);
        for Named { name, help, value } in self
            .own_gauges()
            .into_iter()
            .chain(of_processes.values().flat_map(|of| of.gauges.clone()))
        {
            let sum = sums.entry(name).or_insert((help, 0_i64));
            sum.1 = sum.1.saturating_add(value);
        }
        sums
    }

    fn worker(&self, worker: &WorkerRef) -> Arc<WorkerMetrics> {
        if let Some(known) = self.workers.read().unwrap_or_else(PoisonError::into_inner).get(worker)
        {
            return known.clone();
        }
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        if workers.len() >= WORKERS_LABELLED_MAX && !workers.contains_key(worker) {
            drop(workers);
            return self.other();
        }
        workers.entry(worker.clone()).or_default().clone()
    }

    fn other(&self) -> Arc<WorkerMetrics> {
        let mut other = self.other.write().unwrap_or_else(PoisonError::into_inner);
        other.get_or_insert_default().clone()
    }
}

impl OfProcess {
    fn take_back(self) {
        for (metrics, bytes) in self.memory {
            metrics.memory.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

fn take(counter: &AtomicU64) -> u64 {
    counter.swap(0, Ordering::Relaxed)
}

/// What another process calls a metric must not break the text that scrapers read.
fn is_fit(name: &str, help: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && help.len() <= 256
        && !help.contains(char::is_control)
}

/// Counts one invocation as under way while it lives.
pub struct InFlight(Arc<AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
