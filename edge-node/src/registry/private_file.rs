//! Small files that only the owner may read, written once and whole.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::RegistryError;

/// Creates `path` with mode 0600, durably, unless it exists: then the existing contents win.
pub(crate) fn read_or_create(
    path: &Path,
    contents: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, RegistryError> {
    let failed = |source| RegistryError::File { path: path.to_owned(), source };
    match std::fs::read(path) {
        Ok(bytes) => return Ok(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let dir = path.parent().expect("a file in the data directory has a parent");
    let bytes = contents();
    // Temporary files are created with mode 0600, so the contents are never readable by others.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => {
            return std::fs::read(path).map_err(failed);
        }
        Err(e) => return Err(failed(e.error)),
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(bytes)
}
