//! Watches the files that a bundle was made from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::error::CliError;

/// Editors write a file in several steps: this long must pass without another.
const QUIET: Duration = Duration::from_millis(60);

/// Tells when any of a set of files changes. Folders are watched rather than files, because many
/// editors replace a file instead of writing it.
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
    folders: BTreeSet<PathBuf>,
    changed: Arc<Notify>,
}

impl Watch {
    pub(crate) fn new() -> Result<Self, CliError> {
        let files = Arc::new(Mutex::new(BTreeSet::new()));
        let changed = Arc::new(Notify::new());
        let (known, notify) = (files.clone(), changed.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if event.paths.iter().any(|path| known.contains(path)) {
                notify.notify_one();
            }
        });
        let watcher = watcher.map_err(|e| failed(&e))?;
        Ok(Self { watcher, files, folders: BTreeSet::new(), changed })
    }

    /// Watches these files from now on, and no others.
    pub(crate) fn set(&mut self, files: impl IntoIterator<Item = PathBuf>) -> Result<(), CliError> {
        // Events carry real paths, so links on the way are resolved here.
        let real = |path: PathBuf| match (path.parent().map(Path::canonicalize), path.file_name()) {
            (Some(Ok(dir)), Some(name)) => dir.join(name),
            _ => path.clone(),
        };
        let files: BTreeSet<PathBuf> = files.into_iter().map(real).collect();
        let folders: BTreeSet<PathBuf> = files
            .iter()
            .filter_map(|f| f.parent())
            .filter(|d| d.is_dir())
            .map(Path::to_owned)
            .collect();
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        for gone in self.folders.difference(&folders) {
            // A folder that was removed is no longer watched anyway.
            let _ = self.watcher.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            self.watcher.watch(new, RecursiveMode::NonRecursive).map_err(|e| failed(&e))?;
        }
        self.folders = folders;
        Ok(())
    }

    /// Returns once something has changed and nothing has for a moment.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
        while tokio::time::timeout(QUIET, self.changed.notified()).await.is_ok() {}
    }
}

fn failed(error: &notify::Error) -> CliError {
    CliError::Failed(format!("cannot watch the project's files: {error}"))
}
