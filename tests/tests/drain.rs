//! The promise: SIGTERM ends a node without breaking what it has accepted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_tests::{
    Node, NodeOptions, Protocol, Script, StreamedBody, eventually, fixture, next_chunk,
};
use http::Method;
use tokio::net::TcpStream;

#[tokio::test]
async fn requests_in_flight_finish_while_new_connections_are_refused() {
    for protocol in [Protocol::Http1, Protocol::Https2] {
        let mut node = Node::start(NodeOptions::default()).await;
        let script = Script::module(fixture("gate.js")).bind_text("VERSION", "v1");
        node.deploy("gate", &script).await;
        let (upload, body) = StreamedBody::channel();
        let request = node.request("gate", "/").over(protocol).method(Method::POST);
        let mut answer = request.open_with(body).await.unwrap().into_body();
        assert!(next_chunk(&mut answer).await.unwrap().is_some());

        node.terminate();
        let addresses = node.addresses();
        for address in [addresses.http, addresses.https] {
            eventually("new connections are refused", async || {
                TcpStream::connect(address).await.is_err().then_some(())
            })
            .await;
        }
        drop(upload);
        let last = next_chunk(&mut answer).await.unwrap().unwrap();
        assert_eq!(last, "v1 end\n", "{protocol:?}");
        assert!(next_chunk(&mut answer).await.unwrap().is_none(), "{protocol:?}");
        let status = node.exit_status().await;
        assert_eq!(status.code(), Some(0), "{protocol:?}: {status}");
    }
}

#[tokio::test]
async fn an_idle_node_ends_at_once_and_keeps_its_data() {
    let mut node = Node::start(NodeOptions::default()).await;
    let namespace = node.api().create_namespace("kept").await;
    node.api().kv_put(&namespace, "key", "value").await.unwrap();
    // A connection that says nothing must not hold the node up.
    let idle = TcpStream::connect(node.addresses().http).await.unwrap();
    assert_eq!(node.drain().await.code(), Some(0));
    drop(idle);
    node.restart().await;
    assert_eq!(node.api().kv_get(&namespace, "key").await.unwrap(), "value");
}
