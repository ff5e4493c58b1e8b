//! The peers from npm. Their packages hold a small launcher that fetches or starts the real
//! binary; that binary lies in a package of its own per platform, which is what runs here.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Kind, Server, Site, free_port, require};
use crate::process::{Pinned, on_core};
use crate::questions::Question;

const INSTALL: &str = "npm install --prefix bench/compare";

pub(super) fn start(
    site: &Site,
    kind: Kind,
    question: &Question,
    state: tempfile::TempDir,
) -> Result<Server, String> {
    let address = free_port()?;
    let port = address.port().to_string();
    let mut command = command(site, kind)?;
    command.current_dir(&site.compare);
    match kind {
        Kind::Workerd => {
            command.args(["serve", "workerd.capnp", question.workerd_config]);
            command.arg("--socket-addr").arg(format!("http={address}"));
        }
        Kind::Deno => {
            command.args(["run", "-A", "--no-config", "--unstable-kv", "deno.mjs"]);
            command.args([question.handler, &port]).arg(state.path());
            command.env("DENO_DIR", state.path()).env("DENO_NO_UPDATE_CHECK", "1");
        }
        Kind::Bun => {
            command.args(["run", "bun.mjs", question.handler, &port]).arg(state.path());
        }
        Kind::Atoll => unreachable!("atoll is no peer of its own"),
    }
    let process = Pinned::start(command, state.path())?;
    Ok(Server::new(process, address, "localhost", state))
}

/// The peer's binary on the servers' core, without arguments.
pub(super) fn command(site: &Site, kind: Kind) -> Result<Command, String> {
    Ok(on_core(site.core, binary(&site.compare, kind)?))
}

/// What the peer calls its version.
pub(super) fn version(compare: &Path, kind: Kind) -> Result<String, String> {
    let binary = binary(compare, kind)?;
    let output = Command::new(&binary)
        .arg("--version")
        .output()
        .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    Ok(line.strip_prefix(kind.name()).unwrap_or(line).trim().to_owned())
}

fn binary(compare: &Path, kind: Kind) -> Result<PathBuf, String> {
    let file = match (kind, std::env::consts::ARCH) {
        (Kind::Workerd, "x86_64") => "@cloudflare/workerd-linux-64/bin/workerd",
        (Kind::Workerd, "aarch64") => "@cloudflare/workerd-linux-arm64/bin/workerd",
        (Kind::Deno, "x86_64") => "@deno/linux-x64-glibc/deno",
        (Kind::Deno, "aarch64") => "@deno/linux-arm64-glibc/deno",
        (Kind::Bun, "x86_64") => "@oven/bun-linux-x64/bin/bun",
        (Kind::Bun, "aarch64") => "@oven/bun-linux-aarch64/bin/bun",
        (_, arch) => return Err(format!("{} has no package for {arch}", kind.name())),
    };
    let path = compare.join("node_modules").join(file);
    require(&path, INSTALL)?;
    Ok(path)
}
