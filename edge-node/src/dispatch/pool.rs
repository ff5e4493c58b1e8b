//! The instances of one thread: found by version, loaded on first use, dropped when they are condemned, no
//! longer deployed, not called for long, or in the way of others.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_isolate::{
    Binding as EnvBinding, BindingValue, Instance, InstanceOptions, IsolateThread, Limits, Outcome,
    Script, SocketClose, StartError,
};
use futures_util::future::{FutureExt, LocalBoxFuture, Shared};

use rustc_hash::FxHashMap;

use super::garbage::Garbage;
use super::host::{Capabilities, InstanceHost, ThreadHost};
use super::quarantine::Culprit;
use super::replicas::{OnFront, Placement};
use super::room::{Idle, Place, Pressure, victim};
use crate::config::LimitsConfig;
use crate::registry::{Binding, Version, VersionId, VersionLimits, WorkerRef};
use crate::state::{ServingState, StateError};

/// How long a load waits for an idle instance to make room.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often it looks meanwhile.
const ROOM_CHECK: Duration = Duration::from_millis(5);

/// Idle instances dropped, while memory is short, for each that is loaded.
const EVICTIONS_PER_LOAD: usize = 4;

/// Idle instances dropped at once while memory is short. Dropping one takes about a millisecond.
const EVICTIONS_PER_LOOK: usize = 8;

/// Looks in a row at which memory was short before a front thread drops what it has.
const FRONT_LOOKS: u32 = 5;

/// How long an instance that is one of several of its version is kept without a call.
const REPLICA_IDLE_MAX: Duration = Duration::from_secs(30);

/// The same on a back thread for a version that runs on a front thread: nothing calls it here any more.
const PROMOTED_IDLE_MAX: Duration = Duration::from_secs(4);

/// How long a version that did not start is not tried again.
const START_BACKOFF: Duration = Duration::from_secs(1);

/// The code that has a client connect again (IANA's registry of WebSocket close codes: service restart).
const CLOSE_RESTART: u16 = 1012;

/// Why there is no instance of a version.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("the version is not in the registry")]
    Missing,
    #[error("the version cannot be read: {0}")]
    State(#[from] StateError),
    #[error(transparent)]
    Start(StartError),
    #[error(
        "the process has no room for one more isolate (limits.isolates_max, memory) and none is idle"
    )]
    NoRoom,
    #[error("the version went over its limits again and again and rests for a while: {}", .0.as_str())]
    Resting(Outcome),
    #[error("the version brought a serving process down and rests for a while")]
    Quarantined,
}

type Loading = Shared<LocalBoxFuture<'static, Result<Instance, LoadError>>>;

enum Slot {
    /// Being loaded; everyone who wants it waits for the same load.
    Loading(Loading),
    /// Takes calls.
    Live(Live),
    /// Did not start; not tried again before then.
    Failed { error: LoadError, until: Instant },
}

/// An instance that takes calls.
struct Live {
    worker: WorkerRef,
    instance: Instance,
    /// When it was called last, by the pool's count of calls.
    used: Cell<u64>,
    /// The same by the clock, as of the last sweep.
    used_at: Cell<Instant>,
    /// It was not called since it gave back what memory it could.
    shrunk: Cell<bool>,
    /// What loading it took.
    cost: Duration,
    _place: Place,
    _front: Option<OnFront>,
}

impl Live {
    fn is_idle(&self) -> bool {
        self.instance.in_flight() == 0
    }
}

/// The instances of one thread.
pub(super) struct Pool {
    slots: RefCell<FxHashMap<VersionId, Slot>>,
    /// Instances that take no new calls and still have some under way.
    leaving: RefCell<Vec<Live>>,
    clock: Cell<u64>,
    swept_at: Cell<Instant>,
    /// Looks in a row at which memory was short.
    pressed_looks: Cell<u32>,
    /// Bytes that each worker's instances held at the last sweep.
    held: RefCell<FxHashMap<WorkerRef, i64>>,
    placement: Arc<Placement>,
    /// The thread's place among the back threads, if it is one.
    back: Option<usize>,
    isolates: IsolateThread,
    state: Arc<dyn ServingState>,
    limits: LimitsConfig,
    host: Rc<ThreadHost>,
}

impl Pool {
    pub(super) fn new(
        isolates: IsolateThread,
        placement: Arc<Placement>,
        back: Option<usize>,
        state: Arc<dyn ServingState>,
        limits: LimitsConfig,
        host: Rc<ThreadHost>,
    ) -> Rc<Self> {
        let pool = Self {
            slots: RefCell::default(),
            leaving: RefCell::default(),
            clock: Cell::new(0),
            swept_at: Cell::new(Instant::now()),
            pressed_looks: Cell::new(0),
            held: RefCell::default(),
            placement,
            back,
            isolates,
            state,
            limits,
            host,
        };
        Rc::new(pool)
    }

    /// An instance that is live now, without waiting.
    pub(super) fn live(&self, version: &VersionId) -> Option<Instance> {
        if self.host.quarantined.contains(version) {
            return None;
        }
        let now = self.clock.get() + 1;
        self.clock.set(now);
        match self.slots.borrow().get(version)? {
            Slot::Live(live) if live.instance.condemned().is_none() => {
                live.used.set(now);
                live.used_at.set(self.swept_at.get());
                live.shrunk.set(false);
                Some(live.instance.clone())
            }
            _ => None,
        }
    }

    /// An instance of the version, loaded if need be.
    pub(super) async fn instance(
        self: &Rc<Self>,
        version: &VersionId,
    ) -> Result<Instance, LoadError> {
        if let Some(instance) = self.live(version) {
            return Ok(instance);
        }
        self.note_offence(version);
        self.check_rest(version)?;
        let loading = match self.slots.borrow().get(version) {
            Some(Slot::Loading(loading)) => Some(loading.clone()),
            Some(Slot::Failed { error, until }) if Instant::now() < *until => {
                return Err(error.clone());
            }
            _ => None,
        };
        let loading = loading.unwrap_or_else(|| self.begin(version));
        loading.await
    }

    /// Drops a condemned instance and remembers why.
    fn note_offence(&self, version: &VersionId) {
        let condemned = match self.slots.borrow().get(version) {
            Some(Slot::Live(live)) => live.instance.condemned(),
            _ => None,
        };
        let Some(outcome) = condemned else { return };
        self.drop_slot(version);
        // The node had no memory left: that is no fault of the version.
        if outcome != Outcome::Overloaded {
            self.placement.offences.note(version, outcome, Instant::now());
        }
    }

    /// Takes an instance out of use. It is dropped once nothing is under way in it.
    pub(super) fn retire(&self, version: &VersionId) {
        let retired = self.slots.borrow_mut().remove(version);
        if let Some(Slot::Live(live)) = retired
            && !live.is_idle()
        {
            self.leaving.borrow_mut().push(live);
        }
    }

    fn check_rest(&self, version: &VersionId) -> Result<(), LoadError> {
        if self.host.quarantined.contains(version) {
            return Err(LoadError::Quarantined);
        }
        match self.placement.offences.resting(version, Instant::now()) {
            Some(outcome) => Err(LoadError::Resting(outcome)),
            None => Ok(()),
        }
    }

    fn begin(self: &Rc<Self>, version: &VersionId) -> Loading {
        if let Some(back) = self.back {
            self.placement.replicas(version).joined(back);
        }
        let (pool, id) = (self.clone(), version.clone());
        // The load goes on if the request that began it is dropped: others may wait for it.
        let task = atoll_isolate::spawn(async move {
            let begun = Instant::now();
            let loaded = pool.load(&id).await;
            let (slot, loaded) = match loaded {
                Ok((worker, instance, place)) => {
                    pool.placement.counts.loads.add(1);
                    let live = Live {
                        worker,
                        instance: instance.clone(),
                        used: Cell::new(pool.clock.get()),
                        used_at: Cell::new(Instant::now()),
                        shrunk: Cell::new(false),
                        cost: begun.elapsed(),
                        _place: place,
                        _front: pool
                            .back
                            .is_none()
                            .then(|| pool.placement.replicas(&id).on_front()),
                    };
                    (Some(Slot::Live(live)), Ok(instance))
                }
                // There may be room for the next call.
                Err(LoadError::NoRoom) => (None, Err(LoadError::NoRoom)),
                Err(error) => {
                    let until = Instant::now() + START_BACKOFF;
                    (Some(Slot::Failed { error: error.clone(), until }), Err(error))
                }
            };
            match slot {
                Some(slot) => drop(pool.slots.borrow_mut().insert(id, slot)),
                None => pool.drop_slot(&id),
            }
            loaded
        });
        let loading =
            task.map(|joined| joined.unwrap_or(Err(LoadError::Missing))).boxed_local().shared();
        self.slots.borrow_mut().insert(version.clone(), Slot::Loading(loading.clone()));
        loading
    }

    async fn load(
        self: &Rc<Self>,
        id: &VersionId,
    ) -> Result<(WorkerRef, Instance, Place), LoadError> {
        let begun = Instant::now();
        let place = self.make_room().await?;
        let version = self.state.version(id).await?.ok_or(LoadError::Missing)?;
        let read = begun.elapsed();
        let (bindings, capabilities) = environment(&version);
        let host = InstanceHost::new(self.host.clone(), version.worker.clone(), capabilities);
        let options = InstanceOptions {
            script: Arc::new(script(&version)),
            bindings,
            limits: limits(&self.limits, &version.limits),
            host: Rc::new(host),
            inspector: self.host.debuggees.is_some(),
            label: Culprit::label(&version),
        };
        let instance = Instance::load(&self.isolates, options).await.map_err(LoadError::Start)?;
        let (read_us, all_us) = (read.as_micros(), begun.elapsed().as_micros());
        tracing::debug!(version = id.as_str(), read_us, all_us, "an instance is loaded");
        self.placement.replicas(id).started(instance.take_longest_slice());
        if let (Some(debuggees), Some(inspector)) = (&self.host.debuggees, instance.inspector()) {
            debuggees.add(
                version.worker.worker.clone(),
                id.clone(),
                &version.main_module,
                inspector,
            );
        }
        Ok((version.worker.clone(), instance, place))
    }

    /// Takes a place in the process, for which an idle instance may have to go.
    async fn make_room(&self) -> Result<Place, LoadError> {
        let room = &self.placement.room;
        let deadline = Instant::now() + ROOM_WAIT_MAX;
        let mut evicted = 0;
        loop {
            let pressure = room.pressure();
            // With memory short a few idle instances go for each that comes, but not all of them.
            let enough = match pressure {
                Pressure::Low => true,
                Pressure::High => evicted >= EVICTIONS_PER_LOAD,
                Pressure::Full => false,
            };
            if enough && let Some(place) = room.take() {
                return Ok(place);
            }
            if self.evict_one() {
                evicted += 1;
                tokio::task::yield_now().await;
                continue;
            }
            if pressure == Pressure::High
                && let Some(place) = room.take()
            {
                return Ok(place);
            }
            if Instant::now() > deadline {
                return Err(LoadError::NoRoom);
            }
            room.ask();
            tokio::time::sleep(ROOM_CHECK).await;
        }
    }

    /// While memory is short, drops some idle instances, and lets others run between them. Front threads
    /// wait a little: what they have is called more often than what back threads have.
    pub(super) async fn relieve(&self) {
        if self.placement.room.pressure() == Pressure::Low {
            self.pressed_looks.set(0);
            return;
        }
        let looks = self.pressed_looks.get() + 1;
        self.pressed_looks.set(looks);
        if self.back.is_none() && !self.placement.backs().is_empty() && looks < FRONT_LOOKS {
            return;
        }
        for _ in 0..EVICTIONS_PER_LOOK {
            if self.placement.room.pressure() == Pressure::Low || !self.evict_one() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Drops an idle instance, if there is one.
    pub(super) fn evict_one(&self) -> bool {
        let idle = |(version, slot): (&VersionId, &Slot)| match slot {
            Slot::Live(live) if live.is_idle() => Some(Idle {
                key: version.clone(),
                used: live.used.get(),
                cost: live.cost,
                superseded: self.is_superseded(version),
            }),
            _ => None,
        };
        let idle = self.slots.borrow().iter().filter_map(idle).collect();
        let Some(version) = victim(idle) else { return false };
        self.drop_slot(&version);
        self.placement.counts.evictions.add(1);
        true
    }

    fn drop_slot(&self, version: &VersionId) {
        let dropped = self.slots.borrow_mut().remove(version);
        // Dropping an instance may drop what looks at the slots.
        drop(dropped);
        if let Some(back) = self.back {
            self.placement.replicas(version).left(back);
        }
    }

    /// Whether nobody calls it here any more: its version has earned an instance on a front thread.
    fn is_superseded(&self, version: &VersionId) -> bool {
        self.back.is_some() && self.placement.replicas(version).is_on_front()
    }

    /// How long an idle instance stays that serves, if others of its version stand in for it or can: front
    /// threads have them on top of those of back threads.
    fn spare_for(&self, version: &VersionId) -> Option<Duration> {
        if self.back.is_none() {
            return (!self.placement.backs().is_empty()).then_some(REPLICA_IDLE_MAX);
        }
        let replicas = self.placement.replicas(version);
        if replicas.is_on_front() {
            return Some(PROMOTED_IDLE_MAX);
        }
        replicas.is_spread().then_some(REPLICA_IDLE_MAX)
    }

    /// Drops idle instances that `serves` does not want any more, and condemned ones. Each takes about a
    /// millisecond: others run between them.
    pub(super) async fn sweep(&self, serves: impl Fn(&VersionId) -> bool) {
        let now = Instant::now();
        self.swept_at.set(now);
        let gone: Vec<Live> =
            self.leaving.borrow_mut().extract_if(.., |live| live.is_idle()).collect();
        drop(gone);
        self.close_replaced(&serves);
        let (mut condemned, mut unwanted) = (Vec::new(), Vec::new());
        let mut garbage = Garbage::default();
        for (version, slot) in &*self.slots.borrow() {
            match slot {
                Slot::Live(live) if live.instance.condemned().is_some() => {
                    condemned.push(version.clone());
                }
                Slot::Live(live) if live.is_idle() => {
                    let rested = now.saturating_duration_since(live.used_at.get());
                    let spare = self.spare_for(version).is_some_and(|stays| rested > stays);
                    if !serves(version) || spare {
                        unwanted.push(version.clone());
                    } else {
                        garbage.look(&live.instance, rested, &live.shrunk);
                    }
                }
                Slot::Failed { until, .. } if *until <= now => unwanted.push(version.clone()),
                Slot::Loading(_) | Slot::Live(_) | Slot::Failed { .. } => {}
            }
        }
        for version in condemned {
            self.note_offence(&version);
            tokio::task::yield_now().await;
        }
        for version in unwanted {
            self.drop_idle(&version, now);
            tokio::task::yield_now().await;
        }
        garbage.collect().await;
        self.show_memory();
    }

    /// Closes the sockets of versions that do not serve any more: their clients are to connect to what does.
    fn close_replaced(&self, serves: impl Fn(&VersionId) -> bool) {
        for (version, slot) in &*self.slots.borrow() {
            if let Slot::Live(live) = slot
                && !live.is_idle()
                && !serves(version)
            {
                let reason = "The worker was deployed again: connect again.";
                live.instance.close_sockets(&SocketClose::new(CLOSE_RESTART, reason));
            }
        }
    }

    /// Tells the metrics what each worker's instances hold.
    fn show_memory(&self) {
        let mut held: FxHashMap<WorkerRef, i64> = FxHashMap::default();
        let (slots, leaving) = (self.slots.borrow(), self.leaving.borrow());
        let live = slots.values().filter_map(|slot| match slot {
            Slot::Live(live) => Some(live),
            Slot::Loading(_) | Slot::Failed { .. } => None,
        });
        for live in live.chain(&*leaving) {
            let bytes = i64::try_from(live.instance.memory_bytes()).unwrap_or(i64::MAX);
            *held.entry(live.worker.clone()).or_default() += bytes;
        }
        let before = self.held.replace(held);
        let (held, metrics) = (self.held.borrow(), self.host.hub.metrics());
        for (worker, bytes) in &*held {
            metrics.observe_memory(worker, bytes - before.get(worker).unwrap_or(&0));
        }
        for (worker, bytes) in before.iter().filter(|(worker, _)| !held.contains_key(*worker)) {
            metrics.observe_memory(worker, -bytes);
        }
    }

    /// Drops what a sweep did not want, unless it was called since.
    fn drop_idle(&self, version: &VersionId, swept_at: Instant) {
        let wanted = match self.slots.borrow().get(version) {
            Some(Slot::Live(live)) => !live.is_idle() || live.used_at.get() == swept_at,
            Some(Slot::Failed { .. }) => false,
            Some(Slot::Loading(_)) | None => true,
        };
        if !wanted {
            self.drop_slot(version);
        }
    }

    /// Instances that the thread holds.
    pub(super) fn len(&self) -> usize {
        self.slots.borrow().len() + self.leaving.borrow().len()
    }

    /// Invocations in flight on the thread.
    pub(super) fn in_flight(&self) -> usize {
        let slots = self.slots.borrow();
        let live = slots.values().filter_map(|slot| match slot {
            Slot::Live(live) => Some(live),
            _ => None,
        });
        let leaving = self.leaving.borrow();
        live.chain(&*leaving).map(|live| live.instance.in_flight()).sum()
    }
}

/// A version's modules in the isolate's terms.
pub(crate) fn script(version: &Version) -> Script {
    Script::new(version.format, version.main_module.clone(), version.modules.clone())
}

/// A version's bindings as values of `env`, and what stands behind those that reach outside.
pub(super) fn environment(version: &Version) -> (Vec<EnvBinding>, Capabilities) {
    let mut capabilities = Capabilities::default();
    let part = |name: &str| {
        let module = version.modules.iter().find(|module| module.name == name);
        module.map(|module| module.bytes.clone()).unwrap_or_default()
    };
    let values = version.bindings.iter().map(|binding| {
        let value = match binding {
            Binding::PlainText { text, .. } | Binding::SecretText { text, .. } => {
                BindingValue::Text { value: text.as_str().into() }
            }
            Binding::Json { json, .. } => BindingValue::Json { value: json.to_string().into() },
            Binding::KvNamespace { namespace_id, .. } => {
                BindingValue::Kv { capability: capabilities.add_namespace(namespace_id.clone()) }
            }
            Binding::Service { service, .. } => {
                BindingValue::Service { capability: capabilities.add_service(service.clone()) }
            }
            Binding::VersionMetadata { .. } => {
                let tag = version.annotations.get("workers/tag").cloned().unwrap_or_default();
                let metadata = serde_json::json!({
                    "id": version.id.as_str(),
                    "tag": tag,
                    "timestamp": version.created_ms,
                });
                BindingValue::Json { value: metadata.to_string().into() }
            }
            Binding::TextBlob { part: name, .. } => {
                BindingValue::Text { value: String::from_utf8_lossy(&part(name)).into() }
            }
            Binding::WasmModule { part: name, .. } => BindingValue::Wasm { bytes: part(name) },
            Binding::DataBlob { part: name, .. } => BindingValue::Data { bytes: part(name) },
        };
        EnvBinding { name: binding.name().to_owned(), value }
    });
    let values = values.collect();
    (values, capabilities)
}

/// A version's limits: what it asks for, within what the node grants.
pub(super) fn limits(config: &LimitsConfig, asked: &VersionLimits) -> Limits {
    let cpu_ms = asked.cpu_ms.unwrap_or(config.cpu_ms).min(config.cpu_ms_max);
    let subrequests = asked.subrequests.unwrap_or(config.subrequests_max);
    let memory = usize::try_from(config.memory_bytes_max).unwrap_or(usize::MAX);
    Limits {
        startup_cpu: Duration::from_millis(config.startup_cpu_ms_max),
        cpu: Duration::from_millis(cpu_ms),
        wall: Duration::from_millis(config.wall_ms_max),
        rule_cpu: Duration::from_millis(config.rule_cpu_ms),
        rule_wall: Duration::from_millis(config.rule_wall_ms_max),
        wait_until: Duration::from_millis(config.wait_until_ms_max),
        memory_bytes_max: memory,
        subrequests_max: subrequests.min(config.subrequests_max),
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_gets_what_it_asks_for_within_what_the_node_grants() {
        let config = LimitsConfig { cpu_ms: 500, cpu_ms_max: 30_000, ..LimitsConfig::default() };
        let small = LimitsConfig { cpu_ms_max: 200, ..config.clone() };
        for (config, asked, expected) in [
            (&config, None, 500),
            (&config, Some(50), 50),
            (&config, Some(2_000), 2_000),
            (&config, Some(60_000), 30_000),
            (&small, None, 200),
        ] {
            let asked = VersionLimits { cpu_ms: asked, subrequests: None };
            assert_eq!(limits(config, &asked).cpu, Duration::from_millis(expected), "{asked:?}");
        }
    }
}
