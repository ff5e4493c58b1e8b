//! Paths that look like one thing to the route table and like another to a worker's `new URL(request.url)`.

use atoll_tests::{Node, NodeOptions, Script};
use http::Method;
use serde_json::json;

use crate::wire::{End, Listener, connect, exchange};

/// Says who it is, what was asked, and what the URL standard makes of that.
const WHO: &str = "export default { fetch(request, env) {\n\
       return Response.json({ who: env.WHO, url: request.url, path: new URL(request.url).pathname });\n\
     } };";

async fn deploy(node: &Node, worker: &str, routes: &[&str]) {
    node.deploy(worker, &Script::module(WHO).bind_text("WHO", worker)).await;
    let path = node.api().in_account(&format!("/workers/scripts/{worker}/routes"));
    let routes: Vec<_> = routes.iter().map(|pattern| json!({ "pattern": pattern })).collect();
    node.api().call(Method::PUT, &path, &json!(routes)).await.unwrap();
}

/// Which worker a path of `site.test` leads to, and which path it sees.
async fn asked(node: &Node, target: &str) -> (String, String) {
    let request = format!("GET {target} HTTP/1.1\r\nhost: site.test\r\nconnection: close\r\n\r\n");
    let (answers, end) = exchange(connect(node, Listener::Plain).await, request.as_bytes()).await;
    assert_eq!((answers.len(), end), (1, End::Closed), "{target}: {answers:?}");
    let Ok(seen) = serde_json::from_str::<serde_json::Value>(&answers[0].body) else {
        return (answers[0].status.to_string(), String::new());
    };
    let text = |name: &str| seen[name].as_str().unwrap_or_default().to_owned();
    let url = text("url");
    let path = url.strip_prefix("http://site.test").unwrap_or_else(|| panic!("{target}: {url}"));
    let path = path.split('?').next().unwrap_or_default();
    assert_eq!(path, text("path"), "{target}: what was routed is what the URL standard reads");
    (text("who"), path.to_owned())
}

#[tokio::test]
async fn a_worker_is_reached_by_the_path_that_it_sees() {
    let node = Node::start(NodeOptions::default()).await;
    deploy(&node, "open", &["site.test/*"]).await;
    deploy(&node, "admin", &["site.test/admin*"]).await;
    for (target, who, path) in [
        ("/", "open", "/"),
        ("/public/x", "open", "/public/x"),
        ("/admin/x", "admin", "/admin/x"),
        ("/public/../admin/x", "admin", "/admin/x"),
        ("/public/..\\admin", "admin", "/admin"),
        ("/public/%2e%2E/admin", "admin", "/admin"),
        ("/./admin", "admin", "/admin"),
        ("\\admin", "400", ""),
        ("/\\admin", "open", "//admin"),
        ("/../../admin", "admin", "/admin"),
        ("/admin/..", "open", "/"),
        ("/admin/../public", "open", "/public"),
        ("/admin/%2e%2e/public", "open", "/public"),
        // Nothing else is decoded or joined, by the router or by the URL standard.
        ("//admin", "open", "//admin"),
        ("/%61dmin", "open", "/%61dmin"),
        ("/public/..%2fadmin", "open", "/public/..%2fadmin"),
        ("/admin%00", "admin", "/admin%00"),
        ("/%00/admin", "open", "/%00/admin"),
        ("/ADMIN", "open", "/ADMIN"),
        ("/?/../admin", "open", "/"),
        ("http://site.test/public/../admin", "admin", "/admin"),
        ("http://site.test", "open", "/"),
    ] {
        assert_eq!(asked(&node, target).await, (who.to_owned(), path.to_owned()), "{target}");
    }
}
