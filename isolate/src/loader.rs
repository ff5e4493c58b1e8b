//! Gives V8 a script's modules: resolves specifiers within the script, and turns text, JSON, bytes,
//! WebAssembly and CommonJS into ES modules.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::fmt::Write as _;
use std::sync::Arc;

use deno_core::url::Url;
use deno_core::{
    ModuleCodeBytes, ModuleLoadOptions, ModuleLoadReferrer, ModuleLoadResponse, ModuleLoader,
    ModuleResolveResponse, ModuleSource, ModuleSourceCode, ModuleSpecifier, ModuleType,
    RequestedModuleType, ResolutionKind, SourceCodeCacheInfo,
};
use deno_error::JsErrorBox;

use crate::code_cache::{Code, CodeCache};
use crate::script::{Module, ModuleKind, Script, plain};

/// Every module of a script lives under this.
const ROOT: &str = "file:///";

/// Raw bytes of a module, importable only by the module made for it.
const BYTES_SCHEME: &str = "atoll-bytes";

/// The type of import that gives a compiled WebAssembly module.
pub(crate) const WASM_TYPE: &str = "wasm-module";

/// Modules that the runtime itself provides.
const BUILT_IN: &[&str] = &["cloudflare:workers", "node:async_hooks"];

pub(crate) struct ScriptLoader {
    script: Arc<Script>,
    cache: Arc<CodeCache>,
    /// ES modules, by number, that V8 compiled, wholly or in part, because the cache did not have their code.
    compiled: RefCell<Vec<usize>>,
}

impl ScriptLoader {
    pub(crate) fn new(script: Arc<Script>, cache: Arc<CodeCache>) -> Self {
        Self { script, cache, compiled: RefCell::default() }
    }

    /// Whether there is code to be kept for the next load of this script.
    pub(crate) fn has_new_code(&self) -> bool {
        !self.compiled.borrow().is_empty()
    }

    /// Keeps the code of each module that V8 compiled here. `code_of` makes it from a URL and a source.
    pub(crate) fn keep_code(&self, mut code_of: impl FnMut(&str, &str) -> Option<Vec<u8>>) {
        for index in self.compiled.take() {
            let (Some(module), Some(hash)) =
                (self.script.modules.get(index), self.script.hash_at(index))
            else {
                continue;
            };
            // Another instance of this process may have been quicker.
            if self.cache.get(&hash).is_some_and(|known| !known.lacks_functions) {
                continue;
            }
            let (Ok(url), Ok(source)) =
                (module_url(&module.name), std::str::from_utf8(&module.bytes))
            else {
                continue;
            };
            if let Some(code) = code_of(url.as_str(), source) {
                self.cache.put(hash, Code { bytes: code.into(), lacks_functions: false });
            }
        }
    }

    /// The URL of the main module.
    pub(crate) fn main(&self) -> Result<ModuleSpecifier, JsErrorBox> {
        let main = self.script.module(&self.script.main).ok_or_else(|| {
            JsErrorBox::type_error(format!(
                "the script has no module {:?} to start from",
                self.script.main
            ))
        })?;
        module_url(&main.name)
    }

    fn find(&self, url: &Url) -> Option<&Module> {
        if url.scheme() != "file" {
            return None;
        }
        let path = deno_core::url::Url::path(url);
        let path = percent_decode(path.trim_start_matches('/'));
        self.script.module(&path)
    }

    fn in_script(&self, specifier: &str, referrer: &str) -> Option<ModuleSpecifier> {
        let base = Url::parse(referrer).ok().filter(|url| url.scheme() == "file");
        let base = base.or_else(|| Url::parse(ROOT).ok())?;
        let without_query = specifier.split_once('?').map(|(path, _)| path);
        let relative = specifier.starts_with('.') || specifier.starts_with('/');
        for wanted in [Some(specifier), without_query].into_iter().flatten() {
            let near = if relative { base.join(wanted).ok() } else { None };
            let at_root = module_url(plain(wanted)).ok();
            for url in [near, at_root].into_iter().flatten() {
                if self.find(&url).is_some() {
                    return Some(url);
                }
            }
        }
        None
    }

    fn source(
        &self,
        url: &ModuleSpecifier,
        options: &ModuleLoadOptions,
    ) -> Result<ModuleSource, JsErrorBox> {
        if url.scheme() == BYTES_SCHEME {
            let module = self
                .script
                .module(&percent_decode(url.path()))
                .ok_or_else(|| missing(url.as_str()))?;
            let bytes = ModuleCodeBytes::Boxed(module.bytes.to_vec().into_boxed_slice());
            let kind = match module.kind {
                ModuleKind::Wasm => ModuleType::Other(WASM_TYPE.into()),
                _ => ModuleType::Bytes,
            };
            return Ok(ModuleSource::new(kind, ModuleSourceCode::Bytes(bytes), url, None));
        }
        let module = self.find(url).ok_or_else(|| missing(url.as_str()))?;
        let text = || {
            std::str::from_utf8(&module.bytes).map_err(|_| {
                JsErrorBox::type_error(format!("module {:?} is not UTF-8 text", module.name))
            })
        };
        let typed = match options.requested_module_type {
            RequestedModuleType::Json => Some(ModuleType::Json),
            RequestedModuleType::Text => Some(ModuleType::Text),
            _ => None,
        };
        if let Some(typed) = typed {
            let code = ModuleSourceCode::String(text()?.to_owned().into());
            return Ok(ModuleSource::new(typed, code, url, None));
        }
        let code = match module.kind {
            ModuleKind::EsModule => text()?.to_owned(),
            ModuleKind::CommonJs => self.common_js(module, text()?),
            ModuleKind::Text => format!("export default {};", json_string(text()?)),
            ModuleKind::Json => format!("export default JSON.parse({});", json_string(text()?)),
            ModuleKind::Data => from_bytes(&module.name, "bytes", "bytes.buffer"),
            ModuleKind::Wasm => from_bytes(&module.name, WASM_TYPE, "bytes"),
            ModuleKind::SourceMap => return Err(missing(url.as_str())),
        };
        let cached = if module.kind == ModuleKind::EsModule { self.cached(module) } else { None };
        let code = ModuleSourceCode::String(code.into());
        Ok(ModuleSource::new(ModuleType::JavaScript, code, url, cached))
    }

    /// Only what is compiled as it was uploaded is cached: V8 tells sources apart by their length. A miss is
    /// noted and made up for later: code made right after compiling lacks every function that is called.
    fn cached(&self, module: &Module) -> Option<SourceCodeCacheInfo> {
        let index = self.script.modules.iter().position(|known| std::ptr::eq(known, module))?;
        let hash = self.script.hash_at(index)?;
        let known = self.cache.get(&hash);
        if known.as_ref().is_none_or(|known| known.lacks_functions) {
            self.compiled.borrow_mut().push(index);
        }
        let code = known?;
        let short = u64::from_le_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes"));
        Some(SourceCodeCacheInfo { hash: short, data: Some(Cow::Owned(code.bytes.to_vec())) })
    }

    /// Wraps a CommonJS module. `require` sees the script's other modules by the names they were uploaded
    /// under; everything stays on the module's own first line, so that positions hold.
    fn common_js(&self, module: &Module, source: &str) -> String {
        let mut imports = String::new();
        let mut table = String::new();
        if source.contains("require(") {
            let others =
                self.script.modules.iter().filter(|other| {
                    other.name != module.name && other.kind != ModuleKind::SourceMap
                });
            for (index, other) in others.enumerate() {
                let name = json_string(&format!("/{}", plain(&other.name)));
                let _ = write!(imports, "import * as $m{index} from {name};");
                let _ = write!(table, "{}: $m{index},", json_string(plain(&other.name)));
            }
        }
        format!(
            "{imports}const module = {{ exports: {{}} }}; \
             const $table = {{ __proto__: null, {table} }}; \
             const require = (name) => {{ const found = $table[name.replace(/^\\.\\//, '')]; \
             if (found === undefined) throw new Error(`Cannot find module '${{name}}'`); \
             return 'default' in found ? found.default : found; }}; \
             (function (exports, require, module) {{ {source}\n}}).call(module.exports, module.exports, require, module); \
             export default module.exports;"
        )
    }
}

/// The module that gives out another module's bytes in some shape.
fn from_bytes(name: &str, kind: &str, shape: &str) -> String {
    let bytes = json_string(&format!("{BYTES_SCHEME}:{}", plain(name)));
    format!("import bytes from {bytes} with {{ type: \"{kind}\" }}; export default {shape};")
}

fn json_string(text: &str) -> String {
    deno_core::serde_json::to_string(text).expect("a string is always valid JSON")
}

pub(crate) fn module_url(name: &str) -> Result<ModuleSpecifier, JsErrorBox> {
    Url::parse(ROOT)
        .and_then(|root| root.join(plain(name)))
        .map_err(|error| JsErrorBox::type_error(format!("{name:?} cannot name a module: {error}")))
}

fn percent_decode(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn missing(specifier: &str) -> JsErrorBox {
    let name = specifier.strip_prefix(ROOT).unwrap_or(specifier);
    JsErrorBox::type_error(format!("No such module \"{name}\"."))
}

/// A script's loader, once it is known which script: isolates are made before that.
#[derive(Default)]
pub(crate) struct LateLoader(OnceCell<ScriptLoader>);

impl LateLoader {
    /// Says what to load from. The first word counts.
    pub(crate) fn bind(&self, loader: ScriptLoader) -> &ScriptLoader {
        self.0.get_or_init(|| loader)
    }

    /// The script's own loader, once there is one.
    pub(crate) fn script(&self) -> Option<&ScriptLoader> {
        self.0.get()
    }

    fn bound(&self) -> Result<&ScriptLoader, JsErrorBox> {
        self.0.get().ok_or_else(|| JsErrorBox::generic("the isolate has no script yet"))
    }
}

impl ModuleLoader for LateLoader {
    fn resolve(
        &self,
        specifier: &str,
        referrer: &str,
        _kind: ResolutionKind,
    ) -> ModuleResolveResponse {
        self.bound()?.resolve(specifier, referrer)
    }

    fn load(
        &self,
        url: &ModuleSpecifier,
        _referrer: Option<&ModuleLoadReferrer>,
        options: ModuleLoadOptions,
    ) -> ModuleLoadResponse {
        ModuleLoadResponse::Sync(self.bound().and_then(|loader| loader.source(url, &options)))
    }

    /// Sources stay with the author: the map's word is taken for them.
    fn source_map_source_exists(&self, _url: &str) -> Option<bool> {
        Some(true)
    }

    fn get_source_map(&self, file_name: &str) -> Option<Cow<'_, [u8]>> {
        self.0.get()?.source_map(file_name)
    }
}

impl ScriptLoader {
    fn resolve(&self, specifier: &str, referrer: &str) -> ModuleResolveResponse {
        if BUILT_IN.contains(&specifier) {
            return Url::parse(specifier).map_err(|_| missing(specifier));
        }
        if let Some(name) = specifier.strip_prefix("atoll-bytes:") {
            let own = module_url(name).is_ok_and(|url| url.as_str() == referrer)
                && self
                    .script
                    .module(name)
                    .is_some_and(|m| matches!(m.kind, ModuleKind::Data | ModuleKind::Wasm));
            return if own {
                Url::parse(specifier).map_err(|_| missing(specifier))
            } else {
                Err(missing(specifier))
            };
        }
        if let Some(url) = self.in_script(specifier, referrer) {
            return Ok(url);
        }
        if specifier.starts_with("node:") {
            return Err(JsErrorBox::type_error(format!(
                "No such module \"{specifier}\". Of Node's modules only node:async_hooks is built in: \
                 bundle a polyfill for the others."
            )));
        }
        let importer = referrer.strip_prefix(ROOT).unwrap_or(referrer);
        Err(JsErrorBox::type_error(format!(
            "No such module \"{specifier}\". It is imported from \"{importer}\"."
        )))
    }

    fn source_map(&self, file_name: &str) -> Option<Cow<'_, [u8]>> {
        let name = file_name.strip_prefix(ROOT)?;
        let map = self.script.module(&format!("{name}.map"))?;
        (map.kind == ModuleKind::SourceMap).then(|| Cow::Borrowed(&map.bytes[..]))
    }
}
