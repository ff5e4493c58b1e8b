//! The promise: HTTP/3 reaches workers as the other protocols do, clients learn of it, and it ends well.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_tests::{Node, NodeOptions, Protocol, Reply, Script, eventually, fixture};
use http::{Method, Version};

async fn over_http3(node: &Node, worker: &str, path: &str) -> Reply {
    node.request(worker, path).over(Protocol::Http3).send().await.unwrap()
}

#[tokio::test]
async fn workers_see_the_protocol_and_clients_are_told_of_it() {
    let node = Node::start(NodeOptions::default()).await;
    let script = Script::module(
        "export default { fetch(request) {\n\
           return Response.json({ ...request.cf, ip: request.headers.get('cf-connecting-ip') });\n\
         } };",
    );
    node.deploy("cf", &script).await;
    let reply = over_http3(&node, "cf", "/").await;
    assert_eq!((reply.status.as_u16(), reply.version), (200, Version::HTTP_3));
    let seen = reply.json();
    assert_eq!(seen["httpProtocol"], "HTTP/3");
    assert_eq!(seen["tlsVersion"], "TLSv1.3");
    assert_eq!(seen["tlsCipher"], "AEAD-AES128-GCM-SHA256");
    assert_eq!(seen["ip"], "127.0.0.1");
    let ray = reply.header("cf-ray");
    assert_eq!(ray.split_once('-').map(|(id, _)| id.len()), Some(16), "{ray}");
    let expected = format!("h3=\":{}\"; ma=86400", node.addresses().https.port());
    for (protocol, alt_svc) in [
        (Protocol::Http1, ""),
        (Protocol::Https1, &*expected),
        (Protocol::Https2, &*expected),
        (Protocol::Http3, ""),
    ] {
        let reply = node.request("cf", "/").over(protocol).send().await.unwrap();
        assert_eq!(reply.header("alt-svc"), alt_svc, "{protocol:?}");
    }
}

#[tokio::test]
async fn bodies_of_any_size_go_both_ways() {
    let node = Node::start(NodeOptions::default()).await;
    let script = Script::module(
        "export default { async fetch(request) {\n\
           if (request.method === 'HEAD') return new Response('not sent');\n\
           return new Response(request.body, { headers: { 'x-had-body': String(request.body !== null) } });\n\
         } };",
    );
    node.deploy("mirror", &script).await;
    for bytes in [0, 1, 1_000, 100_000, 5 << 20] {
        let body: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        let request = node.request("mirror", "/").over(Protocol::Http3);
        let reply = request.post(body.clone()).await.unwrap();
        assert_eq!(reply.status, 200, "{bytes}");
        assert!(reply.body == body, "{bytes} bytes come back as {}", reply.body.len());
        assert_eq!(reply.header("x-had-body"), (bytes > 0).to_string(), "{bytes}");
    }
    let request = node.request("mirror", "/").over(Protocol::Http3).method(Method::HEAD);
    let reply = request.send().await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
}

#[tokio::test]
async fn requests_go_on_when_a_process_dies_and_a_drain_loses_none() {
    let mut node = Node::start(NodeOptions { processes: Some(2), ..NodeOptions::default() }).await;
    node.deploy("echo", &Script::module(fixture("echo.js"))).await;
    let before = node.serving_processes().await.unwrap();
    let killed = before[0].pid.unwrap();
    node.kill_process(killed, "KILL");
    eventually("the process is replaced", async || {
        let now = node.serving_processes().await?;
        (now[0].state == "ready" && now[0].pid != Some(killed)).then_some(())
    })
    .await;
    for _ in 0..8 {
        assert_eq!(over_http3(&node, "echo", "/").await.status, 200);
    }
    let slow = Script::module(
        "export default { async fetch() { await scheduler.wait(1500); return new Response('done'); } };",
    );
    node.deploy("slow", &slow).await;
    let request = node.request("slow", "/").over(Protocol::Http3);
    let under_way = tokio::spawn(request.send());
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    node.terminate();
    assert_eq!(under_way.await.unwrap().unwrap().text(), "done");
    assert!(node.exit_status().await.success());
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let node = Node::start(NodeOptions::with_config("http3 = false")).await;
    node.deploy("echo", &Script::module(fixture("echo.js"))).await;
    let reply = node.request("echo", "/").over(Protocol::Https2).send().await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("alt-svc")), (200, ""));
    let port = node.addresses().https;
    std::net::UdpSocket::bind(port).expect("nobody has the port for UDP");
}
