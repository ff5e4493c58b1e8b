//! The promise: what a worker fetches from a host with a pool goes to an origin that is well, chosen as the pool says;
//! nothing is done twice, and no pool leads where a fetch may not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use atoll_tests::{
    Answer, EchoServer, Node, NodeOptions, Origin, Project, Reply, Script, eventually, free_port,
};
use http::Method;
use serde_json::{Value, json};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ALLOWED: &str = "[outbound]\nallow = [\"127.0.0.0/8\"]\n";

/// Fetches from a host that exists nowhere, and tells what came of it.
const ASK: &str = r#"
    export default {
        async fetch(request) {
            const { pathname } = new URL(request.url);
            const body = request.method === "GET" ? undefined : "once";
            try {
                const response = await fetch("http://api.invalid" + pathname, { method: request.method, body });
                return new Response(await response.text(), { status: response.status });
            } catch (error) {
                return new Response(error.message, { status: 599 });
            }
        },
    };"#;

fn options(config: &str) -> NodeOptions {
    NodeOptions { processes: Some(1), ..NodeOptions::with_config(config) }
}

fn whole(status: &str, body: &str) -> Answer {
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    Answer::Whole(text.into())
}

async fn saying(body: &'static str) -> Origin {
    Origin::routing(LOOPBACK, move |_| whole("200 OK", body)).await
}

/// Gives the worker `ask` a pool, and waits until it is used.
async fn set_pool(node: &Node, pool: Value) {
    let mut pool = pool;
    pool["host"] = json!("api.invalid");
    let path = node.api().in_account("/workers/scripts/ask/pools");
    node.api().call(Method::PUT, &path, &json!([pool])).await.unwrap();
    eventually("the pool is used", async || {
        (!ask(node, "/").await.text().contains("cannot resolve")).then_some(())
    })
    .await;
}

async fn ask(node: &Node, path: &str) -> Reply {
    node.request("ask", path).send().await.unwrap()
}

async fn node_with(config: &str) -> Node {
    let node = Node::start(options(config)).await;
    node.deploy("ask", &Script::module(ASK)).await;
    node
}

fn at(address: SocketAddr) -> Value {
    json!({ "address": format!("http://{address}") })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_takes_over_when_the_first_is_gone_until_it_is_back() {
    let node = node_with(ALLOWED).await;
    let (first, second) = (saying("first").await, saying("second").await);
    let address = first.address();
    let origins = [at(address), at(second.address())];
    set_pool(&node, json!({ "origins": origins, "ejection_s_max": 1 })).await;
    for _ in 0..5 {
        assert_eq!(ask(&node, "/").await.text(), "first");
    }
    drop(first);
    // Every request is answered, also those that find the first one dead.
    for _ in 0..10 {
        assert_eq!(ask(&node, "/").await.text(), "second");
    }
    let labels = [("worker", "ask"), ("cause", "requests")];
    eventually("the ejection is counted", async || {
        (node.metrics().await.ok()?.sum("atoll_origin_ejections_total", &labels) >= 1.0)
            .then_some(())
    })
    .await;
    assert!(node.output().contains("requests to an origin fail"), "{}", node.output());
    let _first = Origin::at(address, |_| whole("200 OK", "first again")).await;
    eventually("the first is back", async || {
        (ask(&node, "/").await.text() == "first again").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_shows_how_origins_stand() {
    let node = node_with(ALLOWED).await;
    let none = node.atoll(&["pools", "--name", "ask"]).await;
    assert!(none.success && none.stderr.contains("no origin pools"), "{}", none.stderr);
    let (first, second) = (saying("first").await, saying("second").await);
    let (gone, origins) = (first.address(), [at(first.address()), at(second.address())]);
    set_pool(&node, json!({ "origins": origins, "failures": 1, "ejection_s_max": 600 })).await;
    let stands = async |origin: usize| {
        let told = node.atoll(&["--json", "pools", "--name", "ask"]).await;
        let told: Value = serde_json::from_str(&told.stdout).ok()?;
        Some(told["pools"][0]["origins"][origin].clone())
    };
    eventually("the first is well and known", async || {
        let first = stands(0).await?;
        let answered = first["requests"]["answered"].as_u64() >= Some(1);
        let is_known = first["latency_us"].is_u64() && first["outstanding"] == 0;
        (first["healthy"] == 1 && is_known && answered).then_some(())
    })
    .await;
    drop(first);
    // An ejection takes a second at first, and twice as long each time.
    eventually("the first is left out", async || {
        assert_eq!(ask(&node, "/").await.text(), "second");
        let first = stands(0).await?;
        let left_out = first["ejected"] == 1 && first["ejected_ms"].as_u64() > Some(2_000);
        (left_out && first["requests"]["unreachable"].as_u64() >= Some(2)).then_some(())
    })
    .await;
    assert_eq!(stands(1).await.unwrap()["healthy"], 1);
    let shown = node.atoll(&["pools", "--name", "ask"]).await.stdout;
    for expected in ["api.invalid (failover)", &gone.to_string(), "ejected for", "unreachable"] {
        assert!(shown.contains(expected), "{expected} is missing in\n{shown}");
    }
    println!("{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_kept() {
    let node = node_with(ALLOWED).await;
    let (light, heavy) = (saying("light").await, saying("heavy").await);
    let (mut few, mut many) = (at(light.address()), at(heavy.address()));
    (few["weight"], many["weight"]) = (json!(1), json!(3));
    set_pool(&node, json!({ "steering": "weighted", "origins": [few, many] })).await;
    let mut to_light = 0;
    for _ in 0..400 {
        to_light += u32::from(ask(&node, "/").await.text() == "light");
    }
    // 100 are expected; six standard deviations are 52.
    assert!((48..=152).contains(&to_light), "{to_light} of 400");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_arrived_is_not_sent_again() {
    let node = node_with(ALLOWED).await;
    // It reads the request and hangs up.
    let breaking = Origin::routing(LOOPBACK, |_| Answer::Whole("".into())).await;
    let good = saying("good").await;
    let origins = [at(breaking.address()), at(good.address())];
    set_pool(&node, json!({ "origins": origins, "failures": 100 })).await;
    assert_eq!(ask(&node, "/").await.text(), "good", "a GET may be sent again");
    let (before, at_good) = (breaking.connections(), good.connections());
    let reply = node.request("ask", "/").post("x").await.unwrap();
    assert_eq!(reply.status, 599);
    assert!(reply.text().contains("is not sent again"), "{}", reply.text());
    assert_eq!((breaking.connections(), good.connections()), (before + 1, at_good));
    // Where there was no connection nothing was sent.
    let origins = [at(free_port()), at(good.address())];
    set_pool(&node, json!({ "origins": origins, "failures": 100 })).await;
    let reply = node.request("ask", "/").post("x").await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "good"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_origin_the_error_says_what_each_did() {
    let node = node_with(ALLOWED).await;
    let dead = [free_port(), free_port()];
    set_pool(&node, json!({ "origins": dead.map(at) })).await;
    for _ in 0..8 {
        let reply = ask(&node, "/").await;
        assert_eq!(reply.status, 599);
        let text = reply.text();
        assert!(text.contains("no origin of the pool for api.invalid answers"), "{text}");
        for address in dead {
            assert!(text.contains(&format!("http://{address}: cannot connect")), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_and_its_checks_reach_no_private_address() {
    let node = node_with("").await;
    let inner = saying("secret").await;
    let by_name = format!("http://localhost:{}", inner.address().port());
    let origins = [at(inner.address()), json!({ "address": by_name })];
    let health = json!({ "interval_s": 5, "unhealthy": 1 });
    set_pool(&node, json!({ "origins": origins, "health": health })).await;
    let reply = ask(&node, "/").await;
    assert_eq!(reply.status, 599);
    assert!(reply.text().contains("is not public"), "{}", reply.text());
    eventually("the checks have failed", async || {
        node.output().contains("checks of an origin fail").then_some(())
    })
    .await;
    assert_eq!(inner.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_take_out_an_origin_and_bring_it_back() {
    let node = node_with(ALLOWED).await;
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let first = Origin::routing(LOOPBACK, move |path| match path {
        "/up" if !is_well.load(Relaxed) => whole("500 Internal Server Error", "ill"),
        _ => whole("200 OK", "first"),
    })
    .await;
    let second = saying("second").await;
    let origins = [at(first.address()), at(second.address())];
    let health = json!({ "path": "/up", "interval_s": 5, "unhealthy": 1, "healthy": 1 });
    set_pool(&node, json!({ "origins": origins, "health": health })).await;
    eventually("the ill one is left out", async || {
        (ask(&node, "/").await.text() == "second").then_some(())
    })
    .await;
    eventually("it is counted", async || {
        let labels = [("worker", "ask"), ("cause", "checks")];
        (node.metrics().await.ok()?.sum("atoll_origin_ejections_total", &labels) >= 1.0)
            .then_some(())
    })
    .await;
    well.store(true, Relaxed);
    eventually("the first is back", async || {
        (ask(&node, "/").await.text() == "first").then_some(())
    })
    .await;
    assert!(node.output().contains("it gets requests again"), "{}", node.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_taken_to_the_origin_for_their_place() {
    let networks = "[[geo.networks]]\ncidr = \"127.0.7.0/24\"\ncountry = \"DE\"\ncontinent = \"EU\"\n\
        [[geo.networks]]\ncidr = \"127.0.8.0/24\"\ncountry = \"FR\"\ncontinent = \"EU\"\n";
    let node = node_with(&format!("{ALLOWED}{networks}")).await;
    let (rest, eu, de) = (saying("rest").await, saying("eu").await, saying("de").await);
    let (mut in_eu, mut in_de) = (at(eu.address()), at(de.address()));
    (in_eu["continents"], in_de["countries"]) = (json!(["EU"]), json!(["DE"]));
    let origins = [at(rest.address()), in_eu, in_de];
    set_pool(&node, json!({ "steering": "geo", "origins": origins })).await;
    for (from, expected) in [("127.0.0.1", "rest"), ("127.0.7.1", "de"), ("127.0.8.1", "eu")] {
        let reply = node.request("ask", "/").from(from.parse().unwrap()).send().await.unwrap();
        assert_eq!(reply.text(), expected, "{from}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origins_are_asked_for_the_host_of_the_url() {
    let node = node_with(ALLOWED).await;
    let telling = Origin::at((LOOPBACK, 0).into(), |head| {
        let host = head.lines().find_map(|line| line.strip_prefix("host: "));
        whole("200 OK", host.unwrap_or("none"))
    })
    .await;
    set_pool(&node, json!({ "origins": [at(telling.address())] })).await;
    assert_eq!(ask(&node, "/").await.text(), "api.invalid");
    let mut named = at(telling.address());
    named["host_header"] = json!("inner.example:81");
    set_pool(&node, json!({ "origins": [named] })).await;
    eventually("the change is live", async || {
        (ask(&node, "/").await.text() == "inner.example:81").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_go_to_the_pool_too() {
    const TALK: &str = r#"
        export default {
            async fetch() {
                const { webSocket } = await fetch("http://api.invalid/", { headers: { upgrade: "websocket" } });
                webSocket.accept();
                const heard = new Promise((resolve) => webSocket.addEventListener("message", resolve));
                webSocket.send("hello");
                const { data } = await heard;
                webSocket.close();
                return new Response(data);
            },
        };"#;
    let node = Node::start(options(ALLOWED)).await;
    node.deploy("ask", &Script::module(TALK)).await;
    let echo = EchoServer::start().await;
    let echo = echo.url().replace("ws://", "http://").trim_end_matches('/').to_owned();
    let origins = [at(free_port()), json!({ "address": echo })];
    let path = node.api().in_account("/workers/scripts/ask/pools");
    let pools = json!([{ "host": "api.invalid", "origins": origins }]);
    node.api().call(Method::PUT, &path, &pools).await.unwrap();
    eventually("the echo comes", async || (ask(&node, "/").await.text() == "hello").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_brings_its_pools() {
    let node = Node::start(options(ALLOWED)).await;
    let origin = saying("from the project").await;
    let project = Project::copy("dev");
    project.write("src/index.ts", ASK);
    let config = |pools: &str| {
        format!(
            "name = \"ask\"\nmain = \"src/index.ts\"\ncompatibility_date = \"2026-11-01\"\n{pools}"
        )
    };
    let pools = format!(
        "[[atoll.pools]]\nhost = \"api.invalid\"\norigins = [{{ address = \"http://{}\" }}]\n",
        origin.address()
    );
    project.write("wrangler.toml", &config(&pools));
    let deployed = project.atoll(node.api(), &["deploy"]).await;
    assert!(deployed.success, "{}", deployed.stderr);
    assert_eq!(ask(&node, "/").await.text(), "from the project");
    project
        .write("wrangler.toml", &config("[[atoll.pools]]\nhost = \"api.invalid\"\norigins = []\n"));
    let refused = project.atoll(node.api(), &["deploy"]).await;
    assert!(refused.stderr.contains("it has 0 origins: write 1 to 16"), "{}", refused.stderr);
}
