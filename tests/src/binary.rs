//! Finds the binary under test, and builds it when it is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The packages that the binary is made of.
const PARTS: [&str; 4] = ["edge-node", "isolate", "kv", "router"];

/// The `atoll` binary: `ATOLL_BIN`, or the one that cargo puts beside this test's directory, built
/// first when it is missing or older than its sources (cargo was asked for this package alone).
///
/// # Panics
/// Panics when there is none and cargo cannot build it.
pub fn atoll_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("ATOLL_BIN") {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "ATOLL_BIN is {}, which is no file", path.display());
            return path;
        }
        let path = profile_dir().join("atoll");
        if modified(&path).is_none_or(|built| newest_source() > Some(built)) {
            build(&path);
        }
        path
    })
}

/// The directory of cargo's profile (`target/debug`): tests lie in its `deps`.
pub(crate) fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let deps = test.parent().expect("a test lies in a directory");
    deps.parent().expect("cargo runs tests in target/<profile>/deps").to_owned()
}

/// The workspace's root.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace")
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn newest_source() -> Option<SystemTime> {
    let mut folders: Vec<PathBuf> =
        PARTS.iter().map(|part| workspace().join(part).join("src")).collect();
    folders.push(workspace().join("isolate/js"));
    let mut newest = None;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                newest = newest.max(modified(&path));
            }
        }
    }
    newest
}

fn build(path: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace());
    command.args(["build", "-p", "atoll-edge-node", "--bin", "atoll"]);
    if path.parent().is_some_and(|dir| dir.ends_with("release")) {
        command.arg("--release");
    }
    let status = command.status().expect("cargo can be started");
    assert!(status.success() && path.is_file(), "cannot build {}: {status}", path.display());
}
