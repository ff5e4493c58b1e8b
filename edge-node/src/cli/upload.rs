//! The multipart form of a script upload: `metadata`, then one part a module.

use serde_json::{Map, Value, json};

use super::client::Body;
use crate::bundle::Bundle;
use crate::form::Form;
use crate::registry::{Binding, ScriptFormat, content_type};

/// What is uploaded with a bundle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) bindings: Vec<Binding>,
    pub(crate) compatibility_date: String,
    pub(crate) compatibility_flags: Vec<String>,
    pub(crate) keep_vars: bool,
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) subrequests: Option<u64>,
    pub(crate) message: Option<String>,
}

impl Metadata {
    fn to_json(&self, bundle: &Bundle) -> Value {
        let mut json = Map::new();
        let main = match bundle.format {
            ScriptFormat::Modules => "main_module",
            ScriptFormat::ServiceWorker => "body_part",
        };
        json.insert(main.into(), json!(bundle.main_module));
        json.insert("bindings".into(), json!(self.bindings));
        json.insert("compatibility_date".into(), json!(self.compatibility_date));
        json.insert("compatibility_flags".into(), json!(self.compatibility_flags));
        if self.keep_vars {
            let kept = ["plain_text", "json", "secret_text", "secret_key"];
            json.insert("keep_bindings".into(), json!(kept));
        }
        let limits = [("cpu_ms", self.cpu_ms), ("subrequests", self.subrequests)];
        let limits: Map<_, _> = limits
            .into_iter()
            .filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?))))
            .collect();
        if !limits.is_empty() {
            json.insert("limits".into(), limits.into());
        }
        if let Some(message) = &self.message {
            json.insert("annotations".into(), json!({ "workers/message": message }));
        }
        json.into()
    }
}

/// The form of an upload.
pub(crate) fn form(metadata: &Metadata, bundle: &Bundle) -> Body {
    let mut form = Form::new();
    form.field("metadata", metadata.to_json(bundle).to_string().as_bytes());
    for module in &bundle.modules {
        form.file(&module.name, content_type(module.kind), &module.bytes);
    }
    body(form)
}

/// The form of a KV value with metadata.
pub(crate) fn value_form(value: &[u8], metadata: &str) -> Body {
    let mut form = Form::new();
    form.field("value", value);
    form.field("metadata", metadata.as_bytes());
    body(form)
}

fn body(form: Form) -> Body {
    let (content_type, bytes) = form.finish();
    Body::Raw { content_type, bytes: bytes.into() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::registry::{Module, ModuleKind};

    #[test]
    fn a_form_holds_metadata_and_modules() {
        let module = |name: &str, kind, text: &'static str| Module {
            name: name.into(),
            kind,
            bytes: Bytes::from_static(text.as_bytes()),
        };
        let bundle = Bundle {
            format: ScriptFormat::Modules,
            main_module: "index.js".into(),
            modules: vec![
                module("index.js", ModuleKind::EsModule, "export default {}"),
                module("./1-a\".wasm", ModuleKind::Wasm, "\0asm"),
            ],
            inputs: vec![],
            warnings: String::new(),
        };
        let metadata = Metadata {
            bindings: vec![Binding::PlainText { name: "A".into(), text: "b".into() }],
            compatibility_date: "2026-01-01".into(),
            keep_vars: true,
            cpu_ms: Some(50),
            ..Metadata::default()
        };
        let Body::Raw { content_type, bytes } = form(&metadata, &bundle) else { panic!() };
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let parts: Vec<_> = text.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 5, "{text}");
        assert_eq!(parts[4], "--\r\n");
        let json: Value = serde_json::from_str(parts[1].split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(
            json,
            json!({
                "main_module": "index.js",
                "bindings": [{ "type": "plain_text", "name": "A", "text": "b" }],
                "compatibility_date": "2026-01-01",
                "compatibility_flags": [],
                "keep_bindings": ["plain_text", "json", "secret_text", "secret_key"],
                "limits": { "cpu_ms": 50 },
            })
        );
        assert_eq!(
            parts[3],
            "\r\nContent-Disposition: form-data; name=\"./1-a%22.wasm\"; \
             filename=\"./1-a%22.wasm\"\r\nContent-Type: application/wasm\r\n\r\n\0asm\r\n"
        );
    }
}
