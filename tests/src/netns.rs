//! Network namespaces of the test's own: networks of one machine that share nothing but what leads out of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Says when its loopback is up, and then waits until its input ends.
const SET_UP: &str = "ip link set lo up && echo up && cat";

/// A network namespace. It has no name, so that the system removes it with the last of its users, however they end.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// A new one with a loopback and nothing else.
    ///
    /// # Errors
    /// Says why this process may make none.
    pub fn new() -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", SET_UP]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut first = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let mut ready = String::new();
        let output = first.stdout.take().expect("stdout is piped");
        let _ = BufReader::new(output).read_line(&mut ready);
        let made = File::open(format!("/proc/{}/ns/net", first.id()));
        drop(first.stdin.take());
        let mut why = String::new();
        let _ = first.stderr.take().expect("stderr is piped").read_to_string(&mut why);
        let _ = first.wait();
        if ready != "up\n" {
            return Err(why.trim().to_owned());
        }
        made.map(|made| Self(Arc::new(made))).map_err(|error| error.to_string())
    }

    /// Runs `work` on a thread in the namespace: sockets that it makes and processes that it starts stay there.
    ///
    /// # Panics
    /// Panics when `work` does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let there = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("who made a namespace may enter it");
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(there).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
