//! The multipart form of a script upload: `metadata`, then one part a module.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::client::Body;
use crate::bundle::Bundle;
use crate::registry::{Binding, ModuleKind, ScriptFormat};

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
    let metadata = metadata.to_json(bundle).to_string();
    let mut parts = vec![Part { name: "metadata", file_type: None, bytes: metadata.as_bytes() }];
    parts.extend(bundle.modules.iter().map(|module| Part {
        name: &module.name,
        file_type: Some(content_type(module.kind)),
        bytes: &module.bytes,
    }));
    multipart(&parts)
}

/// The form of a KV value with metadata.
pub(crate) fn value_form(value: &[u8], metadata: &str) -> Body {
    multipart(&[
        Part { name: "value", file_type: None, bytes: value },
        Part { name: "metadata", file_type: None, bytes: metadata.as_bytes() },
    ])
}

/// One part of a form; a file's name is the part's.
struct Part<'a> {
    name: &'a str,
    file_type: Option<&'static str>,
    bytes: &'a [u8],
}

fn multipart(parts: &[Part<'_>]) -> Body {
    let boundary = boundary(parts);
    let mut form = Vec::new();
    for part in parts {
        let name = quoted(part.name);
        let disposition =
            format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"");
        form.extend_from_slice(disposition.as_bytes());
        if let Some(file_type) = part.file_type {
            let file = format!("; filename=\"{name}\"\r\ncontent-type: {file_type}");
            form.extend_from_slice(file.as_bytes());
        }
        form.extend_from_slice(b"\r\n\r\n");
        form.extend_from_slice(part.bytes);
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let content_type = format!("multipart/form-data; boundary={boundary}");
    Body::Raw { content_type, bytes: Bytes::from(form) }
}

/// The content type that says what a module is.
fn content_type(kind: ModuleKind) -> &'static str {
    match kind {
        ModuleKind::EsModule => "application/javascript+module",
        ModuleKind::CommonJs => "application/javascript",
        ModuleKind::Text => "text/plain",
        ModuleKind::Data => "application/octet-stream",
        ModuleKind::Json => "application/json",
        ModuleKind::Wasm => "application/wasm",
        ModuleKind::SourceMap => "application/source-map",
    }
}

/// A boundary that follows from the contents, so that equal uploads are equal bytes.
fn boundary(parts: &[Part<'_>]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part.bytes));
    format!("atoll-{}", &hex::encode(hash.finalize())[..32])
}

/// A name inside a quoted header parameter, escaped as browsers do.
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Module;

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
            "\r\ncontent-disposition: form-data; name=\"./1-a%22.wasm\"; \
             filename=\"./1-a%22.wasm\"\r\ncontent-type: application/wasm\r\n\r\n\0asm\r\n"
        );
    }
}
