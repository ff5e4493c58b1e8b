//! The promise: a deployed worker answers over every protocol, in every syntax, with every type of
//! module and variable; what cannot be answered gets a clear page.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_tests::{ModuleType, NodeOptions, Protocol, Script, SharedNode, fixture, fixture_bytes};
use http::Version;
use serde_json::json;

static NODE: SharedNode = SharedNode::new(NodeOptions::default);

#[tokio::test]
async fn every_protocol_reaches_the_worker() {
    let node = NODE.node().await;
    node.deploy("echo", &Script::module(fixture("echo.js"))).await;
    for (protocol, version, scheme) in [
        (Protocol::Http1, Version::HTTP_11, "http"),
        (Protocol::Http2, Version::HTTP_2, "http"),
        (Protocol::Https1, Version::HTTP_11, "https"),
        (Protocol::Https2, Version::HTTP_2, "https"),
        (Protocol::Http3, Version::HTTP_3, "https"),
    ] {
        let request = node.request("echo", "/a/b?c=d").over(protocol).header("x-mine", "yes");
        let reply = request.post("some words").await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.version), (200, version), "{protocol:?}");
        let seen = reply.json();
        assert_eq!(seen["method"], "POST", "{protocol:?}");
        assert_eq!(seen["body"], "some words", "{protocol:?}");
        assert_eq!(seen["headers"]["x-mine"], "yes", "{protocol:?}");
        let url = seen["url"].as_str().unwrap();
        assert!(url.starts_with(&format!("{scheme}://echo.demo.localhost")), "{protocol:?}: {url}");
        assert!(url.ends_with("/a/b?c=d"), "{protocol:?}: {url}");
    }
}

#[tokio::test]
async fn an_unknown_host_gets_a_page_in_the_asked_format_with_an_id() {
    let node = NODE.node().await;
    for (accept, content_type) in [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("application/json", "application/json"),
        ("text/plain", "text/plain"),
    ] {
        let request = node.request_to_host("nobody.demo.localhost", "/");
        let reply = request.header("accept", accept).send().await.unwrap();
        assert_eq!(reply.status, 404, "{accept}");
        let seen = reply.header("content-type");
        assert!(seen.starts_with(content_type), "{accept} is answered with {seen}");
        let text = reply.text();
        let id = text.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() >= 16);
        assert!(id.is_some(), "{accept}: the page has no id: {text}");
    }
}

#[tokio::test]
async fn modules_of_every_type_are_imported_with_and_without_a_leading_dot() {
    let node = NODE.node().await;
    let script = Script::module(fixture("modules.js"))
        .with("lib/double.mjs", ModuleType::EsModule, "export const double = (n) => n * 2;")
        .with("./lib/triple.mjs", ModuleType::EsModule, "export { triple } from './three.mjs';")
        .with("lib/three.mjs", ModuleType::EsModule, "export const triple = (n) => n * 3;")
        .with("./note.txt", ModuleType::Text, "für alle")
        .with("./data.bin", ModuleType::Data, vec![0, 1, 254, 255])
        .with("config.json", ModuleType::Json, r#"{"depth":{"of":3}}"#)
        .with("./add.wasm", ModuleType::Wasm, fixture_bytes("add.wasm"));
    node.deploy("modules", &script).await;
    let reply = node.request("modules", "/").send().await.unwrap();
    assert_eq!(
        reply.json(),
        json!({
            "double": 8, "triple": 12, "text": "für alle", "data": [0, 1, 254, 255],
            "config": { "depth": { "of": 3 } }, "sum": 5,
        })
    );
}

#[tokio::test]
async fn older_syntaxes_serve() {
    let node = NODE.node().await;
    let service_worker = Script::service_worker(
        "addEventListener('fetch', (event) => event.respondWith(new Response(GREETING)));",
    );
    let common_js = Script::common_js(
        "const { word } = require('./word.js');\n\
         module.exports = { fetch(request, env) { return new Response(word + env.GREETING); } };",
    )
    .with("word.js", ModuleType::CommonJs, "exports.word = 'well, ';");
    for (worker, script, expected) in
        [("service-worker", service_worker, "hello"), ("common-js", common_js, "well, hello")]
    {
        node.deploy(worker, &script.bind_text("GREETING", "hello")).await;
        assert_eq!(node.text(worker, "/").await, expected, "{worker}");
    }
}

#[tokio::test]
async fn variables_are_in_env() {
    let node = NODE.node().await;
    let script = Script::module(
        "import { env as imported } from 'cloudflare:workers';\n\
         export default { fetch(_, env) {\n\
           return Response.json({ ...env, imported: imported.TEXT });\n\
         } };",
    )
    .bind_text("TEXT", "a word")
    .bind(json!({ "type": "json", "name": "JSON", "json": { "list": [1, true, null] } }))
    .bind(json!({ "type": "secret_text", "name": "SECRET", "text": "hush" }));
    node.deploy("variables", &script).await;
    assert_eq!(
        node.request("variables", "/").send().await.unwrap().json(),
        json!({
            "TEXT": "a word", "JSON": { "list": [1, true, null] }, "SECRET": "hush",
            "imported": "a word",
        })
    );
}

#[tokio::test]
async fn requests_in_flight_together_keep_their_own_objects() {
    let node = NODE.node().await;
    let script = Script::module(
        "export default { async fetch(request) {\n\
           const before = new URL(request.url).searchParams.get('n');\n\
           await scheduler.wait(Math.random() * 20);\n\
           const body = await request.text();\n\
           await scheduler.wait(Math.random() * 20);\n\
           return Response.json([before, body, new URL(request.url).searchParams.get('n')]);\n\
         } };",
    );
    node.deploy("mixing", &script).await;
    let requests = (0..100).map(|n| {
        let request = node.request("mixing", &format!("/?n={n}"));
        async move { (n.to_string(), request.post(format!("body {n}")).await.unwrap()) }
    });
    for (n, reply) in futures_util::future::join_all(requests).await {
        assert_eq!(reply.json(), json!([n, format!("body {n}"), n]));
    }
}
