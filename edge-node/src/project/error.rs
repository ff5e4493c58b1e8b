//! What can be wrong with a project before anything of it is built.

use std::path::PathBuf;

use super::Diagnostic;

/// Why a project cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// No configuration file lies in the folder or above it.
    #[error(
        "no wrangler.json, wrangler.jsonc or wrangler.toml in {} or above it: \
         start a project with `atoll init`, or name a file with --config",
        .0.display()
    )]
    NotFound(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not what it should be, each problem with its place.
    #[error("{}", join(.0))]
    Invalid(Vec<Diagnostic>),
}

fn join(problems: &[Diagnostic]) -> String {
    problems.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n\n")
}
