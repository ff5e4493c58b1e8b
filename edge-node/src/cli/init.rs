//! `atoll init`: a TypeScript project that deploys as it is.

use std::path::Path;

use serde_json::json;

use super::args::InitArgs;
use super::error::CliError;
use super::session::Session;
use crate::project::LATEST_COMPATIBILITY_DATE;

macro_rules! template {
    ($($path:literal from $file:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../templates/typescript/", $file)))),*]
    };
}

/// The template's files. `.gitignore` has another name in the sources, where it would take effect.
const FILES: &[(&str, &str)] = template![
    "wrangler.jsonc" from "wrangler.jsonc",
    "src/index.ts" from "src/index.ts",
    "package.json" from "package.json",
    "tsconfig.json" from "tsconfig.json",
    ".gitignore" from "gitignore",
    "README.md" from "README.md",
];

pub(crate) fn run(session: &Session, args: &InitArgs) -> Result<(), CliError> {
    let dir = std::path::absolute(&args.dir).map_err(CliError::at(&args.dir))?;
    let folder = dir.file_name().unwrap_or_default().to_string_lossy();
    let name = args.name.clone().unwrap_or_else(|| worker_name(&folder));
    write(&dir, &name)?;
    let terminal = session.terminal;
    if terminal.json {
        terminal.json(&json!({ "name": name, "dir": dir }));
        return Ok(());
    }
    terminal.line(format!("{} {name} in {}", terminal.green("made"), dir.display()));
    terminal.line(format!("  atoll dev {}      try it here", args.dir.display()));
    terminal.line(format!("  atoll deploy {}   put it on a node", args.dir.display()));
    Ok(())
}

/// Writes the template, and nothing when any of its files is there already.
fn write(dir: &Path, name: &str) -> Result<(), CliError> {
    if let Some((path, _)) = FILES.iter().find(|(path, _)| dir.join(path).exists()) {
        return Err(CliError::Failed(format!(
            "{} exists already: choose another folder",
            dir.join(path).display()
        )));
    }
    for (path, text) in FILES {
        let path = dir.join(path);
        let folder = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(CliError::at(folder))?;
        let text = text
            .replace("{{name}}", name)
            .replace("{{compatibility_date}}", LATEST_COMPATIBILITY_DATE);
        std::fs::write(&path, text).map_err(CliError::at(&path))?;
    }
    Ok(())
}

/// A folder's name as a worker's.
fn worker_name(folder: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = folder.chars().map(keep).take(54).collect();
    match name.trim_matches('-') {
        "" => "worker".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Project;

    #[test]
    fn the_template_is_a_project() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "my-worker").unwrap();
        let project = Project::read(&dir.path().join("wrangler.jsonc"), None).unwrap();
        assert_eq!(project.name.as_deref(), Some("my-worker"));
        assert!(project.main.unwrap().is_file() && project.warnings.is_empty());
        assert!(write(dir.path(), "again").is_err());
    }

    #[test]
    fn folders_name_workers() {
        for (folder, expected) in [("My App", "my-app"), ("", "worker"), ("_x_", "x")] {
            assert_eq!(worker_name(folder), expected);
        }
    }
}
