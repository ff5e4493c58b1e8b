//! The watchdog: one thread that looks, every millisecond, at what each isolate thread executes, and ends
//! what has used up its CPU budget.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use deno_core::v8::IsolateHandle;

use crate::boundary::ThreadClock;

/// How often running code is looked at.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without any running code after which the watchdog goes to sleep.
const IDLE_TICKS: u32 = 50;

/// How long a sleep lasts at most.
const SLEEP_MAX: Duration = Duration::from_secs(1);

struct Running {
    handle: IsolateHandle,
    started: Instant,
    budget: Duration,
    /// The thread's CPU time when the execution started, once it has gone on for a tick. Reading the clock of
    /// a thread is a system call, too dear for each of the many short executions.
    started_cpu: Option<Duration>,
    fired: bool,
}

struct Slot {
    clock: ThreadClock,
    running: Mutex<Option<Running>>,
}

impl Running {
    /// Ends the execution if its budget is used up. Until the first look, all time counts as CPU time.
    fn look(&mut self, cpu: Duration) {
        let started =
            *self.started_cpu.get_or_insert_with(|| cpu.saturating_sub(self.started.elapsed()));
        if !self.fired && cpu.saturating_sub(started) >= self.budget {
            self.fired = true;
            self.handle.terminate_execution();
        }
    }
}

#[derive(Default)]
struct Shared {
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
    /// CPU time used; of an execution shorter than a tick, all its time.
    pub(crate) cpu: Duration,
    /// Whether the watchdog ended it.
    pub(crate) over_budget: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchdog {
    /// Starts the watchdog's thread. It ends when the watchdog and all its threads' places are gone.
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let weak = Arc::downgrade(&shared);
        let joined =
            std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch(&weak))?;
        *lock(&shared.thread) = Some(joined.thread().clone());
        Ok(Self { shared })
    }

    /// Takes a place for the calling thread.
    pub(crate) fn enlist(&self) -> std::io::Result<WatchedThread> {
        let slot = Arc::new(Slot { clock: ThreadClock::current()?, running: Mutex::new(None) });
        lock(&self.shared.slots).push(slot.clone());
        Ok(WatchedThread { shared: self.shared.clone(), slot })
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
                    running.look(slot.clock.now());
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

    /// Runs `f`, which executes JS in the isolate behind `handle`, within a CPU budget.
    pub(crate) fn run<R>(
        &self,
        handle: &IsolateHandle,
        budget: Duration,
        f: impl FnOnce() -> R,
    ) -> (R, Spent) {
        let started = Instant::now();
        *lock(&self.slot.running) = Some(Running {
            handle: handle.clone(),
            started,
            budget,
            started_cpu: None,
            fired: false,
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
        let looked_at = ended.as_ref().and_then(|running| running.started_cpu);
        let cpu = match looked_at {
            Some(started_cpu) => self.slot.clock.now().saturating_sub(started_cpu),
            None => started.elapsed(),
        };
        (result, Spent { cpu, over_budget: ended.is_some_and(|running| running.fired) })
    }
}

impl Drop for WatchedThread {
    fn drop(&mut self) {
        lock(&self.shared.slots).retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}
