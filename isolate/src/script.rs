//! What an instance is made of: modules, and the values that `env` holds.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::code_cache::{ContentHash, content_hash};

/// How a module's bytes are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// An ECMAScript module.
    EsModule,
    /// A CommonJS module.
    CommonJs,
    /// UTF-8 text; the default export is a string.
    Text,
    /// Bytes; the default export is an `ArrayBuffer`.
    Data,
    /// JSON; the default export is its value.
    Json,
    /// WebAssembly; the default export is a `WebAssembly.Module`.
    Wasm,
    /// The source map of the module whose name is this one's without `.map`.
    SourceMap,
}

/// One named part of a script.
#[derive(Clone, Debug)]
pub struct Module {
    /// The name as uploaded, with or without a leading `./`.
    pub name: String,
    /// How to understand the bytes.
    pub kind: ModuleKind,
    /// The contents.
    pub bytes: Bytes,
}

/// Which syntax the main module is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScriptFormat {
    /// `export default { fetch() {} }`
    Modules,
    /// `addEventListener("fetch", …)`
    ServiceWorker,
}

/// One version's code.
#[derive(Clone, Debug)]
pub struct Script {
    pub(crate) format: ScriptFormat,
    pub(crate) main: String,
    pub(crate) modules: Vec<Module>,
    hashes: OnceLock<Vec<ContentHash>>,
}

impl Script {
    /// Takes a main module's syntax and name, and every module, source maps too.
    pub fn new(format: ScriptFormat, main: impl Into<String>, modules: Vec<Module>) -> Self {
        Self { format, main: main.into(), modules, hashes: OnceLock::new() }
    }

    /// The hash of the contents of the module of this number. Made once for each script.
    pub(crate) fn hash_at(&self, index: usize) -> Option<ContentHash> {
        self.hashes
            .get_or_init(|| self.modules.iter().map(|module| content_hash(&module.bytes)).collect())
            .get(index)
            .copied()
    }

    /// Finds a module by name, with or without a leading `./` on either side.
    pub fn module(&self, name: &str) -> Option<&Module> {
        let name = plain(name);
        self.modules.iter().find(|module| plain(&module.name) == name)
    }
}

/// A module's name without a leading `./`.
pub(crate) fn plain(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

/// A value in `env`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum BindingValue {
    /// A string.
    Text {
        /// The string.
        value: Arc<str>,
    },
    /// A value given as JSON text.
    Json {
        /// The JSON text.
        value: Arc<str>,
    },
    /// An `ArrayBuffer`.
    Data {
        /// The contents.
        #[serde(skip)]
        bytes: Bytes,
    },
    /// A `WebAssembly.Module`.
    Wasm {
        /// The contents.
        #[serde(skip)]
        bytes: Bytes,
    },
    /// A KV namespace, by the number that the host knows it by.
    Kv {
        /// Passed to [`crate::Host::kv`].
        capability: u32,
    },
    /// Another worker, by the number that the host knows it by.
    Service {
        /// Passed in [`crate::Via::Service`].
        capability: u32,
    },
}

/// A name in `env` with its value.
#[derive(Clone, Debug, Serialize)]
pub struct Binding {
    /// The name.
    pub name: String,
    /// The value.
    #[serde(flatten)]
    pub value: BindingValue,
}
