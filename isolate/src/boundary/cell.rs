//! The cell: one `JsRuntime` that is entered only for the length of a closure, so that many isolates can
//! take turns on one thread.

use std::cell::Cell as StdCell;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::Arc;

use deno_core::{JsRuntime, ModuleLoader, RuntimeOptions, scope, v8};

use super::allocator::allocator;
use super::calls::wasm_module;
use super::heap::{HeapGuard, UNASKED_BYTES};
use super::shared::SharedNumber;
use crate::extension;
use crate::memory::{CODE_RANGE_BYTES, HEAP_START_BYTES, MemoryAccount};
use crate::ops::late::LateScripts;
use crate::ops::time::{SeenTime, present_ms};

/// The startup snapshot that the build script made.
static SNAPSHOT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runtime.snapshot"));

/// The sources of the scripts that are loaded late, as the build script wrote them.
static LATE_SOURCES: &[&str] = include!(concat!(env!("OUT_DIR"), "/late_scripts.rs"));

/// The heap size that the young generation is made for, in bytes.
const YOUNG_FOR_HEAP_BYTES: usize = 128 << 20;

/// The old generation that V8 collects for the first time, at the latest, in bytes.
const COLLECTED_FIRST_BYTES: usize = 8 << 20;

/// What a new cell is made with.
pub(crate) struct CellOptions {
    pub(crate) loader: Rc<dyn ModuleLoader>,
    pub(crate) account: Arc<MemoryAccount>,
    pub(crate) inspector: bool,
    /// Counts how often the isolates of the thread are entered.
    pub(crate) slices: Rc<StdCell<u64>>,
}

/// One isolate. It lives and dies on the thread that made it.
///
/// Invariant: outside of [`Cell::with`] no isolate is current on the thread. V8 checks for the wrong
/// isolate only in debug builds; a forgotten entry then crashes instead of reading another tenant's heap.
///
/// What every call looks at goes first.
#[repr(C)]
pub(crate) struct Cell {
    time: SharedNumber,
    slices: Rc<StdCell<u64>>,
    guard: Arc<HeapGuard>,
    runtime: ManuallyDrop<JsRuntime>,
    account: Arc<MemoryAccount>,
    late: LateScripts,
}

/// Exits the isolate when the closure returns or unwinds.
struct Entered {
    isolate: v8::UnsafeRawIsolatePtr,
}

impl Entered {
    fn new(runtime: &mut JsRuntime) -> Self {
        let isolate = runtime.v8_isolate();
        // SAFETY: the isolate is alive, belongs to this thread, and `drop` exits it in reverse order.
        unsafe { isolate.enter() };
        // SAFETY: the pointer is used only by `drop`, while the runtime is borrowed by the caller of `with`.
        Self { isolate: unsafe { isolate.as_raw_isolate_ptr() } }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: the runtime outlives this guard, and the isolate was entered by `new`.
        unsafe { v8::Isolate::from_raw_isolate_ptr(self.isolate).exit() };
    }
}

impl Cell {
    /// Makes an isolate from the snapshot. Must be called inside a tokio runtime of the current thread.
    pub(crate) fn new(options: CellOptions) -> Self {
        let params = v8::CreateParams::default()
            .heap_limits(0, YOUNG_FOR_HEAP_BYTES)
            .set_max_old_generation_size_in_bytes(UNASKED_BYTES)
            .set_initial_old_generation_size_in_bytes(COLLECTED_FIRST_BYTES)
            // The first isolate's wish counts for all.
            .set_code_range_size_in_bytes(CODE_RANGE_BYTES)
            .array_buffer_allocator(allocator(&options.account).make_shared())
            .allow_atomics_wait(false);
        let mut runtime = JsRuntime::new(RuntimeOptions {
            module_loader: Some(options.loader),
            extensions: extension::extensions(),
            startup_snapshot: Some(SNAPSHOT),
            create_params: Some(params),
            inspector: options.inspector,
            custom_module_evaluation_cb: Some(Box::new(wasm_module)),
            is_main: true,
            // They are in the snapshot: to make them again costs each isolate 0.2 MB and a fifth of its time.
            skip_op_registration: true,
            ..Default::default()
        });
        let seen = SeenTime::new();
        let time = SharedNumber::new(seen.store());
        time.set(present_ms());
        let late = LateScripts::new(LATE_SOURCES);
        let state = runtime.op_state();
        state.borrow_mut().put(seen);
        state.borrow_mut().put(late.clone());
        let account = options.account;
        state.borrow_mut().put(account.clone());
        let guard = HeapGuard::install(&mut runtime, account.clone(), HEAP_START_BYTES);
        // SAFETY: creation entered the isolate on this thread; leaving it restores the invariant.
        unsafe { runtime.v8_isolate().exit() };
        Self {
            time,
            slices: options.slices,
            guard,
            runtime: ManuallyDrop::new(runtime),
            account,
            late,
        }
    }

    /// Enters the isolate at the present time, runs `f`, charges what it holds now, and leaves it.
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut JsRuntime) -> R) -> R {
        self.slices.set(self.slices.get() + 1);
        self.time.set(present_ms());
        let _entered = Entered::new(&mut self.runtime);
        let result = f(&mut self.runtime);
        self.guard.refresh(self.runtime.v8_isolate());
        result
    }

    /// Measures what the isolate holds.
    pub(crate) fn measure(&mut self) {
        let _entered = Entered::new(&mut self.runtime);
        self.guard.look(self.runtime.v8_isolate());
    }

    /// Gives back what garbage takes. Costs milliseconds of CPU time.
    pub(crate) fn shrink(&mut self) {
        self.keep_late_code();
        let _entered = Entered::new(&mut self.runtime);
        self.runtime.v8_isolate().low_memory_notification();
        self.guard.settle(self.runtime.v8_isolate());
    }

    /// Collects garbage. Costs a millisecond or two, as long as the heap is small.
    pub(crate) fn collect(&mut self) {
        let _entered = Entered::new(&mut self.runtime);
        self.guard.collect_now(self.runtime.v8_isolate());
    }

    /// What the watchdog measures the isolate with while it executes.
    pub(crate) fn guard(&self) -> Arc<HeapGuard> {
        self.guard.clone()
    }

    /// Keeps what it has compiled of the scripts that are loaded late, if the process has less.
    pub(crate) fn keep_late_code(&mut self) {
        if self.late.has_new_code() {
            let _entered = Entered::new(&mut self.runtime);
            scope!(scope, &mut self.runtime);
            self.late.keep_code(scope);
        }
    }

    /// Compiles a script that is loaded late, for all isolates of the process. Nothing is run.
    pub(crate) fn compile_late(&mut self) {
        let _entered = Entered::new(&mut self.runtime);
        scope!(scope, &mut self.runtime);
        self.late.compile_next(scope);
    }

    /// What it has of the scripts that are loaded late.
    pub(crate) fn late_scripts(&self) -> &LateScripts {
        &self.late
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // SAFETY: the isolate is alive and not current; dropping an `OwnedIsolate` demands that it is
        // current and exits it by itself.
        unsafe { self.runtime.v8_isolate().enter() };
        // SAFETY: the runtime is not used after this.
        unsafe { ManuallyDrop::drop(&mut self.runtime) };
        self.account.close();
    }
}
