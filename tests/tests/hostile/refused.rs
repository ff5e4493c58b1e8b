//! What is turned away before it runs: a script that cannot start leaves the old one serving, and
//! what is too large or has no token gets a clear answer.

use std::sync::atomic::{AtomicBool, Ordering};

use atoll_tests::{Node, NodeOptions, Script, SharedNode, StreamedBody, fixture};
use serde_json::Value;

const MIB: usize = 1 << 20;

static NODE: SharedNode = SharedNode::new(|| {
    NodeOptions::with_config(
        "[limits]\ncpu_ms_max = 200\nstartup_cpu_ms_max = 200\nwall_ms_max = 2000\n\
         memory_bytes_max = 67108864\nrequest_body_bytes_max = 1048576\n\
         script_bytes_max = 1048576",
    )
});

/// Does `work` while a neighbour is asked again and again and must always answer.
async fn beside_a_neighbour<T>(node: &Node, work: impl Future<Output = T>) -> T {
    node.deploy("neighbour", &Script::module(fixture("echo.js"))).await;
    let done = AtomicBool::new(false);
    let neighbour = async {
        let mut answers = 0;
        while !done.load(Ordering::Relaxed) || answers == 0 {
            let reply = node.request("neighbour", "/").send().await;
            let reply = reply.unwrap_or_else(|error| panic!("answer {answers}: {error}"));
            assert_eq!(reply.status, 200, "answer {answers}: {}", reply.text());
            answers += 1;
            tokio::time::sleep(atoll_tests::POLL).await;
        }
    };
    let work = async {
        let result = work.await;
        done.store(true, Ordering::Relaxed);
        result
    };
    tokio::join!(work, neighbour).0
}

#[tokio::test]
async fn scripts_that_cannot_start_are_refused_with_the_reason() {
    let node = NODE.node().await;
    let cases = [
        ("export default {\n  fetch( { }\n", "SyntaxError"),
        ("throw new Error('not today');", "not today"),
        ("null.field;\nexport default { fetch() {} };", "TypeError"),
        ("while (true) {}\nexport default { fetch() {} };", "limit"),
        ("await new Promise(() => {});\nexport default { fetch() {} };", "await"),
        ("import './nowhere.js';\nexport default { fetch() {} };", "nowhere.js"),
    ];
    node.deploy("stays", &Script::module("export default { fetch: () => new Response('old') };"))
        .await;
    beside_a_neighbour(&node, async {
        for (source, expected) in cases {
            let refused = node.api().upload("stays", &Script::module(source)).await;
            let refused = refused.expect_err(source);
            assert!(refused.status.is_client_error(), "{source}: {refused}");
            assert_eq!(refused.code, Some(10021), "{source}: {refused}");
            assert!(refused.text.contains(expected), "{source}: {refused}");
            assert_eq!(node.text("stays", "/").await, "old", "{source}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_too_large_is_turned_away() {
    let node = NODE.node().await;
    node.deploy("large", &Script::module(fixture("echo.js"))).await;
    let header = "h".repeat(200 * 1024);
    let url = format!("/{}", "u".repeat(20 * 1024));
    for (what, request, status) in [
        ("header", node.request("large", "/").header("x-large", &header), 431),
        ("URL", node.request("large", &url), 414),
    ] {
        let reply = beside_a_neighbour(&node, request.send()).await;
        let reply = reply.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
    }
    // Its head alone is enough; a body on its way would race the connection's end.
    let (_unsent, body) = StreamedBody::channel();
    let request = node.request("large", "/").method(http::Method::POST);
    let request = request.header("content-length", &(2 * MIB).to_string());
    let answer = beside_a_neighbour(&node, request.open_with(body)).await.unwrap();
    assert_eq!(answer.status(), 413);

    let script = format!("// {}\nexport default {{ fetch() {{}} }};", "s".repeat(2 * MIB));
    let refused = node.api().upload("large", &Script::module(script)).await.unwrap_err();
    assert_eq!(refused.code, Some(10027), "{refused}");

    let namespace = node.api().create_namespace("large").await;
    let key = "k".repeat(513);
    for (what, key, value, status) in
        [("key", key.as_str(), vec![0; 1], 414), ("value", "key", vec![0; 25 * MIB + 1], 413)]
    {
        let refused = node.api().kv_put(&namespace, key, value).await.unwrap_err();
        assert_eq!(refused.status, status, "{what}: {refused}");
        assert!(refused.code.is_some(), "{what}: {refused}");
    }
}

#[tokio::test]
async fn the_api_opens_to_nobody_without_a_token() {
    let node = NODE.node().await;
    let path = format!("/client/v4{}", node.api().in_account("/workers/scripts"));
    for authorization in [None, Some("Bearer nonsense"), Some("Basic YTpi"), Some("Bearer ")] {
        let mut request = node.request_to_host("localhost", &path);
        request = request.over(atoll_tests::Protocol::Admin);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let reply = request.send().await.unwrap();
        assert!(matches!(reply.status.as_u16(), 400 | 401 | 403), "{authorization:?}");
        assert_eq!(reply.json()["success"], Value::Bool(false), "{authorization:?}");
    }
}
