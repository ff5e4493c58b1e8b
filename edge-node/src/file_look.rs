//! What tells a file from another under the same name, for those who read configured files again when they
//! change. Watching them instead would miss those behind a link that is moved, which is how renewed files are put
//! in place.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How often files are looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What a look at a file saw. Links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileLook {
    modified: Option<SystemTime>,
    /// The file's size.
    pub(crate) bytes: u64,
    inode: u64,
}

impl FileLook {
    /// Looks at a file.
    ///
    /// # Errors
    /// When there is none, or it cannot be looked at.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        })
    }
}
