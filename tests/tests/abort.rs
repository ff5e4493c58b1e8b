//! The promise: a script that brings V8 down takes one serving process with it and nothing else. The
//! service is whole again at once, the log names the worker, and that version is kept away for a while.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use atoll_tests::{Node, NodeOptions, Process, Script, eventually, fixture};
use serde_json::json;

/// Scripts that have brought a process down: each must end with a page, or as the promise says.
const SCRIPTS: [(&str, &str); 8] = [
    (
        "json-of-json",
        "let o = { x: 'x' }; for (;;) o = { a: JSON.stringify(o), b: JSON.stringify(o) };",
    ),
    ("array-of-a-billion", "return new Response(String(new Array(1e9).fill(1).length));"),
    ("string-of-the-longest", "return new Response('\\u4e2d'.repeat(2 ** 29 - 24).toUpperCase());"),
    ("split-to-pieces", "return new Response(String('a,'.repeat(2 ** 27).split(',').length));"),
    // What V8 does in hours without asking whether it may.
    (
        "search-without-end",
        "const a = 'a'.repeat(2 ** 21); return new Response(String((a + a).lastIndexOf(a + 'b')));",
    ),
    (
        "replacement-without-end",
        "const a = 'a'.repeat(2 ** 21); return new Response((a + a + a).replaceAll(a + 'b' + a, ''));",
    ),
    (
        "normalization-without-end",
        "return new Response(('a' + '\\u0316\\u0301'.repeat(2 ** 21)).normalize('NFD'));",
    ),
    ("itself", "return env.SELF.fetch(request);"),
];
/// Calls that must succeed one after the other before the service counts as whole.
const CALLS: usize = 20;
/// How long a call may take that must succeed.
const CALL_MAX: Duration = Duration::from_secs(10);

fn serving(node: &Node) -> Vec<Process> {
    node.processes().into_iter().filter(|process| process.serves()).collect()
}

/// Waits until the service is whole: as many processes as before, and the neighbour answers each call.
async fn whole_again(node: &Node, processes: usize, after: &str) {
    eventually(&format!("there are {processes} processes after {after}"), async || {
        (serving(node).len() == processes).then_some(())
    })
    .await;
    eventually(&format!("{CALLS} calls succeed in a row after {after}"), async || {
        for _ in 0..CALLS {
            let call = node.request("neighbour", "/").send();
            let reply = tokio::time::timeout(CALL_MAX, call).await.ok()?.ok()?;
            if reply.status != 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_brings_a_process_down_brings_nothing_else_down() {
    let options = NodeOptions { processes: Some(2), ..NodeOptions::default() };
    let node = Node::start(options).await;
    node.deploy("neighbour", &Script::module(fixture("echo.js"))).await;
    let processes = serving(&node).len();
    assert_eq!(processes, 2);
    for (name, body) in SCRIPTS {
        let source = format!("export default {{ async fetch(request, env) {{ {body} }} }};");
        let own = json!({ "type": "service", "name": "SELF", "service": name });
        node.deploy(name, &Script::module(source).bind(own)).await;
        let before = serving(&node);
        let answer = node.request(name, "/").send().await;
        let page = answer.as_ref().is_ok_and(|reply| reply.status.is_server_error());
        if page && serving(&node) == before {
            println!("{name}: {}", answer.unwrap().status);
            whole_again(&node, processes, name).await;
            continue;
        }
        println!("{name}: a process died");
        whole_again(&node, processes, name).await;
        let after = serving(&node);
        assert!(before.iter().any(|process| after.contains(process)), "{name}: all died");
        let named = |line: &str| line.contains("has crashed") && line.contains(name);
        eventually(&format!("the log names {name}"), async || {
            node.output().lines().any(named).then_some(())
        })
        .await;
        let crashes =
            node.metrics().await.unwrap().sum("atoll_process_crashes_total", &[("worker", name)]);
        assert!(crashes >= 1.0, "{name}: no crash is counted");
    }
}
