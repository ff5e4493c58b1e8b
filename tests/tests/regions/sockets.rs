//! WebSockets that clients open on one node and workers serve on another.

use std::time::Duration;

use atoll_tests::{Link, Protocol, WebSocket, eventually, eventually_within};
use futures_util::SinkExt;
use http::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::world::{ASIA, EU, US, World};

/// How long it may take until a fault is noticed.
const NOTICED: Duration = Duration::from_secs(60);

const WORKER: &str = r#"
export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    const name = url.searchParams.get("name");
    const record = (what) => fetch(new URL(what, env.RECORD)).then((r) => r.text());
    if (name) await record(`/begun/${name}`);
    const wait = Number(url.searchParams.get("wait") ?? 0);
    if (wait > 0) await scheduler.wait(wait);
    if (url.pathname === "/plain") return new Response("no socket here", { headers: { "x-by": "worker" } });
    const [client, server] = Object.values(new WebSocketPair());
    if (url.pathname !== "/deaf") server.accept();
    server.addEventListener("message", ({ data }) => {
      if (data === "close") return server.close(3001, "worker");
      if (data === "large") return server.send(new Uint8Array((8 << 20) - 64));
      if (data === "flood") return void setInterval(() => server.send(new Uint8Array(256 << 10)), 1);
      if (data === "told") {
        const headers = Object.fromEntries(request.headers);
        return server.send(JSON.stringify({ url: request.url, cf: request.cf, headers }));
      }
      server.send(data);
    });
    server.addEventListener("close", ({ code, wasClean }) => {
      if (name) ctx.waitUntil(record(`/closed/${name}/${code}/${wasClean}`));
    });
    const asked = request.headers.get("sec-websocket-protocol");
    const headers = { "x-by": "worker", "set-cookie": "a=b" };
    if (asked) headers["sec-websocket-protocol"] = asked.split(",")[1].trim();
    return new Response(null, { status: 101, webSocket: client, headers });
  },
};
"#;

async fn start(workers: &[(&str, Value)]) -> World {
    let world = World::start().await;
    for (name, regions) in workers {
        world.deploy_module(name, WORKER, regions).await;
    }
    world.all_know_each_other().await;
    world
}

async fn connect_over(
    world: &World,
    worker: &str,
    region: &str,
    path: &str,
    protocol: Protocol,
    headers: &[(&'static str, &str)],
) -> Result<WebSocket, Error> {
    let host = format!("{worker}.demo.localhost");
    let addresses = world.node(region).addresses();
    let headers = [&[("atoll-explain", "1")], headers].concat();
    WebSocket::connect_with(addresses, &host, path, protocol, &headers).await
}

async fn connect(world: &World, worker: &str, region: &str, path: &str) -> WebSocket {
    connect_over(world, worker, region, path, Protocol::Http1, &[]).await.unwrap()
}

async fn echoed(socket: &mut WebSocket, text: &str) {
    socket.send(text).await;
    assert_eq!(socket.text().await, text);
}

/// Status and text of the answer to a handshake that is refused.
fn refusal(answer: Result<WebSocket, Error>) -> (u16, String) {
    match answer {
        Err(Error::Http(response)) => {
            let text = response.body().as_deref().map(String::from_utf8_lossy);
            (response.status().as_u16(), text.unwrap_or_default().into_owned())
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was accepted"),
    }
}

async fn recorded(world: &World, what: &str) {
    eventually_within(NOTICED, what, async || {
        world.recorded().iter().any(|path| path == what).then_some(())
    })
    .await;
}

/// Waits until so many invocations are under way on a node.
async fn under_way(world: &World, region: &str, count: f64) {
    eventually_within(2 * NOTICED, "nothing else is under way", async || {
        let metrics = world.node(region).metrics().await.ok()?;
        (metrics.sum("atoll_invocations_in_flight", &[]) == count).then_some(())
    })
    .await;
}

fn descriptors(world: &World, region: &str) -> usize {
    world.node(region).processes().iter().map(|process| process.descriptors()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_headers_and_closes_pass_over_every_protocol() {
    let world = start(&[("pinned", json!({ "pin": "eu" }))]).await;
    let rules = json!({ "rule": [{ "name": "page", "variants": [
        { "name": "a", "response_headers": { "x-variant": "a" } },
    ] }] });
    let path = world.node(EU).api().in_account("/workers/scripts/pinned/rules");
    world.node(EU).api().call(Method::PUT, &path, &rules).await.unwrap();
    eventually("the rules are everywhere", async || {
        let reply = world.ask_path("pinned", US, "/plain").send().await.ok()?;
        (reply.header("x-variant") == "a").then_some(())
    })
    .await;
    for protocol in [Protocol::Http1, Protocol::Https1, Protocol::Http2, Protocol::Https2] {
        let name = format!("{protocol:?}");
        let headers = &[("sec-websocket-protocol", "one, two"), ("x-own", "kept")];
        let path = format!("/?name={name}");
        let socket = connect_over(&world, "pinned", US, &path, protocol, headers).await;
        let mut socket = socket.unwrap();
        let answer = socket.response.headers();
        for (header, expected) in
            [("sec-websocket-protocol", "two"), ("x-by", "worker"), ("x-variant", "a")]
        {
            assert_eq!(answer[header], expected, "{protocol:?} {header}");
        }
        assert!(answer["cf-ray"].to_str().unwrap().ends_with("-us"), "{answer:?}");
        let decision = answer["atoll-decision"].to_str().unwrap();
        assert!(decision.contains("served=\"node-eu\""), "{decision}");
        assert!(decision.contains("hops=1, attempts=1"), "{decision}");

        socket.send("told").await;
        let told: Value = serde_json::from_str(&socket.text().await).unwrap();
        assert_eq!((&told["cf"]["colo"], &told["cf"]["country"]), (&json!("us"), &json!("JP")));
        for (header, expected) in
            [("host", "pinned.demo.localhost"), ("upgrade", "websocket"), ("x-own", "kept")]
        {
            assert_eq!(told["headers"][header], expected, "{protocol:?} {header} {told}");
        }
        assert!(told["headers"].get("atoll-carried").is_none(), "{told}");

        for bytes in [0, 125, 126, 65_536, 1 << 20] {
            echoed(&mut socket, &"é".repeat(bytes / 2)).await;
            let binary: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
            socket.send(binary.clone()).await;
            assert_eq!(socket.next().await, Some(Message::binary(binary)), "{protocol:?} {bytes}");
        }
        socket.send("large").await;
        let large = socket.next().await.unwrap().into_data();
        assert_eq!(large.len(), (8 << 20) - 64, "{protocol:?}");
        for n in 0..200 {
            socket.send(format!("{n}")).await;
        }
        for n in 0..200 {
            assert_eq!(socket.text().await, format!("{n}"), "{protocol:?}");
        }
        assert_eq!(socket.close(4321, "client").await.0, 4321, "{protocol:?}");
        recorded(&world, &format!("/closed/{name}/4321/true")).await;
        let mut socket = connect_over(&world, "pinned", ASIA, "/", protocol, &[]).await.unwrap();
        socket.send("close").await;
        assert_eq!(socket.closed().await, (3001, "worker".to_owned()), "{protocol:?}");
        assert!(socket.next().await.is_none(), "{protocol:?}");
    }
    under_way(&world, EU, 0.0).await;
    for node in [US, ASIA] {
        let counted = world.node(node).metrics().await.unwrap().outcomes(Some("pinned"));
        assert!(counted.is_empty(), "{node}: {counted:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_socket_is_answered_as_where_the_worker_runs() {
    let world = start(&[
        ("pinned", json!({ "pin": "eu" })),
        ("nowhere", json!({ "pin": "mars" })),
        ("allowed", json!({ "allow": ["mars", "us"] })),
    ])
    .await;
    let try_at = async |worker: &str, region: &str, path: &str| {
        refusal(connect_over(&world, worker, region, path, Protocol::Http1, &[]).await)
    };
    // No node may serve it.
    let (status, text) = try_at("nowhere", US, "/").await;
    assert!(status == 503 && text.contains("1201"), "{status} {text}");
    // The worker answers otherwise.
    for region in [EU, US] {
        let (status, text) = try_at("pinned", region, "/plain").await;
        assert_eq!((status, &*text), (200, "no socket here"), "{region}");
        // Half a handshake.
        let half = world.ask_path("pinned", region, "/").header("upgrade", "websocket");
        let reply = half.clone().header("connection", "upgrade").send().await.unwrap();
        assert_eq!(reply.status, 426, "{region} {}", reply.text());
        assert_eq!(reply.header("sec-websocket-version"), "13");
    }
    let mut socket = connect(&world, "allowed", ASIA, "/").await;
    echoed(&mut socket, "hello").await;
    let decision = socket.response.headers()["atoll-decision"].to_str().unwrap();
    assert!(decision.contains("served=\"node-us\""), "{decision}");
    // What breaks the protocol, or a limit, is closed by the node that serves.
    let mut socket = connect(&world, "pinned", US, "/?name=large").await;
    socket.stream.send(Message::binary(vec![0; (1 << 20) + 1])).await.unwrap();
    assert_eq!(socket.closed().await.0, 1009);
    recorded(&world, "/closed/large/1009/false").await;
    let mut socket = connect(&world, "pinned", US, "/").await;
    let frame = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    socket.stream.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(socket.closed().await.0, 1007);
    let mut socket = connect(&world, "pinned", US, "/").await;
    world.deploy_module("pinned", &format!("{WORKER}// again"), &json!({ "pin": "eu" })).await;
    assert_eq!(socket.closed().await.0, 1012);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_of_clients_that_leave_or_take_nothing() {
    let world = start(&[("pinned", json!({ "pin": "eu" }))]).await;
    let mut first = connect(&world, "pinned", US, "/").await;
    echoed(&mut first, "the way is there").await;
    assert_eq!(first.close(1000, "").await.0, 1000);
    under_way(&world, EU, 0.0).await;
    let before = (descriptors(&world, US), descriptors(&world, EU));
    for round in 0..5 {
        let mut sockets = Vec::new();
        for n in 0..20 {
            let path = format!("/?name={round}-{n}");
            let mut socket = connect(&world, "pinned", US, &path).await;
            echoed(&mut socket, "hello").await;
            sockets.push(socket);
        }
        // Without a word.
        drop(sockets);
        for n in 0..20 {
            recorded(&world, &format!("/closed/{round}-{n}/1006/false")).await;
        }
    }
    // Who takes nothing of what a worker sends costs a bounded amount, and holds nobody back.
    let mut stuck = Vec::new();
    for n in 0..4 {
        let mut socket = connect(&world, "pinned", US, &format!("/?name=stuck-{n}")).await;
        socket.send("flood").await;
        stuck.push(socket);
    }
    for n in 0..4 {
        recorded(&world, &format!("/closed/stuck-{n}/1011/false")).await;
    }
    // A worker that never reads: its client waits, and leaves.
    let mut deaf = connect(&world, "pinned", US, "/deaf").await;
    let chunk = Message::binary(vec![0; 64 << 10]);
    while tokio::time::timeout(Duration::from_secs(1), deaf.stream.send(chunk.clone()))
        .await
        .is_ok()
    {}
    let mut another = connect(&world, "pinned", US, "/").await;
    echoed(&mut another, "hello").await;
    let plain = world.ask_path("pinned", US, "/plain").send().await.unwrap();
    assert_eq!(plain.text(), "no socket here");
    drop((stuck, deaf, another));
    // Of a client that is not read it is learned by a ping that it does not take.
    under_way(&world, EU, 0.0).await;
    eventually_within(NOTICED, "no descriptor is left", async || {
        let now = (descriptors(&world, US), descriptors(&world, EU));
        (now.0 <= before.0 + 2 && now.1 <= before.1 + 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_or_dies_ends_its_sockets() {
    let mut world = start(&[
        ("pinned", json!({ "pin": "eu" })),
        ("preferred", json!({ "prefer": ["eu", "us"] })),
    ])
    .await;
    // The node that the client came to stops: both ends are told, as of a socket of its own.
    let mut socket = connect(&world, "pinned", ASIA, "/?name=by-asia").await;
    echoed(&mut socket, "hello").await;
    world.node(ASIA).terminate();
    assert_eq!(socket.closed().await, (1001, "The node is stopping.".to_owned()));
    recorded(&world, "/closed/by-asia/1001/true").await;
    assert_eq!(world.node_mut(ASIA).exit_status().await.code(), Some(0));
    world.node_mut(ASIA).restart().await;
    world.all_know_each_other().await;

    // The node that serves it restarts in place.
    let mut socket = connect(&world, "pinned", US, "/?name=by-eu").await;
    echoed(&mut socket, "hello").await;
    world.node(EU).signal("USR2");
    assert_eq!(socket.closed().await, (1001, "The node is stopping.".to_owned()));
    assert!(socket.next().await.is_none());
    let connected = async |worker: &str| {
        let over = connect_over(&world, worker, US, "/", Protocol::Http1, &[]).await;
        let mut socket = over.ok()?;
        echoed(&mut socket, "again").await;
        Some(socket)
    };
    eventually_within(NOTICED, "it is served again", async || connected("pinned").await).await;

    // It is killed, or nothing is heard of it any more: the connection ends without a close.
    for fault in ["killed", "silent"] {
        let mut sockets = Vec::new();
        for protocol in [Protocol::Http1, Protocol::Https2] {
            let socket = eventually_within(NOTICED, "it is served", async || {
                connect_over(&world, "pinned", US, "/", protocol, &[]).await.ok()
            });
            let mut socket = socket.await;
            echoed(&mut socket, "hello").await;
            sockets.push(socket);
        }
        match fault {
            "killed" => world.node_mut(EU).kill9(),
            _ => world.link(EU, Link::Silent),
        }
        for socket in &mut sockets {
            assert_eq!(socket.next().await, None, "{fault}");
        }
        eventually_within(NOTICED, "it is refused", async || {
            let over = connect_over(&world, "pinned", US, "/", Protocol::Http1, &[]).await;
            (refusal(over).0 == 503).then_some(())
        })
        .await;
        // Nothing was sent: another node may have it.
        let mut elsewhere = connect(&world, "preferred", ASIA, "/").await;
        echoed(&mut elsewhere, "hello").await;
        let decision = elsewhere.response.headers()["atoll-decision"].to_str().unwrap();
        assert!(decision.contains("served=\"node-us\""), "{decision}");
        match fault {
            "killed" => world.node_mut(EU).restart().await,
            _ => world.heal(EU),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_a_node_may_have_begun_with_is_not_sent_again() {
    let mut world = start(&[("preferred", json!({ "prefer": ["eu", "us"] }))]).await;
    let addresses = world.node(ASIA).addresses();
    let asking = tokio::spawn(async move {
        let path = "/?name=once&wait=600000";
        let host = "preferred.demo.localhost";
        WebSocket::connect_to(addresses, host, path, Protocol::Http1, "").await
    });
    recorded(&world, "/begun/once").await;
    world.node_mut(EU).kill9();
    let (status, text) = refusal(asking.await.unwrap());
    assert!(status == 502 && text.contains("1202"), "{status} {text}");
    let begun = world.recorded().iter().filter(|path| *path == "/begun/once").count();
    assert_eq!(begun, 1);
}
