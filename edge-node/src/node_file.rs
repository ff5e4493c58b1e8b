//! Where a running node listens, written into its data directory: how commands on the same machine
//! find it. It is there from start to drain; a node that was killed leaves it behind.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

const FILE: &str = "node.json";

/// The file's contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeFile {
    /// Where the API answers.
    pub(crate) admin: SocketAddr,
    /// Where workers answer over plain HTTP.
    pub(crate) http: SocketAddr,
    /// Where workers answer over TLS.
    pub(crate) https: SocketAddr,
    /// The node's process.
    pub(crate) pid: u32,
}

impl NodeFile {
    /// Replaces the file whole.
    pub(crate) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let mut file = NamedTempFile::new_in(data_dir)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.persist(path(data_dir))?;
        Ok(())
    }

    /// What the node of this directory wrote; none when no node runs there.
    pub(crate) fn read(data_dir: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::read(path(data_dir)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the file away.
    pub(crate) fn remove(data_dir: &Path) -> std::io::Result<()> {
        std::fs::remove_file(path(data_dir))
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(NodeFile::read(dir.path()).unwrap(), None);
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let file = NodeFile { admin: address(1), http: address(2), https: address(3), pid: 4 };
        file.write(dir.path()).unwrap();
        assert_eq!(NodeFile::read(dir.path()).unwrap(), Some(file));
        NodeFile::remove(dir.path()).unwrap();
        assert_eq!(NodeFile::read(dir.path()).unwrap(), None);
    }
}
