//! The promise: a restart of `atoll serve` by SIGUSR2 refuses and breaks no connection, and a mistake in the new
//! configuration leaves the node as it is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use atoll_tests::{
    Node, NodeOptions, Protocol, Script, StreamedBody, eventually, fixture, next_chunk,
};
use http::Method;

/// Requests that must be answered after a restart before the load ends.
const ANSWERED_AFTER: usize = 200;

/// Clients that ask at once over each protocol.
const CLIENTS_EACH: usize = 4;

/// Waits until the program has been started so often.
async fn started(node: &Node, times: usize) {
    eventually("the next program listens", async || {
        (node.output().matches("listening http=").count() == times).then_some(())
    })
    .await;
    node.ready().await;
}

fn gate() -> Script {
    Script::module(fixture("gate.js")).bind_text("VERSION", "v1")
}

/// What a load has seen.
#[derive(Default)]
struct Seen {
    answered: AtomicUsize,
    over: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_refuses_and_breaks_nothing() {
    let node = Arc::new(Node::start(NodeOptions::default()).await);
    node.deploy("gate", &gate()).await;
    let namespace = node.api().create_namespace("kept").await;
    node.api().kv_put(&namespace, "key", "value").await.unwrap();
    let addresses = node.addresses();
    let seen = Arc::new(Seen::default());
    let protocols = [Protocol::Http1, Protocol::Http2, Protocol::Https1, Protocol::Https2];
    let load: Vec<_> = [protocols; CLIENTS_EACH]
        .concat()
        .into_iter()
        .map(|protocol| tokio::spawn(requests(node.clone(), protocol, seen.clone())))
        .collect();
    eventually("the load runs", async || {
        (seen.answered.load(Ordering::Relaxed) > ANSWERED_AFTER).then_some(())
    })
    .await;

    // A request that is under way is answered to its end before the next program begins.
    let (upload, body) = StreamedBody::channel();
    let slow = node.request("gate", "/").method(Method::POST);
    let mut answer = slow.open_with(body).await.unwrap().into_body();
    assert!(next_chunk(&mut answer).await.unwrap().is_some());
    node.signal("USR2");
    eventually("it restarts", async || node.output().contains("restarting").then_some(())).await;
    drop(upload);
    assert_eq!(next_chunk(&mut answer).await.unwrap().unwrap(), "v1 end\n");
    started(&node, 2).await;

    let before = seen.answered.load(Ordering::Relaxed);
    eventually("the load goes on", async || {
        (seen.answered.load(Ordering::Relaxed) > before + ANSWERED_AFTER).then_some(())
    })
    .await;
    seen.over.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(node.addresses().http, addresses.http);
    assert_eq!(node.api().kv_get(&namespace, "key").await.unwrap(), "value");
    println!("{} requests over two programs, none failed", seen.answered.load(Ordering::Relaxed));
}

/// Asks on a new connection each time, and fails at the first request that is not answered.
async fn requests(node: Arc<Node>, protocol: Protocol, seen: Arc<Seen>) {
    while !seen.over.load(Ordering::Relaxed) {
        let reply = node.request("gate", "/").over(protocol).send().await;
        let reply = reply.unwrap_or_else(|error| panic!("{protocol:?}: {error}"));
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "v1"), "{protocol:?}");
        seen.answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_mistake_in_the_configuration_leaves_the_node_as_it_is() {
    let mut node = Node::start(NodeOptions::default()).await;
    node.deploy("gate", &gate()).await;
    let file = node.data_dir().parent().unwrap().join("node.toml");
    std::fs::write(&file, "data_dri = 1\n").unwrap();
    node.signal("USR2");
    eventually("the mistake is told", async || {
        let output = node.output();
        (output.contains("the node is not restarted") && output.contains("did you mean data_dir"))
            .then_some(())
    })
    .await;
    assert_eq!(node.text("gate", "/").await, "v1");
    // Mended, it restarts, more than once, and stops as ever.
    std::fs::write(&file, "").unwrap();
    for times in 2..=3 {
        node.signal("USR2");
        started(&node, times).await;
        assert_eq!(node.text("gate", "/").await, "v1");
    }
    assert_eq!(node.drain().await.code(), Some(0));
}
