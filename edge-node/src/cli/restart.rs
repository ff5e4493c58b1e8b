//! Restarts `atoll serve` in its place: the process stays and runs the program anew, with the listening sockets that
//! it had, so that no connection is refused meanwhile.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, wait};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::node::kept::Kept;

/// The option by which a program is told that sockets were left to it.
const TAKE_OVER: &str = "--take-over";
/// The option by which it only reads its configuration.
const CHECK: &str = "--check";
/// How long the last children may take to be gone.
const REAP_MAX: Duration = Duration::from_secs(2);
/// What the check of the next program may take.
const CHECK_MAX: Duration = Duration::from_secs(20);

/// Hears the word to restart.
///
/// # Errors
/// When the system gives no signals.
pub(super) fn listen() -> std::io::Result<Signal> {
    signal(SignalKind::user_defined2())
}

/// Whether the next program starts, and understands its configuration: else this one goes on.
///
/// # Errors
/// Says what is wrong.
pub(super) async fn check(command_line: &[OsString]) -> Result<(), String> {
    let (program, arguments) = split(command_line)?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).arg(CHECK).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(CHECK_MAX, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{}: {error}", program.display())),
        Err(_) => return Err(format!("{} {CHECK} does not end", program.display())),
    };
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Runs the program anew in this process, and leaves it the sockets. Returns only when that fails.
pub(super) async fn replace(command_line: &[OsString], kept: Kept) -> String {
    let (program, arguments) = match split(command_line) {
        Ok(parts) => parts,
        Err(error) => return error,
    };
    let left = match leave(&kept).await {
        Ok(left) => left,
        Err(error) => return format!("the sockets cannot be left to the next program: {error}"),
    };
    reap();
    let error = Command::new(program).args(arguments).arg(TAKE_OVER).stdin(left).exec();
    format!("{}: {error}", program.display())
}

/// The sockets, in one that is to be standard input.
async fn leave(kept: &Kept) -> std::io::Result<OwnedFd> {
    let (own, next) = UnixStream::pair()?;
    kept.send(&own).await?;
    let next = next.into_std()?;
    next.set_nonblocking(false)?;
    Ok(next.into())
}

/// Waits for children that have just been told to end: the next program does not know them.
fn reap() {
    let begun = Instant::now();
    while begun.elapsed() < REAP_MAX {
        match wait(WaitOptions::NOHANG) {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(_)) => {}
            Err(_) => return,
        }
    }
}

/// The program and its arguments, without what an earlier restart has added.
fn split(
    command_line: &[OsString],
) -> Result<(&std::path::Path, impl Iterator<Item = &OsString> + use<'_>), String> {
    let (program, arguments) =
        command_line.split_first().ok_or("this program does not know its own name")?;
    let own = arguments.iter().filter(|argument| *argument != TAKE_OVER);
    Ok((program.as_ref(), own))
}
