//! Seccomp: the system calls that serving needs, and no others. What is refused fails with an error: a
//! filter that killed would hand every tenant a way to end the process.
//!
//! Two filters stack. The kernel runs both and obeys the stricter answer; where both refuse, the one
//! installed last. The first makes calls look absent for which libraries have an older way; the second
//! allows what is listed and refuses everything else.

use std::collections::BTreeMap;

use libc::{c_long, *};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::Measure;

/// Calls that only concern what the process has already: its memory, threads, clocks and descriptors.
const PLAIN: &[c_long] = &[
    // Memory. The JIT makes pages executable, so that is no line that can be held here.
    SYS_brk,
    SYS_madvise,
    SYS_membarrier,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_pkey_alloc,
    SYS_pkey_free,
    SYS_pkey_mprotect,
    // Threads and signals.
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_get_robust_list,
    SYS_getcpu,
    SYS_gettid,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_getaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_yield,
    SYS_set_robust_list,
    SYS_sigaltstack,
    // Clocks and facts.
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getpid,
    SYS_getrandom,
    SYS_getrusage,
    SYS_gettimeofday,
    SYS_getuid,
    SYS_nanosleep,
    SYS_sysinfo,
    SYS_uname,
    // Descriptors.
    SYS_close,
    SYS_dup,
    SYS_dup3,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    SYS_fstat,
    SYS_lseek,
    SYS_pipe2,
    SYS_ppoll,
    SYS_pread64,
    SYS_read,
    SYS_readv,
    SYS_write,
    SYS_writev,
    // Sockets. Which ones may be made is a condition; a port to listen on comes from the supervisor.
    SYS_accept4,
    SYS_bind,
    SYS_connect,
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_recvfrom,
    SYS_recvmmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setsockopt,
    SYS_shutdown,
    // The first filter answers these, before the list is asked.
    SYS_clone3,
];

/// The older forms that this processor has beside some of the calls above.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[SYS_epoll_wait, SYS_poll, SYS_dup2, SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Calls whose flags lie in memory, where a filter cannot look: libraries then use the older `clone`.
const ABSENT: &[c_long] = &[SYS_clone3];

/// What every new thread is given by the C library, and no new process is.
const THREAD: u64 = (CLONE_VM | CLONE_THREAD | CLONE_SIGHAND) as u64;

/// Flags by which opening a file can change one.
const WRITING: u64 = (O_ACCMODE | O_CREAT | O_TRUNC | O_TMPFILE & !O_DIRECTORY) as u64;

/// `PR_SET_VMA`, by which allocators name their memory.
const PR_SET_VMA: u64 = 0x5356_4d41;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Whether the process may open files for reading at all. A filter sees no paths: it has to trust that
/// something else bounds which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// Another measure decides which.
    Bounded,
    /// None.
    Closed,
}

/// Restricts every thread of the process.
pub(super) fn restrict(files: Files) -> Measure {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Measure::NotOffered };
    let applied = (|| {
        let absent = absent_filter(arch)?;
        let allowed = allowed_filter(files, arch)?;
        apply_filter_all_threads(&absent)?;
        apply_filter_all_threads(&allowed)
    })();
    match applied {
        Err(Error::Seccomp(error)) if error.raw_os_error() == Some(ENOSYS) => Measure::NotOffered,
        other => Measure::of(other),
    }
}

fn absent_filter(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
    let absent = SeccompAction::Errno(ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, absent, arch)?.try_into()
}

fn allowed_filter(files: Files, arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let refused = SeccompAction::Errno(EPERM as u32);
    SeccompFilter::new(allowed(files)?, refused, SeccompAction::Allow, arch)?.try_into()
}

fn allowed(files: Files) -> Result<Rules, BackendError> {
    let mut rules: Rules = PLAIN.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    rules.extend(conditional()?);
    if files == Files::Bounded {
        rules.insert(SYS_openat, vec![masked(2, WRITING, 0)?]);
    }
    Ok(rules)
}

/// Calls that are allowed with some arguments only.
fn conditional() -> Result<Rules, BackendError> {
    let own = u64::from(std::process::id());
    // `PRIO_PROCESS`, and nobody by id.
    let own_thread = || SeccompRule::new(vec![equal(0, 0)?, equal(1, 0)?]);
    let any_of = |argument: u8, values: &[u64]| {
        values.iter().map(|value| masked(argument, u64::MAX, *value)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Rules::from([
        (SYS_clone, vec![masked(0, THREAD, THREAD)?]),
        // Names of threads and of memory.
        (SYS_prctl, any_of(0, &[PR_SET_NAME as u64, PR_GET_NAME as u64, PR_SET_VMA])?),
        // Reading limits, not setting them, and of no other process.
        (SYS_prlimit64, vec![SeccompRule::new(vec![equal(0, 0)?, equal(2, 0)?])?]),
        // A thread may make itself nicer: less nice needs a capability that is gone.
        (SYS_getpriority, vec![own_thread()?]),
        (SYS_setpriority, vec![own_thread()?]),
        // A crash handler raises its signal again.
        (SYS_kill, any_of(0, &[own])?),
        (SYS_tgkill, any_of(0, &[own])?),
        // No local sockets, no raw ones, no kernel interfaces.
        (SYS_socket, any_of(0, &[AF_INET as u64, AF_INET6 as u64])?),
        (SYS_socketpair, any_of(0, &[AF_UNIX as u64])?),
        (SYS_ioctl, any_of(1, &[FIONBIO, FIOCLEX, FIONREAD, TCGETS, TIOCGWINSZ])?),
        (
            SYS_fcntl,
            any_of(
                1,
                &[F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GET_SEALS].map(flag),
            )?,
        ),
    ]))
}

fn flag(value: c_int) -> u64 {
    u64::from(value.unsigned_abs())
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

/// The argument's bits under `mask` are `value`. The kernel's types are 32 bits wide where these are used,
/// and it ignores what a caller leaves above them; so does this.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    let mask = mask & u64::from(u32::MAX);
    let op = SeccompCmpOp::MaskedEq(mask);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_leads_out_is_listed() {
        let out = [
            SYS_add_key,
            SYS_bpf,
            SYS_capset,
            SYS_chroot,
            SYS_execve,
            SYS_execveat,
            SYS_fchmod,
            SYS_finit_module,
            SYS_fsopen,
            SYS_init_module,
            SYS_io_uring_enter,
            SYS_io_uring_register,
            SYS_io_uring_setup,
            SYS_kcmp,
            SYS_kexec_file_load,
            SYS_kexec_load,
            SYS_keyctl,
            SYS_linkat,
            SYS_listen,
            SYS_memfd_create,
            SYS_mkdirat,
            SYS_mount,
            SYS_move_mount,
            SYS_open_by_handle_at,
            SYS_open_tree,
            SYS_openat2,
            SYS_perf_event_open,
            SYS_personality,
            SYS_pidfd_getfd,
            SYS_pidfd_open,
            SYS_pidfd_send_signal,
            SYS_pivot_root,
            SYS_process_madvise,
            SYS_process_vm_readv,
            SYS_process_vm_writev,
            SYS_ptrace,
            SYS_reboot,
            SYS_renameat2,
            SYS_request_key,
            SYS_rt_sigqueueinfo,
            SYS_seccomp,
            SYS_setns,
            SYS_setuid,
            SYS_swapon,
            SYS_tkill,
            SYS_truncate,
            SYS_umount2,
            SYS_unlinkat,
            SYS_unshare,
            SYS_userfaultfd,
        ];
        let rules = allowed(Files::Bounded).unwrap();
        for call in out {
            assert!(!rules.contains_key(&call), "system call {call}");
        }
        assert!(rules.contains_key(&SYS_openat));
        assert!(!allowed(Files::Closed).unwrap().contains_key(&SYS_openat));
    }

    #[test]
    fn filters_fit_the_kernel() {
        /// `BPF_MAXINSNS`.
        const INSTRUCTIONS_MAX: usize = 4096;
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        for filter in [absent_filter(arch).unwrap(), allowed_filter(Files::Bounded, arch).unwrap()]
        {
            assert!((1..INSTRUCTIONS_MAX).contains(&filter.len()), "{}", filter.len());
        }
    }
}
