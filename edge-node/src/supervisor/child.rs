//! One child process: how it is started, and what is left to say when it has ended.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::UnixStream;
use tokio::process::{Child as Process, Command};

use crate::dispatch::Culprit;

/// This program, even when its file has been replaced meanwhile.
const PROGRAM: &str = "/proc/self/exe";

/// What a crash report may be long: more than all threads of a process can write.
const CRASH_REPORT_BYTES_MAX: u64 = 64 << 10;

/// Instances that may have executed when a process crashed: one for each of its threads.
const CULPRITS_MAX: usize = 128;

/// How long a process may take to end once its link is closed.
const EXIT_MAX: Duration = Duration::from_secs(1);

/// A running child.
pub(super) struct Child {
    process: Process,
    pub(super) pid: u32,
    /// Where it says whose code it executed when it crashed.
    crashes: OwnedFd,
    /// The child's end, until it has it.
    crashes_sent: Option<OwnedFd>,
}

/// How a child ended.
pub(super) struct Ended {
    pub(super) pid: u32,
    pub(super) status: Option<ExitStatus>,
    /// Whose code may have been the cause.
    pub(super) culprits: Vec<Culprit>,
}

impl Child {
    /// Starts this program with a subcommand, and gives the supervisor's end of the link.
    ///
    /// # Errors
    /// When the operating system gives no process or socket.
    pub(super) fn start(
        subcommand: &str,
        variables: &[(OsString, OsString)],
    ) -> std::io::Result<(Self, UnixStream)> {
        let (own, childs) = UnixStream::pair()?;
        let (crashes, crashes_sent) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut command = Command::new(PROGRAM);
        command.arg0("atoll").arg(subcommand);
        command.env_clear().envs(variables.iter().cloned());
        command.stdin(OwnedFd::from(childs.into_std()?)).stdout(Stdio::null());
        command.kill_on_drop(true);
        let process = command.spawn()?;
        let pid = process.id().unwrap_or_default();
        Ok((Self { process, pid, crashes, crashes_sent: Some(crashes_sent) }, own))
    }

    /// What the child is to write crash reports to.
    pub(super) fn crash_report(&self) -> BorrowedFd<'_> {
        self.crashes_sent.as_ref().unwrap_or(&self.crashes).as_fd()
    }

    /// Whether it has not ended yet.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Has the child, whose link is closed, end; kills it when it does not.
    pub(super) async fn end(mut self) -> Ended {
        let status = match tokio::time::timeout(EXIT_MAX, self.process.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => return self.kill().await,
        };
        self.ended(status)
    }

    /// Kills the child.
    pub(super) async fn kill(mut self) -> Ended {
        if let Err(error) = self.process.kill().await {
            tracing::error!(pid = self.pid, %error, "a process cannot be killed");
        }
        let status = self.process.try_wait().ok().flatten();
        self.ended(status)
    }

    fn ended(self, status: Option<ExitStatus>) -> Ended {
        drop(self.crashes_sent);
        let mut report = Vec::new();
        // Cut off by an error only when something else holds the pipe: what was read counts.
        let _ =
            std::fs::File::from(self.crashes).take(CRASH_REPORT_BYTES_MAX).read_to_end(&mut report);
        let report = String::from_utf8_lossy(&report);
        let mut culprits: Vec<Culprit> =
            report.lines().take(CULPRITS_MAX).filter_map(Culprit::parse).collect();
        culprits.dedup();
        Ended { pid: self.pid, status, culprits }
    }
}

impl Ended {
    /// How it ended, for people: the signal's name or the exit code.
    pub(super) fn how(&self) -> String {
        match self.status {
            None => "nobody knows how".to_owned(),
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => signal_name(signal),
                (None, code) => format!("exit code {}", code.unwrap_or_default()),
            },
        }
    }

    /// Whether it ended for CPU time that nothing else could end.
    pub(super) fn is_out_of_cpu_time(&self) -> bool {
        let signal = self.status.and_then(|status| status.signal());
        signal == Some(rustix::process::Signal::XCPU.as_raw())
    }
}

fn signal_name(signal: i32) -> String {
    use rustix::process::Signal;
    let known = [
        (Signal::XCPU, "SIGXCPU, out of CPU time"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SYS, "SIGSYS"),
    ];
    let name = known.iter().find(|(known, _)| known.as_raw() == signal);
    name.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}
