//! What can go wrong between sources and modules.

use std::path::{Path, PathBuf};

use bytes::Bytes;

/// Why a project cannot be bundled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The entry script does not exist.
    #[error("there is no entry script {}: correct \"main\" in the configuration", .0.display())]
    NoEntry(PathBuf),
    /// Dependencies are named in package.json, but there is no node_modules.
    #[error("the dependencies are not installed: run npm install in {}", .0.display())]
    NotInstalled(PathBuf),
    /// The sources do not compile; the text is the bundler's, with places.
    #[error("the sources do not compile\n\n{0}")]
    Sources(String),
    /// A module rule cannot be honoured.
    #[error("module rule {glob:?}: {reason}")]
    Rule {
        /// The rule's glob.
        glob: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The script cannot be uploaded in its format.
    #[error("{0}")]
    Format(String),
    /// No bundler was found or could be installed.
    #[error(
        "esbuild is needed to bundle this project, and {0}: install it with \
         `npm install --save-dev esbuild` in the project, or set ATOLL_ESBUILD to its path"
    )]
    NoBundler(String),
    /// The bundler itself failed.
    #[error("esbuild ({}) failed: {reason}", path.display())]
    Bundler {
        /// The program.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("cannot access {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// More files match the module rules than a script can have.
    #[error("more than {0} files match the module rules: narrow their globs or set base_dir")]
    TooManyModules(usize),
}

impl BundleError {
    /// For `map_err` at a path.
    pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// Reads a file whole.
pub(super) fn read(path: &Path) -> Result<Bytes, BundleError> {
    std::fs::read(path).map(Bytes::from).map_err(BundleError::at(path))
}
