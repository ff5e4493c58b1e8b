//! Says, when the process crashes, which instance was executing: a supervisor in another process reads it
//! and keeps the guilty version away. It prevents no crash.

use std::marker::PhantomData;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// The longest label of an instance, in bytes; what is longer is cut.
pub const CRASH_LABEL_BYTES_MAX: usize = WORDS * 8;

const WORDS: usize = 24;

/// Isolate threads of one process that have slots. Crashes of further ones name nobody.
const SLOTS: usize = 256;

/// Signals with which a process dies of its own fault. With the last one it is told that it uses too much CPU time.
const SIGNALS: [libc::c_int; 7] = [
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGFPE,
    libc::SIGXCPU,
];

/// What one isolate thread executes. Written by its thread only; a handler on any thread reads it. All
/// fields are atomic, so that a handler that reads while the thread goes on may see the wrong label, but
/// nothing undefined.
struct Slot {
    claimed: AtomicBool,
    /// The kernel's id of the thread.
    thread: AtomicI32,
    /// Which label the words hold.
    holds: AtomicU64,
    words: [AtomicU64; WORDS],
    /// The label's length while it executes, else 0.
    length: AtomicUsize,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        claimed: AtomicBool::new(false),
        thread: AtomicI32::new(0),
        holds: AtomicU64::new(0),
        words: [const { AtomicU64::new(0) }; WORDS],
        length: AtomicUsize::new(0),
    }
}; SLOTS];

/// Where reports go; -1 until [`report_crashes`].
static REPORTS: AtomicI32 = AtomicI32::new(-1);

/// The number of the last label that was made.
static LABELS: AtomicU64 = AtomicU64::new(0);

/// How crash reports call an instance. The words that it does not use go last.
#[repr(C)]
pub(crate) struct CrashLabel {
    number: u64,
    length: usize,
    words: [u64; WORDS],
}

/// One thread's place in the table of who executes.
pub(crate) struct CrashSlot {
    slot: Option<&'static Slot>,
    /// The slot names the thread that claimed it.
    not_send: PhantomData<*const ()>,
}

/// The label stands in the slot while this lives.
pub(crate) struct Executing<'a>(Option<&'a Slot>);

impl CrashLabel {
    pub(crate) fn new(text: &str) -> Self {
        let mut words = [0; WORDS];
        let length = text.len().min(CRASH_LABEL_BYTES_MAX);
        for (word, bytes) in words.iter_mut().zip(text.as_bytes()[..length].chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }
        Self { number: LABELS.fetch_add(1, Ordering::Relaxed) + 1, length, words }
    }
}

impl CrashSlot {
    /// Takes a free slot for the calling thread, if there is one.
    pub(crate) fn claim() -> Self {
        let free = |slot: &&Slot| !slot.claimed.swap(true, Ordering::AcqRel);
        let slot = TABLE.iter().find(free);
        if let Some(slot) = slot {
            slot.thread.store(KernelThread::current().0, Ordering::Relaxed);
        }
        Self { slot, not_send: PhantomData }
    }

    /// Says that the instance of this label executes until the guard is dropped.
    pub(crate) fn executing(&self, label: &CrashLabel) -> Executing<'_> {
        if let Some(slot) = self.slot {
            if slot.holds.load(Ordering::Relaxed) != label.number {
                slot.holds.store(label.number, Ordering::Relaxed);
                let words = &label.words[..label.length.div_ceil(8)];
                for (word, value) in slot.words.iter().zip(words) {
                    word.store(*value, Ordering::Relaxed);
                }
            }
            slot.length.store(label.length, Ordering::Release);
        }
        Executing(self.slot)
    }
}

/// A thread as the kernel knows it.
#[derive(Clone, Copy)]
pub(crate) struct KernelThread(i32);

impl KernelThread {
    /// The calling thread.
    pub(crate) fn current() -> Self {
        // SAFETY: the call has no arguments and cannot fail.
        Self(unsafe { libc::gettid() })
    }

    /// Ends the process as a crash of this thread, which uses CPU time without end. Does nothing where no crash is
    /// reported: nobody would start the process again.
    pub(crate) fn crash(self) {
        if REPORTS.load(Ordering::Relaxed) >= 0 {
            // SAFETY: plain system calls. Of a thread that has ended meanwhile the last gives an error.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, libc::SIGXCPU) };
        }
    }
}

impl Drop for CrashSlot {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.thread.store(0, Ordering::Relaxed);
            slot.claimed.store(false, Ordering::Release);
        }
    }
}

impl Drop for Executing<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.length.store(0, Ordering::Release);
        }
    }
}

/// Has every crash of this process write to `reports`, a line for each instance that may be its cause: the
/// one that the crashing thread executes, or, if it executes none, those that any thread does. `reports`
/// stays open until the process ends. To be called once, before isolate threads are started.
///
/// # Errors
/// When a handler cannot be set.
pub fn report_crashes(reports: OwnedFd) -> std::io::Result<()> {
    REPORTS.store(reports.into_raw_fd(), Ordering::SeqCst);
    for signal in SIGNALS {
        // SAFETY: all-zero bytes are a valid `sigaction`: no flags, an empty mask, the default handler.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_crash as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // Once only, on the alternate stack where the thread has one: its own may have overflowed.
        action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER | libc::SA_ONSTACK;
        // SAFETY: `action` is valid, its handler has the type that the flags ask for and calls nothing that
        // is not safe in a handler; the old action may be discarded.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Async-signal-safe: it touches atomics and its own stack, and makes plain system calls.
extern "C" fn on_crash(signal: libc::c_int) {
    let KernelThread(own) = KernelThread::current();
    let executes = |slot: &&Slot| slot.length.load(Ordering::Acquire) > 0;
    let mine = |slot: &&Slot| slot.thread.load(Ordering::Relaxed) == own;
    match TABLE.iter().filter(executes).find(mine) {
        Some(slot) => report(slot),
        None => TABLE.iter().filter(executes).for_each(report),
    }
    // SAFETY: the handler was reset on entry, so that the default action ends the process here. Returning
    // would be right only for a fault, not for a signal that another process sent.
    unsafe { libc::raise(signal) };
}

fn report(slot: &Slot) {
    let mut line = [0; CRASH_LABEL_BYTES_MAX + 1];
    for (bytes, word) in line.chunks_exact_mut(8).zip(&slot.words) {
        bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    let length = slot.length.load(Ordering::Relaxed).min(CRASH_LABEL_BYTES_MAX);
    line[length] = b'\n';
    // SAFETY: the buffer is valid for `length + 1` bytes. A failed write leaves the crash unexplained.
    unsafe { libc::write(REPORTS.load(Ordering::Relaxed), line.as_ptr().cast(), length + 1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_shows_a_label_while_it_executes() {
        let claimed = CrashSlot::claim();
        let slot = claimed.slot.unwrap();
        let shown = || {
            let words =
                slot.words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
            let text: Vec<u8> = words.take(slot.length.load(Ordering::Relaxed)).collect();
            String::from_utf8(text).unwrap()
        };
        let (short, long) = (CrashLabel::new("a/b/c"), CrashLabel::new(&"x".repeat(999)));
        for (label, expected) in
            [(&long, "x".repeat(CRASH_LABEL_BYTES_MAX)), (&short, "a/b/c".to_owned())]
        {
            let executing = claimed.executing(label);
            assert_eq!(shown(), expected);
            drop(executing);
            assert_eq!(shown(), "");
        }
        drop(claimed);
        assert!(!slot.claimed.load(Ordering::Relaxed));
    }
}
