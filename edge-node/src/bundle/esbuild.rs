//! Runs esbuild with wrangler's settings and turns what it wrote into modules.
//!
//! Files that the module rules keep apart (wasm, text, data) go through esbuild's `copy` loader:
//! their imports stay imports, of a copy whose name carries the hash of its content.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::process::Command;

use super::additional::{self, Found};
use super::error::{BundleError, read};
use super::metafile::{Metafile, Output};
use super::rules::{Rules, is_script, module_kind};
use super::{Bundle, BundleRequest, Purpose};
use crate::registry::{Module, ModuleKind, ScriptFormat};

const MAIN: &str = "index.js";

/// Bare names of Node's modules: with Node compatibility they mean `node:<name>`.
const NODE_MODULES: &[&str] = &[
    "assert",
    "async_hooks",
    "buffer",
    "child_process",
    "cluster",
    "console",
    "constants",
    "crypto",
    "dgram",
    "diagnostics_channel",
    "dns",
    "domain",
    "events",
    "fs",
    "fs/promises",
    "http",
    "http2",
    "https",
    "inspector",
    "module",
    "net",
    "os",
    "path",
    "path/posix",
    "path/win32",
    "perf_hooks",
    "process",
    "punycode",
    "querystring",
    "readline",
    "repl",
    "stream",
    "stream/promises",
    "stream/web",
    "string_decoder",
    "sys",
    "timers",
    "timers/promises",
    "tls",
    "tty",
    "url",
    "util",
    "util/types",
    "v8",
    "vm",
    "worker_threads",
    "zlib",
];

/// Bundles a project. The format is told from what the entry exports, as wrangler does.
pub(super) async fn run(request: BundleRequest<'_>, esbuild: &Path) -> Result<Bundle, BundleError> {
    let rules = Rules::of(&request.project.bundle.rules);
    let additional = match request.project.bundle.find_additional_modules {
        Some(true) => additional::find(request)?,
        _ => Vec::new(),
    };
    let run = Run { request, esbuild, rules: &rules, additional: &additional };
    let built = run.build(ScriptFormat::Modules).await?;
    let exports = built.entry()?.exports.clone();
    if exports.iter().any(|name| name == "default") {
        return built.into_bundle(&run, ScriptFormat::Modules);
    }
    let mut built = run.build(ScriptFormat::ServiceWorker).await?;
    if let Some(import) = built.entry()?.imports.first() {
        return Err(BundleError::Format(format!(
            "a service-worker script cannot import {:?}: export a default handler instead of \
             calling addEventListener",
            import.path
        )));
    }
    if !exports.is_empty() {
        built.warnings.push_str(&format!(
            "{} has exports but no default export, so it is taken for a service worker\n",
            request.entry.display()
        ));
    }
    built.into_bundle(&run, ScriptFormat::ServiceWorker)
}

struct Run<'a> {
    request: BundleRequest<'a>,
    esbuild: &'a Path,
    rules: &'a Rules,
    additional: &'a [Found],
}

/// What one run of esbuild left behind; the folder goes when this goes.
struct Built {
    dir: TempDir,
    metafile: Metafile,
    warnings: String,
}

impl Run<'_> {
    async fn build(&self, format: ScriptFormat) -> Result<Built, BundleError> {
        let dir = tempfile::tempdir().map_err(BundleError::at(&std::env::temp_dir()))?;
        let meta_path = dir.path().join("meta.json");
        let mut command = Command::new(self.esbuild);
        command
            .current_dir(&self.request.project.dir)
            .arg(self.request.entry)
            .args(self.arguments(format)?)
            .arg(format!("--outdir={}", dir.path().join("out").display()))
            .arg(format!("--metafile={}", meta_path.display()))
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        let failed =
            |reason: String| BundleError::Bundler { path: self.esbuild.to_owned(), reason };
        let output = command.output().await.map_err(|e| failed(e.to_string()))?;
        let messages = self.advise(&String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(0) => {}
            Some(_) => return Err(BundleError::Sources(messages.trim_end().to_owned())),
            None => return Err(failed(format!("it was ended by a signal\n{messages}"))),
        }
        let metafile = serde_json::from_slice(&read(&meta_path)?)
            .map_err(|e| failed(format!("its metafile is not understood: {e}")))?;
        Ok(Built { dir, metafile, warnings: messages })
    }

    fn arguments(&self, format: ScriptFormat) -> Result<Vec<String>, BundleError> {
        let settings = &self.request.project.bundle;
        let mut arguments: Vec<String> = [
            "--bundle",
            "--target=es2024",
            "--conditions=workerd,worker,browser",
            "--loader:.js=jsx",
            "--loader:.mjs=jsx",
            "--loader:.cjs=jsx",
            "--external:__STATIC_CONTENT_MANIFEST",
            "--external:cloudflare:*",
            "--sourcemap",
            "--sources-content=true",
            "--entry-names=index",
            "--asset-names=[hash]-[name]",
            "--log-level=warning",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(match format {
            ScriptFormat::Modules => "--format=esm".into(),
            ScriptFormat::ServiceWorker => "--format=iife".into(),
        });
        arguments.push(format!("--color={}", self.request.color));
        for extension in self.rules.copied_extensions()? {
            arguments.push(format!("--loader:{extension}=copy"));
        }
        if self.request.project.node_compatible() {
            arguments.push("--external:node:*".into());
            arguments.extend(NODE_MODULES.iter().map(|m| format!("--alias:{m}=node:{m}")));
        } else {
            // Built in without Node compatibility.
            arguments.push("--external:node:async_hooks".into());
        }
        for found in self.additional {
            arguments.push(format!("--external:{}", found.path.display()));
        }
        let environment = match self.request.purpose {
            Purpose::Deploy => "production",
            Purpose::Develop => "development",
        };
        let mut define = settings.define.clone();
        let mut default = |name: &str, value: &str| {
            define.entry(name.to_owned()).or_insert_with(|| format!("{value:?}"));
        };
        default("process.env.NODE_ENV", environment);
        default("navigator.userAgent", "Cloudflare-Workers");
        arguments.extend(define.iter().map(|(name, value)| format!("--define:{name}={value}")));
        arguments.extend(settings.alias.iter().map(|(from, to)| format!("--alias:{from}={to}")));
        if self.request.minify || settings.minify {
            arguments.push("--minify".into());
        }
        if settings.keep_names.unwrap_or(true) {
            arguments.push("--keep-names".into());
        }
        let path = |p: &PathBuf| p.display().to_string();
        let optional = [
            ("--tsconfig", settings.tsconfig.as_ref().map(path)),
            ("--jsx-factory", settings.jsx_factory.clone()),
            ("--jsx-fragment", settings.jsx_fragment.clone()),
        ];
        let given = |(name, value): (&str, Option<String>)| value.map(|v| format!("{name}={v}"));
        arguments.extend(optional.into_iter().filter_map(given));
        Ok(arguments)
    }

    /// Replaces esbuild's advice, which speaks of its own flags, by what helps here.
    fn advise(&self, messages: &str) -> String {
        let advice = |line: &str| {
            let name = line.split('"').nth(1)?;
            if line.contains("but is built into node") {
                Some(format!(
                    "  \"{name}\" is a module of Node: add \"nodejs_compat\" to compatibility_flags"
                ))
            } else if line.contains("You can mark the path") {
                let dir = self.request.project.dir.display();
                Some(format!("  Correct the name, or install \"{name}\": run npm install in {dir}"))
            } else {
                None
            }
        };
        messages.lines().map(|l| advice(l).unwrap_or_else(|| l.to_owned()) + "\n").collect()
    }
}

impl Built {
    fn entry(&self) -> Result<&Output, BundleError> {
        let mut outputs = self.metafile.outputs.values();
        outputs.find(|output| output.entry_point.is_some()).ok_or_else(|| {
            BundleError::Format("esbuild wrote no script for the entry: is it a script?".into())
        })
    }

    fn into_bundle(self, run: &Run<'_>, format: ScriptFormat) -> Result<Bundle, BundleError> {
        let project_dir = &run.request.project.dir;
        let out = self.dir.path().join("out");
        let mut warnings = self.warnings.clone();
        let mut modules = vec![self.main_module(run, &out, format)?];
        for (path, output) in &self.metafile.outputs {
            let name = path.rsplit('/').next().unwrap_or(path);
            let Some(input) = output.inputs.keys().next().filter(|_| output.entry_point.is_none())
            else {
                continue;
            };
            match run.rules.kind(input).filter(|kind| !is_script(*kind)) {
                Some(kind) => modules.push(Module {
                    name: format!("./{name}"),
                    kind: module_kind(kind),
                    bytes: read(&out.join(name))?,
                }),
                None if name.ends_with(".css") => {
                    warnings
                        .push_str(&format!("{input} is not deployed: workers have no styles\n"));
                }
                None => {
                    return Err(BundleError::Rule {
                        glob: input.clone(),
                        reason: "a rule takes its extension but not its path: widen the rule's \
                                 globs, or give the other files another extension"
                            .into(),
                    });
                }
            }
        }
        modules.extend(run.additional.iter().map(|found| found.module.clone()));
        modules.push(source_map(&out, project_dir)?);
        let inputs = self.metafile.inputs.keys().filter(|path| !path.starts_with('<'));
        let mut inputs: Vec<_> = inputs
            .map(|path| project_dir.join(path.split('?').next().unwrap_or(path)))
            .map(|path| normal(&path))
            .collect();
        inputs.extend(run.additional.iter().map(|found| found.path.clone()));
        Ok(Bundle { format, main_module: MAIN.to_owned(), modules, inputs, warnings })
    }

    /// The main module, its imports written as the other modules are named. Replacements are
    /// padded with spaces: positions in the source map stay true.
    fn main_module(
        &self,
        run: &Run<'_>,
        out: &Path,
        format: ScriptFormat,
    ) -> Result<Module, BundleError> {
        let bytes = read(&out.join(MAIN))?;
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        for import in &self.entry()?.imports {
            if let Some(path) = import.path.strip_suffix("?module") {
                let name = path.rsplit('/').next().unwrap_or(path);
                replace_padded(&mut text, &format!("./{name}?module"), &format!("./{name}"));
            }
        }
        for found in run.additional {
            let written = relative_to(out, &normal(&found.path));
            replace_padded(&mut text, &written, &format!("./{}", found.module.name));
        }
        let kind = match format {
            ScriptFormat::Modules => ModuleKind::EsModule,
            ScriptFormat::ServiceWorker => ModuleKind::CommonJs,
        };
        Ok(Module { name: MAIN.to_owned(), kind, bytes: Bytes::from(text) })
    }
}

/// The source map, with sources named relative to the project rather than to a passing folder.
fn source_map(out: &Path, project_dir: &Path) -> Result<Module, BundleError> {
    let name = format!("{MAIN}.map");
    let path = out.join(&name);
    let bytes = read(&path)?;
    let invalid = |e: serde_json::Error| BundleError::File { path: path.clone(), source: e.into() };
    let mut map: serde_json::Value = serde_json::from_slice(&bytes).map_err(invalid)?;
    for source in map["sources"].as_array_mut().into_iter().flatten() {
        if let Some(text) = source.as_str() {
            let absolute = normal(&out.join(text));
            *source = relative_to(project_dir, &absolute).into();
        }
    }
    Ok(Module { name, kind: ModuleKind::SourceMap, bytes: map.to_string().into() })
}

fn replace_padded(text: &mut String, from: &str, to: &str) {
    let padding = " ".repeat(from.len().saturating_sub(to.len()));
    *text = text.replace(&format!("\"{from}\""), &format!("\"{to}\"{padding}"));
}

/// Resolves `.` and `..` by name alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}

/// The path of a file as seen from a folder; both are absolute.
fn relative_to(folder: &Path, path: &Path) -> String {
    let folder = normal(folder);
    let shared = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let ups = folder.components().skip(shared).map(|_| Component::ParentDir);
    let relative: PathBuf = ups.chain(path.components().skip(shared)).collect();
    relative.to_string_lossy().replace('\\', "/")
}
