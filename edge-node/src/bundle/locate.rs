//! Finds esbuild: where it was named, in the project, on the PATH, or in a cache of the user's
//! that npm fills once.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::error::BundleError;

/// The version that the cache is filled with.
pub const ESBUILD_VERSION: &str = "0.28.2";

/// Older ones do not know the language level that bundles are made for.
const OLDEST: (u32, u32) = (0, 24);

/// Where esbuild may come from.
#[derive(Clone, Debug, Default)]
pub struct EsbuildSource {
    /// A program that the user names; nothing else is looked at then.
    pub explicit: Option<PathBuf>,
    /// The folders that programs are looked for in, as in `PATH`.
    pub search_path: Option<OsString>,
    /// The folder that holds the cache.
    pub cache_dir: Option<PathBuf>,
}

impl EsbuildSource {
    /// The path of an esbuild that is new enough.
    pub(super) async fn find(
        &self,
        project_dir: &Path,
        notice: &(dyn Fn(&str) + Sync),
    ) -> Result<PathBuf, BundleError> {
        if let Some(path) = &self.explicit {
            return match version(path).await {
                Some(_) => Ok(path.clone()),
                None => Err(BundleError::Bundler {
                    path: path.clone(),
                    reason: "it does not answer to --version: correct ATOLL_ESBUILD".into(),
                }),
            };
        }
        let installed = project_dir.ancestors().map(|dir| dir.join("node_modules"));
        let search_path = self.search_path.clone().unwrap_or_default();
        let on_path = std::env::split_paths(&search_path).map(|dir| dir.join("esbuild"));
        for candidate in installed.flat_map(|dir| in_node_modules(&dir)).chain(on_path) {
            if candidate.is_file() && version(&candidate).await.is_some_and(|v| v >= OLDEST) {
                return Ok(candidate);
            }
        }
        self.cached(notice).await
    }

    async fn cached(&self, notice: &(dyn Fn(&str) + Sync)) -> Result<PathBuf, BundleError> {
        let cache = self.cache_dir.as_ref();
        let cache =
            cache.ok_or_else(|| BundleError::NoBundler("no folder for a cache is known".into()))?;
        let dir = cache.join(format!("esbuild-{ESBUILD_VERSION}"));
        let candidates = || in_node_modules(&dir.join("node_modules"));
        if let Some(ready) = candidates().into_iter().find(|path| path.is_file()) {
            return Ok(ready);
        }
        std::fs::create_dir_all(&dir).map_err(BundleError::at(&dir))?;
        // Two processes at once would fill the same folder: the second waits and finds it filled.
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(BundleError::at(&lock_path))?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await;
        let _held =
            lock.map_err(std::io::Error::other).flatten().map_err(BundleError::at(&lock_path))?;
        if let Some(ready) = candidates().into_iter().find(|path| path.is_file()) {
            return Ok(ready);
        }
        notice(&format!("installing esbuild {ESBUILD_VERSION} with npm into {}", dir.display()));
        install(&dir).await?;
        let found = candidates().into_iter().find(|path| path.is_file());
        found.ok_or_else(|| BundleError::NoBundler("npm installed none for this platform".into()))
    }
}

async fn install(dir: &Path) -> Result<(), BundleError> {
    let output = Command::new("npm")
        .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix"])
        .arg(dir)
        .arg(format!("esbuild@{ESBUILD_VERSION}"))
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| BundleError::NoBundler(format!("npm cannot be run to install it ({e})")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BundleError::NoBundler(format!("npm could not install it:\n{text}\n")))
}

/// The native program first: npm's wrapper needs a working `node` and costs its start.
fn in_node_modules(dir: &Path) -> [PathBuf; 2] {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        other => other,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    [dir.join(format!("@esbuild/{os}-{arch}/bin/esbuild")), dir.join(".bin/esbuild")]
}

async fn version(program: &Path) -> Option<(u32, u32)> {
    let output = Command::new(program).arg("--version").kill_on_drop(true).output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut parts = text.trim().split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
