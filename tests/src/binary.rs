//! Finds the binary under test, and builds it when it is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `atoll` binary: `ATOLL_BIN`, or the one that cargo puts beside this test's directory, built
/// first when cargo was asked for this package alone.
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
        if !path.is_file() {
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
