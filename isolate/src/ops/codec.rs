//! The ops of compression streams (`js/compression.js`).

use std::cell::RefCell;

use deno_core::op2;
use deno_error::JsErrorBox;

use crate::boundary::HeldCodec;
use crate::codec::Codec;

/// Makes a codec of a format of the Compression Standard.
#[op2]
#[cppgc]
pub(crate) fn op_codec_new(
    #[string] format: &str,
    is_decoder: bool,
) -> Result<HeldCodec, JsErrorBox> {
    let codec = Codec::new(format, is_decoder);
    let unknown = || JsErrorBox::type_error(format!("there is no compression format '{format}'"));
    Ok(HeldCodec(RefCell::new(Some(codec.ok_or_else(unknown)?))))
}

/// Gives it some of the bytes from a place on, and says how many it has taken.
#[op2]
#[smi]
pub(crate) fn op_codec_write(
    #[cppgc] held: &HeldCodec,
    #[anybuffer] bytes: &[u8],
    #[number] from: usize,
) -> u32 {
    let mut codec = held.0.borrow_mut();
    let rest = bytes.get(from..).unwrap_or_default();
    let taken = codec.as_mut().map_or(0, |codec| codec.write(rest));
    u32::try_from(taken).unwrap_or(u32::MAX)
}

/// Takes the next bytes that come of what it was given; none when more is wanted.
#[op2]
#[buffer]
pub(crate) fn op_codec_read(#[cppgc] held: &HeldCodec) -> Result<Vec<u8>, JsErrorBox> {
    let mut codec = held.0.borrow_mut();
    let Some(codec) = codec.as_mut() else { return Ok(Vec::new()) };
    codec.read().map_err(|error| JsErrorBox::type_error(error.to_string()))
}

/// Tells it that no more bytes come.
#[op2(fast)]
pub(crate) fn op_codec_end(#[cppgc] held: &HeldCodec) {
    if let Some(codec) = held.0.borrow_mut().as_mut() {
        codec.end();
    }
}

/// Frees it.
#[op2(fast)]
pub(crate) fn op_codec_close(#[cppgc] held: &HeldCodec) {
    held.0.take();
}
