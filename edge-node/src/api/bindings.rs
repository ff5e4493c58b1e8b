//! What `env` will hold: reads the bindings of an upload, inherits and keeps earlier ones, and
//! refuses what this node cannot grant.

use std::collections::HashSet;

use serde_json::Value;

use super::envelope::{ApiError, Fault, code};
use crate::registry::{Binding, Module, NamespaceId, RegistryError, Version};

/// Bindings of one version.
const BINDINGS_MAX: usize = 128;
/// The value of one variable or secret, in bytes.
const VALUE_BYTES_MAX: usize = 5 << 10;
const NAME_BYTES_MAX: usize = 256;
/// Types whose earlier bindings survive an upload that says nothing else.
const KEPT_BY_DEFAULT: [&str; 2] = ["secret_text", "secret_key"];

/// What happens to an `inherit` binding that the previous version does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inherit {
    /// It is an error (`bindings_inherit=strict`).
    Strict,
    /// It is left out.
    Lenient,
}

/// Everything that decides a version's bindings.
pub(super) struct Wanted<'a> {
    /// As uploaded.
    pub(super) requested: &'a [Value],
    /// Types whose earlier bindings survive, as uploaded.
    pub(super) keep: Option<&'a [String]>,
    pub(super) inherit: Inherit,
    pub(super) previous: Option<&'a Version>,
    /// The namespaces that the account owns.
    pub(super) namespaces: &'a HashSet<NamespaceId>,
    pub(super) modules: &'a [Module],
}

impl Wanted<'_> {
    /// The bindings of the new version.
    pub(super) fn resolve(&self) -> Result<Vec<Binding>, ApiError> {
        let mut bindings = Vec::with_capacity(self.requested.len());
        let mut faults = Vec::new();
        for requested in self.requested {
            let (name, kind) = name_and_type(requested)?;
            if kind != "inherit" {
                bindings.push(parse(name, kind, requested)?);
                continue;
            }
            let source = requested.get("old_name").and_then(Value::as_str).unwrap_or(name);
            match self.previous_binding(source) {
                Some(binding) => bindings.push(renamed(binding, name)?),
                None if self.inherit == Inherit::Strict => faults.push(Fault {
                    code: code::INHERIT,
                    message: format!(
                        "inherit binding '{name}' is invalid: the previous version has no such binding"
                    ),
                }),
                None => {}
            }
        }
        if !faults.is_empty() {
            return Err(ApiError { status: axum::http::StatusCode::BAD_REQUEST, faults });
        }
        self.keep_earlier(&mut bindings);
        self.check(&bindings)?;
        Ok(bindings)
    }

    fn previous_binding(&self, name: &str) -> Option<&Binding> {
        self.previous?.bindings.iter().find(|binding| binding.name() == name)
    }

    fn keep_earlier(&self, bindings: &mut Vec<Binding>) {
        let named: HashSet<&str> = self
            .requested
            .iter()
            .filter_map(|requested| requested.get("name").and_then(Value::as_str))
            .collect();
        let kept = |kind: &str| match self.keep {
            Some(keep) => keep.iter().any(|kept| kept == kind),
            None => KEPT_BY_DEFAULT.contains(&kind),
        };
        let earlier = self.previous.map_or(&[][..], |previous| &previous.bindings);
        let survivors = earlier.iter().filter(|b| kept(b.kind()) && !named.contains(b.name()));
        bindings.extend(survivors.cloned());
    }

    fn check(&self, bindings: &[Binding]) -> Result<(), ApiError> {
        check_count(bindings)?;
        let mut names = HashSet::new();
        for binding in bindings {
            let name = binding.name();
            if !names.insert(name) {
                return Err(ApiError::invalid(format!("binding {name} is named twice")));
            }
            self.check_one(name, binding)?;
        }
        Ok(())
    }

    fn check_one(&self, name: &str, binding: &Binding) -> Result<(), ApiError> {
        let bytes = match binding {
            Binding::PlainText { text, .. } | Binding::SecretText { text, .. } => text.len(),
            Binding::KvNamespace { namespace_id, .. }
                if !self.namespaces.contains(namespace_id) =>
            {
                return Err(ApiError::invalid(format!(
                    "binding {name} of type kv_namespace: the account has no namespace {namespace_id}"
                )));
            }
            Binding::WasmModule { part, .. }
            | Binding::TextBlob { part, .. }
            | Binding::DataBlob { part, .. }
                if !self.modules.iter().any(|module| module.name == *part) =>
            {
                return Err(ApiError::invalid(format!(
                    "binding {name} of type {}: the upload has no part {part}",
                    binding.kind()
                )));
            }
            other => serde_json::to_string(other).map_or(usize::MAX, |text| text.len()),
        };
        if bytes > VALUE_BYTES_MAX {
            return Err(ApiError::invalid(format!(
                "binding {name} has {bytes} bytes, more than {VALUE_BYTES_MAX}"
            )));
        }
        Ok(())
    }
}

fn name_and_type(requested: &Value) -> Result<(&str, &str), ApiError> {
    let text = |key| requested.get(key).and_then(Value::as_str);
    let (Some(name), Some(kind)) = (text("name"), text("type")) else {
        return Err(ApiError::invalid("a binding is an object with a name and a type"));
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!(
            "binding name {name:?} does not have 1 to {NAME_BYTES_MAX} bytes without control characters"
        )));
    }
    Ok((name, kind))
}

fn parse(name: &str, kind: &str, requested: &Value) -> Result<Binding, ApiError> {
    serde_json::from_value(requested.clone()).map_err(|e| {
        let why = e.to_string();
        if why.starts_with("unknown variant") {
            return ApiError::invalid(format!(
                "binding {name} of type {kind} is not supported by this node: remove it from the project"
            ));
        }
        ApiError::invalid(format!("binding {name} of type {kind} is not understood: {why}"))
    })
}

fn renamed(binding: &Binding, name: &str) -> Result<Binding, ApiError> {
    if binding.name() == name {
        return Ok(binding.clone());
    }
    let mut value = serde_json::to_value(binding).map_err(ApiError::internal)?;
    value["name"] = name.into();
    serde_json::from_value(value).map_err(ApiError::internal)
}

/// Refuses more bindings than a version may have.
pub(super) fn check_count(bindings: &[Binding]) -> Result<(), RegistryError> {
    match bindings.len() {
        0..=BINDINGS_MAX => Ok(()),
        count => Err(RegistryError::Invalid(format!(
            "a version has at most {BINDINGS_MAX} bindings, not {count}"
        ))),
    }
}

/// Bindings as the API shows them: without the values of secrets.
pub(super) fn shown(bindings: &[Binding]) -> Vec<Value> {
    bindings
        .iter()
        .filter_map(|binding| {
            let mut value = serde_json::to_value(binding.without_secret()).ok()?;
            if let (Binding::SecretText { .. }, Some(object)) = (binding, value.as_object_mut()) {
                object.remove("text");
            }
            Some(value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::{AccountId, ScriptFormat, VersionId, WorkerName, WorkerRef};

    fn previous() -> Version {
        Version {
            id: VersionId::new("v"),
            worker: WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") },
            number: 1,
            created_ms: 0,
            format: ScriptFormat::Modules,
            main_module: "index.js".into(),
            modules: Vec::new(),
            bindings: vec![
                Binding::SecretText { name: "KEY".into(), text: "hidden".into() },
                Binding::PlainText { name: "VAR".into(), text: "old".into() },
            ],
            compatibility_date: None,
            compatibility_flags: Vec::new(),
            limits: Default::default(),
            annotations: Default::default(),
            handlers: Vec::new(),
            content_hash: String::new(),
            startup_ms: 0,
        }
    }

    fn resolve(requested: Value, keep: Option<&[&str]>, inherit: Inherit) -> Result<Value, String> {
        let keep = keep.map(|keep| keep.iter().map(|kind| kind.to_string()).collect::<Vec<_>>());
        let wanted = Wanted {
            requested: requested.as_array().unwrap(),
            keep: keep.as_deref(),
            inherit,
            previous: Some(&previous()),
            namespaces: &HashSet::new(),
            modules: &[],
        };
        match wanted.resolve() {
            Ok(bindings) => Ok(json!(bindings)),
            Err(e) => Err(e.faults.into_iter().map(|f| f.message).collect::<Vec<_>>().join("; ")),
        }
    }

    #[test]
    fn earlier_bindings_survive_by_type() {
        let secret = json!({ "type": "secret_text", "name": "KEY", "text": "hidden" });
        let var = json!({ "type": "plain_text", "name": "VAR", "text": "old" });
        let new = json!({ "type": "plain_text", "name": "KEY", "text": "x" });
        let inherited = json!({ "type": "inherit", "name": "VAR" });
        let renamed = json!({ "type": "inherit", "name": "V2", "old_name": "VAR" });
        for (requested, keep, expected) in [
            (json!([]), None, json!([secret])),
            (json!([]), Some(&["plain_text", "secret_text"][..]), json!([secret, var])),
            (json!([]), Some(&["secret_key"][..]), json!([])),
            (json!([new]), None, json!([new])),
            (json!([inherited]), None, json!([var, secret])),
            (
                json!([renamed]),
                Some(&[][..]),
                json!([{ "type": "plain_text", "name": "V2", "text": "old" }]),
            ),
        ] {
            assert_eq!(resolve(requested, keep, Inherit::Strict).unwrap(), expected);
        }
    }

    #[test]
    fn faults_name_the_binding_and_its_type() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for (requested, expected) in [
            (
                json!([{ "type": "d1", "name": "DB", "id": "x" }]),
                "binding DB of type d1 is not supported",
            ),
            (
                json!([{ "type": "kv_namespace", "name": "KV" }]),
                "binding KV of type kv_namespace is not understood",
            ),
            (
                json!([{ "type": "kv_namespace", "name": "KV", "namespace_id": "0".repeat(32) }]),
                "binding KV of type kv_namespace: the account has no namespace",
            ),
            (json!([{ "type": "wasm_module", "name": "W", "part": "w" }]), "has no part w"),
            (
                json!([{ "type": "plain_text", "name": "A", "text": long }]),
                "binding A has 5121 bytes",
            ),
            (
                json!([{ "type": "plain_text", "name": "A", "text": "" }, { "type": "version_metadata", "name": "A" }]),
                "binding A is named twice",
            ),
            (
                json!([{ "type": "inherit", "name": "X" }, { "type": "inherit", "name": "Y" }]),
                "inherit binding 'X' is invalid: the previous version has no such binding; inherit binding 'Y'",
            ),
            (json!([{ "type": "plain_text" }]), "a binding is an object with a name and a type"),
        ] {
            let error = resolve(requested, None, Inherit::Strict).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let lenient =
            resolve(json!([{ "type": "inherit", "name": "X" }]), Some(&[]), Inherit::Lenient);
        assert_eq!(lenient.unwrap(), json!([]));
    }
}
