//! Why a command fails, and with which exit code.

use std::path::{Path, PathBuf};

use super::client::ApiError;
use crate::bundle::BundleError;
use crate::project::ProjectError;

/// Why a command fails. Every message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The command was given wrongly.
    #[error("{0}")]
    Usage(String),
    /// Something else is not as it should be.
    #[error("{0}")]
    Failed(String),
    /// The project's configuration.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The project's sources.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The node.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A file.
    #[error("cannot access {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl CliError {
    /// 2 for a wrong command line, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }

    /// For `map_err` at a path.
    pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
