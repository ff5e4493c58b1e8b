//! Starts a load generator: this binary again, in a process of its own on its own core, which
//! answers with JSON.

use std::io::Write;
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;

use crate::process::on_core;

/// Runs the hidden command `command` on `core`, or on whichever is free, feeds it `input` and reads its measurement.
pub(crate) fn measure<T: DeserializeOwned>(
    core: Option<usize>,
    command: &str,
    arguments: impl IntoIterator<Item = String>,
    input: &[u8],
) -> Result<T, String> {
    let run = || {
        let this = std::env::current_exe()?;
        let mut child = core
            .map_or_else(|| Command::new(&this), |core| on_core(core, &this))
            .arg(command)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // It reads all of its input before it writes, so neither waits for the other.
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input)?;
        }
        child.wait_with_output()
    };
    let output =
        run().map_err(|error: std::io::Error| format!("cannot run the load generator: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the load generator failed: {stderr}"));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("the load generator's answer is unreadable: {error}"))
}
