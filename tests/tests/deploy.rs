//! The promise: a deploy is live at once and breaks no request, and projects as people write them,
//! with npm dependencies, deploy unchanged and serve.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_tests::{
    Node, NodeOptions, Project, Protocol, Script, SharedNode, StreamedBody, eventually, fixture,
    next_chunk,
};
use http::Method;
use serde_json::json;

static NODE: SharedNode = SharedNode::new(NodeOptions::default);

/// The text of one version of the gate.
fn gate(version: &str) -> Script {
    Script::module(fixture("gate.js")).bind_text("VERSION", version)
}

#[tokio::test]
async fn requests_in_flight_finish_on_the_version_they_began_on() {
    let node = NODE.node().await;
    for (old, new, protocol) in [("v1", "v2", Protocol::Http1), ("v2", "v3", Protocol::Https2)] {
        node.deploy("swap", &gate(old)).await;
        eventually("the old version serves", async || {
            (node.text("swap", "/").await == old).then_some(())
        })
        .await;
        let (upload, body) = StreamedBody::channel();
        let request = node.request("swap", "/").over(protocol).method(Method::POST);
        let mut answer = request.open_with(body).await.unwrap().into_body();
        let first = next_chunk(&mut answer).await.unwrap().unwrap();
        assert_eq!(first, format!("{old} start\n"));

        node.deploy("swap", &gate(new)).await;
        eventually("the new version serves", async || {
            (node.text("swap", "/").await == new).then_some(())
        })
        .await;
        drop(upload);
        let last = next_chunk(&mut answer).await.unwrap().unwrap();
        assert_eq!(last, format!("{old} end\n"), "{protocol:?}");
    }
}

#[tokio::test]
async fn deploys_under_load_fail_no_request() {
    let node = NODE.node().await;
    node.deploy("busy", &gate("0")).await;
    let mut newest = 0;
    for version in 1..=10 {
        let requests = (0..20).map(|_| node.text("busy", "/"));
        let script = gate(&version.to_string());
        let (seen, ()) =
            tokio::join!(futures_util::future::join_all(requests), node.deploy("busy", &script));
        for text in seen {
            let seen: u32 = text.parse().unwrap();
            assert!((newest..=version).contains(&seen), "{seen} while {version} is deployed");
        }
        eventually("the new version serves", async || {
            (node.text("busy", "/").await == version.to_string()).then_some(())
        })
        .await;
        newest = version;
    }
}

async fn deploy(node: &Node, project: &Project) {
    let output = project.atoll(node.api(), &["deploy"]).await;
    assert!(output.success, "atoll deploy failed:\n{}\n{}", output.stdout, output.stderr);
}

/// Hono, jose and zod; TypeScript in several files; JSON and wasm imports; vars and KV.
#[tokio::test]
async fn a_hono_api_in_typescript_deploys_and_serves() {
    let node = NODE.node().await;
    let namespace = node.api().create_namespace("api-notes").await;
    let project = Project::copy("api");
    project.replace("wrangler.toml", "KV_NAMESPACE_ID", &namespace);
    deploy(&node, &project).await;

    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Https1, Protocol::Https2] {
        let reply = node.request("fixture-api", "/").over(protocol).send().await.unwrap();
        let expected = json!({ "greeting": "hello", "limits": { "title": 20 }, "sum": 42 });
        assert_eq!(reply.json(), expected, "{protocol:?}");
    }

    let notes = || node.request("fixture-api", "/notes/one");
    let refused = notes().send().await.unwrap();
    assert_eq!(refused.status, 401);
    let login = node.request("fixture-api", "/login").post(r#"{"name":"Ada"}"#).await.unwrap();
    let token = format!("Bearer {}", login.json()["token"].as_str().unwrap());
    let put = |body: &str| {
        let request = notes().method(Method::PUT).header("content-type", "application/json");
        request.header("authorization", &token).body(body.to_owned()).send()
    };
    let invalid = put(r#"{"title":"a title of more than twenty characters"}"#).await.unwrap();
    assert_eq!(invalid.status, 400, "{}", invalid.text());
    assert_eq!(invalid.json()["issues"][0]["path"], json!(["title"]));
    let stored = put(r#"{"title":"a title"}"#).await.unwrap();
    assert_eq!(stored.status, 201, "{}", stored.text());
    let read = notes().header("authorization", &token).send().await.unwrap();
    assert_eq!(read.json(), json!({ "title": "a title", "by": "Ada" }));
    let value = node.api().kv_get(&namespace, "note:one").await.unwrap();
    assert_eq!(value, r#"{"title":"a title","by":"Ada"}"#);
}

/// `react-dom/server.edge` with Suspense: the shell comes first, the late part after it.
#[tokio::test]
async fn a_react_page_streams() {
    let node = NODE.node().await;
    let project = Project::copy("page");
    deploy(&node, &project).await;
    let request = node.request("fixture-page", "/?name=Ada");
    let mut body = request.open().await.unwrap().into_body();
    let (mut page, mut chunks) = (Vec::new(), 0);
    while let Some(chunk) = next_chunk(&mut body).await.unwrap() {
        if chunks == 0 {
            let shell = String::from_utf8_lossy(&chunk);
            assert!(shell.contains("waiting"), "the shell comes first: {shell}");
            assert!(!shell.contains("it is here"), "the late part comes later: {shell}");
        }
        page.extend_from_slice(&chunk);
        chunks += 1;
    }
    let page = String::from_utf8(page).unwrap();
    assert!(chunks > 1, "the page came in one piece");
    assert!(page.contains("<h1>Hello, <!-- -->Ada</h1>"), "{page}");
    assert!(page.contains("it is here"), "{page}");
}

/// itty-router in plain JavaScript, with wrangler.json.
#[tokio::test]
async fn an_itty_router_project_deploys_and_serves() {
    let node = NODE.node().await;
    let project = Project::copy("itty");
    deploy(&node, &project).await;
    for (path, status, expected) in [
        ("/double/21", 200, json!({ "doubled": 42 })),
        ("/text", 200, json!({ "text": "from a file\n" })),
        ("/nowhere", 404, json!({ "status": 404, "error": "Not Found" })),
    ] {
        let reply = node.request("fixture-itty", path).send().await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.json()), (status, expected), "{path}");
    }
}

#[tokio::test]
async fn a_project_that_does_not_bundle_is_refused_with_file_and_line() {
    let node = NODE.node().await;
    let project = Project::copy("itty");
    project.replace("src/index.js", "export default", "export defualt");
    let output = project.atoll(node.api(), &["deploy"]).await;
    assert!(!output.success, "{}", output.stdout);
    assert!(output.stderr.contains("src/index.js:"), "{}", output.stderr);
}
