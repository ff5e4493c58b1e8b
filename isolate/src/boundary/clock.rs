//! The CPU clock of a thread, readable from other threads.

use std::time::Duration;

/// Names one thread's CPU clock for as long as the thread lives.
#[derive(Clone, Copy)]
pub(crate) struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The clock of whichever thread reads it.
    pub(crate) const OWN: Self = Self(libc::CLOCK_THREAD_CPUTIME_ID);

    /// The clock of the calling thread.
    pub(crate) fn current() -> std::io::Result<Self> {
        let mut clock = 0;
        // SAFETY: the thread is alive, being the caller, and `clock` is a valid place to write to.
        let error = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        if error == 0 { Ok(Self(clock)) } else { Err(std::io::Error::from_raw_os_error(error)) }
    }

    /// CPU time that the thread has used; zero once it has ended.
    pub(crate) fn now(self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place to write to; a clock of a thread that has ended gives an error.
        let failed = unsafe { libc::clock_gettime(self.0, &raw mut time) } != 0;
        if failed {
            return Duration::ZERO;
        }
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}
