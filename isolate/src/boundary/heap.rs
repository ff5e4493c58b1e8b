//! The V8 side of memory: lets a heap grow by granted steps, measures it, and ends what may not grow.
//!
//! V8 asks for a higher limit either when its heap has reached the limit or when one allocation does not fit
//! below it, and aborts the process when the answer is too low. It does not say for how much. So the answer
//! is always high enough for the largest object there can be, and the true limit is set again as soon as V8
//! lets the isolate be looked at: at its next interrupt or its next ordinary collection. By then what was
//! allocated can be measured, and code that holds too much is ended.
//!
//! What still aborts the process is told at [`LARGEST_OBJECT_BYTES`].

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use deno_core::{JsRuntime, v8};

use crate::memory::{MemoryAccount, Refusal};

/// By how much the limit is raised until the isolate can be looked at, in bytes: more than the largest string
/// or array of V8 takes.
///
/// Found to abort the process all the same, so that only another process contains them: results of `split()`
/// or `match()` with more than 2^27 elements, which V8 checks for by dying; an uncaught error whose message is
/// nearly as long as a string can be; ops that lay out more than 2 GiB in one piece (`structuredClone` or
/// `URLSearchParams` of strings of hundreds of megabytes); several largest objects at the same moment on
/// different threads, for which the cage has no room. Builtins that take no interrupts (`fill()`,
/// `JSON.parse()`, `replace()` of hundreds of megabytes) end only when they are done.
const LARGEST_OBJECT_BYTES: usize = 1_100 << 20;

/// A heap with less room than this below its limit has reached it, in bytes. With more room it was one
/// allocation that did not fit.
const FULL_BYTES: usize = 4 << 20;

/// Slices of an isolate after each of which its compiled code is measured: most of it comes with them.
const SLICES_MEASURED: u32 = 16;

/// After those, the code is measured each time that so many slices are over. A power of two.
const SLICES_BETWEEN: u32 = 64;

/// The spaces of a heap that hold compiled code.
const CODE_SPACES: [&str; 2] = ["code_space", "code_large_object_space"];

/// What V8's callbacks know of their isolate.
pub(crate) struct HeapGuard {
    account: Arc<MemoryAccount>,
    handle: v8::IsolateHandle,
    /// The limit that has been granted.
    granted: AtomicUsize,
    /// V8's limit is above what has been granted.
    raised: AtomicBool,
    /// A collection ran since the heap was measured.
    stale: AtomicBool,
    /// Slices that are over; it wraps.
    slices: AtomicU32,
}

impl HeapGuard {
    /// Puts an isolate's heap under its account. The guard must outlive the isolate.
    pub(super) fn install(
        runtime: &mut JsRuntime,
        account: Arc<MemoryAccount>,
        granted: usize,
    ) -> Arc<Self> {
        let isolate = runtime.v8_isolate();
        let guard = Arc::new(Self {
            account,
            handle: isolate.thread_safe_handle(),
            granted: AtomicUsize::new(granted),
            raised: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            slices: AtomicU32::new(0),
        });
        let data = guard.data();
        isolate.add_near_heap_limit_callback(near_heap_limit, data);
        isolate.add_gc_epilogue_callback(collected, data, v8::GCType::kGCTypeAll);
        guard
    }

    fn data(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// What can end what the isolate executes, from any thread.
    pub(crate) fn handle(&self) -> &v8::IsolateHandle {
        &self.handle
    }

    /// Has the isolate measured at its next interrupt, if it executes anything. From any thread.
    pub(crate) fn probe(&self) {
        self.handle.request_interrupt(interrupted, self.data());
    }

    /// Has garbage collected at the isolate's next interrupt. From any thread.
    pub(crate) fn collect(&self) {
        self.handle.request_interrupt(collect_interrupted, self.data());
    }

    /// Ends what the isolate executes, for good. From any thread.
    pub(crate) fn refuse(&self) {
        self.account.refuse(Refusal::OwnLimit);
        self.handle.terminate_execution();
    }

    /// Measures the heap if it may have changed since the last time, and the code now and then: functions are
    /// compiled without any collection.
    pub(super) fn refresh(&self, isolate: &mut v8::Isolate) {
        let slices = self.slices.fetch_add(1, Ordering::Relaxed);
        if self.stale.load(Ordering::Relaxed) || self.raised.load(Ordering::Relaxed) {
            self.look(isolate);
        } else if slices < SLICES_MEASURED || slices.is_multiple_of(SLICES_BETWEEN) {
            // A refusal is found with the account at the end of the slice.
            let _ = self.account.charge_code(code_bytes(isolate));
        }
    }

    /// Charges what the isolate holds, sets the limit to what is granted, and ends what the isolate executes
    /// if it holds too much.
    pub(super) fn look(&self, isolate: &mut v8::Isolate) {
        self.stale.store(false, Ordering::Relaxed);
        let heap = isolate.get_heap_statistics().total_heap_size();
        let external = isolate.adjust_amount_of_external_allocated_memory(0);
        let mut kept = self.account.charge_code(code_bytes(isolate));
        kept = kept.and(self.account.charge(heap, usize::try_from(external).unwrap_or(0)));
        if self.raised.load(Ordering::Relaxed) {
            let mut granted = self.granted.load(Ordering::Relaxed);
            while kept.is_ok() && heap + FULL_BYTES > granted {
                kept = self.account.next_heap_limit(granted).map(|next| granted = next);
            }
            self.granted.store(granted, Ordering::Relaxed);
        }
        if kept.is_err() {
            // What is to end ends sooner with room left than with one collection after the other.
            self.handle.terminate_execution();
        } else if self.raised.swap(false, Ordering::Relaxed) {
            let granted = self.granted.load(Ordering::Relaxed);
            isolate.remove_near_heap_limit_callback(near_heap_limit, granted);
            isolate.add_near_heap_limit_callback(near_heap_limit, self.data());
        }
    }
}

/// Committed bytes of the spaces of compiled code.
fn code_bytes(isolate: &mut v8::Isolate) -> usize {
    static INDICES: OnceLock<Vec<usize>> = OnceLock::new();
    let indices = INDICES.get_or_init(|| {
        let spaces = isolate.number_of_heap_spaces();
        let is_code = |index: &usize| {
            let statistics = isolate.get_heap_space_statistics(*index);
            statistics.is_some_and(|space| {
                CODE_SPACES.iter().any(|name| space.space_name().to_bytes() == name.as_bytes())
            })
        };
        (0..spaces).filter(is_code).collect()
    });
    indices
        .iter()
        .filter_map(|&index| isolate.get_heap_space_statistics(index))
        .map(|space| space.space_size())
        .sum()
}

/// The guard behind a callback's data.
///
/// # Safety
/// `data` must come from [`HeapGuard::data`] of a guard that is alive.
unsafe fn guard<'a>(data: *mut c_void) -> &'a HeapGuard {
    // SAFETY: as the caller promises; only shared references to a guard are ever made.
    unsafe { &*data.cast::<HeapGuard>() }
}

unsafe extern "C" fn near_heap_limit(data: *mut c_void, current: usize, _initial: usize) -> usize {
    // SAFETY: the cell drops its guard after the isolate.
    let guard = unsafe { guard(data) };
    if guard.raised.swap(true, Ordering::Relaxed) {
        // Even the largest object was not all, and nothing could look at the isolate since.
        guard.refuse();
    } else {
        guard.probe();
    }
    current.saturating_add(LARGEST_OBJECT_BYTES)
}

unsafe extern "C" fn collected(
    isolate: v8::UnsafeRawIsolatePtr,
    kind: v8::GCType,
    flags: v8::GCCallbackFlags,
    data: *mut c_void,
) {
    // SAFETY: the cell drops its guard after the isolate.
    let guard = unsafe { guard(data) };
    guard.stale.store(true, Ordering::Relaxed);
    // The allocation that a last resort is for has not been tried again yet: it needs the raised limit.
    let last_resort = flags.0 & v8::GCCallbackFlags::kGCCallbackFlagLastResort.0 != 0;
    if kind.0 & v8::GCType::kGCTypeMarkSweepCompact.0 != 0 && !last_resort {
        // SAFETY: V8 passes the isolate that it collects, which is alive and current.
        let mut isolate = unsafe { v8::Isolate::from_raw_isolate_ptr(isolate) };
        guard.look(&mut isolate);
    }
}

unsafe extern "C" fn interrupted(isolate: v8::UnsafeRawIsolatePtr, data: *mut c_void) {
    // SAFETY: the cell drops its guard after the isolate, and requests do not outlive the isolate.
    let guard = unsafe { guard(data) };
    // SAFETY: V8 passes the isolate that it interrupts, which is alive and current.
    let mut isolate = unsafe { v8::Isolate::from_raw_isolate_ptr(isolate) };
    guard.look(&mut isolate);
}

unsafe extern "C" fn collect_interrupted(isolate: v8::UnsafeRawIsolatePtr, data: *mut c_void) {
    // SAFETY: the cell drops its guard after the isolate, and requests do not outlive the isolate.
    let guard = unsafe { guard(data) };
    // SAFETY: V8 passes the isolate that it interrupts, which is alive and current.
    let mut isolate = unsafe { v8::Isolate::from_raw_isolate_ptr(isolate) };
    isolate.memory_pressure_notification(v8::MemoryPressureLevel::Critical);
    guard.look(&mut isolate);
}
