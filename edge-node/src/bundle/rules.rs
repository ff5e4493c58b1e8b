//! Module rules: which files are modules of their own, and of what kind.

use super::error::BundleError;
use super::glob;
use crate::project::{ModuleRule, RuleKind};
use crate::registry::ModuleKind;

/// Extensions that only ever hold code: as text they could not be told from the sources.
const SCRIPT_EXTENSIONS: [&str; 8] = [".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx"];

/// The rules that hold for a project, in order.
#[derive(Debug)]
pub(super) struct Rules(Vec<ModuleRule>);

impl Rules {
    /// The project's rules, then the defaults of every kind that they do not end.
    pub(super) fn of(project: &[ModuleRule]) -> Self {
        let default = |kind, globs: &[&str]| ModuleRule {
            kind,
            globs: globs.iter().map(|g| g.to_string()).collect(),
            fallthrough: false,
        };
        let defaults = [
            default(RuleKind::Text, &["**/*.txt", "**/*.html", "**/*.sql"]),
            default(RuleKind::Data, &["**/*.bin"]),
            default(RuleKind::CompiledWasm, &["**/*.wasm"]),
        ];
        let mut ended = Vec::new();
        let mut rules = Vec::new();
        for rule in project.iter().cloned().chain(defaults) {
            if ended.contains(&rule.kind) {
                continue;
            }
            if !rule.fallthrough {
                ended.push(rule.kind);
            }
            rules.push(rule);
        }
        Self(rules)
    }

    /// The kind of module that a file is, if any rule says.
    pub(super) fn kind(&self, path: &str) -> Option<RuleKind> {
        let path = path.split('?').next().unwrap_or(path);
        let matched = |rule: &&ModuleRule| rule.globs.iter().any(|g| glob::matches(g, path));
        self.0.iter().find(matched).map(|rule| rule.kind)
    }

    /// The extensions of the files that stay modules of their own in a bundle.
    pub(super) fn copied_extensions(&self) -> Result<Vec<String>, BundleError> {
        let mut extensions = Vec::new();
        let copied = self.0.iter().filter(|r| !is_script(r.kind)).flat_map(|r| &r.globs);
        for written in copied {
            for glob in glob::alternatives(written) {
                let extension = extension(&glob).map_err(|reason| BundleError::Rule {
                    glob: written.clone(),
                    reason: reason.to_owned(),
                })?;
                if !extensions.contains(&extension) {
                    extensions.push(extension);
                }
            }
        }
        Ok(extensions)
    }
}

/// Whether files of that kind are code, which a bundle takes in.
pub(super) fn is_script(kind: RuleKind) -> bool {
    matches!(kind, RuleKind::EsModule | RuleKind::CommonJs)
}

/// The kind under which a file is uploaded.
pub(super) fn module_kind(kind: RuleKind) -> ModuleKind {
    match kind {
        RuleKind::EsModule => ModuleKind::EsModule,
        RuleKind::CommonJs => ModuleKind::CommonJs,
        RuleKind::CompiledWasm => ModuleKind::Wasm,
        RuleKind::Text => ModuleKind::Text,
        RuleKind::Data => ModuleKind::Data,
    }
}

fn extension(glob: &str) -> Result<String, &'static str> {
    let name = glob.rsplit('/').next().unwrap_or(glob).trim_end_matches("?module");
    let from = match name.rfind('*') {
        Some(star) => name[star..].find('.').map(|dot| star + dot),
        None => name.rfind('.'),
    };
    let extension = from.map(|from| &name[from..]).unwrap_or_default();
    if extension.len() < 2 || extension.contains(['?', '[', '*']) {
        return Err("a glob must end in a file extension, such as **/*.md");
    }
    if SCRIPT_EXTENSIONS.contains(&extension) {
        return Err("scripts are bundled: give files that are not code another extension");
    }
    Ok(extension.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: RuleKind, glob: &str, fallthrough: bool) -> ModuleRule {
        ModuleRule { kind, globs: vec![glob.to_owned()], fallthrough }
    }

    #[test]
    fn a_rule_ends_the_default_of_its_kind() {
        let rules = Rules::of(&[rule(RuleKind::Text, "**/*.md", false)]);
        assert_eq!(rules.kind("a/b.md"), Some(RuleKind::Text));
        assert_eq!(rules.kind("a.txt"), None);
        assert_eq!(rules.kind("a.wasm?module"), Some(RuleKind::CompiledWasm));
        let rules = Rules::of(&[rule(RuleKind::Text, "**/*.md", true)]);
        assert_eq!(rules.kind("a.txt"), Some(RuleKind::Text));
        assert_eq!(
            rules.copied_extensions().unwrap(),
            [".md", ".txt", ".html", ".sql", ".bin", ".wasm"]
        );
    }

    #[test]
    fn globs_name_extensions() {
        for (glob, expected) in [
            ("**/*.md", Some(".md")),
            ("a/*.tar.gz", Some(".tar.gz")),
            ("data.v1.csv", Some(".csv")),
            ("**/*", None),
            ("**/*.js", None),
            ("Makefile", None),
        ] {
            let rules = Rules::of(&[rule(RuleKind::Text, glob, false)]);
            let first = rules.copied_extensions().ok().map(|e| e[0].clone());
            assert_eq!(first.as_deref(), expected, "{glob}");
        }
    }
}
