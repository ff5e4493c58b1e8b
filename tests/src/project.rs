//! Fixture projects with npm dependencies, deployed by the real CLI.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::api::Api;
use crate::binary::{atoll_binary, profile_dir};
use crate::script::fixtures;

/// How long a command may take; the first of a machine downloads the bundler.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// What a command of the CLI did.
#[derive(Debug)]
pub struct CommandOutput {
    /// Whether it ended with 0.
    pub success: bool,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// A copy of a project in `tests/fixtures/projects`, with its dependencies in reach.
pub struct Project {
    dir: TempDir,
    name: String,
}

impl Project {
    /// Copies a project and installs what it imports, once for all tests of a process.
    ///
    /// # Panics
    /// Panics when it cannot be copied or npm fails.
    pub fn copy(name: &str) -> Self {
        let cache = installed();
        let dir = tempfile::tempdir_in(cache).expect("the cache can be written");
        copy_dir(&fixtures().join("projects").join(name), &dir.path().join(name));
        Self { dir, name: name.to_owned() }
    }

    /// The project's directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// Replaces text in one of its files.
    ///
    /// # Panics
    /// Panics when the file has no such text.
    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.path().join(file);
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        assert!(text.contains(from), "{file} has no {from:?}");
        std::fs::write(&path, text.replace(from, to)).expect("the file can be written");
    }

    /// Writes one of its files.
    ///
    /// # Panics
    /// Panics when it cannot be written.
    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).expect("the file can be written");
    }

    /// Runs `atoll COMMAND... DIR` as the API's account.
    ///
    /// # Panics
    /// Panics when the binary cannot be started, or does not end.
    pub async fn atoll(&self, api: &Api, command: &[&str]) -> CommandOutput {
        let path = self.path();
        run(api, command.iter().map(OsStr::new).chain([path.as_os_str()])).await
    }
}

/// The free database of countries that the tests use, from npm.
///
/// # Panics
/// Panics when npm fails.
pub fn country_database() -> PathBuf {
    let package = "node_modules/@ip-location-db/geo-whois-asn-country-mmdb";
    installed().join(package).join("geo-whois-asn-country.mmdb")
}

/// Runs `atoll ARGUMENTS...` as the API's account.
pub(crate) async fn run<'a>(
    api: &Api,
    arguments: impl Iterator<Item = &'a OsStr>,
) -> CommandOutput {
    let mut process = tokio::process::Command::new(atoll_binary());
    process.args(arguments);
    process.env("ATOLL_API_URL", api.base_url());
    process.env("ATOLL_API_TOKEN", api.token());
    process.env("ATOLL_ACCOUNT_ID", api.account());
    finished(process).await
}

/// Runs a command to its end.
pub(crate) async fn finished(mut process: tokio::process::Command) -> CommandOutput {
    process.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_MAX, process.output()).await;
    let output = output.unwrap_or_else(|_| panic!("a command does not end"));
    let output = output.expect("the CLI can be started");
    CommandOutput {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A directory under cargo's whose `node_modules` has what the projects import. Tests of several
/// processes may ask for it at once, so npm works in a directory of its own and a rename, which
/// only the first can do, puts it in place.
fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let lock = std::fs::read(fixtures().join("projects/package-lock.json"))
            .expect("the lock file is there");
        let name = format!("atoll-tests-npm-{}", crate::hex::short_digest(&lock));
        let place = profile_dir().join(name);
        if !place.is_dir() {
            install(&place);
        }
        place
    })
}

fn install(place: &Path) {
    let parent = place.parent().expect("the place lies in the profile's directory");
    let work = tempfile::tempdir_in(parent).expect("cargo's directory can be written");
    for file in ["package.json", "package-lock.json", ".npmrc"] {
        std::fs::copy(fixtures().join("projects").join(file), work.path().join(file))
            .expect("the package files can be copied");
    }
    let output = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"])
        .current_dir(work.path())
        .stdin(Stdio::null())
        .output()
        .expect("npm can be started");
    assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    let renamed = std::fs::rename(work.path(), place);
    assert!(renamed.is_ok() || place.is_dir(), "cannot make {}: {renamed:?}", place.display());
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the copy's directory can be made");
    for entry in std::fs::read_dir(from).expect("the project can be read") {
        let entry = entry.expect("the project can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the file can be copied");
        }
    }
}
