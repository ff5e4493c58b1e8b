//! Redis with an append-only file that it syncs before it answers: the setting whose promise is nearest to that of
//! the stores beside it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use super::{READY_POLL, READY_WITHIN, Site, free_port};
use crate::process::{Pinned, on_core};

const PROGRAM: &str = "redis-server";

/// A running server; ended when dropped.
pub(crate) struct Redis {
    _process: Pinned,
    pub(crate) address: SocketAddr,
    // Removed after the process has ended: fields are dropped in order.
    _state: tempfile::TempDir,
}

impl Redis {
    /// Its version, or how to get it.
    pub(crate) fn version() -> Result<String, String> {
        let output = Command::new(PROGRAM).arg("--version").output();
        let output = output.map_err(|error| {
            format!("there is no {PROGRAM} ({error}); `apt-get install redis-server` brings it")
        })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="));
        Ok(version.unwrap_or("of an unknown version").to_owned())
    }

    pub(crate) fn start(site: &Site) -> Result<Self, String> {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        let address = free_port()?;
        let mut command = on_core(site.core, PROGRAM);
        command.arg("--port").arg(address.port().to_string()).arg("--dir").arg(state.path());
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", "always"]);
        let mut process = Pinned::start(command, state.path())?;
        let give_up = Instant::now() + READY_WITHIN;
        while std::net::TcpStream::connect(address).is_err() {
            process.check_alive()?;
            if Instant::now() > give_up {
                return Err(format!("{PROGRAM} takes no connection:\n{}", process.tail()));
            }
            std::thread::sleep(READY_POLL);
        }
        Ok(Self { _process: process, address, _state: state })
    }
}
