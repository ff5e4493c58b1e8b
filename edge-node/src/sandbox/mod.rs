//! Confines a process that runs tenant code, once everything that it needs from the system is open. What
//! the kernel does not offer is reported and never a reason not to start.
//!
//! All but the system call filter binds the calling thread and the threads that it starts afterwards. The
//! process must therefore call `enter` while it has no other thread that matters.

mod capabilities;
mod reach;
mod system_calls;

use std::fmt;
use std::path::PathBuf;

use system_calls::Files;

/// What a confined process may still do.
#[derive(Debug, Clone, Default)]
pub struct SandboxOptions {
    /// Files, and directories with all in them, that it may open for reading. None by default, and none
    /// where the kernel cannot bound which.
    pub readable: Vec<PathBuf>,
}

/// How far one measure was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// As a whole.
    Applied,
    /// With the exception of what is named here.
    Partly(String),
    /// Not at all, for the reason that the kernel gave.
    Refused(String),
    /// Not at all: the kernel, or this program on this processor, does not know it.
    NotOffered,
}

/// What confines the process now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxReport {
    /// No program can give the process more rights than it has.
    pub no_new_privileges: Measure,
    /// The process has none of root's capabilities, whatever its user.
    pub capabilities: Measure,
    /// Landlock: no files, no TCP port of its own, no signals to other processes.
    pub reach: Measure,
    /// Seccomp: system calls that serving does not need are refused.
    pub system_calls: Measure,
}

/// Confines the calling thread and all that it will start, and every thread of the process in the system
/// calls that it may make. There is no way back.
#[must_use]
pub fn enter(options: &SandboxOptions) -> SandboxReport {
    // Each step takes away what the step before it needs.
    let no_new_privileges = Measure::of(rustix::thread::set_no_new_privs(true));
    let capabilities = capabilities::drop_all();
    let reach = reach::restrict(options);
    let files = match reach {
        Measure::Applied | Measure::Partly(_) => Files::Bounded,
        Measure::Refused(_) | Measure::NotOffered => Files::Closed,
    };
    let system_calls = system_calls::restrict(files);
    SandboxReport { no_new_privileges, capabilities, reach, system_calls }
}

impl Measure {
    fn of(result: Result<(), impl fmt::Display>) -> Self {
        match result {
            Ok(()) => Self::Applied,
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}

impl SandboxReport {
    /// Whether every measure was applied as a whole.
    pub fn is_whole(&self) -> bool {
        self.measures().iter().all(|(_, measure)| **measure == Measure::Applied)
    }

    fn measures(&self) -> [(&'static str, &Measure); 4] {
        [
            ("no_new_privileges", &self.no_new_privileges),
            ("capabilities", &self.capabilities),
            ("reach", &self.reach),
            ("system_calls", &self.system_calls),
        ]
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied => f.write_str("applied"),
            Self::Partly(without) => write!(f, "partly ({without})"),
            Self::Refused(reason) => write!(f, "refused ({reason})"),
            Self::NotOffered => f.write_str("not offered"),
        }
    }
}

/// One line for logs and health.
impl fmt::Display for SandboxReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, measure)) in self.measures().into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {measure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_one_line() {
        let report = SandboxReport {
            no_new_privileges: Measure::Applied,
            capabilities: Measure::Refused("not permitted".into()),
            reach: Measure::Partly("without signals".into()),
            system_calls: Measure::NotOffered,
        };
        assert!(!report.is_whole());
        assert_eq!(
            report.to_string(),
            "no_new_privileges applied, capabilities refused (not permitted), reach partly \
             (without signals), system_calls not offered"
        );
    }
}
