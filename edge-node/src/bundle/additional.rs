//! Modules that are uploaded as they are: a whole unbundled project, or the files that the module
//! rules find beside a bundle.

use std::path::{Path, PathBuf};

use super::rules::{Rules, module_kind};
use super::{Bundle, BundleError, BundleRequest, error, single};
use crate::registry::{Module, ModuleKind, ScriptFormat};

/// More files than any script has: a glob that reaches further is a mistake.
const MODULES_MAX: usize = 2_000;

/// Takes the entry script and, unless switched off, every file that the rules match.
pub(super) fn unbundled(request: BundleRequest<'_>) -> Result<Bundle, BundleError> {
    let settings = &request.project.bundle;
    let base = base_dir(request);
    let bytes = error::read(request.entry)?;
    let format = single::format(&String::from_utf8_lossy(&bytes));
    let kind = match format {
        ScriptFormat::Modules => ModuleKind::EsModule,
        ScriptFormat::ServiceWorker => ModuleKind::CommonJs,
    };
    let main_module = relative(&base, request.entry);
    let mut modules = vec![Module { name: main_module.clone(), kind, bytes }];
    if settings.find_additional_modules.unwrap_or(true) {
        modules.extend(find(request)?.into_iter().map(|found| found.module));
    }
    let inputs = modules.iter().map(|m| base.join(&m.name)).collect();
    Ok(Bundle { format, main_module, modules, inputs, warnings: String::new() })
}

/// A file that a rule found.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) module: Module,
}

/// Every file below the base folder that a rule matches, named relative to it.
pub(super) fn find(request: BundleRequest<'_>) -> Result<Vec<Found>, BundleError> {
    let rules = Rules::of(&request.project.bundle.rules);
    let base = base_dir(request);
    let mut found = Vec::new();
    let mut folders = vec![base.clone()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(BundleError::at(&folder))?;
        let mut paths: Vec<_> =
            entries.filter_map(|e| e.ok()).map(|e| (e.path(), e.file_type())).collect();
        paths.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, kind) in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match kind {
                Ok(kind) if kind.is_dir() => {
                    // Hidden folders and installed packages never hold a project's own modules.
                    if !name.starts_with('.') && name != "node_modules" {
                        folders.push(path);
                    }
                }
                _ if path == request.entry => {}
                _ => {
                    let name = relative(&base, &path);
                    let Some(kind) = rules.kind(&name) else { continue };
                    if found.len() == MODULES_MAX {
                        return Err(BundleError::TooManyModules(MODULES_MAX));
                    }
                    let (kind, bytes) = (module_kind(kind), error::read(&path)?);
                    found.push(Found { path, module: Module { name, kind, bytes } });
                }
            }
        }
    }
    Ok(found)
}

fn base_dir(request: BundleRequest<'_>) -> PathBuf {
    let entry_dir = || request.entry.parent().unwrap_or(Path::new("/")).to_owned();
    request.project.bundle.base_dir.clone().unwrap_or_else(entry_dir)
}

/// A path below a folder, with forward slashes.
fn relative(base: &Path, path: &Path) -> String {
    path.strip_prefix(base).unwrap_or(path).to_string_lossy().replace('\\', "/")
}
