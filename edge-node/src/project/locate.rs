//! Finds the configuration file of a project, the way wrangler does.

use std::path::{Path, PathBuf};

use super::ProjectError;
use super::document::Document;
use super::fields::Fields;

const NAMES: [&str; 3] = ["wrangler.json", "wrangler.jsonc", "wrangler.toml"];

/// Where a framework's build leaves the name of the configuration that it generated.
const REDIRECT: &str = ".wrangler/deploy/config.json";

/// The configuration file for a folder: each name is looked for in the folder and all above it
/// before the next name is tried, and a build's redirect file beside or below it wins.
pub fn find_config(dir: &Path) -> Result<PathBuf, ProjectError> {
    let found = NAMES.iter().find_map(|name| above(dir, name));
    let redirect = above(dir, REDIRECT);
    match (found, redirect) {
        (found, Some(redirect)) if governs(&redirect, found.as_deref()) => follow(&redirect),
        (Some(found), _) => Ok(found),
        (None, _) => Err(ProjectError::NotFound(dir.to_owned())),
    }
}

fn above(dir: &Path, name: &str) -> Option<PathBuf> {
    dir.ancestors().map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A redirect counts only for the project that it lies in, not for one nested below it.
fn governs(redirect: &Path, found: Option<&Path>) -> bool {
    let home = |path: &Path, levels| path.ancestors().nth(levels).map(Path::to_owned);
    match found {
        Some(found) => home(redirect, 3) >= home(found, 1),
        None => true,
    }
}

fn follow(redirect: &Path) -> Result<PathBuf, ProjectError> {
    let document = Document::read(redirect)?;
    let mut problems = Vec::new();
    let target = Fields::new(&document, &document.root, &mut problems).string("configPath");
    if !problems.is_empty() {
        return Err(ProjectError::Invalid(problems));
    }
    let target = target.ok_or_else(|| {
        ProjectError::Invalid(vec![document.diagnostic(0..1, "configPath is missing")])
    })?;
    Ok(redirect.parent().unwrap_or(Path::new(".")).join(target))
}
