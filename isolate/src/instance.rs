//! An instance: a script and its bindings, live in an isolate. It is an actor on one thread: calls enter
//! the isolate for a slice, a driver task polls its event loop, the watchdog ends what runs too long.

use std::cell::{Cell as StdCell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use deno_core::{JsRuntime, PollEventLoopOptions};

use crate::ahead::{Ahead, Compiler};
use crate::boundary::{
    Call, CallError, Cell, CrashLabel, CrashSlot, Entries, Footprint, HeapGuard,
};
use crate::code_cache::CodeCache;
use crate::exception::exception_of;
use crate::host::Host;
use crate::inspector::Inspector;
use crate::invocation::{Answer, InvocationKey, InvocationLimits, Invocations, now_ms, spawn};
use crate::limits::Limits;
use crate::loader::ScriptLoader;
use crate::memory::{self, InstanceMemory, Memory, MemoryAccount};
use crate::ops::InstanceState;
use crate::outcome::{Exception, Outcome};
use crate::script::{Binding, Script};
use crate::socket::SocketClose;
use crate::spares::{Blank, Spares};
use crate::start::{StartError, start};
use crate::watchdog::{Pulse, Watchdog, WatchedThread};

/// V8's flags, after the program name that it expects first.
///
/// Linear memories are seen only once they are there: 2048 pages of 64 KiB are 128 MiB, the most for one.
/// Loops that Maglev replaces while they run (OSR) look for interrupts so seldom that neither the watchdog nor
/// the heap limit could end them; functions still get Maglev's code when they are called.
/// V8 sets the end of its stack, in KiB, from where an isolate is made; an isolate may be entered from deeper
/// down. A quarter of a thread's 8 MiB leaves room for that and for the Rust that JS calls.
/// Most isolates are called seldom. Regular expressions and functions get machine code, and functions their
/// feedback, later than by default: until then an isolate holds 0.7 MB less, in whole pages of 256 KiB, and
/// nothing of the code range. Long subjects still have a regular expression compiled at once. Sparkplug's code is
/// several times as long as the bytecode that it is made of, and each isolate has its own: hundreds of workers in turn
/// are faster without it, and what is called often gets Maglev's code all the same (docs/decisions/013).
const V8_FLAGS: &[&str] = &[
    "atoll",
    "--wasm-max-mem-pages=2048",
    "--no-maglev-osr",
    "--no-sparkplug",
    "--stack-size=1968",
    "--no-memory-pool-share-memory-on-teardown",
    "--regexp-tier-up-ticks=100",
    "--invocation-count-for-feedback-allocation=30",
];

/// V8 and what all isolate threads of a process share. Made once, before any other thread.
pub struct Engine {
    watchdog: Watchdog,
    code_cache: Arc<CodeCache>,
    ahead: Arc<Ahead>,
    memory: Memory,
}

/// What a process gives to its isolates.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Compiled code that is kept, in bytes.
    pub code_cache_bytes_max: usize,
    /// All JS heaps together, in bytes. They lie in one cage of 4 GiB, a third of which must stay free.
    pub heap_bytes_max: usize,
    /// Heaps, buffers and WebAssembly memories of all isolates together, in bytes.
    pub memory_bytes_max: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let (heap_bytes_max, memory_bytes_max) = memory::defaults();
        Self { code_cache_bytes_max: 64 << 20, heap_bytes_max, memory_bytes_max }
    }
}

/// What is needed besides the script to make an instance.
pub struct InstanceOptions {
    /// The code.
    pub script: Arc<Script>,
    /// What `env` holds.
    pub bindings: Vec<Binding>,
    /// What the instance and each invocation may use.
    pub limits: Limits,
    /// The gate to the world.
    pub host: Rc<dyn Host>,
    /// Whether a debugger may attach.
    pub inspector: bool,
    /// What a crash report calls the instance: ASCII without white space, and of it at most
    /// [`crate::CRASH_LABEL_BYTES_MAX`] bytes.
    pub label: String,
}

/// The part of the engine that belongs to one thread. Instances are made from it and stay on its thread.
#[derive(Clone)]
pub struct IsolateThread {
    watched: Rc<WatchedThread>,
    crash_slot: Rc<CrashSlot>,
    pub(crate) code_cache: Arc<CodeCache>,
    pub(crate) ahead: Arc<Ahead>,
    pub(crate) compiler: Rc<Compiler>,
    pub(crate) spares: Rc<Spares>,
}

impl Engine {
    /// Starts V8.
    ///
    /// # Errors
    /// When the watchdog's thread cannot be started.
    pub fn start(options: EngineOptions) -> std::io::Result<Self> {
        deno_core::v8_set_flags(V8_FLAGS.iter().map(|flag| (*flag).to_owned()).collect());
        JsRuntime::init_platform(None);
        let memory = Memory::new(options.heap_bytes_max, options.memory_bytes_max);
        Ok(Self {
            watchdog: Watchdog::start(memory.clone())?,
            code_cache: Arc::new(CodeCache::new(options.code_cache_bytes_max)),
            ahead: Arc::default(),
            memory,
        })
    }

    /// What all isolates hold together.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Has a script's modules compiled by a thread that is idle, see [`IsolateThread::compile_ahead`]; so its first
    /// load in this process compiles nothing. Nothing of it runs.
    pub fn compile_ahead(&self, script: Arc<Script>) {
        self.ahead.add(script);
    }

    /// Makes the calling thread an isolate thread. It must run a tokio `LocalSet`.
    ///
    /// # Errors
    /// When the thread's CPU clock cannot be read.
    pub fn thread(&self) -> std::io::Result<IsolateThread> {
        Ok(IsolateThread {
            watched: Rc::new(self.watchdog.enlist()?),
            crash_slot: Rc::new(CrashSlot::claim()),
            code_cache: self.code_cache.clone(),
            ahead: self.ahead.clone(),
            compiler: Rc::new(Compiler::new(self.memory.clone())),
            spares: Rc::new(Spares::new(self.memory.clone())),
        })
    }
}

impl IsolateThread {
    /// What other threads may see of this one.
    pub fn pulse(&self) -> Pulse {
        self.watched.pulse()
    }

    /// What all isolates of the process hold together.
    pub fn memory(&self) -> &Memory {
        self.spares.memory()
    }
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It takes calls.
    Live,
    /// It went over a limit: it executes nothing any more and is to be replaced.
    Condemned(Outcome),
}

/// What every call looks at goes first: in an instance that rested, each line of the processor's caches is a miss.
#[repr(C)]
pub(crate) struct Inner {
    state: StdCell<State>,
    longest_slice: StdCell<Duration>,
    /// What it held when its garbage was last collected at rest, in bytes.
    rest_bytes: StdCell<usize>,
    footprint: Rc<Footprint>,
    heap: Arc<HeapGuard>,
    account: Arc<MemoryAccount>,
    watched: Rc<WatchedThread>,
    crash_slot: Rc<CrashSlot>,
    pub(crate) invocations: Rc<Invocations>,
    cell: RefCell<Cell>,
    /// There once the script has run.
    started: OnceCell<Started>,
    pub(crate) limits: Limits,
    label: CrashLabel,
    driver: RefCell<Option<Waker>>,
    pub(crate) inspector: Option<Inspector>,
}

#[repr(C)]
struct Started {
    handlers: Vec<String>,
    entries: Entries,
}

/// A live instance. Cheap to clone; lives on the thread that made it.
#[derive(Clone)]
pub struct Instance {
    pub(crate) inner: Rc<Inner>,
}

impl Instance {
    /// Makes an isolate, runs the script's top level in it, and finds its handlers.
    ///
    /// # Errors
    /// When the script does not compile, throws, or goes over a limit while it starts; with
    /// [`Outcome::Overloaded`] when the process has no memory left for it.
    pub async fn load(
        thread: &IsolateThread,
        options: InstanceOptions,
    ) -> Result<Self, StartError> {
        let InstanceOptions { script, bindings, limits, host, inspector, label } = options;
        if !thread.memory().takes_another() {
            return Err(StartError::Limit(Outcome::Overloaded));
        }
        let blank = match inspector {
            true => thread.spares.inspected()?,
            false => thread.spares.take()?,
        };
        let Blank { mut cell, account, entries, loader: late, inspector } = blank;
        let loader = late.bind(ScriptLoader::new(script.clone(), thread.code_cache.clone()));
        account.limit(limits.memory_bytes_max);
        let console_host = host.clone();
        let invocations = Rc::new(Invocations::new(
            InvocationLimits {
                log_bytes_max: limits.log_bytes_max,
                subrequests_max: limits.subrequests_max,
                connections_max: limits.connections_max,
            },
            Box::new(move |id, line| console_host.console(id, line)),
        ));
        let heap = cell.guard();
        let state = InstanceState { invocations: invocations.clone(), host };
        cell.with(|runtime| runtime.op_state().borrow_mut().put(state));
        let inner = Rc::new(Inner {
            state: StdCell::new(State::Live),
            longest_slice: StdCell::default(),
            rest_bytes: StdCell::default(),
            footprint: Rc::default(),
            heap,
            account,
            watched: thread.watched.clone(),
            crash_slot: thread.crash_slot.clone(),
            invocations,
            cell: RefCell::new(cell),
            started: OnceCell::new(),
            limits,
            label: CrashLabel::new(&label),
            driver: RefCell::new(None),
            inspector,
        });
        inner.footprint.add(&*inner);
        inner.footprint.add(&*inner.invocations);
        inner.footprint.add(&*inner.heap);
        inner.footprint.add(&*inner.account);
        let (spares, instance) = (thread.spares.clone(), Rc::downgrade(&inner));
        let tell = move || spares.note_late_code(instance.clone());
        inner.cell.borrow().late_scripts().on_new_code(Box::new(tell));
        let handlers = start(&inner, &entries, &script, loader, &bindings).await?;
        entries.add_to(&inner.footprint);
        inner.started.get_or_init(|| Started { handlers, entries });
        inner.cell.borrow_mut().measure();
        if let Some(refusal) = inner.account.refusal() {
            return Err(StartError::Limit(refusal.into()));
        }
        if loader.has_new_code() {
            thread.spares.note_new_code(Rc::downgrade(&inner), late);
        }
        spawn(drive(Rc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// What its calls touch.
    pub fn footprint(&self) -> &Rc<Footprint> {
        &self.inner.footprint
    }

    /// The names of the handlers that the script exports.
    pub fn handlers(&self) -> &[String] {
        self.inner.started.get().map_or(&[], |started| &started.handlers)
    }

    /// Where debuggers attach, if the instance was made with an inspector.
    pub fn inspector(&self) -> Option<Inspector> {
        self.inner.inspector.clone()
    }

    /// Invocations in flight.
    pub fn in_flight(&self) -> usize {
        self.inner.invocations.len()
    }

    /// What the instance holds, in bytes: for budgets and metrics.
    pub fn memory_bytes(&self) -> usize {
        self.memory().total()
    }

    /// What the instance holds, by kind.
    pub fn memory(&self) -> InstanceMemory {
        self.inner.account.held()
    }

    /// Collects garbage and gives its pages back, which costs some milliseconds, and keeps for others what V8 has
    /// compiled of the runtime's late scripts. Does nothing while invocations are in flight.
    pub fn shrink(&self) {
        self.at_rest(Cell::shrink);
    }

    /// Collects garbage, which costs a millisecond or two as long as the heap is small. Does nothing while invocations are
    /// in flight.
    pub fn collect(&self) {
        self.at_rest(Cell::collect);
    }

    /// What it holds more than when its garbage was last collected by one of the two, in bytes; much of it is garbage.
    pub fn grown_bytes(&self) -> usize {
        self.memory_bytes().saturating_sub(self.inner.rest_bytes.get())
    }

    fn at_rest(&self, collect: impl FnOnce(&mut Cell)) {
        if self.in_flight() > 0 || self.inner.state() != State::Live {
            return;
        }
        // A slice may be going on further up this thread's stack.
        if let Ok(mut cell) = self.inner.cell.try_borrow_mut() {
            collect(&mut cell);
            self.inner.rest_bytes.set(self.memory_bytes());
        }
    }

    /// How many scripts of the runtime it has loaded that are no part of every isolate: streams and what else most
    /// workers do not use. While the instance executes, none.
    pub fn late_scripts(&self) -> usize {
        self.inner.cell.try_borrow().map_or(0, |cell| cell.late_scripts().loaded())
    }

    /// The CPU time of the longest slice since the last [`Instance::take_longest_slice`], start-up included.
    pub fn longest_slice(&self) -> Duration {
        self.inner.longest_slice.get()
    }

    /// The same, and begins to look anew.
    pub fn take_longest_slice(&self) -> Duration {
        self.inner.longest_slice.take()
    }

    /// Closes the sockets that clients have open to it, towards both ends.
    pub fn close_sockets(&self, close: &SocketClose) {
        self.inner.invocations.close_sockets(close);
    }

    /// The outcome for which the instance was condemned; it takes no more calls then.
    pub fn condemned(&self) -> Option<Outcome> {
        match self.inner.state.get() {
            State::Live => None,
            State::Condemned(outcome) => Some(outcome),
        }
    }
}

impl Inner {
    /// Enters the isolate for one slice of execution. Condemns the instance if the slice broke a limit.
    pub(crate) fn slice<R>(
        &self,
        budget: Duration,
        f: impl FnOnce(&mut JsRuntime) -> R,
    ) -> (R, Duration) {
        let mut cell = self.cell.borrow_mut();
        let executing = self.crash_slot.executing(&self.label);
        let (result, spent) = self.watched.run(&self.heap, budget, || cell.with(f));
        drop(executing);
        drop(cell);
        self.longest_slice.set(self.longest_slice.get().max(spent.cpu));
        if let Some(refusal) = self.account.refusal() {
            self.condemn(refusal.into());
        } else if spent.over_budget {
            self.condemn(Outcome::ExceededCpu);
        }
        (result, spent.cpu)
    }

    /// Enters the isolate for the runtime's own ends; nothing of the script may run.
    pub(crate) fn inside<R>(&self, f: impl FnOnce(&mut JsRuntime) -> R) -> R {
        self.cell.borrow_mut().with(f)
    }

    /// Keeps what was compiled here of the scripts that are loaded late.
    pub(crate) fn keep_late_code(&self) {
        self.cell.borrow_mut().keep_late_code();
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    fn condemn(&self, outcome: Outcome) {
        if self.state.get() != State::Live {
            return;
        }
        self.state.set(State::Condemned(outcome));
        for key in self.invocations.keys() {
            self.invocations.overrule(key, outcome, limit_exception(outcome));
        }
        self.wake_driver();
    }

    pub(crate) fn linger(&self, key: InvocationKey) {
        self.invocations.linger(key, self.limits.wait_until);
    }

    /// Has the driver poll the event loop soon.
    pub(crate) fn wake_driver(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }

    fn call(
        &self,
        entries: &Entries,
        runtime: &mut JsRuntime,
        key: InvocationKey,
        event: &Call<'_>,
    ) -> Result<(), CallError> {
        entries.dispatch(runtime, &self.invocations, &self.footprint, key, event)
    }

    /// Calls a `rule` handler. One that uses up its CPU time is ended, and nobody else with it: it decides in one
    /// go, and whatever it was about to change is its own script's affair.
    fn dispatch_rule(&self, key: InvocationKey, entries: &Entries, event: &Call<'_>) {
        let mut cell = self.cell.borrow_mut();
        let executing = self.crash_slot.executing(&self.label);
        let (called, spent) = self.watched.run(&self.heap, self.limits.rule_cpu, || {
            cell.with(|runtime| self.call(entries, runtime, key, event))
        });
        drop(executing);
        drop(cell);
        self.longest_slice.set(self.longest_slice.get().max(spent.cpu));
        self.invocations.charge(key, spent.cpu);
        if let Some(refusal) = self.account.refusal() {
            return self.condemn(refusal.into());
        }
        let failed = match called {
            _ if spent.over_budget => {
                // Nothing of it is on the stack any more, and the watchdog looks elsewhere.
                self.heap.handle().cancel_terminate_execution();
                self.inside(|runtime| entries.forget_context(runtime));
                Some((Outcome::ExceededCpu, rule_exception()))
            }
            Ok(()) => None,
            Err(CallError::Thrown(error)) => Some((Outcome::Exception, exception_of(&error))),
            Err(CallError::Terminated) => return self.condemn(Outcome::ExceededCpu),
        };
        if let Some((outcome, exception)) = failed {
            self.invocations.overrule(key, outcome, exception);
        }
        self.wake_driver();
    }

    /// Calls a handler and, when it answers at once, leaves the answer with the invocation.
    pub(crate) fn dispatch(&self, key: InvocationKey, event: &Call<'_>) {
        if let State::Condemned(outcome) = self.state.get() {
            self.invocations.answer(key, Answer::Failed(outcome, limit_exception(outcome)));
            return;
        }
        let Some(Started { entries, .. }) = self.started.get() else { return };
        if matches!(event, Call::Rule { .. }) {
            return self.dispatch_rule(key, entries, event);
        }
        let (called, cpu) =
            self.slice(self.limits.cpu, |runtime| self.call(entries, runtime, key, event));
        self.invocations.charge(key, cpu);
        match called {
            // Timers, ops and V8's tasks wake the driver by themselves. Most handlers leave nothing else behind, and
            // looking for it enters the isolate once more.
            Ok(()) if self.invocations.is_answered_alone(key) => return,
            Ok(()) => {}
            Err(CallError::Thrown(error)) => {
                let exception = exception_of(&error);
                self.invocations.answer(key, Answer::Failed(Outcome::Exception, exception));
            }
            // Ended from outside: if no limit was the reason, the isolate is of no use any more either.
            Err(CallError::Terminated) => self.condemn(Outcome::ExceededCpu),
        }
        self.wake_driver();
    }

    /// Polls the event loop once. Ready when the instance is condemned.
    fn poll_once(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.get() != State::Live {
            for key in self.invocations.keys() {
                if let State::Condemned(outcome) = self.state.get() {
                    self.invocations.end(key, Some(outcome));
                }
            }
            return Poll::Ready(());
        }
        *self.driver.borrow_mut() = Some(cx.waker().clone());
        self.invocations.begin_slice();
        let budget = self.limits.cpu.saturating_sub(self.invocations.cpu_used_max());
        let started = self.started.get();
        let (polled, cpu) = self.slice(budget, |runtime| {
            let polled = runtime.poll_event_loop(cx, PollEventLoopOptions::default());
            if started.is_some_and(|started| started.entries.report_rejections(runtime)) {
                // To report them may have rejected others.
                cx.waker().wake_by_ref();
            }
            polled
        });
        self.invocations.charge_all(cpu);
        if self.state.get() != State::Live {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match polled {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.fail_hung(),
            Poll::Ready(Err(error)) => {
                let exception = match error.into_kind() {
                    deno_core::error::CoreErrorKind::Js(error) => exception_of(&error),
                    other => plain_exception("Error", &other.to_string()),
                };
                self.invocations.report(0, exception);
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// With nothing left that could make progress, what has not answered never will.
    fn fail_hung(&self) {
        for key in self.invocations.unanswered() {
            let exception = plain_exception(
                "Error",
                "The worker's code had hung: its promise can never settle, so it would never give a response.",
            );
            self.invocations.answer(key, Answer::Failed(Outcome::ExceededWall, exception));
        }
    }
}

async fn drive(inner: Weak<Inner>) {
    std::future::poll_fn(|cx| match inner.upgrade() {
        Some(inner) => inner.poll_once(cx),
        None => Poll::Ready(()),
    })
    .await;
}

pub(crate) fn plain_exception(name: &str, message: &str) -> Exception {
    Exception {
        name: name.to_owned(),
        message: message.to_owned(),
        stack: None,
        timestamp_ms: now_ms(),
    }
}

fn rule_exception() -> Exception {
    plain_exception("Error", "The rule handler exceeded its CPU time limit (limits.rule_cpu_ms).")
}

/// What the log says about an invocation that a limit ended.
pub(crate) fn limit_exception(outcome: Outcome) -> Exception {
    let message = match outcome {
        Outcome::ExceededCpu => "Worker exceeded CPU time limit.",
        Outcome::ExceededMemory => "Worker exceeded memory limit.",
        Outcome::ExceededWall => "Worker exceeded wall time limit.",
        Outcome::Overloaded => {
            "Worker was ended because it needed more memory than the node has left."
        }
        _ => "Worker was ended.",
    };
    plain_exception("Error", message)
}
