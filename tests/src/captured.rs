//! A process whose output is kept, ended by its id when dropped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{WAIT_MAX, eventually, eventually_within};

/// What a failing test shows of a process's output.
const OUTPUT_SHOWN_BYTES: usize = 16 * 1024;

/// A running process. A failing test shows what it wrote.
pub(crate) struct Captured {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Captured {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be started");
        let output = Arc::default();
        collect(child.stdout.take().expect("stdout is piped"), Arc::clone(&output));
        collect(child.stderr.take().expect("stderr is piped"), Arc::clone(&output));
        Self { child, output }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, both streams by line.
    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line that `find` recognises. A process that ends before is a failure at once.
    pub(crate) async fn line<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        eventually(what, async || {
            let found = self.output().lines().find_map(&find);
            if found.is_none() {
                let ended = self.child.try_wait().expect("a child can be waited for");
                assert!(ended.is_none(), "{what}: it ended before ({ended:?})");
            }
            found
        })
        .await
    }

    /// Sends a signal (`TERM`, `INT`).
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.id(), name);
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn exit_status(&mut self) -> ExitStatus {
        self.exit_status_within(WAIT_MAX).await
    }

    /// The same, for so long at most.
    pub(crate) async fn exit_status_within(&mut self, most: Duration) -> ExitStatus {
        eventually_within(most, "the process ends by itself", async || {
            self.child.try_wait().expect("a child can be waited for")
        })
        .await
    }

    pub(crate) fn kill(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn show_output(&self) {
        let output = self.output();
        let from = output.len().saturating_sub(OUTPUT_SHOWN_BYTES);
        let from = (from..=output.len()).find(|&at| output.is_char_boundary(at)).unwrap_or(0);
        eprintln!("--- atoll wrote ---\n{}--- end of its output ---", &output[from..]);
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.show_output();
        }
    }
}

/// Sends a signal to a process.
pub(crate) fn send_signal(process: u32, name: &str) {
    let kill = format!("kill -{name} {process}");
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.is_ok_and(|status| status.success()), "{kill} fails");
}

fn collect(pipe: impl Read + Send + 'static, output: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.push_str(&String::from_utf8_lossy(&line));
            output.push('\n');
        }
    });
}
