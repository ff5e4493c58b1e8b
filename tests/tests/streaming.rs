//! The promise: bodies stream in little memory without losing a byte, a client that leaves aborts
//! the handler, and clients that dawdle cost nobody else a request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use atoll_tests::{
    Digest, Node, NodeOptions, Protocol, Script, Seed, StreamedBody, WAIT_MAX, eventually, fixture,
    next_chunk,
};
use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const MIB: u64 = 1 << 20;
const RESIDENT_BYTES_MAX: u64 = 300 * MIB;
const CHUNK_BYTES: usize = 64 * 1024;
/// Seconds that dawdling clients send a byte in.
const SLOW_SECONDS: usize = 5;
/// Descriptors kept for everything but dawdling clients.
const DESCRIPTORS_KEPT: u64 = 500;

/// Whether to take the sizes of the promise itself rather than those of a daily run.
fn full() -> bool {
    std::env::var_os("ATOLL_TEST_FULL").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_upload_is_echoed_in_little_memory() {
    let length = if full() { 1024 * MIB } else { 128 * MIB };
    let node = Node::start(NodeOptions::default()).await;
    node.deploy("back", &Script::module(fixture("stream_back.js"))).await;
    for protocol in [Protocol::Http1, Protocol::Https2] {
        let done = AtomicBool::new(false);
        let most = AtomicU64::new(0);
        let watch = async {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(node.memory_rss_bytes(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let echo = async {
            let result = echo(&node, protocol, length).await;
            done.store(true, Ordering::Relaxed);
            result
        };
        let ((sent, received), ()) = tokio::join!(echo, watch);
        assert_eq!(sent.0, length);
        assert_eq!(sent, received, "{protocol:?}: what came back differs");
        let most = most.load(Ordering::Relaxed);
        assert!(most < RESIDENT_BYTES_MAX, "{protocol:?}: the node held {} MiB", most / MIB);
    }
}

/// Sends `length` bytes and reads them back; answers both counts and digests.
async fn echo(node: &Node, protocol: Protocol, length: u64) -> ((u64, String), (u64, String)) {
    let (sender, body) = StreamedBody::channel();
    let send = tokio::spawn(async move {
        let (mut seed, mut digest) = (Seed::new(length), Digest::default());
        for _ in 0..length / CHUNK_BYTES as u64 {
            let chunk = seed.bytes(CHUNK_BYTES);
            digest.update(&chunk);
            if sender.send(chunk).await.is_err() {
                break;
            }
        }
        digest.finish()
    });
    let request = node.request("back", "/").over(protocol).method(Method::POST);
    let response = request.open_with(body).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut digest = Digest::default();
    while let Some(chunk) = next_chunk(&mut body).await.unwrap() {
        digest.update(&chunk);
    }
    let sent = tokio::time::timeout(WAIT_MAX, send).await;
    (sent.expect("the echo ends before the upload does").unwrap(), digest.finish())
}

#[tokio::test]
async fn a_client_that_leaves_aborts_the_handler() {
    let node = Node::start(NodeOptions::default()).await;
    let namespace = node.api().create_namespace("left").await;
    node.deploy("leaver", &Script::module(fixture("leaver.js")).bind_kv("KV", &namespace)).await;
    for (id, protocol) in
        [Protocol::Http1, Protocol::Http2, Protocol::Https1].into_iter().enumerate()
    {
        let request = node.request("leaver", &format!("/?id={id}")).over(protocol);
        let mut body = request.open().await.unwrap().into_body();
        assert!(next_chunk(&mut body).await.unwrap().is_some(), "{protocol:?}");
        drop(body);
        let key = format!("left-{id}");
        eventually("the handler sees its client leave", async || {
            node.api().kv_get(&namespace, &key).await
        })
        .await;
    }
}

/// Clients that open a request and then send a byte a second. Whatever the node does with them,
/// a client that behaves must not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dawdling_clients_cost_nobody_a_request() {
    let node = Node::start(NodeOptions::default()).await;
    node.deploy("hello", &Script::module(fixture("echo.js"))).await;
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let count = if full() { 10_000 } else { 1_000 };
    let count = count.min(descriptors.saturating_sub(DESCRIPTORS_KEPT));
    let mut dawdlers = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(node.addresses().http).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: hello.demo.localhost\r\nx: ").await.unwrap();
        dawdlers.push(stream);
    }
    for second in 0..SLOW_SECONDS {
        let tick = tokio::time::sleep(Duration::from_secs(1));
        for stream in &mut dawdlers {
            // The node may have closed it: that is its right.
            let _ = stream.try_write(b"a");
        }
        for n in 0..20 {
            let reply = node.request("hello", "/").send().await;
            let reply = reply.unwrap_or_else(|error| panic!("second {second}, {n}: {error}"));
            assert_eq!(reply.status, 200, "second {second}, request {n}: {}", reply.text());
        }
        tick.await;
    }
}
