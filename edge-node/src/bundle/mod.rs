//! Bundles a project's sources into uploadable modules, with the bundler and the settings that
//! wrangler uses. Plain single-file scripts are taken as they are and need no bundler.

mod additional;
mod error;
mod esbuild;
mod glob;
mod inline_maps;
mod locate;
mod metafile;
mod rules;
mod single;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use error::BundleError;
pub use locate::{ESBUILD_VERSION, EsbuildSource};

use crate::project::Project;
use crate::registry::{Module, ScriptFormat};

/// What a bundle is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Serving: `process.env.NODE_ENV` is `production`.
    Deploy,
    /// Trying out on this machine: it is `development`.
    Develop,
}

/// What to bundle and how.
#[derive(Clone, Copy, Debug)]
pub struct BundleRequest<'a> {
    /// The project.
    pub project: &'a Project,
    /// The entry script, absolute.
    pub entry: &'a Path,
    /// What for.
    pub purpose: Purpose,
    /// Minify whatever the project says.
    pub minify: bool,
    /// Whether the bundler's messages are coloured.
    pub color: bool,
}

/// The modules of one script.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The syntax of the main module.
    pub format: ScriptFormat,
    /// The name of the main module.
    pub main_module: String,
    /// Every module, the main one first, its source map last.
    pub modules: Vec<Module>,
    /// Every file that went in, absolute: what to watch.
    pub inputs: Vec<PathBuf>,
    /// What the bundler finds odd, ready to print.
    pub warnings: String,
}

/// Makes the modules of a project. `notice` is told of what takes long, such as the one-time
/// installation of the bundler.
pub async fn bundle(
    request: BundleRequest<'_>,
    source: &EsbuildSource,
    notice: &(dyn Fn(&str) + Sync),
) -> Result<Bundle, BundleError> {
    if !request.entry.is_file() {
        return Err(BundleError::NoEntry(request.entry.to_owned()));
    }
    if request.project.bundle.no_bundle {
        return additional::unbundled(request);
    }
    if let Some(bundle) = single::as_is(request)? {
        return Ok(bundle);
    }
    check_dependencies(request)?;
    let esbuild = source.find(&request.project.dir, notice).await?;
    esbuild::run(request, &esbuild).await
}

/// Says what to do when dependencies are named but were never installed.
fn check_dependencies(request: BundleRequest<'_>) -> Result<(), BundleError> {
    let folders = || request.entry.ancestors().skip(1);
    let Some(dir) = folders().find(|dir| dir.join("package.json").is_file()) else {
        return Ok(());
    };
    let manifest = error::read(&dir.join("package.json"))?;
    let named = serde_json::from_slice::<serde_json::Value>(&manifest)
        .ok()
        .and_then(|m| m.get("dependencies")?.as_object().map(|d| !d.is_empty()))
        .unwrap_or(false);
    let installed = folders().any(|dir| dir.join("node_modules").is_dir());
    match named && !installed {
        true => Err(BundleError::NotInstalled(dir.to_owned())),
        false => Ok(()),
    }
}
