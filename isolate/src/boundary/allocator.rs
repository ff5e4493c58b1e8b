//! `ArrayBuffer` memory, counted for each isolate and refused past its limit.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ffi::c_void;
use std::sync::Arc;

use deno_core::v8;

use crate::memory::MemoryAccount;

/// Buffers are aligned for any typed array and for SIMD loads.
const ALIGN: usize = 16;

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), ALIGN).ok()
}

fn allocate_with(
    account: &MemoryAccount,
    bytes: usize,
    allocate: unsafe fn(Layout) -> *mut u8,
) -> *mut c_void {
    let Some(layout) = layout(bytes) else { return std::ptr::null_mut() };
    if !account.take_buffer(bytes) {
        return std::ptr::null_mut();
    }
    // SAFETY: the layout has a size of at least one byte.
    let memory = unsafe { allocate(layout) };
    if memory.is_null() {
        account.give_buffer(bytes);
    }
    memory.cast()
}

unsafe extern "C" fn allocate(account: &MemoryAccount, bytes: usize) -> *mut c_void {
    allocate_with(account, bytes, alloc_zeroed)
}

unsafe extern "C" fn allocate_uninitialized(account: &MemoryAccount, bytes: usize) -> *mut c_void {
    allocate_with(account, bytes, alloc)
}

unsafe extern "C" fn free(account: &MemoryAccount, memory: *mut c_void, bytes: usize) {
    let Some(layout) = layout(bytes) else { return };
    account.give_buffer(bytes);
    // SAFETY: V8 gives back what `allocate` gave out, with the same length, exactly once.
    unsafe { dealloc(memory.cast(), layout) };
}

unsafe extern "C" fn drop_account(account: *const MemoryAccount) {
    // SAFETY: the pointer came from `Arc::into_raw` in `allocator`, and V8 calls this once.
    drop(unsafe { Arc::from_raw(account) });
}

static VTABLE: v8::RustAllocatorVtable<MemoryAccount> =
    v8::RustAllocatorVtable { allocate, allocate_uninitialized, free, drop: drop_account };

/// An allocator for one isolate that counts into `account`.
pub(super) fn allocator(account: &Arc<MemoryAccount>) -> v8::UniqueRef<v8::Allocator> {
    // SAFETY: the handle is an owned reference that `drop_account` releases; `MemoryAccount` is `Send`,
    // `Sync` and `'static`; each function of the table matches the handle's type.
    unsafe { v8::new_rust_allocator(Arc::into_raw(account.clone()), &VTABLE) }
}
