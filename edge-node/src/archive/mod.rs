//! Everything that a node keeps, in one file: to move from a single node to a cluster and back, or to keep
//! aside. It works on the files of a node that does not run. Secrets stay sealed, so the file is of use only
//! with the `node.key` that sealed them.

mod export;
mod format;
mod import;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub(crate) use export::export;
pub(crate) use import::import;

use crate::registry::RegistryError;

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Rows of the registry.
    pub(crate) rows: u64,
    /// Modules of scripts.
    pub(crate) modules: u64,
    /// KV keys.
    pub(crate) keys: u64,
    /// KV keys that were left out, for they expire too soon to be written.
    pub(crate) keys_expiring: u64,
    /// KV keys that were left out, for their values cannot be had.
    pub(crate) keys_missing: u64,
}

/// What to do with a KV value that is not on this node and cannot be fetched from its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissingValue {
    /// Fail: the file would not hold everything.
    Refuse,
    /// Leave it out: where the servers are lost, this is all that there is.
    LeaveOut,
}

/// Why nothing, or not all, was moved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("cannot use {path}: {source}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("it is no export of a node, or is cut short or damaged: take another copy of it ({0})")]
    Damaged(&'static str),
    #[error("it was written by a newer release: import it with that one")]
    Newer,
    #[error(
        "its secrets are sealed with another key: copy node.key from the data directory that was exported to the \
         new one before its first start"
    )]
    OtherKey,
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the key-value store failed: {0}")]
    Kv(#[from] atoll_kv::KvError),
    #[error(
        "the value of KV key {0:?} is not on this node and cannot be fetched now: try again when the NATS servers can \
         be reached, or leave such values out with --leave-out-missing"
    )]
    Missing(String),
    #[error("KV key {0:?} differs after it was written: import again into an empty node")]
    Differs(String),
}
