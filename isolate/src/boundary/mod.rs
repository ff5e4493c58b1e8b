//! The only module that enters V8 isolates and that may contain `unsafe`. Nothing outside it touches a
//! `JsRuntime` or opens a V8 scope. What a process needs of the system that Rust cannot prove safe is here too.
#![allow(
    unsafe_code,
    reason = "V8's entry discipline, buffer allocation and mapped memory are upheld here"
)]

mod allocator;
mod calls;
mod cell;
mod clock;
mod crash;
mod footprint;
mod heap;
mod held_codec;
mod rejections;
mod sealed;
mod shared;

pub(crate) use calls::{Call, CallError, Compile, Entries, install_entries, module_code};
pub(crate) use cell::{Cell, CellOptions};
pub(crate) use clock::ThreadClock;
pub use crash::{CRASH_LABEL_BYTES_MAX, report_crashes};
pub(crate) use crash::{CrashLabel, CrashSlot, KernelThread};
pub use footprint::{Footprint, Places};
pub(crate) use heap::HeapGuard;
pub(crate) use held_codec::HeldCodec;
pub use sealed::SealedMemory;
