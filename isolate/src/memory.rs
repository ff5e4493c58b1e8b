//! Memory: what a process may hold in all its isolates together, and what each isolate holds of it. Numbers
//! only; the V8 side stands in `boundary/heap.rs` and `boundary/allocator.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::outcome::Outcome;

/// What an isolate costs outside of its heap, buffers and linear memories, in bytes: V8's tables and stacks,
/// the ops' state. Measured: private memory of an idle isolate less what V8 reports.
pub(crate) const OVERHEAD_BYTES: usize = 640 << 10;

/// What an isolate holds once a small script has started in it, in bytes.
const STARTED_BYTES: usize = 2 << 20;

/// The heap that every isolate is granted from the start, in bytes. More is granted step by step.
pub(crate) const HEAP_START_BYTES: usize = 16 << 20;

/// The least that a heap grows by in one step, in bytes. From then on each step is half of what it has.
const HEAP_STEP_BYTES: usize = 16 << 20;

/// The part of a budget, in percent, past which it counts as pressed and no heap is granted a step. The rest
/// is for isolates within their first step, so that one tenant's growth does not end small neighbours.
const PRESSED_PERCENT: usize = 85;

/// The default for all JS heaps of a process, in bytes. They share a cage of 4 GiB; the rest of it is room
/// for what an isolate holds for a moment while it is being ended (one array or string of up to a gibibyte),
/// for V8's pool of free pages and for fragmentation.
const HEAP_BYTES_MAX: usize = 2_560 << 20;

/// The default for all memory of a process, in bytes.
const MEMORY_BYTES_MAX: usize = 8 << 30;

/// Compiled code of all isolates of a process, in bytes. It lies in a range of [`CODE_RANGE_BYTES`], and V8
/// aborts where there is none left of it. The rest is for code that is made between two measurements, for
/// V8's builtins and for fragmentation.
const CODE_BYTES_MAX: usize = 464 << 20;

/// Address space for compiled code, in bytes: the most that V8 takes; by default it takes a quarter of it.
pub(crate) const CODE_RANGE_BYTES: usize = 512 << 20;

/// Compiled code that an isolate may soon have, in bytes. With any it holds a page of 256 KiB.
const CODE_STARTED_BYTES: usize = 512 << 10;

/// One counted resource with its limit.
struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes what there is room for.
    fn take(&self, bytes: usize) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.max)
        });
        taken.is_ok()
    }

    /// Counts what is there already, room or not.
    fn note(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn high_water(&self) -> usize {
        self.max / 100 * PRESSED_PERCENT
    }
}

struct Budgets {
    heap: Budget,
    all: Budget,
    /// A part of `heap` that has an address range of its own.
    code: Budget,
}

/// What all isolates of a process hold together, and may. Cheap to clone.
///
/// A budget is kept by measuring, so it may be passed by a little for a moment: by one step of growth for
/// each isolate thread.
#[derive(Clone)]
pub struct Memory(Arc<Budgets>);

impl Memory {
    pub(crate) fn new(heap_bytes_max: usize, memory_bytes_max: usize) -> Self {
        Self(Arc::new(Budgets {
            heap: Budget::new(heap_bytes_max),
            all: Budget::new(memory_bytes_max),
            code: Budget::new(CODE_BYTES_MAX),
        }))
    }

    /// Bytes that isolates hold: heaps, buffers, linear memories and the fixed cost of each.
    pub fn used(&self) -> usize {
        self.0.all.used()
    }

    /// The most that they may hold.
    pub fn max(&self) -> usize {
        self.0.all.max
    }

    /// Bytes that their JS heaps hold, which share one cage.
    pub fn heap_used(&self) -> usize {
        self.0.heap.used()
    }

    /// The most that their JS heaps may hold.
    pub fn heap_max(&self) -> usize {
        self.0.heap.max
    }

    /// Bytes that compiled code holds of their heaps, which has a range of addresses to itself.
    pub fn code_used(&self) -> usize {
        self.0.code.used()
    }

    /// The most that compiled code may hold.
    pub fn code_max(&self) -> usize {
        self.0.code.max
    }

    /// Whether any budget is nearly used up, so that idle instances should go.
    pub fn pressed(&self) -> bool {
        !self.has_room(0) || self.0.code.used() > self.0.code.high_water()
    }

    /// Whether there is room for one more isolate of so many bytes.
    pub fn fits(&self, bytes: usize) -> bool {
        let Budgets { heap, all, code } = &*self.0;
        [(heap, bytes), (all, bytes), (code, CODE_STARTED_BYTES)]
            .iter()
            .all(|(budget, more)| budget.used().saturating_add(*more) <= budget.max)
    }

    /// Whether there is room for one more isolate.
    pub(crate) fn takes_another(&self) -> bool {
        self.fits(STARTED_BYTES)
    }

    /// Whether a step of this many heap bytes stays below the high-water marks.
    fn has_room(&self, bytes: usize) -> bool {
        [&self.0.heap, &self.0.all]
            .iter()
            .all(|budget| budget.used().saturating_add(bytes) <= budget.high_water())
    }
}

/// The defaults of a process's budgets, in bytes: `(heaps, all)`.
pub(crate) const fn defaults() -> (usize, usize) {
    (HEAP_BYTES_MAX, MEMORY_BYTES_MAX)
}

/// What one instance holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceMemory {
    /// Committed pages of the JS heap, as last measured.
    pub heap: usize,
    /// `ArrayBuffer` contents.
    pub buffers: usize,
    /// WebAssembly memories, and buffers that were made outside of the isolate, as last measured.
    pub wasm: usize,
    /// The fixed cost of an isolate.
    pub overhead: usize,
}

impl InstanceMemory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.heap + self.buffers + self.wasm + self.overhead
    }
}

/// Why an isolate gets no more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It holds all that it may.
    OwnLimit,
    /// The process has no more to give.
    Budget,
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::OwnLimit => Self::ExceededMemory,
            Refusal::Budget => Self::Overloaded,
        }
    }
}

const NOT_REFUSED: u8 = 0;
const REFUSED_OWN_LIMIT: u8 = 1;
const REFUSED_BUDGET: u8 = 2;

/// What one isolate holds and may hold. Buffers are counted as they come and go, from any thread; heap and
/// linear memories when they are measured, on the isolate's own thread.
pub(crate) struct MemoryAccount {
    memory: Memory,
    max: AtomicUsize,
    heap: AtomicUsize,
    code: AtomicUsize,
    buffers: AtomicUsize,
    wasm: AtomicUsize,
    refused: AtomicU8,
}

impl MemoryAccount {
    /// Opens an account for an isolate about to be made, which is charged its fixed cost from now on.
    pub(crate) fn open(memory: &Memory) -> Arc<Self> {
        memory.0.all.note(OVERHEAD_BYTES);
        Arc::new(Self {
            memory: memory.clone(),
            max: AtomicUsize::new(usize::MAX),
            heap: AtomicUsize::new(0),
            code: AtomicUsize::new(0),
            buffers: AtomicUsize::new(0),
            wasm: AtomicUsize::new(0),
            refused: AtomicU8::new(NOT_REFUSED),
        })
    }

    /// Sets what heap, buffers and linear memories together may hold.
    pub(crate) fn limit(&self, bytes_max: usize) {
        self.max.store(bytes_max, Ordering::Relaxed);
    }

    /// Why the isolate was refused memory that its heap needs; it is of no use any more then.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self.refused.load(Ordering::Relaxed) {
            NOT_REFUSED => None,
            REFUSED_OWN_LIMIT => Some(Refusal::OwnLimit),
            _ => Some(Refusal::Budget),
        }
    }

    /// Notes that the isolate may not go on. The first refusal stands.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Refusal {
        let code = match refusal {
            Refusal::OwnLimit => REFUSED_OWN_LIMIT,
            Refusal::Budget => REFUSED_BUDGET,
        };
        let relaxed = Ordering::Relaxed;
        // An earlier refusal is the one that counts.
        let _ = self.refused.compare_exchange(NOT_REFUSED, code, relaxed, relaxed);
        refusal
    }

    pub(crate) fn held(&self) -> InstanceMemory {
        InstanceMemory {
            heap: self.heap.load(Ordering::Relaxed),
            buffers: self.buffers.load(Ordering::Relaxed),
            wasm: self.wasm.load(Ordering::Relaxed),
            overhead: OVERHEAD_BYTES,
        }
    }

    /// Heap, buffers and linear memories: what the isolate's limit is about.
    fn limited(&self) -> usize {
        self.held().total() - OVERHEAD_BYTES
    }

    /// Asks for room for a buffer.
    pub(crate) fn take_buffer(&self, bytes: usize) -> bool {
        let others = self.heap.load(Ordering::Relaxed) + self.wasm.load(Ordering::Relaxed);
        let max = self.max.load(Ordering::Relaxed).saturating_sub(others);
        let taken = self.buffers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= max)
        });
        if taken.is_err() {
            return false;
        }
        if self.memory.0.all.take(bytes) {
            return true;
        }
        self.buffers.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    /// A buffer is gone.
    pub(crate) fn give_buffer(&self, bytes: usize) {
        self.buffers.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.0.all.give(bytes);
    }

    /// Charges what was measured: the heap's committed bytes, and all bytes outside of it that V8 knows of.
    ///
    /// # Errors
    /// When that is more than the isolate or the process may hold. It is charged all the same, being there.
    pub(crate) fn charge(&self, heap: usize, external: usize) -> Result<(), Refusal> {
        let wasm = external.saturating_sub(self.buffers.load(Ordering::Relaxed));
        let budgets = &self.memory.0;
        let heap_before = self.heap.swap(heap, Ordering::Relaxed);
        let wasm_before = self.wasm.swap(wasm, Ordering::Relaxed);
        let fits = recharge(&budgets.heap, heap_before, heap)
            & recharge(&budgets.all, heap_before + wasm_before, heap + wasm);
        if self.limited() > self.max.load(Ordering::Relaxed) {
            return Err(Refusal::OwnLimit);
        }
        if fits { Ok(()) } else { Err(Refusal::Budget) }
    }

    /// Charges what was measured, as [`Self::charge`] does, unless it is too much: then it stays to be charged when what
    /// of it is garbage is gone. Says whether it is charged.
    pub(crate) fn try_charge(&self, heap: usize, external: usize) -> bool {
        let before = self.held();
        let charged = self.charge(heap, external).is_ok();
        if !charged {
            // Less than now always fits.
            let _ = self.charge(before.heap, before.wasm + self.buffers.load(Ordering::Relaxed));
        }
        charged
    }

    /// Charges the part of the heap that compiled code holds, as measured.
    ///
    /// # Errors
    /// When that is more than the process may hold. It is charged all the same, being there.
    pub(crate) fn charge_code(&self, code: usize) -> Result<(), Refusal> {
        let before = self.code.swap(code, Ordering::Relaxed);
        if recharge(&self.memory.0.code, before, code) {
            Ok(())
        } else {
            Err(self.refuse(Refusal::Budget))
        }
    }

    /// The size that a heap which has reached its limit of `current` bytes may grow to. Charge what is measured
    /// first.
    ///
    /// # Errors
    /// When it may not grow at all.
    pub(crate) fn next_heap_limit(&self, current: usize) -> Result<usize, Refusal> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let held = self.held();
        let max = self.max.load(Ordering::Relaxed).saturating_sub(held.buffers + held.wasm);
        let step = HEAP_STEP_BYTES.max(current / 2);
        let next = current.saturating_add(step).min(max);
        if next <= current {
            return Err(Refusal::OwnLimit);
        }
        if !self.memory.has_room(next - current) {
            return Err(Refusal::Budget);
        }
        Ok(next)
    }

    /// The isolate is gone. Buffers that outlive it are given back one by one.
    pub(crate) fn close(&self) {
        let heap = self.heap.swap(0, Ordering::Relaxed);
        let wasm = self.wasm.swap(0, Ordering::Relaxed);
        self.memory.0.heap.give(heap);
        self.memory.0.code.give(self.code.swap(0, Ordering::Relaxed));
        self.memory.0.all.give(heap + wasm + OVERHEAD_BYTES);
    }
}

/// Replaces a charge by another. Says whether the difference was within the budget.
fn recharge(budget: &Budget, before: usize, after: usize) -> bool {
    if after <= before {
        budget.give(before - after);
        return true;
    }
    let fits = budget.take(after - before);
    if !fits {
        budget.note(after - before);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_charged_is_given_back() {
        let memory = Memory::new(100 * MIB, 200 * MIB);
        let account = MemoryAccount::open(&memory);
        account.limit(64 * MIB);
        assert_eq!(account.charge(10 * MIB, 0), Ok(()));
        assert!(account.take_buffer(20 * MIB));
        assert_eq!(account.charge(12 * MIB, 25 * MIB), Ok(()));
        let expected = InstanceMemory {
            heap: 12 * MIB,
            buffers: 20 * MIB,
            wasm: 5 * MIB,
            overhead: OVERHEAD_BYTES,
        };
        assert_eq!(account.held(), expected);
        assert_eq!((memory.heap_used(), memory.used()), (12 * MIB, expected.total()));
        account.close();
        assert_eq!((memory.heap_used(), memory.used()), (0, 20 * MIB));
        account.give_buffer(20 * MIB);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn heap_buffers_and_linear_memory_share_one_limit() {
        let memory = Memory::new(100 * MIB, 200 * MIB);
        let account = MemoryAccount::open(&memory);
        account.limit(64 * MIB);
        assert_eq!(account.charge(40 * MIB, 0), Ok(()));
        assert!(!account.take_buffer(25 * MIB));
        assert!(account.take_buffer(20 * MIB));
        assert_eq!(account.refusal(), None);
        assert_eq!(account.next_heap_limit(44 * MIB), Err(Refusal::OwnLimit));
        let other = MemoryAccount::open(&memory);
        other.limit(64 * MIB);
        assert_eq!(other.charge(10 * MIB, 60 * MIB), Err(Refusal::OwnLimit));
    }

    #[test]
    fn steps_are_refused_before_small_heaps_are() {
        let memory = Memory::new(100 * MIB, 200 * MIB);
        let large = MemoryAccount::open(&memory);
        assert_eq!(large.charge(80 * MIB, 0), Ok(()));
        assert!(!memory.pressed());
        assert_eq!(large.next_heap_limit(80 * MIB), Err(Refusal::Budget));
        let small = MemoryAccount::open(&memory);
        assert_eq!(small.charge(10 * MIB, 0), Ok(()));
        assert!(memory.pressed());
        assert_eq!(small.charge(30 * MIB, 0), Err(Refusal::Budget));
        small.close();
        assert_eq!(memory.heap_used(), 80 * MIB);
    }

    #[test]
    fn what_may_be_garbage_is_not_charged_beyond_a_limit() {
        let memory = Memory::new(100 * MIB, 200 * MIB);
        let (first, second) = (MemoryAccount::open(&memory), MemoryAccount::open(&memory));
        assert!(first.try_charge(60 * MIB, 0) && second.try_charge(30 * MIB, 20 * MIB));
        assert!(!second.try_charge(50 * MIB, 30 * MIB));
        assert_eq!((second.held().heap, second.held().wasm), (30 * MIB, 20 * MIB));
        assert_eq!(memory.heap_used(), 90 * MIB);
        assert_eq!(second.charge(50 * MIB, 0), Err(Refusal::Budget));
        assert_eq!(memory.heap_used(), 110 * MIB);
        first.limit(64 * MIB);
        assert!(!first.try_charge(65 * MIB, 0) && first.try_charge(40 * MIB, 0));
    }

    #[test]
    fn code_is_refused_when_its_range_is_full() {
        let memory = Memory::new(1 << 40, 1 << 40);
        let many = MemoryAccount::open(&memory);
        assert_eq!(many.charge_code(CODE_BYTES_MAX - CODE_STARTED_BYTES), Ok(()));
        assert!(memory.pressed() && memory.takes_another());
        let last = MemoryAccount::open(&memory);
        assert_eq!(last.charge_code(CODE_STARTED_BYTES), Ok(()));
        assert!(!memory.takes_another());
        assert_eq!(last.charge_code(CODE_STARTED_BYTES + 1), Err(Refusal::Budget));
        many.close();
        assert!(!memory.pressed());
        last.close();
        assert_eq!(memory.code_used(), 0);
    }

    #[test]
    fn the_first_refusal_stands() {
        let memory = Memory::new(10 * MIB, 10 * MIB);
        let account = MemoryAccount::open(&memory);
        assert_eq!(account.charge(20 * MIB, 0), Err(Refusal::Budget));
        assert_eq!(account.refusal(), None);
        account.refuse(Refusal::Budget);
        account.limit(MIB);
        assert_eq!(account.charge(20 * MIB, 0), Err(Refusal::OwnLimit));
        account.refuse(Refusal::OwnLimit);
        assert_eq!(account.next_heap_limit(20 * MIB), Err(Refusal::Budget));
        assert_eq!(Outcome::from(Refusal::Budget), Outcome::Overloaded);
    }
}
