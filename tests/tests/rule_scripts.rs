//! The promise: a script decides about requests after the rules and before their worker, within bounds, and when it
//! fails the request goes on as if there were none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_tests::{Node, NodeOptions, Reply, Script, SharedNode, TailSession, eventually};
use http::Method;
use serde_json::{Value, json};

/// Two serving processes; time enough for scripts on a busy machine.
static NODE: SharedNode = SharedNode::new(|| {
    let limits = "[limits]\nrule_cpu_ms = 200\nrule_wall_ms_max = 2000\n";
    NodeOptions { processes: Some(2), ..NodeOptions::with_config(limits) }
});

const DECIDES: &str = "export default { \
  rule(request, ctx) { \
    const url = new URL(request.url); \
    if (url.pathname === '/variant') return { variant: 'b', value: 7, variables: { color: 'red' } }; \
    if (url.pathname === '/worker') return { variant: 'w', worker: 'other' }; \
    if (url.pathname === '/rewrite') return { rewrite: '/in' + url.search }; \
    if (url.pathname === '/redirect') return { redirect: { location: 'https://a.example/x', status: 307 } }; \
    if (url.pathname === '/headers') return { request_headers: { 'x-plan': 'pro' }, response_headers: { 'x-told': '1' } }; \
    if (url.pathname === '/country') return { variant: request.cf.colo ?? 'x' }; \
    if (url.pathname === '/after') return { variant: ctx.experiments.page?.variant, rewrite: '/mine' }; \
    if (url.pathname === '/throw') throw new TypeError('no idea'); \
    if (url.pathname === '/loop') for (;;) {} \
    if (url.pathname === '/never') return new Promise((resolve) => setTimeout(resolve, 60000)); \
    if (url.pathname === '/wrong') return { varient: 'b' }; \
  }, \
  fetch(request, env, ctx) { return Response.json({ \
    url: request.url, plan: request.headers.get('x-plan'), body: request.body !== null, \
    details: env.FLAGS.getNumberDetails('script', 0), variant: ctx.experiments.script?.variant, \
    variables: env.FLAGS.variables }); } };";

async fn set(node: &Node, worker: &str, document: Value) {
    let path = node.api().in_account(&format!("/workers/scripts/{worker}/rules"));
    node.api().call(Method::PUT, &path, &document).await.unwrap();
}

async fn get(node: &Node, worker: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let request = node.request(worker, path).header("x-plan", "free");
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_decides_like_a_rule() {
    let node = &*NODE.node().await;
    node.deploy("scripted", &Script::module(DECIDES)).await;
    node.deploy("other", &Script::module("export default { fetch: () => new Response('other') }"))
        .await;
    for round in 0..3 {
        let told = get(node, "scripted", "/variant", &[]).await.json();
        assert_eq!(
            told["details"],
            json!({ "flagKey": "script", "value": 7, "variant": "b", "reason": "TARGETING_MATCH", "flagMetadata": {} }),
            "{round}"
        );
        assert_eq!(
            (&told["variant"], &told["variables"]),
            (&json!("b"), &json!({ "color": "red" }))
        );
        let nothing = get(node, "scripted", "/", &[]).await.json();
        assert_eq!(nothing["details"]["reason"], "DEFAULT");
        assert_eq!(nothing["variant"], Value::Null);
        assert_eq!(get(node, "scripted", "/worker", &[]).await.body, "other");
        let url = get(node, "scripted", "/rewrite?a=1", &[]).await.json()["url"].clone();
        assert!(url.as_str().unwrap().ends_with("/in?a=1"), "{url}");
        let redirected = get(node, "scripted", "/redirect", &[]).await;
        assert_eq!(
            (redirected.status.as_u16(), redirected.header("location")),
            (307, "https://a.example/x")
        );
        let headers = get(node, "scripted", "/headers", &[]).await;
        assert_eq!((headers.header("x-told"), &headers.json()["plan"]), ("1", &json!("pro")));
        let posted = node.request("scripted", "/variant").method(Method::POST).body("all of it");
        assert_eq!(posted.send().await.unwrap().json()["body"], true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_come_first_and_have_their_way() {
    let node = &*NODE.node().await;
    node.deploy("both", &Script::module(DECIDES)).await;
    set(
        node,
        "both",
        json!({ "rule": [
        { "name": "page", "when": { "path": "/after" }, "rewrite": "/theirs" },
        { "name": "gone", "when": { "path": "/throw" }, "redirect": "/elsewhere" },
    ] }),
    )
    .await;
    let told = get(node, "both", "/after", &[]).await.json();
    assert_eq!(told["variant"], "on");
    assert!(told["url"].as_str().unwrap().ends_with("/theirs"), "{told}");
    // A redirect is answered without a script.
    assert_eq!(get(node, "both", "/throw", &[]).await.status, 302);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_fails_decides_nothing() {
    let node = &*NODE.node().await;
    node.deploy("failing", &Script::module(DECIDES)).await;
    let token: Value =
        serde_json::from_str(&node.atoll(&["--json", "rules", "token"]).await.stdout).unwrap();
    set(
        node,
        "failing",
        json!({ "preview_token_sha256": token["preview_token_sha256"], "rule": [] }),
    )
    .await;
    let tail = TailSession::start(node, "failing");
    let listens = async || {
        get(node, "failing", "/variant", &[]).await;
        tail.output().contains("/variant").then_some(())
    };
    eventually("the tail listens", listens).await;
    let asks = [("atoll-explain", "1"), ("atoll-preview-token", token["token"].as_str().unwrap())];
    for (path, message) in [
        ("/throw", "TypeError: no idea"),
        ("/loop", "The rule handler exceeded its CPU time limit (limits.rule_cpu_ms)."),
        ("/never", "Worker exceeded wall time limit."),
        (
            "/wrong",
            "the decision cannot be used: varient: unknown key \"varient\": did you mean \"variant\"?",
        ),
    ] {
        let answer = get(node, "failing", path, &asks).await;
        assert_eq!(answer.status, 200, "{path}");
        let told = answer.json();
        assert_eq!(told["details"]["reason"], "ERROR", "{told}");
        assert_eq!(told["details"]["errorCode"], "GENERAL", "{told}");
        let explained = answer.header("atoll-explain");
        assert!(
            explained.starts_with("script: failed: ") && explained.contains(message),
            "{explained}"
        );
        let shown = async || tail.output().contains(&message.replace('"', "\\\"")).then_some(());
        eventually("the tail shows the failure", shown).await;
    }
    let fine = get(node, "failing", "/variant", &asks).await;
    assert_eq!(fine.header("atoll-explain"), "script=b (TARGETING_MATCH)");
    assert_eq!(get(node, "failing", "/variant", &[]).await.header("atoll-explain"), "");
    let metrics = node.metrics().await.unwrap();
    assert!(metrics.text().contains("rule_script_failures_total"), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_worker_decides_where_the_rules_say_so() {
    let node = &*NODE.node().await;
    node.deploy("judge", &Script::module("export default { rule: () => ({ variant: 'j' }) }"))
        .await;
    node.deploy("judged", &Script::module(DECIDES)).await;
    set(node, "judged", json!({ "script": "judge" })).await;
    assert_eq!(get(node, "judged", "/variant", &[]).await.json()["variant"], "j");
    set(node, "judged", json!({ "script": "nobody" })).await;
    let told = get(node, "judged", "/variant", &[]).await.json();
    assert_eq!(told["details"]["errorMessage"], "there is no worker \"nobody\" to decide");
}
