//! A child process pinned to one core, ended by its id when dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How much of a process's output an error repeats.
const OUTPUT_SHOWN_BYTES: usize = 4 * 1024;

/// A running server whose output goes to a file.
pub(crate) struct Pinned {
    child: Child,
    output: PathBuf,
}

/// A command that runs `program` on `core` alone, by util-linux's `taskset`.
pub(crate) fn on_core(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
}

impl Pinned {
    /// Starts `command` with its output in a file in `dir`.
    pub(crate) fn start(mut command: Command, dir: &Path) -> Result<Self, String> {
        let output = dir.join("output.log");
        let open = || -> std::io::Result<(File, File)> {
            let file = File::create(&output)?;
            Ok((file.try_clone()?, file))
        };
        let (stdout, stderr) =
            open().map_err(|error| format!("cannot write {}: {error}", output.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}; taskset is needed"))?;
        Ok(Self { child, output })
    }

    /// The id of the server itself: `taskset` replaces itself by it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the process has written so far.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// An error when the process has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("it ended ({status}) and wrote:\n{}", self.tail())),
            Err(error) => Err(format!("it cannot be waited for: {error}")),
        }
    }

    /// Ends the process by its id.
    pub(crate) fn end(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of what the process has written.
    pub(crate) fn tail(&self) -> String {
        let output = self.output();
        let from = output.len().saturating_sub(OUTPUT_SHOWN_BYTES);
        let from = (from..=output.len()).find(|&at| output.is_char_boundary(at)).unwrap_or(0);
        output[from..].to_owned()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.end();
    }
}
