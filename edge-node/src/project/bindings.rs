//! The bindings that a configuration grants, before the node's ids are known.

use super::Diagnostic;
use super::config::Scopes;
use super::document::{Document, Value};
use super::fields::Fields;

/// A name in `env`, as the project file has it.
#[derive(Clone, Debug, PartialEq)]
pub enum ProjectBinding {
    /// `vars`: a string or any JSON value.
    Var {
        /// The name in `env`.
        name: String,
        /// The value.
        value: serde_json::Value,
    },
    /// `kv_namespaces`: without an id the namespace is made on the first deploy.
    Kv {
        /// The name in `env`.
        name: String,
        /// The namespace's id.
        id: Option<String>,
    },
    /// `services`: another worker.
    Service {
        /// The name in `env`.
        name: String,
        /// The worker.
        service: String,
        /// An entrypoint other than the default export.
        entrypoint: Option<String>,
        /// Given to the callee.
        props: Option<serde_json::Value>,
    },
    /// `version_metadata`.
    VersionMetadata {
        /// The name in `env`.
        name: String,
    },
    /// `wasm_modules`, `text_blobs` and `data_blobs`: a file as a global of a service worker.
    File {
        /// The global's name.
        name: String,
        /// The file, relative to the configuration.
        path: String,
        /// How it is bound.
        kind: FileKind,
    },
}

/// How a file is bound in service-worker format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// As a `WebAssembly.Module`.
    Wasm,
    /// As a string.
    Text,
    /// As an `ArrayBuffer`.
    Data,
}

impl ProjectBinding {
    /// The name in `env`.
    pub fn name(&self) -> &str {
        match self {
            Self::Var { name, .. }
            | Self::Kv { name, .. }
            | Self::Service { name, .. }
            | Self::VersionMetadata { name }
            | Self::File { name, .. } => name,
        }
    }
}

/// Reads every binding, and reports names that are given twice.
pub(super) fn read(
    document: &Document,
    scopes: &Scopes<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<ProjectBinding> {
    let mut bindings = Vec::new();
    let mut fields = Fields::new(document, scopes.own, problems);
    read_vars(&mut fields, &mut bindings);
    read_kv(&mut fields, &mut bindings);
    read_services(&mut fields, &mut bindings);
    if let Some(entries) = fields.object("version_metadata")
        && let Some(name) = fields.below(entries).string("binding")
    {
        bindings.push(ProjectBinding::VersionMetadata { name });
    }
    let mut fields = Fields::new(document, scopes.top, problems);
    for (key, kind) in [
        ("wasm_modules", FileKind::Wasm),
        ("text_blobs", FileKind::Text),
        ("data_blobs", FileKind::Data),
    ] {
        for entry in fields.object(key).unwrap_or_default() {
            match &entry.node.value {
                Value::String(path) => {
                    let (name, path) = (entry.key.clone(), path.clone());
                    bindings.push(ProjectBinding::File { name, path, kind });
                }
                _ => fields.report(&entry.node, format!("\"{key}\" must map names to files")),
            }
        }
    }
    report_duplicates(document, &bindings, scopes, problems);
    bindings
}

fn read_vars(fields: &mut Fields<'_>, bindings: &mut Vec<ProjectBinding>) {
    for entry in fields.object("vars").unwrap_or_default() {
        let (name, value) = (entry.key.clone(), entry.node.value.to_json());
        bindings.push(ProjectBinding::Var { name, value });
    }
}

fn read_kv(fields: &mut Fields<'_>, bindings: &mut Vec<ProjectBinding>) {
    for (node, entries) in fields.objects("kv_namespaces") {
        let mut namespace = fields.below(entries);
        let id = namespace.string("id").filter(|id| !id.is_empty());
        if let Some(name) = namespace.required("binding", node) {
            bindings.push(ProjectBinding::Kv { name, id });
        }
    }
}

fn read_services(fields: &mut Fields<'_>, bindings: &mut Vec<ProjectBinding>) {
    for (node, entries) in fields.objects("services") {
        let mut service = fields.below(entries);
        let name = service.required("binding", node);
        let target = service.required("service", node);
        let entrypoint = service.string("entrypoint");
        let props = service.entry("props").map(|e| e.node.value.to_json());
        if let (Some(name), Some(service)) = (name, target) {
            bindings.push(ProjectBinding::Service { name, service, entrypoint, props });
        }
    }
}

fn report_duplicates(
    document: &Document,
    bindings: &[ProjectBinding],
    scopes: &Scopes<'_>,
    problems: &mut Vec<Diagnostic>,
) {
    for (i, binding) in bindings.iter().enumerate() {
        if bindings[..i].iter().any(|b| b.name() == binding.name()) {
            let span = scopes.own.first().map_or(0..0, |e| e.key_span.clone());
            let message = format!("two bindings are named \"{}\": rename one", binding.name());
            problems.push(document.diagnostic(span, message));
        }
    }
}
