//! What a call touches of an instance, fetched into the processor's caches before the call begins. Of an instance that
//! rested while others ran nothing is in them, and a call would wait for its lines one after the other; asked for at once
//! they come side by side (`docs/decisions/013-what-an-isolate-costs.md`). The figures below are of the build of V8 in
//! `vendor/v8`; with another one only what is Rust's is fetched.

use std::cell::{Cell, RefCell};

use deno_core::v8;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Lines of one value of Rust's, of which every call looks at the first.
const OWN_LINES_MAX: usize = 10;
/// Calls after which the lines are found anew: objects and code move, and code is compiled again.
const CALLS_BETWEEN: u32 = 128;
/// The first call that they are found in: a worker that is called a few times never pays for it.
const FIRST_CALL: u32 = 8;

/// Where the lines of V8's `Isolate` are that a call of a handler touches, in bytes from its beginning.
const ISOLATE: [usize; 28] = [
    0x0, 0xc0, 0x100, 0x140, 0x180, 0x1c0, 0x200, 0x240, 0x2c0, 0x300, 0x340, 0x2680, 0x5240,
    0x9d80, 0xe1c0, 0xe500, 0xeb40, 0xee00, 0xef00, 0xef40, 0xefc0, 0xf080, 0xf380, 0xf3c0,
    0x101c0, 0x10200, 0x10380, 0x103c0,
];
/// Where it has pointers to what else a call touches, and which lines there, in bytes from the pointer's.
const BEHIND: [(usize, &[isize]); 7] = [
    // The heap's allocators.
    (0xe1e8, &[-0x80, -0x40, 0, 0x100, 0x180, 0x640]),
    // The context.
    (0xe960, &[0, 0x300, 0x4c0, 0x640]),
    // The queue of microtasks.
    (0xeab8, &[-0x80, -0x40, 0]),
    // What the thread has of the isolate, and the stack of entries.
    (0xef38, &[-0x40]),
    (0xefd0, &[-0x80]),
    (0x103d8, &[0]),
    // Blocks of handles.
    (0xeff0, &[0, 0x40]),
];
/// Where the isolate has the address of the table that names each function's code: 16 bytes for each, of which the first
/// eight are the code's address.
const DISPATCH_TABLE: usize = 0x2d8;
/// Where a function has its place in the table, times 256.
const DISPATCH_HANDLE: usize = 0xc;
/// Lines of code, from its beginning. V8's two optimizing compilers make about 35 and 13 of a small handler's call.
const CODE_LINES: usize = 40;

/// The lines of one instance.
#[derive(Default)]
pub(crate) struct Footprint {
    calls: Cell<u32>,
    lines: RefCell<Vec<usize>>,
    own: RefCell<Vec<usize>>,
}

impl Footprint {
    /// Fetches them.
    pub(crate) fn prefetch(&self) {
        for line in &*self.lines.borrow() {
            prefetch(*line);
        }
    }

    /// Adds a value of Rust's. It must stay where it is as long as the instance lives; otherwise something else is fetched.
    pub(crate) fn add<T>(&self, value: &T) {
        let at = std::ptr::from_ref(value).addr();
        let lines = size_of::<T>().div_ceil(LINE_BYTES).min(OWN_LINES_MAX);
        self.own.borrow_mut().extend((0..lines).map(|line| at + line * LINE_BYTES));
    }

    /// Counts a call. Whether the lines are to be found anew.
    pub(super) fn is_due(&self) -> bool {
        let calls = self.calls.get().wrapping_add(1);
        self.calls.set(calls);
        calls % CALLS_BETWEEN == FIRST_CALL
    }

    /// Finds the lines anew, for calls of a function.
    pub(super) fn find(
        &self,
        isolate: &mut v8::Isolate,
        context: &v8::Global<v8::Context>,
        function: &v8::Global<v8::Function>,
    ) {
        let mut lines = self.own.borrow().clone();
        if cfg!(v8_layout_known) {
            lines_of_v8(isolate, context, function, &mut lines);
        }
        lines.iter_mut().for_each(|line| *line -= *line % LINE_BYTES);
        lines.sort_unstable();
        lines.dedup();
        lines.shrink_to_fit();
        self.lines.replace(lines);
    }
}

/// Adds what is V8's.
fn lines_of_v8(
    isolate: &mut v8::Isolate,
    context: &v8::Global<v8::Context>,
    function: &v8::Global<v8::Function>,
    lines: &mut Vec<usize>,
) {
    // A global handle is the address of a slot, which holds the object's address and a one.
    let slot = std::ptr::from_ref(function.open(isolate)).cast::<usize>();
    lines.extend([slot.addr(), std::ptr::from_ref(context.open(isolate)).addr()]);
    // SAFETY: the handle is alive, and so is its slot.
    let function = unsafe { slot.read() } - 1;
    lines.extend([function, function + LINE_BYTES / 2]);
    // SAFETY: the pointer is only read through, below, while the isolate is borrowed.
    let raw = unsafe { isolate.as_raw_isolate_ptr() };
    // SAFETY: it is a transparent wrapper of a pointer.
    let isolate = unsafe { std::mem::transmute::<v8::UnsafeRawIsolatePtr, *const u8>(raw) };
    // SAFETY: all offsets lie within the isolate of this build; what is read there becomes an address to prefetch.
    let word = |offset: usize| unsafe { isolate.add(offset).cast::<usize>().read() };
    lines.extend(ISOLATE.map(|offset| isolate.addr() + offset));
    for (pointer, offsets) in BEHIND {
        let at = word(pointer);
        lines.extend(offsets.iter().map(|offset| at.wrapping_add_signed(*offset)));
    }
    // SAFETY: a function is an object of 32 bytes, in this build with its place in the table there.
    let handle = unsafe { ((function + DISPATCH_HANDLE) as *const u32).read() };
    let entry = word(DISPATCH_TABLE).wrapping_add((handle as usize >> 8) * 16);
    // SAFETY: every function has an entry in this build's table, which is never unmapped.
    let code = unsafe { (entry as *const usize).read() };
    lines.push(entry);
    lines.extend((0..CODE_LINES).map(|line| code.wrapping_add(line * LINE_BYTES)));
}

/// Asks for a line. Whatever the address is: nothing is read, and nothing fails.
fn prefetch(line: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is a hint without effect on any value (Intel SDM, PREFETCHh).
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(line));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use deno_core::{JsRuntime, RuntimeOptions, scope};

    use super::*;

    /// The process's mappings: from, to, what is allowed.
    fn mappings() -> Vec<(usize, usize, String)> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mapping = |line: &str| {
            let (range, rest) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let address = |text| usize::from_str_radix(text, 16).ok();
            Some((address(from)?, address(to)?, rest.split(' ').next()?.to_owned()))
        };
        maps.lines().filter_map(mapping).collect()
    }

    #[test]
    fn the_layout_is_that_of_this_build() {
        if cfg!(not(v8_layout_known)) {
            println!("skipped: another V8 is linked");
            return;
        }
        let mut runtime = JsRuntime::new(RuntimeOptions::default());
        let function = runtime.execute_script("a.js", "(function () { return 1 })").unwrap();
        scope!(scope, &mut runtime);
        let function: v8::Local<'_, v8::Function> =
            v8::Local::new(scope, function).try_into().unwrap();
        let context = scope.get_current_context();
        let (context, function) =
            (v8::Global::new(scope, context), v8::Global::new(scope, function));
        let mut lines = Vec::new();
        lines_of_v8(scope, &context, &function, &mut lines);
        let mappings = mappings();
        let allowed = |line: usize| {
            let mapping = mappings.iter().find(|(from, to, _)| (*from..*to).contains(&line));
            mapping.map(|(_, _, allowed)| allowed.as_str())
        };
        let (data, code) = lines.split_at(lines.len() - CODE_LINES);
        for (index, line) in data.iter().enumerate() {
            assert!(allowed(*line).is_some_and(|allowed| allowed.starts_with("rw")), "{index}");
        }
        let allowed = allowed(code[0]);
        assert!(allowed.is_some_and(|allowed| allowed.contains('x')), "{allowed:?}");
    }
}
