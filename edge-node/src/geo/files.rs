//! Database files: each is read into sealed memory when it comes and whenever it changes. A file that is broken
//! replaces nothing.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_isolate::SealedMemory;
use atoll_router::{GeoError, GeoTable};
use bytes::Bytes;
use rustix::fs::{MemfdFlags, SealFlags};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::file_look::{FileLook, LOOK_INTERVAL};

/// Bytes of one database.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// The databases of a node in their order, each in sealed memory.
pub(crate) type GeoFiles = Arc<Vec<OwnedFd>>;

/// A database file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the database {path} (geo.database): {cause}", path = path.display())]
pub(crate) struct GeoFileError {
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Geo(#[from] GeoError),
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
}

/// A configured file. One that changed is read when two looks in a row saw the same.
struct Watched {
    path: PathBuf,
    /// What was read last, well or not.
    read: FileLook,
    /// What the look before saw.
    before: FileLook,
    missing: bool,
}

/// Reads the files, and again what changes.
pub(crate) struct GeoWatch {
    pub(crate) files: watch::Receiver<GeoFiles>,
    task: JoinHandle<()>,
}

impl Drop for GeoWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GeoWatch {
    /// Reads all files and begins to watch them. Needs a tokio runtime.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub(crate) async fn start(paths: &[PathBuf]) -> Result<Self, GeoFileError> {
        Self::start_looking(paths, LOOK_INTERVAL).await
    }

    pub(super) async fn start_looking(
        paths: &[PathBuf],
        interval: Duration,
    ) -> Result<Self, GeoFileError> {
        let (mut watched, mut files) = (Vec::new(), Vec::new());
        for path in paths {
            let (look, file) = read_unblocked(path.clone()).await?;
            watched.push(Watched { path: path.clone(), read: look, before: look, missing: false });
            files.push(file);
        }
        let (sender, files) = watch::channel(Arc::new(files));
        let task = tokio::spawn(look_after(watched, sender, interval));
        Ok(Self { files, task })
    }
}

async fn look_after(mut all: Vec<Watched>, files: watch::Sender<GeoFiles>, interval: Duration) {
    if all.is_empty() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        for (at, watched) in all.iter_mut().enumerate() {
            if !watched.has_changed() {
                continue;
            }
            let path = watched.path.display();
            match read_unblocked(watched.path.clone()).await {
                Ok((look, file)) => {
                    watched.read = look;
                    let new = replaced(&files.borrow(), at, file);
                    match new {
                        Ok(new) => {
                            files.send_replace(new);
                            tracing::info!(%path, "a changed database is in use");
                        }
                        Err(error) => {
                            tracing::error!(%path, %error, "a changed database is not used")
                        }
                    }
                }
                Err(error) => {
                    watched.read = watched.before;
                    tracing::error!(%error, "the database that was in use stays in use");
                }
            }
        }
    }
}

/// The same files with another one at a place.
fn replaced(files: &[OwnedFd], at: usize, file: OwnedFd) -> io::Result<GeoFiles> {
    let mut all = files.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
    all[at] = file;
    Ok(Arc::new(all))
}

impl Watched {
    /// Whether another file is there than the one that was read, and nobody is writing it any more.
    fn has_changed(&mut self) -> bool {
        let look = match FileLook::of(&self.path) {
            Ok(look) => look,
            Err(error) => {
                if !std::mem::replace(&mut self.missing, true) {
                    tracing::error!(path = %self.path.display(), %error, "a database is gone: what was read of it stays in use");
                }
                return false;
            }
        };
        self.missing = false;
        let settled = std::mem::replace(&mut self.before, look) == look;
        settled && look != self.read
    }
}

/// Reads where blocking is allowed: a large file takes a moment.
async fn read_unblocked(path: PathBuf) -> Result<(FileLook, OwnedFd), GeoFileError> {
    let at = path.clone();
    let read = tokio::task::spawn_blocking(move || read(&at)).await;
    let read = read.unwrap_or_else(|failed| Err(io::Error::other(failed).into()));
    read.map_err(|cause| GeoFileError { path, cause })
}

/// Reads a file into sealed memory and looks at all of it.
fn read(path: &Path) -> Result<(FileLook, OwnedFd), Cause> {
    let look = FileLook::of(path)?;
    if look.bytes > FILE_BYTES_MAX {
        return Err(Cause::TooLarge);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create("geo", flags).map_err(io::Error::from)?);
    let mut file = io::Read::take(File::open(path)?, FILE_BYTES_MAX);
    io::copy(&mut file, &mut memory)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals).map_err(io::Error::from)?;
    let memory = OwnedFd::from(memory);
    GeoTable::check(Bytes::from_owner(SealedMemory::map(memory.try_clone()?)?))?;
    Ok((look, memory))
}
