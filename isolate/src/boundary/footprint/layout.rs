//! Where the V8 of `vendor/v8` has what a call of a handler touches: found by stepping through calls of several workers and
//! taking the lines that no other worker's call touched (`docs/decisions/013-what-an-isolate-costs.md`).

use deno_core::v8;

use super::LINE_BYTES;

/// Where the lines of V8's `Isolate` are that a call of a handler touches, in bytes from its beginning.
const ISOLATE: [usize; 28] = [
    0x0, 0xc0, 0x100, 0x140, 0x180, 0x1c0, 0x200, 0x240, 0x2c0, 0x300, 0x340, 0x2680, 0x5240,
    0x9d80, 0xe1c0, 0xe500, 0xeb40, 0xee00, 0xef00, 0xef40, 0xefc0, 0xf080, 0xf380, 0xf3c0,
    0x101c0, 0x10200, 0x10380, 0x103c0,
];
/// Where it has pointers to what else a call touches, and which lines there, in bytes from the pointer's.
const BEHIND: [(usize, &[isize]); 9] = [
    // The names of what is called.
    (0x5238, &[0]),
    // The heap's allocators.
    (0xe1e8, &[-0x80, -0x40, 0, 0x100, 0x180, 0x640]),
    // The context.
    (0xe960, &[-0x180, 0, 0x300, 0x4c0, 0x640]),
    // The queue of microtasks.
    (0xeab8, &[-0xc0, -0x80, -0x40, 0]),
    // What the thread has of the isolate, and the stack of entries.
    (0xef38, &[-0x40]),
    (0xef50, &[0xd28]),
    (0xefd0, &[-0x80]),
    (0x103d8, &[0]),
    (SCOPES, &[0, 0x40]),
];
/// Where it has what it keeps of scopes, which has pointers itself: to its lists of blocks and of contexts.
const SCOPES: usize = 0xeff0;
const LISTS: [usize; 3] = [0x8, 0x20, 0x38];
/// Where it has the address at which the next object is made, and how many lines a call makes objects in.
const TOP: usize = 0xd0;
pub(super) const TOP_LINES: usize = 6;
/// Bytes of a page of the heap. Its first line is looked at when something is stored in an object of the page.
pub(super) const PAGE_BYTES: usize = 1 << 18;
/// Where the isolate has the address of the table that names each function's code.
const DISPATCH_TABLE: usize = 0x2d8;
/// Entries of the table that belong to one isolate together.
const DISPATCH_SEGMENT: u32 = 1 << 12;
/// Where a function has its place in the table, times 256, and the addresses of what it shares with its like, of its
/// context and its feedback: the lower half of each.
const DISPATCH_HANDLE: usize = 0xc;
const FUNCTION_PARTS: [usize; 3] = [0x10, 0x14, 0x18];
/// Where the description of a piece of code has its address, and its length in bytes.
const CODE_START: usize = 0x14;
const CODE_BYTES: usize = 0x24;
/// What lies in the heap's first bytes belongs to the process: V8's own code is described there.
const SHARED_HEAP_BYTES: usize = 1 << 24;
/// Pieces of code that a call is followed into, and bytes of all together.
const PIECES_MAX: usize = 12;
const CODE_BYTES_MAX: usize = 12 << 10;
/// How the processor's code compares 32 bits of memory with a constant, and where an object has its map, from its address.
const CMP: u8 = 0x81;
const OFFSET_OF_MAP: u8 = 0xff;
/// Objects that code names lie so near to the function, in bytes, or are none.
const NEAR_BYTES: usize = 4 << 20;

/// An isolate of the V8 that is laid out so.
pub(super) struct Known(*const u8);

impl Known {
    pub(super) fn of(isolate: &v8::Isolate) -> Self {
        // SAFETY: the pointer is only read through, below, while the isolate is borrowed.
        let raw = unsafe { isolate.as_raw_isolate_ptr() };
        // SAFETY: a raw isolate pointer is one, and nothing else.
        Self(unsafe { std::mem::transmute::<v8::UnsafeRawIsolatePtr, *const u8>(raw) })
    }

    fn word(&self, offset: usize) -> usize {
        // SAFETY: all offsets lie within the isolate of this build.
        unsafe { self.0.add(offset).cast::<usize>().read() }
    }

    /// Where the next object is made.
    pub(super) fn top(&self) -> usize {
        self.word(TOP)
    }

    /// Adds what a call of a function touches.
    pub(super) fn add_lines(&self, function: usize, lines: &mut Vec<usize>) {
        lines.extend(ISOLATE.map(|offset| self.0.addr() + offset));
        for (pointer, offsets) in BEHIND {
            let at = self.word(pointer);
            lines.extend(offsets.iter().map(|offset| at.wrapping_add_signed(*offset)));
        }
        // SAFETY: an isolate that was entered has these lists.
        let lists =
            LISTS.map(|list| unsafe { ((self.word(SCOPES) + list) as *const usize).read() });
        // SAFETY: where a scope is open, the first of the blocks is in use.
        let block = unsafe { (lists[0] as *const usize).read() };
        lines.extend(lists.into_iter().chain([block, block + LINE_BYTES]));
        // SAFETY: a function is an object of 32 bytes, with 32 bits of an address at each of these.
        let half = |offset: usize| unsafe { ((function + offset) as *const u32).read() };
        let cage = function & !(u32::MAX as usize);
        lines.extend([function, function + LINE_BYTES / 2]);
        let parts = FUNCTION_PARTS.map(|offset| cage | half(offset) as usize);
        let map = cage | half(0) as usize;
        lines.extend(parts.into_iter().chain([map]));
        self.add_code(function, half(DISPATCH_HANDLE), lines);
    }

    /// Adds the code of a function, that of the functions which it names, and the objects.
    fn add_code(&self, function: usize, handle: u32, lines: &mut Vec<usize>) {
        let cage = function & !(u32::MAX as usize);
        let segment = |handle: u32| (handle >> 8) / DISPATCH_SEGMENT;
        let (mut handles, mut next) = (vec![handle], 0);
        let mut room = CODE_BYTES_MAX;
        while let Some(handle) = handles.get(next).copied() {
            next += 1;
            let entry = self.word(DISPATCH_TABLE) + (handle as usize >> 8) * 16;
            // SAFETY: the isolate uses one entry of the segment, and a segment is there as a whole.
            let [_, description] = unsafe { (entry as *const [usize; 2]).read() };
            // The lowest bit of the address is the collector's mark.
            let description = description >> 16 & !1;
            if description.wrapping_sub(cage) > u32::MAX as usize
                || description - cage < SHARED_HEAP_BYTES
            {
                continue;
            }
            // SAFETY: a function with code that is not V8's own has its description, which lives as long as the entry.
            let code = unsafe { ((description + CODE_START) as *const usize).read_unaligned() };
            // SAFETY: the same.
            let bytes = unsafe { ((description + CODE_BYTES) as *const u32).read() } as usize;
            let bytes = bytes.min(room);
            room -= bytes;
            lines.push(entry);
            lines.extend((code..code + bytes).step_by(LINE_BYTES));
            // SAFETY: the code is as long and can be read, and nothing runs that could replace it.
            let code = unsafe { std::slice::from_raw_parts(code as *const u8, bytes) };
            for &[opcode, _, offset, a, b, c, d] in code.array_windows() {
                let named = u32::from_le_bytes([a, b, c, d]);
                let object = cage | named as usize;
                // What a comparison of an object's map names is not looked at.
                let is_compared = opcode == CMP && offset == OFFSET_OF_MAP;
                if named & 3 == 1 && !is_compared && object.abs_diff(function) < NEAR_BYTES {
                    lines.push(object);
                } else if named & 0xff == 0
                    && segment(named) == segment(handle)
                    && handles.len() < PIECES_MAX
                    && !handles.contains(&named)
                {
                    handles.push(named);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use deno_core::{JsRuntime, RuntimeOptions, scope};

    use super::*;

    /// Rounds after which V8 has compiled what is called again and again.
    const ROUNDS_MAX: u32 = 2_000;

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

    /// The lines of calls of a function, and of them those of code and those that nothing is at.
    fn lines_of(
        scope: &mut v8::PinScope<'_, '_>,
        function: v8::Local<'_, v8::Function>,
    ) -> [Vec<usize>; 3] {
        let function = v8::Global::new(scope, function);
        let slot = std::ptr::from_ref(function.open(scope)).cast::<usize>();
        let mut lines = Vec::new();
        // SAFETY: the handle is alive, and so is its slot.
        Known::of(scope).add_lines(unsafe { slot.read() } - 1, &mut lines);
        let mappings = mappings();
        let allowed = |line: &usize| {
            let mapping = mappings.iter().find(|(from, to, _)| (from..to).contains(&line));
            mapping.map_or("nothing", |(_, _, allowed)| allowed.as_str())
        };
        let such = |is: fn(&str) -> bool| {
            lines.iter().filter(|line| is(allowed(line))).copied().collect::<Vec<_>>()
        };
        let (code, nowhere) =
            (such(|allowed| allowed.contains('x')), such(|allowed| !allowed.starts_with('r')));
        [lines, code, nowhere]
    }

    #[test]
    fn the_layout_is_that_of_this_build() {
        if cfg!(not(v8_layout_known)) {
            println!("skipped: another V8 is linked");
            return;
        }
        let mut runtime = JsRuntime::new(RuntimeOptions::default());
        // Too long to become a part of what calls it.
        let sums = "sum += values[sum & 7] * 3; ".repeat(200);
        let source = format!(
            "const values = [1, 2, 3, 4, 5, 6, 7, 8];
             const inner = (sum) => {{ {sums} return sum & 1023; }};
             const outer = (sum) => inner(sum) + values.length;
             [outer, inner]"
        );
        let pair = runtime.execute_script("a.js", source).unwrap();
        scope!(scope, &mut runtime);
        let pair: v8::Local<'_, v8::Array> = v8::Local::new(scope, pair).try_into().unwrap();
        let function = |scope: &mut v8::PinScope<'_, '_>, index| {
            v8::Global::new(scope, pair.get_index(scope, index).unwrap().cast::<v8::Function>())
        };
        let [outer, inner] = [function(scope, 0), function(scope, 1)];
        let outer = v8::Local::new(scope, outer);
        let inner = v8::Local::new(scope, inner);
        let [interpreted, code, nowhere] = lines_of(scope, outer);
        assert!(interpreted.len() > ISOLATE.len());
        // V8's own code, which interprets it, belongs to nobody.
        assert_eq!([code, nowhere], [const { Vec::<usize>::new() }; 2]);
        let undefined = v8::undefined(scope).into();
        for _ in 0..ROUNDS_MAX {
            for sum in 0..200 {
                let sum = v8::Integer::new(scope, sum).into();
                outer.call(scope, undefined, &[sum]).unwrap();
            }
            let [_, called, _] = lines_of(scope, inner);
            // What code names may be a number that looks like an object.
            let [_, all, _] = lines_of(scope, outer);
            if !called.is_empty() && called.iter().all(|line| all.contains(line)) {
                assert!(all.len() > called.len(), "the caller has code as well");
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("V8 compiled nothing, or its code was not found");
    }
}
