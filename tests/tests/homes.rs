//! The promise: a worker with few calls has one isolate on the node, however many serving processes there are, and
//! nobody can tell which of them a call came to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_tests::{
    Node, NodeOptions, Protocol, Request, Script, StreamedBody, eventually, next_chunk,
};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

const PROCESSES: usize = 3;

/// Says everything that a worker can know of its request.
const MIRROR: &str = r#"
export default {
  async fetch(request, env, ctx) {
    if (new URL(request.url).pathname === '/throw') throw new Error('oh dear');
    const headers = [...request.headers].filter(([name]) => name !== 'cf-ray');
    const body = request.body === null ? null : await request.text();
    ctx.waitUntil(Promise.resolve());
    const { method, url, cf } = request;
    const told = JSON.stringify({ method, url, headers, cf, body });
    return new Response(told, { status: 418, headers: [['set-cookie', 'a=1'], ['set-cookie', 'b=2'], ['atoll-refused', 'x']] });
  },
};
"#;

async fn node() -> Node {
    Node::start(NodeOptions { processes: Some(PROCESSES), ..NodeOptions::default() }).await
}

async fn sum(node: &Node, name: &str) -> f64 {
    node.metrics().await.map_or(f64::NAN, |metrics| metrics.sum(name, &[]))
}

async fn some_were_sent_home(node: &Node) {
    eventually("some calls came to another process than their worker's home", async || {
        (sum(node, "atoll_calls_sent_home_total").await > 0.0).then_some(())
    })
    .await;
}

/// Deploys so many workers that answer with their names, and says these.
async fn deploy_named(node: &Node, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|index| format!("w{index}")).collect();
    for name in &names {
        let source = format!("export default {{ fetch() {{ return new Response('{name}') }} }}");
        node.deploy(name, &Script::module(source)).await;
    }
    names
}

#[tokio::test]
async fn a_worker_with_few_calls_has_one_isolate_and_one_with_many_has_more() {
    let node = node().await;
    let workers = deploy_named(&node, 12).await;
    // Each call comes by a connection of its own, which the kernel gives to some process.
    for _ in 0..6 {
        for worker in &workers {
            assert_eq!(node.text(worker, "/").await, *worker);
        }
    }
    eventually("each worker has one isolate", async || {
        (sum(&node, "atoll_isolates_live").await == workers.len() as f64).then_some(())
    })
    .await;
    assert_eq!(sum(&node, "atoll_isolate_loads_total").await, workers.len() as f64);
    some_were_sent_home(&node).await;
    eventually("a worker with many calls is in every process", async || {
        for _ in 0..PROCESSES * 20 {
            assert_eq!(node.text("w0", "/").await, "w0");
        }
        (sum(&node, "atoll_isolates_live").await >= (workers.len() + PROCESSES - 1) as f64)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn nobody_can_tell_which_process_a_call_came_to() {
    let node = node().await;
    for (index, protocol) in
        [Protocol::Http1, Protocol::Http2, Protocol::Https1, Protocol::Https2, Protocol::Http3]
            .into_iter()
            .enumerate()
    {
        let worker = format!("mirror{index}");
        node.deploy(&worker, &Script::module(MIRROR)).await;
        let request = |path: &str| node.request(&worker, path).over(protocol);
        let connection = |request: Request| match protocol {
            Protocol::Http1 | Protocol::Https1 => {
                request.header("connection", "x-hop").header("x-hop", "1").header("te", "trailers")
            }
            _ => request,
        };
        let cases: [&dyn Fn() -> Request; 4] = [
            &|| connection(request("/hop")).header("upgrade-insecure-requests", "1"),
            &|| request("/a?b=%20c").header("x-twice", "1").header("x-twice", "2"),
            &|| request("/post").method(Method::POST).body("x".repeat(100_000)),
            &|| request("/put").method(Method::PUT).header("cf-connecting-ip", "9.9.9.9"),
        ];
        for (case, make) in cases.iter().enumerate() {
            let mut told = BTreeSet::new();
            for _ in 0..5 {
                let reply = make().send().await.unwrap();
                assert_eq!(reply.status, StatusCode::IM_A_TEAPOT, "{}", reply.text());
                // What a worker writes into a header by which processes refuse is no refusal.
                let names = reply.headers.keys().map(ToString::to_string);
                let names: BTreeSet<_> = names.filter(|name| name != "atoll-refused").collect();
                let cookies = reply.headers.get_all("set-cookie").iter().count();
                told.insert((reply.text(), names, cookies));
            }
            assert_eq!(told.len(), 1, "{protocol:?}, case {case}: {told:?}");
            let (text, ..) = told.pop_first().unwrap();
            let told: Value = serde_json::from_str(&text).unwrap();
            assert!(told["cf"]["httpProtocol"].is_string(), "{told}");
            assert_eq!(told["body"].as_str().map(str::len), (case == 2).then_some(100_000));
        }
        let mut pages = BTreeSet::new();
        for _ in 0..5 {
            let reply =
                request("/throw").header("accept", "application/json").send().await.unwrap();
            let ray = reply.header("cf-ray").split('-').next().unwrap().to_owned();
            assert!(!ray.is_empty() && reply.text().contains(&ray), "{}", reply.text());
            pages.insert((reply.status, reply.text().replace(&ray, "ray")));
        }
        assert_eq!(pages.len(), 1, "{protocol:?}: {pages:?}");
    }
    some_were_sent_home(&node).await;
    eventually("each call is counted once", async || {
        let outcomes = node.metrics().await.ok()?.outcomes(None);
        let counted = (outcomes.get("ok").copied(), outcomes.get("exception").copied());
        (counted == (Some(5 * 4 * 5), Some(5 * 5)) && outcomes.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bodies_stream_both_ways_and_a_client_that_leaves_is_noticed() {
    let node = node().await;
    let source = "export default { fetch(request) { return new Response(request.body) } }";
    node.deploy("back", &Script::module(source)).await;
    for _ in 0..8 {
        let (sender, body) = StreamedBody::channel();
        let request = node.request("back", "/").method(Method::POST);
        let opened = tokio::spawn(request.open_with(body));
        sender.send(Bytes::from_static(b"one")).await.unwrap();
        let mut body = opened.await.unwrap().unwrap().into_body();
        assert_eq!(next_chunk(&mut body).await.unwrap().unwrap(), "one");
        sender.send(Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(next_chunk(&mut body).await.unwrap().unwrap(), "two");
        drop(sender);
        assert_eq!(next_chunk(&mut body).await.unwrap(), None);
    }
    let source =
        "export default { fetch() { return new Promise(() => setTimeout(() => {}, 60000)) } }";
    node.deploy("never", &Script::module(source)).await;
    for _ in 0..8 {
        let call =
            tokio::time::timeout(Duration::from_millis(300), node.request("never", "/").send());
        assert!(call.await.is_err(), "it never answers");
    }
    eventually("each client that left is an outcome", async || {
        let outcomes = node.metrics().await.ok()?.outcomes(Some("never"));
        (outcomes.get("canceled") == Some(&8) && outcomes.len() == 1).then_some(())
    })
    .await;
    some_were_sent_home(&node).await;
}

#[tokio::test]
async fn calls_go_elsewhere_while_their_home_is_gone() {
    let node = node().await;
    let workers = deploy_named(&node, 9).await;
    for worker in &workers {
        assert_eq!(node.text(worker, "/").await, *worker);
    }
    for round in 0..PROCESSES {
        let killed = node.serving_processes().await.unwrap()[round].pid.unwrap();
        node.kill_process(killed, "KILL");
        let mut answered = 0;
        let again = async || {
            for worker in &workers {
                // What was on its way to the process is lost; what is answered is answered by the worker.
                match node.request(worker, "/").send().await {
                    Ok(reply) if reply.status == StatusCode::OK => {
                        assert_eq!(reply.text(), *worker);
                        answered += 1;
                    }
                    Ok(reply) => {
                        assert!(reply.text().contains("1202"), "{}", reply.text());
                        return None;
                    }
                    Err(_) => return None,
                }
            }
            let back = node.serving_processes().await?;
            back.iter().all(|one| one.state == "ready" && one.pid != Some(killed)).then_some(())
        };
        eventually("all are answered and the process is back", again).await;
        assert!(answered >= workers.len());
    }
}
