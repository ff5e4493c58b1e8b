//! The watchdog: one thread that looks, every millisecond, at what each isolate thread executes, and ends
//! what has used up its CPU budget.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::boundary::{HeapGuard, KernelThread, ThreadClock};
use crate::memory::Memory;
use crate::native::{ThreadPages, resident_bytes};

/// CPU time by which one collection of garbage may exceed a budget. Longer ones are left room for.
const COLLECTION_OVER_MAX: Duration = Duration::from_millis(50);

/// CPU time past its budget after which an execution that was ended goes on in code of V8's that does not ask whether
/// it may: a search or a normalization of strings takes hours for what fits a heap. Only its process can be ended then.
const ENDLESS_AFTER: Duration = Duration::from_secs(2);

/// How often running code is looked at.
const TICK: Duration = Duration::from_millis(1);

/// How old a reading of a thread's CPU clock may be that an execution is measured from. To read it is a system call,
/// too dear for each of the many short executions.
const READING_AGE_MAX: Duration = TICK;

/// Budgets below this are measured from the very start.
const EXACT_BELOW: Duration = Duration::from_millis(20);

/// Ticks without any running code after which the watchdog goes to sleep.
const IDLE_TICKS: u32 = 50;

/// How long a sleep lasts at most.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Looks between two measurements of what an execution holds.
const LOOKS_TO_PROBE: u32 = 10;

/// Memory that no account knows of, and that an execution may take before its garbage is collected, in bytes.
const NATIVE_COLLECT_BYTES: u64 = 64 << 20;

/// The same before the execution is ended.
const NATIVE_BYTES_MAX: u64 = 256 << 20;

/// How memory stood when an execution was first measured.
struct NativeMark {
    touched: u64,
    unaccounted: u64,
    /// Growth past which garbage is collected next.
    collect_at: u64,
}

struct Running {
    heap: Arc<HeapGuard>,
    looks: u32,
    native: Option<NativeMark>,
    started: Instant,
    budget: Duration,
    /// The thread's CPU time when the execution started, or [`READING_AGE_MAX`] before that.
    started_cpu: Duration,
    fired: bool,
    crashed: bool,
}

struct Slot {
    thread: KernelThread,
    clock: ThreadClock,
    pages: ThreadPages,
    running: Mutex<Option<Running>>,
}

impl Running {
    /// CPU time used so far, of a thread whose clock shows `cpu`: it is never more than the time that has passed.
    fn used(&self, cpu: Duration) -> Duration {
        cpu.saturating_sub(self.started_cpu).min(self.started.elapsed())
    }

    /// Ends the execution if its budget is used up, and has what it holds measured now and then: linear
    /// memories grow without any collection.
    fn look(&mut self, slot: &Slot, memory: &Memory) {
        let used = self.used(slot.clock.now());
        if used >= usable(self.budget, self.heap.longest_collection()) {
            // Again with every look: code between V8's frames may turn the end into an error to catch.
            self.fired = true;
            self.heap.handle().terminate_execution();
        }
        if used >= self.budget.saturating_add(ENDLESS_AFTER) && !self.crashed {
            self.crashed = true;
            slot.thread.crash();
        }
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_TO_PROBE) {
            self.heap.probe();
            self.look_at_native(&slot.pages, memory);
        }
    }

    /// Bounds memory that no account knows of by two witnesses: pages that this thread was given, and growth
    /// of the process that the accounts do not explain.
    fn look_at_native(&mut self, pages: &ThreadPages, memory: &Memory) {
        let unaccounted = resident_bytes().saturating_sub(memory.used() as u64);
        let touched = pages.touched_bytes();
        let Some(mark) = &mut self.native else {
            let collect_at = NATIVE_COLLECT_BYTES;
            self.native = Some(NativeMark { touched, unaccounted, collect_at });
            return;
        };
        let grown =
            touched.saturating_sub(mark.touched).min(unaccounted.saturating_sub(mark.unaccounted));
        if grown >= NATIVE_BYTES_MAX {
            self.heap.refuse();
        } else if grown >= mark.collect_at {
            mark.collect_at += NATIVE_COLLECT_BYTES;
            self.heap.collect();
        }
    }
}

/// What code may use of a budget so that another collection like its longest does not exceed it by much: nothing can
/// end one before its time.
fn usable(budget: Duration, longest_collection: Duration) -> Duration {
    budget.saturating_sub(longest_collection.saturating_sub(COLLECTION_OVER_MAX))
}

struct Shared {
    memory: Memory,
    slots: Mutex<Vec<Arc<Slot>>>,
    running: AtomicUsize,
    asleep: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

/// Ends executions that use too much CPU time. One serves all isolate threads of a process.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
}

/// One isolate thread's place under the watchdog.
pub(crate) struct WatchedThread {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    /// What the thread's CPU clock showed last, and when that was.
    reading: Cell<(Instant, Duration)>,
}

/// What other threads may see of an isolate thread.
#[derive(Clone)]
pub struct Pulse(Arc<Slot>);

impl Pulse {
    /// For how long the slice that is under way has run; none when the thread executes no JS.
    pub fn running_for(&self) -> Option<Duration> {
        lock(&self.0.running).as_ref().map(|running| running.started.elapsed())
    }
}

/// What came of a watched execution.
pub(crate) struct Spent {
    /// CPU time used; of an execution shorter than a tick, all its time. Up to a tick too much.
    pub(crate) cpu: Duration,
    /// Whether the watchdog ended it.
    pub(crate) over_budget: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchdog {
    /// Starts the watchdog's thread. It ends when the watchdog and all its threads' places are gone.
    pub(crate) fn start(memory: Memory) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            memory,
            slots: Mutex::default(),
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let weak = Arc::downgrade(&shared);
        let joined =
            std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch(&weak))?;
        *lock(&shared.thread) = Some(joined.thread().clone());
        Ok(Self { shared })
    }

    /// Takes a place for the calling thread.
    pub(crate) fn enlist(&self) -> std::io::Result<WatchedThread> {
        let slot = Arc::new(Slot {
            thread: KernelThread::current(),
            clock: ThreadClock::current()?,
            pages: ThreadPages::current(),
            running: Mutex::new(None),
        });
        lock(&self.shared.slots).push(slot.clone());
        let reading = Cell::new((Instant::now(), slot.clock.now()));
        Ok(WatchedThread { shared: self.shared.clone(), slot, reading })
    }
}

fn watch(shared: &Weak<Shared>) {
    let mut idle = 0;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if shared.running.load(Ordering::SeqCst) == 0 {
            idle += 1;
        } else {
            idle = 0;
            for slot in lock(&shared.slots).iter() {
                if let Some(running) = &mut *lock(&slot.running) {
                    running.look(slot, &shared.memory);
                }
            }
        }
        if idle < IDLE_TICKS {
            drop(shared);
            std::thread::sleep(TICK);
            continue;
        }
        shared.asleep.store(true, Ordering::SeqCst);
        if shared.running.load(Ordering::SeqCst) == 0 {
            drop(shared);
            std::thread::park_timeout(SLEEP_MAX);
        }
        idle = 0;
    }
}

impl WatchedThread {
    /// What other threads may see of this one.
    pub(crate) fn pulse(&self) -> Pulse {
        Pulse(self.slot.clone())
    }

    /// Runs `f`, which executes JS in the isolate of `heap`, within a CPU budget.
    pub(crate) fn run<R>(
        &self,
        heap: &Arc<HeapGuard>,
        budget: Duration,
        f: impl FnOnce() -> R,
    ) -> (R, Spent) {
        let started = Instant::now();
        let age_max = if budget < EXACT_BELOW { Duration::ZERO } else { READING_AGE_MAX };
        let started_cpu = self.read_clock(started, age_max);
        heap.begin();
        *lock(&self.slot.running) = Some(Running {
            heap: heap.clone(),
            looks: 0,
            native: None,
            started,
            budget,
            started_cpu,
            fired: false,
            crashed: false,
        });
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = &*lock(&self.shared.thread)
        {
            thread.unpark();
        }
        let result = f();
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
        let ended = lock(&self.slot.running).take();
        let elapsed = started.elapsed();
        let cpu = match &ended {
            Some(running) if elapsed > TICK => {
                running.used(self.read_clock(started + elapsed, Duration::ZERO))
            }
            _ => elapsed,
        };
        (result, Spent { cpu, over_budget: ended.is_some_and(|running| running.fired) })
    }

    /// What the thread's CPU clock shows `now`, or showed `age_max` ago at most.
    fn read_clock(&self, now: Instant, age_max: Duration) -> Duration {
        let (read_at, cpu) = self.reading.get();
        if now.saturating_duration_since(read_at) < age_max {
            return cpu;
        }
        let cpu = self.slot.clock.now();
        self.reading.set((now, cpu));
        cpu
    }
}

impl Drop for WatchedThread {
    fn drop(&mut self) {
        lock(&self.shared.slots).retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_collections_are_left_room_for() {
        let ms = Duration::from_millis;
        for (budget, longest, left) in
            [(1_000, 0, 1_000), (1_000, 50, 1_000), (1_000, 200, 850), (50, 60, 40), (50, 500, 0)]
        {
            assert_eq!(usable(ms(budget), ms(longest)), ms(left), "{longest} of {budget}");
        }
    }
}
