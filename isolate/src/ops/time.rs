//! The time that a worker sees: it stands still while code runs, as on the Workers platform, so that nothing
//! can be timed but I/O.
//!
//! The present is written each time the isolate is entered: for an event, or for what came of I/O.
//! `Date`, `performance` and `Intl` read it (`js/clock.js`). What remains to measure with: a timer or a
//! subrequest ends the slice, so the wall time of whole slices can be seen, in milliseconds; and what another
//! machine says about the time cannot be frozen at all.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deno_core::{OpState, op2, v8};

/// Bytes of a float64.
const BYTES: usize = 8;

/// One isolate's time: milliseconds since the Unix epoch, in a buffer that its JS reads without a call.
#[derive(Clone)]
pub(crate) struct SeenTime(v8::SharedRef<v8::BackingStore>);

impl SeenTime {
    pub(crate) fn new() -> Self {
        let store = v8::ArrayBuffer::new_backing_store_from_vec(vec![0; BYTES]);
        Self(store.make_shared())
    }

    /// What JS reads, and the cell writes.
    pub(crate) fn store(&self) -> &v8::SharedRef<v8::BackingStore> {
        &self.0
    }

    fn since_epoch(&self) -> Duration {
        let mut bytes = [0; BYTES];
        for (byte, cell) in bytes.iter_mut().zip(self.0.iter()) {
            *byte = cell.get();
        }
        Duration::from_millis(f64::from_ne_bytes(bytes) as u64)
    }
}

/// The present as JS sees it, in whole milliseconds since the Unix epoch.
pub(crate) fn present_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64
}

/// Writes seconds and nanoseconds, as Deno's `performance` reads them.
fn write(time: Duration, out: &mut [u8]) {
    if let Some((seconds, rest)) = out.split_first_chunk_mut::<4>()
        && let Some(nanos) = rest.first_chunk_mut::<4>()
    {
        *seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).to_ne_bytes();
        *nanos = time.subsec_nanos().to_ne_bytes();
    }
}

/// The time that has passed since `performance.timeOrigin`.
#[op2(fast)]
pub(crate) fn op_now(state: &mut OpState, #[buffer] out: &mut [u8]) {
    write(state.borrow::<SeenTime>().since_epoch(), out);
}

/// `performance.timeOrigin` is the epoch itself, as on the Workers platform: where a worker begins to run
/// says nothing.
#[op2(fast)]
pub(crate) fn op_time_origin(#[buffer] out: &mut [u8]) {
    write(Duration::ZERO, out);
}
