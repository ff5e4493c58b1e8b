//! Rules in a project's file, under `atoll.rules`, or in a file of their own: read, and checked as a node will.

use std::path::{Path, PathBuf};

use atoll_router::rules::{Overlay, RuleProblem, RuleSet, Step};

use super::config::Scopes;
use super::document::{Document, Entry, Node, Value};
use super::{Diagnostic, ProjectError};

/// What stands under `atoll`.
const KEYS: [&str; 3] = ["pools", "regions", "rules"];

/// A project's rules.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectRules {
    /// As a node takes them.
    pub document: serde_json::Value,
    /// The file that they stand in, unless it is the project's.
    pub path: Option<PathBuf>,
}

impl ProjectRules {
    /// Reads a file of rules.
    ///
    /// # Errors
    /// Fails when it cannot be read, or is no set of rules: with every problem and its line.
    pub fn read(path: &Path) -> Result<Self, ProjectError> {
        let document = Document::read(path)?;
        let (rules, problems) = checked(&document, &document.root, 0..0);
        match problems.is_empty() {
            true => Ok(Self { document: rules, path: Some(path.to_owned()) }),
            false => Err(ProjectError::Invalid(problems)),
        }
    }
}

/// The rules of a project; none where its file says nothing of them.
pub(super) fn read(
    document: &Document,
    scopes: &Scopes<'_>,
    dir: &Path,
    problems: &mut Vec<Diagnostic>,
    warnings: &mut Vec<Diagnostic>,
) -> Option<ProjectRules> {
    let own = member(scopes.inherited("atoll"), "atoll")?;
    let Value::Object(entries) = &own.node.value else {
        let message = format!("\"atoll\" must be a table, not {}", own.node.value.noun());
        problems.push(document.diagnostic(own.node.span.clone(), message));
        return None;
    };
    for entry in entries.iter().filter(|entry| !KEYS.contains(&entry.key.as_str())) {
        let message = format!("unknown key \"atoll.{}\" is ignored", entry.key);
        warnings.push(document.diagnostic(entry.key_span.clone(), message));
    }
    let node = &member(entries, "rules")?.node;
    match &node.value {
        Value::Object(entries) => {
            let (rules, found) = checked(document, entries, node.span.clone());
            problems.extend(found);
            Some(ProjectRules { document: rules, path: None })
        }
        Value::String(path) => match ProjectRules::read(&dir.join(path)) {
            Ok(rules) => Some(rules),
            Err(ProjectError::Invalid(found)) => {
                problems.extend(found);
                None
            }
            Err(error) => {
                problems.push(document.diagnostic(node.span.clone(), error.to_string()));
                None
            }
        },
        other => {
            let message =
                format!("\"rules\" must be a table or a file's name, not {}", other.noun());
            problems.push(document.diagnostic(node.span.clone(), message));
            None
        }
    }
}

/// A member that is not null.
fn member<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().rfind(|entry| entry.key == key && !matches!(entry.node.value, Value::Null))
}

/// Rules as JSON, and what is wrong with them.
fn checked(
    document: &Document,
    entries: &[Entry],
    whole: std::ops::Range<usize>,
) -> (serde_json::Value, Vec<Diagnostic>) {
    let root = Node { value: Value::Object(entries.to_vec()), span: whole };
    let rules = root.value.to_json();
    let problems = match RuleSet::parse(&rules, Overlay::default()) {
        Ok(_) => Vec::new(),
        Err(error) => error.0.iter().map(|problem| placed(document, &root, problem)).collect(),
    };
    (rules, problems)
}

/// Points at the place that a problem names, or at the nearest one around it.
fn placed(document: &Document, root: &Node, problem: &RuleProblem) -> Diagnostic {
    let (mut node, mut span) = (root, root.span.clone());
    for step in &problem.path {
        let below = match (&node.value, step) {
            (Value::Object(entries), Step::Key(key)) => {
                let entry = entries.iter().find(|entry| entry.key == *key);
                entry.map(|entry| (&entry.node, entry.key_span.clone()))
            }
            (Value::Array(items), Step::Index(at)) => {
                items.get(*at).map(|item| (item, item.span.clone()))
            }
            _ => None,
        };
        let Some((below, named)) = below else { break };
        // Of what is unknown the key is wrong, of what is not the value.
        span = if problem.message.starts_with("unknown key") { named } else { below.span.clone() };
        node = below;
    }
    document.diagnostic(span, problem.message.clone())
}
