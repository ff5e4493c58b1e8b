//! The promise: what runs long spreads over threads and delays no neighbour, what is called often and runs
//! short gets the fast path and loses it when it runs long, workers on different threads reach each other,
//! and what is too much is turned away with its own error.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

use atoll_tests::{
    Digest, Node, NodeOptions, Protocol, Reply, Script, StreamedBody, eventually, next_chunk,
};
use bytes::Bytes;
use http::Method;
use serde_json::json;

/// The worker, or its account, is called too often.
const RATE_LIMITED: u64 = 1015;
/// Too much is under way, or waits.
const OVERLOADED: u64 = 1200;

/// A worker that answers with a name of its own instance. `?n=` is how long it computes first.
const NAMED: &str = "
    let instance;
    export default { async fetch(request) {
        instance ??= crypto.randomUUID();
        const n = Number(new URL(request.url).searchParams.get('n'));
        let sum = 0;
        for (let i = 0; i < n; i++) sum = (Math.imul(sum, 1103515245) + i) | 0;
        return new Response(instance, { headers: { sum } });
    } };";

const PROMOTIONS: &str = "atoll_isolate_promotions_total";

/// Rounds of that loop that take some tens of milliseconds.
const LONG: u64 = 10_000_000;

async fn node(threads: usize, config: &str) -> Node {
    let processes = Some(1);
    Node::start(NodeOptions { threads, processes, ..NodeOptions::with_config(config) }).await
}

/// A metric's value. Serving processes tell the supervisor theirs once a second.
async fn metric(node: &Node, name: &str) -> f64 {
    node.metrics().await.unwrap().sum(name, &[])
}

async fn becomes(node: &Node, name: &str, wanted: impl Fn(f64) -> bool) {
    eventually(name, async || wanted(metric(node, name).await).then_some(())).await;
}

fn code(reply: &Reply) -> u64 {
    reply.json()["error"]["code"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_computes_long_spreads_and_spares_its_neighbour() {
    let node = node(1, "back_threads = 3").await;
    node.deploy("heavy", &Script::module(NAMED)).await;
    node.deploy("light", &Script::module(NAMED)).await;
    let mut names = HashSet::new();
    eventually("two instances answer", async || {
        let path = format!("/?n={LONG}");
        let heavy = (0..6).map(|_| node.text("heavy", &path));
        let light = async {
            for _ in 0..5 {
                node.text("light", "/").await;
            }
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(heavy), light);
        names.extend(answers);
        (names.len() >= 2).then_some(())
    })
    .await;
    assert!(names.len() <= 3, "one instance for each thread: {names:?}");
}

#[tokio::test]
async fn a_fast_path_is_earned_and_lost() {
    let node = node(1, "back_threads = 1").await;
    node.deploy("hot", &Script::module(NAMED)).await;
    let first = node.text("hot", "/").await;
    assert_eq!(metric(&node, PROMOTIONS).await, 0.0);
    let promoted = eventually("another instance answers", async || {
        let name = node.text("hot", "/").await;
        (name != first).then_some(name)
    })
    .await;
    becomes(&node, PROMOTIONS, |count| count == 1.0).await;
    assert_eq!(node.text("hot", &format!("/?n={LONG}")).await, promoted);
    assert_eq!(node.text("hot", "/").await, first, "it is sent back");
    becomes(&node, "atoll_isolate_demotions_total", |count| count == 1.0).await;
    for _ in 0..50 {
        assert_eq!(node.text("hot", "/").await, first, "and stays there for a while");
    }
}

#[tokio::test]
async fn workers_on_different_threads_reach_each_other() {
    let node = node(1, "back_threads = 4").await;
    let callee = "export default { async fetch(request) {
        const text = await request.text();
        return new Response(new Blob([text.toUpperCase()]).stream());
    } };";
    let mut caller = Script::module(
        "export default { async fetch(request, env) {
            const names = Object.keys(env).sort();
            const calls = names.map(async (name) => {
                const body = new Blob([name, '-', await request.clone().text()]).stream();
                const answer = await env[name].fetch('http://callee/', { method: 'POST', body });
                return answer.text();
            });
            return new Response((await Promise.all(calls)).join(' '));
        } };",
    );
    for name in ["a", "b", "c", "d", "e", "f"] {
        node.deploy(name, &Script::module(callee)).await;
        caller = caller.bind(json!({ "type": "service", "name": name, "service": name }));
    }
    node.deploy("caller", &caller).await;
    for _ in 0..3 {
        let reply = node.request("caller", "/").post("x").await.unwrap();
        assert_eq!(
            (reply.status.as_u16(), reply.text().as_str()),
            (200, "A-X B-X C-X D-X E-X F-X")
        );
    }
    // Some callee is on another thread than the caller.
    becomes(&node, "atoll_calls_handed_over_total", |count| count > 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_between_threads_and_tell_when_the_client_leaves() {
    let node = node(1, "").await;
    let script = "
        let left = 0;
        export default { fetch(request) {
            if (request.url.endsWith('/left')) return new Response(String(left));
            if (request.method === 'POST') return new Response(request.body);
            request.signal.addEventListener('abort', () => left++);
            const chunk = new Uint8Array(65536);
            return new Response(new ReadableStream({ pull: (c) => c.enqueue(chunk) }));
        } };";
    node.deploy("stream", &Script::module(script)).await;
    for (n, protocol) in [Protocol::Http1, Protocol::Http2].into_iter().enumerate() {
        let (sender, upload) = StreamedBody::channel();
        let send = tokio::spawn(async move {
            let mut sent = Digest::default();
            for n in 0..800_u32 {
                let chunk = Bytes::from(vec![n as u8; 64 << 10]);
                sent.update(&chunk);
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            sent.finish()
        });
        let request = node.request("stream", "/").over(protocol).method(Method::POST);
        let mut body = request.open_with(upload).await.unwrap().into_body();
        let mut received = Digest::default();
        while let Some(chunk) = next_chunk(&mut body).await.unwrap() {
            received.update(&chunk);
        }
        assert_eq!(send.await.unwrap(), received.finish(), "{protocol:?}");

        let mut body = node.request("stream", "/").over(protocol).open().await.unwrap().into_body();
        assert!(next_chunk(&mut body).await.unwrap().is_some());
        drop(body);
        eventually("the handler sees its client leave", async || {
            (node.text("stream", "/left").await == (n + 1).to_string()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn too_many_calls_in_a_second_are_turned_away() {
    let node = node(1, "[limits]\nrequests_per_s_max = 5").await;
    node.deploy("often", &Script::module(NAMED)).await;
    let reply = eventually("a call is turned away", async || {
        let request = node.request("often", "/").header("accept", "application/json");
        let reply = request.send().await.unwrap();
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!((reply.status.as_u16(), code(&reply)), (429, RATE_LIMITED), "{}", reply.text());
    assert_eq!(reply.header("retry-after"), "1");
    eventually("it is served again", async || {
        let reply = node.request("often", "/").send().await.unwrap();
        (reply.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_too_much_at_once_is_turned_away() {
    let waits = "export default { async fetch(request) {
        if (request.url.endsWith('/wait')) await scheduler.wait(600000);
        return new Response('ok');
    } };";
    for limit in ["account_concurrency_max", "concurrency_max"] {
        let node = node(1, &format!("[limits]\n{limit} = 2")).await;
        node.deploy("busy", &Script::module(waits)).await;
        let long = [(); 2].map(|()| tokio::spawn(node.request("busy", "/wait").send()));
        becomes(&node, "atoll_invocations_in_flight", |count| count == 2.0).await;
        let ask = async || {
            let request = node.request("busy", "/").header("accept", "application/json");
            request.send().await.unwrap()
        };
        let reply = ask().await;
        assert_eq!((reply.status.as_u16(), code(&reply)), (503, OVERLOADED), "{limit}");
        for call in &long {
            call.abort();
        }
        eventually("it is served again", async || (ask().await.status == 200).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_full_turns_away() {
    let node = node(1, "back_threads = 1\n[limits]\nqueue_max = 2").await;
    node.deploy("queue", &Script::module(NAMED)).await;
    node.text("queue", "/").await;
    let path = format!("/?n={LONG}");
    let calls =
        (0..12).map(|_| node.request("queue", &path).header("accept", "application/json").send());
    let replies = futures_util::future::join_all(calls).await;
    let (mut served, mut refused) = (0, 0);
    for reply in replies {
        let reply = reply.unwrap();
        match reply.status.as_u16() {
            200 => served += 1,
            503 if code(&reply) == OVERLOADED => refused += 1,
            other => panic!("{other}: {}", reply.text()),
        }
    }
    assert!(served >= 2 && refused >= 1, "{served} served, {refused} refused");
}

#[tokio::test]
async fn more_workers_than_isolates_take_turns() {
    let (workers, isolates) =
        if std::env::var_os("ATOLL_TEST_FULL").is_some() { (1_000, 300) } else { (36, 12) };
    let node = node(1, &format!("[limits]\nisolates_max = {isolates}")).await;
    for n in 0..workers {
        node.deploy(&format!("w{n}"), &Script::module(NAMED)).await;
    }
    for round in 0..2 {
        for n in 0..workers {
            let reply = node.request(&format!("w{n}"), "/").send().await.unwrap();
            assert_eq!(reply.status, 200, "round {round}, w{n}: {}", reply.text());
        }
    }
    let evicted = f64::from(2 * workers - 2 * isolates);
    becomes(&node, "atoll_isolate_evictions_total", |count| count >= evicted).await;
    let held = f64::from(isolates);
    becomes(&node, "atoll_isolates_live", |live| live > 0.0 && live <= held).await;
}
