//! The promise: a worker reaches its client, its bindings and the public internet, and nothing
//! else: no private address, no internals of the runtime, no other account's data.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};

use atoll_tests::{ModuleType, Node, NodeOptions, Origin, Script, SharedNode, fixture};
use serde_json::{Value, json};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Loopback too, but outside what the tests' configuration allows.
const LOOPBACK_NEXT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

static NODE: SharedNode = SharedNode::new(NodeOptions::default);

/// What a worker's fetch of `url` comes to: `{ status, body }` or `{ error }`.
async fn fetched(node: &Node, url: &str) -> Value {
    let encoded: String = url.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let reply = node.request("fetcher", &format!("/?url={encoded}")).send().await.unwrap();
    assert_eq!(reply.status, 200, "{url}: {}", reply.text());
    reply.json()
}

#[tokio::test]
async fn private_addresses_are_out_of_reach_however_they_are_written() {
    let node = NODE.node().await;
    node.deploy("fetcher", &Script::module(fixture("fetcher.js"))).await;
    let secret = Origin::answering(LOOPBACK, "secret").await;
    let port = secret.address().port();
    let admin = node.addresses().admin;
    let with_port = [
        "127.0.0.1",
        "127.1",
        "127.255.255.254",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
    ];
    let urls = with_port.iter().map(|host| format!("http://{host}:{port}/"));
    let others = [
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[fe80::1]",
        "[fc00::1]",
        "[ff02::1]",
        "[::ffff:10.0.0.1]",
        "[2002:7f00:1::]",
    ];
    let others = others.iter().map(|host| format!("http://{host}/"));
    let own = ["http", "https"].map(|scheme| format!("{scheme}://{admin}/metrics"));
    for url in urls.chain(others).chain(own) {
        let seen = fetched(&node, &url).await;
        assert!(seen["error"].is_string(), "{url} is reached: {seen}");
    }
    assert_eq!(secret.connections(), 0, "a connection was opened");
}

#[tokio::test]
async fn schemes_other_than_the_webs_are_refused() {
    let node = NODE.node().await;
    node.deploy("fetcher", &Script::module(fixture("fetcher.js"))).await;
    for url in ["file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "unix:/run/x"]
    {
        let seen = fetched(&node, url).await;
        assert!(seen["error"].is_string(), "{url} is fetched: {seen}");
    }
}

#[tokio::test]
async fn a_redirect_opens_no_door() {
    let node = Node::start(NodeOptions::with_config("[outbound]\nallow = ['127.0.0.1/32']")).await;
    node.deploy("fetcher", &Script::module(fixture("fetcher.js"))).await;
    let allowed = Origin::answering(LOOPBACK, "allowed").await;
    let forbidden = Origin::answering(LOOPBACK_NEXT, "forbidden").await;
    assert_eq!(fetched(&node, &allowed.url()).await, json!({ "status": 200, "body": "allowed" }));
    assert!(fetched(&node, &forbidden.url()).await["error"].is_string());
    for (target, reached) in [(&allowed, true), (&forbidden, false)] {
        let redirector = Origin::redirecting(LOOPBACK, &target.url()).await;
        let twice = Origin::redirecting(LOOPBACK, &redirector.url()).await;
        for start in [&redirector, &twice] {
            let seen = fetched(&node, &start.url()).await;
            assert_eq!(seen["body"].is_string(), reached, "{} leads to {seen}", start.url());
        }
    }
    for location in ["http://169.254.169.254/", "http://[::1]/", "file:///etc/passwd"] {
        let redirector = Origin::redirecting(LOOPBACK, location).await;
        let seen = fetched(&node, &redirector.url()).await;
        assert!(seen["error"].is_string(), "a redirect to {location} is followed: {seen}");
    }
    assert_eq!(forbidden.connections(), 0, "a connection was opened");
}

#[tokio::test]
async fn internals_are_out_of_reach() {
    let node = NODE.node().await;
    node.deploy("internals", &Script::module(fixture("internals.js"))).await;
    let reply = node.request("internals", "/").send().await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json(), json!([]), "a worker can reach these");
}

#[tokio::test]
async fn imports_of_internals_are_refused_at_upload() {
    let node = NODE.node().await;
    for specifier in
        ["ext:core/ops", "ext:core/mod.js", "file:///etc/passwd", "http://example.com/a.js"]
    {
        let source = format!("import '{specifier}'; export default {{ fetch() {{}} }};");
        let refused = node.api().upload("importer", &Script::module(source)).await;
        let refused = refused.expect_err(specifier);
        assert!(refused.status.is_client_error(), "{specifier}: {refused}");
    }
    let dotted = Script::module("import '../../../etc/passwd'; export default { fetch() {} };")
        .with("../../../etc/passwd", ModuleType::EsModule, "");
    // Names are names: whether this is refused or served, no file is read.
    if node.api().upload("importer", &dotted).await.is_ok() {
        assert!(!node.request("importer", "/").send().await.unwrap().text().contains("root:"));
    }
}

#[tokio::test]
async fn workers_of_one_node_share_no_globals() {
    let node = NODE.node().await;
    let source = "export default { fetch(request) {\n\
        const before = globalThis.mark ?? Array.prototype.mark ?? null;\n\
        globalThis.mark = Array.prototype.mark = new URL(request.url).host;\n\
        return Response.json(before);\n\
    } };";
    for worker in ["marker-one", "marker-two", "marker-three", "marker-four"] {
        node.deploy(worker, &Script::module(source)).await;
        assert_eq!(node.text(worker, "/").await, "null", "{worker}");
    }
}
