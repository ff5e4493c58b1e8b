//! The V8 side of memory: lets a heap grow by granted steps, measures it, and ends what may not grow.
//!
//! A heap that has grown is measured by the watchdog's probes and after each collection; what is too much is collected
//! before it is refused. V8's own limit lies above the steps: near it, V8 collects five times in a row before it asks
//! for more, which took a third of the CPU time of a script that fills its heap.
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
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use deno_core::{JsRuntime, v8};

use super::ThreadClock;
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

/// The old generation up to which V8 does not ask for a higher limit, in bytes: the memory of an isolate by default. Up
/// to this V8 lets a heap grow by a third between two collections, from then on by more.
pub(super) const UNASKED_BYTES: usize = 128 << 20;

/// A heap with less room than this below what is granted has reached it, in bytes.
const FULL_BYTES: usize = 4 << 20;

/// The part of a heap that must be new for a collection to be worth its time, as a divisor.
const GARBAGE_WORTH: usize = 8;

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
    /// What the thread's CPU clock showed when the last collection began, in nanoseconds.
    collecting_since: AtomicU64,
    /// What the longest collection of an execution took by that clock, in nanoseconds.
    longest_collection: AtomicU64,
    /// The limit that has been granted.
    granted: AtomicUsize,
    /// V8's limit is above what has been granted.
    raised: AtomicBool,
    /// A collection ran since the heap was measured.
    stale: AtomicBool,
    /// What the heap held when garbage was last collected, in bytes.
    settled: AtomicUsize,
    /// V8 marks in small steps. The collection that ends them keeps what was allocated since they began.
    marking: AtomicBool,
    /// [`Self::collect_now`] is at work.
    collecting: AtomicBool,
    /// A probe has been asked for and is not over.
    probing: AtomicBool,
    /// Slices that are over; it wraps.
    slices: AtomicU32,
}

/// Whether an isolate may hold what it holds.
enum Admitted {
    Yes,
    /// Perhaps, once its garbage is collected.
    WithoutGarbage,
    No,
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
            collecting_since: AtomicU64::new(0),
            longest_collection: AtomicU64::new(0),
            granted: AtomicUsize::new(granted),
            raised: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            settled: AtomicUsize::new(0),
            marking: AtomicBool::new(false),
            collecting: AtomicBool::new(false),
            probing: AtomicBool::new(false),
            slices: AtomicU32::new(0),
        });
        let data = guard.data();
        isolate.add_near_heap_limit_callback(near_heap_limit, data);
        isolate.add_gc_prologue_callback(collecting, data, v8::GCType::kGCTypeAll);
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

    /// An execution begins, and [`Self::longest_collection`] is about it from now on.
    pub(crate) fn begin(&self) {
        self.longest_collection.store(0, Ordering::Relaxed);
    }

    /// CPU time that the longest collection since [`Self::begin`] took of the thread. Nothing can end a collection
    /// before its time.
    pub(crate) fn longest_collection(&self) -> Duration {
        Duration::from_nanos(self.longest_collection.load(Ordering::Relaxed))
    }

    /// Has the isolate measured at its next interrupt, if it executes anything. From any thread.
    pub(crate) fn probe(&self) {
        // V8 goes on with nothing else while there are interrupts, and one may take longer than the next takes to come.
        if !self.probing.swap(true, Ordering::Relaxed) {
            self.handle.request_interrupt(interrupted, self.data());
        }
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

    /// Charges what the isolate holds. Where that is too much and some of it may be garbage, it is collected first.
    pub(super) fn look(&self, isolate: &mut v8::Isolate) {
        match self.admit(isolate) {
            Admitted::Yes => {}
            Admitted::WithoutGarbage => self.collect_now(isolate),
            Admitted::No => self.settle(isolate),
        }
    }

    /// Has garbage collected, and settles what is left.
    pub(super) fn collect_now(&self, isolate: &mut v8::Isolate) {
        let begun = cpu_now();
        self.collecting.store(true, Ordering::Relaxed);
        let was_marking = self.marking.load(Ordering::Relaxed);
        isolate.memory_pressure_notification(v8::MemoryPressureLevel::Critical);
        if was_marking && !matches!(self.admit(isolate), Admitted::Yes) {
            isolate.memory_pressure_notification(v8::MemoryPressureLevel::Critical);
        }
        self.collecting.store(false, Ordering::Relaxed);
        self.longest_collection.fetch_max(cpu_now().saturating_sub(begun), Ordering::Relaxed);
        self.settle(isolate);
    }

    /// Charges what the isolate holds, garbage and all, if it may hold that.
    fn admit(&self, isolate: &mut v8::Isolate) -> Admitted {
        if self.raised.load(Ordering::Relaxed) {
            // V8 has collected before it asked.
            return Admitted::No;
        }
        let (heap, external) = self.measure(isolate);
        let code_fits = self.account.charge_code(code_bytes(isolate)).is_ok();
        if code_fits && self.account.try_charge(heap, external) && self.grant(heap).is_ok() {
            return Admitted::Yes;
        }
        match heap.saturating_sub(self.settled.load(Ordering::Relaxed)) > heap / GARBAGE_WORTH {
            true => Admitted::WithoutGarbage,
            false => Admitted::No,
        }
    }

    /// Has a heap of so many bytes granted, and more if V8 asks.
    fn grant(&self, heap: usize) -> Result<(), Refusal> {
        let mut granted = self.granted.load(Ordering::Relaxed);
        while heap + FULL_BYTES > granted {
            match self.account.next_heap_limit(granted) {
                Ok(next) => granted = next,
                // It has all that it may have, and V8 does with that.
                Err(Refusal::OwnLimit) if !self.raised.load(Ordering::Relaxed) => break,
                Err(refusal) => return Err(refusal),
            }
            self.granted.store(granted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Charges what the isolate holds beside garbage, sets the limits to what is granted, and ends what the isolate
    /// executes if it holds too much.
    pub(super) fn settle(&self, isolate: &mut v8::Isolate) {
        let (heap, external) = self.measure(isolate);
        self.settled.store(heap, Ordering::Relaxed);
        let code_kept = self.account.charge_code(code_bytes(isolate));
        let kept = self.account.charge(heap, external).and_then(|()| self.grant(heap));
        if let Err(refusal) = code_kept.and(kept) {
            self.account.refuse(refusal);
            // What is to end ends sooner with room left than with one collection after the other.
            self.handle.terminate_execution();
        } else if self.raised.swap(false, Ordering::Relaxed) {
            let limit = self.granted.load(Ordering::Relaxed).max(UNASKED_BYTES);
            isolate.remove_near_heap_limit_callback(near_heap_limit, limit);
            isolate.add_near_heap_limit_callback(near_heap_limit, self.data());
        }
    }

    /// Bytes that V8 holds for the isolate, garbage and all: committed in its heap, and outside of it.
    fn measure(&self, isolate: &mut v8::Isolate) -> (usize, usize) {
        self.stale.store(false, Ordering::Relaxed);
        let external = isolate.adjust_amount_of_external_allocated_memory(0);
        let heap = isolate.get_heap_statistics().total_heap_size();
        (heap, usize::try_from(external).unwrap_or(0))
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

/// CPU time of the calling thread, in nanoseconds.
fn cpu_now() -> u64 {
    u64::try_from(ThreadClock::OWN.now().as_nanos()).unwrap_or(u64::MAX)
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

unsafe extern "C" fn collecting(
    _isolate: v8::UnsafeRawIsolatePtr,
    kind: v8::GCType,
    _flags: v8::GCCallbackFlags,
    data: *mut c_void,
) {
    // SAFETY: the cell drops its guard after the isolate.
    let guard = unsafe { guard(data) };
    guard.collecting_since.store(cpu_now(), Ordering::Relaxed);
    if kind.0 & v8::GCType::kGCTypeIncrementalMarking.0 != 0 {
        guard.marking.store(true, Ordering::Relaxed);
    }
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
    let took = cpu_now().saturating_sub(guard.collecting_since.load(Ordering::Relaxed));
    guard.longest_collection.fetch_max(took, Ordering::Relaxed);
    if kind.0 & v8::GCType::kGCTypeMarkSweepCompact.0 == 0 {
        return;
    }
    let was_marking = guard.marking.swap(false, Ordering::Relaxed);
    // The allocation that a last resort is for has not been tried again yet: it needs the raised limit.
    let last_resort = flags.0 & v8::GCCallbackFlags::kGCCallbackFlagLastResort.0 != 0;
    if last_resort || guard.collecting.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: V8 passes the isolate that it collects, which is alive and current.
    let mut isolate = unsafe { v8::Isolate::from_raw_isolate_ptr(isolate) };
    if !was_marking {
        return guard.settle(&mut isolate);
    }
    match guard.admit(&mut isolate) {
        Admitted::Yes => {}
        Admitted::WithoutGarbage => guard.collect(),
        Admitted::No => guard.settle(&mut isolate),
    }
}

unsafe extern "C" fn interrupted(isolate: v8::UnsafeRawIsolatePtr, data: *mut c_void) {
    // SAFETY: the cell drops its guard after the isolate, and requests do not outlive the isolate.
    let guard = unsafe { guard(data) };
    // SAFETY: V8 passes the isolate that it interrupts, which is alive and current.
    let mut isolate = unsafe { v8::Isolate::from_raw_isolate_ptr(isolate) };
    guard.look(&mut isolate);
    guard.probing.store(false, Ordering::Relaxed);
}

unsafe extern "C" fn collect_interrupted(isolate: v8::UnsafeRawIsolatePtr, data: *mut c_void) {
    // SAFETY: the cell drops its guard after the isolate, and requests do not outlive the isolate.
    let guard = unsafe { guard(data) };
    // SAFETY: V8 passes the isolate that it interrupts, which is alive and current.
    let mut isolate = unsafe { v8::Isolate::from_raw_isolate_ptr(isolate) };
    guard.collect_now(&mut isolate);
}
