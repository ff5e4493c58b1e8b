//! A number that Rust writes and JS reads without a call.

use std::cell::Cell;
use std::ptr::NonNull;

use deno_core::v8;

/// A number's bytes, which need no alignment.
type Bytes = [Cell<u8>; size_of::<f64>()];

/// A float64 in a buffer of an isolate.
pub(super) struct SharedNumber {
    /// Keeps the bytes.
    _store: v8::SharedRef<v8::BackingStore>,
    /// To ask the store where they are takes one more miss of the processor's caches.
    bytes: NonNull<Bytes>,
}

impl SharedNumber {
    /// The number in a store of as many bytes, which is none that can be resized.
    pub(super) fn new(store: &v8::SharedRef<v8::BackingStore>) -> Self {
        assert_eq!(store.byte_length(), size_of::<Bytes>(), "a store of one number");
        let bytes = store.data().expect("a store that is not empty has data").cast();
        Self { _store: store.clone(), bytes }
    }

    pub(super) fn set(&self, value: f64) {
        // SAFETY: the store is kept, has that many bytes and is not resized, so that they stay where they are. It is
        // used on the isolate's thread alone, and nobody else reads or writes it before the borrow ends.
        let bytes = unsafe { self.bytes.as_ref() };
        for (cell, byte) in bytes.iter().zip(value.to_ne_bytes()) {
            cell.set(byte);
        }
    }
}
