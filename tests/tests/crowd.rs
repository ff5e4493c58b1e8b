//! The promise: tenants of one process that all grow towards their limit at once, to more than the process
//! may hold, end in refusals. The process goes on, and so do their neighbours.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_tests::{Node, NodeOptions, Process, Script, eventually};
use futures_util::future::join_all;

/// Together they want more than the 4 GiB that the heaps of one process can have.
const TENANTS: usize = 40;

/// Grows by a MiB at a time and lets others do the same, and lets go of nothing before they had their turn.
const GROWS: &str = "
    let kept = [];
    export default {
        async fetch(request) {
            if (new URL(request.url).pathname === '/ok') return new Response('ok');
            for (let mebibytes = 0; mebibytes < 120; mebibytes++) {
                kept.push(new Array(2 ** 17).fill(mebibytes + 0.5));
                await new Promise((resolve) => setTimeout(resolve, 1));
            }
            await new Promise((resolve) => setTimeout(resolve, 2_000));
            kept = [];
            return new Response('grown');
        },
    };";

fn tenant(number: usize) -> String {
    format!("tenant-{number}")
}

fn serving(node: &Node) -> Vec<Process> {
    node.processes().into_iter().filter(|process| process.serves()).collect()
}

/// Calls the neighbour for as long as the others grow; how often it answered.
async fn call_neighbour(node: &Node, stop: &AtomicBool) -> usize {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(node.text("neighbour", "/").await, "hello");
        answered += 1;
    }
    answered
}

/// How the tenants' invocations have ended.
async fn outcomes(node: &Node) -> BTreeMap<String, u64> {
    let metrics = node.metrics().await.unwrap();
    let mut all = BTreeMap::new();
    for number in 0..TENANTS {
        for (outcome, count) in metrics.outcomes(Some(&tenant(number))) {
            *all.entry(outcome).or_default() += count;
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_outgrows_its_process_is_refused() {
    // Growing takes longer than most calls may: the memory is to be what ends it.
    let config = "[limits]\ncpu_ms = 30000";
    let options = NodeOptions { processes: Some(1), ..NodeOptions::with_config(config) };
    let node = Node::start(options).await;
    let neighbour = "export default { fetch() { return new Response('hello') } }";
    node.deploy("neighbour", &Script::module(neighbour)).await;
    for number in 0..TENANTS {
        node.deploy(&tenant(number), &Script::module(GROWS)).await;
    }
    for _ in 0..50 {
        assert_eq!(node.text("neighbour", "/").await, "hello");
    }
    let before = serving(&node);
    let grown = AtomicBool::new(false);
    let growing = async {
        let calls = (0..TENANTS).map(|number| node.request(&tenant(number), "/").send());
        let replies = join_all(calls).await;
        grown.store(true, Ordering::Relaxed);
        replies
    };
    let (replies, answered) = tokio::join!(growing, call_neighbour(&node, &grown));
    for reply in replies {
        let reply = reply.unwrap();
        assert!([200, 503].contains(&reply.status.as_u16()), "{} {}", reply.status, reply.text());
    }
    assert!(answered > 0);
    assert_eq!(serving(&node), before, "the process of the crowd goes on");
    let ended = eventually("every call is counted", async || {
        let outcomes = outcomes(&node).await;
        (outcomes.values().sum::<u64>() == TENANTS as u64).then_some(outcomes)
    })
    .await;
    println!("{ended:?}, and the neighbour answered {answered} times");
    let known = ["ok", "exceeded-memory", "overloaded"];
    assert!(ended.keys().all(|outcome| known.contains(&outcome.as_str())), "{ended:?}");
    assert!(ended.keys().any(|outcome| outcome != "ok"), "they did not outgrow it: {ended:?}");
    eventually("a tenant is served again", async || {
        let reply = node.request(&tenant(0), "/ok").send().await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
}
