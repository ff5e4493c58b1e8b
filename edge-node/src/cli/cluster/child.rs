//! A child of a cluster on one machine: a server or a node, kept running, with its lines shown under its name.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt;
use rustix::process::{Pid, Signal};
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::codec::{FramedRead, LinesCodec};

use super::super::error::CliError;
use super::super::terminal::{Terminal, printable};
use crate::supervisor::Restarts;

/// This program, even when its file has been replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// A child that lived this long ended for a reason of its own.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// The pause before a child is started again, at least.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// How long a child may take to end when it is asked to: a node drains.
const STOP_MAX: Duration = Duration::from_secs(40);
/// Letters of a child's line, at most.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What is wanted of children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    /// They run.
    Running,
    /// They end what they do.
    Stopped,
    /// They end at once.
    Killed,
}

/// A child as it is to be.
pub(super) struct Kept {
    pub(super) name: String,
    /// Which colour its name has.
    pub(super) color: usize,
    /// The program; none for this one.
    pub(super) program: Option<PathBuf>,
    pub(super) arguments: Vec<OsString>,
    /// Where it says more than is shown, if it does.
    pub(super) log: Option<PathBuf>,
}

/// What is known of a child.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Life {
    /// Its process, while there is one.
    pub(super) pid: Option<u32>,
    /// How often it has ended without being asked to.
    pub(super) deaths: u32,
}

/// Keeps a child running until it is wanted no more.
pub(super) async fn keep(
    terminal: Terminal,
    kept: Kept,
    life: watch::Sender<Life>,
    mut wanted: watch::Receiver<Wanted>,
) {
    let mut restarts = Restarts::with_good_life(GOOD_LIFE);
    while *wanted.borrow() == Wanted::Running {
        let begun = Instant::now();
        let end = match kept.start(terminal) {
            Ok(mut child) => {
                life.send_modify(|life| life.pid = child.id());
                let ended = tokio::select! {
                    status = child.wait() => Some(status),
                    () = unwanted(&mut wanted) => None,
                };
                match ended {
                    Some(Ok(status)) => status.to_string(),
                    Some(Err(error)) => error.to_string(),
                    None => {
                        end(&mut child, &mut wanted).await;
                        break;
                    }
                }
            }
            Err(error) => format!("it cannot be started: {error}"),
        };
        life.send_modify(|life| *life = Life { pid: None, deaths: life.deaths + 1 });
        let pause = restarts.pause_after(begun.elapsed()) + RESTART_PAUSE;
        let more =
            kept.log.as_ref().map_or_else(String::new, |log| format!(", see {}", log.display()));
        terminal.warn(format!(
            "{} has ended ({end}){more}; it is started again in {:.1} s",
            kept.name,
            pause.as_secs_f64()
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = unwanted(&mut wanted) => {}
        }
    }
    life.send_modify(|life| life.pid = None);
}

/// Waits until the child is to end. Nobody wants anything any more where the sender is gone.
async fn unwanted(wanted: &mut watch::Receiver<Wanted>) {
    let _ = wanted.wait_for(|wanted| *wanted != Wanted::Running).await;
}

impl Kept {
    fn start(&self, terminal: Terminal) -> std::io::Result<Child> {
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0("atoll").arg("with-parent").arg(std::process::id().to_string()).arg("--");
        command.arg(self.program.clone().unwrap_or_else(|| THIS_PROGRAM.into()));
        command.args(&self.arguments);
        // Ctrl-C reaches whoever starts them alone, who ends them in their order.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(lines) = child.stderr.take() {
            tokio::spawn(show(terminal, self.name.clone(), self.color, lines));
        }
        Ok(child)
    }
}

/// Shows a child's lines under its name.
async fn show(terminal: Terminal, name: String, color: usize, lines: impl AsyncRead + Unpin) {
    let mut lines = FramedRead::new(lines, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
    let label = terminal.label(color, &name);
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => terminal.beside(format!("{label} {}", printable(&line))),
            Err(error) => terminal.beside(format!("{label} (a line is not shown: {error})")),
        }
    }
}

/// Ends a child: it may finish what it does, unless it is to be killed.
async fn end(child: &mut Child, wanted: &mut watch::Receiver<Wanted>) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid
        && *wanted.borrow() == Wanted::Stopped
        // It may have ended by itself.
        && rustix::process::kill_process(pid, Signal::TERM).is_ok()
    {
        tokio::select! {
            _ = child.wait() => return,
            _ = wanted.wait_for(|wanted| *wanted == Wanted::Killed) => {}
            () = tokio::time::sleep(STOP_MAX) => {}
        }
    }
    let _ = child.kill().await;
}

/// Options of the hidden command that children begin as.
#[derive(Debug, Args)]
pub struct WithParentArgs {
    /// The process that starts it
    parent: u32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes another program, which is told to end when the process that started it is gone, however that ended.
pub(crate) fn become_child(args: WithParentArgs) -> Result<(), CliError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        CliError::Failed(format!("cannot {what}: {error}"))
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| failed("be told of the parent's end", &error))?;
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
    // It may be gone already, and nobody would tell.
    if parent.and_then(|parent| u32::try_from(parent).ok()) != Some(args.parent) {
        return Err(CliError::Failed("the parent is gone".to_owned()));
    }
    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_default();
    let mut command = std::process::Command::new(&program);
    if program == THIS_PROGRAM {
        command.arg0("atoll");
    }
    let error = command.args(words).exec();
    Err(failed(&format!("start {}", program.to_string_lossy()), &error))
}
