//! The clock that decides what has expired, given to a store so that a test can turn it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time to a store.
pub trait Clock: Send + Sync + 'static {
    /// Whole seconds since the Unix epoch.
    fn now_s(&self) -> u64;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_s(&self) -> u64 {
        // A machine whose clock stands before 1970 expires nothing.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// A clock that moves only when told.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Makes a clock that stands at `now_s`.
    pub fn new(now_s: u64) -> Self {
        Self(AtomicU64::new(now_s))
    }

    /// Moves the clock forward.
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_s(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
