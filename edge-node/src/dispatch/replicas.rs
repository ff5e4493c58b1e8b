//! What all threads of the process know of where versions run: the back threads, what each is doing, and
//! for each version which of them have a replica and how it behaves.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use atoll_isolate::Pulse;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::admission::Admission;
use super::back::Handed;
use super::counts::Counts;
use super::offences::Offences;
use super::placement::{
    Bar, CALLS_HOT, Choice, Load, SLICE_MAX, STARTUP_SLICE_MAX, ThreadSet, choose, smoothed,
};
use super::room::Room;
use crate::registry::VersionId;

/// Requests that wait for one back thread, of all versions together.
const HANDED_QUEUED_MAX: usize = 4_096;

/// One version in this process.
#[derive(Default)]
pub(super) struct Replicas {
    threads: AtomicU64,
    waiting: AtomicU32,
    /// Instances on front threads.
    fronts: AtomicU32,
    /// The mean of its slices, in microseconds.
    slice_us: AtomicU32,
    /// Calls since the last slice that a front thread would not bear.
    short_calls: AtomicU32,
    slow_start: AtomicBool,
    bar: Mutex<Bar>,
}

impl Replicas {
    fn threads(&self) -> ThreadSet {
        ThreadSet(self.threads.load(Ordering::Relaxed))
    }

    /// Whether no back thread has a replica, or is about to have one.
    pub(super) fn is_nowhere(&self) -> bool {
        self.threads().len() == 0
    }

    /// Whether more than one back thread has a replica.
    pub(super) fn is_spread(&self) -> bool {
        self.threads().len() > 1
    }

    /// Whether a front thread has an instance.
    pub(super) fn is_on_front(&self) -> bool {
        self.fronts.load(Ordering::Relaxed) > 0
    }

    /// Counts an instance on a front thread until this is dropped.
    pub(super) fn on_front(self: &Arc<Self>) -> OnFront {
        self.fronts.fetch_add(1, Ordering::Relaxed);
        OnFront(self.clone())
    }

    pub(super) fn joined(&self, back: usize) {
        self.threads.fetch_or(ThreadSet::bit(back), Ordering::Relaxed);
    }

    pub(super) fn left(&self, back: usize) {
        self.threads.fetch_and(!ThreadSet::bit(back), Ordering::Relaxed);
    }

    /// Notes the longest slice of a start-up.
    pub(super) fn started(&self, slice: Duration) {
        self.slow_start.store(slice > STARTUP_SLICE_MAX, Ordering::Relaxed);
    }

    /// Notes a call on a back thread, with the longest slice there since the one before.
    pub(super) fn called(&self, slice: Duration) {
        let mean = self.slice_us.load(Ordering::Relaxed);
        // Threads that do this at once may lose one value: it is a mean.
        self.slice_us.store(smoothed(mean, slice), Ordering::Relaxed);
        if slice > SLICE_MAX {
            self.short_calls.store(0, Ordering::Relaxed);
        } else if self.short_calls.load(Ordering::Relaxed) < CALLS_HOT {
            self.short_calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What one more call is expected to execute in one go, in microseconds.
    pub(super) fn slice_us(&self) -> u64 {
        self.slice_us.load(Ordering::Relaxed).into()
    }

    /// Whether it has behaved well enough, for long enough, to run on a front thread.
    pub(super) fn is_proven(&self, now: Instant) -> bool {
        self.short_calls.load(Ordering::Relaxed) >= CALLS_HOT
            && !self.slow_start.load(Ordering::Relaxed)
            && !self.bar.lock().unwrap_or_else(PoisonError::into_inner).holds(now)
    }

    /// Bars it from front threads for a while: it ran long on one.
    pub(super) fn demote(&self, now: Instant) {
        self.short_calls.store(0, Ordering::Relaxed);
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).demote(now);
    }

    /// Takes a place among the requests that wait for the version, if one of `max` is left.
    pub(super) fn wait(self: &Arc<Self>, max: u32) -> Option<Waiting> {
        // Counted first and looked at then: threads that do this at once never let too many in.
        let waiting = Waiting(self.clone());
        (self.waiting.fetch_add(1, Ordering::Relaxed) < max).then_some(waiting)
    }
}

/// An instance on a front thread, while it lives.
pub(super) struct OnFront(Arc<Replicas>);

impl Drop for OnFront {
    fn drop(&mut self) {
        self.0.fronts.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that waits for its version.
pub(super) struct Waiting(Arc<Replicas>);

impl Waiting {
    pub(super) fn replicas(&self) -> &Replicas {
        &self.0
    }

    /// It waits no longer.
    pub(super) fn into_replicas(self) -> Arc<Replicas> {
        self.0.clone()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A back thread, as others see it.
pub(super) struct BackThread {
    inbox: mpsc::Sender<Handed>,
    pulse: OnceLock<Pulse>,
    queued: AtomicU32,
    queued_us: AtomicU64,
    delay_us: AtomicU32,
    /// When it was made, and how many microseconds later it began something last, or the first came to its empty queue.
    made: Instant,
    turned_us: AtomicU64,
    pub(super) instances: AtomicUsize,
}

impl BackThread {
    fn new() -> (Self, mpsc::Receiver<Handed>) {
        let (inbox, handed) = mpsc::channel(HANDED_QUEUED_MAX);
        let thread = Self {
            inbox,
            pulse: OnceLock::new(),
            queued: AtomicU32::new(0),
            queued_us: AtomicU64::new(0),
            delay_us: AtomicU32::new(0),
            made: Instant::now(),
            turned_us: AtomicU64::new(0),
            instances: AtomicUsize::new(0),
        };
        (thread, handed)
    }

    /// The thread runs.
    pub(super) fn began(&self, pulse: Pulse) {
        // A thread begins once.
        let _ = self.pulse.set(pulse);
    }

    fn load(&self) -> Load {
        Load {
            running: self.pulse.get().and_then(Pulse::running_for),
            queued: self.queued.load(Ordering::Relaxed),
            queued_work: Duration::from_micros(self.queued_us.load(Ordering::Relaxed)),
            held_up: self
                .now()
                .saturating_sub(Duration::from_micros(self.turned_us.load(Ordering::Relaxed))),
            delay: self.delay(),
            instances: self.instances.load(Ordering::Relaxed),
        }
    }

    /// The time since it was made.
    fn now(&self) -> Duration {
        self.made.elapsed()
    }

    /// It begins something, or something came to its empty queue.
    fn turned(&self) {
        let now = u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX);
        self.turned_us.store(now, Ordering::Relaxed);
    }

    /// What requests have waited for the thread of late.
    pub(super) fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_us.load(Ordering::Relaxed).into())
    }

    /// Hands something over. Gives it back when the thread's queue is full.
    pub(super) fn hand_over(&self, handed: Handed) -> Result<(), Handed> {
        let work_us = handed.work_us();
        if self.queued.load(Ordering::Relaxed) == 0 {
            self.turned();
        }
        // What waits in the channel and what the thread has taken out of it count together.
        if self.queued.fetch_add(1, Ordering::Relaxed) as usize >= HANDED_QUEUED_MAX {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(handed);
        }
        self.queued_us.fetch_add(work_us, Ordering::Relaxed);
        self.inbox.try_send(handed).map_err(|error| {
            self.done(work_us);
            error.into_inner()
        })
    }

    /// Notes how long the thread's newest request has waited for it.
    pub(super) fn delayed(&self, delay: Duration) {
        let mean = self.delay_us.load(Ordering::Relaxed);
        self.delay_us.store(smoothed(mean, delay), Ordering::Relaxed);
        self.turned();
    }

    /// Something handed over has had its first slice.
    pub(super) fn done(&self, work_us: u64) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.queued_us.fetch_sub(work_us, Ordering::Relaxed);
    }
}

/// What all isolate threads of one process share about where versions run.
pub(super) struct Placement {
    backs: Vec<BackThread>,
    versions: RwLock<FxHashMap<VersionId, Arc<Replicas>>>,
    pub(super) offences: Offences,
    pub(super) admission: Admission,
    pub(super) room: Arc<Room>,
    pub(super) counts: Counts,
}

impl Placement {
    /// Makes the table for so many back threads, and what each of them receives.
    pub(super) fn new(
        backs: usize,
        admission: Admission,
        room: Arc<Room>,
        counts: Counts,
    ) -> (Arc<Self>, Vec<mpsc::Receiver<Handed>>) {
        let (offences, versions) = (Offences::default(), RwLock::default());
        let (backs, inboxes) = (0..backs).map(|_| BackThread::new()).unzip();
        let placement = Self { backs, versions, offences, admission, room, counts };
        (Arc::new(placement), inboxes)
    }

    /// The back threads. Without any, everything runs on the thread that it came to.
    pub(super) fn backs(&self) -> &[BackThread] {
        &self.backs
    }

    /// What is known of a version.
    pub(super) fn replicas(&self, version: &VersionId) -> Arc<Replicas> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = versions.get(version) {
            return known.clone();
        }
        drop(versions);
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        versions.entry(version.clone()).or_default().clone()
    }

    /// Whether no thread of the process has an instance of a version, or is about to have one.
    pub(super) fn is_nowhere(&self, version: &VersionId) -> bool {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        let known = versions.get(version);
        known.is_none_or(|replicas| replicas.is_nowhere() && !replicas.is_on_front())
    }

    /// Chooses the back thread for a call of a version.
    pub(super) fn choose(&self, replicas: &Replicas) -> Option<(usize, &BackThread)> {
        let count = self.backs.len();
        if count == 0 {
            return None;
        }
        let load = |thread: usize| self.backs[thread].load();
        let draw = |n: usize| if n > 1 { rand::random_range(0..n) } else { 0 };
        let thread = match choose(replicas.threads(), count, load, draw) {
            Choice::Replica(thread) => thread,
            Choice::New(thread) => {
                // From now on others go there too and wait for the same load.
                replicas.joined(thread);
                thread
            }
        };
        Some((thread, &self.backs[thread]))
    }

    /// Forgets versions that are nowhere and of no more interest. Any thread may do it.
    pub(super) fn sweep(&self, serves: impl Fn(&VersionId) -> bool) {
        self.offences.sweep(Instant::now());
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        versions.retain(|version, replicas| {
            serves(version) || !replicas.is_nowhere() || Arc::strong_count(replicas) > 1
        });
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::config::LimitsConfig;
    use crate::dispatch::room::Pressure;
    use crate::observe::Metrics;

    #[test]
    fn a_version_is_proven_by_short_calls_in_a_row() {
        let now = Instant::now();
        let replicas = Replicas::default();
        let short = Duration::from_millis(1);
        let many = |replicas: &Replicas| (0..CALLS_HOT).for_each(|_| replicas.called(short));
        many(&replicas);
        assert!(replicas.is_proven(now));
        replicas.called(SLICE_MAX * 2);
        (1..CALLS_HOT).for_each(|_| replicas.called(short));
        assert!(!replicas.is_proven(now));
        replicas.called(short);
        assert!(replicas.is_proven(now));
        replicas.started(STARTUP_SLICE_MAX * 2);
        assert!(!replicas.is_proven(now), "its start-up would hold the thread");
        replicas.started(short);
        replicas.demote(now);
        many(&replicas);
        assert!(!replicas.is_proven(now) && replicas.is_proven(now + Duration::from_secs(11)));
    }

    #[test]
    fn a_version_holds_its_queue_and_the_table_what_is_somewhere() {
        let admission = Admission::new(&LimitsConfig::default(), NonZeroU32::MIN);
        let room = Room::new(9, || Pressure::Low);
        let (placement, _inboxes) =
            Placement::new(2, admission, room, Counts::new(&Metrics::default()));
        let version = VersionId::new("v");
        let replicas = placement.replicas(&version);
        let waiting: Vec<Waiting> = (0..3).filter_map(|_| replicas.wait(2)).collect();
        assert_eq!(waiting.len(), 2);
        drop(waiting);
        assert!(replicas.wait(1).is_some());
        let (first, _) = placement.choose(&replicas).unwrap();
        let (second, _) = placement.choose(&placement.replicas(&version)).unwrap();
        assert_eq!(first, second, "it stays where it is");
        drop(replicas);
        placement.sweep(|_| false);
        placement.replicas(&version).left(first);
        assert_eq!(placement.versions.read().unwrap().len(), 1);
        placement.sweep(|_| false);
        assert!(placement.versions.read().unwrap().is_empty());
    }
}
