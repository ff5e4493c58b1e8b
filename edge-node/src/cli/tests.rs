//! Deploys to a real node in this process, as `atoll dev` and `atoll demo` do.

use std::path::Path;

use super::args::ProjectArgs;
use super::environment::Environment;
use super::error::CliError;
use super::local_node::{LocalNode, LocalNodeOptions};
use super::prepare::Source;
use super::publish::{Options, Published, publish};
use super::session::Session;
use super::terminal::Terminal;
use crate::bundle::Purpose;
use crate::registry::Binding;

const CONFIG: &str = r#"
name = "app"
main = "worker.js"
compatibility_date = "2026-01-01"
routes = ["app.example/*"]
workers_dev = true
vars = { GREETING = "hi" }
[triggers]
crons = ["0 0 * * *"]
[[kv_namespaces]]
binding = "MADE"
[[kv_namespaces]]
binding = "FOREIGN"
id = "0123456789abcdef0123456789abcdef"
"#;

async fn deploy(node: &LocalNode, dir: &Path, script: &str) -> Result<Published, CliError> {
    std::fs::write(dir.join("wrangler.toml"), CONFIG).unwrap();
    std::fs::write(dir.join("worker.js"), script).unwrap();
    let terminal = Terminal::new(true, true);
    let session = Session { environment: Environment::default(), terminal };
    let source = Source {
        path: dir.to_owned(),
        project: ProjectArgs::default(),
        purpose: Purpose::Deploy,
        minify: false,
        compatibility_date: None,
    };
    let prepared = source.prepare(&session).await?;
    publish(&node.api(), prepared, Options::default(), terminal).await
}

fn namespaces(published: &Published) -> Vec<String> {
    let id = |binding: &Binding| match binding {
        Binding::KvNamespace { namespace_id, .. } => Some(namespace_id.to_string()),
        _ => None,
    };
    published.bindings.iter().filter_map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_makes_what_the_project_needs_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = LocalNode::start(LocalNodeOptions {
        data_dir: dir.path().join("data"),
        http_port: 0,
        https_port: 0,
        admin_port: 0,
        inspect: None,
        reach: Vec::new(),
    })
    .await
    .unwrap();

    let script = "export default { fetch() { return new Response('ok') } }";
    let first = deploy(&node, dir.path(), script).await.unwrap();
    assert!(first.urls[0].starts_with("http://app.demo.localhost:"), "{:?}", first.urls);
    assert!(first.urls[1].starts_with("https://app.demo.localhost:"), "{:?}", first.urls);
    assert_eq!(first.urls[2], "app.example/*");

    let second = deploy(&node, dir.path(), script).await.unwrap();
    assert_ne!(first.version, second.version);
    assert_eq!(namespaces(&first), namespaces(&second), "namespaces are made once");
    let known = node.api().namespaces().await.unwrap();
    let titles: Vec<_> = known.iter().map(|n| n.title.as_str()).collect();
    assert_eq!(titles, ["0123456789abcdef0123456789abcdef", "app-MADE"]);

    let broken = "\nthrow new Error('no start')\nexport default {}";
    let error = deploy(&node, dir.path(), broken).await.unwrap_err().to_string();
    assert!(error.contains("no start") && error.contains("worker.js:2:7"), "{error}");
    assert!(error.ends_with("2 | throw new Error('no start')\n    |       ^"), "{error}");
    node.drain().await;
}
