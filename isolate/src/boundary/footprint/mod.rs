//! What a call touches of an instance, fetched into the processor's caches before the call begins. Of an instance that
//! rested while others ran nothing is in them, and a call would wait for its lines one after the other; asked for at once
//! they come side by side (`docs/decisions/013-what-an-isolate-costs.md`). Of V8 it is known for
//! the build in `vendor/v8` (`layout`); with another one only what is Rust's is fetched.

mod layout;

use std::cell::{Cell, RefCell};
use std::iter;

use deno_core::v8;
use smallvec::SmallVec;

use layout::{PAGE_BYTES, TOP_LINES};

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Bytes of one value of Rust's, of which every call looks at the first.
const VALUE_BYTES_MAX: usize = 16 * LINE_BYTES;
/// Blocks that lie beside what else is known of a footprint. A small handler's call has about sixty.
const BLOCKS_INLINE: usize = 64;
/// Calls after which the lines are found anew: objects and code move, and code is compiled again.
const CALLS_BETWEEN: u32 = 128;
/// The first call that they are found in: a worker that is called a few times never pays for it.
const FIRST_CALL: u32 = 8;

/// What the calls of one instance touch.
#[derive(Debug, Default)]
pub struct Footprint {
    calls: Cell<u32>,
    /// It was fetched for a call that has not begun.
    fetched: Cell<bool>,
    /// Where the next object is made; zero where that is not known.
    top: Cell<usize>,
    blocks: RefCell<SmallVec<[Block; BLOCKS_INLINE]>>,
    own: RefCell<Places>,
    way: RefCell<Places>,
}

impl Footprint {
    /// Has the processor fetch it, for a call that is about to come. Costs nothing the second time.
    pub fn prefetch(&self) {
        if self.fetched.replace(true) {
            return;
        }
        self.blocks.borrow().iter().for_each(|block| block.prefetch());
        let top = self.top.get();
        if top != 0 {
            prefetch(top & !(PAGE_BYTES - 1));
            (0..TOP_LINES).for_each(|line| prefetch(top + line * LINE_BYTES));
        }
    }

    /// Whether the next call finds it anew, so that this is the time to say what is touched before.
    pub fn is_due(&self) -> bool {
        self.calls.get().wrapping_add(1) % CALLS_BETWEEN == FIRST_CALL
    }

    /// Says what is touched on the way to the instance, in place of what was said before.
    pub fn set_way(&self, way: Places) {
        self.way.replace(way);
    }

    /// Adds a value of Rust's. It must stay where it is as long as the instance lives; otherwise something else is fetched.
    pub(crate) fn add<T>(&self, value: &T) {
        self.own.borrow_mut().value(value);
    }

    /// A call begins.
    pub(super) fn begin_call(&self) {
        self.fetched.set(false);
    }

    /// Notes a call of a function that has just ended. Every so many calls the lines are found anew.
    pub(super) fn end_call(
        &self,
        isolate: &mut v8::Isolate,
        context: &v8::Global<v8::Context>,
        function: &v8::Global<v8::Function>,
    ) {
        let known = cfg!(v8_layout_known).then(|| layout::Known::of(isolate));
        self.top.set(known.as_ref().map_or(0, layout::Known::top));
        let is_due = self.is_due();
        self.calls.set(self.calls.get().wrapping_add(1));
        if !is_due {
            return;
        }
        let mut lines = self.own.borrow().0.clone();
        // A global handle is the address of a slot, which holds the object's address and a one.
        let slot = std::ptr::from_ref(function.open(isolate)).cast::<usize>();
        lines.extend([slot.addr(), std::ptr::from_ref(context.open(isolate)).addr()]);
        if let Some(known) = known {
            // SAFETY: the handle is alive, and so is its slot.
            known.add_lines(unsafe { slot.read() } - 1, &mut lines);
        }
        // What is touched first comes first.
        let blocks = Block::of(self.way.borrow().0.clone()).chain(Block::of(lines));
        self.blocks.replace(blocks.collect());
    }
}

/// Addresses of what a call touches.
#[derive(Debug, Default)]
pub struct Places(Vec<usize>);

impl Places {
    /// A value, as far as its first lines go.
    pub fn value<T: ?Sized>(&mut self, value: &T) {
        let at = std::ptr::from_ref(value).cast::<u8>().addr();
        let bytes = size_of_val(value).clamp(1, VALUE_BYTES_MAX);
        self.0.extend((at..at + bytes).step_by(LINE_BYTES).chain([at + bytes - 1]));
    }

    /// What lies at an address.
    pub fn address(&mut self, at: *const u8) {
        self.0.push(at.addr());
    }
}

/// Lines of one kilobyte: its address, and in the lower 16 bits one for each line.
#[derive(Clone, Copy, Debug)]
struct Block(usize);

impl Block {
    const BYTES: usize = 16 * LINE_BYTES;

    /// The blocks that addresses lie in.
    fn of(mut addresses: Vec<usize>) -> impl Iterator<Item = Self> {
        addresses.sort_unstable();
        let mut addresses = addresses.into_iter().peekable();
        iter::from_fn(move || {
            let first = addresses.next()?;
            let bit = |at: usize| 1 << (at % Self::BYTES / LINE_BYTES);
            let mut bits = bit(first);
            while let Some(next) =
                addresses.next_if(|next| next / Self::BYTES == first / Self::BYTES)
            {
                bits |= bit(next);
            }
            Some(Self((first / Self::BYTES) << 16 | bits))
        })
    }

    fn prefetch(self) {
        let at = (self.0 >> 16) * Self::BYTES;
        let mut bits = self.0 & 0xffff;
        while bits != 0 {
            prefetch(at + bits.trailing_zeros() as usize * LINE_BYTES);
            bits &= bits - 1;
        }
    }
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
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_have_the_lines_that_they_were_made_of(
            addresses in proptest::collection::vec(0x7fff_0000_0000..0x7fff_0000_8000_usize, 0..99),
        ) {
            let lines = |block: Block| {
                let bits = (0..16).filter(move |line| block.0 >> line & 1 == 1);
                bits.map(move |line| (block.0 >> 16) * 16 + line)
            };
            let found: Vec<_> = Block::of(addresses.clone()).flat_map(lines).collect();
            let expected: BTreeSet<_> = addresses.iter().map(|at| at / LINE_BYTES).collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_value_is_all_of_its_lines_up_to_a_bound() {
        let lines = |value: &[u8]| {
            let mut places = Places::default();
            places.value(value);
            Block::of(places.0).map(|block| (block.0 & 0xffff).count_ones()).sum::<u32>()
        };
        let bytes = [0; 4096];
        let from = bytes.as_ptr().align_offset(LINE_BYTES);
        for (range, expected) in
            [(0..0, 1), (0..1, 1), (0..64, 1), (63..65, 2), (0..640, 10), (0..4000, 16)]
        {
            assert_eq!(lines(&bytes[from + range.start..from + range.end.min(4032)]), expected);
        }
    }
}
