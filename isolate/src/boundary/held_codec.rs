//! A codec that JS holds: V8 frees it with the object that stands for it.

use std::cell::RefCell;
use std::ffi::CStr;

use deno_core::GarbageCollected;
use deno_core::v8::cppgc::Visitor;

use crate::codec::Codec;

/// None once it was closed.
pub(crate) struct HeldCodec(pub(crate) RefCell<Option<Codec>>);

// SAFETY: a codec refers to nothing that V8 manages, so there is nothing to trace.
unsafe impl GarbageCollected for HeldCodec {
    fn trace(&self, _: &mut Visitor) {}

    fn get_name(&self) -> &'static CStr {
        c"Codec"
    }
}
