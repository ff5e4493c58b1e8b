//! Watches the files that a bundle was made from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::error::CliError;

/// Editors write a file in several steps: this long must pass without another.
const QUIET: Duration = Duration::from_millis(60);

/// Tells when any of a set of files changes, or any file right in one of a set of folders. Folders are
/// watched rather than files, because many editors replace a file instead of writing it.
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    paths: Arc<Mutex<BTreeSet<PathBuf>>>,
    folders: BTreeSet<PathBuf>,
    changed: Arc<Notify>,
    /// When the last known change is taken for the last of its kind, unless another comes before.
    quiet_at: Option<Instant>,
}

impl Watch {
    pub(crate) fn new() -> Result<Self, CliError> {
        let paths = Arc::new(Mutex::new(BTreeSet::<PathBuf>::new()));
        let changed = Arc::new(Notify::new());
        let (known, notify) = (paths.clone(), changed.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let mut touched = event.paths.iter().flat_map(|path| path.ancestors().take(2));
            if touched.any(|path| known.contains(path)) {
                notify.notify_one();
            }
        });
        let watcher = watcher.map_err(|e| failed(&e))?;
        Ok(Self { watcher, paths, folders: BTreeSet::new(), changed, quiet_at: None })
    }

    /// Watches these files and folders, and no others, for changes after they were read.
    pub(crate) fn set(
        &mut self,
        paths: impl IntoIterator<Item = PathBuf>,
        read_at: SystemTime,
    ) -> Result<(), CliError> {
        // Events carry real paths, so links on the way are resolved here.
        let real = |path: PathBuf| match (path.parent().map(Path::canonicalize), path.file_name()) {
            (Some(Ok(dir)), Some(name)) => dir.join(name),
            _ => path.clone(),
        };
        let paths: BTreeSet<PathBuf> = paths.into_iter().map(real).collect();
        let folders: BTreeSet<PathBuf> = paths
            .iter()
            .filter_map(|path| path.ancestors().take(2).find(|path| path.is_dir()))
            .map(Path::to_owned)
            .collect();
        *self.paths.lock().unwrap_or_else(PoisonError::into_inner) = paths.clone();
        for gone in self.folders.difference(&folders) {
            // A folder that was removed is no longer watched anyway.
            let _ = self.watcher.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            self.watcher.watch(new, RecursiveMode::NonRecursive).map_err(|e| failed(&e))?;
        }
        self.folders = folders;
        // What was noticed so far may have been read already, or be a build's own output.
        self.quiet_at = None;
        let _ = self.changed.notified().now_or_never();
        let saved = |path: &PathBuf| path.metadata().and_then(|m| m.modified()).ok();
        if paths.iter().filter_map(saved).any(|saved_at| saved_at > read_at) {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Returns once something has changed and nothing has for a moment. When it is dropped before,
    /// the next call knows of the change.
    pub(crate) async fn changed(&mut self) {
        loop {
            match self.quiet_at {
                None => self.changed.notified().await,
                Some(at) => {
                    if timeout_at(at, self.changed.notified()).await.is_err() {
                        self.quiet_at = None;
                        return;
                    }
                }
            }
            self.quiet_at = Some(Instant::now() + QUIET);
        }
    }
}

fn failed(error: &notify::Error) -> CliError {
    CliError::Failed(format!("cannot watch the project's files: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than [`QUIET`], and long before a test is given up.
    const WAIT_MAX: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_change_outlives_a_wait_that_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.ts");
        std::fs::write(&file, "1").unwrap();
        let mut watch = Watch::new().unwrap();
        watch.set([file.clone()], SystemTime::now() + WAIT_MAX).unwrap();
        // An editor that replaces the file.
        std::fs::write(dir.path().join("new"), "2").unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        let waits =
            async { while tokio::time::timeout(QUIET / 4, watch.changed()).await.is_err() {} };
        tokio::time::timeout(WAIT_MAX, waits).await.expect("the change is seen");
    }

    #[tokio::test]
    async fn what_was_saved_after_reading_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.ts");
        std::fs::write(&file, "1").unwrap();
        let mut watch = Watch::new().unwrap();
        watch.set([file], SystemTime::UNIX_EPOCH).unwrap();
        tokio::time::timeout(WAIT_MAX, watch.changed()).await.expect("the change is seen");
    }
}
