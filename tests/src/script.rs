//! Scripts to upload: modules and the metadata that goes with them, as a multipart form.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};

const BOUNDARY: &str = "----atoll-tests-boundary";

/// The type of a module, as an upload names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleType {
    /// An ECMAScript module.
    EsModule,
    /// A CommonJS module, or a service-worker script.
    CommonJs,
    /// Imported as a string.
    Text,
    /// Imported as an `ArrayBuffer`.
    Data,
    /// Imported as its value.
    Json,
    /// Imported as a `WebAssembly.Module`.
    Wasm,
}

impl ModuleType {
    fn content_type(self) -> &'static str {
        match self {
            Self::EsModule => "application/javascript+module",
            Self::CommonJs => "application/javascript",
            Self::Text => "text/plain",
            Self::Data => "application/octet-stream",
            Self::Json => "application/json",
            Self::Wasm => "application/wasm",
        }
    }
}

/// A script with its bindings.
#[derive(Clone, Debug)]
pub struct Script {
    modules: Vec<(String, ModuleType, Bytes)>,
    bindings: Vec<Value>,
    main_key: &'static str,
}

impl Script {
    /// A script whose main module, `index.js`, is an ECMAScript module.
    pub fn module(source: impl Into<Bytes>) -> Self {
        Self::with_main(ModuleType::EsModule, "main_module", source.into())
    }

    /// A script in service-worker syntax.
    pub fn service_worker(source: impl Into<Bytes>) -> Self {
        Self::with_main(ModuleType::CommonJs, "body_part", source.into())
    }

    /// A script whose main module is a CommonJS module.
    pub fn common_js(source: impl Into<Bytes>) -> Self {
        Self::with_main(ModuleType::CommonJs, "main_module", source.into())
    }

    fn with_main(kind: ModuleType, main_key: &'static str, source: Bytes) -> Self {
        Self { modules: vec![("index.js".to_owned(), kind, source)], bindings: vec![], main_key }
    }

    /// Adds a module.
    #[must_use]
    pub fn with(mut self, name: &str, kind: ModuleType, bytes: impl Into<Bytes>) -> Self {
        self.modules.push((name.to_owned(), kind, bytes.into()));
        self
    }

    /// Adds a binding, as the API's metadata has it.
    #[must_use]
    pub fn bind(mut self, binding: Value) -> Self {
        self.bindings.push(binding);
        self
    }

    /// Binds a KV namespace.
    #[must_use]
    pub fn bind_kv(self, name: &str, namespace: &str) -> Self {
        self.bind(json!({ "type": "kv_namespace", "name": name, "namespace_id": namespace }))
    }

    /// Binds a string.
    #[must_use]
    pub fn bind_text(self, name: &str, text: &str) -> Self {
        self.bind(json!({ "type": "plain_text", "name": name, "text": text }))
    }

    /// The form and its content type.
    pub(crate) fn form(&self) -> (String, Bytes) {
        let metadata = json!({
            self.main_key: self.modules[0].0,
            "bindings": self.bindings,
            "compatibility_date": "2026-11-01",
        });
        let mut form = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n{metadata}\r\n"
        )
        .into_bytes();
        for (name, kind, bytes) in &self.modules {
            let head = format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; \
                 filename=\"{name}\"\r\nContent-Type: {}\r\n\r\n",
                kind.content_type()
            );
            form.extend_from_slice(head.as_bytes());
            form.extend_from_slice(bytes);
            form.extend_from_slice(b"\r\n");
        }
        form.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        (format!("multipart/form-data; boundary={BOUNDARY}"), form.into())
    }
}

/// The text of a file in `tests/fixtures/workers`.
///
/// # Panics
/// Panics when there is no such file.
pub fn fixture(name: &str) -> String {
    String::from_utf8(fixture_bytes(name)).expect("the fixture is text")
}

/// The bytes of a file in `tests/fixtures/workers`.
///
/// # Panics
/// Panics when there is no such file.
pub fn fixture_bytes(name: &str) -> Vec<u8> {
    let path = fixtures().join("workers").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("no fixture {}: {error}", path.display()))
}

/// A file in `tests/fixtures`.
pub fn fixture_path(name: &str) -> PathBuf {
    fixtures().join(name)
}

pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}
