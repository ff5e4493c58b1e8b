//! The promise: WebSockets of workers work over every protocol, towards clients, servers and other workers; what
//! breaks a rule gets its close code, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_tests::{
    DevSession, EchoServer, Node, NodeOptions, Project, Protocol, Script, SharedNode, TailSession,
    WebSocket, eventually, fixture,
};
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Small messages sent at once, and how often.
const SMALL_MESSAGES: usize = 500;
const SMALL_ROUNDS: usize = 20;

static NODE: SharedNode =
    SharedNode::new(|| NodeOptions::with_config("[outbound]\nallow = [\"127.0.0.0/8\"]\n"));

/// Deploys the fixture, with a namespace of its own and a worker to go on to.
async fn deploy(node: &Node, name: &str) -> String {
    let namespace = node.api().create_namespace(name).await;
    let next = format!("{name}-next");
    for (worker, next) in [(next.as_str(), name), (name, next.as_str())] {
        let script = Script::module(fixture("sockets.js")).bind_kv("KV", &namespace);
        // The first is deployed before what it is bound to: the binding is looked up when it is used.
        let bound = json!({ "type": "service", "name": "NEXT", "service": next });
        let script = if worker == name { script.bind(bound) } else { script };
        node.deploy(worker, &script).await;
    }
    namespace
}

async fn connect(node: &Node, worker: &str, path: &str) -> WebSocket {
    WebSocket::connect(node, worker, path, Protocol::Http1, "").await.unwrap()
}

async fn noted(node: &Node, namespace: &str, key: &str) -> Value {
    let text = eventually("the worker writes down what it saw", async || {
        node.api().kv_get(namespace, key).await
    })
    .await;
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test]
async fn messages_of_every_size_and_kind_come_back_over_every_protocol() {
    let node = NODE.node().await;
    deploy(&node, "every").await;
    for protocol in [Protocol::Http1, Protocol::Https1, Protocol::Http2, Protocol::Https2] {
        let mut socket = WebSocket::connect(&node, "every", "/echo", protocol, "").await.unwrap();
        for bytes in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            let text = "é".repeat(bytes / 2);
            socket.send(text.as_str()).await;
            assert_eq!(socket.text().await, text, "{protocol:?} {bytes}");
            let binary: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
            socket.send(binary.clone()).await;
            assert_eq!(socket.next().await, Some(Message::binary(binary)), "{protocol:?} {bytes}");
        }
        for round in 0..SMALL_ROUNDS {
            for n in 0..SMALL_MESSAGES {
                socket.send(format!("{round}.{n}")).await;
            }
            for n in 0..SMALL_MESSAGES {
                assert_eq!(socket.text().await, format!("{round}.{n}"), "{protocol:?}");
            }
        }
        assert_eq!(socket.close(4000, "bye").await, (4000, "bye".to_owned()), "{protocol:?}");
    }
}

#[tokio::test]
async fn fragments_are_put_together_and_pings_answered() {
    let node = NODE.node().await;
    deploy(&node, "fragments").await;
    let mut socket = connect(&node, "fragments", "/echo").await;
    let parts =
        [("one ", OpCode::Data(Data::Text), false), ("two ", OpCode::Data(Data::Continue), false)];
    for (text, code, last) in parts {
        let frame = Frame::message(text.as_bytes().to_vec(), code, last);
        socket.stream.send(Message::Frame(frame)).await.unwrap();
        socket.stream.send(Message::Ping(b"between".to_vec().into())).await.unwrap();
    }
    let frame = Frame::message(b"three".to_vec(), OpCode::Data(Data::Continue), true);
    socket.stream.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(socket.text().await, "one two three");
}

#[tokio::test]
async fn a_sub_protocol_is_the_workers_to_choose() {
    let node = NODE.node().await;
    deploy(&node, "protocols").await;
    let asked =
        WebSocket::connect(&node, "protocols", "/echo", Protocol::Http1, "chat, other").await;
    let headers = asked.unwrap().response.headers().clone();
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    assert!(headers.contains_key("cf-ray"));
}

#[tokio::test]
async fn each_end_learns_how_the_other_closed() {
    let node = NODE.node().await;
    let namespace = deploy(&node, "closes").await;
    let mut socket = connect(&node, "closes", "/witness/by-client").await;
    assert_eq!(socket.close(4321, "client").await.0, 4321);
    let seen = noted(&node, &namespace, "by-client").await;
    let expected =
        json!([{ "type": "close", "code": 4321, "reason": "client", "clean": true, "state": 3 }]);
    assert_eq!(seen, expected);

    let mut socket = connect(&node, "closes", "/witness/by-worker").await;
    socket.send(r#"{"send":"first","close":[3001,"worker"]}"#).await;
    assert_eq!(socket.text().await, "first");
    assert_eq!(socket.closed().await, (3001, "worker".to_owned()));
    assert!(socket.next().await.is_none());
    let seen = noted(&node, &namespace, "by-worker").await;
    assert_eq!((&seen[0]["code"], &seen[0]["clean"]), (&json!(3001), &json!(true)));

    let mut socket = connect(&node, "closes", "/witness/no-code").await;
    socket.send(r#"{"close":[]}"#).await;
    assert_eq!(socket.closed().await.0, 1005);
    let seen = noted(&node, &namespace, "no-code").await;
    assert_eq!(seen[0]["code"], 1005);

    let socket = connect(&node, "closes", "/witness/vanished").await;
    drop(socket);
    let seen = noted(&node, &namespace, "vanished").await;
    assert_eq!((&seen[0]["type"], &seen[0]["code"]), (&json!("close"), &json!(1006)));
    assert_eq!(seen[0]["clean"], false);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_closed_with_its_code() {
    let node = NODE.node().await;
    let namespace = deploy(&node, "rules-broken").await;
    let mut socket = connect(&node, "rules-broken", "/witness/large").await;
    socket.stream.send(Message::binary(vec![0; (1 << 20) + 1])).await.unwrap();
    assert_eq!(socket.closed().await.0, 1009);
    let seen = noted(&node, &namespace, "large").await;
    let types: Vec<_> = seen.as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["error", "close"]);
    assert_eq!(seen[1]["code"], 1009);

    let mut socket = connect(&node, "rules-broken", "/echo").await;
    let frame = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    socket.stream.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(socket.closed().await.0, 1007);

    let mut socket = connect(&node, "rules-broken", "/echo").await;
    let frame = Frame::message(b"of nothing".to_vec(), OpCode::Data(Data::Continue), true);
    socket.stream.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(socket.closed().await.0, 1002);
}

#[tokio::test]
async fn mistakes_of_the_worker_throw() {
    let node = NODE.node().await;
    deploy(&node, "mistakes").await;
    let mut socket = connect(&node, "mistakes", "/errors").await;
    socket.send("go").await;
    let seen: Value = serde_json::from_str(&socket.text().await).unwrap();
    assert_eq!(seen["code"], "TypeError: Invalid WebSocket close code: 1005.");
    assert_eq!(seen["low"], "TypeError: Invalid WebSocket close code: 999.");
    assert!(seen["lone"].as_str().unwrap().starts_with("TypeError: "), "{seen}");
    assert!(seen["reason"].as_str().unwrap().starts_with("SyntaxError: "), "{seen}");
    assert!(seen["large"].as_str().unwrap().starts_with("RangeError: "), "{seen}");
    assert_eq!(seen["state"], json!([1, 1, 1, 1]));
    assert_eq!(seen["shown"], "[object WebSocket]");
    assert_eq!(socket.closed().await, (1000, "x".repeat(123)));
}

#[tokio::test]
async fn who_is_no_client_of_websockets_gets_a_page() {
    let node = NODE.node().await;
    deploy(&node, "pages").await;
    // Without the header the worker may not answer so.
    let reply = node.request("pages", "/echo").send().await.unwrap();
    assert_eq!(reply.status, 500);
    // Half a handshake.
    let half = node.request("pages", "/echo").header("upgrade", "websocket");
    let reply = half.clone().header("connection", "upgrade").send().await.unwrap();
    assert_eq!(reply.status, 426, "{}", reply.text());
    assert_eq!(reply.header("sec-websocket-version"), "13");
    let reply = half.method(http::Method::POST).send().await.unwrap();
    assert_eq!(reply.status, 426, "{}", reply.text());
    for (path, status) in [("/plain", 200), ("/late", 500)] {
        match WebSocket::connect(&node, "pages", path, Protocol::Http1, "").await {
            Err(Error::Http(response)) => assert_eq!(response.status(), status, "{path}"),
            other => panic!("{path}: {:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn a_message_has_cpu_time_of_its_own_and_one_that_loops_ends_its_socket() {
    let node = NODE.node().await;
    deploy(&node, "busy").await;
    let tail = TailSession::start(&node, "busy");
    let mut socket = connect(&node, "busy", "/work").await;
    for _ in 0..40 {
        socket.send("work").await;
        socket.text().await;
    }
    drop(socket);
    let mut socket = connect(&node, "busy", "/loop").await;
    socket.send("fine").await;
    assert_eq!(socket.text().await, "fine");
    socket.send("loop").await;
    let (code, reason) = socket.closed().await;
    assert_eq!(code, 1011, "{reason}");
    assert!(reason.contains("cpu"), "{reason}");
    eventually("the outcome is told", async || tail.output().contains("exceededCpu").then_some(()))
        .await;
    // The next gets a new instance.
    eventually("the worker serves again", async || {
        let again = WebSocket::connect(&node, "busy", "/echo", Protocol::Http1, "").await;
        let mut socket = again.ok()?;
        socket.send("again").await;
        (socket.text().await == "again").then_some(())
    })
    .await;
}

#[tokio::test]
async fn handlers_run_in_their_invocation_and_it_is_told_once() {
    let node = NODE.node().await;
    deploy(&node, "context").await;
    let tail = TailSession::start(&node, "context");
    eventually("the tail follows", async || {
        node.request("context", "/plain").send().await.unwrap();
        tail.output().contains("/plain").then_some(())
    })
    .await;
    let mut socket = connect(&node, "context", "/kv/key").await;
    for text in ["one", "two"] {
        socket.send(text).await;
        assert_eq!(socket.text().await, text);
    }
    assert!(!tail.output().contains("/kv/key"), "it is told when the socket has closed");
    socket.close(1000, "").await;
    let output = eventually("the invocation is told", async || {
        let output = tail.output();
        output.contains("/kv/key").then_some(output)
    })
    .await;
    let told: Vec<Value> = output
        .lines()
        .filter(|line| line.contains("/kv/key"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["outcome"], "ok");
    assert_eq!(told[0]["event"]["response"]["status"], 101);
    assert!(told[0]["logs"].to_string().contains("got one"), "{}", told[0]);
    assert!(told[0]["logs"].to_string().contains("got two"), "{}", told[0]);

    let mut socket = connect(&node, "context", "/throws").await;
    socket.send("throw").await;
    socket.send("and now").await;
    assert_eq!(socket.text().await, "still here");
    drop(socket);
    eventually("what a handler threw is told", async || {
        tail.output().contains("in a message handler").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_costs_a_bounded_amount() {
    let node = NODE.node().await;
    let namespace = deploy(&node, "flood").await;
    let before = node.memory_rss_bytes();
    let sockets = [
        connect(&node, "flood", "/flood/slow").await,
        connect(&node, "flood", "/flood/other").await,
    ];
    let seen = noted(&node, &namespace, "slow").await;
    assert_eq!(seen, json!({ "code": 1011, "clean": false }));
    let grown = node.memory_rss_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more");
    assert_eq!(node.text("flood", "/plain").await, "no socket here");
    drop(sockets);
}

#[tokio::test]
async fn workers_connect_to_servers() {
    let node = NODE.node().await;
    deploy(&node, "outbound").await;
    let server = EchoServer::start().await;
    let plain = server.url().replace("ws:", "http:");
    let call =
        |path: &str, query: &str| node.request("outbound", &format!("{path}?{query}")).send();
    let reply = call("/outbound", &format!("url={}", server.url())).await.unwrap();
    let expected = json!({
        "events": ["open 1 ", "close 4001 enough true 3"],
        "seen": ["over the wire", "1,2,3"],
    });
    assert_eq!(reply.json(), expected);
    let query = format!("url={}&protocol=first&protocol=second", server.url());
    let reply = call("/outbound", &query).await.unwrap();
    assert_eq!(reply.json()["events"][0], "open 1 second");
    let reply = call("/outbound", &format!("url={}&protocol=first", server.url())).await.unwrap();
    assert!(reply.json()["events"][0].as_str().unwrap().contains("not asked for"));
    let reply = call("/fetched", &format!("url={plain}")).await.unwrap();
    assert_eq!(reply.text(), "101 by fetch");
    // An address that no worker may reach, and one where nobody answers.
    for url in ["ws://192.168.0.1/", "ws://127.0.0.1:1/"] {
        let events = call("/outbound", &format!("url={url}")).await.unwrap().json();
        assert!(events["events"][0].as_str().unwrap().starts_with("error Failed to"), "{events}");
        assert!(events["events"][1].as_str().unwrap().starts_with("close 1006"), "{events}");
    }
    // Through a worker that only passes it on.
    let mut socket = connect(&node, "outbound", &format!("/proxy?url={plain}")).await;
    socket.send("passed on").await;
    assert_eq!(socket.text().await, "passed on");
    assert_eq!(socket.close(1000, "").await.0, 1000);
}

#[tokio::test]
async fn sockets_pass_through_service_bindings() {
    let node = NODE.node().await;
    deploy(&node, "chain").await;
    for (path, expected) in [("/chained", "hello"), ("/both", "< > hello")] {
        let mut socket = connect(&node, "chain", path).await;
        socket.send("hello").await;
        assert_eq!(socket.text().await, expected, "{path}");
        assert_eq!(socket.close(4002, "done").await, (4002, "done".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn open_sockets_count_against_the_workers_concurrency() {
    let options = NodeOptions::with_config("[limits]\nconcurrency_max = 2\n");
    let node = Node::start(NodeOptions { processes: Some(1), ..options }).await;
    node.deploy("few", &Script::module(fixture("sockets.js"))).await;
    let mut one = connect(&node, "few", "/echo").await;
    let _two = connect(&node, "few", "/echo").await;
    match WebSocket::connect(&node, "few", "/echo", Protocol::Http1, "").await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{:?}", other.err()),
    }
    assert_eq!(one.close(1000, "").await.0, 1000);
    eventually("there is room again", async || {
        WebSocket::connect(&node, "few", "/echo", Protocol::Http1, "").await.ok()
    })
    .await;
}

#[tokio::test]
async fn sockets_work_in_dev_and_a_save_has_clients_connect_again() {
    let project = Project::copy("dev");
    project.write("src/index.ts", &fixture("sockets.js"));
    let dev = DevSession::start(&project).await;
    let connected = async || dev.websocket("/echo").await.ok();
    let mut socket = eventually("the worker takes sockets", connected).await;
    socket.send("in dev").await;
    assert_eq!(socket.text().await, "in dev");
    project.write("src/index.ts", &format!("{}\n// saved\n", fixture("sockets.js")));
    assert_eq!(socket.closed().await.0, 1012);
    let mut socket = eventually("the new version takes sockets", connected).await;
    socket.send("again").await;
    assert_eq!(socket.text().await, "again");
}

#[tokio::test]
async fn a_deploy_and_a_drain_close_what_is_open() {
    let mut node = Node::start(NodeOptions::default()).await;
    let script = |marker: &str| Script::module(format!("{}\n// {marker}", fixture("sockets.js")));
    node.deploy("open", &script("one")).await;
    let mut socket = connect(&node, "open", "/echo").await;
    socket.send("here").await;
    assert_eq!(socket.text().await, "here");
    node.deploy("open", &script("two")).await;
    assert_eq!(socket.closed().await.0, 1012);
    let mut socket = connect(&node, "open", "/echo").await;
    socket.send("there").await;
    assert_eq!(socket.text().await, "there");
    node.terminate();
    assert_eq!(socket.closed().await.0, 1001);
    assert_eq!(node.exit_status().await.code(), Some(0));
}
