//! Bundles real projects with the real esbuild: the first run installs it with npm into the
//! user's cache, as the CLI does.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::registry::ModuleKind;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { dir }
    }

    async fn bundle(&self) -> Result<Bundle, BundleError> {
        self.bundle_by(&source()).await
    }

    async fn bundle_by(&self, esbuild: &EsbuildSource) -> Result<Bundle, BundleError> {
        let project = Project::read(&self.dir.path().join("wrangler.toml"), None).unwrap();
        let entry = project.main.clone().unwrap();
        let request = BundleRequest {
            project: &project,
            entry: &entry,
            purpose: Purpose::Deploy,
            minify: false,
            color: false,
        };
        bundle(request, esbuild, &|_| ()).await
    }
}

fn source() -> EsbuildSource {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    EsbuildSource {
        explicit: None,
        search_path: None,
        cache_dir: Some(cache.or(home).unwrap_or_else(std::env::temp_dir).join("atoll")),
    }
}

fn main_text(bundle: &Bundle) -> String {
    assert_eq!(bundle.modules[0].name, bundle.main_module);
    String::from_utf8(bundle.modules[0].bytes.to_vec()).unwrap()
}

fn config(extra: &str) -> String {
    format!("name = \"t\"\nmain = \"src/index.ts\"\ncompatibility_date = \"2026-01-01\"\n{extra}")
}

#[tokio::test]
async fn typescript_packages_and_modules_become_one_script() {
    let fixture = Fixture::new(&[
        (
            "wrangler.toml",
            &config(
                "[define]\nBUILD = \"42\"\n[[rules]]\ntype = \"Text\"\nglobs = [\"**/*.md\"]\nfallthrough = true",
            ),
        ),
        (
            "src/index.ts",
            r#"import { greet } from "./greet";
import { pick } from "pkg";
import add from "../wasm/add.wasm?module";
import page from "./page.html";
import readme from "./notes.md";
import blob from "./blob.bin";
import data from "./data.json";
import { env } from "cloudflare:workers";
declare const BUILD: number;
export default { fetch: () => new Response([greet(data.who), pick, page, readme, add, blob, env,
  BUILD, process.env.NODE_ENV, navigator.userAgent].join()) } satisfies unknown;"#,
        ),
        (
            "src/greet.tsx",
            "const React = { createElement: (t: string) => t };\nexport const greet = (who: string): string => `hi ${who}${<b/>}`;",
        ),
        ("src/page.html", "<p>"),
        ("src/notes.md", "# notes"),
        ("src/blob.bin", "blob"),
        ("src/data.json", "{ \"who\": \"you\" }"),
        ("wasm/add.wasm", "\0asm"),
        ("package.json", "{ \"dependencies\": { \"pkg\": \"1\" } }"),
        (
            "node_modules/pkg/package.json",
            r#"{ "name": "pkg", "exports": { "workerd": "./w.js", "default": "./d.js" } }"#,
        ),
        ("node_modules/pkg/w.js", "export const pick = 'for workers'"),
        ("node_modules/pkg/d.js", "export const pick = 'for others'"),
    ]);
    let bundle = fixture.bundle().await.unwrap();
    assert_eq!(bundle.format, ScriptFormat::Modules);
    let main = main_text(&bundle);
    for expected in [
        "for workers",
        "\"you\"",
        "42",
        "\"production\"",
        "Cloudflare-Workers",
        "cloudflare:workers",
    ] {
        assert!(main.contains(expected), "{expected} is missing in {main}");
    }
    assert!(!main.contains("?module") && !main.contains("for others"), "{main}");
    let mut kinds: Vec<_> =
        bundle.modules.iter().map(|m| (m.name.rsplit('-').next().unwrap(), m.kind)).collect();
    kinds.sort_by_key(|(name, _)| *name);
    assert_eq!(
        kinds,
        [
            ("add.wasm", ModuleKind::Wasm),
            ("blob.bin", ModuleKind::Data),
            ("index.js", ModuleKind::EsModule),
            ("index.js.map", ModuleKind::SourceMap),
            ("notes.md", ModuleKind::Text),
            ("page.html", ModuleKind::Text),
        ]
    );
    for module in bundle.modules.iter().filter(|m| m.name.starts_with("./")) {
        assert!(main.contains(&format!("from \"{}\"", module.name)), "{} in {main}", module.name);
    }
    let map: serde_json::Value =
        serde_json::from_slice(&bundle.modules.last().unwrap().bytes).unwrap();
    let sources = map["sources"].as_array().unwrap();
    assert!(sources.contains(&"src/greet.tsx".into()), "{sources:?}");
    assert!(
        bundle.inputs.contains(&fixture.dir.path().join("wasm/add.wasm")),
        "{:?}",
        bundle.inputs
    );
}

#[tokio::test]
async fn scripts_without_exports_are_service_workers() {
    let code = "const body: string = 'x';\naddEventListener('fetch', (e: any) => e.respondWith(new Response(body)));";
    let fixture = Fixture::new(&[("wrangler.toml", &config("")), ("src/index.ts", code)]);
    let bundle = fixture.bundle().await.unwrap();
    assert_eq!(bundle.format, ScriptFormat::ServiceWorker);
    assert_eq!(bundle.modules[0].kind, ModuleKind::CommonJs);
    assert!(main_text(&bundle).contains("(() => {"));
}

#[tokio::test]
async fn plain_javascript_needs_no_bundler() {
    let text = "export default { fetch() { return new Response('<p>import</p>') } }";
    let fixture =
        Fixture::new(&[("wrangler.toml", "name = \"t\"\nmain = \"w.js\""), ("w.js", text)]);
    let bundle = fixture.bundle_by(&EsbuildSource::default()).await.unwrap();
    assert_eq!((bundle.main_module.as_str(), bundle.format), ("w.js", ScriptFormat::Modules));
    assert_eq!(main_text(&bundle), text);
}

#[tokio::test]
async fn node_modules_are_external_only_when_promised() {
    let code = "import { Buffer } from \"buffer\";\nimport fs from \"node:fs\";\nexport default { fetch: () => [Buffer, fs] }";
    let with = Fixture::new(&[
        ("wrangler.toml", &config("compatibility_flags = [\"nodejs_compat\"]")),
        ("src/index.ts", code),
    ]);
    let main = main_text(&with.bundle().await.unwrap());
    assert!(main.contains("from \"node:buffer\"") && main.contains("from \"node:fs\""), "{main}");
    let without = Fixture::new(&[("wrangler.toml", &config("")), ("src/index.ts", code)]);
    let error = without.bundle().await.unwrap_err().to_string();
    assert!(error.contains("add \"nodejs_compat\" to compatibility_flags"), "{error}");
    assert!(error.contains("src/index.ts:2:15"), "{error}");
}

#[tokio::test]
async fn async_hooks_are_built_in_without_any_promise() {
    let code = "import { AsyncLocalStorage } from \"node:async_hooks\";\nexport default { fetch: () => new AsyncLocalStorage() }";
    let fixture = Fixture::new(&[("wrangler.toml", &config("")), ("src/index.ts", code)]);
    let main = main_text(&fixture.bundle().await.unwrap());
    assert!(main.contains("from \"node:async_hooks\""), "{main}");
}

#[tokio::test]
async fn mistakes_say_where_they_are() {
    let index = |code| vec![("src/index.ts", code)];
    let cases = [
        (index("export default {\n  fetch( {\n}"), "src/index.ts:3:1"),
        (
            index("import x from \"nowhere\"; export default x"),
            "install \"nowhere\": run npm install in",
        ),
        (vec![], "there is no entry script"),
        (
            vec![
                ("src/index.ts", "export default {}"),
                ("package.json", "{\"dependencies\":{\"a\":\"1\"}}"),
            ],
            "run npm install in",
        ),
        (
            vec![
                ("src/index.ts", "import t from './t.txt'; addEventListener('fetch', t)"),
                ("src/t.txt", ""),
            ],
            "a service-worker script cannot import",
        ),
    ];
    for (files, expected) in cases {
        let toml = config("");
        let mut all = vec![("wrangler.toml", toml.as_str())];
        all.extend(files);
        let error = Fixture::new(&all).bundle().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nwanted {expected}");
    }
}

#[tokio::test]
async fn unbundled_projects_are_uploaded_as_they_are() {
    let toml = "name = \"t\"\nmain = \"dist/worker.mjs\"\nno_bundle = true\n[[rules]]\ntype = \"ESModule\"\nglobs = [\"**/*.mjs\"]";
    let fixture = Fixture::new(&[
        ("wrangler.toml", toml),
        ("dist/worker.mjs", "import './sub/a.mjs'; export default {}"),
        ("dist/sub/a.mjs", "export {}"),
        ("dist/t.txt", "t"),
        ("dist/node_modules/x/y.mjs", ""),
        ("other.mjs", ""),
    ]);
    let bundle = fixture.bundle().await.unwrap();
    let names: Vec<_> = bundle.modules.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["worker.mjs", "t.txt", "sub/a.mjs"]);
    assert_eq!(bundle.format, ScriptFormat::Modules);
}

#[tokio::test]
async fn additional_modules_stay_beside_the_bundle() {
    let toml = config(
        "find_additional_modules = true\n[[rules]]\ntype = \"ESModule\"\nglobs = [\"lazy/*.js\"]",
    );
    let fixture = Fixture::new(&[
        ("wrangler.toml", &toml),
        ("src/index.ts", "export default { fetch: () => import(\"./lazy/page.js\") }"),
        ("src/lazy/page.js", "export const page = 1"),
    ]);
    let bundle = fixture.bundle().await.unwrap();
    let main = main_text(&bundle);
    assert!(main.contains("import(\"./lazy/page.js\""), "{main}");
    assert!(bundle.modules.iter().any(|m| m.name == "lazy/page.js"));
}
